/* SPDX-License-Identifier: MIT */
/*
 * store.c - see store.h.
 *
 * Words: an *arena* is 16 MiB of addresses, cut into 64 *chunks*; a chunk is empty, or belongs to a *class* and is cut into *slots* of
 * its size; a slot holds a 4-byte handle and the object's bytes. Chunks of a class that have room are kept in four lists by how full they are;
 * a new object goes to the fullest, so that thin ones run empty by themselves.
 *
 * Locking: everything is guarded by lock, but for an object's bytes (whoever has it pinned may read or, before its handle is
 * known, write them), the pin counts (raised under the lock, lowered without) and the two counters.
 */
#include <string.h>

#include "base/bitops.h"
#include "base/check.h"
#include "base/list.h"
#include "base/lockrank.h"
#include "pool/store.h"

#define CHUNK_SIZE ((size_t)256 * 1024)
#define CHUNK_PAGES 64u
#define CHUNK_SLOTS_MAX 4096u
#define ARENA_CHUNKS 64u
#define ARENA_SIZE (CHUNK_SIZE * ARENA_CHUNKS)
#define ARENAS_MAX 16384u
#define CLASSES 164u
#define GROUPS 4u
#define KEEP_EMPTY 4u /* empty chunks that keep their memory for the next class that wants one */

#define HANDLE_BLOCK 8192u /* handles in 64 KiB */
#define HANDLE_BLOCKS_MAX 32768u
#define NONE (~(u32)0)
#define PINS_FREE (~(u32)0)

struct chunk {
	struct tdm_list link; /* class->partial[group], store->empty, store->clean; itself: full, or in somebody's hands */
	u8 *base;
	u64 touched;          /* bit per page: it is physical memory */
	u32 index;            /* written once */
	u16 class;
	u16 used;             /* slots */
	u16 cap;
	u16 hint;             /* no free slot lies below */
	u64 map[CHUNK_SLOTS_MAX / 64];
};

struct arena {
	u8 *base;
	struct chunk *chunks; /* ARENA_CHUNKS of them */
};

struct class {
	u32 size;
	u16 cap;
	u32 nchunks;
	u64 used; /* slots */
	struct tdm_list partial[GROUPS]; /* by how full: [0] less than a quarter ... */
};

struct entry {
	u32 loc;      /* chunk index << 12 | slot; when free: the next free handle */
	tdm_a32 pins; /* PINS_FREE: the handle is free */
};

struct tdm_store {
	struct plat_mutex lock; /* TDM_RANK_STORE */
	u64 limit;
	tdm_a64 mem;     /* bytes of physical memory; written under the lock */
	tdm_a64 objects; /* bytes of used slots; written under the lock */
	u64 dropped;     /* bytes of slots freed since the limit last asked for compaction */
	struct class class[CLASSES];
	struct tdm_list empty; /* touched: memory to reuse */
	u32 nempty;
	struct tdm_list clean; /* no memory behind them */
	u32 narenas;
	u32 free_handle; /* list through loc; NONE: empty */
	u32 nhandles;    /* ever made */
	struct arena arenas[ARENAS_MAX];
	struct entry *handles[HANDLE_BLOCKS_MAX];
};

/* ---- sizes ----------------------------------------------------------------------------------------------------------- */

/* Steps of 64 bytes up to 2 KiB, 128 up to 8, 512 up to 32, 1024 up to 68: at most 6%, 3% on average, from 1 KiB on. */
static u32 class_of(u32 size)
{
	if (size <= 2048)
		return (size - 1) / 64;
	if (size <= 8192)
		return 32 + (size - 2049) / 128;
	if (size <= 32768)
		return 80 + (size - 8193) / 512;
	return 128 + (size - 32769) / 1024;
}

static u32 class_size(u32 c)
{
	if (c < 32)
		return (c + 1) * 64;
	if (c < 80)
		return 2048 + (c - 31) * 128;
	if (c < 128)
		return 8192 + (c - 79) * 512;
	return 32768 + (c - 127) * 1024;
}

static void mem_add(struct tdm_store *s, u64 bytes)
{
	tdm_a64_st_relaxed(&s->mem, tdm_a64_ld_relaxed(&s->mem) + bytes);
}

static void mem_sub(struct tdm_store *s, u64 bytes)
{
	tdm_a64_st_relaxed(&s->mem, tdm_a64_ld_relaxed(&s->mem) - bytes);
}

