/* SPDX-License-Identifier: MIT */
/* Taking 2 MiB of a device's memory out of use: whatever its frames are doing at that moment, none is in use afterwards, or all may be used as before. */
#include <stdlib.h>
#include "device_world.h"
#include "mm/gup.h"

#define CHUNK TDM_HUGE_PAGES
#define NOW 0
#define ALMOST (CHUNK - 15) /* where no block of 16 is free some frames may stay so */
#define SOON ((u64)20000000000) /* it does not take that long */

static struct tdm_ctx *second;
static struct plat_thread *thread;

static void begin(u32 frames)
{
	start();
	device_start(frames);
	map(BASE, BASE + P(PAGES));
	second = tdmi_ctx_create(&mm);
	CHECK(second != NULL);
}

static void end(void)
{
	tdmi_ctx_destroy(second);
	device_finish();
	finish();
}

static u64 try_to_device(u32 a, u32 b, int expected)
{
	u64 n;

	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(a), BASE + P(b), &n), expected);
	return n;
}

static int offline(struct tdm_ctx *c, u32 chunk, u64 ns)
{
	int r;

	while (!tdmi_mm_enter(c))
		plat_yield();
	r = tdmi_pool_offline(c, &dev.pool, chunk, ns ? plat_now_ns() + ns : 0);
	tdmi_mm_exit(c);
	return r;
}

static u32 used_of(u32 chunk)
{
	u16 first[TDM_HUGE_PAGES];

	return tdmi_chunk_used(&dev.pool.frames, chunk, first);
}

/* Frames of this chunk that entries name. */
static u32 named_of(u32 chunk)
{
	u32 n = 0, level;

	for (u32 i = 0; i < PAGES; i++) {
		struct tdm_pte pte = entry(BASE + P(i), &level);

		n += tdm_pte_is(pte, TDM_PTE_T_PRIVATE) && tdm_pte_private_frame(pte) / CHUNK == chunk;
	}
	return n;
}

TEST(what_is_there_goes_home)
{
	begin(2 * CHUNK);
	put_range(0, 1200, 7);
	CHECK_EQ(try_to_device(0, 900, 0), 900);
	CHECK_EQ(named_of(0) + named_of(1), 900);
	for (u32 chunk = 0; chunk < 2; chunk++) {
		CHECK_EQ(offline(ctx, chunk, NOW), 0);
		CHECK_EQ(used_of(chunk), 0);
		CHECK_EQ(named_of(chunk), 0);
		device_check();
		check_counters();
		/* It holds half of what it did, in the other one. */
		(void)try_to_device(0, 1200, -ENOSPC);
		CHECK_EQ(named_of(chunk), 0);
		CHECK(named_of(!chunk) >= ALMOST);
		tdmi_chunk_online(&dev.pool.frames, chunk);
		(void)try_to_device(0, 1200, -ENOSPC);
		CHECK(named_of(0) >= ALMOST && named_of(1) >= ALMOST);
		device_check();
	}
	get_range(0, 1200, 7);
	end();
}

/* All that there is, at first: as a process that has been lent nothing. Chunks come in any order, also those that were never used. */
TEST(none_to_begin_with)
{
	begin(4 * CHUNK);
	tdmi_chunks_isolate_all(&dev.pool.frames);
	put_range(0, 1100, 1);
	CHECK_EQ(try_to_device(0, 20, -ENOSPC), 0);
	tdmi_chunk_online(&dev.pool.frames, 2);
	CHECK_EQ(try_to_device(0, 1100, -ENOSPC), CHUNK);
	CHECK_EQ(named_of(2), CHUNK);
	tdmi_chunk_online(&dev.pool.frames, 0);
	CHECK_EQ(try_to_device(0, 1100, -ENOSPC), CHUNK);
	CHECK_EQ(named_of(0), CHUNK);
	CHECK_EQ(offline(ctx, 2, NOW), 0);
	CHECK_EQ(named_of(0), CHUNK);
	device_check();
	check_counters();
	get_range(0, 1100, 1);
	CHECK_EQ(offline(ctx, 0, NOW), 0);
	for (u32 i = 0; i < 4; i++)
		CHECK_EQ(used_of(i), 0);
	end();
}

