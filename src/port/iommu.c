// SPDX-License-Identifier: MIT
/*
 * iommu.c - PASIDs, translations, and what a space's notifiers say. See iommu.h.
 *
 * Why nothing stale is used once `invalidate` has returned. What can hold a translation: the IOTLB, an ATC, and a transaction that has moved a part of a page
 * (held). All three are cleared by the commands, in this order: the IOTLB first, as an ATC that was cleared before could be filled from it again. The table has
 * changed already, so what is walked later is new. The sync behind the commands returns when they have been carried out, and a device answers only when nothing
 * of its own uses what it had. Without ATS nothing is kept from one step to the next: the IOMMU carries an access out when it has translated it.
 *
 * Aging. The accessed bits are the table's, so there is nothing to ask here, and no young hook: whoever ages clears the bit, and either invalidates or does not.
 */
#include "port/iommu_impl.h"

const char *const tdm_iommu_count_names[TDM_IC_NR] = {
	[TDM_IC_ATS_REQUESTS] = "ats_requests",
	[TDM_IC_IOTLB_HITS] = "iotlb_hits",
	[TDM_IC_WALKS] = "walks",
	[TDM_IC_WALK_READS] = "walk_reads",
	[TDM_IC_SET_A] = "set_accessed",
	[TDM_IC_SET_D] = "set_dirty",
	[TDM_IC_FAULT_ABSENT] = "faults_absent",
	[TDM_IC_FAULT_DENIED] = "faults_denied",
	[TDM_IC_FAULT_ACCESS] = "faults_accessed",
	[TDM_IC_FAULT_DIRTY] = "faults_dirty",
	[TDM_IC_REFUSED] = "refused",
	[TDM_IC_INVALIDATES] = "invalidates",
	[TDM_IC_SNOOPED] = "snooped",
	[TDM_IC_CMD_IOTLB] = "commands_iotlb",
	[TDM_IC_CMD_ATC] = "commands_atc",
	[TDM_IC_CMD_SYNC] = "commands_sync",
	[TDM_IC_CMD_WHOLE] = "commands_whole",
	[TDM_IC_QUEUE_FULL] = "queue_full",
	[TDM_IC_SYNC_CYCLES] = "sync_cycles",
	[TDM_IC_PAGES_ASKED] = "pages_asked",
	[TDM_IC_PAGES_OVER] = "pages_over",
	[TDM_IC_ENTRIES] = "entries",
	[TDM_IC_ENTRIES_OVER] = "entries_over",
	[TDM_IC_ATC_TIMEOUTS] = "atc_timeouts",
	[TDM_IC_PAGE_REQUESTS] = "page_requests",
	[TDM_IC_GROUPS] = "groups",
	[TDM_IC_REQUESTS_REFUSED] = "requests_refused",
	[TDM_IC_QUEUE_OVERFLOWS] = "queue_overflows",
	[TDM_IC_AUTO_RESPONSES] = "auto_responses",
	[TDM_IC_PARTIAL_DISCARDED] = "partial_discarded",
	[TDM_IC_STOP_MARKERS] = "stop_markers",
	[TDM_IC_RESP_SUCCESS] = "responses_success",
	[TDM_IC_RESP_INVALID] = "responses_invalid",
	[TDM_IC_RESP_FAILURE] = "responses_failure",
	[TDM_IC_RESP_REFUSED] = "responses_refused",
	[TDM_IC_STALLS] = "stalls",
	[TDM_IC_STALLS_FULL] = "stalls_full",
	[TDM_IC_RESUME_RETRY] = "resumes_retry",
	[TDM_IC_RESUME_ABORT] = "resumes_abort",
	[TDM_IC_RESUME_REFUSED] = "resumes_refused",
	[TDM_IC_RETRIES] = "retries",
	[TDM_IC_RETRIES_MOST] = "retries_most",
	[TDM_IC_NO_MEMORY] = "no_memory",
	[TDM_IC_PINS] = "pins",
	[TDM_IC_PINS_FAILED] = "pins_failed",
	[TDM_IC_DRAINED] = "drained",
};

