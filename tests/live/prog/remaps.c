/* SPDX-License-Identifier: MIT */
/*
 * remaps - threads that move their memory into the places that others have just left.
 *
 * The kernel announces a move and the unmapping of the old place one after the other, and another thread may get the old place between the two: the
 * announcements then say things in another order than they happened. Every page is checked after every move; madvise and growth go
 * between.
 */
#include "common.h"
#include <pthread.h>

#define WORKERS 4u
#define ADVICES 16u
#define SPLIT (8 * MiB)

static _Atomic bool stop;
static _Atomic uint64_t moves;

static void *mover(void *arg)
{
	static const int advice[ADVICES] = { MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP,
		                             MADV_DODUMP, MADV_DONTFORK, MADV_DOFORK, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ,
		                             MADV_POPULATE_WRITE, MADV_MERGEABLE, MADV_UNMERGEABLE };
	uint64_t me = (uint64_t)(uintptr_t)arg, version = 1;
	struct rng r = { opt.seed * 1000 + me };
	size_t most = opt.mb * MiB / WORKERS & ~(PAGE - 1), len = most;
	char *p = anon(len), what[160];

	fill(p, len, me, version);
	while (!atomic_load(&stop)) {
		size_t to_len = below(&r, 3) ? len : PAGE * (1 + below(&r, most / PAGE));
		bool fixed = below(&r, 2), grown;
		char *from = p, *to = fixed ? anon(to_len) : NULL;

		p = mremap(from, len, to_len, MREMAP_MAYMOVE | (fixed ? MREMAP_FIXED : 0), to);
		CHECK(p != MAP_FAILED, "mremap(%p, %zu to %zu pages, to %p): %s", (void *)from, len / PAGE, to_len / PAGE, (void *)to,
		      strerror(errno));
		snprintf(what, sizeof(what), "after a move from %p to %p, %zu to %zu pages", (void *)from, (void *)p, len / PAGE, to_len / PAGE);
		check(p, len < to_len ? len : to_len, me, version, what);
		if (to_len > len)
			check_zero(p + len, to_len - len, "memory that was grown by");
		grown = to_len > len;
		len = to_len;
		(void)madvise(p, len, advice[below(&r, ADVICES)]);
		if (grown || below(&r, 4) == 0)
			fill(p, len, me, ++version);
		else
			check(p, len, me, version, "after advice");
		atomic_fetch_add(&moves, 1);
		if (below(&r, 8) == 0) {
			/* Begin anew: everything at full length. */
			CHECK_SYS(munmap(p, len));
			len = most;
			p = anon(len);
			fill(p, len, me, ++version);
		}
	}
	return NULL;
}

static void part_moves(void)
{
	pthread_t th[WORKERS];

	for (uintptr_t i = 0; i < WORKERS; i++)
		CHECK(pthread_create(&th[i], NULL, mover, (void *)i) == 0, "pthread_create");
	for (uint64_t end = now_ns() + opt.seconds * 1000000000u; now_ns() < end;)
		sleep_ms(20);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < WORKERS; i++)
		CHECK(pthread_join(th[i], NULL) == 0, "pthread_join");
	fprintf(stderr, "%s: %" PRIu64 " moves\n", prog_name, atomic_load(&moves));
}

/*
 * A mapping that was touched while it was of two kinds stays two VMAs, and the kernel refuses to resize or to move it whole. Under an engine, which makes VMAs
 * of two kinds by registering them, it is moved VMA by VMA.
 */
static char *two_vmas(uint64_t version)
{
	char *p = anon(SPLIT);

	CHECK_SYS(madvise(p, SPLIT / 2, MADV_DONTDUMP));
	fill(p, SPLIT, 77, version);
	CHECK_SYS(madvise(p, SPLIT / 2, MADV_DODUMP));
	return p;
}

static void part_split(void)
{
	static const struct {
		const char *what;
		size_t len;
		int flags;
	} cases[] = { { "moved", SPLIT, MREMAP_MAYMOVE | MREMAP_FIXED },         { "grown", SPLIT * 2, MREMAP_MAYMOVE },
		      { "moved and grown", SPLIT * 2, MREMAP_MAYMOVE | MREMAP_FIXED }, { "shrunk to a part of one", SPLIT / 4, MREMAP_MAYMOVE | MREMAP_FIXED },
		      { "moved, and left mapped", SPLIT, MREMAP_MAYMOVE | MREMAP_DONTUNMAP } };
	uint64_t version = 1;
	char *large = anon(opt.mb * MiB);

	/* There is no engine before it is needed. */
	fill(large, opt.mb * MiB, 1, 1);
	need_out(large, opt.mb * MiB, "memory that does not fit");
	CHECK_SYS(munmap(large, opt.mb * MiB));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *from = two_vmas(++version), *to = cases[i].flags & MREMAP_FIXED ? anon(cases[i].len) : NULL, *p;
		char *guard = i % 2 ? mmap(from + SPLIT, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) : MAP_FAILED;
		size_t kept = cases[i].len < SPLIT ? cases[i].len : SPLIT;

		if (opt.managed)
			CHECK_SYS(madvise(from + SPLIT / 4, SPLIT / 2, MADV_PAGEOUT));
		p = mremap(from, SPLIT, cases[i].len, cases[i].flags, to);
		CHECK(p != MAP_FAILED || (errno == EFAULT && !opt.managed), "two VMAs are %s: %s", cases[i].what, strerror(errno));
		if (p == MAP_FAILED)
			continue;
		CHECK(!to || p == to, "two VMAs are %s: to %p, must be %p", cases[i].what, (void *)p, (void *)to);
		check(p, kept, 77, version, cases[i].what);
		check_zero(p + kept, cases[i].len - kept, cases[i].what);
		if (cases[i].flags & MREMAP_DONTUNMAP)
			check_zero(from, SPLIT, "what was left mapped");
		else if (p != from)
			CHECK(mincore(from, PAGE, (unsigned char[1]){ 0 }) == -1 && errno == ENOMEM, "two VMAs are %s: the first is there still", cases[i].what);
		if (guard != MAP_FAILED)
			CHECK_SYS(munmap(guard, PAGE));
		CHECK_SYS(munmap(p, cases[i].len));
	}
}

int main(int argc, char **argv)
{
	static const struct part parts[] = { { "split", part_split }, { "moves", part_moves } };

	parse(argc, argv);
	return run_parts(parts, 2);
}
