// SPDX-License-Identifier: MIT
/* test_gup.c - pins: what is pinned stays, whoever wants it, and nothing is left over afterwards. One thread; see test_gup_windows.c and test_gup_races.c. */
#include "device_world.h"

static struct tdm_ctx *other; /* another thread of the engine, as far as it is concerned */
static struct tdm_port_ops ops;
static const struct tdm_port_ops *below;
static struct tdm_pfn pin[2 * TDM_HUGE_PAGES + 16];
static u32 shares;
static u32 forks;  /* so many of the next calls that unshare are each followed by a fork */
static bool refuse; /* no more than one page can be unshared at a time */

/* Called around the port's taking of pages home: the table is locked, and what is taken is frozen. */
static void (*on_taking)(u64 va, u32 n);

static int invalidate(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	int r;

	if (on_taking)
		on_taking(va.v, n);
	r = below->invalidate(p, va, slot, n, done);
	if (on_taking)
		on_taking(va.v, n);
	return r;
}

static int unshare(struct tdm_port *p, struct tdm_va va, u32 n)
{
	int r;

	TDM_BUG_ON(va.v / H != (va.v + P(n) - 1) / H);
	shares++;
	if (refuse && n > 1)
		return -EFAULT;
	r = below->unshare(p, va, n);
	if (forks) {
		forks--;
		tdmi_mm_freeze(&mm);
		tdmi_coherent_before_fork(ctx);
		for (u32 i = 0; i < n; i++)
			*tdm_cpu_flags(&cpu, va.v + P(i)) |= TDM_CPU_SHARED;
		tdmi_mm_thaw(&mm);
	}
	return r;
}

static void begin(void)
{
	start();
	device_start(1024);
	map(BASE, BASE + P(PAGES));
	other = tdmi_ctx_create(&mm);
	CHECK(other != NULL);
	below = cpu.port.ops;
	ops = *below;
	ops.invalidate = invalidate;
	ops.unshare = unshare;
	cpu.port.ops = &ops;
	forks = 0;
	refuse = false;
	CHECK(tdmi_mm_enter(ctx));
}

static void end(void)
{
	tdmi_mm_exit(ctx);
	on_taking = NULL;
	tdmi_ctx_destroy(other);
	device_finish();
	finish();
}

/* As put_range(), but from the last on: else it is a stream, and more pages come than are asked for. */
static void write_pages(u32 a, u32 b, u64 add)
{
	while (b-- > a)
		put(BASE + P(b) + 8 * (b % 512), b + add);
}

static void leaf(u32 page)
{
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(page), BASE + P(page + 512));
	map(BASE + P(page), BASE + P(page + 512));
	tdmi_cpu_preset(&cpu, BASE + P(page), TDM_HUGE_PAGES, 7, true);
	adopt(BASE + P(page), BASE + P(page + 512));
}

static u32 fast(u32 page, u32 n)
{
	return tdmi_gup_fast(ctx, BASE + P(page), n, pin);
}

static void is_lent(u32 page, bool yes)
{
	u32 level;
	struct tdm_pte pte = entry(BASE + P(page), &level);

	if (tdm_pte_lent(pte) != yes)
		t_fail(__FILE__, __LINE__, "page %u is %016llx", page, (unsigned long long)pte.v);
	if (yes)
		CHECK(*tdm_cpu_flags(&cpu, BASE + P(page)) & TDM_CPU_PRESENT);
}

/* The frames that came back are those of the pages. */
static void check_frames(u32 page, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		u32 level;
		struct tdm_pte pte = entry(BASE + P(page + i), &level);

		CHECK(tdm_pte_lent(pte));
		CHECK_EQ(pin[i].v, tdm_pte_pfn(pte).v + (level ? (page + i) % TDM_HUGE_PAGES : 0));
	}
}

static u32 pins_of(struct tdm_pfn page)
{
	return tdm_a16_ld_relaxed(&tdm_pfn_block(&mm.frames, page)->pins);
}

/* ---- what there is ------------------------------------------------------------------------------------------------------------- */

