/* SPDX-License-Identifier: MIT */
/*
 * space.h - address spaces whose page table hardware walks, and the world that they share.
 *
 * A live process's entries are the kernel's; what the engine knows of it is in struct tdm_mm (mm/mm.h). Of a simulated machine the engine is the whole memory
 * management: CPUs and IOMMUs (src/port) walk the tables of struct tdm_space, set the accessed and dirty bits in them, and fault. Page tables, VMAs, typed
 * entries, notifiers, RCU, the allocators and the tiers are the same code for both.
 *
 * Locks, in the order in which they are taken:
 *   s->change     changes of the VMAs of a space (mmap, munmap, mprotect, mremap, madvise, fork of it); whoever faults takes it only when he has found no mapping, and waits
 *                 so for who is about to put one there. So a notifier's callback waits for nobody's fault
 *   tables        upper before lower; two of one level only where fork copies: the parent's, then the child's, which nobody else knows yet
 *   rmap          of a page
 *   lru, swap slots, frames, alloc: leaves
 *
 * Faults against changes. A fault looks the VMA up again once it has locked the table, and installs nothing that the VMA does not allow. Whoever takes a range
 * away, or rights from it, changes the VMAs first and locks the tables afterwards. So either the fault came first, and its entry is found and zapped; or it
 * sees the VMA as it has become. That holds where there is no table yet, too: whoever finds none has locked the one above (tdmi_pt_next_certain()). A fault
 * lets go of the table while it waits for a tier or allocates; then it looks at the entry again: if that has changed it starts over.
 *
 * Hardware against the engine. A walker sets A and D by compare-and-swap on the entry it has read, lock or no lock. So an entry that is present is changed by
 * exchange, or by compare-and-swap, only (tdm_pt_xchg(), tdm_pt_change()): bits that are set meanwhile are not lost. Once it is not present it is the lock
 * holder's. What a TLB still says is mm/tlb.h's matter.
 *
 * Pages against lockless walkers: mm/page.h. Spaces: named by id in a table of the world, freed after a grace period.
 */
#ifndef TDM_MM_SPACE_H
#define TDM_MM_SPACE_H

#include "mm/notifier.h"
#include "mm/page.h"
#include "mm/pgtable.h"
#include "mm/swap.h"
#include "mm/tlb.h"
#include "mm/vma.h"

#define TDM_SPACES_MAX 4096u
#define TDM_MAPS_MAX 256u
#define TDM_VA_END ((u64)1 << 47)
#define TDM_VA_START ((u64)1 << 16)
#define TDM_RMAP_LOCKS 64u

/* Flags of a VMA of a space (struct tdm_vma, flags). The driver's mapping that it is part of, or 0, is in bits 8 to 15: index in s->map. */
#define TDM_V_READ ((uintptr_t)1 << 1)
#define TDM_V_WRITE ((uintptr_t)1 << 2)
#define TDM_V_SHARED ((uintptr_t)1 << 3)   /* anonymous, shared by those who inherit it: a fork copies nothing */
#define TDM_V_SPECIAL ((uintptr_t)1 << 4)  /* a driver's: leaves without pages */
#define TDM_V_MAP_SHIFT 8u
#define TDM_V_MAP(flags) ((u32)((flags) >> TDM_V_MAP_SHIFT) & 0xff)
/* Entries of spaces: present ones have a page, or are SPECIAL: a driver's, or, in anonymous memory, the page of zeros. SOFT_DIRTY is set by who makes an entry
 * writable, so that it is enough to take the right away to hear of the next write. An entry whose page nobody may use for
 * now (TDM_PTE_T_MIGRATION: it is being moved; _PROTNONE: there is no right to it) keeps what it said (W, D, A, SOFT_DIRTY) above the pfn. Both at once is a
 * migration entry with TDM_BLOCKED_PROTNONE: when the page has moved it is a _PROTNONE. */
#define TDM_BLOCKED_PROTNONE ((u64)1 << 44) /* of the payload */

static inline struct tdm_pte tdm_pte_mk_blocked(enum tdm_pte_type t, struct tdm_pte from)
{
	return tdm_pte_mk_typed(t, tdm_pte_pfn(from).v | (from.v >> 1 & 15) << 40);
}

static inline bool tdm_pte_blocked(struct tdm_pte p)
{
	return tdm_pte_is(p, TDM_PTE_T_MIGRATION) || tdm_pte_is(p, TDM_PTE_T_PROTNONE);
}

/* Of a blocked one: the present entry, for the page now at pfn. */
static inline struct tdm_pte tdm_pte_unblocked(struct tdm_pte p, struct tdm_pfn pfn)
{
	return tdm_pte_mk(pfn, (tdm_pte_payload(p) >> 40 & 15) << 1);
}

/* Does it name a page? *pfn. */
static inline bool tdm_pte_names(struct tdm_pte p, struct tdm_pfn *pfn)
{
	*pfn = tdm_pte_present(p) ? tdm_pte_pfn(p) : (struct tdm_pfn){ tdm_pte_payload(p) & (TDM_PTE_PFN_MASK >> 12) };
	return tdm_pte_present(p) ? !(p.v & TDM_PTE_SPECIAL) : tdm_pte_blocked(p);
}

