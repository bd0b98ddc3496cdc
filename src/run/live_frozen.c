/* SPDX-License-Identifier: MIT */
/*
 * live_frozen.c - the time of a fork, in which the engine stands still and the program does not.
 *
 * Nobody changes the table (mm/frozen.c), so that the child inherits a state in which nothing is half done. Faults are served from it all the same: the
 * forking thread waits in libc for locks whose holders wait for pages. What is restored is noted in a journal, what the program's other
 * threads do to their mappings in a list, and the table learns of both when it is over.
 *
 * Until then a page may have been moved, and the table still has it under its old address. Where it came from is found in the list, by the rules of
 * port/host_event.c, for one page at a time: who came to a place, who waits to leave it.
 *
 * The child gets the same list. But an event tells that something happened, not whether before the address space was copied: threads change mappings
 * while the fork event is on its way, and announce afterwards what they did before. What is registered in the child tells it (happened()). A thread
 * whose call is under way while another one forks cannot know which of the two comes first, so either will do; but what one thread did in order must be
 * there in order, and bytes must be where their mapping is. After MREMAP_DONTUNMAP the old place is registered as before, and nothing tells: none is under
 * way when fork() is called (preload.c).
 *
 * All of it on the main thread, with every other thread of the engine outside.
 */
#include <string.h>
#include "base/check.h"
#include "run/live.h"

#ifndef EVENTS_MAX /* tests: fewer */
#define EVENTS_MAX (1u << 18)
#endif
#define EVENTS_SIZE TDM_ALIGN_UP(EVENTS_MAX * sizeof(struct tdm_frozen_event), TDM_PAGE_SIZE)

/* ---- the list ---------------------------------------------------------------------------------------------------------- */

/* Address space for more events than there can be. Nothing may be allocated while the fork may happen: the child would inherit the lock. */
static void make_list(struct tdm_frozen *f)
{
	if (!f->event)
		f->event = plat_map(EVENTS_SIZE);
	if (!f->event)
		plat_abort("tandem: no memory to remember what happens during a fork\n");
	f->n = f->judged = f->njournal = f->ndeferred = f->nstrangers = 0;
}

/* Is anybody known to be where event i moves something, or has anybody been on his way there? */
static bool somebody_there(struct tdm_live *l, u32 i)
{
	u64 to = l->frozen.event[i].msg.arg.remap.to, len = l->frozen.event[i].msg.arg.remap.len;
	struct tdm_vma v;
	bool yes;

	tdmi_rcu_read_lock(l->ctx->rcu);
	yes = (tdmi_vma_next(&l->mm, to, &v) && v.start < to + len) || tdmi_pt_next(&l->mm, to, to + len) < to + len;
	tdmi_rcu_read_unlock(l->ctx->rcu);
	for (u32 k = 0; k < i && !yes; k++) {
		const struct uffd_msg *m = &l->frozen.event[k].msg;

		yes = m->event == UFFD_EVENT_REMAP && m->arg.remap.to < to + len && to < m->arg.remap.to + m->arg.remap.len;
	}
	return yes;
}

static void note_event(struct tdm_frozen *f, const struct uffd_msg *m)
{
	if (f->n == EVENTS_MAX)
		plat_abort("tandem: a fork takes so long that nobody can remember what its process does meanwhile\n");
	f->event[f->n++] = (struct tdm_frozen_event){ .msg = *m };
}

static void forget_list(struct tdm_frozen *f)
{
	if (f->n)
		plat_discard(f->event, TDM_ALIGN_UP(f->n * sizeof(f->event[0]), TDM_PAGE_SIZE));
	f->n = 0;
}

void tdmi_frozen_destroy(struct tdm_live *l)
{
	if (l->frozen.event)
		plat_unmap(l->frozen.event, EVENTS_SIZE);
	l->frozen.event = NULL;
}

/* ---- who is where -------------------------------------------------------------------------------------------------------- */

/* Tenants: the REMAP that brought one, or: */
enum { FIRST = -1, NOBODY = -2, DROPPED = -3 };

