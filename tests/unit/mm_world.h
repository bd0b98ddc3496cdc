/* SPDX-License-Identifier: MIT */
/* mm_world.h - an engine to begin with and to end with, and what tests do to it. */
#ifndef TDM_TESTS_MM_WORLD_H
#define TDM_TESTS_MM_WORLD_H

#include "mm_oracle.h"

#define PAGES 4096u
#define FRAMES (2 * PAGES)
#define LIMIT_NONE ~(u64)0
#define KEEP ((u64)16 << 20)

static inline void start_with(u64 tier_limit, u32 npages, u32 nframes)
{
	struct tdm_tier *tier;
	struct tdm_swap *swap;

	tdmi_tiers_init(NULL);
	CHECK_EQ(tdmi_cpu_init(&cpu, BASE, npages, nframes), 0);
	CHECK_EQ(tdmi_tier_mem_create(TDM_CODEC_LZ4, tier_limit, &tier), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	tdmi_swap_keep_limit(swap, KEEP);
	CHECK_EQ(tdmi_mm_init(&mm, &cpu.port, cpu.arena, nframes, swap), 0);
	ctx = tdmi_ctx_create(&mm);
	CHECK(ctx != NULL);
	ctx->may_wait = true;
}

static inline void start(void)
{
	start_with(0, PAGES, FRAMES);
}

static inline void finish(void)
{
	check_counters();
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(cpu.npages));
	while (tdmi_trim(ctx))
		;
	check_counters();
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.home), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.stale), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 0);
	CHECK_EQ(tdmi_cpu_populated(&cpu), 0);
	swap_pages(0);
	tdmi_ctx_destroy(ctx);
	tdmi_mm_destroy(&mm);
	tdmi_cpu_destroy(&cpu);
}

/* ---- helpers -------------------------------------------------------------------------------------------------------------- */

static inline void map(u64 start, u64 end)
{
	CHECK_EQ(tdmi_cpu_mmap(&cpu, ctx, start, end, false), 0);
}

static inline void put(u64 va, u64 x)
{
	CHECK_EQ(tdmi_cpu_write(&cpu, ctx, va, &x, sizeof(x)), 0);
}

static inline u64 get(u64 va)
{
	u64 x = 0x1234;

	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, va, &x, sizeof(x)), 0);
	return x;
}

/* Pages [a, b) from BASE hold their own number plus add. */
static inline void put_range(u32 a, u32 b, u64 add)
{
	for (u32 i = a; i < b; i++)
		put(BASE + P(i) + 8 * (i % 512), i + add);
}

static inline void get_range(u32 a, u32 b, u64 add)
{
	for (u32 i = a; i < b; i++)
		CHECK_EQ(get(BASE + P(i) + 8 * (i % 512)), i + add);
}

static inline u64 home_pages(u64 start, u64 end)
{
	u64 n;

	CHECK_EQ(tdmi_range_home(ctx, start, end, &n), 0);
	return n;
}

static inline u64 out_pages(u64 start, u64 end)
{
	u64 n;

	CHECK_EQ(tdmi_range_out(ctx, start, end, &n), 0);
	return n;
}

static inline void adopt(u64 start, u64 end)
{
	plat_mutex_lock(&mm.event_lock);
	CHECK_EQ(tdmi_adopt(ctx, start, end), 0);
	plat_mutex_unlock(&mm.event_lock);
}

static inline struct tdm_pte entry(u64 va, u32 *level)
{
	struct tdm_pte pte;
	struct tdm_pt *pt;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(&mm.pgt, va, &i, &pte);
	*level = pt->level;
	tdmi_rcu_read_unlock(ctx->rcu);
	return pte;
}

#endif
