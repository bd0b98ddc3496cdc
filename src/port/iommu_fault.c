// SPDX-License-Identifier: MIT
/*
 * iommu_fault.c - page requests and stalls, and the software that answers them.
 *
 * Where a page request is. The device posts a group; the hardware puts each request into the queue (prq), or drops it when that is full; the software takes one
 * a step, parks it until the last of its group has come, then has the group as its work: resolves one a step, and answers with the first error of all. A group
 * whose last was dropped is answered SUCCESS by the hardware, so that the device asks again; what came of it before stays parked and must be thrown away, as
 * the index will be used again: once the queue is empty after an overflow nothing that is parked can become whole any more.
 *
 * A stall is in the table of those that are held; the software takes the oldest, resolves it, and resumes it in the step after.
 *
 * An answer is accepted for what waits for one, once. A request for a PASID that is dead or bound to nothing is answered INVALID by the hardware; one that the
 * software finds to be dead, by the software. That a device asks for a PASID that exists, but is not its own, means that the device is broken: FAILURE.
 */
#include "port/iommu_impl.h"

/* ---- hardware: requests -------------------------------------------------------------------------------------------------------------- */

static struct tdm_dma *waiting_for(const struct tdm_iommu_dev *dev, u32 pasid, u32 group)
{
	for (u32 i = 0; i < dev->nactive; i++) {
		struct tdm_dma *d = dev->active[i];

		if (d->state == TDM_DMA_ASKED && !d->code && d->pasid == pasid && d->group == group)
			return d;
	}
	return NULL;
}

/* An answer arrives at the device. false: nobody waits for it. */
static bool deliver(struct tdm_iommu_dev *dev, u32 pasid, u32 group, enum tdm_response code, u64 at)
{
	struct tdm_dma *d = waiting_for(dev, pasid, group);

	if (!d)
		return false;
	d->code = (u8)(code + 1);
	d->at = at;
	dev->outstanding -= d->ngroup;
	d->ngroup = 0;
	return true;
}

void tdmi_iommu_post(struct tdm_iommu_dev *dev, u32 pasid, u64 va, bool write, u32 group, bool last)
{
	struct tdm_iommu *it = dev->it;
	struct tdm_pasid *b = tdmi_iommu_pasid(it, pasid);

	TDM_BUG_ON(group >= TDM_PRG_INDEXES);
	dev->clock += it->config.cost.request_post;
	tdm_iommu_add(it, TDM_IC_PAGE_REQUESTS, 1);
	tdm_iommu_add(it, TDM_IC_GROUPS, last);
	if (!b || b->dead) {
		tdm_iommu_add(it, TDM_IC_REQUESTS_REFUSED, 1);
		if (last)
			deliver(dev, pasid, group, TDM_RESP_INVALID, dev->clock + it->config.cost.ats_round_trip);
		return;
	}
	if (it->prq_prod - it->prq_cons == it->config.requests) {
		tdm_iommu_add(it, TDM_IC_QUEUE_OVERFLOWS, 1);
		it->prq_overflow = true;
		if (!last)
			return;
		tdm_iommu_add(it, TDM_IC_AUTO_RESPONSES, 1);
		deliver(dev, pasid, group, TDM_RESP_SUCCESS, dev->clock + it->config.cost.ats_round_trip);
		return;
	}
	it->prq[it->prq_prod++ & (it->config.requests - 1)] =
		(struct tdm_page_request){ .dev = dev, .pasid = pasid, .group = group, .va = va & TDM_PAGE_MASK, .at = dev->clock, .write = write, .last = last };
}

void tdmi_iommu_post_stop(struct tdm_iommu_dev *dev, u32 pasid)
{
	struct tdm_iommu *it = dev->it;

	dev->clock += it->config.cost.request_post;
	/* It is for software that has not stopped the device itself: one that is lost does no harm, as whoever tears down drains. */
	if (it->prq_prod - it->prq_cons == it->config.requests) {
		tdm_iommu_add(it, TDM_IC_QUEUE_OVERFLOWS, 1);
		it->prq_overflow = true;
		return;
	}
	it->prq[it->prq_prod++ & (it->config.requests - 1)] = (struct tdm_page_request){ .dev = dev, .pasid = pasid, .at = dev->clock, .marker = true };
}

