/* SPDX-License-Identifier: MIT */
/* test_special.c - drivers' mappings: which leaf is taken, and what is refused. The rN are the requirements of docs/sim-requirements.md. */
#include "special_world.h"
#include "mm/pin.h"

/* ---- what a special leaf is */

TEST(r1_a_leaf_of_every_level_is_special_and_counts_no_page)
{
	static struct buffer b;
	struct tdm_map *m;

	setup();
	m = map_at(BASE, 4 * G1, RW, &b, 0);
	CHECK_EQ(insert_one(m, BASE, vram, 2, TDM_INSERT_WRITE), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + G1, vram + 512, 1, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + 2 * G1, vram + 7, 0, 0), TDM_FAULT_DONE);
	CHECK(is_at(BASE + 12345 * K4, vram + 12345, 2));
	CHECK(is_at(BASE + G1 + 17 * K4, vram + 512 + 17, 1));
	CHECK(is_at(BASE + 2 * G1, vram + 7, 0));
	CHECK(!find(BASE + 2 * G1 + K4).there);
	CHECK_EQ(special_pages(s), (1 << 18) + 512 + 1);
	CHECK_EQ(tdm_a64_ld_relaxed(&s->rss), 0);
	CHECK_EQ(tdm_world_counted(&w, TDM_SC_LEAF_1G), 1);
	CHECK_EQ(tdm_world_counted(&w, TDM_SC_LEAF_2M), 1);
	CHECK_EQ(tdm_world_counted(&w, TDM_SC_LEAF_4K), 1);
	teardown();
	CHECK_EQ(b.closed, 1);
}

TEST_DIES(r1_who_asks_for_the_page_of_a_special_leaf_is_broken, "TDM_MEM_SPECIAL")
{
	setup();
	(void)tdm_pfn_page(&w.phys, (struct tdm_pfn){ vram });
}

/* The device's frames have a descriptor here whose first touch is the end. */
TEST(r2_gup_fast_returns_nothing_at_any_level)
{
	static struct buffer b;
	u64 va[3] = { BASE + 2 * G1, BASE + G1, BASE };
	struct tdm_map *m;

	setup();
	m = map_at(BASE, 4 * G1, RW, &b, 0);
	w.phys.range[1].page = (struct tdm_page *)(uintptr_t)8;
	for (u32 level = 0; level < 3; level++) {
		struct tdm_pfn pfn[4];
		u32 done;

		CHECK_EQ(insert_one(m, va[level], vram, level, TDM_INSERT_WRITE | TDM_INSERT_YOUNG), TDM_FAULT_DONE);
		CHECK_EQ(tdmi_pin_fast(s, reader, va[level], 4, TDM_PIN_WRITE, pfn), 0);
		CHECK_EQ(tdmi_pin_fast(s, reader, va[level], 1, TDM_PIN_READ, pfn), 0);
		CHECK_EQ(tdmi_pin_pages(s, reader, va[level], 1, TDM_PIN_READ, pfn, &done), -EFAULT);
	}
	w.phys.range[1].page = NULL;
	teardown();
}

TEST(r3_without_a_huge_special_bit_there_is_no_huge_leaf)
{
	static struct buffer b = { .n = 1 << 18 };
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	b.pfn.v = vram;
	m = map_at(BASE, 2 * G1, RW, &b, 0);
	w.huge = K4;
	CHECK_EQ(insert_one(m, BASE, vram, 1, 0), TDM_FAULT_FALLBACK);
	CHECK_EQ(insert_one(m, BASE, vram, 2, 0), TDM_FAULT_FALLBACK);
	CHECK_EQ(insert(m, BASE, vram, 1024, 0, &out), 0);
	CHECK_EQ(out.bytes[0], 2 * M2);
	/* Each level for itself: PMDs, but no PUDs. */
	w.huge = K4 | M2;
	CHECK_EQ(insert_one(m, BASE + G1, vram, 2, 0), TDM_FAULT_FALLBACK);
	CHECK_EQ(insert_one(m, BASE + G1, vram, 1, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert(m, BASE + G1, vram, 1 << 18, 0, &out), 0);
	CHECK_EQ(out.bytes[2], 0);
	CHECK_EQ(out.bytes[1] + out.same, G1);
	/* Nor does a fault ask for one, or remap_range make one. */
	w.huge = K4;
	CHECK_EQ(tdmi_munmap(s, reader, BASE + G1, G1), 0);
	m = map_at(BASE + G1, G1, RW, &b, G1);
	CHECK_EQ(tdmi_remap_range(m, reader, BASE + G1, (struct tdm_pfn){ vram }, 1024, 0, &out), 0);
	CHECK_EQ(out.bytes[0], 2 * M2);
	b.sizes = 0;
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + 200 * M2, false), 0);
	CHECK_EQ(b.sizes, K4);
	teardown();
}

