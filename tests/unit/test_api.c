/* SPDX-License-Identifier: MIT */
/*
 * The public functions: each does what <tandem/tandem.h> says, and gives each error that is named there.
 *
 * The library is compiled into this program with its system calls behind tdmi_inject(), so that any of them can be made to fail.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <tandem/tandem.h>
#include <unistd.h>
#include "base/atomic.h"
#include "plat/linux/sys.h"
#include "plat/plat.h"
#include "port/uapi.h"
#include "runner/t.h"

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)

/* ---- system calls that fail ---------------------------------------------------------------------------------------------- */

/* Those with this number (-1: any that can fail), and this second argument unless it is 0, give the error, from the first-th on. Engine threads come
 * here: no libc. */
static struct {
	tdm_a32 on;
	long nr, cmd, error;
	u64 first, last;
	tdm_a64 seen;
} bad;

#define FILLS ((long)1) /* whatever brings a page */

static bool is_cmd(long cmd)
{
	if (bad.cmd == FILLS)
		return cmd == (long)TDM_UFFDIO_MOVE || cmd == (long)UFFDIO_COPY || cmd == (long)UFFDIO_ZEROPAGE;
	return !bad.cmd || bad.cmd == cmd;
}

static bool never_fails(long nr, long cmd)
{
	return (nr == SYS_futex && (cmd & 127) == FUTEX_WAKE) || nr == SYS_close || nr == SYS_munmap || nr == SYS_rt_sigprocmask || nr == SYS_getpid;
}

long tdmi_inject(long nr, long a, long b, long c, long d, long e, long f)
{
	if (tdm_a32_ld_acquire(&bad.on) && (bad.nr < 0 ? !never_fails(nr, b) : nr == bad.nr) && is_cmd((long)(unsigned)b)) {
		u64 n = tdm_a64_add_relaxed(&bad.seen, 1) + 1;

		if (n >= bad.first && n < bad.last)
			return bad.error;
	}
	return nr == SYS_clone ? 0 : tdm_sys6_raw(nr, a, b, c, d, e, f);
}

static void let_fail(long nr, unsigned long cmd, int error, u64 first, u64 count)
{
	bad.nr = nr;
	bad.cmd = (long)cmd;
	bad.error = -error;
	bad.first = first;
	bad.last = first + count;
	tdm_a64_st_relaxed(&bad.seen, 0);
	tdm_a32_st_release(&bad.on, 1);
}

static void let_work(void)
{
	tdm_a32_st_release(&bad.on, 0);
}

/* ---- an engine, and memory for it ---------------------------------------------------------------------------------------- */

static char line[200];

static int start(struct tdm **t, u64 ram, const char *tier1, const char *tier2, unsigned flags)
{
	const char *tiers[] = { tier1, tier2 };
	struct tdm_options o = { .size = sizeof(o), .ram_bytes = ram, .tiers = tier1 ? tiers : NULL, .ntiers = !tier1 ? 0 : tier2 ? 2 : 1, .flags = flags };
	int r;

	*t = NULL;
	errno = 4711;
	r = tdm_start(&o, t, line, sizeof(line));
	CHECK_EQ(errno, 4711);
	CHECK(!r == !!*t);
	if (r)
		CHECK(line[0]);
	return r;
}

static struct tdm *started(u64 ram, const char *tier)
{
	struct tdm *t;
	int r = start(&t, ram, tier, NULL, 0);

	if (r == -EPERM || r == -EOPNOTSUPP)
		SKIP(line);
	if (r)
		fprintf(stderr, "%s\n", line);
	CHECK_EQ(r, 0);
	return t;
}

static struct tdm_stats stats(struct tdm *t)
{
	struct tdm_stats s = { .size = sizeof(s) };

	CHECK_EQ(tdm_stats_get(t, &s), 0);
	return s;
}

