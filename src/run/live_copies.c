/* SPDX-License-Identifier: MIT */
/*
 * live_copies.c - room for what is copied after a fork.
 *
 * The kernel makes the copies, as fast as memory is written, and tells nobody. So before a fork stores to a few pages here and there are made to wait (mm/cow.c), on both
 * sides: it costs some 60 us at most, and a program that execs has hardly met one. Whoever meets one writes about in what is shared. If there is more resident
 * than the process may have for itself, from then on every store to what was mapped waits, once a block of 64 KiB, until there is room for the block.
 *
 * What there is: what main has measured, and the blocks that have passed since. Too much, for not all of a block is written, and not all of it was
 * shared: main is asked to measure again when it matters. There is room if this process is within its share and all that share the budget are within it
 * (control.h): with a birth the others' shares get smaller at once, and what they have in a while. So whoever is within his share waits for them first. If that does
 * not help at once he makes room himself: he evicts what is the process's own, and main what is shared, too, which makes room only when all have evicted it.
 *
 * How long: as long as what is in use gets less, or something is evicted. If nothing of that happens for a while the store goes ahead: above the budget is better than not
 * at all. The next one waits for half as long, down to nothing, until somebody has found room: where none can be made at all a program is as fast as without a budget after a
 * dozen blocks, where it is only slow to come nobody gets far.
 *
 * A copy that somebody else makes of a page that was ours, too, makes our part of it larger: that is measured (live_shared.c).
 */
#include "base/check.h"
#include "run/live.h"

#define WATCHED 64u
#define WAIT_NS ((u64)128000000)
#define MOST 8u
#define OTHERS_NS ((u64)2000000)
#define NAP_NS ((u64)200000)
#define TAKEN ((u64)2 * TDM_BLOCK_PAGES)

void tdmi_live_copies_watch(struct tdm_live *l)
{
	tdm_a32_st_relaxed(&l->copies.all, 0);
	tdmi_cow_watch(l->ctx, WATCHED);
}

void tdmi_live_copies_measured(struct tdm_live *l)
{
	tdm_a64_st_relaxed(&l->copies.usage, l->usage);
	tdm_a64_st_relaxed(&l->copies.guessed, l->share.gone);
	tdm_a64_st_relaxed(&l->copies.passed, 0);
}

/* What has passed counts at once, for the others who share the budget, too. */
static void publish(struct tdm_live *l, u64 passed)
{
	struct tdm_control_slot *s = l->control && l->slot >= 0 ? &l->control->slot[l->slot] : NULL;

	if (s) {
		tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_GUESSED], tdm_a64_ld_relaxed(&l->copies.guessed) + passed);
		tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_USAGE], tdm_a64_ld_relaxed(&l->copies.usage) + passed);
	}
}

static u64 usage(const struct tdm_live *l)
{
	return tdm_a64_ld_relaxed(&l->copies.usage) + tdm_a64_ld_relaxed(&l->copies.passed);
}

/* What all of those use who share the budget. */
static u64 in_use(struct tdm_live *l)
{
	return l->control ? tdmi_control_usage(l->control) : usage(l);
}

static u64 share(const struct tdm_live *l)
{
	return l->control && l->slot >= 0 ? tdmi_control_share(l->control, (u32)l->slot) : tdm_a64_ld_relaxed(&l->mm.limit_bytes);
}

/* When a process is born the others' shares get smaller at once, and what they have in a while. */
static bool room(const struct tdm_live *l)
{
	return usage(l) <= share(l) && (!l->control || l->slot < 0 || tdmi_control_fits(l->control, (u32)l->slot, plat_now_ns()));
}

/* One more block. */
static void pass(struct tdm_live *l)
{
	publish(l, tdm_a64_add_relaxed(&l->copies.passed, TDM_BLOCK_SIZE) + TDM_BLOCK_SIZE);
}

/* Less has passed, as it were. */
static void freed(struct tdm_live *l, u64 bytes)
{
	u64 old = tdm_a64_ld_relaxed(&l->copies.passed);

	if (!bytes)
		return;
	while (!tdm_a64_cas_acqrel(&l->copies.passed, &old, old - TDM_MIN(old, bytes)))
		;
	publish(l, old - TDM_MIN(old, bytes));
}

/* Pages, by main. */
static u64 evicted(const struct tdm_live *l)
{
	return tdm_a64_ld_relaxed(&l->ctx->count[TDM_C_EVICTED_PAGES]);
}

static void make_room(struct tdm_live *l, struct tdm_ctx *ctx)
{
	u64 start = plat_now_ns(), patience = WAIT_NS >> TDM_MIN(tdm_a32_ld_relaxed(&l->copies.futile), 31u), by = start + patience, least = in_use(l);
	u64 before = evicted(l);
	tdm_a32 nobody = { 0 };
	bool is;

	tdm_count(ctx, TDM_C_STALLS, 1);
	if (ctx->on_slow)
		ctx->on_slow(ctx, true);
	while (!(is = room(l)) && plat_now_ns() < by && !tdm_a32_ld_relaxed(&l->mm.gate)) {
		bool others = usage(l) <= share(l) && plat_now_ns() < start + OTHERS_NS;
		u64 pages = others ? 0 : tdmi_reclaim(ctx, 1, TAKEN), now;

		freed(l, pages << TDM_PAGE_SHIFT);
		tdm_a32_st_relaxed(&l->copies.wanted, !others && !pages);
		tdmi_live_nudge(l);
		if (!pages)
			plat_wait(&nobody, 0, NAP_NS);
		now = in_use(l);
		if (pages || now + TDM_BLOCK_SIZE <= least || evicted(l) != before) {
			least = TDM_MIN(now, least);
			before = evicted(l);
			by = TDM_MIN(plat_now_ns() + patience, start + MOST * patience);
		}
	}
	if (is)
		tdm_a32_st_relaxed(&l->copies.futile, 0);
	else if (plat_now_ns() >= by)
		tdm_a32_add_relaxed(&l->copies.futile, 1);
	if (ctx->on_slow)
		ctx->on_slow(ctx, false);
	tdm_count(ctx, TDM_C_STALL_NS, plat_now_ns() - start);
}

void tdmi_live_copy(struct tdm_live *l, struct tdm_ctx *ctx, u64 va)
{
	if (tdmi_live_resident(l) > tdm_a64_ld_relaxed(&l->mm.limit_bytes)) {
		if (!tdm_a32_xchg_acqrel(&l->copies.all, 1))
			tdmi_cow_watch_all(ctx);
		pass(l);
		if (!room(l))
			make_room(l, ctx);
	}
	while (tdmi_cow_pass(ctx, va) == -EAGAIN) {
		plat_mutex_lock(&l->mm.event_lock);
		l->host.port.ops->drain(&l->host.port, ctx);
		plat_mutex_unlock(&l->mm.event_lock);
		plat_yield();
	}
}
