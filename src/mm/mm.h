/* SPDX-License-Identifier: MIT */
/*
 * mm.h - an address space, and the threads that work on it.
 *
 * Locks, in the order in which they are taken:
 *   event_lock   reading events of the address space and acting on them; taking pages home. The live process's program must not be let out of
 *                an munmap() whose event has been read, but not acted upon, while reclaim takes a page at that address: it might be a
 *                new mapping's. So both are done under this lock.
 *   tables       upper before lower (mm/pgtable.h); hold the leaf's table for every change of an entry and of its folio
 *   lru, frames, swap, alloc, rcu: leaves
 *
 * Filling and events. The kernel refuses to fill anything from the moment that a mapping has changed until its event is read; and from then on it
 * allows it again, before we have acted. A fill decided upon earlier would now succeed: it would put the old bytes at the old place
 * of an mremap(MREMAP_DONTUNMAP), or bytes that the program has just dropped. So fills take no lock, but are let through a gate (event.c):
 * nothing is being filled while a message is read, and if it was an event nothing is, by anybody, until it has been acted upon.
 *
 * Nobody waits for the program while holding any of them, and the program never holds one: its threads ask an engine thread (run/live.h).
 */
#ifndef TDM_MM_MM_H
#define TDM_MM_MM_H

#include "base/alloc.h"
#include "base/lockrank.h"
#include "base/rcu.h"
#include "mm/devmem.h"
#include "mm/frame.h"
#include "mm/keep.h"
#include "mm/lru.h"
#include "mm/notifier.h"
#include "mm/pgtable.h"
#include "mm/predict.h"
#include "mm/swap.h"
#include "mm/vma.h"
#include "port/port.h"

/* What is counted; each thread counts in its own struct tdm_ctx. */
enum tdm_count {
	TDM_C_SOFT_FAULTS,
	TDM_C_HARD_FAULTS,
	TDM_C_ZERO_FAULTS,
	TDM_C_OTHER_FAULTS,
	TDM_C_SOFT_PAGES,
	TDM_C_HARD_PAGES,
	TDM_C_ZERO_PAGES,
	TDM_C_HOME_PAGES,
	TDM_C_EVICTED_PAGES,
	TDM_C_REFAULTS,
	TDM_C_DIRECT_RECLAIMS,
	TDM_C_STALLS,
	TDM_C_STALL_NS,
	TDM_C_FAULT_NS,
	TDM_C_PINNED,     /* pages that could not be taken */
	TDM_C_UNSHARED,   /* copy-on-write copies made so that a page could be taken */
	TDM_C_POISONED,   /* pages whose bytes could not be got back */
	TDM_C_LOST,       /* pages that vanished without an event */
	TDM_C_LATE_DROPS, /* zeros that vanished: what the program drops is announced before it is dropped, and they came between */
	TDM_C_REVOKED,    /* pages that a device had for itself, and a touch took back */
	TDM_C_COMPLETED_ELSEWHERE, /* packed pages that had changed meanwhile */
	TDM_C_LATENCY0,
	TDM_C_NR = TDM_C_LATENCY0 + 32,
};

struct tdm_mm;

/* A thread of the engine. Made by tdmi_ctx_create(); used by one thread. */
struct tdm_ctx {
	struct tdm_mm *mm;
	struct tdm_rcu_reader *rcu;
	struct tdm_swap_ws *ws;
	u8 *bounce;               /* TDM_BLOCK_SIZE */
	tdm_a64 count[TDM_C_NR];  /* written by the owner alone */
	tdm_a32 busy;             /* inside an operation on the mm: see tdmi_mm_enter() */
	const struct tdm_inv_range *round; /* that it is in, or NULL: within it, take_home.c and migrate_to_ram.c begin none */
	u64 needs_round;          /* where a fault must be tried again in a round: migrate_to_ram.c */
	bool needs_whole;         /* and what is there comes back whole; */
	bool no_whole;            /* or cannot, as has been found */
	tdm_a32 filling;          /* the port is being asked to fill: see event.c */
	u32 fresh;                /* pages that it has mapped which came from the kernel, since it last made room for them: fault.c */
	u32 tid;                  /* whose fault it serves, as the port says; 0: not known */
	u32 lone_ns, lone_copies; /* what a move of a lone page took, on average; lone pages copied since that is too much: fault_block.c */
	bool may_wait;            /* others serve faults while this thread waits for one: it may unshare (take_home.c) */
	/* Or NULL: called with no lock held, and outside of the mm, when anonymous memory is wanted that the engine does not manage yet: have it found. */
	void (*find)(struct tdm_ctx *ctx);
	/* Or NULL: called by a thread that serves a fault before and after it waits for something slow, so that somebody else serves the next. It may be
	 * called with a table locked. */
	void (*on_slow)(struct tdm_ctx *ctx, bool begins);
	void *slow_arg;
};

