// SPDX-License-Identifier: MIT
/* world.c - see world.h. */
#include <string.h>
#include "base/check.h"
#include "mm/rmap.h"
#include "mm/swap_impl.h"
#include "mm/swapcache.h"
#include "mm/vmscan.h"
#include "tests/explore/codec.h"
#include "tests/explore/world.h"

#define RAM_PAGES 512u
#define AGAIN 100u

struct xw *xw;

static void set_busy(struct xw_cpu *c, bool busy)
{
	tdmx_poke(&c->busy, &busy, sizeof(busy));
}

/* ---- flushes */

static void flush_one(u32 i, const struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	struct xw_cpu *c = &xw->cpu[i];

	if (i != tdmx_self()) {
		tdmx_point(c->device ? "tells a device" : "sends an interrupt");
		tdmx_wait_while(&c->busy);
	}
	for (u32 k = 0; k < XW_TLB; k++)
		if (c->tlb[k].s == s && c->tlb[k].va >= TDM_ALIGN_DOWN(start, TDM_PAGE_SIZE) && c->tlb[k].va < end && c->tlb[k].shift >= shift)
			tdmx_poke(&c->tlb[k], &(struct xw_tlb_entry){ 0 }, sizeof(c->tlb[k]));
	/* Whoever is flushed and who flushes are ordered by the interrupt. */
	tdmx_order(i);
}

static void flush(void *arg, struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	(void)arg;
	for (u32 i = 0; i <= TDMX_THREADS; i++)
		if (!xw->cpu[i].device)
			flush_one(i, s, start, end, shift);
}

static const struct tdm_tlb_ops ops = { .flush = flush };

/* ---- devices that walk the same table */

static void device_invalidate(struct tdm_notifier *n, u64 start, u64 end)
{
	for (u32 i = 0; i <= TDMX_THREADS; i++)
		if (xw->cpu[i].device)
			flush_one(i, tdm_container_of(n->nots, struct tdm_space, notifiers), start, end, TDM_PAGE_SHIFT);
}

static const struct tdm_notifier_ops device_ops = { .invalidate = device_invalidate };

void xw_device(u32 thread)
{
	struct tdm_notifier *n = tdmx_alloc(sizeof(*n));

	*n = (struct tdm_notifier){ .name = "device", .ops = &device_ops };
	xw->cpu[thread].device = true;
	TDM_BUG_ON(tdmi_notifier_register(&xw->s->notifiers, n));
}

/* ---- instructions */

static struct xw_tlb_entry *cached(struct xw_cpu *c, const struct tdm_space *s, u64 page, bool write)
{
	for (u32 i = 0; i < XW_TLB; i++)
		if (c->tlb[i].s == s && c->tlb[i].va == page && (!write || (c->tlb[i].pte.v & (TDM_PTE_WRITE | TDM_PTE_DIRTY)) == (TDM_PTE_WRITE | TDM_PTE_DIRTY)))
			return &c->tlb[i];
	return NULL;
}

/* TLBs may keep a large leaf in pieces; who tells of the leaf tells of all of them. */
static void keep(struct xw_cpu *c, const struct tdm_space *s, u64 page, const struct tdm_walk *w)
{
	struct xw_tlb_entry e = { .s = s, .va = page, .shift = w->shift, .pte = { w->pte.v + (page & (((u64)1 << w->shift) - 1)) } };
	u32 at = c->next % XW_TLB, next = c->next + 1;

	for (u32 i = 0; i < XW_TLB; i++)
		if (c->tlb[i].s == s && c->tlb[i].va == page) {
			at = i;
			next = c->next;
		}
	tdmx_poke(&c->tlb[at], &e, sizeof(e));
	tdmx_poke(&c->next, &next, sizeof(next));
}

