/* SPDX-License-Identifier: MIT */
/*
 * live.h - the engine in the process that it manages.
 *
 * Threads, all the engine's own (plat/linux/thread.c), with a descriptor table that the program does not see:
 *   main      watches how much memory the process has, engages the engine when it nears its limit, finds new memory, makes room ahead of need,
 *             carries out requests, and serves faults alone for the time of a fork
 *   handlers  one a CPU, pinned: serve faults (live_handlers.c)
 * Before it is engaged a process has only the first, which looks now and then: a program that fits its budget pays for nothing else.
 *
 * The program's threads never run engine code that takes a lock: what they want (the public API, fork) is a request, written into engine memory,
 * carried out by main, and waited for on a futex. A program's thread that waits may be evicted to the last page.
 */
#ifndef TDM_RUN_LIVE_H
#define TDM_RUN_LIVE_H

#include <linux/userfaultfd.h>
#include <tandem/tandem.h>
#include "mm/mm.h"
#include "plat/linux/linux.h"
#include "port/host.h"
#include "run/control.h"
#include "run/device.h"

#define TDM_LIVE_HANDLERS 16u
#define TDM_LIVE_BEFORE 512u
#define TDM_LIVE_JOURNAL 8192u
#define TDM_LIVE_DEFERRED 4096u
#define TDM_LIVE_BIRTHS 32u

enum tdm_live_state {
	TDM_LIVE_WATCHING, /* main thread only */
	TDM_LIVE_ENGAGING,
	TDM_LIVE_ENGAGED,
	TDM_LIVE_FORKING,  /* watching, and a fork goes on */
	TDM_LIVE_FAILED,   /* could not be engaged: the program runs unmanaged, and was told so */
};

enum tdm_live_op {
	TDM_OP_ENGAGE,
	TDM_OP_STOP,
	TDM_OP_STATS,
	TDM_OP_BUDGET,
	TDM_OP_OUT,
	TDM_OP_HOME,
	TDM_OP_IN,
	TDM_OP_EXCLUDE,
	TDM_OP_PUBLISH,
	TDM_OP_FIND,
	TDM_OP_VMA,
	TDM_OP_MAPPED,
	TDM_OP_SETTLE,
	TDM_OP_LOCK_ALL,
	TDM_OP_NO_RECYCLE,
	TDM_OP_CALL,
	TDM_OP_FORK_AHEAD,
	TDM_OP_FORK_PREPARE,
	TDM_OP_FORK_PARENT,
};

struct tdm_live;

struct tdm_request {
	enum tdm_live_op op;
	u64 a, b;      /* arguments */
	u64 out;       /* a number back */
	int result;
	tdm_a32 state; /* 0 free, 1 posted, 2 done */
	char err[240];
	struct tdm_stats stats;
};

/* What TDM_OP_CALL has main do: a is the function, b its argument, the result the request's. What it starts has main's descriptors. */
typedef int tdm_live_call(struct tdm_live *l, void *arg);

struct tdm_range {
	u64 start, end;
};

/* An event that came while the engine stood still. */
struct tdm_frozen_event {
	struct uffd_msg msg;
	s32 of;                        /* the child that did it, an index into birth[]; -1: the parent */
	u32 in_child;                  /* bits, one for each child: it happened before that one was copied, or is its own */
	u32 judged;                    /* bits: while that is being found out */
};

/* A child of which no more is known than that it is one. */
struct tdm_birth {
	int uffd;                      /* -1: it has got what is its */
	u32 n;                         /* events that had been read before its own was */
	u32 judged;                    /* so many can have happened in it */
	bool told;                     /* what happened before has all been read */
	bool called;                   /* it has said that it is the one that was announced */
};

/* See live_frozen.c. Main's; while the engine does not stand still, that of whoever holds the event lock. */
struct tdm_frozen {
	struct tdm_ctx *ctx;           /* of whoever uses this */
	struct tdm_frozen_event *event;
	u32 n;
	u32 nbirths;
	struct tdm_birth birth[TDM_LIVE_BIRTHS];
	u32 njournal;
	struct tdm_restored {
		u64 va;
		u32 after;             /* so many events */
	} journal[TDM_LIVE_JOURNAL];   /* pages restored without a change of the table */
	u32 ndeferred;
	u64 deferred[TDM_LIVE_DEFERRED]; /* faults that cannot be served before a pending event is read */
};

