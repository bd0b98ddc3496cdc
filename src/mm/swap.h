/* SPDX-License-Identifier: MIT */
/*
 * swap.h - pages without a frame: packed into blobs that lie in tiers, named by swap entries.
 *
 * A blob holds 1 to 16 pages of one block. A swap entry is (blob handle, index in the blob). The descriptor of a blob knows its tier, so
 * a blob can move down the waterfall without touching a page table. A page of a blob is restored or dropped once; when its last page is
 * dropped the blob is.
 *
 * Or it is kept: after all of its pages have been restored, for their folio, which may say later that some of them are wanted after all. If they
 * still are what was packed they need not be packed again. What is kept is given up when memory is short.
 *
 * Locking: every function may be called from any engine thread. The caller guarantees that no page is dropped while that page is being
 * loaded (the page-table lock does); loading and dropping *different* pages of one blob, and demotion, may run concurrently: the
 * descriptor has a lock bit.
 */
#ifndef TDM_MM_SWAP_H
#define TDM_MM_SWAP_H

#include "pool/tier.h"

struct tdm_swap;

/* Scratch memory for packing, unpacking and tier I/O: one per engine thread, made with plat_map(), never shared. */
struct tdm_swap_ws;
struct tdm_swap_ws *tdmi_swap_ws_create(void);
void tdmi_swap_ws_destroy(struct tdm_swap_ws *ws);

struct tdm_swap_stats {
	u64 pages;         /* pages held now */
	u64 raw_bytes;     /* pages * 4096 */
	u64 packed_bytes;  /* bytes of their blobs, all tiers */
	u64 mem_bytes;     /* physical memory: memory tiers, descriptors, buffers */
	u64 disk_bytes;
	u64 kept_bytes;    /* of blobs that are kept, in memory tiers */
	u64 same_filled;   /* pages stored without bytes, since the start */
	u64 incompressible;
	u64 out_packed_bytes; /* of the blobs stored, and of those used again, since the start */
	u64 reused_pages;  /* of out_pages: not packed again, since the start */
	u64 out_pages, in_pages, dropped_pages, demoted_blobs, full; /* since the start */
};

/* tiers[0] is the warmest. The swap owns the tiers from here on. */
int tdmi_swap_create(struct tdm_tier *const *tiers, u32 ntiers, struct tdm_swap **out);
void tdmi_swap_destroy(struct tdm_swap *s);

/* Pack n (1..16) pages and store them as one blob in the warmest tier with room. handle < 2^44. -ENOSPC: every tier is full (counted in
 * full), other errors: the last tier's. alone: see codec.h. On error nothing is stored. pages[] are read once; if their bytes change meanwhile the blob is
 * garbage but nothing else breaks. */
int tdmi_swap_out(struct tdm_swap *s, struct tdm_swap_ws *ws, const void *const *pages, u32 n, bool alone, u64 *handle);
/* Give memory back that holds nothing: dropped pages of blobs, and holes between blobs where they are more than a sixteenth; about so many bytes. What
 * the blobs have lost. */
u64 tdmi_swap_tidy(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 bytes);
/* The tiers that are not in memory are asked first: what is evicted frees less memory than its blob takes, being shared with other processes. Any thread. */
void tdmi_swap_bypass(struct tdm_swap *s, bool on);
/* Will unpacking the blob wait for a file? A guess: it may be moved meanwhile. */
bool tdmi_swap_slow(struct tdm_swap *s, u64 handle);
/* Unpack the pages of the mask (bit i: page i of the blob) to dst[i] (4096 bytes each). They stay stored. -EIO, -EBADMSG: see the tier. */
int tdmi_swap_in(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 handle, u32 mask, void *const *dst);
/* The pages of the mask are not wanted any more. */
void tdmi_swap_drop(struct tdm_swap *s, u64 handle, u32 mask);
/* Instead of dropping them: all pages of a blob have been restored, and it is kept. false: not this one; drop them. */
bool tdmi_swap_keep(struct tdm_swap *s, u64 handle);
/* pages[i], for the pages i of the mask, of which none is wanted now, are to be stored. true: all are what the kept blob says; they are wanted from now
 * on, and that is all that had to be done. pages[] must not change meanwhile. All or none, since what is split is restored in pieces, too. */
bool tdmi_swap_reuse(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 handle, u32 mask, const void *const *pages);
/* Nobody will ask for a kept blob again. */
void tdmi_swap_forget(struct tdm_swap *s, u64 handle);
/* So many bytes may be kept. At first: none. */
void tdmi_swap_keep_limit(struct tdm_swap *s, u64 bytes);
/* Bytes of blobs that are kept. */
u64 tdmi_swap_kept(const struct tdm_swap *s);
/* Give up kept blobs, the oldest first, until that was so many bytes. What it was. */
u64 tdmi_swap_forsake(struct tdm_swap *s, u64 bytes);
/* Move the coldest blobs of memory tiers down until `bytes` of memory are freed. The number freed; 0 when there is nowhere to go. */
u64 tdmi_swap_demote(struct tdm_swap *s, struct tdm_swap_ws *ws, u64 bytes);
/* Free what can be freed without moving a blob to another tier: compaction, free lists. */
void tdmi_swap_shrink(struct tdm_swap *s, u64 bytes);
void tdmi_swap_stats(const struct tdm_swap *s, struct tdm_swap_stats *out);
/* Cheap: physical memory in use now. */
u64 tdmi_swap_mem_bytes(const struct tdm_swap *s);
struct tdm_tier *tdmi_swap_tier(const struct tdm_swap *s, u32 i); /* NULL past the end */

/* Around fork(2), with every engine thread quiescent; see the tier operations of the same names. */
int tdmi_swap_forked(struct tdm_swap *s, bool child);
u32 tdmi_swap_files(const struct tdm_swap *s, int *fds, u32 max);
void tdmi_swap_set_files(struct tdm_swap *s, const int *fds, u32 n);

#endif
