/* SPDX-License-Identifier: MIT */
/* scenario_check.c - does a scenario make sense? What each kind of agent needs, and may have; what fits into what. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/bitops.h"
#include "sim/scenario.h"

#define GIB ((u64)1 << 30)

/* A key of a section is at fault: the line is its own, or the section's. */
#define BAD(s, kind, section, key, err, ...) \
	tdmi_sim_fail(err, -EINVAL, where_name(s, tdmi_section_line(kind, section, key)), where_line(tdmi_section_line(kind, section, key)), __VA_ARGS__)

static const char *where_name(const struct tdm_scenario *s, u32 line)
{
	return line == ~0u ? "--set" : s->path;
}

static u32 where_line(u32 line)
{
	return line == ~0u ? 0 : line;
}

/* ---- machine, iommu, devices -------------------------------------------------------------------------------------------------- */

static int check_machine(struct tdm_scenario *s, char *err)
{
	struct tdm_sim_machine *m = &s->machine;

	if (!m->ram)
		return BAD(s, TDM_SIM_S_MACHINE, &m->s, "ram", err, "ram: a machine needs some");
	if (m->flush == TDM_SIM_FLUSH_BROADCAST && m->asids && m->asids <= m->cpus)
		return BAD(s, TDM_SIM_S_MACHINE, &m->s, "asids", err, "asids: with broadcasts more than there are cpus (%u), or 0", m->cpus);
	for (u32 size = 1; size < TDM_TLB_SIZES; size++)
		if (m->tlb.level[1][size].ways == TDM_TLB_WITH_4K && !m->tlb.level[1][0].ways)
			return BAD(s, TDM_SIM_S_MACHINE, &m->s, "l2_4k", err, "l2_4k: the second level has no entries of 4 KiB, and larger ones share them; set l2_2m and l2_1g, too");
	if (!m->tlb.level[0][0].ways)
		return BAD(s, TDM_SIM_S_MACHINE, &m->s, "l1_4k", err, "l1_4k: the first level needs entries of 4 KiB");
	return 0;
}

static int check_iommu(struct tdm_scenario *s, char *err)
{
	struct tdm_sim_iommu *it = &s->iommu;

	if (it->s.line && !s->ndevices)
		return tdmi_sim_fail(err, -EINVAL, s->path, it->s.line, "an [iommu] without a [device NAME]");
	if (!it->iotlb.level[0][0].ways)
		return BAD(s, TDM_SIM_S_IOMMU, &it->s, "iotlb_4k", err, "iotlb_4k: it needs entries of 4 KiB");
	if (!tdm_is_pow2(it->queue))
		return BAD(s, TDM_SIM_S_IOMMU, &it->s, "queue", err, "queue: a power of two, not %u", it->queue);
	if (!tdm_is_pow2(it->requests))
		return BAD(s, TDM_SIM_S_IOMMU, &it->s, "requests", err, "requests: a power of two, not %u", it->requests);
	if (it->snoop && s->machine.flush != TDM_SIM_FLUSH_BROADCAST)
		return BAD(s, TDM_SIM_S_IOMMU, &it->s, "snoop", err, "snoop: there are no broadcasts to hear without machine.flush = broadcast");
	return 0;
}

static int check_device(struct tdm_scenario *s, struct tdm_sim_device *d, char *err)
{
	if (d->fault == TDM_SIM_FAULT_PRI && !d->ats && tdmi_section_is_set(TDM_SIM_S_DEVICE, &d->s, "ats"))
		return BAD(s, TDM_SIM_S_DEVICE, &d->s, "ats", err, "ats: page requests (fault = pri) come from devices with it");
	if (d->fault == TDM_SIM_FAULT_PRI)
		d->ats = true;
	if (d->fault == TDM_SIM_FAULT_STALL && d->ats)
		return BAD(s, TDM_SIM_S_DEVICE, &d->s, "ats", err, "ats: a translation request cannot be stalled; off, or fault = pri");
	if (d->fault == TDM_SIM_FAULT_STALL && !s->iommu.stalls)
		return BAD(s, TDM_SIM_S_DEVICE, &d->s, "fault", err, "fault = stall: the iommu has no stalls");
	if (d->fault == TDM_SIM_FAULT_PRI && d->group > s->iommu.requests)
		return BAD(s, TDM_SIM_S_DEVICE, &d->s, "group", err,
			   "group: the iommu's queue holds no more than %u requests, and a larger group would never get through", s->iommu.requests);
	if (d->ats && !d->atc.level[0][0].ways)
		return BAD(s, TDM_SIM_S_DEVICE, &d->s, "atc_4k", err, "atc_4k: it needs entries of 4 KiB");
	if (!tdm_is_pow2(d->unit))
		return BAD(s, TDM_SIM_S_DEVICE, &d->s, "unit", err, "unit: a power of two from 64 to 256, not %u", d->unit);
	if (d->burst % d->unit)
		return BAD(s, TDM_SIM_S_DEVICE, &d->s, "burst", err, "burst: a multiple of the unit (%u), not %u", d->unit, d->burst);
	return 0;
}

