// SPDX-License-Identifier: MIT
/* test_cpus.c - CPUs of a simulated machine: accesses, whom a flush reaches and what it costs, ASIDs. What may go wrong in between is in test_cpus_model.c. */
#include "cpus_world.h"

/* Costs that are told apart in any sum. */
static const struct tdm_cpu_costs cost = {
	.access = 1, .tlb_l2_hit = 7, .walk_read = 20, .walk_set = 11, .context_switch = 1000, .tlb_local_entry = 100, .tlb_local_all = 300, .ipi_send = 10000,
	.ipi_wait = 50000, .ipi_handle = 200000, .broadcast_op = 40, .broadcast_sync = 4000, .broadcast_sync_cpu = 600,
	.work = { [TDM_WORK_FAULT] = 5000, [TDM_WORK_PTE] = 30 },
};

static void start(u32 n, u32 asids, enum tdm_flush_means means)
{
	struct tdm_cpus_config config = config_make(n, asids, means);

	config.cost = cost;
	setup(&config);
}

static void run(u32 cpu, u32 id)
{
	CHECK_EQ(tdmi_cpus_switch(&cpus, cpu, &space[id]), 0);
}

static u64 clock_of(u32 cpu)
{
	return cpus.core[cpu].clock;
}

static void touch(u32 cpu, u32 m)
{
	CHECK_EQ(tdmi_cpus_touch(&cpus, cpu, va_of(m), false), 0);
}

/* Does the next read need a walk? */
static bool forgotten(u32 cpu, u32 m)
{
	u64 before = stats(cpu).walks;

	touch(cpu, m);
	return stats(cpu).walks != before;
}

TEST(what_is_no_machine_is_refused)
{
	struct tdm_cpus_config good = config_make(4, 8, TDM_FLUSH_BROADCAST), c;

#define REFUSED(change)                                                                                                                                \
	do {                                                                                                                                           \
		c = good;                                                                                                                              \
		c.change;                                                                                                                              \
		CHECK_EQ(tdmi_cpus_init(&cpus, &c), -EINVAL);                                                                                          \
	} while (0)
	REFUSED(n = 0);
	REFUSED(n = TDM_CPUS_MAX + 1);
	REFUSED(asids = 4);
	REFUSED(asids = TDM_ASIDS_MAX + 1);
	REFUSED(page_sizes = (u64)1 << 21);
	REFUSED(means = TDM_FLUSH_NR);
	REFUSED(broadcast_pages = 0);
	REFUSED(fault = NULL);
	REFUSED(tlb.level[0][0].sets = 3);
	c = good;
	c.means = TDM_FLUSH_IPI;
	c.asids = 1;
	CHECK_EQ(tdmi_cpus_init(&cpus, &c), 0);
	tdmi_cpus_destroy(&cpus);
}

/* ---- accesses ------------------------------------------------------------------------------------------------------------------- */

TEST(bytes_go_to_the_page_and_back_over_pages_of_both_sizes)
{
	u8 in[10000], out[10000];
	u64 rng = t_seed(), word;

	start(2, 4, TDM_FLUSH_IPI);
	for (u32 m = 0; m < 4; m++)
		map_small(3, m);
	for (u32 m = SMALL; m < SMALL + 2; m++)
		want[3][m] = (struct mapping){ true, true, FIRST + (7 - 2 * (m - SMALL)) * TDM_HUGE_PAGES };
	run(0, 3);
	run(1, 3);
	for (u32 k = 0; k < 2; k++) {
		u64 va = k ? va_of(SMALL + 1) - 3333 : va_of(0) + 777;

		for (u32 i = 0; i < sizeof(in); i++)
			in[i] = (u8)t_rand(&rng);
		CHECK_EQ(tdmi_cpus_write(&cpus, 0, va, in, sizeof(in)), 0);
		memset(out, 0, sizeof(out));
		CHECK_EQ(tdmi_cpus_read(&cpus, 1, va, out, sizeof(out)), 0);
		CHECK(!memcmp(in, out, sizeof(in)));
		for (u64 i = 0; i < 5000; i += 61) {
			CHECK_EQ(tdm_cpus_load(&cpus, 1, va + i, &word), 0);
			CHECK(!memcmp(&word, in + i, 8));
			CHECK_EQ(tdm_cpus_store(&cpus, 0, va + i, ~word), 0);
			CHECK_EQ(tdm_cpus_load(&cpus, 1, va + i, &word), 0);
			memcpy(in + i, &word, 8);
		}
		CHECK_EQ(tdmi_cpus_read(&cpus, 0, va, out, sizeof(out)), 0);
		CHECK(!memcmp(in, out, sizeof(in)));
	}
	CHECK_EQ(faults, 5);
	check_clocks();
	teardown();
}

