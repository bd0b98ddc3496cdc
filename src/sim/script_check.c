/* SPDX-License-Identifier: MIT */
/*
 * script_check.c - what must hold whenever nothing is under way: the invariants of docs/design.md, section 4, as far as one thread can break them.
 *
 *   every entry     names a page that knows of it, or memory without pages, or a slot; lies in a VMA, and has no more rights than that
 *   every page      has the references, mappings and pins that entries, slots and pins account for; is exclusive if it may be written, and then has one
 *                   entry; is on a list if it is mapped; is clean of all that if it is free
 *   every slot      has as many entries as it counts, and its bytes once: in a tier, in the cache, or both
 *   every pin       is on the page that its owner has there
 *   who caches      CPUs, IOTLB, ATCs and guests' tables have nothing that the page table does not say
 *   VMAs            are what the model says
 */
#include <stdlib.h>
#include <string.h>
#include "mm/rmap.h"
#include "mm/swapcache.h"
#include "sim/script_impl.h"

#define SPACES 128u
#define SLOTS 8192u

struct checking {
	struct tdm_script *x;
	struct tdm_world *w;
	struct tdm_space *s;
	s32 p;                /* whose it is; -1: an object's */
	u64 rss, swapped, special;
	u32 slot[SLOTS];      /* entries that name it */
};

#define DIFFERS(c, ...) tdmi_script_differs((c)->x, __VA_ARGS__)

static u64 hash(const struct tdm_space *s, u64 va)
{
	u64 z = (va >> TDM_PAGE_SHIFT) * 0x9e3779b97f4a7c15u + s->id;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	return z ^ z >> 27;
}

/* NULL: it has no pages, or is none. */
static struct tdm_script_count *count_of(struct checking *c, struct tdm_pfn pfn)
{
	const struct tdm_mem_range *ram = &c->w->phys.range[c->w->ram], *co = &c->w->phys.range[c->x->coherent];

	if (pfn.v - ram->first < ram->n)
		return &c->x->count[pfn.v - ram->first];
	return c->x->coherent && pfn.v - co->first < co->n ? &c->x->count[ram->n + pfn.v - co->first] : NULL;
}

/* ---- entries */

static const struct tdm_cell *cell_of(const struct checking *c, u64 va)
{
	u64 page = (va - TDM_SCRIPT_BASE) >> TDM_PAGE_SHIFT;

	return c->p < 0 || page >= TDM_SCRIPT_PAGES ? NULL : &c->x->model.cell[c->p][page];
}

static int check_special(struct checking *c, struct tdm_pte e, u64 va, u32 level, uintptr_t vma)
{
	struct tdm_pfn pfn = tdm_pte_pfn(e);
	u64 pages = (u64)1 << (9 * level);

	if (pfn.v == c->w->zero.v) {
		c->rss++;
		if (level || (e.v & TDM_PTE_WRITE) || TDM_V_MAP(vma))
			return DIFFERS(c, "the entry for page %llx of space %u maps zeros, and must not", (unsigned long long)(va >> 12), c->s->id);
		return 0;
	}
	c->special += pages;
	if (!(vma & TDM_V_SPECIAL) || !c->x->vram || pfn.v - c->w->phys.range[c->x->vram].first > c->w->phys.range[c->x->vram].n - pages)
		return DIFFERS(c, "the special entry for page %llx of space %u is not in a driver's mapping", (unsigned long long)(va >> 12), c->s->id);
	for (u64 k = 0; k < pages; k++) {
		const struct tdm_cell *cell = cell_of(c, va + (k << TDM_PAGE_SHIFT));
		const struct tdm_script_buffer *b = c->x->buffer;

		while (cell && b < c->x->buffer + TDM_SCRIPT_BUFFERS && b->object != cell->object)
			b++;
		if (!cell || !cell->mapped || b == c->x->buffer + TDM_SCRIPT_BUFFERS || pfn.v + k != b->place[b->at] + cell->index)
			return DIFFERS(c, "a special entry maps page %llx of space %u, and not what its driver has there",
				(unsigned long long)((va >> 12) + k), c->s->id);
	}
	return 0;
}