static u8 *map(size_t len)
{
	/* A page that is nobody's on either side: no neighbour becomes one mapping with it. */
	u8 *p = mmap(NULL, len + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK(!mprotect(p + PAGE, len, PROT_READ | PROT_WRITE));
	return p + PAGE;
}

static void unmap(u8 *p, size_t len)
{
	CHECK(!munmap(p - PAGE, len + 2 * PAGE));
}

static u64 word(u64 seed, size_t page, size_t i)
{
	u64 s = seed * 1000003 + page;

	if (seed % 2) /* odd: noise */
		s = s * 512 + i;
	return t_rand(&s);
}

static void fill(u8 *p, size_t len, u64 seed)
{
	for (size_t n = 0; n < len / PAGE; n++)
		for (size_t i = 0; i < PAGE / 8; i++) {
			u64 w = word(seed, n, i) + (seed % 2 ? 0 : i / 2);

			memcpy(p + n * PAGE + i * 8, &w, 8);
		}
}

static void check(const u8 *p, size_t len, u64 seed)
{
	for (size_t n = 0; n < len / PAGE; n++)
		for (size_t i = 0; i < PAGE / 8; i += 37) {
			u64 w;

			memcpy(&w, p + n * PAGE + i * 8, 8);
			if (w != word(seed, n, i) + (seed % 2 ? 0 : i / 2))
				t_fail(__FILE__, __LINE__, "page %zu of %zu, word %zu is %llx", n, len / PAGE, i, (unsigned long long)w);
		}
}

static size_t resident(u8 *p, size_t len)
{
	static unsigned char vec[16384];
	size_t n = 0;

	CHECK(len / PAGE <= sizeof(vec) && !mincore(p, len, vec));
	for (size_t i = 0; i < len / PAGE; i++)
		n += vec[i] & 1;
	return n;
}

/* ---- the beginning ------------------------------------------------------------------------------------------------------------ */

TEST(the_version_is_three_numbers)
{
	int a, b, c, end = 0;

	CHECK(sscanf(tdm_version(), "%d.%d.%d%n", &a, &b, &c, &end) == 3 && !tdm_version()[end]);
}

static void refused(const struct tdm_options *o, int error)
{
	struct tdm *t = (struct tdm *)&bad;
	char text[300];

	memset(text, 'x', sizeof(text));
	errno = 4711;
	CHECK_EQ(tdm_start(o, &t, text, 200), error);
	CHECK(text[0] && strlen(text) < 200 && text[200] == 'x');
	CHECK(t == (struct tdm *)&bad);
	/* As much of the line as there is room for. */
	for (size_t n = 0; n < 5; n++) {
		memset(text, 'x', sizeof(text));
		CHECK_EQ(tdm_start(o, &t, text, n), error);
		CHECK(text[n] == 'x' && (!n || !text[n - 1]));
	}
	CHECK_EQ(tdm_start(o, &t, NULL, 100), error);
	CHECK_EQ(errno, 4711);
}

TEST(bad_options_are_einval)
{
	const char *many[64], *tier[2] = { "lz4", NULL };
	struct tdm_options o = { .size = sizeof(o) };
	struct tdm *t = started(0, "lz4");

	for (unsigned i = 0; i < 64; i++)
		many[i] = "lz4";
	refused(NULL, -EINVAL);
	o.size--;
	refused(&o, -EINVAL);
	o.size += 2;
	refused(&o, -EINVAL);
	o.size = sizeof(o);
	o.ram_bytes = 8 * MIB - 1;
	refused(&o, -EINVAL);
	o.ram_bytes = 1;
	refused(&o, -EINVAL);
	o.ram_bytes = 0;
	o.flags = 2;
	refused(&o, -EINVAL);
	o.flags = 0;
	o.ntiers = 64;
	o.tiers = many;
	refused(&o, -EINVAL);
	o.ntiers = 1;
	o.tiers = NULL;
	refused(&o, -EINVAL);
	o.ntiers = 2;
	o.tiers = tier; /* of which one is NULL */
	refused(&o, -EINVAL);
	CHECK_EQ(tdm_start(&o, NULL, line, sizeof(line)), -EINVAL);
	o.ntiers = 0;
	o.tiers = NULL;
	CHECK_EQ(tdm_start(&o, NULL, line, sizeof(line)), -EINVAL);
	refused(&o, -EBUSY);
	CHECK_EQ(tdm_stop((struct tdm *)&bad), -EINVAL);
	CHECK_EQ(tdm_stop(NULL), -EINVAL);
	CHECK_EQ(tdm_stop(t), 0);
}

TEST(bad_tiers_are_refused)
{
	char deep[400] = "file:/var/tmp/";
	const char *tier[2] = { "lz4", NULL };
	struct tdm_options o = { .size = sizeof(o), .ntiers = 1, .tiers = tier };
	static const char *const wrong[] = { "", "lz5", "lz", "lz44", "lz4:", "lz4:1", "lz4:1X", "lz4:-1M", "zstd:12", "file:/var/tmp:1K", ":1M" };

	CHECK_EQ(tdm_stop(started(0, "lz4")), 0);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(wrong); i++) {
		tier[0] = wrong[i];
		refused(&o, -EINVAL);
	}
	o.ntiers = 2;
	tier[0] = "lz4";
	refused(&o, -EINVAL);
	/* Were it cut short, it would be the name of a directory that there is. */
	o.ntiers = 1;
	tier[0] = deep;
	for (size_t i = 14; i < sizeof(deep) - 3; i += 2) {
		deep[i] = '.';
		deep[i + 1] = '/';
	}
	memcpy(deep + sizeof(deep) - 4, "nix", 4);
	refused(&o, -EINVAL);
	tier[0] = "file:/nonexistent/tandem";
	refused(&o, -ENOENT);
	tier[0] = "file:/dev/null";
	refused(&o, -ENOTDIR);
	CHECK_EQ(tdm_stop(started(0, "lz4")), 0);
}

