/* SPDX-License-Identifier: MIT */
/* swap_keep.c - a blob that stays, though all its pages are back: whoever evicts them again unchanged need not pack them. */
#include <string.h>

#include "mm/swap_impl.h"

#define SCORE_TRY 16u /* of so many that are not worth keeping one is kept all the same, to see */

void tdmi_swap_keep_limit(struct tdm_swap *s, u64 bytes)
{
	tdm_a64_st_relaxed(&s->kept_limit, bytes);
}

u64 tdmi_swap_kept(const struct tdm_swap *s)
{
	return tdm_a64_ld_relaxed(&s->kept_bytes);
}

static void note_reuse(struct tdm_swap *s, u32 tried, u32 same)
{
	u32 score = tdm_a32_ld_relaxed(&s->score);

	/* Of a full blob each weighs a sixteenth. */
	tdm_a32_st_relaxed(&s->score, score - score * tried / 256 + SCORE_ONE * same / 256);
}

static bool worth_keeping(struct tdm_swap *s, const struct blob *b)
{
	u32 refused = tdm_a32_ld_relaxed(&s->refused);

	if (!has_bytes(b) || !s->tier[b->tier]->in_memory ||
	    tdm_a64_ld_relaxed(&s->kept_bytes) + b->len > tdm_a64_ld_relaxed(&s->kept_limit))
		return false;
	if (tdm_a32_ld_relaxed(&s->score) >= SCORE_ONE / 4)
		return true;
	tdm_a32_st_relaxed(&s->refused, refused < SCORE_TRY ? refused + 1 : 0);
	return refused >= SCORE_TRY;
}

bool tdmi_swap_keep(struct tdm_swap *s, u64 handle)
{
	struct blob *b = blob_find(s, handle);
	u32 old, pages;
	bool keep;

	tdmi_desc_enter(b);
	keep = worth_keeping(s, b);
	if (keep) {
		old = tdm_a32_xchg_acqrel(&b->live, KEPT);
		pages = (u32)__builtin_popcount(old & WANTED);
		tdm_a64_sub_relaxed(&s->pages, pages);
		count(&s->dropped_pages, pages);
		tdmi_desc_relist(s, b, (u32)handle);
	}
	tdmi_desc_leave(s, (u32)handle);
	return keep;
}

/* Are the pages what the blob says? We are a reader. */
static bool is_same(struct tdm_swap *s, struct tdm_swap_ws *ws, const struct blob *b, u32 mask, const void *const *pages)
{
	u32 first = mask & (3u << (__builtin_ctz(mask) & ~1)), part[] = { first, mask & ~first };
	void *dst[TDM_BLOB_PAGES];
	const void *bytes;
	bool same = true;

	if (!has_bytes(b) || !s->tier[b->tier]->in_memory || bytes_get(s, ws, b, &bytes))
		return false;
	for (u32 i = 0; i < TDM_BLOB_PAGES; i++)
		dst[i] = ws->page[i];
	/* Mostly one pair tells. */
	for (u32 k = 0; same && k < 2; k++) {
		same = !part[k] || !tdmi_blob_unpack(ws->codec, bytes, b->len, part[k], dst);
		for (u32 i = 0; same && i < TDM_BLOB_PAGES; i++)
			same = !(part[k] >> i & 1) || !memcmp(ws->page[i], pages[i], TDM_PAGE_SIZE);
	}
	bytes_release(s, b);
	return same;
}

bool tdmi_swap_reuse(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 handle, u32 mask, const void *const *pages)
{
	struct blob *b = blob_find(s, handle);
	u32 old, n = (u32)__builtin_popcount(mask);
	bool same;

	tdmi_desc_enter(b);
	/* Wanted first: from here on nobody stores the blob without them. */
	old = tdm_a32_or_acqrel(&b->live, mask);
	TDM_BUG_ON(!(old & KEPT));
	/* Some of these are somebody else's by now: mremap() has moved entries away, and there is something new at the old place. */
	if (old & mask) {
		(void)tdm_a32_and_acqrel(&b->live, ~(mask & ~old));
		tdmi_desc_relist(s, b, (u32)handle);
		tdmi_desc_leave(s, (u32)handle);
		return false;
	}
	same = is_same(s, ws, b, mask, pages);
	note_reuse(s, n, same ? n : 0);
	if (same) {
		count(&s->pages, n);
		count(&s->out_pages, n);
		count(&s->out_packed, (u64)b->len * n / pages_in(b));
		count(&s->reused, n);
		tdmi_desc_relist(s, b, (u32)handle);
	} else {
		(void)tdm_a32_and_acqrel(&b->live, ~mask);
	}
	tdmi_desc_leave(s, (u32)handle);
	return same;
}

void tdmi_swap_forget(struct tdm_swap *s, u64 handle)
{
	struct blob *b = blob_find(s, handle);
	u32 old;

	TDM_BUG_ON(!tdmi_desc_hold(b));
	old = tdm_a32_and_acqrel(&b->live, ~KEPT);
	TDM_BUG_ON(!(old & KEPT));
	if (old == KEPT)
		tdm_a32_or_acqrel(&b->state, DEAD);
	tdmi_desc_leave(s, (u32)handle);
}
