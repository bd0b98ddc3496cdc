// SPDX-License-Identifier: MIT
/*
 * test_iommu_dma.c - transactions of devices: what becomes of a fault in each model, and who guarantees progress.
 */
#include "iommu_world.h"

#define S (&space[0].s)

static u8 buf[TDM_DMA_MAX];

static void submit(struct tdm_iommu_dev *dev, struct tdm_dma *d)
{
	CHECK_EQ(tdmi_iommu_dma_submit(dev, d), 0);
}

static void must(struct tdm_iommu_dev *dev, struct tdm_dma *d, int result)
{
	submit(dev, d);
	run_all(100000);
	CHECK_EQ(d->state, TDM_DMA_DONE);
	CHECK_EQ(d->result, result);
}

static void steps_until(struct tdm_iommu_dev *dev, enum tdm_dev_did did)
{
	while (tdmi_iommu_dev_step(dev) != did)
		;
}

/* ---- no faults ------------------------------------------------------------------------------------------------------------------- */

TEST(without_faults_what_is_missing_is_aborted)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, true, BASE + 100, 4 * PAGE, buf);

	for (u32 i = 0; i < 5; i++)
		if (i != 2)
			page_in(S, BASE + i * PAGE, TDM_PTE_WRITE);
	memset(buf, 8, sizeof(buf));
	must(dev, &d, -EFAULT);
	CHECK_EQ(d.bytes, 2 * PAGE - 100);
	CHECK_EQ(faults, 0);
	CHECK_EQ(counted(TDM_IC_FAULT_ABSENT), 1);
	CHECK_EQ(dev->aborted, 1);
	page_out(S, BASE + PAGE);
	page_out(S, BASE + 3 * PAGE);
	CHECK_EQ(stored(S, BASE + PAGE)[4095], 8);
	CHECK_EQ(stored(S, BASE + 3 * PAGE)[0], 0);
	/* Read-only, likewise. */
	page_in(S, BASE + 2 * PAGE, 0);
	d = dma(1, true, BASE + 2 * PAGE, 64, buf);
	must(dev, &d, -EFAULT);
	CHECK_EQ(counted(TDM_IC_FAULT_DENIED), 1);
	d.write = false;
	must(dev, &d, 0);
	no_device(dev);
}

TEST(transactions_take_turns)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d[3];

	dc.depth = 2;
	dc.burst = 256;
	dev = one_device(&c, &dc);
	page_in(S, BASE, 0);
	for (u32 i = 0; i < 3; i++) {
		d[i] = dma(1, false, BASE, 1024, buf + i * 1024);
		submit(dev, &d[i]);
	}
	for (u32 i = 0; i < 6; i++)
		CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	CHECK(d[0].bytes == 768 && d[1].bytes == 768 && d[2].bytes == 0);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_ENDED);
	run_all(100);
	CHECK_EQ(dev->done, 3);
	no_device(dev);
}

/* ---- stall ------------------------------------------------------------------------------------------------------------------------- */

TEST(a_stalled_access_goes_on)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE + PAGE - 1, 2, buf);
	u64 was;

	stored(S, BASE)[PAGE - 1] = 11;
	stored(S, BASE + PAGE)[0] = 12;
	submit(dev, &d);
	steps_until(dev, TDM_DEV_WAITS);
	was = dev->clock;
	CHECK_EQ(tdmi_iommu_handler_next(&it), was + 1000);
	CHECK_EQ(tdmi_iommu_dev_next(dev), ~(u64)0);
	CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_TOOK);
	CHECK_EQ(tdmi_iommu_handler_next(&it), 0);
	CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_RESOLVED);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WAITS);
	CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_ANSWERED);
	CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_IDLE);
	CHECK_EQ(it.soft_clock, was + 1000 + 300);
	CHECK_EQ(tdmi_iommu_dev_next(dev), it.soft_clock + 200);
	/* The hardware walks again, and carries the access out: it looks into the IOTLB, reads four entries, moves one unit. */
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	CHECK_EQ(dev->clock, it.soft_clock + 200 + 2 + 4 * 30 + 7);
	CHECK_EQ(d.bytes, 1);
	run_all(100);
	CHECK_EQ(d.result, 0);
	CHECK(buf[0] == 11 && buf[1] == 12);
	CHECK_EQ(counted(TDM_IC_STALLS), 2);
	CHECK_EQ(counted(TDM_IC_RESUME_RETRY), 2);
	CHECK_EQ(counted(TDM_IC_RETRIES), 0);
	no_device(dev);
}

