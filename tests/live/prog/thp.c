/* SPDX-License-Identifier: MIT */
/*
 * thp - kinds of memory: huge pages, holes, reservations, stacks that grow, locked memory, memory that fork treats differently, memory
 * that is shared or comes from files. What is never touched must stay untouched, and what is not anonymous must be left alone.
 */
#include "common.h"
#include <pthread.h>
#include <sys/resource.h>

#define HUGE (2 * MiB)

static char *aligned(size_t len)
{
	char *p = anon(len + HUGE), *a = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));

	if (a > p)
		munmap(p, (size_t)(a - p));
	munmap(a + len, (size_t)(p + HUGE - a));
	return a;
}

/* Pages of the whole process that take memory, in KiB; how a hole that was filled shows. */
static uint64_t rss_kib(void)
{
	char line[200];
	unsigned long long v = 0;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %llu", &v) == 1)
			break;
	if (f)
		fclose(f);
	return v;
}

static void part_huge(void)
{
	size_t len = opt.mb * MiB / 4 & ~(HUGE - 1);
	char *p = aligned(len);

	madvise(p, len, MADV_HUGEPAGE);
	fill(p, len, 0xa00000, 0);
	press();
	check(p, len, 0xa00000, 0, "huge pages");
	/* One small page of each changes, all are checked, several times over. */
	for (uint64_t v = 1; v < 4; v++) {
		for (size_t o = 0; o < len; o += HUGE)
			page_gen(p + o + v * PAGE, 0xa00000 + (o + v * PAGE) / PAGE, 100);
		press();
		for (size_t o = 0; o < len; o += PAGE)
			page_check(p + o, 0xa00000 + o / PAGE, o % HUGE && o % HUGE <= v * PAGE ? 100 : 0, "huge pages with a small change");
	}
	/* Discard a part of each. */
	for (size_t o = 0; o < len; o += HUGE)
		CHECK_SYS(madvise(p + o + 64 * PAGE, 33 * PAGE, MADV_DONTNEED));
	press();
	for (size_t o = 0; o < len; o += HUGE)
		check_zero(p + o + 64 * PAGE, 33 * PAGE, "discarded part of a huge page");
	/* And unmap, protect and move a part of one. */
	CHECK_SYS(munmap(p + 100 * PAGE, PAGE));
	CHECK_SYS(mprotect(p + 200 * PAGE, PAGE, PROT_READ));
	press();
	page_check(p + 99 * PAGE, 0xa00000 + 99, 0, "beside an unmapped page");
	page_check(p + 101 * PAGE, 0xa00000 + 101, 0, "beside an unmapped page");
	page_check(p + 200 * PAGE, 0xa00000 + 200, 0, "read-only page of a huge page");
	munmap(p, len);
}

static void part_collapse(void)
{
	size_t len = 8 * HUGE;
	char *p = aligned(len);

	madvise(p, len, MADV_NOHUGEPAGE);
	fill(p, len, 0xa10000, 0);
	need_out(p, len, "memory to collapse");
	madvise(p, len, MADV_HUGEPAGE);
	for (unsigned i = 0; i < 3; i++) {
		/* May fail, with pages out or without huge pages to have; must not change anything. */
		for (size_t o = 0; o < len; o += HUGE)
			madvise(p + o, HUGE, MADV_COLLAPSE);
		check(p, len, 0xa10000, 0, "after MADV_COLLAPSE");
		press();
		for (size_t o = 0; o < len; o += HUGE)
			madvise(p + o, HUGE, MADV_COLLAPSE);
	}
	check(p, len, 0xa10000, 0, "after MADV_COLLAPSE");
	munmap(p, len);
}

