/* SPDX-License-Identifier: MIT */
/*
 * special.c - see special.h.
 *
 * No leaf reaches across a cut: tables were made down to the level at which va is between two entries, and where there is a table no leaf comes
 * (insert_range.h) but by collapse or remap, which take s->change. Without a cut a leaf that reaches across an end of what is zapped goes as a whole, and more
 * is told to the TLBs than was asked for.
 *
 * Only special leaves of memory without pages are taken out here, whatever the caller believes of the range: a driver that zaps its mapping holds no lock
 * against munmap(), and there may be anonymous memory by now.
 */
#include "mm/special.h"
#include "mm/insert_range.h"

static inline u64 entry_bytes(const struct tdm_pt *pt)
{
	return (u64)1 << tdm_pt_shift(pt->level);
}

static bool is_special(const struct tdm_space *s, struct tdm_pte e)
{
	return tdm_pte_present(e) && (e.v & TDM_PTE_SPECIAL) && tdm_pfn_range(&s->w->phys, tdm_pte_pfn(e))->kind == TDM_MEM_SPECIAL;
}

/* ---- ranges */

typedef void leaf_fn(struct tdm_gather *g, struct tdm_pt *pt, u32 i);

/* Call fn for each special leaf that [start, end) overlaps, with its table locked. Within a section. */
static void each_leaf(struct tdm_gather *g, u64 start, u64 end, leaf_fn *fn)
{
	struct tdm_pgt *pgt = &g->s->pgt;
	u64 va = start;

	while ((va = TDM_MAX(va, tdmi_pt_next_certain(pgt, va, end))) < end) {
		struct tdm_pt *pt;
		u64 stop;

		/* Without alloc it cannot fail. If the table has gone, look again. */
		if (tdmi_pt_lock(pgt, va, false, &pt) || !pt)
			continue;
		tdm_world_work(g->s->w, TDM_WORK_TABLE_LOCK, 1);
		stop = TDM_MIN(end, pt->base + TDM_PT_ENTRIES * entry_bytes(pt));
		for (; va < stop; va = TDM_ALIGN_DOWN(va, entry_bytes(pt)) + entry_bytes(pt)) {
			u32 i = tdm_pt_index(pt, va);
			struct tdm_pte e = tdm_pt_get(pt, i);

			if (pt->level && tdm_pte_table(e))
				break;
			if (is_special(g->s, e))
				fn(g, pt, i);
		}
		tdm_pt_unlock(pt);
	}
}

static void zap(struct tdm_gather *g, struct tdm_pt *pt, u32 i)
{
	tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	tdm_world_work(g->s->w, TDM_WORK_PTE, 1);
	tdmi_gather_range(g, tdm_pt_va(pt, i), tdm_pt_shift(pt->level));
	tdm_a64_sub_relaxed(&g->s->special, entry_bytes(pt) >> TDM_PAGE_SHIFT);
}

static void write_protect(struct tdm_gather *g, struct tdm_pt *pt, u32 i)
{
	if (!(tdm_pt_get(pt, i).v & TDM_PTE_WRITE))
		return;
	tdm_pt_change(pt, i, 0, TDM_PTE_WRITE);
	tdm_world_work(g->s->w, TDM_WORK_PTE, 1);
	tdmi_gather_range(g, tdm_pt_va(pt, i), tdm_pt_shift(pt->level));
}

static void free_tables(struct tdm_pgt *pgt, u64 start, u64 end)
{
	u64 pmd = TDM_HUGE_SIZE, pud = TDM_HUGE_SIZE << 9;
	u64 va = start;

	for (; (va = TDM_MAX(va, tdmi_pt_next(pgt, va, end))) < end; va = TDM_ALIGN_DOWN(va, pmd) + pmd)
		tdmi_pt_try_free(pgt, va);
	for (va = TDM_ALIGN_DOWN(start, pud); va < end; va += pud)
		tdmi_pt_try_free_at(pgt, va, 1);
}

void tdmi_special_zap(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, bool tables)
{
	tdmi_rcu_read_lock(reader);
	each_leaf(g, start, end, zap);
	if (tables)
		free_tables(&g->s->pgt, start, end);
	tdmi_rcu_read_unlock(reader);
}

void tdmi_special_protect(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, uintptr_t flags)
{
	if (!(flags & TDM_V_READ)) {
		tdmi_special_zap(g, reader, start, end, false);
	} else if (!(flags & TDM_V_WRITE)) {
		tdmi_rcu_read_lock(reader);
		each_leaf(g, start, end, write_protect);
		tdmi_rcu_read_unlock(reader);
	}
}