TEST(nothing_there)
{
	begin();
	CHECK_EQ(fast(0, 1), 0);
	CHECK_EQ(fast(4000, 600), 0);
	CHECK_EQ(tdmi_gup_fast(ctx, BASE, 0, pin), 0);
	write_pages(0, 1, 0);
	CHECK_EQ(home_pages(BASE, BASE + P(1)), 1);
	CHECK_EQ(fast(0, 1), 0);
	CHECK_EQ(out_pages(BASE, BASE + P(1)), 1);
	CHECK_EQ(fast(0, 1), 0);
	leaf(512);
	CHECK_EQ(home_pages(BASE + H, BASE + 2 * H), 512);
	CHECK_EQ(fast(512, 5), 0);
	check_counters();
	end();
}

TEST(small_pages_up_to_the_first_that_is_not_there)
{
	begin();
	write_pages(3, 60, 0);
	for (u32 a = 3; a < 60; a += 7) {
		CHECK_EQ(fast(a, 64), 60 - a);
		check_frames(a, 60 - a);
		CHECK_EQ(pins_of(pin[0]), TDM_MIN(16 - a % 16, 60 - a));
		tdmi_unpin(ctx, pin, 60 - a);
	}
	CHECK_EQ(fast(3, 5), 5);
	tdmi_unpin(ctx, pin, 5);
	/* In the middle of a block. */
	CHECK_EQ(home_pages(BASE + P(21), BASE + P(22)), 1);
	CHECK_EQ(fast(16, 32), 5);
	check_frames(16, 5);
	tdmi_unpin(ctx, pin, 5);
	check_counters();
	end();
}

TEST(leaves_and_tables_in_one_go)
{
	begin();
	leaf(512);
	leaf(1024);
	write_pages(500, 512, 0);
	write_pages(1536, 1540, 0);
	CHECK_EQ(fast(500, 1040), 1040);
	check_frames(500, 1040);
	for (u32 i = 12; i < 1036; i++)
		CHECK_EQ(pins_of(pin[i]), 16);
	tdmi_unpin(ctx, pin, 1040);
	CHECK_EQ(fast(700, 1), 1);
	check_frames(700, 1);
	tdmi_unpin(ctx, pin, 1);
	for (u32 f = 0; f < mm.frames.fresh; f++)
		CHECK_EQ(tdm_a16_ld_relaxed(&mm.frames.desc[f].pins), 0);
	end();
}

/* A translation without a frame behind it: nothing in the engine makes one yet. */
static void set_special(u32 page, bool on)
{
	struct tdm_pt *pt;
	struct tdm_pte pte;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(&mm.pgt, BASE + P(page), &i, &pte);
	plat_mutex_lock(&pt->lock);
	tdm_pt_set(pt, i, (struct tdm_pte){ on ? pte.v | TDM_PTE_SPECIAL : pte.v & ~TDM_PTE_SPECIAL });
	plat_mutex_unlock(&pt->lock);
	tdmi_rcu_read_unlock(ctx->rcu);
}

TEST(a_special_leaf_ends_it)
{
	begin();
	write_pages(0, 16, 0);
	leaf(512);
	set_special(5, true);
	set_special(512, true);
	CHECK_EQ(fast(0, 16), 5);
	tdmi_unpin(ctx, pin, 5);
	CHECK_EQ(fast(5, 1), 0);
	CHECK_EQ(fast(600, 10), 0);
	set_special(5, false);
	set_special(512, false);
	CHECK_EQ(fast(600, 10), 10);
	tdmi_unpin(ctx, pin, 10);
	end();
}

/* ---- they stay -------------------------------------------------------------------------------------------------------------------- */

/* A way to take [a, b) away. */
static void take_home(u32 a, u32 b)
{
	home_pages(BASE + P(a), BASE + P(b));
}

static void take_out(u32 a, u32 b)
{
	out_pages(BASE + P(a), BASE + P(b));
}

static void take_to_device(u32 a, u32 b)
{
	u64 n;

	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(a), BASE + P(b), &n), 0);
	device_check();
}

