/* SPDX-License-Identifier: MIT */
/*
 * swap.c - see swap.h.
 *
 * A blob's descriptor says where its bytes are and which of its pages are still wanted. Its state word:
 *
 *     readers   who looks at the descriptor now. It is freed by the last of them once it is DEAD.
 *     MOVING    the location changes: who wants to read the bytes waits (a few microseconds)
 *     WAITERS   somebody sleeps on it
 *     DEAD      its last page was dropped
 *
 * The word `live` says which of its pages are wanted, and whether the blob is KEPT for the folio whose pages it held: until that lets go of it the
 * descriptor stays, though its bytes may go (TIER_GONE), or those of pages that are not wanted.
 *
 * A mover pins the bytes, copies them to the next tier while others go on reading, sets MOVING, waits until it is the only reader, and
 * changes the location.
 *
 * Blobs in memory tiers are in one of three lists of their tier: fifo, oldest first, for demotion; sparse, when a quarter of the packed pages
 * is not wanted any more: those are stored again without them; or kept, when none is wanted.
 */
#include <string.h>

#include "base/check.h"
#include "base/lockrank.h"
#include "mm/swap.h"
#include "pool/codec.h"

#define TIERS_MAX 8u
#define TIER_NONE 0xffu /* every page is filled with the word in `where` */
#define TIER_GONE 0xfeu /* it is kept, but its bytes were given up */
#define BLOCK_BLOBS 2048u
#define BLOCKS_MAX 65536u
#define NIL (~(u32)0)
#define TIDY_SLACK ((u64)2 << 20) /* holes in a tier's memory that are not worth the trouble, besides an eighth */
#define BLOB_BUF TDM_ALIGN_UP(TDM_BLOB_MAX, TDM_PAGE_SIZE)

#define MOVING ((u32)1 << 31)
#define WAITERS ((u32)1 << 30)
#define DEAD ((u32)1 << 29)
#define READERS (DEAD - 1)

#define WANTED ((u32)0xffff) /* in live */
#define KEPT ((u32)1 << 16)

/* Pages that turned out to be what their kept blob said, of the last SCORE_ONE or so, in that unit: below a quarter, keeping costs more than it saves. Now and
 * then one is kept all the same, to see. */
#define SCORE_ONE 4096u
#define SCORE_TRY 16u

enum { LIST_NONE, LIST_FIFO, LIST_SPARSE, LIST_KEPT, LISTS };

struct blob {
	tdm_a32 state;
	tdm_a32 live;   /* mask of pages that are wanted, and KEPT */
	u64 where;      /* the tier's handle; for TIER_NONE the word. This and the next three: changed by the mover, under MOVING and lock */
	u32 len;
	u8 tier;
	u8 n;           /* pages that are in the bytes */
	u8 list;        /* guarded by swap->lock, like the links */
	u8 pad;
	u32 next, prev; /* next is also the free list's */
};

struct list {
	u32 first, last;
};

struct tdm_swap {
	struct plat_mutex lock; /* TDM_RANK_SWAP: lists and descriptors */
	struct tdm_tier *tier[TIERS_MAX];
	u32 ntiers;
	struct list list[TIERS_MAX][LISTS];
	tdm_a64 sparse;         /* blobs in sparse lists; written under the lock */
	tdm_a64 kept_bytes;     /* in kept lists; likewise */
	tdm_a64 kept_limit;
	tdm_a32 score;          /* racing updates may be lost */
	tdm_a32 refused;        /* since one was last kept all the same; likewise */
	u32 free;
	tdm_a32 nblobs;         /* descriptors ever made */
	tdm_a64 mem;            /* descriptors, bytes */
	tdm_a64 pages, same_filled, incompressible, out_pages, out_packed, in_pages, dropped_pages, reused, demoted, full;
	struct blob *block[BLOCKS_MAX];
};

struct tdm_swap_ws {
	struct tdm_codec_ws *codec;
	u8 out[BLOB_BUF] __attribute__((aligned(4096)));  /* a blob on its way out */
	u8 move[BLOB_BUF] __attribute__((aligned(4096))); /* a blob packed again on its way down */
	u8 io[BLOB_BUF] __attribute__((aligned(4096)));   /* a blob read from a file */
	u8 page[TDM_BLOB_PAGES][TDM_PAGE_SIZE] __attribute__((aligned(4096)));
};

