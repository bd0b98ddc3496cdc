/* SPDX-License-Identifier: MIT */
/*
 * host_event.c - the kernel's messages, and the order in which they mean what they say.
 *
 * A thread that changes a mapping does so under the kernel's mmap_lock, lets go of it, and then queues its events, one after the other, and waits
 * until each is read. Between the two another thread may be given the same addresses and queue its own event first. The commonest case is built
 * in: mremap() announces the move, waits, and only then announces that the old place is unmapped; meanwhile another thread's mremap() may have
 * got that place.
 *
 * What is in order all the same. Call what is mapped at an address from one unmapping to the next its tenant. A tenant comes by a REMAP, or by mmap() or
 * by the growth of a neighbour, of which nothing is said; it goes by a REMAP, an UNMAP, or a REMAP and the UNMAP that follows it. Its coming is
 * read before its going, because no thread goes on before its event is read. Its successor's coming may be read before its going, but for
 * that its going has already happened. So if a REMAP brings a tenant to where one is still known, the old one is on its way out; and the
 * next going that is read is the old one's.
 *
 * Limbo is where the old one waits: the same address with a bit set that no address of a program has. What is there, entries and VMAs, nobody can
 * touch. The flags of a VMA in limbo tell what is known of the place:
 *   WAIT    a tenant waits here, who is on his way out: the next going is his
 *   HALF    a tenant has been moved on, the UNMAP is to come
 *   OVER    the tenant who is at the place itself came after him
 *   SEEN    nothing is to come; something was here since it was last quiet
 * The rules:
 *   - REMAP(from, to): who is known at `to` goes to limbo: WAIT. Then what is known at `from` goes to `to`: of him who waits in limbo, if there is one,
 *     else of the place itself. `from` is left with HALF, `to` with OVER.
 *   - UNMAP ends WAIT and HALF. What is at the place itself goes with it, unless it is OVER one of these.
 *   - REMOVE is of the tenant who is there.
 * After mremap(MREMAP_DONTUNMAP) no UNMAP follows. The HALF that it leaves is not OVER, and is not before whoever stays at the place has gone, by the
 * UNMAP that ends it.
 *
 * While any event is on its way, the kernel refuses to fill anything and to move anything; and a fill that was decided upon before cannot
 * slip in between the reading of an event and its end (mm/event.c). So nobody sees the table in between. When nothing is on its way, every going has
 * been read: nobody waits any more. Then the kernel is asked about each place that is in limbo. What is not registered has gone; what is,
 * and is not known, is a tenant of whom nothing was said: the old place of a DONTUNMAP, or what a mapping has grown by. Until this is settled
 * nothing is taken home (tdmi_events_settled()): a page of a mapping that we do not serve would not be asked for again.
 *
 * Two goings from one place may be on their way at once: a thread is stopped after its munmap() or mremap(), while another one is given the place by
 * mremap(), and moves on. Its second going must not be read before the first. It cannot begin before the call that brought it is over, which
 * ends with the UNMAP of where it came from. So when a REMAP brings somebody to where somebody is known, or from where an UNMAP is to come, nothing more
 * is read until every thread that was under way has queued its event (port/host_threads.c): from then on they are read in the order in which they were queued. After
 * MREMAP_DONTUNMAP there is no such UNMAP: the preloaded library makes the caller wait (tdmi_host_awaited()).
 *
 * A lock around mremap() and munmap() in the preloaded library would not do: libc's own calls (realloc(), free(), the stacks of threads) do not go
 * through the symbols that can be interposed.
 *
 * What remains: the same with a tenant of whom we do not know: a mapping that has grown, into a place that somebody has just left or which it
 * leaves again before we have seen it; the empty one that a DONTUNMAP leaves; one that went while it was being given to us (run/live_find.c).
 * A bare system call with MREMAP_DONTUNMAP; one with MREMAP_FIXED that replaces memory of ours, which it announces first (run/interpose_mremap.c). And a
 * thread that is not given the CPU for as long as host_threads.c waits.
 *
 * Everything here is under the event lock.
 */
