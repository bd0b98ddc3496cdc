// SPDX-License-Identifier: MIT
/*
 * cow.c - copies on write: a page that a fork has shared, and who writes to it.
 *
 * The writer copies the page while its entry still names it, holding it, and then replaces the entry if it is what it was (replace() in mm/anon.c): the old translation is flushed
 * before anybody can read the new one. The last one who has a page writes to it in place: its entry's reference is the only one (own()), which a lockless walker's reference for a moment
 * may make look otherwise; then it copies once too often, and that is all.
 *
 * fork itself takes W from the entries, and flushes once at the end; nobody is served a fault meanwhile.
 */
#include "base/check.h"
#include "tests/explore/world.h"

#define FAR 512u

struct cow {
	struct tdm_space *child;
	u64 seen, seen_beside; /* by the child, after the fork */
};

static struct cow *cow(void)
{
	return xw->user;
}

static void quiet(void)
{
	struct tdm_frames *f = &xw->w.phys.range[xw->w.ram].frames;

	tdmx_quiet(&f->lock, sizeof(f->lock));
	tdmx_quiet(&f->used, sizeof(f->used));
}

/* Page 0 has 5; page 1 is there. */
static void begin(void)
{
	xw_init(2, false);
	quiet();
	xw->user = tdmx_alloc(sizeof(struct cow));
	xw_fill(xw->s, 0, 5);
	xw_fill(xw->s, 1, 0);
}

static void begin_shared(void)
{
	begin();
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &cow()->child));
	xw_quiet_space(cow()->child);
}

/* With the child gone, too, nothing is left but what the parent has. */
static void nothing_leaks(void)
{
	xw_check();
	tdmi_space_destroy(cow()->child, xw_reader());
	xw_check();
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 3, "a page was not freed");
}

static void parent_writes(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 1);
}

static void child_writes(void *arg)
{
	(void)arg;
	xw_store(cow()->child, xw_va(0), 2);
}

/* ---- both sides */

static void cow_both_setup(void)
{
	begin_shared();
	tdmx_spawn("parent", parent_writes, NULL);
	tdmx_spawn("child", child_writes, NULL);
}

static void cow_both_check(void)
{
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 1 && xw_final(cow()->child, xw_va(0)) == 2, "the parent has %llu, the child %llu", (unsigned long long)xw_final(xw->s, xw_va(0)),
		   (unsigned long long)xw_final(cow()->child, xw_va(0)));
	nothing_leaks();
}

TDMX_SCENARIO(cow_both, .what = "both sides of a shared page write at once: each has its own bytes, and no page is lost", .setup = cow_both_setup, .check = cow_both_check);

/* ---- a walker that holds a reference for a moment */

static void holds(void *arg)
{
	struct tdm_pfn pfn;
	u64 v;

	(void)arg;
	tdmi_rcu_read_lock(xw_reader());
	if (tdmi_space_get_page(xw->s, xw_va(0), &pfn)) {
		tdmx_peek(&v, tdm_pfn_bytes(&xw->w.phys, pfn), sizeof(v));
		TDMX_CHECK(v == 5 || v == 1, "it holds the parent's page, which has %llu", (unsigned long long)v);
		tdmi_page_put(&xw->w, pfn);
	}
	tdmi_rcu_read_unlock(xw_reader());
}

/* The child has its own already: the parent is the last one who has the page. */
static void cow_walker_setup(void)
{
	begin_shared();
	xw_fill(cow()->child, 0, 2);
	tdmx_spawn("parent", parent_writes, NULL);
	tdmx_spawn("walker", holds, NULL);
}

TDMX_SCENARIO(cow_walker, .what = "the last one who has a page writes to it, while a lockless walker holds it for a moment: nothing is lost, whether it is copied or not",
	      .setup = cow_walker_setup, .check = cow_both_check);

static void cow_other_walker_setup(void)
{
	begin_shared();
	tdmx_spawn("child", child_writes, NULL);
	tdmx_spawn("walker", holds, NULL);
}

static void cow_other_walker_check(void)
{
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 5, "the parent sees what the child has written");
	xw_store(xw->s, xw_va(0), 1);
	cow_both_check();
}

TDMX_SCENARIO(cow_other_walker, .what = "a lockless walker holds the parent's page while the child writes: it is not written by the child", .setup = cow_other_walker_setup,
	      .check = cow_other_walker_check);

/* ---- two CPUs of one side */

static void parent_writes_beside(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0) + 8, 4);
}

static void cow_same_setup(void)
{
	begin_shared();
	tdmx_spawn("first", parent_writes, NULL);
	tdmx_spawn("second", parent_writes_beside, NULL);
}

static void cow_same_check(void)
{
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 1 && xw_final(xw->s, xw_va(0) + 8) == 4, "a store was lost");
	TDMX_CHECK(xw_final(cow()->child, xw_va(0)) == 5 && !xw_final(cow()->child, xw_va(0) + 8), "the child sees what the parent has written");
	nothing_leaks();
}

