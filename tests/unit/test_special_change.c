/* SPDX-License-Identifier: MIT */
/* test_special_change.c - what becomes of drivers' leaves: eviction and collapse, remap_range, munmap, mprotect, mremap, fork. The rN are the requirements of
 * docs/sim-requirements.md. */
#include "special_world.h"
#include "mm/unmapped_area.h"

/* ---- eviction, and what it leaves behind */

static void evict(struct tdm_map *m, u64 va, u64 len, bool tables)
{
	u32 from = nflushes;
	struct where was = find(va);

	tdmi_special_unmap(m, reader, va, va + len, tables);
	if (was.there)
		CHECK(flushed(s, va, tdm_pt_shift(was.level), from));
	CHECK(!find(va).there);
}

static void touch(u64 va, bool write)
{
	CHECK_EQ(tdmi_space_fault(s, reader, va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ), 0);
	CHECK(find(va).there);
}

/* A buffer of 1 GiB in VRAM, evicted to pages that are not contiguous, of which the CPU reads a byte, and brought back. */
static struct tdm_map *evicted_and_back(struct buffer *b, bool tables)
{
	struct tdm_map *m;

	*b = (struct buffer){ .pfn = { vram }, .n = 1 << 18 };
	m = map_at(BASE, G1, RW, b, 0);
	touch(BASE + 777 * K4, true);
	CHECK(is_at(BASE, vram, 2));
	evict(m, BASE, G1, tables);
	CHECK_EQ(special_pages(s), 0);
	/* System pages, one at a time. */
	b->pfn.v = vram + (1 << 18) + 3;
	b->run = 1;
	touch(BASE + 777 * K4, false);
	CHECK(is_at(BASE + 777 * K4, vram + (1 << 18) + 3 + 777, 0));
	evict(m, BASE, G1, tables);
	b->pfn.v = vram;
	b->run = 0;
	touch(BASE + 778 * K4, true);
	return m;
}

