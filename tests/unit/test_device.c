/* SPDX-License-Identifier: MIT */
/* Pages on a device: they are there and nowhere else, come back when they are touched, and nothing is lost when something goes wrong. */
#include "device_world.h"

static u64 to_device(u32 a, u32 b)
{
	u64 n;

	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(a), BASE + P(b), &n), 0);
	device_check();
	check_counters();
	return n;
}

static u32 on_device(u32 a, u32 b)
{
	u32 n = 0, level;

	for (u32 i = a; i < b; i++)
		n += tdm_pte_is(entry(BASE + P(i), &level), TDM_PTE_T_PRIVATE);
	return n;
}

static void begin(u32 frames)
{
	start();
	device_start(frames);
	map(BASE, BASE + P(PAGES));
}

static void end(void)
{
	device_finish();
	finish();
}

TEST(there_and_back)
{
	begin(1024);
	put_range(0, 100, 7);
	CHECK_EQ(to_device(0, 100), 100);
	CHECK_EQ(on_device(0, 100), 100);
	for (u32 i = 0; i < 100; i++)
		CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT));
	get_range(0, 100, 7);
	CHECK_EQ(on_device(0, 100), 0);
	CHECK_EQ(dev.freed, 100);
	/* Written meanwhile: the new bytes go. */
	put_range(0, 100, 9);
	CHECK_EQ(to_device(0, 100), 100);
	get_range(0, 100, 9);
	end();
}

/* Parts of a block, pages of which some are home, some out, some were never touched. */
TEST(only_what_is_in_ram)
{
	begin(1024);
	put_range(0, 64, 1);
	CHECK_EQ(out_pages(BASE, BASE + P(16)), 16);
	CHECK_EQ(home_pages(BASE + P(16), BASE + P(32)), 16);
	CHECK_EQ(to_device(5, 60), 44);
	CHECK_EQ(on_device(0, 64), 44);
	CHECK_EQ(to_device(1000, 1100), 0);
	get_range(0, 64, 1);
	end();
}

TEST(what_refuses_stays)
{
	begin(1024);
	put_range(0, 32, 1);
	*tdm_cpu_flags(&cpu, BASE + P(3)) |= TDM_CPU_PINNED;
	*tdm_cpu_flags(&cpu, BASE + P(20)) |= TDM_CPU_SHARED;
	CHECK_EQ(to_device(0, 32), 31);
	CHECK(*tdm_cpu_flags(&cpu, BASE + P(3)) & TDM_CPU_PRESENT);
	get_range(0, 32, 1);
	*tdm_cpu_flags(&cpu, BASE + P(3)) &= (u8)~TDM_CPU_PINNED;
	end();
}

TEST(device_memory_is_full)
{
	u64 n;

	begin(512);
	put_range(0, 600, 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE, BASE + P(600), &n), -ENOSPC);
	CHECK_EQ(n, 512);
	device_check();
	check_counters();
	CHECK_EQ(on_device(0, 600), 512);
	/* Room again. */
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 64, &n), 0);
	CHECK_EQ(n, 64);
	CHECK_EQ(to_device(520, 584), 64);
	get_range(0, 600, 1);
	end();
}

/* No block of it is free in one piece at the end: its last pages are used one by one. */
TEST(device_memory_is_full_to_the_last_page)
{
	u64 n;

	begin(512);
	put_range(0, 601, 1);
	CHECK_EQ(to_device(600, 601), 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE, BASE + P(600), &n), -ENOSPC);
	CHECK_EQ(n, 511);
	device_check();
	check_counters();
	CHECK_EQ(on_device(0, 601), 512);
	/* The last block that is asked for has a part of it there, and says that this is not all. */
	CHECK_EQ(tdmi_bring(ctx, BASE + P(600), BASE + P(601)), 0);
	CHECK_EQ(tdmi_bring(ctx, BASE + P(496), BASE + P(512)), 0);
	CHECK_EQ(on_device(0, 601), 496);
	CHECK_EQ(to_device(600, 601), 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(512), BASE + P(528), &n), -ENOSPC);
	CHECK_EQ(n, 15);
	CHECK_EQ(on_device(512, 528), 15);
	check_counters();
	device_check();
	get_range(0, 601, 1);
	end();
}