TEST(what_the_kernel_refuses_has_its_error)
{
	struct tdm *t = started(0, "lz4");

	CHECK_EQ(tdm_stop(t), 0);
	let_fail(SYS_ioctl, UFFDIO_API, EINVAL, 1, 1 << 20);
	CHECK_EQ(start(&t, 0, "lz4", NULL, 0), -EOPNOTSUPP);
	CHECK(strstr(line, "6.8"));
	let_fail(SYS_userfaultfd, 0, EMFILE, 1, 1 << 20);
	CHECK_EQ(start(&t, 0, "lz4", NULL, 0), -EMFILE);
	let_fail(SYS_mmap, 0, ENOMEM, 1, 1 << 20);
	CHECK_EQ(start(&t, 0, "lz4", NULL, 0), -ENOMEM);
	let_work();
	CHECK_EQ(tdm_stop(started(0, "lz4")), 0);
}

TEST(without_the_right_to_a_userfaultfd_it_is_eperm)
{
	struct tdm *t = started(0, "lz4");
	char has = '0';
	int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY), status;
	pid_t child;

	CHECK_EQ(tdm_stop(t), 0);
	if (fd >= 0 && read(fd, &has, 1) == 1)
		close(fd);
	if (has != '0' || getuid())
		SKIP("anybody may, or this is not root");
	child = fork();
	if (!child) {
		if (setgid(65534) || setuid(65534))
			t_fail(__FILE__, __LINE__, "cannot become nobody");
		if (!access("/dev/userfaultfd", R_OK | W_OK))
			_exit(0);
		CHECK_EQ(start(&t, 0, "lz4", NULL, 0), -EPERM);
		CHECK(strstr(line, "userfaultfd"));
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
}

/* A kernel for very many CPUs does not say on which of them we may run. */
TEST(without_an_affinity_there_is_somebody_to_serve)
{
	struct tdm *t = started(0, "lz4");
	u8 *p = map(MIB);

	CHECK_EQ(tdm_stop(t), 0);
	let_fail(SYS_sched_getaffinity, 0, EINVAL, 1, 1 << 20);
	t = started(0, "lz4");
	let_work();
	fill(p, MIB, 2);
	CHECK_EQ(tdm_pageout(t, p, MIB, NULL), 0);
	check(p, MIB, 2);
	CHECK_EQ(tdm_stop(t), 0);
	unmap(p, MIB);
}

/* Every single system call of a start fails once. There is an engine, or an error and nothing left of it. */
TEST(whatever_fails_at_the_start_leaves_nothing, .seconds = 120)
{
	struct tdm *t = started(0, "lz4");
	unsigned failures = 0;
	u64 n;

	CHECK_EQ(tdm_stop(t), 0);
	for (n = 1; n < 3000; n++) {
		int r;

		let_fail(-1, 0, ENOMEM, n, 1);
		r = start(&t, 0, "lz4", "file:/var/tmp", 0);
		let_work();
		if (!r) {
			u8 *p = map(MIB);

			fill(p, MIB, n * 2);
			CHECK_EQ(tdm_pageout(t, p, MIB, NULL), 0);
			check(p, MIB, n * 2);
			CHECK_EQ(tdm_stop(t), 0);
			check(p, MIB, n * 2);
			unmap(p, MIB);
		}
		failures += r != 0;
		if (tdm_a64_ld_relaxed(&bad.seen) < n)
			break;
	}
	CHECK(failures > 10 && n < 3000);
}

