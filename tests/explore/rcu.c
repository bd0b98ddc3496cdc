// SPDX-License-Identifier: MIT
/*
 * rcu.c - base/rcu.h and base/itree.h: what a reader has reached in a section is there until its end, whoever waits for grace periods, and however.
 *
 * A thing is published behind a pointer. Whoever takes it out lets a grace period pass, by a callback and polls or by waiting, and then writes to it and poisons it: a reader
 * that still has it is found as a race, as a use after free, or by what it reads.
 */
#include "base/check.h"
#include "base/itree.h"
#include "base/poison.h"
#include "plat/explore/explore.h"

#define GOOD 5u
#define THINGS 4u

struct thing {
	u64 v;
	struct tdm_rcu_head head;
};

static struct state {
	struct tdm_rcu rcu;
	struct tdm_rcu_reader *reader[3];
	tdm_aptr at;
	struct thing *thing[THINGS];
	u64 freed[THINGS];     /* by the thread that frees it */
	bool first_look;       /* is not over */
	/* The set. */
	struct tdm_itree tree;
	u64 mark[3];           /* payloads */
} *st;

static void setup_things(u32 readers)
{
	st = tdmx_alloc(sizeof(*st));
	tdmi_rcu_init(&st->rcu);
	for (u32 i = 0; i < THINGS; i++) {
		st->thing[i] = tdmx_alloc(sizeof(struct thing));
		st->thing[i]->v = GOOD + i;
	}
	for (u32 i = 0; i < readers; i++)
		st->reader[i] = tdmi_rcu_register(&st->rcu);
	tdm_aptr_st_relaxed(&st->at, st->thing[0]);
	tdmx_name(&st->rcu, sizeof(st->rcu), "rcu");
	tdmx_name(&st->at, sizeof(st->at), "pointer");
}

static void destroy(struct thing *t)
{
	t->v = 0;
	tdm_poison(&t->v, sizeof(t->v));
	for (u32 i = 0; i < THINGS; i++)
		st->freed[i] += st->thing[i] == t;
}

static void callback(struct tdm_rcu_head *head, void *ctx)
{
	(void)ctx;
	destroy(tdm_container_of(head, struct thing, head));
	/* It is the callback's from here on, the head too. */
	tdm_poison(head, sizeof(*head));
}

/* What a section sees. */
static u64 look(struct tdm_rcu_reader *r)
{
	struct thing *t;
	u64 v;

	tdmi_rcu_read_lock(r);
	t = tdm_aptr_ld_acquire(&st->at);
	v = t->v;
	tdmi_rcu_read_unlock(r);
	TDMX_CHECK(v >= GOOD && v < GOOD + THINGS, "a reader has found a thing that says %llu", (unsigned long long)v);
	return v;
}

static void reads(void *arg)
{
	(void)look(arg);
}

static void reads_twice(void *arg)
{
	u64 a = look(arg), b = look(arg);

	TDMX_CHECK(b >= a, "the second look is older than the first");
}

static void check_freed(u32 n)
{
	tdmi_rcu_drain(&st->rcu);
	TDMX_CHECK(!tdmi_rcu_pending(&st->rcu), "callbacks are left");
	for (u32 i = 0; i < THINGS; i++)
		TDMX_CHECK(st->freed[i] == (i < n), "thing %u was freed %llu times", i, (unsigned long long)st->freed[i]);
}

/* ---- call and poll */

static struct thing *replace_by(u32 i)
{
	return tdm_aptr_xchg_acqrel(&st->at, st->thing[i]);
}

static void calls_and_polls(void *arg)
{
	(void)arg;
	tdmi_rcu_call(&st->rcu, &replace_by(1)->head, callback, NULL);
	tdmi_rcu_poll(&st->rcu);
}

static void polls(void *arg)
{
	(void)arg;
	tdmi_rcu_poll(&st->rcu);
	tdmi_rcu_poll(&st->rcu);
}

static void rcu_poll_setup(void)
{
	setup_things(1);
	tdmx_spawn("reader", reads_twice, st->reader[0]);
	tdmx_spawn("updater", calls_and_polls, NULL);
	tdmx_spawn("background", polls, NULL);
}

static void rcu_poll_check(void)
{
	check_freed(1);
}

