/* SPDX-License-Identifier: MIT */
/* space.c - the world, its spaces, and what a program asks its kernel to do with one; see space.h. */
#include "mm/space.h"
#include <string.h>
#include "base/lockrank.h"
#include "mm/shm.h"
#include "mm/special.h"
#include "mm/swapcache.h"
#include "mm/unmap.h"
#include "mm/vmscan.h"

#define RIGHTS (TDM_V_READ | TDM_V_WRITE)

/* ---- the world */

int tdmi_world_init(struct tdm_world *w, u64 ram, const struct tdm_tlb_ops *tlb, void *tlb_arg, struct tdm_swap *swap)
{
	int r;

	memset(w, 0, sizeof(*w));
	tdmi_phys_init(&w->phys);
	tdmi_rcu_init(&w->rcu);
	tdmi_alloc_init(&w->alloc);
	plat_mutex_init(&w->lock, TDM_RANK_CTX);
	for (u32 i = 0; i < TDM_RMAP_LOCKS; i++)
		plat_mutex_init(&w->rmap_lock[i], TDM_RANK_RMAP);
	w->tlb = tlb;
	w->tlb_arg = tlb_arg;
	w->huge = TDM_PAGE_SIZE | TDM_HUGE_SIZE | (u64)1 << 30;
	w->policy = (struct tdm_tlb_policy){ .batch = true, .batch_secondary = true };
	r = tdmi_phys_add(&w->phys, TDM_MEM_RAM, ram, &w->ram);
	if (!r)
		r = tdmi_page_alloc(&w->phys, w->ram, &w->zero) ? 0 : -ENOMEM;
	if (!r)
		r = tdmi_vmscan_init(w);
	if (!r && swap)
		r = tdmi_swapcache_init(w);
	if (r) {
		tdmi_vmscan_destroy(w);
		tdmi_phys_destroy(&w->phys);
		tdmi_alloc_destroy(&w->alloc);
	} else {
		w->swap = swap;
		memset(tdm_pfn_bytes(&w->phys, w->zero), 0, TDM_PAGE_SIZE);
	}
	return r;
}

void tdmi_world_destroy(struct tdm_world *w)
{
	for (u32 i = 0; i < TDM_SPACES_MAX; i++)
		TDM_BUG_ON(tdm_space_by_id(w, i));
	tdmi_rcu_drain(&w->rcu);
	tdmi_swapcache_destroy(w);
	tdmi_swap_destroy(w->swap);
	tdmi_vmscan_destroy(w);
	tdmi_phys_destroy(&w->phys);
	tdmi_alloc_destroy(&w->alloc);
}

void tdmi_page_put(struct tdm_world *w, struct tdm_pfn pfn)
{
	if (!tdmi_page_drop(tdm_pfn_page(&w->phys, pfn)))
		return;
	tdmi_vmscan_forget(w, pfn);
	tdm_world_work(w, TDM_WORK_PAGE_FREE, 1);
	tdmi_page_free(&w->phys, pfn);
}

bool tdmi_space_get_page(struct tdm_space *s, u64 va, struct tdm_pfn *pfn)
{
	struct tdm_pte pte, now;
	u32 i;

	if (tdmi_pt_walk(&s->pgt, va, &i, &pte)->level || !tdm_pte_present(pte) || (pte.v & TDM_PTE_SPECIAL))
		return false;
	*pfn = tdm_pte_pfn(pte);
	if (!tdm_page_get_unless_zero(tdm_pfn_page(&s->w->phys, *pfn)))
		return false;
	/* The entry still names it, and has a reference of its own: so it is the entry's page that we hold. */
	if (!tdmi_pt_walk(&s->pgt, va, &i, &now)->level && tdm_pte_present(now) && !(now.v & TDM_PTE_SPECIAL) && tdm_pte_pfn(now).v == pfn->v)
		return true;
	tdmi_page_put(s->w, *pfn);
	return false;
}

/* ---- spaces */

