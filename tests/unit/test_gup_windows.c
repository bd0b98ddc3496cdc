// SPDX-License-Identifier: MIT
/*
 * test_gup_windows.c - pins, with somebody else between any two of their steps.
 *
 * gup.c and folio.c are compiled into this test with their windows (plat_window()), which are the test's own: what comes between runs there, on the same
 * thread, or while that thread waits. So each order is met each time. test_gup_races.c leaves the orders to chance.
 */
#include "device_world.h"

static struct tdm_ctx *other; /* who pins */
static struct tdm_pfn pin[TDM_HUGE_PAGES];

/* Of this thread: what runs at the nth window from now on. */
static _Thread_local void (*between)(void);
static _Thread_local u32 windows;
static tdm_a32 ran;

void plat_window(void)
{
	void (*f)(void) = between;

	if (!f || --windows)
		return;
	between = NULL;
	f();
	tdm_a32_add_relaxed(&ran, 1);
}

static void at_window(u32 nth, void (*f)(void))
{
	windows = nth;
	between = f;
}

static void leaf(u32 page)
{
	tdmi_cpu_preset(&cpu, BASE + P(page), TDM_HUGE_PAGES, 7, true);
	adopt(BASE + P(page), BASE + P(page + 512));
}

static void begin(void)
{
	start();
	device_start(512);
	map(BASE, BASE + P(2048));
	for (u32 i = 32; i-- > 0;)
		put(BASE + P(i), i + 1);
	leaf(512);
	put(BASE + P(600), 601);
	other = tdmi_ctx_create(&mm);
	CHECK(other != NULL);
	tdm_a32_st_relaxed(&ran, 0);
}

static void end(void)
{
	between = NULL;
	check_counters();
	for (u32 f = 0; f < mm.frames.fresh; f++)
		CHECK_EQ(tdm_a16_ld_relaxed(&mm.frames.desc[f].pins), 0);
	tdmi_ctx_destroy(other);
	device_finish();
	finish();
}

/* ---- one thread: something happens to pages 0 to 32, or to the leaf, while a page of them is being pinned ------------------------------ */

static u32 about; /* 0, or 512: what it is done to */

static u64 from(void)
{
	return BASE + P(about);
}

static u64 to(void)
{
	return BASE + P(about ? about + 512 : 32);
}

static void go_home(void)
{
	home_pages(from(), to());
}

static void go_out(void)
{
	out_pages(from(), to());
}

static void go_to_device(void)
{
	u64 n;

	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, from(), to(), &n), 0);
}

static void go_and_come(void)
{
	u64 x;

	go_home();
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, from(), &x, 8), 0);
}

static void unmap(void)
{
	tdmi_cpu_munmap(&cpu, ctx, from(), to());
}

static void drop(void)
{
	tdmi_cpu_dontneed(&cpu, ctx, from(), to());
}

/* The address has another page, and the frame is perhaps another page's. */
static void unmap_and_touch(void)
{
	unmap();
	map(from(), to());
	put(from() + P(3), 1);
	for (u32 i = 1024; i < 1024 + 600; i += 16)
		put(BASE + P(i), 2);
}

static void move(void)
{
	tdmi_cpu_mremap(&cpu, ctx, from(), BASE + P(1024 + about), to() - from());
}

/* A part of the leaf is unmapped: it is split. */
static void split(void)
{
	tdmi_cpu_munmap(&cpu, ctx, to() - P(16), to());
}

static void (*const happens[])(void) = { go_home, go_out, go_to_device, go_and_come, unmap, drop, unmap_and_touch, move, split };

/* A pin is of the page that is there when it is looked at for the second time: nothing that happens before that goes unseen. */
static void check_pin(void (*f)(void), u32 page, u32 window)
{
	u32 n, level;

	begin();
	about = page & ~511u;
	at_window(window, f);
	n = tdmi_gup_fast(other, BASE + P(page), 5, pin);
	CHECK_EQ(tdm_a32_ld_relaxed(&ran), 1);
	CHECK(!between && n <= 5);
	for (u32 i = 0; i < n; i++) {
		struct tdm_pte pte = entry(BASE + P(page + i), &level);

		CHECK(tdm_pte_lent(pte));
		CHECK_EQ(tdm_pte_pfn(pte).v + (level ? (page + i) % 512 : 0), pin[i].v);
	}
	check_counters();
	tdmi_unpin(other, pin, n);
	end();
}

