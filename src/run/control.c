/* SPDX-License-Identifier: MIT */
/*
 * control.c - the rules of the shared segment.
 *
 * Synchronisation: pid is what makes a slot somebody's. It is set by compare-and-swap (acquire), and set back to 0 (release) after all
 * other fields have been cleared, so that whoever takes a slot finds it empty. Totals leave a slot one at a time by exchange with 0: a
 * process that dies in the middle of it loses no more than one counter, and nothing is counted twice.
 */
#include "run/control.h"

#define GROWTH_SHIFT 3u /* an eighth */
#define GROWTH_MIN   ((u64)1 << 20)
#define SHARE_ROUNDS 16u

static u32 slots_used(const struct tdm_control *c)
{
	u32 n = tdm_a32_ld_acquire(&c->slots_used);

	return TDM_MIN(n, TDM_CONTROL_SLOTS);
}

static void raise_to(tdm_a32 *a, u32 x)
{
	u32 old = tdm_a32_ld_relaxed(a);

	while (old < x && !tdm_a32_cas_acqrel(a, &old, x))
		;
}

int tdmi_control_check(const struct tdm_control *c, size_t len)
{
	if (len < offsetof(struct tdm_control, budget) || c->magic != TDM_CONTROL_MAGIC)
		return -EINVAL;
	if (c->version != TDM_CONTROL_VERSION || c->size != sizeof(*c))
		return -EPROTO;
	return len < sizeof(*c) || c->ntiers > TDM_CONTROL_TIERS ? -EINVAL : 0;
}

/* Move what the slot counted to `dead`, and clear what it uses. The caller owns the slot, or reap_lock and its owner is dead. */
static void fold(struct tdm_control *c, struct tdm_control_slot *s)
{
	for (u32 i = 0; i < TDM_STAT_NR; i++)
		tdm_a64_add_relaxed(&c->dead[i], tdm_a64_xchg_acqrel(&s->stat[i], 0));
	for (u32 i = 0; i < TDM_CONTROL_TIERS; i++) {
		tdm_a64_add_relaxed(&c->dead_tier_out[i], tdm_a64_xchg_acqrel(&s->tier_out[i], 0));
		tdm_a64_add_relaxed(&c->dead_tier_in[i], tdm_a64_xchg_acqrel(&s->tier_in[i], 0));
		tdm_a64_st_relaxed(&s->tier_now[i], 0);
	}
	for (u32 i = 0; i < TDM_GAUGE_NR; i++)
		tdm_a64_st_relaxed(&s->gauge[i], 0);
	tdm_a32_st_relaxed(&s->managed, 0);
	tdm_a64_st_relaxed(&s->looked_ns, 0);
	tdm_a64_st_relaxed(&s->ahead, 0);
}

static void free_slot(struct tdm_control *c, struct tdm_control_slot *s)
{
	fold(c, s);
	tdm_a64_st_relaxed(&s->start_ticks, 0);
	tdm_a32_st_release(&s->pid, 0);
}

static void name_slot(struct tdm_control_slot *s, u64 start_ticks, const char *comm)
{
	u32 i = 0;

	for (; i < sizeof(s->comm) - 1 && comm[i]; i++)
		s->comm[i] = comm[i];
	for (; i < sizeof(s->comm); i++)
		s->comm[i] = 0;
	tdm_a64_st_relaxed(&s->start_ticks, start_ticks);
}

int tdmi_control_claim(struct tdm_control *c, u32 pid, u64 start_ticks, const char *comm)
{
	u32 used = slots_used(c);

	for (u32 i = 0; i < used; i++) {
		struct tdm_control_slot *s = &c->slot[i];

		if (tdm_a32_ld_acquire(&s->pid) != pid)
			continue;
		fold(c, s); /* from before exec, or of a process long dead whose pid has come round: gone either way */
		name_slot(s, start_ticks, comm);
		return (int)i;
	}
	for (u32 i = 0; i < TDM_CONTROL_SLOTS; i++) {
		struct tdm_control_slot *s = &c->slot[i];
		u32 none = 0;

		if (tdm_a32_ld_relaxed(&s->pid) || !tdm_a32_cas_acqrel(&s->pid, &none, pid))
			continue;
		raise_to(&c->slots_used, i + 1);
		name_slot(s, start_ticks, comm);
		tdm_a64_add_relaxed(&c->procs, 1);
		return (int)i;
	}
	tdm_a64_add_relaxed(&c->unmanaged, 1);
	return -ENOSPC;
}

void tdmi_control_release(struct tdm_control *c, u32 slot)
{
	free_slot(c, &c->slot[slot]);
}

