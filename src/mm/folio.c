/* SPDX-License-Identifier: MIT */
/*
 * folio.c - the state of pages and their folios, in step.
 *
 * An entry is only ever written through tdmi_page_set(), so that the counters of the address space and of the folio agree with the table.
 * All of this runs under the lock of the PTE table (or of the PMD table, for a folio mapped by a 2 MiB leaf).
 */
#include "base/check.h"
#include "mm/gup.h"
#include "mm/mm.h"

static void account(struct tdm_mm *mm, struct tdm_pte pte, u64 pages, bool add)
{
	tdm_a64 *c;

	if (tdm_pte_in_ram(pte)) {
		struct tdm_frame *f = pages == TDM_HUGE_PAGES ? tdm_pfn_frame(&mm->frames, tdm_pte_ram_pfn(pte)) :
								tdm_pfn_block(&mm->frames, tdm_pte_ram_pfn(pte));

		f->mapcount = (u16)(add ? f->mapcount + pages : f->mapcount - pages);
		c = tdm_pte_home(pte) ? &mm->home : &mm->lent;
	} else if (tdm_pte_is(pte, TDM_PTE_T_SWAP)) {
		c = &mm->out;
	} else if (tdm_pte_device(pte)) {
		struct tdm_pool *p = tdmi_pte_pool(mm, pte);
		struct tdm_frame *f = tdmi_dev_folio(p, tdm_pte_private_frame(pte));

		f->mapcount = (u16)(add ? f->mapcount + pages : f->mapcount - pages);
		c = &p->pages;
		if (tdm_pte_is(pte, TDM_PTE_T_COHERENT))
			tdm_a64_add_relaxed(&mm->coherent, add ? pages : 0 - pages);
	} else {
		return;
	}
	if (add)
		tdm_a64_add_relaxed(c, pages);
	else
		tdm_a64_sub_relaxed(c, pages);
}

void tdmi_page_set(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, struct tdm_pte pte)
{
	u64 pages = pt->level ? TDM_HUGE_PAGES : 1;

	account(mm, tdm_pt_get(pt, i), pages, false);
	account(mm, pte, pages, true);
	tdm_pt_set(pt, i, pte);
}

void tdmi_pages_set(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, u32 n, const struct tdm_pte *pte)
{
	TDM_ASSERT(n && n <= TDM_BLOCK_PAGES && !pt->level);
	account(mm, tdm_pt_get(pt, i), n, false);
	account(mm, pte[0], n, true);
	for (u32 k = 0; k < n; k++)
		tdm_pt_set(pt, i + k, pte[k]);
}

void tdmi_huge_to_private(struct tdm_mm *mm, struct tdm_pt *pmd, u32 i, struct tdm_pt *pt, struct tdm_pool *p, struct tdm_frame *dev)
{
	u32 nr = tdm_frame_nr(&p->frames, dev);

	account(mm, tdm_pt_get(pmd, i), TDM_HUGE_PAGES, false);
	for (u32 k = 0; k < TDM_HUGE_PAGES; k++)
		tdm_pt_set(pt, k, tdm_pte_mk_private(p->id, nr + k));
	dev->mapcount = TDM_HUGE_PAGES;
	tdm_a64_add_relaxed(&p->pages, TDM_HUGE_PAGES);
	tdm_pt_set(pmd, i, (struct tdm_pte){ (u64)(uintptr_t)pt | TDM_PTE_PRESENT });
}

void tdmi_private_to_huge(struct tdm_mm *mm, struct tdm_pt *pmd, struct tdm_pt *pt, struct tdm_pool *p, struct tdm_frame *dev, struct tdm_frame *folio)
{
	struct tdm_pte leaf = tdm_pte_mk(tdm_frame_pfn(&mm->frames, folio), TDM_PTE_WRITE);

	TDM_BUG_ON(dev->mapcount != TDM_HUGE_PAGES);
	dev->mapcount = 0;
	tdm_a64_sub_relaxed(&p->pages, TDM_HUGE_PAGES);
	account(mm, leaf, TDM_HUGE_PAGES, true);
	tdmi_pt_collapse(&mm->pgt, pmd, pt, leaf);
}

struct tdm_frame *tdmi_block_folio(struct tdm_mm *mm, struct tdm_pt *pt, u32 i)
{
	u32 first = i & ~(TDM_BLOCK_PAGES - 1);

	for (u32 k = first; k < first + TDM_BLOCK_PAGES; k++) {
		struct tdm_pte pte = tdm_pt_get(pt, k);

		if (tdm_pte_in_ram(pte))
			return tdm_pfn_block(&mm->frames, tdm_pte_ram_pfn(pte));
	}
	return NULL;
}

