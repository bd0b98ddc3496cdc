/* SPDX-License-Identifier: MIT */
/* cmd_dmirror.c - tandem dmirror: a program finds the devices of the kernel's HMM test driver. What it finds is in src/dmirror. */
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd/cmd.h"
#include "dmirror/dmirror.h"

static const char help_text[] =
	"usage: tandem dmirror [--quiet] [--] PROGRAM [ARG...]\n\n"
	"Runs PROGRAM with the devices /dev/hmm_dmirror0 to 3 of the kernel's HMM test driver, emulated in user space: 0 and 1 have\n"
	"memory of their own that no CPU reaches, 2 and 3 memory that it does. The kernel's test suite for them is hmm-tests.\n\n"
	"  --quiet   do not say why a device could not be opened\n\n"
	"The exit status is PROGRAM's; 127: not found, 126: cannot be executed, 2: something is wrong with the options or the\n"
	"machine, nothing was started. See tandem-dmirror(1).\n";

struct options {
	bool quiet, help;
	char **argv;
};

static int parse(int argc, char **argv, struct options *o, char *err)
{
	static const struct option longopts[] = {
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+hq", longopts, NULL)) != -1) {
		switch (opt) {
		case 'q':
			o->quiet = true;
			break;
		case 'h':
			o->help = true;
			return 0;
		default:
			return tdmi_fail(err, -EINVAL, "unknown option '%s'; see 'tandem help dmirror'",
					 optopt && optopt < 256 && !strchr("qh", optopt) ? (char[]){ '-', (char)optopt, 0 } : argv[optind - 1]);
		}
	}
	o->argv = argv + optind;
	if (!*o->argv)
		return tdmi_fail(err, -EINVAL, "no program to run; write: tandem dmirror PROGRAM [ARG...]");
	return 0;
}

/* Everything that can be wrong. 0 or the exit status. */
static int prepare(const struct options *o, char path[PATH_MAX], char *err)
{
	const char *control = getenv(TDM_CONTROL_ENV);
	char library[256];
	int r = tdmi_program_check(o->argv[0], path, PATH_MAX, err);

	if (r)
		return r;
	if (control && *control)
		return tdmi_fail(err, EXIT_USAGE, "under 'tandem run' memory is managed already; run it without that");
	if (tdmi_library_find("libtandem-dmirror.so", "TANDEM_DMIRROR_PRELOAD", library, sizeof(library), err) || tdmi_uffd_check(err))
		return EXIT_USAGE;
	if (tdmi_library_preload(library) || (o->quiet && setenv(TDM_DMIRROR_QUIET_ENV, "1", 1)))
		return tdmi_fail(err, EXIT_USAGE, "no memory");
	return 0;
}

static int dmirror_main(int argc, char **argv)
{
	static struct options o;
	static char path[PATH_MAX];
	char err[CMD_ERR];
	int r = parse(argc, argv, &o, err) ? EXIT_USAGE : 0;

	if (o.help) {
		fputs(help_text, stdout);
		return 0;
	}
	if (!r)
		r = prepare(&o, path, err);
	if (!r) {
		execvp(path, o.argv);
		r = errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT;
		tdmi_fail(err, 0, "%s: %s", path, strerror(errno));
	}
	tdmi_complain("%s", err);
	return r;
}

const struct cmd tdmi_cmd_dmirror = {
	.name = "dmirror",
	.summary = "run a program that uses the kernel's HMM test devices",
	.help = help_text,
	.main = dmirror_main,
};
