// SPDX-License-Identifier: MIT
/*
 * tlb.c - a TLB; see tlb.h.
 *
 * A set is chosen by the lowest bits of the page number alone, so that what a run does can be told from its addresses. An array that holds several sizes is
 * looked up once for each size that it has any of.
 */
#include <string.h>
#include "base/bitops.h"
#include "base/check.h"
#include "port/tlb.h"

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

static size_t sets_of(const struct tdm_tlb_array *a)
{
	return (size_t)a->mask + 1;
}

static size_t key_bytes(const struct tdm_tlb_array *a)
{
	return sets_of(a) * (a->ways + 1) * sizeof(*a->key);
}

static size_t entry_bytes(const struct tdm_tlb_array *a)
{
	return sets_of(a) * a->ways * sizeof(*a->e);
}

static u64 *keys_of(const struct tdm_tlb_array *a, u64 set)
{
	return &a->key[set * (a->ways + 1)];
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
	for (size_t set = 0; a->key && !a->shared && set < sets_of(a); set++) {
		memset(keys_of(a, set), 255, a->ways * sizeof(*a->key));
		keys_of(a, set)[a->ways] = 0;
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
		a->key = tdmi_alloc(alloc, key_bytes(a));
		a->e = tdmi_alloc(alloc, entry_bytes(a));
		if (!a->key || !a->e)
			return -ENOMEM;
		array_empty(a);
	}
	return 0;
}

static void array_destroy(struct tdm_tlb_array *a, struct tdm_alloc *alloc)
{
	if (a->shared)
		return;
	if (a->key)
		tdmi_free(alloc, a->key, key_bytes(a));
	if (a->e)
		tdmi_free(alloc, a->e, entry_bytes(a));
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
			array_destroy(&t->array[level][size], alloc);
	*t = (struct tdm_tlb){ 0 };
}

static void set_used(u64 *keys, u32 ways, u32 way)
{
	keys[ways] |= (u64)1 << way;
}

/* The way to use for this leaf: its own, an empty one, the first that was not used lately. When all were used, all are forgotten to have been. */
static u32 place(u64 *keys, u32 ways, u64 key)
{
	u32 empty = ways, own = ways;
	u64 idle;

	for (u32 i = ways; i-- > 0;) {
		own = keys[i] == key ? i : own;
		empty = keys[i] == TDM_TLB_EMPTY ? i : empty;
	}
	if (own < ways)
		return own;
	if (empty < ways)
		return empty;
	idle = ~keys[ways] & tdm_bits_below(ways);
	if (idle)
		return tdm_lowest_bit(idle);
	keys[ways] = 0;
	return 0;
}

static void put(struct tdm_tlb *t, u32 level, u64 key, const struct tdm_tlb_entry *leaf)
{
	struct tdm_tlb_array *a = &t->array[level][size_of((u32)leaf->shift)];
	u64 set = key & a->mask, *keys;
	u32 way;

	if (!a->key)
		return;
	keys = keys_of(a, set);
	way = place(keys, a->ways, key);
	if (keys[way] != key) {
		if (keys[way] != TDM_TLB_EMPTY) {
			t->array[level][size_of(tdm_tlb_key_shift(keys[way]))].live--;
			t->evicted++;
		}
		a->live++;
		keys[way] = key;
	}
	a->e[set * a->ways + way] = *leaf;
	set_used(keys, a->ways, way);
}

/* In one level, and used. */
static struct tdm_tlb_entry *lookup_level(struct tdm_tlb *t, u32 level, u32 asid, u64 va)
{
	for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
		struct tdm_tlb_array *a = &t->array[level][size];
		u64 set = va >> shift_of(size) & a->mask, *keys;
		u32 way;

		if (!a->live)
			continue;
		keys = keys_of(a, set);
		way = tdm_tlb_way(keys, a->ways, tdm_tlb_key(asid, va, shift_of(size)));
		if (way == a->ways)
			continue;
		set_used(keys, a->ways, way);
		t->hits[level]++;
		return &a->e[set * a->ways + way];
	}
	return NULL;
}

struct tdm_tlb_entry *tdmi_tlb_lookup(struct tdm_tlb *t, u32 asid, u64 va, u32 *level)
{
	for (*level = 0; *level < TDM_TLB_LEVELS && !(va >> TDM_TLB_VA_BITS); (*level)++) {
		struct tdm_tlb_entry *e = lookup_level(t, *level, asid, va);

		if (!e)
			continue;
		if (*level) {
			/* What is about to be used may be far away. */
			if (e->bytes)
				__builtin_prefetch(e->bytes + (va & tdm_bits_below((u32)e->shift)), 1);
			put(t, 0, tdm_tlb_key(asid, va, (u32)e->shift), e);
		}
		return e;
	}
	t->misses++;
	return NULL;
}

void tdmi_tlb_insert(struct tdm_tlb *t, u32 asid, u64 va, u32 shift, struct tdm_pte pte, u8 *bytes)
{
	struct tdm_tlb_entry e = { .pte = pte, .bytes = bytes, .shift = shift };

	TDM_BUG_ON(asid >= TDM_TLB_ASIDS || va >> TDM_TLB_VA_BITS);
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		put(t, level, tdm_tlb_key(asid, va, shift), &e);
	t->inserted++;
}

static u32 drop(struct tdm_tlb_array *a, u64 *keys, u32 way)
{
	a->live--;
	keys[way] = TDM_TLB_EMPTY;
	return 1;
}

/* The leaves from first to last, set by set. */
static u32 flush_sets(struct tdm_tlb_array *a, u64 first, u64 last)
{
	u32 n = 0;

	for (u64 key = first; key <= last && a->live; key++) {
		u64 *keys = keys_of(a, key & a->mask);
		u32 way = tdm_tlb_way(keys, a->ways, key);

		if (way < a->ways)
			n += drop(a, keys, way);
	}
	return n;
}

/* The same, entry by entry. */
static u32 flush_array(struct tdm_tlb_array *a, u64 first, u64 last)
{
	u32 n = 0;

	for (size_t set = 0; set < sets_of(a) && a->live; set++) {
		u64 *keys = keys_of(a, set);

		for (u32 way = 0; way < a->ways; way++)
			if (keys[way] >= first && keys[way] <= last)
				n += drop(a, keys, way);
	}
	return n;
}

u32 tdmi_tlb_flush_range(struct tdm_tlb *t, u32 asid, u64 start, u64 end)
{
	u32 n = 0;

	end = TDM_MIN(end, (u64)1 << TDM_TLB_VA_BITS);
	if (start >= end || asid >= TDM_TLB_ASIDS)
		return 0;
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++) {
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			struct tdm_tlb_array *a = &t->array[level][size];
			u64 first = tdm_tlb_key(asid, start, shift_of(size)), last = tdm_tlb_key(asid, end - 1, shift_of(size));

			if (!a->live)
				continue;
			n += last - first <= a->mask ? flush_sets(a, first, last) : flush_array(a, first, last);
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
			n += t->array[level][size].live;
			t->array[level][size].live = 0;
			array_empty(&t->array[level][size]);
		}
	}
	t->flushed += n;
	return n;
}
