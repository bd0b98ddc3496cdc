/* SPDX-License-Identifier: MIT */
/* The engine over a simulated CPU (port/cpu.h): what the program reads is what it wrote, and every counter agrees with the page table. */
#include "mm_world.h"

/* ---- tests ------------------------------------------------------------------------------------------------------------------ */

TEST(clean_pages_are_not_packed_again)
{
	struct tdm_swap_stats st;

	start();
	map(BASE, BASE + P(256));
	put_range(0, 256, 5);
	CHECK_EQ(out_pages(BASE, BASE + P(256)), 256);
	get_range(0, 256, 5);
	tdmi_swap_stats(mm.swap, &st);
	CHECK(st.kept_bytes > 0);
	/* A page of the second block is written, one of the third is dropped. */
	put(BASE + P(20), 77);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(33), BASE + P(34));
	check_counters();
	CHECK_EQ(out_pages(BASE, BASE + P(256)), 255);
	tdmi_swap_stats(mm.swap, &st);
	CHECK_EQ(st.reused_pages, 255 - 16);
	CHECK_EQ(st.kept_bytes, 0);
	check_counters();
	CHECK_EQ(get(BASE + P(20)), 77);
	CHECK_EQ(get(BASE + P(33) + 8 * 33), 0);
	get_range(0, 20, 5);
	get_range(21, 33, 5);
	get_range(34, 256, 5);
	finish();
}

/* Half of a block whose blob is kept goes, and is moved away by mremap(): what comes to its place is not taken for what is in that blob. */
TEST(a_kept_blob_of_which_pages_were_moved_away)
{
	u64 n;

	start();
	map(BASE, BASE + P(512));
	put_range(0, 256, 1);
	out_pages(BASE, BASE + P(256));
	get_range(0, 256, 1);
	CHECK_EQ(tdmi_range_out(ctx, BASE + P(192), BASE + P(200), &n), 0);
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(192), BASE + P(600), P(8));
	map(BASE + P(192), BASE + P(200));
	put_range(192, 200, 1);
	out_pages(BASE + P(192), BASE + P(208));
	get_range(192, 208, 1);
	for (u32 i = 192; i < 200; i++)
		CHECK_EQ(get(BASE + P(i + 408) + 8 * i), i + 1);
	finish();
}

TEST(first_touch_gives_zeros)
{
	start();
	map(BASE, BASE + P(64));
	for (u32 i = 0; i < 64; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * i), 0);
	put(BASE + P(3), 7);
	CHECK_EQ(get(BASE + P(3)), 7);
	CHECK_EQ(get(BASE + P(3) + 8), 0);
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(64), &(u64){ 0 }, 8), -ENOENT);
	check_counters();
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), 64);
	finish();
}

TEST(home_and_back)
{
	start();
	map(BASE, BASE + P(100));
	put_range(0, 100, 5);
	CHECK_EQ(home_pages(BASE, BASE + P(100)), 100);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.home), 100);
	CHECK_EQ(tdmi_cpu_populated(&cpu), 100);
	check_counters();
	get_range(0, 100, 5);
	check_counters();
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_SOFT_PAGES), 100);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_HARD_PAGES), 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_LOST), 0);
	finish();
}

TEST(out_and_back)
{
	start();
	map(BASE, BASE + P(100));
	for (u64 round = 0; round < 4; round++) {
		put_range(0, 100, round);
		CHECK_EQ(out_pages(BASE, BASE + P(100)), 100);
		swap_pages(100);
		CHECK_EQ(tdmi_cpu_populated(&cpu), (u64)tdmi_frames_warm(&mm.frames) * TDM_BLOCK_PAGES + tdm_a64_ld_relaxed(&mm.stale));
		check_counters();
		get_range(0, 100, round);
		swap_pages(0);
		check_counters();
		mm.frames.warm_max = 4; /* from the second round on some are unpacked into their homes */
	}
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_HARD_PAGES), 400);
	finish();
}