static void take_exclusive(u32 a, u32 b)
{
	void *home[64];
	u64 n;

	CHECK_EQ(tdmi_make_exclusive(ctx, BASE + P(a), BASE + P(b), &dev, home, &n), 0);
	for (u32 i = a; i < b; i++) {
		u32 level;

		CHECK_EQ(home[i - a] != NULL, tdm_pte_is(entry(BASE + P(i), &level), TDM_PTE_T_EXCLUSIVE));
	}
}

static void take_by_age(u32 a, u32 b)
{
	for (u32 i = 0; i < 10; i++)
		tdmi_age(ctx, 1000);
}

static void (*const takes[])(u32 a, u32 b) = { take_home, take_out, take_to_device, take_exclusive, take_by_age };

/* One pin keeps its block, and nothing else; afterwards it goes. */
static void check_stays(void (*take)(u32 a, u32 b))
{
	begin();
	write_pages(0, 64, 1);
	CHECK_EQ(fast(20, 1), 1);
	take(0, 64);
	for (u32 i = 0; i < 64; i++)
		is_lent(i, i / 16 == 1);
	check_counters();
	get_range(0, 64, 1);
	tdmi_unpin(ctx, pin, 1);
	/* Those that refused are tried again after a while. */
	mm.lru.pinned_retry_ns = 0;
	take(0, 64);
	for (u32 i = 0; i < 64; i++)
		is_lent(i, false);
	check_counters();
	get_range(0, 64, 1);
	end();
}

TEST(pinned_pages_stay_where_they_are)
{
	for (u32 i = 0; i < TDM_ARRAY_SIZE(takes); i++)
		check_stays(takes[i]);
}

/* Reclaim passes over them, and goes on. */
TEST(reclaim_takes_the_others)
{
	begin();
	write_pages(0, 2048, 1);
	for (u32 i = 0; i < 64; i++)
		CHECK_EQ(tdmi_gup_fast(ctx, BASE + P(32 * i), 1, &pin[i]), 1);
	CHECK(tdmi_reclaim(ctx, (u64)1 << 20, 4096) >= 700);
	for (u32 i = 0; i < 1024; i++)
		is_lent(32 * (i / 16) + i % 16, true);
	check_counters();
	tdmi_unpin(ctx, pin, 64);
	get_range(0, 2048, 1);
	end();
}

/* 2 MiB of which one page is pinned: split, and all other blocks go. Wherever in it the page is. */
static void check_leaf_stays(void (*take)(u32 a, u32 b), u32 page, u32 a, u32 b)
{
	begin();
	leaf(512);
	write_pages(512, 1024, 0);
	CHECK_EQ(fast(page, 1), 1);
	take(a, b);
	for (u32 i = 512; i < 1024; i++)
		is_lent(i, i / 16 == page / 16 || i < a || i >= b);
	check_counters();
	check_frames(page, 1);
	tdmi_unpin(ctx, pin, 1);
	take(a, b);
	for (u32 i = a; i < b; i++)
		is_lent(i, false);
	get_range(512, 1024, 0);
	end();
}

TEST(a_pinned_page_of_a_leaf_stays, .seconds = 60)
{
	for (u32 i = 0; i < 3; i++) {
		check_leaf_stays(takes[i], 512, 512, 1024);
		check_leaf_stays(takes[i], 777, 512, 1024);
		check_leaf_stays(takes[i], 1023, 512, 1024);
		check_leaf_stays(takes[i], 777, 600, 900);
	}
}

/* Nobody gets a pin while a page is being taken: then the entry still says that it is there. */
static u64 takings;

static void try_to_pin(u64 va, u32 n)
{
	for (u32 i = 0; i < n; i++)
		CHECK_EQ(tdmi_gup_fast(other, va + P(i), 1, pin), 0);
	takings++;
}

TEST(no_pin_while_pages_are_taken)
{
	begin();
	write_pages(0, 64, 1);
	on_taking = try_to_pin;
	take_home(3, 20);
	CHECK_EQ(takings, 4);
	take_by_age(0, 0);
	CHECK(takings > 4);
	on_taking = NULL;
	get_range(0, 64, 1);
	check_counters();
	end();
}

