/* SPDX-License-Identifier: MIT */
/*
 * take_home.c - pages that are lent are taken home: still in ram, but no port has them until somebody touches them.
 *
 * It needs the event lock (see mm.h), and is done under the lock of the table that the entries are in, by moves, to a folio that the caller has isolated. It is a
 * round for those who have translations of the pages (notifier.h): from then on no port has them, whichever it is, until somebody brings them back. A round is
 * begun and ended with no table locked; there is none where the caller is in one. Whoever has pinned a page keeps it: pins are frozen while its block is taken
 * (gup.h). What refuses is left where it is.
 */
#include "base/check.h"
#include "mm/gup.h"
#include "mm/reclaim_impl.h"

#define BATCH 32u /* blocks by one move, at most a table: what each call and its TLB flush cost is shared, and no event waits for longer than some 100 us */

/* ---- pages of a table ------------------------------------------------------------------------------------------------ */

struct home_try {
	bool unshared; /* pages of it had to be copied */
	bool readonly; /* this is the way of mappings that may not be written */
	u32 taken;  /* pages */
	u32 busy;   /* mask of pages that are pinned or shared by fork */
	u32 refused; /* mask of pages whose mapping does not allow it: read-only, mlocked */
	bool home;  /* the folio has home pages now */
	bool gone;  /* the address is not there, or an event is pending */
	bool again; /* the latter */
};

/* Take the lent pages of mask home, each run of them by one move. Never over what lies between: a page that is out by the table may be there, if it
 * was given to a fork's child by its parent. The event lock and the table lock are held. */
static void home_runs(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, struct tdm_frame *folio, u32 mask, struct home_try *t)
{
	u8 *home = tdm_frame_home(&mm->frames, folio);
	bool single = false;

	for (u32 i = 0; i < TDM_BLOCK_PAGES && !t->gone;) {
		u32 n = 0, done = 0;
		int r;

		while (i + n < TDM_BLOCK_PAGES && (mask >> (i + n) & 1))
			n++;
		if (!n) {
			single = false;
			i++;
			continue;
		}
		n = single ? 1 : n;
		r = (t->readonly ? mm->port->ops->invalidate_readonly : mm->port->ops->invalidate)(
			mm->port, (struct tdm_va){ tdm_pt_va(pt, first + i) }, home + ((size_t)i << TDM_PAGE_SHIFT), n, &done);
		TDM_BUG_ON(done > n);
		for (u32 k = i; k < i + done; k++)
			tdmi_page_set(mm, pt, first + k, (struct tdm_pte){ tdm_pt_get(pt, first + k).v & ~TDM_PTE_ACCESSED });
		t->taken += done;
		i += done;
		if ((r == -EINVAL || r == -ENOENT) && n > 1) {
			/* The run may lie in two mappings: page by page. */
			single = true;
		} else if (r == -EBUSY) {
			/* After a fork it is the same with the others: do not ask for each. */
			t->busy |= ((1u << (n - done)) - 1) << i;
			i += n - done;
		} else if (r == -EINVAL || r == -EEXIST) {
			t->refused |= 1u << i++;
		} else if (r) {
			t->gone = true;
			t->again = r == -EAGAIN;
		}
	}
}

static void home_block(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, struct home_try *t)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;
	u32 first, mask, kept = mm->keep ? tdmi_keep_mask(mm->keep, folio->va) : 0;

	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, folio->va, false, &pt) && pt) {
		first = tdm_pt_index(pt, folio->va);
		mask = pt->level ? 0 : tdmi_folio_pages(mm, pt, first, folio, true) & only;
		t->refused |= mask & kept;
		mask &= ~kept;
		if (mask && !tdmi_pins_freeze(folio)) {
			t->refused |= mask;
			mask = 0;
		}
		if (mask & folio->stale)
			tdmi_homes_discard(mm, folio, mask & folio->stale);
		if (mask && !(folio->flags & TDM_FRAME_F_WRITEBACK))
			home_runs(mm, pt, first, folio, mask, t);
		/* What is refused may lie in a mapping that may not be written: it has another way. */
		if ((t->refused & mask) && !t->gone && mm->port->ops->invalidate_readonly) {
			u32 again = t->refused & mask;

			t->refused &= ~again;
			t->readonly = true;
			home_runs(mm, pt, first, folio, again, t);
			t->readonly = false;
		}
		if (mask)
			tdmi_pins_thaw(folio);
		t->home = !pt->level && tdmi_folio_pages(mm, pt, first, folio, false) != 0;
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
}

