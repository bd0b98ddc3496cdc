/* SPDX-License-Identifier: MIT */
/*
 * notifier_impl.h - what notifier.c (rounds, notifiers of the whole address space) and interval.c (those of ranges) share. Who may do what when is at the
 * top of notifier.c.
 */
#ifndef TDM_MM_NOTIFIER_IMPL_H
#define TDM_MM_NOTIFIER_IMPL_H

#include "base/lockrank.h"
#include "mm/notifier.h"

/* One thread's walk over subscribers; on its stack. */
struct tdm_inv_call {
	struct tdm_list link;         /* in calls */
	struct tdm_notifier *cur;     /* is being called, by a walk over `whole`; the lock */
	struct tdm_notifier *next;    /* the lock */
	tdm_aptr name;                /* of who is being called, or NULL; written by the thread */
	tdm_a64 since;
	struct plat_mutex place;      /* held while somebody is called */
};

/* ---- waiting ---------------------------------------------------------------------------------------------------------------- */

/* May the thread take a lock of that rank here? Nobody else has this one. */
static inline void tdmi_inv_check_place(u32 rank)
{
	struct plat_mutex here;

	plat_mutex_init(&here, rank);
	plat_mutex_lock(&here);
	plat_mutex_unlock(&here);
}

/* Wait until something has changed. The lock is held, and let go of meanwhile. */
static inline void tdmi_inv_wait_locked(struct tdm_notifiers *nots)
{
	u32 turn = tdm_a32_ld_relaxed(&nots->turn);

	nots->sleepers++;
	plat_mutex_unlock(&nots->lock);
	plat_wait(&nots->turn, turn, ~(u64)0);
	plat_mutex_lock(&nots->lock);
	nots->sleepers--;
}

/* Let go of the lock. changed: something that somebody may be waiting for. */
static inline void tdmi_inv_unlock(struct tdm_notifiers *nots, bool changed)
{
	changed = changed && nots->sleepers;
	if (changed)
		tdm_a32_add_relaxed(&nots->turn, 1);
	plat_mutex_unlock(&nots->lock);
	if (changed)
		plat_wake(&nots->turn, (u32)1 << 30);
}

/* ---- who is being called ------------------------------------------------------------------------------------------------------ */

static inline void tdmi_inv_call_open_locked(struct tdm_notifiers *nots, struct tdm_inv_call *call, u32 rank)
{
	call->cur = call->next = NULL;
	tdm_aptr_st_relaxed(&call->name, NULL);
	plat_mutex_init(&call->place, rank);
	tdm_list_add_tail(&nots->calls, &call->link);
}

static inline void tdmi_inv_callback_begin(struct tdm_inv_call *call, const char *name)
{
	tdm_a64_st_relaxed(&call->since, plat_now_ns());
	tdm_aptr_st_release(&call->name, (void *)(uintptr_t)(name ? name : "?"));
	plat_mutex_lock(&call->place);
}

static inline void tdmi_inv_callback_end(struct tdm_inv_call *call)
{
	plat_mutex_unlock(&call->place);
	tdm_aptr_st_release(&call->name, NULL);
}

/* ---- interval.c ---------------------------------------------------------------------------------------------------------------- */

void tdmi_ranges_init(struct tdm_notifiers *nots);
void tdmi_ranges_destroy(struct tdm_notifiers *nots);
/* With the lock held: a round begins. The root of the ranges, if one of them overlaps; seq is odd then. */
const struct tdm_itree_node *tdmi_ranges_begin_locked(struct tdm_notifiers *nots, const struct tdm_inv_range *range);
/* Call those that overlap. root: as above; seq: as it was then. 0 or -EAGAIN. */
int tdmi_ranges_invalidate(struct tdm_notifiers *nots, const struct tdm_itree_node *root, const struct tdm_inv_range *range, u64 seq);
/* With the lock held: no round is under way any more. */
void tdmi_ranges_end_locked(struct tdm_notifiers *nots);

static inline void tdmi_inv_arm_locked(struct tdm_notifiers *nots)
{
	tdm_a32_st_release(&nots->armed, 1);
}

#endif
