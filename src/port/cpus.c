// SPDX-License-Identifier: MIT
/* cpus.c - the CPUs of a simulated machine: what they run, and their accesses; see cpus.h. */
#include "base/bitops.h"
#include "base/check.h"
#include "port/cpus.h"

/* A fault that has been served so often, and still is one. */
#define MAX_TRIES 64u
#define LINE 64u

/* ---- the machine ---------------------------------------------------------------------------------------------------------- */

static bool config_ok(const struct tdm_cpus_config *config)
{
	bool shared = config->means == TDM_FLUSH_BROADCAST && config->asids;

	return config->n && config->n <= TDM_CPUS_MAX && config->asids <= TDM_ASIDS_MAX && (!shared || config->asids > config->n) &&
	       (config->page_sizes >> TDM_PAGE_SHIFT & 1) && (u32)config->means < TDM_FLUSH_NR && config->broadcast_pages && config->fault;
}

static size_t taken_bytes(const struct tdm_cpus *c)
{
	return TDM_BITMAP_WORDS((size_t)c->config.asids + 1) * sizeof(u64);
}

static size_t space_bytes(const struct tdm_cpus *c)
{
	return sizeof(struct tdm_cpus_space) + c->config.n * sizeof(struct tdm_cpus_heard);
}

int tdmi_cpus_init(struct tdm_cpus *c, const struct tdm_cpus_config *config)
{
	int r = 0;

	memset(c, 0, sizeof(*c));
	if (!config_ok(config))
		return -EINVAL;
	c->config = *config;
	tdmi_alloc_init(&c->alloc);
	c->core = tdmi_alloc(&c->alloc, config->n * sizeof(*c->core));
	c->taken = tdmi_alloc(&c->alloc, taken_bytes(c));
	if (!c->core || !c->taken)
		r = -ENOMEM;
	c->asids = (struct tdm_asids){ .generation = 1, .next = 1, .n = config->asids };
	for (u32 i = 0; i < config->n && !r; i++) {
		c->core[i] = (struct tdm_core){ .asids = c->asids, .asid = TDM_ASID_NONE, .access = config->cost.access };
		r = tdmi_tlb_init(&c->core[i].tlb, &config->tlb, &c->alloc);
	}
	if (r)
		tdmi_cpus_destroy(c);
	return r;
}

void tdmi_cpus_destroy(struct tdm_cpus *c)
{
	TDM_BUG_ON(c->w);
	for (u32 i = 0; i < TDM_SPACES_MAX; i++)
		if (c->space[i])
			tdmi_free(&c->alloc, c->space[i], space_bytes(c));
	for (u32 i = 0; c->core && i < c->config.n; i++)
		tdmi_tlb_destroy(&c->core[i].tlb, &c->alloc);
	if (c->core)
		tdmi_free(&c->alloc, c->core, c->config.n * sizeof(*c->core));
	if (c->taken)
		tdmi_free(&c->alloc, c->taken, taken_bytes(c));
	TDM_BUG_ON(tdmi_alloc_used(&c->alloc));
	tdmi_alloc_destroy(&c->alloc);
	memset(c, 0, sizeof(*c));
}

int tdmi_cpus_attach(struct tdm_cpus *c, struct tdm_world *w)
{
	TDM_BUG_ON(c->w);
	c->reader = tdmi_rcu_register(&w->rcu);
	if (!c->reader)
		return -EBUSY;
	c->w = w;
	return 0;
}

void tdmi_cpus_detach(struct tdm_cpus *c)
{
	tdmi_rcu_unregister(c->reader);
	c->reader = NULL;
	c->w = NULL;
}

/* ---- what they run -------------------------------------------------------------------------------------------------------- */

/* The guest is not told any more; likewise. */
static void leave_guest(struct tdm_core *k, u32 cpu)
{
	if (k->guest)
		tdm_bitmap_clear(k->guest->has->loaded, cpu);
	k->guest = NULL;
}

