// SPDX-License-Identifier: MIT
/*
 * test_notifier.c - MMU notifiers: the rules one by one, misuse, what it costs (TDM_SHOW=1 prints that). Threads against each other are in
 * test_notifier_races.c.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "base/lockrank.h"
#include "notifier_world.h"

#define FAR ((u64)1 << 40)

/* What may sleep is not for a thread that is within a round. These do not sleep, though: somebody else does them, and comes back. */
static void elsewhere(void (*fn)(void *), void *arg)
{
	struct plat_thread *t;

	CHECK_EQ(plat_thread_start(&t, fn, arg, "elsewhere"), 0);
	plat_thread_join(t);
}

static void reads_1(void *in)
{
	CHECK_EQ(tdm_interval_read_begin(in), 1);
}

static void removes_at_once(void *in)
{
	tdmi_interval_notifier_remove(in);
}

/* ---- subscribers that write down what they hear ---------------------------------------------------------------------------- */

struct device {
	struct tdm_interval_notifier in;
	struct plat_mutex lock; /* the driver's */
	u32 calls;
	u64 last;               /* cur_seq */
	bool would_sleep;
	const void *me;
};

static bool device_invalidate(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	struct device *d = tdm_container_of(in, struct device, in);

	if (d->me && tdm_inv_is_own(range, d->me))
		return true;
	if (d->would_sleep && !range->blockable)
		return false;
	plat_mutex_lock(&d->lock);
	tdm_interval_set_seq(in, cur_seq);
	d->calls++;
	d->last = cur_seq;
	plat_mutex_unlock(&d->lock);
	return true;
}

static const struct tdm_interval_notifier_ops device_ops = { .invalidate = device_invalidate };

#define DEVICE(who) { .in = { .name = (who), .ops = &device_ops } }

static u64 sub_seq(const struct device *d)
{
	return tdm_a64_ld_relaxed(&d->in.seq);
}

struct hearer {
	struct tdm_notifier n;
	u32 starts, ends, invalidates, youngs, releases;
	u64 from, to;
	bool would_sleep, young;
};

static struct hearer *hearer(struct tdm_notifier *n)
{
	return tdm_container_of(n, struct hearer, n);
}

static int hear_start(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	if (hearer(n)->would_sleep && !range->blockable)
		return -EAGAIN;
	hearer(n)->starts++;
	hearer(n)->from = range->start;
	hearer(n)->to = range->end;
	return 0;
}

static void hear_end(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	(void)range;
	hearer(n)->ends++;
}

static void hear_invalidate(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->invalidates++;
	hearer(n)->from = start;
	hearer(n)->to = end;
}

static bool hear_young(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->youngs++;
	hearer(n)->from = start;
	hearer(n)->to = end;
	return hearer(n)->young;
}

static bool hear_clear_young(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->youngs += 100;
	(void)start;
	(void)end;
	return hearer(n)->young;
}

static bool hear_test_young(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->youngs += 10000;
	(void)start;
	(void)end;
	return hearer(n)->young;
}

static void hear_release(struct tdm_notifier *n)
{
	hearer(n)->releases++;
}

static const struct tdm_notifier_ops hear_ops = {
	.invalidate_start = hear_start,
	.invalidate_end = hear_end,
	.invalidate = hear_invalidate,
	.clear_flush_young = hear_young,
	.clear_young = hear_clear_young,
	.test_young = hear_test_young,
	.release = hear_release,
};
static const struct tdm_notifier_ops deaf_ops;

#define HEARER(who) { .n = { .name = (who), .ops = &hear_ops } }

/* ---- sequence numbers --------------------------------------------------------------------------------------------------------- */

TEST(without_subscribers_nothing_is_counted)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_UNMAP);
	char name[8];

	setup();
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate(&nots, 0, PAGE);
	CHECK(!tdmi_notifiers_clear_young(&nots, 0, PAGE));
	CHECK(!tdmi_notifiers_stuck(&nots, 0, name, sizeof(name)));
	CHECK_EQ(nots.rounds[0] + nots.rounds[1], 0);
	tdmi_invalidate_end(&nots, &a);
	teardown();
}