TEST(r11_without_collapse_an_evicted_buffer_stays_in_small_pieces, .seconds = 60)
{
	struct tdm_collapsed c;
	static struct buffer b;

	setup();
	evicted_and_back(&b, false);
	/* The PMD table and one PTE table were in the way. */
	CHECK(is_at(BASE, vram, 1));
	CHECK(is_at(BASE + 778 * K4, vram + 778, 0));
	CHECK_EQ(b.last.bytes[0], M2);
	CHECK_EQ(b.last.bytes[1], G1 - M2);
	CHECK_EQ(b.last.bytes[2], 0);
	/* A write dirties a part, and so it must be of all. */
	CHECK_EQ(find(BASE + 778 * K4).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	nflushes = 0;
	tdmi_collapse_range(s, reader, BASE, BASE + G1, &c);
	CHECK_EQ(c.made[1], 1);
	CHECK_EQ(c.made[2], 1);
	CHECK(is_at(BASE + 12345 * K4, vram + 12345, 2));
	CHECK_EQ(find(BASE).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	/* Who had it in pieces has forgotten them: a flush of a leaf of 1 GiB would leave them. */
	CHECK(flushed(s, BASE + 778 * K4, 12, 0));
	CHECK(flushed(s, BASE + 5 * M2, 21, 0));
	CHECK_EQ(special_pages(s), 1 << 18);
	CHECK(tdmi_rcu_pending(&w.rcu) >= 2);
	/* Again: nothing to do, and nobody is disturbed. */
	nflushes = 0;
	memset(work, 0, sizeof(work));
	tdmi_collapse_range(s, reader, BASE, BASE + G1, &c);
	CHECK_EQ(work[TDM_WORK_PTE], 0);
	CHECK_EQ(c.made[1] + c.made[2] + c.holes + c.scattered + c.rights, 0);
	CHECK_EQ(nflushes, 0);
	teardown();
}

/* Where the driver lets go of empty tables nothing is in the way. */
TEST(r11_a_driver_that_frees_its_tables_has_no_trap)
{
	static struct buffer b;

	setup();
	evicted_and_back(&b, true);
	CHECK(is_at(BASE, vram, 2));
	CHECK_EQ(b.last.entries, 1);
	teardown();
}

TEST(r11_every_fault_at_4k_is_collapsed_to_a_gibibyte, .seconds = 60)
{
	static struct buffer b = { .n = 1 << 18, .max_prefault = 16 };
	struct tdm_collapsed c;

	setup();
	b.pfn.v = vram;
	map_at(BASE, G1, RW, &b, 0);
	/* An entry of each table first, so that nothing large ever fits. */
	b.run = 1;
	for (u64 k = 0; k < 512; k++)
		touch(BASE + k * M2, true);
	b.run = 0;
	for (u64 k = 0; k < 1 << 18; k++)
		touch(BASE + k * K4, true);
	CHECK_EQ(special_pages(s), 1 << 18);
	CHECK(is_at(BASE + 1000 * K4, vram + 1000, 0));
	tdmi_collapse_range(s, reader, BASE, BASE + G1, &c);
	CHECK_EQ(c.made[1], 512);
	CHECK_EQ(c.made[2], 1);
	CHECK(is_at(BASE + 1000 * K4, vram + 1000, 2));
	/* 513 tables, after a grace period. */
	tdmi_rcu_read_lock(reader);
	CHECK_EQ(tdmi_rcu_pending(&w.rcu), 513);
	tdmi_rcu_poll(&w.rcu);
	tdmi_rcu_poll(&w.rcu);
	CHECK_EQ(tdmi_rcu_pending(&w.rcu), 513);
	tdmi_rcu_read_unlock(reader);
	tdmi_rcu_drain(&w.rcu);
	CHECK_EQ(tdmi_rcu_pending(&w.rcu), 0);
	teardown();
}

TEST(r11_collapse_refuses_what_is_not_one_leaf)
{
	static struct buffer b = { .n = 1 << 18 };
	struct tdm_collapsed c;
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	b.pfn.v = vram;
	m = map_at(BASE, 6 * M2 - K4, RW, &b, 0);
	/* A hole; a page from elsewhere; not aligned; one of them read-only; the end of the VMA. */
	CHECK_EQ(insert_one(m, BASE + 5 * K4, vram + 5, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + M2 + 9 * K4, vram + 5000, 0, 0), TDM_FAULT_DONE);
	for (u64 k = 0; k < 512; k++)
		if (k != 9)
			CHECK_EQ(insert_one(m, BASE + M2 + k * K4, vram + 512 + k, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert(m, BASE + 2 * M2, vram + 1025, 512, 0, &out), 0);
	CHECK_EQ(insert_one(m, BASE + 3 * M2, vram + 1536, 0, TDM_INSERT_WRITE), TDM_FAULT_DONE);
	CHECK_EQ(insert(m, BASE + 3 * M2, vram + 1536, 512, 0, &out), 0);
	CHECK_EQ(insert_one(m, BASE + 4 * M2, vram + 2048, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert(m, BASE + 4 * M2, vram + 2048, 1024, 0, &out), 0);
	memset(work, 0, sizeof(work));
	tdmi_collapse_range(s, reader, BASE, BASE + 6 * M2, &c);
	/* What does not fit is read up to there. */
	CHECK_EQ(work[TDM_WORK_PTE], 1 + 10 + 1 + 2 + 2 * 512);
	CHECK_EQ(c.holes, 1);
	CHECK_EQ(c.scattered, 2);
	CHECK_EQ(c.rights, 1);
	CHECK_EQ(c.made[1], 1);
	CHECK(is_at(BASE + 4 * M2, vram + 2048, 1));
	for (u64 k = 0; k < 4; k++)
		CHECK_EQ(find(BASE + k * M2 + 5 * K4).level, 0);
	CHECK(is_at(BASE + 5 * M2, vram + 2560, 0));
	/* CPUs without such leaves. */
	w.huge = K4;
	CHECK_EQ(insert_one(m, BASE, vram, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert(m, BASE, vram, 512, 0, &out), 0);
	tdmi_collapse_range(s, reader, BASE, BASE + 2 * M2, &c);
	CHECK_EQ(c.made[1], 0);
	teardown();
}

/* ---- mmap first, memory later */

TEST(r14_an_aligned_offset_and_an_aligned_address_make_a_huge_fault)
{
	u64 sizes[] = { 64 << 10, M2 + 64 * K4, G1 + 3 * M2 };
	static struct buffer b;

	setup();
	/* Something in the way of the lowest addresses. */
	CHECK_EQ(tdmi_mmap(s, reader, TDM_VA_START, 3 * K4, TDM_V_READ), 0);
	for (u32 i = 0; i < 3; i++) {
		struct tdm_area a = { .len = sizes[i], .huge = HUGE_ALL };
		u64 va;

		CHECK_EQ(tdmi_unmapped_area(&s->vmas, &a, &va), 0);
		b = (struct buffer){ .n = sizes[i] / K4 };
		map_at(va, sizes[i], RW, &b, 0);
		/* The driver allocates at the first fault, aligned to the largest leaf that the buffer is larger than. */
		b.pfn.v = vram + (i == 1 ? 512 : 0);
		touch(va, true);
		CHECK(is_at(va, b.pfn.v, i));
	}
	teardown();
}

TEST(r13_an_offset_into_the_device_is_honoured)
{
	static struct buffer b = { .n = VRAM_PAGES };
	struct tdm_area a = { .len = 8 * M2, .off = 5 * M2 + 7 * K4, .order = 9, .huge = HUGE_ALL };
	u64 va;

	setup();
	b.pfn.v = vram;
	CHECK_EQ(tdmi_unmapped_area(&s->vmas, &a, &va), 0);
	map_at(va, a.len, RW, &b, a.off);
	touch(va, false);
	CHECK_EQ(b.last.bytes[1], 7 * M2);
	CHECK_EQ(b.last.bytes[0], M2);
	/* At any other address it is 2048 small ones. */
	CHECK_EQ(tdmi_munmap(s, reader, va, a.len), 0);
	map_at(va + K4, a.len, RW, &b, a.off);
	touch(va + K4, false);
	CHECK_EQ(b.last.bytes[0], a.len);
	teardown();
}

/* ---- remap_range */

TEST(r15_a_static_mapping_replaces_tables)
{
	struct tdm_remap linear = { .n = VRAM_PAGES };
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	linear.pfn.v = vram;
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, 2 * G1, RW, &tdmi_remap_ops, &linear, 0, &m), 0);
	/* Somebody was faster, at a page of each of two tables; one of them writes. */
	touch(BASE + 5 * K4, false);
	CHECK_EQ(tdmi_munmap(s, reader, BASE, 2 * G1), 0);
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, 2 * G1, RW, &tdmi_remap_ops, &linear, 0, &m), 0);
	CHECK_EQ(insert_one(m, BASE + 5 * K4, vram + 5, 0, TDM_INSERT_WRITE | TDM_INSERT_DIRTY), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + 9 * M2, vram + 9 * 512, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(tdmi_remap_range(m, reader, BASE, (struct tdm_pfn){ vram }, VRAM_PAGES, TDM_INSERT_WRITE, &out), 0);
	CHECK_EQ(out.bytes[2], 2 * G1 - 2 * K4);
	CHECK_EQ(out.same, 2 * K4);
	CHECK_EQ(out.entries, 2);
	CHECK(is_at(BASE + 5 * K4, vram + 5, 2));
	CHECK_EQ(find(BASE).bits, TDM_PTE_WRITE | TDM_PTE_DIRTY);
	CHECK(is_at(BASE + 2 * G1 - K4, vram + VRAM_PAGES - 1, 2));
	CHECK_EQ(special_pages(s), VRAM_PAGES);
	/* Without the right to replace it is 4 KiB next to it. */
	CHECK_EQ(tdmi_munmap(s, reader, BASE, 2 * G1), 0);
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, 2 * G1, RW, &tdmi_remap_ops, &linear, 0, &m), 0);
	CHECK_EQ(insert_one(m, BASE + 5 * K4, vram + 5, 0, TDM_INSERT_WRITE), TDM_FAULT_DONE);
	CHECK_EQ(insert(m, BASE, vram, VRAM_PAGES, TDM_INSERT_WRITE, &out), 0);
	CHECK_EQ(out.bytes[0], M2 - K4);
	CHECK_EQ(out.bytes[1], G1 - M2);
	CHECK_EQ(out.bytes[2], G1);
	teardown();
}

