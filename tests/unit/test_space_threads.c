/* SPDX-License-Identifier: MIT */
/*
 * Address spaces with several threads: two that write, one that forks, one that evicts, moves and drops. Under ThreadSanitizer the engine's accesses are what
 * is tested; everywhere that nothing is lost, and that a fork's child has a moment of its parent: of two pages of which one is always written before the other
 * it never has the later write without the earlier one.
 *
 * A CPU's TLB has a lock, which whoever flushes takes: a flush returns when no access by what it has flushed is under way, as a shootdown does.
 */
#include <pthread.h>
#include "space_world.h"

#define THREADS 4u
#define PAGES 64u
#define ROUNDS 4000u

struct cpu {
	pthread_mutex_t lock;
	struct tdm_pte tlb[WORLD_SPACES][WORLD_SPAN];
};

static struct tdm_world w;
static struct cpu cpu[THREADS];
static struct tdm_space *parent;
static u32 coherent;
static tdm_a32 stop;

static u64 at(u32 page)
{
	return WORLD_BASE + page * PAGE;
}

static void flush(void *arg, struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	(void)arg;
	(void)shift;
	for (u32 c = 0; c < THREADS; c++) {
		pthread_mutex_lock(&cpu[c].lock);
		for (u32 i = 0; i < WORLD_SPAN; i++)
			if (at(i) >= start && at(i) < end)
				cpu[c].tlb[s->id][i].v = 0;
		pthread_mutex_unlock(&cpu[c].lock);
	}
}

static const struct tdm_tlb_ops ops = { .flush = flush };

