// SPDX-License-Identifier: MIT
/* test_range_fault.c - what is at a range: every state of an entry against every request, and what happens when it changes meanwhile. */
#include "mm/gup.h"
#include "mm/range_fault.h"
#include "device_world.h"
#include "plat/sim.h"

#define NPAGES 1024u
#define NFRAMES 2048u
#define DEV_FRAMES 512u
#define X 100u  /* the page that a test is about, in the first 2 MiB; its block is not otherwise used */
#define LEAF (512u + X) /* and in a leaf of 2 MiB */
#define FAULT TDM_RF_REQ_FAULT
#define WRITE (TDM_RF_REQ_FAULT | TDM_RF_REQ_WRITE)
#define ORDER_HUGE ((u64)TDM_HUGE_ORDER << TDM_RF_ORDER_SHIFT)
#define UNTOUCHED 0x5555u /* in the payload of an entry that nothing was written to */

static u8 memory[(size_t)128 << 20] __attribute__((aligned(TDM_HUGE_SIZE)));
static u64 out[NPAGES];
static struct tdm_interval_notifier sub;
static u32 rounds;

static bool on_round(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	rounds++;
	tdm_interval_set_seq(in, cur_seq);
	return true;
}

static const struct tdm_interval_notifier_ops sub_ops = { .invalidate = on_round };

static void begin(void)
{
	tdm_sim_init(memory, sizeof(memory));
	start_with(0, NPAGES, NFRAMES);
	device_start_one(&dev, DEV_FRAMES);
	device_start_one(&dev2, DEV_FRAMES);
	map(BASE, BASE + P(NPAGES));
	sub = (struct tdm_interval_notifier){ .name = "test", .ops = &sub_ops };
	rounds = 0;
	CHECK_EQ(tdmi_interval_notifier_insert(&mm.notifiers, &sub, BASE, BASE + P(NPAGES)), 0);
}

static void end(void)
{
	tdmi_interval_notifier_remove(&sub);
	device_finish_one(&dev);
	device_finish_one(&dev2);
	finish();
	CHECK_EQ(tdm_sim_locked(), 0);
	tdm_sim_init(NULL, 0);
}

static struct tdm_range_fault request(u32 a, u32 b, u64 flags)
{
	for (u32 i = 0; i < b - a; i++)
		out[i] = UNTOUCHED;
	return (struct tdm_range_fault){ .start = BASE + P(a), .end = BASE + P(b), .entry = out, .default_flags = flags, .owner = &dev };
}

static int look(u32 a, u32 b, u64 flags)
{
	struct tdm_range_fault rf = request(a, b, flags);
	int r;

	CHECK(tdmi_mm_enter(ctx));
	r = tdmi_range_fault(ctx, &rf);
	tdmi_mm_exit(ctx);
	return r;
}

static u64 system_page(u32 page)
{
	return TDM_RF_VALID | TDM_RF_WRITE | (BASE + P(page)) >> TDM_PAGE_SHIFT;
}

/* ---- every state, every request ------------------------------------------------------------------------------------------------ */

static void make_none(u32 page)
{
}

static void make_lent(u32 page)
{
	put(BASE + P(page), page);
}

static void make_home(u32 page)
{
	put(BASE + P(page), page);
	CHECK_EQ(home_pages(BASE + P(page), BASE + P(page + 1)), 1);
}

static void make_swap(u32 page)
{
	put(BASE + P(page), page);
	CHECK_EQ(out_pages(BASE + P(page), BASE + P(page + 1)), 1);
}

static void make_private(struct test_device *d, u32 page)
{
	u64 n;

	put(BASE + P(page), page);
	CHECK_EQ(tdmi_migrate_to_device(ctx, &d->pool, BASE + P(page), BASE + P(page + 1), &n), 0);
	CHECK_EQ(n, 1);
}

static void make_own(u32 page)
{
	make_private(&dev, page);
}

static void make_foreign(u32 page)
{
	make_private(&dev2, page);
}

static void make_exclusive(const struct test_device *d, u32 page)
{
	void *home;
	u64 n;

	put(BASE + P(page), page);
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE + P(page), BASE + P(page + 1), d, &home, &n), 0);
	CHECK_EQ(n, 1);
}

static void make_own_exclusive(u32 page)
{
	make_exclusive(&dev, page);
}

static void make_foreign_exclusive(u32 page)
{
	make_exclusive(&dev2, page);
}

