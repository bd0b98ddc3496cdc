// SPDX-License-Identifier: MIT
/*
 * notifier.c - see notifier.h. Names and rules are those of the kernel's mm/mmu_notifier.c.
 *
 * Who writes what. Everything in struct tdm_notifiers changes under `lock`, which is held for moments and never while a subscriber is called. What
 * is read without it:
 *   armed, nwhole,
 *   nshare            a reader that misses a change was not ordered after it. armed: the first subscriber comes while no round is under way. nwhole: start
 *                     and end read it after they have held the lock. tdmi_invalidate() may miss a notifier that is being registered, but it is
 *                     within a round that began before, for the end of which register waits; young hooks may miss one, who says nothing yet.
 *   in->seq           see below
 *   ranges            a round takes the root under the lock, and walks it without: it does so only where it has found an overlap, so seq is odd until
 *                     its own end, and while seq is odd no other root is published, nor is a node of this one freed.
 *   call->name,since  written by the walk; read by tdmi_notifiers_stuck() under the lock. A name lives for as long as its callback runs, because
 *                     unregister waits for the callback, and remove for the round; both need the lock for that.
 *
 * Intervals: why a reader whose read_retry() says no has read nothing stale. Let s be the odd number of a round that overlaps in, and a what
 * read_begin() has returned. The entries change between start's return and end. Before that, start has called invalidate, which sets in->seq to s under
 * the driver's lock and drops what the device has.
 *   The reader asks before that (the driver's lock orders the two): what it puts into the device's table is dropped by invalidate.
 *   It asks afterwards: in->seq is s or, if there have been later rounds, larger; numbers only grow. If it is not a, the reader retries. If it is,
 *   read_begin() has found it in in->seq, and waited until seq was not a any more. Then all rounds of that number were over, and s was no later one:
 *   the reader has read after the end.
 * A new subscription begins with the odd number before an even seq: no round has it. While rounds are under way of which it may have missed the start,
 * seq is made odd, if it is not, and the subscription has that number: its first read_begin() waits for all of them.
 *
 * Deferral. An insert or remove while seq is odd may not publish a root. The tree is persistent: the change is made at once, with whatever memory it
 * needs, in a transaction over the published root (`deferred`), into which later ones go too; the end of the last round publishes it. So nothing
 * is allocated there, and nothing can fail. A removal has to succeed always: each insert makes sure of `nodes`, which only removals may use; the
 * nodes that removals replace come back with the next grace periods.
 *
 * Whole-space notifiers. A walk over `whole` links a record into `calls`: which notifier it is calling (cur) and which comes next. unregister moves
 * `next` on where it points to the one that goes, and waits until nobody's cur is. Notifiers have stamps in the order of the list; a round remembers the
 * stamp of the last one there was when it began, and calls start and end of none that is newer. Rounds are counted by the parity of that stamp, and
 * a registration (one at a time) waits for those of the parity before it: they ended without having told it. New rounds have the other parity, so there is
 * no starving. The same two counts say whether any round is under way.
 *
 * Deadlocks. Who waits for rounds or callbacks of others marks that place by a lock of its own (INV_WAIT), which has a lower rank than what a round or a
 * callback is marked with, and than the event lock. Thus the lock rank check finds at the first try, without the race, an unregister in a callback, a remove
 * within a round of the same thread, or either of them with a lock held that a round needs.
 */
#include <string.h>
#include "mm/notifier_impl.h"

/* ---- who is being called ------------------------------------------------------------------------------------------------------ */