TEST(numbers_of_one_round)
{
	struct tdm_inv_range hit = TDM_INV_RANGE(3 * PAGE, 4 * PAGE, TDM_INV_CLEAR), miss = TDM_INV_RANGE(4 * PAGE, 9 * PAGE, TDM_INV_CLEAR);
	struct device d = DEVICE("d");
	u64 seq;

	setup();
	CHECK_EQ(nots.seq, 2);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 2 * PAGE, 4 * PAGE), 0);
	CHECK_EQ(sub_seq(&d), 1);
	seq = tdm_interval_read_begin(&d.in);
	CHECK_EQ(seq, 1);
	CHECK(!tdm_interval_read_retry(&d.in, seq) && !tdm_interval_check_retry(&d.in, seq));
	/* What does not overlap neither calls nor makes anybody wait. */
	CHECK_EQ(tdmi_invalidate_start(&nots, &miss), 0);
	CHECK_EQ(nots.seq, 2);
	elsewhere(reads_1, &d.in);
	tdmi_invalidate_end(&nots, &miss);
	CHECK_EQ(nots.seq, 2);
	CHECK_EQ(d.calls, 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &hit), 0);
	CHECK_EQ(d.calls, 1);
	CHECK_EQ(nots.seq, 3);
	CHECK_EQ(sub_seq(&d), 3);
	CHECK(tdm_interval_read_retry(&d.in, seq) && tdm_interval_check_retry(&d.in, seq));
	tdmi_invalidate_end(&nots, &hit);
	CHECK_EQ(nots.seq, 4);
	CHECK_EQ(d.calls, 1);
	seq = tdm_interval_read_begin(&d.in);
	CHECK_EQ(seq, 3);
	CHECK(!tdm_interval_read_retry(&d.in, seq));
	/* The next round has another number. */
	CHECK_EQ(tdmi_invalidate_start(&nots, &hit), 0);
	CHECK_EQ(sub_seq(&d), 5);
	CHECK(tdm_interval_read_retry(&d.in, seq));
	tdmi_invalidate_end(&nots, &hit);
	CHECK_EQ(nots.seq, 6);
	tdmi_interval_notifier_remove(&d.in);
	CHECK_EQ(tdmi_invalidate_start(&nots, &hit), 0);
	CHECK_EQ(nots.seq, 6);
	tdmi_invalidate_end(&nots, &hit);
	CHECK_EQ(d.calls, 2);
	teardown();
}

TEST(rounds_nest)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR), b = TDM_INV_RANGE(0, 2 * PAGE, TDM_INV_UNMAP),
			     far_off = TDM_INV_RANGE(FAR, FAR + PAGE, TDM_INV_UNMAP);
	struct device d = DEVICE("d");

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &far_off), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	CHECK_EQ(d.calls, 2);
	CHECK_EQ(d.last, 3); /* of one state there is one number */
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(nots.seq, 3);
	tdmi_invalidate_end(&nots, &b);
	CHECK_EQ(nots.seq, 3); /* one that nobody has subscribed to holds it up as well */
	tdmi_invalidate_end(&nots, &far_off);
	CHECK_EQ(nots.seq, 4);
	tdmi_interval_notifier_remove(&d.in);
	teardown();
}

static tdm_a32 step;

static void begin_reading(void *arg)
{
	struct device *d = arg;

	tdm_a32_st_release(&step, 1);
	CHECK_EQ(tdm_interval_read_begin(&d->in), 3);
	CHECK_EQ(tdm_a32_ld_acquire(&step), 2);
	tdm_a32_st_release(&step, 3);
}

TEST(read_begin_sleeps_until_all_are_over)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR), b = a;
	struct device d = DEVICE("d");
	struct plat_thread *t;

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	CHECK_EQ(plat_thread_start(&t, begin_reading, &d, "reader"), 0);
	until_asleep(1);
	tdmi_invalidate_end(&nots, &a);
	pause_ms(20);
	CHECK_EQ(tdm_a32_ld_acquire(&step), 1);
	tdm_a32_st_release(&step, 2);
	tdmi_invalidate_end(&nots, &b);
	until(&step, 3);
	plat_thread_join(t);
	tdmi_interval_notifier_remove(&d.in);
	teardown();
}

