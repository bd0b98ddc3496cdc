// SPDX-License-Identifier: MIT
/*
 * iommu_dev.c - devices: their ATC, and the transactions that they carry out.
 *
 *   QUEUED --> READY --> DONE
 *               |  ^
 *               |  +--- ASKED    its page requests have no answer yet, or one that the device has not looked at
 *               |  +--- STALLED  the IOMMU holds it
 *               +->+--- BLOCKED  it could not be held, or may not ask for more pages yet
 *
 * A device works on `depth` transactions in turn, the others wait in the order in which they came. A step is one of: an answer is looked at; the page that a
 * transaction is at is translated and the first part of it moved; a further part of it is moved. With an ATC the further parts go where the translation said
 * (held), as accesses do that are on their way: unless it is invalidated in between; then that page is translated again.
 *
 * An answer "try again" is looked at in one step, and the new translation asked for in a later one, so that the page may go in between. When the IOMMU itself
 * walks again, it does so in the step that looks at the answer.
 */
#include <string.h>
#include "port/iommu_impl.h"

/* ---- the end of a transaction ------------------------------------------------------------------------------------------------------------ */

static void unpin_all(struct tdm_dma *d)
{
	struct tdm_iommu *it = d->dev->it;
	struct tdm_pasid *b = tdmi_iommu_pasid(it, d->pasid);

	tdm_bitmap_for_each(page, d->pinned, 0, TDM_DMA_PAGES) {
		it->in_op = true;
		it->ops->unpin(it->arg, b->s, (d->va & TDM_PAGE_MASK) + (page << TDM_PAGE_SHIFT), d->pfn[page], tdm_dma_asks_write(d));
		it->in_op = false;
	}
	memset(d->pinned, 0, sizeof(d->pinned));
}

/* It is on no list any more. */
static void end(struct tdm_dma *d, int result)
{
	struct tdm_iommu_dev *dev = d->dev;

	unpin_all(d);
	d->held = NULL;
	d->result = result;
	d->ended = dev->clock;
	d->state = TDM_DMA_DONE;
	if (result)
		dev->aborted++;
	else
		dev->done++;
	if (d->done)
		d->done(d);
}

static void deactivate(struct tdm_iommu_dev *dev, u32 i)
{
	dev->nactive--;
	for (u32 k = i; k < dev->nactive; k++)
		dev->active[k] = dev->active[k + 1];
	if (dev->turn > i)
		dev->turn--;
}

static enum tdm_dev_did finish(struct tdm_dma *d, int result)
{
	struct tdm_iommu_dev *dev = d->dev;
	u32 i = 0;

	while (dev->active[i] != d)
		i++;
	deactivate(dev, i);
	end(d, result);
	return TDM_DEV_ENDED;
}

/* ---- a page that there is no translation for ---------------------------------------------------------------------------------------------- */

static u32 new_group(struct tdm_iommu_dev *dev)
{
	for (;;) {
		u32 group = dev->next_group++ % TDM_PRG_INDEXES;
		bool used = false;

		for (u32 i = 0; i < dev->nactive; i++)
			used |= dev->active[i]->state == TDM_DMA_ASKED && dev->active[i]->group == group;
		if (!used)
			return group;
	}
}

static void remember(struct tdm_iommu_dev *dev, u32 pasid, u64 va, struct tdm_xlat *x)
{
	u64 within;
	u32 shift = x->shift;

	while (shift > TDM_PAGE_SHIFT && !(dev->config.page_sizes >> shift & 1))
		shift -= 9;
	within = va & tdm_bits_below(x->shift) & ~tdm_bits_below(shift);
	*x = (struct tdm_xlat){ { x->pte.v + within }, shift, x->bytes + within };
	tdmi_tlb_insert(&dev->atc, pasid, va, shift, x->pte, x->bytes);
}