#include "base/check.h"
#include "port/host.h"

#define LIMBO ((u64)1 << 47)
#define WAIT ((uintptr_t)1 << 8)
#define HALF ((uintptr_t)1 << 9)
#define OVER ((uintptr_t)1 << 10)
#define SEEN ((uintptr_t)1 << 11)
#define OURS (WAIT | HALF | OVER | SEEN)

/* ---- limbo ------------------------------------------------------------------------------------------------------------- */

static u64 limbo_end(u64 end)
{
	return ((end - 1) | LIMBO) + 1;
}

static void set_flags(struct tdm_host *h, u64 start, u64 end, uintptr_t flags)
{
	if (tdmi_vma_insert(&h->mm->vmas, start | LIMBO, limbo_end(end), flags))
		plat_abort("tandem: no memory to follow an mremap()\n");
	h->mm->unsettled = true;
}

static void drop(struct tdm_ctx *ctx, u64 start, u64 end)
{
	tdmi_zap(ctx, start | LIMBO, limbo_end(end), TDM_ZAP_UNMAP);
}

/* What of [start, end) is alike in limbo, from start on: its end, and its flags. */
static u64 run(struct tdm_host *h, u64 start, u64 end, uintptr_t *flags)
{
	struct tdm_vma v;

	*flags = 0;
	if (!h->mm->unsettled || !tdmi_vma_next(&h->mm->vmas, start | LIMBO, &v))
		return end;
	if (v.start > (start | LIMBO))
		return TDM_MIN(end, v.start & ~LIMBO);
	*flags = v.flags;
	return TDM_MIN(end, ((v.end - 1) & ~LIMBO) + 1);
}

/* All of the mapping is registered in one way. */
static void know(struct tdm_host *h, struct tdm_ctx *ctx, const struct tdm_mapping *m, uintptr_t flags)
{
	struct tdm_vma v;

	for (u64 at = m->start; at < m->end; at = v.end) {
		u64 end = m->end;

		if (tdmi_vma_next(&h->mm->vmas, at, &v) && v.start < end)
			end = TDM_MAX(v.start, at);
		else
			v.end = end;
		if (at == end)
			continue;
		if (tdmi_vma_insert(&h->mm->vmas, at, end, flags))
			return; /* it will be found (run/live_find.c) */
		if (!(flags & TDM_VMA_EXCLUDED))
			(void)tdmi_adopt(ctx, at, end);
	}
}

/* [start, end) was in limbo: is what we know there? -EAGAIN: not quiet any more. */
static int check(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end, uintptr_t flags)
{
	while (start < end) {
		struct tdm_mapping m;
		u64 stop = end;
		bool there;
		int r;

		/* First the look, then the proof that nothing has changed since. */
		r = tdmi_host_mapping(h, start, &m);
		if (r && r != -ENOENT)
			return -EAGAIN; /* no memory for an answer is not a no */
		there = !r && start >= m.start;
		if (!r)
			stop = TDM_MIN(end, there ? m.end : m.start);
		r = there ? tdmi_host_registered(h->uffd, start) : tdmi_host_changing(h) ? -EAGAIN : -ENOENT;
		if (r == -EAGAIN)
			return r;
		if (r)
			tdmi_zap(ctx, start, stop, TDM_ZAP_UNMAP);
		else
			know(h, ctx, &m, flags);
		start = stop;
	}
	return 0;
}

static void settle(struct tdm_host *h, struct tdm_ctx *ctx)
{
	struct tdm_vma v;

	if (!h->mm->unsettled || tdmi_host_changing(h))
		return;
	while (tdmi_vma_next(&h->mm->vmas, LIMBO, &v)) {
		u64 start = v.start & ~LIMBO, end = start + (v.end - v.start);

		if (check(h, ctx, start, end, v.flags & ~OURS))
			return;
		drop(ctx, start, end);
	}
	h->mm->unsettled = false;
}

/* ---- events ------------------------------------------------------------------------------------------------------------ */

