/* SPDX-License-Identifier: MIT */
/*
 * coherent.c - device memory that the CPU can map: CXL, a far NUMA node.
 *
 * A page that is there is mapped at its address like any page of ram; what differs is where it lies, and whose it is: its entry is COHERENT and names a frame of the
 * pool, reclaim does not see it, and it can always be evicted, since nobody pins it for long. A pool's frames have slots as those of ram have homes (they are taken
 * from the same arena, and are where a NUMA policy applies). Migration copies a page from its home to the slot, and moves it from there to its address
 * (pack.c); eviction goes the other way, below. In between the slot is empty, and the page at its address: the same physical page, so what decides which node it
 * is of is where the slot's pages come from.
 *
 * fork() shares such a page between parent and child, and who writes it first gets a copy, which the kernel makes, in ram. Nobody is told; so each entry is marked before
 * a fork, and looked at again before somebody relies on it: if there is another page at the address now, it is one of ram.
 *
 * Locks: those of taking home (take_home.c): the event lock, then the table.
 */
#include <string.h>
#include "base/check.h"
#include "mm/gup.h"
#include "mm/mm.h"

void *tdmi_coherent_slot(const struct tdm_pool *p, u32 frame)
{
	return p->slot[frame / TDM_HUGE_PAGES] + ((size_t)(frame % TDM_HUGE_PAGES) << TDM_PAGE_SHIFT);
}

static size_t slots_bytes(const struct tdm_pool *p)
{
	return TDM_ALIGN_UP(p->frames.nframes / TDM_HUGE_PAGES * sizeof(*p->slot), TDM_PAGE_SIZE);
}

int tdmi_coherent_attach(struct tdm_mm *mm, struct tdm_pool *p)
{
	int r = 0;

	p->slot = plat_map(slots_bytes(p));
	if (!p->slot)
		return -ENOMEM;
	for (u32 i = 0; i < p->frames.nframes / TDM_HUGE_PAGES && !r; i++) {
		struct tdm_frame *f = tdmi_folio_alloc(&mm->frames, TDM_HUGE_ORDER, false, NULL);

		if (!f) {
			r = -ENOMEM;
			break;
		}
		p->slot[i] = tdm_frame_home(&mm->frames, f);
		if (p->node >= 0)
			r = plat_mem_node(p->slot[i], TDM_HUGE_SIZE, p->node);
	}
	if (r)
		tdmi_coherent_detach(mm, p);
	return r;
}

void tdmi_coherent_detach(struct tdm_mm *mm, struct tdm_pool *p)
{
	for (u32 i = 0; i < p->frames.nframes / TDM_HUGE_PAGES && p->slot[i]; i++) {
		if (p->node >= 0)
			(void)plat_mem_node(p->slot[i], TDM_HUGE_SIZE, -1);
		tdmi_folio_free(&mm->frames, &mm->frames.desc[(size_t)(p->slot[i] - mm->frames.arena) >> TDM_PAGE_SHIFT]);
	}
	plat_unmap(p->slot, slots_bytes(p));
	p->slot = NULL;
}

/* ---- what has become of a page since a fork --------------------------------------------------------------------------------------------- */

static bool is_coherent(struct tdm_pte pte)
{
	return tdm_pte_is(pte, TDM_PTE_T_COHERENT);
}

/* What the kernel calls the page at va, or 0. */
static u32 page_id(struct tdm_mm *mm, u64 va)
{
	return mm->port->ops->page_id ? (u32)mm->port->ops->page_id(mm->port, va) : 0;
}

void tdmi_coherent_placed(struct tdm_mm *mm, struct tdm_pool *p, u32 frame, u64 va)
{
	p->frames.desc[frame].kept = page_id(mm, va);
}