int tdmi_iommu_respond(struct tdm_iommu_dev *dev, u32 pasid, u32 group, enum tdm_response code)
{
	static const u8 counts[] = {
		[TDM_RESP_SUCCESS] = TDM_IC_RESP_SUCCESS,
		[TDM_RESP_INVALID] = TDM_IC_RESP_INVALID,
		[TDM_RESP_FAILURE] = TDM_IC_RESP_FAILURE,
	};
	struct tdm_iommu *it = dev->it;

	TDM_BUG_ON(it->in_op);
	if (!deliver(dev, pasid, group, code, *tdm_iommu_clock(it) + it->config.cost.response)) {
		dev->late_responses++;
		tdm_iommu_add(it, TDM_IC_RESP_REFUSED, 1);
		return -ESRCH;
	}
	tdm_iommu_add(it, (enum tdm_iommu_count)counts[code], 1);
	return 0;
}

/* ---- hardware: stalls ---------------------------------------------------------------------------------------------------------------- */

static u32 tag_of(const struct tdm_iommu *it, const struct tdm_stall *st)
{
	return (u32)(st - it->stall) | (u32)(st->seq & 0xffff) << 16;
}

bool tdmi_iommu_stall(struct tdm_dma *d)
{
	struct tdm_iommu *it = d->dev->it;
	struct tdm_stall *st = it->stall;

	if (it->nstalled == it->config.stalls)
		return false;
	while (st->d)
		st++;
	*st = (struct tdm_stall){ .d = d, .seq = it->stall_seq++, .at = d->dev->clock };
	it->nstalled++;
	d->state = TDM_DMA_STALLED;
	d->code = 0;
	d->group = tag_of(it, st);
	tdm_iommu_add(it, TDM_IC_STALLS, 1);
	return true;
}

int tdmi_iommu_resume(struct tdm_iommu *it, u32 tag, bool retry)
{
	struct tdm_stall *st = (tag & 0xffff) < it->config.stalls ? &it->stall[tag & 0xffff] : NULL;

	TDM_BUG_ON(it->in_op);
	if (!st || !st->d || tag_of(it, st) != tag) {
		tdm_iommu_add(it, TDM_IC_RESUME_REFUSED, 1);
		return -ESRCH;
	}
	st->d->code = (u8)((retry ? TDM_RESP_SUCCESS : TDM_RESP_INVALID) + 1);
	st->d->at = *tdm_iommu_clock(it) + it->config.cost.response;
	st->d = NULL;
	it->nstalled--;
	tdm_iommu_add(it, retry ? TDM_IC_RESUME_RETRY : TDM_IC_RESUME_ABORT, 1);
	return 0;
}

static struct tdm_stall *oldest_stall(const struct tdm_iommu *it)
{
	struct tdm_stall *oldest = NULL;

	for (u32 i = 0; it->nstalled && i < it->config.stalls; i++) {
		struct tdm_stall *st = &it->stall[i];

		if (st->d && (!oldest || st->seq < oldest->seq))
			oldest = st;
	}
	return oldest;
}

/* ---- software: from the queues ---------------------------------------------------------------------------------------------------------- */

/* What is parked of a device's group, or, with group ~0, of its PASID; dev NULL: of anybody's; pasid ~0: everything. Moved to the work, if that is given, as
 * far as it fits. How many there were. */
static u32 unpark(struct tdm_iommu *it, const struct tdm_iommu_dev *dev, u32 pasid, u32 group, struct tdm_iommu_work *to)
{
	u32 kept = 0, n = 0;

	for (u32 i = 0; i < it->nparked; i++) {
		const struct tdm_page_request *r = &it->parked[i];

		if ((dev && r->dev != dev) || (pasid != ~(u32)0 && r->pasid != pasid) || (group != ~(u32)0 && r->group != group)) {
			it->parked[kept++] = *r;
			continue;
		}
		n++;
		/* The last one needs a place, too. What a broken device has sent in excess it will ask for again. */
		if (to && to->n < TDM_PRG_MAX - 1) {
			to->req[to->n].va = r->va;
			to->req[to->n++].write = r->write;
		}
	}
	it->nparked = kept;
	return n;
}

static void discard_partial(struct tdm_iommu *it)
{
	tdm_iommu_add(it, TDM_IC_PARTIAL_DISCARDED, unpark(it, NULL, ~(u32)0, ~(u32)0, NULL));
}

