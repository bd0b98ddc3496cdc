/* SPDX-License-Identifier: MIT */
/*
 * test_special_inject.c - drivers' mappings when there is no memory for a table: each allocation fails once. What was done is said, nothing is lost, and the
 * next try succeeds.
 */
#include "special_world.h"

static u64 allocs, fail_at; /* 0: none */

void *__real_tdmi_alloc(struct tdm_alloc *a, size_t size);
void *__wrap_tdmi_alloc(struct tdm_alloc *a, size_t size);

void *__wrap_tdmi_alloc(struct tdm_alloc *a, size_t size)
{
	return fail_at && ++allocs == fail_at ? NULL : __real_tdmi_alloc(a, size);
}

static void fail(u64 n)
{
	allocs = 0;
	fail_at = n;
}

static struct buffer b;
static struct tdm_map *m;

TEST(insert_range_says_how_far_it_came)
{
	struct tdm_inserted out;
	bool failed = true;

	for (u64 n = 1; failed; n++) {
		int r;

		setup();
		m = map_at(BASE, G1, RW, &b, 0);
		fail(n);
		r = insert(m, BASE, vram + 1, 1300, TDM_INSERT_WRITE, &out);
		fail(0);
		failed = r;
		CHECK(r == 0 || r == -ENOMEM);
		CHECK_EQ(out.start, BASE);
		CHECK_EQ(out.end - out.start, out.bytes[0]);
		CHECK_EQ(special_pages(s), out.bytes[0] / K4);
		for (u64 k = 0; k < 1310; k++)
			CHECK_EQ(find(BASE + k * K4).there, k < out.bytes[0] / K4);
		if (failed)
			CHECK_EQ(insert(m, BASE, vram + 1, 1300, TDM_INSERT_WRITE, &out), 0);
		CHECK_EQ(special_pages(s), 1300);
		teardown();
		CHECK(n < 100);
		CHECK(!(n == 1 && !failed));
	}
}

TEST(remap_range_likewise_and_the_fault_brings_the_rest)
{
	static struct tdm_remap linear = { .n = 1 << 18 };
	struct tdm_inserted out;
	bool failed = true;

	for (u64 n = 1; failed; n++) {
		setup();
		linear.pfn.v = vram + 1;
		CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, 3 * M2, RW, &tdmi_remap_ops, &linear, 0, &m), 0);
		fail(n);
		failed = tdmi_remap_range(m, reader, BASE, (struct tdm_pfn){ vram + 1 }, 1536, TDM_INSERT_WRITE, &out);
		fail(0);
		CHECK_EQ(special_pages(s), (out.end - out.start) / K4);
		CHECK_EQ(tdmi_space_fault(s, reader, BASE + 1400 * K4, TDM_ACCESS_WRITE), 0);
		CHECK_EQ(find(BASE + 1400 * K4).pfn, vram + 1401);
		teardown();
		CHECK(n < 100);
		CHECK(!(n == 1 && !failed));
	}
}

/* A fault without memory for its tables is told so, and can be made again. */
TEST(faults)
{
	bool failed = true;

	for (u64 n = 1; failed; n++) {
		int r;

		setup();
		b = (struct buffer){ .pfn = { vram + 3 }, .n = 1 << 18, .max_prefault = 16 };
		m = map_at(BASE, G1, RW, &b, 0);
		fail(n);
		r = tdmi_special_fault(s, reader, BASE + 700 * K4, true);
		fail(0);
		CHECK(r == 0 || r == -ENOMEM);
		failed = r;
		CHECK_EQ(special_pages(s), failed ? 0 : 16);
		CHECK_EQ(tdmi_special_fault(s, reader, BASE + 700 * K4, true), 0);
		CHECK_EQ(find(BASE + 700 * K4).pfn, vram + 703);
		teardown();
		CHECK(!(n == 1 && !failed));
	}
}

static bool whole(void)
{
	for (u64 va = BASE; va < BASE + G1; va += 37 * K4)
		if (find(va).pfn != vram + (va - BASE) / K4 || !(find(va).bits & TDM_PTE_WRITE))
			return false;
	return special_pages(s) == 1 << 18;
}

enum what { MUNMAP, MPROTECT, MREMAP, MMAP, NR_WHAT };

static int change(enum what what)
{
	u64 from = BASE + 5 * M2 + 3 * K4, len = 7 * M2;

	switch (what) {
	case MUNMAP:
		return tdmi_munmap(s, reader, from, len);
	case MPROTECT:
		return tdmi_mprotect(s, reader, from, len, TDM_V_READ);
	case MREMAP:
		return tdmi_mremap(s, reader, from, BASE + 4 * G1, len);
	default:
		return tdmi_mmap(s, reader, from, len, TDM_V_READ | TDM_V_WRITE);
	}
}

TEST(a_leaf_that_cannot_be_split_stays_whole)
{
	for (enum what what = 0; what < NR_WHAT; what++) {
		bool failed = true;

		for (u64 n = 1; failed; n++) {
			int r;

			setup();
			b = (struct buffer){ .pfn = { vram }, .n = 1 << 18 };
			m = map_at(BASE, G1, RW, &b, 0);
			CHECK_EQ(tdmi_special_fault(s, reader, BASE, true), 0);
			fail(n);
			r = change(what);
			fail(0);
			failed = r;
			CHECK(r == 0 || r == -ENOMEM);
			/* mmap may have unmapped what it was to replace. */
			if (failed && !(what == MMAP && special_pages(s) != 1 << 18))
				CHECK(whole());
			if (failed)
				CHECK_EQ(change(what), 0);
			CHECK_EQ(special_pages(s), what == MPROTECT ? 1 << 18 : (G1 - 7 * M2) / K4);
			CHECK_EQ(find(BASE).pfn, vram);
			CHECK_EQ(find(BASE + G1 - K4).pfn, vram + (1 << 18) - 1);
			teardown();
			CHECK(n < 100);
			CHECK(!(n == 1 && !failed));
		}
	}
}

TEST(fork_leaves_to_faults_what_it_has_no_memory_for)
{
	bool failed = true;

	for (u64 n = 1; failed || n < 20; n++) {
		struct tdm_space *child;
		struct tdm_inserted out;

		setup();
		b = (struct buffer){ .pfn = { vram + 1 }, .n = 1 << 18, .max_prefault = 16 };
		m = map_at(BASE, G1, RW, &b, 0);
		CHECK_EQ(insert(m, BASE, vram + 1, 1300, TDM_INSERT_WRITE, &out), 0);
		fail(n);
		failed = tdmi_space_fork(s, reader, &child);
		fail(0);
		if (failed)
			CHECK_EQ(tdmi_space_fork(s, reader, &child), 0);
		CHECK_EQ(tdmi_space_fault(child, reader, BASE + 1299 * K4, TDM_ACCESS_WRITE), 0);
		CHECK_EQ(find_in(child, BASE + 1299 * K4).pfn, vram + 1300);
		CHECK_EQ(special_pages(s), 1300);
		tdmi_space_destroy(child, reader);
		teardown();
		CHECK(n < 200);
	}
}
