/* SPDX-License-Identifier: MIT */
/*
 * insert_range.c - see insert_range.h.
 *
 * Against changes of the VMA. Entries are written with their table locked, and only after the VMA has been looked up under that lock: munmap() and mprotect()
 * change the VMA first and lock the tables afterwards, so either the lookup sees the VMA as it has become, or they find the entry (mm/space.h). The map is
 * compared, too: the address may be another driver's by now.
 *
 * Against the driver's own zapping (tdmi_special_unmap()): the driver's lock, which it holds while it knows its pfns and calls this.
 *
 * Against other faults: the table's lock. Two faults of one driver for the same place write the same leaf; the second finds it. One may have made a table
 * where the other wants a leaf: then the other gets entries below. No table is replaced here, as others may be walking it; but where s->change is held and
 * nobody can fault but by the same driver, who waits for the table lock and finds it dead (tdmi_remap_range()).
 *
 * The unit of work is sixteen entries, 64 KiB of them at the lowest level: so long is a table locked, while others fault next to it. The walk is made again
 * for each, as the table may have gone.
 */
#include "mm/insert_range.h"
#include "mm/collapse.h"

#define BATCH 16u

/* What is to be done yet. */
struct run {
	struct tdm_map *m;
	struct tdm_space *s;
	u64 va, end;
	struct tdm_pfn pfn; /* of va */
	const struct tdm_insert *how;
	bool exact;         /* a leaf of this size, or nothing */
	bool replace;       /* tables in the way give way, if they say nothing else */
	u64 budget;         /* entries that may be written */
	struct tdm_inserted *out;
};

/* The VMA, or the table with exact, is not what it was when the call began. */
#define CHANGED 1

static inline u64 leaf_bytes(u32 level)
{
	return (u64)1 << tdm_pt_shift(level);
}

/* The VMA for va, if it is m's and allows this. Its index becomes another mapping's only when its VMAs have gone: so the index first. */
static bool vma_of(const struct tdm_map *m, u64 va, u32 flags, struct tdm_vma *vma)
{
	uintptr_t need = TDM_V_SPECIAL | TDM_V_READ | (flags & TDM_INSERT_WRITE ? TDM_V_WRITE : 0);

	return tdm_aptr_ld_acquire(&m->s->map[m->index]) == m && tdmi_vma_find(&m->s->vmas, va, vma) && TDM_V_MAP(vma->flags) == m->index &&
	       (vma->flags & need) == need;
}

/* Is a leaf of this level legal for (va, pfn) with so many bytes behind it? */
static bool fits(const struct tdm_space *s, u64 va, struct tdm_pfn pfn, u64 bytes, u32 level)
{
	u64 size = leaf_bytes(level);

	return !level || ((s->w->huge & size) && !(va & (size - 1)) && !((pfn.v << TDM_PAGE_SHIFT) & (size - 1)) && bytes >= size);
}

static void advance(struct run *r, u64 bytes)
{
	r->va += bytes;
	r->pfn.v += bytes >> TDM_PAGE_SHIFT;
	r->out->end = r->va;
}

/* Bits for a leaf of [va, va + size): young and dirty is only what is needed. */
static u64 bits_for(const struct run *r, u64 va, u64 size)
{
	u32 flags = r->how->flags;
	u64 bits = flags & TDM_INSERT_WRITE ? TDM_PTE_WRITE | TDM_PTE_SOFT_DIRTY : 0;

	if (r->how->at - va < size) {
		bits |= flags & TDM_INSERT_YOUNG ? TDM_PTE_ACCESSED : 0;
		bits |= flags & TDM_INSERT_DIRTY ? TDM_PTE_DIRTY : 0;
	}
	return bits;
}

static void tables_made(struct run *r, u64 n)
{
	r->out->tables += n;
	tdm_world_count(r->s->w, TDM_SC_TABLES, n);
	tdm_world_work(r->s->w, TDM_WORK_PAGE_ALLOC, n);
	tdm_world_work(r->s->w, TDM_WORK_PAGE_ZERO, n);
}

