/* SPDX-License-Identifier: MIT */
/* Synthetic accesses: each pattern's distribution, and that the seed decides all of it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "runner/t.h"
#include "sim/pattern.h"

#define BATCH 1000u

static struct tdm_pattern make(enum tdm_pattern_kind kind, u64 units, u64 seed, u32 writes)
{
	struct tdm_pattern_spec spec = { .kind = kind, .bytes = units * 64 + 63, .unit = 64, .stride = 64, .theta = 990, .writes = writes };
	struct tdm_pattern p;

	CHECK_EQ(tdmi_pattern_init(&p, &spec, seed, 3), 0);
	return p;
}

/* How often each unit comes in n accesses; how many of them are writes. */
static u64 count(struct tdm_pattern *p, u64 n, u64 *hits)
{
	u64 ops[BATCH], writes = 0;

	for (u64 done = 0; done < n; done += BATCH) {
		tdmi_pattern_next(p, ops, BATCH);
		for (u32 i = 0; i < BATCH; i++) {
			u64 off = TDM_OP_OFFSET(ops[i]);

			CHECK(off % p->spec.unit == 0 && off / p->spec.unit < p->units);
			hits[off / p->spec.unit]++;
			writes += ops[i] & TDM_OP_WRITE;
		}
	}
	return writes;
}

/* Known answers, from the published description: splitmix64 from seed 0, and xoshiro256** from the state 1, 2, 3, 4. */
TEST(generators)
{
	struct tdm_rng r = { { 1, 2, 3, 4 } };
	u64 s = 0;

	CHECK_EQ(tdm_splitmix(&s), 0xe220a8397b1dcdafu);
	CHECK_EQ(tdm_splitmix(&s), 0x6e789e6aa1b965f4u);
	CHECK_EQ(tdm_rng_next(&r), 11520);
	CHECK_EQ(tdm_rng_next(&r), 0);
	CHECK_EQ(tdm_rng_next(&r), 1509978240);
	CHECK_EQ(tdm_rng_next(&r), 1215971899390074240);
}

TEST(one_seed_one_sequence)
{
	for (u32 kind = 0; kind <= TDM_PATTERN_CHASE; kind++) {
		struct tdm_pattern a = make(kind, 1000, 7, 300), b = make(kind, 1000, 7, 300), c = make(kind, 1000, 8, 300);
		u64 x[BATCH], y[BATCH], z[BATCH];

		for (u32 i = 0; i < 20; i++) {
			tdmi_pattern_next(&a, x, BATCH);
			/* In other portions: writes are drawn after a portion's units, so only the whole is the same. */
			tdmi_pattern_next(&b, y, BATCH);
			tdmi_pattern_next(&c, z, BATCH);
			CHECK(!memcmp(x, y, sizeof(x)));
			CHECK(memcmp(x, z, sizeof(x)));
		}
		CHECK(!memcmp(&a.rng, &b.rng, sizeof(a.rng)));
		CHECK(memcmp(&a.rng, &c.rng, sizeof(a.rng)));
	}
}

/* Chi-square against `expect`, in standard deviations from its mean. */
static double deviation(const u64 *hits, const double *expect, u64 n, u64 cells)
{
	double chi = 0;

	for (u64 i = 0; i < cells; i++)
		chi += ((double)hits[i] - expect[i] * (double)n) * ((double)hits[i] - expect[i] * (double)n) / (expect[i] * (double)n);
	return (chi - (double)(cells - 1)) / sqrt(2.0 * (double)(cells - 1));
}

TEST(uniform)
{
	enum { UNITS = 777, N = 1000000 };
	struct tdm_pattern p = make(TDM_PATTERN_UNIFORM, UNITS, 1, 250);
	static u64 hits[UNITS];
	static double expect[UNITS];
	u64 writes = count(&p, N, hits);

	for (u32 i = 0; i < UNITS; i++)
		expect[i] = 1.0 / UNITS;
	CHECK(fabs(deviation(hits, expect, N, UNITS)) < 5);
	/* 5 standard deviations of the number of writes */
	CHECK(fabs((double)writes - N * 0.25) < 5 * sqrt(N * 0.25 * 0.75));
}

