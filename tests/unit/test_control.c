/* SPDX-License-Identifier: MIT */
/* The rules of the segment that the processes under `tandem run` share. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "run/control.h"
#include "t.h"

#define MIB ((u64)1 << 20)

static struct tdm_control *fresh(u64 budget)
{
	struct tdm_control *c = calloc(1, sizeof(*c));

	c->magic = TDM_CONTROL_MAGIC;
	c->version = TDM_CONTROL_VERSION;
	c->size = sizeof(*c);
	c->budget = budget;
	return c;
}

static u32 process(struct tdm_control *c, u32 pid, u64 usage)
{
	int i = tdmi_control_claim(c, pid, pid * 10, "prog");

	CHECK(i >= 0);
	tdm_a64_st_relaxed(&c->slot[i].gauge[TDM_GAUGE_USAGE], usage);
	return (u32)i;
}

/* Processes up to *arg are dead; 0 ticks match any. */
static bool alive_above(void *arg, u32 pid, u64 ticks)
{
	return pid > *(u32 *)arg && (!ticks || ticks == pid * 10);
}

TEST(control_check_refuses_what_is_not_ours)
{
	struct tdm_control *c = fresh(MIB);

	CHECK_EQ(tdmi_control_check(c, sizeof(*c)), 0);
	CHECK_EQ(tdmi_control_check(c, 8), -EINVAL);
	CHECK_EQ(tdmi_control_check(c, sizeof(*c) - 1), -EINVAL);
	c->version++;
	CHECK_EQ(tdmi_control_check(c, sizeof(*c)), -EPROTO);
	c->version--;
	c->size--;
	CHECK_EQ(tdmi_control_check(c, sizeof(*c)), -EPROTO);
	c->size++;
	c->ntiers = TDM_CONTROL_TIERS + 1;
	CHECK_EQ(tdmi_control_check(c, sizeof(*c)), -EINVAL);
	c->ntiers = 0;
	c->magic = 0;
	CHECK_EQ(tdmi_control_check(c, sizeof(*c)), -EINVAL);
	free(c);
}

TEST(control_slot_comes_back_empty_and_totals_stay)
{
	struct tdm_control *c = fresh(64 * MIB);
	u32 a = process(c, 100, 5 * MIB), b = process(c, 200, 7 * MIB);
	struct tdm_control_totals t;

	CHECK(a != b);
	CHECK_STR(c->slot[a].comm, "prog");
	CHECK_EQ(tdmi_control_usage(c), 12 * MIB);
	tdm_a64_st_relaxed(&c->slot[a].stat[TDM_STAT_HARD_FAULTS], 11);
	tdm_a64_st_relaxed(&c->slot[b].stat[TDM_STAT_HARD_FAULTS], 22);
	tdm_a64_st_relaxed(&c->slot[a].tier_out[1], 4096);
	tdm_a64_st_relaxed(&c->slot[a].tier_now[1], 4096);
	tdm_a32_st_relaxed(&c->slot[a].managed, 1);
	tdmi_control_totals(c, &t);
	CHECK_EQ(t.stat[TDM_STAT_HARD_FAULTS], 33);
	CHECK_EQ(t.tier_now[1], 4096);
	CHECK_EQ(t.live, 2);
	CHECK_EQ(t.managed, 1);

	tdmi_control_release(c, a);
	tdmi_control_totals(c, &t);
	CHECK_EQ(t.stat[TDM_STAT_HARD_FAULTS], 33);
	CHECK_EQ(t.tier_out[1], 4096);
	CHECK_EQ(t.tier_now[1], 0);
	CHECK_EQ(t.live, 1);
	CHECK_EQ(tdmi_control_usage(c), 7 * MIB);
	CHECK_EQ(tdm_a64_ld_relaxed(&c->peak), 12 * MIB);
	/* What may have been copied counts, but nobody is told that it was there. */
	tdm_a64_st_relaxed(&c->slot[b].gauge[TDM_GAUGE_USAGE], 20 * MIB);
	tdm_a64_st_relaxed(&c->slot[b].gauge[TDM_GAUGE_GUESSED], 7 * MIB);
	CHECK_EQ(tdmi_control_usage(c), 20 * MIB);
	CHECK_EQ(tdm_a64_ld_relaxed(&c->peak), 13 * MIB);
	tdm_a64_st_relaxed(&c->slot[b].gauge[TDM_GAUGE_USAGE], 7 * MIB);
	tdm_a64_st_relaxed(&c->slot[b].gauge[TDM_GAUGE_GUESSED], 0);

	CHECK_EQ(process(c, 300, 0), a);
	CHECK_EQ(tdm_a64_ld_relaxed(&c->slot[a].stat[TDM_STAT_HARD_FAULTS]), 0);
	CHECK_EQ(tdm_a32_ld_relaxed(&c->slot[a].managed), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&c->procs), 3);
	free(c);
}

