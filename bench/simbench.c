/* SPDX-License-Identifier: MIT */
/*
 * simbench - how many accesses a second the CPUs of a simulated machine make.
 *
 *   simbench [MILLIONS]
 *
 * One simulated CPU with a TLB of 64 and 1536 entries for 4 KiB, 32 and (among the 1536) for 2 MiB. Loads and stores of eight bytes in turn, at random addresses of a working
 * set that is all mapped: within the first level's reach, within the second's, and ten times that; the last once more without the bytes, whose way from this machine's memory is
 * the larger part of what takes time there, and with addresses that are known eight accesses before. A row each: what it is, millions of accesses a second of CPU time (median and
 * the largest of 7 rounds of MILLIONS accesses, default 2), and walks for each access. Tables and fault are made here: no engine is in it.
 */
#include "bench.h"
#include "mm/space.h"
#include "port/cpus.h"

#define ROUNDS 7
#define BATCH 256u
#define AHEAD 8u
#define REACH 1536u /* pages */
#define BASE ((uint64_t)1 << 32)
#define SMALL_PAGES (10u * REACH)
#define HUGE_LEAVES 24u

static struct tdm_world world;
static struct tdm_cpus cpus;
static struct tdm_space space;

static int no_fault(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, enum tdm_access access)
{
	(void)s;
	(void)reader;
	(void)access;
	fprintf(stderr, "simbench: nothing is mapped at 0x%llx\n", (unsigned long long)va);
	exit(1);
}

static const struct tdm_cpus_config config = {
	.n = 1, .asids = 6, .caps = TDM_WALK_HW_A | TDM_WALK_HW_D, .page_sizes = (u64)1 << 12 | (u64)1 << 21, .means = TDM_FLUSH_IPI, .ceiling = 33,
	.broadcast_pages = 1, .one_thread = true, .fault = no_fault,
	.tlb = { .level = { { { 16, 4 }, { 8, 4 }, { 0, 0 } }, { { 128, 12 }, { 0, TDM_TLB_WITH_4K }, { 0, 0 } } } },
	.cost = { .access = 1, .tlb_l2_hit = 7, .walk_read = 20, .walk_set = 10 },
};

static void check(int r)
{
	if (r) {
		errno = -r;
		die("simbench");
	}
}