static bool over_limit(const struct tdm_store *s, u64 more)
{
	return s->limit && tdm_a64_ld_relaxed(&s->mem) + more > s->limit;
}

static void objects_add(struct tdm_store *s, s64 bytes)
{
	tdm_a64_st_relaxed(&s->objects, tdm_a64_ld_relaxed(&s->objects) + (u64)bytes);
}

static u64 pages_of(const struct chunk *c, u32 slot, u32 bytes)
{
	u32 start = slot * class_size(c->class);

	return TDM_BITS(start >> TDM_PAGE_SHIFT, (u32)TDM_ALIGN_UP(start + bytes, TDM_PAGE_SIZE) >> TDM_PAGE_SHIFT);
}

/* How many of the pages were not there before. */
static u64 touch(struct tdm_store *s, struct chunk *c, u64 pages)
{
	u64 fresh = tdm_count_bits(pages & ~c->touched);

	mem_add(s, fresh * TDM_PAGE_SIZE);
	c->touched |= pages;
	return fresh;
}

static u8 *slot_ptr(const struct chunk *c, u32 slot)
{
	return c->base + (size_t)slot * class_size(c->class);
}

static struct chunk *chunk_at(struct tdm_store *s, u32 index)
{
	return &s->arenas[index / ARENA_CHUNKS].chunks[index % ARENA_CHUNKS];
}

static struct entry *entry_at(struct tdm_store *s, u32 handle)
{
	return &s->handles[handle / HANDLE_BLOCK][handle % HANDLE_BLOCK];
}

/* The live entry of a handle. */
static struct entry *entry_get(struct tdm_store *s, u32 handle)
{
	struct entry *e;

	TDM_BUG_ON(handle >= s->nhandles);
	e = entry_at(s, handle);
	TDM_BUG_ON(tdm_a32_ld_relaxed(&e->pins) == PINS_FREE);
	return e;
}

/* ---- chunks ---------------------------------------------------------------------------------------------------------- */

/* Put a chunk into the list where it belongs. */
static void chunk_file(struct tdm_store *s, struct chunk *c)
{
	u32 group = (u32)c->used * GROUPS / c->cap;

	tdm_list_del(&c->link);
	if (group < GROUPS)
		tdm_list_add_head(&s->class[c->class].partial[group], &c->link);
}

static int arena_add(struct tdm_store *s)
{
	size_t table = TDM_ALIGN_UP(ARENA_CHUNKS * sizeof(struct chunk), TDM_PAGE_SIZE);
	struct arena a;

	if (s->narenas == ARENAS_MAX)
		return -ENOMEM;
	if (over_limit(s, table))
		return -ENOSPC;
	a.base = plat_map(ARENA_SIZE);
	if (!a.base)
		return -ENOMEM;
	a.chunks = plat_map(table);
	if (!a.chunks) {
		plat_unmap(a.base, ARENA_SIZE);
		return -ENOMEM;
	}
	for (u32 i = 0; i < ARENA_CHUNKS; i++) {
		a.chunks[i].base = a.base + i * CHUNK_SIZE;
		a.chunks[i].index = s->narenas * ARENA_CHUNKS + i;
		tdm_list_init(&a.chunks[i].link);
		tdm_list_add_tail(&s->clean, &a.chunks[i].link);
	}
	s->arenas[s->narenas++] = a;
	mem_add(s, table);
	return 0;
}

/* An empty chunk for a class; -ENOMEM. */
static int chunk_take(struct tdm_store *s, u32 class, struct chunk **out)
{
	struct tdm_list *from = &s->empty;
	struct chunk *c;
	int r;

	if (tdm_list_empty(from)) {
		from = &s->clean;
		if (tdm_list_empty(from)) {
			r = arena_add(s);
			if (r)
				return r;
		}
	} else {
		s->nempty--;
	}
	c = tdm_container_of(from->next, struct chunk, link);
	tdm_list_del(&c->link);
	c->class = (u16)class;
	c->cap = s->class[class].cap;
	c->hint = 0;
	s->class[class].nchunks++;
	chunk_file(s, c);
	*out = c;
	return 0;
}

