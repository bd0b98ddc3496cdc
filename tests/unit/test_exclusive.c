// SPDX-License-Identifier: MIT
/* test_exclusive.c - pages that a device has for itself: until somebody else touches them, and then it knows. */
#include "shadow.h"

static void begin(void)
{
	start();
	device_start(1024);
	device_start_one(&dev2, 512);
	map(BASE, BASE + P(PAGES));
	shadow_start();
}

static void end(void)
{
	shadow_check();
	shadow.on_round = NULL;
	shadow_finish();
	device_finish();
	device_finish_one(&dev2);
	finish();
}

/* From the last on: else it is a stream. */
static void write_pages(u32 a, u32 b, u64 add)
{
	while (b-- > a)
		put(BASE + P(b) + 8 * (b % 512), b + add);
}

/* How many are: perhaps more than the device knows, who may have been told of a whole block. */
static u32 alone(u32 a, u32 b)
{
	u32 n = 0, level;

	for (u32 i = a; i < b; i++) {
		bool is = tdm_pte_is(entry(BASE + P(i), &level), TDM_PTE_T_EXCLUSIVE);

		CHECK(is || !shadow.alone[i]);
		if (is)
			CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT));
		n += is;
	}
	return n;
}

static u64 *word_of(u32 page)
{
	return (u64 *)(void *)(shadow.alone[page] + 8 * (page % 512));
}

TEST(the_bytes_are_where_it_says)
{
	begin();
	write_pages(3, 40, 1);
	CHECK_EQ(shadow_alone(3, 40), 0);
	CHECK_EQ(alone(3, 40), 37);
	check_counters();
	for (u32 i = 3; i < 40; i++) {
		CHECK_EQ(*word_of(i), i + 1);
		*word_of(i) += 100;
	}
	/* Each touch takes some of them back; in the end the program has all, with what the device has written. */
	get_range(3, 40, 101);
	CHECK_EQ(alone(3, 40), 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_REVOKED), 37);
	check_counters();
	end();
}

TEST(neighbours_stay)
{
	begin();
	write_pages(0, 48, 1);
	CHECK_EQ(shadow_alone(20, 21), 0);
	for (u32 i = 0; i < 48; i++)
		CHECK_EQ(!!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT), i != 20);
	/* They are used, and it has the page still. */
	shadow.nheard = 0;
	get_range(0, 20, 1);
	get_range(21, 48, 1);
	write_pages(21, 48, 2);
	heard_none();
	CHECK_EQ(alone(0, 48), 1);
	/* They go home and out, and come back, without it. */
	CHECK_EQ(out_pages(BASE, BASE + P(48)), 47);
	CHECK_EQ(alone(0, 48), 1);
	check_counters();
	shadow.nheard = 0;
	get_range(21, 48, 2);
	get_range(0, 20, 1);
	heard_none();
	CHECK_EQ(alone(0, 48), 1);
	CHECK_EQ(shadow_alone(20, 21), 0);
	CHECK_EQ(*word_of(20), 21);
	get_range(20, 21, 1);
	end();
}

/* Reclaim takes what lies around them: nobody who has a page for himself hears of it. */
TEST(neighbours_are_aged)
{
	static const u32 page[] = { 1, 4, 5, 15, 20, 32 + 7, 9 * 16 + 3 };

	for (u32 how = 0; how < 2; how++) {
		begin();
		write_pages(0, 256, 1);
		for (u32 i = 0; i < TDM_ARRAY_SIZE(page); i++)
			CHECK_EQ(shadow_alone(page[i], page[i] + 1), 0);
		if (how) {
			CHECK_EQ(home_pages(BASE, BASE + P(256)), 256 - TDM_ARRAY_SIZE(page));
		} else {
			for (u32 tries = 0; tries < 64 && tdm_a64_ld_relaxed(&mm.lent) > TDM_ARRAY_SIZE(page); tries++)
				CHECK(tdmi_age(ctx, 64) || tdmi_reclaim(ctx, 0, 64));
			CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), TDM_ARRAY_SIZE(page));
		}
		for (u32 i = 0; i < TDM_ARRAY_SIZE(page); i++) {
			CHECK(shadow.alone[page[i]] != NULL);
			*word_of(page[i]) += 10;
		}
		check_counters();
		for (u32 i = 0; i < TDM_ARRAY_SIZE(page); i++) {
			CHECK_EQ(get(BASE + P(page[i]) + 8 * (page[i] % 512)), page[i] + 11);
			CHECK(shadow.alone[page[i]] == NULL);
			put(BASE + P(page[i]) + 8 * (page[i] % 512), page[i] + 1);
		}
		get_range(0, 256, 1);
		end();
	}
}

