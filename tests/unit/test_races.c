/* SPDX-License-Identifier: MIT */
/*
 * test_races.c - the engine's own threads against each other, and against forks.
 *
 * Threads of a program read, write and drop (MADV_DONTNEED) pages of a simulated CPU (port/cpu.h) while a main thread takes them home, packs
 * them, and forks. A program's thread serves its own faults, as a handler would, and makes room for them. The CPU stands for the kernel: each
 * call of it is atomic (its page table lock), and threads dawdle around them, under whatever locks the engine holds there. What a page must hold
 * is known to whoever has the page's lock.
 *
 * A fork makes shared what is mapped and what is home: neither can be moved then, as in Linux, until somebody writes to it. Meanwhile the main thread
 * serves faults and notes what it must tell the table afterwards, as run/live_frozen.c does.
 *
 * TDM_SEED=n and TDM_SECONDS=n for other and longer runs, TDM_SHOW=1 to see what was done. With -Dwindows=true the engine dawdles at its locks, too.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/bitops.h"
#include "base/check.h"
#include "mm/mm.h"
#include "pool/codec.h"
#include "port/cpu.h"
#include "runner/t.h"

#define BASE ((u64)1 << 40)
#define PAGES 4096u
#define FRAMES (2 * PAGES)
#define THREADS 3u
#define NOTED 65536u
#define VA(i) (BASE + ((u64)(i) << TDM_PAGE_SHIFT))

enum { ASKS_NOTHING, ASKS_PAGE, ASKS_DROP };

/* What a thread wants while the engine stands still. */
struct ask {
	tdm_a32 what;
	u32 page;
};

static struct {
	struct tdm_port port;
	struct tdm_cpu cpu;
	pthread_mutex_t lock;
	u8 shared[FRAMES]; /* a home is */
} kernel;

static struct tdm_mm mm;
static struct tdm_ctx *ctx[THREADS + 2]; /* the threads', main's, and one for faults of main's */
static u64 truth[PAGES];
static pthread_mutex_t page_lock[PAGES];
static struct ask asks[THREADS];
static tdm_a32 over;
static u64 seed;

static u32 noted[NOTED]; /* during a fork: pages that were given, and dropped ones with DROP set */
static u32 nnoted;
#define DROP ((u32)1 << 31)

