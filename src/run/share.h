/* SPDX-License-Identifier: MIT */
/*
 * share.h - which process has which part of a device's memory.
 *
 * A share is a piece of memory that all of them map. It says of each chunk (2 MiB of the device's memory) whose it is: the id of a process, which is its pid, when
 * it began, and a random number; or 0. An id never comes again. A process takes what is free, or was a dead process's; or it asks another, which brings home what
 * it has in a chunk, and hands it over. Nothing of this is locked between processes, and nothing is ever half done:
 *
 *   who            does                                       and if it is killed there
 *   a process      claims an entry of process[] (0 to id)     somebody finds that nobody has this id
 *                  takes a chunk (0 to id)                    the same
 *                  hands it over (its id to another's)        it is the other's, or still its own, and free because it is dead
 *                  leaves: its chunks, then its entry         what is left is free because it is dead
 *   who asks       puts its id into asked_by (0 to id)        it is answered, by a chunk of a dead process
 *   who looks      frees a dead process's chunks (its id       somebody looks again
 *                  to 0), then its entry
 *
 * So a word of owner[] is written by the process that it names, or by anybody if that is dead, or has no entry: an entry is claimed before the first chunk is
 * taken, and let go of after the last one. Whoever finds an owner without one has read the owner first, so it has left, and its id does not come back.
 *
 * A chunk that arrives after who asked has given up waiting is its own nevertheless: it is found when one is looked for the next time, or asked for by another.
 *
 * Nobody waits without a limit: who does not answer (a process that is stopped, or has executed something else) is not asked again for a while. Who asks has
 * fewer, by two at least, than who is asked, so that they do not take the same chunk from each other in turn; or that one has run nothing on the device lately.
 *
 * A process is dead if nobody has its pid, or the one who does began at another time, or all of its threads have ended; or it has executed something else since (its
 * stack begins elsewhere). That is only so within one namespace of pids, and of time: those of another one are refused.
 */
#ifndef TDM_RUN_SHARE_H
#define TDM_RUN_SHARE_H

#include "plat/plat.h"

#define TDM_SHARE_PROCESSES 64u
#define TDM_SHARE_CHUNKS_MAX (1u << 17)
#define TDM_SHARE_COLD_NS ((u64)1000000000) /* who has run nothing on the device for so long is asked first */

struct tdm_share_process {
	tdm_a64 id;       /* 0: nobody */
	tdm_a64 asked_by; /* who waits for a chunk of this one's; 0: nobody. From 0 by who asks; to 0 by who is asked, or who asked */
	tdm_a64 stack;    /* where its stack begins; 0: not known (yet). By itself; to 0 before the id is */
	tdm_a64 used_ns;  /* when it last used the device; its own. Of CLOCK_MONOTONIC */
	tdm_a32 running;  /* jobs of its that the device is carrying out; its own */
	tdm_a32 bell;     /* changes when it is asked: it sleeps on it */
	tdm_a32 news;     /* changes when it has been answered */
};

struct tdm_share {
	tdm_a64 magic;    /* written last */
	u64 namespaces[2]; /* of pids, and of time. Constant, as is nchunks */
	u32 nchunks;
	struct tdm_share_process process[TDM_SHARE_PROCESSES];
	tdm_a64 owner[];  /* of each chunk: an id, or 0 */
};

/* A process, of its share. Its threads call any of this at any time, but for coming and going. */
struct tdm_sharer {
	struct tdm_share *s;             /* NULL: not in one. Constant while it is, as are the next three */
	u64 id;
	struct tdm_share_process *me;
	u32 nchunks;
	struct plat_mutex lock;          /* a leaf, held for no longer than a look at all chunks */
	u8 *has;                         /* of each chunk: it has been taken in. The lock */
	tdm_a32 held;                    /* how many */
	tdm_a64 slow_until[TDM_SHARE_PROCESSES]; /* who has not answered is not asked before */
};

/* Bytes of a share of so many chunks. */
size_t tdmi_share_bytes(u32 nchunks);
/* Make one of memory that holds zeros, and that nobody else uses yet. -EINVAL: no chunks, or more than TDM_SHARE_CHUNKS_MAX; -EOPNOTSUPP: there is no /proc. */
int tdmi_share_init(struct tdm_share *s, u32 nchunks);

/* Become one of its processes. -EINVAL: it is none, or of another size; -EXDEV: of another namespace; -ENOSPC: there are TDM_SHARE_PROCESSES; -EOPNOTSUPP: there
 * is no /proc; -ENOMEM. */
int tdmi_share_join(struct tdm_sharer *me, struct tdm_share *s, u32 nchunks);
/* It uses none of its chunks any more: all are free. */
void tdmi_share_leave(struct tdm_sharer *me);
/* In the child of a fork: what its parent has is its parent's. */
void tdmi_share_forget(struct tdm_sharer *me);

/* The device begins, or ends, something for it. */
void tdmi_share_runs(struct tdm_sharer *me, bool begins);
/* A chunk that is free, has been handed to it, or was a dead process's. false: there is none. */
bool tdmi_share_take(struct tdm_sharer *me, u32 *chunk);
/* Ask somebody for one, and wait for the answer, until wait_ns from now at most. true: look again, whoever gets it; false: there is nobody to ask. */
bool tdmi_share_ask(struct tdm_sharer *me, u64 wait_ns);

/* Wait until somebody asks, or *stop is not 0 (and the bell has been rung: tdmi_share_ring()). His id, or 0. */
u64 tdmi_share_wait(struct tdm_sharer *me, const tdm_a32 *stop);
void tdmi_share_ring(struct tdm_sharer *me);
/* Hand a chunk over that it has, and uses no more. */
void tdmi_share_give(struct tdm_sharer *me, u32 chunk, u64 to);
/* He has been given what there was. */
void tdmi_share_answer(struct tdm_sharer *me, u64 to);

#endif