static void take_request(struct tdm_iommu *it)
{
	const struct tdm_page_request r = it->prq[it->prq_cons++ & (it->config.requests - 1)];
	struct tdm_iommu_work *w = &it->work;

	tdm_clock_reach(tdm_iommu_clock(it), r.at + it->config.cost.event);
	if (r.marker) {
		tdm_iommu_add(it, TDM_IC_STOP_MARKERS, 1);
		tdm_iommu_add(it, TDM_IC_PARTIAL_DISCARDED, unpark(it, r.dev, r.pasid, ~(u32)0, NULL));
		return;
	}
	if (!r.last) {
		if (it->nparked == it->config.requests)
			discard_partial(it);
		it->parked[it->nparked++] = r;
		return;
	}
	*w = (struct tdm_iommu_work){ .what = TDM_IOW_GROUP, .dev = r.dev, .pasid = r.pasid, .group = r.group };
	unpark(it, r.dev, r.pasid, r.group, w);
	w->req[w->n].va = r.va;
	w->req[w->n++].write = r.write;
}

static void take_stall(struct tdm_iommu *it, struct tdm_stall *st)
{
	struct tdm_iommu_work *w = &it->work;

	tdm_clock_reach(tdm_iommu_clock(it), st->at + it->config.cost.event);
	*w = (struct tdm_iommu_work){ .what = TDM_IOW_STALL, .dev = st->d->dev, .pasid = st->d->pasid, .group = tag_of(it, st), .n = 1 };
	w->req[0].va = tdm_dma_page(st->d);
	w->req[0].write = tdm_dma_asks_write(st->d);
}

/* ---- software: answers ------------------------------------------------------------------------------------------------------------------ */

/* The policy that guarantees progress. true: the page is pinned. */
static bool try_pin(struct tdm_iommu *it, struct tdm_space *s, struct tdm_dma *d, u64 va)
{
	u32 page = (u32)((va >> TDM_PAGE_SHIFT) - (d->va >> TDM_PAGE_SHIFT));
	int err;

	if (d->asked[page] < ~(u32)0)
		d->asked[page]++;
	if (!it->config.pin_after || d->asked[page] <= it->config.pin_after || !it->ops->pin || tdm_bitmap_test(d->pinned, page))
		return false;
	it->in_op = true;
	err = it->ops->pin(it->arg, s, va, tdm_dma_asks_write(d), &d->pfn[page]);
	it->in_op = false;
	tdm_iommu_add(it, err ? TDM_IC_PINS_FAILED : TDM_IC_PINS, 1);
	if (!err)
		tdm_bitmap_set(d->pinned, page);
	return !err;
}

static void resolve(struct tdm_iommu *it)
{
	struct tdm_iommu_work *w = &it->work;
	u64 va = w->req[w->i].va;
	bool write = w->req[w->i].write;
	struct tdm_pasid *b = tdmi_iommu_pasid(it, w->pasid);
	struct tdm_dma *d = tdmi_dma_find(w->dev, w->pasid, va);
	int err = -ESRCH;

	w->i++;
	*tdm_iommu_clock(it) += it->config.cost.handler;
	if (b && !b->dead && !(b->devs & tdm_dev_bit(w->dev))) {
		w->stranger = true;
	} else if (b && !b->dead) {
		if (d && tdm_dma_asks_write(d) == write && try_pin(it, b->s, d, va))
			return;
		it->in_op = true;
		err = it->ops->fault(it->arg, b->s, va, write);
		it->in_op = false;
		/* It will pass. The device asks again, and somebody may have made room. */
		if (err == -ENOMEM || err == -EAGAIN) {
			tdm_iommu_add(it, TDM_IC_NO_MEMORY, 1);
			err = 0;
		}
	}
	if (!w->err)
		w->err = err;
}

static void answer(struct tdm_iommu *it)
{
	struct tdm_iommu_work w = it->work;

	it->work.what = TDM_IOW_NOTHING;
	if (w.what == TDM_IOW_STALL)
		tdmi_iommu_resume(it, w.group, !w.err && !w.stranger);
	else
		tdmi_iommu_respond(w.dev, w.pasid, w.group, w.stranger ? TDM_RESP_FAILURE : w.err ? TDM_RESP_INVALID : TDM_RESP_SUCCESS);
}

static const struct tdm_page_request *first_request(const struct tdm_iommu *it)
{
	return it->prq_cons != it->prq_prod ? &it->prq[it->prq_cons & (it->config.requests - 1)] : NULL;
}

enum tdm_handler_did tdmi_iommu_handler_step(struct tdm_iommu *it)
{
	const struct tdm_page_request *r = first_request(it);
	struct tdm_stall *st = oldest_stall(it);