#define TDM_CTX_MAX 32u
#define TDM_EXCLUSIVE_OWNERS 16u

struct tdm_mm {
	struct tdm_alloc alloc;
	struct tdm_rcu rcu;
	struct tdm_pgt pgt;
	struct tdm_frames frames;
	struct tdm_lru lru;
	struct tdm_vmas vmas;
	struct tdm_predict predict;
	struct tdm_swap *swap;
	struct tdm_keep *keep;    /* or NULL: nothing is kept */
	struct tdm_port *port;
	struct tdm_notifiers notifiers;
	tdm_aptr exclusive_owner[TDM_EXCLUSIVE_OWNERS]; /* who has pages for itself; NULL: nobody has had that number yet */
	struct tdm_pool *pool[TDM_POOLS_MAX]; /* changed only while nobody uses them: tdmi_pool_attach() */
	struct plat_mutex event_lock;
	bool unsettled;           /* the port is not sure yet that all we know of is there: see tdmi_events_settled(). The event lock */
	const u8 *zeros;          /* TDM_BLOCK_SIZE of zeroes; constant */
	/* Pages, kept by whoever changes an entry. */
	tdm_a64 lent, home;
	tdm_a64 stale;            /* homes holding bytes that nobody wants */
	tdm_a64 out;              /* swap entries */
	tdm_a64 coherent;         /* pages in coherent device memory */
	/* Set by whoever measures: bytes in use that the engine does not count itself, and what is allowed. */
	tdm_a64 other_bytes;
	tdm_a64 limit_bytes;      /* ~0: no limit */
	tdm_a64 high_bytes;       /* reclaim in the background starts here */
	tdm_a64 futile_until;     /* making room has just failed: nobody tries again before this time, in ns */
	tdm_a32 full;             /* every tier was full at the last try */
	/* Threads. Slots are claimed under ctx_lock, never moved. */
	struct plat_mutex ctx_lock;
	struct tdm_ctx *ctx[TDM_CTX_MAX];
	tdm_a32 gate;             /* nonzero: nobody may enter */
	tdm_a64 frozen;           /* how often it has been: each may have been for a fork. Written while nobody is inside */
	tdm_a32 event_gate;       /* enum tdm_event_gate; written under the event lock */
};

/* Make an address space over a port, an arena for homes of nframes frames, and a swap (owned from here on, unless this fails). -ENOMEM. */
int tdmi_mm_init(struct tdm_mm *mm, struct tdm_port *port, void *arena, u32 nframes, struct tdm_swap *swap);
void tdmi_mm_destroy(struct tdm_mm *mm);
struct tdm_ctx *tdmi_ctx_create(struct tdm_mm *mm);
void tdmi_ctx_destroy(struct tdm_ctx *ctx);

/* Every operation on the mm is between these two. enter fails while the gate is closed: stand back and try later. */
bool tdmi_mm_enter(struct tdm_ctx *ctx);
void tdmi_mm_exit(struct tdm_ctx *ctx);
/* Close the gate and wait until nobody is inside; open it again. One thread, itself outside. */
void tdmi_mm_freeze(struct tdm_mm *mm);
void tdmi_mm_thaw(struct tdm_mm *mm);
/* In the child of a fork that was made while frozen: the other threads are gone, locks are free. */
void tdmi_mm_after_fork(struct tdm_mm *mm);

static inline void tdm_count(struct tdm_ctx *ctx, enum tdm_count c, u64 n)
{
	tdm_a64_st_relaxed(&ctx->count[c], tdm_a64_ld_relaxed(&ctx->count[c]) + n);
}

/* The sum over all threads. */
u64 tdmi_mm_count(struct tdm_mm *mm, enum tdm_count c);
/* Bytes in use that the engine knows of: managed pages, warm and stale homes, pool, tables. */
u64 tdmi_mm_tracked(const struct tdm_mm *mm);
/* The same plus what was last measured of the rest. */
u64 tdmi_mm_usage(const struct tdm_mm *mm);

/* ---- fault.c: a port has missed at va. 0: served, or there is nothing to serve (the accessor was woken either way). -EAGAIN: the gate is
 * closed. write: the access was a write. */
int tdmi_fault(struct tdm_ctx *ctx, struct tdm_va va, bool write);
/* The same for who only asks, and can be told that there is no memory: -ENOMEM after a few tries, where tdmi_fault() ends the process. No lock is held. */
int tdmi_fault_try(struct tdm_ctx *ctx, struct tdm_va va, bool write);

