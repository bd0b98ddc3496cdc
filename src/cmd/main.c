/* SPDX-License-Identifier: MIT */
/* main.c - finds the subcommand; tandem --help, --version, help NAME. */
#include <stdarg.h>
#include <string.h>
#include <unistd.h>
#include "cmd/cmd.h"

static const struct cmd *const cmds[] = {
	&tdmi_cmd_run,
	&tdmi_cmd_stat,
	&tdmi_cmd_dmirror,
	&tdmi_cmd_sim,
	&tdmi_cmd_explore,
};

void tdmi_complain(const char *fmt, ...)
{
	char line[1024] = "tandem: ";
	va_list ap;
	size_t n;

	va_start(ap, fmt);
	vsnprintf(line + 8, sizeof(line) - 9, fmt, ap);
	va_end(ap);
	for (n = 0; line[n]; n++)
		if ((unsigned char)line[n] < ' ')
			line[n] = '?'; /* a name may hold anything; a message is one line */
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return; /* nobody to tell */
}

int tdmi_fail(char *err, int r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, CMD_ERR, fmt, ap);
	va_end(ap);
	return r;
}

static void usage(FILE *f)
{
	fputs("usage: tandem COMMAND [ARG...]\n\n"
	      "Runs programs in less memory than they want: cold pages are compressed, or go to a file, and come back on touch.\n\n",
	      f);
	for (size_t i = 0; i < TDM_ARRAY_SIZE(cmds); i++)
		fprintf(f, "  %-8s %s\n", cmds[i]->name, cmds[i]->summary);
	fputs("  help     what a command takes: tandem help COMMAND\n\n"
	      "Manuals: tandem(1), tandem-run(1), tandem-dmirror(1), tandem-sim(1), tandem-explore(1), tandem(7).\n",
	      f);
}

/* Edits between two short words. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[32], na = (unsigned)strlen(a), nb = (unsigned)strlen(b);

	if (nb >= TDM_ARRAY_SIZE(row) || na > 64)
		return 99;
	for (unsigned j = 0; j <= nb; j++)
		row[j] = j;
	for (unsigned i = 1; i <= na; i++) {
		unsigned diag = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= nb; j++) {
			unsigned up = row[j];
			unsigned best = diag + (a[i - 1] != b[j - 1]);

			best = TDM_MIN(best, up + 1);
			row[j] = TDM_MIN(best, row[j - 1] + 1);
			diag = up;
		}
	}
	return row[nb];
}

static const struct cmd *find(const char *name)
{
	for (size_t i = 0; i < TDM_ARRAY_SIZE(cmds); i++)
		if (!strcmp(cmds[i]->name, name))
			return cmds[i];
	return NULL;
}

static int unknown(const char *name)
{
	const char *near = NULL;
	unsigned best = 3;

	for (size_t i = 0; i < TDM_ARRAY_SIZE(cmds); i++) {
		unsigned d = distance(name, cmds[i]->name);

		if (d < best) {
			best = d;
			near = cmds[i]->name;
		}
	}
	if (near)
		tdmi_complain("there is no command '%s'; did you mean '%s'? See 'tandem --help'", name, near);
	else
		tdmi_complain("there is no command '%s'; see 'tandem --help'", name);
	return EXIT_USAGE;
}

static int help(int argc, char **argv)
{
	const struct cmd *c;

	if (argc < 2) {
		usage(stdout);
		return 0;
	}
	c = find(argv[1]);
	if (!c)
		return unknown(argv[1]);
	fputs(c->help, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	const struct cmd *c;

	if (argc < 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("tandem " TDM_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return help(1, argv);
	if (!strcmp(argv[1], "help"))
		return help(argc - 1, argv + 1);
	if (argv[1][0] == '-') {
		tdmi_complain("there is no option '%s' before a command; see 'tandem --help'", argv[1]);
		return EXIT_USAGE;
	}
	c = find(argv[1]);
	return c ? c->main(argc - 1, argv + 1) : unknown(argv[1]);
}