bool tdmi_notifiers_stuck(struct tdm_notifiers *nots, u64 older_than_ns, char *name, size_t len)
{
	u64 now = plat_now_ns(), longest = older_than_ns;
	const char *who = NULL;

	if (!tdm_a32_ld_acquire(&nots->armed))
		return false;
	plat_mutex_lock(&nots->lock);
	tdm_list_for_each(l, &nots->calls) {
		const struct tdm_inv_call *call = tdm_container_of(l, struct tdm_inv_call, link);
		const char *is = tdm_aptr_ld_acquire(&call->name);
		u64 since = tdm_a64_ld_relaxed(&call->since); /* of this name, or of a later call */

		if (is && since < now && now - since > longest) {
			longest = now - since;
			who = is;
		}
	}
	if (who && len) {
		size_t n = TDM_MIN(strlen(who), len - 1);

		memcpy(name, who, n);
		name[n] = '\0';
	}
	plat_mutex_unlock(&nots->lock);
	return who != NULL;
}

/* ---- the whole address space ---------------------------------------------------------------------------------------------------- */

enum op { OP_START, OP_END, OP_INVALIDATE, OP_CLEAR_FLUSH_YOUNG, OP_CLEAR_YOUNG, OP_TEST_YOUNG, OP_RELEASE };

struct walk {
	enum op op;
	const struct tdm_inv_range *range; /* of OP_START, OP_END */
	u64 start, end;                    /* of the others */
	u64 upto;                          /* newer ones are left out */
	u64 failed;                        /* out, OP_START: the stamp of the one that could not; 0: none */
	bool young;                        /* out */
};

static bool has_op(const struct tdm_notifier_ops *ops, enum op op)
{
	switch (op) {
	case OP_START: return ops->invalidate_start;
	case OP_END: return ops->invalidate_end;
	case OP_INVALIDATE: return ops->invalidate;
	case OP_CLEAR_FLUSH_YOUNG: return ops->clear_flush_young;
	case OP_CLEAR_YOUNG: return ops->clear_young;
	case OP_TEST_YOUNG: return ops->test_young;
	case OP_RELEASE: return ops->release;
	}
	return false;
}

/* false: there is no need to ask any further. */
static bool do_op(struct tdm_notifier *n, struct walk *w)
{
	int err;

	switch (w->op) {
	case OP_START:
		err = n->ops->invalidate_start(n, w->range);
		/* There is nobody to whom any other failure could be told: the entries will change. */
		TDM_BUG_ON(err && (err != -EAGAIN || w->range->blockable));
		w->failed = err ? n->stamp : 0;
		return !err;
	case OP_END:
		n->ops->invalidate_end(n, w->range);
		return true;
	case OP_INVALIDATE:
		n->ops->invalidate(n, w->start, w->end);
		return true;
	case OP_CLEAR_FLUSH_YOUNG:
		w->young |= n->ops->clear_flush_young(n, w->start, w->end);
		return true;
	case OP_CLEAR_YOUNG:
		w->young |= n->ops->clear_young(n, w->start, w->end);
		return true;
	case OP_TEST_YOUNG:
		w->young = n->ops->test_young(n, w->start, w->end);
		return !w->young;
	case OP_RELEASE:
		n->ops->release(n);
		return true;
	}
	return false;
}

static struct tdm_notifier *notifier_at(const struct tdm_notifiers *nots, struct tdm_list *l)
{
	return l == &nots->whole ? NULL : tdm_container_of(l, struct tdm_notifier, link);
}

static bool wanted_locked(struct tdm_notifier *n, const struct walk *w)
{
	if (n->stamp > w->upto || n->released)
		return false;
	n->released = w->op == OP_RELEASE;
	return has_op(n->ops, w->op);
}