TEST(a_stalled_access_is_aborted)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, true, BASE + 10, 2 * PAGE, buf);

	space[0].flags[1] = 1;
	must(dev, &d, -EFAULT);
	CHECK_EQ(d.bytes, PAGE - 10);
	CHECK_EQ(counted(TDM_IC_RESUME_ABORT), 1);
	no_device(dev);
}

/* A page that goes between the answer and the walk is stalled for again. */
TEST(a_stalled_access_may_stall_again)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE, 10, buf);

	submit(dev, &d);
	for (u32 i = 0; i < 3; i++) {
		steps_until(dev, TDM_DEV_WAITS);
		handle_all();
		page_out(S, BASE);
	}
	run_all(100);
	CHECK_EQ(d.result, 0);
	CHECK_EQ(d.retries, 3);
	CHECK_EQ(counted(TDM_IC_STALLS), 4);
	CHECK_EQ(counted(TDM_IC_RETRIES), 3);
	CHECK_EQ(counted(TDM_IC_RETRIES_MOST), 3);
	no_device(dev);
}

/* Two tags: the others wait for one, and get it. */
TEST(stalls_are_bounded)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d[6];

	c.stalls = 2;
	dc.depth = 5;
	dev = one_device(&c, &dc);
	for (u32 i = 0; i < 6; i++) {
		d[i] = dma(1, false, BASE + i * PAGE, 10, buf);
		submit(dev, &d[i]);
	}
	steps_until(dev, TDM_DEV_WAITS);
	CHECK_EQ(it.nstalled, 2);
	CHECK_EQ(counted(TDM_IC_STALLS_FULL), 3);
	CHECK_EQ(d[5].state, TDM_DMA_QUEUED);
	while (run_all(1))
		CHECK(it.nstalled <= 2);
	for (u32 i = 0; i < 6; i++)
		CHECK_EQ(d[i].result, 0);
	CHECK_EQ(counted(TDM_IC_STALLS), 6);
	no_device(dev);
}

/* A tag that is used again is not served before one that has waited for longer. */
TEST(the_oldest_stall_first)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d[3];

	c.stalls = 2;
	dev = one_device(&c, &dc);
	for (u32 i = 0; i < 3; i++) {
		d[i] = dma(1, false, BASE + i * PAGE, 10, buf);
		submit(dev, &d[i]);
	}
	for (u32 i = 0; i < 3; i++) {
		steps_until(dev, TDM_DEV_WAITS);
		CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_TOOK);
		CHECK_EQ(it.work.req[0].va, BASE + i * PAGE);
		CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_RESOLVED);
		CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_ANSWERED);
	}
	run_all(100);
	no_device(dev);
}

TEST(tags_that_nobody_has)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE, 10, buf);
	u32 tag;

	CHECK_EQ(tdmi_iommu_resume(&it, 0, true), -ESRCH);
	CHECK_EQ(tdmi_iommu_resume(&it, 0xffff, true), -ESRCH);
	submit(dev, &d);
	steps_until(dev, TDM_DEV_WAITS);
	tag = d.group;
	CHECK_EQ(tdmi_iommu_resume(&it, tag, true), 0);
	CHECK_EQ(tdmi_iommu_resume(&it, tag, true), -ESRCH);
	/* It stalls again, in the same place, by another tag. */
	steps_until(dev, TDM_DEV_WAITS);
	CHECK_EQ(d.state, TDM_DMA_STALLED);
	CHECK_EQ(tdmi_iommu_resume(&it, tag, false), -ESRCH);
	CHECK_EQ(counted(TDM_IC_RESUME_REFUSED), 4);
	run_all(100);
	CHECK_EQ(d.result, 0);
	no_device(dev);
}

