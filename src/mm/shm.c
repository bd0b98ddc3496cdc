/* SPDX-License-Identifier: MIT */
/*
 * shm.c - see shm.h.
 *
 * A fault finds the page by the object's entry, and maps it while it holds a reference to it. Meanwhile it may be taken out of the object's table: to be
 * evicted, or moved. Both look at the references before they let go of the page for good, and put it back; so what is mapped is the object's page, at the
 * latest when the object is asked again.
 */
#include "mm/shm.h"
#include <string.h>
#include "mm/rmap.h"

#define BASE ((u64)1 << 32) /* offset 0 in the object's space */

struct tdm_shm {
	struct tdm_space *object; /* constant */
	u64 pages;                /* constant */
	tdm_a32 users;            /* mappings, and references */
	struct tdm_shm *next;     /* in w->dead_shm; w->lock */
};

int tdmi_shm_create(struct tdm_world *w, struct tdm_rcu_reader *reader, u64 n, struct tdm_shm **out)
{
	struct tdm_shm *shm = tdmi_alloc(&w->alloc, sizeof(*shm));
	int r = shm ? 0 : -ENOMEM;

	if (r)
		return r;
	*shm = (struct tdm_shm){ .pages = n };
	tdm_a32_st_relaxed(&shm->users, 1);
	r = tdmi_space_create(w, &shm->object);
	if (!r) {
		shm->object->is_object = true;
		r = tdmi_mmap(shm->object, reader, BASE, n << TDM_PAGE_SHIFT, TDM_V_READ | TDM_V_WRITE);
		if (r)
			tdmi_space_destroy(shm->object, reader);
	}
	if (r)
		tdmi_free(&w->alloc, shm, sizeof(*shm));
	else
		*out = shm;
	return r;
}

/* The caller may hold a space's change lock, and so cannot destroy another space. */
static void put(struct tdm_world *w, struct tdm_shm *shm)
{
	if (tdm_a32_sub_acqrel(&shm->users, 1) != 1)
		return;
	plat_mutex_lock(&w->lock);
	shm->next = w->dead_shm;
	w->dead_shm = shm;
	tdm_a32_st_relaxed(&w->any_dead_shm, 1);
	plat_mutex_unlock(&w->lock);
}

void tdmi_shm_reap(struct tdm_world *w, struct tdm_rcu_reader *reader)
{
	struct tdm_shm *shm = NULL;

	if (!tdm_a32_ld_relaxed(&w->any_dead_shm))
		return;
	do {
		plat_mutex_lock(&w->lock);
		shm = w->dead_shm;
		w->dead_shm = shm ? shm->next : NULL;
		tdm_a32_st_relaxed(&w->any_dead_shm, w->dead_shm != NULL);
		plat_mutex_unlock(&w->lock);
		if (shm) {
			tdmi_space_destroy(shm->object, reader);
			tdmi_free(&w->alloc, shm, sizeof(*shm));
		}
	} while (shm);
}

void tdmi_shm_put(struct tdm_shm *shm, struct tdm_rcu_reader *reader)
{
	struct tdm_world *w = shm->object->w;

	put(w, shm);
	tdmi_shm_reap(w, reader);
}

/* ---- mappings */

static void shm_open(struct tdm_map *m, struct tdm_map *child)
{
	(void)child;
	tdm_a32_add_acqrel(&((struct tdm_shm *)m->arg)->users, 1);
}

static void shm_close(struct tdm_map *m)
{
	put(m->s->w, m->arg);
}

static const struct tdm_map_ops shm_ops = { .name = "shm", .open = shm_open, .close = shm_close };

int tdmi_shm_mmap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags, struct tdm_shm *shm, u64 off)
{
	int r;

	if (off > shm->pages << TDM_PAGE_SHIFT || len > (shm->pages << TDM_PAGE_SHIFT) - off)
		return -EINVAL;
	tdm_a32_add_acqrel(&shm->users, 1);
	r = tdmi_mmap_driver(s, reader, start, len, flags | TDM_V_SHARED, &shm_ops, shm, off, NULL);
	if (r) {
		put(s->w, shm);
		tdmi_shm_reap(s->w, reader);
	}
	return r;
}

/* ---- faults */

/* The object's page, with a reference; brought if it is not there. An object has no page of zeros, and shares none: its faults replace nothing, and so begin
 * no round, for which one would have to leave the section. */
static int get_page(struct tdm_space *object, struct tdm_rcu_reader *reader, u64 va, struct tdm_pfn *pfn)
{
	for (u32 tries = 0; tries < 16; tries++) {
		int r;

		if (tdmi_space_get_page(object, va, pfn))
			return 0;
		r = tdmi_space_fault(object, reader, va, TDM_ACCESS_WRITE);
		if (r)
			return r;
	}
	return -EAGAIN;
}

int tdmi_shm_fault(struct tdm_fault *f)
{
	struct tdm_map *m = tdm_aptr_ld_acquire(&f->s->map[TDM_V_MAP(f->vma.flags)]);
	u64 rights = f->vma.flags & TDM_V_WRITE ? TDM_PTE_WRITE | TDM_PTE_SOFT_DIRTY : 0;
	struct tdm_world *w = f->s->w;
	struct tdm_pt *pt;
	struct tdm_pfn pfn, named;
	int r = -EAGAIN;

	if (!m)
		return r;
	r = get_page(((struct tdm_shm *)m->arg)->object, f->reader, BASE + m->off + (f->va - m->start), &pfn);
	if (r)
		return r;
	r = -EAGAIN;
	if (!tdmi_pt_lock(&f->s->pgt, f->va, true, &pt)) {
		u32 i = tdm_pt_index(pt, f->va);
		struct tdm_pte pte = tdm_pt_get(pt, i);
		struct tdm_vma v;

		rights |= TDM_PTE_ACCESSED | (f->access == TDM_ACCESS_WRITE ? TDM_PTE_DIRTY : 0);
		/* The same mapping, not another one that has come to its place: ours is not freed before we leave the section. */
		if (!tdmi_vma_find(&f->s->vmas, f->va, &v) || v.flags != f->vma.flags || tdm_aptr_ld_acquire(&f->s->map[TDM_V_MAP(v.flags)]) != m) {
			/* Not what it was: look again. */
		} else if (tdm_pte_none(pte)) {
			r = tdmi_rmap_add(w, pfn, f->s, f->va);
			if (!r) {
				tdm_pt_set(pt, i, tdm_pte_mk(pfn, rights));
				tdm_a64_add_relaxed(&f->s->rss, 1);
				tdm_page_get(tdm_pfn_page(&w->phys, pfn));
			}
		} else if (tdm_pte_names(pte, &named) && named.v == pfn.v && !tdm_pte_is(pte, TDM_PTE_T_MIGRATION)) {
			if (tdm_pte_present(pte))
				(void)tdm_pt_change(pt, i, rights, 0);
			else
				tdm_pt_set(pt, i, tdm_pte_mk(pfn, rights));
			tdmi_tlb_flush_secondary(f->s, f->va, f->va + TDM_PAGE_SIZE);
			r = 0;
		}
		tdm_pt_unlock(pt);
	}
	tdmi_page_put(w, pfn);
	return r;
}