TEST(control_exec_keeps_the_slot)
{
	struct tdm_control *c = fresh(64 * MIB);
	u32 a = process(c, 100, 5 * MIB);
	struct tdm_control_totals t;

	tdm_a64_st_relaxed(&c->slot[a].stat[TDM_STAT_SOFT_FAULTS], 9);
	CHECK_EQ(tdmi_control_claim(c, 100, 1000, "a program with a long name"), a);
	CHECK_STR(c->slot[a].comm, "a program with ");
	CHECK_EQ(tdmi_control_usage(c), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&c->procs), 1);
	tdmi_control_totals(c, &t);
	CHECK_EQ(t.stat[TDM_STAT_SOFT_FAULTS], 9);
	free(c);
}

TEST(control_full_is_counted)
{
	struct tdm_control *c = fresh(64 * MIB);

	for (u32 i = 0; i < TDM_CONTROL_SLOTS; i++)
		CHECK_EQ(tdmi_control_claim(c, i + 1, 0, "x"), i);
	CHECK_EQ(tdmi_control_claim(c, 5000, 0, "x"), -ENOSPC);
	CHECK_EQ(tdm_a64_ld_relaxed(&c->unmanaged), 1);
	free(c);
}

TEST(control_reaps_the_dead_only)
{
	struct tdm_control *c = fresh(64 * MIB);
	u32 dead_up_to = 200, a = process(c, 100, 5 * MIB), b = process(c, 200, MIB), d = process(c, 300, 2 * MIB);
	struct tdm_control_totals t;

	tdm_a64_st_relaxed(&c->slot[a].stat[TDM_STAT_STALLS], 3);
	tdm_a64_st_relaxed(&c->slot[b].stat[TDM_STAT_STALLS], 4);
	CHECK_EQ(tdmi_control_reap(c, 9, alive_above, &dead_up_to), 2);
	CHECK_EQ(tdmi_control_usage(c), 2 * MIB);
	CHECK_EQ(tdmi_control_reap(c, 9, alive_above, &dead_up_to), 0);
	/* The same pid, another process. */
	tdm_a64_st_relaxed(&c->slot[d].start_ticks, 77);
	CHECK_EQ(tdmi_control_reap(c, 9, alive_above, &dead_up_to), 1);
	tdmi_control_totals(c, &t);
	CHECK_EQ(t.stat[TDM_STAT_STALLS], 7);
	CHECK_EQ(t.live, 0);
	free(c);
}

TEST(control_reap_lock_of_the_dead_is_taken_over)
{
	struct tdm_control *c = fresh(64 * MIB);
	u32 dead_up_to = 200;

	process(c, 100, 0);
	tdm_a32_st_relaxed(&c->reap_lock, 300); /* alive */
	CHECK_EQ(tdmi_control_reap(c, 301, alive_above, &dead_up_to), 0);
	tdm_a32_st_relaxed(&c->reap_lock, 150); /* died holding it */
	CHECK_EQ(tdmi_control_reap(c, 301, alive_above, &dead_up_to), 1);
	CHECK_EQ(tdm_a32_ld_relaxed(&c->reap_lock), 0);
	free(c);
}

TEST(share_alone_is_everything_but_the_reserve)
{
	struct tdm_control *c = fresh(64 * MIB);
	u32 a = process(c, 1, 0);

	CHECK_EQ(tdmi_control_share(c, a), 64 * MIB - TDM_CONTROL_RESERVE);
	c->budget = 1;
	CHECK_EQ(tdmi_control_share(c, a), 0);
	free(c);
}

TEST(share_small_keeps_big_divide_the_rest)
{
	struct tdm_control *c = fresh(100 * MIB + TDM_CONTROL_RESERVE);
	u32 s = process(c, 1, 9 * MIB), x = process(c, 2, 80 * MIB), y = process(c, 3, 300 * MIB);
	u64 small = 9 * MIB + 9 * MIB / 8;

	CHECK_EQ(tdmi_control_share(c, s), small);
	CHECK_EQ(tdmi_control_share(c, x), (100 * MIB - small) / 2);
	CHECK_EQ(tdmi_control_share(c, y), (100 * MIB - small) / 2);
	/* The second is content with less than half of the rest, once there is more. */
	c->budget = 300 * MIB + TDM_CONTROL_RESERVE;
	CHECK_EQ(tdmi_control_share(c, x), 90 * MIB);
	CHECK_EQ(tdmi_control_share(c, y), 300 * MIB - small - 90 * MIB);
	free(c);
}

