/* SPDX-License-Identifier: MIT */
/*
 * stage2.c - see stage2.h.
 *
 * Who changes an entry, and how. Always by one atomic operation on it, as several may at a time:
 *   fill        under the lock, for reading or writing, once read_retry has said that no round has begun since the space's entry was read. With the lock for
 *               reading two may fill one entry at a time: both have read what is still true, so they agree on the page, and the entry gets the rights of both.
 *   round       exchange for none, under the lock for writing, after the sequence number has been set. A fill comes before, and its entry is found; or after,
 *               and is dropped.
 *   a vCPU      sets A, and D, by compare-and-swap on what it has judged (port/walk.h), within a section, in which it uses the page. The round waits for the
 *               sections that may have seen an entry which it has taken out; and for those that another round waits for, whose entries it did not find any more.
 *   aging       takes A away, by an and. This cannot make an entry, nor bring one back: of one that is none it leaves none, and of the rest it touches nothing
 *               but A.
 *
 * What lockless aging may get wrong. Between its reading of a table and the and the entry may have become another page's: then that page's A is taken, and
 * said of the page that was asked for. One page looks used that was not, and another unused that was: the one stays in memory for a generation longer; the
 * other is asked again, and found used if it is used again, before it goes, or else comes back by a fault. No byte depends on A. The other two modes cannot
 * have this between the two, and pay for it with everybody's waiting.
 *
 * TLBs of vCPUs. What is taken out of the table is forgotten by them before the round goes on, so before the page can be anybody else's; who walks afterwards
 * finds what the table says now. Entries never lose rights otherwise. Of one that has gained some a TLB may have the old state: then it asks, and walks. A
 * that was taken away without a flush is the one thing that a TLB keeps: see mm/vmscan.h for what that means. All of it is one thread's, so a walk and its
 * insertion into a TLB have no round between.
 *
 * Tables are never freed as long as anybody could be asked, so nobody needs a section for reading them. They are made before the lock is taken: hooks take it
 * with tables of the space locked, so tables' locks cannot be taken within. For the same reason the count of used entries in a table, which its own lock
 * guards, is not kept.
 *
 * The lock is a leaf: who holds it takes nothing, and waits for nobody but readers, who do not wait. So rounds that are not to sleep may take it, as hooks
 * may. Sections are as short: a vCPU copies bytes of pages that are there. Nothing is waited for, so that a round may wait for them from anywhere.
 */
#include "port/stage2.h"
#include <string.h>
#include "base/lockrank.h"
#include "port/walk.h"

#define TRIES_MAX 10000u
#define TABLE_SPAN TDM_HUGE_SIZE

static void count(struct tdm_stage2 *st, enum tdm_stage2_count c, u64 n)
{
	tdm_a64_add_relaxed(&st->count[c], n);
}

/* ---- the lock, and its time */

static void lock(struct tdm_stage2 *st, bool write)
{
	struct tdm_stage2_lock *l = &st->lock;
	u32 n;

	plat_mutex_lock(&l->turn);
	if (write) {
		while ((n = tdm_a32_ld_acquire(&l->readers)))
			(void)plat_wait(&l->readers, n, ~(u64)0);
	} else {
		tdm_a32_add_acqrel(&l->readers, 1);
		plat_mutex_unlock(&l->turn);
	}
	count(st, write ? TDM_S2_LOCK_WRITE : TDM_S2_LOCK_READ, 1);
}

static void unlock(struct tdm_stage2 *st, bool write)
{
	struct tdm_stage2_lock *l = &st->lock;

	if (write)
		plat_mutex_unlock(&l->turn);
	else if (tdm_a32_sub_acqrel(&l->readers, 1) == 1)
		plat_wake(&l->readers, 1);
}

/* Who came at `now` has held the lock for `held` cycles: when was he done, and how long did he wait? */
static u64 lock_time(struct tdm_stage2 *st, u64 now, bool write, u64 held, u64 *waited)
{
	u64 done;

	plat_mutex_lock(&st->time);
	done = tdmi_lock_time(&st->held, now, write ? st->config.costs.lock_write : st->config.costs.lock_read, write, held, waited);
	plat_mutex_unlock(&st->time);
	return done;
}

/* What somebody has done to the table. */
struct work {
	u64 reads;   /* of upper levels */
	u64 entries;
};

static u64 work_time(const struct tdm_stage2 *st, struct work w)
{
	return w.reads * st->config.costs.walk + w.entries * st->config.costs.entry;
}

