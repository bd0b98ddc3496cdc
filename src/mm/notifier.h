/* SPDX-License-Identifier: MIT */
/*
 * notifier.h - MMU notifiers: who caches translations of an address space is told before they change.
 *
 * Whoever removes, replaces or write-protects entries of the page table brackets it by a *round*: tdmi_invalidate_start(range) ...
 * tdmi_invalidate_end(range). Rounds nest, and run at the same time. From start to end no subscriber may make a translation of the range, and when start
 * returns none has one. An entry that was empty may be filled without a round. There are two kinds of subscribers:
 *
 *   struct tdm_notifier           the whole address space; hears start and end, and counts the rounds itself; or shares the table, and is told under
 *                                 the table's lock (invalidate); is asked what has been used lately (young)
 *   struct tdm_interval_notifier  a range; hears of rounds that overlap it, and finds out by a sequence number whether what it has read meanwhile
 *                                 can be trusted:
 *
 *       again:
 *               seq = tdm_interval_read_begin(in);
 *               read the page table (range_fault)
 *               lock(driver);
 *               if (tdm_interval_read_retry(in, seq)) { unlock(driver); goto again; }
 *               put what was read into the device's table
 *               unlock(driver);
 *
 *       bool invalidate(in, range, cur_seq)
 *       {
 *               if (tdm_inv_is_own(range, me)) return true;
 *               if (range->blockable) lock(driver); else if (!trylock(driver)) return false;
 *               tdm_interval_set_seq(in, cur_seq);
 *               take the range out of the device's table
 *               unlock(driver);
 *               return true;
 *       }
 *
 * From which context what may be called ("sleeps": for rounds and callbacks of other threads, so not from a callback, not within a round of the caller's, nor
 * with a lock that a callback or a round takes: the event lock is one; the lock rank check tells). Locks held at most:
 *
 *   start, end                              the event lock; start may sleep, unless !range->blockable
 *   invalidate, young hooks                 tables; never sleep
 *   register, unregister, remove, release   none; sleep. Not within a read section of RCU either
 *   read_begin                              none; sleeps
 *   insert, stuck                           tables; never sleep
 *   set_seq, read_retry                     the driver's own lock, the same for both; check_retry: any
 */
#ifndef TDM_MM_NOTIFIER_H
#define TDM_MM_NOTIFIER_H

#include "base/alloc.h"
#include "base/check.h"
#include "base/itree.h"
#include "base/list.h"
#include "base/rcu.h"

struct tdm_notifiers;

/* Why a range is invalidated. */
enum tdm_inv_event {
	TDM_INV_UNMAP,           /* munmap, the old place of mremap */
	TDM_INV_CLEAR,           /* entries go, addresses stay: reclaim, CoW, madvise */
	TDM_INV_PROTECTION_VMA,  /* mprotect */
	TDM_INV_PROTECTION_PAGE, /* pages are write-protected: fork, cleaning */
	TDM_INV_SOFT_DIRTY,
	TDM_INV_MIGRATE,         /* to or from a device: owner says whose */
	TDM_INV_EXCLUSIVE,       /* the owner gets the range for itself */
	TDM_INV_RELEASE,         /* the address space goes away */
};

/* A round. The first five are the caller's, and constant during the round; the rest is zero before, and start's and end's. */
struct tdm_inv_range {
	u64 start, end;
	enum tdm_inv_event event;
	bool blockable;
	const void *owner; /* of MIGRATE and EXCLUSIVE, or NULL */
	u32 state;         /* enum tdm_round, in notifier.c: is it one, and is it counted? */
	u64 stamp;         /* how many had been registered when it began */
	struct plat_mutex inside; /* debug builds: the thread is within a round, for the lock rank check */
};

#define TDM_INV_RANGE(from, to, why) ((struct tdm_inv_range){ .start = (from), .end = (to), .event = (why), .blockable = true })

/* The round was begun by who asks, for its own sake: it knows what to do with its table. */
static inline bool tdm_inv_is_own(const struct tdm_inv_range *range, const void *owner)
{
	return (range->event == TDM_INV_MIGRATE || range->event == TDM_INV_EXCLUSIVE) && owner && range->owner == owner;
}

/* What becomes of an entry while the table is locked. */
enum tdm_inv_change {
	TDM_INV_SAME_FRAME,  /* it points to the frame that it pointed to, with fewer rights */
	TDM_INV_NO_FRAME,    /* to none */
	TDM_INV_OTHER_FRAME, /* to another one, now or before the end of the round */
};

/* May ports that share the table be told at the end of the range, once for all of it, or must tdmi_invalidate() be called before the table is unlocked?
 * frame_held: somebody holds on to the frame that the entry pointed to until they have been told. */
