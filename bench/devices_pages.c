/* SPDX-License-Identifier: MIT */
/* devices_pages.c - pages go to a device and come back, because somebody asks for it, or touches them; and the least that could do the same. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices.h"
#include "uffd.h"

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

void run_migrate(void)
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

void run_migrate4k(void)
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

void run_fault(void)
{
	fault_rounds(device_fault, soft_fault, PAGE);
}

void run_touch(void)
{
	fault_rounds(device_touch, soft_fault_and_copy, per_fault > 1 ? PAGE : BLOCK);
}
