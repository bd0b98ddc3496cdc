// SPDX-License-Identifier: MIT
/*
 * test_notifier_races.c - MMU notifiers: readers against rounds, and subscribers that come and go.
 *
 * TDM_SEED=n for other runs, TDM_SECONDS=n for longer ones, TDM_SHOW=1 to see what was done.
 */
#include <stdlib.h>
#include <string.h>
#include "base/lockrank.h"
#include "notifier_world.h"

/* ---- stress: what a reader puts into its table is what is in the address space's ------------------------------------------------------- */

#define PAGES 24u
#define DEVICES 3u
#define WRITERS 2u

/* The page table. An entry is changed with its lock held, between start and end. */
static tdm_a64 table[PAGES];
static struct plat_mutex page_lock[PAGES];

/* A device with a table of its own for [first, first + n), which its reader fills. */
struct mirror {
	struct tdm_interval_notifier in;
	struct plat_mutex lock;
	u32 first, n;
	u64 own[PAGES];  /* by page of the address space; the lock */
	u64 installed, collided, hinted;
};

static struct mirror mirror[DEVICES];
static tdm_a32 stop;
static tdm_a64 value, refused, rounds_done;

static void dawdle(u64 *r)
{
	if (t_rand(r) % 4 == 0)
		plat_yield();
	else if (t_rand(r) % 64 == 0)
		pause_ms(0);
}

static bool mirror_invalidate(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	struct mirror *m = tdm_container_of(in, struct mirror, in);

	if (range->blockable)
		plat_mutex_lock(&m->lock);
	else if (!plat_mutex_trylock(&m->lock))
		return false;
	tdm_interval_set_seq(in, cur_seq);
	for (u64 i = range->start / PAGE; i < range->end / PAGE && i < PAGES; i++)
		m->own[i] = 0;
	plat_mutex_unlock(&m->lock);
	return true;
}

static const struct tdm_interval_notifier_ops mirror_ops = { .invalidate = mirror_invalidate };

static void mirror_reads(void *arg)
{
	struct mirror *m = arg;
	u64 r = seed * 100 + m->first, seen[PAGES], seq;

	while (!tdm_a32_ld_acquire(&stop)) {
		u32 from = m->first + (u32)(t_rand(&r) % m->n), to = from + 1 + (u32)(t_rand(&r) % (m->first + m->n - from));

		seq = tdm_interval_read_begin(&m->in);
		for (u32 i = from; i < to; i++) {
			seen[i] = tdm_a64_ld_acquire(&table[i]);
			dawdle(&r);
		}
		m->hinted += tdm_interval_check_retry(&m->in, seq);
		plat_mutex_lock(&m->lock);
		if (tdm_interval_read_retry(&m->in, seq)) {
			m->collided++;
		} else {
			/* Nobody can change an entry before invalidate, which needs the lock, has told this device. */
			for (u32 i = from; i < to; i++) {
				CHECK_EQ(seen[i], tdm_a64_ld_acquire(&table[i]));
				m->own[i] = seen[i];
			}
			m->installed++;
		}
		plat_mutex_unlock(&m->lock);
	}
}

static void check_mirrors(u32 from, u32 to, bool in_round)
{
	for (u32 d = 0; d < DEVICES; d++) {
		struct mirror *m = &mirror[d];

		plat_mutex_lock(&m->lock);
		for (u32 i = from; i < to; i++) {
			u64 own = m->own[i];

			if (own && in_round)
				t_fail(__FILE__, __LINE__, "device %u has page %u within a round", d, i);
			if (own)
				CHECK_EQ(own, tdm_a64_ld_acquire(&table[i]));
		}
		plat_mutex_unlock(&m->lock);
	}
}

