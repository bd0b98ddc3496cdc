// SPDX-License-Identifier: MIT
/*
 * notifier.c - mm/notifier.c and mm/interval.c, over a page table of one entry: rounds against those who come, go, and fill a table of their own.
 *
 * Whoever unmaps takes the entry out within a round, and frees the frame behind it: from then on it is poisoned, so that a device that still has it is found when it uses it. A device fills
 * its table as notifier.h says, either kind of subscriber in its way, and reads the frame under its lock, as an access of the device comes before or after an invalidation.
 */
#include "base/check.h"
#include "base/lockrank.h"
#include "base/poison.h"
#include "mm/notifier.h"
#include "plat/explore/explore.h"

#define VA ((u64)1 << 30)
#define PAGE(n) (VA + (u64)(n) * TDM_PAGE_SIZE)
#define BYTES 5u
#define DEVICES 3u

struct frame {
	u64 bytes;
};

struct device {
	struct tdm_interval_notifier in;
	struct tdm_notifier n;
	struct plat_mutex lock;   /* guards what follows */
	struct frame *has;        /* its table */
	u64 active, seq;          /* of the whole space: rounds that it has heard the start of; ends of them */
	bool gone;                /* nothing may be called any more */
	u32 released;
};

static struct state {
	struct tdm_alloc alloc;
	struct tdm_rcu rcu;
	struct tdm_notifiers nots;
	tdm_aptr entry;           /* the page table */
	struct frame *frame;
	struct device *dev[DEVICES];
} *st;

/* ---- devices */

static void heard(struct device *d)
{
	TDMX_CHECK(!d->gone, "a callback of who has gone");
}

static bool interval_invalidate(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	struct device *d = tdm_container_of(in, struct device, in);

	(void)range;
	heard(d);
	plat_mutex_lock(&d->lock);
	tdm_interval_set_seq(in, cur_seq);
	d->has = NULL;
	plat_mutex_unlock(&d->lock);
	heard(d);
	return true;
}

static int whole_start(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	struct device *d = tdm_container_of(n, struct device, n);

	(void)range;
	heard(d);
	plat_mutex_lock(&d->lock);
	d->active++;
	d->has = NULL;
	plat_mutex_unlock(&d->lock);
	heard(d);
	return 0;
}

static void whole_end(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	struct device *d = tdm_container_of(n, struct device, n);

	(void)range;
	heard(d);
	plat_mutex_lock(&d->lock);
	TDMX_CHECK(d->active, "the end of a round is heard without its start");
	d->active--;
	d->seq++;
	plat_mutex_unlock(&d->lock);
}

static void whole_release(struct tdm_notifier *n)
{
	struct device *d = tdm_container_of(n, struct device, n);

	heard(d);
	plat_mutex_lock(&d->lock);
	d->has = NULL;
	d->released++;
	plat_mutex_unlock(&d->lock);
	heard(d);
}

static const struct tdm_interval_notifier_ops interval_ops = { .invalidate = interval_invalidate };
static const struct tdm_notifier_ops whole_ops = { .invalidate_start = whole_start, .invalidate_end = whole_end, .release = whole_release };

static void use(struct device *d)
{
	plat_mutex_lock(&d->lock);
	TDMX_CHECK(!d->has || d->has->bytes == BYTES, "the device reads what was put into a frame that it should not have");
	plat_mutex_unlock(&d->lock);
}

/* One try to fill the table; then it is used. */
static void fill_interval(struct device *d)
{
	u64 seq = tdm_interval_read_begin(&d->in);
	struct frame *f = tdm_aptr_ld_relaxed(&st->entry);

	plat_mutex_lock(&d->lock);
	if (!tdm_interval_read_retry(&d->in, seq))
		d->has = f;
	plat_mutex_unlock(&d->lock);
	use(d);
}

static void fill_whole(struct device *d)
{
	struct frame *f;
	u64 seq;

	plat_mutex_lock(&d->lock);
	seq = d->seq;
	plat_mutex_unlock(&d->lock);
	f = tdm_aptr_ld_relaxed(&st->entry);
	plat_mutex_lock(&d->lock);
	if (!d->active && d->seq == seq)
		d->has = f;
	plat_mutex_unlock(&d->lock);
	use(d);
}

/* ---- the engine */

/* Within a round: nobody has the frame when it ends. */
static void unmap(void *arg)
{
	struct tdm_inv_range round = TDM_INV_RANGE(PAGE(0), PAGE(1), TDM_INV_UNMAP);
	struct frame *f;

	(void)arg;
	TDM_BUG_ON(tdmi_invalidate_start(&st->nots, &round));
	f = tdm_aptr_xchg_acqrel(&st->entry, NULL);
	tdmi_invalidate_end(&st->nots, &round);
	f->bytes = 0;
	tdm_poison(f, sizeof(*f));
}

