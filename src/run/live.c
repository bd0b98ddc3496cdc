/* SPDX-License-Identifier: MIT */
/*
 * live.c - the main thread of the engine in a live process: watch, make room, carry out requests.
 *
 * How often it looks: the program can touch fresh memory at some 4 GB/s before the engine knows of it, so the time until the next look is what it
 * would take to use the room that is left. Memory that the engine knows of cannot grow without a fault that a handler serves, and a handler
 * makes room itself if need be.
 */
#include "run/live.h"
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include "base/check.h"
#include "base/fmt.h"
#include "plat/linux/sys.h"

#define NS_PER_MS ((u64)1000000)
#define BYTES_PER_NS 4 /* the fastest that memory is touched */
#define KEPT_SHARE 8 /* of the budget, for blobs of pages that are in memory: what a third of it packs to */
#define SCRATCH_BYTES ((u64)512 << 10)
#define FILE_BYTES ((u64)2 << 20)
#define WANTED_BYTES ((u64)256 << 10)
#define SLEEP_MIN (NS_PER_MS / 4)
#define SLEEP_MAX (100 * NS_PER_MS)
#define RECYCLE_NS (100 * NS_PER_MS)
#define RECYCLE_QUIET 10u /* looks */

struct tdm_live *tdmi_live;

/* ---- the budget -------------------------------------------------------------------------------------------------- */

static u64 limit_now(struct tdm_live *l)
{
	if (l->control && l->slot >= 0)
		return tdmi_control_share(l->control, (u32)l->slot);
	return l->budget ? l->budget : ~(u64)0;
}

/* What of it may be taken now. */
static u64 grant_now(const struct tdm_live *l)
{
	if (l->control && l->slot >= 0)
		return tdmi_control_grant(l->control, (u32)l->slot, plat_now_ns());
	return l->limit;
}

/* Room that is kept free between looks. */
static u64 reserve(u64 limit)
{
	return TDM_MIN(TDM_MAX(limit / 50, (u64)1 << 20), (u64)16 << 20);
}

static u64 headroom(const struct tdm_live *l, u64 at)
{
	return at > l->usage ? at - l->usage : 0;
}

/* From here on there is something to do. */
static u64 engage_at(u64 limit)
{
	return limit == ~(u64)0 ? limit : limit - limit / 5;
}

/* Blocks that may be kept for reuse: enough for what is brought and taken between two looks. */
static u32 warm_base(const struct tdm_live *l)
{
	u64 n = TDM_MIN(l->limit / 64 / TDM_BLOCK_SIZE, (u64)128);

	return l->no_recycle ? 0 : (u32)TDM_MAX(n, (u64)4);
}

/* And for what comes back from devices: if there is room that nobody else has a use for. */
static u32 warm_blocks(const struct tdm_live *l)
{
	u64 high = l->limit - reserve(l->limit), room = l->limit == ~(u64)0 ? l->limit : high - TDM_MIN(high, l->usage);
	u32 base = warm_base(l);

	return base ? (u32)TDM_MAX(base, TDM_MIN(room / TDM_BLOCK_SIZE + tdmi_frames_warm(&l->mm.frames), l->recycle)) : 0;
}

/* Give back what is kept beyond `most` blocks, at most so many bytes of it. */
static void keep_less(struct tdm_live *l, u32 most, u64 bytes)
{
	if (tdmi_frames_warm(&l->mm.frames) <= most || !tdmi_mm_enter(l->ctx))
		return;
	for (u64 freed = 0; freed < bytes && tdmi_frames_warm(&l->mm.frames) > most && tdm_a32_ld_relaxed(&l->req.state) != 1;)
		freed += (u64)tdmi_trim(l->ctx) << TDM_PAGE_SHIFT;
	tdmi_mm_exit(l->ctx);
}

/*
 * What goes to a device leaves its physical pages behind, and mostly comes back soon: kept, they save the kernel the work of taking pages back and giving
 * them out again, which is as much as that of copying. As long as pages come and go there may be as many as devices hold; from then on it gets less. They go
 * and come with the steps of some computation, and between two of these nothing moves: that must not be taken for the end.
 */