/* ---- objects and mappings ------------------------------------------------------------------------------------------------------- */

static int check_object(struct tdm_scenario *s, struct tdm_sim_object *o, char *err)
{
	u64 vram, runs;

	if (o->device.index < 0)
		return BAD(s, TDM_SIM_S_OBJECT, &o->s, "device", err, "[object %s] needs 'device = NAME'", o->s.name);
	if (!o->size)
		return BAD(s, TDM_SIM_S_OBJECT, &o->s, "size", err, "[object %s] needs 'size = SIZE'", o->s.name);
	if (o->size > s->device[o->device.index].vram)
		return BAD(s, TDM_SIM_S_OBJECT, &o->s, "size", err, "size: larger than the vram of [device %s]", o->device.name);
	if (o->contiguous && !tdm_is_pow2(o->contiguous))
		return BAD(s, TDM_SIM_S_OBJECT, &o->s, "contiguous", err, "contiguous: a power of two");
	vram = TDM_ALIGN_UP(s->device[o->device.index].vram, TDM_HUGE_SIZE);
	runs = o->contiguous ? TDM_ALIGN_UP(o->size, o->contiguous) : o->size;
	if (runs > vram)
		return BAD(s, TDM_SIM_S_OBJECT, &o->s, "contiguous", err, "contiguous: in runs of that size it takes more than the vram of [device %s]", o->device.name);
	return 0;
}

/* Which of these keys a kind of mapping has: a mask. */
enum { HAS_DEVICE = 1, HAS_OBJECT = 2, HAS_OFFSET = 4, HAS_POPULATE = 8, HAS_CONTENT = 16, HAS_PLACE = 32 };
static const u32 mapping_has[] = {
	[TDM_SIM_ANONYMOUS] = HAS_POPULATE | HAS_CONTENT,
	[TDM_SIM_SHARED] = HAS_POPULATE | HAS_CONTENT,
	[TDM_SIM_COHERENT] = HAS_DEVICE | HAS_POPULATE | HAS_CONTENT,
	[TDM_SIM_OBJECT] = HAS_OBJECT | HAS_OFFSET | HAS_PLACE,
};

static int check_mapping_keys(struct tdm_scenario *s, struct tdm_sim_mapping *m, char *err)
{
	static const char *const keys[] = { "device", "object", "offset", "populate", "content", "place" };

	if (!tdmi_section_is_set(TDM_SIM_S_MAPPING, &m->s, "kind"))
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "kind", err, "[mapping %s] needs 'kind = anonymous', shared, coherent or object", m->s.name);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(keys); i++)
		if (!(mapping_has[m->kind] & (1u << i)) && tdmi_section_is_set(TDM_SIM_S_MAPPING, &m->s, keys[i]))
			return BAD(s, TDM_SIM_S_MAPPING, &m->s, keys[i], err, "%s: a mapping of this kind has no such thing", keys[i]);
	if (m->process.index < 0)
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "process", err, "[mapping %s] needs 'process = NAME'", m->s.name);
	if (m->kind == TDM_SIM_COHERENT && m->device.index < 0)
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "device", err, "[mapping %s] needs 'device = NAME', whose memory it is", m->s.name);
	if (m->kind == TDM_SIM_OBJECT && m->object.index < 0)
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "object", err, "[mapping %s] needs 'object = NAME'", m->s.name);
	return 0;
}