static void part_zero(void)
{
	size_t len = 32 * MiB;
	char *p = anon(len);

	/* Reading what was never written: zeros, of the shared zero page. */
	check_zero(p, len, "never written");
	press();
	check_zero(p, len, "never written, read twice");
	for (size_t o = 0; o < len; o += 7 * PAGE)
		page_gen(p + o, 0xa20000 + o / PAGE, 0);
	press();
	for (size_t o = 0; o < len; o += PAGE)
		if (o % (7 * PAGE) == 0)
			page_check(p + o, 0xa20000 + o / PAGE, 0, "written among never written");
		else
			check_zero(p + o, PAGE, "never written among written");
	/* Written with zeros, then with something, then with zeros. */
	memset(p, 0, len);
	press();
	check_zero(p, len, "written with zeros");
	memset(p, 0xee, len);
	press();
	for (size_t o = 0; o < len; o += 8)
		CHECK(*(uint64_t *)(void *)(p + o) == 0xeeeeeeeeeeeeeeeeull, "a page of one byte: %p holds %#" PRIx64, (void *)(p + o), *(uint64_t *)(void *)(p + o));
	memset(p, 0, len);
	press();
	check_zero(p, len, "written with zeros again");
	munmap(p, len);
}

/* A sparse mapping far bigger than the machine. Only what is touched may take memory. */
static void part_sparse(void)
{
	size_t len = 1ul << 40, step = 1ul << 30, n = 0;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before, after;

	if (p == MAP_FAILED) {
		len = 1ul << 34;
		step = 1ul << 24;
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		CHECK(p != MAP_FAILED, "mmap of a sparse mapping: %s", strerror(errno));
	}
	madvise(p, len, MADV_NOHUGEPAGE);
	press();
	before = rss_kib();
	for (size_t o = 0; o < len; o += step, n++)
		page_gen(p + o + (n % 100) * PAGE, 0xa30000 + n, 0);
	after = rss_kib();
	CHECK(after < before + n * 4 * 4 + 40 * 1024, "touching %zu pages of a sparse mapping took %" PRIu64 " KiB", n, after - before);
	press();
	n = 0;
	for (size_t o = 0; o < len; o += step, n++) {
		page_check(p + o + (n % 100) * PAGE, 0xa30000 + n, 0, "page in a sparse mapping");
		check_zero(p + o + (n % 100 + 1) * PAGE, PAGE, "page beside it");
	}
	CHECK_SYS(munmap(p, len));
	/* Holes between touched pages: touched every 8th, the others must not appear. */
	len = opt.mb * MiB;
	p = anon(len);
	madvise(p, len, MADV_NOHUGEPAGE);
	for (size_t o = 0; o < len; o += 8 * PAGE)
		page_gen(p + o, 0xa40000 + o / PAGE, 0);
	need_out(p, len, "memory with holes"); /* holes count as out */
	for (size_t o = 0; o < len; o += 8 * PAGE)
		page_check(p + o, 0xa40000 + o / PAGE, 0, "page between holes");
	for (size_t o = 0; o < len; o += 8 * PAGE * 64) {
		size_t in = 8 - out_pages(p + o, 8 * PAGE);

		CHECK(in <= 4, "%zu of 8 pages are resident where one was ever touched", in);
	}
	munmap(p, len);
}

