/* SPDX-License-Identifier: MIT */
/*
 * test_places.c - a round that finds nobody counted in its 2 MiB does not ask the tree (mm/interval.c): so whoever is in the tree must be counted, wherever he lies,
 * however many others there are, and for as long as he may be told.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include "notifier_world.h"

#define PLACE ((u64)2 << 20)
#define GROUP ((u64)16 << 30) /* that share an array of counts */
#define TOP ((u64)1 << 47)

static u32 calls;

static bool count_call(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	CHECK(range->start < in->end && range->end > in->start);
	tdm_interval_set_seq(in, cur_seq);
	calls++;
	return true;
}

static const struct tdm_interval_notifier_ops ops = { .invalidate = count_call };

#define INTERVAL() { .name = "interval", .ops = &ops }

static void insert(struct tdm_interval_notifier *in, u64 start, u64 end)
{
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, in, start, end), 0);
}

/* How many a round calls. */
static u32 heard(u64 start, u64 end)
{
	struct tdm_inv_range a = TDM_INV_RANGE(start, end, TDM_INV_CLEAR);

	calls = 0;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate_end(&nots, &a);
	return calls;
}

TEST(each_place_of_an_interval_is_counted)
{
	struct tdm_interval_notifier in = INTERVAL();

	setup();
	insert(&in, 5 * PLACE - PAGE, 7 * PLACE + PAGE);
	CHECK_EQ(heard(5 * PLACE - PAGE, 5 * PLACE), 1);
	CHECK_EQ(heard(5 * PLACE, 5 * PLACE + PAGE), 1);
	CHECK_EQ(heard(6 * PLACE, 6 * PLACE + PAGE), 1);
	CHECK_EQ(heard(7 * PLACE, 7 * PLACE + PAGE), 1);
	CHECK_EQ(heard(7 * PLACE + PAGE, 7 * PLACE + 2 * PAGE), 0);
	CHECK_EQ(heard(4 * PLACE, 5 * PLACE - PAGE), 0);
	tdmi_interval_notifier_remove(&in);
	CHECK_EQ(heard(PAGE, 8 * PLACE), 0);
	teardown();
}

TEST(each_place_of_a_round_is_looked_at)
{
	struct tdm_interval_notifier in[2] = { INTERVAL(), INTERVAL() };

	setup();
	insert(&in[0], 5 * PLACE, 5 * PLACE + PAGE);
	insert(&in[1], GROUP - PAGE, GROUP + PAGE);
	CHECK_EQ(heard(4 * PLACE, 5 * PLACE), 0);
	CHECK_EQ(heard(4 * PLACE - PAGE, 5 * PLACE + PAGE), 1);
	CHECK_EQ(heard(5 * PLACE, 9 * PLACE), 1);
	CHECK_EQ(heard(GROUP - PAGE, GROUP), 1);
	CHECK_EQ(heard(GROUP, GROUP + PAGE), 1);
	CHECK_EQ(heard(PAGE, GROUP), 2);
	CHECK_EQ(heard(0, ~(u64)0), 2);
	CHECK_EQ(heard(GROUP + PAGE, ~(u64)0), 0);
	tdmi_interval_notifier_remove(&in[0]);
	tdmi_interval_notifier_remove(&in[1]);
	teardown();
}

/* What spans much, or lies where no counts are, is asked for everywhere: not after it has gone. */
TEST(wide_intervals)
{
	struct tdm_interval_notifier in[3] = { INTERVAL(), INTERVAL(), INTERVAL() };

	setup();
	insert(&in[0], PAGE, 100 * PLACE);
	insert(&in[1], TOP - PAGE, TOP + PAGE);
	insert(&in[2], 2 * TOP, 2 * TOP + PAGE);
	CHECK_EQ(nots.wide, 3);
	CHECK_EQ(heard(70 * PLACE, 70 * PLACE + PAGE), 1);
	CHECK_EQ(heard(TOP - PAGE, TOP), 1);
	CHECK_EQ(heard(TOP, TOP + PAGE), 1);
	CHECK_EQ(heard(2 * TOP, 2 * TOP + PAGE), 1);
	for (u32 i = 0; i < 3; i++)
		tdmi_interval_notifier_remove(&in[i]);
	CHECK_EQ(nots.wide, 0);
	CHECK(!nots.places);
	teardown();
}