struct place {
	s32 tenant, waiting; /* who is there; who has gone, of which we are still to be told */
	bool half;           /* only the UNMAP of somebody who was moved on is to come */
	bool over;           /* the tenant came after that one */
};

static bool within(u64 va, u64 start, u64 len)
{
	return va - start < len;
}

static bool known(struct tdm_live *l, u64 va)
{
	struct tdm_pte pte;
	struct tdm_vma v;
	bool known;
	u32 i;

	tdmi_rcu_read_lock(l->ctx->rcu);
	(void)tdmi_pt_walk(&l->mm, va, &i, &pte);
	known = !tdm_pte_none(pte) || tdmi_vma_find(&l->mm, va, &v);
	tdmi_rcu_read_unlock(l->ctx->rcu);
	return known;
}

static void unmapped(struct place *p)
{
	if ((p->waiting == NOBODY && !p->half) || !p->over)
		p->tenant = NOBODY;
	p->waiting = NOBODY;
	p->half = p->over = false;
}

static void came(struct place *p, s32 who)
{
	if (p->tenant != NOBODY) {
		p->waiting = p->tenant;
		p->half = false;
	}
	p->tenant = who;
	p->over = true;
}

static void moved_on(struct place *p)
{
	if (p->waiting == NOBODY) {
		p->tenant = NOBODY;
		p->over = false;
	}
	p->waiting = NOBODY;
	p->half = true;
}

/* The place at va after the first n events; the child's, if child. */
static struct place place_at(struct tdm_live *l, bool child, u64 va, u32 n)
{
	struct place p = { known(l, va) ? FIRST : NOBODY, NOBODY, false, false };

	for (u32 i = 0; i < n; i++) {
		const struct uffd_msg *m = &l->frozen.event[i].msg;
		u64 start = m->arg.remove.start, len = m->arg.remove.end - start;

		if (child && !l->frozen.event[i].in_child && (m->event != UFFD_EVENT_UNMAP || (p.waiting == NOBODY && !p.half)))
			continue;
		if (m->event == UFFD_EVENT_REMAP) {
			if (within(va, m->arg.remap.to, m->arg.remap.len))
				came(&p, (s32)i);
			if (within(va, m->arg.remap.from, m->arg.remap.len))
				moved_on(&p);
		} else if (within(va, start, len)) {
			if (m->event == UFFD_EVENT_UNMAP)
				unmapped(&p);
			else if (p.tenant != NOBODY)
				p.tenant = DROPPED;
		}
	}
	return p;
}

/* Where the table has the page that is now at *va. false: nowhere; it is new, or was dropped. */
static bool origin(struct tdm_live *l, bool child, u64 *va)
{
	struct place p = place_at(l, child, *va, child ? l->frozen.judged : l->frozen.n);
	s32 who = p.tenant;

	while (who >= 0) {
		const struct uffd_msg *m = &l->frozen.event[who].msg;

		*va = *va - m->arg.remap.to + m->arg.remap.from;
		p = place_at(l, child, *va, (u32)who);
		who = p.waiting != NOBODY ? p.waiting : p.tenant;
	}
	return who == FIRST;
}

/* ---- which of it the child has --------------------------------------------------------------------------------------------- */

static bool happened(struct tdm_live *l, int child, u32 i);

static bool arrives(const struct tdm_frozen_event *e, u64 va)
{
	return e->msg.event == UFFD_EVENT_REMAP && within(va, e->msg.arg.remap.to, e->msg.arg.remap.len);
}

/* Is whoever is moved from va by event i there in the child? If somebody is there, and is not one who came later; of whose coming we may have read before. */
static bool stays(struct tdm_live *l, int child, u64 va, u32 i)
{
	struct place p = place_at(l, false, va, i);

	if (tdmi_host_registered(child, va))
		return false;
	if (p.waiting != NOBODY && p.tenant >= 0 && happened(l, child, (u32)p.tenant))
		return false;
	for (u32 k = i + 1; k < l->frozen.judged; k++)
		if (arrives(&l->frozen.event[k], va) && happened(l, child, k))
			return false;
	return true;
}

