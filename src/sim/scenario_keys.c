/* SPDX-License-Identifier: MIT */
/* scenario_keys.c - the sections of a scenario, and the keys of each. */
#include <string.h>
#include "base/bitops.h"
#include "sim/scenario_value.h"

static const char *const flush_words[] = { "local", "ipi", "broadcast", NULL };
static const char *const tier_words[] = { "none", "lz4", NULL };
static const char *const aging_words[] = { "clear", "flush", "flush-secondary", NULL };
static const char *const bit_words[] = { "software", "hardware", NULL };
static const char *const fault_words[] = { "none", "stall", "pri", NULL };
static const char *const placement_words[] = { "vram", "system", NULL };
static const char *const mapping_words[] = { "anonymous", "shared", "coherent", "object", NULL };
static const char *const content_words[] = { "zero", "text", "noise", NULL };
static const char *const kind_words[] = { "cpu", "dma", "reclaim", "age", "fork", "unmap", "protect", "discard", "lazyfree", "fill", "evict", "restore", "collapse",
					   "vcpu", NULL };
static const char *const pattern_words[] = { "sequential", "strided", "uniform", "zipf", "chase", "trace", NULL };
static const char *const by_words[] = { "range", "fault", "remap", NULL };
static const char *const place_words[] = { "fixed", "chosen", NULL };
static const char *const guest_aging_words[] = { "lockless", "read", "write", NULL };
static const char *const fill_words[] = { "read", "write", NULL };

#define GIB ((u64)1 << 30)
#define TIB ((u64)1 << 40)
#define M(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_machine, field), __VA_ARGS__ }
static const struct tdm_sim_key machine_keys[] = {
	M("cpus", T_U32, cpus, 1, 256),
	M("asids", T_U32, asids, 0, 65535),
	M("flush", T_WORD, flush, .words = flush_words),
	M("ceiling", T_COUNT, ceiling, 0, (u64)1 << 36),
	M("broadcast_pages", T_U32, broadcast_pages, 1, 1 << 20),
	M("tlb", T_PRESET, tlb),
	M("l1_4k", T_GEOMETRY, tlb.level[0][0]),
	M("l1_2m", T_GEOMETRY, tlb.level[0][1]),
	M("l1_1g", T_GEOMETRY, tlb.level[0][2]),
	M("l2_4k", T_GEOMETRY, tlb.level[1][0]),
	M("l2_2m", T_GEOMETRY, tlb.level[1][1]),
	M("l2_1g", T_GEOMETRY, tlb.level[1][2]),
	M("leaves", T_LEAVES, leaves),
	M("access_flag", T_BIT, access_hw, .words = bit_words),
	M("dirty_flag", T_BIT, dirty_hw, .words = bit_words),
	M("ram", T_SIZE, ram, TDM_HUGE_SIZE, TIB),
	M("tier", T_WORD, tier, .words = tier_words),
	M("batch", T_BOOL, batch),
	M("batch_secondary", T_BOOL, batch_secondary),
	M("aging", T_WORD, aging, .words = aging_words),
	{ 0 },
};

#define I(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_iommu, field), __VA_ARGS__ }
static const struct tdm_sim_key iommu_keys[] = {
	I("access_flag", T_BIT, access_hw, .words = bit_words),
	I("dirty_flag", T_BIT, dirty_hw, .words = bit_words),
	I("snoop", T_BOOL, snoop),
	I("iotlb_4k", T_GEOMETRY, iotlb.level[0][0]),
	I("iotlb_2m", T_GEOMETRY, iotlb.level[0][1]),
	I("iotlb_1g", T_GEOMETRY, iotlb.level[0][2]),
	I("leaves", T_LEAVES, leaves),
	I("queue", T_U32, queue, 2, 65536),
	I("split", T_U32, split, 1, 32),
	I("whole_pages", T_U32, whole_pages, 0, 1 << 30),
	I("sync_each", T_BOOL, sync_each),
	I("requests", T_U32, requests, 2, 65536),
	I("stalls", T_U32, stalls, 0, 65536),
	I("pin_after", T_U32, pin_after, 0, 1000000),
	{ 0 },
};