static u32 seen;

/* As long as the owner has not been told, nothing has happened to the bytes; and the page is nobody else's. */
static void still_there(const struct tdm_inv_range *range)
{
	for (u32 i = 0; i < 32; i++)
		if (shadow.alone[i] && range->start <= BASE + P(i) && BASE + P(i) < range->end) {
			CHECK_EQ(*word_of(i), i + 1);
			*word_of(i) += 10;
			CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT));
			seen++;
		}
}

TEST(a_touch_is_a_round_before_it_is_anything_else)
{
	begin();
	write_pages(0, 32, 1);
	CHECK_EQ(shadow_alone(5, 8), 0);
	shadow.nheard = 0;
	shadow.on_round = still_there;
	CHECK_EQ(get(BASE + P(6) + 8 * 6), 17);
	CHECK_EQ(seen, 3);
	heard_one(BASE, BASE + P(16), TDM_INV_CLEAR, NULL);
	/* A write, and what asks for a range. */
	CHECK_EQ(shadow_alone(20, 21), 0);
	shadow.nheard = 0;
	put(BASE + P(20), 1);
	CHECK_EQ(seen, 4);
	heard_one(BASE + P(16), BASE + P(32), TDM_INV_CLEAR, NULL);
	CHECK_EQ(get(BASE + P(20) + 160), 31);
	CHECK_EQ(shadow_alone(30, 32), 0);
	shadow.nheard = 0;
	CHECK_EQ(tdmi_bring(ctx, BASE, BASE + P(32)), 0);
	CHECK_EQ(seen, 6);
	heard_one(BASE + P(16), BASE + P(32), TDM_INV_CLEAR, NULL);
	CHECK_EQ(alone(0, 32), 0);
	end();
}

/* The page is refused when it comes: it is home, nobody's, and the touch is served in the end. */
TEST(a_touch_that_is_refused_for_a_while)
{
	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(shadow_alone(0, 16), 0);
	cpu.again = 3;
	get_range(7, 8, 1);
	CHECK(cpu.drains > 0);
	CHECK_EQ(alone(0, 16), 0);
	check_counters();
	end();
}

TEST(reclaim_passes_over_them)
{
	u64 n;

	begin();
	write_pages(0, 1024, 1);
	CHECK_EQ(shadow_alone(100, 164), 0);
	CHECK_EQ(shadow_alone(500, 502), 0);
	for (u32 i = 0; i < 4; i++)
		tdmi_age(ctx, 4096);
	CHECK(tdmi_reclaim(ctx, (u64)1 << 20, 4096) > 400);
	CHECK_EQ(alone(0, 1024), 66);
	CHECK_EQ(out_pages(BASE, BASE + P(1024)) + tdmi_mm_count(&mm, TDM_C_EVICTED_PAGES) >= 958, 1);
	CHECK_EQ(home_pages(BASE, BASE + P(1024)), 0);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE, BASE + P(1024), &n), 0);
	CHECK_EQ(n, 0);
	CHECK_EQ(alone(0, 1024), 66);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.out), 958);
	check_counters();
	get_range(0, 1024, 1);
	end();
}