TEST(there_is_one_engine_at_a_time)
{
	struct tdm *t = started(64 * MIB, "lz4"), *u = t;
	struct tdm_options o = { .size = sizeof(o) };

	for (int i = 0; i < 3; i++) {
		CHECK_EQ(tdm_start(&o, &u, line, sizeof(line)), -EBUSY);
		CHECK(u == t && strstr(line, "already"));
		CHECK_EQ(tdm_stop(t), 0);
		CHECK_EQ(tdm_stop(t), -EINVAL);
		t = started(64 * MIB, i % 2 ? "zstd:16M" : "file:/var/tmp:64M");
	}
	CHECK_EQ(tdm_stop(t), 0);
}

TEST(without_tiers_it_has_the_default_ones)
{
	struct tdm *t = started(0, NULL);
	u8 *p = map(4 * MIB);
	size_t pages;

	fill(p, 4 * MIB, 2);
	CHECK_EQ(tdm_pageout(t, p, 4 * MIB, &pages), 0);
	CHECK_EQ(pages, 1024);
	check(p, 4 * MIB, 2);
	CHECK_EQ(tdm_stop(t), 0);
	unmap(p, 4 * MIB);
}

/* ---- numbers and the budget ---------------------------------------------------------------------------------------------------- */

TEST(numbers_are_those_of_what_was_done)
{
	struct tdm *t = started(256 * MIB, "lz4");
	struct tdm_stats s = { .size = sizeof(s) - 1 };
	u8 *p = map(8 * MIB);

	CHECK_EQ(tdm_stats_get(t, &s), -EINVAL);
	s.size = sizeof(s) + 8;
	CHECK_EQ(tdm_stats_get(t, &s), -EINVAL);
	CHECK_EQ(tdm_stats_get(t, NULL), -EINVAL);
	s.size = sizeof(s);
	CHECK_EQ(tdm_stats_get(NULL, &s), -EINVAL);
	CHECK_EQ(tdm_stats_get((struct tdm *)&s, &s), -EINVAL);
	s = stats(t);
	CHECK_EQ(s.size, sizeof(s));
	CHECK_EQ(s.budget_bytes, 256 * MIB);
	CHECK_EQ(s.out_bytes + s.hard_faults + s.evicted_pages + s.over_budget + s.forks, 0);
	CHECK(s.usage_bytes > 0 && s.peak_bytes >= s.usage_bytes);

	fill(p, 8 * MIB, 2);
	CHECK_EQ(tdm_pageout(t, p, 8 * MIB, NULL), 0);
	s = stats(t);
	CHECK_EQ(s.out_bytes, 8 * MIB);
	CHECK_EQ(s.evicted_pages, 2048);
	CHECK(s.packed_bytes > 0 && s.packed_bytes < 8 * MIB && s.pool_bytes >= s.packed_bytes && !s.disk_bytes);
	check(p, 8 * MIB, 2);
	/* A fault is counted when whoever missed goes on already. */
	for (int i = 0; (s = stats(t)).hard_pages < 2048 && i < 1000; i++)
		usleep(10000);
	CHECK_EQ(s.out_bytes, 0);
	CHECK(s.hard_faults > 0);
	CHECK_EQ(s.hard_pages, 2048);
	CHECK(s.fault_ns > 0);
	CHECK_EQ(s.managed_bytes, 8 * MIB);
	unmap(p, 8 * MIB);
	CHECK_EQ(tdm_stop(t), 0);
}

TEST(the_budget_can_be_changed, .seconds = 60)
{
	struct tdm *t = started(0, "lz4");
	struct tdm_stats s;
	u8 *p = map(64 * MIB);

	CHECK_EQ(tdm_budget_set(t, 8 * MIB - 1), -EINVAL);
	CHECK_EQ(tdm_budget_set(t, 1), -EINVAL);
	CHECK_EQ(tdm_budget_set(NULL, 0), -EINVAL);
	fill(p, 64 * MIB, 2);
	CHECK_EQ(stats(t).budget_bytes, 0);
	CHECK(stats(t).usage_bytes > 64 * MIB);
	CHECK_EQ(tdm_budget_set(t, 48 * MIB), 0);
	CHECK_EQ(stats(t).budget_bytes, 48 * MIB);
	for (int i = 0; (s = stats(t)).usage_bytes > 48 * MIB && i < 4000; i++)
		usleep(10000);
	CHECK(s.usage_bytes <= 48 * MIB && s.evicted_pages);
	CHECK_EQ(tdm_budget_set(t, 0), 0);
	check(p, 64 * MIB, 2);
	check(p, 64 * MIB, 2);
	CHECK(stats(t).usage_bytes > 64 * MIB);
	CHECK_EQ(tdm_stop(t), 0);
	check(p, 64 * MIB, 2);
	unmap(p, 64 * MIB);
}

