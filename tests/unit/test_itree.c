// SPDX-License-Identifier: MIT
/* test_itree.c - the interval tree against a plain array, one thread; and with every allocation failing in turn. */
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/itree.h"
#include "plat/sim.h"
#include "t.h"

#define ARENA ((size_t)16 << 20)
#define MODEL_MAX 400

static u8 *arena;
static struct tdm_alloc heap;
static struct tdm_rcu rcu;
static struct tdm_itree tree;
static struct tdm_interval model[MODEL_MAX]; /* sorted as the tree is */
static u32 nmodel;
static u64 allocs, fail_alloc; /* fail_alloc: the number of the allocation that fails */

static void *test_alloc(void *ctx, size_t size)
{
	return ++allocs == fail_alloc ? NULL : tdmi_alloc(ctx, size);
}

static void test_free(void *ctx, void *p, size_t size)
{
	tdmi_free(ctx, p, size);
}

static void start(void)
{
	const struct tdm_itree_mem mem = { test_alloc, test_free, &heap };

	arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	CHECK(arena != NULL);
	tdm_sim_init(arena, ARENA);
	tdmi_alloc_init(&heap);
	tdmi_rcu_init(&rcu);
	tdmi_itree_init(&tree, &rcu, &mem);
	nmodel = 0;
	allocs = fail_alloc = 0;
}

/* Every node is freed exactly once: nothing is left. */
static void finish(void)
{
	tdmi_itree_destroy(&tree);
	tdmi_rcu_drain(&rcu);
	CHECK_EQ(tdmi_alloc_used(&heap), 0);
	tdmi_alloc_destroy(&heap);
	CHECK_EQ(tdm_sim_mapped(), 0);
	tdm_sim_init(NULL, 0);
	free(arena);
}

static int order(const void *a, const void *b)
{
	const struct tdm_interval *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	if (x->end != y->end)
		return x->end < y->end ? -1 : 1;
	return x->payload == y->payload ? 0 : (uintptr_t)x->payload < (uintptr_t)y->payload ? -1 : 1;
}

static int model_find(const struct tdm_interval *i)
{
	for (u32 k = 0; k < nmodel; k++)
		if (order(&model[k], i) == 0)
			return (int)k;
	return -1;
}

static int model_insert(const struct tdm_interval *i)
{
	if (i->start >= i->end)
		return -EINVAL;
	if (model_find(i) >= 0)
		return -EEXIST;
	CHECK(nmodel < MODEL_MAX);
	model[nmodel++] = *i;
	qsort(model, nmodel, sizeof(*model), order);
	return 0;
}

static int model_remove(const struct tdm_interval *i)
{
	int k = model_find(i);

	if (k < 0)
		return -ENOENT;
	model[k] = model[--nmodel];
	qsort(model, nmodel, sizeof(*model), order);
	return 0;
}

struct walk {
	u64 start, end;
	u32 next; /* in the model */
	u32 left; /* stop after so many */
};

static u32 skip_others(const struct walk *w, u32 k)
{
	while (k < nmodel && (model[k].start >= w->end || model[k].end <= w->start))
		k++;
	return k;
}

static int visit(const struct tdm_interval *i, void *ctx)
{
	struct walk *w = ctx;

	w->next = skip_others(w, w->next);
	CHECK(w->next < nmodel && order(&model[w->next], i) == 0);
	w->next++;
	return --w->left == 0 ? 42 : 0;
}

/* Tree and model agree about what overlaps [start, end). */
static void compare(const struct tdm_itree_node *root, u64 start, u64 end)
{
	struct walk w = { start, end, 0, ~0u };
	struct tdm_interval i;
	u32 first;

	CHECK_EQ(tdmi_itree_each(root, start, end, visit, &w), 0);
	CHECK_EQ(skip_others(&w, w.next), nmodel);
	first = skip_others(&w, 0);
	CHECK_EQ(tdmi_itree_find(root, start, end, &i), first < nmodel);
	if (first < nmodel) {
		CHECK_EQ(order(&i, &model[first]), 0);
		w = (struct walk){ start, end, 0, 1 };
		CHECK_EQ(tdmi_itree_each(root, start, end, visit, &w), 42);
	}
}