static int check_page_entry(struct checking *c, struct tdm_pte e, struct tdm_pfn pfn, u64 va, uintptr_t vma)
{
	struct tdm_script_count *n = count_of(c, pfn);
	bool own = !c->s->is_object && !TDM_V_MAP(vma);

	c->rss++;
	if (!n || (vma & TDM_V_SPECIAL))
		return DIFFERS(c, "the entry for page %llx of space %u names what is no page", (unsigned long long)(va >> 12), c->s->id);
	n->maps++;
	n->refs++;
	n->names += hash(c->s, va);
	n->object |= c->s->is_object;
	if (own && tdm_pte_present(e) && (e.v & TDM_PTE_WRITE) && !(tdm_page_word(tdm_pfn_page(&c->w->phys, pfn)) & TDM_PG_EXCLUSIVE))
		return DIFFERS(c, "the entry for page %llx of space %u is writable, and its page not exclusive", (unsigned long long)(va >> 12), c->s->id);
	return 0;
}

/* Whoever has written a private page must find it said, unless it need not be kept. */
static int check_soft(struct checking *c, struct tdm_pte e, u64 va)
{
	const struct tdm_cell *cell = cell_of(c, va);
	struct tdm_pte said = tdm_pte_blocked(e) ? tdm_pte_unblocked(e, (struct tdm_pfn){ 0 }) : e;

	if (!cell || !cell->soft || cell->lazy == TDM_MODEL_ALL || tdm_pte_is(e, TDM_PTE_T_SWAP) || (said.v & TDM_PTE_SOFT_DIRTY))
		return 0;
	return DIFFERS(c, "page %llx of space %u has been written, and its entry is not soft-dirty", (unsigned long long)(va >> 12), c->s->id);
}

static int check_entry(struct checking *c, struct tdm_pte e, u64 va, u32 level)
{
	unsigned long long page = va >> TDM_PAGE_SHIFT;
	struct tdm_pfn pfn;
	struct tdm_vma v;

	if (!tdmi_vma_find(&c->s->vmas, va, &v) || v.end - va < (u64)1 << tdm_pt_shift(level))
		return DIFFERS(c, "there is an entry for page %llx of space %u, and no mapping", page, c->s->id);
	if (tdm_pte_present(e)) {
		if (!(v.flags & TDM_V_READ) || ((e.v & TDM_PTE_WRITE) && !(v.flags & TDM_V_WRITE)))
			return DIFFERS(c, "the entry for page %llx of space %u has more rights than its mapping", page, c->s->id);
		if (check_soft(c, e, va))
			return 1;
		if (e.v & TDM_PTE_SPECIAL)
			return check_special(c, e, va, level, v.flags);
	}
	if (level)
		return DIFFERS(c, "an upper entry for page %llx of space %u is no driver's leaf", page, c->s->id);
	if (tdm_pte_is(e, TDM_PTE_T_MIGRATION))
		return DIFFERS(c, "page %llx of space %u is still being moved", page, c->s->id);
	if (tdm_pte_names(e, &pfn))
		return check_soft(c, e, va) || check_page_entry(c, e, pfn, va, v.flags);
	if (!tdm_pte_is(e, TDM_PTE_T_SWAP) || TDM_V_MAP(v.flags) || tdm_pte_swap_handle(e) >= SLOTS)
		return DIFFERS(c, "the entry for page %llx of space %u is %llx", page, c->s->id, (unsigned long long)e.v);
	c->slot[tdm_pte_swap_handle(e)]++;
	c->swapped++;
	return 0;
}

static int check_table(struct checking *c, const struct tdm_pt *pt)
{
	u32 used = 0;
	int r = 0;

	for (u32 i = 0; i < TDM_PT_ENTRIES && !r; i++) {
		struct tdm_pte e = tdm_pt_get(pt, i);

		used += !tdm_pte_none(e);
		if (pt->level && tdm_pte_table(e))
			r = check_table(c, tdm_pte_table(e));
		else if (!tdm_pte_none(e))
			r = check_entry(c, e, tdm_pt_va(pt, i), pt->level);
	}
	if (!r && (used != pt->used || pt->dead))
		r = DIFFERS(c, "the table for page %llx of space %u counts %u entries, and has %u", (unsigned long long)(pt->base >> 12), c->s->id,
			pt->used, used);
	return r;
}

