/* SPDX-License-Identifier: MIT */
/*
 * soft - what one soft fault costs: a touch of a page that is at home, one MOVE away.
 *
 *     soft engine [MIB=256] [ROUNDS=5]              through libtandem: tdm_take_home(), then a touch of each 64 KiB block
 *     soft bare [MIB=256] [ROUNDS=5] [PAGES=16] [ARRANGEMENT]   the least that can do the same: MOVE out, handler threads that MOVE back
 *
 * Each round takes the whole region home and touches one byte in each block of PAGES pages, in random order; only the touches are timed. A
 * round's result is time / faults, faults as the side itself counted them. The touching thread is pinned to CPU 0 in both.
 *
 * ARRANGEMENT of the bare loop: "same": one handler, pinned to CPU 0; "each": one handler on each CPU, all reading one descriptor;
 * "free": one handler, wherever the scheduler puts it. The first is the fastest where a wake-up of another CPU is slow.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"
#include "tandem/tandem.h"
#include "uffd.h"

#define MAX_ROUNDS 64
#define MAX_CPUS 64

static size_t mib = 256, rounds = 5, pages = 16;
static double result[MAX_ROUNDS]; /* ns a fault */
static double share[MAX_ROUNDS];  /* pages a fault */

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("soft: sched_setaffinity");
}