/* The page at entry i is the process's own copy, in ram. The table lock is held. */
static bool becomes_ram(struct tdm_mm *mm, struct tdm_pt *pt, u32 i)
{
	struct tdm_pte was = tdm_pt_get(pt, i);
	bool warm;
	struct tdm_frame *folio = tdmi_block_folio_get(mm, pt, i, false, &warm);
	u32 k = i & (TDM_BLOCK_PAGES - 1);

	if (!folio)
		return false;
	tdmi_page_set(mm, pt, i, tdm_pte_mk((struct tdm_pfn){ tdm_frame_pfn(&mm->frames, folio).v + k }, TDM_PTE_WRITE | TDM_PTE_ACCESSED));
	tdmi_folio_touched(mm, pt, i - k, folio, TDM_LRU_FAULTED);
	tdm_a64_add_relaxed(&tdmi_pte_pool(mm, was)->copied, 1);
	tdmi_dev_left(mm, was);
	return true;
}

/* Entry i may have been copied since the last fork. owned: the page is known to be the process's alone. The table lock is held. */
static void look_again(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, bool owned)
{
	struct tdm_pte pte = tdm_pt_get(pt, i);
	struct tdm_pool *p = tdmi_pte_pool(mm, pte);
	u32 id = page_id(mm, tdm_pt_va(pt, i)), was = p->frames.desc[tdm_pte_private_frame(pte)].kept;

	if (id && was ? id != was : owned)
		(void)becomes_ram(mm, pt, i);
	else if (owned)
		tdmi_page_set(mm, pt, i, tdm_pte_mk_coherent(p->id, tdm_pte_private_frame(pte), false));
}

