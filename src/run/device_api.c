/* SPDX-License-Identifier: MIT */
/* device_api.c - the public functions of <tandem/device.h>: check the arguments, and have the device's threads do it. */
#include <string.h>
#include <tandem/device.h>
#include "mm/gup.h"
#include "plat/linux/linux.h"
#include "run/api.h"
#include "run/live.h"

#define CALLS 16u
#define STUCK_NS ((u64)10000000000)

/* What the library keeps of a device's author. In the library's own data, which is never evicted. */
struct author {
	struct tdm_device_ops ops;
	struct tdm_pool_ops pool_ops;
	tdm_aptr dev;           /* struct tdm_device *, or NULL: free; the lock of api.c to write it */
	/* Ops that are running, of which one thread each has taken an entry. More than that are not noted. */
	struct {
		tdm_a64 since;  /* 0: free */
		tdm_aptr what;
	} call[CALLS];
};

static struct author authors[TDM_DEVICES_MAX];

static struct tdm_device_worker *worker_of(struct tdm_device_thread *t)
{
	return (struct tdm_device_worker *)t;
}

/* ---- the author's functions ---------------------------------------------------------------------------------------------------------- */

static u32 call_begin(struct author *a, const char *what)
{
	u64 now = plat_now_ns();

	for (u32 i = 0; i < CALLS; i++) {
		u64 free = 0;

		if (!tdm_a64_ld_relaxed(&a->call[i].since) && tdm_a64_cas_acqrel(&a->call[i].since, &free, now)) {
			tdm_aptr_st_relaxed(&a->call[i].what, (void *)(uintptr_t)what);
			return i;
		}
	}
	return CALLS;
}

static void call_end(struct author *a, u32 i)
{
	if (i < CALLS)
		tdm_a64_st_release(&a->call[i].since, 0);
}

static const char *busy(void *arg, u64 longer_than_ns)
{
	struct author *a = arg;
	u64 now = plat_now_ns();

	for (u32 i = 0; i < CALLS; i++) {
		u64 since = tdm_a64_ld_acquire(&a->call[i].since);
		const char *what = tdm_aptr_ld_acquire(&a->call[i].what);

		if (since && since + longer_than_ns < now && what && tdm_a64_ld_acquire(&a->call[i].since) == since)
			return what;
	}
	return NULL;
}

static int copy_in(struct tdm_pool *p, u32 frame, const void *src, u32 n)
{
	struct author *a = p->arg;
	u32 call = call_begin(a, "copy_in has been running");
	int r = a->ops.copy_in(a->ops.arg, frame, src, n);

	call_end(a, call);
	return r;
}

static int copy_out(struct tdm_pool *p, void *dst, u32 frame, u32 n)
{
	struct author *a = p->arg;
	u32 call = call_begin(a, "copy_out has been running");
	int r = a->ops.copy_out(a->ops.arg, dst, frame, n);

	call_end(a, call);
	return r;
}

static int copy_wait(struct tdm_pool *p)
{
	struct author *a = p->arg;
	u32 call = call_begin(a, "copy_wait has been running");
	int r = a->ops.copy_wait(a->ops.arg);

	call_end(a, call);
	return r;
}

static void page_free(struct tdm_pool *p, u32 frame, u32 order)
{
	struct author *a = p->arg;
	u32 call = call_begin(a, "page_free has been running");

	a->ops.page_free(a->ops.arg, frame, order);
	call_end(a, call);
}

static void *memory(void *arg, u32 frame)
{
	const struct author *a = arg;

	return a->ops.address(a->ops.arg, frame);
}

static void mapped(void *arg, u64 va, u64 entry)
{
	struct author *a = arg;
	struct tdm_device_leaf leaf = { .addr = va, .pages = (u64)1 << tdm_rf_order(entry), .flags = entry & TDM_RF_WRITE ? TDM_LEAF_WRITE : 0 };

	if (entry & TDM_RF_DEVICE) {
		leaf.flags |= TDM_LEAF_MEMORY;
		leaf.frame = entry & TDM_RF_PAYLOAD;
	}
	if (a->ops.mapped) {
		u32 call = call_begin(a, "mapped has been running");

		a->ops.mapped(a->ops.arg, &leaf);
		call_end(a, call);
	}
}

static void invalidated(void *arg, u64 start, u64 end)
{
	struct author *a = arg;

	if (a->ops.invalidated) {
		u32 call = call_begin(a, "invalidated has been running");

		a->ops.invalidated(a->ops.arg, start, end);
		call_end(a, call);
	}
}

static void chunk(void *arg, u32 frame, bool here)
{
	struct author *a = arg;
	u32 call;

	if (!a->ops.chunk)
		return;
	call = call_begin(a, "chunk has been running");
	a->ops.chunk(a->ops.arg, frame, here);
	call_end(a, call);
}