TEST_DIES(r4_pages_are_not_inserted_as_special, "TDM_MEM_SPECIAL")
{
	static struct buffer b;
	struct tdm_inserted out;

	setup();
	(void)insert(map_at(BASE, M2, RW, &b, 0), BASE, w.phys.range[0].first, 1, 0, &out);
}

TEST_DIES(r4_a_run_does_not_leave_the_device, "a pfn that no range has")
{
	static struct buffer b;
	struct tdm_inserted out;

	setup();
	(void)insert(map_at(BASE, M2, RW, &b, 0), BASE, vram + VRAM_PAGES - 1, 2, 0, &out);
}

/* ---- which leaf is taken */

TEST(r5_address_and_pfn_and_vma_must_fit_or_the_leaf_is_smaller)
{
	static struct buffer b;
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	m = map_at(BASE + M2, G1 + M2, RW, &b, 0);
	CHECK_EQ(insert_one(m, BASE + M2 + K4, vram, 1, 0), TDM_FAULT_FALLBACK);
	/* The bug of a real driver: the address is aligned, the pfn is not. The leaf would map what lies before it. */
	CHECK_EQ(insert_one(m, BASE + M2, vram + 511, 1, 0), TDM_FAULT_FALLBACK);
	CHECK_EQ(insert_one(m, BASE + G1, vram + 512, 2, 0), TDM_FAULT_FALLBACK);
	/* Both are, but the VMA begins after it, or ends before it. */
	CHECK_EQ(insert_one(m, BASE, vram, 1, 0), TDM_FAULT_SIGBUS);
	CHECK_EQ(insert_one(m, BASE + G1, vram, 2, 0), TDM_FAULT_FALLBACK);
	CHECK_EQ(insert_one(m, BASE + G1, vram, 1, 0), TDM_FAULT_DONE);
	CHECK(!find(BASE + M2).there);
	CHECK_EQ(insert(m, BASE + M2, vram + 511, 512, 0, &out), 0);
	CHECK_EQ(out.bytes[0], M2);
	CHECK(is_at(BASE + M2, vram + 511, 0));
	CHECK(is_at(BASE + 2 * M2 - K4, vram + 511 + 511, 0));
	teardown();
}

TEST(r5_the_core_goes_from_1g_to_2m_to_4k)
{
	static struct buffer b = { .n = VRAM_PAGES, .refuse_above = 1 };
	struct tdm_map *m;

	setup();
	b.pfn.v = vram;
	m = map_at(BASE, 2 * G1, RW, &b, 0);
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + G1 + 5 * K4, true), -ENXIO); /* refused at all three */
	CHECK_EQ(b.faults, 3);
	CHECK_EQ(b.sizes, HUGE_ALL);
	/* One that knows 2 MiB of contiguous memory. */
	b = (struct buffer){ .pfn = { vram }, .n = VRAM_PAGES, .refuse_above = M2, .run = 512 };
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + G1 + 5 * K4, true), 0);
	CHECK_EQ(b.faults, 2);
	CHECK(is_at(BASE + G1, vram + (1 << 18), 1));
	CHECK_EQ(find(BASE + G1).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	/* Near an end of the VMA it is not even asked. */
	b.sizes = 0;
	CHECK_EQ(tdmi_munmap(s, reader, BASE + 512 * M2 - K4, K4), 0);
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + 5 * K4, false), 0);
	CHECK_EQ(b.sizes, M2);
	(void)m;
	teardown();
}

