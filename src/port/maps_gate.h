/* SPDX-License-Identifier: MIT */
/*
 * maps_gate.h - while the engine changes a mapping for a moment, no call of the program's does.
 *
 * The program's calls that change mappings (munmap, mprotect ...) are interposed (run/interpose.c) and say so here; the engine never waits for them, and they
 * wait only for as long as it takes. What does not come through libc is not seen.
 *
 *   the program   counts itself, then looks whether the engine is at it; if so it takes itself back, and waits
 *   the engine    says that it is, then looks whether anybody has counted himself; if so it takes that back, and gives up
 *
 * Both write before they look (seq_cst), so one of the two sees the other.
 */
#ifndef TDM_PORT_MAPS_GATE_H
#define TDM_PORT_MAPS_GATE_H

#include "plat/plat.h"

struct tdm_maps_gate {
	tdm_a32 changers; /* of the program's threads */
	tdm_a32 taking;   /* 1: a thread of the engine is at it */
};

/* The program's. Every call between, on the same thread, and short. */
static inline void tdm_maps_change_begin(struct tdm_maps_gate *g)
{
	for (;;) {
		tdm_a32_add_seqcst(&g->changers, 1);
		if (tdm_likely(!tdm_a32_ld_seqcst(&g->taking)))
			return;
		tdm_a32_sub_acqrel(&g->changers, 1);
		plat_wait(&g->taking, 1, 1000000);
	}
}

static inline void tdm_maps_change_end(struct tdm_maps_gate *g)
{
	tdm_a32_sub_acqrel(&g->changers, 1);
}

/* The engine's. false: somebody is changing a mapping now, of the program or of the engine. */
static inline bool tdm_maps_take_begin(struct tdm_maps_gate *g)
{
	u32 nobody = 0;

	if (!tdm_a32_cas_acqrel(&g->taking, &nobody, 1))
		return false;
	tdm_a32_st_seqcst(&g->taking, 1);
	if (!tdm_a32_ld_seqcst(&g->changers))
		return true;
	tdm_a32_st_release(&g->taking, 0);
	plat_wake(&g->taking, ~0u >> 1);
	return false;
}

static inline void tdm_maps_take_end(struct tdm_maps_gate *g)
{
	tdm_a32_st_release(&g->taking, 0);
	plat_wake(&g->taking, ~0u >> 1);
}

#endif