/* Any copy may fail, there and back, and the page is where it was. */
TEST(copies_fail)
{
	u64 n;

	begin(512);
	put_range(0, 40, 1);
	for (u32 k = 1; k < 12; k++) {
		dev.fail = k;
		(void)tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(1), BASE + P(40), &n);
		dev.fail = 0;
		device_check();
		check_counters();
		CHECK_EQ(n, on_device(0, 40));
		get_range(0, 40, 1);
	}
	CHECK_EQ(to_device(0, 40), 40);
	for (u32 k = 1; k < 10; k++) {
		dev.fail = k;
		(void)tdmi_pool_evict(ctx, &dev.pool, 100, &n);
		dev.fail = 0;
		device_check();
		check_counters();
	}
	get_range(0, 40, 1);
	/* A fault tries again, and has nowhere to go back to: the program finds out about the page that it wants, and the others stay. */
	CHECK_EQ(to_device(0, 16), 16);
	dev.fail = 1;
	get_range(0, 16, 1);
	CHECK_EQ(to_device(0, 16), 16);
	dev.dead = true;
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(3), &n, 8), -EIO);
	dev.dead = false;
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_POISONED), 1);
	device_check();
	check_counters();
	CHECK_EQ(on_device(0, 16), 15);
	get_range(0, 3, 1);
	get_range(4, 16, 1);
	end();
}

static void touch_page(void *arg)
{
	u32 page = *(u32 *)arg;

	dev.on_copy = NULL;
	put(BASE + P(page) + 8 * (page % 512), page + 50);
}

static void unmap_page(void *arg)
{
	u32 page = *(u32 *)arg;

	dev.on_copy = NULL;
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(page), BASE + P(page + 1));
}

/* The program writes to a page, or unmaps it, while it is being copied. */
TEST(somebody_touches_it_meanwhile)
{
	u32 page = 5;
	u64 n;

	begin(512);
	put_range(0, 32, 1);
	dev.on_copy_arg = &page;
	dev.on_copy = touch_page;
	n = to_device(0, 32);
	CHECK_EQ(n, on_device(0, 32));
	CHECK(n >= 16);
	CHECK_EQ(on_device(5, 6), 0);
	CHECK_EQ(get(BASE + P(5) + 40), 55);
	dev.on_copy = unmap_page;
	page = 17;
	get_range(16, 32, 1);
	CHECK_EQ(to_device(16, 32), 15);
	CHECK_EQ(on_device(16, 32), 15);
	get_range(18, 32, 1);
	get_range(6, 16, 1);
	end();
}

TEST(unmap_drop_and_move)
{
	u64 n;

	begin(1024);
	put_range(0, 200, 1);
	CHECK_EQ(to_device(0, 200), 200);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(10), BASE + P(30));
	device_check();
	check_counters();
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(40), BASE + P(50));
	device_check();
	check_counters();
	CHECK_EQ(on_device(0, 200), 170);
	for (u32 i = 40; i < 50; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * i), 0);
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(100), BASE + P(1003), P(60));
	device_check();
	check_counters();
	for (u32 i = 100; i < 160; i++)
		CHECK_EQ(get(BASE + P(903 + i) + 8 * i), i + 1);
	get_range(0, 10, 1);
	get_range(30, 40, 1);
	get_range(50, 100, 1);
	CHECK_EQ(tdmi_bring(ctx, BASE + P(160), BASE + P(200)), 0);
	CHECK_EQ(on_device(160, 200), 0);
	for (u32 i = 160; i < 200; i++)
		CHECK(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT);
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 1000, &n), 0);
	end();
}

/* What is evicted is at home, and can go on from there. */
/* Pages of a block come home from the device while somebody has its folio isolated, who knows of none: it goes where folios with home pages are. */
TEST(evict_to_a_folio_that_is_isolated)
{
	struct tdm_frame *folio;
	struct tdm_pt *pt;
	u64 n;

	begin(1024);
	put_range(0, 16, 1);
	CHECK_EQ(to_device(0, 8), 8);
	tdmi_rcu_read_lock(ctx->rcu);
	CHECK_EQ(tdmi_pt_lock(&mm.pgt, BASE, false, &pt), 0);
	folio = tdmi_block_folio(&mm, pt, tdm_pt_index(pt, BASE));
	CHECK(folio && tdmi_lru_isolate(&mm.lru, folio));
	tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(ctx->rcu);
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 8, &n), 0);
	CHECK_EQ(n, 8);
	CHECK(!tdmi_lru_putback(&mm.lru, folio, TDM_LRU_TO_YOUNG));
	CHECK_EQ(folio->state, TDM_FRAME_HOME);
	check_counters();
	get_range(0, 16, 1);
	end();
}

