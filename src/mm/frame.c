/* SPDX-License-Identifier: MIT */
/*
 * frame.c - the buddy allocator of frames.
 *
 * Free folios are linked by frame number through their descriptors. Frames that were never used are not on any list: `fresh` is where they
 * begin, so that an arena of many GiB costs nothing before it is needed; fresh frames are taken 512 at a time.
 *
 * Locking: f->lock, a leaf.
 */
#include "mm/frame.h"
#include "base/check.h"
#include "base/lockrank.h"

#define FREE_ORDER 0x80u /* in the order of the first frame of a free folio */
#define DIRTY_ORDER 0x40u /* likewise, of a dirty one */
#define RIPE_PAGES 64u /* emptied together they cost less than a microsecond each; more would save little, and others wait for it */

static void list_push(struct tdm_frames *f, u32 *head, u32 nr)
{
	struct tdm_frame *d = &f->desc[nr];

	d->prev = TDM_FRAME_NIL;
	d->next = *head;
	if (*head != TDM_FRAME_NIL)
		f->desc[*head].prev = nr;
	*head = nr;
}

static void list_del(struct tdm_frames *f, u32 *head, u32 nr)
{
	struct tdm_frame *d = &f->desc[nr];

	if (d->prev != TDM_FRAME_NIL)
		f->desc[d->prev].next = d->next;
	else
		*head = d->next;
	if (d->next != TDM_FRAME_NIL)
		f->desc[d->next].prev = d->prev;
}

static size_t dirty_bytes(u32 nframes)
{
	/* And whether it is isolated. */
	return TDM_ALIGN_UP(nframes / TDM_HUGE_PAGES * (sizeof(u16) + 1), TDM_PAGE_SIZE);
}

int tdmi_frames_init(struct tdm_frames *f, void *arena, u32 nframes)
{
	if (!nframes || nframes % TDM_HUGE_PAGES)
		return -EINVAL;
	f->desc = plat_map((size_t)nframes * sizeof(struct tdm_frame));
	if (!f->desc)
		return -ENOMEM;
	f->dirty = plat_map(dirty_bytes(nframes));
	if (!f->dirty) {
		plat_unmap(f->desc, (size_t)nframes * sizeof(struct tdm_frame));
		f->desc = NULL;
		return -ENOMEM;
	}
	f->arena = arena;
	f->nframes = nframes;
	plat_mutex_init(&f->lock, TDM_RANK_FRAMES);
	f->isolated = (u8 *)(f->dirty + nframes / TDM_HUGE_PAGES);
	tdm_a32_st_relaxed(&f->nisolated, 0);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(f->free_head); i++)
		f->free_head[i] = f->off_head[i] = TDM_FRAME_NIL;
	f->fresh = 0;
	f->warm_head = f->warm_huge_head = TDM_FRAME_NIL;
	tdm_a32_st_relaxed(&f->warm_count, 0);
	f->warm_max = 0;
	tdm_a32_st_relaxed(&f->ripe, TDM_FRAME_NIL);
	f->dirty_folios = 0;
	tdm_a64_st_relaxed(&f->dirty_pages, 0);
	tdm_a64_st_relaxed(&f->used, 0);
	return 0;
}

void tdmi_frames_destroy(struct tdm_frames *f)
{
	plat_unmap(f->desc, (size_t)f->nframes * sizeof(struct tdm_frame));
	plat_unmap(f->dirty, dirty_bytes(f->nframes));
	f->desc = NULL;
}

/* Where a free folio is. No folio is larger than a chunk: buddies are on lists of one kind. */
static u32 *head_of(struct tdm_frames *f, u32 nr, u32 order)
{
	return f->isolated[nr / TDM_HUGE_PAGES] ? &f->off_head[order] : &f->free_head[order];
}

static void put_free(struct tdm_frames *f, u32 nr, u32 order)
{
	struct tdm_frame *d = &f->desc[nr];

	d->state = TDM_FRAME_FREE;
	d->order = (u8)(order | FREE_ORDER);
	list_push(f, head_of(f, nr, order), nr);
}