TEST(no_pin_while_a_leaf_is_taken)
{
	begin();
	leaf(512);
	on_taking = try_to_pin;
	take_home(512, 1024);
	CHECK_EQ(takings, 2);
	on_taking = NULL;
	is_lent(700, false);
	check_counters();
	end();
}

/* One of 32 blocks is pinned: those that had been frozen before it thaw. */
TEST(a_leaf_that_is_pinned_thaws)
{
	begin();
	leaf(512);
	CHECK_EQ(fast(1000, 1), 1);
	take_home(512, 1024);
	check_counters();
	for (u32 f = 0; f < mm.frames.fresh; f++)
		CHECK_EQ(tdm_a16_ld_relaxed(&mm.frames.desc[f].pins), f == (pin[0].v & ~(u64)15) ? 1 : 0);
	tdmi_unpin(ctx, pin, 1);
	end();
}

/* ---- what the program does is not refused ----------------------------------------------------------------------------------------- */

static u64 used(void)
{
	return tdm_a64_ld_relaxed(&mm.frames.used);
}

static void check_unmapped_by(void (*gone)(struct tdm_cpu *c, struct tdm_ctx *x, u64 start, u64 end), u32 page, u32 a, u32 b)
{
	u32 freed = (b - a) / 16 * 16, kept = page >= a && page < b ? 16 : 0;
	u64 before;
	struct tdm_pfn p[3];

	begin();
	write_pages(0, 64, 1);
	before = used();
	CHECK_EQ(before, 64);
	CHECK_EQ(fast(page, 1), 1);
	p[0] = pin[0];
	CHECK_EQ(fast(page, 1), 1);
	p[1] = pin[0];
	gone(&cpu, ctx, BASE + P(a), BASE + P(b));
	check_counters();
	CHECK_EQ(used(), before - freed + kept);
	/* Another page at the same address is another page. */
	map(BASE + P(a), BASE + P(b));
	write_pages(a, b, 9);
	check_counters();
	before = used() - kept;
	if (kept) {
		CHECK_EQ(fast(page, 1), 1);
		CHECK(pin[0].v != p[0].v);
		tdmi_unpin(ctx, pin, 1);
	}
	tdmi_unpin(ctx, &p[1], 1);
	check_counters();
	CHECK_EQ(used(), before + kept);
	tdmi_unpin(ctx, &p[0], 1);
	check_counters();
	CHECK_EQ(used(), before);
	get_range(a, b, 9);
	end();
}

TEST(pins_outlive_the_mapping)
{
	check_unmapped_by(tdmi_cpu_munmap, 20, 0, 64);
	check_unmapped_by(tdmi_cpu_munmap, 20, 16, 32);
	check_unmapped_by(tdmi_cpu_munmap, 20, 32, 64);
	check_unmapped_by(tdmi_cpu_dontneed, 20, 0, 64);
}

/* The block goes page by page: it is freed with the last of them and of the pins, whichever comes last. */
TEST(the_last_page_and_the_last_pin)
{
	begin();
	for (u32 round = 0; round < 2; round++) {
		write_pages(0, 16, 1);
		CHECK_EQ(fast(0, 16), 16);
		for (u32 i = 0; i < 16; i++) {
			CHECK_EQ(used(), 16);
			tdmi_cpu_munmap(&cpu, ctx, BASE + P(i), BASE + P(i + 1));
			if (round)
				tdmi_unpin(ctx, &pin[15 - i], 1);
			check_counters();
		}
		if (!round)
			tdmi_unpin(ctx, pin, 16);
		check_counters();
		CHECK_EQ(used(), 0);
		map(BASE, BASE + P(16));
	}
	end();
}

