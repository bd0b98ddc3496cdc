/* SPDX-License-Identifier: MIT */
/*
 * rmap.h - which entries name a page.
 *
 * A page knows every address space and address that maps it: one in its descriptor itself, several in a chain of small arrays. Exact, at the cost of memory for pages
 * that are mapped many times (8 bytes each); nothing has to be searched, and mremap() only changes what it moves.
 *
 * Changed with the lock of the page table held whose entry is changed with it, under the page's rmap lock (one of a few, by its pfn). Who goes through it comes from
 * the page, and table locks come first: so he takes a copy, and looks at each entry under its table's lock to see whether it still names the page.
 */
#ifndef TDM_MM_RMAP_H
#define TDM_MM_RMAP_H

#include "mm/page.h"

struct tdm_world;
struct tdm_space;

/* The space's entry for va names the page from now on / does not any more. The table is locked. -ENOMEM. */
int tdmi_rmap_add(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 va);
void tdmi_rmap_del(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_space *s, u64 va);
/* How many entries name it. A guess, unless who asks keeps them from changing. */
u32 tdmi_rmap_count(struct tdm_world *w, struct tdm_pfn pfn);

/* Call fn for each entry that names the page, with its table locked, until it returns nonzero: that is the result. Entries that come to name it meanwhile may be missed.
 * The caller is an RCU reader, holds a reference to the page and no lock. -ENOMEM: nothing was called. */
typedef int tdm_rmap_fn(void *arg, struct tdm_space *s, struct tdm_pt *pt, u32 index, u64 va);
int tdmi_rmap_walk(struct tdm_world *w, struct tdm_pfn pfn, tdm_rmap_fn *fn, void *arg);

#endif