static void make_poison(u32 page)
{
	u64 x;

	make_own(page);
	dev.dead = true;
	CHECK_EQ(tdmi_cpu_read(&cpu, ctx, BASE + P(page), &x, 8), -EIO);
	dev.dead = false;
}

/* The program has said that it drops the page; the kernel has not done it yet. */
static void make_removing(u32 page)
{
	put(BASE + P(page), page);
	plat_mutex_lock(&mm.event_lock);
	tdmi_zap(ctx, BASE + P(page), BASE + P(page + 1), TDM_ZAP_REMOVE);
	plat_mutex_unlock(&mm.event_lock);
}

static void make_removed(u32 page)
{
	make_removing(page);
	tdmi_cpu_drop(&cpu, BASE + P(page), BASE + P(page + 1));
}

static void make_leaf(u32 page)
{
	u64 va = TDM_ALIGN_DOWN(BASE + P(page), H);

	tdmi_cpu_preset(&cpu, va, TDM_HUGE_PAGES, 0, true);
	put(BASE + P(page), page);
	adopt(va, va + H);
}

static void make_leaf_home(u32 page)
{
	u64 va = TDM_ALIGN_DOWN(BASE + P(page), H);

	make_leaf(page);
	CHECK_EQ(home_pages(va, va + H), TDM_HUGE_PAGES);
}

/* A translation without a frame behind it: nothing in the engine makes one yet. */
static void set_special(u32 page)
{
	struct tdm_pt *pt;
	struct tdm_pte pte;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(&mm, BASE + P(page), &i, &pte);
	plat_mutex_lock(&pt->lock);
	tdm_pt_set(pt, i, (struct tdm_pte){ pte.v | TDM_PTE_SPECIAL });
	plat_mutex_unlock(&pt->lock);
	tdmi_rcu_read_unlock(ctx->rcu);
}

static void make_special(u32 page)
{
	make_lent(page);
	set_special(page);
}

static void make_special_leaf(u32 page)
{
	make_leaf(page);
	set_special(page);
}

static void make_hole(u32 page)
{
	tdmi_cpu_munmap(&cpu, ctx, BASE + P(page), BASE + P(page + 1));
}

/* A mapping that is not the engine's. */
static void make_unmanaged(u32 page)
{
	make_hole(page);
	*tdm_cpu_flags(&cpu, BASE + P(page)) = TDM_CPU_VALID;
}

static void make_unmanaged_there(u32 page)
{
	make_unmanaged(page);
	tdmi_cpu_preset(&cpu, BASE + P(page), 1, 3, false);
}

static void exclude(u32 page)
{
	plat_mutex_lock(&mm.event_lock);
	CHECK_EQ(tdmi_vma_insert(&mm, BASE + P(page), BASE + P(page + 1), TDM_VMA_EXCLUDED), 0);
	plat_mutex_unlock(&mm.event_lock);
}

static void make_excluded(u32 page)
{
	exclude(page);
}

static void make_excluded_there(u32 page)
{
	exclude(page);
	tdmi_cpu_preset(&cpu, BASE + P(page), 1, 3, false);
}

enum result { NOTHING = 1, SYSTEM, SYSTEM_LEAF, DEVICE, EXCLUSIVE, ERROR };

/* What comes out, or -errno, where the mapping may be written. */
struct expect {
	int look, fault, write;
};

static const struct {
	const char *name;
	void (*make)(u32 page);
	u32 page;
	struct expect expect;
} state[] = {
	{ "none", make_none, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "lent", make_lent, X, { SYSTEM, SYSTEM, SYSTEM } },
	{ "home", make_home, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "swap", make_swap, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "own", make_own, X, { DEVICE, DEVICE, DEVICE } },
	{ "foreign", make_foreign, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "own, exclusive", make_own_exclusive, X, { EXCLUSIVE, EXCLUSIVE, EXCLUSIVE } },
	{ "foreign, exclusive", make_foreign_exclusive, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "poison", make_poison, X, { ERROR, -EFAULT, -EFAULT } },
	{ "removing", make_removing, X, { NOTHING, -EBUSY, -EBUSY } },
	{ "removed", make_removed, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "leaf", make_leaf, LEAF, { SYSTEM_LEAF, SYSTEM_LEAF, SYSTEM_LEAF } },
	{ "leaf at home", make_leaf_home, LEAF, { NOTHING, SYSTEM_LEAF, SYSTEM_LEAF } },
	{ "special", make_special, X, { ERROR, -EFAULT, -EFAULT } },
	{ "special leaf", make_special_leaf, LEAF, { ERROR, -EFAULT, -EFAULT } },
	{ "hole", make_hole, X, { ERROR, -EFAULT, -EFAULT } },
	{ "unmanaged", make_unmanaged, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "unmanaged, there", make_unmanaged_there, X, { SYSTEM, SYSTEM, SYSTEM } },
	{ "excluded", make_excluded, X, { NOTHING, SYSTEM, SYSTEM } },
	{ "excluded, there", make_excluded_there, X, { SYSTEM, SYSTEM, SYSTEM } },
};

