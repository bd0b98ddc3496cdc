/* SPDX-License-Identifier: MIT */
/*
 * explore.h - a world in which somebody decides what happens next: every interleaving of a few threads, one after the other.
 *
 * The engine is compiled with -fsanitize=thread, but linked with this runtime. The compiler calls us before every plain access and in the place of every atomic
 * one, so nothing of the engine needs to be annotated, and what runs is its real object code:
 *
 *   atomics         are performed here: a load gets one of the stores that C11 lets it see (memory.c)
 *   locks, waits    are plat.h, which is implemented here (plat.c)
 *   plain accesses  feed a detector of races, and of uses after free (race.c)
 *
 * Threads are fibers of one thread of the system (fiber.c). A thread can be interrupted before each atomic access to what others access, too, and before it takes a
 * lock; between these it runs alone, which loses nothing as long as plain accesses do not race, and that is checked. What happens at each such point is a choice,
 * and a run is the list of its choices (search.c).
 *
 * All memory lies in one arena. A scenario's setup runs once; then the arena is put back to how it was after it, before each run (arena.c). So the state
 * of a scenario lies in the arena too, and its static variables are not written after setup.
 */
#ifndef TDM_PLAT_EXPLORE_H
#define TDM_PLAT_EXPLORE_H

#include "plat/plat.h"

#define TDMX_THREADS 5u /* of a scenario */

struct tdmx_scenario {
	const char *name;
	const char *what;      /* what must not happen, in one line */
	void (*setup)(void);   /* makes the state, and starts the threads */
	void (*check)(void);   /* every thread has ended. May be NULL */
	bool expected;         /* it shows a mistake: that none is found is the failure */
};

/* Scenarios announce themselves: tdmx_scenarios[0..tdmx_nscenarios). */
#define TDMX_SCENARIO(id, ...)                                                                             \
	static const struct tdmx_scenario tdmx_scenario_##id = { .name = #id, __VA_ARGS__ };               \
	static const struct tdmx_scenario *tdmx_link_##id __attribute__((used, section("tdmx_scenarios"))) = &tdmx_scenario_##id

/* ---- in setup ---------------------------------------------------------------------------------------------------------- */

/* Zeroed memory of the arena. */
void *tdmx_alloc(size_t size);
/* One more thread; at most TDMX_THREADS. name: a constant. */
void tdmx_spawn(const char *name, void (*fn)(void *), void *arg);
/* Plain accesses to these bytes are not judged: they are those of simulated programs, which may race. */
void tdmx_bytes(const void *p, size_t size);
/* Atomics in here decide nothing (statistics): nobody is interrupted before them. */
void tdmx_quiet(const void *p, size_t size);
/* What the trace calls an address. name: a constant. */
void tdmx_name(const void *p, size_t size, const char *name);

/* ---- anywhere ---------------------------------------------------------------------------------------------------------- */

/* The run has failed: it ends here, if it is a thread that says so. */
void tdmx_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define TDMX_CHECK(x, ...)                                                                                 \
	do {                                                                                               \
		if (!(x))                                                                                  \
			tdmx_fail(__VA_ARGS__);                                                            \
	} while (0)

/* ---- in threads -------------------------------------------------------------------------------------------------------- */

/* The calling thread: 1 for the first; 0 in setup and check. */
u32 tdmx_self(void);
/* Somebody else may run here. what: a constant, for the trace. */
void tdmx_point(const char *what);
/* A choice that is not about threads: 0 to n - 1. */
u32 tdmx_choose(u32 n);
/* Sleep until *flag is false; written by tdmx_poke() alone. Orders nothing in the sense of the memory model. */
void tdmx_wait_while(const bool *flag);
/* Copy to, or from, memory that plain accesses are not judged in. */
void tdmx_poke(void *to, const void *from, size_t size);
void tdmx_peek(void *to, const void *from, size_t size);
/* A line of the trace. */
void tdmx_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What the scenario's other threads have done so far comes before what the caller does from here on, and the other way round: a message that is no part of the engine
 * (an interrupt, a device). id: any number below 64; all who use one are ordered. */
void tdmx_order(u32 id);

/* ---- the search -------------------------------------------------------------------------------------------------------- */

enum tdmx_strategy { TDMX_DFS, TDMX_RANDOM, TDMX_PCT, TDMX_REPLAY };

struct tdmx_config {
	enum tdmx_strategy strategy;
	u32 preemptions;     /* DFS: how often a run may interrupt a thread that could go on */
	u32 stale;           /* how many loads of a run may see another than the newest store; the thread may see the same one again, once */
	u32 depth;           /* PCT: that of the bug */
	u64 runs;            /* at most; 0: no limit */
	u64 seconds;         /* likewise */
	u64 seed;
	const char *choices; /* REPLAY */
};

struct tdmx_result {
	u64 runs, points;
	u64 cut;             /* runs that were ended as they were too long */
	u32 longest;         /* points of a run */
	u32 shared;          /* places at which threads may be interrupted */
	bool complete;       /* DFS: all within the bounds, and none was cut */
	bool failed;
	bool by_chance;      /* DFS: by a random run, before the search; within the bounds there is nothing */
	bool bad_choices;    /* REPLAY: they are not of this scenario, or not choices; `what` says so */
	double seconds;
	char what[400];
	char *choices;       /* of the failed run: to be freed. NULL otherwise */
};

/* One scenario a process. trace: a failing run is told, step by step, to stdout. */
void tdmx_explore(const struct tdmx_scenario *s, const struct tdmx_config *c, bool trace, struct tdmx_result *r);

#endif
