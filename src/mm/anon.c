/* SPDX-License-Identifier: MIT */
/*
 * anon.c - faults of spaces: what a walker could not do by itself.
 *
 * The fault path holds a table's lock only while it looks at an entry and changes it. Whatever takes time (a page from the allocator, zeroing, copying, a
 * tier) happens before, with a reference to what the entry named; then the entry must still be what it was, or all is let go of, and the walker looks again.
 *
 * A page that is exclusive is written in place. One that is not is copied, unless nobody else has it any more: its only reference is that of the entry in
 * hand. (Somebody else could get one only by a fork of this space, which takes this table's lock, or by a slot, from which it is taken first; a lockless
 * walker that takes one for a moment sees the entry, read-only, and a page that is not exclusive, and gives up.)
 *
 * To replace a page is the one change that no flush may wait for (mm/tlb.h): the old translation is flushed everywhere, under the lock, while the entry is
 * none, before anybody can read the new one. And before the bytes are copied whatever flush is owed to the page is made up for: else somebody writes to it by
 * a TLB while it is being copied.
 */
#include <string.h>
#include "mm/anon.h"
#include "mm/rmap.h"
#include "mm/shm.h"
#include "mm/special.h"
#include "mm/swapcache.h"
#include "mm/vmscan.h"

#define WRITABLE (TDM_PTE_WRITE | TDM_PTE_DIRTY | TDM_PTE_SOFT_DIRTY | TDM_PTE_ACCESSED)

static u64 *bytes_of(struct tdm_world *w, struct tdm_pfn pfn)
{
	return (u64 *)(void *)tdm_pfn_bytes(&w->phys, pfn);
}

static bool allowed(const struct tdm_vma *v, enum tdm_access access)
{
	return v->flags & (access == TDM_ACCESS_WRITE ? TDM_V_WRITE : TDM_V_READ);
}

/* The table is locked: does the VMA still allow what it did? Who takes a right away changes it first, and has the table afterwards. */
static bool same_vma(const struct tdm_fault *f)
{
	struct tdm_vma v;

	return tdmi_vma_find(&f->s->vmas, f->va, &v) && v.flags == f->vma.flags;
}

/* Lock the table of va, and see whether all is still as it was. false: it is not, and nothing is locked. */
static bool lock_same(const struct tdm_fault *f, struct tdm_pt **pt, u32 *i)
{
	if (tdmi_pt_lock(&f->s->pgt, f->va, true, pt))
		return false;
	*i = tdm_pt_index(*pt, f->va);
	if (!(*pt)->level && tdm_pt_get(*pt, *i).v == f->pte.v && same_vma(f))
		return true;
	tdm_pt_unlock(*pt);
	return false;
}

/* A page of ram, for which others are evicted if need be. */
static struct tdm_page *new_page(struct tdm_fault *f, struct tdm_pfn *pfn)
{
	struct tdm_world *w = f->s->w;
	struct tdm_page *pg = tdmi_page_alloc(&w->phys, w->ram, pfn);

	tdm_world_work(w, TDM_WORK_PAGE_ALLOC, 1);
	if (!pg && tdmi_vmscan_direct(w, f->reader))
		pg = tdmi_page_alloc(&w->phys, w->ram, pfn);
	return pg;
}

/* Map the page, which is new and exclusive, or comes from a slot, in place of f->pte, which no TLB has. 0; -EAGAIN: it has changed; -ENOMEM. The entry has the
 * reference then. */
static int map_new(struct tdm_fault *f, struct tdm_pfn pfn, u64 flags)
{
	struct tdm_pt *pt;
	u32 i;
	int r;

	if (!lock_same(f, &pt, &i))
		return -EAGAIN;
	r = tdmi_rmap_add(f->s->w, pfn, f->s, f->va);
	if (!r) {
		tdm_pt_set(pt, i, tdm_pte_mk(pfn, flags | TDM_PTE_ACCESSED));
		tdm_a64_add_relaxed(&f->s->rss, 1);
		tdm_world_work(f->s->w, TDM_WORK_PTE, 1);
	}
	tdm_pt_unlock(pt);
	return r;
}

