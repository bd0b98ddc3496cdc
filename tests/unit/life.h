/* SPDX-License-Identifier: MIT */
/*
 * life.h - a program's life over the simulated CPU and platform, in which anything may fail: see test_inject.c.
 *
 * Memory of every kind is adopted, touched, taken home, packed, sent down the tiers, read back, dropped, moved and unmapped; what is read is
 * compared with what was written, and the oracle asked, all the time.
 */
#ifndef TDM_TESTS_LIFE_H
#define TDM_TESTS_LIFE_H

#include <sys/mman.h>
#include "mm_oracle.h"
#include "plat/sim.h"

#define ARENA ((size_t)96 << 20)
#define PAGES 2048u
#define FRAMES 3072u

/* What a life returns. */
#define TOUCHED 0
#define UNTOUCHED 42
#define LOST 43 /* the program was told that a page is gone */

/* Besides what the platform can fail. */
#define ALLOC TDM_SIM_OWN        /* the engine's allocator */
#define TIER_PUT (TDM_SIM_OWN * 2)
#define TIER_GET (TDM_SIM_OWN * 4)
#define TIER_FLIP (TDM_SIM_OWN * 8) /* a get gives something else than what was put */
#define TIER_ANY (TIER_PUT | TIER_GET | TIER_FLIP)
#define PORT_FILL (TDM_SIM_OWN * 16) /* any of the fills; of several pages the first half is filled */
#define PORT_TAKE (TDM_SIM_OWN * 32) /* invalidate, likewise */
#define PORT_LOOK (TDM_SIM_OWN * 64) /* present */
#define PORT_HUGE (TDM_SIM_OWN * 128) /* fill and invalidate of 2 MiB: they count here alone */
#define PORT_ANY (PORT_FILL | PORT_TAKE | PORT_LOOK | PORT_HUGE)

/* What fails, and what may come of it. */
struct failure {
	const char *name;
	u32 kinds;
	u64 count;      /* calls, from the Nth */
	int err;        /* of transfers, puts, and what the port refuses */
	bool may_lose;  /* a page may be poisoned */
	bool may_end;   /* the engine may say that there is no memory, and end */
};

struct world {
	const char *tier[3];
};

static const struct failure *how;
static u64 want[PAGES]; /* seed of the page; 0: zeros */
static bool lost[PAGES];

/* ---- pages ---------------------------------------------------------------------------------------------------------------- */

/* A third each: noise, two to one, and one word. */
static void fill_page(u64 *w, u64 seed)
{
	u64 rng = seed;

	for (u32 i = 0; i < 512; i++)
		w[i] = seed % 3 == 0 || (seed % 3 == 1 && i % 2) ? t_rand(&rng) : seed;
}

static void put(u32 i, u64 seed)
{
	u64 w[512];
	int r;

	fill_page(w, seed);
	if (!seed)
		memset(w, 0, sizeof(w));
	r = tdmi_cpu_write(&cpu, ctx, BASE + P(i), w, sizeof(w));
	if (r == -EIO) {
		CHECK(how->may_lose || lost[i]);
		lost[i] = true;
		return;
	}
	CHECK_EQ(r, 0);
	want[i] = seed;
}

static void get(u32 i)
{
	u64 w[512], got[512] = { 0 };
	int r = tdmi_cpu_read(&cpu, ctx, BASE + P(i), got, sizeof(got));

	if (r == -EIO) {
		CHECK(how->may_lose || lost[i]);
		lost[i] = true;
		return;
	}
	CHECK_EQ(r, 0);
	fill_page(w, want[i]);
	if (!want[i])
		memset(w, 0, sizeof(w));
	if (memcmp(w, got, sizeof(w)))
		t_fail(__FILE__, __LINE__, "page %u: %llx instead of %llx", i, (unsigned long long)got[0], (unsigned long long)w[0]);
}

static void put_range(u32 a, u32 b, u64 add)
{
	for (u32 i = a; i < b; i++)
		put(i, i + add);
}

static void get_range(u32 a, u32 b)
{
	for (u32 i = a; i < b; i++)
		get(i);
}