static u64 mm_spent(struct tdm_stage2 *st, u64 cycles)
{
	if (st->config.machine)
		st->config.machine->pay(st->config.machine_arg, cycles);
	else
		tdm_a64_add_relaxed(&st->mm_clock, cycles);
	return cycles;
}

/* The engine has done this, with the lock. How long it took. */
static u64 mm_locked(struct tdm_stage2 *st, bool write, struct work w)
{
	u64 now = st->config.machine ? st->config.machine->now(st->config.machine_arg) : tdm_a64_ld_relaxed(&st->mm_clock), waited, took;

	took = lock_time(st, now, write, work_time(st, w), &waited) - now;
	count(st, TDM_S2_MM_WAITED, waited);
	return mm_spent(st, took);
}

static void mm_flush(struct tdm_stage2 *st, u64 g, u64 end)
{
	count(st, TDM_S2_FLUSHES, 1);
	if (st->config.machine)
		st->config.machine->flush(st->config.machine_arg, g, end);
	else
		(void)mm_spent(st, st->config.costs.flush);
}

static u64 vcpu_now(const struct tdm_vcpu *v)
{
	const struct tdm_stage2_config *c = &v->st->config;

	return c->machine ? c->machine->now(c->machine_arg) : v->clock;
}

static void vcpu_spent(struct tdm_vcpu *v, u64 cycles)
{
	const struct tdm_stage2_config *c = &v->st->config;

	if (c->machine)
		c->machine->pay(c->machine_arg, cycles);
	else
		v->clock += cycles;
}

/* ---- the table */

/* The entries of the 2 MiB that g is in. NULL: no table. */
static tdm_a64 *table_of(struct tdm_stage2 *st, u64 g, struct work *w)
{
	struct tdm_pt *pt = st->pgt.root;

	while (pt && pt->level) {
		pt = tdm_pte_table(tdm_pt_get(pt, tdm_pt_index(pt, g)));
		w->reads++;
	}
	return pt ? pt->e : NULL;
}

static u32 index_of(u64 g)
{
	return (u32)(g >> TDM_PAGE_SHIFT) & (TDM_PT_ENTRIES - 1);
}

/* For each piece of [g, end) that one table has: its entries [*first, *first + n), and *g moves behind them. 0: no more. */
static u32 next_piece(struct tdm_stage2 *st, u64 *g, u64 end, tdm_a64 **e, struct work *w)
{
	while (*g < end) {
		u64 from = *g, to = TDM_MIN(end, TDM_ALIGN_DOWN(from, TABLE_SPAN) + TABLE_SPAN);
		tdm_a64 *table = table_of(st, from, w);

		if (table) {
			*g = to;
			*e = &table[index_of(from)];
			return (u32)((to - from) >> TDM_PAGE_SHIFT);
		}
		*g = tdmi_pt_next(&st->pgt, to, end);
	}
	return 0;
}

/* The part of [start, end) of the space that is the guest's, by guest address. false: none. */
static bool guest_range(const struct tdm_stage2 *st, u64 start, u64 end, u64 *g, u64 *gend)
{
	start = TDM_MAX(start, st->start);
	end = TDM_MIN(end, st->start + st->size);
	*g = TDM_ALIGN_DOWN(start, TDM_PAGE_SIZE) - st->start;
	*gend = TDM_ALIGN_UP(end, TDM_PAGE_SIZE) - st->start;
	return start < end;
}

struct tdm_pte tdmi_stage2_entry(struct tdm_stage2 *st, u64 g)
{
	struct work w = { 0 };
	tdm_a64 *e = table_of(st, g, &w);

	return (struct tdm_pte){ e ? tdm_a64_ld_acquire(&e[index_of(g)]) : 0 };
}

/* ---- rounds */

/* The lock is held for writing. How many there were. */
static u64 take_out(struct tdm_stage2 *st, u64 g, u64 end, struct work *w)
{
	u64 taken = 0;
	tdm_a64 *e;
	u32 n;

	while ((n = next_piece(st, &g, end, &e, w)))
		for (u32 i = 0; i < n; i++, w->entries++)
			taken += tdm_a64_ld_relaxed(&e[i]) && tdm_a64_xchg_acqrel(&e[i], 0);
	return taken;
}