TEST(who_may_not_is_refused_and_what_came_before_has_been_moved)
{
	u8 buf[8192] = { 1, 2, 3 };
	u64 word = 5;

	start(1, 4, TDM_FLUSH_IPI);
	map_small(0, 0);
	map_small(0, 2);
	want[0][2].writable = false;
	run(0, 0);
	CHECK_EQ(tdmi_cpus_write(&cpus, 0, va_of(1) - 2, buf, 4), -EFAULT);
	CHECK_EQ(tdmi_cpus_read(&cpus, 0, va_of(1) - 2, &word, 2), 0);
	CHECK_EQ(word, 1 | 2 << 8);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(2), &word), 0);
	CHECK_EQ(tdm_cpus_store(&cpus, 0, va_of(2), 1), -EFAULT);
	CHECK_EQ(tdmi_cpus_touch(&cpus, 0, va_of(2), true), -EFAULT);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(2) | (u64)1 << 48, &word), -EFAULT);
	/* More rights than the TLB remembers: it looks again. */
	want[0][2].writable = true;
	CHECK_EQ(tdm_cpus_store(&cpus, 0, va_of(2), 7), 0);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(2), &word), 0);
	CHECK_EQ(word, 7);
	CHECK(entry(&space[0], 2).v & TDM_PTE_DIRTY);
	teardown();
}

/* The entry for a small page, read-only, is in the way of the leaf that has taken its place: it goes when it does not suffice. */
TEST(a_smaller_leaf_with_fewer_rights_does_not_stay)
{
	struct tdm_pt *pmd, *pt;
	u64 walks;
	u32 i;

	start(1, 4, TDM_FLUSH_IPI);
	map_small(0, 0);
	want[0][0].writable = false;
	run(0, 0);
	touch(0, 0);
	pt = entry_lock(&space[0], 0, &i);
	tdm_pt_set(pt, i, (struct tdm_pte){ 0 });
	tdm_pt_unlock(pt);
	tdmi_rcu_read_lock(reader);
	CHECK_EQ(tdmi_pt_lock_pmd(&space[0].pgt, va_of(0), &pmd), 0);
	plat_mutex_lock(&pt->lock);
	tdmi_pt_collapse(&space[0].pgt, pmd, pt, tdm_pte_mk((struct tdm_pfn){ want[0][0].pfn }, TDM_PTE_WRITE));
	tdm_pt_unlock(pmd);
	tdmi_rcu_read_unlock(reader);
	tdmi_rcu_drain(&world.rcu);
	CHECK_EQ(tdmi_cpus_touch(&cpus, 0, va_of(0), true), 0);
	walks = stats(0).walks;
	CHECK_EQ(tdmi_cpus_touch(&cpus, 0, va_of(0), true), 0);
	CHECK_EQ(stats(0).walks, walks);
	teardown();
}

static int useless_fault(struct tdm_space *s, struct tdm_rcu_reader *r, u64 va, enum tdm_access access)
{
	return 0;
}

TEST(a_fault_that_is_served_for_ever_ends)
{
	struct tdm_cpus_config config = config_make(1, 4, TDM_FLUSH_IPI);
	u64 word;

	config.fault = useless_fault;
	setup(&config);
	run(0, 0);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0), &word), -ETIMEDOUT);
	teardown();
}

