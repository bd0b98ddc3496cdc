// SPDX-License-Identifier: MIT
/* victims.c - tests that must be told right by the runner: test_runner.c runs them one by one and judges its verdict. */
#include "t.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

TEST(passes)
{
	CHECK_EQ(1, 1);
}

TEST(fails)
{
	CHECK_EQ(6 * 7, 54);
}

TEST(fails_in_child)
{
	if (fork() == 0) {
		CHECK_STR("as", "bs");
		_exit(0);
	}
	wait(NULL);
}

TEST(skips)
{
	SKIP("no reason");
}

TEST(leaks_fd)
{
	CHECK(open("/dev/null", O_RDONLY) >= 0);
}

static void *sleeper(void *arg)
{
	sleep(1000);
	return arg;
}

TEST(leaks_thread)
{
	pthread_t t;

	CHECK_EQ(pthread_create(&t, NULL, sleeper, NULL), 0);
}

static void *returner(void *arg)
{
	return arg;
}

/* Neither its stack nor its arena may be taken for a leak. */
TEST(joins_thread)
{
	pthread_t t;

	CHECK_EQ(pthread_create(&t, NULL, returner, NULL), 0);
	CHECK_EQ(pthread_join(t, NULL), 0);
}

TEST(leaks_mapping)
{
	CHECK(mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
}

TEST(leaks_allowed, .may_leak = true)
{
	CHECK(open("/dev/null", O_RDONLY) >= 0);
}

TEST(leaks_child)
{
	if (fork() == 0) {
		sleep(1000);
		_exit(0);
	}
}

TEST(hangs, .seconds = 1)
{
	for (;;)
		pause();
}

TEST(crashes)
{
	abort();
}

TEST(exits)
{
	_exit(3);
}

TEST_DIES(dies_rightly, "farewell")
{
	fprintf(stderr, "and so, farewell\n");
	abort();
}

TEST_DIES(dies_silently, "farewell")
{
	abort();
}

TEST_DIES(does_not_die, "farewell")
{
	fprintf(stderr, "farewell\n");
}

static void leave_files(void)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/below", t_dir());
	CHECK(!mkdir(path, 0700));
	snprintf(path, sizeof(path), "%s/below/file", t_dir());
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	close(fd);
}

TEST(leaves_files)
{
	leave_files();
}

TEST(crashes_with_files)
{
	leave_files();
	abort();
}

/* Somebody ends the runner meanwhile. */
TEST(stopped_with_files)
{
	leave_files();
	kill(getppid(), SIGTERM);
	pause();
}
