/* SPDX-License-Identifier: MIT */
/*
 * rmap.c - see rmap.h. The word in a page's descriptor: 0; one mapping (odd); or the first array of a chain.
 *
 * A mapping: address space (15 bits), page number (35 bits), 1.
 */
#include "mm/rmap.h"
#include "base/lockrank.h"
#include "mm/space.h"

#define IN_BLOCK 6u
#define AT_ONCE 64u

struct block {
	struct block *next;
	u64 n;
	u64 map[IN_BLOCK]; /* all blocks but the first are full */
};

_Static_assert(TDM_SPACES_MAX <= 1u << 15, "a mapping names its space by 15 bits");

static u64 encode(const struct tdm_space *s, u64 va)
{
	return (va >> TDM_PAGE_SHIFT) << 16 | (u64)s->id << 1 | 1;
}

static struct plat_mutex *lock_of(struct tdm_world *w, struct tdm_pfn pfn)
{
	return &w->rmap_lock[pfn.v % TDM_RMAP_LOCKS];
}

static struct block *chain(u64 word)
{
	return word & 1 ? NULL : (struct block *)(uintptr_t)word;
}

static struct block *block_new(struct tdm_world *w, struct block *next)
{
	struct block *b = tdmi_alloc(&w->alloc, sizeof(*b));

	if (b)
		*b = (struct block){ .next = next };
	return b;
}

static int add_locked(struct tdm_world *w, struct tdm_page *pg, u64 m)
{
	u64 word = tdm_a64_ld_relaxed(&pg->rmap);
	struct block *b = chain(word);

	if (!word) {
		tdm_a64_st_relaxed(&pg->rmap, m);
		return 0;
	}
	if (!b || b->n == IN_BLOCK) {
		struct block *first = block_new(w, b);

		if (!first)
			return -ENOMEM;
		if (!b)
			first->map[first->n++] = word;
		b = first;
		tdm_a64_st_relaxed(&pg->rmap, (u64)(uintptr_t)b);
	}
	b->map[b->n++] = m;
	return 0;
}

/* Where it stands in the chain; NULL: it is the only one, in the descriptor. One that is not there is a bug. */
static u64 *find(struct tdm_page *pg, u64 m)
{
	u64 word = tdm_a64_ld_relaxed(&pg->rmap), *at = NULL;

	if (word == m)
		return NULL;
	for (struct block *b = chain(word); b && !at; b = b->next)
		for (u64 i = 0; i < b->n && !at; i++)
			at = b->map[i] == m ? &b->map[i] : NULL;
	TDM_BUG_ON(!at);
	return at;
}

static void del_locked(struct tdm_world *w, struct tdm_page *pg, u64 m)
{
	struct block *first = chain(tdm_a64_ld_relaxed(&pg->rmap));
	u64 *at = find(pg, m);

	if (!at) {
		tdm_a64_st_relaxed(&pg->rmap, 0);
		return;
	}
	*at = first->map[--first->n];
	if (first->n == 1 && !first->next)
		tdm_a64_st_relaxed(&pg->rmap, first->map[0]);
	else if (!first->n)
		tdm_a64_st_relaxed(&pg->rmap, (u64)(uintptr_t)first->next);
	else
		return;
	tdmi_free(&w->alloc, first, sizeof(*first));
}

int tdmi_rmap_add(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 va)
{
	int r;

	plat_mutex_lock(lock_of(w, pfn));
	r = add_locked(w, tdm_pfn_page(&w->phys, pfn), encode(s, va));
	plat_mutex_unlock(lock_of(w, pfn));
	return r;
}

void tdmi_rmap_del(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 va)
{
	plat_mutex_lock(lock_of(w, pfn));
	del_locked(w, tdm_pfn_page(&w->phys, pfn), encode(s, va));
	plat_mutex_unlock(lock_of(w, pfn));
}

void tdmi_rmap_move(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 from, u64 to)
{
	struct tdm_page *pg = tdm_pfn_page(&w->phys, pfn);
	u64 *at;

	plat_mutex_lock(lock_of(w, pfn));
	at = find(pg, encode(s, from));
	if (at)
		*at = encode(s, to);
	else
		tdm_a64_st_relaxed(&pg->rmap, encode(s, to));
	plat_mutex_unlock(lock_of(w, pfn));
}

static u32 count_locked(const struct tdm_page *pg)
{
	u64 word = tdm_a64_ld_relaxed(&pg->rmap);
	u32 n = 0;

	if (word & 1)
		return 1;
	for (const struct block *b = chain(word); b; b = b->next)
		n += (u32)b->n;
	return n;
}