static int check_mapping(struct tdm_scenario *s, struct tdm_sim_mapping *m, char *err)
{
	int r = check_mapping_keys(s, m, err);
	u64 have;

	if (r)
		return r;
	if (m->kind == TDM_SIM_OBJECT) {
		have = s->object[m->object.index].size;
		if (m->offset >= have || m->size > have - m->offset)
			return BAD(s, TDM_SIM_S_MAPPING, &m->s, "size", err, "offset and size: beyond the end of [object %s]", m->object.name);
		if (!m->size)
			m->size = have - m->offset;
	}
	if (!m->size)
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "size", err, "[mapping %s] needs 'size = SIZE'", m->s.name);
	if (m->place == TDM_SIM_CHOSEN && tdmi_section_is_set(TDM_SIM_S_MAPPING, &m->s, "misalign"))
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "misalign", err, "misalign: the engine chooses the address (place = chosen)");
	if (m->misalign >= GIB)
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "misalign", err, "misalign: less than 1G");
	if (m->kind == TDM_SIM_COHERENT && m->size > s->device[m->device.index].coherent)
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "size", err, "size: larger than the coherent memory of [device %s]", m->device.name);
	if (m->kind == TDM_SIM_COHERENT)
		m->populate = true;
	if (tdmi_section_is_set(TDM_SIM_S_MAPPING, &m->s, "content") && !m->populate)
		return BAD(s, TDM_SIM_S_MAPPING, &m->s, "content", err, "content: only what is populated holds something");
	return 0;
}

/* ---- guests ------------------------------------------------------------------------------------------------------------------------ */

static int check_guest(const struct tdm_scenario *s, const struct tdm_sim_guest *g, char *err)
{
	u32 cpus = s->machine.cpus, n = 0;

	if (g->process.index < 0)
		return BAD(s, TDM_SIM_S_GUEST, &g->s, "process", err, "[guest %s] needs 'process = NAME', whose memory is the guest's", g->s.name);
	for (u32 i = 0; i < s->nmappings; i++)
		n += s->mapping[i].process.index == g->process.index;
	if (!n)
		return BAD(s, TDM_SIM_S_GUEST, &g->s, "process", err, "process: [process %s] has no [mapping NAME], so the guest no memory", g->process.name);
	if (g->cpu >= cpus || g->vcpus > cpus - g->cpu)
		return BAD(s, TDM_SIM_S_GUEST, &g->s, "vcpus", err, "vcpus: [guest %s] needs CPUs %u to %u, and there are %u", g->s.name, g->cpu, g->cpu + g->vcpus - 1, cpus);
	return 0;
}

/* ---- agents ------------------------------------------------------------------------------------------------------------------------- */

#define K(kind) (1u << TDM_SIM_##kind)
#define ROUNDS (K(RECLAIM) | K(AGE) | K(FORK) | K(UNMAP) | K(PROTECT) | K(DISCARD) | K(LAZYFREE) | K(FILL) | K(EVICT) | K(RESTORE) | K(COLLAPSE))
#define RANGES (K(UNMAP) | K(PROTECT) | K(DISCARD) | K(LAZYFREE))
#define ONCE (K(FILL) | K(EVICT) | K(RESTORE) | K(COLLAPSE))
#define LOADS (K(CPU) | K(VCPU))
#define ACCESSES (LOADS | K(DMA))

/* Which kinds of agents have which keys, and which cannot do without. Keys that are not here all have. */
static const struct {
	const char *key;
	u32 may, must;
} agent_has[] = {
	{ "process", K(FORK), K(FORK) },
	{ "mapping", ACCESSES | RANGES | K(FILL) | K(COLLAPSE), ACCESSES | RANGES | K(FILL) | K(COLLAPSE) },
	{ "device", K(DMA), K(DMA) },
	{ "object", K(EVICT) | K(RESTORE), K(EVICT) | K(RESTORE) },
	{ "guest", K(VCPU), K(VCPU) },
	{ "cpu", (1u << TDM_SIM_KIND_NR) - 1 - K(DMA) - K(VCPU), 0 },
	{ "vcpu", K(VCPU), 0 },
	{ "threads", LOADS, 0 },
	{ "pattern", ACCESSES, ACCESSES },
	{ "unit", ACCESSES, 0 },
	{ "stride", ACCESSES, 0 },
	{ "theta", ACCESSES, 0 },
	{ "writes", ACCESSES, 0 },
	{ "trace", LOADS, 0 },
	{ "fetches", LOADS, 0 },
	{ "accesses", ACCESSES, 0 },
	{ "rounds", ROUNDS, 0 },
	{ "pages", K(RECLAIM) | RANGES, 0 },
	{ "target", K(RECLAIM), 0 },
	{ "transfer", K(DMA), 0 },
	{ "pin", K(DMA), 0 },
	{ "exec", K(FORK), 0 },
	{ "by", K(FILL), K(FILL) },
};

