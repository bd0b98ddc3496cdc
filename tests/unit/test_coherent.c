/* SPDX-License-Identifier: MIT */
/* Pages in device memory that the CPU can map: they stay mapped, can always be evicted, and a write after a fork takes them to ram. */
#include "mm/gup.h"
#include "mm/range_fault.h"
#include "mm_world.h"

static struct tdm_pool pool;
static u64 freed;

static void page_free(struct tdm_pool *p, u32 frame, u32 order)
{
	CHECK(p == &pool && frame + (1u << order) <= 1024);
	freed += 1u << order;
}

static const struct tdm_pool_ops ops = { .name = "coherent", .page_free = page_free };

static void begin(void)
{
	start_with(0, PAGES, 2 * FRAMES);
	freed = 0;
	CHECK_EQ(tdmi_pool_init_coherent(&pool, &ops, NULL, &pool, 1024), 0);
	CHECK_EQ(tdmi_pool_attach(&mm, &pool), 0);
	map(BASE, BASE + P(PAGES));
}

static void end(void)
{
	u64 n;

	CHECK_EQ(tdmi_pool_evict(ctx, &pool, ~(u64)0, &n), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&pool.pages), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&pool.frames.used), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.coherent), 0);
	CHECK(tdmi_frames_valid(&pool.frames));
	CHECK_EQ(tdmi_pool_detach(&pool), 0);
	tdmi_pool_destroy(&pool);
	finish();
}

static u64 to_device(u32 a, u32 b)
{
	u64 n;

	CHECK_EQ(tdmi_migrate_to_device(ctx, &pool, BASE + P(a), BASE + P(b), &n), 0);
	return n;
}

static u64 to_ram(u32 a, u32 b)
{
	u64 n;

	CHECK_EQ(tdmi_coherent_home(ctx, BASE + P(a), BASE + P(b), &n), 0);
	return n;
}

static u32 there(u32 a, u32 b)
{
	u32 n = 0, level;

	for (u32 i = a; i < b; i++)
		n += tdm_pte_is(entry(BASE + P(i), &level), TDM_PTE_T_COHERENT);
	return n;
}

static u64 snapshot(u32 i)
{
	u64 e = 0;
	struct tdm_range_fault rf = { .start = BASE + P(i), .end = BASE + P(i + 1), .entry = &e, .owner = &pool };

	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	return e;
}

/* Each may be a nap; a busy machine, too, gets through all of them in TDM_WAKE_NS. */
#define WAKING 8u

/* Nothing can be placed until he who has caused an event runs again. */
TEST(there_when_somebody_has_been_woken)
{
	u64 n;

	begin();
	put_range(0, 100, 7);
	CHECK_EQ(tdmi_range_home(ctx, BASE, BASE + P(100), &n), 0);
	cpu.waking = WAKING;
	CHECK_EQ(to_device(0, 100), 100);
	CHECK_EQ(there(0, 100), 100);
	cpu.waking = WAKING;
	CHECK_EQ(to_ram(0, 100), 100);
	get_range(0, 100, 7);
	end();
}

/* Its node has no memory: nothing is taken. */
TEST(a_node_without_memory)
{
	u64 used;

	begin();
	end();
	start_with(0, PAGES, 2 * FRAMES);
	used = tdm_a64_ld_relaxed(&mm.frames.used);
	CHECK_EQ(tdmi_pool_init_coherent(&pool, &ops, NULL, &pool, 1024), 0);
	CHECK_EQ(pool.node, -1);
	pool.node = 1;
	CHECK_EQ(tdmi_pool_attach(&mm, &pool), -ENXIO);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), used);
	pool.node = 0;
	CHECK_EQ(tdmi_pool_attach(&mm, &pool), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), used + 1024);
	map(BASE, BASE + P(PAGES));
	put_range(0, 100, 7);
	CHECK_EQ(to_device(0, 100), 100);
	get_range(0, 100, 7);
	end();
}

TEST(there_and_back)
{
	begin();
	put_range(0, 100, 7);
	CHECK_EQ(to_device(0, 100), 100);
	CHECK_EQ(there(0, 100), 100);
	/* Mapped all the time, and written where they are. */
	for (u32 i = 0; i < 100; i++)
		CHECK(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT);
	get_range(0, 100, 7);
	put_range(0, 100, 9);
	CHECK_EQ(there(0, 100), 100);
	CHECK_EQ(snapshot(3) & (TDM_RF_VALID | TDM_RF_WRITE | TDM_RF_COHERENT | TDM_RF_FOREIGN), TDM_RF_VALID | TDM_RF_WRITE | TDM_RF_COHERENT);
	/* Reclaim does not see them. */
	CHECK_EQ(out_pages(BASE, BASE + P(100)), 0);
	CHECK_EQ(to_ram(10, 20), 10);
	CHECK_EQ(there(0, 100), 90);
	get_range(0, 100, 9);
	CHECK_EQ(out_pages(BASE + P(10), BASE + P(20)), 10);
	get_range(0, 100, 9);
	end();
	CHECK_EQ(freed, 100);
}