/* Does the device need to ask for this page, too? It has many translation requests under way, so that they cost no time but the walks'. */
static bool lacks(struct tdm_dma *d, u64 va)
{
	struct tdm_iommu_dev *dev = d->dev;
	struct tdm_tlb_entry *e;
	struct tdm_xlat x;
	u32 level;

	e = tdmi_tlb_lookup(&dev->atc, d->pasid, va, &level);
	if (e && tdm_pte_good_for(e->pte, tdm_dma_asks_write(d)))
		return false;
	tdm_iommu_add(dev->it, TDM_IC_ATS_REQUESTS, 1);
	if (tdmi_iommu_translate(dev, d->pasid, va, tdm_dma_asks_write(d), &x))
		return true;
	remember(dev, d->pasid, va, &x);
	return false;
}

/* Post a group: the page that it is at, and what it will need next. */
static enum tdm_dev_did ask(struct tdm_dma *d)
{
	struct tdm_iommu_dev *dev = d->dev;
	u32 most = TDM_MIN(dev->config.group, dev->config.credit - dev->outstanding), n = 0;
	u64 page[TDM_PRG_MAX];

	if (dev->no_pri)
		return finish(d, -EIO);
	if (!most) {
		d->state = TDM_DMA_BLOCKED;
		return TDM_DEV_WORKED;
	}
	for (u64 va = tdm_dma_page(d); va < d->va + d->len && n < most; va += TDM_PAGE_SIZE)
		if (!n || lacks(d, va))
			page[n++] = va;
	d->group = new_group(dev);
	d->ngroup = n;
	d->code = 0;
	d->state = TDM_DMA_ASKED;
	dev->outstanding += n;
	for (u32 i = 0; i < n; i++)
		tdmi_iommu_post(dev, d->pasid, page[i], tdm_dma_asks_write(d), d->group, i == n - 1);
	return TDM_DEV_WORKED;
}

static enum tdm_dev_did fault(struct tdm_dma *d)
{
	struct tdm_iommu_dev *dev = d->dev;
	struct tdm_iommu *it = dev->it;

	if (d->waited) {
		d->waited = false;
		d->retries++;
		d->page_retries++;
		tdm_iommu_add(it, TDM_IC_RETRIES, 1);
		it->count[TDM_IC_RETRIES_MOST] = TDM_MAX(it->count[TDM_IC_RETRIES_MOST], d->page_retries);
		if (dev->config.give_up && d->page_retries >= dev->config.give_up)
			return finish(d, -ETIMEDOUT);
	}
	switch (dev->config.fault) {
	case TDM_FAULTS_PRI:
		return ask(d);
	case TDM_FAULTS_STALL:
		if (!tdmi_iommu_stall(d)) {
			tdm_iommu_add(it, TDM_IC_STALLS_FULL, 1);
			d->state = TDM_DMA_BLOCKED;
		}
		return TDM_DEV_WORKED;
	case TDM_FAULTS_ABORT:
		break;
	}
	return finish(d, -EFAULT);
}

/* ---- moving bytes ------------------------------------------------------------------------------------------------------------------------------ */

/* Where the page is that the transaction is at. 0; or what tdmi_iommu_translate() says. */
static int reach(struct tdm_dma *d, u8 **page)
{
	struct tdm_iommu_dev *dev = d->dev;
	const struct tdm_iommu_cost *cost = &dev->it->config.cost;
	u64 va = d->va + d->bytes;
	struct tdm_tlb_entry *e;
	struct tdm_xlat x;
	u32 level;
	int err;

	if (d->held) {
		*page = d->held;
		return 0;
	}
	if (dev->config.ats) {
		dev->clock += cost->atc_hit;
		e = tdmi_tlb_lookup(&dev->atc, d->pasid, va, &level);
		if (e && tdm_pte_good_for(e->pte, tdm_dma_asks_write(d))) {
			*page = d->held = e->bytes + (va & tdm_bits_below(e->shift) & TDM_PAGE_MASK);
			return 0;
		}
		tdm_iommu_add(dev->it, TDM_IC_ATS_REQUESTS, 1);
		dev->clock += cost->ats_round_trip;
	}
	err = tdmi_iommu_translate(dev, d->pasid, va, tdm_dma_asks_write(d), &x);
	if (err)
		return err;
	if (dev->config.ats)
		remember(dev, d->pasid, va, &x);
	*page = x.bytes + (va & tdm_bits_below(x.shift) & TDM_PAGE_MASK);
	if (dev->config.ats)
		d->held = *page;
	return 0;
}

