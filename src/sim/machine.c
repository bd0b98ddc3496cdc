/* SPDX-License-Identifier: MIT */
/* machine.c - makes the machine of each point of a scenario, has it run (agent.c), and reports what it counted. */
#include "sim/machine.h"
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "mm/migrate_page.h"
#include "mm/pin.h"
#include "mm/vmscan.h"

#define FIRST_VA ((u64)1 << 37)  /* of the first mapping */
#define APART ((u64)1 << 36)     /* mappings begin at a multiple of this */
#define ROOM ((u64)2 << 30)      /* that they have beyond their size, to be misaligned, or to be chosen in */
#define COPY_WORDS 512u

u64 tdmi_machine_now(const struct tdm_machine *m)
{
	u64 now = 0;

	for (u32 c = 0; c < m->sc->machine.cpus; c++)
		now = TDM_MAX(now, m->cpus.core[c].clock);
	for (u32 d = 0; d < m->sc->ndevices; d++)
		now = m->dev[d].dev ? TDM_MAX(now, m->dev[d].dev->clock) : now;
	return now;
}

int tdmi_machine_fail(struct tdm_machine *m, int r, const struct tdm_sim_section *section, const char *what)
{
	return tdmi_sim_fail(m->err, r, m->sc->path, section ? section->line : 0, "%s: %s (%s)", section ? section->name : "the machine", what, tdmi_err_text(r));
}

/* ---- what the iommu's software does */

static u64 *handler_clock(void *arg)
{
	struct tdm_machine *m = arg;

	return &m->cpus.core[m->cpus.current].clock;
}