static const struct tdm_mirror_ops mirror_ops = { .memory = memory, .mapped = mapped, .invalidated = invalidated };

/* ---- coming and going ---------------------------------------------------------------------------------------------------------------- */

static bool check(const struct tdm_device_ops *ops, const struct tdm_device_options *o)
{
	const u64 sizes = TDM_MIRROR_4K | TDM_MIRROR_64K | TDM_MIRROR_2M;
	bool coherent = o && (o->flags & TDM_DEVICE_COHERENT), none = ops && !ops->copy_in && !ops->copy_out;
	bool copies = ops && (coherent ? none : ops->copy_in && ops->copy_out && ops->address);

	return ops && o && ops->size == sizeof(*ops) && o->size == sizeof(*o) && ops->name && !!o->memory_bytes == copies &&
	       o->memory_bytes % TDM_HUGE_SIZE == 0 && o->memory_bytes >> TDM_PAGE_SHIFT <= ~(u32)0 && o->threads <= TDM_DEVICE_WORKERS &&
	       (!o->page_sizes || ((o->page_sizes & TDM_MIRROR_4K) && !(o->page_sizes & ~sizes))) &&
	       !(o->flags & ~(TDM_DEVICE_SLOW | TDM_DEVICE_WRITE_AHEAD | TDM_DEVICE_INHERITED | TDM_DEVICE_COHERENT)) &&
	       (!coherent || o->numa_node == -1 || !tdmi_linux_node_check(o->numa_node)) &&
	       (!o->share || (tdm_device_share_bytes(o->memory_bytes) && !(o->flags & (TDM_DEVICE_INHERITED | TDM_DEVICE_COHERENT))));
}

static int attach(struct tdm_live *l, const struct tdm_device_ops *ops, const struct tdm_device_options *o, struct tdm_device **out)
{
	struct author *a = NULL;
	struct tdm_device_config c = { .name = ops->name, .mirror_ops = &mirror_ops, .nframes = (u32)(o->memory_bytes >> TDM_PAGE_SHIFT),
				       .page_sizes = o->page_sizes ? o->page_sizes : TDM_MIRROR_4K | TDM_MIRROR_64K | TDM_MIRROR_2M,
				       .nworkers = o->threads ? o->threads : 1, .resident_bytes = o->process_bytes,
				       .share = o->share, .chunk = chunk,
				       .stuck_ns = o->stuck_ms ? (u64)o->stuck_ms * 1000000 : STUCK_NS, .busy = busy,
				       .coherent = o->flags & TDM_DEVICE_COHERENT, .on_node = (o->flags & TDM_DEVICE_COHERENT) && o->numa_node >= 0,
				       .node = o->numa_node, .inherited = o->flags & TDM_DEVICE_INHERITED, .write_ahead = o->flags & TDM_DEVICE_WRITE_AHEAD };
	int r;

	for (u32 i = 0; i < TDM_DEVICES_MAX && !a; i++)
		if (!tdm_aptr_ld_relaxed(&authors[i].dev))
			a = &authors[i];
	if (!a)
		return -ENOSPC;
	a->ops = *ops;
	a->pool_ops = (struct tdm_pool_ops){ .name = ops->name, .slow = o->flags & TDM_DEVICE_SLOW, .copy_in = copy_in, .copy_out = copy_out,
					     .copy_wait = ops->copy_wait ? copy_wait : NULL, .page_free = ops->page_free ? page_free : NULL };
	c.pool_ops = c.nframes ? &a->pool_ops : NULL;
	c.arg = a;
	r = tdmi_device_attach(l, &c, out);
	tdm_aptr_st_release(&a->dev, *out);
	return r;
}

int tdm_device_attach(struct tdm *t, const struct tdm_device_ops *ops, const struct tdm_device_options *options, struct tdm_device **out)
{
	struct tdm_live *l = out && check(ops, options) ? tdmi_api_begin(t) : NULL;

	return l ? tdmi_api_end(attach(l, ops, options, out)) : -EINVAL;
}

int tdm_device_detach(struct tdm_device *dev)
{
	int r = -EINVAL;

	tdmi_api_lock();
	for (u32 i = 0; dev && i < TDM_DEVICES_MAX; i++)
		if (tdm_aptr_ld_relaxed(&authors[i].dev) == dev) {
			r = tdmi_device_detach(dev);
			if (!r)
				tdm_aptr_st_release(&authors[i].dev, NULL);
		}
	return tdmi_api_end(r);
}

size_t tdm_device_share_bytes(uint64_t memory_bytes)
{
	u64 chunks = memory_bytes / TDM_HUGE_SIZE;

	return !chunks || chunks > TDM_SHARE_CHUNKS_MAX || memory_bytes % TDM_HUGE_SIZE ? 0 : tdmi_share_bytes((u32)chunks);
}

