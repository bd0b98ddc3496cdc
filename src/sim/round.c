/* SPDX-License-Identifier: MIT */
/* round.c - agents that do something in rounds: a program's system calls, the kernel's threads, a driver's work. */
#include <string.h>
#include "mm/collapse.h"
#include "mm/vmscan.h"
#include "sim/agent.h"

#define FRUITLESS_MOST 1000u  /* rounds in a row */
#define FRUITLESS_NAP 300000u /* cycles */

bool tdmi_agent_once(const struct tdm_sim_agent *a)
{
	return a->kind == TDM_SIM_FILL || a->kind == TDM_SIM_EVICT || a->kind == TDM_SIM_RESTORE || a->kind == TDM_SIM_COLLAPSE;
}

/* What other agents name; where one has all that is left of a guest's vCPUs, all of these. */
static void taken_cpus(const struct tdm_machine *m, bool taken[TDM_CPUS_MAX])
{
	for (u32 i = 0; i < m->sc->nagents; i++) {
		const struct tdm_sim_agent *a = &m->sc->agent[i];
		u32 n = tdm_sim_loads(a->kind) ? a->threads : 1;

		if (a->enabled && a->kind != TDM_SIM_DMA && !a->rest)
			memset(&taken[a->cpu], true, n);
	}
}

/* [*from, *end) is where an agent with threads = rest may be. Whoever has the rest of a guest's leaves nothing of it to who has the rest of the CPUs. */
static void where_rest(const struct tdm_machine *m, const struct tdm_sim_agent *a, bool taken[TDM_CPUS_MAX], u32 *from, u32 *end)
{
	const struct tdm_sim_guest *g = a->kind == TDM_SIM_VCPU ? &m->sc->guest[a->guest.index] : NULL;

	*from = g ? g->cpu : 0;
	*end = g ? g->cpu + g->vcpus : m->sc->machine.cpus;
	for (u32 i = 0; i < m->sc->nagents && !g; i++) {
		const struct tdm_sim_agent *other = &m->sc->agent[i];

		if (other->enabled && other->rest && other->kind == TDM_SIM_VCPU)
			memset(&taken[m->sc->guest[other->guest.index].cpu], true, m->sc->guest[other->guest.index].vcpus);
	}
}

u32 tdmi_agent_cpus(const struct tdm_machine *m, const struct tdm_sim_agent *a, u32 cpus[TDM_CPUS_MAX])
{
	bool taken[TDM_CPUS_MAX] = { false };
	u32 n = 0, from, end;

	if (!tdm_sim_loads(a->kind) || !a->rest) {
		for (u32 k = 0; k < (tdm_sim_loads(a->kind) ? a->threads : 1); k++)
			cpus[n++] = a->kind == TDM_SIM_DMA ? 0 : a->cpu + k;
		return n;
	}
	taken_cpus(m, taken);
	where_rest(m, a, taken, &from, &end);
	for (u32 c = from; c < end && n < a->threads; c++)
		if (!taken[c])
			cpus[n++] = c;
	return n;
}

/* ---- a program's calls */

/* The CPU runs the program, which has used the pages: else there would be nothing in its TLB. */
static int touch(struct tdm_machine *m, struct tdm_unit *u, u64 va, u64 pages)
{
	int r = tdmi_cpus_switch(&m->cpus, u->cpu, u->a->s);

	for (u64 k = 0; k < pages && !r; k++)
		r = tdmi_cpus_touch(&m->cpus, u->cpu, va + (k << TDM_PAGE_SHIFT), u->a->view->spec->writable);
	return r;
}

/* The pages of this round, one after the other through the mapping. */
static u64 pages_of_round(struct tdm_unit *u, u64 *va)
{
	const struct tdm_view *v = u->a->view;
	u64 all = v->spec->size >> TDM_PAGE_SHIFT, n = TDM_MIN(TDM_MAX(u->a->spec->pages, (u64)1), all);

	if (u->at + n > all)
		u->at = 0;
	*va = v->start + (u->at << TDM_PAGE_SHIFT);
	u->at += n;
	return n;
}

