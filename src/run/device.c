/* SPDX-License-Identifier: MIT */
/*
 * device.c - devices of a live process come and go, also by a fork; see device.h. What they do meanwhile is in device_jobs.c.
 *
 * Attaching and detaching is the engine's main thread's, which the program's thread asks and waits for; so is what is done around a fork. Who looks at devices from
 * another thread does so under the watch's lock (device_watch.c), or as one of the device's own, which end before it is detached.
 */
#include "run/device.h"
#include <string.h>
#include "base/check.h"
#include "plat/linux/sys.h"
#include "run/live.h"

/* ---- coming and going: the engine's side ------------------------------------------------------------------------------------------- */

/* A place for one. -ENOSPC, -ENOMEM. */
static int place(struct tdm_live *l, struct tdm_device **out)
{
	for (u32 i = 0; i < TDM_DEVICES_MAX; i++) {
		struct tdm_device *d = l->device[i];

		if (d && d->live)
			continue;
		if (!d)
			d = l->device[i] = plat_map(TDM_ALIGN_UP(sizeof(*d), TDM_PAGE_SIZE));
		*out = d;
		return d ? 0 : -ENOMEM;
	}
	return -ENOSPC;
}

/* The device's memory, if it has any, is the engine's to use; and from here on there are rounds. */
static int memory_start(struct tdm_live *l, struct tdm_device *d)
{
	const struct tdm_device_config *c = &d->config;
	int r = 0;

	if (c->nframes)
		r = (c->coherent ? tdmi_pool_init_coherent : tdmi_pool_init)(&d->pool, c->pool_ops, c->arg, d, c->nframes);
	if (r)
		return r;
	d->pool.node = c->on_node ? c->node : -1;
	/* Nobody is in a round, or looks for a pool. */
	tdmi_mm_freeze(&l->mm);
	tdmi_notifiers_arm(&l->mm.notifiers);
	if (c->nframes)
		r = tdmi_pool_attach(&l->mm, &d->pool);
	tdmi_mm_thaw(&l->mm);
	if (r)
		tdmi_pool_destroy(&d->pool);
	return r;
}

struct attaching {
	const struct tdm_device_config *config;
	struct tdm_device *dev;
};

int tdmi_live_device_attach(struct tdm_live *l, const struct tdm_device_config *c, struct tdm_device **out)
{
	struct tdm_device *d;
	int r;

	if (tdm_a32_ld_acquire(&l->state) != TDM_LIVE_ENGAGED)
		return -EINVAL;
	r = place(l, &d);
	r = r ? r : tdmi_live_watch_start(l);
	if (r)
		return r;
	memset(d, 0, sizeof(*d)); /* not attached yet: nobody looks */
	d->config = *c;
	tdmi_device_queue_init(d);
	r = memory_start(l, d);
	if (r)
		goto out_watch;
	r = tdmi_mirror_init(&d->mirror, &l->mm, c->name, c->mirror_ops, c->arg, d, c->page_sizes);
	if (r)
		goto out_memory;
	d->mirror.write_ahead = c->write_ahead;
	r = tdmi_device_share_start(l, d);
	r = r ? r : tdmi_device_workers_start(l, d);
	if (!r) {
		tdmi_live_watch_lock(l);
		d->live = l;
		tdm_a32_add_acqrel(&l->ndevices, 1);
		tdmi_live_watch_unlock(l);
		*out = d;
		return 0;
	}
	tdmi_device_workers_end(d);
	tdmi_device_share_end(d);
	tdmi_mirror_destroy(&d->mirror);
out_memory:
	if (c->nframes) {
		(void)tdmi_pool_detach(&d->pool);
		tdmi_pool_destroy(&d->pool);
	}
out_watch:
	tdmi_live_watch_stop(l);
	return r;
}

/* All that the device has is home. */
static int empty(struct tdm_live *l, struct tdm_device *d)
{
	u64 n;
	int r;

	if (!d->config.nframes)
		return 0;
	if (!tdmi_mm_enter(l->ctx))
		return -EAGAIN;
	r = tdmi_pool_evict(l->ctx, &d->pool, ~(u64)0, &n);
	tdmi_mm_exit(l->ctx);
	return r ? r : tdm_a64_ld_relaxed(&d->pool.pages) ? -EBUSY : 0;
}