TEST_DIES(an_access_of_who_runs_nothing_is_a_bug, "k->asid == TDM_ASID_NONE")
{
	u64 word;

	start(1, 4, TDM_FLUSH_IPI);
	map_small(0, 0);
	run(0, 0);
	tdmi_cpus_idle(&cpus, 0);
	tdm_cpus_load(&cpus, 0, va_of(0), &word);
}

TEST_DIES(a_space_that_runs_is_not_forgotten, "tdm_bitmap_test(sp->loaded, cpu)")
{
	start(1, 4, TDM_FLUSH_IPI);
	run(0, 0);
	tdmi_cpus_forget(&cpus, &space[0]);
}

TEST(walkers_without_hardware_bits_ask_the_engine)
{
	struct tdm_cpus_config config = config_make(1, 4, TDM_FLUSH_IPI);
	u64 word;

	config.caps = 0;
	setup(&config);
	map_small(0, 0);
	run(0, 0);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0), &word), 0);
	CHECK_EQ(faults, 1);
	CHECK_EQ(tdm_cpus_store(&cpus, 0, va_of(0), 1), 0); /* D */
	CHECK_EQ(faults, 2);
	entry_xchg(&space[0], 0, (struct tdm_pte){ entry(&space[0], 0).v & ~TDM_PTE_ACCESSED });
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0), &word), 0); /* the TLB has it */
	CHECK_EQ(faults, 2);
	flush(0, 0, va_of(0), va_of(1), 12);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0), &word), 0); /* A */
	CHECK_EQ(faults, 3);
	CHECK_EQ(stats(0).walk_sets, 0);
	teardown();
}

/* 2 MiB that the TLB only has in pieces: a flush of the leaf reaches all of them. */
TEST(of_a_leaf_that_the_tlb_has_in_pieces_all_go)
{
	struct tdm_cpus_config config = config_make(1, 4, TDM_FLUSH_IPI);

	config.page_sizes = (u64)1 << 12;
	config.tlb.level[1][0] = (struct tdm_tlb_geometry){ 64, 4 };
	setup(&config);
	want[0][SMALL] = (struct mapping){ true, true, FIRST };
	run(0, 0);
	for (u64 i = 0; i < 32; i++)
		CHECK_EQ(tdmi_cpus_touch(&cpus, 0, va_of(SMALL) + (i << 12), true), 0);
	CHECK_EQ(stats(0).tlb_misses, 33); /* one more for the fault */
	flush(0, 0, va_of(SMALL), va_of(SMALL + 1), 21);
	CHECK_EQ(stats(0).flushes_all, 0);
	for (u64 i = 0; i < 32; i++)
		CHECK_EQ(tdmi_cpus_touch(&cpus, 0, va_of(SMALL) + (i << 12), true), 0);
	CHECK_EQ(stats(0).tlb_misses, 65);
	teardown();
}

TEST(what_an_access_costs)
{
	u8 line[65];
	u64 word, was;

	start(1, 4, TDM_FLUSH_IPI);
	for (u32 m = 0; m < 12; m++)
		map_small(0, m);
	run(0, 0);
	CHECK_EQ(clock_of(0), 1000);
	/* The top table alone, the fault, all four, A. */
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0), &word), 0);
	CHECK_EQ(clock_of(0), 1000 + 1 * 20 + 4 * 20 + 1);
	was = clock_of(0);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0) + 8, &word), 0);
	CHECK_EQ(clock_of(0) - was, 1);
	/* D is not set yet: hardware walks again. */
	was = clock_of(0);
	CHECK_EQ(tdm_cpus_store(&cpus, 0, va_of(0), 3), 0);
	CHECK_EQ(clock_of(0) - was, 4 * 20 + 11 + 1);
	/* Pages 4 and 8 put page 0 out of the first level, which has two ways. */
	touch(0, 4);
	touch(0, 8);
	was = clock_of(0);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0), &word), 0);
	CHECK_EQ(clock_of(0) - was, 7 + 1);
	/* By lines. */
	was = clock_of(0);
	CHECK_EQ(tdmi_cpus_read(&cpus, 0, va_of(0), line, 64), 0);
	CHECK_EQ(clock_of(0) - was, 1);
	CHECK_EQ(tdmi_cpus_read(&cpus, 0, va_of(0) + 63, line, 65), 0);
	CHECK_EQ(clock_of(0) - was, 3);
	CHECK_EQ(tdm_cpus_load(&cpus, 0, va_of(0) + 60, &word), 0);
	CHECK_EQ(clock_of(0) - was, 5);
	CHECK_EQ(stats(0).accesses, 2 + 1 + 2 + 1 + 1 + 2 + 2);
	tdmi_cpus_tlb_ops.work(&cpus, TDM_WORK_PTE, 3);
	CHECK_EQ(clock_of(0) - was, 5 + 90);
	CHECK_EQ(stats(0).work[TDM_WORK_PTE], 3);
	tdmi_cpus_wait_until(&cpus, 0, clock_of(0) + 17);
	CHECK_EQ(clock_of(0) - was, 5 + 90 + 17);
	tdmi_cpus_wait_until(&cpus, 0, 5);
	CHECK_EQ(clock_of(0) - was, 5 + 90 + 17);
	check_clocks();
	teardown();
}