TEST(the_program_ends_it)
{
	begin();
	write_pages(0, 160, 1);
	CHECK_EQ(shadow_alone(0, 64), 0);
	CHECK_EQ(shadow_alone(64, 128), 0);
	shadow.nheard = 0;
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(10), BASE + P(20));
	heard_one(BASE + P(10), BASE + P(20), TDM_INV_UNMAP, NULL);
	CHECK_EQ(alone(0, 128), 118);
	check_counters();
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(30), BASE + P(40));
	heard_one(BASE + P(30), BASE + P(40), TDM_INV_CLEAR, NULL);
	CHECK_EQ(alone(0, 128), 108);
	check_counters();
	for (u32 i = 30; i < 40; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * i), 0);
	for (u32 i = 64; i < 128; i++)
		*word_of(i) += 5;
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(64), BASE + P(1003), P(64));
	CHECK_EQ(alone(64, 128), 0);
	CHECK_EQ(alone(1003, 1067), 0);
	check_counters();
	for (u32 i = 64; i < 128; i++)
		CHECK_EQ(get(BASE + P(939 + i) + 8 * i), i + 6);
	get_range(0, 10, 1);
	get_range(20, 30, 1);
	get_range(40, 64, 1);
	end();
}

static int frozen_fn(void *arg, u64 va, u32 n, const void *bytes)
{
	u32 page = (u32)((va - BASE) >> TDM_PAGE_SHIFT);

	for (u32 i = page; i < page + n; i++)
		CHECK_EQ(((const u64 *)bytes)[512 * (i - page) + i % 512], i + 1);
	*(u32 *)arg += n;
	return 0;
}

TEST(frozen_pages_can_be_read)
{
	const void *bytes;
	u32 n = 0;

	begin();
	write_pages(0, 64, 1);
	CHECK_EQ(shadow_alone(10, 30), 0);
	CHECK_EQ(home_pages(BASE, BASE + P(10)), 10);
	tdmi_mm_freeze(&mm);
	for (u32 i = 10; i < 30; i++) {
		CHECK_EQ(tdmi_frozen_page(ctx, BASE + P(i), &bytes), 0);
		CHECK_EQ(((const u64 *)bytes)[i], i + 1);
	}
	CHECK_EQ(tdmi_frozen_walk(ctx, BASE, BASE + P(64), frozen_fn, &n), 0);
	tdmi_mm_thaw(&mm);
	CHECK_EQ(n, 30);
	CHECK_EQ(alone(0, 64), 20);
	/* One that was given to the program while the engine stood still is the program's. */
	*tdm_cpu_flags(&cpu, BASE + P(12)) |= TDM_CPU_PRESENT;
	memset(cpu.bytes + P(12), 0x77, P(1));
	shadow.nheard = 0;
	plat_mutex_lock(&mm.event_lock);
	tdmi_settle(ctx, BASE + P(12));
	plat_mutex_unlock(&mm.event_lock);
	heard_one(BASE + P(12), BASE + P(13), TDM_INV_CLEAR, NULL);
	CHECK_EQ(alone(0, 64), 19);
	CHECK_EQ(get(BASE + P(12)), 0x7777777777777777);
	check_counters();
	end();
}

/* ---- what can be had ------------------------------------------------------------------------------------------------------------- */

/* Whatever a page is before: home, out, on a device, nowhere, in a leaf. */
TEST(every_state)
{
	u64 n;

	begin();
	write_pages(0, 96, 1);
	CHECK_EQ(home_pages(BASE + P(16), BASE + P(32)), 16);
	CHECK_EQ(out_pages(BASE + P(32), BASE + P(48)), 16);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(48), BASE + P(64), &n), 0);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev2.pool, BASE + P(64), BASE + P(80), &n), 0);
	CHECK_EQ(shadow_alone(8, 64), 0);
	CHECK_EQ(shadow_alone(64, 112), 0);
	CHECK_EQ(alone(8, 112), 104);
	check_counters();
	device_check();
	device_check_one(&dev2);
	for (u32 i = 8; i < 96; i++)
		CHECK_EQ(*word_of(i), i + 1);
	for (u32 i = 96; i < 112; i++)
		CHECK_EQ(*word_of(i), 0);
	get_range(0, 96, 1);
	end();
}