static void forget(u32 a, u32 b)
{
	memset(want + a, 0, (b - a) * sizeof(want[0]));
	memset(lost + a, 0, (b - a) * sizeof(lost[0]));
}

/* ---- operations that may fail ------------------------------------------------------------------------------------------------ */

static bool environment(int r)
{
	return r == 0 || (how->kinds & PORT_ANY && r == how->err) || r == -ENOMEM || r == -ENOSPC || r == -EIO || r == -EACCES || r == -EMFILE;
}

/* false: there is no memory to know of it, and none at the second try. */
static bool map(u32 a, u32 b)
{
	int r = -ENOMEM;

	for (u32 tries = 0; r && tries < 2; tries++) {
		r = tdmi_cpu_mmap(&cpu, ctx, BASE + P(a), BASE + P(b), false);
		CHECK(r == 0 || r == -ENOMEM);
	}
	CHECK(!r || how->count > 1);
	return !r;
}

static void adopt(u32 a, u32 b)
{
	plat_mutex_lock(&mm.event_lock);
	CHECK(environment(tdmi_adopt(ctx, BASE + P(a), BASE + P(b))));
	plat_mutex_unlock(&mm.event_lock);
}

static void out(u32 a, u32 b)
{
	u64 n;

	CHECK(environment(tdmi_range_out(ctx, BASE + P(a), BASE + P(b), &n)));
}

static void home(u32 a, u32 b)
{
	u64 n;

	CHECK(environment(tdmi_range_home(ctx, BASE + P(a), BASE + P(b), &n)));
}

static void bring(u32 a, u32 b)
{
	CHECK(environment(tdmi_bring(ctx, BASE + P(a), BASE + P(b))));
}

static void mremap_pages(u32 from, u32 to, u32 n)
{
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(from), BASE + P(to), P(n));
	memcpy(want + to, want + from, n * sizeof(want[0]));
	memcpy(lost + to, lost + from, n * sizeof(lost[0]));
	forget(from, from + n);
}

/* ---- a tier that fails -------------------------------------------------------------------------------------------------------- */

static const struct tdm_tier_ops *real_ops[3];
static struct tdm_tier_ops bad_ops[3];

static const struct tdm_tier_ops *real_of(const struct tdm_tier *t)
{
	u32 i = 0;

	while (t->ops != &bad_ops[i])
		i++;
	return real_ops[i];
}

static int bad_put(struct tdm_tier *t, const void *blob, u32 len, u64 *handle)
{
	if (tdm_sim_fails(TIER_PUT))
		return how->err ? how->err : -EIO;
	return real_of(t)->put(t, blob, len, handle);
}

static int bad_get(struct tdm_tier *t, u64 handle, u32 len, void *buf, const void **ptr)
{
	static u32 where;
	int r = tdm_sim_fails(TIER_GET) ? -EIO : real_of(t)->get(t, handle, len, buf, ptr);

	if (!r && tdm_sim_fails(TIER_FLIP)) {
		u8 *p = memmove(buf, *ptr, len);

		where += 977;
		p[where % len] ^= (u8)(1u << where % 8);
		*ptr = p;
	}
	return r;
}

static void make_bad(struct tdm_tier *t, u32 i)
{
	real_ops[i] = t->ops;
	bad_ops[i] = *t->ops;
	bad_ops[i].put = bad_put;
	bad_ops[i].get = bad_get;
	t->ops = &bad_ops[i];
}

/* ---- a port that refuses ------------------------------------------------------------------------------------------------------- */

static const struct tdm_port_ops *real_port;
static struct tdm_port_ops bad_port;

/* Pages that are dealt with before the refusal. */
static u32 refused_part(u32 kind, u32 n)
{
	return tdm_sim_fails(n == TDM_HUGE_PAGES ? PORT_HUGE : kind) ? n / 2 : n;
}

static int port_result(int r, u32 part, u32 n)
{
	return r || part == n ? r : how->err;
}

static int bad_fill(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	u32 part = refused_part(PORT_FILL, n);

	*done = 0;
	return port_result(part ? real_port->fill(p, va, slot, part, done) : 0, part, n);
}