#define DIR_BITS 10u
#define DIR_SIZE ((size_t)1 << DIR_BITS)
#define DIR_BYTES (DIR_SIZE * sizeof(struct tdm_pasid *))

/* ---- PASIDs --------------------------------------------------------------------------------------------------------------------- */

struct tdm_pasid *tdmi_iommu_pasid(const struct tdm_iommu *it, u32 pasid)
{
	struct tdm_pasid **of = pasid < TDM_PASIDS ? it->dir[pasid >> DIR_BITS] : NULL;

	return of ? of[pasid & (DIR_SIZE - 1)] : NULL;
}

static struct tdm_pasid *of_notifier(struct tdm_notifier *n)
{
	return tdm_container_of(n, struct tdm_pasid, n);
}

static void forget(struct tdm_pasid *b, u64 start, u64 end, bool iotlb)
{
	u64 devs = b->devs & b->it->ats_devs;

	if (!iotlb && !devs)
		return;
	tdmi_iommu_invalidate(b->it, b->pasid, start, end, iotlb, devs);
	if (!b->it->config.sync_each)
		tdmi_iommu_sync(b->it);
}

static void invalidate(struct tdm_notifier *n, u64 start, u64 end)
{
	struct tdm_pasid *b = of_notifier(n);
	/* The CPUs have just said so. If they have not (they are flushed later, or not at all, to age) it must be told. */
	bool heard = b->it->config.snoop && start >= b->heard_start && end <= b->heard_end;

	tdm_iommu_add(b->it, TDM_IC_INVALIDATES, 1);
	forget(b, start, end, !heard);
}

static void release(struct tdm_notifier *n)
{
	struct tdm_pasid *b = of_notifier(n);
	struct tdm_iommu *it = b->it;

	TDM_BUG_ON(it->in_op);
	b->dead = true; /* nothing is translated, and no request taken, from here on */
	for (u64 devs = b->devs; devs; devs &= devs - 1)
		tdmi_dma_stop(it->dev[tdm_lowest_bit(devs)], b->pasid);
	tdmi_iommu_drain(it, b->pasid);
	for (u64 devs = b->devs; devs; devs &= devs - 1)
		tdmi_dma_cancel(it->dev[tdm_lowest_bit(devs)], b->pasid);
	forget(b, 0, ~(u64)0, true);
	b->s = NULL;
}

static const struct tdm_notifier_ops notifier_ops = { .invalidate = invalidate, .release = release };

static int dir_get(struct tdm_iommu *it, u32 pasid, struct tdm_pasid ***slot)
{
	struct tdm_pasid ***of = &it->dir[pasid >> DIR_BITS];

	if (!*of && !(*of = tdmi_alloc(it->alloc, DIR_BYTES)))
		return -ENOMEM;
	*slot = &(*of)[pasid & (DIR_SIZE - 1)];
	return 0;
}

int tdmi_iommu_bind(struct tdm_iommu *it, u32 pasid, struct tdm_space *s)
{
	struct tdm_pasid **slot, *b;
	int err;

	TDM_BUG_ON(it->in_op);
	if (!pasid || pasid >= TDM_PASIDS)
		return -EINVAL;
	err = dir_get(it, pasid, &slot);
	if (err)
		return err;
	if (*slot)
		return -EEXIST;
	b = tdmi_alloc(it->alloc, sizeof(*b));
	if (!b)
		return -ENOMEM;
	*b = (struct tdm_pasid){ .it = it, .s = s, .pasid = pasid, .n = { .name = "iommu", .ops = &notifier_ops } };
	err = tdmi_notifier_register(&s->notifiers, &b->n);
	if (err) {
		tdmi_free(it->alloc, b, sizeof(*b));
		return err;
	}
	tdm_list_add_tail(&it->bound, &b->link);
	*slot = b;
	return 0;
}

