// SPDX-License-Identifier: MIT
/*
 * search.c - what happens next: choices, and which of them to try.
 *
 * A run is a list of choices. There is one at each point where a thread may be interrupted (0: it goes on), where one must be picked as the last one sleeps, where a load could
 * see an old store (0: the newest), and where a scenario asks. Who has the list has the run: it is told as "position=choice,..." without the zeros.
 *
 *   DFS      all lists, depth first, as long as no more than `preemptions` interruptions and `stale` old values are in them
 *   PCT      a random order of the threads, and depth - 1 random moments at which the running one becomes the last
 *   RANDOM   each choice by chance
 *   REPLAY   a given list
 *
 * Where threads can be interrupted is in places.c. Choices are counted at all atomic accesses all the same, so that a list does not depend on what was learned.
 *
 * Somebody who spins (plat_relax()) sleeps until something changes that he has read since the last time. When nobody can go on he looks again, and then sees the
 * newest of everything; when that does not help, again and again, it is a livelock.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/check.h"
#include "plat/explore/impl.h"

#define CHOICES 65536u
#define STEPS_MAX 20000u
#define IDLE_MAX 600u
#define WARM_UP 200u

struct explorer X;
bool search_tracing;

static struct {
	u16 n, v;
} choice[CHOICES];
static u32 nchoices, at;

static const struct tdmx_config *config;
static enum tdmx_strategy strategy;
static struct tdmx_result *result;
static u32 preemptions_left, stale_left, idle, points;
static u64 rng;
static u32 change_at[16], longest = 64;
static bool failed, cut, newest_only, starting, told; /* told: the run is known, and is only told */
static const void *fail_pc, *fail_pc2;
static const u32 *given; /* REPLAY: pairs of position and choice */
static u32 ngiven;
static const struct tdmx_scenario *scenario;

static u64 draw(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng * 0x2545f4914f6cdd1dull >> 11;
}

/* ---- choices ----------------------------------------------------------------------------------------------------------- */

static void leave(void)
{
	fiber_switch(X.cur, NT);
}

/* Before the first thread has begun there is nobody to leave. */
static void end_run(void)
{
	X.over = true;
	if (!starting)
		leave();
}

static u32 given_at(u32 position)
{
	for (u32 i = 0; i < ngiven; i++)
		if (given[2 * i] == position)
			return given[2 * i + 1];
	return 0;
}

/* The next choice of n; what is preferred if the strategy has no list to follow. */
static u32 next_choice(u32 n, u32 preferred)
{
	if (at == CHOICES) {
		cut = true;
		end_run();
	}
	if (strategy == TDMX_REPLAY) {
		u32 v = given_at(at++);

		if (v >= n) {
			result->bad_choices = true;
			search_fail_at(NULL, NULL, "these choices are not of this program: at %u there are %u", at - 1, n);
			return 0;
		}
		return v;
	}
	if (strategy != TDMX_DFS || at == nchoices) {
		choice[at].n = (u16)n;
		choice[at].v = (u16)(strategy == TDMX_DFS ? 0 : preferred);
		nchoices = at + 1;
	} else if (choice[at].n != n) {
		fprintf(stderr, "tandem-explore: bug: %s is not deterministic: choice %u was of %u, and is of %u\n", scenario->name, at, choice[at].n, n);
		abort();
	}
	return choice[at++].v;
}

u32 search_choose(u32 n)
{
	return next_choice(n, n > 1 ? (u32)(draw() % n) : 0);
}

static bool next_list(void)
{
	while (nchoices && choice[nchoices - 1].v + 1 >= choice[nchoices - 1].n)
		nchoices--;
	if (!nchoices)
		return false;
	choice[nchoices - 1].v++;
	return true;
}

/* ---- threads ----------------------------------------------------------------------------------------------------------- */

/* Those that can go on, the running one first. */
static u32 enabled(u32 *list)
{
	u32 n = 0;

	if (X.t[X.cur].state == READY)
		list[n++] = X.cur;
	for (u32 i = 1; i < X.n; i++)
		if (i != X.cur && X.t[i].state == READY)
			list[n++] = i;
	return n;
}

