// SPDX-License-Identifier: MIT
/*
 * iommu_queue.c - the invalidation queue.
 *
 * Software writes commands at prod, hardware consumes them at cons, in order. Here the hardware goes on only when somebody waits for it: at a sync, or when the
 * queue is full. That is as late as it may be, so whoever leaves a sync out is found out.
 *
 * Time. A command begins when it has been written and the one before it is done (hw). The answer of an ATC is not waited for by later commands, but by a sync:
 * answers to several devices overlap. The software waits at syncs alone, and where the queue is full.
 *
 * Ranges. A command names 2^n pages, naturally aligned. A range becomes the few of them that it consists of, or one that contains it: then entries go that were
 * good.
 */
#include "port/iommu_impl.h"

#define ORDER_MAX 36u /* of 48 bits of address */

struct piece {
	u64 va;
	u32 order;
};

/* ---- hardware --------------------------------------------------------------------------------------------------------------------- */

/* What a command drops of one TLB: first what had changed, then what else it names. */
static void drop_entries(struct tdm_iommu *it, struct tdm_tlb *t, const struct tdm_inv_cmd *c, u64 end)
{
	u64 n = tdmi_tlb_flush_range(t, c->pasid, TDM_MAX(c->start, c->va), TDM_MIN(c->end, end));
	u64 over = tdmi_tlb_flush_range(t, c->pasid, c->va, end);

	tdm_iommu_add(it, TDM_IC_ENTRIES, n + over);
	tdm_iommu_add(it, TDM_IC_ENTRIES_OVER, over);
}

/* The device has to have answered before anybody relies on it. One that does not is kept from memory from then on: that is as good as an answer. */
static u64 ask_atc(struct tdm_iommu *it, const struct tdm_inv_cmd *c, u64 end)
{
	struct tdm_iommu_dev *dev = it->dev[c->dev];

	if (dev->cut_off)
		return 0;
	if (dev->mute) {
		tdm_iommu_add(it, TDM_IC_ATC_TIMEOUTS, 1);
		dev->cut_off = true;
		return it->config.cost.atc_timeout;
	}
	drop_entries(it, &dev->atc, c, end);
	tdmi_dma_drop_held(dev, c->pasid, c->va, end);
	return it->config.cost.atc_invalidate;
}

static void execute(struct tdm_iommu *it, const struct tdm_inv_cmd *c)
{
	u64 end = c->whole ? ~(u64)0 : c->va + (TDM_PAGE_SIZE << c->order), answer;
	struct tdm_invq *q = &it->q;

	tdm_clock_reach(&q->hw, c->at);
	switch (c->kind) {
	case TDM_INVQ_IOTLB:
		q->hw += it->config.cost.queue_command;
		drop_entries(it, &it->iotlb, c, end);
		break;
	case TDM_INVQ_ATC:
		q->hw += it->config.cost.queue_command;
		answer = q->hw + ask_atc(it, c, end);
		tdm_clock_reach(&q->answered, answer);
		break;
	case TDM_INVQ_SYNC:
		tdm_clock_reach(&q->hw, q->answered);
		q->hw += it->config.cost.sync;
		break;
	}
}

u32 tdmi_iommu_queue_run(struct tdm_iommu *it, u32 n)
{
	struct tdm_invq *q = &it->q;
	u32 i;

	for (i = 0; i < n && q->cons != q->prod; i++) {
		execute(it, &q->ring[q->cons & (it->config.queue - 1)]);
		q->cons++;
	}
	return i;
}

/* ---- software ------------------------------------------------------------------------------------------------------------------------ */

static void submit(struct tdm_iommu *it, const struct tdm_inv_cmd *c)
{
	u64 *clock = tdm_iommu_clock(it);
	struct tdm_invq *q = &it->q;
	struct tdm_inv_cmd *to;

	if (q->prod - q->cons == it->config.queue) {
		tdm_iommu_add(it, TDM_IC_QUEUE_FULL, 1);
		tdmi_iommu_queue_run(it, 1);
		tdm_clock_reach(clock, q->hw);
	}
	*clock += it->config.cost.queue_submit;
	to = &q->ring[q->prod++ & (it->config.queue - 1)];
	*to = *c;
	to->at = *clock;
}