static int space_init(struct tdm_space *s)
{
	int r;

	plat_mutex_init(&s->change, TDM_RANK_EVENT);
	tdmi_alloc_init(&s->alloc);
	s->alloc.fail = s->w->alloc.fail;
	tdmi_notifiers_init(&s->notifiers, &s->alloc, &s->w->rcu);
	s->pgt = (struct tdm_pgt){ .alloc = &s->alloc, .rcu = &s->w->rcu };
	r = tdmi_vmas_init(&s->vmas, &s->alloc, &s->w->rcu);
	return r ? r : tdmi_pt_init(&s->pgt);
}

static void space_free(struct tdm_space *s)
{
	struct tdm_world *w = s->w;

	tdmi_vmas_destroy(&s->vmas);
	tdmi_pt_destroy(&s->pgt);
	tdmi_alloc_destroy(&s->alloc);
	tdmi_free(&w->alloc, s, sizeof(*s));
}

int tdmi_space_create(struct tdm_world *w, struct tdm_space **out)
{
	struct tdm_space *s = tdmi_alloc(&w->alloc, sizeof(*s));
	int r = -ENOSPC;

	if (!s)
		return -ENOMEM;
	memset(s, 0, sizeof(*s));
	s->w = w;
	if (space_init(s)) {
		space_free(s);
		return -ENOMEM;
	}
	plat_mutex_lock(&w->lock);
	for (u32 i = 0; i < TDM_SPACES_MAX && r; i++)
		if (!tdm_space_by_id(w, i)) {
			s->id = i;
			tdm_aptr_st_release(&w->space[i], s);
			r = 0;
		}
	plat_mutex_unlock(&w->lock);
	if (r)
		space_free(s);
	else
		*out = s;
	return r;
}

/* ---- mappings */

static bool valid(u64 start, u64 len)
{
	return len && start % TDM_PAGE_SIZE == 0 && len % TDM_PAGE_SIZE == 0 && start >= TDM_VA_START && len <= TDM_VA_END && start <= TDM_VA_END - len;
}

static void map_free(struct tdm_rcu_head *head, void *ctx)
{
	struct tdm_space *s = ctx;

	tdmi_free(&s->alloc, tdm_container_of(head, struct tdm_map, rcu), sizeof(struct tdm_map));
}

/* So many bytes of the mapping that a VMA is part of are mapped no more, or once more. */
static void map_bytes(struct tdm_space *s, uintptr_t flags, s64 by)
{
	u32 i = TDM_V_MAP(flags);
	struct tdm_map *m = i ? tdm_aptr_ld_acquire(&s->map[i]) : NULL;

	if (!m)
		return;
	m->bytes += (u64)by;
	if (m->bytes)
		return;
	tdm_aptr_st_release(&s->map[i], NULL);
	if (m->ops->close)
		m->ops->close(m);
	tdmi_rcu_call(&s->w->rcu, &m->rcu, map_free, s);
}

/* A range whose VMAs have gone: what is left of them is the set as it was. */
struct clearing {
	struct tdm_space *s;
	struct tdm_rcu_reader *reader;
	struct tdm_gather *g;
	u64 start, end;
};

static int clear_piece(const struct tdm_interval *i, void *ctx)
{
	struct clearing *c = ctx;
	u64 start = TDM_MAX(i->start, c->start), end = TDM_MIN(i->end, c->end);

	if ((uintptr_t)i->payload & TDM_V_SPECIAL)
		tdmi_special_zap(c->g, c->reader, start, end, true);
	else
		tdmi_unmap_range(c->g, c->reader, start, end);
	return 0;
}

static int close_piece(const struct tdm_interval *i, void *ctx)
{
	struct clearing *c = ctx;

	map_bytes(c->s, (uintptr_t)i->payload, -(s64)(TDM_MIN(i->end, c->end) - TDM_MAX(i->start, c->start)));
	return 0;
}

/* Entries and mappings of [start, end), which had these VMAs. In a round, which was begun outside of the section: beginning one may wait for who waits for
 * readers. RCU reader. */
static void clear_out(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end, const struct tdm_itree_node *had)
{
	struct tdm_gather g;
	struct clearing c = { s, reader, &g, start, end };

	tdmi_gather_begin(&g, s);
	(void)tdmi_itree_each(had, start, end, clear_piece, &c);
	tdmi_gather_flush(&g);
	tdmi_batch_pending(s);
	(void)tdmi_itree_each(had, start, end, close_piece, &c);
}