#define WS_BYTES TDM_ALIGN_UP(sizeof(struct tdm_swap_ws), TDM_PAGE_SIZE)
#define SWAP_BYTES TDM_ALIGN_UP(sizeof(struct tdm_swap), TDM_PAGE_SIZE)

_Static_assert(sizeof(struct blob) == 32, "a descriptor is 32 bytes");

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

static void count(tdm_a64 *a, u64 by)
{
	tdm_a64_add_relaxed(a, by);
}

/* ---- descriptors ----------------------------------------------------------------------------------------------------- */

static struct blob *blob_at(struct tdm_swap *s, u64 i)
{
	return &s->block[i / BLOCK_BLOBS][i % BLOCK_BLOBS];
}

/* For a handle that came from outside. */
static struct blob *blob_find(struct tdm_swap *s, u64 handle)
{
	TDM_BUG_ON(handle >= tdm_a32_ld_relaxed(&s->nblobs));
	return blob_at(s, handle);
}

static int blob_take(struct tdm_swap *s, u32 *out)
{
	u32 i;
	int r = 0;

	plat_mutex_lock(&s->lock);
	i = s->free;
	if (i != NIL) {
		s->free = blob_at(s, i)->next;
	} else if (tdm_a32_ld_relaxed(&s->nblobs) == BLOCK_BLOBS * BLOCKS_MAX) {
		r = -ENOSPC;
	} else {
		i = tdm_a32_ld_relaxed(&s->nblobs);
		if (i % BLOCK_BLOBS == 0)
			s->block[i / BLOCK_BLOBS] = plat_map(BLOCK_BLOBS * sizeof(struct blob));
		if (!s->block[i / BLOCK_BLOBS]) {
			r = -ENOMEM;
		} else {
			if (i * sizeof(struct blob) % TDM_PAGE_SIZE == 0)
				count(&s->mem, TDM_PAGE_SIZE);
			tdm_a32_st_relaxed(&s->nblobs, i + 1);
		}
	}
	plat_mutex_unlock(&s->lock);
	*out = i;
	return r;
}

static void list_add(struct tdm_swap *s, struct blob *b, u32 i, u32 which, bool first)
{
	struct list *l = &s->list[b->tier][which];
	u32 *end = first ? &l->first : &l->last, *other = first ? &l->last : &l->first;

	b->list = (u8)which;
	b->next = first ? *end : NIL;
	b->prev = first ? NIL : *end;
	if (*end == NIL)
		*other = i;
	else if (first)
		blob_at(s, *end)->prev = i;
	else
		blob_at(s, *end)->next = i;
	*end = i;
	if (which == LIST_SPARSE)
		count(&s->sparse, 1);
	if (which == LIST_KEPT)
		count(&s->kept_bytes, b->len);
}

static void list_del(struct tdm_swap *s, struct blob *b)
{
	struct list *l = &s->list[b->tier][b->list];

	if (b->list == LIST_NONE)
		return;
	if (b->prev == NIL)
		l->first = b->next;
	else
		blob_at(s, b->prev)->next = b->next;
	if (b->next == NIL)
		l->last = b->prev;
	else
		blob_at(s, b->next)->prev = b->prev;
	if (b->list == LIST_SPARSE)
		tdm_a64_sub_relaxed(&s->sparse, 1);
	if (b->list == LIST_KEPT)
		tdm_a64_sub_relaxed(&s->kept_bytes, b->len);
	b->list = LIST_NONE;
}

/* Are its bytes in a tier? */
static bool has_bytes(const struct blob *b)
{
	return b->tier != TIER_NONE && b->tier != TIER_GONE;
}

/* Back into, or for the first time in, the list where it belongs. */
static void list_file(struct tdm_swap *s, struct blob *b, u32 i, bool oldest)
{
	u32 live;

	if (!has_bytes(b) || !s->tier[b->tier]->in_memory)
		return;
	plat_mutex_lock(&s->lock);
	live = tdm_a32_ld_relaxed(&b->live);
	list_add(s, b, i, live == KEPT ? LIST_KEPT : (u32)__builtin_popcount(live & WANTED) * 2 < b->n ? LIST_SPARSE : LIST_FIFO, oldest);
	plat_mutex_unlock(&s->lock);
}

