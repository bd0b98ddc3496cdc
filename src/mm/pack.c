/* SPDX-License-Identifier: MIT */
/*
 * pack.c - from home to somewhere else: into a blob of a tier, or to the memory of a device.
 *
 * No lock is held while the bytes are packed or copied: the folio, which the caller has isolated, is marked as under writeback, which keeps its homes where
 * they are (a fault copies from them instead of moving), and afterwards an entry is changed only if it still is what it was: a page that was
 * touched, unmapped or dropped meanwhile is taken out again. Whoever touches a page wins, and waits for nobody.
 *
 * Pages that came from a blob which was kept, and are what they were, become entries of that one again.
 */
#include <string.h>
#include "base/check.h"
#include "mm/mm.h"

/* The packed pages of a folio, from the moment that their entries were read. */
struct packing {
	struct tdm_frame *folio;
	u32 first;
	u32 mask;                          /* pages of the block that are being packed */
	struct tdm_pte pte[TDM_BLOCK_PAGES];
	const void *home[TDM_BLOCK_PAGES];
	u32 kept;                          /* the folio's; it gets it back, unless it dies meanwhile */
	bool same;                         /* they are what they were in that blob, and in the same places there */
	bool alone;                        /* this neighbourhood is used page by page */
	bool more;                         /* there are home pages that are not being packed */
	bool again;                        /* an event has kept pages from their places: later */
	bool full;                         /* there was memory of the device's for a part only */
	struct tdm_pool *pool;             /* or NULL: the tiers */
	struct tdm_frame *dev[TDM_BLOCK_PAGES]; /* the folios of the pool; all the same, or one a page */
};

static void pack_begin_locked(struct tdm_mm *mm, struct tdm_pt *pt, struct tdm_frame *folio, u32 only, struct packing *p)
{
	u8 *home = tdm_frame_home(&mm->frames, folio);

	p->first = tdm_pt_index(pt, folio->va);
	p->alone = !pt->order;
	p->mask = tdmi_folio_pages(mm, pt, p->first, folio, false);
	p->more = p->mask & ~only;
	p->mask &= only;
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		p->pte[k] = tdm_pt_get(pt, p->first + k);
		p->home[k] = home + ((size_t)k << TDM_PAGE_SHIFT);
	}
	if (p->mask) {
		folio->flags |= TDM_FRAME_F_WRITEBACK;
		p->kept = folio->kept;
		folio->kept = 0;
	}
}

static bool pack_begin(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, struct packing *p)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;

	*p = (struct packing){ .folio = folio };
	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, folio->va, false, &pt) && pt) {
		if (!pt->level)
			pack_begin_locked(mm, pt, folio, only, p);
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return p->mask != 0;
}

/* Store the pages. *handle: of the blob that has them now. 0, or -errno of the tiers. */
static int pack_store(struct tdm_ctx *ctx, struct packing *p, u64 *handle)
{
	struct tdm_swap *swap = ctx->mm->swap;
	const void *page[TDM_BLOCK_PAGES];
	u32 n = 0;

	*handle = p->kept - 1;
	p->same = p->kept && tdmi_swap_reuse(swap, ctx->ws, p->kept - 1, p->mask, p->home);
	if (p->same)
		return 0;
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (p->mask >> k & 1)
			page[n++] = p->home[k];
	return tdmi_swap_out(swap, ctx->ws, page, n, p->alone, handle);
}

static u32 dev_frame(const struct packing *p, u32 k)
{
	struct tdm_frame *d = p->dev[k];

	return tdm_frame_nr(&p->pool->frames, d) + (d->order ? k : 0);
}

static u64 page_va(const struct packing *p, u32 k)
{
	return p->folio->va + ((u64)k << TDM_PAGE_SHIFT);
}

/* The folios that no entry has come to name. The table lock is held, or nobody knows of them. */
static void dev_put_unused(struct packing *p)
{
	bool block = p->dev[0] && p->dev[0]->order;

	for (u32 k = 0; k < (block ? 1 : TDM_BLOCK_PAGES); k++)
		if (p->dev[k])
			tdmi_dev_put(p->pool, p->dev[k]);
}

