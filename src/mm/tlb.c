/* SPDX-License-Identifier: MIT */
/* tlb.c - see tlb.h. */
#include "mm/tlb.h"
#include "mm/space.h"

static void secondary(struct tdm_space *s, u64 start, u64 end)
{
	if (!tdm_a32_ld_relaxed(&s->notifiers.nshare))
		return;
	tdm_world_count(s->w, TDM_SC_SECONDARY, 1);
	tdm_world_work(s->w, TDM_WORK_SECONDARY, 1);
	tdmi_invalidate(&s->notifiers, start, end);
}

static void primary(struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	tdm_world_count(s->w, TDM_SC_FLUSHES, 1);
	if (s->w->tlb)
		s->w->tlb->flush(s->w->tlb_arg, s, start, end, shift);
}

void tdmi_tlb_flush(struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	primary(s, start, end, shift);
	secondary(s, start, end);
}

void tdmi_tlb_flush_secondary(struct tdm_space *s, u64 start, u64 end)
{
	secondary(s, start, end);
}

void tdmi_tlb_settle(struct tdm_space *s, u64 va)
{
	/* Reclaim's may have been for another address: mremap() has moved the entry since. */
	tdmi_batch_pending(s);
	if (tdm_a32_ld_seqcst(&s->owed))
		tdmi_tlb_flush(s, va, va + TDM_PAGE_SIZE, TDM_PAGE_SHIFT);
}

/* ---- gather */

static void gather_reset(struct tdm_gather *g)
{
	g->start = ~(u64)0;
	g->end = 0;
	g->shift = 63;
	g->n = 0;
	g->open = false;
}

void tdmi_gather_begin(struct tdm_gather *g, struct tdm_space *s)
{
	g->s = s;
	gather_reset(g);
}

void tdmi_gather_range(struct tdm_gather *g, u64 va, u32 shift)
{
	if (!g->open)
		tdm_a32_add_seqcst(&g->s->owed, 1);
	g->open = true;
	g->start = TDM_MIN(g->start, va);
	g->end = TDM_MAX(g->end, va + ((u64)1 << shift));
	g->shift = TDM_MIN(g->shift, shift);
}

bool tdmi_gather_page(struct tdm_gather *g, struct tdm_pfn pfn)
{
	g->page[g->n++] = pfn;
	return g->n == TDM_GATHER_PAGES;
}

void tdmi_gather_flush(struct tdm_gather *g)
{
	if (g->open) {
		tdmi_tlb_flush(g->s, g->start, g->end, g->shift);
		tdm_a32_sub_acqrel(&g->s->owed, 1);
	}
	for (u32 i = 0; i < g->n; i++)
		tdmi_page_put(g->s->w, g->page[i]);
	gather_reset(g);
}

/* ---- batch */

/* Where s stands in the batch; with no room for one more the batch is flushed before. */
static u32 place(struct tdm_tlb_batch *b, struct tdm_space *s, u64 va)
{
	for (u32 i = 0; i < b->n; i++)
		if (b->of[i].s == s)
			return i;
	if (b->n == TDM_BATCH_SPACES)
		tdmi_batch_flush(b);
	b->of[b->n].s = s;
	b->of[b->n].start = va;
	b->of[b->n].end = va;
	b->of[b->n].pages = 0;
	return b->n++;
}

bool tdmi_batch_add(struct tdm_tlb_batch *b, struct tdm_space *s, u64 va, bool dirty)
{
	const struct tdm_tlb_policy *policy = &s->w->policy;
	bool later = policy->batch && (!s->w->tlb || !s->w->tlb->elsewhere || s->w->tlb->elsewhere(s->w->tlb_arg, s));
	bool secondary_later = policy->batch_secondary && tdm_may_defer(TDM_INV_CLEAR, TDM_INV_NO_FRAME, true);

	if (!later)
		primary(s, va, va + TDM_PAGE_SIZE, TDM_PAGE_SHIFT);
	if (!secondary_later)
		secondary(s, va, va + TDM_PAGE_SIZE);
	if (later || secondary_later) {
		u32 i = place(b, s, va);

		b->of[i].start = TDM_MIN(b->of[i].start, va);
		b->of[i].end = TDM_MAX(b->of[i].end, va + TDM_PAGE_SIZE);
		b->of[i].pages++;
		b->of[i].primary |= later;
		b->of[i].secondary |= secondary_later;
		b->dirty |= dirty;
		tdm_a64_add_seqcst(&s->batched, 1);
		tdm_world_count(s->w, TDM_SC_DEFERRED, later);
		tdm_world_count(s->w, TDM_SC_SECONDARY_DEFERRED, secondary_later && tdm_a32_ld_relaxed(&s->notifiers.nshare));
	}
	return later || secondary_later;
}

void tdmi_batch_flush(struct tdm_tlb_batch *b)
{
	for (u32 i = 0; i < b->n; i++) {
		tdm_world_count(b->w, TDM_SC_FLUSHED_SPACES, 1);
		if (b->of[i].primary)
			primary(b->of[i].s, b->of[i].start, b->of[i].end, TDM_PAGE_SHIFT);
		if (b->of[i].secondary)
			secondary(b->of[i].s, b->of[i].start, b->of[i].end);
		b->of[i].primary = b->of[i].secondary = false;
		tdm_a64_sub_acqrel(&b->of[i].s->batched, b->of[i].pages);
	}
	b->n = 0;
	b->dirty = false;
}

void tdmi_batch_pending(struct tdm_space *s)
{
	if (!tdm_a64_ld_seqcst(&s->batched))
		return;
	tdm_world_count(s->w, TDM_SC_PENDING_FLUSHES, 1);
	tdmi_tlb_flush(s, 0, ~(u64)0, TDM_PAGE_SHIFT);
}
