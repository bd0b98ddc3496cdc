/* SPDX-License-Identifier: MIT */
/*
 * adopt.c - make memory known that the port serves already and that has pages.
 *
 * A page that is present and of which the table says nothing gets a frame that is lent: its home is an empty slot. The event lock is held: since the
 * range was given to the port no page of it can have come or gone without us, but by events that we have not read.
 */
#include "base/check.h"
#include "mm/mm.h"

static int adopt_huge(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_frame *folio;
	struct tdm_pt *pmd;
	u32 i;
	int r = tdmi_pt_lock_pmd(&mm->pgt, va, &pmd);

	if (r)
		return r;
	i = tdm_pt_index(pmd, va);
	r = -EEXIST;
	if (pmd->level == 1 && tdm_pte_none(tdm_pt_get(pmd, i))) {
		folio = tdmi_folio_alloc(&mm->frames, TDM_HUGE_ORDER, false, NULL);
		/* No 2 MiB of homes in one piece: by blocks. */
		r = folio ? 0 : -EEXIST;
		if (folio) {
			folio->va = va;
			tdmi_page_set(mm, pmd, i, tdm_pte_mk(tdm_frame_pfn(&mm->frames, folio), TDM_PTE_WRITE | TDM_PTE_ACCESSED));
			tdmi_lru_add(&mm->lru, folio, TDM_LRU_ADOPTED);
		}
	}
	tdm_pt_unlock(pmd);
	return r;
}

static int adopt_block(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, u32 mask)
{
	struct tdm_frame *folio = NULL;
	bool warm, fresh = false;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		if (!(mask >> k & 1) || !tdm_pte_none(tdm_pt_get(pt, first + k)))
			continue;
		if (!folio) {
			fresh = tdmi_block_folio(mm, pt, first) == NULL;
			folio = tdmi_block_folio_get(mm, pt, first, false, &warm);
		}
		if (!folio)
			return -ENOMEM;
		tdmi_page_set(mm, pt, first + k,
			      tdm_pte_mk((struct tdm_pfn){ tdm_frame_pfn(&mm->frames, folio).v + k }, TDM_PTE_WRITE | TDM_PTE_ACCESSED));
	}
	if (fresh)
		tdmi_lru_add(&mm->lru, folio, TDM_LRU_ADOPTED);
	return 0;
}

static int adopt_table(struct tdm_ctx *ctx, u64 va, u64 end)
{
	u64 present[TDM_HUGE_PAGES / 64] = { 0 };
	u32 n = (u32)((end - va) >> TDM_PAGE_SHIFT), lo;
	struct tdm_mm *mm = ctx->mm;
	bool huge = false, any = false;
	struct tdm_pt *pt;
	int r = mm->port->ops->present(mm->port, (struct tdm_va){ va }, n, present, &huge);

	if (r)
		return r;
	for (u32 i = 0; i < TDM_ARRAY_SIZE(present); i++)
		any = any || present[i];
	if (!any)
		return 0;
	if (huge && n == TDM_HUGE_PAGES) {
		r = adopt_huge(ctx, va);
		if (r != -EEXIST)
			return r;
	}
	r = tdmi_pt_lock(&mm->pgt, va, true, &pt);
	if (r)
		return r;
	lo = tdm_pt_index(pt, va);
	for (u32 f = lo & ~(TDM_BLOCK_PAGES - 1); !pt->level && !r && f < lo + n; f += TDM_BLOCK_PAGES) {
		u32 mask = 0;

		for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
			u32 bit = f + k - lo;

			if (f + k >= lo && bit < n && (present[bit / 64] >> (bit % 64) & 1))
				mask |= 1u << k;
		}
		r = adopt_block(mm, pt, f, mask);
	}
	tdm_pt_unlock(pt);
	return r;
}

int tdmi_adopt(struct tdm_ctx *ctx, u64 start, u64 end)
{
	int r = 0;

	for (u64 va = start, stop; va < end && !r; va = stop) {
		va = ctx->mm->port->ops->next_present(ctx->mm->port, va, end);
		if (va >= end)
			break;
		va = TDM_MAX(start, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE));
		stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		tdmi_rcu_read_lock(ctx->rcu);
		r = adopt_table(ctx, va, stop);
		tdmi_rcu_read_unlock(ctx->rcu);
		if (r == -ENOENT)
			r = 0;
	}
	return r;
}
