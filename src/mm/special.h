/* SPDX-License-Identifier: MIT */
/*
 * special.h - what happens to the leaves of drivers' mappings, of every size, when a range of the address space changes.
 *
 * The order of munmap(), mprotect() and mremap() over a range, with s->change held:
 *   tdmi_special_cut(start), tdmi_special_cut(end)   no leaf reaches across from here on; this alone can fail, and changes nothing that anybody sees
 *   the VMAs are changed
 *   a round of the notifiers; tdmi_special_zap() or tdmi_special_protect(), then tdmi_gather_flush()
 *
 * mremap() does not move leaves: they are zapped, and the fault brings them at the new place. To move one is to read its pfn without the driver's locks, and
 * the driver may take the memory away between the reading and the writing.
 */
#ifndef TDM_MM_SPECIAL_H
#define TDM_MM_SPECIAL_H

#include "mm/space.h"

/* An access missed in a VMA with TDM_V_SPECIAL, or found less than it needs. Sets A and D of a leaf that allows the access; else the driver is asked, with the
 * largest size that could be mapped here first, and smaller ones as long as it says FALLBACK. 0: look again. -EFAULT: the VMA does not allow it. -ENXIO:
 * SIGBUS. -ENOMEM. No lock; `reader` within a section or not. */
int tdmi_special_fault(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, bool write);

/* No leaf of a driver's mapping reaches across va, as long as s->change, which is held, is not released. -ENOMEM. Anywhere else, and at a boundary of VMAs, it
 * does nothing. */
int tdmi_special_cut(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va);

/* Take out all leaves of [start, end), which is in VMAs with TDM_V_SPECIAL, or was until just now. One that reaches across an end goes as a whole: the fault
 * brings the rest back, and who cannot have that calls cut first. tables: free those that have become empty, as munmap() does; who zaps so that something else
 * is mapped in their place does without. Within a round, no table locked. The caller flushes g afterwards. */
void tdmi_special_zap(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, bool tables);

/* The VMA has these rights now (TDM_V_READ, TDM_V_WRITE): leaves that have more lose them. More rights come by the fault. Likewise. */
void tdmi_special_protect(struct tdm_gather *g, struct tdm_rcu_reader *reader, u64 start, u64 end, uintptr_t flags);

/*
 * The driver's own: its memory behind [start, end) of the mapping goes away, or elsewhere. When it returns nobody uses the old translations; the driver's own lock
 * (TDM_RANK_DRIVER), held meanwhile and in its faults, keeps them from making new ones. m does not go meanwhile, which is the driver's to see to. Rounds are
 * made in here; no lock of the engine is held, s->change neither, and `reader` is outside of a section.
 */
void tdmi_special_unmap(struct tdm_map *m, struct tdm_rcu_reader *reader, u64 start, u64 end, bool tables);

/* The child of a fork gets the parent's leaves of [start, end) as they are; -ENOMEM: some of them, and the fault brings the rest. Called after ops->open, so
 * that a driver that zaps the parent's mapping before the child's misses none. */
int tdmi_special_fork(struct tdm_space *child, struct tdm_space *parent, struct tdm_rcu_reader *reader, u64 start, u64 end);

#endif