/* ---- what a flush costs, by hand ---------------------------------------------------------------------------------------------------- */

/* All n CPUs run space 0 and have pages 0 to 3; CPU 0 flushes `pages` of them. Cycles of CPU 0 and of each other one. */
static void shootdown(u32 n, enum tdm_flush_means means, u32 pages, u64 initiator, u64 target)
{
	u64 was[4];

	start(n, 8, means);
	for (u32 m = 0; m < SMALL; m++)
		map_small(0, m);
	for (u32 cpu = 0; cpu < n; cpu++) {
		run(cpu, 0);
		for (u32 m = 0; m < 4; m++)
			touch(cpu, m);
		was[cpu] = clock_of(cpu);
	}
	flush(0, 0, va_of(0), va_of(pages), 12);
	for (u32 cpu = 0; cpu < n; cpu++) {
		CHECK_EQ(clock_of(cpu) - was[cpu], cpu ? target : initiator);
		CHECK_EQ(stats(cpu).flushed, 2 * TDM_MIN(pages, 4)); /* in both levels */
		CHECK_EQ(stats(cpu).ipis_received, means == TDM_FLUSH_IPI && cpu);
	}
	CHECK_EQ(stats(0).flushes[n > 1 ? means : TDM_FLUSH_LOCAL], 1);
	CHECK_EQ(stats(0).ipis_sent, means == TDM_FLUSH_IPI ? n - 1 : 0);
	CHECK_EQ(stats(0).flushes_all, pages > 33);
	CHECK_EQ(stats(~0u).flushed, n * stats(0).flushed);
	check_clocks();
	teardown();
}

TEST(a_shootdown_by_ipi_costs_what_its_parts_cost)
{
	shootdown(1, TDM_FLUSH_IPI, 2, 200, 0);
	/* Sent to each; its own part lies within the wait for the last answer. */
	shootdown(2, TDM_FLUSH_IPI, 2, 10000 + 50000 + 200000 + 200, 200000 + 200);
	shootdown(4, TDM_FLUSH_IPI, 2, 3 * 10000 + 50000 + 200000 + 200, 200000 + 200);
	shootdown(4, TDM_FLUSH_IPI, 33, 3 * 10000 + 50000 + 200000 + 3300, 200000 + 3300);
	shootdown(4, TDM_FLUSH_IPI, 34, 3 * 10000 + 50000 + 200000 + 300, 200000 + 300);
}

TEST(a_broadcast_costs_the_same_to_nobody_else)
{
	shootdown(1, TDM_FLUSH_BROADCAST, 2, 200, 0);
	shootdown(2, TDM_FLUSH_BROADCAST, 2, 2 * 40 + 4000 + 600, 0);
	shootdown(4, TDM_FLUSH_BROADCAST, 2, 2 * 40 + 4000 + 3 * 600, 0);
	shootdown(4, TDM_FLUSH_BROADCAST, 34, 40 + 4000 + 3 * 600, 0);
}

TEST(the_ideal_costs_the_local_part_alone)
{
	shootdown(1, TDM_FLUSH_LOCAL, 2, 200, 0);
	shootdown(2, TDM_FLUSH_LOCAL, 2, 200, 0);
	shootdown(4, TDM_FLUSH_LOCAL, 34, 300, 0);
}

