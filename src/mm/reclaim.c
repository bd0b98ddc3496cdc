/* SPDX-License-Identifier: MIT */
/*
 * reclaim.c - make room: first home, then out.
 *
 * Two steps, each for one folio that the policy (lru.h) hands over isolated:
 *   age    the folio's lent pages are taken home (take_home.c). They are still in ram; a touch brings them back for the price of a soft fault and proves that
 *          they are used.
 *   pack   the folio's home pages are packed into a blob (pack.c).
 *
 * Taking home needs the event lock (see mm.h), packing does not. Taking home is a round for those who have translations of the pages; packing is none: no port
 * has them any more.
 */
#include "mm/reclaim_impl.h"

#define DIRTY_SHARE 64 /* of the limit */
#define DIRTY_MAX 2048 /* pages */
#define RESIDENT_MIN ((u64)512) /* pages that are left alone, whatever the budget */

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
			taken += tdmi_home_folio(ctx, folio, ~0u, false, &again);
		plat_mutex_unlock(&mm->event_lock);
		if (!folio)
			break;
	}
	return taken;
}

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

u64 tdmi_dirty_keep(const struct tdm_mm *mm)
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
		(void)tdmi_dirty_discard(mm, tdmi_dirty_keep(mm));
		freed += (u64)r;
		idle = r || aged ? 0 : idle + 1;
		if (none && !aged)
			break;
	}
	return freed;
}