/* ---- page requests -------------------------------------------------------------------------------------------------------------------- */

/* What a transaction needs is asked for in groups, each of which has one answer; then translations are asked for anew. */
TEST(groups)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE + 5, 10 * PAGE, buf);

	for (u64 i = 0; i < 11 * PAGE; i++)
		stored(S, BASE)[i] = (u8)(i * 31 >> 5);
	page_in(S, BASE + 2 * PAGE, 0);
	submit(dev, &d);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WAITS);
	/* 0 1 3 4 5 6 7 8 */
	CHECK_EQ(counted(TDM_IC_PAGE_REQUESTS), 8);
	CHECK_EQ(counted(TDM_IC_GROUPS), 1);
	CHECK_EQ(it.prq_prod, 8);
	for (u32 i = 0; i < 8; i++)
		CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_TOOK);
	CHECK_EQ(faults, 0);
	for (u32 i = 0; i < 8; i++)
		CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_RESOLVED);
	CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_ANSWERED);
	CHECK_EQ(tdmi_iommu_respond(dev, 1, d.group, TDM_RESP_INVALID), -ESRCH);
	CHECK_EQ(counted(TDM_IC_RESP_SUCCESS), 1);
	CHECK_EQ(counted(TDM_IC_RESP_REFUSED), 1);
	CHECK_EQ(dev->late_responses, 1);
	/* The answer is looked at when it has come; the translation is asked for in another step. */
	CHECK_EQ(tdmi_iommu_dev_next(dev), it.soft_clock + 200);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	CHECK_EQ(dev->clock, it.soft_clock + 200);
	CHECK_EQ(d.bytes, 0);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	CHECK_EQ(d.bytes, PAGE - 5);
	run_all(1000);
	CHECK_EQ(d.result, 0);
	CHECK(!memcmp(buf, stored(S, BASE) + 5, 10 * PAGE));
	CHECK_EQ(counted(TDM_IC_GROUPS), 2);
	CHECK_EQ(counted(TDM_IC_PAGE_REQUESTS), 10);
	CHECK_EQ(counted(TDM_IC_RETRIES), 0);
	CHECK_EQ(dev->outstanding, 0);
	no_device(dev);
}

/* The first error of a group is the answer to all of it; what came before is done. */
TEST(a_group_that_is_invalid)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, BASE, 8 * PAGE, buf);

	dc.group = 4;
	dev = one_device(&c, &dc);
	space[0].flags[6] = 1;
	must(dev, &d, -EFAULT);
	CHECK_EQ(d.bytes, 4 * PAGE);
	CHECK_EQ(faults, 8);
	CHECK_EQ(counted(TDM_IC_RESP_SUCCESS), 1);
	CHECK_EQ(counted(TDM_IC_RESP_INVALID), 1);
	/* It may ask again. */
	d = dma(1, true, BASE + 7 * PAGE, 1, buf);
	must(dev, &d, 0);
	no_device(dev);
}

TEST(a_device_that_must_not_ask_any_more)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, true, BASE, 1, buf);

	submit(dev, &d);
	steps_until(dev, TDM_DEV_WAITS);
	CHECK_EQ(tdmi_iommu_respond(dev, 1, d.group, TDM_RESP_FAILURE), 0);
	run_all(100);
	CHECK_EQ(d.result, -EIO);
	must(dev, &d, 0); /* late, the handler has brought the page for nothing: but it is there */
	d.va += PAGE;
	must(dev, &d, -EIO);
	CHECK_EQ(counted(TDM_IC_GROUPS), 1);
	tdmi_iommu_dev_reset(dev);
	must(dev, &d, 0);
	no_device(dev);
}

