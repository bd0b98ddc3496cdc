/* SPDX-License-Identifier: MIT */
/*
 * zap.c - the program changes its address space: entries follow.
 *
 * All of it runs under the event lock: between reading an event and its end nobody takes pages home, and nobody reads another event.
 *
 * A removal (MADV_DONTNEED) is announced before the kernel drops the pages. What is home or out is dropped at once: a touch from now on finds
 * zeros, as it should. What is mapped is still there, with the old bytes, for a while that we cannot measure: taking such a page home
 * would save it from being dropped, and the program would read the old bytes where it must read zeros. So those get the marker REMOVED, which
 * reclaim passes over, and which the first fault at the address that finds the page gone ends.
 */
#include <string.h>
#include "base/check.h"
#include "mm/mm.h"

#define TRIES_MAX 1000u

static void zap_page(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, enum tdm_zap how)
{
	struct tdm_pte pte = tdm_pt_get(pt, i);

	if (tdm_pte_is(pte, TDM_PTE_T_SWAP))
		tdmi_swap_drop(mm->swap, tdm_pte_swap_handle(pte), 1u << tdm_pte_swap_index(pte));
	if (how == TDM_ZAP_REMOVE && (tdm_pte_lent(pte) || tdm_pte_is(pte, TDM_PTE_T_REMOVED) || tdm_pte_is(pte, TDM_PTE_T_COHERENT)))
		tdmi_page_set(mm, pt, i, tdm_pte_mk_typed(TDM_PTE_T_REMOVED, 0));
	else
		tdmi_page_set(mm, pt, i, (struct tdm_pte){ 0 });
	if (tdm_pte_device(pte))
		tdmi_dev_put(tdmi_pte_pool(mm, pte), tdmi_dev_folio(tdmi_pte_pool(mm, pte), tdm_pte_private_frame(pte)));
}

/* Pages [lo, hi) of one block. */
static void zap_block(struct tdm_mm *mm, struct tdm_pt *pt, u32 lo, u32 hi, enum tdm_zap how)
{
	struct tdm_frame *folio = tdmi_block_folio(mm, pt, lo);
	u32 first = lo & ~(TDM_BLOCK_PAGES - 1), home = 0;

	for (u32 i = lo; i < hi; i++) {
		if (tdm_pte_at_home(tdm_pt_get(pt, i)))
			home |= 1u << (i - first);
		if (!tdm_pte_none(tdm_pt_get(pt, i)))
			zap_page(mm, pt, i, how);
	}
	if (!folio)
		return;
	if (folio->flags & TDM_FRAME_F_WRITEBACK) {
		/* The packer is reading them: it will find that the entries have changed, and the homes go with the folio. */
		tdmi_homes_stale(mm, folio, home);
	} else if (home) {
		tdmi_homes_discard(mm, folio, home);
	}
	if (!folio->mapcount)
		tdmi_folio_release(mm, folio, 0);
}

/* A whole 2 MiB leaf. */
static void zap_huge(struct tdm_mm *mm, struct tdm_pt *pmd, u32 i)
{
	struct tdm_pte pte = tdm_pt_get(pmd, i);
	struct tdm_frame *folio = tdm_pfn_frame(&mm->frames, tdm_pte_pfn(pte));

	tdmi_page_set(mm, pmd, i, (struct tdm_pte){ 0 });
	if (folio->flags & TDM_FRAME_F_WRITEBACK) {
		/* As in zap_block(). */
		tdmi_huge_stale(mm, folio);
	} else if (tdm_pte_home(pte)) {
		void *slot = tdm_frame_home(&mm->frames, folio);
		u32 n = TDM_HUGE_PAGES;

		mm->port->ops->discard(mm->port, &slot, &n, 1);
	}
	tdmi_folio_release(mm, folio, 0);
}

