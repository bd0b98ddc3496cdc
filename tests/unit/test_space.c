/* SPDX-License-Identifier: MIT */
/* Address spaces that hardware walks (mm/space.h): each mechanism by itself. */
#include "space_world.h"

static struct world t;

static u64 at(u32 page)
{
	return WORLD_BASE + page * PAGE;
}

static struct tdm_pte entry(struct tdm_space *s, u64 va)
{
	struct tdm_pte pte;
	u32 i;

	tdmi_rcu_read_lock(t.reader);
	(void)tdmi_pt_walk(&s->pgt, va, &i, &pte);
	tdmi_rcu_read_unlock(t.reader);
	return pte;
}

static u64 counted(enum tdm_space_count c)
{
	return tdm_world_counted(&t.w, c);
}

static struct tdm_space *begin(const char *tier, u32 pages)
{
	struct tdm_space *s;

	world_init(&t, 2048, 512, tier);
	s = world_space(&t);
	CHECK_EQ(tdmi_mmap(s, t.reader, at(0), pages * PAGE, RW), 0);
	return s;
}

static void end(struct tdm_space *s)
{
	tdmi_space_destroy(s, t.reader);
	world_end(&t);
}

TEST(memory_begins_as_zeros_that_take_no_page)
{
	struct tdm_space *s = begin(NULL, 64);
	u64 before = tdmi_phys_used(&t.w.phys, t.w.ram);

	for (u32 i = 0; i < 64; i++)
		CHECK_EQ(world_read(&t, 0, s, at(i)), 0);
	CHECK_EQ(tdmi_phys_used(&t.w.phys, t.w.ram), before);
	/* The other CPUs have zeros in their TLBs: a write must reach them. */
	CHECK_EQ(world_read(&t, 1, s, at(3)), 0);
	world_write(&t, 0, s, at(3), 7);
	CHECK_EQ(world_read(&t, 1, s, at(3)), 7);
	CHECK_EQ(tdmi_phys_used(&t.w.phys, t.w.ram), before + 1);
	end(s);
}

static u32 rounds, tellings;

static int round_starts(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	(void)n, (void)range;
	rounds++;
	return 0;
}

static void told(struct tdm_notifier *n, u64 start, u64 stop)
{
	(void)n, (void)start, (void)stop;
	tellings++;
}

TEST(unmapped_memory_is_gone_for_every_cpu)
{
	struct tdm_space *s = begin(NULL, 64);
	int err;

	for (u32 c = 0; c < WORLD_CPUS; c++)
		world_write(&t, c, s, at(5), c);
	CHECK_EQ(tdmi_munmap(s, t.reader, at(5), PAGE), 0);
	for (u32 c = 0; c < WORLD_CPUS; c++) {
		CHECK(!world_access(&t, c, s, at(5), false, &err));
		CHECK_EQ(err, -EFAULT);
	}
	CHECK_EQ(tdmi_mmap(s, t.reader, at(5), PAGE, RW), 0);
	CHECK_EQ(world_read(&t, 2, s, at(5)), 0);
	end(s);
}