static void walk_whole(struct tdm_notifiers *nots, struct walk *w)
{
	bool atomic = w->op != OP_START && w->op != OP_END && w->op != OP_RELEASE, go_on = true;
	struct tdm_inv_call call;
	struct tdm_notifier *n;

	plat_mutex_lock(&nots->lock);
	tdmi_inv_call_open_locked(nots, &call, atomic ? TDM_RANK_INV_ATOMIC : TDM_RANK_INV_CALL);
	call.next = notifier_at(nots, nots->whole.next);
	while (go_on && (n = call.next)) {
		call.next = notifier_at(nots, n->link.next);
		if (!wanted_locked(n, w))
			continue;
		call.cur = n;
		plat_mutex_unlock(&nots->lock);
		tdmi_inv_callback_begin(&call, n->name);
		go_on = do_op(n, w);
		tdmi_inv_callback_end(&call);
		plat_mutex_lock(&nots->lock);
		call.cur = NULL;
		if (!n->nots) { /* unregister waits, and n is its when the lock is let go of */
			tdmi_inv_unlock(nots, true);
			plat_mutex_lock(&nots->lock);
		}
	}
	tdm_list_del(&call.link);
	plat_mutex_unlock(&nots->lock);
}

int tdmi_notifier_register(struct tdm_notifiers *nots, struct tdm_notifier *n)
{
	u64 before;

	plat_mutex_lock(&nots->joining);
	plat_mutex_lock(&nots->lock);
	if (nots->released) {
		plat_mutex_unlock(&nots->lock);
		plat_mutex_unlock(&nots->joining);
		return -ESRCH;
	}
	TDM_BUG_ON(n->nots);
	tdmi_inv_arm_locked(nots);
	before = nots->stamp++ & 1;
	n->nots = nots;
	n->stamp = nots->stamp;
	n->released = false;
	tdm_list_add_tail(&nots->whole, &n->link);
	tdm_a32_add_relaxed(&nots->nwhole, 1);
	if (n->ops->invalidate)
		tdm_a32_add_relaxed(&nots->nshare, 1);
	while (nots->rounds[before])
		tdmi_inv_wait_locked(nots);
	plat_mutex_unlock(&nots->lock);
	plat_mutex_unlock(&nots->joining);
	return 0;
}

static bool is_called_locked(const struct tdm_notifiers *nots, const struct tdm_notifier *n)
{
	tdm_list_for_each(l, &nots->calls)
		if (tdm_container_of(l, struct tdm_inv_call, link)->cur == n)
			return true;
	return false;
}

static void unlink_locked(struct tdm_notifiers *nots, struct tdm_notifier *n)
{
	tdm_list_for_each(l, &nots->calls) {
		struct tdm_inv_call *call = tdm_container_of(l, struct tdm_inv_call, link);

		if (call->next == n)
			call->next = notifier_at(nots, n->link.next);
	}
	tdm_list_del(&n->link);
	tdm_a32_sub_relaxed(&nots->nwhole, 1);
	if (n->ops->invalidate)
		tdm_a32_sub_relaxed(&nots->nshare, 1);
	n->nots = NULL;
}

void tdmi_notifier_unregister(struct tdm_notifiers *nots, struct tdm_notifier *n)
{
	struct tdm_inv_call call;
	bool release;

	tdmi_inv_check_place(TDM_RANK_INV_WAIT);
	plat_mutex_lock(&nots->lock);
	TDM_BUG_ON(n->nots != nots);
	unlink_locked(nots, n);
	release = !n->released && n->ops->release;
	n->released = true;
	while (is_called_locked(nots, n))
		tdmi_inv_wait_locked(nots);
	tdmi_inv_call_open_locked(nots, &call, TDM_RANK_INV_CALL);
	plat_mutex_unlock(&nots->lock);
	if (release) {
		tdmi_inv_callback_begin(&call, n->name);
		n->ops->release(n);
		tdmi_inv_callback_end(&call);
	}
	plat_mutex_lock(&nots->lock);
	tdm_list_del(&call.link);
	plat_mutex_unlock(&nots->lock);
}

void tdmi_notifiers_invalidate(struct tdm_notifiers *nots, u64 start, u64 end)
{
	struct walk w = { .op = OP_INVALIDATE, .start = start, .end = end, .upto = ~(u64)0 };

	walk_whole(nots, &w);
}

