/* SPDX-License-Identifier: MIT */
/*
 * pin.h - pins of spaces' pages (GUP), for DMA by who has no page faults.
 *
 * Only an exclusive page is pinned: so what is pinned stays what its address space has at that address, whoever forks (mm/page.h). It is not evicted, nor
 * moved. Pins for long (LONGTERM) are not made in a device's coherent memory: the page goes to ram first.
 */
#ifndef TDM_MM_PIN_H
#define TDM_MM_PIN_H

#include "mm/space.h"

enum tdm_pin { TDM_PIN_READ = 0, TDM_PIN_WRITE = 1, TDM_PIN_LONGTERM = 2 };

/* Pin what is there from va on, page by page, until something is not: absent, read-only and to be written, not exclusive, a driver's, of coherent memory and
 * for long. How many. No lock is taken. RCU reader, within a section or not. */
u32 tdmi_pin_fast(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 n, u32 flags, struct tdm_pfn *page);
/* The same, with faults. *done: they stay pinned if there is an error. -EFAULT: no right, or a driver's memory; -EBUSY: the page is taken away again and
 * again; others: those of a fault. No lock; outside of a section. */
int tdmi_pin_pages(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 n, u32 flags, struct tdm_pfn *page, u32 *done);
/* dirty: they have been written. Any context. */
void tdmi_unpin_pages(struct tdm_world *w, const struct tdm_pfn *page, u32 n, bool dirty);

#endif
