/* SPDX-License-Identifier: MIT */
/*
 * The order of events (port/host_event.c), what is found (run/live_find.c), and the engine below them, over a model of the kernel.
 *
 * The model has an address space of a few dozen pages and a few threads of a program that map, unmap, move, drop, read and write it. A system call
 * changes the address space at once, and then announces what it did, one event after the other, as the kernel does: each is queued
 * some time later, is read some time after that, and only some time after that its thread goes on. Faults are read before events. As long as
 * anything is on its way the kernel refuses to fill and to move (-EAGAIN). Everything that the engine asks of the kernel gives the program's threads
 * a chance to go on first; who goes on, and how far, comes from the seed. So every order of things comes up, and each can be had again.
 *
 * What the program reads must be what it wrote. TDM_TRACE=1 shows the way there. TDM_SEED=n begins elsewhere, TDM_RUNS=n makes more of them or fewer.
 */
#include "events_engine.h"

/* ---- some orders by hand (may_leak: the simulated platform keeps its lists) -------------------------------------------------- */

static void begin_script(void)
{
	arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	CHECK(arena != NULL);
	scripted = true;
	start(1);
}

static void end_script(void)
{
	come_to_rest();
	look_at_everything();
	tdmi_ctx_destroy(live.ctx);
	tdmi_mm_destroy(&live.mm);
	free(arena);
}

/* A mapping of a thread's, registered or not. */
static void has(u32 t, u32 first, u32 n, u8 reg)
{
	*free_area(&thread[t]) = (struct area){ first, n };
	for (u32 p = first; p < first + n; p++)
		page[p] = (struct page){ .mapped = true, .reg = reg };
}

static void write_at(u32 t, u32 p)
{
	while (!touch(&thread[t], p, true))
		CHECK(serve());
}

/* Who has something to say, and has not yet, says it. */
static void queue_event(u32 t)
{
	CHECK(thread[t].state == ANNOUNCING && thread[t].phase == TO_QUEUE);
	announce_step(&thread[t]);
}

/* The child of a fork in which nothing else is read than what is queued: in a process of its own. */
static void fork_script(void (*child_does)(void))
{
	int status;
	pid_t pid;

	while (!read_frozen() || nqueued)
		;
	tdmi_frozen_judge(&live, birth_of(CHILD));
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		take_over();
		child_does();
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	give_strangers();
	tdmi_frozen_end(&live);
	changing--;
	fork_phase = FORK_NONE;
}

static void child_maps_again(void)
{
	u64 pages;

	CHECK(!page[12].mapped);
	has(0, 10, 4, REG_NONE);
	write_at(0, 12);
	(void)tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages);
	CHECK(touch(&thread[0], 12, false));
}

/* A page that was served where nobody had found a mapping yet, and that was unmapped as the program forked, is not the child's. */
TEST(a_child_does_not_know_what_was_served_unfound, .may_leak = true)
{
	begin_script();
	has(0, 10, 4, REG_MISSING);
	write_at(0, 12);
	tdmi_frozen_begin(&live);
	unmap_pages(&thread[0], 10, 4);
	fork_now();
	queue_event(0);
	fork_script(child_maps_again);
	end_script();
}

/* All that a thread has to say is said, and taken in. */
static void finish_call(u32 t)
{
	while (thread[t].state == ANNOUNCING) {
		announce_step(&thread[t]);
		while (serve())
			;
	}
	serve_requests();
	CHECK_EQ(thread[t].state, RUNNING);
}

static void moves(u32 t, u32 from, u32 to, u32 n, bool keep)
{
	struct area old = { from, n };

	for (u32 i = 0; i < AREAS && !keep; i++)
		if (thread[t].area[i].n && thread[t].area[i].first == from)
			thread[t].area[i].n = 0;
	*free_area(&thread[t]) = (struct area){ to, n };
	move_pages(&thread[t], old, to, n, keep);
	thread[t].stalled = 0;
}

static void goes(u32 t, u32 first, u32 n)
{
	for (u32 i = 0; i < AREAS; i++)
		if (thread[t].area[i].n && thread[t].area[i].first == first)
			thread[t].area[i].n = 0;
	unmap_pages(&thread[t], first, n);
	thread[t].stalled = 0;
}