/* No memory to follow what the program has done, which cannot be refused: again, but not for ever. */
static void try_again(u32 *tries)
{
	if (++*tries > TRIES_MAX)
		plat_abort("tandem: no memory to follow a change of the address space\n");
	plat_yield();
}

/* The part [va, end) of one 2 MiB range. -EAGAIN: try again with the lock let go of for a moment; -ENOMEM. */
static int zap_table(struct tdm_ctx *ctx, u64 va, u64 end, enum tdm_zap how)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;
	u32 lo, hi;

	if (tdmi_pt_lock(&mm->pgt, va, false, &pt) || !pt)
		return 0;
	lo = tdm_pt_index(pt, va);
	if (pt->level) {
		struct tdm_frame *folio = tdm_pfn_frame(&mm->frames, tdm_pte_pfn(tdm_pt_get(pt, lo)));
		int r = 0;

		if (end - va >= TDM_HUGE_SIZE && how != TDM_ZAP_REMOVE) {
			zap_huge(mm, pt, lo);
		} else {
			/* Whoever has it isolated needs this lock to finish. */
			tdmi_huge_want(mm, pt, lo);
			if (tdmi_lru_isolate(&mm->lru, folio))
				r = tdmi_huge_split(mm, pt, lo, 0, NULL);
			r = r ? r : -EAGAIN;
		}
		tdm_pt_unlock(pt);
		return r;
	}
	hi = end - pt->base >= TDM_HUGE_SIZE ? TDM_PT_ENTRIES : tdm_pt_index(pt, end);
	while (lo < hi) {
		u32 stop = TDM_MIN((lo & ~(TDM_BLOCK_PAGES - 1)) + TDM_BLOCK_PAGES, hi);

		zap_block(mm, pt, lo, stop, how);
		lo = stop;
	}
	tdm_pt_unlock(pt);
	return 0;
}

static void zap_range(struct tdm_ctx *ctx, u64 start, u64 end, enum tdm_zap how)
{
	u64 va = start;
	u32 tries = 0;

	while (va < end) {
		u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		int r;

		tdmi_rcu_read_lock(ctx->rcu);
		r = zap_table(ctx, va, stop, how);
		if (!r) {
			if (how != TDM_ZAP_REMOVE && stop - va == TDM_HUGE_SIZE)
				tdmi_pt_try_free(&ctx->mm->pgt, va);
			va = stop < end ? TDM_MAX(stop, tdmi_pt_next(&ctx->mm->pgt, stop, end)) : end;
		}
		tdmi_rcu_read_unlock(ctx->rcu);
		if (r == -ENOMEM)
			try_again(&tries);
		else if (r)
			plat_yield();
	}
}

void tdmi_zap(struct tdm_ctx *ctx, u64 start, u64 end, enum tdm_zap how)
{
	struct tdm_inv_range round = TDM_INV_RANGE(start, end, how == TDM_ZAP_UNMAP ? TDM_INV_UNMAP : TDM_INV_CLEAR);
	u32 tries = 0;

	(void)tdmi_invalidate_start(&ctx->mm->notifiers, &round);
	zap_range(ctx, start, end, how);
	tdmi_invalidate_end(&ctx->mm->notifiers, &round);
	while (how == TDM_ZAP_UNMAP && tdmi_vma_remove(&ctx->mm->vmas, start, end))
		try_again(&tries);
}

/* Lock the PTE table of va. A leaf of 2 MiB is split first. NULL: there is no table. */
static struct tdm_pt *lock_pages(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;
	u32 tries = 0;

	for (;;) {
		int r = 0;

		if (tdmi_pt_lock(&mm->pgt, va, false, &pt) || !pt)
			return NULL;
		if (!pt->level)
			return pt;
		tdmi_huge_want(mm, pt, tdm_pt_index(pt, va));
		if (tdmi_lru_isolate(&mm->lru, tdm_pfn_frame(&mm->frames, tdm_pte_pfn(tdm_pt_get(pt, tdm_pt_index(pt, va))))))
			r = tdmi_huge_split(mm, pt, tdm_pt_index(pt, va), 0, NULL);
		tdm_pt_unlock(pt);
		if (r)
			try_again(&tries);
		else
			plat_yield();
	}
}

