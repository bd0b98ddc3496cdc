/* SPDX-License-Identifier: MIT */
/*
 * interpose_mremap.c - mremap(2), to a program that has an engine in it.
 *
 * The kernel refuses with EFAULT to resize or move a range that is several VMAs. To the program it is one mapping, but the engine may have made it several: it
 * registers memory that it has found, and what a mapping has grown by, or is put in the place of, between the look and the registration, is another VMA. If
 * both are touched before the rest is registered, too, each has an anon_vma of its own, and the kernel never merges them again. So
 *
 *   1. the engine is asked to find what there is, and mremap() is tried again: mostly the VMAs have been merged then;
 *   2. what is several VMAs still, and alike, is moved one VMA after the other. If one of them is refused, those before it are moved back.
 *
 * Each step of 2. is an mremap() of its own to the engine, with its events. Another thread that uses the range meanwhile would be wrong with one call, too. It
 * also serves a program that has split its mapping itself, which the kernel would refuse: nothing tells the two apart.
 *
 * glibc's own realloc() does not come here; it copies if it is refused. A bare system call is not seen.
 */
#include <stdarg.h>
#include <sys/mman.h>
#include "plat/linux/sys.h"
#include "run/interpose.h"
#include "run/live.h"

#define TRIES 3u

struct remap {
	struct tdm_live *l;
	u64 from, old_len, new_len, to; /* all but the first in whole pages; to: where MREMAP_FIXED is given */
	int flags;
};

static bool failed(long r)
{
	return r < 0 && r > -4096;
}

/* Would mremap() replace what is at `to`? What it looks at before it does. */
static bool replaces(u64 from, u64 old_len, u64 new_len, int flags, u64 to)
{
	old_len = TDM_ALIGN_UP(old_len, TDM_PAGE_SIZE);
	new_len = TDM_ALIGN_UP(new_len, TDM_PAGE_SIZE);
	return (flags & MREMAP_FIXED) && (flags & MREMAP_MAYMOVE) && !(flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP)) && old_len && new_len &&
	       (!(flags & MREMAP_DONTUNMAP) || old_len == new_len) && (from | to) % TDM_PAGE_SIZE == 0 &&
	       (from + old_len <= to || to + new_len <= from);
}

/*
 * The program's own calls are not the engine's, of which tests have some fail: these are made directly.
 *
 * What MREMAP_FIXED replaces it announces before it announces the move, and until that is read whoever is given the place that was left may have gone from it
 * again, and said so: he would be taken for the one who has moved (port/host_event.c). So the place is taken first, by a mapping of which nobody is told when it
 * goes. If the kernel refuses the move then, the place ends up empty (mremap()), as with kernels that look at the rest only after they have replaced.
 */
static long raw_mremap(u64 from, u64 old_len, u64 new_len, int flags, u64 to)
{
	struct tdm_maps_gate *g = tdmi_interpose_gate();
	long r, there = -1;

	if (g)
		tdm_maps_change_begin(g);
	/* If the place cannot be had the kernel will say why. */
	if (g && replaces(from, old_len, new_len, flags, to))
		there = tdm_sys6_raw(SYS_mmap, (long)to, (long)new_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	r = tdm_sys6_raw(SYS_mremap, (long)from, (long)old_len, (long)new_len, flags, (long)to, 0);
	/* After EFAULT it is tried again. */
	if (failed(r) && r != -EFAULT && !failed(there))
		(void)tdm_sys6_raw(SYS_munmap, (long)to, (long)new_len, 0, 0, 0, 0);
	if (g)
		tdm_maps_change_end(g);
	return r;
}

/*
 * MREMAP_DONTUNMAP is announced by one event, and whoever has called it goes on as soon as that is read: he could move on what he has moved before somebody
 * has said that he has left that place, and be taken for him (port/host_event.c). So he waits until that is known. libc itself never asks for it. A fork
 * cannot tell whether it happened before (run/live_frozen_judge.c): it does not happen during one.
 */
static long mremap_keep(struct tdm_live *l, u64 from, u64 old_len, u64 new_len, int flags, u64 to)
{
	u64 signals;
	long r;

	tdmi_live_request_begin(l, &signals);
	r = raw_mremap(from, old_len, new_len, flags, to);
	if (!failed(r) && tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED)
		(void)tdmi_live_request_locked(l, TDM_OP_SETTLE, (u64)r, (u64)r + TDM_ALIGN_UP(new_len, TDM_PAGE_SIZE), NULL);
	tdmi_live_request_end(l, &signals);
	return r;
}

static long do_mremap(struct tdm_live *l, u64 from, u64 old_len, u64 new_len, int flags, u64 to)
{
	long r;

	if (l && (flags & MREMAP_DONTUNMAP) && tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED)
		r = mremap_keep(l, from, old_len, new_len, flags, to);
	else
		r = raw_mremap(from, old_len, new_len, flags, to);
	/* A request, too: not within the one of mremap_keep(). */
	tdmi_interpose_gone(r, (void *)(uintptr_t)from, old_len);
	if (flags & MREMAP_FIXED)
		tdmi_interpose_gone(r, (void *)(uintptr_t)to, new_len);
	return r;
}

/* ---- one VMA after the other ------------------------------------------------------------------------------------------------------------- */

/* Where the VMA that holds `at` ends; *kind: what it is. 0: it is none that the engine manages. */
static u64 vma_end(struct tdm_live *l, u64 at, u64 *kind)
{
	u64 out = 0;

	*kind = 0;
	if (tdmi_live_request(l, TDM_OP_VMA, at, 0, &out))
		return 0;
	*kind = out & ~TDM_PAGE_MASK;
	return out & TDM_PAGE_MASK;
}

/* Are they VMAs of one kind, with nothing between, and at least two? */
static bool alike(const struct remap *m)
{
	u64 kind, first, at = vma_end(m->l, m->from, &first);

	if (!at || at >= m->from + m->old_len)
		return false;
	while (at && at < m->from + m->old_len) {
		at = vma_end(m->l, at, &kind);
		if (at && kind != first)
			return false;
	}
	return at != 0;
}

static void move_back(const struct remap *m, u64 len)
{
	u64 kind, end, n;

	for (u64 done = 0, tries = 0; done < len;) {
		long r = -EFAULT;

		end = vma_end(m->l, m->to + done, &kind);
		n = TDM_MIN(end - (m->to + done), len - done);
		if (end)
			r = do_mremap(m->l, m->to + done, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, m->from + done);
		if (!failed(r)) {
			done += n;
			tries = 0;
		} else if (++tries == 1000) {
			plat_abort("tandem: the kernel has no memory to undo a half of an mremap()\n");
		}
	}
}

/* Move `len` bytes of it to m->to, and let the last VMA of them grow by `more`. */
static long move_vmas(const struct remap *m, u64 len, u64 more)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (m->flags & MREMAP_DONTUNMAP);
	u64 done = 0, kind = 0, n;

	for (u32 tries = 0; done < len;) {
		u64 end = vma_end(m->l, m->from + done, &kind);
		long r = -EFAULT;

		n = TDM_MIN(end - (m->from + done), len - done);
		if (end)
			r = do_mremap(m->l, m->from + done, n, done + n == len ? n + more : n, flags, m->to + done);
		if (!failed(r)) {
			done += n;
			tries = 0;
		} else if (r != -EFAULT || ++tries == TRIES) {
			move_back(m, done);
			return r;
		}
	}
	return (long)m->to;
}

