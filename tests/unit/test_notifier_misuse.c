// SPDX-License-Identifier: MIT
/* test_notifier_misuse.c - MMU notifiers: callers and subscribers that break the rules. What can be seen dies at once; who hangs is named. */
#include "base/lockrank.h"
#include "notifier_subs.h"

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
