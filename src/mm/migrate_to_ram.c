/* SPDX-License-Identifier: MIT */
/*
 * migrate_to_ram.c - pages come back from a device's memory, because somebody touches or asks for them.
 *
 * What a device has leaves its page table before it comes back, and whoever must be told may sleep: so such a block is given up (-ESTALE), and tried again
 * within a round (notifier.h). Only a touch of such a page brings it, and those of its kind around it; never a guess. What went as one folio of 2 MiB comes as
 * one: home first, and from there like any other.
 *
 * A round begins and ends with no table locked. Within it pages are read, and their entries changed, under the PTE table's lock.
 */
#include "mm/fault_impl.h"

#define DEVICE_TRIES 4u
#define BATCH 32u /* blocks at once: see take_home.c */

/* ---- rounds ---------------------------------------------------------------------------------------------------------- */

void tdmi_fault_round_begin(struct tdm_ctx *ctx, struct tdm_inv_range *round, u64 start, u64 end)
{
	if (ctx->needs_whole) {
		start = TDM_ALIGN_DOWN(ctx->needs_round, TDM_HUGE_SIZE);
		end = start + TDM_HUGE_SIZE;
	}
	*round = TDM_INV_RANGE(TDM_MIN(start, ctx->needs_round), TDM_MAX(end, ctx->needs_round + TDM_BLOCK_SIZE), TDM_INV_CLEAR);
	(void)tdmi_invalidate_start(&ctx->mm->notifiers, round);
	ctx->round = round;
	ctx->no_whole = ctx->needs_whole;
	if (ctx->needs_whole)
		(void)tdmi_dev_whole_home(ctx, start, NULL);
}

void tdmi_fault_round_end(struct tdm_ctx *ctx, struct tdm_inv_range *round)
{
	ctx->no_whole = false;
	ctx->round = NULL;
	tdmi_invalidate_end(&ctx->mm->notifiers, round);
}

/* ---- one block ------------------------------------------------------------------------------------------------------- */

/*
 * Pages that a device has in its memory, to at[]. A copy that has failed may work the next time. Where nobody is there to be told, the page that was missed
 * must be had, and the others stay where they are if they cannot be had with it: *mask.
 */
static int read_device(struct block *b, const struct tdm_pte *pte, void **at, u32 *mask)
{
	int r = tdmi_dev_read(b->mm, pte, at, TDM_BLOCK_PAGES);

	for (u32 tries = 1; r && !b->asked && tries < DEVICE_TRIES; tries++) {
		*mask = tries > 1 ? 1u << b->missed : *mask;
		for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
			at[k] = *mask >> k & 1 ? at[k] : NULL;
		r = tdmi_dev_read(b->mm, pte, at, TDM_BLOCK_PAGES);
	}
	/* In here these mean: again, or there is nothing there. A device may mean what it likes. */
	return r == -EAGAIN || r == -ESTALE || r == -ENOENT ? -EIO : r;
}

int tdmi_migrate_to_ram(struct block *b, u32 mask)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_pte pte[TDM_BLOCK_PAGES];
	void *at[TDM_BLOCK_PAGES] = { NULL };
	struct tdm_frame *folio;
	u32 done = 0;
	bool warm, to_home, slow;
	u8 *dst;
	int r;

	folio = tdmi_block_folio_get(mm, b->pt, b->first, mask == 0xffff, &warm);
	if (!folio)
		return -ENOMEM;
	to_home = warm && mask == 0xffff;
	dst = to_home ? tdm_frame_home(&mm->frames, folio) : b->ctx->bounce;
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		pte[k] = tdm_pt_get(b->pt, b->first + k);
		if (mask >> k & 1)
			at[k] = dst + ((size_t)k << TDM_PAGE_SHIFT);
	}
	slow = tdmi_pte_pool(mm, pte[__builtin_ctz(mask)])->ops->slow;
	if (slow)
		go_slow(b->ctx, true);
	r = read_device(b, pte, at, &mask);
	if (slow)
		go_slow(b->ctx, false);
	if (!r)
		r = tdmi_fault_place(b, folio, dst, to_home, mask, &done);
	else if (!b->asked)
		r = tdmi_fault_lose(b, mask, &done);
	tdmi_dev_left_all(mm, pte, done);
	if (!folio->mapcount)
		tdmi_folio_release(mm, folio, 0);
	else if (done)
		tdmi_folio_touched(mm, b->pt, b->first, folio, TDM_LRU_FAULTED);
	return r;
}

