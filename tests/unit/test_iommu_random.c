// SPDX-License-Identifier: MIT
/*
 * test_iommu_random.c - transactions, and a memory management that evicts, moves, cleans and ages pages in between, at random: every byte that a device reads
 * or writes is the one that it should be, and one seed has one outcome.
 */
#include "iommu_world.h"

#define S (&space[0].s)

static void submit(struct tdm_iommu_dev *dev, struct tdm_dma *d)
{
	CHECK_EQ(tdmi_iommu_dma_submit(dev, d), 0);
}

#define DMAS 6u

static struct {
	u8 want[SPACES][PAGES * PAGE]; /* every byte as it was last written */
	struct tdm_dma d[DMAS];
	u8 buf[DMAS][16 * PAGE];
	u32 seen[DMAS]; /* of d->bytes */
	u32 gone;       /* transactions that have ended */
	u64 r;
} oracle;

static u32 oracle_rand(u32 n)
{
	return (u32)(t_rand(&oracle.r) % n);
}

/* What has been moved since the last time: a write's bytes are written, a read's are what was last written. */
static void follow(void)
{
	for (u32 i = 0; i < DMAS; i++) {
		struct tdm_dma *d = &oracle.d[i];
		u32 n = d->bytes - oracle.seen[i];
		u8 *at, *b = oracle.buf[i] + oracle.seen[i];

		if (d->state == TDM_DMA_IDLE || !n)
			continue;
		at = oracle.want[d->pasid - 1] + (d->va - BASE) + oracle.seen[i];
		if (d->write)
			memcpy(at, b, n);
		else if (memcmp(b, at, n))
			t_fail(__FILE__, __LINE__, "transaction %u of PASID %u read other bytes at %llx to %llx", i, d->pasid,
			       (unsigned long long)d->va + oracle.seen[i], (unsigned long long)d->va + d->bytes);
		oracle.seen[i] = d->bytes;
	}
}

static void start_dma(struct tdm_iommu_dev *dev, u32 i)
{
	struct tdm_dma *d = &oracle.d[i];
	u32 len = 1 + oracle_rand(oracle_rand(2) ? 300 : 16 * PAGE);

	if (d->state != TDM_DMA_IDLE && d->state != TDM_DMA_DONE)
		return;
	if (d->state == TDM_DMA_DONE)
		CHECK(d->result == 0 ? d->bytes == d->len : d->result == -EFAULT && dev->config.fault == TDM_FAULTS_ABORT);
	oracle.gone += d->state == TDM_DMA_DONE;
	*d = dma(1 + oracle_rand(2), oracle_rand(2), BASE + oracle_rand(PAGES * PAGE - len + 1), len, oracle.buf[i]);
	for (u32 k = 0; k < len; k++)
		oracle.buf[i][k] = (u8)t_rand(&oracle.r);
	oracle.seen[i] = 0;
	submit(dev, d);
}

static void cpu_write(struct tdm_space *s, u32 at, u8 byte)
{
	u64 va = BASE + at;

	oracle.want[world_of(s) - space][at] = byte;
	if (tdm_pte_present(entry(s, va)))
		frame((u32)tdm_pte_pfn(entry(s, va)).v)[va % PAGE] = byte;
	else
		stored(s, va)[va % PAGE] = byte;
}

/* Reclaim from within a fault, as the engine does it. */
static void reclaim_something(struct tdm_space *s, u64 va)
{
	u64 other = BASE + oracle_rand(PAGES) * PAGE;

	if (oracle_rand(3) == 0 && other != (va & TDM_PAGE_MASK))
		page_out(s, other);
}

/* A page that has another frame from now on: copy-on-write, migration. */
static void move_page(struct tdm_space *s, u64 va)
{
	struct tdm_pte was;
	struct tdm_pt *pt;
	u32 i, to;

	if (!tdm_pte_present(entry(s, va)) || pinned(s, va))
		return;
	to = frame_alloc();
	pt = table(s, va, &i);
	was = tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	tdmi_invalidate(&s->notifiers, va, va + PAGE);
	memcpy(frame(to), frame((u32)tdm_pte_pfn(was).v), PAGE);
	tdm_pt_xchg(pt, i, tdm_pte_mk((struct tdm_pfn){ to }, was.v & (TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY)));
	tdm_pt_unlock(pt);
	frame_put((u32)tdm_pte_pfn(was).v);
}