/* ---- populate.c */
/* Bring every page of [start, end) that is home or out. What a tier cannot give is an error, and stays there. */
int tdmi_bring(struct tdm_ctx *ctx, u64 start, u64 end);
/* The same for a caller that holds the event lock. */
int tdmi_bring_locked(struct tdm_ctx *ctx, u64 start, u64 end);

/* ---- cow.c: stores to what a fork's other side may share. The caller is in the mm, or everybody is out of it; no lock is held. */
/* Have stores wait to at most about `most` pages, spread over what is mapped. */
void tdmi_cow_watch(struct tdm_ctx *ctx, u32 most);
/* ... to everything that is mapped. */
void tdmi_cow_watch_all(struct tdm_ctx *ctx);
/* Stores to the block of va go ahead, also those that wait. 0; -EAGAIN: there is an event to be read; -ENOMEM; anything else: it is not ours. */
int tdmi_cow_pass(struct tdm_ctx *ctx, u64 va);

/* ---- reclaim.c */
/* Evict until usage is below target (bytes) or `pages` have been freed, or nothing is left to do. The pages freed. */
u64 tdmi_reclaim(struct tdm_ctx *ctx, u64 target, u64 pages);
/* Take pages home so that a touch tells that they are used: at most n pages, oldest first. */
u64 tdmi_age(struct tdm_ctx *ctx, u64 pages);
/* Home pages that ought to be on probation, given what is lent. */
u64 tdmi_home_wanted(const struct tdm_mm *mm);
/* Give warm and dirty memory back, some of it. The pages; 0: there is none. No lock is held. */
u32 tdmi_trim(struct tdm_ctx *ctx);

/* ---- pageout.c */
/* The pages of a range: home only, or out. Pages dealt with in *pages. -ENOSPC. */
int tdmi_range_home(struct tdm_ctx *ctx, u64 start, u64 end, u64 *pages);
int tdmi_range_out(struct tdm_ctx *ctx, u64 start, u64 end, u64 *pages);
/* The home pages of a range, to the tiers, or to a device's memory. -ENOSPC: it is full; the device's errors. */
int tdmi_range_pack(struct tdm_ctx *ctx, u64 start, u64 end, struct tdm_pool *pool, u64 *pages);

/* ---- pack.c */
/* Pack the home pages of an isolated block folio that are in the mask into a blob, or copy them to a device's memory if there is a pool, and put it back. *pages: those that
 * are there now. 0, or -errno of the tiers, or of the pool: no page is there then, but for -ENOSPC of a pool, which may have had memory for some. *again: more of them could
 * be later, but for an event. No lock is held. */
int tdmi_pack_folio(struct tdm_ctx *ctx, struct tdm_frame *folio, u32 only, struct tdm_pool *pool, u64 *pages, bool *again);
/* The same, to a device, of up to `most` blocks in a row, from va on, that lie in one table, and are home, all of them and side by side. *blocks: so many have been dealt with; 0:
 * the first one is not like that, or there is no memory for it in one piece. */
#define TDM_PACK_MANY 32u
int tdmi_pack_many(struct tdm_ctx *ctx, u64 va, u32 most, struct tdm_pool *pool, u32 *blocks);
/* An isolated 2 MiB folio on probation becomes 32 blocks. true: they are on the list now. */
bool tdmi_split_home(struct tdm_ctx *ctx, struct tdm_frame *folio);

/* ---- migrate.c */
/* Move what of [start, end) is in ram to the device's memory. *pages: those that are there now. Pages that are pinned, used meanwhile, or of a mapping that
 * does not allow it stay. 0; -ENOSPC: its memory is full; the device's errors: what had not been moved is where it was. No lock is held. */
int tdmi_migrate_to_device(struct tdm_ctx *ctx, struct tdm_pool *pool, u64 start, u64 end, u64 *pages);

/* An isolated folio of 2 MiB that is home goes as one, and is put back. The pages that are there now: 512, or 0: somebody needs it; or the device's errors. !*tried:
 * there is no memory of the device's in one piece, and it is still isolated. No lock is held. */
int tdmi_migrate_huge(struct tdm_ctx *ctx, struct tdm_frame *folio, struct tdm_pool *pool, bool *tried);