/* What is unused first, then what is oldest. */
TEST(which_to_give)
{
	begin(4 * CHUNK);
	tdmi_chunks_isolate_all(&dev.pool.frames);
	CHECK_EQ(tdmi_pool_chunk_to_give(&dev.pool), TDM_FRAME_NIL);
	put_range(0, 1100, 1);
	tdmi_chunk_online(&dev.pool.frames, 2);
	CHECK_EQ(tdmi_pool_chunk_to_give(&dev.pool), 2);
	CHECK_EQ(try_to_device(0, 512, 0), 512);
	CHECK_EQ(tdmi_pool_chunk_to_give(&dev.pool), 2);
	tdmi_chunk_online(&dev.pool.frames, 1);
	CHECK_EQ(tdmi_pool_chunk_to_give(&dev.pool), 1);
	CHECK_EQ(try_to_device(512, 600, 0), 88);
	CHECK_EQ(tdmi_pool_chunk_to_give(&dev.pool), 2);
	CHECK_EQ(offline(ctx, 2, NOW), 0);
	CHECK_EQ(tdmi_pool_chunk_to_give(&dev.pool), 1);
	get_range(0, 1100, 1);
	end();
}

/* Folios of each size, some of whose pages have left. */
TEST(folios_of_each_size)
{
	begin(2 * CHUNK);
	tdmi_cpu_preset(&cpu, BASE + P(512), TDM_HUGE_PAGES, 0, true);
	adopt(BASE + P(512), BASE + P(512) + H);
	put_range(512, 1024, 1);
	put_range(0, 40, 1);
	CHECK_EQ(try_to_device(512, 1024, 0), 512);
	CHECK_EQ(try_to_device(3, 40, 0), 37);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(600), BASE + P(620));
	CHECK_EQ(get(BASE + P(20) + 160), 21);
	for (u32 chunk = 0; chunk < 2; chunk++) {
		CHECK_EQ(offline(ctx, chunk, NOW), 0);
		CHECK_EQ(used_of(chunk), 0);
	}
	device_check();
	check_counters();
	get_range(512, 600, 1);
	get_range(620, 1024, 1);
	get_range(0, 40, 1);
	end();
}

/* ---- what somebody else has in hand ------------------------------------------------------------------------------------------------- */

static void put_back(struct tdm_frame *folio)
{
	if (tdmi_lru_putback(&dev.pool.lru, folio, TDM_LRU_TO_YOUNG))
		tdmi_dev_free(&dev.pool, folio);
}

static void put_back_later(void *arg)
{
	tdm_a32 never = { 0 };

	plat_wait(&never, 0, 3000000);
	put_back(arg);
}

TEST(a_folio_is_isolated)
{
	struct tdm_frame *folio;

	begin(CHUNK);
	put_range(0, 600, 1);
	CHECK_EQ(try_to_device(0, 200, 0), 200);
	folio = tdmi_lru_isolate_lent(&dev.pool.lru, false);
	CHECK(folio != NULL);
	/* The holder does not let go: all is as before, though the rest has been home. */
	CHECK_EQ(offline(ctx, 0, NOW), -EBUSY);
	CHECK_EQ(named_of(0), 1u << folio->order);
	CHECK_EQ(try_to_device(200, 600, 0), 400);
	CHECK_EQ(offline(ctx, 0, 2000000), -EBUSY);
	/* He does. */
	CHECK_EQ(plat_thread_start(&thread, put_back_later, folio, "holder"), 0);
	CHECK_EQ(offline(ctx, 0, SOON), 0);
	plat_thread_join(thread);
	CHECK_EQ(used_of(0), 0);
	device_check();
	check_counters();
	get_range(0, 600, 1);
	end();
}