u32 tdmi_folio_pages(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, struct tdm_frame *folio, bool lent)
{
	u32 mask = 0;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		struct tdm_pte pte = tdm_pt_get(pt, first + k);

		if (tdm_pte_present(pte) && tdm_pte_lent(pte) == lent && tdm_pfn_block(&mm->frames, tdm_pte_pfn(pte)) == folio)
			mask |= 1u << k;
	}
	return mask;
}

struct tdm_frame *tdmi_block_folio_get(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, bool warm, bool *was_warm)
{
	struct tdm_frame *f = tdmi_block_folio(mm, pt, i);

	*was_warm = false;
	if (f)
		return f;
	f = tdmi_folio_alloc(&mm->frames, TDM_BLOCK_ORDER, warm, was_warm);
	if (!f)
		return NULL;
	f->va = tdm_pt_va(pt, i & ~(TDM_BLOCK_PAGES - 1));
	if (*was_warm) {
		f->stale = 0xffff;
		tdm_a64_add_relaxed(&mm->stale, TDM_BLOCK_PAGES);
	}
	return f;
}

/* Pages of a folio as runs, for the port. How many. */
static u32 runs_of(struct tdm_mm *mm, struct tdm_frame *folio, u32 mask, void **slot, u32 *pages)
{
	u8 *home = tdm_frame_home(&mm->frames, folio);
	u32 n = 0;

	for (u32 i = 0; i < TDM_BLOCK_PAGES; i++) {
		if (!(mask >> i & 1))
			continue;
		if (i && (mask >> (i - 1) & 1)) {
			pages[n - 1]++;
			continue;
		}
		slot[n] = home + ((size_t)i << TDM_PAGE_SHIFT);
		pages[n++] = 1;
	}
	return n;
}

void tdmi_homes_stale(struct tdm_mm *mm, struct tdm_frame *folio, u32 mask)
{
	u32 add = mask & ~(u32)folio->stale;

	folio->stale |= (u16)add;
	tdm_a64_add_relaxed(&mm->stale, (u64)__builtin_popcount(add));
}

void tdmi_homes_wanted(struct tdm_mm *mm, struct tdm_frame *folio, u32 mask)
{
	u32 sub = mask & folio->stale;

	folio->stale &= (u16)~sub;
	tdm_a64_sub_relaxed(&mm->stale, (u64)__builtin_popcount(sub));
}

void tdmi_homes_discard(struct tdm_mm *mm, struct tdm_frame *folio, u32 mask)
{
	void *slot[TDM_BLOCK_PAGES];
	u32 pages[TDM_BLOCK_PAGES], n = runs_of(mm, folio, mask, slot, pages);

	if (n)
		mm->port->ops->discard(mm->port, slot, pages, n);
	tdmi_homes_wanted(mm, folio, mask);
}

void tdmi_folio_keep(struct tdm_mm *mm, struct tdm_frame *folio, u32 kept)
{
	u32 was = folio->kept;

	folio->kept = kept;
	if (was && was != kept)
		tdmi_swap_forget(mm->swap, was - 1);
}

u32 tdmi_dirty_discard(struct tdm_mm *mm, u64 keep)
{
	struct tdm_frame *folio[TDM_HUGE_PAGES / TDM_BLOCK_PAGES];
	void *slot[TDM_HUGE_PAGES / 2];
	u32 pages[TDM_HUGE_PAGES / 2], n = 0, stale = 0;
	u32 folios = tdmi_folios_take_dirty(&mm->frames, keep, folio);

	if (!folios)
		return 0;
	for (u32 i = 0; i < folios; i++) {
		n += runs_of(mm, folio[i], folio[i]->stale, slot + n, pages + n);
		stale += (u32)__builtin_popcount(folio[i]->stale);
	}
	plat_mutex_lock(&mm->event_lock);
	mm->port->ops->discard_many(mm->port, slot, pages, n);
	plat_mutex_unlock(&mm->event_lock);
	tdm_a64_sub_relaxed(&mm->stale, stale);
	for (u32 i = 0; i < folios; i++)
		tdmi_folio_free(&mm->frames, folio[i]);
	return stale;
}

/* The last reference is gone, and the last pin. */
void tdmi_block_free(struct tdm_mm *mm, struct tdm_frame *folio)
{
	u32 stale = folio->stale;

	if (stale == 0xffff && tdmi_folio_free_warm(&mm->frames, folio)) {
		tdm_a64_sub_relaxed(&mm->stale, TDM_BLOCK_PAGES);
		return;
	}
	if (stale && stale != 0xffff) {
		tdmi_folio_free_dirty(&mm->frames, folio, (u32)__builtin_popcount(stale));
		return;
	}
	if (stale)
		tdmi_homes_discard(mm, folio, stale);
	tdmi_folio_free(&mm->frames, folio);
}

