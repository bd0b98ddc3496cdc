/* SPDX-License-Identifier: MIT */
/*
 * gup.h - pins: pages that must stay where they are for a while.
 *
 * A pinned page stays lent: mapped at its address, and not taken home, packed or migrated, until it is unpinned. What the program does to its own address
 * space is not refused: after munmap() the pin holds the frame, but no page. Nor is what the kernel does: a page that the kernel itself has pinned
 * (for io_uring, say) is not known to be pinned until a move of it is refused.
 *
 * Pins are counted for every 16 frames, in the descriptor of the first, so one pin keeps its block. The count is changed without a lock:
 *
 *   who pins      adds to the count, and then looks at the entry again. If the count was frozen, or the entry has changed, it takes its pins back.
 *   who takes     freezes the count, which fails unless it is 0; changes entries; lets the count thaw. It holds the table lock.
 *
 * In coherent memory pins are counted for the folio, and are for short: one that is meant for long moves the page to ram before.
 *
 * A pin that comes first makes the freeze fail. One that comes between finds the count frozen; one that comes after the thaw, which releases what it
 * acquires, finds the entry changed.
 */
#ifndef TDM_MM_GUP_H
#define TDM_MM_GUP_H

#include "mm/frame.h"

struct tdm_ctx;

#define TDM_PINS_FROZEN 0x8000u
#define TDM_PINS_ORPHAN 0x4000u /* the block was freed: who takes the last pin away frees it */
#define TDM_PINS_MASK 0x3fffu
#define TDM_PINS_MAX 0x3000u

enum tdm_gup {
	TDM_GUP_READ = 0,
	TDM_GUP_WRITE = 1,    /* the page is to be written: it must not be shared with a child, or be the page of zeros */
	TDM_GUP_LONGTERM = 2, /* for longer than a system call: not on a device's memory */
};

/*
 * Pin the pages of [va, va + n * 4096) that are there, from the first on, until one is not. Pages: their frames, for tdmi_unpin(). How many. No lock is
 * taken, nothing is brought, nobody is waited for; the caller is in the mm (tdmi_mm_enter()). A leaf that is special ends it. Whether the mapping may be
 * read or written is not asked, nor whether a page is shared with a child: tdmi_pin() does.
 */
u32 tdmi_gup_fast(struct tdm_ctx *ctx, u64 va, u32 n, struct tdm_pfn *page);

/*
 * The same, and what is not there is brought first. *done: pages pinned; they stay so if there is an error. 0; -EINVAL: unaligned, empty, or beyond all
 * addresses; -EFAULT: there is no mapping that allows it, or the bytes are lost; -EOPNOTSUPP: a mapping that the engine does not manage, and never moves; -EBUSY: too many pins,
 * or the page is taken away again and again; -ENOMEM. No lock is held; the caller is in the mm.
 */
int tdmi_pin(struct tdm_ctx *ctx, u64 va, u32 n, u32 flags, struct tdm_pfn *page, u32 *done);

/*
 * Have the pages of [va, end), which lie in 2 MiB and in one mapping that may be written, the process's own: copies of what it shares with a child, or of the page of zeros. From the
 * return on they stay so until the caller leaves the mm, as it does here for a while. *own: how far they are; all of them, or the first one alone, or (then it is va) none, if
 * there is an error: -EAGAIN: there has been a fork meanwhile; the port's: -EFAULT, -ENOMEM, -EBUSY. Coherent pages are settled. No lock is held.
 */
int tdmi_make_own(struct tdm_ctx *ctx, u64 va, u64 end, u64 *own);

/* Once for each pin. A page that is not pinned is a mistake, and ends the process. Any context. */
void tdmi_unpin(struct tdm_ctx *ctx, const struct tdm_pfn *page, u32 n);

/* Nobody pins the block of this frame from here to the thaw. false: it is pinned. The table lock is held. */
static inline bool tdmi_pins_freeze(struct tdm_frame *block)
{
	u16 none = 0;

	return tdm_a16_cas_acqrel(&block->pins, &none, TDM_PINS_FROZEN);
}

static inline void tdmi_pins_thaw(struct tdm_frame *block)
{
	tdm_a16_sub_acqrel(&block->pins, TDM_PINS_FROZEN);
}

/* The same for all blocks of a folio of 2 MiB. */
static inline void tdmi_pins_thaw_huge(struct tdm_frame *folio, u32 blocks)
{
	for (u32 i = 0; i < blocks; i++)
		tdmi_pins_thaw(folio + i * TDM_BLOCK_PAGES);
}

static inline bool tdmi_pins_freeze_huge(struct tdm_frame *folio)
{
	for (u32 i = 0; i < TDM_HUGE_PAGES / TDM_BLOCK_PAGES; i++)
		if (!tdmi_pins_freeze(folio + i * TDM_BLOCK_PAGES)) {
			tdmi_pins_thaw_huge(folio, i);
			return false;
		}
	return true;
}

/* The block was freed, and nobody pins it (now: what the count has come to): of all who find that, one gets it, and frees it. */
static inline bool tdmi_pins_claim(struct tdm_frame *block, u16 now)
{
	while ((now & (TDM_PINS_ORPHAN | TDM_PINS_MASK)) == TDM_PINS_ORPHAN) {
		plat_window();
		if (tdm_a16_cas_acqrel(&block->pins, &now, (u16)(now & ~TDM_PINS_ORPHAN)))
			return true;
	}
	return false;
}

/* The block is freed. true: somebody has pinned it, and frees it (tdmi_block_free()). */
static inline bool tdmi_pins_orphan(struct tdm_frame *block)
{
	if (tdm_likely(!tdm_a16_ld_acquire(&block->pins)))
		return false;
	plat_window();
	return !tdmi_pins_claim(block, (u16)(tdm_a16_or_acqrel(&block->pins, TDM_PINS_ORPHAN) | TDM_PINS_ORPHAN));
}

#endif
