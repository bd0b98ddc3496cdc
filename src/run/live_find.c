/* SPDX-License-Identifier: MIT */
/*
 * live_find.c - which memory of the process is the engine's to manage.
 *
 * Private anonymous mappings that the program made after the engine had started. What was there before (the dynamic linker's, libc's and the
 * program's data, the main thread's stack) the engine's own threads may depend on; what has a file, is shared, or belongs to the kernel
 * is not anonymous memory; what some other userfaultfd serves is somebody else's. `before` also has what the program wants to be left alone and
 * said before there was an engine to tell.
 */
#include <fcntl.h>
#include <string.h>
#include "base/check.h"
#include "plat/linux/sys.h"
#include "run/live.h"

#define LOOKS 64u /* again, at one mapping or another, where they change all the time */

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

/* The mappings of a library are neighbours: one range. */
static int note_range(struct tdm_live *l, u64 start, u64 end)
{
	if (l->nbefore && l->before[l->nbefore - 1].end == start) {
		l->before[l->nbefore - 1].end = end;
		return 0;
	}
	if (l->nbefore == TDM_LIVE_BEFORE)
		return -ENOSPC;
	l->before[l->nbefore++] = (struct tdm_range){ start, end };
	return 0;
}

int tdmi_live_note_before(struct tdm_live *l)
{
	struct tdm_host h = { .maps = (int)tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0) };
	struct tdm_mapping m;
	int r = TDM_MIN(h.maps, 0);

	for (u64 at = 0; !r && !(r = tdmi_host_mapping(&h, at, &m)); at = m.end)
		if (!tdmi_linux_mem_own(m.start, m.end))
			r = note_range(l, m.start, m.end);
	if (h.maps >= 0)
		tdm_sys1(SYS_close, h.maps);
	return r == -ENOENT ? 0 : r;
}

/* The mapping that holds `at`, or the next one, if it is registered with us and one of the kind that can be managed. */
static int registered_at(struct tdm_live *l, u64 at, struct tdm_mapping *m)
{
	struct tdm_mapping again;
	int r = tdmi_host_mapping(&l->host, at, m);

	if (!r && candidate(m))
		r = tdmi_host_registered(l->host.uffd, TDM_MAX(at, m->start));
	if (!r)
		r = tdmi_host_mapping(&l->host, at, &again);
	return r ? r : again.start == m->start && again.end == m->end ? 0 : -EAGAIN;
}

/* Does the engine know somebody in the mapping that holds `at`, which is not registered? He has left, and has not said so yet. If the rest were registered,
 * whoever unmaps the mapping would announce that he leaves all of it, and be taken for him. */
static bool left_unsaid(struct tdm_live *l, u64 at, const struct tdm_mapping *m)
{
	struct tdm_vma v;

	return tdmi_vma_next(&l->mm.vmas, m->start, &v) && v.start < m->end && tdmi_host_registered(l->host.uffd, at);
}

/*
 * Give [start, end) to the engine: it was the part of a candidate mapping that ended at map_end, and none of it was managed.
 *
 * The program may have changed it since it was looked at. If there is another mapping by now nothing is done: to register a part of a mapping makes two of it,
 * which may stay two (interpose_mremap.c). In the moment between this look and the registration that can happen still. What is registered changes with an
 * event, and none is read before we are done; so what is seen to be registered now is managed, and nothing else: pages taken from a mapping that is not would
 * be read as zeros. Anonymous memory that is not managed after all stays registered, for it may be managed memory that mremap() has moved here a moment ago.
 *
 * 1: there is more now; 0: nothing; -EAGAIN: it has changed.
 */
static int take(struct tdm_live *l, u64 start, u64 end, u64 map_end, uintptr_t flags)
{
	bool excluded = flags & TDM_VMA_EXCLUDED;
	struct tdm_mapping m;
	int taken = 0;

	plat_mutex_lock(&l->mm.event_lock);
	/* Who was here before, and has left, says so before those who are here now can: their going is announced from now on. */
	if (tdmi_host_changing(&l->host))
		tdmi_host_let_queue(&l->host);
	if (tdmi_host_mapping(&l->host, start, &m) || m.start > start || m.end != map_end || left_unsaid(l, start, &m))
		taken = -EAGAIN;
	else if (!(excluded ? tdmi_host_register_events(&l->host, start, end) : tdmi_host_register(&l->host, start, end)))
		for (u64 at = start; at < end; at = m.end) {
			int r = registered_at(l, at, &m);
			u64 s = TDM_MAX(at, m.start), e = TDM_MIN(end, m.end);

			if (r == -ENOENT && m.end > at)
				continue;
			if (r || s >= end)
				break; /* changing as we look: at the next look, then */
			if (!candidate(&m)) {
				tdmi_host_unregister(&l->host, s, e);
				continue;
			}
			if (tdmi_vma_insert(&l->mm.vmas, s, e, flags))
				break;
			taken = 1;
			if (!excluded)
				(void)tdmi_adopt(l->ctx, s, e);
		}
	plat_mutex_unlock(&l->mm.event_lock);
	return taken;
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
		if (tdmi_vma_find(&l->mm.vmas, start, &v)) {
			start = v.end;
			again = true;
		}
	}
	if (start >= end)
		return (struct tdm_range){ end, end };
	for (u32 i = 0; i < l->nbefore; i++)
		if (l->before[i].start > start)
			end = TDM_MIN(end, l->before[i].start);
	if (tdmi_vma_next(&l->mm.vmas, start, &v))
		end = TDM_MIN(end, v.start);
	return (struct tdm_range){ start, end };
}