/* Pages of one block in every state at once. */
TEST(partial_blocks_and_holes)
{
	start();
	map(BASE, BASE + P(32));
	put(BASE + P(9), 109); /* backwards: that is no stream */
	put(BASE + P(1), 101);
	CHECK_EQ(out_pages(BASE, BASE + P(16)), 2);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(9), BASE + P(10));
	swap_pages(1);
	put(BASE + P(3), 103);
	put(BASE + P(4), 104);
	home_pages(BASE, BASE + P(16));
	put(BASE + P(5), 105);
	check_counters();
	CHECK_EQ(get(BASE + P(9)), 0);
	CHECK_EQ(get(BASE + P(1)), 101);
	CHECK_EQ(get(BASE + P(3)), 103);
	CHECK_EQ(get(BASE + P(4)), 104);
	CHECK_EQ(get(BASE + P(5)), 105);
	for (u32 i = 6; i < 32; i++)
		CHECK_EQ(get(BASE + P(i)), 0);
	check_counters();

	/* Pages that the kernel has dropped, of which the event comes later: a hole moves home and back. */
	put_range(16, 32, 1);
	tdmi_cpu_drop(&cpu, BASE + P(18), BASE + P(20));
	home_pages(BASE + P(16), BASE + P(32));
	check_counters();
	get_range(16, 18, 1);
	CHECK_EQ(get(BASE + P(18)), 0);
	CHECK_EQ(get(BASE + P(19)), 0);
	get_range(20, 32, 1);
	finish();
}

/* A block packed in several steps: several blobs, and one block's pages from each. */
TEST(many_blobs_in_a_block)
{
	start();
	map(BASE, BASE + P(16));
	for (u32 i = 0; i < 16; i++) {
		put(BASE + P(i), i + 1);
		CHECK(out_pages(BASE, BASE + P(16)) >= 1);
		check_counters();
	}
	for (u32 i = 16; i--;)
		CHECK_EQ(get(BASE + P(i)), i + 1);
	swap_pages(0);
	finish();
}

TEST(adopt_what_was_there)
{
	u64 x;

	start();
	map(BASE, BASE + 2 * H);
	tdmi_cpu_preset(&cpu, BASE + P(5), 3, 0x11, false);
	tdmi_cpu_preset(&cpu, BASE + P(500), 40, 0x22, false);
	adopt(BASE, BASE + 2 * H);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), 43);
	adopt(BASE, BASE + 2 * H); /* again: nothing new */
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), 43);
	check_counters();
	CHECK_EQ(out_pages(BASE, BASE + 2 * H), 43);
	for (u32 i = 0; i < 600; i++) {
		x = get(BASE + P(i));
		CHECK_EQ(x, i >= 5 && i < 8 ? 0x1111111111111111 : i >= 500 && i < 540 ? 0x2222222222222222 : 0);
	}
	finish();
}

TEST(zap_drops)
{
	start();
	map(BASE, BASE + P(600));
	put_range(0, 600, 1);
	out_pages(BASE, BASE + P(200));
	home_pages(BASE + P(200), BASE + P(400));
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(10), BASE + P(20));
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(195), BASE + P(205));
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(100), BASE + P(110));
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(395), BASE + P(405));
	check_counters();
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(100), &(u64){ 0 }, 8), -ENOENT);
	for (u32 i = 10; i < 20; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * i), 0);
	for (u32 i = 195; i < 205; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * i), 0);
	get_range(0, 10, 1);
	get_range(20, 100, 1);
	get_range(110, 195, 1);
	get_range(205, 395, 1);
	get_range(405, 600, 1);
	finish();
}

/* The kernel has announced that it will drop a page, and has not yet: nobody may save its bytes. */
TEST(marker_is_never_taken)
{
	u32 level;

	start();
	map(BASE, BASE + P(32));
	put_range(0, 32, 9);
	plat_mutex_lock(&mm.event_lock);
	tdmi_zap(ctx, BASE + P(4), BASE + P(8), TDM_ZAP_REMOVE);
	plat_mutex_unlock(&mm.event_lock);
	CHECK(tdm_pte_is(entry(BASE + P(4), &level), TDM_PTE_T_REMOVED));
	CHECK_EQ(home_pages(BASE, BASE + P(32)), 28);
	tdmi_reclaim(ctx, 0, 1000);
	for (u32 i = 4; i < 8; i++)
		CHECK(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT);
	tdmi_cpu_drop(&cpu, BASE + P(4), BASE + P(8));
	for (u32 i = 4; i < 8; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * i), 0);
	get_range(0, 4, 9);
	get_range(8, 32, 9);
	check_counters();
	finish();
}

