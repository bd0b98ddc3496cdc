/* SPDX-License-Identifier: MIT */
/*
 * live_frozen_impl.h - what the files of the frozen engine share: live_frozen.c (the list, serving), live_frozen_judge.c (where a page is), live_frozen_give.c (a
 * child is given all). All of it is called by whoever has the list: see live_frozen.c.
 */
#ifndef TDM_RUN_LIVE_FROZEN_IMPL_H
#define TDM_RUN_LIVE_FROZEN_IMPL_H

#include <string.h>
#include "base/check.h"
#include "run/live.h"

static inline u32 bit_of(const struct tdm_frozen *f, const struct tdm_birth *b)
{
	return (u32)1 << (b - f->birth);
}

static inline bool within(u64 va, u64 start, u64 len)
{
	return va - start < len;
}

/* ---- live_frozen.c */

/* Address space for more events than there can be. Nothing may be allocated while the fork may happen: the child would inherit the lock. */
void tdmi_frozen_list_make(struct tdm_frozen *f, struct tdm_ctx *ctx);
void tdmi_frozen_list_forget(struct tdm_frozen *f);
/* A child more, of which nothing is known yet but its userfaultfd. */
struct tdm_birth *tdmi_frozen_birth_add(struct tdm_frozen *f, int uffd);
/* Read what b does, so that its address space can be looked at or filled; who waits for a page there waits on. Waits a little. */
void tdmi_frozen_read_events(struct tdm_live *l, struct tdm_birth *b);

/* ---- live_frozen_judge.c */

/* Where the table has the page that is now at *va, b's, or the parent's if NULL. false: nowhere; it is new, or was dropped. */
bool tdmi_frozen_origin(struct tdm_live *l, const struct tdm_birth *b, u64 *va);

#endif
