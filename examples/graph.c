/* SPDX-License-Identifier: MIT */
/*
 * graph - PageRank of a graph of malloc'd nodes that point to each other, half of it computed by the CPU and half by a device.
 *
 *     graph [--nodes N=100000] [--degree N=12] [--rounds N=4] [--bus SIZE=4G] [--ram SIZE]
 *
 * Nothing is copied for the device, and no pointer is translated: it is given the nodes' addresses, and follows them. In each round the CPU computes the new ranks
 * of one half, while the device computes those of the other; most nodes point to nodes of their own half, some to the other. The device first
 * takes its half into its memory (tdm_device_migrate()), so as not to reach across the bus for each pointer; what the CPU wants of it comes back when it touches
 * it, with what lies around, and goes again in the next round. With --ram the process may have no more memory than that, beside the device's: what neither of the
 * two has is compressed, or in a file.
 *
 * Who computes a rank makes no difference to it: the same additions, in the same order. So the results are compared to the last bit.
 *
 * Exit status: 0 identical, 1 not, or something went wrong; 2 bad arguments; 77 no right to manage memory.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tandem/soft.h"

#define MIB (1ull << 20)
#define PAGE 4096ull
#define PARTS 64u /* that the device's threads take one after the other */
#define BAD_USAGE 2
#define CANNOT 77

struct node {
	double share[2];  /* of its rank, what it gives to each that it points to: in even rounds, in odd rounds */
	double rank;
	uint32_t nout, nin;
	struct node **in; /* who points to it */
};

static struct {
	uint64_t nodes, degree, rounds, bus, ram;
} opt = { .nodes = 100000, .degree = 12, .rounds = 4, .bus = 4096 * MIB };

static struct tdm *engine;
static struct tdm_soft *soft;
static struct node **node;         /* all of them; those from the middle on are the device's */
static uint64_t half, part_start, part_end; /* where the device's lie */
static uint64_t graph_bytes;
static uint32_t now;               /* share[now] is read, share[!now] written */
static int device_error;

static _Noreturn __attribute__((format(printf, 2, 3))) void die(int status, const char *format, ...)
{
	char line[300];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stderr, "graph: %s\n", line);
	_exit(status);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- the graph --- */

static uint64_t random_below(uint64_t n)
{
	static uint64_t s = 42;
	uint64_t x = s += 0x9e3779b97f4a7c15u;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return (x ^ (x >> 31)) % n;
}

static void *allocate(size_t len)
{
	void *p = malloc(len);

	if (!p)
		die(1, "no memory for the graph");
	graph_bytes += len;
	return p;
}

/* Whom node i hears from: nineteen of twenty are of its own half, and of these most are near. The others are the few of the other half that are known there. */
static uint64_t neighbour(uint64_t i)
{
	uint64_t first = i < half ? 0 : half, count = i < half ? half : opt.nodes - half;

	if (random_below(20) == 0)
		return half - first + random_below((opt.nodes - count) / 16);
	if (random_below(4) == 0)
		return first + random_below(count);
	return first + (i - first + random_below(1000)) % count;
}

/* One half after the other, so that each lies by itself. */
static void make_graph(void)
{
	node = allocate(opt.nodes * sizeof(*node));
	half = opt.nodes / 2;
	part_start = ~0ull;
	for (uint64_t i = 0; i < opt.nodes; i++) {
		uint64_t nin = 1 + random_below(2 * opt.degree - 1);
		struct node *n = allocate(sizeof(*n));

		*n = (struct node){ .rank = 1, .nin = (uint32_t)nin, .in = allocate(nin * sizeof(*n->in)) };
		memset(n->in, 0, nin * sizeof(*n->in));
		node[i] = n;
		if (i >= half) {
			uint64_t a = (uint64_t)(uintptr_t)n, b = (uint64_t)(uintptr_t)n->in, end = b + nin * sizeof(*n->in);

			part_start = a < part_start ? a : part_start;
			part_start = b < part_start ? b : part_start;
			part_end = end > part_end ? end : part_end;
			part_end = a + sizeof(*n) > part_end ? a + sizeof(*n) : part_end;
		}
	}
	for (uint64_t i = 0; i < opt.nodes; i++)
		for (uint32_t k = 0; k < node[i]->nin; k++) {
			node[i]->in[k] = node[neighbour(i)];
			node[i]->in[k]->nout++;
		}
}