/* Homes of the block that hold bytes nobody wants are not forgotten. */
TEST(a_block_with_stale_homes)
{
	for (u32 warm = 0; warm < 2; warm++) {
		begin();
		mm.frames.warm_max = 8 * warm;
		write_pages(0, 16, 1);
		take_home(0, 16);
		/* A copy of one leaves its home as it was. */
		for (u32 i = 0; i < 16; i++)
			get_range(i, i + 1, 1);
		CHECK_EQ(fast(3, 2), 2);
		tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(16));
		check_counters();
		tdmi_unpin(ctx, pin, 2);
		check_counters();
		CHECK_EQ(used(), 0);
		end();
	}
}

TEST(a_leaf_is_unmapped)
{
	static const u32 pages[] = { 512, 700, 1023 };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(pages); i++) {
		begin();
		leaf(512);
		CHECK_EQ(fast(pages[i], 1), 1);
		CHECK_EQ(used(), 512);
		tdmi_cpu_munmap(&cpu, ctx, BASE + H, BASE + 2 * H);
		check_counters();
		CHECK_EQ(used(), 16);
		tdmi_unpin(ctx, pin, 1);
		check_counters();
		CHECK_EQ(used(), 0);
		/* All of it is one piece again. */
		leaf(512);
		CHECK_EQ(used(), 512);
		CHECK_EQ(mm.frames.fresh, 512);
		end();
	}
}

/* A part of it goes: it is split, and the pin is one of a block. */
TEST(a_part_of_a_leaf_is_unmapped)
{
	begin();
	leaf(512);
	CHECK_EQ(fast(600, 1), 1);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(590), BASE + P(620));
	check_counters();
	tdmi_unpin(ctx, pin, 1);
	check_counters();
	CHECK_EQ(fast(580, 10), 10);
	tdmi_unpin(ctx, pin, 10);
	end();
}

TEST(a_pinned_page_is_moved)
{
	begin();
	write_pages(0, 64, 1);
	leaf(512);
	CHECK_EQ(fast(10, 20), 20);
	CHECK_EQ(tdmi_gup_fast(ctx, BASE + P(700), 20, pin + 20), 20);
	tdmi_cpu_mremap(&cpu, ctx, BASE, BASE + P(2000), P(64));
	tdmi_cpu_mremap(&cpu, ctx, BASE + H, BASE + 5 * H, H);
	check_counters();
	for (u32 i = 0; i < 64; i++)
		CHECK_EQ(get(BASE + P(2000 + i) + 8 * i), i + 1);
	tdmi_unpin(ctx, pin, 40);
	check_counters();
	end();
}

/* ---- bringing them first ------------------------------------------------------------------------------------------------------- */

