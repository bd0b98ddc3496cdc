/* SPDX-License-Identifier: MIT */
/*
 * tlb.h - a TLB: what a CPU, an IOMMU or a device remembers of page tables.
 *
 * Two levels, each set-associative, for leaves of 4 KiB, 2 MiB and 1 GiB in one array or in one of their own (as the machine has it), tagged by ASID (or
 * PASID). Replacement is not-recently-used, and deterministic. One thread.
 */
#ifndef TDM_PORT_TLB_H
#define TDM_PORT_TLB_H

#include "base/alloc.h"
#include "mm/pte.h"

#define TDM_TLB_LEVELS 2u
#define TDM_TLB_SIZES 3u /* 4 KiB, 2 MiB, 1 GiB */

#define TDM_TLB_WAYS_MAX 64u
#define TDM_TLB_WITH_4K (~0u) /* as ways, of a larger size: it is in the array of 4 KiB */

/* An array: sets * ways entries; sets a power of two. ways 0: there is none, and nothing of this size is kept at this level. */
struct tdm_tlb_geometry {
	u32 sets, ways;
};

struct tdm_tlb_config {
	struct tdm_tlb_geometry level[TDM_TLB_LEVELS][TDM_TLB_SIZES];
};

#define TDM_TLB_ASIDS ((1u << 26) - 1) /* ASIDs are below this */
#define TDM_TLB_VA_BITS 48u            /* beyond, nothing is translated */

/* What hits. pte: as the walker saw it: a write needs W and D in it, else the walker is asked again. */
struct tdm_tlb_entry {
	struct tdm_pte pte;
	u8 *bytes;        /* of the leaf's first page */
	u64 shift;
};

/*
 * Where the entries of one size are, in one level. What is searched is apart from what is found: of each set the keys of its ways, and, as one word more,
 * which of them have been hit since the last time that all were.
 */
struct tdm_tlb_array {
	u64 *key;                /* mask + 1 sets of ways + 1 words; NULL: nowhere */
	struct tdm_tlb_entry *e; /* mask + 1 sets of ways */
	u32 mask, ways;          /* sets less one */
	u32 live;                /* entries of this size that are not empty */
	bool shared;             /* it is the array of 4 KiB */
};

struct tdm_tlb {
	struct tdm_tlb_array array[TDM_TLB_LEVELS][TDM_TLB_SIZES];
	/* Lookups; leaves inserted; entries, of either level, that made room, and that were flushed. */
	u64 hits[TDM_TLB_LEVELS], misses, inserted, evicted, flushed;
};

#define TDM_TLB_EMPTY (~(u64)0)

/* ASID, size, number of the leaf. */
static inline u64 tdm_tlb_key(u32 asid, u64 va, u32 shift)
{
	return (u64)asid << 38 | (u64)(shift / 9 - 1) << 36 | va >> shift;
}

static inline u32 tdm_tlb_key_asid(u64 key)
{
	return (u32)(key >> 38);
}

static inline u32 tdm_tlb_key_shift(u64 key)
{
	return TDM_PAGE_SHIFT + 9 * ((u32)(key >> 36) & 3);
}

static inline u64 tdm_tlb_key_va(u64 key)
{
	return (key & (((u64)1 << 36) - 1)) << tdm_tlb_key_shift(key);
}

/* The way that has it; ways: none. All are looked at: which one it will be cannot be predicted, and to guess wrong takes longer. */
static inline u32 tdm_tlb_way(const u64 *keys, u32 ways, u64 key)
{
	u32 way = ways;

	for (u32 i = 0; i < ways; i++)
		way = keys[i] == key ? i : way;
	return way;
}

/* The entry of this level and size, without a trace. NULL: none. */
static inline struct tdm_tlb_entry *tdm_tlb_find(const struct tdm_tlb_array *a, u32 asid, u64 va, u32 shift)
{
	u64 set = va >> shift & a->mask;
	u32 way;

	if (!a->live || va >> TDM_TLB_VA_BITS)
		return NULL;
	way = tdm_tlb_way(&a->key[set * (a->ways + 1)], a->ways, tdm_tlb_key(asid, va, shift));
	return way < a->ways ? &a->e[set * a->ways + way] : NULL;
}

/* What tdmi_tlb_lookup() would return, if that is in the first level and its pte has all bits of `need`; and then as counted as there. NULL: look it up. */
static inline struct tdm_tlb_entry *tdm_tlb_hit(struct tdm_tlb *t, u32 asid, u64 va, u64 need)
{
#pragma GCC unroll 3
	for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
		const struct tdm_tlb_array *a = &t->array[0][size];
		u32 shift = TDM_PAGE_SHIFT + 9 * size, way;
		u64 set = va >> shift & a->mask, *keys;
		struct tdm_tlb_entry *e;

		if (!a->live || va >> TDM_TLB_VA_BITS)
			continue;
		keys = &a->key[set * (a->ways + 1)];
		way = tdm_tlb_way(keys, a->ways, tdm_tlb_key(asid, va, shift));
		if (way == a->ways)
			continue;
		e = &a->e[set * a->ways + way];
		if (tdm_unlikely((e->pte.v & need) != need))
			return NULL;
		keys[a->ways] |= (u64)1 << way;
		t->hits[0]++;
		return e;
	}
	return NULL;
}

/* -ENOMEM; -EINVAL: a geometry that is none. */
int tdmi_tlb_init(struct tdm_tlb *t, const struct tdm_tlb_config *config, struct tdm_alloc *alloc);
void tdmi_tlb_destroy(struct tdm_tlb *t, struct tdm_alloc *alloc);
/* The entry for va, or NULL; good until the next call. *level: where it hit (0, 1); a hit of level 1 is copied to level 0. Hits and misses are counted. */
struct tdm_tlb_entry *tdmi_tlb_lookup(struct tdm_tlb *t, u32 asid, u64 va, u32 *level);
/* asid < TDM_TLB_ASIDS, va below 2^48. Remember a leaf in both levels, in place of what was known of it. shift is one of 12, 21, 30; bytes: of the leaf's first
 * page, or NULL. */
void tdmi_tlb_insert(struct tdm_tlb *t, u32 asid, u64 va, u32 shift, struct tdm_pte pte, u8 *bytes);
/* Forget what overlaps [start, end), of whatever size; of one ASID. How many entries. */
u32 tdmi_tlb_flush_range(struct tdm_tlb *t, u32 asid, u64 start, u64 end);
u32 tdmi_tlb_flush_asid(struct tdm_tlb *t, u32 asid);
u32 tdmi_tlb_flush_all(struct tdm_tlb *t);

#endif
