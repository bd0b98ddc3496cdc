// SPDX-License-Identifier: MIT
/* test_rcu.c - grace periods, on POSIX threads: rules one by one, then a stress of pointers and one of the interval tree. */
#include <stdlib.h>
#include "base/alloc.h"
#include "base/itree.h"
#include "base/lockrank.h"
#include "base/rcu.h"
#include "t.h"

static struct tdm_rcu rcu;

struct counted {
	struct tdm_rcu_head head;
	u32 runs;
};

static void count_run(struct tdm_rcu_head *head, void *ctx)
{
	struct counted *c = tdm_container_of(head, struct counted, head);

	c->runs++;
	if (ctx)
		++*(u32 *)ctx;
}

TEST(callback_waits_for_readers)
{
	struct tdm_rcu_reader *a, *b;
	struct counted c = { .runs = 0 };
	u32 total = 0;

	tdmi_rcu_init(&rcu);
	a = tdmi_rcu_register(&rcu);
	b = tdmi_rcu_register(&rcu);
	CHECK(a && b && a != b);
	tdmi_rcu_read_lock(a);
	tdmi_rcu_call(&rcu, &c.head, count_run, &total);
	CHECK_EQ(tdmi_rcu_pending(&rcu), 1);
	for (int i = 0; i < 10; i++)
		CHECK_EQ(tdmi_rcu_poll(&rcu), 0);
	tdmi_rcu_read_lock(b); /* has begun after the number was drawn: not waited for */
	tdmi_rcu_read_lock(a); /* nested */
	tdmi_rcu_read_unlock(a);
	CHECK(tdmi_rcu_read_held(a));
	CHECK_EQ(tdmi_rcu_poll(&rcu), 0);
	tdmi_rcu_read_unlock(a);
	CHECK(!tdmi_rcu_read_held(a));
	CHECK_EQ(tdmi_rcu_poll(&rcu), 1);
	CHECK_EQ(c.runs, 1);
	CHECK_EQ(total, 1);
	CHECK_EQ(tdmi_rcu_pending(&rcu), 0);
	tdmi_rcu_read_unlock(b);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 0);
}

/* A reader that leaves and enters again is another reader. */
TEST(reentering_counts_as_leaving)
{
	struct tdm_rcu_reader *a;
	struct counted c = { .runs = 0 };

	tdmi_rcu_init(&rcu);
	a = tdmi_rcu_register(&rcu);
	tdmi_rcu_read_lock(a);
	tdmi_rcu_call(&rcu, &c.head, count_run, NULL);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 0);
	tdmi_rcu_read_unlock(a);
	tdmi_rcu_read_lock(a);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 1);
	tdmi_rcu_read_unlock(a);
}

TEST(batches_wait_separately)
{
	struct tdm_rcu_reader *a, *b;
	struct counted c[3] = { { .runs = 0 } };

	tdmi_rcu_init(&rcu);
	a = tdmi_rcu_register(&rcu);
	b = tdmi_rcu_register(&rcu);
	tdmi_rcu_read_lock(a);
	tdmi_rcu_call(&rcu, &c[0].head, count_run, NULL);
	tdmi_rcu_poll(&rcu);
	tdmi_rcu_read_lock(b);
	tdmi_rcu_call(&rcu, &c[1].head, count_run, NULL);
	tdmi_rcu_call(&rcu, &c[2].head, count_run, NULL);
	tdmi_rcu_read_unlock(a);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 1);
	CHECK(c[0].runs == 1 && c[1].runs == 0);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 0);
	tdmi_rcu_read_unlock(b);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 2);
	CHECK(c[1].runs == 1 && c[2].runs == 1);
}

static void call_again(struct tdm_rcu_head *head, void *ctx)
{
	u32 *left = ctx;

	if ((*left)--)
		tdmi_rcu_call(&rcu, head, call_again, ctx);
}

