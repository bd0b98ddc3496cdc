/* SPDX-License-Identifier: MIT */
/* device_world.h - devices with memory of their own, for tests: they copy at once, and refuse when they are told to. */
#ifndef TDM_TESTS_DEVICE_WORLD_H
#define TDM_TESTS_DEVICE_WORLD_H

#include "mm_world.h"

#define DEVICE_FREE 0xdd /* what a frame that is not in use holds */

static struct test_device {
	struct tdm_pool pool;
	u8 *memory;
	u32 nframes;
	u8 *seen;        /* folios, by their first frame: device_check() */
	u32 fail;        /* the nth copy from now on fails; 0: none */
	bool dead;       /* every copy fails */
	int error;       /* with this; 0: -EIO */
	u32 bad;         /* this frame cannot be read any more, plus 1; 0: none */
	void (*on_copy)(void *arg); /* called while a copy is under way */
	void *on_copy_arg;
	void (*on_out)(struct test_device *d, u32 frame, u32 n); /* called before bytes are taken from it; a table is locked */
	void (*on_free)(struct test_device *d, u32 frame, u32 n); /* called before they are */
	u64 freed;       /* pages */
	u64 freed_whole; /* folios of 2 MiB */
} dev, dev2;

static inline struct test_device *dev_of(struct tdm_pool *p, u32 frame, u32 n)
{
	struct test_device *d = tdm_container_of(p, struct test_device, pool);

	CHECK((d == &dev || d == &dev2) && frame + n <= d->nframes);
	return d;
}

static inline bool dev_fails(struct test_device *d)
{
	return d->dead || (d->fail && --d->fail == 0);
}

static inline int dev_copy_in(struct tdm_pool *p, u32 frame, const void *src, u32 n)
{
	struct test_device *d = dev_of(p, frame, n);

	memcpy(d->memory + P(frame), src, P(n));
	if (d->on_copy)
		d->on_copy(d->on_copy_arg);
	if (dev_fails(d))
		return -EIO;
	return 0;
}

static inline int dev_copy_out(struct tdm_pool *p, void *dst, u32 frame, u32 n)
{
	struct test_device *d = dev_of(p, frame, n);

	if (d->on_out)
		d->on_out(d, frame, n);
	if (dev_fails(d) || (d->bad && d->bad - 1 >= frame && d->bad - 1 < frame + n))
		return d->error ? d->error : -EIO;
	memcpy(dst, d->memory + P(frame), P(n));
	return 0;
}

static inline void dev_page_free(struct tdm_pool *p, u32 frame, u32 order)
{
	struct test_device *d = dev_of(p, frame, 1u << order);

	if (d->on_free)
		d->on_free(d, frame, 1u << order);
	memset(d->memory + P(frame), DEVICE_FREE, P(1u << order));
	d->freed += 1u << order;
	d->freed_whole += order == TDM_HUGE_ORDER;
}

static const struct tdm_pool_ops dev_ops = { .name = "test", .copy_in = dev_copy_in, .copy_out = dev_copy_out, .page_free = dev_page_free };

static inline void device_start_one(struct test_device *d, u32 nframes)
{
	memset(d, 0, sizeof(*d));
	d->nframes = nframes;
	d->memory = plat_map(P(nframes));
	d->seen = plat_map(TDM_ALIGN_UP(nframes, TDM_PAGE_SIZE));
	CHECK(d->memory != NULL && d->seen != NULL);
	CHECK_EQ(tdmi_pool_init(&d->pool, &dev_ops, NULL, d, nframes), 0);
	CHECK_EQ(tdmi_pool_attach(&mm, &d->pool), 0);
}

static inline void device_start(u32 nframes)
{
	device_start_one(&dev, nframes);
}

/* Entries, descriptors, and the allocator agree: every frame in use is named once, by the entry for its va. */
static inline void device_check_one(struct test_device *d)
{
	u64 entries = 0, frames = 0;

	memset(d->seen, 0, d->nframes);
	tdmi_rcu_read_lock(ctx->rcu);
	for (u64 va = tdmi_pt_next(&mm.pgt, BASE, BASE + P(cpu.npages)); va < BASE + P(cpu.npages); va = tdmi_pt_next(&mm.pgt, va + H, BASE + P(cpu.npages))) {
		struct tdm_pte pte;
		u32 i;
		struct tdm_pt *pt = tdmi_pt_walk(&mm.pgt, va, &i, &pte);

		for (u32 k = 0; !pt->level && k < TDM_PT_ENTRIES; k++) {
			struct tdm_frame *f;

			pte = tdm_pt_get(pt, k);
			if (!tdm_pte_is(pte, TDM_PTE_T_PRIVATE) || tdmi_pte_pool(&mm, pte) != &d->pool)
				continue;
			f = tdmi_dev_folio(&d->pool, tdm_pte_private_frame(pte));
			entries++;
			CHECK(f->mapcount >= 1 && f->mapcount <= 1u << f->order);
			CHECK_EQ(f->refcount, 1);
			CHECK_EQ(f->state, TDM_FRAME_LENT);
			CHECK_EQ(f->va + P(tdm_pte_private_frame(pte) - tdm_frame_nr(&d->pool.frames, f)), tdm_pt_va(pt, k));
			if (!d->seen[tdm_frame_nr(&d->pool.frames, f)])
				frames += 1u << f->order;
			d->seen[tdm_frame_nr(&d->pool.frames, f)] = 1;
		}
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	CHECK_EQ(tdm_a64_ld_relaxed(&d->pool.pages), entries);
	CHECK_EQ(tdm_a64_ld_relaxed(&d->pool.frames.used), frames);
	CHECK(tdmi_frames_valid(&d->pool.frames));
}

static inline void device_check(void)
{
	device_check_one(&dev);
}

/* The program's memory is gone, or none of it is there: call before finish(). */
static inline void device_finish_one(struct test_device *d)
{
	u64 n;

	device_check_one(d);
	CHECK_EQ(tdmi_pool_evict(ctx, &d->pool, ~(u64)0, &n), 0);
	device_check_one(d);
	CHECK_EQ(tdm_a64_ld_relaxed(&d->pool.frames.used), 0);
	CHECK_EQ(tdmi_pool_detach(&d->pool), 0);
	tdmi_pool_destroy(&d->pool);
	plat_unmap(d->memory, P(d->nframes));
	plat_unmap(d->seen, TDM_ALIGN_UP(d->nframes, TDM_PAGE_SIZE));
}

static inline void device_finish(void)
{
	device_finish_one(&dev);
}

#endif