static void remap_by(u64 shift)
{
	u64 from = BASE + P(3), len = P(900);

	map(BASE, BASE + P(1024));
	put_range(0, 1024, 77);
	for (u32 i = 100; i < 110; i++)
		tdmi_cpu_dontneed(&cpu, ctx, BASE + P(i), BASE + P(i + 1));
	out_pages(BASE, BASE + P(300));
	home_pages(BASE + P(300), BASE + P(600));
	/* Something is at the new place, which goes away. */
	map(BASE + P(2048), BASE + P(3072));
	for (u32 i = 2048; i < 3072; i++)
		put(BASE + P(i), 1);
	out_pages(BASE + P(2100), BASE + P(2200));
	tdmi_cpu_mremap(&cpu, ctx, from, from + shift, len);
	check_counters();
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, from, &(u64){ 0 }, 8), -ENOENT);
	for (u32 i = 3; i < 903; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * (i % 512) + shift), i >= 100 && i < 110 ? 0 : i + 77);
	get_range(0, 3, 77);
	get_range(903, 1024, 77);
	check_counters();
}

TEST(remap_aligned)
{
	start();
	remap_by(P(2048));
	finish();
}

TEST(remap_unaligned)
{
	start();
	remap_by(P(2048 + 5));
	finish();
}

TEST(pinned_page_stays)
{
	start();
	map(BASE, BASE + P(16));
	put_range(0, 16, 3);
	*tdm_cpu_flags(&cpu, BASE + P(6)) |= TDM_CPU_PINNED;
	CHECK_EQ(home_pages(BASE, BASE + P(16)), 15);
	CHECK(tdmi_mm_count(&mm, TDM_C_PINNED) > 0);
	check_counters();
	CHECK_EQ(out_pages(BASE, BASE + P(16)), 15);
	CHECK(*tdm_cpu_flags(&cpu, BASE + P(6)) & TDM_CPU_PRESENT);
	get_range(0, 16, 3);
	*tdm_cpu_flags(&cpu, BASE + P(6)) &= (u8)~TDM_CPU_PINNED;
	CHECK_EQ(out_pages(BASE, BASE + P(16)), 16);
	get_range(0, 16, 3);
	finish();
}

TEST(shared_pages_are_unshared)
{
	start();
	map(BASE, BASE + P(32));
	put_range(0, 32, 3);
	for (u32 i = 5; i < 30; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	CHECK_EQ(home_pages(BASE, BASE + P(32)), 32);
	CHECK(tdmi_mm_count(&mm, TDM_C_UNSHARED) >= 25);
	check_counters();
	get_range(0, 32, 3);
	finish();
}

/* A page that the port had already leaves its unpacked bytes in the home: they must not be forgotten there. */
TEST(a_warm_home_that_was_not_needed)
{
	start();
	map(BASE, BASE + P(64));
	mm.frames.warm_max = 4;
	put_range(0, 32, 1);
	CHECK_EQ(out_pages(BASE, BASE + P(32)), 32);
	CHECK(tdmi_frames_warm(&mm.frames) > 0);
	/* As after a fork: the parent has given it to the child, whose table does not know. */
	tdmi_cpu_preset(&cpu, BASE + P(5), 1, 7, false);
	CHECK_EQ(get(BASE), 1);
	CHECK_EQ(get(BASE + P(5) + 40), 0x0707070707070707);
	CHECK_EQ(tdmi_frames_warm(&mm.frames), 1);
	check_counters();
	CHECK_EQ(home_pages(BASE, BASE + P(16)), 16);
	finish();
}

/* What vanishes is a loss, but for zeros that were given while the program was dropping the page. */
TEST(what_vanishes_is_counted)
{
	start();
	map(BASE, BASE + P(64));
	put(BASE, 1);
	tdmi_cpu_drop(&cpu, BASE, BASE + P(1));
	CHECK_EQ(get(BASE), 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_LATE_DROPS), 1);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_LOST), 0);
	put(BASE, 2);
	CHECK_EQ(out_pages(BASE, BASE + P(16)), 1);
	CHECK_EQ(get(BASE), 2);
	tdmi_cpu_drop(&cpu, BASE, BASE + P(1));
	CHECK_EQ(get(BASE), 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_LATE_DROPS), 1);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_LOST), 1);
	finish();
}

