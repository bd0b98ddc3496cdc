// SPDX-License-Identifier: MIT
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "plat/sim.h"
#include "t.h"

#define ARENA ((size_t)32 << 20)
#define OBJECTS 2000

static u8 *arena;
static struct tdm_alloc a;

static void start(void)
{
	arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	CHECK(arena != NULL);
	tdm_sim_init(arena, ARENA);
	tdmi_alloc_init(&a);
}

static void finish(void)
{
	CHECK_EQ(tdmi_alloc_used(&a), 0);
	tdmi_alloc_destroy(&a);
	CHECK_EQ(tdm_sim_mapped(), 0);
	tdm_sim_init(NULL, 0);
	free(arena);
}

TEST(sizes_and_alignment)
{
	start();
	for (size_t size = 1; size <= 20000; size += size < 100 ? 1 : 61) {
		u8 *p = tdmi_alloc(&a, size), *q = tdmi_alloc(&a, size);

		CHECK(p && q && p != q);
		CHECK_EQ((uintptr_t)p % 32, 0);
		if (size > 2048)
			CHECK_EQ((uintptr_t)p % 4096, 0);
		for (size_t i = 0; i < size; i++)
			CHECK(p[i] == 0 && q[i] == 0);
		memset(p, 0xff, size);
		memset(q, 0xee, size);
		CHECK_EQ(p[size - 1], 0xff);
		CHECK(tdmi_alloc_used(&a) >= 2 * size);
		CHECK(tdmi_alloc_mapped(&a) >= tdmi_alloc_used(&a));
		CHECK_EQ(tdmi_alloc_mapped(&a), tdm_sim_mapped());
		tdmi_free(&a, p, size);
		tdmi_free(&a, q, size);
	}
	tdmi_free(&a, NULL, 100);
	finish();
}

/* At random, each object filled with its own byte: none overlaps another, and each is zero when it comes. */
TEST(objects_do_not_overlap)
{
	static struct {
		u8 *p;
		size_t size;
	} o[OBJECTS];
	u64 seed = t_seed(), used = 0;

	start();
	for (int round = 0; round < 60000; round++) {
		u32 i = (u32)(t_rand(&seed) % OBJECTS);

		for (size_t k = 0; o[i].p && k < o[i].size; k++)
			CHECK_EQ(o[i].p[k], (u8)i);
		if (o[i].p) {
			tdmi_free(&a, o[i].p, o[i].size);
			o[i].p = NULL;
			continue;
		}
		o[i].size = 1 + t_rand(&seed) % (t_rand(&seed) % 20 ? 300 : 9000);
		o[i].p = tdmi_alloc(&a, o[i].size);
		CHECK(o[i].p != NULL);
		for (size_t k = 0; k < o[i].size; k++)
			CHECK_EQ(o[i].p[k], 0);
		memset(o[i].p, (int)i, o[i].size);
	}
	for (u32 i = 0; i < OBJECTS; i++) {
		used += o[i].p ? o[i].size : 0;
		tdmi_free(&a, o[i].p, o[i].size);
	}
	CHECK(used > 0);
	finish();
}

/* Freed memory is used again: the footprint stays what the peak needed. */
TEST(memory_is_reused)
{
	void *p[100];
	u64 mapped = 0;

	start();
	for (int round = 0; round < 50; round++) {
		for (u32 i = 0; i < 100; i++)
			CHECK((p[i] = tdmi_alloc(&a, 100 + i)) != NULL);
		for (u32 i = 0; i < 100; i++)
			tdmi_free(&a, p[i], 100 + i);
		if (round == 0)
			mapped = tdmi_alloc_mapped(&a);
		CHECK_EQ(tdmi_alloc_mapped(&a), mapped);
	}
	finish();
}

/* Whichever call fails, NULL is all that happens. */
TEST(failure_leaves_it_whole)
{
	for (u64 n = 1;; n++) {
		void *p[3];
		bool failed;

		start();
		tdm_sim_fail_nth(n, false);
		p[0] = tdmi_alloc(&a, 64);
		p[1] = tdmi_alloc(&a, 4096);
		p[2] = tdmi_alloc(&a, 100000);
		failed = tdm_sim_failed();
		CHECK_EQ(failed, !p[0] || !p[1] || !p[2]);
		tdmi_free(&a, p[0], 64);
		tdmi_free(&a, p[1], 4096);
		tdmi_free(&a, p[2], 100000);
		CHECK((p[0] = tdmi_alloc(&a, 64)) != NULL);
		tdmi_free(&a, p[0], 64);
		finish();
		if (!failed)
			break;
		CHECK(n < 100);
	}
}

#ifdef TDM_DEBUG
TEST_DIES(write_after_free, "") /* "write to freed engine memory", or AddressSanitizer's words */
{
	u8 *p;

	start();
	p = tdmi_alloc(&a, 64);
	tdmi_free(&a, p, 64);
	*(volatile u8 *)(p + 40) = 1;
	tdmi_alloc(&a, 64);
}
#endif

TEST_DIES(large_object_left, "bug")
{
	start();
	CHECK(tdmi_alloc(&a, 100000) != NULL);
	tdmi_alloc_destroy(&a);
}
