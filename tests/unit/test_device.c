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