/* Nobody uses what has been taken out of [g, end), by this or by others, when it returns. seq: the round's, or NULL: the space is gone. */
static void forget(struct tdm_stage2 *st, u64 g, u64 end, const u64 *seq)
{
	struct work w = { 0 };
	bool others;
	u64 n;

	lock(st, true);
	if (seq)
		tdm_interval_set_seq(&st->in, *seq);
	else
		st->gone = true;
	n = take_out(st, g, end, &w);
	others = st->leaving;
	st->leaving += n != 0;
	unlock(st, true);
	(void)mm_locked(st, true, w);
	count(st, TDM_S2_CLEARED, n);
	if (n)
		mm_flush(st, g, end);
	if (n || others)
		tdmi_rcu_synchronize(&st->rcu);
	if (n) {
		/* Not what a machine would do: it costs nothing there, and is not counted. */
		plat_mutex_lock(&st->lock.turn);
		st->leaving--;
		plat_mutex_unlock(&st->lock.turn);
	}
}

static bool invalidate(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	struct tdm_stage2 *st = tdm_container_of(in, struct tdm_stage2, in);
	u64 g, end;

	if (!guest_range(st, range->start, range->end, &g, &end))
		return true;
	count(st, TDM_S2_ROUNDS, 1);
	forget(st, g, end, &cur_seq);
	return true;
}

static const struct tdm_interval_notifier_ops interval_ops = { .invalidate = invalidate };

/* ---- aging */

/* Was any of [g, end) used? clear: from now on it was not. */
static bool harvest(struct tdm_stage2 *st, u64 g, u64 end, bool clear, struct work *w)
{
	bool used = false;
	tdm_a64 *e;
	u32 n;

	while ((n = next_piece(st, &g, end, &e, w)))
		for (u32 i = 0; i < n; i++, w->entries++) {
			u64 was = tdm_a64_ld_relaxed(&e[i]);

			if (!(was & TDM_PTE_ACCESSED))
				continue;
			plat_window();
			if (clear)
				was = tdm_a64_and_acqrel(&e[i], ~TDM_PTE_ACCESSED);
			used |= (was & TDM_PTE_ACCESSED) != 0;
		}
	return used;
}

/* The page at g was found used. */
static void look_around(struct tdm_stage2 *st, u64 g, struct work *w)
{
	u64 first = TDM_ALIGN_DOWN(g, TDM_STAGE2_AROUND * TDM_PAGE_SIZE), used = 0;
	u32 n = (u32)TDM_MIN((st->size - first) >> TDM_PAGE_SHIFT, TDM_STAGE2_AROUND), self = (u32)((g - first) >> TDM_PAGE_SHIFT);
	struct work again = { 0 };
	tdm_a64 *e = table_of(st, first, &again);

	for (u32 k = 0; e && k < n; k++)
		if (k != self && (tdm_a64_ld_relaxed(&e[index_of(first) + k]) & TDM_PTE_ACCESSED) &&
		    (tdm_a64_and_acqrel(&e[index_of(first) + k], ~TDM_PTE_ACCESSED) & TDM_PTE_ACCESSED))
			used |= (u64)1 << k;
	w->entries += n - 1;
	count(st, TDM_S2_AROUND, n - 1);
	count(st, TDM_S2_AROUND_USED, (u64)__builtin_popcountll(used));
	if (used)
		st->config.around(st->config.arg, st->start + first, used);
}

static bool young(struct tdm_notifier *nt, u64 start, u64 end, bool clear)
{
	struct tdm_stage2 *st = tdm_container_of(nt, struct tdm_stage2, young);
	bool locked = st->config.aging != TDM_AGING_LOCKLESS, write = st->config.aging == TDM_AGING_WRITE, used;
	struct work w = { 0 };
	u64 g, gend;

	if (!guest_range(st, start, end, &g, &gend))
		return false;
	if (locked)
		lock(st, write);
	used = harvest(st, g, gend, clear, &w);
	if (locked)
		unlock(st, write);
	if (used && clear && st->config.around)
		look_around(st, g, &w);
	count(st, TDM_S2_AGING, locked ? mm_locked(st, write, w) : mm_spent(st, work_time(st, w)));
	count(st, TDM_S2_ASKED, 1);
	count(st, TDM_S2_YOUNG, used);
	return used;
}

static bool clear_young(struct tdm_notifier *nt, u64 start, u64 end)
{
	return young(nt, start, end, true);
}

static bool clear_flush_young(struct tdm_notifier *nt, u64 start, u64 end)
{
	struct tdm_stage2 *st = tdm_container_of(nt, struct tdm_stage2, young);
	bool used = young(nt, start, end, true);
	u64 g, gend;

	if (used && !st->config.elide_flush && guest_range(st, start, end, &g, &gend))
		mm_flush(st, g, gend);
	return used;
}

