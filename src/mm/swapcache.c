/* SPDX-License-Identifier: MIT */
/* swapcache.c - see swapcache.h. */
#include "mm/swapcache.h"
#include <string.h>
#include "base/lockrank.h"
#include "pool/codec.h"

#define IN_BLOCK 1024u
#define BLOCKS 65536u
#define NONE (~(u64)0)

struct slot {
	u64 handle;  /* NONE: no bytes */
	u64 pfn;     /* NONE: not in the cache; a free one: the next free one */
	u32 count;   /* entries, and whoever is evicting the page */
	bool loading;
	bool used;
};

struct tdm_swapcache {
	struct plat_mutex lock;
	u64 free, n;
	tdm_a32 loaded; /* changes when a load has ended */
	struct slot *block[BLOCKS];
};

#define BYTES TDM_ALIGN_UP(sizeof(struct tdm_swapcache), TDM_PAGE_SIZE)

int tdmi_swapcache_init(struct tdm_world *w)
{
	struct tdm_swapcache *c = plat_map(BYTES);

	if (!c)
		return -ENOMEM;
	plat_mutex_init(&c->lock, TDM_RANK_SLOTS);
	c->free = NONE;
	w->swapcache = c;
	return 0;
}

void tdmi_swapcache_destroy(struct tdm_world *w)
{
	struct tdm_swapcache *c = w->swapcache;

	if (!c)
		return;
	for (u32 i = 0; i < BLOCKS && c->block[i]; i++)
		plat_unmap(c->block[i], TDM_ALIGN_UP(IN_BLOCK * sizeof(struct slot), TDM_PAGE_SIZE));
	plat_unmap(c, BYTES);
	w->swapcache = NULL;
}

static struct slot *at(struct tdm_swapcache *c, u64 i)
{
	TDM_BUG_ON(i >= c->n || !c->block[i / IN_BLOCK][i % IN_BLOCK].used);
	return &c->block[i / IN_BLOCK][i % IN_BLOCK];
}

static int take_free(struct tdm_swapcache *c, u64 *i)
{
	*i = c->free;
	if (*i != NONE) {
		c->free = c->block[*i / IN_BLOCK][*i % IN_BLOCK].pfn;
		return 0;
	}
	if (c->n % IN_BLOCK == 0) {
		if (c->n / IN_BLOCK == BLOCKS)
			return -ENOMEM;
		c->block[c->n / IN_BLOCK] = plat_map(TDM_ALIGN_UP(IN_BLOCK * sizeof(struct slot), TDM_PAGE_SIZE));
		if (!c->block[c->n / IN_BLOCK])
			return -ENOMEM;
	}
	*i = c->n++;
	return 0;
}

static void put_free(struct tdm_swapcache *c, u64 i)
{
	*at(c, i) = (struct slot){ .pfn = c->free };
	c->free = i;
}

static int slot_add(struct tdm_world *w, struct tdm_pfn pfn, u64 *slot)
{
	struct tdm_page *pg = tdm_pfn_page(&w->phys, pfn);
	struct tdm_swapcache *c = w->swapcache;
	int r;

	plat_mutex_lock(&c->lock);
	TDM_BUG_ON(pg->slot);
	r = take_free(c, slot);
	if (!r) {
		c->block[*slot / IN_BLOCK][*slot % IN_BLOCK] = (struct slot){ .handle = NONE, .pfn = pfn.v, .used = true, .count = 1 };
		pg->slot = (u32)*slot + 1;
		tdm_page_get(pg);
	}
	plat_mutex_unlock(&c->lock);
	return r;
}

void tdmi_slot_dup(struct tdm_world *w, u64 slot)
{
	plat_mutex_lock(&w->swapcache->lock);
	at(w->swapcache, slot)->count++;
	plat_mutex_unlock(&w->swapcache->lock);
}

