// SPDX-License-Identifier: MIT
/*
 * reclaim.c - pages on their way to the swap, and back: mm/vmscan.c, swapcache.c, anon.c.
 *
 * A page that goes is in the swap cache first; then its entries name the slot; then TLBs are flushed; then its bytes are stored, and it is freed, unless somebody has come to it
 * by the slot, whose reference says so. At every moment there is one page to which a write may go, or the bytes are in the tier and nowhere else.
 */
#include "base/check.h"
#include "mm/swapcache.h"
#include "mm/vmscan.h"
#include "tests/explore/codec.h"
#include "tests/explore/world.h"

#define MESSAGE 40u

struct advice {
	bool returned;
	bool done; /* a store after that */
};

static struct advice *advice;

static void reclaims(void *arg)
{
	(void)arg;
	(void)tdmi_vmscan(&xw->w, xw_reader(), 1, 1);
}

static void writes(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 9);
}

/* One page, which has been written, and is the next to go. */
static void setup(bool swap)
{
	xw_init(2, swap);
	xw_quiet_lists();
	tdmx_quiet(&xw->s->faults, sizeof(xw->s->faults) + sizeof(xw->s->forking));
	xw_fill(xw->s, 0, 5);
	tdmi_vmscan_age(&xw->w);
}

static void store_kept(void)
{
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 9, "a store was lost");
	/* What was stored and is not wanted is gone; what is wanted is a page now. */
	TDMX_CHECK(!xt_used(xw->tier) && tdmi_phys_used(&xw->w.phys, xw->w.ram) == 2, "bytes are left in the tier, or a page was not freed");
}

/* ---- a page is stored while somebody writes to it by a TLB */

static void reclaim_write_setup(void)
{
	setup(true);
	xw_warm(xw->s, 0, 1);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED);
	tdmx_spawn("writer", writes, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
}

TDMX_SCENARIO(reclaim_write, .what = "a page goes to a tier while a CPU that has it in its TLB writes to it: the store is there when it comes back", .setup = reclaim_write_setup,
	      .check = store_kept);

/* ---- while somebody comes to it: his walk may set D, or he finds the slot, and the page, or the bytes */

static void reclaim_refault_setup(void)
{
	setup(true);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	tdmx_spawn("writer", writes, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
}

TDMX_SCENARIO(reclaim_refault, .what = "a page goes to a tier while somebody comes to write to it: the store is there, and nothing is left over", .setup = reclaim_refault_setup,
	      .check = store_kept);

/* ---- MADV_FREE: a page that need not be kept, unless it is written again */

static void lazy_write_setup(void)
{
	setup(true);
	TDM_BUG_ON(tdmi_madvise_free(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	tdmx_spawn("writer", writes, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
}

TDMX_SCENARIO(lazy_write, .what = "a page that need not be kept goes, unless it has been written: the store is there", .setup = lazy_write_setup, .check = store_kept);

static void advises(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_madvise_free(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	tdmx_order(MESSAGE);
	tdmx_poke(&advice->returned, &(bool){ true }, sizeof(bool));
}

/* Once the advice has been taken a store counts, also that by a TLB that had the right to write before it. */
static void writes_after(void *arg)
{
	u64 v = 9;
	bool late;

	(void)arg;
	tdmx_point("looks whether it has returned");
	tdmx_peek(&late, &advice->returned, sizeof(late));
	tdmx_order(MESSAGE);
	advice->done = late && xw_once(xw->s, xw_va(0), true, &v);
}

/* Without a swap: it goes as advised, or stays. */
static void lazy_advice_setup(void)
{
	setup(false);
	advice = tdmx_alloc(sizeof(*advice));
	tdmx_bytes(advice, sizeof(*advice));
	xw_warm(xw->s, 0, 1);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED);
	tdmx_spawn("writer", writes_after, NULL);
	tdmx_spawn("adviser", advises, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
}

static void lazy_advice_check(void)
{
	u64 v;

	xw_check();
	v = xw_final(xw->s, xw_va(0));
	TDMX_CHECK(v == 9 || (!advice->done && (v == 5 || v == 0)), "%llu is read", (unsigned long long)v);
}

TDMX_SCENARIO(lazy_advice, .what = "a store that comes after MADV_FREE has returned is there, also one by a TLB from before", .setup = lazy_advice_setup, .check = lazy_advice_check);

/* ---- a page of two spaces comes back */

static struct tdm_space *child;

static void child_reads(void *arg)
{
	u64 v = xw_load(child, xw_va(0));

	(void)arg;
	TDMX_CHECK(v == 5, "a child reads %llu", (unsigned long long)v);
}

static void swap_shared_setup(void)
{
	setup(true);
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &child));
	xw_quiet_space(child);
	tdmx_quiet(&child->faults, sizeof(child->faults) + sizeof(child->forking));
	xw_evict(1);
	tdmx_spawn("parent", writes, NULL);
	tdmx_spawn("child", child_reads, NULL);
}

static void swap_shared_check(void)
{
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 9 && xw_final(child, xw_va(0)) == 5, "one has what the other wrote");
	TDMX_CHECK(!xt_used(xw->tier) && tdmi_phys_used(&xw->w.phys, xw->w.ram) == 3, "bytes are left in the tier, or a page was not freed");
}

TDMX_SCENARIO(swap_shared, .what = "two spaces fault a page in that both have in the swap: one page, unless one writes, who has his own", .setup = swap_shared_setup,
	      .check = swap_shared_check);

/* ---- a page of two spaces goes while one of them gets a copy */

static void reclaim_shared_setup(void)
{
	setup(true);
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &child));
	xw_quiet_space(child);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED);
	xw_idle(child, 0, TDM_PTE_ACCESSED);
	tdmx_spawn("parent", writes, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
}