/* Entry i of the locked table is a leaf. More rights are taken by walkers when they look again; secondary MMUs have to be told. */
static void upgrade(struct run *r, struct tdm_pt *pt, u32 i, u64 bits)
{
	u64 lacks = bits & ~tdm_pt_get(pt, i).v, va = tdm_pt_va(pt, i);

	if (!lacks)
		return;
	r->out->entries++;
	tdm_world_work(r->s->w, TDM_WORK_PTE, 1);
	tdm_pt_change(pt, i, lacks, 0);
	if (lacks & TDM_PTE_WRITE)
		tdmi_tlb_flush_secondary(r->s, va, va + leaf_bytes(pt->level));
}

/* The locked table's entry is a leaf larger than what may be written here. Does it say the same? Then it stays; but if only a part of it gets the right to
 * write it is split, and the part is looked at again. */
static int larger(struct run *r, struct tdm_pt *pt, u64 stop)
{
	u32 i = tdm_pt_index(pt, r->va);
	struct tdm_pte e = tdm_pt_get(pt, i);
	u64 base = tdm_pt_va(pt, i), size = leaf_bytes(pt->level), n = TDM_MIN(base + size, stop) - r->va;
	struct tdm_pt *child;

	if (!tdm_pte_present(e) || !(e.v & TDM_PTE_SPECIAL) || tdm_pte_pfn(e).v + ((r->va - base) >> TDM_PAGE_SHIFT) != r->pfn.v)
		return -EEXIST;
	if ((r->how->flags & TDM_INSERT_WRITE) && !(e.v & TDM_PTE_WRITE)) {
		if (tdmi_pt_split(&r->s->pgt, pt, i, NULL, &child))
			return -ENOMEM;
		tdm_pt_unlock(child);
		tables_made(r, 1);
		r->out->split++;
		tdm_world_count(r->s->w, TDM_SC_SPLIT, 1);
		return 0;
	}
	upgrade(r, pt, i, bits_for(r, r->va, n));
	r->out->same += n;
	advance(r, n);
	return 0;
}

/* Write entry i of the locked table, of the level of the leaf. */
static int put(struct run *r, struct tdm_pt *pt, u32 i)
{
	u64 size = leaf_bytes(pt->level), bits = bits_for(r, r->va, size);
	struct tdm_pte e = tdm_pt_get(pt, i);

	if (tdm_pte_none(e)) {
		tdm_pt_set(pt, i, tdm_pte_mk_special(&r->s->w->phys, r->pfn, bits));
		tdm_world_work(r->s->w, TDM_WORK_PTE, 1);
		tdm_world_count(r->s->w, TDM_SC_LEAF_4K + pt->level, 1);
		tdm_a64_add_relaxed(&r->s->special, size >> TDM_PAGE_SHIFT);
		r->out->bytes[pt->level] += size;
		r->out->entries++;
		r->budget--;
	} else if (tdm_pte_present(e) && (e.v & TDM_PTE_SPECIAL) && tdm_pte_pfn(e).v == r->pfn.v) {
		upgrade(r, pt, i, bits);
		r->out->same += size;
	} else {
		return -EEXIST;
	}
	advance(r, size);
	return 0;
}

/* The locked table is the one for a leaf at r->va: a batch of entries, as far as they are of this size. */
static int put_batch(struct run *r, struct tdm_pt *pt, u64 stop)
{
	u32 i = tdm_pt_index(pt, r->va), last = (i & ~(BATCH - 1)) + BATCH;

	for (; i < last && r->budget && r->va < stop && fits(r->s, r->va, r->pfn, stop - r->va, pt->level); i++) {
		int e;

		if (pt->level && tdm_pte_table(tdm_pt_get(pt, i)))
			return 0;
		e = put(r, pt, i);
		if (e)
			return e;
	}
	return 0;
}

/* Slot i of the locked table has a table where a leaf would fit. */
static bool replaced(struct run *r, struct tdm_pt *pt, u32 i)
{
	struct tdm_collapsed c = { 0 };
	struct tdm_pte leaf;

	if (!r->replace)
		return false;
	leaf = tdm_pte_mk_special(&r->s->w->phys, r->pfn, bits_for(r, r->va, 0));
	if (!tdmi_collapse_slot(r->s, pt, i, &leaf, &c))
		return false;
	tdm_world_count(r->s->w, TDM_SC_LEAF_4K + pt->level, 1);
	/* It is there now; what it filled was not there before. */
	r->out->bytes[pt->level] += c.filled;
	r->out->same += leaf_bytes(pt->level) - c.filled;
	r->out->entries++;
	r->budget--;
	advance(r, leaf_bytes(pt->level));
	return true;
}