static int call(struct tdm_machine *m, struct tdm_unit *u)
{
	const struct tdm_view *v = u->a->view;
	uintptr_t rights = TDM_V_READ | (v->spec->writable ? TDM_V_WRITE : 0);
	u64 va, n = pages_of_round(u, &va) << TDM_PAGE_SHIFT, syscall = tdm_machine_cost(m, TDM_COST_SYSCALL);
	int r = touch(m, u, va, n >> TDM_PAGE_SHIFT);

	if (r)
		return r;
	tdm_machine_pay(m, u->cpu, syscall);
	switch (u->a->spec->kind) {
	case TDM_SIM_UNMAP:
		if (v->object) {
			tdm_machine_pay(m, u->cpu, syscall);
			return tdmi_object_remap(u->a->view);
		}
		r = tdmi_munmap(u->a->s, m->reader, va, n);
		tdm_machine_pay(m, u->cpu, syscall);
		return r ? r : tdmi_mmap(u->a->s, m->reader, va, n, rights);
	case TDM_SIM_PROTECT:
		r = tdmi_mprotect(u->a->s, m->reader, va, n, TDM_V_READ);
		tdm_machine_pay(m, u->cpu, syscall);
		return r ? r : tdmi_mprotect(u->a->s, m->reader, va, n, rights);
	case TDM_SIM_DISCARD:
		return tdmi_madvise_dontneed(u->a->s, m->reader, va, n);
	default:
		return tdmi_madvise_free(u->a->s, m->reader, va, n);
	}
}

/* First the fork; then, when the child has executed or the next round begins, its end. Drivers' memory is not inherited (MADV_DONTFORK). */
static int fork_round(struct tdm_machine *m, struct tdm_unit *u, bool *part)
{
	int r = 0;

	if (u->child) {
		tdmi_cpus_forget(&m->cpus, u->child);
		tdmi_space_destroy(u->child, m->reader);
		u->child = NULL;
		if (u->a->spec->exec)
			return 0;
	}
	tdm_machine_pay(m, u->cpu, tdm_machine_cost(m, TDM_COST_SYSCALL) + tdm_machine_cost(m, TDM_COST_FORK));
	r = tdmi_space_fork(u->a->s, m->reader, &u->child);
	for (u32 i = 0; i < m->sc->nmappings && !r; i++)
		if (m->view[i].s == u->a->s && m->view[i].object)
			r = tdmi_munmap(u->child, m->reader, m->view[i].start, m->view[i].spec->size);
	/* Meanwhile the parent's other threads, and devices, go on. */
	*part = !r && u->a->spec->exec;
	u->next = m->cpus.core[u->cpu].clock + (*part ? tdm_machine_cost(m, TDM_COST_EXEC) : 0);
	return r;
}

/* ---- the kernel's threads */

static int reclaim(struct tdm_machine *m, struct tdm_unit *u, u64 *bytes)
{
	u64 n = TDM_MAX(u->a->spec->pages, (u64)1);

	tdmi_cpus_idle(&m->cpus, u->cpu);
	*bytes = tdmi_vmscan(&m->w, m->reader, n, 4 * n) << TDM_PAGE_SHIFT;
	/* A look that finds nothing takes time, too. */
	tdm_machine_pay(m, u->cpu, tdm_machine_cost(m, TDM_COST_TABLE_LOCK));
	return 0;
}

/* ---- drivers */

