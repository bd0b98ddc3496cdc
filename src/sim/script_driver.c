/* SPDX-License-Identifier: MIT */
/* script_driver.c - what scripts have of devices' drivers: buffers without pages, mapped by special leaves; and a tier that can fail. */
#include <stdlib.h>
#include <string.h>
#include "mm/insert_range.h"
#include "mm/special.h"
#include "pool/tier.h"
#include "sim/script_impl.h"

/* ---- buffers */

static u64 pfn_of(const struct tdm_script_buffer *b, u64 page)
{
	return b->place[b->at] + page;
}

/* As a fault that is told the size of the leaf: the larger ones first. */
static enum tdm_fault_result leaf_fault(struct tdm_map *map, u64 va, u64 size, struct tdm_pfn pfn, const struct tdm_insert *how)
{
	enum tdm_fault_result r = TDM_FAULT_FALLBACK;

	for (u32 level = size >= TDM_HUGE_SIZE; r == TDM_FAULT_FALLBACK; level--) {
		u64 in_leaf = level ? va & (TDM_HUGE_SIZE - 1) : 0;

		r = tdmi_insert_pfn(map, va - in_leaf, (struct tdm_pfn){ pfn.v - (in_leaf >> TDM_PAGE_SHIFT) }, level, how);
		TDM_BUG_ON(!level && r == TDM_FAULT_FALLBACK);
	}
	return r;
}

static enum tdm_fault_result buffer_fault(struct tdm_map *map, u64 va, u64 size, bool write)
{
	const struct tdm_script_buffer *b = map->arg;
	struct tdm_insert how = { TDM_INSERT_YOUNG | (write ? TDM_INSERT_WRITE | TDM_INSERT_DIRTY : 0), va, b->prefault };
	u64 first = map->off >> TDM_PAGE_SHIFT;
	struct tdm_inserted out;
	int r;

	if (first + ((va - map->start) >> TDM_PAGE_SHIFT) >= TDM_SCRIPT_BUFFER_PAGES)
		return TDM_FAULT_SIGBUS;
	if (b->filled && (va >> TDM_PAGE_SHIFT) % 2)
		return leaf_fault(map, va, size, (struct tdm_pfn){ pfn_of(b, first + ((va - map->start) >> TDM_PAGE_SHIFT)) }, &how);
	r = tdmi_insert_range(map, map->start, (struct tdm_pfn){ pfn_of(b, first) }, TDM_SCRIPT_BUFFER_PAGES - first, &how, &out);
	return !r || (out.start <= va && va < out.end) ? TDM_FAULT_DONE : r == -ENOMEM ? TDM_FAULT_OOM : TDM_FAULT_SIGBUS;
}

static void buffer_add(struct tdm_script_buffer *b, struct tdm_map *map)
{
	TDM_BUG_ON(b->nmaps == TDM_SCRIPT_MAPS);
	b->map[b->nmaps++] = map;
}

static void buffer_open(struct tdm_map *map, struct tdm_map *child)
{
	buffer_add(map->arg, child);
}

static void buffer_close(struct tdm_map *map)
{
	struct tdm_script_buffer *b = map->arg;
	u32 i = 0;

	while (b->map[i] != map)
		i++;
	b->map[i] = b->map[--b->nmaps];
}

static const struct tdm_map_ops buffer_ops = { .name = "buffer", .fault = buffer_fault, .open = buffer_open, .close = buffer_close };

void tdmi_script_buffer_init(struct tdm_script *x, u32 i)
{
	u64 first = x->m->w.phys.range[x->vram].first + i * 4 * TDM_HUGE_PAGES;

	/* The second place is not aligned: there it is mapped page by page. */
	x->buffer[i] = (struct tdm_script_buffer){ .x = x, .object = tdmi_model_object(&x->model, true), .place = { first, first + 2 * TDM_HUGE_PAGES + 3 },
		.prefault = i ? 16 : 0, .filled = i };
}

int tdmi_script_buffer_mmap(struct tdm_script *x, u32 b, struct tdm_space *s, u64 start, u64 len, uintptr_t rights, u64 off)
{
	struct tdm_map *map;
	int r;

	if (x->buffer[b].nmaps >= TDM_SCRIPT_MAPS - TDM_SCRIPT_PROCESSES * 8)
		return -ENOSPC;
	r = tdmi_mmap_driver(s, x->m->reader, start, len, rights | TDM_V_SPECIAL, &buffer_ops, &x->buffer[b], off, &map);
	if (!r)
		buffer_add(&x->buffer[b], map);
	return r;
}

