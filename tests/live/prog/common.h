/* SPDX-License-Identifier: MIT */
/*
 * common.h - what the test programs share. They are ordinary programs: nothing here knows the library. Each verifies itself, prints one
 * line for every part that passed on stdout (always the same lines, so that a managed run can be compared with a plain one), and on a
 * failure one line that says what was expected and what was found, and exits 1.
 *
 * Only two things depend on being managed: with TANDEM_TEST_MANAGED=1 in the environment need_out() insists that the memory
 * it is given has really left the page table, because a test on memory that was never evicted has tested nothing.
 */
#ifndef TDM_TEST_COMMON_H
#define TDM_TEST_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define KiB 1024ul
#define MiB (1024ul * 1024)

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

struct opts {
	uint64_t mb;      /* MiB of memory to work on: the footprint, more or less */
	uint64_t seconds; /* how long parts with a clock run */
	uint64_t seed;
	unsigned hard;    /* percent of pages that do not compress */
	const char *only; /* run this part only */
	const char *without; /* words: what the program is not to do (oracle), or parts */
	const char *dir;  /* where to put scratch files */
	bool managed;     /* need_out() insists */
};

static struct opts opt = { .mb = 96, .seconds = 2, .seed = 1, .hard = 5, .dir = "/var/tmp" };
static const char *prog_name = "?";
static char **prog_argv;
static pid_t first_pid;
static _Atomic bool *fail_flag; /* tells relatives */

/* Print one line and end. No stdio, no allocation: may be called from anywhere. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void fail(const char *fmt, ...)
{
	char line[700];
	va_list ap;
	int n = snprintf(line, sizeof(line), "%s: FAILED (seed %" PRIu64 ", pid %d%s): ", prog_name, opt.seed, (int)getpid(),
			 getpid() == first_pid ? "" : ", a descendant");

	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	(void)!write(2, line, (size_t)n);
	if (fail_flag)
		*fail_flag = true;
	_exit(1);
}

#define CHECK(cond, ...) \
	do { \
		if (!(cond)) \
			fail(__VA_ARGS__); \
	} while (0)
#define CHECK_SYS(call) \
	({ \
		__typeof__(call) r_ = (call); \
		CHECK(r_ != (__typeof__(call))-1, "line %d: %s: %s", __LINE__, #call, strerror(errno)); \
		r_; \
	})

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A limit in seconds; longer on a slow or busy machine (TANDEM_TEST_SLOW). */
static inline unsigned slow_s(unsigned seconds)
{
	const char *slow = getenv("TANDEM_TEST_SLOW");
	double by = slow ? atof(slow) : 1;

	return by > 1 ? (unsigned)(seconds * by) : seconds;
}

