/* SPDX-License-Identifier: MIT */
/* vma.c - see vma.h. The intervals of the tree never overlap, so "overlaps va" finds at most one. */
#include "mm/vma.h"
#include "base/alloc.h"
#include "base/check.h"

static void *node_alloc(void *ctx, size_t size)
{
	return tdmi_alloc(ctx, size);
}

static void node_free(void *ctx, void *p, size_t size)
{
	tdmi_free(ctx, p, size);
}

int tdmi_vmas_init(struct tdm_vmas *vmas, struct tdm_alloc *alloc, struct tdm_rcu *rcu)
{
	struct tdm_itree_mem mem = { node_alloc, node_free, alloc };

	tdmi_itree_init(&vmas->tree, rcu, &mem);
	return 0;
}

void tdmi_vmas_destroy(struct tdm_vmas *vmas)
{
	tdmi_itree_destroy(&vmas->tree);
}

/* Cut [start, end) out of what is there. */
static int carve(struct tdm_itree_txn *t, u64 start, u64 end)
{
	struct tdm_interval i;
	int r;

	while (tdmi_itree_find(t->root, start, end, &i)) {
		r = tdmi_itree_remove(t, i.start, i.end, i.payload);
		if (!r && i.start < start)
			r = tdmi_itree_insert(t, i.start, start, i.payload);
		if (!r && i.end > end)
			r = tdmi_itree_insert(t, end, i.end, i.payload);
		if (r)
			return r;
	}
	return 0;
}

/* Let [*start, *end) swallow a neighbour with the same payload. */
static int merge(struct tdm_itree_txn *t, u64 *start, u64 *end, void *payload)
{
	struct tdm_interval i;
	int r = 0;

	if (*start && tdmi_itree_find(t->root, *start - 1, *start, &i) && i.payload == payload) {
		r = tdmi_itree_remove(t, i.start, i.end, i.payload);
		*start = i.start;
	}
	if (!r && tdmi_itree_find(t->root, *end, *end + 1, &i) && i.payload == payload) {
		r = tdmi_itree_remove(t, i.start, i.end, i.payload);
		*end = i.end;
	}
	return r;
}

static int finish(struct tdm_itree_txn *t, int r)
{
	if (r)
		tdmi_itree_abort(t);
	else
		tdmi_itree_commit(t);
	return r;
}

int tdmi_vma_insert(struct tdm_vmas *vmas, u64 start, u64 end, uintptr_t flags)
{
	void *payload = (void *)flags; /* NULL is as good a payload as any */
	struct tdm_itree_txn t;
	int r;

	tdmi_itree_begin(&vmas->tree, &t);
	r = carve(&t, start, end);
	if (!r)
		r = merge(&t, &start, &end, payload);
	if (!r)
		r = tdmi_itree_insert(&t, start, end, payload);
	return finish(&t, r);
}

int tdmi_vma_remove(struct tdm_vmas *vmas, u64 start, u64 end)
{
	struct tdm_itree_txn t;

	tdmi_itree_begin(&vmas->tree, &t);
	return finish(&t, carve(&t, start, end));
}

int tdmi_vma_move(struct tdm_vmas *vmas, u64 from, u64 to, u64 len, uintptr_t flags)
{
	u64 start = to, end = to + len;
	struct tdm_itree_txn t;
	int r;

	tdmi_itree_begin(&vmas->tree, &t);
	r = carve(&t, from, from + len);
	if (!r)
		r = carve(&t, start, end);
	if (!r)
		r = merge(&t, &start, &end, (void *)flags);
	if (!r)
		r = tdmi_itree_insert(&t, start, end, (void *)flags);
	return finish(&t, r);
}

bool tdmi_vma_next(struct tdm_vmas *vmas, u64 va, struct tdm_vma *out)
{
	struct tdm_interval i;

	if (!tdmi_itree_find(tdmi_itree_root(&vmas->tree), va, ~(u64)0, &i))
		return false;
	*out = (struct tdm_vma){ i.start, i.end, (uintptr_t)i.payload };
	return true;
}

bool tdmi_vma_find(struct tdm_vmas *vmas, u64 va, struct tdm_vma *out)
{
	return tdmi_vma_next(vmas, va, out) && out->start <= va;
}
