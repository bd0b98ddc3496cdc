/* SPDX-License-Identifier: MIT */
/* swap.c - see swap.h: out, in, drop; and the tiers as one. */
#include "base/lockrank.h"
#include "mm/swap_impl.h"

#define WS_BYTES TDM_ALIGN_UP(sizeof(struct tdm_swap_ws), TDM_PAGE_SIZE)
#define SWAP_BYTES TDM_ALIGN_UP(sizeof(struct tdm_swap), TDM_PAGE_SIZE)

struct tdm_swap_ws *tdmi_swap_ws_create(void)
{
	struct tdm_swap_ws *ws = plat_map(WS_BYTES);

	if (!ws)
		return NULL;
	ws->codec = tdmi_codec_ws_create();
	if (!ws->codec) {
		plat_unmap(ws, WS_BYTES);
		return NULL;
	}
	return ws;
}

void tdmi_swap_ws_destroy(struct tdm_swap_ws *ws)
{
	if (!ws)
		return;
	tdmi_codec_ws_destroy(ws->codec);
	plat_unmap(ws, WS_BYTES);
}

/* ---- out, in, drop --------------------------------------------------------------------------------------------------- */

static bool all_same(const void *const *pages, u32 n, u64 *word)
{
	u64 w;

	if (!tdmi_page_same(pages[0], word))
		return false;
	for (u32 i = 1; i < n; i++)
		if (!tdmi_page_same(pages[i], &w) || w != *word)
			return false;
	return true;
}

void tdmi_swap_bypass(struct tdm_swap *s, bool on)
{
	tdm_a32_st_relaxed(&s->bypass, on);
}

/* The tier that is asked first; after the last one comes tier 0. */
static u32 first_tier(const struct tdm_swap *s)
{
	for (u32 i = 0; tdm_a32_ld_relaxed(&s->bypass) && i < s->ntiers; i++)
		if (!s->tier[i]->in_memory)
			return i;
	return 0;
}

/* Put the packed pages into the first tier that takes them. A memory tier that is full sends its oldest down first. */
static int put_somewhere(struct tdm_swap *s, struct tdm_swap_ws *ws, const void *const *pages, u32 n, bool alone, struct place *p)
{
	struct tdm_blob_info info = { 0 };
	bool counted = false;
	u8 packed = 0;
	int r = -ENOSPC;

	for (u32 k = 0, first = first_tier(s); k < s->ntiers; k++) {
		u32 i = (first + k) % s->ntiers;
		struct tdm_tier *t = s->tier[i];

		if (!packed || (t->in_memory && t->codec != packed)) {
			p->len = tdmi_blob_pack(ws->codec, t->codec, pages, n, alone, ws->out, &info);
			packed = t->codec;
		}
		if (!counted) {
			counted = true;
			count(&s->same_filled, (u32)__builtin_popcount(info.same));
			count(&s->incompressible, (u32)__builtin_popcount(info.incompressible));
		}
		p->tier = (u8)i;
		r = t->ops->put(t, ws->out, p->len, &p->where);
		if (r == -ENOSPC && t->in_memory && i + 1 < s->ntiers && tdmi_swap_demote_tier(s, ws, i, TDM_MAX(4 * p->len, (u32)128 << 10), false))
			r = t->ops->put(t, ws->out, p->len, &p->where);
		if (!r)
			break;
	}
	return r;
}

int tdmi_swap_out(struct tdm_swap *s, struct tdm_swap_ws *ws, const void *const *pages, u32 n, bool alone, u64 *handle)
{
	struct place p = { .tier = TIER_NONE };
	struct blob *b;
	u32 i;
	int r;

	TDM_BUG_ON(!n || n > TDM_BLOB_PAGES);
	r = tdmi_desc_take(s, &i);
	if (r)
		return r;
	b = blob_at(s, i);
	if (all_same(pages, n, &p.where))
		count(&s->same_filled, n);
	else
		r = put_somewhere(s, ws, pages, n, alone, &p);
	if (r) {
		if (r == -ENOSPC)
			count(&s->full, 1);
		tdmi_desc_untake(s, i);
		return r;
	}
	b->where = p.where;
	b->len = p.len;
	b->tier = p.tier;
	tdm_a16_st_relaxed(&b->n, (u16)n);
	b->list = LIST_NONE;
	tdm_a32_st_relaxed(&b->live, (u32)(((u64)1 << n) - 1));
	tdm_a32_st_release(&b->state, 0);
	tdmi_desc_file(s, b, i, false);
	count(&s->pages, n);
	count(&s->out_pages, n);
	count(&s->out_packed, p.len);
	*handle = i;
	/* Blobs become sparse by being restored in part. Keep up with that: one for each that comes. */
	if (p.tier != TIER_NONE && s->tier[p.tier]->in_memory && tdm_a64_ld_relaxed(&s->sparse) > 16)
		tdmi_swap_squeeze(s, ws, p.tier, 1);
	return 0;
}