/* Give an empty chunk's memory back. Lets go of the lock meanwhile: c is in no list. The bytes. */
static u64 chunk_clean_unlock_lock(struct tdm_store *s, struct chunk *c)
{
	u64 bytes = tdm_count_bits(c->touched) * TDM_PAGE_SIZE;

	plat_mutex_unlock(&s->lock);
	plat_discard(c->base, CHUNK_SIZE);
	plat_mutex_lock(&s->lock);
	c->touched = 0;
	mem_sub(s, bytes);
	tdm_list_add_head(&s->clean, &c->link);
	return bytes;
}

/* ---- slots ----------------------------------------------------------------------------------------------------------- */

static struct chunk *class_fullest(struct class *k, const struct chunk *except)
{
	for (u32 g = GROUPS; g-- > 0;) {
		const struct tdm_list *head = &k->partial[g];
		struct tdm_list *l = k->partial[g].next;

		if (except && l == &except->link)
			l = except->link.next;
		if (l != head)
			return tdm_container_of(l, struct chunk, link);
	}
	return NULL;
}

static u32 slot_take(struct tdm_store *s, struct chunk *c)
{
	u32 slot = (u32)tdm_bitmap_next_clear(c->map, c->hint, c->cap);

	TDM_BUG_ON(slot >= c->cap);
	tdm_bitmap_set(c->map, slot);
	c->hint = (u16)(slot + 1);
	c->used++;
	s->class[c->class].used++;
	objects_add(s, class_size(c->class));
	chunk_file(s, c);
	return slot;
}

/* Free a slot. When it was the chunk's last, the chunk belongs to no class any more: true, it is in no list and the caller's. */
static bool slot_free(struct tdm_store *s, struct chunk *c, u32 slot)
{
	struct class *k = &s->class[c->class];

	TDM_BUG_ON(!tdm_bitmap_test(c->map, slot));
	tdm_bitmap_clear(c->map, slot);
	if (slot < c->hint)
		c->hint = (u16)slot;
	c->used--;
	k->used--;
	objects_add(s, -(s64)k->size);
	if (c->used) {
		chunk_file(s, c);
		return false;
	}
	tdm_list_del(&c->link);
	k->nchunks--;
	return true;
}

/* ---- handles --------------------------------------------------------------------------------------------------------- */

static int handle_take(struct tdm_store *s, u32 *out)
{
	u32 h = s->free_handle;

	if (h != NONE) {
		s->free_handle = entry_at(s, h)->loc;
		*out = h;
		return 0;
	}
	h = s->nhandles;
	if (h == HANDLE_BLOCK * HANDLE_BLOCKS_MAX || (h * sizeof(struct entry) % TDM_PAGE_SIZE == 0 && over_limit(s, TDM_PAGE_SIZE)))
		return -ENOSPC;
	if (h % HANDLE_BLOCK == 0) {
		s->handles[h / HANDLE_BLOCK] = plat_map(HANDLE_BLOCK * sizeof(struct entry));
		if (!s->handles[h / HANDLE_BLOCK])
			return -ENOMEM;
	}
	if (h * sizeof(struct entry) % TDM_PAGE_SIZE == 0)
		mem_add(s, TDM_PAGE_SIZE);
	s->nhandles++;
	*out = h;
	return 0;
}

static void handle_free(struct tdm_store *s, u32 handle)
{
	struct entry *e = entry_at(s, handle);

	tdm_a32_st_relaxed(&e->pins, PINS_FREE);
	e->loc = s->free_handle;
	s->free_handle = handle;
}

/* ---- compaction ------------------------------------------------------------------------------------------------------ */

/* Move the object in a slot to another chunk, or to a lower slot of its own. false: it is pinned. */
static bool object_move(struct tdm_store *s, struct chunk *from, u32 slot, struct chunk *to)
{
	u8 *src = slot_ptr(from, slot);
	u32 handle, size = class_size(from->class), dst;
	struct entry *e;

	memcpy(&handle, src, sizeof(handle));
	e = entry_get(s, handle);
	if (tdm_a32_ld_acquire(&e->pins))
		return false;
	dst = slot_take(s, to);
	touch(s, to, pages_of(to, dst, size));
	memcpy(slot_ptr(to, dst), src, size);
	e->loc = to->index << 12 | dst;
	return true;
}