/* A place is left, but that is not announced yet; it is given to another thread, which moves on at once. */
static void two_goings(bool moved, bool keep)
{
	u64 pages;

	begin_script();
	has(0, 10, 2, REG_NONE);
	has(1, 20, 2, REG_NONE);
	tdmi_live_find(&live);
	write_at(0, 10);
	write_at(1, 20);
	CHECK_EQ(tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages), 0);
	if (moved)
		moves(0, 10, 40, 2, false);
	else
		goes(0, 10, 2);
	moves(1, 20, 10, 2, keep);
	finish_call(1);
	moves(1, 10, 30, 2, false);
	finish_call(1);
	finish_call(0);
	CHECK(page[30].expected && page[30].mapped);
	end_script();
}

TEST(who_leaves_last_is_not_taken_for_who_left_first, .may_leak = true)
{
	two_goings(false, false);
}

TEST(nor_if_both_move_on, .may_leak = true)
{
	two_goings(true, false);
}

TEST(nor_if_it_kept_its_old_place, .may_leak = true)
{
	two_goings(false, true);
}

/* Half of a move has been read: the place has nobody, but one who has left it has not said so yet. He is not taken for whoever comes after two others. */
TEST(who_has_half_left_is_not_taken_for_who_comes, .may_leak = true)
{
	u64 pages;

	begin_script();
	has(0, 10, 2, REG_NONE);
	has(1, 20, 2, REG_NONE);
	has(2, 50, 2, REG_NONE);
	tdmi_live_find(&live);
	for (u32 t = 0; t < 3; t++)
		write_at(t, t == 0 ? 10 : t == 1 ? 20 : 50);
	CHECK_EQ(tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages), 0);
	moves(0, 10, 40, 2, false);
	announce_step(&thread[0]);
	while (serve())
		;
	moves(1, 20, 10, 2, false);
	finish_call(1);
	moves(1, 10, 30, 2, false);
	finish_call(1);
	moves(2, 50, 10, 2, false);
	finish_call(2);
	finish_call(0);
	CHECK(page[10].expected && page[30].expected && page[40].expected);
	end_script();
}

/* While everybody waits for the child of an announced fork, another thread makes the bare system call. Its child is given what it had then, and is not taken for
 * the one that is waited for. */
TEST(another_thread_forks_meanwhile, .may_leak = true)
{
	u64 pages;

	begin_script();
	has(0, 10, 6, REG_NONE);
	has(1, 20, 4, REG_NONE);
	tdmi_live_find(&live);
	for (u32 p = 10; p < 16; p++)
		write_at(0, p);
	write_at(1, 20);
	CHECK_EQ(tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages), 0);
	tdmi_frozen_begin(&live);
	/* Before: one page is restored and written. After: another one, and there is a move. */
	CHECK(!touch(&thread[0], 12, true));
	read_frozen();
	CHECK(touch(&thread[0], 12, true));
	bare_fork();
	read_frozen();
	changing--;
	stranger_phase = FORK_NONE;
	CHECK(!birth_of(CHILD));
	CHECK(!touch(&thread[0], 13, true));
	read_frozen();
	CHECK(touch(&thread[0], 13, true));
	moves(1, 20, 30, 4, false);
	while (thread[1].state == ANNOUNCING) {
		announce_step(&thread[1]);
		read_frozen();
	}
	fork_now();
	fork_script(look_at_everything);
	CHECK(stranger[13].present && stranger[20].present);
	end_script();
}

/* ---- all orders ------------------------------------------------------------------------------------------------------------ */

/* Which runs are made by default (TDM_SEED=1). */
#define FIRST_RUN 499

static void runs(u32 n)
{
	const char *want = getenv("TDM_RUNS");
	u64 seed = (FIRST_RUN + t_seed());

	if (want)
		n = (u32)atoi(want);

	arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	CHECK(arena != NULL);
	for (u32 i = 0; i < (getenv("TDM_TRACE") ? 1 : n); i++)
		run(seed + i, 4000);
	free(arena);
}

TEST(what_is_read_was_written, .seconds = 120)
{
	runs(t_slow() ? 20 : 500);
}

TEST(what_a_child_reads_was_written, .seconds = 120)
{
	forks = true;
	runs(t_slow() ? 4 : 100);
}
