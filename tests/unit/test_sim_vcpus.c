/* SPDX-License-Identifier: MIT */
/*
 * test_sim_vcpus.c - the TLBs between vCPUs and their second-stage table: nothing that was taken out of the table is ever used by way of a TLB, whatever the
 * CPU did meanwhile; and what it costs to see to that.
 *
 * Two processes have a guest each, at the same guest addresses; CPUs run vCPUs of both, threads of both, and nothing.
 */
#include "mm/insert_range.h"
#include "mm/migrate_page.h"
#include "mm/special.h"
#include "mm/vmscan.h"
#include "pool/tier.h"
#include "runner/t.h"
#include "sim/vcpus.h"

#define PAGE TDM_PAGE_SIZE
#define RW (TDM_V_READ | TDM_V_WRITE)
#define BASE ((u64)1 << 32)
#define PROCS 2u
#define PAGES 64u

static struct tdm_world world;
static struct tdm_cpus cpus;
static struct tdm_rcu_reader *reader;
static u32 coherent;
static u64 rng, stamp;

static struct proc {
	struct tdm_space *s;
	struct tdm_guest gu;
	bool mapped[PAGES], writable[PAGES];
	u64 value[PAGES];
} proc[PROCS];

static u32 below(u64 n)
{
	return (u32)(t_rand(&rng) % n);
}

static u64 at(u32 page)
{
	return BASE + page * PAGE;
}

static const struct tdm_stage2_costs s2_costs = { .exit = 1000, .lock_read = 20, .lock_write = 50, .walk = 7, .entry = 3, .flush = 100000 };

