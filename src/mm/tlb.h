/* SPDX-License-Identifier: MIT */
/*
 * tlb.h - when those who have translations are told that an entry has changed.
 *
 * Two kinds have some. The CPUs (struct tdm_tlb_ops, one for the whole machine) are flushed by a shootdown. Secondary MMUs that walk the same table, IOMMUs say, are
 * notifiers of the address space (mm/notifier.h) and hear `invalidate` whenever the CPUs are flushed: what follows is one discipline for both.
 *
 *   gather     a change of a range of one address space (munmap, mprotect, madvise): entries are changed under their tables' locks, pages that came off are
 *              collected, then one flush, then the pages are freed. The tables' locks are not held between.
 *              As long as that flush is owed (s->owed) somebody may still write to a page of which the entry says that it must not be written; so who copies a page
 *              (CoW) flushes it first. So he does if a batch owes one (s->batched): a page may be mapped again before reclaim has flushed it.
 *   at once    a single entry that comes to name another page (CoW, migration): flushed under the table's lock, before the new entry can be read.
 *   batch      reclaim takes pages from many address spaces; their entries go, the pages stay with reclaim, and one flush for each space that was touched comes
 *              before the first of them is freed. An entry that was dirty forces it before the page's bytes are written out, as somebody may still write through a
 *              TLB. Whoever has such a flush outstanding is seen by munmap(), mprotect() and fork of that space (s->batched), which flush for him: their callers
 *              rely on nobody using the range, or writing what is the child's now, when they return.
 *
 * Secondary MMUs may be told with the batch, too, or at each step, as Linux does it (tdm_tlb_policy): tdm_may_defer() says when the former is right.
 */
#ifndef TDM_MM_TLB_H
#define TDM_MM_TLB_H

#include "mm/page.h"
#include "mm/notifier.h"

struct tdm_space;
struct tdm_world;

/* The CPUs of the machine. Neither sleeps; tables may be locked. */
struct tdm_tlb_ops {
	/* No CPU uses a translation of [start, end) of s from here on, of leaves of 2^shift bytes or more. ~0 for end: of anything of s. */
	void (*flush)(void *arg, struct tdm_space *s, u64 start, u64 end, u32 shift);
	/* Has a CPU other than the one that asks used s since all of it was last flushed there? If not there is nothing to gain by a batch. */
	bool (*elsewhere)(void *arg, struct tdm_space *s);
	/* For policies and costs: the engine has done this many of that (enum tdm_work). May be NULL. */
	void (*work)(void *arg, u32 what, u64 n);
};

/* What the engine does that takes time on a machine; a cost each (src/sim/cost.h). */
enum tdm_work {
	TDM_WORK_FAULT,        /* entering and leaving the fault path */
	TDM_WORK_PTE,          /* an entry read and written under a lock */
	TDM_WORK_TABLE_LOCK,
	TDM_WORK_PAGE_ALLOC,
	TDM_WORK_PAGE_FREE,
	TDM_WORK_PAGE_ZERO,
	TDM_WORK_PAGE_COPY,
	TDM_WORK_RMAP,         /* an entry found by the page */
	TDM_WORK_PACK,         /* a page packed into a tier, or unpacked */
	TDM_WORK_UNPACK,
	TDM_WORK_SECONDARY,    /* a call of a secondary MMU's invalidate */
	TDM_WORK_NR,
};

struct tdm_tlb_policy {
	bool batch;            /* reclaim defers the CPUs' flushes */
	bool batch_secondary;  /* and those of secondary MMUs, where the rule allows it */
};

/* One range of one space, and the pages that came off it. */
#define TDM_GATHER_PAGES 256u

struct tdm_gather {
	struct tdm_space *s;
	bool open;        /* counted in s->owed */
	u64 start, end;   /* what has changed so far; start > end: nothing */
	u32 shift;        /* the smallest leaf */
	u32 n;
	struct tdm_pfn page[TDM_GATHER_PAGES];
};

void tdmi_gather_begin(struct tdm_gather *g, struct tdm_space *s);
/* An entry for [va, va + 2^shift) that was present is gone, or has fewer rights. The table is locked. */
void tdmi_gather_range(struct tdm_gather *g, u64 va, u32 shift);
/* And this page's reference with it, which the gather now has. true: it is full: unlock, and call tdmi_gather_flush(). */
bool tdmi_gather_page(struct tdm_gather *g, struct tdm_pfn pfn);
/* Flush, then free. No table is locked. Ready for more. */
void tdmi_gather_flush(struct tdm_gather *g);

/* Reclaim's. One thread's. */
#define TDM_BATCH_SPACES 32u

struct tdm_tlb_batch {
	struct tdm_world *w;
	u32 n;
	bool dirty; /* an entry was: flush before any bytes are written out */
	struct {
		struct tdm_space *s;
		u64 start, end, pages;
		bool primary, secondary; /* whom it has not told yet */
	} of[TDM_BATCH_SPACES];
};

/* The entry for va has been taken out, whose page nobody frees before the batch has been flushed. dirty: as the entry said. The table is locked. true: it is
 * for the batch to flush; false: it has been flushed. */
bool tdmi_batch_add(struct tdm_tlb_batch *b, struct tdm_space *s, u64 va, bool dirty);
void tdmi_batch_flush(struct tdm_tlb_batch *b);
/* Before returning to whoever changed a range of s: what a batch still owes it. Tables may be locked. */
void tdmi_batch_pending(struct tdm_space *s);

/* Now, CPUs and secondary MMUs. The table may be locked. */
void tdmi_tlb_flush(struct tdm_space *s, u64 start, u64 end, u32 shift);
/* Secondary MMUs alone: an entry has more rights than they may remember, and they do not look again by themselves. */
void tdmi_tlb_flush_secondary(struct tdm_space *s, u64 start, u64 end);
/* Of this page, whatever is still owed: before its bytes are copied, or it is freed. The table may be locked. */
void tdmi_tlb_settle(struct tdm_space *s, u64 va);

#endif