TEST(r6_a_table_stays_and_the_same_leaf_may_gain_rights)
{
	static struct buffer b;
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	m = map_at(BASE, 2 * G1, RW, &b, 0);
	/* A table in the way. */
	CHECK_EQ(insert_one(m, BASE + 3 * K4, vram + 3, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE, vram, 1, 0), TDM_FAULT_FALLBACK);
	CHECK_EQ(insert_one(m, BASE, vram, 2, 0), TDM_FAULT_FALLBACK);
	CHECK_EQ(insert(m, BASE, vram, 1024, 0, &out), 0);
	CHECK_EQ(out.bytes[0], M2 - K4);
	CHECK_EQ(out.bytes[1], M2);
	CHECK_EQ(out.same, K4);
	CHECK_EQ(out.end - out.start, 2 * M2);
	/* Again: nothing. */
	CHECK_EQ(insert(m, BASE, vram, 1024, 0, &out), 0);
	CHECK_EQ(out.entries, 0);
	CHECK_EQ(out.same, 2 * M2);
	CHECK_EQ(insert_one(m, BASE + M2, vram + 512, 1, 0), TDM_FAULT_DONE);
	/* Rights are added, never taken. */
	CHECK_EQ(find(BASE + M2).bits, 0);
	CHECK_EQ(insert_one(m, BASE + M2, vram + 512, 1, TDM_INSERT_YOUNG), TDM_FAULT_DONE);
	CHECK_EQ(find(BASE + M2).bits, TDM_PTE_ACCESSED);
	CHECK_EQ(insert_one(m, BASE + M2, vram + 512, 1, TDM_INSERT_WRITE | TDM_INSERT_DIRTY), TDM_FAULT_DONE);
	CHECK_EQ(find(BASE + M2).bits, TDM_PTE_ACCESSED | TDM_PTE_WRITE | TDM_PTE_DIRTY);
	CHECK_EQ(insert_one(m, BASE + M2, vram + 512, 1, 0), TDM_FAULT_DONE);
	CHECK_EQ(find(BASE + M2).bits, TDM_PTE_ACCESSED | TDM_PTE_WRITE | TDM_PTE_DIRTY);
	CHECK_EQ(special_pages(s), 1024);
	CHECK_EQ(nflushes, 0); /* nobody had anything that he may not have any more */
	teardown();
}

TEST(r6_another_pfn_is_refused_and_says_how_far_it_came)
{
	static struct buffer b;
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	m = map_at(BASE, 2 * G1, RW, &b, 0);
	CHECK_EQ(insert_one(m, BASE + M2, vram + 1024, 1, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + M2, vram + 512, 1, 0), TDM_FAULT_SIGBUS);
	CHECK_EQ(insert_one(m, BASE + M2 + 9 * K4, vram + 512 + 9, 0, 0), TDM_FAULT_SIGBUS);
	CHECK_EQ(insert(m, BASE + K4, vram + 1, 1023, TDM_INSERT_WRITE, &out), -EEXIST);
	CHECK_EQ(out.start, BASE + K4);
	CHECK_EQ(out.end, BASE + M2);
	CHECK_EQ(out.bytes[0], M2 - K4);
	CHECK(is_at(BASE + M2, vram + 1024, 1));
	CHECK(!(find(BASE + M2).bits & TDM_PTE_WRITE));
	/* The part of a leaf that says the same is no conflict. */
	CHECK_EQ(insert(m, BASE + M2 + 9 * K4, vram + 1024 + 9, 20, 0, &out), 0);
	CHECK_EQ(out.same, 20 * K4);
	teardown();
}