struct tdm_live {
	/* configuration: constant */
	u64 budget;
	bool strict;
	u32 ntiers;
	char tier[TDM_CONTROL_TIERS][120];
	struct tdm_control *control; /* or NULL: a process of its own */
	int slot;                    /* in the control segment, or -1 */

	tdm_a32 state;               /* enum tdm_live_state */
	tdm_a32 wake;                /* main sleeps on it; 1: it is to look */
	tdm_a32 started;             /* main has seen what was there before: 1; 2: it could not, and has ended */
	struct plat_thread *main;
	u32 pid;

	struct plat_mutex req_lock;  /* the program's threads only: one request at a time */
	struct tdm_request req;

	/* memory that was there before us, or is to be left alone: main's */
	struct tdm_range before[TDM_LIVE_BEFORE];
	u32 nbefore;

	/* engaged; main's, but for what the handlers read */
	struct tdm_mm mm;
	struct tdm_host host;
	struct tdm_swap *swap;
	struct tdm_ctx *ctx;         /* main's */
	struct tdm_handler {
		struct tdm_live *live;
		struct plat_thread *thread;
		struct tdm_ctx *ctx;
		u32 cpu;
		int epoll;
		bool active;         /* under lead */
		s32 backlog, futile; /* its own; averages */
		u32 stand_in;        /* its own: who serves while it waits */
	} handler[TDM_LIVE_HANDLERS];
	u32 nhandlers;
	u8 *arena;
	u64 arena_len;
	tdm_a32 stop;                /* handlers end */
	tdm_a32 nready;              /* handlers that have begun */
	int stop_fd;                 /* an eventfd that they poll besides */
	struct plat_mutex lead;      /* the next four; see live_handlers.c */
	tdm_a64 lead_next_ns;        /* when to look at where faults happen; may be read without */
	u32 lead_last;               /* the CPU that was seen then */
	u32 leader;                  /* of the handlers, who is woken first */
	u32 nactive;

	bool interposed;             /* constant: the gate is used */
	struct tdm_maps_gate gate;   /* the program's threads, and whoever holds the event lock */
	struct tdm_keep keep;        /* any thread: mm/keep.h */
	u64 threads_next_ns;         /* main's: when to look for threads */

	/* measuring; main's */
	int statm;
	u64 usage, peak, limit;     /* of the peak only what was measured, see share.gone */
	tdm_a64 shared;              /* of the resident set: others' part of it, as last measured */
	struct {
		u64 all, anon;       /* bytes that were others' when it was measured; of these in anonymous memory */
		u64 shared;          /* anonymous bytes of which those were others' part */
		u64 rss, faults, family; /* what the counters said then; see live_shared.c */
		u64 births;          /* what the counter said then */
		bool forked;         /* this process has forked since */
		u64 told;            /* of our copies since then: those that have been told of */
		u64 gone;            /* bytes that are taken not to be others' any more */
		u64 next_ns, soon_ns; /* when to measure again; if there is reason to */
	} share;
	tdm_a64 look_by_ns;          /* main means to have looked by then; any thread. 0: it has not looked yet */
	u64 over_since_ns;           /* above the limit with nothing left to move since then; 0: no */
	u64 other_seen;              /* unmanaged bytes when memory was last looked for */
	u64 published_ns;
	u64 quiet;                   /* ticks in a row in which nothing happened */
	u64 migrated, recycle_next_ns; /* pages that had gone to devices, or come from there, when that was last looked at; when to look again */
	u32 recycle_quiet;           /* looks since they moved */
	u64 recycle;                 /* blocks that may be kept for those that come back from devices */
	struct {
		tdm_a32 all;         /* everything is watched */
		tdm_a64 usage, passed; /* bytes: as last measured; stores that went ahead since then, with all of their blocks */
		tdm_a64 guessed;       /* of the former: see live_shared.c */
		tdm_a32 wanted;        /* main is to evict, whatever this process may use: somebody waits for room that others do not make */
		tdm_a32 futile;        /* waits for room in a row that were in vain */
	} copies;                    /* live_copies.c; any thread of the engine's */
	struct {
		tdm_a64 live, fresh; /* bytes */
		tdm_a64 most_live, most_fresh; /* who makes it more than that waits for a look; main's */
		tdm_a32 looks;       /* that somebody has asked for, so far; main's */
		u64 start;           /* usage when it was first looked at; main's */
	} mapped;                    /* live_mapped.c */
	bool warned_full, warned_over;
	bool no_recycle;             /* the program lends its pages to the kernel: see interpose.c */