/* ---- ranges ---------------------------------------------------------------------------------------------------------------------- */

static int exclude(struct tdm *t, void *p, size_t len, size_t *pages)
{
	(void)pages;
	return tdm_exclude(t, p, len);
}

static int pagein(struct tdm *t, void *p, size_t len, size_t *pages)
{
	(void)pages;
	return tdm_pagein(t, p, len);
}

TEST(ranges_are_whole_pages)
{
	static int (*const fn[])(struct tdm *, void *, size_t, size_t *) = { tdm_pageout, tdm_take_home, pagein, exclude };
	struct tdm *t = started(0, "lz4");
	u8 *p = map(MIB);
	size_t pages;

	fill(p, MIB, 2);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(fn); i++) {
		errno = 4711;
		CHECK_EQ(fn[i](t, p + 1, PAGE, &pages), -EINVAL);
		CHECK_EQ(fn[i](t, p, 0, &pages), -EINVAL);
		CHECK_EQ(fn[i](t, p, PAGE - 1, &pages), -EINVAL);
		CHECK_EQ(fn[i](t, p, ~(size_t)0 - PAGE + 1, &pages), -EINVAL);
		CHECK_EQ(fn[i](NULL, p, PAGE, &pages), -EINVAL);
		CHECK_EQ(fn[i]((struct tdm *)p, p, PAGE, &pages), -EINVAL);
		CHECK_EQ(fn[i](t, p, PAGE, NULL), 0);
		CHECK_EQ(errno, 4711);
		check(p, MIB, 2);
	}
	CHECK_EQ(tdm_stop(t), 0);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(fn); i++)
		CHECK_EQ(fn[i](t, p, PAGE, NULL), -EINVAL);
	CHECK_EQ(tdm_budget_set(t, 0), -EINVAL);
	unmap(p, MIB);
}

TEST(out_and_home_and_back)
{
	struct tdm *t = started(0, "lz4");
	u8 *p = map(4 * MIB);
	struct tdm_stats s;
	size_t pages = 0;

	fill(p, 4 * MIB, 2);
	CHECK_EQ(tdm_take_home(t, p, 4 * MIB, &pages), 0);
	CHECK_EQ(pages, 1024);
	s = stats(t);
	CHECK(s.home_bytes == 4 * MIB && !s.out_bytes && s.home_pages == 1024);
	CHECK_EQ(resident(p, 4 * MIB), 0);
	CHECK_EQ(tdm_take_home(t, p, 4 * MIB, &pages), 0);
	CHECK_EQ(pages, 0);
	CHECK_EQ(tdm_pagein(t, p, 4 * MIB), 0);
	CHECK_EQ(resident(p, 4 * MIB), 1024);
	CHECK_EQ(tdm_pageout(t, p, 4 * MIB, &pages), 0);
	CHECK_EQ(pages, 1024);
	CHECK_EQ(resident(p, 4 * MIB), 0);
	CHECK_EQ(tdm_pageout(t, p, 4 * MIB, &pages), 0);
	CHECK_EQ(pages, 0);
	s = stats(t);
	CHECK(s.out_bytes == 4 * MIB && !s.home_bytes);
	/* A part of it, not at the edge of a block. */
	CHECK_EQ(tdm_pagein(t, p + 5 * PAGE, 100 * PAGE), 0);
	CHECK_EQ(resident(p + 5 * PAGE, 100 * PAGE), 100);
	CHECK_EQ(tdm_pagein(t, p, 4 * MIB), 0);
	CHECK_EQ(resident(p, 4 * MIB), 1024);
	CHECK_EQ(stats(t).hard_faults, 0);
	check(p, 4 * MIB, 2);
	CHECK_EQ(tdm_stop(t), 0);
	check(p, 4 * MIB, 2);
	unmap(p, 4 * MIB);
}

