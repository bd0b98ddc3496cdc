// SPDX-License-Identifier: MIT
/* interval.c - notifiers of ranges: see notifier.h, and the top of notifier.c for why they are right. */
#include "mm/notifier_impl.h"

/* A removal makes as many nodes as the path to its node is long, and one or two more: about 25 of 100,000, hardly ever 60 of millions. */
#define NODES_KEPT 96u

struct tdm_inv_node {
	struct tdm_inv_node *next;
};

/* ---- the tree ------------------------------------------------------------------------------------------------------------ */

static struct tdm_inv_node *node_take(struct tdm_notifiers *nots)
{
	struct tdm_inv_node *n;

	plat_mutex_lock(&nots->nodes_lock);
	n = nots->nodes;
	if (n) {
		nots->nodes = n->next;
		nots->nnodes--;
	}
	plat_mutex_unlock(&nots->nodes_lock);
	return n;
}

static bool node_keep(struct tdm_notifiers *nots, void *p)
{
	struct tdm_inv_node *n = p;
	bool keep;

	plat_mutex_lock(&nots->nodes_lock);
	keep = nots->nnodes < NODES_KEPT;
	if (keep) {
		n->next = nots->nodes;
		nots->nodes = n;
		nots->nnodes++;
	}
	plat_mutex_unlock(&nots->nodes_lock);
	return keep;
}

/* With the lock held. */
static void *node_alloc(void *ctx, size_t size)
{
	struct tdm_notifiers *nots = ctx;
	void *p = tdmi_alloc(nots->alloc, size);

	return p || !nots->removing ? p : node_take(nots);
}

/* By whoever polls the RCU domain, or with the lock held. */
static void node_free(void *ctx, void *p, size_t size)
{
	struct tdm_notifiers *nots = ctx;

	if (!node_keep(nots, p))
		tdmi_free(nots->alloc, p, size);
}

static int nodes_fill(struct tdm_notifiers *nots)
{
	u32 have;

	do {
		void *p;

		plat_mutex_lock(&nots->nodes_lock);
		have = nots->nnodes;
		plat_mutex_unlock(&nots->nodes_lock);
		if (have == NODES_KEPT)
			return 0;
		p = tdmi_alloc(nots->alloc, tdmi_itree_node_size());
		if (!p)
			return -ENOMEM;
		node_free(nots, p, tdmi_itree_node_size());
	} while (true);
}

/* Is a range that somebody has subscribed to being invalidated? */
static bool invalidating_locked(const struct tdm_notifiers *nots)
{
	return nots->seq & 1;
}

/* Insert or remove: now, or with the end of what is under way. */
static int change_locked(struct tdm_notifiers *nots, struct tdm_interval_notifier *in, bool remove)
{
	struct tdm_itree_txn now, *t = &now;
	int err;

	if (!nots->deferring)
		tdmi_itree_begin(&nots->ranges, &now);
	if (invalidating_locked(nots)) {
		t = &nots->deferred;
		if (!nots->deferring)
			*t = now;
		nots->deferring = true;
	}
	nots->removing = remove;
	err = (remove ? tdmi_itree_remove : tdmi_itree_insert)(t, in->start, in->end, in);
	nots->removing = false;
	if (t == &now) {
		if (err)
			tdmi_itree_abort(t);
		else
			tdmi_itree_commit(t);
	}
	return err;
}

/* ---- where there is nobody ---------------------------------------------------------------------------------------------------- */

/*
 * Most rounds concern nobody, and to find that out in a tree of 100,000 takes a cache miss for each level. So it is counted how many subscriptions touch each 2 MiB; where that is
 * none there is no need to look. A subscription is counted from before it is in the tree until after it has left the tree that rounds see. What spans much, or
 * cannot be counted for want of memory, is `wide`, and as long as there is one the tree is looked at.
 */
#define PLACE_SHIFT 21u
#define PLACE_BITS 13u /* of each of two levels: 47 in all */
#define PLACES (1u << PLACE_BITS)
#define SPAN_MAX ((u64)64 << PLACE_SHIFT)
#define TOP ((u64)1 << (PLACE_SHIFT + 2 * PLACE_BITS))

static u16 *place_at(const struct tdm_notifiers *nots, u64 va)
{
	u16 *leaf = nots->places ? nots->places[va >> (PLACE_SHIFT + PLACE_BITS)] : NULL;

	return leaf ? &leaf[(va >> PLACE_SHIFT) & (PLACES - 1)] : NULL;
}