/* A part of a read-only leaf becomes writable, as the driver counts writes by 4 KiB: the leaf is split, down to there. */
TEST(r6_more_rights_for_a_part_split_the_leaf)
{
	static struct buffer b;
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	m = map_at(BASE, 2 * G1, RW, &b, 0);
	CHECK_EQ(insert(m, BASE, vram, 1 << 18, 0, &out), 0);
	CHECK_EQ(out.entries, 1);
	CHECK_EQ(insert(m, BASE + 1000 * K4, vram + 1000, 1, TDM_INSERT_WRITE, &out), 0);
	CHECK_EQ(out.split, 2);
	CHECK_EQ(out.tables, 2);
	CHECK(is_at(BASE + 1000 * K4, vram + 1000, 0) && (find(BASE + 1000 * K4).bits & TDM_PTE_WRITE));
	CHECK(is_at(BASE + 1001 * K4, vram + 1001, 0) && !(find(BASE + 1001 * K4).bits & TDM_PTE_WRITE));
	CHECK(is_at(BASE, vram, 1) && is_at(BASE + G1 - K4, vram + (1 << 18) - 1, 1));
	CHECK_EQ(special_pages(s), 1 << 18);
	teardown();
}

/* ---- one call and n calls */

#define WINDOW_PAGES 2048u

/* Some of what the run will say is there already, in leaves of 4 KiB and 2 MiB. */
static void prepopulate(struct tdm_map *m, u64 va, u64 pfn, u64 seed)
{
	u64 r = seed;
	u32 n = (u32)(t_rand(&r) % 4);

	for (u32 i = 0; i < n; i++) {
		u64 at = t_rand(&r) % WINDOW_PAGES, len = 1 + t_rand(&r) % 40;

		if (t_rand(&r) % 4 == 0) {
			u64 to = TDM_ALIGN_DOWN(va + at * K4, M2);

			if (to >= va)
				(void)insert_one(m, to, pfn + (to - va) / K4, 1, 0);
			continue;
		}
		for (u64 k = at; k < at + len && k < WINDOW_PAGES; k++)
			(void)insert_one(m, va + k * K4, pfn + k, 0, t_rand(&r) % 2 ? TDM_INSERT_WRITE : 0);
	}
}

static void equal_windows(struct tdm_space *a, struct tdm_space *b, u64 va, u64 pages)
{
	for (u64 k = 0; k < pages; k++) {
		struct where x = find_in(a, va + k * K4), y = find_in(b, va + k * K4);

		CHECK_EQ(x.there, y.there);
		CHECK_EQ(x.pfn, y.pfn);
		CHECK_EQ(x.bits & TDM_PTE_WRITE, y.bits & TDM_PTE_WRITE);
	}
}

TEST(r7_one_insert_of_a_run_is_n_inserts_of_a_page, .seconds = 120)
{
	u64 seed = t_seed(), r = seed;
	struct tdm_space *one, *many;
	u64 large = 0;

	for (u32 round = 0; round < (t_slow() ? 30u : 300u); round++) {
		u64 align = (u64)1 << (t_rand(&r) % 10), shift = t_rand(&r) % 3 ? 0 : t_rand(&r) % 512;
		u64 lo = t_rand(&r) % 600, hi = WINDOW_PAGES - t_rand(&r) % 600, pfn, va = BASE + TDM_ALIGN_DOWN(t_rand(&r) % 512, align) * K4;
		u64 from = t_rand(&r) % (WINDOW_PAGES / 2), n = 1 + t_rand(&r) % (WINDOW_PAGES - from), pre = t_rand(&r);
		u32 flags = t_rand(&r) % 2 ? TDM_INSERT_WRITE : 0;
		static struct buffer b;
		struct tdm_inserted out;
		struct tdm_map *m;

		setup();
		w.huge = t_rand(&r) % 5 ? HUGE_ALL : K4;
		pfn = vram + (va / K4 + shift) % 512;
		CHECK_EQ(tdmi_space_create(&w, &many), 0);
		one = s;
		m = map_at(va + lo * K4, (hi - lo) * K4, RW, &b, 0);
		prepopulate(m, va, pfn, pre);
		{
			struct tdm_insert how = { .flags = flags, .at = va + TDM_MAX(from, lo) * K4 };
			int got;

			tdmi_rcu_read_lock(reader);
			got = tdmi_insert_range(m, va + from * K4, (struct tdm_pfn){ pfn + from }, n, &how, &out);
			tdmi_rcu_read_unlock(reader);
			CHECK(got == 0 || (got == -EFAULT && from + n <= lo) || (got == -EFAULT && from >= hi) || (got == -EINVAL && from + n <= lo));
		}
		if (from + n > lo && from < hi) {
			CHECK_EQ(out.start, va + TDM_MAX(from, lo) * K4);
			CHECK_EQ(out.end, va + TDM_MIN(from + n, hi) * K4);
			CHECK_EQ(out.bytes[0] + out.bytes[1] + out.bytes[2] + out.same, out.end - out.start);
		}
		large += out.bytes[1];
		s = many;
		m = map_at(va + lo * K4, (hi - lo) * K4, RW, &b, 0);
		prepopulate(m, va, pfn, pre);
		for (u64 k = from; k < from + n; k++)
			if (k >= lo && k < hi)
				CHECK_EQ(insert_one(m, va + k * K4, pfn + k, 0, flags), TDM_FAULT_DONE);
		equal_windows(one, many, va - 8 * K4, WINDOW_PAGES + 16);
		CHECK_EQ(special_pages(one), special_pages(many));
		tdmi_space_destroy(many, reader);
		s = one;
		teardown();
	}
	CHECK(large > 0); /* it was worth it */
}