struct tdm_ctx;

/* What a driver's fault said. */
enum tdm_fault_result {
	TDM_FAULT_DONE,      /* an entry is there, or will be at the next try */
	TDM_FAULT_FALLBACK,  /* not at this size: try the next smaller one */
	TDM_FAULT_SIGBUS,
	TDM_FAULT_OOM,
};

struct tdm_map;

struct tdm_map_ops {
	const char *name;
	/* An access missed at va in the mapping. size is advisory: the leaf that the walk could take (4 KiB, 2 MiB, 1 GiB); the driver inserts what it has by
	 * tdmi_insert_range(). No lock is held; RCU reader. */
	enum tdm_fault_result (*fault)(struct tdm_map *m, u64 va, u64 size, bool write);
	/* The last piece of the mapping is gone. */
	void (*close)(struct tdm_map *m);
	/* A fork's child has it, too. */
	void (*open)(struct tdm_map *m, struct tdm_map *child);
	/* log2 of the size in which the device's pages come, for the chooser of addresses; 0: it does not say. May be NULL. */
	u32 (*order)(struct tdm_map *m);
};

/* A driver's mapping in one space. Its pieces (VMAs) name it by index. */
struct tdm_map {
	const struct tdm_map_ops *ops;
	void *arg;
	struct tdm_space *s;
	u64 start;    /* address of offset `off`, constant */
	u64 off;      /* bytes */
	u64 bytes;    /* still mapped; s->change */
	u32 index;    /* in s->map; constant */
	struct tdm_rcu_head rcu;
};

struct tdm_space {
	struct tdm_world *w;
	u32 id;                      /* in w->space; constant */
	struct tdm_pgt pgt;
	struct tdm_vmas vmas;
	struct tdm_notifiers notifiers;
	struct tdm_alloc alloc;
	struct plat_mutex change;    /* rank TDM_RANK_EVENT */
	tdm_aptr map[TDM_MAPS_MAX];  /* struct tdm_map; s->change; read by faults under RCU */
	tdm_a64 batched;             /* entries for which batches owe a flush */
	tdm_a32 owed;                /* gathers that have taken rights away, and not flushed yet */
	tdm_a64 rss, swapped, special; /* entries, in pages */
	bool is_object;              /* mm/shm.h: its pages are its own, whoever else maps them. Constant once it is used */
	tdm_a32 faults;              /* being served */
	tdm_a32 forking;             /* none is begun */
};

enum tdm_space_count {
	TDM_SC_FAULTS, TDM_SC_ZEROED, TDM_SC_COPIED, TDM_SC_REUSED, TDM_SC_SWAPPED_IN, TDM_SC_SWAPPED_OUT, TDM_SC_AF_FAULTS, TDM_SC_SPECIAL_FAULTS,
	TDM_SC_UNSHARED, TDM_SC_LAZY_FREED, TDM_SC_LAZY_SAVED, TDM_SC_REFAULTS, TDM_SC_WRONG, TDM_SC_ROTATED, TDM_SC_FLUSHES, TDM_SC_FLUSHED_SPACES,
	TDM_SC_DEFERRED, TDM_SC_FORCED, TDM_SC_SECONDARY, TDM_SC_SECONDARY_DEFERRED, TDM_SC_PENDING_FLUSHES, TDM_SC_FORK_COPIED, TDM_SC_COHERENT_COPIED,
	TDM_SC_LEAF_4K, TDM_SC_LEAF_2M, TDM_SC_LEAF_1G, TDM_SC_COLLAPSED, TDM_SC_SPLIT, TDM_SC_TABLES,
	TDM_SC_NR,
};

struct tdm_swapcache;
struct tdm_vmscan;

struct tdm_world {
	struct tdm_phys phys;
	struct tdm_pfn zero;         /* the page of zeros: mapped by SPECIAL entries, and counted by nobody */
	u32 ram;                     /* the range that anonymous memory comes from */
	struct tdm_rcu rcu;
	struct tdm_alloc alloc;
	const struct tdm_tlb_ops *tlb;
	void *tlb_arg;
	struct tdm_tlb_policy policy;
	struct tdm_swap *swap;       /* or NULL: nothing goes anywhere */
	struct tdm_swapcache *swapcache;
	struct tdm_vmscan *vmscan;
	struct plat_mutex rmap_lock[TDM_RMAP_LOCKS];
	struct plat_mutex lock;      /* rank TDM_RANK_CTX: the table of spaces */
	tdm_aptr space[TDM_SPACES_MAX];
	struct tdm_shm *dead_shm;    /* lock: mm/shm.h */
	tdm_a32 any_dead_shm;        /* written under it */
	u64 huge;                    /* leaf sizes that the CPUs have: a mask with 4 KiB; a driver's leaves are never larger */
	tdm_a64 count[TDM_SC_NR];
};