TEST(evict)
{
	u64 n;

	begin(1024);
	put_range(0, 300, 1);
	CHECK_EQ(to_device(0, 299), 299);
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 1, &n), 0);
	CHECK_EQ(n, 16);
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 1000, &n), 0);
	CHECK_EQ(n, 283);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.home), 299);
	check_counters();
	CHECK_EQ(out_pages(BASE, BASE + P(300)), 300);
	get_range(0, 300, 1);
	end();
}

/* Somebody else holds a folio in order to evict it, while its pages come back by a fault: it is freed by whoever is last. */
TEST(a_folio_that_is_being_evicted_comes_back)
{
	struct tdm_frame *folio;

	begin(512);
	put_range(0, 16, 1);
	CHECK_EQ(to_device(0, 16), 16);
	/* One of them comes back, and goes again: to a frame of its own. */
	CHECK_EQ(tdmi_bring(ctx, BASE + P(5), BASE + P(6)), 0);
	CHECK_EQ(to_device(5, 6), 1);
	folio = tdmi_lru_isolate_lent(&dev.pool.lru, false);
	CHECK(folio && folio->order == TDM_BLOCK_ORDER);
	get_range(0, 16, 1);
	CHECK_EQ(dev.freed, 1);
	CHECK(tdmi_lru_putback(&dev.pool.lru, folio, TDM_LRU_TO_YOUNG));
	tdmi_folio_free(&dev.pool.frames, folio);
	end();
}

/* Many blocks at once, with warm homes and without, whole and in part; what fails, and what is in the way, goes by itself. */
TEST(blocks_in_a_row)
{
	begin(1024);
	tdmi_frames_warm_limit(&mm.frames, 64);
	put_range(0, 512, 1);
	for (u32 i = 0; i < 6; i++) {
		u32 a = i < 2 ? 0 : 7 * i, b = i < 2 ? 512 : 500 - 9 * i;

		if (i == 3)
			*tdm_cpu_flags(&cpu, BASE + P(200)) |= TDM_CPU_PINNED;
		CHECK_EQ(to_device(a, b), b - a - (i == 3));
		CHECK_EQ(on_device(a, b), b - a - (i == 3));
		*tdm_cpu_flags(&cpu, BASE + P(200)) &= (u8)~TDM_CPU_PINNED;
		if (i == 4) /* there is a page already: it is newer */
			tdmi_cpu_preset(&cpu, BASE + P(100), 1, 0, false);
		dev.fail = i == 5 ? 2 : 0;
		/* A copy of many that fails is tried by blocks. */
		CHECK_EQ(tdmi_bring(ctx, BASE + P(a), BASE + P(b)), 0);
		CHECK_EQ(dev.fail, 0);
		device_check();
		check_counters();
		CHECK_EQ(on_device(a, b), 0);
		if (i == 4) {
			CHECK_EQ(get(BASE + P(100) + 800), 0);
			put(BASE + P(100) + 800, 101);
		}
		get_range(0, 512, 1);
	}
	/* One in the middle is home, one out, one dropped. */
	CHECK_EQ(home_pages(BASE + P(64), BASE + P(80)), 16);
	CHECK_EQ(out_pages(BASE + P(96), BASE + P(112)), 16);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(128), BASE + P(144));
	CHECK_EQ(to_device(0, 512), 480);
	CHECK_EQ(tdmi_bring(ctx, BASE, BASE + P(512)), 0);
	get_range(0, 128, 1);
	get_range(144, 512, 1);
	end();
}

/* ---- folios of 2 MiB ------------------------------------------------------------------------------------------------------- */

