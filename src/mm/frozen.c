/* SPDX-License-Identifier: MIT */
/*
 * frozen.c - look, but change nothing.
 *
 * For the time of a fork the engine stands still, so that the child inherits a state in which nothing is half done; but the program does not stand
 * still, and may hold a lock that fork waits for while it waits for a page. Its faults are served from what the table says, without the
 * table being told. Such a page is then with the port while its entry says home or out. That is harmless: nothing takes a page
 * that is not lent, and a restore that finds the port to have one already believes the port (fault_fill.c, -EEXIST). tdmi_settle() tells the
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
	if (tdm_pte_at_home(pte)) {
		*bytes = tdm_frame_home(&mm->frames, tdm_pfn_frame(&mm->frames, (struct tdm_pfn){ tdm_pte_ram_pfn(pte).v + huge_offset }));
		return 0;
	}
	if (tdm_pte_is(pte, TDM_PTE_T_PRIVATE)) {
		*bytes = ctx->bounce;
		return tdmi_dev_read(mm, &pte, (void *const[]){ ctx->bounce }, 1);
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
	pt = tdmi_pt_walk(&ctx->mm->pgt, va, &i, &pte);
	r = bytes_of(ctx, pte, pt->level == 1 ? (u32)(va >> TDM_PAGE_SHIFT) & (TDM_HUGE_PAGES - 1) : 0, bytes);
	tdmi_rcu_read_unlock(ctx->rcu);
	return r;
}

/* The entry of the page at va: pt is its table, or has the leaf, and then the pfn is that of its own page. */
static struct tdm_pte entry(struct tdm_pt *pt, u64 va, u32 *huge_offset)
{
	u32 k = (u32)(va >> TDM_PAGE_SHIFT) & (TDM_HUGE_PAGES - 1);

	*huge_offset = pt->level ? k : 0;
	return tdm_pt_get(pt, pt->level ? tdm_pt_index(pt, va) : k);
}

/* How many pages from va on lie side by side: in homes, or in one blob. */
static u32 run(struct tdm_pt *pt, u64 va, u64 end, struct tdm_pte pte)
{
	u32 first_offset, offset, n = 1;
	bool home = tdm_pte_home(pte);

	(void)entry(pt, va, &first_offset);
	for (; n < TDM_BLOCK_PAGES && va + ((u64)n << TDM_PAGE_SHIFT) < end; n++) {
		struct tdm_pte e = entry(pt, va + ((u64)n << TDM_PAGE_SHIFT), &offset);

		if (home ? !tdm_pte_home(e) || tdm_pte_pfn(e).v + offset != tdm_pte_pfn(pte).v + first_offset + n :
			   !tdm_pte_is(e, TDM_PTE_T_SWAP) || tdm_pte_swap_handle(e) != tdm_pte_swap_handle(pte) ||
				   tdm_pte_swap_index(e) != tdm_pte_swap_index(pte) + n)
			break;
	}
	return n;
}

static int bytes_of_run(struct tdm_ctx *ctx, struct tdm_pte pte, u32 huge_offset, u32 n, const void **bytes)
{
	u32 first = tdm_pte_swap_index(pte);
	void *dst[TDM_BLOCK_PAGES];

	if (n == 1 || tdm_pte_home(pte))
		return bytes_of(ctx, pte, huge_offset, bytes);
	for (u32 k = 0; k < n; k++)
		dst[first + k] = ctx->bounce + ((size_t)k << TDM_PAGE_SHIFT);
	*bytes = ctx->bounce;
	return tdmi_swap_in(ctx->mm->swap, ctx->ws, tdm_pte_swap_handle(pte), ((1u << n) - 1) << first, dst);
}

/* [va, end) of the 2 MiB of which pt is the table or has the leaf; locked. */
static int walk_table(struct tdm_ctx *ctx, struct tdm_pt *pt, u64 va, u64 end, tdm_frozen_fn *fn, void *arg)
{
	int r = 0;
	u32 n;

	for (; va < end && !r; va += (u64)n << TDM_PAGE_SHIFT) {
		u32 offset;
		struct tdm_pte pte = entry(pt, va, &offset);
		const void *bytes;

		n = 1;
		if (!tdm_pte_at_home(pte) && !tdm_pte_is(pte, TDM_PTE_T_SWAP) && !tdm_pte_is(pte, TDM_PTE_T_PRIVATE))
			continue;
		if (tdm_pte_home(pte) || tdm_pte_is(pte, TDM_PTE_T_SWAP))
			n = run(pt, va, end, pte);
		r = bytes_of_run(ctx, pte, offset, n, &bytes);
		if (!r)
			r = fn(arg, va, n, bytes);
	}
	return r;
}

int tdmi_frozen_walk(struct tdm_ctx *ctx, u64 start, u64 end, tdm_frozen_fn *fn, void *arg)
{
	int r = 0;

	tdmi_rcu_read_lock(ctx->rcu);
	for (u64 va = tdmi_pt_next(&ctx->mm->pgt, start, end), next; va < end && !r; va = tdmi_pt_next(&ctx->mm->pgt, next, end)) {
		struct tdm_pt *pt;

		next = TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE;
		if (tdmi_pt_lock(&ctx->mm->pgt, va, false, &pt) || !pt)
			continue;
		r = walk_table(ctx, pt, TDM_MAX(va, start), TDM_MIN(next, end), fn, arg);
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
