// SPDX-License-Identifier: MIT
/* test_iommu_queue.c - the invalidation queue: which commands a range becomes, what they drop besides, when they are carried out, and what that costs. */
#include "iommu_world.h"

#define S (&space[0].s)

static u8 buf[TDM_DMA_MAX];

/* Read these pages, so that they are in the IOTLB, and in the ATC if there is one. */
static void touch(struct tdm_iommu_dev *dev, u32 first, u32 n)
{
	struct tdm_dma d = dma(1, false, BASE + first * PAGE, n * (u32)PAGE, buf);

	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), 0);
	run_all(100000);
	CHECK_EQ(d.result, 0);
}

static u32 cached(u32 first, u32 n)
{
	u32 yes = 0;

	for (u32 i = 0; i < n; i++)
		yes += tdmi_iommu_caches(&it, S, BASE + (first + i) * PAGE);
	return yes;
}

/* ---- ranges ------------------------------------------------------------------------------------------------------------------------- */

static struct tdm_iommu_dev *filled(struct tdm_iommu_config *c)
{
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;

	c->iotlb = tlb_of(64, 4);
	dc.atc = tlb_of(64, 4);
	dev = one_device(c, &dc);
	touch(dev, 0, 32);
	CHECK_EQ(cached(0, 32), 32);
	memset(it.count, 0, sizeof(it.count));
	return dev;
}

/* One command for pages 7 to 10 names 0 to 15. */
TEST(one_command_covers_more)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev;

	c.split = 1;
	dev = filled(&c);
	tdmi_invalidate(&S->notifiers, BASE + 7 * PAGE, BASE + 11 * PAGE);
	CHECK_EQ(cached(0, 16), 0);
	CHECK_EQ(cached(16, 16), 16);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 1);
	CHECK_EQ(counted(TDM_IC_CMD_ATC), 1);
	CHECK_EQ(counted(TDM_IC_CMD_WHOLE), 0);
	CHECK_EQ(counted(TDM_IC_PAGES_ASKED), 2 * 4);
	CHECK_EQ(counted(TDM_IC_PAGES_OVER), 2 * 12);
	CHECK_EQ(counted(TDM_IC_ENTRIES), 2 * 16);
	CHECK_EQ(counted(TDM_IC_ENTRIES_OVER), 2 * 12);
	no_device(dev);
}

/* The same in 7, 8 and 9, 10: three. */
TEST(several_commands_cover_exactly)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev;

	c.split = 3;
	dev = filled(&c);
	tdmi_invalidate(&S->notifiers, BASE + 7 * PAGE, BASE + 11 * PAGE);
	CHECK_EQ(cached(0, 7), 7);
	CHECK_EQ(cached(7, 4), 0);
	CHECK_EQ(cached(11, 21), 21);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 3);
	CHECK_EQ(counted(TDM_IC_CMD_ATC), 3);
	CHECK_EQ(counted(TDM_IC_PAGES_ASKED), 2 * 4);
	CHECK_EQ(counted(TDM_IC_PAGES_OVER), 0);
	CHECK_EQ(counted(TDM_IC_ENTRIES_OVER), 0);
	CHECK_EQ(counted(TDM_IC_CMD_SYNC), 1);
	no_device(dev);
}

TEST(long_ranges_are_the_whole_pasid)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev;

	c.whole_pages = 8;
	dev = filled(&c);
	tdmi_invalidate(&S->notifiers, BASE, BASE + 8 * PAGE);
	CHECK_EQ(counted(TDM_IC_CMD_WHOLE), 0);
	CHECK_EQ(cached(8, 24), 24);
	tdmi_invalidate(&S->notifiers, BASE, BASE + 9 * PAGE);
	CHECK_EQ(counted(TDM_IC_CMD_WHOLE), 2);
	CHECK_EQ(cached(0, 32), 0);
	CHECK_EQ(counted(TDM_IC_ENTRIES_OVER), 2 * 23);
	touch(dev, 0, 4);
	tdmi_invalidate(&S->notifiers, 0, ~(u64)0);
	CHECK_EQ(counted(TDM_IC_CMD_WHOLE), 4);
	CHECK_EQ(cached(0, 32), 0);
	no_device(dev);
}

