// SPDX-License-Identifier: MIT
/*
 * test_notifier.c - MMU notifiers: the rules one by one. What breaks them is in test_notifier_misuse.c, many intervals are in test_notifier_many.c, threads against
 * each other in test_notifier_races.c.
 */
#include <string.h>
#include "notifier_subs.h"

static const struct tdm_notifier_ops deaf_ops;

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
