/* SPDX-License-Identifier: MIT */
/* cmd_run.c - tandem run: everything that can be wrong is found here, before anything starts. */
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include "base/fmt.h"
#include "cmd/cmd.h"

#define DEFAULT_PERCENT 75u

static const char help_text[] =
	"usage: tandem run [--ram SIZE|PCT%] [--tier SPEC]... [--stats FILE] [--strict] [--quiet] [--] PROGRAM [ARG...]\n\n"
	"Runs PROGRAM and its children with their anonymous memory under one budget.\n\n"
	"  --ram SIZE|PCT%  the budget, everything included: 512M, 1.5G, or a share of the machine's memory (of the\n"
	"                   memory cgroup's limit, if that is smaller). At least 8M. Default: 75%\n"
	"  --tier SPEC      where cold memory goes, warmest first: lz4[:SIZE], zstd[:SIZE], file[:DIR[:SIZE]].\n"
	"                   Default: lz4, then a file in $TMPDIR or /var/tmp\n"
	"  --stats FILE     write what happened as JSON when PROGRAM has ended\n"
	"  --strict         when every tier is full, end the program instead of exceeding the budget\n"
	"  --quiet          no live line on a terminal, no summary\n\n"
	"The exit status is PROGRAM's, or 128 + the number of the signal that ended it; 127: not found, 126: cannot be\n"
	"executed, 2: something is wrong with the options or the machine, nothing was started. See tandem-run(1).\n";

enum {
	OPT_RAM = 256,
	OPT_TIER,
	OPT_STATS,
	OPT_STRICT,
	OPT_QUIET,
	OPT_VERIFY,
	OPT_HELP
};

struct options {
	u64 budget;
	u32 ntiers;
	char tier[TDM_CONTROL_TIERS][120];
	const char *stats;
	bool strict, quiet, verify, help;
	char **argv;
};

static int parse_ram(const char *s, u64 *budget, char *err)
{
	char *end, small[24];
	double pct;

	tdmi_size_exact(TDM_BUDGET_MIN, small, sizeof(small));
	if (strchr(s, '%')) {
		pct = strtod(s, &end);
		if (end == s || strcmp(end, "%") || !(pct > 0 && pct <= 100))
			return tdmi_fail(err, -EINVAL, "--ram: '%s' is not a percentage between 0 and 100", s);
		*budget = (u64)((double)tdmi_ram_base("") * pct / 100) & TDM_PAGE_MASK;
	} else if (tdmi_parse_size(s, budget)) {
		return tdmi_fail(err, -EINVAL,
				 "--ram: '%s' is not a size; write a number with K, M, G or T (512M, 1.5G), or a percentage (25%%)", s);
	}
	if (*budget < TDM_BUDGET_MIN)
		return tdmi_fail(err, -EINVAL, "--ram: %s is too small to run in; give at least %s", s, small);
	return 0;
}

static int add_tier(struct options *o, const char *spec, char *err)
{
	char warn[CMD_ERR] = "";
	int r;

	if (o->ntiers == TDM_CONTROL_TIERS)
		return tdmi_fail(err, -EINVAL, "--tier: at most %u tiers", TDM_CONTROL_TIERS);
	r = tdmi_tier_check(spec, o->tier[o->ntiers], warn, err);
	if (!r)
		o->ntiers++;
	if (*warn)
		tdmi_complain("%s", warn);
	return r;
}

