/* SPDX-License-Identifier: MIT */
/* A device with a page table of its own: what it reads and writes is what the program does, wherever the page is. */
#include <pthread.h>
#include <unistd.h>
#include "device_world.h"
#include "port/mirror.h"

static struct tdm_mirror mirror;
static struct tdm_mirror_reader reader;

static void *memory(void *arg, u32 frame)
{
	(void)arg;
	return dev.memory + P(frame);
}

static const struct tdm_mirror_ops ops = { .memory = memory };

static void begin_with(u64 sizes)
{
	start();
	device_start(1024);
	CHECK_EQ(tdmi_mirror_init(&mirror, &mm, "test", &ops, NULL, &dev, sizes), 0);
	CHECK_EQ(tdmi_mirror_reader_init(&reader, &mirror, ctx), 0);
	map(BASE, BASE + P(PAGES));
}

static void begin(void)
{
	begin_with(TDM_MIRROR_4K | TDM_MIRROR_64K | TDM_MIRROR_2M);
}

static void end(void)
{
	u64 n;

	CHECK_EQ(tdmi_bring(ctx, BASE, BASE + P(PAGES)), 0);
	CHECK_EQ(tdmi_pool_evict(ctx, &dev.pool, ~(u64)0, &n), 0);
	tdmi_mirror_reader_destroy(&reader);
	tdmi_mirror_destroy(&mirror);
	device_finish();
	finish();
}

static u64 look(u64 va)
{
	u64 e;

	tdm_mirror_enter(&reader);
	e = tdmi_mirror_lookup(&mirror, va);
	tdm_mirror_exit(&reader);
	return e;
}

static u64 dget(u64 va)
{
	u64 x = 0;
	size_t n;

	CHECK_EQ(tdmi_mirror_copy(&reader, va, &x, sizeof(x), false, &n, NULL), 0);
	CHECK_EQ(n, sizeof(x));
	return x;
}

static void dput(u64 va, u64 x)
{
	size_t n;

	CHECK_EQ(tdmi_mirror_copy(&reader, va, &x, sizeof(x), true, &n, NULL), 0);
}

static u64 to_device(u32 a, u32 b)
{
	u64 n;

	CHECK_EQ(tdmi_migrate_to_device(ctx, &dev.pool, BASE + P(a), BASE + P(b), &n), 0);
	return n;
}

TEST(the_process_s_pages)
{
	begin();
	put(BASE, 11);
	CHECK_EQ(dget(BASE), 11);
	CHECK_EQ(look(BASE), TDM_RF_VALID | BASE >> TDM_PAGE_SHIFT);
	CHECK_EQ(look(BASE + P(1)), 0);
	/* Written: the entry is upgraded. */
	dput(BASE + 8, 12);
	CHECK_EQ(look(BASE), TDM_RF_VALID | TDM_RF_WRITE | BASE >> TDM_PAGE_SHIFT);
	CHECK_EQ(tdm_a64_ld_relaxed(&mirror.upgrades), 1);
	CHECK_EQ(get(BASE + 8), 12);
	/* Evicted: the entry goes, and the page comes back for the device. */
	CHECK_EQ(out_pages(BASE, BASE + P(1)), 1);
	CHECK_EQ(look(BASE), 0);
	CHECK_EQ(dget(BASE), 11);
	/* Never touched before. */
	CHECK_EQ(dget(BASE + P(100)), 0);
	dput(BASE + P(101), 5);
	CHECK_EQ(get(BASE + P(101)), 5);
	end();
}

TEST(its_own_pages)
{
	begin();
	put_range(0, 64, 3);
	CHECK_EQ(to_device(0, 64), 64);
	CHECK_EQ(dget(BASE + P(20) + 8 * 20), 23);
	/* What lies in one block of its memory is one leaf. */
	CHECK_EQ(tdm_rf_order(look(BASE + P(20))), TDM_BLOCK_ORDER);
	CHECK(look(BASE + P(20)) & TDM_RF_DEVICE);
	CHECK(!(look(BASE + P(20)) & TDM_RF_WRITE));
	dput(BASE + P(20), 77);
	CHECK_EQ(dget(BASE + P(20)), 77);
	/* A touch brings it home, and what the device has written with it. */
	CHECK_EQ(get(BASE + P(20)), 77);
	CHECK_EQ(look(BASE + P(20)), 0);
	CHECK_EQ(look(BASE + P(21)), 0);
	dput(BASE + P(20), 78);
	CHECK_EQ(get(BASE + P(20)), 78);
	get_range(21, 64, 3);
	end();
}