/* Who has a table of its own hears of rounds, and not of each entry: nothing was sent to it. */
TEST(whoever_shares_the_table_is_told_of_entries)
{
	static const struct tdm_notifier_ops own_table = { .invalidate_start = round_starts }, shares = { .invalidate = told };
	struct tdm_notifier a = { .name = "own", .ops = &own_table }, b = { .name = "shares", .ops = &shares };
	struct tdm_space *s = begin("lz4", 64);
	u32 sent;

	rounds = tellings = 0;
	CHECK_EQ(tdmi_notifier_register(&s->notifiers, &a), 0);
	t.w.policy = (struct tdm_tlb_policy){ .batch = true, .batch_secondary = true };
	for (u32 i = 0; i < 8; i++)
		world_write(&t, 0, s, at(i), i);
	CHECK_EQ(tdmi_munmap(s, t.reader, at(0), PAGE), 0);
	while (counted(TDM_SC_SWAPPED_OUT) < 3)
		(void)tdmi_vmscan(&t.w, t.reader, 8, 8);
	CHECK(rounds > 0 && tellings == 0);
	CHECK(counted(TDM_SC_SECONDARY) == 0 && counted(TDM_SC_SECONDARY_DEFERRED) == 0);
	CHECK_EQ(tdmi_notifier_register(&s->notifiers, &b), 0);
	for (u32 i = 1; i < 8; i++)
		world_write(&t, 0, s, at(i), i);
	CHECK_EQ(tdmi_munmap(s, t.reader, at(1), PAGE), 0);
	sent = tellings;
	CHECK(sent > 0 && counted(TDM_SC_SECONDARY) == sent);
	tellings = 0;
	for (u64 until = counted(TDM_SC_SWAPPED_OUT) + 3; counted(TDM_SC_SWAPPED_OUT) < until;)
		(void)tdmi_vmscan(&t.w, t.reader, 8, 8);
	CHECK(tellings > 0 && counted(TDM_SC_SECONDARY) == sent + tellings && counted(TDM_SC_SECONDARY_DEFERRED) > 0);
	tdmi_notifier_unregister(&s->notifiers, &b);
	tellings = 0;
	CHECK_EQ(tdmi_munmap(s, t.reader, at(2), PAGE), 0);
	CHECK_EQ(tellings, 0);
	tdmi_notifier_unregister(&s->notifiers, &a);
	end(s);
}

/* ---- what comes before a flush */

static void (*before_flush)(void);
static struct tdm_space *of;

static void late_flush(void *arg, struct tdm_space *s, u64 start, u64 stop, u32 shift)
{
	void (*fn)(void) = before_flush;

	before_flush = NULL;
	if (fn)
		fn();
	world_flush(arg, s, start, stop, shift);
}

static const struct tdm_tlb_ops late_tlb = { .flush = late_flush };

static bool remembered(u32 page)
{
	for (u32 c = 0; c < WORLD_CPUS; c++)
		if (t.tlb[c][of->id][page].v)
			return true;
	return false;
}

static void evict_it(void)
{
	while (counted(TDM_SC_SWAPPED_OUT) == 0)
		(void)tdmi_vmscan(&t.w, t.reader, 8, 8);
	CHECK(!remembered(0));
}

static void move_it(void)
{
	CHECK_EQ(tdmi_migrate_page(of, t.reader, at(0), t.coherent), 0);
	CHECK(!remembered(0));
}

/* The right has gone, and the flush has not come yet: then the page must not go, or be copied, without one. */
static void protected_meanwhile(void (*fn)(void))
{
	int err;

	of = begin("lz4", 1);
	t.w.tlb = &late_tlb;
	for (u32 c = 0; c < WORLD_CPUS; c++)
		world_write(&t, c, of, at(0), 5);
	before_flush = fn;
	CHECK_EQ(tdmi_mprotect(of, t.reader, at(0), PAGE, 0), 0);
	CHECK(!before_flush);
	CHECK(!world_access(&t, 0, of, at(0), false, &err));
	CHECK_EQ(err, -EFAULT);
	CHECK_EQ(tdmi_mprotect(of, t.reader, at(0), PAGE, RW), 0);
	CHECK_EQ(world_read(&t, 0, of, at(0)), 5);
	end(of);
}

TEST(reclaim_waits_for_no_flush_that_mprotect_owes)
{
	protected_meanwhile(evict_it);
}

TEST(nor_does_migration)
{
	protected_meanwhile(move_it);
}

static u64 rights_to_be;

static void protect_it(void)
{
	CHECK(tdm_pte_is(entry(of, at(0)), TDM_PTE_T_MIGRATION));
	CHECK_EQ(tdmi_mprotect(of, t.reader, at(0), PAGE, 0), 0);
	if (rights_to_be)
		CHECK_EQ(tdmi_mprotect(of, t.reader, at(0), PAGE, rights_to_be), 0);
}