#define BAD_AGENT(s, a, key, err, ...) BAD(s, TDM_SIM_S_AGENT, &(a)->s, key, err, __VA_ARGS__)
#define AGENT_SET(a, key) tdmi_section_is_set(TDM_SIM_S_AGENT, &(a)->s, key)

static int check_agent_keys(const struct tdm_scenario *s, const struct tdm_sim_agent *a, char *err)
{
	if (a->kind == TDM_SIM_KIND_NR)
		return BAD_AGENT(s, a, "kind", err,
				 "[agent %s] needs 'kind = cpu', dma, reclaim, age, fork, unmap, protect, discard, lazyfree, fill, evict, restore, collapse or vcpu",
				 a->s.name);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(agent_has); i++) {
		u32 line = AGENT_SET(a, agent_has[i].key);

		if (line && !(agent_has[i].may >> a->kind & 1))
			return BAD_AGENT(s, a, agent_has[i].key, err, "%s: an agent of this kind has no such thing", agent_has[i].key);
		if (!line && agent_has[i].must >> a->kind & 1)
			return BAD_AGENT(s, a, agent_has[i].key, err, "[agent %s] needs '%s = ...'", a->s.name, agent_has[i].key);
	}
	return 0;
}

/* Keys that belong to one pattern. */
static int check_pattern_keys(const struct tdm_scenario *s, const struct tdm_sim_agent *a, char *err)
{
	static const struct {
		const char *key;
		u32 patterns;
	} only[] = {
		{ "stride", 1u << TDM_SIM_STRIDED },
		{ "theta", 1u << TDM_SIM_ZIPF },
		{ "trace", 1u << TDM_SIM_TRACE },
		{ "fetches", 1u << TDM_SIM_TRACE },
		{ "unit", ~(1u << TDM_SIM_TRACE) },
		{ "writes", ~(1u << TDM_SIM_TRACE) },
	};

	for (u32 i = 0; i < TDM_ARRAY_SIZE(only); i++)
		if (AGENT_SET(a, only[i].key) && !(only[i].patterns >> a->pattern & 1))
			return BAD_AGENT(s, a, only[i].key, err, "%s: not with this pattern", only[i].key);
	if (a->pattern == TDM_SIM_STRIDED && !a->stride)
		return BAD_AGENT(s, a, "stride", err, "pattern = strided needs 'stride = SIZE'");
	if (a->pattern == TDM_SIM_TRACE && !*a->trace)
		return BAD_AGENT(s, a, "trace", err, "pattern = trace needs 'trace = FILE'");
	if (a->pattern == TDM_SIM_TRACE && access(a->trace, R_OK))
		return BAD_AGENT(s, a, "trace", err, "trace: %s cannot be read: %s", a->trace, strerror(errno));
	return 0;
}

