/* SPDX-License-Identifier: MIT */
/*
 * column.h - the numbers that a scenario can print, by name.
 *
 * Of the whole machine, from when measuring begins; and of one agent ("stream.bytes"). Two of them with a '/' between are their quotient ("cycles/rounds").
 */
#ifndef TDM_SIM_COLUMN_H
#define TDM_SIM_COLUMN_H

#include "base/types.h"

/* X(ID, name, what it counts). The first part is enum tdm_space_count, in its order. */
#define TDM_SIM_COUNTS(X)                                                                                                        \
	X(FAULTS, "faults", "faults that the memory management served, of CPUs and devices")                                     \
	X(ZEROED, "zeroed", "pages that were made for a first touch")                                                            \
	X(COPIED, "copied", "pages that were copied because somebody wrote to a shared one")                                     \
	X(REUSED, "reused", "writes after a fork that needed no copy")                                                           \
	X(SWAPPED_IN, "swapped_in", "pages that came from the tier")                                                             \
	X(SWAPPED_OUT, "swapped_out", "pages that went to it")                                                                   \
	X(AF_FAULTS, "af_faults", "faults only because an accessed or dirty bit was clear, and the hardware does not set it")    \
	X(SPECIAL_FAULTS, "special_faults", "faults that a driver served")                                                       \
	X(UNSHARED, "unshared", "pages that were copied so that they could be pinned")                                           \
	X(LAZY_FREED, "lazy_freed", "pages of MADV_FREE that were dropped")                                                      \
	X(LAZY_SAVED, "lazy_saved", "likewise, kept because they were written again")                                            \
	X(REFAULTS, "refaults", "pages that came back soon after they had been evicted")                                         \
	X(WRONG, "wrong", "of these, pages that somebody was using all the time: wrong evictions")                               \
	X(ROTATED, "rotated", "pages that reclaim looked at and kept, as they were used")                                        \
	X(FLUSHES, "flushes", "flushes of the CPUs' TLBs")                                                                       \
	X(FLUSHED_SPACES, "flushed_spaces", "flushes of all of an address space")                                                \
	X(DEFERRED, "deferred", "flushes of one entry that were left to a batch")                                                \
	X(FORCED, "forced", "batches that had to be flushed early because a page was dirty")                                     \
	X(SECONDARY, "secondary", "invalidations that secondary MMUs were sent")                                                 \
	X(SECONDARY_DEFERRED, "secondary_deferred", "invalidations of secondary MMUs that were left to a batch")                 \
	X(PENDING_FLUSHES, "pending_flushes", "flushes that others made for a batch, as they could not wait")                       \
	X(FORK_COPIED, "fork_copied", "pages that a fork copied at once because they were pinned")                               \
	X(COHERENT_COPIED, "coherent_copied", "pages that left a device's coherent memory because somebody wrote after a fork")  \
	X(LEAF_4K, "leaf_4k", "leaves of 4 KiB that drivers inserted")                                                           \
	X(LEAF_2M, "leaf_2m", "leaves of 2 MiB")                                                                                 \
	X(LEAF_1G, "leaf_1g", "leaves of 1 GiB")                                                                                 \
	X(COLLAPSED, "collapsed", "tables that became one leaf again")                                                           \
	X(SPLIT, "split", "leaves that became tables")                                                                           \
	X(TABLES, "tables", "page tables that drivers' mappings took, a page each")                                              \
	/* the CPUs */                                                                                                           \
	X(CYCLES, "cycles", "time from when measuring begins to the end")                                                        \
	X(ACCESSES, "accesses", "accesses of CPUs")                                                                              \
	X(TLB_HITS, "tlb_hits", "that the first level of the TLB translated")                                                    \
	X(TLB_L2_HITS, "tlb_l2_hits", "that the second level translated")                                                        \
	X(TLB_MISSES, "tlb_misses", "that were walked")                                                                          \
	X(WALK_READS, "walk_reads", "entries that CPUs' walkers read")                                                           \
	X(WALK_SETS, "walk_sets", "entries in which they set an accessed or dirty bit")                                          \
	X(SWITCHES, "switches", "context switches")                                                                              \
	X(FLUSHED_ENTRIES, "flushed_entries", "entries that CPUs' TLBs dropped because of flushes")                              \
	X(IPIS, "ipis", "interrupts to flush that were sent")                                                                    \
	X(BROADCASTS, "broadcasts", "invalidations that hardware carried to all CPUs")                                           \
	X(FLUSH_CYCLES, "flush_cycles", "of CPUs, for flushing themselves")                                                      \
	X(IPI_CYCLES, "ipi_cycles", "of CPUs, for sending such interrupts and waiting for their answers")                        \
	X(INTERRUPTED_CYCLES, "interrupted_cycles", "of CPUs, for being interrupted")                                            \
	X(BROADCAST_CYCLES, "broadcast_cycles", "of CPUs, for broadcasts and the wait for them")                                 \
	X(WALK_CYCLES, "walk_cycles", "of CPUs, for walks")                                                                      \
	X(WORK_CYCLES, "work_cycles", "of CPUs, for the memory management's own work")                                           \
	/* the IOMMU and devices */                                                                                              \
	X(DMA_BYTES, "dma_bytes", "bytes that devices moved")                                                                    \
	X(DMA_DONE, "dma_done", "transfers that ended well")                                                                     \
	X(DMA_FAILED, "dma_failed", "transfers that did not")                                                                    \
	X(DMA_RETRIES, "dma_retries", "translations that were missing again after a fault had been answered")                    \
	X(DMA_RETRIES_MOST, "dma_retries_most", "of one page of one transfer")                                                   \
	X(ATS_REQUESTS, "ats_requests", "translations that devices asked for")                                                   \
	X(IOTLB_HITS, "iotlb_hits", "translations that the IOTLB had")                                                           \
	X(IOMMU_WALKS, "iommu_walks", "translations that were walked")                                                           \
	X(IOMMU_WALK_READS, "iommu_walk_reads", "entries that these walks read")                                                 \
	X(IOMMU_FAULTS, "iommu_faults", "walks that found nothing, or less than was needed")                                     \
	X(PAGE_REQUESTS, "page_requests", "page requests of devices (PRI)")                                                      \
	X(GROUPS, "groups", "groups of them")                                                                                    \
	X(STALLS, "stalls", "transactions that were stalled")                                                                    \
	X(IOTLB_COMMANDS, "iotlb_commands", "invalidations of the IOTLB")                                                        \
	X(ATC_COMMANDS, "atc_commands", "invalidations that went on to a device")                                                \
	X(SYNCS, "syncs", "waits for the invalidation queue")                                                                    \
	X(SYNC_CYCLES, "sync_cycles", "of software, for these waits")                                                            \
	X(OVER_ENTRIES, "over_entries", "entries of IOTLB and ATCs that were dropped for nothing")                               \
	X(PINS, "pins", "pages that were pinned for a device")                                                                   \
	/* guests */                                                                                                             \
	X(GUEST_EXITS, "guest_exits", "accesses of vCPUs that the second stage did not allow: they left the guest")              \
	X(GUEST_FILLS, "guest_fills", "entries of second stages that were made, or given more rights")                           \
	X(GUEST_ROUNDS, "guest_rounds", "invalidations that a guest's memory was part of")                                       \
	X(GUEST_CLEARED, "guest_cleared", "entries of second stages that these took out")                                        \
	X(GUEST_FLUSHES, "guest_flushes", "flushes of vCPUs' TLBs")                                                              \
	X(GUEST_ASKED, "guest_asked", "times that a second stage was asked whether a page is used")                              \
	X(GUEST_YOUNG, "guest_young", "of these, times that it was")                                                             \
	X(GUEST_AGING_CYCLES, "guest_aging_cycles", "of software, for asking, with the wait for the lock")                       \
	X(GUEST_WAIT_CYCLES, "guest_wait_cycles", "of vCPUs, waiting for the lock of the second stage")                          \
	X(GUEST_MM_WAIT_CYCLES, "guest_mm_wait_cycles", "of the memory management, waiting for it")                              \
	/* memory, at the end */                                                                                                 \
	X(RAM_USED, "ram_used", "pages of ram that are in use at the end")                                                       \
	X(COHERENT_USED, "coherent_used", "pages of devices' coherent memory that are in use at the end")

