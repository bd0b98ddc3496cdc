/* SPDX-License-Identifier: MIT */
/*
 * reclaim.c - make room: first home, then out.
 *
 * Two steps, each for one folio that the policy (lru.h) hands over isolated:
 *   age    the folio's lent pages are taken home. They are still in ram; a touch brings them back for the price of a soft fault and proves that
 *          they are used.
 *   pack   the folio's home pages are packed into a blob (pack.c).
 *
 * Taking home needs the event lock (see mm.h), packing does not. It is a round for those who have translations of the pages (notifier.h): from then on
 * no port has them, whichever it is, until somebody brings them back; so packing is none.
 */
#include "base/check.h"
#include "mm/gup.h"
#include "mm/mm.h"

#define BATCH 32u /* blocks by one move, at most a table: what each call and its TLB flush cost is shared, and no event waits for longer than some 100 us */
#define DIRTY_SHARE 64 /* of the limit */
#define DIRTY_MAX 2048 /* pages */
#define RESIDENT_MIN ((u64)512) /* pages that are left alone, whatever the budget */

/* ---- age --------------------------------------------------------------------------------------------------------- */

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
	if (!tdmi_pt_lock(mm, folio->va, false, &pt) && pt) {
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
	struct tdm_pt *pmd, *spare = tdmi_pt_spare(mm, folio->va);
	struct tdm_pte pte;
	u32 i, done = 0;
	bool kept = spare == NULL || part;
	int r;

	*split = false;
	for (u64 va = folio->va; mm->keep && va < folio->va + TDM_HUGE_SIZE; va += TDM_BLOCK_SIZE)
		kept = kept || tdmi_keep_mask(mm->keep, va);
	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(mm, folio->va, false, &pmd) && pmd) {
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
	tdmi_pt_spare_free(mm, spare);
}

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
	pt = tdmi_pt_walk(mm, va, &i, &pte);
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

/* Take an isolated folio home, a block's pages in the mask `only`, and put it back where it belongs. One of 2 MiB of which not all are wanted is split.
 * The event lock is held, and let go of for a while if pages refuse. *again: some could not be had because of an event. */
static u32 home_folio(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, bool part, bool *again)
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

u64 tdmi_age(struct tdm_ctx *ctx, u64 pages)
{
	struct tdm_mm *mm = ctx->mm;
	u64 taken = 0, tries = 0, most = 4 + 2 * pages / TDM_BLOCK_PAGES, unshared = tdm_a64_ld_relaxed(&ctx->count[TDM_C_UNSHARED]);

	/* Each page that had to be copied is one more until it is packed, so that is done at once. */
	while (taken < pages && tries++ < most && tdm_a64_ld_relaxed(&ctx->count[TDM_C_UNSHARED]) == unshared) {
		struct tdm_frame *folio;
		bool again;

		plat_mutex_lock(&mm->event_lock);
		folio = tdmi_events_settled(ctx) ? tdmi_lru_isolate_lent(&mm->lru, ctx->may_wait) : NULL;
		if (folio)
			taken += home_folio(ctx, folio, ~0u, false, &again);
		plat_mutex_unlock(&mm->event_lock);
		if (!folio)
			break;
	}
	return taken;
}

/* ---- making room ---------------------------------------------------------------------------------------------------- */

/* One folio from probation to a tier. Pages packed, 0 when there was none (*none), or -errno. */
static int pack_one(struct tdm_ctx *ctx, bool *none)
{
	for (u32 tries = 0; tries < 64; tries++) {
		struct tdm_frame *folio = tdmi_lru_isolate_home(&ctx->mm->lru);
		bool again;
		u64 n;
		int r;

		*none = !folio;
		if (!folio)
			return 0;
		if (folio->order == TDM_HUGE_ORDER) {
			(void)tdmi_split_home(ctx, folio);
			continue;
		}
		r = tdmi_pack_folio(ctx, folio, ~0u, NULL, &n, &again);
		if (r || n)
			return r ? r : (int)n;
	}
	return 0;
}

/* Pages in dirty folios that may wait until they can be emptied with others. */
static u64 dirty_keep(const struct tdm_mm *mm)
{
	return TDM_MIN(tdm_a64_ld_relaxed(&mm->limit_bytes) >> TDM_PAGE_SHIFT, (u64)DIRTY_MAX * DIRTY_SHARE) / DIRTY_SHARE;
}