/* While a page is moved its rights go, and perhaps come back. */
static void moved_meanwhile(u64 rights)
{
	int err;

	of = begin("lz4", 1);
	t.w.tlb = &late_tlb;
	world_write(&t, 0, of, at(0), 5);
	rights_to_be = rights;
	before_flush = protect_it;
	CHECK_EQ(tdmi_migrate_page(of, t.reader, at(0), t.coherent), 0);
	CHECK(!before_flush);
	if (rights) {
		CHECK_EQ(world_read(&t, 1, of, at(0)), 5);
		if (rights & TDM_V_WRITE)
			world_write(&t, 1, of, at(0), 6);
		else
			CHECK(!world_access(&t, 1, of, at(0), true, &err));
	} else {
		for (u32 c = 0; c < WORLD_CPUS; c++)
			CHECK(!world_access(&t, c, of, at(0), false, &err) && err == -EFAULT);
		CHECK_EQ(tdmi_mprotect(of, t.reader, at(0), PAGE, RW), 0);
		CHECK_EQ(world_read(&t, 1, of, at(0)), 5);
	}
	end(of);
}

TEST(rights_that_go_while_a_page_moves_are_gone)
{
	moved_meanwhile(0);
	moved_meanwhile(TDM_V_READ);
	moved_meanwhile(RW);
}

/* A mapping without rights keeps no page where it is. */
TEST(what_may_not_be_read_moves_too)
{
	struct tdm_space *s = begin("lz4", 1), *child;
	struct tdm_shm *shm;
	struct tdm_pfn pfn;
	u32 done;
	int err;

	world_write(&t, 0, s, at(0), 7);
	CHECK_EQ(tdmi_mprotect(s, t.reader, at(0), PAGE, 0), 0);
	CHECK_EQ(tdmi_migrate_page(s, t.reader, at(0), t.coherent), 0);
	CHECK(!world_access(&t, 0, s, at(0), false, &err));
	CHECK_EQ(tdmi_mprotect(s, t.reader, at(0), PAGE, RW), 0);
	CHECK_EQ(world_read(&t, 0, s, at(0)), 7);
	CHECK_EQ(tdm_pfn_range(&t.w.phys, tdm_pte_pfn(entry(s, at(0))))->kind, TDM_MEM_COHERENT);
	/* One process has no right to shared memory, and the other pins it for long: it leaves the device. */
	CHECK_EQ(tdmi_shm_create(&t.w, t.reader, 1, &shm), 0);
	CHECK_EQ(tdmi_shm_mmap(s, t.reader, at(9), PAGE, RW, shm, 0), 0);
	tdmi_shm_put(shm, t.reader);
	CHECK_EQ(tdmi_space_fork(s, t.reader, &child), 0);
	world_write(&t, 0, s, at(9), 8);
	CHECK_EQ(world_read(&t, 1, child, at(9)), 8);
	CHECK_EQ(tdmi_migrate_page(s, t.reader, at(9), t.coherent), 0);
	CHECK_EQ(tdmi_mprotect(child, t.reader, at(9), PAGE, 0), 0);
	CHECK_EQ(tdmi_pin_pages(s, t.reader, at(9), 1, TDM_PIN_WRITE | TDM_PIN_LONGTERM, &pfn, &done), 0);
	CHECK_EQ(tdm_pfn_range(&t.w.phys, pfn)->kind, TDM_MEM_RAM);
	tdmi_unpin_pages(&t.w, &pfn, 1, false);
	CHECK_EQ(tdmi_mprotect(child, t.reader, at(9), PAGE, RW), 0);
	CHECK_EQ(world_read(&t, 1, child, at(9)), 8);
	tdmi_space_destroy(child, t.reader);
	end(s);
}

