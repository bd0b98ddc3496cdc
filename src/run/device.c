/* SPDX-License-Identifier: MIT */
/* device.c - devices of a live process; see device.h. */
#include "run/device.h"
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include "base/check.h"
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "run/live.h"

#define NO_JOB TDM_DEVICE_JOBS
#define SHARE_TRIES 4u

/* ---- the queue ------------------------------------------------------------------------------------------------------------------ */

/* Signal handlers may queue jobs, too. */
static void signals_block(u64 *was)
{
	u64 all = ~(u64)0;

	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, was, 8);
}

static void signals_restore(const u64 *was)
{
	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, was, NULL, 8);
}

static struct tdm_device_job *take(struct tdm_device *d)
{
	struct tdm_device_job *j = NULL;

	plat_mutex_lock(&d->lock);
	if (d->head != NO_JOB) {
		j = &d->job[d->head];
		d->head = j->next;
		if (d->head == NO_JOB)
			d->tail = NO_JOB;
		tdm_a32_st_relaxed(&j->state, TDM_JOB_RUNNING);
	}
	plat_mutex_unlock(&d->lock);
	return j;
}

static void worker_main(void *arg)
{
	struct tdm_device_worker *w = arg;
	struct tdm_device *d = w->dev;

	while (!tdm_a32_ld_acquire(&d->stop)) {
		u32 seen = tdm_a32_ld_acquire(&d->posted);
		struct tdm_device_job *j = take(d);

		if (!j) {
			plat_wait(&d->posted, seen, ~(u64)0);
			continue;
		}
		tdmi_share_runs(&d->sharer, true);
		j->result = j->fn(w, j);
		tdmi_share_runs(&d->sharer, false);
		TDM_BUG_ON(tdmi_rcu_read_held(w->reader.rcu) || tdmi_rcu_read_held(w->ctx->rcu));
		tdm_a32_st_release(&j->state, j->forget ? TDM_JOB_FREE : TDM_JOB_DONE);
		plat_wake(&j->state, ~0u >> 1);
	}
}

/* What the program has been told is done is known to the engine, too: no event that has been read is still to be acted upon. */
static void events_settle(struct tdm_mm *mm)
{
	while (tdm_a32_ld_acquire(&mm->gate) || tdm_a32_ld_acquire(&mm->event_gate) != TDM_EVENTS_NONE)
		plat_yield();
}

static struct tdm_device_job *post(struct tdm_device *d, const struct tdm_device_job *what)
{
	struct tdm_device_job *j = NULL;
	u64 signals;

	signals_block(&signals);
	plat_mutex_lock(&d->lock);
	for (u32 i = 0; i < TDM_DEVICE_JOBS && !j; i++)
		if (tdm_a32_ld_acquire(&d->job[i].state) == TDM_JOB_FREE) {
			j = &d->job[i];
			*j = *what;
			j->next = NO_JOB;
			if (d->tail == NO_JOB)
				d->head = i;
			else
				d->job[d->tail].next = i;
			d->tail = i;
			tdm_a32_st_relaxed(&j->state, TDM_JOB_QUEUED);
		}
	plat_mutex_unlock(&d->lock);
	signals_restore(&signals);
	return j;
}

static struct tdm_device_job *submit(struct tdm_device *d, struct tdm_device_job what)
{
	struct tdm_device_job *j;

	if (!d->live || d->gone)
		return NULL;
	events_settle(&d->live->mm);
	while (!(j = post(d, &what)))
		plat_yield();
	tdm_a32_add_acqrel(&d->posted, 1);
	plat_wake(&d->posted, 1);
	return j;
}

struct tdm_device_job *tdmi_device_submit(struct tdm_device *d, int (*fn)(struct tdm_device_worker *, struct tdm_device_job *), void *arg, u64 a, u64 b)
{
	return submit(d, (struct tdm_device_job){ .fn = fn, .arg = arg, .a = a, .b = b });
}

struct tdm_device_job *tdmi_device_submit_forget(struct tdm_device *d, int (*fn)(struct tdm_device_worker *, struct tdm_device_job *), void *arg, u64 a,
						 u64 b)
{
	return submit(d, (struct tdm_device_job){ .fn = fn, .arg = arg, .a = a, .b = b, .forget = true });
}