/* Are so many pages of a blob dropped that it ought to be stored without them? */
static bool is_sparse(u32 wanted, u32 n)
{
	return (u32)__builtin_popcount(wanted) * 4 <= n * 3;
}

/* What is wanted of a blob has changed. Whoever has taken it out of all lists will see. */
static void relist(struct tdm_swap *s, struct blob *b, u32 i)
{
	u32 live, which;

	plat_mutex_lock(&s->lock);
	live = tdm_a32_ld_relaxed(&b->live);
	which = live == KEPT ? LIST_KEPT : is_sparse(live & WANTED, b->n) ? LIST_SPARSE : LIST_FIFO;
	/* A sparse one was perhaps stored without the rest; it does not become one again (squeeze()). */
	if (b->list != LIST_NONE && b->list != which && !(b->list == LIST_SPARSE && which == LIST_FIFO)) {
		list_del(s, b);
		list_add(s, b, i, which, false);
	}
	plat_mutex_unlock(&s->lock);
}

static void blob_free(struct tdm_swap *s, u32 i)
{
	struct blob *b = blob_at(s, i);

	if (has_bytes(b))
		s->tier[b->tier]->ops->drop(s->tier[b->tier], b->where, b->len);
	plat_mutex_lock(&s->lock);
	if (has_bytes(b))
		list_del(s, b);
	b->next = s->free;
	s->free = i;
	plat_mutex_unlock(&s->lock);
}

/* ---- the state word -------------------------------------------------------------------------------------------------- */

/* One reader more, who does not look at the location. false: it is dead. */
static bool hold(struct blob *b)
{
	u32 old = tdm_a32_ld_relaxed(&b->state);

	do
		if (old & DEAD)
			return false;
	while (!tdm_a32_cas_acqrel(&b->state, &old, old + 1));
	return true;
}

/* One reader more, who finds the location stable. */
static void enter(struct blob *b)
{
	u32 old = tdm_a32_ld_relaxed(&b->state);

	for (;;) {
		TDM_BUG_ON(old & DEAD);
		if (!(old & MOVING)) {
			if (tdm_a32_cas_acqrel(&b->state, &old, old + 1))
				return;
		} else if ((old & WAITERS) || tdm_a32_cas_acqrel(&b->state, &old, old | WAITERS)) {
			plat_wait(&b->state, old | WAITERS, ~(u64)0);
			old = tdm_a32_ld_relaxed(&b->state);
		}
	}
}

static void leave(struct tdm_swap *s, u32 i)
{
	u32 old = tdm_a32_sub_acqrel(&blob_at(s, i)->state, 1);

	if ((old & (DEAD | READERS)) == (DEAD | 1))
		blob_free(s, i);
}

/* By a reader: keep new readers of the location out, and wait for those who are in. */
static void move_begin(struct blob *b)
{
	tdm_a32_or_acqrel(&b->state, MOVING);
	while ((tdm_a32_ld_acquire(&b->state) & READERS) != 1)
		plat_yield();
}

static void move_end(struct blob *b)
{
	u32 old = tdm_a32_and_acqrel(&b->state, ~(MOVING | WAITERS));

	if (old & WAITERS)
		plat_wake(&b->state, ~(u32)0 >> 1);
}

/* ---- moving blobs ---------------------------------------------------------------------------------------------------- */

/* See the bytes of a blob of which we are a reader. */
static int bytes_get(struct tdm_swap *s, struct tdm_swap_ws *ws, const struct blob *b, const void **bytes)
{
	return s->tier[b->tier]->ops->get(s->tier[b->tier], b->where, b->len, ws->io, bytes);
}

static void bytes_release(struct tdm_swap *s, const struct blob *b)
{
	s->tier[b->tier]->ops->release(s->tier[b->tier], b->where);
}

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

struct place {
	u64 where;
	u32 len;
	u8 tier, n;
};