static inline void sleep_ms(unsigned ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

/* splitmix64: a hash, and with a counter a generator. */
static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

struct rng {
	uint64_t s;
};

static inline uint64_t rnd(struct rng *r)
{
	return mix(r->s += 0x9e3779b97f4a7c15u);
}

static inline uint64_t below(struct rng *r, uint64_t n)
{
	return rnd(r) % n;
}

/*
 * The content of a page is a function of a name (who it is) and a version (how often it was written). The first words say both, so that
 * a stale or misplaced page names itself; the rest is of one of four kinds: nearly empty, repeating, text-like (about 3:1), random.
 */
#define PAGE_MAGIC 0x7465616e64656d21u

static inline void page_gen(void *page, uint64_t name, uint64_t version)
{
	uint64_t *w = page, h = mix(name * 31 + version), kind = h % 100;

	w[0] = PAGE_MAGIC;
	w[1] = name;
	w[2] = version;
	w[3] = h;
	if (kind < opt.hard) {
		for (unsigned i = 4; i < 512; i++)
			w[i] = h = h * 6364136223846793005u + 1442695040888963407u, w[i] ^= h >> 29;
	} else if (kind < opt.hard + 20) {
		memset(w + 4, 0, PAGE - 32);
		w[4 + h % 508] = h;
	} else if (kind < 70) {
		for (unsigned i = 4; i < 512; i++)
			w[i] = h + (i & 7);
	} else {
		/* one random word in four among words that repeat */
		for (unsigned i = 4; i < 512; i++)
			w[i] = (i & 3) ? 0x2020202065687420u + (i & 0x0c) : (h = h * 6364136223846793005u + 1) >> 24;
	}
	w[511] = ~w[3];
}

static inline bool page_is_zero(const void *page)
{
	const uint64_t *w = page;
	uint64_t any = 0;

	for (unsigned i = 0; i < 512; i++)
		any |= w[i];
	return any == 0;
}

/* Fail unless the page is what it must be; say where it differs, and what it looks like. */
static inline void page_explain(const void *page, const void *want, uint64_t name, uint64_t version, const char *what)
{
	const uint64_t *a = page, *b = want;
	unsigned first = 512, count = 0;

	for (unsigned i = 0; i < 512; i++)
		if (a[i] != b[i]) {
			if (first == 512)
				first = i;
			count++;
		}
	fail("%s: page %p name %#" PRIx64 " version %" PRIu64 ": %u words differ from word %u on: expected %#" PRIx64 " found %#" PRIx64 "%s; "
	     "the page calls itself name %#" PRIx64 " version %" PRIu64, what, page, name, version, count, first, b[first % 512], a[first % 512],
	     page_is_zero(page) ? " (ZERO PAGE)" : a[0] != PAGE_MAGIC ? " (no header)" : a[1] != name ? " (ANOTHER PAGE)" :
	     a[2] != version ? " (STALE)" : "", a[1], a[2]);
}

static inline void page_check(const void *page, uint64_t name, uint64_t version, const char *what)
{
	uint64_t want[512];

	page_gen(want, name, version);
	if (memcmp(page, want, PAGE) != 0)
		page_explain(page, want, name, version, what);
}

static inline void fill(void *p, size_t len, uint64_t name, uint64_t version)
{
	for (size_t o = 0; o < len; o += PAGE)
		page_gen((char *)p + o, name + o / PAGE, version);
}

static inline void check(const void *p, size_t len, uint64_t name, uint64_t version, const char *what)
{
	for (size_t o = 0; o < len; o += PAGE)
		page_check((const char *)p + o, name + o / PAGE, version, what);
}

static inline void check_zero(const void *p, size_t len, const char *what)
{
	for (size_t o = 0; o < len; o += PAGE) {
		const uint64_t *w = (const void *)((const char *)p + o);

		if (!page_is_zero(w))
			fail("%s: page %p must be zero, has %#" PRIx64 " %#" PRIx64 " %#" PRIx64, what, (const void *)w, w[0], w[1], w[2]);
	}
}

static inline void *anon(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED, "mmap of %zu bytes: %s", len, strerror(errno));
	return p;
}

/* Memory that no engine manages and that fork shares: where truth and results are kept. */
static inline void *shared(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED, "mmap of %zu shared bytes: %s", len, strerror(errno));
	return p;
}

/* Pages of the range that the page table does not have. */
static inline size_t out_pages(const void *p, size_t len)
{
	uint64_t ent[64];
	size_t out = 0, n = (len + PAGE - 1) / PAGE;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return n;
	for (size_t i = 0; i < n;) {
		size_t k = n - i < 64 ? n - i : 64;
		ssize_t got = pread(fd, ent, k * 8, (off_t)(((uintptr_t)p / PAGE + i) * 8));

		if (got != (ssize_t)(k * 8))
			break;
		for (size_t j = 0; j < k; j++)
			out += !(ent[j] >> 63);
		i += k;
	}
	close(fd);
	return out;
}

/*
 * Pressure: a region of opt.mb MiB that is walked over and over. It checks itself: every page carries the number of the walk that wrote
 * it last. One walk is several times the budget, so that whatever else was not touched meanwhile should be out after it.
 */
static struct {
	char *base;
	size_t pages, at;
	uint64_t walk;
} press_mem;

static inline void press_init(void)
{
	if (press_mem.base)
		return;
	press_mem.pages = opt.mb * MiB / PAGE;
	press_mem.base = anon(opt.mb * MiB);
	for (size_t i = 0; i < press_mem.pages; i++)
		page_gen(press_mem.base + i * PAGE, i, 0);
	press_mem.walk = 1;
}

