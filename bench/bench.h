/* SPDX-License-Identifier: MIT */
/* bench.h - what the benchmark programs share: a clock, random numbers, the data, percentiles. */
#ifndef TDM_BENCH_H
#define TDM_BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE 4096ul
#define WORDS (PAGE / 8)

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of this thread. */
static inline uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* For qsort() of doubles. */
static inline int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

__attribute__((noreturn)) static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

/* splitmix64: a hash of its argument, and by counting upwards a random sequence. */
static inline uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static inline uint64_t rand64(uint64_t *state)
{
	return mix64((*state)++);
}

/* 0 to n - 1 in random order, the same in every run. */
static inline uint32_t *random_order(size_t n)
{
	uint32_t *o = malloc(n * sizeof(*o));
	uint64_t rng = 1;

	if (!o)
		die("malloc");
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

/*
 * The data: pages that look like a heap, each word a function of (page, index) so that any of them can be checked alone. Records of 64 bytes:
 * two pointers, a number, two lengths, a float and empty space. lz4 packs such pages at about 3:1 (swapbench prints the measured ratio).
 * Word 0 of a page is its stamp instead, a function of the page and of how often it has been written.
 */
static inline uint64_t data_word(uint64_t page, unsigned i)
{
	uint64_t base = 0x00007f5a00000000u | (mix64(page) & 0xfffff000u);
	unsigned rec = i / 8;

	switch (i % 8) {
	case 0: return base + (mix64(page * WORDS + i) & 0xffff) * 64;
	case 1: return rec % 3 == 0 ? mix64(page * WORDS + i) : 0;
	case 2: return mix64(page * WORDS + i) & 0xff;
	case 3: return base + rec * 64;
	case 5: return rec & 3;
	case 6: return 0x3ff0000000000000u;
	default: return 0;
	}
}

static inline uint64_t data_stamp(uint64_t page, uint32_t version)
{
	return mix64(page ^ ((uint64_t)version << 32));
}

static inline void data_fill(uint64_t *p, uint64_t page)
{
	for (unsigned i = 1; i < WORDS; i++)
		p[i] = data_word(page, i);
	p[0] = data_stamp(page, 0);
}

/* Latencies in buckets of 1/16 of an octave: about 4% wide, and small enough to stay in the cache. */
#define HIST_SUB 16u
#define HIST_N (64u * HIST_SUB)

struct hist {
	uint64_t n, sum, max;
	uint64_t bucket[HIST_N];
};

static inline void hist_add(struct hist *h, uint64_t ns)
{
	unsigned exp = 63u - (unsigned)__builtin_clzll(ns | HIST_SUB);
	unsigned b = (exp - 4) * HIST_SUB + (unsigned)(ns >> (exp - 4));

	h->bucket[b < HIST_N ? b : HIST_N - 1]++;
	h->n++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
}

static inline void hist_merge(struct hist *to, const struct hist *from)
{
	for (unsigned i = 0; i < HIST_N; i++)
		to->bucket[i] += from->bucket[i];
	to->n += from->n;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
}

/* The value that a share q of all is at or below: the lower edge of its bucket. */
static inline uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t want = (uint64_t)(q * (double)h->n), seen = 0;

	for (unsigned b = 0; b < HIST_N; b++) {
		seen += h->bucket[b];
		if (seen > want)
			return b < 2 * HIST_SUB ? b : (uint64_t)(b % HIST_SUB + HIST_SUB) << (b / HIST_SUB - 1);
	}
	return h->max;
}

#endif
