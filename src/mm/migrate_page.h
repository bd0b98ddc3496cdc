/* SPDX-License-Identifier: MIT */
/*
 * migrate_page.h - a page of spaces moves to another frame: to a device's coherent memory, from there, or within ram.
 *
 * Its entries become migration entries: whoever touches it waits. Nobody translates to it any more when that has been flushed; its bytes are copied; the
 * entries name the new page. The flush cannot wait (mm/tlb.h), but it can be one for all entries.
 */
#ifndef TDM_MM_MIGRATE_PAGE_H
#define TDM_MM_MIGRATE_PAGE_H

#include "mm/space.h"

/* The page at va of s, wherever else it is mapped, goes to that range of memory. 0, also if it is there; -ENOENT: there is no page; -EBUSY: it is pinned, or
 * somebody else has it in hand: it stays; -ENOMEM: none is free there. RCU reader, outside of a section; no lock. */
int tdmi_migrate_page(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 range);
/* [start, end) likewise, as far as it goes. How many pages lie there afterwards that did not before. */
u64 tdmi_migrate_range(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end, u32 range);

#endif