static enum tdm_dev_did move(struct tdm_dma *d, u8 *page)
{
	struct tdm_iommu_dev *dev = d->dev;
	u32 unit = dev->config.unit;
	u64 va = d->va + d->bytes, to = TDM_ALIGN_DOWN(va + dev->config.burst, unit), page_end = (va & TDM_PAGE_MASK) + TDM_PAGE_SIZE;
	u8 *at = page + (va - (va & TDM_PAGE_MASK));
	size_t n;

	to = TDM_MIN(TDM_MIN(to, page_end), d->va + d->len);
	n = to - va;
	if (d->write)
		memcpy(at, d->buf + d->bytes, n);
	else
		memcpy(d->buf + d->bytes, at, n);
	dev->clock += ((to - 1) / unit - va / unit + 1) * dev->it->config.cost.dma_unit;
	*(d->write ? &dev->bytes_written : &dev->bytes_read) += n;
	d->bytes += (u32)n;
	d->waited = false;
	if (to == page_end) {
		d->held = NULL;
		d->page_retries = 0;
	}
	return d->bytes == d->len ? finish(d, 0) : TDM_DEV_WORKED;
}

static enum tdm_dev_did go_on(struct tdm_dma *d)
{
	u8 *page;
	int err;

	if (d->dev->cut_off)
		return finish(d, -EIO);
	err = reach(d, &page);
	if (!err)
		return move(d, page);
	return err == -EFAULT ? fault(d) : finish(d, err);
}

/* ---- steps ---------------------------------------------------------------------------------------------------------------------------------------- */

static enum tdm_dev_did look_at_answer(struct tdm_dma *d)
{
	enum tdm_response code = (enum tdm_response)(d->code - 1);
	bool stalled = d->state == TDM_DMA_STALLED;

	d->code = 0;
	if (code == TDM_RESP_FAILURE) {
		d->dev->no_pri = true;
		return finish(d, -EIO);
	}
	if (code == TDM_RESP_INVALID)
		return finish(d, -EFAULT);
	d->state = TDM_DMA_READY;
	d->waited = true;
	return stalled ? go_on(d) : TDM_DEV_WORKED;
}

/* When it can go on; ~0: that is not known. */
static u64 ready_at(const struct tdm_dma *d)
{
	const struct tdm_iommu_dev *dev = d->dev;

	switch (d->state) {
	case TDM_DMA_READY:
		return 0;
	case TDM_DMA_BLOCKED:
		if (dev->cut_off || (dev->config.fault == TDM_FAULTS_STALL ? dev->it->nstalled < dev->it->config.stalls : dev->outstanding < dev->config.credit))
			return 0;
		return ~(u64)0;
	case TDM_DMA_ASKED:
	case TDM_DMA_STALLED:
		return d->code ? d->at : ~(u64)0;
	default:
		TDM_BUG("a transaction that is not active");
	}
}

/* The next in turn that can go on now, else the one that can first. NULL: none will. */
static struct tdm_dma *pick(struct tdm_iommu_dev *dev)
{
	struct tdm_dma *first = NULL;
	u64 first_at = ~(u64)0;

	for (u32 i = 0; i < dev->nactive; i++) {
		u32 slot = (dev->turn + i) % dev->nactive;
		u64 at = ready_at(dev->active[slot]);

		if (at <= dev->clock) {
			dev->turn = (slot + 1) % dev->nactive;
			return dev->active[slot];
		}
		if (at < first_at) {
			first_at = at;
			first = dev->active[slot];
		}
	}
	if (first)
		dev->clock = first_at;
	return first;
}