static void recycle(struct tdm_live *l)
{
	u64 moved, frames, now = plat_now_ns();

	if (now < l->recycle_next_ns)
		return;
	l->recycle_next_ns = now + RECYCLE_NS;
	frames = tdmi_live_device_frames(l, &moved);
	l->recycle_quiet = moved == l->migrated ? l->recycle_quiet + 1 : 0;
	if (!l->recycle_quiet)
		l->recycle = frames / TDM_BLOCK_PAGES;
	else if (l->recycle_quiet > RECYCLE_QUIET)
		l->recycle -= TDM_MIN(l->recycle, l->recycle / 8 + 1);
	l->migrated = moved;
	keep_less(l, warm_blocks(l) + warm_base(l), ~(u64)0);
}

/* What the engine has yet to take when it evicts: scratch memory of codecs, buffers for what goes to a file. */
static u64 ahead(const struct tdm_live *l)
{
	u64 most = SCRATCH_BYTES, has;

	if (tdm_a32_ld_relaxed(&l->state) != TDM_LIVE_ENGAGED)
		return 0;
	has = tdmi_swap_mem_bytes(l->swap);
	for (u32 i = 0; i < l->ntiers; i++) {
		struct tdm_tier *t = tdmi_swap_tier(l->swap, i);
		struct tdm_tier_stats ts;

		if (!t || t->in_memory)
			continue;
		t->ops->stats(t, &ts);
		has = ts.mem_bytes;
		most = SCRATCH_BYTES + FILE_BYTES;
	}
	return most - TDM_MIN(has, most);
}

void tdmi_live_weigh(struct tdm_live *l)
{
	l->usage = tdmi_live_rss(l);
	l->usage -= TDM_MIN(l->usage, tdmi_live_device_bytes(l));
	l->peak = TDM_MAX(l->peak, l->usage - TDM_MIN(l->usage, l->share.gone));
	if (l->control && l->slot >= 0) {
		struct tdm_control_slot *s = &l->control->slot[l->slot];

		tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_GUESSED], l->share.gone);
		tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_USAGE], l->usage);
		tdm_a64_st_relaxed(&s->ahead, ahead(l));
		tdm_a64_st_relaxed(&s->looked_ns, plat_now_ns());
	}
}

/* Measure; tell the engine what it cannot know itself. */
static void measure(struct tdm_live *l)
{
	l->limit = limit_now(l);
	tdmi_live_weigh(l);
	if (tdm_a32_ld_relaxed(&l->state) != TDM_LIVE_ENGAGED) {
		tdmi_live_mapped_watch(l, l->usage, engage_at(l->limit));
		tdm_a64_st_relaxed(&l->fork_most, engage_at(l->limit) / 2);
	} else {
		u64 tracked = tdmi_mm_tracked(&l->mm);

		tdmi_frames_warm_limit(&l->mm.frames, warm_blocks(l));
		tdmi_swap_bypass(l->swap, tdmi_live_shared_mostly(l));
		tdmi_swap_keep_limit(l->swap, l->limit == ~(u64)0 ? 0 : l->limit / KEPT_SHARE);
		tdm_a64_st_relaxed(&l->mm.other_bytes, l->usage > tracked ? l->usage - tracked : 0);
		tdm_a64_st_relaxed(&l->mm.limit_bytes, grant_now(l));
		tdm_a64_st_relaxed(&l->mm.high_bytes, l->limit == ~(u64)0 ? l->limit : l->limit - reserve(l->limit));
		tdmi_live_mapped_manage(l, reserve(l->limit) + headroom(l, l->limit - reserve(l->limit)) / 4);
		tdmi_live_copies_measured(l);
		tdmi_live_look_by(l, 0);
	}
}

static void warn_full(struct tdm_live *l)
{
	if (l->strict)
		plat_abort("tandem: every tier is full and --strict was given: the program is ended\n");
	if (!l->warned_full)
		plat_log("every tier is full: the program goes on above its budget; give it a larger tier (--tier) or more memory (--ram)");
	l->warned_full = true;
}

