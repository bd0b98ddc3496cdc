/* SPDX-License-Identifier: MIT */
/*
 * fault_block.c - bring pages of one block, or of one leaf of 2 MiB, each in the way that its entry asks for.
 *
 * The caller holds the lock of the table that the entries are in. Nothing but fills and copies happens under it: what needs a round outside of one, or an event
 * to be taken in, is given up (-ESTALE, -EAGAIN), and tried again by the caller with no lock held. What has been brought until then stays.
 */
#include "mm/fault_impl.h"

#define LONE_MAX_NS 2500u /* what a copy of a lone page costs */
#define LONE_PROBE 64u

/* ---- soft faults ----------------------------------------------------------------------------------------------------- */

/*
 * A lone page is moved in half the time that a copy takes, unless another CPU runs a thread of the program, or of ours: its TLB must be flushed, which costs
 * several times as much. What the last such moves took tells. While that is too much one in LONE_PROBE is moved still, to see.
 */
static int move_lone(struct block *b, struct tdm_frame *folio, u32 mask, u32 *done_mask)
{
	struct tdm_ctx *ctx = b->ctx;
	u64 start, took;
	int r;

	if (ctx->lone_ns > LONE_MAX_NS && ++ctx->lone_copies % LONE_PROBE)
		return -EINVAL;
	start = plat_now_ns();
	r = tdmi_fault_move(b, folio, mask, done_mask);
	took = TDM_MIN(plat_now_ns() - start, (u64)8 * LONE_MAX_NS);
	ctx->lone_ns += (u32)took / 32 - ctx->lone_ns / 32;
	return r;
}

static int bring_home(struct block *b, u32 mask)
{
	struct tdm_frame *folio = tdmi_block_folio(b->mm, b->pt, b->first);
	u32 moved = 0, copied = 0;
	int r = -EINVAL;

	if (!(folio->flags & TDM_FRAME_F_WRITEBACK))
		r = mask & (mask - 1) ? tdmi_fault_move(b, folio, mask, &moved) : move_lone(b, folio, mask, &moved);
	if (r == -EINVAL)
		r = tdmi_fault_copy(b, tdm_frame_home(&b->mm->frames, folio), mask & ~moved, &copied);
	tdmi_fault_set_lent(b, folio, moved | copied, 0);
	tdmi_homes_stale(b->mm, folio, copied);
	b->soft += (u32)__builtin_popcount(moved | copied);
	if (moved | copied)
		tdmi_folio_touched(b->mm, b->pt, b->first, folio, TDM_LRU_TOUCHED);
	return r;
}

/* ---- first touches --------------------------------------------------------------------------------------------------- */

static int bring_zero(struct block *b, u32 mask)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_frame *folio;
	u32 done = 0, n = 0;
	bool warm;
	int r;

	folio = tdmi_block_folio_get(mm, b->pt, b->first, false, &warm);
	if (!folio)
		return -ENOMEM;
	if (!b->write && __builtin_popcount(mask) == 1) {
		u32 i = (u32)__builtin_ctz(mask);

		r = tdmi_fault_fill(b->ctx, FILL_ZERO, block_va(b, i), NULL, 1, &n);
		if (r == -EEXIST) {
			n = !dropping(b, i);
			r = 0;
		}
		done = n ? mask : 0;
	} else {
		r = tdmi_fault_copy(b, mm->zeros, mask, &done);
	}
	tdmi_fault_set_lent(b, folio, done, TDM_PTE_ZEROED);
	b->zero += (u32)__builtin_popcount(done);
	if (!folio->mapcount)
		tdmi_folio_release(mm, folio, 0);
	else
		tdmi_folio_touched(mm, b->pt, b->first, folio, TDM_LRU_FAULTED);
	return r;
}

/* ---- what devices have ----------------------------------------------------------------------------------------------- */

/* Does the round that we are in tell of this block? */
static bool told(struct block *b)
{
	const struct tdm_inv_range *round = b->ctx->round;

	b->ctx->needs_round = b->va;
	return round && round->start <= b->va && b->va + TDM_BLOCK_SIZE <= round->end;
}