static void begin_again(void)
{
	now = 0;
	for (uint64_t i = 0; i < opt.nodes; i++) {
		node[i]->rank = 1;
		node[i]->share[0] = node[i]->nout ? 1.0 / node[i]->nout : 0;
	}
}

static void set_rank(struct node *n, double sum)
{
	n->rank = 0.15 + 0.85 * sum;
	n->share[!now] = n->nout ? n->rank / n->nout : 0;
}

/* --- the CPU --- */

static void *cpu_ranks(void *upto)
{
	for (uint64_t i = 0; i < *(uint64_t *)upto; i++) {
		double sum = 0;

		for (uint32_t k = 0; k < node[i]->nin; k++)
			sum += node[i]->in[k]->share[now];
		set_rank(node[i], sum);
	}
	return NULL;
}

/* --- the device: the same, through its own page table --- */

static int device_rank(struct tdm_device_thread *t, struct node *at)
{
	struct node n, *in[64];
	double sum = 0, share;
	int r = tdm_device_read(t, at, &n, sizeof(n));

	for (uint32_t k = 0; !r && k < n.nin; k++) {
		if (k % 64 == 0)
			r = tdm_device_read(t, n.in + k, in, (n.nin - k < 64 ? n.nin - k : 64) * sizeof(*in));
		if (!r)
			r = tdm_device_read(t, &in[k % 64]->share[now], &share, sizeof(share));
		sum += share;
	}
	if (r)
		return r;
	set_rank(&n, sum);
	r = tdm_device_write(t, &at->share[!now], &n.share[!now], sizeof(double));
	return r ? r : tdm_device_write(t, &at->rank, &n.rank, sizeof(double));
}

static void device_part(struct tdm_device_thread *t, void *arg, size_t part)
{
	uint64_t count = opt.nodes - half, from = half + count * part / PARTS, to = half + count * (part + 1) / PARTS;
	struct node *at;

	(void)arg;
	for (; from < to; from++) {
		int r = tdm_device_read(t, &node[from], &at, sizeof(at));

		r = r ? r : device_rank(t, at);
		if (r)
			__atomic_store_n(&device_error, r, __ATOMIC_RELAXED);
	}
}

/* --- both --- */

/* The device takes its half in, by parts. At first some of it may be in a tier, and goes through ram; later what has come back for the CPU is in ram. It may well be
 * that the device's memory is full: then the rest is reached where it is. */
static void take_in(bool first)
{
	uint64_t start = part_start & ~(PAGE - 1), end = (part_end + PAGE - 1) & ~(PAGE - 1);

	for (uint64_t at = start, len; at < end; at += len) {
		void *p = (void *)(uintptr_t)at;
		int r = 0;

		len = end - at < MIB ? end - at : MIB;
		if (first && opt.ram)
			r = tdm_pagein(engine, p, len);
		r = r ? r : tdm_device_migrate(tdm_soft_device(soft), p, len, NULL);
		if (r && r != -ENOSPC)
			die(1, "taking pages in: error %d", -r);
	}
}

static double run(bool device, bool migrates)
{
	uint64_t upto = device ? half : opt.nodes;
	double start = seconds();

	for (uint64_t round = 0; round < opt.rounds; round++, now = !now) {
		pthread_t cpu;
		int r = 0;

		if (migrates)
			take_in(round == 0);
		if (pthread_create(&cpu, NULL, cpu_ranks, &upto))
			die(1, "no thread");
		if (device)
			r = tdm_soft_launch(soft, device_part, NULL, PARTS);
		pthread_join(cpu, NULL);
		if (r || device_error)
			die(1, "the device: error %d", r ? -r : -device_error);
	}
	return seconds() - start;
}

static struct tdm_device_stats stats(void)
{
	struct tdm_device_stats s = { .size = sizeof(s) };

	if (tdm_device_stats_get(tdm_soft_device(soft), &s))
		die(1, "tdm_device_stats_get");
	return s;
}

static bool same_as(const double *want)
{
	for (uint64_t i = 0; i < opt.nodes; i++)
		if (memcmp(&node[i]->rank, &want[i], sizeof(double)) != 0) {
			printf("node %llu has rank %.17g, must have %.17g\n", (unsigned long long)i, node[i]->rank, want[i]);
			return false;
		}
	return true;
}

