/* SPDX-License-Identifier: MIT */
/*
 * lock_time.h - when a lock of a simulated machine is held, and so how long whoever comes to it has to wait.
 *
 * A lock is a word, which one at a time takes and changes, and what is held afterwards, by many who read or one who writes. All that has been held is remembered; who comes gets the first
 * gap that is long enough. So it does not matter who is simulated first: one whose clock is behind finds the gaps of that time. What is forgotten, when there is no room, is the oldest, so
 * clocks may be apart by as much as lies between TDM_LOCK_HOLDS holds, or three quarters of that: whoever runs a simulation lets the one go on whose clock is behind.
 *
 * Times are in cycles. One thread, or the caller's lock.
 */
#ifndef TDM_PORT_LOCK_TIME_H
#define TDM_PORT_LOCK_TIME_H

#include "base/types.h"

/* A fault that reclaims for itself may look at 2048 pages in one step, and does not see what others do in that time; some clocks are behind by several such. */
#define TDM_LOCK_HOLDS 16384u

struct tdm_lock_hold {
	u64 begin, end; /* half-open */
	bool write;
};

/* By begin. */
struct tdm_lock_holds {
	u32 n;
	u64 longest;    /* of all that have ever been in here */
	struct tdm_lock_hold of[TDM_LOCK_HOLDS];
};

/* All zero: it has never been taken. */
struct tdm_lock_time {
	struct tdm_lock_holds word, held;
};

/* Who comes at `now` takes the word for so many cycles, and then holds the lock for `held`: when is he done? *waited: how long he did nothing. */
u64 tdmi_lock_time(struct tdm_lock_time *t, u64 now, u64 word, bool write, u64 held, u64 *waited);

#endif