TEST(something_happens_before_the_count, .seconds = 60)
{
	for (u32 i = 0; i < TDM_ARRAY_SIZE(happens); i++) {
		check_pin(happens[i], 3, 1);
		check_pin(happens[i], 600, 1);
	}
}

TEST(something_happens_after_the_count, .seconds = 60)
{
	for (u32 i = 0; i < TDM_ARRAY_SIZE(happens); i++) {
		check_pin(happens[i], 3, 2);
		check_pin(happens[i], 600, 2);
	}
}

/* A page that is taken while the count stands is refused: the pin holds. */
TEST(who_counts_first_has_it)
{
	for (u32 page = 3; page <= 600; page += 597) {
		begin();
		about = page & ~511u;
		at_window(2, go_home);
		CHECK_EQ(tdmi_gup_fast(other, BASE + P(page), 5, pin), page == 3 ? 5 : 0);
		/* A leaf has been split: that is not what was looked at. */
		if (page == 600)
			CHECK_EQ(tdmi_gup_fast(other, BASE + P(page), 5, pin), 5);
		go_home();
		CHECK_EQ(get(BASE + P(page)), page + 1);
		tdmi_unpin(other, pin, 5);
		end();
	}
}

/* ---- two threads: one that has read an entry, and sleeps ------------------------------------------------------------------------------ */

static struct {
	struct plat_thread *thread;
	u32 page, window;
	u32 got;
	tdm_a32 asleep, go;
} late;

static void sleep_here(void)
{
	tdm_a32_st_release(&late.asleep, 1);
	while (!tdm_a32_ld_acquire(&late.go))
		plat_yield();
}

static void late_thread(void *arg)
{
	at_window(late.window, sleep_here);
	late.got = tdmi_gup_fast(other, BASE + P(late.page), 1, pin);
}

/* Somebody is about to pin the page, at this window. */
static void late_start(u32 page, u32 window)
{
	late.page = page;
	late.window = window;
	tdm_a32_st_relaxed(&late.asleep, 0);
	tdm_a32_st_relaxed(&late.go, 0);
	CHECK_EQ(plat_thread_start(&late.thread, late_thread, NULL, "late"), 0);
	while (!tdm_a32_ld_acquire(&late.asleep))
		plat_yield();
}

static void late_goes_on(void)
{
	tdm_a32_st_release(&late.go, 1);
	plat_thread_join(late.thread);
	CHECK_EQ(late.got, 0);
}

/* The page is unmapped before it has counted, and after it has. */
TEST(late_and_unmapped)
{
	for (u32 i = 0; i < 4; i++) {
		begin();
		about = i & 1 ? 512 : 0;
		late_start(about + 5, 1 + i / 2);
		unmap();
		check_counters();
		late_goes_on();
		CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), about ? 32 : 512);
		end();
	}
}

static struct tdm_pfn held;

static void unhold(void)
{
	tdmi_unpin(ctx, &held, 1);
}

static void unhold_then_late(void)
{
	unhold();
	at_window(1, late_goes_on); /* between the block being marked, and being had */
}

/*
 * Freed once. The block was pinned when it was unmapped, and is not any more when it is marked; one who is late counts, finds that he must not, and takes
 * that back: now two find a block that nobody pins.
 */
TEST(freed_by_who_frees_it_or_by_who_is_late)
{
	begin();
	late_start(5, 1);
	CHECK_EQ(tdmi_gup_fast(ctx, BASE, 1, &held), 1);
	at_window(1, unhold_then_late);
	unmap();
	CHECK_EQ(tdm_a32_ld_acquire(&late.go), 1);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 512);
	check_counters();
	end();
}

