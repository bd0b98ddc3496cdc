/* SPDX-License-Identifier: MIT */
/* migrate.c - pages to the device's memory and back, and pages for the device alone. */
#include "dmirror/device.h"

#define CHUNK 512u

/* A hole, or what may not be read, is a mistake of the caller's. */
static int check(struct tdm_dmirror *d, u64 start, u64 end)
{
	struct tdm_mapping m;

	for (u64 at = start; at < end; at = m.end) {
		int r = tdmi_host_mapping(&d->live->host, at, &m);

		if (r || m.start > at || !m.readable)
			return r && r != -ENOENT ? r : -EINVAL;
	}
	return 0;
}

/* Is the page at va in no memory: never touched, or in a tier? */
static bool is_away(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_pte pte;
	struct tdm_vma v;
	struct tdm_pt *pt;
	bool away;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(&ctx->mm->pgt, va, &i, &pte);
	away = tdm_pte_none(pte) || (!pt->level && (tdm_pte_is(pte, TDM_PTE_T_SWAP) || tdm_pte_is(pte, TDM_PTE_T_REMOVED)));
	away = away && tdmi_vma_find(&ctx->mm->vmas, va, &v) && !(v.flags & TDM_VMA_EXCLUDED);
	tdmi_rcu_read_unlock(ctx->rcu);
	return away;
}

/* It is brought, so that it can go. What another device has stays there. */
static void bring(struct tdm_dmirror *d, u64 start, u64 end)
{
	struct tdm_ctx *ctx = d->w->ctx;

	for (u64 va = start; va < end; va += TDM_PAGE_SIZE) {
		tdm_device_enter_mm(d->w);
		if (is_away(ctx, va))
			(void)tdmi_fault_try(ctx, (struct tdm_va){ va }, false);
		tdmi_mm_exit(ctx);
	}
}

int tdmi_dmirror_migrate_to_dev(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 end = c->addr + (c->npages << TDM_PAGE_SHIFT), n;
	int r = check(d, c->addr, end);

	if (r)
		return r;
	tdmi_dmirror_make_anonymous(d, c->addr, end);
	(void)tdmi_live_request(d->live, TDM_OP_FIND, 0, 0, NULL);
	bring(d, c->addr, end);
	tdm_device_enter_mm(d->w);
	/* What finds no room, or cannot go, is not in the table, and that is what counts. */
	(void)tdmi_migrate_to_device(d->w->ctx, &d->dev->pool, c->addr, end, &n);
	r = tdmi_mirror_map_own(&d->w->reader, c->addr, end);
	tdmi_mm_exit(d->w->ctx);
	return r ? r : tdmi_dmirror_read_mapped(d, c);
}

int tdmi_dmirror_migrate_to_sys(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 end = c->addr + (c->npages << TDM_PAGE_SHIFT);
	int r;

	tdm_device_enter_mm(d->w);
	r = tdmi_pool_evict_range(d->w->ctx, &d->dev->pool, c->addr, end, &c->cpages);
	r = r ? r : tdmi_bring(d->w->ctx, c->addr, end);
	tdmi_mm_exit(d->w->ctx);
	return r;
}

int tdmi_dmirror_release(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 n;
	int r;

	(void)c;
	tdm_device_enter_mm(d->w);
	r = tdmi_pool_evict(d->w->ctx, &d->dev->pool, ~(u64)0, &n);
	tdmi_mm_exit(d->w->ctx);
	return r;
}

/* Pages of the range that are the device's alone, by its table. */
static u64 count_exclusive(struct tdm_dmirror *d, u64 start, u64 end)
{
	u64 n = 0;

	tdm_mirror_enter(&d->w->reader);
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE)
		n += (tdmi_mirror_lookup(&d->dev->mirror, va) & TDM_RF_EXCLUSIVE) != 0;
	tdm_mirror_exit(&d->w->reader);
	return n;
}

int tdmi_dmirror_exclusive(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 end = c->addr + (c->npages << TDM_PAGE_SHIFT), n;
	void *home[CHUNK];
	int r = 0;

	(void)tdmi_live_request(d->live, TDM_OP_FIND, 0, 0, NULL);
	tdm_device_enter_mm(d->w);
	for (u64 at = c->addr, stop; !r && at < end; at = stop) {
		stop = TDM_MIN(end, at + ((u64)CHUNK << TDM_PAGE_SHIFT));
		r = tdmi_make_exclusive(d->w->ctx, at, stop, d->dev, home, &n);
		r = r ? r : tdmi_mirror_map_own(&d->w->reader, at, stop);
	}
	tdmi_mm_exit(d->w->ctx);
	if (!r && count_exclusive(d, c->addr, end) != c->npages)
		r = -EBUSY;
	return r ? r : tdmi_dmirror_read_mapped(d, c);
}

int tdmi_dmirror_check_exclusive(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	return count_exclusive(d, c->addr, c->addr + (c->npages << TDM_PAGE_SHIFT)) ? -EPERM : 0;
}