static void setup(u32 n, u64 ram, enum tdm_flush_means means, const struct tdm_stage2_config *config)
{
	struct tdm_cpus_config c = {
		.n = n, .asids = 9, .caps = TDM_WALK_HW_A | TDM_WALK_HW_D, .page_sizes = PAGE | TDM_HUGE_SIZE, .means = means, .ceiling = 33, .broadcast_pages = 1,
		.one_thread = true, .fault = tdmi_space_fault,
		.tlb = { .level = { { { 4, 4 }, { 1, 4 }, { 0, 0 } }, { { 32, 4 }, { 0, TDM_TLB_WITH_4K }, { 0, 0 } } } },
		.cost = { .access = 1, .tlb_l2_hit = 9, .walk_read = 15, .walk_set = 20, .context_switch = 3000, .tlb_local_entry = 120, .tlb_local_all = 300, .ipi_send = 900,
			  .ipi_wait = 3000, .ipi_handle = 2100, .broadcast_op = 150, .broadcast_sync = 900, .broadcast_sync_cpu = 30 },
	};
	struct tdm_tier *tier;
	struct tdm_swap *swap;
	char err[200];

	CHECK_EQ(tdmi_tier_create("lz4", &tier, err, sizeof(err)), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	CHECK_EQ(tdmi_cpus_init(&cpus, &c), 0);
	CHECK_EQ(tdmi_world_init(&world, ram, &tdmi_cpus_tlb_ops, &cpus, swap), 0);
	CHECK_EQ(tdmi_phys_add(&world.phys, TDM_MEM_COHERENT, 512, &coherent), 0);
	CHECK_EQ(tdmi_cpus_attach(&cpus, &world), 0);
	reader = tdmi_rcu_register(&world.rcu);
	memset(proc, 0, sizeof(proc));
	stamp = 0;
	for (u32 i = 0; i < PROCS; i++) {
		struct proc *p = &proc[i];

		CHECK_EQ(tdmi_space_create(&world, &p->s), 0);
		CHECK_EQ(tdmi_mmap(p->s, reader, BASE, PAGES * PAGE, RW), 0);
		memset(p->mapped, 1, sizeof(p->mapped));
		memset(p->writable, 1, sizeof(p->writable));
		CHECK_EQ(tdmi_guest_init(&p->gu, &cpus, p->s, BASE, PAGES * PAGE, config), 0);
	}
}

static void teardown(void)
{
	for (u32 i = 0; i < PROCS; i++) {
		tdmi_guest_destroy(&proc[i].gu);
		for (u32 cpu = 0; cpu < cpus.config.n; cpu++)
			tdmi_cpus_idle(&cpus, cpu);
		tdmi_cpus_forget(&cpus, proc[i].s);
		tdmi_space_destroy(proc[i].s, reader);
	}
	tdmi_rcu_drain(&world.rcu);
	CHECK_EQ(tdmi_phys_used(&world.phys, world.ram), 1); /* the page of zeros */
	tdmi_cpus_detach(&cpus);
	tdmi_rcu_unregister(reader);
	tdmi_world_destroy(&world);
	tdmi_cpus_destroy(&cpus);
}

/* A vCPU of p's guest, which that CPU runs then. */
static u64 vcpu_read(struct proc *p, u32 cpu, u32 page)
{
	u64 x = 0;

	if (!tdm_guest_runs(&p->gu, cpu))
		CHECK_EQ(tdmi_guest_enter(&p->gu, cpu), 0);
	CHECK_EQ(tdm_cpus_load(&cpus, cpu, page * PAGE, &x), 0);
	return x;
}

static void vcpu_write(struct proc *p, u32 cpu, u32 page, u64 x)
{
	if (!tdm_guest_runs(&p->gu, cpu))
		CHECK_EQ(tdmi_guest_enter(&p->gu, cpu), 0);
	CHECK_EQ(tdm_cpus_store(&cpus, cpu, page * PAGE, x), 0);
}

/* ---- what TLBs have of guests ---------------------------------------------------------------------------------------------------- */

static bool owes(const struct tdm_guest *gu, u32 cpu)
{
	const struct tdm_cpus_space *has = gu->on.has;

	return !tdm_cpus_broadcasts(&cpus) && has->on[cpu].heard != has->flushes;
}

static void audit_entry(u32 cpu, u64 key, const struct tdm_tlb_entry *e)
{
	for (u32 i = 0; i < PROCS; i++) {
		const struct tdm_guest *gu = &proc[i].gu;
		struct tdm_pte is;

		if (tdm_tlb_key_asid(key) != gu->on.has->vmid || owes(gu, cpu))
			continue;
		CHECK_EQ(e->shift, TDM_PAGE_SHIFT);
		is = tdmi_stage2_entry(&proc[i].gu.st, tdm_tlb_key_va(key));
		CHECK(tdm_pte_present(is));
		CHECK_EQ(tdm_pte_pfn(e->pte).v, tdm_pte_pfn(is).v);
		CHECK_EQ(e->pte.v & ~is.v & TDM_PTE_WRITE, 0);
	}
}

/* Of no CPU that has not missed a flush does the TLB say anything that the table does not. How many entries there are of guests. */
static u32 audit(void)
{
	u32 n = 0;

	for (u32 cpu = 0; cpu < cpus.config.n; cpu++)
		for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
			for (u32 size = 0; size < TDM_TLB_SIZES; size++) {
				const struct tdm_tlb_array *a = &cpus.core[cpu].tlb.array[level][size];

				for (u64 k = 0; a->key && !a->shared && k < ((u64)a->mask + 1) * a->ways; k++) {
					u64 key = a->key[k / a->ways * (a->ways + 1) + k % a->ways];

					if (key == TDM_TLB_EMPTY || tdm_tlb_key_asid(key) <= TDM_ASIDS_MAX)
						continue;
					audit_entry(cpu, key, &a->e[k]);
					n++;
				}
			}
	return n;
}

/* ---- at random -------------------------------------------------------------------------------------------------------------------- */

static void access_one(struct proc *p, u32 cpu, bool guest, u32 page)
{
	u64 va = guest ? page * PAGE : at(page), x;
	bool write = below(2);
	int r;

	if (guest && !tdm_guest_runs(&p->gu, cpu))
		CHECK_EQ(tdmi_guest_enter(&p->gu, cpu), 0);
	if (!guest && !tdm_core_runs(&cpus.core[cpu], p->s))
		CHECK_EQ(tdmi_cpus_switch(&cpus, cpu, p->s), 0);
	x = ++stamp;
	r = write ? tdm_cpus_store(&cpus, cpu, va, x) : tdm_cpus_load(&cpus, cpu, va, &x);
	if (r == -ENOMEM)
		return;
	CHECK_EQ(r, p->mapped[page] && (!write || p->writable[page]) ? 0 : -EFAULT);
	if (!r && write)
		p->value[page] = x;
	else if (!r)
		CHECK_EQ(x, p->value[page]);
}

static void change(struct proc *p)
{
	u32 page = below(PAGES), n = 1 + below(TDM_MIN(PAGES - page, 40u)), what = below(10);
	u64 start = at(page), len = n * PAGE;
	struct tdm_space *child;
	bool whole = true;

	for (u32 i = page; i < page + n; i++)
		whole &= p->mapped[i];
	if (what < 3) {
		CHECK_EQ(tdmi_mmap(p->s, reader, start, len, RW), 0);
		for (u32 i = page; i < page + n; i++) {
			p->mapped[i] = p->writable[i] = true;
			p->value[i] = 0;
		}
	} else if (what == 3) {
		CHECK_EQ(tdmi_munmap(p->s, reader, start, len), 0);
		memset(&p->mapped[page], 0, n);
	} else if (what < 6 && whole) {
		CHECK_EQ(tdmi_mprotect(p->s, reader, start, len, what == 4 ? RW : TDM_V_READ), 0);
		memset(&p->writable[page], what == 4, n);
	} else if (what == 6) {
		CHECK_EQ(tdmi_madvise_dontneed(p->s, reader, start, len), 0);
		memset(&p->value[page], 0, n * sizeof(p->value[0]));
	} else if (what == 7) {
		if (!tdmi_space_fork(p->s, reader, &child))
			tdmi_space_destroy(child, reader);
	} else {
		(void)tdmi_migrate_range(p->s, reader, start, start + len, below(2) ? coherent : world.ram);
	}
}

static void step(void)
{
	struct proc *p = &proc[below(PROCS)];
	u32 cpu = below(cpus.config.n), what = below(100), near = below(PAGES - 7);

	if (what < 5) {
		tdmi_cpus_idle(&cpus, cpu);
	} else if (what < 10) {
		cpus.current = cpu;
		(void)tdmi_vmscan(&world, reader, 1 + below(16), 64);
	} else if (what < 18) {
		cpus.current = cpu;
		change(p);
	} else {
		for (u32 i = 1 + below(8); i--;)
			access_one(p, cpu, what < 80, near + below(8));
	}
}

static void at_random(enum tdm_flush_means means, u32 n)
{
	struct tdm_stage2_config config = { .aging = (enum tdm_stage2_aging)(n % 3), .fill_read = n % 2, .costs = s2_costs };
	u32 rounds = t_slow() ? 1500 : 12000;
	struct tdm_cpu_stats st;
	u64 sum = 0, entries = 0;

	setup(n, 512, means, &config);
	tdmi_vmscan_policy(&world, (enum tdm_scan_young)(n % 3));
	world.policy = (struct tdm_tlb_policy){ .batch = n % 2, .batch_secondary = n % 2 };
	for (u32 k = 0; k < rounds; k++) {
		step();
		entries += audit();
	}
	tdmi_cpus_stats(&cpus, ~0u, &st);
	printf("# %u CPUs: %llu entries, %llu hits, %llu flushed, %llu IPIs, %llu late\n", n, (unsigned long long)entries, (unsigned long long)st.tlb_hits[0],
	       (unsigned long long)st.flushed, (unsigned long long)st.ipis_sent, (unsigned long long)st.flushes_late);
	CHECK(entries > rounds && st.tlb_hits[0] > rounds / 16 && st.flushed > rounds / 200);
	CHECK(n == 1 || means != TDM_FLUSH_IPI || st.ipis_sent > rounds / 100);
	CHECK(n == 1 || means == TDM_FLUSH_BROADCAST || st.flushes_late > rounds / 100);
	CHECK(tdm_world_counted(&world, TDM_SC_SWAPPED_IN) > rounds / 200);
	for (u32 i = 0; i < PROCS; i++) {
		CHECK(tdm_stage2_counted(&proc[i].gu.st, TDM_S2_CLEARED) > rounds / 40);
		CHECK(tdm_stage2_counted(&proc[i].gu.st, TDM_S2_FLUSHES) > rounds / 80);
	}
	/* All time is somebody's. */
	for (u32 k = 0; k < TDM_CYC_NR; k++)
		sum += st.cycles[k];
	for (u32 k = 0; k < n; k++)
		sum -= cpus.core[k].clock;
	CHECK_EQ(sum, 0);
	teardown();
}

TEST(no_tlb_has_what_the_second_stage_has_not, .seconds = 120)
{
	rng = t_seed();
	for (u32 means = 0; means < TDM_FLUSH_NR; means++)
		for (u32 n = 1; n <= 4; n++)
			at_random((enum tdm_flush_means)means, n);
}

/* ---- one by one ---------------------------------------------------------------------------------------------------------------------- */

/* CPU 1 has left the guest and idles, CPU 2 runs the process, CPU 3 is in the guest: whoever comes back finds nothing of what was there. */
TEST(a_cpu_that_was_elsewhere_forgets_before_it_enters)
{
	for (u32 means = 0; means < TDM_FLUSH_NR; means++) {
		struct tdm_stage2_config config = { .costs = s2_costs };
		struct proc *p = &proc[0];
		u64 late;

		setup(4, 512, (enum tdm_flush_means)means, &config);
		vcpu_write(p, 3, 5, 42);
		for (u32 cpu = 1; cpu < 4; cpu++)
			CHECK_EQ(vcpu_read(p, cpu, 5), 42);
		tdmi_cpus_idle(&cpus, 1);
		CHECK_EQ(tdmi_cpus_switch(&cpus, 2, p->s), 0);
		cpus.current = 0;
		CHECK_EQ(tdmi_migrate_page(p->s, reader, at(5), coherent), 0);
		vcpu_write(p, 3, 5, 43);
		late = cpus.core[1].stats.flushes_late + cpus.core[2].stats.flushes_late;
		for (u32 cpu = 1; cpu < 4; cpu++)
			CHECK_EQ(vcpu_read(p, cpu, 5), 43);
		/* With broadcasts they had been reached. CPU 1 makes up for the process's flush as well. */
		late = cpus.core[1].stats.flushes_late + cpus.core[2].stats.flushes_late - late;
		CHECK(means == TDM_FLUSH_BROADCAST ? late == 0 : late >= 2);
		CHECK_EQ(cpus.core[3].stats.flushes_late, 0);
		teardown();
	}
}

TEST(two_guests_have_the_same_addresses_and_not_the_same_pages)
{
	struct tdm_stage2_config config = { 0 };

	setup(1, 512, TDM_FLUSH_IPI, &config);
	CHECK(proc[0].gu.on.has->vmid != proc[1].gu.on.has->vmid);
	for (u32 k = 0; k < 3; k++)
		for (u32 i = 0; i < PROCS; i++)
			vcpu_write(&proc[i], 0, 1, 10 * k + i);
	CHECK_EQ(vcpu_read(&proc[0], 0, 1), 20);
	CHECK_EQ(vcpu_read(&proc[1], 0, 1), 21);
	/* The entries have stayed over the switches. */
	CHECK_EQ(tdm_stage2_counted(&proc[0].gu.st, TDM_S2_MISSES), 1);
	CHECK_EQ(audit(), 4);
	cpus.current = 0;
	CHECK_EQ(tdmi_madvise_dontneed(proc[0].s, reader, at(1), PAGE), 0);
	CHECK_EQ(vcpu_read(&proc[1], 0, 1), 21);
	CHECK_EQ(vcpu_read(&proc[0], 0, 1), 0);
	teardown();
}

/* Beyond the guest's memory, and where the process has nothing; and the errors come from the engine. */
TEST(what_the_process_has_not_the_guest_has_not)
{
	struct tdm_stage2_config config = { 0 };
	static struct tdm_guest other;
	u64 x;

	setup(1, 512, TDM_FLUSH_IPI, &config);
	cpus.current = 0;
	CHECK_EQ(tdmi_munmap(proc[0].s, reader, at(3), PAGE), 0);
	CHECK_EQ(tdmi_guest_enter(&proc[0].gu, 0), 0);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, 3 * PAGE, &x), -EFAULT);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, PAGES * PAGE, &x), -EFAULT);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, ~(u64)7, &x), -EFAULT);
	CHECK_EQ(tdmi_guest_init(&other, &cpus, proc[0].s, BASE + 1, PAGE, &config), -EINVAL);
	tdmi_cpus_idle(&cpus, 0);
	CHECK(!tdm_guest_runs(&proc[0].gu, 0));
	teardown();
}