/* Its invalidate leaves the number as it is: readers do not wait for that round. */
TEST(own_rounds)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_MIGRATE);
	struct device d = DEVICE("d");

	setup();
	d.me = &d;
	a.owner = &d;
	CHECK(tdm_inv_is_own(&a, &d));
	CHECK(!tdm_inv_is_own(&a, &a));
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(d.calls, 0);
	elsewhere(reads_1, &d.in);
	tdmi_invalidate_end(&nots, &a);
	a.event = TDM_INV_EXCLUSIVE;
	CHECK(tdm_inv_is_own(&a, &d));
	a.event = TDM_INV_CLEAR;
	CHECK(!tdm_inv_is_own(&a, &d));
	a.event = TDM_INV_MIGRATE;
	a.owner = NULL;
	CHECK(!tdm_inv_is_own(&a, NULL));
	tdmi_interval_notifier_remove(&d.in);
	teardown();
}

/* ---- insert and remove --------------------------------------------------------------------------------------------------------- */

TEST(bad_ranges)
{
	struct device d = DEVICE("d");

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, PAGE, PAGE), -EINVAL);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 2 * PAGE, PAGE), -EINVAL);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, PAGE, 2 * PAGE + 1), -EINVAL);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, PAGE + 8, 2 * PAGE), -EINVAL);
	CHECK_EQ(tdm_a32_ld_relaxed(&nots.armed), 0);
	teardown();
}

TEST(insert_while_busy_elsewhere)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR), b = a;
	struct device d = DEVICE("d");

	setup();
	tdmi_notifiers_arm(&nots);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(nots.seq, 2);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(nots.seq, 3);
	CHECK_EQ(sub_seq(&d), 3); /* so that read_begin waits for a, the start of which d has missed */
	CHECK_EQ(nots.ranges.count, 1);
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	CHECK_EQ(d.calls, 1);
	tdmi_invalidate_end(&nots, &b);
	CHECK_EQ(nots.seq, 3);
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(nots.seq, 4);
	CHECK_EQ(tdm_interval_read_begin(&d.in), 3);
	tdmi_interval_notifier_remove(&d.in);
	teardown();
}

TEST(insert_is_deferred)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR), b = a;
	struct device d = DEVICE("d"), late = DEVICE("late"), later = DEVICE("later");
	const void *root;

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	root = tdmi_itree_root(&nots.ranges);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &late.in, 0, 5 * PAGE), 0);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &later.in, 0, 5 * PAGE), 0);
	CHECK_EQ(sub_seq(&late), 3);
	CHECK(root == tdmi_itree_root(&nots.ranges));
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	CHECK_EQ(d.calls, 2);
	CHECK_EQ(late.calls, 0);
	/* Nobody has seen it: it goes at once. */
	elsewhere(removes_at_once, &later.in);
	tdmi_invalidate_end(&nots, &b);
	CHECK(root == tdmi_itree_root(&nots.ranges));
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(nots.ranges.count, 2);
	CHECK(tdmi_itree_valid(tdmi_itree_root(&nots.ranges), 2));
	CHECK_EQ(tdm_interval_read_begin(&late.in), 3);
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	tdmi_invalidate_end(&nots, &b);
	CHECK_EQ(late.calls, 1);
	CHECK_EQ(later.calls, 0);
	tdmi_interval_notifier_remove(&late.in);
	tdmi_interval_notifier_remove(&d.in);
	teardown();
}

static void remove_it(void *arg)
{
	struct device *d = arg;

	tdmi_interval_notifier_remove(&d->in);
	CHECK_EQ(tdm_a32_ld_acquire(&step), 2);
	tdm_a32_st_release(&step, 3);
}

TEST(remove_is_deferred_and_waits)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR), b = a;
	struct device d = DEVICE("d"), other = DEVICE("other");
	struct plat_thread *t;
	const void *root;

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &other.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	root = tdmi_itree_root(&nots.ranges);
	CHECK_EQ(plat_thread_start(&t, remove_it, &d, "remover"), 0);
	until_asleep(1);
	CHECK(root == tdmi_itree_root(&nots.ranges));
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	CHECK_EQ(d.calls, 2);
	tdmi_invalidate_end(&nots, &b);
	pause_ms(20);
	tdm_a32_st_release(&step, 2);
	tdmi_invalidate_end(&nots, &a);
	until(&step, 3);
	plat_thread_join(t);
	CHECK_EQ(nots.ranges.count, 1);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(d.calls, 2);
	CHECK_EQ(other.calls, 3);
	tdmi_interval_notifier_remove(&other.in);
	teardown();
}

