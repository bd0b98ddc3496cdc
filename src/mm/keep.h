/* SPDX-License-Identifier: MIT */
/*
 * keep.h - pages that stay where they are because a thread's end needs them.
 *
 * When a thread ends, the kernel writes to its memory (the word that pthread_join() waits for), and does not wait for a fault to be served then:
 * it skips the write, and whoever joins waits for ever. So the page with that word is not taken home while the thread lives.
 *
 * No locks: slots are claimed and freed by compare-and-swap. Adding is done by the thread itself, when it begins, or by who finds it; a page
 * that is being taken home at that moment is taken, comes back when the thread next touches it, and then stays. A block of pages hashes to two
 * buckets; where both are full the page is not kept.
 */
#ifndef TDM_MM_KEEP_H
#define TDM_MM_KEEP_H

#include "base/atomic.h"
#include "base/types.h"

#define TDM_KEEP_BUCKETS 1024u
#define TDM_KEEP_SLOTS 8u

struct tdm_keep {
	tdm_a64 page[TDM_KEEP_BUCKETS][TDM_KEEP_SLOTS]; /* its address, or 0 */
	tdm_a32 tid[TDM_KEEP_BUCKETS][TDM_KEEP_SLOTS];
};

/* Keep the page at va while thread tid lives. Twice is as good as once. false: no slot. Any thread. */
bool tdmi_keep_add(struct tdm_keep *k, u64 va, u32 tid);
/* The pages of the 64 KiB block at va that are kept: a mask. */
u32 tdmi_keep_mask(const struct tdm_keep *k, u64 va);
/* Let go of the pages of threads that are gone. One thread. */
void tdmi_keep_sweep(struct tdm_keep *k, bool (*gone)(void *arg, u32 tid), void *arg);

#endif