enum tdm_dev_did tdmi_iommu_dev_step(struct tdm_iommu_dev *dev)
{
	struct tdm_list *l;
	struct tdm_dma *d;

	TDM_BUG_ON(dev->it->in_op);
	while (dev->nactive < dev->config.depth && (l = tdm_list_first(&dev->queue))) {
		tdm_list_del(l);
		d = tdm_container_of(l, struct tdm_dma, link);
		d->state = TDM_DMA_READY;
		dev->active[dev->nactive++] = d;
	}
	if (!dev->nactive)
		return TDM_DEV_IDLE;
	d = pick(dev);
	if (!d)
		return TDM_DEV_WAITS;
	if (d->state == TDM_DMA_ASKED || d->state == TDM_DMA_STALLED)
		return look_at_answer(d);
	d->state = TDM_DMA_READY;
	return go_on(d);
}

u64 tdmi_iommu_dev_next(const struct tdm_iommu_dev *dev)
{
	u64 at = ~(u64)0;

	if (dev->nactive < dev->config.depth && !tdm_list_empty(&dev->queue))
		return dev->clock;
	for (u32 i = 0; i < dev->nactive; i++)
		at = TDM_MIN(at, ready_at(dev->active[i]));
	return TDM_MAX(at, dev->clock);
}

int tdmi_iommu_dma_submit(struct tdm_iommu_dev *dev, struct tdm_dma *d)
{
	TDM_BUG_ON(dev->it->in_op || (d->state != TDM_DMA_IDLE && d->state != TDM_DMA_DONE));
	if (!d->len || d->len > TDM_DMA_MAX || d->va >= TDM_VA_END || d->len > TDM_VA_END - d->va)
		return -EINVAL;
	memset(&d->result, 0, sizeof(*d) - offsetof(struct tdm_dma, result));
	d->dev = dev;
	d->state = TDM_DMA_QUEUED;
	d->started = dev->clock;
	tdm_list_add_tail(&dev->queue, &d->link);
	return 0;
}

/* ---- for the rest of the iommu ---------------------------------------------------------------------------------------------------------------------- */

struct tdm_dma *tdmi_dma_find(const struct tdm_iommu_dev *dev, u32 pasid, u64 va)
{
	for (u32 i = 0; i < dev->nactive; i++) {
		struct tdm_dma *d = dev->active[i];

		if (d->pasid == pasid && va >= (d->va & TDM_PAGE_MASK) && va < d->va + d->len)
			return d;
	}
	return NULL;
}

u32 tdmi_dma_drop_held(struct tdm_iommu_dev *dev, u32 pasid, u64 start, u64 end_va)
{
	u32 n = 0;

	for (u32 i = 0; i < dev->nactive; i++) {
		struct tdm_dma *d = dev->active[i];

		if (!d->held || d->pasid != pasid || tdm_dma_page(d) < start || tdm_dma_page(d) >= end_va)
			continue;
		d->held = NULL;
		n++;
	}
	return n;
}

void tdmi_dma_stop(struct tdm_iommu_dev *dev, u32 pasid)
{
	bool left = false;

	for (u32 i = 0; i < dev->nactive; i++) {
		struct tdm_dma *d = dev->active[i];

		if (d->pasid != pasid || d->state != TDM_DMA_ASKED || d->code || !dev->config.stop_marker)
			continue;
		dev->outstanding -= d->ngroup;
		d->ngroup = 0;
		d->state = TDM_DMA_READY;
		left = true;
	}
	if (left)
		tdmi_iommu_post_stop(dev, pasid);
}

void tdmi_dma_cancel(struct tdm_iommu_dev *dev, u32 pasid)
{
	struct tdm_list all;

	/* Collected first: done() may submit. */
	tdm_list_init(&all);
	for (u32 i = 0; i < dev->nactive;) {
		struct tdm_dma *d = dev->active[i];

		if (d->pasid != pasid) {
			i++;
			continue;
		}
		deactivate(dev, i);
		tdm_list_add_tail(&all, &d->link);
	}
	tdm_list_for_each_safe(l, &dev->queue)
		if (tdm_container_of(l, struct tdm_dma, link)->pasid == pasid)
			tdm_list_move_tail(&all, l);
	tdm_clock_reach(&dev->clock, *tdm_iommu_clock(dev->it));
	for (struct tdm_list *l; (l = tdm_list_first(&all));) {
		tdm_list_del(l);
		end(tdm_container_of(l, struct tdm_dma, link), -ECANCELED);
	}
}

