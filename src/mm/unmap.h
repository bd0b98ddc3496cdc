/* SPDX-License-Identifier: MIT */
/*
 * unmap.h - what changes many entries of one space: taking them away, and taking rights away.
 *
 * All of these go through [start, end) table by table, with at most one locked, and are called with s->change held, within a round of the space's notifiers,
 * after the VMAs have been changed; no table is locked.
 */
#ifndef TDM_MM_UNMAP_H
#define TDM_MM_UNMAP_H

#include "mm/space.h"

/* Take all entries of anonymous memory away. Pages go with the gather, which is flushed when it is full; the caller flushes it at the end. Empty PTE tables are
 * freed. */
void tdmi_unmap_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end);
/* One entry, of a locked PTE table. true: the gather is full. */
bool tdmi_unmap_entry(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va);

/* Take the rights away that are not in flags (TDM_V_READ, TDM_V_WRITE): entries lose W; without the right to read they become typed, as if each page were
 * being migrated, and faults are refused by the VMA before they see it. */
void tdmi_protect_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, uintptr_t flags);
/* MADV_FREE: the pages that nobody else has need not be kept, unless they are written again, which the entries will say. */
void tdmi_free_lazily(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end);
/* Make the tables at `to`. -ENOMEM. Then move the entries; the old ones are gathered, and flushed before the new ones are there. */
int tdmi_move_prepare(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len);
void tdmi_move_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len);

/* For each present entry: clear these bits. What the entry then lacks is gathered. */
void tdmi_clear_range(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, u64 bits);

/* Call fn for each entry of [start, end) that is not none and lies in a PTE table, with the table locked. true: let go of the lock, flush the gather, and go on. */
typedef bool tdm_entry_fn(struct tdm_gather *g, struct tdm_pt *pt, u32 i, u64 va, void *arg);
void tdmi_each_entry(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, tdm_entry_fn *fn, void *arg);

#endif