enum rights { RW, RDONLY, NOACCESS, RIGHTS };

static bool has_mapping(u32 s)
{
	return state[s].make != make_hole;
}

/* The mapping is asked first: what it does not allow is refused whatever there is. */
static int expected(u32 s, u64 want, enum rights rights)
{
	const struct expect *e = &state[s].expect;

	if (has_mapping(s) && rights == NOACCESS)
		return want ? -EFAULT : ERROR;
	if (has_mapping(s) && rights == RDONLY && want == WRITE)
		return -EPERM;
	/* A leaf cannot be moved to where it may not be written: page by page. */
	if (state[s].make == make_leaf_home && rights == RDONLY && want)
		return SYSTEM;
	return want == WRITE ? e->write : want == FAULT ? e->fault : e->look;
}

static u64 bits_of(int result, u32 page, enum rights rights, struct tdm_pte was)
{
	u64 valid = TDM_RF_VALID | (rights == RW ? TDM_RF_WRITE : 0), va = (BASE + P(page)) >> TDM_PAGE_SHIFT;

	return result == SYSTEM	     ? valid | va :
	       result == SYSTEM_LEAF ? valid | va | ORDER_HUGE :
	       result == DEVICE	     ? valid | TDM_RF_DEVICE | tdm_pte_private_frame(was) :
	       result == EXCLUSIVE   ? valid | TDM_RF_EXCLUSIVE | tdm_pte_ram_pfn(was).v :
	       result == ERROR	     ? TDM_RF_ERROR :
				       0;
}

/* by_page: what is wanted is in the entry, and the default is to look. */
static void check_state(u32 s, u64 want, enum rights rights, bool by_page)
{
	static const u8 flags[RIGHTS] = { 0, TDM_CPU_RDONLY, TDM_CPU_NOACCESS };
	u32 page = state[s].page, level;
	struct tdm_range_fault rf;
	struct tdm_pte was, is;
	int expect = expected(s, want, rights), r;
	u64 bits;

	begin();
	state[s].make(page);
	if (has_mapping(s))
		tdmi_cpu_mprotect(&cpu, BASE + P(page), BASE + P(page + 1), flags[rights]);
	was = entry(BASE + P(page), &level);
	rf = request(page, page + 1, by_page ? 0 : want);
	rf.flags_mask = by_page ? WRITE : 0;
	out[0] = by_page ? UNTOUCHED | want : UNTOUCHED;
	CHECK(tdmi_mm_enter(ctx));
	r = tdmi_range_fault(ctx, &rf);
	tdmi_mm_exit(ctx);
	is = entry(BASE + P(page), &level);
	bits = expect < 0 ? UNTOUCHED : bits_of(expect, page, rights, was);
	bits |= by_page ? want : 0;
	if (r != TDM_MIN(expect, 0) || out[0] != bits)
		t_fail(__FILE__, __LINE__, "%s, want %llx, rights %u: %d, %016llx, not %016llx", state[s].name, (unsigned long long)(want >> 53), rights,
		       r, (unsigned long long)out[0], (unsigned long long)bits);
	/* Who looks changes nothing, and neither does who gets nothing. What is the process's is where it can be reached; what is ours has stayed. */
	if (expect < 0 || !want || expect == DEVICE || expect == EXCLUSIVE)
		CHECK_EQ(is.v, was.v);
	else
		CHECK(*tdm_cpu_flags(&cpu, BASE + P(page)) & TDM_CPU_PRESENT);
	tdmi_cpu_drop(&cpu, BASE + P(page), BASE + P(page + 1));
	tdmi_cpu_mprotect(&cpu, BASE + P(page), BASE + P(page + 1), 0);
	end();
}

static void check_states(u64 want, enum rights rights)
{
	for (u32 s = 0; s < TDM_ARRAY_SIZE(state); s++) {
		check_state(s, want, rights, false);
		check_state(s, want, rights, true);
	}
}

