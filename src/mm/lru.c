/* SPDX-License-Identifier: MIT */
/*
 * lru.c - generations.
 *
 * Sequence numbers count generations; max_seq is the youngest, and there are at most four. Where a folio enters says how much it has shown:
 * adopted memory and first touches one below the youngest, what was touched on probation or came back soon in the youngest. When the oldest
 * generation is empty the next one is the oldest, and once fewer than three are left a new youngest begins. Within a generation the order
 * is that of arrival.
 */
#include "mm/lru.h"
#include "base/check.h"
#include "base/lockrank.h"

#define PINNED_RETRY_NS ((u64)500000000)
/* In gen, of an isolated folio: pages of it have come home since. Who has it isolated need not know. */
#define HOME_MEANWHILE 0xffu

static void push_tail(struct tdm_lru *l, struct tdm_lru_list *q, struct tdm_frame *d)
{
	u32 nr = tdm_frame_nr(l->frames, d);

	d->next = TDM_FRAME_NIL;
	d->prev = q->tail;
	if (q->tail != TDM_FRAME_NIL)
		l->frames->desc[q->tail].next = nr;
	else
		q->head = nr;
	q->tail = nr;
	q->count++;
}

static void push_head(struct tdm_lru *l, struct tdm_lru_list *q, struct tdm_frame *d)
{
	u32 nr = tdm_frame_nr(l->frames, d);

	d->prev = TDM_FRAME_NIL;
	d->next = q->head;
	if (q->head != TDM_FRAME_NIL)
		l->frames->desc[q->head].prev = nr;
	else
		q->tail = nr;
	q->head = nr;
	q->count++;
}

static void unlink(struct tdm_lru *l, struct tdm_lru_list *q, struct tdm_frame *d)
{
	struct tdm_frame *desc = l->frames->desc;

	if (d->prev != TDM_FRAME_NIL)
		desc[d->prev].next = d->next;
	else
		q->head = d->next;
	if (d->next != TDM_FRAME_NIL)
		desc[d->next].prev = d->prev;
	else
		q->tail = d->prev;
	q->count--;
}

static __attribute__((nonnull)) struct tdm_lru_list *list_of(struct tdm_lru *l, struct tdm_frame *d)
{
	if (d->state == TDM_FRAME_LENT)
		return &l->gen[d->gen];
	if (d->state == TDM_FRAME_HOME)
		return &l->home;
	if (d->state == TDM_FRAME_PINNED)
		return &l->pinned;
	if (d->state == TDM_FRAME_SHARED)
		return &l->shared;
	return NULL;
}

static void add_gen(struct tdm_lru *l, struct tdm_frame *d, u64 seq)
{
	d->state = TDM_FRAME_LENT;
	d->gen = (u8)(seq % TDM_LRU_GENS);
	push_tail(l, &l->gen[d->gen], d);
}

void tdmi_lru_init(struct tdm_lru *l, struct tdm_frames *frames)
{
	l->frames = frames;
	plat_mutex_init(&l->lock, TDM_RANK_LRU);
	for (u32 i = 0; i < TDM_LRU_GENS; i++)
		l->gen[i] = (struct tdm_lru_list){ TDM_FRAME_NIL, TDM_FRAME_NIL, 0 };
	l->home = l->pinned = l->shared = (struct tdm_lru_list){ TDM_FRAME_NIL, TDM_FRAME_NIL, 0 };
	l->pinned_retry_ns = 0;
	l->min_seq = 0;
	l->max_seq = TDM_LRU_GENS - 1;
	tdm_a32_st_relaxed(&l->clock, (u32)l->max_seq);
}

void tdmi_lru_add(struct tdm_lru *l, struct tdm_frame *d, enum tdm_lru_why why)
{
	struct tdm_lru_list *q;
	u64 seq;

	plat_mutex_lock(&l->lock);
	if (d->state != TDM_FRAME_ISOLATED) {
		q = list_of(l, d);
		if (q)
			unlink(l, q, d);
		seq = why == TDM_LRU_TOUCHED || why == TDM_LRU_REFAULT ? l->max_seq : l->max_seq - 1;
		add_gen(l, d, TDM_MAX(seq, l->min_seq));
	}
	plat_mutex_unlock(&l->lock);
}

void tdmi_lru_add_old(struct tdm_lru *l, struct tdm_frame *d)
{
	plat_mutex_lock(&l->lock);
	add_gen(l, d, l->min_seq);
	plat_mutex_unlock(&l->lock);
}

void tdmi_lru_add_home(struct tdm_lru *l, struct tdm_frame *d)
{
	struct tdm_lru_list *q;

	plat_mutex_lock(&l->lock);
	if (d->state == TDM_FRAME_NEW || d->state == TDM_FRAME_LENT) {
		q = list_of(l, d);
		if (q)
			unlink(l, q, d);
		d->state = TDM_FRAME_HOME;
		push_tail(l, &l->home, d);
	} else if (d->state == TDM_FRAME_ISOLATED) {
		d->gen = HOME_MEANWHILE;
	}
	plat_mutex_unlock(&l->lock);
}

