/* SPDX-License-Identifier: MIT */
/*
 * Everything at once, against a flat model: what the program reads is what it wrote, whatever was done to its memory. With a device, which has pages in its
 * own memory, pages for itself, pins, and a page table (shadow.h): what it knows is true after every step, and what it writes is read by the program.
 */
#include "shadow.h"

#define PINS 64u

static u64 model[PAGES][4];
static u64 rng;
static bool device;

static struct {
	struct tdm_pfn pfn;
	u32 page;
	bool gone; /* the program has unmapped or dropped it: the pin holds a frame, and no page */
} pins[PINS];
static u32 npins;

static u32 rnd(u32 n)
{
	return (u32)(t_rand(&rng) % n);
}

static bool valid(u32 page)
{
	return *tdm_cpu_flags(&cpu, BASE + P(page)) & TDM_CPU_VALID;
}

static void model_access(u32 page)
{
	u32 k = rnd(4);
	u64 va = BASE + P(page) + 1016 * k;

	if (!valid(page))
		return;
	if (rnd(3) == 0) {
		model[page][k] = t_rand(&rng);
		put(va, model[page][k]);
	} else {
		CHECK_EQ(get(va), model[page][k]);
	}
}

/* Pages [a, a + n) are not the program's any more. */
static void forget(u32 a, u32 n)
{
	memset(model[a], 0, n * sizeof(model[0]));
	for (u32 i = 0; i < npins; i++)
		pins[i].gone = pins[i].gone || (pins[i].page >= a && pins[i].page < a + n);
}

static void model_remap(u32 a, u32 n)
{
	u32 to = rnd(PAGES - n);

	if (rnd(3) == 0) {
		a &= ~(TDM_HUGE_PAGES - 1);
		to &= ~(TDM_HUGE_PAGES - 1);
	}
	if (to < a + n && a < to + n)
		return;
	for (u32 i = a; i < a + n; i++)
		if (!valid(i))
			return;
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(a), BASE + P(to), P(n));
	forget(to, n);
	memcpy(model[to], model[a], n * sizeof(model[0]));
	forget(a, n);
	map(BASE + P(a), BASE + P(a + n));
}

/* To the device, or back from it; at times it fails, or is full. */
static void device_change(u64 start_va, u64 end_va)
{
	u64 n;
	int r;

	dev.fail = rnd(6) ? 0 : 1 + rnd(3);
	r = rnd(3) ? tdmi_migrate_to_device(ctx, &dev.pool, start_va, end_va, &n) : tdmi_pool_evict(ctx, &dev.pool, 1 + rnd(300), &n);
	CHECK(!r || r == -ENOSPC || r == -EIO);
	dev.fail = 0;
	device_check();
}

/* What is pinned is where it was, and mapped; what is known is true. */
static void check_device(void)
{
	for (u32 i = 0; i < npins; i++) {
		u32 level;
		struct tdm_pte pte = entry(BASE + P(pins[i].page), &level);

		CHECK(pins[i].gone || (tdm_pte_lent(pte) && tdm_pte_pfn(pte).v + (level ? pins[i].page % TDM_HUGE_PAGES : 0) == pins[i].pfn.v));
	}
	shadow_check();
}

static void unpin_some(u32 keep)
{
	while (npins > keep)
		tdmi_unpin(ctx, &pins[--npins].pfn, 1);
}

static void pin_some(u32 a, u32 n)
{
	struct tdm_pfn pfn[PINS];
	u32 got = 0;
	int r = 0;

	unpin_some(rnd(npins + 1));
	n = TDM_MIN(n, PINS - npins);
	CHECK(tdmi_mm_enter(ctx));
	if (rnd(2))
		got = tdmi_gup_fast(ctx, BASE + P(a), n, pfn);
	else if (n)
		r = tdmi_pin(ctx, BASE + P(a), n, rnd(2) ? TDM_GUP_WRITE : TDM_GUP_READ, pfn, &got);
	tdmi_mm_exit(ctx);
	CHECK(!r || r == -EFAULT);
	for (u32 i = 0; i < got; i++, npins++) {
		pins[npins].pfn = pfn[i];
		pins[npins].page = a + i;
		pins[npins].gone = false;
	}
}

/* The device uses what it can reach by itself. */
static void device_access(u32 a, u32 n)
{
	for (u32 page = a; page < a + n; page++) {
		u8 *bytes = shadow_bytes(page);
		u32 k = rnd(4);

		if (!bytes)
			continue;
		CHECK(!memcmp(bytes + 1016 * k, &model[page][k], sizeof(u64)));
		if (rnd(2)) {
			model[page][k] = t_rand(&rng);
			memcpy(bytes + 1016 * k, &model[page][k], sizeof(u64));
		}
	}
}

static void device_step(u32 a, u32 n)
{
	int r = 0;

	switch (rnd(4)) {
	case 0:
		pin_some(a, 1 + rnd(n));
		break;
	case 1:
		r = shadow_alone(a, a + TDM_MIN(n, 1 + rnd(64)));
		break;
	case 2:
		r = shadow_fill(a, a + n, rnd(3) ? 0 : rnd(2) ? TDM_RF_REQ_FAULT : TDM_RF_REQ_FAULT | TDM_RF_REQ_WRITE);
		break;
	default:
		device_access(a, n);
		break;
	}
	CHECK(!r || r == -EFAULT);
}