TEST(states_look, .seconds = 60)
{
	check_states(0, RW);
}

TEST(states_fault, .seconds = 60)
{
	check_states(FAULT, RW);
}

TEST(states_write, .seconds = 60)
{
	check_states(WRITE, RW);
}

TEST(states_look_read_only, .seconds = 60)
{
	check_states(0, RDONLY);
}

TEST(states_fault_read_only, .seconds = 60)
{
	check_states(FAULT, RDONLY);
}

TEST(states_write_read_only, .seconds = 60)
{
	check_states(WRITE, RDONLY);
}

TEST(states_no_access, .seconds = 60)
{
	check_states(0, NOACCESS);
	check_states(FAULT, NOACCESS);
	check_states(WRITE, NOACCESS);
}

/* Who says not whose he is gets nobody's device memory as it is. */
TEST(no_owner)
{
	struct tdm_range_fault rf;

	begin();
	make_own(X);
	make_own_exclusive(X + 16);
	rf = request(X, X + 17, 0);
	rf.owner = NULL;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], 0);
	CHECK_EQ(out[16], 0);
	rf.default_flags = FAULT;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], system_page(X));
	CHECK_EQ(out[16], system_page(X + 16));
	CHECK_EQ(get(BASE + P(X)), X);
	end();
}

/* ---- requests ---------------------------------------------------------------------------------------------------------------------- */

TEST(what_is_wrong_with_a_request)
{
	static const struct {
		u64 start, end, flags;
	} bad[] = {
		{ BASE, BASE, 0 },
		{ BASE + P(2), BASE + P(1), 0 },
		{ BASE + 1, BASE + P(1), 0 },
		{ BASE, BASE + P(1) - 1, 0 },
		{ ((u64)1 << 47) - P(1), ((u64)1 << 47) + P(1), 0 },
		{ BASE, ~(u64)0 & TDM_PAGE_MASK, 0 },
		{ BASE, BASE + P(1), TDM_RF_REQ_WRITE },
	};

	begin();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++) {
		struct tdm_range_fault rf = request(0, 4, 0);

		rf.start = bad[i].start;
		rf.end = bad[i].end;
		rf.default_flags = bad[i].flags;
		CHECK_EQ(tdmi_range_fault(ctx, &rf), -EINVAL);
		CHECK_EQ(tdmi_range_fault_unlocked(ctx, &rf, 1), -EINVAL);
		for (u32 k = 0; k < 4; k++)
			CHECK_EQ(out[k], UNTOUCHED);
	}
	end();
}

/* What is wanted of a page is what the mask lets through of its entry, and what is wanted of all. */
TEST(mask_and_default)
{
	struct tdm_range_fault rf;

	begin();
	rf = request(X, X + 4, 0);
	out[0] = FAULT;
	out[2] = WRITE;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	for (u32 i = 0; i < 4; i++)
		CHECK_EQ(out[i], i == 0 ? FAULT : i == 2 ? WRITE : 0);
	rf.flags_mask = FAULT;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], system_page(X) | FAULT);
	CHECK_EQ(out[1], 0);
	CHECK_EQ(out[2], system_page(X + 2) | WRITE);
	CHECK_EQ(out[3], 0);
	/* A read-only page that is wanted for writing where writing is not asked about. */
	tdmi_cpu_mprotect(&cpu, BASE + P(X), BASE + P(X + 4), TDM_CPU_RDONLY);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	rf.flags_mask = WRITE;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EPERM);
	out[2] = FAULT;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	rf.flags_mask = 0;
	rf.default_flags = WRITE;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EPERM);
	tdmi_cpu_mprotect(&cpu, BASE + P(X), BASE + P(X + 4), 0);
	end();
}

/* Seven bits go out as they came in; nothing else does. */
TEST(sticky)
{
	struct tdm_range_fault rf;

	begin();
	make_lent(X);
	make_home(X + 16);
	rf = request(X, X + 17, 0);
	for (u32 i = 0; i < 17; i++)
		out[i] = ~(u64)0;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], system_page(X) | TDM_RF_STICKY);
	CHECK_EQ(out[16], TDM_RF_STICKY);
	/* Of a hole, too. */
	make_hole(X);
	out[0] = ~(u64)0;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], TDM_RF_ERROR | TDM_RF_STICKY);
	CHECK_EQ(TDM_RF_STICKY & WRITE, WRITE);
	CHECK_EQ(__builtin_popcountll(TDM_RF_STICKY), 7);
	end();
}