TEST(what_goes_leaves_the_table)
{
	begin();
	put_range(0, 48, 0);
	CHECK_EQ(to_device(0, 32), 32);
	for (u32 i = 0; i < 48; i++)
		CHECK_EQ(dget(BASE + P(i) + 8 * i), i);
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(8), BASE + P(9));
	CHECK_EQ(look(BASE + P(8)), 0);
	tdmi_cpu_dontneed(&cpu, ctx, BASE + P(17), BASE + P(18));
	CHECK_EQ(dget(BASE + P(17) + 8 * 17), 0);
	tdmi_cpu_mremap(&cpu, ctx, BASE + P(32), BASE + P(1032), P(4));
	CHECK_EQ(look(BASE + P(33)), 0);
	CHECK_EQ(dget(BASE + P(1033) + 8 * 33), 33);
	/* Gone: the device finds out, and so it does of a mapping that may not be written. */
	size_t n;
	u64 x = 1;
	CHECK_EQ(tdmi_mirror_copy(&reader, BASE + P(8), &x, 8, false, &n, NULL), -EFAULT);
	tdmi_cpu_mprotect(&cpu, BASE + P(40), BASE + P(41), TDM_CPU_RDONLY);
	CHECK_EQ(tdmi_mirror_copy(&reader, BASE + P(40), &x, 8, true, &n, NULL), -EPERM);
	tdmi_cpu_mprotect(&cpu, BASE + P(40), BASE + P(41), 0);
	end();
}

TEST(long_copies_go_through_all_of_it)
{
	u8 *buf = plat_map(P(64));
	u64 faults = 0;
	size_t n;

	begin();
	put_range(0, 64, 9);
	CHECK_EQ(to_device(16, 32), 16);
	CHECK_EQ(out_pages(BASE + P(40), BASE + P(48)), 8);
	CHECK_EQ(tdmi_mirror_copy(&reader, BASE + 100, buf, P(64) - 100, false, &n, &faults), 0);
	CHECK_EQ(n, P(64) - 100);
	for (u32 i = 20; i < 64; i++) {
		u64 x;

		memcpy(&x, buf + P(i) + 8 * i - 100, 8);
		CHECK_EQ(x, i + 9);
	}
	CHECK_EQ(faults, 1);
	end();
	plat_unmap(buf, P(64));
}

static void add(void *p, void *arg)
{
	*(u64 *)p += *(u64 *)arg;
}

TEST(atomics)
{
	u64 one = 1;

	begin();
	put(BASE, 40);
	CHECK_EQ(tdmi_mirror_atomic(&reader, BASE, 8, add, &one), 0);
	CHECK_EQ(tdmi_mirror_atomic(&reader, BASE, 8, add, &one), 0);
	CHECK(look(BASE) & TDM_RF_EXCLUSIVE);
	CHECK(!(*tdm_cpu_flags(&cpu, BASE) & TDM_CPU_PRESENT));
	CHECK_EQ(get(BASE), 42);
	CHECK_EQ(look(BASE), 0);
	CHECK_EQ(tdmi_mm_count(&mm, TDM_C_REVOKED), 1);
	/* In its memory it needs no more. */
	CHECK_EQ(to_device(0, 1), 1);
	CHECK_EQ(tdmi_mirror_atomic(&reader, BASE, 8, add, &one), 0);
	CHECK(look(BASE) & TDM_RF_DEVICE);
	CHECK_EQ(get(BASE), 43);
	CHECK_EQ(tdmi_mirror_atomic(&reader, BASE + P(1) - 4, 8, add, &one), -EINVAL);
	/* Nobody can be shut out of a page that is pinned. */
	*tdm_cpu_flags(&cpu, BASE) |= TDM_CPU_PINNED;
	CHECK_EQ(tdmi_mirror_atomic(&reader, BASE, 8, add, &one), -EBUSY);
	*tdm_cpu_flags(&cpu, BASE) &= (u8)~TDM_CPU_PINNED;
	CHECK_EQ(get(BASE), 43);
	end();
}

