// SPDX-License-Identifier: MIT
/*
 * codec.c - pool/codec.h and pool/tier.h for the explorer: pages are stored as they are, since what a compression library writes no hook would see. How blobs come, are
 * shared, move and go is the engine's own mm/swap.c.
 */
#include <string.h>
#include "base/check.h"
#include "pool/codec.h"
#include "pool/tier.h"
#include "tests/explore/codec.h"

struct tdm_codec_ws *tdmi_codec_ws_create(void)
{
	return plat_map(TDM_PAGE_SIZE);
}

void tdmi_codec_ws_destroy(struct tdm_codec_ws *ws)
{
	plat_unmap(ws, TDM_PAGE_SIZE);
}

/* All of them hold something, so that bytes lie in the tier. */
bool tdmi_page_same(const void *page, u64 *word)
{
	(void)page;
	(void)word;
	return false;
}

void tdmi_page_fill(void *page, u64 word)
{
	for (u32 i = 0; i < TDM_PAGE_SIZE; i += 8)
		memcpy((u8 *)page + i, &word, 8);
}

u32 tdmi_blob_pack(struct tdm_codec_ws *ws, enum tdm_codec codec, const void *const *pages, u32 n, bool alone, void *dst, struct tdm_blob_info *info)
{
	(void)ws;
	(void)codec;
	(void)alone;
	*info = (struct tdm_blob_info){ 0 };
	for (u32 i = 0; i < n; i++)
		if (pages[i])
			memcpy((u8 *)dst + i * XT_PAGE_BYTES, pages[i], XT_PAGE_BYTES);
	return n * XT_PAGE_BYTES;
}

int tdmi_blob_strip(struct tdm_codec_ws *ws, const void *blob, u32 len, u32 mask, void *dst)
{
	(void)ws;
	(void)mask;
	memcpy(dst, blob, len);
	return (int)len;
}

int tdmi_blob_unpack(struct tdm_codec_ws *ws, const void *blob, u32 len, u32 mask, void *const *dst)
{
	(void)ws;
	for (u32 i = 0; i < len / XT_PAGE_BYTES; i++)
		if (mask >> i & 1)
			memcpy(dst[i], (const u8 *)blob + i * XT_PAGE_BYTES, XT_PAGE_BYTES);
	return 0;
}

/* ---- a tier */

struct slot {
	u32 len; /* 0: free */
	u32 users;
	u8 bytes[TDM_BLOB_PAGES * XT_PAGE_BYTES];
};

struct explored_tier {
	struct tdm_tier base;
	struct plat_mutex lock; /* guards all of it, but the bytes of a slot between get and release */
	u32 nslots;
	struct slot slot[XT_SLOTS];
};

static struct explored_tier *self(struct tdm_tier *t)
{
	return tdm_container_of(t, struct explored_tier, base);
}

static int put(struct tdm_tier *t, const void *blob, u32 len, u64 *handle)
{
	struct explored_tier *x = self(t);
	int r = -ENOSPC;

	plat_mutex_lock(&x->lock);
	for (u32 i = 0; i < x->nslots && r; i++)
		if (!x->slot[i].len) {
			x->slot[i].len = len;
			memcpy(x->slot[i].bytes, blob, len);
			*handle = i;
			r = 0;
		}
	plat_mutex_unlock(&x->lock);
	return r;
}

static int get(struct tdm_tier *t, u64 handle, u32 len, void *buf, const void **ptr)
{
	struct explored_tier *x = self(t);

	(void)buf;
	plat_mutex_lock(&x->lock);
	TDM_BUG_ON(x->slot[handle].len != len);
	x->slot[handle].users++;
	*ptr = x->slot[handle].bytes;
	plat_mutex_unlock(&x->lock);
	return 0;
}

static void release(struct tdm_tier *t, u64 handle)
{
	struct explored_tier *x = self(t);

	plat_mutex_lock(&x->lock);
	x->slot[handle].users--;
	plat_mutex_unlock(&x->lock);
}

static void drop(struct tdm_tier *t, u64 handle, u32 len)
{
	struct explored_tier *x = self(t);

	plat_mutex_lock(&x->lock);
	TDM_BUG_ON(x->slot[handle].len != len || x->slot[handle].users);
	x->slot[handle].len = 0;
	plat_mutex_unlock(&x->lock);
}

static void shrink(struct tdm_tier *t, u64 bytes)
{
	(void)t;
	(void)bytes;
}

static void stats(const struct tdm_tier *t, struct tdm_tier_stats *out)
{
	(void)t;
	*out = (struct tdm_tier_stats){ 0 };
}

static void destroy(struct tdm_tier *t)
{
	plat_unmap(self(t), TDM_ALIGN_UP(sizeof(struct explored_tier), TDM_PAGE_SIZE));
}

static const struct tdm_tier_ops ops = { .name = "explored", .put = put, .get = get, .release = release, .drop = drop, .shrink = shrink, .stats = stats, .destroy = destroy };

struct tdm_tier *xt_tier(u32 slots, bool in_memory)
{
	struct explored_tier *x = plat_map(TDM_ALIGN_UP(sizeof(*x), TDM_PAGE_SIZE));

	TDM_BUG_ON(!x || slots > XT_SLOTS);
	x->base.ops = &ops;
	x->base.in_memory = in_memory;
	x->nslots = slots;
	plat_mutex_init(&x->lock, 0);
	return &x->base;
}

u32 xt_used(struct tdm_tier *t)
{
	u32 n = 0;

	for (u32 i = 0; i < XT_SLOTS; i++)
		n += self(t)->slot[i].len != 0;
	return n;
}
