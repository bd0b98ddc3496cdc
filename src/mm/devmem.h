/* SPDX-License-Identifier: MIT */
/*
 * devmem.h - the memory of devices: private, which the CPU cannot map, and coherent, which it can (coherent.c).
 *
 * A pool is the memory of one device. It belongs to one address space, whose entries name its frames (TDM_PTE_T_PRIVATE). Its descriptors are those of
 * frame.h, without homes: a folio has order 0, 4 (a block) or 9; `va` is where it is mapped, `mapcount` the entries that name it, both guarded by the lock of
 * the page table that holds these; and it is on the pool's LRU from when it is mapped until the last entry goes. The device's page_free is called
 * once for each folio, after that.
 */
#ifndef TDM_MM_DEVMEM_H
#define TDM_MM_DEVMEM_H

#include "mm/frame.h"
#include "mm/lru.h"
#include "mm/pte.h"

struct tdm_mm;
struct tdm_ctx;
struct tdm_pool;

/* What a device does with its memory. Called on engine threads, with the lock of a page table held: none of it may touch the program's memory or
 * call into the engine. Pages are 4096 bytes; n frames from `frame` on are contiguous, and so is the memory. */
struct tdm_pool_ops {
	const char *name;
	bool slow; /* a copy takes so long that somebody else should serve faults meanwhile */
	/* Begin to copy to the device, or from it. 0 or -errno: then nothing of this call counts. The memory stays what it is until copy_wait(). */
	int (*copy_in)(struct tdm_pool *p, u32 frame, const void *src, u32 n);
	int (*copy_out)(struct tdm_pool *p, void *dst, u32 frame, u32 n);
	/* All that has been begun by this thread is done, or -errno: then none of it counts. NULL: copies are done when they return. */
	int (*copy_wait)(struct tdm_pool *p);
	/* The 2^order frames from `frame` on, to which copy_in has been asked to copy, hold nothing any more. May be NULL. */
	void (*page_free)(struct tdm_pool *p, u32 frame, u32 order);
};

struct tdm_pool {
	const struct tdm_pool_ops *ops; /* constant, as are arg, owner, mm, and id once it is attached */
	void *arg;                      /* the device's */
	const void *owner;              /* whose pages these are: see mm/notifier.h */
	struct tdm_mm *mm;
	u32 id;
	struct tdm_frames frames;
	struct tdm_lru lru;
	bool coherent;                  /* constant */
	tdm_a32 fail_alloc;             /* for tests: the next allocation for it fails, once: of its memory, or of 2 MiB of ram */
	u8 **slot;                      /* coherent: of each 2 MiB of frames; constant while attached */
	int node;                       /* coherent: the NUMA node of its pages, or -1; set before it is attached, then constant */
	tdm_a64 copied;                 /* coherent: pages that a write after a fork has copied to ram, as far as it was noticed */
	tdm_a64 pages;                  /* named by entries */
	tdm_a64 moved_in, moved_out;    /* pages, ever */
};

#define TDM_POOLS_MAX 8u

/* nframes is a multiple of 512. -EINVAL, -ENOMEM. */
int tdmi_pool_init(struct tdm_pool *p, const struct tdm_pool_ops *ops, void *arg, const void *owner, u32 nframes);
/* The same of coherent memory: the ops' copies are not called. */
int tdmi_pool_init_coherent(struct tdm_pool *p, const struct tdm_pool_ops *ops, void *arg, const void *owner, u32 nframes);
/* It is attached to nothing. */
void tdmi_pool_destroy(struct tdm_pool *p);
/* -ENOSPC: there are TDM_POOLS_MAX already; -ENOMEM: no homes for the slots of coherent memory; those of plat_mem_node(): its node. Nobody else attaches, or detaches. */
int tdmi_pool_attach(struct tdm_mm *mm, struct tdm_pool *p);
/* -EBUSY: there are pages in it. Nobody migrates to it any more. */
int tdmi_pool_detach(struct tdm_pool *p);

/* Entries. */
static inline struct tdm_pte tdm_pte_mk_private(u32 pool, u32 frame)
{
	return tdm_pte_mk_typed(TDM_PTE_T_PRIVATE, (u64)pool << 32 | frame);
}

static inline struct tdm_pte tdm_pte_mk_coherent(u32 pool, u32 frame, bool shared)
{
	return tdm_pte_mk_typed(TDM_PTE_T_COHERENT, (u64)shared << 40 | (u64)pool << 32 | frame);
}

static inline bool tdm_pte_coherent_shared(struct tdm_pte p)
{
	return tdm_pte_payload(p) >> 40;
}

/* It names a frame of a device. */
static inline bool tdm_pte_device(struct tdm_pte p)
{
	return tdm_pte_is(p, TDM_PTE_T_PRIVATE) || tdm_pte_is(p, TDM_PTE_T_COHERENT);
}

static inline u32 tdm_pte_private_frame(struct tdm_pte p)
{
	return (u32)tdm_pte_payload(p);
}