/* ---- life ---------------------------------------------------------------------------------------------------------------------------------------------- */

static bool dev_config_ok(const struct tdm_iommu *it, const struct tdm_iommu_dev_config *c)
{
	if (c->fault == TDM_FAULTS_STALL ? c->ats || !it->config.stalls : c->fault == TDM_FAULTS_PRI ? !c->ats || !c->credit : c->fault != TDM_FAULTS_ABORT)
		return false;
	if (c->ats && !(c->page_sizes & TDM_PAGE_SIZE))
		return false;
	return tdm_is_pow2(c->unit) && c->unit >= 64 && c->unit <= 256 && c->burst && c->burst % c->unit == 0 && c->burst <= TDM_PAGE_SIZE && c->depth &&
	       c->depth <= TDM_DMA_DEPTH_MAX && c->group && c->group <= TDM_PRG_MAX;
}

int tdmi_iommu_dev_add(struct tdm_iommu *it, const struct tdm_iommu_dev_config *config, struct tdm_iommu_dev **out)
{
	struct tdm_iommu_dev *dev;
	u32 id = 0;
	int err;

	TDM_BUG_ON(it->in_op);
	if (!dev_config_ok(it, config))
		return -EINVAL;
	while (id < TDM_IOMMU_DEVS_MAX && it->dev[id])
		id++;
	if (id == TDM_IOMMU_DEVS_MAX)
		return -ENOSPC;
	dev = tdmi_alloc(it->alloc, sizeof(*dev));
	if (!dev)
		return -ENOMEM;
	*dev = (struct tdm_iommu_dev){ .it = it, .id = id, .config = *config };
	tdm_list_init(&dev->queue);
	err = config->ats ? tdmi_tlb_init(&dev->atc, &config->atc, it->alloc) : 0;
	if (err) {
		tdmi_free(it->alloc, dev, sizeof(*dev));
		return err;
	}
	it->dev[id] = dev;
	if (config->ats)
		it->ats_devs |= tdm_dev_bit(dev);
	*out = dev;
	return 0;
}

void tdmi_iommu_dev_remove(struct tdm_iommu_dev *dev)
{
	struct tdm_iommu *it = dev->it;

	TDM_BUG_ON(it->in_op || dev->nactive || !tdm_list_empty(&dev->queue) || dev->npasids);
	/* Commands may name it. */
	tdmi_iommu_sync(it);
	tdmi_iommu_drain_dev(dev);
	it->dev[dev->id] = NULL;
	it->ats_devs &= ~tdm_dev_bit(dev);
	if (dev->config.ats)
		tdmi_tlb_destroy(&dev->atc, it->alloc);
	tdmi_free(it->alloc, dev, sizeof(*dev));
}

int tdmi_iommu_attach(struct tdm_iommu_dev *dev, u32 pasid)
{
	struct tdm_pasid *b = tdmi_iommu_pasid(dev->it, pasid);

	TDM_BUG_ON(dev->it->in_op);
	if (!b || b->dead)
		return -ENOENT;
	if (b->devs & tdm_dev_bit(dev))
		return -EALREADY;
	b->devs |= tdm_dev_bit(dev);
	dev->npasids++;
	return 0;
}

void tdmi_iommu_dev_reset(struct tdm_iommu_dev *dev)
{
	if (dev->config.ats)
		tdmi_tlb_flush_all(&dev->atc);
	for (u32 i = 0; i < dev->nactive; i++)
		dev->active[i]->held = NULL;
	dev->no_pri = dev->mute = dev->cut_off = false;
}