/* One batch at r->va, of leaves of `level` if there is no table in their place, else smaller ones. */
static int step(struct run *r, u32 level)
{
	for (;;) {
		struct tdm_vma vma;
		struct tdm_pt *pt;
		u64 made = 0, stop;
		int e;
		u32 i;

		plat_window();
		e = tdmi_pt_lock_at(&r->s->pgt, r->va, level, true, &made, &pt);
		if (made)
			tables_made(r, made);
		if (e)
			return e;
		tdm_world_work(r->s->w, TDM_WORK_TABLE_LOCK, 1);
		i = tdm_pt_index(pt, r->va);
		if (!vma_of(r->m, r->va, r->how->flags, &vma)) {
			tdm_pt_unlock(pt);
			return CHANGED;
		}
		stop = TDM_MIN(r->end, vma.end);
		if (!fits(r->s, r->va, r->pfn, stop - r->va, level) || (level && tdm_pte_table(tdm_pt_get(pt, i)))) {
			bool done = fits(r->s, r->va, r->pfn, stop - r->va, level) && replaced(r, pt, i);

			tdm_pt_unlock(pt);
			if (done || r->exact)
				return done ? 0 : CHANGED;
			level--;
			continue;
		}
		e = pt->level > level ? larger(r, pt, stop) : put_batch(r, pt, stop);
		tdm_pt_unlock(pt);
		return e;
	}
}

static u32 largest(const struct run *r)
{
	u32 level = TDM_LEAVES - 1;

	while (!fits(r->s, r->va, r->pfn, r->end - r->va, level))
		level--;
	return level;
}

static int go(struct run *r)
{
	int e = 0;

	while (!e && r->va < r->end && r->budget)
		e = step(r, largest(r));
	return e == CHANGED ? 0 : e;
}

/* With a limit the call begins with the leaf that has how->at in it, or at the block of that many pages. A guess, as no table is locked: if it is wrong the
 * next fault sees what is there. */
static void begin_at(struct run *r, u64 va, u64 at)
{
	u64 block = leaf_bytes(0);

	while (block <= (r->end - va) / 2 && block * 2 >> TDM_PAGE_SHIFT <= r->budget)
		block *= 2;
	block = TDM_MAX(va, TDM_ALIGN_DOWN(at, block));
	for (u32 level = TDM_LEAVES - 1; level; level--) {
		u64 base = TDM_ALIGN_DOWN(at, leaf_bytes(level));
		struct tdm_pte e;
		u32 i;

		if (base < va || !fits(r->s, base, (struct tdm_pfn){ r->pfn.v + ((base - va) >> TDM_PAGE_SHIFT) }, r->end - base, level))
			continue;
		if (tdmi_pt_walk(&r->s->pgt, at, &i, &e)->level >= level) {
			block = base;
			break;
		}
	}
	r->va = r->out->start = r->out->end = block;
	r->pfn.v += (block - va) >> TDM_PAGE_SHIFT;
}

/* Cut the run to the VMA that has how->at. All by its distance from there: the run may begin below address 0. */
static int clamp(struct run *r, u64 va, u64 n)
{
	u64 at = r->how->at, before = TDM_ALIGN_DOWN(at, TDM_PAGE_SIZE) - va, behind;
	struct tdm_vma vma;

	if ((va & ~TDM_PAGE_MASK) || !n || n > ~(u64)0 >> TDM_PAGE_SHIFT || before >= n << TDM_PAGE_SHIFT)
		return -EINVAL;
	/* A driver that hands over what is not its memory is broken. */
	TDM_BUG_ON(tdm_pfn_range(&r->s->w->phys, r->pfn)->kind != TDM_MEM_SPECIAL);
	TDM_BUG_ON(tdm_pfn_range(&r->s->w->phys, (struct tdm_pfn){ r->pfn.v + n - 1 }) != tdm_pfn_range(&r->s->w->phys, r->pfn));
	if (!vma_of(r->m, at, r->how->flags, &vma))
		return -EFAULT;
	at = TDM_ALIGN_DOWN(at, TDM_PAGE_SIZE);
	behind = (n << TDM_PAGE_SHIFT) - before;
	r->va = at - TDM_MIN(before, at - vma.start);
	r->end = at + TDM_MIN(behind, vma.end - at);
	r->pfn.v += (r->va - va) >> TDM_PAGE_SHIFT;
	r->out->start = r->out->end = r->va;
	return 0;
}