static bool with_device(const char *what, bool migrates, const double *want)
{
	struct tdm_device_stats before, after;
	double took;

	begin_again();
	before = stats();
	took = run(true, migrates);
	after = stats();
	printf("%s%8.2f s   %llu pages to the device, %llu back; %llu faults of the device\n", what, took, (unsigned long long)(after.pages_in - before.pages_in),
	       (unsigned long long)(after.pages_out - before.pages_out), (unsigned long long)(after.faults - before.faults));
	return same_as(want);
}

static void start(void)
{
	struct tdm_options o = { .size = sizeof(o), .ram_bytes = opt.ram };
	struct tdm_soft_options so = { .size = sizeof(so), .bus_bytes = opt.bus, .threads = 2 };
	char line[240];
	int r = tdm_start(&o, &engine, line, sizeof(line));

	if (r)
		die(r == -EPERM || r == -EOPNOTSUPP ? CANNOT : 1, "%s", line);
	/* Its half, and some. */
	so.memory_bytes = (opt.nodes * (sizeof(struct node) + 16 + opt.degree * 8 + 16) * 5 / 8 + 4 * MIB) & ~(2 * MIB - 1);
	r = tdm_soft_create(engine, &so, &soft);
	if (r)
		die(1, "tdm_soft_create: error %d", -r);
}

/* --- the command line --- */

static uint64_t number(const char *option, const char *s, bool size, uint64_t least, uint64_t most)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (size && (*end == 'M' || *end == 'G') && v <= 1 << 20)
		v *= *end++ == 'M' ? MIB : 1024 * MIB;
	if (errno || *s < '0' || *s > '9' || *end || v < least || v > most)
		die(BAD_USAGE, "%s %s: must be a number from %llu to %llu%s", option, s, (unsigned long long)least, (unsigned long long)most, size ? ", or one of M or G" : "");
	return v;
}

static void parse(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(o, "--nodes"))
			opt.nodes = number(o, v, false, 1000, 100000000);
		else if (!strcmp(o, "--degree"))
			opt.degree = number(o, v, false, 1, 1000);
		else if (!strcmp(o, "--rounds"))
			opt.rounds = number(o, v, false, 1, 1000);
		else if (!strcmp(o, "--bus"))
			opt.bus = number(o, v, true, MIB, 1024 * 1024 * MIB);
		else if (!strcmp(o, "--ram"))
			opt.ram = number(o, v, true, 8 * MIB, 1024 * 1024 * MIB);
		else
			die(BAD_USAGE, "usage: graph [--nodes N] [--degree N] [--rounds N] [--bus SIZE] [--ram SIZE]");
	}
}

int main(int argc, char **argv)
{
	struct tdm_stats s = { .size = sizeof(s) };
	double *want, took;
	bool same;
	int r;

	parse(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	start();
	make_graph();
	printf("graph           %llu nodes in %.1f MiB, half of them the device's, behind a bus of %.1f GB/s\n", (unsigned long long)opt.nodes,
	       (double)graph_bytes / (double)MIB, (double)opt.bus / 1e9);
	begin_again();
	took = run(false, false);
	printf("CPU alone       %8.2f s\n", took);
	want = allocate(opt.nodes * sizeof(*want));
	for (uint64_t i = 0; i < opt.nodes; i++)
		want[i] = node[i]->rank;
	same = with_device("nothing moves   ", false, want) && with_device("pages migrate   ", true, want);
	if (opt.ram && !tdm_stats_get(engine, &s))
		printf("budget          %8.1f MiB  peak %.1f MiB; %llu pages went to a tier, %llu came back\n", (double)opt.ram / (double)MIB,
		       (double)s.peak_bytes / (double)MIB, (unsigned long long)s.evicted_pages, (unsigned long long)s.hard_pages);
	r = tdm_soft_destroy(soft);
	r = r ? r : tdm_stop(engine);
	if (r)
		die(1, "the end: error %d", -r);
	/* Nothing is on the device, or in a tier, any more. */
	same = same && same_as(want);
	printf("identical: %s\n", same ? "yes" : "no");
	return !same;
}
