/* SPDX-License-Identifier: MIT */
/*
 * live_mapped.c - memory that the program has asked for and not used yet.
 *
 * A new mapping is filled at some 4 GB/s by a thread that waits for nobody, until main has found it; and main may not get the CPU for many milliseconds. So
 * libc's mmap(), brk() and sbrk(), which are interposed, count what they give away, and before there is more of it than there is room its caller waits until main has looked:
 * the engine is started before such memory is filled, or the memory is found, and its first touches are faults from then on, for which room is made.
 *
 * `live` is what there is of such mappings, `fresh` those since main's last look. While the program is only watched the engine is started when all of them together
 * would not fit if they were used, or the latest would not fit on top of what is in use; while it is managed `fresh` must not get larger than the room that is kept
 * between looks, and a part of what there is besides.
 *
 * Who writes what: `live` and `fresh` the program's threads, and main, which takes `fresh` to 0 before it looks for memory (what is mapped while it looks is
 * counted again: one look too many); all else main.
 *
 * A caller may hold any lock of the program's, an allocator's say, and the thread that forks may want that one while it has the lock for requests. So nobody
 * sleeps on that lock: it is tried, and who finds a fork under way goes on. Main needs no lock of the program's to look.
 *
 * Not seen: what libc maps for itself (malloc, stacks), bare system calls, memory that is made writable later. Not counted, for it is commonly
 * asked for and never used: MAP_NORESERVE. For all of these there are main's looks (live.c), and whoever serves a fault while main is late.
 */
#include <signal.h>
#include "plat/linux/sys.h"
#include "run/live.h"

#define NAP_NS ((u64)1000000)

/* What was never counted may go, too. */
static void take(tdm_a64 *n, u64 bytes)
{
	u64 old = tdm_a64_ld_relaxed(n);

	while (!tdm_a64_cas_acqrel(n, &old, old - TDM_MIN(old, bytes)))
		;
}

/* Is there more than may be filled before main looks? Not while a fork is under way that was announced to nobody but the state word. */
static bool too_much(struct tdm_live *l)
{
	u32 state = tdm_a32_ld_acquire(&l->state);

	return state != TDM_LIVE_FAILED && state != TDM_LIVE_FORKING &&
	       (tdm_a64_ld_relaxed(&l->mapped.live) > tdm_a64_ld_relaxed(&l->mapped.most_live) ||
		tdm_a64_ld_relaxed(&l->mapped.fresh) > tdm_a64_ld_relaxed(&l->mapped.most_fresh));
}

static bool try_request(struct tdm_live *l)
{
	u64 all = ~(u64)0, signals;
	bool mine;

	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &signals, 8);
	mine = plat_mutex_trylock(&l->req_lock);
	if (mine) {
		(void)tdmi_live_request_locked(l, TDM_OP_MAPPED, 0, 0, NULL);
		plat_mutex_unlock(&l->req_lock);
	}
	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &signals, NULL, 8);
	return mine;
}

void tdmi_live_mapped(struct tdm_live *l, u64 len)
{
	bool done = false;

	tdm_a64_add_relaxed(&l->mapped.live, len);
	tdm_a64_add_relaxed(&l->mapped.fresh, len);
	/* The child of a bare fork has nobody to ask. */
	if (!too_much(l) || l->pid != (u32)tdm_sys0(SYS_getpid))
		return;
	while (!done && too_much(l) && !tdm_a32_ld_acquire(&l->forking)) {
		u32 looks = tdm_a32_ld_acquire(&l->mapped.looks);

		done = try_request(l);
		/* Somebody else has asked for something: after that, again. */
		if (!done)
			plat_wait(&l->mapped.looks, looks, NAP_NS);
	}
}

void tdmi_live_unmapped(struct tdm_live *l, u64 len)
{
	take(&l->mapped.live, len);
	/* Later what goes may be what is out, which makes no room. */
	if (tdm_a32_ld_relaxed(&l->state) == TDM_LIVE_WATCHING)
		take(&l->mapped.fresh, len);
}

u64 tdmi_live_mapped_ahead(struct tdm_live *l, u64 usage)
{
	u64 live = tdm_a64_ld_relaxed(&l->mapped.live), fresh = tdm_a64_xchg_acqrel(&l->mapped.fresh, 0);

	if (!l->mapped.start)
		l->mapped.start = usage;
	return TDM_MAX(l->mapped.start + live, usage + fresh);
}

void tdmi_live_mapped_watch(struct tdm_live *l, u64 usage, u64 most)
{
	tdm_a64_st_relaxed(&l->mapped.most_live, most - TDM_MIN(most, l->mapped.start));
	tdm_a64_st_relaxed(&l->mapped.most_fresh, most - TDM_MIN(most, usage));
}

void tdmi_live_mapped_manage(struct tdm_live *l, u64 most)
{
	tdm_a64_st_relaxed(&l->mapped.most_live, ~(u64)0);
	tdm_a64_st_relaxed(&l->mapped.most_fresh, most);
}

void tdmi_live_mapped_found(struct tdm_live *l)
{
	tdm_a32_add_acqrel(&l->mapped.looks, 1);
	plat_wake(&l->mapped.looks, ~(u32)0 >> 1);
}

void tdmi_live_mapped_child(struct tdm_live *l)
{
	tdm_a64_st_relaxed(&l->mapped.live, 0);
	tdm_a64_st_relaxed(&l->mapped.fresh, 0);
	tdmi_live_mapped_manage(l, ~(u64)0);
	l->mapped.start = 0;
}