/* The largest leaf that the CPUs have: so far may one reach beyond what is zapped. */
static u64 largest(const struct tdm_space *s)
{
	for (u32 level = TDM_LEAVES - 1; level; level--)
		if (s->w->huge & (u64)1 << tdm_pt_shift(level))
			return (u64)1 << tdm_pt_shift(level);
	return TDM_PAGE_SIZE;
}

void tdmi_special_unmap(struct tdm_map *m, struct tdm_rcu_reader *reader, u64 start, u64 end, bool tables)
{
	struct tdm_space *s = m->s;
	u64 reach = largest(s);
	struct tdm_inv_range round = TDM_INV_RANGE(TDM_ALIGN_DOWN(start, reach), TDM_ALIGN_UP(end, reach), TDM_INV_CLEAR);
	struct tdm_gather g;
	struct tdm_vma vma;

	tdmi_invalidate_start(&s->notifiers, &round);
	tdmi_gather_begin(&g, s);
	tdmi_rcu_read_lock(reader);
	for (u64 va = start; va < end && tdmi_vma_next(&s->vmas, va, &vma) && vma.start < end; va = vma.end)
		if ((vma.flags & TDM_V_SPECIAL) && TDM_V_MAP(vma.flags) == m->index)
			tdmi_special_zap(&g, reader, TDM_MAX(start, vma.start), TDM_MIN(end, vma.end), tables);
	tdmi_rcu_read_unlock(reader);
	tdmi_gather_flush(&g);
	tdmi_invalidate_end(&s->notifiers, &round);
}

/* ---- cutting */

/* No leaf of this level, or a larger one, reaches across va. */
static int cut_at(struct tdm_space *s, u64 va, u32 level)
{
	for (;;) {
		struct tdm_pt *pt, *child;
		u64 made = 0;
		int e = tdmi_pt_lock_at(&s->pgt, va, level - 1, true, &made, &pt);

		tdm_world_count(s->w, TDM_SC_TABLES, made);
		if (e || pt->level < level) {
			if (!e)
				tdm_pt_unlock(pt);
			return e;
		}
		e = tdmi_pt_split(&s->pgt, pt, tdm_pt_index(pt, va), NULL, &child);
		if (!e) {
			tdm_pt_unlock(child);
			tdm_world_count(s->w, TDM_SC_SPLIT, 1);
			tdm_world_count(s->w, TDM_SC_TABLES, 1);
			tdm_world_work(s->w, TDM_WORK_PTE, TDM_PT_ENTRIES);
		}
		tdm_pt_unlock(pt);
		if (e)
			return e;
	}
}

int tdmi_special_cut(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va)
{
	struct tdm_vma vma;
	int e = 0;

	tdmi_rcu_read_lock(reader);
	if (tdmi_vma_find(&s->vmas, va, &vma) && (vma.flags & TDM_V_SPECIAL)) {
		for (u32 level = TDM_LEAVES - 1; level && !e; level--) {
			u64 size = (u64)1 << tdm_pt_shift(level), base = TDM_ALIGN_DOWN(va, size);

			/* Where the VMA does not hold all of it there is no such leaf, and none will come. */
			if ((s->w->huge & size) && va != base && base >= vma.start && vma.end - base >= size)
				e = cut_at(s, va, level);
		}
	}
	tdmi_rcu_read_unlock(reader);
	return e;
}

/* ---- faults */

/* Is there a leaf that allows the access? Then it says so. */
static bool touched(struct tdm_space *s, u64 va, bool write)
{
	u64 bits = TDM_PTE_ACCESSED | (write ? TDM_PTE_DIRTY : 0);
	bool there = false;
	struct tdm_pt *pt;
	u32 i;

	if (tdmi_pt_lock(&s->pgt, va, false, &pt) || !pt)
		return false;
	tdm_world_work(s->w, TDM_WORK_TABLE_LOCK, 1);
	i = tdm_pt_index(pt, va);
	if (is_special(s, tdm_pt_get(pt, i)) && (!write || (tdm_pt_get(pt, i).v & TDM_PTE_WRITE))) {
		tdm_pt_change(pt, i, bits, 0);
		tdm_world_work(s->w, TDM_WORK_PTE, 1);
		there = true;
	}
	tdm_pt_unlock(pt);
	return there;
}

/* Sizes from the largest that fits and has no table in its place. */
static enum tdm_fault_result ask(struct tdm_space *s, struct tdm_map *m, const struct tdm_vma *vma, u64 va, bool write)
{
	enum tdm_fault_result r = TDM_FAULT_FALLBACK;

