// SPDX-License-Identifier: MIT
/*
 * tlb.c - a TLB; see tlb.h.
 *
 * A set is chosen by the lowest bits of the page number alone, so that what a run does can be told from its addresses. An array that holds several sizes is looked up once for
 * each size that it has any of.
 */
#include "base/check.h"
#include "port/tlb.h"

#define EMPTY (~(u64)0)

static u32 size_of(u32 shift)
{
	u32 size = (shift - TDM_PAGE_SHIFT) / 9;

	TDM_BUG_ON(size >= TDM_TLB_SIZES || shift != TDM_PAGE_SHIFT + 9 * size);
	return size;
}

static u32 shift_of(u32 size)
{
	return TDM_PAGE_SHIFT + 9 * size;
}

static size_t array_bytes(const struct tdm_tlb_array *a)
{
	return ((size_t)a->mask + 1) * a->ways * sizeof(struct tdm_tlb_entry);
}

static bool owns_array(const struct tdm_tlb_array *a)
{
	return a->e && !a->shared;
}

static bool geometry_ok(const struct tdm_tlb_geometry *level, u32 size)
{
	const struct tdm_tlb_geometry *g = &level[size];

	if (g->ways == 0)
		return true;
	if (g->ways == TDM_TLB_WITH_4K)
		return size && level[0].ways;
	return g->ways <= TDM_TLB_WAYS_MAX && g->sets && !(g->sets & (g->sets - 1)) && g->sets <= 1u << 24;
}

static void array_empty(struct tdm_tlb_array *a)
{
	size_t n = ((size_t)a->mask + 1) * a->ways;

	for (size_t i = 0; i < n; i++) {
		a->e[i].tag = EMPTY;
		a->e[i].used = 0;
	}
}

static int array_init(struct tdm_tlb_array *level, const struct tdm_tlb_geometry *g, u32 size, struct tdm_alloc *alloc)
{
	struct tdm_tlb_array *a = &level[size];

	if (g[size].ways == TDM_TLB_WITH_4K) {
		*a = level[0];
		a->shared = true;
	} else if (g[size].ways) {
		*a = (struct tdm_tlb_array){ .mask = g[size].sets - 1, .ways = g[size].ways };
		a->e = tdmi_alloc(alloc, array_bytes(a));
		if (!a->e)
			return -ENOMEM;
		array_empty(a);
	}
	return 0;
}

int tdmi_tlb_init(struct tdm_tlb *t, const struct tdm_tlb_config *config, struct tdm_alloc *alloc)
{
	*t = (struct tdm_tlb){ 0 };
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		for (u32 size = 0; size < TDM_TLB_SIZES; size++)
			if (!geometry_ok(config->level[level], size))
				return -EINVAL;
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			if (array_init(t->array[level], config->level[level], size, alloc)) {
				tdmi_tlb_destroy(t, alloc);
				return -ENOMEM;
			}
		}
	}
	return 0;
}

void tdmi_tlb_destroy(struct tdm_tlb *t, struct tdm_alloc *alloc)
{
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		for (u32 size = 0; size < TDM_TLB_SIZES; size++)
			if (owns_array(&t->array[level][size]))
				tdmi_free(alloc, t->array[level][size].e, array_bytes(&t->array[level][size]));
	*t = (struct tdm_tlb){ 0 };
}

/* The entry to use for this leaf: its own, an empty one, the first that was not used lately. When all were used, all but the new one are forgotten to have been. */
static struct tdm_tlb_entry *place(const struct tdm_tlb_array *a, const struct tdm_tlb_entry *leaf)
{
	struct tdm_tlb_entry *e = tdm_tlb_set(a, leaf->tag), *victim = NULL;

	for (u32 i = 0; i < a->ways; i++) {
		if (tdm_tlb_matches(&e[i], leaf->asid, leaf->tag, leaf->shift))
			return &e[i];
		if (e[i].tag == EMPTY ? !victim || victim->tag != EMPTY : !victim && !e[i].used)
			victim = &e[i];
	}
	if (victim)
		return victim;
	for (u32 i = 0; i < a->ways; i++)
		e[i].used = 0;
	return e;
}

