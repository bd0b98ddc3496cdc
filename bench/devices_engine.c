/* SPDX-License-Identifier: MIT */
/* devices_engine.c - what has no public function: pins, range_fault, rounds. */
#include <pthread.h>
#include <sys/mman.h>

#include "devices.h"
#include "mm/gup.h"
#include "run/live.h"

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

void run_gup(void)
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

void run_range(void)
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

void run_invalidate(void)
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
