/* SPDX-License-Identifier: MIT */
/*
 * vma.h - the ranges of an address space that the engine manages.
 *
 * A VMA here is a range that the port serves (in the live process: registered with our userfaultfd), or one that it only hears of and leaves
 * alone (TDM_VMA_EXCLUDED: no entry of the table speaks of it). The page table says what is where; this says where to look, and bounds what a fault may bring.
 *
 * Locking: changed under the event lock alone; looked up by RCU readers at any time.
 */
#ifndef TDM_MM_VMA_H
#define TDM_MM_VMA_H

#include "base/itree.h"
#include "base/types.h"

struct tdm_alloc;

#define TDM_VMA_EXCLUDED ((uintptr_t)1 << 0)

struct tdm_vma {
	u64 start, end;
	uintptr_t flags;
};

struct tdm_vmas {
	struct tdm_itree tree;
};

/* Where nodes come from, and whose readers look. 0. */
int tdmi_vmas_init(struct tdm_vmas *vmas, struct tdm_alloc *alloc, struct tdm_rcu *rcu);
void tdmi_vmas_destroy(struct tdm_vmas *vmas);
/* [start, end) has these flags from now on, whatever it had. Neighbours with the same flags become one. 0 or -ENOMEM. */
int tdmi_vma_insert(struct tdm_vmas *vmas, u64 start, u64 end, uintptr_t flags);
/* [start, end) is not ours any more. 0 or -ENOMEM. */
int tdmi_vma_remove(struct tdm_vmas *vmas, u64 start, u64 end);
/* [from, from + len) is not ours any more, and [to, to + len) has these flags; at once. 0 or -ENOMEM. */
int tdmi_vma_move(struct tdm_vmas *vmas, u64 from, u64 to, u64 len, uintptr_t flags);
/* The VMA that holds va. RCU reader, or the event lock. */
bool tdmi_vma_find(struct tdm_vmas *vmas, u64 va, struct tdm_vma *out);
/* The first VMA that ends after va (for walking all of them). RCU reader, or the event lock. */
bool tdmi_vma_next(struct tdm_vmas *vmas, u64 va, struct tdm_vma *out);

#endif
