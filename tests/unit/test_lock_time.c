/* SPDX-License-Identifier: MIT */
/* When a simulated lock is held: against a list of all that ever was, which is gone through again after each step. */
#include <string.h>
#include "port/lock_time.h"
#include "runner/t.h"

#define N 3000u

static struct tdm_lock_time t;
static struct {
	u64 begin, end;
	bool write;
} word[N], held[N];
static u64 rng;

static u64 below(u64 n)
{
	return t_rand(&rng) % n;
}

/* The first time from `at` on that overlaps none of the first n of either. */
static u64 slowly(u32 n, bool is_word, u64 at, u64 len, bool write)
{
	for (u32 i = 0; i < n; i++) {
		u64 begin = is_word ? word[i].begin : held[i].begin, end = is_word ? word[i].end : held[i].end;

		if ((is_word || write || held[i].write) && at < end && begin < at + len) {
			at = end;
			i = ~0u;
		}
	}
	return at;
}

/* As many clocks as there are vCPUs, of which any goes on, however far it is behind. */
static void random_holds(u64 apart, u64 longest)
{
	u64 clock[8] = { 0 };

	memset(&t, 0, sizeof(t));
	for (u32 n = 0; n < N; n++) {
		u64 *c = &clock[below(8)], len = below(60), hold = below(longest), waited, done, took, begin;
		bool write = below(2);

		*c += below(apart);
		took = slowly(n, true, *c, len, true);
		begin = slowly(n, false, took + len, hold, write);
		done = tdmi_lock_time(&t, *c, len, write, hold, &waited);
		CHECK_EQ(done, begin + hold);
		CHECK_EQ(waited, begin - *c - len);
		/* One of no length is there, and is in nobody's way: but it would cut a gap in two. */
		word[n].begin = took;
		word[n].end = len ? took + len : 0;
		held[n].begin = begin;
		held[n].end = hold ? begin + hold : 0;
		held[n].write = write;
		*c = done;
	}
}

TEST(who_comes_gets_the_first_gap)
{
	rng = t_seed();
	random_holds(100, 200);
	random_holds(4000, 200);
	random_holds(10, 10);
	random_holds(20000, 9000);
}

/* Two clocks: the second one's time has been, for whom it matters. */
TEST(one_whose_clock_is_behind_finds_the_gaps_of_that_time)
{
	u64 waited;

	memset(&t, 0, sizeof(t));
	for (u32 k = 0; k < 100; k++) {
		CHECK_EQ(tdmi_lock_time(&t, 1000 * k, 50, true, 100, &waited), 1000 * k + 150);
		CHECK_EQ(waited, 0);
	}
	for (u32 k = 0; k < 100; k++) {
		/* The word is free from 50 on, in which the writer goes on to 150. */
		CHECK_EQ(tdmi_lock_time(&t, 1000 * k, 50, false, 100, &waited), 1000 * k + 250);
		CHECK_EQ(waited, 100);
		/* Readers do not wait for each other, but for the word. */
		CHECK_EQ(tdmi_lock_time(&t, 1000 * k + 100, 50, false, 10, &waited), 1000 * k + 160);
		CHECK_EQ(waited, 0);
	}
}

/* What is oldest goes, and nothing else. */
TEST(the_oldest_are_forgotten)
{
	u64 waited, last = 1000 * (TDM_LOCK_HOLDS + 9);

	memset(&t, 0, sizeof(t));
	for (u32 k = 0; k < TDM_LOCK_HOLDS + 10; k++)
		(void)tdmi_lock_time(&t, 1000 * k, 50, true, 100, &waited);
	CHECK_EQ(tdmi_lock_time(&t, last, 50, true, 100, &waited), last + 250);
	CHECK_EQ(tdmi_lock_time(&t, last - 2000 * 1000, 50, true, 100, &waited), last - 2000 * 1000 + 250);
	CHECK_EQ(tdmi_lock_time(&t, 0, 50, true, 100, &waited), 150);
	CHECK(t.word.n <= TDM_LOCK_HOLDS && t.held.n <= TDM_LOCK_HOLDS);
}