static struct tdm_interval random_interval(u64 *seed)
{
	u64 start = t_rand(seed) % 500, len = t_rand(seed) % (t_rand(seed) % 4 ? 8 : 200);

	return (struct tdm_interval){ start, start + len, (void *)(uintptr_t)(t_rand(seed) % 3) };
}

TEST(empty)
{
	struct tdm_interval i;
	struct tdm_itree_txn txn;

	start();
	CHECK(!tdmi_itree_find(tdmi_itree_root(&tree), 0, ~(u64)0, &i));
	CHECK(tdmi_itree_valid(tdmi_itree_root(&tree), 0));
	tdmi_itree_begin(&tree, &txn);
	CHECK_EQ(tdmi_itree_remove(&txn, 1, 2, NULL), -ENOENT);
	tdmi_itree_commit(&txn);
	finish();
}

/* Random changes in transactions of random length, some of which are given up. */
TEST(tree_is_a_sorted_array, .seconds = 60)
{
	static struct tdm_interval saved[MODEL_MAX];
	u64 seed = t_seed();
	int rounds = t_slow() ? 1500 : 8000;

	start();
	for (int round = 0; round < rounds; round++) {
		struct tdm_itree_txn txn;
		u32 ops = 1 + (u32)(t_rand(&seed) % 5), nsaved = nmodel;
		bool grow = nmodel < 20 || (nmodel < MODEL_MAX / 2 && round % 1000 < 500);
		u64 from;

		memcpy(saved, model, sizeof(saved));
		tdmi_itree_begin(&tree, &txn);
		while (ops--) {
			struct tdm_interval i = random_interval(&seed);

			if (t_rand(&seed) % 8 < (grow ? 6u : 2u)) {
				CHECK_EQ(tdmi_itree_insert(&txn, i.start, i.end, i.payload), model_insert(&i));
			} else {
				if (nmodel && t_rand(&seed) % 4)
					i = model[t_rand(&seed) % nmodel];
				CHECK_EQ(tdmi_itree_remove(&txn, i.start, i.end, i.payload), model_remove(&i));
			}
		}
		CHECK(tdmi_itree_valid(txn.root, nmodel));
		from = t_rand(&seed) % 600;
		compare(txn.root, from, from + 1 + t_rand(&seed) % 20);
		if (t_rand(&seed) % 5 == 0) {
			tdmi_itree_abort(&txn);
			memcpy(model, saved, sizeof(saved));
			nmodel = nsaved;
		} else {
			tdmi_itree_commit(&txn);
		}
		CHECK_EQ(tree.count, nmodel);
		CHECK(tdmi_itree_valid(tdmi_itree_root(&tree), nmodel));
		compare(tdmi_itree_root(&tree), 0, ~(u64)0);
		from = t_rand(&seed) % 600;
		compare(tdmi_itree_root(&tree), from, from + 1);
		if (round % 7 == 0)
			tdmi_rcu_poll(&rcu);
	}
	finish();
}

static int count_one(const struct tdm_interval *i, void *ctx)
{
	(void)i;
	++*(u32 *)ctx;
	return 0;
}

