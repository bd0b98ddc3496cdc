/* SPDX-License-Identifier: MIT */
/* codec.h - tiers of the explorer: a few slots in the arena. Of a page the first XT_PAGE_BYTES are kept, which is where scenarios write; so copies stay short. */
#ifndef TDM_EXPLORE_CODEC_H
#define TDM_EXPLORE_CODEC_H

#include "pool/tier.h"

#define XT_SLOTS 8u
#define XT_PAGE_BYTES 64u

struct tdm_tier *xt_tier(u32 slots, bool in_memory);
/* Slots that hold something. */
u32 xt_used(struct tdm_tier *t);

#endif
