/* SPDX-License-Identifier: MIT */
/*
 * space_world.h - CPUs that remember everything: for tests of mm/space.h and what stands on it.
 *
 * Each CPU has a TLB without end, of which nothing is ever dropped but by a flush. So a flush that is missing anywhere is seen by the first access that relied
 * on it. An entry that was walked for writing is written by without another walk, as hardware does it: an entry that had D in a TLB is dirtied without the
 * table being told.
 */
#ifndef TDM_TEST_SPACE_WORLD_H
#define TDM_TEST_SPACE_WORLD_H

#include <stdlib.h>
#include <string.h>
#include "mm/migrate_page.h"
#include "mm/pin.h"
#include "mm/rmap.h"
#include "mm/shm.h"
#include "mm/space.h"
#include "mm/swapcache.h"
#include "mm/vmscan.h"
#include "pool/codec.h"
#include "port/walk.h"
#include "runner/t.h"

#define PAGE TDM_PAGE_SIZE
#define RW (TDM_V_READ | TDM_V_WRITE)
#define WORLD_CPUS 3u
#define WORLD_SPAN 512u /* pages of each space that the TLBs know of */
#define WORLD_BASE ((u64)1 << 32)
#define WORLD_SPACES 16u

struct world {
	struct tdm_world w;
	struct tdm_rcu_reader *reader;
	u32 coherent;
	struct tdm_pte tlb[WORLD_CPUS][WORLD_SPACES][WORLD_SPAN];
	u32 hw;                  /* TDM_WALK_* */
	u64 flushes, walks, faults;
};

static inline void world_flush(void *arg, struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	struct world *t = arg;

	(void)shift;
	t->flushes++;
	CHECK(s->id < WORLD_SPACES);
	for (u32 c = 0; c < WORLD_CPUS; c++)
		for (u32 i = 0; i < WORLD_SPAN; i++) {
			u64 va = WORLD_BASE + i * PAGE;

			if (va >= start && va < end)
				t->tlb[c][s->id][i].v = 0;
		}
}

static const struct tdm_tlb_ops world_tlb = { .flush = world_flush };

static inline void world_init(struct world *t, u64 ram, u64 coherent, const char *tier)
{
	struct tdm_tier *one;
	struct tdm_swap *swap = NULL;
	char err[200];

	memset(t, 0, sizeof(*t));
	t->hw = TDM_WALK_HW_A | TDM_WALK_HW_D;
	if (tier) {
		CHECK_EQ(tdmi_tier_create(tier, &one, err, sizeof(err)), 0);
		CHECK_EQ(tdmi_swap_create(&one, 1, &swap), 0);
	}
	CHECK_EQ(tdmi_world_init(&t->w, ram, &world_tlb, t, swap), 0);
	if (coherent)
		CHECK_EQ(tdmi_phys_add(&t->w.phys, TDM_MEM_COHERENT, coherent, &t->coherent), 0);
	t->reader = tdmi_rcu_register(&t->w.rcu);
	CHECK(t->reader);
}

/* All spaces are gone: so must be all that they had. */
static inline void world_end(struct world *t)
{
	struct tdm_swap_stats st = { 0 };

	tdmi_rcu_drain(&t->w.rcu);
	CHECK_EQ(tdmi_phys_used(&t->w.phys, t->w.ram), 1); /* the page of zeros */
	if (t->coherent)
		CHECK_EQ(tdmi_phys_used(&t->w.phys, t->coherent), 0);
	if (t->w.swap)
		tdmi_swap_stats(t->w.swap, &st);
	CHECK_EQ(st.pages, 0);
	tdmi_rcu_unregister(t->reader);
	tdmi_world_destroy(&t->w);
}

static inline struct tdm_space *world_space(struct world *t)
{
	struct tdm_space *s;

	CHECK_EQ(tdmi_space_create(&t->w, &s), 0);
	CHECK(s->id < WORLD_SPACES);
	memset((void *)t->tlb[0][s->id], 0, sizeof(t->tlb[0][0]));
	return s;
}

/* The bytes at va, by what that CPU has in its TLB, or a walk and faults. NULL: *err. */
static inline u8 *world_access(struct world *t, u32 cpu, struct tdm_space *s, u64 va, bool write, int *err)
{
	u32 i = (u32)((va - WORLD_BASE) / PAGE);
	struct tdm_pte *e = &t->tlb[cpu][s->id][i];

	*err = 0;
	for (u32 tries = 0; tries < 1000; tries++) {
		struct tdm_walk walk;
		enum tdm_walk_result r;

		if (tdm_pte_present(*e) && (!write || ((e->v & TDM_PTE_WRITE) && (e->v & TDM_PTE_DIRTY))))
			return tdm_pfn_bytes(&t->w.phys, tdm_pte_pfn(*e)) + va % PAGE;
		tdmi_rcu_read_lock(t->reader);
		r = tdmi_walk(&s->pgt, va, write, t->hw, PAGE, &walk);
		tdmi_rcu_read_unlock(t->reader);
		t->walks++;
		if (r == TDM_WALK_OK) {
			*e = walk.pte;
			continue;
		}
		/* The fault is for this page of this CPU: what it remembers of it goes. */
		e->v = 0;
		t->faults++;
		*err = tdmi_space_fault(s, t->reader, va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
		if (*err)
			return NULL;
	}
	CHECK(!"a fault that is served, and served again");
	return NULL;
}

static inline u64 world_read(struct world *t, u32 cpu, struct tdm_space *s, u64 va)
{
	u64 x = 0;
	int err;
	u8 *p = world_access(t, cpu, s, va, false, &err);

	CHECK_EQ(err, 0);
	memcpy(&x, p, sizeof(x));
	return x;
}

static inline void world_write(struct world *t, u32 cpu, struct tdm_space *s, u64 va, u64 x)
{
	int err;
	u8 *p = world_access(t, cpu, s, va, true, &err);

	CHECK_EQ(err, 0);
	memcpy(p, &x, sizeof(x));
}

#endif