static u32 first_by_priority(const u32 *list, u32 n)
{
	u32 best = 0;

	for (u32 i = 0; i < config->depth && i < 16; i++)
		if (points && change_at[i] == points && X.t[X.cur].state == READY)
			X.t[X.cur].prio = config->depth - i - 1;
	for (u32 i = 1; i < n; i++)
		if (X.t[list[i]].prio > X.t[list[best]].prio)
			best = i;
	return best;
}

static void go_on_with(u32 to)
{
	u32 from = X.cur;

	if (to == from)
		return;
	X.cur = to;
	fiber_switch(from, to);
}

static u32 preferred_of(const u32 *list, u32 n)
{
	return strategy == TDMX_PCT ? first_by_priority(list, n) : (u32)(draw() % n);
}

void search_point(const volatile void *p, bool write, const char *what, const void *pc)
{
	bool active;
	u32 list[NT], n, v;

	if (!in_thread())
		return;
	if (++X.steps > STEPS_MAX) {
		cut = true;
		end_run();
	}
	active = places_may_interrupt((uintptr_t)p, write);
	points += active;
	n = enabled(list);
	if (strategy != TDMX_REPLAY && (!active || (strategy == TDMX_DFS && !preemptions_left)))
		n = 1;
	v = next_choice(n, n > 1 ? preferred_of(list, n) : 0);
	if (v) {
		if (strategy == TDMX_DFS)
			preemptions_left--;
		if (search_tracing)
			tdmx_note("interrupted before: %s", what);
		go_on_with(list[v]);
	}
}

static void deadlock(void)
{
	char buf[200];
	size_t len = 0;

	for (u32 i = 1; i < X.n; i++)
		if (X.t[i].state != DONE)
			len += (size_t)snprintf(buf + len, len < sizeof(buf) ? sizeof(buf) - len : 0, "%s%s %s", len ? ", " : "", X.t[i].name,
						X.t[i].state == LOCKED ? "waits for a lock" : X.t[i].state == WAITING ? "sleeps" : "spins");
	search_fail_at(NULL, NULL, "nobody can go on: %s", buf);
}

/* Nobody is ready: who may look again? false: the run is over. */
static bool wake_somebody(void)
{
	bool any = false;
	u32 done = 0;

	for (u32 i = 1; i < X.n; i++)
		done += X.t[i].state == DONE;
	if (done == X.n - 1)
		return false;
	newest_only = true;
	for (u32 i = 1; i < X.n; i++)
		if (X.t[i].state == SPINNING) {
			X.t[i].state = READY;
			any = true;
		}
	for (u32 i = 1; i < X.n && !any; i++)
		if (X.t[i].state == WAITING && X.t[i].timed) {
			X.t[i].state = READY;
			X.t[i].timed_out = true;
			any = true;
		}
	if (!any || ++idle > IDLE_MAX)
		deadlock();
	return true;
}

/* The running thread cannot go on; from the explorer itself: none has begun. */
static u32 pick(void)
{
	u32 list[NT], n;

	while (!(n = enabled(list)))
		if (!wake_somebody())
			return NT;
	if (idle && strategy != TDMX_REPLAY)
		n = 1;
	return list[next_choice(n, n > 1 ? preferred_of(list, n) : 0)];
}

void search_sleep(void)
{
	u32 to = pick();

	if (to == NT)
		leave();
	else
		go_on_with(to);
}

void search_changed(const volatile void *p)
{
	idle = 0;
	newest_only = false;
	for (u32 i = 1; i < X.n; i++) {
		struct thread *t = &X.t[i];
		bool wakes = t->nread > READS_KEPT;

		for (u32 k = 0; k < t->nread && k < READS_KEPT && !wakes; k++)
			wakes = t->read[k] == p;
		if (t->state == SPINNING && wakes)
			t->state = READY;
	}
}

bool search_stale(void)
{
	return !newest_only && (strategy == TDMX_REPLAY || stale_left);
}

bool search_newest_only(void)
{
	return newest_only;
}

void search_stale_taken(void)
{
	if (strategy != TDMX_REPLAY)
		stale_left--;
}

/* ---- failing ----------------------------------------------------------------------------------------------------------- */

