/* SPDX-License-Identifier: MIT */
/*
 * exclusive.c - a device has a page for itself: for atomics that its bus does not have, say.
 *
 * A mode of one mapping of a page of ram, not a kind of memory. The page is taken home in a round of its own (TDM_INV_EXCLUSIVE, by which its owner knows it),
 * and its entry says so: whoever else touches it, a CPU or another device, faults, and takes it back in a round that the owner hears of (fault_block.c). Reclaim does
 * not see it; munmap() and madvise() end it as they end any other page.
 *
 * A page that is a device's already is not brought back for it: the round tells the others that it is not theirs, and the owner, who asks again because something
 * else has changed meanwhile, keeps it. Otherwise asking would be what changes it, and who asks until nothing changes would do so for ever.
 */
#include "base/check.h"
#include "mm/mm.h"

const void *tdmi_exclusive_owner(struct tdm_mm *mm, struct tdm_pte pte)
{
	return tdm_aptr_ld_acquire(&mm->exclusive_owner[tdm_pte_payload(pte) >> 40]);
}

/* The owner's number, which it keeps. -ENOSPC. */
static int owner_number(struct tdm_mm *mm, const void *owner)
{
	for (u32 i = 0; i < TDM_EXCLUSIVE_OWNERS; i++) {
		void *was = NULL;

		if (tdm_aptr_cas_acqrel(&mm->exclusive_owner[i], &was, (void *)(uintptr_t)owner) || was == owner)
			return (int)i;
	}
	return -ENOSPC;
}

static bool is_exclusive(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_pte pte;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	(void)tdmi_pt_walk(&ctx->mm->pgt, va, &i, &pte);
	tdmi_rcu_read_unlock(ctx->rcu);
	return tdm_pte_is(pte, TDM_PTE_T_EXCLUSIVE);
}

/* The page at va is home, or another device's: from now on this one's. NULL: it is not home any more. */
static void *take_over(struct tdm_ctx *ctx, u64 va, u32 owner)
{
	struct tdm_mm *mm = ctx->mm;
	void *home = NULL;
	struct tdm_pt *pt;

	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, va, false, &pt) && pt) {
		u32 i = tdm_pt_index(pt, va);
		struct tdm_pte pte = tdm_pt_get(pt, i);

		if (!pt->level && tdm_pte_at_home(pte)) {
			struct tdm_frame *frame = tdm_pfn_frame(&mm->frames, tdm_pte_ram_pfn(pte));

			/* While it is packed or copied: its entry could come to look again as it did when that began, with other bytes behind it. */
			if (!(tdm_pfn_block(&mm->frames, tdm_pte_ram_pfn(pte))->flags & TDM_FRAME_F_WRITEBACK))
				home = tdm_frame_home(&mm->frames, frame);
			if (home && mm->port->ops->holds && !mm->port->ops->holds(mm->port, home))
				home = NULL;
		}
		if (home)
			tdmi_page_set(mm, pt, i, tdm_pte_mk_exclusive(owner, tdm_pte_ram_pfn(pte)));
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return home;
}

/* May somebody write there, and does the engine manage it? */
static int check(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_port *port = ctx->mm->port;
	struct tdm_port_mapping m;
	struct tdm_vma vma;
	bool managed;
	int r = port->ops->mapping(port, va, &m);

	if (r || m.start > va)
		return r && r != -ENOENT ? r : -EFAULT;
	if (!m.writable)
		return m.readable ? -EPERM : -EFAULT;
	tdmi_rcu_read_lock(ctx->rcu);
	managed = tdmi_vma_find(&ctx->mm->vmas, va, &vma) && !(vma.flags & TDM_VMA_EXCLUDED);
	tdmi_rcu_read_unlock(ctx->rcu);
	return managed ? 0 : -EOPNOTSUPP;
}

static void *make_one(struct tdm_ctx *ctx, u64 va, const void *owner, u32 number)
{
	struct tdm_inv_range round = TDM_INV_RANGE(va, va + TDM_PAGE_SIZE, TDM_INV_EXCLUSIVE);
	void *home;
	u64 n;

	round.owner = owner;
	(void)tdmi_invalidate_start(&ctx->mm->notifiers, &round);
	ctx->round = &round;
	(void)tdmi_range_home(ctx, va, va + TDM_PAGE_SIZE, &n);
	home = take_over(ctx, va, number);
	ctx->round = NULL;
	tdmi_invalidate_end(&ctx->mm->notifiers, &round);
	return home;
}

int tdmi_make_exclusive(struct tdm_ctx *ctx, u64 start, u64 end, const void *owner, void **home, u64 *pages)
{
	int number;

	*pages = 0;
	if (start >= end || (start | end) & ~TDM_PAGE_MASK || end > (u64)1 << 47 || !owner)
		return -EINVAL;
	number = owner_number(ctx->mm, owner);
	if (number < 0)
		return number;
	TDM_BUG_ON(ctx->round);
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE) {
		void **h = &home[(va - start) >> TDM_PAGE_SHIFT];
		int r = check(ctx, va);

		if (r)
			return r;
		if (!is_exclusive(ctx, va)) {
			u64 n;

			r = tdmi_fault_try(ctx, (struct tdm_va){ va }, true);
			r = r ? r : tdmi_coherent_home(ctx, va, va + TDM_PAGE_SIZE, &n);
			if (r == -ENOMEM)
				return r;
		}
		*h = make_one(ctx, va, owner, (u32)number);
		*pages += *h != NULL;
	}
	return 0;
}