int tdmi_live_device_detach(struct tdm_live *l, struct tdm_device *d)
{
	int r = empty(l, d);

	if (r)
		return r;
	if (!d->gone) {
		tdm_a32_sub_acqrel(&l->ndevices, 1);
		tdmi_device_workers_end(d);
		tdmi_device_share_end(d);
		tdmi_mirror_destroy(&d->mirror);
	}
	if (d->config.nframes) {
		tdmi_mm_freeze(&l->mm);
		r = tdmi_pool_detach(&d->pool);
		tdmi_mm_thaw(&l->mm);
		TDM_BUG_ON(r);
		tdmi_pool_destroy(&d->pool);
	}
	tdmi_live_watch_lock(l);
	d->live = NULL;
	tdmi_live_watch_unlock(l);
	tdmi_live_watch_stop(l);
	return 0;
}

struct protecting {
	u64 start, end;
	int prot;
};

static int protect(struct tdm_live *l, void *arg)
{
	const struct protecting *p = arg;
	struct tdm_inv_range round = TDM_INV_RANGE(p->start, p->end, TDM_INV_PROTECTION_VMA);
	bool engaged = tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED && p->start < p->end && tdmi_mm_enter(l->ctx);
	int r;

	if (engaged)
		(void)tdmi_invalidate_start(&l->mm.notifiers, &round);
	r = (int)tdm_sys3(SYS_mprotect, p->start, p->end - p->start, p->prot);
	if (engaged) {
		tdmi_invalidate_end(&l->mm.notifiers, &round);
		tdmi_mm_exit(l->ctx);
	}
	return r;
}

static int attach(struct tdm_live *l, void *arg)
{
	struct attaching *a = arg;

	return tdmi_live_device_attach(l, a->config, &a->dev);
}

static int detach(struct tdm_live *l, void *arg)
{
	return tdmi_live_device_detach(l, arg);
}

/* ---- coming and going: the program's side ------------------------------------------------------------------------------------------ */

int tdmi_device_attach(struct tdm_live *l, const struct tdm_device_config *c, struct tdm_device **out)
{
	struct attaching a = { .config = c };
	int r;

	*out = NULL;
	if (!c->nworkers || c->nworkers > TDM_DEVICE_WORKERS || c->nframes % TDM_HUGE_PAGES || !c->nframes != !c->pool_ops)
		return -EINVAL;
	r = tdmi_live_call(l, attach, &a);
	if (!r)
		*out = a.dev;
	return r;
}

int tdmi_device_detach(struct tdm_device *d)
{
	if (!d->live)
		return -EINVAL;
	if (!d->gone && !tdmi_device_idle(d))
		return -EBUSY;
	return tdmi_live_call(d->live, detach, d);
}

int tdmi_device_mprotect(struct tdm_live *l, u64 start, u64 end, int prot)
{
	struct protecting p = { start, end, prot };

	return tdmi_live_call(l, protect, &p);
}

static int unmapped(struct tdm_live *l, void *arg)
{
	const struct protecting *p = arg;
	struct tdm_inv_range round = TDM_INV_RANGE(p->start, p->end, TDM_INV_UNMAP);

	if (tdm_a32_ld_acquire(&l->state) != TDM_LIVE_ENGAGED || p->start >= p->end || !tdmi_mm_enter(l->ctx))
		return 0;
	(void)tdmi_invalidate_start(&l->mm.notifiers, &round);
	tdmi_invalidate_end(&l->mm.notifiers, &round);
	tdmi_mm_exit(l->ctx);
	return 0;
}

void tdmi_device_unmapped(struct tdm_live *l, u64 start, u64 end)
{
	struct protecting p = { start, end, 0 };

	(void)tdmi_live_call(l, unmapped, &p);
}

/* ---- forks ---------------------------------------------------------------------------------------------------- */

/* What the child will not inherit. */
static bool left_behind(const struct tdm_device *d)
{
	return d && d->live && !d->gone && !d->config.inherited && !d->config.coherent && d->config.nframes && tdm_a64_ld_relaxed(&d->pool.pages);
}