/* ---- leaves ------------------------------------------------------------------------------------------------------------------------ */

TEST(order_and_heads)
{
	struct tdm_range_fault rf;

	begin();
	make_lent(511);
	make_leaf(LEAF);
	CHECK_EQ(look(510, 515, 0), 0);
	CHECK_EQ(out[0], 0);
	CHECK_EQ(out[1], system_page(511));
	for (u32 i = 2; i < 5; i++) {
		CHECK_EQ(out[i], system_page(510 + i) | ORDER_HUGE);
		CHECK_EQ(tdm_rf_order(out[i]), 9);
	}
	/* Only the first of a leaf, which need not be the leaf's own first; the others are as they were. */
	rf = request(510, 1024, 0);
	rf.flags = TDM_RF_HEADS;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[1], system_page(511));
	CHECK_EQ(out[2], system_page(512) | ORDER_HUGE);
	for (u32 i = 3; i < 514; i++)
		CHECK_EQ(out[i], UNTOUCHED);
	rf = request(600, 700, FAULT);
	rf.flags = TDM_RF_HEADS;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], system_page(600) | ORDER_HUGE);
	for (u32 i = 1; i < 100; i++)
		CHECK_EQ(out[i], UNTOUCHED);
	/* What is not mapped has no head. */
	CHECK_EQ(home_pages(BASE + H, BASE + 2 * H), TDM_HUGE_PAGES);
	rf = request(600, 700, 0);
	rf.flags = TDM_RF_HEADS;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	for (u32 i = 0; i < 100; i++)
		CHECK_EQ(out[i], 0);
	/* Split, it is 512 pages. */
	CHECK_EQ(look(512, 513, FAULT), 0);
	CHECK_EQ(tdm_rf_order(out[0]), 9);
	CHECK_EQ(home_pages(BASE + H, BASE + H + P(16)), 16);
	CHECK_EQ(look(512, 1024, 0), 0);
	for (u32 i = 0; i < 512; i++)
		CHECK_EQ(out[i], i < 16 ? 0 : system_page(512 + i));
	CHECK_EQ(look(512, 1024, FAULT), 0);
	for (u32 i = 0; i < 512; i++)
		CHECK_EQ(out[i], system_page(512 + i));
	end();
}

TEST(a_leaf_that_is_not_ours)
{
	struct tdm_range_fault rf;

	begin();
	tdmi_cpu_munmap(&cpu, ctx, BASE + H, BASE + 2 * H);
	for (u32 i = 512; i < 1024; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) = TDM_CPU_VALID;
	tdmi_cpu_preset(&cpu, BASE + H, TDM_HUGE_PAGES, 1, true);
	CHECK_EQ(look(510, 1024, 0), 0);
	CHECK_EQ(out[1], 0);
	for (u32 i = 2; i < 514; i++)
		CHECK_EQ(out[i], system_page(510 + i) | ORDER_HUGE);
	rf = request(510, 1024, 0);
	rf.flags = TDM_RF_HEADS;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[2], system_page(512) | ORDER_HUGE);
	for (u32 i = 3; i < 514; i++)
		CHECK_EQ(out[i], UNTOUCHED);
	end();
}

/* One page of a leaf is wanted otherwise than the others. */
TEST(pages_of_a_leaf_wanted_differently)
{
	struct tdm_range_fault rf;

	begin();
	make_leaf(LEAF);
	rf = request(512, 1024, 0);
	rf.flags_mask = WRITE;
	out[300] = WRITE;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	for (u32 i = 0; i < 512; i++)
		CHECK_EQ(out[i] & ~TDM_RF_STICKY, system_page(512 + i) | ORDER_HUGE);
	tdmi_cpu_mprotect(&cpu, BASE + H, BASE + 2 * H, TDM_CPU_RDONLY);
	rf = request(512, 1024, 0);
	rf.flags_mask = WRITE;
	out[300] = WRITE | UNTOUCHED;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EPERM);
	for (u32 i = 0; i < 512; i++)
		CHECK_EQ(out[i], i < 300 ? (system_page(512 + i) | ORDER_HUGE) & ~TDM_RF_WRITE : i == 300 ? WRITE | UNTOUCHED : UNTOUCHED);
	tdmi_cpu_mprotect(&cpu, BASE + H, BASE + 2 * H, 0);
	end();
}

/* ---- more than one mapping ------------------------------------------------------------------------------------------------------ */