static u64 rnd(u64 *s)
{
	u64 x = *s += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static void dawdle(void)
{
	static _Thread_local u64 s;
	u64 x;

	if (!s)
		s = seed * 31 + (u64)pthread_self();
	x = rnd(&s);
	if (x % 256 == 0)
		nanosleep(&(struct timespec){ .tv_nsec = (long)(x >> 40 & 0x3ffff) }, NULL);
	else if (x % 4 == 0)
		sched_yield();
}

/* ---- the kernel: the CPU's operations, one at a time ------------------------------------------------------------------------ */

static const struct tdm_port_ops *below(void)
{
	return kernel.cpu.port.ops;
}

static void enter(void)
{
	dawdle();
	pthread_mutex_lock(&kernel.lock);
}

static void leave(void)
{
	pthread_mutex_unlock(&kernel.lock);
	dawdle();
}

static u8 *shared_at(const void *slot)
{
	return &kernel.shared[((const u8 *)slot - kernel.cpu.arena) >> TDM_PAGE_SHIFT];
}

static int k_fill(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	u32 own = 0;
	int r = 0;

	enter();
	*done = 0;
	while (own < n && !shared_at(slot)[own])
		own++;
	if (own)
		r = below()->fill(&kernel.cpu.port, va, slot, own, done);
	if (!r && own < n)
		r = (*tdm_cpu_flags(&kernel.cpu, va.v + ((u64)own << TDM_PAGE_SHIFT)) & TDM_CPU_PRESENT) ? -EEXIST : -EBUSY;
	leave();
	return r;
}

static int k_fill_copy(struct tdm_port *p, struct tdm_va va, const void *src, u32 n, u32 *done)
{
	int r;

	enter();
	r = below()->fill_copy(&kernel.cpu.port, va, src, n, done);
	leave();
	return r;
}

static int k_fill_zero(struct tdm_port *p, struct tdm_va va, u32 n, u32 *done)
{
	int r;

	enter();
	r = below()->fill_zero(&kernel.cpu.port, va, n, done);
	leave();
	return r;
}

static int k_fill_poison(struct tdm_port *p, struct tdm_va va, u32 n)
{
	TDM_BUG("nothing is lost here");
	return -EINVAL;
}

static int k_invalidate(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	int r;

	enter();
	r = below()->invalidate(&kernel.cpu.port, va, slot, n, done);
	memset(shared_at(slot), 0, *done);
	leave();
	return r;
}

static void k_wake(struct tdm_port *p, struct tdm_va va, u32 n)
{
}

static int k_present(struct tdm_port *p, struct tdm_va va, u32 n, u64 *present, bool *huge)
{
	int r;

	enter();
	r = below()->present(&kernel.cpu.port, va, n, present, huge);
	leave();
	return r;
}

static u64 k_next_present(struct tdm_port *p, u64 va, u64 end)
{
	u64 r;

	enter();
	r = below()->next_present(&kernel.cpu.port, va, end);
	leave();
	return r;
}

/* A write to each page: what is not there is faulted in, by somebody else. */
static int k_unshare(struct tdm_port *p, struct tdm_va va, u32 n)
{
	for (u64 at = va.v; at < va.v + ((u64)n << TDM_PAGE_SHIFT); at += TDM_PAGE_SIZE)
		for (bool done = false; !done;) {
			enter();
			done = *tdm_cpu_flags(&kernel.cpu, at) & TDM_CPU_PRESENT;
			if (done)
				*tdm_cpu_flags(&kernel.cpu, at) &= (u8)~TDM_CPU_SHARED;
			leave();
			if (!done)
				CHECK_EQ(tdmi_fault(ctx[THREADS + 1], (struct tdm_va){ at }, true), 0);
		}
	return 0;
}

static void k_discard(struct tdm_port *p, void *const *slot, const u32 *pages, u32 n)
{
	enter();
	below()->discard(&kernel.cpu.port, slot, pages, n);
	for (u32 i = 0; i < n; i++)
		memset(shared_at(slot[i]), 0, pages[i]);
	leave();
}

static void k_drain(struct tdm_port *p, struct tdm_ctx *c)
{
}

static const struct tdm_port_ops ops = {
	.name = "kernel",
	.caps = { .shared_table = false, .access = TDM_AF_SOFTWARE, .page_sizes = TDM_PAGE_SIZE },
	.fill = k_fill,
	.fill_copy = k_fill_copy,
	.fill_zero = k_fill_zero,
	.fill_poison = k_fill_poison,
	.invalidate = k_invalidate,
	.wake = k_wake,
	.present = k_present,
	.next_present = k_next_present,
	.unshare = k_unshare,
	.discard = k_discard,
	.discard_many = k_discard,
	.drain = k_drain,
};

/* ---- the program ------------------------------------------------------------------------------------------------------------- */

/* Wait until main has done it, or the engine goes on. */
static void ask(u32 me, u32 what, u32 page)
{
	asks[me].page = page;
	tdm_a32_st_release(&asks[me].what, what);
	while (tdm_a32_ld_acquire(&asks[me].what) && tdm_a32_ld_acquire(&mm.gate))
		sched_yield();
}

static void word(u32 me, u32 page, u64 *w, bool write)
{
	u64 at = VA(page) + 8 * (page % 512);
	u8 *flags = tdm_cpu_flags(&kernel.cpu, at);

	for (;;) {
		bool done;

		enter();
		done = *flags & TDM_CPU_PRESENT;
		if (done && write) {
			memcpy(kernel.cpu.bytes + (at - BASE), w, sizeof(*w));
			*flags &= (u8)~TDM_CPU_SHARED;
		} else if (done) {
			memcpy(w, kernel.cpu.bytes + (at - BASE), sizeof(*w));
		}
		leave();
		if (done)
			return;
		if (!tdmi_mm_enter(ctx[me])) {
			u32 old = ASKS_PAGE;

			ask(me, ASKS_PAGE, page);
			tdm_a32_cas_acqrel(&asks[me].what, &old, ASKS_NOTHING);
			continue;
		}
		tdmi_fault(ctx[me], (struct tdm_va){ at & TDM_PAGE_MASK }, write);
		tdmi_mm_exit(ctx[me]);
	}
}

static void drop(u32 me, u32 page)
{
	for (bool told = false; !told;) {
		u32 old = ASKS_DROP;

		if (tdmi_mm_enter(ctx[me])) {
			plat_mutex_lock(&mm.event_lock);
			tdmi_zap(ctx[me], VA(page), VA(page) + TDM_PAGE_SIZE, TDM_ZAP_REMOVE);
			plat_mutex_unlock(&mm.event_lock);
			tdmi_mm_exit(ctx[me]);
			break;
		}
		ask(me, ASKS_DROP, page);
		told = !tdm_a32_cas_acqrel(&asks[me].what, &old, ASKS_NOTHING);
	}
	dawdle();
	enter();
	tdmi_cpu_drop(&kernel.cpu, VA(page), VA(page) + TDM_PAGE_SIZE);
	leave();
}

static void visit(u32 me, u32 page, u64 *r)
{
	u64 w = 0;

	word(me, page, &w, false);
	CHECK_EQ(w, truth[page]);
	if (rnd(r) % 4 == 0) {
		drop(me, page);
		truth[page] = 0;
	}
	if (rnd(r) % 2) {
		truth[page] = rnd(r) | 1;
		word(me, page, &truth[page], true);
	}
}

static void *program(void *arg)
{
	u32 me = (u32)(uintptr_t)arg;
	u64 r = seed * 1000 + me;

	while (!tdm_a32_ld_acquire(&over)) {
		u32 page = (u32)(rnd(&r) % PAGES);

		for (u32 run = rnd(&r) % 4 ? 1 : 1 + (u32)(rnd(&r) % 32); run && page < PAGES; run--, page++) {
			pthread_mutex_lock(&page_lock[page]);
			visit(me, page, &r);
			pthread_mutex_unlock(&page_lock[page]);
		}
	}
	return NULL;
}

/* ---- main ---------------------------------------------------------------------------------------------------------------------- */

static void share_all(void)
{
	enter();
	for (u32 i = 0; i < PAGES; i++)
		if (kernel.cpu.flags[i] & TDM_CPU_PRESENT)
			kernel.cpu.flags[i] |= TDM_CPU_SHARED;
	for (u32 f = 0; f < FRAMES; f++)
		kernel.shared[f] = tdm_bitmap_test(kernel.cpu.populated, f);
	leave();
}

/* As in live_frozen.c. */
static void serve(u32 page)
{
	struct tdm_ctx *c = ctx[THREADS];
	const void *bytes = mm.zeros;
	bool dropped = false;
	u32 done;

	for (u32 i = 0; i < nnoted; i++)
		dropped = dropped || noted[i] == (page | DROP);
	if (!dropped)
		CHECK_EQ(tdmi_frozen_page(c, VA(page), &bytes), 0);
	if (bytes) {
		(void)k_fill_copy(&kernel.port, (struct tdm_va){ VA(page) }, bytes, 1, &done);
		CHECK(nnoted < NOTED);
		noted[nnoted++] = page;
	}
}

static void fork_once(u64 *r)
{
	struct tdm_ctx *c = ctx[THREADS];
	u32 rounds = 1 + (u32)(rnd(r) % 200), when = (u32)(rnd(r) % rounds);

	tdmi_mm_freeze(&mm);
	nnoted = 0;
	for (u32 i = 0; i < rounds; i++) {
		if (i == when)
			share_all();
		for (u32 k = 0; k < THREADS; k++) {
			u32 what = tdm_a32_ld_acquire(&asks[k].what);

			if (what == ASKS_PAGE)
				serve(asks[k].page);
			else if (what == ASKS_DROP)
				noted[nnoted++] = asks[k].page | DROP;
			if (what)
				tdm_a32_st_release(&asks[k].what, ASKS_NOTHING);
		}
		sched_yield();
	}
	plat_mutex_lock(&mm.event_lock);
	for (u32 i = 0; i < nnoted; i++) {
		u64 va = VA(noted[i] & ~DROP);

		if (noted[i] & DROP)
			tdmi_zap(c, va, va + TDM_PAGE_SIZE, TDM_ZAP_REMOVE);
		else
			tdmi_settle(c, va);
	}
	plat_mutex_unlock(&mm.event_lock);
	tdmi_mm_thaw(&mm);
}

static void start(void)
{
	struct tdm_tier *tier;
	struct tdm_swap *swap;

	tdmi_tiers_init(NULL);
	CHECK_EQ(tdmi_cpu_init(&kernel.cpu, BASE, PAGES, FRAMES), 0);
	kernel.port.ops = &ops;
	pthread_mutex_init(&kernel.lock, NULL);
	CHECK_EQ(tdmi_tier_mem_create(TDM_CODEC_LZ4, 0, &tier), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	tdmi_swap_keep_limit(swap, (u64)1 << 20);
	CHECK_EQ(tdmi_mm_init(&mm, &kernel.port, kernel.cpu.arena, FRAMES, swap), 0);
	mm.frames.warm_max = 8;
	for (u32 i = 0; i < TDM_ARRAY_SIZE(ctx); i++) {
		ctx[i] = tdmi_ctx_create(&mm);
		CHECK(ctx[i] != NULL);
	}
	ctx[THREADS]->may_wait = true;
	for (u32 i = 0; i < PAGES; i++)
		pthread_mutex_init(&page_lock[i], NULL);
	CHECK_EQ(tdmi_cpu_mmap(&kernel.cpu, ctx[THREADS], BASE, VA(PAGES), false), 0);
}

static void finish(void)
{
	struct tdm_ctx *c = ctx[THREADS];
	struct tdm_swap_stats st;

	for (u32 i = 0; i < PAGES; i++) {
		u64 w;

		word(0, i, &w, false);
		CHECK_EQ(w, truth[i]);
	}
	tdmi_cpu_munmap(&kernel.cpu, c, BASE, VA(PAGES));
	while (tdmi_trim(c))
		;
	tdmi_swap_stats(mm.swap, &st);
	CHECK_EQ(st.pages, 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.lent) + tdm_a64_ld_relaxed(&mm.home) + tdm_a64_ld_relaxed(&mm.stale), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 0);
	/* No home holds a page that nobody knows of. */
	CHECK_EQ(tdmi_cpu_populated(&kernel.cpu), 0);
	CHECK_EQ(kernel.cpu.misplaced, 0);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(ctx); i++)
		tdmi_ctx_destroy(ctx[i]);
	tdmi_mm_destroy(&mm);
	tdmi_cpu_destroy(&kernel.cpu);
}