/* The space is not told any more, as nothing of it runs; its entries may stay. */
static void rest(struct tdm_cpus *c, u32 cpu)
{
	struct tdm_core *k = &c->core[cpu];

	leave_guest(k, cpu);
	if (k->s && !k->lazy)
		tdm_bitmap_clear(c->space[k->s->id]->loaded, cpu);
	k->lazy = true;
	k->asid = TDM_ASID_NONE;
}

static void unload(struct tdm_cpus *c, u32 cpu)
{
	struct tdm_core *k = &c->core[cpu];

	rest(c, cpu);
	/* What is left behind without an ASID nobody can find, and goes before the next space comes. */
	if (k->s && !c->config.asids)
		tdm_bitmap_clear(c->space[k->s->id]->holds, cpu);
	k->s = NULL;
}

static void load(struct tdm_cpus *c, u32 cpu, struct tdm_space *s)
{
	struct tdm_core *k = &c->core[cpu];
	struct tdm_cpus_space *sp = c->space[s->id];

	leave_guest(k, cpu);
	if (k->s != s) {
		unload(c, cpu);
		tdmi_cpus_give_asid(c, cpu, sp);
		k->s = s;
	}
	if (sp->on[cpu].heard != sp->flushes)
		tdmi_cpus_flush_late(c, cpu, sp);
	k->lazy = false;
	k->asid = tdm_cpus_asid(c, sp, cpu);
	tdm_bitmap_set(sp->loaded, cpu);
	if (tdm_cpus_broadcasts(c))
		tdm_bitmap_set(sp->holds, cpu);
}

int tdmi_cpus_switch(struct tdm_cpus *c, u32 cpu, struct tdm_space *s)
{
	struct tdm_core *k = &c->core[cpu];

	TDM_BUG_ON(cpu >= c->config.n || s->w != c->w);
	if (!c->space[s->id])
		c->space[s->id] = tdmi_alloc(&c->alloc, space_bytes(c));
	if (!c->space[s->id])
		return -ENOMEM;
	c->current = cpu;
	k->stats.switches++;
	tdm_core_pay(k, TDM_CYC_SWITCH, c->config.cost.context_switch);
	if (!tdm_core_runs(k, s))
		load(c, cpu, s);
	return 0;
}

void tdmi_cpus_idle(struct tdm_cpus *c, u32 cpu)
{
	rest(c, cpu);
}

void tdmi_cpus_forget(struct tdm_cpus *c, struct tdm_space *s)
{
	struct tdm_cpus_space *sp = c->space[s->id];

	if (!sp)
		return;
	for (u32 cpu = 0; cpu < c->config.n; cpu++) {
		TDM_BUG_ON(tdm_bitmap_test(sp->loaded, cpu));
		if (c->core[cpu].s == s)
			unload(c, cpu);
	}
	/* Its ASIDs are not given to anybody else before a generation ends, with a flush. */
	tdmi_free(&c->alloc, sp, space_bytes(c));
	c->space[s->id] = NULL;
}

/* ---- guests ---------------------------------------------------------------------------------------------------------------- */

int tdmi_cpus_guest_add(struct tdm_cpus *c, struct tdm_cpus_guest *g)
{
	if (TDM_ASIDS_MAX + 1 + c->guests >= TDM_TLB_ASIDS)
		return -ENOSPC;
	g->has = tdmi_alloc(&c->alloc, space_bytes(c));
	if (!g->has)
		return -ENOMEM;
	g->has->vmid = TDM_ASIDS_MAX + 1 + c->guests++;
	return 0;
}

void tdmi_cpus_guest_del(struct tdm_cpus *c, struct tdm_cpus_guest *g)
{
	for (u32 cpu = 0; cpu < c->config.n; cpu++)
		if (c->core[cpu].guest == g)
			rest(c, cpu);
	tdmi_free(&c->alloc, g->has, space_bytes(c));
	g->has = NULL;
}

