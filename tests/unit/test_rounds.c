// SPDX-License-Identifier: MIT
/*
 * test_rounds.c - who has translations is told: of what, and when. A device's page table (shadow.h) has some for all pages that are touched here, and whatever is
 * done to them it is told before; of what takes nothing away from it it is not told.
 */
#include "shadow.h"

static void begin(void)
{
	start();
	device_start(1024);
	map(BASE, BASE + P(PAGES));
	shadow_start();
}

static void end(void)
{
	shadow_check();
	shadow_finish();
	device_finish();
	finish();
}

/* Pages [a, b) are there, and the device knows them. */
static void known(u32 a, u32 b)
{
	for (u32 i = b; i-- > a;)
		put(BASE + P(i) + 8 * (i % 512), i + 1);
	CHECK_EQ(shadow_fill(a, b, 0), 0);
	for (u32 i = a; i < b; i++)
		CHECK(shadow.entry[i]);
	shadow.nheard = 0;
}

static void to_device(u32 a, u32 b)
{
	u64 n;

	known(a, b);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(a), BASE + P(b), &n), 0);
	CHECK_EQ(n, b - a);
	CHECK_EQ(shadow_fill(a, b, 0), 0);
	for (u32 i = a; i < b; i++)
		CHECK(shadow.entry[i] & TDM_RF_DEVICE);
	shadow.nheard = 0;
}

/* How many pages of [a, b) it knows. */
static u32 knows(u32 a, u32 b)
{
	u32 n = 0;

	for (u32 i = a; i < b; i++)
		n += shadow.entry[i] != 0;
	shadow_check();
	return n;
}

/* [from, to), and in no larger pieces than those that are dealt with at once. */
static void heard_each(u64 from, u64 to, u64 unit, enum tdm_inv_event event)
{
	for (u32 i = 0; i < shadow.nheard; i++)
		CHECK(shadow.heard[i].end - shadow.heard[i].start <= TDM_MAX(unit, TDM_HUGE_SIZE));
	heard_one(from, to, event, NULL);
}

TEST(taken_home)
{
	begin();
	known(0, 64);
	CHECK_EQ(home_pages(BASE + P(16), BASE + P(48)), 32);
	heard_each(BASE + P(16), BASE + P(48), TDM_BLOCK_SIZE, TDM_INV_CLEAR);
	CHECK_EQ(knows(0, 64), 32);
	/* From there to a tier or a device they go in silence: nobody can have had them. */
	CHECK_EQ(out_pages(BASE + P(16), BASE + P(32)), 16);
	shadow.nheard = 0;
	u64 n;
	CHECK_EQ(tdmi_range_pack(ctx, BASE + P(32), BASE + P(48), &dev.pool, &n), 0);
	CHECK_EQ(n, 16);
	heard_none();
	tdmi_age(ctx, 1000);
	CHECK_EQ(knows(0, 64), 0);
	CHECK(shadow.nheard >= 2);
	end();
}

TEST(reclaimed)
{
	begin();
	known(0, 1024);
	CHECK(tdmi_reclaim(ctx, 0, 512) >= 512);
	CHECK(knows(0, 1024) <= 512);
	end();
}

TEST(a_leaf_is_taken_home)
{
	begin();
	tdmi_cpu_preset(&cpu, BASE + H, TDM_HUGE_PAGES, 1, true);
	adopt(BASE + H, BASE + 2 * H);
	CHECK_EQ(shadow_fill(512, 1024, 0), 0);
	heard_none();
	CHECK_EQ(home_pages(BASE + H, BASE + 2 * H), 512);
	heard_one(BASE + H, BASE + 2 * H, TDM_INV_CLEAR, NULL);
	CHECK_EQ(knows(512, 1024), 0);
	/* And a part of one. */
	CHECK_EQ(shadow_fill(512, 1024, TDM_RF_REQ_FAULT), 0);
	heard_none();
	CHECK_EQ(knows(512, 1024), 512);
	CHECK_EQ(home_pages(BASE + H, BASE + H + P(5)), 5);
	CHECK_EQ(knows(512, 517), 0);
	end();
}