static u32 highest_used(const struct chunk *c)
{
	for (u32 w = CHUNK_SLOTS_MAX / 64; w-- > 0;)
		if (c->map[w])
			return w * 64 + tdm_highest_bit(c->map[w]);
	return NONE;
}

static struct chunk *class_thinnest(struct class *k)
{
	struct chunk *best = NULL;

	for (u32 g = 0; g < GROUPS && !best; g++)
		for (struct tdm_list *l = k->partial[g].next; l != &k->partial[g]; l = l->next) {
			struct chunk *c = tdm_container_of(l, struct chunk, link);

			if (!best || c->used < best->used)
				best = c;
		}
	return best;
}

/* Empty one chunk of a class into the others. The bytes that came back; 0: there is nothing (more) to gain. Lets go of the lock after every
 * object. */
static u64 class_compact(struct tdm_store *s, struct class *k)
{
	struct chunk *from = class_thinnest(k), *to;
	u32 index, class;

	if (!from || k->nchunks * (u64)k->cap - k->used < k->cap)
		return 0;
	index = from->index;
	class = from->class;
	for (;;) {
		u32 slot = highest_used(from);

		to = class_fullest(k, from);
		if (!to || !object_move(s, from, slot, to))
			return 0;
		if (slot_free(s, from, slot))
			return chunk_clean_unlock_lock(s, from);
		plat_mutex_unlock(&s->lock);
		plat_mutex_lock(&s->lock);
		/* Meanwhile it may have been emptied, and be anything. */
		from = chunk_at(s, index);
		if (from->class != class || !from->used || from->used == from->cap ||
		    k->nchunks * (u64)k->cap - k->used < k->cap)
			return 0;
	}
}

/* Pages of a thin chunk in which no object lies. Before that, objects move down into its holes. */
static u64 chunk_trim(struct tdm_store *s, struct chunk *c)
{
	u64 live = 0, dead, bytes = 0;

	for (;;) {
		u32 slot = highest_used(c);

		c->hint = (u16)tdm_bitmap_next_clear(c->map, c->hint, c->cap);
		if (c->hint >= slot || !object_move(s, c, slot, c))
			break;
		TDM_BUG_ON(slot_free(s, c, slot));
	}
	tdm_bitmap_for_each(slot, c->map, 0, c->cap)
		live |= pages_of(c, (u32)slot, class_size(c->class));
	dead = c->touched & ~live;
	for (u32 i = 0; i < CHUNK_PAGES;) {
		u32 end = i;

		while (end < CHUNK_PAGES && (dead >> end & 1))
			end++;
		if (end > i) {
			plat_discard(c->base + i * TDM_PAGE_SIZE, (end - i) * TDM_PAGE_SIZE);
			bytes += (end - i) * TDM_PAGE_SIZE;
		}
		i = end + 1;
	}
	c->touched &= live;
	mem_sub(s, bytes);
	return bytes;
}

static u64 shrink_locked(struct tdm_store *s, u64 bytes)
{
	u64 done = 0, got;

	while (done < bytes && !tdm_list_empty(&s->empty)) {
		struct chunk *c = tdm_container_of(s->empty.next, struct chunk, link);

		tdm_list_del(&c->link);
		s->nempty--;
		done += chunk_clean_unlock_lock(s, c);
	}
	for (u32 i = 0; i < CLASSES && done < bytes; i++) {
		do {
			got = class_compact(s, &s->class[i]);
			done += got;
		} while (got && done < bytes);
	}
	for (u32 i = 0; i < CLASSES; i++)
		for (u32 g = 0; g < GROUPS; g++) {
			/* The trim files the chunk again, at the head of the list where it is: go on from what was behind it. */
			for (struct tdm_list *l = s->class[i].partial[g].next, *next; l != &s->class[i].partial[g] && done < bytes; l = next) {
				next = l->next;
				done += chunk_trim(s, tdm_container_of(l, struct chunk, link));
			}
		}
	return done;
}

u64 tdmi_store_shrink(struct tdm_store *s, u64 bytes)
{
	u64 done;

	plat_mutex_lock(&s->lock);
	done = shrink_locked(s, bytes);
	plat_mutex_unlock(&s->lock);
	return done;
}

/* ---- objects --------------------------------------------------------------------------------------------------------- */