int tdmi_device_wait(struct tdm_device *d, struct tdm_device_job *j, u64 *out)
{
	u32 state;
	int r;

	(void)d;
	while ((state = tdm_a32_ld_acquire(&j->state)) != TDM_JOB_DONE)
		plat_wait(&j->state, state, ~(u64)0);
	r = j->result;
	if (out)
		*out = j->out;
	tdm_a32_st_release(&j->state, TDM_JOB_FREE);
	return r;
}

int tdmi_device_do(struct tdm_device *d, int (*fn)(struct tdm_device_worker *, struct tdm_device_job *), void *arg, u64 a, u64 b, u64 *out)
{
	struct tdm_device_job *j = tdmi_device_submit(d, fn, arg, a, b);

	return j ? tdmi_device_wait(d, j, out) : -ENODEV;
}

/* ---- jobs ------------------------------------------------------------------------------------------------------------------------- */

/* The job is only for memory that has been found, and some of it has not. What has been is known before its pages are: both become so under one hold of the event lock. */
static bool unknown(struct tdm_device_worker *w, const struct tdm_device_job *job)
{
	struct tdm_mm *mm = w->ctx->mm;
	u64 va = job->a;
	struct tdm_vma v;

	if (!job->arg)
		return false;
	tdm_device_enter_mm(w);
	tdmi_rcu_read_lock(w->ctx->rcu);
	while (va < job->b && tdmi_vma_find(mm, va, &v))
		va = v.end;
	tdmi_rcu_read_unlock(w->ctx->rcu);
	plat_mutex_lock(&mm->event_lock);
	plat_mutex_unlock(&mm->event_lock);
	tdmi_mm_exit(w->ctx);
	return va < job->b;
}

/* What of [va, stop) is in ram, of one table. *n: pages that went. */
static int migrate_part(struct tdm_device_worker *w, u64 va, u64 stop, u64 *n)
{
	int r;

	tdm_device_enter_mm(w);
	r = tdmi_migrate_to_device(w->ctx, &w->dev->pool, va, stop, n);
	tdmi_mm_exit(w->ctx);
	return r;
}

/* By parts: a fork waits while somebody is in the mm, and what is taken home long before it is copied is likely to be touched meanwhile. */
int tdmi_device_job_migrate(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	u64 end = job->b, stop;
	int r = 0;

	job->out = 0;
	if (unknown(w, job))
		return -EAGAIN;
	for (u64 va = job->a; !r && va < end; va = stop) {
		u32 more = 0;

		/* Where there are no tables there is nothing. */
		tdm_device_enter_mm(w);
		tdmi_rcu_read_lock(w->ctx->rcu);
		va = TDM_MAX(va, tdmi_pt_next(w->ctx->mm, va, end));
		tdmi_rcu_read_unlock(w->ctx->rcu);
		tdmi_mm_exit(w->ctx);
		stop = TDM_MIN(TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE, end);
		do {
			u64 n = 0;

			if (va < end)
				r = migrate_part(w, va, stop, &n);
			job->out += n;
			/* Somebody else may be given what has just been got. */
		} while (r == -ENOSPC && more++ < SHARE_TRIES && tdmi_device_share_more(w->dev));
	}
	return r;
}

int tdmi_device_job_evict(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	u64 n = 1;
	int r = 0;

	for (job->out = 0; !r && n && job->out < job->a; job->out += n) {
		tdm_device_enter_mm(w);
		r = tdmi_pool_evict(w->ctx, &w->dev->pool, TDM_MIN(job->a - job->out, (u64)TDM_HUGE_PAGES), &n);
		tdmi_mm_exit(w->ctx);
	}
	return r;
}

int tdmi_device_job_exclusive(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	struct tdm_device *d = w->dev;
	void *home;
	int r = 0;

	job->out = 0;
	if (unknown(w, job))
		return -EAGAIN;
	for (u64 va = job->a; !r && va < job->b; va += TDM_PAGE_SIZE) {
		u64 n;

		tdm_device_enter_mm(w);
		r = tdmi_make_exclusive(w->ctx, va, va + TDM_PAGE_SIZE, d->mirror.owner, &home, &n);
		if (!r && n)
			r = tdmi_mirror_fault(&w->reader, va, va + TDM_PAGE_SIZE, true, 0, 0);
		tdmi_mm_exit(w->ctx);
		job->out += n;
	}
	return r;
}

