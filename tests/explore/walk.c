// SPDX-License-Identifier: MIT
/*
 * walk.c - lockless walkers against who frees the page table that they are in.
 *
 * The last entry of a PTE table goes: the table is unlinked and marked dead under its parent's lock and its own (tdmi_pt_try_free()), and freed after a grace period (base/rcu.c). A
 * walker that is in it goes on reading it until it leaves its section. A fault that has come to it by its own walk finds it dead once it has the lock, and walks again
 * (tdmi_pt_lock_at()). Here the memory is freed as soon as the grace period allows: by who has unmapped, and by another thread.
 */
#include "base/check.h"
#include "mm/rmap.h"
#include "tests/explore/world.h"

struct walk {
	u64 empty;    /* bytes of the space's allocator when nothing is mapped */
	struct tdm_space *child; /* its statistics are a place at which to be interrupted */
};

static struct walk *walk_state(void)
{
	return xw->user;
}

/* Lists and free pages are not what this is about: who walks holds none of their locks. */
static void quiet(void)
{
	struct tdm_frames *f = &xw->w.phys.range[xw->w.ram].frames;

	tdmx_quiet(&f->lock, sizeof(f->lock));
	tdmx_quiet(&f->used, sizeof(f->used));
}

/* Pages 0 and 1, of which 0 has been written; nothing else is in their table. */
static void one_page(void)
{
	xw_init(2, false);
	quiet();
	xw->user = tdmx_alloc(sizeof(struct walk));
	xw_fill(xw->s, 0, 5); /* upper tables stay */
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), 2 * TDM_PAGE_SIZE));
	tdmi_rcu_drain(&xw->w.rcu);
	walk_state()->empty = tdmi_alloc_used(&xw->s->alloc);
	TDM_BUG_ON(tdmi_mmap(xw->s, xw_reader(), xw_va(0), 2 * TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	xw_fill(xw->s, 0, 5);
}

/* Everything that was unmapped has been freed, once. */
static void nothing_left(void)
{
	xw_check();
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), 2 * TDM_PAGE_SIZE));
	tdmi_rcu_drain(&xw->w.rcu);
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 1, "a page was not freed");
	TDMX_CHECK(tdmi_alloc_used(&xw->s->alloc) == walk_state()->empty, "a table or a VMA was not freed, or twice");
}

static void polls(void *arg)
{
	(void)arg;
	(void)tdmi_rcu_poll(&xw->w.rcu);
}

static void unmaps_all(void *arg)
{
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), 2 * TDM_PAGE_SIZE));
	polls(arg);
}

/* ---- a lockless walker of the engine */

static void gets_page(void *arg)
{
	struct tdm_pfn pfn;
	u64 v;

	(void)arg;
	tdmi_rcu_read_lock(xw_reader());
	if (tdmi_space_get_page(xw->s, xw_va(0), &pfn)) {
		tdmx_peek(&v, tdm_pfn_bytes(&xw->w.phys, pfn), sizeof(v));
		TDMX_CHECK(v == 5, "what it holds has %llu", (unsigned long long)v);
		tdmi_page_put(&xw->w, pfn);
	}
	tdmi_rcu_read_unlock(xw_reader());
}

static void walk_table_free_setup(void)
{
	one_page();
	tdmx_spawn("walker", gets_page, NULL);
	tdmx_spawn("unmapper", unmaps_all, NULL);
}

TDMX_SCENARIO(walk_table_free, .what = "who is in a page table while it is emptied and freed reads no freed memory, and holds the page that was there, or none",
	      .setup = walk_table_free_setup, .check = nothing_left);

/* ---- a hardware walker, and somebody else who frees */

static void loads(void *arg)
{
	u64 v = 7;
	int r = xw_try_load(xw->s, xw_va(0), &v);

	(void)arg;
	TDMX_CHECK(r == -EFAULT || (!r && v == 5), "read %llu (%d)", (unsigned long long)v, r);
}

static void walk_table_poll_setup(void)
{
	one_page();
	tdmx_spawn("cpu", loads, NULL);
	tdmx_spawn("unmapper", unmaps_all, NULL);
	tdmx_spawn("poller", polls, NULL);
}

TDMX_SCENARIO(walk_table_poll, .what = "the same for a CPU's walk and its fault, with a second thread that frees what is due, so that there are two grace periods", .setup = walk_table_poll_setup, .check = nothing_left);

/* ---- a fault in the table that goes */

static void stores_beside(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(1), 7);
}

/* Of page 0, which was the only one in the table. */
static void drops(void *arg)
{
	TDM_BUG_ON(tdmi_madvise_dontneed(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	polls(arg);
}

static void fault_table_free_setup(void)
{
	one_page();
	tdmx_spawn("writer", stores_beside, NULL);
	tdmx_spawn("dropper", drops, NULL);
}

static void fault_table_free_check(void)
{
	TDMX_CHECK(xw_final(xw->s, xw_va(1)) == 7, "a store was lost");
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 2, "a page lies in no table");
	nothing_left();
}

TDMX_SCENARIO(fault_table_free, .what = "a fault does not put its page into a table that is being freed, and loses no store", .setup = fault_table_free_setup,
	      .check = fault_table_free_check);

/* ---- the whole space goes, while another thread frees what is due of it */

static void ends(void *arg)
{
	tdmi_space_destroy(walk_state()->child, xw_reader());
	polls(arg);
}

static void space_end_setup(void)
{
	one_page();
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &walk_state()->child));
	TDM_BUG_ON(tdmi_munmap(walk_state()->child, xw_reader(), xw_va(0), 2 * TDM_PAGE_SIZE)); /* a table is due */
	tdmx_spawn("exit", ends, NULL);
	tdmx_spawn("background", polls, NULL);
}

static void space_end_check(void)
{
	tdmi_rcu_drain(&xw->w.rcu);
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 2, "a page was not freed");
}

TDMX_SCENARIO(space_end, .what = "an address space is freed after what others give back of it", .setup = space_end_setup, .check = space_end_check);