/* A page that has been written, and has no entry at all. */
static int check_lost(struct checking *c)
{
	for (u32 page = 0; page < TDM_SCRIPT_PAGES; page++) {
		const struct tdm_cell *cell = &c->x->model.cell[c->p][page];
		struct tdm_pte e;
		u32 i;

		if (!cell->mapped || cell->object || !((cell->word[0] && !(cell->lazy & 1)) || (cell->word[1] && !(cell->lazy & 2))))
			continue;
		(void)tdmi_pt_walk(&c->s->pgt, tdm_script_va(page), &i, &e);
		if (tdm_pte_none(e))
			return DIFFERS(c, "page %u of p%d has been written, and has no entry", page, c->p);
	}
	return 0;
}

static int check_vmas(struct checking *c)
{
	struct tdm_vma v = { 0 };

	for (u32 page = 0; page < TDM_SCRIPT_PAGES; page++) {
		const struct tdm_cell *cell = &c->x->model.cell[c->p][page];
		u64 va = tdm_script_va(page);
		uintptr_t flags = 0;

		if (va >= v.end && !tdmi_vma_next(&c->s->vmas, va, &v))
			v = (struct tdm_vma){ ~(u64)0, ~(u64)0, 0 };
		if (cell->mapped != (va >= v.start))
			return DIFFERS(c, "page %u of p%d is %s", page, c->p, cell->mapped ? "not mapped any more" : "still mapped");
		if (!cell->mapped)
			continue;
		flags = tdm_script_rights(cell->rights) | (!cell->object ? 0 : c->x->model.object[cell->object].buffer ? TDM_V_SPECIAL : TDM_V_SHARED);
		if ((v.flags & (TDM_V_READ | TDM_V_WRITE | TDM_V_SHARED | TDM_V_SPECIAL)) != flags)
			return DIFFERS(c, "page %u of p%d is mapped with flags %lx; expected %lx", page, c->p, (unsigned long)v.flags, (unsigned long)flags);
	}
	return 0;
}

static int check_space(struct checking *c)
{
	struct tdm_space *s = c->s;
	int r;

	c->rss = c->swapped = c->special = 0;
	r = check_table(c, s->pgt.root);
	if (!r && c->p >= 0)
		r = check_vmas(c);
	if (!r && c->p >= 0)
		r = check_lost(c);
	if (r)
		return r;
	if (c->rss != tdm_a64_ld_relaxed(&s->rss) || c->swapped != tdm_a64_ld_relaxed(&s->swapped) || c->special != tdm_a64_ld_relaxed(&s->special))
		return DIFFERS(c, "space %u counts %llu pages, %llu in slots and %llu special; it has %llu, %llu and %llu", s->id,
			       (unsigned long long)tdm_a64_ld_relaxed(&s->rss), (unsigned long long)tdm_a64_ld_relaxed(&s->swapped),
			       (unsigned long long)tdm_a64_ld_relaxed(&s->special), (unsigned long long)c->rss, (unsigned long long)c->swapped,
			       (unsigned long long)c->special);
	if (tdm_a32_ld_relaxed(&s->owed) || tdm_a32_ld_relaxed(&s->faults) || tdm_a32_ld_relaxed(&s->forking))
		return DIFFERS(c, "space %u is owed a flush, or has a fault, though nothing is under way", s->id);
	return 0;
}

/* ---- slots */

static int check_slots(struct checking *c)
{
	struct tdm_slot_state st;
	struct tdm_swap_stats stats;
	u64 stored = 0;

	for (u64 i = 0; tdmi_slot_state(c->w, i, &st); i++) {
		u32 entries = i < SLOTS ? c->slot[i] : 0;

		if (st.count != entries || (st.used && !st.count) || (st.used && !st.stored && !st.cached))
			return DIFFERS(c, "slot %llu counts %u entries, and has %u; its bytes are in %s", (unsigned long long)i, st.count, entries,
				       st.stored ? "a tier" : st.cached ? "its page" : "nothing");
		stored += st.stored;
		if (st.cached && tdm_pfn_page(&c->w->phys, st.pfn)->slot != i + 1)
			return DIFFERS(c, "slot %llu has a page that names another", (unsigned long long)i);
		if (st.cached)
			count_of(c, st.pfn)->refs++;
	}
	tdmi_swap_stats(c->w->swap, &stats);
	if (stats.pages != stored)
		return DIFFERS(c, "the tier has %llu pages, and %llu slots have bytes there", (unsigned long long)stats.pages, (unsigned long long)stored);
	return 0;
}

/* ---- pages */

