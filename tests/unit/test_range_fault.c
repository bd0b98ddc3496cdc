// SPDX-License-Identifier: MIT
/*
 * test_range_fault.c - what is at a range: requests, leaves, several mappings, and what happens when it changes meanwhile. Single pages in every state are in
 * test_range_fault_states.c.
 */
#include "range_fault_world.h"

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
