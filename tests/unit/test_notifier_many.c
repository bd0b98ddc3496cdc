// SPDX-License-Identifier: MIT
/* test_notifier_many.c - MMU notifiers: very many intervals, with no memory left, and what they cost (TDM_SHOW=1 prints that). */
#include <stdlib.h>
#include <sys/resource.h>
#include "notifier_subs.h"

/* ---- memory ------------------------------------------------------------------------------------------------------------------------ */

#define MANY 20000u

/* One page each: anywhere among `spread` pages, or (0) every other page. */
static struct device *many_devices(u32 n, u64 spread)
{
	struct device *d = calloc(n, sizeof(*d));
	u64 r = seed;

	CHECK(d != NULL);
	for (u32 i = 0; i < n; i++) {
		u64 at = spread ? t_rand(&r) % spread : 2 * (u64)i;

		d[i].in.name = "one of many";
		d[i].in.ops = &device_ops;
		CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d[i].in, at * PAGE, (at + 1) * PAGE), 0);
		if (i % 64 == 0)
			tdmi_rcu_poll(&rcu);
	}
	tdmi_rcu_drain(&rcu);
	return d;
}

struct eaten {
	struct eaten *next;
};

static tdm_a32 step;

static void remove_in_round(void *arg)
{
	struct device *d = arg;

	until(&step, 2);
	tdmi_interval_notifier_remove(&d->in);
}

/* There is no memory at all: insert says so, and changes nothing; removals need none, in a round or outside of one. */
TEST(removal_needs_no_memory)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, 65536 * PAGE, TDM_INV_CLEAR);
	struct device d = DEVICE("d"), *many;
	struct rlimit none, was;
	struct plat_thread *t;
	struct eaten *eaten = NULL, *e;
	u64 r = 5;

	if (t_sanitized())
		SKIP("sanitizers need memory of their own");
	setup();
	many = many_devices(MANY, 65536);
	CHECK_EQ(plat_thread_start(&t, remove_in_round, &many[0], "remover"), 0);
	getrlimit(RLIMIT_AS, &was);
	none = was;
	none.rlim_cur = 4096;
	CHECK_EQ(setrlimit(RLIMIT_AS, &none), 0);
	while ((e = tdmi_alloc(&alloc, tdmi_itree_node_size()))) {
		e->next = eaten;
		eaten = e;
	}
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), -ENOMEM);
	CHECK_EQ(nots.ranges.count, MANY);
	for (u32 i = 0, left = MANY; left; i = (u32)(t_rand(&r) % MANY)) {
		while (!many[i].in.nots)
			i = (i + 1) % MANY;
		if (left == MANY) {
			CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
			tdm_a32_st_release(&step, 2);
			until_asleep(1);
			tdmi_invalidate_end(&nots, &a);
			plat_thread_join(t);
		} else {
			tdmi_interval_notifier_remove(&many[i].in);
		}
		left--;
	}
	CHECK_EQ(setrlimit(RLIMIT_AS, &was), 0);
	while ((e = eaten)) {
		eaten = e->next;
		tdmi_free(&alloc, e, tdmi_itree_node_size());
	}
	free(many);
	teardown();
}

/* ---- what it costs: figures, with TDM_SHOW=1 -------------------------------------------------------------------------------------------- */

static double cost(u64 spread, u32 n)
{
	double best = 1e9;

	for (u32 k = 0; k < 7; k++) {
		u64 begin = plat_now_ns(), r = 1;
		double ns;

		for (u32 i = 0; i < n; i++) {
			u64 at = (1 + 2 * (spread ? t_rand(&r) % spread : 0)) * PAGE;
			struct tdm_inv_range a = TDM_INV_RANGE(at, at + PAGE, TDM_INV_CLEAR);

			CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
			tdmi_invalidate_end(&nots, &a);
		}
		ns = (double)(plat_now_ns() - begin) / n;
		best = ns < best ? ns : best;
	}
	return best;
}

TEST(costs, .seconds = 120)
{
	const u32 n = getenv("TDM_SHOW") ? 200000 : 1000, ranges = n / 2;
	struct hearer h = HEARER("h");
	struct device *many, one = DEVICE("one");

	setup();
	printf("# start and end, in ns: nobody subscribed %.1f\n", cost(0, n));
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &one.in, FAR, FAR + PAGE), 0);
	printf("# 1 interval elsewhere %.1f\n", cost(0, n));
	tdmi_interval_notifier_remove(&one.in);
	printf("# none any more %.1f\n", cost(0, n));
	many = many_devices(ranges, 0);
	printf("# %u intervals, one place %.1f, 1 of 100 places %.1f, any place %.1f\n", ranges, cost(0, n), cost(ranges / 100, n), cost(ranges, n));
	CHECK_EQ(nots.seq, 2); /* none of them was hit */
	for (u32 i = 0; i < ranges; i++) {
		tdmi_interval_notifier_remove(&many[i].in);
		if (i % 64 == 0)
			tdmi_rcu_poll(&rcu);
	}
	free(many);
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	printf("# 1 notifier that is called %.1f\n", cost(0, n));
	tdmi_notifier_unregister(&nots, &h.n);
	CHECK(!getenv("TDM_SHOW"));
	teardown();
}