/* One instruction; false: it has faulted. */
static bool instruction(struct tdm_space *s, u64 va, bool write, u64 *v)
{
	u32 self = tdmx_self();
	struct xw_cpu *c = &xw->cpu[self];
	u64 page = TDM_ALIGN_DOWN(va, TDM_PAGE_SIZE);
	struct xw_tlb_entry *e;
	u8 *bytes;

	tdmx_point(write ? "a store instruction" : "a load instruction");
	set_busy(c, true);
	tdmx_order(self);
	e = cached(c, s, page, write);
	if (!e) {
		u32 caps = xw->no_hw_a ? 0 : TDM_WALK_HW_A | TDM_WALK_HW_D;
		struct tdm_walk walk;
		enum tdm_walk_result r;

		tdmi_rcu_read_lock(xw_reader());
		r = tdmi_walk(&s->pgt, va, write, caps, ~(u64)0, &walk);
		tdmi_rcu_read_unlock(xw_reader());
		if (r != TDM_WALK_OK) {
			set_busy(c, false);
			return false;
		}
		keep(c, s, page, &walk);
		e = cached(c, s, page, write);
		TDM_BUG_ON(!e);
		tdmx_point("between the walk and the access");
	}
	if (!(e->pte.v & TDM_PTE_SPECIAL)) {
		struct tdm_page *pg = tdm_pfn_page(&xw->w.phys, tdm_pte_pfn(e->pte));
		u64 word;

		tdmx_peek(&word, &pg->word, sizeof(word));
		TDMX_CHECK(word & TDM_PG_REFS, "a CPU %s a page that is free", write ? "writes to" : "reads");
	}
	bytes = tdm_pfn_bytes(&xw->w.phys, tdm_pte_pfn(e->pte)) + va % TDM_PAGE_SIZE;
	if (write)
		tdmx_poke(bytes, v, sizeof(*v));
	else
		tdmx_peek(v, bytes, sizeof(*v));
	tdmx_note("%s %#llx: %llu", write ? "stores to" : "loads from", (unsigned long long)va, (unsigned long long)*v);
	tdmx_order(self);
	set_busy(c, false);
	return true;
}