void tdmi_coherent_settle(struct tdm_ctx *ctx, u64 start, u64 end, bool owned)
{
	struct tdm_mm *mm = ctx->mm;

	if (!tdm_a64_ld_relaxed(&mm->coherent))
		return;
	tdmi_rcu_read_lock(ctx->rcu);
	for (u64 va = tdmi_pt_next(&mm->pgt, start, end), next; va < end; va = tdmi_pt_next(&mm->pgt, next, end)) {
		struct tdm_pt *pt;

		va = TDM_MAX(va, start);
		next = TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE;
		if (tdmi_pt_lock(&mm->pgt, va, false, &pt) || !pt)
			continue;
		for (; !pt->level && va < next && va < end; va += TDM_PAGE_SIZE) {
			struct tdm_pte pte = tdm_pt_get(pt, tdm_pt_index(pt, va));

			if (is_coherent(pte) && tdm_pte_coherent_shared(pte))
				look_again(mm, pt, tdm_pt_index(pt, va), owned);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
}

void tdmi_coherent_before_fork(struct tdm_ctx *ctx)
{
	const u64 end = (u64)1 << 47;
	struct tdm_mm *mm = ctx->mm;

	if (!tdm_a64_ld_relaxed(&mm->coherent))
		return;
	tdmi_rcu_read_lock(ctx->rcu);
	for (u64 va = tdmi_pt_next(&mm->pgt, 0, end); va < end; va = tdmi_pt_next(&mm->pgt, va + TDM_HUGE_SIZE, end)) {
		struct tdm_pt *pt;

		if (tdmi_pt_lock(&mm->pgt, va, false, &pt) || !pt)
			continue;
		for (u32 i = 0; !pt->level && i < TDM_PT_ENTRIES; i++) {
			struct tdm_pte pte = tdm_pt_get(pt, i);

			if (is_coherent(pte))
				tdmi_page_set(mm, pt, i, tdm_pte_mk_coherent(tdmi_pte_pool(mm, pte)->id, tdm_pte_private_frame(pte), true));
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
}

/* ---- home --------------------------------------------------------------------------------------------------------------------------------- */

/* Pages k to k + n of the block are one folio's, side by side. n. */
static u32 run_of(struct tdm_mm *mm, const struct tdm_pte *pte, u32 mask, u32 k)
{
	u32 first = tdm_pte_private_frame(pte[k]), n = 1;

	while (k + n < TDM_BLOCK_PAGES && (mask >> (k + n) & 1) && tdmi_pte_pool(mm, pte[k + n]) == tdmi_pte_pool(mm, pte[k]) &&
	       tdm_pte_private_frame(pte[k + n]) == first + n &&
	       tdmi_dev_folio(tdmi_pte_pool(mm, pte[k]), first + n) == tdmi_dev_folio(tdmi_pte_pool(mm, pte[k]), first))
		n++;
	return n;
}

/* One run is in its slots: from there to its homes. */
static void to_homes(struct tdm_ctx *ctx, struct tdm_pt *pt, u32 first, u32 k, u32 n, struct tdm_frame *home, const struct tdm_pte *pte)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pool *p = tdmi_pte_pool(mm, pte[k]);
	void *slot = tdmi_coherent_slot(p, tdm_pte_private_frame(pte[k]));
	u32 mask = ((1u << n) - 1) << k;

	memcpy((u8 *)tdm_frame_home(&mm->frames, home) + ((size_t)k << TDM_PAGE_SHIFT), slot, (size_t)n << TDM_PAGE_SHIFT);
	tdmi_homes_wanted(mm, home, mask);
	mm->port->ops->discard(mm->port, &slot, &n, 1);
	for (u32 j = k; j < k + n; j++) {
		tdmi_page_set(mm, pt, first + j, tdm_pte_mk((struct tdm_pfn){ tdm_frame_pfn(&mm->frames, home).v + j }, TDM_PTE_WRITE));
		tdmi_dev_left(mm, pte[j]);
	}
	tdmi_lru_add_home(&mm->lru, home);
}

/* The pages of mask of one block. The event lock and the table lock are held. *busy: those that are shared, or that the kernel has pinned. */
static int block_home(struct tdm_ctx *ctx, struct tdm_pt *pt, u32 first, u32 mask, u64 *pages, u32 *busy)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pte pte[TDM_BLOCK_PAGES];
	struct tdm_frame *home;
	bool warm;
	int r = 0;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		pte[k] = tdm_pt_get(pt, first + k);
		if (!is_coherent(pte[k]))
			mask &= ~(1u << k);
	}
	if (!mask)
		return 0;
	home = tdmi_block_folio_get(mm, pt, first, true, &warm);
	if (!home)
		return -ENOMEM;
	for (u32 k = 0, n; k < TDM_BLOCK_PAGES && (!r || r == -EBUSY); k += n) {
		struct tdm_pool *p;
		struct tdm_frame *folio;
		u32 frame, done = 0;

		n = 1;
		if (!(mask >> k & 1))
			continue;
		p = tdmi_pte_pool(mm, pte[k]);
		frame = tdm_pte_private_frame(pte[k]);
		folio = tdmi_dev_folio(p, frame);
		n = run_of(mm, pte, mask, k);
		if (!tdmi_pins_freeze(folio))
			continue;
		r = mm->port->ops->invalidate(mm->port, (struct tdm_va){ tdm_pt_va(pt, first + k) }, tdmi_coherent_slot(p, frame), n, &done);
		tdmi_pins_thaw(folio);
		if (done)
			to_homes(ctx, pt, first, k, done, home, pte);
		*pages += done;
		if (r == -EBUSY)
			*busy |= ((1u << (n - done)) - 1) << (k + done);
	}
	if (!home->mapcount)
		tdmi_folio_release(mm, home, 0);
	return r == -EBUSY || r == -ENOENT || r == -EINVAL ? 0 : r;
}

/* A block, in a round for it. */
static int try_block(struct tdm_ctx *ctx, u64 va, u32 mask, u64 *pages, u32 *busy)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_inv_range round = TDM_INV_RANGE(va, va + TDM_BLOCK_SIZE, TDM_INV_MIGRATE);
	struct tdm_pt *pt;
	int r;

	(void)tdmi_invalidate_start(&mm->notifiers, &round);
	plat_mutex_lock(&mm->event_lock);
	r = tdmi_events_settled(ctx) ? 0 : -EAGAIN;
	tdmi_rcu_read_lock(ctx->rcu);
	if (!r && !tdmi_pt_lock(&mm->pgt, va, false, &pt) && pt) {
		if (!pt->level)
			r = block_home(ctx, pt, tdm_pt_index(pt, va), mask, pages, busy);
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	if (r == -EAGAIN)
		mm->port->ops->drain(mm->port, ctx);
	plat_mutex_unlock(&mm->event_lock);
	tdmi_invalidate_end(&mm->notifiers, &round);
	return r;
}

int tdmi_coherent_home(struct tdm_ctx *ctx, u64 start, u64 end, u64 *pages)
{
	u64 since = 0;

	*pages = 0;
	if (!tdm_a64_ld_relaxed(&ctx->mm->coherent))
		return 0;
	for (u64 va = TDM_ALIGN_DOWN(start, TDM_BLOCK_SIZE); va < end; va += TDM_BLOCK_SIZE) {
		u32 lo = va < start ? (u32)((start - va) >> TDM_PAGE_SHIFT) : 0, busy = 0;
		u32 hi = (u32)TDM_MIN((end - va) >> TDM_PAGE_SHIFT, (u64)TDM_BLOCK_PAGES);
		int r = try_block(ctx, va, ((1u << hi) - 1) & ~((1u << lo) - 1), pages, &busy);

		if (busy && ctx->may_wait) {
			u32 left = 0;

			/* Copies of the process's own, of what it shares; or they are pinned. */
			for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
				if ((busy >> k & 1) &&
				    !ctx->mm->port->ops->unshare(ctx->mm->port, (struct tdm_va){ va + ((u64)k << TDM_PAGE_SHIFT) }, 1))
					tdmi_coherent_settle(ctx, va + ((u64)k << TDM_PAGE_SHIFT), va + ((u64)(k + 1) << TDM_PAGE_SHIFT), true);
			r = r ? r : try_block(ctx, va, busy, pages, &left);
		}
		if (r == -EAGAIN && tdmi_event_retry(&since))
			va -= TDM_BLOCK_SIZE;
		else if (r)
			return r;
		else
			since = 0;
	}
	return 0;
}

/* ---- mremap() ----------------------------------------------------------------------------------------------------------------------------- */

/*
 * The kernel has moved the page, and it lies where it lay: the entry moves, and the folio with it, whose va says which table's lock it is under. A folio is in one place; so a block
 * goes as a whole, or becomes 16 folios before one of its pages goes. Both need it isolated: who evicts it reads its va with no lock held. If somebody else has it, or a
 * block that must be split is pinned, the page is forgotten here, and found at its new place, as one of ram.
 *
 * The event lock is held, so nobody evicts meanwhile; and both tables are never locked together. In between no entry names the folio, and the isolation, or that it is on no list,
 * keeps it.
 */

/* An isolated block becomes 16 folios. The one of `mine` is left on no list, unless it is the first: that one is isolated still. Those that nothing names are freed. The table lock
 * is held. false: it is pinned. */
static bool split(struct tdm_pool *p, struct tdm_frame *block, const struct tdm_pt *pt, struct tdm_frame *mine)
{
	u32 first = tdm_pt_index(pt, block->va), nr = tdm_frame_nr(&p->frames, block);

	TDM_BUG_ON(block->order != TDM_BLOCK_ORDER);
	if (!tdmi_pins_freeze(block))
		return false;
	tdmi_folio_to_pages(&p->frames, block);
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		struct tdm_frame *d = block + k;
		struct tdm_pte pte = tdm_pt_get(pt, first + k);

		d->mapcount = is_coherent(pte) && tdmi_pte_pool(p->mm, pte) == p && tdm_pte_private_frame(pte) == nr + k;
		if (!k)
			continue;
		d->va = block->va + ((u64)k << TDM_PAGE_SHIFT);
		d->refcount = 1;
		d->stale = 0;
		d->gen = 0;
		d->flags = block->flags;
		d->state = TDM_FRAME_NEW;
	}
	for (u32 k = 1; k < TDM_BLOCK_PAGES; k++) {
		if (block[k].mapcount && block + k != mine)
			tdmi_dev_mapped(p, block + k);
		tdmi_dev_put(p, block + k); /* unless it is mapped */
	}
	tdmi_dev_put(p, block); /* likewise; who has isolated it holds it */
	tdmi_pins_thaw(block);
	return true;
}