static void count_holders(struct checking *c)
{
	for (u32 i = 0; i < TDM_SCRIPT_PINS; i++)
		if (c->x->pin[i].held) {
			count_of(c, c->x->pin[i].pfn)->refs++;
			count_of(c, c->x->pin[i].pfn)->pins++;
		}
	for (u32 i = 0; i < c->x->nhogs; i++)
		count_of(c, c->x->hog[i])->refs++;
	count_of(c, c->w->zero)->refs++;
}

struct naming {
	u64 names;
	u32 n;
};

static int name(void *arg, struct tdm_space *s, struct tdm_pt *pt, u32 index, u64 va)
{
	struct naming *n = arg;

	(void)index;
	n->n += pt != NULL;
	n->names += pt ? hash(s, va) : 0;
	return 0;
}

static int check_one_page(struct checking *c, const struct tdm_mem_range *r, u64 nr, const struct tdm_script_count *n)
{
	struct tdm_page *pg = &r->page[nr];
	u64 word = tdm_page_word(pg);
	struct naming named = { 0 };

	if (tdm_page_refs(pg) != n->refs || tdm_page_pins(pg) != n->pins)
		return DIFFERS(c, "page frame %llu has %u references and %u pins; %u and %u account for them", (unsigned long long)nr, tdm_page_refs(pg),
			tdm_page_pins(pg), n->refs, n->pins);
	if (tdmi_rmap_count(c->w, (struct tdm_pfn){ r->first + nr }) != n->maps)
		return DIFFERS(c, "page frame %llu knows of %u mappings, and has %u", (unsigned long long)nr,
			       tdmi_rmap_count(c->w, (struct tdm_pfn){ r->first + nr }), n->maps);
	if (!n->refs)
		return !word && !pg->slot && !pg->on_list ? 0 :
		       DIFFERS(c, "page frame %llu is free, and not clean: %llx", (unsigned long long)nr, (unsigned long long)word);
	if (n->maps && tdmi_rmap_walk(c->w, (struct tdm_pfn){ r->first + nr }, name, &named))
		return DIFFERS(c, "the mappings of page frame %llu cannot be walked", (unsigned long long)nr);
	if (named.n != n->maps || named.names != n->names)
		return DIFFERS(c, "page frame %llu knows of mappings that are not its own", (unsigned long long)nr);
	if ((word & TDM_PG_EXCLUSIVE) && n->maps > 1 && !n->object)
		return DIFFERS(c, "page frame %llu is exclusive, and has %u mappings", (unsigned long long)nr, n->maps);
	if (n->pins && n->maps && !(word & TDM_PG_EXCLUSIVE))
		return DIFFERS(c, "page frame %llu is pinned, and not exclusive", (unsigned long long)nr);
	if (word & TDM_PG_ISOLATED)
		return DIFFERS(c, "page frame %llu is still isolated", (unsigned long long)nr);
	if ((n->maps || pg->slot) && r->kind == TDM_MEM_RAM && !pg->on_list)
		return DIFFERS(c, "page frame %llu is %s, and reclaim does not know it", (unsigned long long)nr, n->maps ? "mapped" : "in the swap cache");
	return 0;
}

static int check_pages(struct checking *c, u32 range, const struct tdm_script_count *n)
{
	const struct tdm_mem_range *r = &c->w->phys.range[range];
	u64 used = 0;
	int e = 0;

	for (u64 nr = 0; nr < r->n && !e; nr++) {
		used += n[nr].refs != 0;
		e = check_one_page(c, r, nr, &n[nr]);
	}
	if (!e && used != tdmi_phys_used(&c->w->phys, range))
		e = DIFFERS(c, "%llu pages are in use, and %llu are accounted for", (unsigned long long)tdmi_phys_used(&c->w->phys, range),
			(unsigned long long)used);
	return e;
}

/* ---- pins */

static int check_pins(struct checking *c)
{
	for (u32 i = 0; i < TDM_SCRIPT_PINS; i++) {
		const struct tdm_script_pin *pin = &c->x->pin[i];
		const struct tdm_cell *cell = &c->x->model.cell[pin->p][pin->page];
		struct tdm_pfn pfn = { 0 };
		struct tdm_pte e;
		u32 k;

		if (!pin->held || pin->object || !c->x->process[pin->p].s || !cell->mapped || cell->id != pin->id)
			continue;
		(void)tdmi_pt_walk(&c->x->process[pin->p].s->pgt, tdm_script_va(pin->page), &k, &e);
		if (!tdm_pte_names(e, &pfn) || pfn.v != pin->pfn.v)
			return DIFFERS(c, "page %u of p%u is pinned, and is not there any more", pin->page, pin->p);
	}
	return 0;
}

