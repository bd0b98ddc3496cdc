/* SPDX-License-Identifier: MIT */
/*
 * walk.h - a hardware walker: from an address to a leaf of the page table, as a CPU or an IOMMU does it.
 *
 * It takes no lock, and sets the accessed and dirty bits of the leaf itself, if it can, by compare-and-swap on what it has read: if that fails it walks again.
 */
#ifndef TDM_PORT_WALK_H
#define TDM_PORT_WALK_H

#include "mm/pgtable.h"

/* What a walker does by itself. */
#define TDM_WALK_HW_A 1u /* sets A; without, a leaf with A=0 is a fault */
#define TDM_WALK_HW_D 2u /* sets D; without, a write to a leaf with D=0 is a fault */

enum tdm_walk_result {
	TDM_WALK_OK,
	TDM_WALK_ABSENT,   /* no present leaf */
	TDM_WALK_DENIED,   /* a write, and the leaf is read-only */
	TDM_WALK_ACCESS,   /* A=0, and it cannot set it */
	TDM_WALK_DIRTY,    /* likewise D */
};

struct tdm_walk {
	struct tdm_pte pte; /* as it is after the walk; of a part of a leaf, with the part's pfn. Not TDM_WALK_OK: what was met */
	u32 shift;          /* of the leaf, or of the part: 12, 21, 30. Not TDM_WALK_OK: of what was met */
	u32 reads;          /* entries that were read, in all of its tries: what a walk costs */
	bool set_a, set_d;
};

/* The caller is an RCU reader of the table's domain. page_sizes: mask of the leaf sizes (bit = log2; 4 KiB always) that may be cached; of a leaf that is
 * larger the part of the largest such size is returned. A and D are set in the leaf itself, and only if the result is TDM_WALK_OK. */
enum tdm_walk_result tdmi_walk(struct tdm_pgt *pgt, u64 va, bool write, u32 caps, u64 page_sizes, struct tdm_walk *out);

#endif
