/* SPDX-License-Identifier: MIT */
/* run.c - see run.h. */
#include "run.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT (96u * TDM_SCRIPT_OPS)
#define APART_SECONDS 20
#define DIFFERS 3

struct runner *runner_new(const struct domain *d)
{
	struct runner *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->d = d;
	r->x = tdmi_script_open();
	tdmi_costs_default(&r->costs);
	return r;
}

static void machine(struct runner *r, const struct script *sc)
{
	static char text[8192];
	static struct script none;
	char err[RUN_ERR] = "";

	if (r->parsed && (r->d || !memcmp(&r->knobs, &sc->knobs, sizeof(r->knobs))))
		return;
	none.knobs = sc->knobs;
	gen_print(&none, r->d, "What is wrong here?", text, sizeof(text));
	if (tdmi_scenario_parse(&r->sc, "script", text, NULL, 0, err) || tdmi_scenario_point(&r->sc, 0, &r->point, err)) {
		fprintf(stderr, "the generator made no machine: %s\n%s", err, text);
		exit(2);
	}
	r->knobs = sc->knobs;
	r->parsed = true;
}

int runner_run(struct runner *r, const struct script *sc, struct tdm_script_result *res, char *err)
{
	int e;

	machine(r, sc);
	r->point.nops = sc->nops;
	memcpy(r->point.op, sc->op, sc->nops * sizeof(sc->op[0]));
	for (u32 i = 0; i < sc->nops; i++)
		r->point.op[i].line = i + 1;
	e = tdmi_script_run(r->x, &r->point, &r->costs, res, err);
	if (e < 0) {
		fprintf(stderr, "%s\n", err);
		exit(2);
	}
	return e;
}

/* ---- apart */

static void child(const struct script *sc, const struct domain *d, int out)
{
	struct tdm_script_result res;
	struct runner *r = runner_new(d);
	char err[RUN_ERR] = "";

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, STDERR_FILENO);
	alarm(APART_SECONDS);
	if (!runner_run(r, sc, &res, err))
		_exit(0);
	/* Without the place, and the operation: what was wrong, and not where. */
	dprintf(out, "%s\n", err);
	_exit(DIFFERS);
}

/* The first line that somebody has written. */
static void read_line(int fd, char *to)
{
	size_t n = 0;
	char c;

	while (read(fd, &c, 1) == 1) {
		if (c == '\n' && n)
			break;
		if (n < RUN_ERR - 1 && c != '\n')
			to[n++] = c;
	}
	to[n] = 0;
	while (read(fd, &c, 1) == 1)
		;
}

/* "script:12: read p0 c0 1 1: a CPU reads 7": without the first two parts, and numbers. */
static void make_key(const char *said, bool differs, char *key)
{
	const char *from = said;
	size_t n = 0;

	for (u32 parts = 0; differs && parts < 2; parts++) {
		const char *end = strstr(from, ": ");

		from = end ? end + 2 : from;
	}
	for (; *from && n < RUN_ERR - 1; from++)
		if (!(*from >= '0' && *from <= '9') && !(n && key[n - 1] == '#' && ((*from >= 'a' && *from <= 'f') || *from == 'x')))
			key[n++] = *from;
		else if (!n || key[n - 1] != '#')
			key[n++] = '#';
	key[n] = 0;
}

bool run_apart(const struct script *sc, const struct domain *d, char key[RUN_ERR], char said[RUN_ERR])
{
	int fd[2], status = 0;
	pid_t pid;

	if (pipe(fd))
		exit(2);
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		exit(2);
	if (!pid) {
		close(fd[0]);
		child(sc, d, fd[1]);
	}
	close(fd[1]);
	read_line(fd[0], said);
	close(fd[0]);
	waitpid(pid, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
		/* It cannot be made any more. */
		snprintf(key, RUN_ERR, "no machine");
		return true;
	}
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return false;
	if (!*said)
		snprintf(said, RUN_ERR, WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "it does not end" : "it ends by signal %d", WTERMSIG(status));
	make_key(said, WIFEXITED(status) && WEXITSTATUS(status) == DIFFERS, key);
	return true;
}

/* ---- smaller */

#define TRIES_MAX 6000u

struct shrinking {
	const struct domain *d;
	const char *key;
	struct script best, try;
	u32 tries;
};

/* Does s->try fail in the same way? Then it is the best. */
static bool good(struct shrinking *s)
{
	char key[RUN_ERR], said[RUN_ERR];

	if (s->tries == TRIES_MAX)
		return false;
	s->tries++;
	if (!run_apart(&s->try, s->d, key, said) || strcmp(key, s->key))
		return false;
	s->best = s->try;
	return true;
}

static bool drop(struct shrinking *s, u32 at, u32 n)
{
	s->try = s->best;
	s->try.nops -= n;
	memmove(&s->try.op[at], &s->try.op[at + n], (s->try.nops - at) * sizeof(s->try.op[0]));
	return good(s);
}

/* Operations go: halves, quarters, single ones. */
static bool fewer(struct shrinking *s)
{
	bool any = false;

	for (u32 n = TDM_MAX(s->best.nops / 2, 1u); n; n /= 2)
		for (u32 at = 0; at + n <= s->best.nops;)
			if (drop(s, at, n))
				any = true;
			else
				at += n;
	return any;
}

/* Two that belong together: one alone would not do. */
static bool pairs(struct shrinking *s)
{
	if (s->best.nops > 40)
		return false;
	for (u32 a = 0; a < s->best.nops; a++)
		for (u32 b = a + 1; b < s->best.nops; b++) {
			s->try = s->best;
			s->try.nops -= 2;
			memmove(&s->try.op[a], &s->try.op[a + 1], (b - a - 1) * sizeof(s->try.op[0]));
			memmove(&s->try.op[b - 1], &s->try.op[b + 1], (s->best.nops - b - 1) * sizeof(s->try.op[0]));
			if (good(s))
				return true;
		}
	return false;
}

static bool set_arg(struct shrinking *s, u32 op, u32 arg, u32 value)
{
	char err[200];

	s->try = s->best;
	if (s->try.op[op].arg[arg] <= value)
		return false;
	s->try.op[op].arg[arg] = value;
	return !tdmi_op_check(&s->try.op[op], err, sizeof(err)) && good(s);
}

/* Numbers become smaller, and the machine simpler. */
static bool simpler(struct shrinking *s)
{
	bool any = false;

	for (u32 k = 0; k < KNOBS_MAX; k++)
		if (s->best.knobs.at[k]) {
			s->try = s->best;
			s->try.knobs.at[k] = 0;
			any |= good(s);
		}
	for (u32 i = 0; i < s->best.nops; i++) {
		const char *args = tdm_op_table[s->best.op[i].what].args;

		for (u32 k = 0; args[k]; k++) {
			u32 v = s->best.op[i].arg[k];

			any |= set_arg(s, i, k, args[k] == 'n') || set_arg(s, i, k, args[k] == 'v' ? 1 + (v & 1) : v / 2) || (args[k] != 'v' && v &&
				set_arg(s, i, k, v - 1));
		}
	}
	return any;
}

u32 shrink(struct script *sc, const struct domain *d, const char *key)
{
	static struct shrinking s;
	bool any = true;

	s = (struct shrinking){ .d = d, .key = key, .best = *sc };
	while (any && s.tries < TRIES_MAX) {
		any = fewer(&s);
		any |= simpler(&s);
		any |= !any && pairs(&s);
	}
	*sc = s.best;
	return s.tries;
}