/* ---- those who cache */

/* A translation of [va, va + 2^shift) of s, which says pte. */
static int check_cached(struct checking *c, struct tdm_space *s, u64 va, u32 shift, struct tdm_pte pte, const char *who)
{
	for (u64 at = va; at < va + ((u64)1 << shift);) {
		struct tdm_pte e;
		u32 i, level = tdmi_pt_walk(&s->pgt, at, &i, &e)->level;
		u64 size = (u64)1 << tdm_pt_shift(level);
		u64 pfn = tdm_pte_pfn(e).v + ((at & (size - 1)) >> TDM_PAGE_SHIFT);

		if (!tdm_pte_present(e) || (level && !(e.v & TDM_PTE_LEAF)) || pfn != tdm_pte_pfn(pte).v + ((at - va) >> TDM_PAGE_SHIFT))
			return DIFFERS(c, "%s still has a translation of page %llx of space %u that is gone", who, (unsigned long long)(at >> 12), s->id);
		if (pte.v & ~e.v & (TDM_PTE_WRITE | TDM_PTE_DIRTY))
			return DIFFERS(c, "%s may %s page %llx of space %u, of which the table does not say so", who,
				       pte.v & ~e.v & TDM_PTE_WRITE ? "write" : "write without a trace", (unsigned long long)(at >> 12), s->id);
		at = TDM_ALIGN_DOWN(at, size) + size;
	}
	return 0;
}

/* Is what this CPU has of the space what it would use? */
static bool is_current(const struct tdm_cpus *cpus, u32 cpu, const struct tdm_space *s)
{
	const struct tdm_cpus_space *sp = cpus->space[s->id];
	const struct tdm_core *k = &cpus->core[cpu];

	if (!sp || (!tdm_cpus_broadcasts(cpus) && sp->on[cpu].heard != sp->flushes))
		return false;
	if (!cpus->config.asids)
		return k->s == s;
	return tdm_cpus_shares_asids(cpus) ? sp->asid.generation == cpus->asids.generation : sp->on[cpu].asid.generation == k->asids.generation;
}

/* Entries under this tag. space NULL: there must be none. */
static int check_tlb(struct checking *c, const struct tdm_tlb *t, u32 asid, struct tdm_space *s, const char *who)
{
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
			const struct tdm_tlb_array *a = &t->array[level][size];

			for (u32 k = 0; a->live && !a->shared && k < (a->mask + 1) * a->ways; k++) {
				u64 key = a->key[k / a->ways * (a->ways + 1) + k % a->ways];

				if (key == TDM_TLB_EMPTY || tdm_tlb_key_asid(key) != asid)
					continue;
				if (!s)
					return DIFFERS(c, "%s has a translation of an address space that is gone", who);
				if (check_cached(c, s, tdm_tlb_key_va(key), tdm_tlb_key_shift(key), a->e[k].pte, who))
					return 1;
			}
		}
	return 0;
}

static int check_cpus(struct checking *c, struct tdm_space *s)
{
	struct tdm_cpus *cpus = &c->x->m->cpus;

	for (u32 cpu = 0; cpu < cpus->config.n; cpu++)
		if (is_current(cpus, cpu, s) && check_tlb(c, &cpus->core[cpu].tlb, tdm_cpus_asid(cpus, cpus->space[s->id], cpu), s, "a CPU"))
			return 1;
	return 0;
}

static int check_devices(struct checking *c, u32 p)
{
	struct tdm_space *s = c->x->process[p].bound ? c->x->process[p].s : NULL;
	int r = check_tlb(c, &c->x->m->iommu.iotlb, p + 1, s, "the iommu");

	for (u32 d = 0; d < c->x->sc->ndevices && !r; d++)
		if (c->x->sc->device[d].ats)
			r = check_tlb(c, &c->x->m->dev[d].dev->atc, p + 1, s, "a device");
	return r;
}

static int check_guest(struct checking *c, struct tdm_script_process *pr)
{
	int r = 0;

	for (u32 i = 0; i < pr->guest_pages && !r; i++) {
		struct tdm_pte e = tdmi_stage2_entry(&pr->guest, (u64)i << TDM_PAGE_SHIFT);

		e.v &= ~TDM_PTE_DIRTY;
		if (tdm_pte_present(e))
			r = check_cached(c, pr->s, tdm_script_va(pr->guest_page + i), TDM_PAGE_SHIFT, e, "a guest");
	}
	return r;
}