/* The same at 1 GiB. */
TEST(r7_a_run_of_more_than_a_gibibyte_takes_all_three_sizes, .seconds = 60)
{
	static struct buffer b;
	struct tdm_inserted out;
	struct tdm_map *m;
	u64 lead = M2 + 16 * K4;

	setup();
	m = map_at(BASE + G1 - lead, G1 + lead + M2 + 3 * K4, RW, &b, 0);
	CHECK_EQ(insert(m, BASE + G1 - lead, vram + (1 << 18) - lead / K4, VRAM_PAGES / 2 + lead / K4 - 1, 0, &out), 0);
	CHECK_EQ(out.bytes[0], 16 * K4 + 511 * K4);
	CHECK_EQ(out.bytes[1], M2 + 511 * M2);
	CHECK_EQ(out.bytes[2], 0); /* a page short of it */
	CHECK_EQ(tdmi_munmap(s, reader, BASE, 4 * G1), 0);
	m = map_at(BASE + G1 - lead, G1 + lead + M2 + 3 * K4, RW, &b, 0);
	CHECK_EQ(insert(m, BASE + G1 - lead, vram + (1 << 18) - lead / K4, VRAM_PAGES / 2 + lead / K4, 0, &out), 0);
	CHECK_EQ(out.bytes[0], 16 * K4);
	CHECK_EQ(out.bytes[1], M2);
	CHECK_EQ(out.bytes[2], G1);
	CHECK_EQ(out.entries, 18);
	CHECK(is_at(BASE + 2 * G1 - K4, vram + VRAM_PAGES - 1, 2));
	teardown();
}

/* ---- what it costs */

static u64 work_of(u64 (*per)[TDM_WORK_NR])
{
	u64 sum = 0;

	for (u32 i = 0; i < TDM_WORK_NR; i++)
		sum += (*per)[i] * work[i];
	memset(work, 0, sizeof(work));
	return sum;
}

