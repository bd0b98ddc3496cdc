/* SPDX-License-Identifier: MIT */
/*
 * insert_range.h - a driver maps memory without pages: it hands over the largest contiguous run that it has, and the engine picks the leaves.
 *
 * No driver names a page-table level: at each step the engine takes the largest leaf that is legal for this address, this pfn, what remains of the run and of
 * the VMA, the sizes that the CPUs have (world->huge) and the tables that are there already. A slot that has a table gets entries below it, never a leaf: only
 * collapse.h and tdmi_remap_range() replace tables.
 *
 * A leaf says SPECIAL, which means that there is no page behind it; so a pfn of a range that has pages is refused by an assertion, as is tdm_pfn_page() of one
 * that has none.
 */
#ifndef TDM_MM_INSERT_RANGE_H
#define TDM_MM_INSERT_RANGE_H

#include "mm/space.h"

#define TDM_LEAVES 3u /* sizes: 4 KiB, 2 MiB, 1 GiB, by the level of the table that they are in */

#define TDM_INSERT_WRITE 1u /* the leaves are writable; one that is there and read-only becomes it */
#define TDM_INSERT_YOUNG 2u /* the leaf for how->at is accessed */
#define TDM_INSERT_DIRTY 4u /* and dirty */

struct tdm_insert {
	u32 flags;
	u64 at;          /* the address that is needed */
	u64 max_prefault; /* entries that the call may write, `at` among them; 0: as many as the run takes */
};

/* What a call has done, also if it failed. Bytes [start, end) are translated as asked, and nothing else was touched; with max_prefault that is less than the run. */
struct tdm_inserted {
	u64 start, end;
	u64 bytes[TDM_LEAVES]; /* mapped by this call, by leaf size */
	u64 same;              /* bytes that had been mapped so before, with fewer rights perhaps */
	u64 entries;           /* written */
	u64 tables;            /* allocated, a page each */
	u64 split;             /* larger leaves that became tables, as a part of them gets more rights than the rest */
};

/*
 * Map the n pages from pfn at va, as far as the VMA of m reaches (both ends of the run may lie outside, also below 0). What is there already with the same
 * translation stays, and gets more rights if asked. RCU reader, no lock; driver's locks that its faults take may be held. If the VMA has changed meanwhile it
 * ends where that begins to matter: 0, and out->end says so.
 *   -EINVAL   va is not aligned to pages, n is 0, or how->at is not in the run
 *   -EFAULT   how->at is not in a VMA of m, or that does not allow it
 *   -EEXIST   something else is mapped at out->end, which the driver has to zap first
 *   -ENOMEM   no memory for a table at out->end
 */
int tdmi_insert_range(struct tdm_map *m, u64 va, struct tdm_pfn pfn, u64 n, const struct tdm_insert *how, struct tdm_inserted *out);

/* One leaf of this level (0, 1, 2) or none: FALLBACK if va or pfn is not aligned to it, if it would leave the VMA, if the CPUs have no such leaf, or if there
 * is a table. DONE also if it was there. SIGBUS: something else is there, or the VMA does not allow it. Otherwise as above; how->max_prefault does not matter. */
enum tdm_fault_result tdmi_insert_pfn(struct tdm_map *m, u64 va, struct tdm_pfn pfn, u32 level, const struct tdm_insert *how);

/*
 * A mapping that is filled when it is made: m has just been made by tdmi_mmap_driver(). Like tdmi_insert_range() for all of it, but tables that are empty, or
 * say in all their entries what the leaf would say, give way to a leaf. Its driver has a fault operation all the same: what mprotect() or mremap() drops comes
 * back by it (tdmi_remap_ops: for linear runs, with a struct tdm_remap as argument). Takes s->change; no lock is held, `reader` is outside of a section.
 */
int tdmi_remap_range(struct tdm_map *m, struct tdm_rcu_reader *reader, u64 va, struct tdm_pfn pfn, u64 n, u32 flags, struct tdm_inserted *out);

struct tdm_remap {
	struct tdm_pfn pfn; /* of offset 0 of the mapping */
	u64 n;              /* pages from there */
};

extern const struct tdm_map_ops tdmi_remap_ops;

/* The special leaf for pfn. */
static inline struct tdm_pte tdm_pte_mk_special(struct tdm_phys *p, struct tdm_pfn pfn, u64 flags)
{
	TDM_BUG_ON(tdm_pfn_range(p, pfn)->kind != TDM_MEM_SPECIAL);
	return tdm_pte_mk(pfn, TDM_PTE_SPECIAL | flags);
}

#endif
