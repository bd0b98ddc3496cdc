/* SPDX-License-Identifier: MIT */
/* What comes between the steps of a fill, or of lockless aging, comes between them: port/stage2.c is compiled with windows, in which this test does it. */
#include "stage2_world.h"

static struct guest g;
static void (*in_window)(void);

void plat_window(void)
{
	void (*fn)(void) = in_window;

	/* Within a section the round would wait for ourselves. */
	if (!fn || tdmi_rcu_read_held(g.v.section))
		return;
	in_window = NULL;
	fn();
}

static void migrate(void)
{
	CHECK_EQ(tdmi_migrate_page(g.s, g.t.reader, guest_at(1), g.t.coherent), 0);
}

static void unmap(void)
{
	CHECK_EQ(tdmi_munmap(g.s, g.t.reader, guest_at(1), PAGE), 0);
}

static void elsewhere(void)
{
	CHECK_EQ(tdmi_munmap(g.s, g.t.reader, guest_at(9), PAGE), 0);
}

/* The space's entry has been read, and is replaced before the table is filled. */
TEST(a_fill_that_a_round_overtakes_is_dropped)
{
	struct tdm_stage2_config config = { 0 };
	u64 x = 0;

	guest_init(&g, 512, 8, &config);
	world_write(&g.t, 0, g.s, guest_at(1), 42);
	in_window = migrate;
	CHECK_EQ(guest_read(&g, PAGE), 42);
	CHECK(!in_window);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_RETRIES), 1);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_FILLS), 1);
	CHECK_EQ(guest_check(&g.st, g.t.reader), 1);
	CHECK_EQ(tdm_pfn_range(&g.t.w.phys, tdm_pte_pfn(tdmi_stage2_entry(&g.st, PAGE)))->kind, TDM_MEM_COHERENT);
	/* A round that the guest's memory is not part of delays nothing. */
	CHECK_EQ(tdmi_madvise_dontneed(g.s, g.t.reader, guest_at(1), PAGE), 0);
	in_window = elsewhere;
	CHECK_EQ(guest_read(&g, PAGE), 0);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_RETRIES), 1);
	/* And one that takes all away ends it. */
	CHECK_EQ(tdmi_madvise_dontneed(g.s, g.t.reader, guest_at(1), PAGE), 0);
	in_window = unmap;
	CHECK_EQ(tdmi_vcpu_access(&g.v, PAGE, &x, sizeof(x), true), -EFAULT);
	CHECK_EQ(tdmi_stage2_entry(&g.st, PAGE).v, 0);
	guest_end(&g);
}

/* Not by the notifiers: a thread that is within a hook begins no round, which another one would. */
static bool ask(void)
{
	return g.st.young.ops->clear_young(&g.st.young, guest_at(1), guest_at(2));
}

static void move_and_use(void)
{
	migrate();
	guest_write(&g, PAGE, 8);
}

/* Between its reading of an entry and its taking A away the entry has become another page's. That page's use is said to be of the one asked for; the entry stays as it is, but for A. */
TEST(lockless_aging_may_take_anothers_use_and_nothing_else)
{
	struct tdm_stage2_config config = { 0 };
	struct tdm_pte e;

	guest_init(&g, 512, 8, &config);
	guest_write(&g, PAGE, 7);
	in_window = move_and_use;
	CHECK(ask());
	CHECK(!in_window);
	e = tdmi_stage2_entry(&g.st, PAGE);
	CHECK(tdm_pte_present(e) && (e.v & TDM_PTE_WRITE) && !(e.v & TDM_PTE_ACCESSED));
	CHECK_EQ(guest_check(&g.st, g.t.reader), 1);
	CHECK_EQ(guest_read(&g, PAGE), 8);
	CHECK(ask());
	/* And of one that has gone nothing comes back. */
	guest_write(&g, PAGE, 9);
	in_window = unmap;
	CHECK(!ask());
	CHECK(!in_window);
	CHECK_EQ(tdmi_stage2_entry(&g.st, PAGE).v, 0);
	guest_end(&g);
}
