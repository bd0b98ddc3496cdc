/* SPDX-License-Identifier: MIT */
/*
 * rmap.h - which entries name a page.
 *
 * A page knows every address space and address that maps it: one in its descriptor itself, several in a chain of small arrays. Exact, at the cost of memory
 * for pages that are mapped many times (8 bytes each); nothing has to be searched, and mremap() only changes what it moves.
 *
 * Changed with the lock of the page table held whose entry is changed with it, under the page's rmap lock (one of a few, by its pfn). Who goes through it comes from
 * the page, and table locks come first: so he takes a copy, and looks at each entry under its table's lock to see whether it still names the page.
 */
#ifndef TDM_MM_RMAP_H
#define TDM_MM_RMAP_H

#include "mm/notifier.h"
#include "mm/page.h"
#include "mm/pgtable.h"

struct tdm_world;
struct tdm_space;

/* The space's entry for va names the page from now on / does not any more. The table is locked. -ENOMEM. */
int tdmi_rmap_add(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 va);
void tdmi_rmap_del(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 va);
/* Its address changes. No table need be locked, if nobody else can take the entry, which is in no table. */
void tdmi_rmap_move(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 from, u64 to);
/* How many entries name it. A guess, unless who asks keeps them from changing. */
u32 tdmi_rmap_count(struct tdm_world *w, struct tdm_pfn pfn);

/* Call fn for each entry that names the page, with its table locked, until it returns nonzero: that is the result. Entries that come to name it meanwhile may
 * be missed. pt is NULL: that one does not name the page any more, or mremap() has it in hand at this moment.
 * The caller is an RCU reader, holds a reference to the page and no lock. -ENOMEM: nothing was called. */
typedef int tdm_rmap_fn(void *arg, struct tdm_space *s, struct tdm_pt *pt, u32 index, u64 va);
int tdmi_rmap_walk(struct tdm_world *w, struct tdm_pfn pfn, tdm_rmap_fn *fn, void *arg);
/* The same for who changes entries: each within a round of its space's notifiers, begun before its table is locked. -EBUSY: a subscriber would have to wait. */
int tdmi_rmap_walk_round(struct tdm_world *w, struct tdm_pfn pfn, enum tdm_inv_event why, tdm_rmap_fn *fn, void *arg);

#endif