u32 tdmi_control_reap(struct tdm_control *c, u32 self, tdm_control_alive_fn *alive, void *arg)
{
	u32 used = slots_used(c), freed = 0, holder = tdm_a32_ld_relaxed(&c->reap_lock);

	if (holder && (holder == self || alive(arg, holder, 0)))
		return 0;
	if (!tdm_a32_cas_acqrel(&c->reap_lock, &holder, self))
		return 0;
	for (u32 i = 0; i < used; i++) {
		struct tdm_control_slot *s = &c->slot[i];
		u32 pid = tdm_a32_ld_acquire(&s->pid);
		u64 ticks = tdm_a64_ld_relaxed(&s->start_ticks);

		if (!pid || alive(arg, pid, ticks))
			continue;
		/* Its owner may have given it back before it ended, and another have taken it since. */
		if (tdm_a32_ld_acquire(&s->pid) != pid || tdm_a64_ld_relaxed(&s->start_ticks) != ticks)
			continue;
		free_slot(c, s);
		freed++;
	}
	tdm_a32_st_release(&c->reap_lock, 0);
	return freed;
}

u64 tdmi_control_measured(const struct tdm_control_slot *s)
{
	u64 usage = tdm_a64_ld_relaxed(&s->gauge[TDM_GAUGE_USAGE]);

	return usage - TDM_MIN(usage, tdm_a64_ld_relaxed(&s->gauge[TDM_GAUGE_GUESSED]));
}

u64 tdmi_control_usage(struct tdm_control *c)
{
	u32 used = slots_used(c);
	u64 sum = 0, known = 0, old;

	for (u32 i = 0; i < used; i++)
		if (tdm_a32_ld_acquire(&c->slot[i].pid)) {
			sum += tdm_a64_ld_relaxed(&c->slot[i].gauge[TDM_GAUGE_USAGE]);
			known += tdmi_control_measured(&c->slot[i]);
		}
	old = tdm_a64_ld_relaxed(&c->peak);
	while (old < known && !tdm_a64_cas_acqrel(&c->peak, &old, known))
		;
	return sum;
}

static u64 demand(const struct tdm_control_slot *s)
{
	u64 u = tdm_a64_ld_relaxed(&s->gauge[TDM_GAUGE_USAGE]);

	return u + TDM_MAX(u >> GROWTH_SHIFT, GROWTH_MIN);
}

/* What those that ask for at most level ask for together, and how many others there are. */
static void below(const struct tdm_control *c, u64 level, u64 *sum, u32 *others)
{
	u32 used = slots_used(c);

	*sum = 0;
	*others = 0;
	for (u32 i = 0; i < used; i++) {
		u64 d;

		if (!tdm_a32_ld_acquire(&c->slot[i].pid))
			continue;
		d = demand(&c->slot[i]);
		if (d <= level)
			*sum += d;
		else
			++*others;
	}
}

/* For the processes. */
static u64 room_of(const struct tdm_control *c)
{
	return c->budget > TDM_CONTROL_RESERVE ? c->budget - TDM_CONTROL_RESERVE : 0;
}

u64 tdmi_control_share(const struct tdm_control *c, u32 slot)
{
	u64 room = room_of(c);
	u64 mine = demand(&c->slot[slot]), level, sum;
	u32 n, others;

	below(c, 0, &sum, &n);
	if (n < 2)
		return room;
	/* Raise the level from the equal share. It only ever comes from below, so stopping early gives too little, never too much. */
	level = room / n;
	for (u32 i = 0; i < SHARE_ROUNDS; i++) {
		u64 next;

		below(c, level, &sum, &others);
		if (!others)
			return mine + (room > sum ? (room - sum) / n : 0);
		next = room > sum ? (room - sum) / others : 0;
		if (next <= level)
			break;
		level = next;
	}
	return TDM_MIN(mine, level);
}

/* What all use and are about to use, and how many they are. */
static u64 in_use(const struct tdm_control *c, u64 now_ns, u64 room, u32 *n)
{
	u32 used = slots_used(c);
	u64 sum = 0, silent = 0;

	*n = 0;
	for (u32 i = 0; i < used; i++) {
		const struct tdm_control_slot *s = &c->slot[i];
		u64 looked;

		if (!tdm_a32_ld_acquire(&s->pid))
			continue;
		looked = tdm_a64_ld_relaxed(&s->looked_ns);
		sum += tdm_a64_ld_relaxed(&s->gauge[TDM_GAUGE_USAGE]) + tdm_a64_ld_relaxed(&s->ahead);
		silent += looked && looked + TDM_CONTROL_SILENT_NS < now_ns;
		++*n;
	}
	/* Once more, now that an equal part is known. */
	for (u32 i = 0; silent && i < used; i++) {
		const struct tdm_control_slot *s = &c->slot[i];
		u64 looked = tdm_a64_ld_relaxed(&s->looked_ns), usage = tdm_a64_ld_relaxed(&s->gauge[TDM_GAUGE_USAGE]), part = room / *n;

		if (tdm_a32_ld_acquire(&s->pid) && looked && looked + TDM_CONTROL_SILENT_NS < now_ns)
			sum -= TDM_MIN(sum, usage - TDM_MIN(usage, part));
	}
	return sum;
}