static uint8_t *map(size_t size)
{
	size_t align = 2u << 20;
	uint8_t *p = mmap(NULL, size + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("soft: mmap");
	p = (uint8_t *)(((uintptr_t)p + align - 1) & ~(align - 1));
	madvise(p, size, MADV_NOHUGEPAGE);
	return p;
}

/* Touch one byte of each block. Returns nanoseconds. */
static uint64_t touch(const volatile uint8_t *p, const uint32_t *o, size_t n, size_t block)
{
	uint64_t t0, bad = 0;

	pin(0); /* now, not earlier: threads inherit it */
	t0 = now_ns();
	for (size_t i = 0; i < n; i++)
		bad += p[o[i] * block] != 7;
	t0 = now_ns() - t0;
	if (bad) {
		fprintf(stderr, "soft: %llu blocks have wrong content\n", (unsigned long long)bad);
		exit(1);
	}
	return t0;
}

/* --- the bare loop --- */

static struct bare {
	int fd;
	uintptr_t user, home;
	size_t block;
	uint64_t faults[MAX_CPUS][8]; /* a cache line each */
	struct { pthread_t thread; int index, cpu; } handler[MAX_CPUS];
} bare;

static void *handle(void *arg)
{
	int me = *(int *)arg, cpu = bare.handler[me].cpu;
	struct uffd_msg msg;

	if (cpu >= 0)
		pin(cpu);
	while (read(bare.fd, &msg, sizeof(msg)) == sizeof(msg)) {
		uintptr_t at = (uintptr_t)msg.arg.pagefault.address & ~(bare.block - 1);
		struct uffdio_move move = { .dst = at, .src = bare.home + (at - bare.user), .len = bare.block };

		bare.faults[me][0]++;
		if (ioctl(bare.fd, UFFDIO_MOVE, &move))
			die("soft: UFFDIO_MOVE");
	}
	return NULL;
}

static void bare_open(const char *arrangement, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int n = !strcmp(arrangement, "each") ? (int)sysconf(_SC_NPROCESSORS_ONLN) : 1;

	bare.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (bare.fd < 0 || ioctl(bare.fd, UFFDIO_API, &api))
		die("soft: userfaultfd with MOVE");
	bare.block = pages * PAGE;
	bare.user = (uintptr_t)map(size);
	bare.home = (uintptr_t)map(size);
	for (int i = 0; i < 2; i++) {
		reg.range.start = i ? bare.home : bare.user;
		reg.range.len = size;
		if (ioctl(bare.fd, UFFDIO_REGISTER, &reg))
			die("soft: UFFDIO_REGISTER");
	}
	for (int i = 0; i < n && i < MAX_CPUS; i++) {
		bare.handler[i].index = i;
		bare.handler[i].cpu = !strcmp(arrangement, "free") ? -1 : i;
		if (pthread_create(&bare.handler[i].thread, NULL, handle, &bare.handler[i].index))
			die("soft");
	}
}

static void run_bare(const char *arrangement)
{
	size_t size = mib << 20, n;
	uint32_t *o;

	bare_open(arrangement, size);
	n = size / bare.block;
	o = random_order(n);
	for (size_t r = 0; r < rounds; r++) {
		uint64_t faults = 0, ns;

		if (r == 0) { /* to write the first content at home must not fault */
			struct uffdio_range whole = { .start = bare.home, .len = size };

			ioctl(bare.fd, UFFDIO_UNREGISTER, &whole);
			memset((void *)bare.home, 7, size);
		} else {
			for (size_t at = 0; at < size; at += bare.block) {
				struct uffdio_move move = { .dst = bare.home + at, .src = bare.user + at, .len = bare.block };

				if (ioctl(bare.fd, UFFDIO_MOVE, &move))
					die("soft: UFFDIO_MOVE out");
			}
		}
		for (int i = 0; i < MAX_CPUS; i++)
			bare.faults[i][0] = 0;
		ns = touch((const uint8_t *)bare.user, o, n, bare.block);
		for (int i = 0; i < MAX_CPUS; i++)
			faults += bare.faults[i][0];
		result[r] = (double)ns / (double)faults;
		share[r] = (double)pages;
		/* MOVE wants its destination registered in the same context. */
		if (r == 0) {
			struct uffdio_register reg = { .range = { bare.home, size }, .mode = UFFDIO_REGISTER_MODE_MISSING };

			if (ioctl(bare.fd, UFFDIO_REGISTER, &reg))
				die("soft: UFFDIO_REGISTER");
		}
	}
}

/* --- the engine --- */

static struct tdm_stats stats(struct tdm *t)
{
	struct tdm_stats s = { .size = sizeof(s) };

	if (tdm_stats_get(t, &s)) {
		fprintf(stderr, "soft: tdm_stats_get failed\n");
		exit(1);
	}
	return s;
}

static void run_engine(void)
{
	struct tdm_options options = { .size = sizeof(options) };
	size_t size = mib << 20, block = pages * PAGE, n = size / block;
	uint32_t *o = random_order(n);
	struct tdm *t;
	char err[256];
	uint8_t *p;

	if (tdm_start(&options, &t, err, sizeof(err))) {
		fprintf(stderr, "soft: %s\n", err);
		exit(1);
	}
	p = map(size);
	memset(p, 7, size);
	for (size_t r = 0; r < rounds; r++) {
		struct tdm_stats a, b;
		size_t taken = 0;
		uint64_t ns;
		int rc = tdm_pagein(t, p, size); /* a fault at random brings a page or two: the rest is home still */

		rc = rc ? rc : tdm_take_home(t, p, size, &taken);
		if (rc || taken < size / PAGE / 20 * 19) {
			fprintf(stderr, "soft: tdm_take_home: %s, %zu of %zu pages\n", strerror(-rc), taken, size / PAGE);
			exit(1);
		}
		a = stats(t);
		ns = touch(p, o, n, block);
		b = stats(t);
		if (b.soft_faults == a.soft_faults) {
			fprintf(stderr, "soft: no soft fault was counted\n");
			exit(1);
		}
		result[r] = (double)ns / (double)(b.soft_faults - a.soft_faults);
		share[r] = (double)(b.soft_pages - a.soft_pages) / (double)(b.soft_faults - a.soft_faults);
	}
	tdm_stop(t);
}

int main(int argc, char **argv)
{
	const char *arrangement = "same";
	bool engine = argc > 1 && !strcmp(argv[1], "engine");

	if (argc < 2 || (!engine && strcmp(argv[1], "bare") != 0)) {
		fprintf(stderr, "usage: soft engine|bare [MIB=N] [ROUNDS=N] [PAGES=N] [same|each|free]\n");
		return 2;
	}
	for (int i = 2; i < argc; i++) {
		if (sscanf(argv[i], "MIB=%zu", &mib) == 1 || sscanf(argv[i], "ROUNDS=%zu", &rounds) == 1 || sscanf(argv[i], "PAGES=%zu", &pages) == 1)
			continue;
		arrangement = argv[i];
	}
	if (rounds < 1 || rounds > MAX_ROUNDS || mib < 1 || pages < 1 || (pages & (pages - 1)) || pages > 512) {
		fprintf(stderr, "soft: a number is out of range\n");
		return 2;
	}
	if (engine)
		run_engine();
	else
		run_bare(arrangement);
	/* The first round warms up, where there are others. */
	size_t from = rounds > 2;
	qsort(result + from, rounds - from, sizeof(double), ascending);
	qsort(share + from, rounds - from, sizeof(double), ascending);
	printf("{\"ns_fault\": %.1f, \"pages_fault\": %.2f, \"arrangement\": \"%s\"}\n", result[from + (rounds - from) / 2],
	       share[from + (rounds - from) / 2], engine ? "engine" : arrangement);
	fflush(stdout);
	_exit(0); /* the handlers of the bare loop sleep in read() */
}