/* X(ID, name, what it counts): of one agent. */
#define TDM_SIM_AGENT_COUNTS(X)                                                                                                  \
	X(CYCLES, "cycles", "from its start to its end, or to the end of the run")                                               \
	X(SLOWEST, "slowest", "cycles from its start to the end of the thread that took longest")                                \
	X(DONE, "done", "accesses, transfers or rounds")                                                                         \
	X(BYTES, "bytes", "that it moved, freed or mapped")                                                                      \
	X(FAULTS, "faults", "that it met")                                                                                       \
	X(RETRIES, "retries", "of its transfers")                                                                                \
	X(FAILED, "failed", "accesses, transfers or rounds that failed")

#define TDM_SIM_ID(id, name, what) TDM_COL_##id,
enum tdm_sim_count { TDM_SIM_COUNTS(TDM_SIM_ID) TDM_COL_NR };
#undef TDM_SIM_ID
#define TDM_SIM_ID(id, name, what) TDM_AGENT_##id,
enum tdm_sim_agent_count { TDM_SIM_AGENT_COUNTS(TDM_SIM_ID) TDM_AGENT_NR };
#undef TDM_SIM_ID

/* One number. agent: whose; -1: the machine's. */
struct tdm_sim_number {
	s32 agent;
	u32 which;        /* enum tdm_sim_agent_count, or enum tdm_sim_count */
};

struct tdm_sim_column {
	char text[72];    /* as the scenario writes it: the column's heading */
	bool quotient;
	struct tdm_sim_number a, b; /* b: of quotients */
};

/* TDM_COL_NR, TDM_AGENT_NR: there is none. */
enum tdm_sim_count tdmi_sim_count_find(const char *name);
enum tdm_sim_agent_count tdmi_sim_agent_count_find(const char *name);
/* The n-th, and what it counts; NULL: there is none. Those of agents likewise. */
const char *tdmi_sim_count_name(u32 n, const char **what);
const char *tdmi_sim_agent_count_name(u32 n, const char **what);

#endif