u64 tdmi_control_grant(const struct tdm_control *c, u32 slot, u64 now_ns)
{
	u64 share = tdmi_control_share(c, slot), usage = tdm_a64_ld_relaxed(&c->slot[slot].gauge[TDM_GAUGE_USAGE]), sum;
	u32 n;

	sum = in_use(c, now_ns, room_of(c), &n);
	if (n < 2)
		return share;
	usage += (room_of(c) - TDM_MIN(room_of(c), sum)) / n;
	return TDM_MIN(share, TDM_MAX(usage, TDM_CONTROL_LEAST));
}

bool tdmi_control_fits(const struct tdm_control *c, u32 slot, u64 now_ns)
{
	u64 share = tdmi_control_share(c, slot), usage = tdm_a64_ld_relaxed(&c->slot[slot].gauge[TDM_GAUGE_USAGE]);
	u32 n;

	return usage <= share && (usage <= TDM_CONTROL_LEAST || in_use(c, now_ns, room_of(c), &n) <= room_of(c));
}

void tdmi_control_totals(const struct tdm_control *c, struct tdm_control_totals *out)
{
	u32 used = slots_used(c);

	*out = (struct tdm_control_totals){ 0 };
	for (u32 i = 0; i < TDM_STAT_NR; i++)
		out->stat[i] = tdm_a64_ld_relaxed(&c->dead[i]);
	for (u32 i = 0; i < TDM_CONTROL_TIERS; i++) {
		out->tier_out[i] = tdm_a64_ld_relaxed(&c->dead_tier_out[i]);
		out->tier_in[i] = tdm_a64_ld_relaxed(&c->dead_tier_in[i]);
	}
	for (u32 k = 0; k < used; k++) {
		const struct tdm_control_slot *s = &c->slot[k];

		if (!tdm_a32_ld_acquire(&s->pid))
			continue;
		out->live++;
		out->managed += tdm_a32_ld_relaxed(&s->managed) != 0;
		for (u32 i = 0; i < TDM_STAT_NR; i++)
			out->stat[i] += tdm_a64_ld_relaxed(&s->stat[i]);
		for (u32 i = 0; i < TDM_GAUGE_NR; i++)
			out->gauge[i] += i == TDM_GAUGE_USAGE ? tdmi_control_measured(s) : tdm_a64_ld_relaxed(&s->gauge[i]);
		for (u32 i = 0; i < TDM_CONTROL_TIERS; i++) {
			out->tier_out[i] += tdm_a64_ld_relaxed(&s->tier_out[i]);
			out->tier_in[i] += tdm_a64_ld_relaxed(&s->tier_in[i]);
			out->tier_now[i] += tdm_a64_ld_relaxed(&s->tier_now[i]);
		}
	}
}

u64 tdmi_latency_ns(const u64 *latency, u64 num, u64 den)
{
	u64 total = 0, rank, seen = 0;

	for (u32 i = 0; i < 32; i++)
		total += latency[i];
	if (!total)
		return 0;
	rank = (u64)((unsigned __int128)total * num / den);
	rank = TDM_MIN(rank + 1, total); /* the first fault that is not below the fraction */
	for (u32 i = 0; i < 32; i++) {
		u64 lo = i ? (u64)1 << (i + 7) : 0, width = ((u64)1 << (i + 8)) - lo;

		if (rank <= seen + latency[i])
			return lo + (u64)((unsigned __int128)width * (rank - seen) / latency[i]);
		seen += latency[i];
	}
	return (u64)1 << 39;
}

bool tdmi_control_say(struct tdm_control *c, u32 pid, const char *text)
{
	struct tdm_control_msg *m = &c->msg[tdm_a32_add_relaxed(&c->msg_next, 1) % TDM_CONTROL_MSGS];
	u32 state = TDM_MSG_FREE, i = 0;

	if (!tdm_a32_cas_acqrel(&m->ready, &state, TDM_MSG_WRITING))
		return false;
	m->pid = pid;
	for (; i < sizeof(m->text) - 1 && text[i]; i++)
		m->text[i] = text[i];
	m->text[i] = 0;
	tdm_a32_st_release(&m->ready, TDM_MSG_READY);
	return true;
}

bool tdmi_control_hear(struct tdm_control *c, u32 *cursor, u32 *pid, char text[248])
{
	/* A place may be passed over by a writer that found it taken, or hold one that is still being written: look at all of them. */
	for (u32 k = 0; k < TDM_CONTROL_MSGS; k++) {
		struct tdm_control_msg *m = &c->msg[(*cursor + k) % TDM_CONTROL_MSGS];

		if (tdm_a32_ld_acquire(&m->ready) != TDM_MSG_READY)
			continue;
		*pid = m->pid;
		for (u32 i = 0; i < sizeof(m->text); i++)
			text[i] = m->text[i];
		text[sizeof(m->text) - 1] = 0;
		tdm_a32_st_release(&m->ready, TDM_MSG_FREE);
		*cursor += k + 1;
		return true;
	}
	return false;
}