#define D(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_device, field), __VA_ARGS__ }
static const struct tdm_sim_key device_keys[] = {
	D("fault", T_WORD, fault, .words = fault_words),
	D("ats", T_BOOL, ats),
	D("atc_4k", T_GEOMETRY, atc.level[0][0]),
	D("atc_2m", T_GEOMETRY, atc.level[0][1]),
	D("atc_1g", T_GEOMETRY, atc.level[0][2]),
	D("leaves", T_LEAVES, leaves),
	D("unit", T_U32, unit, 64, 256),
	D("burst", T_U32, burst, 64, 4096),
	D("depth", T_U32, depth, 1, 32),
	D("group", T_U32, group, 1, 32),
	D("credit", T_U32, credit, 1, 512),
	D("give_up", T_U32, give_up, 0, 1000000),
	D("stop_marker", T_BOOL, stop_marker),
	D("map_read_only", T_BOOL, map_read_only),
	D("coherent", T_SIZE, coherent, TDM_HUGE_SIZE, TIB),
	D("vram", T_SIZE, vram, TDM_HUGE_SIZE, TIB),
	{ 0 },
};

static const struct tdm_sim_key process_keys[] = { { 0 } };

#define O(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_object, field), __VA_ARGS__ }
static const struct tdm_sim_key object_keys[] = {
	O("device", T_REF, device, TDM_SIM_S_DEVICE),
	O("size", T_SIZE, size, TDM_PAGE_SIZE, TIB),
	O("contiguous", T_SIZE, contiguous, TDM_PAGE_SIZE, TIB),
	O("placement", T_WORD, placement, .words = placement_words),
	O("max_prefault", T_SIZE, max_prefault, TDM_PAGE_SIZE, TIB),
	O("fault_huge", T_BOOL, fault_huge),
	{ 0 },
};

#define P(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_mapping, field), __VA_ARGS__ }
static const struct tdm_sim_key mapping_keys[] = {
	P("process", T_REF, process, TDM_SIM_S_PROCESS),
	P("kind", T_WORD, kind, .words = mapping_words),
	P("device", T_REF, device, TDM_SIM_S_DEVICE),
	P("object", T_REF, object, TDM_SIM_S_OBJECT),
	P("size", T_SIZE, size, TDM_PAGE_SIZE, 64 * TIB),
	P("offset", T_SIZE, offset, TDM_PAGE_SIZE, TIB),
	P("place", T_WORD, place, .words = place_words),
	P("misalign", T_SIZE, misalign, TDM_PAGE_SIZE, GIB),
	P("writable", T_BOOL, writable),
	P("populate", T_BOOL, populate),
	P("content", T_WORD, content, .words = content_words),
	{ 0 },
};

#define G(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_guest, field), __VA_ARGS__ }
static const struct tdm_sim_key guest_keys[] = {
	G("process", T_REF, process, TDM_SIM_S_PROCESS),
	G("vcpus", T_U32, vcpus, 1, 256),
	G("cpu", T_U32, cpu, 0, 255),
	G("aging", T_WORD, aging, .words = guest_aging_words),
	G("fill", T_BIT, fill_write, .words = fill_words),
	G("elide_flush", T_BOOL, elide_flush),
	{ 0 },
};

#define A(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_agent, field), __VA_ARGS__ }
static const struct tdm_sim_key agent_keys[] = {
	A("kind", T_WORD, kind, .words = kind_words),
	A("enabled", T_BOOL, enabled),
	A("after", T_REF, after, TDM_SIM_S_AGENT),
	A("process", T_REF, process, TDM_SIM_S_PROCESS),
	A("mapping", T_REF, mapping, TDM_SIM_S_MAPPING),
	A("device", T_REF, device, TDM_SIM_S_DEVICE),
	A("object", T_REF, object, TDM_SIM_S_OBJECT),
	A("guest", T_REF, guest, TDM_SIM_S_GUEST),
	A("cpu", T_U32, cpu, 0, 255),
	A("vcpu", T_U32, vcpu, 0, 255),
	A("threads", T_THREADS, threads, 1, 256),
	A("pattern", T_WORD, pattern, .words = pattern_words),
	A("unit", T_SIZE, unit, 8, GIB),
	A("stride", T_SIZE, stride, 8, TIB),
	A("theta", T_THETA, theta),
	A("writes", T_PERCENT, writes),
	A("trace", T_PATH, trace),
	A("fetches", T_BOOL, fetches),
	A("accesses", T_COUNT, accesses, 1, (u64)1 << 60),
	A("rounds", T_COUNT, rounds, 1, (u64)1 << 60),
	A("pages", T_COUNT, pages, 1, (u64)1 << 28),
	A("target", T_SIZE, target, TDM_PAGE_SIZE, TIB),
	A("transfer", T_SIZE, transfer, 64, 256 << 10),
	A("every", T_DURATION, every),
	A("pin", T_BOOL, pin),
	A("exec", T_BOOL, exec),
	A("by", T_WORD, by, .words = by_words),
	{ 0 },
};

