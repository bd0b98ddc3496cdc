/* SPDX-License-Identifier: MIT */
/* unmap.c - see unmap.h. */
#include "mm/unmap.h"
#include "mm/rmap.h"
#include "mm/swapcache.h"

void tdmi_each_entry(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, tdm_entry_fn *fn, void *arg)
{
	struct tdm_pgt *pgt = &g->s->pgt;
	u64 va = start;

	tdmi_rcu_read_lock(reader);
	while ((va = TDM_MAX(va, tdmi_pt_next_certain(pgt, va, end))) < end) {
		u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		bool full = false;
		struct tdm_pt *pt;

		/* Without alloc it cannot fail. If the table has gone, look again. */
		if (tdmi_pt_lock(pgt, va, false, &pt) || !pt)
			continue;
		tdm_world_work(g->s->w, TDM_WORK_TABLE_LOCK, 1);
		if (pt->level) /* a driver's leaf: mm/special.h */
			va = stop;
		for (; va < stop && !full; va += TDM_PAGE_SIZE)
			if (!tdm_pte_none(tdm_pt_get(pt, tdm_pt_index(pt, va))))
				full = fn(g, pt, tdm_pt_index(pt, va), va, arg);
		tdm_pt_unlock(pt);
		if (full)
			tdmi_gather_flush(g);
	}
	tdmi_rcu_read_unlock(reader);
}

/* ---- taking entries away */

/* What a present entry has said is its page's now. */
static void harvest(struct tdm_page *pg, struct tdm_pte was)
{
	if (was.v & TDM_PTE_DIRTY)
		tdm_page_set(pg, TDM_PG_DIRTY);
}

static bool zap_present(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va)
{
	struct tdm_pte was = tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	struct tdm_world *w = g->s->w;

	tdmi_gather_range(g, va, TDM_PAGE_SHIFT);
	if ((was.v & TDM_PTE_SPECIAL) && tdm_pte_pfn(was).v != w->zero.v)
		tdm_a64_sub_relaxed(&g->s->special, 1);
	else
		tdm_a64_sub_relaxed(&g->s->rss, 1);
	/* The page of zeros is nobody's, and a driver's memory is its own. */
	if (was.v & TDM_PTE_SPECIAL)
		return false;
	harvest(tdm_pfn_page(&w->phys, tdm_pte_pfn(was)), was);
	tdmi_rmap_del(w, tdm_pte_pfn(was), g->s, va);
	return tdmi_gather_page(g, tdm_pte_pfn(was));
}

bool tdmi_unmap_entry(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va)
{
	struct tdm_pte pte = tdm_pt_get(pt, i);
	struct tdm_world *w = g->s->w;
	struct tdm_pfn pfn;

	tdm_world_work(w, TDM_WORK_PTE, 1);
	if (tdm_pte_present(pte))
		return zap_present(g, pt, i, va);
	tdm_pt_set(pt, i, (struct tdm_pte){ 0 });
	if (tdm_pte_is(pte, TDM_PTE_T_SWAP)) {
		tdm_a64_sub_relaxed(&g->s->swapped, 1);
		tdmi_slot_put(w, tdm_pte_swap_handle(pte));
	} else if (tdm_pte_names(pte, &pfn)) {
		/* Blocked: no TLB has it. Who migrates the page finds one mapping less. */
		tdm_a64_sub_relaxed(&g->s->rss, 1);
		tdmi_rmap_del(w, pfn, g->s, va);
		return tdmi_gather_page(g, pfn);
	}
	return false;
}

static bool zap(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va, void *arg)
{
	(void)arg;
	return tdmi_unmap_entry(g, pt, i, va);
}

void tdmi_unmap_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end)
{
	struct tdm_pgt *pgt = &g->s->pgt;

	tdmi_each_entry(g, reader, start, end, zap, NULL);
	tdmi_gather_flush(g);
	tdmi_rcu_read_lock(reader);
	for (u64 va = start; (va = TDM_MAX(va, tdmi_pt_next(pgt, va, end))) < end; va = TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE)
		tdmi_pt_try_free(pgt, va);
	tdmi_rcu_read_unlock(reader);
}

/* ---- taking rights away */

/* Of a present entry. What is no longer said of its page there is said of the page. */
static void lower(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va, u64 bits)
{
	struct tdm_pte was = tdm_pt_change(pt, i, 0, bits);

	if ((was.v & bits & TDM_PTE_DIRTY) && !(was.v & TDM_PTE_SPECIAL))
		harvest(tdm_pfn_page(&g->s->w->phys, tdm_pte_pfn(was)), was);
	if (was.v & bits)
		tdmi_gather_range(g, va, TDM_PAGE_SHIFT);
}

static bool clear(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va, void *arg)
{
	u64 bits = *(u64 *)arg;
	struct tdm_pte pte = tdm_pt_get(pt, i);

	tdm_world_work(g->s->w, TDM_WORK_PTE, 1);
	if (tdm_pte_blocked(pte))
		tdm_pt_set(pt, i, (struct tdm_pte){ pte.v & ~((bits >> 1 & 15) << 48) });
	else if (tdm_pte_present(pte))
		lower(g, pt, i, va, bits);
	return false;
}