static void warn_over(struct tdm_live *l)
{
	char line[200], have[24], may[24];

	if (l->warned_over || l->usage < l->limit + l->limit / 8 + ((u64)2 << 20))
		return;
	if (!l->over_since_ns)
		l->over_since_ns = plat_now_ns();
	if (plat_now_ns() - l->over_since_ns < 2000 * NS_PER_MS)
		return;
	tdmi_fmt_size(have, sizeof(have), l->usage);
	tdmi_fmt_size(may, sizeof(may), l->limit);
	tdmi_fmt(line, sizeof(line), "%s are in use that cannot be moved, of %s allowed: this program needs a larger --ram", have, may);
	plat_log(line);
	l->warned_over = true;
}

/* Memory tiers must not squeeze out what they are there to make room for: beyond their share of what the limit leaves for both (a program's text counts,
 * too: 25 MiB of a C compiler's 100) the coldest blobs go on, if there is a tier below. A share of a quarter to five eighths made no difference to a program that goes through all of its memory (scripts/byfile.py in a
 * quarter of it), three quarters cost half as much again; five eighths hold twice the limit without a tier below if it packs 3:1. */
static void demote(struct tdm_live *l)
{
	u64 pool = tdmi_swap_mem_bytes(l->swap), other = tdm_a64_ld_relaxed(&l->mm.other_bytes);
	u64 most = (l->limit - TDM_MIN(other, l->limit)) / 8 * 5;

	/* What is kept has a limit of its own. */
	pool -= TDM_MIN(pool, tdmi_swap_kept(l->swap));
	if (l->ntiers > 1 && l->limit != ~(u64)0 && pool > most)
		tdmi_swap_demote(l->swap, l->ctx->ws, TDM_MIN(pool - most + ((u64)1 << 20), (u64)8 << 20));
}

/* Is there memory that was not there when memory was last looked for? */
static bool grown(const struct tdm_live *l)
{
	return tdm_a64_ld_relaxed(&l->mm.other_bytes) > l->other_seen + TDM_MIN(l->limit / 64, (u64)1 << 20);
}

/* Look for it. */
static void find(struct tdm_live *l)
{
	(void)tdmi_live_mapped_ahead(l, l->usage);
	tdmi_live_find(l);
	measure(l);
	l->other_seen = tdm_a64_ld_relaxed(&l->mm.other_bytes);
}

/* asked: whoever has asked for something waits for this. */
static void make_room(struct tdm_live *l, bool asked)
{
	u64 high = tdm_a64_ld_relaxed(&l->mm.high_bytes), target = high - TDM_MIN(high, reserve(l->limit) / 2);
	u64 rounds = 0;

	if (l->usage <= l->limit)
		l->over_since_ns = 0;
	/* What is only kept goes first. */
	if (l->usage > high && tdmi_frames_warm(&l->mm.frames) > 2 * warm_base(l)) {
		keep_less(l, warm_base(l), l->usage - high);
		measure(l);
	}
	while ((l->usage > high || tdm_a32_ld_relaxed(&l->copies.wanted)) && (asked || tdm_a32_ld_relaxed(&l->req.state) != 1) &&
	       rounds++ < (asked ? 4 : 256)) {
		u64 freed, want = target;

		if (tdm_a32_xchg_acqrel(&l->copies.wanted, 0))
			want = TDM_MIN(want, tdmi_mm_usage(&l->mm) - TDM_MIN(tdmi_mm_usage(&l->mm), WANTED_BYTES));
		if (!tdmi_mm_enter(l->ctx))
			return;
		demote(l);
		tdmi_swap_tidy(l->swap, l->ctx->ws, (u64)1 << 20);
		/* Those who serve faults go on as long as there is a warm folio. */
		for (u64 over = l->usage; over > l->limit && tdmi_frames_warm(&l->mm.frames);)
			over -= TDM_MIN(over, (u64)tdmi_trim(l->ctx) << TDM_PAGE_SHIFT);
		freed = tdmi_reclaim(l->ctx, want, l->share.anon ? 64 : 256);
		if (!freed)
			(void)tdmi_trim(l->ctx);
		tdmi_mm_exit(l->ctx);
		measure(l);
		/* New memory is nobody's to take before it has been found, and nobody waits who touches it. */
		if (grown(l))
			find(l);
		if (!freed && l->usage > high) {
			if (tdm_a32_ld_relaxed(&l->mm.full))
				warn_full(l);
			else
				warn_over(l);
			return;
		}
	}
}