/* part: not all of it is wanted home, so it is only split. */
static void home_huge(struct tdm_ctx *ctx, struct tdm_frame *folio, bool part, struct home_try *t, bool *split)
{
	struct tdm_mm *mm = ctx->mm;
	/* A part that has gone home cannot be told from the rest without. */
	struct tdm_pt *pmd, *spare = tdmi_pt_spare(&mm->pgt, folio->va);
	struct tdm_pte pte;
	u32 i, done = 0;
	bool kept = spare == NULL || part;
	int r;

	*split = false;
	for (u64 va = folio->va; mm->keep && va < folio->va + TDM_HUGE_SIZE; va += TDM_BLOCK_SIZE)
		kept = kept || tdmi_keep_mask(mm->keep, va);
	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, folio->va, false, &pmd) && pmd) {
		i = tdm_pt_index(pmd, folio->va);
		pte = tdm_pt_get(pmd, i);
		if (pmd->level == 1 && tdm_pte_lent(pte) && tdm_pfn_frame(&mm->frames, tdm_pte_pfn(pte)) == folio) {
			bool frozen = !kept && tdmi_pins_freeze_huge(folio);

			r = !frozen ? -EBUSY :
				   mm->port->ops->invalidate(mm->port, (struct tdm_va){ folio->va }, tdm_frame_home(&mm->frames, folio),
							     TDM_HUGE_PAGES, &done);
			if (done == TDM_HUGE_PAGES) {
				tdmi_page_set(mm, pmd, i, (struct tdm_pte){ pte.v & ~TDM_PTE_ACCESSED });
				t->taken = done;
				t->home = true;
			} else if (done || r == -EBUSY || r == -EINVAL || r == -EEXIST) {
				/* From here on 512 pages, the first `done` of them home. If not, it was put back. */
				*split = true;
				if (!tdmi_huge_split(mm, pmd, i, done, spare))
					spare = NULL;
				t->taken = done;
			} else {
				t->gone = true;
				t->again = r == -EAGAIN;
			}
			if (frozen)
				tdmi_pins_thaw_huge(folio, TDM_HUGE_PAGES / TDM_BLOCK_PAGES);
		}
		tdm_pt_unlock(pmd);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	tdmi_pt_spare_free(&mm->pgt, spare);
}

/* ---- pages that a fork shares ---------------------------------------------------------------------------------------- */

/* Busy pages: if they are copies shared by fork, make them ours; the next attempt will work. With no lock held, and not on a thread that serves
 * faults: a page that has gone home meanwhile, or that the program drops, is faulted in by this, and somebody must be there to serve it. */
static u32 unshare(struct tdm_ctx *ctx, u64 va, u32 busy)
{
	struct tdm_port *port = ctx->mm->port;
	u32 ok = 0;

	for (u32 i = 0, n; i < TDM_BLOCK_PAGES; i += n ? n : 1) {
		for (n = 0; i + n < TDM_BLOCK_PAGES && (busy >> (i + n) & 1);)
			n++;
		if (n && !port->ops->unshare(port, (struct tdm_va){ va + ((u64)i << TDM_PAGE_SHIFT) }, n)) {
			tdm_count(ctx, TDM_C_UNSHARED, n);
			ok |= ((1u << n) - 1) << i;
		}
	}
	return ok;
}

/* Take the pages of mask home in pieces of `part` pages. Those that were busy still. */
static u32 home_parts(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 mask, u32 part, struct home_try *t)
{
	u32 busy = 0;

	for (u32 i = 0; i < TDM_BLOCK_PAGES && !t->gone; i += part) {
		u32 m = mask & (((1u << part) - 1) << i), before = t->busy;

		if (!m)
			continue;
		t->busy = 0;
		home_block(ctx, folio, m, t);
		busy |= t->busy;
		t->busy = before;
	}
	return busy;
}

/* ---- rounds ---------------------------------------------------------------------------------------------------------- */

