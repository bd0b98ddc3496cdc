/* SPDX-License-Identifier: MIT */
/*
 * event.c - nothing is filled while a message of the port is read, nor while an event is acted upon. Why: mm.h.
 *
 * A fill says so in its thread's own word and then looks at the gate; a reader closes the gate and then looks at every thread's word. Both
 * stores are ordered before both loads (seq_cst), so one of the two sees the other. A fill that finds the gate closed for the short
 * time of a read waits, holding its table's lock; the reader waits for no such lock meanwhile. One that finds an event being taken in must give way,
 * since taking it in wants that lock.
 */
#include "mm/mm.h"

#define SPINS 200u
#define NAP_NS ((u64)50000)

bool tdmi_fill_begin(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;
	u32 gate, spins = 0;

	for (;;) {
		tdm_a32_st_seqcst(&ctx->filling, 1);
		gate = tdm_a32_ld_seqcst(&mm->event_gate);
		if (tdm_likely(gate == TDM_EVENTS_NONE))
			return true;
		tdm_a32_st_release(&ctx->filling, 0);
		if (gate == TDM_EVENTS_TAKING)
			return false;
		if (++spins < SPINS)
			plat_relax();
		else
			plat_wait(&mm->event_gate, TDM_EVENTS_READING, NAP_NS);
	}
}

void tdmi_fill_end(struct tdm_ctx *ctx)
{
	tdm_a32_st_release(&ctx->filling, 0);
}

void tdmi_event_read_begin(struct tdm_mm *mm)
{
	tdm_a32_st_seqcst(&mm->event_gate, TDM_EVENTS_READING);
	/* No thread comes or goes meanwhile. */
	plat_mutex_lock(&mm->ctx_lock);
	for (u32 i = 0; i < TDM_CTX_MAX; i++) {
		struct tdm_ctx *ctx = mm->ctx[i];
		u32 spins = 0;

		while (ctx && tdm_a32_ld_seqcst(&ctx->filling)) {
			if (++spins < SPINS)
				plat_relax();
			else
				plat_wait(&ctx->filling, 1, NAP_NS);
		}
	}
	plat_mutex_unlock(&mm->ctx_lock);
}

void tdmi_event_read_end(struct tdm_mm *mm, bool event)
{
	tdm_a32_st_release(&mm->event_gate, event ? TDM_EVENTS_TAKING : TDM_EVENTS_NONE);
}

void tdmi_event_done(struct tdm_mm *mm)
{
	tdm_a32_st_release(&mm->event_gate, TDM_EVENTS_NONE);
}

bool tdmi_events_settled(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;

	if (mm->unsettled)
		mm->port->ops->drain(mm->port, ctx);
	return !mm->unsettled;
}

bool tdmi_event_retry(u64 *since)
{
	u64 now = plat_now_ns();
	tdm_a32 nobody = { 0 };

	*since = *since ? *since : now;
	if (now - *since < NAP_NS)
		plat_yield();
	else
		plat_wait(&nobody, 0, NAP_NS);
	return now - *since < TDM_WAKE_NS;
}