int tdm_device_share_init(void *share, uint64_t memory_bytes)
{
	if (!share || (uintptr_t)share % TDM_PAGE_SIZE || !tdm_device_share_bytes(memory_bytes))
		return -EINVAL;
	return tdmi_share_init(share, (u32)(memory_bytes / TDM_HUGE_SIZE));
}

void tdmi_api_devices_gone(void)
{
	for (u32 i = 0; i < TDM_DEVICES_MAX; i++)
		tdm_aptr_st_release(&authors[i].dev, NULL);
}

/* A handle of before may be of memory that is not there any more. */
static bool attached(const struct tdm_device *dev)
{
	bool found = false;

	for (u32 i = 0; dev && i < TDM_DEVICES_MAX; i++)
		found = found || tdm_aptr_ld_acquire(&authors[i].dev) == dev;
	return found && dev->live && !dev->gone;
}

/* Memory that was mapped a moment ago. */
static void find_new(struct tdm_device *dev)
{
	(void)tdmi_live_request(dev->live, TDM_OP_FIND, 0, 0, NULL);
}

/* ---- the program's threads ------------------------------------------------------------------------------------------------------------ */

static int range_job(struct tdm_device *dev, int (*fn)(struct tdm_device_worker *, struct tdm_device_job *), const void *addr, size_t len, size_t *pages)
{
	u64 start = (u64)(uintptr_t)addr, n = 0, before = 0;
	int r;

	if (!dev || !len || (start | len) % TDM_PAGE_SIZE || start + len < start)
		return -EINVAL;
	if (!attached(dev))
		return -ENODEV;
	r = tdmi_device_do(dev, fn, dev, start, start + len, &n);
	if (r == -EAGAIN) {
		find_new(dev);
		before = n;
		r = tdmi_device_do(dev, fn, NULL, start, start + len, &n);
	}
	if (pages)
		*pages = before + n;
	return r;
}

int tdm_device_migrate(struct tdm_device *dev, void *addr, size_t len, size_t *pages)
{
	if (attached(dev) && !dev->config.nframes)
		return -EOPNOTSUPP;
	return range_job(dev, tdmi_device_job_migrate, addr, len, pages);
}

int tdm_device_exclusive(struct tdm_device *dev, void *addr, size_t len, size_t *pages)
{
	return range_job(dev, tdmi_device_job_exclusive, addr, len, pages);
}

int tdm_device_evict(struct tdm_device *dev, size_t pages, size_t *done)
{
	u64 n = 0;
	int r;

	if (!dev)
		return -EINVAL;
	if (!attached(dev))
		return -ENODEV;
	if (!dev->config.nframes)
		return -EOPNOTSUPP;
	r = tdmi_device_do(dev, tdmi_device_job_evict, NULL, pages, 0, &n);
	if (done)
		*done = n;
	return r;
}

int tdm_device_stats_get(struct tdm_device *dev, struct tdm_device_stats *s)
{
	const struct tdm_mirror *m;

	if (!dev || !s || s->size != sizeof(*s))
		return -EINVAL;
	if (!attached(dev))
		return -ENODEV;
	m = &dev->mirror;
	*s = (struct tdm_device_stats){ .size = sizeof(*s), .faults = tdm_a64_ld_relaxed(&m->faults), .filled_pages = tdm_a64_ld_relaxed(&m->filled),
					.upgrades = tdm_a64_ld_relaxed(&m->upgrades), .invalidations = tdm_a64_ld_relaxed(&m->invalidations),
					.cleared_pages = tdm_a64_ld_relaxed(&m->cleared), .retries = tdm_a64_ld_relaxed(&m->retries),
					.memory_pages = tdm_a64_ld_relaxed(&dev->pool.pages),
					.memory_held = tdmi_device_frames_here(dev), .pages_in = tdm_a64_ld_relaxed(&dev->pool.moved_in),
					.pages_out = tdm_a64_ld_relaxed(&dev->pool.moved_out) };
	return 0;
}

int tdm_mprotect(struct tdm *t, void *addr, size_t len, int prot)
{
	u64 start = (u64)(uintptr_t)addr;
	struct tdm_live *l = start % TDM_PAGE_SIZE || start + len < start ? NULL : tdmi_api_begin(t);

	return l ? tdmi_api_end(tdmi_device_mprotect(l, start, start + TDM_ALIGN_UP(len, TDM_PAGE_SIZE), prot)) : -EINVAL;
}

static int run_job(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	((void (*)(struct tdm_device_thread *, void *))(uintptr_t)job->a)((struct tdm_device_thread *)w, job->arg);
	return 0;
}