/* Take the entry at `from` out of the table. The bytes of a page that is home, or on a device, are left in ctx->bounce: its new home is in another block, at another
 * offset. (They could not be given to the program at once: the kernel refuses as long as any event is unread, and we hold the event lock.) */
static struct tdm_pte remap_take(struct tdm_ctx *ctx, u64 from)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt = lock_pages(ctx, from);
	struct tdm_pte pte = { 0 };

	if (!pt)
		return pte;
	pte = tdm_pt_get(pt, tdm_pt_index(pt, from));
	if (tdm_pte_is(pte, TDM_PTE_T_SWAP)) {
		tdmi_page_set(mm, pt, tdm_pt_index(pt, from), (struct tdm_pte){ 0 });
	} else if (!tdm_pte_none(pte)) {
		struct tdm_pte lost = { 0 };
		bool device = tdm_pte_is(pte, TDM_PTE_T_PRIVATE);

		/* A page that a device has comes home: its frame may be one of many that lie side by side. */
		if (device && tdmi_dev_read(mm, &pte, (void *const[]){ ctx->bounce }, 1))
			lost = tdm_pte_mk_typed(TDM_PTE_T_POISON, 0);
		if (tdm_pte_at_home(pte))
			memcpy(ctx->bounce, tdm_frame_home(&mm->frames, tdm_pfn_frame(&mm->frames, tdm_pte_ram_pfn(pte))), TDM_PAGE_SIZE);
		zap_block(mm, pt, tdm_pt_index(pt, from), tdm_pt_index(pt, from) + 1, TDM_ZAP_UNMAP);
		if ((device && tdm_pte_none(lost)) || tdm_pte_at_home(pte))
			pte = tdm_pte_mk((struct tdm_pfn){ 0 }, 0);
		else
			pte = lost;
	}
	tdm_pt_unlock(pt);
	return pte;
}

static void remap_put(struct tdm_ctx *ctx, u64 to, struct tdm_pte pte)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_frame *folio;
	struct tdm_pt *pt;
	bool warm;
	u32 i, k, tries = 0;

	for (;;) {
		if (tdmi_pt_lock(&mm->pgt, to, true, &pt)) {
			try_again(&tries);
			continue;
		}
		folio = pt->level ? NULL : tdmi_block_folio(mm, pt, tdm_pt_index(pt, to));
		if (!folio || !(folio->flags & TDM_FRAME_F_WRITEBACK))
			break;
		/* An entry that comes to look as it did when packing began would be taken for the one that was packed. */
		tdm_pt_unlock(pt);
		plat_yield();
	}
	i = tdm_pt_index(pt, to);
	k = i & (TDM_BLOCK_PAGES - 1);
	TDM_BUG_ON(pt->level || !tdm_pte_none(tdm_pt_get(pt, i)));
	if (tdm_pte_home(pte)) {
		folio = tdmi_block_folio_get(mm, pt, i, false, &warm);
		if (!folio)
			plat_abort("tandem: no memory to follow an mremap()\n");
		memcpy((u8 *)tdm_frame_home(&mm->frames, folio) + ((size_t)k << TDM_PAGE_SHIFT), ctx->bounce, TDM_PAGE_SIZE);
		if (folio->stale >> k & 1) {
			folio->stale &= (u16)~(1u << k);
			tdm_a64_sub_relaxed(&mm->stale, 1);
		}
		pte = tdm_pte_mk((struct tdm_pfn){ tdm_frame_pfn(&mm->frames, folio).v + k }, TDM_PTE_WRITE);
		tdmi_page_set(mm, pt, i, pte);
		tdmi_lru_add_home(&mm->lru, folio);
	} else {
		tdmi_page_set(mm, pt, i, pte);
	}
	tdm_pt_unlock(pt);
}