int tdmi_iommu_unbind(struct tdm_iommu *it, u32 pasid)
{
	struct tdm_pasid *b = tdmi_iommu_pasid(it, pasid);

	TDM_BUG_ON(it->in_op);
	if (!b)
		return -ENOENT;
	tdmi_notifier_unregister(b->n.nots, &b->n);
	for (u64 devs = b->devs; devs; devs &= devs - 1)
		it->dev[tdm_lowest_bit(devs)]->npasids--;
	it->dir[pasid >> DIR_BITS][pasid & (DIR_SIZE - 1)] = NULL;
	tdm_list_del(&b->link);
	tdmi_free(it->alloc, b, sizeof(*b));
	return 0;
}

/* ---- translations --------------------------------------------------------------------------------------------------------------------- */

static void count_walk(struct tdm_iommu *it, enum tdm_walk_result r, const struct tdm_walk *w)
{
	static const u8 fault[] = {
		[TDM_WALK_ABSENT] = TDM_IC_FAULT_ABSENT,
		[TDM_WALK_DENIED] = TDM_IC_FAULT_DENIED,
		[TDM_WALK_ACCESS] = TDM_IC_FAULT_ACCESS,
		[TDM_WALK_DIRTY] = TDM_IC_FAULT_DIRTY,
	};

	tdm_iommu_add(it, TDM_IC_WALKS, 1);
	tdm_iommu_add(it, TDM_IC_WALK_READS, w->reads);
	if (r != TDM_WALK_OK)
		tdm_iommu_add(it, (enum tdm_iommu_count)fault[r], 1);
	tdm_iommu_add(it, TDM_IC_SET_A, w->set_a);
	tdm_iommu_add(it, TDM_IC_SET_D, w->set_d);
}

int tdmi_iommu_translate(struct tdm_iommu_dev *dev, u32 pasid, u64 va, bool write, struct tdm_xlat *out)
{
	struct tdm_iommu *it = dev->it;
	struct tdm_pasid *b = tdmi_iommu_pasid(it, pasid);
	struct tdm_tlb_entry *e;
	enum tdm_walk_result r;
	struct tdm_walk w;
	u32 level;

	if (!b || b->dead || !(b->devs & tdm_dev_bit(dev))) {
		tdm_iommu_add(it, TDM_IC_REFUSED, 1);
		return -ESRCH;
	}
	dev->clock += it->config.cost.iotlb_hit;
	e = tdmi_tlb_lookup(&it->iotlb, pasid, va, &level);
	if (e && tdm_pte_good_for(e->pte, write)) {
		tdm_iommu_add(it, TDM_IC_IOTLB_HITS, 1);
		*out = (struct tdm_xlat){ e->pte, e->shift, e->bytes };
		return 0;
	}
	tdmi_rcu_read_lock(it->reader);
	r = tdmi_walk(&b->s->pgt, va, write, it->config.walk, it->config.page_sizes, &w);
	tdmi_rcu_read_unlock(it->reader);
	count_walk(it, r, &w);
	dev->clock += (u64)it->config.cost.walk_read * w.reads;
	if (r != TDM_WALK_OK)
		return -EFAULT;
	*out = (struct tdm_xlat){ w.pte, w.shift, tdm_pfn_bytes(it->phys, tdm_pte_pfn(w.pte)) };
	tdmi_tlb_insert(&it->iotlb, pasid, va, w.shift, w.pte, out->bytes);
	b->heard_start = b->heard_end = 0;
	return 0;
}

