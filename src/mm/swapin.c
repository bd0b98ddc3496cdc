/* SPDX-License-Identifier: MIT */
/*
 * swapin.c - a hard fault: pages come back from a tier, all that a block has in one blob at once.
 *
 * They are unpacked to their homes and moved, if it is the whole block and those have physical pages, or else to the thread's bounce buffer and copied. Of a
 * guess (predict.h) one page is mapped, and the others stay at home. What has come is dropped from the blob, unless that is worth keeping (swap_keep.c). The
 * caller holds the PTE table's lock, also while a slow tier is read: somebody else is told to serve the next fault.
 */
#include "mm/fault_impl.h"

/* The pages of one blob: mask in the block, blob_mask in the blob, dst by index in the blob. */
struct blob_part {
	u64 handle;
	u32 mask, blob_mask;
	u32 clock;
	void *dst[TDM_BLOCK_PAGES];
	u8 at[TDM_BLOCK_PAGES]; /* index in the block by index in the blob */
};

/* All swap entries of *mask that are in the same blob as the first one; they leave *mask. */
static void gather_blob(struct block *b, u32 *mask, struct blob_part *p)
{
	u32 first = (u32)__builtin_ctz(*mask);
	struct tdm_pte pte = tdm_pt_get(b->pt, b->first + first);

	*p = (struct blob_part){ .handle = tdm_pte_swap_handle(pte), .clock = tdm_pte_swap_clock(pte) };
	for (u32 i = first; i < TDM_BLOCK_PAGES; i++) {
		pte = tdm_pt_get(b->pt, b->first + i);
		if (!(*mask >> i & 1) || tdm_pte_swap_handle(pte) != p->handle)
			continue;
		p->mask |= 1u << i;
		p->blob_mask |= 1u << tdm_pte_swap_index(pte);
		p->at[tdm_pte_swap_index(pte)] = (u8)i;
		*mask &= ~(1u << i);
	}
}

/* The pages of mask, whose bytes are home now, stay there, to see whether they are used. */
static u32 set_guess(struct block *b, struct tdm_frame *folio, u32 mask)
{
	u64 pfn = tdm_frame_pfn(&b->mm->frames, folio).v;

	tdmi_homes_wanted(b->mm, folio, mask);
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (mask >> k & 1) {
			u64 distance = 31 - (u32)__builtin_clz(k ^ b->guess);

			tdmi_page_set(b->mm, b->pt, b->first + k, tdm_pte_mk((struct tdm_pfn){ pfn + k },
				      TDM_PTE_WRITE | TDM_PTE_GUESS | distance << TDM_PTE_DISTANCE_SHIFT));
		}
	if (mask)
		tdmi_lru_add_home(&b->mm->lru, folio);
	return mask;
}

/* Has the whole block been restored from one blob, each page from its own place in it? Then it may be kept. */
static bool keep_blob(struct block *b, const struct blob_part *p, struct tdm_frame *folio, u32 done)
{
	bool all = done == 0xffff && p->blob_mask == 0xffff;

	for (u32 k = 0; all && k < TDM_BLOCK_PAGES; k++)
		all = p->at[k] == k;
	if (!all || !tdmi_swap_keep(b->mm->swap, p->handle))
		return false;
	tdmi_folio_keep(b->mm, folio, (u32)p->handle + 1);
	return true;
}

/* The pages of the part, to dst at their offsets in the block. -EIO, -EBADMSG, or what else the tier says. */
static int unpack(struct block *b, struct blob_part *p, u8 *dst)
{
	bool slow = tdmi_swap_slow(b->mm->swap, p->handle);
	int r;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (p->blob_mask >> k & 1)
			p->dst[k] = dst + ((size_t)p->at[k] << TDM_PAGE_SHIFT);
	if (slow)
		go_slow(b->ctx, true);
	r = tdmi_swap_in(b->mm->swap, b->ctx->ws, p->handle, p->blob_mask, p->dst);
	if (slow)
		go_slow(b->ctx, false);
	return r;
}

/* Nobody needs the blob for these pages of the block any more. */
static void drop_blob(struct block *b, const struct blob_part *p, u32 pages)
{
	u32 drop = 0;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if ((p->blob_mask >> k & 1) && (pages >> p->at[k] & 1))
			drop |= 1u << k;
	tdmi_swap_drop(b->mm->swap, p->handle, drop);
}

static int bring_blob(struct block *b, struct blob_part *p)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_frame *folio;
	u32 done = 0, dropped = 0;
	bool warm, to_home, guess;
	u8 *dst;
	int r;

	folio = tdmi_block_folio_get(mm, b->pt, b->first, p->mask == 0xffff, &warm);
	if (!folio)
		return -ENOMEM;
	/* A warm folio has its physical pages: unpack into them and move. Otherwise copying is cheaper than faulting pages in for it. */
	guess = b->guess != NO_GUESS && (p->mask >> b->guess & 1);
	to_home = guess || (warm && p->mask == 0xffff);
	dst = to_home ? tdm_frame_home(&mm->frames, folio) : b->ctx->bounce;
	r = unpack(b, p, dst);
	if (r && guess)
		tdmi_homes_stale(mm, folio, p->mask);
	if (!b->asked && (r == -EIO || r == -EBADMSG)) {
		r = tdmi_fault_lose(b, p->mask, &dropped);
	} else if (!r) {
		r = tdmi_fault_place(b, folio, dst, to_home, guess ? 1u << b->guess : p->mask, &done);
		dropped = done;
		if (guess && done)
			dropped |= set_guess(b, folio, p->mask & ~done);
		else if (guess)
			tdmi_homes_stale(mm, folio, p->mask & ~done);
		if (tdmi_lru_recent(&mm->lru, p->clock))
			b->refaults += (u32)__builtin_popcount(done);
	}
	if (dropped && !keep_blob(b, p, folio, done))
		drop_blob(b, p, dropped);
	if (!folio->mapcount)
		tdmi_folio_release(mm, folio, 0);
	else if (done)
		tdmi_folio_touched(mm, b->pt, b->first, folio, b->refaults ? TDM_LRU_REFAULT : TDM_LRU_FAULTED);
	return r;
}

int tdmi_swapin(struct block *b, u32 mask)
{
	int r = 0;

	while (!r && mask) {
		struct blob_part p;

		gather_blob(b, &mask, &p);
		r = bring_blob(b, &p);
	}
	return r;
}