/* Nobody wants the slot. What is to be let go of outside of the lock: *handle, *pfn; NONE: nothing. */
static void end(struct tdm_world *w, u64 i, u64 *handle, u64 *pfn)
{
	struct slot *s = at(w->swapcache, i);

	*handle = s->handle;
	*pfn = s->pfn;
	if (s->pfn != NONE)
		tdm_pfn_page(&w->phys, (struct tdm_pfn){ s->pfn })->slot = 0;
	put_free(w->swapcache, i);
}

static void let_go(struct tdm_world *w, u64 handle, u64 pfn)
{
	if (handle != NONE)
		tdmi_swap_drop(w->swap, handle, 1);
	if (pfn != NONE)
		tdmi_page_put(w, (struct tdm_pfn){ pfn });
}

void tdmi_slot_put(struct tdm_world *w, u64 slot)
{
	u64 handle = NONE, pfn = NONE;
	struct slot *s;

	plat_mutex_lock(&w->swapcache->lock);
	s = at(w->swapcache, slot);
	TDM_BUG_ON(!s->count);
	/* Who loads it will see that nobody wants it. */
	if (!--s->count && !s->loading)
		end(w, slot, &handle, &pfn);
	plat_mutex_unlock(&w->swapcache->lock);
	let_go(w, handle, pfn);
}

u32 tdmi_slot_count(struct tdm_world *w, u64 slot)
{
	u32 n;

	plat_mutex_lock(&w->swapcache->lock);
	n = at(w->swapcache, slot)->count;
	plat_mutex_unlock(&w->swapcache->lock);
	return n;
}

bool tdmi_slot_state(struct tdm_world *w, u64 slot, struct tdm_slot_state *out)
{
	struct tdm_swapcache *c = w->swapcache;
	bool is;

	plat_mutex_lock(&c->lock);
	is = slot < c->n;
	*out = (struct tdm_slot_state){ 0 };
	if (is) {
		const struct slot *s = &c->block[slot / IN_BLOCK][slot % IN_BLOCK];

		*out = (struct tdm_slot_state){ .used = s->used, .stored = s->used && s->handle != NONE, .cached = s->used && s->pfn != NONE, .count = s->count,
						.pfn = { s->pfn } };
	}
	plat_mutex_unlock(&c->lock);
	return is;
}

bool tdmi_slot_has(struct tdm_world *w, u64 slot, const struct tdm_page *pg)
{
	bool has;

	plat_mutex_lock(&w->swapcache->lock);
	has = pg->slot == (u32)slot + 1;
	plat_mutex_unlock(&w->swapcache->lock);
	return has;
}

/* It has been marked as being loaded. */
static int load(struct tdm_world *w, u64 slot, u64 handle, struct tdm_swap_ws *ws, struct tdm_pfn *pfn)
{
	struct tdm_swapcache *c = w->swapcache;
	struct tdm_page *pg = tdmi_page_alloc(&w->phys, w->ram, pfn);
	u64 old = NONE, none = NONE;
	void *dst[TDM_BLOB_PAGES] = { pg ? tdm_pfn_bytes(&w->phys, *pfn) : NULL };
	int r = pg ? tdmi_swap_in(w->swap, ws, handle, 1, dst) : -ENOMEM;
	struct slot *s;

	plat_mutex_lock(&c->lock);
	s = at(c, slot);
	s->loading = false;
	if (!s->count) {
		end(w, slot, &old, &none);
		r = r ? r : -EAGAIN;
	} else if (!r) {
		s->pfn = pfn->v;
		pg->slot = (u32)slot + 1;
		tdm_page_get(pg);
	}
	tdm_a32_add_acqrel(&c->loaded, 1);
	plat_mutex_unlock(&c->lock);
	plat_wake(&c->loaded, ~(u32)0 >> 1);
	let_go(w, old, none);
	if (r && pg)
		tdmi_page_put(w, *pfn);
	tdm_world_work(w, TDM_WORK_UNPACK, 1);
	return r;
}