/* A leaf is split; a page that is home with the rest of it, too. */
TEST(pages_of_a_leaf)
{
	for (u32 home = 0; home < 2; home++) {
		begin();
		tdmi_cpu_preset(&cpu, BASE + H, TDM_HUGE_PAGES, 0, true);
		adopt(BASE + H, BASE + 2 * H);
		write_pages(512, 1024, 1);
		if (home)
			CHECK_EQ(home_pages(BASE + H, BASE + 2 * H), 512);
		CHECK_EQ(shadow_alone(700, 730), 0);
		CHECK_EQ(alone(512, 1024), 30);
		check_counters();
		for (u32 i = 512; i < 1024; i++)
			CHECK_EQ(!!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT), i < 700 || i >= 730);
		get_range(512, 1024, 1);
		end();
	}
}

/* Pinned, by us or by the kernel: NULL, and the others are there. Shared with a child: copied. */
TEST(some_cannot_be_had)
{
	struct tdm_pfn pin;
	void *home[64];
	u64 n;

	begin();
	write_pages(0, 64, 1);
	*tdm_cpu_flags(&cpu, BASE + P(3)) |= TDM_CPU_PINNED;
	*tdm_cpu_flags(&cpu, BASE + P(40)) |= TDM_CPU_SHARED;
	CHECK_EQ(tdmi_gup_fast(ctx, BASE + P(20), 1, &pin), 1);
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE, BASE + P(64), &dev, home, &n), 0);
	CHECK_EQ(n, 47);
	for (u32 i = 0; i < 64; i++)
		CHECK_EQ(home[i] == NULL, i == 3 || (i >= 16 && i < 32));
	CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(40)) & TDM_CPU_SHARED));
	check_counters();
	tdmi_unpin(ctx, &pin, 1);
	*tdm_cpu_flags(&cpu, BASE + P(3)) &= (u8)~TDM_CPU_PINNED;
	CHECK_EQ(shadow_alone(0, 64), 0);
	CHECK_EQ(alone(0, 64), 64);
	get_range(0, 64, 1);
	/* A thread that must not wait leaves what is shared. */
	ctx->may_wait = false;
	*tdm_cpu_flags(&cpu, BASE + P(40)) |= TDM_CPU_SHARED;
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE + P(39), BASE + P(42), &dev, home, &n), 0);
	CHECK_EQ(n, 2);
	CHECK(home[0] && !home[1] && home[2]);
	ctx->may_wait = true;
	get_range(0, 64, 1);
	end();
}

TEST(nobody_pins_them)
{
	struct tdm_pfn pin[16];
	u32 done;

	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(shadow_alone(4, 8), 0);
	CHECK_EQ(tdmi_gup_fast(ctx, BASE, 16, pin), 4);
	tdmi_unpin(ctx, pin, 4);
	CHECK_EQ(alone(0, 16), 4);
	CHECK(tdmi_mm_enter(ctx));
	CHECK_EQ(tdmi_pin(ctx, BASE, 16, TDM_GUP_WRITE, pin, &done), 0);
	tdmi_mm_exit(ctx);
	CHECK_EQ(alone(0, 16), 0);
	tdmi_unpin(ctx, pin, 16);
	end();
}

