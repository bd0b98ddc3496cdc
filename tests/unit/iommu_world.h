/* SPDX-License-Identifier: MIT */
/*
 * iommu_world.h - an IOMMU over address spaces that are made by hand: a table, notifiers, and a store that pages go to and come from. What the memory
 * management does to a page it does under the table's lock, and tells the notifiers before it uses the frame again: then the frame is filled with POISON, so
 * that whoever still reads it, or writes to it, is found out.
 */
#ifndef TDM_TESTS_IOMMU_WORLD_H
#define TDM_TESTS_IOMMU_WORLD_H

#include <stdlib.h>
#include <string.h>
#include "port/iommu.h"
#include "t.h"

#define PAGE TDM_PAGE_SIZE
#define BASE ((u64)0x40000000) /* of the pages of each space */
#define PAGES 128u             /* that a space has */
#define FRAMES 1024u           /* the first 512 are for a leaf of 2 MiB */
#define SPACES 3u
#define POISON 0xee

/* A page of a space that is not mapped is in its store. */
struct world_space {
	struct tdm_space s;
	u8 *store;
	u8 flags[PAGES]; /* 1: readable; 2: writable */
};

static struct world_space space[SPACES];
static struct tdm_phys phys;
static struct tdm_alloc alloc;
static struct tdm_rcu rcu;
static struct tdm_rcu_reader *reader;
static struct tdm_iommu it;
static u32 used[FRAMES];   /* mappings and pins */
static u64 seed;
/* What the software's side of the test does. */
static u32 faults, pins, unpins;
static int fault_says;     /* not 0: instead of resolving it */
static void (*in_fault)(struct tdm_space *s, u64 va); /* afterwards */

static struct world_space *world_of(struct tdm_space *s)
{
	return tdm_container_of(s, struct world_space, s);
}

static u8 *frame(u32 f)
{
	return phys.range[0].bytes + (size_t)f * PAGE;
}

static u32 frame_alloc(void)
{
	for (u32 f = 512; f < FRAMES; f++) {
		if (!used[f]) {
			used[f] = 1;
			return f;
		}
	}
	t_fail(__FILE__, __LINE__, "no frame is free");
}

static void frame_put(u32 f)
{
	CHECK(used[f] != 0);
	if (--used[f] == 0)
		memset(frame(f), POISON, PAGE);
}

/* The locked table that has va, and the index. */
static struct tdm_pt *table(struct tdm_space *s, u64 va, u32 *i)
{
	struct tdm_pt *pt;

	tdmi_rcu_read_lock(reader);
	CHECK_EQ(tdmi_pt_lock(&s->pgt, va, true, &pt), 0);
	tdmi_rcu_read_unlock(reader);
	*i = tdm_pt_index(pt, va);
	return pt;
}

static struct tdm_pte entry(struct tdm_space *s, u64 va)
{
	struct tdm_pte pte;
	u32 i;

	tdmi_rcu_read_lock(reader);
	tdmi_pt_walk(&s->pgt, va, &i, &pte);
	tdmi_rcu_read_unlock(reader);
	return pte;
}

static u8 *stored(struct tdm_space *s, u64 va)
{
	return world_of(s)->store + ((va - BASE) & TDM_PAGE_MASK);
}

/* The page comes from the store. */
static void page_in(struct tdm_space *s, u64 va, u64 flags)
{
	u32 i, f = frame_alloc();
	struct tdm_pt *pt;

	memcpy(frame(f), stored(s, va), PAGE);
	pt = table(s, va, &i);
	CHECK(tdm_pte_none(tdm_pt_get(pt, i)));
	tdm_pt_xchg(pt, i, tdm_pte_mk((struct tdm_pfn){ f }, flags));
	tdm_pt_unlock(pt);
}

/* It goes there, unless it is not mapped. `told` false: nobody is told. */
static void page_out_told(struct tdm_space *s, u64 va, bool told)
{
	struct tdm_pte was;
	struct tdm_pt *pt;
	u32 i;

	va &= TDM_PAGE_MASK;
	pt = table(s, va, &i);
	was = tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	if (tdm_pte_present(was) && told)
		tdmi_invalidate(&s->notifiers, va, va + PAGE);
	tdm_pt_unlock(pt);
	if (!tdm_pte_present(was))
		return;
	memcpy(stored(s, va), frame((u32)tdm_pte_pfn(was).v), PAGE);
	frame_put((u32)tdm_pte_pfn(was).v);
}