static int zeros(struct tdm_fault *f)
{
	struct tdm_pt *pt;
	u32 i;

	if (!lock_same(f, &pt, &i))
		return -EAGAIN;
	tdm_pt_set(pt, i, tdm_pte_mk(f->s->w->zero, TDM_PTE_SPECIAL | TDM_PTE_ACCESSED));
	tdm_a64_add_relaxed(&f->s->rss, 1);
	tdm_pt_unlock(pt);
	return 0;
}

/* Nothing is there. */
static int do_anonymous(struct tdm_fault *f)
{
	struct tdm_world *w = f->s->w;
	struct tdm_pfn pfn;
	struct tdm_page *pg;
	int r;

	if (f->access == TDM_ACCESS_READ)
		return zeros(f);
	pg = new_page(f, &pfn);
	if (!pg)
		return -ENOMEM;
	memset(bytes_of(w, pfn), 0, TDM_PAGE_SIZE);
	tdm_world_work(w, TDM_WORK_PAGE_ZERO, 1);
	tdm_page_set(pg, TDM_PG_EXCLUSIVE);
	r = map_new(f, pfn, WRITABLE);
	if (r) {
		tdmi_page_put(w, pfn);
		return r;
	}
	tdm_world_count(w, TDM_SC_ZEROED, 1);
	tdmi_vmscan_add(w, pfn);
	return 0;
}

/* ---- writes to what is there */

/* The entry may be written, and is told so. It stays; who remembers it as it was looks again, but secondary MMUs need to be told. */
static int upgrade(struct tdm_fault *f, struct tdm_pt *pt, u32 i)
{
	(void)tdm_pt_change(pt, i, WRITABLE, 0);
	tdmi_tlb_flush_secondary(f->s, f->va, f->va + TDM_PAGE_SIZE);
	tdm_world_count(f->s->w, TDM_SC_REUSED, 1);
	return 0;
}