bool tdmi_swap_slow(struct tdm_swap *s, u64 handle)
{
	struct blob *b = blob_find(s, handle);
	bool slow;

	tdmi_desc_enter(b);
	slow = b->tier != TIER_NONE && !s->tier[b->tier]->in_memory;
	tdmi_desc_leave(s, (u32)handle);
	return slow;
}

int tdmi_swap_in(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 handle, u32 mask, void *const *dst)
{
	struct blob *b = blob_find(s, handle);
	const void *bytes;
	int r = 0;

	TDM_BUG_ON((tdm_a32_ld_relaxed(&b->live) & mask) != mask);
	tdmi_desc_enter(b);
	if (b->tier == TIER_NONE) {
		for (u32 i = 0; i < TDM_BLOB_PAGES; i++)
			if (mask >> i & 1)
				tdmi_page_fill(dst[i], b->where);
	} else {
		r = bytes_get(s, ws, b, &bytes);
		if (!r) {
			r = tdmi_blob_unpack(ws->codec, bytes, b->len, mask, dst);
			bytes_release(s, b);
		}
	}
	tdmi_desc_leave(s, (u32)handle);
	if (!r)
		count(&s->in_pages, (u32)__builtin_popcount(mask));
	return r;
}

void tdmi_swap_drop(struct tdm_swap *s, u64 handle, u32 mask)
{
	struct blob *b = blob_find(s, handle);
	u32 old, pages = (u32)__builtin_popcount(mask);

	/* Our pages are live, so it is not dead. */
	TDM_BUG_ON(!tdmi_desc_hold(b));
	old = tdm_a32_and_acqrel(&b->live, ~mask);
	TDM_BUG_ON((old & mask) != mask);
	tdm_a64_sub_relaxed(&s->pages, pages);
	count(&s->dropped_pages, pages);
	if (old == mask)
		tdm_a32_or_acqrel(&b->state, DEAD);
	else if (old == (mask | KEPT) || is_sparse(old & WANTED & ~mask, pages_in(b)))
		tdmi_desc_relist(s, b, (u32)handle);
	tdmi_desc_leave(s, (u32)handle);
}

/* ---- the whole ------------------------------------------------------------------------------------------------------- */

void tdmi_swap_shrink(struct tdm_swap *s, u64 bytes)
{
	for (u32 i = 0; i < s->ntiers; i++)
		s->tier[i]->ops->shrink(s->tier[i], bytes);
}

static struct tdm_tier_stats tier_stats(const struct tdm_swap *s, u32 i)
{
	struct tdm_tier_stats st;

	s->tier[i]->ops->stats(s->tier[i], &st);
	return st;
}

void tdmi_swap_stats(const struct tdm_swap *s, struct tdm_swap_stats *out)
{
	*out = (struct tdm_swap_stats){
		.pages = tdm_a64_ld_relaxed(&s->pages),
		.raw_bytes = tdm_a64_ld_relaxed(&s->pages) << TDM_PAGE_SHIFT,
		.mem_bytes = tdmi_swap_mem_bytes(s),
		.kept_bytes = tdm_a64_ld_relaxed(&s->kept_bytes),
		.reused_pages = tdm_a64_ld_relaxed(&s->reused),
		.same_filled = tdm_a64_ld_relaxed(&s->same_filled),
		.incompressible = tdm_a64_ld_relaxed(&s->incompressible),
		.out_pages = tdm_a64_ld_relaxed(&s->out_pages),
		.out_packed_bytes = tdm_a64_ld_relaxed(&s->out_packed),
		.in_pages = tdm_a64_ld_relaxed(&s->in_pages),
		.dropped_pages = tdm_a64_ld_relaxed(&s->dropped_pages),
		.demoted_blobs = tdm_a64_ld_relaxed(&s->demoted),
		.full = tdm_a64_ld_relaxed(&s->full),
	};
	for (u32 i = 0; i < s->ntiers; i++) {
		struct tdm_tier_stats st = tier_stats(s, i);

		out->packed_bytes += st.bytes;
		out->disk_bytes += st.disk_bytes;
	}
}