/* ---- notifiers of the whole address space ------------------------------------------------------------------------------------- */

TEST(start_and_end_are_heard)
{
	struct tdm_inv_range a = TDM_INV_RANGE(PAGE, 3 * PAGE, TDM_INV_CLEAR);
	struct hearer h = HEARER("h"), deaf = { .n = { .name = "deaf", .ops = &deaf_ops } };

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &deaf.n), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(h.starts, 1);
	CHECK_EQ(h.from, PAGE);
	CHECK_EQ(h.to, 3 * PAGE);
	CHECK_EQ(h.ends, 0);
	tdmi_invalidate(&nots, 2 * PAGE, 3 * PAGE);
	CHECK_EQ(h.invalidates, 1);
	CHECK_EQ(h.from, 2 * PAGE);
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(h.ends, 1);
	CHECK_EQ(nots.seq, 2);
	tdmi_notifier_unregister(&nots, &h.n);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate(&nots, 2 * PAGE, 3 * PAGE);
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(h.starts + h.ends + h.invalidates, 3);
	tdmi_notifier_unregister(&nots, &deaf.n);
	teardown();
}

TEST(answers_of_all_are_ored)
{
	struct hearer a = HEARER("a"), b = HEARER("b"), deaf = { .n = { .name = "deaf", .ops = &deaf_ops } };

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &deaf.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &a.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &b.n), 0);
	CHECK(!tdmi_notifiers_clear_flush_young(&nots, PAGE, 2 * PAGE));
	CHECK(!tdmi_notifiers_clear_young(&nots, PAGE, 2 * PAGE));
	CHECK(!tdmi_notifiers_test_young(&nots, PAGE, 2 * PAGE));
	CHECK_EQ(a.youngs, 10101);
	CHECK_EQ(b.youngs, 10101);
	CHECK(a.from == PAGE && a.to == 2 * PAGE);
	/* Who is asked later must have its bits cleared, too. */
	a.young = true;
	CHECK(tdmi_notifiers_clear_flush_young(&nots, PAGE, 2 * PAGE));
	CHECK(tdmi_notifiers_clear_young(&nots, PAGE, 2 * PAGE));
	CHECK_EQ(b.youngs, 10202);
	CHECK(tdmi_notifiers_test_young(&nots, PAGE, 2 * PAGE));
	CHECK_EQ(a.youngs, 20202);
	CHECK_EQ(b.youngs, 10202);
	a.young = false;
	b.young = true;
	CHECK(tdmi_notifiers_test_young(&nots, PAGE, 2 * PAGE));
	CHECK(tdmi_notifiers_clear_young(&nots, PAGE, 2 * PAGE));
	CHECK(tdmi_notifiers_clear_flush_young(&nots, PAGE, 2 * PAGE));
	tdmi_notifier_unregister(&nots, &deaf.n);
	tdmi_notifier_unregister(&nots, &a.n);
	tdmi_notifier_unregister(&nots, &b.n);
	teardown();
}

TEST(start_that_fails_in_the_middle)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct hearer h[4] = { HEARER("0"), HEARER("1"), HEARER("2"), HEARER("3") };
	struct device d = DEVICE("d");

	setup();
	for (u32 i = 0; i < 4; i++)
		CHECK_EQ(tdmi_notifier_register(&nots, &h[i].n), 0);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	h[2].would_sleep = true;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0); /* it may sleep in this one */
	tdmi_invalidate_end(&nots, &a);
	a.blockable = false;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), -EAGAIN);
	CHECK(h[0].starts == 2 && h[1].starts == 2 && h[2].starts == 1 && h[3].starts == 1);
	CHECK(h[0].ends == 2 && h[1].ends == 2 && h[2].ends == 1 && h[3].ends == 1);
	CHECK_EQ(nots.rounds[0] + nots.rounds[1], 0);
	CHECK_EQ(nots.seq, 6);
	CHECK_EQ(tdm_interval_read_begin(&d.in), 5);
	h[2].would_sleep = false;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate_end(&nots, &a);
	for (u32 i = 0; i < 4; i++) {
		CHECK_EQ(h[i].starts, h[i].ends);
		tdmi_notifier_unregister(&nots, &h[i].n);
	}
	tdmi_interval_notifier_remove(&d.in);
	teardown();
}

