// SPDX-License-Identifier: MIT
/*
 * test_gup_races.c - threads that pin, against everybody who takes pages.
 *
 * Threads of a program write words of their own to pages and read them back. At times they pin pages, as a device would that writes to them by itself:
 * as long as they do, each of these is at its address and nowhere else, and holds what they have put there. A main thread takes pages home, packs them, moves
 * them to a device, makes them exclusive; in the upper half of the memory it unmaps and drops them, pinned or not.
 *
 * gup.c and folio.c are compiled into this test with their windows, in which threads dawdle. TDM_SEED=n and TDM_SECONDS=n for other and longer runs, TDM_SHOW=1
 * to see what was done.
 */
#include <pthread.h>
#include <stdlib.h>
#include "mm_world.h"

#define THREADS 3u
#define SAFE (PAGES / 2) /* pages from here on are unmapped and dropped */
#define PIN_MAX 64u

static pthread_mutex_t kernel = PTHREAD_MUTEX_INITIALIZER;
static const struct tdm_port_ops *below;
static struct tdm_ctx *own[THREADS];
static u64 truth[THREADS][SAFE];
static tdm_a32 over;
static tdm_a64 pins, refused, moved, exclusive;
static u64 seed;

static struct {
	struct tdm_pool pool;
	u8 *memory;
} device;

/* ---- the kernel: one call at a time --------------------------------------------------------------------------------------------- */

static void enter(void)
{
	if (plat_now_ns() % 16 == 0)
		plat_yield();
	pthread_mutex_lock(&kernel);
}

static int leave(int r)
{
	pthread_mutex_unlock(&kernel);
	return r;
}

static int k_fill(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	enter();
	return leave(below->fill(p, va, slot, n, done));
}

static int k_fill_copy(struct tdm_port *p, struct tdm_va va, const void *src, u32 n, u32 *done)
{
	enter();
	return leave(below->fill_copy(p, va, src, n, done));
}

static int k_fill_zero(struct tdm_port *p, struct tdm_va va, u32 n, u32 *done)
{
	enter();
	return leave(below->fill_zero(p, va, n, done));
}

static int k_fill_poison(struct tdm_port *p, struct tdm_va va, u32 n)
{
	TDM_BUG("nothing is lost here");
	return -EINVAL;
}

static int k_invalidate(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	enter();
	return leave(below->invalidate(p, va, slot, n, done));
}

static void k_wake(struct tdm_port *p, struct tdm_va va, u32 n)
{
}

static int k_present(struct tdm_port *p, struct tdm_va va, u32 n, u64 *present, bool *huge)
{
	enter();
	return leave(below->present(p, va, n, present, huge));
}

static u64 k_next_present(struct tdm_port *p, u64 va, u64 end)
{
	enter();
	va = below->next_present(p, va, end);
	(void)leave(0);
	return va;
}

static int k_unshare(struct tdm_port *p, struct tdm_va va, u32 n)
{
	enter();
	return leave(below->unshare(p, va, n));
}

static int k_mapping(struct tdm_port *p, u64 va, struct tdm_port_mapping *m)
{
	enter();
	return leave(below->mapping(p, va, m));
}

static void k_discard(struct tdm_port *p, void *const *slot, const u32 *n, u32 count)
{
	enter();
	below->discard(p, slot, n, count);
	(void)leave(0);
}

static void k_drain(struct tdm_port *p, struct tdm_ctx *c)
{
}

static const struct tdm_port_ops ops = {
	.name = "kernel",
	.caps = { .shared_table = false, .access = TDM_AF_SOFTWARE, .page_sizes = TDM_PAGE_SIZE | TDM_HUGE_SIZE },
	.fill = k_fill,
	.fill_copy = k_fill_copy,
	.fill_zero = k_fill_zero,
	.fill_poison = k_fill_poison,
	.invalidate = k_invalidate,
	.wake = k_wake,
	.present = k_present,
	.next_present = k_next_present,
	.unshare = k_unshare,
	.mapping = k_mapping,
	.discard = k_discard,
	.discard_many = k_discard,
	.drain = k_drain,
};

