/* SPDX-License-Identifier: MIT */
/*
 * live_copies.c - room for what is copied after a fork.
 *
 * The kernel makes the copies, as fast as memory is written, and tells nobody. So before a fork stores to a few pages here and there are made to wait (mm/cow.c), on both
 * sides: it costs some 60 us at most, and a program that execs has hardly met one. Whoever meets one writes about in what is shared. If there is more resident
 * than the process may have for itself, from then on every store to what was mapped waits, once a block of 64 KiB, until there is room for the block.
 *
 * What there is: what main has measured, and the blocks that have passed since. Too much, for not all of a block is written, and not all of it was
 * shared: main is asked to measure again when it matters. Room is made by evicting what is the process's own; to evict what is shared makes no room, and is
 * left to main, for whom a store waits, as long as what is in use gets less. If it does not, it goes ahead, and others wait a millisecond only, for some time: above the budget is better than not at all.
 *
 * A copy that somebody else makes of a page that was ours, too, makes our part of it larger: that is measured (live_shared.c).
 */
#include "base/check.h"
#include "run/live.h"

#define WATCHED 64u
#define WAIT_NS ((u64)20000000)
#define FUTILE_NS ((u64)100000000)
#define FUTILE_WAIT_NS ((u64)1000000)
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

/* Within what this process may have. */
static bool within(struct tdm_live *l)
{
	return tdm_a64_ld_relaxed(&l->copies.usage) + tdm_a64_ld_relaxed(&l->copies.passed) <= tdm_a64_ld_relaxed(&l->mm.limit_bytes);
}

/* What all of those use who share the budget. */
static u64 in_use(struct tdm_live *l)
{
	return l->control ? tdmi_control_usage(l->control) : tdm_a64_ld_relaxed(&l->copies.usage);
}

/* And is that there? When a process is born the others' shares get smaller at once, and what they have in a while. */
static bool room(struct tdm_live *l)
{
	return within(l) && (!l->control || in_use(l) <= l->control->budget);
}

/* One more block. The others who share the budget see it at once. */
static void pass(struct tdm_live *l)
{
	u64 passed = tdm_a64_add_relaxed(&l->copies.passed, TDM_BLOCK_SIZE) + TDM_BLOCK_SIZE;
	struct tdm_control_slot *s = l->control && l->slot >= 0 ? &l->control->slot[l->slot] : NULL;

	if (s) {
		tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_GUESSED], tdm_a64_ld_relaxed(&l->copies.guessed) + passed);
		tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_USAGE], tdm_a64_ld_relaxed(&l->copies.usage) + passed);
	}
}

/* Less has passed, as it were. */
static void freed(struct tdm_live *l, u64 bytes)
{
	u64 old = tdm_a64_ld_relaxed(&l->copies.passed);

	while (!tdm_a64_cas_acqrel(&l->copies.passed, &old, old - TDM_MIN(old, bytes)))
		;
}

static void make_room(struct tdm_live *l, struct tdm_ctx *ctx)
{
	u64 start = plat_now_ns(), by = start + (start < tdm_a64_ld_relaxed(&l->copies.futile_until) ? FUTILE_WAIT_NS : WAIT_NS), least = in_use(l);
	tdm_a32 nobody = { 0 };

	tdm_count(ctx, TDM_C_STALLS, 1);
	if (ctx->on_slow)
		ctx->on_slow(ctx, true);
	while (!room(l) && plat_now_ns() < by && !tdm_a32_ld_relaxed(&l->mm.gate)) {
		u64 pages = within(l) ? 0 : tdmi_reclaim(ctx, 1, TAKEN);

		freed(l, pages << TDM_PAGE_SHIFT);
		tdmi_live_nudge(l);
		if (!pages)
			plat_wait(&nobody, 0, NAP_NS);
		if (in_use(l) + TDM_BLOCK_SIZE <= least) {
			least = in_use(l);
			by = plat_now_ns() + WAIT_NS;
		}
	}
	if (!room(l))
		tdm_a64_st_relaxed(&l->copies.futile_until, plat_now_ns() + FUTILE_NS);
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