static void change(u64 *r, u32 from, u32 to)
{
	struct tdm_inv_range a = TDM_INV_RANGE(from * PAGE, to * PAGE, TDM_INV_CLEAR);

	for (u32 i = from; i < to; i++)
		plat_mutex_lock(&page_lock[i]);
	a.blockable = t_rand(r) % 4 != 0;
	if (tdmi_invalidate_start(&nots, &a)) {
		CHECK(!a.blockable);
		tdm_a64_add_relaxed(&refused, 1);
	} else {
		dawdle(r);
		check_mirrors(from, to, true);
		for (u32 i = from; i < to; i++) {
			tdm_a64_st_release(&table[i], tdm_a64_add_relaxed(&value, 1) + 1);
			dawdle(r);
		}
		/* Another round within this one, of the pages behind these. */
		if (to + 2 < PAGES && t_rand(r) % 4 == 0)
			change(r, to + 1, to + 2);
		check_mirrors(from, to, true);
		tdmi_invalidate_end(&nots, &a);
		tdm_a64_add_relaxed(&rounds_done, 1);
	}
	check_mirrors(from, to, false);
	for (u32 i = to; i-- > from;)
		plat_mutex_unlock(&page_lock[i]);
}

static void writes(void *arg)
{
	u64 r = seed * 1000 + (uintptr_t)arg;

	while (!tdm_a32_ld_acquire(&stop)) {
		u32 from = (u32)(t_rand(&r) % PAGES), n = 1 + (u32)(t_rand(&r) % 3);

		change(&r, from, TDM_MIN(PAGES, from + n));
		if (t_rand(&r) % 4 == 0)
			pause_ms(1);
	}
}

static u64 run_ms(u64 ms)
{
	const char *asked = getenv("TDM_SECONDS");

	return asked ? strtoull(asked, NULL, 0) * 1000 : ms;
}

TEST(stress_readers_see_nothing_stale, .seconds = 120)
{
	struct plat_thread *t[DEVICES + WRITERS];

	setup();
	for (u32 i = 0; i < PAGES; i++)
		tdm_a64_st_relaxed(&table[i], tdm_a64_add_relaxed(&value, 1) + 1);
	for (u32 d = 0; d < DEVICES; d++) {
		mirror[d].first = d * 6;
		mirror[d].n = 12;
		mirror[d].in.name = "mirror";
		mirror[d].in.ops = &mirror_ops;
		CHECK_EQ(tdmi_interval_notifier_insert(&nots, &mirror[d].in, mirror[d].first * PAGE, (mirror[d].first + 12) * PAGE), 0);
		CHECK_EQ(plat_thread_start(&t[d], mirror_reads, &mirror[d], "reader"), 0);
	}
	for (uintptr_t i = 0; i < WRITERS; i++)
		CHECK_EQ(plat_thread_start(&t[DEVICES + i], writes, (void *)i, "writer"), 0);
	pause_ms(run_ms(3000));
	tdm_a32_st_release(&stop, 1);
	for (u32 i = 0; i < DEVICES + WRITERS; i++)
		plat_thread_join(t[i]);
	for (u32 d = 0; d < DEVICES; d++) {
		printf("# device %u: %llu installed, %llu collided, of which the hint knew %llu\n", d, (unsigned long long)mirror[d].installed,
		       (unsigned long long)mirror[d].collided, (unsigned long long)mirror[d].hinted);
		CHECK(mirror[d].installed && mirror[d].collided);
		CHECK(mirror[d].hinted <= mirror[d].collided);
		tdmi_interval_notifier_remove(&mirror[d].in);
	}
	printf("# %llu rounds, %llu would have slept\n", (unsigned long long)tdm_a64_ld_relaxed(&rounds_done),
	       (unsigned long long)tdm_a64_ld_relaxed(&refused));
	CHECK(!getenv("TDM_SHOW")); /* what a test prints is shown when it fails */
	teardown();
}

/* ---- stress: subscribers come and go ---------------------------------------------------------------------------------------------------- */

/* Freed memory is filled with this first, so that a late call shows in every build; sanitizers see it anyway. */
#define GONE 0xee
#define ALIVE 0x600d600du

struct guest {
	struct tdm_notifier n;
	struct tdm_interval_notifier in;
	u32 alive;
	tdm_a32 starts, ends, inside, calls, releases;
	u64 own; /* the lock: what it has of the word below */
	u32 running, ended; /* the lock: rounds, of a notifier of the whole address space */
	struct plat_mutex lock;
};

static tdm_a64 word; /* changed within rounds over page 0 */
static struct plat_mutex word_lock;
static tdm_a64 came, heard;