/* The chances of each rank are those of the definition: for several thetas (one is 1, where the integral is a logarithm), and sizes down to a single unit. */
TEST(zipf_by_chi_square, .seconds = 60)
{
	static const u32 theta[] = { 100, 500, 990, 1000, 1001, 1500, 3000 };
	static const u64 size[] = { 1, 2, 3, 10, 100, 2000 };
	static u64 hits[2000];
	static double expect[2000];

	for (u32 t = 0; t < TDM_ARRAY_SIZE(theta); t++)
		for (u32 s = 0; s < TDM_ARRAY_SIZE(size); s++) {
			u64 n = 300000, cells = size[s];
			struct tdm_zipf z;
			struct tdm_rng rng;
			double sum = 0;

			memset(hits, 0, sizeof(hits));
			for (u64 k = 0; k < size[s]; k++)
				sum += expect[k] = pow((double)(k + 1), -(double)theta[t] / 1000);
			tdmi_zipf_init(&z, size[s], theta[t]);
			tdm_rng_init(&rng, 5, t * 100 + s);
			for (u64 i = 0; i < n; i++) {
				u64 k = tdmi_zipf_next(&z, &rng);

				CHECK(k < size[s]);
				hits[k]++;
			}
			for (u64 k = 0; k < size[s]; k++)
				expect[k] /= sum;
			/* Cells in which less than 8 are expected are taken together. */
			while (cells > 1 && expect[cells - 1] * (double)n < 8) {
				cells--;
				expect[cells - 1] += expect[cells];
				hits[cells - 1] += hits[cells];
			}
			if (cells > 1 && fabs(deviation(hits, expect, n, cells)) > 5)
				t_fail(__FILE__, __LINE__, "theta %u, %llu units: %.1f standard deviations", theta[t], (unsigned long long)size[s],
				       deviation(hits, expect, n, cells));
		}
}

/* The test above can fail: a theta of 0.96 is not taken for 0.99. */
TEST(chi_square_tells_thetas_apart)
{
	static u64 hits[2000];
	static double expect[2000];
	struct tdm_zipf z;
	struct tdm_rng rng;
	double sum = 0;

	for (u64 k = 0; k < 2000; k++)
		sum += expect[k] = pow((double)(k + 1), -0.96);
	for (u64 k = 0; k < 2000; k++)
		expect[k] /= sum;
	tdmi_zipf_init(&z, 2000, 990);
	tdm_rng_init(&rng, 5, 0);
	for (u64 i = 0; i < 300000; i++)
		hits[tdmi_zipf_next(&z, &rng)]++;
	CHECK(deviation(hits, expect, 300000, 2000) > 5);
}

static int descending(const void *a, const void *b)
{
	const u64 *x = a, *y = b;

	return *x < *y ? 1 : *x > *y ? -1 : 0;
}

/* As a pattern the popular units lie anywhere, and are as popular as they should be. */
TEST(zipf_is_spread)
{
	enum { UNITS = 4096, N = 1000000 };
	struct tdm_pattern p = make(TDM_PATTERN_ZIPF, UNITS, 2, 0);
	static u64 hits[UNITS];
	u64 top = 0, first_half = 0;
	double sum = 0, ten = 0;

	CHECK_EQ(count(&p, N, hits), 0);
	for (u32 i = 0; i < UNITS / 2; i++)
		first_half += hits[i];
	CHECK(first_half > N / 4 && first_half < N / 4 * 3);
	qsort(hits, UNITS, sizeof(*hits), descending);
	for (u32 k = 0; k < UNITS; k++) {
		sum += pow(k + 1, -0.99);
		top += k < 10 ? hits[k] : 0;
		ten += k < 10 ? pow(k + 1, -0.99) : 0;
	}
	CHECK(fabs((double)top / N - ten / sum) < 0.005);
}

/* A range far larger than anything that could be kept in memory. */
TEST(huge_ranges)
{
	for (u32 kind = 0; kind <= TDM_PATTERN_CHASE; kind++) {
		struct tdm_pattern_spec spec = { .kind = kind, .bytes = (u64)1 << 47, .unit = 64, .stride = 1 << 30, .theta = 990, .writes = 1000 };
		struct tdm_pattern p;
		u64 ops[BATCH];

		CHECK_EQ(tdmi_pattern_init(&p, &spec, 1, 1), 0);
		for (u32 i = 0; i < 100; i++) {
			tdmi_pattern_next(&p, ops, BATCH);
			for (u32 k = 0; k < BATCH; k++)
				CHECK(TDM_OP_OFFSET(ops[k]) < spec.bytes && (ops[k] & TDM_OP_WRITE));
		}
	}
}

TEST(sequential)
{
	struct tdm_pattern p = make(TDM_PATTERN_SEQUENTIAL, 10, 1, 0);
	u64 ops[25];

	tdmi_pattern_next(&p, ops, 25);
	for (u32 i = 0; i < 25; i++)
		CHECK_EQ(ops[i], i % 10 * 64);
}