/* 2 MiB at page a, in one leaf. */
static void put_huge(u32 a, u64 add)
{
	tdmi_cpu_preset(&cpu, BASE + P(a), TDM_HUGE_PAGES, 0, true);
	adopt(BASE + P(a), BASE + P(a) + H);
	put_range(a, a + TDM_HUGE_PAGES, add);
}

static bool is_leaf(u32 a)
{
	u32 level;

	(void)entry(BASE + P(a), &level);
	return level == 1;
}

static bool is_whole_on_device(u32 a)
{
	u32 level;
	struct tdm_pte pte = entry(BASE + P(a), &level);

	return on_device(a, a + TDM_HUGE_PAGES) == TDM_HUGE_PAGES && tdmi_dev_whole(&mm, pte);
}

TEST(two_mib_go_and_come_as_one)
{
	u64 fills, n;

	begin(1024);
	tdmi_frames_warm_limit(&mm.frames, 64);
	put_huge(512, 1);
	for (u32 i = 0; i < 4; i++) {
		CHECK(is_leaf(512));
		CHECK_EQ(to_device(512, 1024), 512);
		CHECK(is_whole_on_device(512));
		CHECK_EQ(tdmi_frames_warm(&mm.frames), 32);
		CHECK_EQ(tdm_a64_ld_relaxed(&mm.home), 0);
		fills = cpu.fills;
		/* One touch brings all of it; or it is evicted, and is home; or somebody asks. */
		if (i == 1) {
			CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 1, &n), 0);
			CHECK_EQ(n, 512);
			CHECK_EQ(cpu.fills, fills);
			CHECK_EQ(tdm_a64_ld_relaxed(&mm.home), 512);
		} else if (i == 2) {
			CHECK_EQ(tdmi_bring(ctx, BASE + P(700), BASE + P(701)), 0);
		} else {
			CHECK_EQ(get(BASE + P(700) + 8 * 188), 701);
		}
		CHECK_EQ(dev.freed, 512 * (i + 1));
		CHECK(is_leaf(512));
		CHECK_EQ(tdmi_frames_warm(&mm.frames), 0);
		device_check();
		check_counters();
		get_range(512, 1024, 1);
		CHECK_EQ(cpu.fills, fills + 512);
	}
	/* Unmapped, and dropped, as one. */
	CHECK_EQ(to_device(512, 1024), 512);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(512), BASE + P(1024));
	CHECK_EQ(dev.freed, 512 * 5);
	check_counters();
	end();
}

/* Without room in one piece at either end they go, and come, by blocks. */
TEST(two_mib_without_a_place_in_one_piece)
{
	begin(1024);
	put_range(0, 16, 1);
	put_range(1040, 1050, 1);
	CHECK_EQ(to_device(0, 16), 16);
	put_huge(512, 1);
	put_huge(1536, 1);
	CHECK_EQ(to_device(512, 1024), 512);
	CHECK(is_whole_on_device(512));
	get_range(0, 16, 1);
	CHECK_EQ(to_device(1040, 1050), 10);
	CHECK_EQ(to_device(1536, 2000), 464);
	CHECK(!is_leaf(1536));
	CHECK(!is_whole_on_device(1536));
	get_range(1536, 2048, 1);
	get_range(512, 1024, 1);
	get_range(1040, 1050, 1);
	end();
}

/* An allocation that fails once, there and back: by blocks. */
TEST(two_mib_of_which_an_allocation_fails)
{
	u64 n;

	begin(1024);
	put_huge(512, 1);
	put_huge(1024, 1);
	tdm_a32_st_relaxed(&dev.pool.fail_alloc, 1);
	CHECK_EQ(to_device(512, 1024), 512);
	CHECK_EQ(tdm_a32_ld_relaxed(&dev.pool.fail_alloc), 0);
	CHECK(!is_whole_on_device(512));
	get_range(512, 1024, 1);
	CHECK_EQ(to_device(1024, 1536), 512);
	CHECK(is_whole_on_device(1024));
	tdm_a32_st_relaxed(&dev.pool.fail_alloc, 1);
	CHECK_EQ(tdmi_pool_evict_range(ctx, &dev.pool, BASE + P(1024), BASE + P(1536), &n), 0);
	CHECK_EQ(n, 512);
	CHECK_EQ(tdm_a32_ld_relaxed(&dev.pool.fail_alloc), 0);
	CHECK(!is_leaf(1024));
	get_range(1024, 1536, 1);
	device_check();
	check_counters();
	end();
}

