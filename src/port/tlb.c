// SPDX-License-Identifier: MIT
/*
 * tlb.c - a TLB; see tlb.h.
 *
 * A set is chosen by the lowest bits of the page number alone, so that what a run does can be told from its addresses. An array that holds several sizes is looked up once for
 * each size that it has any of.
 */
#include <string.h>
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

/* The array that a size is in. */
static const struct tdm_tlb_geometry *geometry(const struct tdm_tlb *t, u32 level, u32 size)
{
	return &t->config.level[level][t->config.level[level][size].ways == TDM_TLB_WITH_4K ? 0 : size];
}

static struct tdm_tlb_entry *set_of(const struct tdm_tlb *t, u32 level, u32 size, u64 tag)
{
	const struct tdm_tlb_geometry *g = geometry(t, level, size);

	return &t->e[level][size][(tag & (g->sets - 1)) * g->ways];
}

static bool owns_array(const struct tdm_tlb *t, u32 level, u32 size)
{
	return t->e[level][size] && geometry(t, level, size) == &t->config.level[level][size];
}

static size_t array_bytes(const struct tdm_tlb_geometry *g)
{
	return (size_t)g->sets * g->ways * sizeof(struct tdm_tlb_entry);
}

static bool geometry_ok(const struct tdm_tlb_config *config, u32 level, u32 size)
{
	const struct tdm_tlb_geometry *g = &config->level[level][size];

	if (g->ways == 0)
		return true;
	if (g->ways == TDM_TLB_WITH_4K)
		return size && config->level[level][0].ways && config->level[level][0].ways <= TDM_TLB_WAYS_MAX;
	return g->ways <= TDM_TLB_WAYS_MAX && g->sets && !(g->sets & (g->sets - 1)) && g->sets <= 1u << 24;
}

int tdmi_tlb_init(struct tdm_tlb *t, const struct tdm_tlb_config *config, struct tdm_alloc *alloc)
{
	*t = (struct tdm_tlb){ .config = *config };
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		for (u32 size = 0; size < TDM_TLB_SIZES; size++)
			if (!geometry_ok(config, level, size))
				return -EINVAL;
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			const struct tdm_tlb_geometry *g = &config->level[level][size];

			if (g->ways == TDM_TLB_WITH_4K)
				t->e[level][size] = t->e[level][0];
			else if (g->ways && !(t->e[level][size] = tdmi_alloc(alloc, array_bytes(g)))) {
				tdmi_tlb_destroy(t, alloc);
				return -ENOMEM;
			}
			for (u32 i = 0; owns_array(t, level, size) && i < g->sets * g->ways; i++)
				t->e[level][size][i].tag = EMPTY;
		}
	}
	return 0;
}

void tdmi_tlb_destroy(struct tdm_tlb *t, struct tdm_alloc *alloc)
{
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		for (u32 size = 0; size < TDM_TLB_SIZES; size++)
			if (owns_array(t, level, size))
				tdmi_free(alloc, t->e[level][size], array_bytes(geometry(t, level, size)));
	*t = (struct tdm_tlb){ 0 };
}

static bool matches(const struct tdm_tlb_entry *e, u32 asid, u64 tag, u32 shift)
{
	return e->tag == tag && e->asid == asid && e->shift == shift;
}

static struct tdm_tlb_entry *find(struct tdm_tlb *t, u32 level, u32 size, u32 asid, u64 va)
{
	u32 shift = shift_of(size), ways;
	struct tdm_tlb_entry *e;

	if (!t->live[level][size])
		return NULL;
	e = set_of(t, level, size, va >> shift);
	ways = geometry(t, level, size)->ways;
	for (u32 i = 0; i < ways; i++)
		if (matches(&e[i], asid, va >> shift, shift))
			return &e[i];
	return NULL;
}

/* The entry to use for this leaf: its own, an empty one, the first that was not used lately. When all were used, all but the new one are forgotten to have been. */
static struct tdm_tlb_entry *place(struct tdm_tlb *t, u32 level, u32 size, u32 asid, u64 tag)
{
	struct tdm_tlb_entry *e = set_of(t, level, size, tag), *victim = NULL;
	u32 ways = geometry(t, level, size)->ways;

