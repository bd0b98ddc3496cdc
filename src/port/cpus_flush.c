// SPDX-License-Identifier: MIT
/* cpus_flush.c - flushes of the TLBs of all CPUs, and ASIDs; see cpus.h for who must be told of what. */
#include "base/bitops.h"
#include "base/check.h"
#include "port/cpus.h"

/* What is to go: pages of a space or a guest, or, n == 0, all of it. */
struct flush {
	struct tdm_cpus_space *sp;
	u64 start, end, pages;
};

/* Is there anything of the space in this CPU's TLB under an ASID that is still the space's? */
static bool has_asid(const struct tdm_cpus *c, u32 cpu, const struct tdm_cpus_space *sp)
{
	const struct tdm_core *k = &c->core[cpu];

	if (sp->vmid)
		return true;
	if (!c->config.asids)
		return k->s && c->space[k->s->id] == sp;
	if (tdm_cpus_shares_asids(c))
		return sp->asid.generation == c->asids.generation;
	return sp->on[cpu].asid.generation == k->asids.generation;
}

static void forget(struct tdm_cpus *c, u32 cpu, const struct flush *f)
{
	struct tdm_tlb *tlb = &c->core[cpu].tlb;
	u32 asid = tdm_cpus_asid(c, f->sp, cpu);

	if (!has_asid(c, cpu, f->sp))
		return;
	if (f->pages)
		tdmi_tlb_flush_range(tlb, asid, f->start, f->end);
	else
		tdmi_tlb_flush_asid(tlb, asid);
}

/* Cycles of a CPU that carries it out. */
static u64 local_cost(const struct tdm_cpus *c, const struct flush *f)
{
	return f->pages ? f->pages * c->config.cost.tlb_local_entry : c->config.cost.tlb_local_all;
}

/* A part is enough only for who has missed nothing before. */
static void hear(struct tdm_cpus *c, u32 cpu, const struct flush *f)
{
	struct tdm_cpus_heard *on = &f->sp->on[cpu];

	TDM_BUG_ON(f->pages && on->heard + 1 < f->sp->flushes);
	forget(c, cpu, f);
	on->heard = f->sp->flushes;
}

static void flush_here(struct tdm_cpus *c, u32 cpu, const struct flush *f)
{
	hear(c, cpu, f);
	tdm_core_pay(&c->core[cpu], TDM_CYC_FLUSH, local_cost(c, f));
}

/* ---- whom a flush concerns --------------------------------------------------------------------------------------------------- */

/* Lazy CPUs, and those that have left, have missed it, and will find out; but with broadcast. */
static bool is_told(const struct tdm_cpus *c, const struct tdm_cpus_space *sp, u32 cpu)
{
	return c->config.untracked || tdm_bitmap_test(tdm_cpus_broadcasts(c) ? sp->holds : sp->loaded, cpu);
}

/* Is anybody but the one that asks? */
static bool others(const struct tdm_cpus *c, const struct tdm_cpus_space *sp)
{
	const u64 *mask = tdm_cpus_broadcasts(c) ? sp->holds : sp->loaded;
	u64 any = 0;

	if (c->config.untracked)
		return c->config.n > 1;
	for (u32 i = 0; i < TDM_CPUS_WORDS; i++)
		any |= c->current / 64 == i ? mask[i] & ~((u64)1 << c->current % 64) : mask[i];
	return any;
}

static bool elsewhere(void *arg, struct tdm_space *s)
{
	struct tdm_cpus *c = arg;

	return c->space[s->id] && others(c, c->space[s->id]);
}

/* ---- the three ways ------------------------------------------------------------------------------------------------------------ */

static void flush_ideal(struct tdm_cpus *c, const struct flush *f)
{
	for (u32 cpu = 0; cpu < c->config.n; cpu++)
		if (cpu != c->current && is_told(c, f->sp, cpu))
			hear(c, cpu, f);
}

/* The initiator sends to one after the other and then does its own part: by then the first ones may have answered. The last one was sent to last, and all take
 * equally long. */
