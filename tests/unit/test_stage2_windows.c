/* SPDX-License-Identifier: MIT */
/* What comes between the steps of a fill, or of lockless aging, comes between them: port/stage2.c is compiled with windows, in which this test does it. */
#include <pthread.h>
#include <time.h>
#include "stage2_world.h"

static struct guest g;
static void (*in_window)(void);  /* outside of a section */
static void (*in_section)(void);
static u32 skip;                 /* windows of the first kind before it */
static s64 fail_at = -1;         /* that allocation from now on */

void plat_window(void)
{
	void (**hook)(void) = tdmi_rcu_read_held(g.v.section) ? &in_section : &in_window, (*fn)(void) = *hook;

	if (!fn || (hook == &in_window && skip && skip--))
		return;
	*hook = NULL;
	fn();
}

void *__real_tdmi_alloc(struct tdm_alloc *a, size_t size);
void *__wrap_tdmi_alloc(struct tdm_alloc *a, size_t size);

void *__wrap_tdmi_alloc(struct tdm_alloc *a, size_t size)
{
	return fail_at >= 0 && fail_at-- == 0 ? NULL : __real_tdmi_alloc(a, size);
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

/* Between its reading of an entry and its taking A away the entry has become another page's. That page's use is said to be of the one asked for; the entry
 * stays as it is, but for A. */
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

/* ---- what must not come between: whoever tries waits */

static pthread_t thread[2];
static tdm_a32 called, returned;

static void *round_of_page(void *arg)
{
	struct tdm_inv_range round = TDM_INV_RANGE(guest_at(1), guest_at(2), TDM_INV_CLEAR);

	(void)arg;
	tdm_a32_add_acqrel(&called, 1);
	CHECK_EQ(tdmi_invalidate_start(&g.s->notifiers, &round), 0);
	tdm_a32_add_acqrel(&returned, 1);
	tdmi_invalidate_end(&g.s->notifiers, &round);
	return NULL;
}

/* Begin a round, and give it time to do what it must not do yet. */
static void begin_round(u32 i)
{
	const struct timespec while_ns = { .tv_nsec = 50000000 };

	CHECK_EQ(pthread_create(&thread[i], NULL, round_of_page, NULL), 0);
	while (tdm_a32_ld_acquire(&called) != i + 1)
		plat_yield();
	nanosleep(&while_ns, NULL);
	CHECK_EQ(tdm_a32_ld_acquire(&returned), 0);
}

static void end_rounds(u32 n)
{
	for (u32 i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	CHECK_EQ(tdm_a32_ld_acquire(&returned), n);
	CHECK_EQ(tdmi_stage2_entry(&g.st, PAGE).v, 0);
}

static void one_round(void)
{
	begin_round(0);
}

/* The lock is held, and the sequence number has been compared: the entry is put where the round finds it. */
TEST(a_round_waits_for_a_fill)
{
	for (u32 i = 0; i < 2; i++) {
		struct tdm_stage2_config config = { .fill_read = i };

		guest_init(&g, 512, 8, &config);
		world_write(&g.t, 0, g.s, guest_at(1), 42);
		tdm_a32_st_relaxed(&called, 0);
		tdm_a32_st_relaxed(&returned, 0);
		skip = 1;
		in_window = one_round;
		/* The entry may have gone again by the time that it is looked for. */
		CHECK_EQ(guest_read(&g, PAGE), 42);
		CHECK(!in_window);
		pthread_join(thread[0], NULL);
		CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_CLEARED), 1);
		guest_end(&g);
	}
}

static void two_rounds(void)
{
	begin_round(0);
	begin_round(1);
}

/* A vCPU uses the page: the round that takes its entry out waits, and so does the one that finds none any more. */
TEST(rounds_wait_for_who_uses_the_page)
{
	struct tdm_stage2_config config = { 0 };

	guest_init(&g, 512, 8, &config);
	guest_write(&g, PAGE, 1);
	in_section = two_rounds;
	CHECK_EQ(guest_read(&g, PAGE), 1);
	CHECK(!in_section);
	end_rounds(2);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_CLEARED), 1);
	guest_end(&g);
}

/* ---- no memory */

TEST(without_memory_nothing_has_happened)
{
	struct tdm_stage2_config config = { 0 };
	struct tdm_stage2 other;
	u64 x = 5;
	int r = -ENOMEM;
	s64 n;

	guest_init(&g, 512, 8, &config);
	for (n = 0; r; n++) {
		fail_at = n;
		r = tdmi_stage2_init(&other, g.s, guest_at(0), 4 * PAGE, &config);
		CHECK(r == 0 || r == -ENOMEM);
	}
	CHECK(n > 2);
	fail_at = -1;
	tdmi_stage2_destroy(&other);
	r = -ENOMEM;
	for (n = 0; r; n++) {
		fail_at = n;
		r = tdmi_vcpu_access(&g.v, PAGE, &x, sizeof(x), true);
		CHECK(r == 0 || r == -ENOMEM);
	}
	CHECK(n > 2);
	fail_at = -1;
	CHECK_EQ(world_read(&g.t, 0, g.s, guest_at(1)), 5);
	guest_end(&g);
}