/* ---- exclusive.c: have each page of [start, end) taken home for a device alone. home[]: where its bytes are, one a page; NULL: somebody uses it (it is pinned,
 * or was touched meanwhile): try again. *pages: those that are there. It lasts until a round that is not the owner's covers the page: home[] must not be used once the
 * subscriber's invalidate has returned. Asking again takes nothing back that is there. Copies are made of pages that are shared with a child. -EINVAL: unaligned or
 * empty, nobody's; -EFAULT: there is no mapping;
 * -EPERM: it may not be written; -EOPNOTSUPP: the engine does not manage it; -ENOSPC: there have been TDM_EXCLUSIVE_OWNERS owners; -ENOMEM. Pages before the one with an error are done. No lock is held; the caller is in the
 * mm, and not in a round. */
int tdmi_make_exclusive(struct tdm_ctx *ctx, u64 start, u64 end, const void *owner, void **home, u64 *pages);
/* Whose page that is. */
const void *tdmi_exclusive_owner(struct tdm_mm *mm, struct tdm_pte pte);

/* ---- adopt.c: make [start, end), which the port now serves and in which pages are present, known. */
int tdmi_adopt(struct tdm_ctx *ctx, u64 start, u64 end);

/* ---- event.c: fills and events exclude each other. */
enum tdm_event_gate { TDM_EVENTS_NONE, TDM_EVENTS_READING, TDM_EVENTS_TAKING };
/* Around one call of the port that puts pages somewhere, in the table of which the caller has the lock. false: an event is being taken in; do as if
 * the port had said -EAGAIN, and leave out the end. */
bool tdmi_fill_begin(struct tdm_ctx *ctx);
void tdmi_fill_end(struct tdm_ctx *ctx);
/* Around reading one message, with the event lock held. event: it was one; tdmi_event_done() follows when it has been acted upon, before the lock is
 * let go of. */
void tdmi_event_read_begin(struct tdm_mm *mm);
void tdmi_event_read_end(struct tdm_mm *mm, bool event);
void tdmi_event_done(struct tdm_mm *mm);
/* With the event lock held, before anything is taken home: the port settles what it can. false: not now. */
bool tdmi_events_settled(struct tdm_ctx *ctx);
/* Nothing could be taken home (-EAGAIN): is it to be tried again? Waits a little, so with no lock held. *since: 0 at the first time; false when it has gone on for
 * TDM_WAKE_NS. Linux moves nothing from the moment that an event is queued until whoever caused it has run again, which may be long after the event was read, when there are more
 * threads than CPUs. */
#define TDM_WAKE_NS ((u64)200000000)
bool tdmi_event_retry(u64 *since);

/* ---- zap.c: events. The event lock is held. */
enum tdm_zap {
	TDM_ZAP_UNMAP,  /* the range is not there any more: nor is its VMA */
	TDM_ZAP_REMOVE, /* the program wants its bytes dropped; pages that are mapped may be there for a while yet */
	TDM_ZAP_FORGET, /* what is mapped stays, and is not ours any more; nothing may be home or out */
};
void tdmi_zap(struct tdm_ctx *ctx, u64 start, u64 end, enum tdm_zap how);
/* Forget the page at va, unless it is lent. */
void tdmi_zap_entry(struct tdm_ctx *ctx, u64 va);
/* [from, from + len) is at `to` from now on, where nothing was: entries and VMAs, and nothing is known of `from` any more. What the port has
 * mapped is forgotten, but for pages in coherent memory, which stay there. */
void tdmi_move(struct tdm_ctx *ctx, u64 from, u64 to, u64 len);
/* ... and is found again, at the place to which the port has moved it. */
void tdmi_move_end(struct tdm_ctx *ctx, u64 to, u64 len);
/* Both, and before them what was at `to` is unmapped. */
void tdmi_remap(struct tdm_ctx *ctx, u64 from, u64 to, u64 len);

/* ---- frozen.c: while the gate is closed and the caller is the only one who looks. Nothing is changed, so that both sides of a fork find the same. */
/* The bytes of the page at va: its home, an unpacked copy in ctx->bounce, zeros if it was never touched; NULL: the port has it. -EIO, -EBADMSG. */
int tdmi_frozen_page(struct tdm_ctx *ctx, u64 va, const void **bytes);
/* n pages from va on, and their bytes: home, or in ctx->bounce. */
typedef int tdm_frozen_fn(void *arg, u64 va, u32 n, const void *bytes);
/* fn() for all that is in [start, end) and that the port does not have, until it returns nonzero: that is the result, or -EIO, -EBADMSG. This one needs no closed gate where nothing
 * can be filled and the caller holds the event lock: pages may be packed meanwhile, and each is looked at with its table locked. */
int tdmi_frozen_walk(struct tdm_ctx *ctx, u64 start, u64 end, tdm_frozen_fn *fn, void *arg);
/* The page at va was given to the port while frozen: if the port still has it, the table says so now. The event lock is held. */
void tdmi_settle(struct tdm_ctx *ctx, u64 va);

