/* SPDX-License-Identifier: MIT */
/*
 * drops - threads that drop pages (MADV_DONTNEED), read the zeros, and write one word into them, over and over, while another forks. Each page has one word
 * that differs from zero, or none: what was dropped must be gone, and what was written since must be there.
 */
#include "common.h"
#include <pthread.h>

#define LOCKS 4096
#define THREADS 4

static char *mem;
static size_t npages;
static uint64_t *truth; /* the word of each page, 0: none; its place follows from it */
static pthread_mutex_t lock[LOCKS];
static _Atomic bool stop;

static volatile uint64_t *word_of(size_t i)
{
	return (volatile uint64_t *)(void *)(mem + i * PAGE) + truth[i] % 500;
}

static void visit(size_t i, struct rng *r)
{
	uint64_t found = *word_of(i);

	CHECK(found == truth[i], "page %p holds %#" PRIx64 " at its word, must be %#" PRIx64 " (%s)", (void *)(mem + i * PAGE), found, truth[i],
	      page_is_zero(mem + i * PAGE) ? "ZERO PAGE" : "not a zero page");
	if (below(r, 4) == 0) {
		CHECK_SYS(madvise(mem + i * PAGE, PAGE, MADV_DONTNEED));
		truth[i] = 0;
		if (below(r, 2))
			CHECK(*word_of(i) == 0, "page %p holds something after MADV_DONTNEED", (void *)(mem + i * PAGE));
	}
	if (below(r, 2)) {
		*word_of(i) = 0;
		truth[i] = rnd(r) | 1;
		*word_of(i) = truth[i];
	}
}

static void *worker(void *arg)
{
	struct rng r = { opt.seed * 1000 + (uintptr_t)arg };

	while (!atomic_load(&stop)) {
		size_t i = below(&r, npages);

		for (unsigned run = below(&r, 4) ? 1 : 1 + (unsigned)below(&r, 32); run && i < npages; run--, i++) {
			pthread_mutex_lock(&lock[i % LOCKS]);
			visit(i, &r);
			pthread_mutex_unlock(&lock[i % LOCKS]);
		}
	}
	return NULL;
}

static void run(bool forks)
{
	pthread_t th[THREADS];
	struct rng r = { opt.seed };

	atomic_store(&stop, false);
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&th[i], NULL, worker, (void *)i) == 0, "pthread_create");
	for (uint64_t end = now_ns() + opt.seconds * 1000000000u; now_ns() < end;) {
		sleep_ms(1 + (long)below(&r, 50));
		if (forks) {
			pid_t pid = fork();

			CHECK(pid >= 0, "fork: %s", strerror(errno));
			if (pid == 0) {
				sleep_ms((long)below(&r, 30));
				_exit(3);
			}
			reap(pid, 3, "child");
		}
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
}

static void part_alone(void)
{
	run(false);
}

static void part_forks(void)
{
	run(true);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = { { "alone", part_alone }, { "forks", part_forks } };

	parse(argc, argv);
	npages = opt.mb * MiB / PAGE;
	mem = anon(npages * PAGE);
	memset(mem, 0, npages * PAGE);
	truth = shared(npages * sizeof(*truth));
	for (unsigned i = 0; i < LOCKS; i++)
		pthread_mutex_init(&lock[i], NULL);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
