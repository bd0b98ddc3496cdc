/* SPDX-License-Identifier: MIT */
/* tier_mem.c - a tier in memory: a store with a limit. */
#include "base/check.h"
#include "pool/codec.h"
#include "pool/store.h"
#include "pool/tier.h"

struct mem_tier {
	struct tdm_tier base;
	struct tdm_store *store;
	u64 limit;
	tdm_a64 blobs, bytes, puts, gets, drops, errors, put_bytes, get_bytes;
};

static struct mem_tier *self(const struct tdm_tier *t)
{
	return tdm_container_of((uintptr_t)t, struct mem_tier, base);
}

static int mem_put(struct tdm_tier *t, const void *blob, u32 len, u64 *handle)
{
	struct mem_tier *m = self(t);
	u32 h;
	int r = tdmi_store_put(m->store, blob, len, &h);

	if (r) {
		if (r != -ENOSPC)
			tdm_a64_add_relaxed(&m->errors, 1);
		return r;
	}
	*handle = h;
	tdm_a64_add_relaxed(&m->blobs, 1);
	tdm_a64_add_relaxed(&m->bytes, len);
	tdm_a64_add_relaxed(&m->puts, 1);
	tdm_a64_add_relaxed(&m->put_bytes, len);
	return 0;
}

static int mem_get(struct tdm_tier *t, u64 handle, u32 len, void *buf, const void **ptr)
{
	struct mem_tier *m = self(t);

	(void)buf;
	*ptr = tdmi_store_get(m->store, (u32)handle);
	tdm_a64_add_relaxed(&m->gets, 1);
	tdm_a64_add_relaxed(&m->get_bytes, len);
	return 0;
}

static void mem_release(struct tdm_tier *t, u64 handle)
{
	tdmi_store_release(self(t)->store, (u32)handle);
}

static void mem_drop(struct tdm_tier *t, u64 handle, u32 len)
{
	struct mem_tier *m = self(t);

	tdmi_store_drop(m->store, (u32)handle);
	tdm_a64_sub_relaxed(&m->blobs, 1);
	tdm_a64_sub_relaxed(&m->bytes, len);
	tdm_a64_add_relaxed(&m->drops, 1);
}

static void mem_shrink(struct tdm_tier *t, u64 bytes)
{
	tdmi_store_shrink(self(t)->store, bytes);
}

static void mem_stats(const struct tdm_tier *t, struct tdm_tier_stats *out)
{
	const struct mem_tier *m = self(t);

	*out = (struct tdm_tier_stats){
		.blobs = tdm_a64_ld_relaxed(&m->blobs),
		.bytes = tdm_a64_ld_relaxed(&m->bytes),
		.mem_bytes = tdmi_store_mem_bytes(m->store),
		.limit_bytes = m->limit,
		.puts = tdm_a64_ld_relaxed(&m->puts),
		.gets = tdm_a64_ld_relaxed(&m->gets),
		.drops = tdm_a64_ld_relaxed(&m->drops),
		.errors = tdm_a64_ld_relaxed(&m->errors),
		.put_bytes = tdm_a64_ld_relaxed(&m->put_bytes),
		.get_bytes = tdm_a64_ld_relaxed(&m->get_bytes),
	};
}

static int mem_forked(struct tdm_tier *t, bool child)
{
	struct mem_tier *m = self(t);

	if (child) {
		tdmi_store_forked(m->store);
		tdm_a64_st_relaxed(&m->put_bytes, 0);
		tdm_a64_st_relaxed(&m->get_bytes, 0);
	}
	return 0;
}

static u32 mem_files(const struct tdm_tier *t, int *fds, u32 max)
{
	(void)t;
	(void)fds;
	(void)max;
	return 0;
}

static void mem_set_files(struct tdm_tier *t, const int *fds, u32 n)
{
	(void)t;
	(void)fds;
	TDM_BUG_ON(n != 0);
}

static void mem_destroy(struct tdm_tier *t)
{
	struct mem_tier *m = self(t);

	tdmi_store_destroy(m->store);
	plat_unmap(m, TDM_ALIGN_UP(sizeof(*m), TDM_PAGE_SIZE));
}

#define MEM_OPS(tier_name)                                                                                               \
	{                                                                                                                \
		.name = tier_name, .put = mem_put, .get = mem_get, .release = mem_release, .drop = mem_drop,             \
		.shrink = mem_shrink, .stats = mem_stats, .forked = mem_forked, .files = mem_files,                      \
		.set_files = mem_set_files, .destroy = mem_destroy,                                                      \
	}

static const struct tdm_tier_ops lz4_ops = MEM_OPS("lz4");
static const struct tdm_tier_ops zstd_ops = MEM_OPS("zstd");

int tdmi_tier_mem_create(u8 codec, u64 limit, struct tdm_tier **out)
{
	struct mem_tier *m = plat_map(TDM_ALIGN_UP(sizeof(*m), TDM_PAGE_SIZE));

	if (!m)
		return -ENOMEM;
	m->store = tdmi_store_create(limit);
	if (!m->store) {
		plat_unmap(m, TDM_ALIGN_UP(sizeof(*m), TDM_PAGE_SIZE));
		return -ENOMEM;
	}
	m->limit = limit;
	m->base.ops = codec == TDM_CODEC_ZSTD ? &zstd_ops : &lz4_ops;
	m->base.in_memory = true;
	m->base.codec = codec;
	*out = &m->base;
	return 0;
}
