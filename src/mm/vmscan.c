/* SPDX-License-Identifier: MIT */
/*
 * vmscan.c - see vmscan.h.
 *
 * A page goes in this order: off its list; into the swap cache, so that whoever touches it from now on gets it back; its entries replaced by swap entries,
 * each under its table's lock; the flush; its bytes into a tier, if nobody has come to it; free. Pages go in rounds of BATCH, so that one flush is for all of them.
 *
 * Lazily freed pages (MADV_FREE) need no slot. Their entries are taken out, and flushed; only then is it known that nobody has written meanwhile. Who has is
 * given the page back.
 */
#include "mm/vmscan.h"
#include <string.h>
#include "base/lockrank.h"
#include "mm/rmap.h"
#include "mm/swapcache.h"

#define BATCH 32u
#define WS_KEPT 4u
#define DIRECT 64u
#define NO_SLOT (~(u64)0)
#define LIST_NONE TDM_FRAME_NIL
#define LIST_OFF 0
#define LIST_ON 1

struct tdm_vmscan {
	struct plat_mutex lock;  /* rank TDM_RANK_LRU */
	struct list {
		u32 first, last;     /* the oldest, the youngest; page numbers within the range of ram */
		u64 n;
	} gen[TDM_SCAN_GENS];
	tdm_a64 max;             /* the youngest generation; the lists are those of max - 3 to max. Written under the lock */
	enum tdm_scan_young young;
	struct tdm_vmscan_stats stats;
	struct plat_mutex ws_lock;
	struct tdm_swap_ws *ws[WS_KEPT];
};

/* ---- lists */

int tdmi_vmscan_init(struct tdm_world *w)
{
	struct tdm_vmscan *v = tdmi_alloc(&w->alloc, sizeof(*v));

	if (!v)
		return -ENOMEM;
	memset(v, 0, sizeof(*v));
	plat_mutex_init(&v->lock, TDM_RANK_LRU);
	plat_mutex_init(&v->ws_lock, TDM_RANK_CTX);
	for (u32 i = 0; i < TDM_SCAN_GENS; i++)
		v->gen[i] = (struct list){ LIST_NONE, LIST_NONE, 0 };
	tdm_a64_st_relaxed(&v->max, TDM_SCAN_GENS - 1);
	w->vmscan = v;
	return 0;
}

void tdmi_vmscan_destroy(struct tdm_world *w)
{
	if (!w->vmscan)
		return;
	for (u32 i = 0; i < WS_KEPT; i++)
		tdmi_swap_ws_destroy(w->vmscan->ws[i]);
	tdmi_free(&w->alloc, w->vmscan, sizeof(*w->vmscan));
	w->vmscan = NULL;
}

void tdmi_vmscan_policy(struct tdm_world *w, enum tdm_scan_young young)
{
	w->vmscan->young = young;
}

static u64 youngest(const struct tdm_world *w)
{
	return tdm_a64_ld_relaxed(&w->vmscan->max);
}

static struct tdm_page *page_at(struct tdm_world *w, u32 nr)
{
	return &w->phys.range[w->ram].page[nr];
}

static u32 nr_of(const struct tdm_world *w, struct tdm_pfn pfn)
{
	return (u32)(pfn.v - w->phys.range[w->ram].first);
}

static void list_add(struct tdm_world *w, u32 nr, u64 gen)
{
	struct list *l = &w->vmscan->gen[gen % TDM_SCAN_GENS];
	struct tdm_page *pg = page_at(w, nr);

	pg->gen = (u8)(gen % TDM_SCAN_GENS);
	pg->on_list = LIST_ON;
	pg->prev = l->last;
	pg->next = LIST_NONE;
	if (l->last == LIST_NONE)
		l->first = nr;
	else
		page_at(w, l->last)->next = nr;
	l->last = nr;
	l->n++;
	w->vmscan->stats.listed++;
}