/* A hole, what is ours, what is not, what may not be read, what may not be written: each with a page that is there, and one that is not. */
static void make_patchwork(void)
{
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(NPAGES));
	map(BASE + P(4), BASE + P(24));
	put_range(4, 8, 0);
	/* Not one after the other: that would be a stream. */
	put_range(17, 18, 0);
	put_range(16, 17, 0);
	for (u32 i = 8; i < 12; i++)
		exclude(i);
	tdmi_cpu_preset(&cpu, BASE + P(8), 2, 1, false);
	tdmi_cpu_mprotect(&cpu, BASE + P(12), BASE + P(16), TDM_CPU_NOACCESS);
	tdmi_cpu_mprotect(&cpu, BASE + P(16), BASE + P(20), TDM_CPU_RDONLY);
	for (u32 i = 24; i < 28; i++)
		*tdm_cpu_flags(&cpu, BASE + P(i)) = TDM_CPU_VALID;
	tdmi_cpu_preset(&cpu, BASE + P(24), 2, 1, false);
}

static void patchwork_end(void)
{
	tdmi_cpu_drop(&cpu, BASE + P(8), BASE + P(12));
	tdmi_cpu_drop(&cpu, BASE + P(24), BASE + P(28));
	end();
}

TEST(range_across_mappings)
{
	static const u8 there[32] = { [4] = 1, 1, 1, 1, 1, 1, [16] = 1, 1, [24] = 1, 1 };

	begin();
	make_patchwork();
	CHECK_EQ(look(0, 32, 0), 0);
	for (u32 i = 0; i < 32; i++) {
		u64 rights = i >= 16 && i < 20 ? system_page(i) & ~TDM_RF_WRITE : system_page(i);

		CHECK_EQ(out[i], i < 4 || i >= 28 || (i >= 12 && i < 16) ? TDM_RF_ERROR : there[i] ? rights : 0);
	}
	patchwork_end();
}

/* Where does it end? What is before that page is out, what is behind it is in. */
static void fails_at(u32 a, u32 page, int err, u64 want)
{
	struct tdm_range_fault rf = request(a, 32, 0);
	rf.flags_mask = WRITE;
	out[page - a] = want | UNTOUCHED;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), err);
	for (u32 i = a; i < 32; i++) {
		bool in = out[i - a] == (i == page ? want | UNTOUCHED : UNTOUCHED);

		CHECK_EQ(in, i >= page);
	}
}

TEST(what_was_before_the_one_that_fails)
{
	begin();
	make_patchwork();
	fails_at(0, 0, -EFAULT, FAULT);
	fails_at(0, 2, -EFAULT, FAULT);
	fails_at(0, 2, -EFAULT, WRITE);
	fails_at(3, 12, -EFAULT, FAULT);
	fails_at(0, 14, -EFAULT, WRITE);
	fails_at(0, 17, -EPERM, WRITE);
	fails_at(0, 19, -EPERM, WRITE);
	fails_at(0, 31, -EFAULT, FAULT);
	patchwork_end();
}

TEST(bytes_that_are_lost)
{
	begin();
	make_poison(20);
	fails_at(0, 20, -EFAULT, FAULT);
	end();
}

/* Somebody else's page cannot be had: an access would fail, and so does this. */
TEST(an_unmanaged_page_that_cannot_be_had)
{
	begin();
	make_unmanaged(20);
	*tdm_cpu_flags(&cpu, BASE + P(20)) |= TDM_CPU_POISON;
	fails_at(0, 20, -EFAULT, FAULT);
	end();
}

static struct tdm_port_ops ops;

static int populate_without_memory(struct tdm_port *p, struct tdm_ctx *c, struct tdm_va va, u32 n, bool write)
{
	if (write)
		make_hole(20);
	return -ENOMEM;
}

/* The port has no memory for it; or says so of what has gone meanwhile. */
TEST(no_memory_for_an_unmanaged_page)
{
	begin();
	ops = *cpu.port.ops;
	ops.populate = populate_without_memory;
	cpu.port.ops = &ops;
	make_unmanaged(20);
	fails_at(0, 20, -ENOMEM, FAULT);
	fails_at(0, 20, -EFAULT, WRITE);
	end();
}