static int handler_fault(void *arg, struct tdm_space *s, u64 va, bool write)
{
	struct tdm_machine *m = arg;

	return tdmi_space_fault(s, m->reader, va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
}

static int handler_pin(void *arg, struct tdm_space *s, u64 va, bool write, struct tdm_pfn *pfn)
{
	struct tdm_machine *m = arg;
	u32 done;

	tdm_machine_pay(m, m->cpus.current, tdm_machine_cost(m, TDM_COST_PIN));
	return tdmi_pin_pages(s, m->reader, TDM_ALIGN_DOWN(va, TDM_PAGE_SIZE), 1, write ? TDM_PIN_WRITE : TDM_PIN_READ, pfn, &done);
}

static void handler_unpin(void *arg, struct tdm_space *s, u64 va, struct tdm_pfn pfn, bool write)
{
	struct tdm_machine *m = arg;

	(void)s;
	(void)va;
	tdmi_unpin_pages(&m->w, &pfn, 1, write);
}

static const struct tdm_iommu_ops handler_ops = { .clock = handler_clock, .fault = handler_fault, .pin = handler_pin, .unpin = handler_unpin };

/* What CPUs flush by broadcast an iommu that snoops hears, too: not what one CPU flushes for itself, as no other has used the space, or what none has to flush. */
static void machine_flush(void *arg, struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	struct tdm_machine *m = arg;
	const u64 *broadcasts = &m->cpus.core[m->cpus.current].stats.flushes[TDM_FLUSH_BROADCAST], before = *broadcasts;

	tdmi_cpus_tlb_ops.flush(&m->cpus, s, start, end, shift);
	if (m->has_iommu && *broadcasts != before)
		tdmi_iommu_snoop(&m->iommu, s, start, end);
}

static bool machine_elsewhere(void *arg, struct tdm_space *s)
{
	return tdmi_cpus_tlb_ops.elsewhere(&((struct tdm_machine *)arg)->cpus, s);
}

static void machine_work(void *arg, u32 what, u64 n)
{
	tdmi_cpus_tlb_ops.work(&((struct tdm_machine *)arg)->cpus, what, n);
}

static const struct tdm_tlb_ops machine_tlb = { .flush = machine_flush, .elsewhere = machine_elsewhere, .work = machine_work };

/* ---- hardware */

static struct tdm_cpu_costs cpu_costs(const struct tdm_machine *m)
{
	struct tdm_cpu_costs c = {
		.access = tdm_machine_cost(m, TDM_COST_ACCESS),
		.tlb_l2_hit = tdm_machine_cost(m, TDM_COST_TLB_L2_HIT),
		.walk_read = tdm_machine_cost(m, TDM_COST_WALK_READ),
		.walk_set = tdm_machine_cost(m, TDM_COST_WALK_SET),
		.context_switch = tdm_machine_cost(m, TDM_COST_CONTEXT_SWITCH),
		.tlb_local_entry = tdm_machine_cost(m, TDM_COST_TLB_LOCAL_ENTRY),
		.tlb_local_all = tdm_machine_cost(m, TDM_COST_TLB_LOCAL_ALL),
		.ipi_send = tdm_machine_cost(m, TDM_COST_IPI_SEND),
		.ipi_wait = tdm_machine_cost(m, TDM_COST_IPI_WAIT),
		.ipi_handle = tdm_machine_cost(m, TDM_COST_IPI_HANDLE),
		.broadcast_op = tdm_machine_cost(m, TDM_COST_BROADCAST_OP),
		.broadcast_sync = tdm_machine_cost(m, TDM_COST_BROADCAST_SYNC),
		.broadcast_sync_cpu = tdm_machine_cost(m, TDM_COST_BROADCAST_SYNC_CPU),
	};

	_Static_assert((int)TDM_COST_FAULT == (int)TDM_WORK_FAULT && (int)TDM_COST_SECONDARY == (int)TDM_WORK_SECONDARY, "the engine's work comes first, in its order");
	for (u32 k = 0; k < TDM_WORK_NR; k++)
		c.work[k] = tdm_machine_cost(m, (enum tdm_cost)k);
	return c;
}

static int make_cpus(struct tdm_machine *m)
{
	const struct tdm_sim_machine *h = &m->sc->machine;
	struct tdm_cpus_config config = {
		.n = h->cpus, .asids = h->asids, .means = (enum tdm_flush_means)h->flush, .ceiling = h->ceiling, .broadcast_pages = h->broadcast_pages,
		.caps = (h->access_hw ? TDM_WALK_HW_A : 0) | (h->dirty_hw ? TDM_WALK_HW_D : 0), .page_sizes = h->leaves, .tlb = h->tlb, .cost = cpu_costs(m),
		.one_thread = true, .fault = tdmi_space_fault,
	};
	int r = tdmi_cpus_init(&m->cpus, &config);

	m->has_cpus = !r;
	return r;
}

static int make_world(struct tdm_machine *m)
{
	const struct tdm_sim_machine *h = &m->sc->machine;
	struct tdm_swap *swap = NULL;
	struct tdm_tier *tier;
	char err[200];
	int r = 0;

	if (h->tier == TDM_SIM_TIER_LZ4) {
		r = tdmi_tier_create("lz4", &tier, err, sizeof(err));
		if (!r && m->tier)
			r = m->tier(m->tier_arg, &tier);
		if (!r)
			r = tdmi_swap_create(&tier, 1, &swap);
	}
	if (!r)
		r = tdmi_world_init(&m->w, TDM_ALIGN_UP(h->ram >> TDM_PAGE_SHIFT, TDM_HUGE_PAGES), &machine_tlb, m, swap);
	if (r)
		return r;
	m->has_world = true;
	m->w.policy = (struct tdm_tlb_policy){ .batch = h->batch, .batch_secondary = h->batch_secondary };
	m->w.huge = h->leaves;
	tdmi_vmscan_policy(&m->w, (enum tdm_scan_young)h->aging);
	m->reader = tdmi_rcu_register(&m->w.rcu);
	return m->reader ? tdmi_cpus_attach(&m->cpus, &m->w) : -ENOMEM;
}

static struct tdm_iommu_cost iommu_costs(const struct tdm_machine *m)
{
	return (struct tdm_iommu_cost){
		.iotlb_hit = (u32)tdm_machine_cost(m, TDM_COST_IOTLB_HIT),
		.walk_read = (u32)tdm_machine_cost(m, TDM_COST_IOMMU_WALK_READ),
		.atc_hit = (u32)tdm_machine_cost(m, TDM_COST_ATC_HIT),
		.ats_round_trip = (u32)tdm_machine_cost(m, TDM_COST_ATS_ROUND_TRIP),
		.dma_unit = (u32)tdm_machine_cost(m, TDM_COST_DMA_64),
		.request_post = (u32)tdm_machine_cost(m, TDM_COST_REQUEST_POST),
		.event = (u32)tdm_machine_cost(m, TDM_COST_FAULT_EVENT),
		.handler = (u32)tdm_machine_cost(m, TDM_COST_FAULT_HANDLER),
		.response = (u32)tdm_machine_cost(m, TDM_COST_FAULT_RESPONSE),
		.queue_submit = (u32)tdm_machine_cost(m, TDM_COST_QUEUE_SUBMIT),
		.queue_command = (u32)tdm_machine_cost(m, TDM_COST_QUEUE_COMMAND),
		.atc_invalidate = (u32)tdm_machine_cost(m, TDM_COST_ATC_INVALIDATE),
		.atc_timeout = (u32)tdm_machine_cost(m, TDM_COST_ATC_TIMEOUT),
		.sync = (u32)tdm_machine_cost(m, TDM_COST_QUEUE_SYNC),
	};
}

static int make_iommu(struct tdm_machine *m)
{
	const struct tdm_sim_iommu *h = &m->sc->iommu;
	struct tdm_iommu_config config = {
		.walk = (h->access_hw ? TDM_WALK_HW_A : 0) | (h->dirty_hw ? TDM_WALK_HW_D : 0), .snoop = h->snoop, .page_sizes = h->leaves, .iotlb = h->iotlb,
		.queue = h->queue, .split = h->split, .whole_pages = h->whole_pages, .sync_each = h->sync_each, .requests = h->requests, .stalls = h->stalls,
		.pin_after = h->pin_after, .cost = iommu_costs(m),
	};
	int r = 0;

	if (!m->sc->ndevices)
		return 0;
	tdmi_alloc_init(&m->alloc);
	r = tdmi_iommu_init(&m->iommu, &config, &handler_ops, m, &m->w.phys, m->reader, &m->alloc);
	m->has_iommu = !r;
	for (u32 i = 0; i < m->sc->ndevices && !r; i++) {
		const struct tdm_sim_device *d = &m->sc->device[i];
		static const enum tdm_fault_model model[] = { TDM_FAULTS_ABORT, TDM_FAULTS_STALL, TDM_FAULTS_PRI };
		struct tdm_iommu_dev_config dc = {
			.name = d->s.name, .fault = model[d->fault], .ats = d->ats, .asks_write = !d->map_read_only, .atc = d->atc, .page_sizes = d->leaves,
			.unit = d->unit, .burst = d->burst, .depth = d->depth, .group = d->group, .credit = d->credit, .give_up = d->give_up, .stop_marker = d->stop_marker,
		};

		r = tdmi_iommu_dev_add(&m->iommu, &dc, &m->dev[i].dev);
		TDM_BUG_ON(!r && m->dev[i].dev->id != i);
	}
	return r;
}

/* Memory of devices, and of the system for objects that are not there. */
static int make_memory(struct tdm_machine *m)
{
	u64 system = 0;
	int r = 0;

	for (u32 i = 0; i < m->sc->ndevices && !r; i++) {
		struct tdm_sim_dev *d = &m->dev[i];

		d->spec = &m->sc->device[i];
		if (d->spec->coherent)
			r = tdmi_phys_add(&m->w.phys, TDM_MEM_COHERENT, TDM_ALIGN_UP(d->spec->coherent >> TDM_PAGE_SHIFT, TDM_HUGE_PAGES), &d->coherent);
		if (!r && d->spec->vram) {
			u64 pages = TDM_ALIGN_UP(d->spec->vram >> TDM_PAGE_SHIFT, TDM_HUGE_PAGES);

			d->taken = calloc(1, pages);
			r = d->taken ? tdmi_phys_add(&m->w.phys, TDM_MEM_SPECIAL, pages, &d->vram) : -ENOMEM;
		}
	}
	for (u32 i = 0; i < m->sc->nobjects; i++)
		system += TDM_ALIGN_UP(m->sc->object[i].size >> TDM_PAGE_SHIFT, TDM_HUGE_PAGES);
	return !r && system ? tdmi_phys_add(&m->w.phys, TDM_MEM_SPECIAL, system, &m->system) : r;
}

/* ---- processes and what they have mapped */

/* What a page holds before anything begins: words of a small vocabulary, or noise. */
static void fill_page(u64 *word, enum tdm_sim_content content, struct tdm_rng *rng)
{
	for (u32 i = 0; i < COPY_WORDS; i++)
		word[i] = content == TDM_SIM_NOISE ? tdm_rng_next(rng) : content == TDM_SIM_TEXTUAL ? 0x6f6e6f6d696e6121u * (1 + tdm_rng_next(rng) % 61) : 0;
}

/* Every page is there, and holds what it is to hold. */
static int populate(struct tdm_machine *m, struct tdm_view *v)
{
	bool write = v->spec->writable || v->spec->content != TDM_SIM_ZERO;
	struct tdm_rng rng;

	tdm_rng_init(&rng, m->sc->run.seed, 1000 + (u64)(v - m->view));
	for (u64 va = v->start; va < v->start + v->spec->size; va += TDM_PAGE_SIZE) {
		struct tdm_pfn pfn;
		int r = 0;

		for (u32 tries = 0; tries < 8; tries++) {
			r = tdmi_space_fault(v->s, m->reader, va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
			/* All is young: it takes a second look. */
			if (r == -ENOMEM)
				(void)tdmi_vmscan(&m->w, m->reader, TDM_HUGE_PAGES, m->w.phys.range[m->w.ram].n);
			tdmi_rcu_read_lock(m->reader);
			if (!r && tdmi_space_get_page(v->s, va, &pfn)) {
				if (v->spec->content != TDM_SIM_ZERO)
					fill_page((u64 *)(void *)tdm_pfn_bytes(&m->w.phys, pfn), (enum tdm_sim_content)v->spec->content, &rng);
				tdmi_page_put(&m->w, pfn);
				tries = 8;
			}
			tdmi_rcu_read_unlock(m->reader);
		}
		if (r)
			return r;
	}
	return 0;
}

/* Rights to write are needed to put something there: they are taken away again afterwards. */
static int map_one(struct tdm_machine *m, struct tdm_view *v)
{
	const struct tdm_sim_mapping *spec = v->spec;
	uintptr_t rights = TDM_V_READ | (spec->writable ? TDM_V_WRITE : 0);
	struct tdm_shm *shm;
	u64 moved;
	int r;

	if (spec->kind == TDM_SIM_OBJECT)
		return tdmi_object_mmap(&m->object[spec->object.index], v);
	if (spec->kind == TDM_SIM_SHARED) {
		r = tdmi_shm_create(&m->w, m->reader, spec->size >> TDM_PAGE_SHIFT, &shm);
		if (!r) {
			r = tdmi_shm_mmap(v->s, m->reader, v->start, spec->size, TDM_V_READ | TDM_V_WRITE, shm, 0);
			tdmi_shm_put(shm, m->reader);
		}
	} else {
		r = tdmi_mmap(v->s, m->reader, v->start, spec->size, TDM_V_READ | TDM_V_WRITE);
	}
	if (!r && (spec->populate || spec->kind == TDM_SIM_COHERENT || spec->content != TDM_SIM_ZERO))
		r = populate(m, v);
	if (!r && spec->kind == TDM_SIM_COHERENT) {
		moved = tdmi_migrate_range(v->s, m->reader, v->start, v->start + spec->size, m->dev[spec->device.index].coherent);
		r = moved == spec->size >> TDM_PAGE_SHIFT ? 0 : -ENOMEM;
	}
	if (!r && rights == TDM_V_READ)
		r = tdmi_mprotect(v->s, m->reader, v->start, spec->size, rights);
	return r;
}

static int make_processes(struct tdm_machine *m)
{
	int r = 0;

	for (u32 i = 0; i < m->sc->nprocesses && !r; i++) {
		r = tdmi_space_create(&m->w, &m->space[i]);
		if (!r && m->has_iommu)
			r = tdmi_iommu_bind(&m->iommu, i + 1, m->space[i]);
		for (u32 d = 0; d < m->sc->ndevices && !r; d++)
			r = tdmi_iommu_attach(m->dev[d].dev, i + 1);
	}
	return r;
}

static int make_objects(struct tdm_machine *m)
{
	for (u32 i = 0; i < m->sc->nobjects; i++) {
		int r = tdmi_object_init(m, &m->object[i], &m->sc->object[i]);

		if (r)
			return tdmi_machine_fail(m, r, &m->sc->object[i].s, "there is not so much memory");
	}
	return 0;
}

static int make_mappings(struct tdm_machine *m)
{
	u64 at = FIRST_VA;

	for (u32 i = 0; i < m->sc->nmappings; i++) {
		struct tdm_view *v = &m->view[i];
		int r;

		*v = (struct tdm_view){ .m = m, .spec = &m->sc->mapping[i], .s = m->space[m->sc->mapping[i].process.index] };
		v->start = at + v->spec->misalign;
		v->end = at = TDM_ALIGN_UP(at + v->spec->size + ROOM, APART);
		if (at > TDM_VA_END)
			return tdmi_machine_fail(m, -ENOSPC, &v->spec->s, "there are no addresses left for it: smaller mappings, or fewer");
		r = map_one(m, v);
		if (r)
			return tdmi_machine_fail(m, r, &v->spec->s, r == -ENOMEM ? "there is not so much memory: more ram, a smaller mapping, or a tier" : "it cannot be mapped");
	}
	return 0;
}

/* ---- guests */

_Static_assert((int)TDM_SIM_LOCKLESS == TDM_AGING_LOCKLESS && (int)TDM_SIM_READ_LOCK == TDM_AGING_READ &&
		       (int)TDM_SIM_WRITE_LOCK == TDM_AGING_WRITE, "in its order");

/* Its memory reaches from its process's first mapping to the last: what lies between is not mapped, and costs nothing. */
static int make_guest(struct tdm_machine *m, const struct tdm_sim_guest *g)
{
	struct tdm_stage2_config config = {
		.aging = (enum tdm_stage2_aging)g->aging, .fill_read = !g->fill_write, .elide_flush = g->elide_flush,
		.costs = { .exit = (u32)tdm_machine_cost(m, TDM_COST_GUEST_EXIT), .lock_read = (u32)tdm_machine_cost(m, TDM_COST_GUEST_LOCK_READ),
			   .lock_write = (u32)tdm_machine_cost(m, TDM_COST_GUEST_LOCK_WRITE), .walk = (u32)tdm_machine_cost(m, TDM_COST_WALK_READ),
			   .entry = (u32)tdm_machine_cost(m, TDM_COST_PTE) },
	};
	struct tdm_guest *gu = aligned_alloc(_Alignof(struct tdm_guest), sizeof(*gu)); /* as the machine */
	u64 start = TDM_SIM_NEVER, end = 0;
	int r = gu ? 0 : -ENOMEM;

	for (u32 i = 0; i < m->sc->nmappings; i++)
		if (m->view[i].spec->process.index == g->process.index) {
			start = TDM_MIN(start, m->view[i].start);
			end = TDM_MAX(end, m->view[i].start + TDM_ALIGN_UP(m->view[i].spec->size, TDM_PAGE_SIZE));
		}
	if (!r)
		r = tdmi_guest_init(gu, &m->cpus, m->space[g->process.index], start, end - start, &config);
	if (r) {
		free(gu);
		return tdmi_machine_fail(m, r, &g->s, "the guest cannot be made");
	}
	m->guest[m->nguests++] = gu;
	return 0;
}

/* ---- the whole */

int tdmi_machine_hardware(struct tdm_machine *m)
{
	int r = make_cpus(m);

	if (!r)
		r = make_world(m);
	if (!r)
		r = make_memory(m);
	return r ? r : make_iommu(m);
}

void tdmi_machine_hardware_end(struct tdm_machine *m)
{
	for (u32 i = 0; i < m->sc->ndevices; i++) {
		if (m->dev[i].dev)
			tdmi_iommu_dev_remove(m->dev[i].dev);
		free(m->dev[i].taken);
	}
	if (m->has_iommu) {
		tdmi_iommu_destroy(&m->iommu);
		tdmi_alloc_destroy(&m->alloc);
	}
	if (m->has_cpus && m->cpus.w)
		tdmi_cpus_detach(&m->cpus);
	if (m->reader)
		tdmi_rcu_unregister(m->reader);
	if (m->has_world)
		tdmi_world_destroy(&m->w);
	if (m->has_cpus)
		tdmi_cpus_destroy(&m->cpus);
}

void tdmi_machine_destroy(struct tdm_machine *m)
{
	tdmi_agents_destroy(m);
	for (u32 i = 0; i < m->nguests; i++) {
		tdmi_guest_destroy(m->guest[i]);
		free(m->guest[i]);
	}
	for (u32 i = 0; i < m->sc->nprocesses; i++)
		if (m->space[i]) {
			if (m->has_iommu)
				(void)tdmi_iommu_unbind(&m->iommu, i + 1);
			for (u32 c = 0; c < m->sc->machine.cpus; c++)
				tdmi_cpus_idle(&m->cpus, c);
			tdmi_cpus_forget(&m->cpus, m->space[i]);
			tdmi_space_destroy(m->space[i], m->reader);
		}
	for (u32 i = 0; i < m->sc->nobjects; i++)
		tdmi_object_destroy(&m->object[i]);
	tdmi_machine_hardware_end(m);
}

int tdmi_machine_make(struct tdm_machine *m)
{
	int r = tdmi_machine_hardware(m);

	if (!r)
		r = make_processes(m);
	if (r)
		return tdmi_machine_fail(m, r, NULL, r == -ENOMEM ? "no memory: ram, coherent and vram must fit this machine's" : "it cannot be made");
	r = make_objects(m);
	if (!r)
		r = make_mappings(m);
	for (u32 i = 0; i < m->sc->nguests && !r; i++)
		r = make_guest(m, &m->sc->guest[i]);
	/* All begin at the same time. */
	for (u32 c = 0; c < m->sc->machine.cpus && !r; c++)
		tdmi_cpus_wait_until(&m->cpus, c, tdmi_machine_now(m));
	for (u32 d = 0; d < m->sc->ndevices && !r; d++)
		m->dev[d].dev->clock = tdmi_machine_now(m);
	return r ? r : tdmi_agents_init(m);
}

static u64 hash(const struct tdm_machine *m)
{
	u64 state = 0, h = 0;

	for (u32 i = 0; i < m->nunits; i++)
		if (m->unit[i].has_stream) {
			state ^= tdmi_stream_state(&m->unit[i].stream) + i;
			h ^= tdm_splitmix(&state);
		}
	return h;
}

static int run_point(struct tdm_machine *m, struct tdm_sim_result *out)
{
	int r = tdmi_machine_make(m);

	if (!r)
		r = tdmi_agents_run(m);
	if (!r) {
		if (m->start == TDM_SIM_NEVER)
			tdmi_machine_measure(m);
		tdmi_machine_counts(m, out);
		for (u32 i = 0; i < TDM_COL_RAM_USED; i++)
			out->count[i] -= m->from.count[i];
		for (u32 a = 0; a < m->sc->nagents; a++)
			for (u32 i = 0; i < TDM_AGENT_NR; i++)
				out->agent[a][i] -= m->from.agent[a][i];
		out->generator = hash(m);
	}
	tdmi_machine_destroy(m);
	return r;
}

int tdmi_sim_run(const struct tdm_scenario *s, const struct tdm_costs *costs, struct tdm_report *report, tdm_sim_progress_fn *progress, void *arg, char *err)
{
	struct tdm_scenario *point = malloc(sizeof(*point));
	struct tdm_machine *m = aligned_alloc(_Alignof(struct tdm_machine), sizeof(*m)); /* readers of RCU have lines of their own */
	struct tdm_sim_result result;
	u32 n = tdmi_scenario_points(s);
	int r = 0;

	if (!point || !m) {
		free(m);
		free(point);
		return tdmi_sim_fail(err, -ENOMEM, s->path, 0, "no memory");
	}
	for (u32 i = 0; i < n && !r; i++) {
		r = tdmi_scenario_point(s, i, point, err);
		if (r)
			break;
		memset(m, 0, sizeof(*m));
		*m = (struct tdm_machine){ .sc = point, .start = TDM_SIM_NEVER, .progress = progress, .progress_arg = arg, .err = err };
		m->progress_done = (u64)i << 20;
		m->progress_total = (u64)n << 20;
		tdmi_scenario_costs(point, costs, &m->costs);
		r = run_point(m, &result);
		if (!r && tdmi_sim_report_add(report, &result))
			r = tdmi_sim_fail(err, -ENOMEM, s->path, 0, "no memory");
	}
	free(m);
	free(point);
	return r;
}