/* Its pages come home while somebody holds it: it is freed by him, and the chunk is free then. */
TEST(a_folio_is_isolated_and_freed)
{
	struct tdm_frame *folio;

	begin(CHUNK);
	put_range(0, 16, 1);
	CHECK_EQ(try_to_device(0, 16, 0), 16);
	folio = tdmi_lru_isolate_lent(&dev.pool.lru, false);
	get_range(0, 16, 1);
	CHECK_EQ(plat_thread_start(&thread, put_back_later, folio, "holder"), 0);
	CHECK_EQ(offline(ctx, 0, SOON), 0);
	plat_thread_join(thread);
	CHECK_EQ(dev.freed, 16);
	end();
}

static int result;
static u64 wait_ns;

static void offliner(void *arg)
{
	result = offline(second, *(u32 *)arg, wait_ns);
}

/* At the first copy, of a page for which a frame has been taken. */
static void take_offline(void *arg)
{
	dev.on_copy = NULL;
	if (wait_ns)
		CHECK_EQ(plat_thread_start(&thread, offliner, arg, "offliner"), 0);
	else
		offliner(arg);
	while (wait_ns && !tdm_a32_ld_relaxed(&dev.pool.frames.nisolated))
		plat_yield();
}

/* Pages are on their way there: they arrive, and go home again; or the chunk cannot wait for them. */
TEST(pages_are_being_migrated)
{
	u32 chunk = 0;

	for (u32 way = 0; way < 4; way++) {
		bool waits = way & 1, huge = way & 2;

		begin(2 * CHUNK);
		if (huge) {
			tdmi_cpu_preset(&cpu, BASE, TDM_HUGE_PAGES, 0, true);
			adopt(BASE, BASE + H);
		}
		put_range(0, 512, 1);
		wait_ns = waits ? SOON : NOW;
		result = 1;
		dev.on_copy_arg = &chunk;
		dev.on_copy = take_offline;
		CHECK_EQ(try_to_device(0, huge ? 512 : 100, 0), huge ? 512 : 100);
		if (waits)
			plat_thread_join(thread);
		CHECK_EQ(result, waits ? 0 : -EBUSY);
		if (waits) {
			CHECK_EQ(named_of(0), 0);
			CHECK_EQ(used_of(0), 0);
		}
		dev.on_copy = NULL;
		device_check();
		check_counters();
		get_range(0, 512, 1);
		end();
	}
}

/* The device's copies fail: nothing is lost, and the chunk is in use as before. */
TEST(copies_fail)
{
	u32 left;

	begin(CHUNK);
	put_range(0, 512, 1);
	CHECK_EQ(try_to_device(0, 300, 0), 300);
	for (u32 k = 1; k < 20; k += 3) {
		dev.fail = k;
		CHECK_EQ(offline(ctx, 0, SOON), -EIO);
		dev.fail = 0;
		device_check();
		check_counters();
		left = named_of(0);
		CHECK_EQ(left == 300, k == 1);
		CHECK_EQ(try_to_device(0, 300, 0), 300 - left);
	}
	CHECK_EQ(try_to_device(300, 512, 0), 212);
	CHECK_EQ(offline(ctx, 0, SOON), 0);
	get_range(0, 512, 1);
	end();
}