/* There is no memory for the counts of another group. */
TEST(what_cannot_be_counted_is_wide)
{
	struct tdm_interval_notifier in[2] = { INTERVAL(), INTERVAL() };
	struct rlimit none, was;

	if (t_sanitized())
		SKIP("sanitizers need memory of their own");
	setup();
	insert(&in[0], 0, PAGE);
	getrlimit(RLIMIT_AS, &was);
	none = was;
	none.rlim_cur = 4096;
	CHECK_EQ(setrlimit(RLIMIT_AS, &none), 0);
	insert(&in[1], GROUP - PAGE, GROUP + PAGE);
	CHECK_EQ(setrlimit(RLIMIT_AS, &was), 0);
	CHECK_EQ(nots.wide, 1);
	CHECK_EQ(heard(GROUP, GROUP + PAGE), 1);
	CHECK_EQ(heard(GROUP - PAGE, GROUP), 1);
	tdmi_interval_notifier_remove(&in[1]);
	CHECK_EQ(nots.wide, 0);
	CHECK_EQ(heard(0, PAGE), 1);
	tdmi_interval_notifier_remove(&in[0]);
	teardown();
}

/* A count of 16 bits must not come round to nobody, going up or down. */
TEST(more_than_a_count_holds, .seconds = 120)
{
	const u32 n = 65537;
	struct tdm_interval_notifier *in = calloc(n, sizeof(*in));

	setup();
	for (u32 i = 0; i < n; i++) {
		in[i] = (struct tdm_interval_notifier)INTERVAL();
		insert(&in[i], 3 * PLACE, 3 * PLACE + PAGE);
		if (i + 2 >= n)
			CHECK_EQ(heard(3 * PLACE, 3 * PLACE + PAGE), i + 1);
		if (i % 64 == 0)
			tdmi_rcu_poll(&rcu);
	}
	for (u32 i = n - 1; i; i--) {
		tdmi_interval_notifier_remove(&in[i]);
		if (i % 64 == 0)
			tdmi_rcu_poll(&rcu);
	}
	CHECK_EQ(heard(3 * PLACE, 3 * PLACE + PAGE), 1);
	tdmi_interval_notifier_remove(&in[0]);
	CHECK_EQ(heard(3 * PLACE, 3 * PLACE + PAGE), 0);
	free(in);
	teardown();
}

/* ---- against rounds ---------------------------------------------------------------------------------------------------------- */

static void removes(void *in)
{
	tdmi_interval_notifier_remove(in);
}

/* Until remove has returned its owner has a table: rounds that begin while it waits are for him, too. */
TEST(counted_until_the_removal_is_over)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct tdm_interval_notifier in = INTERVAL();
	struct plat_thread *t;

	setup();
	insert(&in, 0, PAGE);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(plat_thread_start(&t, removes, &in, "remover"), 0);
	until_asleep(1);
	CHECK_EQ(heard(0, PAGE), 1);
	tdmi_invalidate_end(&nots, &a);
	plat_thread_join(t);
	CHECK_EQ(heard(0, PAGE), 0);
	teardown();
}

/* What is inserted while a round is under way is counted when it comes to be in the tree. */
TEST(counted_when_it_is_deferred)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct tdm_interval_notifier in = INTERVAL(), late = INTERVAL();

	setup();
	insert(&in, 0, PAGE);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	insert(&late, PLACE, PLACE + PAGE);
	CHECK_EQ(heard(PLACE, PLACE + PAGE), 0); /* it reads only after the round that it has come into */
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(heard(PLACE, PLACE + PAGE), 1);
	tdmi_interval_notifier_remove(&late);
	tdmi_interval_notifier_remove(&in);
	teardown();
}

/* Intervals of all sizes come and go, and each round calls as many as overlap it by a plain look at all. */
TEST(at_random, .seconds = 60)
{
	enum { N = 200 };
	static struct tdm_interval_notifier in[N];
	u64 spans[] = { PAGE, PLACE, 3 * PLACE + PAGE, 64 * PLACE, 65 * PLACE };
	u64 r;

	setup();
	r = seed;
	for (u32 i = 0; i < 20000; i++) {
		struct tdm_interval_notifier *one = &in[t_rand(&r) % N];
		u64 at = t_rand(&r) % 4096 * (PLACE / 2) + t_rand(&r) % 2 * (GROUP - 512 * PLACE), len = 1 + t_rand(&r) % (spans[t_rand(&r) % 5] / PAGE);
		u32 overlap = 0;

		for (u32 k = 0; k < N; k++)
			overlap += in[k].nots && in[k].start < at + len * PAGE && in[k].end > at;
		CHECK_EQ(heard(at, at + len * PAGE), overlap);
		if (one->nots) {
			tdmi_interval_notifier_remove(one);
		} else {
			*one = (struct tdm_interval_notifier)INTERVAL();
			insert(one, at, at + len * PAGE);
		}
		tdmi_rcu_poll(&rcu);
	}
	for (u32 k = 0; k < N; k++)
		if (in[k].nots)
			tdmi_interval_notifier_remove(&in[k]);
	CHECK_EQ(nots.wide, 0);
	CHECK_EQ(heard(0, GROUP), 0);
	teardown();
}