TEST(bad_ranges_are_refused)
{
	struct tdm_space *s = begin(NULL, 4);

	CHECK_EQ(tdmi_mmap(s, t.reader, at(0) + 1, PAGE, RW), -EINVAL);
	CHECK_EQ(tdmi_mmap(s, t.reader, at(0), 0, RW), -EINVAL);
	CHECK_EQ(tdmi_mmap(s, t.reader, 0, PAGE, RW), -EINVAL);
	CHECK_EQ(tdmi_mmap(s, t.reader, TDM_VA_END - PAGE, 2 * PAGE, RW), -EINVAL);
	CHECK_EQ(tdmi_munmap(s, t.reader, at(0), ~(u64)0 - PAGE + 1), -EINVAL);
	CHECK_EQ(tdmi_mprotect(s, t.reader, at(2), 4 * PAGE, TDM_V_READ), -ENOMEM);
	CHECK_EQ(tdmi_mremap(s, t.reader, at(0), at(1), 2 * PAGE), -EINVAL);
	CHECK_EQ(tdmi_mremap(s, t.reader, at(2), at(100), 4 * PAGE), -EFAULT);
	CHECK_EQ(tdmi_space_fault(s, t.reader, at(9), TDM_ACCESS_READ), -EFAULT);
	CHECK_EQ(tdmi_space_fault(s, t.reader, 5, TDM_ACCESS_READ), -EFAULT);
	end(s);
}

TEST(rights_are_taken_from_every_cpu)
{
	struct tdm_space *s = begin(NULL, 8);
	int err;

	for (u32 c = 0; c < WORLD_CPUS; c++)
		world_write(&t, c, s, at(1), 11);
	CHECK_EQ(tdmi_mprotect(s, t.reader, at(1), PAGE, TDM_V_READ), 0);
	for (u32 c = 0; c < WORLD_CPUS; c++) {
		CHECK_EQ(world_read(&t, c, s, at(1)), 11);
		CHECK(!world_access(&t, c, s, at(1), true, &err));
		CHECK_EQ(err, -EFAULT);
	}
	CHECK_EQ(tdmi_mprotect(s, t.reader, at(0), 3 * PAGE, 0), 0);
	CHECK(!world_access(&t, 1, s, at(1), false, &err));
	CHECK_EQ(tdmi_mprotect(s, t.reader, at(0), 3 * PAGE, RW), 0);
	CHECK_EQ(world_read(&t, 1, s, at(1)), 11);
	world_write(&t, 2, s, at(1), 12);
	CHECK_EQ(world_read(&t, 0, s, at(1)), 12);
	end(s);
}

TEST(a_fork_copies_what_is_written)
{
	struct tdm_space *s = begin(NULL, 32), *child;
	u64 before;

	for (u32 i = 0; i < 16; i++)
		world_write(&t, i % 3, s, at(i), 100 + i);
	before = tdmi_phys_used(&t.w.phys, t.w.ram);
	CHECK_EQ(tdmi_space_fork(s, t.reader, &child), 0);
	CHECK_EQ(tdmi_phys_used(&t.w.phys, t.w.ram), before);
	/* Every CPU had the right to write. */
	for (u32 c = 0; c < WORLD_CPUS; c++)
		world_write(&t, c, s, at(c), 200 + c);
	for (u32 i = 0; i < 16; i++) {
		CHECK_EQ(world_read(&t, 1, child, at(i)), 100 + i);
		CHECK_EQ(world_read(&t, 2, s, at(i)), i < 3 ? 200 + i : 100 + i);
	}
	CHECK_EQ(counted(TDM_SC_COPIED), 3);
	/* The child alone has these now: in place. */
	world_write(&t, 0, child, at(1), 5);
	CHECK_EQ(counted(TDM_SC_COPIED), 3);
	CHECK_EQ(world_read(&t, 2, s, at(1)), 201);
	tdmi_space_destroy(child, t.reader);
	world_write(&t, 0, s, at(9), 5);
	CHECK_EQ(counted(TDM_SC_COPIED), 3);
	end(s);
}

