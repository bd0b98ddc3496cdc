/* SPDX-License-Identifier: MIT */
/*
 * stage2_world.h - a guest in a space of space_world.h, and what its table must never say.
 */
#ifndef TDM_TEST_STAGE2_WORLD_H
#define TDM_TEST_STAGE2_WORLD_H

#include "port/stage2.h"
#include "space_world.h"

/* A guest whose memory begins at WORLD_BASE, and one vCPU, on the thread that calls this. */
struct guest {
	struct world t;
	struct tdm_space *s;
	struct tdm_stage2 st;
	struct tdm_vcpu v;
	u32 pages;
};

static inline u64 guest_at(u32 page)
{
	return WORLD_BASE + (u64)page * PAGE;
}

static inline void guest_init(struct guest *g, u64 ram, u32 pages, const struct tdm_stage2_config *config)
{
	world_init(&g->t, ram, 512, "lz4");
	g->s = world_space(&g->t);
	g->pages = pages;
	CHECK_EQ(tdmi_mmap(g->s, g->t.reader, WORLD_BASE, pages * PAGE, RW), 0);
	CHECK_EQ(tdmi_stage2_init(&g->st, g->s, WORLD_BASE, pages * PAGE, config), 0);
	g->v = (struct tdm_vcpu){ .st = &g->st, .reader = g->t.reader, .section = tdmi_rcu_register(&g->st.rcu) };
	CHECK(g->v.section);
}

static inline void guest_end(struct guest *g)
{
	tdmi_rcu_unregister(g->v.section);
	tdmi_stage2_destroy(&g->st);
	tdmi_space_destroy(g->s, g->t.reader);
	world_end(&g->t);
}

static inline u64 guest_read(struct guest *g, u64 at)
{
	u64 x = 0;

	CHECK_EQ(tdmi_vcpu_access(&g->v, at, &x, sizeof(x), false), 0);
	return x;
}

static inline void guest_write(struct guest *g, u64 at, u64 x)
{
	CHECK_EQ(tdmi_vcpu_access(&g->v, at, &x, sizeof(x), true), 0);
}

/* Every entry names the page that the space's does, and allows no more. Nothing else is running. How many entries there are. */
static inline u32 guest_check(struct tdm_stage2 *st, struct tdm_rcu_reader *reader)
{
	u32 n = 0;

	for (u64 g = 0; g < st->size; g += PAGE) {
		struct tdm_pte e = tdmi_stage2_entry(st, g), of;
		u32 i;

		if (!e.v)
			continue;
		CHECK(tdm_pte_present(e));
		tdmi_rcu_read_lock(reader);
		CHECK_EQ(tdmi_pt_walk(&st->s->pgt, st->start + g, &i, &of)->level, 0);
		tdmi_rcu_read_unlock(reader);
		CHECK(tdm_pte_present(of));
		CHECK_EQ(tdm_pte_pfn(e).v, tdm_pte_pfn(of).v);
		CHECK(!(e.v & TDM_PTE_WRITE) || ((of.v & TDM_PTE_WRITE) && (of.v & TDM_PTE_DIRTY)));
		n++;
	}
	return n;
}

#endif