static int check_pattern(struct tdm_scenario *s, struct tdm_sim_agent *a, char *err)
{
	const struct tdm_sim_mapping *m = &s->mapping[a->mapping.index];
	int r = check_pattern_keys(s, a, err);

	if (r)
		return r;
	if (a->kind == TDM_SIM_DMA && a->pattern == TDM_SIM_TRACE)
		return BAD_AGENT(s, a, "pattern", err, "pattern = trace: a trace is of CPUs");
	if (!a->transfer)
		a->transfer = TDM_PAGE_SIZE;
	if (!a->unit)
		a->unit = a->kind == TDM_SIM_DMA ? a->transfer : a->pattern == TDM_SIM_SEQUENTIAL ? 64 : TDM_PAGE_SIZE;
	if (a->kind == TDM_SIM_DMA && a->unit < a->transfer)
		return BAD_AGENT(s, a, "unit", err, "unit: at least the transfer (%llu bytes)", (unsigned long long)a->transfer);
	if (a->unit > m->size)
		return BAD_AGENT(s, a, "unit", err, "unit: larger than [mapping %s]", m->s.name);
	if (a->pattern == TDM_SIM_STRIDED && (a->stride % a->unit || a->stride > m->size))
		return BAD_AGENT(s, a, "stride", err, "stride: a multiple of the unit (%llu bytes), and no larger than [mapping %s]", (unsigned long long)a->unit, m->s.name);
	if (a->writes && !m->writable)
		return BAD_AGENT(s, a, "writes", err, "writes: [mapping %s] is not writable", m->s.name);
	return 0;
}

/* Of an agent that acts on a mapping as a whole, or on ranges of it. */
static int check_mapped(struct tdm_scenario *s, struct tdm_sim_agent *a, char *err)
{
	const struct tdm_sim_mapping *m = &s->mapping[a->mapping.index];

	if (K(FILL) >> a->kind & 1 && m->kind != TDM_SIM_OBJECT)
		return BAD_AGENT(s, a, "mapping", err, "mapping: [mapping %s] is of no object", m->s.name);
	if (K(COLLAPSE) >> a->kind & 1 && m->kind != TDM_SIM_OBJECT)
		return BAD_AGENT(s, a, "mapping", err, "mapping: [mapping %s] is of no object; only such mappings collapse", m->s.name);
	if (RANGES >> a->kind & 1) {
		if (m->kind == TDM_SIM_OBJECT && a->kind != TDM_SIM_UNMAP && a->kind != TDM_SIM_PROTECT)
			return BAD_AGENT(s, a, "mapping", err, "mapping: madvise is for memory, and [mapping %s] is of an object", m->s.name);
		if (m->kind == TDM_SIM_OBJECT && a->kind == TDM_SIM_UNMAP && !a->pages)
			a->pages = m->size / TDM_PAGE_SIZE;
		if (m->kind == TDM_SIM_OBJECT && a->kind == TDM_SIM_UNMAP && a->pages != m->size / TDM_PAGE_SIZE)
			return BAD_AGENT(s, a, "pages", err, "pages: of an object's mapping all are unmapped; leave them out");
		if (a->pages > m->size / TDM_PAGE_SIZE)
			return BAD_AGENT(s, a, "pages", err, "pages: more than [mapping %s] has", m->s.name);
		if (!a->pages)
			a->pages = 1;
	}
	return 0;
}

static int check_what(struct tdm_scenario *s, struct tdm_sim_agent *a, char *err)
{
	int r = (K(FILL) | K(COLLAPSE) | RANGES) >> a->kind & 1 ? check_mapped(s, a, err) : 0;

	if (r)
		return r;
	if (a->kind == TDM_SIM_RECLAIM && !a->pages)
		a->pages = 32;
	if (a->kind == TDM_SIM_RECLAIM && a->rounds && a->target)
		return BAD_AGENT(s, a, "target", err, "target: either this or rounds");
	if (ONCE >> a->kind & 1 && !a->rounds)
		a->rounds = 1;
	return 0;
}

/* Which vCPUs, and so which CPUs. */
static int check_vcpus(const struct tdm_scenario *s, struct tdm_sim_agent *a, char *err)
{
	const struct tdm_sim_guest *g = &s->guest[a->guest.index];

	if (s->mapping[a->mapping.index].process.index != g->process.index)
		return BAD_AGENT(s, a, "mapping", err, "mapping: [mapping %s] is not of [process %s], whose memory [guest %s] has", a->mapping.name, g->process.name, g->s.name);
	if (a->threads >= TDM_SIM_REST && AGENT_SET(a, "vcpu"))
		return BAD_AGENT(s, a, "vcpu", err, "vcpu: threads = all are on all, rest on those that are left");
	a->cpu = g->cpu + a->vcpu;
	if (a->threads == TDM_SIM_REST)
		return 0;
	if (a->threads == TDM_SIM_ALL)
		a->threads = g->vcpus;
	if (a->vcpu >= g->vcpus || a->threads > g->vcpus - a->vcpu)
		return BAD_AGENT(s, a, AGENT_SET(a, "threads") ? "threads" : "vcpu", err, "[agent %s] needs vCPUs %u to %u, and [guest %s] has %u", a->s.name, a->vcpu,
				 a->vcpu + a->threads - 1, g->s.name, g->vcpus);
	return 0;
}