/* ---- a page that is freed: nobody may have a translation to it any more */

static bool names(const struct tdm_tlb *t, u32 asid, struct tdm_pfn pfn)
{
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++) {
		const struct tdm_tlb_array *a = &t->array[level][0];

		for (u32 k = 0; a->live && k < (a->mask + 1) * a->ways; k++) {
			u64 key = a->key[k / a->ways * (a->ways + 1) + k % a->ways];

			if (key != TDM_TLB_EMPTY && tdm_tlb_key_asid(key) == asid && tdm_tlb_key_shift(key) == TDM_PAGE_SHIFT &&
				tdm_pte_pfn(a->e[k].pte).v == pfn.v &&
			    !(a->e[k].pte.v & TDM_PTE_SPECIAL))
				return true;
		}
	}
	return false;
}

/* NULL: nobody. */
static const char *who_names(struct tdm_script *x, struct tdm_space *s, u32 p, struct tdm_pfn pfn)
{
	struct tdm_cpus *cpus = &x->m->cpus;

	for (u32 cpu = 0; cpu < cpus->config.n; cpu++)
		if (is_current(cpus, cpu, s) && names(&cpus->core[cpu].tlb, tdm_cpus_asid(cpus, cpus->space[s->id], cpu), pfn))
			return "a CPU";
	if (!x->process[p].bound)
		return NULL;
	if (names(&x->m->iommu.iotlb, p + 1, pfn))
		return "the iommu";
	for (u32 d = 0; d < x->sc->ndevices; d++)
		if (x->sc->device[d].ats && names(&x->m->dev[d].dev->atc, p + 1, pfn))
			return "a device";
	return NULL;
}

void tdmi_script_freed(void *script, struct tdm_pfn pfn)
{
	struct tdm_script *x = script;

	for (u32 p = 0; p < TDM_SCRIPT_PROCESSES && !x->used_free; p++)
		if (x->process[p].s)
			x->used_free = who_names(x, x->process[p].s, p, pfn);
}

/* ---- all of it */

static s32 process_of(const struct tdm_script *x, const struct tdm_space *s)
{
	for (s32 p = 0; p < (s32)TDM_SCRIPT_PROCESSES; p++)
		if (x->process[p].s == s)
			return p;
	return -1;
}

static int check_caches(struct checking *c)
{
	int r = 0;

	for (u32 p = 0; p < TDM_SCRIPT_PROCESSES && !r; p++) {
		struct tdm_script_process *pr = &c->x->process[p];

		if (pr->s)
			r = check_cpus(c, pr->s);
		if (!r && c->x->m->has_iommu)
			r = check_devices(c, p);
		if (!r && pr->has_guest)
			r = check_guest(c, pr);
	}
	return r;
}

static int check(struct checking *c)
{
	u64 nram = c->w->phys.range[c->w->ram].n;
	int r = 0;

	for (u32 i = 0; i < SPACES && !r; i++) {
		c->s = tdm_space_by_id(c->w, i);
		if (!c->s)
			continue;
		c->p = process_of(c->x, c->s);
		r = c->p < 0 && !c->s->is_object ? DIFFERS(c, "space %u is nobody's", i) : check_space(c);
	}
	if (!r && c->w->swap)
		r = check_slots(c);
	if (r)
		return r;
	count_holders(c);
	r = check_pages(c, c->w->ram, c->x->count);
	if (!r && c->x->coherent)
		r = check_pages(c, c->x->coherent, c->x->count + nram);
	if (!r)
		r = check_pins(c);
	return r ? r : check_caches(c);
}

int tdmi_script_check(struct tdm_script *x)
{
	struct tdm_world *w = &x->m->w;
	static _Thread_local struct checking c;
	int r;

	if (x->used_free)
		return tdmi_script_differs(x, "a page was freed that %s still had a translation of", x->used_free);
	memset(&c, 0, sizeof(c));
	c.x = x;
	c.w = w;
	memset(x->count, 0, (w->phys.range[w->ram].n + (x->coherent ? w->phys.range[x->coherent].n : 0)) * sizeof(*x->count));
	tdmi_rcu_read_lock(x->m->reader);
	r = check(&c);
	tdmi_rcu_read_unlock(x->m->reader);
	return r;
}