/* Memory of the device: for a whole block in one piece if there is one; if it is not enough for all pages, for the first of them, and the others stay. */
static int dev_alloc(struct packing *p)
{
	struct tdm_frame *d = p->mask == 0xffff ? tdmi_dev_alloc(p->pool, TDM_BLOCK_ORDER, p->folio->va) : NULL;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		p->dev[k] = NULL;
		if (!(p->mask >> k & 1))
			continue;
		p->dev[k] = d ? d : p->full ? NULL : tdmi_dev_alloc(p->pool, 0, page_va(p, k));
		if (!p->dev[k]) {
			p->full = p->more = true;
			p->mask &= ~(1u << k);
		}
	}
	return p->mask ? 0 : -ENOSPC;
}

static int dev_store(struct packing *p)
{
	const struct tdm_pool_ops *ops = p->pool->ops;
	int r = dev_alloc(p), w;

	if (r)
		return r;
	for (u32 k = 0; k < TDM_BLOCK_PAGES && p->pool->coherent; k++)
		if (p->dev[k]) {
			p->dev[k]->flags |= TDM_FRAME_F_GIVEN;
			memcpy(tdmi_coherent_slot(p->pool, dev_frame(p, k)), p->home[k], TDM_PAGE_SIZE);
		}
	for (u32 k = 0, n; k < TDM_BLOCK_PAGES && !r && !p->pool->coherent; k += n) {
		for (n = 1; p->dev[k] && k + n < TDM_BLOCK_PAGES && p->dev[k + n] && dev_frame(p, k + n) == dev_frame(p, k) + n;)
			n++;
		for (u32 j = k; p->dev[k] && j < k + n; j++)
			p->dev[j]->flags |= TDM_FRAME_F_GIVEN;
		if (p->dev[k])
			r = ops->copy_in(p->pool, dev_frame(p, k), p->home[k], n);
	}
	w = ops->copy_wait && !p->pool->coherent ? ops->copy_wait(p->pool) : 0;
	r = r ? r : w;
	if (r)
		dev_put_unused(p);
	return r;
}

static struct tdm_pte packed_entry(const struct packing *p, u32 k, u64 handle, u32 index, u32 clock)
{
	if (p->pool && p->pool->coherent)
		return tdm_pte_mk_coherent(p->pool->id, dev_frame(p, k), false);
	return p->pool ? tdm_pte_mk_private(p->pool->id, dev_frame(p, k)) : tdm_pte_mk_swap(handle, index, clock);
}

/* One page, of which the mapping allows no move: a new one, which has to come from the pool's node, too. */
static int coherent_copy(struct tdm_ctx *ctx, const struct tdm_pool *pool, u64 va, void *slot, u32 *done)
{
	struct tdm_port *port = ctx->mm->port;
	int r;

	if (pool->node >= 0)
		plat_thread_node(pool->node);
	r = port->ops->fill_copy(port, (struct tdm_va){ va }, slot, 1, done);
	if (pool->node >= 0)
		plat_thread_node(-1);
	if (*done)
		port->ops->discard(port, &slot, done, 1);
	return r;
}