static void model_change(void)
{
	u32 n = 1 + rnd(rnd(8) ? 40 : 700), a = rnd(PAGES - n);
	u64 start_va = BASE + P(a), end_va = start_va + P(n), got;

	if (device && rnd(2)) {
		if (rnd(3) == 0) {
			start_va = TDM_ALIGN_DOWN(start_va, H);
			end_va = start_va + H;
		}
		if (rnd(2))
			device_change(start_va, end_va);
		else
			device_step(a, n);
		return;
	}
	switch (rnd(9)) {
	case 0:
		tdmi_cpu_dontneed(&cpu, ctx, start_va, end_va);
		forget(a, n);
		break;
	case 1:
		tdmi_cpu_munmap(&cpu, ctx, start_va, end_va);
		forget(a, n);
		if (rnd(4))
			map(start_va, end_va);
		break;
	case 2:
		model_remap(a, n);
		break;
	case 3:
		CHECK_EQ(tdmi_range_out(ctx, start_va, end_va, &got), 0);
		break;
	case 4:
		home_pages(start_va, end_va);
		break;
	case 5:
		CHECK_EQ(tdmi_bring(ctx, start_va, start_va + P(n / 4)), 0);
		break;
	case 6:
		/* Engage anew over a new mapping with a 2 MiB page in it. */
		a &= ~(TDM_HUGE_PAGES - 1);
		tdmi_cpu_munmap(&cpu, ctx, BASE + P(a), BASE + P(a) + H);
		forget(a, TDM_HUGE_PAGES);
		map(BASE + P(a), BASE + P(a) + H);
		tdmi_cpu_preset(&cpu, BASE + P(a), TDM_HUGE_PAGES, 0, true);
		adopt(BASE + P(a), BASE + P(a) + H);
		if (device && rnd(2))
			device_change(BASE + P(a), BASE + P(a) + H);
		break;
	case 7:
		if (rnd(2)) {
			cpu.again = 1 + rnd(5);
		} else {
			for (u32 i = a; i < a + n; i++)
				if (*tdm_cpu_flags(&cpu, BASE + P(i)) & TDM_CPU_PRESENT)
					*tdm_cpu_flags(&cpu, BASE + P(i)) |= rnd(4) ? TDM_CPU_SHARED : TDM_CPU_PINNED;
		}
		break;
	default:
		for (u32 i = 0; i < PAGES; i++)
			*tdm_cpu_flags(&cpu, BASE + P(i)) &= (u8)~TDM_CPU_PINNED;
		tdmi_age(ctx, n);
		break;
	}
}

static void model_run(u32 accesses, u64 limit, u32 warm, bool with_device)
{
	u64 base;
	u32 at = 0;

	rng = t_seed();
	start();
	device = with_device;
	if (device) {
		device_start(4096);
		shadow_start();
	}
	mm.frames.warm_max = warm;
	base = tdmi_mm_tracked(&mm);
	if (limit != LIMIT_NONE) {
		tdm_a64_st_relaxed(&mm.limit_bytes, base + limit);
		tdm_a64_st_relaxed(&mm.high_bytes, base + limit);
	}
	map(BASE, BASE + P(PAGES));
	for (u32 i = 0; i < accesses; i++) {
		/* Runs, a hot spot, anywhere. */
		at = rnd(20) == 0 ? rnd(PAGES) : rnd(3) == 0 ? rnd(PAGES / 8) : (at + 1) % PAGES;
		model_access(at);
		if (rnd(60) == 0)
			model_change();
		if (device)
			check_device();
		if (i % 2000 == 0)
			check_counters();
	}
	if (device) {
		CHECK(tdm_a64_ld_relaxed(&dev.pool.moved_in) > (t_slow() ? 300 : 1000));
		CHECK(tdm_a64_ld_relaxed(&dev.pool.moved_out) > 100);
		CHECK(tdmi_mm_count(&mm, TDM_C_REVOKED) > 10);
		unpin_some(0);
		CHECK(dev.freed_whole > (t_slow() ? 0 : 2));
	}
	for (u32 i = 0; i < PAGES; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) &= (u8)~TDM_CPU_PINNED;
	if (limit != LIMIT_NONE) {
		tdmi_reclaim(ctx, base + limit, ~(u64)0);
		CHECK(tdmi_mm_usage(&mm) <= base + limit);
		CHECK(tdmi_mm_count(&mm, TDM_C_EVICTED_PAGES) > 0);
	}
	check_counters();
	for (u32 i = 0; i < PAGES; i++)
		for (u32 k = 0; valid(i) && k < 4; k++)
			CHECK_EQ(get(BASE + P(i) + 1016 * k), model[i][k]);
	/* TDM_C_LOST says nothing here: a page of zeros that was moved by mremap while it was home is no page to the CPU. */
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_POISONED), 0);
	if (device) {
		check_device();
		shadow_finish();
		device_finish();
	}
	finish();
}

TEST(random_without_limit, .seconds = 90)
{
	model_run(t_slow() ? 20000 : 60000, LIMIT_NONE, 8, false);
}

TEST(random_under_a_limit, .seconds = 90)
{
	model_run(t_slow() ? 20000 : 60000, (u64)6 << 20, 0, false);
}

TEST(random_under_a_limit_warm, .seconds = 90)
{
	model_run(t_slow() ? 20000 : 60000, (u64)6 << 20, 16, false);
}

TEST(random_with_a_device, .seconds = 90)
{
	model_run(t_slow() ? 20000 : 60000, LIMIT_NONE, 8, true);
}

TEST(random_with_a_device_under_a_limit, .seconds = 90)
{
	model_run(t_slow() ? 20000 : 60000, (u64)6 << 20, 16, true);
}
