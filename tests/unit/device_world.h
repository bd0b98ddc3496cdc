/* SPDX-License-Identifier: MIT */
/* device_world.h - a device with memory of its own, for tests: it copies at once, and refuses when it is told to. */
#ifndef TDM_TESTS_DEVICE_WORLD_H
#define TDM_TESTS_DEVICE_WORLD_H

#include "mm_world.h"

#define DEVICE_FREE 0xdd /* what a frame that is not in use holds */

static struct {
	struct tdm_pool pool;
	u8 *memory;
	u32 nframes;
	u8 *seen;        /* folios, by their first frame: device_check() */
	u32 fail;        /* the nth copy from now on fails; 0: none */
	void (*on_copy)(void *arg); /* called while a copy is under way */
	void *on_copy_arg;
	u64 freed;       /* pages */
	u64 freed_whole; /* folios of 2 MiB */
} dev;

static inline bool dev_fails(void)
{
	return dev.fail && --dev.fail == 0;
}

static inline int dev_copy_in(struct tdm_pool *p, u32 frame, const void *src, u32 n)
{
	CHECK(p == &dev.pool && frame + n <= dev.nframes);
	memcpy(dev.memory + P(frame), src, P(n));
	if (dev.on_copy)
		dev.on_copy(dev.on_copy_arg);
	if (dev_fails())
		return -EIO;
	return 0;
}

static inline int dev_copy_out(struct tdm_pool *p, void *dst, u32 frame, u32 n)
{
	CHECK(p == &dev.pool && frame + n <= dev.nframes);
	if (dev_fails())
		return -EIO;
	memcpy(dst, dev.memory + P(frame), P(n));
	return 0;
}

static inline void dev_page_free(struct tdm_pool *p, u32 frame, u32 order)
{
	CHECK(p == &dev.pool && frame + (1u << order) <= dev.nframes);
	memset(dev.memory + P(frame), DEVICE_FREE, P(1u << order));
	dev.freed += 1u << order;
	dev.freed_whole += order == TDM_HUGE_ORDER;
}

static const struct tdm_pool_ops dev_ops = { .name = "test", .copy_in = dev_copy_in, .copy_out = dev_copy_out, .page_free = dev_page_free };

static inline void device_start(u32 nframes)
{
	memset(&dev, 0, sizeof(dev));
	dev.nframes = nframes;
	dev.memory = plat_map(P(nframes));
	dev.seen = plat_map(TDM_ALIGN_UP(nframes, TDM_PAGE_SIZE));
	CHECK(dev.memory != NULL && dev.seen != NULL);
	CHECK_EQ(tdmi_pool_init(&dev.pool, &dev_ops, NULL, &dev, nframes), 0);
	CHECK_EQ(tdmi_pool_attach(&mm, &dev.pool), 0);
}

/* Entries, descriptors, and the allocator agree: every frame in use is named once, by the entry for its va. */
static inline void device_check(void)
{
	u64 entries = 0, frames = 0;

	memset(dev.seen, 0, dev.nframes);
	tdmi_rcu_read_lock(ctx->rcu);
	for (u64 va = tdmi_pt_next(&mm, BASE, BASE + P(cpu.npages)); va < BASE + P(cpu.npages); va = tdmi_pt_next(&mm, va + H, BASE + P(cpu.npages))) {
		struct tdm_pte pte;
		u32 i;
		struct tdm_pt *pt = tdmi_pt_walk(&mm, va, &i, &pte);

		for (u32 k = 0; !pt->level && k < TDM_PT_ENTRIES; k++) {
			struct tdm_frame *f;

			pte = tdm_pt_get(pt, k);
			if (!tdm_pte_is(pte, TDM_PTE_T_PRIVATE))
				continue;
			f = tdmi_dev_folio(&dev.pool, tdm_pte_private_frame(pte));
			entries++;
			CHECK(f->mapcount >= 1 && f->mapcount <= 1u << f->order);
			CHECK_EQ(f->refcount, 1);
			CHECK_EQ(f->state, TDM_FRAME_LENT);
			CHECK_EQ(f->va + P(tdm_pte_private_frame(pte) - tdm_frame_nr(&dev.pool.frames, f)), tdm_pt_va(pt, k));
			if (!dev.seen[tdm_frame_nr(&dev.pool.frames, f)])
				frames += 1u << f->order;
			dev.seen[tdm_frame_nr(&dev.pool.frames, f)] = 1;
		}
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	CHECK_EQ(tdm_a64_ld_relaxed(&dev.pool.pages), entries);
	CHECK_EQ(tdm_a64_ld_relaxed(&dev.pool.frames.used), frames);
	CHECK(tdmi_frames_valid(&dev.pool.frames));
}

/* The program's memory is gone, or none of it is there: call before finish(). */
static inline void device_finish(void)
{
	u64 n;

	device_check();
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, ~(u64)0, &n), 0);
	device_check();
	CHECK_EQ(tdm_a64_ld_relaxed(&dev.pool.frames.used), 0);
	CHECK_EQ(tdmi_pool_detach(&dev.pool), 0);
	tdmi_pool_destroy(&dev.pool);
	plat_unmap(dev.memory, P(dev.nframes));
	plat_unmap(dev.seen, TDM_ALIGN_UP(dev.nframes, TDM_PAGE_SIZE));
}

#endif