u32 tdmi_rmap_count(struct tdm_world *w, struct tdm_pfn pfn)
{
	u32 n;

	plat_mutex_lock(lock_of(w, pfn));
	n = count_locked(tdm_pfn_page(&w->phys, pfn));
	plat_mutex_unlock(lock_of(w, pfn));
	return n;
}

/* At most `most` of them. How many there are. */
static u32 copy(struct tdm_world *w, struct tdm_pfn pfn, u64 *to, u32 most)
{
	const struct tdm_page *pg = tdm_pfn_page(&w->phys, pfn);
	u32 n = 0, all;
	u64 word;

	plat_mutex_lock(lock_of(w, pfn));
	word = tdm_a64_ld_relaxed(&pg->rmap);
	all = count_locked(pg);
	if (word & 1)
		to[n++] = word;
	for (const struct block *b = chain(word); b; b = b->next)
		for (u64 i = 0; i < b->n && n < most; i++)
			to[n++] = b->map[i];
	plat_mutex_unlock(lock_of(w, pfn));
	return all;
}

/* With the table of one mapping locked, if it still is one. */
static int visit(struct tdm_world *w, struct tdm_pfn pfn, u64 m, tdm_rmap_fn *fn, void *arg)
{
	struct tdm_space *s = tdm_space_by_id(w, (u32)(m >> 1) & (TDM_SPACES_MAX - 1));
	u64 va = m >> 16 << TDM_PAGE_SHIFT;
	struct tdm_pt *pt;
	int r = 0;

	if (!s || tdmi_pt_lock(&s->pgt, va, false, &pt) || !pt)
		return s ? fn(arg, s, NULL, 0, va) : 0;
	if (!pt->level) {
		u32 i = tdm_pt_index(pt, va);
		struct tdm_pfn named;
		bool names = tdm_pte_names(tdm_pt_get(pt, i), &named) && named.v == pfn.v;

		r = fn(arg, s, names ? pt : NULL, i, va);
	}
	tdm_pt_unlock(pt);
	return r;
}

static int visit_round(struct tdm_world *w, struct tdm_pfn pfn, u64 m, const enum tdm_inv_event *why, tdm_rmap_fn *fn, void *arg)
{
	struct tdm_space *s = tdm_space_by_id(w, (u32)(m >> 1) & (TDM_SPACES_MAX - 1));
	u64 va = m >> 16 << TDM_PAGE_SHIFT;
	struct tdm_inv_range round = TDM_INV_RANGE(va, va + TDM_PAGE_SIZE, why ? *why : TDM_INV_CLEAR);
	int r;

	if (!why || !s)
		return visit(w, pfn, m, fn, arg);
	/* Who goes through a page is in a section, and must not wait for who waits for readers. */
	round.blockable = false;
	if (tdmi_invalidate_start(&s->notifiers, &round))
		return -EBUSY;
	r = visit(w, pfn, m, fn, arg);
	tdmi_invalidate_end(&s->notifiers, &round);
	return r;
}

static int walk(struct tdm_world *w, struct tdm_pfn pfn, const enum tdm_inv_event *why, tdm_rmap_fn *fn, void *arg)
{
	u64 few[AT_ONCE] = { 0 }, *map = few;
	u32 room = AT_ONCE, n = copy(w, pfn, map, room);
	int r = 0;

	while (n > room) {
		if (map != few)
			tdmi_free(&w->alloc, map, room * sizeof(*map));
		room = n + n / 4;
		map = tdmi_alloc(&w->alloc, room * sizeof(*map));
		if (!map)
			return -ENOMEM;
		n = copy(w, pfn, map, room);
	}
	tdm_world_work(w, TDM_WORK_RMAP, n);
	for (u32 i = 0; i < n && !r; i++)
		r = visit_round(w, pfn, map[i], why, fn, arg);
	if (map != few)
		tdmi_free(&w->alloc, map, room * sizeof(*map));
	return r;
}

int tdmi_rmap_walk(struct tdm_world *w, struct tdm_pfn pfn, tdm_rmap_fn *fn, void *arg)
{
	return walk(w, pfn, NULL, fn, arg);
}

int tdmi_rmap_walk_round(struct tdm_world *w, struct tdm_pfn pfn, enum tdm_inv_event why, tdm_rmap_fn *fn, void *arg)
{
	return walk(w, pfn, &why, fn, arg);
}
