/* SPDX-License-Identifier: MIT */
/*
 * pageout.c - ranges that somebody wants home, in a tier, or in a device's memory: folio by folio, whatever the policy thinks of them.
 *
 * Folios are found in the table and isolated under its lock. Taking them home needs the event lock, for one step at a time; packing and copying them is done with
 * no lock held. Who else has a folio isolated may need the event lock to be done with it: it is let go of, and the folio is looked for again.
 */
#include "base/check.h"
#include "mm/reclaim_impl.h"

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
		if (tdmi_pt_lock(&mm->pgt, *va, false, &pt) || !pt) {
			*va = TDM_MAX(*va + TDM_BLOCK_SIZE, tdmi_pt_next(&mm->pgt, *va, end));
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
			*pages += tdmi_home_many(ctx, &va, end);
		folio = wait ? NULL : isolate_at(ctx, &va, end, &wait);
		if (folio) {
			u64 at = folio->va, from = TDM_ALIGN_DOWN(TDM_MAX(at, start), TDM_BLOCK_SIZE);
			bool huge = folio->order == TDM_HUGE_ORDER, part = huge && (at < start || at + TDM_HUGE_SIZE > end);
			u32 n = tdmi_home_folio(ctx, folio, pages_in(folio, start, end), part, &again);

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

/* Whole blocks from *va on, to a device, as long as they are home and side by side. Advances *va past them; not at all: there are none. */
static int pack_row(struct tdm_ctx *ctx, u64 *va, u64 end, struct tdm_pool *pool, u64 *pages)
{
	u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(*va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
	u32 blocks;
	int r = tdmi_pack_many(ctx, *va, (u32)((stop - *va) / TDM_BLOCK_SIZE), pool, &blocks);

	*pages += (u64)TDM_MAX(r, 0);
	*va += blocks * TDM_BLOCK_SIZE;
	return TDM_MIN(r, 0);
}

/* An isolated folio of 2 MiB goes to the device as one, if all of it is wanted there and that can be done. If not it is split, and *va is where its blocks begin. */
static int pack_huge(struct tdm_ctx *ctx, struct tdm_frame *folio, u64 start, u64 end, struct tdm_pool *pool, u64 *va, u64 *pages)
{
	u64 at = TDM_MAX(folio->va, TDM_ALIGN_DOWN(start, TDM_BLOCK_SIZE));
	bool whole = pool && !pool->coherent && folio->va >= start && folio->va + TDM_HUGE_SIZE <= end;
	int r = 0;

	if (whole)
		r = tdmi_migrate_huge(ctx, folio, pool, &whole);
	if (!whole && tdmi_split_home(ctx, folio))
		*va = at;
	*pages += (u64)TDM_MAX(r, 0);
	return TDM_MIN(r, 0);
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
			u64 from = va;

			r = pack_row(ctx, &va, end, pool, pages);
			if (r || va != from)
				continue;
		}
		folio = isolate_at(ctx, &va, end, &wait);
		if (wait)
			plat_yield();
		if (!folio)
			continue;
		if (folio->order == TDM_HUGE_ORDER) {
			r = pack_huge(ctx, folio, start, end, pool, &va, pages);
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
		(void)tdmi_dirty_discard(ctx->mm, tdmi_dirty_keep(ctx->mm));
	}
	return r;
}

int tdmi_range_out(struct tdm_ctx *ctx, u64 start, u64 end, u64 *pages)
{
	int r = tdmi_range_home(ctx, start, end, pages);

	*pages = 0;
	return r ? r : tdmi_range_pack(ctx, start, end, NULL, pages);
}
