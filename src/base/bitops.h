/* SPDX-License-Identifier: MIT */
/*
 * bitops.h - bits of words, and bitmaps made of u64 words.
 *
 * Nothing here is atomic. Bit i of a bitmap is bit i % 64 of word i / 64; ranges are half-open; bits past the size that a function is
 * given are neither read into a result nor written.
 */
#ifndef TDM_BASE_BITOPS_H
#define TDM_BASE_BITOPS_H

#include "base/types.h"

#define TDM_BITMAP_WORDS(bits) (((bits) + 63u) / 64u)
/* Bits [lo, hi) of a word, 0 <= lo <= hi <= 64. */
#define TDM_BITS(lo, hi) (tdm_bits_below(hi) & ~tdm_bits_below(lo))

static inline u64 tdm_bits_below(u32 n)
{
	return n >= 64 ? ~(u64)0 : ((u64)1 << n) - 1;
}

/* The lowest and the highest set bit. x is not 0. */
static inline u32 tdm_lowest_bit(u64 x)
{
	return (u32)__builtin_ctzll(x);
}

static inline u32 tdm_highest_bit(u64 x)
{
	return 63u - (u32)__builtin_clzll(x);
}

static inline u32 tdm_count_bits(u64 x)
{
	return (u32)__builtin_popcountll(x);
}

static inline bool tdm_is_pow2(u64 x)
{
	return x && !(x & (x - 1));
}

/* The smallest n with 2^n >= x; 0 for x <= 1. */
static inline u32 tdm_log2_up(u64 x)
{
	return x <= 1 ? 0 : tdm_highest_bit(x - 1) + 1;
}

static inline bool tdm_bitmap_test(const u64 *map, u64 bit)
{
	return map[bit / 64] >> (bit % 64) & 1;
}

static inline void tdm_bitmap_set(u64 *map, u64 bit)
{
	map[bit / 64] |= (u64)1 << (bit % 64);
}

static inline void tdm_bitmap_clear(u64 *map, u64 bit)
{
	map[bit / 64] &= ~((u64)1 << (bit % 64));
}

/* The part of word w that the bits [from, to) of a bitmap are in. */
static inline u64 tdm_bitmap_word_mask(u64 w, u64 from, u64 to)
{
	u64 lo = from > w * 64 ? from - w * 64 : 0;
	u64 hi = to < (w + 1) * 64 ? to - w * 64 : 64;

	return TDM_BITS((u32)lo, (u32)hi);
}

static inline void tdm_bitmap_set_range(u64 *map, u64 from, u64 to)
{
	for (u64 w = from / 64; w * 64 < to; w++)
		map[w] |= tdm_bitmap_word_mask(w, from, to);
}

static inline void tdm_bitmap_clear_range(u64 *map, u64 from, u64 to)
{
	for (u64 w = from / 64; w * 64 < to; w++)
		map[w] &= ~tdm_bitmap_word_mask(w, from, to);
}

static inline u64 tdm_bitmap_count(const u64 *map, u64 from, u64 to)
{
	u64 n = 0;

	for (u64 w = from / 64; w * 64 < to; w++)
		n += tdm_count_bits(map[w] & tdm_bitmap_word_mask(w, from, to));
	return n;
}

/* The first bit of [from, to) that is set (clear); `to` if there is none. */
static inline u64 tdm_bitmap_next(const u64 *map, u64 from, u64 to)
{
	for (u64 w = from / 64; from < to && w * 64 < to; w++) {
		u64 x = map[w] & tdm_bitmap_word_mask(w, from, to);

		if (x)
			return w * 64 + tdm_lowest_bit(x);
	}
	return to;
}

static inline u64 tdm_bitmap_next_clear(const u64 *map, u64 from, u64 to)
{
	for (u64 w = from / 64; from < to && w * 64 < to; w++) {
		u64 x = ~map[w] & tdm_bitmap_word_mask(w, from, to);

		if (x)
			return w * 64 + tdm_lowest_bit(x);
	}
	return to;
}

#define tdm_bitmap_for_each(bit, map, from, to)                                                                         \
	for (u64 bit = tdm_bitmap_next(map, from, to); bit < (to); bit = tdm_bitmap_next(map, bit + 1, to))

#endif
