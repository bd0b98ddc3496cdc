/* SPDX-License-Identifier: MIT */
/*
 * host_event.c - the kernel's messages, and the order in which they mean what they say.
 *
 * A thread that changes a mapping does so under the kernel's mmap_lock, lets go of it, and then queues its event and waits until it is read. Between
 * the two another thread may change the same addresses and queue its own event first. The commonest case is built in: mremap() announces
 * the move, waits for that to be read, and only then announces that the old place is unmapped; meanwhile another thread's mremap() or
 * mmap() may have got that place. Two rules put things right:
 *   - A REMAP to a place that the VMA tree still has was overtaken by the event that frees the place. It is held back until that comes.
 *   - An UNMAP of a place to which something was moved lately may be older than the move, or younger. If it says of the place of a REMAP that it is
 *     gone, exactly, it is that REMAP's other half, and nothing needs to be done: the old place was forgotten with the move. Any other is
 *     held back until the kernel can be asked: what is registered now was moved there and stays, the rest is gone.
 * The kernel answers (and allows any filling or moving) only when every change has been read and its thread has run on: "quiet". So what is held
 * back does no harm until then, and is settled then, before anybody fills or moves: the gate (mm/event.c) stays shut as long as
 * anything is held, and taking home asks tdmi_events_taken() first.
 *
 * Everything here is under the event lock.
 */
#include <string.h>
#include "base/check.h"
#include "plat/linux/sys.h"
#include "port/host.h"
#include "port/uapi.h"

/* No missing page of anonymous memory can be "continued": the kernel says EINVAL where it finds our registration, ENOENT where not, and EAGAIN, before
 * anything else, while an event waits to be read or whoever caused it has not run on yet. Nothing is changed. */
static int probe(int uffd, u64 va)
{
	struct uffdio_continue c = { .range = { va & TDM_PAGE_MASK, TDM_PAGE_SIZE } };

	return (int)tdm_sys3(SYS_ioctl, uffd, UFFDIO_CONTINUE, &c);
}

int tdmi_host_registered(int uffd, u64 va)
{
	int r = probe(uffd, va);

	return r == -ENOENT || r == -EAGAIN ? r : 0;
}

bool tdmi_host_changing(struct tdm_host *h)
{
	return probe(h->uffd, (u64)(uintptr_t)h->arena) == -EAGAIN;
}

int tdmi_host_read_msg(int uffd, struct uffd_msg *msg)
{
	long r = tdm_sys3(SYS_read, uffd, msg, sizeof(*msg));

	if (r == -EAGAIN || r == -EINTR)
		return 0;
	return r == (long)sizeof(*msg) ? 1 : r < 0 ? (int)r : 0;
}

/* ---- order --------------------------------------------------------------------------------------------------------- */

static bool overlap(u64 a, u64 aend, u64 b, u64 bend)
{
	return a < bend && b < aend;
}

static bool was_moved_to(const struct tdm_host *h, u64 start, u64 end)
{
	for (u32 i = 0; i < h->nmoved; i++)
		if (overlap(start, end, h->moved[i].start, h->moved[i].end))
			return true;
	return false;
}

/* Is [start, end) the old place of a REMAP, of which the unmapping is still to be announced? If so, not any more. */
static bool take_expected(struct tdm_host *h, u64 start, u64 end)
{
	for (u32 i = 0; i < h->nexpected; i++)
		if (h->expected[i].start == start && h->expected[i].end == end) {
			h->expected[i] = h->expected[--h->nexpected];
			return true;
		}
	return false;
}

/* The REMAPs that are held back and come before held[n]: does one go to [start, end)? */
static bool is_awaited(const struct tdm_host *h, u32 n, u64 start, u64 end)
{
	for (u32 i = 0; i < n; i++)
		if (h->held[i].event == UFFD_EVENT_REMAP &&
		    overlap(start, end, h->held[i].arg.remap.to, h->held[i].arg.remap.to + h->held[i].arg.remap.len))
			return true;
	return false;
}

/* Must m, which stands behind the first n that are held, be held back (still)? */
static bool must_wait(struct tdm_host *h, const struct uffd_msg *m, u32 n)
{
	u64 to = m->arg.remap.to;
	struct tdm_vma v;

	if (m->event == UFFD_EVENT_UNMAP)
		return was_moved_to(h, m->arg.remove.start, m->arg.remove.end);
	if (m->event == UFFD_EVENT_REMOVE)
		return is_awaited(h, n, m->arg.remove.start, m->arg.remove.end);
	return tdmi_vma_next(h->mm, to, &v) && v.start < to + m->arg.remap.len;
}

static void note_moved(struct tdm_host *h, u64 start, u64 end)
{
	if (h->nmoved == TDM_HOST_MOVED) {
		/* No room: one range that holds all of them. More is held back than need be. */
		for (u32 i = 0; i < h->nmoved; i++) {
			start = TDM_MIN(start, h->moved[i].start);
			end = TDM_MAX(end, h->moved[i].end);
		}
		h->nmoved = 0;
	}
	h->moved[h->nmoved].start = start;
	h->moved[h->nmoved++].end = end;
}