/* ram pages of memory in range 0; tlb: or NULL: there are no CPUs. swap: owned from here on, unless this fails; or NULL. -ENOMEM. */
int tdmi_world_init(struct tdm_world *w, u64 ram, const struct tdm_tlb_ops *tlb, void *tlb_arg, struct tdm_swap *swap);
/* No space is left. */
void tdmi_world_destroy(struct tdm_world *w);

/* One reference to the page less; the last one takes it off its list and frees it. Tables may be locked. */
void tdmi_page_put(struct tdm_world *w, struct tdm_pfn pfn);

static inline void tdm_world_count(struct tdm_world *w, enum tdm_space_count c, u64 n)
{
	tdm_a64_add_relaxed(&w->count[c], n);
}

static inline u64 tdm_world_counted(const struct tdm_world *w, enum tdm_space_count c)
{
	return tdm_a64_ld_relaxed(&w->count[c]);
}

static inline void tdm_world_work(const struct tdm_world *w, enum tdm_work what, u64 n)
{
	if (w->tlb && w->tlb->work)
		w->tlb->work(w->tlb_arg, what, n);
}

/* ---- space.c. All of these take s->change, and none may be called by who holds a lock; `reader` is the calling thread's of w->rcu, and outside of a section.
 * Ranges are of whole pages in [TDM_VA_START, TDM_VA_END), or -EINVAL. */

/* -ENOMEM; -ENOSPC: TDM_SPACES_MAX. */
int tdmi_space_create(struct tdm_world *w, struct tdm_space **out);
/* Everything is unmapped, notifiers are released, and the memory is freed, after a grace period that this waits for. */
void tdmi_space_destroy(struct tdm_space *s, struct tdm_rcu_reader *reader);
/* Anonymous memory at [start, start + len), which replaces what was there: whoever accesses it meanwhile finds the one or the other. flags: TDM_V_READ, _WRITE.
 * For shared memory see mm/shm.h. */
int tdmi_mmap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags);
/* A driver's mapping likewise, of its bytes [off, off + len). *out: or NULL. -ENOSPC: TDM_MAPS_MAX. */
int tdmi_mmap_driver(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags, const struct tdm_map_ops *ops, void *arg, u64 off,
		     struct tdm_map **out);
int tdmi_munmap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len);
/* flags: TDM_V_READ, _WRITE. -ENOMEM: not all of it is mapped; what came before has changed. */
int tdmi_mprotect(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags);
/* The ranges do not overlap; what was at `to` is unmapped, also if there is an error after that. -EFAULT: not all of it is mapped by one VMA. */
int tdmi_mremap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 from, u64 to, u64 len);
int tdmi_madvise_dontneed(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len);
/* The pages need not be kept unless they are written again: reclaim drops them. */
int tdmi_madvise_free(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len);
/* From now on writes to the range set soft-dirty again; secondary MMUs' writes, too. */
int tdmi_clear_soft_dirty(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len);

/* For fork: the child has so many bytes of the mapping, too, or so many more, at the same index. -ENOMEM. */
int tdmi_map_inherit(struct tdm_space *child, struct tdm_map *of, u64 bytes);

/* ---- fork.c: a space like s. -ENOMEM: there is none. */
int tdmi_space_fork(struct tdm_space *s, struct tdm_rcu_reader *reader, struct tdm_space **child);

/* ---- anon.c */
enum tdm_access { TDM_ACCESS_READ, TDM_ACCESS_WRITE };
/* A walker has missed at va, or found less than it needs (an entry that is not writable, or whose A or D bit it cannot set itself). 0: look again. -EFAULT:
 * there is no mapping that allows it. -EIO, -EBADMSG: a tier could not give it back. -ENOMEM: there is no page, and reclaim found none: let others go on, and
 * try later. -ENXIO: a driver's SIGBUS. Outside of a section; no lock. */
int tdmi_space_fault(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, enum tdm_access access);

/* Does va have a page? With a reference: *pfn. Lockless; RCU reader. */
bool tdmi_space_get_page(struct tdm_space *s, u64 va, struct tdm_pfn *pfn);

/* ---- entries that are present: hardware changes them, too */
static inline struct tdm_pte tdm_pt_xchg(struct tdm_pt *pt, u32 i, struct tdm_pte to)
{
	struct tdm_pte was = { tdm_a64_xchg_acqrel(&pt->e[i], to.v) };

	if (was.v && !to.v)
		pt->used--;
	else if (!was.v && to.v)
		pt->used++;
	return was;
}

/* Set and clear bits of a present entry. What it was. The table is locked. */
static inline struct tdm_pte tdm_pt_change(struct tdm_pt *pt, u32 i, u64 set, u64 clear)
{
	u64 was = tdm_a64_ld_relaxed(&pt->e[i]);

	while (!tdm_a64_cas_acqrel(&pt->e[i], &was, (was & ~clear) | set))
		;
	return (struct tdm_pte){ was };
}

static inline struct tdm_space *tdm_space_by_id(struct tdm_world *w, u32 id)
{
	return tdm_aptr_ld_acquire(&w->space[id]);
}

#endif