static bool pinned(struct tdm_space *s, u64 va)
{
	struct tdm_pte pte = entry(s, va);

	return tdm_pte_present(pte) && used[tdm_pte_pfn(pte).v] > 1;
}

/* What reclaim does: it leaves pages that are pinned. */
static inline void page_out(struct tdm_space *s, u64 va)
{
	if (!pinned(s, va))
		page_out_told(s, va, true);
}

static void change(struct tdm_space *s, u64 va, u64 set, u64 clear)
{
	struct tdm_pt *pt;
	u32 i;

	pt = table(s, va, &i);
	tdm_pt_change(pt, i, set, clear);
	tdm_pt_unlock(pt);
}

/* Was it used? flush: those who have it are told. */
static inline bool age(struct tdm_space *s, u64 va, bool flush)
{
	struct tdm_pt *pt;
	bool young;
	u32 i;

	pt = table(s, va, &i);
	young = tdm_pt_change(pt, i, 0, TDM_PTE_ACCESSED).v & TDM_PTE_ACCESSED;
	if (young && flush)
		tdmi_invalidate(&s->notifiers, va, va + PAGE);
	tdm_pt_unlock(pt);
	return young;
}

static int resolve_fault(struct tdm_space *s, u64 va, bool write)
{
	struct world_space *w = world_of(s);
	u32 allowed = va >= BASE && va < BASE + PAGES * PAGE ? w->flags[(va - BASE) / PAGE] : 0;

	if (!(allowed & (write ? 2 : 1)))
		return -EFAULT;
	if (!tdm_pte_present(entry(s, va)))
		page_in(s, va, allowed & 2 ? TDM_PTE_WRITE : 0);
	change(s, va, TDM_PTE_ACCESSED | (write ? TDM_PTE_WRITE | TDM_PTE_DIRTY : 0), 0);
	return 0;
}

static int op_fault(void *arg, struct tdm_space *s, u64 va, bool write)
{
	int err = fault_says;

	CHECK(arg == &it && !tdmi_rcu_read_held(reader));
	faults++;
	if (!err)
		err = resolve_fault(s, va, write);
	if (in_fault)
		in_fault(s, va);
	return err;
}

static int op_pin(void *arg, struct tdm_space *s, u64 va, bool write, struct tdm_pfn *pfn)
{
	int err = fault_says ? fault_says : resolve_fault(s, va, write);

	CHECK(arg == &it);
	if (err)
		return err;
	*pfn = tdm_pte_pfn(entry(s, va));
	used[pfn->v]++;
	pins++;
	if (in_fault)
		in_fault(s, va);
	return 0;
}

static void op_unpin(void *arg, struct tdm_space *s, u64 va, struct tdm_pfn pfn, bool write)
{
	(void)write;
	CHECK(arg == &it && s && va % PAGE == 0);
	frame_put((u32)pfn.v);
	unpins++;
}

static const struct tdm_iommu_ops world_ops = { .fault = op_fault, .pin = op_pin, .unpin = op_unpin };

static inline struct tdm_tlb_config tlb_of(u32 sets, u32 ways)
{
	return (struct tdm_tlb_config){ .level = { { { sets, ways }, { 1, 2 }, { 1, 1 } } } };
}

/* What most tests want: hardware flags, exact commands; costs are all different, so that one in the place of another shows. */
static inline struct tdm_iommu_config iommu_config(void)
{
	return (struct tdm_iommu_config){
		.walk = TDM_WALK_HW_A | TDM_WALK_HW_D,
		.page_sizes = TDM_PAGE_SIZE | TDM_HUGE_SIZE,
		.iotlb = tlb_of(16, 4),
		.queue = 16, .split = 8, .requests = 64, .stalls = 8,
		.cost = { .iotlb_hit = 2, .walk_read = 30, .atc_hit = 1, .ats_round_trip = 500, .dma_unit = 7, .request_post = 40, .event = 1000, .handler = 300, .response = 200,
			  .queue_submit = 11, .queue_command = 100, .atc_invalidate = 700, .atc_timeout = 100000, .sync = 50 },
	};
}

static inline struct tdm_iommu_dev_config dev_config(enum tdm_fault_model fault)
{
	return (struct tdm_iommu_dev_config){ .name = "device", .fault = fault, .ats = fault == TDM_FAULTS_PRI, .atc = tlb_of(8, 2), .page_sizes = TDM_PAGE_SIZE, .unit = 64,
					      .burst = 4096, .depth = 4, .group = 8, .credit = 16 };
}

