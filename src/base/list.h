/* SPDX-License-Identifier: MIT */
/*
 * list.h - intrusive doubly linked lists.
 *
 * A list head and the nodes in it are the same struct, so that a node can be unlinked without its list. No locking: the list's owner says
 * in the field's comment who may touch it. An unlinked node points at itself, and unlinking it again does nothing.
 */
#ifndef TDM_BASE_LIST_H
#define TDM_BASE_LIST_H

#include "base/types.h"

struct tdm_list {
	struct tdm_list *next, *prev;
};

static inline void tdm_list_init(struct tdm_list *l)
{
	l->next = l;
	l->prev = l;
}

static inline bool tdm_list_empty(const struct tdm_list *l)
{
	return l->next == l;
}

static inline void tdm_list_insert_after(struct tdm_list *n, struct tdm_list *at)
{
	n->prev = at;
	n->next = at->next;
	at->next->prev = n;
	at->next = n;
}

static inline void tdm_list_add_head(struct tdm_list *l, struct tdm_list *n)
{
	tdm_list_insert_after(n, l);
}

static inline void tdm_list_add_tail(struct tdm_list *l, struct tdm_list *n)
{
	tdm_list_insert_after(n, l->prev);
}

static inline void tdm_list_del(struct tdm_list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	tdm_list_init(n);
}

static inline void tdm_list_move_tail(struct tdm_list *l, struct tdm_list *n)
{
	tdm_list_del(n);
	tdm_list_add_tail(l, n);
}

/* Append all of from to l; from is empty afterwards. */
static inline void tdm_list_splice_tail(struct tdm_list *l, struct tdm_list *from)
{
	if (tdm_list_empty(from))
		return;
	from->next->prev = l->prev;
	l->prev->next = from->next;
	from->prev->next = l;
	l->prev = from->prev;
	tdm_list_init(from);
}

/* The first node, or NULL. */
static inline struct tdm_list *tdm_list_first(const struct tdm_list *l)
{
	return tdm_list_empty(l) ? NULL : l->next;
}

static inline struct tdm_list *tdm_list_last(const struct tdm_list *l)
{
	return tdm_list_empty(l) ? NULL : l->prev;
}

#define tdm_list_for_each(n, l) for (struct tdm_list *n = (l)->next; n != (l); n = n->next)
/* The body may unlink n. */
#define tdm_list_for_each_safe(n, l)                                                                                    \
	for (struct tdm_list *n = (l)->next, *n##_next = n->next; n != (l); n = n##_next, n##_next = n->next)

#endif