static inline void press_some(size_t pages)
{
	press_init();
	for (; pages; pages--) {
		size_t i = press_mem.at;
		uint64_t *w = (void *)(press_mem.base + i * PAGE);
		uint64_t was = w[2];

		if (was != press_mem.walk - 1 || w[1] != i || (i + press_mem.walk) % 16 == 0) {
			w[2] = 0;
			page_check(w, i, 0, "pressure region");
			CHECK(was == press_mem.walk - 1, "pressure region: page %p is of walk %" PRIu64 ", must be of %" PRIu64, (void *)w, was, press_mem.walk - 1);
		}
		w[2] = press_mem.walk;
		if (++press_mem.at == press_mem.pages) {
			press_mem.at = 0;
			press_mem.walk++;
		}
	}
}

static inline void press(void)
{
	press_init();
	press_some(press_mem.pages);
}

/* Press until most of the range is out. Some ranges (stacks, thread control blocks) may rightly stay: want_out() does not insist. */
static inline bool want_out(const void *p, size_t len)
{
	size_t n = (len + PAGE - 1) / PAGE;

	p = (const void *)((uintptr_t)p & ~(PAGE - 1));
	if (!opt.managed) {
		return true;
	}
	press_init();
	for (int i = 0; i < 80; i++) {
		if (out_pages(p, len) * 4 >= n * 3)
			return true;
		press_some(press_mem.pages / 8);
		if (i % 16 == 15)
			sleep_ms(20);
	}
	return false;
}

static inline void need_out(const void *p, size_t len, const char *what)
{
	if (!want_out(p, len))
		fail("%s: [%p, +%zu) was never evicted (%zu of %zu pages out after 10 walks over %" PRIu64 " MiB)", what, p, len, out_pages(p, len), (len + PAGE - 1) / PAGE,
		     opt.mb);
}

static inline void may_be_in(const void *p, size_t len, const char *what)
{
	if (!want_out(p, len))
		fprintf(stderr, "%s: note: %s was not evicted\n", prog_name, what);
}

/* Wait for a child that must exit with the given code. */
static inline void reap(pid_t pid, int code, const char *what)
{
	int st;
	pid_t r;

	do
		r = waitpid(pid, &st, 0);
	while (r < 0 && errno == EINTR);
	CHECK(r == pid, "%s: waitpid: %s", what, strerror(errno));
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == code, "%s: child ended with status %#x, must exit with %d", what, st, code);
}

struct part {
	const char *name;
	void (*run)(void);
};

static inline uint64_t number(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 0);

	if (!*s || *end) {
		fprintf(stderr, "%s: not a number: %s\n", prog_name, s);
		exit(2);
	}
	return v;
}

static inline void parse(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');

	prog_name = slash ? slash + 1 : argv[0];
	prog_argv = argv;
	first_pid = getpid();
	opt.managed = getenv("TANDEM_TEST_MANAGED") != NULL;
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(a, "--mb"))
			opt.mb = number(v), i++;
		else if (!strcmp(a, "--seconds"))
			opt.seconds = number(v), i++;
		else if (!strcmp(a, "--seed"))
			opt.seed = number(v), i++;
		else if (!strcmp(a, "--hard"))
			opt.hard = (unsigned)number(v), i++;
		else if (!strcmp(a, "--only"))
			opt.only = v, i++;
		else if (!strcmp(a, "--without"))
			opt.without = v, i++;
		else if (!strcmp(a, "--dir"))
			opt.dir = v, i++;
		else {
			fprintf(stderr, "usage: %s [--mb N] [--seconds N] [--seed N] [--hard PERCENT] [--only PART] [--without WORDS] [--dir DIR]\n", prog_name);
			exit(2);
		}
	}
}

/* To find what a failure needs: --without fork,remap */
static inline bool without(const char *what)
{
	return opt.without && strstr(opt.without, what);
}

/* Run the parts, each named on stdout when it has passed. */
static inline int run_parts(const struct part *parts, size_t n)
{
	bool found = false;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < n; i++) {
		uint64_t t0 = now_ns();

		if (opt.only ? strcmp(opt.only, parts[i].name) != 0 : without(parts[i].name))
			continue;
		found = true;
		parts[i].run();
		printf("%s: %s ok\n", prog_name, parts[i].name);
		fflush(stdout);
		fprintf(stderr, "%s: %s took %.2f s\n", prog_name, parts[i].name, (double)(now_ns() - t0) / 1e9);
	}
	if (!found) {
		fprintf(stderr, "%s: no part is called %s\n", prog_name, opt.only);
		return 2;
	}
	return 0;
}

#endif