TDMX_SCENARIO(rcu_poll, .what = "a callback runs once, when the sections are over that can have what it frees", .setup = rcu_poll_setup, .check = rcu_poll_check);

/* ---- call while a batch waits already: it is for the next grace period */

static void calls_twice(void *arg)
{
	(void)arg;
	tdmi_rcu_call(&st->rcu, &replace_by(1)->head, callback, NULL);
	tdmi_rcu_poll(&st->rcu);
	tdmi_rcu_call(&st->rcu, &replace_by(2)->head, callback, NULL);
	tdmi_rcu_poll(&st->rcu);
	tdmi_rcu_poll(&st->rcu);
}

static void rcu_batches_setup(void)
{
	setup_things(2);
	tdmx_spawn("reader", reads_twice, st->reader[0]);
	tdmx_spawn("updater", calls_twice, NULL);
	tdmx_spawn("other", reads, st->reader[1]);
}

/* Likewise; the second call comes when the reader's first section is over. Waiting is no interruption: bounds leave more for what matters. */
static void looks_and_tells(void *arg)
{
	(void)look(arg);
	tdmx_poke(&st->first_look, &(bool){ false }, sizeof(bool));
	(void)look(arg);
}

static void calls_between(void *arg)
{
	(void)arg;
	tdmi_rcu_call(&st->rcu, &replace_by(1)->head, callback, NULL);
	tdmi_rcu_poll(&st->rcu);
	tdmx_wait_while(&st->first_look);
	tdmi_rcu_call(&st->rcu, &replace_by(2)->head, callback, NULL);
	tdmi_rcu_poll(&st->rcu);
	tdmi_rcu_poll(&st->rcu);
}

static void rcu_batch_next_setup(void)
{
	setup_things(1);
	st->first_look = true;
	tdmx_spawn("reader", looks_and_tells, st->reader[0]);
	tdmx_spawn("updater", calls_between, NULL);
}

static void rcu_batches_check(void)
{
	check_freed(2);
}

TDMX_SCENARIO(rcu_batches, .what = "what is freed while a batch waits waits for a grace period of its own", .setup = rcu_batches_setup, .check = rcu_batches_check);

TDMX_SCENARIO(rcu_batch_next, .what = "likewise, freed in the section that follows the one that the batch waits for", .setup = rcu_batch_next_setup, .check = rcu_batches_check);

/* ---- drain, while another thread runs callbacks */

static void calls_and_drains(void *arg)
{
	(void)arg;
	tdmi_rcu_call(&st->rcu, &replace_by(1)->head, callback, NULL);
	tdmi_rcu_drain(&st->rcu);
	TDMX_CHECK(st->freed[0] == 1, "a callback is not over yet");
}

static void rcu_drain_setup(void)
{
	setup_things(1);
	tdmx_spawn("reader", reads, st->reader[0]);
	tdmx_spawn("updater", calls_and_drains, NULL);
	tdmx_spawn("background", polls, NULL);
}

TDMX_SCENARIO(rcu_drain, .what = "who has drained finds that all callbacks are over, whoever has run them", .setup = rcu_drain_setup, .check = rcu_poll_check);

/* ---- synchronize */

static void waits(void *arg)
{
	struct thing *t = replace_by(1);

	(void)arg;
	tdmi_rcu_synchronize(&st->rcu);
	destroy(t);
}

static void rcu_synchronize_setup(void)
{
	setup_things(2);
	tdmx_spawn("reader", reads_twice, st->reader[0]);
	tdmx_spawn("other", reads, st->reader[1]);
	tdmx_spawn("updater", waits, NULL);
}

TDMX_SCENARIO(rcu_synchronize, .what = "who has waited for the sections that were open finds nobody in what he has taken out", .setup = rcu_synchronize_setup, .check = rcu_poll_check);

/* ---- readers come and go meanwhile: a slot of its own, or that of one who has gone */

static void registers(void *arg)
{
	struct tdm_rcu_reader *r = tdmi_rcu_register(&st->rcu);

	(void)arg;
	TDM_BUG_ON(!r);
	(void)look(r);
	tdmi_rcu_unregister(r);
}

static void rcu_register_setup(void)
{
	setup_things(0);
	tdmx_spawn("first", registers, NULL);
	tdmx_spawn("second", registers, NULL);
	tdmx_spawn("updater", waits, NULL);
}