/* Did the one whom event i moves come after the fork? */
static bool came_too_late(struct tdm_live *l, int child, u32 i)
{
	struct place p = place_at(l, false, l->frozen.event[i].msg.arg.remap.from, i);
	s32 who = p.waiting != NOBODY ? p.waiting : p.tenant;

	return who >= 0 && !happened(l, child, (u32)who);
}

static bool another_came(struct tdm_live *l, int child, u64 va, u32 i)
{
	for (u32 k = l->frozen.child.n; k < l->frozen.judged; k++)
		if (k != i && arrives(&l->frozen.event[k], va) && happened(l, child, k))
			return true;
	return false;
}

/* Was there somebody at the new place who had to go for the move i, and is somebody said to be gone from the old one? Then it was no DONTUNMAP. */
static bool made_room(struct tdm_live *l, u32 i)
{
	const struct uffd_msg *move = &l->frozen.event[i].msg;
	bool room = false, left = false;

	for (u32 k = l->frozen.child.n; k < l->frozen.judged; k++) {
		const struct uffd_msg *m = &l->frozen.event[k].msg;

		if (m->event != UFFD_EVENT_UNMAP)
			continue;
		room = room || (k < i && within(move->arg.remap.to, m->arg.remove.start, m->arg.remove.end - m->arg.remove.start));
		left = left || (k > i && m->arg.remove.start == move->arg.remap.from);
	}
	return room && left;
}

/* Was whoever was at va moved on at the time of the fork? */
static bool moved_away(struct tdm_live *l, int child, u64 va)
{
	for (u32 k = l->frozen.child.n; k < l->frozen.judged; k++) {
		const struct uffd_msg *m = &l->frozen.event[k].msg;

		if (m->event == UFFD_EVENT_REMAP && within(va, m->arg.remap.from, m->arg.remap.len) && happened(l, child, k))
			return true;
	}
	return false;
}

/* Did the REMAP i, announced after the fork, happen before it? There may be a circle: somebody moved to and fro. Then all is where it was, and none of it need have
 * happened. */
static bool happened(struct tdm_live *l, int child, u32 i)
{
	struct tdm_frozen_event *e = &l->frozen.event[i];
	u64 from = e->msg.arg.remap.from, to = e->msg.arg.remap.to;

	if (e->judged)
		return e->in_child;
	e->judged = true;
	if (came_too_late(l, child, i))
		return false;
	if (!stays(l, child, from, i))
		e->in_child = true;
	/* Something is at both places: after mremap(MREMAP_DONTUNMAP), or because the move came after the fork, onto something that was there. */
	else if (!tdmi_host_registered(child, to) &&
		 (place_at(l, true, to, l->frozen.child.n).tenant == NOBODY || moved_away(l, child, to)))
		e->in_child = !another_came(l, child, to, i) && !made_room(l, i);
	return e->in_child;
}

void tdmi_frozen_judge(struct tdm_live *l, int child)
{
	struct tdm_frozen *f = &l->frozen;

	f->judged = f->n;
	for (u32 i = 0; i < f->n; i++) {
		f->event[i].in_child = i < f->child.n;
		f->event[i].judged = i < f->child.n;
	}
	for (u32 i = f->child.n; i < f->n; i++)
		if (f->event[i].msg.event == UFFD_EVENT_REMAP)
			(void)happened(l, child, i);
	/* An UNMAP that made room for such a move. Of the others only this matters: they end the waiting of somebody who was moved, or displaced,
	 * before the fork. What they unmapped is not registered in the child; what a REMOVE announced had not been dropped yet. */
	for (u32 i = f->child.n; i < f->n; i++) {
		const struct uffd_msg *m = &f->event[i].msg;

		for (u32 k = i + 1; m->event == UFFD_EVENT_UNMAP && k < f->n; k++)
			if (f->event[k].msg.event == UFFD_EVENT_REMAP && f->event[k].in_child &&
			    within(f->event[k].msg.arg.remap.to, m->arg.remove.start, m->arg.remove.end - m->arg.remove.start))
				f->event[i].in_child = true;
	}
}