/* What was not there may come without anybody being told. */
TEST(what_comes_from_nowhere_comes_in_silence)
{
	begin();
	known(0, 64);
	CHECK_EQ(home_pages(BASE, BASE + P(32)), 32);
	CHECK_EQ(out_pages(BASE + P(32), BASE + P(64)), 32);
	shadow.nheard = 0;
	get_range(0, 64, 1);
	put_range(100, 200, 1);
	tdmi_cpu_preset(&cpu, BASE + P(300), 20, 1, false);
	adopt(BASE + P(300), BASE + P(320));
	heard_none();
	CHECK_EQ(out_pages(BASE, BASE + P(64)), 64);
	shadow.nheard = 0;
	CHECK_EQ(tdmi_bring(ctx, BASE, BASE + P(64)), 0);
	heard_none();
	end();
}

TEST(unmapped_dropped_moved)
{
	begin();
	known(0, 256);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(10), BASE + P(30));
	heard_one(BASE + P(10), BASE + P(30), TDM_INV_UNMAP, NULL);
	CHECK_EQ(knows(0, 64), 44);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(40), BASE + P(50));
	heard_one(BASE + P(40), BASE + P(50), TDM_INV_CLEAR, NULL);
	CHECK_EQ(knows(0, 64), 34);
	known(1000, 1064);
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(64), BASE + P(1000), P(64));
	CHECK_EQ(knows(64, 128), 0);
	CHECK_EQ(knows(1000, 1064), 0);
	for (u32 i = 0; i < shadow.nheard; i++)
		CHECK_EQ(shadow.heard[i].event, TDM_INV_UNMAP);
	end();
}

/* The engine alone, as the live process tells it: the old place is told of by what moves it. */
TEST(moved)
{
	begin();
	known(0, 64);
	tdmi_cpu_drop(&cpu, BASE, BASE + P(64));
	plat_mutex_lock(&mm.event_lock);
	tdmi_move(ctx, BASE, BASE + P(2000), P(64));
	plat_mutex_unlock(&mm.event_lock);
	heard_one(BASE, BASE + P(64), TDM_INV_UNMAP, NULL);
	CHECK_EQ(knows(0, 64), 0);
	end();
}

TEST(settled)
{
	begin();
	known(0, 16);
	to_device(3, 4);
	*tdm_cpu_flags(&cpu, BASE + P(3)) |= TDM_CPU_PRESENT;
	plat_mutex_lock(&mm.event_lock);
	tdmi_settle(ctx, BASE + P(3));
	plat_mutex_unlock(&mm.event_lock);
	heard_one(BASE + P(3), BASE + P(4), TDM_INV_CLEAR, NULL);
	CHECK_EQ(knows(3, 4), 0);
	end();
}

/* ---- a device's memory --------------------------------------------------------------------------------------------------------------- */

static u32 copies;

/* Before the first byte leaves, none of it is known any more. */
static void on_out(struct test_device *d, u32 frame, u32 n)
{
	shadow_unused(d, frame, n);
	CHECK(shadow.nheard > 0);
	copies++;
}

TEST(touched)
{
	begin();
	to_device(0, 64);
	dev.on_out = on_out;
	get_range(20, 21, 1);
	heard_one(BASE + P(16), BASE + P(32), TDM_INV_CLEAR, NULL);
	CHECK_EQ(knows(0, 64), 48);
	CHECK(copies > 0);
	/* A write is no different. */
	put(BASE + P(40), 1);
	heard_one(BASE + P(32), BASE + P(48), TDM_INV_CLEAR, NULL);
	CHECK_EQ(knows(0, 64), 32);
	end();
}

TEST(brought)
{
	begin();
	to_device(0, 64);
	dev.on_out = on_out;
	CHECK_EQ(tdmi_bring(ctx, BASE + P(8), BASE + P(56)), 0);
	heard_each(BASE, BASE + P(64), TDM_BLOCK_SIZE, TDM_INV_CLEAR);
	CHECK(copies >= 4);
	get_range(8, 56, 1);
	heard_none();
	end();
}

