// SPDX-License-Identifier: MIT
/*
 * test_walk.c - the hardware walker over tables made by hand.
 *
 * walk.c is compiled into this test with its window between what it reads and what it sets (plat_window()), which is the test's own: what somebody else does
 * meanwhile runs there.
 */
#include "port/walk.h"
#include "base/alloc.h"
#include "mm/space.h"
#include "t.h"

#define ALL_SIZES ((u64)1 << 12 | (u64)1 << 21 | (u64)1 << 30)
#define HW (TDM_WALK_HW_A | TDM_WALK_HW_D)
#define VA ((u64)5 << 30)
#define RIGHTS (TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY)

static struct tdm_alloc alloc;
static struct tdm_rcu rcu;
static struct tdm_rcu_reader *reader;
static struct tdm_pgt pgt;
static struct tdm_walk w;
static void (*between)(void);

void plat_window(void)
{
	void (*f)(void) = between;

	between = NULL;
	if (f)
		f();
}

/* The table of that level for va, and its entry; made if needed. One of level 2 comes with tables for what is beside va. */
static struct tdm_pt *table(u64 va, u32 level, u32 *i)
{
	struct tdm_pt *pt;

	CHECK_EQ(level ? tdmi_pt_lock_pmd(&pgt, level == 1 ? va : va ^ (u64)1 << 30, &pt) : tdmi_pt_lock(&pgt, va, true, &pt), 0);
	tdm_pt_unlock(pt);
	if (level == 2)
		pt = tdm_pte_table(tdm_pt_get(pgt.root, tdm_pt_index(pgt.root, va)));
	CHECK_EQ(pt->level, level);
	*i = tdm_pt_index(pt, va);
	return pt;
}

static void set(u64 va, u32 level, struct tdm_pte pte)
{
	u32 i;
	struct tdm_pt *pt = table(va, level, &i);

	tdm_pt_set(pt, i, pte);
}

static u64 get(u64 va)
{
	struct tdm_pte pte;
	u32 i;

	tdmi_pt_walk(&pgt, va, &i, &pte);
	return pte.v;
}

static struct tdm_pte leaf(u64 pfn, u64 flags)
{
	return tdm_pte_mk((struct tdm_pfn){ pfn }, flags);
}

static enum tdm_walk_result walk(u64 va, bool write, u32 caps)
{
	return tdmi_walk(&pgt, va, write, caps, ALL_SIZES, &w);
}

static void setup(void)
{
	tdmi_alloc_init(&alloc);
	tdmi_rcu_init(&rcu);
	reader = tdmi_rcu_register(&rcu);
	pgt = (struct tdm_pgt){ .alloc = &alloc, .rcu = &rcu };
	CHECK_EQ(tdmi_pt_init(&pgt), 0);
	tdmi_rcu_read_lock(reader);
}

static void teardown(void)
{
	tdmi_rcu_read_unlock(reader);
	tdmi_pt_destroy(&pgt);
	tdmi_rcu_unregister(reader);
	CHECK_EQ(tdmi_alloc_used(&alloc), 0);
	tdmi_alloc_destroy(&alloc);
}

TEST(nothing_is_there_at_any_level)
{
	u32 i;

	setup();
	CHECK_EQ(walk(VA, false, HW), TDM_WALK_ABSENT);
	CHECK_EQ(w.reads, 1);
	table(VA, 0, &i);
	CHECK_EQ(walk(VA, true, HW), TDM_WALK_ABSENT);
	CHECK_EQ(w.reads, 4);
	set(VA, 0, tdm_pte_mk_swap(1234, 5, 6));
	CHECK_EQ(walk(VA, false, HW), TDM_WALK_ABSENT);
	CHECK_EQ(w.shift, 12);
	set(VA + TDM_HUGE_SIZE, 1, tdm_pte_mk_typed(TDM_PTE_T_MIGRATION, 77));
	CHECK_EQ(walk(VA + TDM_HUGE_SIZE, false, HW), TDM_WALK_ABSENT);
	CHECK_EQ(w.shift, 21);
	teardown();
}

