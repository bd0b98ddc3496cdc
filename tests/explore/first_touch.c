// SPDX-License-Identifier: MIT
/*
 * first_touch.c - a fault where there is no table yet, against who takes the range away, or a right (the rule at the top of mm/space.h). They have no table's lock in common: who unmaps finds
 * nothing to lock, and the fault makes the table afterwards. So the one above has to order them, or the fault goes by a VMA that is gone.
 */
#include "base/check.h"
#include "tests/explore/world.h"

#define FAR (XW_BASE + ((u64)1 << 40)) /* under an entry of the root that is none */

/* Of zeros. A fault that allocates looks at the VMA twice, and would have to see what is old each time. */
static void loads(void *arg)
{
	u64 v = 0;
	int r = xw_try_load(xw->s, FAR, &v);

	(void)arg;
	TDMX_CHECK(r == -EFAULT || (!r && !v), "a load said %d: %llu", r, (unsigned long long)v);
}

static void unmaps(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), FAR, TDM_PAGE_SIZE));
}

static void protects(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), FAR, TDM_PAGE_SIZE, 0));
}

static void setup(void (*other)(void *))
{
	xw_init(1, false);
	TDM_BUG_ON(tdmi_mmap(xw->s, xw_reader(), FAR, TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	tdmi_rcu_drain(&xw->w.rcu);
	tdmx_spawn("CPU", loads, NULL);
	tdmx_spawn("changer", other, NULL);
}

static struct tdm_pte entry(void)
{
	struct tdm_pte pte;
	u32 i;

	(void)tdmi_pt_walk(&xw->s->pgt, FAR, &i, &pte);
	return pte;
}

static void first_touch_munmap_setup(void)
{
	setup(unmaps);
}

static void first_touch_munmap_check(void)
{
	xw_check();
	TDMX_CHECK(!entry().v, "an entry was made where nothing is mapped: %#llx", (unsigned long long)entry().v);
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 1, "a page was not freed");
}

TDMX_SCENARIO(first_touch_munmap, .what = "the first touch of a range that is being unmapped leaves nothing there", .setup = first_touch_munmap_setup,
	      .check = first_touch_munmap_check);

static void first_touch_mprotect_setup(void)
{
	setup(protects);
}

static void first_touch_mprotect_check(void)
{
	xw_check();
	TDMX_CHECK(!tdm_pte_present(entry()), "an entry can be read where the mapping cannot");
}

TDMX_SCENARIO(first_touch_mprotect, .what = "nor does it leave a right where all are being taken away", .setup = first_touch_mprotect_setup,
	      .check = first_touch_mprotect_check);