int tdmi_cpus_guest_enter(struct tdm_cpus *c, u32 cpu, struct tdm_cpus_guest *g)
{
	struct tdm_core *k = &c->core[cpu];
	struct tdm_cpus_heard *on = &g->has->on[cpu];
	int r = tdmi_cpus_switch(c, cpu, g->s);

	if (r)
		return r;
	/* Who has never run it has nothing of it. */
	if (!on->asid.generation)
		*on = (struct tdm_cpus_heard){ .asid = { 1, g->has->vmid }, .heard = g->has->flushes };
	if (on->heard != g->has->flushes)
		tdmi_cpus_flush_late(c, cpu, g->has);
	k->guest = g;
	k->asid = g->has->vmid;
	tdm_bitmap_set(g->has->loaded, cpu);
	if (tdm_cpus_broadcasts(c))
		tdm_bitmap_set(g->has->holds, cpu);
	return 0;
}

/* ---- accesses -------------------------------------------------------------------------------------------------------------- */

/* What is walked, and by which rules. */
static struct tdm_pgt *table_of(struct tdm_core *k)
{
	return k->guest ? k->guest->pgt : &k->s->pgt;
}

static u32 caps_of(const struct tdm_cpus *c, const struct tdm_core *k)
{
	return k->guest ? TDM_WALK_HW_A | TDM_WALK_HW_D : c->config.caps;
}

static int fault(struct tdm_cpus *c, u32 cpu, u64 va, bool write)
{
	enum tdm_access access = write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ;
	struct tdm_core *k = &c->core[cpu];

	k->stats.faults++;
	return k->guest ? k->guest->fault(k->guest->arg, cpu, va, access) : c->config.fault(k->s, c->reader, va, access);
}

/* Not in the TLB, or not with these rights. TDM_WALK_OK: it is now, and *bytes is where va is. */
static enum tdm_walk_result walk(struct tdm_cpus *c, struct tdm_core *k, u64 va, bool write, u8 **bytes)
{
	const struct tdm_cpu_costs *cost = &c->config.cost;
	enum tdm_walk_result r;
	struct tdm_walk w;
	u64 in;

	if (!c->config.one_thread)
		tdmi_rcu_read_lock(c->reader);
	r = tdmi_walk(table_of(k), va, write, caps_of(c, k), c->config.page_sizes, &w);
	if (r == TDM_WALK_OK) {
		in = va & tdm_bits_below(w.shift);
		*bytes = tdm_pfn_bytes(&c->w->phys, tdm_pte_pfn(w.pte));
		__builtin_prefetch(*bytes + in, 1);
		tdmi_tlb_insert(&k->tlb, k->asid, va, w.shift, w.pte, *bytes);
		*bytes += in;
	}
	if (!c->config.one_thread)
		tdmi_rcu_read_unlock(c->reader);
	k->stats.walks++;
	k->stats.walk_reads += w.reads;
	k->stats.walk_sets += w.set_a || w.set_d;
	tdm_core_pay(k, TDM_CYC_WALK, w.reads * cost->walk_read + (w.set_a || w.set_d ? cost->walk_set : 0));
	return r;
}

static int translate(struct tdm_cpus *c, u32 cpu, u64 va, bool write, u8 **bytes)
{
	u64 need = write ? TDM_PTE_STORABLE : TDM_PTE_PRESENT;
	struct tdm_core *k = &c->core[cpu];
	u32 level;
	int r;

	TDM_BUG_ON(k->asid == TDM_ASID_NONE);
	c->current = cpu;
	for (u32 tries = 0; tries < MAX_TRIES; tries++) {
		struct tdm_tlb_entry *e = tdmi_tlb_lookup(&k->tlb, k->asid, va, &level);

		if (e && level)
			tdm_core_pay(k, TDM_CYC_TLB_L2, c->config.cost.tlb_l2_hit);
		if (e && (e->pte.v & need) == need) {
			*bytes = e->bytes + (va & tdm_bits_below(e->shift));
			return 0;
		}
		/* What does not allow it goes, of whatever size: a leaf of another size may have taken its place, with more rights. */
		if (e)
			tdmi_tlb_flush_range(&k->tlb, k->asid, va, va + 1);
		if (walk(c, k, va, write, bytes) == TDM_WALK_OK)
			return 0;
		r = fault(c, cpu, va, write);
		if (r)
			return r;
	}
	return -ETIMEDOUT;
}