/* ---- a driver's memory ---------------------------------------------------------------------------------------------------------------- */

static u64 driver_pfn; /* where its buffer lies now */

static enum tdm_fault_result driver_fault(struct tdm_map *m, u64 va, u64 size, bool write)
{
	struct tdm_insert how = { .flags = TDM_INSERT_YOUNG | (write ? TDM_INSERT_WRITE | TDM_INSERT_DIRTY : 0), .at = va };
	struct tdm_inserted out;

	(void)size;
	return tdmi_insert_range(m, m->start, (struct tdm_pfn){ driver_pfn }, 2 * TDM_HUGE_PAGES, &how, &out) ? TDM_FAULT_SIGBUS : TDM_FAULT_DONE;
}

/* The process has it by leaves of 2 MiB, of which the second stage, and a TLB, have pieces; all pieces go with the leaf. */
TEST(pieces_of_a_leaf_of_2_mib_go_with_it)
{
	static const struct tdm_map_ops ops = { .name = "driver", .fault = driver_fault };
	static const u32 page[] = { 0, 1, TDM_HUGE_PAGES - 1, TDM_HUGE_PAGES, 2 * TDM_HUGE_PAGES - 1 };
	struct tdm_stage2_config config = { .costs = s2_costs };
	u64 va = (u64)1 << 33, first;
	static struct tdm_guest gu;
	struct tdm_map *map;
	u32 range;

	for (u32 means = 0; means < TDM_FLUSH_NR; means++) {
		setup(2, 512, (enum tdm_flush_means)means, &config);
		world.huge = PAGE | TDM_HUGE_SIZE;
		CHECK_EQ(tdmi_phys_add(&world.phys, TDM_MEM_SPECIAL, 4 * TDM_HUGE_PAGES, &range), 0);
		first = driver_pfn = TDM_ALIGN_UP(world.phys.range[range].first, TDM_HUGE_PAGES);
		CHECK_EQ(tdmi_mmap_driver(proc[0].s, reader, va, 2 * TDM_HUGE_SIZE, RW | TDM_V_SPECIAL | TDM_V_SHARED, &ops, NULL, 0, &map), 0);
		CHECK_EQ(tdmi_guest_init(&gu, &cpus, proc[0].s, va, 2 * TDM_HUGE_SIZE, &config), 0);
		CHECK_EQ(tdmi_guest_enter(&gu, 1), 0);
		for (u32 i = 0; i < TDM_ARRAY_SIZE(page); i++)
			CHECK_EQ(tdm_cpus_store(&cpus, 1, page[i] * PAGE + 8, 100 + i), 0);
		CHECK(tdm_world_counted(&world, TDM_SC_LEAF_2M) >= 2);
		CHECK_EQ(tdm_stage2_counted(&gu.st, TDM_S2_FILLS), TDM_ARRAY_SIZE(page));
		/* The driver moves its buffer, and leaves the bytes behind. */
		cpus.current = 0;
		tdmi_special_unmap(map, reader, va, va + 2 * TDM_HUGE_SIZE, false);
		CHECK_EQ(tdm_stage2_counted(&gu.st, TDM_S2_CLEARED), TDM_ARRAY_SIZE(page));
		driver_pfn = first + TDM_HUGE_PAGES;
		for (u32 i = 0; i < TDM_ARRAY_SIZE(page); i++) {
			u64 x = 1;

			CHECK_EQ(tdm_cpus_load(&cpus, 1, page[i] * PAGE + 8, &x), 0);
			/* Its first half is where the second one was. */
			CHECK_EQ(x, i == 0 ? 103 : i == 2 ? 104 : 0);
		}
		tdmi_guest_destroy(&gu);
		teardown();
	}
}

