/* SPDX-License-Identifier: MIT */
/* counts.c - what a machine has counted, by the names that a scenario knows (column.h). */
#include "sim/agent.h"

static void count_cpus(struct tdm_machine *m, u64 *c)
{
	struct tdm_cpu_stats s;

	tdmi_cpus_stats(&m->cpus, ~0u, &s);
	c[TDM_COL_ACCESSES] = s.accesses;
	c[TDM_COL_TLB_HITS] = s.tlb_hits[0];
	c[TDM_COL_TLB_L2_HITS] = s.tlb_hits[1];
	c[TDM_COL_TLB_MISSES] = s.tlb_misses;
	c[TDM_COL_WALK_READS] = s.walk_reads;
	c[TDM_COL_WALK_SETS] = s.walk_sets;
	c[TDM_COL_SWITCHES] = s.switches;
	c[TDM_COL_FLUSHED_ENTRIES] = s.flushed;
	c[TDM_COL_IPIS] = s.ipis_sent;
	c[TDM_COL_BROADCASTS] = s.broadcast_ops;
	c[TDM_COL_FLUSH_CYCLES] = s.cycles[TDM_CYC_FLUSH];
	c[TDM_COL_IPI_CYCLES] = s.cycles[TDM_CYC_IPI_SEND] + s.cycles[TDM_CYC_IPI_WAIT];
	c[TDM_COL_INTERRUPTED_CYCLES] = s.cycles[TDM_CYC_IPI_HANDLE];
	c[TDM_COL_BROADCAST_CYCLES] = s.cycles[TDM_CYC_BROADCAST];
	c[TDM_COL_WALK_CYCLES] = s.cycles[TDM_CYC_WALK];
	c[TDM_COL_WORK_CYCLES] = s.cycles[TDM_CYC_WORK];
}

static void count_iommu(const struct tdm_iommu *it, u64 *c)
{
	c[TDM_COL_DMA_RETRIES] = tdm_iommu_counted(it, TDM_IC_RETRIES);
	c[TDM_COL_DMA_RETRIES_MOST] = tdm_iommu_counted(it, TDM_IC_RETRIES_MOST);
	c[TDM_COL_ATS_REQUESTS] = tdm_iommu_counted(it, TDM_IC_ATS_REQUESTS);
	c[TDM_COL_IOTLB_HITS] = tdm_iommu_counted(it, TDM_IC_IOTLB_HITS);
	c[TDM_COL_IOMMU_WALKS] = tdm_iommu_counted(it, TDM_IC_WALKS);
	c[TDM_COL_IOMMU_WALK_READS] = tdm_iommu_counted(it, TDM_IC_WALK_READS);
	c[TDM_COL_IOMMU_FAULTS] = tdm_iommu_counted(it, TDM_IC_FAULT_ABSENT) + tdm_iommu_counted(it, TDM_IC_FAULT_DENIED) +
				  tdm_iommu_counted(it, TDM_IC_FAULT_ACCESS) + tdm_iommu_counted(it, TDM_IC_FAULT_DIRTY);
	c[TDM_COL_PAGE_REQUESTS] = tdm_iommu_counted(it, TDM_IC_PAGE_REQUESTS);
	c[TDM_COL_GROUPS] = tdm_iommu_counted(it, TDM_IC_GROUPS);
	c[TDM_COL_STALLS] = tdm_iommu_counted(it, TDM_IC_STALLS);
	c[TDM_COL_IOTLB_COMMANDS] = tdm_iommu_counted(it, TDM_IC_CMD_IOTLB);
	c[TDM_COL_ATC_COMMANDS] = tdm_iommu_counted(it, TDM_IC_CMD_ATC);
	c[TDM_COL_SYNCS] = tdm_iommu_counted(it, TDM_IC_CMD_SYNC);
	c[TDM_COL_SYNC_CYCLES] = tdm_iommu_counted(it, TDM_IC_SYNC_CYCLES);
	c[TDM_COL_OVER_ENTRIES] = tdm_iommu_counted(it, TDM_IC_ENTRIES_OVER);
	c[TDM_COL_PINS] = tdm_iommu_counted(it, TDM_IC_PINS);
}