TEST(drain_runs_what_callbacks_add)
{
	struct tdm_rcu_head head;
	u32 left = 5;

	tdmi_rcu_init(&rcu);
	tdmi_rcu_call(&rcu, &head, call_again, &left);
	tdmi_rcu_drain(&rcu);
	CHECK_EQ(left, ~0u);
	CHECK_EQ(tdmi_rcu_pending(&rcu), 0);
}

TEST(registration_is_bounded)
{
	struct tdm_rcu_reader *r[TDM_RCU_READERS];

	tdmi_rcu_init(&rcu);
	for (u32 i = 0; i < TDM_RCU_READERS; i++)
		CHECK((r[i] = tdmi_rcu_register(&rcu)) != NULL);
	CHECK(tdmi_rcu_register(&rcu) == NULL);
	tdmi_rcu_unregister(r[17]);
	CHECK(tdmi_rcu_register(&rcu) == r[17]);
}

TEST_DIES(unregister_inside, "bug")
{
	struct tdm_rcu_reader *r;

	tdmi_rcu_init(&rcu);
	r = tdmi_rcu_register(&rcu);
	tdmi_rcu_read_lock(r);
	tdmi_rcu_unregister(r);
}

/* A child of fork in which the other threads' sections are gone. */
TEST(reset_forgets_sections)
{
	struct tdm_rcu_reader *r;
	struct counted c = { .runs = 0 };

	tdmi_rcu_init(&rcu);
	r = tdmi_rcu_register(&rcu);
	tdmi_rcu_read_lock(r);
	tdmi_rcu_call(&rcu, &c.head, count_run, NULL);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 0);
	plat_mutex_lock(&rcu.lock);
	tdmi_lockrank_release(&rcu.lock, TDM_RANK_RCU); /* held by a thread that is not here */
	tdmi_rcu_reset(&rcu);
	CHECK_EQ(tdmi_rcu_poll(&rcu), 1);
	CHECK_EQ(c.runs, 1);
	tdmi_rcu_unregister(r);
}

/* It is not over before others may see it so: who has drained relies on that. */
static void looks_at_pending(struct tdm_rcu_head *head, void *ctx)
{
	(void)head;
	*(u32 *)ctx = tdmi_rcu_pending(&rcu);
}

TEST(a_callback_that_runs_is_pending)
{
	struct tdm_rcu_head head;
	u32 saw = 0;

	tdmi_rcu_init(&rcu);
	tdmi_rcu_call(&rcu, &head, looks_at_pending, &saw);
	tdmi_rcu_drain(&rcu);
	CHECK_EQ(saw, 1);
	CHECK_EQ(tdmi_rcu_pending(&rcu), 0);
}

/* As in the child of a fork: the thread that has taken this batch out is not there, and nobody waits for what it will never run. */
static void resets(struct tdm_rcu_head *head, void *ctx)
{
	(void)head;
	(void)ctx;
	tdmi_rcu_reset(&rcu);
	tdmi_rcu_drain(&rcu);
	exit(0);
}

TEST(nobody_waits_for_callbacks_of_a_thread_that_is_gone, .seconds = 10)
{
	struct tdm_rcu_head head;
	struct counted c = { .runs = 0 };

	tdmi_rcu_init(&rcu);
	tdmi_rcu_call(&rcu, &head, resets, NULL);
	tdmi_rcu_call(&rcu, &c.head, count_run, NULL);
	(void)tdmi_rcu_poll(&rcu);
	t_fail(__FILE__, __LINE__, "the callback did not end the test");
}

/* ---- stress: pointers -------------------------------------------------------------------------------------------------- */

#define READERS 3
#define SLOTS 4
#define ALIVE 0x600d600du
#define DEAD 0xdeadu

struct object {
	u32 state; /* plain: TSan tells if a reader and the one who frees are not ordered */
	u32 check;
	struct tdm_rcu_head head;
};

static tdm_aptr slot[SLOTS];
static tdm_a32 stop, reads;
static tdm_a32 begun; /* readers that have read once */

static void free_object(struct tdm_rcu_head *head, void *ctx)
{
	struct object *o = tdm_container_of(head, struct object, head);

	(void)ctx;
	o->state = DEAD;
	free(o);
}