static int move(struct tdm_cpus *c, u32 cpu, u64 va, u8 *buf, size_t len, bool write)
{
	struct tdm_core *k = &c->core[cpu];

	while (len) {
		size_t n = TDM_MIN(len, TDM_PAGE_SIZE - (va & ~TDM_PAGE_MASK));
		u64 lines = ((va & (LINE - 1)) + n + LINE - 1) / LINE;
		u8 *bytes;
		int r = translate(c, cpu, va, write, &bytes);

		if (r)
			return r;
		memcpy(write ? bytes : buf, write ? buf : bytes, n);
		k->accesses += lines;
		k->clock += lines * k->access;
		va += n;
		buf += n;
		len -= n;
	}
	return 0;
}

void tdmi_cpus_ahead(struct tdm_cpus *c, u32 cpu, u64 va)
{
	struct tdm_core *k = &c->core[cpu];
	struct tdm_pte pte;
	struct tdm_pt *pt;
	u32 i;

	if (!c->config.one_thread || k->asid == TDM_ASID_NONE)
		return;
	pt = tdmi_pt_walk(table_of(k), va, &i, &pte);
	if (tdm_pte_present(pte))
		__builtin_prefetch(tdm_pfn_bytes(&c->w->phys, tdm_pte_pfn(pte)) + (va & tdm_bits_below(tdm_pt_shift(pt->level))), 1);
}

int tdmi_cpus_read(struct tdm_cpus *c, u32 cpu, u64 va, void *buf, size_t len)
{
	return move(c, cpu, va, buf, len, false);
}

int tdmi_cpus_write(struct tdm_cpus *c, u32 cpu, u64 va, const void *buf, size_t len)
{
	return move(c, cpu, va, (u8 *)(uintptr_t)buf, len, true);
}

int tdmi_cpus_touch(struct tdm_cpus *c, u32 cpu, u64 va, bool write)
{
	struct tdm_core *k = &c->core[cpu];
	u8 *bytes;
	int r;

	if (tdm_core_hit(k, va, write ? TDM_PTE_STORABLE : TDM_PTE_PRESENT))
		return 0;
	r = translate(c, cpu, va, write, &bytes);
	if (!r) {
		k->accesses++;
		k->clock += k->access;
	}
	return r;
}

/* ---- time ------------------------------------------------------------------------------------------------------------------ */

void tdmi_cpus_wait_until(struct tdm_cpus *c, u32 cpu, u64 clock)
{
	struct tdm_core *k = &c->core[cpu];

	if (k->clock < clock)
		tdm_core_pay(k, TDM_CYC_IDLE, clock - k->clock);
}

static void stats_of(const struct tdm_core *k, struct tdm_cpu_stats *out)
{
	*out = k->stats;
	out->accesses = k->accesses;
	out->cycles[TDM_CYC_ACCESS] = k->accesses * k->access;
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		out->tlb_hits[level] = k->tlb.hits[level];
	out->tlb_misses = k->tlb.misses;
	out->flushed = k->tlb.flushed;
}

void tdmi_cpus_stats(const struct tdm_cpus *c, u32 cpu, struct tdm_cpu_stats *out)
{
	u64 *sum = (u64 *)out;

	if (cpu != ~0u) {
		stats_of(&c->core[cpu], out);
		return;
	}
	*out = (struct tdm_cpu_stats){ 0 };
	for (u32 i = 0; i < c->config.n; i++) {
		struct tdm_cpu_stats one;

		stats_of(&c->core[i], &one);
		for (size_t k = 0; k < sizeof(one) / sizeof(u64); k++)
			sum[k] += ((const u64 *)&one)[k];
	}
}
