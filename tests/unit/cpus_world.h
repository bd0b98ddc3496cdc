/* SPDX-License-Identifier: MIT */
/*
 * cpus_world.h - CPUs over spaces without an engine: tables that the test writes, and a fault that fills in what the test says is mapped.
 *
 * A space has SMALL pages of 4 KiB at BASE, and HUGE leaves of 2 MiB at BASE_HUGE. Frames are the test's to give.
 */
#ifndef CPUS_WORLD_H
#define CPUS_WORLD_H

#include <string.h>
#include "base/bitops.h"
#include "port/cpus.h"
#include "t.h"

#define SPACES 12u
#define SMALL 64u
#define HUGE 3u
#define BASE ((u64)1 << 32)
#define BASE_HUGE ((u64)1 << 34)
#define FRAMES (12 * TDM_HUGE_PAGES) /* the first 8 huge ones, then small ones */
#define FIRST 1024u                  /* pfn */

#define ALL_SIZES ((u64)1 << 12 | (u64)1 << 21 | (u64)1 << 30)
#define HW (TDM_WALK_HW_A | TDM_WALK_HW_D)

/* A mapping, as the test wants it. */
struct mapping {
	bool mapped, writable;
	u64 pfn;
};

static struct tdm_world world;
static struct tdm_cpus cpus;
static struct tdm_rcu_reader *reader;
static struct tdm_space space[SPACES];
static struct mapping want[SPACES][SMALL + HUGE];
static u32 faults;

static u64 va_of(u32 m)
{
	return m < SMALL ? BASE + ((u64)m << TDM_PAGE_SHIFT) : BASE_HUGE + (u64)(m - SMALL) * TDM_HUGE_SIZE;
}

static inline u32 shift_of(u32 m)
{
	return m < SMALL ? 12 : 21;
}

static u32 mapping_at(u64 va)
{
	return va < BASE_HUGE ? (u32)((va - BASE) >> 12) : SMALL + (u32)((va - BASE_HUGE) >> 21);
}

/* Its entry, in a table that is locked. */
static struct tdm_pt *entry_lock(struct tdm_space *s, u32 m, u32 *i)
{
	struct tdm_pt *pt;

	tdmi_rcu_read_lock(reader);
	CHECK_EQ(m < SMALL ? tdmi_pt_lock(&s->pgt, va_of(m), true, &pt) : tdmi_pt_lock_pmd(&s->pgt, va_of(m), &pt), 0);
	tdmi_rcu_read_unlock(reader);
	*i = tdm_pt_index(pt, va_of(m));
	return pt;
}

static struct tdm_pte entry(struct tdm_space *s, u32 m)
{
	u32 i;
	struct tdm_pt *pt = entry_lock(s, m, &i);
	struct tdm_pte pte = tdm_pt_get(pt, i);

	tdm_pt_unlock(pt);
	return pte;
}

static struct tdm_pte entry_xchg(struct tdm_space *s, u32 m, struct tdm_pte to)
{
	u32 i;
	struct tdm_pt *pt = entry_lock(s, m, &i);
	struct tdm_pte was = tdm_pt_xchg(pt, i, to);

	tdm_pt_unlock(pt);
	return was;
}

static int fault(struct tdm_space *s, struct tdm_rcu_reader *r, u64 va, enum tdm_access access)
{
	u32 m = mapping_at(va), i;
	struct mapping *w = &want[s->id][m < SMALL + HUGE ? m : 0];
	bool write = access == TDM_ACCESS_WRITE;
	struct tdm_pt *pt;

	CHECK(r == cpus.reader && !tdmi_rcu_read_held(r));
	faults++;
	if (m >= SMALL + HUGE || !w->mapped || (write && !w->writable))
		return -EFAULT;
	pt = entry_lock(s, m, &i);
	if (tdm_pte_none(tdm_pt_get(pt, i)))
		tdm_pt_set(pt, i, tdm_pte_mk((struct tdm_pfn){ w->pfn }, w->writable ? TDM_PTE_WRITE : 0));
	tdm_pt_change(pt, i, (w->writable ? TDM_PTE_WRITE : 0) | TDM_PTE_ACCESSED | (write ? TDM_PTE_DIRTY : 0), 0);
	tdm_pt_unlock(pt);
	return 0;
}

static void space_make(u32 id)
{
	struct tdm_space *s = &space[id];

	*s = (struct tdm_space){ .w = &world, .id = id };
	s->pgt = (struct tdm_pgt){ .alloc = &world.alloc, .rcu = &world.rcu };
	CHECK_EQ(tdmi_pt_init(&s->pgt), 0);
	memset(want[id], 0, sizeof(want[id]));
}

static void space_unmake(u32 id)
{
	tdmi_pt_destroy(&space[id].pgt);
}

static struct tdm_cpus_config config_make(u32 n, u32 asids, enum tdm_flush_means means)
{
	return (struct tdm_cpus_config){
		.n = n, .asids = asids, .caps = HW, .page_sizes = ALL_SIZES, .means = means, .ceiling = 33, .broadcast_pages = 1, .fault = fault,
		.tlb = { .level = { { { 4, 2 }, { 1, 2 }, { 0, 0 } }, { { 16, 4 }, { 0, TDM_TLB_WITH_4K }, { 0, 0 } } } },
	};
}

static void setup(const struct tdm_cpus_config *config)
{
	tdmi_alloc_init(&world.alloc);
	tdmi_rcu_init(&world.rcu);
	reader = tdmi_rcu_register(&world.rcu);
	world.phys.nranges = 1;
	world.phys.range[0] = (struct tdm_mem_range){ .first = FIRST, .n = FRAMES, .bytes = plat_map((size_t)FRAMES << TDM_PAGE_SHIFT) };
	CHECK(world.phys.range[0].bytes);
	CHECK_EQ(tdmi_cpus_init(&cpus, config), 0);
	CHECK_EQ(tdmi_cpus_attach(&cpus, &world), 0);
	for (u32 i = 0; i < SPACES; i++)
		space_make(i);
	faults = 0;
}

static void teardown(void)
{
	tdmi_cpus_detach(&cpus);
	tdmi_cpus_destroy(&cpus);
	for (u32 i = 0; i < SPACES; i++)
		space_unmake(i);
	plat_unmap(world.phys.range[0].bytes, (size_t)FRAMES << TDM_PAGE_SHIFT);
	tdmi_rcu_unregister(reader);
	CHECK_EQ(tdmi_alloc_used(&world.alloc), 0);
	tdmi_alloc_destroy(&world.alloc);
}

static inline void flush(u32 cpu, u32 id, u64 start, u64 end, u32 shift)
{
	cpus.current = cpu;
	tdmi_cpus_tlb_ops.flush(&cpus, &space[id], start, end, shift);
}

/* Page m of the space is small frame m + 512 * 8 of the machine. */
static inline void map_small(u32 id, u32 m)
{
	want[id][m] = (struct mapping){ true, true, FIRST + 8 * TDM_HUGE_PAGES + id * SMALL + m };
}

static inline struct tdm_cpu_stats stats(u32 cpu)
{
	struct tdm_cpu_stats st;

	tdmi_cpus_stats(&cpus, cpu, &st);
	return st;
}

/* Where the cycles went is where the clock is. */
static inline void check_clocks(void)
{
	for (u32 cpu = 0; cpu < cpus.config.n; cpu++) {
		struct tdm_cpu_stats st = stats(cpu);
		u64 sum = 0;

		for (u32 i = 0; i < TDM_CYC_NR; i++)
			sum += st.cycles[i];
		CHECK_EQ(sum, cpus.core[cpu].clock);
	}
}

#endif
