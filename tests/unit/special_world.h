/* SPDX-License-Identifier: MIT */
/* special_world.h - a world with a device's memory, a space, and a driver whose buffer is linear in that memory; what tests of drivers' mappings look at. */
#ifndef TDM_TESTS_SPECIAL_WORLD_H
#define TDM_TESTS_SPECIAL_WORLD_H

#include <string.h>
#include "base/bitops.h"
#include "mm/collapse.h"
#include "mm/insert_range.h"
#include "mm/special.h"
#include "runner/t.h"

#define K4 ((u64)4 << 10)
#define M2 ((u64)2 << 20)
#define G1 ((u64)1 << 30)
#define HUGE_ALL (K4 | M2 | G1)
#define BASE (64 * G1)
#define VRAM_PAGES ((u64)1 << 19) /* 2 GiB */
#define RW (TDM_V_READ | TDM_V_WRITE | TDM_V_SHARED | TDM_V_SPECIAL)
#define RO (TDM_V_READ | TDM_V_SHARED | TDM_V_SPECIAL)

#define FLUSHES_MAX 4096u

struct flush {
	struct tdm_space *s;
	u64 start, end;
	u32 shift;
};

static struct tdm_world w;
static struct tdm_space *s;
static struct tdm_rcu_reader *reader;
static u64 vram; /* its first pfn: a multiple of 2^18 */
static struct flush flushes[FLUSHES_MAX];
static u32 nflushes;
static u64 work[TDM_WORK_NR];

static inline void tlb_flush(void *arg, struct tdm_space *of, u64 start, u64 end, u32 shift)
{
	(void)arg;
	if (nflushes < FLUSHES_MAX)
		flushes[nflushes++] = (struct flush){ of, start, end, shift };
}

static inline void tlb_work(void *arg, u32 what, u64 n)
{
	(void)arg;
	work[what] += n;
}

static const struct tdm_tlb_ops tlb_ops = { .flush = tlb_flush, .work = tlb_work };
static const struct tdm_tlb_ops *cpus = &tlb_ops; /* NULL: there are none, and threads may change the same space */

/* Would a TLB that had [va, va + 2^shift) of `of` have forgotten it, by what it was told since `from`? */
static inline bool flushed(struct tdm_space *of, u64 va, u32 shift, u32 from)
{
	for (u32 i = from; i < nflushes; i++)
		if (flushes[i].s == of && flushes[i].start < va + ((u64)1 << shift) && flushes[i].end > va && flushes[i].shift <= shift)
			return true;
	return false;
}

/* A linear buffer: its offset 0 is at `pfn` of the device's memory, where `runs` pages at a time are known to be contiguous. */
struct buffer {
	struct tdm_pfn pfn;
	u64 n;
	u64 run;          /* pages that the driver hands over at once; 0: all */
	u64 max_prefault;
	u64 refuse_above; /* FALLBACK for larger sizes: it does not look whether it is contiguous; 0: never */
	u32 faults, closed, opened;
	u64 sizes;        /* asked for: a mask */
	struct tdm_inserted last;
};

static inline enum tdm_fault_result buffer_fault(struct tdm_map *m, u64 va, u64 size, bool write)
{
	struct tdm_insert how = { TDM_INSERT_YOUNG | (write ? TDM_INSERT_WRITE | TDM_INSERT_DIRTY : 0), va, 0 };
	struct buffer *b = m->arg;
	u64 page = (m->off + (va - m->start)) / K4, run = b->run ? b->run : b->n, first = page / run * run;
	int r;

	b->faults++;
	b->sizes |= size;
	how.max_prefault = b->max_prefault;
	if (b->refuse_above && size > b->refuse_above)
		return TDM_FAULT_FALLBACK;
	if (page >= b->n)
		return TDM_FAULT_SIGBUS;
	r = tdmi_insert_range(m, va - (page - first) * K4, (struct tdm_pfn){ b->pfn.v + first }, TDM_MIN(run, b->n - first), &how, &b->last);
	return !r ? TDM_FAULT_DONE : r == -ENOMEM ? TDM_FAULT_OOM : TDM_FAULT_SIGBUS;
}

