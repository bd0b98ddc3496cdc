/* SPDX-License-Identifier: MIT */
/*
 * tlb.h - a TLB: what a CPU, an IOMMU or a device remembers of page tables.
 *
 * Two levels, each set-associative, for leaves of 4 KiB, 2 MiB and 1 GiB in one array or in one of their own (as the machine has it), tagged by ASID (or PASID). Replacement
 * is not-recently-used, and deterministic. One thread.
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

/* What hits. pte: as the walker saw it: a write needs W and D in it, else the walker is asked again. */
struct tdm_tlb_entry {
	u64 tag;          /* va >> shift; ~0: empty */
	u32 asid;
	u8 shift;
	u8 used;          /* replacement: hit since the last time that all of its set were */
	u16 pad;
	struct tdm_pte pte;
	u8 *bytes;        /* of the leaf's first page */
};

_Static_assert(sizeof(struct tdm_tlb_entry) == 32, "two entries are a cache line");

/* Where the entries of one size are, in one level. */
struct tdm_tlb_array {
	struct tdm_tlb_entry *e; /* NULL: nowhere */
	u32 mask, ways;          /* sets less one */
	u32 live;                /* entries of this size that are not empty */
	bool shared;             /* e is the array of 4 KiB */
};

struct tdm_tlb {
	struct tdm_tlb_array array[TDM_TLB_LEVELS][TDM_TLB_SIZES];
	/* Lookups; leaves inserted; entries, of either level, that made room, and that were flushed. */
	u64 hits[TDM_TLB_LEVELS], misses, inserted, evicted, flushed;
};

static inline struct tdm_tlb_entry *tdm_tlb_set(const struct tdm_tlb_array *a, u64 tag)
{
	return &a->e[(tag & a->mask) * a->ways];
}

static inline bool tdm_tlb_matches(const struct tdm_tlb_entry *e, u32 asid, u64 tag, u32 shift)
{
	return e->tag == tag && e->asid == asid && e->shift == shift;
}

/* Entries of this level and size, without a trace. NULL: none. */
static inline struct tdm_tlb_entry *tdm_tlb_find(const struct tdm_tlb_array *a, u32 asid, u64 va, u32 shift)
{
	struct tdm_tlb_entry *e;

	if (!a->live)
		return NULL;
	e = tdm_tlb_set(a, va >> shift);
	for (u32 i = 0; i < a->ways; i++)
		if (tdm_tlb_matches(&e[i], asid, va >> shift, shift))
			return &e[i];
	return NULL;
}

/* What tdmi_tlb_lookup() would return, if that is in the first level and its pte has all bits of `need`; and then as counted as there. NULL: look it up. */
static inline struct tdm_tlb_entry *tdm_tlb_hit(struct tdm_tlb *t, u32 asid, u64 va, u64 need)
{
	for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
		struct tdm_tlb_entry *e = tdm_tlb_find(&t->array[0][size], asid, va, TDM_PAGE_SHIFT + 9 * size);

		if (!e)
			continue;
		if (tdm_unlikely((e->pte.v & need) != need))
			return NULL;
		e->used = 1;
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
/* Remember a leaf in both levels, in place of what was known of it. shift is one of 12, 21, 30; bytes: of the leaf's first page, or NULL. */
void tdmi_tlb_insert(struct tdm_tlb *t, u32 asid, u64 va, u32 shift, struct tdm_pte pte, u8 *bytes);
/* Forget what overlaps [start, end), of whatever size; of one ASID. How many entries. */
u32 tdmi_tlb_flush_range(struct tdm_tlb *t, u32 asid, u64 start, u64 end);
u32 tdmi_tlb_flush_asid(struct tdm_tlb *t, u32 asid);
u32 tdmi_tlb_flush_all(struct tdm_tlb *t);

#endif
