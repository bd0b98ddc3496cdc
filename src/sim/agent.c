/* SPDX-License-Identifier: MIT */
/*
 * agent.c - who does what, in which order (machine.h, "Time").
 *
 * An agent without an end (no number of accesses or rounds) goes on until all that have one have ended. One that is not enabled is not there.
 */
#include "sim/agent.h"

#define SLICE 2000u         /* cycles */
#define AHEAD 8u            /* accesses */
#define NO_MEMORY_NAP 20000u
#define NO_MEMORY_MOST 10000u

#define NOWHERE "nothing that has an end has got on for a second of the machine's time; give [run] a time to see how far it comes"
#define DMA_HELP ", the device give_up, or the iommu pin_after"

struct watch {
	u64 done, since; /* when it last grew */
};

/* ---- beginning and ending */

static bool has_end(const struct tdm_sim_agent *a)
{
	return tdm_sim_accesses(a->kind) ? a->accesses || a->pattern == TDM_SIM_TRACE : a->rounds || a->target || tdmi_agent_once(a);
}

static struct tdm_unit *unit_add(struct tdm_machine *m, struct tdm_sim_run_agent *a, u32 cpu)
{
	struct tdm_unit *u = m->nunits < TDM_SIM_UNITS ? &m->unit[m->nunits++] : NULL;

	if (u) {
		*u = (struct tdm_unit){ .what = TDM_UNIT_AGENT, .a = a, .cpu = cpu, .next = tdmi_machine_now(m) };
		u->began = u->next;
		a->nunits++;
		a->running++;
	}
	return u;
}

static int begin(struct tdm_machine *m, struct tdm_sim_run_agent *a)
{
	const struct tdm_sim_agent *spec = a->spec;
	u32 cpus[TDM_CPUS_MAX], n = tdmi_agent_cpus(m, spec, cpus);

	a->begun = true;
	a->began = tdmi_machine_now(m);
	if (m->sc->run.from.index == (s32)(a - m->agent) && m->start == TDM_SIM_NEVER)
		tdmi_machine_measure(m);
	for (u32 k = 0; k < n; k++) {
		struct tdm_unit *u = unit_add(m, a, cpus[k]);

		if (!u)
			return tdmi_machine_fail(m, -ENOSPC, &spec->s, "too many threads");
		if (tdm_sim_accesses(spec->kind)) {
			int r = tdmi_stream_open(&u->stream, m->sc, (u32)(a - m->agent), k, m->err);

			u->has_stream = !r;
			if (!r && spec->kind == TDM_SIM_DMA)
				r = tdmi_agent_dma_begin(m, a, u);
			if (r)
				return r;
		}
	}
	return 0;
}

/* Those that wait for this one. */
static int begin_after(struct tdm_machine *m, s32 index)
{
	int r = 0;

	for (u32 i = 0; i < m->sc->nagents && !r; i++) {
		struct tdm_sim_run_agent *a = &m->agent[i];

		if (a->spec->after.index == index && !a->begun && a->spec->enabled)
			r = begin(m, a);
		else if (a->spec->after.index == index && !a->begun && index >= 0) {
			/* It is as if it were not there: whoever comes after it does not wait. */
			a->begun = a->ended = true;
			r = begin_after(m, (s32)i);
		}
	}
	return r;
}

int tdmi_unit_end(struct tdm_machine *m, struct tdm_unit *u)
{
	struct tdm_sim_run_agent *a = u->a;

	u->ended = true;
	u->end = m->cpus.core[u->cpu].clock;
	u->next = TDM_SIM_NEVER;
	if (--a->running)
		return 0;
	a->ended = true;
	a->end = tdmi_machine_now(m);
	return begin_after(m, (s32)(a - m->agent));
}

int tdmi_agents_init(struct tdm_machine *m)
{
	for (u32 d = 0; d < m->sc->ndevices; d++)
		m->unit[m->nunits++] = (struct tdm_unit){ .what = TDM_UNIT_DEVICE, .device = d };
	if (m->has_iommu)
		m->unit[m->nunits++] = (struct tdm_unit){ .what = TDM_UNIT_HANDLER };
	for (u32 i = 0; i < m->sc->nagents; i++) {
		struct tdm_sim_run_agent *a = &m->agent[i];

		*a = (struct tdm_sim_run_agent){ .m = m, .spec = &m->sc->agent[i] };
		if (a->spec->mapping.index >= 0) {
			a->view = &m->view[a->spec->mapping.index];
			a->s = a->view->s;
			a->base = a->view->start;
		} else if (a->spec->process.index >= 0) {
			a->s = m->space[a->spec->process.index];
		}
		if (a->spec->guest.index >= 0) {
			a->guest = m->guest[a->spec->guest.index];
			a->base -= a->guest->st.start;
		}
	}
	if (m->sc->run.from.index < 0)
		tdmi_machine_measure(m);
	for (u32 i = 0; i < m->sc->nagents; i++)
		if (!m->agent[i].spec->enabled && m->agent[i].spec->after.index < 0)
			m->agent[i].begun = m->agent[i].ended = true;
	return begin_after(m, -1);
}

