/* SPDX-License-Identifier: MIT */
/*
 * rng.h - the random numbers of a simulated machine: xoshiro256**, seeded by splitmix64 (both by Blackman and Vigna, in the public domain as descriptions and code).
 *
 * Everything that is decided by chance in a run comes from generators that follow from its one seed, so two runs with one seed end in one state.
 */
#ifndef TDM_SIM_RNG_H
#define TDM_SIM_RNG_H

#include "base/types.h"

struct tdm_rng {
	u64 s[4];
};

/* The next of the sequence that *state determines; a good hash of *state as well. */
static inline u64 tdm_splitmix(u64 *state)
{
	u64 z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* stream: several generators of one seed, independent of each other. */
static inline void tdm_rng_init(struct tdm_rng *r, u64 seed, u64 stream)
{
	u64 state = seed, other = stream;

	state = tdm_splitmix(&state) ^ tdm_splitmix(&other);
	for (u32 i = 0; i < 4; i++)
		r->s[i] = tdm_splitmix(&state);
}

static inline u64 tdm_rng_next(struct tdm_rng *r)
{
	u64 *s = r->s, x = s[1] * 5, t = s[1] << 17;

	x = (x << 7 | x >> 57) * 9;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = s[3] << 45 | s[3] >> 19;
	return x;
}

/* Uniform in [0, n), n > 0: the high half of a product, and again where that would favour some. */
static inline u64 tdm_rng_below(struct tdm_rng *r, u64 n)
{
	unsigned __int128 m = (unsigned __int128)tdm_rng_next(r) * n;

	if (tdm_unlikely((u64)m < n))
		for (u64 least = (0 - n) % n; (u64)m < least;)
			m = (unsigned __int128)tdm_rng_next(r) * n;
	return (u64)(m >> 64);
}

/* Uniform in (0, 1]. */
static inline double tdm_rng_unit(struct tdm_rng *r)
{
	return (double)((tdm_rng_next(r) >> 11) + 1) * 0x1p-53;
}

#endif
