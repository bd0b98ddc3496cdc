// SPDX-License-Identifier: MIT
/* test_iommu.c - translations of an IOMMU and of devices' caches: what sets bits in the table, what is kept, and how it is forgotten. */
#include "iommu_world.h"

#define S (&space[0].s)

static u8 buf[TDM_DMA_MAX];

static void must(struct tdm_iommu_dev *dev, struct tdm_dma *d, int result)
{
	CHECK_EQ(tdmi_iommu_dma_submit(dev, d), 0);
	run_all(100000);
	CHECK_EQ(d->state, TDM_DMA_DONE);
	CHECK_EQ(d->result, result);
}

/* ---- translations ----------------------------------------------------------------------------------------------------------------- */

TEST(a_walk_sets_bits_and_is_remembered)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma r = dma(1, false, BASE + 10, 100, buf), w = dma(1, true, BASE + 10, 100, buf);

	memset(stored(S, BASE), 5, PAGE);
	page_in(S, BASE, TDM_PTE_WRITE);
	must(dev, &r, 0);
	CHECK_EQ(r.bytes, 100);
	CHECK_EQ(buf[0], 5);
	CHECK_EQ(buf[99], 5);
	CHECK_EQ(entry(S, BASE).v & (TDM_PTE_ACCESSED | TDM_PTE_DIRTY), TDM_PTE_ACCESSED);
	CHECK_EQ(counted(TDM_IC_WALKS), 1);
	must(dev, &r, 0);
	CHECK_EQ(counted(TDM_IC_IOTLB_HITS), 1);
	CHECK_EQ(counted(TDM_IC_WALKS), 1);
	/* What is known is good for reading only: nobody has set D. */
	memset(buf, 9, 100);
	must(dev, &w, 0);
	CHECK_EQ(counted(TDM_IC_WALKS), 2);
	CHECK_EQ(counted(TDM_IC_SET_D), 1);
	CHECK(entry(S, BASE).v & TDM_PTE_DIRTY);
	must(dev, &w, 0);
	CHECK_EQ(counted(TDM_IC_WALKS), 2);
	page_out(S, BASE);
	CHECK_EQ(stored(S, BASE)[9], 5);
	CHECK_EQ(stored(S, BASE)[10], 9);
	CHECK_EQ(stored(S, BASE)[109], 9);
	CHECK_EQ(stored(S, BASE)[110], 5);
	no_device(dev);
}

/* Hand-computed: units of 64 bytes from 10 to 110 are two. */
TEST(what_an_access_costs)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE + 10, 100, buf);

	page_in(S, BASE, TDM_PTE_WRITE);
	must(dev, &d, 0);
	CHECK_EQ(dev->clock, 1 + 500 + 2 + 4 * 30 + 2 * 7);
	must(dev, &d, 0);
	CHECK_EQ(d.ended - d.started, 1 + 2 * 7);
	no_device(dev);
}

static void huge_leaf(u64 atc_sizes, u32 asked)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, TDM_HUGE_SIZE * 3 + 5 * PAGE + 100, 3 * PAGE, buf);
	struct tdm_pt *pt;

	dc.page_sizes = atc_sizes;
	dev = one_device(&c, &dc);
	tdmi_rcu_read_lock(reader);
	CHECK_EQ(tdmi_pt_lock_pmd(&S->pgt, TDM_HUGE_SIZE * 3, &pt), 0);
	tdm_pt_xchg(pt, 3, tdm_pte_mk((struct tdm_pfn){ 0 }, TDM_PTE_WRITE));
	tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(reader);
	for (u32 i = 0; i < 3 * PAGE; i++)
		buf[i] = (u8)(i * 7 >> 3);
	must(dev, &d, 0);
	CHECK(!memcmp(frame(5) + 100, buf, 3 * PAGE));
	CHECK_EQ(counted(TDM_IC_WALKS), 1);
	CHECK_EQ(counted(TDM_IC_ATS_REQUESTS), asked);
	tdmi_rcu_read_lock(reader);
	CHECK_EQ(tdmi_pt_lock_pmd(&S->pgt, TDM_HUGE_SIZE * 3, &pt), 0);
	tdm_pt_xchg(pt, 3, (struct tdm_pte){ 0 });
	tdmi_invalidate(&S->notifiers, TDM_HUGE_SIZE * 3, TDM_HUGE_SIZE * 4);
	tdm_pt_unlock(pt);
	tdmi_rcu_read_unlock(reader);
	CHECK(!tdmi_iommu_caches(&it, S, TDM_HUGE_SIZE * 3 + 6 * PAGE));
	no_device(dev);
}

