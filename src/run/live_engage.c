/* SPDX-License-Identifier: MIT */
/* live_engage.c - from a process that is watched to one that is managed, and back. On the main thread of the engine. */
#include <string.h>
#include <sys/sysinfo.h>
#include "base/check.h"
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "run/live.h"

/* ---- the way in ---------------------------------------------------------------------------------------------------- */

static int make_swap(struct tdm_live *l, char *err, size_t errlen)
{
	struct tdm_tier *tier[TDM_CONTROL_TIERS] = { NULL };
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
	r = tdmi_mm_init(&l->mm, &l->host.port, l->arena, (u32)((l->arena_len - TDM_HUGE_SIZE) >> TDM_PAGE_SHIFT), l->swap);
	if (r)
		goto out_host;
	l->host.mm = &l->mm;
	l->host.gate = l->interposed ? &l->gate : NULL;
	l->mm.keep = &l->keep;
	l->threads_next_ns = 0;
	tdmi_live_note_threads(l);
	l->host.forked = tdmi_live_raw_fork;
	l->host.forked_arg = l;
	l->ctx = tdmi_ctx_create(&l->mm);
	if (l->ctx) {
		l->ctx->may_wait = true;
		r = tdmi_live_start_handlers(l);
		if (!r)
			return 0;
		tdmi_live_stop_handlers(l);
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

static bool next_vma(struct tdm_live *l, u64 at, struct tdm_vma *v)
{
	bool is;

	tdmi_rcu_read_lock(l->ctx->rcu);
	is = tdmi_vma_next(&l->mm.vmas, at, v);
	tdmi_rcu_read_unlock(l->ctx->rcu);
	return is;
}

/* The engine forgets a VMA before the kernel does: pages that were taken from a mapping that is not registered would read as zeros. */
static int let_go(struct tdm_live *l, const struct tdm_vma *v)
{
	int r;

	plat_mutex_lock(&l->mm.event_lock);
	r = tdmi_bring_locked(l->ctx, v->start, v->end);
	if (!r)
		r = tdmi_vma_insert(&l->mm.vmas, v->start, v->end, TDM_VMA_EXCLUDED);
	if (!r) {
		tdmi_zap(l->ctx, v->start, v->end, TDM_ZAP_FORGET);
		tdmi_host_unregister(&l->host, v->start, v->end);
	}
	plat_mutex_unlock(&l->mm.event_lock);
	return r;
}

int tdmi_live_disengage(struct tdm_live *l)
{
	struct tdm_vma v;
	u64 at, gone = 0;
	int r = 0;

	/* With nobody taking pages home any more, what has been brought stays. */
	tdm_a64_st_relaxed(&l->mm.limit_bytes, ~(u64)0);
	tdm_a64_st_relaxed(&l->mm.high_bytes, ~(u64)0);
	/* All of it first: if there is no room, nothing has changed. */
	for (at = 0; !r && next_vma(l, at, &v); at = v.end)
		r = tdmi_bring(l->ctx, v.start, v.end);
	if (r)
		return r;
	while (!r && next_vma(l, gone, &v)) {
		r = let_go(l, &v);
		gone = r ? gone : v.end;
	}
	if (r) {
		/* The engine stays after all: what has been let go it finds again. */
		plat_mutex_lock(&l->mm.event_lock);
		(void)tdmi_vma_remove(&l->mm.vmas, 0, gone);
		plat_mutex_unlock(&l->mm.event_lock);
		return r;
	}
	tdmi_live_stop_handlers(l);
	tdmi_live_devices_end(l);
	tdmi_ctx_destroy(l->ctx);
	tdmi_mm_destroy(&l->mm);
	tdmi_host_close(&l->host);
	tdmi_frozen_destroy(l);
	plat_unmap(l->arena, l->arena_len);
	return 0;
}
