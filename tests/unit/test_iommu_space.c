// SPDX-License-Identifier: MIT
/*
 * test_iommu_space.c - devices beside CPUs in the address spaces of mm/space.h, which are mapped, unmapped, protected, forked and evicted: every byte that a CPU or
 * a device reads is the one that was last written, by either, to that space.
 */
#include "space_world.h"
#include "port/iommu.h"

#define SPACES 3u
#define PAGES 48u
#define DMAS 5u
#define BYTES (PAGES * PAGE)

static struct {
	struct world t;
	struct tdm_iommu it;
	struct tdm_iommu_dev *dev;
	struct tdm_space *s[SPACES];
	u8 rights[SPACES][PAGES];   /* TDM_V_* ; 0: nothing is mapped, or there is no right */
	bool mapped[SPACES][PAGES];
	u8 want[SPACES][BYTES];
	struct tdm_dma d[DMAS];
	u8 buf[DMAS][8 * PAGE];
	u32 seen[DMAS];
	u64 gone, aborted, r;
	bool meddle_in_faults;
	struct tdm_pfn hog[512]; /* pages that nobody else can have */
	u32 hogs;
} m;

static u32 below(u32 n)
{
	return (u32)(t_rand(&m.r) % n);
}

static u64 at(u32 page)
{
	return WORLD_BASE + page * PAGE;
}

/* ---- the machine ------------------------------------------------------------------------------------------------------------------ */

static void flush(void *arg, struct tdm_space *s, u64 start, u64 end, u32 shift)
{
	world_flush(arg, s, start, end, shift);
	tdmi_iommu_snoop(&m.it, s, start, end);
}

static bool elsewhere(void *arg, struct tdm_space *s)
{
	(void)arg, (void)s;
	return true;
}

static const struct tdm_tlb_ops cpus = { .flush = flush, .elsewhere = elsewhere };