TEST(r8_a_misaligned_gibibyte_takes_512_tables, .seconds = 60)
{
	/* In cycles, more or less: only the order of magnitude matters. */
	static u64 per[TDM_WORK_NR] = { [TDM_WORK_FAULT] = 1000, [TDM_WORK_PTE] = 10, [TDM_WORK_TABLE_LOCK] = 40, [TDM_WORK_PAGE_ALLOC] = 200, [TDM_WORK_PAGE_ZERO] = 300 };
	static struct buffer b = { .n = 1 << 18 };
	struct tdm_inserted out;
	u64 whole, single, huge;
	struct tdm_map *m;

	setup();
	m = map_at(BASE, G1, RW, &b, 0);
	memset(work, 0, sizeof(work));
	CHECK_EQ(insert(m, BASE, vram + 1, 1 << 18, 0, &out), 0);
	CHECK_EQ(out.bytes[0], G1);
	CHECK_EQ(out.entries, 1 << 18);
	CHECK_EQ(work[TDM_WORK_PTE], 1 << 18);
	/* 2 MiB of lowest tables, and a PMD and a PUD table above: not the 16 MiB that were once said. */
	CHECK_EQ(out.tables, 512 + 2);
	CHECK_EQ(work[TDM_WORK_TABLE_LOCK], (1 << 18) / 16);
	whole = work_of(&per);
	CHECK_EQ(tdmi_munmap(s, reader, BASE, G1), 0);

	/* One fault a page. */
	b.pfn.v = vram + 1;
	b.run = 1;
	map_at(BASE, G1, RW, &b, 0);
	memset(work, 0, sizeof(work));
	for (u64 k = 0; k < 1 << 18; k++)
		CHECK_EQ(tdmi_space_fault(s, reader, BASE + k * K4, TDM_ACCESS_READ), 0);
	CHECK_EQ(work[TDM_WORK_FAULT], 1 << 18);
	single = work_of(&per);
	CHECK_EQ(tdmi_munmap(s, reader, BASE, G1), 0);

	/* One fault. */
	b = (struct buffer){ .pfn = { vram }, .n = 1 << 18 };
	map_at(BASE, G1, RW, &b, 0);
	memset(work, 0, sizeof(work));
	CHECK_EQ(tdmi_space_fault(s, reader, BASE + 12345 * K4, TDM_ACCESS_READ), 0);
	CHECK_EQ(b.last.entries, 1);
	CHECK_EQ(b.last.tables, 0); /* the leaf is in the PUD table, which munmap leaves */
	huge = work_of(&per);
	printf("# work: a misaligned GiB in one call %llu, by faults %llu (%.1f times), aligned %llu\n", (unsigned long long)whole, (unsigned long long)single,
	       (double)single / (double)whole, (unsigned long long)huge);
	CHECK(single > 20 * whole);
	CHECK(whole > 1000 * huge);
	teardown();
}

TEST(r8_max_prefault_bounds_a_call_and_serves_the_fault)
{
	static struct buffer b = { .n = 1 << 18, .max_prefault = 16 };
	u64 va = BASE + 777 * K4;

	setup();
	b.pfn.v = vram + 1;
	map_at(BASE, G1, RW, &b, 0);
	/* Misaligned: the block of 16 around it. */
	CHECK_EQ(tdmi_special_fault(s, reader, va, true), 0);
	CHECK_EQ(b.last.entries, 16);
	CHECK_EQ(b.last.start, TDM_ALIGN_DOWN(va, 16 * K4));
	CHECK_EQ(b.last.end, TDM_ALIGN_DOWN(va, 16 * K4) + 16 * K4);
	CHECK_EQ(find(va).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	CHECK_EQ(find(va + K4).bits, TDM_PTE_WRITE); /* brought, but not touched */
	/* Where it fits entries are large, and there are as many of them. */
	CHECK_EQ(tdmi_munmap(s, reader, BASE, G1), 0);
	b.pfn.v = vram;
	map_at(BASE + K4, G1 - K4, RW, &b, K4);
	CHECK_EQ(tdmi_special_fault(s, reader, va, false), 0);
	CHECK_EQ(b.last.start, BASE + M2);
	CHECK_EQ(b.last.bytes[1], 16 * M2);
	CHECK_EQ(b.last.entries, 16);
	/* The next fault, before it, does not stop at what is there already. */
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + M2 - K4, false), 0);
	CHECK_EQ(b.last.entries, 16);
	CHECK(find(BASE + M2 - K4).there && !find(BASE + K4).there);
	teardown();
}

TEST(r9_a_driver_need_not_know_what_is_contiguous)
{
	static struct buffer b = { .n = VRAM_PAGES, .refuse_above = K4, .run = 1 };

	setup();
	b.pfn.v = vram;
	map_at(BASE, G1, RW, &b, 0);
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + 5 * K4, true), 0);
	CHECK_EQ(b.faults, 3);
	CHECK_EQ(b.last.entries, 1);
	CHECK_EQ(special_pages(s), 1);
	/* Once there is a table no larger leaf can come, and it is not asked for one. */
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + 6 * K4, true), 0);
	CHECK_EQ(b.faults, 4);
	CHECK(!find(BASE + 7 * K4).there);
	teardown();
}