/* A thread that serves faults must not wait for one: it leaves what is shared to another. */
TEST(shared_pages_wait_for_who_may_unshare)
{
	start();
	map(BASE, BASE + P(32));
	put_range(0, 32, 3);
	for (u32 i = 0; i < 16; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	ctx->may_wait = false;
	CHECK_EQ(home_pages(BASE, BASE + P(32)), 16);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_UNSHARED), 0);
	CHECK_EQ(mm.lru.shared.count, 1);
	check_counters();
	CHECK_EQ(tdmi_age(ctx, 64), 0);
	ctx->may_wait = true;
	CHECK_EQ(tdmi_age(ctx, 64), 16);
	CHECK_EQ(mm.lru.shared.count, 0);
	check_counters();
	get_range(0, 32, 3);
	finish();
}

/* A shared page that is taken home has been copied: until it is packed there is one more, so there must never be many. */
TEST(shared_pages_do_not_gather_on_probation)
{
	start();
	map(BASE, BASE + P(PAGES));
	for (u32 i = 0; i < PAGES; i++)
		put(BASE + P(i), i + 1);
	CHECK_EQ(home_pages(BASE, BASE + P(16)), 16);
	for (u32 i = 16; i < PAGES; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	for (u32 i = 0; i < 8; i++) {
		u64 home = tdm_a64_ld_relaxed(&mm.home);

		CHECK(tdmi_reclaim(ctx, 1, 16) > 0);
		CHECK(tdm_a64_ld_relaxed(&mm.home) <= home);
	}
	CHECK(tdmi_mm_count(&mm, TDM_C_UNSHARED) >= 7 * 16);
	check_counters();
	for (u32 i = 0; i < PAGES; i++)
		CHECK_EQ(get(BASE + P(i)), i + 1);
	finish();
}

static u32 drained;

static void on_drain(void *arg, struct tdm_ctx *c)
{
	drained++;
}

TEST(again_until_drained)
{
	start();
	cpu.on_drain = on_drain;
	map(BASE, BASE + P(32));
	cpu.again = 1000;
	put_range(0, 32, 3);
	CHECK_EQ(drained, 1);
	cpu.again = 1000;
	home_pages(BASE, BASE + P(32));
	CHECK_EQ(drained, 2);
	check_counters();
	home_pages(BASE, BASE + P(32));
	cpu.again = 1000;
	get_range(0, 32, 3);
	CHECK_EQ(drained, 3);
	out_pages(BASE, BASE + P(32));
	cpu.again = 1000;
	CHECK_EQ(tdmi_bring(ctx, BASE, BASE + P(32)), 0);
	CHECK_EQ(drained, 4);
	check_counters();
	swap_pages(0);
	get_range(0, 32, 3);
	finish();
}

/* mprotect(PROT_READ) while pages are home: they cannot be moved, and are copied. */
TEST(read_only_is_copied)
{
	start();
	map(BASE, BASE + P(32));
	put_range(0, 32, 3);
	CHECK_EQ(home_pages(BASE, BASE + P(32)), 32);
	for (u32 i = 8; i < 32; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_RDONLY;
	get_range(0, 32, 3);
	CHECK(tdm_a64_ld_relaxed(&mm.stale) >= 16);
	check_counters();
	/* Nothing of it can be taken; what is writable again can, and its stale homes are no obstacle. */
	CHECK_EQ(home_pages(BASE + P(16), BASE + P(32)), 0);
	for (u32 i = 8; i < 32; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) &= (u8)~TDM_CPU_RDONLY;
	put_range(0, 32, 4);
	CHECK_EQ(home_pages(BASE, BASE + P(32)), 32);
	get_range(0, 32, 4);
	finish();
}

/* Pages of a mapping that has gone, of which the event comes later. */
TEST(gone_pages)
{
	start();
	map(BASE, BASE + P(32));
	put_range(0, 32, 3);
	out_pages(BASE, BASE + P(16));
	home_pages(BASE + P(16), BASE + P(24));
	tdmi_cpu_drop(&cpu, BASE + P(4), BASE + P(28));
	for (u32 i = 4; i < 28; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) = 0;
	get_range(0, 4, 3);
	get_range(28, 32, 3);
	home_pages(BASE, BASE + P(32));
	get_range(0, 4, 3);
	get_range(28, 32, 3);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(4), BASE + P(28));
	check_counters();
	finish();
}

static void huge_start(void)
{
	start();
	map(BASE, BASE + 2 * H);
	tdmi_cpu_preset(&cpu, BASE, TDM_HUGE_PAGES, 0, true);
	put_range(0, 512, 40);
	adopt(BASE, BASE + 2 * H);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), 512);
	check_counters();
}