TEST(r15_a_table_that_says_something_else_is_not_replaced)
{
	struct tdm_remap linear = { .n = VRAM_PAGES };
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	linear.pfn.v = vram;
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, 2 * M2, RW, &tdmi_remap_ops, &linear, 0, &m), 0);
	CHECK_EQ(insert_one(m, BASE + M2 + 5 * K4, vram + 99, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(tdmi_remap_range(m, reader, BASE, (struct tdm_pfn){ vram }, 1024, 0, &out), -EEXIST);
	CHECK_EQ(out.end, BASE + M2 + 5 * K4);
	CHECK(is_at(BASE + M2 + 5 * K4, vram + 99, 0));
	/* Nor one that allows more: rights are not taken here. */
	CHECK_EQ(tdmi_munmap(s, reader, BASE, 2 * M2), 0);
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, 2 * M2, RW, &tdmi_remap_ops, &linear, 0, &m), 0);
	CHECK_EQ(insert_one(m, BASE, vram, 0, TDM_INSERT_WRITE), TDM_FAULT_DONE);
	CHECK_EQ(tdmi_remap_range(m, reader, BASE, (struct tdm_pfn){ vram }, 1024, 0, &out), 0);
	CHECK(is_at(BASE, vram, 0) && find(BASE).bits == TDM_PTE_WRITE);
	CHECK(is_at(BASE + K4, vram + 1, 0) && !find(BASE + K4).bits);
	CHECK(is_at(BASE + M2, vram + 512, 1));
	teardown();
}