/* It takes no memory, so that it cannot fail: the VMAs stay, as nobody looks at them any more. */
static void unmap_all(struct tdm_space *s, struct tdm_rcu_reader *reader)
{
	struct tdm_inv_range round = TDM_INV_RANGE(TDM_VA_START, TDM_VA_END, TDM_INV_UNMAP);

	plat_mutex_lock(&s->change);
	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_rcu_read_lock(reader);
	clear_out(s, reader, TDM_VA_START, TDM_VA_END, tdmi_itree_root(&s->vmas.tree));
	tdmi_rcu_read_unlock(reader);
	tdmi_invalidate_end(&s->notifiers, &round);
	plat_mutex_unlock(&s->change);
	tdmi_shm_reap(s->w, reader);
}

void tdmi_space_destroy(struct tdm_space *s, struct tdm_rcu_reader *reader)
{
	struct tdm_world *w = s->w;

	tdmi_notifiers_release(&s->notifiers);
	unmap_all(s, reader);
	TDM_BUG_ON(tdm_a64_ld_relaxed(&s->rss) || tdm_a64_ld_relaxed(&s->swapped));
	tdm_aptr_st_release(&w->space[s->id], NULL);
	/* Who goes through a page that it had (reclaim, migration) may be in a round of it. */
	tdmi_rcu_synchronize(&w->rcu);
	tdmi_notifiers_destroy(&s->notifiers);
	/* Callbacks that give back what was its (tables, VMAs, mappings) are over; batches and walks by a page that named it were inside of a section. */
	tdmi_rcu_drain(&w->rcu);
	space_free(s);
}

/* Drivers' leaves reach across neither end. */
static int cut(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end)
{
	int r = tdmi_special_cut(s, reader, start);

	return r ? r : tdmi_special_cut(s, reader, end);
}

/* s->change is held. All or nothing. */
static int unmap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end)
{
	struct tdm_inv_range round = TDM_INV_RANGE(start, end, TDM_INV_UNMAP);
	const struct tdm_itree_node *had;
	int r = cut(s, reader, start, end);

	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_rcu_read_lock(reader);
	had = tdmi_itree_root(&s->vmas.tree);
	if (!r)
		r = tdmi_vma_remove(&s->vmas, start, end);
	if (!r)
		clear_out(s, reader, start, end, had);
	tdmi_rcu_read_unlock(reader);
	tdmi_invalidate_end(&s->notifiers, &round);
	return r;
}

int tdmi_munmap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len)
{
	int r;

	if (!valid(start, len))
		return -EINVAL;
	plat_mutex_lock(&s->change);
	r = unmap(s, reader, start, start + len);
	plat_mutex_unlock(&s->change);
	tdmi_shm_reap(s->w, reader);
	return r;
}

int tdmi_mmap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags)
{
	int r;

	if (!valid(start, len) || (flags & ~RIGHTS))
		return -EINVAL;
	plat_mutex_lock(&s->change);
	r = unmap(s, reader, start, start + len);
	if (!r)
		r = tdmi_vma_insert(&s->vmas, start, start + len, flags);
	plat_mutex_unlock(&s->change);
	tdmi_shm_reap(s->w, reader);
	return r;
}

/* An index for a mapping that is nobody's yet. */
static int map_place(struct tdm_space *s, struct tdm_map *m)
{
	for (u32 i = 1; i < TDM_MAPS_MAX; i++)
		if (!tdm_aptr_ld_acquire(&s->map[i])) {
			m->index = i;
			tdm_aptr_st_release(&s->map[i], m);
			return 0;
		}
	return -ENOSPC;
}

int tdmi_mmap_driver(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags, const struct tdm_map_ops *ops, void *arg, u64 off,
		     struct tdm_map **out)
{
	struct tdm_map *m;
	int r;

