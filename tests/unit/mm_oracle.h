/* SPDX-License-Identifier: MIT */
/* mm_oracle.h - the engine over a simulated CPU (port/cpu.h), and everything that must be true of it whatever has happened. */
#ifndef TDM_TESTS_MM_ORACLE_H
#define TDM_TESTS_MM_ORACLE_H

#include <string.h>
#include "mm/gup.h"
#include "mm/mm.h"
#include "pool/codec.h"
#include "port/cpu.h"
#include "runner/t.h"

#define BASE ((u64)1 << 40)
#define P(n) ((u64)(n) << TDM_PAGE_SHIFT)
#define H TDM_HUGE_SIZE

static struct tdm_cpu cpu;
static struct tdm_mm mm;
static struct tdm_ctx *ctx;
/* Adoption has failed: the port may have pages of which the table says nothing. They are never taken. */
static bool unadopted;

struct tally {
	u64 lent, home, exclusive, out, frames, stale;
};

static void check_block(struct tdm_pt *pt, u32 first, struct tally *t)
{
	struct tdm_frame *folio = NULL;
	u32 present = 0, home = 0, exclusive = 0;

	for (u32 k = first; k < first + TDM_BLOCK_PAGES; k++) {
		struct tdm_pte pte = tdm_pt_get(pt, k);
		u8 flags = *tdm_cpu_flags(&cpu, tdm_pt_va(pt, k));

		t->out += tdm_pte_is(pte, TDM_PTE_T_SWAP);
		if (tdm_pte_is(pte, TDM_PTE_T_COHERENT))
			CHECK(flags & TDM_CPU_PRESENT);
		else if (!tdm_pte_lent(pte) && !tdm_pte_is(pte, TDM_PTE_T_REMOVED) && !(unadopted && tdm_pte_none(pte)))
			CHECK(!(flags & TDM_CPU_PRESENT));
		if (!tdm_pte_in_ram(pte))
			continue;
		CHECK(!folio || folio == tdm_pfn_block(&mm.frames, tdm_pte_ram_pfn(pte)));
		CHECK_EQ(tdm_pte_ram_pfn(pte).v % TDM_BLOCK_PAGES, k % TDM_BLOCK_PAGES);
		folio = tdm_pfn_block(&mm.frames, tdm_pte_ram_pfn(pte));
		present++;
		home += tdm_pte_home(pte);
		exclusive += tdm_pte_is(pte, TDM_PTE_T_EXCLUSIVE);
	}
	t->home += home;
	t->lent += present - home;
	t->exclusive += exclusive;
	if (!folio)
		return;
	CHECK_EQ(folio->order, TDM_BLOCK_ORDER);
	CHECK_EQ(folio->mapcount, present);
	CHECK_EQ(folio->refcount, 1);
	CHECK_EQ(folio->flags, 0);
	CHECK_EQ(folio->va, tdm_pt_va(pt, first));
	/* Nothing is forgotten: it is on some list, and what can be packed is on the right one. */
	CHECK(folio->state == TDM_FRAME_HOME || folio->state == TDM_FRAME_LENT || folio->state == TDM_FRAME_PINNED ||
	      folio->state == TDM_FRAME_SHARED);
	CHECK(!home || folio->state != TDM_FRAME_LENT);
	t->frames += TDM_BLOCK_PAGES;
	t->stale += (u64)__builtin_popcount(folio->stale);
}

/* Blocks that were freed while somebody had pinned them, and wait for that to end; and every count is at rest. */
static void check_pins(struct tally *t)
{
	for (u32 f = 0; f < mm.frames.fresh; f += TDM_BLOCK_PAGES) {
		struct tdm_frame *block = &mm.frames.desc[f];
		u32 pins = tdm_a16_ld_relaxed(&block->pins);

		CHECK(!(pins & TDM_PINS_FROZEN));
		if (pins & TDM_PINS_ORPHAN) {
			CHECK((pins & TDM_PINS_MASK) != 0);
			CHECK_EQ(block->mapcount, 0);
			t->frames += TDM_BLOCK_PAGES;
			t->stale += (u64)__builtin_popcount(block->stale);
		}
	}
}

static void check_counters(void)
{
	const u64 end = (u64)1 << 47;
	struct tally t = { 0 };

	tdmi_rcu_read_lock(ctx->rcu);
	for (u64 va = tdmi_pt_next(&mm.pgt, 0, end); va < end; va = tdmi_pt_next(&mm.pgt, va + H, end)) {
		struct tdm_pte pte;
		u32 i, used = 0;
		struct tdm_pt *pt = tdmi_pt_walk(&mm.pgt, va, &i, &pte);

		CHECK(va >= BASE && va < BASE + P(cpu.npages));
		if (pt->level) {
			struct tdm_frame *folio = tdm_pfn_frame(&mm.frames, tdm_pte_pfn(pte));

			CHECK_EQ(pt->level, 1);
			CHECK(tdm_pte_present(pte));
			CHECK_EQ(folio->order, TDM_HUGE_ORDER);
			CHECK_EQ(folio->mapcount, TDM_HUGE_PAGES);
			CHECK_EQ(folio->refcount, 1);
			CHECK_EQ(folio->va, va);
			*(tdm_pte_lent(pte) ? &t.lent : &t.home) += TDM_HUGE_PAGES;
			t.frames += TDM_HUGE_PAGES;
			continue;
		}
		for (u32 k = 0; k < TDM_PT_ENTRIES; k++)
			used += !tdm_pte_none(tdm_pt_get(pt, k));
		CHECK_EQ(pt->used, used);
		for (u32 k = 0; k < TDM_PT_ENTRIES; k += TDM_BLOCK_PAGES)
			check_block(pt, k, &t);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	check_pins(&t);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), t.lent);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.home), t.home);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.out), t.out);
	t.stale += tdm_a64_ld_relaxed(&mm.frames.dirty_pages);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.stale), t.stale);
	for (u32 i = 0; i < TDM_POOLS_MAX; i++)
		t.frames += mm.pool[i] && mm.pool[i]->coherent ? mm.pool[i]->frames.nframes : 0; /* slots */
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), t.frames);
	CHECK(tdmi_frames_valid(&mm.frames));
	/* No home holds a page that nobody counts. */
	CHECK(tdmi_cpu_populated(&cpu) <= t.home + t.exclusive + t.stale + (u64)tdmi_frames_warm(&mm.frames) * TDM_BLOCK_PAGES);
	CHECK_EQ(cpu.misplaced, 0);
}

static void swap_pages(u64 want)
{
	struct tdm_swap_stats st;

	tdmi_swap_stats(mm.swap, &st);
	CHECK_EQ(st.pages, want);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.out), want);
	/* What is kept goes with the pages that it is kept for. */
	if (!want)
		CHECK_EQ(st.packed_bytes, st.kept_bytes);
	if (!tdm_a64_ld_relaxed(&mm.lent) && !tdm_a64_ld_relaxed(&mm.home))
		CHECK_EQ(st.kept_bytes, 0);
}

#endif