static int parse(int argc, char **argv, struct options *o, char *err)
{
	static const struct option longopts[] = {
		{ "ram", required_argument, NULL, OPT_RAM },     { "tier", required_argument, NULL, OPT_TIER },
		{ "stats", required_argument, NULL, OPT_STATS }, { "strict", no_argument, NULL, OPT_STRICT },
		{ "quiet", no_argument, NULL, OPT_QUIET },       { "verify-pss", no_argument, NULL, OPT_VERIFY },
		{ "help", no_argument, NULL, OPT_HELP },         { 0 },
	};
	int opt, r = 0;

	opterr = 0;
	while (!r && (opt = getopt_long(argc, argv, "+:hq", longopts, NULL)) != -1) {
		switch (opt) {
		case OPT_RAM:
			r = parse_ram(optarg, &o->budget, err);
			break;
		case OPT_TIER:
			r = add_tier(o, optarg, err);
			break;
		case OPT_STATS:
			o->stats = optarg;
			break;
		case OPT_STRICT:
			o->strict = true;
			break;
		case OPT_QUIET:
		case 'q':
			o->quiet = true;
			break;
		case OPT_VERIFY:
			o->verify = true;
			break;
		case OPT_HELP:
		case 'h':
			o->help = true;
			return 0;
		case ':':
			return tdmi_fail(err, -EINVAL, "option '%s' wants a value; see 'tandem help run'", argv[optind - 1]);
		default:
			return tdmi_fail(err, -EINVAL, "unknown option '%s'; see 'tandem help run'",
					 optopt && optopt < 256 ? (char[]){ '-', (char)optopt, 0 } : argv[optind - 1]);
		}
	}
	o->argv = argv + optind;
	if (!r && !*o->argv)
		return tdmi_fail(err, -EINVAL, "no program to run; write: tandem run [--ram SIZE] PROGRAM [ARG...]");
	return r;
}

static int prepare(struct options *o, char path[PATH_MAX], char preload[256], char *err)
{
	char warn[CMD_ERR] = "";
	int r;

	if (!o->budget)
		o->budget = TDM_MAX((tdmi_ram_base("") * DEFAULT_PERCENT / 100) & TDM_PAGE_MASK, TDM_BUDGET_MIN);
	if (o->stats && tdmi_json_check(o->stats, err))
		return EXIT_USAGE;
	r = tdmi_program_check(o->argv[0], path, PATH_MAX, err);
	if (r)
		return r;
	if (tdmi_library_find("libtandem-run.so", "TANDEM_PRELOAD", preload, 256, err) || tdmi_uffd_check(err))
		return EXIT_USAGE;
	if (!o->ntiers)
		o->ntiers = tdmi_tier_defaults(o->tier, warn);
	if (*warn)
		tdmi_complain("%s", warn);
	return 0;
}

static int finish(const struct supervise *s, const struct options *o)
{
	char err[CMD_ERR];

	if (!o->quiet)
		tdmi_report_summary(&s->run, stderr);
	tdmi_report_losses(&s->run, stderr);
	if (o->stats && tdmi_json_write(&s->run, o->stats, err))
		tdmi_complain("%s", err);
	return tdmi_report_exit(&s->run);
}

static int run_main(int argc, char **argv)
{
	static struct options o;
	static struct supervise s;
	static char path[PATH_MAX];
	char preload[256], name[64], err[CMD_ERR];
	const char *verify = getenv("TANDEM_VERIFY");
	int r = parse(argc, argv, &o, err) ? EXIT_USAGE : 0;

	if (o.help) {
		fputs(help_text, stdout);
		return 0;
	}
	if (!r)
		r = prepare(&o, path, preload, err);
	if (!r && tdmi_segment_create(&s.c, name, sizeof(name), err))
		r = EXIT_USAGE;
	if (!r) {
		s.c->budget = o.budget;
		s.c->strict = o.strict;
		s.c->ntiers = o.ntiers;
		memcpy(s.c->tier, o.tier, sizeof(o.tier));
		memcpy(s.c->preload, preload, sizeof(s.c->preload));
		s.run.c = s.c;
		s.run.argv = o.argv;
		s.path = path;
		s.name = name;
		s.quiet = o.quiet;
		s.verify = o.stats && (o.verify || (verify && !strcmp(verify, "1")));
		r = tdmi_supervise(&s, err);
	}
	if (r) {
		tdmi_complain("%s", err);
		return r;
	}
	return finish(&s, &o);
}

const struct cmd tdmi_cmd_run = {
	.name = "run",
	.summary = "run a program with its memory under a budget",
	.help = help_text,
	.main = run_main,
};