TEST(what_the_program_does_to_them)
{
	begin();
	put_range(0, 64, 1);
	CHECK_EQ(to_device(0, 64), 64);
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(16));
	CHECK_EQ(there(0, 64), 48);
	CHECK_EQ(freed, 16);
	map(BASE, BASE + P(16));
	CHECK_EQ(get(BASE + 8), 0);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(16), BASE + P(20));
	CHECK_EQ(get(BASE + P(17) + 8 * 17), 0);
	CHECK_EQ(there(0, 64), 44);
	get_range(20, 64, 1);
	end();
}

/* Where each page's frame is mapped, and what its folio is. */
static void check_folios(u32 a, u32 b)
{
	u32 level;

	for (u32 i = a; i < b; i++) {
		struct tdm_pte pte = entry(BASE + P(i), &level);
		struct tdm_frame *f;

		if (!tdm_pte_is(pte, TDM_PTE_T_COHERENT))
			continue;
		f = tdmi_dev_folio(&pool, tdm_pte_private_frame(pte));
		CHECK_EQ(f->va + P(tdm_pte_private_frame(pte) - tdm_frame_nr(&pool.frames, f)), BASE + P(i));
		CHECK_EQ(f->refcount, 1);
		CHECK_EQ(f->state, TDM_FRAME_LENT);
		CHECK(f->mapcount >= 1 && f->mapcount <= 1u << f->order);
		CHECK(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT);
	}
	CHECK(tdmi_frames_valid(&pool.frames));
}

static u32 order_of(u32 page)
{
	u32 level;

	return tdmi_dev_folio(&pool, tdm_pte_private_frame(entry(BASE + P(page), &level)))->order;
}

/* Moved they stay where they lie: single pages, a block as a whole, and parts of blocks, from anywhere to anywhere. */
TEST(moved)
{
	static const struct {
		u32 from, to, n;
		u32 blocks; /* that stay one */
	} how[] = {
		{ 32, 1024, 16, 1 }, { 32, 1024, 128, 8 }, { 32, 1000, 8, 0 }, { 35, 1000, 1, 0 }, { 32, 1001, 64, 0 }, { 40, 1032, 32, 1 }, { 32, 1024, 1, 0 },
	};

	for (u32 i = 0; i < TDM_ARRAY_SIZE(how); i++)
		for (u32 single = 0; single < 2; single++) {
			u32 from = how[i].from, to = how[i].to, n = how[i].n, blocks = 0;

			begin();
			put_range(0, 256, 1);
			for (u32 a = 0; a < 256; a += single ? 1 : 256)
				CHECK_EQ(to_device(a, a + (single ? 1 : 256)), single ? 1 : 256);
			tdmi_cpu_mremap(&cpu, ctx, BASE + P(from), BASE + P(to), P(n));
			CHECK_EQ(there(0, 256), 256 - n);
			CHECK_EQ(there(1000, 1280), n);
			CHECK_EQ(tdm_a64_ld_relaxed(&pool.pages), 256);
			CHECK_EQ(tdm_a64_ld_relaxed(&pool.frames.used), 256);
			check_folios(0, 256);
			check_folios(1000, 1280);
			check_counters();
			for (u32 k = to; k < to + n; k++)
				blocks += !(k % 16) && order_of(k) == TDM_BLOCK_ORDER;
			CHECK_EQ(blocks, single ? 0 : how[i].blocks);
			for (u32 k = 0; k < n; k++)
				CHECK_EQ(get(BASE + P(to + k) + 8 * ((from + k) % 512)), from + k + 1);
			get_range(0, from, 1);
			get_range(from + n, 256, 1);
			/* They are evicted from there, moved on, and unmapped. */
			CHECK_EQ(to_ram(to, to + n / 2), n / 2);
			tdmi_cpu_mremap(&cpu, ctx, BASE + P(to), BASE + P(2003), P(n));
			CHECK_EQ(there(2003, 2003 + n), n - n / 2);
			check_folios(2003, 2003 + n);
			for (u32 k = 0; k < n; k++)
				CHECK_EQ(get(BASE + P(2003 + k) + 8 * ((from + k) % 512)), from + k + 1);
			tdmi_cpu_munmap(&cpu, ctx, BASE + P(2003), BASE + P(2003 + n));
			CHECK_EQ(tdm_a64_ld_relaxed(&pool.frames.used), 256 - n);
			CHECK_EQ(freed, n);
			check_counters();
			end();
			CHECK_EQ(freed, 256);
		}
}

