/* SPDX-License-Identifier: MIT */
/*
 * collapse.c - see collapse.h.
 *
 * Both tables are locked, the upper one first, so nobody else writes entries of either. Walkers take no lock:
 *
 *   1. each entry is exchanged for none. A walker that has read it and wants to set A or D fails at its compare-and-swap, and walks again. So what these bits
 *      say is complete.
 *   2. TLBs forget what they have of the table. They would be right, but they have it in small pieces: who later takes the leaf away tells of a large one.
 *   3. the leaf takes the table's place. Until then whoever misses faults, waits for the lock, and finds the table dead.
 *
 * The table is freed after a grace period: a walker that has read the upper entry before finds nothing in it.
 *
 * Nothing replaces the translations meanwhile: a slot with a table never becomes a leaf but by who holds s->change, and drivers that zap find an entry or the
 * leaf. s->change also keeps the cuts of others (special.h).
 */
#include "mm/collapse.h"
#include "mm/insert_range.h"

#define RIGHTS (TDM_PTE_WRITE | TDM_PTE_SPECIAL | TDM_PTE_LEAF | TDM_PTE_PRESENT)
#define GATHERED (TDM_PTE_ACCESSED | TDM_PTE_DIRTY | TDM_PTE_SOFT_DIRTY)

static inline u64 step_pages(const struct tdm_pt *pt)
{
	return (u64)1 << (tdm_pt_shift(pt->level) - TDM_PAGE_SHIFT);
}

/* Is entry k what a leaf would say there? */
static bool agrees(const struct tdm_pt *pt, u32 k, bool given, struct tdm_pte leaf, struct tdm_collapsed *out)
{
	struct tdm_pte e = tdm_pt_get(pt, k);
	u64 more = (e.v ^ leaf.v) & RIGHTS;

	if (given && tdm_pte_none(e))
		return true;
	if (!tdm_pte_present(e) || !(e.v & TDM_PTE_LEAF) || !(e.v & TDM_PTE_SPECIAL)) {
		out->holes++;
		return false;
	}
	if (tdm_pte_pfn(e).v != tdm_pte_pfn(leaf).v + k * step_pages(pt) || tdm_pte_pfn(leaf).v % (TDM_PT_ENTRIES * step_pages(pt))) {
		out->scattered++;
		return false;
	}
	/* A leaf that is given may grant what an entry does not. */
	if (more && !(given && more == TDM_PTE_WRITE && (leaf.v & TDM_PTE_WRITE))) {
		out->rights++;
		return false;
	}
	return true;
}

/* Could the locked table be this leaf? Which without `given` is what its first entry says. */
static bool same(struct tdm_space *s, const struct tdm_pt *pt, bool given, struct tdm_pte *leaf, struct tdm_collapsed *out)
{
	u32 k = 0;

	if (!given) {
		*leaf = tdm_pt_get(pt, 0);
		leaf->v &= TDM_PTE_PFN_MASK | RIGHTS;
	}
	while (k < TDM_PT_ENTRIES && agrees(pt, k, given, *leaf, out))
		k++;
	tdm_world_work(s->w, TDM_WORK_PTE, TDM_MIN(k + 1, TDM_PT_ENTRIES));
	return k == TDM_PT_ENTRIES;
}

static struct tdm_pte part_of(const struct tdm_pt *pt, u32 k, struct tdm_pte leaf)
{
	return (struct tdm_pte){ leaf.v + (k * step_pages(pt) << TDM_PAGE_SHIFT) };
}

/* Could the locked PMD table, with what is below it? Nothing is filled before that is known. (Somebody may still come between: then what has been filled says
 * what it should.) */
static bool all_below(struct tdm_space *s, struct tdm_pt *pt, struct tdm_pte leaf, struct tdm_collapsed *out)
{
	for (u32 k = 0; k < TDM_PT_ENTRIES; k++) {
		struct tdm_pt *child = tdm_pte_table(tdm_pt_get(pt, k));
		struct tdm_pte part = part_of(pt, k, leaf);
		bool ok;

		if (!child) {
			ok = agrees(pt, k, true, leaf, out);
		} else {
			plat_mutex_lock(&child->lock);
			ok = same(s, child, true, &part, out);
			tdm_pt_unlock(child);
		}
		if (!ok)
			return false;
	}
	return true;
}