static void run(bool forks, u64 seconds)
{
	pthread_t th[THREADS];
	const char *asked = getenv("TDM_SECONDS");
	u64 r, end, rounds = 0;

	seed = t_seed();
	r = seed;
	if (asked)
		seconds = strtoull(asked, NULL, 0);
	start();
	tdm_a64_st_relaxed(&mm.limit_bytes, tdmi_mm_usage(&mm) + ((u64)PAGES / 3 << TDM_PAGE_SHIFT));
	tdm_a64_st_relaxed(&mm.high_bytes, tdm_a64_ld_relaxed(&mm.limit_bytes) - ((u64)256 << 10));
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&th[i], NULL, program, (void *)i), 0);
	for (end = plat_now_ns() + seconds * 1000000000u; plat_now_ns() < end; rounds++) {
		CHECK(tdmi_mm_enter(ctx[THREADS]));
		/* Half of the time more than need be: what is taken is what may be taken wrongly. */
		if (!tdmi_reclaim(ctx[THREADS], tdm_a64_ld_relaxed(&mm.high_bytes) / (1 + rnd(&r) % 2), 64))
			(void)tdmi_trim(ctx[THREADS]);
		tdmi_mm_exit(ctx[THREADS]);
		tdmi_rcu_poll(&mm.rcu);
		if (forks && rnd(&r) % 8 == 0)
			fork_once(&r);
	}
	tdm_a32_st_release(&over, 1);
	for (u32 i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	printf("# %llu rounds, %llu soft, %llu hard, %llu evicted, %llu unshared, %llu lost\n", (unsigned long long)rounds,
	       (unsigned long long)tdmi_mm_count(&mm, TDM_C_SOFT_PAGES), (unsigned long long)tdmi_mm_count(&mm, TDM_C_HARD_PAGES),
	       (unsigned long long)tdmi_mm_count(&mm, TDM_C_EVICTED_PAGES), (unsigned long long)tdmi_mm_count(&mm, TDM_C_UNSHARED),
	       (unsigned long long)tdmi_mm_count(&mm, TDM_C_LOST));
	CHECK(!getenv("TDM_SHOW")); /* what a test prints is shown when it fails */
	finish();
}

TEST(threads_and_reclaim, .seconds = 120)
{
	run(false, 3);
}

TEST(threads_reclaim_and_forks, .seconds = 120)
{
	run(true, 5);
}
