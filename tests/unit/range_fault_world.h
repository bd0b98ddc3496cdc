/* SPDX-License-Identifier: MIT */
/*
 * range_fault_world.h - an address space, two devices and a subscriber that counts rounds, for what is asked of a range; and pages in every state that an entry
 * can have.
 */
#ifndef TDM_TESTS_RANGE_FAULT_WORLD_H
#define TDM_TESTS_RANGE_FAULT_WORLD_H

#include "mm/gup.h"
#include "mm/range_fault.h"
#include "device_world.h"
#include "plat/sim.h"

#define NPAGES 1024u
#define NFRAMES 2048u
#define DEV_FRAMES 512u
#define X 100u  /* the page that a test is about, in the first 2 MiB; its block is not otherwise used */
#define LEAF (512u + X) /* and in a leaf of 2 MiB */
#define FAULT TDM_RF_REQ_FAULT
#define WRITE (TDM_RF_REQ_FAULT | TDM_RF_REQ_WRITE)
#define ORDER_HUGE ((u64)TDM_HUGE_ORDER << TDM_RF_ORDER_SHIFT)
#define UNTOUCHED 0x5555u /* in the payload of an entry that nothing was written to */

static u8 memory[(size_t)128 << 20] __attribute__((aligned(TDM_HUGE_SIZE)));
static u64 out[NPAGES];
static struct tdm_interval_notifier sub;
static u32 rounds;

static inline bool on_round(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	rounds++;
	tdm_interval_set_seq(in, cur_seq);
	return true;
}

static const struct tdm_interval_notifier_ops sub_ops = { .invalidate = on_round };

static inline void begin(void)
{
	tdm_sim_init(memory, sizeof(memory));
	start_with(0, NPAGES, NFRAMES);
	device_start_one(&dev, DEV_FRAMES);
	device_start_one(&dev2, DEV_FRAMES);
	map(BASE, BASE + P(NPAGES));
	sub = (struct tdm_interval_notifier){ .name = "test", .ops = &sub_ops };
	rounds = 0;
	CHECK_EQ(tdmi_interval_notifier_insert(&mm.notifiers, &sub, BASE, BASE + P(NPAGES)), 0);
}

static inline void end(void)
{
	tdmi_interval_notifier_remove(&sub);
	device_finish_one(&dev);
	device_finish_one(&dev2);
	finish();
	CHECK_EQ(tdm_sim_locked(), 0);
	tdm_sim_init(NULL, 0);
}

static inline struct tdm_range_fault request(u32 a, u32 b, u64 flags)
{
	for (u32 i = 0; i < b - a; i++)
		out[i] = UNTOUCHED;
	return (struct tdm_range_fault){ .start = BASE + P(a), .end = BASE + P(b), .entry = out, .default_flags = flags, .owner = &dev };
}

static inline int look(u32 a, u32 b, u64 flags)
{
	struct tdm_range_fault rf = request(a, b, flags);
	int r;

	CHECK(tdmi_mm_enter(ctx));
	r = tdmi_range_fault(ctx, &rf);
	tdmi_mm_exit(ctx);
	return r;
}

static inline u64 system_page(u32 page)
{
	return TDM_RF_VALID | TDM_RF_WRITE | (BASE + P(page)) >> TDM_PAGE_SHIFT;
}

/* ---- pages in every state -------------------------------------------------------------------------------------------------------- */

static inline void make_none(u32 page)
{
}

static inline void make_lent(u32 page)
{
	put(BASE + P(page), page);
}

static inline void make_home(u32 page)
{
	put(BASE + P(page), page);
	CHECK_EQ(home_pages(BASE + P(page), BASE + P(page + 1)), 1);
}

static inline void make_swap(u32 page)
{
	put(BASE + P(page), page);
	CHECK_EQ(out_pages(BASE + P(page), BASE + P(page + 1)), 1);
}