static bool test_young(struct tdm_notifier *nt, u64 start, u64 end)
{
	return young(nt, start, end, false);
}

static void release(struct tdm_notifier *nt)
{
	struct tdm_stage2 *st = tdm_container_of(nt, struct tdm_stage2, young);

	forget(st, 0, st->size, NULL);
}

static const struct tdm_notifier_ops young_ops = {
	.clear_young = clear_young,
	.clear_flush_young = clear_flush_young,
	.test_young = test_young,
	.release = release,
};

/* ---- filling */

/* What the table would say of g, by the space's entry; none: that allows too little. A page is only mapped for writing if it is known to be written: nobody
 * would say so later. */
static struct tdm_pte look_up(struct tdm_vcpu *v, u64 g, bool write)
{
	struct tdm_space *s = v->st->s;
	u64 va = v->st->start + g, flags;
	struct tdm_pte pte;
	struct tdm_pt *pt;
	u64 pfn;
	u32 i;

	tdmi_rcu_read_lock(v->reader);
	pt = tdmi_pt_walk(&s->pgt, va, &i, &pte);
	pfn = tdm_pte_pfn(pte).v + ((va & (((u64)1 << tdm_pt_shift(pt->level)) - 1)) >> TDM_PAGE_SHIFT);
	tdmi_rcu_read_unlock(v->reader);
	flags = (pte.v & TDM_PTE_WRITE) && (pte.v & TDM_PTE_DIRTY) ? TDM_PTE_WRITE : 0;
	if (!tdm_pte_present(pte) || (write && !flags))
		return (struct tdm_pte){ 0 };
	return tdm_pte_mk((struct tdm_pfn){ pfn }, flags | TDM_PTE_ACCESSED);
}

/* The lock is held, and no round has come between. */
static void install(struct tdm_stage2 *st, tdm_a64 *e, struct tdm_pte pte)
{
	u64 was = tdm_a64_ld_relaxed(e);

	do {
		TDM_BUG_ON(was && tdm_pte_pfn((struct tdm_pte){ was }).v != tdm_pte_pfn(pte).v);
	} while (!tdm_a64_cas_acqrel(e, &was, was | pte.v));
	count(st, TDM_S2_FILLS, 1);
}

/* Put what was read since read_begin said seq into the table. false: not any more. *gone: there is nothing to come. */
static bool put(struct tdm_vcpu *v, u64 g, struct tdm_pte pte, u64 seq, bool *gone)
{
	struct tdm_stage2 *st = v->st;
	bool write = !st->config.fill_read, good;
	struct work w = { .entries = 1 };
	u64 now, waited;

	plat_window();
	lock(st, write);
	*gone = st->gone;
	good = !*gone && !tdm_interval_read_retry(&st->in, seq);
	plat_window();
	if (good)
		install(st, &table_of(st, g, &w)[index_of(g)], pte);
	unlock(st, write);
	now = vcpu_now(v);
	vcpu_spent(v, lock_time(st, now, write, work_time(st, w), &waited) - now);
	v->waited += waited;
	count(st, TDM_S2_VCPU_WAITED, waited);
	count(st, TDM_S2_RETRIES, !good && !*gone);
	return good;
}

static int table_make(struct tdm_stage2 *st, u64 g, struct tdm_rcu_reader *section)
{
	struct tdm_pt *pt;
	int r;

	tdmi_rcu_read_lock(section);
	r = tdmi_pt_lock(&st->pgt, g, true, &pt);
	if (!r)
		tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(section);
	return r;
}