int tdm_device_run(struct tdm_device *dev, void (*fn)(struct tdm_device_thread *t, void *arg), void *arg, struct tdm_device_run **run)
{
	struct tdm_device_job *job;

	if (!dev || !fn)
		return -EINVAL;
	job = attached(dev) ? tdmi_device_submit(dev, run_job, arg, (u64)(uintptr_t)fn, 0) : NULL;
	if (!job)
		return -ENODEV;
	if (!run)
		return tdmi_device_wait(dev, job, NULL);
	*run = (struct tdm_device_run *)job;
	return 0;
}

int tdm_device_wait(struct tdm_device *dev, struct tdm_device_run *run)
{
	return dev && run ? tdmi_device_wait(dev, (struct tdm_device_job *)run, NULL) : -EINVAL;
}

static int fault_job(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	const struct author *a = w->dev->config.arg;
	int r = tdm_device_prefault((struct tdm_device_thread *)w, (void *)(uintptr_t)job->a, job->b >> 1, job->b & 1);

	a->ops.fault_done(a->ops.arg, job->arg, r);
	return r;
}

int tdm_device_fault(struct tdm_device *dev, const void *addr, size_t len, int write, void *cookie)
{
	const struct author *a;
	struct tdm_device_job *job;

	if (!dev || !len)
		return -EINVAL;
	if (!attached(dev))
		return -ENODEV;
	a = dev->config.arg;
	if (!a->ops.fault_done)
		return -EINVAL;
	job = tdmi_device_submit_forget(dev, fault_job, cookie, (u64)(uintptr_t)addr, (u64)len << 1 | (write != 0));
	return job ? 0 : -ENODEV;
}

/* ---- the device's threads --------------------------------------------------------------------------------------------------------------- */

int tdm_device_read(struct tdm_device_thread *t, const void *addr, void *buf, size_t len)
{
	size_t done;

	return tdmi_mirror_copy(&worker_of(t)->reader, (u64)(uintptr_t)addr, buf, len, false, &done, NULL);
}

int tdm_device_write(struct tdm_device_thread *t, void *addr, const void *buf, size_t len)
{
	size_t done;

	return tdmi_mirror_copy(&worker_of(t)->reader, (u64)(uintptr_t)addr, (void *)(uintptr_t)buf, len, true, &done, NULL);
}

int tdm_device_atomic(struct tdm_device_thread *t, void *addr, size_t len, void (*fn)(void *p, void *arg), void *arg)
{
	struct tdm_device_worker *w = worker_of(t);
	int r = tdmi_mirror_atomic(&w->reader, (u64)(uintptr_t)addr, len, fn, arg);

	if (r != -EOPNOTSUPP)
		return r;
	find_new(w->dev);
	return tdmi_mirror_atomic(&w->reader, (u64)(uintptr_t)addr, len, fn, arg);
}

int tdm_device_prefault(struct tdm_device_thread *t, const void *addr, size_t len, int write)
{
	struct tdm_device_worker *w = worker_of(t);
	u64 va = (u64)(uintptr_t)addr, end = va + len;
	int r = len && end > va ? 0 : -EINVAL;

	while (!r && va < end) {
		u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);

		tdm_device_enter_mm(w);
		r = tdmi_mirror_fault(&w->reader, va, stop, write, 0, 0);
		tdmi_mm_exit(w->ctx);
		va = stop;
	}
	return r;
}

int tdm_device_pin(struct tdm_device_thread *t, const void *addr, size_t pages, unsigned flags, uint64_t *page, size_t *done)
{
	struct tdm_device_worker *w = worker_of(t);
	u64 va = (u64)(uintptr_t)addr;
	bool found = false;
	int r = -EINVAL;

	_Static_assert(sizeof(struct tdm_pfn) == sizeof(uint64_t), "a page's number is what pins are remembered by");
	*done = 0;
	if (flags & ~(TDM_PIN_WRITE | TDM_PIN_LONGTERM))
		return -EINVAL;
	while (*done < pages || !pages) {
		u32 n, got;

		n = (u32)TDM_MIN(pages - *done, (size_t)TDM_HUGE_PAGES);
		tdm_device_enter_mm(w);
		r = tdmi_pin(w->ctx, va + ((u64)*done << TDM_PAGE_SHIFT), n, flags, (struct tdm_pfn *)(page + *done), &got);
		tdmi_mm_exit(w->ctx);
		*done += got;
		if (r == -EOPNOTSUPP && !found) {
			find_new(w->dev);
			found = true;
		} else if (r) {
			break;
		}
	}
	return r;
}

void tdm_device_unpin(struct tdm_device_thread *t, const uint64_t *page, size_t pages)
{
	struct tdm_device_worker *w = worker_of(t);

	tdm_device_enter_mm(w);
	tdmi_unpin(w->ctx, (const struct tdm_pfn *)page, (u32)pages);
	tdmi_mm_exit(w->ctx);
}