/* A free folio of exactly this order, off the lists; TDM_FRAME_NIL when there is none. */
static u32 take_free(struct tdm_frames *f, u32 order)
{
	u32 o = order, nr;

	while (o <= TDM_HUGE_ORDER && f->free_head[o] == TDM_FRAME_NIL)
		o++;
	if (o <= TDM_HUGE_ORDER) {
		nr = f->free_head[o];
		list_del(f, &f->free_head[o], nr);
	} else {
		if (f->fresh == f->nframes)
			return TDM_FRAME_NIL;
		nr = f->fresh;
		f->fresh += TDM_HUGE_PAGES;
		o = TDM_HUGE_ORDER;
	}
	while (o > order) {
		o--;
		put_free(f, nr + (1u << o), o);
	}
	return nr;
}

static struct tdm_frame *make_new(struct tdm_frames *f, u32 nr, u32 order)
{
	struct tdm_frame *d = &f->desc[nr];

	/* All but the pins. */
	d->next = d->prev = TDM_FRAME_NIL;
	d->va = 0;
	d->refcount = 1;
	d->mapcount = d->stale = 0;
	d->order = (u8)order;
	d->state = TDM_FRAME_NEW;
	d->gen = d->flags = 0;
	d->kept = 0;
	return d;
}

static void warm_push(struct tdm_frames *f, u32 nr, u32 order)
{
	f->desc[nr].state = TDM_FRAME_WARM;
	f->desc[nr].order = (u8)order;
	list_push(f, order == TDM_HUGE_ORDER ? &f->warm_huge_head : &f->warm_head, nr);
}

/* A warm folio of this order, off its list; TDM_FRAME_NIL when there is none. */
static u32 warm_take(struct tdm_frames *f, u32 order)
{
	u32 *head = order == TDM_HUGE_ORDER ? &f->warm_huge_head : &f->warm_head, nr = *head;

	if (nr == TDM_FRAME_NIL && order == TDM_BLOCK_ORDER && f->warm_huge_head != TDM_FRAME_NIL) {
		u32 huge = f->warm_huge_head;

		list_del(f, &f->warm_huge_head, huge);
		/* The first one is taken first. */
		for (u32 i = TDM_HUGE_PAGES; i; i -= TDM_BLOCK_PAGES)
			warm_push(f, huge + i - TDM_BLOCK_PAGES, TDM_BLOCK_ORDER);
		nr = huge;
	}
	if (nr != TDM_FRAME_NIL) {
		list_del(f, head, nr);
		tdm_a32_st_relaxed(&f->warm_count, tdmi_frames_warm(f) - (1u << (order - TDM_BLOCK_ORDER)));
	}
	return nr;
}

struct tdm_frame *tdmi_folio_alloc(struct tdm_frames *f, u32 order, bool warm, bool *was_warm)
{
	struct tdm_frame *d = NULL;
	u32 nr = TDM_FRAME_NIL;
	bool w;

	plat_mutex_lock(&f->lock);
	if (warm && (order == TDM_BLOCK_ORDER || order == TDM_HUGE_ORDER))
		nr = warm_take(f, order);
	w = nr != TDM_FRAME_NIL;
	if (!w)
		nr = take_free(f, order);
	if (nr != TDM_FRAME_NIL)
		d = make_new(f, nr, order);
	plat_mutex_unlock(&f->lock);
	if (was_warm)
		*was_warm = w;
	if (d)
		tdm_a64_add_relaxed(&f->used, (u64)1 << order);
	return d;
}