struct tdm_pool *tdmi_pte_pool(struct tdm_mm *mm, struct tdm_pte p);
/* The folio of a frame that is in use. */
struct tdm_frame *tdmi_dev_folio(struct tdm_pool *p, u32 frame);
/* A folio for va of 2^order pages (0, 4, 9), in no list and not mapped. NULL: none left. */
struct tdm_frame *tdmi_dev_alloc(struct tdm_pool *p, u32 order, u64 va);
/* It is mapped now: entries name it. The table lock is held. */
void tdmi_dev_mapped(struct tdm_pool *p, struct tdm_frame *folio);
/* An entry that named this frame does so no more (tdmi_page_set() has been called), or it has not been mapped at all: the folio is freed with the last. Not
 * called again when it has been with none left. The table lock is held. */
void tdmi_dev_put(struct tdm_pool *p, struct tdm_frame *folio);

/* Free it: the last reference and the last pin are gone. */
void tdmi_dev_free(struct tdm_pool *p, struct tdm_frame *folio);
/* The same by what the entry was: for each entry, before another one is changed; or for all of a block that are in the mask, which have been changed. */
void tdmi_dev_left(struct tdm_mm *mm, struct tdm_pte was);
void tdmi_dev_left_all(struct tdm_mm *mm, const struct tdm_pte *was, u32 mask);

/* The bytes of the pages that the n entries name, which are PRIVATE, to dst, a page each; NULL: not that one. By runs. 0 or -errno: none counts. */
int tdmi_dev_read(struct tdm_mm *mm, const struct tdm_pte *pte, void *const *dst, u32 n);

/* ---- coherent.c */
int tdmi_coherent_attach(struct tdm_mm *mm, struct tdm_pool *p);
void tdmi_coherent_detach(struct tdm_mm *mm, struct tdm_pool *p);
void *tdmi_coherent_slot(const struct tdm_pool *p, u32 frame);
/* The page of this frame is at va now. The table lock is held. */
void tdmi_coherent_placed(struct tdm_mm *mm, struct tdm_pool *p, u32 frame, u64 va);
/* Pages of [start, end) that a fork may have shared: which are copies by now? owned: none is shared any more, the caller has seen to that. No lock is held. */
void tdmi_coherent_settle(struct tdm_ctx *ctx, u64 start, u64 end, bool owned);
/* All that there are may be shared from now on. The engine stands still. */
void tdmi_coherent_before_fork(struct tdm_ctx *ctx);
/* The coherent pages of [start, end), whosever, to ram, on probation. *pages: those that went; what is pinned stays. -ENOMEM. No lock is held, and the thread is in no round. */
int tdmi_coherent_home(struct tdm_ctx *ctx, u64 start, u64 end, u64 *pages);

/* The coherent page at `from` has been moved to `to`, where nothing is known: entry and folio follow, and it stays on its device. most: pages that are moved from there on; a block
 * goes as a whole if it can. How many pages have been dealt with; 0: there is none, or it is being evicted, or pinned with others: it is to be forgotten. The event lock is held, the
 * caller is in a round for the old place, and an RCU reader. */
u32 tdmi_coherent_move(struct tdm_ctx *ctx, u64 from, u64 to, u64 most);

/* ---- whole folios: devmem.c */
/* All of the 512 entries of a table name one folio, of order 9, one each: the bytes go to the home of a folio of ram, which is mapped by a leaf of 2 MiB then. No table is
 * locked, and the caller is in a round for all of it. p: only if it is that pool's; NULL: anybody's. 0; -ENOENT: it is not so; -ENOMEM: there is no such home in one
 * piece; the device's errors. */
int tdmi_dev_whole_home(struct tdm_ctx *ctx, u64 va, struct tdm_pool *p);
/* Of the table of that entry, which is locked: is it so? */
bool tdmi_dev_whole(struct tdm_mm *mm, struct tdm_pte pte);

/* Bring folios home to ram until `pages` pages have gone, oldest first. No lock is held. *done: pages. 0, or -errno of what failed: -ENOMEM, the device's. */
int tdmi_pool_evict(struct tdm_ctx *ctx, struct tdm_pool *p, u64 pages, u64 *done);
/* The same of what it has of [start, end). */
int tdmi_pool_evict_range(struct tdm_ctx *ctx, struct tdm_pool *p, u64 start, u64 end, u64 *done);
/*
 * Take a chunk out of use (memory offlining): nobody is given frames of it any more, and what is in it goes home. What somebody else has in hand, or has pinned, is
 * tried again, until `until_ns` (plat_now_ns()). No lock is held; the caller is in the mm, and leaves it for moments. 0: no frame of it is in use, nor will be before
 * tdmi_chunk_online(). -EBUSY: some of it stayed; or -errno of what failed, as above: then the chunk is in use as before.
 */
int tdmi_pool_offline(struct tdm_ctx *ctx, struct tdm_pool *p, u32 chunk, u64 until_ns);
/* The chunk that would be missed least: nothing of it is in use, or its folio is the oldest. TDM_FRAME_NIL: nothing is in the pool. */
u32 tdmi_pool_chunk_to_give(struct tdm_pool *p);

#endif