/* Small pages from BASE on, and leaves of 2 MiB 1 GiB further on; all of them one after the other in memory. */
static void setup(void)
{
	struct tdm_rcu_reader *reader;
	u64 pfn = 0, n = HUGE_LEAVES * TDM_HUGE_PAGES + SMALL_PAGES;
	struct tdm_pt *pt;

	tdmi_alloc_init(&world.alloc);
	tdmi_rcu_init(&world.rcu);
	reader = tdmi_rcu_register(&world.rcu);
	world.phys.nranges = 1;
	world.phys.range[0] = (struct tdm_mem_range){ .n = n, .bytes = plat_map(n << TDM_PAGE_SHIFT) };
	if (!world.phys.range[0].bytes)
		check(-ENOMEM);
	memset(world.phys.range[0].bytes, 1, n << TDM_PAGE_SHIFT);
	space = (struct tdm_space){ .w = &world, .id = 1, .pgt = { .alloc = &world.alloc, .rcu = &world.rcu } };
	check(tdmi_pt_init(&space.pgt));
	tdmi_rcu_read_lock(reader);
	for (u64 i = 0; i < HUGE_LEAVES; i++, pfn += TDM_HUGE_PAGES) {
		u64 va = BASE + ((u64)1 << 30) + i * TDM_HUGE_SIZE;

		check(tdmi_pt_lock_pmd(&space.pgt, va, &pt));
		tdm_pt_set(pt, tdm_pt_index(pt, va), tdm_pte_mk((struct tdm_pfn){ pfn }, TDM_PTE_WRITE));
		tdm_pt_unlock(pt);
	}
	for (u64 i = 0; i < SMALL_PAGES; i++, pfn++) {
		u64 va = BASE + i * PAGE;

		check(tdmi_pt_lock(&space.pgt, va, true, &pt));
		tdm_pt_set(pt, tdm_pt_index(pt, va), tdm_pte_mk((struct tdm_pfn){ pfn }, TDM_PTE_WRITE));
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(reader);
	check(tdmi_cpus_init(&cpus, &config));
	check(tdmi_cpus_attach(&cpus, &world));
	check(tdmi_cpus_switch(&cpus, 0, &space));
}

/* Nanoseconds of CPU time for n accesses to [start, start + len), with their bytes or without. */
static uint64_t run(uint64_t start, uint64_t len, uint64_t n, bool bytes, uint64_t *seed)
{
	uint64_t began = thread_cpu_ns(), value = 0;

	for (uint64_t i = 0; i < n; i += 2) {
		uint64_t r = rand64(seed), a = start + ((r & 0xffffffff) * (len / 8) >> 32) * 8, b = start + ((r >> 32) * (len / 8) >> 32) * 8;

		check(bytes ? tdm_cpus_load(&cpus, 0, a, &value) : tdmi_cpus_touch(&cpus, 0, a, false));
		check(bytes ? tdm_cpus_store(&cpus, 0, b, value + i) : tdmi_cpus_touch(&cpus, 0, b, true));
	}
	return thread_cpu_ns() - began;
}

/* The same with addresses that are known some accesses before, as those of `tandem sim` are (src/sim/agent.c). */
static uint64_t run_ahead(uint64_t start, uint64_t len, uint64_t n, uint64_t *seed)
{
	uint64_t began = thread_cpu_ns(), value = 0, va[BATCH];

	for (uint64_t i = 0; i < n; i += BATCH) {
		for (uint32_t k = 0; k < BATCH; k++)
			va[k] = start + ((rand64(seed) >> 32) * (len / 8) >> 32) * 8;
		for (uint32_t k = 0; k < BATCH; k++) {
			if (k + AHEAD < BATCH)
				tdmi_cpus_ahead(&cpus, 0, va[k + AHEAD]);
			check(k & 1 ? tdm_cpus_store(&cpus, 0, va[k], value + i) : tdm_cpus_load(&cpus, 0, va[k], &value));
		}
	}
	return thread_cpu_ns() - began;
}

static void row(const char *name, uint64_t start, uint64_t len, bool bytes, bool ahead, uint64_t n)
{
	struct tdm_cpu_stats before, after;
	double speed[ROUNDS];
	uint64_t seed = 1;

	run(start, len, n / 4, bytes, &seed);
	tdmi_cpus_stats(&cpus, 0, &before);
	for (int i = 0; i < ROUNDS; i++)
		speed[i] = (double)n * 1e3 / (double)(ahead ? run_ahead(start, len, n, &seed) : run(start, len, n, bytes, &seed));
	tdmi_cpus_stats(&cpus, 0, &after);
	qsort(speed, ROUNDS, sizeof(*speed), ascending);
	printf("%-28s %8.1f %8.1f M/s  %.3f walks\n", name, speed[ROUNDS / 2], speed[ROUNDS - 1],
	       (double)(after.walks - before.walks) / (double)(after.accesses - before.accesses));
}

int main(int argc, char **argv)
{
	uint64_t n = (argc > 1 ? strtoull(argv[1], NULL, 10) : 2) * 1000000;

	if (!n) {
		fprintf(stderr, "usage: simbench [MILLIONS]\n");
		return 2;
	}
	setup();
	row("first level, 4 KiB", BASE, 48 * PAGE, true, false, n);
	row("first level, 2 MiB", BASE + ((u64)1 << 30), 24 * TDM_HUGE_SIZE, true, false, n);
	row("second level, 4 KiB", BASE, 1024 * PAGE, true, false, n);
	row("ten times the reach", BASE, SMALL_PAGES * PAGE, true, false, n);
	row("ten times, without bytes", BASE, SMALL_PAGES * PAGE, false, false, n);
	row("ten times, looking ahead", BASE, SMALL_PAGES * PAGE, true, true, n);
	return 0;
}
