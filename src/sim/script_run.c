/* SPDX-License-Identifier: MIT */
/* script_run.c - carries scripts out; see script.h. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "mm/vmscan.h"
#include "sim/script_impl.h"

struct tdm_script *tdmi_script_open(void)
{
	struct tdm_script *x = aligned_alloc(64, TDM_ALIGN_UP(sizeof(*x), 64));
	struct tdm_machine *m = aligned_alloc(_Alignof(struct tdm_machine), sizeof(*m));

	if (!x || !m) {
		free(x);
		free(m);
		return NULL;
	}
	memset(x, 0, sizeof(*x));
	memset((void *)m, 0, sizeof(*m));
	x->m = m;
	return x;
}

void tdmi_script_close(struct tdm_script *x)
{
	free(x->hog);
	free(x->count);
	free(x->m);
	free(x);
}

int tdmi_script_differs(struct tdm_script *x, const char *fmt, ...)
{
	char text[96], what[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return tdmi_sim_fail(x->err, 1, x->sc->path, x->op ? x->op->line : 0, "%s: %s", x->op ? tdmi_op_print(x->op, text) : "at the end", what);
}

bool tdmi_script_failed(const struct tdm_script *x, enum tdm_op_fail kind)
{
	return x->armed[kind] && !tdm_a32_ld_relaxed(&x->fail[kind]);
}

bool tdmi_script_excused(const struct tdm_script *x, int r)
{
	const struct tdm_phys *phys = &x->m->w.phys;

	if (r == -EIO || r == -EBADMSG)
		return tdmi_script_failed(x, TDM_DO_FAIL_GET);
	if (r == -ENOSPC)
		return x->op && x->op->what == TDM_DO_MMAP_DEVICE;
	/* Or there is no memory: reclaim goes by batches of pages, and what it has freed may be taken again. */
	return r == -ENOMEM && (tdmi_script_failed(x, TDM_DO_FAIL_MEMORY) || tdmi_script_failed(x, TDM_DO_FAIL_PAGE) ||
				tdmi_phys_used(phys, x->m->w.ram) + 64 >= phys->range[x->m->w.ram].n);
}

/* ---- before and after */

static int make(struct tdm_script *x, const struct tdm_costs *costs, char *err)
{
	struct tdm_machine *m = x->m;
	u64 pages;
	int r;

	memset((void *)m, 0, offsetof(struct tdm_machine, object));
	m->sc = x->sc;
	m->err = err;
	m->tier = tdmi_script_tier;
	m->tier_arg = x;
	tdmi_scenario_costs(x->sc, costs, &m->costs);
	r = tdmi_machine_hardware(m);
	if (r)
		return tdmi_machine_fail(m, r, NULL, "it cannot be made");
	for (u32 d = 0; d < x->sc->ndevices; d++) {
		x->coherent = x->coherent ? x->coherent : m->dev[d].coherent;
		x->vram = x->vram ? x->vram : m->dev[d].vram;
	}
	pages = m->w.phys.range[m->w.ram].n;
	free(x->hog);
	free(x->count);
	x->hog = malloc(pages * sizeof(*x->hog));
	x->count = malloc((pages + (x->coherent ? m->w.phys.range[x->coherent].n : 0)) * sizeof(*x->count));
	if (!x->hog || !x->count)
		return tdmi_sim_fail(err, -ENOMEM, x->sc->path, 0, "no memory");
	m->w.alloc.fail = &x->fail[TDM_DO_FAIL_MEMORY];
	m->w.phys.fail = &x->fail[TDM_DO_FAIL_PAGE];
	m->w.phys.freed = tdmi_script_freed;
	m->w.phys.freed_arg = x;
	x->alloc_used = tdmi_alloc_used(&m->w.alloc);
	return 0;
}

static void begin(struct tdm_script *x, const struct tdm_scenario *s, char *err)
{
	x->sc = s;
	x->err = err;
	x->op = NULL;
	x->used_free = NULL;
	x->coherent = x->vram = x->nhogs = 0;
	memset(x->shared, 0, sizeof(x->shared));
	memset(x->pin, 0, sizeof(x->pin));
	for (u32 k = 0; k < TDM_DO_FAIL_NR; k++)
		tdm_a32_st_relaxed(&x->fail[k], 0);
	for (u32 p = 0; p < TDM_SCRIPT_PROCESSES; p++) {
		x->process[p].s = NULL;
		x->process[p].bound = x->process[p].has_guest = false;
	}
	tdmi_model_init(&x->model);
}