/* Coherent pages go from their slots to their addresses, as far as they still are what they were. Those that are there. The table lock is held. */
static u32 coherent_place(struct tdm_ctx *ctx, struct packing *p, struct tdm_pt *pt)
{
	struct tdm_port *port = ctx->mm->port;
	bool single = false;
	u32 placed = 0;

	for (u32 k = 0, n; k < TDM_BLOCK_PAGES; k += n) {
		u32 done = 0;
		int r = -EAGAIN;

		for (n = 0; k + n < TDM_BLOCK_PAGES && (p->mask >> (k + n) & 1) && tdm_pt_get(pt, p->first + k + n).v == p->pte[k + n].v &&
			    dev_frame(p, k + n) == dev_frame(p, k) + n;)
			n++;
		n = single ? TDM_MIN(n, 1u) : n;
		if (n && tdmi_fill_begin(ctx)) {
			void *slot = tdmi_coherent_slot(p->pool, dev_frame(p, k));

			r = port->ops->fill(port, (struct tdm_va){ page_va(p, k) }, slot, n, &done);
			/* A read-only mapping: by copy. */
			if (r == -EINVAL && n == 1)
				r = coherent_copy(ctx, p->pool, page_va(p, k), slot, &done);
			tdmi_fill_end(ctx);
		}
		placed |= ((1u << done) - 1) << k;
		for (u32 j = k; j < k + done; j++)
			tdmi_coherent_placed(ctx->mm, p->pool, dev_frame(p, j), page_va(p, j));
		if (n > 1 && (r == -EINVAL || r == -ENOENT)) {
			/* The run lies in two mappings, or in one that is read-only: page by page from here on. */
			single = true;
			n = done;
		} else if (n && r && r != -EINVAL && r != -ENOENT) {
			p->again = r == -EAGAIN;
			break;
		} else {
			n = n ? n : 1;
		}
	}
	return placed;
}

/* What was copied to slots, and stays out of use. */
static void coherent_discard(struct tdm_ctx *ctx, struct packing *p, u32 mask)
{
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (mask >> k & 1) {
			void *slot = tdmi_coherent_slot(p->pool, dev_frame(p, k));
			u32 one = 1;

			ctx->mm->port->ops->discard(ctx->mm->port, &slot, &one, 1);
		}
}

/* The device has them. */
static void dev_end(struct packing *p, u32 out)
{
	bool block = p->dev[0] && p->dev[0]->order;

	if (block && out)
		tdmi_dev_mapped(p->pool, p->dev[0]);
	for (u32 k = 0; k < TDM_BLOCK_PAGES && !block; k++)
		if (out >> k & 1)
			tdmi_dev_mapped(p->pool, p->dev[k]);
	tdm_a64_add_relaxed(&p->pool->moved_in, (u64)__builtin_popcount(out));
	dev_put_unused(p);
}

/* The pages are in the blob (r == 0), or are not: make the entries say so. Pages that were packed and are still what they were: a bit each.
 * pt: the table, locked; NULL: it is gone. *drop: what of the blob nobody wants; *kept: that blob, too, is nobody's. */
static u32 pack_end_locked(struct tdm_ctx *ctx, struct packing *p, struct tdm_pt *pt, u64 handle, int r, u32 *drop, u32 *kept)
{
	u32 clock = tdm_a32_ld_relaxed(&ctx->mm->lru.clock), index = 0, out = 0, stays = 0;
	struct tdm_pte to[TDM_BLOCK_PAGES];
	struct tdm_mm *mm = ctx->mm;

	*drop = 0;
	*kept = p->kept;
	if (p->pool && p->pool->coherent && !r)
		stays = p->mask & ~(pt ? coherent_place(ctx, p, pt) : 0);
	if (stays)
		coherent_discard(ctx, p, stays);
	for (u32 k = 0; !r && k < TDM_BLOCK_PAGES; k++) {
		u32 i = p->same ? k : index;

		if (!(p->mask >> k & 1))
			continue;
		if (!pt || (stays >> k & 1) || tdm_pt_get(pt, p->first + k).v != p->pte[k].v) {
			*drop |= 1u << i;
		} else {
			to[k] = packed_entry(p, k, handle, i, clock);
			if (p->pte[k].v & TDM_PTE_GUESS)
				tdmi_predict_guessed(&mm->predict, p->pte[k], false);
			out |= 1u << k;
		}
		index++;
	}
	if (out == 0xffff && p->pool && p->dev[0]->order)
		tdmi_pages_set(mm, pt, p->first, TDM_BLOCK_PAGES, to);
	else
		for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
			if (out >> k & 1)
				tdmi_page_set(mm, pt, p->first + k, to[k]);
	if (p->pool && !r)
		dev_end(p, out);
	p->folio->flags &= (u8)~TDM_FRAME_F_WRITEBACK;
	if (pt && p->folio->mapcount && !p->folio->kept) {
		p->folio->kept = *kept;
		*kept = 0;
	}
	if (out && !p->folio->mapcount)
		tdmi_folio_release(mm, p->folio, out); /* our isolation still holds it */
	else if (out)
		tdmi_homes_discard(mm, p->folio, out);
	return out;
}

