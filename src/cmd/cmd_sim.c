/* SPDX-License-Identifier: MIT */
/* cmd_sim.c - tandem sim: run a scenario on a simulated machine. What a scenario is: src/sim/scenario.h. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "cmd/cmd.h"
#include "sim/report.h"

static const char help_text[] =
	"usage: tandem sim [OPTION...] SCENARIO\n"
	"       tandem sim --print-costs [--costs FILE]\n\n"
	"Simulates the machine, the processes and the devices that the file SCENARIO describes, and prints a table of counts and cycles: one row\n"
	"for each point of its sweep. The same scenario and seed give the same numbers, to the bit.\n\n"
	"  --json            print JSON, with the same numbers\n"
	"  --seed N          another seed than the scenario's\n"
	"  --costs FILE      what things take, where that is not the default\n"
	"  --set KEY=VALUE   another value for a key, as machine.cpus=4; of a key that is swept: other values, as 'machine.cpus=2 4'\n"
	"  --check           read and check the scenario, and do not run it\n"
	"  --print-costs     print what things take, and where each number comes from\n\n"
	"A scenario with a section [script] is not measured: its operations are carried out, and compared with a model of bytes and rights.\n"
	"Scenarios to begin with are in examples/sim. How to write one: tandem-sim(1) and docs/sim.md. The exit status is 2 if something\n"
	"is wrong with the options or a file, 1 if the simulation ended early, or a script differs from the model.\n";

#define SETS_MAX 64u

struct options {
	bool json, check, print_costs, help;
	const char *costs, *scenario;
	const char *set[SETS_MAX + 1]; /* and the seed */
	u32 nset;
	char seed[40];
};

static int parse_seed(struct options *o, const char *s, char *err)
{
	if (!*s || strspn(s, "0123456789") != strlen(s) || strlen(s) > 19 || strtoull(s, NULL, 10) >> 63)
		return tdmi_fail(err, -EINVAL, "--seed: expected a number from 0 to 9223372036854775807, not '%s'", s);
	snprintf(o->seed, sizeof(o->seed), "run.seed=%s", s);
	return 0;
}

static int parse_option(struct options *o, int opt, char **argv, char *err)
{
	switch (opt) {
	case 'j':
		o->json = true;
		return 0;
	case 's':
		return parse_seed(o, optarg, err);
	case 'c':
		o->costs = optarg;
		return 0;
	case 'S':
		if (o->nset == SETS_MAX)
			return tdmi_fail(err, -EINVAL, "--set: more than %u of them; change the file", SETS_MAX);
		o->set[o->nset++] = optarg;
		return 0;
	case 'k':
		o->check = true;
		return 0;
	case 'p':
		o->print_costs = true;
		return 0;
	case 'h':
		o->help = true;
		return 0;
	case ':':
		return tdmi_fail(err, -EINVAL, "%s needs a value; see 'tandem help sim'", argv[optind - 1]);
	default:
		return tdmi_fail(err, -EINVAL, "unknown option '%s'; see 'tandem help sim'",
				 optopt && optopt < 256 && optopt != 'h' ? (char[]){ '-', (char)optopt, 0 } : argv[optind - 1]);
	}
}

static int parse(int argc, char **argv, struct options *o, char *err)
{
	static const struct option longopts[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "seed", required_argument, NULL, 's' },
		{ "costs", required_argument, NULL, 'c' },
		{ "set", required_argument, NULL, 'S' },
		{ "check", no_argument, NULL, 'k' },
		{ "print-costs", no_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":h", longopts, NULL)) != -1) {
		int r = parse_option(o, opt, argv, err);

		if (r || o->help)
			return r;
	}
	if (*o->seed)
		o->set[o->nset++] = o->seed;
	o->scenario = argv[optind];
	if (o->print_costs && (o->json || o->check || o->nset || o->scenario))
		return tdmi_fail(err, -EINVAL, "--print-costs goes with --costs alone");
	if (!o->print_costs && !o->scenario)
		return tdmi_fail(err, -EINVAL, "which scenario? Write: tandem sim FILE; some are in examples/sim");
	if (o->scenario && argv[optind + 1])
		return tdmi_fail(err, -EINVAL, "one scenario, please; what is '%s'? See 'tandem help sim'", argv[optind + 1]);
	return 0;
}

static u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

static void progress(void *arg, u64 done, u64 total)
{
	tdmi_progress_update(arg, done, total);
}

static int run(const struct options *o, const struct tdm_scenario *s, const struct tdm_costs *costs, char *err)
{
	struct tdm_progress bar;
	struct tdm_report report;
	int r;

	tdmi_sim_report_init(&report, s, costs->hz);
	tdmi_progress_begin(&bar, STDERR_FILENO, false, now_ns);
	r = tdmi_sim_run(s, costs, &report, progress, &bar, err);
	tdmi_progress_end(&bar);
	if (!r) {
		r = o->json ? tdmi_sim_report_json(&report, stdout) : tdmi_sim_report_print(&report, stdout);
		if (r)
			tdmi_fail(err, r, "the result could not be written: %s", strerror(-r));
	}
	tdmi_sim_report_free(&report);
	return r ? 1 : 0;
}

/* A script has nothing to print but that it has come to its end. */
static int run_script(const struct options *o, const struct tdm_scenario *s, const struct tdm_costs *costs, char *err)
{
	static struct tdm_scenario point;
	struct tdm_script *x = tdmi_script_open();
	struct tdm_script_result res;
	int r = x ? tdmi_scenario_point(s, 0, &point, err) : tdmi_sim_fail(err, -ENOMEM, s->path, 0, "no memory");

	if (!r)
		r = tdmi_script_run(x, &point, costs, &res, err);
	/* What a script has left behind that went wrong is not taken down. */
	if (!r)
		tdmi_script_close(x);
	if (!r && printf(o->json ? "{\"operations\":%u,\"faults\":%llu,\"failures\":%llu}\n" : "%u operations, %llu faults, %llu failures that were asked for: nothing differs\n", res.done,
			 (unsigned long long)res.faults, (unsigned long long)res.failures) < 0)
		r = tdmi_fail(err, 1, "the result could not be written");
	return r ? 1 : 0;
}

_Static_assert(CMD_ERR == TDM_SIM_ERR, "one buffer for the messages of both");

/* 0, or the exit status with err. */
static int carry_out(const struct options *o, char *err)
{
	static struct tdm_scenario s;
	static struct tdm_costs costs;

	tdmi_costs_default(&costs);
	if (o->costs && tdmi_costs_load(&costs, o->costs, err))
		return EXIT_USAGE;
	if (o->print_costs) {
		tdmi_costs_print(&costs, stdout);
		return fflush(stdout) ? tdmi_fail(err, 1, "the result could not be written") : 0;
	}
	if (tdmi_scenario_load(&s, o->scenario, o->set, o->nset, err))
		return EXIT_USAGE;
	if (o->check)
		return 0;
	return s.script_line ? run_script(o, &s, &costs, err) : run(o, &s, &costs, err);
}

static int sim_main(int argc, char **argv)
{
	static struct options o;
	char err[CMD_ERR];
	int r = parse(argc, argv, &o, err) ? EXIT_USAGE : 0;

	if (o.help) {
		fputs(help_text, stdout);
		return 0;
	}
	if (!r)
		r = carry_out(&o, err);
	if (r)
		tdmi_complain("%s", err);
	return r;
}

const struct cmd tdmi_cmd_sim = {
	.name = "sim",
	.summary = "run a scenario on a simulated machine",
	.help = help_text,
	.main = sim_main,
};