/* All of a gibibyte is looked at before any of it is filled. */
TEST(r15_remap_leaves_alone_what_lies_behind_a_conflict)
{
	struct tdm_remap linear = { .n = VRAM_PAGES };
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	linear.pfn.v = vram;
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, G1, RW, &tdmi_remap_ops, &linear, 0, &m), 0);
	CHECK_EQ(insert_one(m, BASE + M2, vram + 512, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + 2 * M2 + 5 * K4, vram + 99, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + 3 * M2, vram + 1536, 0, 0), TDM_FAULT_DONE);
	CHECK_EQ(tdmi_remap_range(m, reader, BASE, (struct tdm_pfn){ vram }, 1 << 18, 0, &out), -EEXIST);
	CHECK_EQ(out.end, BASE + 2 * M2 + 5 * K4);
	CHECK_EQ(out.bytes[1], 2 * M2 - K4);
	CHECK_EQ(out.bytes[0], 5 * K4);
	CHECK_EQ(out.same, K4);
	CHECK(is_at(BASE + M2, vram + 512, 1));
	CHECK(is_at(BASE + 3 * M2, vram + 1536, 0) && !find(BASE + 3 * M2 + K4).there);
	CHECK_EQ(special_pages(s), 1024 + 5 + 1 + 1);
	teardown();
}