TEST(r10_a_device_page_is_mapped_whole_and_clamped_to_the_vma)
{
	struct {
		u64 device, huge, count[3];
	} c[] = {
		{ 64 << 10, HUGE_ALL, { 16, 0, 0 } },
		{ 256 << 10, HUGE_ALL, { 64, 0, 0 } },
		{ 4 << 20, HUGE_ALL, { 0, 2, 0 } },
		{ 4 << 20, K4, { 1024, 0, 0 } },
	};
	static struct buffer b;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(c); i++) {
		u64 d = c[i].device;

		setup();
		w.huge = c[i].huge;
		b = (struct buffer){ .pfn = { vram }, .n = 1 << 18, .run = d / K4 };
		/* From the second page of one to the last but one of another: its own page is whole. */
		map_at(BASE + K4, 16 * d - 2 * K4, RW, &b, K4);
		CHECK_EQ(tdmi_special_fault(s, reader, BASE + 3 * d + 5 * K4, false), 0);
		CHECK_EQ(b.last.start, BASE + 3 * d);
		CHECK_EQ(b.last.end, BASE + 4 * d);
		for (u32 k = 0; k < 3; k++)
			CHECK_EQ(b.last.bytes[k] >> tdm_pt_shift(k), c[i].count[k]);
		/* The first and the last: what the VMA has of them. */
		CHECK_EQ(tdmi_special_fault(s, reader, BASE + 2 * K4, false), 0);
		CHECK_EQ(b.last.start, BASE + K4);
		CHECK_EQ(b.last.end, BASE + d);
		CHECK_EQ(tdmi_special_fault(s, reader, BASE + 16 * d - 2 * K4, false), 0);
		CHECK_EQ(b.last.start, BASE + 15 * d);
		CHECK_EQ(b.last.end, BASE + 16 * d - K4);
		CHECK_EQ(special_pages(s), 3 * d / K4 - 2);
		teardown();
	}
}

/* ---- what a VMA does not allow */

TEST(nothing_is_inserted_that_the_vma_does_not_allow)
{
	static struct buffer b = { .n = 1 << 18 }, other = { .n = 1 << 18 };
	struct tdm_inserted out;
	struct tdm_map *m, *n;

	setup();
	b.pfn.v = other.pfn.v = vram;
	m = map_at(BASE, 2 * M2, RO, &b, 0);
	n = map_at(BASE + 2 * M2, 2 * M2, RW, &other, 0);
	CHECK_EQ(insert(m, BASE, vram, 512, TDM_INSERT_WRITE, &out), -EFAULT);
	CHECK_EQ(tdmi_special_fault(s, reader, BASE, true), -EFAULT);
	CHECK_EQ(tdmi_special_fault(s, reader, BASE - K4, false), -EFAULT);
	/* Not into the neighbour, whose driver is another. */
	CHECK_EQ(insert(m, BASE, vram, 2048, 0, &out), 0);
	CHECK_EQ(out.end, BASE + 2 * M2);
	CHECK(!find(BASE + 2 * M2).there);
	CHECK_EQ(insert(m, BASE + 2 * M2, vram, 1, 0, &out), -EFAULT);
	CHECK_EQ(insert(n, BASE + 2 * M2, vram, 1, 0, &out), 0);
	CHECK_EQ(insert(m, BASE + 1, vram, 1, 0, &out), -EINVAL);
	CHECK_EQ(insert(m, BASE, vram, 0, 0, &out), -EINVAL);
	/* Beyond the buffer. */
	b.n = 700;
	CHECK_EQ(tdmi_munmap(s, reader, BASE, 2 * M2), 0);
	map_at(BASE, 2 * M2, RO, &b, 0);
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + 700 * K4, false), -ENXIO);
	CHECK_EQ(tdmi_special_fault(s, reader, BASE + 699 * K4, false), 0);
	CHECK(!find(BASE + 700 * K4).there);
	teardown();
	CHECK_EQ(b.closed, 2);
}
