/* SPDX-License-Identifier: MIT */
/* pgtable.c - see pgtable.h for the rules. */
#include <string.h>
#include "base/alloc.h"
#include "base/check.h"
#include "base/lockrank.h"
#include "mm/pgtable.h"
#include "mm/predict.h"

void tdm_pt_set(struct tdm_pt *pt, u32 i, struct tdm_pte pte)
{
	bool was = tdm_a64_ld_relaxed(&pt->e[i]) != 0;

	if (was && !pte.v)
		pt->used--;
	else if (!was && pte.v)
		pt->used++;
	tdm_a64_st_release(&pt->e[i], pte.v);
}

static struct tdm_pt *pt_alloc(struct tdm_pgt *pgt, u32 level, u64 va)
{
	struct tdm_pt *pt = tdmi_alloc(pgt->alloc, sizeof(*pt));
	u64 span = (u64)1 << tdm_pt_shift(level + 1);

	if (!pt)
		return NULL;
	memset(pt, 0, sizeof(*pt));
	pt->e = tdmi_alloc(pgt->alloc, TDM_PAGE_SIZE);
	if (!pt->e) {
		tdmi_free(pgt->alloc, pt, sizeof(*pt));
		return NULL;
	}
	memset((void *)pt->e, 0, TDM_PAGE_SIZE);
	TDM_BUG_ON((uintptr_t)pt & 63);
	plat_mutex_init(&pt->lock, TDM_RANK_PT0 - level);
	pt->level = (u8)level;
	pt->base = va & ~(span - 1);
	pt->order = pgt->predict ? (u8)tdmi_predict_order(pgt->predict) : 0;
	return pt;
}

static void pt_free(struct tdm_pgt *pgt, struct tdm_pt *pt)
{
	tdmi_free(pgt->alloc, pt->e, TDM_PAGE_SIZE);
	tdmi_free(pgt->alloc, pt, sizeof(*pt));
}

static void pt_free_rcu(struct tdm_rcu_head *head, void *ctx)
{
	pt_free(ctx, tdm_container_of(head, struct tdm_pt, rcu));
}

int tdmi_pt_init(struct tdm_pgt *pgt)
{
	pgt->root = pt_alloc(pgt, TDM_PT_LEVELS - 1, 0);
	return pgt->root ? 0 : -ENOMEM;
}

void tdmi_pt_destroy(struct tdm_pgt *pgt)
{
	/* Depth-first without recursion: a table is freed when the scan has passed its last entry. */
	struct tdm_pt *stack[TDM_PT_LEVELS] = { pgt->root };
	u32 pos[TDM_PT_LEVELS] = { 0 };
	u32 depth = 0;

	if (!pgt->root)
		return;
	for (;;) {
		struct tdm_pt *pt = stack[depth], *child = NULL;

		while (pt->level && pos[depth] < TDM_PT_ENTRIES && !child)
			child = tdm_pte_table(tdm_pt_get(pt, pos[depth]++));
		if (child) {
			stack[++depth] = child;
			pos[depth] = 0;
			continue;
		}
		pt_free(pgt, pt);
		if (!depth--)
			break;
	}
	pgt->root = NULL;
}

struct tdm_pt *tdmi_pt_walk(struct tdm_pgt *pgt, u64 va, u32 *index, struct tdm_pte *pte)
{
	struct tdm_pt *pt = pgt->root;

	for (;;) {
		u32 i = tdm_pt_index(pt, va);
		struct tdm_pte e = tdm_pt_get(pt, i);
		struct tdm_pt *child = pt->level ? tdm_pte_table(e) : NULL;

		if (!child) {
			*index = i;
			*pte = e;
			return pt;
		}
		pt = child;
	}
}

/* With pt (an upper table whose entry for va is none) unlocked: put a table there, which is counted, or find the one that somebody else put. */
static int pt_populate(struct tdm_pgt *pgt, struct tdm_pt *pt, u64 va, u64 *made)
{
	struct tdm_pt *child = pt_alloc(pgt, pt->level - 1u, va);
	u32 i = tdm_pt_index(pt, va);

	if (!child)
		return -ENOMEM;
	plat_mutex_lock(&pt->lock);
	if (!pt->dead && tdm_pte_none(tdm_pt_get(pt, i))) {
		tdm_pt_set(pt, i, (struct tdm_pte){ (u64)(uintptr_t)child | TDM_PTE_PRESENT });
		child = NULL;
		++*made;
	}
	plat_mutex_unlock(&pt->lock);
	if (child)
		pt_free(pgt, child);
	return 0;
}

int tdmi_pt_lock_at(struct tdm_pgt *pgt, u64 va, u32 level, bool alloc, u64 *made, struct tdm_pt **out)
{
	*out = NULL;
	for (;;) {
		struct tdm_pt *pt = pgt->root, *child;
		struct tdm_pte e;
		u32 i;

		while (pt->level > level && (child = tdm_pte_table(tdm_pt_get(pt, tdm_pt_index(pt, va)))))
			pt = child;
		i = tdm_pt_index(pt, va);
		e = tdm_pt_get(pt, i);
		if (pt->level > level && tdm_pte_none(e)) {
			int r = alloc ? pt_populate(pgt, pt, va, made) : 0;

			if (r || !alloc)
				return r;
			continue;
		}
		plat_mutex_lock(&pt->lock);
		e = tdm_pt_get(pt, i);
		if (!pt->dead && (pt->level == level || (!tdm_pte_none(e) && !tdm_pte_table(e)))) {
			*out = pt;
			return 0;
		}
		plat_mutex_unlock(&pt->lock);
	}
}

