/* SPDX-License-Identifier: MIT */
/*
 * forks - processes that come and go by every way there is. All of them check memory that was evicted when they were born, and write their
 * own. What a child found goes through shared memory, because its parent may be dead by then.
 */
#include "common.h"
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>

extern char **environ;

struct common {
	_Atomic unsigned done, started, live;
	_Atomic bool failed;
	_Atomic bool stop;
};
static struct common *com;
static char *mem;     /* what every child checks */
static size_t npages;
#define NAME 0xf00000

static void setup(void)
{
	if (mem)
		return;
	com = shared(sizeof(*com));
	fail_flag = &com->failed;
	npages = opt.mb * MiB / 4 / PAGE;
	mem = anon(npages * PAGE);
	fill(mem, npages * PAGE, NAME, 0);
	press();
}

static pid_t do_fork(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	return pid;
}

/* Wait until n children have reported; they need not be ours. */
static void await(unsigned n, const char *what)
{
	for (uint64_t end = now_ns() + slow_s(60) * 1000000000ull; atomic_load(&com->done) < n; sleep_ms(1)) {
		if (atomic_load(&com->failed))
			_exit(1);
		CHECK(now_ns() < end, "%s: only %u of %u children have reported", what, atomic_load(&com->done), n);
	}
	CHECK(!atomic_load(&com->failed), "%s: a relative failed", what);
}

/* A child's duty: one page in `step` is checked, some are written and checked again. */
static void inspect(uint64_t salt, unsigned step, uint64_t version, const char *what)
{
	for (size_t i = salt % step; i < npages; i += step) {
		page_check(mem + i * PAGE, NAME + i, version, what);
		if (i % 3 == 0)
			page_gen(mem + i * PAGE, NAME + i, 1000 + salt);
	}
	for (size_t i = salt % step; i < npages; i += step)
		page_check(mem + i * PAGE, NAME + i, i % 3 ? version : 1000 + salt, what);
}

static void unchanged(const char *what)
{
	check(mem, npages * PAGE, NAME, 0, what);
}

static void part_storm(void)
{
	setup();
	for (unsigned round = 0; round < 4; round++) {
		pid_t pid[12];

		for (unsigned i = 0; i < 12; i++)
			if ((pid[i] = do_fork()) == 0) {
				inspect(round * 12 + i, i % 4 ? 64 : 4, 0, "child of a fork storm");
				_exit((int)i);
			} else if (i % 4 == 1) {
				press_some(press_mem.pages / 16);
			}
		for (unsigned i = 0; i < 12; i++)
			reap(pid[i], (int)i, "fork storm");
	}
	unchanged("parent, after a fork storm");
	/* Hundreds of short ones. */
	for (unsigned i = 0; i < 200; i++) {
		pid_t pid = do_fork();

		if (pid == 0) {
			page_check(mem + (i * 37 % npages) * PAGE, NAME + i * 37 % npages, 0, "short child");
			_exit(7);
		}
		reap(pid, 7, "short child");
	}
}

static void part_parent_first(void)
{
	setup();
	atomic_store(&com->done, 0);
	for (unsigned i = 0; i < 8; i++) {
		pid_t pid = do_fork();

		if (pid == 0) {
			page_gen(mem, NAME, 5);
			if (do_fork() == 0) {
				for (unsigned k = 0; k < 3000 && getppid() != 1 && k < 20; k++)
					sleep_ms(1); /* the parent is dead by then, more or less */
				page_check(mem, NAME, 5, "written by a parent that is dead");
				for (size_t p = 1; p < npages; p += i < 2 ? 1 : 16)
					page_check(mem + p * PAGE, NAME + p, 0, "orphan");
				fill(mem, npages / 2 * PAGE, NAME, 100 + i);
				check(mem, npages / 2 * PAGE, NAME, 100 + i, "orphan, its own writes");
				atomic_fetch_add(&com->done, 1);
				_exit(0);
			}
			_exit(0);
		}
		reap(pid, 0, "parent that ends first");
	}
	await(8, "orphans");
	unchanged("grandparent of orphans");
}

static void generation(unsigned depth)
{
	pid_t pid;

	for (size_t i = depth; i < npages; i += 8)
		page_gen(mem + i * PAGE, NAME + i, depth + 1);
	if (depth == 7) {
		for (size_t i = 0; i < npages; i++)
			page_check(mem + i * PAGE, NAME + i, i % 8 + 1, "youngest generation");
		atomic_fetch_add(&com->done, 1);
		return;
	}
	pid = do_fork();
	if (pid == 0) {
		generation(depth + 1);
		_exit(0);
	}
	if (depth % 2) {
		reap(pid, 0, "next generation");
		for (size_t i = 0; i < npages; i++)
			page_check(mem + i * PAGE, NAME + i, i % 8 <= depth ? i % 8 + 1 : 0, "elder generation");
	}
}

