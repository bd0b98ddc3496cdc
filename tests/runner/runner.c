// SPDX-License-Identifier: MIT
/*
 * runner.c - main() of every test program; see t.h.
 *
 * One page is shared between the runner and a test's processes, so that a CHECK that fails in a process which the test forked fails the
 * test. What a test prints goes to a memfd. The leak check runs in the test's own process, after the test.
 */
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "leaks.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define T_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define T_SANITIZED 1
#endif
#ifndef T_SANITIZED
#define T_SANITIZED 0
#endif

#define EXIT_SKIP 77
#define DEFAULT_SECONDS 20u
#define OUTPUT_MAX (64 * 1024)

extern const struct t_test *const __start_tdm_tests[];
extern const struct t_test *const __stop_tdm_tests[];

/* Written by the test's processes, read by the runner after they have ended. */
static struct shared {
	volatile bool failed;
	volatile bool seed_used;
	char skip[200];
	char dir[200]; /* t_dir()'s; "": there is none */
} *shared;

static volatile sig_atomic_t running; /* the process group of the test that runs */
static volatile sig_atomic_t ended_by; /* the signal that the runner was told to end by */

void t_fail(const char *file, int line, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	dprintf(2, "%s:%d: CHECK failed: %s\n", file, line, text);
	shared->failed = true;
	_exit(1);
}

void t_skip(const char *reason)
{
	snprintf(shared->skip, sizeof(shared->skip), "%s", reason);
	_exit(EXIT_SKIP);
}

