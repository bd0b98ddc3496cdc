/* SPDX-License-Identifier: MIT */
/*
 * devmem.c - the frames of device private memory, and their way home.
 *
 * Everything about a folio that is mapped is under the lock of the table that maps it. Eviction begins at the other end: it isolates the folio, reads its
 * va, locks the table for it, and looks whether entries there still name it. If they do not, the folio has been freed or moved, and the isolation
 * is all that holds it. The device's page table is told by a round around it. So no driver's lock, and no lock of the pool's, is held around the migration.
 */
#include "mm/devmem.h"
#include "base/check.h"
#include "mm/gup.h"
#include "mm/mm.h"

#define OFFLINE_RETRY_NS ((u64)200000)

int tdmi_pool_init_coherent(struct tdm_pool *p, const struct tdm_pool_ops *ops, void *arg, const void *owner, u32 nframes)
{
	int r = tdmi_pool_init(p, ops, arg, owner, nframes);

	p->coherent = true;
	return r;
}

int tdmi_pool_init(struct tdm_pool *p, const struct tdm_pool_ops *ops, void *arg, const void *owner, u32 nframes)
{
	int r = tdmi_frames_init(&p->frames, NULL, nframes);

	if (r)
		return r;
	tdmi_lru_init(&p->lru, &p->frames);
	p->ops = ops;
	p->arg = arg;
	p->owner = owner;
	p->mm = NULL;
	p->id = 0;
	p->coherent = false;
	tdm_a32_st_relaxed(&p->fail_alloc, 0);
	p->slot = NULL;
	p->node = -1;
	tdm_a64_st_relaxed(&p->copied, 0);
	tdm_a64_st_relaxed(&p->pages, 0);
	tdm_a64_st_relaxed(&p->moved_in, 0);
	tdm_a64_st_relaxed(&p->moved_out, 0);
	return 0;
}

void tdmi_pool_destroy(struct tdm_pool *p)
{
	TDM_BUG_ON(p->mm != NULL);
	tdmi_frames_destroy(&p->frames);
}

int tdmi_pool_attach(struct tdm_mm *mm, struct tdm_pool *p)
{
	TDM_BUG_ON(p->mm != NULL);
	for (u32 i = 0; i < TDM_POOLS_MAX; i++)
		if (!mm->pool[i]) {
			int r = p->coherent ? tdmi_coherent_attach(mm, p) : 0;

			if (r)
				return r;
			p->mm = mm;
			p->id = i;
			mm->pool[i] = p;
			return 0;
		}
	return -ENOSPC;
}

int tdmi_pool_detach(struct tdm_pool *p)
{
	if (tdm_a64_ld_relaxed(&p->pages))
		return -EBUSY;
	if (p->coherent)
		tdmi_coherent_detach(p->mm, p);
	p->mm->pool[p->id] = NULL;
	p->mm = NULL;
	return 0;
}

struct tdm_pool *tdmi_pte_pool(struct tdm_mm *mm, struct tdm_pte pte)
{
	return mm->pool[tdm_pte_payload(pte) >> 32 & 0xff];
}

/* By the frame's own descriptor: another's may be changing hands. So may this one's, where somebody pins it; he looks again. */
struct tdm_frame *tdmi_dev_folio(struct tdm_pool *p, u32 frame)
{
	return &p->frames.desc[frame & ~((1u << (p->frames.desc[frame].order & 15)) - 1)];
}

static bool is_to_fail(struct tdm_pool *p)
{
	return tdm_a32_ld_relaxed(&p->fail_alloc) && tdm_a32_xchg_acqrel(&p->fail_alloc, 0);
}

struct tdm_frame *tdmi_dev_alloc(struct tdm_pool *p, u32 order, u64 va)
{
	struct tdm_frame *d = is_to_fail(p) ? NULL : tdmi_folio_alloc(&p->frames, order, false, NULL);

	if (!d)
		return NULL;
	d->va = va;
	for (u32 i = 1; i < 1u << order; i++)
		d[i].order = (u8)order;
	return d;
}

void tdmi_dev_mapped(struct tdm_pool *p, struct tdm_frame *folio)
{
	tdmi_lru_add(&p->lru, folio, TDM_LRU_FAULTED);
}