TEST(huge_home_and_back)
{
	u32 level;

	huge_start();
	entry(BASE, &level);
	CHECK_EQ(level, 1);
	CHECK_EQ(home_pages(BASE, BASE + 2 * H), 512);
	CHECK(tdm_pte_home(entry(BASE, &level)));
	CHECK_EQ(level, 1);
	check_counters();
	cpu.faults = 0;
	get_range(0, 512, 40);
	CHECK_EQ(cpu.faults, 1);
	CHECK(tdm_pte_lent(entry(BASE, &level)));
	CHECK_EQ(level, 1);
	check_counters();
	finish();
}

TEST(huge_out)
{
	u32 level;

	huge_start();
	CHECK_EQ(out_pages(BASE, BASE + 2 * H), 512);
	swap_pages(512);
	entry(BASE, &level);
	CHECK_EQ(level, 0);
	check_counters();
	get_range(0, 512, 40);
	swap_pages(0);
	finish();
}

/* Each may be a nap; a busy machine, too, gets through all of them in TDM_WAKE_NS. */
#define WAKING 8u

/* The kernel moves nothing until he who has caused an event runs again, however often events are read meanwhile: what is asked for is done then. */
TEST(range_home_waits_for_who_is_being_woken)
{
	u64 n;

	huge_start();
	cpu.waking = WAKING;
	CHECK_EQ(tdmi_range_home(ctx, BASE, BASE + P(512), &n), 0);
	CHECK_EQ(n, 512);
	CHECK_EQ(cpu.waking, 0);
	CHECK_EQ(tdmi_bring(ctx, BASE, BASE + P(512)), 0);
	check_counters();
	finish();
	start();
	map(BASE, BASE + P(512));
	put_range(0, 512, 1);
	cpu.waking = WAKING;
	CHECK_EQ(tdmi_range_home(ctx, BASE + P(3), BASE + P(509), &n), 0);
	CHECK_EQ(n, 506);
	get_range(0, 512, 1);
	finish();
}

/* ... but not for ever. */
TEST(range_home_gives_up_on_who_is_never_woken)
{
	u64 n;

	start();
	map(BASE, BASE + P(64));
	put_range(0, 64, 1);
	cpu.waking = ~0u;
	CHECK_EQ(tdmi_range_home(ctx, BASE, BASE + P(64), &n), 0);
	CHECK_EQ(n, 0);
	cpu.waking = 0;
	get_range(0, 64, 1);
	finish();
}

TEST(huge_zap)
{
	u32 level;

	for (u32 home = 0; home < 2; home++) {
		huge_start();
		if (home)
			home_pages(BASE, BASE + H);
		tdmi_cpu_dontneed(&cpu, ctx, BASE + P(100), BASE + P(130));
		entry(BASE, &level);
		CHECK_EQ(level, 0);
		check_counters();
		get_range(0, 100, 40);
		get_range(130, 512, 40);
		CHECK_EQ(get(BASE + P(101) + 808), 0);
		check_counters();
		finish();
		huge_start();
		if (home)
			home_pages(BASE, BASE + H);
		tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + H);
		check_counters();
		CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent) + tdm_a64_ld_relaxed(&mm.home), 0);
		finish();
	}
}

TEST(huge_remap)
{
	for (u32 k = 0; k < 4; k++) {
		u64 to = BASE + 4 * H + (k & 1 ? P(7) : 0);

		huge_start();
		if (k & 2)
			home_pages(BASE, BASE + H);
		tdmi_cpu_mremap(&cpu, ctx, BASE, to, H);
		check_counters();
		for (u32 i = 0; i < 512; i++)
			CHECK_EQ(get(to + P(i) + 8 * i), i + 40);
		check_counters();
		finish();
	}
}

/* One page of it is pinned, or its first half read-only: split, and the others go. */
TEST(huge_refuses)
{
	u32 level;

	huge_start();
	*tdm_cpu_flags(&cpu, BASE + P(300)) |= TDM_CPU_PINNED;
	home_pages(BASE, BASE + H);
	entry(BASE, &level);
	CHECK_EQ(level, 0);
	check_counters();
	home_pages(BASE, BASE + H);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), 1);
	check_counters();
	get_range(0, 512, 40);
	finish();

	huge_start();
	home_pages(BASE, BASE + H);
	for (u32 i = 0; i < 512; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_RDONLY;
	get_range(0, 512, 40);
	check_counters();
	finish();
}