static int copy_in(struct tdm_pool *p, u32 frame, const void *src, u32 n)
{
	memcpy(device.memory + P(frame), src, P(n));
	return 0;
}

static int copy_out(struct tdm_pool *p, void *dst, u32 frame, u32 n)
{
	memcpy(dst, device.memory + P(frame), P(n));
	return 0;
}

static const struct tdm_pool_ops pool_ops = { .name = "device", .copy_in = copy_in, .copy_out = copy_out };

/* ---- the program ----------------------------------------------------------------------------------------------------------------- */

static u64 *word_at(u32 me, u32 page)
{
	return (u64 *)(void *)(cpu.bytes + P(page)) + 1 + me;
}


/* Read the thread's word, or write it. false: there is no mapping. */
static bool word(u32 me, u32 page, u64 *w, bool write)
{
	for (;;) {
		u32 flags;

		enter();
		flags = cpu.flags[page];
		if ((flags & TDM_CPU_PRESENT) && write)
			*word_at(me, page) = *w;
		else if (flags & TDM_CPU_PRESENT)
			*w = *word_at(me, page);
		(void)leave(0);
		if (flags & TDM_CPU_PRESENT)
			return true;
		if (!(flags & TDM_CPU_VALID))
			return false;
		CHECK(tdmi_mm_enter(own[me]));
		(void)tdmi_fault(own[me], (struct tdm_va){ BASE + P(page) }, write);
		tdmi_mm_exit(own[me]);
	}
}

static void visit(u32 me, u32 page, u64 *r)
{
	u64 w;

	if (page >= SAFE) {
		w = t_rand(r);
		(void)word(me, page, &w, t_rand(r) % 2);
		return;
	}
	CHECK(word(me, page, &w, false));
	CHECK_EQ(w, truth[me][page]);
	if (t_rand(r) % 2) {
		truth[me][page] = t_rand(r) | 1;
		CHECK(word(me, page, &truth[me][page], true));
	}
}

/* As a device that knows where the page is, and asks nobody. */
static void dma(u32 me, u32 page, u64 *r)
{
	enter();
	CHECK(cpu.flags[page] & TDM_CPU_PRESENT);
	CHECK_EQ(*word_at(me, page), truth[me][page]);
	if (t_rand(r) % 2)
		*word_at(me, page) = truth[me][page] = t_rand(r) | 1;
	(void)leave(0);
}

static void check_entry(u32 me, u32 page, struct tdm_pfn pfn)
{
	struct tdm_pte pte;
	struct tdm_pt *pt;
	u32 i;

	tdmi_rcu_read_lock(own[me]->rcu);
	pt = tdmi_pt_walk(&mm.pgt, BASE + P(page), &i, &pte);
	CHECK(tdm_pte_lent(pte));
	CHECK_EQ(tdm_pte_pfn(pte).v + (pt->level ? page % TDM_HUGE_PAGES : 0), pfn.v);
	tdmi_rcu_read_unlock(own[me]->rcu);
}

static void pin(u32 me, u32 page, u32 n, u64 *r)
{
	struct tdm_pfn pfn[PIN_MAX];
	u32 got = 0;
	int err = 0;

	CHECK(tdmi_mm_enter(own[me]));
	if (t_rand(r) % 2)
		got = tdmi_gup_fast(own[me], BASE + P(page), n, pfn);
	else
		err = tdmi_pin(own[me], BASE + P(page), n, t_rand(r) % 2 ? TDM_GUP_WRITE : TDM_GUP_READ, pfn, &got);
	tdmi_mm_exit(own[me]);
	if (page + n <= SAFE)
		CHECK(!err || err == -EBUSY);
	tdm_a64_add_relaxed(err ? &refused : &pins, err ? 1 : got);
	for (u32 again = (u32)(t_rand(r) % 8); again && page + n <= SAFE; again--)
		for (u32 i = 0; i < got; i++) {
			dma(me, page + i, r);
			check_entry(me, page + i, pfn[i]);
		}
	tdmi_unpin(own[me], pfn, got);
}