/* all: else only of those who were expected to go. */
static void unmap(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end, bool all)
{
	for (u64 stop; start < end; start = stop) {
		uintptr_t flags;

		stop = run(h, start, end, &flags);
		if (!(flags & (WAIT | HALF)) && !all)
			continue;
		if (!(flags & OVER) || !(flags & (WAIT | HALF)))
			tdmi_zap(ctx, start, stop, TDM_ZAP_UNMAP);
		if (flags & WAIT)
			drop(ctx, start, stop);
		if (flags)
			set_flags(h, start, stop, SEEN | (flags & ~OURS));
	}
}

/* What is served because it is registered, but has not been found yet (a mapping has grown), is a tenant, too. */
static void know_all(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end)
{
	struct tdm_vma v;
	struct tdm_pte pte;
	u32 i;

	for (u64 va = start; va < end; va += TDM_PAGE_SIZE) {
		tdmi_rcu_read_lock(ctx->rcu);
		if (va == start || va % TDM_HUGE_SIZE == 0)
			va = TDM_MAX(va, tdmi_pt_next(&h->mm->pgt, va, end));
		if (va < end)
			(void)tdmi_pt_walk(&h->mm->pgt, va, &i, &pte);
		tdmi_rcu_read_unlock(ctx->rcu);
		if (va < end && !tdm_pte_none(pte) && !tdmi_vma_find(&h->mm->vmas, va, &v) &&
		    tdmi_vma_insert(&h->mm->vmas, va, va + TDM_PAGE_SIZE, 0))
			plat_abort("tandem: no memory to follow an mremap()\n");
	}
}

void tdmi_host_know_served(struct tdm_host *h, struct tdm_ctx *ctx)
{
	struct tdm_vma v;
	u64 at = 0;

	for (; tdmi_vma_next(&h->mm->vmas, at, &v) && v.start < LIMBO; at = v.end)
		know_all(h, ctx, at, v.start);
	know_all(h, ctx, at, LIMBO);
}

/* Is anybody known to be at [start, end), or to have to say still that he has left it? */
static bool somebody(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end)
{
	uintptr_t flags = 0;
	struct tdm_vma v;

	know_all(h, ctx, start, end);
	if (tdmi_vma_next(&h->mm->vmas, start, &v) && v.start < end)
		return true;
	for (; start < end && !(flags & (WAIT | HALF)); start = run(h, start, end, &flags))
		;
	return flags & (WAIT | HALF);
}

/* Somebody new comes to [start, end). */
static void displace(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end)
{
	for (u64 stop, s, e; start < end; start = stop) {
		uintptr_t flags;
		struct tdm_vma v;

		stop = run(h, start, end, &flags);
		set_flags(h, start, stop, flags | OVER);
		know_all(h, ctx, start, stop);
		while (tdmi_vma_next(&h->mm->vmas, start, &v) && v.start < stop) {
			s = TDM_MAX(v.start, start);
			e = TDM_MIN(v.end, stop);
			drop(ctx, s, e);
			tdmi_move(ctx, s, s | LIMBO, e - s);
			set_flags(h, s, e, v.flags | WAIT | OVER);
		}
		tdmi_zap(ctx, start, stop, TDM_ZAP_UNMAP);
	}
}

static void remap(struct tdm_host *h, struct tdm_ctx *ctx, u64 from, u64 to, u64 len)
{
	displace(h, ctx, to, to + len);
	for (u64 at = from, stop; at < from + len; at = stop) {
		u64 there = at - from + to;
		struct tdm_vma v = { 0 };
		uintptr_t flags;

		stop = run(h, at, from + len, &flags);
		if (flags & WAIT) {
			tdmi_move(ctx, at | LIMBO, there, stop - at);
			if (tdmi_vma_insert(&h->mm->vmas, there, there + (stop - at), flags & ~OURS))
				plat_abort("tandem: no memory to follow an mremap()\n");
			set_flags(h, at, stop, HALF | (flags & ~(WAIT | SEEN)));
			continue;
		}
		/* A mapping is excluded as a whole. */
		if (tdmi_vma_next(&h->mm->vmas, at, &v) && v.start >= stop)
			v.flags = 0;
		tdmi_move(ctx, at, there, stop - at);
		set_flags(h, at, stop, HALF | v.flags);
	}
	tdmi_move_end(ctx, to, len);
}