/* One 64-bit word at va, by a CPU. */
static u64 access_word(u32 c, struct tdm_rcu_reader *reader, struct tdm_space *s, u64 va, const u64 *write)
{
	struct tdm_pte *e = &cpu[c].tlb[s->id][(va - WORLD_BASE) / PAGE];

	for (;;) {
		enum tdm_walk_result r = TDM_WALK_OK;
		struct tdm_walk walk;
		u64 x = 0;
		bool hit;
		int err;

		pthread_mutex_lock(&cpu[c].lock);
		hit = tdm_pte_present(*e) && (!write || ((e->v & TDM_PTE_WRITE) && (e->v & TDM_PTE_DIRTY)));
		if (!hit) {
			tdmi_rcu_read_lock(reader);
			r = tdmi_walk(&s->pgt, va, write, TDM_WALK_HW_A | TDM_WALK_HW_D, PAGE, &walk);
			tdmi_rcu_read_unlock(reader);
			e->v = r == TDM_WALK_OK ? walk.pte.v : 0;
			hit = r == TDM_WALK_OK;
		}
		if (hit) {
			tdm_a64 *word = (tdm_a64 *)(void *)(tdm_pfn_bytes(&w.phys, tdm_pte_pfn(*e)) + va % PAGE);

			/* Relaxed: who copies a page reads its bytes as bytes. */
			if (write)
				tdm_a64_st_relaxed(word, *write);
			else
				x = tdm_a64_ld_relaxed(word);
		}
		pthread_mutex_unlock(&cpu[c].lock);
		if (hit)
			return x;
		err = tdmi_space_fault(s, reader, va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
		if (err == -ENOMEM)
			plat_yield();
		else
			CHECK_EQ(err, 0);
	}
}

/* Thread c writes to every other page, always two of them in the same order. */
static void *writer(void *arg)
{
	u32 c = (u32)(uintptr_t)arg;
	struct tdm_rcu_reader *reader = tdmi_rcu_register(&w.rcu);

	for (u64 k = 1; k <= ROUNDS; k++)
		for (u32 p = c; p + 2 < PAGES; p += 4) {
			u64 before = k - 1;

			CHECK_EQ(access_word(c, reader, parent, at(p), NULL), before);
			access_word(c, reader, parent, at(p), &k);
			CHECK_EQ(access_word(c, reader, parent, at(p + 2), NULL), before);
			access_word(c, reader, parent, at(p + 2), &k);
		}
	tdm_a32_add_acqrel(&stop, 1);
	tdmi_rcu_unregister(reader);
	return NULL;
}

static void *forker(void *arg)
{
	u32 c = (u32)(uintptr_t)arg;
	struct tdm_rcu_reader *reader = tdmi_rcu_register(&w.rcu);

	while (tdm_a32_ld_acquire(&stop) < 2) {
		struct tdm_space *child;
		int r = tdmi_space_fork(parent, reader, &child);

		if (r == -ENOMEM)
			continue;
		CHECK_EQ(r, 0);
		flush(NULL, child, 0, ~(u64)0, 12);
		for (u32 k = 0; k < 2; k++)
			for (u32 p = k; p + 2 < PAGES; p += 4) {
				u64 first = access_word(c, reader, child, at(p), NULL), second = access_word(c, reader, child, at(p + 2), NULL), mine = 7;

				CHECK(first == second || first == second + 1);
				access_word(c, reader, child, at(p), &mine);
				CHECK_EQ(access_word(c, reader, child, at(p), NULL), 7);
			}
		tdmi_space_destroy(child, reader);
		(void)tdmi_rcu_poll(&w.rcu);
	}
	tdmi_rcu_unregister(reader);
	return NULL;
}

static void *mover(void *arg)
{
	struct tdm_rcu_reader *reader = tdmi_rcu_register(&w.rcu);
	u64 rng = 5;

	(void)arg;
	while (tdm_a32_ld_acquire(&stop) < 2) {
		u32 p = (u32)(t_rand(&rng) % PAGES);

		switch (t_rand(&rng) % 4) {
		case 0:
			(void)tdmi_migrate_page(parent, reader, at(p), t_rand(&rng) % 2 ? coherent : w.ram);
			break;
		case 1:
			CHECK_EQ(tdmi_madvise_dontneed(parent, reader, at(PAGES + p % 8), PAGE), 0);
			break;
		case 2:
			CHECK_EQ(tdmi_clear_soft_dirty(parent, reader, at(p), PAGE), 0);
			break;
		default:
			(void)tdmi_vmscan(&w, reader, 8, 16);
		}
	}
	tdmi_rcu_unregister(reader);
	return NULL;
}

TEST(nothing_is_lost_by_threads, .seconds = 120)
{
	void *(*fn[THREADS])(void *) = { writer, writer, forker, mover };
	struct tdm_rcu_reader *reader;
	struct tdm_tier *tier;
	struct tdm_swap *swap;
	pthread_t thread[THREADS];
	char err[200];

	for (u32 c = 0; c < THREADS; c++)
		pthread_mutex_init(&cpu[c].lock, NULL);
	CHECK_EQ(tdmi_tier_create("lz4", &tier, err, sizeof(err)), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	CHECK_EQ(tdmi_world_init(&w, 512, &ops, NULL, swap), 0);
	CHECK_EQ(tdmi_phys_add(&w.phys, TDM_MEM_COHERENT, 512, &coherent), 0);
	reader = tdmi_rcu_register(&w.rcu);
	CHECK_EQ(tdmi_space_create(&w, &parent), 0);
	CHECK_EQ(tdmi_mmap(parent, reader, at(0), 2 * PAGES * PAGE, RW), 0);
	for (u32 c = 0; c < THREADS; c++)
		CHECK_EQ(pthread_create(&thread[c], NULL, fn[c], (void *)(uintptr_t)c), 0);
	for (u32 c = 0; c < THREADS; c++)
		pthread_join(thread[c], NULL);
	printf("# forks' copies %llu, evicted %llu, brought %llu\n", (unsigned long long)tdm_world_counted(&w, TDM_SC_COPIED),
	       (unsigned long long)tdm_world_counted(&w, TDM_SC_SWAPPED_OUT), (unsigned long long)tdm_world_counted(&w, TDM_SC_SWAPPED_IN));
	tdmi_space_destroy(parent, reader);
	tdmi_rcu_drain(&w.rcu);
	CHECK_EQ(tdmi_phys_used(&w.phys, w.ram), 1);
	CHECK_EQ(tdmi_phys_used(&w.phys, coherent), 0);
	tdmi_rcu_unregister(reader);
	tdmi_world_destroy(&w);
}