/* ---- what it costs --------------------------------------------------------------------------------------------------------------------- */

/* A miss is four entries of a walk, in vain (three where there is no table yet); the lock, three upper entries, one of the lowest; out and in; and a walk that
 * sets D. */
TEST(what_a_miss_and_a_hit_cost)
{
	struct tdm_stage2_config config = { .costs = s2_costs };
	u64 was;

	setup(2, 512, TDM_FLUSH_IPI, &config);
	vcpu_write(&proc[0], 0, 1, 1);
	was = cpus.core[0].clock;
	vcpu_write(&proc[0], 0, 2, 1);
	CHECK_EQ(cpus.core[0].clock - was, 4 * 15 + (50 + 3 * 7 + 3) + 1000 + 4 * 15 + 20 + 1);
	was = cpus.core[0].clock;
	vcpu_write(&proc[0], 0, 2, 1);
	CHECK_EQ(cpus.core[0].clock - was, 1);
	/* Another vCPU finds it in the table. */
	CHECK_EQ(vcpu_read(&proc[0], 1, 2), 1);
	CHECK_EQ(tdm_stage2_counted(&proc[0].gu.st, TDM_S2_MISSES), 2);
	CHECK_EQ(tdm_stage2_counted(&proc[0].gu.st, TDM_S2_FILLS), 2);
	CHECK_EQ(cpus.core[1].clock, 3000 + 4 * 15 + 1);
	teardown();
}