TEST(every_mapping_of_a_page_is_found)
{
	struct tdm_space *s = begin("lz4", 4), *child[12];
	struct tdm_pfn pfn;

	world_write(&t, 0, s, at(0), 77);
	pfn = tdm_pte_pfn(entry(s, at(0)));
	for (u32 i = 0; i < 12; i++) {
		CHECK_EQ(tdmi_space_fork(s, t.reader, &child[i]), 0);
		CHECK_EQ(tdmi_rmap_count(&t.w, pfn), i + 2);
	}
	CHECK_EQ(tdmi_mremap(child[3], t.reader, at(0), at(200), PAGE), 0);
	for (u32 i = 0; i < 12; i += 2)
		tdmi_space_destroy(child[i], t.reader);
	CHECK_EQ(tdmi_rmap_count(&t.w, pfn), 7);
	/* One page out, seven entries name its slot. */
	CHECK(tdmi_vmscan(&t.w, t.reader, 1, 100) == 1);
	CHECK(tdm_pte_is(entry(child[3], at(200)), TDM_PTE_T_SWAP));
	CHECK(tdm_pte_is(entry(s, at(0)), TDM_PTE_T_SWAP));
	CHECK_EQ(world_read(&t, 1, child[3], at(200)), 77);
	CHECK_EQ(world_read(&t, 1, child[5], at(0)), 77);
	/* Shared again, by one page. */
	CHECK_EQ(entry(child[5], at(0)).v >> 12, entry(child[3], at(200)).v >> 12);
	world_write(&t, 0, child[5], at(0), 78);
	CHECK_EQ(world_read(&t, 2, child[3], at(200)), 77);
	for (u32 i = 1; i < 12; i += 2)
		tdmi_space_destroy(child[i], t.reader);
	CHECK_EQ(world_read(&t, 2, s, at(0)), 77);
	end(s);
}

TEST(a_pinned_page_stays_the_parents)
{
	struct tdm_space *s = begin("lz4", 8), *child;
	struct tdm_pfn pfn[2];
	u32 done;

	world_write(&t, 0, s, at(0), 1);
	CHECK_EQ(tdmi_pin_pages(s, t.reader, at(0), 2, TDM_PIN_WRITE, pfn, &done), 0);
	CHECK_EQ(done, 2);
	CHECK_EQ(tdmi_space_fork(s, t.reader, &child), 0);
	CHECK_EQ(counted(TDM_SC_FORK_COPIED), 2);
	/* A device writes by the pin: the parent sees it, written to or not, the child does not. */
	*tdm_pfn_bytes(&t.w.phys, pfn[0]) = 9;
	world_write(&t, 1, s, at(0) + 8, 5);
	CHECK_EQ(world_read(&t, 1, s, at(0)) & 0xff, 9);
	CHECK_EQ(world_read(&t, 1, child, at(0)), 1);
	CHECK_EQ(tdmi_vmscan(&t.w, t.reader, 10, 100), 2); /* the child's, which has copies of both */
	*tdm_pfn_bytes(&t.w.phys, pfn[1]) = 3;
	CHECK_EQ(world_read(&t, 2, s, at(1)), 3);
	CHECK_EQ(tdmi_migrate_page(s, t.reader, at(0), t.coherent), -EBUSY);
	tdmi_unpin_pages(&t.w, pfn, 2, true);
	CHECK_EQ(tdmi_migrate_page(s, t.reader, at(0), t.coherent), 0);
	CHECK_EQ(world_read(&t, 1, s, at(0)) & 0xff, 9);
	tdmi_space_destroy(child, t.reader);
	end(s);
}