TEST(evicted)
{
	u64 n;

	begin();
	to_device(0, 64);
	to_device(70, 73);
	dev.on_out = on_out;
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 16, &n), 0);
	CHECK_EQ(n, 16);
	heard_one(BASE, BASE + P(16), TDM_INV_MIGRATE, NULL);
	CHECK_EQ(knows(0, 80), 51);
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 1000, &n), 0);
	CHECK_EQ(n, 51);
	CHECK_EQ(shadow.nheard, 6);
	CHECK_EQ(knows(0, 80), 0);
	CHECK_EQ(copies, 7);
	end();
}

TEST(unmapped_and_moved_from_the_device)
{
	u64 n;

	begin();
	to_device(0, 128);
	dev.on_out = on_out;
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(10), BASE + P(20));
	heard_one(BASE + P(10), BASE + P(20), TDM_INV_UNMAP, NULL);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(20), BASE + P(30));
	heard_one(BASE + P(20), BASE + P(30), TDM_INV_CLEAR, NULL);
	CHECK_EQ(copies, 0);
	CHECK_EQ(knows(0, 128), 108);
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(40), BASE + P(1003), P(40));
	CHECK_EQ(copies, 40);
	CHECK_EQ(knows(0, 128), 68);
	CHECK_EQ(knows(1003, 1043), 0);
	for (u32 i = 40; i < 80; i++)
		CHECK_EQ(get(BASE + P(963 + i) + 8 * i), i + 1);
	/* Whole blocks: their frames are free when it has been told (shadow_unused()). */
	n = dev.freed;
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(96), BASE + P(112));
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(112), BASE + P(128));
	CHECK_EQ(dev.freed, n + 32);
	end();
}

/* What lies next to a page that is touched, or in its way, is not wanted: it stays, and nobody is told. */
TEST(a_guess_brings_nothing_back)
{
	u32 level;

	begin();
	to_device(8, 16);
	known(0, 8);
	CHECK_EQ(out_pages(BASE, BASE + P(4)), 4);
	CHECK_EQ(home_pages(BASE + P(4), BASE + P(6)), 2);
	CHECK_EQ(shadow_fill(8, 16, 0), 0);
	shadow.nheard = 0;
	for (u32 i = 0; i < 8; i++)
		get_range(i, i + 1, 1);
	heard_none();
	CHECK_EQ(knows(8, 16), 8);
	/* A stream that runs into what the device has. */
	to_device(128, 256);
	for (u32 i = 64; i < 128; i++)
		put(BASE + P(i), i);
	heard_none();
	CHECK_EQ(knows(128, 256), 128);
	/* One page of it is touched: the rest of its block may come, and nothing else. */
	get_range(128, 129, 1);
	CHECK_EQ(knows(144, 256), 112);
	heard_one(BASE + P(128), BASE + P(144), TDM_INV_CLEAR, NULL);
	for (u32 i = 144; i < 256; i++)
		CHECK(tdm_pte_is(entry(BASE + P(i), &level), TDM_PTE_T_PRIVATE));
	end();
}

/* A copy that fails has been told of, and the page stays where it was: it can be had again. */
TEST(evicted_in_vain)
{
	u64 n;

	begin();
	to_device(0, 16);
	dev.fail = 1;
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 16, &n), -EIO);
	heard_one(BASE, BASE + P(16), TDM_INV_MIGRATE, NULL);
	CHECK_EQ(shadow_fill(0, 16, 0), 0);
	CHECK_EQ(knows(0, 16), 16);
	end();
}

/* No page is given to anybody while a round for it runs: what range_fault says then is not to be used. */
static struct tdm_inv_range within;

TEST(nothing_is_had_within_a_round)
{
	static u64 out[16];
	struct tdm_range_fault rf = { .start = BASE, .end = BASE + P(16), .entry = out, .owner = &dev, .in = &shadow.in };

	begin();
	known(0, 16);
	rf.seq = tdm_interval_read_begin(&shadow.in);
	within = TDM_INV_RANGE(BASE + P(3), BASE + P(4), TDM_INV_CLEAR);
	CHECK_EQ(tdmi_invalidate_start(&mm.notifiers, &within), 0);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EBUSY);
	rf.default_flags = TDM_RF_REQ_FAULT;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EBUSY);
	tdmi_invalidate_end(&mm.notifiers, &within);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EBUSY);
	rf.seq = tdm_interval_read_begin(&shadow.in);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	end();
}
