/* SPDX-License-Identifier: MIT */
/*
 * budget - take memory as fast as it can be had, in every way. Whether the budget holds meanwhile is for the driver to see, which samples
 * from outside; this program sees to it that the content is right.
 */
#include "common.h"
#include <pthread.h>

/* A whole pass by memset, with nothing to slow it down. */
static void part_memset(void)
{
	size_t len = opt.mb * MiB;
	char *p = anon(len);

	for (int pass = 1; pass <= 4; pass++) {
		memset(p, pass, len);
		for (size_t o = 0; o < len; o += 1021)
			CHECK(p[o] == pass, "memset: %p holds %d in pass %d", (void *)(p + o), p[o], pass);
	}
	munmap(p, len);
}

static void write_read(size_t mb, unsigned hard, uint64_t name)
{
	size_t len = mb * MiB;
	char *p = anon(len);
	unsigned was = opt.hard;

	opt.hard = hard;
	fill(p, len, name, 0);
	check(p, len, name, 0, "written once");
	fill(p, len, name, 1);
	check(p, len, name, 1, "written twice");
	opt.hard = was;
	munmap(p, len);
}

static void part_soft(void)
{
	write_read(opt.mb, 0, 1 << 20);
}

static void part_hard(void)
{
	write_read(opt.mb * opt.hard / 100 + 1, 100, 2 << 20);
}

static void part_many(void)
{
	enum { N = 512 };
	char *p[N];
	size_t each = (opt.mb * MiB / N + PAGE - 1) & ~(PAGE - 1);

	for (unsigned round = 0; round < 2; round++) {
		for (size_t i = 0; i < N; i++) {
			p[i] = anon(each);
			fill(p[i], each, (3 << 20) + i * 1000, round);
		}
		for (size_t i = 0; i < N; i++) {
			check(p[i], each, (3 << 20) + i * 1000, round, "one of many");
			munmap(p[i], each);
		}
	}
}

static void part_brk(void)
{
	char *start = sbrk(0), *base = (char *)(((uintptr_t)start + PAGE - 1) & ~(PAGE - 1));
	size_t len = opt.mb * MiB / 2;

	CHECK_SYS(brk(base));
	for (size_t at = 0; at < len; at += 2 * PAGE) {
		CHECK(sbrk(2 * PAGE) == base + at, "sbrk");
		fill(base + at, 2 * PAGE, (4 << 20) + at / PAGE, 0);
	}
	check(base, len, 4 << 20, 0, "break");
	CHECK_SYS(brk(start));
}

static void part_malloc(void)
{
	enum { N = 4096 };
	char **p = calloc(N, sizeof(*p));
	size_t each = opt.mb * MiB / N;

	for (size_t i = 0; i < N; i++) {
		p[i] = malloc(each);
		memset(p[i], (int)i, each);
	}
	for (size_t i = 0; i < N; i++) {
		for (size_t o = 0; o < each; o += 509)
			CHECK(p[i][o] == (char)i, "malloc block %zu", i);
		free(p[i]);
	}
	free(p);
}

static void *writer(void *arg)
{
	write_read(opt.mb / 4, opt.hard, (5 << 20) + ((uintptr_t)arg << 24));
	return NULL;
}

static void part_threads(void)
{
	pthread_t th[4];
	unsigned was = opt.hard;

	opt.hard = 0; /* for all threads: page_gen() reads it */
	for (uintptr_t i = 0; i < 4; i++)
		CHECK(pthread_create(&th[i], NULL, writer, (void *)i) == 0, "pthread_create");
	for (unsigned i = 0; i < 4; i++)
		pthread_join(th[i], NULL);
	opt.hard = was;
}

/* New memory comes in small pieces, and old memory is used meanwhile. */
static void part_grow(void)
{
	enum { EACH = 16 };
	size_t len = opt.mb * MiB * 5 / 8, n = len / PAGE, pieces = opt.mb * MiB / 2 / (EACH * PAGE);
	char *p = anon(len), **q = calloc(pieces, sizeof(*q));
	struct rng r = { opt.seed };

	fill(p, len, 9 << 20, 0);
	sleep_ms(400); /* for the driver, who may now keep the engine from looking */
	for (size_t i = 0; i < pieces; i++) {
		q[i] = anon(EACH * PAGE);
		fill(q[i], EACH * PAGE, (10 << 20) + i * EACH, 0);
		for (unsigned k = 0; k < 8; k++) {
			size_t at = below(&r, n);

			page_check(p + at * PAGE, (9 << 20) + at, 0, "old memory");
		}
	}
	check(p, len, 9 << 20, 0, "old memory");
	for (size_t i = 0; i < pieces; i++) {
		check(q[i], EACH * PAGE, (10 << 20) + i * EACH, 0, "new memory");
		munmap(q[i], EACH * PAGE);
	}
	free(q);
	munmap(p, len);
}

/* All of it at once, by a program that has used next to nothing before. */
static void part_late(void)
{
	sleep_ms(400); /* for the driver, who keeps the engine from looking */
	write_read(opt.mb, 0, 11 << 20);
}

/* Four processes, one budget. The inherited memory is shared until they write. */
static void part_processes(void)
{
	size_t len = opt.mb * MiB / 4;
	char *p = anon(len);
	pid_t pid[4];

	fill(p, len, 6 << 20, 0);
	for (unsigned i = 0; i < 4; i++) {
		pid[i] = fork();
		CHECK(pid[i] >= 0, "fork: %s", strerror(errno));
		if (pid[i] == 0) {
			check(p, len, 6 << 20, 0, "inherited");
			fill(p, len, 6 << 20, 1 + i);
			write_read(opt.mb / 8, 0, (7 << 20) + i);
			check(p, len, 6 << 20, 1 + i, "own copy");
			_exit(0);
		}
	}
	for (unsigned i = 0; i < 4; i++)
		reap(pid[i], 0, "one of four processes");
	check(p, len, 6 << 20, 0, "the parent's");
	munmap(p, len);
}

static void part_huge(void)
{
	size_t len = opt.mb * MiB;
	char *p = anon(len);

	madvise(p, len, MADV_HUGEPAGE);
	fill(p, len, 8 << 20, 0);
	check(p, len, 8 << 20, 0, "huge pages");
	munmap(p, len);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "memset", part_memset }, { "soft", part_soft }, { "hard", part_hard }, { "many", part_many }, { "brk", part_brk },
		{ "malloc", part_malloc }, { "threads", part_threads }, { "processes", part_processes }, { "huge", part_huge },
		{ "grow", part_grow }, { "late", part_late },
	};

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