static inline struct tdm_iommu_dev *device(const struct tdm_iommu_dev_config *c)
{
	struct tdm_iommu_dev *dev;

	CHECK_EQ(tdmi_iommu_dev_add(&it, c, &dev), 0);
	return dev;
}

static inline void space_setup(struct world_space *w)
{
	w->store = plat_map(PAGES * PAGE);
	memset(w->flags, 3, sizeof(w->flags));
	w->s.pgt = (struct tdm_pgt){ .alloc = &alloc, .rcu = &rcu };
	CHECK_EQ(tdmi_pt_init(&w->s.pgt), 0);
	tdmi_notifiers_init(&w->s.notifiers, &alloc, &rcu);
}

static inline void setup(const struct tdm_iommu_config *c)
{
	seed = t_seed();
	tdmi_alloc_init(&alloc);
	tdmi_rcu_init(&rcu);
	reader = tdmi_rcu_register(&rcu);
	phys.nranges = 1;
	phys.range[0] = (struct tdm_mem_range){ .n = FRAMES, .bytes = plat_map((size_t)FRAMES * PAGE) };
	memset(phys.range[0].bytes, POISON, (size_t)FRAMES * PAGE);
	for (u32 i = 0; i < SPACES; i++)
		space_setup(&space[i]);
	CHECK_EQ(tdmi_iommu_init(&it, c, &world_ops, &it, &phys, reader, &alloc), 0);
}

static inline void teardown(void)
{
	tdmi_iommu_destroy(&it);
	CHECK_EQ(pins, unpins);
	for (u32 i = 0; i < SPACES; i++) {
		for (u64 va = BASE; va < BASE + PAGES * PAGE; va += PAGE)
			page_out_told(&space[i].s, va, false);
		tdmi_notifiers_destroy(&space[i].s.notifiers);
		tdmi_pt_destroy(&space[i].s.pgt);
		plat_unmap(space[i].store, PAGES * PAGE);
	}
	for (u32 f = 512; f < FRAMES; f++)
		CHECK_EQ(used[f], 0);
	plat_unmap(phys.range[0].bytes, (size_t)FRAMES * PAGE);
	tdmi_rcu_unregister(reader);
	tdmi_rcu_drain(&rcu);
	CHECK_EQ(tdmi_alloc_used(&alloc), 0);
	tdmi_alloc_destroy(&alloc);
}

/* Everything that can go on does, whoever is behind first, until all that is left waits for nothing that will come. most: steps. How many there were. */
static inline u64 run_all(u64 most)
{
	u64 n;

	for (n = 0; n < most; n++) {
		struct tdm_iommu_dev *first = NULL;
		u64 at = tdmi_iommu_handler_next(&it);

		for (u32 i = 0; i < TDM_IOMMU_DEVS_MAX; i++) {
			if (it.dev[i] && tdmi_iommu_dev_next(it.dev[i]) < at) {
				first = it.dev[i];
				at = tdmi_iommu_dev_next(first);
			}
		}
		if (first)
			CHECK(tdmi_iommu_dev_step(first) >= TDM_DEV_WORKED);
		else if (at != ~(u64)0)
			CHECK(tdmi_iommu_handler_step(&it) != TDM_HANDLER_IDLE);
		else
			break;
	}
	return n;
}

/* The handler works until it has nothing to do. */
static inline void handle_all(void)
{
	while (tdmi_iommu_handler_step(&it) != TDM_HANDLER_IDLE)
		;
}

static inline struct tdm_dma dma(u32 pasid, bool write, u64 va, u32 len, u8 *buf)
{
	return (struct tdm_dma){ .pasid = pasid, .write = write, .va = va, .len = len, .buf = buf };
}

static inline u64 counted(enum tdm_iommu_count c)
{
	return tdm_iommu_counted(&it, c);
}

/* A device alone, with PASID 1 of space 0. */
static inline struct tdm_iommu_dev *one_device(const struct tdm_iommu_config *c, const struct tdm_iommu_dev_config *dc)
{
	struct tdm_iommu_dev *dev;

	setup(c);
	dev = device(dc);
	CHECK_EQ(tdmi_iommu_bind(&it, 1, &space[0].s), 0);
	CHECK_EQ(tdmi_iommu_attach(dev, 1), 0);
	return dev;
}

static inline void no_device(struct tdm_iommu_dev *dev)
{
	CHECK_EQ(tdmi_iommu_unbind(&it, 1), 0);
	tdmi_iommu_dev_remove(dev);
	teardown();
}

#endif