/* mprotect(PROT_NONE) drops what a static mapping was filled with; it is not lost. */
TEST(r15_what_a_static_mapping_drops_comes_back)
{
	struct tdm_remap linear = { .n = 1 << 18 };
	struct tdm_inserted out;
	struct tdm_map *m;

	setup();
	linear.pfn.v = vram;
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, 512 * M2, RW, &tdmi_remap_ops, &linear, M2, &m), 0);
	CHECK_EQ(tdmi_remap_range(m, reader, BASE, (struct tdm_pfn){ vram + 512 }, (1 << 18) - 512, TDM_INSERT_WRITE, &out), 0);
	CHECK_EQ(tdmi_mprotect(s, reader, BASE + M2, M2, 0), 0);
	CHECK(!find(BASE + M2).there);
	CHECK(is_at(BASE, vram + 512, 1));
	CHECK_EQ(tdmi_space_fault(s, reader, BASE + M2, TDM_ACCESS_READ), -EFAULT);
	CHECK_EQ(tdmi_mprotect(s, reader, BASE + M2, M2, TDM_V_READ), 0);
	touch(BASE + M2 + 5 * K4, false);
	CHECK(is_at(BASE + M2 + 5 * K4, vram + 1024 + 5, 1));
	/* The last page of the mapping is beyond what the device has. */
	CHECK_EQ(tdmi_space_fault(s, reader, BASE + 511 * M2, TDM_ACCESS_READ), -ENXIO);
	teardown();
}

/* ---- ranges of the address space */

struct change {
	const char *name;
	u64 from, to; /* from BASE */
};

static const struct change changes[] = {
	{ "within a page table", 5 * K4, 9 * K4 },
	{ "over the edge of one", M2 - K4, M2 + K4 },
	{ "two whole ones", 2 * M2, 4 * M2 },
	{ "many and a bit", M2 + K4, 300 * M2 + 7 * K4 },
	{ "up to a gibibyte", 511 * M2, G1 },
	{ "over a gibibyte", G1 - K4, G1 + M2 },
	{ "a whole one", G1, 2 * G1 },
	{ "all", 0, 2 * G1 },
	{ "all but a page", K4, 2 * G1 - K4 },
};

static struct tdm_map *two_gib(struct buffer *b)
{
	struct tdm_map *m;

	*b = (struct buffer){ .pfn = { vram }, .n = VRAM_PAGES };
	m = map_at(BASE, 2 * G1, RW, b, 0);
	touch(BASE, true);
	touch(BASE + G1, true);
	CHECK(is_at(BASE, vram, 2) && is_at(BASE + G1, vram + (1 << 18), 2));
	nflushes = 0;
	return m;
}

/* A few places inside, and at and around the ends. */
static u32 places(const struct change *c, u64 *at)
{
	u64 p[] = { 0, c->from - K4, c->from, c->from + K4, TDM_ALIGN_DOWN(c->from, M2), TDM_ALIGN_UP(c->from, M2), (c->from + c->to) / 2 / K4 * K4, TDM_ALIGN_DOWN(c->to, M2),
		    c->to - K4, c->to, c->to + K4, TDM_ALIGN_UP(c->to, M2), 2 * G1 - K4 };
	u32 n = 0;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(p); i++)
		if (p[i] < 2 * G1)
			at[n++] = p[i];
	return n;
}

static bool inside(const struct change *c, u64 at)
{
	return at >= c->from && at < c->to;
}

TEST(r17_munmap_of_any_part_of_any_leaf)
{
	for (u32 i = 0; i < TDM_ARRAY_SIZE(changes); i++) {
		const struct change *c = &changes[i];
		static struct buffer b;
		u64 at[16];
		u32 n;

		setup();
		two_gib(&b);
		CHECK_EQ(tdmi_munmap(s, reader, BASE + c->from, c->to - c->from), 0);
		n = places(c, at);
		for (u32 k = 0; k < n; k++) {
			struct where x = find(BASE + at[k]);

			CHECK_EQ(x.there, !inside(c, at[k]));
			if (x.there)
				CHECK_EQ(x.pfn, vram + at[k] / K4);
			/* Also the gibibyte that a TLB had. */
			if (inside(c, at[k]))
				CHECK(flushed(s, BASE + TDM_ALIGN_DOWN(at[k], G1), 30, 0));
		}
		CHECK_EQ(special_pages(s), (2 * G1 - (c->to - c->from)) / K4);
		CHECK_EQ(b.closed, c->to - c->from == 2 * G1);
		CHECK_EQ(tdmi_space_fault(s, reader, BASE + c->from, TDM_ACCESS_READ), -EFAULT);
		/* Something else is mapped there. */
		CHECK_EQ(tdmi_mmap(s, reader, BASE + c->from, c->to - c->from, TDM_V_READ | TDM_V_WRITE), 0);
		CHECK_EQ(tdmi_space_fault(s, reader, BASE + c->from, TDM_ACCESS_WRITE), 0);
		teardown();
	}
}