static void *program(void *arg)
{
	u32 me = (u32)(uintptr_t)arg;
	u64 r = seed * 1000 + me;

	while (!tdm_a32_ld_acquire(&over)) {
		u32 page = (u32)(t_rand(&r) % (PAGES - PIN_MAX)), n = t_rand(&r) % 4 ? 1 : 1 + (u32)(t_rand(&r) % PIN_MAX);

		if (t_rand(&r) % 2)
			pin(me, page, n, &r);
		else
			for (u32 i = 0; i < n; i++)
				visit(me, page + i, &r);
	}
	return NULL;
}

/* ---- main ------------------------------------------------------------------------------------------------------------------------ */

/* Of the upper half: gone, and there again; at times a leaf. */
static void unmap(u32 a, u32 n, bool huge)
{
	u64 va = BASE + P(a);

	enter();
	tdmi_cpu_drop(&cpu, va, va + P(n));
	memset(cpu.flags + a, 0, n);
	(void)leave(0);
	plat_mutex_lock(&mm.event_lock);
	tdmi_zap(ctx, va, va + P(n), TDM_ZAP_UNMAP);
	CHECK_EQ(tdmi_vma_insert(&mm.vmas, va, va + P(n), 0), 0);
	enter();
	memset(cpu.flags + a, TDM_CPU_VALID, n);
	if (huge)
		tdmi_cpu_preset(&cpu, va, n, 0, true);
	(void)leave(0);
	if (huge)
		CHECK_EQ(tdmi_adopt(ctx, va, va + P(n)), 0);
	plat_mutex_unlock(&mm.event_lock);
}

static void drop(u32 a, u32 n)
{
	u64 va = BASE + P(a);

	plat_mutex_lock(&mm.event_lock);
	tdmi_zap(ctx, va, va + P(n), TDM_ZAP_REMOVE);
	plat_mutex_unlock(&mm.event_lock);
	enter();
	tdmi_cpu_drop(&cpu, va, va + P(n));
	(void)leave(0);
}

static void take(u64 *r)
{
	u32 n = 1 + (u32)(t_rand(r) % (t_rand(r) % 8 ? 64 : 600)), a = (u32)(t_rand(r) % (PAGES - n));
	u64 from = BASE + P(a), to = from + P(n), got = 0;
	void *home[600];

	switch (t_rand(r) % 9) {
	case 0:
	case 1:
		CHECK_EQ(tdmi_range_home(ctx, from, to, &got), 0);
		break;
	case 2:
		CHECK_EQ(tdmi_range_out(ctx, from, to, &got), 0);
		break;
	case 3:
		(void)tdmi_migrate_to_device(ctx, &device.pool, from, to, &got);
		tdm_a64_add_relaxed(&moved, got);
		break;
	case 4:
		CHECK_EQ(tdmi_pool_evict(ctx, &device.pool, n, &got), 0);
		break;
	case 5:
		if (a + n <= SAFE && n <= 64)
			CHECK_EQ(tdmi_make_exclusive(ctx, from, to, &device, home, &got), 0);
		tdm_a64_add_relaxed(&exclusive, got);
		break;
	case 6:
		(void)tdmi_reclaim(ctx, 0, 64);
		break;
	case 7:
		a = SAFE + a % (PAGES / 2 - n);
		if (n % 2)
			unmap(a, n, false);
		else
			drop(a, n);
		break;
	default:
		/* The lower half is never unmapped, and has its leaves only once. */
		if (t_rand(r) % 4 == 0)
			unmap(SAFE + a % (PAGES / 2) / 512 * 512, 512, true);
		else
			(void)tdmi_age(ctx, n);
		break;
	}
}

