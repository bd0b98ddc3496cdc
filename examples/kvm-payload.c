/* SPDX-License-Identifier: MIT */
/*
 * kvm-payload.c - what runs in the guest: 64-bit long mode, ring 3, no kernel, no interrupts, memory mapped one to one.
 *
 * The host copies the section "guest" of its own executable into the guest's memory. So everything here must be in that section, run wherever it
 * is put, and call nothing else; examples/meson.build has the compiler's options for that (no vector registers: nobody has enabled them).
 */
#include "kvm-guest.h"

#define GUEST __attribute__((section("guest"), used, noinline))

INLINE void out(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

/* A permutation of the numbers below 2^bits (each step can be undone), another for each seed. */
INLINE uint64_t scatter(uint64_t x, unsigned bits, uint64_t seed)
{
	uint64_t mask = (1ull << bits) - 1;

	for (int round = 0; round < 3; round++) {
		seed = mix(seed);
		x = (x + seed) * (seed >> 7 | 1) & mask;
		x ^= x >> (bits / 2 + 1);
	}
	return x;
}

/* Does the page hold what the fill and `pass` passes have made of it? Every word is read. */
INLINE int page_check(const uint64_t *w, uint64_t *want, uint64_t page, uint64_t pass)
{
	uint64_t differ = 0;

	page_fill(want, page);
	for (uint64_t i = 0; i < pass; i++)
		page_change(want, page, i);
	for (uint64_t i = 0; i < WORDS; i++)
		differ |= w[i] ^ want[i];
	return differ == 0;
}

void guest_main(const struct guest_args *args, uint64_t id);

/* A vCPU works on the pages whose number is its own, modulo the number of vCPUs. */
GUEST void guest_main(const struct guest_args *args, uint64_t id)
{
	uint64_t pages = args->pages, vcpus = args->vcpus, mine = (pages - id + vcpus - 1) / vcpus, sum;
	uint64_t *want = (uint64_t *)(OWN_AT + id * OWN_SIZE), *shared = (uint64_t *)SHARED_AT;
	unsigned bits = 1;

	while (1ull << bits < mine)
		bits++;
	for (uint64_t page = id; page < pages; page += vcpus)
		page_fill((uint64_t *)(WORK_AT + page * PAGE), page);
	for (uint64_t pass = 0; pass < args->passes; pass++) {
		sum = 0;
		for (uint64_t i = 0; i < 1ull << bits; i++) {
			uint64_t at = scatter(i, bits, pass), page = at * vcpus + id;
			uint64_t *w = (uint64_t *)(WORK_AT + page * PAGE);

			if (at >= mine)
				continue;
			if (!page_check(w, want, page, pass))
				out(PORT_BAD, (uint32_t)page);
			sum += page_sum(w, page);
			page_change(w, page, pass);
			__atomic_fetch_add(&shared[counter_of(page, vcpus)], 1, __ATOMIC_SEQ_CST);
		}
		out(PORT_SUM, (uint32_t)sum);
		out(PORT_SUM, (uint32_t)(sum >> 32));
	}
	out(PORT_DONE, 0);
	for (;;) /* the host does not come back */
		__asm__ volatile("pause");
}
