/* SPDX-License-Identifier: MIT */
/*
 * fork.c - a space like another.
 *
 * s->change of the parent is held throughout, and nobody is served a fault in it: a thread that has been stopped by the loss of a right cannot go on to write
 * elsewhere what the child would then have, without what it wrote before. Table by table, with the parent's and the child's locked:
 *   a page that is the parent's alone   is shared from now on: not exclusive, read-only on both sides. If it is pinned it cannot be: it is the parent's on,
 *                                       and the child gets a copy at once, since what the device that has pinned it writes must be the parent's
 *   a page shared already               is shared by one more
 *   a swap entry                        names the same slot
 *   a page that is being migrated       is waited for; one that there is no right to is shared, too
 *
 * The parent's rights are gone from its entries before the other CPUs and secondary MMUs have been told, which happens once at the end. Until then somebody
 * may write to a page that is read-only, by a TLB: it is as if he had done so before the fork, as long as nobody copies the page; who would makes up for the
 * flush first (tdmi_tlb_settle()).
 */
#include <string.h>
#include "mm/anon.h"
#include "mm/rmap.h"
#include "mm/special.h"
#include "mm/swapcache.h"
#include "mm/vmscan.h"

struct forking {
	struct tdm_space *parent, *child;
	struct tdm_rcu_reader *reader;
	struct tdm_gather g;      /* of the parent */
	struct tdm_page *spare;   /* for a copy, as long as tables are locked nothing is allocated */
	struct tdm_pfn spare_pfn;
};

enum copied { COPIED, NEEDS_SPARE, BUSY, NO_MEMORY };

/* A pinned page: the child's own. */
static enum copied copy_now(struct forking *f, struct tdm_pte pte, struct tdm_pfn pfn, struct tdm_pt *to, u32 i, u64 va)
{
	struct tdm_pte said = tdm_pte_present(pte) ? pte : tdm_pte_unblocked(pte, pfn), made;
	struct tdm_world *w = f->parent->w;

	if (!f->spare)
		return NEEDS_SPARE;
	if (tdmi_rmap_add(w, f->spare_pfn, f->child, va))
		return NO_MEMORY;
	memcpy(tdm_pfn_bytes(&w->phys, f->spare_pfn), tdm_pfn_bytes(&w->phys, pfn), TDM_PAGE_SIZE);
	tdm_page_set(f->spare, TDM_PG_EXCLUSIVE | TDM_PG_DIRTY);
	made = tdm_pte_mk(f->spare_pfn, said.v & (TDM_PTE_WRITE | TDM_PTE_DIRTY | TDM_PTE_ACCESSED | TDM_PTE_SOFT_DIRTY));
	tdm_pt_set(to, i, tdm_pte_present(pte) ? made : tdm_pte_mk_blocked(TDM_PTE_T_PROTNONE, made));
	tdmi_vmscan_add(w, f->spare_pfn);
	f->spare = NULL;
	tdm_world_work(w, TDM_WORK_PAGE_COPY, 1);
	tdm_world_count(w, TDM_SC_FORK_COPIED, 1);
	return COPIED;
}

static enum copied share(struct forking *f, struct tdm_pt *from, struct tdm_pt *to, u32 i, u64 va)
{
	struct tdm_pte pte = tdm_pt_get(from, i);
	struct tdm_world *w = f->parent->w;
	struct tdm_page *pg;
	struct tdm_pfn pfn;
	u64 was;

	(void)tdm_pte_names(pte, &pfn);
	pg = tdm_pfn_page(&w->phys, pfn);
	was = tdm_page_word(pg);
	if (!tdm_page_share(pg))
		return copy_now(f, pte, pfn, to, i, va);
	if (tdmi_rmap_add(w, pfn, f->child, va)) {
		/* It is the parent's alone still, and perhaps writable. */
		tdm_page_set(pg, was & TDM_PG_EXCLUSIVE);
		return NO_MEMORY;
	}
	tdm_page_get(pg);
	if (tdm_pte_present(pte)) {
		/* A lazily freed page is not worth that to both: it is an ordinary one again. */
		tdm_page_clear(pg, TDM_PG_LAZYFREE);
		pte = tdm_pt_change(from, i, 0, TDM_PTE_WRITE);
		if (pte.v & TDM_PTE_WRITE)
			tdmi_gather_range(&f->g, va, TDM_PAGE_SHIFT);
		pte.v &= ~TDM_PTE_WRITE;
	} else {
		pte.v &= ~((TDM_PTE_WRITE >> 1) << 48);
		tdm_pt_set(from, i, pte);
	}
	tdm_pt_set(to, i, pte);
	return COPIED;
}

static enum copied copy_entry(struct forking *f, struct tdm_pt *from, struct tdm_pt *to, u32 i, u64 va)
{
	struct tdm_pte pte = tdm_pt_get(from, i);
	enum copied r = COPIED;
	struct tdm_pfn pfn;

