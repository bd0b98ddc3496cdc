// SPDX-License-Identifier: MIT
/*
 * itree.c - see itree.h.
 *
 * Every function that builds returns a new tree and leaves its arguments as they are; it notes the nodes that the new tree does not use any
 * more in the transaction. When memory runs out it says so, and the transaction goes back to where it was before the change (a mark): what has
 * been made since is freed, what has been noted as replaced since is forgotten.
 *
 * Depth is about 2 log2(n), so recursion is shallow: 40 levels for a million intervals.
 */
#include "base/itree.h"

struct tdm_itree_node {
	/* A search looks at these alone, and only at nodes on its path: in a large set each is a cache miss. */
	u64 start, end;
	u64 max_end;   /* of the whole subtree */
	u64 left_max;  /* of the left one; 0: there is none */
	const struct tdm_itree_node *left, *right;
	void *payload;
	u64 prio;      /* not below those of the children */
	/* The rest is the writer's. A node made and replaced by one transaction is on both lists. */
	struct tdm_itree_node *made_next, *replaced_next;
	struct tdm_itree *tree;
	struct tdm_rcu_head rcu;
};

typedef const struct tdm_itree_node node;

/* Not const: readers never write, and writers write only to nodes that nobody sees yet, or to the writer's fields. */
static struct tdm_itree_node *writable(node *n)
{
	return (struct tdm_itree_node *)(uintptr_t)n;
}

void tdmi_itree_init(struct tdm_itree *t, struct tdm_rcu *rcu, const struct tdm_itree_mem *mem)
{
	tdm_aptr_st_relaxed(&t->root, NULL);
	t->rcu = rcu;
	t->mem = *mem;
	t->count = 0;
	t->inserted = 0;
}

size_t tdmi_itree_node_size(void)
{
	return sizeof(struct tdm_itree_node);
}

static void free_node(struct tdm_itree_node *n)
{
	n->tree->mem.free(n->tree->mem.ctx, n, sizeof(*n));
}

static void free_node_rcu(struct tdm_rcu_head *head, void *ctx)
{
	(void)ctx;
	free_node(tdm_container_of(head, struct tdm_itree_node, rcu));
}

static void free_subtree(node *n)
{
	if (!n)
		return;
	free_subtree(n->left);
	free_subtree(n->right);
	free_node(writable(n));
}

void tdmi_itree_destroy(struct tdm_itree *t)
{
	free_subtree(tdmi_itree_root(t));
	tdm_aptr_st_relaxed(&t->root, NULL);
	t->count = 0;
}

/* ---- building ---------------------------------------------------------------------------------------------------------- */

static u64 max_end(node *n)
{
	return n ? n->max_end : 0;
}

static int compare(u64 start, u64 end, const void *payload, node *n)
{
	if (start != n->start)
		return start < n->start ? -1 : 1;
	if (end != n->end)
		return end < n->end ? -1 : 1;
	if (payload != n->payload)
		return (uintptr_t)payload < (uintptr_t)n->payload ? -1 : 1;
	return 0;
}

static u64 hash(u64 x)
{
	x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
	x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
	return x ^ (x >> 33);
}

static struct tdm_itree_node *make(struct tdm_itree_txn *txn)
{
	const struct tdm_itree_mem *mem = &txn->tree->mem;
	struct tdm_itree_node *n = mem->alloc(mem->ctx, sizeof(*n));

	if (n) {
		n->tree = txn->tree;
		n->made_next = txn->made;
		txn->made = n;
	}
	return n;
}

static void replace(struct tdm_itree_txn *txn, node *old)
{
	struct tdm_itree_node *n = writable(old);

	n->replaced_next = txn->replaced;
	txn->replaced = n;
}