void tdmi_folio_free(struct tdm_frames *f, struct tdm_frame *folio)
{
	u32 nr = tdm_frame_nr(f, folio), order = folio->order;

	TDM_ASSERT(folio->mapcount == 0);
	tdm_a64_sub_relaxed(&f->used, (u64)1 << order);
	plat_mutex_lock(&f->lock);
	folio->state = TDM_FRAME_TAIL;
	while (order < TDM_HUGE_ORDER) {
		u32 buddy = nr ^ (1u << order);
		struct tdm_frame *b = &f->desc[buddy];

		/* Not by its state: that of a folio in use changes under the LRU's lock. */
		if (b->order != (order | FREE_ORDER))
			break;
		list_del(f, head_of(f, buddy, order), buddy);
		b->state = TDM_FRAME_TAIL;
		b->order = 0;
		nr &= ~(1u << order);
		order++;
	}
	put_free(f, nr, order);
	plat_mutex_unlock(&f->lock);
}

bool tdmi_folio_free_warm(struct tdm_frames *f, struct tdm_frame *folio)
{
	u32 order = folio->order, blocks = 1u << (order - TDM_BLOCK_ORDER);
	bool ok = false;

	plat_mutex_lock(&f->lock);
	if (tdmi_frames_warm(f) + blocks <= f->warm_max) {
		warm_push(f, tdm_frame_nr(f, folio), order);
		tdm_a32_st_relaxed(&f->warm_count, tdmi_frames_warm(f) + blocks);
		ok = true;
	}
	plat_mutex_unlock(&f->lock);
	if (ok)
		tdm_a64_sub_relaxed(&f->used, (u64)1 << order);
	return ok;
}

void tdmi_frames_warm_limit(struct tdm_frames *f, u32 max)
{
	plat_mutex_lock(&f->lock);
	f->warm_max = max;
	plat_mutex_unlock(&f->lock);
}

u32 tdmi_folios_take_warm_run(struct tdm_frames *f, u32 most, struct tdm_frame **folio)
{
	u32 lo, n;

	if (!most || !tdmi_frames_warm(f))
		return 0;
	plat_mutex_lock(&f->lock);
	lo = warm_take(f, TDM_BLOCK_ORDER);
	for (n = lo != TDM_FRAME_NIL; n && n < most; n++) {
		u32 next = f->warm_head;

		/* They were freed in the order of their addresses, or the other way round. */
		if (next == TDM_FRAME_NIL || (next + TDM_BLOCK_PAGES != lo && next != lo + n * TDM_BLOCK_PAGES))
			break;
		(void)warm_take(f, TDM_BLOCK_ORDER);
		lo = TDM_MIN(lo, next);
	}
	for (u32 i = 0; i < n; i++)
		(void)make_new(f, lo + i * TDM_BLOCK_PAGES, TDM_BLOCK_ORDER);
	plat_mutex_unlock(&f->lock);
	*folio = n ? &f->desc[lo] : NULL;
	tdm_a64_add_relaxed(&f->used, (u64)n * TDM_BLOCK_PAGES);
	return n;
}

struct tdm_frame *tdmi_folio_take_warm(struct tdm_frames *f)
{
	struct tdm_frame *d = NULL;
	u32 nr, order;

	if (!tdmi_frames_warm(f))
		return NULL;
	plat_mutex_lock(&f->lock);
	order = f->warm_head == TDM_FRAME_NIL ? TDM_HUGE_ORDER : TDM_BLOCK_ORDER;
	nr = warm_take(f, order);
	if (nr != TDM_FRAME_NIL)
		d = make_new(f, nr, order);
	plat_mutex_unlock(&f->lock);
	if (d)
		tdm_a64_add_relaxed(&f->used, (u64)1 << order);
	return d;
}

void tdmi_folio_free_dirty(struct tdm_frames *f, struct tdm_frame *folio, u32 pages)
{
	u32 range = tdm_frame_nr(f, folio) / TDM_HUGE_PAGES;

	plat_mutex_lock(&f->lock);
	TDM_ASSERT(folio->mapcount == 0 && folio->order == TDM_BLOCK_ORDER);
	folio->state = TDM_FRAME_DIRTY;
	folio->order |= DIRTY_ORDER;
	f->dirty_folios++;
	f->dirty[range] = (u16)(f->dirty[range] + pages);
	tdm_a64_st_relaxed(&f->dirty_pages, tdm_a64_ld_relaxed(&f->dirty_pages) + pages);
	if (f->dirty[range] >= RIPE_PAGES)
		tdm_a32_st_relaxed(&f->ripe, range);
	plat_mutex_unlock(&f->lock);
	tdm_a64_sub_relaxed(&f->used, TDM_BLOCK_PAGES);
}