TEST(a_pin_for_reading_unshares)
{
	struct tdm_space *s = begin(NULL, 8), *child;
	struct tdm_pfn pfn;
	u32 done;

	world_write(&t, 0, s, at(0), 1);
	CHECK_EQ(tdmi_space_fork(s, t.reader, &child), 0);
	CHECK_EQ(tdmi_pin_fast(child, t.reader, at(0), 1, 0, &pfn), 0);
	CHECK_EQ(tdmi_pin_pages(child, t.reader, at(0), 1, 0, &pfn, &done), 0);
	CHECK_EQ(counted(TDM_SC_UNSHARED), 1);
	/* What the child writes from now on is seen by the pin: no copy. */
	world_write(&t, 0, child, at(0), 2);
	CHECK_EQ(*tdm_pfn_bytes(&t.w.phys, pfn), 2);
	CHECK_EQ(world_read(&t, 1, s, at(0)), 1);
	tdmi_unpin_pages(&t.w, &pfn, 1, false);
	/* Zeros are pinned by having a page. */
	CHECK_EQ(world_read(&t, 0, child, at(5)), 0);
	CHECK_EQ(tdmi_pin_pages(child, t.reader, at(5), 1, 0, &pfn, &done), 0);
	CHECK(pfn.v != t.w.zero.v);
	world_write(&t, 1, child, at(5), 4);
	CHECK_EQ(*tdm_pfn_bytes(&t.w.phys, pfn), 4);
	tdmi_unpin_pages(&t.w, &pfn, 1, false);
	tdmi_space_destroy(child, t.reader);
	end(s);
}

TEST(pins_for_long_are_not_in_a_devices_memory)
{
	struct tdm_space *s = begin(NULL, 8);
	struct tdm_pfn pfn;
	u32 done;

	world_write(&t, 0, s, at(0), 42);
	CHECK_EQ(tdmi_migrate_page(s, t.reader, at(0), t.coherent), 0);
	CHECK_EQ(tdmi_phys_used(&t.w.phys, t.coherent), 1);
	CHECK_EQ(tdmi_pin_pages(s, t.reader, at(0), 1, TDM_PIN_WRITE, &pfn, &done), 0);
	CHECK(tdm_pfn_range(&t.w.phys, pfn)->kind == TDM_MEM_COHERENT);
	CHECK_EQ(tdmi_migrate_page(s, t.reader, at(0), t.w.ram), -EBUSY);
	tdmi_unpin_pages(&t.w, &pfn, 1, false);
	CHECK_EQ(tdmi_pin_pages(s, t.reader, at(0), 1, TDM_PIN_WRITE | TDM_PIN_LONGTERM, &pfn, &done), 0);
	CHECK(tdm_pfn_range(&t.w.phys, pfn)->kind == TDM_MEM_RAM);
	CHECK_EQ(tdmi_phys_used(&t.w.phys, t.coherent), 0);
	CHECK_EQ(world_read(&t, 2, s, at(0)), 42);
	tdmi_unpin_pages(&t.w, &pfn, 1, false);
	end(s);
}

TEST(the_first_writer_of_a_devices_page_gets_ram)
{
	struct tdm_space *s = begin(NULL, 8), *child;

	world_write(&t, 0, s, at(0), 42);
	CHECK_EQ(tdmi_migrate_page(s, t.reader, at(0), t.coherent), 0);
	CHECK_EQ(tdmi_space_fork(s, t.reader, &child), 0);
	world_write(&t, 0, s, at(0), 43);
	CHECK(tdm_pfn_range(&t.w.phys, tdm_pte_pfn(entry(s, at(0))))->kind == TDM_MEM_RAM);
	CHECK(tdm_pfn_range(&t.w.phys, tdm_pte_pfn(entry(child, at(0))))->kind == TDM_MEM_COHERENT);
	CHECK_EQ(world_read(&t, 1, child, at(0)), 42);
	CHECK_EQ(counted(TDM_SC_COHERENT_COPIED), 1);
	tdmi_space_destroy(child, t.reader);
	end(s);
}

