/* SPDX-License-Identifier: MIT */
/*
 * vmscan.h - which pages of spaces go, and how.
 *
 * Pages of ram that are mapped are on a list by generation, oldest first: a page that is found used when reclaim comes to it is young again. Used is what any
 * entry's accessed bit says, and any secondary MMU. The bit is cleared without a flush, or with one (tdm_scan_policy): without, a page that is used by way of
 * a TLB alone looks unused; with, each look costs a flush. What is unused is unmapped everywhere, flushed by a batch (mm/tlb.h), packed, and freed.
 *
 * A list belongs to the LRU lock. Whoever takes a page off takes a reference with it, and marks it isolated.
 */
#ifndef TDM_MM_VMSCAN_H
#define TDM_MM_VMSCAN_H

#include "mm/space.h"

#define TDM_SCAN_GENS 4u

/* How it is found out whether a page is used. */
enum tdm_scan_young {
	TDM_YOUNG_CLEAR,       /* clear the bit, flush nothing */
	TDM_YOUNG_FLUSH,       /* and flush CPUs and secondary MMUs */
	TDM_YOUNG_FLUSH_SECONDARY, /* and flush those alone who have no context switch that would do it */
};

struct tdm_vmscan_stats {
	u64 listed, scanned;
};

int tdmi_vmscan_init(struct tdm_world *w);
void tdmi_vmscan_destroy(struct tdm_world *w);
void tdmi_vmscan_policy(struct tdm_world *w, enum tdm_scan_young young);
/* A page has been mapped for the first time; it comes back, evicted when the clock said `clock` (8 bits). Pages of ranges that are not ram are on no list. */
void tdmi_vmscan_add(struct tdm_world *w, struct tdm_pfn pfn);
void tdmi_vmscan_refault(struct tdm_world *w, struct tdm_pfn pfn, u32 clock);
/* The last reference has gone. Tables may be locked. */
void tdmi_vmscan_forget(struct tdm_world *w, struct tdm_pfn pfn);
/* Take a page off its list, with a reference. false: it is not there. */
bool tdmi_vmscan_isolate(struct tdm_world *w, struct tdm_pfn pfn);
/* Back on it, as a young one or an old one; the reference goes. */
void tdmi_vmscan_putback(struct tdm_world *w, struct tdm_pfn pfn, bool young);
/* Free up to n pages, looking at no more than `most`. How many were freed. No lock; outside of a section. */
u64 tdmi_vmscan(struct tdm_world *w, struct tdm_rcu_reader *reader, u64 n, u64 most);
/* The youngest generation is closed: what comes, or is found used, is younger from now on. tdmi_vmscan() does it when too few pages are older. */
void tdmi_vmscan_age(struct tdm_world *w);
/* By a fault that found no page. Did it free some? Within a section or not; no lock. */
bool tdmi_vmscan_direct(struct tdm_world *w, struct tdm_rcu_reader *reader);
void tdmi_vmscan_stats(struct tdm_world *w, struct tdm_vmscan_stats *out);

/* Scratch memory for one use of a tier. NULL: no memory. */
struct tdm_swap_ws *tdmi_vmscan_ws_get(struct tdm_world *w);
void tdmi_vmscan_ws_put(struct tdm_world *w, struct tdm_swap_ws *ws);

/* Take all entries that name a page away, so that they name the slot instead; ~0: they become none, which is refused if one has written. 0; -EBUSY: the page
 * is pinned, being moved, or (~0) has been written; or an entry came meanwhile: some may have gone all the same. The flushes are the batch's. RCU reader, in a
 * section that lasts until the batch has been flushed. */
int tdmi_try_to_unmap(struct tdm_world *w, struct tdm_pfn pfn, u64 slot, struct tdm_tlb_batch *b);

#endif