/* The table of the folio, locked; NULL: it is gone, and every entry with it. */
static struct tdm_pt *lock_table(struct tdm_mm *mm, u64 va)
{
	struct tdm_pt *pt;

	if (tdmi_pt_lock(&mm->pgt, va, false, &pt) || !pt || !pt->level)
		return pt;
	tdm_pt_unlock(pt);
	return NULL;
}

static void pack_after(struct tdm_ctx *ctx, const struct packing *p, u64 handle, u32 drop, u32 kept)
{
	if (drop)
		tdm_count(ctx, TDM_C_COMPLETED_ELSEWHERE, (u64)__builtin_popcount(drop));
	if (drop && !p->pool)
		tdmi_swap_drop(ctx->mm->swap, handle, drop);
	if (kept)
		tdmi_swap_forget(ctx->mm->swap, kept - 1);
}

static u32 pack_end(struct tdm_ctx *ctx, struct packing *p, u64 handle, int r)
{
	u32 out, drop, kept;
	struct tdm_pt *pt;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = lock_table(ctx->mm, p->folio->va);
	out = pack_end_locked(ctx, p, pt, handle, r, &drop, &kept);
	if (pt)
		tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(ctx->rcu);
	pack_after(ctx, p, handle, drop, kept);
	return (u32)__builtin_popcount(out);
}

/* ---- blocks in a row, to a device ------------------------------------------------------------------------------------------- */

/* Whole blocks that are home, side by side, from va on; isolated, and under writeback. How many. */
static u32 many_begin(struct tdm_ctx *ctx, u64 va, u32 most, struct tdm_pool *pool, struct packing *p)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;
	u32 n = 0;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = lock_table(mm, va);
	for (; pt && n < most; n++) {
		u32 first = tdm_pt_index(pt, va) + n * TDM_BLOCK_PAGES;
		struct tdm_frame *f = tdmi_block_folio(mm, pt, first);

		if (!f || (n && f != p[n - 1].folio + TDM_BLOCK_PAGES) || (f->flags & TDM_FRAME_F_WRITEBACK) ||
		    tdmi_folio_pages(mm, pt, first, f, false) != 0xffff || !tdmi_lru_isolate(&mm->lru, f))
			break;
		p[n].folio = f;
		p[n].pool = pool;
		p[n].same = false;
		pack_begin_locked(mm, pt, f, 0xffff, &p[n]);
	}
	if (pt)
		tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(ctx->rcu);
	return n;
}

/* Copy the first n. What is contiguous there, too, goes by one call. */
static int many_store(struct packing *p, u32 n)
{
	struct tdm_pool *pool = p->pool;
	int r = 0, w;

	for (u32 i = 0, run; i < n && !r; i += run) {
		for (run = 1; i + run < n && p[i + run].dev[0] == p[i].dev[0] + run * TDM_BLOCK_PAGES;)
			run++;
		for (u32 j = i; j < i + run; j++)
			p[j].dev[0]->flags |= TDM_FRAME_F_GIVEN;
		r = pool->ops->copy_in(pool, tdm_frame_nr(&pool->frames, p[i].dev[0]), p[i].home[0], run * TDM_BLOCK_PAGES);
	}
	w = pool->ops->copy_wait ? pool->ops->copy_wait(pool) : 0;
	return r ? r : w;
}