static inline void buffer_close(struct tdm_map *m)
{
	((struct buffer *)m->arg)->closed++;
}

static inline void buffer_open(struct tdm_map *m, struct tdm_map *child)
{
	(void)child;
	((struct buffer *)m->arg)->opened++;
}

static const struct tdm_map_ops buffer_ops = { .name = "buffer", .fault = buffer_fault, .close = buffer_close, .open = buffer_open };

static inline void setup(void)
{
	u32 range;

	CHECK_EQ(tdmi_world_init(&w, 1024, cpus, NULL, NULL), 0);
	CHECK_EQ(tdmi_phys_add(&w.phys, TDM_MEM_SPECIAL, VRAM_PAGES, &range), 0);
	vram = w.phys.range[range].first;
	CHECK_EQ(vram % (1u << 18), 0);
	reader = tdmi_rcu_register(&w.rcu);
	CHECK_EQ(tdmi_space_create(&w, &s), 0);
	nflushes = 0;
	memset(work, 0, sizeof(work));
}

static inline void teardown(void)
{
	tdmi_space_destroy(s, reader);
	tdmi_rcu_unregister(reader);
	tdmi_world_destroy(&w);
}

static inline struct tdm_map *map_at(u64 va, u64 len, uintptr_t flags, struct buffer *b, u64 off)
{
	struct tdm_map *m;

	CHECK_EQ(tdmi_mmap_driver(s, reader, va, len, flags, &buffer_ops, b, off, &m), 0);
	return m;
}

struct where {
	bool there;
	u64 pfn;
	u32 level;
	u64 bits;
};

/* What a walker would find for va. */
static inline struct where find_with(struct tdm_space *of, u64 va, struct tdm_rcu_reader *by)
{
	struct where r = { 0 };
	struct tdm_pte e;
	struct tdm_pt *pt;
	u32 i;

	tdmi_rcu_read_lock(by);
	pt = tdmi_pt_walk(&of->pgt, va, &i, &e);
	r.level = pt->level;
	r.there = tdm_pte_present(e);
	if (r.there) {
		CHECK(e.v & TDM_PTE_LEAF);
		CHECK(e.v & TDM_PTE_SPECIAL);
		CHECK_EQ(tdm_pte_pfn(e).v & ((1u << 9 * pt->level) - 1), 0);
		r.pfn = tdm_pte_pfn(e).v + ((va - tdm_pt_va(pt, i)) >> 12);
		r.bits = e.v & (TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	}
	tdmi_rcu_read_unlock(by);
	return r;
}

static inline struct where find_in(struct tdm_space *of, u64 va)
{
	return find_with(of, va, reader);
}

static inline struct where find(u64 va)
{
	return find_in(s, va);
}

static inline bool is_at(u64 va, u64 pfn, u32 level)
{
	struct where x = find(va);

	return x.there && x.pfn == pfn && x.level == level;
}

static inline int insert(struct tdm_map *m, u64 va, u64 pfn, u64 n, u32 flags, struct tdm_inserted *out)
{
	struct tdm_insert how = { .flags = flags, .at = TDM_MAX(va, m->start) };
	int r;

	tdmi_rcu_read_lock(reader);
	r = tdmi_insert_range(m, va, (struct tdm_pfn){ pfn }, n, &how, out);
	tdmi_rcu_read_unlock(reader);
	return r;
}

static inline enum tdm_fault_result insert_one(struct tdm_map *m, u64 va, u64 pfn, u32 level, u32 flags)
{
	struct tdm_insert how = { .flags = flags, .at = va };
	enum tdm_fault_result r;

	tdmi_rcu_read_lock(reader);
	r = tdmi_insert_pfn(m, va, (struct tdm_pfn){ pfn }, level, &how);
	tdmi_rcu_read_unlock(reader);
	return r;
}

static inline u64 special_pages(const struct tdm_space *of)
{
	return tdm_a64_ld_relaxed(&of->special);
}

#endif