TEST(interval_that_would_sleep)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct device d[3] = { DEVICE("0"), DEVICE("1"), DEVICE("2") };
	struct hearer h = HEARER("h");

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	/* In the order of the tree. */
	for (u32 i = 0; i < 3; i++)
		CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d[i].in, 0, (1 + i) * PAGE), 0);
	d[1].would_sleep = true;
	a.blockable = false;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), -EAGAIN);
	CHECK_EQ(h.starts + h.ends, 0);
	CHECK(d[0].calls == 1 && d[1].calls == 0 && d[2].calls == 0);
	CHECK_EQ(nots.rounds[0] + nots.rounds[1], 0);
	CHECK_EQ(nots.seq, 4);
	CHECK_EQ(tdm_interval_read_begin(&d[0].in), 3); /* nobody waits for a round that is not there */
	a.blockable = true;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate_end(&nots, &a);
	CHECK(d[0].calls == 2 && d[1].calls == 1 && d[2].calls == 1);
	for (u32 i = 0; i < 3; i++)
		tdmi_interval_notifier_remove(&d[i].in);
	tdmi_notifier_unregister(&nots, &h.n);
	teardown();
}

static void register_it(void *arg)
{
	CHECK_EQ(tdmi_notifier_register(&nots, arg), 0);
	CHECK_EQ(tdm_a32_ld_acquire(&step), 2);
	tdm_a32_st_release(&step, 3);
}

TEST(register_waits_for_what_it_has_missed)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR), b = a, c = a;
	struct hearer h = HEARER("h");
	struct plat_thread *t;

	setup();
	tdmi_notifiers_arm(&nots);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &c), 0);
	CHECK_EQ(plat_thread_start(&t, register_it, &h.n, "registers"), 0);
	until_asleep(1);
	/* What begins now is heard, and does not hold it up. */
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	CHECK_EQ(h.starts, 1);
	tdmi_invalidate_end(&nots, &c);
	CHECK_EQ(h.ends, 0);
	pause_ms(20);
	tdm_a32_st_release(&step, 2);
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(h.ends, 0);
	until(&step, 3);
	plat_thread_join(t);
	tdmi_invalidate_end(&nots, &b);
	CHECK_EQ(h.ends, 1);
	tdmi_notifier_unregister(&nots, &h.n);
	teardown();
}

static tdm_a32 in_callback, let_go;

static int start_stays(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	(void)n;
	(void)range;
	tdm_a32_st_release(&in_callback, 1);
	until(&let_go, 1);
	return 0;
}

static const struct tdm_notifier_ops stays_ops = { .invalidate_start = start_stays, .release = hear_release };

static void one_round(void *arg)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);

	(void)arg;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate_end(&nots, &a);
}

static void unregister_it(void *arg)
{
	struct hearer *h = arg;

	tdmi_notifier_unregister(&nots, &h->n);
	CHECK_EQ(tdm_a32_ld_acquire(&let_go), 1);
	CHECK_EQ(h->releases, 1);
	tdm_a32_st_release(&step, 1);
}

/* Also: the one that the walk would call next goes meanwhile. */
TEST(unregister_waits_for_the_callback)
{
	struct hearer h = { .n = { .name = "h", .ops = &stays_ops } }, next = HEARER("next"), last = HEARER("last");
	struct plat_thread *round, *t;

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &next.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &last.n), 0);
	CHECK_EQ(plat_thread_start(&round, one_round, NULL, "round"), 0);
	until(&in_callback, 1);
	tdmi_notifier_unregister(&nots, &next.n); /* nobody is in it: at once */
	memset(&next, 0xa5, sizeof(next));
	CHECK_EQ(plat_thread_start(&t, unregister_it, &h, "unregisters"), 0);
	until_asleep(1);
	pause_ms(20);
	CHECK_EQ(tdm_a32_ld_acquire(&step), 0);
	CHECK_EQ(h.releases, 0);
	tdm_a32_st_release(&let_go, 1);
	until(&step, 1);
	plat_thread_join(t);
	plat_thread_join(round);
	CHECK(last.starts == 1 && last.ends == 1);
	tdmi_notifier_unregister(&nots, &last.n);
	teardown();
}