static int guest_start(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	struct guest *g = tdm_container_of(n, struct guest, n);
	u64 r = range->start + plat_now_ns();

	CHECK_EQ(g->alive, ALIVE);
	tdm_a32_add_relaxed(&g->inside, 1);
	if (!range->blockable && t_rand(&r) % 8 == 0) {
		tdm_a32_sub_relaxed(&g->inside, 1);
		return -EAGAIN;
	}
	tdm_a32_add_relaxed(&g->starts, 1);
	plat_mutex_lock(&g->lock);
	g->running++;
	g->own = 0;
	plat_mutex_unlock(&g->lock);
	dawdle(&r);
	tdm_a64_add_relaxed(&heard, 1);
	CHECK_EQ(g->alive, ALIVE);
	tdm_a32_sub_relaxed(&g->inside, 1);
	return 0;
}

static void guest_end(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	struct guest *g = tdm_container_of(n, struct guest, n);
	u32 ends;

	(void)range;
	CHECK_EQ(g->alive, ALIVE);
	tdm_a32_add_relaxed(&g->inside, 1);
	/* start happened before, so it is seen. */
	ends = tdm_a32_add_acqrel(&g->ends, 1) + 1;
	CHECK(ends <= tdm_a32_ld_acquire(&g->starts));
	plat_mutex_lock(&g->lock);
	g->running--;
	g->ended++;
	plat_mutex_unlock(&g->lock);
	tdm_a32_sub_relaxed(&g->inside, 1);
}

static void guest_invalidate(struct tdm_notifier *n, u64 start, u64 end)
{
	CHECK_EQ(tdm_container_of(n, struct guest, n)->alive, ALIVE);
	(void)start;
	(void)end;
}

static bool guest_young(struct tdm_notifier *n, u64 start, u64 end)
{
	(void)start;
	(void)end;
	return tdm_container_of(n, struct guest, n)->alive != ALIVE;
}

static void guest_release(struct tdm_notifier *n)
{
	struct guest *g = tdm_container_of(n, struct guest, n);

	CHECK_EQ(g->alive, ALIVE);
	CHECK_EQ(tdm_a32_ld_acquire(&g->inside), 0);
	tdm_a32_add_relaxed(&g->releases, 1);
}

static const struct tdm_notifier_ops guest_ops = {
	.invalidate_start = guest_start,
	.invalidate_end = guest_end,
	.invalidate = guest_invalidate,
	.clear_young = guest_young,
	.release = guest_release,
};

static bool guest_interval(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	struct guest *g = tdm_container_of(in, struct guest, in);
	u64 r = cur_seq + plat_now_ns();

	(void)range;
	CHECK_EQ(g->alive, ALIVE);
	plat_mutex_lock(&g->lock);
	tdm_interval_set_seq(in, cur_seq);
	g->own = 0;
	tdm_a32_add_relaxed(&g->calls, 1);
	plat_mutex_unlock(&g->lock);
	dawdle(&r);
	tdm_a64_add_relaxed(&heard, 1);
	CHECK_EQ(g->alive, ALIVE);
	return true;
}

static const struct tdm_interval_notifier_ops guest_interval_ops = { .invalidate = guest_interval };

static void guest_reads(struct guest *g, u64 *r)
{
	u64 seq = tdm_interval_read_begin(&g->in), w = tdm_a64_ld_acquire(&word);

	dawdle(r);
	plat_mutex_lock(&g->lock);
	if (!tdm_interval_read_retry(&g->in, seq)) {
		CHECK_EQ(w, tdm_a64_ld_acquire(&word));
		g->own = w;
	}
	plat_mutex_unlock(&g->lock);
}

/* The same of who counts the rounds itself, as KVM does. */
static void guest_reads_whole(struct guest *g, u64 *r)
{
	u32 ended;
	u64 w;

	plat_mutex_lock(&g->lock);
	ended = g->ended;
	plat_mutex_unlock(&g->lock);
	w = tdm_a64_ld_acquire(&word);
	dawdle(r);
	plat_mutex_lock(&g->lock);
	if (!g->running && g->ended == ended) {
		CHECK_EQ(w, tdm_a64_ld_acquire(&word));
		g->own = w;
	}
	plat_mutex_unlock(&g->lock);
}

