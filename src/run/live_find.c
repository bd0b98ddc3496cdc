/* SPDX-License-Identifier: MIT */
/*
 * live_find.c - which memory of the process is the engine's to manage.
 *
 * Private anonymous mappings that the program made after the engine had started. What was there before (the dynamic linker's, libc's and the
 * program's data, the main thread's stack) the engine's own threads may depend on; what has a file, is shared, or belongs to the kernel
 * is not anonymous memory; what some other userfaultfd serves is somebody else's.
 */
#include <fcntl.h>
#include <string.h>
#include "base/check.h"
#include "plat/linux/sys.h"
#include "run/live.h"

static bool is_heap(const struct tdm_mapping *m)
{
	return strcmp(m->name, "[heap]") == 0;
}

static bool candidate(const struct tdm_mapping *m)
{
	if (m->shared || m->file || tdmi_linux_mem_own(m->start, m->end))
		return false;
	return !m->name[0] || is_heap(m) || strncmp(m->name, "[anon:", 6) == 0;
}

void tdmi_live_note_before(struct tdm_live *l)
{
	struct tdm_host h = { .maps = (int)tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0) };
	struct tdm_mapping m;

	for (u64 at = 0; h.maps >= 0 && l->nbefore < TDM_LIVE_BEFORE && !tdmi_host_mapping(&h, at, &m); at = m.end)
		if (!tdmi_linux_mem_own(m.start, m.end))
			l->before[l->nbefore++] = (struct tdm_range){ m.start, m.end };
	tdm_sys1(SYS_close, h.maps);
}

/* Give [start, end) to the engine: all of it is one candidate mapping, and none of it is managed yet. */
static void take(struct tdm_live *l, u64 start, u64 end)
{
	struct tdm_mapping m;

	plat_mutex_lock(&l->mm.event_lock);
	/* The program may have changed it since it was looked at; once it is registered, changes are events, and none is read before we are done. */
	if (!tdmi_host_register(&l->host, start, end)) {
		bool ok = true;

		for (u64 at = start; ok && at < end; at = m.end)
			ok = !tdmi_host_mapping(&l->host, at, &m) && m.start <= at && candidate(&m);
		if (!ok)
			tdmi_host_unregister(&l->host, start, end);
		else if (tdmi_vma_insert(&l->mm, start, end, 0))
			tdmi_host_unregister(&l->host, start, end);
		else
			(void)tdmi_adopt(l->ctx, start, end);
	}
	plat_mutex_unlock(&l->mm.event_lock);
}

/* The first part of [start, end) that was not there before us and is not managed; empty if there is none. */
static struct tdm_range gap(struct tdm_live *l, u64 start, u64 end)
{
	struct tdm_vma v;

	for (bool again = true; again && start < end;) {
		again = false;
		for (u32 i = 0; i < l->nbefore; i++)
			if (l->before[i].start <= start && start < l->before[i].end) {
				start = l->before[i].end;
				again = true;
			}
		if (tdmi_vma_find(&l->mm, start, &v)) {
			start = v.end;
			again = true;
		}
	}
	if (start >= end)
		return (struct tdm_range){ end, end };
	for (u32 i = 0; i < l->nbefore; i++)
		if (l->before[i].start > start)
			end = TDM_MIN(end, l->before[i].start);
	if (tdmi_vma_next(&l->mm, start, &v))
		end = TDM_MIN(end, v.start);
	return (struct tdm_range){ start, end };
}

void tdmi_live_find(struct tdm_live *l)
{
	struct tdm_mapping m;

	if (!tdmi_mm_enter(l->ctx))
		return;
	for (u64 at = 0; !tdmi_host_mapping(&l->host, at, &m); at = m.end) {
		struct tdm_range g;

		if (!candidate(&m))
			continue;
		for (u64 s = m.start; s < m.end; s = g.end) {
			tdmi_rcu_read_lock(l->ctx->rcu);
			g = gap(l, s, m.end);
			tdmi_rcu_read_unlock(l->ctx->rcu);
			if (g.start < g.end)
				take(l, g.start, g.end);
		}
	}
	tdmi_mm_exit(l->ctx);
}

int tdmi_live_exclude(struct tdm_live *l, u64 start, u64 end)
{
	int r;

	if (tdm_a32_ld_acquire(&l->state) != TDM_LIVE_ENGAGED)
		return -EINVAL;
	while (!tdmi_mm_enter(l->ctx))
		plat_yield();
	/* Nothing is taken home while we hold the event lock, so what has been brought stays. */
	plat_mutex_lock(&l->mm.event_lock);
	r = tdmi_bring_locked(l->ctx, start, end);
	if (!r) {
		tdmi_host_unregister(&l->host, start, end);
		tdmi_zap(l->ctx, start, end, false);
		r = tdmi_vma_insert(&l->mm, start, end, TDM_VMA_EXCLUDED);
	}
	plat_mutex_unlock(&l->mm.event_lock);
	tdmi_mm_exit(l->ctx);
	return r;
}

int tdmi_live_lock_all(unsigned flags)
{
	struct tdm_host h = { .maps = (int)tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0) };
	struct tdm_mapping m;
	long r = h.maps;

	for (u64 at = 0; r >= 0 && !tdmi_host_mapping(&h, at, &m); at = m.end)
		if (!tdmi_linux_mem_own(m.start, m.end) && m.readable && strcmp(m.name, "[vvar]") && strcmp(m.name, "[vsyscall]"))
			r = tdm_sys3(SYS_mlock2, m.start, m.end - m.start, flags);
	tdm_sys1(SYS_close, h.maps);
	/* Like mlockall(2): what cannot be populated is locked all the same; only the limit is an error. */
	return r == -EPERM || r == -EAGAIN ? (int)r : 0;
}