TEST(what_is_refused)
{
	static const struct {
		u64 start, end;
		int err;
		u32 pages; /* that are done nevertheless */
	} bad[] = {
		{ BASE, BASE, -EINVAL, 0 },
		{ BASE + P(2), BASE + P(1), -EINVAL, 0 },
		{ BASE + 1, BASE + P(1), -EINVAL, 0 },
		{ BASE, BASE + P(1) + 1, -EINVAL, 0 },
		{ ((u64)1 << 47) - P(1), ((u64)1 << 47) + P(1), -EINVAL, 0 },
		{ BASE + P(8), BASE + P(12), -EFAULT, 2 },      /* a hole */
		{ BASE + P(PAGES), BASE + P(PAGES + 1), -EFAULT, 0 },
		{ BASE + P(11), BASE + P(12), -EFAULT, 0 },     /* no access */
		{ BASE + P(12), BASE + P(13), -EPERM, 0 },      /* read-only */
		{ BASE + P(13), BASE + P(14), -EOPNOTSUPP, 0 }, /* excluded */
		{ BASE + P(14), BASE + P(15), -EOPNOTSUPP, 0 }, /* not ours */
		{ BASE + P(28), BASE + P(40), -EFAULT, 7 },     /* a hole in the next block */
	};
	void *home[16];
	u64 n;

	begin();
	write_pages(8, 60, 1);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(10), BASE + P(11));
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(35), BASE + P(36));
	tdmi_cpu_mprotect(&cpu, BASE + P(11), BASE + P(12), TDM_CPU_NOACCESS);
	tdmi_cpu_mprotect(&cpu, BASE + P(12), BASE + P(13), TDM_CPU_RDONLY);
	plat_mutex_lock(&mm.event_lock);
	tdmi_zap(ctx, BASE + P(13), BASE + P(15), TDM_ZAP_REMOVE);
	tdmi_cpu_drop(&cpu, BASE + P(13), BASE + P(15));
	CHECK_EQ(tdmi_vma_insert(&mm.vmas, BASE + P(13), BASE + P(14), TDM_VMA_EXCLUDED), 0);
	CHECK_EQ(tdmi_vma_remove(&mm.vmas, BASE + P(14), BASE + P(15)), 0);
	plat_mutex_unlock(&mm.event_lock);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++) {
		int r = tdmi_make_exclusive(ctx, bad[i].start, bad[i].end, &dev, home, &n);

		if (r != bad[i].err || n != bad[i].pages)
			t_fail(__FILE__, __LINE__, "row %u: %d, %llu pages", i, r, (unsigned long long)n);
		check_counters();
		for (u32 k = 0; k < n; k++) {
			u32 page = (u32)((bad[i].start - BASE) >> TDM_PAGE_SHIFT) + k;

			CHECK_EQ(((u64 *)home[k])[page], page + 1);
		}
		CHECK(!ctx->round);
	}
	tdmi_cpu_mprotect(&cpu, BASE + P(11), BASE + P(13), 0);
	get_range(28, 35, 1);
	get_range(8, 10, 1);
	end();
}

/* Bytes that are lost cannot be had, and that is no error of the range's. */
TEST(a_page_that_is_lost)
{
	void *home[3];
	u64 n, x;

	begin();
	write_pages(0, 3, 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(1), BASE + P(2), &n), 0);
	dev.dead = true;
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(1), &x, 8), -EIO);
	dev.dead = false;
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE, BASE + P(3), &dev, home, &n), 0);
	CHECK_EQ(n, 2);
	CHECK(home[0] && !home[1] && home[2]);
	end();
}

/* ---- whose rounds ------------------------------------------------------------------------------------------------------------------ */

/* The owner knows its own rounds, one a page, and nobody else takes them for his. */
TEST(the_owner_knows_its_round)
{
	void *home[2];
	u64 n;

	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(shadow_fill(0, 16, 0), 0);
	shadow.nheard = 0;
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE + P(3), BASE + P(5), &dev, home, &n), 0);
	CHECK_EQ(shadow.nheard, 2);
	for (u32 i = 0; i < 2; i++) {
		CHECK_EQ(shadow.heard[i].start, BASE + P(3 + i));
		CHECK_EQ(shadow.heard[i].end, BASE + P(4 + i));
		CHECK_EQ(shadow.heard[i].event, TDM_INV_EXCLUSIVE);
		CHECK(tdm_inv_is_own(&shadow.heard[i], &dev));
		CHECK(!tdm_inv_is_own(&shadow.heard[i], &dev2));
		CHECK(!tdm_inv_is_own(&shadow.heard[i], NULL));
	}
	shadow_check();
	CHECK_EQ(get(BASE + P(3) + 24), 4);
	end();
}