/* It may stay where it is: only its last VMA has to change. */
static long resize(const struct remap *m)
{
	u64 more = m->new_len - m->old_len, at = m->from, kind = 0, end;

	while ((end = vma_end(m->l, at, &kind)) && end < m->from + m->old_len)
		at = end;
	return end ? do_mremap(m->l, at, m->from + m->old_len - at, m->from + m->old_len - at + more, 0, 0) : -EFAULT;
}

/* A place for it, of which nobody else is given a part. */
static long reserve(const struct remap *m)
{
	void *hint = m->flags & MREMAP_DONTUNMAP ? (void *)(uintptr_t)m->to : NULL;

	return tdm_sys6_raw(SYS_mmap, (long)hint, (long)m->new_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static long remap_vmas(struct remap *m)
{
	u64 len = TDM_MIN(m->old_len, m->new_len), more = m->new_len - len;
	bool fixed = m->flags & MREMAP_FIXED;
	long r = 0;

	if (len < m->old_len && munmap((void *)(uintptr_t)(m->from + len), m->old_len - len))
		return -errno;
	if (!fixed && !(m->flags & MREMAP_DONTUNMAP)) {
		if (!more)
			return (long)m->from;
		r = resize(m);
		if (!failed(r) || !(m->flags & MREMAP_MAYMOVE))
			return failed(r) ? r : (long)m->from;
	}
	if (!fixed) {
		r = reserve(m);
		if (failed(r))
			return r;
		m->to = (u64)r;
	}
	r = move_vmas(m, len, more);
	if (failed(r) && !fixed)
		tdm_sys2(SYS_munmap, m->to, m->new_len);
	return r;
}

static long again(struct tdm_live *l, void *addr, size_t old_len, size_t new_len, int flags, void *to)
{
	struct remap m = { .l = l, .from = (u64)(uintptr_t)addr, .old_len = TDM_ALIGN_UP(old_len, TDM_PAGE_SIZE),
		           .new_len = TDM_ALIGN_UP(new_len, TDM_PAGE_SIZE), .to = (u64)(uintptr_t)to, .flags = flags };
	long r = -EFAULT;

	for (u32 i = 0; r == -EFAULT && i < TRIES; i++) {
		(void)tdmi_live_request(l, TDM_OP_FIND, 0, 0, NULL);
		if (i && alike(&m))
			return remap_vmas(&m);
		r = do_mremap(l, m.from, old_len, new_len, flags, m.to);
	}
	return r;
}

__attribute__((visibility("default"))) void *mremap(void *addr, size_t old_len, size_t new_len, int flags, ...)
{
	struct tdm_live *l = tdmi_live;
	va_list ap;
	void *to;
	long r;

	va_start(ap, flags);
	to = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) ? va_arg(ap, void *) : NULL; /* NOLINT(clang-analyzer-valist.Uninitialized) */
	va_end(ap);
	r = do_mremap(l, (u64)(uintptr_t)addr, old_len, new_len, flags, (u64)(uintptr_t)to);
	if (r == -EFAULT && l && tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED)
		r = again(l, addr, old_len, new_len, flags, to);
	if (failed(r)) {
		if (r == -EFAULT && tdmi_interpose_gate() && replaces((u64)(uintptr_t)addr, old_len, new_len, flags, (u64)(uintptr_t)to))
			(void)munmap(to, new_len);
		errno = (int)-r;
		return MAP_FAILED;
	}
	tdmi_interpose_grown(old_len, new_len);
	return (void *)r;
}
