// SPDX-License-Identifier: MIT
/*
 * lock_time.c - see lock_time.h.
 *
 * To find a gap one pass is enough: what is passed over ends before the place that has been reached, which only moves on. The pass begins where the longest hold could still reach.
 */
#include <string.h>
#include "port/lock_time.h"

#define FORGET (TDM_LOCK_HOLDS / 4)

/* The first that begins at `at` or later. */
static u32 first_from(const struct tdm_lock_holds *h, u64 at)
{
	u32 lo = 0, hi = h->n;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (h->of[mid].begin < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void add(struct tdm_lock_holds *h, u64 begin, u64 len, bool write)
{
	u32 i;

	if (!len)
		return;
	if (h->n == TDM_LOCK_HOLDS) {
		memmove(h->of, &h->of[FORGET], (TDM_LOCK_HOLDS - FORGET) * sizeof(h->of[0]));
		h->n -= FORGET;
	}
	i = first_from(h, begin);
	memmove(&h->of[i + 1], &h->of[i], (h->n - i) * sizeof(h->of[0]));
	h->of[i] = (struct tdm_lock_hold){ begin, begin + len, write };
	h->n++;
	h->longest = TDM_MAX(h->longest, len);
}

/* The first time from `at` on at which it can be held for so long. */
static u64 gap(const struct tdm_lock_holds *h, u64 at, u64 len, bool write)
{
	for (u32 i = first_from(h, at - TDM_MIN(at, h->longest)); i < h->n && h->of[i].begin < at + len; i++)
		if ((write || h->of[i].write) && at < h->of[i].end)
			at = h->of[i].end;
	return at;
}

u64 tdmi_lock_time(struct tdm_lock_time *t, u64 now, u64 word, bool write, u64 held, u64 *waited)
{
	u64 took = gap(&t->word, now, word, true), begin = gap(&t->held, took + word, held, write);

	add(&t->word, took, word, true);
	add(&t->held, begin, held, write);
	*waited = begin - now - word;
	return begin + held;
}