/* The 2 MiB range with the most dirty pages, or one with enough. */
static u32 dirtiest(const struct tdm_frames *f)
{
	u32 best = 0;

	for (u32 i = 1; i < f->fresh / TDM_HUGE_PAGES && f->dirty[best] < RIPE_PAGES; i++)
		if (f->dirty[i] > f->dirty[best])
			best = i;
	return best;
}

u32 tdmi_folios_take_dirty(struct tdm_frames *f, u64 keep, struct tdm_frame *folio[TDM_HUGE_PAGES / TDM_BLOCK_PAGES])
{
	u32 range, n = 0;

	if (tdm_a32_ld_relaxed(&f->ripe) == TDM_FRAME_NIL && tdm_a64_ld_relaxed(&f->dirty_pages) <= keep)
		return 0;
	plat_mutex_lock(&f->lock);
	range = tdm_a32_ld_relaxed(&f->ripe);
	if (range == TDM_FRAME_NIL)
		range = dirtiest(f);
	for (u32 i = 0; i < TDM_HUGE_PAGES && f->dirty[range]; i += TDM_BLOCK_PAGES) {
		struct tdm_frame *d = &f->desc[range * TDM_HUGE_PAGES + i];

		if (d->order != (TDM_BLOCK_ORDER | DIRTY_ORDER))
			continue;
		d->order = TDM_BLOCK_ORDER;
		d->state = TDM_FRAME_NEW;
		folio[n++] = d;
	}
	f->dirty_folios -= n;
	tdm_a64_st_relaxed(&f->dirty_pages, tdm_a64_ld_relaxed(&f->dirty_pages) - f->dirty[range]);
	f->dirty[range] = 0;
	tdm_a32_st_relaxed(&f->ripe, TDM_FRAME_NIL);
	plat_mutex_unlock(&f->lock);
	tdm_a64_add_relaxed(&f->used, (u64)n * TDM_BLOCK_PAGES);
	return n;
}

void tdmi_folio_to_pages(struct tdm_frames *f, struct tdm_frame *folio)
{
	u32 n = 1u << folio->order;

	plat_mutex_lock(&f->lock);
	for (u32 i = 0; i < n; i++)
		folio[i].order = 0;
	plat_mutex_unlock(&f->lock);
}

void tdmi_folio_split(struct tdm_frames *f, struct tdm_frame *folio)
{
	u32 nr = tdm_frame_nr(f, folio), n = 1u << folio->order;
	u64 va = folio->va;

	for (u32 i = 0; i < n; i += TDM_BLOCK_PAGES) {
		struct tdm_frame *d = make_new(f, nr + i, TDM_BLOCK_ORDER);

		d->va = va + ((u64)i << TDM_PAGE_SHIFT);
	}
}

/* ---- chunks ---------------------------------------------------------------------------------------------------------------- */

/* The next folio of its chunk: the first frames alone say how large they are. The lock is held. */
static u32 folio_end(const struct tdm_frames *f, u32 nr)
{
	return nr + (1u << (f->desc[nr].order & ~(FREE_ORDER | DIRTY_ORDER)));
}

/* Its free folios go from one kind of list to the other. The lock is held. */
static void chunk_switch(struct tdm_frames *f, u32 chunk, bool isolated)
{
	u32 start = chunk * TDM_HUGE_PAGES, end = start + TDM_HUGE_PAGES;

	TDM_BUG_ON(f->isolated[chunk] == isolated);
	for (; f->fresh < end; f->fresh += TDM_HUGE_PAGES)
		put_free(f, f->fresh, TDM_HUGE_ORDER);
	for (u32 nr = start; nr < end; nr = folio_end(f, nr))
		if (f->desc[nr].order & FREE_ORDER)
			list_del(f, head_of(f, nr, f->desc[nr].order & ~FREE_ORDER), nr);
	f->isolated[chunk] = isolated;
	for (u32 nr = start; nr < end; nr = folio_end(f, nr))
		if (f->desc[nr].order & FREE_ORDER)
			put_free(f, nr, f->desc[nr].order & ~FREE_ORDER);
	tdm_a32_st_relaxed(&f->nisolated, isolated ? tdm_a32_ld_relaxed(&f->nisolated) + 1 : tdm_a32_ld_relaxed(&f->nisolated) - 1);
}

