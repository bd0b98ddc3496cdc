/* SPDX-License-Identifier: MIT */
/* cmd_stat.c - tandem stat: what a running tree of processes uses and has done. */
#include <stdlib.h>
#include <string.h>
#include "cmd/cmd.h"

static const char help_text[] =
	"usage: tandem stat PID [--json]\n\n"
	"Prints what 'tandem run' prints at its end, for one that still runs. PID is that of 'tandem run', or of any process under it.\n\n"
	"  --json   as JSON, with the fields of 'tandem run --stats'\n";

/* Only digits, so that a typing mistake is not taken for another process. */
static pid_t parse_pid(const char *s)
{
	char *end;
	long n = strtol(s, &end, 10);

	return *s >= '0' && *s <= '9' && !*end && n > 0 && n <= 0x7fffffff ? (pid_t)n : 0;
}

static int stat_main(int argc, char **argv)
{
	static struct run run;
	const char *which = NULL;
	char err[CMD_ERR];
	bool json = false;
	pid_t pid;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			fputs(help_text, stdout);
			return 0;
		}
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (argv[i][0] == '-' || which) {
			tdmi_complain("stat: %s '%s'; see 'tandem help stat'", which ? "one process, please; what is" : "unknown option",
				      argv[i]);
			return EXIT_USAGE;
		} else {
			which = argv[i];
		}
	}
	pid = which ? parse_pid(which) : 0;
	if (!pid) {
		tdmi_complain(which ? "stat: '%s' is not a process id" : "stat: of which process? Write: tandem stat PID", which);
		return EXIT_USAGE;
	}
	if (tdmi_segment_of(pid, &run.c, err)) {
		tdmi_complain("%s", err);
		return EXIT_USAGE;
	}
	tdmi_report_look(&run);
	if (json)
		return tdmi_json_print(&run, stdout) ? 1 : 0;
	tdmi_report_summary(&run, stdout);
	tdmi_report_processes(&run, stdout);
	return 0;
}

const struct cmd tdmi_cmd_stat = {
	.name = "stat",
	.summary = "show what a running program and its children use",
	.help = help_text,
	.main = stat_main,
};