/* The pages of mask, which a device has for itself, are home again. */
static void revoke(struct block *b, u32 mask)
{
	struct tdm_frame *folio = tdmi_block_folio(b->mm, b->pt, b->first);

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (mask >> k & 1)
			tdmi_page_set(b->mm, b->pt, b->first + k,
				      tdm_pte_mk(tdm_pte_ram_pfn(tdm_pt_get(b->pt, b->first + k)), TDM_PTE_WRITE));
	tdmi_lru_add_home(&b->mm->lru, folio);
	tdm_count(b->ctx, TDM_C_REVOKED, (u64)__builtin_popcount(mask));
}

/* ---- by entries ------------------------------------------------------------------------------------------------------ */

int tdmi_fault_block(struct block *b, u32 mask, u32 zero_mask)
{
	u32 home = 0, out = 0, zero = 0, device = 0, exclusive = 0;
	int r = 0;

	for (u32 i = 0; i < TDM_BLOCK_PAGES; i++) {
		struct tdm_pte pte = tdm_pt_get(b->pt, b->first + i);

		if (!(mask >> i & 1))
			continue;
		if (tdm_pte_home(pte))
			home |= 1u << i;
		else if (tdm_pte_is(pte, TDM_PTE_T_SWAP))
			out |= 1u << i;
		else if (tdm_pte_is(pte, TDM_PTE_T_PRIVATE))
			device |= 1u << i;
		else if (tdm_pte_is(pte, TDM_PTE_T_EXCLUSIVE))
			exclusive |= 1u << i;
		else if (!tdm_pte_present(pte) && !tdm_pte_is(pte, TDM_PTE_T_POISON) && !tdm_pte_is(pte, TDM_PTE_T_COHERENT))
			zero |= 1u << i;
	}
	zero &= zero_mask;
	/* Who needs a page for himself is not to lose it because others use what lies next to it. */
	device = b->device || b->asked ? device : 0;
	exclusive = b->exclusive || b->asked ? exclusive : 0;
	b->ctx->needs_whole = device && !b->ctx->no_whole && tdmi_dev_whole(b->mm, tdm_pt_get(b->pt, b->first + (u32)__builtin_ctz(device)));
	if ((device | exclusive) && (!told(b) || b->ctx->needs_whole))
		return -ESTALE;
	if (exclusive)
		revoke(b, exclusive);
	home |= exclusive;
	if (home)
		r = bring_home(b, home);
	if (!r && out)
		r = tdmi_swapin(b, out);
	if (!r && device)
		r = tdmi_migrate_to_ram(b, device);
	if (!r && zero)
		r = bring_zero(b, zero);
	return r;
}

int tdmi_fault_huge(struct tdm_ctx *ctx, struct tdm_pt *pmd, u32 i, u32 *soft)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pte pte = tdm_pt_get(pmd, i);
	struct tdm_frame *folio = tdm_pfn_frame(&mm->frames, tdm_pte_pfn(pte));
	struct tdm_pt *spare;
	u32 done = 0;
	int r;

	if (tdm_pte_lent(pte))
		return 0;
	if (folio->flags & TDM_FRAME_F_WRITEBACK) {
		/* It goes back where it came from, or somewhere else; it must not go while it is being copied. */
		tdmi_huge_want(mm, pmd, i);
		return -EAGAIN;
	}
	/* A part that is mapped cannot be told from the rest without. */
	spare = tdmi_pt_spare(&mm->pgt, tdm_pt_va(pmd, i));
	if (!spare)
		return -ENOMEM;
	r = tdmi_fault_fill(ctx, FILL_MOVE, tdm_pt_va(pmd, i), tdm_frame_home(&mm->frames, folio), TDM_HUGE_PAGES, &done);
	if (done == TDM_HUGE_PAGES) {
		tdmi_page_set(mm, pmd, i, (struct tdm_pte){ (pte.v & ~TDM_PTE_WANTED) | TDM_PTE_ACCESSED });
		tdmi_lru_add(&mm->lru, folio, TDM_LRU_TOUCHED);
		*soft += done;
		r = 0;
	} else if (done || r != -EAGAIN) {
		r = -EAGAIN;
		/* A part has gone, or it must be copied: from here on it is 512 pages. Whoever holds it isolated needs our lock to go on. */
		if (tdmi_lru_isolate(&mm->lru, folio)) {
			(void)tdmi_huge_split(mm, pmd, i, done, spare);
			return r;
		}
	}
	tdmi_pt_spare_free(&mm->pgt, spare);
	return r;
}