	TDM_BUG_ON(it->in_op);
	if (it->work.what != TDM_IOW_NOTHING) {
		if (it->work.i < it->work.n) {
			resolve(it);
			return TDM_HANDLER_RESOLVED;
		}
		answer(it);
		return TDM_HANDLER_ANSWERED;
	}
	if (st && (!r || st->at <= r->at)) {
		take_stall(it, st);
		return TDM_HANDLER_TOOK;
	}
	if (r) {
		take_request(it);
		return TDM_HANDLER_TOOK;
	}
	if (it->prq_overflow) {
		it->prq_overflow = false;
		discard_partial(it);
		return TDM_HANDLER_DISCARDED;
	}
	return TDM_HANDLER_IDLE;
}

u64 tdmi_iommu_handler_next(const struct tdm_iommu *it)
{
	const struct tdm_page_request *r = first_request(it);
	const struct tdm_stall *st = oldest_stall(it);
	u64 at = ~(u64)0;

	if (it->work.what != TDM_IOW_NOTHING || (!r && it->prq_overflow))
		return 0;
	if (r)
		at = r->at + it->config.cost.event;
	if (st)
		at = TDM_MIN(at, st->at + it->config.cost.event);
	return at;
}

/* ---- teardown ------------------------------------------------------------------------------------------------------------------------------- */

/* The queue without that device, or NULL, and without that PASID, or ~0; the order of the others stays. */
static void drain_queue(struct tdm_iommu *it, const struct tdm_iommu_dev *dev, u32 pasid)
{
	u64 kept = it->prq_cons;

	for (u64 i = it->prq_cons; i != it->prq_prod; i++) {
		const struct tdm_page_request *r = &it->prq[i & (it->config.requests - 1)];

		if ((!dev || r->dev == dev) && (pasid == ~(u32)0 || r->pasid == pasid))
			tdm_iommu_add(it, r->marker ? TDM_IC_STOP_MARKERS : TDM_IC_DRAINED, 1);
		else
			it->prq[kept++ & (it->config.requests - 1)] = *r;
	}
	it->prq_prod = kept;
	tdm_iommu_add(it, TDM_IC_DRAINED, unpark(it, dev, pasid, ~(u32)0, NULL));
}

void tdmi_iommu_drain(struct tdm_iommu *it, u32 pasid)
{
	struct tdm_iommu_work *w = &it->work;

	drain_queue(it, NULL, pasid);
	if (w->what != TDM_IOW_NOTHING && w->pasid == pasid) {
		tdm_iommu_add(it, TDM_IC_DRAINED, w->what == TDM_IOW_GROUP ? w->n : 0);
		w->what = TDM_IOW_NOTHING;
	}
	for (u32 i = 0; i < it->config.stalls; i++) {
		struct tdm_stall *st = &it->stall[i];

		if (!st->d || st->d->pasid != pasid)
			continue;
		tdm_iommu_add(it, TDM_IC_DRAINED, 1);
		tdmi_iommu_resume(it, tag_of(it, st), false);
	}
	for (u32 i = 0; i < TDM_IOMMU_DEVS_MAX; i++) {
		struct tdm_iommu_dev *dev = it->dev[i];

		for (u32 k = 0; dev && k < dev->nactive; k++) {
			struct tdm_dma *d = dev->active[k];

			if (d->pasid == pasid && d->state == TDM_DMA_ASKED && !d->code)
				tdmi_iommu_respond(dev, pasid, d->group, TDM_RESP_INVALID);
		}
	}
}

void tdmi_iommu_drain_dev(struct tdm_iommu_dev *dev)
{
	struct tdm_iommu *it = dev->it;

	drain_queue(it, dev, ~(u32)0);
	if (it->work.what != TDM_IOW_NOTHING && it->work.dev == dev)
		it->work.what = TDM_IOW_NOTHING;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------------------ */

int tdmi_iommu_faults_init(struct tdm_iommu *it)
{
	it->prq = tdmi_alloc(it->alloc, it->config.requests * sizeof(*it->prq));
	it->parked = tdmi_alloc(it->alloc, it->config.requests * sizeof(*it->parked));
	it->stall = it->config.stalls ? tdmi_alloc(it->alloc, it->config.stalls * sizeof(*it->stall)) : NULL;
	if (it->prq && it->parked && (it->stall || !it->config.stalls))
		return 0;
	tdmi_iommu_faults_destroy(it);
	return -ENOMEM;
}

void tdmi_iommu_faults_destroy(struct tdm_iommu *it)
{
	tdmi_free(it->alloc, it->prq, it->config.requests * sizeof(*it->prq));
	tdmi_free(it->alloc, it->parked, it->config.requests * sizeof(*it->parked));
	tdmi_free(it->alloc, it->stall, it->config.stalls * sizeof(*it->stall));
}