/* ---- a look ------------------------------------------------------------------------------------------------------- */

static void try_engage(struct tdm_live *l)
{
	char err[240] = "", line[300];
	u32 expected = TDM_LIVE_WATCHING;
	int r;

	if (!tdm_a32_cas_acqrel(&l->state, &expected, TDM_LIVE_ENGAGING))
		return; /* a fork is going on: at the next look */
	r = tdmi_live_engage(l, err, sizeof(err));
	tdm_a32_st_release(&l->state, r ? TDM_LIVE_FAILED : TDM_LIVE_ENGAGED);
	if (r) {
		tdmi_fmt(line, sizeof(line), "cannot be managed and runs without a budget: %s (error %d)", err, -r);
		plat_log(line);
		if (l->control)
			tdm_a64_add_relaxed(&l->control->unmanaged, 1);
	} else if (l->control && l->slot >= 0) {
		tdm_a32_st_relaxed(&l->control->slot[l->slot].managed, 1);
	}
}

/* Measure, and see to it that what there is is managed, if it is time for that. new: there is more than has been measured. The state. */
static u32 notice(struct tdm_live *l, bool new)
{
	measure(l);
	if (tdm_a32_ld_acquire(&l->state) == TDM_LIVE_WATCHING && tdmi_live_mapped_ahead(l, l->usage) > engage_at(l->limit)) {
		try_engage(l);
		measure(l);
		new = true;
	}
	if (tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED && (new || (l->usage > engage_at(l->limit) && (grown(l) || l->usage > l->limit))))
		find(l);
	return tdm_a32_ld_acquire(&l->state);
}