TEST(beyond_the_last_address_is_nothing)
{
	setup();
	set(VA, 0, leaf(9, RIGHTS));
	CHECK_EQ(walk(VA, false, HW), TDM_WALK_OK);
	CHECK_EQ(walk(VA | (u64)1 << 48, false, HW), TDM_WALK_ABSENT);
	CHECK_EQ(walk(VA | (u64)1 << 63, false, HW), TDM_WALK_ABSENT);
	teardown();
}

TEST(leaves_of_each_level_special_or_not)
{
	static const u64 special[] = { 0, TDM_PTE_SPECIAL };

	setup();
	for (u32 level = 0; level < 3; level++) {
		for (u32 s = 0; s < 2; s++) {
			u32 shift = tdm_pt_shift(level);
			u64 va = VA + ((u64)(level + 1) << 32) + ((u64)s << (shift + 1));

			set(va, level, leaf((u64)3 << 18, RIGHTS | special[s]));
			CHECK_EQ(walk(va + 12345 % ((u64)1 << shift), true, 0), TDM_WALK_OK);
			CHECK_EQ(w.shift, shift);
			CHECK_EQ(w.reads, 4 - level);
			CHECK_EQ(w.pte.v, leaf((u64)3 << 18, RIGHTS | special[s]).v);
			CHECK(!w.set_a && !w.set_d);
		}
	}
	teardown();
}

TEST(of_a_leaf_that_is_too_large_a_part_is_returned)
{
	u64 off = ((u64)3 << 21) + ((u64)7 << 12) + 99;

	setup();
	set(VA, 2, leaf((u64)3 << 18, RIGHTS));
	CHECK_EQ(tdmi_walk(&pgt, VA + off, true, 0, (u64)1 << 12 | (u64)1 << 21, &w), TDM_WALK_OK);
	CHECK_EQ(w.shift, 21);
	CHECK_EQ(w.pte.v, leaf(((u64)3 << 18) + (3 << 9), RIGHTS).v);
	CHECK_EQ(tdmi_walk(&pgt, VA + off, true, 0, (u64)1 << 12, &w), TDM_WALK_OK);
	CHECK_EQ(w.shift, 12);
	CHECK_EQ(w.pte.v, leaf(((u64)3 << 18) + (3 << 9) + 7, RIGHTS).v);
	CHECK_EQ(tdmi_walk(&pgt, VA + off, true, 0, (u64)1 << 12 | (u64)1 << 30, &w), TDM_WALK_OK);
	CHECK_EQ(w.shift, 30);
	CHECK_EQ(get(VA), leaf((u64)3 << 18, RIGHTS).v);
	teardown();
}

TEST(hardware_sets_what_the_access_needs_and_no_more)
{
	setup();
	set(VA, 0, leaf(9, TDM_PTE_WRITE));
	CHECK_EQ(walk(VA, false, HW), TDM_WALK_OK);
	CHECK(w.set_a && !w.set_d);
	CHECK_EQ(get(VA), leaf(9, TDM_PTE_WRITE | TDM_PTE_ACCESSED).v);
	CHECK_EQ(w.pte.v, get(VA));
	CHECK_EQ(walk(VA, true, HW), TDM_WALK_OK);
	CHECK(!w.set_a && w.set_d);
	CHECK_EQ(get(VA), leaf(9, RIGHTS).v);
	CHECK_EQ(w.pte.v, get(VA));
	set(4 * VA, 2, leaf((u64)1 << 18, TDM_PTE_WRITE));
	CHECK_EQ(tdmi_walk(&pgt, 4 * VA + 5 * TDM_PAGE_SIZE, true, HW, (u64)1 << 12, &w), TDM_WALK_OK);
	CHECK(w.set_a && w.set_d);
	CHECK_EQ(get(4 * VA), leaf((u64)1 << 18, RIGHTS).v);
	teardown();
}