/* A copy of `of` with these children; `of` is replaced. */
static node *rebuild(struct tdm_itree_txn *txn, node *of, node *left, node *right)
{
	struct tdm_itree_node *n = make(txn);
	u64 below;

	if (!n)
		return NULL;
	n->start = of->start;
	n->end = of->end;
	n->payload = of->payload;
	n->prio = of->prio;
	n->left = left;
	n->right = right;
	n->left_max = max_end(left);
	below = TDM_MAX(n->left_max, max_end(right));
	n->max_end = TDM_MAX(n->end, below);
	replace(txn, of);
	return n;
}

/* Cut t in two: what is before the key of `at`, and what is after it. */
static bool split(struct tdm_itree_txn *txn, node *t, node *at, node **before, node **after)
{
	node *rest;

	if (!t) {
		*before = *after = NULL;
		return true;
	}
	if (compare(at->start, at->end, at->payload, t) > 0) {
		if (!split(txn, t->right, at, &rest, after))
			return false;
		*before = rebuild(txn, t, t->left, rest);
		return *before != NULL;
	}
	if (!split(txn, t->left, at, before, &rest))
		return false;
	*after = rebuild(txn, t, rest, t->right);
	return *after != NULL;
}

/* n is new and has no children yet. NULL: no memory. */
static node *insert(struct tdm_itree_txn *txn, node *t, struct tdm_itree_node *n)
{
	node *sub;
	u64 below;

	if (t && n->prio <= t->prio) {
		bool left = compare(n->start, n->end, n->payload, t) < 0;

		sub = insert(txn, left ? t->left : t->right, n);
		if (!sub)
			return NULL;
		return left ? rebuild(txn, t, sub, t->right) : rebuild(txn, t, t->left, sub);
	}
	if (!split(txn, t, n, &n->left, &n->right))
		return NULL;
	n->left_max = max_end(n->left);
	below = TDM_MAX(n->left_max, max_end(n->right));
	n->max_end = TDM_MAX(n->end, below);
	return n;
}

/* Everything in a is before everything in b. */
static bool join(struct tdm_itree_txn *txn, node *a, node *b, node **out)
{
	node *sub;

	if (!a || !b) {
		*out = a ? a : b;
		return true;
	}
	if (a->prio >= b->prio) {
		if (!join(txn, a->right, b, &sub))
			return false;
		*out = rebuild(txn, a, a->left, sub);
	} else {
		if (!join(txn, a, b->left, &sub))
			return false;
		*out = rebuild(txn, b, sub, b->right);
	}
	return *out != NULL;
}

static int cut(struct tdm_itree_txn *txn, node *t, const struct tdm_interval *key, node **out)
{
	node *sub;
	int c, err;

	if (!t)
		return -ENOENT;
	c = compare(key->start, key->end, key->payload, t);
	if (c == 0) {
		if (!join(txn, t->left, t->right, out))
			return -ENOMEM;
		replace(txn, t);
		return 0;
	}
	err = cut(txn, c < 0 ? t->left : t->right, key, &sub);
	if (err)
		return err;
	*out = c < 0 ? rebuild(txn, t, sub, t->right) : rebuild(txn, t, t->left, sub);
	return *out ? 0 : -ENOMEM;
}

/* ---- transactions ------------------------------------------------------------------------------------------------------ */

void tdmi_itree_begin(struct tdm_itree *t, struct tdm_itree_txn *txn)
{
	*txn = (struct tdm_itree_txn){ .tree = t, .root = tdmi_itree_root(t), .count = t->count };
}

/* Back to the state *mark of the transaction. */
static void undo(struct tdm_itree_txn *txn, const struct tdm_itree_txn *mark)
{
	while (txn->made != mark->made) {
		struct tdm_itree_node *n = txn->made;

		txn->made = n->made_next;
		free_node(n);
	}
	*txn = *mark;
}

static bool contains(node *t, u64 start, u64 end, const void *payload)
{
	while (t) {
		int c = compare(start, end, payload, t);

		if (c == 0)
			return true;
		t = c < 0 ? t->left : t->right;
	}
	return false;
}