/* Move the bytes of blob b to the first tier in [from, to) that takes them. We are a reader, and it is in no list. */
static int blob_move(struct tdm_swap *s, struct tdm_swap_ws *ws, struct blob *b, u32 from, u32 to)
{
	u32 live = tdm_a32_ld_relaxed(&b->live) & WANTED;
	bool sparse = is_sparse(live, b->n);
	struct place p = { 0 }, old = { b->where, b->len, b->tier, b->n };
	const void *bytes;
	int r = bytes_get(s, ws, b, &bytes);

	if (r)
		return r;
	r = live ? -ENOSPC : -ENOENT;
	for (u32 i = from; i < to && r && live; i++) {
		struct tdm_tier *t = s->tier[i];
		const void *src = bytes;
		u8 codec = *(const u8 *)bytes;

		p = (struct place){ .len = b->len, .tier = (u8)i, .n = b->n };
		if (sparse || (t->in_memory && t->codec != codec)) {
			r = repack(ws, bytes, b->len, live, t->in_memory ? t->codec : codec, &p.len);
			if (r)
				break;
			p.n = (u8)__builtin_popcount(live);
			src = ws->move;
		}
		r = t->ops->put(t, src, p.len, &p.where);
	}
	bytes_release(s, b);
	if (r)
		return r;
	move_begin(b);
	if (sparse && (tdm_a32_ld_relaxed(&b->live) & WANTED & ~live)) {
		/* It is kept, and a page that the copy lacks has come to be wanted. */
		move_end(b);
		s->tier[p.tier]->ops->drop(s->tier[p.tier], p.where, p.len);
		return -EAGAIN;
	}
	plat_mutex_lock(&s->lock);
	b->where = p.where;
	b->len = p.len;
	b->tier = p.tier;
	b->n = p.n;
	plat_mutex_unlock(&s->lock);
	move_end(b);
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
		if (!hold(b))
			continue;
		list_del(s, b);
		*out = i;
		found = true;
	}
	plat_mutex_unlock(&s->lock);
	return found;
}

/* Store up to max blobs of memory tier t without what has been dropped of them. The bytes saved. */
static u64 squeeze(struct tdm_swap *s, struct tdm_swap_ws *ws, u32 t, u32 max)
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
		list_add(s, b, i, tdm_a32_ld_relaxed(&b->live) == KEPT ? LIST_KEPT : LIST_FIFO, true);
		plat_mutex_unlock(&s->lock);
		leave(s, i);
	}
	return saved;
}

/* Move the oldest blobs of memory tier t down until that was so many bytes; net: less what they take in a memory tier below. What it was. */
static u64 demote_tier(struct tdm_swap *s, struct tdm_swap_ws *ws, u32 t, u64 bytes, bool net)
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
		list_file(s, b, i, r == -ENOSPC || r == -EIO);
		leave(s, i);
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

			move_begin(b);
			old = (struct place){ b->where, b->len, b->tier, b->n };
			gone = tdm_a32_ld_relaxed(&b->live) == KEPT;
			if (gone)
				b->tier = TIER_GONE;
			move_end(b);
			if (gone) {
				s->tier[old.tier]->ops->drop(s->tier[old.tier], old.where, old.len);
				freed += old.len;
			} else {
				list_file(s, b, i, false);
			}
			leave(s, i);
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
			saved += got = squeeze(s, ws, i, 16);
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
			u64 saved = squeeze(s, ws, i, 16);

			moved += saved;
			if (!saved)
				break;
		}
		if (moved < bytes && i + 1 < s->ntiers)
			moved += demote_tier(s, ws, i, bytes - moved, true);
		/* Blobs leave holes; it is chunks that are memory. */
		if (moved > before)
			s->tier[i]->ops->shrink(s->tier[i], moved - before);
	}
	return moved;
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

/* Put the packed pages into the first tier that takes them. A memory tier that is full sends its oldest down first. */
static int put_somewhere(struct tdm_swap *s, struct tdm_swap_ws *ws, const void *const *pages, u32 n, bool alone, struct place *p)
{
	struct tdm_blob_info info = { 0 };
	bool counted = false;
	u8 packed = 0;
	int r = -ENOSPC;

	for (u32 i = 0; i < s->ntiers; i++) {
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
		if (r == -ENOSPC && t->in_memory && i + 1 < s->ntiers && demote_tier(s, ws, i, TDM_MAX(4 * p->len, (u32)128 << 10), false))
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
	r = blob_take(s, &i);
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
		plat_mutex_lock(&s->lock);
		b->next = s->free;
		s->free = i;
		plat_mutex_unlock(&s->lock);
		return r;
	}
	b->where = p.where;
	b->len = p.len;
	b->tier = p.tier;
	b->n = (u8)n;
	b->list = LIST_NONE;
	tdm_a32_st_relaxed(&b->live, (u32)(((u64)1 << n) - 1));
	tdm_a32_st_release(&b->state, 0);
	list_file(s, b, i, false);
	count(&s->pages, n);
	count(&s->out_pages, n);
	count(&s->out_packed, p.len);
	*handle = i;
	/* Blobs become sparse by being restored in part. Keep up with that: one for each that comes. */
	if (p.tier != TIER_NONE && s->tier[p.tier]->in_memory && tdm_a64_ld_relaxed(&s->sparse) > 16)
		squeeze(s, ws, p.tier, 1);
	return 0;
}