TEST(full_tier_loses_nothing, .seconds = 60)
{
	u64 seed = t_seed(), w[512], rng, n;
	u32 total = 1024;
	int r;

	start_with((u64)1 << 20, PAGES, FRAMES);
	map(BASE, BASE + P(total));
	for (u32 i = 0; i < total; i++) {
		rng = seed + i;
		for (u32 k = 0; k < 512; k++)
			w[k] = t_rand(&rng);
		CHECK_EQ(tdmi_cpu_write(&cpu, ctx, BASE + P(i), w, sizeof(w)), 0);
	}
	r = tdmi_range_out(ctx, BASE, BASE + P(total), &n);
	CHECK_EQ(r, -ENOSPC);
	CHECK(n < 300);
	swap_pages(n);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.home), total - n);
	check_counters();
	tdmi_reclaim(ctx, 0, 1000);
	check_counters();
	for (u32 i = 0; i < total; i++) {
		u64 got[512];

		rng = seed + i;
		for (u32 k = 0; k < 512; k++)
			w[k] = t_rand(&rng);
		CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(i), got, sizeof(got)), 0);
		CHECK(!memcmp(w, got, sizeof(w)));
	}
	check_counters();
	finish();
}

static int see(void *arg, u64 va, u32 n, const void *bytes)
{
	u32 first = (u32)((va - BASE) >> TDM_PAGE_SHIFT);

	for (u32 i = first; i < first + n; i++, bytes = (const u8 *)bytes + TDM_PAGE_SIZE)
		CHECK_EQ(((const u64 *)bytes)[i % 512], i + 6);
	*(u32 *)arg += n;
	return 0;
}

TEST(frozen)
{
	const void *bytes;
	u32 seen = 0;

	start();
	map(BASE, BASE + 2 * H);
	tdmi_cpu_preset(&cpu, BASE + H, TDM_HUGE_PAGES, 0, true);
	adopt(BASE + H, BASE + 2 * H);
	put_range(0, 100, 6);
	put_range(512, 1024, 6);
	out_pages(BASE, BASE + P(50));
	home_pages(BASE + P(64), BASE + P(96));
	home_pages(BASE + H, BASE + 2 * H);
	tdmi_mm_freeze(&mm);
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE, &(u64){ 0 }, 8), -EAGAIN);
	CHECK_EQ(tdmi_frozen_walk(ctx, 0, (u64)1 << 47, see, &seen), 0);
	CHECK_EQ(seen, tdm_a64_ld_relaxed(&mm.out) + tdm_a64_ld_relaxed(&mm.home));
	for (u32 i = 0; i < 1024; i++) {
		CHECK_EQ(tdmi_frozen_page(ctx, BASE + P(i), &bytes), 0);
		if (*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT)
			CHECK(bytes == NULL);
		else
			CHECK_EQ(((const u64 *)bytes)[i % 512], i < 100 || i >= 512 ? i + 6 : 0);
	}
	/* Three pages are given to the program while the table cannot be told: one that is out, one home, one of a leaf. */
	for (u32 k = 0; k < 3; k++) {
		u32 i = k == 0 ? 7 : k == 1 ? 70 : 600, done;

		CHECK_EQ(tdmi_frozen_page(ctx, BASE + P(i), &bytes), 0);
		CHECK_EQ(cpu.port.ops->fill_copy(&cpu.port, (struct tdm_va){ BASE + P(i) }, bytes, 1, &done), 0);
	}
	tdmi_mm_thaw(&mm);
	put_range(7, 8, 1000);
	put_range(70, 71, 1000);
	put_range(600, 601, 1000);
	plat_mutex_lock(&mm.event_lock);
	tdmi_settle(ctx, BASE + P(7));
	tdmi_settle(ctx, BASE + P(70));
	tdmi_settle(ctx, BASE + P(600));
	plat_mutex_unlock(&mm.event_lock);
	check_counters();
	get_range(7, 8, 1000);
	get_range(70, 71, 1000);
	get_range(600, 601, 1000);
	get_range(0, 7, 6);
	get_range(512, 600, 6);
	get_range(601, 1024, 6);
	finish();
}

