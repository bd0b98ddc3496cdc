/* SPDX-License-Identifier: MIT */
/*
 * fds - the program owns its descriptor table: it may close every number, use any number, have none to spare, and sees no number that it
 * did not open. All of that while memory is out, and stays correct.
 */
#include "common.h"
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

static char *mem;
static size_t npages;
static uint64_t version;
#define NAME 0xd00000

/* Evict everything, and see that all of it comes back. */
static void cycle(const char *what)
{
	if (!mem) {
		npages = opt.mb * MiB / 4 / PAGE;
		mem = anon(npages * PAGE);
		fill(mem, npages * PAGE, NAME, 0);
	}
	press();
	check(mem, npages * PAGE, NAME, version, what);
	fill(mem, npages * PAGE, NAME, ++version);
	press();
	check(mem, npages * PAGE, NAME, version, what);
}

/* Run a part in a child, which may ruin its descriptors. */
static void in_child(void (*body)(void), const char *what)
{
	pid_t pid;

	cycle(what);
	pid = fork();
	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (pid == 0) {
		body();
		_exit(0);
	}
	reap(pid, 0, what);
	cycle(what);
}

/* Reports have to go somewhere when all descriptors are closed: the exit status is enough then, and the shared flag. */
static void close_loop(void)
{
	for (int i = 0; i < 1024; i++)
		close(i);
	cycle("after closing 0 to 1023");
}

static void close_range_all(void)
{
	if (syscall(SYS_close_range, 3, ~0u, 0) != 0)
		return;
	cycle("after close_range");
	syscall(SYS_close_range, 0, ~0u, 0);
	cycle("after close_range of everything");
}

static void closefrom_all(void)
{
	closefrom(3);
	cycle("after closefrom");
}

static void close_found(void)
{
	/* What daemons and interpreters do: close whatever /proc/self/fd lists. */
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	int list[1024], n = 0;

	CHECK(d, "opendir /proc/self/fd");
	while ((e = readdir(d)) && n < 1024)
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
			list[n++] = atoi(e->d_name);
	closedir(d);
	while (n)
		close(list[--n]);
	cycle("after closing what was listed");
}

static void close_raw(void)
{
	for (int i = 3; i < 4096; i++)
		syscall(SYS_close, i);
	cycle("after closing 3 to 4095 by syscall()");
}

static void part_close(void)
{
	in_child(close_loop, "close loop");
	in_child(close_range_all, "close_range");
	in_child(closefrom_all, "closefrom");
	in_child(close_found, "close by /proc/self/fd");
	in_child(close_raw, "close by syscall()");
}

static void dup_over(void)
{
	int null = open("/dev/null", O_RDWR);

	for (int i = 3; i < 1500; i++)
		if (i != null)
			CHECK(dup2(null, i) == i, "dup2 to %d: %s", i, strerror(errno));
	cycle("after dup2 over 3 to 1499");
	for (int i = 3; i < 1500; i++)
		if (i != null && i % 3 == 0)
			syscall(SYS_dup3, null, i, O_CLOEXEC);
	cycle("after dup3 by syscall()");
	for (int i = 3; i < 1500; i++)
		if (i != null)
			CHECK(close(i) == 0, "close of %d: %s", i, strerror(errno));
	cycle("after closing them");
}

static void part_dup(void)
{
	struct rlimit rl;

	getrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_cur < 1500 && rl.rlim_max >= 1500) {
		rl.rlim_cur = 1500;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	in_child(dup_over, "dup2");
}

static void limit_low(void)
{
	struct rlimit rl = { 4, 4 };
	pid_t pid;

	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &rl));
	cycle("with RLIMIT_NOFILE of 4");
	pid = fork();
	if (pid == 0) {
		cycle("child with RLIMIT_NOFILE of 4");
		_exit(0);
	}
	CHECK(pid > 0, "fork with RLIMIT_NOFILE of 4: %s", strerror(errno));
	reap(pid, 0, "child with RLIMIT_NOFILE of 4");
	rl.rlim_cur = rl.rlim_max = 0;
	setrlimit(RLIMIT_NOFILE, &rl);
	cycle("with RLIMIT_NOFILE of 0");
}

static void limit_used_up(void)
{
	struct rlimit rl = { 64, 64 };

	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &rl));
	while (open("/dev/null", O_RDONLY) >= 0)
		;
	cycle("with every descriptor in use");
}

static void part_limit(void)
{
	in_child(limit_low, "low limit");
	in_child(limit_used_up, "limit used up");
}

static unsigned listed(char *names, size_t len)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	unsigned n = 0;

	CHECK(d, "opendir /proc/self/fd: %s", strerror(errno));
	names[0] = 0;
	while ((e = readdir(d))) {
		char path[300], to[200] = "";
		int fd = atoi(e->d_name);

		if (e->d_name[0] == '.' || fd == dirfd(d))
			continue;
		n++;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (readlink(path, to, sizeof(to) - 1) < 0)
			strcpy(to, "?");
		snprintf(names + strlen(names), len - strlen(names), " %d:%s", fd, to);
	}
	closedir(d);
	return n;
}