TDMX_SCENARIO(reclaim_shared, .what = "a page that two spaces share goes to a tier while one of them writes: he has his own, the other what was there", .setup = reclaim_shared_setup,
	      .check = swap_shared_check);

/* ---- a page goes while its space forks */

struct forked {
	struct tdm_space *child;
	struct tdm_pfn pfn; /* of the page that reclaim has in hand */
	u64 slot;
};

static struct forked *forked;

static void forks(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &forked->child));
}

/* What one_round() of mm/vmscan.c does to a page that has been found unused, but for storing it: nobody meets that here. */
static void unmaps(void *arg)
{
	struct tdm_tlb_batch b = { .w = &xw->w };

	(void)arg;
	tdmi_rcu_read_lock(xw_reader());
	(void)tdmi_try_to_unmap(&xw->w, forked->pfn, forked->slot, &b);
	tdmi_batch_flush(&b);
	tdmi_rcu_read_unlock(xw_reader());
	tdmi_slot_put(&xw->w, forked->slot);
	tdmi_vmscan_putback(&xw->w, forked->pfn, true);
}

static void reclaim_fork_setup(void)
{
	setup(true);
	forked = tdmx_alloc(sizeof(*forked));
	TDM_BUG_ON(!tdmi_space_get_page(xw->s, xw_va(0), &forked->pfn) || !tdmi_vmscan_isolate(&xw->w, forked->pfn));
	tdmi_page_put(&xw->w, forked->pfn);
	TDM_BUG_ON(tdmi_slot_for(&xw->w, forked->pfn, &forked->slot));
	/* Who there is. */
	tdmx_quiet(&xw->w.lock, sizeof(xw->w.lock));
	tdmx_quiet(xw->w.space, sizeof(xw->w.space));
	tdmx_spawn("forker", forks, NULL);
	tdmx_spawn("reclaim", unmaps, NULL);
}

static void reclaim_fork_check(void)
{
	xw_check();
	TDMX_CHECK(xw_final(forked->child, xw_va(0)) == 5 && xw_final(xw->s, xw_va(0)) == 5, "bytes were lost");
	xw_store(forked->child, xw_va(0), 7);
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 5, "a parent reads what its child wrote");
	xw_store(xw->s, xw_va(0), 9);
	TDMX_CHECK(xw_final(forked->child, xw_va(0)) == 7, "a child reads what its parent wrote");
	TDMX_CHECK(!xt_used(xw->tier) && tdmi_phys_used(&xw->w.phys, xw->w.ram) == 3, "bytes are left in the tier, or a page was not freed");
}

TDMX_SCENARIO(reclaim_fork, .what = "a page goes to the swap cache while its space forks: both have it, and each writes to its own", .setup = reclaim_fork_setup,
	      .check = reclaim_fork_check);

/* ---- who reclaims comes to a page that another one still has in hand */

static void writes_and_reclaims(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 9);
	/* It has been used: it goes at the second look. */
	(void)tdmi_vmscan(&xw->w, xw_reader(), 1, 2);
}

static void reclaim_twice_setup(void)
{
	setup(true);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED);
	tdmx_spawn("writer", writes_and_reclaims, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
}