static void guests(void *arg)
{
	u64 r = seed * 77 + (uintptr_t)arg;

	while (!tdm_a32_ld_acquire(&stop)) {
		struct guest *g = calloc(1, sizeof(*g));
		bool whole = t_rand(&r) % 2;

		CHECK(g != NULL);
		g->alive = ALIVE;
		g->n.name = g->in.name = "guest";
		g->n.ops = &guest_ops;
		g->in.ops = &guest_interval_ops;
		if (whole)
			CHECK_EQ(tdmi_notifier_register(&nots, &g->n), 0);
		else
			CHECK_EQ(tdmi_interval_notifier_insert(&nots, &g->in, 0, (1 + t_rand(&r) % 9) * PAGE), 0);
		for (u64 i = t_rand(&r) % 8; i--;) {
			dawdle(&r);
			(whole ? guest_reads_whole : guest_reads)(g, &r);
		}
		if (whole)
			tdmi_notifier_unregister(&nots, &g->n);
		else
			tdmi_interval_notifier_remove(&g->in);
		CHECK_EQ(tdm_a32_ld_relaxed(&g->inside), 0);
		CHECK_EQ(tdm_a32_ld_relaxed(&g->releases), whole);
		memset(g, GONE, sizeof(*g));
		free(g);
		tdm_a64_add_relaxed(&came, 1);
		tdmi_rcu_poll(&rcu);
	}
}

static void rounds(void *arg)
{
	u64 r = seed * 7 + (uintptr_t)arg;
	char name[8];

	while (!tdm_a32_ld_acquire(&stop)) {
		struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);
		bool change_it = t_rand(&r) % 2;

		if (!change_it) {
			a.start = (1 + t_rand(&r) % 12) * PAGE;
			a.end = a.start + PAGE;
		}
		a.blockable = t_rand(&r) % 4 != 0;
		if (tdmi_invalidate_start(&nots, &a) == 0) {
			dawdle(&r);
			if (change_it) {
				plat_mutex_lock(&word_lock);
				tdm_a64_add_acqrel(&word, 1);
				tdmi_invalidate(&nots, a.start, a.end);
				CHECK(!tdmi_notifiers_clear_young(&nots, a.start, a.end));
				plat_mutex_unlock(&word_lock);
			}
			dawdle(&r);
			tdmi_invalidate_end(&nots, &a);
			tdm_a64_add_relaxed(&rounds_done, 1);
		}
		if (t_rand(&r) % 16 == 0)
			CHECK(!tdmi_notifiers_stuck(&nots, (u64)60 * 1000000000, name, sizeof(name)));
		if (t_rand(&r) % 4 == 0)
			pause_ms(1);
	}
}

TEST(stress_subscribers_come_and_go, .seconds = 120)
{
	struct plat_thread *t[5];

	setup();
	plat_mutex_init(&word_lock, TDM_RANK_PT0);
	tdmi_notifiers_arm(&nots);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK_EQ(plat_thread_start(&t[i], guests, (void *)i, "guests"), 0);
	for (uintptr_t i = 3; i < 5; i++)
		CHECK_EQ(plat_thread_start(&t[i], rounds, (void *)i, "rounds"), 0);
	pause_ms(run_ms(3000));
	tdm_a32_st_release(&stop, 1);
	for (u32 i = 0; i < 5; i++)
		plat_thread_join(t[i]);
	printf("# %llu came and went, %llu rounds, %llu calls\n", (unsigned long long)tdm_a64_ld_relaxed(&came),
	       (unsigned long long)tdm_a64_ld_relaxed(&rounds_done), (unsigned long long)tdm_a64_ld_relaxed(&heard));
	CHECK(tdm_a64_ld_relaxed(&came) > 100 && tdm_a64_ld_relaxed(&heard) > 100);
	CHECK_EQ(nots.rounds[0] + nots.rounds[1], 0);
	CHECK_EQ(nots.seq & 1, 0);
	CHECK(tdm_list_empty(&nots.calls));
	CHECK(!getenv("TDM_SHOW"));
	teardown();
}
