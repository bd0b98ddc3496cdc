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
 * There may be several children (run/live_fork.c). The events that a child causes itself are in the same list; for each event there are bits that tell in
 * which of them it happened.
 *
 * A child that runs no code of ours is given all that is out, and may be running meanwhile: nothing can be filled as long as something that it has done to
 * its mappings has not been read, and what has been read is heeded from then on.
 *
 * All of it on the main thread, with every other thread of the engine outside; or, if there is nothing but such a child, on any thread, under the event lock.
 */
#include <string.h>
#include "base/check.h"
#include "run/live.h"

#ifndef EVENTS_MAX /* tests: fewer */
#define EVENTS_MAX (1u << 18)
#endif
#define EAGAIN_NAP_NS ((u64)50000)
#define GIVE_TRIES 10000u
#define EVENTS_SIZE TDM_ALIGN_UP(EVENTS_MAX * sizeof(struct tdm_frozen_event), TDM_PAGE_SIZE)

/* ---- the list ---------------------------------------------------------------------------------------------------------- */

/* Address space for more events than there can be. Nothing may be allocated while the fork may happen: the child would inherit the lock. */
static void make_list(struct tdm_frozen *f, struct tdm_ctx *ctx)
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
	yes = (tdmi_vma_next(&l->mm, to, &v) && v.start < to + len) || tdmi_pt_next(&l->mm, to, to + len) < to + len;
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

static u32 bit_of(const struct tdm_frozen *f, const struct tdm_birth *b)
{
	return (u32)1 << (b - f->birth);
}

static struct tdm_birth *add_birth(struct tdm_frozen *f, int uffd)
{
	struct tdm_birth *b = &f->birth[f->nbirths];

	if (f->nbirths == TDM_LIVE_BIRTHS)
		plat_abort("tandem: too many forks at once\n");
	*b = (struct tdm_birth){ .uffd = uffd, .n = f->n };
	f->nbirths++;
	return b;
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

	tdmi_rcu_read_lock(l->frozen.ctx->rcu);
	(void)tdmi_pt_walk(&l->mm, va, &i, &pte);
	known = !tdm_pte_none(pte) || tdmi_vma_find(&l->mm, va, &v);
	tdmi_rcu_read_unlock(l->frozen.ctx->rcu);
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

/* Is event i none of b's past? Of what other threads of the parent did later this matters: an UNMAP ends the waiting of somebody who was moved, or displaced,
 * before the fork. */
static bool foreign(const struct tdm_frozen *f, const struct tdm_birth *b, u32 i, const struct place *p)
{
	const struct tdm_frozen_event *e = &f->event[i];

	if (!b || e->of >= 0)
		return !b ? e->of >= 0 : !(e->in_child & bit_of(f, b));
	if (e->in_child & bit_of(f, b))
		return false;
	return i >= b->judged || e->msg.event != UFFD_EVENT_UNMAP || (p->waiting == NOBODY && !p->half);
}

/* The place at va after the first n events; b's, or the parent's if NULL. */
static struct place place_at(struct tdm_live *l, const struct tdm_birth *b, u64 va, u32 n)
{
	struct place p = { known(l, va) ? FIRST : NOBODY, NOBODY, false, false };