u64 tdmi_swap_mem_bytes(const struct tdm_swap *s)
{
	u64 sum = tdm_a64_ld_relaxed(&s->mem);

	for (u32 i = 0; i < s->ntiers; i++)
		sum += tier_stats(s, i).mem_bytes;
	return sum;
}

struct tdm_tier *tdmi_swap_tier(const struct tdm_swap *s, u32 i)
{
	return i < s->ntiers ? s->tier[i] : NULL;
}

int tdmi_swap_create(struct tdm_tier *const *tiers, u32 ntiers, struct tdm_swap **out)
{
	struct tdm_swap *s;

	if (!ntiers || ntiers > TIERS_MAX)
		return -EINVAL;
	s = plat_map(SWAP_BYTES);
	if (!s)
		return -ENOMEM;
	plat_mutex_init(&s->lock, TDM_RANK_SWAP);
	s->ntiers = ntiers;
	s->free = NIL;
	tdm_a32_st_relaxed(&s->score, SCORE_ONE);
	for (u32 i = 0; i < ntiers; i++) {
		s->tier[i] = tiers[i];
		for (u32 k = 0; k < LISTS; k++)
			s->list[i][k] = (struct list){ NIL, NIL };
	}
	count(&s->mem, TDM_ALIGN_UP(offsetof(struct tdm_swap, block), TDM_PAGE_SIZE) + TDM_PAGE_SIZE);
	*out = s;
	return 0;
}

void tdmi_swap_destroy(struct tdm_swap *s)
{
	if (!s)
		return;
	for (u32 i = 0; i < s->ntiers; i++)
		s->tier[i]->ops->destroy(s->tier[i]);
	for (u32 i = 0; i < BLOCKS_MAX && s->block[i]; i++)
		plat_unmap(s->block[i], BLOCK_BLOBS * sizeof(struct blob));
	plat_unmap(s, SWAP_BYTES);
}

int tdmi_swap_forked(struct tdm_swap *s, bool child)
{
	int r = 0;

	if (child) {
		/* What has been done, the parent did; what there is, the child has, too. */
		tdm_a64 *done[] = { &s->same_filled, &s->incompressible, &s->out_pages, &s->out_packed, &s->in_pages, &s->dropped_pages,
				    &s->reused, &s->demoted, &s->full };

		plat_mutex_reset(&s->lock);
		for (u32 i = 0; i < TDM_ARRAY_SIZE(done); i++)
			tdm_a64_st_relaxed(done[i], 0);
		/* The parent serves faults while it is copied: whoever was reading there is not here. */
		for (u32 i = 0; i < tdm_a32_ld_relaxed(&s->nblobs); i++)
			if (tdm_a32_ld_relaxed(&blob_at(s, i)->state) & READERS)
				tdm_a32_and_acqrel(&blob_at(s, i)->state, ~READERS);
	}
	for (u32 i = 0; i < s->ntiers; i++) {
		int k = s->tier[i]->ops->forked(s->tier[i], child);

		r = r ? r : k;
	}
	return r;
}

u32 tdmi_swap_files(const struct tdm_swap *s, int *fds, u32 max)
{
	u32 n = 0;

	for (u32 i = 0; i < s->ntiers; i++)
		n += s->tier[i]->ops->files(s->tier[i], fds + n, max - n);
	return n;
}

void tdmi_swap_set_files(struct tdm_swap *s, const int *fds, u32 n)
{
	for (u32 i = 0; i < s->ntiers; i++) {
		int old[64];
		u32 k = s->tier[i]->ops->files(s->tier[i], old, TDM_ARRAY_SIZE(old));

		TDM_BUG_ON(k > n);
		s->tier[i]->ops->set_files(s->tier[i], fds, k);
		fds += k;
		n -= k;
	}
}