static u16 *place_make(struct tdm_notifiers *nots, u64 va)
{
	u16 **leaf;

	if (!nots->places)
		nots->places = tdmi_alloc(nots->alloc, PLACES * sizeof(*nots->places));
	leaf = nots->places ? &nots->places[va >> (PLACE_SHIFT + PLACE_BITS)] : NULL;
	if (leaf && !*leaf)
		*leaf = tdmi_alloc(nots->alloc, PLACES * sizeof(**leaf));
	return place_at(nots, va);
}

/* A count that has reached its end stays there. */
static void place_count(u16 *place, bool add)
{
	if (*place != 0xffff)
		*place = (u16)(add ? *place + 1 : *place - 1);
}

static void count_locked(struct tdm_notifiers *nots, struct tdm_interval_notifier *in)
{
	in->wide = in->end > TOP || in->end - in->start > SPAN_MAX;
	for (u64 va = TDM_ALIGN_DOWN(in->start, 1u << PLACE_SHIFT); va < in->end && !in->wide; va += 1u << PLACE_SHIFT)
		in->wide = !place_make(nots, va);
	nots->wide += in->wide;
	for (u64 va = TDM_ALIGN_DOWN(in->start, 1u << PLACE_SHIFT); va < in->end && !in->wide; va += 1u << PLACE_SHIFT)
		place_count(place_at(nots, va), true);
}

static void uncount_locked(struct tdm_notifiers *nots, struct tdm_interval_notifier *in)
{
	nots->wide -= in->wide;
	for (u64 va = TDM_ALIGN_DOWN(in->start, 1u << PLACE_SHIFT); va < in->end && !in->wide; va += 1u << PLACE_SHIFT)
		place_count(place_at(nots, va), false);
}

/* There is certainly nobody. */
static bool nobody_locked(const struct tdm_notifiers *nots, u64 start, u64 end)
{
	if (nots->wide || end > TOP || end - start > SPAN_MAX)
		return false;
	for (u64 va = TDM_ALIGN_DOWN(start, 1u << PLACE_SHIFT); va < end; va += 1u << PLACE_SHIFT) {
		const u16 *place = place_at(nots, va);

		if (place && *place)
			return false;
	}
	return true;
}

/* ---- subscriptions --------------------------------------------------------------------------------------------------------- */

static int insert_locked(struct tdm_notifiers *nots, struct tdm_interval_notifier *in)
{
	u64 before = nots->seq;
	int err;

	if (nots->released)
		return -ESRCH;
	err = nodes_fill(nots);
	if (!err)
		err = change_locked(nots, in, false);
	if (err)
		return err;
	tdmi_inv_arm_locked(nots);
	count_locked(nots, in);
	in->nots = nots;
	in->deferred = before & 1 ? before : 0;
	if (nots->rounds[0] || nots->rounds[1]) {
		nots->seq |= 1;
		tdm_a64_st_relaxed(&in->seq, nots->seq);
	} else {
		tdm_a64_st_relaxed(&in->seq, nots->seq - 1);
	}
	return 0;
}

int tdmi_interval_notifier_insert(struct tdm_notifiers *nots, struct tdm_interval_notifier *in, u64 start, u64 end)
{
	int err;

	if (start >= end || ((start | end) & ~TDM_PAGE_MASK))
		return -EINVAL;
	TDM_BUG_ON(in->nots || !in->ops->invalidate);
	in->start = start;
	in->end = end;
	plat_mutex_lock(&nots->lock);
	err = insert_locked(nots, in);
	plat_mutex_unlock(&nots->lock);
	return err;
}

static void wait_seq_locked(struct tdm_notifiers *nots, u64 seq)
{
	while (nots->seq == seq)
		tdmi_inv_wait_locked(nots);
}

/* Memory is short, and what removals have used is not back yet. */
static void wait_for_nodes_locked(struct tdm_notifiers *nots)
{
	if (invalidating_locked(nots)) {
		wait_seq_locked(nots, nots->seq);
	} else {
		plat_mutex_unlock(&nots->lock);
		tdmi_rcu_drain(nots->rcu);
		plat_mutex_lock(&nots->lock);
	}
}

