/* SPDX-License-Identifier: MIT */
/*
 * object.c - buffer objects, in the shape of a graphics driver's: memory of a device (vram) that is evicted to the system's when another object needs the
 * room, and comes back.
 *
 * An object in vram lies in runs of the size that its device's allocator gives (spec->contiguous); in the system its pages come one by one, as they do from a
 * page allocator, and so are not contiguous. Both are memory without pages to the engine: the driver counts it, and its mappings are special leaves. Whoever
 * moves an object zaps its mappings first, and the next access faults: then the driver inserts the largest run around it that it has.
 *
 * Which bytes have to be moved. Memory that no object has holds zeros, and so does an object where nobody has written: where somebody has, the dirty bits of
 * its leaves say, which are looked at before leaves are zapped. One thread runs the machine, so that nothing comes between; and whoever zaps leaves of objects
 * does it through this file.
 */
#include <stdlib.h>
#include <string.h>
#include "base/bitops.h"
#include "mm/insert_range.h"
#include "mm/special.h"
#include "mm/unmapped_area.h"
#include "sim/machine.h"

#define CHUNK TDM_HUGE_PAGES

/* Pages of a run of its memory in vram; without `contiguous` it is in one. */
static u64 run_pages(const struct tdm_object *o)
{
	return o->spec->contiguous ? o->spec->contiguous >> TDM_PAGE_SHIFT : o->pages;
}

/* And to how many pages a run is aligned: in one run, to the largest leaf that could map it. */
static u64 run_align(const struct tdm_object *o)
{
	u64 n = run_pages(o);

	return o->spec->contiguous ? n : n >= CHUNK * CHUNK ? CHUNK * CHUNK : n >= CHUNK ? CHUNK : 1;
}

static struct tdm_sim_dev *device_of(const struct tdm_object *o)
{
	return &o->m->dev[o->spec->device.index];
}

/* ---- memory */

/* A free run, which is taken then: of a device's map of taken pages, or a copy of it. NEVER: there is none. */
static u64 take_run(const struct tdm_object *o, u8 *taken)
{
	const struct tdm_mem_range *r = &o->m->w.phys.range[device_of(o)->vram];
	u64 n = run_pages(o), align = run_align(o);

	for (u64 at = TDM_ALIGN_UP(r->first, align) - r->first; at + n <= r->n; at += align)
		if (!memchr(&taken[at], 1, n)) {
			memset(&taken[at], 1, n);
			return r->first + at;
		}
	return TDM_SIM_NEVER;
}

static void give_back(const struct tdm_object *o, u8 *taken)
{
	u64 first = o->m->w.phys.range[device_of(o)->vram].first;

	for (u64 p = 0; p < o->pages; p += run_pages(o))
		memset(&taken[o->pfn[p] - first], 0, run_pages(o));
}

/* Of those that are in that device's memory, and not leaving yet, the one that was used longest ago. */
static struct tdm_object *oldest(const struct tdm_object *but, const bool *leaves)
{
	struct tdm_object *old = NULL;

	for (u32 i = 0; i < but->m->sc->nobjects; i++) {
		struct tdm_object *o = &but->m->object[i];

		if (o != but && !leaves[i] && o->pfn && o->in_vram && device_of(o) == device_of(but) && (!old || o->used < old->used))
			old = o;
	}
	return old;
}

static bool place(const struct tdm_object *o, u8 *taken, u64 *pfn)
{
	for (u64 p = 0; p < o->pages; p += run_pages(o)) {
		u64 at = take_run(o, taken);

		if (at == TDM_SIM_NEVER)
			return false;
		for (u64 k = 0; k < run_pages(o) && p + k < o->pages; k++)
			pfn[p + k] = at + k;
	}
	return true;
}

/* Whom it takes is decided on a copy of the map, so that nobody leaves for an object that finds no room for all that. */
static int plan(const struct tdm_object *o, u8 *taken, u64 *pfn, bool *leaves)
{
	u64 n = o->m->w.phys.range[device_of(o)->vram].n;

	for (;;) {
		const struct tdm_object *victim;

		memcpy(taken, device_of(o)->taken, n);
		for (u32 i = 0; i < o->m->sc->nobjects; i++)
			if (leaves[i])
				give_back(&o->m->object[i], taken);
		if (place(o, taken, pfn))
			return 0;
		victim = oldest(o, leaves);
		if (!victim)
			return -ENOMEM;
		leaves[victim - o->m->object] = true;
	}
}

static int place_in_vram(struct tdm_object *o, u64 *pfn, u32 cpu)
{
	u64 n = o->m->w.phys.range[device_of(o)->vram].n;
	bool leaves[TDM_SIM_OBJECTS] = { false };
	u8 *taken = malloc(n);
	int r = taken ? plan(o, taken, pfn, leaves) : -ENOMEM;

	for (u32 i = 0; i < o->m->sc->nobjects && !r; i++)
		if (leaves[i])
			r = tdmi_object_move(&o->m->object[i], false, cpu);
	if (!r)
		memcpy(device_of(o)->taken, taken, n);
	free(taken);
	return r;
}