static int access_word(struct tdm_space *s, u64 va, bool write, u64 *v)
{
	for (u32 tries = 0; !instruction(s, va, write, v); tries++) {
		int r;

		/* A migration entry: until somebody else has taken it away there is no use in looking again. */
		if (tries > 1)
			plat_relax();
		TDMX_CHECK(tries < AGAIN, "%#llx faults again and again", (unsigned long long)va);
		r = tdmi_space_fault(s, xw_reader(), va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
		if (r)
			return r;
	}
	return 0;
}

bool xw_once(struct tdm_space *s, u64 va, bool write, u64 *v)
{
	return instruction(s, va, write, v);
}

int xw_try_load(struct tdm_space *s, u64 va, u64 *v)
{
	return access_word(s, va, false, v);
}

int xw_try_store(struct tdm_space *s, u64 va, u64 v)
{
	return access_word(s, va, true, &v);
}

u64 xw_load(struct tdm_space *s, u64 va)
{
	u64 v = 0;
	int r = xw_try_load(s, va, &v);

	TDMX_CHECK(!r, "a load faults: %d", r);
	return v;
}

void xw_store(struct tdm_space *s, u64 va, u64 v)
{
	int r = xw_try_store(s, va, v);

	TDMX_CHECK(!r, "a store faults: %d", r);
}

/* ---- setup and check */

void xw_quiet_space(struct tdm_space *s)
{
	tdmx_quiet(&s->alloc, sizeof(s->alloc));
	tdmx_quiet(&s->rss, sizeof(s->rss) + sizeof(s->swapped) + sizeof(s->special));
}

void xw_quiet_lists(void)
{
	struct tdm_frames *f = &xw->w.phys.range[xw->w.ram].frames;

	/* All of its members are such: locks, lists, and the number of the youngest generation. */
	tdmx_quiet(xw->w.vmscan, 128);
	tdmx_quiet(&f->lock, sizeof(f->lock));
	tdmx_quiet(&f->used, sizeof(f->used));
}

void xw_init(u32 pages, bool swap)
{
	struct tdm_mem_range *ram;
	struct tdm_swap *to = NULL;

	xw = tdmx_alloc(sizeof(*xw));
	if (swap) {
		xw->tier = xt_tier(XT_SLOTS, true);
		TDM_BUG_ON(tdmi_swap_create(&xw->tier, 1, &to));
	}
	TDM_BUG_ON(tdmi_world_init(&xw->w, RAM_PAGES, &ops, NULL, to));
	ram = &xw->w.phys.range[xw->w.ram];
	tdmx_bytes(ram->bytes, RAM_PAGES * TDM_PAGE_SIZE);
	tdmx_bytes(xw->cpu, sizeof(xw->cpu));
	tdmx_quiet(xw->w.count, sizeof(xw->w.count));
	tdmx_quiet(&xw->w.alloc, sizeof(xw->w.alloc));
	tdmx_quiet(&xw->w.phys.alloc, sizeof(xw->w.phys.alloc));
	tdmx_name(ram->page, RAM_PAGES * sizeof(struct tdm_page), "page");
	tdmx_name(&xw->w, sizeof(xw->w), "world");
	for (u32 i = 0; i <= TDMX_THREADS; i++)
		xw->reader[i] = tdmi_rcu_register(&xw->w.rcu);
	TDM_BUG_ON(tdmi_space_create(&xw->w, &xw->s));
	tdmx_name(xw->s, sizeof(*xw->s), "space");
	TDM_BUG_ON(tdmi_mmap(xw->s, xw_reader(), xw_va(0), (u64)pages * TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	xw_quiet_space(xw->s);
	/* What of the swap is statistics; and scratch memory is there already. */
	if (swap)
		tdmx_quiet(&to->pages, offsetof(struct tdm_swap, block) - offsetof(struct tdm_swap, pages));
	for (u32 i = 0; swap && i < 3; i++)
		tdmi_vmscan_ws_put(&xw->w, tdmi_swap_ws_create());
}

void xw_fill(struct tdm_space *s, u32 page, u64 v)
{
	xw_store(s, xw_va(page), v);
	memset(&xw->cpu[tdmx_self()], 0, sizeof(struct xw_cpu));
}

void xw_warm(struct tdm_space *s, u32 page, u32 thread)
{
	struct xw_tlb_entry *e = &xw->cpu[thread].tlb[xw->cpu[thread].next++ % XW_TLB];
	u32 i;

	*e = (struct xw_tlb_entry){ .s = s, .va = xw_va(page), .shift = TDM_PAGE_SHIFT };
	(void)tdmi_pt_walk(&s->pgt, e->va, &i, &e->pte);
	TDM_BUG_ON(!tdm_pte_present(e->pte));
}

void xw_idle(struct tdm_space *s, u32 page, u64 bits)
{
	struct tdm_pt *pt;

	TDM_BUG_ON(tdmi_pt_lock(&s->pgt, xw_va(page), false, &pt) || !pt);
	(void)tdm_pt_change(pt, tdm_pt_index(pt, xw_va(page)), 0, bits);
	tdm_pt_unlock(pt);
}

void xw_evict(u32 n)
{
	/* What is new is of the youngest generation, and what is found used goes there. */
	for (u32 i = 0; n && i < 8; i++) {
		tdmi_vmscan_age(&xw->w);
		n -= (u32)tdmi_vmscan(&xw->w, xw_reader(), n, 2 * n);
	}
	TDM_BUG_ON(n);
}

u64 xw_final(struct tdm_space *s, u64 va)
{
	memset(&xw->cpu[0], 0, sizeof(xw->cpu[0]));
	return xw_load(s, va);
}

/* A TLB entry says no more than the table. */
static void check_tlb(const struct xw_tlb_entry *e)
{
	struct tdm_space *s = (struct tdm_space *)(uintptr_t)e->s;
	struct tdm_pte pte;
	u32 i, level = tdmi_pt_walk(&s->pgt, e->va, &i, &pte)->level;

	pte.v += e->va & (((u64)1 << tdm_pt_shift(level)) - 1);
	TDMX_CHECK(tdm_pte_present(pte) && tdm_pte_pfn(pte).v == tdm_pte_pfn(e->pte).v, "a TLB has %#llx, the table %#llx", (unsigned long long)e->pte.v, (unsigned long long)pte.v);
	TDMX_CHECK(!(e->pte.v & ~pte.v & TDM_PTE_WRITE), "a TLB allows writes, the table does not");
	TDMX_CHECK(!(e->pte.v & ~pte.v & TDM_PTE_DIRTY), "a CPU writes without telling, and the table does not say that it has");
}

void xw_check(void)
{
	struct tdm_mem_range *ram = &xw->w.phys.range[xw->w.ram];

	for (u32 i = 0; i <= TDMX_THREADS; i++)
		for (u32 k = 0; k < XW_TLB; k++)
			if (xw->cpu[i].tlb[k].s)
				check_tlb(&xw->cpu[i].tlb[k]);
	for (u32 i = 0; i < ram->n; i++) {
		struct tdm_pfn pfn = { ram->first + i };
		u32 refs = tdm_page_refs(&ram->page[i]), maps;

		if (!refs || pfn.v == xw->w.zero.v)
			continue;
		maps = tdmi_rmap_count(&xw->w, pfn);
		TDMX_CHECK(refs == maps + tdm_page_pins(&ram->page[i]) + (ram->page[i].slot != 0), "page %u: %u references, %u mappings, %u pins", i, refs, maps,
			   tdm_page_pins(&ram->page[i]));
	}
}
