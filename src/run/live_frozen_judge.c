/* SPDX-License-Identifier: MIT */
/*
 * live_frozen_judge.c - where a page is that may have been moved since the engine stood still, and which of that a child has.
 *
 * The table has such a page under its old address. Where it came from is found in the list of what has happened (live_frozen.c), by the rules of
 * port/host_event.c, for one page at a time: who came to a place, who waits to leave it.
 *
 * The child gets the same list. But an event tells that something happened, not whether before the address space was copied: threads change mappings
 * while the fork event is on its way, and announce afterwards what they did before. What is registered in the child tells it (happened()). A thread
 * whose call is under way while another one forks cannot know which of the two comes first, so either will do; but what one thread did in order must be
 * there in order, and bytes must be where their mapping is. After MREMAP_DONTUNMAP the old place is registered as before, and nothing tells: none is under
 * way when fork() is called (preload.c).
 *
 * Whoever has the list calls this: nothing here waits, but for the events of a child that is looked at.
 */
#include "run/live_frozen_impl.h"

/* ---- who is where ---------------------------------------------------------------------------------------------------- */

/* Tenants: the REMAP that brought one, or: */
enum { FIRST = -1, NOBODY = -2, DROPPED = -3 };

struct place {
	s32 tenant, waiting; /* who is there; who has gone, of which we are still to be told */
	bool half;           /* only the UNMAP of somebody who was moved on is to come */
	bool over;           /* the tenant came after that one */
};

static bool known(struct tdm_live *l, u64 va)
{
	struct tdm_pte pte;
	struct tdm_vma v;
	bool known;
	u32 i;

	tdmi_rcu_read_lock(l->frozen.ctx->rcu);
	(void)tdmi_pt_walk(&l->mm.pgt, va, &i, &pte);
	known = !tdm_pte_none(pte) || tdmi_vma_find(&l->mm.vmas, va, &v);
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

bool tdmi_frozen_origin(struct tdm_live *l, const struct tdm_birth *b, u64 *va)
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

/* ---- which of it a child has ----------------------------------------------------------------------------------------- */

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
		tdmi_frozen_read_events(l, b);
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
