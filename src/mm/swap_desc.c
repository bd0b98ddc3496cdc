/* SPDX-License-Identifier: MIT */
/*
 * swap_desc.c - the descriptors of blobs: their lists, and who may look at them.
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
 * Blobs in memory tiers are in one of three lists of their tier: fifo, oldest first, for demotion; sparse, when a quarter of the packed pages
 * is not wanted any more: those are stored again without them; or kept, when none is wanted.
 */
#include "mm/swap_impl.h"

/* ---- descriptors ----------------------------------------------------------------------------------------------------- */

int tdmi_desc_take(struct tdm_swap *s, u32 *out)
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

void tdmi_desc_list_add(struct tdm_swap *s, struct blob *b, u32 i, u32 which, bool first)
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

void tdmi_desc_list_del(struct tdm_swap *s, struct blob *b)
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

void tdmi_desc_file(struct tdm_swap *s, struct blob *b, u32 i, bool oldest)
{
	u32 live;

	if (!has_bytes(b) || !s->tier[b->tier]->in_memory)
		return;
	plat_mutex_lock(&s->lock);
	live = tdm_a32_ld_relaxed(&b->live);
	tdmi_desc_list_add(s, b, i, live == KEPT ? LIST_KEPT : (u32)__builtin_popcount(live & WANTED) * 2 < pages_in(b) ? LIST_SPARSE : LIST_FIFO, oldest);
	plat_mutex_unlock(&s->lock);
}

void tdmi_desc_relist(struct tdm_swap *s, struct blob *b, u32 i)
{
	u32 live, which;

	plat_mutex_lock(&s->lock);
	live = tdm_a32_ld_relaxed(&b->live);
	which = live == KEPT ? LIST_KEPT : is_sparse(live & WANTED, pages_in(b)) ? LIST_SPARSE : LIST_FIFO;
	/* A sparse one was perhaps stored without the rest; it does not become one again (tdmi_swap_squeeze()). */
	if (b->list != LIST_NONE && b->list != which && !(b->list == LIST_SPARSE && which == LIST_FIFO)) {
		tdmi_desc_list_del(s, b);
		tdmi_desc_list_add(s, b, i, which, false);
	}
	plat_mutex_unlock(&s->lock);
}

void tdmi_desc_untake(struct tdm_swap *s, u32 i)
{
	plat_mutex_lock(&s->lock);
	blob_at(s, i)->next = s->free;
	s->free = i;
	plat_mutex_unlock(&s->lock);
}

static void blob_free(struct tdm_swap *s, u32 i)
{
	struct blob *b = blob_at(s, i);

	if (has_bytes(b))
		s->tier[b->tier]->ops->drop(s->tier[b->tier], b->where, b->len);
	plat_mutex_lock(&s->lock);
	if (has_bytes(b))
		tdmi_desc_list_del(s, b);
	b->next = s->free;
	s->free = i;
	plat_mutex_unlock(&s->lock);
}

/* ---- the state word -------------------------------------------------------------------------------------------------- */

bool tdmi_desc_hold(struct blob *b)
{
	u32 old = tdm_a32_ld_relaxed(&b->state);

	do
		if (old & DEAD)
			return false;
	while (!tdm_a32_cas_acqrel(&b->state, &old, old + 1));
	return true;
}

void tdmi_desc_enter(struct blob *b)
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

void tdmi_desc_leave(struct tdm_swap *s, u32 i)
{
	u32 old = tdm_a32_sub_acqrel(&blob_at(s, i)->state, 1);

	if ((old & (DEAD | READERS)) == (DEAD | 1))
		blob_free(s, i);
}

void tdmi_desc_move_begin(struct blob *b)
{
	tdm_a32_or_acqrel(&b->state, MOVING);
	while ((tdm_a32_ld_acquire(&b->state) & READERS) != 1)
		plat_yield();
}

void tdmi_desc_move_end(struct blob *b)
{
	u32 old = tdm_a32_and_acqrel(&b->state, ~(MOVING | WAITERS));

	if (old & WAITERS)
		plat_wake(&b->state, ~(u32)0 >> 1);
}