/* Where an object of len bytes would lie if it were put now. The chunk is one with a free slot; nothing is taken yet. */
static int place(struct tdm_store *s, u32 class, u32 len, struct chunk **out)
{
	struct chunk *c = class_fullest(&s->class[class], NULL);
	u32 slot;

	if (!c) {
		int r = chunk_take(s, class, &c);

		if (r)
			return r;
	}
	*out = c;
	if (!s->limit)
		return 0;
	slot = (u32)tdm_bitmap_next_clear(c->map, c->hint, c->cap);
	if (!over_limit(s, tdm_count_bits(pages_of(c, slot, len + 4) & ~c->touched) * TDM_PAGE_SIZE))
		return 0;
	if (!c->used) {
		tdm_list_del(&c->link);
		s->class[class].nchunks--;
		tdm_list_add_head(c->touched ? &s->empty : &s->clean, &c->link);
		s->nempty += !!c->touched;
	}
	return -ENOSPC;
}

/* The limit is reached: is some of it slack? Ask only when enough was dropped since the last time to make a difference. */
static bool make_room(struct tdm_store *s, u32 len)
{
	if (!s->nempty && s->dropped < s->limit / 64)
		return false;
	if (!s->nempty)
		s->dropped = 0;
	return shrink_locked(s, TDM_MAX(s->limit / 64, len + CHUNK_SIZE)) != 0;
}

int tdmi_store_put(struct tdm_store *s, const void *bytes, u32 len, u32 *handle)
{
	struct chunk *c = NULL;
	struct entry *e;
	u32 class, slot;
	bool fresh;
	u8 *p;
	int r;

	TDM_BUG_ON(!len || len > TDM_STORE_OBJECT_MAX);
	class = class_of(len + 4);
	plat_mutex_lock(&s->lock);
	r = handle_take(s, handle);
	if (r)
		goto out_unlock;
	r = place(s, class, len, &c);
	if (r == -ENOSPC && make_room(s, len))
		r = place(s, class, len, &c);
	if (r) {
		handle_free(s, *handle);
		goto out_unlock;
	}
	slot = slot_take(s, c);
	fresh = touch(s, c, pages_of(c, slot, len + 4)) > 1;
	e = entry_at(s, *handle);
	tdm_a32_st_relaxed(&e->pins, 1);
	e->loc = c->index << 12 | slot;
	p = slot_ptr(c, slot);
	memcpy(p, handle, sizeof(*handle));
	plat_mutex_unlock(&s->lock);
	if (fresh)
		plat_copy_new(p + 4, bytes, len);
	else
		memcpy(p + 4, bytes, len);
	tdm_a32_sub_acqrel(&e->pins, 1);
	return 0;

out_unlock:
	plat_mutex_unlock(&s->lock);
	return r;
}

const void *tdmi_store_get(struct tdm_store *s, u32 handle)
{
	struct entry *e;
	u8 *p;

	plat_mutex_lock(&s->lock);
	e = entry_get(s, handle);
	tdm_a32_add_relaxed(&e->pins, 1);
	p = slot_ptr(chunk_at(s, e->loc >> 12), e->loc & 4095);
	plat_mutex_unlock(&s->lock);
	return p + 4;
}

void tdmi_store_release(struct tdm_store *s, u32 handle)
{
	/* The table never moves, and this handle is live: no lock. */
	u32 old = tdm_a32_sub_acqrel(&entry_at(s, handle)->pins, 1);

	TDM_BUG_ON(old == 0 || old == PINS_FREE);
}

void tdmi_store_drop(struct tdm_store *s, u32 handle)
{
	struct chunk *c;
	struct entry *e;
	u32 loc;

	plat_mutex_lock(&s->lock);
	e = entry_get(s, handle);
	TDM_BUG_ON(tdm_a32_ld_acquire(&e->pins) != 0);
	loc = e->loc;
	handle_free(s, handle);
	c = chunk_at(s, loc >> 12);
	s->dropped += class_size(c->class);
	if (slot_free(s, c, loc & 4095)) {
		if (s->nempty < KEEP_EMPTY) {
			tdm_list_add_head(&s->empty, &c->link);
			s->nempty++;
		} else {
			chunk_clean_unlock_lock(s, c);
		}
	}
	plat_mutex_unlock(&s->lock);
}

u64 tdmi_store_mem_bytes(const struct tdm_store *s)
{
	return tdm_a64_ld_relaxed(&s->mem);
}