/* What of `from` is not known yet (the mapping has grown) is not known at `to` either: it will be found. */
static void move_vmas(struct tdm_mm *mm, u64 from, u64 to, u64 len)
{
	struct tdm_vma v;
	u32 tries = 0;

	for (u64 va = from; tdmi_vma_next(&mm->vmas, va, &v) && v.start < from + len; va = v.end)
		while (tdmi_vma_insert(&mm->vmas, TDM_MAX(v.start, from) - from + to, TDM_MIN(v.end, from + len) - from + to, v.flags))
			try_again(&tries);
	while (tdmi_vma_remove(&mm->vmas, from, from + len))
		try_again(&tries);
}

void tdmi_move(struct tdm_ctx *ctx, u64 from, u64 to, u64 len)
{
	struct tdm_inv_range round = TDM_INV_RANGE(from, from + len, TDM_INV_UNMAP);
	u64 off = 0;

	(void)tdmi_invalidate_start(&ctx->mm->notifiers, &round);
	while (off < len) {
		struct tdm_pte pte;
		u32 n;

		tdmi_rcu_read_lock(ctx->rcu);
		if (((from + off) & (TDM_HUGE_SIZE - 1)) == 0 || off == 0)
			off = TDM_MAX(from + off, tdmi_pt_next(&ctx->mm->pgt, from + off, from + len)) - from;
		n = off < len ? tdmi_coherent_move(ctx, from + off, to + off, (len - off) >> TDM_PAGE_SHIFT) : 0;
		if (!n && off < len) {
			pte = remap_take(ctx, from + off);
			if (!tdm_pte_none(pte))
				remap_put(ctx, to + off, pte);
			n = 1;
		}
		off += (u64)n << TDM_PAGE_SHIFT;
		tdmi_rcu_read_unlock(ctx->rcu);
	}
	tdmi_invalidate_end(&ctx->mm->notifiers, &round);
	/* Only now: a stream of zeros next to it must not run into entries that are not there yet. */
	move_vmas(ctx->mm, from, to, len);
}

void tdmi_move_end(struct tdm_ctx *ctx, u64 to, u64 len)
{
	struct tdm_vma v;

	for (u64 va = to; tdmi_vma_next(&ctx->mm->vmas, va, &v) && v.start < to + len; va = v.end)
		if (!(v.flags & TDM_VMA_EXCLUDED))
			(void)tdmi_adopt(ctx, TDM_MAX(v.start, to), TDM_MIN(v.end, to + len));
}

void tdmi_remap(struct tdm_ctx *ctx, u64 from, u64 to, u64 len)
{
	tdmi_zap(ctx, to, to + len, TDM_ZAP_UNMAP);
	tdmi_move(ctx, from, to, len);
	tdmi_move_end(ctx, to, len);
}

void tdmi_zap_entry(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_pte pte;
	u32 i, level;

	tdmi_rcu_read_lock(ctx->rcu);
	level = tdmi_pt_walk(&ctx->mm->pgt, va, &i, &pte)->level;
	tdmi_rcu_read_unlock(ctx->rcu);
	if (level <= 1 && !tdm_pte_lent(pte) && !tdm_pte_is(pte, TDM_PTE_T_COHERENT) && !tdm_pte_none(pte)) {
		struct tdm_inv_range round = TDM_INV_RANGE(va, va + TDM_PAGE_SIZE, TDM_INV_CLEAR);

		(void)tdmi_invalidate_start(&ctx->mm->notifiers, &round);
		zap_range(ctx, va, va + TDM_PAGE_SIZE, level == 1 ? TDM_ZAP_REMOVE : TDM_ZAP_FORGET);
		tdmi_invalidate_end(&ctx->mm->notifiers, &round);
	}
}
