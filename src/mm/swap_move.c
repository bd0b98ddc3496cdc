/* SPDX-License-Identifier: MIT */
/*
 * swap_move.c - blobs on their way down, or packed again without what has been dropped of them.
 *
 * A mover pins the bytes, copies them to the next tier while others go on reading, sets MOVING, waits until it is the only reader, and
 * changes the location.
 */
#include "mm/swap_impl.h"

#define TIDY_SLACK ((u64)2 << 20) /* holes in a tier's memory that are not worth the trouble, besides an eighth */

/* Pack the live pages of a blob again, into ws->move. *n: how many. */
static int repack(struct tdm_swap_ws *ws, const void *bytes, u32 len, u32 live, u8 codec, u32 *out_len)
{
	const void *src[TDM_BLOB_PAGES] = { NULL };
	void *dst[TDM_BLOB_PAGES];
	struct tdm_blob_info info;
	u32 count_pages = 0;
	int r;

	if (codec == *(const u8 *)bytes) {
		r = tdmi_blob_strip(ws->codec, bytes, len, live, ws->move);
		*out_len = r > 0 ? (u32)r : 0;
		return TDM_MIN(r, 0);
	}
	for (u32 i = 0; i < TDM_BLOB_PAGES; i++) {
		dst[i] = ws->page[i];
		if (live >> i & 1) {
			src[i] = ws->page[i];
			count_pages = i + 1;
		}
	}
	r = tdmi_blob_unpack(ws->codec, bytes, len, live, dst);
	if (r)
		return r;
	*out_len = tdmi_blob_pack(ws->codec, codec, src, count_pages, false, ws->move, &info);
	return 0;
}

/* Store bytes, of which the pages of `live` are wanted, in the first tier of [from, to) that takes them: *p. -ENOSPC: none does. */
static int store_below(struct tdm_swap *s, struct tdm_swap_ws *ws, const struct blob *b, const void *bytes, u32 live, u32 from, u32 to, struct place *p)
{
	bool sparse = is_sparse(live, pages_in(b));
	int r = -ENOSPC;

	for (u32 i = from; i < to && r; i++) {
		struct tdm_tier *t = s->tier[i];
		const void *src = bytes;
		u8 codec = *(const u8 *)bytes;

		*p = (struct place){ .len = b->len, .tier = (u8)i, .n = (u8)pages_in(b) };
		if (sparse || (t->in_memory && t->codec != codec)) {
			r = repack(ws, bytes, b->len, live, t->in_memory ? t->codec : codec, &p->len);
			if (r)
				break;
			p->n = (u8)__builtin_popcount(live);
			src = ws->move;
		}
		r = t->ops->put(t, src, p->len, &p->where);
	}
	return r;
}

/* Move the bytes of blob b to the first tier in [from, to) that takes them. We are a reader, and it is in no list. */
static int blob_move(struct tdm_swap *s, struct tdm_swap_ws *ws, struct blob *b, u32 from, u32 to)
{
	u32 live = tdm_a32_ld_relaxed(&b->live) & WANTED;
	bool sparse = is_sparse(live, pages_in(b));
	struct place p = { 0 }, old = { b->where, b->len, b->tier, (u8)pages_in(b) };
	const void *bytes;
	int r = bytes_get(s, ws, b, &bytes);

	if (r)
		return r;
	r = live ? store_below(s, ws, b, bytes, live, from, to, &p) : -ENOENT;
	bytes_release(s, b);
	if (r)
		return r;
	tdmi_desc_move_begin(b);
	if (sparse && (tdm_a32_ld_relaxed(&b->live) & WANTED & ~live)) {
		/* It is kept, and a page that the copy lacks has come to be wanted. */
		tdmi_desc_move_end(b);
		s->tier[p.tier]->ops->drop(s->tier[p.tier], p.where, p.len);
		return -EAGAIN;
	}
	plat_mutex_lock(&s->lock);
	b->where = p.where;
	b->len = p.len;
	b->tier = p.tier;
	tdm_a16_st_relaxed(&b->n, p.n);
	plat_mutex_unlock(&s->lock);
	tdmi_desc_move_end(b);
	s->tier[old.tier]->ops->drop(s->tier[old.tier], old.where, old.len);
	return 0;
}

/* Take the first blob out of a list, as a reader. */
static bool list_pop(struct tdm_swap *s, u32 tier, u32 which, u32 *out)
{
	bool found = false;

	plat_mutex_lock(&s->lock);
	for (u32 i = s->list[tier][which].first, next; i != NIL && !found; i = next) {
		struct blob *b = blob_at(s, i);

		next = b->next;
		/* A dead one is about to be taken out by whoever frees it. */
		if (!tdmi_desc_hold(b))
			continue;
		tdmi_desc_list_del(s, b);
		*out = i;
		found = true;
	}
	plat_mutex_unlock(&s->lock);
	return found;
}