TEST(a_leaf_of_2m_in_an_atc_that_has_such)
{
	huge_leaf(TDM_PAGE_SIZE | TDM_HUGE_SIZE, 1);
}

TEST(a_leaf_of_2m_in_an_atc_of_4k)
{
	huge_leaf(TDM_PAGE_SIZE, 4);
}

TEST(without_hardware_flags_the_software_sets_them)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_STALL);
	struct tdm_iommu_dev *dev;
	struct tdm_dma r = dma(1, false, BASE, 64, buf), w = dma(1, true, BASE, 64, buf);

	c.walk = 0;
	dev = one_device(&c, &dc);
	page_in(S, BASE, TDM_PTE_WRITE);
	must(dev, &r, 0);
	CHECK_EQ(counted(TDM_IC_FAULT_ACCESS), 1);
	must(dev, &w, 0);
	CHECK_EQ(counted(TDM_IC_FAULT_DIRTY), 1);
	must(dev, &r, 0);
	CHECK_EQ(faults, 2);
	/* Aged: a fault for a page that is there. */
	CHECK(age(S, BASE, true));
	must(dev, &r, 0);
	CHECK_EQ(counted(TDM_IC_FAULT_ACCESS), 2);
	CHECK_EQ(faults, 3);
	CHECK_EQ(counted(TDM_IC_SET_A) + counted(TDM_IC_SET_D), 0);
	no_device(dev);
}

/* ---- aging ---------------------------------------------------------------------------------------------------------------------- */

/* Cleared without a word, a page that a device uses all the time looks old; with an invalidation it does not. */
static void aged_page(enum tdm_fault_model model, bool snoop)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(model);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, false, BASE, 64, buf);

	c.snoop = snoop;
	dev = one_device(&c, &dc);
	page_in(S, BASE, 0);
	must(dev, &d, 0);
	CHECK(age(S, BASE, false));
	for (u32 i = 0; i < 5; i++)
		must(dev, &d, 0);
	CHECK(!age(S, BASE, true));
	tdmi_invalidate(&S->notifiers, BASE, BASE + PAGE);
	for (u32 i = 0; i < 3; i++) {
		must(dev, &d, 0);
		CHECK(age(S, BASE, true));
	}
	CHECK_EQ(counted(TDM_IC_WALKS), 4);
	no_device(dev);
}

TEST(aging_and_the_atc)
{
	aged_page(TDM_FAULTS_PRI, false);
}

TEST(aging_and_the_iotlb)
{
	aged_page(TDM_FAULTS_ABORT, false);
}

/* Aging of secondary MMUs alone: there is no broadcast that a snooping IOTLB could hear, so it is told. */
TEST(aging_and_an_iotlb_that_snoops)
{
	aged_page(TDM_FAULTS_PRI, true);
	aged_page(TDM_FAULTS_ABORT, true);
}

/* ---- who tells the IOTLB ------------------------------------------------------------------------------------------------------------ */

TEST(snooping_reaches_the_iotlb_and_no_atc)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI), plain = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev, *other;
	struct tdm_dma d = dma(1, false, BASE, 64, buf);

	c.snoop = true;
	dev = one_device(&c, &dc);
	other = device(&plain);
	CHECK_EQ(tdmi_iommu_attach(other, 1), 0);
	page_in(S, BASE, 0);
	must(dev, &d, 0);
	tdmi_iommu_snoop(&it, &space[1].s, BASE, BASE + PAGE);
	tdmi_iommu_snoop(&it, S, BASE, BASE + PAGE);
	CHECK_EQ(counted(TDM_IC_SNOOPED), 1);
	CHECK(tdmi_iommu_caches(&it, S, BASE)); /* the ATC has it */
	must(dev, &d, 0);
	CHECK_EQ(counted(TDM_IC_WALKS), 1);
	must(other, &d, 0);
	CHECK_EQ(counted(TDM_IC_WALKS), 2); /* the IOTLB had not */
	/* The notifier has the ATC to tell, and nobody else. */
	tdmi_iommu_snoop(&it, S, BASE, BASE + 4 * PAGE);
	page_out(S, BASE);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 0);
	CHECK_EQ(counted(TDM_IC_CMD_ATC), 1);
	CHECK_EQ(counted(TDM_IC_CMD_SYNC), 1);
	CHECK(!tdmi_iommu_caches(&it, S, BASE));
	CHECK_EQ(tdmi_iommu_unbind(&it, 1), 0);
	tdmi_iommu_dev_remove(other);
	tdmi_iommu_dev_remove(dev);
	teardown();
}