int tdmi_vcpu_miss(struct tdm_vcpu *v, u64 g, bool write)
{
	struct tdm_stage2 *st = v->st;
	int r = g < st->size ? table_make(st, g, v->section) : -EFAULT;

	g &= TDM_PAGE_MASK;
	count(st, TDM_S2_MISSES, 1);
	for (u32 tries = 0; !r; tries++) {
		u64 seq = tdm_interval_read_begin(&st->in);
		struct tdm_pte pte = look_up(v, g, write);
		bool gone = false;

		if (tries == TRIES_MAX)
			r = -EBUSY;
		else if (!tdm_pte_present(pte))
			r = tdmi_space_fault(st->s, v->reader, st->start + g, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
		else if (put(v, g, pte, seq, &gone))
			break;
		else if (gone)
			r = -ESRCH;
	}
	/* Only now: it comes to the lock when its clock says, as everybody does. */
	vcpu_spent(v, st->config.costs.exit);
	return r;
}

/* ---- the guest's accesses */

static void move(u8 *mem, void *buf, size_t len, bool write)
{
	tdm_a64 *word = (tdm_a64 *)(void *)mem;
	u64 x;

	if (len == sizeof(x) && (uintptr_t)mem % sizeof(x) == 0) {
		if (write) {
			memcpy(&x, buf, sizeof(x));
			tdm_a64_st_relaxed(word, x);
		} else {
			x = tdm_a64_ld_relaxed(word);
			memcpy(buf, &x, sizeof(x));
		}
		return;
	}
	memcpy(write ? (void *)mem : buf, write ? buf : (void *)mem, len);
}

/* Within one page. false: the table does not allow it. */
static bool access_mapped(struct tdm_vcpu *v, u64 g, void *buf, size_t len, bool write)
{
	struct tdm_stage2 *st = v->st;
	struct tdm_walk walk;
	bool ok;

	tdmi_rcu_read_lock(v->section);
	ok = tdmi_walk(&st->pgt, g, write, TDM_WALK_HW_A | TDM_WALK_HW_D, TDM_PAGE_SIZE, &walk) == TDM_WALK_OK;
	plat_window();
	if (ok)
		move(tdm_pfn_bytes(&st->s->w->phys, tdm_pte_pfn(walk.pte)) + g % TDM_PAGE_SIZE, buf, len, write);
	tdmi_rcu_read_unlock(v->section);
	return ok;
}

int tdmi_vcpu_access(struct tdm_vcpu *v, u64 g, void *buf, size_t len, bool write)
{
	u64 size = v->st->size;

	if (g > size || len > size - g)
		return -EFAULT;
	for (size_t done = 0; done < len;) {
		size_t part = TDM_MIN(len - done, TDM_PAGE_SIZE - (size_t)((g + done) % TDM_PAGE_SIZE));
		u32 tries = 0;

		while (!access_mapped(v, g + done, (u8 *)buf + done, part, write)) {
			int r = tries++ < TRIES_MAX ? tdmi_vcpu_miss(v, g + done, write) : -EBUSY;

			if (r)
				return r;
		}
		done += part;
	}
	return 0;
}

/* ---- beginning and end */

static bool valid(u64 start, u64 size, const struct tdm_stage2_config *c)
{
	return size && start % TDM_PAGE_SIZE == 0 && size % TDM_PAGE_SIZE == 0 && start >= TDM_VA_START && size <= TDM_VA_END && start <= TDM_VA_END - size &&
	       c->aging <= TDM_AGING_WRITE && !(c->around && c->aging != TDM_AGING_LOCKLESS);
}

int tdmi_stage2_init(struct tdm_stage2 *st, struct tdm_space *s, u64 start, u64 size, const struct tdm_stage2_config *config)
{
	int r;

	if (!valid(start, size, config))
		return -EINVAL;
	memset(st, 0, sizeof(*st));
	st->s = s;
	st->start = start;
	st->size = size;
	st->config = *config;
	tdmi_alloc_init(&st->alloc);
	tdmi_rcu_init(&st->rcu);
	plat_mutex_init(&st->lock.turn, TDM_RANK_CTX);
	plat_mutex_init(&st->time, TDM_RANK_CTX);
	st->pgt = (struct tdm_pgt){ .alloc = &st->alloc, .rcu = &st->rcu };
	st->young = (struct tdm_notifier){ .name = "stage-2", .ops = &young_ops };
	st->in = (struct tdm_interval_notifier){ .name = "stage-2", .ops = &interval_ops };
	r = tdmi_pt_init(&st->pgt);
	if (!r)
		r = tdmi_interval_notifier_insert(&s->notifiers, &st->in, start, start + size);
	if (!r) {
		r = tdmi_notifier_register(&s->notifiers, &st->young);
		if (r)
			tdmi_interval_notifier_remove(&st->in);
	}
	if (r) {
		tdmi_pt_destroy(&st->pgt);
		tdmi_alloc_destroy(&st->alloc);
	}
	return r;
}

void tdmi_stage2_destroy(struct tdm_stage2 *st)
{
	tdmi_notifier_unregister(&st->s->notifiers, &st->young);
	tdmi_interval_notifier_remove(&st->in);
	tdmi_rcu_drain(&st->rcu);
	tdmi_pt_destroy(&st->pgt);
	TDM_BUG_ON(tdmi_alloc_used(&st->alloc));
	tdmi_alloc_destroy(&st->alloc);
}
