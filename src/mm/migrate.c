/* SPDX-License-Identifier: MIT */
/*
 * migrate.c - to the memory of a device.
 *
 * The way there is that of reclaim, with another end: collected and unmapped by being taken home, copied with no lock held, and finalized only where the
 * entry still is what it was (pack.c; a folio of 2 MiB here). A page that could not be taken, or that somebody has touched since, is where it was. The way back
 * is a fault (migrate_to_ram.c), or the eviction of the device's memory (devmem.c).
 *
 * A folio of 2 MiB goes as one. While it is being copied it is under writeback, and stays where it is; whoever needs it, or a part of it, says so in the entry, at
 * which the copier looks after each block, and gives up. Its pages become 512 entries of a table of their own: any of them may leave alone.
 */
#include "base/check.h"
#include "mm/mm.h"

/* The PMD table, locked, if the leaf for the folio is this one. */
static struct tdm_pt *lock_leaf(struct tdm_mm *mm, const struct tdm_frame *folio, u32 *i)
{
	struct tdm_pt *pmd;

	if (tdmi_pt_lock(&mm->pgt, folio->va, false, &pmd) || !pmd)
		return NULL;
	*i = tdm_pt_index(pmd, folio->va);
	if (pmd->level == 1 && tdm_pte_home(tdm_pt_get(pmd, *i)) && tdm_pfn_frame(&mm->frames, tdm_pte_pfn(tdm_pt_get(pmd, *i))) == folio)
		return pmd;
	tdm_pt_unlock(pmd);
	return NULL;
}

/* From here on the homes stay where they are. false: it is not home. */
static bool begin(struct tdm_ctx *ctx, struct tdm_frame *folio, struct tdm_pte *pte)
{
	struct tdm_pt *pmd;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pmd = lock_leaf(ctx->mm, folio, &i);
	if (pmd) {
		*pte = (struct tdm_pte){ tdm_pt_get(pmd, i).v & ~TDM_PTE_WANTED };
		tdm_pt_set(pmd, i, *pte);
		folio->flags |= TDM_FRAME_F_WRITEBACK;
		tdm_pt_unlock(pmd);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return pmd;
}

static bool still(struct tdm_ctx *ctx, u64 va, struct tdm_pte pte)
{
	struct tdm_pte now;
	u32 i, level;

	tdmi_rcu_read_lock(ctx->rcu);
	level = tdmi_pt_walk(&ctx->mm->pgt, va, &i, &now)->level;
	tdmi_rcu_read_unlock(ctx->rcu);
	return level == 1 && now.v == pte.v;
}

/* 0; -EAGAIN: somebody needs it. */
static int copy(struct tdm_ctx *ctx, struct tdm_pool *pool, struct tdm_frame *dev, const struct tdm_frame *folio, struct tdm_pte pte)
{
	const u8 *home = tdm_frame_home(&ctx->mm->frames, folio);
	u32 nr = tdm_frame_nr(&pool->frames, dev);
	int r = 0, w;

	dev->flags |= TDM_FRAME_F_GIVEN;
	for (u32 k = 0; k < TDM_HUGE_PAGES && !r; k += TDM_BLOCK_PAGES) {
		if (!still(ctx, folio->va, pte))
			r = -EAGAIN;
		else
			r = pool->ops->copy_in(pool, nr + k, home + ((size_t)k << TDM_PAGE_SHIFT), TDM_BLOCK_PAGES);
	}
	w = pool->ops->copy_wait ? pool->ops->copy_wait(pool) : 0;
	return r ? r : w;
}

/* true: the device has them. */
static bool end(struct tdm_ctx *ctx, struct tdm_pool *pool, struct tdm_frame *dev, struct tdm_frame *folio, struct tdm_pte pte, struct tdm_pt *spare, bool copied)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pmd;
	bool done;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	/* Also if it is mapped no more: who has unmapped it may not be done with it. */
	pmd = tdmi_pt_pmd(&mm->pgt, folio->va);
	plat_mutex_lock(&pmd->lock);
	i = tdm_pt_index(pmd, folio->va);
	done = copied && tdm_pt_get(pmd, i).v == pte.v;
	if (done) {
		tdmi_huge_to_private(mm, pmd, i, spare, pool, dev);
		tdmi_dev_mapped(pool, dev);
		tdm_a64_add_relaxed(&pool->moved_in, TDM_HUGE_PAGES);
		tdmi_huge_stale(mm, folio);
		tdmi_folio_release(mm, folio, 0); /* our isolation still holds it */
	}
	folio->flags &= (u8)~TDM_FRAME_F_WRITEBACK;
	tdm_pt_unlock(pmd);
	tdmi_rcu_read_unlock(ctx->rcu);
	return done;
}

int tdmi_migrate_huge(struct tdm_ctx *ctx, struct tdm_frame *folio, struct tdm_pool *pool, bool *tried)
{
	struct tdm_mm *mm = ctx->mm;
	/* Coherent memory is mapped where it is: by blocks. */
	struct tdm_frame *dev = pool->coherent ? NULL : tdmi_dev_alloc(pool, TDM_HUGE_ORDER, folio->va);
	struct tdm_pt *spare = dev ? tdmi_pt_spare(&mm->pgt, folio->va) : NULL;
	bool begun, done = false;
	struct tdm_pte pte;
	int r = -EAGAIN;

	*tried = spare != NULL;
	if (!spare) {
		if (dev)
			tdmi_dev_put(pool, dev);
		return 0;
	}
	begun = begin(ctx, folio, &pte);
	if (begun) {
		r = copy(ctx, pool, dev, folio, pte);
		done = end(ctx, pool, dev, folio, pte, spare, !r);
	}
	if (!done) {
		tdmi_dev_put(pool, dev);
		tdmi_pt_spare_free(&mm->pgt, spare);
	}
	(void)tdmi_folio_putback(mm, folio, begun ? TDM_LRU_TO_HOME : TDM_LRU_TO_YOUNG);
	return done ? (int)TDM_HUGE_PAGES : r == -EAGAIN ? 0 : r;
}

int tdmi_migrate_to_device(struct tdm_ctx *ctx, struct tdm_pool *pool, u64 start, u64 end, u64 *pages)
{
	struct tdm_inv_range round = TDM_INV_RANGE(start, end, TDM_INV_CLEAR);
	int r;

	/* One for all of it. A copy is none: nobody has what is home. */
	(void)tdmi_invalidate_start(&ctx->mm->notifiers, &round);
	ctx->round = &round;
	r = tdmi_range_home(ctx, start, end, pages);
	ctx->round = NULL;
	tdmi_invalidate_end(&ctx->mm->notifiers, &round);
	*pages = 0;
	return r ? r : tdmi_range_pack(ctx, start, end, pool, pages);
}