/* The same with the last pin of a block that was freed, at each of the two steps of its end. */
TEST(freed_by_the_last_pin_or_by_who_is_late)
{
	for (u32 window = 1; window <= 2; window++) {
		begin();
		late_start(5, 1);
		CHECK_EQ(tdmi_gup_fast(ctx, BASE, 1, &held), 1);
		unmap();
		CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 512 + 16);
		at_window(window, late_goes_on);
		unhold();
		CHECK_EQ(tdm_a32_ld_acquire(&late.go), 1);
		CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 512);
		end();
	}
}

/* Who is late has counted, and so keeps it; then it is his to free. */
TEST(freed_by_who_is_late)
{
	begin();
	late_start(5, 2);
	CHECK_EQ(tdmi_gup_fast(ctx, BASE, 1, &held), 1);
	unmap();
	unhold();
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 512 + 16);
	late_goes_on();
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 512);
	end();
}

/* ---- coherent memory ------------------------------------------------------------------------------------------------------------------- */

#define MOVE_NS ((u64)100000000) /* far longer than it takes, unless it has to wait */

static struct tdm_pool coherent;
static const struct tdm_pool_ops coherent_ops = { .name = "coherent" };

static struct {
	struct plat_thread *thread;
	tdm_a32 done;
} mover;

/* The six pages that are there one by one go home, and the whole block comes. */
static void move_thread(void *arg)
{
	u64 n;

	(void)arg;
	CHECK_EQ(tdmi_coherent_home(ctx, BASE, BASE + P(6), &n), 0);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &coherent, BASE, BASE + P(16), &n), 0);
	tdm_a32_st_release(&mover.done, 1);
}

static void start_mover(void)
{
	u64 by = plat_now_ns() + MOVE_NS;

	CHECK_EQ(plat_thread_start(&mover.thread, move_thread, NULL, "mover"), 0);
	while (!tdm_a32_ld_acquire(&mover.done) && plat_now_ns() < by)
		plat_yield();
}

static u32 coherent_frame(u32 page)
{
	u32 level;
	struct tdm_pte pte = entry(BASE + P(page), &level);

	CHECK(tdm_pte_is(pte, TDM_PTE_T_COHERENT));
	return tdm_pte_private_frame(pte);
}

/*
 * A page has a frame to itself, and then the same one as a part of a block: its entry looks the same, but its pins are counted elsewhere. Nobody comes between the look
 * and the count.
 */
TEST(the_folio_of_a_coherent_page_changes)
{
	u32 done;
	u64 n;

	begin();
	CHECK_EQ(tdmi_pool_init_coherent(&coherent, &coherent_ops, NULL, &coherent, 512), 0);
	CHECK_EQ(tdmi_pool_attach(&mm, &coherent), 0);
	for (u32 i = 0; i < 6; i++) {
		CHECK_EQ(tdmi_migrate_to_device(ctx, &coherent, BASE + P(i), BASE + P(i + 1), &n), 0);
		CHECK_EQ(coherent_frame(i), i);
	}
	tdm_a32_st_relaxed(&mover.done, 0);
	at_window(2, start_mover);
	CHECK(tdmi_mm_enter(other));
	CHECK_EQ(tdmi_pin(other, BASE + P(5), 1, 0, pin, &done), 0);
	tdmi_mm_exit(other);
	CHECK_EQ(tdm_a32_ld_relaxed(&ran), 1);
	plat_thread_join(mover.thread);
	CHECK_EQ(coherent_frame(5), 5);
	CHECK_EQ(tdm_a16_ld_relaxed(&tdmi_dev_folio(&coherent, 5)->pins), 1);
	CHECK_EQ(tdmi_coherent_home(ctx, BASE, BASE + P(16), &n), 0);
	CHECK_EQ(coherent_frame(5), 5);
	tdmi_unpin(other, pin, 1);
	CHECK_EQ(tdmi_coherent_home(ctx, BASE, BASE + P(16), &n), 0);
	for (u32 i = 0; i < 512; i++)
		CHECK_EQ(tdm_a16_ld_relaxed(&coherent.frames.desc[i].pins), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&coherent.frames.used), 0);
	CHECK_EQ(tdmi_pool_detach(&coherent), 0);
	tdmi_pool_destroy(&coherent);
	end();
}