/* A round that changes nothing of it: of its page, or of another one. */
static void round_of(void *arg)
{
	u64 page = *(u64 *)arg;
	struct tdm_inv_range round = TDM_INV_RANGE(PAGE(page), PAGE(page + 1), TDM_INV_SOFT_DIRTY);

	TDM_BUG_ON(tdmi_invalidate_start(&st->nots, &round));
	tdmi_invalidate_end(&st->nots, &round);
}

static void setup(void)
{
	st = tdmx_alloc(sizeof(*st));
	tdmi_alloc_init(&st->alloc);
	tdmi_rcu_init(&st->rcu);
	tdmi_notifiers_init(&st->nots, &st->alloc, &st->rcu);
	tdmi_notifiers_arm(&st->nots);
	st->frame = tdmx_alloc(sizeof(*st->frame));
	st->frame->bytes = BYTES;
	tdm_aptr_st_relaxed(&st->entry, st->frame);
	for (u32 i = 0; i < DEVICES; i++) {
		struct device *d = st->dev[i] = tdmx_alloc(sizeof(*d));

		d->in = (struct tdm_interval_notifier){ .name = "interval", .ops = &interval_ops };
		d->n = (struct tdm_notifier){ .name = "whole", .ops = &whole_ops };
		plat_mutex_init(&d->lock, TDM_RANK_MIRROR);
		tdmx_name(&d->lock, sizeof(d->lock), "driver's lock");
	}
	/* Memory for descriptors: who gets which decides nothing. */
	tdmx_quiet(&st->alloc, sizeof(st->alloc));
	tdmx_quiet(&st->nots.nodes_lock, sizeof(st->nots.nodes_lock));
	tdmx_name(&st->nots, sizeof(st->nots), "notifiers");
	tdmx_name(&st->entry, sizeof(st->entry), "entry");
}

static struct device *interval(u32 i, u64 first, u64 end)
{
	TDM_BUG_ON(tdmi_interval_notifier_insert(&st->nots, &st->dev[i]->in, PAGE(first), PAGE(end)));
	return st->dev[i];
}

/* What the devices have in the end is there. */
static void check_tables(void)
{
	for (u32 i = 0; i < DEVICES; i++) {
		TDMX_CHECK(!st->dev[i]->has, "a device has a page that is not mapped");
		TDMX_CHECK(!st->dev[i]->active, "the start of a round was heard, and not its end");
	}
}

/* ---- fill against an unmap: the sequence number */

static void fills(void *arg)
{
	fill_interval(arg);
}

static void interval_fill_setup(void)
{
	setup();
	tdmx_spawn("device", fills, interval(0, 0, 1));
	tdmx_spawn("unmapper", unmap, NULL);
}

TDMX_SCENARIO(interval_fill, .what = "what a device puts into its table, after it has asked for a retry, was not taken away meanwhile", .setup = interval_fill_setup, .check = check_tables);

/* ---- the same while other rounds begin and end: the number is even only when none is under way */

static void interval_rounds_setup(void)
{
	static const u64 same = 0;

	setup();
	tdmx_spawn("device", fills, interval(0, 0, 1));
	tdmx_spawn("unmapper", unmap, NULL);
	tdmx_spawn("other round", round_of, (void *)(uintptr_t)&same);
}

TDMX_SCENARIO(interval_rounds, .what = "a fill waits for the last of the rounds that overlap", .setup = interval_rounds_setup, .check = check_tables);

/* ---- who inserts while a round is under way has missed its start */

static void joins(void *arg)
{
	struct device *d = arg;

	TDM_BUG_ON(tdmi_interval_notifier_insert(&st->nots, &d->in, PAGE(0), PAGE(1)));
	fill_interval(d);
}

/* Nobody else has subscribed to the range: the number stays even, and an insert is published at once. */
static void interval_insert_setup(void)
{
	setup();
	(void)interval(1, 64, 65);
	tdmx_spawn("unmapper", unmap, NULL);
	tdmx_spawn("device", joins, st->dev[0]);
}

TDMX_SCENARIO(interval_insert, .what = "who subscribes in the middle of a round that nobody hears waits for its end before it reads", .setup = interval_insert_setup,
	      .check = check_tables);

/* Somebody else has: the insert is put off until the end. */
static void interval_defer_setup(void)
{
	setup();
	(void)interval(1, 0, 1);
	tdmx_spawn("unmapper", unmap, NULL);
	tdmx_spawn("device", joins, st->dev[0]);
}

TDMX_SCENARIO(interval_defer, .what = "so does who subscribes in the middle of a round that others hear; its insert is put off, and not lost", .setup = interval_defer_setup,
	      .check = check_tables);

/* ---- remove: nothing is called when it has returned, and a round that walks the tree keeps its nodes */

static void leaves(void *arg)
{
	struct device *d = arg;

	tdmi_interval_notifier_remove(&d->in);
	plat_mutex_lock(&d->lock);
	d->gone = true;
	d->has = NULL;
	plat_mutex_unlock(&d->lock);
	tdm_poison(&d->in, sizeof(d->in));
}

