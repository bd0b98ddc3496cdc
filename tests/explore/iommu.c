// SPDX-License-Identifier: MIT
/*
 * iommu.c - port/iommu*.c: a PASID goes while its device has transactions in every state and the software is in the middle of answering.
 *
 * The IOMMU is a state machine that one thread steps (iommu.h). So there is one thread here, and what is explored is the order of the steps: the device's, the software's, reclaim's, which takes
 * the page away that was just brought, and the teardown. All orders, with no bound. Afterwards the PASID is bound to another address space, for the same device: whatever was left
 * of the first, an answer, a translation, a request, would reach the second.
 */
#include <string.h>
#include "base/check.h"
#include "mm/pin.h"
#include "port/iommu.h"
#include "tests/explore/world.h"

#define PASID 1u
#define LEN 64u
#define OLD 5u            /* what the pages of the first space say, */
#define NEW 8u            /* and those of the second */

static struct state {
	struct tdm_iommu it;
	struct tdm_iommu_dev *dev;
	struct tdm_space *other;
	struct tdm_dma d[3];
	u8 buf[3][LEN];
	u32 ended, pins;
	bool gone;                /* unbind has returned */
	bool by_release;          /* the address space goes first */
} *st;

/* ---- the software's side */

static int op_fault(void *arg, struct tdm_space *s, u64 va, bool write)
{
	(void)arg;
	TDMX_CHECK(!st->gone || s == st->other, "a fault is served in a space that the device has left");
	return tdmi_space_fault(s, xw_reader(), va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
}

static int op_pin(void *arg, struct tdm_space *s, u64 va, bool write, struct tdm_pfn *pfn)
{
	u32 done;
	int r = tdmi_pin_pages(s, xw_reader(), TDM_ALIGN_DOWN(va, TDM_PAGE_SIZE), 1, write ? TDM_PIN_WRITE : TDM_PIN_READ, pfn, &done);

	(void)arg;
	st->pins += !r;
	return r;
}

static void op_unpin(void *arg, struct tdm_space *s, u64 va, struct tdm_pfn pfn, bool write)
{
	(void)arg;
	(void)s;
	(void)va;
	TDMX_CHECK(st->pins, "something is unpinned that was not pinned");
	st->pins--;
	tdmi_unpin_pages(&xw->w, &pfn, 1, write);
}

static const struct tdm_iommu_ops ops = { .fault = op_fault, .pin = op_pin, .unpin = op_unpin };

static void done(struct tdm_dma *d)
{
	(void)d;
	st->ended++;
}

/* ---- the machine */

static struct tdm_tlb_config small_tlb(void)
{
	return (struct tdm_tlb_config){ .level = { { { 1, 2 }, { 1, 1 }, { 1, 1 } } } };
}

static void submit(u32 i, bool write, u64 va)
{
	st->d[i] = (struct tdm_dma){ .pasid = PASID, .write = write, .va = va, .len = LEN, .buf = st->buf[i], .done = done };
	memset(st->buf[i], write ? 0x77 : 0, LEN);
	TDM_BUG_ON(tdmi_iommu_dma_submit(st->dev, &st->d[i]));
}

static bool device_can(void)
{
	return tdmi_iommu_dev_next(st->dev) != ~(u64)0 && (st->dev->nactive || !tdm_list_empty(&st->dev->queue));
}

static bool software_can(void)
{
	return tdmi_iommu_handler_next(&st->it) != ~(u64)0;
}

/* What is left takes its course; the device is faster, so that its requests find the queue full. */
static void settle(void)
{
	for (u32 i = 0; i < 200 && (device_can() || software_can()); i++) {
		if (device_can() && (i % 4 < 3 || !software_can()))
			tdmi_iommu_dev_step(st->dev);
		else
			tdmi_iommu_handler_step(&st->it);
	}
	TDMX_CHECK(!device_can() && !software_can(), "it does not come to rest");
}

static void tear_down(void)
{
	if (st->by_release)
		tdmi_notifiers_release(&xw->s->notifiers);
	tdmx_note("unbind");
	TDMX_CHECK(!tdmi_iommu_unbind(&st->it, PASID), "it was not bound");
	st->gone = true;
	TDMX_CHECK(st->ended == 2, "%u transactions have ended", st->ended);
	for (u32 i = 0; i < 2; i++)
		TDMX_CHECK(st->d[i].state == TDM_DMA_DONE && (!st->d[i].result || st->d[i].result == -ECANCELED), "transaction %u ended with %d", i, st->d[i].result);
	TDMX_CHECK(!st->pins, "%u pages are pinned still", st->pins);
	TDMX_CHECK(!st->dev->outstanding, "the device believes that %u requests are under way", st->dev->outstanding);
	TDMX_CHECK(st->it.prq_prod == st->it.prq_cons && !st->it.nparked && !st->it.nstalled && st->it.work.what == TDM_IOW_NOTHING, "the software has something to do for it");
	TDMX_CHECK(!tdmi_iommu_caches(&st->it, xw->s, xw_va(0)), "there is a translation left");
}

/* The PASID is another's now, and works. */
static void check_next(void)
{
	TDM_BUG_ON(tdmi_iommu_bind(&st->it, PASID, st->other));
	TDM_BUG_ON(tdmi_iommu_attach(st->dev, PASID));
	submit(2, false, xw_va(2));
	settle();
	submit(0, true, xw_va(1) - LEN / 2);
	submit(1, false, xw_va(3));
	settle();
	for (u32 i = 0; i < 3; i++)
		TDMX_CHECK(st->d[i].state == TDM_DMA_DONE && !st->d[i].result, "the next owner's transaction said %d", st->d[i].result);
	TDMX_CHECK(st->buf[2][0] == NEW, "the next owner of the PASID reads %u", st->buf[2][0]);
	TDMX_CHECK(!st->dev->late_responses, "%llu answers came that nobody waited for", (unsigned long long)st->dev->late_responses);
	TDMX_CHECK(!st->pins, "%u pages are pinned still", st->pins);
}

static void machine(void *arg)
{
	bool reclaimed = false;

	(void)arg;
	for (;;) {
		enum { TEARDOWN, DEVICE, SOFTWARE, RECLAIM } can[4], what;
		u32 n = 0;

		if (device_can())
			can[n++] = DEVICE;
		if (software_can())
			can[n++] = SOFTWARE;
		if (!reclaimed)
			can[n++] = RECLAIM;
		can[n++] = TEARDOWN;
		what = can[tdmx_choose(n)];
		if (what == TEARDOWN)
			break;
		if (what == DEVICE) {
			tdmx_note("the device");
			tdmi_iommu_dev_step(st->dev);
		} else if (what == SOFTWARE) {
			tdmx_note("the software");
			tdmi_iommu_handler_step(&st->it);
		} else {
			tdmx_note("the pages go");
			reclaimed = true;
			TDM_BUG_ON(tdmi_madvise_dontneed(xw->s, xw_reader(), xw_va(0), 2 * TDM_PAGE_SIZE));
		}
	}
	tear_down();
	settle();
	check_next();
}

static void setup(enum tdm_fault_model fault, bool stop_marker, bool by_release)
{
	struct tdm_iommu_config config = { .walk = TDM_WALK_HW_A | TDM_WALK_HW_D, .page_sizes = TDM_PAGE_SIZE, .iotlb = small_tlb(), .queue = 16, .split = 4, .requests = 2,
					   .stalls = 4, .pin_after = 1 };
	struct tdm_iommu_dev_config dev = { .name = "device", .fault = fault, .ats = fault == TDM_FAULTS_PRI, .atc = small_tlb(), .page_sizes = TDM_PAGE_SIZE, .unit = 64,
					    .burst = 64, .depth = 2, .group = 2, .credit = 4, .stop_marker = stop_marker };

	xw_init(3, false);
	st = tdmx_alloc(sizeof(*st));
	st->by_release = by_release;
	TDM_BUG_ON(tdmi_space_create(&xw->w, &st->other));
	TDM_BUG_ON(tdmi_mmap(st->other, xw_reader(), xw_va(0), 4 * TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	xw_fill(xw->s, 2, OLD);
	xw_fill(st->other, 2, NEW);
	/* In a thread, whose reader it is. */
	TDM_BUG_ON(tdmi_iommu_init(&st->it, &config, &ops, NULL, &xw->w.phys, xw->reader[1], &xw->w.alloc));
	TDM_BUG_ON(tdmi_iommu_dev_add(&st->it, &dev, &st->dev));
	TDM_BUG_ON(tdmi_iommu_bind(&st->it, PASID, xw->s));
	TDM_BUG_ON(tdmi_iommu_attach(st->dev, PASID));
	/* Two pages, so that a group has two requests, and one more, for which the queue has no room. */
	submit(0, true, xw_va(1) - LEN / 2);
	submit(1, false, xw_va(2));
	tdmx_spawn("machine", machine, NULL);
}

static void check(void)
{
	u32 pins = 0;

	for (u32 i = 0; i < xw->w.phys.range[xw->w.ram].n; i++)
		pins += tdm_page_pins(&xw->w.phys.range[xw->w.ram].page[i]);
	TDMX_CHECK(!pins, "%u pins are left", pins);
	xw_check();
}

#define TEARDOWN(id, fault, marker, release)                                                               \
	static void id##_setup(void)                                                                       \
	{                                                                                                  \
		setup(fault, marker, release);                                                             \
	}

TEARDOWN(iommu_pri, TDM_FAULTS_PRI, false, false)
TDMX_SCENARIO(iommu_pri, .what = "when a PASID has been unbound no answer, request, pin or translation of it is left", .setup = iommu_pri_setup, .check = check);
TEARDOWN(iommu_pri_marker, TDM_FAULTS_PRI, true, false)
TDMX_SCENARIO(iommu_pri_marker, .what = "so it is with a device that leaves its requests behind, and a stop marker", .setup = iommu_pri_marker_setup, .check = check);
TEARDOWN(iommu_stall, TDM_FAULTS_STALL, false, false)
TDMX_SCENARIO(iommu_stall, .what = "so it is with accesses that the IOMMU holds", .setup = iommu_stall_setup, .check = check);
TEARDOWN(iommu_release, TDM_FAULTS_PRI, false, true)
TDMX_SCENARIO(iommu_release, .what = "so it is when the address space goes first", .setup = iommu_release_setup, .check = check);
