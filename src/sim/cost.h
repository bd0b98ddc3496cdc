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
	/* CPUs (port/cpus.h) */
	TDM_COST_ACCESS, TDM_COST_TLB_L2_HIT, TDM_COST_WALK_READ, TDM_COST_WALK_SET, TDM_COST_CONTEXT_SWITCH, TDM_COST_TLB_LOCAL_ENTRY, TDM_COST_TLB_LOCAL_ALL,
	TDM_COST_IPI_SEND, TDM_COST_IPI_WAIT, TDM_COST_IPI_HANDLE, TDM_COST_BROADCAST_OP, TDM_COST_BROADCAST_SYNC, TDM_COST_BROADCAST_SYNC_CPU,
	/* IOMMU and devices (port/iommu.h) */
	TDM_COST_IOTLB_HIT, TDM_COST_IOMMU_WALK_READ, TDM_COST_ATC_HIT, TDM_COST_ATS_ROUND_TRIP, TDM_COST_DMA_64, TDM_COST_REQUEST_POST, TDM_COST_FAULT_EVENT,
	TDM_COST_FAULT_HANDLER, TDM_COST_FAULT_RESPONSE, TDM_COST_QUEUE_SUBMIT, TDM_COST_QUEUE_COMMAND, TDM_COST_ATC_INVALIDATE, TDM_COST_ATC_TIMEOUT, TDM_COST_QUEUE_SYNC,
	/* guests (port/stage2.h) */
	TDM_COST_GUEST_EXIT, TDM_COST_GUEST_LOCK_READ, TDM_COST_GUEST_LOCK_WRITE,
	/* what the machine does around the engine */
	TDM_COST_SYSCALL, TDM_COST_DEVICE_COPY, TDM_COST_PIN, TDM_COST_FORK, TDM_COST_EXEC,
	TDM_COST_NR,
};

struct tdm_costs {
	u64 hz;
	u64 cycles[TDM_COST_NR];            /* what a simulation adds up */
	struct tdm_duration value[TDM_COST_NR];
	char source[TDM_COST_NR + 1][200];  /* the last: of the clock */
};

const char *tdmi_cost_name(enum tdm_cost c);
/* TDM_COST_NR: there is none of this name. */
enum tdm_cost tdmi_cost_find(const char *name);
/* A step's time, as in a file. -EINVAL: no time; -ERANGE: more than a second, or finer than a picosecond. */
int tdmi_cost_parse(const char *value, struct tdm_duration *out);
void tdmi_costs_default(struct tdm_costs *c);
/* Another time for one; its cycles are worked out. */
void tdmi_costs_set(struct tdm_costs *c, enum tdm_cost which, struct tdm_duration d);
/* Change what the file names; cycles are worked out anew. -errno of the file, or -EINVAL; err. */
int tdmi_costs_load(struct tdm_costs *c, const char *path, char *err);
/* The same of a string. */
int tdmi_costs_parse(struct tdm_costs *c, const char *name, const char *s, char *err);
/* As a file that reads back as the same. */
void tdmi_costs_print(const struct tdm_costs *c, FILE *f);

#endif