/* CPU 0 unmaps a page; 1 and 2 run vCPUs, 3 has left. The guest's flush, and the process's, of which the vCPUs' threads are. */
TEST(what_a_flush_costs)
{
	struct tdm_stage2_config config = { .costs = s2_costs };
	struct tdm_cpu_stats st;

	setup(4, 512, TDM_FLUSH_IPI, &config);
	for (u32 cpu = 1; cpu < 4; cpu++)
		(void)vcpu_read(&proc[0], cpu, 1);
	tdmi_cpus_idle(&cpus, 3);
	cpus.current = 0;
	CHECK_EQ(tdmi_munmap(proc[0].s, reader, at(1), PAGE), 0);
	tdmi_cpus_stats(&cpus, 0, &st);
	CHECK_EQ(st.ipis_sent, 4);
	CHECK_EQ(st.flushes[TDM_FLUSH_IPI], 2);
	CHECK_EQ(st.cycles[TDM_CYC_IPI_SEND], 4 * 900);
	CHECK_EQ(st.cycles[TDM_CYC_IPI_WAIT], 2 * (3000 + 2100 + 120));
	CHECK_EQ(st.cycles[TDM_CYC_FLUSH], 0);
	CHECK_EQ(st.cycles[TDM_CYC_WORK], 50 + 3 * 7 + 3); /* not s2_costs.flush */
	for (u32 cpu = 1; cpu < 4; cpu++) {
		tdmi_cpus_stats(&cpus, cpu, &st);
		CHECK_EQ(st.ipis_received, cpu < 3 ? 2 : 0);
		CHECK_EQ(st.cycles[TDM_CYC_FLUSH], cpu < 3 ? 2 * 120 : 0);
		CHECK_EQ(st.flushed, cpu < 3 ? 2 : 0);
	}
	teardown();
	setup(4, 512, TDM_FLUSH_BROADCAST, &config);
	for (u32 cpu = 1; cpu < 4; cpu++)
		(void)vcpu_read(&proc[0], cpu, 1);
	tdmi_cpus_idle(&cpus, 3);
	cpus.current = 0;
	CHECK_EQ(tdmi_munmap(proc[0].s, reader, at(1), PAGE), 0);
	tdmi_cpus_stats(&cpus, 0, &st);
	CHECK_EQ(st.broadcast_ops, 2);
	CHECK_EQ(st.cycles[TDM_CYC_BROADCAST], 2 * (150 + 900 + 3 * 30));
	tdmi_cpus_stats(&cpus, ~0u, &st);
	CHECK_EQ(st.flushed, 6);
	teardown();
}