static void part_generations(void)
{
	pid_t pid;

	setup();
	atomic_store(&com->done, 0);
	pid = do_fork();
	if (pid == 0) {
		generation(0);
		_exit(0);
	}
	reap(pid, 0, "first generation");
	await(1, "generations");
	unchanged("before the first generation");
}

/* Somebody is killed at a random moment; the survivors must not notice. */
static void part_killed(void)
{
	struct rng r = { opt.seed };

	setup();
	for (unsigned round = 0; round < 12; round++) {
		pid_t top, *middle = shared(PAGE);
		_Atomic unsigned *ok = (void *)(middle + 16);

		top = do_fork();
		if (top == 0) {
			/* Middle and its child; either is killed while both are at work. */
			pid_t low = do_fork();

			if (low == 0) {
				prctl(PR_SET_PDEATHSIG, 0);
				middle[1] = getpid();
				for (unsigned k = 0; k < 6; k++)
					for (size_t i = k; i < npages; i += 16) {
						page_check(mem + i * PAGE, NAME + i, 0, "below somebody who is killed");
						page_gen(mem + i * PAGE, NAME + i, 200 + round);
					}
				for (unsigned k = 0; k < 6; k++)
					for (size_t i = k; i < npages; i += 16)
						page_check(mem + i * PAGE, NAME + i, 200 + round, "below somebody who was killed");
				atomic_fetch_add(ok, 1);
				_exit(0);
			}
			middle[0] = getpid();
			for (unsigned k = 0; k < 6; k++)
				for (size_t i = 6 + k; i < npages; i += 16) {
					page_check(mem + i * PAGE, NAME + i, 0, "above somebody who is killed");
					page_gen(mem + i * PAGE, NAME + i, 300 + round);
				}
			waitpid(low, NULL, 0);
			for (unsigned k = 0; k < 6; k++)
				for (size_t i = 6 + k; i < npages; i += 16)
					page_check(mem + i * PAGE, NAME + i, 300 + round, "above somebody who was killed");
			atomic_fetch_add(ok, 1);
			_exit(0);
		}
		while (!((volatile pid_t *)middle)[0] || !((volatile pid_t *)middle)[1])
			sleep_ms(1);
		usleep((useconds_t)below(&r, 30000));
		kill(middle[round % 2], SIGKILL);
		waitpid(top, NULL, 0);
		for (uint64_t end = now_ns() + slow_s(30) * 1000000000ull; atomic_load(ok) == 0; sleep_ms(1)) {
			/* With the upper one killed, the lower one must finish; with the lower one killed, the upper one. */
			if (atomic_load(&com->failed))
				_exit(1);
			CHECK(now_ns() < end, "round %u: the survivor never finished", round);
		}
		munmap(middle, PAGE);
	}
	unchanged("relatives were killed");
	/* All of a family at once. */
	for (unsigned round = 0; round < 3; round++) {
		pid_t top = do_fork();

		if (top == 0) {
			setpgid(0, 0);
			for (unsigned i = 0; i < 3; i++)
				if (do_fork() == 0)
					break;
			for (;;)
				inspect(1, 2, 0, "family"), fill(mem, npages * PAGE, NAME, 0);
		}
		setpgid(top, top);
		usleep((useconds_t)below(&r, 60000));
		kill(-top, SIGKILL);
		waitpid(top, NULL, 0);
	}
	unchanged("families were killed");
}

static void part_spawn(void)
{
	char *arg[] = { (char *)"sh", (char *)"-c", (char *)"exit 5", NULL };
	char line[64] = "";
	int st;
	pid_t pid;

	setup();
	for (unsigned i = 0; i < 20; i++) {
		if (i % 5 == 0)
			press_some(press_mem.pages / 4);
		pid = vfork();
		if (pid == 0) {
			execv("/bin/sh", arg);
			_exit(9);
		}
		reap(pid, 5, "vfork and exec");
		pid = vfork();
		if (pid == 0)
			_exit(page_is_zero(mem) ? 1 : 6); /* the parent's memory, out, touched by the child */
		reap(pid, 6, "vfork and _exit");
		CHECK(posix_spawn(&pid, "/bin/sh", NULL, NULL, arg, environ) == 0, "posix_spawn");
		reap(pid, 5, "posix_spawn");
	}
	for (unsigned i = 0; i < 5; i++) {
		FILE *f;

		press_some(press_mem.pages / 4);
		st = system("exit 3");
		CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 3, "system: %#x", st);
		f = popen("echo through a pipe; cat >/dev/null </dev/null", "r");
		CHECK(f && fgets(line, sizeof(line), f) && !strcmp(line, "through a pipe\n"), "popen gave: %s", line);
		CHECK(pclose(f) == 0, "pclose");
	}
	unchanged("after spawning");
}

