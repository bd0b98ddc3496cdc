// SPDX-License-Identifier: MIT
/*
 * main.c - tandem-explore: runs scenarios under the explorer. `tandem explore` is this.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "plat/explore/explore.h"

extern const struct tdmx_scenario *__start_tdmx_scenarios[], *__stop_tdmx_scenarios[];

static const char usage[] =
	"Usage: tandem explore [OPTION]... [SCENARIO]...\n"
	"Run small scenarios of the engine in every interleaving within bounds. Without a scenario: all of them.\n\n"
	"  --list               name and purpose of each scenario\n"
	"  --preemptions N      interrupt threads at most N times in a run (2)\n"
	"  --stale N            let at most N loads of a run see an old value (1)\n"
	"  --pct DEPTH          random priorities instead, for bugs of that depth\n"
	"  --random             random choices instead\n"
	"  --runs N             at most so many runs of a scenario\n"
	"  --seconds N          at most so long a scenario\n"
	"  --seed N             of what is random (1)\n"
	"  --replay CHOICES     the one run of the scenario that these choices make\n"
	"  --trace              tell a run that fails, or that is replayed, step by step\n"
	"  --help\n\n"
	"Exit status: 0 nothing was found, 1 something was, 2 bad usage.\n";

enum { OPT_LIST = 256, OPT_PREEMPTIONS, OPT_STALE, OPT_PCT, OPT_RANDOM, OPT_RUNS, OPT_SECONDS, OPT_SEED, OPT_REPLAY, OPT_TRACE, OPT_HELP };

static const struct option options[] = {
	{ "list", no_argument, NULL, OPT_LIST },       { "preemptions", required_argument, NULL, OPT_PREEMPTIONS },
	{ "stale", required_argument, NULL, OPT_STALE }, { "pct", required_argument, NULL, OPT_PCT },
	{ "random", no_argument, NULL, OPT_RANDOM },   { "runs", required_argument, NULL, OPT_RUNS },
	{ "seconds", required_argument, NULL, OPT_SECONDS }, { "seed", required_argument, NULL, OPT_SEED },
	{ "replay", required_argument, NULL, OPT_REPLAY }, { "trace", no_argument, NULL, OPT_TRACE },
	{ "help", no_argument, NULL, OPT_HELP },       { NULL, 0, NULL, 0 },
};

static bool trace;

static int bad(const char *what, const char *arg)
{
	fprintf(stderr, "tandem explore: %s%s%s; see tandem explore --help\n", what, arg ? ": " : "", arg ? arg : "");
	exit(2);
}

static u64 number(const char *option, const char *arg, u64 most)
{
	char *end;
	unsigned long long v = strtoull(arg, &end, 10);

	if (!*arg || *end || arg[0] == '-' || v > most) {
		fprintf(stderr, "tandem explore: --%s wants a number from 0 to %llu, not %s\n", option, (unsigned long long)most, arg);
		exit(2);
	}
	return v;
}

static const struct tdmx_scenario *find(const char *name)
{
	for (const struct tdmx_scenario **s = __start_tdmx_scenarios; s < __stop_tdmx_scenarios; s++)
		if (!strcmp((*s)->name, name))
			return *s;
	bad("no such scenario (--list names them)", name);
	return NULL;
}

static int explore(const struct tdmx_scenario *s, const struct tdmx_config *c)
{
	struct tdmx_result r;
	bool wrong;

	tdmx_explore(s, c, trace, &r);
	if (r.bad_choices) {
		fflush(stdout);
		fprintf(stderr, "tandem explore: %s\n", r.what);
		return 2;
	}
	wrong = r.failed != s->expected;
	printf("%-28s %-9s %9llu runs %7.2f s  %u places, up to %u points%s", s->name, r.failed ? (s->expected ? "expected" : "FAILED") : s->expected ? "NOT FOUND" : "ok",
	       (unsigned long long)r.runs, r.seconds, r.shared, r.longest, r.complete ? ", complete" : "");
	if (r.by_chance)
		printf(", by chance and not within the bounds");
	if (r.cut)
		printf(", %llu cut short", (unsigned long long)r.cut);
	putchar('\n');
	if (r.failed)
		printf("    %s\n", r.what);
	if (r.choices)
		printf("    tandem explore %s --trace --replay '%s'\n", s->name, r.choices);
	free(r.choices);
	return wrong;
}

/* Each in a process of its own: a setup begins with nothing. */
static int explore_apart(const struct tdmx_scenario *s, const struct tdmx_config *c)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		perror("tandem explore: fork");
		exit(2);
	}
	if (!pid) {
		int r = explore(s, c);

		fflush(stdout);
		_exit(r);
	}
	while (waitpid(pid, &status, 0) < 0)
		;
	if (WIFSIGNALED(status))
		printf("%-28s FAILED    ended by signal %d\n", s->name, WTERMSIG(status));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void list(void)
{
	for (const struct tdmx_scenario **s = __start_tdmx_scenarios; s < __stop_tdmx_scenarios; s++)
		printf("%-28s %s\n", (*s)->name, (*s)->what);
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct tdmx_scenario *const *)a)->name, (*(const struct tdmx_scenario *const *)b)->name);
}

int main(int argc, char **argv)
{
	struct tdmx_config c = { .strategy = TDMX_DFS, .preemptions = 2, .stale = 1, .seed = 1 };
	int o, failed = 0;

	qsort(__start_tdmx_scenarios, (size_t)(__stop_tdmx_scenarios - __start_tdmx_scenarios), sizeof(void *), by_name);
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (o) {
		case OPT_LIST:
			list();
			return 0;
		case OPT_PREEMPTIONS:
			c.preemptions = (u32)number("preemptions", optarg, 1000);
			break;
		case OPT_STALE:
			c.stale = (u32)number("stale", optarg, 1000);
			break;
		case OPT_PCT:
			c.strategy = TDMX_PCT;
			c.depth = (u32)number("pct", optarg, 16);
			break;
		case OPT_RANDOM:
			c.strategy = TDMX_RANDOM;
			break;
		case OPT_RUNS:
			c.runs = number("runs", optarg, ~(u64)0 >> 1);
			break;
		case OPT_SECONDS:
			c.seconds = number("seconds", optarg, 1000000);
			break;
		case OPT_SEED:
			c.seed = number("seed", optarg, ~(u64)0 >> 1);
			break;
		case OPT_REPLAY:
			c.strategy = TDMX_REPLAY;
			c.choices = optarg;
			break;
		case OPT_TRACE:
			trace = true;
			break;
		case OPT_HELP:
			fputs(usage, stdout);
			return 0;
		default:
			return bad("unknown option, or one without its value", NULL);
		}
	if (c.strategy == TDMX_REPLAY && optind + 1 != argc)
		return bad("--replay wants one scenario", NULL);
	if ((c.strategy == TDMX_PCT || c.strategy == TDMX_RANDOM) && !c.runs && !c.seconds)
		c.runs = 100000;
	if (optind == argc)
		for (const struct tdmx_scenario **s = __start_tdmx_scenarios; s < __stop_tdmx_scenarios; s++)
			failed |= explore_apart(*s, &c);
	for (int i = optind; i < argc; i++)
		(void)find(argv[i]);
	for (int i = optind; i < argc; i++)
		failed |= explore_apart(find(argv[i]), &c);
	return failed;
}