TEST(a_dirty_page_is_flushed_before_it_is_written_out)
{
	struct tdm_space *s = begin("lz4", 64);

	for (u32 i = 0; i < 32; i++)
		world_write(&t, 1, s, at(i), i + 1);
	/* Nothing was used since: the bits are cleared once, and the TLBs, which are not flushed for that, go on being written by. */
	while (counted(TDM_SC_SWAPPED_OUT) < 32) {
		(void)tdmi_vmscan(&t.w, t.reader, 32, 32);
		if (counted(TDM_SC_SWAPPED_OUT) < 32)
			for (u32 i = 0; i < 32; i++)
				if (tdm_pte_present(t.tlb[1][s->id][i]))
					world_write(&t, 1, s, at(i), i + 100);
	}
	CHECK(counted(TDM_SC_FORCED) > 0);
	for (u32 i = 0; i < 32; i++) {
		u64 x = world_read(&t, 0, s, at(i));

		CHECK(x == i + 1 || x == i + 100);
	}
	end(s);
}

TEST(lazily_freed_pages_go_unless_they_are_written)
{
	struct tdm_space *s = begin("lz4", 64);

	for (u32 i = 0; i < 16; i++)
		world_write(&t, 1, s, at(i), i + 1);
	CHECK_EQ(tdmi_madvise_free(s, t.reader, at(0), 16 * PAGE), 0);
	world_write(&t, 1, s, at(3), 333);
	CHECK_EQ(world_read(&t, 2, s, at(4)), 5); /* as long as nobody wants the memory */
	for (u32 k = 0; k < 8; k++)
		(void)tdmi_vmscan(&t.w, t.reader, 64, 64);
	CHECK_EQ(counted(TDM_SC_LAZY_FREED), 15);
	CHECK_EQ(counted(TDM_SC_LAZY_SAVED), 1);
	for (u32 i = 0; i < 16; i++)
		CHECK_EQ(world_read(&t, 0, s, at(i)), i == 3 ? 333 : 0);
	end(s);
}

TEST(soft_dirty_tells_what_was_written_since)
{
	struct tdm_space *s = begin(NULL, 16);

	for (u32 i = 0; i < 8; i++)
		world_write(&t, i % 3, s, at(i), i);
	CHECK_EQ(tdmi_clear_soft_dirty(s, t.reader, at(0), 16 * PAGE), 0);
	for (u32 i = 0; i < 8; i++)
		CHECK(!(entry(s, at(i)).v & TDM_PTE_SOFT_DIRTY));
	world_write(&t, 0, s, at(2), 9);
	CHECK_EQ(world_read(&t, 0, s, at(3)), 3);
	for (u32 i = 0; i < 8; i++)
		CHECK_EQ(!!(entry(s, at(i)).v & TDM_PTE_SOFT_DIRTY), i == 2);
	CHECK_EQ(counted(TDM_SC_COPIED), 0);
	end(s);
}

TEST(memory_moves_to_another_address)
{
	struct tdm_space *s = begin("lz4", 64);

	for (u32 i = 0; i < 64; i++)
		world_write(&t, i % 3, s, at(i), i + 1);
	(void)tdmi_vmscan(&t.w, t.reader, 40, 40);
	(void)tdmi_vmscan(&t.w, t.reader, 20, 40);
	CHECK_EQ(tdmi_mremap(s, t.reader, at(8), at(300), 32 * PAGE), 0);
	for (u32 i = 0; i < 32; i++)
		CHECK_EQ(world_read(&t, i % 3, s, at(300 + i)), i + 9);
	for (u32 i = 0; i < 8; i++)
		CHECK_EQ(world_read(&t, i % 3, s, at(i)), i + 1);
	end(s);
}

TEST(memory_is_found_for_those_who_want_more_than_there_is)
{
	struct tdm_space *s;

	world_init(&t, 512, 0, "lz4");
	s = world_space(&t);
	CHECK_EQ(tdmi_mmap(s, t.reader, at(0), 512 * PAGE, RW), 0);
	for (u32 k = 0; k < 3; k++)
		for (u32 i = 0; i < 512; i++) {
			if (k)
				CHECK_EQ(world_read(&t, 0, s, at(i)), i + k - 1);
			world_write(&t, 1, s, at(i), i + k);
		}
	CHECK(counted(TDM_SC_SWAPPED_OUT) > 0);
	end(s);
}

