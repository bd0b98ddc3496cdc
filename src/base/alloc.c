// SPDX-License-Identifier: MIT
#include "base/alloc.h"
#include "base/check.h"
#include "base/lockrank.h"
#include "base/poison.h"

#define CHUNK_SIZE ((size_t)64 << 10)
#define FREED_BYTE 0xa5

static const u16 class_size[TDM_ALLOC_CLASSES] = { 32, 64, 96, 128, 192, 256, 512, 1024, 1536, 2048, 4096 };

#define CHUNKS_A_PAGE (TDM_PAGE_SIZE / sizeof(void *) - 2)

struct tdm_alloc_page {
	struct tdm_alloc_page *next;
	size_t count;
	void *chunk[CHUNKS_A_PAGE];
};

_Static_assert(sizeof(struct tdm_alloc_page) == TDM_PAGE_SIZE, "a page of chunk pointers is a page");

static u32 class_of(size_t size)
{
	u32 c = 0;

	while (class_size[c] < size)
		c++;
	return c;
}

void tdmi_alloc_init(struct tdm_alloc *a)
{
	*a = (struct tdm_alloc){ 0 };
	plat_mutex_init(&a->lock, TDM_RANK_ALLOC);
}

void tdmi_alloc_reset(struct tdm_alloc *a)
{
	plat_mutex_reset(&a->lock);
}

void tdmi_alloc_destroy(struct tdm_alloc *a)
{
	struct tdm_alloc_page *page = a->pages, *next;

	for (; page; page = next) {
		next = page->next;
		for (size_t i = 0; i < page->count; i++) {
			tdm_unpoison(page->chunk[i], CHUNK_SIZE);
			plat_unmap(page->chunk[i], CHUNK_SIZE);
			tdm_a64_sub_relaxed(&a->mapped, CHUNK_SIZE);
		}
		plat_unmap(page, TDM_PAGE_SIZE);
		tdm_a64_sub_relaxed(&a->mapped, TDM_PAGE_SIZE);
	}
	TDM_BUG_ON(tdm_a64_ld_relaxed(&a->mapped) != 0);
	tdmi_alloc_init(a);
}

static void *map_counted(struct tdm_alloc *a, size_t size)
{
	void *p = plat_map(size);

	if (p)
		tdm_a64_add_relaxed(&a->mapped, size);
	return p;
}

/* A new chunk for the class. What was left of the last one is too small for an object. */
static bool refill_locked(struct tdm_alloc *a, u32 c)
{
	struct tdm_alloc_page *page = a->pages;
	u8 *chunk;

	if (!page || page->count == CHUNKS_A_PAGE) {
		page = map_counted(a, TDM_PAGE_SIZE);
		if (!page)
			return false;
		page->next = a->pages;
		a->pages = page;
	}
	chunk = map_counted(a, CHUNK_SIZE);
	if (!chunk)
		return false;
	page->chunk[page->count++] = chunk;
	a->carve[c] = chunk;
	a->carve_end[c] = chunk + CHUNK_SIZE;
	tdm_poison(chunk, CHUNK_SIZE);
	return true;
}

/* *fresh: never handed out, hence zero. */
static void *take_locked(struct tdm_alloc *a, u32 c, bool *fresh)
{
	size_t size = class_size[c];
	void *p = a->free[c];

	*fresh = !p;
	if (p) {
		tdm_unpoison(p, size);
		a->free[c] = *(void **)p;
		return p;
	}
	if ((size_t)(a->carve_end[c] - a->carve[c]) < size && !refill_locked(a, c))
		return NULL;
	p = a->carve[c];
	a->carve[c] += size;
	tdm_unpoison(p, size);
	return p;
}

#ifdef TDM_DEBUG
/* A freed object keeps its pattern until it is handed out again: whoever writes to it meanwhile is found. */
static void check_freed(const u8 *p, size_t size)
{
	for (size_t i = sizeof(void *); i < size; i++)
		if (p[i] != FREED_BYTE)
			TDM_BUG("write to freed engine memory");
}
#endif

void *tdmi_alloc(struct tdm_alloc *a, size_t size)
{
	bool fresh;
	void *p;
	u32 c;

	TDM_ASSERT(size > 0);
	if (tdm_alloc_fails(a->fail))
		return NULL;
	if (size > TDM_PAGE_SIZE) {
		size = TDM_ALIGN_UP(size, TDM_PAGE_SIZE);
		p = map_counted(a, size);
		if (p)
			tdm_a64_add_relaxed(&a->used, size);
		return p;
	}
	c = class_of(size);
	plat_mutex_lock(&a->lock);
	p = take_locked(a, c, &fresh);
	plat_mutex_unlock(&a->lock);
	if (!p)
		return NULL;
	tdm_a64_add_relaxed(&a->used, class_size[c]);
	if (!fresh) {
#ifdef TDM_DEBUG
		check_freed(p, class_size[c]);
#endif
		__builtin_memset(p, 0, class_size[c]);
	}
	return p;
}

void tdmi_free(struct tdm_alloc *a, void *p, size_t size)
{
	u32 c;

	if (!p)
		return;
	if (size > TDM_PAGE_SIZE) {
		size = TDM_ALIGN_UP(size, TDM_PAGE_SIZE);
		plat_unmap(p, size);
		tdm_a64_sub_relaxed(&a->used, size);
		tdm_a64_sub_relaxed(&a->mapped, size);
		return;
	}
	c = class_of(size);
	tdm_a64_sub_relaxed(&a->used, class_size[c]);
#ifdef TDM_DEBUG
	__builtin_memset(p, FREED_BYTE, class_size[c]);
#endif
	plat_mutex_lock(&a->lock);
	*(void **)p = a->free[c];
	a->free[c] = p;
	tdm_poison(p, class_size[c]);
	plat_mutex_unlock(&a->lock);
}