bool tdm_may_defer(enum tdm_inv_event event, enum tdm_inv_change change, bool frame_held);

/* ---- the whole address space ------------------------------------------------------------------------------------------------ */

struct tdm_notifier;

/* Each may be NULL. Ranges are half-open. */
struct tdm_notifier_ops {
	/* 0; or -EAGAIN: it would have to sleep, and the round is not blockable. Then it has changed nothing, and will not be told of the end. */
	int (*invalidate_start)(struct tdm_notifier *n, const struct tdm_inv_range *range);
	void (*invalidate_end)(struct tdm_notifier *n, const struct tdm_inv_range *range);
	/* For who shares the table: the range is not to be used any more when this returns. A table is locked; no sleep. */
	void (*invalidate)(struct tdm_notifier *n, u64 start, u64 end);
	/* Was the range used since the last time? A table is locked; no sleep. flush: who uses it again is noticed for certain. */
	bool (*clear_flush_young)(struct tdm_notifier *n, u64 start, u64 end);
	bool (*clear_young)(struct tdm_notifier *n, u64 start, u64 end);
	bool (*test_young)(struct tdm_notifier *n, u64 start, u64 end);
	/* The last call, and there is exactly one, from tdmi_notifiers_release() or from unregister: forget everything. Pages are freed after it. */
	void (*release)(struct tdm_notifier *n);
};

struct tdm_notifier {
	const char *name; /* for whom to blame; constant, as is ops */
	const struct tdm_notifier_ops *ops;
	/* The rest is zero before register, and written under the lock of the notifiers. */
	struct tdm_notifiers *nots; /* NULL: not registered */
	struct tdm_list link;       /* in nots->whole, by stamp */
	u64 stamp;                  /* how many had been registered, with it */
	bool released;              /* release was called, or is about to be: nothing else is from then on */
};

/* When it returns, every round that began before n could hear of it is over. It may be called from then on and a little earlier. -ESRCH: the address
 * space has been released. */
int tdmi_notifier_register(struct tdm_notifiers *nots, struct tdm_notifier *n);
/* Calls release, unless it has been called. When it returns nothing of n is running, or will; of rounds that it has heard the start of it may not hear
 * the end. */
void tdmi_notifier_unregister(struct tdm_notifiers *nots, struct tdm_notifier *n);

/* ---- a range ------------------------------------------------------------------------------------------------------------------- */

struct tdm_interval_notifier;

struct tdm_interval_notifier_ops {
	/* See above. false: it would have to sleep, and the round is not blockable. */
	bool (*invalidate)(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq);
};

struct tdm_interval_notifier {
	const char *name;
	const struct tdm_interval_notifier_ops *ops;
	/* The rest is zero before insert. */
	struct tdm_notifiers *nots; /* NULL: not inserted */
	u64 start, end;             /* constant while inserted */
	tdm_a64 seq;                /* always odd; written by insert, then by set_seq under the driver's lock */
	bool wide;                  /* not among `places`: see interval.c; the lock of the notifiers */
	u64 deferred;               /* the odd sequence number in which insert found the notifiers, or 0; the lock of the notifiers */
};

/* -EINVAL: empty, or not of whole pages; -ENOMEM; -ESRCH: the address space has been released. */
int tdmi_interval_notifier_insert(struct tdm_notifiers *nots, struct tdm_interval_notifier *in, u64 start, u64 end);
/* When it returns invalidate is not running, and will not be called. */
void tdmi_interval_notifier_remove(struct tdm_interval_notifier *in);

/* Sleeps while a round for the range is known to be under way. The result may already have collided: there is no loop in here, so that the caller can
 * bound the time that it takes. */
u64 tdm_interval_read_begin(struct tdm_interval_notifier *in);

/* In invalidate, under the driver's lock. */
static inline void tdm_interval_set_seq(struct tdm_interval_notifier *in, u64 cur_seq)
{
	tdm_a64_st_relaxed(&in->seq, cur_seq);
}

/* Under the driver's lock: what was read since read_begin returned seq must not be used. */
static inline bool tdm_interval_read_retry(const struct tdm_interval_notifier *in, u64 seq)
{
	return tdm_a64_ld_relaxed(&in->seq) != seq;
}

/* The same without the lock, to save work: true is certain, false is not. */
static inline bool tdm_interval_check_retry(const struct tdm_interval_notifier *in, u64 seq)
{
	return tdm_a64_ld_relaxed(&in->seq) != seq;
}

/* ---- an address space's notifiers ------------------------------------------------------------------------------------------------ */

struct tdm_inv_node; /* a free node of the tree */