static bool walk_young(struct tdm_notifiers *nots, enum op op, u64 start, u64 end)
{
	struct walk w = { .op = op, .start = start, .end = end, .upto = ~(u64)0 };

	if (tdm_a32_ld_relaxed(&nots->nwhole))
		walk_whole(nots, &w);
	return w.young;
}

bool tdmi_notifiers_clear_flush_young(struct tdm_notifiers *nots, u64 start, u64 end)
{
	return walk_young(nots, OP_CLEAR_FLUSH_YOUNG, start, end);
}

bool tdmi_notifiers_clear_young(struct tdm_notifiers *nots, u64 start, u64 end)
{
	return walk_young(nots, OP_CLEAR_YOUNG, start, end);
}

bool tdmi_notifiers_test_young(struct tdm_notifiers *nots, u64 start, u64 end)
{
	return walk_young(nots, OP_TEST_YOUNG, start, end);
}

/* ---- rounds ------------------------------------------------------------------------------------------------------------------------ */

/* The mark is set by a trylock: rounds nest in any order, with and without the event lock. */
static void mark_round(struct tdm_inv_range *range, bool begins)
{
#ifdef TDM_DEBUG
	if (begins) {
		tdmi_inv_check_place(TDM_RANK_INV_CALL); /* no table lock is held */
		plat_mutex_init(&range->inside, TDM_RANK_INV_ROUND);
		TDM_BUG_ON(!plat_mutex_trylock(&range->inside));
	} else {
		plat_mutex_unlock(&range->inside);
	}
#endif
}

/* Count the round. The root of the ranges, if one of them overlaps. */
static const struct tdm_itree_node *round_begin(struct tdm_notifiers *nots, struct tdm_inv_range *range, u64 *seq)
{
	const struct tdm_itree_node *root;

	TDM_BUG_ON(range->state != TDM_ROUND_NONE);
	mark_round(range, true);
	plat_mutex_lock(&nots->lock);
	range->state = TDM_ROUND_COUNTED;
	range->stamp = nots->stamp;
	nots->rounds[range->stamp & 1]++;
	root = tdmi_ranges_begin_locked(nots, range);
	*seq = nots->seq;
	plat_mutex_unlock(&nots->lock);
	return root;
}

static void round_finish(struct tdm_notifiers *nots, struct tdm_inv_range *range)
{
	bool changed;

	plat_mutex_lock(&nots->lock);
	TDM_BUG_ON(nots->rounds[range->stamp & 1] == 0);
	changed = --nots->rounds[range->stamp & 1] == 0; /* register may wait for it */
	if (nots->rounds[0] == 0 && nots->rounds[1] == 0)
		tdmi_ranges_end_locked(nots);
	tdmi_inv_unlock(nots, changed);
	range->state = TDM_ROUND_NONE;
	mark_round(range, false);
}

/* Ends for those whose start has succeeded: they are older than the one that failed. */
static int start_whole(struct tdm_notifiers *nots, const struct tdm_inv_range *range)
{
	struct walk w = { .op = OP_START, .range = range, .upto = range->stamp };

	walk_whole(nots, &w);
	if (!w.failed)
		return 0;
	w.op = OP_END;
	w.upto = w.failed - 1;
	walk_whole(nots, &w);
	return -EAGAIN;
}

int tdmi_round_start(struct tdm_notifiers *nots, struct tdm_inv_range *range)
{
	const struct tdm_itree_node *root;
	int err = 0;
	u64 seq;

	TDM_ASSERT(range->start < range->end);
	root = round_begin(nots, range, &seq);
	if (root)
		err = tdmi_ranges_invalidate(nots, root, range, seq);
	if (!err && tdm_a32_ld_relaxed(&nots->nwhole))
		err = start_whole(nots, range);
	if (err)
		round_finish(nots, range);
	return err;
}

