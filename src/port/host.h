/* SPDX-License-Identifier: MIT */
/*
 * host.h - the host port: the live process, whose "TLB" is what the kernel has mapped for it.
 *
 * A userfaultfd event is a miss, UFFDIO_MOVE of a page to its home is an invalidation. One userfaultfd serves the program's memory and, as the
 * target of moves, the arena: the kernel then refuses to move a page away (-EAGAIN) as long as the program has changed its address
 * space in a way of which we have not read the event. That is what makes taking a page home safe.
 *
 * The arena cannot give pages back by madvise(MADV_DONTNEED): that would be announced to ourselves, and block. Unwanted pages are moved
 * on to the trash, a small area of another userfaultfd that announces nothing, and dropped from there, many at a time. Each move flushes the TLB of every
 * CPU that runs the program, though, so pages that lie here and there are dropped where they are, with the registration of their 2 MiB lifted meanwhile:
 * moves to there fail in that time, and are kept out by the event lock.
 */
#ifndef TDM_PORT_HOST_H
#define TDM_PORT_HOST_H

#include <linux/userfaultfd.h>
#include <sys/resource.h>
#include "mm/mm.h"
#include "port/maps_gate.h"
#include "port/port.h"

struct tdm_host_fault {
	u64 va;
	bool write;
	bool copy;   /* the page is there, and stores to it wait: see mm/cow.c, host_readonly.c */
	u32 tid; /* of the thread that waits */
};

#define TDM_HOST_PENDING 512u

struct tdm_host {
	struct tdm_port port;
	struct tdm_mm *mm;
	int uffd;       /* the program's memory and the arena; with events */
	int trash_uffd; /* the trash; without */
	int pagemap;    /* /proc/self/pagemap */
	int maps;       /* /proc/self/maps */
	int mem;        /* /proc/self/mem, or -errno: for host_readonly.c */
	int pid;        /* of this process */
	bool has_query; /* PROCMAP_QUERY works */
	bool has_poison;
	u8 *arena;
	u64 arena_len;
	u8 *trash;
	u8 *stage;      /* 2 MiB of memory that may be one page: see host_fresh_huge(); trash_lock */
	u64 beacon;     /* the last page of the arena, of which nobody uses the memory: what is done to it is a message (run/live_fork.c) */
	struct plat_mutex trash_lock;
	u32 trash_used; /* pages; trash_lock */
	/* Faults that were read while looking for events: the event lock. Whoever puts one there writes to kick_fd, an eventfd that those who
	 * serve faults poll besides uffd: no message announces it any more. */
	int kick_fd;
	struct tdm_host_fault pending[TDM_HOST_PENDING];
	u32 pending_head, pending_tail;
	/* A fork that nobody announced: called with the event lock held, and nothing can be filled. The descriptor is the callee's. */
	void (*forked)(void *arg, struct tdm_ctx *ctx, int child_uffd);
	void *forked_arg;
	struct tdm_maps_gate *gate; /* or NULL: nobody tells when the program changes its mappings */
};

/* Open a userfaultfd that serves kernel accesses too and has the features that we need. Its number or -errno; err: one line for the user. */
int tdmi_host_open_uffd(char *err, size_t errlen);
/* Make the port: opens its descriptors (in the calling thread's table), takes uffd over. The last 2 MiB of the arena are not for frames. */
int tdmi_host_init(struct tdm_host *h, int uffd, void *arena, u64 arena_len);
/* In the child of fork(2), uffd is its own, everything else is inherited memory: open descriptors anew. */
int tdmi_host_after_fork(struct tdm_host *h, int uffd);
void tdmi_host_close(struct tdm_host *h);

/* The next fault to serve, taking in events on the way. false: nothing to read now. The event lock is held. */
bool tdmi_host_read(struct tdm_host *h, struct tdm_ctx *ctx, struct tdm_host_fault *out);
/* Read what there is: events are taken in, faults kept for tdmi_host_read(). The event lock is held. */
void tdmi_host_drain(struct tdm_port *p, struct tdm_ctx *ctx);
/* Take in one event that was read raw (no fault, no fork). The event lock is held. */
void tdmi_host_event(struct tdm_host *h, struct tdm_ctx *ctx, const struct uffd_msg *m);
/* Is the going of somebody still to be read, who was at [start, end) before whoever is there now? The event lock is held. */
bool tdmi_host_awaited(struct tdm_host *h, u64 start, u64 end);
/* An UNMAP of which only that is known to be true here which was expected. The event lock is held. */
void tdmi_host_left(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end);
/* What is served, and has not been found yet, has a VMA from now on. The event lock is held. */
void tdmi_host_know_served(struct tdm_host *h, struct tdm_ctx *ctx);
/* Whoever waits to leave has left. The event lock is held. */
void tdmi_host_forget_limbo(struct tdm_host *h, struct tdm_ctx *ctx);
/* One message, raw; for the time of a fork. 1, 0 (nothing), or -errno. */
int tdmi_host_read_msg(int uffd, struct uffd_msg *msg);