u64 tdmi_swap_squeeze(struct tdm_swap *s, struct tdm_swap_ws *ws, u32 t, u32 max)
{
	u64 saved = 0;
	u32 i;

	while (max-- && list_pop(s, t, LIST_SPARSE, &i)) {
		struct blob *b = blob_at(s, i);
		u32 len = b->len;
		int r = blob_move(s, ws, b, t, t + 1);

		if (!r && b->len < len)
			saved += len - b->len;
		plat_mutex_lock(&s->lock);
		/* Not to the sparse ones again, or this could go on for ever. */
		tdmi_desc_list_add(s, b, i, tdm_a32_ld_relaxed(&b->live) == KEPT ? LIST_KEPT : LIST_FIFO, true);
		plat_mutex_unlock(&s->lock);
		tdmi_desc_leave(s, i);
	}
	return saved;
}

u64 tdmi_swap_demote_tier(struct tdm_swap *s, struct tdm_swap_ws *ws, u32 t, u64 bytes, bool net)
{
	u64 moved = 0;
	u32 i;

	while (moved < bytes && list_pop(s, t, LIST_FIFO, &i)) {
		struct blob *b = blob_at(s, i);
		u32 len = b->len;
		int r = blob_move(s, ws, b, t + 1, s->ntiers);

		if (!r) {
			moved += net && s->tier[b->tier]->in_memory ? len - TDM_MIN(len, b->len) : len;
			count(&s->demoted, 1);
		}
		tdmi_desc_file(s, b, i, r == -ENOSPC || r == -EIO);
		tdmi_desc_leave(s, i);
		if (r && r != -ENOENT && r != -EAGAIN)
			break;
	}
	return moved;
}

u64 tdmi_swap_forsake(struct tdm_swap *s, u64 bytes)
{
	u64 freed = 0;
	u32 i;

	for (u32 t = 0; t < s->ntiers; t++)
		while (freed < bytes && list_pop(s, t, LIST_KEPT, &i)) {
			struct blob *b = blob_at(s, i);
			struct place old;
			bool gone;

			tdmi_desc_move_begin(b);
			old = (struct place){ b->where, b->len, b->tier, (u8)pages_in(b) };
			gone = tdm_a32_ld_relaxed(&b->live) == KEPT;
			if (gone)
				b->tier = TIER_GONE;
			tdmi_desc_move_end(b);
			if (gone) {
				s->tier[old.tier]->ops->drop(s->tier[old.tier], old.where, old.len);
				freed += old.len;
			} else {
				tdmi_desc_file(s, b, i, false);
			}
			tdmi_desc_leave(s, i);
		}
	return freed;
}

u64 tdmi_swap_tidy(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 bytes)
{
	u64 saved = 0;

	for (u32 i = 0; i < s->ntiers && saved < bytes; i++) {
		struct tdm_tier_stats st;
		u64 got = 1;

		if (!s->tier[i]->in_memory)
			continue;
		while (saved < bytes && got && tdm_a64_ld_relaxed(&s->sparse))
			saved += got = tdmi_swap_squeeze(s, ws, i, 16);
		/* Blobs leave holes; it is chunks that are memory. */
		s->tier[i]->ops->stats(s->tier[i], &st);
		if (st.mem_bytes - TDM_MIN(st.bytes, st.mem_bytes) > st.bytes / 16 + TIDY_SLACK)
			s->tier[i]->ops->shrink(s->tier[i], TDM_MIN(bytes, st.mem_bytes - st.bytes));
	}
	return saved;
}

u64 tdmi_swap_demote(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 bytes)
{
	u64 moved = tdmi_swap_forsake(s, bytes);

	for (u32 i = 0; i < s->ntiers && moved < bytes; i++) {
		u64 before = moved;

		if (!s->tier[i]->in_memory)
			continue;
		while (moved < bytes && tdm_a64_ld_relaxed(&s->sparse)) {
			u64 saved = tdmi_swap_squeeze(s, ws, i, 16);

			moved += saved;
			if (!saved)
				break;
		}
		if (moved < bytes && i + 1 < s->ntiers)
			moved += tdmi_swap_demote_tier(s, ws, i, bytes - moved, true);
		/* Blobs leave holes; it is chunks that are memory. */
		if (moved > before)
			s->tier[i]->ops->shrink(s->tier[i], moved - before);
	}
	return moved;
}