static int check_agent(struct tdm_scenario *s, struct tdm_sim_agent *a, char *err)
{
	int r = check_agent_keys(s, a, err);

	if (!r && tdm_sim_accesses(a->kind))
		r = check_pattern(s, a, err);
	if (!r && a->kind == TDM_SIM_VCPU)
		r = check_vcpus(s, a, err);
	if (!r && a->kind == TDM_SIM_DMA && !s->mapping[a->mapping.index].writable && !s->device[a->device.index].map_read_only)
		return BAD_AGENT(s, a, "device", err,
				 "device: it asks for writing whatever it does, and %s may not be written; give it map_read_only = on",
				 s->mapping[a->mapping.index].s.name);
	if (!r)
		r = check_what(s, a, err);
	return r;
}

/* Does it end by itself? A trace does, too. */
static bool ends(const struct tdm_sim_agent *a)
{
	return a->accesses || a->rounds || a->target || (tdm_sim_loads(a->kind) && a->pattern == TDM_SIM_TRACE);
}

/* ---- CPUs: who is where -------------------------------------------------------------------------------------------------------------- */

static bool on_cpus(const struct tdm_sim_agent *a)
{
	return a->enabled && a->kind != TDM_SIM_DMA;
}

/* threads = rest, on [from, from + n), which is taken then. */
static int place_rest(const struct tdm_scenario *s, struct tdm_sim_agent *a, u64 *taken, u32 from, u32 n, char *err)
{
	u32 free = n - (u32)tdm_bitmap_count(taken, from, from + n);

	if (!free)
		return BAD_AGENT(s, a, "threads", err, "threads = rest: no %s of %u is left", a->kind == TDM_SIM_VCPU ? "vCPU" : "CPU", n);
	a->rest = true;
	a->threads = free;
	tdm_bitmap_set_range(taken, from, from + n);
	return 0;
}