/* Threads that keep malloc's locks, the page tables and the map busy. */
static void *busy(void *arg)
{
	struct rng r = { (uintptr_t)arg };
	char *block[16] = { 0 };

	while (!atomic_load(&com->stop)) {
		unsigned i = (unsigned)below(&r, 16);
		size_t len = 1 + below(&r, below(&r, 4) ? 4 * KiB : 300 * KiB);
		char *p;

		free(block[i]);
		block[i] = malloc(len);
		memset(block[i], 1, len);
		(void)*(volatile char *)(mem + below(&r, npages) * PAGE);
		if (below(&r, 4) == 0) {
			p = anon(128 * KiB);
			memset(p, 2, 128 * KiB);
			munmap(p, 128 * KiB);
		}
	}
	for (unsigned i = 0; i < 16; i++)
		free(block[i]);
	return NULL;
}

static void threaded(unsigned threads, unsigned forks)
{
	pthread_t th[64];
	uint64_t end;

	setup();
	atomic_store(&com->stop, false);
	for (uintptr_t i = 0; i < threads; i++)
		CHECK(pthread_create(&th[i], NULL, busy, (void *)(i + 1)) == 0, "pthread_create");
	end = now_ns() + 20000000000u; /* bounds a slow machine, not a deadlock: that is for the driver's limit */
	for (unsigned i = 0; i < forks && now_ns() < end; i++) {
		pid_t pid = do_fork();

		if (pid == 0) {
			char *p = malloc(100000);

			memset(p, 1, 100000);
			inspect(i, 256, 0, "child of a threaded program");
			free(p);
			if (i % 16 == 0) {
				pid = do_fork();
				if (pid == 0)
					_exit(0);
				reap(pid, 0, "grandchild of a threaded program");
			}
			_exit(11);
		}
		reap(pid, 11, "child of a threaded program");
	}
	atomic_store(&com->stop, true);
	for (unsigned i = 0; i < threads; i++)
		pthread_join(th[i], NULL);
	unchanged("after forks among threads");
}

static void part_threaded(void)
{
	threaded(4, opt.seconds > 5 ? 2000 : 150);
}

static void part_threads64(void)
{
	threaded(64, 12);
}

static long clone_raw(unsigned long flags)
{
	return syscall(SYS_clone, flags, NULL, NULL, NULL, 0);
}

/* Not through libc at all: no wrapper can see it. */
static long clone_asm(void)
{
#if defined(__x86_64__)
	long ret;
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(SYS_clone), "D"((long)SIGCHLD), "S"(0l), "d"(0l), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return ret;
#else
	return clone_raw(SIGCHLD);
#endif
}

static void raw(long (*call)(void), const char *what)
{
	setup();
	for (unsigned i = 0; i < 12; i++) {
		long pid;

		if (i % 4 == 0)
			press_some(press_mem.pages / 2);
		pid = call();
		CHECK(pid >= 0, "%s: %s", what, strerror(errno));
		if (pid == 0) {
			inspect(i, 16, 0, what);
			_exit(4);
		}
		press_some(press_mem.pages / 16);
		reap((pid_t)pid, 4, what);
	}
	unchanged(what);
}

static long by_clone(void)
{
	return clone_raw(SIGCHLD);
}

static long by_fork(void)
{
#ifdef SYS_fork
	return syscall(SYS_fork);
#else
	return clone_raw(SIGCHLD);
#endif
}

static long by_vfork_flag(void)
{
	return clone_raw(CLONE_VFORK | SIGCHLD); /* own memory, parent waits */
}

static long by_clone3(void)
{
	uint64_t args[11] = { 0 };
	long r;

	args[4] = SIGCHLD;
	r = syscall(SYS_clone3, args, sizeof(args));
	return r < 0 && (errno == ENOSYS || errno == EPERM) ? by_clone() : r;
}

static void *raw_forker(void *arg)
{
	for (unsigned i = (unsigned)(uintptr_t)arg; !atomic_load(&com->stop); i++) {
		uint64_t start = now_ns(), took;
		long pid = by_fork();

		took = now_ns() - start;
		CHECK(pid >= 0, "fork by syscall(): %s", strerror(errno));
		if (pid == 0) {
			inspect(i, 64, 0, "child of a bare fork among others");
			_exit(4);
		}
		reap((pid_t)pid, 4, "child of a bare fork among others");
		/* Each is given all that is out, and nobody else is served meanwhile: with no pause in between the others would not get on, least of all with a slow
		 * disk below. */
		sleep_ms(30 + (unsigned)(took / 500000));
	}
	return NULL;
}

static void *dropper(void *arg)
{
	char *p = anon(512 * KiB);

	while (!atomic_load(&com->stop)) {
		memset(p, 1, 512 * KiB);
		madvise(p, 512 * KiB, MADV_DONTNEED);
	}
	munmap(p, 512 * KiB);
	return NULL;
}

