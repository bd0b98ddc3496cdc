/* SPDX-License-Identifier: MIT */
/*
 * A guest's second-stage table with several threads: two vCPUs that write, one that takes their pages away, moves them and forks, and one that asks what has
 * been used. Under ThreadSanitizer the accesses are what is tested; everywhere that no byte is lost, and that in the end the table says of no page what the
 * space does not.
 */
#include <pthread.h>
#include "stage2_world.h"

#define PAGES 64u
#define VCPUS 2u

static struct tdm_world w;
static struct tdm_space *s;
static struct tdm_stage2 st;
static u32 coherent;
static u64 rounds;
static tdm_a32 done, asked, changed; /* vCPUs; what the other two have done */

static void *vcpu(void *arg)
{
	u32 c = (u32)(uintptr_t)arg;
	struct tdm_vcpu v = { .st = &st, .reader = tdmi_rcu_register(&w.rcu), .section = tdmi_rcu_register(&st.rcu) };

	CHECK(v.reader && v.section);
	/* Until the others have had their turn. */
	for (u64 k = 1; k <= rounds || tdm_a32_ld_acquire(&asked) < rounds * 8 || tdm_a32_ld_acquire(&changed) < rounds; k++)
		for (u32 p = c; p < PAGES; p += VCPUS) {
			u64 x = 0;
			int r;

			while ((r = tdmi_vcpu_access(&v, p * PAGE + 16, &x, sizeof(x), false)) == -ENOMEM || r == -EBUSY)
				plat_yield();
			CHECK_EQ(r, 0);
			CHECK_EQ(x, k - 1);
			x = k;
			while ((r = tdmi_vcpu_access(&v, p * PAGE + 16, &x, sizeof(x), true)) == -ENOMEM || r == -EBUSY)
				plat_yield();
			CHECK_EQ(r, 0);
		}
	tdm_a32_add_acqrel(&done, 1);
	tdmi_rcu_unregister(v.reader);
	tdmi_rcu_unregister(v.section);
	return NULL;
}

static void *ager(void *arg)
{
	u64 rng = 11;

	(void)arg;
	while (tdm_a32_ld_acquire(&done) < VCPUS) {
		u64 va = guest_at((u32)(t_rand(&rng) % PAGES)), end = va + (1 + t_rand(&rng) % 4) * PAGE;

		switch (t_rand(&rng) % 4) {
		case 0: (void)tdmi_notifiers_test_young(&s->notifiers, va, end); break;
		case 1: (void)tdmi_notifiers_clear_flush_young(&s->notifiers, va, end); break;
		default: (void)tdmi_notifiers_clear_young(&s->notifiers, va, end);
		}
		tdm_a32_add_acqrel(&asked, 1);
		if (t_rand(&rng) % 16 == 0)
			plat_yield();
	}
	return NULL;
}

static void *changer(void *arg)
{
	struct tdm_rcu_reader *reader = tdmi_rcu_register(&w.rcu);
	struct tdm_space *child;
	u64 rng = 5;

	(void)arg;
	while (tdm_a32_ld_acquire(&done) < VCPUS) {
		u64 va = guest_at((u32)(t_rand(&rng) % PAGES));

		switch (t_rand(&rng) % 8) {
		case 0:
			if (!tdmi_space_fork(s, reader, &child))
				tdmi_space_destroy(child, reader);
			break;
		case 1:
		case 2:
			CHECK_EQ(tdmi_clear_soft_dirty(s, reader, va, PAGE), 0);
			break;
		case 3:
		case 4:
			(void)tdmi_vmscan(&w, reader, 4, 8);
			break;
		default:
			(void)tdmi_migrate_page(s, reader, va, t_rand(&rng) % 2 ? coherent : w.ram);
		}
		(void)tdmi_rcu_poll(&w.rcu);
		tdm_a32_add_acqrel(&changed, 1);
	}
	tdmi_rcu_unregister(reader);
	return NULL;
}

static void run(const struct tdm_stage2_config *config)
{
	void *(*fn[])(void *) = { vcpu, vcpu, ager, changer };
	pthread_t thread[TDM_ARRAY_SIZE(fn)];
	struct tdm_rcu_reader *reader;
	struct tdm_tier *tier;
	struct tdm_swap *swap;
	char err[200];

	rounds = t_slow() ? 1000 : 1500;
	tdm_a32_st_relaxed(&done, 0);
	tdm_a32_st_relaxed(&asked, 0);
	tdm_a32_st_relaxed(&changed, 0);
	CHECK_EQ(tdmi_tier_create("lz4", &tier, err, sizeof(err)), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	CHECK_EQ(tdmi_world_init(&w, 512, NULL, NULL, swap), 0);
	CHECK_EQ(tdmi_phys_add(&w.phys, TDM_MEM_COHERENT, 512, &coherent), 0);
	reader = tdmi_rcu_register(&w.rcu);
	CHECK_EQ(tdmi_space_create(&w, &s), 0);
	CHECK_EQ(tdmi_mmap(s, reader, WORLD_BASE, PAGES * PAGE, RW), 0);
	CHECK_EQ(tdmi_stage2_init(&st, s, WORLD_BASE, PAGES * PAGE, config), 0);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(fn); i++)
		CHECK_EQ(pthread_create(&thread[i], NULL, fn[i], (void *)(uintptr_t)i), 0);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(fn); i++)
		pthread_join(thread[i], NULL);
	(void)guest_check(&st, reader);
	printf("# mode %u: fills %llu, dropped %llu, taken out %llu, young %llu of %llu\n", config->aging, (unsigned long long)tdm_stage2_counted(&st, TDM_S2_FILLS),
	       (unsigned long long)tdm_stage2_counted(&st, TDM_S2_RETRIES), (unsigned long long)tdm_stage2_counted(&st, TDM_S2_CLEARED),
	       (unsigned long long)tdm_stage2_counted(&st, TDM_S2_YOUNG), (unsigned long long)tdm_stage2_counted(&st, TDM_S2_ASKED));
	CHECK(tdm_stage2_counted(&st, TDM_S2_CLEARED) && tdm_stage2_counted(&st, TDM_S2_YOUNG));
	tdmi_stage2_destroy(&st);
	tdmi_space_destroy(s, reader);
	tdmi_rcu_drain(&w.rcu);
	CHECK_EQ(tdmi_phys_used(&w.phys, w.ram), 1);
	CHECK_EQ(tdmi_phys_used(&w.phys, coherent), 0);
	tdmi_rcu_unregister(reader);
	tdmi_world_destroy(&w);
}

TEST(lockless_aging_loses_nothing, .seconds = 120)
{
	run(&(struct tdm_stage2_config){ .aging = TDM_AGING_LOCKLESS, .fill_read = true });
	run(&(struct tdm_stage2_config){ .aging = TDM_AGING_LOCKLESS });
}

TEST(aging_that_reads_loses_nothing, .seconds = 120)
{
	run(&(struct tdm_stage2_config){ .aging = TDM_AGING_READ, .fill_read = true });
}

TEST(aging_that_writes_loses_nothing, .seconds = 120)
{
	run(&(struct tdm_stage2_config){ .aging = TDM_AGING_WRITE });
}