TEST(release_once)
{
	struct hearer before = HEARER("before"), h = HEARER("h"), deaf = { .n = { .name = "deaf", .ops = &deaf_ops } }, late = HEARER("late");
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct device d = DEVICE("d"), e = DEVICE("e"), f = DEVICE("f");

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &before.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &deaf.n), 0);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &e.in, 0 - 2 * PAGE, 0 - PAGE), 0);
	tdmi_notifier_unregister(&nots, &before.n);
	CHECK_EQ(before.releases, 1);
	tdmi_notifiers_release(&nots);
	tdmi_notifiers_release(&nots);
	CHECK(h.releases == 1 && before.releases == 1);
	CHECK(d.calls == 1 && e.calls == 1);
	CHECK_EQ(nots.seq, 4);
	CHECK_EQ(h.starts, 0);
	/* There is nothing to come after it. */
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate(&nots, 0, PAGE);
	tdmi_invalidate_end(&nots, &a);
	CHECK_EQ(h.starts + h.ends + h.invalidates, 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &late.n), -ESRCH);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &f.in, 0, PAGE), -ESRCH);
	tdmi_notifier_unregister(&nots, &h.n);
	tdmi_notifier_unregister(&nots, &deaf.n);
	CHECK_EQ(h.releases, 1);
	tdmi_interval_notifier_remove(&d.in);
	tdmi_interval_notifier_remove(&e.in);
	teardown();
}

TEST(what_may_wait)
{
	static const enum tdm_inv_event plain[] = { TDM_INV_UNMAP, TDM_INV_CLEAR, TDM_INV_PROTECTION_VMA, TDM_INV_PROTECTION_PAGE,
						    TDM_INV_SOFT_DIRTY, TDM_INV_RELEASE };
	static const enum tdm_inv_change changes[] = { TDM_INV_SAME_FRAME, TDM_INV_NO_FRAME, TDM_INV_OTHER_FRAME };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(plain); i++) {
		CHECK(tdm_may_defer(plain[i], TDM_INV_SAME_FRAME, false));
		CHECK(tdm_may_defer(plain[i], TDM_INV_SAME_FRAME, true));
		CHECK(tdm_may_defer(plain[i], TDM_INV_NO_FRAME, true));
		CHECK(!tdm_may_defer(plain[i], TDM_INV_NO_FRAME, false));
		CHECK(!tdm_may_defer(plain[i], TDM_INV_OTHER_FRAME, true));
		CHECK(!tdm_may_defer(plain[i], TDM_INV_OTHER_FRAME, false));
	}
	for (u32 i = 0; i < TDM_ARRAY_SIZE(changes); i++) {
		CHECK(!tdm_may_defer(TDM_INV_MIGRATE, changes[i], true));
		CHECK(!tdm_may_defer(TDM_INV_EXCLUSIVE, changes[i], true));
	}
}

/* ---- who hangs ------------------------------------------------------------------------------------------------------------------- */

static bool interval_stays(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	(void)range;
	tdm_interval_set_seq(in, cur_seq);
	tdm_a32_st_release(&in_callback, 1);
	until(&let_go, 1);
	return true;
}

static const struct tdm_interval_notifier_ops interval_stays_ops = { .invalidate = interval_stays };

TEST(a_hung_interval_is_named)
{
	struct device d = { .in = { .name = "the one that hangs", .ops = &interval_stays_ops } }, fine = DEVICE("fine");
	struct plat_thread *t;
	char name[64] = "?", small[4] = "???";

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &fine.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, 2 * PAGE), 0);
	CHECK(!tdmi_notifiers_stuck(&nots, 0, name, sizeof(name)));
	CHECK_EQ(plat_thread_start(&t, one_round, NULL, "round"), 0);
	until(&in_callback, 1);
	pause_ms(10);
	CHECK(tdmi_notifiers_stuck(&nots, 5000000, name, sizeof(name)));
	CHECK_STR(name, "the one that hangs");
	CHECK(tdmi_notifiers_stuck(&nots, 5000000, small, sizeof(small)));
	CHECK_STR(small, "the");
	CHECK(!tdmi_notifiers_stuck(&nots, (u64)3600 * 1000000000, name, sizeof(name)));
	tdm_a32_st_release(&let_go, 1);
	plat_thread_join(t);
	CHECK(!tdmi_notifiers_stuck(&nots, 0, name, sizeof(name)));
	tdmi_interval_notifier_remove(&d.in);
	tdmi_interval_notifier_remove(&fine.in);
	teardown();
}