static int op_fault(void *arg, struct tdm_space *s, u64 va, bool write)
{
	(void)arg;
	if (m.meddle_in_faults && below(4) == 0)
		tdmi_vmscan(&m.t.w, m.t.reader, 1 + below(8), 64);
	return tdmi_space_fault(s, m.t.reader, va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
}

static int op_pin(void *arg, struct tdm_space *s, u64 va, bool write, struct tdm_pfn *pfn)
{
	u32 done;

	(void)arg;
	return tdmi_pin_pages(s, m.t.reader, va, 1, TDM_PIN_LONGTERM | (write ? TDM_PIN_WRITE : TDM_PIN_READ), pfn, &done);
}

static void op_unpin(void *arg, struct tdm_space *s, u64 va, struct tdm_pfn pfn, bool write)
{
	(void)arg, (void)va;
	tdmi_unpin_pages(s->w, &pfn, 1, write);
}

static const struct tdm_iommu_ops ops = { .fault = op_fault, .pin = op_pin, .unpin = op_unpin };

static void start(u64 ram, const struct tdm_iommu_config *c, const struct tdm_iommu_dev_config *dc)
{
	memset(&m, 0, sizeof(m));
	world_init(&m.t, 512, 0, "lz4");
	for (; m.hogs < 512 - ram; m.hogs++)
		CHECK(tdmi_page_alloc(&m.t.w.phys, m.t.w.ram, &m.hog[m.hogs]));
	m.t.w.tlb = &cpus;
	CHECK_EQ(tdmi_iommu_init(&m.it, c, &ops, NULL, &m.t.w.phys, m.t.reader, &m.t.w.alloc), 0);
	CHECK_EQ(tdmi_iommu_dev_add(&m.it, dc, &m.dev), 0);
}

static void bind(u32 i)
{
	CHECK_EQ(tdmi_iommu_bind(&m.it, i + 1, m.s[i]), 0);
	CHECK_EQ(tdmi_iommu_attach(m.dev, i + 1), 0);
}

static void new_space(u32 i)
{
	m.s[i] = world_space(&m.t);
	memset(m.rights[i], RW, PAGES);
	memset(m.mapped[i], 1, PAGES);
	memset(m.want[i], 0, BYTES);
	CHECK_EQ(tdmi_mmap(m.s[i], m.t.reader, WORLD_BASE, BYTES, RW), 0);
	bind(i);
}

static void finish(void)
{
	for (u32 i = 0; i < SPACES; i++) {
		if (!m.s[i])
			continue;
		CHECK_EQ(tdmi_iommu_unbind(&m.it, i + 1), 0);
		tdmi_space_destroy(m.s[i], m.t.reader);
	}
	tdmi_iommu_dev_remove(m.dev);
	tdmi_iommu_destroy(&m.it);
	while (m.hogs)
		tdmi_page_put(&m.t.w, m.hog[--m.hogs]);
	world_end(&m.t);
}

static struct tdm_iommu_config iommu_config(void)
{
	return (struct tdm_iommu_config){
		.walk = TDM_WALK_HW_A | TDM_WALK_HW_D,
		.page_sizes = TDM_PAGE_SIZE,
		.iotlb = { .level = { { { 16, 4 } } } },
		.queue = 16, .split = 2, .requests = 32, .stalls = 4,
		.cost = { .ats_round_trip = 1000, .event = 3000, .handler = 500, .response = 500, .queue_command = 100, .atc_invalidate = 1000, .sync = 50 },
	};
}

static struct tdm_iommu_dev_config dev_config(enum tdm_fault_model fault)
{
	return (struct tdm_iommu_dev_config){ .name = "device", .fault = fault, .ats = fault == TDM_FAULTS_PRI, .atc = { .level = { { { 16, 4 } } } }, .page_sizes = TDM_PAGE_SIZE,
					      .unit = 64, .burst = 1024, .depth = 4, .group = 4, .credit = 8 };
}

/* One step of whoever is behind. false: there is nothing to do. */
static bool step(void)
{
	u64 handler = tdmi_iommu_handler_next(&m.it), dev = tdmi_iommu_dev_next(m.dev);

	if (dev < handler)
		tdmi_iommu_dev_step(m.dev);
	else if (handler != ~(u64)0)
		tdmi_iommu_handler_step(&m.it);
	return dev != ~(u64)0 || handler != ~(u64)0;
}

/* ---- a stream under reclaim ------------------------------------------------------------------------------------------------------------ */

/* The page is evicted after each answer, before the device comes back: TDM_YOUNG_CLEAR finds it unused, as nobody has walked since it was aged. */
static int chased(enum tdm_fault_model model, u32 pin_after, u64 *retries)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(model);
	int result;

	c.pin_after = pin_after;
	dc.give_up = 50;
	start(64, &c, &dc);
	new_space(0);
	memset(m.buf[0], 0x5c, PAGE);
	m.d[0] = (struct tdm_dma){ .pasid = 1, .write = true, .va = at(3), .len = PAGE, .buf = m.buf[0] };
	CHECK_EQ(tdmi_iommu_dma_submit(m.dev, &m.d[0]), 0);
	while (m.d[0].state != TDM_DMA_DONE) {
		enum tdm_handler_did did;

		while (m.d[0].state != TDM_DMA_DONE && tdmi_iommu_dev_step(m.dev) != TDM_DEV_WAITS)
			;
		do
			did = tdmi_iommu_handler_step(&m.it);
		while (did != TDM_HANDLER_IDLE);
		for (u32 i = 0; i < 6; i++) {
			tdmi_vmscan_age(&m.t.w);
			tdmi_vmscan(&m.t.w, m.t.reader, 64, 256);
		}
	}
	result = m.d[0].result;
	*retries = m.d[0].retries;
	if (!result)
		CHECK_EQ(world_read(&m.t, 0, m.s[0], at(3) + 8), 0x5c5c5c5c5c5c5c5cull);
	finish();
	return result;
}

TEST(reclaim_outruns_a_device)
{
	u64 retries;

	CHECK_EQ(chased(TDM_FAULTS_PRI, 0, &retries), -ETIMEDOUT);
	CHECK_EQ(retries, 50);
	CHECK_EQ(chased(TDM_FAULTS_STALL, 0, &retries), -ETIMEDOUT);
	CHECK_EQ(retries, 50);
}

TEST(a_pin_is_not_outrun)
{
	u64 retries;

	CHECK_EQ(chased(TDM_FAULTS_PRI, 3, &retries), 0);
	CHECK_EQ(retries, 3);
	CHECK_EQ(chased(TDM_FAULTS_STALL, 3, &retries), 0);
	CHECK_EQ(retries, 3);
}