void tdmi_interval_notifier_remove(struct tdm_interval_notifier *in)
{
	struct tdm_notifiers *nots = in->nots;
	bool published;
	u64 seq;
	int err;

	TDM_BUG_ON(!nots);
	tdmi_inv_check_place(TDM_RANK_INV_WAIT);
	plat_mutex_lock(&nots->lock);
	while ((err = change_locked(nots, in, true)) == -ENOMEM)
		wait_for_nodes_locked(nots);
	TDM_BUG_ON(err);
	seq = nots->seq;
	published = in->deferred != seq; /* else no round has seen it */
	if (invalidating_locked(nots) && published)
		wait_seq_locked(nots, seq);
	uncount_locked(nots, in);
	in->nots = NULL;
	plat_mutex_unlock(&nots->lock);
}

u64 tdm_interval_read_begin(struct tdm_interval_notifier *in)
{
	struct tdm_notifiers *nots = in->nots;
	u64 seq;

	TDM_ASSERT(nots);
#ifdef TDM_DEBUG
	tdmi_inv_check_place(TDM_RANK_INV_WAIT);
#endif
	/* in->seq alone would do for what follows, but not for telling whether the round that set it is still under way. */
	plat_mutex_lock(&nots->lock);
	seq = tdm_a64_ld_relaxed(&in->seq);
	wait_seq_locked(nots, seq);
	plat_mutex_unlock(&nots->lock);
	return seq;
}

struct range_walk {
	struct tdm_inv_call call;
	const struct tdm_inv_range *range;
	u64 seq;
};

static int invalidate_one(const struct tdm_interval *i, void *ctx)
{
	struct tdm_interval_notifier *in = i->payload;
	struct range_walk *w = ctx;
	bool done;

	tdmi_inv_callback_begin(&w->call, in->name);
	done = in->ops->invalidate(in, w->range, w->seq);
	tdmi_inv_callback_end(&w->call);
	TDM_BUG_ON(!done && w->range->blockable); /* as with start's */
	return done ? 0 : -EAGAIN;
}

int tdmi_ranges_invalidate(struct tdm_notifiers *nots, const struct tdm_itree_node *root, const struct tdm_inv_range *range, u64 seq)
{
	struct range_walk w = { .range = range, .seq = seq };
	int err;

	plat_mutex_lock(&nots->lock);
	tdmi_inv_call_open_locked(nots, &w.call, TDM_RANK_INV_CALL);
	plat_mutex_unlock(&nots->lock);
	err = tdmi_itree_each(root, range->start, range->end, invalidate_one, &w);
	plat_mutex_lock(&nots->lock);
	tdm_list_del(&w.call.link);
	plat_mutex_unlock(&nots->lock);
	return err;
}

const struct tdm_itree_node *tdmi_ranges_begin_locked(struct tdm_notifiers *nots, const struct tdm_inv_range *range)
{
	const struct tdm_itree_node *root = tdmi_itree_root(&nots->ranges);
	struct tdm_interval overlap;

	if (nobody_locked(nots, range->start, range->end) || !tdmi_itree_find(root, range->start, range->end, &overlap))
		return NULL;
	nots->seq |= 1;
	return root;
}

void tdmi_ranges_end_locked(struct tdm_notifiers *nots)
{
	if (!invalidating_locked(nots))
		return;
	nots->seq++;
	if (nots->deferring)
		tdmi_itree_commit(&nots->deferred);
	nots->deferring = false;
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

void tdmi_ranges_init(struct tdm_notifiers *nots)
{
	struct tdm_itree_mem mem = { node_alloc, node_free, nots };

	plat_mutex_init(&nots->nodes_lock, TDM_RANK_INV_NODES);
	tdmi_itree_init(&nots->ranges, nots->rcu, &mem);
}

void tdmi_ranges_destroy(struct tdm_notifiers *nots)
{
	struct tdm_inv_node *n;

	TDM_BUG_ON(nots->ranges.count);
	tdmi_itree_destroy(&nots->ranges);
	for (u32 i = 0; nots->places && i < PLACES; i++)
		tdmi_free(nots->alloc, nots->places[i], PLACES * sizeof(*nots->places[i]));
	tdmi_free(nots->alloc, nots->places, PLACES * sizeof(*nots->places));
	tdmi_rcu_drain(nots->rcu);
	while ((n = node_take(nots)))
		tdmi_free(nots->alloc, n, tdmi_itree_node_size());
}