void tdmi_iommu_sync(struct tdm_iommu *it)
{
	u64 *clock = tdm_iommu_clock(it);

	submit(it, &(struct tdm_inv_cmd){ .kind = TDM_INVQ_SYNC });
	tdm_iommu_add(it, TDM_IC_CMD_SYNC, 1);
	tdmi_iommu_queue_run(it, it->config.queue);
	TDM_BUG_ON(it->q.cons != it->q.prod);
	if (it->q.hw > *clock) {
		tdm_iommu_add(it, TDM_IC_SYNC_CYCLES, it->q.hw - *clock);
		*clock = it->q.hw;
	}
}

/* The largest piece that begins at page `from` and ends by `to`. */
static u32 order_at(u64 from, u64 to)
{
	u32 fits = tdm_highest_bit(to - from);

	return from ? TDM_MIN(fits, tdm_lowest_bit(from)) : fits;
}

/* Of the pages [from, to). How many pieces; 0: more than ORDER_MAX is needed. */
static u32 cut(const struct tdm_iommu *it, u64 from, u64 to, struct piece p[TDM_INV_SPLIT_MAX])
{
	u32 n = 0, order = from == to - 1 ? 0 : tdm_highest_bit(from ^ (to - 1)) + 1;

	for (u64 at = from; at < to && n < it->config.split; n++) {
		p[n] = (struct piece){ at << TDM_PAGE_SHIFT, order_at(at, to) };
		at += (u64)1 << p[n].order;
		if (at == to)
			return n + 1;
	}
	if (order > ORDER_MAX)
		return 0;
	p[0] = (struct piece){ (from >> order) << (order + TDM_PAGE_SHIFT), order };
	return 1;
}

static void command(struct tdm_iommu *it, struct tdm_inv_cmd c, const struct piece *p, u32 n)
{
	tdm_iommu_add(it, c.kind == TDM_INVQ_ATC ? TDM_IC_CMD_ATC : TDM_IC_CMD_IOTLB, n ? n : 1);
	tdm_iommu_add(it, TDM_IC_CMD_WHOLE, !n);
	c.whole = !n;
	for (u32 i = 0; i < TDM_MAX(n, 1u); i++) {
		if (n) {
			u64 end = p[i].va + (TDM_PAGE_SIZE << p[i].order);
			u64 asked = (TDM_MIN(c.end, end) - TDM_MAX(c.start, p[i].va)) >> TDM_PAGE_SHIFT;

			c.va = p[i].va;
			c.order = (u8)p[i].order;
			tdm_iommu_add(it, TDM_IC_PAGES_ASKED, asked);
			tdm_iommu_add(it, TDM_IC_PAGES_OVER, ((u64)1 << c.order) - asked);
		}
		submit(it, &c);
		if (it->config.sync_each)
			tdmi_iommu_sync(it);
	}
}

void tdmi_iommu_invalidate(struct tdm_iommu *it, u32 pasid, u64 start, u64 end, bool iotlb, u64 devs)
{
	struct tdm_inv_cmd c = { .pasid = pasid, .start = start & TDM_PAGE_MASK, .end = end == ~(u64)0 ? end : TDM_ALIGN_UP(end, TDM_PAGE_SIZE) };
	u64 pages = (c.end - c.start) >> TDM_PAGE_SHIFT;
	struct piece p[TDM_INV_SPLIT_MAX];
	u32 n = 0;

	if (c.start >= c.end)
		return;
	if (end != ~(u64)0 && (!it->config.whole_pages || pages <= it->config.whole_pages))
		n = cut(it, c.start >> TDM_PAGE_SHIFT, c.end >> TDM_PAGE_SHIFT, p);
	if (iotlb) {
		c.kind = TDM_INVQ_IOTLB;
		command(it, c, p, n);
	}
	c.kind = TDM_INVQ_ATC;
	for (; devs; devs &= devs - 1) {
		c.dev = tdm_lowest_bit(devs);
		command(it, c, p, n);
	}
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------------ */

int tdmi_invq_init(struct tdm_iommu *it)
{
	it->q.ring = tdmi_alloc(it->alloc, it->config.queue * sizeof(*it->q.ring));
	return it->q.ring ? 0 : -ENOMEM;
}

void tdmi_invq_destroy(struct tdm_iommu *it)
{
	tdmi_free(it->alloc, it->q.ring, it->config.queue * sizeof(*it->q.ring));
}