TDMX_SCENARIO(rcu_register, .what = "a grace period waits for readers that register during it, if they have what it is for", .setup = rcu_register_setup, .check = rcu_poll_check);

/* The same, by poll(). */
static void rcu_register_poll_setup(void)
{
	setup_things(0);
	tdmx_spawn("reader", registers, NULL);
	tdmx_spawn("updater", calls_and_polls, NULL);
}

TDMX_SCENARIO(rcu_register_poll, .what = "so does one that is polled for", .setup = rcu_register_poll_setup, .check = rcu_poll_check);

/* ---- a set: lookups without a lock, against changes that belong together
 *
 * An interval is cut in two by one transaction, as mprotect() cuts a VMA. A reader finds it whole or cut, never a hole nor both; and the nodes that it walks are not freed under it. */

#define FROM 0x10000u
#define MIDDLE 0x20000u
#define TO 0x30000u

struct seen {
	u32 n;
	u64 end;
	bool hole;
};

static int see(const struct tdm_interval *i, void *ctx)
{
	struct seen *s = ctx;

	s->n++;
	s->hole = s->hole || i->start != s->end;
	s->end = i->end;
	return 0;
}

static void *node_alloc(void *ctx, size_t size)
{
	(void)ctx;
	return plat_map(TDM_ALIGN_UP(size, TDM_PAGE_SIZE));
}

static void node_free(void *ctx, void *p, size_t size)
{
	(void)ctx;
	plat_unmap(p, TDM_ALIGN_UP(size, TDM_PAGE_SIZE));
}

static void search(void *arg)
{
	struct seen s = { .end = FROM };
	struct tdm_interval i;
	const struct tdm_itree_node *root;
	bool found;

	tdmi_rcu_read_lock(arg);
	root = tdmi_itree_root(&st->tree);
	found = tdmi_itree_find(root, MIDDLE, MIDDLE + 1, &i);
	(void)tdmi_itree_each(root, FROM, TO, see, &s);
	tdmi_rcu_read_unlock(arg);
	TDMX_CHECK(found && i.start <= MIDDLE && i.end == TO, "the middle is not found");
	TDMX_CHECK(!s.hole && s.end == TO && s.n >= 1 && s.n <= 2, "%u intervals up to %#llx%s", s.n, (unsigned long long)s.end, s.hole ? ", with a hole" : "");
	TDMX_CHECK((i.start == FROM) == (s.n == 1), "whole by one search, cut by the other");
}

static void cuts(void *arg)
{
	struct tdm_itree_txn t;

	(void)arg;
	tdmi_itree_begin(&st->tree, &t);
	TDM_BUG_ON(tdmi_itree_remove(&t, FROM, TO, &st->mark[0]));
	TDM_BUG_ON(tdmi_itree_insert(&t, FROM, MIDDLE, &st->mark[1]));
	TDM_BUG_ON(tdmi_itree_insert(&t, MIDDLE, TO, &st->mark[2]));
	tdmi_itree_commit(&t);
	tdmi_rcu_poll(&st->rcu);
	tdmi_rcu_poll(&st->rcu);
}

static void itree_setup(void)
{
	struct tdm_itree_mem mem = { node_alloc, node_free, NULL };
	struct tdm_itree_txn t;

	setup_things(2);
	tdmi_itree_init(&st->tree, &st->rcu, &mem);
	tdmi_itree_begin(&st->tree, &t);
	TDM_BUG_ON(tdmi_itree_insert(&t, 0, FROM, &st->mark[0]));
	TDM_BUG_ON(tdmi_itree_insert(&t, FROM, TO, &st->mark[0]));
	TDM_BUG_ON(tdmi_itree_insert(&t, TO, 2 * TO, &st->mark[0]));
	tdmi_itree_commit(&t);
	tdmi_rcu_drain(&st->rcu);
	tdmx_spawn("reader", search, st->reader[0]);
	tdmx_spawn("other", search, st->reader[1]);
	tdmx_spawn("writer", cuts, NULL);
}

static void itree_check(void)
{
	tdmi_rcu_drain(&st->rcu);
	TDMX_CHECK(tdmi_itree_valid(tdmi_itree_root(&st->tree), 4), "the tree is not one");
}

TDMX_SCENARIO(itree_lookup, .what = "a lookup without a lock sees the set before a change or after it, and no node that is freed", .setup = itree_setup, .check = itree_check);