static void fail(const void *pc, const void *pc2, const char *fmt, va_list ap)
{
	if (!failed && !told) {
		vsnprintf(result->what, sizeof(result->what), fmt, ap);
		fail_pc = pc;
		fail_pc2 = pc2;
	}
	failed = true;
	end_run();
}

bool search_in_run(void)
{
	return result;
}

void search_fail_at(const void *pc, const void *pc2, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fail(pc, pc2, fmt, ap);
	va_end(ap);
}

void tdmx_fail(const char *fmt, ...)
{
	va_list ap;

	if (!search_in_run()) {
		va_start(ap, fmt);
		vfprintf(stderr, fmt, ap);
		va_end(ap);
		fputs(": in setup\n", stderr);
		abort();
	}
	va_start(ap, fmt);
	fail(__builtin_return_address(0), NULL, fmt, ap);
	va_end(ap);
}

/* ---- runs -------------------------------------------------------------------------------------------------------------- */

static void start_threads(void)
{
	for (u32 i = 0; i < X.n; i++) {
		struct thread *t = &X.t[i];

		t->state = i ? READY : UNUSED;
		memset(&t->clk, 0, sizeof(t->clk));
		memset(&t->released, 0, sizeof(t->released));
		memset(&t->acquired, 0, sizeof(t->acquired));
		t->clk.c[i] = 1;
		t->nread = 0;
		t->prio = config->depth + i;
		fiber_make(i);
	}
	for (u32 i = X.n - 1; strategy == TDMX_PCT && i > 1; i--) {
		u32 k = 1 + (u32)(draw() % i), prio = X.t[i].prio;

		X.t[i].prio = X.t[k].prio;
		X.t[k].prio = prio;
	}
	for (u32 i = 0; strategy == TDMX_PCT && i < 16; i++)
		change_at[i] = i + 1 < config->depth ? 1 + (u32)(draw() % longest) : 0;
}

static void run_check(void *arg)
{
	(void)arg;
	if (scenario->check)
		scenario->check();
	leave();
}

static void run_once(void)
{
	u32 first;

	X.gen++;
	X.steps = 0;
	X.over = false;
	memset(X.sc, 0, sizeof(X.sc));
	X.nsc = 0;
	at = points = idle = 0;
	cut = newest_only = false;
	preemptions_left = config->preemptions;
	stale_left = config->stale;
	arena_restore();
	memory_reset();
	trace_reset();
	start_threads();
	X.cur = 0;
	X.running = true;
	starting = true;
	first = pick();
	starting = false;
	X.cur = first;
	if (!X.over)
		fiber_switch(NT, first);
	X.running = false;
	if (!X.over) {
		X.cur = 0;
		fiber_switch(NT, 0);
	}
	if (points > 8)
		longest = points;
	result->runs++;
	result->points += points;
	result->cut += cut;
	result->longest = TDM_MAX(result->longest, points);
}

static double seconds_since(const struct timespec *from)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - from->tv_sec) + (double)(now.tv_nsec - from->tv_nsec) / 1e9;
}

static bool enough(const struct timespec *from)
{
	if (config->runs && result->runs >= config->runs)
		return true;
	return config->seconds && result->runs % 256 == 0 && seconds_since(from) > (double)config->seconds;
}

static char *list_of_choices(void)
{
	size_t len = 0, size = 64;
	char *s = malloc(size);

	TDM_BUG_ON(!s);
	s[0] = 0;
	for (u32 i = 0; i < at; i++) {
		if (!choice[i].v)
			continue;
		if (len + 32 > size) {
			char *more = realloc(s, size *= 2);

			TDM_BUG_ON(!more);
			s = more;
		}
		len += (size_t)snprintf(s + len, size - len, "%s%u=%u", len ? "," : "", i, choice[i].v);
	}
	return s;
}

/* A run that failed. */
struct failure {
	char what[sizeof(result->what)];
	const void *pc, *pc2;
	char *choices;
};

static void keep_failure(struct failure *f)
{
	memcpy(f->what, result->what, sizeof(f->what));
	f->pc = fail_pc;
	f->pc2 = fail_pc2;
	f->choices = list_of_choices();
}

