/* SPDX-License-Identifier: MIT */
/*
 * kvm-guest.h - what the host (kvm-guest.c) and the guest (kvm-payload.c) agree upon: where things lie in the guest's memory, the ports, and what
 * each page holds when. Both compile these functions, and then compare memory with what they say: they share no data.
 */
#ifndef KVM_GUEST_H
#define KVM_GUEST_H

#include <stdint.h>

#define PAGE 4096ull
#define WORDS (PAGE / sizeof(uint64_t))

/* The first 2 MiB of the guest: what the host prepares, and the vCPUs' own. The rest are the pages that the guest works on. */
#define TABLES_AT 0x1000ull  /* PML4, PDPT, a page directory for each GiB */
#define ARGS_AT 0x10000ull   /* struct guest_args */
#define SHARED_AT 0x18000ull /* one page that all vCPUs write to: counters */
#define CODE_AT 0x20000ull
#define CODE_MAX 0x10000ull
#define OWN_AT 0x40000ull    /* for each vCPU: a page to compose in, and its stack */
#define OWN_SIZE 0x10000ull
#define WORK_AT 0x200000ull

/* The guest speaks by 32-bit writes to ports: each ends KVM_RUN with KVM_EXIT_IO. */
#define PORT_SUM 0x10  /* the checksum of the pass that has ended: its low half, then its high half */
#define PORT_BAD 0x11  /* a page did not hold what it must: its number */
#define PORT_DONE 0x12

struct guest_args {
	uint64_t pages, passes, vcpus;
};

/* In the guest this is code of the section that is copied there: nothing may be called outside. */
#define INLINE static inline __attribute__((always_inline))

/* The finalizer of splitmix64: any two numbers give words that have nothing in common. */
INLINE uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* What the page is filled with: a quarter is noise, the rest repeats. lz4 makes about a third of it. */
INLINE void page_fill(uint64_t *w, uint64_t page)
{
	uint64_t same = mix(page);

	for (uint64_t i = 0; i < WORDS; i++)
		w[i] = i % 8 < 2 ? mix(page * WORDS + i) : same;
}

/* What a pass changes in it: six words, by adding, so that a change that was lost is seen ever after. */
INLINE void page_change(uint64_t *w, uint64_t page, uint64_t pass)
{
	uint64_t r = mix(~(page << 16 | pass));

	for (int i = 0; i < 6; i++, r >>= 9)
		w[r % WORDS] += r | 1;
}

/* The sum of a pass is the sum of these over all pages, in whatever order. */
INLINE uint64_t page_sum(const uint64_t *w, uint64_t page)
{
	uint64_t sum = page;

	for (uint64_t i = 0; i < WORDS; i++)
		sum = ((sum << 7 | sum >> 57) ^ w[i]) * 0xff51afd7ed558ccd;
	return sum;
}

/* The counter in the shared page that work on this page increments: neighbours, of different vCPUs, increment the same. */
INLINE uint64_t counter_of(uint64_t page, uint64_t vcpus)
{
	return page / vcpus % WORDS;
}

#endif
