/* SPDX-License-Identifier: MIT */
/*
 * cost.h - what things take on a simulated machine: a table of times, each with the place where it comes from.
 *
 * A cost model is a small text file; what it does not name keeps its default:
 *
 *     clock = 3 GHz              # parameter
 *     ipi_send = 600 ns          # measured on ...
 *
 * The defaults are the table in cost.c, which is also examples/sim/costs.txt. A source is where somebody else can look the number up; "parameter" says that there is
 * none, and that a scenario should be run with several.
 */
#ifndef TDM_SIM_COST_H
#define TDM_SIM_COST_H

#include <stdio.h>
#include "mm/tlb.h"
#include "sim/text.h"

/* The first are the engine's, in the order of enum tdm_work (mm/tlb.h). */
enum tdm_cost {
	TDM_COST_FAULT, TDM_COST_PTE, TDM_COST_TABLE_LOCK, TDM_COST_PAGE_ALLOC, TDM_COST_PAGE_FREE, TDM_COST_PAGE_ZERO, TDM_COST_PAGE_COPY, TDM_COST_RMAP,
	TDM_COST_PACK, TDM_COST_UNPACK, TDM_COST_SECONDARY,
	/* CPUs */
	TDM_COST_ACCESS,          /* an access whose translation the first level has */
	TDM_COST_TLB_L2,          /* what it takes longer if only the second level has it */
	TDM_COST_WALK_READ,       /* an entry that a walker reads */
	TDM_COST_WALK_SET,        /* A or D set by a walker */
	TDM_COST_SYSCALL,
	TDM_COST_FLUSH_ENTRY,     /* a CPU drops an entry of its own TLB */
	TDM_COST_FLUSH_ALL,       /* or all of one address space */
	TDM_COST_IPI_SEND,        /* who sends: once a shootdown */
	TDM_COST_IPI_TARGET,      /* and for each CPU that it goes to, until the last has answered */
	TDM_COST_IPI_HANDLE,      /* who is interrupted, each time */
	TDM_COST_BROADCAST,       /* an invalidation that hardware carries to all CPUs, until it is complete: once */
	TDM_COST_BROADCAST_CPU,   /* and for each CPU of the machine */
	/* IOMMU and devices */
	TDM_COST_IOTLB_HIT,
	TDM_COST_IOMMU_WALK_READ,
	TDM_COST_ATC_HIT,
	TDM_COST_ATS,             /* a device asks for a translation, and has the answer; without the walk */
	TDM_COST_IOTLB_INV,       /* an invalidation in the IOMMU's queue */
	TDM_COST_ATC_INV,         /* one that goes on to a device, until it has answered */
	TDM_COST_IOMMU_SYNC,      /* who waits for the queue, besides */
	TDM_COST_PAGE_REQUEST,    /* a device's page request until software sees it */
	TDM_COST_PAGE_RESPONSE,   /* the response to a group of them, until the device goes on */
	TDM_COST_STALL_EVENT,     /* a stalled transaction until software sees it */
	TDM_COST_STALL_RESUME,    /* until it goes on */
	TDM_COST_IOPF,            /* what software does for either, besides the fault itself: queues, a thread that wakes */
	TDM_COST_DMA_PAGE,        /* 4 KiB over the bus */
	TDM_COST_DEVICE_COPY,     /* a page copied between a device's memory and ram */
	TDM_COST_PIN,             /* a page pinned and released */
	TDM_COST_INSERT,          /* a call of insert_range, besides its entries */
	TDM_COST_FORK,            /* besides tables, entries and pages */
	TDM_COST_EXEC,            /* likewise */
	TDM_COST_NR,
};

struct tdm_costs {
	u64 hz;
	u64 cycles[TDM_COST_NR];            /* what a simulation adds up */
	struct tdm_duration value[TDM_COST_NR];
	char source[TDM_COST_NR + 1][200];  /* the last: of the clock */
};

const char *tdmi_cost_name(enum tdm_cost c);
void tdmi_costs_default(struct tdm_costs *c);
/* Change what the file names; cycles are worked out anew. -errno of the file, or -EINVAL; err. */
int tdmi_costs_load(struct tdm_costs *c, const char *path, char *err);
/* The same of a string. */
int tdmi_costs_parse(struct tdm_costs *c, const char *name, const char *s, char *err);
/* As a file that reads back as the same. */
void tdmi_costs_print(const struct tdm_costs *c, FILE *f);

#endif