TEST(a_hung_notifier_is_named)
{
	struct hearer h = { .n = { .name = "stays", .ops = &stays_ops } }, fine = HEARER("fine");
	struct plat_thread *t;
	char name[64] = "?";

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &fine.n), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	CHECK_EQ(plat_thread_start(&t, one_round, NULL, "round"), 0);
	until(&in_callback, 1);
	pause_ms(10);
	CHECK(tdmi_notifiers_stuck(&nots, 5000000, name, sizeof(name)));
	CHECK_STR(name, "stays");
	tdm_a32_st_release(&let_go, 1);
	plat_thread_join(t);
	CHECK(!tdmi_notifiers_stuck(&nots, 0, name, sizeof(name)));
	tdmi_notifier_unregister(&nots, &h.n);
	tdmi_notifier_unregister(&nots, &fine.n);
	teardown();
}

/* ---- misuse ------------------------------------------------------------------------------------------------------------------------ */

TEST_DIES(end_without_start, "bug")
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);

	setup();
	tdmi_invalidate_end(&nots, &a);
}

TEST_DIES(end_twice, "bug")
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);

	setup();
	tdmi_notifiers_arm(&nots);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate_end(&nots, &a);
	tdmi_invalidate_end(&nots, &a);
}

TEST_DIES(start_twice, "bug")
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);

	setup();
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	(void)tdmi_invalidate_start(&nots, &a);
}

TEST_DIES(end_after_a_start_that_failed, "bug")
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct hearer h = HEARER("h");

	setup();
	h.would_sleep = true;
	a.blockable = false;
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), -EAGAIN);
	tdmi_invalidate_end(&nots, &a);
}

static bool never(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	(void)in;
	(void)range;
	(void)cur_seq;
	return false;
}

static const struct tdm_interval_notifier_ops never_ops = { .invalidate = never };

TEST_DIES(would_sleep_where_it_may, "bug")
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct device d = { .in = { .name = "never", .ops = &never_ops } };

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	(void)tdmi_invalidate_start(&nots, &a);
}

TEST_DIES(first_subscription_within_a_round, "bug: the first subscription")
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct hearer h = HEARER("h");

	setup();
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	tdmi_invalidate_end(&nots, &a);
}

TEST_DIES(register_twice, "bug")
{
	struct hearer h = HEARER("h");

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	(void)tdmi_notifier_register(&nots, &h.n);
}

TEST_DIES(unregister_twice, "bug")
{
	struct hearer h = HEARER("h");

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	tdmi_notifier_unregister(&nots, &h.n);
	tdmi_notifier_unregister(&nots, &h.n);
}

TEST_DIES(insert_twice, "bug")
{
	struct device d = DEVICE("d");

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	(void)tdmi_interval_notifier_insert(&nots, &d.in, 0, 2 * PAGE);
}

TEST_DIES(remove_twice, "bug")
{
	struct device d = DEVICE("d");

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	tdmi_interval_notifier_remove(&d.in);
	tdmi_interval_notifier_remove(&d.in);
}

TEST_DIES(destroyed_while_subscribed, "bug")
{
	struct device d = DEVICE("d");

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	tdmi_notifiers_destroy(&nots);
}

static void end_unregisters(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	(void)range;
	tdmi_notifier_unregister(&nots, n);
}

static void invalidate_unregisters(struct tdm_notifier *n, u64 start, u64 end)
{
	(void)start;
	(void)end;
	tdmi_notifier_unregister(&nots, n);
}

static const struct tdm_notifier_ops unregisters_ops = { .invalidate_end = end_unregisters, .invalidate = invalidate_unregisters };

TEST_DIES(unregister_in_a_callback, "bug: lock taken out of order")
{
	struct hearer h = { .n = { .name = "h", .ops = &unregisters_ops } };

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	one_round(NULL);
}

TEST_DIES(unregister_in_an_atomic_callback, "bug: lock taken out of order")
{
	struct hearer h = { .n = { .name = "h", .ops = &unregisters_ops } };

	setup();
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	tdmi_invalidate(&nots, 0, PAGE);
}

