/* SPDX-License-Identifier: MIT */
/*
 * pgtable.h - the page table: four levels, 512 entries each, leaves at the lowest three.
 *
 * A table is a descriptor (struct tdm_pt) and a page of entries. Each has its own lock, which guards its entries and, for the lowest level, the
 * folios that they map. Whoever wants to look at or change an entry:
 *   - walks down without locks under RCU (tdmi_pt_walk): what it reads may change at any time, and must be validated before use;
 *   - or takes the lock of the table that holds the leaf (tdmi_pt_lock): then the entries are its own until it unlocks.
 * Lock order: the event lock, then an upper table, then a lower one, then the leaves (LRU, allocators). Two tables of one level are never held
 * together.
 *
 * A table that has become empty is unlinked under its parent's lock and its own, marked dead, and freed after a grace period; who finds a
 * dead table under its lock walks again.
 */
#ifndef TDM_MM_PGTABLE_H
#define TDM_MM_PGTABLE_H

#include "base/rcu.h"
#include "mm/pte.h"
#include "plat/plat.h"

struct tdm_alloc;
struct tdm_predict;

#define TDM_PT_ENTRIES 512u
#define TDM_PT_LEVELS 4u /* 0: PTE, 1: PMD, 2: PUD, 3: PGD */

struct tdm_pt {
	tdm_a64 *e;             /* 512 entries; constant */
	struct plat_mutex lock;
	u64 base;               /* first address that it maps; constant */
	u16 used;               /* entries that are not none; lock */
	u8 level;               /* constant */
	bool dead;              /* unlinked; lock */
	/* What the fault path has learned of these 2 MiB (PTE tables; lock). See mm/predict.h */
	u8 order;               /* log2 of the pages to bring on a fault that does not continue a stream */
	u8 recent_count;
	u32 recent;             /* blocks in which a part was brought lately, a bit each */
	struct tdm_rcu_head rcu;
} __attribute__((aligned(64)));

/* A page table. All of it constant but what lies below the root. */
struct tdm_pgt {
	struct tdm_pt *root;         /* level 3 */
	struct tdm_alloc *alloc;     /* where tables come from */
	struct tdm_rcu *rcu;         /* whose readers walk it */
	struct tdm_predict *predict; /* what a new PTE table starts with, or NULL */
};

/* Bytes that one entry of this level maps. */
static inline u32 tdm_pt_shift(u32 level)
{
	return TDM_PAGE_SHIFT + 9 * level;
}

static inline u32 tdm_pt_index(const struct tdm_pt *pt, u64 va)
{
	return (u32)(va >> tdm_pt_shift(pt->level)) & (TDM_PT_ENTRIES - 1);
}

static inline u64 tdm_pt_va(const struct tdm_pt *pt, u32 i)
{
	return pt->base + ((u64)i << tdm_pt_shift(pt->level));
}

/* Read an entry: with the lock held, or without under RCU (then validate). */
static inline struct tdm_pte tdm_pt_get(const struct tdm_pt *pt, u32 i)
{
	return (struct tdm_pte){ tdm_a64_ld_acquire(&pt->e[i]) };
}

/* Write an entry; the table's lock is held. */
void tdm_pt_set(struct tdm_pt *pt, u32 i, struct tdm_pte pte);

/* The table that an entry of an upper level names, or NULL if it is none or a leaf. */
static inline struct tdm_pt *tdm_pte_table(struct tdm_pte p)
{
	return (p.v & (TDM_PTE_PRESENT | TDM_PTE_LEAF)) == TDM_PTE_PRESENT ? (struct tdm_pt *)(uintptr_t)(p.v & ~(u64)63) : NULL;
}

/* The first table; all but root has been set. 0 or -ENOMEM. */
int tdmi_pt_init(struct tdm_pgt *pgt);
/* Free all tables. No walker is left. */
void tdmi_pt_destroy(struct tdm_pgt *pgt);

/* The lowest table on the way to va, and the entry in it. Lockless: the caller is an RCU reader. */
struct tdm_pt *tdmi_pt_walk(struct tdm_pgt *pgt, u64 va, u32 *index, struct tdm_pte *pte);

/* Lock the table that holds the leaf for va: the PTE table, or an upper one whose entry is a leaf. alloc: make missing tables down to the PTE
 * table; otherwise *out is NULL (and nothing is locked) when there is none. RCU reader. 0 or -ENOMEM. */
int tdmi_pt_lock(struct tdm_pgt *pgt, u64 va, bool alloc, struct tdm_pt **out);
/* Lock the PMD table for va, making it if needed (to install a 2 MiB leaf). */
int tdmi_pt_lock_pmd(struct tdm_pgt *pgt, u64 va, struct tdm_pt **out);
/* Lock the table of this level for va, or an upper one whose entry for va is a leaf. alloc: make the tables that are missing on the way, which *made counts; otherwise *out is NULL when
 * there is none. The entry for va may be a table. RCU reader. 0 or -ENOMEM. */
int tdmi_pt_lock_at(struct tdm_pgt *pgt, u64 va, u32 level, bool alloc, u64 *made, struct tdm_pt **out);
static inline void tdm_pt_unlock(struct tdm_pt *pt)
{
	plat_mutex_unlock(&pt->lock);
}

/* Replace the leaf at entry i of the locked PMD (or PUD) table by a table of the level below with 512 leaves of the same flags; it is locked in
 * *out, so that nobody sees them before the caller has split the folio. spare: the PTE table to use, or NULL. 0; -ENOMEM, not with a spare. */
int tdmi_pt_split(struct tdm_pgt *pgt, struct tdm_pt *pmd, u32 i, struct tdm_pt *spare, struct tdm_pt **out);
/* A table for a split of the leaf at va, before something is done that cannot be taken back. NULL: no memory. */
struct tdm_pt *tdmi_pt_spare(struct tdm_pgt *pgt, u64 va);
void tdmi_pt_spare_free(struct tdm_pgt *pgt, struct tdm_pt *spare);
/* The PMD table for va, which has a PTE table. RCU reader. */
struct tdm_pt *tdmi_pt_pmd(struct tdm_pgt *pgt, u64 va);
/* Put a leaf of 2 MiB in the place of this PTE table (or of 1 GiB, of a PMD table that names no tables). Both are locked; pt is dead afterwards, and unlocked. Only where no port has a
 * translation of anything that pt maps: all of it is on a device (mm/devmem.c), or has been flushed (mm/collapse.c). */
void tdmi_pt_collapse(struct tdm_pgt *pgt, struct tdm_pt *pmd, struct tdm_pt *pt, struct tdm_pte leaf);
/* Unlink and free the PTE table for va if it is empty. No table lock is held. RCU reader. */
void tdmi_pt_try_free(struct tdm_pgt *pgt, u64 va);
/* Likewise the table of this level (0 or 1). */
void tdmi_pt_try_free_at(struct tdm_pgt *pgt, u64 va, u32 level);
/* The first va >= `va` and below `end` whose PTE table exists or whose upper entry is a leaf, rounded to 2 MiB; `end` when there is none. */
u64 tdmi_pt_next(struct tdm_pgt *pgt, u64 va, u64 end);
/* The same for who has changed what faults look up before they install an entry: where it finds nothing it has held the lock of the table in which there is nothing, so who puts something
 * there later sees the change. A look without that lock is not enough: a store and a later load of something else may change places. No table is locked. */
u64 tdmi_pt_next_certain(struct tdm_pgt *pgt, u64 va, u64 end);

#endif