static void put(struct tdm_tlb *t, u32 level, const struct tdm_tlb_entry *leaf)
{
	struct tdm_tlb_array *a = &t->array[level][size_of(leaf->shift)];
	struct tdm_tlb_entry *e;

	if (!a->e)
		return;
	e = place(a, leaf);
	if (e->tag == EMPTY) {
		a->live++;
	} else if (!tdm_tlb_matches(e, leaf->asid, leaf->tag, leaf->shift)) {
		t->array[level][size_of(e->shift)].live--;
		a->live++;
		t->evicted++;
	}
	*e = *leaf;
	e->used = 1;
}

struct tdm_tlb_entry *tdmi_tlb_lookup(struct tdm_tlb *t, u32 asid, u64 va, u32 *level)
{
	for (*level = 0; *level < TDM_TLB_LEVELS; (*level)++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			struct tdm_tlb_entry *e = tdm_tlb_find(&t->array[*level][size], asid, va, shift_of(size));

			if (!e)
				continue;
			e->used = 1;
			t->hits[*level]++;
			if (*level)
				put(t, 0, e);
			return e;
		}
	}
	t->misses++;
	return NULL;
}

void tdmi_tlb_insert(struct tdm_tlb *t, u32 asid, u64 va, u32 shift, struct tdm_pte pte, u8 *bytes)
{
	struct tdm_tlb_entry e = { .tag = va >> shift, .asid = asid, .shift = (u8)shift, .pte = pte, .bytes = bytes };

	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		put(t, level, &e);
	t->inserted++;
}

static u32 drop(struct tdm_tlb_array *a, struct tdm_tlb_entry *e)
{
	a->live--;
	e->tag = EMPTY;
	e->used = 0;
	return 1;
}

/* The leaves first to last, set by set. */
static u32 flush_sets(struct tdm_tlb_array *a, u32 shift, u32 asid, u64 first, u64 last)
{
	u32 n = 0;

	for (u64 tag = first; tag <= last && a->live; tag++) {
		struct tdm_tlb_entry *e = tdm_tlb_find(a, asid, tag << shift, shift);

		if (e)
			n += drop(a, e);
	}
	return n;
}

/* The same, entry by entry. */
static u32 flush_array(struct tdm_tlb_array *a, u32 shift, u32 asid, u64 first, u64 last)
{
	struct tdm_tlb_entry *e = a->e, *end = e + ((size_t)a->mask + 1) * a->ways;
	u32 n = 0;

	for (; e < end && a->live; e++)
		if (e->tag != EMPTY && e->asid == asid && e->shift == shift && e->tag >= first && e->tag <= last)
			n += drop(a, e);
	return n;
}

u32 tdmi_tlb_flush_range(struct tdm_tlb *t, u32 asid, u64 start, u64 end)
{
	u32 n = 0;

	if (start >= end)
		return 0;
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			struct tdm_tlb_array *a = &t->array[level][size];
			u64 first = start >> shift_of(size), last = (end - 1) >> shift_of(size);

			if (!a->live)
				continue;
			if (last - first <= a->mask)
				n += flush_sets(a, shift_of(size), asid, first, last);
			else
				n += flush_array(a, shift_of(size), asid, first, last);
		}
	}
	t->flushed += n;
	return n;
}

u32 tdmi_tlb_flush_asid(struct tdm_tlb *t, u32 asid)
{
	return tdmi_tlb_flush_range(t, asid, 0, ~(u64)0);
}

u32 tdmi_tlb_flush_all(struct tdm_tlb *t)
{
	u32 n = 0;

	for (u32 level = 0; level < TDM_TLB_LEVELS; level++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			struct tdm_tlb_array *a = &t->array[level][size];

			n += a->live;
			a->live = 0;
			if (owns_array(a))
				array_empty(a);
		}
	}
	t->flushed += n;
	return n;
}