TEST(share_slack_is_divided)
{
	struct tdm_control *c = fresh(100 * MIB + TDM_CONTROL_RESERVE);
	u32 a = process(c, 1, 8 * MIB), b = process(c, 2, 16 * MIB);

	CHECK_EQ(tdmi_control_share(c, a), 9 * MIB + 73 * MIB / 2);
	CHECK_EQ(tdmi_control_share(c, b), 18 * MIB + 73 * MIB / 2);
	free(c);
}

/* Whatever the usages: the shares fit, and nobody has less than an equal share unless it asked for less. */
TEST(share_never_adds_up_to_more)
{
	u64 r = t_seed();

	for (u32 round = 0; round < 300; round++) {
		u32 n = 1 + (u32)(t_rand(&r) % 60);
		u64 room = t_rand(&r) % (512 * MIB), sum = 0;
		struct tdm_control *c = fresh(room + TDM_CONTROL_RESERVE);

		for (u32 i = 0; i < n; i++)
			process(c, i + 1, t_rand(&r) % ((u64)1 << (10 + t_rand(&r) % 22)));
		for (u32 i = 0; i < n; i++) {
			u64 share = tdmi_control_share(c, i), u = tdm_a64_ld_relaxed(&c->slot[i].gauge[TDM_GAUGE_USAGE]);

			CHECK(share >= TDM_MIN(room / n, u));
			sum += share;
		}
		CHECK(sum <= room);
		free(c);
	}
}

/* A newborn's share is in use by another: it gets what that one has given back. */
TEST(grant_is_what_is_really_free)
{
	struct tdm_control *c = fresh(80 * MIB + TDM_CONTROL_RESERVE);
	u32 a = process(c, 1, 80 * MIB), b = process(c, 2, 10 * MIB);

	CHECK(tdmi_control_share(c, b) > 10 * MIB);
	CHECK_EQ(tdmi_control_grant(c, b, 1), 10 * MIB);
	CHECK(!tdmi_control_fits(c, b, 1));
	CHECK_EQ(tdmi_control_grant(c, a, 1), tdmi_control_share(c, a));
	tdm_a64_st_relaxed(&c->slot[b].gauge[TDM_GAUGE_USAGE], 30 * MIB);
	tdm_a64_st_relaxed(&c->slot[a].gauge[TDM_GAUGE_USAGE], 44 * MIB);
	CHECK_EQ(tdmi_control_grant(c, b, 1), 33 * MIB);
	CHECK_EQ(tdmi_control_fits(c, b, 1), true);
	/* What an engine is about to take is not free. */
	tdm_a64_st_relaxed(&c->slot[a].ahead, 2 * MIB);
	CHECK_EQ(tdmi_control_grant(c, b, 1), 32 * MIB);
	tdm_a64_st_relaxed(&c->slot[a].ahead, 9 * MIB);
	CHECK_EQ(tdmi_control_grant(c, b, 1), 30 * MIB);
	CHECK(!tdmi_control_fits(c, b, 1));
	free(c);
}

TEST(grant_lets_nobody_starve)
{
	struct tdm_control *c = fresh(80 * MIB + TDM_CONTROL_RESERVE);
	u32 a = process(c, 1, 80 * MIB), b = process(c, 2, 2 * MIB);
	u64 now = 5 * TDM_CONTROL_SILENT_NS;

	tdm_a64_st_relaxed(&c->slot[b].looked_ns, now);
	tdm_a64_st_relaxed(&c->slot[a].looked_ns, now);
	CHECK_EQ(tdmi_control_grant(c, b, now), TDM_MIN(tdmi_control_share(c, b), TDM_CONTROL_LEAST));
	CHECK_EQ(tdmi_control_fits(c, b, now), true);
	tdm_a64_st_relaxed(&c->slot[b].gauge[TDM_GAUGE_USAGE], 20 * MIB);
	CHECK_EQ(tdmi_control_grant(c, b, now), 20 * MIB);
	/* It is stopped: no more than an equal part of what it has is waited for. */
	tdm_a64_st_relaxed(&c->slot[a].looked_ns, now - TDM_CONTROL_SILENT_NS - 1);
	CHECK_EQ(tdmi_control_grant(c, b, now), tdmi_control_share(c, b));
	CHECK_EQ(tdmi_control_fits(c, b, now), true);
	/* Whoever has the slot next is not silent because of that. */
	tdmi_control_release(c, a);
	CHECK_EQ(process(c, 3, 80 * MIB), a);
	CHECK_EQ(tdmi_control_grant(c, b, now), 20 * MIB);
	free(c);
}