void tdmi_chunk_isolate(struct tdm_frames *f, u32 chunk)
{
	plat_mutex_lock(&f->lock);
	chunk_switch(f, chunk, true);
	plat_mutex_unlock(&f->lock);
}

void tdmi_chunks_isolate_all(struct tdm_frames *f)
{
	for (u32 i = 0; i < f->nframes / TDM_HUGE_PAGES; i++)
		tdmi_chunk_isolate(f, i);
}

void tdmi_chunk_online(struct tdm_frames *f, u32 chunk)
{
	plat_mutex_lock(&f->lock);
	chunk_switch(f, chunk, false);
	plat_mutex_unlock(&f->lock);
}

u32 tdmi_chunk_used(struct tdm_frames *f, u32 chunk, u16 first[TDM_HUGE_PAGES])
{
	u32 start = chunk * TDM_HUGE_PAGES, end = start + TDM_HUGE_PAGES, n = 0;

	plat_mutex_lock(&f->lock);
	TDM_BUG_ON(!f->isolated[chunk]);
	for (u32 nr = start; nr < end; nr = folio_end(f, nr))
		if (!(f->desc[nr].order & FREE_ORDER))
			first[n++] = (u16)(nr - start);
	plat_mutex_unlock(&f->lock);
	return n;
}

u32 tdmi_chunk_unused(struct tdm_frames *f)
{
	u32 chunk = 0, n = f->nframes / TDM_HUGE_PAGES;

	plat_mutex_lock(&f->lock);
	while (chunk < n && (f->isolated[chunk] ||
			     (chunk * TDM_HUGE_PAGES < f->fresh && f->desc[chunk * TDM_HUGE_PAGES].order != (TDM_HUGE_ORDER | FREE_ORDER))))
		chunk++;
	plat_mutex_unlock(&f->lock);
	return chunk < n ? chunk : TDM_FRAME_NIL;
}

bool tdmi_frames_valid(struct tdm_frames *f)
{
	u64 free = 0, warm = 0;
	bool ok = true;

	plat_mutex_lock(&f->lock);
	for (u32 o = 0; o <= TDM_HUGE_ORDER; o++)
		for (u32 off = 0; off < 2; off++)
			for (u32 i = off ? f->off_head[o] : f->free_head[o]; i != TDM_FRAME_NIL; i = f->desc[i].next) {
				ok = ok && f->desc[i].state == TDM_FRAME_FREE && f->desc[i].order == (o | FREE_ORDER) && i % (1u << o) == 0;
				ok = ok && f->isolated[i / TDM_HUGE_PAGES] == off;
				free += (u64)1 << o;
			}
	for (u32 i = f->warm_head; i != TDM_FRAME_NIL; i = f->desc[i].next) {
		ok = ok && f->desc[i].state == TDM_FRAME_WARM && f->desc[i].order == TDM_BLOCK_ORDER;
		warm++;
	}
	for (u32 i = f->warm_huge_head; i != TDM_FRAME_NIL; i = f->desc[i].next) {
		ok = ok && f->desc[i].state == TDM_FRAME_WARM && f->desc[i].order == TDM_HUGE_ORDER;
		warm += TDM_HUGE_PAGES / TDM_BLOCK_PAGES;
	}
	ok = ok && warm == tdmi_frames_warm(f) && free + (warm + f->dirty_folios) * TDM_BLOCK_PAGES + tdm_a64_ld_relaxed(&f->used) == f->fresh;
	plat_mutex_unlock(&f->lock);
	return ok;
}
