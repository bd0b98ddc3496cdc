/* SPDX-License-Identifier: MIT */
/* live_engage.c - from a process that is watched to one that is managed, and back. On the main thread of the engine. */
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/sysinfo.h>
#include "base/check.h"
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "run/live.h"

/* ---- handlers ------------------------------------------------------------------------------------------------------ */

struct handler_arg {
	struct tdm_live *live;
	struct tdm_ctx *ctx;
	u32 cpu;
};

static void count_latency(struct tdm_ctx *ctx, u64 ns)
{
	u32 i = ns < 256 ? 0 : 64u - (u32)__builtin_clzll(ns >> 8);

	tdm_count(ctx, TDM_C_FAULT_NS, ns);
	tdm_count(ctx, TDM_C_LATENCY0 + TDM_MIN(i, 31u), 1);
}

/* Serve one fault, if there is one. */
static bool serve_one(struct tdm_live *l, struct tdm_ctx *ctx)
{
	struct tdm_host_fault f;
	bool got;
	u64 start;

	plat_mutex_lock(&l->mm.event_lock);
	got = tdmi_host_read(&l->host, ctx, &f);
	plat_mutex_unlock(&l->mm.event_lock);
	if (!got)
		return false;
	start = plat_now_ns();
	tdmi_fault(ctx, (struct tdm_va){ f.va }, f.write);
	count_latency(ctx, plat_now_ns() - start);
	return true;
}

static void handler_main(void *p)
{
	struct handler_arg arg = *(struct handler_arg *)p;
	struct tdm_live *l = arg.live;
	struct tdm_ctx *ctx = arg.ctx;
	u64 mask[16] = { 0 }, kicks;

	plat_unmap(p, sizeof(arg));
	mask[arg.cpu / 64] = (u64)1 << (arg.cpu % 64);
	tdm_sys3(SYS_sched_setaffinity, 0, sizeof(mask), mask);
	tdm_a32_add_acqrel(&l->nready, 1);
	plat_wake(&l->nready, 1);
	while (!tdm_a32_ld_acquire(&l->stop)) {
		struct pollfd fds[3] = { { .fd = l->host.uffd, .events = POLLIN },
					 { .fd = l->host.kick_fd, .events = POLLIN },
					 { .fd = l->stop_fd, .events = POLLIN } };

		if (!tdmi_mm_enter(ctx)) {
			plat_wait(&l->mm.gate, 1, ~(u64)0);
			continue;
		}
		while (serve_one(l, ctx))
			if (tdm_a32_ld_relaxed(&l->mm.gate))
				break;
		tdmi_mm_exit(ctx);
		if (l->control == NULL || tdmi_mm_usage(&l->mm) > tdm_a64_ld_relaxed(&l->mm.high_bytes)) {
			tdm_a32_add_acqrel(&l->wake, 1);
			plat_wake(&l->wake, 1);
		}
		tdm_sys3(SYS_poll, fds, 3, -1);
		if (fds[1].revents)
			tdm_sys3(SYS_read, l->host.kick_fd, &kicks, sizeof(kicks));
	}
	tdmi_ctx_destroy(ctx);
}

static int start_handler(struct tdm_live *l, u32 cpu)
{
	struct handler_arg *arg = plat_map(sizeof(*arg));
	struct tdm_ctx *ctx = tdmi_ctx_create(&l->mm);
	int r = -ENOMEM;

	if (arg && ctx) {
		*arg = (struct handler_arg){ l, ctx, cpu };
		r = plat_thread_start(&l->handler[l->nhandlers], handler_main, arg, "tandem-fault");
	}
	if (!r) {
		l->nhandlers++;
		return 0;
	}
	if (ctx)
		tdmi_ctx_destroy(ctx);
	if (arg)
		plat_unmap(arg, sizeof(*arg));
	return r;
}