/* A part leaves, by whatever way: the rest is there still, and comes by blocks. */
TEST(parts_of_two_mib_leave)
{
	u64 n;

	for (u32 way = 0; way < 5; way++) {
		begin(1024);
		put_huge(512, 1);
		CHECK_EQ(to_device(512, 1024), 512);
		if (way == 0)
			tdmi_cpu_munmap(&cpu, ctx, BASE + P(600), BASE + P(620));
		else if (way == 1)
			tdmi_cpu_dontneed(&cpu, ctx, BASE + P(600), BASE + P(620));
		else if (way == 2)
			tdmi_cpu_mremap(&cpu, ctx, BASE + P(600), BASE + P(2000), P(20));
		else if (way == 3)
			tdmi_cpu_mremap(&cpu, ctx, BASE + P(512), BASE + P(2048), H);
		if (way < 3) {
			CHECK_EQ(on_device(512, 1024), 492);
			device_check();
			check_counters();
		} else if (way == 4) {
			/* A copy fails: by blocks, of which one fails. */
			dev.fail = 1;
			CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 512, &n), 0);
			CHECK_EQ(n, 512);
			dev.fail = 0;
			CHECK(!is_leaf(512));
		}
		if (way == 3)
			for (u32 i = 0; i < 512; i++)
				CHECK_EQ(get(BASE + P(2048 + i) + 8 * i), 513 + i);
		else
			get_range(512, 600, 1);
		if (way != 3)
			get_range(620, 1024, 1);
		if (way == 2)
			for (u32 i = 600; i < 620; i++)
				CHECK_EQ(get(BASE + P(i + 1400) + 8 * (i % 512)), i + 1);
		device_check();
		check_counters();
		end();
	}
}

/* Copies there fail, at each block: it stays. */
TEST(two_mib_of_which_a_copy_fails)
{
	u64 n;

	begin(1024);
	put_huge(512, 1);
	for (u32 k = 1; k <= 32; k += 5) {
		dev.fail = k;
		CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(512), BASE + P(1024), &n), -EIO);
		CHECK_EQ(n, 0);
		CHECK(is_leaf(512));
		device_check();
		check_counters();
		CHECK_EQ(get(BASE + P(512 + k) + 8 * k), 513 + k);
	}
	dev.fail = 0;
	CHECK_EQ(to_device(512, 1024), 512);
	get_range(512, 1024, 1);
	end();
}

/* ---- a page of the device's memory that cannot be read any more ----------------------------------------------------------------------- */

static void make_bad(u32 page)
{
	u32 level;
	struct tdm_pte pte = entry(BASE + P(page), &level);

	CHECK(tdm_pte_is(pte, TDM_PTE_T_PRIVATE));
	dev.bad = tdm_pte_private_frame(pte) + 1;
}

static bool is_poison(u32 page)
{
	u32 level;

	return tdm_pte_is(entry(BASE + P(page), &level), TDM_PTE_T_POISON);
}

/* 16 pages in a folio of theirs, or 512. */
static void put_bad(bool huge, u32 page)
{
	begin(1024);
	if (huge)
		put_huge(512, 1);
	else
		put_range(512, 1024, 1);
	CHECK_EQ(to_device(512, 1024), 512);
	CHECK_EQ(is_whole_on_device(512), huge);
	make_bad(page);
}

/* Its neighbours come, whoever touches which of them first; it is lost when it is touched, and they stay what they are. */
TEST(one_page_is_lost_and_no_other)
{
	for (u32 way = 0; way < 4; way++) {
		u64 x;

		put_bad(way & 1, 700);
		if (way & 2)
			CHECK_EQ(get(BASE + P(701) + 8 * 189), 702);
		CHECK_EQ(tdmi_mm_count(&mm, TDM_C_POISONED), 0);
		CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(700), &x, 8), -EIO);
		CHECK_EQ(tdmi_mm_count(&mm, TDM_C_POISONED), 1);
		CHECK(is_poison(700));
		device_check();
		check_counters();
		get_range(512, 700, 1);
		get_range(701, 1024, 1);
		CHECK_EQ(on_device(512, 1024), 0);
		CHECK_EQ(tdmi_mm_count(&mm, TDM_C_POISONED), 1);
		CHECK_EQ(dev.freed, 512);
		end();
	}
}