void tdmi_iommu_snoop(struct tdm_iommu *it, struct tdm_space *s, u64 start, u64 end)
{
	if (!it->config.snoop)
		return;
	tdm_list_for_each(l, &it->bound) {
		struct tdm_pasid *b = tdm_container_of(l, struct tdm_pasid, link);

		if (b->s != s)
			continue;
		tdm_iommu_add(it, TDM_IC_SNOOPED, 1);
		tdm_iommu_add(it, TDM_IC_ENTRIES, tdmi_tlb_flush_range(&it->iotlb, b->pasid, start, end));
		b->heard_start = start;
		b->heard_end = end;
	}
}

static bool tlb_has(const struct tdm_tlb *t, u32 asid, u64 va)
{
	for (u32 level = 0; level < TDM_TLB_LEVELS; level++)
		for (u32 size = 0; size < TDM_TLB_SIZES; size++)
			if (tdm_tlb_find(&t->array[level][size], asid, va, TDM_PAGE_SHIFT + 9 * size))
				return true;
	return false;
}

static bool dev_has(const struct tdm_iommu_dev *dev, u32 pasid, u64 va)
{
	if (tlb_has(&dev->atc, pasid, va))
		return true;
	for (u32 i = 0; i < dev->nactive; i++)
		if (dev->active[i]->held && dev->active[i]->pasid == pasid && tdm_dma_page(dev->active[i]) == (va & TDM_PAGE_MASK))
			return true;
	return false;
}

bool tdmi_iommu_caches(struct tdm_iommu *it, const struct tdm_space *s, u64 va)
{
	tdm_list_for_each(l, &it->bound) {
		struct tdm_pasid *b = tdm_container_of(l, struct tdm_pasid, link);

		if (b->s != s)
			continue;
		if (tlb_has(&it->iotlb, b->pasid, va))
			return true;
		for (u64 devs = b->devs; devs; devs &= devs - 1)
			if (dev_has(it->dev[tdm_lowest_bit(devs)], b->pasid, va))
				return true;
	}
	return false;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------------- */

static bool config_ok(const struct tdm_iommu_config *c)
{
	return !(c->walk & ~(TDM_WALK_HW_A | TDM_WALK_HW_D)) && c->page_sizes & TDM_PAGE_SIZE && tdm_is_pow2(c->queue) && tdm_is_pow2(c->requests) && c->split &&
	       c->split <= TDM_INV_SPLIT_MAX && c->stalls <= 0xffff && c->queue <= (u32)1 << 20 && c->requests <= (u32)1 << 20;
}

int tdmi_iommu_init(struct tdm_iommu *it, const struct tdm_iommu_config *config, const struct tdm_iommu_ops *ops, void *arg, struct tdm_phys *phys,
		    struct tdm_rcu_reader *reader, struct tdm_alloc *alloc)
{
	int err;

	*it = (struct tdm_iommu){ .config = *config, .ops = ops, .arg = arg, .phys = phys, .reader = reader, .alloc = alloc };
	tdm_list_init(&it->bound);
	if (!config_ok(config) || !ops->fault || !ops->pin != !ops->unpin)
		return -EINVAL;
	err = tdmi_tlb_init(&it->iotlb, &config->iotlb, alloc);
	if (err)
		return err;
	err = tdmi_invq_init(it);
	if (err)
		goto no_queue;
	err = tdmi_iommu_faults_init(it);
	if (err)
		goto no_faults;
	return 0;
no_faults:
	tdmi_invq_destroy(it);
no_queue:
	tdmi_tlb_destroy(&it->iotlb, alloc);
	return err;
}

void tdmi_iommu_destroy(struct tdm_iommu *it)
{
	TDM_BUG_ON(it->in_op || !tdm_list_empty(&it->bound));
	for (u32 i = 0; i < TDM_IOMMU_DEVS_MAX; i++)
		TDM_BUG_ON(it->dev[i]);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(it->dir); i++)
		if (it->dir[i])
			tdmi_free(it->alloc, it->dir[i], DIR_BYTES);
	tdmi_iommu_faults_destroy(it);
	tdmi_invq_destroy(it);
	tdmi_tlb_destroy(&it->iotlb, it->alloc);
}