TEST(an_operation_may_name_several_pages)
{
	struct tdm_cpus_config config = config_make(2, 8, TDM_FLUSH_BROADCAST);

	config.cost = cost;
	config.broadcast_pages = 8;
	setup(&config);
	run(0, 0);
	run(1, 0);
	flush(0, 0, va_of(0), va_of(17), 12);
	CHECK_EQ(clock_of(0), 1000 + 3 * 40 + 4000 + 600);
	CHECK_EQ(stats(0).broadcast_ops, 3);
	teardown();
}

TEST(the_ceiling_counts_leaves_of_the_flush)
{
	start(1, 4, TDM_FLUSH_IPI);
	run(0, 0);
	flush(0, 0, BASE_HUGE, BASE_HUGE + 33 * TDM_HUGE_SIZE, 21);
	CHECK_EQ(clock_of(0), 1000 + 3300);
	flush(0, 0, BASE_HUGE, BASE_HUGE + 34 * TDM_HUGE_SIZE, 21);
	CHECK_EQ(clock_of(0), 1000 + 3300 + 300);
	flush(0, 0, BASE_HUGE + TDM_PAGE_SIZE, BASE_HUGE + 33 * TDM_HUGE_SIZE + 1, 21); /* parts of 34 */
	CHECK_EQ(clock_of(0), 1000 + 3300 + 2 * 300);
	flush(0, 0, 0, ~(u64)0, 12);
	CHECK_EQ(clock_of(0), 1000 + 3300 + 3 * 300);
	CHECK_EQ(stats(0).flushes_all, 3);
	flush(0, 0, BASE, BASE, 12);
	CHECK_EQ(stats(0).flushes[TDM_FLUSH_LOCAL], 4);
	teardown();
}

/* ---- whom it reaches ------------------------------------------------------------------------------------------------------------------ */

