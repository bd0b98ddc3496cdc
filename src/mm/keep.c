/* SPDX-License-Identifier: MIT */
/* keep.c - see keep.h. A slot's page is written first by its claimant, and its tid before the slot can be found dead: 0 counts as alive. */
#include "mm/keep.h"
#include "mm/frame.h"

static u32 bucket(u64 va, u32 which)
{
	u64 h = (va / TDM_BLOCK_SIZE) * 0x9e3779b97f4a7c15u; /* the golden ratio: Knuth, TAOCP 3, 6.4 */

	return (u32)(h >> (which ? 32 : 48)) & (TDM_KEEP_BUCKETS - 1);
}

bool tdmi_keep_add(struct tdm_keep *k, u64 va, u32 tid)
{
	va &= TDM_PAGE_MASK;
	for (u32 w = 0; w < 2; w++)
		for (u32 s = 0, b = bucket(va, w); s < TDM_KEEP_SLOTS; s++) {
			u64 was = tdm_a64_ld_relaxed(&k->page[b][s]);

			if (was == va && tdm_a32_ld_relaxed(&k->tid[b][s]) == tid)
				return true;
			if (was || !tdm_a64_cas_acqrel(&k->page[b][s], &was, va))
				continue;
			tdm_a32_st_release(&k->tid[b][s], tid);
			return true;
		}
	return false;
}

u32 tdmi_keep_mask(const struct tdm_keep *k, u64 va)
{
	u32 mask = 0;

	for (u32 w = 0; w < 2; w++)
		for (u32 s = 0, b = bucket(va, w); s < TDM_KEEP_SLOTS; s++) {
			u64 off = tdm_a64_ld_relaxed(&k->page[b][s]) - va;

			if (off < TDM_BLOCK_SIZE)
				mask |= 1u << (off >> TDM_PAGE_SHIFT);
		}
	return mask;
}

void tdmi_keep_sweep(struct tdm_keep *k, bool (*gone)(void *arg, u32 tid), void *arg)
{
	for (u32 b = 0; b < TDM_KEEP_BUCKETS; b++)
		for (u32 s = 0; s < TDM_KEEP_SLOTS; s++) {
			u32 tid = tdm_a64_ld_relaxed(&k->page[b][s]) ? tdm_a32_ld_acquire(&k->tid[b][s]) : 0;

			if (!tid || !gone(arg, tid))
				continue;
			tdm_a32_st_relaxed(&k->tid[b][s], 0);
			tdm_a64_st_release(&k->page[b][s], 0);
		}
}