/* Nobody in particular cannot have it, nor can more owners than there are numbers; one who has a number keeps it. */
TEST(owners)
{
	static char owner[TDM_EXCLUSIVE_OWNERS + 1];
	void *home;
	u32 level;
	u64 n;

	begin();
	write_pages(0, 1, 1);
	CHECK_EQ(shadow_fill(0, 1, 0), 0);
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE, BASE + P(1), NULL, &home, &n), -EINVAL);
	for (u32 round = 0; round < 2; round++)
		for (u32 i = 0; i <= TDM_EXCLUSIVE_OWNERS; i++) {
			int r = tdmi_make_exclusive(ctx, BASE, BASE + P(1), &owner[i], &home, &n);

			CHECK_EQ(r, i < TDM_EXCLUSIVE_OWNERS ? 0 : -ENOSPC);
			CHECK_EQ(n, i < TDM_EXCLUSIVE_OWNERS);
			CHECK(tdmi_exclusive_owner(&mm, entry(BASE, &level)) == &owner[TDM_MIN(i, TDM_EXCLUSIVE_OWNERS - 1)]);
		}
	CHECK_EQ(shadow.entry[0], 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_REVOKED), 0);
	CHECK_EQ(get(BASE), 1);
	end();
}

/* Another device wants them: the first is told, and the bytes have not moved. */
TEST(from_one_device_to_another)
{
	void *home[4];
	u32 level;
	u64 n;

	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(shadow_alone(4, 8), 0);
	for (u32 i = 4; i < 8; i++)
		*word_of(i) += 7;
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE + P(6), BASE + P(10), &dev2, home, &n), 0);
	CHECK_EQ(n, 4);
	CHECK(shadow.alone[4] && shadow.alone[5] && !shadow.alone[6] && !shadow.alone[7]);
	for (u32 i = 4; i < 10; i++)
		CHECK(tdmi_exclusive_owner(&mm, entry(BASE + P(i), &level)) == (i < 6 ? &dev : &dev2));
	for (u32 i = 6; i < 10; i++)
		CHECK_EQ(((u64 *)home[i - 6])[i], i < 8 ? i + 8 : i + 1);
	shadow_check();
	check_counters();
	end();
}

/* Asked for again, as one does when something has changed meanwhile: nothing is taken back for it. */
TEST(again)
{
	void *home[16];
	u64 n, seq;

	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(shadow_alone(0, 16), 0);
	seq = tdm_interval_read_begin(&shadow.in);
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE, BASE + P(16), &dev, home, &n), 0);
	CHECK_EQ(n, 16);
	CHECK(!tdm_interval_read_retry(&shadow.in, seq));
	for (u32 i = 0; i < 16; i++)
		CHECK(home[i] == shadow.alone[i]);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_REVOKED), 0);
	/* One of them has been touched, with those around it. */
	CHECK_EQ(get(BASE + P(5) + 40), 6);
	CHECK_EQ(shadow_alone(0, 16), 0);
	CHECK_EQ(alone(0, 16), 16);
	end();
}

/* One page of the block is on a device: bringing that one back, for whomever, is none of the others' concern. */
TEST(bringing_one_takes_no_other_away)
{
	u64 n;

	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev2.pool, BASE + P(8), BASE + P(14), &n), 0);
	CHECK_EQ(shadow_alone(0, 8), 0);
	CHECK_EQ(shadow_alone(8, 12), 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_REVOKED), 0);
	get_range(12, 14, 1);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_REVOKED), 0);
	CHECK_EQ(alone(0, 16), 12);
	CHECK_EQ(shadow_alone(0, 12), 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_REVOKED), 0);
	get_range(0, 16, 1);
	end();
}

/* And the other way round: a touch of what a device has for itself leaves what is in another's memory. */
TEST(a_touch_brings_its_kind)
{
	u32 level;
	u64 n;

	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev2.pool, BASE + P(8), BASE + P(14), &n), 0);
	CHECK_EQ(shadow_alone(0, 8), 0);
	get_range(7, 8, 1);
	for (u32 i = 8; i < 14; i++)
		CHECK(tdm_pte_is(entry(BASE + P(i), &level), TDM_PTE_T_PRIVATE));
	get_range(0, 16, 1);
	end();
}