/* ---- use ---------------------------------------------------------------------------------------------------------------------------------- */

/* Whoever is served by a TLB sets no bit: without a flush it looks unused. */
TEST(a_use_that_a_tlb_serves_is_not_seen)
{
	for (u32 i = 0; i < 6; i++) {
		struct tdm_stage2_config config = { .aging = (enum tdm_stage2_aging)(i % 3), .elide_flush = i / 3 };
		struct tdm_notifiers *nots;

		setup(2, 512, TDM_FLUSH_IPI, &config);
		nots = &proc[0].s->notifiers;
		vcpu_write(&proc[0], 1, 1, 1);
		cpus.current = 0;
		CHECK(tdmi_notifiers_clear_young(nots, at(1), at(2)));
		vcpu_write(&proc[0], 1, 1, 2);
		CHECK(!tdmi_notifiers_clear_young(nots, at(1), at(2)));
		/* Another page's entry was not in the way. */
		(void)vcpu_read(&proc[0], 1, 2);
		cpus.current = 0;
		CHECK(tdmi_notifiers_clear_flush_young(nots, at(2), at(3)));
		(void)vcpu_read(&proc[0], 1, 2);
		CHECK_EQ(tdmi_notifiers_clear_flush_young(nots, at(2), at(3)), !config.elide_flush);
		CHECK(!tdmi_notifiers_test_young(nots, at(1), at(2)));
		teardown();
	}
}