/* Collapse what is below the locked PMD table: leaves, where it can be. */
static void below(struct tdm_space *s, struct tdm_pt *pt, const struct tdm_pte *leaf, struct tdm_collapsed *out)
{
	if (leaf && !all_below(s, pt, *leaf, out))
		return;
	for (u32 k = 0; k < TDM_PT_ENTRIES; k++) {
		struct tdm_pte part = leaf ? part_of(pt, k, *leaf) : (struct tdm_pte){ 0 };

		if (tdm_pte_table(tdm_pt_get(pt, k)))
			(void)tdmi_collapse_slot(s, pt, k, leaf ? &part : NULL, out);
	}
}

bool tdmi_collapse_slot(struct tdm_space *s, struct tdm_pt *upper, u32 i, const struct tdm_pte *given, struct tdm_collapsed *out)
{
	u64 size = (u64)1 << tdm_pt_shift(upper->level), va = tdm_pt_va(upper, i), bits = 0, filled = 0;
	struct tdm_pt *pt = tdm_pte_table(tdm_pt_get(upper, i));
	struct tdm_pte leaf = given ? *given : (struct tdm_pte){ 0 };

	TDM_BUG_ON(!pt);
	plat_mutex_lock(&pt->lock);
	tdm_world_work(s->w, TDM_WORK_TABLE_LOCK, 1);
	if (pt->level)
		below(s, pt, given, out);
	if (!(s->w->huge & size) || !same(s, pt, given, &leaf, out)) {
		tdm_pt_unlock(pt);
		return false;
	}
	plat_window();
	for (u32 k = 0; k < TDM_PT_ENTRIES; k++) {
		struct tdm_pte was = tdm_pt_xchg(pt, k, (struct tdm_pte){ 0 });

		bits |= was.v & GATHERED;
		filled += tdm_pte_none(was) ? step_pages(pt) : 0;
	}
	plat_window();
	tdmi_tlb_flush(s, va, va + size, tdm_pt_shift(pt->level));
	tdm_a64_add_relaxed(&s->special, filled);
	out->filled += filled << TDM_PAGE_SHIFT;
	out->made[upper->level]++;
	tdm_world_count(s->w, TDM_SC_COLLAPSED, 1);
	tdm_world_work(s->w, TDM_WORK_PTE, TDM_PT_ENTRIES);
	tdmi_pt_collapse(&s->pgt, upper, pt, (struct tdm_pte){ leaf.v | bits });
	return true;
}

/* Has the slot of this level a table, all of it in one VMA? The table that the slot is in is locked then. */
static struct tdm_pt *slot(struct tdm_space *s, u64 va, u32 level)
{
	u64 size = (u64)1 << tdm_pt_shift(level), made = 0;
	struct tdm_vma vma;
	struct tdm_pt *pt;

	if (!(s->w->huge & size) || !tdmi_vma_find(&s->vmas, va, &vma) || !(vma.flags & TDM_V_SPECIAL) || vma.end - va < size)
		return NULL;
	if (tdmi_pt_lock_at(&s->pgt, va, level, false, &made, &pt) || !pt)
		return NULL;
	tdm_world_work(s->w, TDM_WORK_TABLE_LOCK, 1);
	if (pt->level == level && tdm_pte_table(tdm_pt_get(pt, tdm_pt_index(pt, va))))
		return pt;
	tdm_pt_unlock(pt);
	return NULL;
}

static void collapse_one(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 level, struct tdm_collapsed *out)
{
	struct tdm_inv_range round = TDM_INV_RANGE(va, va + ((u64)1 << tdm_pt_shift(level)), TDM_INV_CLEAR);
	struct tdm_pt *pt;
	struct tdm_pte e;
	bool table;
	u32 i;

	/* Most slots have nothing to collapse: no round for them. */
	tdmi_rcu_read_lock(reader);
	table = tdmi_pt_walk(&s->pgt, va, &i, &e)->level < level;
	tdmi_rcu_read_unlock(reader);
	if (!table)
		return;
	tdmi_invalidate_start(&s->notifiers, &round);
	tdmi_rcu_read_lock(reader);
	pt = slot(s, va, level);
	if (pt) {
		tdmi_collapse_slot(s, pt, tdm_pt_index(pt, va), NULL, out);
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(reader);
	tdmi_invalidate_end(&s->notifiers, &round);
}

void tdmi_collapse_range(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end, struct tdm_collapsed *out)
{
	*out = (struct tdm_collapsed){ 0 };
	plat_mutex_lock(&s->change);
	for (u32 level = 1; level < TDM_LEAVES; level++) {
		u64 size = (u64)1 << tdm_pt_shift(level);

		for (u64 va = TDM_ALIGN_UP(start, size); va + size <= end; va += size)
			collapse_one(s, reader, va, level, out);
	}
	plat_mutex_unlock(&s->change);
}