/* One look at things. The time until the next one, in ns. */
static u64 tick(struct tdm_live *l)
{
	u64 before = l->usage, room, ns;
	u32 state = notice(l, false);

	if (state == TDM_LIVE_ENGAGED) {
		l->other_seen = TDM_MIN(l->other_seen, tdm_a64_ld_relaxed(&l->mm.other_bytes));
		tdmi_live_note_threads(l);
		recycle(l);
		make_room(l, false);
		tdmi_rcu_poll(&l->mm.rcu);
	}
	if (plat_now_ns() - l->published_ns > 50 * NS_PER_MS)
		tdmi_live_publish(l);
	if (l->limit == ~(u64)0 || state == TDM_LIVE_FAILED)
		return SLEEP_MAX;
	room = headroom(l, state == TDM_LIVE_ENGAGED ? l->limit - reserve(l->limit) : engage_at(l->limit));
	ns = room / BYTES_PER_NS;
	l->quiet = l->usage == before ? l->quiet + 1 : 0;
	/* Nothing has moved for a while: look less often, up to 4 ms. */
	ns = TDM_MAX(ns, SLEEP_MIN << TDM_MIN(l->quiet / 4, (u64)4));
	ns = TDM_MIN(ns, SLEEP_MAX);
	if (state == TDM_LIVE_ENGAGED)
		tdmi_live_look_by(l, ns);
	return ns;
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

static int do_range(struct tdm_live *l, enum tdm_live_op op, u64 start, u64 end, u64 *out)
{
	int r = 0;

	if (tdm_a32_ld_acquire(&l->state) != TDM_LIVE_ENGAGED)
		return -EINVAL;
	tdmi_live_find(l);
	while (!tdmi_mm_enter(l->ctx))
		plat_yield();
	if (op == TDM_OP_OUT)
		r = tdmi_range_out(l->ctx, start, end, out);
	else if (op == TDM_OP_HOME)
		r = tdmi_range_home(l->ctx, start, end, out);
	else
		r = tdmi_bring(l->ctx, start, end);
	tdmi_mm_exit(l->ctx);
	return r;
}

/* Somebody has come to [start, end): read on, until his predecessors are known to have gone. */
static void settle(struct tdm_live *l, u64 start, u64 end)
{
	u64 by = plat_now_ns() + 50 * NS_PER_MS;

	if (!tdmi_mm_enter(l->ctx))
		return;
	for (bool awaited = true; awaited && plat_now_ns() < by;) {
		plat_mutex_lock(&l->mm.event_lock);
		tdmi_host_drain(&l->host.port, l->ctx);
		awaited = tdmi_host_awaited(&l->host, start, end);
		plat_mutex_unlock(&l->mm.event_lock);
		if (awaited)
			plat_yield();
	}
	tdmi_mm_exit(l->ctx);
}

static void serve_request(struct tdm_live *l)
{
	struct tdm_request *q = &l->req;
	bool stop = q->op == TDM_OP_STOP;

	q->result = 0;
	switch (q->op) {
	case TDM_OP_ENGAGE:
		q->result = tdmi_live_engage(l, q->err, sizeof(q->err));
		if (!q->result)
			tdm_a32_st_release(&l->state, TDM_LIVE_ENGAGED);
		measure(l);
		break;
	case TDM_OP_STOP:
		q->result = tdm_a32_ld_relaxed(&l->ndevices) ? -EBUSY :
			    tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED ? tdmi_live_disengage(l) : 0;
		stop = q->result == 0;
		break;
	case TDM_OP_STATS:
		measure(l);
		tdmi_live_stats(l, &q->stats);
		break;
	case TDM_OP_BUDGET:
		l->budget = q->a;
		break;
	case TDM_OP_EXCLUDE:
		q->result = tdmi_live_exclude(l, q->a, q->b);
		break;
	case TDM_OP_NO_RECYCLE:
		l->no_recycle = true;
		break;
	case TDM_OP_LOCK_ALL:
		q->result = tdmi_live_lock_all((unsigned)q->a);
		break;
	case TDM_OP_FIND:
		if (tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED)
			tdmi_live_find(l);
		break;
	case TDM_OP_VMA:
		q->result = tdmi_live_vma(l, q->a, &q->out);
		break;
	case TDM_OP_MAPPED:
		if (notice(l, true) == TDM_LIVE_ENGAGED && l->usage > l->limit)
			make_room(l, true);
		tdmi_live_mapped_found(l);
		break;
	case TDM_OP_SETTLE:
		if (tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED)
			settle(l, q->a, q->b);
		break;
	case TDM_OP_CALL:
		q->result = ((tdm_live_call *)(uintptr_t)q->a)(l, (void *)(uintptr_t)q->b);
		break;
	case TDM_OP_PUBLISH:
		measure(l);
		tdmi_live_publish(l);
		break;
	case TDM_OP_FORK_AHEAD:
		if (notice(l, false) == TDM_LIVE_WATCHING && l->usage > tdm_a64_ld_relaxed(&l->fork_most)) {
			try_engage(l);
			(void)notice(l, true);
		}
		break;
	case TDM_OP_FORK_PREPARE:
		tdmi_live_fork_serve(l); /* answers the request itself, twice */
		return;
	case TDM_OP_FORK_PARENT:
		break; /* the fork was over before it began */
	default:
		q->result = do_range(l, q->op, q->a, q->b, &q->out);
		break;
	}
	tdm_a32_st_release(&q->state, 2);
	plat_wake(&q->state, 1);
	if (stop)
		tdm_a32_st_release(&l->stop, 2);
}

void tdmi_live_main(void *arg)
{
	struct tdm_live *l = arg;

	l->statm = -1;
	if (!tdm_a32_ld_acquire(&l->started)) {
		int r = tdmi_live_note_before(l);

		tdm_a32_st_release(&l->started, r ? 2 : 1);
		plat_wake(&l->started, 1);
		if (r)
			return;
	} else {
		tdmi_live_child_takeover(l);
	}
	while (tdm_a32_ld_acquire(&l->stop) != 2) {
		/* Whoever asks from here on is heard by the wait. */
		(void)tdm_a32_xchg_acqrel(&l->wake, 0);
		if (tdm_a32_ld_acquire(&l->req.state) == 1)
			serve_request(l);
		else
			plat_wait(&l->wake, 0, tick(l));
	}
}

void tdmi_live_nudge(struct tdm_live *l)
{
	/* The exchange also orders what was asked before it. */
	if (!tdm_a32_xchg_acqrel(&l->wake, 1))
		plat_wake(&l->wake, 1);
}

/* ---- the program's side --------------------------------------------------------------------------------------------- */

int tdmi_live_request_locked(struct tdm_live *l, enum tdm_live_op op, u64 a, u64 b, u64 *out)
{
	struct tdm_request *q = &l->req;

	q->op = op;
	q->a = a;
	q->b = b;
	q->out = 0;
	tdm_a32_st_release(&q->state, 1);
	tdmi_live_nudge(l);
	while (tdm_a32_ld_acquire(&q->state) == 1)
		plat_wait(&q->state, 1, ~(u64)0);
	tdm_a32_st_relaxed(&q->state, 0);
	if (out)
		*out = q->out;
	return q->result;
}

void tdmi_live_request_begin(struct tdm_live *l, u64 *signals)
{
	u64 all = ~(u64)0;

	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, signals, 8);
	plat_mutex_lock(&l->req_lock);
}