/* Whatever the range and the number of commands: what is in it goes, what is not in the smallest power of two around it stays. */
TEST(ranges_at_random, .seconds = 60)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev;
	u64 r = t_seed();

	dev = filled(&c);
	for (u32 n = 0; n < 300; n++) {
		u32 from = (u32)(t_rand(&r) % 32), to = from + 1 + (u32)(t_rand(&r) % (32 - from)), order = 0;

		it.config.split = 1 + (u32)(t_rand(&r) % 8);
		touch(dev, 0, 32);
		memset(it.count, 0, sizeof(it.count));
		tdmi_invalidate(&S->notifiers, BASE + from * PAGE, BASE + to * PAGE);
		while (from >> order != (to - 1) >> order)
			order++;
		CHECK_EQ(cached(from, to - from), 0);
		CHECK(counted(TDM_IC_CMD_ATC) <= it.config.split);
		CHECK_EQ(counted(TDM_IC_PAGES_ASKED), 2 * (to - from));
		if (counted(TDM_IC_PAGES_OVER))
			CHECK_EQ(cached(0, 32), 32 - (1u << order));
		else
			CHECK_EQ(cached(0, 32), 32 - (to - from));
		CHECK_EQ(counted(TDM_IC_ENTRIES_OVER), counted(TDM_IC_PAGES_OVER));
	}
	no_device(dev);
}

/* ---- sync --------------------------------------------------------------------------------------------------------------------------- */

TEST(nothing_is_certain_before_a_sync)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev = filled(&c);

	tdmi_iommu_invalidate(&it, 1, BASE, BASE + PAGE, true, 1);
	tdmi_iommu_invalidate(&it, 1, BASE + PAGE, BASE + 2 * PAGE, true, 1);
	CHECK_EQ(cached(0, 2), 2);
	CHECK_EQ(it.q.prod - it.q.cons, 4);
	/* In order. */
	CHECK_EQ(tdmi_iommu_queue_run(&it, 2), 2);
	CHECK_EQ(cached(0, 1), 0);
	CHECK_EQ(cached(1, 1), 1);
	tdmi_iommu_sync(&it);
	CHECK_EQ(cached(0, 2), 0);
	CHECK_EQ(tdmi_iommu_queue_run(&it, 2), 0);
	no_device(dev);
}

/* The IOTLB goes first: an ATC that was cleared before it would be filled from it again. */
TEST(the_iotlb_is_before_the_atc)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev = filled(&c);

	tdmi_iommu_invalidate(&it, 1, BASE, BASE + PAGE, true, 1);
	CHECK_EQ(tdmi_iommu_queue_run(&it, 1), 1);
	CHECK_EQ(cached(0, 1), 1);
	CHECK_EQ(counted(TDM_IC_ENTRIES), 1);
	CHECK_EQ(it.iotlb.flushed, 1);
	CHECK_EQ(dev->atc.flushed, 0);
	tdmi_iommu_sync(&it);
	CHECK_EQ(dev->atc.flushed, 1);
	no_device(dev);
}

TEST(a_full_queue_makes_the_software_wait)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev;

	c.queue = 4;
	dev = filled(&c);
	for (u32 i = 0; i < 4; i++)
		tdmi_iommu_invalidate(&it, 1, BASE + i * PAGE, BASE + (i + 1) * PAGE, false, 1);
	CHECK_EQ(counted(TDM_IC_QUEUE_FULL), 0);
	CHECK_EQ(cached(0, 4), 4);
	tdmi_iommu_invalidate(&it, 1, BASE + 4 * PAGE, BASE + 5 * PAGE, false, 1);
	CHECK_EQ(counted(TDM_IC_QUEUE_FULL), 1);
	CHECK_EQ(it.q.prod - it.q.cons, 4);
	CHECK_EQ(dev->atc.flushed, 1);
	tdmi_iommu_sync(&it);
	CHECK_EQ(dev->atc.flushed, 5);
	no_device(dev);
}

/* ---- cycles: submit 11, command 100, answer of an ATC 700, sync 50 ------------------------------------------------------------------------ */