void tdmi_huge_want(struct tdm_mm *mm, struct tdm_pt *pmd, u32 i)
{
	struct tdm_pte pte = tdm_pt_get(pmd, i);

	if (tdm_pte_home(pte) && (tdm_pfn_frame(&mm->frames, tdm_pte_pfn(pte))->flags & TDM_FRAME_F_WRITEBACK))
		tdm_pt_set(pmd, i, (struct tdm_pte){ pte.v | TDM_PTE_WANTED });
}

void tdmi_huge_stale(struct tdm_mm *mm, struct tdm_frame *folio)
{
	folio->stale = 0xffff;
	tdm_a64_add_relaxed(&mm->stale, TDM_HUGE_PAGES);
}

void tdmi_huge_free(struct tdm_mm *mm, struct tdm_frame *folio)
{
	void *slot = tdm_frame_home(&mm->frames, folio);
	u32 n = TDM_HUGE_PAGES;

	if (folio->stale) {
		if (tdmi_folio_free_warm(&mm->frames, folio)) {
			tdm_a64_sub_relaxed(&mm->stale, TDM_HUGE_PAGES);
			return;
		}
		mm->port->ops->discard(mm->port, &slot, &n, 1);
		tdm_a64_sub_relaxed(&mm->stale, TDM_HUGE_PAGES);
	}
	tdmi_folio_free(&mm->frames, folio);
}

/* The last reference is gone. */
static void folio_free(struct tdm_mm *mm, struct tdm_frame *folio)
{
	u16 stale = folio->stale;
	bool pinned = false;

	TDM_BUG_ON(folio->mapcount);
	if (folio->order == TDM_BLOCK_ORDER) {
		tdmi_folio_keep(mm, folio, 0);
		if (!tdmi_pins_orphan(folio))
			tdmi_block_free(mm, folio);
		return;
	}
	for (u32 i = 0; i < TDM_HUGE_PAGES; i += TDM_BLOCK_PAGES)
		pinned = pinned || tdm_a16_ld_acquire(&folio[i].pins);
	if (!pinned) {
		tdmi_huge_free(mm, folio);
		return;
	}
	tdmi_folio_split(&mm->frames, folio);
	for (u32 i = 0; i < TDM_HUGE_PAGES; i += TDM_BLOCK_PAGES) {
		folio[i].stale = stale;
		if (!tdmi_pins_orphan(folio + i))
			tdmi_block_free(mm, folio + i);
	}
}

void tdmi_folio_release(struct tdm_mm *mm, struct tdm_frame *folio, u32 populated)
{
	if (folio->order == TDM_BLOCK_ORDER)
		tdmi_homes_stale(mm, folio, populated);
	if (tdmi_lru_del(&mm->lru, folio))
		folio_free(mm, folio);
}

bool tdmi_folio_putback(struct tdm_mm *mm, struct tdm_frame *folio, enum tdm_lru_where where)
{
	if (!tdmi_lru_putback(&mm->lru, folio, where))
		return true;
	folio_free(mm, folio);
	return false;
}

void tdmi_folio_touched(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, struct tdm_frame *folio, enum tdm_lru_why why)
{
	for (u32 k = first; k < first + TDM_BLOCK_PAGES; k++)
		if (tdm_pte_home(tdm_pt_get(pt, k)))
			return;
	tdmi_lru_add(&mm->lru, folio, why);
}

int tdmi_huge_split(struct tdm_mm *mm, struct tdm_pt *pmd, u32 i, u32 moved, struct tdm_pt *spare)
{
	struct tdm_pte leaf = tdm_pt_get(pmd, i);
	struct tdm_frame *folio = tdm_pfn_frame(&mm->frames, tdm_pte_pfn(leaf));
	bool home = tdm_pte_home(leaf);
	struct tdm_pt *pt;

	if (tdmi_pt_split(&mm->pgt, pmd, i, spare, &pt)) {
		TDM_BUG_ON(!tdmi_folio_putback(mm, folio, home ? TDM_LRU_TO_HOME : TDM_LRU_TO_YOUNG));
		return -ENOMEM;
	}
	tdmi_folio_split(&mm->frames, folio);
	for (u32 k = 0; k < TDM_HUGE_PAGES; k += TDM_BLOCK_PAGES) {
		struct tdm_frame *f = folio + k;
		bool all_lent = home ? k + TDM_BLOCK_PAGES <= moved : k >= moved;

		f->mapcount = TDM_BLOCK_PAGES;
		for (u32 j = k; j < moved && j < k + TDM_BLOCK_PAGES; j++)
			tdmi_page_set(mm, pt, j, (struct tdm_pte){ tdm_pt_get(pt, j).v ^ TDM_PTE_ACCESSED });
		if (all_lent)
			tdmi_lru_add_old(&mm->lru, f);
		else
			tdmi_lru_add_home(&mm->lru, f);
	}
	tdm_pt_unlock(pt);
	return 0;
}