int tdmi_pt_lock(struct tdm_pgt *pgt, u64 va, bool alloc, struct tdm_pt **out)
{
	u64 made = 0;

	return tdmi_pt_lock_at(pgt, va, 0, alloc, &made, out);
}

int tdmi_pt_lock_pmd(struct tdm_pgt *pgt, u64 va, struct tdm_pt **out)
{
	u64 made = 0;

	return tdmi_pt_lock_at(pgt, va, 1, true, &made, out);
}

struct tdm_pt *tdmi_pt_spare(struct tdm_pgt *pgt, u64 va)
{
	return pt_alloc(pgt, 0, va);
}

void tdmi_pt_spare_free(struct tdm_pgt *pgt, struct tdm_pt *spare)
{
	if (spare)
		pt_free(pgt, spare);
}

int tdmi_pt_split(struct tdm_pgt *pgt, struct tdm_pt *pmd, u32 i, struct tdm_pt *spare, struct tdm_pt **out)
{
	struct tdm_pte leaf = tdm_pt_get(pmd, i);
	struct tdm_pt *pt = spare ? spare : pt_alloc(pgt, pmd->level - 1u, tdm_pt_va(pmd, i));
	u32 step = pmd->level == 1 ? 1 : TDM_HUGE_PAGES;

	if (!pt)
		return -ENOMEM;
	TDM_ASSERT(tdm_pte_present(leaf) && (leaf.v & TDM_PTE_LEAF));
	plat_mutex_lock(&pt->lock);
	/* A walker may set A or D in the leaf until the table is in its place. */
	do {
		for (u32 k = 0; k < TDM_PT_ENTRIES; k++)
			tdm_pt_set(pt, k, (struct tdm_pte){ (leaf.v & ~TDM_PTE_WANTED) + ((u64)k * step << TDM_PAGE_SHIFT) });
		plat_window();
	} while (!tdm_a64_cas_acqrel(&pmd->e[i], &leaf.v, (u64)(uintptr_t)pt | TDM_PTE_PRESENT));
	*out = pt;
	return 0;
}

struct tdm_pt *tdmi_pt_pmd(struct tdm_pgt *pgt, u64 va)
{
	struct tdm_pt *pt = pgt->root;

	while (pt->level > 1)
		pt = tdm_pte_table(tdm_pt_get(pt, tdm_pt_index(pt, va)));
	return pt;
}

void tdmi_pt_collapse(struct tdm_pgt *pgt, struct tdm_pt *pmd, struct tdm_pt *pt, struct tdm_pte leaf)
{
	pt->dead = true;
	tdm_pt_set(pmd, tdm_pt_index(pmd, pt->base), leaf);
	plat_mutex_unlock(&pt->lock);
	tdmi_rcu_call(pgt->rcu, &pt->rcu, pt_free_rcu, pgt);
}

void tdmi_pt_try_free_at(struct tdm_pgt *pgt, u64 va, u32 level)
{
	struct tdm_pt *upper, *pt;
	u64 made = 0;
	u32 i;

	if (tdmi_pt_lock_at(pgt, va, level + 1, false, &made, &upper) || !upper)
		return;
	i = tdm_pt_index(upper, va);
	pt = upper->level == level + 1 ? tdm_pte_table(tdm_pt_get(upper, i)) : NULL;
	if (pt) {
		plat_mutex_lock(&pt->lock);
		if (pt->used == 0) {
			pt->dead = true;
			tdm_pt_set(upper, i, (struct tdm_pte){ 0 });
		} else {
			plat_mutex_unlock(&pt->lock);
			pt = NULL;
		}
		if (pt) {
			plat_mutex_unlock(&pt->lock);
			tdmi_rcu_call(pgt->rcu, &pt->rcu, pt_free_rcu, pgt);
		}
	}
	plat_mutex_unlock(&upper->lock);
}

void tdmi_pt_try_free(struct tdm_pgt *pgt, u64 va)
{
	tdmi_pt_try_free_at(pgt, va, 0);
}

/* Whoever makes something there from now on takes the lock after us. A table that is dead says nothing of what is there. */
static bool none_from_now(struct tdm_pt *pt, u32 i)
{
	bool none;

	plat_mutex_lock(&pt->lock);
	none = !pt->dead && tdm_pte_none(tdm_pt_get(pt, i));
	plat_mutex_unlock(&pt->lock);
	return none;
}

static u64 next(struct tdm_pgt *pgt, u64 va, u64 end, bool certain)
{
	va = TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE);
	while (va < end) {
		struct tdm_pte e;
		u32 i;
		struct tdm_pt *pt = tdmi_pt_walk(pgt, va, &i, &e);

		if (pt->level == 0 || !tdm_pte_none(e))
			return va;
		if (certain && !none_from_now(pt, i))
			continue;
		/* Nothing under this entry: on to the next one. */
		va = TDM_ALIGN_DOWN(va, (u64)1 << tdm_pt_shift(pt->level)) + ((u64)1 << tdm_pt_shift(pt->level));
	}
	return end;
}

u64 tdmi_pt_next(struct tdm_pgt *pgt, u64 va, u64 end)
{
	return next(pgt, va, end, false);
}

u64 tdmi_pt_next_certain(struct tdm_pgt *pgt, u64 va, u64 end)
{
	return next(pgt, va, end, true);
}