	if (!valid(start, len) || (flags & ~(RIGHTS | TDM_V_SHARED | TDM_V_SPECIAL)) || off % TDM_PAGE_SIZE)
		return -EINVAL;
	m = tdmi_alloc(&s->alloc, sizeof(*m));
	if (!m)
		return -ENOMEM;
	*m = (struct tdm_map){ .ops = ops, .arg = arg, .s = s, .start = start, .off = off, .bytes = len };
	plat_mutex_lock(&s->change);
	r = unmap(s, reader, start, start + len);
	if (!r)
		r = map_place(s, m);
	if (!r) {
		r = tdmi_vma_insert(&s->vmas, start, start + len, flags | (uintptr_t)m->index << TDM_V_MAP_SHIFT);
		if (r)
			tdm_aptr_st_release(&s->map[m->index], NULL);
	}
	plat_mutex_unlock(&s->change);
	tdmi_shm_reap(s->w, reader);
	if (r)
		tdmi_free(&s->alloc, m, sizeof(*m));
	else if (out)
		*out = m;
	return r;
}

int tdmi_map_inherit(struct tdm_space *child, struct tdm_map *of, u64 bytes)
{
	struct tdm_map *m = tdm_aptr_ld_acquire(&child->map[of->index]);

	if (!m) {
		m = tdmi_alloc(&child->alloc, sizeof(*m));
		if (!m)
			return -ENOMEM;
		*m = (struct tdm_map){ .ops = of->ops, .arg = of->arg, .s = child, .start = of->start, .off = of->off, .index = of->index };
		if (m->ops->open)
			m->ops->open(of, m);
		tdm_aptr_st_release(&child->map[m->index], m);
	}
	/* Piece by piece: a fork that fails in between takes back no more than it has given. */
	m->bytes += bytes;
	return 0;
}

/* ---- rights, and advice */

/* Rights are taken away: entries lose their W, or go, if it may not even be read. */
static void take_rights(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end, uintptr_t flags, bool special)
{
	struct tdm_inv_range round = TDM_INV_RANGE(start, end, TDM_INV_PROTECTION_VMA);
	struct tdm_gather g;

	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_gather_begin(&g, s);
	if (special)
		tdmi_special_protect(&g, reader, start, end, flags);
	else
		tdmi_protect_range(&g, reader, start, end, flags);
	tdmi_gather_flush(&g);
	tdmi_batch_pending(s);
	tdmi_invalidate_end(&s->notifiers, &round);
}

int tdmi_mprotect(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags)
{
	u64 end = start + len;
	int r;

	if (!valid(start, len) || (flags & ~RIGHTS))
		return -EINVAL;
	plat_mutex_lock(&s->change);
	r = cut(s, reader, start, end);
	for (u64 va = start; !r && va < end;) {
		struct tdm_vma v;
		bool found;
		u64 stop;

		tdmi_rcu_read_lock(reader);
		found = tdmi_vma_find(&s->vmas, va, &v);
		tdmi_rcu_read_unlock(reader);
		if (!found) {
			r = -ENOMEM;
			break;
		}
		stop = TDM_MIN(v.end, end);
		r = tdmi_vma_insert(&s->vmas, va, stop, (v.flags & ~RIGHTS) | flags);
		if (!r && (v.flags & RIGHTS & ~flags))
			take_rights(s, reader, va, stop, flags, v.flags & TDM_V_SPECIAL);
		va = stop;
	}
	plat_mutex_unlock(&s->change);
	return r;
}

typedef void range_fn(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end);

/* Do something to the entries of a range of anonymous memory. */
static int advise(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, enum tdm_inv_event why, range_fn *fn)
{
	struct tdm_inv_range round = TDM_INV_RANGE(start, start + len, why);
	struct tdm_gather g;

	if (!valid(start, len))
		return -EINVAL;
	plat_mutex_lock(&s->change);
	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_gather_begin(&g, s);
	for (u64 va = start; va < start + len;) {
		struct tdm_vma v;
		bool found;

		tdmi_rcu_read_lock(reader);
		found = tdmi_vma_next(&s->vmas, va, &v) && v.start < start + len;
		tdmi_rcu_read_unlock(reader);
		if (!found)
			break;
		/* MADV_FREE is for private memory. */
		if (!(v.flags & TDM_V_SPECIAL) && !(fn == tdmi_free_lazily && (v.flags & TDM_V_SHARED)))
			fn(&g, reader, TDM_MAX(va, v.start), TDM_MIN(v.end, start + len));
		va = v.end;
	}
	tdmi_gather_flush(&g);
	tdmi_batch_pending(s);
	tdmi_invalidate_end(&s->notifiers, &round);
	plat_mutex_unlock(&s->change);
	return 0;
}