bool tdmi_swap_slow(struct tdm_swap *s, u64 handle)
{
	struct blob *b = blob_find(s, handle);
	bool slow;

	enter(b);
	slow = b->tier != TIER_NONE && !s->tier[b->tier]->in_memory;
	leave(s, (u32)handle);
	return slow;
}

int tdmi_swap_in(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 handle, u32 mask, void *const *dst)
{
	struct blob *b = blob_find(s, handle);
	const void *bytes;
	int r = 0;

	TDM_BUG_ON((tdm_a32_ld_relaxed(&b->live) & mask) != mask);
	enter(b);
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
	leave(s, (u32)handle);
	if (!r)
		count(&s->in_pages, (u32)__builtin_popcount(mask));
	return r;
}

void tdmi_swap_drop(struct tdm_swap *s, u64 handle, u32 mask)
{
	struct blob *b = blob_find(s, handle);
	u32 old, pages = (u32)__builtin_popcount(mask);

	/* Our pages are live, so it is not dead. */
	TDM_BUG_ON(!hold(b));
	old = tdm_a32_and_acqrel(&b->live, ~mask);
	TDM_BUG_ON((old & mask) != mask);
	tdm_a64_sub_relaxed(&s->pages, pages);
	count(&s->dropped_pages, pages);
	if (old == mask)
		tdm_a32_or_acqrel(&b->state, DEAD);
	else if (old == (mask | KEPT) || is_sparse(old & WANTED & ~mask, b->n))
		relist(s, b, (u32)handle);
	leave(s, (u32)handle);
}

/* ---- keeping --------------------------------------------------------------------------------------------------------- */

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

	enter(b);
	keep = worth_keeping(s, b);
	if (keep) {
		old = tdm_a32_xchg_acqrel(&b->live, KEPT);
		pages = (u32)__builtin_popcount(old & WANTED);
		tdm_a64_sub_relaxed(&s->pages, pages);
		count(&s->dropped_pages, pages);
		relist(s, b, (u32)handle);
	}
	leave(s, (u32)handle);
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

	enter(b);
	/* Wanted first: from here on nobody stores the blob without them. */
	old = tdm_a32_or_acqrel(&b->live, mask);
	TDM_BUG_ON(!(old & KEPT));
	/* Some of these are somebody else's by now: mremap() has moved entries away, and there is something new at the old place. */
	if (old & mask) {
		(void)tdm_a32_and_acqrel(&b->live, ~(mask & ~old));
		relist(s, b, (u32)handle);
		leave(s, (u32)handle);
		return false;
	}
	same = is_same(s, ws, b, mask, pages);
	note_reuse(s, n, same ? n : 0);
	if (same) {
		count(&s->pages, n);
		count(&s->out_pages, n);
		count(&s->out_packed, (u64)b->len * n / b->n);
		count(&s->reused, n);
		relist(s, b, (u32)handle);
	} else {
		(void)tdm_a32_and_acqrel(&b->live, ~mask);
	}
	leave(s, (u32)handle);
	return same;
}

void tdmi_swap_forget(struct tdm_swap *s, u64 handle)
{
	struct blob *b = blob_find(s, handle);
	u32 old;

	TDM_BUG_ON(!hold(b));
	old = tdm_a32_and_acqrel(&b->live, ~KEPT);
	TDM_BUG_ON(!(old & KEPT));
	if (old == KEPT)
		tdm_a32_or_acqrel(&b->state, DEAD);
	leave(s, (u32)handle);
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