/* Learns what is shared. *f: the first run that failed, if any. */
static void warm_up(struct failure *f)
{
	enum tdmx_strategy wanted = strategy;

	strategy = TDMX_RANDOM;
	sharing.everywhere = true;
	for (u32 i = 0; i < WARM_UP; i++) {
		run_once();
		if (failed && !f->choices)
			keep_failure(f);
		failed = false;
	}
	sharing.everywhere = false;
	result->shared = places_learn();
	strategy = wanted;
}

static void depth_first(const struct timespec *from)
{
	nchoices = 0;
	while (!failed && !enough(from)) {
		run_once();
		if (failed)
			return;
		if (sharing.grown) {
			result->shared = places_learn();
			nchoices = 0;
		} else if (!next_list()) {
			result->complete = !result->cut;
			return;
		}
	}
}

/* "POSITION=CHOICE,...", positions rising. */
static bool parse_choices(const char *s)
{
	static u32 list[2 * 4096];

	given = list;
	for (ngiven = 0; *s; ngiven++) {
		int len = 0;

		if (ngiven == 4096 || sscanf(s, "%u=%u%n", &list[2 * ngiven], &list[2 * ngiven + 1], &len) != 2 || (s[len] && s[len] != ','))
			return false;
		if (ngiven && list[2 * ngiven] <= list[2 * ngiven - 2])
			return false;
		s += len + (s[len] == ',');
	}
	return true;
}

static void replay(bool trace)
{
	if (!parse_choices(config->choices)) {
		snprintf(result->what, sizeof(result->what), "not a list of choices, as a run that failed printed it: %s", config->choices);
		result->bad_choices = true;
		return;
	}
	search_tracing = trace;
	run_once();
	if (ngiven && given[2 * ngiven - 2] >= at) {
		snprintf(result->what, sizeof(result->what), "these choices are not of this program: choice %u was not reached", given[2 * ngiven - 2]);
		result->bad_choices = true;
	} else if (trace) {
		trace_print();
	}
}

/* The same once more, told. */
static void tell(const char *choices)
{
	TDM_BUG_ON(!parse_choices(choices));
	strategy = TDMX_REPLAY;
	failed = false;
	search_tracing = told = true;
	run_once();
	search_tracing = told = false;
	result->runs--;
	trace_print();
}

static void say_where(void)
{
	char where[160];
	size_t len = strlen(result->what);

	for (u32 i = 0; i < 2; i++) {
		const void *pc = i ? fail_pc2 : fail_pc;

		if (!pc)
			continue;
		trace_place(pc, where, sizeof(where));
		len += (size_t)snprintf(result->what + len, sizeof(result->what) - len, "%s%s", i ? " and " : ": ", where);
		len = TDM_MIN(len, sizeof(result->what) - 1);
	}
}

void tdmx_explore(const struct tdmx_scenario *s, const struct tdmx_config *c, bool trace, struct tdmx_result *r)
{
	struct failure f = { .choices = NULL };
	struct timespec from;

	memset(r, 0, sizeof(*r));
	scenario = s;
	config = c;
	strategy = c->strategy;
	rng = c->seed * 2 + 88172645463325252ull;
	arena_init();
	X.n = 0;
	tdmx_spawn("check", run_check, NULL);
	s->setup();
	arena_snapshot();
	result = r;
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (strategy == TDMX_REPLAY) {
		replay(trace);
	} else {
		warm_up(&f);
		/* Whatever chance has found: within bounds the run is shorter, and has fewer interruptions. */
		if (strategy == TDMX_DFS)
			depth_first(&from);
		while (strategy != TDMX_DFS && !f.choices && !failed && !enough(&from)) {
			run_once();
			if (sharing.grown)
				result->shared = places_learn();
		}
	}
	r->by_chance = strategy == TDMX_DFS && !failed && f.choices;
	if (failed) {
		if (strategy != TDMX_REPLAY)
			r->choices = list_of_choices();
		free(f.choices);
	} else if (f.choices) {
		failed = true;
		memcpy(r->what, f.what, sizeof(r->what));
		fail_pc = f.pc;
		fail_pc2 = f.pc2;
		r->choices = f.choices;
	}
	r->failed = failed;
	r->seconds = seconds_since(&from);
	if (failed) {
		say_where();
		if (trace && r->choices)
			tell(r->choices);
	}
}