/* Pages of the system come one by one: neighbours change places. There is room for all objects (machine.c), each in a place of its own. */
static void place_in_system(struct tdm_object *o, u64 *pfn)
{
	u64 first = o->m->w.phys.range[o->m->system].first;

	for (struct tdm_object *other = o->m->object; other != o; other++)
		first += TDM_ALIGN_UP(other->pages, CHUNK);
	for (u64 p = 0; p < o->pages; p++)
		pfn[p] = first + (p ^ 1);
}

/* ---- mappings */

static struct tdm_pfn pfn_at(const struct tdm_object *o, u64 page)
{
	return (struct tdm_pfn){ o->pfn[page] };
}

/* Pages from this one on that lie side by side. The driver knows where its runs end; it does not look at every page. */
static u64 run_from(const struct tdm_object *o, u64 page)
{
	return o->in_vram ? TDM_MIN(run_pages(o) - page % run_pages(o), o->pages - page) : 1;
}

static enum tdm_fault_result object_fault(struct tdm_map *map, u64 va, u64 size, bool write)
{
	struct tdm_view *v = map->arg;
	struct tdm_object *o = v->object;
	u64 page = (va - map->start + map->off) >> TDM_PAGE_SHIFT, first = page, n = 1;
	struct tdm_insert how = { .flags = (v->spec->writable ? TDM_INSERT_WRITE : 0) | TDM_INSERT_YOUNG | (write ? TDM_INSERT_DIRTY : 0), .at = va,
				  .max_prefault = o->spec->max_prefault >> TDM_PAGE_SHIFT };
	struct tdm_inserted out;
	int r;

	(void)size; /* advisory: what there is in one piece is handed over */
	o->used = ++o->m->tick;
	if (o->spec->fault_huge) {
		first = TDM_MAX(o->in_vram ? page - page % run_pages(o) : page, map->off >> TDM_PAGE_SHIFT);
		n = run_from(o, first);
	}
	r = tdmi_insert_range(map, map->start + ((first << TDM_PAGE_SHIFT) - map->off), pfn_at(o, first), n, &how, &out);
	if (!r || (out.start <= va && va < out.end))
		return TDM_FAULT_DONE;
	return r == -ENOMEM ? TDM_FAULT_OOM : TDM_FAULT_SIGBUS;
}

static u32 object_order(struct tdm_map *map)
{
	return tdm_highest_bit(run_align(((struct tdm_view *)map->arg)->object));
}

static const struct tdm_map_ops object_ops = { .name = "object", .fault = object_fault, .order = object_order };

/* Where the engine would have it, from 12 KiB behind its place on: so that something is left to be chosen. */
static int choose(struct tdm_view *v, u64 *start)
{
	const struct tdm_object *o = v->object;
	struct tdm_area a = { .len = v->spec->size, .off = v->spec->offset, .order = tdm_highest_bit(run_align(o)), .huge = o->m->w.huge,
			      .lo = v->start + 3 * TDM_PAGE_SIZE, .hi = v->end };
	int r;

	tdmi_rcu_read_lock(v->m->reader);
	r = tdmi_unmapped_area(&v->s->vmas, &a, start);
	tdmi_rcu_read_unlock(v->m->reader);
	return r;
}

static int map_view(struct tdm_view *v)
{
	uintptr_t flags = TDM_V_SPECIAL | TDM_V_READ | (v->spec->writable ? TDM_V_WRITE : 0);

	return tdmi_mmap_driver(v->s, v->m->reader, v->start, v->spec->size, flags, &object_ops, v, v->spec->offset, &v->map);
}

int tdmi_object_mmap(struct tdm_object *o, struct tdm_view *v)
{
	int r;

	v->object = o;
	r = v->spec->place == TDM_SIM_CHOSEN ? choose(v, &v->start) : 0;
	if (!r)
		r = map_view(v);
	if (!r)
		o->view[o->nviews++] = v;
	return r;
}

/* Run by run. */
static s64 fill(struct tdm_view *v, bool remap)
{
	struct tdm_object *o = v->object;
	u64 end = (v->spec->offset + v->spec->size) >> TDM_PAGE_SHIFT, bytes = 0;
	int r = 0;

	o->used = ++o->m->tick;
	for (u64 page = v->spec->offset >> TDM_PAGE_SHIFT, n; page < end && !r; page += n) {
		u64 at = v->start + (page << TDM_PAGE_SHIFT) - v->spec->offset;
		struct tdm_insert how = { .flags = v->spec->writable ? TDM_INSERT_WRITE : 0, .at = at };
		struct tdm_inserted out;

		n = TDM_MIN(run_from(o, page), end - page);
		if (remap) {
			r = tdmi_remap_range(v->map, o->m->reader, at, pfn_at(o, page), n, how.flags, &out);
		} else {
			tdmi_rcu_read_lock(o->m->reader);
			r = tdmi_insert_range(v->map, at, pfn_at(o, page), n, &how, &out);
			tdmi_rcu_read_unlock(o->m->reader);
		}
		bytes += out.end - out.start;
	}
	return r ? r : (s64)bytes;
}

