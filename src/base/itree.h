/* SPDX-License-Identifier: MIT */
/*
 * itree.h - a set of intervals that readers search while a writer changes it.
 *
 * A node is never changed once readers can see it: a writer makes new copies of the nodes on the path to its change, publishes the
 * new root by one store, and frees the replaced nodes after a grace period. So a reader that has taken a root sees one state of
 * the whole set for as long as its section lasts, and several changes can become visible at once.
 *
 * Intervals are half-open [start, end), start < end; they may overlap; each carries a payload. The same (start, end, payload) is
 * in the set at most once. The tree is a treap (expected depth logarithmic whatever the keys) ordered by start, then end, then payload; each
 * node knows the largest end below it.
 *
 *   writers (begin ... commit or abort)   exclude each other by the caller's lock
 *   readers (a root and its use)          inside a section of the tree's RCU domain, or under the writers' lock
 *   init, destroy                         alone
 */
#ifndef TDM_BASE_ITREE_H
#define TDM_BASE_ITREE_H

#include "base/rcu.h"

/* Where nodes come from. free may be called by whichever thread runs RCU callbacks. */
struct tdm_itree_mem {
	void *(*alloc)(void *ctx, size_t size);
	void (*free)(void *ctx, void *p, size_t size);
	void *ctx;
};

struct tdm_itree_node;

struct tdm_itree {
	tdm_aptr root;             /* published by commit */
	struct tdm_rcu *rcu;       /* constant */
	struct tdm_itree_mem mem;  /* constant */
	u64 count;                 /* intervals; writers' lock */
	u64 inserted;              /* since init: makes priorities differ; writers' lock */
};

/* One interval, as it is handed out. */
struct tdm_interval {
	u64 start, end;
	void *payload;
};

void tdmi_itree_init(struct tdm_itree *t, struct tdm_rcu *rcu, const struct tdm_itree_mem *mem);
/* Frees every node at once. Nodes that were replaced before are freed by the domain: drain it before the tree and its memory go. */
void tdmi_itree_destroy(struct tdm_itree *t);
/* What alloc is asked for: for who keeps nodes in reserve. */
size_t tdmi_itree_node_size(void);

/* ---- writers ---------------------------------------------------------------------------------------------------------- */

/* Changes that become visible together. The root in it is the set as it would be after them. */
struct tdm_itree_txn {
	struct tdm_itree *tree;
	const struct tdm_itree_node *root;
	struct tdm_itree_node *made, *replaced;
	u64 count;
};

void tdmi_itree_begin(struct tdm_itree *t, struct tdm_itree_txn *txn);
/* -EINVAL: empty interval; -EEXIST; -ENOMEM. After any error the transaction is as before the call and can be committed or aborted. */
int tdmi_itree_insert(struct tdm_itree_txn *txn, u64 start, u64 end, void *payload);
/* -ENOENT, -ENOMEM; likewise. */
int tdmi_itree_remove(struct tdm_itree_txn *txn, u64 start, u64 end, void *payload);
void tdmi_itree_commit(struct tdm_itree_txn *txn);
void tdmi_itree_abort(struct tdm_itree_txn *txn);

/* ---- readers ---------------------------------------------------------------------------------------------------------- */

static inline const struct tdm_itree_node *tdmi_itree_root(const struct tdm_itree *t)
{
	return tdm_aptr_ld_acquire(&t->root);
}

/* The first interval, in the order of the tree, that overlaps [start, end). false: there is none. */
bool tdmi_itree_find(const struct tdm_itree_node *root, u64 start, u64 end, struct tdm_interval *out);
/* Call fn for each interval that overlaps [start, end), in order, until it returns nonzero: that is the result; 0 otherwise. */
int tdmi_itree_each(const struct tdm_itree_node *root, u64 start, u64 end, int (*fn)(const struct tdm_interval *i, void *ctx),
		    void *ctx);

/* Order, priorities and largest ends are right, and the tree holds this many intervals. For tests and debug builds. */
bool tdmi_itree_valid(const struct tdm_itree_node *root, u64 count);

#endif