/* A block of which pages have gone before: what is not named any more is free. */
TEST(parts_of_a_block_are_moved)
{
	begin();
	put_range(0, 16, 1);
	CHECK_EQ(to_device(0, 16), 16);
	CHECK_EQ(to_ram(3, 5), 2);
	CHECK_EQ(to_ram(0, 1), 1);
	CHECK_EQ(tdm_a64_ld_relaxed(&pool.frames.used), 16);
	tdmi_cpu_mremap(&cpu, ctx, BASE, BASE + P(1024), P(8));
	CHECK_EQ(there(1024, 1032), 5);
	CHECK_EQ(there(0, 16), 8);
	CHECK_EQ(tdm_a64_ld_relaxed(&pool.frames.used), 13);
	CHECK_EQ(freed, 3);
	check_folios(0, 16);
	check_folios(1024, 1032);
	check_counters();
	end();
	CHECK_EQ(freed, 16);
}

/* A fork's mark goes with them. */
TEST(moved_after_a_fork)
{
	begin();
	put_range(0, 32, 2);
	CHECK_EQ(to_device(0, 32), 32);
	tdmi_coherent_before_fork(ctx);
	for (u32 i = 0; i < 32; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	tdmi_cpu_mremap(&cpu, ctx, BASE, BASE + P(1024), P(24));
	CHECK_EQ(there(1024, 1048), 24);
	CHECK_EQ(snapshot(1030) & (TDM_RF_VALID | TDM_RF_WRITE | TDM_RF_COHERENT), TDM_RF_VALID | TDM_RF_COHERENT);
	CHECK_EQ(snapshot(1042) & (TDM_RF_VALID | TDM_RF_WRITE | TDM_RF_COHERENT), TDM_RF_VALID | TDM_RF_COHERENT);
	CHECK_EQ(to_ram(1024, 1048), 0);
	CHECK_EQ(there(1024, 1048), 0);
	end();
}

/* What is pinned goes with its block. A part of that becomes ram: the pin holds the frame. */
TEST(moved_while_pinned)
{
	struct tdm_pfn page[2];
	u32 done;

	begin();
	put_range(0, 32, 2);
	CHECK_EQ(to_device(0, 32), 32);
	CHECK_EQ(tdmi_pin(ctx, BASE + P(3), 1, 0, page, &done), 0);
	tdmi_cpu_mremap(&cpu, ctx, BASE, BASE + P(1024), P(16));
	CHECK_EQ(there(1024, 1040), 16);
	CHECK_EQ(to_ram(1024, 1040), 0);
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(1024), BASE + P(1104), P(8));
	CHECK_EQ(there(1104, 1112), 0);
	CHECK_EQ(there(1032, 1040), 8);
	for (u32 k = 0; k < 8; k++)
		CHECK_EQ(get(BASE + P(1104 + k) + 8 * k), k + 2);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(1032), BASE + P(1040));
	CHECK_EQ(freed, 0);
	tdmi_unpin(ctx, page, 1);
	CHECK_EQ(freed, 16);
	end();
}

TEST(pins)
{
	struct tdm_pfn page[20];
	u32 done;

	begin();
	put_range(0, 32, 5);
	CHECK_EQ(to_device(0, 32), 32);
	/* For short, in place: then it is not evicted meanwhile. */
	CHECK_EQ(tdmi_pin(ctx, BASE + P(2), 4, TDM_GUP_WRITE, page, &done), 0);
	CHECK_EQ(done, 4);
	CHECK_EQ(there(0, 32), 32);
	CHECK_EQ(to_ram(0, 32), 16);
	CHECK_EQ(there(0, 16), 16);
	tdmi_unpin(ctx, page, 4);
	/* For long, in ram. */
	CHECK_EQ(tdmi_pin(ctx, BASE + P(2), 4, TDM_GUP_WRITE | TDM_GUP_LONGTERM, page, &done), 0);
	CHECK_EQ(done, 4);
	CHECK_EQ(there(2, 6), 0);
	CHECK_EQ(to_device(0, 16), 0);
	tdmi_unpin(ctx, page, 4);
	get_range(0, 32, 5);
	/* Unmapped while it is pinned: freed by who unpins. */
	(void)to_device(0, 32);
	CHECK_EQ(there(0, 32), 32);
	freed = 0;
	CHECK_EQ(tdmi_pin(ctx, BASE + P(20), 2, 0, page, &done), 0);
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(32));
	CHECK(freed < 32);
	tdmi_unpin(ctx, page, 2);
	/* Two folios of 16, of which one had lost four pages, and those. */
	CHECK_EQ(freed, 36);
	end();
}