static inline void make_private(struct test_device *d, u32 page)
{
	u64 n;

	put(BASE + P(page), page);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &d->pool, BASE + P(page), BASE + P(page + 1), &n), 0);
	CHECK_EQ(n, 1);
}

static inline void make_own(u32 page)
{
	make_private(&dev, page);
}

static inline void make_foreign(u32 page)
{
	make_private(&dev2, page);
}

static inline void make_exclusive(const struct test_device *d, u32 page)
{
	void *home;
	u64 n;

	put(BASE + P(page), page);
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE + P(page), BASE + P(page + 1), d, &home, &n), 0);
	CHECK_EQ(n, 1);
}

static inline void make_own_exclusive(u32 page)
{
	make_exclusive(&dev, page);
}

static inline void make_foreign_exclusive(u32 page)
{
	make_exclusive(&dev2, page);
}

static inline void make_poison(u32 page)
{
	u64 x;

	make_own(page);
	dev.dead = true;
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(page), &x, 8), -EIO);
	dev.dead = false;
}

/* The program has said that it drops the page; the kernel has not done it yet. */
static inline void make_removing(u32 page)
{
	put(BASE + P(page), page);
	plat_mutex_lock(&mm.event_lock);
	tdmi_zap(ctx, BASE + P(page), BASE + P(page + 1), TDM_ZAP_REMOVE);
	plat_mutex_unlock(&mm.event_lock);
}

static inline void make_removed(u32 page)
{
	make_removing(page);
	tdmi_cpu_drop(&cpu, BASE + P(page), BASE + P(page + 1));
}

static inline void make_leaf(u32 page)
{
	u64 va = TDM_ALIGN_DOWN(BASE + P(page), H);

	tdmi_cpu_preset(&cpu, va, TDM_HUGE_PAGES, 0, true);
	put(BASE + P(page), page);
	adopt(va, va + H);
}

static inline void make_leaf_home(u32 page)
{
	u64 va = TDM_ALIGN_DOWN(BASE + P(page), H);

	make_leaf(page);
	CHECK_EQ(home_pages(va, va + H), TDM_HUGE_PAGES);
}

/* A translation without a frame behind it: nothing in the engine makes one yet. */
static inline void set_special(u32 page)
{
	struct tdm_pt *pt;
	struct tdm_pte pte;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(&mm.pgt, BASE + P(page), &i, &pte);
	plat_mutex_lock(&pt->lock);
	tdm_pt_set(pt, i, (struct tdm_pte){ pte.v | TDM_PTE_SPECIAL });
	plat_mutex_unlock(&pt->lock);
	tdmi_rcu_read_unlock(ctx->rcu);
}

static inline void make_special(u32 page)
{
	make_lent(page);
	set_special(page);
}

static inline void make_special_leaf(u32 page)
{
	make_leaf(page);
	set_special(page);
}

static inline void make_hole(u32 page)
{
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(page), BASE + P(page + 1));
}

/* A mapping that is not the engine's. */
static inline void make_unmanaged(u32 page)
{
	make_hole(page);
	*tdm_cpu_flags(&cpu, BASE + P(page)) = TDM_CPU_VALID;
}

static inline void make_unmanaged_there(u32 page)
{
	make_unmanaged(page);
	tdmi_cpu_preset(&cpu, BASE + P(page), 1, 3, false);
}

static inline void exclude(u32 page)
{
	plat_mutex_lock(&mm.event_lock);
	CHECK_EQ(tdmi_vma_insert(&mm.vmas, BASE + P(page), BASE + P(page + 1), TDM_VMA_EXCLUDED), 0);
	plat_mutex_unlock(&mm.event_lock);
}

static inline void make_excluded(u32 page)
{
	exclude(page);
}

static inline void make_excluded_there(u32 page)
{
	exclude(page);
	tdmi_cpu_preset(&cpu, BASE + P(page), 1, 3, false);
}

#endif
