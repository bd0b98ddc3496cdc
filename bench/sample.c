/* SPDX-License-Identifier: MIT */
/*
 * sample - run a program and report the most memory that it and its descendants had, as the kernel measures it.
 *
 *     sample [-i MS] [-o FILE] [--] PROGRAM [ARG...]
 *
 * Exits as the program does (128 + n for a signal, 127 where it cannot be started) and writes one line of JSON.
 *
 * Every few milliseconds it adds up the Rss (/proc/PID/statm) of the whole tree. Only when that sum exceeds the largest Pss seen so far can
 * there be a new peak, and only then smaps_rollup is read, which walks the page tables and is not cheap. A page that moves to another
 * address while smaps_rollup walks can be met twice or not at all, so what counts for a process is the smaller of its Pss and
 * of its largest Rss around the walk: Pss can never truly exceed Rss. The walks are held to a few percent of one CPU; peak_rss is free of
 * that limit and bounds from above what may have been missed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define MAX_PROCS 1024
#define WALK_SHARE 16 /* page-table walks may take one part in so many of a CPU's time */

struct tree {
	pid_t pid[MAX_PROCS];
	uint64_t rss[MAX_PROCS]; /* KiB */
	int n;
};

static uint64_t page_kib;

/* Read a small file of /proc as a string. Returns its length, or -1: the process is gone. */
static ssize_t slurp(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	if (n >= 0)
		buf[n] = '\0';
	return n;
}

static uint64_t rss_kib(pid_t pid)
{
	char path[64], buf[256];
	unsigned long long size, resident;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	if (slurp(path, buf, sizeof(buf)) <= 0 || sscanf(buf, "%llu %llu", &size, &resident) != 2)
		return 0;
	return resident * page_kib;
}

static uint64_t pss_kib(pid_t pid)
{
	char path[64], buf[4096];
	const char *line;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	if (slurp(path, buf, sizeof(buf)) <= 0)
		return 0;
	line = strstr(buf, "\nPss:");
	return line ? strtoull(line + 5, NULL, 10) : 0;
}

/* Append the children of pid: those of its first thread, and of the others where it has any. */
static void add_children(struct tree *t, pid_t pid)
{
	char path[96], buf[16384];

	/* A thread that forks is the parent in this file only. Programs with several forking threads are rare, so a full scan of
	 * task/ is not made; orphans come to us, the subreaper, and are found as our own children. */
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	if (slurp(path, buf, sizeof(buf)) <= 0)
		return;
	for (char *p = buf, *end; t->n < MAX_PROCS; p = end) {
		long child = strtol(p, &end, 10);

		if (end == p)
			return;
		t->pid[t->n++] = (pid_t)child;
	}
}

static uint64_t scan(struct tree *t)
{
	uint64_t sum = 0;

	t->n = 0;
	add_children(t, getpid());
	for (int i = 0; i < t->n; i++)
		add_children(t, t->pid[i]);
	for (int i = 0; i < t->n; i++)
		sum += t->rss[i] = rss_kib(t->pid[i]);
	return sum;
}

static uint64_t walk(struct tree *t)
{
	uint64_t sum = 0;

	for (int i = 0; i < t->n; i++) {
		uint64_t before = rss_kib(t->pid[i]), pss = pss_kib(t->pid[i]), after = rss_kib(t->pid[i]);
		uint64_t most = before > after ? before : after;

		sum += pss < most ? pss : most;
	}
	return sum;
}

static pid_t child;

static void pass_on(int sig)
{
	kill(child, sig);
}

static int start(char **argv, const sigset_t *unblocked)
{
	int pipefd[2], err = 0;

	if (pipe2(pipefd, O_CLOEXEC) || (child = fork()) < 0)
		die("cannot start a process");
	if (child == 0) {
		sigprocmask(SIG_SETMASK, unblocked, NULL);
		signal(SIGINT, SIG_DFL);
		execvp(argv[0], argv);
		err = errno;
		if (write(pipefd[1], &err, sizeof(err)) < 0)
			_exit(127);
		_exit(127);
	}
	close(pipefd[1]);
	if (read(pipefd[0], &err, sizeof(err)) == sizeof(err))
		fprintf(stderr, "sample: %s: %s\n", argv[0], strerror(err));
	close(pipefd[0]);
	return err;
}

int main(int argc, char **argv)
{
	static struct tree tree;
	const char *path = NULL;
	uint64_t interval = 5, peak = 0, peak_rss = 0, samples = 0, walks = 0, walk_ns = 0, t0, wall;
	FILE *out = stderr;
	sigset_t chld, unblocked;
	struct timespec ts = { 0, 0 };
	struct rusage ru;
	int opt, status = 0, err;

	while ((opt = getopt(argc, argv, "+i:o:")) != -1) {
		if (opt == 'i')
			interval = strtoull(optarg, NULL, 10);
		else if (opt == 'o')
			path = optarg;
		else
			return 2;
	}
	if (optind >= argc || interval == 0) {
		fprintf(stderr, "usage: sample [-i MS] [-o FILE] [--] PROGRAM [ARG...]\n");
		return 2;
	}
	ts.tv_sec = (time_t)(interval / 1000);
	ts.tv_nsec = (long)(interval % 1000) * 1000000;
	page_kib = (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGINT, SIG_IGN); /* it reaches the program by itself: same process group */
	signal(SIGTERM, pass_on);
	t0 = now_ns();
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, &unblocked);
	err = start(argv + optind, &unblocked);
	while (!err) {
		pid_t pid = waitpid(-1, &status, WNOHANG);
		uint64_t sum, t;

		if (pid == child || (pid < 0 && errno != EINTR))
			break;
		if (pid > 0)
			continue;
		samples++;
		sum = scan(&tree);
		if (sum > peak_rss)
			peak_rss = sum;
		t = now_ns();
		if (sum > peak && walk_ns * WALK_SHARE <= t - t0) {
			uint64_t before = thread_cpu_ns(), pss = walk(&tree);

			walks++;
			walk_ns += thread_cpu_ns() - before;
			if (pss > peak)
				peak = pss;
		}
		/* Wake at once when the program ends, so that its time is not rounded up to the interval. */
		sigtimedwait(&chld, NULL, &ts);
	}
	wall = now_ns() - t0;
	getrusage(RUSAGE_CHILDREN, &ru);
	if (path && !(out = fopen(path, "w")))
		die("cannot write the output file");
	fprintf(out,
		"{\"wall_s\": %.6f, \"user_s\": %ld.%06ld, \"sys_s\": %ld.%06ld, \"peak_kib\": %llu, \"peak_rss_kib\": %llu, "
		"\"maxrss_kib\": %ld, \"samples\": %llu, \"walks\": %llu, \"walk_s\": %.3f, \"status\": %d}\n",
		(double)wall / 1e9, ru.ru_utime.tv_sec, (long)ru.ru_utime.tv_usec, ru.ru_stime.tv_sec, (long)ru.ru_stime.tv_usec,
		(unsigned long long)peak, (unsigned long long)peak_rss, ru.ru_maxrss, (unsigned long long)samples, (unsigned long long)walks,
		(double)walk_ns / 1e9, err ? 127 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	if (err)
		return 127;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