/* Every unit is met once before any is met again, for strides that divide the range, that do not, and that are all of it. */
TEST(strides_reach_all)
{
	for (u64 units = 1; units < 60; units++)
		for (u64 step = 1; step <= units; step++) {
			struct tdm_pattern_spec spec = { .kind = TDM_PATTERN_STRIDED, .bytes = units * 8, .unit = 8, .stride = step * 8 };
			struct tdm_pattern p;
			u64 ops[60], seen;

			CHECK_EQ(tdmi_pattern_init(&p, &spec, 1, 1), 0);
			for (u32 lap = 0; lap < 3; lap++) {
				tdmi_pattern_next(&p, ops, (u32)units);
				seen = 0;
				for (u32 i = 0; i < units; i++)
					seen |= (u64)1 << ops[i] / 8;
				CHECK_EQ(seen, ((u64)1 << units) - 1);
				CHECK_EQ(ops[0], 0);
				CHECK(units <= step || ops[1] == step * 8);
			}
		}
}

/* A cycle through all, the same each time around; and not in order. */
TEST(chase_is_one_cycle)
{
	static const u64 size[] = { 1, 2, 3, 5, 64, 1000, 4097 };

	for (u32 s = 0; s < TDM_ARRAY_SIZE(size); s++) {
		struct tdm_pattern p = make(TDM_PATTERN_CHASE, size[s], 9, 0);
		static u64 a[4097], b[4097];
		static bool seen[4097];
		u64 near = 0;

		memset(seen, 0, sizeof(seen));
		tdmi_pattern_next(&p, a, (u32)size[s]);
		tdmi_pattern_next(&p, b, (u32)size[s]);
		CHECK(!memcmp(a, b, size[s] * sizeof(*a)));
		for (u64 i = 0; i < size[s]; i++) {
			CHECK(!seen[a[i] / 64]);
			seen[a[i] / 64] = true;
			near += i && a[i] - a[i - 1] <= 8 * 64;
		}
		CHECK(size[s] < 1000 || near < size[s] / 20);
	}
}

/* Steps from one unit to the next are as likely in all directions: 64 cells of where the next lies after where this one lies. */
TEST(shuffles_are_even)
{
	enum { UNITS = 50000, CELLS = 64 };
	static u64 hits[CELLS];
	static double expect[CELLS];
	struct tdm_shuffle s;
	struct tdm_rng rng;

	for (u32 seed = 0; seed < 20; seed++) {
		memset(hits, 0, sizeof(hits));
		tdm_rng_init(&rng, seed, 0);
		tdmi_shuffle_init(&s, UNITS, &rng);
		for (u64 i = 0; i + 1 < UNITS; i++)
			hits[tdm_shuffle(&s, i) * 8 / UNITS * 8 + tdm_shuffle(&s, i + 1) * 8 / UNITS]++;
		for (u32 i = 0; i < CELLS; i++)
			expect[i] = 1.0 / CELLS;
		if (deviation(hits, expect, UNITS - 1, CELLS) > 40)
			t_fail(__FILE__, __LINE__, "seed %u: %.1f standard deviations", seed, deviation(hits, expect, UNITS - 1, CELLS));
	}
}

TEST(specs_that_say_nothing)
{
	static const struct tdm_pattern_spec bad[] = {
		{ .kind = TDM_PATTERN_UNIFORM, .bytes = 64, .unit = 0 },
		{ .kind = TDM_PATTERN_UNIFORM, .bytes = 64, .unit = 12 },
		{ .kind = TDM_PATTERN_UNIFORM, .bytes = 63, .unit = 64 },
		{ .kind = TDM_PATTERN_UNIFORM, .bytes = 64, .unit = 64, .writes = 1001 },
		{ .kind = TDM_PATTERN_STRIDED, .bytes = 640, .unit = 64, .stride = 0 },
		{ .kind = TDM_PATTERN_STRIDED, .bytes = 640, .unit = 64, .stride = 96 },
		{ .kind = TDM_PATTERN_STRIDED, .bytes = 640, .unit = 64, .stride = 704 },
		{ .kind = TDM_PATTERN_ZIPF, .bytes = 640, .unit = 64, .theta = 0 },
	};
	struct tdm_pattern p;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++)
		CHECK_EQ(tdmi_pattern_init(&p, &bad[i], 1, 1), -EINVAL);
}