TEST(r17_mprotect_of_any_part_of_any_leaf)
{
	for (u32 i = 0; i < 2 * TDM_ARRAY_SIZE(changes); i++) {
		const struct change *c = &changes[i / 2];
		bool none = i % 2;
		static struct buffer b;
		u64 at[16];
		u32 n;

		setup();
		two_gib(&b);
		CHECK_EQ(tdmi_mprotect(s, reader, BASE + c->from, c->to - c->from, none ? 0 : TDM_V_READ), 0);
		n = places(c, at);
		for (u32 k = 0; k < n; k++) {
			struct where x = find(BASE + at[k]);

			CHECK_EQ(x.there, !none || !inside(c, at[k]));
			if (x.there)
				CHECK_EQ(x.pfn, vram + at[k] / K4);
			if (x.there)
				CHECK_EQ(!(x.bits & TDM_PTE_WRITE), inside(c, at[k]));
			if (inside(c, at[k]))
				CHECK(flushed(s, BASE + TDM_ALIGN_DOWN(at[k], G1), 30, 0));
			CHECK_EQ(tdmi_space_fault(s, reader, BASE + at[k], TDM_ACCESS_WRITE), inside(c, at[k]) ? -EFAULT : 0);
		}
		/* And back: rights come by faults. */
		CHECK_EQ(tdmi_mprotect(s, reader, BASE + c->from, c->to - c->from, TDM_V_READ | TDM_V_WRITE), 0);
		for (u32 k = 0; k < n; k++) {
			CHECK_EQ(tdmi_space_fault(s, reader, BASE + at[k], TDM_ACCESS_WRITE), 0);
			CHECK_EQ(find(BASE + at[k]).pfn, vram + at[k] / K4);
			CHECK(find(BASE + at[k]).bits & TDM_PTE_WRITE);
		}
		CHECK_EQ(tdmi_munmap(s, reader, BASE, 2 * G1), 0);
		CHECK_EQ(special_pages(s), 0);
		CHECK_EQ(b.closed, 1);
		teardown();
	}
}

TEST(r17_mremap_of_any_part_of_any_leaf)
{
	for (u32 i = 0; i < TDM_ARRAY_SIZE(changes); i++) {
		const struct change *c = &changes[i];
		u64 to = BASE + 8 * G1, len = c->to - c->from;
		static struct buffer b;

		setup();
		two_gib(&b);
		CHECK_EQ(tdmi_mremap(s, reader, BASE + c->from, to, len), 0);
		CHECK_EQ(b.opened, 1);
		CHECK(!find(BASE + c->from).there && !find(BASE + c->to - K4).there);
		CHECK_EQ(tdmi_space_fault(s, reader, BASE + c->from, TDM_ACCESS_READ), -EFAULT);
		CHECK(flushed(s, BASE + TDM_ALIGN_DOWN(c->from, G1), 30, 0));
		/* The new place has what was at the old one. */
		touch(to, true);
		CHECK_EQ(find(to).pfn, vram + c->from / K4);
		touch(to + len - K4, true);
		CHECK_EQ(find(to + len - K4).pfn, vram + c->to / K4 - 1);
		CHECK(!find(to + len).there);
		if (c->from)
			CHECK_EQ(find(BASE).pfn, vram);
		teardown();
		CHECK_EQ(b.closed, 2);
	}
}

