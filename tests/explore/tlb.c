// SPDX-License-Identifier: MIT
/*
 * tlb.c - what TLBs may still say, and for how long: the discipline of mm/tlb.h.
 *
 * In all of these reclaim has taken entries out and owes a flush for them. A CPU has one of them in its TLB, with the right to write, and the page has not been marked used through it: the
 * access bit was cleared without a flush. Somebody else changes the range meanwhile. When he has returned he may rely on it, and so the scenario does: what he did is
 * known to the CPU's program (a message, `returned`), which then tries.
 */
#include "base/check.h"
#include "mm/swapcache.h"
#include "mm/unmap.h"
#include "mm/vmscan.h"
#include "tests/explore/world.h"

#define MESSAGE 40u

struct race {
	bool returned;
	bool late;     /* the CPU tried after that */
	bool done;     /* and its store was done */
	bool there;    /* likewise another one's, at another address */
	struct tdm_space *child;
	struct tdm_pfn pfn; /* of the page that reclaim has in hand */
	u64 slot;
	struct tdm_tlb_batch batch; /* of batch_fork */
};

static struct race *race;

static void say_returned(void)
{
	tdmx_order(MESSAGE);
	tdmx_poke(&race->returned, &(bool){ true }, sizeof(bool));
}

static bool hear_returned(void)
{
	bool r;

	tdmx_point("looks whether it has returned");
	tdmx_peek(&r, &race->returned, sizeof(r));
	tdmx_order(MESSAGE);
	return r;
}

/* The part of reclaim that others can meet: one_round() of mm/vmscan.c, of a page that has been isolated. */
static void reclaims(void *arg)
{
	struct tdm_tlb_batch b = { .w = &xw->w };

	(void)arg;
	tdmi_rcu_read_lock(xw_reader());
	(void)tdmi_try_to_unmap(&xw->w, race->pfn, race->slot, &b);
	tdmi_batch_flush(&b);
	tdmi_rcu_read_unlock(xw_reader());
}

static void writes_late(void *arg)
{
	bool late = hear_returned();
	u64 v = 9;

	(void)arg;
	race->done = xw_once(xw->s, xw_va(0), true, &v);
	race->late = late;
}

/* One page, which has been written, and is the next to go; the first thread is the CPU. */
static void setup(void)
{
	xw_init(2, true);
	race = tdmx_alloc(sizeof(*race));
	tdmx_bytes(race, sizeof(*race));
	xw_quiet_lists();
	tdmx_quiet(&xw->s->faults, sizeof(xw->s->faults) + sizeof(xw->s->forking));
	xw_fill(xw->s, 0, 5);
	xw_warm(xw->s, 0, 1);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED);
	TDM_BUG_ON(!tdmi_space_get_page(xw->s, xw_va(0), &race->pfn) || !tdmi_vmscan_isolate(&xw->w, race->pfn));
	tdmi_page_put(&xw->w, race->pfn);
	TDM_BUG_ON(tdmi_slot_for(&xw->w, race->pfn, &race->slot));
	/* So that its table stays. */
	xw_fill(xw->s, 1, 6);
}

/* Reclaim puts it back, whatever has become of it. */
static void check(void)
{
	tdmi_slot_put(&xw->w, race->slot);
	tdmi_vmscan_putback(&xw->w, race->pfn, true);
	xw_check();
}

/* ---- mprotect */

static void write_protects(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, TDM_V_READ));
	say_returned();
}

static void batch_mprotect_setup(void)
{
	setup();
	tdmx_spawn("writer", writes_late, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
	tdmx_spawn("protector", write_protects, NULL);
}

static void batch_mprotect_check(void)
{
	check();
	TDMX_CHECK(!race->late || !race->done, "a store was done after mprotect had returned");
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == (race->done ? 9 : 5), "a store was lost");
}

TDMX_SCENARIO(batch_mprotect, .what = "reclaim owes a flush: nobody writes by an old TLB entry once mprotect has returned, and no store is lost", .setup = batch_mprotect_setup,
	      .check = batch_mprotect_check);

/* ---- munmap */

static void takes_away(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	say_returned();
}

static void batch_munmap_setup(void)
{
	setup();
	tdmx_spawn("writer", writes_late, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
	tdmx_spawn("unmapper", takes_away, NULL);
}

static void batch_munmap_check(void)
{
	check();
	TDMX_CHECK(!race->late || !race->done, "a store was done after munmap had returned");
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 2 && !tdm_a64_ld_relaxed(&xw->s->swapped), "a page was not freed");
}

TDMX_SCENARIO(batch_munmap, .what = "reclaim owes a flush: nobody has the page once munmap has returned, and nothing of it is left", .setup = batch_munmap_setup,
	      .check = batch_munmap_check);

/* ---- a copy of the page, which has come back by the swap cache in the meantime */

static void writes_elsewhere(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0) + 8, 8);
}

static void batch_copy_setup(void)
{
	setup();
	tdmx_spawn("writer", writes_late, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
	tdmx_spawn("other", writes_elsewhere, NULL);
}

static void batch_copy_check(void)
{
	check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == (race->done ? 9 : 5) && xw_final(xw->s, xw_va(0) + 8) == 8, "a store was lost");
}

TDMX_SCENARIO(batch_copy, .what = "reclaim owes a flush: who copies the page meanwhile, having got it back, loses no store", .setup = batch_copy_setup, .check = batch_copy_check);

/* ---- fork */

static void forks(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &race->child));
	say_returned();
}