TEST(without_tiers_there_is_an_end)
{
	struct tdm_space *s;
	u32 i = 0;
	int err = 0;

	world_init(&t, 512, 0, NULL);
	s = world_space(&t);
	CHECK_EQ(tdmi_mmap(s, t.reader, at(0), 512 * PAGE, RW), 0);
	while (i < 512 && world_access(&t, 0, s, at(i), true, &err))
		i++;
	CHECK_EQ(err, -ENOMEM);
	CHECK_EQ(i, 511); /* and the page of zeros */
	CHECK_EQ(tdmi_madvise_dontneed(s, t.reader, at(0), PAGE), 0);
	world_write(&t, 0, s, at(i), 1);
	end(s);
}

TEST(without_hardware_bits_the_engine_sets_them)
{
	struct tdm_space *s = begin("lz4", 8);

	t.hw = 0;
	world_write(&t, 0, s, at(0), 1);
	CHECK_EQ(tdmi_clear_soft_dirty(s, t.reader, at(0), PAGE), 0);
	CHECK_EQ(world_read(&t, 0, s, at(0)), 1);
	world_write(&t, 1, s, at(0), 2);
	CHECK(entry(s, at(0)).v & TDM_PTE_DIRTY);
	(void)tdmi_vmscan(&t.w, t.reader, 1, 1); /* looks, and clears A */
	t.tlb[0][s->id][0].v = 0;
	CHECK_EQ(world_read(&t, 0, s, at(0)), 2);
	CHECK(counted(TDM_SC_AF_FAULTS) > 0);
	end(s);
}

TEST(shared_memory_is_one_memory)
{
	struct tdm_space *s = begin("lz4", 8), *child;
	struct tdm_shm *shm;
	int err;

	CHECK_EQ(tdmi_shm_create(&t.w, t.reader, 16, &shm), 0);
	CHECK_EQ(tdmi_shm_mmap(s, t.reader, at(100), 17 * PAGE, RW, shm, 0), -EINVAL);
	CHECK_EQ(tdmi_shm_mmap(s, t.reader, at(100), 16 * PAGE, RW, shm, 0), 0);
	CHECK_EQ(tdmi_shm_mmap(s, t.reader, at(200), 8 * PAGE, TDM_V_READ, shm, 4 * PAGE), 0);
	tdmi_shm_put(shm, t.reader);
	CHECK_EQ(world_read(&t, 0, s, at(104)), 0);
	world_write(&t, 0, s, at(104), 5);
	CHECK_EQ(world_read(&t, 1, s, at(200)), 5);
	CHECK(!world_access(&t, 1, s, at(200), true, &err));
	CHECK_EQ(tdmi_space_fork(s, t.reader, &child), 0);
	world_write(&t, 2, child, at(105), 6);
	CHECK_EQ(world_read(&t, 0, s, at(201)), 6);
	world_write(&t, 0, s, at(105), 7);
	CHECK_EQ(world_read(&t, 1, child, at(201)), 7);
	CHECK_EQ(counted(TDM_SC_COPIED), 0);
	/* Out, and back by whoever asks first. */
	while (counted(TDM_SC_SWAPPED_OUT) < 2)
		(void)tdmi_vmscan(&t.w, t.reader, 8, 8);
	world_write(&t, 1, child, at(105), 8);
	CHECK_EQ(world_read(&t, 2, s, at(201)), 8);
	CHECK_EQ(world_read(&t, 2, s, at(200)), 5);
	/* What is mapped while the object has it no more is the object's all the same. */
	CHECK_EQ(tdmi_munmap(s, t.reader, at(100), 16 * PAGE), 0);
	world_write(&t, 0, child, at(104), 9);
	CHECK_EQ(world_read(&t, 1, s, at(200)), 9);
	tdmi_space_destroy(child, t.reader);
	CHECK_EQ(world_read(&t, 1, s, at(201)), 8);
	end(s);
}