TEST(what_cannot_go_stays)
{
	struct tdm *t = started(0, "lz4");
	u8 *locked = map(MIB), *half = map(MIB), *shared, *file, *none = map(MIB);
	char name[] = "/var/tmp/tandem-api-XXXXXX";
	int fd = mkstemp(name);
	size_t pages;

	CHECK(fd >= 0 && !unlink(name) && !ftruncate(fd, (off_t)MIB));
	shared = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	file = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(shared != MAP_FAILED && file != MAP_FAILED);
	fill(locked, MIB, 2);
	fill(half, MIB, 4);
	fill(shared, MIB, 6);
	fill(file, MIB, 8);
	if (syscall(SYS_mlock, locked, MIB)) /* AddressSanitizer's mlock() does nothing */
		SKIP("no right to lock 1 MiB");
	CHECK_EQ(tdm_pageout(t, locked, MIB, &pages), 0);
	CHECK_EQ(pages, 0);
	CHECK_EQ(tdm_pageout(t, shared, MIB, &pages), 0);
	CHECK_EQ(pages, 0);
	CHECK_EQ(tdm_pageout(t, file, MIB, &pages), 0);
	CHECK_EQ(pages, 0);
	CHECK_EQ(tdm_pageout(t, none, MIB, &pages), 0); /* never touched */
	CHECK_EQ(pages, 0);
	/* Memory that there is not, and such with holes. */
	CHECK(!munmap(half + 16 * PAGE, 16 * PAGE));
	CHECK_EQ(tdm_pageout(t, half, MIB, &pages), 0);
	CHECK_EQ(pages, 240);
	CHECK_EQ(tdm_pagein(t, half, MIB), 0);
	CHECK_EQ(tdm_exclude(t, half, MIB), 0);
	check(locked, MIB, 2);
	check(half, 16 * PAGE, 4);
	check(shared, MIB, 6);
	check(file, MIB, 8);
	/* The engine's own data, which was there before it. */
	CHECK_EQ(tdm_pageout(t, (void *)((uintptr_t)&bad & ~(PAGE - 1)), PAGE, &pages), 0);
	CHECK_EQ(pages, 0);
	CHECK_EQ(tdm_stop(t), 0);
	unmap(locked, MIB);
	unmap(half, MIB);
	unmap(none, MIB);
	munmap(shared, MIB);
	munmap(file, MIB);
	close(fd);
}

TEST(full_tiers_are_enospc)
{
	struct tdm *t = started(0, "lz4:1M");
	u8 *p = map(8 * MIB);
	size_t pages = 0;
	struct tdm_stats s;

	fill(p, 8 * MIB, 3);
	CHECK_EQ(tdm_pageout(t, p, 8 * MIB, &pages), -ENOSPC);
	CHECK(pages > 0 && pages < 512);
	s = stats(t);
	CHECK_EQ(s.out_bytes, pages * PAGE);
	check(p, 8 * MIB, 3);
	/* There is room again. */
	CHECK_EQ(tdm_pageout(t, p, MIB / 2, &pages), 0);
	CHECK_EQ(pages, 128);
	CHECK_EQ(tdm_stop(t), 0);
	check(p, 8 * MIB, 3);
	unmap(p, 8 * MIB);
}

TEST_DIES(strict_is_the_end_when_all_tiers_are_full, "every tier is full", .seconds = 60)
{
	struct tdm *t;
	u8 *p;
	int r = start(&t, 16 * MIB, "lz4:1M", NULL, TDM_F_STRICT);

	if (r == -EPERM || r == -EOPNOTSUPP)
		plat_abort("every tier is full: no, there is no userfaultfd here\n");
	CHECK_EQ(r, 0);
	p = map(64 * MIB);
	fill(p, 64 * MIB, 3);
	for (int i = 0; i < 500; i++)
		usleep(10000);
}

