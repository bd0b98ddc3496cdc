/* SPDX-License-Identifier: MIT */
/* test_unmapped_area.c - where drivers' mappings are put: CPU sizes, the device's contiguity, the offset (mm/unmapped_area.h). */
#include "mm/unmapped_area.h"
#include "runner/t.h"

#define K ((u64)1 << 10)
#define M ((u64)1 << 20)
#define G ((u64)1 << 30)
#define CPU_4K_2M (4 * K | 2 * M)
#define CPU_4K_2M_1G (CPU_4K_2M | G)

static struct tdm_alloc alloc;
static struct tdm_rcu rcu;
static struct tdm_vmas vmas;

static void setup(void)
{
	tdmi_alloc_init(&alloc);
	tdmi_rcu_init(&rcu);
	CHECK_EQ(tdmi_vmas_init(&vmas, &alloc, &rcu), 0);
}

static void teardown(void)
{
	tdmi_vmas_destroy(&vmas);
	tdmi_rcu_drain(&rcu);
	tdmi_alloc_destroy(&alloc);
}

static u64 align(u64 len, u64 off, u64 device, u64 huge, bool *absolute)
{
	struct tdm_area a = { .len = len, .off = off, .huge = huge };

	while (device && (4 * K << a.order) < device)
		a.order++;
	return tdmi_area_align(&a, absolute);
}

#define ALIGN(...) align(__VA_ARGS__, &(bool){ false })

TEST(r12_cpu_sizes_contiguity_and_address_bound_each_other)
{
	/* A device of 256 KiB pages under a CPU without such a leaf: each in one table. With one: a leaf each. The same alignment does for both. */
	CHECK_EQ(ALIGN(64 * M, 0, 256 * K, CPU_4K_2M), 256 * K);
	CHECK_EQ(ALIGN(64 * M, 0, 256 * K, CPU_4K_2M | 256 * K), 256 * K);
	CHECK_EQ(ALIGN(64 * M, 0, 2 * M, CPU_4K_2M), 2 * M);
	/* Not more than the CPU has, nor than the device has. */
	CHECK_EQ(ALIGN(4 * G, 0, G, CPU_4K_2M), 2 * M);
	CHECK_EQ(ALIGN(4 * G, 0, G, CPU_4K_2M_1G), G);
	CHECK_EQ(ALIGN(4 * G, 0, 2 * M, CPU_4K_2M_1G), 2 * M);
	CHECK_EQ(ALIGN(4 * G, 0, 64 * K, CPU_4K_2M_1G), 64 * K);
	CHECK_EQ(ALIGN(4 * G, 0, 4 * M, CPU_4K_2M_1G), 4 * M);
	CHECK_EQ(ALIGN(4 * G, 0, 2 * M, 4 * K), 4 * K);
	/* Nor than the mapping has room for, at its offset. */
	CHECK_EQ(ALIGN(64 * K, 0, 2 * M, CPU_4K_2M), 64 * K);
	CHECK_EQ(ALIGN(2 * M, M, 2 * M, CPU_4K_2M), M);
	CHECK_EQ(ALIGN(3 * M, M, 2 * M, CPU_4K_2M), 2 * M);
}

TEST(r13_without_an_order_the_size_of_the_mapping_decides)
{
	bool absolute;

	CHECK_EQ(ALIGN(4 * G, 0, 0, CPU_4K_2M_1G), G);
	CHECK_EQ(ALIGN(4 * G, 0, 0, CPU_4K_2M), 2 * M);
	CHECK_EQ(ALIGN(2 * M, 0, 0, CPU_4K_2M_1G), 2 * M);
	CHECK_EQ(align(100 * K, 0, 0, CPU_4K_2M_1G, &absolute), 128 * K); /* straddles no table */
	CHECK(absolute);
	CHECK_EQ(align(3 * M, 4 * K, 0, CPU_4K_2M_1G, &absolute), 4 * K); /* [4 KiB, 3 MiB + 4 KiB): no block of 2 MiB but [2, 4) */
	CHECK_EQ(align(4 * M, 4 * K, 0, CPU_4K_2M_1G, &absolute), 2 * M);
	CHECK(!absolute);
}

static u64 place(u64 len, u64 off, u32 order, u64 huge, u64 lo, u64 hi)
{
	struct tdm_area a = { .len = len, .off = off, .order = order, .huge = huge, .lo = lo, .hi = hi };
	u64 va = 0;
	int r = tdmi_unmapped_area(&vmas, &a, &va);

	return r ? (u64)(s64)r : va;
}

static void occupy(u64 start, u64 end)
{
	CHECK_EQ(tdmi_vma_insert(&vmas, start, end, TDM_V_READ), 0);
}

TEST(r13_the_address_lies_to_the_page_as_the_offset_does)
{
	u64 offs[] = { 0, 4 * K, 2 * M - 4 * K, 5 * M + 64 * K, G + 12 * K };

	setup();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(offs); i++) {
		u64 va = place(64 * M, offs[i], 9, CPU_4K_2M_1G, 0, 0);

		CHECK(va >= TDM_VA_START && va < TDM_VA_END);
		CHECK_EQ(va % (2 * M), offs[i] % (2 * M));
		occupy(va, va + 64 * M);
	}
	teardown();
}