	tdm_world_work(f->parent->w, TDM_WORK_PTE, 2);
	if (tdm_pte_is(pte, TDM_PTE_T_MIGRATION))
		return BUSY;
	if (tdm_pte_names(pte, &pfn))
		r = share(f, from, to, i, va);
	else
		tdm_pt_set(to, i, pte);
	if (r != COPIED)
		return r;
	if (tdm_pte_is(pte, TDM_PTE_T_SWAP)) {
		tdmi_slot_dup(f->parent->w, tdm_pte_swap_handle(pte));
		tdm_a64_add_relaxed(&f->child->swapped, 1);
	} else if (tdm_pte_names(pte, &pfn) || tdm_pte_present(pte)) {
		tdm_a64_add_relaxed(&f->child->rss, 1);
	}
	return COPIED;
}

/* Lock the tables of va, in the order of their addresses, as two of one level are. *from is NULL: the parent has none. -ENOMEM. */
static int lock_both(struct forking *f, u64 va, struct tdm_pt **from, struct tdm_pt **to)
{
	for (;;) {
		int r = tdmi_pt_lock(&f->child->pgt, va, true, to);

		if (r)
			return r;
		tdm_pt_unlock(*to);
		r = tdmi_pt_lock(&f->parent->pgt, va, false, from);
		if (r || !*from)
			return r;
		if (*from < *to) {
			plat_mutex_lock(&(*to)->lock);
			return 0;
		}
		tdm_pt_unlock(*from);
		plat_mutex_lock(&(*to)->lock);
		plat_mutex_lock(&(*from)->lock);
		if (!(*from)->dead)
			return 0;
		tdm_pt_unlock(*from);
		tdm_pt_unlock(*to);
	}
}

/* From va on what is in one table, until it is done or a page is wanted: where it is then. */
static u64 copy_table(struct forking *f, u64 va, u64 end, enum copied *r)
{
	struct tdm_pt *from, *to;

	end = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
	*r = lock_both(f, va, &from, &to) ? NO_MEMORY : COPIED;
	if (*r == NO_MEMORY || !from)
		return end;
	TDM_BUG_ON(from->level || to->level);
	for (; va < end && *r == COPIED; va += *r == COPIED ? TDM_PAGE_SIZE : 0)
		if (!tdm_pte_none(tdm_pt_get(from, tdm_pt_index(from, va))))
			*r = copy_entry(f, from, to, tdm_pt_index(from, va), va);
	tdm_pt_unlock(to);
	tdm_pt_unlock(from);
	return va;
}

static int copy_anonymous(struct forking *f, u64 start, u64 end)
{
	struct tdm_world *w = f->parent->w;
	enum copied r = COPIED;

	for (u64 va = start; va < end && r != NO_MEMORY;) {
		va = TDM_MAX(va, tdmi_pt_next(&f->parent->pgt, va, end));
		if (va >= end)
			break;
		va = copy_table(f, va, end, &r);
		if (r == BUSY)
			plat_yield();
		if (r == NEEDS_SPARE) {
			f->spare = tdmi_page_alloc(&w->phys, w->ram, &f->spare_pfn);
			if (!f->spare && tdmi_vmscan_direct(w, f->reader))
				f->spare = tdmi_page_alloc(&w->phys, w->ram, &f->spare_pfn);
			r = f->spare ? COPIED : NO_MEMORY;
		}
	}
	return r == NO_MEMORY ? -ENOMEM : 0;
}

static int copy_vma(const struct tdm_interval *i, void *ctx)
{
	struct forking *f = ctx;
	uintptr_t flags = (uintptr_t)i->payload;
	u32 index = TDM_V_MAP(flags);
	int r = tdmi_vma_insert(&f->child->vmas, i->start, i->end, flags);

	if (!r && index)
		r = tdmi_map_inherit(f->child, tdm_aptr_ld_acquire(&f->parent->map[index]), i->end - i->start);
	if (r || (index && !(flags & TDM_V_SPECIAL)))
		return r;
	if (flags & TDM_V_SPECIAL)
		(void)tdmi_special_fork(f->child, f->parent, f->reader, i->start, i->end); /* what is missing comes by faults */
	else
		r = copy_anonymous(f, i->start, i->end);
	return r;
}

int tdmi_space_fork(struct tdm_space *s, struct tdm_rcu_reader *reader, struct tdm_space **child)
{
	struct tdm_inv_range round = TDM_INV_RANGE(TDM_VA_START, TDM_VA_END, TDM_INV_PROTECTION_PAGE);
	struct forking f = { .parent = s, .reader = reader };
	int r = tdmi_space_create(s->w, &f.child);

	if (r)
		return r;
	plat_mutex_lock(&s->change);
	tdmi_faults_stop(s);
	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_gather_begin(&f.g, s);
	tdmi_rcu_read_lock(reader);
	r = tdmi_itree_each(tdmi_itree_root(&s->vmas.tree), TDM_VA_START, TDM_VA_END, copy_vma, &f);
	tdmi_rcu_read_unlock(reader);
	tdmi_gather_flush(&f.g);
	tdmi_batch_pending(s);
	tdmi_invalidate_end(&s->notifiers, &round);
	tdmi_faults_go_on(s);
	plat_mutex_unlock(&s->change);
	if (f.spare)
		tdmi_page_put(s->w, f.spare_pfn);
	if (r)
		tdmi_space_destroy(f.child, reader);
	else
		*child = f.child;
	return r;
}