/* ---- coming and going: the engine's side ------------------------------------------------------------------------------------------- */

static void workers_end(struct tdm_device *d)
{
	tdm_a32_st_release(&d->stop, 1);
	tdm_a32_add_acqrel(&d->posted, 1);
	plat_wake(&d->posted, ~0u >> 1);
	for (u32 i = 0; i < d->nworkers; i++) {
		struct tdm_device_worker *w = &d->worker[i];

		if (w->thread)
			plat_thread_join(w->thread);
		w->thread = NULL;
		if (w->reader.m)
			tdmi_mirror_reader_destroy(&w->reader);
		if (w->ctx)
			tdmi_ctx_destroy(w->ctx);
	}
	d->nworkers = 0;
}

static void find(struct tdm_ctx *ctx)
{
	struct tdm_live *l = tdm_container_of(ctx->mm, struct tdm_live, mm);

	(void)tdmi_live_request(l, TDM_OP_FIND, 0, 0, NULL);
}

static int workers_start(struct tdm_live *l, struct tdm_device *d)
{
	char name[16];
	int r = 0;

	tdmi_fmt(name, sizeof(name), "tdm-%s", d->config.name);
	while (!r && d->nworkers < d->config.nworkers) {
		struct tdm_device_worker *w = &d->worker[d->nworkers++];

		*w = (struct tdm_device_worker){ .dev = d, .ctx = tdmi_ctx_create(&l->mm) };
		if (!w->ctx)
			return -ENOMEM;
		w->ctx->may_wait = true;
		w->ctx->find = find;
		r = tdmi_mirror_reader_init(&w->reader, &d->mirror, w->ctx);
		r = r ? r : plat_thread_start(&w->thread, worker_main, w, name);
	}
	return r;
}

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
	plat_mutex_init(&d->lock, TDM_RANK_LIVE);
	d->head = d->tail = NO_JOB;
	if (c->nframes)
		r = (c->coherent ? tdmi_pool_init_coherent : tdmi_pool_init)(&d->pool, c->pool_ops, c->arg, d, c->nframes);
	if (r)
		goto out_watch;
	d->pool.node = c->on_node ? c->node : -1;
	/* Nobody is in a round, or looks for a pool. */
	tdmi_mm_freeze(&l->mm);
	tdmi_notifiers_arm(&l->mm.notifiers);
	if (c->nframes)
		r = tdmi_pool_attach(&l->mm, &d->pool);
	tdmi_mm_thaw(&l->mm);
	if (r)
		goto out_pool;
	r = tdmi_mirror_init(&d->mirror, &l->mm, c->name, c->mirror_ops, c->arg, d, c->page_sizes);
	if (r)
		goto out_attached;
	d->mirror.write_ahead = c->write_ahead;
	r = tdmi_device_share_start(l, d);
	r = r ? r : workers_start(l, d);
	if (!r) {
		tdmi_live_watch_lock(l);
		d->live = l;
		tdm_a32_add_acqrel(&l->ndevices, 1);
		tdmi_live_watch_unlock(l);
		*out = d;
		return 0;
	}
	workers_end(d);
	tdmi_device_share_end(d);
	tdmi_mirror_destroy(&d->mirror);
out_attached:
	if (c->nframes)
		(void)tdmi_pool_detach(&d->pool);
out_pool:
	if (c->nframes)
		tdmi_pool_destroy(&d->pool);
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
		workers_end(d);
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

static bool idle(struct tdm_device *d)
{
	for (u32 i = 0; i < TDM_DEVICE_JOBS; i++)
		if (tdm_a32_ld_acquire(&d->job[i].state) != TDM_JOB_FREE)
			return false;
	return true;
}

int tdmi_device_detach(struct tdm_device *d)
{
	if (!d->live)
		return -EINVAL;
	if (!d->gone && !idle(d))
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