int tdmi_script_buffer_fill(struct tdm_script *x, u32 i, uintptr_t rights)
{
	const struct tdm_script_buffer *b = &x->buffer[i];
	struct tdm_map *map = b->map[b->nmaps - 1];
	u64 first = map->off >> TDM_PAGE_SHIFT;
	struct tdm_inserted out;

	if (!b->filled || first >= TDM_SCRIPT_BUFFER_PAGES)
		return 0;
	return tdmi_remap_range(map, x->m->reader, map->start, (struct tdm_pfn){ pfn_of(b, first) }, TDM_SCRIPT_BUFFER_PAGES - first,
				rights & TDM_V_WRITE ? TDM_INSERT_WRITE : 0, &out);
}

int tdmi_script_buffer_insert(struct tdm_script *x, u32 b, struct tdm_space *s, u64 va, u32 index, u32 n, bool write)
{
	struct tdm_insert how = { .flags = write ? TDM_INSERT_WRITE : 0, .at = va };
	struct tdm_inserted out;
	struct tdm_vma v;
	int r = -EFAULT;

	tdmi_rcu_read_lock(x->m->reader);
	if (tdmi_vma_find(&s->vmas, va, &v))
		r = tdmi_insert_range(tdm_aptr_ld_acquire(&s->map[TDM_V_MAP(v.flags)]), va, (struct tdm_pfn){ pfn_of(&x->buffer[b], index) }, n, &how, &out);
	tdmi_rcu_read_unlock(x->m->reader);
	return r;
}

void tdmi_script_buffer_move(struct tdm_script *x, u32 i)
{
	struct tdm_script_buffer *b = &x->buffer[i];
	const struct tdm_model_object *o = &x->model.object[b->object];
	struct tdm_phys *phys = &x->m->w.phys;

	for (u32 k = 0; k < b->nmaps; k++) {
		struct tdm_map *map = b->map[k];

		tdmi_special_unmap(map, x->m->reader, map->start, map->start + (TDM_SCRIPT_BUFFER_PAGES << TDM_PAGE_SHIFT) - map->off, k % 2);
	}
	for (u32 page = 0; page < TDM_SCRIPT_BUFFER_PAGES; page++)
		if (o->word[page][0] || o->word[page][1]) {
			u8 *from = tdm_pfn_bytes(phys, (struct tdm_pfn){ b->place[b->at] + page });

			memcpy(tdm_pfn_bytes(phys, (struct tdm_pfn){ b->place[!b->at] + page }), from, TDM_PAGE_SIZE);
			memset(from, 0, TDM_PAGE_SIZE);
		}
	b->at = !b->at;
}

/* ---- a tier that can fail */

struct tier {
	struct tdm_tier base;
	struct tdm_tier *real;
	struct tdm_script *x;
};

static struct tier *self(const struct tdm_tier *t)
{
	return tdm_container_of((uintptr_t)t, struct tier, base);
}

static int tier_put(struct tdm_tier *t, const void *blob, u32 len, u64 *handle)
{
	struct tdm_tier *real = self(t)->real;

	return tdm_alloc_fails(&self(t)->x->fail[TDM_DO_FAIL_PUT]) ? -EIO : real->ops->put(real, blob, len, handle);
}

static int tier_get(struct tdm_tier *t, u64 handle, u32 len, void *buf, const void **ptr)
{
	struct tdm_tier *real = self(t)->real;

	return tdm_alloc_fails(&self(t)->x->fail[TDM_DO_FAIL_GET]) ? -EIO : real->ops->get(real, handle, len, buf, ptr);
}

static void tier_release(struct tdm_tier *t, u64 handle)
{
	self(t)->real->ops->release(self(t)->real, handle);
}

static void tier_drop(struct tdm_tier *t, u64 handle, u32 len)
{
	self(t)->real->ops->drop(self(t)->real, handle, len);
}

static void tier_shrink(struct tdm_tier *t, u64 bytes)
{
	self(t)->real->ops->shrink(self(t)->real, bytes);
}

static void tier_stats(const struct tdm_tier *t, struct tdm_tier_stats *out)
{
	self(t)->real->ops->stats(self(t)->real, out);
}

static void tier_destroy(struct tdm_tier *t)
{
	struct tier *me = self(t);

	me->real->ops->destroy(me->real);
	free(me);
}

static const struct tdm_tier_ops tier_ops = { .name = "failing", .put = tier_put, .get = tier_get, .release = tier_release, .drop = tier_drop,
	.shrink = tier_shrink,
					      .stats = tier_stats, .destroy = tier_destroy };

int tdmi_script_tier(void *script, struct tdm_tier **tier)
{
	struct tier *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->base = **tier;
	t->base.ops = &tier_ops;
	t->real = *tier;
	t->x = script;
	*tier = &t->base;
	return 0;
}