static void meddle(void)
{
	struct tdm_space *s = &space[oracle_rand(2)].s;
	u64 va = BASE + oracle_rand(PAGES) * PAGE;

	switch (oracle_rand(8)) {
	case 0:
	case 1:
		page_out(s, va);
		break;
	case 2:
		move_page(s, va);
		break;
	case 3:
		if (tdm_pte_present(entry(s, va)))
			age(s, va, oracle_rand(2));
		break;
	case 4: /* cleaned: the next write must say so */
		if (tdm_pte_present(entry(s, va))) {
			change(s, va, 0, TDM_PTE_DIRTY | TDM_PTE_WRITE);
			tdmi_invalidate(&s->notifiers, va, va + PAGE);
		}
		break;
	case 5:
		if (!tdm_pte_present(entry(s, va)))
			page_in(s, va, TDM_PTE_WRITE | (oracle_rand(2) ? TDM_PTE_ACCESSED | TDM_PTE_DIRTY : 0));
		break;
	default:
		cpu_write(s, oracle_rand(PAGES * PAGE), (u8)t_rand(&oracle.r));
		break;
	}
}

/* What there is to compare of a run. */
struct outcome {
	u64 count[TDM_IC_NR], clock, soft, sum, transactions;
};

static void check_bytes(struct outcome *o)
{
	for (u32 i = 0; i < 2; i++) {
		for (u64 va = BASE; va < BASE + PAGES * PAGE; va += PAGE)
			page_out_told(&space[i].s, va, true);
		CHECK(!memcmp(space[i].store, oracle.want[i], PAGES * PAGE));
		for (u32 k = 0; k < PAGES * PAGE; k++)
			o->sum = o->sum * 31 + oracle.want[i][k];
	}
}

static struct outcome at_random(const struct tdm_iommu_config *c, const struct tdm_iommu_dev_config *dc, u32 steps, u64 s)
{
	struct tdm_iommu_dev *dev = one_device(c, dc);
	struct outcome o = { 0 };

	memset(&oracle, 0, sizeof(oracle));
	oracle.r = s;
	faults = 0;
	in_fault = reclaim_something;
	CHECK_EQ(tdmi_iommu_bind(&it, 2, &space[1].s), 0);
	CHECK_EQ(tdmi_iommu_attach(dev, 2), 0);
	for (u64 va = BASE; va < BASE + PAGES * PAGE; va += PAGE)
		page_in(oracle_rand(2) ? S : &space[1].s, va, TDM_PTE_WRITE | TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	for (u32 i = 0; i < steps; i++) {
		switch (oracle_rand(8)) {
		case 0:
			start_dma(dev, oracle_rand(DMAS));
			break;
		case 1:
			meddle();
			break;
		case 2:
		case 3:
			tdmi_iommu_handler_step(&it);
			break;
		default:
			tdmi_iommu_dev_step(dev);
			break;
		}
		follow();
	}
	while (run_all(1))
		follow();
	memcpy(o.count, it.count, sizeof(o.count));
	o.clock = dev->clock;
	o.soft = it.soft_clock;
	o.transactions = oracle.gone;
	check_bytes(&o);
	CHECK_EQ(dev->outstanding, 0);
	in_fault = NULL;
	CHECK_EQ(tdmi_iommu_unbind(&it, 2), 0);
	no_device(dev);
	return o;
}

static u32 rounds(void)
{
	return t_slow() ? 4 : 12;
}

static void each_way(enum tdm_fault_model model)
{
	u64 r = t_seed();

	for (u32 i = 0; i < rounds(); i++) {
		struct tdm_iommu_config c = iommu_config();
		struct tdm_iommu_dev_config dc = dev_config(model);
		struct outcome o;

		c.walk = i & 1 ? 0 : TDM_WALK_HW_A | TDM_WALK_HW_D;
		c.split = 1 + i % 3;
		c.sync_each = i & 2;
		c.whole_pages = i & 4 ? 1 : 0;
		c.queue = 1u << i % 5;
		c.requests = i & 8 ? 4 : 64;
		c.stalls = 1 + i % 4;
		c.pin_after = i % 3 == 2 ? 2 : 0;
		dc.burst = 64u << i % 7;
		dc.unit = 64;
		dc.group = 1 + i % 4;
		dc.credit = 1 + i * 2;
		dc.ats = model != TDM_FAULTS_STALL && (model == TDM_FAULTS_PRI || i & 1);
		o = at_random(&c, &dc, 20000, t_rand(&r));
		CHECK(o.transactions > 20);
		CHECK(o.count[TDM_IC_ENTRIES] > 0);
	}
}

TEST(bytes_at_random_without_faults, .seconds = 90)
{
	each_way(TDM_FAULTS_ABORT);
}

TEST(bytes_at_random_with_stalls, .seconds = 90)
{
	each_way(TDM_FAULTS_STALL);
}

TEST(bytes_at_random_with_pri, .seconds = 90)
{
	each_way(TDM_FAULTS_PRI);
}

TEST(one_seed_one_outcome, .seconds = 60)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct outcome a, b, other;

	c.pin_after = 3;
	a = at_random(&c, &dc, 20000, t_seed());
	pins = unpins = 0;
	b = at_random(&c, &dc, 20000, t_seed());
	pins = unpins = 0;
	other = at_random(&c, &dc, 20000, t_seed() + 1);
	CHECK(!memcmp(&a, &b, sizeof(a)));
	CHECK(memcmp(&a, &other, sizeof(a)));
}
