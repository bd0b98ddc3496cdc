/* SPDX-License-Identifier: MIT */
/*
 * events_engine.h - the engine over the model: what its threads do, one step at a time, and a fork, of which the child goes on in a process of its own. See
 * test_events.c.
 */
#ifndef TDM_TESTS_EVENTS_ENGINE_H
#define TDM_TESTS_EVENTS_ENGINE_H

#include <sys/wait.h>
#include <unistd.h>
#include "events_kernel.h"
#include "plat/sim.h"
#include "pool/codec.h"

/* ---- the engine's steps -------------------------------------------------------------------------------------------------- */

static bool serve(void)
{
	struct tdm_host_fault f;
	bool got;

	plat_mutex_lock(&live.mm.event_lock);
	got = tdmi_host_read(&live.host, live.ctx, &f);
	plat_mutex_unlock(&live.mm.event_lock);
	if (got)
		tdmi_fault(live.ctx, (struct tdm_va){ f.va }, f.write);
	return got;
}

/* Main carries out requests. */
static void serve_requests(void)
{
	for (u32 i = 0; i < THREADS; i++) {
		struct thread *t = &thread[i];

		if (t->state != SETTLING)
			continue;
		plat_mutex_lock(&live.mm.event_lock);
		tdmi_host_drain(&live.host.port, live.ctx);
		if (!tdmi_host_awaited(&live.host, va_of(t->kept.first), va_of(t->kept.first + t->kept.n))) {
			t->kept.n = 0;
			t->state = RUNNING;
		}
		plat_mutex_unlock(&live.mm.event_lock);
	}
}

static void come_to_rest(void);
static void look_at_everything(void);
static void run_steps(u32 steps);

static void take_over(void);

/* In a process of its own: what the engine knows is what it knew when it stopped, as in a real child. */
static void live_as_child(void)
{
	take_over();
	look_at_everything();
	run_steps(300);
	look_at_everything();
	_exit(0);
}

static void take_over(void)
{
	struct tdm_birth *b = birth_of(CHILD);
	u32 n = live.frozen.n;
	struct tdm_frozen_event *e = calloc(n + 1, sizeof(*e));

	CHECK(e != NULL);
	for (u32 i = 0; i < n; i++)
		e[i] = live.frozen.event[i];
	memcpy(page, child.page, sizeof(page));
	memcpy(thread, child.thread, sizeof(thread));
	memset(unknown, 0, sizeof(unknown));
	memset(going, 0, sizeof(going));
	changing = nfaults = nqueued = 0;
	fork_phase = stranger_phase = FORK_NONE;
	for (u32 i = 0; i < THREADS; i++) {
		thread[i].state = RUNNING;
		thread[i].nevents = thread[i].drop.n = thread[i].then.n = thread[i].kept.n = 0;
	}
	trace("the child begins");
	forks = still = false;
	in_child = true;
	/* Its program does not run before it has taken over. */
	in_program = true;
	tdmi_frozen_take(&live, e, n, (u32)(b - live.frozen.birth));
	/* What was being dropped is the one or the other, and stays it. */
	for (u32 p = 0; p < PAGES; p++)
		while (child.dropping[p] && page[p].mapped) {
			dropping[p] = 1;
			if (touch(&thread[0], p, false)) {
				page[p].expected = page[p].token;
				break;
			}
			come_to_rest();
		}
	memset(dropping, 0, sizeof(dropping));
	in_program = false;
}

/* false: the fork has not been read of. */
static bool read_frozen(void)
{
	CHECK_EQ(tdmi_frozen_read(&live), 0);
	return birth_of(CHILD) != NULL;
}

static void give_strangers(void)
{
	struct tdm_birth *b;

	while ((b = birth_of(STRANGER))) {
		tdmi_frozen_judge(&live, b);
		tdmi_frozen_give(&live, b);
	}
}

/* The engine stands still, and the program forks. */
static void fork_it(void)
{
	int status;
	pid_t pid;
	bool settled;

	plat_mutex_lock(&live.mm.event_lock);
	settled = tdmi_events_settled(live.ctx);
	plat_mutex_unlock(&live.mm.event_lock);
	for (u32 i = 0; i < THREADS; i++)
		settled = settled && !thread[i].kept.n;
	if (!settled || fork_phase)
		return;
	trace("still");
	still = true;
	tdmi_frozen_begin(&live);
	for (u32 n = below(6); n; n--)
		read_frozen();
	fork_now();
	while (!read_frozen())
		meanwhile();
	/* Until all who were under way when it forked have been heard: as run/live_fork.c has it. */
	for (u32 round = 0; round < 4 && changing; round++) {
		meanwhile();
		queue_all();
		read_frozen();
	}
	tdmi_frozen_judge(&live, birth_of(CHILD));
	for (u32 n = below(8); n; n--) {
		meanwhile();
		read_frozen();
		tdmi_frozen_read_child(&live, birth_of(CHILD));
	}
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		live_as_child();
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	give_strangers();
	trace("goes on");
	still = false;
	tdmi_frozen_end(&live);
}