u32 tdmi_trim(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_frame *f = tdmi_folio_take_warm(&mm->frames);
	u32 n = f ? 1u << f->order : 0;
	void *slot;

	if (!f)
		return tdmi_dirty_discard(mm, 0);
	tdm_a64_add_relaxed(&mm->stale, n);
	slot = tdm_frame_home(&mm->frames, f);
	mm->port->ops->discard(mm->port, &slot, &n, 1);
	tdm_a64_sub_relaxed(&mm->stale, n);
	f->refcount = 0;
	tdmi_folio_free(&mm->frames, f);
	return n;
}

u64 tdmi_home_wanted(const struct tdm_mm *mm)
{
	return (tdm_a64_ld_relaxed(&mm->lent) + tdm_a64_ld_relaxed(&mm->home)) / 8;
}

u64 tdmi_reclaim(struct tdm_ctx *ctx, u64 target, u64 pages)
{
	struct tdm_mm *mm = ctx->mm;
	u64 freed = 0, idle = 0;

	while (freed < pages && idle < 8 && tdmi_mm_usage(mm) > target) {
		u64 home = tdm_a64_ld_relaxed(&mm->home), wanted = tdmi_home_wanted(mm), aged = 0;
		bool none = false;
		int r;

		/* What one instruction needs at the same time must stay, or nobody gets anywhere; but when there is no frame, there is none. */
		if (target && home + tdm_a64_ld_relaxed(&mm->lent) < RESIDENT_MIN)
			break;

		if (home < wanted + TDM_BLOCK_PAGES)
			aged = tdmi_age(ctx, TDM_MIN(wanted + 4 * TDM_BLOCK_PAGES - home, 8 * TDM_BLOCK_PAGES));
		r = pack_one(ctx, &none);
		if (r < 0)
			break;
		(void)tdmi_dirty_discard(mm, dirty_keep(mm));
		freed += (u64)r;
		idle = r || aged ? 0 : idle + 1;
		if (none && !aged)
			break;
	}
	return freed;
}

/* ---- ranges: what the user asks for -------------------------------------------------------------------------------------- */

/* The folio of the first present page at or after va (below end), isolated. Advances *va past it. *wait: somebody else has it at the moment, and may
 * need the event lock to be done. */
static struct tdm_frame *isolate_at(struct tdm_ctx *ctx, u64 *va, u64 end, bool *wait)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_frame *folio = NULL;

	*wait = false;
	while (!folio && !*wait && *va < end) {
		struct tdm_pt *pt;

		tdmi_rcu_read_lock(ctx->rcu);
		if (tdmi_pt_lock(mm, *va, false, &pt) || !pt) {
			*va = TDM_MAX(*va + TDM_BLOCK_SIZE, tdmi_pt_next(mm, *va, end));
		} else {
			u32 i = tdm_pt_index(pt, *va);
			u64 next = pt->level ? TDM_ALIGN_DOWN(*va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE :
					       TDM_ALIGN_DOWN(*va, TDM_BLOCK_SIZE) + TDM_BLOCK_SIZE;

			folio = pt->level ? tdm_pfn_frame(&mm->frames, tdm_pte_pfn(tdm_pt_get(pt, i))) : tdmi_block_folio(mm, pt, i);
			*wait = folio && !tdmi_lru_isolate(&mm->lru, folio);
			if (*wait)
				folio = NULL;
			else
				*va = next;
			tdm_pt_unlock(pt);
		}
		tdmi_rcu_read_unlock(ctx->rcu);
	}
	return folio;
}

/* The pages of a folio's block that are in [start, end). */
static u32 pages_in(const struct tdm_frame *folio, u64 start, u64 end)
{
	u32 mask = 0;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		u64 va = folio->va + ((u64)k << TDM_PAGE_SHIFT);

		mask |= (u32)(va >= start && va < end) << k;
	}
	return mask;
}

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

/* Blocks from *va on by one move, if they lie side by side at both ends. What refuses goes the other way, one by one. Advances *va past those that are home. The event
 * lock is held. */
