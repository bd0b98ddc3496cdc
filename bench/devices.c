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
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <tandem/soft.h>
#include <unistd.h>

#include "bench.h"
#include "mm/gup.h"
#include "run/live.h"
#include "uffd.h"

#define HUGE (2ul << 20)
#define BLOCK (64ul << 10)
#define MAX_ROUNDS 64
#define MAX_THREADS 8
#define MAX_FIGURES 12

static size_t mib, threads = 1, rounds = 9, every = 16, batch = 512, intervals = 1, per_fault = 1;
static bool thp, home;
static clockid_t timer = CLOCK_MONOTONIC;
static struct tdm *engine;
static struct tdm_soft *soft;

/* ---- results -------------------------------------------------------------------------------------------------------------- */

static struct figure {
	const char *name;
	double round[4 * MAX_ROUNDS];
	size_t n;
} figures[MAX_FIGURES];

static void note(const char *name, double value)
{
	struct figure *f = figures;

	while (f->name && strcmp(f->name, name) != 0)
		f++;
	f->name = name;
	f->round[f->n++] = value;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
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

__attribute__((noreturn)) static void fail(const char *what, long got)
{
	fprintf(stderr, "devices: %s: %ld\n", what, got);
	exit(1);
}

static uint64_t timer_ns(void)
{
	struct timespec t;

	clock_gettime(timer, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- memory, and who uses it ------------------------------------------------------------------------------------------------ */

static uint8_t *map(size_t size, bool huge)
{
	uint8_t *p = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("devices: mmap");
	p = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	madvise(p, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("devices: sched_setaffinity");
}

/* A word of each page says which it is. */
static void stamp(uint8_t *p, size_t size, size_t step)
{
	for (size_t at = 0; at < size; at += step)
		*(uint64_t *)(void *)(p + at) = at + 1;
}

static void check(const uint8_t *p, size_t size, size_t step)
{
	for (size_t at = 0; at < size; at += step)
		if (*(const uint64_t *)(const void *)(p + at) != at + 1)
			fail("a page has wrong content", (long)(at / PAGE));
}

struct part {
	void (*fn)(uint8_t *p, uint8_t *q, size_t len);
	uint8_t *p, *q;
	size_t len;
};

static void *run_part(void *arg)
{
	struct part *w = arg;

	w->fn(w->p, w->q, w->len);
	return NULL;
}

/* By all threads, each its part. Nanoseconds. */
static double timed(void (*fn)(uint8_t *p, uint8_t *q, size_t len), uint8_t *p, uint8_t *q, size_t len)
{
	pthread_t t[MAX_THREADS];
	struct part w[MAX_THREADS];
	size_t each = (len / threads + HUGE - 1) & ~(HUGE - 1);
	uint64_t t0 = timer_ns();

	for (size_t i = 0; i < threads; i++) {
		size_t from = i * each < len ? i * each : len;

		w[i] = (struct part){ fn, p + from, q + from, len - from < each ? len - from : each };
		if (i && pthread_create(&t[i], NULL, run_part, &w[i]))
			die("devices: pthread_create");
	}
	run_part(&w[0]);
	for (size_t i = 1; i < threads; i++)
		pthread_join(t[i], NULL);
	return (double)(timer_ns() - t0);
}

static void start(size_t memory)
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

/* fn(thread, i) on each thread of the device. */
static void on_device(void (*fn)(struct tdm_device_thread *t, void *arg, size_t i), void *arg)
{
	int r = tdm_soft_launch(soft, fn, arg, threads);

	if (r)
		fail("tdm_soft_launch", r);
}

/* ---- whole folios ------------------------------------------------------------------------------------------------------------ */

static void there(uint8_t *p, uint8_t *q, size_t len)
{
	size_t n;
	int r = tdm_device_migrate(tdm_soft_device(soft), p, len, &n);

	(void)q;
	if (r || n < len / PAGE / 100 * 99)
		fail("tdm_device_migrate", r ? r : (long)n);
}

static void back(uint8_t *p, uint8_t *q, size_t len)
{
	int r = tdm_pagein(engine, p, len);

	(void)q;
	if (r)
		fail("tdm_pagein", r);
}

static void copy_there(uint8_t *p, uint8_t *q, size_t len)
{
	memcpy(q, p, len);
}

static void copy_back(uint8_t *p, uint8_t *q, size_t len)
{
	memcpy(p, q, len);
}

/* The share of the region that is in pages of 2 MiB. */
static double share_huge(const uint8_t *p, size_t len)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long from, to, kib, sum = 0;
	char line[256];
	bool in = false;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			in = from < (uintptr_t)p + len && to > (uintptr_t)p;
		else if (in && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
			sum += kib;
	}
	if (f)
		fclose(f);
	return (double)(sum << 10) / (double)len;
}

/* In each round both, in this order or the other one. */
static void both(size_t round, double (*ours)(void), double (*theirs)(void), double *x, double *y)
{
	if (round % 2)
		*y = theirs();
	*x = ours();
	if (!(round % 2))
		*y = theirs();
}

static struct {
	size_t len;
	uint8_t *p;           /* migrates */
	uint8_t *from, *to;   /* are copied */
} mig;

static double ours_migrate(void)
{
	double in = timed(there, mig.p, NULL, mig.len), out = timed(back, mig.p, NULL, mig.len);

	note("there_gbs", (double)mig.len / in);
	note("back_gbs", (double)mig.len / out);
	check(mig.p, mig.len, PAGE);
	return in + out;
}

static double theirs_migrate(void)
{
	double in = timed(copy_there, mig.from, mig.to, mig.len), out = timed(copy_back, mig.from, mig.to, mig.len);

	note("memcpy_there_gbs", (double)mig.len / in);
	note("memcpy_back_gbs", (double)mig.len / out);
	return in + out;
}

static void run_migrate(void)
{
	mig.len = mib << 20;
	/* What was there before the engine is none of its business. */
	mig.from = map(mig.len, thp);
	mig.to = map(mig.len, true);
	memset(mig.from, 1, mig.len);
	memset(mig.to, 1, mig.len);
	start(mig.len);
	mig.p = map(mig.len, thp);
	stamp(mig.p, mig.len, PAGE);
	for (size_t r = 0; r < rounds; r++) {
		double x, y;

		if (thp)
			note("huge", share_huge(mig.p, mig.len));
		both(r, ours_migrate, theirs_migrate, &x, &y);
		note("gbs", 2 * (double)mig.len / x);
		note("memcpy_gbs", 2 * (double)mig.len / y);
		note("ratio", y / x);
	}
}

/* ---- single pages ------------------------------------------------------------------------------------------------------------- */

static struct {
	size_t len, step;
	uint8_t *p;
	uint8_t *from, *to, *homes;
	int fd;
} single;

static double ours_4k(void)
{
	uint64_t t0 = timer_ns();
	size_t n;
	int e = tdm_device_migrate(tdm_soft_device(soft), single.p, single.len, &n);
	double ns = (double)(timer_ns() - t0);

	if (e || n < single.len / single.step / 100 * 99)
		fail("tdm_device_migrate", e ? e : (long)n);
	check(single.p, single.len, single.step);
	return ns / (double)n;
}

static double theirs_4k(void)
{
	uint64_t t0 = timer_ns();
	double ns;

	for (size_t at = 0; at < single.len; at += single.step) {
		struct uffdio_move move = { .dst = (uintptr_t)single.homes + at, .src = (uintptr_t)single.from + at, .len = PAGE };

		if (ioctl(single.fd, UFFDIO_MOVE, &move))
			die("devices: UFFDIO_MOVE");
		memcpy(single.to + at, single.homes + at, PAGE);
		madvise(single.homes + at, PAGE, MADV_DONTNEED);
	}
	ns = (double)(timer_ns() - t0);
	for (size_t at = 0; at < single.len; at += single.step)
		memcpy(single.from + at, single.to + at, PAGE);
	check(single.from, single.len, single.step);
	return ns / (double)(single.len / single.step);
}

static void bare_open(void)
{
	struct uffdio_register reg = { .range = { (uintptr_t)single.homes, single.len }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };

	single.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (single.fd < 0 || ioctl(single.fd, UFFDIO_API, &api) || ioctl(single.fd, UFFDIO_REGISTER, &reg))
		die("devices: userfaultfd with MOVE");
}

static void run_migrate4k(void)
{
	single.len = mib << 20;
	single.step = every * PAGE;
	single.from = map(single.len, false);
	single.to = map(single.len, true);
	single.homes = map(single.len, false);
	memset(single.to, 1, single.len);
	stamp(single.from, single.len, single.step);
	bare_open();
	start(single.len);
	single.p = map(single.len, false);
	stamp(single.p, single.len, single.step);
	for (size_t r = 0; r < rounds; r++) {
		double x, y;

		both(r, ours_4k, theirs_4k, &x, &y);
		note("ns_page", x);
		note("bare_ns_page", y);
		note("ratio", x / y);
	}
}

/* ---- pins ---------------------------------------------------------------------------------------------------------------------- */

static struct gup {
	uint8_t *p;
	size_t len;
	struct tdm_pfn *page[MAX_THREADS];
	double pin_ns[MAX_THREADS];
	size_t active;
	tdm_a64 ready;
} gup;

/* All of the thread's part, in batches; then let go of all. */
static void gup_thread(struct tdm_device_thread *t, void *arg, size_t i)
{
	struct tdm_device_worker *w = (struct tdm_device_worker *)t;
	size_t n = gup.len / threads / PAGE, passes = 20;
	uint64_t from = (uintptr_t)gup.p + i * n * PAGE, pin = 0, t0;

	(void)arg;
	if (i >= gup.active)
		return;
	tdm_a64_add_acqrel(&gup.ready, 1);
	while (tdm_a64_ld_acquire(&gup.ready) < gup.active)
		;
	for (size_t pass = 0; pass < passes; pass++) {
		t0 = now_ns();
		for (size_t k = 0; k < n; k += batch) {
			uint32_t got;

			tdm_device_enter_mm(w);
			got = tdmi_gup_fast(w->ctx, from + k * PAGE, (uint32_t)batch, gup.page[i] + k);
			tdmi_mm_exit(w->ctx);
			if (got != batch)
				fail("tdmi_gup_fast", got);
		}
		pin += now_ns() - t0;
		tdm_device_enter_mm(w);
		tdmi_unpin(w->ctx, gup.page[i], (uint32_t)n);
		tdmi_mm_exit(w->ctx);
	}
	gup.pin_ns[i] = (double)pin / (double)(n * passes);
}

/* Adopt what has been mapped since. */
static void find(void)
{
	(void)tdmi_live_request(tdmi_live, TDM_OP_FIND, 0, 0, NULL);
}

/* Rates add up. */
static double together(const double *ns, size_t n)
{
	double rate = 0;

	for (size_t i = 0; i < n; i++)
		rate += 1 / ns[i];
	return 1 / rate;
}

/* ns a page, of n threads together. */
static double gup_run(size_t n, const char *name)
{
	double ns;

	gup.active = n;
	tdm_a64_st_relaxed(&gup.ready, 0);
	on_device(gup_thread, NULL);
	ns = together(gup.pin_ns, n);
	note(name, ns);
	return ns;
}

/* Loads and locked additions to memory of the thread's own: what the machine makes of two threads that share nothing (its CPUs may be halves of one). */
static void *bare_thread(void *arg)
{
	static uint8_t memory[MAX_THREADS][512 << 10] __attribute__((aligned(4096)));
	size_t i = (size_t)(uintptr_t)arg;
	uint64_t sum = 0, t0;

	tdm_a64_add_acqrel(&gup.ready, 1);
	while (tdm_a64_ld_acquire(&gup.ready) < gup.active)
		;
	t0 = now_ns();
	for (size_t pass = 0; pass < 100; pass++)
		for (size_t k = 0; k < sizeof(memory[0]); k += 128) {
			uint64_t *word = (uint64_t *)(void *)&memory[i][k];

			for (size_t j = 0; j < 16; j++)
				sum += word[j];
			__atomic_fetch_add(word, sum, __ATOMIC_ACQ_REL);
		}
	gup.pin_ns[i] = (double)(now_ns() - t0);
	return NULL;
}

static double bare_run(size_t n)
{
	pthread_t t[MAX_THREADS];

	gup.active = n;
	tdm_a64_st_relaxed(&gup.ready, 0);
	for (size_t i = 1; i < n; i++)
		if (pthread_create(&t[i], NULL, bare_thread, (void *)i))
			die("devices: pthread_create");
	bare_thread(NULL);
	for (size_t i = 1; i < n; i++)
		pthread_join(t[i], NULL);
	return together(gup.pin_ns, n);
}

static double bare_one(void)
{
	return bare_run(1);
}

static double bare_all(void)
{
	return bare_run(threads);
}

static double gup_one(void)
{
	return gup_run(1, "ns_page");
}

static double gup_all(void)
{
	return gup_run(threads, "all_ns_page");
}

static void run_gup(void)
{
	/* As much for each thread, however many there are. */
	gup.len = (mib << 20) * threads;
	start(HUGE);
	gup.p = map(gup.len, thp);
	stamp(gup.p, gup.len, PAGE);
	for (size_t i = 0; i < threads; i++)
		gup.page[i] = calloc(gup.len / PAGE, sizeof(struct tdm_pfn));
	find();
	for (size_t r = 0; r < rounds; r++) {
		double one, all;

		both(r, gup_one, gup_all, &one, &all);
		note("ratio", one / all);
		both(r, bare_one, bare_all, &one, &all);
		note("bare_ratio", one / all);
	}
}

/* ---- range_fault ---------------------------------------------------------------------------------------------------------------- */

static struct range {
	struct tdm_range_fault rf;
	uint64_t ns;
	int result;
} range;

static void range_thread(struct tdm_device_thread *t, void *arg, size_t i)
{
	struct tdm_device_worker *w = (struct tdm_device_worker *)t;
	uint64_t t0;

	(void)arg;
	(void)i;
	tdm_device_enter_mm(w);
	t0 = now_ns();
	range.result = tdmi_range_fault(w->ctx, &range.rf);
	range.ns = now_ns() - t0;
	tdmi_mm_exit(w->ctx);
}

static void run_range(void)
{
	size_t len = mib << 20, n = len / PAGE, leaf = thp ? HUGE / PAGE : 1;
	uint8_t *p;
	uint64_t *e;

	start(HUGE);
	e = (uint64_t *)(void *)map(n * 8, false);
	if (tdm_exclude(engine, e, n * 8))
		fail("tdm_exclude", -1);
	memset(e, 0, n * 8);
	p = map(len, thp);
	stamp(p, len, PAGE);
	find();
	range.rf = (struct tdm_range_fault){ .start = (uintptr_t)p, .end = (uintptr_t)p + len, .entry = e, .flags = thp ? TDM_RF_HEADS : 0 };
	for (size_t r = 0; r < rounds; r++) {
		on_device(range_thread, NULL);
		if (range.result)
			fail("tdmi_range_fault", range.result);
		for (size_t k = 0; k < n; k += leaf)
			if (!(e[k] & TDM_RF_VALID) || 1u << tdm_rf_order(e[k]) != leaf)
				fail("a page is not there as it should be", (long)k);
		note("ns_page", (double)range.ns / (double)n);
		memset(e, 0, n * 8);
	}
}

/* ---- rounds ------------------------------------------------------------------------------------------------------------------------ */

static bool never(struct tdm_interval_notifier *in, const struct tdm_inv_range *r, u64 seq)
{
	(void)in;
	(void)r;
	(void)seq;
	abort();
}

/* Rounds at `off` from the begin of a subscription, at any of them, or at so many places that come again. */
static double rounds_ns(struct tdm_notifiers *nots, uint64_t off, size_t places, size_t n)
{
	uint64_t rng = 7, *at = malloc(n * sizeof(*at)), t0;

	for (size_t i = 0; i < n; i++)
		at[i] = i < places || !places ? (rand64(&rng) % intervals << 22) + off : at[i % places];
	t0 = timer_ns();
	for (size_t i = 0; i < n; i++) {
		struct tdm_inv_range r = TDM_INV_RANGE(at[i], at[i] + BLOCK, TDM_INV_CLEAR);

		(void)tdmi_invalidate_start(nots, &r);
		tdmi_invalidate_end(nots, &r);
	}
	t0 = timer_ns() - t0;
	free(at);
	return (double)t0 / (double)n;
}

static void run_invalidate(void)
{
	static const struct tdm_interval_notifier_ops ops = { .invalidate = never };
	static struct tdm_alloc alloc;
	static struct tdm_rcu rcu;
	static struct tdm_notifiers nots;
	struct tdm_interval_notifier *in = calloc(intervals, sizeof(*in));
	uint32_t *o = random_order(intervals);

	tdmi_alloc_init(&alloc);
	tdmi_rcu_init(&rcu);
	tdmi_notifiers_init(&nots, &alloc, &rcu);
	for (size_t i = 0; i < intervals; i++) {
		in[o[i]].ops = &ops;
		if (tdmi_interval_notifier_insert(&nots, &in[o[i]], (uint64_t)o[i] << 22, ((uint64_t)o[i] << 22) + HUGE / 2))
			fail("tdmi_interval_notifier_insert", (long)i);
		tdmi_rcu_poll(&rcu);
	}
	for (size_t r = 0; r < rounds; r++) {
		note("ns_near", rounds_ns(&nots, HUGE, 64, 1000000));
		note("ns_anywhere", rounds_ns(&nots, HUGE, 0, 1000000));
		/* In the same 2 MiB as a subscriber: the tree has to be asked. */
		note("ns_beside", rounds_ns(&nots, HUGE / 2, 0, 1000000));
	}
}

/* ---- faults: one of each 64 KiB, at random ------------------------------------------------------------------------------------------- */

static struct {
	uint8_t *p;
	size_t len, n;
	uint32_t *order;
	uint64_t ns;
	int result;
	uint8_t *from, *to; /* are copied */
} faults;

static void go_home(void)
{
	size_t got;
	int e = tdm_take_home(engine, faults.p, faults.len, &got);

	if (e)
		fail("tdm_take_home", e);
}

static void come_back(void)
{
	int e = tdm_pagein(engine, faults.p, faults.len);

	if (e)
		fail("tdm_pagein", e);
}

/* ns */
static double cpu_touches(void)
{
	volatile const uint8_t *v = faults.p;
	uint64_t t0 = timer_ns(), sum = 0;

	for (size_t i = 0; i < faults.n; i++)
		sum += v[faults.order[i] * BLOCK];
	t0 = timer_ns() - t0;
	if (sum == 1)
		printf(" ");
	return (double)t0 / (double)faults.n;
}

static double soft_fault(void)
{
	struct tdm_stats a = { .size = sizeof(a) }, b = a;
	double ns;

	come_back();
	go_home();
	tdm_stats_get(engine, &a);
	ns = cpu_touches();
	tdm_stats_get(engine, &b);
	note("pages_soft", (double)(b.soft_pages - a.soft_pages) / (double)faults.n);
	note("ns_soft", ns);
	return ns;
}

static void fault_thread(struct tdm_device_thread *t, void *arg, size_t i)
{
	uint64_t t0 = timer_ns();

	(void)arg;
	(void)i;
	faults.result = 0;
	for (size_t k = 0; k < faults.n && !faults.result; k++)
		faults.result = tdm_device_prefault(t, faults.p + faults.order[k] * BLOCK, 1, 1);
	faults.ns = timer_ns() - t0;
}

static double device_fault(void)
{
	struct tdm_device_stats a = { .size = sizeof(a) }, b = a;

	/* Which also takes it out of the device's table. */
	come_back();
	go_home();
	if (!home)
		come_back();
	tdm_device_stats_get(tdm_soft_device(soft), &a);
	on_device(fault_thread, NULL);
	tdm_device_stats_get(tdm_soft_device(soft), &b);
	if (faults.result || b.filled_pages - a.filled_pages < faults.n)
		fail("tdm_device_prefault", faults.result);
	note("ns_device", (double)faults.ns / (double)faults.n);
	return (double)faults.ns / (double)faults.n;
}

static double device_touch(void)
{
	struct tdm_device_stats a = { .size = sizeof(a) }, b = a;
	size_t got;
	double ns;
	int e;

	come_back();
	e = tdm_device_migrate(tdm_soft_device(soft), faults.p, faults.len, &got);
	if (e || got < faults.n * per_fault / 100 * 99)
		fail("tdm_device_migrate", e ? e : (long)got);
	tdm_device_stats_get(tdm_soft_device(soft), &a);
	ns = cpu_touches();
	tdm_device_stats_get(tdm_soft_device(soft), &b);
	note("pages_device", (double)(b.pages_out - a.pages_out) / (double)faults.n);
	note("ns_device", ns);
	return ns;
}

/* What the copy alone takes, between memory like that. */
static double soft_fault_and_copy(void)
{
	double ns = soft_fault();
	uint64_t t0 = timer_ns();

	for (size_t i = 0; i < faults.n; i++)
		memcpy(faults.to + faults.order[i] * BLOCK, faults.from + faults.order[i] * BLOCK, per_fault * PAGE);
	t0 = timer_ns() - t0;
	note("ns_copy", (double)t0 / (double)faults.n);
	return ns + (double)t0 / (double)faults.n;
}

static void fault_rounds(double (*ours)(void), double (*theirs)(void), size_t step)
{
	faults.len = mib << 20;
	faults.n = faults.len / BLOCK;
	faults.order = random_order(faults.n);
	faults.from = map(faults.len, true);
	faults.to = map(faults.len, false);
	memset(faults.from, 1, faults.len);
	memset(faults.to, 1, faults.len);
	start(faults.len);
	faults.p = map(faults.len, false);
	stamp(faults.p, faults.len, step);
	pin(0); /* now, not earlier: threads inherit it */
	for (size_t r = 0; r < rounds; r++) {
		double x, y;

		both(r, ours, theirs, &x, &y);
		note("ratio", x / y);
		check(faults.p, faults.len, step);
	}
}

static void run_fault(void)
{
	fault_rounds(device_fault, soft_fault, PAGE);
}

static void run_touch(void)
{
	fault_rounds(device_touch, soft_fault_and_copy, per_fault > 1 ? PAGE : BLOCK);
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
