/* SPDX-License-Identifier: MIT */
/*
 * pattern.h - synthetic accesses to a range of bytes.
 *
 * The range is cut into units (a page, a cache line); an access is at the beginning of one. Which comes next:
 *
 *   sequential   one after the other, from the start again at the end
 *   strided      every stride-th byte; at the end from the next unit on, until all have been there
 *   uniform      any, with equal chances
 *   zipf         the k-th most popular with a chance that is proportional to 1 / k^theta; which unit is the k-th is shuffled by the seed
 *   chase        a cycle through all of them, in an order made from the seed
 *
 * Memory is constant: orders are permutations that are computed, not kept. Everything follows from the seed.
 */
#ifndef TDM_SIM_PATTERN_H
#define TDM_SIM_PATTERN_H

#include "sim/rng.h"

enum tdm_pattern_kind { TDM_PATTERN_SEQUENTIAL, TDM_PATTERN_STRIDED, TDM_PATTERN_UNIFORM, TDM_PATTERN_ZIPF, TDM_PATTERN_CHASE };

struct tdm_pattern_spec {
	enum tdm_pattern_kind kind;
	u64 bytes;     /* of the range; what is left over behind the last whole unit is not accessed */
	u64 unit;      /* bytes, a multiple of 8 */
	u64 stride;    /* strided: bytes, a multiple of unit, at most `bytes` */
	u32 theta;     /* zipf: thousandths, not 0 */
	u32 writes;    /* so many of 1000 accesses */
};

/* A pseudo-random permutation of [0, n): rounds of what maps the numbers of so many bits one to one, again where that leads out of the range. */
struct tdm_shuffle {
	u64 n, mask;
	u64 mul[3], add[3];
	u32 shift;
};

/* n > 0. */
void tdmi_shuffle_init(struct tdm_shuffle *s, u64 n, struct tdm_rng *rng);

static inline u64 tdm_shuffle(const struct tdm_shuffle *s, u64 i)
{
	do {
		for (u32 r = 0; r < 3; r++) {
			i = (i * s->mul[r] + s->add[r]) & s->mask;
			i ^= i >> s->shift;
		}
	} while (i >= s->n);
	return i;
}

/* Rejection-inversion (Hoermann and Derflinger 1996): the inverse of the integral over 1 / x^theta, and a test of what that over-estimates. */
struct tdm_zipf {
	u64 n;
	double theta, h_first, h_last, sure;
};

void tdmi_zipf_init(struct tdm_zipf *z, u64 n, u32 theta);
/* In [0, n); 0 is the most popular. */
u64 tdmi_zipf_next(const struct tdm_zipf *z, struct tdm_rng *rng);

struct tdm_pattern {
	struct tdm_pattern_spec spec;
	u64 units, at, lap;
	u64 writes;       /* a number below this means a write */
	struct tdm_rng rng;
	struct tdm_shuffle shuffle;
	struct tdm_zipf zipf;
};

/* -EINVAL: a spec that says nothing (no whole unit, a stride that is none). stream: whose pattern this is; each has its own. */
int tdmi_pattern_init(struct tdm_pattern *p, const struct tdm_pattern_spec *spec, u64 seed, u64 stream);

/* An access: the byte within the range, with this bit if it is a write. */
#define TDM_OP_WRITE ((u64)1)
#define TDM_OP_OFFSET(op) ((op) & ~(u64)7)

/* The next n accesses. */
void tdmi_pattern_next(struct tdm_pattern *p, u64 *ops, u32 n);

#endif