/* ---- serving ------------------------------------------------------------------------------------------------------------------ */

/* Serve a fault of the parent's (uffd is ours) or of the child's. */
static void serve(struct tdm_live *l, int uffd, u64 va)
{
	struct tdm_frozen *f = &l->frozen;
	bool ours = uffd == l->host.uffd;
	const void *bytes = l->mm.zeros;
	u64 was = va;
	u32 done;
	int r = 0;

	if (origin(l, !ours, &was))
		r = tdmi_frozen_page(l->ctx, was, &bytes);
	if (r)
		plat_abort("tandem: a page could not be read back from its tier during a fork\n");
	if (bytes) {
		r = tdmi_host_copy(uffd, va, bytes, 1, &done);
		/* An event is pending. Faults are read before events: were the thread woken now, it would fault again, and with enough of
		 * them the event would never be read. */
		if (r == -EAGAIN && ours && f->ndeferred < TDM_LIVE_DEFERRED) {
			f->deferred[f->ndeferred++] = va;
			return;
		}
		if (ours && f->njournal < TDM_LIVE_JOURNAL)
			f->journal[f->njournal++] = (struct tdm_restored){ va, f->n };
	}
	tdmi_host_wake(uffd, va, TDM_PAGE_SIZE);
}

void tdmi_frozen_begin(struct tdm_live *l)
{
	struct tdm_host *h = &l->host;

	make_list(&l->frozen);
	/* Faults that were read and not yet served: by whoever reads them now. */
	while (h->pending_head != h->pending_tail)
		serve(l, h->uffd, h->pending[h->pending_head++ % TDM_HOST_PENDING].va);
}

int tdmi_frozen_read(struct tdm_live *l, int *forked)
{
	struct tdm_frozen *f = &l->frozen;
	struct uffd_msg m;
	u32 n;
	int r;

	while ((r = tdmi_host_read_msg(l->host.uffd, &m)) > 0) {
		if (m.event == UFFD_EVENT_PAGEFAULT) {
			serve(l, l->host.uffd, m.arg.pagefault.address & TDM_PAGE_MASK);
		} else if (m.event == UFFD_EVENT_FORK) {
			*forked = (int)m.arg.fork.ufd;
			f->forked = (struct tdm_stranger){ *forked, f->n, f->njournal };
			break;
		} else {
			note_event(f, &m);
			/* See port/host_event.c. */
			if (m.event == UFFD_EVENT_REMAP && somebody_there(l, f->n - 1))
				tdmi_host_let_queue(&l->host);
		}
	}
	n = f->ndeferred;
	f->ndeferred = 0;
	/* What must wait again goes to a place that has been looked at. */
	for (u32 i = 0; i < n; i++)
		serve(l, l->host.uffd, f->deferred[i]);
	return r < 0 ? r : 0;
}

void tdmi_frozen_forked(struct tdm_live *l, int uffd)
{
	TDM_BUG_ON(l->frozen.forked.uffd != uffd);
	l->frozen.child = l->frozen.forked;
}

/* In the order in which they forked. */
static void add_stranger(struct tdm_frozen *f, struct tdm_stranger s)
{
	u32 i;

	if (f->nstrangers == TDM_LIVE_STRANGERS)
		plat_abort("tandem: too many forks at once\n");
	for (i = f->nstrangers++; i && (f->stranger[i - 1].n > s.n || f->stranger[i - 1].njournal > s.njournal); i--)
		f->stranger[i] = f->stranger[i - 1];
	f->stranger[i] = s;
}

void tdmi_frozen_stranger(struct tdm_live *l, int uffd)
{
	TDM_BUG_ON(l->frozen.forked.uffd != uffd);
	add_stranger(&l->frozen, l->frozen.forked);
}