/* Threads that fork by libc and threads that make the bare system call, while pages that both sides have are being dropped. */
static void part_mixed(void)
{
	pthread_t th[4];

	setup();
	atomic_store(&com->stop, false);
	for (uintptr_t i = 0; i < 4; i++)
		CHECK(pthread_create(&th[i], NULL, i < 2 ? raw_forker : dropper, (void *)i) == 0, "pthread_create");
	for (unsigned i = 0; i < (opt.seconds > 5 ? 400u : 20u); i++) {
		pid_t pid = do_fork();

		if (pid == 0) {
			inspect(i, 64, 0, "child of a fork among bare ones");
			_exit(11);
		}
		reap(pid, 11, "child of a fork among bare ones");
		press_some(press_mem.pages / 32);
	}
	atomic_store(&com->stop, true);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(th[i], NULL);
	unchanged("after forks of both kinds");
}

static void part_raw(void)
{
	raw(by_fork, "fork by syscall()");
	raw(by_clone, "clone by syscall()");
	raw(by_clone3, "clone3 by syscall()");
	raw(by_vfork_flag, "clone that waits, by syscall()");
	raw(clone_asm, "clone by an instruction of the program's own");
}

static void part_daemon(void)
{
	pid_t pid;

	setup();
	atomic_store(&com->done, 0);
	pid = do_fork();
	if (pid == 0) {
		CHECK(daemon(1, 0) == 0, "daemon: %s", strerror(errno));
		inspect(0, 2, 0, "daemon");
		press();
		inspect(1, 2, 0, "daemon, later");
		atomic_fetch_add(&com->done, 1);
		_exit(0);
	}
	reap(pid, 0, "parent of a daemon");
	await(1, "daemon");
	unchanged("after a daemon");
}

static int at_exit_pipe[2];

static void at_exit(void)
{
	(void)!write(at_exit_pipe[1], "h", 1);
}

/* exit() in a child runs the handlers, _exit() does not; a child returns from where the parent called. */
static void part_exit(void)
{
	char buf[16];
	pid_t pid;

	setup();
	CHECK_SYS(pipe2(at_exit_pipe, O_NONBLOCK));
	pid = do_fork();
	if (pid == 0) {
		atexit(at_exit);
		exit(0);
	}
	reap(pid, 0, "exit in a child");
	CHECK(read(at_exit_pipe[0], buf, 16) == 1, "exit() in a child did not run its handler once");
	pid = do_fork();
	if (pid == 0) {
		atexit(at_exit);
		_exit(0);
	}
	reap(pid, 0, "_exit in a child");
	CHECK(read(at_exit_pipe[0], buf, 16) == -1, "_exit() in a child ran a handler");
	close(at_exit_pipe[0]);
	close(at_exit_pipe[1]);
	/* Killed children say so. */
	for (int sig = SIGKILL; sig; sig = sig == SIGKILL ? SIGTERM : sig == SIGTERM ? SIGSEGV : 0) {
		int st;

		pid = do_fork();
		if (pid == 0) {
			signal(sig, SIG_DFL);
			if (sig == SIGSEGV)
				mprotect(mem, PAGE, PROT_READ), *(volatile char *)mem = 1;
			raise(sig);
			_exit(0);
		}
		waitpid(pid, &st, 0);
		CHECK(WIFSIGNALED(st) && WTERMSIG(st) == sig, "a child that died of signal %d has status %#x", sig, st);
	}
}

/* The child works on while the parent works on: both write, neither sees the other. */
static void part_side_by_side(void)
{
	setup();
	for (unsigned round = 0; round < 3; round++) {
		pid_t pid = do_fork();
		uint64_t v = pid == 0 ? 400 + round : 500 + round;

		for (unsigned pass = 0; pass < 4; pass++)
			for (size_t i = pass; i < npages; i += 4) {
				size_t k = pid == 0 ? i : npages - 1 - i;

				page_check(mem + k * PAGE, NAME + k, 0, "side by side");
				page_gen(mem + k * PAGE, NAME + k, v);
			}
		check(mem, npages * PAGE, NAME, v, pid == 0 ? "child, beside its parent" : "parent, beside its child");
		if (pid == 0)
			_exit(0);
		reap(pid, 0, "side by side");
		fill(mem, npages * PAGE, NAME, 0);
	}
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "storm", part_storm }, { "parent-first", part_parent_first }, { "generations", part_generations }, { "killed", part_killed },
		{ "spawn", part_spawn }, { "threaded", part_threaded }, { "threads64", part_threads64 }, { "raw", part_raw }, { "mixed", part_mixed }, { "daemon", part_daemon },
		{ "exit", part_exit }, { "side-by-side", part_side_by_side },
	};

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