void tdmi_live_request_end(struct tdm_live *l, const u64 *signals)
{
	plat_mutex_unlock(&l->req_lock);
	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, signals, NULL, 8);
}

int tdmi_live_request(struct tdm_live *l, enum tdm_live_op op, u64 a, u64 b, u64 *out)
{
	u64 signals;
	int r;

	tdmi_live_request_begin(l, &signals);
	r = tdmi_live_request_locked(l, op, a, b, out);
	tdmi_live_request_end(l, &signals);
	return r;
}

int tdmi_live_call(struct tdm_live *l, tdm_live_call *fn, void *arg)
{
	return tdmi_live_request(l, TDM_OP_CALL, (u64)(uintptr_t)fn, (u64)(uintptr_t)arg, NULL);
}

static void live_free(struct tdm_live *l)
{
	tdmi_live = NULL;
	plat_unmap(l, sizeof(*l));
	tdmi_linux_mem_release();
}

int tdmi_live_start(const struct tdm_live_config *c, char *err, size_t errlen)
{
	struct tdm_live *l = plat_map(sizeof(*l));
	int r;

	if (!l) {
		tdmi_fmt(err, errlen, "no address space for the engine: raise the limit (ulimit -v)");
		return -ENOMEM;
	}
	l->budget = c->budget;
	l->strict = c->strict;
	l->interposed = c->interposed;
	l->ntiers = c->ntiers;
	for (u32 i = 0; i < c->ntiers; i++)
		strncpy(l->tier[i], c->tier[i], sizeof(l->tier[i]) - 1);
	l->control = c->control;
	l->slot = -1;
	tdmi_live_mapped_child(l);
	l->pid = (u32)tdm_sys0(SYS_getpid);
	if (c->control) {
		char comm[16] = "";

		tdm_sys5(SYS_prctl, 16 /* PR_GET_NAME */, comm, 0, 0, 0);
		l->slot = tdmi_control_claim(c->control, l->pid, 0, comm);
	}
	tdmi_live = l;
	r = tdmi_linux_thread_start_private(&l->main, tdmi_live_main, l, "tandem", -1);
	if (r) {
		tdmi_fmt(err, errlen, "no thread for the engine could be started (error %d)", -r);
		live_free(l);
		return r;
	}
	while (!tdm_a32_ld_acquire(&l->started))
		plat_wait(&l->started, 0, ~(u64)0);
	if (tdm_a32_ld_acquire(&l->started) == 2) {
		tdmi_fmt(err, errlen, "what the process has mapped cannot be seen in /proc/self/maps");
		plat_thread_join(l->main);
		live_free(l);
		return -EIO;
	}
	if (c->eager) {
		r = tdmi_live_request(l, TDM_OP_ENGAGE, 0, 0, NULL);
		if (r) {
			tdmi_fmt(err, errlen, "%s", l->req.err);
			(void)tdmi_live_stop(l, NULL, 0);
		}
	}
	return r;
}

int tdmi_live_stop(struct tdm_live *l, char *err, size_t errlen)
{
	int r = tdmi_live_request(l, TDM_OP_STOP, 0, 0, NULL);

	if (r) {
		tdmi_fmt(err, errlen, "not everything could be brought back (error %d)", -r);
		return r;
	}
	plat_thread_join(l->main);
	live_free(l);
	return 0;
}