	for (u32 level = TDM_LEAVES; level-- && r == TDM_FAULT_FALLBACK;) {
		u64 size = (u64)1 << tdm_pt_shift(level), base = TDM_ALIGN_DOWN(va, size);
		struct tdm_pte e;
		u32 i;

		if (level && (!(s->w->huge & size) || base < vma->start || vma->end - base < size || tdmi_pt_walk(&s->pgt, va, &i, &e)->level < level))
			continue;
		r = m->ops->fault(m, va, size, write);
	}
	return r;
}

/* The VMA for va allows the access; *m. The index becomes another mapping's only when this one's VMAs have gone: so the VMA is looked up again. */
static bool allowed(struct tdm_space *s, u64 va, bool write, struct tdm_vma *vma, struct tdm_map **m)
{
	uintptr_t need = TDM_V_SPECIAL | TDM_V_READ | (write ? TDM_V_WRITE : 0);
	u32 index;

	*m = NULL;
	if (!tdmi_vma_find(&s->vmas, va, vma) || (vma->flags & need) != need)
		return false;
	index = TDM_V_MAP(vma->flags);
	*m = tdm_aptr_ld_acquire(&s->map[index]);
	if (!tdmi_vma_find(&s->vmas, va, vma) || TDM_V_MAP(vma->flags) != index)
		*m = NULL;
	return true;
}

int tdmi_special_fault(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, bool write)
{
	enum tdm_fault_result r = TDM_FAULT_DONE;
	struct tdm_map *m, *now;
	struct tdm_vma vma;
	bool ok;

	va &= TDM_PAGE_MASK;
	tdmi_rcu_read_lock(reader);
	ok = allowed(s, va, write, &vma, &m);
	/* No map: it is being unmapped, and whoever looks again sees it. */
	if (m && !touched(s, va, write)) {
		tdm_world_count(s->w, TDM_SC_SPECIAL_FAULTS, 1);
		r = ask(s, m, &vma, va, write);
		/* Refused, as it is being unmapped? */
		if (r == TDM_FAULT_SIGBUS && (!allowed(s, va, write, &vma, &now) || now != m))
			r = TDM_FAULT_DONE;
	}
	tdmi_rcu_read_unlock(reader);
	if (!ok)
		return -EFAULT;
	return r == TDM_FAULT_DONE ? 0 : r == TDM_FAULT_OOM ? -ENOMEM : -ENXIO;
}

/* ---- fork */

/*
 * Entries of one table, or one leaf, from va on. The child's table is locked, the parent's is read without its lock: who zaps the parent's leaf and then the
 * child's either does the former before it is read here, or waits for the latter until it is written.
 */
static int copy_some(struct tdm_space *child, struct tdm_space *parent, u64 *va, u64 end)
{
	struct tdm_pte e;
	u32 i, level = tdmi_pt_walk(&parent->pgt, *va, &i, &e)->level;
	struct tdm_pt *to;
	u64 made = 0;
	int r = tdmi_pt_lock_at(&child->pgt, *va, level, true, &made, &to);

	tdm_world_count(child->w, TDM_SC_TABLES, made);
	if (r)
		return r;
	/* The child has no larger leaves than its parent, unless somebody has given it some: these stay. */
	if (to->level > level)
		*va = TDM_ALIGN_DOWN(*va, entry_bytes(to)) + entry_bytes(to);
	for (; to->level == level && *va < end; *va = TDM_ALIGN_DOWN(*va, entry_bytes(to)) + entry_bytes(to)) {
		struct tdm_pt *from = tdmi_pt_walk(&parent->pgt, *va, &i, &e);
		u32 k = tdm_pt_index(to, *va);

		/* Another table, or the parent's has changed its level: look again. */
		if (tdm_pt_va(to, k) != TDM_ALIGN_DOWN(*va, entry_bytes(to)) || from->level < to->level)
			break;
		if (from->level != to->level || !is_special(parent, e) || !tdm_pte_none(tdm_pt_get(to, k)))
			continue;
		tdm_pt_set(to, k, (struct tdm_pte){ e.v & ~(TDM_PTE_ACCESSED | TDM_PTE_DIRTY) });
		tdm_world_work(child->w, TDM_WORK_PTE, 1);
		tdm_a64_add_relaxed(&child->special, entry_bytes(to) >> TDM_PAGE_SHIFT);
	}
	tdm_pt_unlock(to);
	return 0;
}

int tdmi_special_fork(struct tdm_space *child, struct tdm_space *parent, struct tdm_rcu_reader *reader, u64 start, u64 end)
{
	u64 va = start;
	int e = 0;

	tdmi_rcu_read_lock(reader);
	while (!e && (va = TDM_MAX(va, tdmi_pt_next(&parent->pgt, va, end))) < end)
		e = copy_some(child, parent, &va, end);
	tdmi_rcu_read_unlock(reader);
	return e;
}
