/* SPDX-License-Identifier: MIT */
/*
 * fault_impl.h - what the files of the fault share: fault.c (a port has missed), populate.c (somebody asks), fault_block.c (the pages of a block, by their
 * entries), fault_fill.c (they are mapped), swapin.c (they come from a tier), migrate_to_ram.c (they come from a device).
 *
 * Where nothing else is said the caller is in the mm and in RCU, and holds the lock of the table that the entries are in, and what is returned is 0, or:
 *   -EAGAIN   an event is in the way: it must be taken in, with no table locked, before this is tried again
 *   -ESTALE   a device must be told first: this is tried again within a round, at ctx->needs_round, or for all of its 2 MiB (ctx->needs_whole)
 *   -ENOENT   the address is gone
 *   -ENOMEM   no memory, or no frame
 *   others    of a tier or a device, and only where somebody has asked (block.asked)
 * What has been brought until then is there, and has been counted in the block.
 */
#ifndef TDM_MM_FAULT_IMPL_H
#define TDM_MM_FAULT_IMPL_H

#include "base/check.h"
#include "mm/mm.h"

#define NO_GUESS TDM_BLOCK_PAGES

/* One block of a fault in progress. */
struct block {
	struct tdm_ctx *ctx;
	struct tdm_mm *mm;
	struct tdm_pt *pt;
	u32 first;   /* index of its first page in the PTE table */
	u64 va;
	bool write;  /* the access that missed is a write */
	u32 guess;   /* page of the block: it alone is mapped, and the rest is brought to see what is used; NO_GUESS: not now */
	bool device, exclusive; /* the page that was missed is in a device's memory; is one that a device has for itself */
	u32 missed;  /* which of the first block it is */
	bool asked;  /* nobody missed it: who asked is told what a tier cannot give, and the page stays there */
	u64 from, to; /* where there may be somebody to wake */
	u32 soft, hard, zero, refaults; /* pages brought */
};

enum fill { FILL_MOVE, FILL_COPY, FILL_ZERO, FILL_POISON };

static inline u64 block_va(const struct block *b, u32 i)
{
	return b->va + ((u64)i << TDM_PAGE_SHIFT);
}

static inline bool dropping(const struct block *b, u32 i)
{
	return tdm_pte_is(tdm_pt_get(b->pt, b->first + i), TDM_PTE_T_REMOVED);
}

static inline u32 mask_within(u32 lo, u32 hi, u32 first)
{
	u32 a = lo > first ? lo - first : 0, e = hi > first ? TDM_MIN(hi - first, TDM_BLOCK_PAGES) : 0;

	return a >= e ? 0 : (((1u << e) - 1) & ~((1u << a) - 1));
}

static inline void go_slow(struct tdm_ctx *ctx, bool begins)
{
	if (ctx->on_slow)
		ctx->on_slow(ctx, begins);
}

/* ---- fault_fill.c */

/* n pages at va from src: a slot to move, bytes to copy, or nothing. *done: so many are mapped now. Also the port's errors, as they are. */
int tdmi_fault_fill(struct tdm_ctx *ctx, enum fill how, u64 va, const void *src, u32 n, u32 *done);
/* Fills wake nobody: the program's thread would take the CPU from the one that serves it, which still holds the table, or has more to bring. Afterwards
 * whoever waits for a page of [from, to) is woken, also those who were only late. No lock is needed. */
void tdmi_fault_wake(struct tdm_mm *mm, u64 from, u64 to);
/* The pages of mask are mapped by the port now. zeroed: TDM_PTE_ZEROED, or 0; a page that comes from its home is what it was. */
void tdmi_fault_set_lent(struct block *b, struct tdm_frame *folio, u32 mask, u64 zeroed);
/*
 * Map copies of src (the block's pages at their offsets). *done_mask: pages that are mapped now. A page that the port has already is newer than
 * ours (it was restored while the table could not be written: see frozen.c), and counts as done. Unless its entry is REMOVED: then it is what the
 * program wants dropped, this fault is from before, and the page is not ours to take until it is gone (zap.c).
 */
int tdmi_fault_copy(struct block *b, const u8 *src, u32 mask, u32 *done_mask);
/* Move the folio's homes of mask to the block. *done_mask as above; -EINVAL: some can only be copied. */
int tdmi_fault_move(struct block *b, struct tdm_frame *folio, u32 mask, u32 *done_mask);
/* Map the pages of mask, whose bytes have come from somewhere to src: their homes, or anywhere else, at their offsets. *done: those that are mapped now. */
int tdmi_fault_place(struct block *b, struct tdm_frame *folio, const u8 *src, bool at_home, u32 mask, u32 *done);
/* The bytes of the pages of mask cannot be had. The program must find out, and not by reading something else. *lost grows by those that are
 * lost now. */
int tdmi_fault_lose(struct block *b, u32 mask, u32 *lost);

/* ---- swapin.c */

/* Bring the pages of mask, which are out. */
int tdmi_swapin(struct block *b, u32 mask);

/* ---- migrate_to_ram.c */

/* In a round for [start, end), or the block that cannot be brought without; or for the 2 MiB that come back whole, and are home then, if that can be done.
 * No lock is held; ctx->needs_round is set. The round is the caller's memory, until its end. */
void tdmi_fault_round_begin(struct tdm_ctx *ctx, struct tdm_inv_range *round, u64 start, u64 end);
void tdmi_fault_round_end(struct tdm_ctx *ctx, struct tdm_inv_range *round);
/* In a round that tells of the block: bring the pages of mask, which a device has in its memory. */
int tdmi_migrate_to_ram(struct block *b, u32 mask);
/*
 * In a round: what a device has of several blocks in a row, for somebody who asks for all of it, below index hi of the table. If there are warm homes that lie
 * side by side the bytes go there, and all is mapped by one move. How many blocks; 0: each by itself.
 */
u32 tdmi_migrate_to_ram_many(struct block *b, u32 hi);

/* ---- fault_block.c */

/* Bring the pages of mask of one block; those that were never touched only where zero_mask says so. */
int tdmi_fault_block(struct block *b, u32 mask, u32 zero_mask);
/* A 2 MiB leaf: all of it comes back at once. The PMD table is locked. *soft: grows by the pages. */
int tdmi_fault_huge(struct tdm_ctx *ctx, struct tdm_pt *pmd, u32 i, u32 *soft);

/* ---- fault.c */

/* Take in the events that are pending. The caller holds no lock. */
void tdmi_fault_drain(struct tdm_ctx *ctx);

#endif