TEST(r13_an_unaligned_hole_is_better_than_none)
{
	setup();
	/* [1G, 1G + 64M), but for [4K, 33M) of it and [40M, 43M). */
	occupy(G, G + 4 * K);
	occupy(G + 33 * M, G + 40 * M);
	occupy(G + 43 * M, G + 64 * M);
	CHECK_EQ(place(32 * M, 0, 9, CPU_4K_2M, G, G + 64 * M), G + 4 * K);   /* too large for the aligned part of the hole */
	CHECK_EQ(place(30 * M, 0, 9, CPU_4K_2M, G, G + 64 * M), G + 2 * M);
	CHECK_EQ(place(2 * M, 0, 9, CPU_4K_2M, G + 34 * M, G + 64 * M), G + 40 * M);
	CHECK_EQ(place(3 * M, M, 9, CPU_4K_2M, G + 34 * M, G + 64 * M), G + 40 * M); /* no hole of 3 MiB at 1 MiB: at 4 KiB */
	CHECK_EQ((s64)place(33 * M, 0, 9, CPU_4K_2M, G, G + 64 * M), -ENOMEM);
	CHECK_EQ((s64)place(4 * M, 0, 0, CPU_4K_2M, G + 40 * M, G + 64 * M), -ENOMEM);
	teardown();
}

/* Of 1 GiB, then of 2 MiB, before it gives up. */
TEST(r13_smaller_leaves_before_none)
{
	setup();
	occupy(4 * G, 4 * G + 4 * K);
	occupy(5 * G + 512 * M, 6 * G);
	CHECK_EQ(place(G + 256 * M, 0, 18, CPU_4K_2M_1G, 4 * G, 6 * G), 4 * G + 2 * M);
	CHECK_EQ(place(G, 0, 18, CPU_4K_2M_1G, 4 * G, 7 * G), 6 * G);
	teardown();
}

/* In 32 bits more alignment than the device has a use for fills the addresses up. */
TEST(r12_alignment_that_nobody_uses_costs_addresses)
{
	u32 fit[2] = { 0, 0 };

	for (u32 k = 0; k < 2; k++) {
		setup();
		for (;;) {
			u64 va = place(2 * M + 64 * K, 0, k ? 9 : 4, CPU_4K_2M, 0, 4 * G);

			if ((s64)va == -ENOMEM || va % (k ? 2 * M : 64 * K))
				break;
			occupy(va, va + 2 * M + 64 * K);
			fit[k]++;
		}
		teardown();
	}
	CHECK_EQ(fit[0], (4 * G - 64 * K) / (2 * M + 64 * K));
	CHECK_EQ(fit[1], (4 * G - 2 * M) / (4 * M));
}

/* All holes of a random map: the answer is the lowest that is so aligned, by a plain search. */
TEST(lowest_hole_at_random, .seconds = 60)
{
	u64 r = t_seed(), base = 2 * G;

	for (u32 round = 0; round < (t_slow() ? 50u : 400u); round++) {
		bool used[512] = { false };
		u64 len = 1 + t_rand(&r) % 40, off = t_rand(&r) % 64, order = 1 + t_rand(&r) % 5, size, found = ~(u64)0;
		bool absolute;

		setup();
		for (u32 i = 0; i < 12; i++) {
			u32 a = (u32)(t_rand(&r) % 482), b = a + 1 + (u32)(t_rand(&r) % 30);

			occupy(base + a * 4 * K, base + b * 4 * K);
			for (u32 k = a; k < b; k++)
				used[k] = true;
		}
		size = align(len * 4 * K, off * 4 * K, 4 * K << order, CPU_4K_2M, &absolute) / (4 * K);
		for (u32 pass = 0; pass < 2 && found == ~(u64)0; pass++) {
			for (u64 at = 0; at + len <= 512 && found == ~(u64)0; at++) {
				u64 k = at;

				while (k < at + len && !used[k])
					k++;
				if (k == at + len && at % (pass ? 1 : size) == (pass ? 0 : off % size))
					found = base + at * 4 * K;
			}
		}
		CHECK_EQ(place(len * 4 * K, off * 4 * K, (u32)order, CPU_4K_2M, base, base + 2 * M), found == ~(u64)0 ? (u64)(s64)-ENOMEM : found);
		teardown();
	}
}

TEST(bad_areas)
{
	setup();
	CHECK_EQ((s64)place(0, 0, 0, CPU_4K_2M, 0, 0), -EINVAL);
	CHECK_EQ((s64)place(100, 0, 0, CPU_4K_2M, 0, 0), -EINVAL);
	CHECK_EQ((s64)place(4 * K, 1, 0, CPU_4K_2M, 0, 0), -EINVAL);
	CHECK_EQ((s64)place(8 * K, ~(u64)0 << 12, 0, CPU_4K_2M, 0, 0), -EINVAL);
	CHECK_EQ((s64)place(4 * K, 0, 0, CPU_4K_2M, G, G), -EINVAL);
	CHECK_EQ((s64)place(TDM_VA_END, 0, 0, CPU_4K_2M, 0, 0), -ENOMEM);
	teardown();
}
