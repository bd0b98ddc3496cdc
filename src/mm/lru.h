/* SPDX-License-Identifier: MIT */
/*
 * lru.h - which folio goes next. The whole policy is behind these calls; lru.c can be replaced.
 *
 * A folio that has lent pages is on the list of a generation. The oldest generation's are taken home, and go to the probation list; those that
 * are still there when their turn comes are packed. A touch of a folio at home makes it young again.
 *
 * Locking: lru->lock, taken inside table locks, never around them. A folio that reclaim looks at is isolated: on no list, with a reference, so
 * that it can be unmapped and freed by others meanwhile: the last reference frees it (tdmi_lru_putback() tells).
 */
#ifndef TDM_MM_LRU_H
#define TDM_MM_LRU_H

#include "mm/frame.h"

#define TDM_LRU_GENS 4u

enum tdm_lru_why {
	TDM_LRU_ADOPTED,  /* found resident: nothing is known of its use */
	TDM_LRU_FAULTED,  /* first touch, or brought back after a long time */
	TDM_LRU_REFAULT,  /* brought back shortly after it was packed: part of the working set */
	TDM_LRU_TOUCHED,  /* a soft fault: used while on probation */
};

struct tdm_lru_list {
	u32 head, tail;
	u32 count; /* folios */
};

struct tdm_lru {
	struct tdm_frames *frames;
	struct plat_mutex lock;
	struct tdm_lru_list gen[TDM_LRU_GENS]; /* lent, by generation modulo 4 */
	struct tdm_lru_list home;              /* on probation, oldest first */
	struct tdm_lru_list shared;            /* refused to be taken, by a thread that must not try to unshare them */
	struct tdm_lru_list pinned;            /* refused to be taken home: tried again after a while, all at once */
	u64 pinned_retry_ns;
	u64 min_seq, max_seq;
	tdm_a32 clock;                         /* max_seq for readers without the lock: when something was evicted */
};

void tdmi_lru_init(struct tdm_lru *l, struct tdm_frames *frames);
/* Put a NEW folio on a list, or move one that is on a list (not an isolated one: its holder will put it back). */
void tdmi_lru_add(struct tdm_lru *l, struct tdm_frame *folio, enum tdm_lru_why why);
/* Put a NEW folio that was split off an old one in the oldest generation. */
void tdmi_lru_add_old(struct tdm_lru *l, struct tdm_frame *folio);
/* A folio has home pages now: to the probation list with it (an isolated one: its holder sees to it). */
void tdmi_lru_add_home(struct tdm_lru *l, struct tdm_frame *folio);
/* The next folio to take home, or to pack; isolated and referenced. NULL: there is none. unshare: the caller can deal with shared ones. */
struct tdm_frame *tdmi_lru_isolate_lent(struct tdm_lru *l, bool unshare);
struct tdm_frame *tdmi_lru_isolate_home(struct tdm_lru *l);
/* Isolate this one, if it is on a list. */
bool tdmi_lru_isolate(struct tdm_lru *l, struct tdm_frame *folio);
/* The same of what begins at this frame, if it is in use at all: the caller only knows that it was. */
bool tdmi_lru_isolate_used(struct tdm_lru *l, struct tdm_frame *folio);
/* The first frame of the one that tdmi_lru_isolate_lent() would give; TDM_FRAME_NIL: there is none. It may be another by now. */
u32 tdmi_lru_oldest(struct tdm_lru *l);
/* Give an isolated folio back: to the probation list, last or (TO_PACK) next, to the youngest generation, or to one of those that refuse. true: it died meanwhile, the caller frees it. */
enum tdm_lru_where { TDM_LRU_TO_HOME, TDM_LRU_TO_PACK, TDM_LRU_TO_YOUNG, TDM_LRU_TO_PINNED, TDM_LRU_TO_SHARED };
TDM_MUST_CHECK bool tdmi_lru_putback(struct tdm_lru *l, struct tdm_frame *folio, enum tdm_lru_where where);
/* Nothing maps the folio any more: take it off its list. true: the caller frees it; false: it is isolated, the holder will. */
TDM_MUST_CHECK bool tdmi_lru_del(struct tdm_lru *l, struct tdm_frame *folio);
/* Was a page that was packed at `clock` packed recently? Then its fault is a refault. */
bool tdmi_lru_recent(const struct tdm_lru *l, u32 clock);

#endif