static void flush_ipi(struct tdm_cpus *c, const struct flush *f, bool here)
{
	const struct tdm_cpu_costs *cost = &c->config.cost;
	struct tdm_core *k = &c->core[c->current];
	u64 own = here ? local_cost(c, f) : 0, answer = cost->ipi_wait + cost->ipi_handle + local_cost(c, f);

	for (u32 cpu = 0; cpu < c->config.n; cpu++) {
		struct tdm_core *target = &c->core[cpu];

		if (cpu == c->current || !is_told(c, f->sp, cpu))
			continue;
		k->stats.ipis_sent++;
		tdm_core_pay(k, TDM_CYC_IPI_SEND, cost->ipi_send);
		target->stats.ipis_received++;
		tdm_core_pay(target, TDM_CYC_IPI_HANDLE, cost->ipi_handle);
		flush_here(c, cpu, f);
	}
	if (here)
		flush_here(c, c->current, f);
	tdm_core_pay(k, TDM_CYC_IPI_WAIT, answer > own ? answer - own : 0);
}

static void broadcast_pay(struct tdm_cpus *c, u64 ops)
{
	const struct tdm_cpu_costs *cost = &c->config.cost;
	struct tdm_core *k = &c->core[c->current];

	k->stats.broadcast_ops += ops;
	tdm_core_pay(k, TDM_CYC_BROADCAST, ops * cost->broadcast_op + cost->broadcast_sync + (c->config.n - 1) * cost->broadcast_sync_cpu);
}

static void flush_broadcast(struct tdm_cpus *c, const struct flush *f)
{
	u32 each = c->config.broadcast_pages;

	for (u32 cpu = 0; cpu < c->config.n; cpu++)
		if (is_told(c, f->sp, cpu))
			forget(c, cpu, f);
	broadcast_pay(c, f->pages ? (f->pages + each - 1) / each : 1);
}

/* Who has forgotten all of the space, and has not loaded it, need not be reached again. */
static void holds_nothing(struct tdm_cpus *c, const struct flush *f)
{
	for (u32 cpu = 0; cpu < c->config.n; cpu++) {
		const struct tdm_core *k = &c->core[cpu];

		if ((!k->s || c->space[k->s->id] != f->sp) && (!k->guest || k->guest->has != f->sp))
			tdm_bitmap_clear(f->sp->holds, cpu);
	}
}

static void carry_out(struct tdm_cpus *c, const struct flush *f)
{
	struct tdm_core *k = &c->core[c->current];
	bool here = is_told(c, f->sp, c->current), far = others(c, f->sp);
	enum tdm_flush_means means = far ? c->config.means : TDM_FLUSH_LOCAL;

	/* Who is not told now has missed it; with broadcast nobody does. */
	f->sp->flushes += !tdm_cpus_broadcasts(c);
	k->stats.flushes_all += !f->pages;
	if (!here && !far)
		k->stats.flushes_nobody++;
	else
		k->stats.flushes[means]++;
	switch (means) {
	case TDM_FLUSH_IPI:
		flush_ipi(c, f, here);
		break;
	case TDM_FLUSH_BROADCAST:
		flush_broadcast(c, f);
		break;
	default:
		if (here)
			flush_here(c, c->current, f);
		if (far)
			flush_ideal(c, f);
	}
	if (tdm_cpus_broadcasts(c) && !f->pages)
		holds_nothing(c, f);
}

static void flush_pages(struct tdm_cpus *c, struct tdm_cpus_space *sp, u64 start, u64 end, u32 shift)
{
	struct flush f = { .sp = sp, .start = start, .end = end };

	if (start >= end)
		return;
	/* No CPU has ever run it. */
	if (!f.sp) {
		c->core[c->current].stats.flushes_nobody++;
		return;
	}
	if (end != ~(u64)0)
		f.pages = (TDM_ALIGN_UP(end, (u64)1 << shift) - TDM_ALIGN_DOWN(start, (u64)1 << shift)) >> shift;
	if (f.pages > c->config.ceiling)
		f.pages = 0;
	carry_out(c, &f);
}

