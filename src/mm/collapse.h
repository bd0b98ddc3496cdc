/* SPDX-License-Identifier: MIT */
/*
 * collapse.h - tables of special entries become leaves again.
 *
 * A buffer that was evicted and touched meanwhile is mapped by tables, and stays so: the fault path never replaces a table. So somebody does it later, from a
 * thread of his own.
 */
#ifndef TDM_MM_COLLAPSE_H
#define TDM_MM_COLLAPSE_H

#include "mm/space.h"

struct tdm_collapsed {
	u64 made[3];     /* leaves, by level: [1] of 2 MiB, [2] of 1 GiB */
	u64 holes;       /* tables that stay because of an entry that is not there, */
	u64 scattered;   /* because their pfns do not follow each other, or are not aligned, */
	u64 rights;      /* because they do not all have the same rights */
	u64 filled;      /* bytes that had no entry (tdmi_collapse_slot() with `leaf`) */
};

/* Replace the tables of [start, end) by leaves where all entries of one are present, special, contiguous, aligned and have the same rights, and the CPUs have
 * such a leaf; of 2 MiB, then of 1 GiB. Accessed and dirty bits are those of all entries together. Takes s->change; no lock is held, `reader` is outside of a
 * section. */
void tdmi_collapse_range(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end, struct tdm_collapsed *out);

/*
 * The same for one slot, with its table `upper` locked, and tables below it first: true if it is a leaf now. leaf: what the entries must say, or nothing: with
 * it, entries that are none count as what they would be, and the leaf gets these rights (tdmi_remap_range()). Whoever has translations of the tables' is
 * flushed. Notifiers' rounds are the caller's.
 */
bool tdmi_collapse_slot(struct tdm_space *s, struct tdm_pt *upper, u32 i, const struct tdm_pte *leaf, struct tdm_collapsed *out);

#endif