/* The oldest generation that has anything; fewer than three left: the youngest closes and a new one begins. */
static struct tdm_lru_list *oldest(struct tdm_lru *l)
{
	while (l->gen[l->min_seq % TDM_LRU_GENS].count == 0 && l->min_seq < l->max_seq)
		l->min_seq++;
	while (l->max_seq - l->min_seq < 2) {
		l->max_seq++;
		tdm_a32_st_relaxed(&l->clock, (u32)l->max_seq);
	}
	return &l->gen[l->min_seq % TDM_LRU_GENS];
}

static struct tdm_frame *isolate_head(struct tdm_lru *l, struct tdm_lru_list *q)
{
	struct tdm_frame *d;

	if (q->head == TDM_FRAME_NIL)
		return NULL;
	d = &l->frames->desc[q->head];
	unlink(l, q, d);
	d->state = TDM_FRAME_ISOLATED;
	d->gen = 0;
	d->refcount++;
	return d;
}

/* What refused may have let go of since: a pin ends, a mapping becomes writable. */
static void retry_pinned(struct tdm_lru *l)
{
	u64 now = plat_now_ns();

	if (now < l->pinned_retry_ns)
		return;
	l->pinned_retry_ns = now + PINNED_RETRY_NS;
	while (l->pinned.head != TDM_FRAME_NIL) {
		struct tdm_frame *d = &l->frames->desc[l->pinned.head];

		unlink(l, &l->pinned, d);
		add_gen(l, d, l->min_seq);
	}
}

struct tdm_frame *tdmi_lru_isolate_lent(struct tdm_lru *l, bool unshare)
{
	struct tdm_frame *d;

	plat_mutex_lock(&l->lock);
	if (l->pinned.count)
		retry_pinned(l);
	d = isolate_head(l, unshare && l->shared.count ? &l->shared : oldest(l));
	plat_mutex_unlock(&l->lock);
	return d;
}

u32 tdmi_lru_oldest(struct tdm_lru *l)
{
	u32 nr;

	plat_mutex_lock(&l->lock);
	nr = oldest(l)->head;
	plat_mutex_unlock(&l->lock);
	return nr;
}

struct tdm_frame *tdmi_lru_isolate_home(struct tdm_lru *l)
{
	struct tdm_frame *d;

	plat_mutex_lock(&l->lock);
	d = isolate_head(l, &l->home);
	plat_mutex_unlock(&l->lock);
	return d;
}

static bool isolate(struct tdm_lru *l, struct tdm_frame *d)
{
	struct tdm_lru_list *q = list_of(l, d);

	if (q) {
		unlink(l, q, d);
		d->state = TDM_FRAME_ISOLATED;
		d->gen = 0;
		d->refcount++;
	}
	return q != NULL;
}

bool tdmi_lru_isolate(struct tdm_lru *l, struct tdm_frame *d)
{
	bool is;

	plat_mutex_lock(&l->lock);
	is = isolate(l, d);
	plat_mutex_unlock(&l->lock);
	return is;
}

bool tdmi_lru_isolate_used(struct tdm_lru *l, struct tdm_frame *d)
{
	bool is;

	plat_mutex_lock(&l->lock);
	/* That of one that is free changes under this one. */
	plat_mutex_lock(&l->frames->lock);
	is = isolate(l, d);
	plat_mutex_unlock(&l->frames->lock);
	plat_mutex_unlock(&l->lock);
	return is;
}

bool tdmi_lru_putback(struct tdm_lru *l, struct tdm_frame *d, enum tdm_lru_where where)
{
	bool dead;

	plat_mutex_lock(&l->lock);
	TDM_ASSERT(d->state == TDM_FRAME_ISOLATED);
	dead = --d->refcount == 0;
	if (dead) {
		d->state = TDM_FRAME_NEW;
	} else if (where == TDM_LRU_TO_PACK) {
		d->state = TDM_FRAME_HOME;
		push_head(l, &l->home, d);
	} else if (where == TDM_LRU_TO_HOME || d->gen == HOME_MEANWHILE) {
		d->state = TDM_FRAME_HOME;
		push_tail(l, &l->home, d);
	} else if (where == TDM_LRU_TO_PINNED) {
		d->state = TDM_FRAME_PINNED;
		push_tail(l, &l->pinned, d);
	} else if (where == TDM_LRU_TO_SHARED) {
		d->state = TDM_FRAME_SHARED;
		push_tail(l, &l->shared, d);
	} else {
		add_gen(l, d, l->max_seq);
	}
	plat_mutex_unlock(&l->lock);
	return dead;
}

bool tdmi_lru_del(struct tdm_lru *l, struct tdm_frame *d)
{
	struct tdm_lru_list *q;
	bool dead;

	plat_mutex_lock(&l->lock);
	TDM_ASSERT(d->refcount && (d->state == TDM_FRAME_ISOLATED || d->state == TDM_FRAME_NEW || list_of(l, d)));
	q = list_of(l, d);
	if (q) {
		unlink(l, q, d);
		d->state = TDM_FRAME_NEW;
	}
	dead = --d->refcount == 0;
	plat_mutex_unlock(&l->lock);
	return dead;
}

bool tdmi_lru_recent(const struct tdm_lru *l, u32 clock)
{
	return ((tdm_a32_ld_relaxed(&l->clock) - clock) & 255) < TDM_LRU_GENS;
}
