/* SPDX-License-Identifier: MIT */
/*
 * test_special_windows.c - what others do between the steps of an insertion, a split, a collapse, and of a walker: the test does it there.
 */
#include "port/walk.h"
#include "special_world.h"

static void (*others)(u32 window); /* at the n-th window, counted from 1 */
static u32 windows;
static bool inside;

void plat_window(void);
void plat_window(void)
{
	if (inside || !others)
		return;
	inside = true;
	others(++windows);
	inside = false;
}

static void at_windows(void (*fn)(u32))
{
	others = fn;
	windows = 0;
}

static struct buffer b, another;
static struct tdm_map *m;
static enum tdm_walk_result walked;

/* A CPU that writes at va. */
static enum tdm_walk_result write_at(u64 va)
{
	struct tdm_walk out;
	enum tdm_walk_result r;

	tdmi_rcu_read_lock(reader);
	r = tdmi_walk(&s->pgt, va, true, TDM_WALK_HW_A | TDM_WALK_HW_D, HUGE_ALL, &out);
	tdmi_rcu_read_unlock(reader);
	return r;
}

static void start(u64 len)
{
	struct tdm_inserted out;

	setup();
	b = another = (struct buffer){ .pfn = { vram }, .n = VRAM_PAGES };
	m = map_at(BASE, len, RW, &b, 0);
	CHECK_EQ(insert(m, BASE, vram, len / K4, TDM_INSERT_WRITE, &out), 0);
	CHECK_EQ(find(BASE).bits, TDM_PTE_WRITE);
}

/* 2 MiB in pieces, as an entry was there before them. */
static void start_with_pieces(void)
{
	struct tdm_inserted out;

	start(M2);
	tdmi_special_unmap(m, reader, BASE, BASE + M2, true);
	CHECK_EQ(insert_one(m, BASE, vram, 0, TDM_INSERT_WRITE), TDM_FAULT_DONE);
	CHECK_EQ(insert(m, BASE, vram, 512, TDM_INSERT_WRITE, &out), 0);
	CHECK_EQ(find(BASE + 9 * K4).level, 0);
}

/* ---- a walker in the middle of a change */

static void writes_first(u32 window)
{
	if (window == 1)
		walked = write_at(BASE + 9 * K4);
}

