/* SPDX-License-Identifier: MIT */
/*
 * frame.h - frames, folios, and the allocator of both.
 *
 * The ram pool of an address space is an arena: frame f has its home at arena + f * 4096. Allocating frames allocates homes, that is
 * addresses: whether a physical page lies there is known to whoever holds the folio. A folio is 2^order frames, contiguous and aligned; its
 * state is in the descriptor of its first frame.
 *
 * Free folios come in two kinds: in the buddy lists their homes hold no physical page; the *warm* cache holds folios of order 4 and 9 all of whose
 * homes do, so that a restore into them needs no page from the kernel. One of order 9 becomes 32 when blocks are wanted and there is no other. Warm pages
 * count as ram in use.
 *
 * A freed order-4 folio of which some homes hold a page is *dirty*: emptying homes one by one costs a flush of every CPU's TLB each, so it waits until
 * there are many in its 2 MiB of the arena, which are emptied together. Dirty pages count as ram in use.
 *
 * A *chunk* is the 512 frames of a folio of 2 MiB. One that is isolated gives no frames: what is free of it, and what is freed later, is on lists of its own.
 * Once all of it is, it is offline, and need not be there. (Memory hotplug, of a device's memory that processes share.)
 */
#ifndef TDM_MM_FRAME_H
#define TDM_MM_FRAME_H

#include "plat/plat.h"

#define TDM_FRAME_NIL (~(u32)0)

enum tdm_frame_state {
	TDM_FRAME_TAIL,     /* not the first frame of its folio, or never used */
	TDM_FRAME_FREE,     /* head of a free folio in the buddy lists */
	TDM_FRAME_WARM,     /* in the warm cache */
	TDM_FRAME_DIRTY,    /* freed, not emptied */
	TDM_FRAME_NEW,      /* allocated, on no list */
	TDM_FRAME_LENT,     /* on a generation's list */
	TDM_FRAME_HOME,     /* on the list of those on probation */
	TDM_FRAME_PINNED,   /* on the list of those that refuse to be taken */
	TDM_FRAME_SHARED,   /* on the list of those that are perhaps shared with the other side of a fork */
	TDM_FRAME_ISOLATED, /* reclaim looks at it */
};

#define TDM_FRAME_F_WRITEBACK 1u /* its home pages are being packed: they must stay where they are. Table lock. */
#define TDM_FRAME_F_DYING 2u     /* freed while isolated: whoever puts it back frees it. LRU lock. */
#define TDM_FRAME_F_GIVEN 4u     /* of a device: it has been asked to copy to it (mm/pack.c). Table lock, or whoever has allocated it */

/* One frame. 32 bytes. */
struct tdm_frame {
	u32 next, prev;  /* links, as frame numbers; guarded by the lock of the list that it is on */
	u64 va;          /* head: where it is mapped. Written before it goes on a list, constant until it is freed */
	u16 refcount;    /* head: 1 for the mapping, 1 for isolation; LRU lock */
	tdm_a16 pins;    /* first frame of every 16, whatever the order: see mm/gup.h. Never reset: somebody may look at a frame that is free */
	u16 mapcount;    /* head: pages of the folio that are present (lent or home); table lock */
	u16 stale;       /* head, order <= 4: homes that hold bytes nobody wants (the page was copied out); order 9: all of them do, or 0; table lock */
	u8 order;        /* head; written at allocation. In a device's memory all of the folio's have it */
	u8 state;        /* enum tdm_frame_state; LRU lock (allocator lock while free) */
	u8 gen;          /* head: generation modulo 4; LRU lock */
	u8 flags;        /* TDM_FRAME_F_* */
	u32 kept;        /* head, order 4: the blob that its 16 pages came from and may still be like (mm/swap.h), plus 1; 0: none. Table lock */
};

struct tdm_frames {
	u8 *arena;                /* homes; constant */
	struct tdm_frame *desc;   /* one a frame, and touched only where used; constant */
	u32 nframes;              /* constant, a multiple of 512 */
	struct plat_mutex lock;   /* guards all that follows */
	u32 free_head[10];        /* by order */
	u32 off_head[10];         /* the same, of chunks that are isolated */
	u32 fresh;                /* frames from here on were never handed out */
	u32 warm_head;            /* of order 4 */
	u32 warm_huge_head;       /* of order 9 */
	tdm_a32 warm_count;       /* of both, in blocks; may be read without */
	u32 warm_max;             /* likewise */
	u16 *dirty;               /* pages in dirty folios, for each 2 MiB of the arena */
	u8 *isolated;             /* 1: that chunk gives no frames */
	tdm_a32 nisolated;        /* how many; may be read without */
	tdm_a32 ripe;             /* one of those where there are many, or TDM_FRAME_NIL; may be read without */
	u32 dirty_folios;
	tdm_a64 dirty_pages;      /* the sum; may be read without */
	tdm_a64 used;             /* frames in allocated folios */
};