	for (u32 i = 0; i < ways; i++) {
		if (matches(&e[i], asid, tag, shift_of(size)))
			return &e[i];
		if (e[i].tag == EMPTY ? !victim || victim->tag != EMPTY : !victim && !e[i].used)
			victim = &e[i];
	}
	if (victim)
		return victim;
	for (u32 i = 0; i < ways; i++)
		e[i].used = 0;
	return e;
}

static void put(struct tdm_tlb *t, u32 level, u32 size, const struct tdm_tlb_entry *from)
{
	struct tdm_tlb_entry *e;

	if (!t->e[level][size])
		return;
	e = place(t, level, size, from->asid, from->tag);
	if (e->tag == EMPTY) {
		t->live[level][size]++;
	} else if (!matches(e, from->asid, from->tag, from->shift)) {
		t->live[level][size_of(e->shift)]--;
		t->live[level][size]++;
		t->evicted++;
	}
	*e = *from;
	e->used = 1;
}

struct tdm_tlb_entry *tdmi_tlb_lookup(struct tdm_tlb *t, u32 asid, u64 va, u32 *level)
{
	for (*level = 0; *level < TDM_TLB_LEVELS; (*level)++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			struct tdm_tlb_entry *e = find(t, *level, size, asid, va);

			if (!e)
				continue;
			e->used = 1;
			t->hits[*level]++;
			if (*level)
				put(t, 0, size, e);
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
		put(t, level, size_of(shift), &e);
	t->inserted++;
}

static u32 drop(struct tdm_tlb *t, u32 level, struct tdm_tlb_entry *e)
{
	t->live[level][size_of(e->shift)]--;
	e->tag = EMPTY;
	e->used = 0;
	return 1;
}

/* Of one size in one level: the leaves first to last, set by set. */
static u32 flush_sets(struct tdm_tlb *t, u32 level, u32 size, u32 asid, u64 first, u64 last)
{
	u32 ways = geometry(t, level, size)->ways, shift = shift_of(size), n = 0;

	for (u64 tag = first; tag <= last && t->live[level][size]; tag++) {
		struct tdm_tlb_entry *e = set_of(t, level, size, tag);

		for (u32 i = 0; i < ways; i++)
			if (matches(&e[i], asid, tag, shift))
				n += drop(t, level, &e[i]);
	}
	return n;
}

/* The same, entry by entry. */
static u32 flush_array(struct tdm_tlb *t, u32 level, u32 size, u32 asid, u64 first, u64 last)
{
	const struct tdm_tlb_geometry *g = geometry(t, level, size);
	struct tdm_tlb_entry *e = t->e[level][size], *end = e + (size_t)g->sets * g->ways;
	u32 n = 0;

	for (; e < end && t->live[level][size]; e++)
		if (e->tag != EMPTY && e->asid == asid && e->shift == shift_of(size) && e->tag >= first && e->tag <= last)
			n += drop(t, level, e);
	return n;
}

u32 tdmi_tlb_flush_range(struct tdm_tlb *t, u32 asid, u64 start, u64 end)
{
	u32 n = 0;

	if (start >= end)
		return 0;
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			u64 first = start >> shift_of(size), last = (end - 1) >> shift_of(size);

			if (!t->live[level][size])
				continue;
			if (last - first < geometry(t, level, size)->sets)
				n += flush_sets(t, level, size, asid, first, last);
			else
				n += flush_array(t, level, size, asid, first, last);
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
			const struct tdm_tlb_geometry *g = geometry(t, level, size);

			n += t->live[level][size];
			t->live[level][size] = 0;
			for (u32 i = 0; owns_array(t, level, size) && i < g->sets * g->ways; i++) {
				t->e[level][size][i].tag = EMPTY;
				t->e[level][size][i].used = 0;
			}
		}
	}
	t->flushed += n;
	return n;
}
