/* SPDX-License-Identifier: MIT */
/* reclaim_impl.h - what reclaim.c (make room), pageout.c (ranges that somebody wants out) and take_home.c share. */
#ifndef TDM_MM_RECLAIM_IMPL_H
#define TDM_MM_RECLAIM_IMPL_H

#include "mm/mm.h"

/* ---- take_home.c: the event lock is held, and events have settled. The pages that are home now. */

/* Take an isolated folio home, a block's pages in the mask `only`, and put it back where it belongs. One of 2 MiB of which not all are wanted (part) is split.
 * The event lock is let go of for a while if pages refuse. *again: some could not be had because of an event. */
u32 tdmi_home_folio(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, bool part, bool *again);
/* Blocks from *va on, below end, by one move, if they lie side by side at both ends. What refuses goes the other way, one by one. Advances *va past those that are
 * home. */
u32 tdmi_home_many(struct tdm_ctx *ctx, u64 *va, u64 end);

/* ---- reclaim.c */

/* Pages in dirty folios that may wait until they can be emptied with others. */
u64 tdmi_dirty_keep(const struct tdm_mm *mm);

#endif