/* CPU 0 flushes page 0 of space 0; whom that interrupts, and what of the others is left. */
TEST(lazy_cpus_and_those_that_have_left_find_out_later)
{
	start(4, 8, TDM_FLUSH_IPI);
	map_small(0, 0);
	map_small(0, 1);
	map_small(1, 0);
	for (u32 cpu = 0; cpu < 4; cpu++) {
		run(cpu, 0);
		touch(cpu, 0);
		touch(cpu, 1);
	}
	tdmi_cpus_idle(&cpus, 2);
	run(3, 1);
	CHECK(tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
	flush(0, 0, va_of(0), va_of(1), 12);
	CHECK_EQ(stats(0).ipis_sent, 1);
	CHECK_EQ(stats(1).ipis_received, 1);
	CHECK(forgotten(1, 0) && !forgotten(1, 1));
	/* Both forget all of the space. */
	run(2, 0);
	CHECK_EQ(stats(2).flushes_late, 1);
	CHECK(forgotten(2, 0) && forgotten(2, 1));
	run(3, 0);
	CHECK_EQ(stats(3).flushes_late, 1);
	CHECK(forgotten(3, 0) && forgotten(3, 1));
	/* Who has missed nothing has kept it. */
	run(3, 1);
	run(3, 0);
	tdmi_cpus_idle(&cpus, 2);
	run(2, 0);
	CHECK(!forgotten(3, 0) && !forgotten(2, 0));
	CHECK_EQ(stats(~0u).flushes_late, 2);
	check_clocks();
	teardown();
}

TEST(with_broadcast_nobody_has_missed_anything)
{
	start(4, 8, TDM_FLUSH_BROADCAST);
	map_small(0, 0);
	map_small(0, 1);
	for (u32 cpu = 0; cpu < 4; cpu++) {
		run(cpu, 0);
		touch(cpu, 0);
		touch(cpu, 1);
	}
	tdmi_cpus_idle(&cpus, 2);
	run(3, 1);
	flush(0, 0, va_of(0), va_of(1), 12);
	run(2, 0);
	run(3, 0);
	for (u32 cpu = 1; cpu < 4; cpu++)
		CHECK(forgotten(cpu, 0) && !forgotten(cpu, 1));
	CHECK_EQ(stats(~0u).flushes_late + stats(~0u).ipis_sent, 0);
	teardown();
}

TEST(where_nobody_else_has_used_it_the_flush_is_local)
{
	static const enum tdm_flush_means means[] = { TDM_FLUSH_IPI, TDM_FLUSH_BROADCAST };

	for (u32 i = 0; i < 2; i++) {
		start(3, 8, means[i]);
		map_small(0, 0);
		run(0, 0);
		run(1, 1);
		touch(0, 0);
		CHECK(!tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
		flush(0, 0, va_of(0), va_of(1), 12);
		CHECK_EQ(stats(0).flushes[TDM_FLUSH_LOCAL], 1);
		CHECK_EQ(clock_of(0), 1000 + 5 * 20 + 1 + 100);
		CHECK(forgotten(0, 0));
		/* By a CPU that does not run it, while one does. */
		cpus.current = 1;
		CHECK(tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
		flush(1, 0, va_of(0), va_of(1), 12);
		CHECK_EQ(stats(1).flushes[means[i]], 1);
		CHECK(forgotten(0, 0));
		/* Nobody has ever run it. */
		CHECK(!tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[2]));
		flush(1, 2, 0, ~(u64)0, 12);
		CHECK_EQ(stats(1).flushes_nobody, 1);
		check_clocks();
		teardown();
	}
}

/* Once all of it was flushed where it has been left, a broadcast is not needed for that CPU any more. */
TEST(a_flush_of_all_is_remembered)
{
	start(2, 8, TDM_FLUSH_BROADCAST);
	map_small(0, 0);
	run(0, 0);
	run(1, 0);
	touch(0, 0);
	touch(1, 0);
	run(1, 1);
	cpus.current = 0;
	CHECK(tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
	flush(0, 0, 0, ~(u64)0, 12);
	CHECK(!tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
	touch(0, 0);
	flush(0, 0, va_of(0), va_of(1), 12);
	CHECK_EQ(stats(0).flushes[TDM_FLUSH_LOCAL], 1);
	run(1, 0);
	CHECK(forgotten(1, 0));
	cpus.current = 0;
	CHECK(tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
	teardown();
}

TEST(untracked_everybody_is_told)
{
	struct tdm_cpus_config config = config_make(3, 8, TDM_FLUSH_IPI);

	config.cost = cost;
	config.untracked = true;
	setup(&config);
	map_small(0, 0);
	map_small(0, 1);
	run(0, 0);
	run(1, 0);
	touch(1, 0);
	touch(1, 1);
	run(1, 1);
	flush(0, 0, va_of(0), va_of(1), 12);
	CHECK_EQ(stats(0).ipis_sent, 2);
	CHECK_EQ(stats(2).ipis_received, 1);
	run(1, 0);
	CHECK(forgotten(1, 0) && !forgotten(1, 1));
	teardown();
}

/* ---- ASIDs ------------------------------------------------------------------------------------------------------------------------------- */

TEST(without_asids_a_switch_flushes)
{
	start(1, 0, TDM_FLUSH_IPI);
	map_small(0, 0);
	map_small(1, 0);
	run(0, 0);
	CHECK_EQ(clock_of(0), 1000 + 300);
	CHECK(forgotten(0, 0) && !forgotten(0, 0));
	run(0, 0); /* another thread */
	tdmi_cpus_idle(&cpus, 0);
	run(0, 0);
	CHECK(!forgotten(0, 0));
	run(0, 1);
	CHECK(forgotten(0, 0));
	run(0, 0);
	CHECK(forgotten(0, 0));
	teardown();
}

TEST(without_asids_nothing_is_left_behind)
{
	start(2, 0, TDM_FLUSH_BROADCAST);
	map_small(0, 0);
	run(0, 0);
	run(1, 0);
	cpus.current = 0;
	CHECK(tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
	tdmi_cpus_idle(&cpus, 1);
	CHECK(tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
	run(1, 1);
	cpus.current = 0;
	CHECK(!tdmi_cpus_tlb_ops.elsewhere(&cpus, &space[0]));
	teardown();
}

/* Three ASIDs a CPU: the fourth space begins a new generation, with a flush of all. */
TEST(asids_that_are_used_up_begin_a_generation)
{
	start(2, 3, TDM_FLUSH_IPI);
	for (u32 id = 0; id < 4; id++)
		map_small(id, 0);
	for (u32 id = 0; id < 3; id++) {
		run(0, id);
		touch(0, 0);
	}
	for (u32 id = 0; id < 3; id++) {
		run(0, id);
		CHECK(!forgotten(0, 0));
	}
	CHECK_EQ(stats(0).generations, 0);
	CHECK_EQ(stats(0).cycles[TDM_CYC_FLUSH], 0);
	run(0, 3);
	CHECK_EQ(stats(0).generations, 1);
	CHECK_EQ(stats(0).cycles[TDM_CYC_FLUSH], 300);
	CHECK(forgotten(0, 0));
	run(0, 0);
	CHECK(forgotten(0, 0));
	run(0, 3);
	CHECK(!forgotten(0, 0));
	CHECK_EQ(stats(0).generations, 1);
	CHECK_EQ(stats(1).generations, 0);
	/* Who comes back with a new ASID has nothing, and so has missed nothing. */
	run(1, 1);
	flush(1, 1, va_of(0), va_of(1), 12);
	run(0, 1);
	CHECK_EQ(stats(0).flushes_late, 0);
	teardown();
}

/* With broadcast they are the machine's: what is loaded elsewhere, lazily too, keeps its own, and nobody else gets it. */
TEST(a_generation_of_the_machine_leaves_what_is_loaded)
{
	u32 mine, lazy;

	start(3, 5, TDM_FLUSH_BROADCAST);
	for (u32 id = 0; id < 12; id++)
		map_small(id, 0);
	run(1, 0);
	run(2, 1);
	touch(1, 0);
	mine = cpus.core[1].asid;
	lazy = cpus.core[2].asid;
	tdmi_cpus_idle(&cpus, 2);
	for (u32 id = 2; id < 12; id++) {
		run(0, id);
		CHECK(cpus.core[0].asid != mine && cpus.core[0].asid != lazy && cpus.core[0].asid - 1 < 5);
		CHECK(forgotten(0, 0));
	}
	/* 3 free in the first generation, 3 in each later one: 10 spaces. */
	CHECK_EQ(stats(0).generations, 3);
	CHECK_EQ(stats(0).broadcast_ops, 3);
	CHECK_EQ(cpus.core[1].asid, mine);
	CHECK(forgotten(1, 0));
	flush(0, 0, va_of(0), va_of(1), 12);
	CHECK(forgotten(1, 0));
	run(2, 1);
	CHECK_EQ(cpus.core[2].asid, lazy);
	check_clocks();
	teardown();
}

/* A space is destroyed, and another one gets its id. */
TEST(an_id_that_is_used_again_finds_nothing_of_the_old_one)
{
	static const enum tdm_flush_means means[] = { TDM_FLUSH_IPI, TDM_FLUSH_BROADCAST };

	for (u32 i = 0; i < 4; i++) {
		u64 word;

		start(2, i < 2 ? 8 : 0, means[i & 1]);
		map_small(0, 0);
		run(0, 0);
		run(1, 0);
		CHECK_EQ(tdm_cpus_store(&cpus, 0, va_of(0), 77), 0);
		touch(1, 0);
		run(0, 1);
		tdmi_cpus_idle(&cpus, 1);
		tdmi_cpus_forget(&cpus, &space[0]);
		tdmi_cpus_forget(&cpus, &space[0]);
		space_unmake(0);
		space_make(0);
		flush(0, 0, 0, ~(u64)0, 12);
		map_small(0, 0);
		want[0][0].pfn++;
		for (u32 cpu = 0; cpu < 2; cpu++) {
			run(cpu, 0);
			CHECK_EQ(tdm_cpus_load(&cpus, cpu, va_of(0), &word), 0);
			CHECK_EQ(word, 0);
		}
		teardown();
	}
}
