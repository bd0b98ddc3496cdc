// SPDX-License-Identifier: MIT
/* test_cpus_nomem.c - a machine that cannot be had, or a space that cannot be run, for want of memory leaves nothing behind. */
#include <stdlib.h>
#include "plat/sim.h"
#include "port/cpus.h"
#include "t.h"

#define ARENA ((size_t)16 << 20)

static int no_fault(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, enum tdm_access access)
{
	return -EFAULT;
}

/* Each array is larger than what the allocator has a class for: so it is asked of the platform. */
static const struct tdm_cpus_config config = {
	.n = 3, .asids = 40000, .page_sizes = TDM_PAGE_SIZE, .ceiling = 33, .broadcast_pages = 1, .fault = no_fault,
	.tlb = { .level = { { { 64, 8 }, { 64, 8 }, { 64, 8 } }, { { 256, 8 }, { 0, TDM_TLB_WITH_4K }, { 0, 0 } } } },
};

static struct tdm_cpus cpus;
static struct tdm_world world;
static struct tdm_space space;

TEST(each_allocation_of_a_machine_may_fail)
{
	void *arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	u32 failed = 0;
	int r;

	CHECK(arena);
	for (u64 n = 1;; n++) {
		tdm_sim_init(arena, ARENA);
		tdm_sim_fail(TDM_SIM_MAP, n, 1, 0);
		r = tdmi_cpus_init(&cpus, &config);
		if (!tdm_sim_failed())
			break;
		CHECK_EQ(r, -ENOMEM);
		CHECK_EQ(tdm_sim_mapped(), 0);
		failed++;
	}
	CHECK_EQ(r, 0);
	CHECK(failed > 3 * 4 * 2);
	tdmi_cpus_destroy(&cpus);
	CHECK_EQ(tdm_sim_mapped(), 0);
	free(arena);
}

TEST(a_space_for_which_there_is_no_memory_is_not_run)
{
	void *arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	u32 tries = 0;

	CHECK(arena);
	tdm_sim_init(arena, ARENA);
	tdmi_rcu_init(&world.rcu);
	CHECK_EQ(tdmi_cpus_init(&cpus, &config), 0);
	CHECK_EQ(tdmi_cpus_attach(&cpus, &world), 0);
	space = (struct tdm_space){ .w = &world };
	CHECK_EQ(tdmi_cpus_switch(&cpus, 1, &space), 0);
	tdm_sim_fail(TDM_SIM_MAP, 1, ~(u64)0, 0);
	for (; !tdmi_cpus_switch(&cpus, 1, &space); space.id++) {
		tdmi_cpus_idle(&cpus, 1);
		CHECK(++tries < TDM_SPACES_MAX);
	}
	CHECK(!cpus.space[space.id] && cpus.core[1].lazy);
	CHECK_EQ(cpus.core[1].stats.switches, tries + 1);
	tdm_sim_fail(TDM_SIM_MAP, 0, 0, 0);
	CHECK_EQ(tdmi_cpus_switch(&cpus, 1, &space), 0);
	tdmi_cpus_detach(&cpus);
	tdmi_cpus_destroy(&cpus);
	CHECK_EQ(tdm_sim_mapped(), 0);
	free(arena);
}

TEST(a_world_with_no_reader_left_is_refused)
{
	void *arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);

	CHECK(arena);
	tdm_sim_init(arena, ARENA);
	tdmi_rcu_init(&world.rcu);
	CHECK_EQ(tdmi_cpus_init(&cpus, &config), 0);
	while (tdmi_rcu_register(&world.rcu))
		;
	CHECK_EQ(tdmi_cpus_attach(&cpus, &world), -EBUSY);
	tdmi_cpus_destroy(&cpus);
	free(arena);
}