/* PASID 2 exists, but is not this device's. */
TEST(a_device_that_asks_for_what_is_not_its_own)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, true, BASE, 1, buf);

	CHECK_EQ(tdmi_iommu_bind(&it, 2, &space[1].s), 0);
	submit(dev, &d);
	steps_until(dev, TDM_DEV_WAITS);
	d.pasid = 2; /* it waits for the answer to what it now asks */
	tdmi_iommu_post(dev, 2, BASE, true, d.group, true);
	handle_all();
	CHECK_EQ(counted(TDM_IC_RESP_FAILURE), 1);
	CHECK_EQ(faults, 1); /* of PASID 1 */
	run_all(100);
	CHECK_EQ(d.result, -EIO);
	CHECK(dev->no_pri);
	CHECK_EQ(tdmi_iommu_unbind(&it, 2), 0);
	no_device(dev);
}

/* It goes before anybody has looked at that, or in the middle. What another has asked for is served. */
TEST(requests_of_a_device_that_has_gone)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev, *other;

	setup(&c);
	other = device(&dc);
	CHECK_EQ(tdmi_iommu_bind(&it, 2, S), 0);
	CHECK_EQ(tdmi_iommu_attach(other, 2), 0);
	for (u32 steps = 0; steps < 4; steps++) {
		dev = device(&dc);
		tdmi_iommu_post(other, 2, BASE, true, 0, false);
		tdmi_iommu_post(dev, 2, BASE, true, 0, false);
		tdmi_iommu_post(dev, 2, BASE, true, 0, true);
		tdmi_iommu_post(dev, 2, BASE, true, 1, true);
		for (u32 i = 0; i < steps; i++)
			tdmi_iommu_handler_step(&it);
		tdmi_iommu_post(other, 2, BASE, true, 0, true);
		tdmi_iommu_dev_remove(dev);
		handle_all();
		CHECK_EQ(faults, 2 * (steps + 1));
	}
	CHECK_EQ(tdmi_iommu_unbind(&it, 2), 0);
	tdmi_iommu_dev_remove(other);
	teardown();
}

TEST(requests_for_no_pasid_are_refused)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);

	tdmi_iommu_post(dev, 9, BASE, true, 0, false);
	tdmi_iommu_post(dev, 9, BASE, true, 0, true);
	CHECK_EQ(counted(TDM_IC_REQUESTS_REFUSED), 2);
	CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_IDLE);
	no_device(dev);
}

/* No more requests are without an answer than the device may have, and a transaction that may not ask waits. */
TEST(credit)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d[4];

	dc.credit = 3;
	dc.group = 2;
	dev = one_device(&c, &dc);
	for (u32 i = 0; i < 4; i++) {
		d[i] = dma(1, false, BASE + i * 4 * PAGE, 4 * PAGE, buf);
		submit(dev, &d[i]);
	}
	steps_until(dev, TDM_DEV_WAITS);
	CHECK_EQ(dev->outstanding, 3);
	CHECK_EQ(d[2].state, TDM_DMA_BLOCKED);
	while (run_all(1))
		CHECK(dev->outstanding <= 3);
	for (u32 i = 0; i < 4; i++)
		CHECK_EQ(d[i].result, 0);
	CHECK_EQ(dev->outstanding, 0);
	no_device(dev);
}

/* A queue of four requests, groups of eight: what does not fit is dropped; the device is told to ask again, and what was parked is thrown away. */
TEST(a_queue_that_overflows)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, false, BASE, 8 * PAGE, buf);

	c.requests = 4;
	dev = one_device(&c, &dc);
	for (u64 i = 0; i < 8 * PAGE; i++)
		stored(S, BASE)[i] = (u8)(i * 13 >> 4);
	submit(dev, &d);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	CHECK_EQ(counted(TDM_IC_QUEUE_OVERFLOWS), 4);
	CHECK_EQ(counted(TDM_IC_AUTO_RESPONSES), 1);
	handle_all();
	CHECK_EQ(counted(TDM_IC_PARTIAL_DISCARDED), 4);
	CHECK_EQ(counted(TDM_IC_RESP_SUCCESS), 0);
	CHECK_EQ(faults, 0);
	CHECK_EQ(it.nparked, 0);
	/* So it is for ever with a group that never fits: the device has to ask for less. */
	for (u32 i = 0; i < 5; i++) {
		run_all(20);
		CHECK(d.state != TDM_DMA_DONE);
	}
	CHECK(d.page_retries > 2);
	dev->config.group = 3;
	run_all(10000);
	CHECK_EQ(d.result, 0);
	CHECK(!memcmp(buf, stored(S, BASE), 8 * PAGE));
	no_device(dev);
}

