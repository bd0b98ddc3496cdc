/* SPDX-License-Identifier: MIT */
/*
 * live_frozen.c - the time of a fork, in which the engine stands still and the program does not.
 *
 * Nobody changes the table (mm/frozen.c), so that the child inherits a state in which nothing is half done. Faults are served from it all the same: the
 * forking thread waits in libc for locks whose holders wait for pages. What is restored is noted in a journal, what the program's other
 * threads do to their mappings in a list, and the table learns of both when it is over.
 *
 * Until then a page may have been moved, and the table still has it under its old address: where it came from is found in the list, and so is what of it a child
 * has (live_frozen_judge.c).
 *
 * There may be several children (run/live_fork.c). The events that a child causes itself are in the same list; for each event there are bits that tell in
 * which of them it happened.
 *
 * A child that runs no code of ours is given all that is out (live_frozen_give.c).
 *
 * All of it on the main thread, with every other thread of the engine outside; or, if there is nothing but such a child, on any thread, under the event lock.
 */
#include "run/live_frozen_impl.h"

#ifndef EVENTS_MAX /* tests: fewer */
#define EVENTS_MAX (1u << 18)
#endif
#define EAGAIN_NAP_NS ((u64)50000)
#define EVENTS_SIZE TDM_ALIGN_UP(EVENTS_MAX * sizeof(struct tdm_frozen_event), TDM_PAGE_SIZE)

/* ---- the list -------------------------------------------------------------------------------------------------------- */

void tdmi_frozen_list_make(struct tdm_frozen *f, struct tdm_ctx *ctx)
{
	f->ctx = ctx;
	if (!f->event)
		f->event = plat_map(EVENTS_SIZE);
	if (!f->event)
		plat_abort("tandem: no memory to remember what happens during a fork\n");
	f->n = f->njournal = f->ndeferred = f->nbirths = 0;
}

/* Is anybody known to be where event i moves something, or has anybody been on his way there? */
static bool somebody_there(struct tdm_live *l, u32 i)
{
	u64 to = l->frozen.event[i].msg.arg.remap.to, len = l->frozen.event[i].msg.arg.remap.len;
	struct tdm_vma v;
	bool yes;

	tdmi_rcu_read_lock(l->frozen.ctx->rcu);
	yes = (tdmi_vma_next(&l->mm.vmas, to, &v) && v.start < to + len) || tdmi_pt_next(&l->mm.pgt, to, to + len) < to + len;
	tdmi_rcu_read_unlock(l->frozen.ctx->rcu);
	for (u32 k = 0; k < i && !yes; k++) {
		const struct uffd_msg *m = &l->frozen.event[k].msg;

		yes = m->event == UFFD_EVENT_REMAP && m->arg.remap.to < to + len && to < m->arg.remap.to + m->arg.remap.len;
	}
	return yes;
}

/* by: the child whose event it is, or NULL. */
static void note_event(struct tdm_frozen *f, const struct uffd_msg *m, const struct tdm_birth *by)
{
	s32 of = by ? (s32)(by - f->birth) : -1;
	u32 own = by ? (u32)1 << of : 0;

	if (f->n == EVENTS_MAX)
		plat_abort("tandem: a fork takes so long that nobody can remember what its process does meanwhile\n");
	f->event[f->n++] = (struct tdm_frozen_event){ *m, of, own, own };
}

struct tdm_birth *tdmi_frozen_birth_add(struct tdm_frozen *f, int uffd)
{
	struct tdm_birth *b = &f->birth[f->nbirths];

	if (f->nbirths == TDM_LIVE_BIRTHS)
		plat_abort("tandem: too many forks at once\n");
	*b = (struct tdm_birth){ .uffd = uffd, .n = f->n };
	f->nbirths++;
	return b;
}

void tdmi_frozen_list_forget(struct tdm_frozen *f)
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

/* ---- reading --------------------------------------------------------------------------------------------------------- */

/* A child forks: what it had is what that one has. */
static void add_grandchild(struct tdm_frozen *f, const struct tdm_birth *of, int uffd)
{
	struct tdm_birth *b = tdmi_frozen_birth_add(f, uffd);

	b->n = of->n;
	b->judged = of->judged;
	b->told = true;
	for (u32 i = 0; i < f->n; i++)
		if (f->event[i].in_child & bit_of(f, of))
			f->event[i].in_child |= bit_of(f, b);
}

/* true: m was not a fault. */
static bool took_event(struct tdm_live *l, struct tdm_birth *b, const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_PAGEFAULT)
		return false;
	if (m->event == UFFD_EVENT_REMOVE && m->arg.remove.start == l->host.beacon)
		b->called = true;
	else if (m->event == UFFD_EVENT_FORK)
		add_grandchild(&l->frozen, b, (int)m->arg.fork.ufd);
	else
		note_event(&l->frozen, m, b);
	return true;
}

void tdmi_frozen_read_events(struct tdm_live *l, struct tdm_birth *b)
{
	struct uffd_msg m;
	tdm_a32 nobody = { 0 };

	while (tdmi_host_read_msg(b->uffd, &m) > 0)
		if (!took_event(l, b, &m))
			tdmi_host_wake(b->uffd, m.arg.pagefault.address & TDM_PAGE_MASK, TDM_PAGE_SIZE);
	plat_wait(&nobody, 0, EAGAIN_NAP_NS);
}

/* ---- serving --------------------------------------------------------------------------------------------------------- */