/* Four pages that a vCPU uses all the time, while reclaim takes what it can get. */
static u64 misses_of_hot_pages(enum tdm_scan_young young)
{
	struct tdm_stage2_config config = { .costs = s2_costs };
	u64 misses;

	setup(2, 512, TDM_FLUSH_IPI, &config);
	tdmi_vmscan_policy(&world, young);
	for (u32 i = 0; i < PAGES; i++)
		vcpu_write(&proc[0], 1, i, i);
	for (u32 k = 0; k < 200; k++) {
		for (u32 i = 0; i < 4; i++)
			CHECK_EQ(vcpu_read(&proc[0], 1, i), i);
		cpus.current = 0;
		(void)tdmi_vmscan(&world, reader, 4, 4);
	}
	CHECK(tdm_world_counted(&world, TDM_SC_SWAPPED_OUT) >= PAGES - 4);
	misses = tdm_stage2_counted(&proc[0].gu.st, TDM_S2_MISSES);
	teardown();
	return misses;
}

TEST(what_a_guest_uses_stays_only_with_a_flush)
{
	CHECK_EQ(misses_of_hot_pages(TDM_YOUNG_FLUSH), PAGES);
	CHECK_EQ(misses_of_hot_pages(TDM_YOUNG_FLUSH_SECONDARY), PAGES);
	CHECK(misses_of_hot_pages(TDM_YOUNG_CLEAR) > PAGES);
}