struct tdm_notifiers {
	struct tdm_alloc *alloc;  /* constant, as is rcu */
	struct tdm_rcu *rcu;
	tdm_a32 armed;            /* there has been a subscriber: rounds are counted. Written under the lock */
	tdm_a32 nwhole;           /* registered; written under the lock */
	tdm_a32 nshare;           /* of these, those that share the table: they have `invalidate`. Likewise */
	struct plat_mutex joining; /* rank TDM_RANK_INV_WAIT: one registration at a time; held while it waits */
	struct plat_mutex lock;   /* rank TDM_RANK_NOTIFIERS; guards what follows, but for the nodes. Never held while a subscriber is called */
	u64 seq;                  /* odd: a range that somebody has subscribed to is being invalidated, and `ranges` stays as it is */
	u64 rounds[2];            /* under way, by the lowest bit of their stamp */
	u64 stamp;                /* registrations since init */
	bool released;
	struct tdm_list whole;    /* of struct tdm_notifier */
	struct tdm_itree ranges;  /* of struct tdm_interval_notifier */
	u16 **places;             /* how many of them, or of those in `deferred`, lie in each 2 MiB; NULL: none has been there yet */
	u64 wide;                 /* those that are not among them */
	bool deferring;           /* deferred is open; only while seq is odd */
	struct tdm_itree_txn deferred; /* ranges, as it will be when seq is even again */
	struct tdm_list calls;    /* of struct tdm_inv_call: walks over subscribers */
	tdm_a32 turn;             /* changes when those who sleep for anything in here should look again */
	u32 sleepers;
	bool removing;            /* a removal is being made: it may use the nodes */
	struct plat_mutex nodes_lock; /* rank TDM_RANK_INV_NODES; guards the rest */
	struct tdm_inv_node *nodes;   /* so that a removal needs no memory */
	u32 nnodes;
};

void tdmi_notifiers_init(struct tdm_notifiers *nots, struct tdm_alloc *alloc, struct tdm_rcu *rcu);
/* Nobody is subscribed, no round is under way. Drains the RCU domain. */
void tdmi_notifiers_destroy(struct tdm_notifiers *nots);
/* Rounds are counted from now on. Without a subscriber they are not, so the first one may come only when no round is under way (the address space
 * is frozen, or not in use yet); this may be called earlier, to have it behind oneself. end aborts if it finds that this was not heeded. */
void tdmi_notifiers_arm(struct tdm_notifiers *nots);
/* The address space goes away, before its pages do: a round over everything for the intervals, and every notifier's release. Once. */
void tdmi_notifiers_release(struct tdm_notifiers *nots);
/* In the child of a fork that was made when no round and no call was under way. */
void tdmi_notifiers_after_fork(struct tdm_notifiers *nots);
/* Is a subscriber's callback running that was called longer ago than that? The name of the one that has been for longest. */
bool tdmi_notifiers_stuck(struct tdm_notifiers *nots, u64 older_than_ns, char *name, size_t len);

enum tdm_round { TDM_ROUND_NONE, TDM_ROUND_UNCOUNTED = 0x0d15ea5e, TDM_ROUND_COUNTED };
int tdmi_round_start(struct tdm_notifiers *nots, struct tdm_inv_range *range);
void tdmi_round_end(struct tdm_notifiers *nots, struct tdm_inv_range *range);
void tdmi_notifiers_invalidate(struct tdm_notifiers *nots, u64 start, u64 end);

/* 0; or -EAGAIN, if the round is not blockable: no entry may be touched, and there is no end. */
static inline int tdmi_invalidate_start(struct tdm_notifiers *nots, struct tdm_inv_range *range)
{
	if (tdm_a32_ld_acquire(&nots->armed))
		return tdmi_round_start(nots, range);
	TDM_BUG_ON(range->state != TDM_ROUND_NONE);
	range->state = TDM_ROUND_UNCOUNTED;
	return 0;
}

static inline void tdmi_invalidate_end(struct tdm_notifiers *nots, struct tdm_inv_range *range)
{
	if (range->state == TDM_ROUND_UNCOUNTED && !tdm_a32_ld_relaxed(&nots->armed))
		range->state = TDM_ROUND_NONE;
	else
		tdmi_round_end(nots, range);
}

/* Within a round, with the table locked that has changed: see tdm_may_defer(). */
static inline void tdmi_invalidate(struct tdm_notifiers *nots, u64 start, u64 end)
{
	if (tdm_a32_ld_relaxed(&nots->nshare))
		tdmi_notifiers_invalidate(nots, start, end);
}

/* Has any subscriber used the range since the last time? Each is asked, but by test, which changes nothing. */
bool tdmi_notifiers_clear_flush_young(struct tdm_notifiers *nots, u64 start, u64 end);
bool tdmi_notifiers_clear_young(struct tdm_notifiers *nots, u64 start, u64 end);
bool tdmi_notifiers_test_young(struct tdm_notifiers *nots, u64 start, u64 end);

#endif
