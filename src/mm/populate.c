/* SPDX-License-Identifier: MIT */
/*
 * populate.c - bring a range, because somebody asks for it: no access has missed.
 *
 * So whoever asks can be told of an error, and its pages stay where they are; nobody's guess matters, and nothing is brought that was never touched. Table by
 * table, each under its lock, in RCU; between them no lock is held, unless the caller has the event lock.
 */
#include "mm/fault_impl.h"

/* One PTE table's part of tdmi_bring(). */
static int bring_table(struct tdm_ctx *ctx, u64 va, u64 end)
{
	struct block b = { .ctx = ctx, .mm = ctx->mm, .guess = NO_GUESS, .asked = true };
	struct tdm_pt *pt;
	int r;

	tdmi_rcu_read_lock(ctx->rcu);
	r = tdmi_pt_lock(&ctx->mm->pgt, va, false, &pt);
	if (!r && pt) {
		u32 lo = tdm_pt_index(pt, va), hi = end - pt->base >= TDM_HUGE_SIZE ? TDM_PT_ENTRIES : tdm_pt_index(pt, end);

		b.pt = pt;
		if (pt->level)
			r = tdmi_fault_huge(ctx, pt, tdm_pt_index(pt, va), &b.soft);
		for (u32 f = lo & ~(TDM_BLOCK_PAGES - 1); !pt->level && !r && f < hi; f += TDM_BLOCK_PAGES) {
			u32 many;

			b.first = f;
			b.va = tdm_pt_va(pt, f);
			many = f >= lo ? tdmi_migrate_to_ram_many(&b, hi) : 0;
			if (many)
				f += (many - 1) * TDM_BLOCK_PAGES;
			else
				r = tdmi_fault_block(&b, mask_within(lo, hi, f), 0);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	if (b.soft + b.hard)
		tdmi_fault_wake(ctx->mm, va & ~(u64)(TDM_HUGE_SIZE - 1), end);
	tdm_count(ctx, TDM_C_HARD_PAGES, b.hard);
	tdm_count(ctx, TDM_C_SOFT_PAGES, b.soft);
	return r == -ENOENT ? 0 : r;
}

static int bring(struct tdm_ctx *ctx, u64 start, u64 end, bool locked)
{
	u64 va = start;

	while (va < end) {
		u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		int r = bring_table(ctx, va, stop);

		if (r == -ESTALE) {
			struct tdm_inv_range round;

			tdmi_fault_round_begin(ctx, &round, TDM_ALIGN_DOWN(va, TDM_BLOCK_SIZE), TDM_ALIGN_UP(stop, TDM_BLOCK_SIZE));
			r = bring_table(ctx, va, stop);
			tdmi_fault_round_end(ctx, &round);
			if (r == -ESTALE)
				continue;
		}
		if (r == -EAGAIN) {
			if (locked) {
				ctx->mm->port->ops->drain(ctx->mm->port, ctx);
				plat_yield();
			} else {
				tdmi_fault_drain(ctx);
			}
			continue;
		}
		if (r)
			return r;
		tdmi_rcu_read_lock(ctx->rcu);
		va = stop < end ? TDM_MAX(stop, tdmi_pt_next(&ctx->mm->pgt, stop, end)) : end;
		tdmi_rcu_read_unlock(ctx->rcu);
	}
	return 0;
}

int tdmi_bring(struct tdm_ctx *ctx, u64 start, u64 end)
{
	return bring(ctx, start, end, false);
}

int tdmi_bring_locked(struct tdm_ctx *ctx, u64 start, u64 end)
{
	return bring(ctx, start, end, true);
}
