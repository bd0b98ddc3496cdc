/* SPDX-License-Identifier: MIT */
/*
 * swapcache.h - what swap entries of spaces name: a slot, for one page that may be named by several entries.
 *
 * A slot has the page's bytes in the tiers (a handle of mm/swap.h), or its page, or both: the page is in the *swap cache* then. On the way out it is put there
 * before its entries are replaced, so that whoever touches it meanwhile gets the same page back; on the way in until the last entry has been replaced, so that
 * all who had shared it share it again. A slot counts the entries that name it; the cache has one reference to its page, and page->slot names the slot.
 *
 * The lock of the slots guards it all. Nothing is waited for with it held: who reads a slot's bytes in marks it as being loaded, and others who want it wait.
 */
#ifndef TDM_MM_SWAPCACHE_H
#define TDM_MM_SWAPCACHE_H

#include "mm/space.h"

/* -ENOMEM. */
int tdmi_swapcache_init(struct tdm_world *w);
/* No entry is left. */
void tdmi_swapcache_destroy(struct tdm_world *w);

/* The slot of an isolated page, of whose references the caller has one: the one that it has in the cache, or a new one. The caller counts as an entry, until
 * tdmi_slot_write() or tdmi_slot_put(): those that it makes name it may all go again meanwhile. -ENOMEM. */
int tdmi_slot_for(struct tdm_world *w, struct tdm_pfn pfn, u64 *slot);
/* One entry more. Its table is locked. */
void tdmi_slot_dup(struct tdm_world *w, u64 slot);
/* One less; the last one takes the page out of the cache and drops the bytes. Tables may be locked. */
void tdmi_slot_put(struct tdm_world *w, u64 slot);
/* The page of the slot, read in if need be, with a reference of the caller's. An entry names the slot, at least when this is called; -EAGAIN: no more.
 * -ENOMEM: no page is free; others: the tier's, and it stays there. No lock is held. */
int tdmi_slot_get_page(struct tdm_world *w, u64 slot, struct tdm_swap_ws *ws, struct tdm_pfn *pfn);
/* If the page is in the cache, no entry names its slot, and nobody but the cache and the holders of `refs` references has one, take the page out of the cache
 * and drop the bytes: true. */
bool tdmi_slot_take(struct tdm_world *w, struct tdm_page *pg, u32 refs);
/* Store the page's bytes in the tiers; the caller is no entry any more, whatever comes of it. Nobody maps it, and whoever comes to map it must be seen by its
 * references. 0; -EBUSY: somebody has come; or the tiers' error: it stays in the cache. */
int tdmi_slot_write(struct tdm_world *w, u64 slot, struct tdm_swap_ws *ws, struct tdm_pfn pfn, u32 refs);
/* Is that the page of the slot, which an entry names whose table is locked? A slot may have been freed and used again since tdmi_slot_get_page(). */
bool tdmi_slot_has(struct tdm_world *w, u64 slot, const struct tdm_page *pg);
/* Entries that name the slot. */
u32 tdmi_slot_count(struct tdm_world *w, u64 slot);

/* For who checks that all of it fits together, with nothing under way. */
struct tdm_slot_state {
	bool used, stored;   /* stored: a tier has its bytes */
	bool cached;
	u32 count;
	struct tdm_pfn pfn;  /* cached */
};
/* What there is of a slot, whether it is used or not. false: there are not so many. */
bool tdmi_slot_state(struct tdm_world *w, u64 slot, struct tdm_slot_state *out);

#endif
