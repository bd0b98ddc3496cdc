// SPDX-License-Identifier: MIT
/* fault.c - faults against each other, and against those who take the range away. */
#include "base/check.h"
#include "tests/explore/world.h"

/* ---- two threads touch one page for the first time */

static void writes_first(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 1);
}

static void writes_second(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0) + 8, 2);
}

static void fault_fault_setup(void)
{
	xw_init(4, false);
	tdmx_spawn("first", writes_first, NULL);
	tdmx_spawn("second", writes_second, NULL);
}

static void fault_fault_check(void)
{
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 1 && xw_final(xw->s, xw_va(0) + 8) == 2, "a store was lost");
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 2, "a page was not freed");
}

TDMX_SCENARIO(fault_fault, .what = "two first touches of a page make one page, and lose no store", .setup = fault_fault_setup, .check = fault_fault_check);

/* ---- a thread reads and writes while another unmaps */

static void reads(void *arg)
{
	u64 v = 7;
	int r = xw_try_load(xw->s, xw_va(0), &v);

	(void)arg;
	TDMX_CHECK(r == -EFAULT || (!r && v == 5), "read %llu (%d)", (unsigned long long)v, r);
}

static void unmaps(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	/* Whoever unmaps relies on nobody having it from here on: the page is used for something else at once. */
	xw_store(xw->s, xw_va(1), 9);
}

static void walk_unmap_setup(void)
{
	xw_init(4, false);
	xw_fill(xw->s, 0, 5);
	tdmx_spawn("reader", reads, NULL);
	tdmx_spawn("unmapper", unmaps, NULL);
}

static void walk_unmap_check(void)
{
	xw_check();
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 2, "a page was not freed");
}

TDMX_SCENARIO(walk_unmap, .what = "who walks while the page is unmapped reads its bytes or faults, and never a page that is free or another's", .setup = walk_unmap_setup,
	      .check = walk_unmap_check);

/* ---- and while another maps something else there */

static void reads_either(void *arg)
{
	u64 v = 7;
	int r = xw_try_load(xw->s, xw_va(0), &v);

	(void)arg;
	TDMX_CHECK(!r && (v == 5 || v == 0), "read %llu (%d)", (unsigned long long)v, r);
}

static void maps_over(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_mmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
}

static void fault_map_over_setup(void)
{
	xw_init(4, false);
	xw_fill(xw->s, 0, 5);
	tdmx_spawn("reader", reads_either, NULL);
	tdmx_spawn("mapper", maps_over, NULL);
}

TDMX_SCENARIO(fault_map_over, .what = "who reads while memory is mapped over memory finds the one or the other", .setup = fault_map_over_setup, .check = xw_check);
