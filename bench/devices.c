/* SPDX-License-Identifier: MIT */
/*
 * devices - what devices cost, in a live process, and the least that could do the same.
 *
 *     devices migrate [thp] [MIB=256] [THREADS=1]    to a soft device and back, in folios of 64 KiB or 2 MiB; memcpy of the same bytes
 *     devices migrate4k [EVERY=16] [MIB=256]         there, of each EVERY pages one; MOVE, memcpy, MADV_DONTNEED of the same
 *     devices gup [THREADS=2] [BATCH=512]            tdmi_gup_fast() of resident memory, by one thread, and by all; the ratio of the first to the second
 *     devices range [thp] [MIB=1024]                 tdmi_range_fault() of all of it, as a snapshot
 *     devices invalidate [INTERVALS=1]               a round that overlaps none of so many subscribers
 *     devices fault [home]                           tdm_device_prefault() of pages that are in ram, mapped or at home; soft faults of the same
 *     devices touch [PAGES=1|16]                     the CPU touches what is on a device; what is at home, and a copy
 *
 * cpu: not by the clock, but by the CPU time of the process: what is done, on a machine that is busy with something else, too (not gup, range).
 * ROUNDS=9. Where there are two sides both are measured in each round, the order changing from one to the next, since what else the machine does changes, too:
 * "ratio" is the median of the rounds' ratios, ours to the other; else medians of the rounds, of which the first is not counted. One line of JSON. Built with the engine
 * inside, for what has no public function.
 */
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices.h"

#define MAX_ROUNDS 64
#define MAX_FIGURES 12

size_t mib, threads = 1, rounds = 9, every = 16, batch = 512, intervals = 1, per_fault = 1;
bool thp, home;
static clockid_t timer = CLOCK_MONOTONIC;
struct tdm *engine;
struct tdm_soft *soft;

/* ---- results -------------------------------------------------------------------------------------------------------------- */

static struct figure {
	const char *name;
	double round[4 * MAX_ROUNDS];
	size_t n;
} figures[MAX_FIGURES];

void note(const char *name, double value)
{
	struct figure *f = figures;

	while (f->name && strcmp(f->name, name) != 0)
		f++;
	f->name = name;
	f->round[f->n++] = value;
}

static void print_figures(void)
{
	printf("{");
	for (struct figure *f = figures; f->name; f++) {
		size_t from = f->n > 2;

		qsort(f->round + from, f->n - from, sizeof(double), ascending);
		printf("%s\"%s\": %.4f", f == figures ? "" : ", ", f->name, f->round[from + (f->n - from) / 2]);
	}
	printf("}\n");
}

__attribute__((noreturn)) void fail(const char *what, long got)
{
	fprintf(stderr, "devices: %s: %ld\n", what, got);
	exit(1);
}

uint64_t timer_ns(void)
{
	struct timespec t;

	clock_gettime(timer, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- memory, and who uses it ------------------------------------------------------------------------------------------------ */

uint8_t *map(size_t size, bool huge)
{
	uint8_t *p = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("devices: mmap");
	p = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	madvise(p, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p;
}

void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("devices: sched_setaffinity");
}

void stamp(uint8_t *p, size_t size, size_t step)
{
	for (size_t at = 0; at < size; at += step)
		*(uint64_t *)(void *)(p + at) = at + 1;
}

void check(const uint8_t *p, size_t size, size_t step)
{
	for (size_t at = 0; at < size; at += step)
		if (*(const uint64_t *)(const void *)(p + at) != at + 1)
			fail("a page has wrong content", (long)(at / PAGE));
}

void start(size_t memory)
{
	struct tdm_options options = { .size = sizeof(options) };
	struct tdm_soft_options so = { .size = sizeof(so), .memory_bytes = memory, .threads = (unsigned)threads };
	char err[256];
	int r = tdm_start(&options, &engine, err, sizeof(err));

	if (r) {
		fprintf(stderr, "devices: %s\n", err);
		exit(1);
	}
	r = memory ? tdm_soft_create(engine, &so, &soft) : 0;
	if (r)
		fail("tdm_soft_create", r);
}

void on_device(void (*fn)(struct tdm_device_thread *t, void *arg, size_t i), void *arg)
{
	int r = tdm_soft_launch(soft, fn, arg, threads);

	if (r)
		fail("tdm_soft_launch", r);
}

void both(size_t round, double (*ours)(void), double (*theirs)(void), double *x, double *y)
{
	if (round % 2)
		*y = theirs();
	*x = ours();
	if (!(round % 2))
		*y = theirs();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		size_t mib;
		void (*fn)(void);
	} modes[] = {
		{ "migrate", 256, run_migrate },     { "migrate4k", 256, run_migrate4k }, { "gup", 128, run_gup },       { "range", 1024, run_range },
		{ "invalidate", 0, run_invalidate }, { "fault", 256, run_fault },   { "touch", 256, run_touch },
	};
	void (*fn)(void) = NULL;

	for (size_t i = 0; argc > 1 && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (!strcmp(argv[1], modes[i].name)) {
			fn = modes[i].fn;
			mib = modes[i].mib;
		}
	for (int i = 2; i < argc; i++) {
		if (sscanf(argv[i], "MIB=%zu", &mib) == 1 || sscanf(argv[i], "ROUNDS=%zu", &rounds) == 1 || sscanf(argv[i], "THREADS=%zu", &threads) == 1 ||
		    sscanf(argv[i], "EVERY=%zu", &every) == 1 || sscanf(argv[i], "BATCH=%zu", &batch) == 1 || sscanf(argv[i], "INTERVALS=%zu", &intervals) == 1 ||
		    sscanf(argv[i], "PAGES=%zu", &per_fault) == 1)
			continue;
		thp = thp || !strcmp(argv[i], "thp");
		home = home || !strcmp(argv[i], "home");
		timer = !strcmp(argv[i], "cpu") ? CLOCK_PROCESS_CPUTIME_ID : timer;
	}
	mib = mib ? mib : 256;
	if (argc < 2 || !fn || rounds < 1 || rounds > MAX_ROUNDS || threads < 1 || threads > MAX_THREADS || !every ||
	    !batch || !intervals || per_fault > 16) {
		fprintf(stderr, "usage: devices MODE [NAME=N]...: see the top of devices.c\n");
		return 2;
	}
	if (fn == run_gup && threads == 1)
		threads = 2;
	fn();
	print_figures();
	fflush(stdout);
	_exit(0); /* the engine goes with the process */
}