/* arena: nframes * 4096 bytes of addresses, 2 MiB-aligned. nframes is a multiple of 512. */
int tdmi_frames_init(struct tdm_frames *f, void *arena, u32 nframes);
void tdmi_frames_destroy(struct tdm_frames *f);
/* A folio of 2^order frames (0..9), NEW, refcount 1. warm: prefer one from the warm cache (orders 4 and 9); *was_warm tells. NULL: none left. */
struct tdm_frame *tdmi_folio_alloc(struct tdm_frames *f, u32 order, bool warm, bool *was_warm);
/* Up to `most` warm folios of order 4 that lie side by side, NEW; the first one in *folio. How many. */
u32 tdmi_folios_take_warm_run(struct tdm_frames *f, u32 most, struct tdm_frame **folio);
/* Free a folio whose homes hold no physical page. */
void tdmi_folio_free(struct tdm_frames *f, struct tdm_frame *folio);
/* Keep a folio of order 4 or 9 all of whose homes hold a page. false: the cache is full, the caller discards and frees. */
bool tdmi_folio_free_warm(struct tdm_frames *f, struct tdm_frame *folio);
/* The cache may hold so many blocks from now on; if there are more, they stay until they are taken. */
void tdmi_frames_warm_limit(struct tdm_frames *f, u32 max);
/* Take one folio out of the warm cache, to be discarded and freed: of order 4 if there is one. NULL: it is empty. */
struct tdm_frame *tdmi_folio_take_warm(struct tdm_frames *f);
/* Free an order-4 folio of which so many homes hold a page that nobody wants (stale). */
void tdmi_folio_free_dirty(struct tdm_frames *f, struct tdm_frame *folio, u32 pages);
/* Take the dirty folios of one 2 MiB range, to be emptied and freed: one where there are many, or, if there are more than keep pages in all dirty
 * folios, the one where there are most. How many; 0: not now. */
u32 tdmi_folios_take_dirty(struct tdm_frames *f, u64 keep, struct tdm_frame *folio[TDM_HUGE_PAGES / TDM_BLOCK_PAGES]);
/* A folio that is in use becomes one of each of its frames: no look at the chunk sees a part of that. All else of the descriptors is the caller's. */
void tdmi_folio_to_pages(struct tdm_frames *f, struct tdm_frame *folio);
/* Make 2^(order - 4) order-4 folios of one; each NEW with refcount 1 and its part of va. The caller fixes mapcounts. */
void tdmi_folio_split(struct tdm_frames *f, struct tdm_frame *folio);
/* No frame of this chunk is given to anybody from here on. It must not be isolated already. The warm and dirty ones do not count as free: for pools without. */
void tdmi_chunk_isolate(struct tdm_frames *f, u32 chunk);
/* The same of all. Nothing has been allocated yet. */
void tdmi_chunks_isolate_all(struct tdm_frames *f);
/* Frames of this chunk, which is isolated, may be given again. */
void tdmi_chunk_online(struct tdm_frames *f, u32 chunk);
/* Folios of this chunk, which is isolated, that are in use: their first frames, counted from the chunk's. How many; 0: it is offline, and stays so until it is online. */
u32 tdmi_chunk_used(struct tdm_frames *f, u32 chunk, u16 first[TDM_HUGE_PAGES]);
/* One that is not isolated, and of which nothing is in use; TDM_FRAME_NIL: there is none. */
u32 tdmi_chunk_unused(struct tdm_frames *f);
/* Everything consistent? For tests and debug builds. */
bool tdmi_frames_valid(struct tdm_frames *f);

/* Blocks in the warm cache. */
static inline u32 tdmi_frames_warm(const struct tdm_frames *f)
{
	return tdm_a32_ld_relaxed(&f->warm_count);
}

static inline u32 tdm_frame_nr(const struct tdm_frames *f, const struct tdm_frame *fr)
{
	return (u32)(fr - f->desc);
}

static inline void *tdm_frame_home(const struct tdm_frames *f, const struct tdm_frame *fr)
{
	return f->arena + ((size_t)tdm_frame_nr(f, fr) << TDM_PAGE_SHIFT);
}

static inline struct tdm_pfn tdm_frame_pfn(const struct tdm_frames *f, const struct tdm_frame *fr)
{
	return (struct tdm_pfn){ tdm_frame_nr(f, fr) };
}

static inline struct tdm_frame *tdm_pfn_frame(const struct tdm_frames *f, struct tdm_pfn pfn)
{
	return &f->desc[pfn.v];
}

/* The folio of a frame of order 4 or more that is mapped by 4 KiB leaves: blocks are folios of order 4. */
static inline struct tdm_frame *tdm_pfn_block(const struct tdm_frames *f, struct tdm_pfn pfn)
{
	return &f->desc[pfn.v & ~(u64)(TDM_BLOCK_PAGES - 1)];
}

#endif