bool tdmi_host_awaited(struct tdm_host *h, u64 start, u64 end)
{
	uintptr_t flags = 0;

	for (; start < end && !(flags & WAIT); start = run(h, start, end, &flags))
		;
	return flags & WAIT;
}

void tdmi_host_left(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end)
{
	unmap(h, ctx, start, end, false);
}

void tdmi_host_forget_limbo(struct tdm_host *h, struct tdm_ctx *ctx)
{
	drop(ctx, 0, LIMBO);
	h->mm->unsettled = false;
}

static bool unknown(struct tdm_host *h, u64 start, u64 end)
{
	struct tdm_vma v;

	return !tdmi_vma_find(&h->mm->vmas, start, &v) || v.end < end;
}

void tdmi_host_event(struct tdm_host *h, struct tdm_ctx *ctx, const struct uffd_msg *m)
{
	switch (m->event) {
	case UFFD_EVENT_UNMAP:
		unmap(h, ctx, m->arg.remove.start, m->arg.remove.end, true);
		break;
	case UFFD_EVENT_REMOVE:
		/* What has not been found yet must not be found between here and the dropping: it would be saved from it (mm/zap.c). */
		if (unknown(h, m->arg.remove.start, m->arg.remove.end))
			(void)tdmi_adopt(ctx, m->arg.remove.start, m->arg.remove.end);
		tdmi_zap(ctx, m->arg.remove.start, m->arg.remove.end, TDM_ZAP_REMOVE);
		break;
	case UFFD_EVENT_REMAP:
		remap(h, ctx, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		break;
	default:
		TDM_BUG("an unknown userfaultfd event");
	}
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

static void take_in(struct tdm_host *h, struct tdm_ctx *ctx, const struct uffd_msg *m)
{
	/* Before he who has come can go again. */
	if (m->event == UFFD_EVENT_REMAP && somebody(h, ctx, m->arg.remap.to, m->arg.remap.to + m->arg.remap.len))
		tdmi_host_let_queue(h);
	tdmi_host_event(h, ctx, m);
}

/* The next message, taking in events. false: there is none. */
static bool next_fault(struct tdm_host *h, struct tdm_ctx *ctx, struct tdm_host_fault *out)
{
	for (;;) {
		struct uffd_msg m;
		bool got;

		settle(h, ctx);
		tdmi_event_read_begin(ctx->mm);
		got = tdmi_host_read_msg(h->uffd, &m) > 0;
		tdmi_event_read_end(ctx->mm, got && m.event != UFFD_EVENT_PAGEFAULT);
		if (!got)
			return false;
		if (m.event == UFFD_EVENT_PAGEFAULT) {
			*out = (struct tdm_host_fault){ m.arg.pagefault.address & TDM_PAGE_MASK,
							m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE,
							m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP, m.arg.pagefault.feat.ptid };
			return true;
		}
		if (m.event == UFFD_EVENT_FORK)
			h->forked(h->forked_arg, ctx, (int)m.arg.fork.ufd);
		else
			take_in(h, ctx, &m);
		tdmi_event_done(ctx->mm);
	}
}

bool tdmi_host_read(struct tdm_host *h, struct tdm_ctx *ctx, struct tdm_host_fault *out)
{
	if (h->pending_head != h->pending_tail) {
		*out = h->pending[h->pending_head++ % TDM_HOST_PENDING];
		return true;
	}
	return next_fault(h, ctx, out);
}

void tdmi_host_drain(struct tdm_port *p, struct tdm_ctx *ctx)
{
	struct tdm_host *h = tdm_container_of(p, struct tdm_host, port);
	struct tdm_host_fault f;

	while (h->pending_tail - h->pending_head < TDM_HOST_PENDING && next_fault(h, ctx, &f))
		h->pending[h->pending_tail++ % TDM_HOST_PENDING] = f;
	if (h->pending_head != h->pending_tail)
		tdmi_host_kick(h);
}