/* Who asks is told, and it stays where it is, with its neighbours; when it can be read again it comes. */
TEST(who_asks_for_a_bad_page_is_told)
{
	for (u32 way = 0; way < 8; way++) {
		u64 n = 0;
		int r;

		put_bad(way & 1, 700);
		tdmi_frames_warm_limit(&mm.frames, way < 4 ? 0 : 64);
		for (u32 again = 0; again < 3; again++) {
			if (way & 2)
				r = tdmi_bring(ctx, BASE + P(512), BASE + P(1024));
			else if (again)
				r = tdmi_pool_evict(ctx, &dev.pool, ~(u64)0, &n);
			else
				r = tdmi_pool_evict_range(ctx, &dev.pool, BASE + P(690), BASE + P(710), &n);
			CHECK_EQ(r, -EIO);
			device_check();
			check_counters();
		}
		CHECK(!is_poison(700));
		CHECK_EQ(on_device(700, 701), 1);
		CHECK_EQ(tdmi_mm_count(&mm, TDM_C_POISONED), 0);
		dev.bad = 0;
		if (way & 2)
			CHECK_EQ(tdmi_bring(ctx, BASE + P(512), BASE + P(1024)), 0);
		else
			CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, ~(u64)0, &n), 0);
		CHECK_EQ(on_device(512, 1024), 0);
		get_range(512, 1024, 1);
		end();
	}
}

/* Whatever the device calls it: it is not taken for something of the engine's, which would try for ever, or not at all. */
TEST(what_a_device_calls_its_error)
{
	static const int error[] = { -EAGAIN, -ESTALE, -ENOENT, -ENODEV };
	u64 x;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(error); i++) {
		put_bad(i & 1, 700);
		dev.error = error[i];
		CHECK_EQ(tdmi_bring(ctx, BASE + P(512), BASE + P(1024)), error[i] == -ENODEV ? -ENODEV : -EIO);
		CHECK_EQ(on_device(700, 701), 1);
		CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(700), &x, 8), -EIO);
		CHECK(is_poison(700));
		get_range(512, 700, 1);
		get_range(701, 1024, 1);
		end();
	}
}

static struct tdm_ctx *second;
static struct plat_thread *thread;
static u32 copies;

static void toucher(void *arg)
{
	u64 x = 4711;

	(void)arg;
	CHECK_EQ(tdmi_fault(second, (struct tdm_va){ BASE + P(700) }, true), 0);
	CHECK(*tdm_cpu_flags(&cpu, BASE + P(700)) & TDM_CPU_PRESENT);
	CHECK_EQ(tdmi_cpu_write(&cpu, second, BASE + P(700) + 8, &x, 8), 0);
}

static void unmapper(void *arg)
{
	tdmi_cpu_munmap(&cpu, second, BASE + P(512), BASE + P(1024));
}

static void dropper(void *arg)
{
	tdmi_cpu_dontneed(&cpu, second, BASE + P(600), BASE + P(620));
}

static bool wanted_or_gone(void)
{
	u32 level;
	struct tdm_pte pte = entry(BASE + P(512), &level);

	return !tdm_pte_home(pte) || level != 1 || (pte.v & TDM_PTE_WANTED);
}

/* With the third block. */
static void while_copying(void *arg)
{
	static void (*const ways[])(void *) = { toucher, unmapper, dropper };

	if (++copies != 3)
		return;
	CHECK_EQ(plat_thread_start(&thread, ways[*(u32 *)arg], NULL, "other"), 0);
	while (!wanted_or_gone())
		plat_yield();
}