static void list_del(struct tdm_world *w, u32 nr)
{
	struct tdm_page *pg = page_at(w, nr);
	struct list *l = &w->vmscan->gen[pg->gen];

	if (pg->prev == LIST_NONE)
		l->first = pg->next;
	else
		page_at(w, pg->prev)->next = pg->next;
	if (pg->next == LIST_NONE)
		l->last = pg->prev;
	else
		page_at(w, pg->next)->prev = pg->prev;
	pg->on_list = LIST_OFF;
	l->n--;
	w->vmscan->stats.listed--;
}

static bool listable(const struct tdm_world *w, struct tdm_pfn pfn)
{
	const struct tdm_mem_range *r = &w->phys.range[w->ram];

	return pfn.v - r->first < r->n;
}

static void add(struct tdm_world *w, struct tdm_pfn pfn, bool young)
{
	struct tdm_vmscan *v = w->vmscan;

	if (!listable(w, pfn))
		return;
	plat_mutex_lock(&v->lock);
	/* It may have lost its last mapping, and been freed, since; or be on the list by somebody else's doing. */
	if (tdm_page_refs(page_at(w, nr_of(w, pfn))) && !page_at(w, nr_of(w, pfn))->on_list)
		list_add(w, nr_of(w, pfn), young ? youngest(w) : youngest(w) - 1);
	plat_mutex_unlock(&v->lock);
}

void tdmi_vmscan_add(struct tdm_world *w, struct tdm_pfn pfn)
{
	add(w, pfn, true);
}

void tdmi_vmscan_refault(struct tdm_world *w, struct tdm_pfn pfn, u32 clock)
{
	u32 age = (u32)(youngest(w) - clock) & 255;

	tdm_world_count(w, TDM_SC_REFAULTS, 1);
	/* It was wanted within a generation of being thrown out. */
	if (age <= 1)
		tdm_world_count(w, TDM_SC_WRONG, 1);
	add(w, pfn, true);
}

void tdmi_vmscan_forget(struct tdm_world *w, struct tdm_pfn pfn)
{
	if (!listable(w, pfn))
		return;
	plat_mutex_lock(&w->vmscan->lock);
	if (page_at(w, nr_of(w, pfn))->on_list)
		list_del(w, nr_of(w, pfn));
	plat_mutex_unlock(&w->vmscan->lock);
}

/* The lock is held. */
static bool isolate_locked(struct tdm_world *w, u32 nr)
{
	struct tdm_page *pg = page_at(w, nr);

	/* One whose last reference has gone is about to be taken off by whoever frees it. */
	if (!pg->on_list || !tdm_page_get_unless_zero(pg))
		return false;
	list_del(w, nr);
	tdm_page_set(pg, TDM_PG_ISOLATED);
	return true;
}

bool tdmi_vmscan_isolate(struct tdm_world *w, struct tdm_pfn pfn)
{
	bool got;

	if (!listable(w, pfn))
		return false;
	plat_mutex_lock(&w->vmscan->lock);
	got = isolate_locked(w, nr_of(w, pfn));
	plat_mutex_unlock(&w->vmscan->lock);
	return got;
}

void tdmi_vmscan_putback(struct tdm_world *w, struct tdm_pfn pfn, bool young)
{
	struct tdm_page *pg = tdm_pfn_page(&w->phys, pfn);

	tdm_page_clear(pg, TDM_PG_ISOLATED);
	add(w, pfn, young);
	tdmi_page_put(w, pfn);
}

/* ---- scratch memory */

struct tdm_swap_ws *tdmi_vmscan_ws_get(struct tdm_world *w)
{
	struct tdm_vmscan *v = w->vmscan;
	struct tdm_swap_ws *ws = NULL;

	plat_mutex_lock(&v->ws_lock);
	for (u32 i = 0; i < WS_KEPT && !ws; i++) {
		ws = v->ws[i];
		v->ws[i] = NULL;
	}
	plat_mutex_unlock(&v->ws_lock);
	return ws ? ws : tdmi_swap_ws_create();
}