static void begin(void)
{
	start();
	below = cpu.port.ops;
	mm.frames.warm_max = 8;
	map(BASE, BASE + P(PAGES));
	for (u32 page = 0; page < SAFE; page += 1024)
		tdmi_cpu_preset(&cpu, BASE + P(page), 512, 0, true);
	adopt(BASE, BASE + P(SAFE));
	cpu.port.ops = &ops;
	device.memory = plat_map(P(1024));
	CHECK(device.memory != NULL);
	CHECK_EQ(tdmi_pool_init(&device.pool, &pool_ops, NULL, &device, 1024), 0);
	CHECK_EQ(tdmi_pool_attach(&mm, &device.pool), 0);
	tdmi_notifiers_arm(&mm.notifiers);
	for (u32 me = 0; me < THREADS; me++) {
		own[me] = tdmi_ctx_create(&mm);
		CHECK(own[me] != NULL);
		/* A page of zeros that was written to its home is no page to the CPU, and not there afterwards. */
		for (u32 i = 0; i < SAFE; i++) {
			truth[me][i] = t_rand(&seed) | 1;
			CHECK(word(me, i, &truth[me][i], true));
		}
	}
}

static void end(void)
{
	u64 n, w;

	for (u32 me = 0; me < THREADS; me++)
		for (u32 i = 0; i < SAFE; i++) {
			CHECK(word(me, i, &w, false));
			CHECK_EQ(w, truth[me][i]);
		}
	for (u32 f = 0; f < mm.frames.fresh; f++)
		CHECK_EQ(tdm_a16_ld_relaxed(&mm.frames.desc[f].pins), 0);
	CHECK_EQ(tdmi_pool_evict(ctx, &device.pool, ~(u64)0, &n), 0);
	CHECK_EQ(tdmi_pool_detach(&device.pool), 0);
	tdmi_pool_destroy(&device.pool);
	plat_unmap(device.memory, P(1024));
	for (u32 i = 0; i < THREADS; i++)
		tdmi_ctx_destroy(own[i]);
	finish();
}

TEST(pins_against_all, .seconds = 120)
{
	pthread_t th[THREADS];
	const char *asked = getenv("TDM_SECONDS");
	u64 r, stop, rounds = 0, seconds = asked ? strtoull(asked, NULL, 0) : 4;

	seed = r = t_seed();
	begin();
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&th[i], NULL, program, (void *)i), 0);
	for (stop = plat_now_ns() + seconds * 1000000000u; plat_now_ns() < stop; rounds++) {
		CHECK(tdmi_mm_enter(ctx));
		take(&r);
		tdmi_mm_exit(ctx);
		tdmi_rcu_poll(&mm.rcu);
		/* What refused is asked again, at once. */
		plat_mutex_lock(&mm.lru.lock);
		mm.lru.pinned_retry_ns = 0;
		plat_mutex_unlock(&mm.lru.lock);
	}
	tdm_a32_st_release(&over, 1);
	for (u32 i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	printf("# %llu rounds, %llu pins, %llu refused; %llu pages home, %llu to the device, %llu exclusive, %llu not taken\n", (unsigned long long)rounds,
	       (unsigned long long)tdm_a64_ld_relaxed(&pins), (unsigned long long)tdm_a64_ld_relaxed(&refused),
	       (unsigned long long)tdmi_mm_count(&mm, TDM_C_HOME_PAGES), (unsigned long long)tdm_a64_ld_relaxed(&moved),
	       (unsigned long long)tdm_a64_ld_relaxed(&exclusive), (unsigned long long)tdmi_mm_count(&mm, TDM_C_PINNED));
	CHECK(!getenv("TDM_SHOW")); /* what a test prints is shown when it fails */
	end();
}