s64 tdmi_object_fill(struct tdm_view *v)
{
	return fill(v, false);
}

/* ---- moving */

/* Where has a CPU written since it was mapped? The leaves say so, for as long as they are there. */
static void note_content(struct tdm_view *v)
{
	u64 end = v->start + v->spec->size;

	for (u64 va = v->start, next; va < end; va = next) {
		struct tdm_pte pte;
		struct tdm_pt *pt;
		u64 span, from;
		u32 i;

		tdmi_rcu_read_lock(v->m->reader);
		pt = tdmi_pt_walk(&v->s->pgt, va, &i, &pte);
		span = (u64)1 << tdm_pt_shift(pt->level);
		from = TDM_ALIGN_DOWN(va, span);
		next = from + span;
		for (u64 at = va; tdm_pte_present(pte) && (pte.v & TDM_PTE_DIRTY) && at < TDM_MIN(next, end); at += TDM_PAGE_SIZE)
			v->object->content[(at - v->start + v->spec->offset) / TDM_HUGE_SIZE] = 1;
		tdmi_rcu_read_unlock(v->m->reader);
	}
}

/* What is not zeros goes along. What an object leaves behind is zeros again: whoever gets the memory next does not copy what nobody has written. */
static void carry(struct tdm_object *o, const u64 *to)
{
	struct tdm_phys *phys = &o->m->w.phys;

	for (u64 p = 0; p < o->pages; p++)
		if (o->content[p / CHUNK])
			memcpy(tdm_pfn_bytes(phys, (struct tdm_pfn){ to[p] }), tdm_pfn_bytes(phys, pfn_at(o, p)), TDM_PAGE_SIZE);
	for (u64 p = 0; p < o->pages; p += CHUNK) {
		u64 n = TDM_MIN(o->pages - p, CHUNK), low = TDM_SIM_NEVER, high = 0;

		for (u64 k = 0; k < n; k++) {
			low = TDM_MIN(low, o->pfn[p + k]);
			high = TDM_MAX(high, o->pfn[p + k]);
		}
		/* In one piece, in whatever order; or page by page. */
		if (o->content[p / CHUNK] && high - low == n - 1)
			plat_discard(tdm_pfn_bytes(phys, (struct tdm_pfn){ low }), n << TDM_PAGE_SHIFT);
		else if (o->content[p / CHUNK])
			for (u64 k = 0; k < n; k++)
				plat_discard(tdm_pfn_bytes(phys, pfn_at(o, p + k)), TDM_PAGE_SIZE);
	}
}

int tdmi_object_remap(struct tdm_view *v)
{
	int r;

	note_content(v);
	r = tdmi_munmap(v->s, v->m->reader, v->start, v->spec->size);
	return r ? r : map_view(v);
}

s64 tdmi_object_map_filled(struct tdm_view *v)
{
	int r = tdmi_object_remap(v);

	return r ? r : fill(v, true);
}

int tdmi_object_move(struct tdm_object *o, bool vram, u32 cpu)
{
	struct tdm_machine *m = o->m;
	u64 *pfn;
	int r = 0;

	if (o->pfn && o->in_vram == vram)
		return 0;
	pfn = malloc(o->pages * sizeof(*pfn));
	if (!pfn)
		return -ENOMEM;
	if (vram)
		r = place_in_vram(o, pfn, cpu);
	else
		place_in_system(o, pfn);
	if (r) {
		free(pfn);
		return r;
	}
	for (u32 i = 0; i < o->nviews; i++) {
		note_content(o->view[i]);
		/* As drivers do it: what was mapped goes, the tables stay. */
		tdmi_special_unmap(o->view[i]->map, m->reader, o->view[i]->start, o->view[i]->start + o->view[i]->spec->size, false);
	}
	if (o->pfn) {
		tdm_machine_pay(m, cpu, tdm_machine_cost(m, TDM_COST_DEVICE_COPY) * o->pages);
		carry(o, pfn);
		if (o->in_vram)
			give_back(o, device_of(o)->taken);
	}
	free(o->pfn);
	o->pfn = pfn;
	o->in_vram = vram;
	o->used = ++m->tick;
	return 0;
}

int tdmi_object_init(struct tdm_machine *m, struct tdm_object *o, const struct tdm_sim_object *spec)
{
	*o = (struct tdm_object){ .m = m, .spec = spec, .pages = spec->size >> TDM_PAGE_SHIFT };
	o->content = calloc(1, o->pages / CHUNK + 1);
	return o->content ? tdmi_object_move(o, spec->placement == TDM_SIM_IN_VRAM, 0) : -ENOMEM;
}

void tdmi_object_destroy(struct tdm_object *o)
{
	free(o->content);
	free(o->pfn);
	*o = (struct tdm_object){ 0 };
}