/*
 * The pages of a block that devices have for themselves. A round for others must not reach them: their owners would lose them for nothing. No lock is held, so this may be old:
 * a page that has become exclusive since is within the round, which does no harm; one that has come back since is not taken. Nothing is taken that the round has not told of.
 */
static u32 exclusive_pages(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pte pte;
	struct tdm_pt *pt;
	u32 i, mask = 0;

	if (!tdm_aptr_ld_acquire(&mm->exclusive_owner[0]))
		return 0;
	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(&mm->pgt, va, &i, &pte);
	for (u32 k = 0; !pt->level && k < TDM_BLOCK_PAGES; k++)
		mask |= (u32)tdm_pte_is(tdm_pt_get(pt, i + k), TDM_PTE_T_EXCLUSIVE) << k;
	tdmi_rcu_read_unlock(ctx->rcu);
	return mask;
}

/* The first pages of *left that have none of `between` between them; they leave *left. */
static u32 next_piece(u32 *left, u32 between)
{
	u32 lo = *left ? (u32)__builtin_ctz(*left) : 0, stop = between >> lo ? lo + (u32)__builtin_ctz(between >> lo) : TDM_BLOCK_PAGES;
	u32 piece = *left & ((1u << stop) - 1);

	*left &= ~piece;
	return piece;
}

/* The pages of a block that are in the mask, in a round for them. The event lock is held, and let go of for a while if pages refuse and this thread may wait. */
static void home_piece(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, struct home_try *t)
{
	struct tdm_mm *mm = ctx->mm;
	u32 lo = only ? (u32)__builtin_ctz(only) : 0, hi = only ? 32 - (u32)__builtin_clz(only) : 0, before = t->busy, own;
	struct tdm_inv_range round = TDM_INV_RANGE(folio->va + ((u64)lo << TDM_PAGE_SHIFT), folio->va + ((u64)hi << TDM_PAGE_SHIFT), TDM_INV_CLEAR);
	bool mine = only && !ctx->round;

	if (mine)
		(void)tdmi_invalidate_start(&mm->notifiers, &round);
	t->busy = 0;
	home_block(ctx, folio, only, t);
	if (t->busy && !t->gone && ctx->may_wait) {
		plat_mutex_unlock(&mm->event_lock);
		own = unshare(ctx, folio->va, t->busy);
		t->unshared = t->unshared || own;
		plat_mutex_lock(&mm->event_lock);
		t->busy &= ~own;
		t->gone = t->again = !tdmi_events_settled(ctx);
		/* One pinned page must not keep the others of its run: by halves until it is alone. */
		for (u32 n = TDM_BLOCK_PAGES; own && !t->gone && n; n /= 2)
			own = home_parts(ctx, folio, own, n, t);
		t->busy |= own;
	}
	if (mine)
		tdmi_invalidate_end(&mm->notifiers, &round);
	t->busy |= before;
}

/* A folio of 2 MiB, in a round for it. true: it has been split, and its parts are on the lists, or it. */
static bool home_whole(struct tdm_ctx *ctx, struct tdm_frame *folio, bool part, struct home_try *t)
{
	struct tdm_inv_range round = TDM_INV_RANGE(folio->va, folio->va + TDM_HUGE_SIZE, TDM_INV_CLEAR);
	bool mine = !ctx->round, split;

	if (mine)
		(void)tdmi_invalidate_start(&ctx->mm->notifiers, &round);
	home_huge(ctx, folio, part, t, &split);
	if (mine)
		tdmi_invalidate_end(&ctx->mm->notifiers, &round);
	return split;
}

u32 tdmi_home_folio(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, bool part, bool *again)
{
	struct tdm_mm *mm = ctx->mm;
	struct home_try t = { 0 };

	if (folio->order == TDM_HUGE_ORDER) {
		if (!home_whole(ctx, folio, part, &t))
			(void)tdmi_folio_putback(mm, folio, t.home ? TDM_LRU_TO_HOME : TDM_LRU_TO_YOUNG);
	} else {
		u32 between = exclusive_pages(ctx, folio->va), left = only & 0xffff & ~between;

		do
			home_piece(ctx, folio, next_piece(&left, between), &t);
		while (left && !t.gone);
		(void)tdmi_folio_putback(mm, folio,
					 t.busy && !t.gone && !ctx->may_wait ? TDM_LRU_TO_SHARED :
					 t.home && t.unshared ? TDM_LRU_TO_PACK :
					 t.home ? TDM_LRU_TO_HOME :
					 t.busy | t.refused ? TDM_LRU_TO_PINNED :
							      TDM_LRU_TO_YOUNG);
		tdm_count(ctx, TDM_C_PINNED, (u64)__builtin_popcount(t.busy | t.refused));
	}
	tdm_count(ctx, TDM_C_HOME_PAGES, t.taken);
	if (t.gone)
		mm->port->ops->drain(mm->port, ctx);
	*again = t.again;
	return t.taken;
}