#define R(key, kind, field, ...) { .name = key, .type = kind, .at = offsetof(struct tdm_sim_run, field), __VA_ARGS__ }
static const struct tdm_sim_key run_keys[] = {
	R("seed", T_COUNT, seed, 0, ((u64)1 << 63) - 1),
	R("accesses", T_COUNT, accesses, 1, (u64)1 << 60),
	R("time", T_DURATION, time),
	R("from", T_REF, from, TDM_SIM_S_AGENT),
	{ 0 },
};

static const struct {
	const char *word;
	const struct tdm_sim_key *keys;   /* NULL: the names of costs */
	size_t at, size, count_at;
	u32 max;                  /* 0: there is one, without a name */
} sections[TDM_SIM_S_NR] = {
#define ONE(word, keys, field) { word, keys, offsetof(struct tdm_scenario, field), 0, 0, 0 }
#define MANY(word, keys, field, count, max)                                                                                    \
	{ word, keys, offsetof(struct tdm_scenario, field), sizeof(((struct tdm_scenario *)0)->field[0]), offsetof(struct tdm_scenario, count), max }
	[TDM_SIM_S_MACHINE] = ONE("machine", machine_keys, machine),
	[TDM_SIM_S_IOMMU] = ONE("iommu", iommu_keys, iommu),
	[TDM_SIM_S_COSTS] = ONE("costs", NULL, costs),
	[TDM_SIM_S_DEVICE] = MANY("device", device_keys, device, ndevices, TDM_SIM_DEVICES),
	[TDM_SIM_S_PROCESS] = MANY("process", process_keys, process, nprocesses, TDM_SIM_PROCESSES),
	[TDM_SIM_S_OBJECT] = MANY("object", object_keys, object, nobjects, TDM_SIM_OBJECTS),
	[TDM_SIM_S_MAPPING] = MANY("mapping", mapping_keys, mapping, nmappings, TDM_SIM_MAPPINGS),
	[TDM_SIM_S_GUEST] = MANY("guest", guest_keys, guest, nguests, TDM_SIM_GUESTS),
	[TDM_SIM_S_AGENT] = MANY("agent", agent_keys, agent, nagents, TDM_SIM_AGENTS),
	[TDM_SIM_S_RUN] = ONE("run", run_keys, run),
};

/* One more than the last is empty. */
_Static_assert(TDM_ARRAY_SIZE(machine_keys) <= TDM_SIM_KEYS + 1 && TDM_ARRAY_SIZE(agent_keys) <= TDM_SIM_KEYS + 1 &&
	       TDM_ARRAY_SIZE(device_keys) <= TDM_SIM_KEYS + 1 &&
	       TDM_ARRAY_SIZE(iommu_keys) <= TDM_SIM_KEYS + 1, "a line for each key");

/* ---- sections -------------------------------------------------------------------------------------------------------------- */

const char *tdmi_section_word(enum tdm_sim_section_kind k)
{
	return sections[k].word;
}

enum tdm_sim_section_kind tdmi_section_kind(const char *word, bool *named)
{
	u32 k = 0;

	while (k < TDM_SIM_S_NR && strcmp(sections[k].word, word))
		k++;
	*named = k < TDM_SIM_S_NR && sections[k].max;
	return (enum tdm_sim_section_kind)k;
}

static struct tdm_sim_section *section_at(struct tdm_scenario *s, enum tdm_sim_section_kind k, u32 i)
{
	return (struct tdm_sim_section *)(void *)((char *)s + sections[k].at + i * sections[k].size);
}