int tdmi_itree_insert(struct tdm_itree_txn *txn, u64 start, u64 end, void *payload)
{
	const struct tdm_itree_txn mark = *txn;
	struct tdm_itree_node *n;
	node *root;

	if (start >= end)
		return -EINVAL;
	if (contains(txn->root, start, end, payload))
		return -EEXIST;
	n = make(txn);
	if (!n)
		return -ENOMEM;
	n->start = start;
	n->end = end;
	n->payload = payload;
	n->prio = hash(start + hash(end + hash(txn->tree->inserted++)));
	root = insert(txn, txn->root, n);
	if (!root) {
		undo(txn, &mark);
		return -ENOMEM;
	}
	txn->root = root;
	txn->count++;
	return 0;
}

int tdmi_itree_remove(struct tdm_itree_txn *txn, u64 start, u64 end, void *payload)
{
	const struct tdm_itree_txn mark = *txn;
	const struct tdm_interval key = { start, end, payload };
	node *root;
	int err = cut(txn, txn->root, &key, &root);

	if (err) {
		undo(txn, &mark);
		return err;
	}
	txn->root = root;
	txn->count--;
	return 0;
}

void tdmi_itree_commit(struct tdm_itree_txn *txn)
{
	struct tdm_itree *t = txn->tree;
	struct tdm_itree_node *n = txn->replaced, *next;

	tdm_aptr_st_release(&t->root, writable(txn->root));
	t->count = txn->count;
	for (; n; n = next) {
		next = n->replaced_next;
		tdmi_rcu_call(t->rcu, &n->rcu, free_node_rcu, NULL);
	}
	txn->made = txn->replaced = NULL;
}

void tdmi_itree_abort(struct tdm_itree_txn *txn)
{
	const struct tdm_itree_txn none = { .tree = txn->tree };

	undo(txn, &none);
}

/* ---- searching --------------------------------------------------------------------------------------------------------- */

static struct tdm_interval interval_of(node *n)
{
	return (struct tdm_interval){ n->start, n->end, n->payload };
}

/* The leftmost overlap. If anything on the left ends after `start`, and starts before `end`, it is there; if it all starts too late, so does
 * everything to its right. */
bool tdmi_itree_find(const struct tdm_itree_node *t, u64 start, u64 end, struct tdm_interval *out)
{
	while (t && max_end(t) > start) {
		if (t->left_max > start) {
			t = t->left;
		} else if (t->start < end && t->end > start) {
			*out = interval_of(t);
			return true;
		} else {
			t = t->start < end ? t->right : NULL;
		}
	}
	return false;
}

int tdmi_itree_each(const struct tdm_itree_node *t, u64 start, u64 end, int (*fn)(const struct tdm_interval *i, void *ctx), void *ctx)
{
	int ret;

	if (!t || max_end(t) <= start)
		return 0;
	ret = t->left_max > start ? tdmi_itree_each(t->left, start, end, fn, ctx) : 0;
	if (ret || t->start >= end)
		return ret;
	if (t->end > start) {
		const struct tdm_interval i = interval_of(t);

		ret = fn(&i, ctx);
		if (ret)
			return ret;
	}
	return tdmi_itree_each(t->right, start, end, fn, ctx);
}

/* *last: the node before t in order; *count grows by the size of t. */
static bool subtree_valid(node *t, node **last, u64 *count)
{
	u64 below;

	if (!t)
		return true;
	below = TDM_MAX(max_end(t->left), max_end(t->right));
	if (t->start >= t->end || t->max_end != TDM_MAX(t->end, below) || t->left_max != max_end(t->left))
		return false;
	if ((t->left && t->left->prio > t->prio) || (t->right && t->right->prio > t->prio))
		return false;
	if (!subtree_valid(t->left, last, count))
		return false;
	if (*last && compare(t->start, t->end, t->payload, *last) <= 0)
		return false;
	*last = t;
	++*count;
	return subtree_valid(t->right, last, count);
}

bool tdmi_itree_valid(const struct tdm_itree_node *root, u64 count)
{
	node *last = NULL;
	u64 n = 0;

	return subtree_valid(root, &last, &n) && n == count;
}