TEST(excluded_memory_is_left_alone, .seconds = 60)
{
	struct tdm *t = started(0, "lz4");
	u8 *p = map(8 * MIB);
	size_t pages;

	fill(p, 8 * MIB, 2);
	CHECK_EQ(tdm_pageout(t, p, 8 * MIB, &pages), 0);
	CHECK_EQ(pages, 2048);
	CHECK_EQ(tdm_exclude(t, p + 2 * MIB, 4 * MIB), 0);
	CHECK_EQ(resident(p + 2 * MIB, 4 * MIB), 1024);
	CHECK_EQ(stats(t).out_bytes, 4 * MIB);
	check(p, 8 * MIB, 2);
	CHECK_EQ(tdm_pageout(t, p, 8 * MIB, &pages), 0);
	CHECK_EQ(pages, 1024);
	CHECK_EQ(tdm_budget_set(t, 8 * MIB), 0);
	usleep(300000);
	CHECK_EQ(resident(p + 2 * MIB, 4 * MIB), 1024);
	CHECK_EQ(tdm_budget_set(t, 0), 0);
	check(p, 8 * MIB, 2);
	/* Until it is unmapped: what is mapped there then is like all other memory. */
	CHECK(!munmap(p + 2 * MIB, 4 * MIB));
	CHECK(mmap(p + 2 * MIB, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 2 * MIB);
	fill(p, 8 * MIB, 4);
	CHECK_EQ(tdm_pageout(t, p, 8 * MIB, &pages), 0);
	CHECK_EQ(pages, 2048);
	check(p, 8 * MIB, 4);
	CHECK_EQ(tdm_stop(t), 0);
	unmap(p, 8 * MIB);
}

/* ---- what cannot be brought back ------------------------------------------------------------------------------------------------ */

/* The tier gives nothing back for a while: the error is that, nothing is lost, and all is as it was before. */
TEST(an_error_of_a_tier_is_given_and_passes, .seconds = 60)
{
	size_t len = 32 * MIB, pages; /* more than is kept in buffers */
	struct tdm *t = started(0, "file:/var/tmp");
	u8 *p = map(len), *q = map(MIB);

	fill(p, len, 3);
	fill(q, MIB, 5);
	CHECK_EQ(tdm_pageout(t, p, len, &pages), 0);
	CHECK_EQ(pages, len / PAGE);
	CHECK_EQ(tdm_pageout(t, q, MIB, &pages), 0);
	CHECK(stats(t).disk_bytes > 0);

	let_fail(SYS_pread64, 0, EIO, 1, 1 << 20);
	CHECK_EQ(tdm_pagein(t, p, len), -EIO);
	CHECK_EQ(tdm_exclude(t, p, len), -EIO);
	CHECK_EQ(tdm_stop(t), -EIO);
	let_work();
	CHECK_EQ(tdm_pagein(t, p, len), 0);
	CHECK_EQ(resident(p, len), len / PAGE);
	check(p, len, 3);
	/* It was not excluded after all. */
	CHECK_EQ(tdm_pageout(t, p, len, &pages), 0);
	CHECK_EQ(pages, len / PAGE);
	check(p, len, 3);
	check(q, MIB, 5);
	CHECK_EQ(tdm_stop(t), 0);
	unmap(p, len);
	unmap(q, MIB);
}

/* An exclusion that fails leaves alone what is not managed, and goes on managing the rest. */
TEST(an_exclusion_that_fails_changes_nothing, .seconds = 60)
{
	size_t len = 64 * MIB, pages;
	struct tdm *t = started(0, "file:/var/tmp");
	char name[] = "/var/tmp/tandem-api-XXXXXX";
	int fd = mkstemp(name);
	u8 *p = map(len);

	/* The first half is of a file. */
	CHECK(fd >= 0 && !unlink(name) && !ftruncate(fd, (off_t)len));
	CHECK(mmap(p, len / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == p);
	fill(p, len, 3);
	CHECK_EQ(tdm_pageout(t, p, len, &pages), 0);
	CHECK_EQ(pages, len / 2 / PAGE);
	let_fail(SYS_pread64, 0, EIO, 1, 1 << 20);
	CHECK_EQ(tdm_exclude(t, p, len), -EIO);
	let_work();
	for (int i = 0; i < 3; i++)
		CHECK_EQ(tdm_pageout(t, p, len, &pages), 0);
	CHECK_EQ(resident(p, len / 2), len / 2 / PAGE);
	CHECK_EQ(resident(p + len / 2, len / 2), 0);
	check(p, len, 3);
	CHECK_EQ(tdm_stop(t), 0);
	check(p, len, 3);
	unmap(p, len);
	close(fd);
}

/* Not all of it fits: the engine stays, and goes on with all of the memory that it had. */
TEST(a_stop_that_fails_leaves_everything_managed, .seconds = 60)
{
	struct tdm *t = started(0, "lz4");
	u8 *p[4];
	size_t pages, len = 2 * MIB;

	for (int i = 0; i < 4; i++) {
		p[i] = map(len);
		fill(p[i], len, 2 * (u64)i);
	}
	for (int i = 0; i < 4; i++) /* mappings with nothing between them */
		CHECK(!munmap(p[i] - PAGE, PAGE) && !munmap(p[i] + len, PAGE));
	for (u64 first = 1; first < 120; first += 23) {
		int r;

		for (int i = 0; i < 4; i++)
			CHECK_EQ(tdm_pageout(t, p[i], len, &pages), 0);
		CHECK_EQ(stats(t).out_bytes, 4 * len);
		let_fail(SYS_ioctl, FILLS, ENOMEM, first, 1 << 20);
		r = tdm_stop(t);
		let_work();
		CHECK_EQ(r, -ENOMEM);
		CHECK_EQ(tdm_stats_get(t, &(struct tdm_stats){ .size = sizeof(struct tdm_stats) }), 0);
		for (int i = 0; i < 4; i++) {
			CHECK_EQ(tdm_pageout(t, p[i], len, &pages), 0);
			CHECK_EQ(resident(p[i], len), 0);
		}
		for (int i = 0; i < 4; i++)
			check(p[i], len, 2 * (u64)i);
	}
	CHECK_EQ(tdm_stop(t), 0);
	for (int i = 0; i < 4; i++) {
		check(p[i], len, 2 * (u64)i);
		unmap(p[i], len);
	}
}

/* ---- threads and forks -------------------------------------------------------------------------------------------------------------- */

struct worker {
	pthread_t thread;
	struct tdm *t;
	u8 *p;
	u64 seed;
	bool *end;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	u64 rng = w->seed;
	size_t len = MIB;

	fill(w->p, len, w->seed);
	while (!__atomic_load_n(w->end, __ATOMIC_RELAXED)) {
		struct tdm_stats s = { .size = sizeof(s) };
		size_t from = t_rand(&rng) % 256, n = 1 + t_rand(&rng) % (256 - from);
		int r;

		switch (t_rand(&rng) % 8) {
		case 0: r = tdm_pageout(w->t, w->p + from * PAGE, n * PAGE, NULL); break;
		case 1: r = tdm_take_home(w->t, w->p + from * PAGE, n * PAGE, NULL); break;
		case 2: r = tdm_pagein(w->t, w->p + from * PAGE, n * PAGE); break;
		case 3: r = tdm_stats_get(w->t, &s); break;
		case 4: r = tdm_budget_set(w->t, t_rand(&rng) % 2 ? 0 : 64 * MIB); break;
		default: r = 0;
		}
		CHECK(r == 0 || r == -EINVAL); /* it has been stopped */
		check(w->p, len, w->seed);
	}
	return NULL;
}

/* From many threads, of which one stops the engine and starts another one, and one forks. */
TEST(any_thread_may_call, .seconds = 120)
{
	struct worker w[4];
	bool end = false;
	struct tdm *t = started(0, "lz4");

	for (u32 i = 0; i < TDM_ARRAY_SIZE(w); i++) {
		w[i] = (struct worker){ .t = t, .p = map(MIB), .seed = 2 * i, .end = &end };
		CHECK(!pthread_create(&w[i].thread, NULL, work, &w[i]));
	}
	for (int i = 0; i < 12; i++) {
		int status;
		pid_t child;

		usleep(50000);
		child = fork();
		if (!child) {
			struct tdm_stats s = { .size = sizeof(s) };

			CHECK_EQ(tdm_stats_get(t, &s), i % 3 == 2 ? -EINVAL : 0);
			_exit(0);
		}
		CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
		if (i % 3 == 1)
			CHECK_EQ(tdm_stop(t), 0);
		if (i % 3 == 2)
			CHECK(started(0, "lz4") == t);
	}
	__atomic_store_n(&end, true, __ATOMIC_RELAXED);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(w); i++)
		CHECK(!pthread_join(w[i].thread, NULL));
	CHECK_EQ(tdm_stop(t), 0);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(w); i++) {
		check(w[i].p, MIB, w[i].seed);
		unmap(w[i].p, MIB);
	}
}

TEST(the_child_of_a_fork_has_an_engine_of_its_own, .seconds = 60)
{
	struct tdm *t = started(0, "lz4");
	u8 *p = map(4 * MIB);
	int status;
	pid_t child;

	fill(p, 4 * MIB, 2);
	CHECK_EQ(tdm_pageout(t, p, 4 * MIB, NULL), 0);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		size_t pages;

		CHECK_EQ(stats(t).out_bytes, 4 * MIB);
		check(p, 2 * MIB, 2);
		CHECK_EQ(tdm_pageout(t, p, 4 * MIB, &pages), 0);
		CHECK(pages >= 512); /* and what was brought besides */
		fill(p, MIB, 4);
		CHECK_EQ(tdm_stop(t), 0);
		check(p, MIB, 4);
		CHECK_EQ(tdm_stop(t), -EINVAL);
		CHECK_EQ(tdm_stop(started(0, "zstd")), 0);
		check(p, MIB, 4);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
	CHECK_EQ(stats(t).forks, 1);
	check(p, 4 * MIB, 2);
	CHECK_EQ(tdm_stop(t), 0);
	check(p, 4 * MIB, 2);
	unmap(p, 4 * MIB);
}