TEST(what_cannot_be_pinned)
{
	static const struct {
		u64 va;
		u32 n, flags;
		int err;
	} bad[] = {
		{ BASE, 0, 0, -EINVAL },
		{ BASE + 8, 1, 0, -EINVAL },
		{ ((u64)1 << 47) - P(1), 2, 0, -EINVAL },
		{ (u64)1 << 47, 1, 0, -EINVAL },
		{ ~(u64)0 & TDM_PAGE_MASK, 1, 0, -EINVAL },
		{ ~(u64)0 & TDM_PAGE_MASK, 2, 0, -EINVAL },
		{ BASE + P(10), 1, 0, -EFAULT },              /* a hole */
		{ BASE + P(PAGES), 1, 0, -EFAULT },           /* behind everything */
		{ BASE - P(1), 1, 0, -EFAULT },               /* before everything */
		{ BASE + P(11), 1, 0, -EFAULT },              /* no access */
		{ BASE + P(11), 1, TDM_GUP_WRITE, -EFAULT },
		{ BASE + P(12), 1, TDM_GUP_WRITE, -EFAULT },  /* read-only */
		{ BASE + P(13), 1, 0, -EOPNOTSUPP },          /* excluded */
		{ BASE + P(14), 1, 0, -EOPNOTSUPP },          /* not ours */
		{ BASE + P(15), 1, 0, -EFAULT },              /* lost */
		{ BASE + P(16), 1, 0, -EBUSY },               /* being dropped */
	};
	u32 done;
	u64 x;

	begin();
	write_pages(8, 20, 0);
	take_to_device(15, 16);
	dev.dead = true;
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(15), &x, 8), -EIO);
	dev.dead = false;
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(10), BASE + P(11));
	tdmi_cpu_mprotect(&cpu, BASE + P(11), BASE + P(12), TDM_CPU_NOACCESS);
	tdmi_cpu_mprotect(&cpu, BASE + P(12), BASE + P(13), TDM_CPU_RDONLY);
	plat_mutex_lock(&mm.event_lock);
	tdmi_zap(ctx, BASE + P(13), BASE + P(15), TDM_ZAP_REMOVE);
	tdmi_cpu_drop(&cpu, BASE + P(13), BASE + P(15));
	CHECK_EQ(tdmi_vma_insert(&mm.vmas, BASE + P(13), BASE + P(14), TDM_VMA_EXCLUDED), 0);
	CHECK_EQ(tdmi_vma_remove(&mm.vmas, BASE + P(14), BASE + P(15)), 0);
	tdmi_zap(ctx, BASE + P(16), BASE + P(17), TDM_ZAP_REMOVE);
	plat_mutex_unlock(&mm.event_lock);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++) {
		int r = tdmi_pin(ctx, bad[i].va, bad[i].n, bad[i].flags, pin, &done);

		if (r != bad[i].err || done)
			t_fail(__FILE__, __LINE__, "row %u: %d, %u pages", i, r, done);
	}
	CHECK_EQ(tdmi_pin(ctx, BASE + P(12), 1, TDM_GUP_READ, pin, &done), 0);
	tdmi_unpin(ctx, pin, 1);
	/* Those before the one that fails are pinned, and say so. */
	CHECK_EQ(tdmi_pin(ctx, BASE + P(8), 4, 0, pin, &done), -EFAULT);
	CHECK_EQ(done, 2);
	check_frames(8, 2);
	tdmi_unpin(ctx, pin, done);
	for (u32 f = 0; f < mm.frames.fresh; f++)
		CHECK_EQ(tdm_a16_ld_relaxed(&mm.frames.desc[f].pins), 0);
	tdmi_cpu_drop(&cpu, BASE + P(16), BASE + P(17));
	tdmi_cpu_mprotect(&cpu, BASE + P(11), BASE + P(13), 0);
	end();
}

static void make_mixture(void)
{
	write_pages(0, 96, 1);
	take_home(16, 32);
	take_out(32, 48);
	take_to_device(48, 64);
	take_exclusive(64, 80);
	leaf(512);
	take_home(512, 1024);
}

TEST(whatever_there_is_comes)
{
	u32 done;

	for (u32 write = 0; write < 2; write++) {
		begin();
		make_mixture();
		CHECK_EQ(tdmi_pin(ctx, BASE, 112, write ? TDM_GUP_WRITE : 0, pin, &done), 0);
		CHECK_EQ(done, 112);
		check_frames(0, 112);
		get_range(0, 96, 1);
		CHECK_EQ(tdmi_pin(ctx, BASE + P(510), 516, write ? TDM_GUP_WRITE : 0, pin + 112, &done), 0);
		CHECK_EQ(done, 516);
		check_counters();
		device_check();
		for (u32 i = 0; i < TDM_ARRAY_SIZE(takes) - 1; i++)
			takes[i](0, 50);
		for (u32 i = 0; i < 112; i++)
			is_lent(i, true);
		for (u32 i = 510; i < 1026; i++)
			is_lent(i, true);
		tdmi_unpin(ctx, pin, 112 + 516);
		check_counters();
		end();
	}
}

/* What is shared with a child is copied before it is pinned for writing: all of it, also beyond 2 MiB, and also what is there already. */
TEST(shared_pages_are_copied_first)
{
	u32 done;

	begin();
	write_pages(500, 1040, 1);
	for (u32 i = 500; i < 1040; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	CHECK_EQ(tdmi_pin(ctx, BASE + P(500), 540, TDM_GUP_READ, pin, &done), 0);
	CHECK_EQ(shares, 0);
	tdmi_unpin(ctx, pin, 540);
	CHECK_EQ(tdmi_pin(ctx, BASE + P(500), 540, TDM_GUP_WRITE, pin, &done), 0);
	for (u32 i = 500; i < 1040; i++)
		CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_SHARED));
	CHECK_EQ(shares, 3);
	tdmi_unpin(ctx, pin, 540);
	end();
}