/* Several transactions in a small queue get through, as each that is dropped is asked for again. */
TEST(overflows_are_survived)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d[8];

	c.requests = 4;
	dc.group = 3;
	dc.credit = 100;
	dc.depth = 8;
	dev = one_device(&c, &dc);
	for (u32 i = 0; i < 8; i++) {
		d[i] = dma(1, false, BASE + i * 8 * PAGE, 8 * PAGE, buf);
		submit(dev, &d[i]);
	}
	run_all(100000);
	for (u32 i = 0; i < 8; i++)
		CHECK_EQ(d[i].result, 0);
	CHECK(counted(TDM_IC_QUEUE_OVERFLOWS) > 0);
	CHECK(counted(TDM_IC_PARTIAL_DISCARDED) > 0);
	no_device(dev);
}

/* A group of which the last was lost, and later one with the same index: the first one's requests are no part of it. */
TEST(a_partial_group_is_not_mixed_with_the_next)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;

	c.requests = 2;
	dev = one_device(&c, &dc);
	tdmi_iommu_post(dev, 1, BASE, false, 5, false);
	tdmi_iommu_post(dev, 1, BASE + PAGE, false, 5, false);
	tdmi_iommu_post(dev, 1, BASE + 2 * PAGE, false, 5, true); /* dropped */
	handle_all();
	CHECK_EQ(counted(TDM_IC_PARTIAL_DISCARDED), 2);
	tdmi_iommu_post(dev, 1, BASE + 3 * PAGE, false, 5, true);
	handle_all();
	CHECK_EQ(faults, 1);
	no_device(dev);
}

/* Requests of groups mix in the queue, and each goes to its own. A group of more than there may be is cut. */
TEST(groups_that_a_device_mixes)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);

	for (u32 i = 0; i < 3; i++)
		for (u32 group = 0; group < 3; group++)
			tdmi_iommu_post(dev, 1, BASE + (group * 3 + i) * PAGE, false, group, i == 2);
	for (u32 i = 0; i < 7; i++)
		CHECK_EQ(tdmi_iommu_handler_step(&it), TDM_HANDLER_TOOK);
	CHECK_EQ(it.work.n, 3);
	CHECK_EQ(it.work.req[0].va, BASE);
	CHECK_EQ(it.work.req[2].va, BASE + 2 * PAGE);
	handle_all();
	CHECK_EQ(faults, 9);
	CHECK_EQ(counted(TDM_IC_RESP_REFUSED), 3);
	for (u32 i = 0; i < 40; i++)
		tdmi_iommu_post(dev, 1, BASE + (i + 16) * PAGE, false, 7, i == 39);
	handle_all();
	CHECK_EQ(faults, 9 + TDM_PRG_MAX);
	CHECK_EQ(it.nparked, 0);
	no_device(dev);
}

/* ---- progress -------------------------------------------------------------------------------------------------------------------------- */

/* What is handled is reclaimed before the device comes to ask again. false: the transaction has ended. */
static bool round_trip(struct tdm_iommu_dev *dev, struct tdm_dma *d, void (*meanwhile)(u64 va))
{
	for (;;) {
		enum tdm_dev_did did = tdmi_iommu_dev_step(dev);

		if (did == TDM_DEV_ENDED || did == TDM_DEV_IDLE)
			return false;
		if (did == TDM_DEV_WAITS)
			break;
	}
	handle_all();
	for (u64 va = d->va & TDM_PAGE_MASK; va < d->va + d->len; va += PAGE)
		meanwhile(va);
	return true;
}