static u32 home_many(struct tdm_ctx *ctx, u64 *va, u64 end)
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
	if (!tdmi_pt_lock(mm, *va, false, &pt) && pt) {
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

int tdmi_range_home(struct tdm_ctx *ctx, u64 start, u64 end, u64 *pages)
{
	u64 va = TDM_ALIGN_DOWN(start, TDM_BLOCK_SIZE), split = ~(u64)0, since = 0;

	*pages = 0;
	while (va < end) {
		struct tdm_frame *folio;
		bool wait, again = false;

		plat_mutex_lock(&ctx->mm->event_lock);
		wait = !tdmi_events_settled(ctx);
		if (!wait && va >= start)
			*pages += home_many(ctx, &va, end);
		folio = wait ? NULL : isolate_at(ctx, &va, end, &wait);
		if (folio) {
			u64 at = folio->va, from = TDM_ALIGN_DOWN(TDM_MAX(at, start), TDM_BLOCK_SIZE);
			bool huge = folio->order == TDM_HUGE_ORDER, part = huge && (at < start || at + TDM_HUGE_SIZE > end);
			u32 n = home_folio(ctx, folio, pages_in(folio, start, end), part, &again);

			*pages += n;
			/* Once more, block by block, if not all of it was wanted, or one page refused; if it could not be split it stays. */
			if (huge && n < TDM_HUGE_PAGES && !again) {
				if (split != at)
					va = from;
				split = at;
			}
			va = again ? from : va;
		}
		plat_mutex_unlock(&ctx->mm->event_lock);
		if (wait)
			plat_yield();
		else if (!again)
			since = 0;
		else if (!tdmi_event_retry(&since))
			break;
	}
	return 0;
}

int tdmi_range_pack(struct tdm_ctx *ctx, u64 start, u64 end, struct tdm_pool *pool, u64 *pages)
{
	u64 va = TDM_ALIGN_DOWN(start, TDM_BLOCK_SIZE), since = 0;
	int r = 0;

	*pages = 0;
	while (!r && va < end) {
		bool wait, again;
		struct tdm_frame *folio;
		u64 n;

		if (pool && !pool->coherent && va >= start && end - va >= 2 * TDM_BLOCK_SIZE) {
			u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
			u32 blocks;

			r = tdmi_pack_many(ctx, va, (u32)((stop - va) / TDM_BLOCK_SIZE), pool, &blocks);
			*pages += (u64)TDM_MAX(r, 0);
			r = TDM_MIN(r, 0);
			va += blocks * TDM_BLOCK_SIZE;
			if (r || blocks)
				continue;
		}
		folio = isolate_at(ctx, &va, end, &wait);
		if (wait)
			plat_yield();
		if (!folio)
			continue;
		if (folio->order == TDM_HUGE_ORDER) {
			u64 at = TDM_MAX(folio->va, TDM_ALIGN_DOWN(start, TDM_BLOCK_SIZE));
			bool whole = pool && !pool->coherent && folio->va >= start && folio->va + TDM_HUGE_SIZE <= end;

			if (whole)
				r = tdmi_migrate_huge(ctx, folio, pool, &whole);
			if (whole) {
				*pages += (u64)TDM_MAX(r, 0);
				r = TDM_MIN(r, 0);
				continue;
			}
			if (tdmi_split_home(ctx, folio))
				va = at;
			continue;
		}
		r = tdmi_pack_folio(ctx, folio, pages_in(folio, start, end), pool, &n, &again);
		*pages += n;
		if (again) {
			plat_mutex_lock(&ctx->mm->event_lock);
			ctx->mm->port->ops->drain(ctx->mm->port, ctx);
			plat_mutex_unlock(&ctx->mm->event_lock);
			/* Once more the same block. */
			va -= tdmi_event_retry(&since) ? TDM_BLOCK_SIZE : 0;
		} else {
			since = 0;
		}
		(void)tdmi_dirty_discard(ctx->mm, dirty_keep(ctx->mm));
	}
	return r;
}

int tdmi_range_out(struct tdm_ctx *ctx, u64 start, u64 end, u64 *pages)
{
	int r = tdmi_range_home(ctx, start, end, pages);

	*pages = 0;
	return r ? r : tdmi_range_pack(ctx, start, end, NULL, pages);
}
