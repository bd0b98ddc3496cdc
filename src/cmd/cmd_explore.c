/* SPDX-License-Identifier: MIT */
/* cmd_explore.c - tandem explore: hands over to tandem-explore, which is built from the engine's sources with other hooks (tests/explore, src/plat/explore). */
#include <limits.h>
#include <string.h>
#include <unistd.h>
#include "cmd/cmd.h"

static int explore_main(int argc, char **argv)
{
	char path[PATH_MAX], err[CMD_ERR];

	(void)argc;
	if (tdmi_library_find("tandem-explore", "TANDEM_EXPLORE", path, sizeof(path), err)) {
		tdmi_complain("%s (it is built where compiler and machine allow: gcc or clang, on x86)", err);
		return EXIT_USAGE;
	}
	execv(path, argv);
	tdmi_complain("%s: %s", path, strerror(errno));
	return EXIT_USAGE;
}

const struct cmd tdmi_cmd_explore = {
	.name = "explore",
	.summary = "run small scenarios of the engine in every interleaving",
	.help = "usage: tandem explore [OPTION...] [SCENARIO...]\n\n"
		"Runs small scenarios of the engine's own object code in every interleaving of their threads, within bounds, and with what weak memory lets\n"
		"loads see. A scenario that fails prints a list of choices that makes the same run again.\n\n"
		"  --list             name and purpose of each scenario\n"
		"  --preemptions N    interrupt threads at most N times in a run (2)\n"
		"  --stale N          let at most N loads of a run see an old value (1)\n"
		"  --trace            tell a run that fails, or that is replayed, step by step\n"
		"  --replay CHOICES   make that one run again\n\n"
		"All options, and what is covered and what is not: tandem-explore(1), docs/explorer.md. The exit status is 0 if nothing was found, 1 if\n"
		"something was, 2 if something is wrong with the options.\n",
	.main = explore_main,
};