/* Reclaim may tell the secondary MMUs first, and the CPUs with a batch; or something is walked between the two. */
TEST(who_has_not_been_heard_by_the_iotlb_tells_it)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, false, BASE, 2 * PAGE, buf);

	c.snoop = true;
	dev = one_device(&c, &dc);
	page_in(S, BASE, 0);
	page_in(S, BASE + PAGE, 0);
	must(dev, &d, 0);
	page_out(S, BASE);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 1);
	CHECK(!tdmi_iommu_caches(&it, S, BASE));
	tdmi_iommu_snoop(&it, S, BASE, BASE + 2 * PAGE);
	d.va = BASE + PAGE;
	d.len = 1;
	must(dev, &d, 0);
	page_out(S, BASE + PAGE);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 2);
	CHECK(!tdmi_iommu_caches(&it, S, BASE + PAGE));
	/* Of the broadcast only a part is what changes now. */
	tdmi_iommu_snoop(&it, S, BASE, BASE + 2 * PAGE);
	tdmi_invalidate(&S->notifiers, BASE, BASE + 3 * PAGE);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 4);
	tdmi_invalidate(&S->notifiers, BASE, BASE + 2 * PAGE);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 4);
	tdmi_iommu_snoop(&it, S, BASE + PAGE, BASE + 2 * PAGE);
	tdmi_invalidate(&S->notifiers, BASE, BASE + 2 * PAGE);
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 5);
	no_device(dev);
}

TEST(without_snooping_broadcasts_are_not_heard)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE, 64, buf);

	page_in(S, BASE, 0);
	must(dev, &d, 0);
	tdmi_iommu_snoop(&it, S, 0, ~(u64)0);
	CHECK(tdmi_iommu_caches(&it, S, BASE));
	CHECK_EQ(counted(TDM_IC_SNOOPED), 0);
	page_out(S, BASE);
	CHECK(!tdmi_iommu_caches(&it, S, BASE));
	CHECK_EQ(counted(TDM_IC_CMD_IOTLB), 1);
	CHECK_EQ(counted(TDM_IC_CMD_ATC), 0);
	no_device(dev);
}

/* A page of which a part has been moved goes, and another comes in its place: the rest is moved there, whoever had a translation. */
TEST(an_access_under_way_does_not_outlive_an_invalidation)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, true, BASE, PAGE, buf);
	u32 squatter;

	dc.burst = 1024;
	dev = one_device(&c, &dc);
	page_in(S, BASE, TDM_PTE_WRITE);
	memset(buf, 3, PAGE);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), 0);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	CHECK_EQ(d.bytes, 1024);
	CHECK(tdmi_iommu_caches(&it, S, BASE));
	page_out(S, BASE);
	CHECK(!tdmi_iommu_caches(&it, S, BASE));
	squatter = frame_alloc();
	page_in(S, BASE, TDM_PTE_WRITE);
	run_all(1000);
	CHECK_EQ(d.result, 0);
	CHECK_EQ(frame(squatter)[2000], POISON);
	page_out(S, BASE);
	CHECK(!memcmp(stored(S, BASE), buf, PAGE));
	frame_put(squatter);
	no_device(dev);
}