/* Whoever polls frees the nodes that have been replaced: a round is no section of RCU. */
static void polls(void *arg)
{
	(void)arg;
	tdmi_rcu_poll(&st->rcu);
	tdmi_rcu_poll(&st->rcu);
}

static void interval_remove_setup(void)
{
	setup();
	(void)interval(1, 0, 1);
	(void)interval(2, 64, 65);
	tdmi_rcu_drain(&st->rcu);
	tdmx_spawn("unmapper", unmap, NULL);
	tdmx_spawn("device", leaves, interval(0, 0, 1));
	tdmx_spawn("background", polls, NULL);
}

static void interval_remove_check(void)
{
	check_tables();
	tdmi_rcu_drain(&st->rcu);
	TDMX_CHECK(st->nots.ranges.count == 2 && tdmi_itree_valid(tdmi_itree_root(&st->nots.ranges), 2), "the tree is not that of those who are left");
}

TDMX_SCENARIO(interval_remove, .what = "who has left a range is not called any more, and the round that might have called it walks no freed node", .setup = interval_remove_setup,
	      .check = interval_remove_check);

/* One comes and goes within a round that has begun before: no round sees it. */
static void comes_and_goes(void *arg)
{
	struct device *d = arg;

	TDM_BUG_ON(tdmi_interval_notifier_insert(&st->nots, &d->in, PAGE(0), PAGE(1)));
	leaves(d);
}

static void interval_visit_setup(void)
{
	static const u64 same = 0;

	setup();
	(void)interval(1, 0, 1);
	(void)interval(2, 64, 65);
	tdmi_rcu_drain(&st->rcu);
	tdmx_spawn("unmapper", unmap, NULL);
	tdmx_spawn("device", comes_and_goes, st->dev[0]);
	tdmx_spawn("other round", round_of, (void *)(uintptr_t)&same);
}

TDMX_SCENARIO(interval_visit, .what = "who comes and goes while rounds run is called by none of them afterwards", .setup = interval_visit_setup, .check = interval_remove_check);

/* ---- the whole address space: who registers */

static void registers(void *arg)
{
	struct device *d = arg;

	TDM_BUG_ON(tdmi_notifier_register(&st->nots, &d->n));
	fill_whole(d);
}

static void notifier_register_setup(void)
{
	static const u64 other = 7;

	setup();
	TDM_BUG_ON(tdmi_notifier_register(&st->nots, &st->dev[1]->n));
	tdmx_spawn("unmapper", unmap, NULL);
	tdmx_spawn("device", registers, st->dev[0]);
	tdmx_spawn("other round", round_of, (void *)(uintptr_t)&other);
}

TDMX_SCENARIO(notifier_register, .what = "who registers hears of each round its start and its end, or neither, and then it is over when register returns", .setup = notifier_register_setup,
	      .check = check_tables);

/* ---- ... and unregisters */

static void unregisters(void *arg)
{
	struct device *d = arg;

	tdmi_notifier_unregister(&st->nots, &d->n);
	plat_mutex_lock(&d->lock);
	TDMX_CHECK(d->released == 1, "release was called %u times", d->released);
	d->gone = true;
	d->active = 0; /* it may not hear the end */
	plat_mutex_unlock(&d->lock);
	tdm_poison(&d->n, sizeof(d->n));
}

static void notifier_unregister_setup(void)
{
	setup();
	for (u32 i = 0; i < DEVICES; i++)
		TDM_BUG_ON(tdmi_notifier_register(&st->nots, &st->dev[i]->n));
	tdmx_spawn("unmapper", unmap, NULL);
	tdmx_spawn("device", unregisters, st->dev[1]);
	tdmx_spawn("other", unregisters, st->dev[2]);
}

TDMX_SCENARIO(notifier_unregister, .what = "who has unregistered is not called any more, nor is anybody left out because of that", .setup = notifier_unregister_setup,
	      .check = check_tables);

/* ---- the address space goes away meanwhile */

static void releases(void *arg)
{
	(void)arg;
	tdmi_notifiers_release(&st->nots);
}

static void registers_late(void *arg)
{
	struct device *d = arg;
	int r = tdmi_notifier_register(&st->nots, &d->n);

	TDMX_CHECK(!r || r == -ESRCH, "register said %d", r);
	if (!r)
		unregisters(d);
}

static void notifier_release_setup(void)
{
	setup();
	for (u32 i = 0; i < 2; i++)
		TDM_BUG_ON(tdmi_notifier_register(&st->nots, &st->dev[i]->n));
	tdmx_spawn("exit", releases, NULL);
	tdmx_spawn("device", unregisters, st->dev[1]);
	tdmx_spawn("late", registers_late, st->dev[2]);
}

static void notifier_release_check(void)
{
	check_tables();
	TDMX_CHECK(st->dev[0]->released == 1, "release was called %u times", st->dev[0]->released);
}

TDMX_SCENARIO(notifier_release, .what = "release is called once, whoever comes or goes at that moment", .setup = notifier_release_setup, .check = notifier_release_check);