static void engine_step(void)
{
	u64 pages;

	meanwhile();
	serve_requests();
	if (below(forks ? 200 : ~0u) == 0) {
		fork_it();
		return;
	}
	switch (below(8)) {
	case 0:
		tdmi_live_find(&live);
		break;
	case 1:
		tdmi_age(live.ctx, 1 + below(64));
		break;
	case 2:
		tdmi_reclaim(live.ctx, 0, 1 + below(32));
		break;
	case 3:
		(void)tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages);
		break;
	default:
		serve();
	}
}

static void start(u64 seed)
{
	struct tdm_tier *tier;
	struct tdm_swap *swap;

	tdm_sim_init(arena, ARENA);
	memset(page, 0, sizeof(page));
	memset(dropping, 0, sizeof(dropping));
	memset(going, 0, sizeof(going));
	memset(unknown, 0, sizeof(unknown));
	memset(thread, 0, sizeof(thread));
	memset(&live, 0, sizeof(live));
	changing = nfaults = nqueued = next_token = 0;
	fork_phase = stranger_phase = FORK_NONE;
	live.host.uffd = 1;
	live.host.beacon = BEACON;
	nstranger_events = 0;
	live.host.forked = tdmi_live_raw_fork;
	live.host.forked_arg = &live;
	rnd = run_seed = seed;
	tdmi_tiers_init(NULL);
	CHECK_EQ(tdmi_tier_mem_create(TDM_CODEC_LZ4, 0, &tier), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	tdmi_swap_keep_limit(swap, (u64)1 << 20);
	live.host.port.ops = &model_ops;
	live.host.mm = &live.mm;
	live.arena = plat_map(FRAMES * TDM_PAGE_SIZE);
	CHECK(live.arena != NULL);
	CHECK_EQ(tdmi_mm_init(&live.mm, &live.host.port, live.arena, FRAMES, swap), 0);
	tdm_a64_st_relaxed(&live.mm.limit_bytes, ~(u64)0);
	tdm_a64_st_relaxed(&live.mm.high_bytes, ~(u64)0);
	live.ctx = tdmi_ctx_create(&live.mm);
	CHECK(live.ctx != NULL);
	live.ctx->may_wait = true;
}

/* Every thread out of its system call, with the engine serving. */
static void come_to_rest(void)
{
	resting = true;
	for (u32 tries = 0; tries < 100000; tries++) {
		bool busy;

		if (stranger_phase == FORK_READ) {
			changing--;
			stranger_phase = FORK_NONE;
		}
		busy = changing != 0;
		for (u32 i = 0; i < THREADS; i++) {
			struct thread *t = &thread[i];

			busy = busy || t->state != RUNNING || t->drop.n || t->then.n;
			if (t->state == ANNOUNCING)
				announce_step(t);
			else if (t->state == RUNNING && t->drop.n)
				drop_now(t);
			else if (t->state == RUNNING && t->then.n)
				move_then(t);
		}
		if (!busy) {
			resting = false;
			return;
		}
		serve();
		serve_requests();
	}
	t_fail(__FILE__, __LINE__, "the program hangs (seed %llu)", (unsigned long long)run_seed);
}

static void look_at_everything(void)
{
	for (u32 p = 0; p < PAGES; p++)
		while (page[p].mapped && !touch(&thread[0], p, false))
			come_to_rest();
}

static void run_steps(u32 steps)
{
	for (u32 i = 0; i < steps; i++) {
		if (below(2))
			program_step();
		else
			engine_step();
		if (i % 512 == 511) {
			come_to_rest();
			look_at_everything();
		}
	}
	come_to_rest();
}

static void run(u64 seed, u32 steps)
{
	start(seed);
	run_steps(steps);
	look_at_everything();
	tdmi_ctx_destroy(live.ctx);
	tdmi_mm_destroy(&live.mm);
}

#endif
