// SPDX-License-Identifier: MIT
/*
 * test_cpus_space.c - CPUs in address spaces that the engine manages: several processes on several CPUs, which map, unmap, fork and exit, while their pages
 * are reclaimed and moved; every byte read is the last one written.
 *
 * TLBs are flushed only where and when cpus.c thinks that it is necessary; the engine defers what cpus.c says is worth it. tests/fuzz has scripts of all
 * that can be done to spaces.
 */
#include "base/bitops.h"
#include "mm/migrate_page.h"
#include "mm/space.h"
#include "mm/vmscan.h"
#include "pool/tier.h"
#include "port/cpus.h"
#include "t.h"

#define PROCS 6u
#define PAGES 64u
#define BASE ((u64)1 << 32)
#define RAM 512u
#define RW (TDM_V_READ | TDM_V_WRITE)

static struct proc {
	struct tdm_space *s;
	bool mapped[PAGES], writable[PAGES];
	u64 value[PAGES];
} proc[PROCS];

static struct tdm_world world;
static struct tdm_cpus cpus;
static struct tdm_rcu_reader *reader;
static u32 coherent;
static u64 rng, stamp;

static u32 below(u64 n)
{
	return (u32)(t_rand(&rng) % n);
}

static u64 at(u32 page)
{
	return BASE + page * TDM_PAGE_SIZE;
}