/* The kernel copies what is written. */
TEST(forks)
{
	begin();
	put_range(0, 16, 2);
	CHECK_EQ(to_device(0, 16), 16);
	tdmi_coherent_before_fork(ctx);
	for (u32 i = 0; i < 16; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	/* Who only reads takes nothing away. */
	CHECK_EQ(snapshot(1) & (TDM_RF_VALID | TDM_RF_WRITE | TDM_RF_COHERENT), TDM_RF_VALID | TDM_RF_COHERENT);
	CHECK_EQ(there(0, 16), 16);
	CHECK_EQ(tdm_a64_ld_relaxed(&pool.copied), 0);
	/* Who writes does. */
	u64 e = TDM_RF_REQ_FAULT | TDM_RF_REQ_WRITE;
	struct tdm_range_fault rf = { .start = BASE + P(1), .end = BASE + P(2), .entry = &e, .owner = &pool, .flags_mask = TDM_RF_STICKY };
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK(e & TDM_RF_WRITE);
	CHECK(!(e & TDM_RF_COHERENT));
	CHECK_EQ(there(0, 16), 15);
	CHECK_EQ(tdm_a64_ld_relaxed(&pool.copied), 1);
	/* So does eviction, which finds them shared. */
	CHECK_EQ(to_ram(0, 16), 0);
	CHECK_EQ(there(0, 16), 0);
	get_range(0, 16, 2);
	end();
}

static struct tdm_port_ops port_ops;
static const struct tdm_port_ops *below;
static u32 again; /* so many of the next calls that unshare are each followed by a fork */

static void fork_now(u32 a, u32 b)
{
	tdmi_mm_freeze(&mm);
	tdmi_coherent_before_fork(ctx);
	for (u32 i = a; i < b; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) |= TDM_CPU_SHARED;
	tdmi_mm_thaw(&mm);
}

static int unshare(struct tdm_port *p, struct tdm_va va, u32 n)
{
	int r = below->unshare(p, va, n);

	if (again) {
		again--;
		fork_now((u32)((va.v - BASE) >> TDM_PAGE_SHIFT), (u32)((va.v - BASE) >> TDM_PAGE_SHIFT) + n);
	}
	return r;
}

/* What is to be written, or pinned for that, is not taken for the process's own if there was another fork meanwhile. What was shared is a copy in ram. */
TEST(forks_and_again)
{
	u64 e = TDM_RF_REQ_FAULT | TDM_RF_REQ_WRITE;
	struct tdm_range_fault rf = { .start = BASE + P(20), .end = BASE + P(21), .entry = &e, .owner = &pool, .flags_mask = TDM_RF_STICKY };
	struct tdm_pfn page[4];
	u32 done;

	begin();
	CHECK(tdmi_mm_enter(ctx));
	below = cpu.port.ops;
	port_ops = *below;
	port_ops.unshare = unshare;
	cpu.port.ops = &port_ops;
	put_range(0, 32, 2);
	CHECK_EQ(to_device(0, 32), 32);
	tdmi_mm_exit(ctx);
	fork_now(0, 32);
	CHECK(tdmi_mm_enter(ctx));
	again = 2;
	CHECK_EQ(tdmi_pin(ctx, BASE + P(2), 4, TDM_GUP_WRITE, page, &done), 0);
	CHECK_EQ(done, 4);
	CHECK_EQ(there(0, 32), 28);
	for (u32 i = 2; i < 6; i++)
		CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_SHARED));
	tdmi_unpin(ctx, page, 4);
	again = 2;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK(e & TDM_RF_WRITE);
	CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(20)) & TDM_CPU_SHARED));
	CHECK_EQ(there(0, 32), 27);
	tdmi_mm_exit(ctx);
	get_range(0, 32, 2);
	cpu.port.ops = below;
	end();
}

TEST(full)
{
	u64 n;

	begin();
	put_range(0, 1200, 3);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &pool, BASE, BASE + P(1200), &n), -ENOSPC);
	CHECK_EQ(n, 1024);
	CHECK_EQ(there(0, 1200), 1024);
	get_range(0, 1200, 3);
	end();
}

TEST(full_to_the_last_page)
{
	u64 n;

	begin();
	put_range(0, 1200, 3);
	CHECK_EQ(to_device(1199, 1200), 1);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &pool, BASE, BASE + P(1100), &n), -ENOSPC);
	CHECK_EQ(n, 1023);
	CHECK_EQ(there(0, 1200), 1024);
	get_range(0, 1200, 3);
	end();
}