/* Who writes before anybody reads has tested nothing: on a busy machine all may be over by then. */
static void await_readers(void)
{
	while (tdm_a32_ld_relaxed(&begun) < READERS)
		plat_yield();
}

static void read_pointers(void *arg)
{
	struct tdm_rcu_reader *r = tdmi_rcu_register(&rcu);
	u64 seed = (uintptr_t)arg;
	u32 n = 0;

	while (!tdm_a32_ld_relaxed(&stop)) {
		struct object *o;

		tdmi_rcu_read_lock(r);
		o = tdm_aptr_ld_acquire(&slot[t_rand(&seed) % SLOTS]);
		CHECK_EQ(o->state, ALIVE);
		if (t_rand(&seed) % 64 == 0)
			plat_yield();
		CHECK_EQ(o->state + o->check, 0);
		tdmi_rcu_read_unlock(r);
		if (!n)
			tdm_a32_add_relaxed(&begun, 1);
		/* Registering again and again races with the look at the slots. */
		if (++n % 256 == 0) {
			tdmi_rcu_unregister(r);
			r = tdmi_rcu_register(&rcu);
		}
	}
	tdmi_rcu_unregister(r);
	tdm_a32_add_relaxed(&reads, n);
}

static struct object *new_object(void)
{
	struct object *o = malloc(sizeof(*o));

	o->state = ALIVE;
	o->check = 0 - ALIVE;
	return o;
}

static void write_pointers(u64 seed, u32 rounds)
{
	for (u32 i = 0; i < rounds; i++) {
		struct object *o = tdm_aptr_xchg_acqrel(&slot[t_rand(&seed) % SLOTS], new_object());

		if (t_rand(&seed) % 8 == 0) {
			tdmi_rcu_synchronize(&rcu);
			o->state = DEAD;
			free(o);
		} else {
			tdmi_rcu_call(&rcu, &o->head, free_object, NULL);
		}
		if (t_rand(&seed) % 4 == 0)
			tdmi_rcu_poll(&rcu);
	}
}

static void writer_thread(void *arg)
{
	write_pointers((uintptr_t)arg, t_slow() ? 10000 : 20000);
}

TEST(stress_pointers, .seconds = 60)
{
	struct plat_thread *t[READERS + 1];
	u64 seed = t_seed();

	tdmi_rcu_init(&rcu);
	for (u32 i = 0; i < SLOTS; i++)
		tdm_aptr_st_release(&slot[i], new_object());
	for (uintptr_t i = 0; i < READERS; i++)
		CHECK_EQ(plat_thread_start(&t[i], read_pointers, (void *)(i + 1), "reader"), 0);
	CHECK_EQ(plat_thread_start(&t[READERS], writer_thread, (void *)(uintptr_t)(seed + 1), "writer"), 0);
	await_readers();
	write_pointers(seed, t_slow() ? 10000 : 20000);
	plat_thread_join(t[READERS]);
	tdm_a32_st_relaxed(&stop, 1);
	for (u32 i = 0; i < READERS; i++)
		plat_thread_join(t[i]);
	CHECK(tdm_a32_ld_relaxed(&reads) >= READERS);
	tdmi_rcu_drain(&rcu);
	for (u32 i = 0; i < SLOTS; i++)
		free(tdm_aptr_ld_acquire(&slot[i]));
}

/* ---- stress: the interval tree ----------------------------------------------------------------------------------------- */

/*
 * The set is always a tiling of [0, SPACE): the writer splits tiles and joins neighbours, each in one transaction. So a reader that walks it finds
 * neither a gap nor an overlap, and every point has exactly one tile. The payload is the tile's own length.
 */
#define SPACE 1000u

static struct tdm_itree tree;
static struct tdm_alloc heap;

static void *heap_alloc(void *ctx, size_t size)
{
	return tdmi_alloc(ctx, size);
}

static void heap_free(void *ctx, void *p, size_t size)
{
	tdmi_free(ctx, p, size);
}

