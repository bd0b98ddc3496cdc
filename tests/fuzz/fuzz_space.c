/* SPDX-License-Identifier: MIT */
/*
 * fuzz_space.c - scripts by the million, against the model: from a seed, or all that there are of a small world.
 *
 * A worker runs them one after the other, and says in shared memory which it is at; when it ends badly the script is made once more from its seed or its
 * wheels, made smaller in processes of its own, and written down as a scenario.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "run.h"

struct options {
	u64 seed, runs;
	u32 ops, minutes, seconds;
	u32 depth;
	const char *domain;    /* or NULL: at random */
	const char *save;      /* directory, or NULL */
	bool list, raw, play;
};

/* Of a worker, seen by its parent. */
struct progress {
	u64 at;                /* the seed, or the number of the script */
	u64 scripts, ops, faults, failures;
	u32 op;
	bool done;
	struct source source;  /* of a small world */
};

static struct progress *progress;

static void help(void)
{
	puts("usage: fuzz-space [--seed N] [--runs N | --seconds N | --minutes N] [--ops N]   at random\n"
	     "       fuzz-space --domain NAME|all-of-them [--depth N] [--seconds N]           all of a small world, or what there is time for\n"
	     "       fuzz-space --play FILE...                                                 scenarios with a [script]\n"
	     "  --list            small worlds\n"
	     "  --save DIR        where the scenario of a failure is written\n"
	     "  --raw             do not make it smaller\n"
	     "The exit status is 1 if something differs.");
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec;
}

/* ---- workers */

/* false: it has failed. */
static bool one(struct runner *r, const struct script *sc)
{
	struct tdm_script_result res;
	char err[RUN_ERR];
	int e;

	/* One that does not end is one that fails. */
	alarm(60);
	e = runner_run(r, sc, &res, err);
	progress->ops += res.done;
	progress->scripts++;
	progress->faults += res.faults;
	progress->failures += res.failures;
	return !e;
}

static void work_at_random(const struct options *o, u64 end)
{
	static struct script sc;
	struct runner *r = runner_new(NULL);
	struct source s;

	for (; o->runs ? progress->at < o->seed + o->runs : now() < end; progress->at++) {
		source_seed(&s, progress->at);
		gen_script(&s, o->ops, &sc);
		if (!one(r, &sc))
			_exit(1);
	}
}

/* end: or 0. */
static void work_on_all(const struct domain *d, u32 depth, u64 end)
{
	static struct script sc;
	struct runner *r = runner_new(d);
	struct source s;

	source_odometer(&s);
	do {
		gen_small(&s, d, depth, &sc);
		progress->source = s;
		if (!one(r, &sc))
			_exit(1);
	} while (source_turn(&s) && !(end && now() >= end));
}

/* The worker's end. false: badly. */
static bool run_worker(const struct options *o, const struct domain *d, u32 depth, u64 end)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		exit(2);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* What it says when it ends badly is heard when it is run apart. */
		if (!freopen("/dev/null", "w", stderr))
			_exit(2);
		if (d)
			work_on_all(d, depth, o->minutes || o->seconds ? end : 0);
		else
			work_at_random(o, end);
		progress->done = true;
		exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		exit(2);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
		fprintf(stderr, "fuzz-space: the generator is broken at %" PRIu64 "\n", progress->at);
		exit(2);
	}
	return WIFEXITED(status) && !WEXITSTATUS(status) && progress->done;
}

/* ---- failures */

static void report(const struct options *o, const struct domain *d, u32 depth)
{
	static char text[96 * TDM_SCRIPT_OPS];
	char key[RUN_ERR], said[RUN_ERR], path[4096];
	static struct script sc;
	struct source s;
	size_t n;

	if (d) {
		s = progress->source;
		s.at = 0;
		gen_small(&s, d, depth, &sc);
	} else {
		source_seed(&s, progress->at);
		gen_script(&s, o->ops, &sc);
	}
	printf("FAILED: %s %" PRIu64 ", after %" PRIu64 " operations\n", d ? d->name : "seed", d ? progress->scripts : progress->at, progress->ops);
	if (!run_apart(&sc, d, key, said)) {
		printf("it does not fail in a process of its own\n");
		return;
	}
	printf("%s\n", said);
	if (!o->raw) {
		u32 before = sc.nops, tries = shrink(&sc, d, key);

		printf("%u operations, %u when it was made smaller (%u tries)\n", before, sc.nops, tries);
		(void)run_apart(&sc, d, key, said);
	}
	n = gen_print(&sc, d, said, text, sizeof(text));
	fwrite(text, 1, n, stdout);
	if (!o->save)
		return;
	snprintf(path, sizeof(path), "%s/%s-%" PRIu64 ".sim", o->save, d ? d->name : "seed", d ? progress->scripts : progress->at);
	FILE *f = fopen(path, "w");
	if (f) {
		fwrite(text, 1, n, f);
		fclose(f);
		printf("written to %s\n", path);
	}
}