/* A fork between that and the pin shares them again. */
TEST(shared_again_before_it_is_pinned)
{
	u32 done;

	begin();
	write_pages(0, 16, 1);
	forks = 3;
	CHECK_EQ(tdmi_pin(ctx, BASE, 16, TDM_GUP_WRITE, pin, &done), 0);
	CHECK_EQ(done, 16);
	for (u32 i = 0; i < 16; i++)
		CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_SHARED));
	CHECK_EQ(shares, 4);
	tdmi_unpin(ctx, pin, 16);
	/* Forks without end. */
	forks = ~0u;
	CHECK_EQ(tdmi_pin(ctx, BASE, 16, TDM_GUP_WRITE, pin, &done), -EBUSY);
	CHECK_EQ(done, 0);
	CHECK_EQ(pins_of(pin[0]), 0);
	end();
}

/* Where not all can be made the process's own, only those that are are pinned. */
TEST(made_own_one_by_one)
{
	u32 done;

	begin();
	write_pages(0, 16, 1);
	for (u32 i = 0; i < 16; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	refuse = true;
	CHECK_EQ(tdmi_pin(ctx, BASE, 16, TDM_GUP_WRITE, pin, &done), 0);
	for (u32 i = 0; i < 16; i++)
		CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_SHARED));
	tdmi_unpin(ctx, pin, done);
	end();
}

TEST(too_many_pins)
{
	static struct tdm_pfn many[TDM_PINS_MAX + 64];
	u32 n = 0, done;

	begin();
	write_pages(0, 32, 1);
	while (n < TDM_PINS_MAX) {
		u32 got = tdmi_gup_fast(ctx, BASE, 16, many + n);

		CHECK_EQ(got, 16);
		n += got;
	}
	CHECK_EQ(tdmi_gup_fast(ctx, BASE, 1, many + n), 0);
	CHECK_EQ(pins_of(many[0]), n);
	CHECK_EQ(tdmi_pin(ctx, BASE + P(5), 1, 0, pin, &done), -EBUSY);
	CHECK_EQ(done, 0);
	CHECK_EQ(pins_of(many[0]), n);
	/* Those before it are pinned. */
	CHECK_EQ(tdmi_pin(ctx, BASE + P(16), 16, 0, pin, &done), 0);
	tdmi_unpin(ctx, pin, 16);
	tdmi_unpin(ctx, many, 1);
	CHECK_EQ(tdmi_pin(ctx, BASE + P(5), 1, 0, pin, &done), 0);
	many[0] = pin[0];
	take_home(0, 32);
	is_lent(0, true);
	is_lent(16, false);
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(16));
	tdmi_unpin(ctx, many, n);
	check_counters();
	CHECK_EQ(used(), 16);
	end();
}

/* ---- mistakes ------------------------------------------------------------------------------------------------------------------------ */

TEST_DIES(unpin_without_a_pin, "TDM_PINS_MASK) < n")
{
	begin();
	write_pages(0, 1, 1);
	CHECK_EQ(fast(0, 1), 1);
	tdmi_unpin(ctx, pin, 1);
	tdmi_unpin(ctx, pin, 1);
}

TEST_DIES(unpin_more_than_was_pinned, "TDM_PINS_MASK) < n")
{
	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(fast(0, 4), 4);
	for (u32 i = 4; i < 8; i++)
		pin[i] = pin[i - 1];
	tdmi_unpin(ctx, pin, 8);
}

TEST_DIES(unpin_of_what_is_gone, "TDM_PINS_MASK) < n")
{
	begin();
	write_pages(0, 16, 1);
	CHECK_EQ(fast(0, 1), 1);
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(16));
	tdmi_unpin(ctx, pin, 1);
	tdmi_unpin(ctx, pin, 1);
}