/* Serve a fault of the parent's, or of the child's b. */
static void serve(struct tdm_live *l, const struct tdm_birth *b, u64 va)
{
	struct tdm_frozen *f = &l->frozen;
	int uffd = b ? b->uffd : l->host.uffd;
	const void *bytes = l->mm.zeros;
	u64 was = va;
	u32 done;
	int r = 0;

	if (tdmi_frozen_origin(l, b, &was))
		r = tdmi_frozen_page(f->ctx, was, &bytes);
	if (r)
		plat_abort("tandem: a page could not be read back from its tier during a fork\n");
	if (bytes)
		r = tdmi_host_copy(uffd, va, bytes, 1, &done);
	/* It is there, whatever the table says: perhaps a store that waits (mm/cow.c). For the time of a fork it need not. */
	if (!bytes || r == -EEXIST)
		r = tdmi_host_protect(uffd, va, TDM_PAGE_SIZE, false);
	/* An event is pending. Faults are read before events: were the thread woken now, it would fault again, and with enough of
	 * them the event would never be read. */
	if (r == -EAGAIN && !b && f->ndeferred < TDM_LIVE_DEFERRED) {
		f->deferred[f->ndeferred++] = va;
		return;
	}
	if (bytes && !b && f->njournal < TDM_LIVE_JOURNAL)
		f->journal[f->njournal++] = (struct tdm_restored){ va, f->n };
	if (bytes || r)
		tdmi_host_wake(uffd, va, TDM_PAGE_SIZE);
}

void tdmi_frozen_begin(struct tdm_live *l)
{
	struct tdm_host *h = &l->host;

	tdmi_frozen_list_make(&l->frozen, l->ctx);
	/* Faults that were read and not yet served: by whoever reads them now. */
	while (h->pending_head != h->pending_tail)
		serve(l, NULL, h->pending[h->pending_head++ % TDM_HOST_PENDING].va);
}

int tdmi_frozen_read(struct tdm_live *l)
{
	struct tdm_frozen *f = &l->frozen;
	struct uffd_msg m;
	u32 n;
	int r;

	while ((r = tdmi_host_read_msg(l->host.uffd, &m)) > 0) {
		if (m.event == UFFD_EVENT_PAGEFAULT) {
			serve(l, NULL, m.arg.pagefault.address & TDM_PAGE_MASK);
		} else if (m.event == UFFD_EVENT_FORK) {
			(void)tdmi_frozen_birth_add(f, (int)m.arg.fork.ufd);
			break;
		} else {
			note_event(f, &m, NULL);
			/* See port/host_event.c. */
			if (m.event == UFFD_EVENT_REMAP && somebody_there(l, f->n - 1))
				tdmi_host_let_queue(&l->host);
		}
	}
	n = f->ndeferred;
	f->ndeferred = 0;
	/* What must wait again goes to a place that has been looked at. */
	for (u32 i = 0; i < n; i++)
		serve(l, NULL, f->deferred[i]);
	return r < 0 ? r : 0;
}

void tdmi_frozen_read_child(struct tdm_live *l, struct tdm_birth *b)
{
	struct uffd_msg m;

	while (tdmi_host_read_msg(b->uffd, &m) > 0)
		if (!took_event(l, b, &m))
			serve(l, b, m.arg.pagefault.address & TDM_PAGE_MASK);
}

/* ---- afterwards ------------------------------------------------------------------------------------------------------ */

/* What was restored, from journal entry *k on, as long as it was before `end` and after no more than `after` events. */
static void settle_journal(struct tdm_live *l, u32 *k, u32 end, u32 after)
{
	struct tdm_restored *j = l->frozen.journal;
	struct tdm_vma v;

	for (; *k < end && j[*k].after <= after; ++*k)
		/* What has been unmapped may have been mapped anew, and be nobody's to take. */
		if (tdmi_vma_find(&l->mm.vmas, j[*k].va, &v))
			tdmi_settle(l->ctx, j[*k].va);
}

void tdmi_frozen_end(struct tdm_live *l)
{
	struct tdm_frozen *f = &l->frozen;

	plat_mutex_lock(&l->mm.event_lock);
	/* In the order in which it happened: what was restored and then dropped is about to go. */
	for (u32 i = 0, k = 0; i <= f->n; i++) {
		settle_journal(l, &k, f->njournal, i);
		if (i < f->n && f->event[i].of < 0)
			tdmi_host_event(&l->host, l->ctx, &f->event[i].msg);
	}
	plat_mutex_unlock(&l->mm.event_lock);
	/* Whoever still waits finds its fault served by the handlers. */
	for (u32 i = 0; i < f->ndeferred; i++)
		tdmi_host_wake(l->host.uffd, f->deferred[i], TDM_PAGE_SIZE);
	tdmi_frozen_list_forget(f);
}

void tdmi_frozen_take(struct tdm_live *l, const struct tdm_frozen_event *event, u32 n, u32 birth)
{
	plat_mutex_lock(&l->mm.event_lock);
	for (u32 i = 0; i < n; i++)
		if (event[i].in_child & (u32)1 << birth)
			tdmi_host_event(&l->host, l->ctx, &event[i].msg);
		else if (event[i].of < 0 && event[i].msg.event == UFFD_EVENT_UNMAP)
			tdmi_host_left(&l->host, l->ctx, event[i].msg.arg.remove.start, event[i].msg.arg.remove.end);
	tdmi_host_forget_limbo(&l->host, l->ctx);
	tdmi_live_forget_unregistered(l);
	plat_mutex_unlock(&l->mm.event_lock);
	/* What the parent had noted when we were copied: how far it had come does not matter. */
	plat_discard(l->frozen.event, EVENTS_SIZE);
	l->frozen.n = 0;
}