/* A driver that zaps a part without a cut: the leaf goes as a whole, everybody is told of all of it, and the rest comes back. */
TEST(r17_a_driver_zaps_a_part_of_a_leaf)
{
	static struct buffer b;
	struct tdm_map *m;

	setup();
	m = two_gib(&b);
	tdmi_special_unmap(m, reader, BASE + G1 - K4, BASE + G1 + M2, true);
	CHECK(!find(BASE).there && !find(BASE + 2 * G1 - K4).there);
	CHECK(flushed(s, BASE, 30, 0) && flushed(s, BASE + G1, 30, 0));
	CHECK_EQ(special_pages(s), 0);
	touch(BASE, false);
	CHECK(is_at(BASE, vram, 2));
	/* Of what has been unmapped meanwhile, and is another's by now, nothing. */
	CHECK_EQ(tdmi_mmap(s, reader, BASE + M2, M2, TDM_V_READ | TDM_V_WRITE), 0);
	CHECK_EQ(tdmi_space_fault(s, reader, BASE + M2, TDM_ACCESS_WRITE), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&s->rss), 1);
	CHECK(is_at(BASE, vram, 1) && is_at(BASE + 2 * M2, vram + 1024, 1));
	tdmi_special_unmap(m, reader, BASE, BASE + 2 * G1, true);
	CHECK_EQ(tdm_a64_ld_relaxed(&s->rss), 1);
	CHECK_EQ(special_pages(s), 0);
	teardown();
}

TEST(r17_fork_copies_leaves_of_every_size)
{
	static struct buffer b;
	struct tdm_space *child;
	struct tdm_map *m;

	setup();
	b = (struct buffer){ .pfn = { vram }, .n = VRAM_PAGES };
	m = map_at(BASE, 2 * G1, RW, &b, 0);
	CHECK_EQ(insert_one(m, BASE + G1, vram + (1 << 18), 2, TDM_INSERT_WRITE | TDM_INSERT_DIRTY | TDM_INSERT_YOUNG), TDM_FAULT_DONE);
	CHECK_EQ(insert_one(m, BASE + 4 * M2, vram + 2048, 1, 0), TDM_FAULT_DONE);
	for (u64 k = 500; k < 530; k += 3)
		CHECK_EQ(insert_one(m, BASE + k * K4, vram + k, 0, TDM_INSERT_WRITE), TDM_FAULT_DONE);
	memset(work, 0, sizeof(work));
	CHECK_EQ(tdmi_space_fork(s, reader, &child), 0);
	CHECK(work[TDM_WORK_PTE] < 100); /* a gibibyte is one entry */
	CHECK_EQ(b.opened, 1);
	CHECK_EQ(special_pages(child), special_pages(s));
	for (u64 k = 0; k < 3 * 512; k++) {
		struct where x = find(BASE + k * K4), y = find_in(child, BASE + k * K4);

		CHECK(x.there == y.there && x.pfn == y.pfn && (x.bits & TDM_PTE_WRITE) == (y.bits & TDM_PTE_WRITE));
	}
	CHECK_EQ(find_in(child, BASE + 4 * M2 + 7 * K4).pfn, vram + 2048 + 7);
	CHECK_EQ(find_in(child, BASE + 2 * G1 - K4).pfn, vram + VRAM_PAGES - 1);
	CHECK_EQ(find_in(child, BASE + G1).level, 2);
	CHECK_EQ(find_in(child, BASE + G1).bits, TDM_PTE_WRITE); /* not what the parent's use has set */
	/* Each has his own mapping. */
	CHECK_EQ(tdmi_munmap(s, reader, BASE, 2 * G1), 0);
	CHECK_EQ(b.closed, 1);
	CHECK_EQ(tdmi_space_fault(child, reader, BASE + 7 * M2, TDM_ACCESS_WRITE), 0);
	CHECK_EQ(find_in(child, BASE + 7 * M2).pfn, vram + 7 * 512);
	tdmi_space_destroy(child, reader);
	CHECK_EQ(b.closed, 2);
	teardown();
}

