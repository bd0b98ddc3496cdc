/* SPDX-License-Identifier: MIT */
/*
 * live_frozen_give.c - a child that runs no code of ours is given all that is out.
 *
 * It may be running meanwhile: nothing can be filled as long as something that it has done to its mappings has not been read, and what has been read is heeded from
 * then on. On the main thread, when the engine stands still for another fork; or on any thread, under the event lock.
 */
#include "run/live_frozen_impl.h"

#define GIVE_TRIES 10000u

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
		if (tdmi_frozen_origin(g->live, g->to, &was) && was == g->va)
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
		tdmi_frozen_read_events(g->live, g->to);
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
		r = tdmi_frozen_origin(g->live, g->to, &was) ? tdmi_frozen_walk(g->live->frozen.ctx, was, was + TDM_PAGE_SIZE, give_pages, g) : 0;
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

	tdmi_frozen_list_make(&l->frozen, ctx);
	tdmi_frozen_birth_add(&l->frozen, child_uffd)->told = true;
	/* They may have children meanwhile. */
	for (u32 i = 0; i < l->frozen.nbirths; i++)
		tdmi_frozen_give(l, &l->frozen.birth[i]);
	tdmi_frozen_list_forget(&l->frozen);
}