/* Of an invalidation of one page, with that many devices. */
static u64 price(u32 devices, bool sync_each, bool snoop)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	u64 before, waited;

	c.sync_each = sync_each;
	c.snoop = snoop;
	setup(&c);
	CHECK_EQ(tdmi_iommu_bind(&it, 1, S), 0);
	for (u32 i = 0; i < devices; i++)
		CHECK_EQ(tdmi_iommu_attach(device(&dc), 1), 0);
	before = it.soft_clock;
	tdmi_iommu_snoop(&it, S, BASE, BASE + PAGE);
	tdmi_invalidate(&S->notifiers, BASE, BASE + PAGE);
	before = it.soft_clock - before;
	waited = counted(TDM_IC_SYNC_CYCLES);
	CHECK_EQ(waited, before - 11 * (counted(TDM_IC_CMD_IOTLB) + counted(TDM_IC_CMD_ATC) + counted(TDM_IC_CMD_SYNC)));
	CHECK_EQ(tdmi_iommu_unbind(&it, 1), 0);
	for (u32 i = 0; i < devices; i++)
		tdmi_iommu_dev_remove(it.dev[i]);
	teardown();
	return before;
}

TEST(cycles_of_an_invalidation)
{
	/* IOTLB from 11 to 111; the sync is there at 22. */
	CHECK_EQ(price(0, false, false), 111 + 50);
	/* ATC from 111 to 211, answers at 911. */
	CHECK_EQ(price(1, false, false), 911 + 50);
	/* The second from 211 to 311, answers at 1011: the answers overlap. */
	CHECK_EQ(price(2, false, false), 1011 + 50);
	/* IOTLB 11, 111, sync to 161. ATC 172, 272, 972, sync to 1022. */
	CHECK_EQ(price(1, true, false), 161 + 11 + 100 + 700 + 50);
	CHECK_EQ(price(2, true, false), 161 + 2 * (11 + 100 + 700 + 50));
	CHECK_EQ(price(1, false, true), 11 + 100 + 700 + 50);
	CHECK_EQ(price(0, false, true), 0);
}

/* ---- a device that does not answer -------------------------------------------------------------------------------------------------------- */

TEST(a_device_that_does_not_answer_is_cut_off)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev *dev = filled(&c);
	struct tdm_dma d = dma(1, true, BASE, PAGE, buf), queued = dma(1, true, BASE + PAGE, PAGE, buf);
	u64 before;

	dev->mute = true;
	before = it.soft_clock;
	page_out(S, BASE);
	CHECK_EQ(counted(TDM_IC_ATC_TIMEOUTS), 1);
	CHECK(it.soft_clock - before > 100000);
	/* It believes that it knows where the page is. */
	CHECK(tdmi_iommu_caches(&it, S, BASE));
	/* Nobody waits for it a second time. */
	page_out(S, BASE + 2 * PAGE);
	CHECK_EQ(counted(TDM_IC_ATC_TIMEOUTS), 1);
	CHECK(it.soft_clock - before < 200000);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), 0);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &queued), 0);
	run_all(100);
	CHECK_EQ(d.result, -EIO);
	CHECK_EQ(d.bytes, 0);
	CHECK_EQ(queued.result, -EIO);
	tdmi_iommu_dev_reset(dev);
	CHECK(!tdmi_iommu_caches(&it, S, BASE));
	memset(buf, 0x42, PAGE);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), 0);
	run_all(100);
	CHECK_EQ(d.result, 0);
	page_out(S, BASE);
	CHECK_EQ(stored(S, BASE)[77], 0x42);
	no_device(dev);
}

/* Nor does it go on where it was when it is let in again. */
TEST(a_device_that_is_reset_forgets)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, BASE, PAGE, buf);

	dc.burst = 1024;
	dev = one_device(&c, &dc);
	page_in(S, BASE, TDM_PTE_WRITE);
	memset(buf, 0x33, PAGE);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), 0);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	dev->mute = true;
	page_out(S, BASE);
	tdmi_iommu_dev_reset(dev);
	run_all(100);
	CHECK_EQ(d.result, 0);
	page_out(S, BASE);
	CHECK(!memcmp(stored(S, BASE), buf, PAGE));
	no_device(dev);
}

/* What is in the queue for a device is carried out before it goes. */
TEST(commands_for_a_device_that_goes)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;

	setup(&c);
	dev = device(&dc);
	tdmi_iommu_invalidate(&it, 1, BASE, BASE + PAGE, true, 1);
	tdmi_iommu_dev_remove(dev);
	tdmi_iommu_sync(&it);
	CHECK_EQ(counted(TDM_IC_CMD_SYNC), 2);
	teardown();
}