static u32 *section_count(struct tdm_scenario *s, enum tdm_sim_section_kind k)
{
	return (u32 *)(void *)((char *)s + sections[k].count_at);
}

static s32 index_of(struct tdm_scenario *s, enum tdm_sim_section_kind k, const char *name)
{
	for (u32 i = 0; i < *section_count(s, k); i++)
		if (!strcmp(section_at(s, k, i)->name, name))
			return (s32)i;
	return -1;
}

struct tdm_sim_section *tdmi_section_find(struct tdm_scenario *s, enum tdm_sim_section_kind k, const char *name)
{
	s32 i = sections[k].max ? index_of(s, k, name) : 0;

	return i < 0 ? NULL : section_at(s, k, (u32)i);
}

static void agent_defaults(struct tdm_sim_agent *a)
{
	a->enabled = true;
	a->threads = 1;
	a->kind = TDM_SIM_KIND_NR;
	a->theta = 990;
	a->exec = true;
}

static void device_defaults(struct tdm_sim_device *d)
{
	d->atc.level[0][0] = (struct tdm_tlb_geometry)TDM_TLB_OF(16, 4);
	d->atc.level[0][1] = (struct tdm_tlb_geometry)TDM_TLB_OF(4, 4);
	d->leaves = TDM_PAGE_SIZE | TDM_HUGE_SIZE;
	d->unit = 256;
	d->burst = 4096;
	d->depth = d->group = 1;
	d->credit = 32;
}

static void new_section(struct tdm_scenario *s, enum tdm_sim_section_kind k, struct tdm_sim_section *to)
{
	memset(to, 0, sections[k].size);
	if (k == TDM_SIM_S_AGENT)
		agent_defaults((struct tdm_sim_agent *)to);
	else if (k == TDM_SIM_S_DEVICE)
		device_defaults((struct tdm_sim_device *)to);
	else if (k == TDM_SIM_S_MAPPING)
		((struct tdm_sim_mapping *)to)->writable = true;
	else if (k == TDM_SIM_S_OBJECT)
		((struct tdm_sim_object *)to)->fault_huge = true;
	else if (k == TDM_SIM_S_GUEST)
		((struct tdm_sim_guest *)to)->vcpus = 1;
}

struct tdm_sim_section *tdmi_section_begin(struct tdm_scenario *s, enum tdm_sim_section_kind k, const char *name, u32 line, int *r)
{
	struct tdm_sim_section *to = NULL;

	*r = 0;
	if (!sections[k].max) {
		to = section_at(s, k, 0);
		*r = to->line ? -EEXIST : 0;
	} else if (!tdmi_section_name_ok(name)) {
		*r = -EINVAL;
	} else if (index_of(s, k, name) >= 0) {
		*r = -EEXIST;
	} else if (*section_count(s, k) == sections[k].max) {
		*r = -ENOSPC;
	} else {
		to = section_at(s, k, (*section_count(s, k))++);
		new_section(s, k, to);
		strcpy(to->name, name);
	}
	if (*r)
		return NULL;
	to->line = line;
	return to;
}

void tdmi_scenario_defaults(struct tdm_scenario *s)
{
	struct tdm_sim_machine *m = &s->machine;
	struct tdm_sim_iommu *it = &s->iommu;

	memset(s, 0, sizeof(*s));
	m->cpus = 1;
	m->asids = 512;
	m->flush = TDM_SIM_FLUSH_IPI;
	m->ceiling = 33;
	m->broadcast_pages = 1;
	tdmi_sim_preset(0, &m->tlb);
	m->leaves = TDM_PAGE_SIZE | TDM_HUGE_SIZE | GIB;
	m->access_hw = m->dirty_hw = true;
	m->ram = (u64)256 << 20;
	m->batch = true;
	it->access_hw = it->dirty_hw = true;
	it->iotlb.level[0][0] = (struct tdm_tlb_geometry)TDM_TLB_OF(64, 8);
	it->iotlb.level[0][1] = (struct tdm_tlb_geometry)TDM_TLB_OF(16, 4);
	it->leaves = TDM_PAGE_SIZE | TDM_HUGE_SIZE;
	it->queue = 256;
	it->split = 8;
	it->whole_pages = 512;
	it->requests = 128;
	it->stalls = 16;
	s->run.seed = 1;
}