TDMX_SCENARIO(reclaim_twice, .what = "a page that goes comes back, is written, and goes again, before the first who reclaims it is done: the store is there", .setup = reclaim_twice_setup,
	      .check = store_kept);

/* ---- a page comes back, changes, and goes again, to the same slot, while somebody has the old one in hand */

static void reads(void *arg)
{
	u64 v = xw_load(xw->s, xw_va(0));

	(void)arg;
	TDMX_CHECK(v == 5 || v == 9, "%llu is read", (unsigned long long)v);
}

static void writes_and_evicts(void *arg)
{
	struct tdm_tlb_batch b = { .w = &xw->w };
	struct tdm_pfn pfn;
	u64 slot;

	(void)arg;
	xw_store(xw->s, xw_va(0), 9);
	tdmi_rcu_read_lock(xw_reader());
	if (tdmi_space_get_page(xw->s, xw_va(0), &pfn)) {
		TDM_BUG_ON(tdmi_slot_for(&xw->w, pfn, &slot));
		(void)tdmi_try_to_unmap(&xw->w, pfn, slot, &b);
		tdmi_batch_flush(&b);
		tdmi_slot_put(&xw->w, slot);
		tdmi_page_put(&xw->w, pfn);
	}
	tdmi_rcu_read_unlock(xw_reader());
}

static void swap_again_setup(void)
{
	setup(true);
	xw_evict(1);
	tdmx_spawn("reader", reads, NULL);
	tdmx_spawn("evicter", writes_and_evicts, NULL);
}

static void swap_again_check(void)
{
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 9, "a store was lost");
}

TDMX_SCENARIO(swap_again, .what = "a slot is freed and used again while somebody has its page in hand: he does not map it", .setup = swap_again_setup, .check = swap_again_check);

/* ---- three at once: reclaim, a writer, and a third */

static void writes_beside(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0) + 8, 8);
}

static void three(void (*writer)(void *), void (*third)(void *))
{
	setup(true);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	tdmx_spawn("writer", writer, NULL);
	tdmx_spawn("third", third, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
}

static void reclaim_two_writers_setup(void)
{
	three(writes, writes_beside);
}

static void reclaim_two_writers_check(void)
{
	store_kept();
	TDMX_CHECK(xw_final(xw->s, xw_va(0) + 8) == 8, "a store was lost");
}

TDMX_SCENARIO(reclaim_two_writers, .what = "a page goes to a tier while two come to write to it: both stores are there, and nothing is left over", .setup = reclaim_two_writers_setup,
	      .check = reclaim_two_writers_check);

static void tries_to_write(void *arg)
{
	int r = xw_try_store(xw->s, xw_va(0), 9);

	(void)arg;
	TDMX_CHECK(!r || r == -EFAULT, "a write says %d", r);
}

static void unmaps_it(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
}

static void reclaim_write_munmap_setup(void)
{
	three(tries_to_write, unmaps_it);
}

static void reclaim_write_munmap_check(void)
{
	xw_check();
	TDMX_CHECK(!xt_used(xw->tier) && tdmi_phys_used(&xw->w.phys, xw->w.ram) == 1, "bytes are left in the tier, or a page was not freed");
}

TDMX_SCENARIO(reclaim_write_munmap, .what = "a page goes to a tier, is written and is unmapped: nothing of it is left", .setup = reclaim_write_munmap_setup,
	      .check = reclaim_write_munmap_check);

static void moves(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_mremap(xw->s, xw_reader(), xw_va(0), xw_va(3), TDM_PAGE_SIZE));
}

static bool *written;

static void writes_before_it_moves(void *arg)
{
	bool done = !xw_try_store(xw->s, xw_va(0), 9);

	(void)arg;
	tdmx_poke(written, &done, sizeof(done));
}

static void reclaim_write_mremap_setup(void)
{
	three(writes_before_it_moves, moves);
	written = tdmx_alloc(sizeof(*written));
}

static void reclaim_write_mremap_check(void)
{
	u64 v;

	xw_check();
	v = xw_final(xw->s, xw_va(3));
	TDMX_CHECK(v == (*written ? 9 : 5), "%llu is read at the new place", (unsigned long long)v);
	TDMX_CHECK(!xt_used(xw->tier) && tdmi_phys_used(&xw->w.phys, xw->w.ram) == 2, "bytes are left in the tier, or a page was not freed");
}

TDMX_SCENARIO(reclaim_write_mremap, .what = "a page goes to a tier, is written and its entry moves: its bytes are at the new place", .setup = reclaim_write_mremap_setup,
	      .check = reclaim_write_mremap_check);