void tdmi_dev_free(struct tdm_pool *p, struct tdm_frame *folio)
{
	if (p->ops->page_free && (folio->flags & TDM_FRAME_F_GIVEN))
		p->ops->page_free(p, tdm_frame_nr(&p->frames, folio), folio->order);
	tdmi_folio_free(&p->frames, folio);
}

/* The last reference is gone. */
static void dev_free(struct tdm_pool *p, struct tdm_frame *folio)
{
	TDM_BUG_ON(folio->mapcount);
	if (!tdmi_pins_orphan(folio))
		tdmi_dev_free(p, folio);
}

void tdmi_dev_put(struct tdm_pool *p, struct tdm_frame *folio)
{
	if (!folio->mapcount && tdmi_lru_del(&p->lru, folio))
		dev_free(p, folio);
}

/* By folios, which are found before any of them is freed: each is let go of once, however many of its pages have left. */
void tdmi_dev_left_all(struct tdm_mm *mm, const struct tdm_pte *was, u32 mask)
{
	struct tdm_frame *folio[TDM_BLOCK_PAGES];
	struct tdm_pool *pool[TDM_BLOCK_PAGES];
	u32 n = 0;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		u32 i = 0;

		if (!(mask >> k & 1))
			continue;
		pool[n] = tdmi_pte_pool(mm, was[k]);
		folio[n] = tdmi_dev_folio(pool[n], tdm_pte_private_frame(was[k]));
		tdm_a64_add_relaxed(&pool[n]->moved_out, 1);
		while (folio[i] != folio[n])
			i++;
		n += i == n;
	}
	for (u32 i = 0; i < n; i++)
		tdmi_dev_put(pool[i], folio[i]);
}

void tdmi_dev_left(struct tdm_mm *mm, struct tdm_pte was)
{
	tdmi_dev_left_all(mm, &was, 1);
}

int tdmi_dev_read(struct tdm_mm *mm, const struct tdm_pte *pte, void *const *dst, u32 n)
{
	u32 waits = 0;
	int r = 0;

	for (u32 i = 0, run; i < n && !r; i += run) {
		struct tdm_pool *p = dst[i] ? tdmi_pte_pool(mm, pte[i]) : NULL;

		for (run = 1; p && i + run < n && dst[i + run] == (u8 *)dst[i] + ((size_t)run << TDM_PAGE_SHIFT) &&
			      pte[i + run].v == tdm_pte_mk_private(p->id, tdm_pte_private_frame(pte[i]) + run).v;)
			run++;
		if (p) {
			r = p->ops->copy_out(p, dst[i], tdm_pte_private_frame(pte[i]), run);
			waits |= 1u << p->id;
		}
	}
	/* Also of those that were begun before one that failed. */
	for (u32 id = 0; id < TDM_POOLS_MAX; id++)
		if ((waits >> id & 1) && mm->pool[id]->ops->copy_wait) {
			int w = mm->pool[id]->ops->copy_wait(mm->pool[id]);

			r = r ? r : w;
		}
	return r;
}

/* ---- whole folios of 2 MiB --------------------------------------------------------------------------------------------------- */

bool tdmi_dev_whole(struct tdm_mm *mm, struct tdm_pte pte)
{
	struct tdm_frame *d = tdm_pte_is(pte, TDM_PTE_T_PRIVATE) ? tdmi_dev_folio(tdmi_pte_pool(mm, pte), tdm_pte_private_frame(pte)) : NULL;

	return d && d->order == TDM_HUGE_ORDER && d->mapcount == TDM_HUGE_PAGES;
}

/* The table for va, locked, if it is like that; and its PMD table, if so asked. *p: whose, or NULL: anybody's. *d: what it names. */
static struct tdm_pt *lock_whole(struct tdm_mm *mm, u64 va, struct tdm_pt *pmd, struct tdm_pool **p, struct tdm_frame **d)
{
	struct tdm_pt *pt = NULL;
	struct tdm_pte pte;