void tdmi_vmscan_ws_put(struct tdm_world *w, struct tdm_swap_ws *ws)
{
	struct tdm_vmscan *v = w->vmscan;

	plat_mutex_lock(&v->ws_lock);
	for (u32 i = 0; i < WS_KEPT && ws; i++)
		if (!v->ws[i]) {
			v->ws[i] = ws;
			ws = NULL;
		}
	plat_mutex_unlock(&v->ws_lock);
	tdmi_swap_ws_destroy(ws);
}

/* ---- is it used? */

struct looking {
	struct tdm_world *w;
	bool used;
};

static int look(void *arg, struct tdm_space *s, struct tdm_pt *pt, u32 i, u64 va)
{
	enum tdm_scan_young how = s->w->vmscan->young;
	struct looking *l = arg;
	bool set;

	if (!pt || !tdm_pte_present(tdm_pt_get(pt, i)))
		return 0;
	tdm_world_work(s->w, TDM_WORK_PTE, 1);
	set = tdm_pt_change(pt, i, 0, TDM_PTE_ACCESSED).v & TDM_PTE_ACCESSED;
	if (set && how == TDM_YOUNG_FLUSH)
		tdmi_tlb_flush(s, va, va + TDM_PAGE_SIZE, TDM_PAGE_SHIFT);
	else if (set && how == TDM_YOUNG_FLUSH_SECONDARY)
		tdmi_tlb_flush_secondary(s, va, va + TDM_PAGE_SIZE);
	/* Those who have access bits of their own. */
	set |= how == TDM_YOUNG_CLEAR ? tdmi_notifiers_clear_young(&s->notifiers, va, va + TDM_PAGE_SIZE) :
					tdmi_notifiers_clear_flush_young(&s->notifiers, va, va + TDM_PAGE_SIZE);
	l->used |= set;
	return 0;
}

/* RCU reader. */
static bool used(struct tdm_world *w, struct tdm_pfn pfn)
{
	struct looking l = { .w = w };

	return tdmi_rmap_walk(w, pfn, look, &l) || l.used;
}

/* ---- unmapping */

struct unmapping {
	struct tdm_world *w;
	struct tdm_pfn pfn;
	struct tdm_page *pg;
	u64 slot;   /* NO_SLOT: the page need not be kept */
	struct tdm_tlb_batch *b;
};

static int unmap_one(void *arg, struct tdm_space *s, struct tdm_pt *pt, u32 i, u64 va)
{
	struct unmapping *u = arg;
	struct tdm_pte pte = pt ? tdm_pt_get(pt, i) : (struct tdm_pte){ 0 };
	u32 clock = (u32)youngest(s->w) & 255;
	bool blocked = tdm_pte_blocked(pte), dirty, named;
	struct tdm_vma v;

	if (!pt)
		return 0;
	if (tdm_pte_is(pte, TDM_PTE_T_MIGRATION))
		return -EBUSY;
	if (tdm_page_pins(u->pg))
		return -EBUSY;
	if (!blocked)
		pte = tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	/* Nobody writes to the page from here on but by a TLB that has D, which the entry had then. A pin makes it stay. */
	dirty = (tdm_page_word(u->pg) & TDM_PG_DIRTY) || ((blocked ? tdm_pte_unblocked(pte, u->pfn) : pte).v & TDM_PTE_DIRTY);
	if ((u->slot == NO_SLOT && dirty) || !tdm_page_share(u->pg)) {
		tdm_pt_set(pt, i, pte);
		return -EBUSY;
	}
	if (dirty)
		tdm_page_set(u->pg, TDM_PG_DIRTY);
	/* Who shares it asks the object. */
	named = u->slot != NO_SLOT && !(tdmi_vma_find(&s->vmas, va, &v) && (v.flags & TDM_V_SHARED));
	if (named)
		tdmi_slot_dup(s->w, u->slot);
	tdm_pt_set(pt, i, named ? tdm_pte_mk_swap(u->slot, 0, clock) : (struct tdm_pte){ 0 });
	if (!blocked)
		(void)tdmi_batch_add(u->b, s, va, pte.v & TDM_PTE_DIRTY);
	else
		tdmi_tlb_settle(s, va); /* mprotect() may be about to flush it: not after the page has been freed */
	tdmi_rmap_del(s->w, u->pfn, s, va);
	tdm_a64_sub_relaxed(&s->rss, 1);
	if (named)
		tdm_a64_add_relaxed(&s->swapped, 1);
	tdm_world_work(s->w, TDM_WORK_PTE, 1);
	tdmi_page_put(s->w, u->pfn);
	return 0;
}