static s32 key_index(enum tdm_sim_section_kind k, const char *name)
{
	for (u32 i = 0; sections[k].keys && sections[k].keys[i].name; i++)
		if (!strcmp(sections[k].keys[i].name, name))
			return (s32)i;
	return -1;
}

static int set_cost(struct tdm_scenario *s, const char *key, const char *value, bool once, const struct tdm_sim_origin *o)
{
	enum tdm_cost c = tdmi_cost_find(key);

	if (c == TDM_COST_NR)
		return tdmi_sim_fail(o->err, -EINVAL, o->line == ~0u ? "--set" : o->name, o->line == ~0u ? 0 : o->line,
				     "there is no cost '%s'; 'tandem sim --print-costs' lists them", key);
	if (once && tdm_bitmap_test(s->cost_set, c))
		return tdmi_sim_fail(o->err, -EINVAL, o->name, o->line, "'%s' for the second time", key);
	if (tdmi_cost_parse(value, &s->cost[c]))
		return tdmi_value_expected(o, key, value, "a time such as 600 ns or 300 cycles, a second at most");
	tdm_bitmap_set(s->cost_set, c);
	return 0;
}

int tdmi_section_set(struct tdm_scenario *s, enum tdm_sim_section_kind k, struct tdm_sim_section *to, const char *key, const char *value, bool once,
		     const struct tdm_sim_origin *o)
{
	s32 i = key_index(k, key);
	int r;

	if (k == TDM_SIM_S_COSTS)
		return set_cost(s, key, value, once, o);
	if (i < 0)
		return tdmi_sim_fail(o->err, -EINVAL, o->line == ~0u ? "--set" : o->name, o->line == ~0u ? 0 : o->line,
				     "there is no key '%s' in [%s]; docs/sim.md lists them", key, sections[k].word);
	if (once && to->set[i])
		return tdmi_sim_fail(o->err, -EINVAL, o->name, o->line, "'%s' for the second time in this section (first in line %u)", key, to->set[i]);
	r = tdmi_value_set(o, &sections[k].keys[i], value, to);
	if (!r)
		to->set[i] = o->line;
	return r;
}

u32 tdmi_section_is_set(enum tdm_sim_section_kind k, const struct tdm_sim_section *s, const char *key)
{
	s32 i = key_index(k, key);

	TDM_BUG_ON(i < 0);
	return s->set[i];
}

u32 tdmi_section_line(enum tdm_sim_section_kind k, const struct tdm_sim_section *s, const char *key)
{
	u32 line = tdmi_section_is_set(k, s, key);

	return line ? line : s->line;
}

const char *tdmi_section_key(enum tdm_sim_section_kind k, u32 n)
{
	for (u32 i = 0; sections[k].keys && sections[k].keys[i].name; i++)
		if (i == n)
			return sections[k].keys[i].name;
	return NULL;
}

static int resolve_section(struct tdm_scenario *s, enum tdm_sim_section_kind k, struct tdm_sim_section *in, char *err)
{
	for (u32 i = 0; sections[k].keys && sections[k].keys[i].name; i++) {
		const struct tdm_sim_key *key = &sections[k].keys[i];
		struct tdm_sim_ref *ref = (struct tdm_sim_ref *)(void *)((char *)in + key->at);

		if (key->type != T_REF)
			continue;
		ref->index = *ref->name ? index_of(s, (enum tdm_sim_section_kind)key->min, ref->name) : -1;
		if (*ref->name && ref->index < 0)
			return tdmi_sim_fail(err, -EINVAL, in->set[i] == ~0u ? "--set" : s->path, in->set[i] == ~0u ? 0 : in->set[i], "there is no [%s %s]",
					     sections[key->min].word, ref->name);
	}
	return 0;
}

int tdmi_scenario_resolve(struct tdm_scenario *s, char *err)
{
	int r = 0;

	for (u32 k = 0; k < TDM_SIM_S_NR; k++)
		for (u32 i = 0; !r && i < (sections[k].max ? *section_count(s, k) : 1); i++)
			r = resolve_section(s, k, section_at(s, k, i), err);
	return r;
}