/* Every frame is in use, and the tiers are full. Who asks is told, and can ask again. */
TEST(no_frame_for_it)
{
	struct tdm_range_fault rf;
	struct tdm_pfn page;
	void *home;
	u32 done;
	u64 n;

	tdm_sim_init(memory, sizeof(memory));
	start_with(1, NPAGES, 512);
	map(BASE, BASE + P(NPAGES));
	for (u32 i = 0; i < 32; i++)
		put(BASE + P((31 - i) * TDM_BLOCK_PAGES + i % 16), i);
	rf = request(508, 516, 0);
	rf.flags_mask = WRITE;
	out[5] |= WRITE;
	CHECK(tdmi_mm_enter(ctx));
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -ENOMEM);
	CHECK(out[4] == 0 && out[5] == (WRITE | UNTOUCHED) && out[6] == UNTOUCHED);
	CHECK_EQ(tdmi_range_fault_unlocked(ctx, &rf, 0), -ENOMEM);
	CHECK_EQ(tdmi_pin(ctx, BASE + P(600), 1, 0, &page, &done), -ENOMEM);
	CHECK_EQ(tdmi_pin(ctx, BASE + P(600), 1, TDM_GUP_WRITE, &page, &done), -ENOMEM);
	CHECK_EQ(tdmi_make_exclusive(ctx, BASE + P(600), BASE + P(601), &dev, &home, &n), -ENOMEM);
	tdmi_mm_exit(ctx);
	check_counters();
	tdmi_cpu_munmap(&cpu, ctx, BASE, BASE + P(16));
	CHECK_EQ(look(600, 601, WRITE), 0);
	finish();
	tdm_sim_init(NULL, 0);
}

/* ---- while it changes -------------------------------------------------------------------------------------------------------------- */

static struct {
	u32 rounds;      /* so many drains end with a round */
	u32 every;       /* the port refuses again, so many times */
	u64 sleep;       /* and take so long */
	u64 va;          /* the round is about this page */
} plan;

static void on_drain(void *arg, struct tdm_ctx *c)
{
	tdm_sim_advance_ns(plan.sleep);
	if (plan.rounds) {
		struct tdm_inv_range round = TDM_INV_RANGE(plan.va, plan.va + TDM_PAGE_SIZE, TDM_INV_CLEAR);

		plan.rounds--;
		CHECK_EQ(tdmi_invalidate_start(&mm.notifiers, &round), 0);
		tdmi_invalidate_end(&mm.notifiers, &round);
	}
	if (plan.every) {
		plan.every--;
		cpu.again = 1;
	}
}

static struct tdm_range_fault watched(u32 a, u32 b, u64 flags)
{
	struct tdm_range_fault rf = request(a, b, flags);

	cpu.on_drain = on_drain;
	rf.in = &sub;
	rf.seq = tdm_interval_read_begin(&sub);
	return rf;
}

TEST(an_old_number_is_told_at_once)
{
	struct tdm_range_fault rf;

	begin();
	make_lent(X);
	rf = watched(X, X + 1, 0);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(home_pages(BASE + P(X), BASE + P(X + 1)), 1);
	CHECK_EQ(rounds, 1);
	rf = (struct tdm_range_fault){ .start = rf.start, .end = rf.end, .entry = out, .in = &sub, .seq = rf.seq, .default_flags = FAULT };
	out[0] = UNTOUCHED;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EBUSY);
	CHECK_EQ(out[0], UNTOUCHED);
	CHECK(!(*tdm_cpu_flags(&cpu, BASE + P(X)) & TDM_CPU_PRESENT));
	rf.seq = tdm_interval_read_begin(&sub);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], system_page(X));
	end();
}

/* A round for any page of the subscription, in the middle: what was read before it may be old. */
TEST(a_round_in_between)
{
	struct tdm_range_fault rf;

	begin();
	make_lent(X);
	make_home(X + 16);
	rf = watched(X, X + 17, 0);
	rf.flags_mask = FAULT;
	out[16] = FAULT;
	plan.rounds = 1;
	plan.va = BASE + P(X);
	cpu.again = 1;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EBUSY);
	CHECK_EQ(plan.rounds, 0);
	CHECK_EQ(out[16], FAULT);
	rf.seq = tdm_interval_read_begin(&sub);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[16], system_page(X + 16) | FAULT);
	end();
}

/* The last page was brought while a round ran: nobody looks at the others any more, and it must be told all the same. */
TEST(a_round_while_the_last_page_comes)
{
	struct tdm_range_fault rf;

	begin();
	make_unmanaged(X);
	rf = watched(X, X + 1, FAULT);
	plan.rounds = 1;
	plan.va = BASE;
	cpu.again = 1;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), -EBUSY);
	rf.seq = tdm_interval_read_begin(&sub);
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	end();
}

