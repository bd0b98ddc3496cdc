/* SPDX-License-Identifier: MIT */
/*
 * unmapped_area.h - where a driver's mapping is put so that large leaves can map it.
 *
 * Three things bound the leaves: what the CPUs have, how much of the device's memory is contiguous, and how the address lies to the offset. The driver reports
 * the second alone, as the order in which its pages come (tdm_map_ops.order), and guarantees that offset % size == pfn % size; the engine sees to it that va %
 * size == offset % size.
 */
#ifndef TDM_MM_UNMAPPED_AREA_H
#define TDM_MM_UNMAPPED_AREA_H

#include "mm/space.h"

struct tdm_area {
	u64 len, off;   /* of the mapping, in bytes */
	u32 order;      /* log2 of the device's pages in pages of 4 KiB; 0: it does not say */
	u64 huge;       /* leaf sizes of the CPUs: world->huge */
	u64 lo, hi;     /* where it may be; 0, 0: anywhere */
};

/* The alignment, a power of two, that va should have relative to off (to 0 if *absolute) for the largest leaves that CPUs and device can use for this mapping. */
u64 tdmi_area_align(const struct tdm_area *a, bool *absolute);
/* The lowest hole for it, so aligned if there is one; else for smaller leaves, else anywhere. -ENOMEM: there is no hole of that length; -EINVAL. s->change is
 * held, or RCU reader. */
int tdmi_unmapped_area(struct tdm_vmas *vmas, const struct tdm_area *a, u64 *va);

#endif
