/* SPDX-License-Identifier: MIT */
/*
 * predict.h - how much to bring on a fault.
 *
 * A stream is a place at which the next sequential fault would come; a fault there brings four times as much as the last, up to 2 MiB. Any other
 * fault brings what its 2 MiB neighbourhood (struct tdm_pt) has shown to be worth it: 64 KiB to begin with, half as much after each
 * fault that had nothing to do with those before, twice as much when another part of a block is wanted shortly after the first (spatial
 * locality), never more than a block. New neighbourhoods begin with the average.
 *
 * Whether neighbours are worth it is measured: now and then (more seldom while they are not) the rest of the block is brought, but not mapped. A soft fault tells which of it is used; what is
 * packed again was not. No fault that continues nothing brings what lies so far away that too little of it is used.
 *
 * Locking: a guess needs no lock to be a guess, but streams are several words: a try-lock guards them, and who does not get it does without.
 */
#ifndef TDM_MM_PREDICT_H
#define TDM_MM_PREDICT_H

#include "base/lockrank.h"
#include "mm/pte.h"
#include "plat/plat.h"

#define TDM_STREAMS 16u

struct tdm_stream {
	u64 next;  /* a fault here continues the stream */
	u32 order; /* log2 of the pages brought last */
	u32 age;
};

struct tdm_predict {
	struct plat_mutex lock;
	struct tdm_stream stream[TDM_STREAMS];
	u32 tick;
	tdm_a32 base; /* average order of unrelated faults, times 16 */
	tdm_a32 used[TDM_PTE_DISTANCES]; /* of 256 guesses at this distance so many were used; averages */
	tdm_a32 faults; /* unrelated ones: some of them guess */
};

struct tdm_pt;

void tdmi_predict_init(struct tdm_predict *p);
/* Pages [*lo, *hi) of the PTE table that a fault on page i should bring; i is among them. The table lock is held. true: it goes on a stream. */
bool tdmi_predict(struct tdm_predict *p, struct tdm_pt *pt, u32 i, u32 *lo, u32 *hi);
/* A page that had been brought to see was used, or was not and is packed again. */
void tdmi_predict_guessed(struct tdm_predict *p, struct tdm_pte pte, bool used);
/* Is this a fault of which to learn by bringing its block at home? */
bool tdmi_predict_guess(struct tdm_predict *p);
/* What a new neighbourhood begins with. */
u32 tdmi_predict_order(const struct tdm_predict *p);

#endif
