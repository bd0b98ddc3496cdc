/* SPDX-License-Identifier: MIT */
/* What the parts of a simulated machine (sim/machine.h) do together. */
#include "sim_world.h"

#define PAGE TDM_PAGE_SIZE

/* ---- agents that get nowhere */

/* There is no tier, so nothing can go, and a target is never reached. A run that has no limit ends for all that, and soon. */
TEST(reclaim_that_cannot_reach_its_target_is_an_error, .seconds = 60)
{
	struct tdm_costs costs;
	struct tdm_report report;

	parse("# Why?\n[machine]\nram = 16M\n[process p]\n[mapping m]\nprocess = p\nkind = anonymous\nsize = 8M\npopulate = on\ncontent = text\n"
	      "[agent k]\nkind = reclaim\ntarget = 4M\n[print]\ncolumns = k.bytes\n");
	tdmi_costs_default(&costs);
	tdmi_sim_report_init(&report, &all, costs.hz);
	CHECK_EQ(tdmi_sim_run(&all, &costs, &report, NULL, NULL, err), -ETIMEDOUT);
	CHECK(strstr(err, "f:11: k: nothing that has an end has got on for a second"));
	tdmi_sim_report_free(&report);
}

/* ---- whose flushes an iommu hears that snoops */

#define SNOOPS                                                                                                                   \
	"# Why?\n[machine]\ncpus = 3\nram = 16M\nflush = broadcast\n[iommu]\nsnoop = on\n[device d]\nfault = stall\n[process p]\n" \
	"[mapping m]\nprocess = p\nkind = anonymous\nsize = 64K\npopulate = on\n"                                              \
	"[agent none]\nkind = age\nrounds = 1\n[print]\ncolumns = cycles\n"

static u8 buf[PAGE];
static struct tdm_dma dma;

static void device_reads(u64 page)
{
	dma = (struct tdm_dma){ .pasid = 1, .va = m->view[0].start + page * PAGE, .len = PAGE, .buf = buf };
	CHECK_EQ(tdmi_iommu_dma_submit(m->dev[0].dev, &dma), 0);
	while (dma.state != TDM_DMA_DONE)
		CHECK(tdmi_iommu_dev_step(m->dev[0].dev) >= TDM_DEV_WORKED);
	CHECK_EQ(dma.result, 0);
	CHECK(tdmi_iommu_caches(&m->iommu, m->space[0], dma.va));
}

static u64 counted(enum tdm_iommu_count c)
{
	return tdm_iommu_counted(&m->iommu, c);
}

/* cpus: how many have used the page. Commands that the IOTLB was sent because it was unmapped; *snooped: broadcasts that it heard. */
static u64 unmapped(u32 cpus, u64 *snooped)
{
	u64 va, commands, x;

	start(SNOOPS);
	va = m->view[0].start + 3 * PAGE;
	for (u32 c = 0; c < cpus; c++) {
		CHECK_EQ(tdmi_cpus_switch(&m->cpus, c, m->space[0]), 0);
		CHECK_EQ(tdm_cpus_load(&m->cpus, c, va, &x), 0);
	}
	device_reads(3);
	m->cpus.current = 0;
	commands = counted(TDM_IC_CMD_IOTLB);
	*snooped = counted(TDM_IC_SNOOPED);
	CHECK_EQ(tdmi_munmap(m->space[0], m->reader, va, PAGE), 0);
	CHECK(!tdmi_iommu_caches(&m->iommu, m->space[0], va));
	commands = counted(TDM_IC_CMD_IOTLB) - commands;
	*snooped = counted(TDM_IC_SNOOPED) - *snooped;
	CHECK_EQ(tdm_world_counted(&m->w, TDM_SC_SECONDARY) != 0, true);
	finish();
	return commands;
}

/* A CPU that flushes for itself says nothing to anybody, nor does one that has nothing to flush: there is no broadcast to be heard, and the iommu must be told. */
TEST(what_is_not_broadcast_is_not_heard)
{
	u64 snooped;

	CHECK_EQ(unmapped(0, &snooped), 1);
	CHECK_EQ(snooped, 0);
	CHECK_EQ(unmapped(1, &snooped), 1);
	CHECK_EQ(snooped, 0);
	CHECK_EQ(unmapped(2, &snooped), 0);
	CHECK_EQ(snooped, 1);
	CHECK_EQ(unmapped(3, &snooped), 0);
	CHECK_EQ(snooped, 1);
}

/* ---- where mappings lie */

#define TWO_MAPPINGS(a, b)                                                                                             \
	"# Why?\n[machine]\nram = 16M\n[process p]\n[mapping a]\nprocess = p\nkind = anonymous\nsize = " a              \
	"\n[mapping b]\nprocess = p\nkind = anonymous\nsize = " b "\n"                                                 \
	"[agent none]\nkind = age\nrounds = 1\n[print]\ncolumns = cycles\n"

/* Those that are small are where they have always been; a large one leaves what is behind it free. */
TEST(mappings_lie_apart_however_large_they_are)
{
	start(TWO_MAPPINGS("1M", "1M"));
	CHECK_EQ(m->view[0].start, (u64)1 << 37);
	CHECK_EQ(m->view[1].start, m->view[0].start + ((u64)1 << 36));
	finish();
	start(TWO_MAPPINGS("65G", "1M"));
	CHECK(m->view[1].start >= m->view[0].start + ((u64)65 << 30));
	finish();
}

TEST(a_mapping_without_addresses_is_an_error)
{
	struct tdm_report report;
	struct tdm_costs costs;

	parse(TWO_MAPPINGS("64T", "64T"));
	tdmi_costs_default(&costs);
	tdmi_sim_report_init(&report, &all, costs.hz);
	CHECK_EQ(tdmi_sim_run(&all, &costs, &report, NULL, NULL, err), -ENOSPC);
	CHECK(strstr(err, "f:9: ") && strstr(err, "there are no addresses left for it"));
	tdmi_sim_report_free(&report);
}