static int fill(struct tdm_machine *m, struct tdm_unit *u, u64 *bytes)
{
	struct tdm_view *v = u->a->view;
	s64 r = 0;

	if (u->a->spec->by != TDM_SIM_BY_FAULT) {
		tdm_machine_pay(m, u->cpu, tdm_machine_cost(m, TDM_COST_SYSCALL));
		r = u->a->spec->by == TDM_SIM_BY_RANGE ? tdmi_object_fill(v) : tdmi_object_map_filled(v);
		*bytes = r < 0 ? 0 : (u64)r;
		return (int)TDM_MIN(r, 0);
	}
	for (u64 at = 0; at < v->spec->size && !r; at += TDM_PAGE_SIZE) {
		if (!at)
			r = tdmi_cpus_switch(&m->cpus, u->cpu, u->a->s);
		if (!r)
			r = tdmi_cpus_touch(&m->cpus, u->cpu, v->start + at, false);
		*bytes += r ? 0 : TDM_PAGE_SIZE;
	}
	return (int)r;
}

static int collapse(struct tdm_machine *m, struct tdm_unit *u, u64 *bytes)
{
	struct tdm_collapsed out;

	tdmi_cpus_idle(&m->cpus, u->cpu);
	tdmi_collapse_range(u->a->s, m->reader, u->a->view->start, u->a->view->start + u->a->view->spec->size, &out);
	*bytes = out.made[1] * TDM_HUGE_SIZE;
	return 0;
}

static int move(struct tdm_machine *m, struct tdm_unit *u, bool vram, u64 *bytes)
{
	struct tdm_object *o = &m->object[u->a->spec->object.index];
	int r;

	tdmi_cpus_idle(&m->cpus, u->cpu);
	r = tdmi_object_move(o, vram, u->cpu);
	*bytes = r ? 0 : o->pages << TDM_PAGE_SHIFT;
	return r;
}

/* ---- a round */

int tdmi_agent_round(struct tdm_machine *m, struct tdm_unit *u)
{
	const struct tdm_sim_agent *spec = u->a->spec;
	u64 every = tdmi_duration_cycles(spec->every, m->costs.hz), began = m->cpus.core[u->cpu].clock, bytes = 0, faults = tdm_world_counted(&m->w, TDM_SC_FAULTS);
	bool part = false;
	int r;

	u->next = began;
	switch ((enum tdm_sim_kind)spec->kind) {
	case TDM_SIM_RECLAIM:
		r = reclaim(m, u, &bytes);
		break;
	case TDM_SIM_AGE:
		tdmi_cpus_idle(&m->cpus, u->cpu);
		tdmi_vmscan_age(&m->w);
		r = 0;
		break;
	case TDM_SIM_FORK:
		r = fork_round(m, u, &part);
		break;
	case TDM_SIM_FILL:
		r = fill(m, u, &bytes);
		break;
	case TDM_SIM_EVICT:
	case TDM_SIM_RESTORE:
		r = move(m, u, spec->kind == TDM_SIM_RESTORE, &bytes);
		break;
	case TDM_SIM_COLLAPSE:
		r = collapse(m, u, &bytes);
		break;
	default:
		r = call(m, u);
		bytes = spec->pages << TDM_PAGE_SHIFT;
	}
	u->a->count[TDM_AGENT_FAULTS] += tdm_world_counted(&m->w, TDM_SC_FAULTS) - faults;
	u->a->count[TDM_AGENT_BYTES] += bytes;
	if (r == -ENOMEM)
		u->a->count[TDM_AGENT_FAILED]++;
	else if (r)
		return tdmi_machine_fail(m, r, &spec->s, "a round failed");
	if (part)
		return 0;
	u->done++;
	u->a->count[TDM_AGENT_DONE]++;
	u->next = every ? began + every : TDM_MAX(u->next, m->cpus.core[u->cpu].clock);
	/* It may never reach its target: so that this is found out soon it does not go on trying at once. */
	if (!every && spec->target) {
		u->no_memory = bytes ? 0 : u->no_memory + 1;
		u->next += u->no_memory > FRUITLESS_MOST ? FRUITLESS_NAP : 0;
	}
	if (spec->rounds ? u->done >= spec->rounds : spec->target ? u->a->count[TDM_AGENT_BYTES] >= spec->target : tdmi_agent_once(spec))
		return tdmi_unit_end(m, u);
	return 0;
}