static void flushes(void *arg)
{
	(void)arg;
	tdmi_batch_flush(&race->batch);
	tdmi_rcu_read_unlock(xw_reader());
}

/* The entries have gone already: a fork has enough to do. */
static void batch_fork_setup(void)
{
	setup();
	race->batch.w = &xw->w;
	tdmi_rcu_read_lock(xw->reader[2]);
	TDM_BUG_ON(tdmi_try_to_unmap(&xw->w, race->pfn, race->slot, &race->batch));
	/* Who there is. */
	tdmx_quiet(&xw->w.lock, sizeof(xw->w.lock));
	tdmx_quiet(xw->w.space, sizeof(xw->w.space));
	tdmx_spawn("writer", writes_late, NULL);
	tdmx_spawn("reclaim", flushes, NULL);
	tdmx_spawn("forker", forks, NULL);
}

static void batch_fork_check(void)
{
	u64 had = xw_final(race->child, xw_va(0));

	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == (race->done ? 9 : 5), "a store was lost");
	TDMX_CHECK(had == 5 || (had == 9 && !race->late), "a child reads %llu, which its parent wrote after the fork", (unsigned long long)had);
	check();
}

TDMX_SCENARIO(batch_fork, .what = "reclaim owes a flush: a child reads nothing that its parent writes once fork has returned", .setup = batch_fork_setup, .check = batch_fork_check);

/* ---- a copy of the page at another address, to which its entry is moved: the TLB has it at the old one */

/* The part of mremap() behind the change of the VMAs: reclaim came after its first look at what is owed. */
static void moves(void *arg)
{
	struct tdm_inv_range round = TDM_INV_RANGE(xw_va(0), xw_va(1), TDM_INV_UNMAP);
	struct tdm_gather g;

	(void)arg;
	TDM_BUG_ON(tdmi_invalidate_start(&xw->s->notifiers, &round));
	tdmi_gather_begin(&g, xw->s);
	tdmi_move_range(&g, xw_reader(), xw_va(0), xw_va(4), TDM_PAGE_SIZE);
	tdmi_gather_flush(&g);
	tdmi_batch_pending(xw->s);
	tdmi_invalidate_end(&xw->s->notifiers, &round);
}

/* If the entry has come; before that there are zeros, which give way. */
static void writes_there(void *arg)
{
	u64 v = 0;

	(void)arg;
	if (!xw_try_load(xw->s, xw_va(4), &v) && v)
		race->there = !xw_try_store(xw->s, xw_va(4) + 8, 8);
}

static void batch_move_setup(void)
{
	setup();
	race->batch.w = &xw->w;
	tdmi_rcu_read_lock(xw->reader[4]);
	TDM_BUG_ON(tdmi_try_to_unmap(&xw->w, race->pfn, race->slot, &race->batch));
	TDM_BUG_ON(tdmi_vma_move(&xw->s->vmas, xw_va(0), xw_va(4), TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	tdmx_spawn("writer", writes_late, NULL);
	tdmx_spawn("mover", moves, NULL);
	tdmx_spawn("other", writes_there, NULL);
}

static void batch_move_check(void)
{
	tdmi_batch_flush(&race->batch);
	check();
	TDMX_CHECK(xw_final(xw->s, xw_va(4)) == (race->done ? 9 : 5) && (!race->there || xw_final(xw->s, xw_va(4) + 8) == 8), "a store was lost");
}

TDMX_SCENARIO(batch_move, .what = "reclaim owes a flush, and the entry is moved: who copies the page at its new address loses no store by the old one", .setup = batch_move_setup,
	      .check = batch_move_check);

/* ---- the order in which a device sees two pages
 *
 * A device that walks the same table has two pages in its cache. The first is shared with a child. One thread gets a copy of it, by a write; another writes to both,
 * one after the other. The device must not see the second write without the first, as nobody does who follows a message. This is why the flush comes before the
 * new entry can be read: if it came at the end of the round, the writer could have used the copy by then, while the device still reads the old page.
 */

static void copies_first(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0) + 8, 8);
}

/* If the copy is there. */
static void writes_both(void *arg)
{
	u64 v = 9;

	(void)arg;
	if (xw_once(xw->s, xw_va(0), true, &v))
		xw_store(xw->s, xw_va(1), 9);
}

static void device_reads(void *arg)
{
	u64 second = xw_load(xw->s, xw_va(1)), first = xw_load(xw->s, xw_va(0));

	(void)arg;
	TDMX_CHECK(first == 9 || second != 9, "a device reads the second write, and not the first");
}

static void cow_device_setup(void)
{
	struct tdm_space *child;

	xw_init(2, false);
	xw_quiet_lists();
	xw_fill(xw->s, 0, 5);
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &child));
	xw_quiet_space(child);
	xw_fill(xw->s, 1, 5);
	tdmx_quiet(&xw->s->faults, sizeof(xw->s->faults) + sizeof(xw->s->forking));
	xw_device(3);
	xw_warm(xw->s, 0, 3);
	xw_warm(xw->s, 1, 3);
	tdmx_spawn("copier", copies_first, NULL);
	tdmx_spawn("writer", writes_both, NULL);
	tdmx_spawn("device", device_reads, NULL);
}

static void cow_device_check(void)
{
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0) + 8) == 8 && xw_final(xw->s, xw_va(0)) == xw_final(xw->s, xw_va(1)), "a store was lost");
}

TDMX_SCENARIO(cow_device, .what = "a page is replaced by a copy: a device does not see a later write to another page without one to the copy", .setup = cow_device_setup,
	      .check = cow_device_check);