	if (pmd)
		plat_mutex_lock(&pmd->lock);
	if (!pmd)
		(void)tdmi_pt_lock(&mm->pgt, va, false, &pt);
	else if ((pt = tdm_pte_table(tdm_pt_get(pmd, tdm_pt_index(pmd, va)))))
		plat_mutex_lock(&pt->lock);
	pte = pt && !pt->level ? tdm_pt_get(pt, 0) : (struct tdm_pte){ 0 };
	if (tdmi_dev_whole(mm, pte) && (!*p || *p == tdmi_pte_pool(mm, pte))) {
		*p = tdmi_pte_pool(mm, pte);
		*d = tdmi_dev_folio(*p, tdm_pte_private_frame(pte));
		return pt;
	}
	if (pt)
		tdm_pt_unlock(pt);
	if (pmd)
		tdm_pt_unlock(pmd);
	return NULL;
}

static int read_whole(struct tdm_ctx *ctx, struct tdm_pool *p, struct tdm_frame *d, void *home)
{
	int r, w;

	if (p->ops->slow && ctx->on_slow)
		ctx->on_slow(ctx, true);
	r = p->ops->copy_out(p, home, tdm_frame_nr(&p->frames, d), TDM_HUGE_PAGES);
	w = p->ops->copy_wait ? p->ops->copy_wait(p) : 0;
	if (p->ops->slow && ctx->on_slow)
		ctx->on_slow(ctx, false);
	return r ? r : w;
}

/* The PMD table has leaves for 1 GiB, whose faults would wait for the copy. So it is locked afterwards, which is not the order of these locks: if somebody else has it, all is
 * done again in that order. */
static int whole_home(struct tdm_ctx *ctx, u64 va, struct tdm_pool *p, struct tdm_frame *folio)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pmd = NULL, *pt;
	struct tdm_frame *d;
	int r;

	for (;;) {
		pt = lock_whole(mm, va, pmd, &p, &d);
		if (!pt)
			return -ENOENT;
		r = read_whole(ctx, p, d, tdm_frame_home(&mm->frames, folio));
		if (r || pmd)
			break;
		pmd = tdmi_pt_pmd(&mm->pgt, va);
		if (plat_mutex_trylock(&pmd->lock))
			break;
		tdm_pt_unlock(pt);
	}
	if (r) {
		tdm_pt_unlock(pt);
	} else {
		folio->va = d->va;
		tdmi_private_to_huge(mm, pmd, pt, p, d, folio);
		tdmi_lru_add_home(&mm->lru, folio);
		tdm_a64_add_relaxed(&p->moved_out, TDM_HUGE_PAGES);
		tdmi_dev_put(p, d);
	}
	if (pmd)
		tdm_pt_unlock(pmd);
	return r;
}

int tdmi_dev_whole_home(struct tdm_ctx *ctx, u64 va, struct tdm_pool *p)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_port *port = mm->port;
	struct tdm_frame *folio, *d;
	struct tdm_pt *pt;
	bool warm;
	int r;

	/* Before a page is made for it. */
	tdmi_rcu_read_lock(ctx->rcu);
	pt = lock_whole(mm, va, NULL, &p, &d);
	if (pt)
		tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(ctx->rcu);
	if (!pt)
		return -ENOENT;
	if (is_to_fail(p))
		return -ENOMEM;
	folio = tdmi_folio_alloc(&mm->frames, TDM_HUGE_ORDER, true, &warm);
	if (!folio)
		return -ENOMEM;
	if (!warm && port->ops->fresh_huge)
		port->ops->fresh_huge(port, tdm_frame_home(&mm->frames, folio));
	tdmi_rcu_read_lock(ctx->rcu);
	r = whole_home(ctx, va, p, folio);
	tdmi_rcu_read_unlock(ctx->rcu);
	if (r) {
		tdmi_huge_stale(mm, folio);
		folio->refcount = 0;
		tdmi_huge_free(mm, folio);
	}
	return r;
}

/* ---- eviction ----------------------------------------------------------------------------------------------------------- */

/* The entries of block `first` of a table that name the folio; NULL: any of the pool. */
static u32 named(struct tdm_pool *p, struct tdm_pt *pt, u32 first, struct tdm_frame *folio, struct tdm_pte *pte)
{
	u32 mask = 0;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		pte[k] = tdm_pt_get(pt, first + k);
		if (tdm_pte_is(pte[k], TDM_PTE_T_PRIVATE) && tdmi_pte_pool(p->mm, pte[k]) == p &&
		    (!folio || tdmi_dev_folio(p, tdm_pte_private_frame(pte[k])) == folio))
			mask |= 1u << k;
	}
	return mask;
}