/* The entries from i on that name the folio, if they are all that do, and may go together; else 1. */
static u32 together(const struct tdm_frame *folio, u64 from, u64 to, u64 most)
{
	u32 n = 1u << folio->order;

	return n == TDM_BLOCK_PAGES && folio->mapcount == n && !(from % TDM_BLOCK_SIZE) && !(to % TDM_BLOCK_SIZE) && most >= n ? n : 1;
}

static void give_back(struct tdm_pool *p, struct tdm_frame *folio, bool isolated)
{
	if (!isolated)
		tdmi_dev_mapped(p, folio);
	else if (tdmi_lru_putback(&p->lru, folio, TDM_LRU_TO_YOUNG) && !tdmi_pins_orphan(folio))
		tdmi_dev_free(p, folio);
}

/* Pages from `from` on leave the table, which is locked. How many; 0: they cannot. */
static u32 take(struct tdm_mm *mm, struct tdm_pt *pt, u64 from, u64 to, u64 most, struct tdm_pte *pte, bool *isolated)
{
	u32 i = tdm_pt_index(pt, from), n;
	struct tdm_frame *folio, *mine;
	struct tdm_pool *p;

	pte[0] = pt->level ? (struct tdm_pte){ 0 } : tdm_pt_get(pt, i);
	if (!is_coherent(pte[0]))
		return 0;
	p = tdmi_pte_pool(mm, pte[0]);
	folio = tdmi_dev_folio(p, tdm_pte_private_frame(pte[0]));
	if (!tdmi_lru_isolate(&p->lru, folio))
		return 0;
	n = together(folio, from, to, most);
	mine = n == 1 ? &p->frames.desc[tdm_pte_private_frame(pte[0])] : folio;
	*isolated = mine == folio;
	if (n == 1 && folio->order && !split(p, folio, pt, mine)) {
		give_back(p, folio, true);
		return 0;
	}
	if (mine != folio)
		give_back(p, folio, true);
	for (u32 k = 0; k < n; k++) {
		pte[k] = tdm_pt_get(pt, i + k);
		tdmi_page_set(mm, pt, i + k, (struct tdm_pte){ 0 });
	}
	return n;
}