/* A device that cannot fault, under reclaim. pin: its driver has pinned the memory. */
static int streamed(bool pin, u32 walk)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_pfn page[4];
	u32 done = 0;
	int result;

	c.walk = walk;
	start(128, &c, &dc);
	tdmi_vmscan_policy(&m.t.w, TDM_YOUNG_FLUSH);
	new_space(0);
	for (u32 i = 0; i < 4; i++)
		world_write(&m.t, 0, m.s[0], at(i), i);
	if (pin)
		CHECK_EQ(tdmi_pin_pages(m.s[0], m.t.reader, at(0), 4, TDM_PIN_WRITE | TDM_PIN_LONGTERM, page, &done), 0);
	memset(m.buf[0], 0x11, 4 * PAGE);
	m.d[0] = (struct tdm_dma){ .pasid = 1, .write = true, .va = at(0), .len = 4 * PAGE, .buf = m.buf[0] };
	CHECK_EQ(tdmi_iommu_dma_submit(m.dev, &m.d[0]), 0);
	while (step()) {
		for (u32 i = 0; i < 6; i++) {
			tdmi_vmscan_age(&m.t.w);
			tdmi_vmscan(&m.t.w, m.t.reader, 64, 256);
		}
	}
	result = m.d[0].result;
	if (!result)
		CHECK_EQ(world_read(&m.t, 0, m.s[0], at(4) - 8), 0x1111111111111111ull);
	tdmi_unpin_pages(&m.t.w, page, done, true);
	finish();
	return result;
}

/* Also where the accessed bit is the software's: reclaim does not age what is pinned, or an access would be a fault. */
TEST(who_cannot_fault_needs_a_pin)
{
	CHECK_EQ(streamed(false, TDM_WALK_HW_A | TDM_WALK_HW_D), -EFAULT);
	CHECK_EQ(streamed(true, TDM_WALK_HW_A | TDM_WALK_HW_D), 0);
	CHECK_EQ(streamed(false, 0), -EFAULT);
	CHECK_EQ(streamed(true, 0), 0);
}

/* ---- aging ------------------------------------------------------------------------------------------------------------------------------------- */

/* One page that a device alone uses, all the time, among others that nobody uses any more; one page is wanted now and then. How often did the device find it
 * gone? */
static u64 lost(enum tdm_scan_young young, bool snoop, u64 *commands)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	u64 n;

	c.snoop = snoop;
	start(256, &c, &dc);
	tdmi_vmscan_policy(&m.t.w, young);
	new_space(0);
	for (u32 i = 0; i < PAGES; i++)
		world_write(&m.t, 0, m.s[0], at(i), i);
	world_flush(&m.t, m.s[0], 0, ~(u64)0, TDM_PAGE_SHIFT);
	for (u32 i = 0; i < PAGES / 2; i++) {
		m.d[0] = (struct tdm_dma){ .pasid = 1, .va = at(7), .len = 64, .buf = m.buf[0] };
		CHECK_EQ(tdmi_iommu_dma_submit(m.dev, &m.d[0]), 0);
		while (step())
			;
		CHECK_EQ(m.d[0].result, 0);
		CHECK_EQ(m.buf[0][0], 7);
		tdmi_vmscan_age(&m.t.w);
		tdmi_vmscan(&m.t.w, m.t.reader, 1, 64);
	}
	n = tdm_iommu_counted(&m.it, TDM_IC_PAGE_REQUESTS);
	*commands = tdm_iommu_counted(&m.it, TDM_IC_CMD_ATC);
	CHECK(tdm_world_counted(&m.t.w, TDM_SC_SWAPPED_OUT) >= PAGES / 4);
	finish();
	return n;
}

/* Without an invalidation the device never sets the bit again: its page looks like those that nobody uses, and goes when its turn comes. With it, it stays. */
TEST(a_page_that_only_a_device_uses)
{
	u64 clear, flush_all, flush_secondary;

	for (u32 snoop = 0; snoop < 2; snoop++) {
		CHECK(lost(TDM_YOUNG_CLEAR, snoop, &clear) > 0);
		CHECK_EQ(lost(TDM_YOUNG_FLUSH, snoop, &flush_all), 0);
		CHECK_EQ(lost(TDM_YOUNG_FLUSH_SECONDARY, snoop, &flush_secondary), 0);
		CHECK(clear < flush_all);
		CHECK(clear < flush_secondary);
	}
}

