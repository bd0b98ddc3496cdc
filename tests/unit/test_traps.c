/* SPDX-License-Identifier: MIT */
/* A build with ub_traps: does undefined behaviour end the process? Without this the live tests would pass in a build that asks nothing. */
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/types.h"
#include "runner/t.h"

static int overflow(void)
{
	volatile int most = INT_MAX;

	return most + 1;
}

static int shift(void)
{
	volatile unsigned by = 64;

	return (int)((u64)1 << by);
}

static int misaligned(void)
{
	static u64 two[2];
	void *volatile odd = (char *)two + 1;

	return (int)*(volatile u64 *)odd;
}

/* On a thread of the engine's, which has all signals blocked, as on this one. */
static void ends_by_trap(int (*fn)(void))
{
	sigset_t all;
	int status;
	pid_t pid = fork();

	if (!pid) {
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, NULL);
		_exit(fn() == 1);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status));
	CHECK_EQ(WTERMSIG(status), SIGILL);
}

TEST(an_overflow)
{
	ends_by_trap(overflow);
}

TEST(a_shift_too_far)
{
	ends_by_trap(shift);
}

TEST(a_misaligned_load)
{
	ends_by_trap(misaligned);
}