static u32 many_end(struct tdm_ctx *ctx, struct packing *p, u32 n, u32 stored, int r)
{
	struct tdm_mm *mm = ctx->mm;
	u32 drop[TDM_PACK_MANY], kept[TDM_PACK_MANY], out = 0;
	struct tdm_pt *pt;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = lock_table(mm, p->folio->va);
	for (u32 i = 0; i < n; i++) {
		if (i < stored && r)
			dev_put_unused(&p[i]);
		out += (u32)__builtin_popcount(pack_end_locked(ctx, &p[i], pt, 0, i < stored ? r : -ENOSPC, &drop[i], &kept[i]));
	}
	if (pt)
		tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(ctx->rcu);
	/* The last one first: so the warm cache gives them out in order. */
	for (u32 i = n; i--;) {
		pack_after(ctx, &p[i], 0, drop[i], kept[i]);
		(void)tdmi_folio_putback(mm, p[i].folio, i >= stored || r ? TDM_LRU_TO_HOME : TDM_LRU_TO_YOUNG);
	}
	return out;
}

int tdmi_pack_many(struct tdm_ctx *ctx, u64 va, u32 most, struct tdm_pool *pool, u32 *blocks)
{
	struct packing p[TDM_PACK_MANY];
	u32 n, stored = 0, out;
	int r = 0;

	*blocks = 0;
	n = many_begin(ctx, va, TDM_MIN(most, TDM_PACK_MANY), pool, p);
	/* Pieces of memory that are no blocks are for single ones. */
	while (stored < n && (p[stored].dev[0] = tdmi_dev_alloc(pool, TDM_BLOCK_ORDER, p[stored].folio->va))) {
		for (u32 k = 1; k < TDM_BLOCK_PAGES; k++)
			p[stored].dev[k] = p[stored].dev[0];
		stored++;
	}
	if (stored)
		r = many_store(p, stored);
	if (!n)
		return 0;
	out = many_end(ctx, p, n, stored, r);
	*blocks = r ? 0 : stored;
	return r ? r : (int)out;
}

/* A 2 MiB folio on probation was not touched: it is packed as 32 blocks. true: they are on the list now. */
bool tdmi_split_home(struct tdm_ctx *ctx, struct tdm_frame *folio)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pmd;
	bool split = false, ours = false;

	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, folio->va, false, &pmd) && pmd) {
		u32 i = tdm_pt_index(pmd, folio->va);
		struct tdm_pte pte = tdm_pt_get(pmd, i);

		ours = pmd->level == 1 && tdm_pte_home(pte) && tdm_pfn_frame(&mm->frames, tdm_pte_pfn(pte)) == folio;
		if (ours)
			split = tdmi_huge_split(mm, pmd, i, 0, NULL) == 0;
		tdm_pt_unlock(pmd);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	if (!ours)
		(void)tdmi_folio_putback(mm, folio, TDM_LRU_TO_YOUNG);
	return split;
}

int tdmi_pack_folio(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, struct tdm_pool *pool, u64 *pages, bool *again)
{
	struct tdm_mm *mm = ctx->mm;
	struct packing p;
	u64 handle = 0;
	u32 n;
	int r;

	*pages = 0;
	*again = false;
	if (!pack_begin(ctx, folio, only, &p)) {
		(void)tdmi_folio_putback(mm, folio, p.more ? TDM_LRU_TO_HOME : TDM_LRU_TO_YOUNG);
		return 0;
	}
	p.pool = pool;
	r = pool ? dev_store(&p) : pack_store(ctx, &p, &handle);
	n = pack_end(ctx, &p, handle, r);
	*again = p.again;
	*pages = n;
	(void)tdmi_folio_putback(mm, folio, r || p.more ? TDM_LRU_TO_HOME : TDM_LRU_TO_YOUNG);
	if (!pool) {
		tdm_count(ctx, TDM_C_EVICTED_PAGES, n);
		tdm_a32_st_relaxed(&mm->full, r != 0);
	}
	return r ? r : p.full ? -ENOSPC : 0;
}