static int bad_fill_copy(struct tdm_port *p, struct tdm_va va, const void *src, u32 n, u32 *done)
{
	u32 part = refused_part(PORT_FILL, n);

	*done = 0;
	return port_result(part ? real_port->fill_copy(p, va, src, part, done) : 0, part, n);
}

static int bad_fill_zero(struct tdm_port *p, struct tdm_va va, u32 n, u32 *done)
{
	u32 part = refused_part(PORT_FILL, n);

	*done = 0;
	return port_result(part ? real_port->fill_zero(p, va, part, done) : 0, part, n);
}

static int bad_fill_poison(struct tdm_port *p, struct tdm_va va, u32 n)
{
	return tdm_sim_fails(PORT_FILL) ? how->err : real_port->fill_poison(p, va, n);
}

static int bad_invalidate(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	u32 part = refused_part(PORT_TAKE, n);

	*done = 0;
	return port_result(part ? real_port->invalidate(p, va, slot, part, done) : 0, part, n);
}

static int bad_present(struct tdm_port *p, struct tdm_va va, u32 n, u64 *present, bool *huge)
{
	return tdm_sim_fails(PORT_LOOK) ? how->err : real_port->present(p, va, n, present, huge);
}

static void make_bad_port(void)
{
	real_port = cpu.port.ops;
	bad_port = *cpu.port.ops;
	bad_port.fill = bad_fill;
	bad_port.fill_copy = bad_fill_copy;
	bad_port.fill_zero = bad_fill_zero;
	bad_port.fill_poison = bad_fill_poison;
	bad_port.invalidate = bad_invalidate;
	bad_port.present = bad_present;
	cpu.port.ops = &bad_port;
}

/* ---- a life -------------------------------------------------------------------------------------------------------------------- */

static bool make_world(const struct world *w)
{
	struct tdm_tier *tier[3];
	struct tdm_swap *swap;
	char err[200];
	u32 n = 0;
	int r = 0;

	for (; n < 3 && w->tier[n]; n++) {
		r = tdmi_tier_create(w->tier[n], &tier[n], err, sizeof(err));
		CHECK(environment(r));
		if (r)
			break;
		if (how->kinds & TIER_ANY)
			make_bad(tier[n], n);
	}
	if (!r)
		r = tdmi_swap_create(tier, n, &swap);
	if (r) {
		while (n--)
			tier[n]->ops->destroy(tier[n]);
		return false;
	}
	r = tdmi_mm_init(&mm, &cpu.port, cpu.arena, FRAMES, swap);
	CHECK(environment(r));
	if (r) {
		tdmi_swap_destroy(swap);
		return false;
	}
	tdmi_swap_keep_limit(swap, (u64)256 << 10);
	ctx = tdmi_ctx_create(&mm);
	if (!ctx) {
		tdmi_mm_destroy(&mm);
		return false;
	}
	ctx->may_wait = true;
	return true;
}

/* [512, 1536) is two leaves of 2 MiB that were there before we came. */
static bool begin_life(void)
{
	if (!map(0, 1536))
		return false;
	for (u32 h = 512; h < 1536; h += 512) {
		tdmi_cpu_preset(&cpu, BASE + P(h), 512, 0, true);
		for (u32 i = h; i < h + 512; i++) {
			fill_page((u64 *)(void *)(cpu.bytes + P(i)), i + 7);
			want[i] = i + 7;
		}
	}
	adopt(512, 1536);
	put_range(0, 256, 1);
	get_range(256, 300);
	check_counters();
	return true;
}

/* Leaves: home, back, one page that refuses, and in pieces to a tier. */
static void huge_life(void)
{
	home(512, 1536);
	get(600);
	*tdm_cpu_flags(&cpu, BASE + P(700)) |= TDM_CPU_PINNED;
	home(512, 1024);
	check_counters();
	get_range(690, 710);
	*tdm_cpu_flags(&cpu, BASE + P(700)) &= (u8)~TDM_CPU_PINNED;
	out(1024, 1100);
	get_range(1020, 1200);
	check_counters();
}