/* What is under way elsewhere is not disturbed: another page, another PASID. */
TEST(an_access_under_way_goes_on_when_others_are_invalidated)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(1, false, BASE + 4 * PAGE, PAGE, buf);

	dc.burst = 1024;
	dev = one_device(&c, &dc);
	CHECK_EQ(tdmi_iommu_bind(&it, 2, &space[1].s), 0);
	CHECK_EQ(tdmi_iommu_attach(dev, 2), 0);
	page_in(S, BASE + 4 * PAGE, TDM_PTE_WRITE);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), 0);
	CHECK_EQ(tdmi_iommu_dev_step(dev), TDM_DEV_WORKED);
	tdmi_invalidate(&space[1].s.notifiers, BASE, BASE + 8 * PAGE);
	tdmi_invalidate(&S->notifiers, BASE, BASE + 4 * PAGE);
	tdmi_invalidate(&S->notifiers, BASE + 5 * PAGE, BASE + 8 * PAGE);
	CHECK(d.held);
	tdmi_invalidate(&S->notifiers, BASE + 4 * PAGE, BASE + 5 * PAGE);
	CHECK(!d.held);
	run_all(100);
	CHECK_EQ(d.result, 0);
	CHECK_EQ(tdmi_iommu_unbind(&it, 2), 0);
	no_device(dev);
}

/* ---- PASIDs --------------------------------------------------------------------------------------------------------------------------- */

TEST(pasids)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev;
	struct tdm_dma d = dma(TDM_PASIDS - 1, false, BASE, 1, buf);

	setup(&c);
	dev = device(&dc);
	CHECK_EQ(tdmi_iommu_bind(&it, 0, S), -EINVAL);
	CHECK_EQ(tdmi_iommu_bind(&it, TDM_PASIDS, S), -EINVAL);
	CHECK_EQ(tdmi_iommu_attach(dev, TDM_PASIDS - 1), -ENOENT);
	CHECK_EQ(tdmi_iommu_attach(dev, TDM_PASIDS), -ENOENT);
	CHECK_EQ(tdmi_iommu_bind(&it, TDM_PASIDS - 1, S), 0);
	CHECK_EQ(tdmi_iommu_bind(&it, TDM_PASIDS - 1, &space[1].s), -EEXIST);
	page_in(S, BASE, 0);
	must(dev, &d, -ESRCH);
	CHECK_EQ(counted(TDM_IC_REFUSED), 1);
	CHECK_EQ(tdmi_iommu_attach(dev, TDM_PASIDS - 1), 0);
	CHECK_EQ(tdmi_iommu_attach(dev, TDM_PASIDS - 1), -EALREADY);
	must(dev, &d, 0);
	CHECK_EQ(tdmi_iommu_unbind(&it, TDM_PASIDS - 1), 0);
	CHECK_EQ(tdmi_iommu_unbind(&it, TDM_PASIDS - 1), -ENOENT);
	must(dev, &d, -ESRCH);
	d.pasid = 1u << 31;
	must(dev, &d, -ESRCH);
	tdmi_iommu_dev_remove(dev);
	tdmi_notifiers_release(&space[2].s.notifiers);
	CHECK_EQ(tdmi_iommu_bind(&it, 7, &space[2].s), -ESRCH);
	teardown();
}

/* Two spaces at the same addresses, and a third PASID of the first. */
TEST(pasids_do_not_see_each_other)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d[3];

	CHECK_EQ(tdmi_iommu_bind(&it, 1025, &space[1].s), 0);
	CHECK_EQ(tdmi_iommu_attach(dev, 1025), 0);
	CHECK_EQ(tdmi_iommu_bind(&it, 2, S), 0);
	CHECK_EQ(tdmi_iommu_attach(dev, 2), 0);
	memset(stored(S, BASE), 1, PAGE);
	memset(stored(&space[1].s, BASE), 2, PAGE);
	for (u32 turn = 0; turn < 3; turn++) {
		d[0] = dma(1, false, BASE, 1, buf);
		d[1] = dma(1025, false, BASE, 1, buf + 1);
		d[2] = dma(2, false, BASE, 1, buf + 2);
		for (u32 i = 0; i < 3; i++)
			CHECK_EQ(tdmi_iommu_dma_submit(dev, &d[i]), 0);
		run_all(1000);
		CHECK(buf[0] == 1 && buf[1] == 2 && buf[2] == 1);
		if (turn == 0) {
			page_out(S, BASE); /* both PASIDs are told */
			memset(stored(S, BASE), 1, PAGE);
			CHECK_EQ(counted(TDM_IC_INVALIDATES), 2);
			CHECK(!tdmi_iommu_caches(&it, S, BASE));
			CHECK(tdmi_iommu_caches(&it, &space[1].s, BASE));
		}
	}
	CHECK_EQ(tdmi_iommu_unbind(&it, 2), 0);
	CHECK_EQ(tdmi_iommu_unbind(&it, 1025), 0);
	CHECK(tdmi_iommu_caches(&it, S, BASE));
	no_device(dev);
}