void tdmi_agents_destroy(struct tdm_machine *m)
{
	for (u32 i = 0; i < m->nunits; i++) {
		if (m->unit[i].has_stream)
			tdmi_stream_close(&m->unit[i].stream);
		if (m->unit[i].child)
			tdmi_space_destroy(m->unit[i].child, m->reader);
	}
	for (u32 i = 0; i < m->sc->nagents; i++)
		tdmi_agent_dma_end(m, &m->agent[i]);
}

/* ---- threads that load and store */

static int access_one(struct tdm_machine *m, struct tdm_unit *u, u64 op)
{
	u64 va = u->a->base + TDM_OP_OFFSET(op), value;

	if (!(op & TDM_OP_WRITE))
		return tdm_cpus_load(&m->cpus, u->cpu, va, &value);
	return tdm_cpus_store(&m->cpus, u->cpu, va, op ^ u->done);
}

/* Its CPU runs the process, or the guest. */
static int enter(struct tdm_machine *m, struct tdm_unit *u)
{
	if (u->a->guest)
		return tdm_guest_runs(u->a->guest, u->cpu) ? 0 : tdmi_guest_enter(u->a->guest, u->cpu);
	return tdm_core_runs(&m->cpus.core[u->cpu], u->a->s) ? 0 : tdmi_cpus_switch(&m->cpus, u->cpu, u->a->s);
}

/* Until `until`, or the end of what has been fetched. */
static int step_cpu(struct tdm_machine *m, struct tdm_unit *u, u64 until)
{
	const struct tdm_sim_agent *spec = u->a->spec;
	struct tdm_core *k = &m->cpus.core[u->cpu];
	u64 every = tdmi_duration_cycles(spec->every, m->costs.hz), most = spec->accesses ? spec->accesses - u->done : ~(u64)0;
	u64 n = 0, misses = k->tlb.misses, faults = k->stats.faults;
	int r = 0;

	if (u->op == u->nops) {
		r = tdmi_stream_next(&u->stream, u->ops, TDM_SIM_BATCH, m->err);
		if (r < 0)
			return r;
		u->op = 0;
		u->nops = (u32)r;
		if (!r)
			return tdmi_unit_end(m, u);
	}
	r = enter(m, u);
	while (!r && u->op < u->nops && n < most && k->clock <= until) {
		if (u->missing && u->op + AHEAD < u->nops)
			tdmi_cpus_ahead(&m->cpus, u->cpu, u->a->base + TDM_OP_OFFSET(u->ops[u->op + AHEAD]));
		r = access_one(m, u, u->ops[u->op]);
		if (r)
			break;
		u->op++;
		n++;
		if (every)
			break;
	}
	/* What misses the simulated TLB most likely misses this machine's caches, too. */
	u->missing = (k->tlb.misses - misses) * 4 > n;
	u->done += n;
	m->accesses += n;
	u->a->count[TDM_AGENT_DONE] += n;
	u->a->count[TDM_AGENT_BYTES] += 8 * n;
	u->a->count[TDM_AGENT_FAULTS] += k->stats.faults - faults;
	u->no_memory = n ? 0 : u->no_memory;
	u->next = every ? u->next + every : k->clock;
	if (r == -ENOMEM && u->no_memory++ < NO_MEMORY_MOST) {
		/* Others may find some. */
		u->a->count[TDM_AGENT_FAILED]++;
		u->next = k->clock + NO_MEMORY_NAP;
	} else if (r) {
		return tdmi_machine_fail(m, r, &spec->s, r == -ENOMEM ? "no memory, and nobody makes room: more ram, a tier, or an agent that reclaims" : "an access failed");
	}
	return u->done == spec->accesses && spec->accesses ? tdmi_unit_end(m, u) : 0;
}

/* ---- the loop */

/* When the unit can go on. */
static u64 ready(struct tdm_machine *m, const struct tdm_unit *u)
{
	u64 next = u->next;

	if (u->what == TDM_UNIT_DEVICE)
		return tdmi_iommu_dev_next(m->dev[u->device].dev);
	if (u->what == TDM_UNIT_HANDLER)
		next = tdmi_iommu_handler_next(&m->iommu);
	return next == TDM_SIM_NEVER ? next : TDM_MAX(next, m->cpus.core[u->cpu].clock);
}

