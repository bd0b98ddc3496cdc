/* SPDX-License-Identifier: MIT */
/*
 * control.h - the memory that `tandem run` and the processes under it share.
 *
 * `tandem run` creates one segment (a memfd), fills the configuration in and puts its name, /proc/<its pid>/fd/<n>, into the environment
 * (TANDEM_CONTROL). Every managed process maps it when it starts, takes a slot, and keeps its own line there up to date. Nothing else
 * passes between processes: the budget is divided by every process reading all lines and applying the same rule (tdmi_control_share()).
 *
 * Who writes what: the configuration is written once before any process starts. A slot is claimed by a compare-and-swap of pid from 0,
 * then written by its owner alone. When the owner has died without freeing it (SIGKILL), `tandem run`, or whoever sees
 * that the pid is gone (start_ticks differs), adds the slot's totals to `dead` and frees it, under reap_lock (pid of the holder, 0: free).
 * Readers take what they find: each number is atomic, their sum is a snapshot to within a poll.
 */
#ifndef TDM_RUN_CONTROL_H
#define TDM_RUN_CONTROL_H

#include "base/atomic.h"

#define TDM_CONTROL_ENV "TANDEM_CONTROL"
#define TDM_CONTROL_MAGIC 0x314d444e41544454ull
#define TDM_CONTROL_VERSION 3u
#define TDM_CONTROL_SLOTS 1024u
#define TDM_CONTROL_TIERS 8u
#define TDM_CONTROL_MSGS 64u

/* Totals of a process, in the order of TDM_STAT_NAMES; all u64. */
enum tdm_stat {
	TDM_STAT_SOFT_FAULTS,
	TDM_STAT_HARD_FAULTS,
	TDM_STAT_ZERO_FAULTS,
	TDM_STAT_OTHER_FAULTS,
	TDM_STAT_SOFT_PAGES,
	TDM_STAT_HARD_PAGES,
	TDM_STAT_ZERO_PAGES,
	TDM_STAT_HOME_PAGES,
	TDM_STAT_EVICTED_PAGES,
	TDM_STAT_REFAULTS,
	TDM_STAT_DIRECT_RECLAIMS,
	TDM_STAT_STALLS,
	TDM_STAT_STALL_NS,
	TDM_STAT_FAULT_NS,
	TDM_STAT_OVER_BUDGET,
	TDM_STAT_FORKS,
	TDM_STAT_OUT_BYTES_TOTAL,    /* evicted, before packing, since the start */
	TDM_STAT_PACKED_BYTES_TOTAL, /* the same, packed, since the start */
	TDM_STAT_IN_BYTES_TOTAL,     /* restored, unpacked, since the start */
	TDM_STAT_SAME_FILLED,
	TDM_STAT_INCOMPRESSIBLE,
	TDM_STAT_UNCHANGED, /* pages that were not packed again */
	TDM_STAT_DEMOTED_BLOBS,
	TDM_STAT_LOST,               /* pages that vanished, and read as zeros */
	TDM_STAT_POISONED,           /* pages that could not be read back: a touch ends in SIGBUS */
	TDM_STAT_LATE_DROPS,         /* zeros that went with what the program dropped */
	TDM_STAT_LATENCY0,           /* 32 buckets: faults served in less than 2^(i+8) ns */
	TDM_STAT_NR = TDM_STAT_LATENCY0 + 32,
};

/* What a process uses now. */
enum tdm_gauge {
	TDM_GAUGE_USAGE,    /* bytes, as the kernel measures it (RSS corrected to Pss) */
	TDM_GAUGE_LIMIT,    /* its share of the budget, bytes */
	TDM_GAUGE_MANAGED,  /* resident managed memory, bytes */
	TDM_GAUGE_HOME,     /* of these on probation */
	TDM_GAUGE_OUT,      /* bytes of pages that are in tiers */
	TDM_GAUGE_PACKED,   /* the same, packed */
	TDM_GAUGE_POOL,     /* memory of memory tiers */
	TDM_GAUGE_DISK,     /* file space of file tiers */
	TDM_GAUGE_OVERHEAD, /* the engine's tables */
	TDM_GAUGE_PINNED,   /* pages that could not be taken */
	TDM_GAUGE_GUESSED,  /* of the usage: what may have become this process's own since that was measured, bytes */
	TDM_GAUGE_NR,
};

struct tdm_control_slot {
	tdm_a32 pid;      /* 0: free */
	tdm_a32 managed;  /* 1: the engine has been started in it (it has come near its share) */
	tdm_a64 ahead;     /* bytes that its engine is about to take, and not part of its usage yet */
	tdm_a64 looked_ns; /* when usage was last measured, CLOCK_MONOTONIC; 0: never */
	tdm_a64 start_ticks; /* field 22 of /proc/pid/stat: tells a recycled pid */
	tdm_a64 gauge[TDM_GAUGE_NR];
	tdm_a64 stat[TDM_STAT_NR];
	tdm_a64 tier_out[TDM_CONTROL_TIERS]; /* packed bytes put into tier i since the start */
	tdm_a64 tier_in[TDM_CONTROL_TIERS];  /* packed bytes read back from tier i */
	tdm_a64 tier_now[TDM_CONTROL_TIERS]; /* packed bytes in tier i now */
	char comm[16];
};

struct tdm_control_msg {
	tdm_a32 ready; /* TDM_MSG_*: 0 free, 1 text is complete, 2 being written */
	u32 pid;
	char text[248];
};