/* The pages of one block, of the folio or of any, to their homes, on probation. The table lock is held. *n: pages. */
static int evict_block(struct tdm_ctx *ctx, struct tdm_pool *p, struct tdm_pt *pt, u32 first, u32 only, struct tdm_frame *folio, u64 *n)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pte pte[TDM_BLOCK_PAGES];
	void *dst[TDM_BLOCK_PAGES] = { NULL };
	u32 mask = named(p, pt, first, folio, pte) & only;
	struct tdm_frame *home;
	bool warm;
	int r;

	if (!mask)
		return 0;
	home = tdmi_block_folio_get(mm, pt, first, true, &warm);
	if (!home)
		return -ENOMEM;
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (mask >> k & 1)
			dst[k] = (u8 *)tdm_frame_home(&mm->frames, home) + ((size_t)k << TDM_PAGE_SHIFT);
	r = tdmi_dev_read(mm, pte, dst, TDM_BLOCK_PAGES);
	if (!r) {
		tdmi_homes_wanted(mm, home, mask);
		for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
			if (mask >> k & 1) {
				tdmi_page_set(mm, pt, first + k,
					      tdm_pte_mk((struct tdm_pfn){ tdm_frame_pfn(&mm->frames, home).v + k }, TDM_PTE_WRITE));
				tdmi_dev_left(mm, pte[k]); /* who has it isolated holds it */
			}
		tdmi_lru_add_home(&mm->lru, home);
		*n += (u64)__builtin_popcount(mask);
	} else if (home->mapcount) {
		tdmi_homes_stale(mm, home, mask);
	} else {
		tdmi_folio_release(mm, home, mask);
	}
	return r;
}