TDMX_SCENARIO(cow_same, .what = "two CPUs of one side write to a shared page: one copy is made, and has both stores", .setup = cow_same_setup, .check = cow_same_check);

/* ---- who has the old page in its TLB */

static void writes_both(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 1);
	xw_store(xw->s, xw_va(1), 1);
}

static void reads_both(void *arg)
{
	u64 second;

	(void)arg;
	(void)xw_load(xw->s, xw_va(0));
	second = xw_load(xw->s, xw_va(1));
	TDMX_CHECK(!second || xw_load(xw->s, xw_va(0)) == 1, "the second store is seen, and the first is not");
}

static void cow_order_setup(void)
{
	begin_shared();
	tdmx_spawn("writer", writes_both, NULL);
	tdmx_spawn("reader", reads_both, NULL);
}

static void cow_order_check(void)
{
	TDMX_CHECK(xw_final(cow()->child, xw_va(0)) == 5 && !xw_final(cow()->child, xw_va(1)), "the child sees what the parent has written");
	nothing_leaks();
}

TDMX_SCENARIO(cow_order, .what = "who has seen a store to a page that was copied sees those before it, though it has the old page of another in its TLB", .setup = cow_order_setup,
	      .check = cow_order_check);

/* The same, of two who write to it: the first is in its fault while the second writes to the copy. The reader has the old page in its TLB from the beginning. */
static void writes_elsewhere(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0) + 8, 3);
}

static void reads_second_first(void *arg)
{
	(void)arg;
	if (xw_load(xw->s, xw_va(1)))
		TDMX_CHECK(xw_load(xw->s, xw_va(0)) == 1, "the second store is seen, and the first is not");
}

static void cow_order_other_setup(void)
{
	struct tdm_pte pte;
	u32 i;

	begin_shared();
	/* Nobody forks; the others are held for moments by who has the table, or the page. */
	tdmx_quiet(&xw->s->faults, sizeof(xw->s->faults));
	tdmx_quiet(xw->w.rmap_lock, sizeof(xw->w.rmap_lock));
	tdmx_quiet(xw->w.vmscan, sizeof(struct plat_mutex));
	xw_fill(xw->s, 1, 0);
	(void)tdmi_pt_walk(&xw->s->pgt, xw_va(0), &i, &pte);
	xw->cpu[3].tlb[0] = (struct xw_tlb_entry){ .s = xw->s, .va = xw_va(0), .shift = TDM_PAGE_SHIFT, .pte = pte };
	xw->cpu[3].next = 1;
	tdmx_spawn("first", writes_elsewhere, NULL);
	tdmx_spawn("writer", writes_both, NULL);
	tdmx_spawn("reader", reads_second_first, NULL);
}

TDMX_SCENARIO(cow_order_other, .what = "the same while another CPU is in the fault that copies the page", .setup = cow_order_other_setup, .check = cow_order_check);

/* ---- a writer while the process forks */

static void writes_on(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 6);
	xw_store(xw->s, xw_va(FAR), 7);
}

static void forks(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &cow()->child));
	cow()->seen_beside = xw_load(cow()->child, xw_va(FAR));
	cow()->seen = xw_load(cow()->child, xw_va(0));
}

/* Page FAR is in another table, which is copied later, and nobody holds the lock of both. */
static void fork_write_setup(void)
{
	begin();
	TDM_BUG_ON(tdmi_mmap(xw->s, xw_reader(), xw_va(FAR), TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	xw_fill(xw->s, FAR, 0);
	tdmx_spawn("writer", writes_on, NULL);
	tdmx_spawn("parent", forks, NULL);
}

static void fork_write_check(void)
{
	struct cow *c = cow();

	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 6 && xw_final(xw->s, xw_va(FAR)) == 7, "a store was lost");
	TDMX_CHECK(xw_final(c->child, xw_va(0)) == c->seen && xw_final(c->child, xw_va(FAR)) == c->seen_beside, "the child's bytes change after the fork");
	TDMX_CHECK(!c->seen_beside || c->seen == 6, "the child has the second store, and not the first");
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(FAR), TDM_PAGE_SIZE));
	nothing_leaks();
}

TDMX_SCENARIO(fork_write, .what = "a thread writes while another forks: the child has what was there at one moment, and nothing that comes later", .setup = fork_write_setup,
	      .check = fork_write_check);

/* The first page has not been touched: nothing of what the fork has done to its table tells the writer that there is one. */
static void fork_touch_setup(void)
{
	fork_write_setup();
	TDM_BUG_ON(tdmi_madvise_dontneed(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
}

TDMX_SCENARIO(fork_touch, .what = "the same for a first touch: the child has no later store without it", .setup = fork_touch_setup, .check = fork_write_check);