struct tdm_control {
	/* configuration: constant once the first process runs */
	u64 magic;
	u32 version;
	u32 size; /* sizeof(struct tdm_control) */
	u64 budget; /* bytes for the whole tree */
	u32 strict;
	u32 ntiers;
	char tier[TDM_CONTROL_TIERS][120]; /* specs, validated */
	char preload[256]; /* path of the preloaded library, for exec with a changed environment */
	u32 supervisor; /* pid of tandem run */
	/* state */
	tdm_a32 reap_lock;
	tdm_a32 slots_used; /* high-water mark of slot indices + 1 */
	tdm_a64 peak;       /* largest sum of usages seen by anyone, without what was guessed, bytes */
	tdm_a64 copied;     /* bytes that forks had shared, and that have been copied since, by all processes together, at most (live_shared.c) */
	tdm_a64 births;     /* forks whose child has taken a slot: what processes share is shared by more */
	tdm_a64 procs;      /* processes that ever took a slot */
	tdm_a64 unmanaged;  /* processes that could not be managed (no slot, engine failed to start) */
	tdm_a64 dead[TDM_STAT_NR]; /* totals of processes that have ended */
	tdm_a64 dead_tier_out[TDM_CONTROL_TIERS], dead_tier_in[TDM_CONTROL_TIERS];
	/* messages for the user, printed by tandem run: a writer takes next, fills msg[next % N] if it is not ready, sets ready */
	tdm_a32 msg_next;
	struct tdm_control_msg msg[TDM_CONTROL_MSGS];
	struct tdm_control_slot slot[TDM_CONTROL_SLOTS];
};

/* What the supervisor itself needs of the budget; the rest is for the processes. Measured: below 1 MiB of Pss (tests/cmd). */
#define TDM_CONTROL_RESERVE ((u64)1 << 20)
/* So much a process may always have of its share: what its engine takes, and what one instruction needs. */
#define TDM_CONTROL_LEAST ((u64)4 << 20)
#define TDM_CONTROL_SILENT_NS ((u64)1000000000)
#define TDM_BUDGET_MIN ((u64)8 << 20)

enum tdm_msg_state { TDM_MSG_FREE, TDM_MSG_READY, TDM_MSG_WRITING };

/* Whether the process that a slot names still exists: pid, with this start time (0: not known yet, any). arg is the caller's. */
typedef bool tdm_control_alive_fn(void *arg, u32 pid, u64 start_ticks);

/* Every slot in use and everything that has ended, added up. */
struct tdm_control_totals {
	u64 stat[TDM_STAT_NR];
	u64 gauge[TDM_GAUGE_NR];
	u64 tier_out[TDM_CONTROL_TIERS], tier_in[TDM_CONTROL_TIERS], tier_now[TDM_CONTROL_TIERS];
	u32 live;    /* processes with a slot */
	u32 managed; /* of these with an engine */
};

/*
 * The functions below work on the segment alone: no system call, no allocation, no lock but reap_lock (which is only ever tried), a few
 * hundred bytes of stack. Any thread of any process under the command may call them at any time.
 */

/* Is this a segment of our version, mapped with len bytes? 0; -EINVAL: no; -EPROTO: of another version. */
int tdmi_control_check(const struct tdm_control *c, size_t len);

/* Take a slot for the calling process, or the one that it had before exec (its totals go to `dead`). comm may be unterminated at 16 bytes.
 * The index, or -ENOSPC (counted in c->unmanaged). */
int tdmi_control_claim(struct tdm_control *c, u32 pid, u64 start_ticks, const char *comm);

/* Give one's own slot back; its totals go to `dead`. */
void tdmi_control_release(struct tdm_control *c, u32 slot);

/* Free the slots whose process does not exist any more, on behalf of process self. The number freed; 0 too when somebody else is at it. */
u32 tdmi_control_reap(struct tdm_control *c, u32 self, tdm_control_alive_fn *alive, void *arg);

/* What a process uses, without what is guessed: for people. */
u64 tdmi_control_measured(const struct tdm_control_slot *s);
/* Bytes that all processes use now, at most; the largest sum of what was measured is kept in c->peak. */
u64 tdmi_control_usage(struct tdm_control *c);

/* Bytes that the process in this slot may use: its max-min fair share of the budget less the reserve. A process asks for what it uses
 * plus room to grow (an eighth and 1 MiB). Whoever asks for less than an equal share gets it, the others divide the rest equally; what nobody
 * asks for is divided equally. The shares of one snapshot never add up to more than there is. */
u64 tdmi_control_share(const struct tdm_control *c, u32 slot);

/*
 * A share is a promise: what it is made of may still be in use by others, who have lost it by a birth and give it back as fast as they can. What of its share a
 * process may take now: what it uses, and an equal part of what is really free. Never more than the share, and never less than TDM_CONTROL_LEAST of it.
 * Who has not measured for TDM_CONTROL_SILENT_NS (it is stopped, say) is waited for no longer: of what it uses no more than an equal part of the budget is counted.
 * now_ns: CLOCK_MONOTONIC.
 */
u64 tdmi_control_grant(const struct tdm_control *c, u32 slot, u64 now_ns);

/* Is what the process in this slot uses within its share, and what all use within the budget less the reserve? By the same rules. */
bool tdmi_control_fits(const struct tdm_control *c, u32 slot, u64 now_ns);

void tdmi_control_totals(const struct tdm_control *c, struct tdm_control_totals *out);

/* The time in ns below which a fraction num/den of the faults was served, interpolated in its bucket; 0 without faults. */
u64 tdmi_latency_ns(const u64 *latency, u64 num, u64 den);

/* A line for the user, printed by the command as "tandem: program[pid]: text". False: the ring is full, the line is lost. */
bool tdmi_control_say(struct tdm_control *c, u32 pid, const char *text);

/* The next line, oldest first: *cursor is the reader's and starts at 0. There is one reader. False: none. */
bool tdmi_control_hear(struct tdm_control *c, u32 *cursor, u32 *pid, char text[248]);

#endif
