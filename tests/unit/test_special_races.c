/* SPDX-License-Identifier: MIT */
/*
 * test_special_races.c - drivers' mappings with threads: faults, walkers, evictions, collapse, mprotect and munmap at the same time.
 */
#include "base/lockrank.h"
#include "port/walk.h"
#include "special_world.h"

#define PAGES 1536u /* 6 MiB: three tables */
#define RUN_NS ((u64)700 * 1000 * 1000)

static tdm_a32 stop;
static struct tdm_map *m;

struct actor {
	void (*fn)(struct actor *a);
	u64 rng;
	struct tdm_rcu_reader *reader;
	struct plat_thread *t;
	u64 done;
	u8 wrote[PAGES];
};

static void act(void *arg)
{
	struct actor *a = arg;

	a->reader = tdmi_rcu_register(&w.rcu);
	while (!tdm_a32_ld_relaxed(&stop)) {
		a->fn(a);
		a->done++;
	}
	tdmi_rcu_unregister(a->reader);
}

static void run(struct actor *a, u32 n)
{
	u64 end = plat_now_ns() + RUN_NS;

	tdm_a32_st_relaxed(&stop, 0);
	for (u32 i = 0; i < n; i++) {
		a[i].rng = t_seed() + i;
		CHECK_EQ(plat_thread_start(&a[i].t, act, &a[i], "actor"), 0);
	}
	while (plat_now_ns() < end) {
		tdmi_rcu_poll(&w.rcu);
		plat_yield();
	}
	tdm_a32_st_relaxed(&stop, 1);
	for (u32 i = 0; i < n; i++) {
		plat_thread_join(a[i].t);
		CHECK(a[i].done > 0);
	}
}

static int fault(struct actor *a, u64 va, bool write)
{
	return tdmi_special_fault(s, a->reader, va, write);
}

/* ---- A and D through split and collapse */

static enum tdm_fault_result still_fault(struct tdm_map *of, u64 va, u64 size, bool write)
{
	struct tdm_insert how = { TDM_INSERT_YOUNG | (write ? TDM_INSERT_WRITE | TDM_INSERT_DIRTY : 0), va, 0 };
	struct tdm_inserted out;
	int r = tdmi_insert_range(of, BASE, (struct tdm_pfn){ vram }, PAGES, &how, &out);

	(void)size;
	return !r || r == -EFAULT ? TDM_FAULT_DONE : TDM_FAULT_SIGBUS;
}

static const struct tdm_map_ops still_ops = { .name = "still", .fault = still_fault };

/* A CPU that writes, by its walker. */
static void writes(struct actor *a)
{
	u32 k = (u32)(t_rand(&a->rng) % PAGES);
	struct tdm_walk out;
	enum tdm_walk_result r;

	for (;;) {
		tdmi_rcu_read_lock(a->reader);
		r = tdmi_walk(&s->pgt, BASE + k * K4, true, TDM_WALK_HW_A | TDM_WALK_HW_D, HUGE_ALL, &out);
		tdmi_rcu_read_unlock(a->reader);
		if (r == TDM_WALK_OK)
			break;
		/* It may be read-only at the moment. */
		if (fault(a, BASE + k * K4, true) == -EFAULT)
			return;
	}
	CHECK_EQ(tdm_pte_pfn(out.pte).v, vram + k / (1u << (out.shift - 12)) * (1u << (out.shift - 12)));
	a->wrote[k] = 1;
}

/* Read-only and back, by halves of leaves: they are split. Then one leaf each again. */
static void splits_and_collapses(struct actor *a)
{
	u64 from = t_rand(&a->rng) % PAGES, len = 1 + t_rand(&a->rng) % 700, n = TDM_MIN(len, PAGES - from);
	struct tdm_collapsed c;

	CHECK_EQ(tdmi_mprotect(s, a->reader, BASE + from * K4, n * K4, TDM_V_READ), 0);
	CHECK_EQ(tdmi_mprotect(s, a->reader, BASE + from * K4, n * K4, TDM_V_READ | TDM_V_WRITE), 0);
	for (u32 k = 0; k < PAGES; k += 7)
		CHECK_EQ(fault(a, BASE + k * K4, true), 0);
	for (u32 k = 0; k < PAGES; k++) {
		struct tdm_inserted out;
		struct tdm_insert how = { TDM_INSERT_WRITE, BASE + k * K4, 0 };

		tdmi_rcu_read_lock(a->reader);
		CHECK_EQ(tdmi_insert_range(m, BASE + k * K4, (struct tdm_pfn){ vram + k }, 1, &how, &out), 0);
		tdmi_rcu_read_unlock(a->reader);
	}
	tdmi_collapse_range(s, a->reader, BASE, BASE + PAGES * K4, &c);
	CHECK_EQ(find_with(s, BASE, a->reader).level, 1);
}

TEST(no_dirty_bit_is_lost_by_split_and_collapse, .seconds = 60)
{
	static struct actor a[] = { { .fn = writes }, { .fn = writes }, { .fn = splits_and_collapses } };

	cpus = NULL;
	setup();
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, PAGES * K4, RW, &still_ops, NULL, 0, &m), 0);
	run(a, 3);
	for (u32 k = 0; k < PAGES; k++)
		if (a[0].wrote[k] || a[1].wrote[k])
			CHECK(find(BASE + k * K4).bits & TDM_PTE_DIRTY);
	CHECK_EQ(special_pages(s), PAGES);
	printf("# %llu and %llu writes, %llu splits and collapses\n", (unsigned long long)a[0].done, (unsigned long long)a[1].done, (unsigned long long)a[2].done);
	teardown();
}