TEST(a_write_during_a_split_dirties_every_piece)
{
	u64 size[] = { M2, G1 };

	for (u32 i = 0; i < 2; i++) {
		start(size[i]);
		at_windows(writes_first);
		CHECK_EQ(tdmi_special_cut(s, reader, BASE + 5 * K4), 0);
		CHECK_EQ(windows, i + 2); /* the first try is in vain; the second level needs only one */
		others = NULL;
		CHECK_EQ(walked, TDM_WALK_OK);
		CHECK_EQ(find(BASE + 9 * K4).level, 0);
		for (u64 va = 0; va < size[i]; va += size[i] / 512)
			CHECK_EQ(find(BASE + va).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
		CHECK_EQ(find(BASE + 9 * K4).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
		teardown();
	}
}

TEST(a_write_during_a_collapse_dirties_the_leaf)
{
	struct tdm_collapsed c;

	start_with_pieces();
	at_windows(writes_first);
	tdmi_collapse_range(s, reader, BASE, BASE + M2, &c);
	others = NULL;
	CHECK_EQ(c.made[1], 1);
	CHECK_EQ(walked, TDM_WALK_OK);
	CHECK(is_at(BASE, vram, 1));
	CHECK_EQ(find(BASE).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	teardown();
}

static u32 flushed_before;

static void writes_second(u32 window)
{
	if (window == 2) {
		walked = write_at(BASE + 9 * K4);
		flushed_before = nflushes;
	}
}

/* With the entries gone and the leaf not there yet nobody finds anything, and so nobody remembers anything that the flush would miss. */
TEST(in_the_middle_of_a_collapse_there_is_nothing)
{
	struct tdm_collapsed c;

	start_with_pieces();
	nflushes = 0;
	at_windows(writes_second);
	tdmi_collapse_range(s, reader, BASE, BASE + M2, &c);
	others = NULL;
	CHECK_EQ(walked, TDM_WALK_ABSENT);
	CHECK_EQ(flushed_before, 0);
	CHECK_EQ(nflushes, 1);
	CHECK_EQ(find(BASE).bits, TDM_PTE_WRITE);
	teardown();
}

/* ---- a change in the middle of a walk */

static void collapses(u32 window)
{
	struct tdm_collapsed c;

	if (window == 1)
		tdmi_collapse_range(s, reader, BASE, BASE + M2, &c);
}

static void cuts(u32 window)
{
	if (window == 1)
		CHECK_EQ(tdmi_special_cut(s, reader, BASE + 5 * K4), 0);
}

TEST(a_walker_that_has_read_a_piece_sets_its_bits_in_the_leaf)
{
	start_with_pieces();
	at_windows(collapses);
	CHECK_EQ(write_at(BASE + 9 * K4), TDM_WALK_OK);
	CHECK(windows >= 2);
	others = NULL;
	CHECK(is_at(BASE, vram, 1));
	CHECK_EQ(find(BASE).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	teardown();
}

TEST(a_walker_that_has_read_the_leaf_sets_its_bits_in_a_piece)
{
	start(M2);
	at_windows(cuts);
	CHECK_EQ(write_at(BASE + 9 * K4), TDM_WALK_OK);
	CHECK(windows >= 2);
	others = NULL;
	CHECK(is_at(BASE + 9 * K4, vram + 9, 0));
	CHECK_EQ(find(BASE + 9 * K4).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	CHECK_EQ(find(BASE + 8 * K4).bits, TDM_PTE_WRITE);
	teardown();
}

/* ---- the VMA changes in the middle of an insertion */

static void unmaps(u32 window)
{
	if (window == 1)
		CHECK_EQ(tdmi_munmap(s, reader, BASE, M2), 0);
}

static void protects(u32 window)
{
	if (window == 1)
		CHECK_EQ(tdmi_mprotect(s, reader, BASE, M2, TDM_V_READ), 0);
}

static void unmaps_a_part(u32 window)
{
	if (window == 1)
		CHECK_EQ(tdmi_munmap(s, reader, BASE + M2 - K4, K4), 0);
}

static void gives_it_to_another(u32 window)
{
	if (window == 1)
		map_at(BASE, M2, RW, &another, 0);
}

static void puts_a_table(u32 window)
{
	if (window == 1)
		CHECK_EQ(insert_one(m, BASE + 5 * K4, vram + 5, 0, 0), TDM_FAULT_DONE);
}

TEST(r17_what_the_vma_has_become_decides)
{
	struct {
		void (*fn)(u32);
		u64 bytes[2];
	} c[] = {
		{ unmaps, { 0, 0 } }, { protects, { 0, 0 } }, { unmaps_a_part, { M2 - K4, 0 } }, { gives_it_to_another, { 0, 0 } }, { puts_a_table, { M2 - K4, 0 } },
	};

	for (u32 i = 0; i < TDM_ARRAY_SIZE(c); i++) {
		struct tdm_insert how = { TDM_INSERT_WRITE, BASE, 0 };
		struct tdm_inserted out;

		start(M2);
		tdmi_special_unmap(m, reader, BASE, BASE + M2, true);
		at_windows(c[i].fn);
		tdmi_rcu_read_lock(reader);
		CHECK_EQ(tdmi_insert_range(m, BASE, (struct tdm_pfn){ vram }, 512, &how, &out), 0);
		tdmi_rcu_read_unlock(reader);
		others = NULL;
		CHECK_EQ(out.bytes[0], c[i].bytes[0]);
		CHECK_EQ(out.bytes[1], c[i].bytes[1]);
		CHECK_EQ(out.end, BASE + out.bytes[0] + out.same);
		CHECK(!find(BASE + M2).there);
		CHECK_EQ(special_pages(s), (out.bytes[0] + out.same) / K4);
		teardown();
	}
}

/* A leaf or nothing: not the small one that fits next to the table that has come. */
TEST(r6_one_leaf_falls_back_if_a_table_comes_first)
{
	start(M2);
	tdmi_special_unmap(m, reader, BASE, BASE + M2, true);
	at_windows(puts_a_table);
	CHECK_EQ(insert_one(m, BASE, vram, 1, 0), TDM_FAULT_FALLBACK);
	others = NULL;
	CHECK_EQ(special_pages(s), 1);
	teardown();
}