/* ---- folio.c: helpers shared by the files above. The table lock is held. */
/* The folio of the block that page i of the PTE table belongs to, or NULL if no page of the block is present. */
struct tdm_frame *tdmi_block_folio(struct tdm_mm *mm, struct tdm_pt *pt, u32 i);
/* Its pages, lent or home, by the entries that name it; first: of its block. A bit a page. */
u32 tdmi_folio_pages(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, struct tdm_frame *folio, bool lent);
/* The folio of the block, made if there is none. warm: see tdmi_folio_alloc(). NULL: no frames. */
struct tdm_frame *tdmi_block_folio_get(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, bool warm, bool *was_warm);
/* Home pages of a folio become lent and the other way round, or go away: entry, mapcount and counters. */
void tdmi_page_set(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, struct tdm_pte pte);
/* The home leaf i of the locked PMD table becomes this table (which nobody has seen) of 512 entries that name the device's folio, of order 9; and a locked
 * table of 512 such entries becomes the home leaf of a NEW folio: it is dead then, and unlocked. What becomes of the other folio is the caller's business. */
void tdmi_huge_to_private(struct tdm_mm *mm, struct tdm_pt *pmd, u32 i, struct tdm_pt *pt, struct tdm_pool *p, struct tdm_frame *dev);
void tdmi_private_to_huge(struct tdm_mm *mm, struct tdm_pt *pmd, struct tdm_pt *pt, struct tdm_pool *p, struct tdm_frame *dev, struct tdm_frame *folio);
/* The home leaf i of the locked PMD table is being copied: whoever does that gives up soon. */
void tdmi_huge_want(struct tdm_mm *mm, struct tdm_pt *pmd, u32 i);
/* The same of n entries of one block that are alike, to n that are alike: of one folio, home or lent, or of one folio of a device. */
void tdmi_pages_set(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, u32 n, const struct tdm_pte *pte);
/* Nothing of the folio is present any more: free it. populated: its homes that hold a physical page (bit a page). */
void tdmi_folio_release(struct tdm_mm *mm, struct tdm_frame *folio, u32 populated);
/* Pages of the folio have come to be lent. It moves to a generation, unless some of its pages are still on probation: then they have their turn
 * first. */
void tdmi_folio_touched(struct tdm_mm *mm, struct tdm_pt *pt, u32 first, struct tdm_frame *folio, enum tdm_lru_why why);
/* Make 512 pages of the 2 MiB leaf i of the locked PMD table, and 32 folios of its folio, which the caller has isolated (they are on lists
 * afterwards). The first `moved` pages are lent if it was home, and home if it was lent. spare: tdmi_pt_spare(&->pgt), or NULL. -ENOMEM (not with a
 * spare): nothing has changed, it was put back. */
int tdmi_huge_split(struct tdm_mm *mm, struct tdm_pt *pmd, u32 i, u32 moved, struct tdm_pt *spare);
/* An order-4 folio of which nothing is left: give its homes back. No lock is needed. */
void tdmi_block_free(struct tdm_mm *mm, struct tdm_frame *folio);
/* Give an isolated folio back (mm/lru.h). false: it had died, and is freed. No table lock is needed. */
bool tdmi_folio_putback(struct tdm_mm *mm, struct tdm_frame *folio, enum tdm_lru_where where);
/* The folio's pages may be what this blob holds, plus 1; 0: none. What it had before is forgotten. */
void tdmi_folio_keep(struct tdm_mm *mm, struct tdm_frame *folio, u32 kept);
/* Homes that hold bytes, which nobody wants any more; of which the bytes are wanted, or which are empty. mask: bits within the folio, of order 4. */
void tdmi_homes_stale(struct tdm_mm *mm, struct tdm_frame *folio, u32 mask);
void tdmi_homes_wanted(struct tdm_mm *mm, struct tdm_frame *folio, u32 mask);
/* All homes of a folio of order 9 hold bytes that nobody wants any more. */
void tdmi_huge_stale(struct tdm_mm *mm, struct tdm_frame *folio);
/* A folio of order 9 of which nothing is left, and that nobody has pinned. */
void tdmi_huge_free(struct tdm_mm *mm, struct tdm_frame *folio);
/* Homes whose bytes nobody wants: discard them (physical pages go back). mask: bits within the folio. */
void tdmi_homes_discard(struct tdm_mm *mm, struct tdm_frame *folio, u32 mask);
/* Empty dirty folios (mm/frame.h), if there are enough, or more than keep pages in them. With no lock held. The pages. */
u32 tdmi_dirty_discard(struct tdm_mm *mm, u64 keep);

#endif