/* An mremap(MREMAP_DONTUNMAP) is not followed by an UNMAP. What is expected in vain goes when it is quiet, or makes room for the next. */
static void expect_unmap(struct tdm_host *h, u64 start, u64 end)
{
	if (h->nexpected == TDM_HOST_MOVED) {
		h->nexpected--;
		memmove(&h->expected[0], &h->expected[1], h->nexpected * sizeof(h->expected[0]));
	}
	h->expected[h->nexpected].start = start;
	h->expected[h->nexpected++].end = end;
}

static void apply(struct tdm_host *h, struct tdm_ctx *ctx, const struct uffd_msg *m)
{
	switch (m->event) {
	case UFFD_EVENT_UNMAP:
		tdmi_zap(ctx, m->arg.remove.start, m->arg.remove.end, TDM_ZAP_UNMAP);
		break;
	case UFFD_EVENT_REMOVE:
		tdmi_zap(ctx, m->arg.remove.start, m->arg.remove.end, TDM_ZAP_REMOVE);
		break;
	case UFFD_EVENT_REMAP:
		tdmi_remap(ctx, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		note_moved(h, m->arg.remap.to, m->arg.remap.to + m->arg.remap.len);
		expect_unmap(h, m->arg.remap.from, m->arg.remap.from + m->arg.remap.len);
		break;
	default:
		TDM_BUG("an unknown userfaultfd event");
	}
}

static void take_held(struct tdm_host *h, u32 i, struct uffd_msg *m)
{
	*m = h->held[i];
	h->nheld--;
	memmove(&h->held[i], &h->held[i + 1], (h->nheld - i) * sizeof(h->held[0]));
}

/* [start, end) was unmapped, and perhaps mapped again. -EAGAIN: not quiet any more. now: what is mapped will do, if the kernel does not say what is
 * registered. */
static int settle_unmap(struct tdm_host *h, struct tdm_ctx *ctx, u64 start, u64 end, bool now)
{
	while (start < end) {
		struct tdm_mapping m;
		u64 stop = end;
		int r = -ENOENT;

		if (!tdmi_host_mapping(h, start, &m)) {
			stop = TDM_MIN(end, start < m.start ? m.start : m.end);
			if (start >= m.start)
				r = tdmi_host_registered(h->uffd, start);
		}
		if (r == -EAGAIN && !now)
			return r;
		if (r && r != -EAGAIN)
			tdmi_zap(ctx, start, stop, TDM_ZAP_UNMAP);
		start = stop;
	}
	return 0;
}

void tdmi_host_event(struct tdm_host *h, struct tdm_ctx *ctx, const struct uffd_msg *m)
{
	struct uffd_msg next;
	bool other_half = m->event == UFFD_EVENT_UNMAP && take_expected(h, m->arg.remove.start, m->arg.remove.end);

	if (must_wait(h, m, h->nheld)) {
		if (other_half)
			return;
		if (h->nheld == TDM_HOST_HELD) {
			take_held(h, 0, &next);
			if (next.event != UFFD_EVENT_UNMAP)
				apply(h, ctx, &next);
			else
				(void)settle_unmap(h, ctx, next.arg.remove.start, next.arg.remove.end, true);
		}
		h->held[h->nheld++] = *m;
		return;
	}
	apply(h, ctx, m);
	for (u32 i = 0; i < h->nheld; i++)
		if (!must_wait(h, &h->held[i], i)) {
			take_held(h, i, &next);
			apply(h, ctx, &next);
			i = ~0u; /* from the first again */
		}
}

/* Settle what was held back, if it is quiet. */
static void settle(struct tdm_host *h, struct tdm_ctx *ctx)
{
	if ((!h->nheld && !h->nmoved && !h->nexpected) || tdmi_host_changing(h))
		return;
	while (h->nheld) {
		struct uffd_msg m = h->held[0];

		if (m.event == UFFD_EVENT_UNMAP) {
			if (settle_unmap(h, ctx, m.arg.remove.start, m.arg.remove.end, false))
				return;
		} else {
			apply(h, ctx, &m);
		}
		take_held(h, 0, &m);
	}
	h->nmoved = h->nexpected = 0;
	tdmi_event_done(ctx->mm);
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

/* The next message, taking in events. false: there is none. */
static bool next_fault(struct tdm_host *h, struct tdm_ctx *ctx, struct tdm_host_fault *out)
{
	for (;;) {
		struct uffd_msg m;
		bool got;

		settle(h, ctx);
		tdmi_event_read_begin(ctx->mm);
		got = tdmi_host_read_msg(h->uffd, &m) > 0;
		tdmi_event_read_end(ctx->mm, h->nheld || (got && m.event != UFFD_EVENT_PAGEFAULT));
		if (!got)
			return false;
		if (m.event == UFFD_EVENT_PAGEFAULT) {
			*out = (struct tdm_host_fault){ m.arg.pagefault.address & TDM_PAGE_MASK,
							m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE, m.arg.pagefault.feat.ptid };
			return true;
		}
		if (m.event == UFFD_EVENT_FORK)
			h->forked(h->forked_arg, (int)m.arg.fork.ufd);
		else
			tdmi_host_event(h, ctx, &m);
		if (!h->nheld)
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
	u64 one = 1;

	while (h->pending_tail - h->pending_head < TDM_HOST_PENDING && next_fault(h, ctx, &f))
		h->pending[h->pending_tail++ % TDM_HOST_PENDING] = f;
	if (h->pending_head != h->pending_tail)
		tdm_sys3(SYS_write, h->kick_fd, &one, sizeof(one));
}
