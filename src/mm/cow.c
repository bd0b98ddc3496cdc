/* SPDX-License-Identifier: MIT */
/*
 * cow.c - stores to memory that a fork's other side may share.
 *
 * The kernel copies such a page without asking anybody. Where the port can have a store wait, as for a page that is not there, copies can be made to wait for room:
 *   watch      of a memory that is all mapped a few pages here and there: whoever goes through it, or about in it, meets one soon
 *   watch all  everything
 *   pass       the store may go ahead, with its block of 64 KiB, or its leaf of 2 MiB
 * What is brought or moved later is not watched: it is no copy. Pages that a thread's end needs are never watched (keep.h): the kernel does not wait then.
 *
 * Watching takes no lock: it changes nothing but who is asked. Passing does: while a mapping that may be read only is writable for a moment (port/host_readonly.c),
 * with the table locked, a store to it must go on waiting. A folio that was put aside because it was shared is as any other from then on.
 */
#include "mm/mm.h"

#define VA_END ((u64)1 << 47)

/* The first page of the table at va that the port has; of a leaf of 2 MiB all. */
static bool some_page(struct tdm_ctx *ctx, u64 va, struct tdm_inv_range *r)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;
	bool found = false;

	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, va, false, &pt) && pt) {
		*r = TDM_INV_RANGE(va, va + TDM_HUGE_SIZE, TDM_INV_CLEAR);
		found = pt->level == 1 && tdm_pte_lent(tdm_pt_get(pt, tdm_pt_index(pt, va)));
		for (u32 i = 0; !found && !pt->level && i < TDM_PT_ENTRIES; i++) {
			u64 at = va + ((u64)i << TDM_PAGE_SHIFT);

			found = tdm_pte_lent(tdm_pt_get(pt, i)) && !(mm->keep && tdmi_keep_mask(mm->keep, TDM_ALIGN_DOWN(at, TDM_BLOCK_SIZE)));
			*r = found ? TDM_INV_RANGE(at, at + TDM_PAGE_SIZE, TDM_INV_CLEAR) : *r;
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return found;
}

static u64 next_table(struct tdm_ctx *ctx, u64 va)
{
	u64 next;

	tdmi_rcu_read_lock(ctx->rcu);
	next = tdmi_pt_next(&ctx->mm->pgt, va, VA_END);
	tdmi_rcu_read_unlock(ctx->rcu);
	return next;
}

void tdmi_cow_watch(struct tdm_ctx *ctx, u32 most)
{
	struct tdm_mm *mm = ctx->mm;
	u64 tables = tdm_a64_ld_relaxed(&mm->lent) / TDM_PT_ENTRIES, step = tables / most + 1, n = 0;

	if (!mm->port->ops->protect)
		return;
	for (u64 va = next_table(ctx, 0); va < VA_END; va = next_table(ctx, va + TDM_HUGE_SIZE)) {
		struct tdm_inv_range r;

		if (n++ % step == 0 && some_page(ctx, va, &r))
			(void)mm->port->ops->protect(mm->port, (struct tdm_va){ r.start }, r.end - r.start, true);
	}
}

/* Of one table's range what is in the VMA, without the blocks that must not wait. */
static void watch_part(struct tdm_mm *mm, u64 start, u64 end)
{
	for (u64 from = start, at = start; from < end; from = at = at + TDM_BLOCK_SIZE) {
		while (at < end && !(mm->keep && tdmi_keep_mask(mm->keep, TDM_ALIGN_DOWN(at, TDM_BLOCK_SIZE))))
			at = TDM_ALIGN_DOWN(at, TDM_BLOCK_SIZE) + TDM_BLOCK_SIZE;
		at = TDM_ALIGN_DOWN(at, TDM_BLOCK_SIZE);
		if (TDM_MIN(at, end) > from)
			(void)mm->port->ops->protect(mm->port, (struct tdm_va){ from }, TDM_MIN(at, end) - from, true);
	}
}

void tdmi_cow_watch_all(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;

	if (!mm->port->ops->protect)
		return;
	for (u64 va = next_table(ctx, 0); va < VA_END; va = next_table(ctx, va)) {
		u64 end = va + TDM_HUGE_SIZE;

		while (va < end) {
			struct tdm_vma v;
			bool is;

			tdmi_rcu_read_lock(ctx->rcu);
			is = tdmi_vma_next(&mm->vmas, va, &v) && v.start < end;
			tdmi_rcu_read_unlock(ctx->rcu);
			if (is && !(v.flags & TDM_VMA_EXCLUDED))
				watch_part(mm, TDM_MAX(va, v.start), TDM_MIN(end, v.end));
			va = is ? TDM_MIN(end, v.end) : end;
		}
	}
}

int tdmi_cow_pass(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_mm *mm = ctx->mm;
	u64 start = TDM_ALIGN_DOWN(va, TDM_BLOCK_SIZE), end = start + TDM_BLOCK_SIZE;
	struct tdm_pt *pt = NULL;
	struct tdm_vma v;
	int r;

	tdmi_rcu_read_lock(ctx->rcu);
	r = tdmi_pt_lock(&mm->pgt, va, true, &pt);
	if (!r) {
		if (tdmi_vma_find(&mm->vmas, va, &v) && !pt->level) {
			start = TDM_MAX(start, v.start);
			end = TDM_MIN(end, v.end);
		} else if (pt->level) {
			start = TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE);
			end = start + TDM_HUGE_SIZE;
		}
		r = mm->port->ops->protect(mm->port, (struct tdm_va){ start }, end - start, false);
		if (r && r != -EAGAIN)
			r = mm->port->ops->protect(mm->port, (struct tdm_va){ va }, TDM_PAGE_SIZE, false);
		if (!pt->level) {
			struct tdm_frame *folio = tdmi_block_folio(mm, pt, tdm_pt_index(pt, TDM_ALIGN_DOWN(va, TDM_BLOCK_SIZE)));

			if (folio)
				tdmi_folio_touched(mm, pt, tdm_pt_index(pt, TDM_ALIGN_DOWN(va, TDM_BLOCK_SIZE)), folio, TDM_LRU_TOUCHED);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return r;
}