void tdmi_clear_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, u64 bits)
{
	tdmi_each_entry(g, reader, start, end, clear, &bits);
}

/* No right at all. */
static bool block(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va, void *arg)
{
	struct tdm_pte pte = tdm_pt_get(pt, i);

	(void)arg;
	tdm_world_work(g->s->w, TDM_WORK_PTE, 1);
	/* Whoever moves the page makes the entry what it was: without a right it must not be. */
	if (tdm_pte_is(pte, TDM_PTE_T_MIGRATION))
		tdm_pt_set(pt, i, tdm_pte_mk_typed(TDM_PTE_T_MIGRATION, tdm_pte_payload(pte) | TDM_BLOCKED_PROTNONE));
	if (!tdm_pte_present(pte))
		return false;
	if (pte.v & TDM_PTE_SPECIAL) /* zeros: nothing to keep */
		return tdmi_unmap_entry(g, pt, i, va);
	/* First it is taken from hardware, then it is known what it said. */
	pte = tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	tdm_pt_set(pt, i, tdm_pte_mk_blocked(TDM_PTE_T_PROTNONE, pte));
	tdmi_gather_range(g, va, TDM_PAGE_SHIFT);
	return false;
}

void tdmi_protect_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, uintptr_t flags)
{
	if (!(flags & TDM_V_READ))
		tdmi_each_entry(g, reader, start, end, block, NULL);
	if (!(flags & TDM_V_WRITE))
		tdmi_clear_range(g, reader, start, end, TDM_PTE_WRITE);
}

/* ---- MADV_FREE */

static bool free_lazily(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va, void *arg)
{
	struct tdm_pte pte = tdm_pt_get(pt, i);
	struct tdm_page *pg;

	(void)arg;
	/* What lies in a tier is not worth being brought for this. */
	if (tdm_pte_is(pte, TDM_PTE_T_SWAP))
		return tdmi_unmap_entry(g, pt, i, va);
	if (!tdm_pte_present(pte) || (pte.v & TDM_PTE_SPECIAL))
		return false;
	pg = tdm_pfn_page(&g->s->w->phys, tdm_pte_pfn(pte));
	if (!(tdm_page_word(pg) & TDM_PG_EXCLUSIVE))
		return false;
	tdm_world_work(g->s->w, TDM_WORK_PTE, 1);
	/* From here on a write sets D again, once the TLBs have been flushed. Until then one may go unnoticed: it is as if it came before. */
	(void)tdm_pt_change(pt, i, 0, TDM_PTE_DIRTY | TDM_PTE_ACCESSED);
	tdm_page_clear(pg, TDM_PG_DIRTY);
	tdm_page_set(pg, TDM_PG_LAZYFREE);
	tdmi_gather_range(g, va, TDM_PAGE_SHIFT);
	return false;
}

void tdmi_free_lazily(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end)
{
	tdmi_each_entry(g, reader, start, end, free_lazily, NULL);
}

/* ---- mremap */

int tdmi_move_prepare(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len)
{
	int r = 0;

	tdmi_rcu_read_lock(reader);
	for (u64 va = from; !r && (va = TDM_MAX(va, tdmi_pt_next(&s->pgt, va, from + len))) < from + len;) {
		u64 stop = TDM_MIN(from + len, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		u64 ends[] = { va - from + to, stop - from + to - TDM_PAGE_SIZE };

		for (u32 k = 0; k < 2 && !r; k++) {
			struct tdm_pt *pt;

			r = tdmi_pt_lock(&s->pgt, ends[k], true, &pt);
			if (!r)
				tdm_pt_unlock(pt);
		}
		va = stop;
	}
	tdmi_rcu_read_unlock(reader);
	return r;
}

struct move {
	u64 from, to;
};

/* The table of the old place is locked; that of the new one cannot be, too. So the entry is in nobody's table for a moment, with the reference to its page. */
static bool move_entry(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va, void *arg)
{
	const struct move *m = arg;
	struct tdm_space *s = g->s;
	struct tdm_pte pte = tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	u64 to = va - m->from + m->to;
	struct tdm_pt *new;
	struct tdm_pfn pfn;
	bool full = false;

	tdm_world_work(s->w, TDM_WORK_PTE, 2);
	/* Another CPU may still write to the page by its old address: not after it has it by the new one, where it may be read only. */
	if (tdm_pte_present(pte))
		tdmi_tlb_flush(s, va, va + TDM_PAGE_SIZE, TDM_PAGE_SHIFT);
	if (tdm_pte_names(pte, &pfn))
		tdmi_rmap_move(s->w, pfn, s, va, to);
	tdm_pt_unlock(pt);
	TDM_BUG_ON(tdmi_pt_lock(&s->pgt, to, true, &new) || new->level);
	if (!tdm_pte_none(tdm_pt_get(new, tdm_pt_index(new, to))))
		full = tdmi_unmap_entry(g, new, tdm_pt_index(new, to), to);
	tdm_pt_set(new, tdm_pt_index(new, to), pte);
	tdm_pt_unlock(new);
	plat_mutex_lock(&pt->lock);
	return full;
}

void tdmi_move_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len)
{
	struct move m = { from, to };

	tdmi_each_entry(g, reader, from, from + len, move_entry, &m);
}
