/* SPDX-License-Identifier: MIT */
/*
 * rcu.h - readers that take no lock, and memory that is freed when no reader can still see it.
 *
 * A domain counts grace periods in `gp`. A reader that enters a section publishes the number that it saw in its own slot, and 0 when it
 * leaves. Whoever unlinked something draws a new number; when every slot holds 0 or a number not below that one, no reader has it.
 *
 * Why this is right without a fence: entering is an exchange on the slot, and whoever looks at a slot does so by a read-modify-write too,
 * so the two are ordered. If the look comes first, the reader has seen what preceded it: the unlinking. If the entry comes first, the
 * look finds it and waits, unless its number says that the reader has seen the unlinking (gp is drawn by a release, read by an acquire).
 *
 * Who may run at the same time as whom, on one domain ("-": freely, "S": not from the same thread, "X": the caller excludes it):
 *
 *                     read section   call   poll   synchronize, drain   (un)register   reset, init
 *   read section           -          -      -             S                  -             X
 *   call                   -          -      -             -                  -             X
 *   poll                   -          -      -             -                  -             X
 *   synchronize, drain     S          -      -             -                  -             X
 *   (un)register           -          -      -             -                  -             X
 *
 * A reader (the handle) belongs to one thread. A callback runs on the thread that calls poll or drain, outside of every lock, and may call
 * anything but drain and synchronize. poll() inside a read section is allowed, but what it waits for may be its own thread.
 */
#ifndef TDM_BASE_RCU_H
#define TDM_BASE_RCU_H

#include "plat/plat.h"

#define TDM_RCU_READERS 64u

struct tdm_rcu;

struct tdm_rcu_reader {
	tdm_a64 epoch;       /* 0: outside; written by the owner (and by reset) */
	u64 nesting;         /* the owner's alone */
	struct tdm_rcu *rcu; /* written by init */
	tdm_a32 used;        /* 1: registered; claimed by compare-and-swap */
} __attribute__((aligned(64)));

/* Embedded in what is to be freed. Readers do not look at it. */
struct tdm_rcu_head {
	struct tdm_rcu_head *next;
	void (*fn)(struct tdm_rcu_head *head, void *ctx);
	void *ctx;
};

struct tdm_rcu_batch {
	struct tdm_rcu_head *first, **last;
};

struct tdm_rcu {
	struct tdm_rcu_reader reader[TDM_RCU_READERS];
	tdm_a64 gp;                 /* the last number drawn; starts at 1 */
	tdm_a32 high;               /* slots at and above this were never registered; only grows */
	tdm_a32 pending;            /* callbacks that are not over */
	struct plat_mutex lock;     /* rank TDM_RANK_RCU; guards what follows */
	struct tdm_rcu_batch next;  /* called since `wait` was closed */
	struct tdm_rcu_batch wait;  /* waits for the grace period `target` */
	u64 target;
};

void tdmi_rcu_init(struct tdm_rcu *rcu);

/* NULL: all slots are taken. */
struct tdm_rcu_reader *tdmi_rcu_register(struct tdm_rcu *rcu);
/* The reader is outside of every section. */
void tdmi_rcu_unregister(struct tdm_rcu_reader *r);

/* Sections nest. What was reached in a section must not be used after it. Nothing in it may wait for a grace period. */
static inline void tdmi_rcu_read_lock(struct tdm_rcu_reader *r)
{
	if (r->nesting++ == 0)
		tdm_a64_xchg_acqrel(&r->epoch, tdm_a64_ld_acquire(&r->rcu->gp));
}

static inline void tdmi_rcu_read_unlock(struct tdm_rcu_reader *r)
{
	if (--r->nesting == 0)
		tdm_a64_st_release(&r->epoch, 0);
}

static inline bool tdmi_rcu_read_held(const struct tdm_rcu_reader *r)
{
	return r->nesting != 0;
}

/* Run fn(head, ctx) once every reader that could have reached it has left. It has been unlinked already. */
void tdmi_rcu_call(struct tdm_rcu *rcu, struct tdm_rcu_head *head, void (*fn)(struct tdm_rcu_head *head, void *ctx), void *ctx);
/* Run the callbacks whose grace period is over, without waiting; how many. For the background thread. What was called while an earlier batch
 * waited needs a further call. */
u32 tdmi_rcu_poll(struct tdm_rcu *rcu);
/* Callbacks that are not over; those that are run by another thread right now are counted, too. */
u32 tdmi_rcu_pending(const struct tdm_rcu *rcu);
/* Wait until every section that is open now has been left. */
void tdmi_rcu_synchronize(struct tdm_rcu *rcu);
/* Run all callbacks, also those that callbacks add, and wait for those that other threads run: when it returns all that were called before are over. */
void tdmi_rcu_drain(struct tdm_rcu *rcu);

/* In the child of a fork: the other threads, hence their sections, do not exist. Registrations and callbacks stay, but for those that another thread was about to run: they never are; whoever owns the reader of
 * a thread that is gone unregisters it, or hands it to another thread. */
void tdmi_rcu_reset(struct tdm_rcu *rcu);

#endif
