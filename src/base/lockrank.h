/* SPDX-License-Identifier: MIT */
/*
 * lockrank.h - the one order in which locks may be taken.
 *
 * A thread may take a lock only if its rank is higher than that of every lock that it holds, or equal to the highest and the lock lies at a
 * higher address (so two tables of one level are locked in the order of their addresses). Rank 0 is not checked.
 *
 * The check lives where a mutex is taken: in the simulated and the POSIX platform, which only tests use, with a stack of held locks per
 * thread. The live platform has none: its threads have no thread-local storage. The same engine code runs over all three.
 */
#ifndef TDM_BASE_LOCKRANK_H
#define TDM_BASE_LOCKRANK_H

#include "base/types.h"

enum tdm_lock_rank {
	TDM_RANK_NONE = 0,
	TDM_RANK_LIVE = 10,   /* run: state of the live process */
	TDM_RANK_DRIVER = 12, /* of a driver of mappings: held while it knows pfns, in its fault and around its zapping (mm/special.h); not in open and close */
	/* Not locks but places, which a thread marks as if it held a lock (mm/notifier.c): where it may wait for rounds of others, a round of its own, a
	 * subscriber's callback that may sleep, and one that is called with tables locked. */
	TDM_RANK_INV_WAIT = 15,
	TDM_RANK_INV_ROUND = 16,
	TDM_RANK_EVENT = 20,  /* events of an address space, and taking pages home */
	TDM_RANK_INV_CALL = 25,
	TDM_RANK_MIRROR = 27, /* a device's page table: taken in its invalidate */
	TDM_RANK_VMA = 30,    /* writers of the VMA tree */
	TDM_RANK_PT3 = 40,    /* page tables, upper before lower: PT0 - level */
	TDM_RANK_PT2 = 41,
	TDM_RANK_PT1 = 42,
	TDM_RANK_PT0 = 43,
	TDM_RANK_INV_ATOMIC = 45,
	TDM_RANK_NOTIFIERS = 46, /* subscriptions of an address space, and which rounds there are */
	TDM_RANK_INV_NODES = 47, /* nodes kept for a removal */
	TDM_RANK_PREDICT = 50,
	/* Leaves of the engine: none is held while another of the group is taken, other than in this order. */
	TDM_RANK_RMAP = 52,  /* who maps a page (mm/rmap.h) */
	TDM_RANK_SLOTS = 53, /* what swap entries name (mm/swapcache.h) */
	TDM_RANK_LRU = 60,
	TDM_RANK_FRAMES = 61,
	TDM_RANK_CTX = 62,
	TDM_RANK_SWAP = 70,
	TDM_RANK_TIER = 71,
	TDM_RANK_STORE = 72,
	TDM_RANK_ALLOC = 80,
	TDM_RANK_RCU = 81,
	TDM_RANK_PLAT = 90,
};

#define TDM_LOCKRANK_DEPTH 16u

/* The calling thread takes, or has let go of, the lock at `lock`. A trylock cannot deadlock: taken says so, and the order is not checked. */
void tdmi_lockrank_acquire(const void *lock, u32 rank);
void tdmi_lockrank_taken(const void *lock, u32 rank);
void tdmi_lockrank_release(const void *lock, u32 rank);
/* Does the calling thread hold nothing (of rank != 0)? */
bool tdmi_lockrank_none_held(void);

#endif