	/* Main's. A slot is never given back, so that a device's address says whose exclusive pages these are; see device.h. */
	struct tdm_device *device[TDM_DEVICES_MAX];
	tdm_a32 ndevices;            /* that are attached, and here; main's, read by the program's threads */
	struct {
		struct plat_thread *thread;
		tdm_a32 stop;
		struct plat_mutex lock;  /* main writes device[] and what is constant of a device with it */
	} watch;                     /* device_watch.c; main's, but for the lock */

	/* forking; see live_fork.c */
	tdm_a32 forking;             /* somebody has req_lock for it; under that */
	tdm_a64 fork_most;           /* of more than that, in bytes, there must not be a copy before the process is managed; main's */
	bool fork_announced;         /* frozen for it; req_lock */
	int fork_sock;               /* main's end, in the program's descriptor table */
	int fork_peer;               /* the child's end, likewise */
	int fork_errno;              /* the program's */
	bool fork_failed;            /* perhaps: see tdmi_live_fork_parent() */
	struct rlimit fork_fds;      /* the program's limit of descriptors, raised for that time */
	tdm_a32 child_ready;         /* in the child: taken over */
	struct tdm_frozen frozen;
	tdm_a64 forks;
};

/* The one of this process; NULL: none. Each library has its own: */
extern struct tdm_live *tdmi_live;
/* Is this process managed by the preloaded library? Defined there, and nowhere else. */
__attribute__((weak)) int tandem_run_manages(void);

struct tdm_live_config {
	u64 budget;                  /* bytes, 0: none */
	bool strict;
	u32 ntiers;
	const char *const *tier;
	struct tdm_control *control; /* or NULL */
	bool eager;                  /* engage at once */
	bool interposed;             /* interpose.c sees what the program does to its mappings */
};

/* Start in this process. Called on a program's thread. 0 or -errno, err: one line. */
int tdmi_live_start(const struct tdm_live_config *config, char *err, size_t errlen);
/* Ask main to do something, and wait. Called on a program's thread. */
int tdmi_live_request(struct tdm_live *l, enum tdm_live_op op, u64 a, u64 b, u64 *out);
/*
 * The same in parts, for who has something to do that no fork and no request may come into. Signals are blocked meanwhile: their handlers may fork, or
 * ask for something themselves.
 */
void tdmi_live_request_begin(struct tdm_live *l, u64 *signals);
void tdmi_live_request_end(struct tdm_live *l, const u64 *signals);
int tdmi_live_request_locked(struct tdm_live *l, enum tdm_live_op op, u64 a, u64 b, u64 *out);
/* TDM_OP_CALL. */
int tdmi_live_call(struct tdm_live *l, tdm_live_call *fn, void *arg);
/* Bring everything back, end the threads. */
int tdmi_live_stop(struct tdm_live *l, char *err, size_t errlen);

/* ---- between live.c and its neighbours */
void tdmi_live_main(void *arg);
/* Main is to look, now or as soon as it has looked. Costs a system call only for the first of those who ask in the same look. Any thread. */
void tdmi_live_nudge(struct tdm_live *l);
/* Main: measure what is in use, and say so to those who share the budget. */
void tdmi_live_weigh(struct tdm_live *l);
/* live_engage.c: on the main thread. */
int tdmi_live_engage(struct tdm_live *l, char *err, size_t errlen);
/* live_handlers.c. On failure there may be some: stop them. */
int tdmi_live_start_handlers(struct tdm_live *l);
void tdmi_live_stop_handlers(struct tdm_live *l);
int tdmi_live_disengage(struct tdm_live *l);
/* live_threads.c: the calling thread, and all that there are. */
void tdmi_live_note_thread(struct tdm_live *l);
void tdmi_live_note_threads(struct tdm_live *l);
/* live_find.c */
int tdmi_live_note_before(struct tdm_live *l); /* or -errno: nothing can be managed then, it might be what we depend on */
void tdmi_live_find(struct tdm_live *l);
void tdmi_live_forget_unregistered(struct tdm_live *l);
int tdmi_live_exclude(struct tdm_live *l, u64 start, u64 end);
/* The VMA that holds `at`, if it is of a kind that can be managed: *out is where it ends, and in the bits of the offset what it is: VMAs with the same bits are
 * alike. 0, -ENOENT, or -errno. */