TEST(bad_configs)
{
	struct tdm_iommu_config c = iommu_config(), bad;
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI), no;
	struct tdm_iommu other;
	struct tdm_iommu_dev *dev;

	setup(&c);
#define BAD(field, value) \
	bad = c; \
	bad.field = value; \
	CHECK_EQ(tdmi_iommu_init(&other, &bad, &world_ops, &it, &phys, reader, &alloc), -EINVAL)
	BAD(queue, 3);
	BAD(queue, 0);
	BAD(requests, 48);
	BAD(split, 0);
	BAD(split, TDM_INV_SPLIT_MAX + 1);
	BAD(stalls, 0x10000);
	BAD(page_sizes, TDM_HUGE_SIZE);
	BAD(walk, 4);
	BAD(iotlb.level[0][0].sets, 3);
#define NO(field, value) \
	no = dc; \
	no.field = value; \
	CHECK_EQ(tdmi_iommu_dev_add(&it, &no, &dev), -EINVAL)
	NO(ats, false);
	NO(credit, 0);
	NO(fault, TDM_FAULTS_STALL);
	NO(fault, (enum tdm_fault_model)3);
	NO(page_sizes, 0);
	NO(unit, 32);
	NO(unit, 512);
	NO(unit, 96);
	NO(burst, 0);
	NO(burst, 100);
	NO(burst, 8192);
	NO(depth, 0);
	NO(depth, TDM_DMA_DEPTH_MAX + 1);
	NO(group, 0);
	NO(group, TDM_PRG_MAX + 1);
	NO(atc.level[0][0].sets, 5);
	teardown();
}

TEST(bad_transactions)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE, 0, buf);

	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), -EINVAL);
	d.len = TDM_DMA_MAX + 1;
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), -EINVAL);
	d = dma(1, false, TDM_VA_END - 1, 2, buf);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), -EINVAL);
	d = dma(1, false, ~(u64)0, 2, buf);
	CHECK_EQ(tdmi_iommu_dma_submit(dev, &d), -EINVAL);
	no_device(dev);
}

TEST(as_many_devices_as_there_may_be)
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_ABORT);
	struct tdm_iommu_dev *dev[TDM_IOMMU_DEVS_MAX], *more;

	setup(&c);
	for (u32 i = 0; i < TDM_IOMMU_DEVS_MAX; i++)
		dev[i] = device(&dc);
	CHECK_EQ(tdmi_iommu_dev_add(&it, &dc, &more), -ENOSPC);
	tdmi_iommu_dev_remove(dev[13]);
	dev[13] = device(&dc);
	CHECK_EQ(dev[13]->id, 13);
	for (u32 i = 0; i < TDM_IOMMU_DEVS_MAX; i++)
		tdmi_iommu_dev_remove(dev[i]);
	teardown();
}

/* ---- the rule about what runs inside of what ---------------------------------------------------------------------------------------------- */

static void unbinds(struct tdm_space *s, u64 va)
{
	(void)s, (void)va;
	tdmi_iommu_unbind(&it, 1);
}

static void steps(struct tdm_space *s, u64 va)
{
	(void)s, (void)va;
	tdmi_iommu_handler_step(&it);
}

static void fault_with(void (*fn)(struct tdm_space *s, u64 va))
{
	struct tdm_iommu_config c = iommu_config();
	struct tdm_iommu_dev_config dc = dev_config(TDM_FAULTS_PRI);
	struct tdm_iommu_dev *dev = one_device(&c, &dc);
	struct tdm_dma d = dma(1, false, BASE, 1, buf);

	in_fault = fn;
	must(dev, &d, 0);
}

TEST_DIES(no_teardown_from_a_fault, "in_op")
{
	fault_with(unbinds);
}

TEST_DIES(no_step_from_a_fault, "in_op")
{
	fault_with(steps);
}