static int evict_folio(struct tdm_ctx *ctx, struct tdm_pool *p, struct tdm_frame *folio, u64 *n)
{
	struct tdm_inv_range round = TDM_INV_RANGE(folio->va, folio->va + ((u64)TDM_PAGE_SIZE << folio->order), TDM_INV_MIGRATE);
	struct tdm_pt *pt;
	int r;

	(void)tdmi_invalidate_start(&ctx->mm->notifiers, &round);
	if (folio->order == TDM_HUGE_ORDER && !tdmi_dev_whole_home(ctx, folio->va, p))
		*n += TDM_HUGE_PAGES;
	tdmi_rcu_read_lock(ctx->rcu);
	r = tdmi_pt_lock(&ctx->mm->pgt, folio->va, false, &pt);
	if (!r && pt) {
		u32 first = tdm_pt_index(pt, folio->va) & ~(TDM_BLOCK_PAGES - 1);
		u32 end = folio->order == TDM_HUGE_ORDER ? TDM_PT_ENTRIES : first + TDM_BLOCK_PAGES;

		for (; !pt->level && !r && first < end; first += TDM_BLOCK_PAGES)
			r = evict_block(ctx, p, pt, first, 0xffff, folio, n);
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	tdmi_invalidate_end(&ctx->mm->notifiers, &round);
	return r;
}

static int evict_coherent(struct tdm_ctx *ctx, struct tdm_pool *p, struct tdm_frame *folio, u64 *n)
{
	u64 pages;
	int r = tdmi_coherent_home(ctx, folio->va, folio->va + ((u64)TDM_PAGE_SIZE << folio->order), &pages);

	*n += pages;
	/* What is pinned stays: do not try it for ever. */
	return r ? r : pages || !folio->mapcount ? 0 : -EBUSY;
}

int tdmi_pool_evict(struct tdm_ctx *ctx, struct tdm_pool *p, u64 pages, u64 *done)
{
	int r = 0;

	*done = 0;
	while (!r && *done < pages) {
		struct tdm_frame *folio = tdmi_lru_isolate_lent(&p->lru, false);

		if (!folio)
			break;
		r = p->coherent ? evict_coherent(ctx, p, folio, done) : evict_folio(ctx, p, folio, done);
		/* The last reference is ours, unless something of it could not be moved. */
		if (tdmi_lru_putback(&p->lru, folio, TDM_LRU_TO_YOUNG))
			dev_free(p, folio);
	}
	return r;
}

/* All of a chunk that is on the LRU, once. */
static int evict_chunk(struct tdm_ctx *ctx, struct tdm_pool *p, u32 chunk, const u16 *first, u32 n)
{
	u64 pages = 0;
	int r = 0;

	for (u32 i = 0; i < n && (!r || r == -EBUSY); i++) {
		struct tdm_frame *folio = &p->frames.desc[chunk * TDM_HUGE_PAGES + first[i]];

		/* It may have gone since. Nothing else has come. */
		if (!tdmi_lru_isolate_used(&p->lru, folio))
			continue;
		r = p->coherent ? evict_coherent(ctx, p, folio, &pages) : evict_folio(ctx, p, folio, &pages);
		if (tdmi_lru_putback(&p->lru, folio, TDM_LRU_TO_YOUNG))
			dev_free(p, folio);
	}
	return r == -EBUSY ? 0 : r;
}

int tdmi_pool_offline(struct tdm_ctx *ctx, struct tdm_pool *p, u32 chunk, u64 until_ns)
{
	u16 first[TDM_HUGE_PAGES];
	tdm_a32 never = { 0 };
	int r = 0;
	u32 n;

	tdmi_chunk_isolate(&p->frames, chunk);
	while ((n = tdmi_chunk_used(&p->frames, chunk, first)) && !r) {
		r = evict_chunk(ctx, p, chunk, first, n);
		if (r || !tdmi_chunk_used(&p->frames, chunk, first))
			continue;
		if (plat_now_ns() >= until_ns)
			r = -EBUSY;
		/* Whoever has the rest may be waiting for a fork. */
		tdmi_mm_exit(ctx);
		plat_wait(&never, 0, OFFLINE_RETRY_NS);
		while (!tdmi_mm_enter(ctx))
			plat_yield();
	}
	if (n)
		tdmi_chunk_online(&p->frames, chunk);
	return n ? r : 0;
}

u32 tdmi_pool_chunk_to_give(struct tdm_pool *p)
{
	u32 chunk = tdmi_chunk_unused(&p->frames), oldest = chunk == TDM_FRAME_NIL ? tdmi_lru_oldest(&p->lru) : 0;

	return chunk != TDM_FRAME_NIL || oldest == TDM_FRAME_NIL ? chunk : oldest / TDM_HUGE_PAGES;
}

int tdmi_pool_evict_range(struct tdm_ctx *ctx, struct tdm_pool *p, u64 start, u64 end, u64 *done)
{
	struct tdm_mm *mm = ctx->mm;
	int r = 0;

	*done = 0;
	if (p->coherent)
		return tdmi_coherent_home(ctx, start, end, done);
	for (u64 va = TDM_ALIGN_DOWN(start, TDM_BLOCK_SIZE); !r && va < end; va += TDM_BLOCK_SIZE) {
		bool whole = va % TDM_HUGE_SIZE == 0 && va >= start && va + TDM_HUGE_SIZE <= end;
		struct tdm_inv_range round = TDM_INV_RANGE(va, va + (whole ? TDM_HUGE_SIZE : TDM_BLOCK_SIZE), TDM_INV_MIGRATE);
		u32 lo = va < start ? (u32)((start - va) >> TDM_PAGE_SHIFT) : 0, hi = (u32)TDM_MIN((end - va) >> TDM_PAGE_SHIFT, (u64)TDM_BLOCK_PAGES);
		struct tdm_pt *pt;

		(void)tdmi_invalidate_start(&mm->notifiers, &round);
		if (whole && !tdmi_dev_whole_home(ctx, va, p))
			*done += TDM_HUGE_PAGES;
		tdmi_rcu_read_lock(ctx->rcu);
		if (!tdmi_pt_lock(&mm->pgt, va, false, &pt) && pt) {
			if (!pt->level)
				r = evict_block(ctx, p, pt, tdm_pt_index(pt, va), ((1u << hi) - 1) & ~((1u << lo) - 1), NULL, done);
			tdm_pt_unlock(pt);
		}
		tdmi_rcu_read_unlock(ctx->rcu);
		tdmi_invalidate_end(&mm->notifiers, &round);
	}
	return r;
}