/* A reader that holds an old root goes on seeing the old set, whole. */
TEST(old_roots_stay)
{
	struct tdm_rcu_reader *r;
	const struct tdm_itree_node *old;
	struct tdm_itree_txn txn;
	u32 n = 0;

	start();
	r = tdmi_rcu_register(&rcu);
	tdmi_itree_begin(&tree, &txn);
	for (u64 i = 0; i < 100; i++)
		CHECK_EQ(tdmi_itree_insert(&txn, i * 10, i * 10 + 5, NULL), 0);
	CHECK(tdmi_itree_root(&tree) == NULL); /* not before commit */
	tdmi_itree_commit(&txn);
	tdmi_rcu_drain(&rcu);
	tdmi_rcu_read_lock(r);
	old = tdmi_itree_root(&tree);
	for (u64 i = 0; i < 100; i++) {
		tdmi_itree_begin(&tree, &txn);
		CHECK_EQ(tdmi_itree_remove(&txn, i * 10, i * 10 + 5, NULL), 0);
		tdmi_itree_commit(&txn);
		tdmi_rcu_poll(&rcu);
	}
	CHECK(tdmi_itree_root(&tree) == NULL);
	CHECK(tdmi_itree_valid(old, 100));
	tdmi_itree_each(old, 0, 1000, count_one, &n);
	CHECK_EQ(n, 100);
	CHECK(tdmi_alloc_used(&heap) > 0);
	tdmi_rcu_read_unlock(r);
	tdmi_rcu_drain(&rcu);
	CHECK_EQ(tdmi_alloc_used(&heap), 0);
	tdmi_rcu_unregister(r);
	finish();
}

/* Ascending keys, the worst case for a tree without balance: lookups copy few nodes. */
TEST(depth_is_logarithmic)
{
	struct tdm_itree_txn txn;
	u64 most = 0;

	start();
	for (u64 i = 0; i < 4096; i++) {
		u64 before = allocs;

		tdmi_itree_begin(&tree, &txn);
		CHECK_EQ(tdmi_itree_insert(&txn, i, i + 1, NULL), 0);
		tdmi_itree_commit(&txn);
		tdmi_rcu_poll(&rcu);
		most = TDM_MAX(most, allocs - before);
	}
	CHECK(tdmi_itree_valid(tdmi_itree_root(&tree), 4096));
	CHECK(most > 12 && most < 60);
	finish();
}

/* One transaction: an interval is split in three. 0, or the error that ended it; then nothing has changed. */
static int split_in_three(u64 at)
{
	struct tdm_itree_txn txn;
	int err;

	tdmi_itree_begin(&tree, &txn);
	err = tdmi_itree_remove(&txn, at, at + 10, NULL);
	for (u64 k = 0; !err && k < 3; k++)
		err = tdmi_itree_insert(&txn, at + 3 * k, at + 3 * k + 3, NULL);
	if (err)
		tdmi_itree_abort(&txn);
	else
		tdmi_itree_commit(&txn);
	return err;
}

TEST(every_allocation_fails_once)
{
	int err = -1;

	for (u64 nth = 1; err; nth++) {
		struct tdm_itree_txn txn;

		start();
		tdmi_itree_begin(&tree, &txn);
		for (u64 i = 0; i < 64; i++)
			CHECK_EQ(tdmi_itree_insert(&txn, i * 10, i * 10 + 10, NULL), 0);
		tdmi_itree_commit(&txn);
		fail_alloc = allocs + nth;
		err = split_in_three(300);
		CHECK(err == 0 || err == -ENOMEM);
		CHECK_EQ(tree.count, err ? 64 : 66);
		CHECK(tdmi_itree_valid(tdmi_itree_root(&tree), err ? 64 : 66));
		finish();
		CHECK(nth < 1000);
	}
}

/* An operation that fails leaves the transaction as it was: it can go on. */
TEST(transaction_survives_a_failure)
{
	for (u64 nth = 1; nth < 12; nth++) {
		struct tdm_itree_txn txn;
		u64 n = 0;

		start();
		fail_alloc = 40 + nth;
		tdmi_itree_begin(&tree, &txn);
		for (u64 i = 0; i < 50; i++)
			n += tdmi_itree_insert(&txn, i * 10, i * 10 + 10, NULL) == 0;
		CHECK_EQ(n, 49);
		for (u64 i = 0; i < 20; i++)
			n -= tdmi_itree_remove(&txn, i * 10, i * 10 + 10, NULL) == 0;
		tdmi_itree_commit(&txn);
		CHECK_EQ(tree.count, n);
		CHECK(tdmi_itree_valid(tdmi_itree_root(&tree), n));
		finish();
	}
}