/* A and D of a leaf whose walker cannot set them, at every level, and without asking the driver. */
TEST(a_leaf_that_is_there_is_touched_without_its_driver)
{
	static struct buffer b;
	u64 va[3] = { BASE, BASE + M2, BASE + G1 };
	struct tdm_map *m;

	setup();
	m = map_at(BASE, 2 * G1, RW, &b, 0);
	for (u32 level = 0; level < 3; level++) {
		CHECK_EQ(insert_one(m, va[level], vram, level, TDM_INSERT_WRITE), TDM_FAULT_DONE);
		touch(va[level], false);
		CHECK_EQ(find(va[level]).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED);
		touch(va[level], true);
		CHECK_EQ(find(va[level]).bits, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	}
	CHECK_EQ(b.faults, 0);
	teardown();
}

/* Tables in use and tables to be freed are all that there is: what any sequence leaves is freed with the space (the allocators say so when the world ends), and
 * is zapped by one munmap. */
TEST(r17_at_random_against_a_model, .seconds = 120)
{
	enum { PAGES = 3 * 512 };
	static u8 right[PAGES]; /* of the VMA: 0 unmapped, 1 none, 2 read, 3 read and write */
	u64 r = t_seed();

	for (u32 round = 0; round < (t_slow() ? 5u : 40u); round++) {
		static struct buffer b;
		struct tdm_collapsed c;
		struct tdm_map *m;

		setup();
		b = (struct buffer){ .pfn = { vram + t_rand(&r) % 2 * 7 }, .n = VRAM_PAGES - 7, .max_prefault = t_rand(&r) % 3 * 8 };
		m = map_at(BASE, PAGES * K4, RW, &b, 0);
		memset(right, 3, sizeof(right));
		for (u32 step = 0; step < 200; step++) {
			u64 at = t_rand(&r) % PAGES, len = 1 + t_rand(&r) % (t_rand(&r) % 4 ? 40 : PAGES), end = TDM_MIN(at + len, (u64)PAGES);
			u64 va = BASE + at * K4, kind = t_rand(&r) % 16, left = 0;
			static const uintptr_t rights[4] = { 0, 0, TDM_V_READ, TDM_V_READ | TDM_V_WRITE };

			if (kind < 9) {
				bool write = kind & 1;
				u32 had = nflushes;

				CHECK_EQ(tdmi_space_fault(s, reader, va, write), right[at] >= 2u + write ? 0 : -EFAULT);
				CHECK_EQ(had, nflushes);
				if (right[at] >= 2u + write)
					CHECK_EQ(find(va).pfn, b.pfn.v + at);
			} else if (kind == 9 || kind == 10) {
				tdmi_special_unmap(m, reader, va, BASE + end * K4, kind & 1);
				for (u64 k = at; k < end; k++)
					CHECK(!find(BASE + k * K4).there);
			} else if (kind == 11) {
				tdmi_collapse_range(s, reader, BASE, BASE + PAGES * K4, &c);
			} else if (kind == 12 && len < 40) {
				for (u64 k = 0; k < PAGES; k++)
					left += right[k] && (k < at || k >= end);
				if (!left)
					continue;
				CHECK_EQ(tdmi_munmap(s, reader, va, (end - at) * K4), 0);
				memset(right + at, 0, end - at);
			} else {
				u32 to = 1 + (u32)(t_rand(&r) % 3);

				for (u64 k = at; k < end; k++)
					left += !right[k];
				if (left)
					continue;
				CHECK_EQ(tdmi_mprotect(s, reader, va, (end - at) * K4, rights[to]), 0);
				memset(right + at, (int)to, end - at);
			}
		}
		for (u64 k = 0, there = 0; k < PAGES; k++) {
			struct where x = find(BASE + k * K4);

			there += x.there;
			if (k == PAGES - 1)
				CHECK_EQ(special_pages(s), there);
			if (!x.there)
				continue;
			CHECK_EQ(x.pfn, b.pfn.v + k);
			CHECK(right[k] >= 2);
			CHECK(right[k] == 3 || !(x.bits & TDM_PTE_WRITE));
		}
		teardown();
		CHECK_EQ(b.closed, 1);
	}
}