static void reclaimed(u64 va)
{
	page_out(S, va);
}

static void aged(u64 va)
{
	if (tdm_pte_present(entry(S, va)))
		age(S, va, true);
}

static void no_progress(enum tdm_fault_model model)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(model);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, BASE + 3, 2 * PAGE, buf);

	dc.give_up = 1000;
	dev = one_device(&c, &dc);
	submit(dev, &d);
	while (round_trip(dev, &d, reclaimed))
		;
	CHECK_EQ(d.result, -ETIMEDOUT);
	CHECK_EQ(d.bytes, 0);
	CHECK_EQ(d.retries, 1000);
	CHECK_EQ(counted(TDM_IC_RETRIES_MOST), 1000);
	CHECK_EQ(counted(TDM_IC_PINS), 0);
	no_device(dev);
}

TEST(nothing_guarantees_progress_with_pri)
{
	no_progress(TDM_FAULTS_PRI);
}

TEST(nothing_guarantees_progress_with_stalls)
{
	no_progress(TDM_FAULTS_STALL);
}

static void progress(enum tdm_fault_model model, u32 after)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(model);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, BASE + 3, 2 * PAGE, buf);
	u32 n = 0;

	c.pin_after = after;
	dc.group = 1;
	dc.give_up = after + 1;
	dev = one_device(&c, &dc);
	for (u32 i = 0; i < 2 * PAGE; i++)
		buf[i] = (u8)(i * 3 >> 1);
	submit(dev, &d);
	while (round_trip(dev, &d, reclaimed))
		n++;
	CHECK_EQ(d.result, 0);
	CHECK_EQ(counted(TDM_IC_PINS), 3);
	CHECK_EQ(n, 3 * (after + 1));
	CHECK_EQ(counted(TDM_IC_RETRIES_MOST), after);
	CHECK_EQ(unpins, 3);
	for (u32 i = 0; i < 3; i++)
		page_out(S, BASE + i * PAGE);
	CHECK(!memcmp(stored(S, BASE) + 3, buf, 2 * PAGE));
	no_device(dev);
}

TEST(pins_guarantee_progress_with_pri)
{
	progress(TDM_FAULTS_PRI, 4);
}

/* The counter was a byte. */
TEST(pins_guarantee_progress_also_after_many_tries)
{
	progress(TDM_FAULTS_PRI, 300);
}

TEST(pins_guarantee_progress_with_stalls)
{
	progress(TDM_FAULTS_STALL, 4);
}

/* A pin keeps the page, not its accessed bit: without hardware flags what is aged as often as it is asked for is never reached. */
static void aged_for_ever(u32 walk, int result)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, BASE, 10, buf);

	c.pin_after = 2;
	c.walk = walk;
	dc.give_up = 100;
	dev = one_device(&c, &dc);
	submit(dev, &d);
	while (round_trip(dev, &d, aged))
		;
	CHECK_EQ(d.result, result);
	CHECK_EQ(pins, result ? 1 : 0);
	CHECK_EQ(unpins, pins);
	no_device(dev);
}

TEST(a_pin_does_not_keep_the_accessed_bit)
{
	aged_for_ever(0, -ETIMEDOUT);
}

TEST(hardware_flags_do_without)
{
	aged_for_ever(TDM_WALK_HW_A | TDM_WALK_HW_D, 0);
}

TEST(a_pin_that_fails_leaves_a_fault)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, BASE, 10, buf);

	c.pin_after = 1;
	dev = one_device(&c, &dc);
	submit(dev, &d);
	fault_says = -ENOMEM;
	for (u32 i = 0; i < 3; i++)
		CHECK(round_trip(dev, &d, reclaimed));
	CHECK_EQ(counted(TDM_IC_PINS_FAILED), 2);
	CHECK_EQ(counted(TDM_IC_NO_MEMORY), 3);
	fault_says = 0;
	run_all(100);
	CHECK_EQ(d.result, 0);
	no_device(dev);
}