u32 tdmi_coherent_move(struct tdm_ctx *ctx, u64 from, u64 to, u64 most)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pte pte[TDM_BLOCK_PAGES];
	struct tdm_frame *folio;
	struct tdm_pool *p;
	struct tdm_pt *pt;
	bool isolated;
	u32 n, i;

	if (!tdm_a64_ld_relaxed(&mm->coherent) || tdmi_pt_lock(&mm->pgt, from, false, &pt) || !pt)
		return 0;
	n = take(mm, pt, from, to, most, pte, &isolated);
	tdm_pt_unlock(pt);
	if (!n)
		return 0;
	p = tdmi_pte_pool(mm, pte[0]);
	folio = tdmi_dev_folio(p, tdm_pte_private_frame(pte[0]));
	if (tdmi_pt_lock(&mm->pgt, to, true, &pt)) {
		/* No table: it is found later, if it can be. */
		tdmi_dev_put(p, folio);
		if (isolated)
			give_back(p, folio, true);
		return n;
	}
	i = tdm_pt_index(pt, to);
	folio->va = to;
	for (u32 k = 0; k < n; k++) {
		TDM_BUG_ON(pt->level || !tdm_pte_none(tdm_pt_get(pt, i + k)));
		tdmi_page_set(mm, pt, i + k, pte[k]);
	}
	give_back(p, folio, isolated);
	tdm_pt_unlock(pt);
	return n;
}
