/* SPDX-License-Identifier: MIT */
/*
 * object.c - buffer objects, in the shape of a graphics driver's: memory of a device (vram) that is evicted to the system's when another object needs the room, and comes back.
 *
 * An object in vram lies in runs of the size that its device's allocator gives (spec->contiguous); in the system its pages come one by one, as they do from a page allocator, and so are
 * not contiguous. Both are memory without pages to the engine: the driver counts it, and its mappings are special leaves. Whoever moves an object zaps its mappings first, and the next
 * access faults: then the driver inserts the largest run around it that it has.
 */
#include <stdlib.h>
#include <string.h>
#include "mm/insert_range.h"
#include "mm/special.h"
#include "sim/machine.h"

#define CHUNK TDM_HUGE_PAGES

static u64 run_pages(const struct tdm_object *o)
{
	return o->spec->contiguous >> TDM_PAGE_SHIFT;
}

static struct tdm_sim_dev *device_of(const struct tdm_object *o)
{
	return &o->m->dev[o->spec->device.index];
}

/* ---- memory */

/* A free run, aligned to its size, which is taken then. NEVER: there is none. */
static u64 take_run(struct tdm_object *o)
{
	struct tdm_sim_dev *d = device_of(o);
	const struct tdm_mem_range *r = &o->m->w.phys.range[d->vram];
	u64 n = run_pages(o);

	for (u64 at = TDM_ALIGN_UP(r->first, n) - r->first; at + n <= r->n; at += n)
		if (!memchr(&d->taken[at], 1, n)) {
			memset(&d->taken[at], 1, n);
			return r->first + at;
		}
	return TDM_SIM_NEVER;
}

static void give_back(struct tdm_object *o, const u64 *pfn, u64 pages)
{
	struct tdm_sim_dev *d = device_of(o);
	u64 first = o->m->w.phys.range[d->vram].first;

	for (u64 p = 0; p < pages; p += run_pages(o))
		memset(&d->taken[pfn[p] - first], 0, run_pages(o));
}

/* The object in that device's memory that was used longest ago. */
static struct tdm_object *oldest(struct tdm_object *but)
{
	struct tdm_object *old = NULL;

	for (u32 i = 0; i < but->m->sc->nobjects; i++) {
		struct tdm_object *o = &but->m->object[i];

		if (o != but && o->pfn && o->in_vram && device_of(o) == device_of(but) && (!old || o->used < old->used))
			old = o;
	}
	return old;
}

static int place_in_vram(struct tdm_object *o, u64 *pfn, u32 cpu)
{
	for (u64 p = 0; p < o->pages; p += run_pages(o)) {
		u64 at = take_run(o);

		while (at == TDM_SIM_NEVER) {
			struct tdm_object *victim = oldest(o);
			int r = victim ? tdmi_object_move(victim, false, cpu) : -ENOMEM;

			if (r) {
				give_back(o, pfn, p);
				return r;
			}
			at = take_run(o);
		}
		for (u64 k = 0; k < run_pages(o) && p + k < o->pages; k++)
			pfn[p + k] = at + k;
	}
	return 0;
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
	return (u32)__builtin_ctzll(run_pages(((struct tdm_view *)map->arg)->object));
}

static const struct tdm_map_ops object_ops = { .name = "object", .fault = object_fault, .order = object_order };

int tdmi_object_mmap(struct tdm_object *o, struct tdm_view *v)
{
	uintptr_t flags = TDM_V_SPECIAL | TDM_V_READ | (v->spec->writable ? TDM_V_WRITE : 0);
	int r = tdmi_mmap_driver(v->s, o->m->reader, v->start, v->spec->size, flags, &object_ops, v, v->spec->offset, &v->map);

	v->object = o;
	if (!r)
		o->view[o->nviews++] = v;
	return r;
}

s64 tdmi_object_fill(struct tdm_view *v)
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
		tdmi_rcu_read_lock(o->m->reader);
		r = tdmi_insert_range(v->map, at, pfn_at(o, page), n, &how, &out);
		tdmi_rcu_read_unlock(o->m->reader);
		bytes += out.end - out.start;
	}
	return r ? r : (s64)bytes;
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

/* What is not zeros goes along. */
static void copy(struct tdm_object *o, const u64 *to)
{
	struct tdm_phys *phys = &o->m->w.phys;

	for (u64 p = 0; p < o->pages; p++)
		if (o->content[p / CHUNK])
			memcpy(tdm_pfn_bytes(phys, (struct tdm_pfn){ to[p] }), tdm_pfn_bytes(phys, pfn_at(o, p)), TDM_PAGE_SIZE);
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
		copy(o, pfn);
		if (o->in_vram)
			give_back(o, o->pfn, o->pages);
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