/* Without a subscription nobody can tell. */
TEST(nobody_watches)
{
	struct tdm_range_fault rf;

	begin();
	make_home(X);
	rf = watched(X, X + 1, FAULT);
	rf.in = NULL;
	plan.rounds = 1;
	plan.va = BASE + P(X);
	cpu.again = 1;
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(plan.rounds, 0);
	end();
}

/* What a device has comes back in a round: so who asks for it is told to begin again, once. */
TEST(what_another_device_has)
{
	struct tdm_range_fault rf;

	begin();
	make_foreign(X);
	make_foreign_exclusive(X + 16);
	rf = watched(X, X + 17, 0);
	rf.flags_mask = FAULT;
	out[0] = out[16] = FAULT;
	for (u32 i = 0; i < 2; i++) {
		CHECK_EQ(tdmi_range_fault(ctx, &rf), -EBUSY);
		rf.seq = tdm_interval_read_begin(&sub);
	}
	CHECK_EQ(tdmi_range_fault(ctx, &rf), 0);
	CHECK_EQ(out[0], system_page(X) | FAULT);
	CHECK_EQ(out[16], system_page(X + 16) | FAULT);
	CHECK_EQ(get(BASE + P(X)), X);
	CHECK_EQ(get(BASE + P(X + 16)), X + 16);
	end();
}

/* ---- until it works ---------------------------------------------------------------------------------------------------------------- */

static int unlocked(struct tdm_range_fault *rf, u64 timeout)
{
	int r;

	CHECK(tdmi_mm_enter(ctx));
	r = tdmi_range_fault_unlocked(ctx, rf, timeout);
	tdmi_mm_exit(ctx);
	return r;
}

TEST(again_until_nothing_comes_between)
{
	struct tdm_range_fault rf;

	begin();
	make_home(X);
	make_foreign(X + 16);
	make_foreign_exclusive(X + 32);
	rf = watched(X, X + 33, FAULT);
	rf.seq = 0;
	plan.rounds = 5;
	plan.every = 8;
	plan.va = BASE + P(X);
	cpu.again = 1;
	CHECK_EQ(unlocked(&rf, 0), 0);
	CHECK_EQ(plan.rounds, 0);
	CHECK(!tdm_interval_read_retry(&sub, rf.seq));
	for (u32 i = 0; i < 33; i++)
		CHECK_EQ(out[i], system_page(X + i));
	end();
}

/* A page that is about to be dropped is never brought: that is no progress, however often it is tried. */
TEST(time_is_over)
{
	struct tdm_range_fault rf;
	u64 since;

	begin();
	make_lent(X - 1);
	make_removing(X);
	rf = watched(X - 1, X + 1, FAULT);
	since = plat_now_ns();
	CHECK_EQ(unlocked(&rf, 50000000), -ETIME);
	CHECK(plat_now_ns() - since >= 50000000);
	CHECK(plat_now_ns() - since < 500000000);
	/* Nor without a subscription. */
	rf.in = NULL;
	CHECK_EQ(unlocked(&rf, 50000000), -ETIME);
	tdmi_cpu_drop(&cpu, BASE + P(X), BASE + P(X + 1));
	CHECK_EQ(unlocked(&rf, 50000000), 0);
	end();
}

/* Each page takes most of the time that there is, and each is told of a round: it begins anew with each. */
TEST(time_begins_anew)
{
	struct tdm_range_fault rf;
	u64 since;

	begin();
	for (u32 i = 0; i < 10; i++)
		make_home(X + 16 * i);
	rf = watched(X, X + 145, 0);
	rf.flags_mask = FAULT;
	for (u32 i = 0; i < 10; i++)
		out[16 * i] = FAULT;
	plan.rounds = plan.every = 9;
	plan.sleep = 60000000;
	plan.va = BASE;
	cpu.again = 1;
	since = plat_now_ns();
	CHECK_EQ(unlocked(&rf, 100000000), 0);
	CHECK(plat_now_ns() - since >= 600000000);
	CHECK_EQ(plan.rounds, 0);
	/* The same time without progress is too much. */
	make_removing(X);
	plan.sleep = 0;
	CHECK_EQ(unlocked(&rf, 100000000), -ETIME);
	tdmi_cpu_drop(&cpu, BASE + P(X), BASE + P(X + 1));
	end();
}
