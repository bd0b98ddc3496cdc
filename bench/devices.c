/* SPDX-License-Identifier: MIT */
/*
 * devices - what devices cost, in a live process, and the least that could do the same.
 *
 *     devices migrate|memcpy [thp] [MIB=256] [THREADS=1] [ROUNDS=5]    to a soft device and back, in folios of 64 KiB or 2 MiB
 *     devices migrate4k|bare4k [EVERY=16] [MIB=256] [ROUNDS=5]         there, of each EVERY pages one; bare: MOVE, memcpy, MADV_DONTNEED
 *     devices gup [THREADS=1] [BATCH=512]                              tdmi_gup_fast() of resident memory
 *     devices range [thp] [MIB=1024]                                   tdmi_range_fault() of all of it, as a snapshot
 *     devices invalidate [INTERVALS=1]                                 a round that overlaps none of so many subscribers
 *     devices fault [home]                                             tdm_device_prefault() of pages that are in ram, at random
 *     devices touch [home] [PAGES=1|16]                                the CPU touches what is on a device, or at home, at random
 *
 * One line of JSON. Medians of the rounds, of which the first is not counted. Built with the engine inside, for the rows that have no public function.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <tandem/soft.h>
#include <unistd.h>

#include "bench.h"
#include "mm/gup.h"
#include "run/live.h"

#ifndef UFFDIO_MOVE
struct uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFD_FEATURE_MOVE (1u << 16)
#endif

#define HUGE (2ul << 20)
#define BLOCK (64ul << 10)
#define MAX_ROUNDS 64
#define MAX_THREADS 8
#define MAX_FIGURES 8

static size_t mib, threads = 1, rounds = 5, every = 16, batch = 512, intervals = 1, per_fault = 1;
static bool thp, home;
static struct tdm *engine;
static struct tdm_soft *soft;

/* ---- results -------------------------------------------------------------------------------------------------------------- */