static void setup(u32 n, u32 asids, enum tdm_flush_means means, u32 caps)
{
	struct tdm_cpus_config config = {
		.n = n, .asids = asids, .caps = caps, .page_sizes = TDM_PAGE_SIZE | TDM_HUGE_SIZE, .means = means, .ceiling = 33, .broadcast_pages = 1,
		.one_thread = true, .fault = tdmi_space_fault,
		.tlb = { .level = { { { 4, 4 }, { 1, 4 }, { 0, 0 } }, { { 32, 4 }, { 0, TDM_TLB_WITH_4K }, { 0, 0 } } } },
		.cost = { .access = 1, .walk_read = 20, .ipi_send = 100, .ipi_handle = 500, .work = { [TDM_WORK_FAULT] = 1000 } },
	};
	struct tdm_tier *tier;
	struct tdm_swap *swap;
	char err[200];

	CHECK_EQ(tdmi_tier_create("lz4", &tier, err, sizeof(err)), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	CHECK_EQ(tdmi_cpus_init(&cpus, &config), 0);
	CHECK_EQ(tdmi_world_init(&world, RAM, &tdmi_cpus_tlb_ops, &cpus, swap), 0);
	CHECK_EQ(tdmi_phys_add(&world.phys, TDM_MEM_COHERENT, 512, &coherent), 0);
	CHECK_EQ(tdmi_cpus_attach(&cpus, &world), 0);
	reader = tdmi_rcu_register(&world.rcu);
	memset(proc, 0, sizeof(proc));
	CHECK_EQ(tdmi_space_create(&world, &proc[0].s), 0);
}

static void proc_exit(struct proc *p)
{
	for (u32 cpu = 0; cpu < cpus.config.n; cpu++)
		if (cpus.core[cpu].s == p->s)
			tdmi_cpus_idle(&cpus, cpu);
	tdmi_cpus_forget(&cpus, p->s);
	tdmi_space_destroy(p->s, reader);
	memset(p, 0, sizeof(*p));
	(void)tdmi_rcu_poll(&world.rcu);
}

static void teardown(void)
{
	for (u32 i = 0; i < PROCS; i++)
		if (proc[i].s)
			proc_exit(&proc[i]);
	tdmi_rcu_drain(&world.rcu);
	CHECK_EQ(tdmi_phys_used(&world.phys, world.ram), 1); /* the page of zeros */
	CHECK_EQ(tdmi_phys_used(&world.phys, coherent), 0);
	tdmi_cpus_detach(&cpus);
	tdmi_rcu_unregister(reader);
	tdmi_world_destroy(&world);
	tdmi_cpus_destroy(&cpus);
}

/* ---- what a process does ---------------------------------------------------------------------------------------------------- */

/* A CPU, which runs it now. */
static u32 on_cpu(struct proc *p)
{
	u32 cpu = below(cpus.config.n);

	if (cpus.core[cpu].s != p->s || cpus.core[cpu].lazy)
		CHECK_EQ(tdmi_cpus_switch(&cpus, cpu, p->s), 0);
	return cpu;
}

static void access_one(struct proc *p, u32 cpu)
{
	u32 page = below(PAGES);
	u64 va, x = 0;
	int r;

	if (below(2)) {
		r = tdm_cpus_load(&cpus, cpu, at(page), &x);
		CHECK(r == (p->mapped[page] ? 0 : -EFAULT) || r == -ENOMEM);
		if (!r)
			CHECK_EQ(x, p->value[page]);
		return;
	}
	/* All four words, of which one is read later. */
	for (va = at(page); va < at(page) + 32; va += 8) {
		r = tdm_cpus_store(&cpus, cpu, va, stamp + 1);
		CHECK(r == (p->mapped[page] && p->writable[page] ? 0 : -EFAULT) || r == -ENOMEM);
		if (r)
			return;
		if (va == at(page))
			p->value[page] = stamp + 1;
	}
	stamp++;
}

static void proc_fork(struct proc *p)
{
	struct proc *child = &proc[below(PROCS)];
	struct tdm_space *s;

	if (child->s || tdmi_space_fork(p->s, reader, &s))
		return;
	*child = *p;
	child->s = s;
}

static void change(struct proc *p)
{
	u32 page = below(PAGES), n = 1 + below(TDM_MIN(PAGES - page, 40u)), what = below(100);
	u64 start = at(page), len = n * TDM_PAGE_SIZE;
	bool writable = below(3), whole = true;

	cpus.current = on_cpu(p);
	if (what < 30) {
		CHECK_EQ(tdmi_mmap(p->s, reader, start, len, writable ? RW : TDM_V_READ), 0);
		for (u32 i = page; i < page + n; i++) {
			p->mapped[i] = true;
			p->writable[i] = writable;
			p->value[i] = 0;
		}
	} else if (what < 45) {
		CHECK_EQ(tdmi_munmap(p->s, reader, start, len), 0);
		memset(&p->mapped[page], 0, n);
	} else if (what < 60) {
		for (u32 i = page; i < page + n; i++)
			whole = whole && p->mapped[i];
		if (whole) {
			CHECK_EQ(tdmi_mprotect(p->s, reader, start, len, writable ? RW : TDM_V_READ), 0);
			memset(&p->writable[page], writable, n);
		}
	} else if (what < 70) {
		CHECK_EQ(tdmi_madvise_dontneed(p->s, reader, start, len), 0);
		memset(&p->value[page], 0, n * sizeof(p->value[0]));
	} else if (what < 80) {
		proc_fork(p);
	} else if (what < 85) {
		if (p != &proc[0])
			proc_exit(p);
	} else if (what < 92) {
		(void)tdmi_migrate_range(p->s, reader, start, start + len, below(2) ? coherent : world.ram);
	}
}

/* Reclaim runs on any CPU, as a thread of the kernel. */
static void reclaim(void)
{
	u32 cpu = below(cpus.config.n);

	if (below(2))
		tdmi_cpus_idle(&cpus, cpu);
	cpus.current = cpu;
	if (below(4))
		(void)tdmi_vmscan(&world, reader, 1 + below(64), 1 + below(200));
	else
		tdmi_vmscan_age(&world);
}

static void run(u32 rounds)
{
	stamp = 0;
	for (u32 k = 0; k < rounds; k++) {
		struct proc *p = &proc[below(PROCS)];
		u32 what = below(100), cpu;

		if (what < 3) {
			reclaim();
			continue;
		}
		if (!p->s)
			continue;
		if (what < 10) {
			change(p);
			continue;
		}
		cpu = on_cpu(p);
		for (u32 i = below(20); i--;)
			access_one(p, cpu);
	}
}

static void all(enum tdm_flush_means means)
{
	static const u32 n[] = { 1, 3, 8 };
	u32 rounds = t_slow() ? 3000 : 20000;

	rng = t_seed();
	for (u32 i = 0; i < 9; i++) {
		u32 cpu = n[i % 3], asids = i / 3 == 0 ? 0 : i / 3 == 1 ? 9 : 1000;
		u32 caps = i % 2 ? TDM_WALK_HW_A | TDM_WALK_HW_D : i == 4 ? 0 : TDM_WALK_HW_A;
		u64 sum = 0;
		struct tdm_cpu_stats st;

		setup(cpu, asids, means, caps);
		world.policy = (struct tdm_tlb_policy){ .batch = i % 4 != 1, .batch_secondary = i % 4 != 1 };
		run(rounds);
		tdmi_cpus_stats(&cpus, ~0u, &st);
		CHECK(st.tlb_hits[0] > rounds / 4 && st.flushed > rounds / 200 && st.work[TDM_WORK_FAULT] > rounds / 200);
		CHECK(cpu == 1 || means == TDM_FLUSH_LOCAL || st.flushes[means] > rounds / 1000);
		CHECK(tdm_world_counted(&world, TDM_SC_SWAPPED_OUT) > rounds / 200);
		for (u32 k = 0; k < TDM_CYC_NR; k++)
			sum += st.cycles[k];
		for (u32 k = 0; k < cpu; k++)
			sum -= cpus.core[k].clock;
		CHECK_EQ(sum, 0);
		teardown();
	}
}

TEST(ipi, .seconds = 120)
{
	all(TDM_FLUSH_IPI);
}

TEST(broadcast, .seconds = 120)
{
	all(TDM_FLUSH_BROADCAST);
}

TEST(ideal, .seconds = 120)
{
	all(TDM_FLUSH_LOCAL);
}

/* ---- determinism: nothing that differs between two runs decides anything */

static u64 digest(void)
{
	struct tdm_cpu_stats st;
	u64 sum = 0;

	rng = 77;
	setup(4, 7, TDM_FLUSH_IPI, TDM_WALK_HW_A | TDM_WALK_HW_D);
	world.policy = (struct tdm_tlb_policy){ .batch = true, .batch_secondary = true };
	run(10000);
	for (u32 cpu = 0; cpu < 4; cpu++) {
		tdmi_cpus_stats(&cpus, cpu, &st);
		for (size_t i = 0; i < sizeof(st) / sizeof(u64); i++)
			sum = sum * 6364136223846793005u + ((u64 *)&st)[i];
		sum += cpus.core[cpu].clock;
	}
	sum ^= rng;
	teardown();
	return sum;
}

TEST(two_runs_are_one)
{
	u64 first = digest();
	void *moved = plat_map(TDM_PAGE_SIZE * 1000); /* the second one is elsewhere in memory */

	CHECK(moved);
	CHECK_EQ(digest(), first);
	plat_unmap(moved, TDM_PAGE_SIZE * 1000);
}
