/* SPDX-License-Identifier: MIT */
/*
 * swap_impl.h - what the files of the swap share: swap_desc.c (descriptors, lists, and who may look at them: the rules stand there), swap_move.c,
 * swap_keep.c, swap.c.
 */
#ifndef TDM_MM_SWAP_IMPL_H
#define TDM_MM_SWAP_IMPL_H

#include "base/check.h"
#include "mm/swap.h"
#include "pool/codec.h"

#define TIERS_MAX 8u
#define TIER_NONE 0xffu /* every page is filled with the word in `where` */
#define TIER_GONE 0xfeu /* it is kept, but its bytes were given up */
#define BLOCK_BLOBS 2048u
#define BLOCKS_MAX 65536u
#define NIL (~(u32)0)
#define BLOB_BUF TDM_ALIGN_UP(TDM_BLOB_MAX, TDM_PAGE_SIZE)

#define MOVING ((u32)1 << 31)
#define WAITERS ((u32)1 << 30)
#define DEAD ((u32)1 << 29)
#define READERS (DEAD - 1)

#define WANTED ((u32)0xffff) /* in live */
#define KEPT ((u32)1 << 16)

/* Pages that turned out to be what their kept blob said, of the last SCORE_ONE or so, in that unit: below a quarter, keeping costs more than it saves. */
#define SCORE_ONE 4096u

enum { LIST_NONE, LIST_FIFO, LIST_SPARSE, LIST_KEPT, LISTS };

struct blob {
	tdm_a32 state;
	tdm_a32 live;   /* mask of pages that are wanted, and KEPT */
	u64 where;      /* the tier's handle; for TIER_NONE the word. This and the next three: changed by the mover, under MOVING and lock */
	u32 len;
	tdm_a16 n;      /* pages that are in the bytes; read by any reader, who may see what it was */
	u8 tier;
	u8 list;        /* guarded by swap->lock, like the links */
	u32 next, prev; /* next is also the free list's */
};

struct list {
	u32 first, last;
};

struct tdm_swap {
	struct plat_mutex lock; /* TDM_RANK_SWAP: lists and descriptors */
	struct tdm_tier *tier[TIERS_MAX];
	u32 ntiers;
	struct list list[TIERS_MAX][LISTS];
	tdm_a64 sparse;         /* blobs in sparse lists; written under the lock */
	tdm_a64 kept_bytes;     /* in kept lists; likewise */
	tdm_a64 kept_limit;
	tdm_a32 bypass;         /* memory tiers come last */
	tdm_a32 score;          /* racing updates may be lost */
	tdm_a32 refused;        /* since one was last kept all the same; likewise */
	u32 free;
	tdm_a32 nblobs;         /* descriptors ever made */
	tdm_a64 mem;            /* descriptors, bytes */
	tdm_a64 pages, same_filled, incompressible, out_pages, out_packed, in_pages, dropped_pages, reused, demoted, full;
	struct blob *block[BLOCKS_MAX];
};

struct tdm_swap_ws {
	struct tdm_codec_ws *codec;
	u8 out[BLOB_BUF] __attribute__((aligned(4096)));  /* a blob on its way out */
	u8 move[BLOB_BUF] __attribute__((aligned(4096))); /* a blob packed again on its way down */
	u8 io[BLOB_BUF] __attribute__((aligned(4096)));   /* a blob read from a file */
	u8 page[TDM_BLOB_PAGES][TDM_PAGE_SIZE] __attribute__((aligned(4096)));
};

_Static_assert(sizeof(struct blob) == 32, "a descriptor is 32 bytes");

/* Where a blob is, or has been. */
struct place {
	u64 where;
	u32 len;
	u8 tier, n;
};

static inline void count(tdm_a64 *a, u64 by)
{
	tdm_a64_add_relaxed(a, by);
}

static inline struct blob *blob_at(struct tdm_swap *s, u64 i)
{
	return &s->block[i / BLOCK_BLOBS][i % BLOCK_BLOBS];
}

/* For a handle that came from outside. */
static inline struct blob *blob_find(struct tdm_swap *s, u64 handle)
{
	TDM_BUG_ON(handle >= tdm_a32_ld_relaxed(&s->nblobs));
	return blob_at(s, handle);
}

/* Are its bytes in a tier? */
static inline bool has_bytes(const struct blob *b)
{
	return b->tier != TIER_NONE && b->tier != TIER_GONE;
}

static inline u32 pages_in(const struct blob *b)
{
	return tdm_a16_ld_relaxed(&b->n);
}

/* Are so many pages of a blob dropped that it ought to be stored without them? */
static inline bool is_sparse(u32 wanted, u32 n)
{
	return (u32)__builtin_popcount(wanted) * 4 <= n * 3;
}

/* See the bytes of a blob of which we are a reader. */
static inline int bytes_get(struct tdm_swap *s, struct tdm_swap_ws *ws, const struct blob *b, const void **bytes)
{
	return s->tier[b->tier]->ops->get(s->tier[b->tier], b->where, b->len, ws->io, bytes);
}

static inline void bytes_release(struct tdm_swap *s, const struct blob *b)
{
	s->tier[b->tier]->ops->release(s->tier[b->tier], b->where);
}

/* ---- swap_desc.c */

/* One that nobody knows of. -ENOSPC, -ENOMEM. */
int tdmi_desc_take(struct tdm_swap *s, u32 *out);
/* Back, unused. */
void tdmi_desc_untake(struct tdm_swap *s, u32 i);
/* The lock is held. first: before all others. */
void tdmi_desc_list_add(struct tdm_swap *s, struct blob *b, u32 i, u32 which, bool first);
void tdmi_desc_list_del(struct tdm_swap *s, struct blob *b);
/* Back into, or for the first time in, the list where it belongs. */
void tdmi_desc_file(struct tdm_swap *s, struct blob *b, u32 i, bool oldest);
/* What is wanted of a blob has changed. Whoever has taken it out of all lists will see. */
void tdmi_desc_relist(struct tdm_swap *s, struct blob *b, u32 i);
/* One reader more, who does not look at the location. false: it is dead. */
bool tdmi_desc_hold(struct blob *b);
/* One reader more, who finds the location stable. */
void tdmi_desc_enter(struct blob *b);
void tdmi_desc_leave(struct tdm_swap *s, u32 i);
/* By a reader: keep new readers of the location out, and wait for those who are in. */
void tdmi_desc_move_begin(struct blob *b);
void tdmi_desc_move_end(struct blob *b);

/* ---- swap_move.c */

/* Store up to max blobs of memory tier t without what has been dropped of them. The bytes saved. */
u64 tdmi_swap_squeeze(struct tdm_swap *s, struct tdm_swap_ws *ws, u32 t, u32 max);
/* Move the oldest blobs of memory tier t down until that was so many bytes; net: less what they take in a memory tier below. What it was. */
u64 tdmi_swap_demote_tier(struct tdm_swap *s, struct tdm_swap_ws *ws, u32 t, u64 bytes, bool net);

#endif