TEST(predictor)
{
	u64 faults, seed = 1; /* of other sequences one in ten ends with a fault that is thought to go on with another, or that guesses */
	u32 level;

	start();
	map(BASE, BASE + P(PAGES));
	/* A scan: each fault brings four times what the last did. */
	cpu.faults = 0;
	for (u32 i = 0; i < 2048; i++)
		put(BASE + P(i), 1);
	CHECK(cpu.faults < 40);
	out_pages(BASE, BASE + P(2048));
	cpu.faults = 0;
	for (u32 i = 0; i < 2048; i++)
		CHECK_EQ(get(BASE + P(i)), 1);
	CHECK(cpu.faults < 40);
	/* At random: in the end a fault brings a page. */
	for (u32 i = 0; i < 2048; i++)
		put(BASE + P(i), 1);
	for (u32 round = 0; round < 20; round++) {
		out_pages(BASE, BASE + P(2048));
		for (u32 k = 0; k < 8; k++)
			(void)get(BASE + P(t_rand(&seed) % 2048));
	}
	out_pages(BASE, BASE + P(2048));
	faults = tdmi_mm_count(&mm, TDM_C_HARD_PAGES);
	(void)get(BASE + P(17 * 16 + 5));
	faults = tdmi_mm_count(&mm, TDM_C_HARD_PAGES) - faults;
	CHECK(faults <= 4);
	CHECK(tdm_pte_lent(entry(BASE + P(17 * 16 + 5), &level)));
	finish();
}

/* More is touched than there are frames for: faults make room. */
TEST(arena_smaller_than_memory)
{
	start_with(0, PAGES, 1024);
	map(BASE, BASE + P(PAGES));
	for (u32 i = 0; i < PAGES; i += 5)
		put(BASE + P(i), i + 1);
	check_counters();
	for (u32 i = 0; i < PAGES; i += 5)
		CHECK_EQ(get(BASE + P(i)), i + 1);
	check_counters();
	finish();
}

/* So many pages does a hard fault bring in the end: of 4 of the 16 of a block those after the first are used soon, or none is. */
static u64 pages_a_fault(bool together)
{
	u64 rng = 5, faults = 0, pages = 0;

	for (u32 i = 0; i < 12000; i++) {
		u32 block = (u32)(t_rand(&rng) % (PAGES / TDM_BLOCK_PAGES)) * TDM_BLOCK_PAGES;
		u32 page = block + (u32)(t_rand(&rng) % TDM_BLOCK_PAGES);

		if (i == 8000) {
			faults = tdmi_mm_count(&mm, TDM_C_HARD_FAULTS);
			pages = tdmi_mm_count(&mm, TDM_C_HARD_PAGES);
		}
		CHECK_EQ(get(BASE + P(page)), page + 1);
		for (u32 k = 1; together && k < TDM_BLOCK_PAGES; k++)
			CHECK_EQ(get(BASE + P(page ^ k)), (page ^ k) + 1);
	}
	return 10 * (tdmi_mm_count(&mm, TDM_C_HARD_PAGES) - pages) / (tdmi_mm_count(&mm, TDM_C_HARD_FAULTS) - faults);
}

TEST(neighbours_that_are_not_used_are_not_brought)
{
	u64 base, rng = 7, faults = 0;

	start();
	base = tdmi_mm_tracked(&mm);
	map(BASE, BASE + P(PAGES));
	for (u32 i = 0; i < PAGES; i++)
		put(BASE + P(i), i + 1);
	tdm_a64_st_relaxed(&mm.limit_bytes, base + ((u64)4 << 20));
	tdm_a64_st_relaxed(&mm.high_bytes, base + ((u64)4 << 20));
	tdmi_reclaim(ctx, base + ((u64)4 << 20), ~(u64)0);
	CHECK(pages_a_fault(false) < 20);
	/* Some 85 of 160; 75 where lone pages are copied, because moving them takes long (a loaded machine under ThreadSanitizer). */
	CHECK(pages_a_fault(true) > 60);
	CHECK(pages_a_fault(false) < 20);
	/* One page of each block is used, again and again: they fit. */
	for (u32 i = 0; i < 12000; i++) {
		u32 page = (u32)(t_rand(&rng) % (PAGES / TDM_BLOCK_PAGES)) * TDM_BLOCK_PAGES + 3;

		faults = i == 8000 ? tdmi_mm_count(&mm, TDM_C_HARD_FAULTS) : faults;
		CHECK_EQ(get(BASE + P(page)), page + 1);
	}
	CHECK(tdmi_mm_count(&mm, TDM_C_HARD_FAULTS) - faults < 400);
	check_counters();
	finish();
}