/* Put the new page in the place of the old one, whose reference the caller gets. In a round. */
static int replace(struct tdm_fault *f, struct tdm_pfn new, u64 flags)
{
	struct tdm_inv_range round = TDM_INV_RANGE(f->va, f->va + TDM_PAGE_SIZE, TDM_INV_CLEAR);
	struct tdm_space *s = f->s;
	struct tdm_pt *pt;
	u32 i;
	int r = -EAGAIN;

	/* Beginning a round may wait for who waits for readers. The old page is held; all else is looked at again. */
	tdmi_rcu_read_unlock(f->reader);
	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_rcu_read_lock(f->reader);
	/* D and A may be set at any time: what counts is that the page and its rights are the same. */
	f->pte = tdmi_fault_peek(f);
	if (f->same_page && lock_same(f, &pt, &i)) {
		r = tdmi_rmap_add(s->w, new, s, f->va);
		if (!r) {
			(void)tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
			tdmi_tlb_flush(s, f->va, f->va + TDM_PAGE_SIZE, TDM_PAGE_SHIFT);
			tdm_pt_set(pt, i, tdm_pte_mk(new, flags));
			if (f->old.v != s->w->zero.v)
				tdmi_rmap_del(s->w, f->old, s, f->va);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_invalidate_end(&s->notifiers, &round);
	return r;
}

/* The page is somebody else's, too, or zeros: the writer gets a copy. Or (flags without W) who wants to pin it for reading does. */
static int copy(struct tdm_fault *f, u64 flags)
{
	struct tdm_world *w = f->s->w;
	bool zero = f->old.v == w->zero.v;
	struct tdm_pfn new;
	struct tdm_page *pg = new_page(f, &new);
	int r = pg ? 0 : -ENOMEM;

	if (!r) {
		tdmi_tlb_settle(f->s, f->va);
		if (zero)
			memset(bytes_of(w, new), 0, TDM_PAGE_SIZE);
		else
			memcpy(bytes_of(w, new), bytes_of(w, f->old), TDM_PAGE_SIZE);
		tdm_world_work(w, zero ? TDM_WORK_PAGE_ZERO : TDM_WORK_PAGE_COPY, 1);
		tdm_page_set(pg, TDM_PG_EXCLUSIVE | (zero ? 0 : TDM_PG_DIRTY));
		r = replace(f, new, flags);
	}
	if (!r) {
		tdm_world_count(w, zero ? TDM_SC_ZEROED : TDM_SC_COPIED, 1);
		if (!zero && tdm_pfn_range(&w->phys, f->old)->kind == TDM_MEM_COHERENT)
			tdm_world_count(w, TDM_SC_COHERENT_COPIED, 1);
		tdmi_vmscan_add(w, new);
		if (!zero)
			tdmi_page_put(w, f->old); /* the entry's */
	} else if (pg) {
		tdmi_page_put(w, new);
	}
	if (!zero)
		tdmi_page_put(w, f->old); /* ours */
	return r;
}

/* Is the page, of this present entry of a locked table, this space's alone? It is made so if nobody else has it any more. */
static bool own(struct tdm_fault *f, struct tdm_page *pg)
{
	u64 w = tdm_page_word(pg);

	if (w & TDM_PG_EXCLUSIVE)
		return true;
	if (f->s->is_object) {
		tdm_page_set(pg, TDM_PG_EXCLUSIVE);
		return true;
	}
	if ((w & TDM_PG_REFS) == 2 && f->s->w->swapcache)
		tdmi_slot_take(f->s->w, pg, 1);
	w = tdm_page_word(pg);
	do {
		if ((w & TDM_PG_REFS) != TDM_PG_REF)
			return false;
	} while (!tdm_a64_cas_acqrel(&pg->word, &w, w | TDM_PG_EXCLUSIVE));
	return true;
}

/* A present entry: for writing, or whose A or D bit hardware does not set. Looks, and does what needs no memory; 1: the page must be copied, and is held. */
static int look(struct tdm_fault *f, struct tdm_pt *pt, u32 i)
{
	struct tdm_world *w = f->s->w;
	struct tdm_page *pg;

	if (f->access == TDM_ACCESS_READ || (f->pte.v & TDM_PTE_WRITE)) {
		u64 bits = TDM_PTE_ACCESSED | (f->access == TDM_ACCESS_WRITE ? TDM_PTE_DIRTY : 0);

		tdm_world_count(w, TDM_SC_AF_FAULTS, !(f->pte.v & TDM_PTE_ACCESSED) || (bits & ~f->pte.v));
		(void)tdm_pt_change(pt, i, bits, 0);
		return 0;
	}
	f->old = tdm_pte_pfn(f->pte);
	if (f->pte.v & TDM_PTE_SPECIAL)
		return 1;
	pg = tdm_pfn_page(&w->phys, f->old);
	if (own(f, pg))
		return upgrade(f, pt, i);
	tdm_page_get(pg);
	return 1;
}

/* ---- swap */

static int do_swap(struct tdm_fault *f)
{
	struct tdm_world *w = f->s->w;
	u64 slot = tdm_pte_swap_handle(f->pte), flags = TDM_PTE_SOFT_DIRTY;
	struct tdm_swap_ws *ws = tdmi_vmscan_ws_get(w);
	struct tdm_pfn pfn;
	struct tdm_page *pg;
	struct tdm_pt *pt;
	u32 i;
	int r = ws ? tdmi_slot_get_page(w, slot, ws, &pfn) : -ENOMEM;

	tdmi_vmscan_ws_put(w, ws);
	if (r == -ENOMEM && tdmi_vmscan_direct(w, f->reader))
		return -EAGAIN;
	if (r)
		return r;
	pg = tdm_pfn_page(&w->phys, pfn);
	r = -EAGAIN;
	if (lock_same(f, &pt, &i)) {
		if (tdmi_slot_has(w, slot, pg))
			r = tdmi_rmap_add(w, pfn, f->s, f->va);
		if (!r) {
			tdmi_slot_put(w, slot);
			/* Whoever else has it finds it in the cache; if there is nobody it is ours. */
			if (own(f, pg) && f->access == TDM_ACCESS_WRITE)
				flags = WRITABLE;
			tdm_pt_set(pt, i, tdm_pte_mk(pfn, flags | TDM_PTE_ACCESSED));
			tdm_a64_add_relaxed(&f->s->rss, 1);
			tdm_a64_sub_relaxed(&f->s->swapped, 1);
		}
		tdm_pt_unlock(pt);
	}
	if (r) {
		tdmi_page_put(w, pfn);
		return r;
	}
	tdm_world_count(w, TDM_SC_SWAPPED_IN, 1);
	tdmi_vmscan_refault(w, pfn, tdm_pte_swap_clock(f->pte));
	return 0;
}

/* ---- the whole */

/* There is a right to it again. */
static int unblock(struct tdm_fault *f, struct tdm_pt *pt, u32 i)
{
	struct tdm_pfn pfn;

	(void)tdm_pte_names(f->pte, &pfn);
	tdm_pt_set(pt, i, (struct tdm_pte){ tdm_pte_unblocked(f->pte, pfn).v & ~(f->vma.flags & TDM_V_WRITE ? 0 : TDM_PTE_WRITE) });
	return 0;
}

/* Memory that is an object's (mm/shm.h), or a driver's. */
static int mapped(struct tdm_fault *f)
{
	struct tdm_map *m = tdm_aptr_ld_acquire(&f->s->map[TDM_V_MAP(f->vma.flags)]);
	enum tdm_fault_result r;

	/* A driver may call its mapping shared: it has no object for all that. */
	if (f->vma.flags & TDM_V_SPECIAL)
		return tdmi_special_fault(f->s, f->reader, f->va, f->access == TDM_ACCESS_WRITE);
	if (f->vma.flags & TDM_V_SHARED)
		return tdmi_shm_fault(f);
	r = m ? m->ops->fault(m, f->va, TDM_PAGE_SIZE, f->access == TDM_ACCESS_WRITE) : TDM_FAULT_DONE;
	return r == TDM_FAULT_DONE ? 0 : r == TDM_FAULT_OOM ? -ENOMEM : -ENXIO;
}

/* One try. -EAGAIN: something has come between. */
static int once(struct tdm_fault *f)
{
	struct tdm_pt *pt;
	u32 i;
	int r;

	if (!tdmi_vma_find(&f->s->vmas, f->va, &f->vma) || !allowed(&f->vma, f->access))
		return -EFAULT;
	if (TDM_V_MAP(f->vma.flags))
		return mapped(f);
	r = tdmi_pt_lock(&f->s->pgt, f->va, true, &pt);
	if (r)
		return r;
	i = tdm_pt_index(pt, f->va);
	f->pte = tdm_pt_get(pt, i);
	tdm_world_work(f->s->w, TDM_WORK_TABLE_LOCK, 1);
	if (!same_vma(f))
		r = -EAGAIN;
	else if (tdm_pte_present(f->pte))
		r = look(f, pt, i);
	else if (tdm_pte_is(f->pte, TDM_PTE_T_PROTNONE))
		r = unblock(f, pt, i);
	tdm_pt_unlock(pt);
	if (tdm_pte_present(f->pte))
		return r == 1 ? copy(f, WRITABLE) : r;
	if (tdm_pte_none(f->pte))
		return do_anonymous(f);
	if (tdm_pte_is(f->pte, TDM_PTE_T_SWAP))
		return do_swap(f);
	return tdm_pte_is(f->pte, TDM_PTE_T_POISON) ? -EIO : 0;
}

struct tdm_pte tdmi_fault_peek(struct tdm_fault *f)
{
	struct tdm_pte now;
	u32 i;

	(void)tdmi_pt_walk(&f->s->pgt, f->va, &i, &now);
	f->same_page = !((now.v ^ f->pte.v) & ~(TDM_PTE_ACCESSED | TDM_PTE_DIRTY));
	return now;
}

void tdmi_faults_stop(struct tdm_space *s)
{
	u32 n;

	tdm_a32_st_seqcst(&s->forking, 1);
	while ((n = tdm_a32_ld_seqcst(&s->faults)))
		plat_wait(&s->faults, n, ~(u64)0);
}

void tdmi_faults_go_on(struct tdm_space *s)
{
	tdm_a32_st_seqcst(&s->forking, 0);
	plat_wake(&s->forking, ~(u32)0 >> 1);
}

static void leave(struct tdm_space *s)
{
	if (tdm_a32_sub_acqrel(&s->faults, 1) == 1 && tdm_a32_ld_seqcst(&s->forking))
		plat_wake(&s->faults, ~(u32)0 >> 1);
}

static void enter(struct tdm_space *s)
{
	for (;;) {
		tdm_a32_add_seqcst(&s->faults, 1);
		if (tdm_likely(!tdm_a32_ld_seqcst(&s->forking)))
			return;
		leave(s);
		plat_wait(&s->forking, 1, ~(u64)0);
	}
}

/* There is no mapping that allows it; but a change may be under way that takes one away and puts another there (mmap over it). Whoever changes has s->change until
 * he is done. Not while faults are counted: a fork that waits for them has it, too. */
static bool none_for_good(struct tdm_fault *f)
{
	bool none;

	plat_mutex_lock(&f->s->change);
	tdmi_rcu_read_lock(f->reader);
	none = !tdmi_vma_find(&f->s->vmas, f->va, &f->vma) || !allowed(&f->vma, f->access);
	tdmi_rcu_read_unlock(f->reader);
	plat_mutex_unlock(&f->s->change);
	return none;
}

int tdmi_space_fault(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, enum tdm_access access)
{
	struct tdm_fault f = { .s = s, .reader = reader, .va = TDM_ALIGN_DOWN(va, TDM_PAGE_SIZE), .access = access };
	int r;

	if (va < TDM_VA_START || va >= TDM_VA_END)
		return -EFAULT;
	tdm_world_count(s->w, TDM_SC_FAULTS, 1);
	tdm_world_work(s->w, TDM_WORK_FAULT, 1);
	enter(s);
	tdmi_rcu_read_lock(reader);
	r = once(&f);
	tdmi_rcu_read_unlock(reader);
	leave(s);
	/* The walker finds out: it looks again. */
	return r == -EAGAIN || (r == -EFAULT && !none_for_good(&f)) ? 0 : r;
}

int tdmi_space_unshare(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va)
{
	struct tdm_fault f = { .s = s, .reader = reader, .va = TDM_ALIGN_DOWN(va, TDM_PAGE_SIZE), .access = TDM_ACCESS_READ };
	struct tdm_pt *pt;
	bool shared = false;
	int r = 0;

	enter(s);
	tdmi_rcu_read_lock(reader);
	if (tdmi_vma_find(&s->vmas, f.va, &f.vma) && !TDM_V_MAP(f.vma.flags) && !tdmi_pt_lock(&s->pgt, f.va, false, &pt) && pt) {
		f.pte = tdm_pt_get(pt, tdm_pt_index(pt, f.va));
		if (!pt->level && tdm_pte_present(f.pte)) {
			f.old = tdm_pte_pfn(f.pte);
			shared = (f.pte.v & TDM_PTE_SPECIAL) || !own(&f, tdm_pfn_page(&s->w->phys, f.old));
			if (shared && !(f.pte.v & TDM_PTE_SPECIAL))
				tdm_page_get(tdm_pfn_page(&s->w->phys, f.old));
		}
		tdm_pt_unlock(pt);
	}
	if (shared) {
		r = copy(&f, TDM_PTE_ACCESSED | TDM_PTE_SOFT_DIRTY | TDM_PTE_DIRTY);
		tdm_world_count(s->w, TDM_SC_UNSHARED, !r);
	}
	tdmi_rcu_read_unlock(reader);
	leave(s);
	return r == -EAGAIN ? 0 : r;
}