int tdmi_madvise_dontneed(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len)
{
	return advise(s, reader, start, len, TDM_INV_CLEAR, tdmi_unmap_range);
}

int tdmi_madvise_free(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len)
{
	return advise(s, reader, start, len, TDM_INV_CLEAR, tdmi_free_lazily);
}

static void clear_soft_dirty(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end)
{
	tdmi_clear_range(g, reader, start, end, TDM_PTE_SOFT_DIRTY | TDM_PTE_WRITE);
}

int tdmi_clear_soft_dirty(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len)
{
	return advise(s, reader, start, len, TDM_INV_SOFT_DIRTY, clear_soft_dirty);
}

/* ---- mremap */

/* A part of a driver's mapping goes elsewhere: it is a mapping of its own there, since offsets follow from the address. Its leaves come by faults. */
static int move_special(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len, uintptr_t flags)
{
	struct tdm_map *of = tdm_aptr_ld_acquire(&s->map[TDM_V_MAP(flags)]), *m = tdmi_alloc(&s->alloc, sizeof(*m));
	struct tdm_inv_range round = TDM_INV_RANGE(from, from + len, TDM_INV_UNMAP);
	const struct tdm_itree_node *had;
	int r = m ? cut(s, reader, from, from + len) : -ENOMEM;

	if (m)
		*m = (struct tdm_map){ .ops = of->ops, .arg = of->arg, .s = s, .start = to, .off = of->off + (from - of->start), .bytes = len };
	if (!r)
		r = map_place(s, m);
	if (r) {
		tdmi_free(&s->alloc, m, sizeof(*m));
		return r;
	}
	if (m->ops->open)
		m->ops->open(of, m);
	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_rcu_read_lock(reader);
	had = tdmi_itree_root(&s->vmas.tree);
	r = tdmi_vma_move(&s->vmas, from, to, len, (flags & ~((uintptr_t)0xff << TDM_V_MAP_SHIFT)) | (uintptr_t)m->index << TDM_V_MAP_SHIFT);
	if (r)
		map_bytes(s, (uintptr_t)m->index << TDM_V_MAP_SHIFT, -(s64)len);
	else
		clear_out(s, reader, from, from + len, had);
	tdmi_rcu_read_unlock(reader);
	tdmi_invalidate_end(&s->notifiers, &round);
	return r;
}

static int move_anonymous(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len, uintptr_t flags)
{
	struct tdm_inv_range round = TDM_INV_RANGE(from, from + len, TDM_INV_UNMAP);
	struct tdm_gather g;
	int r = tdmi_move_prepare(s, reader, from, to, len);

	/* Who touches the new place before the old entries have come finds zeros there, which give way. */
	if (!r)
		r = tdmi_vma_move(&s->vmas, from, to, len, flags);
	if (r)
		return r;
	TDM_BUG_ON(tdmi_invalidate_start(&s->notifiers, &round));
	tdmi_gather_begin(&g, s);
	tdmi_move_range(&g, reader, from, to, len);
	tdmi_gather_flush(&g);
	tdmi_batch_pending(s);
	tdmi_invalidate_end(&s->notifiers, &round);
	return 0;
}

int tdmi_mremap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len)
{
	struct tdm_vma v;
	bool found;
	int r;

	if (!valid(from, len) || !valid(to, len) || (from < to + len && to < from + len))
		return -EINVAL;
	plat_mutex_lock(&s->change);
	tdmi_rcu_read_lock(reader);
	found = tdmi_vma_find(&s->vmas, from, &v) && v.end >= from + len;
	tdmi_rcu_read_unlock(reader);
	r = found ? unmap(s, reader, to, to + len) : -EFAULT;
	if (!r)
		r = TDM_V_MAP(v.flags) ? move_special(s, reader, from, to, len, v.flags) : move_anonymous(s, reader, from, to, len, v.flags);
	plat_mutex_unlock(&s->change);
	tdmi_shm_reap(s->w, reader);
	return r;
}