/* ---- at random ------------------------------------------------------------------------------------------------------------------------------ */

static void follow(void)
{
	for (u32 i = 0; i < DMAS; i++) {
		struct tdm_dma *d = &m.d[i];
		u32 n = d->bytes - m.seen[i];
		u8 *to;

		if (d->state == TDM_DMA_IDLE || !n)
			continue;
		to = m.want[d->pasid - 1] + (d->va - WORLD_BASE) + m.seen[i];
		if (d->write)
			memcpy(to, m.buf[i] + m.seen[i], n);
		else if (memcmp(to, m.buf[i] + m.seen[i], n))
			t_fail(__FILE__, __LINE__, "transaction %u of space %u has read other bytes at page %llu", i, d->pasid - 1,
			       (unsigned long long)(d->va + m.seen[i] - WORLD_BASE) / PAGE);
		m.seen[i] = d->bytes;
	}
}

static void start_dma(u32 i)
{
	u32 s = below(SPACES), len = 1 + below(below(2) ? 200 : 8 * PAGE);
	struct tdm_dma *d = &m.d[i];

	if (!m.s[s] || (d->state != TDM_DMA_IDLE && d->state != TDM_DMA_DONE))
		return;
	m.gone += d->state == TDM_DMA_DONE;
	m.aborted += d->state == TDM_DMA_DONE && d->result;
	*d = (struct tdm_dma){ .pasid = s + 1, .write = below(2), .va = WORLD_BASE + below(BYTES - len + 1), .len = len, .buf = m.buf[i] };
	for (u32 k = 0; k < len; k++)
		m.buf[i][k] = (u8)t_rand(&m.r);
	m.seen[i] = 0;
	CHECK_EQ(tdmi_iommu_dma_submit(m.dev, d), 0);
}

static void cpu_access(u32 s)
{
	u32 where = below(BYTES), page = where / PAGE, err_wanted;
	bool write = below(2);
	int err;
	u8 *p = world_access(&m.t, below(WORLD_CPUS), m.s[s], WORLD_BASE + where, write, &err);

	err_wanted = !m.mapped[s][page] || !(m.rights[s][page] & (write ? TDM_V_WRITE : TDM_V_READ));
	if (err == -ENOMEM)
		return;
	CHECK_EQ(err, err_wanted ? -EFAULT : 0);
	if (err)
		return;
	if (write)
		m.want[s][where] = *p = (u8)t_rand(&m.r);
	else
		CHECK_EQ(*p, m.want[s][where]);
}

static void do_fork(u32 s)
{
	u32 to = 0;

	while (to < SPACES && m.s[to])
		to++;
	if (to == SPACES)
		return;
	if (tdmi_space_fork(m.s[s], m.t.reader, &m.s[to])) {
		m.s[to] = NULL;
		return;
	}
	for (u32 c = 0; c < WORLD_CPUS; c++)
		memset(m.t.tlb[c][m.s[to]->id], 0, sizeof(m.t.tlb[c][0]));
	memcpy(m.want[to], m.want[s], BYTES);
	memcpy(m.rights[to], m.rights[s], PAGES);
	memcpy(m.mapped[to], m.mapped[s], PAGES);
	bind(to);
}

static void do_exit(u32 s)
{
	u32 alive = 0;

	for (u32 i = 0; i < SPACES; i++)
		alive += m.s[i] != NULL;
	if (alive < 2)
		return;
	CHECK_EQ(tdmi_iommu_unbind(&m.it, s + 1), 0);
	follow();
	tdmi_space_destroy(m.s[s], m.t.reader);
	m.s[s] = NULL;
	tdmi_rcu_poll(&m.t.w.rcu);
}

