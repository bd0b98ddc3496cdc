/* SPDX-License-Identifier: MIT */
/*
 * pte.h - what an entry of the page table says.
 *
 *  63           52 51            12 11    7 6 5 4 3 2 1 0
 * | software      | pfn            | sw    |S|L|s|D|A|W|1|   present: Special, Leaf, soft-dirty, Dirty, Accessed, Write
 * | payload (56 bits: see below)         8 |     type  |0|   not present: typed; all zero is "none"
 *
 * In a port whose access flag is software (the live process), A says where the bytes are: A=1 the page may be in the port's TLB (it lies
 * at the user's address, its frame is *lent*), A=0 the frame is *home* and any access faults into the engine.
 *
 * An entry of an upper level is none, a leaf (L set), or a table: the address of its descriptor, 64-byte aligned, with bit 0 set.
 *
 * Entries are written under the lock of their table and read by lockless walkers: always as one 64-bit atomic.
 */
#ifndef TDM_MM_PTE_H
#define TDM_MM_PTE_H

#include "base/types.h"

struct tdm_pte {
	u64 v;
};

#define TDM_PTE_PRESENT ((u64)1 << 0)
#define TDM_PTE_WRITE ((u64)1 << 1)
#define TDM_PTE_ACCESSED ((u64)1 << 2)
#define TDM_PTE_DIRTY ((u64)1 << 3)
#define TDM_PTE_SOFT_DIRTY ((u64)1 << 4)
#define TDM_PTE_LEAF ((u64)1 << 5)
#define TDM_PTE_SPECIAL ((u64)1 << 6)
#define TDM_PTE_ZEROED ((u64)1 << 7) /* it was given as zeros, and has not been in a tier since */
#define TDM_PTE_GUESS ((u64)1 << 8)  /* home: it was brought to see whether it would be used. How far it was from what was: */
#define TDM_PTE_DISTANCE_SHIFT 9     /* two bits: log2 of the pages between, at most TDM_PTE_DISTANCES - 1 */
#define TDM_PTE_DISTANCES 4u
#define TDM_PTE_WANTED ((u64)1 << 11) /* home, of 2 MiB: somebody needs it, or a part, while it is being copied: the copier is to give up */
#define TDM_PTE_PFN_MASK ((((u64)1 << 40) - 1) << 12)

enum tdm_pte_type {
	TDM_PTE_T_NONE,
	TDM_PTE_T_SWAP,      /* payload: LRU clock at eviction (8 bits), blob handle (44), index in the blob (4) */
	TDM_PTE_T_MIGRATION, /* payload: pfn */
	TDM_PTE_T_PRIVATE,   /* payload: pool, and frame of the pool (mm/devmem.h) */
	TDM_PTE_T_EXCLUSIVE, /* payload: whose (8 bits), pfn (40). The bytes are home, and a device has them for itself (mm/exclusive.c) */
	TDM_PTE_T_COHERENT,  /* payload: as PRIVATE, and whether a fork may have shared it. The port has the page, which lies there (mm/coherent.c) */
	TDM_PTE_T_POISON,    /* the bytes are lost: an access must fail */
	TDM_PTE_T_REMOVED,   /* marker: the program has asked for these bytes to be dropped, the kernel may not have done it yet. Reads as
			      * zeros once it is missing; must not be taken as long as it is there. */
	TDM_PTE_T_PROTNONE,  /* payload: as MIGRATION in a space: a page that may not even be read (mm/space.h) */
};

static inline bool tdm_pte_none(struct tdm_pte p)
{
	return p.v == 0;
}

static inline bool tdm_pte_present(struct tdm_pte p)
{
	return p.v & TDM_PTE_PRESENT;
}

/* Mapped by the port: the frame is lent. */
static inline bool tdm_pte_lent(struct tdm_pte p)
{
	return (p.v & (TDM_PTE_PRESENT | TDM_PTE_ACCESSED)) == (TDM_PTE_PRESENT | TDM_PTE_ACCESSED);
}

static inline u32 tdm_pte_distance(struct tdm_pte p)
{
	return (u32)(p.v >> TDM_PTE_DISTANCE_SHIFT) & (TDM_PTE_DISTANCES - 1);
}

/* In ram but not mapped by the port. */
static inline bool tdm_pte_home(struct tdm_pte p)
{
	return (p.v & (TDM_PTE_PRESENT | TDM_PTE_ACCESSED)) == TDM_PTE_PRESENT;
}

static inline struct tdm_pfn tdm_pte_pfn(struct tdm_pte p)
{
	return (struct tdm_pfn){ (p.v & TDM_PTE_PFN_MASK) >> 12 };
}

static inline struct tdm_pte tdm_pte_mk(struct tdm_pfn pfn, u64 flags)
{
	return (struct tdm_pte){ (pfn.v << 12) | TDM_PTE_PRESENT | TDM_PTE_LEAF | flags };
}

static inline enum tdm_pte_type tdm_pte_type(struct tdm_pte p)
{
	return (enum tdm_pte_type)((p.v >> 1) & 0x7f);
}

static inline bool tdm_pte_is(struct tdm_pte p, enum tdm_pte_type t)
{
	return !tdm_pte_present(p) && !tdm_pte_none(p) && tdm_pte_type(p) == t;
}

static inline u64 tdm_pte_payload(struct tdm_pte p)
{
	return p.v >> 8;
}

/* It names a frame of ram. */
static inline bool tdm_pte_in_ram(struct tdm_pte p)
{
	return tdm_pte_present(p) || tdm_pte_is(p, TDM_PTE_T_EXCLUSIVE);
}

static inline struct tdm_pfn tdm_pte_ram_pfn(struct tdm_pte p)
{
	return tdm_pte_present(p) ? tdm_pte_pfn(p) : (struct tdm_pfn){ tdm_pte_payload(p) & (TDM_PTE_PFN_MASK >> 12) };
}

/* The bytes are in the home of that frame. */
static inline bool tdm_pte_at_home(struct tdm_pte p)
{
	return tdm_pte_home(p) || tdm_pte_is(p, TDM_PTE_T_EXCLUSIVE);
}

static inline struct tdm_pte tdm_pte_mk_typed(enum tdm_pte_type t, u64 payload)
{
	return (struct tdm_pte){ payload << 8 | (u64)t << 1 };
}

static inline struct tdm_pte tdm_pte_mk_exclusive(u32 owner, struct tdm_pfn pfn)
{
	return tdm_pte_mk_typed(TDM_PTE_T_EXCLUSIVE, (u64)owner << 40 | pfn.v);
}

static inline struct tdm_pte tdm_pte_mk_swap(u64 handle, u32 index, u32 clock)
{
	return tdm_pte_mk_typed(TDM_PTE_T_SWAP, (u64)(clock & 255) << 48 | handle << 4 | index);
}

static inline u64 tdm_pte_swap_handle(struct tdm_pte p)
{
	return (tdm_pte_payload(p) >> 4) & (((u64)1 << 44) - 1);
}

static inline u32 tdm_pte_swap_clock(struct tdm_pte p)
{
	return (u32)(tdm_pte_payload(p) >> 48);
}

static inline u32 tdm_pte_swap_index(struct tdm_pte p)
{
	return (u32)(tdm_pte_payload(p) & 15);
}

#endif