void tdmi_round_end(struct tdm_notifiers *nots, struct tdm_inv_range *range)
{
	struct walk w = { .op = OP_END, .range = range, .upto = range->stamp };

	if (range->state == TDM_ROUND_UNCOUNTED)
		TDM_BUG("the first subscription came within a round");
	TDM_BUG_ON(range->state != TDM_ROUND_COUNTED);
	round_finish(nots, range);
	if (tdm_a32_ld_relaxed(&nots->nwhole))
		walk_whole(nots, &w);
}

/*
 * A port that shares the table caches what it has read there in its own TLB, and goes on using it until it is told. It has to be told before the table is
 * unlocked, and before anybody sees the new entry, in two cases:
 *   The frame may be freed before the end of the range: its next owner's bytes would be read, and written, through the old translation.
 *   The entry comes to point to another frame (CoW, the write fault on a zero page, migration). Let two CPUs break CoW at A and B, and both be interrupted
 *   before the end of their ranges; others write the new A, then the new B. If B's invalidation comes first the port reads the old A with the new B: two
 *   writes have changed places. And what it writes to the old frame is lost.
 * Migration does that within one round even where this change only empties the entry; and with EXCLUSIVE somebody else relies on nobody having the frame
 * as soon as the entry says so. Everything else may wait: fewer rights for the same frame, or an entry that goes while its frame is held (unmapping for
 * reclaim, which flushes once for many and frees afterwards).
 */
bool tdm_may_defer(enum tdm_inv_event event, enum tdm_inv_change change, bool frame_held)
{
	if (event == TDM_INV_MIGRATE || event == TDM_INV_EXCLUSIVE || change == TDM_INV_OTHER_FRAME)
		return false;
	return change == TDM_INV_SAME_FRAME || frame_held;
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

void tdmi_notifiers_init(struct tdm_notifiers *nots, struct tdm_alloc *alloc, struct tdm_rcu *rcu)
{
	*nots = (struct tdm_notifiers){ .alloc = alloc, .rcu = rcu, .seq = 2 };
	plat_mutex_init(&nots->joining, TDM_RANK_INV_WAIT);
	plat_mutex_init(&nots->lock, TDM_RANK_NOTIFIERS);
	tdm_list_init(&nots->whole);
	tdm_list_init(&nots->calls);
	tdmi_ranges_init(nots);
}

void tdmi_notifiers_destroy(struct tdm_notifiers *nots)
{
	TDM_BUG_ON(nots->rounds[0] || nots->rounds[1] || !tdm_list_empty(&nots->whole));
	tdmi_ranges_destroy(nots);
}

void tdmi_notifiers_arm(struct tdm_notifiers *nots)
{
	plat_mutex_lock(&nots->lock);
	tdmi_inv_arm_locked(nots);
	plat_mutex_unlock(&nots->lock);
}

void tdmi_notifiers_release(struct tdm_notifiers *nots)
{
	struct tdm_inv_range all = TDM_INV_RANGE(0, ~(u64)0, TDM_INV_RELEASE);
	struct walk w = { .op = OP_RELEASE, .upto = ~(u64)0 };
	const struct tdm_itree_node *root;
	bool again;
	u64 seq;

	plat_mutex_lock(&nots->lock);
	again = nots->released;
	nots->released = true;
	plat_mutex_unlock(&nots->lock);
	if (again)
		return;
	root = round_begin(nots, &all, &seq);
	if (root)
		(void)tdmi_ranges_invalidate(nots, root, &all, seq);
	round_finish(nots, &all);
	walk_whole(nots, &w);
}

void tdmi_notifiers_after_fork(struct tdm_notifiers *nots)
{
	TDM_BUG_ON(nots->rounds[0] || nots->rounds[1]);
	plat_mutex_reset(&nots->joining);
	plat_mutex_reset(&nots->lock);
	plat_mutex_reset(&nots->nodes_lock);
	tdm_list_init(&nots->calls);
	nots->sleepers = 0;
}