/* Whatever the usages: if all take what they are granted at once, it fits, but for what everybody may have. */
TEST(grants_never_add_up_to_more)
{
	u64 r = t_seed();

	for (u32 round = 0; round < 300; round++) {
		u32 n = 2 + (u32)(t_rand(&r) % 30);
		u64 room = t_rand(&r) % (512 * MIB), used = 0, sum = 0;
		struct tdm_control *c = fresh(room + TDM_CONTROL_RESERVE);

		for (u32 i = 0; i < n; i++) {
			u64 usage = t_rand(&r) % ((u64)1 << (10 + t_rand(&r) % 18));

			process(c, i + 1, usage);
			used += TDM_MAX(usage, TDM_CONTROL_LEAST);
		}
		for (u32 i = 0; i < n; i++) {
			u64 grant = tdmi_control_grant(c, i, 0);

			CHECK(grant <= tdmi_control_share(c, i));
			sum += TDM_MAX(grant, tdm_a64_ld_relaxed(&c->slot[i].gauge[TDM_GAUGE_USAGE]));
		}
		CHECK(sum <= TDM_MAX(room, used) + n * TDM_CONTROL_LEAST);
		free(c);
	}
}

TEST(latency_percentiles)
{
	u64 l[32] = { 0 };

	CHECK_EQ(tdmi_latency_ns(l, 1, 2), 0);
	l[3] = 1000; /* 1024 to 2048 ns */
	CHECK(tdmi_latency_ns(l, 1, 2) > 1500 && tdmi_latency_ns(l, 1, 2) < 1560);
	CHECK_EQ(tdmi_latency_ns(l, 1, 1), 2048);
	l[10] = 10;
	CHECK(tdmi_latency_ns(l, 99, 100) <= 2048);
	CHECK(tdmi_latency_ns(l, 999, 1000) > (1 << 17));
	CHECK_EQ(tdmi_latency_ns(l, 1, 1), 1 << 18);
}

TEST(messages_are_heard_in_order_and_once)
{
	struct tdm_control *c = fresh(MIB);
	u32 cursor = 0, pid;
	char text[248], line[300];

	CHECK(!tdmi_control_hear(c, &cursor, &pid, text));
	for (u32 i = 0; i < TDM_CONTROL_MSGS; i++) {
		snprintf(line, sizeof(line), "line %u", i);
		CHECK(tdmi_control_say(c, i, line));
	}
	CHECK(!tdmi_control_say(c, 1, "too much"));
	for (u32 i = 0; i < TDM_CONTROL_MSGS; i++) {
		snprintf(line, sizeof(line), "line %u", i);
		CHECK(tdmi_control_hear(c, &cursor, &pid, text));
		CHECK_EQ(pid, i);
		CHECK_STR(text, line);
	}
	CHECK(!tdmi_control_hear(c, &cursor, &pid, text));
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = 0;
	CHECK(tdmi_control_say(c, 7, line));
	CHECK(tdmi_control_hear(c, &cursor, &pid, text));
	CHECK_EQ(strlen(text), 247);
	free(c);
}

static void *come_and_go(void *arg)
{
	struct tdm_control *c = arg;
	static tdm_a32 next;
	u32 pid = 1000 + tdm_a32_add_relaxed(&next, 1);

	for (u32 i = 0; i < 20000; i++) {
		int s = tdmi_control_claim(c, pid, 1, "t");

		CHECK(s >= 0);
		CHECK_EQ(tdm_a32_ld_relaxed(&c->slot[s].pid), pid);
		tdm_a64_add_relaxed(&c->slot[s].stat[TDM_STAT_FORKS], 1);
		tdmi_control_share(c, (u32)s);
		tdmi_control_release(c, (u32)s);
	}
	return NULL;
}

TEST(control_claims_race)
{
	struct tdm_control *c = fresh(MIB);
	struct tdm_control_totals t;
	pthread_t th[4];

	for (u32 i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&th[i], NULL, come_and_go, c), 0);
	for (u32 i = 0; i < 4; i++)
		pthread_join(th[i], NULL);
	tdmi_control_totals(c, &t);
	CHECK_EQ(t.stat[TDM_STAT_FORKS], 80000);
	CHECK_EQ(t.live, 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&c->procs), 80000);
	free(c);
}