static int place_agents(struct tdm_scenario *s, char *err)
{
	u32 cpus = s->machine.cpus;
	u64 taken[4] = { 0 };
	int r = 0;

	for (u32 i = 0; i < s->nagents; i++) {
		struct tdm_sim_agent *a = &s->agent[i];

		if (!on_cpus(a))
			continue;
		if (a->threads == TDM_SIM_ALL && a->cpu)
			return BAD_AGENT(s, a, "cpu", err, "cpu: threads = all are on all");
		if (a->threads == TDM_SIM_REST && AGENT_SET(a, "cpu"))
			return BAD_AGENT(s, a, "cpu", err, "cpu: threads = rest are on those that are left");
		if (a->threads == TDM_SIM_ALL)
			a->threads = cpus;
		if (a->threads == TDM_SIM_REST)
			continue;
		if (a->cpu >= cpus || a->threads > cpus - a->cpu)
			return BAD_AGENT(s, a, AGENT_SET(a, "threads") ? "threads" : "cpu", err, "[agent %s] needs CPUs %u to %u, and there are %u", a->s.name, a->cpu,
					 a->cpu + a->threads - 1, cpus);
		tdm_bitmap_set_range(taken, a->cpu, a->cpu + a->threads);
	}
	/* Of vCPUs first: CPUs have what is left then. */
	for (u32 k = 0; k < 2 * s->nagents && !r; k++) {
		struct tdm_sim_agent *a = &s->agent[k % s->nagents];
		const struct tdm_sim_guest *g = a->kind == TDM_SIM_VCPU ? &s->guest[a->guest.index] : NULL;

		if (on_cpus(a) && a->threads == TDM_SIM_REST && (k < s->nagents) == (g != NULL))
			r = place_rest(s, a, taken, g ? g->cpu : 0, g ? g->vcpus : cpus, err);
	}
	return r;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------------------- */

static int check_order(const struct tdm_scenario *s, char *err)
{
	for (u32 i = 0; i < s->nagents; i++) {
		const struct tdm_sim_agent *a = &s->agent[i];
		const struct tdm_sim_agent *of = a->after.index < 0 ? NULL : &s->agent[a->after.index];
		u32 steps = 0;

		if (of && of->enabled && !ends(of))
			return BAD_AGENT(s, a, "after", err, "after: [agent %s] does not end by itself; give it accesses, rounds or a target", of->s.name);
		for (; of && steps <= s->nagents; steps++)
			of = of->after.index < 0 ? NULL : &s->agent[of->after.index];
		if (of)
			return BAD_AGENT(s, a, "after", err, "after: agents that wait for each other");
	}
	return 0;
}

/* A script needs a machine, and nothing else. */
static int check_script(const struct tdm_scenario *s, char *err)
{
	if (s->nprocesses || s->nobjects || s->nmappings || s->nguests || s->nagents || s->naxes || s->columns_line || s->run.s.line)
		return tdmi_sim_fail(err, -EINVAL, s->path, s->script_line, "[script] goes with machine, iommu, device and costs alone");
	for (u32 i = 0; i < s->nops; i++) {
		const char *args = tdm_op_table[s->op[i].what].args;

		for (u32 k = 0; args[k]; k++) {
			if (args[k] == 'c' && s->op[i].arg[k] >= s->machine.cpus)
				return tdmi_sim_fail(err, -EINVAL, s->path, s->op[i].line, "c%u: there are %u CPUs", s->op[i].arg[k], s->machine.cpus);
			if (args[k] == 'd' && s->op[i].arg[k] >= s->ndevices)
				return tdmi_sim_fail(err, -EINVAL, s->path, s->op[i].line, "d%u: there are %u devices", s->op[i].arg[k], s->ndevices);
		}
	}
	return 0;
}

/* Of devices, and ram. */
static int check_memory(const struct tdm_scenario *s, char *err)
{
	u32 ranges = 1;

	for (u32 i = 0; i < s->ndevices; i++)
		ranges += (s->device[i].coherent ? 1 : 0) + (s->device[i].vram ? 1 : 0);
	if (ranges > TDM_MEM_RANGES)
		return tdmi_sim_fail(err, -EINVAL, s->path, 0, "more than %u kinds of memory: ram, and coherent and vram of each device", TDM_MEM_RANGES);
	return 0;
}

static int check_whole(const struct tdm_scenario *s, char *err)
{
	bool end = s->run.accesses || s->run.time.n, any = false;

	for (u32 i = 0; i < s->nagents; i++) {
		any |= s->agent[i].enabled;
		end |= s->agent[i].enabled && ends(&s->agent[i]);
	}
	if (!any)
		return tdmi_sim_fail(err, -EINVAL, s->path, 0, "nobody does anything: expected an [agent NAME] that is enabled");
	if (!end)
		return tdmi_sim_fail(err, -EINVAL, s->path, 0, "it would never end: give an agent accesses, rounds or a target, or [run] accesses or a time");
	if (s->run.from.index >= 0 && !s->agent[s->run.from.index].enabled)
		return BAD(s, TDM_SIM_S_RUN, &s->run.s, "from", err, "from: [agent %s] is not enabled", s->run.from.name);
	return 0;
}

int tdmi_scenario_check(struct tdm_scenario *s, char *err)
{
	int r = check_machine(s, err);

	if (!r)
		r = check_iommu(s, err);
	for (u32 i = 0; !r && i < s->ndevices; i++)
		r = check_device(s, &s->device[i], err);
	for (u32 i = 0; !r && i < s->nobjects; i++)
		r = check_object(s, &s->object[i], err);
	for (u32 i = 0; !r && i < s->nmappings; i++)
		r = check_mapping(s, &s->mapping[i], err);
	for (u32 i = 0; !r && i < s->nguests; i++)
		r = check_guest(s, &s->guest[i], err);
	for (u32 i = 0; !r && i < s->nagents; i++)
		r = check_agent(s, &s->agent[i], err);
	if (!r)
		r = place_agents(s, err);
	if (!r)
		r = check_order(s, err);
	if (!r)
		r = check_memory(s, err);
	return r ? r : s->script_line ? check_script(s, err) : check_whole(s, err);
}
