/* SPDX-License-Identifier: MIT */
/*
 * frozen.c - look, but change nothing.
 *
 * For the time of a fork the engine stands still, so that the child inherits a state in which nothing is half done; but the program does not stand
 * still, and may hold a lock that fork waits for while it waits for a page. Its faults are served from what the table says, without the
 * table being told. Such a page is then with the port while its entry says home or out. That is harmless: nothing takes a page
 * that is not lent, and a restore that finds the port to have one already believes the port (fault.c, -EEXIST). tdmi_settle() tells the
 * table afterwards.
 */
#include "base/check.h"
#include "mm/mm.h"

static int bytes_of(struct tdm_ctx *ctx, struct tdm_pte pte, u32 huge_offset, const void **bytes)
{
	struct tdm_mm *mm = ctx->mm;
	void *dst[TDM_BLOCK_PAGES];
	u32 i;

	*bytes = NULL;
	if (tdm_pte_lent(pte))
		return 0;
	if (tdm_pte_home(pte)) {
		*bytes = tdm_frame_home(&mm->frames, tdm_pfn_frame(&mm->frames, (struct tdm_pfn){ tdm_pte_pfn(pte).v + huge_offset }));
		return 0;
	}
	if (!tdm_pte_is(pte, TDM_PTE_T_SWAP)) {
		*bytes = mm->zeros;
		return 0;
	}
	i = tdm_pte_swap_index(pte);
	dst[i] = ctx->bounce;
	*bytes = ctx->bounce;
	return tdmi_swap_in(mm->swap, ctx->ws, tdm_pte_swap_handle(pte), 1u << i, dst);
}

int tdmi_frozen_page(struct tdm_ctx *ctx, u64 va, const void **bytes)
{
	struct tdm_pte pte;
	struct tdm_pt *pt;
	int r;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(ctx->mm, va, &i, &pte);
	r = bytes_of(ctx, pte, pt->level == 1 ? (u32)(va >> TDM_PAGE_SHIFT) & (TDM_HUGE_PAGES - 1) : 0, bytes);
	tdmi_rcu_read_unlock(ctx->rcu);
	return r;
}

/* The 2 MiB at va, of which pt is the table or has the leaf; locked. */
static int walk_table(struct tdm_ctx *ctx, struct tdm_pt *pt, u64 va, int (*fn)(void *arg, u64 va, const void *bytes), void *arg)
{
	int r = 0;

	for (u32 k = 0; k < TDM_HUGE_PAGES && !r; k++) {
		struct tdm_pte pte = tdm_pt_get(pt, pt->level ? tdm_pt_index(pt, va) : k);
		const void *bytes;

		if (!tdm_pte_home(pte) && !tdm_pte_is(pte, TDM_PTE_T_SWAP))
			continue;
		r = bytes_of(ctx, pte, pt->level ? k : 0, &bytes);
		if (!r && bytes)
			r = fn(arg, va + ((u64)k << TDM_PAGE_SHIFT), bytes);
	}
	return r;
}

int tdmi_frozen_walk(struct tdm_ctx *ctx, int (*fn)(void *arg, u64 va, const void *bytes), void *arg)
{
	const u64 end = (u64)1 << 47;
	int r = 0;

	tdmi_rcu_read_lock(ctx->rcu);
	for (u64 va = tdmi_pt_next(ctx->mm, 0, end); va < end && !r; va = tdmi_pt_next(ctx->mm, va + TDM_HUGE_SIZE, end)) {
		struct tdm_pt *pt;

		if (tdmi_pt_lock(ctx->mm, va, false, &pt) || !pt)
			continue;
		r = walk_table(ctx, pt, va, fn, arg);
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return r;
}

void tdmi_settle(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_mm *mm = ctx->mm;
	u64 present = 0;
	bool huge;

	if (mm->port->ops->present(mm->port, (struct tdm_va){ va }, 1, &present, &huge) || !(present & 1))
		return;
	/* What the engine holds of it is old. */
	tdmi_zap_entry(ctx, va);
	(void)tdmi_adopt(ctx, va, va + TDM_PAGE_SIZE);
}
