// SPDX-License-Identifier: MIT
/*
 * walk.c - a hardware walker; see walk.h.
 *
 * The engine may change any entry at any time. What the walker does about it:
 *   - tables that it goes through are not freed while it is a reader; one that has been unlinked says what it said before, or nothing. Whoever unlinks it flushes
 *     afterwards, and what the walker makes of it goes with that flush, as what it had read a moment earlier would.
 *   - bits are set only in the very entry that was judged. If it has changed in between, nothing of what was read is used.
 */
#include "base/bitops.h"
#include "port/walk.h"

/* The entry that ends the walk: a leaf, or not present. */
static tdm_a64 *descend(struct tdm_pgt *pgt, u64 va, struct tdm_pte *pte, u32 *level, u32 *reads)
{
	struct tdm_pt *pt = pgt->root;

	for (;;) {
		u32 i = tdm_pt_index(pt, va);
		struct tdm_pt *child;

		*pte = tdm_pt_get(pt, i);
		*level = pt->level;
		(*reads)++;
		child = pt->level ? tdm_pte_table(*pte) : NULL;
		if (!child)
			return &pt->e[i];
		pt = child;
	}
}

static enum tdm_walk_result judge(struct tdm_pte pte, bool write, u32 caps)
{
	if (!tdm_pte_present(pte))
		return TDM_WALK_ABSENT;
	if (write && !(pte.v & TDM_PTE_WRITE))
		return TDM_WALK_DENIED;
	if (!(pte.v & TDM_PTE_ACCESSED) && !(caps & TDM_WALK_HW_A))
		return TDM_WALK_ACCESS;
	if (write && !(pte.v & TDM_PTE_DIRTY) && !(caps & TDM_WALK_HW_D))
		return TDM_WALK_DIRTY;
	return TDM_WALK_OK;
}

enum tdm_walk_result tdmi_walk(struct tdm_pgt *pgt, u64 va, bool write, u32 caps, u64 page_sizes, struct tdm_walk *out)
{
	u64 need = TDM_PTE_ACCESSED | (write ? TDM_PTE_DIRTY : 0);

	*out = (struct tdm_walk){ 0 };
	/* The top table says nothing of what lies beyond. */
	if (va >> tdm_pt_shift(TDM_PT_LEVELS))
		return TDM_WALK_ABSENT;
	for (;;) {
		struct tdm_pte pte;
		u32 level, size;
		tdm_a64 *e = descend(pgt, va, &pte, &level, &out->reads);
		enum tdm_walk_result r = judge(pte, write, caps);
		u64 was = pte.v;

		out->pte = pte;
		out->shift = tdm_pt_shift(level);
		if (r != TDM_WALK_OK)
			return r;
		plat_window();
		if ((was & need) != need && !tdm_a64_cas_acqrel(e, &was, was | need))
			continue;
		out->set_a = !(pte.v & TDM_PTE_ACCESSED);
		out->set_d = need & ~pte.v & TDM_PTE_DIRTY;
		for (size = level; size && !(page_sizes >> tdm_pt_shift(size) & 1); size--)
			;
		/* The page of the part in which va lies: the leaf's first, and the bits of va between the two sizes. */
		out->pte.v = (pte.v | need) + (va & tdm_bits_below(out->shift) & ~tdm_bits_below(tdm_pt_shift(size)));
		out->shift = tdm_pt_shift(size);
		return TDM_WALK_OK;
	}
}