/* ---- a buffer that moves */

static struct plat_mutex moving; /* the driver's: where the buffer is */
static u64 where;
static tdm_a32 generation;       /* odd: it is being moved */

static enum tdm_fault_result moving_fault(struct tdm_map *of, u64 va, u64 size, bool write)
{
	struct tdm_insert how = { TDM_INSERT_YOUNG | (write ? TDM_INSERT_WRITE | TDM_INSERT_DIRTY : 0), va, 0 };
	struct tdm_inserted out;
	int r;

	/* Sometimes one page, sometimes all. */
	plat_mutex_lock(&moving);
	how.max_prefault = va / K4 % 3 ? 1 : 0;
	r = tdmi_insert_range(of, of->start - of->off, (struct tdm_pfn){ where }, PAGES, &how, &out);
	plat_mutex_unlock(&moving);
	(void)size;
	return !r || r == -EFAULT ? TDM_FAULT_DONE : TDM_FAULT_SIGBUS;
}

static const struct tdm_map_ops moving_ops = { .name = "moving", .fault = moving_fault };

static void faults(struct actor *a)
{
	u32 k = (u32)(t_rand(&a->rng) % PAGES);
	int r = fault(a, BASE + k * K4, t_rand(&a->rng) % 2);

	CHECK(r == 0 || r == -EFAULT);
}

/* What is translated is where the buffer is, unless it was moved meanwhile. */
static void walks(struct actor *a)
{
	u32 k = (u32)(t_rand(&a->rng) % PAGES), g;
	struct tdm_walk out;
	u64 at;

	tdmi_rcu_read_lock(a->reader);
	g = tdm_a32_ld_seqcst(&generation);
	if (tdmi_walk(&s->pgt, BASE + k * K4, false, TDM_WALK_HW_A, K4, &out) == TDM_WALK_OK) {
		at = tdm_pte_pfn(out.pte).v - k;
		CHECK(at == vram || at == vram + 4096 || at == vram + (1 << 18) + 1);
		if (!(g & 1) && tdm_a32_ld_seqcst(&generation) == g)
			CHECK_EQ(at, g / 2 % 3 == 0 ? vram : g / 2 % 3 == 1 ? vram + 4096 : vram + (1 << 18) + 1);
	}
	tdmi_rcu_read_unlock(a->reader);
}

static void moves(struct actor *a)
{
	u32 g;

	plat_mutex_lock(&moving);
	g = tdm_a32_add_seqcst(&generation, 1) + 1;
	tdmi_special_unmap(m, a->reader, BASE, BASE + PAGES * K4, t_rand(&a->rng) % 2);
	for (u32 k = 0; k < PAGES; k += 61)
		CHECK(!find_with(s, BASE + k * K4, a->reader).there);
	where = (g + 1) / 2 % 3 == 0 ? vram : (g + 1) / 2 % 3 == 1 ? vram + 4096 : vram + (1 << 18) + 1;
	tdm_a32_add_seqcst(&generation, 1);
	plat_mutex_unlock(&moving);
}

static void changes(struct actor *a)
{
	u64 from = t_rand(&a->rng) % PAGES, len = 1 + t_rand(&a->rng) % 700, n = TDM_MIN(len, PAGES - from);
	static const uintptr_t rights[] = { 0, TDM_V_READ, TDM_V_READ | TDM_V_WRITE, TDM_V_READ | TDM_V_WRITE };
	uintptr_t to = rights[t_rand(&a->rng) % 4];

	CHECK_EQ(tdmi_mprotect(s, a->reader, BASE + from * K4, n * K4, to), 0);
	/* Whoever has returned from it has the range to himself. */
	for (u64 k = from; k < from + n; k += 13) {
		struct where x = find_with(s, BASE + k * K4, a->reader);

		CHECK(!x.there || to);
		CHECK(!(x.bits & TDM_PTE_WRITE) || (to & TDM_V_WRITE));
	}
}

static void collapses(struct actor *a)
{
	struct tdm_collapsed c;

	tdmi_collapse_range(s, a->reader, BASE, BASE + PAGES * K4, &c);
	plat_yield();
}

TEST(nobody_translates_to_where_the_buffer_was, .seconds = 60)
{
	static struct actor a[] = { { .fn = faults }, { .fn = faults }, { .fn = walks }, { .fn = moves }, { .fn = changes }, { .fn = collapses } };

	cpus = NULL;
	setup();
	plat_mutex_init(&moving, TDM_RANK_DRIVER);
	where = vram;
	tdm_a32_st_relaxed(&generation, 0);
	CHECK_EQ(tdmi_mmap_driver(s, reader, BASE, PAGES * K4, RW, &moving_ops, NULL, 0, &m), 0);
	run(a, 6);
	for (u32 i = 0; i < 6; i++)
		printf("# actor %u: %llu\n", i, (unsigned long long)a[i].done);
	CHECK_EQ(tdmi_munmap(s, reader, BASE, PAGES * K4), 0);
	CHECK_EQ(special_pages(s), 0);
	teardown();
}
