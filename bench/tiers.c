/* SPDX-License-Identifier: MIT */
/*
 * tiers - how fast memory goes out to lz4 and comes back through the engine, against lz4 itself on the same data.
 *
 *     tiers [MIB=512] [ROUNDS=5]
 *
 * In each round, in one process and on one thread, the order turning from round to round:
 *   codec64, codec4   LZ4_compress_default and LZ4_decompress_safe alone, of every 64 KiB piece (every 4 KiB page) of the data;
 *   out               tdm_pageout() of the region;  touch: reading one word of each of its pages in order, everything out;
 *   in                tdm_pageout() again, untimed, then tdm_pagein().
 * Rates are of unpacked bytes, by the clock, and by the CPU time that the whole process used meanwhile: an engine that compresses on
 * two threads is twice as fast by the clock only. One line of JSON with the medians.
 */
#include <lz4.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "bench.h"
#include "tandem/tandem.h"

#define MAX_ROUNDS 64

enum what { COMP64, DECOMP64, COMP4, DECOMP4, OUT, TOUCH, IN, WHAT_NR };

static const char *const names[WHAT_NR] = { "comp64", "decomp64", "comp4", "decomp4", "out", "touch", "in" };

static size_t mib = 512, rounds = 5;
static double wall[WHAT_NR][MAX_ROUNDS], cpu[WHAT_NR][MAX_ROUNDS]; /* GB/s */
static double ratio64, ratio4;

struct timer {
	uint64_t wall, cpu;
};

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct timer start(void)
{
	return (struct timer){ now_ns(), cpu_ns() };
}

static void stop(struct timer t, enum what w, size_t round)
{
	uint64_t c = cpu_ns() - t.cpu, e = now_ns() - t.wall;

	wall[w][round] = (double)(mib << 20) / (double)e;
	cpu[w][round] = (double)(mib << 20) / (double)c;
}

static void fail(const char *what, int rc)
{
	fprintf(stderr, "tiers: %s: %s\n", what, strerror(-rc));
	exit(1);
}

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("tiers: mmap");
	return p;
}

/* lz4 alone, piece by piece: packed one behind the other, and unpacked to where they came from, as a store would do it. */
static double codec(char *data, char *packed, size_t piece, enum what comp, enum what decomp, size_t round)
{
	size_t n = (mib << 20) / piece, used = 0, room = 2 * (mib << 20);
	int *len = malloc(n * sizeof(*len));
	struct timer t = start();

	if (!len)
		die("tiers");
	for (size_t i = 0; i < n; i++) {
		len[i] = LZ4_compress_default(data + i * piece, packed + used, (int)piece, (int)(room - used > 131072 ? 131072 : room - used));
		if (len[i] <= 0)
			fail("LZ4_compress_default", 0);
		used += (size_t)len[i];
	}
	stop(t, comp, round);
	t = start();
	for (size_t i = 0, at = 0; i < n; at += (size_t)len[i], i++)
		if (LZ4_decompress_safe(packed + at, data + i * piece, len[i], (int)piece) != (int)piece)
			fail("LZ4_decompress_safe", 0);
	stop(t, decomp, round);
	free(len);
	return (double)(mib << 20) / (double)used;
}

static void page_out(struct tdm *t, void *p)
{
	size_t size = mib << 20, out = 0;
	int rc = tdm_pageout(t, p, size, &out);

	if (rc)
		fail("tdm_pageout", rc);
	if (out < size / PAGE / 20 * 19) {
		fprintf(stderr, "tiers: only %zu of %zu pages went out\n", out, size / PAGE);
		exit(1);
	}
}

static void check(const uint64_t *p, bool all)
{
	uint64_t pages = (mib << 20) / PAGE, bad = 0;

	for (uint64_t i = 0; i < pages; i++) {
		bad += p[i * WORDS] != data_stamp(i, 0);
		for (unsigned j = 1; all && j < WORDS; j++)
			bad += p[i * WORDS + j] != data_word(i, j);
	}
	if (bad) {
		fprintf(stderr, "tiers: %llu words have wrong content\n", (unsigned long long)bad);
		exit(1);
	}
}

static void engine(struct tdm *t, uint64_t *p, size_t round)
{
	struct timer at = start();
	int rc;

	page_out(t, p);
	stop(at, OUT, round);
	at = start();
	check(p, false);
	stop(at, TOUCH, round);
	page_out(t, p);
	at = start();
	rc = tdm_pagein(t, p, mib << 20);
	stop(at, IN, round);
	if (rc)
		fail("tdm_pagein", rc);
	check(p, round == 0);
}

static double median(double *v)
{
	qsort(v, rounds, sizeof(*v), ascending);
	return v[rounds / 2];
}

int main(int argc, char **argv)
{
	static const char *const tiers[] = { "lz4" };
	struct tdm_options options = { .size = sizeof(options), .tiers = tiers, .ntiers = 1 };
	struct tdm *t = NULL;
	char err[256];
	uint64_t *data, *p = NULL;
	char *packed;
	bool bare = false;
	int rc;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "bare"))
			bare = true;
		else if (sscanf(argv[i], "MIB=%zu", &mib) != 1 && sscanf(argv[i], "ROUNDS=%zu", &rounds) != 1) {
			fprintf(stderr, "usage: tiers [MIB=N] [ROUNDS=N] [bare]\n");
			return 2;
		}
	}
	if (rounds < 1 || rounds > MAX_ROUNDS || mib < 1) {
		fprintf(stderr, "tiers: a number is out of range\n");
		return 2;
	}
	/* What lz4 alone works on is mapped before the engine starts, which does not manage it then. */
	data = map(mib << 20);
	packed = map(2 * (mib << 20));
	for (uint64_t i = 0; i < (mib << 20) / PAGE; i++)
		data_fill(data + i * WORDS, i);
	memset(packed, 1, mib << 20);
	if (!bare) {
		rc = tdm_start(&options, &t, err, sizeof(err));
		if (rc)
			fail(err, rc);
		tdm_exclude(t, data, mib << 20);
		tdm_exclude(t, packed, 2 * (mib << 20));
		p = map(mib << 20);
		memcpy(p, data, mib << 20);
	}
	for (size_t r = 0; r < rounds; r++) {
		if (!bare && r % 2)
			engine(t, p, r);
		ratio64 = codec((char *)data, packed, 65536, COMP64, DECOMP64, r);
		ratio4 = codec((char *)data, packed, PAGE, COMP4, DECOMP4, r);
		if (!bare && r % 2 == 0)
			engine(t, p, r);
	}
	printf("{\"ratio64\": %.3f, \"ratio4\": %.3f", ratio64, ratio4);
	for (int w = 0; w < WHAT_NR; w++)
		if (!bare || w < OUT)
			printf(", \"%s\": %.4f, \"%s_cpu\": %.4f", names[w], median(wall[w]), names[w], median(cpu[w]));
	printf("}\n");
	if (t)
		tdm_stop(t);
	return 0;
}