/* TANDEM_TEST_FDS: how many the driver has given us. */
static void part_visible(void)
{
	char names[4000];
	const char *given = getenv("TANDEM_TEST_FDS");
	unsigned n = given ? (unsigned)atoi(given) : 3, found;
	int fd, fd2;

	cycle("before counting descriptors");
	found = listed(names, sizeof(names));
	CHECK(found == n, "%u descriptors are open, %u were given:%s", found, n, names);
	/* The lowest free number is the next one, as POSIX says. */
	CHECK_SYS(fd = open("/dev/null", O_RDONLY | O_CLOEXEC));
	CHECK(fd == (int)n, "open gave %d, the lowest free number is %u", fd, n);
	cycle("with one more descriptor");
	fd2 = dup(fd);
	CHECK(fd2 == fd + 1, "dup gave %d, the lowest free number is %d", fd2, fd + 1);
	close(fd);
	close(fd2);
	found = listed(names, sizeof(names));
	CHECK(found == n, "%u descriptors are open at the end, %u were given:%s", found, n, names);
	/* Nor does a program that we start see any. */
	{
		char cmd[200];
		int st;

		snprintf(cmd, sizeof(cmd), "n=0; for f in /proc/$$/fd/*; do [ -e \"$f\" ] && n=$((n+1)); done; [ $n -ge %u ] && [ $n -le %u ]", n, n + 2);
		st = system(cmd); /* a shell may hold one of its own, its script say */
		CHECK(st == 0, "a child of this program has descriptors that nobody gave it (status %#x)", st);
	}
}

/* Nobody else may hold a copy of a pipe end: a reader sees the end when the program closed its writers. */
static void eof_after(void (*between)(void), const char *what)
{
	int p[2];
	struct pollfd pf;
	char c;

	CHECK_SYS(pipe(p));
	between();
	close(p[1]);
	pf = (struct pollfd){ .fd = p[0], .events = POLLIN };
	CHECK(poll(&pf, 1, 3000) == 1, "%s: no end of file after the last writer was closed: somebody holds a copy", what);
	CHECK(read(p[0], &c, 1) == 0, "%s: no end of file", what);
	close(p[0]);
}

static void btw_cycle(void)
{
	cycle("with a pipe open");
}

static void btw_fork(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		cycle("child with a pipe open");
		_exit(0);
	}
	reap(pid, 0, "child with a pipe open");
}

static void *nop(void *arg)
{
	cycle("thread with a pipe open");
	return NULL;
}

static void btw_thread(void)
{
	pthread_t th;

	CHECK(pthread_create(&th, NULL, nop, NULL) == 0, "pthread_create");
	pthread_join(th, NULL);
}

static void part_eof(void)
{
	int p[2], st;
	char c;
	pid_t pid;

	eof_after(btw_cycle, "after eviction");
	eof_after(btw_fork, "after a fork");
	eof_after(btw_thread, "after a thread");
	/* A child that is alive and has closed its copy. */
	CHECK_SYS(pipe(p));
	pid = fork();
	if (pid == 0) {
		close(p[0]);
		close(p[1]);
		cycle("child that has closed its copies");
		sleep(20);
		_exit(0);
	}
	close(p[1]);
	{
		struct pollfd pf = { .fd = p[0], .events = POLLIN };

		CHECK(poll(&pf, 1, 15000) == 1 && read(p[0], &c, 1) == 0, "no end of file although a living child has closed its copy");
	}
	kill(pid, SIGKILL);
	waitpid(pid, &st, 0);
	close(p[0]);
	/* A child that dies suddenly takes its copy with it. */
	CHECK_SYS(pipe(p));
	pid = fork();
	if (pid == 0) {
		close(p[0]);
		cycle("child that will be killed");
		(void)!write(p[1], "x", 1);
		for (;;)
			cycle("child that will be killed");
	}
	close(p[1]);
	CHECK(read(p[0], &c, 1) == 1, "child did not report");
	kill(pid, SIGKILL);
	waitpid(pid, &st, 0);
	{
		struct pollfd pf = { .fd = p[0], .events = POLLIN };

		CHECK(poll(&pf, 1, 5000) == 1 && read(p[0], &c, 1) == 0, "no end of file after a child was killed");
	}
	close(p[0]);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "visible", part_visible }, { "eof", part_eof }, { "close", part_close }, { "dup", part_dup }, { "limit", part_limit },
	};
	static _Atomic bool *flag;

	parse(argc, argv);
	flag = shared(PAGE);
	fail_flag = (void *)flag;
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