int tdmi_live_vma(struct tdm_live *l, u64 at, u64 *out);
/* mlock2(2) every mapping that is not ours. */
int tdmi_live_lock_all(unsigned flags);
/*
 * live_mapped.c. On the program's threads: `len` bytes have been mapped (private, anonymous, writable) / unmapped. The former waits if need be until main has looked.
 */
void tdmi_live_mapped(struct tdm_live *l, u64 len);
void tdmi_live_unmapped(struct tdm_live *l, u64 len);
/* Main: with `usage` bytes in use, what there would be if all that has been mapped were used. Memory is looked for from now on. */
u64 tdmi_live_mapped_ahead(struct tdm_live *l, u64 usage);
/* Main: nobody waits as long as that would be no more than `most`; as long as no more than `most` is mapped. */
void tdmi_live_mapped_watch(struct tdm_live *l, u64 usage, u64 most);
void tdmi_live_mapped_manage(struct tdm_live *l, u64 most);
/* Main: TDM_OP_MAPPED is done; those who have come meanwhile ask again. */
void tdmi_live_mapped_found(struct tdm_live *l);
/* In the child of a fork, which has no other thread: what is inherited is not what is counted here. */
void tdmi_live_mapped_child(struct tdm_live *l);
/* live_fork.c: around fork(2), on the forking thread, and main's side of it. */
void tdmi_live_fork_prepare(void);
void tdmi_live_fork_parent(void);
void tdmi_live_fork_child(void);
void tdmi_live_fork_serve(struct tdm_live *l);
void tdmi_live_child_takeover(struct tdm_live *l);
/* live_frozen.c, live_frozen_judge.c, live_frozen_give.c: the engine stands still from begin to end. */
void tdmi_frozen_begin(struct tdm_live *l);
/* Give the list back. No fork is under way, or will be. */
void tdmi_frozen_destroy(struct tdm_live *l);
/* Serve and note what there is to read; after a fork's message, which adds to birth[], no further. 0 or -errno of the read. */
int tdmi_frozen_read(struct tdm_live *l);
/* Nothing that happened before b was born is on its way any more: which of the events so far happened in it? Before its faults are read. */
void tdmi_frozen_judge(struct tdm_live *l, struct tdm_birth *b);
/* Serve b, which has been judged, and note what it does. */
void tdmi_frozen_read_child(struct tdm_live *l, struct tdm_birth *b);
/* b runs no code of ours: it is given all that is out as it has it, and let go. */
void tdmi_frozen_give(struct tdm_live *l, struct tdm_birth *b);
void tdmi_frozen_end(struct tdm_live *l);
/* In the child whose index was `birth`, of the list: what happened in it. */
void tdmi_frozen_take(struct tdm_live *l, const struct tdm_frozen_event *event, u32 n, u32 birth);
/* A fork that nobody has announced (tdm_host.forked). */
void tdmi_live_raw_fork(void *arg, struct tdm_ctx *ctx, int child_uffd);
/* live_shared.c. Main: how much of the rss bytes that are resident is other processes'. */
u64 tdmi_live_shared(struct tdm_live *l, u64 rss);
/* Is most of what is resident shared with at least one other process, as after a fork? As last measured. Main only. */
bool tdmi_live_shared_mostly(const struct tdm_live *l);
/* In the child of a fork: nothing is known of that. */
void tdmi_live_shared_child(struct tdm_live *l);
/* live_copies.c. Main: before a fork, with nobody in the mm; after it has measured. */
void tdmi_live_copies_watch(struct tdm_live *l);
void tdmi_live_copies_measured(struct tdm_live *l);
/* A handler, inside the mm: a store to va waits, which may be to what is shared. */
void tdmi_live_copy(struct tdm_live *l, struct tdm_ctx *ctx, u64 va);
/* live_stats.c */
/* The resident set, bytes, by any thread of the engine's; 0: not to be had. */
u64 tdmi_live_resident(struct tdm_live *l);
u64 tdmi_live_rss(struct tdm_live *l);
/* Main looks at the latest `ns` from now. */
void tdmi_live_look_by(struct tdm_live *l, u64 ns);
/* A handler, inside the mm: if main is late, look in its place. */
void tdmi_live_look_late(struct tdm_live *l, u64 now);
void tdmi_live_publish(struct tdm_live *l);
void tdmi_live_stats(struct tdm_live *l, struct tdm_stats *s);

#endif