static int one(struct tdm_script *x, const struct tdm_op *op)
{
	bool access = (op->what >= TDM_DO_READ && op->what <= TDM_DO_PIN_WRITE);
	int r;

	x->op = op;
	for (u32 k = 0; k < TDM_DO_FAIL_NR; k++)
		x->armed[k] = tdm_a32_ld_relaxed(&x->fail[k]);
	r = access ? tdmi_script_access(x) : tdmi_script_change(x);
	(void)tdmi_rcu_poll(&x->m->w.rcu);
	return r ? r : tdmi_script_check(x);
}

/* All that was used is read once more, with memory for it. */
static int look_at_all(struct tdm_script *x)
{
	int r = 0;

	while (x->nhogs)
		tdmi_page_put(&x->m->w, x->hog[--x->nhogs]);
	for (u32 k = 0; k < TDM_DO_FAIL_NR; k++) {
		tdm_a32_st_relaxed(&x->fail[k], 0);
		x->armed[k] = false;
	}
	for (u32 p = 0; p < TDM_SCRIPT_PROCESSES && !r; p++)
		for (u32 page = 0; x->process[p].s && page < TDM_SCRIPT_PAGES && !r; page++)
			if (x->model.cell[p][page].used && x->model.cell[p][page].rights != TDM_DO_NONE)
				r = tdmi_script_look(x, p, page);
	return r ? r : tdmi_script_check(x);
}

/* Everybody goes: nothing may remain. */
static int leave(struct tdm_script *x)
{
	struct tdm_world *w = &x->m->w;
	struct tdm_swap_stats st = { 0 };

	for (u32 i = 0; i < TDM_SCRIPT_PINS; i++)
		tdmi_script_unpin(x, i);
	for (u32 p = 0; p < TDM_SCRIPT_PROCESSES; p++)
		if (x->process[p].s)
			tdmi_script_exit(x, p);
	for (u32 i = 0; i < TDM_SCRIPT_SHARED; i++)
		if (x->shared[i].shm)
			tdmi_shm_put(x->shared[i].shm, x->m->reader);
	tdmi_rcu_drain(&w->rcu);
	if (tdmi_script_check(x))
		return 1;
	if (w->swap)
		tdmi_swap_stats(w->swap, &st);
	if (tdmi_phys_used(&w->phys, w->ram) != 1 || (x->coherent && tdmi_phys_used(&w->phys, x->coherent)) || st.pages)
		return tdmi_script_differs(x, "%llu pages of ram, %llu of the tier are still in use when all have gone",
			(unsigned long long)tdmi_phys_used(&w->phys, w->ram) - 1,
					   (unsigned long long)st.pages);
	if (tdmi_alloc_used(&w->alloc) != x->alloc_used)
		return tdmi_script_differs(x, "%lld bytes of the engine's own are still in use when all have gone",
			(long long)(tdmi_alloc_used(&w->alloc) - x->alloc_used));
	return 0;
}

int tdmi_script_run(struct tdm_script *x, const struct tdm_scenario *s, const struct tdm_costs *costs, struct tdm_script_result *out, char *err)
{
	int r;

	*out = (struct tdm_script_result){ 0 };
	begin(x, s, err);
	r = make(x, costs, err);
	if (!r && tdmi_space_create(&x->m->w, &x->process[0].s))
		r = -ENOMEM;
	if (r) {
		tdmi_machine_hardware_end(x->m);
		return r;
	}
	tdmi_model_spawn(&x->model, 0);
	for (u32 b = 0; x->vram && b < TDM_SCRIPT_BUFFERS; b++)
		tdmi_script_buffer_init(x, b);
	for (; out->done < s->nops && !r; out->done++) {
		r = one(x, &s->op[out->done]);
		for (u32 k = 0; k < TDM_DO_FAIL_NR; k++)
			out->failures += tdmi_script_failed(x, (enum tdm_op_fail)k);
	}
	if (!r) {
		x->op = NULL;
		r = look_at_all(x);
	}
	if (!r)
		r = leave(x);
	out->faults = tdm_world_counted(&x->m->w, TDM_SC_FAULTS);
	/* Where something differs what would be taken down is not what it should be. */
	if (!r)
		tdmi_machine_hardware_end(x->m);
	return r;
}