/* Somebody touches, unmaps, or drops a part of it while it is being copied: the copy is given up, soon. */
TEST(two_mib_are_needed_meanwhile)
{
	for (u32 way = 0; way < 3; way++) {
		begin(1024);
		put_huge(512, 1);
		second = tdmi_ctx_create(&mm);
		CHECK(second != NULL);
		copies = 0;
		dev.on_copy = while_copying;
		dev.on_copy_arg = &way;
		CHECK_EQ(tdmi_mm_count(&mm, TDM_C_LOST), 0);
		/* The simulated CPU is one thread's at a time: while the copier looks at the table only. */
		{
			u64 n;

			CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(512), BASE + P(1024), &n), 0);
			CHECK_EQ(n, 0);
		}
		dev.on_copy = NULL;
		CHECK_EQ(copies, 3);
		plat_thread_join(thread);
		device_check();
		check_counters();
		CHECK_EQ(tdm_a64_ld_relaxed(&dev.pool.pages), 0);
		if (way == 0) {
			CHECK_EQ(get(BASE + P(700) + 8), 4711);
			CHECK(is_leaf(512));
		}
		if (way == 2)
			CHECK_EQ(get(BASE + P(610) + 8 * 98), 0);
		if (way != 1)
			get_range(512, 600, 1);
		/* It goes the next time. */
		if (way != 1)
			CHECK_EQ(to_device(512, 600), 88);
		tdmi_ctx_destroy(second);
		end();
	}
}

TEST(frozen_pages_can_be_read)
{
	const void *bytes;

	begin(512);
	put_range(0, 20, 3);
	CHECK_EQ(to_device(0, 20), 20);
	tdmi_mm_freeze(&mm);
	for (u32 i = 0; i < 20; i++) {
		CHECK_EQ(tdmi_frozen_page(ctx, BASE + P(i), &bytes), 0);
		CHECK_EQ(((const u64 *)bytes)[i], i + 3);
	}
	tdmi_mm_thaw(&mm);
	end();
}

TEST(attach_and_detach)
{
	struct tdm_pool other[TDM_POOLS_MAX];
	u64 n;

	begin(512);
	CHECK_EQ(tdmi_pool_init(&other[0], &dev_ops, NULL, NULL, 100), -EINVAL);
	for (u32 i = 0; i < TDM_POOLS_MAX; i++) {
		CHECK_EQ(tdmi_pool_init(&other[i], &dev_ops, NULL, NULL, 512), 0);
		CHECK_EQ(tdmi_pool_attach(&mm, &other[i]), i + 1 < TDM_POOLS_MAX ? 0 : -ENOSPC);
	}
	put_range(0, 4, 1);
	CHECK_EQ(to_device(0, 4), 4);
	CHECK_EQ(tdmi_pool_detach(&dev.pool), -EBUSY);
	for (u32 i = 0; i < TDM_POOLS_MAX; i++) {
		if (other[i].mm)
			CHECK_EQ(tdmi_pool_detach(&other[i]), 0);
		tdmi_pool_destroy(&other[i]);
	}
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 4, &n), 0);
	end();
}

/* A block is touched while eviction has its memory in hand, but has not come to it yet: it is freed once, by who has it in hand. */
TEST(a_folio_comes_back_while_it_is_isolated)
{
	struct tdm_frame *folio;

	begin(512);
	put_range(0, 16, 1);
	CHECK_EQ(to_device(0, 16), 16);
	folio = tdmi_lru_isolate_lent(&dev.pool.lru, false);
	CHECK(folio && folio->order == TDM_BLOCK_ORDER);
	CHECK_EQ(tdmi_bring(ctx, BASE, BASE + P(16)), 0);
	CHECK_EQ(dev.freed, 0);
	CHECK_EQ(folio->state, TDM_FRAME_ISOLATED);
	CHECK_EQ(folio->refcount, 1);
	CHECK(tdmi_lru_putback(&dev.pool.lru, folio, TDM_LRU_TO_YOUNG));
	tdmi_folio_free(&dev.pool.frames, folio);
	get_range(0, 16, 1);
	end();
}

/* What is at the frames of a block that comes back must not be looked at any more once it is free: it may be another's. */
TEST(nothing_is_left_of_a_folio_that_comes_back)
{
	begin(512);
	put_range(0, 16, 1);
	CHECK_EQ(to_device(0, 16), 16);
	get_range(0, 16, 1);
	for (u32 i = 0; i < 512; i++)
		CHECK(dev.pool.frames.desc[i].refcount <= 1);
	end();
}