static void change_range(u32 s, u32 what)
{
	u32 n = 1 + below(12), first = below(PAGES - n + 1);

	switch (what) {
	case 0:
		CHECK_EQ(tdmi_munmap(m.s[s], m.t.reader, at(first), n * PAGE), 0);
		memset(&m.mapped[s][first], 0, n);
		break;
	case 1:
		CHECK_EQ(tdmi_mmap(m.s[s], m.t.reader, at(first), n * PAGE, RW), 0);
		memset(&m.mapped[s][first], 1, n);
		memset(&m.rights[s][first], RW, n);
		memset(m.want[s] + first * PAGE, 0, n * PAGE);
		break;
	case 2:
		CHECK_EQ(tdmi_madvise_dontneed(m.s[s], m.t.reader, at(first), n * PAGE), 0);
		memset(m.want[s] + first * PAGE, 0, n * PAGE);
		break;
	case 3:
		CHECK_EQ(tdmi_clear_soft_dirty(m.s[s], m.t.reader, at(first), n * PAGE), 0);
		break;
	default: {
		u8 rights = below(3) ? RW : TDM_V_READ;

		for (u32 i = first; i < first + n; i++)
			if (!m.mapped[s][i])
				return;
		CHECK_EQ(tdmi_mprotect(m.s[s], m.t.reader, at(first), n * PAGE, rights), 0);
		memset(&m.rights[s][first], rights, n);
		break;
	}
	}
}

static void meddle(void)
{
	u32 s = below(SPACES), what = below(40);

	if (!m.s[s])
		return;
	if (what == 0)
		do_fork(s);
	else if (what == 1)
		do_exit(s);
	else if (what < 7)
		change_range(s, what - 2);
	else if (what < 9)
		change_range(s, 1); /* so that not everything ends up unmapped */
	else if (what < 12)
		tdmi_vmscan(&m.t.w, m.t.reader, 1 + below(16), 128);
	else if (what == 12)
		tdmi_vmscan_age(&m.t.w);
	else
		cpu_access(s);
}

static void at_random(const struct tdm_iommu_config *c, const struct tdm_iommu_dev_config *dc, u64 ram, u32 steps, u64 seed)
{
	start(ram, c, dc);
	m.r = seed;
	m.t.w.policy = (struct tdm_tlb_policy){ .batch = below(2), .batch_secondary = below(2) };
	tdmi_vmscan_policy(&m.t.w, (enum tdm_scan_young)below(3));
	m.meddle_in_faults = true;
	new_space(0);
	for (u32 i = 0; i < steps; i++) {
		if (below(6) == 0)
			start_dma(below(DMAS));
		else if (below(3) == 0)
			meddle();
		else if (below(4) == 0)
			tdmi_iommu_handler_step(&m.it);
		else
			tdmi_iommu_dev_step(m.dev);
		follow();
	}
	for (u32 i = 0; i < 200000 && step(); i++)
		follow();
	for (u32 i = 0; i < DMAS; i++)
		CHECK(m.d[i].state == TDM_DMA_IDLE || m.d[i].state == TDM_DMA_DONE);
	CHECK(m.gone > 20);
	for (u32 s = 0; s < SPACES; s++) {
		for (u32 i = 0; m.s[s] && i < BYTES; i += 8) {
			int err;
			u8 *p;

			if (!m.mapped[s][i / PAGE])
				continue;
			p = world_access(&m.t, 0, m.s[s], WORLD_BASE + i, false, &err);
			CHECK_EQ(err, 0);
			CHECK(!memcmp(p, m.want[s] + i, 8));
		}
	}
	finish();
}

static void each_way(enum tdm_fault_model model)
{
	u64 r = t_seed();

	for (u32 i = 0; i < (t_slow() ? 4u : 16u); i++) {
		struct tdm_iommu_config c = iommu_config();
		struct tdm_iommu_dev_config dc = dev_config(model);

		c.walk = i & 1 ? 0 : TDM_WALK_HW_A | TDM_WALK_HW_D;
		c.snoop = i & 2;
		c.sync_each = i & 4;
		c.pin_after = i % 3 ? 0 : 2;
		c.split = 1 + i % 3;
		c.whole_pages = i & 8 ? 4 : 0;
		c.requests = i % 5 == 4 ? 8 : 32;
		at_random(&c, &dc, i & 1 ? 96 : 256, 12000, t_rand(&r));
	}
}

TEST(devices_and_cpus_with_pri, .seconds = 120)
{
	each_way(TDM_FAULTS_PRI);
}

TEST(devices_and_cpus_with_stalls, .seconds = 120)
{
	each_way(TDM_FAULTS_STALL);
}

TEST(devices_and_cpus_without_faults, .seconds = 120)
{
	each_way(TDM_FAULTS_ABORT);
}