/* ---- the whole */

static bool run(const struct options *o, const struct domain *d)
{
	u32 depth = o->depth ? o->depth : d ? d->depth : 0;
	bool ok;

	*progress = (struct progress){ .at = o->seed };
	ok = run_worker(o, d, depth, now() + o->minutes * 60 + o->seconds);
	if (d)
		printf("%s, %u deep: ", d->name, depth);
	else
		printf("seeds %" PRIu64 " to %" PRIu64 ": ", o->seed, progress->at - ok);
	printf("%" PRIu64 " scripts, %" PRIu64 " operations, %" PRIu64 " faults, %" PRIu64 " failures asked for; %.1f CPU seconds so far\n",
		progress->scripts, progress->ops, progress->faults,
	       progress->failures, cpu_seconds());
	if (!ok)
		report(o, d, depth);
	fflush(stdout);
	return ok;
}

static bool play(const char *path)
{
	static struct tdm_scenario s, point;
	struct tdm_script *x = tdmi_script_open();
	struct tdm_script_result res;
	char err[RUN_ERR] = "no memory";
	struct tdm_costs costs;
	int r = x ? tdmi_scenario_load(&s, path, NULL, 0, err) : -ENOMEM;

	tdmi_costs_default(&costs);
	if (!r)
		r = tdmi_scenario_point(&s, 0, &point, err);
	if (!r)
		r = tdmi_script_run(x, &point, &costs, &res, err);
	if (!r)
		tdmi_script_close(x);
	puts(r ? err : path);
	return !r;
}

static int parse(struct options *o, int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "seed", 1, NULL, 's' }, { "runs", 1, NULL, 'r' }, { "ops", 1, NULL, 'o' }, { "minutes", 1, NULL, 'm' }, { "seconds", 1, NULL, 't' },
		{ "domain", 1, NULL, 'd' },
		{ "depth", 1, NULL, 'k' }, { "save", 1, NULL, 'S' }, { "list", 0, NULL, 'l' }, { "raw", 0, NULL, 'w' }, { "play", 0, NULL, 'p' }, { "help",
		0, NULL, 'h' }, { 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "h", longopts, NULL)) != -1) {
		u64 v = optarg ? strtoull(optarg, NULL, 10) : 0;

		switch (opt) {
		case 's': o->seed = v; break;
		case 'r': o->runs = v; break;
		case 'o': o->ops = (u32)v; break;
		case 'm': o->minutes = (u32)v; break;
		case 't': o->seconds = (u32)v; break;
		case 'k': o->depth = (u32)v; break;
		case 'd': o->domain = optarg; break;
		case 'S': o->save = optarg; break;
		case 'l': o->list = true; break;
		case 'w': o->raw = true; break;
		case 'p': o->play = true; break;
		default:
			help();
			return opt == 'h' ? 0 : 2;
		}
	}
	if (!o->runs && !o->minutes && !o->seconds)
		o->runs = 100;
	return -1;
}

int main(int argc, char **argv)
{
	struct options o = { .seed = 1, .ops = 200 };
	bool ok = true, any = false;
	int r = parse(&o, argc, argv);

	if (r >= 0)
		return r;
	for (; o.play && optind < argc; optind++)
		ok &= play(argv[optind]);
	if (o.play)
		return !ok;
	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED)
		return 2;
	for (u32 i = 0; i < ndomains; i++) {
		if (o.list)
			puts(domains[i].name);
		if (o.list || !o.domain || (strcmp(o.domain, "all-of-them") && strcmp(o.domain, domains[i].name)))
			continue;
		any = true;
		ok &= run(&o, &domains[i]);
	}
	if (o.list)
		return 0;
	if (o.domain && !any) {
		fprintf(stderr, "fuzz-space: there is no small world '%s'; --list names them\n", o.domain);
		return 2;
	}
	if (!o.domain)
		ok = run(&o, NULL);
	return !ok;
}