/* ---- blocks that lie side by side ------------------------------------------------------------------------------------ */

/* May this block go with others? All of its pages are lent, nobody has pinned it (from here on), and its home is the next after `last`; isolated. */
static struct tdm_frame *batch_next(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, const struct tdm_frame *last)
{
	struct tdm_frame *f = tdmi_block_folio(mm, pt, first);

	if (!f || (last && f != last + TDM_BLOCK_PAGES) || f->stale || (f->flags & TDM_FRAME_F_WRITEBACK) || tdmi_folio_pages(mm, pt, first, f, true) != 0xffff ||
	    (mm->keep && tdmi_keep_mask(mm->keep, tdm_pt_va(pt, first))) || !tdmi_pins_freeze(f))
		return NULL;
	if (tdmi_lru_isolate(&mm->lru, f))
		return f;
	tdmi_pins_thaw(f);
	return NULL;
}

/* With the table locked. Pages. */
static u32 batch_home(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, u32 most)
{
	struct tdm_frame *f[BATCH];
	u32 n = 0, done = 0;

	while (n < most && (f[n] = batch_next(mm, pt, first + n * TDM_BLOCK_PAGES, n ? f[n - 1] : NULL)))
		n++;
	if (n > 1)
		(void)mm->port->ops->invalidate(mm->port, (struct tdm_va){ tdm_pt_va(pt, first) }, tdm_frame_home(&mm->frames, f[0]), n * TDM_BLOCK_PAGES, &done);
	for (u32 i = 0; i < n; i++) {
		u32 at = i * TDM_BLOCK_PAGES, k = 0;
		struct tdm_pte pte[TDM_BLOCK_PAGES];

		for (; k < TDM_BLOCK_PAGES && at + k < done; k++)
			pte[k].v = tdm_pt_get(pt, first + at + k).v & ~TDM_PTE_ACCESSED;
		if (k)
			tdmi_pages_set(mm, pt, first + at, k, pte);
		tdmi_pins_thaw(f[i]);
		(void)tdmi_folio_putback(mm, f[i], done > i * TDM_BLOCK_PAGES ? TDM_LRU_TO_HOME : TDM_LRU_TO_YOUNG);
	}
	return done;
}

u32 tdmi_home_many(struct tdm_ctx *ctx, u64 *va, u64 end)
{
	u64 stop = TDM_MIN(TDM_MIN(end, *va + BATCH * TDM_BLOCK_SIZE), TDM_ALIGN_DOWN(*va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
	u32 blocks = *va < end ? (u32)((stop - *va) / TDM_BLOCK_SIZE) : 0, most = 0, done = 0;
	struct tdm_inv_range round;
	struct tdm_mm *mm = ctx->mm;
	bool mine = !ctx->round;
	struct tdm_pt *pt;

	while (most < blocks && !exclusive_pages(ctx, *va + most * TDM_BLOCK_SIZE))
		most++;
	if (most < 2)
		return 0;
	round = TDM_INV_RANGE(*va, *va + most * TDM_BLOCK_SIZE, TDM_INV_CLEAR);
	if (mine)
		(void)tdmi_invalidate_start(&mm->notifiers, &round);
	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, *va, false, &pt) && pt) {
		if (!pt->level)
			done = batch_home(mm, pt, tdm_pt_index(pt, *va), most);
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	if (mine)
		tdmi_invalidate_end(&mm->notifiers, &round);
	tdm_count(ctx, TDM_C_HOME_PAGES, done);
	*va += done / TDM_BLOCK_PAGES * TDM_BLOCK_SIZE;
	return done;
}