/* A leaf of 2 MiB, of the process's; part of it goes, and so does the leaf. */
TEST(large_leaves)
{
	begin();
	tdmi_cpu_preset(&cpu, BASE, 512, 7, true);
	adopt(BASE, BASE + H);
	CHECK_EQ(dget(BASE + 64), 0x0707070707070707);
	CHECK_EQ(tdm_rf_order(look(BASE)), TDM_BLOCK_ORDER);
	CHECK_EQ(tdmi_mirror_fault(&reader, BASE, BASE + H, false, 0, 0), 0);
	CHECK_EQ(tdm_rf_order(look(BASE)), TDM_HUGE_ORDER);
	CHECK_EQ(look(BASE + P(300)) & TDM_RF_PAYLOAD, (BASE + P(300)) >> TDM_PAGE_SHIFT);
	CHECK_EQ(out_pages(BASE + P(16), BASE + P(32)), 16);
	CHECK_EQ(look(BASE + P(300)), 0);
	CHECK_EQ(dget(BASE + P(20)), 0x0707070707070707);
	end();
	begin_with(TDM_MIRROR_4K);
	tdmi_cpu_preset(&cpu, BASE, 512, 7, true);
	adopt(BASE, BASE + H);
	CHECK_EQ(tdmi_mirror_fault(&reader, BASE, BASE + H, false, 0, 0), 0);
	CHECK_EQ(tdm_rf_order(look(BASE + P(300))), 0);
	end();
}

/* A device that is asked to write maps for writing at once, if it is told to: then nothing need be upgraded. */
TEST(reading_does_not_ask_to_write)
{
	begin();
	put_range(0, 16, 1);
	CHECK_EQ(dget(BASE), 1);
	dput(BASE, 2);
	CHECK_EQ(tdm_a64_ld_relaxed(&mirror.upgrades), 1);
	mirror.write_ahead = true;
	CHECK_EQ(dget(BASE + P(512)), 0);
	dput(BASE + P(512), 2);
	CHECK_EQ(tdm_a64_ld_relaxed(&mirror.upgrades), 1);
	end();
}

static void *a_round(void *done)
{
	struct tdm_inv_range round = TDM_INV_RANGE(BASE, BASE + P(1), TDM_INV_CLEAR);

	CHECK_EQ(tdmi_invalidate_start(&mm.notifiers, &round), 0);
	tdm_a32_st_release((tdm_a32 *)done, 1);
	tdmi_invalidate_end(&mm.notifiers, &round);
	return NULL;
}

/* The second round finds nothing in the table, but the device may be using what the first one has taken out: both wait. */
TEST(a_round_waits_for_what_another_has_taken_out)
{
	tdm_a32 done[2] = { { 0 }, { 0 } };
	pthread_t th[2];

	begin();
	put(BASE, 1);
	CHECK_EQ(to_device(0, 1), 1);
	CHECK_EQ(dget(BASE), 1);
	tdm_mirror_enter(&reader);
	CHECK(tdmi_mirror_lookup(&mirror, BASE) & TDM_RF_DEVICE);
	CHECK_EQ(pthread_create(&th[0], NULL, a_round, &done[0]), 0);
	while (tdmi_mirror_lookup(&mirror, BASE))
		plat_yield();
	CHECK_EQ(pthread_create(&th[1], NULL, a_round, &done[1]), 0);
	usleep(50000);
	CHECK(!tdm_a32_ld_acquire(&done[0]));
	CHECK(!tdm_a32_ld_acquire(&done[1]));
	tdm_mirror_exit(&reader);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_join(th[i], NULL), 0);
	CHECK_EQ(get(BASE), 1);
	end();
}