bool t_same(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

uint64_t t_seed(void)
{
	const char *s = getenv("TDM_SEED");

	shared->seed_used = true;
	return s ? strtoull(s, NULL, 0) : 1;
}

uint64_t t_rand(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

bool t_sanitized(void)
{
	return T_SANITIZED;
}

bool t_slow(void)
{
	return T_SANITIZED || getenv("TDM_QUICK");
}

const char *t_dir(void)
{
	if (!shared->dir[0]) {
		const char *tmp = getenv("TMPDIR");
		int n = snprintf(shared->dir, sizeof(shared->dir), "%s/tandem-unit-XXXXXX", tmp && *tmp ? tmp : "/tmp");

		if (n >= (int)sizeof(shared->dir) || !mkdtemp(shared->dir)) {
			shared->dir[0] = '\0';
			t_fail(__FILE__, __LINE__, "no directory can be made in %s", tmp && *tmp ? tmp : "/tmp");
		}
	}
	return shared->dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void *nothing(void *arg)
{
	return arg;
}

/* ThreadSanitizer starts a thread of its own with the first of the program: it must be there when threads are counted. */
static void start_sanitizer_thread(void)
{
	pthread_t t;

	if (T_SANITIZED && pthread_create(&t, NULL, nothing, NULL) == 0)
		pthread_join(t, NULL);
}

static _Noreturn void run_child(const struct t_test *t, int output)
{
	struct t_usage before;
	char leak[200];

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	dup2(output, 1);
	dup2(output, 2);
	close(output);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	setvbuf(stdout, NULL, _IONBF, 0);

	start_sanitizer_thread();
	t_usage_get(&before);
	t->fn();
	if (!t->may_leak && !t->dies && t_usage_leaked(&before, !T_SANITIZED, leak, sizeof(leak))) {
		dprintf(2, "leak: %s\n", leak);
		shared->failed = true;
		_exit(1);
	}
	exit(0); /* not _exit(): LeakSanitizer reports then */
}

/* Wait for the end of the test; kill it when its time is over. */
static int wait_child(pid_t pid, unsigned seconds, bool *late)
{
	int status, fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct timespec now, end;
	long left;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
		left = (end.tv_sec - now.tv_sec) * 1000 + (end.tv_nsec - now.tv_nsec) / 1000000;
	} while (left > 0 && poll(&p, 1, (int)left) < 0 && errno == EINTR);
	*late = p.revents == 0;
	/* Kills what the test left behind, too: while its leader is a zombie the group's number cannot be anybody else's. */
	kill(-pid, SIGKILL);
	if (*late)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (fd >= 0)
		close(fd);
	return status;
}

static void show_output(const char *text)
{
	while (*text) {
		size_t n = strcspn(text, "\n");

		printf("#   %.*s\n", (int)n, text);
		text += n + (text[n] == '\n');
	}
}

/* NULL: the test passed. */
static const char *judge(const struct t_test *t, int status, bool late, const char *output)
{
	static char why[200];

	if (late)
		return "time limit exceeded";
	if (shared->failed)
		return "failed";
	if (t->dies) {
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			return "should have died, but returned";
		if (strstr(output, t->dies))
			return NULL;
		snprintf(why, sizeof(why), "died without saying \"%.150s\"", t->dies);
		return why;
	}
	if (WIFSIGNALED(status)) {
		snprintf(why, sizeof(why), "killed by signal %d", WTERMSIG(status));
		return why;
	}
	if (WEXITSTATUS(status) == 0)
		return NULL;
	snprintf(why, sizeof(why), "ended with exit status %d", WEXITSTATUS(status));
	return why;
}

static bool run_test(const struct t_test *t, unsigned number)
{
	static char output[OUTPUT_MAX + 1];
	int status, fd = memfd_create("output", MFD_CLOEXEC);
	unsigned seconds = (t->seconds ? t->seconds : DEFAULT_SECONDS) * (T_SANITIZED ? 3 : 1);
	const char *why;
	bool late;
	pid_t pid;
	off_t size;
	ssize_t n;

	memset(shared, 0, sizeof(*shared));
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		run_child(t, fd);
	if (pid < 0 || fd < 0) {
		printf("not ok %u - %s: cannot start: %s\n", number, t->name, strerror(errno));
		return false;
	}
	setpgid(pid, pid);
	running = pid;
	if (ended_by)
		kill(-pid, SIGKILL);
	status = wait_child(pid, seconds, &late);
	running = 0;
	if (shared->dir[0])
		nftw(shared->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	if (ended_by)
		_exit(128 + ended_by);
	size = lseek(fd, 0, SEEK_END);
	n = pread(fd, output, OUTPUT_MAX, size > OUTPUT_MAX ? size - OUTPUT_MAX : 0);
	output[n > 0 ? n : 0] = '\0';
	close(fd);

	if (!late && !shared->failed && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP) {
		printf("ok %u - %s # SKIP %s\n", number, t->name, shared->skip);
		return true;
	}
	why = judge(t, status, late, output);
	printf("%sok %u - %s\n", why ? "not " : "", number, t->name);
	if (why) {
		printf("# %s: %s\n", t->name, why);
		if (shared->seed_used)
			printf("# TDM_SEED=%llu\n", (unsigned long long)t_seed());
		show_output(output);
	}
	fflush(stdout);
	return !why;
}

static bool selected(const char *name, char *const *patterns)
{
	if (!*patterns)
		return true;
	for (; *patterns; patterns++)
		if (fnmatch(*patterns, name, 0) == 0)
			return true;
	return false;
}

/* Whoever waits for the test cleans up after it, and ends. */
static void on_signal(int sig)
{
	ended_by = sig;
	if (running)
		kill(-running, SIGKILL);
}

/* glibc keeps the stacks of ended threads and an arena for each thread: with that, a leaked mapping could not be told. */
static void restart_without_caches(char **argv)
{
	if (T_SANITIZED || getenv("T_RESTARTED")) {
		unsetenv("T_RESTARTED");
		unsetenv("GLIBC_TUNABLES");
		return;
	}
	setenv("T_RESTARTED", "1", 1);
	setenv("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0:glibc.malloc.arena_max=1", 1);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	const struct t_test *const *t;
	unsigned count = 0, failed = 0, number = 0;
	char **patterns = argv + 1;

	(void)argc;
	restart_without_caches(argv);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 99;
	if (*patterns && strcmp(*patterns, "-l") == 0) {
		for (t = __start_tdm_tests; t < __stop_tdm_tests; t++)
			puts((*t)->name);
		return 0;
	}
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	for (t = __start_tdm_tests; t < __stop_tdm_tests; t++)
		count += selected((*t)->name, patterns);
	printf("1..%u\n", count);
	for (t = __start_tdm_tests; t < __stop_tdm_tests; t++)
		if (selected((*t)->name, patterns))
			failed += !run_test(*t, ++number);
	if (count == 0)
		fprintf(stderr, "no test of that name\n");
	return failed || count == 0;
}