int tdmi_live_start_handlers(struct tdm_live *l)
{
	u64 mask[16] = { 0 };

	tdm_a32_st_relaxed(&l->stop, 0);
	l->nhandlers = 0;
	tdm_a32_st_relaxed(&l->nready, 0);
	l->stop_fd = tdmi_linux_fd_keep(tdm_sys2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (l->stop_fd < 0)
		return l->stop_fd;
	tdm_sys3(SYS_sched_getaffinity, 0, sizeof(mask), mask);
	for (u32 cpu = 0; cpu < 1024 && l->nhandlers < TDM_LIVE_HANDLERS; cpu++) {
		int r = mask[cpu / 64] >> (cpu % 64) & 1 ? start_handler(l, cpu) : 0;

		if (r)
			return r;
	}
	/* One that has yet to enter the mm is not seen by a freeze, and may hold a lock that a fork's child would inherit. */
	for (u32 n; (n = tdm_a32_ld_acquire(&l->nready)) < l->nhandlers;)
		plat_wait(&l->nready, n, ~(u64)0);
	return 0;
}

static void stop_handlers(struct tdm_live *l)
{
	u64 one = 1;

	tdm_a32_st_release(&l->stop, 1);
	if (l->stop_fd >= 0)
		tdm_sys3(SYS_write, l->stop_fd, &one, sizeof(one));
	for (u32 i = 0; i < l->nhandlers; i++)
		plat_thread_join(l->handler[i]);
	l->nhandlers = 0;
	if (l->stop_fd >= 0)
		tdm_sys1(SYS_close, l->stop_fd);
}

/* ---- the way in ---------------------------------------------------------------------------------------------------- */

static int make_swap(struct tdm_live *l, char *err, size_t errlen)
{
	struct tdm_tier *tier[TDM_CONTROL_TIERS];
	int r = 0;
	u32 n;

	for (n = 0; n < l->ntiers && !r; n++)
		r = tdmi_tier_create(l->tier[n], &tier[n], err, errlen);
	if (r)
		n--;
	if (!r)
		r = tdmi_swap_create(tier, n, &l->swap);
	if (r)
		while (n--)
			tier[n]->ops->destroy(tier[n]);
	return r;
}

/* Homes for twice the memory that the machine has: blocks are homes of 64 KiB even when only a page of them is in use. */
static u64 arena_size(void)
{
	struct sysinfo si;
	u64 start, end, ram;

	tdm_sys1(SYS_sysinfo, &si);
	ram = (u64)si.totalram * si.mem_unit;
	tdmi_linux_mem_range(&start, &end);
	return TDM_ALIGN_DOWN(TDM_MIN(2 * ram, (end - start) / 4), TDM_HUGE_SIZE);
}

int tdmi_live_engage(struct tdm_live *l, char *err, size_t errlen)
{
	int uffd = tdmi_host_open_uffd(err, errlen), r;

	if (uffd < 0)
		return uffd;
	r = make_swap(l, err, errlen);
	if (r)
		goto out_uffd;
	l->arena_len = arena_size();
	l->arena = plat_map(l->arena_len);
	r = l->arena ? tdmi_host_init(&l->host, uffd, l->arena, l->arena_len) : -ENOMEM;
	if (r)
		goto out_arena;
	r = tdmi_mm_init(&l->mm, &l->host.port, l->arena, (u32)(l->arena_len >> TDM_PAGE_SHIFT), l->swap);
	if (r)
		goto out_host;
	l->host.mm = &l->mm;
	l->mm.keep = &l->keep;
	l->threads_next_ns = 0;
	tdmi_live_note_threads(l);
	l->host.forked = tdmi_live_raw_fork;
	l->host.forked_arg = l;
	l->mm.frames.warm_max = l->no_recycle ? 0 : 32;
	l->ctx = tdmi_ctx_create(&l->mm);
	if (l->ctx) {
		l->ctx->may_wait = true;
		r = tdmi_live_start_handlers(l);
		if (!r)
			return 0;
		stop_handlers(l);
		tdmi_ctx_destroy(l->ctx);
	}
	tdmi_fmt(err, errlen, "no thread to serve faults could be started");
	/* Takes the swap along. */
	tdmi_mm_destroy(&l->mm);
	l->swap = NULL;
	r = r ? r : -ENOMEM;
out_host:
	tdmi_host_close(&l->host);
	uffd = -1;
out_arena:
	if (l->arena)
		plat_unmap(l->arena, l->arena_len);
	if (l->swap)
		tdmi_fmt(err, errlen, "the engine could not be set up");
	tdmi_swap_destroy(l->swap);
	l->swap = NULL;
out_uffd:
	if (uffd >= 0)
		tdm_sys1(SYS_close, uffd);
	return r;
}

int tdmi_live_disengage(struct tdm_live *l)
{
	struct tdm_vma v;
	u64 at = 0;
	int r = 0;

	/* With nobody taking pages home any more, what has been brought stays. */
	tdm_a64_st_relaxed(&l->mm.limit_bytes, ~(u64)0);
	tdm_a64_st_relaxed(&l->mm.high_bytes, ~(u64)0);
	while (!r && tdmi_vma_next(&l->mm, at, &v)) {
		r = tdmi_bring(l->ctx, v.start, v.end);
		if (!r)
			tdmi_host_unregister(&l->host, v.start, v.end);
		at = v.end;
	}
	if (r)
		return r;
	stop_handlers(l);
	tdmi_ctx_destroy(l->ctx);
	tdmi_mm_destroy(&l->mm);
	tdmi_host_close(&l->host);
	tdmi_frozen_destroy(l);
	plat_unmap(l->arena, l->arena_len);
	return 0;
}