/* Coherent memory: a pin keeps a page, and the chunk with it. */
TEST(a_page_is_pinned)
{
	static const struct tdm_pool_ops ops = { .name = "coherent" };
	static struct tdm_pool pool;
	struct tdm_pfn page[4];
	u16 first[TDM_HUGE_PAGES];
	u32 done;
	u64 n;

	start_with(0, PAGES, 2 * FRAMES);
	CHECK_EQ(tdmi_pool_init_coherent(&pool, &ops, NULL, &pool, 1024), 0);
	CHECK_EQ(tdmi_pool_attach(&mm, &pool), 0);
	map(BASE, BASE + P(PAGES));
	put_range(0, 64, 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &pool, BASE, BASE + P(64), &n), 0);
	CHECK_EQ(n, 64);
	CHECK(tdmi_mm_enter(ctx));
	CHECK_EQ(tdmi_pin(ctx, BASE + P(18), 4, TDM_GUP_WRITE, page, &done), 0);
	CHECK_EQ(tdmi_pool_offline(ctx, &pool, 0, 0), -EBUSY);
	CHECK_EQ(tdm_a64_ld_relaxed(&pool.pages), 16);
	/* Unmapped while it is pinned: its frames are in use until it is not. */
	tdmi_mm_exit(ctx);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(16), BASE + P(32));
	CHECK(tdmi_mm_enter(ctx));
	CHECK_EQ(tdmi_pool_offline(ctx, &pool, 0, plat_now_ns() + 1000000), -EBUSY);
	tdmi_unpin(ctx, page, 4);
	CHECK_EQ(tdmi_pool_offline(ctx, &pool, 0, 0), 0);
	CHECK_EQ(tdmi_chunk_used(&pool.frames, 0, first), 0);
	tdmi_mm_exit(ctx);
	get_range(0, 16, 1);
	get_range(32, 64, 1);
	CHECK_EQ(tdmi_pool_detach(&pool), 0);
	CHECK(tdmi_frames_valid(&pool.frames));
	tdmi_pool_destroy(&pool);
	finish();
}

/* ---- all at once ----------------------------------------------------------------------------------------------------------------------- */

static tdm_a32 stop;

/* Chunks go and come back. What is offline is nobody's: its bytes may change. */
static void hotplugger(void *arg)
{
	tdm_a32 *taken = arg;
	u32 chunk = 0;

	for (; !tdm_a32_ld_acquire(&stop); chunk = (chunk + 1) % 3) {
		if (offline(second, chunk, chunk ? SOON : NOW))
			continue;
		memset(dev.memory + P(chunk * CHUNK), 0x99, P(CHUNK));
		tdm_a32_add_relaxed(taken, 1);
		tdmi_chunk_online(&dev.pool.frames, chunk);
	}
}

/* Two threads free folios: none counts them. */
static const struct tdm_pool_ops uncounted = { .name = "test", .copy_in = dev_copy_in, .copy_out = dev_copy_out };

/* Pages migrate, are touched, evicted and unmapped meanwhile. */
TEST(a_storm, .seconds = 120)
{
	u32 rounds = getenv("TDM_LONG") ? 400 : 40;
	tdm_a32 taken = { 0 };
	u64 n;

	begin(3 * CHUNK);
	dev.pool.ops = &uncounted;
	tdm_a32_st_relaxed(&stop, 0);
	CHECK_EQ(plat_thread_start(&thread, hotplugger, &taken, "hotplugger"), 0);
	put_range(0, 1500, 1);
	for (u32 k = 0; k < rounds || tdm_a32_ld_relaxed(&taken) < 20; k++) {
		u32 a = k * 37 % 1000;
		int r;

		while (!tdmi_mm_enter(ctx))
			plat_yield();
		r = tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(a), BASE + P(1500), &n);
		CHECK(!r || r == -ENOSPC);
		get_range(a, a + 100, 1);
		CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, 50, &n), 0);
		tdmi_cpu_munmap(&cpu, ctx, BASE + P(a + 100), BASE + P(a + 200));
		tdmi_mm_exit(ctx);
		map(BASE + P(a + 100), BASE + P(a + 200));
		put_range(a + 100, a + 200, 1);
	}
	tdm_a32_st_release(&stop, 1);
	plat_thread_join(thread);
	device_check();
	check_counters();
	get_range(0, 1500, 1);
	end();
}