int tdmi_slot_get_page(struct tdm_world *w, u64 slot, struct tdm_swap_ws *ws, struct tdm_pfn *pfn)
{
	struct tdm_swapcache *c = w->swapcache;

	for (;;) {
		u32 loaded = tdm_a32_ld_acquire(&c->loaded);
		struct slot *s;
		u64 handle;

		plat_mutex_lock(&c->lock);
		if (slot >= c->n || !c->block[slot / IN_BLOCK][slot % IN_BLOCK].used) {
			plat_mutex_unlock(&c->lock);
			return -EAGAIN;
		}
		s = at(c, slot);
		if (s->pfn != NONE) {
			*pfn = (struct tdm_pfn){ s->pfn };
			tdm_page_get(tdm_pfn_page(&w->phys, *pfn));
			plat_mutex_unlock(&c->lock);
			return 0;
		}
		handle = s->handle;
		if (!s->loading) {
			s->loading = true;
			plat_mutex_unlock(&c->lock);
			return load(w, slot, handle, ws, pfn);
		}
		plat_mutex_unlock(&c->lock);
		plat_wait(&c->loaded, loaded, ~(u64)0);
	}
}

bool tdmi_slot_take(struct tdm_world *w, struct tdm_page *pg, u32 refs)
{
	struct tdm_swapcache *c = w->swapcache;
	u64 handle = NONE, pfn = NONE;
	bool ours;

	plat_mutex_lock(&c->lock);
	/* Under the lock nobody gets a reference by the slot; one by an entry the caller excludes. */
	ours = pg->slot && !at(c, pg->slot - 1)->count && tdm_page_refs(pg) == refs + 1;
	if (ours)
		end(w, pg->slot - 1, &handle, &pfn);
	plat_mutex_unlock(&c->lock);
	let_go(w, handle, pfn);
	return ours;
}

int tdmi_slot_for(struct tdm_world *w, struct tdm_pfn pfn, u64 *slot)
{
	struct tdm_swapcache *c = w->swapcache;
	u32 has;

	plat_mutex_lock(&c->lock);
	has = tdm_pfn_page(&w->phys, pfn)->slot;
	if (has)
		at(c, has - 1)->count++;
	plat_mutex_unlock(&c->lock);
	*slot = (u64)has - 1;
	return has ? 0 : slot_add(w, pfn, slot);
}

/* The page's bytes are stored: take it out of the cache, unless somebody has come to it. The reference of the cache is in *cached then, and in *old a handle
 * that is not wanted. The lock is held. */
static int out(struct tdm_world *w, u64 i, struct tdm_page *pg, u64 handle, u32 refs, u64 *old, u64 *cached)
{
	struct slot *s = at(w->swapcache, i);

	*old = s->handle != handle ? handle : NONE;
	if (tdm_page_refs(pg) != refs + 1)
		return -EBUSY;
	TDM_BUG_ON(pg->slot != (u32)i + 1);
	s->handle = handle;
	*old = NONE;
	*cached = s->pfn;
	s->pfn = NONE;
	pg->slot = 0;
	return 0;
}

int tdmi_slot_write(struct tdm_world *w, u64 slot, struct tdm_swap_ws *ws, struct tdm_pfn pfn, u32 refs)
{
	struct tdm_page *pg = tdm_pfn_page(&w->phys, pfn);
	struct tdm_swapcache *c = w->swapcache;
	const void *page[1] = { tdm_pfn_bytes(&w->phys, pfn) };
	u64 handle, old = NONE, cached = NONE;
	int r = 0;

	/* Bytes that are there already are right: a page in the cache is not written, but taken out before. */
	plat_mutex_lock(&c->lock);
	handle = at(c, slot)->handle;
	plat_mutex_unlock(&c->lock);
	if (handle == NONE) {
		r = tdmi_swap_out(w->swap, ws, page, 1, true, &handle);
		tdm_world_work(w, TDM_WORK_PACK, !r);
	}
	if (!r) {
		plat_mutex_lock(&c->lock);
		r = out(w, slot, pg, handle, refs, &old, &cached);
		plat_mutex_unlock(&c->lock);
		let_go(w, old, cached);
	}
	tdmi_slot_put(w, slot);
	return r;
}
