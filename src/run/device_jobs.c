/* SPDX-License-Identifier: MIT */
/*
 * device_jobs.c - what the program wants of a device: the queue, the device's threads, and the jobs that the engine has for them. See device.h.
 *
 * The queue's lock is held to put a job in and to take one out, and for nothing else. A job is whoever's who has taken it, until he says that it is done; then the
 * thread's that waits for it, which gives it back. A worker that finds nothing sleeps until `posted` is not any more what it was when it looked.
 */
#include "run/device.h"
#include <signal.h>
#include "base/check.h"
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "run/live.h"

#define NO_JOB TDM_DEVICE_JOBS
#define SHARE_TRIES 4u

/* ---- the queue ------------------------------------------------------------------------------------------------------- */

void tdmi_device_queue_init(struct tdm_device *d)
{
	plat_mutex_init(&d->lock, TDM_RANK_LIVE);
	d->head = d->tail = NO_JOB;
}

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

/* What the program has been told is done is known to the engine, too: no event that has been read is still to be acted upon. */
static void events_settle(struct tdm_mm *mm)
{
	while (tdm_a32_ld_acquire(&mm->gate) || tdm_a32_ld_acquire(&mm->event_gate) != TDM_EVENTS_NONE)
		plat_yield();
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

bool tdmi_device_idle(struct tdm_device *d)
{
	for (u32 i = 0; i < TDM_DEVICE_JOBS; i++)
		if (tdm_a32_ld_acquire(&d->job[i].state) != TDM_JOB_FREE)
			return false;
	return true;
}

/* ---- the device's threads -------------------------------------------------------------------------------------------- */

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

void tdmi_device_workers_end(struct tdm_device *d)
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

int tdmi_device_workers_start(struct tdm_live *l, struct tdm_device *d)
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

/* ---- jobs ------------------------------------------------------------------------------------------------------------ */

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
	while (va < job->b && tdmi_vma_find(&mm->vmas, va, &v))
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
		va = TDM_MAX(va, tdmi_pt_next(&w->ctx->mm->pgt, va, end));
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