/* ---- several --------------------------------------------------------------------------------------------------------- */

/* Are all pages of the block a device's? */
static bool all_private(const struct block *b, u32 first)
{
	for (u32 k = first; k < first + TDM_BLOCK_PAGES; k++)
		if (!tdm_pte_is(tdm_pt_get(b->pt, k), TDM_PTE_T_PRIVATE))
			return false;
	return true;
}

/* The blocks have been read to their homes, which lie side by side: map them by one move. Those that are; what is not is where it was. */
static u32 place_many(struct block *b, struct tdm_frame *folio, u32 n, const struct tdm_pte *pte)
{
	struct tdm_mm *mm = b->mm;
	u32 done = 0;

	for (u32 i = 0; i < n; i++)
		tdmi_homes_wanted(mm, folio + i * TDM_BLOCK_PAGES, 0xffff);
	(void)tdmi_fault_fill(b->ctx, FILL_MOVE, b->va, tdm_frame_home(&mm->frames, folio), n * TDM_BLOCK_PAGES, &done);
	for (u32 i = 0; i < n; i++) {
		struct tdm_frame *f = folio + i * TDM_BLOCK_PAGES;
		u32 got = done > i * TDM_BLOCK_PAGES ? TDM_MIN(done - i * TDM_BLOCK_PAGES, TDM_BLOCK_PAGES) : 0, mask = (1u << got) - 1;
		struct block one = *b;

		one.first += i * TDM_BLOCK_PAGES;
		tdmi_fault_set_lent(&one, f, mask, 0);
		tdmi_dev_left_all(mm, pte + i * TDM_BLOCK_PAGES, mask);
		tdmi_homes_stale(mm, f, 0xffff & ~mask);
		if (f->mapcount)
			tdmi_folio_touched(mm, b->pt, one.first, f, TDM_LRU_FAULTED);
		else
			tdmi_folio_release(mm, f, 0xffff);
	}
	b->hard += done;
	return done / TDM_BLOCK_PAGES;
}

u32 tdmi_migrate_to_ram_many(struct block *b, u32 hi)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_pte pte[BATCH * TDM_BLOCK_PAGES];
	void *dst[BATCH * TDM_BLOCK_PAGES];
	const struct tdm_inv_range *round = b->ctx->round;
	struct tdm_frame *folio;
	u32 n = 0;

	while (round && n < BATCH && b->first + (n + 1) * TDM_BLOCK_PAGES <= hi && b->va >= round->start &&
	       b->va + (n + 1) * TDM_BLOCK_SIZE <= round->end && all_private(b, b->first + n * TDM_BLOCK_PAGES))
		n++;
	n = n > 1 ? tdmi_folios_take_warm_run(&mm->frames, n, &folio) : 0;
	for (u32 i = 0; i < n; i++) {
		folio[i * TDM_BLOCK_PAGES].va = b->va + i * TDM_BLOCK_SIZE;
		tdmi_homes_stale(mm, folio + i * TDM_BLOCK_PAGES, 0xffff);
	}
	for (u32 k = 0; k < n * TDM_BLOCK_PAGES; k++) {
		pte[k] = tdm_pt_get(b->pt, b->first + k);
		dst[k] = (u8 *)tdm_frame_home(&mm->frames, folio) + ((size_t)k << TDM_PAGE_SHIFT);
	}
	if (!n)
		return 0;
	if (!tdmi_dev_read(mm, pte, dst, n * TDM_BLOCK_PAGES))
		return place_many(b, folio, n, pte);
	for (u32 i = 0; i < n; i++)
		tdmi_folio_release(mm, folio + i * TDM_BLOCK_PAGES, 0xffff);
	return 0;
}
