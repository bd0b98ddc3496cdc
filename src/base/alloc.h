/* SPDX-License-Identifier: MIT */
/*
 * alloc.h - memory for the engine's own descriptors, over plat_map().
 *
 * Sizes up to 4096 come from size classes: chunks of one class are carved into objects, freed objects are kept for the next of their class,
 * and chunks go back to the platform when the allocator is destroyed. Larger sizes are mapped one by one. Memory is zeroed; it is
 * aligned to the largest power of two that divides the class (4096 for 4096), to 32 at least. Any thread may allocate and free.
 */
#ifndef TDM_BASE_ALLOC_H
#define TDM_BASE_ALLOC_H

#include "plat/plat.h"

#define TDM_ALLOC_CLASSES 11u

struct tdm_alloc_page; /* which chunks there are */

struct tdm_alloc {
	struct plat_mutex lock;            /* rank TDM_RANK_ALLOC; guards what follows */
	void *free[TDM_ALLOC_CLASSES];     /* freed objects, linked through their first word */
	u8 *carve[TDM_ALLOC_CLASSES];      /* the part of the last chunk that was never handed out: [carve, carve_end) */
	u8 *carve_end[TDM_ALLOC_CLASSES];
	struct tdm_alloc_page *pages;
	tdm_a64 used;                      /* bytes handed out, as the classes count them */
	tdm_a64 mapped;                    /* bytes taken from the platform */
	tdm_a32 *fail;                     /* or NULL: a count that who simulates failures sets, see tdm_alloc_fails() */
};

/* The count goes down with each try, and the one that brings it to 0 fails. NULL, or 0: none does. */
static inline bool tdm_alloc_fails(tdm_a32 *count)
{
	return tdm_unlikely(count && tdm_a32_ld_relaxed(count)) && tdm_a32_sub_acqrel(count, 1) == 1;
}

void tdmi_alloc_init(struct tdm_alloc *a);
/* Everything has been freed, or is not wanted any more (objects larger than 4096 must have been freed). */
void tdmi_alloc_destroy(struct tdm_alloc *a);
/* In the child of a fork that was made while nobody was inside. */
void tdmi_alloc_reset(struct tdm_alloc *a);

/* NULL: the platform has no more. size > 0. */
void *tdmi_alloc(struct tdm_alloc *a, size_t size);
/* p is NULL, or came from tdmi_alloc(a, size) with this size. */
void tdmi_free(struct tdm_alloc *a, void *p, size_t size);

static inline u64 tdmi_alloc_used(const struct tdm_alloc *a)
{
	return tdm_a64_ld_relaxed(&a->used);
}

static inline u64 tdmi_alloc_mapped(const struct tdm_alloc *a)
{
	return tdm_a64_ld_relaxed(&a->mapped);
}

#endif
