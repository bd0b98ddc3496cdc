/* SPDX-License-Identifier: MIT */
/*
 * readonly - memory that the program has made read-only goes as any other does, and nobody can tell: a store to it fails with SIGSEGV at every moment,
 * what is read is right, and it can be made writable again, in parts, at any time.
 */
#include "common.h"
#include <pthread.h>
#include <setjmp.h>

static uint64_t *mem;
static size_t nwords;
static _Atomic bool stop;
static __thread sigjmp_buf back;

static uint64_t word(size_t i)
{
	return i % 64 ? i * 3 : (i + 1) * 0x9e3779b97f4a7c15u;
}

static void on_segv(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

/* Stores that must all fail. */
static void *store(void *arg)
{
	struct rng r = { opt.seed + (uintptr_t)arg };
	struct timespec nap = { 0, 20000 };

	while (!atomic_load(&stop)) {
		volatile uint64_t *p = mem + below(&r, nwords);

		if (!sigsetjmp(back, 1)) {
			*p = 0;
			fail("a store to a read-only page went through");
		}
		nanosleep(&nap, NULL);
	}
	return NULL;
}

static void check_all(void)
{
	for (size_t i = 0; i < nwords; i += 61)
		CHECK(mem[i] == word(i), "word %zu is %#" PRIx64 ", must be %#" PRIx64, i, mem[i], word(i));
}

static void part_stores_fail(void)
{
	struct sigaction sa = { .sa_handler = on_segv, .sa_flags = SA_NODEFER };
	pthread_t th[2];

	CHECK_SYS(sigaction(SIGSEGV, &sa, NULL));
	CHECK_SYS(mprotect(mem, nwords * 8, PROT_READ));
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(pthread_create(&th[i], NULL, store, (void *)i) == 0, "pthread_create");
	for (unsigned i = 0; i < 3; i++)
		check_all();
	/* All of it does not fit: what has been read last is there, and something is not. */
	CHECK(!opt.managed || out_pages(mem, nwords * 8) > nwords * 8 / PAGE / 8, "only %zu pages are out", out_pages(mem, nwords * 8));
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
	sa.sa_handler = SIG_DFL;
	CHECK_SYS(sigaction(SIGSEGV, &sa, NULL));
}

/* Writable for a moment, here and there. */
static void part_changes(void)
{
	struct rng r = { opt.seed };

	CHECK_SYS(mprotect(mem, nwords * 8, PROT_READ));
	for (unsigned i = 0; i < 400; i++) {
		size_t page = below(&r, nwords * 8 / PAGE - 64), n = 1 + below(&r, 64);
		char *at = (char *)mem + page * PAGE;
		size_t k = (size_t)((uint64_t *)(void *)at - mem);

		CHECK_SYS(mprotect(at, n * PAGE, PROT_READ | PROT_WRITE));
		CHECK(mem[k] == word(k), "word %zu is %#" PRIx64 " before it is written", k, mem[k]);
		mem[k] = 7;
		mem[k] = word(k);
		CHECK_SYS(mprotect(at, n * PAGE, PROT_READ));
		if (i % 100 == 0)
			check_all();
	}
	check_all();
	CHECK_SYS(mprotect(mem, nwords * 8, PROT_READ | PROT_WRITE));
}

/* A child has it too. */
static void part_fork(void)
{
	CHECK_SYS(mprotect(mem, nwords * 8, PROT_READ));
	for (unsigned i = 0; i < 3; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0, "fork: %s", strerror(errno));
		if (pid == 0) {
			check_all();
			_exit(3);
		}
		check_all();
		reap(pid, 3, "child");
	}
	CHECK_SYS(mprotect(mem, nwords * 8, PROT_READ | PROT_WRITE));
}

int main(int argc, char **argv)
{
	static const struct part parts[] = { { "stores", part_stores_fail }, { "changes", part_changes }, { "fork", part_fork } };

	parse(argc, argv);
	nwords = opt.mb * MiB / 8;
	mem = anon(nwords * 8);
	for (size_t i = 0; i < nwords; i++)
		mem[i] = word(i);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