static bool removes(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	(void)range;
	(void)cur_seq;
	tdmi_interval_notifier_remove(in);
	return true;
}

static const struct tdm_interval_notifier_ops removes_ops = { .invalidate = removes };

TEST_DIES(remove_in_a_callback, "bug: lock taken out of order")
{
	struct device d = { .in = { .name = "d", .ops = &removes_ops } };

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	one_round(NULL);
}

TEST_DIES(unregister_with_the_event_lock, "bug: lock taken out of order")
{
	struct hearer h = HEARER("h");
	struct plat_mutex event_lock;

	setup();
	plat_mutex_init(&event_lock, TDM_RANK_EVENT);
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	plat_mutex_lock(&event_lock);
	tdmi_notifier_unregister(&nots, &h.n);
}

#ifdef TDM_DEBUG
TEST_DIES(remove_within_a_round_of_ones_own, "bug: lock taken out of order")
{
	struct tdm_inv_range a = TDM_INV_RANGE(FAR, FAR + PAGE, TDM_INV_CLEAR);
	struct device d = DEVICE("d");

	setup();
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_interval_notifier_remove(&d.in);
}

TEST_DIES(start_with_a_table_locked, "bug: lock taken out of order")
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
	struct plat_mutex table;

	setup();
	tdmi_notifiers_arm(&nots);
	plat_mutex_init(&table, TDM_RANK_PT0);
	plat_mutex_lock(&table);
	(void)tdmi_invalidate_start(&nots, &a);
}
#endif

/* What is allowed to hold, and rounds that overlap without nesting: no check is in the way. */
TEST(locks_that_may_be_held)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR), b = a;
	struct plat_mutex event_lock, table;
	struct hearer h = HEARER("h");
	struct device d = DEVICE("d");

	setup();
	plat_mutex_init(&event_lock, TDM_RANK_EVENT);
	plat_mutex_init(&table, TDM_RANK_PT0);
	CHECK_EQ(tdmi_notifier_register(&nots, &h.n), 0);
	CHECK_EQ(tdmi_interval_notifier_insert(&nots, &d.in, 0, PAGE), 0);
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	plat_mutex_lock(&event_lock);
	CHECK_EQ(tdmi_invalidate_start(&nots, &b), 0);
	plat_mutex_lock(&table);
	tdmi_invalidate(&nots, 0, PAGE);
	(void)tdmi_notifiers_clear_flush_young(&nots, 0, PAGE);
	plat_mutex_unlock(&table);
	tdmi_invalidate_end(&nots, &a);
	tdmi_invalidate_end(&nots, &b);
	plat_mutex_unlock(&event_lock);
	CHECK(h.starts == 2 && h.ends == 2 && d.calls == 2);
	tdmi_notifier_unregister(&nots, &h.n);
	tdmi_interval_notifier_remove(&d.in);
	teardown();
}

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

static void remove_in_round(void *arg)
{
	until(&step, 2);
	remove_it(arg);
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

	if (t_slow())
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

/* ---- release against unregister --------------------------------------------------------------------------------------------------- */

/* Threads that unregister against the end of the address space. */
static void leaves(void *arg)
{
	until(&step, 1);
	tdmi_notifier_unregister(&nots, arg);
}

TEST(release_against_unregister, .seconds = 60)
{
	for (u32 i = 0; i < (t_slow() ? 100u : 1000u); i++) {
		struct hearer h[2] = { HEARER("0"), HEARER("1") };
		struct plat_thread *t[2];

		setup();
		tdm_a32_st_release(&step, 0);
		for (u32 k = 0; k < 2; k++) {
			CHECK_EQ(tdmi_notifier_register(&nots, &h[k].n), 0);
			CHECK_EQ(plat_thread_start(&t[k], leaves, &h[k].n, "leaves"), 0);
		}
		tdm_a32_st_release(&step, 1);
		for (u32 k = i % 8; k; k--)
			plat_yield();
		tdmi_notifiers_release(&nots);
		for (u32 k = 0; k < 2; k++)
			plat_thread_join(t[k]);
		CHECK(h[0].releases == 1 && h[1].releases == 1);
		teardown();
	}
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