static int next_tile(const struct tdm_interval *i, void *ctx)
{
	u64 *at = ctx;

	CHECK_EQ(i->start, *at);
	CHECK_EQ((uintptr_t)i->payload, i->end - i->start);
	*at = i->end;
	return 0;
}

static void read_tiles(void *arg)
{
	struct tdm_rcu_reader *r = tdmi_rcu_register(&rcu);
	u64 seed = (uintptr_t)arg;
	u32 n = 0;

	for (; !tdm_a32_ld_relaxed(&stop); n++) {
		const struct tdm_itree_node *root;
		struct tdm_interval i;
		u64 at = t_rand(&seed) % SPACE, end = 0;

		tdmi_rcu_read_lock(r);
		root = tdmi_itree_root(&tree);
		CHECK(tdmi_itree_find(root, at, at + 1, &i));
		CHECK(i.start <= at && at < i.end);
		if (n % 16 == 0) {
			tdmi_itree_each(root, 0, SPACE, next_tile, &end);
			CHECK_EQ(end, SPACE);
		}
		tdmi_rcu_read_unlock(r);
		if (!n)
			tdm_a32_add_relaxed(&begun, 1);
	}
	tdmi_rcu_unregister(r);
	tdm_a32_add_relaxed(&reads, n);
}

static void insert_tile(struct tdm_itree_txn *txn, u64 start, u64 end)
{
	CHECK_EQ(tdmi_itree_insert(txn, start, end, (void *)(uintptr_t)(end - start)), 0);
}

static void change_tiles(u64 *seed)
{
	struct tdm_itree_txn txn;
	struct tdm_interval a, b;
	u64 at = t_rand(seed) % SPACE, cut;

	tdmi_itree_begin(&tree, &txn);
	CHECK(tdmi_itree_find(txn.root, at, at + 1, &a));
	CHECK_EQ(tdmi_itree_remove(&txn, a.start, a.end, a.payload), 0);
	if (t_rand(seed) % 2 && a.end - a.start > 1) {
		cut = a.start + 1 + t_rand(seed) % (a.end - a.start - 1);
		insert_tile(&txn, a.start, cut);
		insert_tile(&txn, cut, a.end);
	} else if (a.end < SPACE) {
		CHECK(tdmi_itree_find(txn.root, a.end, a.end + 1, &b));
		CHECK_EQ(tdmi_itree_remove(&txn, b.start, b.end, b.payload), 0);
		insert_tile(&txn, a.start, b.end);
	} else {
		tdmi_itree_abort(&txn);
		return;
	}
	tdmi_itree_commit(&txn);
}

TEST(stress_tree, .seconds = 60)
{
	const struct tdm_itree_mem mem = { heap_alloc, heap_free, &heap };
	struct plat_thread *t[READERS];
	struct tdm_itree_txn txn;
	u64 seed = t_seed();
	u32 rounds = t_slow() ? 20000 : 60000;

	tdmi_rcu_init(&rcu);
	tdmi_alloc_init(&heap);
	tdmi_itree_init(&tree, &rcu, &mem);
	tdmi_itree_begin(&tree, &txn);
	insert_tile(&txn, 0, SPACE);
	tdmi_itree_commit(&txn);
	for (uintptr_t i = 0; i < READERS; i++)
		CHECK_EQ(plat_thread_start(&t[i], read_tiles, (void *)(i + 1), "reader"), 0);
	await_readers();
	for (u32 i = 0; i < rounds; i++) {
		change_tiles(&seed);
		if (i % 4 == 0)
			tdmi_rcu_poll(&rcu);
	}
	CHECK(tdmi_itree_valid(tdmi_itree_root(&tree), tree.count));
	tdm_a32_st_relaxed(&stop, 1);
	for (u32 i = 0; i < READERS; i++)
		plat_thread_join(t[i]);
	CHECK(tdm_a32_ld_relaxed(&reads) >= READERS);
	tdmi_itree_destroy(&tree);
	tdmi_rcu_drain(&rcu);
	CHECK_EQ(tdmi_alloc_used(&heap), 0);
	tdmi_alloc_destroy(&heap);
}