int tdmi_insert_range(struct tdm_map *m, u64 va, struct tdm_pfn pfn, u64 n, const struct tdm_insert *how, struct tdm_inserted *out)
{
	struct run r = { .m = m, .s = m->s, .pfn = pfn, .how = how, .budget = how->max_prefault ? how->max_prefault : ~(u64)0, .out = out };
	int e;

	*out = (struct tdm_inserted){ .start = va, .end = va };
	e = clamp(&r, va, n);
	if (e)
		return e;
	if (how->max_prefault)
		begin_at(&r, r.va, how->at);
	return go(&r);
}

enum tdm_fault_result tdmi_insert_pfn(struct tdm_map *m, u64 va, struct tdm_pfn pfn, u32 level, const struct tdm_insert *how)
{
	u64 size = leaf_bytes(level);
	struct tdm_insert here = { .flags = how->flags, .at = how->at - va < size ? how->at : va };
	struct tdm_inserted out = { .start = va, .end = va };
	struct run r = { .m = m, .s = m->s, .pfn = pfn, .how = &here, .exact = true, .budget = 1, .out = &out };
	struct tdm_vma vma;
	struct tdm_pte e;
	int done = 0;
	u32 i;

	if (!fits(m->s, va, pfn, size, level))
		return TDM_FAULT_FALLBACK;
	if (vma_of(m, here.at, how->flags, &vma) && (va < vma.start || vma.end - va < size))
		return TDM_FAULT_FALLBACK;
	if (clamp(&r, va, size >> TDM_PAGE_SHIFT))
		return TDM_FAULT_SIGBUS;
	if (tdmi_pt_walk(&m->s->pgt, va, &i, &e)->level < level)
		return TDM_FAULT_FALLBACK;
	while (!done && r.va < r.end)
		done = step(&r, level);
	switch (done) {
	case 0:
		return TDM_FAULT_DONE;
	case CHANGED:
		return level ? TDM_FAULT_FALLBACK : TDM_FAULT_DONE;
	case -ENOMEM:
		return TDM_FAULT_OOM;
	default:
		return TDM_FAULT_SIGBUS;
	}
}

/* ---- at mmap time */

int tdmi_remap_range(struct tdm_map *m, struct tdm_rcu_reader *reader, u64 va, struct tdm_pfn pfn, u64 n, u32 flags, struct tdm_inserted *out)
{
	struct tdm_insert how = { .flags = flags, .at = va };
	struct run r = { .m = m, .s = m->s, .pfn = pfn, .how = &how, .replace = true, .budget = ~(u64)0, .out = out };
	struct tdm_inv_range round;
	int e;

	*out = (struct tdm_inserted){ .start = va, .end = va };
	plat_mutex_lock(&m->s->change);
	tdmi_rcu_read_lock(reader);
	e = clamp(&r, va, n);
	tdmi_rcu_read_unlock(reader);
	if (!e) {
		round = TDM_INV_RANGE(r.va, r.end, TDM_INV_CLEAR);
		tdmi_invalidate_start(&m->s->notifiers, &round);
		tdmi_rcu_read_lock(reader);
		e = go(&r);
		tdmi_rcu_read_unlock(reader);
		tdmi_invalidate_end(&m->s->notifiers, &round);
	}
	plat_mutex_unlock(&m->s->change);
	return e;
}

static enum tdm_fault_result remap_fault(struct tdm_map *m, u64 va, u64 size, bool write)
{
	const struct tdm_remap *linear = m->arg;
	u64 first = m->off >> TDM_PAGE_SHIFT;
	struct tdm_insert how = { TDM_INSERT_YOUNG | (write ? TDM_INSERT_WRITE | TDM_INSERT_DIRTY : 0), va, BATCH };
	struct tdm_inserted out;
	int e;

	(void)size;
	if (first + ((va - m->start) >> TDM_PAGE_SHIFT) >= linear->n)
		return TDM_FAULT_SIGBUS;
	e = tdmi_insert_range(m, m->start, (struct tdm_pfn){ linear->pfn.v + first }, linear->n - first, &how, &out);
	return !e ? TDM_FAULT_DONE : e == -ENOMEM ? TDM_FAULT_OOM : TDM_FAULT_SIGBUS;
}

const struct tdm_map_ops tdmi_remap_ops = { .name = "remap", .fault = remap_fault };
