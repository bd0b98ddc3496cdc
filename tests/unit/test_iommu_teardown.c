// SPDX-License-Identifier: MIT
/* test_iommu_teardown.c - a PASID, or its address space, goes while everything is under way: nothing of it is left anywhere. */
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

static u32 ended;
static struct tdm_iommu_dev *again_on;

static void on_done(struct tdm_dma *d)
{
	ended++;
	/* A driver that goes on, whatever it is told. */
	if (again_on && d->arg) {
		struct tdm_dma *next = d->arg;

		d->arg = NULL;
		CHECK_EQ(tdmi_iommu_dma_submit(again_on, next), 0);
	}
}

/* Transactions in every state: PRI and stalling devices, groups in the queue, parked, half resolved, answered; another PASID beside them that goes on. */
static void teardown_of_everything(bool marker, u32 handler_steps, bool by_release)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config pri = dev_config(TDM_FAULTS_PRI), stall = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev[2];
	struct tdm_dma d[2][6], other[2], more = dma(1, false, BASE, 1, buf);

	c.pin_after = 1;
	pri.stop_marker = marker;
	pri.group = 3;
	dev[0] = one_device(&c, &pri);
	dev[1] = device(&stall);
	CHECK_EQ(tdmi_iommu_attach(dev[1], 1), 0);
	CHECK_EQ(tdmi_iommu_bind(&it, 2, &space[1].s), 0);
	again_on = dev[0];
	for (u32 k = 0; k < 2; k++) {
		CHECK_EQ(tdmi_iommu_attach(dev[k], 2), 0);
		for (u32 i = 0; i < 6; i++) {
			d[k][i] = dma(1, i & 1, BASE + (k * 6 + i) * 4 * PAGE, 4 * PAGE, buf + i * 4 * PAGE);
			d[k][i].done = on_done;
			if (i == 1)
				other[k] = dma(2, true, BASE, 8 * PAGE, buf + 32 * PAGE), submit(dev[k], &other[k]);
			submit(dev[k], &d[k][i]);
		}
		steps_until(dev[k], TDM_DEV_WAITS);
	}
	d[0][0].arg = &more;
	for (u32 i = 0; i < handler_steps; i++) {
		tdmi_iommu_handler_step(&it);
		if (i % 7 == 3)
			tdmi_iommu_dev_step(dev[i & 1]);
		if (i % 5 == 4)
			page_out(S, BASE + i % 48 * PAGE); /* so that something is retried, and pinned */
	}
	/* A request that waits for the rest of its group, which will not come. */
	tdmi_iommu_post(dev[0], 1, BASE, false, 400, false);
	if (by_release)
		tdmi_notifiers_release(&S->notifiers);
	else
		CHECK_EQ(tdmi_iommu_unbind(&it, 1), 0);
	for (u32 k = 0; k < 2; k++)
		for (u32 i = 0; i < 6; i++)
			CHECK(d[k][i].state == TDM_DMA_DONE && (d[k][i].result == -ECANCELED || d[k][i].result == 0));
	CHECK_EQ(ended, 12);
	if (marker && handler_steps == 0)
		CHECK(counted(TDM_IC_STOP_MARKERS) == 1 && counted(TDM_IC_RESP_INVALID) == 0);
	for (u64 i = it.prq_cons; i < it.prq_prod; i++)
		CHECK(it.work.what == TDM_IOW_NOTHING || it.work.pasid != 1);
	for (u64 va = BASE; va < BASE + PAGES * PAGE; va += PAGE)
		CHECK(!tdmi_iommu_caches(&it, S, va) && !pinned(S, va));
	CHECK_EQ(tdmi_iommu_respond(dev[0], 1, d[0][0].group, TDM_RESP_SUCCESS), -ESRCH);
	CHECK_EQ(tdmi_iommu_resume(&it, d[1][0].group, true), -ESRCH);
	tdmi_iommu_post(dev[0], 1, BASE, false, 401, true);
	CHECK(counted(TDM_IC_REQUESTS_REFUSED) == 1);
	faults = 0;
	run_all(100000);
	CHECK_EQ(more.result, d[0][0].result == 0 ? more.result : -ESRCH);
	CHECK_EQ(other[0].result, 0);
	CHECK_EQ(other[1].result, 0);
	CHECK_EQ(dev[0]->outstanding, 0);
	CHECK_EQ(it.nstalled, 0);
	CHECK_EQ(it.nparked, 0);
	if (by_release) {
		more.pasid = 1;
		must(dev[0], &more, -ESRCH);
		CHECK_EQ(tdmi_iommu_attach(dev[0], 1), -ENOENT);
		CHECK_EQ(tdmi_iommu_bind(&it, 1, &space[2].s), -EEXIST);
		CHECK_EQ(tdmi_iommu_unbind(&it, 1), 0);
	}
	/* The number means another space, and nothing of the one that it meant. */
	CHECK_EQ(tdmi_iommu_bind(&it, 1, &space[2].s), 0);
	CHECK_EQ(tdmi_iommu_attach(dev[0], 1), 0);
	memset(space[2].store, 0x77, PAGES * PAGE);
	more = dma(1, false, BASE, 48 * PAGE, buf);
	must(dev[0], &more, 0);
	for (u32 i = 0; i < 48 * PAGE; i++)
		CHECK_EQ(buf[i], 0x77);
	CHECK_EQ(tdmi_iommu_unbind(&it, 2), 0);
	CHECK_EQ(tdmi_iommu_unbind(&it, 1), 0);
	tdmi_iommu_dev_remove(dev[0]);
	tdmi_iommu_dev_remove(dev[1]);
	ended = 0;
	teardown();
	pins = unpins = 0;
}

/* At each moment of the handler's work. */
TEST(teardown_waits_for_responses, .seconds = 60)
{
	for (u32 n = 0; n < 90; n++)
		teardown_of_everything(false, n, false);
}

TEST(teardown_with_stop_markers, .seconds = 60)
{
	for (u32 n = 0; n < 90; n++)
		teardown_of_everything(true, n, false);
}

TEST(a_space_that_goes, .seconds = 60)
{
	for (u32 n = 0; n < 90; n++)
		teardown_of_everything(n & 1, n, true);
}

/* A marker that the software finds by itself: the device has stopped, and what was parked of it goes. */
TEST(a_stop_marker_in_the_queue)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);

	tdmi_iommu_post(dev, 1, BASE, false, 3, false);
	tdmi_iommu_post_stop(dev, 1);
	handle_all();
	CHECK_EQ(counted(TDM_IC_STOP_MARKERS), 1);
	CHECK_EQ(counted(TDM_IC_PARTIAL_DISCARDED), 1);
	CHECK_EQ(faults, 0);
	no_device(dev);
}