static void count_guest(const struct tdm_stage2 *st, u64 *c)
{
	c[TDM_COL_GUEST_EXITS] += tdm_stage2_counted(st, TDM_S2_MISSES);
	c[TDM_COL_GUEST_FILLS] += tdm_stage2_counted(st, TDM_S2_FILLS);
	c[TDM_COL_GUEST_ROUNDS] += tdm_stage2_counted(st, TDM_S2_ROUNDS);
	c[TDM_COL_GUEST_CLEARED] += tdm_stage2_counted(st, TDM_S2_CLEARED);
	c[TDM_COL_GUEST_FLUSHES] += tdm_stage2_counted(st, TDM_S2_FLUSHES);
	c[TDM_COL_GUEST_ASKED] += tdm_stage2_counted(st, TDM_S2_ASKED);
	c[TDM_COL_GUEST_YOUNG] += tdm_stage2_counted(st, TDM_S2_YOUNG);
	c[TDM_COL_GUEST_AGING_CYCLES] += tdm_stage2_counted(st, TDM_S2_AGING);
	c[TDM_COL_GUEST_WAIT_CYCLES] += tdm_stage2_counted(st, TDM_S2_VCPU_WAITED);
	c[TDM_COL_GUEST_MM_WAIT_CYCLES] += tdm_stage2_counted(st, TDM_S2_MM_WAITED);
}

static void count_devices(struct tdm_machine *m, u64 *c)
{
	for (u32 i = 0; i < m->sc->ndevices; i++) {
		const struct tdm_iommu_dev *d = m->dev[i].dev;

		c[TDM_COL_DMA_BYTES] += d->bytes_read + d->bytes_written;
		c[TDM_COL_DMA_DONE] += d->done;
		c[TDM_COL_DMA_FAILED] += d->aborted;
		if (m->dev[i].coherent)
			c[TDM_COL_COHERENT_USED] += tdmi_phys_used(&m->w.phys, m->dev[i].coherent);
	}
}

/* From when measuring began, if that was later. */
static u64 slowest(const struct tdm_machine *m, const struct tdm_sim_run_agent *r)
{
	u64 most = 0;

	for (u32 i = 0; i < m->nunits; i++) {
		const struct tdm_unit *u = &m->unit[i];
		u64 from, end;

		if (u->what != TDM_UNIT_AGENT || u->a != r)
			continue;
		from = m->start == TDM_SIM_NEVER ? u->began : TDM_MAX(u->began, m->start);
		end = u->ended ? u->end : m->cpus.core[u->cpu].clock;
		most = TDM_MAX(most, end > from ? end - from : 0);
	}
	return most;
}

void tdmi_machine_counts(struct tdm_machine *m, struct tdm_sim_result *out)
{
	u64 now = tdmi_machine_now(m);

	*out = (struct tdm_sim_result){ 0 };
	for (u32 i = 0; i < TDM_SC_NR; i++)
		out->count[i] = tdm_world_counted(&m->w, (enum tdm_space_count)i);
	count_cpus(m, out->count);
	if (m->has_iommu)
		count_iommu(&m->iommu, out->count);
	count_devices(m, out->count);
	for (u32 i = 0; i < m->nguests; i++)
		count_guest(&m->guest[i]->st, out->count);
	out->count[TDM_COL_CYCLES] = now;
	out->count[TDM_COL_RAM_USED] = tdmi_phys_used(&m->w.phys, m->w.ram);
	for (u32 a = 0; a < m->sc->nagents; a++) {
		struct tdm_sim_run_agent *r = &m->agent[a];
		u64 bytes, retries;

		for (u32 i = 0; i < TDM_AGENT_NR; i++)
			out->agent[a][i] = r->count[i];
		/* A transfer that does not get on is not to be seen by the others alone. */
		tdmi_agent_dma_under_way(r, &bytes, &retries);
		out->agent[a][TDM_AGENT_BYTES] += bytes;
		out->agent[a][TDM_AGENT_RETRIES] += retries;
		/* A device works beside others; a CPU's time is its own. */
		if (r->spec && r->spec->kind == TDM_SIM_DMA)
			out->agent[a][TDM_AGENT_CYCLES] = r->begun ? (r->ended ? r->end : now) - r->began : 0;
		else
			out->agent[a][TDM_AGENT_CYCLES] = r->busy;
		out->agent[a][TDM_AGENT_SLOWEST] = r->spec && r->spec->kind == TDM_SIM_DMA ? out->agent[a][TDM_AGENT_CYCLES] : slowest(m, r);
	}
}

void tdmi_machine_measure(struct tdm_machine *m)
{
	m->start = tdmi_machine_now(m);
	m->accesses = 0;
	m->iommu.count[TDM_IC_RETRIES_MOST] = 0; /* a maximum has no difference */
	tdmi_machine_counts(m, &m->from);
}
