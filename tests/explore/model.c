// SPDX-License-Identifier: MIT
/*
 * model.c - explore-model: all outcomes that the explorer gives small programs of atomics. The programs are those of rc11.py, which says what C11 allows them.
 *
 * A program a line on the standard input: threads between bars, operations between blanks.
 *
 *   Rxa      load x, acquire              Xx2b     exchange x for 2
 *   Wx1l     store 1 to x, release        Cx12s    compare x with 1 and exchange it for 2
 *   Fs       a fence                      Pr, Pw   read, write something plain
 *
 * Two objects, x and y, that are 0 at first; orders r(elaxed), a(cquire), l (release), b(oth) and s(equentially consistent). For each program a line: the outcomes, sorted, each what was loaded, in
 * the order of the program's text, a colon, and what x and y are in the end; or "race".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/check.h"
#include "plat/explore/explore.h"

#define OPS 8u
#define OUTCOMES 8192u

struct op {
	char kind;
	u8 object, from, to;
	int order, fail_order;
};

struct state {
	u32 object[2];
	u32 plain;
	u32 n[TDMX_THREADS];
	char saw[TDMX_THREADS][OPS + 1]; /* what it has loaded */
};

static struct op op[TDMX_THREADS][OPS];
static u32 nops[TDMX_THREADS], nthreads;
static struct state *st;

/* Not in the arena: it outlives the runs. */
static char outcome[OUTCOMES][TDMX_THREADS * OPS + 8];
static u32 noutcomes;

/* By the compiler's hooks, as in the engine: the order is an argument there. */
static u32 act(struct state *s, const struct op *o)
{
	u32 *p = &s->object[o->object], v = o->from;

	switch (o->kind) {
	case 'R':
		return __atomic_load_n(p, o->order);
	case 'W':
		__atomic_store_n(p, o->to, o->order);
		return 0;
	case 'X':
		return __atomic_exchange_n(p, o->to, o->order);
	case 'C':
		__atomic_compare_exchange_n(p, &v, o->to, false, o->order, o->fail_order);
		return v;
	default:
		__atomic_thread_fence(o->order);
		return 0;
	}
}

static void run(void *arg)
{
	u32 t = (u32)(uintptr_t)arg;

	for (u32 i = 0; i < nops[t]; i++) {
		const struct op *o = &op[t][i];
		u32 v = 0;

		if (o->kind == 'r')
			(void)*(volatile u32 *)&st->plain;
		else if (o->kind == 'w')
			st->plain = 1;
		else
			v = act(st, o);
		if (strchr("RXC", o->kind))
			st->saw[t][st->n[t]++] = (char)('0' + v);
	}
}

static void setup(void)
{
	static const char *const name[TDMX_THREADS] = { "0", "1", "2", "3", "4" };

	st = tdmx_alloc(sizeof(*st));
	for (u32 t = 0; t < nthreads; t++)
		tdmx_spawn(name[t], run, (void *)(uintptr_t)t);
}

static void check(void)
{
	char s[sizeof(outcome[0])] = "";

	for (u32 t = 0; t < nthreads; t++)
		strcat(s, st->saw[t]);
	snprintf(s + strlen(s), 4, ":%u%u", st->object[0], st->object[1]);
	for (u32 i = 0; i < noutcomes; i++)
		if (!strcmp(outcome[i], s))
			return;
	TDM_BUG_ON(noutcomes == OUTCOMES);
	strcpy(outcome[noutcomes++], s);
}

static const struct tdmx_scenario scenario = { .name = "program", .what = "", .setup = setup, .check = check };

static int order_of(char c)
{
	return c == 'r' ? __ATOMIC_RELAXED : c == 'a' ? __ATOMIC_ACQUIRE : c == 'l' ? __ATOMIC_RELEASE : c == 'b' ? __ATOMIC_ACQ_REL : __ATOMIC_SEQ_CST;
}

/* false: it is no such program. */
static bool parse_op(const char *s, struct op *o)
{
	static const char *const form[] = { "Rx-", "Wx0-", "Xx0-", "Cx00-", "F-", "Pr", "Pw" };

	for (u32 f = 0; f < sizeof(form) / sizeof(form[0]); f++) {
		const char *w = form[f];
		size_t i, n = strlen(w);

		memset(o, 0, sizeof(*o));
		for (i = 0; i < n && s[i]; i++)
			if (w[i] == 'x' && (s[i] == 'x' || s[i] == 'y'))
				o->object = s[i] == 'y';
			else if (w[i] == '0' && s[i] >= '0' && s[i] <= '9')
				o->from = o->to, o->to = (u8)(s[i] - '0');
			else if (w[i] == '-' && strchr("ralbs", s[i]))
				o->order = order_of(s[i]);
			else if (w[i] != s[i])
				break;
		if (i < n || s[i])
			continue;
		o->kind = s[0] == 'P' ? s[1] : s[0];
		o->fail_order = o->order == __ATOMIC_RELEASE ? __ATOMIC_RELAXED : o->order == __ATOMIC_ACQ_REL ? __ATOMIC_ACQUIRE : o->order;
		return true;
	}
	return false;
}

static bool parse(char *line)
{
	char *threads, *ops;

	nthreads = 0;
	for (char *t = strtok_r(line, "|\n", &threads); t; t = strtok_r(NULL, "|\n", &threads)) {
		if (nthreads == TDMX_THREADS)
			return false;
		nops[nthreads] = 0;
		for (char *s = strtok_r(t, " ", &ops); s; s = strtok_r(NULL, " ", &ops))
			if (nops[nthreads] == OPS || !parse_op(s, &op[nthreads][nops[nthreads]++]))
				return false;
		nthreads++;
	}
	return nthreads;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void explore(void)
{
	struct tdmx_config c = { .strategy = TDMX_DFS, .preemptions = 1000, .stale = 1000, .seed = 1 };
	struct tdmx_result r;

	tdmx_explore(&scenario, &c, false, &r);
	if (r.failed) {
		puts(strstr(r.what, "data race") ? "race" : r.what);
		return;
	}
	TDM_BUG_ON(!r.complete);
	qsort(outcome, noutcomes, sizeof(outcome[0]), by_text);
	for (u32 i = 0; i < noutcomes; i++)
		printf("%s%s", i ? " " : "", outcome[i]);
	putchar('\n');
}

int main(void)
{
	char line[256];
	int status;

	while (fgets(line, sizeof(line), stdin)) {
		pid_t pid;

		fflush(stdout);
		if (!parse(line)) {
			fputs("explore-model: a line is no program\n", stderr);
			return 2;
		}
		pid = fork();
		TDM_BUG_ON(pid < 0);
		if (!pid) {
			explore();
			fflush(stdout);
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || status) {
			fputs("explore-model: the explorer failed\n", stderr);
			return 1;
		}
	}
	return 0;
}
