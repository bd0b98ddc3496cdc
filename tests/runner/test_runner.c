// SPDX-License-Identifier: MIT
/* test_runner.c - the runner tells good tests from bad ones: it is run on victims.c, once for each. */
#include "t.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Run one victim. Its exit status; what it printed is in text. */
static int run(const char *args, char *text, size_t len)
{
	char cmd[512];
	FILE *p;
	size_t n;
	int status;

	CHECK(getenv("VICTIMS") != NULL);
	snprintf(cmd, sizeof(cmd), "%s %s 2>&1", getenv("VICTIMS"), args);
	p = popen(cmd, "r");
	CHECK(p != NULL);
	n = fread(text, 1, len - 1, p);
	text[n] = '\0';
	status = pclose(p);
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void expect(const char *name, int status, const char *says)
{
	char text[8192];

	CHECK_EQ(run(name, text, sizeof(text)), status);
	if (!strstr(text, says))
		t_fail(__FILE__, __LINE__, "%s: \"%s\" not in: %s", name, says, text);
}

TEST(good_one_passes)
{
	expect("passes", 0, "1..1\nok 1 - passes\n");
	expect("joins_thread", 0, "\nok 1");
	expect("leaks_allowed", 0, "\nok 1");
}

TEST(failed_check_is_told)
{
	expect("fails", 1, "not ok 1 - fails\n");
	expect("fails", 1, "victims.c:");
	expect("fails", 1, "6 * 7 == 54: 42 (0x2a) is not 54");
	expect("fails_in_child", 1, "\"as\" is not \"bs\"");
}

TEST(skipped_one_is_not_a_failure)
{
	expect("skips", 0, "ok 1 - skips # SKIP no reason\n");
}

TEST(leaks_are_caught)
{
	expect("leaks_fd", 1, "leak: 1 descriptors");
	expect("leaks_thread", 1, "leak: 1 threads");
	expect("leaks_child", 1, "leak: a child is still running");
}

TEST(leaked_mapping_is_caught)
{
	if (t_sanitized())
		SKIP("sanitizers map memory of their own");
	expect("leaks_mapping", 1, "leak: 4096 bytes of mappings");
}

TEST(hanging_one_is_killed)
{
	expect("hangs", 1, "time limit exceeded");
}

TEST(abnormal_end_is_a_failure)
{
	expect("crashes", 1, "killed by signal 6");
	expect("exits", 1, "exit status 3");
}

TEST(death_counts_only_where_expected)
{
	expect("dies_rightly", 0, "\nok 1");
	expect("dies_silently", 1, "died without saying \"farewell\"");
	expect("does_not_die", 1, "should have died");
}

TEST(selection)
{
	char text[8192];

	expect("'leaks_*d' skips", 1, "1..5\n"); /* fd, thread, allowed, child, skips */
	expect("no_such_test", 1, "no test of that name");
	CHECK_EQ(run("-l", text, sizeof(text)), 0);
	CHECK(strstr(text, "passes\nfails\n") == text);
}

/* Whatever happened to the test, or to the runner: $TMPDIR is as it was. */
TEST(files_are_removed)
{
	char text[8192], *dir = strdup(t_dir());

	setenv("TMPDIR", dir, 1);
	expect("leaves_files", 0, "\nok 1");
	CHECK(!rmdir(dir) && !mkdir(dir, 0700));
	expect("crashes_with_files", 1, "killed by signal 6");
	CHECK(!rmdir(dir) && !mkdir(dir, 0700));
	CHECK_EQ(run("stopped_with_files", text, sizeof(text)), 128 + SIGTERM);
	CHECK(!rmdir(dir) && !mkdir(dir, 0700));
	free(dir);
}

TEST(quick_is_slow)
{
	unsetenv("TDM_QUICK");
	CHECK_EQ(t_slow(), t_sanitized());
	setenv("TDM_QUICK", "1", 1);
	CHECK(t_slow());
}