/* What goes home now need not while everybody stands still. */
void tdmi_live_devices_before_fork(struct tdm_live *l)
{
	for (u32 i = 0; i < TDM_DEVICES_MAX; i++)
		if (left_behind(l->device[i]))
			(void)empty(l, l->device[i]);
}

void tdmi_live_devices_at_fork(struct tdm_live *l)
{
	struct tdm_inv_range round = TDM_INV_RANGE(0, (u64)1 << 47, TDM_INV_PROTECTION_PAGE);
	u64 n;

	if (!tdm_a32_ld_relaxed(&l->ndevices))
		return;
	/* The rest: what somebody had isolated, or has migrated since. Nobody does now. */
	for (u32 i = 0; i < TDM_DEVICES_MAX; i++)
		if (left_behind(l->device[i]) && (tdmi_pool_evict(l->ctx, &l->device[i]->pool, ~(u64)0, &n) || left_behind(l->device[i])))
			plat_log("a device's memory could not be emptied before a fork: its pages are lost to the child");
	(void)tdmi_invalidate_start(&l->mm.notifiers, &round);
	tdmi_invalidate_end(&l->mm.notifiers, &round);
}

static int lost_copy_out(struct tdm_pool *p, void *dst, u32 frame, u32 n)
{
	(void)p;
	(void)dst;
	(void)frame;
	(void)n;
	return -ENODEV;
}

static const struct tdm_pool_ops lost_ops = { .name = "lost", .copy_out = lost_copy_out };

void tdmi_live_devices_in_child(struct tdm_live *l)
{
	tdmi_live_watch_forget(l);
	for (u32 i = 0; i < TDM_DEVICES_MAX; i++) {
		struct tdm_device *d = l->device[i];

		if (!d || !d->live || d->gone)
			continue;
		d->gone = true;
		tdm_a32_st_relaxed(&l->ndevices, 0);
		if (!d->config.inherited)
			d->pool.ops = &lost_ops;
		plat_mutex_reset(&d->lock);
		for (u32 k = 0; k < d->nworkers; k++)
			tdmi_linux_thread_forget(d->worker[k].thread);
		d->nworkers = 0;
		tdmi_device_share_in_child(d);
		tdmi_mirror_forget(&d->mirror);
	}
}

u64 tdmi_live_device_bytes(const struct tdm_live *l)
{
	u64 bytes = 0;

	for (u32 i = 0; i < TDM_DEVICES_MAX; i++) {
		const struct tdm_device *d = l->device[i];

		if (!d || !d->live)
			continue;
		bytes += d->config.share ? TDM_MIN(d->config.resident_bytes, tdmi_device_frames_here(d) << TDM_PAGE_SHIFT) : d->config.resident_bytes;
		/* Mapped at their addresses, and so counted as the program's. */
		if (d->config.coherent)
			bytes += tdm_a64_ld_relaxed(&d->pool.pages) << TDM_PAGE_SHIFT;
	}
	return bytes;
}

void tdmi_live_devices_end(struct tdm_live *l)
{
	for (u32 i = 0; i < TDM_DEVICES_MAX; i++) {
		struct tdm_device *d = l->device[i];

		if (!d)
			continue;
		if (d->live && d->config.nframes && !tdmi_pool_detach(&d->pool))
			tdmi_pool_destroy(&d->pool);
		plat_unmap(d, TDM_ALIGN_UP(sizeof(*d), TDM_PAGE_SIZE));
		l->device[i] = NULL;
	}
}

u64 tdmi_live_device_frames(const struct tdm_live *l, u64 *moved)
{
	u64 frames = 0;

	*moved = 0;
	for (u32 i = 0; i < TDM_DEVICES_MAX; i++)
		if (l->device[i] && l->device[i]->live && l->device[i]->config.nframes) {
			const struct tdm_pool *p = &l->device[i]->pool;

			frames += tdmi_device_frames_here(l->device[i]);
			*moved += tdm_a64_ld_relaxed(&p->moved_in) + tdm_a64_ld_relaxed(&p->moved_out);
		}
	return frames;
}