int tdmi_try_to_unmap(struct tdm_world *w, struct tdm_pfn pfn, u64 slot, struct tdm_tlb_batch *b)
{
	struct unmapping u = { w, pfn, tdm_pfn_page(&w->phys, pfn), slot, b };
	int r = tdmi_rmap_walk_round(w, pfn, TDM_INV_CLEAR, unmap_one, &u);

	return r ? r : tdmi_rmap_count(w, pfn) ? -EBUSY : 0;
}

/* ---- one round */

/* A page that has been unmapped, and what becomes of it once the batch has been flushed. */
struct going {
	struct tdm_pfn pfn;
	u64 slot;
};

/* Unmapped, flushed: its bytes are what they are. true: it is free. */
static bool finish(struct tdm_world *w, const struct going *g, struct tdm_swap_ws *ws)
{
	bool lazy = g->slot == NO_SLOT;

	if (!lazy && tdmi_slot_write(w, g->slot, ws, g->pfn, 1)) {
		tdmi_vmscan_putback(w, g->pfn, false);
		return false;
	}
	tdm_page_clear(tdm_pfn_page(&w->phys, g->pfn), TDM_PG_ISOLATED);
	tdmi_page_put(w, g->pfn);
	tdm_world_count(w, lazy ? TDM_SC_LAZY_FREED : TDM_SC_SWAPPED_OUT, 1);
	return true;
}

/* The oldest ones, off their lists. */
static u32 take_oldest(struct tdm_world *w, struct tdm_pfn *page, u32 want)
{
	struct tdm_vmscan *v = w->vmscan;
	u32 n = 0;

	plat_mutex_lock(&v->lock);
	for (u32 g = 1; g < TDM_SCAN_GENS && n < want; g++)
		for (u32 nr = v->gen[(youngest(w) + g) % TDM_SCAN_GENS].first, next; nr != LIST_NONE && n < want; nr = next) {
			next = page_at(w, nr)->next;
			if (isolate_locked(w, nr))
				page[n++] = (struct tdm_pfn){ w->phys.range[w->ram].first + nr };
		}
	v->stats.scanned += n;
	plat_mutex_unlock(&v->lock);
	return n;
}

/* An isolated page: unmap it, if it is unused, and can go anywhere. false: it is back on its list. */
static bool let_one_go(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_tlb_batch *b, struct going *g)
{
	struct tdm_page *pg = tdm_pfn_page(&w->phys, pfn);
	bool pinned = tdm_page_pins(pg), young = pinned || used(w, pfn);

	/* To be passed over takes time, too. */
	tdm_world_work(w, TDM_WORK_PTE, pinned);
	*g = (struct going){ pfn, NO_SLOT };
	if (!young && (tdm_page_word(pg) & TDM_PG_LAZYFREE)) {
		if (!tdmi_try_to_unmap(w, pfn, NO_SLOT, b))
			return true;
		tdm_page_clear(pg, TDM_PG_LAZYFREE);
		tdm_world_count(w, TDM_SC_LAZY_SAVED, 1);
		young = true;
	}
	if (!young && w->swapcache && !tdmi_slot_for(w, pfn, &g->slot)) {
		if (!tdmi_try_to_unmap(w, pfn, g->slot, b))
			return true;
		tdmi_slot_put(w, g->slot);
		young = true;
	}
	tdm_world_count(w, TDM_SC_ROTATED, young);
	tdmi_vmscan_putback(w, pfn, true);
	return false;
}