/* A mapping of which a part is excluded has grown: what it has grown by is as the rest. */
static uintptr_t flags_of(struct tdm_live *l, struct tdm_range g, const struct tdm_mapping *m)
{
	struct tdm_vma v;

	if (g.start > m->start && tdmi_vma_find(&l->mm.vmas, g.start - 1, &v))
		return v.flags;
	return g.end < m->end && tdmi_vma_find(&l->mm.vmas, g.end, &v) ? v.flags : 0;
}

/* What is at va, or the next mapping; behind the last one an empty one at the end of all addresses. 0 or -ENOENT: is it ours? The kernel may be short of
 * memory for an answer: to take that for a no would be to forget what the program has there. */
static int look(struct tdm_live *l, u64 va, struct tdm_mapping *m)
{
	int r;

	for (u32 tries = 0;; tries++) {
		r = tdmi_host_mapping(&l->host, va, m);
		if (r == -ENOENT)
			*m = (struct tdm_mapping){ .start = ~(u64)0, .end = ~(u64)0 };
		else if (!r && va >= m->start)
			r = tdmi_host_registered(l->host.uffd, va);
		else if (!r)
			r = -ENOENT;
		if (!r || r == -ENOENT)
			return r;
		if (tries == 1000)
			plat_abort("tandem: no memory to see what the child of a fork has mapped\n");
		plat_yield();
	}
}

/* In the child of a fork: what was not copied (MADV_DONTFORK), or was gone before it was, is nothing to manage. So is what had been served, because it
 * was registered, and not been found yet: that has entries, and no VMA. The event lock is held. */
void tdmi_live_forget_unregistered(struct tdm_live *l)
{
	struct tdm_mapping m;
	struct tdm_vma v;
	u64 at = 0;

	tdmi_host_know_served(&l->host, l->ctx);
	while (tdmi_vma_next(&l->mm.vmas, at, &v)) {
		u64 start = TDM_MAX(at, v.start), end;
		int r = look(l, start, &m);

		end = TDM_MIN(v.end, start < m.start ? m.start : m.end);
		if (r)
			tdmi_zap(l->ctx, start, end, TDM_ZAP_UNMAP);
		at = end;
	}
}

/* What was taken may be the middle of a larger mapping that came since it was looked at. A part of a mapping must not stay behind: mremap() wants
 * all of its range to be of one kind. */
static bool left_behind(struct tdm_live *l, u64 start, struct tdm_mapping *m)
{
	struct tdm_range g = { 0, 0 };

	if (!start || tdmi_host_mapping(&l->host, start - 1, m) || m->start >= start || !candidate(m))
		return false;
	tdmi_rcu_read_lock(l->ctx->rcu);
	g = gap(l, m->start, m->end);
	tdmi_rcu_read_unlock(l->ctx->rcu);
	return g.start < g.end;
}

void tdmi_live_find(struct tdm_live *l)
{
	struct tdm_mapping m, left;
	u32 changed = 0;

	if (!tdmi_mm_enter(l->ctx))
		return;
	for (u64 at = 0; !tdmi_host_mapping(&l->host, at, &m);) {
		struct tdm_range g;
		uintptr_t flags;
		int taken = 0;

		at = m.end;
		for (u64 s = m.start; candidate(&m) && s < m.end && taken >= 0; s = g.end) {
			tdmi_rcu_read_lock(l->ctx->rcu);
			g = gap(l, s, m.end);
			flags = flags_of(l, g, &m);
			tdmi_rcu_read_unlock(l->ctx->rcu);
			if (g.start < g.end)
				taken = take(l, g.start, g.end, m.end, flags);
		}
		if (taken == -EAGAIN && changed++ < LOOKS)
			at = m.start;
		if (taken > 0 && left_behind(l, m.start, &left))
			at = left.start;
	}
	tdmi_mm_exit(l->ctx);
}

int tdmi_live_vma(struct tdm_live *l, u64 at, u64 *out)
{
	struct tdm_mapping m;
	int r = tdmi_host_mapping(&l->host, at, &m);

	if (!r && (m.start > at || !candidate(&m)))
		r = -ENOENT;
	if (!r)
		*out = m.end | m.readable | (u64)m.writable << 1 | (u64)m.executable << 2 | (u64)(m.name[0] != 0) << 3;
	return r;
}

int tdmi_live_exclude(struct tdm_live *l, u64 start, u64 end)
{
	int r;

	if (tdm_a32_ld_acquire(&l->state) != TDM_LIVE_ENGAGED) {
		if (l->nbefore == TDM_LIVE_BEFORE)
			return -ENOSPC;
		l->before[l->nbefore++] = (struct tdm_range){ start, end };
		return 0;
	}
	while (!tdmi_mm_enter(l->ctx))
		plat_yield();
	/* Nothing is taken home while we hold the event lock, so what has been brought stays. A fault that is being served finds the VMA excluded, or
	 * is done with its table before the table forgets the range. */
	plat_mutex_lock(&l->mm.event_lock);
	r = tdmi_bring_locked(l->ctx, start, end);
	if (!r)
		r = tdmi_vma_insert(&l->mm.vmas, start, end, TDM_VMA_EXCLUDED);
	if (!r) {
		(void)tdmi_host_register_events(&l->host, start, end);
		tdmi_zap(l->ctx, start, end, TDM_ZAP_FORGET);
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
