/* SPDX-License-Identifier: MIT */
/* mm.c - an address space: its making and its end, its threads, its numbers. */
#include "mm/mm.h"
#include <string.h>
#include "base/check.h"

static void give_back(struct tdm_mm *mm)
{
	if (mm->frames.desc)
		tdmi_frames_destroy(&mm->frames);
	tdmi_alloc_destroy(&mm->alloc);
	plat_unmap((void *)(uintptr_t)mm->zeros, TDM_BLOCK_SIZE);
}

int tdmi_mm_init(struct tdm_mm *mm, struct tdm_port *port, void *arena, u32 nframes, struct tdm_swap *swap)
{
	int r;

	memset(mm, 0, sizeof(*mm));
	mm->port = port;
	mm->swap = swap;
	plat_mutex_init(&mm->event_lock, TDM_RANK_EVENT);
	plat_mutex_init(&mm->ctx_lock, TDM_RANK_CTX);
	tdmi_alloc_init(&mm->alloc);
	tdmi_rcu_init(&mm->rcu);
	tdmi_notifiers_init(&mm->notifiers, &mm->alloc, &mm->rcu);
	tdmi_predict_init(&mm->predict);
	tdm_a64_st_relaxed(&mm->limit_bytes, ~(u64)0);
	tdm_a64_st_relaxed(&mm->high_bytes, ~(u64)0);
	mm->zeros = plat_map(TDM_BLOCK_SIZE);
	if (!mm->zeros)
		return -ENOMEM;
	r = tdmi_frames_init(&mm->frames, arena, nframes);
	if (!r) {
		tdmi_lru_init(&mm->lru, &mm->frames);
		mm->pgt = (struct tdm_pgt){ .alloc = &mm->alloc, .rcu = &mm->rcu, .predict = &mm->predict };
		r = tdmi_pt_init(&mm->pgt);
	}
	if (!r)
		r = tdmi_vmas_init(&mm->vmas, &mm->alloc, &mm->rcu);
	if (r)
		give_back(mm);
	return r;
}

void tdmi_mm_destroy(struct tdm_mm *mm)
{
	tdmi_notifiers_destroy(&mm->notifiers);
	tdmi_rcu_synchronize(&mm->rcu);
	tdmi_vmas_destroy(&mm->vmas);
	tdmi_pt_destroy(&mm->pgt);
	tdmi_swap_destroy(mm->swap);
	give_back(mm);
}

struct tdm_ctx *tdmi_ctx_create(struct tdm_mm *mm)
{
	struct tdm_ctx *ctx = tdmi_alloc(&mm->alloc, sizeof(*ctx));
	u32 i = 0;

	if (!ctx)
		return NULL;
	memset(ctx, 0, sizeof(*ctx));
	ctx->mm = mm;
	ctx->ws = tdmi_swap_ws_create();
	ctx->bounce = plat_map(TDM_BLOCK_SIZE);
	ctx->rcu = tdmi_rcu_register(&mm->rcu);
	plat_mutex_lock(&mm->ctx_lock);
	while (i < TDM_CTX_MAX && mm->ctx[i])
		i++;
	if (i < TDM_CTX_MAX && ctx->ws && ctx->bounce && ctx->rcu)
		mm->ctx[i] = ctx;
	plat_mutex_unlock(&mm->ctx_lock);
	if (i < TDM_CTX_MAX && mm->ctx[i] == ctx)
		return ctx;
	tdmi_ctx_destroy(ctx);
	return NULL;
}

void tdmi_ctx_destroy(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;

	plat_mutex_lock(&mm->ctx_lock);
	for (u32 i = 0; i < TDM_CTX_MAX; i++)
		if (mm->ctx[i] == ctx)
			mm->ctx[i] = NULL;
	plat_mutex_unlock(&mm->ctx_lock);
	if (ctx->ws)
		tdmi_swap_ws_destroy(ctx->ws);
	if (ctx->bounce)
		plat_unmap(ctx->bounce, TDM_BLOCK_SIZE);
	if (ctx->rcu)
		tdmi_rcu_unregister(ctx->rcu);
	tdmi_free(&mm->alloc, ctx, sizeof(*ctx));
}

bool tdmi_mm_enter(struct tdm_ctx *ctx)
{
	/* Store, then load, against freeze's store, then load: one of the two sees the other. */
	tdm_a32_st_seqcst(&ctx->busy, 1);
	if (tdm_likely(!tdm_a32_ld_seqcst(&ctx->mm->gate)))
		return true;
	tdm_a32_st_release(&ctx->busy, 0);
	return false;
}

void tdmi_mm_exit(struct tdm_ctx *ctx)
{
	tdm_a32_st_release(&ctx->busy, 0);
}

void tdmi_mm_freeze(struct tdm_mm *mm)
{
	tdm_a32_st_seqcst(&mm->gate, 1);
	for (u32 i = 0; i < TDM_CTX_MAX; i++)
		while (mm->ctx[i] && tdm_a32_ld_seqcst(&mm->ctx[i]->busy))
			plat_yield();
	tdm_a64_st_relaxed(&mm->frozen, tdm_a64_ld_relaxed(&mm->frozen) + 1);
}

void tdmi_mm_thaw(struct tdm_mm *mm)
{
	tdm_a32_st_release(&mm->gate, 0);
	plat_wake(&mm->gate, ~0u >> 1);
}

void tdmi_mm_after_fork(struct tdm_mm *mm)
{
	/* Frozen means that nobody was inside, so nobody held a lock: but a thread may have been about to find the gate closed. */
	for (u32 i = 0; i < TDM_CTX_MAX; i++)
		if (mm->ctx[i]) {
			struct tdm_ctx *ctx = mm->ctx[i];

			tdm_a32_st_relaxed(&ctx->busy, 0);
			for (u32 c = 0; c < TDM_C_NR; c++)
				tdm_a64_st_relaxed(&ctx->count[c], 0);
			tdmi_ctx_destroy(ctx);
		}
	tdmi_notifiers_after_fork(&mm->notifiers);
}

u64 tdmi_mm_count(struct tdm_mm *mm, enum tdm_count c)
{
	u64 sum = 0;

	plat_mutex_lock(&mm->ctx_lock);
	for (u32 i = 0; i < TDM_CTX_MAX; i++)
		if (mm->ctx[i])
			sum += tdm_a64_ld_relaxed(&mm->ctx[i]->count[c]);
	plat_mutex_unlock(&mm->ctx_lock);
	return sum;
}

u64 tdmi_mm_tracked(const struct tdm_mm *mm)
{
	u64 pages = tdm_a64_ld_relaxed(&mm->lent) + tdm_a64_ld_relaxed(&mm->home) + tdm_a64_ld_relaxed(&mm->stale);

	pages += (u64)tdmi_frames_warm(&mm->frames) * TDM_BLOCK_PAGES;
	return (pages << TDM_PAGE_SHIFT) + tdmi_swap_mem_bytes(mm->swap) + tdmi_alloc_mapped(&mm->alloc);
}

u64 tdmi_mm_usage(const struct tdm_mm *mm)
{
	return tdmi_mm_tracked(mm) + tdm_a64_ld_relaxed(&mm->other_bytes);
}