/* Up to BATCH pages. How many were freed; *looked: at. */
static u64 one_round(struct tdm_world *w, struct tdm_rcu_reader *reader, struct tdm_swap_ws *ws, u64 want, u64 *looked)
{
	struct tdm_tlb_batch b = { .w = w };
	struct going going[BATCH];
	struct tdm_pfn page[BATCH];
	u32 n = take_oldest(w, page, (u32)TDM_MIN(want, BATCH)), ngoing = 0;
	u64 freed = 0;

	*looked += n;
	tdmi_rcu_read_lock(reader);
	for (u32 k = 0; k < n; k++)
		ngoing += let_one_go(w, page[k], &b, &going[ngoing]);
	/* Before a byte of them is written out: somebody may still write through a TLB. */
	if (b.dirty)
		tdm_world_count(w, TDM_SC_FORCED, 1);
	tdmi_batch_flush(&b);
	tdmi_rcu_read_unlock(reader);
	for (u32 k = 0; k < ngoing; k++)
		freed += finish(w, &going[k], ws);
	return freed;
}

/* The lock is held: the youngest generation is closed, and the oldest joins the one after it. */
static void age_locked(struct tdm_world *w)
{
	struct tdm_vmscan *v = w->vmscan;
	struct list *oldest = &v->gen[(youngest(w) + 1) % TDM_SCAN_GENS], *next = &v->gen[(youngest(w) + 2) % TDM_SCAN_GENS];

	for (u32 nr = oldest->first; nr != LIST_NONE; nr = page_at(w, nr)->next)
		page_at(w, nr)->gen = (u8)((youngest(w) + 2) % TDM_SCAN_GENS);
	if (oldest->n && next->n) {
		page_at(w, oldest->last)->next = next->first;
		page_at(w, next->first)->prev = oldest->last;
	}
	if (oldest->n)
		*next = (struct list){ oldest->first, next->n ? next->last : oldest->last, oldest->n + next->n };
	*oldest = (struct list){ LIST_NONE, LIST_NONE, 0 };
	tdm_a64_add_relaxed(&v->max, 1);
}

void tdmi_vmscan_age(struct tdm_world *w)
{
	plat_mutex_lock(&w->vmscan->lock);
	age_locked(w);
	plat_mutex_unlock(&w->vmscan->lock);
}

/* Fewer than a quarter are not of the youngest generation: there must be something to choose from. */
static void age_if_due(struct tdm_world *w)
{
	struct tdm_vmscan *v = w->vmscan;

	plat_mutex_lock(&v->lock);
	if (v->stats.listed - v->gen[youngest(w) % TDM_SCAN_GENS].n < v->stats.listed / 4 + 1)
		age_locked(w);
	plat_mutex_unlock(&v->lock);
}

u64 tdmi_vmscan(struct tdm_world *w, struct tdm_rcu_reader *reader, u64 n, u64 most)
{
	struct tdm_swap_ws *ws = tdmi_vmscan_ws_get(w);
	u64 freed = 0, looked = 0;

	while (ws && freed < n && looked < most) {
		u64 before = looked;

		age_if_due(w);
		freed += one_round(w, reader, ws, TDM_MIN(n - freed, most - looked), &looked);
		if (looked == before)
			break;
	}
	tdmi_vmscan_ws_put(w, ws);
	return freed;
}

bool tdmi_vmscan_direct(struct tdm_world *w, struct tdm_rcu_reader *reader)
{
	return tdmi_vmscan(w, reader, BATCH, DIRECT * BATCH) != 0;
}

void tdmi_vmscan_stats(struct tdm_world *w, struct tdm_vmscan_stats *out)
{
	plat_mutex_lock(&w->vmscan->lock);
	*out = w->vmscan->stats;
	plat_mutex_unlock(&w->vmscan->lock);
}