static void tiers_life(void)
{
	out(0, 300);
	(void)tdmi_swap_demote(mm.swap, ctx->ws, ~(u64)0);
	check_counters();
	get_range(0, 128);
	put_range(0, 256, 1000);
	check_counters();
	out(0, 256);
	out(512, 1024);
	/* One page of each blob is wanted still; then they are packed again, and cleaned. */
	for (u32 i = 0; i < 256; i++)
		if (i % 16 != 3)
			put(i, i + 2000);
	(void)tdmi_swap_demote(mm.swap, ctx->ws, ~(u64)0);
	tdmi_swap_shrink(mm.swap, ~(u64)0);
	(void)tdmi_reclaim(ctx, (u64)1 << 20, 600);
	(void)tdmi_trim(ctx);
	(void)tdmi_age(ctx, 100);
	check_counters();
	bring(0, 64);
	get_range(0, 300);
	out(0, 256);
	(void)tdmi_swap_forked(mm.swap, false);
	put_range(64, 200, 3000);
	out(0, 256);
	tdm_sim_advance_ns(2000000000);
	tdmi_swap_shrink(mm.swap, ~(u64)0);
	get_range(0, 300);
	check_counters();
}

/* false: there was no memory to know of a mapping. */
static bool changes_life(void)
{
	out(0, 128);
	home(128, 200);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(20), BASE + P(45));
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(130), BASE + P(140));
	forget(20, 45);
	forget(130, 140);
	get_range(10, 150);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(50), BASE + P(77));
	forget(50, 77);
	check_counters();
	if (!map(50, 77))
		return false;
	get_range(50, 77);
	/* A leaf to another place of its kind, or not; and what is home and out. */
	home(1024, 1536);
	mremap_pages(1024, 1536, 512);
	check_counters();
	home(512, 1024);
	out(0, 60);
	mremap_pages(5, 1024 + 3, 300);
	check_counters();
	get_range(1027, 1327);
	get_range(1536, 2048);
	get_range(512, 1024);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(1600), BASE + P(1630));
	forget(1600, 1630);
	get_range(1590, 1640);
	check_counters();
	return true;
}

static void end_life(void)
{
	tdm_sim_fail(TDM_SIM_ALL, 0, 0, 0);
	check_counters();
	for (u32 i = 0; i < PAGES; i++)
		if (*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_VALID)
			get(i);
	check_counters();
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(PAGES));
	while (tdmi_trim(ctx))
		;
	check_counters();
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.frames.used), 0);
	CHECK_EQ(tdm_a64_ld_relaxed(&mm.stale), 0);
	CHECK_EQ(tdmi_cpu_populated(&cpu), 0);
	swap_pages(0);
	tdmi_ctx_destroy(ctx);
	tdmi_mm_destroy(&mm);
}

static int life(const struct world *w, u64 n)
{
	void *arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bool failed, gone = false;

	CHECK(arena != MAP_FAILED);
	tdm_sim_init(arena, ARENA);
	tdmi_tiers_init(NULL);
	CHECK_EQ(tdmi_cpu_init(&cpu, BASE, PAGES, FRAMES), 0);
	if (how->kinds & PORT_ANY)
		make_bad_port();
	unadopted = how->kinds & PORT_LOOK;
	tdm_sim_fail(how->kinds, n, how->count, how->err);
	if (make_world(w)) {
		if (begin_life()) {
			huge_life();
			tiers_life();
			changes_life();
		}
		failed = tdm_sim_failed();
		end_life();
		for (u32 i = 0; i < PAGES; i++)
			gone = gone || lost[i];
	} else {
		failed = tdm_sim_failed();
		CHECK(failed);
	}
	tdmi_cpu_destroy(&cpu);
	CHECK_EQ(tdm_sim_mapped(), 0);
	CHECK_EQ(tdm_sim_files(), 0);
	CHECK_EQ(tdm_sim_locked(), 0);
	return gone ? LOST : failed ? TOUCHED : UNTOUCHED;
}

#endif