static void flush(void *arg, struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	struct tdm_cpus *c = arg;

	flush_pages(c, c->space[s->id], start, end, shift);
}

void tdmi_cpus_guest_flush(struct tdm_cpus *c, struct tdm_cpus_guest *g, u64 start, u64 end)
{
	flush_pages(c, g->has, start, end, TDM_PAGE_SHIFT);
}

static void work(void *arg, u32 what, u64 n)
{
	struct tdm_cpus *c = arg;
	struct tdm_core *k = &c->core[c->current];

	TDM_BUG_ON(what >= TDM_WORK_NR);
	k->stats.work[what] += n;
	tdm_core_pay(k, TDM_CYC_WORK, n * c->config.cost.work[what]);
}

const struct tdm_tlb_ops tdmi_cpus_tlb_ops = { .flush = flush, .elsewhere = elsewhere, .work = work };

void tdmi_cpus_flush_late(struct tdm_cpus *c, u32 cpu, struct tdm_cpus_space *sp)
{
	flush_here(c, cpu, &(struct flush){ .sp = sp });
	c->core[cpu].stats.flushes_late++;
}

/* ---- ASIDs --------------------------------------------------------------------------------------------------------------------- */

static void flush_everything(struct tdm_cpus *c, u32 cpu)
{
	tdmi_tlb_flush_all(&c->core[cpu].tlb);
	tdm_core_pay(&c->core[cpu], TDM_CYC_FLUSH, c->config.cost.tlb_local_all);
}

/* The machine's ASIDs are used up. Spaces that are loaded, lazily too, keep theirs; of the others no TLB may have an entry when their ASIDs are given to
 * somebody else. */
static void next_generation(struct tdm_cpus *c)
{
	c->asids.generation++;
	c->asids.next = 1;
	memset(c->taken, 0, TDM_BITMAP_WORDS((size_t)c->config.asids + 1) * sizeof(u64));
	for (u32 i = 0; i < TDM_SPACES_MAX; i++)
		if (c->space[i])
			memset(c->space[i]->holds, 0, sizeof(c->space[i]->holds));
	for (u32 cpu = 0; cpu < c->config.n; cpu++) {
		struct tdm_core *k = &c->core[cpu];
		struct tdm_cpus_space *sp = k->s ? c->space[k->s->id] : NULL;

		tdmi_tlb_flush_all(&k->tlb);
		if (!sp)
			continue;
		sp->asid.generation = c->asids.generation;
		tdm_bitmap_set(c->taken, sp->asid.asid);
		tdm_bitmap_set(sp->holds, cpu);
	}
	broadcast_pay(c, 1);
}

static void give_shared(struct tdm_cpus *c, u32 cpu, struct tdm_cpus_space *sp)
{
	if (sp->asid.generation == c->asids.generation)
		return;
	for (;;) {
		while (c->asids.next <= c->asids.n && tdm_bitmap_test(c->taken, c->asids.next))
			c->asids.next++;
		if (c->asids.next <= c->asids.n)
			break;
		next_generation(c);
		c->core[cpu].stats.generations++;
	}
	sp->asid = (struct tdm_asid){ c->asids.generation, c->asids.next++ };
}

void tdmi_cpus_give_asid(struct tdm_cpus *c, u32 cpu, struct tdm_cpus_space *sp)
{
	struct tdm_core *k = &c->core[cpu];
	struct tdm_asid *mine = &sp->on[cpu].asid;

	if (tdm_cpus_shares_asids(c)) {
		give_shared(c, cpu, sp);
		return;
	}
	if (k->asids.n && mine->generation == k->asids.generation)
		return;
	if (k->asids.next > k->asids.n) {
		k->asids.generation++;
		k->asids.next = 1;
		k->stats.generations++;
		flush_everything(c, cpu);
	}
	/* Without ASIDs all have the same one. */
	*mine = (struct tdm_asid){ k->asids.generation, k->asids.n ? k->asids.next++ : 0 };
	sp->on[cpu].heard = sp->flushes;
}