	for (u32 i = 0; i < n; i++) {
		const struct uffd_msg *m = &l->frozen.event[i].msg;
		u64 start = m->arg.remove.start, len = m->arg.remove.end - start;

		if (foreign(&l->frozen, b, i, &p))
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
static bool origin(struct tdm_live *l, const struct tdm_birth *b, u64 *va)
{
	struct place p = place_at(l, b, *va, l->frozen.n);
	s32 who = p.tenant;

	while (who >= 0) {
		const struct uffd_msg *m = &l->frozen.event[who].msg;

		*va = *va - m->arg.remap.to + m->arg.remap.from;
		p = place_at(l, b, *va, (u32)who);
		who = p.waiting != NOBODY ? p.waiting : p.tenant;
	}
	return who == FIRST;
}

/* ---- which of it a child has ------------------------------------------------------------------------------------------------ */

static bool happened(struct tdm_live *l, const struct tdm_birth *b, u32 i);

static bool moves(const struct tdm_frozen_event *e)
{
	return e->of < 0 && e->msg.event == UFFD_EVENT_REMAP;
}

static bool arrives(const struct tdm_frozen_event *e, u64 va)
{
	return moves(e) && within(va, e->msg.arg.remap.to, e->msg.arg.remap.len);
}

/* Is whoever is moved from va by event i there in the child? If somebody is there, and is not one who came later; of whose coming we may have read before. */
static bool stays(struct tdm_live *l, const struct tdm_birth *b, u64 va, u32 i)
{
	struct place p = place_at(l, NULL, va, i);

	if (tdmi_host_registered(b->uffd, va))
		return false;
	if (p.waiting != NOBODY && p.tenant >= 0 && happened(l, b, (u32)p.tenant))
		return false;
	for (u32 k = i + 1; k < b->judged; k++)
		if (arrives(&l->frozen.event[k], va) && happened(l, b, k))
			return false;
	return true;
}

/* Did the one whom event i moves come after the fork? */
static bool came_too_late(struct tdm_live *l, const struct tdm_birth *b, u32 i)
{
	struct place p = place_at(l, NULL, l->frozen.event[i].msg.arg.remap.from, i);
	s32 who = p.waiting != NOBODY ? p.waiting : p.tenant;

	return who >= 0 && !happened(l, b, (u32)who);
}

static bool another_came(struct tdm_live *l, const struct tdm_birth *b, u64 va, u32 i)
{
	for (u32 k = b->n; k < b->judged; k++)
		if (k != i && arrives(&l->frozen.event[k], va) && happened(l, b, k))
			return true;
	return false;
}

/* Was there somebody at the new place who had to go for the move i, and is somebody said to be gone from the old one? Then it was no DONTUNMAP. */
static bool made_room(struct tdm_live *l, const struct tdm_birth *b, u32 i)
{
	const struct uffd_msg *move = &l->frozen.event[i].msg;
	bool room = false, left = false;

	for (u32 k = b->n; k < b->judged; k++) {
		const struct uffd_msg *m = &l->frozen.event[k].msg;

		if (m->event != UFFD_EVENT_UNMAP || l->frozen.event[k].of >= 0)
			continue;
		room = room || (k < i && within(move->arg.remap.to, m->arg.remove.start, m->arg.remove.end - m->arg.remove.start));
		left = left || (k > i && m->arg.remove.start == move->arg.remap.from);
	}
	return room && left;
}

/* Was whoever was at va moved on at the time of the fork? */
static bool moved_away(struct tdm_live *l, const struct tdm_birth *b, u64 va)
{
	for (u32 k = b->n; k < b->judged; k++) {
		const struct uffd_msg *m = &l->frozen.event[k].msg;

		if (moves(&l->frozen.event[k]) && within(va, m->arg.remap.from, m->arg.remap.len) && happened(l, b, k))
			return true;
	}
	return false;
}

/* Did the REMAP i, announced after the fork, happen before it? There may be a circle: somebody moved to and fro. Then all is where it was, and none of it need have
 * happened. */
static bool happened(struct tdm_live *l, const struct tdm_birth *b, u32 i)
{
	struct tdm_frozen_event *e = &l->frozen.event[i];
	u64 from = e->msg.arg.remap.from, to = e->msg.arg.remap.to;
	u32 bit = bit_of(&l->frozen, b);
	bool yes = false;

	if (e->judged & bit)
		return e->in_child & bit;
	e->judged |= bit;
	if (came_too_late(l, b, i))
		return false;
	if (!stays(l, b, from, i))
		yes = true;
	/* Something is at both places: after mremap(MREMAP_DONTUNMAP), or because the move came after the fork, onto something that was there. */
	else if (!tdmi_host_registered(b->uffd, to) && (place_at(l, b, to, b->n).tenant == NOBODY || moved_away(l, b, to)))
		yes = !another_came(l, b, to, i) && !made_room(l, b, i);
	if (yes)
		e->in_child |= bit;
	return yes;
}

/* A child forks: what it had is what that one has. */
static void add_grandchild(struct tdm_frozen *f, const struct tdm_birth *of, int uffd)
{
	struct tdm_birth *b = add_birth(f, uffd);

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

/* Read what b does, so that its address space can be looked at or filled; who waits for a page there waits on. */
static void read_events(struct tdm_live *l, struct tdm_birth *b)
{
	struct uffd_msg m;
	tdm_a32 nobody = { 0 };

	while (tdmi_host_read_msg(b->uffd, &m) > 0)
		if (!took_event(l, b, &m))
			tdmi_host_wake(b->uffd, m.arg.pagefault.address & TDM_PAGE_MASK, TDM_PAGE_SIZE);
	plat_wait(&nobody, 0, EAGAIN_NAP_NS);
}

void tdmi_frozen_judge(struct tdm_live *l, struct tdm_birth *b)
{
	struct tdm_frozen *f = &l->frozen;
	u32 bit = bit_of(f, b);

	b->judged = f->n;
	b->told = true;
	for (u32 i = 0; i < b->n; i++)
		if (f->event[i].of < 0) {
			f->event[i].in_child |= bit;
			f->event[i].judged |= bit;
		}
	while (tdmi_host_registered(b->uffd, l->host.beacon) == -EAGAIN)
		read_events(l, b);
	for (u32 i = b->n; i < b->judged; i++)
		if (moves(&f->event[i]))
			(void)happened(l, b, i);
	/* An UNMAP that made room for such a move. Of the others see foreign(): what they unmapped is not registered in the child; what a REMOVE announced
	 * had not been dropped yet. */
	for (u32 i = b->n; i < b->judged; i++) {
		const struct uffd_msg *m = &f->event[i].msg;

		for (u32 k = i + 1; m->event == UFFD_EVENT_UNMAP && f->event[i].of < 0 && k < b->judged; k++)
			if (moves(&f->event[k]) && (f->event[k].in_child & bit) &&
			    within(f->event[k].msg.arg.remap.to, m->arg.remove.start, m->arg.remove.end - m->arg.remove.start))
				f->event[i].in_child |= bit;
	}
}

/* ---- serving ------------------------------------------------------------------------------------------------------------------ */

/* Serve a fault of the parent's, or of the child's b. */
static void serve(struct tdm_live *l, const struct tdm_birth *b, u64 va)
{
	struct tdm_frozen *f = &l->frozen;
	int uffd = b ? b->uffd : l->host.uffd;
	const void *bytes = l->mm.zeros;
	u64 was = va;
	u32 done;
	int r = 0;

	if (origin(l, b, &was))
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

	make_list(&l->frozen, l->ctx);
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
			(void)add_birth(f, (int)m.arg.fork.ufd);
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

/* ---- giving all ---------------------------------------------------------------------------------------------------------------- */

struct gift {
	struct tdm_live *live;
	struct tdm_birth *to;
	bool moved; /* a page that b has elsewhere: */
	u64 va;     /* there; or where the table has the page that was looked at last */
	u32 failed;
};

/* n pages from g->va on. */
static int copy(struct gift *g, const u8 *bytes, u32 n)
{
	while (n) {
		u32 done;
		int r = tdmi_host_copy(g->to->uffd, g->va, bytes, n, &done);

		if (r == -EAGAIN || r == -ENOMEM || r == -ESRCH)
			return r;
		/* Anything else: the page is there, or b has no use for it any more. */
		done += r != 0;
		g->va += (u64)done << TDM_PAGE_SHIFT;
		bytes += (size_t)done << TDM_PAGE_SHIFT;
		n -= done;
	}
	return 0;
}

static int give_pages(void *arg, u64 va, u32 n, const void *bytes)
{
	struct gift *g = arg;
	int r = 0;

	if (g->moved)
		return copy(g, bytes, n);
	g->va = va;
	if (!g->live->frozen.n)
		return copy(g, bytes, n);
	for (u32 k = 0; k < n && !r; k++) {
		u64 was;

		was = g->va = va + ((u64)k << TDM_PAGE_SHIFT);
		if (origin(g->live, g->to, &was) && was == g->va)
			r = copy(g, (const u8 *)bytes + ((size_t)k << TDM_PAGE_SHIFT), 1);
	}
	return r;
}

/* Something was in the way. false: the child has ended. */
static bool go_on(struct gift *g, int r)
{
	if (r == -ENOMEM && ++g->failed > GIVE_TRIES)
		plat_abort("tandem: no memory for the child of a fork\n");
	if (r != -ESRCH)
		read_events(g->live, g->to);
	return r != -ESRCH;
}

/* What b has where the table has it; then what has been moved. It may be running: what it does meanwhile is read before more can be filled. */
static bool give_in_place(struct gift *g)
{
	const u64 end = (u64)1 << 47;
	int r = 0;

	do
		r = tdmi_frozen_walk(g->live->frozen.ctx, g->va, end, give_pages, g);
	while (r && go_on(g, r));
	return !r;
}

static bool give_at(struct gift *g, u64 va)
{
	u64 was = va;
	int r = 0;

	g->va = va;
	do {
		was = va;
		r = origin(g->live, g->to, &was) ? tdmi_frozen_walk(g->live->frozen.ctx, was, was + TDM_PAGE_SIZE, give_pages, g) : 0;
	} while (r && go_on(g, r));
	return !r;
}

void tdmi_frozen_give(struct tdm_live *l, struct tdm_birth *b)
{
	struct tdm_frozen *f = &l->frozen;
	struct gift g = { .live = l, .to = b };
	bool alive = give_in_place(&g);

	g.moved = true;
	for (u32 i = 0; i < f->n; i++) {
		const struct uffd_msg *m = &f->event[i].msg;

		if (m->event == UFFD_EVENT_REMAP && (f->event[i].in_child & bit_of(f, b)))
			for (u64 off = 0; off < m->arg.remap.len && alive; off += TDM_PAGE_SIZE)
				alive = give_at(&g, m->arg.remap.to + off);
	}
	tdmi_host_let_go(b->uffd);
	b->uffd = -1;
	tdm_a64_add_relaxed(&l->forks, 1);
}

void tdmi_live_raw_fork(void *arg, struct tdm_ctx *ctx, int child_uffd)
{
	struct tdm_live *l = arg;

	make_list(&l->frozen, ctx);
	add_birth(&l->frozen, child_uffd)->told = true;
	/* They may have children meanwhile. */
	for (u32 i = 0; i < l->frozen.nbirths; i++)
		tdmi_frozen_give(l, &l->frozen.birth[i]);
	forget_list(&l->frozen);
}

/* ---- afterwards ---------------------------------------------------------------------------------------------------------------- */

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
	forget_list(f);
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