u64 tdmi_store_object_bytes(const struct tdm_store *s)
{
	return tdm_a64_ld_relaxed(&s->objects);
}

/* ---- the store ------------------------------------------------------------------------------------------------------- */

struct tdm_store *tdmi_store_create(u64 limit)
{
	struct tdm_store *s = plat_map(TDM_ALIGN_UP(sizeof(*s), TDM_PAGE_SIZE));

	if (!s)
		return NULL;
	plat_mutex_init(&s->lock, TDM_RANK_STORE);
	s->limit = limit;
	s->free_handle = NONE;
	tdm_list_init(&s->empty);
	tdm_list_init(&s->clean);
	for (u32 i = 0; i < CLASSES; i++) {
		s->class[i].size = class_size(i);
		s->class[i].cap = (u16)(CHUNK_SIZE / class_size(i));
		for (u32 g = 0; g < GROUPS; g++)
			tdm_list_init(&s->class[i].partial[g]);
	}
	/* What is touched now, and a page each of the two tables that follow. */
	mem_add(s, TDM_ALIGN_UP(offsetof(struct tdm_store, arenas), TDM_PAGE_SIZE) + 2 * TDM_PAGE_SIZE);
	return s;
}

void tdmi_store_destroy(struct tdm_store *s)
{
	if (!s)
		return;
	for (u32 i = 0; i < s->narenas; i++) {
		plat_unmap(s->arenas[i].base, ARENA_SIZE);
		plat_unmap(s->arenas[i].chunks, TDM_ALIGN_UP(ARENA_CHUNKS * sizeof(struct chunk), TDM_PAGE_SIZE));
	}
	for (u32 i = 0; i < HANDLE_BLOCKS_MAX && s->handles[i]; i++)
		plat_unmap(s->handles[i], HANDLE_BLOCK * sizeof(struct entry));
	plat_unmap(s, TDM_ALIGN_UP(sizeof(*s), TDM_PAGE_SIZE));
}

void tdmi_store_forked(struct tdm_store *s)
{
	plat_mutex_reset(&s->lock);
	/* Who was reading in the parent while it was copied does not exist here. Looked at first: a write would copy the page. */
	for (u32 h = 0; h < s->nhandles; h++) {
		struct entry *e = entry_at(s, h);
		u32 pins = tdm_a32_ld_relaxed(&e->pins);

		if (pins && pins != PINS_FREE)
			tdm_a32_st_relaxed(&e->pins, 0);
	}
}

void tdmi_store_check(struct tdm_store *s)
{
	u64 mem = TDM_ALIGN_UP(offsetof(struct tdm_store, arenas), TDM_PAGE_SIZE) + 2 * TDM_PAGE_SIZE;
	u64 objects = 0, used = 0, live = 0;

	mem += s->narenas * TDM_ALIGN_UP(ARENA_CHUNKS * sizeof(struct chunk), TDM_PAGE_SIZE);
	mem += TDM_ALIGN_UP(s->nhandles * sizeof(struct entry), TDM_PAGE_SIZE);
	for (u32 i = 0; i < s->narenas * ARENA_CHUNKS; i++) {
		struct chunk *c = chunk_at(s, i);
		u64 n = 0;

		mem += tdm_count_bits(c->touched) * TDM_PAGE_SIZE;
		if (!c->used)
			continue;
		tdm_bitmap_for_each(slot, c->map, 0, c->cap) {
			u32 handle;

			memcpy(&handle, slot_ptr(c, (u32)slot), sizeof(handle));
			TDM_BUG_ON(entry_get(s, handle)->loc != (i << 12 | (u32)slot));
			n++;
		}
		TDM_BUG_ON(n != c->used || n > c->cap);
		TDM_BUG_ON(tdm_bitmap_next_clear(c->map, 0, c->cap) < c->hint);
		TDM_BUG_ON((c->used == c->cap) != tdm_list_empty(&c->link));
		used += n;
		objects += n * class_size(c->class);
	}
	for (u32 i = 0; i < s->nhandles; i++)
		live += tdm_a32_ld_relaxed(&entry_at(s, i)->pins) != PINS_FREE;
	TDM_BUG_ON(mem != tdmi_store_mem_bytes(s));
	TDM_BUG_ON(objects != tdmi_store_object_bytes(s));
	TDM_BUG_ON(used != live);
}