static struct figure {
	const char *name;
	double round[MAX_ROUNDS];
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

/* In random order, the same in every run. */
static uint32_t *order(size_t n)
{
	uint32_t *o = malloc(n * sizeof(*o));
	uint64_t rng = 1;

	if (!o)
		die("devices");
	for (size_t i = 0; i < n; i++)
		o[i] = (uint32_t)i;
	for (size_t i = n - 1; i > 0; i--) {
		size_t j = rand64(&rng) % (i + 1);
		uint32_t t = o[i];

		o[i] = o[j];
		o[j] = t;
	}
	return o;
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
	uint64_t t0 = now_ns();

	for (size_t i = 0; i < threads; i++) {
		size_t from = i * each < len ? i * each : len;

		w[i] = (struct part){ fn, p + from, q + from, len - from < each ? len - from : each };
		if (i && pthread_create(&t[i], NULL, run_part, &w[i]))
			die("devices: pthread_create");
	}
	run_part(&w[0]);
	for (size_t i = 1; i < threads; i++)
		pthread_join(t[i], NULL);
	return (double)(now_ns() - t0);
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

static void run_migrate(bool bare)
{
	size_t len = mib << 20;
	uint8_t *p, *q = NULL;

	if (!bare)
		start(len);
	p = map(len, thp);
	stamp(p, len, PAGE);
	if (bare) {
		q = map(len, true);
		memset(q, 1, len);
	}
	for (size_t r = 0; r < rounds; r++) {
		double huge = thp ? share_huge(p, len) : 0, in = timed(bare ? copy_there : there, p, q, len), out = timed(bare ? copy_back : back, p, q, len);

		note("there_gbs", (double)len / in);
		note("back_gbs", (double)len / out);
		note("gbs", 2 * (double)len / (in + out));
		note("huge", huge);
		check(p, len, PAGE);
	}
}

/* ---- single pages ------------------------------------------------------------------------------------------------------------- */

static void run_migrate4k(void)
{
	size_t len = mib << 20, n, step = every * PAGE;
	uint8_t *p;

	start(len);
	p = map(len, false);
	stamp(p, len, step);
	for (size_t r = 0; r < rounds; r++) {
		double t0 = (double)now_ns();
		int e = tdm_device_migrate(tdm_soft_device(soft), p, len, &n);

		t0 = (double)now_ns() - t0;
		if (e || n < len / step / 100 * 99)
			fail("tdm_device_migrate", e ? e : (long)n);
		note("ns_page", t0 / (double)n);
		check(p, len, step);
	}
}

static void bare_register(int fd, uint8_t *p, size_t len)
{
	struct uffdio_register reg = { .range = { (uintptr_t)p, len }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	if (ioctl(fd, UFFDIO_REGISTER, &reg))
		die("devices: UFFDIO_REGISTER");
}

static void run_bare4k(void)
{
	size_t len = mib << 20, step = every * PAGE;
	uint8_t *p = map(len, false), *q = map(len, true), *homes = map(len, false);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		die("devices: userfaultfd with MOVE");
	memset(q, 1, len);
	stamp(p, len, step);
	bare_register(fd, homes, len);
	for (size_t r = 0; r < rounds; r++) {
		uint64_t t0 = now_ns();

		for (size_t at = 0; at < len; at += step) {
			struct uffdio_move move = { .dst = (uintptr_t)homes + at, .src = (uintptr_t)p + at, .len = PAGE };

			if (ioctl(fd, UFFDIO_MOVE, &move))
				die("devices: UFFDIO_MOVE");
			memcpy(q + at, homes + at, PAGE);
			madvise(homes + at, PAGE, MADV_DONTNEED);
		}
		note("ns_page", (double)(now_ns() - t0) / (double)(len / step));
		for (size_t at = 0; at < len; at += step)
			memcpy(p + at, q + at, PAGE);
		check(p, len, step);
	}
}

/* ---- pins ---------------------------------------------------------------------------------------------------------------------- */

static struct gup {
	uint8_t *p;
	size_t len;
	struct tdm_pfn *page[MAX_THREADS];
	double pin_ns[MAX_THREADS], unpin_ns[MAX_THREADS];
	tdm_a64 ready;
} gup;

/* All of the thread's part, in batches; then let go of all. */
static void gup_thread(struct tdm_device_thread *t, void *arg, size_t i)
{
	struct tdm_device_worker *w = (struct tdm_device_worker *)t;
	size_t n = gup.len / threads / PAGE, passes = 20;
	uint64_t from = (uintptr_t)gup.p + i * n * PAGE, pin = 0, unpin = 0, t0;

	(void)arg;
	tdm_a64_add_acqrel(&gup.ready, 1);
	while (tdm_a64_ld_acquire(&gup.ready) < threads)
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
		t0 = now_ns();
		tdm_device_enter_mm(w);
		tdmi_unpin(w->ctx, gup.page[i], (uint32_t)n);
		tdmi_mm_exit(w->ctx);
		unpin += now_ns() - t0;
	}
	gup.pin_ns[i] = (double)pin / (double)(n * passes);
	gup.unpin_ns[i] = (double)unpin / (double)(n * passes);
}

/* Adopt what has been mapped since. */
static void find(void)
{
	(void)tdmi_live_request(tdmi_live, TDM_OP_FIND, 0, 0, NULL);
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
		double pin = 0, unpin = 0;

		tdm_a64_st_relaxed(&gup.ready, 0);
		on_device(gup_thread, NULL);
		for (size_t i = 0; i < threads; i++) {
			pin = gup.pin_ns[i] > pin ? gup.pin_ns[i] : pin;
			unpin = gup.unpin_ns[i] > unpin ? gup.unpin_ns[i] : unpin;
		}
		note("ns_page", pin / (double)threads);
		note("unpin_ns_page", unpin / (double)threads);
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
	t0 = now_ns();
	for (size_t i = 0; i < n; i++) {
		struct tdm_inv_range r = TDM_INV_RANGE(at[i], at[i] + BLOCK, TDM_INV_CLEAR);

		(void)tdmi_invalidate_start(nots, &r);
		tdmi_invalidate_end(nots, &r);
	}
	t0 = now_ns() - t0;
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
	uint32_t *o = order(intervals);

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

/* ---- the device faults -------------------------------------------------------------------------------------------------------------- */

static struct faults {
	uint8_t *p;
	uint32_t *order;
	size_t n;
	uint64_t ns;
	int result;
} faults;

static void fault_thread(struct tdm_device_thread *t, void *arg, size_t i)
{
	uint64_t t0 = now_ns();

	(void)arg;
	(void)i;
	faults.result = 0;
	for (size_t k = 0; k < faults.n && !faults.result; k++)
		faults.result = tdm_device_prefault(t, faults.p + faults.order[k] * BLOCK, 1, 1);
	faults.ns = now_ns() - t0;
}

static void run_fault(void)
{
	struct tdm_device_stats a = { .size = sizeof(a) }, b = a;
	size_t len = mib << 20, taken;

	start(HUGE);
	faults.p = map(len, false);
	faults.n = len / BLOCK;
	faults.order = order(faults.n);
	stamp(faults.p, len, PAGE);
	for (size_t r = 0; r < rounds; r++) {
		/* Which also takes it out of the device's table. */
		int e = tdm_take_home(engine, faults.p, len, &taken);

		e = e || home ? e : tdm_pagein(engine, faults.p, len);
		if (e)
			fail("tdm_take_home", e);
		tdm_device_stats_get(tdm_soft_device(soft), &a);
		on_device(fault_thread, NULL);
		tdm_device_stats_get(tdm_soft_device(soft), &b);
		if (faults.result || b.filled_pages - a.filled_pages < faults.n)
			fail("tdm_device_prefault", faults.result);
		note("ns_fault", (double)faults.ns / (double)faults.n);
		check(faults.p, len, PAGE);
	}
}

/* ---- the CPU touches ------------------------------------------------------------------------------------------------------------------ */

static void run_touch(void)
{
	size_t len = mib << 20, n = len / BLOCK, got, step = per_fault > 1 ? PAGE : BLOCK;
	uint32_t *o = order(n);
	uint8_t *p, *q;

	start(len);
	p = map(len, false);
	q = map(len, true);
	memset(q, 1, len);
	stamp(p, len, step);
	for (size_t r = 0; r < rounds; r++) {
		int e = home ? tdm_take_home(engine, p, len, &got) : tdm_device_migrate(tdm_soft_device(soft), p, len, &got);
		struct tdm_stats a = { .size = sizeof(a) }, b = a;
		struct tdm_device_stats da = { .size = sizeof(da) }, db = da;
		volatile const uint8_t *v = p;
		uint64_t t0, sum = 0;
		static uint8_t page[BLOCK];

		if (e || got < len / step / 100 * 99)
			fail("there", e ? e : (long)got);
		tdm_stats_get(engine, &a);
		tdm_device_stats_get(tdm_soft_device(soft), &da);
		t0 = now_ns();
		for (size_t i = 0; i < n; i++)
			sum += v[o[i] * BLOCK];
		t0 = now_ns() - t0;
		tdm_stats_get(engine, &b);
		tdm_device_stats_get(tdm_soft_device(soft), &db);
		note("ns_touch", (double)t0 / (double)n);
		note("pages_touch", (double)(b.soft_pages - a.soft_pages + db.pages_out - da.pages_out) / (double)n);
		/* What the copy alone takes. */
		t0 = now_ns();
		for (size_t i = 0; i < n; i++)
			memcpy(page, q + o[i] * BLOCK, per_fault * PAGE);
		note("ns_copy", (double)(now_ns() - t0) / (double)n);
		if (sum == 1)
			printf(" ");
		check(p, len, step);
		e = tdm_pagein(engine, p, len);
		if (e)
			fail("tdm_pagein", e);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		size_t mib;
		void (*fn)(void);
	} modes[] = {
		{ "migrate4k", 256, run_migrate4k }, { "bare4k", 256, run_bare4k }, { "gup", 128, run_gup },       { "range", 1024, run_range },
		{ "invalidate", 0, run_invalidate }, { "fault", 256, run_fault },   { "touch", 256, run_touch },
	};
	bool bare = argc > 1 && !strcmp(argv[1], "memcpy");
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
	}
	mib = mib ? mib : 256;
	if (argc < 2 || (!fn && !bare && strcmp(argv[1], "migrate") != 0) || rounds < 1 || rounds > MAX_ROUNDS || threads < 1 || threads > MAX_THREADS || !every ||
	    !batch || !intervals || per_fault > 16) {
		fprintf(stderr, "usage: devices MODE [NAME=N]...: see the top of devices.c\n");
		return 2;
	}
	if (fn)
		fn();
	else
		run_migrate(bare);
	print_figures();
	fflush(stdout);
	_exit(0); /* the engine goes with the process */
}