int tdmi_frozen_no_stranger(struct tdm_live *l)
{
	struct tdm_frozen *f = &l->frozen;

	if (!f->nstrangers)
		return -1;
	f->child = f->stranger[--f->nstrangers];
	return f->child.uffd;
}

void tdmi_frozen_stranger_after_all(struct tdm_live *l)
{
	add_stranger(&l->frozen, l->frozen.child);
}

void tdmi_frozen_read_child(struct tdm_live *l, int child)
{
	struct uffd_msg m;

	/* Only faults: while it has not started its engine it changes no mapping of its own that we must know of. */
	while (tdmi_host_read_msg(child, &m) > 0)
		if (m.event == UFFD_EVENT_PAGEFAULT)
			serve(l, child, m.arg.pagefault.address & TDM_PAGE_MASK);
}

/* ---- afterwards ---------------------------------------------------------------------------------------------------------------- */

static int copy_out(void *arg, u64 va, const void *bytes)
{
	u32 done;
	int r = tdmi_host_copy(*(int *)arg, va, bytes, 1, &done);

	return r == -ESRCH ? r : 0;
}

/* The child's program has nobody to ask for what the table has out, and is given all of it. */
static void give_all(struct tdm_live *l, struct tdm_ctx *ctx, int uffd)
{
	(void)tdmi_frozen_walk(ctx, copy_out, &uffd);
	tdmi_host_let_go(uffd);
	tdm_a64_add_relaxed(&l->forks, 1);
}

void tdmi_live_raw_fork(void *arg, struct tdm_ctx *ctx, int child_uffd)
{
	give_all(arg, ctx, child_uffd);
}

/* What was restored, from journal entry *k on, as long as it was before `end` and after no more than `after` events. */
static void settle_journal(struct tdm_live *l, u32 *k, u32 end, u32 after)
{
	struct tdm_restored *j = l->frozen.journal;
	struct tdm_vma v;

	for (; *k < end && j[*k].after <= after; ++*k)
		/* What has been unmapped may have been mapped anew, and be nobody's to take. */
		if (tdmi_vma_find(&l->mm, j[*k].va, &v))
			tdmi_settle(l->ctx, j[*k].va);
}

void tdmi_frozen_end(struct tdm_live *l)
{
	struct tdm_frozen *f = &l->frozen;

	plat_mutex_lock(&l->mm.event_lock);
	/* In the order in which it happened: what was restored and then dropped is about to go; what a stranger got is what there was then. */
	for (u32 i = 0, k = 0, s = 0; i <= f->n; i++) {
		for (; s < f->nstrangers && f->stranger[s].n == i; s++) {
			settle_journal(l, &k, f->stranger[s].njournal, i);
			give_all(l, l->ctx, f->stranger[s].uffd);
		}
		settle_journal(l, &k, f->njournal, i);
		if (i < f->n)
			tdmi_host_event(&l->host, l->ctx, &f->event[i].msg);
	}
	plat_mutex_unlock(&l->mm.event_lock);
	/* Whoever still waits finds its fault served by the handlers. */
	for (u32 i = 0; i < f->ndeferred; i++)
		tdmi_host_wake(l->host.uffd, f->deferred[i], TDM_PAGE_SIZE);
	forget_list(f);
}

void tdmi_frozen_take(struct tdm_live *l, const struct tdm_frozen_event *event, u32 n)
{
	plat_mutex_lock(&l->mm.event_lock);
	for (u32 i = 0; i < n; i++)
		if (event[i].in_child)
			tdmi_host_event(&l->host, l->ctx, &event[i].msg);
		else if (event[i].msg.event == UFFD_EVENT_UNMAP)
			tdmi_host_left(&l->host, l->ctx, event[i].msg.arg.remove.start, event[i].msg.arg.remove.end);
	tdmi_host_forget_limbo(&l->host, l->ctx);
	tdmi_live_forget_unregistered(l);
	plat_mutex_unlock(&l->mm.event_lock);
	/* What the parent had noted when we were copied: how far it had come does not matter. */
	plat_discard(l->frozen.event, EVENTS_SIZE);
	l->frozen.n = 0;
}