/* Those who serve faults look at what is pending. */
void tdmi_host_kick(struct tdm_host *h);

/*
 * A program may have allowed itself a handful of descriptors. Ours have a table of their own, but the limit is on numbers, and the process's: raise
 * it for a moment. Another thread of the program's could see that if it looked.
 */
void tdmi_host_fds_raise(struct rlimit *was);
void tdmi_host_fds_restore(const struct rlimit *was);

/* UFFDIO_COPY through any userfaultfd, and back out of the way. Pages done in *done. */
int tdmi_host_copy(int uffd, u64 va, const void *src, u32 n, u32 *done);
int tdmi_host_wake(int uffd, u64 va, u64 len);
/* Have stores to mapped pages wait, through any userfaultfd, or let them go on. 0 or -errno of the kernel. */
int tdmi_host_protect(int uffd, u64 va, u64 len, bool on);
/* Have a message come on the userfaultfd of the address space in which this is called, and wait until it is read. */
void tdmi_host_call(struct tdm_host *h);
/* Is there still anybody in the address space of a child that uffd serves? */
bool tdmi_host_alive(struct tdm_host *h, int uffd);
/* Nobody serves what is missing there any more: it reads as zeros. */
void tdmi_host_let_go(int uffd);

/* Give [start, end) to the port / take it back. 0 or -errno of the kernel (-EBUSY: somebody else's userfaultfd). */
int tdmi_host_register(struct tdm_host *h, u64 start, u64 end);
/* The port serves no faults there, but is told of what becomes of the mapping. */
int tdmi_host_register_events(struct tdm_host *h, u64 start, u64 end);
int tdmi_host_unregister(struct tdm_host *h, u64 start, u64 end);

/* Does the page at va belong to a mapping that is registered with uffd? 0; -ENOENT: it does not; -EAGAIN: the kernel does not say while the address space
 * is changing. */
int tdmi_host_registered(int uffd, u64 va);
/* Has the program's address space changed in a way that we have not been told of yet? */
bool tdmi_host_changing(struct tdm_host *h);

/* Threads of the process that run, of those that there were at a moment. See host_threads.c. */
#define TDM_UNDERWAY_MAX 512u
struct tdm_underway {
	u32 n;
	bool all;  /* no more than fit here */
	u64 by;    /* nobody waits for them beyond this time, in ns */
	struct tdm_underway_thread {
		u32 tid;
		u64 ran; /* ns until then */
	} thread[TDM_UNDERWAY_MAX];
};
void tdmi_host_underway(struct tdm_host *h, struct tdm_underway *u);
/* Whoever of them had changed a mapping before has queued his event since; or time is up. */
bool tdmi_host_underway_done(struct tdm_host *h, struct tdm_underway *u);
/* Both: everybody who has changed a mapping until now has queued his event at the end. */
void tdmi_host_let_queue(struct tdm_host *h);

/* See struct tdm_port_ops. */
int tdmi_host_unshare_readonly(struct tdm_port *p, struct tdm_va va, u32 n);
int tdmi_host_invalidate_readonly(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done);
void tdmi_host_refused(struct tdm_port *p, struct tdm_ctx *ctx, struct tdm_va va);

/* A mapping of the process. */
struct tdm_mapping {
	u64 start, end;
	u64 page_size; /* 0: the kernel does not say */
	bool readable, writable, executable, shared, file; /* file: has an inode */
	char name[32];                         /* "[heap]", "[stack]", "" ... */
};
/* The mapping that holds addr, or the next one. 0, -ENOENT past the last. */
int tdmi_host_mapping(struct tdm_host *h, u64 addr, struct tdm_mapping *m);

#endif
