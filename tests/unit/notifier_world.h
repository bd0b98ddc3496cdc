/* SPDX-License-Identifier: MIT */
/* notifier_world.h - an address space's notifiers without an address space, and waiting for other threads. */
#ifndef TDM_TESTS_NOTIFIER_WORLD_H
#define TDM_TESTS_NOTIFIER_WORLD_H

#include "mm/notifier.h"
#include "plat/plat.h"
#include "t.h"

#define PAGE TDM_PAGE_SIZE

static struct tdm_alloc alloc;
static struct tdm_rcu rcu;
static struct tdm_notifiers nots;
static u64 seed;

static void setup(void)
{
	seed = t_seed();
	tdmi_alloc_init(&alloc);
	tdmi_rcu_init(&rcu);
	tdmi_notifiers_init(&nots, &alloc, &rcu);
}

static void teardown(void)
{
	tdmi_notifiers_destroy(&nots);
	CHECK_EQ(tdmi_rcu_pending(&rcu), 0);
	CHECK_EQ(tdmi_alloc_used(&alloc), 0);
	tdmi_alloc_destroy(&alloc);
}

static inline void pause_ms(u64 ms)
{
	tdm_a32 nobody_wakes = { 0 };

	plat_wait(&nobody_wakes, 0, ms * 1000000);
}

/* Until n threads sleep in the notifiers. */
static inline void until_asleep(u32 n)
{
	for (;;) {
		bool yes;

		plat_mutex_lock(&nots.lock);
		yes = nots.sleepers >= n;
		plat_mutex_unlock(&nots.lock);
		if (yes)
			return;
		plat_yield();
	}
}

static inline void until(tdm_a32 *a, u32 is)
{
	while (tdm_a32_ld_acquire(a) != is)
		plat_yield();
}

#endif