static int step(struct tdm_machine *m, struct tdm_unit *u, u64 now, u64 until)
{
	u64 before;
	int r = 0;

	if (u->what == TDM_UNIT_DEVICE) {
		(void)tdmi_iommu_dev_step(m->dev[u->device].dev);
		return 0;
	}
	m->cpus.current = u->cpu;
	tdmi_cpus_wait_until(&m->cpus, u->cpu, now);
	before = m->cpus.core[u->cpu].clock;
	if (u->what == TDM_UNIT_HANDLER)
		(void)tdmi_iommu_handler_step(&m->iommu);
	else if (tdm_sim_loads(u->a->spec->kind))
		r = step_cpu(m, u, until);
	else if (u->a->spec->kind == TDM_SIM_DMA)
		r = tdmi_agent_dma_step(m, u);
	else
		r = tdmi_agent_round(m, u);
	if (u->what == TDM_UNIT_AGENT)
		u->a->busy += m->cpus.core[u->cpu].clock - before;
	return r;
}

static bool over(const struct tdm_machine *m)
{
	bool any = false;

	for (u32 i = 0; i < m->sc->nagents; i++) {
		const struct tdm_sim_run_agent *a = &m->agent[i];

		if (a->spec->enabled && has_end(a->spec) && !a->ended)
			return false;
		any |= a->spec->enabled && has_end(a->spec);
	}
	return any;
}

static void show(struct tdm_machine *m)
{
	u64 done = 0, all = 0, part = 0;

	for (u32 i = 0; i < m->nunits; i++) {
		const struct tdm_unit *u = &m->unit[i];
		u64 end = u->what == TDM_UNIT_AGENT ? (tdm_sim_accesses(u->a->spec->kind) ? u->a->spec->accesses : u->a->spec->rounds) : 0;

		done += end ? TDM_MIN(u->done, end) : 0;
		all += end;
	}
	if (all)
		part = (u64)((unsigned __int128)done * ((u64)1 << 20) / all);
	if (m->progress)
		m->progress(m->progress_arg, m->progress_done + part, m->progress_total);
}

/* What is done of all that has an end; as long as it grows there will be one. */
static u64 done_so_far(const struct tdm_machine *m)
{
	u64 n = m->sc->run.accesses ? m->accesses : 0;

	for (u32 i = 0; i < m->nunits; i++)
		if (m->unit[i].what == TDM_UNIT_AGENT && has_end(m->unit[i].a->spec) && !m->unit[i].a->spec->target)
			n += m->unit[i].done;
	for (u32 i = 0; i < m->sc->nagents; i++) {
		u64 bytes, retries;

		if (!has_end(m->agent[i].spec))
			continue;
		tdmi_agent_dma_under_way(&m->agent[i], &bytes, &retries);
		n += m->agent[i].count[TDM_AGENT_BYTES] + m->agent[i].count[TDM_AGENT_FAILED] + bytes;
	}
	return n;
}

/* A device need not get on (port/iommu.h): a run without a limit in time must not go on for ever because of it. */
static int watch(struct tdm_machine *m, struct watch *w)
{
	u64 done = done_so_far(m), now = tdmi_machine_now(m), patience = m->costs.hz;
	const struct tdm_sim_run_agent *stuck = NULL;

	for (u32 i = 0; i < m->sc->nagents; i++) {
		const struct tdm_sim_run_agent *a = &m->agent[i];

		patience = TDM_MAX(patience, 4 * tdmi_duration_cycles(a->spec->every, m->costs.hz));
		if (!stuck && a->begun && !a->ended && has_end(a->spec))
			stuck = a;
	}
	if (done != w->done || !w->since)
		*w = (struct watch){ done, now };
	if (m->sc->run.time.n || now - w->since < patience)
		return 0;
	return tdmi_machine_fail(m, -ETIMEDOUT, stuck ? &stuck->spec->s : NULL, stuck && stuck->spec->kind == TDM_SIM_DMA ? NOWHERE DMA_HELP : NOWHERE);
}

int tdmi_agents_run(struct tdm_machine *m)
{
	u64 limit = m->sc->run.accesses ? m->sc->run.accesses : ~(u64)0, time = tdmi_duration_cycles(m->sc->run.time, m->costs.hz);
	struct watch watched = { 0 };
	u64 steps = 0;
	int r = 0;

	while (!r) {
		struct tdm_unit *first = NULL;
		u64 at = TDM_SIM_NEVER, second = TDM_SIM_NEVER;

		for (u32 i = 0; i < m->nunits; i++) {
			u64 t = m->unit[i].ended ? TDM_SIM_NEVER : ready(m, &m->unit[i]);

			if (t < at) {
				second = at;
				at = t;
				first = &m->unit[i];
			} else if (t < second) {
				second = t;
			}
		}
		if (!first || over(m))
			break;
		if (m->start != TDM_SIM_NEVER && (m->accesses >= limit || (time && at >= m->start + time)))
			break;
		r = step(m, first, at, second == TDM_SIM_NEVER ? at + 100 * SLICE : TDM_MAX(second, at) + SLICE);
		if ((++steps & 0xfff) == 0) {
			show(m);
			(void)tdmi_rcu_poll(&m->w.rcu);
			r = r ? r : watch(m, &watched);
		}
	}
	return r;
}
