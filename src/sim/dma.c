/* SPDX-License-Identifier: MIT */
/* dma.c - agents that are devices: transfers to and from a mapping, as many at a time as the device takes; or, for a device without page faults, of memory that
 * is pinned before. */
#include <stdlib.h>
#include "mm/pin.h"
#include "sim/agent.h"

static struct tdm_iommu_dev *device(const struct tdm_sim_run_agent *a)
{
	return a->m->dev[a->spec->device.index].dev;
}

static u32 pasid(const struct tdm_sim_run_agent *a)
{
	return (u32)a->view->spec->process.index + 1;
}

/* A transfer has ended: from the device's step, or teardown. */
static void ended(struct tdm_dma *d)
{
	struct tdm_sim_dma *s = d->arg;
	struct tdm_sim_run_agent *a = s->unit->a;

	s->busy = false;
	a->outstanding--;
	a->count[TDM_AGENT_BYTES] += d->bytes;
	a->count[TDM_AGENT_RETRIES] += d->retries;
	a->count[d->result ? TDM_AGENT_FAILED : TDM_AGENT_DONE]++;
	/* It is a CPU that gives the device more; which costs the device no time. */
	if (s->unit->next == TDM_SIM_NEVER && !s->unit->ended)
		s->unit->next = TDM_MAX(d->ended, s->unit->at);
}

static int pin_all(struct tdm_machine *m, struct tdm_sim_run_agent *a, struct tdm_unit *u)
{
	u64 n = a->view->spec->size >> TDM_PAGE_SHIFT;
	u32 flags = TDM_PIN_LONGTERM | (a->view->spec->writable ? TDM_PIN_WRITE : 0);

	a->pin = malloc(n * sizeof(*a->pin));
	if (!a->pin)
		return -ENOMEM;
	m->cpus.current = u->cpu;
	while (a->npinned < n) {
		u32 done;
		u64 va = a->view->start + (a->npinned << TDM_PAGE_SHIFT);
		int r = tdmi_pin_pages(a->s, m->reader, va, (u32)TDM_MIN(n - a->npinned, (u64)512), flags, a->pin + a->npinned, &done);

		a->npinned += done;
		tdm_machine_pay(m, u->cpu, done * tdm_machine_cost(m, TDM_COST_PIN));
		if (r)
			return r;
	}
	return 0;
}

int tdmi_agent_dma_begin(struct tdm_machine *m, struct tdm_sim_run_agent *a, struct tdm_unit *u)
{
	int r = a->spec->pin ? pin_all(m, a, u) : 0;

	if (r)
		return tdmi_machine_fail(m, r, &a->spec->s, "its memory cannot be pinned: more ram, or a smaller mapping");
	a->ndma = device(a)->config.depth;
	a->dma = calloc(a->ndma, sizeof(*a->dma));
	a->dma_buf = calloc(a->ndma, a->spec->transfer);
	if (!a->dma || !a->dma_buf)
		return tdmi_machine_fail(m, -ENOMEM, &a->spec->s, "no memory");
	for (u32 i = 0; i < a->ndma; i++) {
		a->dma[i].unit = u;
		a->dma[i].dma = (struct tdm_dma){ .pasid = pasid(a), .len = (u32)a->spec->transfer, .buf = a->dma_buf + i * a->spec->transfer, .done = ended, .arg = &a->dma[i] };
	}
	return 0;
}

/* The next transfer. It lies within the mapping as a whole. */
static int submit(struct tdm_machine *m, struct tdm_unit *u, struct tdm_sim_dma *s)
{
	struct tdm_sim_run_agent *a = u->a;
	u64 op = u->ops[u->op++], room = a->view->spec->size - a->spec->transfer;
	int r;

	s->dma.va = a->view->start + TDM_MIN(TDM_OP_OFFSET(op), room);
	s->dma.write = op & TDM_OP_WRITE;
	s->busy = true;
	a->outstanding++;
	u->done++;
	r = tdmi_iommu_dma_submit(device(a), &s->dma);
	return r ? tdmi_machine_fail(m, r, &a->spec->s, "its device refuses the transfer") : 0;
}

int tdmi_agent_dma_step(struct tdm_machine *m, struct tdm_unit *u)
{
	struct tdm_sim_run_agent *a = u->a;
	u64 every = tdmi_duration_cycles(a->spec->every, m->costs.hz);
	int r = 0;

	for (u32 i = 0; i < a->ndma && !r && (!a->spec->accesses || u->done < a->spec->accesses); i++) {
		if (a->dma[i].busy)
			continue;
		if (u->op == u->nops) {
			r = tdmi_stream_next(&u->stream, u->ops, TDM_SIM_BATCH, m->err);
			if (r < 0)
				return r;
			u->op = 0;
			u->nops = (u32)r;
			r = 0;
			if (!u->nops)
				break;
		}
		r = submit(m, u, &a->dma[i]);
		u->at = u->next + every;
		if (every)
			break;
	}
	u->next = every && a->outstanding < a->ndma ? u->at : TDM_SIM_NEVER;
	if (r)
		return r;
	if (!a->outstanding && (!u->nops || (a->spec->accesses && u->done >= a->spec->accesses)))
		return tdmi_unit_end(m, u);
	return 0;
}

void tdmi_agent_dma_under_way(const struct tdm_sim_run_agent *a, u64 *bytes, u64 *retries)
{
	*bytes = *retries = 0;
	for (u32 i = 0; i < a->ndma && a->outstanding; i++) {
		*bytes += a->dma[i].busy ? a->dma[i].dma.bytes : 0;
		*retries += a->dma[i].busy ? a->dma[i].dma.retries : 0;
	}
}

void tdmi_agent_dma_end(struct tdm_machine *m, struct tdm_sim_run_agent *a)
{
	if (a->outstanding)
		(void)tdmi_iommu_unbind(&m->iommu, pasid(a));
	for (u64 i = 0; i < a->npinned; i++)
		tdmi_unpin_pages(&m->w, &a->pin[i], 1, a->view->spec->writable);
	free(a->pin);
	free(a->dma);
	free(a->dma_buf);
	a->pin = NULL;
	a->dma = NULL;
	a->dma_buf = NULL;
	a->npinned = 0;
}