TEST(a_walk_that_fails_sets_nothing)
{
	setup();
	set(VA, 0, leaf(9, 0));
	CHECK_EQ(walk(VA, true, HW), TDM_WALK_DENIED);
	CHECK_EQ(walk(VA, false, TDM_WALK_HW_D), TDM_WALK_ACCESS);
	CHECK_EQ(get(VA), leaf(9, 0).v);
	set(VA, 0, leaf(9, TDM_PTE_WRITE));
	CHECK_EQ(walk(VA, true, TDM_WALK_HW_A), TDM_WALK_DIRTY);
	CHECK_EQ(get(VA), leaf(9, TDM_PTE_WRITE).v);
	set(VA, 0, leaf(9, TDM_PTE_WRITE | TDM_PTE_DIRTY));
	CHECK_EQ(walk(VA, true, TDM_WALK_HW_A), TDM_WALK_OK);
	CHECK_EQ(get(VA), leaf(9, RIGHTS).v);
	teardown();
}

/* ---- somebody comes between reading and setting --------------------------------------------------------------------------- */

static void takes_it_away(void)
{
	set(VA, 0, (struct tdm_pte){ 0 });
}

static void makes_it_read_only(void)
{
	set(VA, 0, leaf(9, 0));
}

static void puts_another(void)
{
	set(VA, 0, leaf(10, TDM_PTE_WRITE | TDM_PTE_SOFT_DIRTY));
}

static void cleans_it_and_comes_back(void)
{
	set(VA, 0, leaf(11, TDM_PTE_WRITE));
	between = puts_another;
}

static void puts_a_leaf_over_it(void)
{
	u32 i;
	struct tdm_pt *pmd = table(VA, 1, &i), *pt = table(VA, 0, &i);

	plat_mutex_lock(&pmd->lock);
	plat_mutex_lock(&pt->lock);
	tdm_pt_set(pt, 0, (struct tdm_pte){ 0 });
	tdmi_pt_collapse(&pgt, pmd, pt, leaf(512, TDM_PTE_WRITE));
	plat_mutex_unlock(&pmd->lock);
}

TEST(what_has_changed_meanwhile_is_walked_again)
{
	setup();
	set(VA, 0, leaf(9, TDM_PTE_WRITE));
	between = takes_it_away;
	CHECK_EQ(walk(VA, true, HW), TDM_WALK_ABSENT);
	CHECK_EQ(get(VA), 0);
	CHECK_EQ(w.reads, 8);

	set(VA, 0, leaf(9, TDM_PTE_WRITE));
	between = makes_it_read_only;
	CHECK_EQ(walk(VA, true, HW), TDM_WALK_DENIED);
	CHECK_EQ(get(VA), leaf(9, 0).v);

	set(VA, 0, leaf(9, TDM_PTE_WRITE));
	between = cleans_it_and_comes_back;
	CHECK_EQ(walk(VA, true, HW), TDM_WALK_OK);
	CHECK_EQ(w.pte.v, leaf(10, RIGHTS | TDM_PTE_SOFT_DIRTY).v);
	CHECK_EQ(get(VA), w.pte.v);
	CHECK_EQ(w.reads, 12);
	teardown();
}

TEST(a_table_may_go_under_the_walker)
{
	setup();
	set(VA, 0, leaf(9, TDM_PTE_WRITE));
	between = puts_a_leaf_over_it;
	CHECK_EQ(walk(VA + TDM_PAGE_SIZE, false, HW), TDM_WALK_ABSENT);
	CHECK(between); /* nothing was there to set */
	CHECK_EQ(walk(VA, true, HW), TDM_WALK_OK);
	CHECK_EQ(w.shift, 21);
	CHECK_EQ(w.reads, 7);
	CHECK_EQ(get(VA), leaf(512, RIGHTS).v);
	tdmi_rcu_read_unlock(reader);
	tdmi_rcu_drain(&rcu);
	tdmi_rcu_read_lock(reader);
	teardown();
}