static void part_reserve(void)
{
	size_t len = 256 * MiB, at = 0;
	char *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	/* Commit in steps, as allocators do; give some back and commit it again. */
	for (unsigned step = 0; at < opt.mb * MiB / 2 && at + MiB < len; step++, at += 192 * KiB) {
		CHECK_SYS(mprotect(p + at, 192 * KiB, PROT_READ | PROT_WRITE));
		check_zero(p + at, 192 * KiB, "newly committed memory");
		fill(p + at, 192 * KiB, 0xa50000 + at / PAGE, 0);
	}
	press();
	check(p, at, 0xa50000, 0, "committed memory");
	for (size_t o = 0; o + 384 * KiB <= at; o += 384 * KiB) {
		CHECK_SYS(madvise(p + o, 192 * KiB, MADV_DONTNEED));
		CHECK_SYS(mprotect(p + o, 192 * KiB, PROT_NONE));
	}
	press();
	for (size_t o = 0; o + 384 * KiB <= at; o += 384 * KiB) {
		check(p + o + 192 * KiB, 192 * KiB, 0xa50000 + (o + 192 * KiB) / PAGE, 0, "committed beside decommitted");
		CHECK_SYS(mprotect(p + o, 192 * KiB, PROT_READ | PROT_WRITE));
		check_zero(p + o, 192 * KiB, "committed again");
	}
	/* Decommit by mapping PROT_NONE over it. */
	CHECK(mmap(p, at, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == p, "mmap over: %s", strerror(errno));
	CHECK_SYS(mprotect(p, at, PROT_READ | PROT_WRITE));
	check_zero(p, at, "mapped over and committed");
	munmap(p, len);
}

__attribute__((noinline)) static uint64_t grow_stack(unsigned n)
{
	uint64_t local[1024];

	for (unsigned i = 0; i < 1024; i++)
		local[i] = mix(n * 1024 + i);
	if (n == 0) {
		press();
		press();
	} else {
		grow_stack(n - 1);
	}
	for (unsigned i = 0; i < 1024; i++)
		CHECK(local[i] == mix(n * 1024 + i), "the main stack changed, %u frames up", n);
	return local[5];
}

static void part_grows_down(void)
{
	char *p;

	grow_stack(600); /* 5 MiB of the main stack */
	p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
	CHECK(p != MAP_FAILED, "MAP_GROWSDOWN: %s", strerror(errno));
	fill(p, 64 * PAGE, 0xa60000, 0);
	press();
	check(p, 64 * PAGE, 0xa60000, 0, "MAP_GROWSDOWN");
	munmap(p, 64 * PAGE);
}

static void part_lock(void)
{
	size_t len = 4 * MiB;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0), *q;
	pid_t pid;

	if (p == MAP_FAILED) {
		fprintf(stderr, "%s: note: MAP_LOCKED: %s\n", prog_name, strerror(errno));
		return;
	}
	fill(p, len, 0xa70000, 0);
	press();
	CHECK(out_pages(p, len) == 0, "%zu pages of MAP_LOCKED memory are out", out_pages(p, len));
	check(p, len, 0xa70000, 0, "MAP_LOCKED");
	/* It must move, and what it grows by is populated before anybody is told that it has moved. */
	q = mmap(p + len, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	p = mremap(p, len, 2 * len, MREMAP_MAYMOVE);
	CHECK(p != MAP_FAILED, "mremap of locked memory: %s", strerror(errno));
	check(p, len, 0xa70000, 0, "locked memory that has grown");
	check_zero(p + len, len, "what locked memory has grown by");
	munmap(p, 2 * len);
	if (q != MAP_FAILED)
		munmap(q, PAGE);
	p = anon(len);
	fill(p, len, 0xa80000, 0);
	need_out(p, len, "memory before mlockall");
	/* mlockall(FUTURE) only: CURRENT would have to hold more than the budget. */
	if (mlockall(MCL_FUTURE) == 0) {
		char *q = anon(MiB);

		fill(q, MiB, 0xa90000, 0);
		press();
		CHECK(out_pages(q, MiB) == 0, "pages mapped after mlockall(MCL_FUTURE) are out");
		check(q, MiB, 0xa90000, 0, "mapped after mlockall");
		munlockall();
		munmap(q, MiB);
	}
	/* CURRENT, in a child with little else. */
	pid = fork();
	if (pid == 0) {
		munmap(press_mem.base, press_mem.pages * PAGE);
		if (mlockall(MCL_CURRENT) == 0) {
			CHECK(out_pages(p, len) == 0, "%zu pages are out after mlockall(MCL_CURRENT)", out_pages(p, len));
			check(p, len, 0xa80000, 0, "after mlockall(MCL_CURRENT)");
			munlockall();
		}
		_exit(0);
	}
	reap(pid, 0, "child that locks everything");
	check(p, len, 0xa80000, 0, "before mlockall");
	munmap(p, len);
}

static void on_segv(int sig)
{
	_exit(99);
}

static void part_fork_advice(void)
{
	char *dont = anon(MiB), *wipe = anon(MiB), *plain = anon(MiB);
	pid_t pid;

	fill(dont, MiB, 0xaa0000, 0);
	fill(wipe, MiB, 0xab0000, 0);
	fill(plain, MiB, 0xac0000, 0);
	/* Out when the advice comes; from then on it may be left alone. */
	need_out(dont, MiB, "memory before MADV_DONTFORK");
	need_out(wipe, MiB, "memory before MADV_WIPEONFORK");
	CHECK_SYS(madvise(dont, MiB, MADV_DONTFORK));
	CHECK_SYS(madvise(wipe, MiB, MADV_WIPEONFORK));
	for (unsigned round = 0; round < 3; round++) {
		press();
		pid = fork();
		if (pid == 0) {
			check(plain, MiB, 0xac0000, 0, "beside memory with advice for fork");
			check_zero(wipe, MiB, "MADV_WIPEONFORK in a child");
			fill(wipe, MiB, 0xad0000, 0);
			check(wipe, MiB, 0xad0000, 0, "written where MADV_WIPEONFORK wiped");
			signal(SIGSEGV, on_segv);
			(void)*(volatile char *)dont;
			_exit(0);
		}
		reap(pid, 99, "child that touches MADV_DONTFORK memory (99: SIGSEGV, as it must)");
		check(dont, MiB, 0xaa0000, 0, "MADV_DONTFORK in the parent");
		check(wipe, MiB, 0xab0000, 0, "MADV_WIPEONFORK in the parent");
	}
	CHECK_SYS(madvise(dont, MiB, MADV_DOFORK));
	CHECK_SYS(madvise(wipe, MiB, MADV_KEEPONFORK));
	press();
	pid = fork();
	if (pid == 0) {
		check(dont, MiB, 0xaa0000, 0, "MADV_DOFORK in a child");
		check(wipe, MiB, 0xab0000, 0, "MADV_KEEPONFORK in a child");
		_exit(0);
	}
	reap(pid, 0, "child after the advice was taken back");
	munmap(dont, MiB);
	munmap(wipe, MiB);
	munmap(plain, MiB);
}

static void part_not_ours(void)
{
	size_t len = 8 * MiB;
	char path[600], *sh = shared(len), *mf, *priv, *dev;
	int fd, zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	pid_t pid;

	/* Shared anonymous memory: what the child writes, the parent reads. */
	fill(sh, len, 0xae0000, 0);
	press();
	pid = fork();
	if (pid == 0) {
		check(sh, len, 0xae0000, 0, "shared memory in a child");
		fill(sh, len, 0xae0000, 1);
		_exit(0);
	}
	reap(pid, 0, "child with shared memory");
	press();
	check(sh, len, 0xae0000, 1, "shared memory written by a child");
	munmap(sh, len);
	/* A private mapping of a file: the file's pages, and copies of those that were written. */
	snprintf(path, sizeof(path), "%s/tandem-test-map-%d", opt.dir, (int)getpid());
	CHECK_SYS(fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
	unlink(path);
	CHECK_SYS(ftruncate(fd, (off_t)len));
	mf = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	priv = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(mf != MAP_FAILED && priv != MAP_FAILED, "mmap of a file: %s", strerror(errno));
	fill(mf, len, 0xaf0000, 0);
	for (size_t o = 0; o < len; o += 2 * PAGE)
		page_gen(priv + o, 0xb00000 + o / PAGE, 0);
	press();
	for (size_t o = 0; o < len; o += PAGE)
		page_check(priv + o, (o / PAGE % 2 ? 0xaf0000 : 0xb00000) + o / PAGE, 0, "private mapping of a file");
	check(mf, len, 0xaf0000, 0, "shared mapping of a file");
	for (size_t o = PAGE; o < len; o += 2 * PAGE)
		page_gen(mf + o, 0xaf0000 + o / PAGE, 2);
	press();
	for (size_t o = 0; o < len; o += PAGE)
		page_check(priv + o, (o / PAGE % 2 ? 0xaf0000 : 0xb00000) + o / PAGE, o / PAGE % 2 ? 2 : 0, "private mapping of a file that changed");
	/* DONTNEED on it: the file again. */
	CHECK_SYS(madvise(priv, len, MADV_DONTNEED));
	for (size_t o = 0; o < len; o += PAGE)
		page_check(priv + o, 0xaf0000 + o / PAGE, o / PAGE % 2 ? 2 : 0, "private mapping of a file after MADV_DONTNEED");
	munmap(mf, len);
	munmap(priv, len);
	close(fd);
	/* /dev/zero mapped privately is anonymous memory under another name. */
	dev = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
	if (dev != MAP_FAILED) {
		fill(dev, len, 0xb10000, 0);
		press();
		check(dev, len, 0xb10000, 0, "private mapping of /dev/zero");
		munmap(dev, len);
	}
	close(zero);
}

static void part_prot(void)
{
	size_t len = 4 * MiB;
	char *p = anon(len);
	int (*code)(void);

	fill(p, len, 0xb20000, 0);
	/* Read-only memory is evicted too, and comes back. */
	CHECK_SYS(mprotect(p, len, PROT_READ));
	may_be_in(p, len, "read-only memory");
	check(p, len, 0xb20000, 0, "read-only memory");
	/* So is what was out when it became read-only, or unreadable. */
	CHECK_SYS(mprotect(p, len, PROT_READ | PROT_WRITE));
	need_out(p, len, "memory to protect");
	CHECK_SYS(mprotect(p, len, PROT_READ));
	check(p, len, 0xb20000, 0, "out when it became read-only");
	CHECK_SYS(mprotect(p, len, PROT_READ | PROT_WRITE));
	fill(p, len, 0xb20000, 1);
	need_out(p, len, "memory to protect");
	CHECK_SYS(mprotect(p, len, PROT_NONE));
	press();
	CHECK_SYS(mprotect(p, len, PROT_READ | PROT_WRITE));
	check(p, len, 0xb20000, 1, "out when it became unreadable");
	/* Code: written, made executable, evicted, run. */
#if defined(__x86_64__)
	static const unsigned char ret42[] = { 0xb8, 42, 0, 0, 0, 0xc3 };

	for (size_t o = 0; o < len; o += PAGE)
		memcpy(p + o + 64, ret42, sizeof(ret42));
	CHECK_SYS(mprotect(p, len, PROT_READ | PROT_EXEC));
	may_be_in(p, len, "code");
	for (size_t o = 0; o < len; o += PAGE) {
		void *at = p + o + 64;

		memcpy(&code, &at, sizeof(code));
		CHECK(code() == 42, "code that was out returned something else");
	}
	CHECK_SYS(mprotect(p, len, PROT_READ | PROT_WRITE | PROT_EXEC));
	may_be_in(p, len, "writable code");
	for (size_t o = 0; o < len; o += PAGE) {
		void *at = p + o + 64;

		memcpy(&code, &at, sizeof(code));
		CHECK(code() == 42, "writable code that was out returned something else");
	}
#endif
	munmap(p, len);
}

/* Thousands of mappings: no list may overflow, no limit be used up. */
static void part_many(void)
{
	enum { N = 20000 };
	char **p = anon(N * sizeof(*p));

	for (size_t i = 0; i < N; i++) {
		p[i] = mmap(NULL, 2 * PAGE, i % 2 ? PROT_READ | PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(p[i] != MAP_FAILED, "mapping number %zu: %s", i, strerror(errno));
		page_gen(p[i], 0xb30000 + i, 0);
	}
	press();
	for (size_t i = 0; i < N; i++)
		page_check(p[i], 0xb30000 + i, 0, "one of many mappings");
	for (size_t i = 0; i < N; i += 2)
		CHECK_SYS(munmap(p[i], 2 * PAGE));
	press();
	for (size_t i = 1; i < N; i += 2) {
		page_check(p[i], 0xb30000 + i, 0, "one of many mappings");
		CHECK_SYS(munmap(p[i], 2 * PAGE));
	}
	munmap(p, N * sizeof(*p));
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "huge", part_huge }, { "collapse", part_collapse }, { "zero", part_zero }, { "sparse", part_sparse }, { "reserve", part_reserve },
		{ "grows-down", part_grows_down }, { "lock", part_lock }, { "fork-advice", part_fork_advice }, { "not-ours", part_not_ours },
		{ "prot", part_prot }, { "many", part_many },
	};

	parse(argc, argv);
	press_init();
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
