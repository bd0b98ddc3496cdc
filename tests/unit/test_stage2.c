/* SPDX-License-Identifier: MIT */
/* A guest's second-stage table: what it reads and writes, what is said of its use, and what that costs. */
#include "stage2_world.h"

#define PAGES 96u

static struct guest g;
static u64 rng;

static u32 below(u32 n)
{
	return (u32)(t_rand(&rng) % n);
}

/* All that there are. */
static struct tdm_stage2_config config_of(u32 i)
{
	return (struct tdm_stage2_config){ .aging = (enum tdm_stage2_aging)(i % 3), .fill_read = i / 3 };
}

/* ---- bytes */

struct cell {
	bool mapped, writable, lazy;
	u64 value;
};

static struct cell cell[PAGES];

static u64 cpu_word(u32 page, int *err)
{
	u8 *p = world_access(&g.t, below(WORLD_CPUS), g.s, guest_at(page) + 8, false, err);
	u64 x = 0;

	if (p)
		memcpy(&x, p, sizeof(x));
	return x;
}

static void check_word(u32 page, int err, u64 x)
{
	struct cell *c = &cell[page];

	if (err == -ENOMEM)
		return;
	CHECK_EQ(err, c->mapped ? 0 : -EFAULT);
	if (err)
		return;
	if (c->lazy && x == 0)
		c->value = 0;
	CHECK_EQ(x, c->value);
}

static void do_read(u32 page, bool guest)
{
	u64 x = 0;
	int err;

	if (guest)
		err = tdmi_vcpu_access(&g.v, page * PAGE + 8, &x, sizeof(x), false);
	else
		x = cpu_word(page, &err);
	check_word(page, err, x);
}

static void do_write(u32 page, bool guest)
{
	u64 x = t_rand(&rng) | 1;
	int err = 0;

	if (guest) {
		err = tdmi_vcpu_access(&g.v, page * PAGE + 8, &x, sizeof(x), true);
	} else {
		u8 *p = world_access(&g.t, below(WORLD_CPUS), g.s, guest_at(page) + 8, true, &err);

		if (p)
			memcpy(p, &x, sizeof(x));
	}
	if (err == -ENOMEM)
		return;
	CHECK_EQ(err, cell[page].mapped && cell[page].writable ? 0 : -EFAULT);
	if (!err) {
		cell[page].value = x;
		cell[page].lazy = false;
	}
}

/* The child has what its parent had, and keeps it from its parent. */
static void do_fork(void)
{
	struct tdm_space *child;
	u32 page = below(PAGES);
	u64 was = cell[page].value;
	bool lazy = cell[page].lazy;

	if (tdmi_space_fork(g.s, g.t.reader, &child))
		return;
	memset((void *)g.t.tlb[0][child->id], 0, sizeof(g.t.tlb[0][0]));
	memset((void *)g.t.tlb[1][child->id], 0, sizeof(g.t.tlb[0][0]));
	memset((void *)g.t.tlb[2][child->id], 0, sizeof(g.t.tlb[0][0]));
	do_write(page, true);
	if (cell[page].mapped) {
		int err;
		u8 *p = world_access(&g.t, 0, child, guest_at(page) + 8, false, &err);
		u64 x;

		CHECK(p || err == -ENOMEM);
		if (p) {
			memcpy(&x, p, sizeof(x));
			CHECK(x == was || (x == 0 && lazy));
		}
	}
	tdmi_space_destroy(child, g.t.reader);
}

static void do_change(u32 start, u32 n)
{
	struct tdm_rcu_reader *r = g.t.reader;
	u64 va = guest_at(start), len = n * PAGE;
	u32 what = below(7);
	bool all = true;

	for (u32 i = start; i < start + n; i++)
		all &= cell[i].mapped;
	switch (what) {
	case 0:
		CHECK_EQ(tdmi_munmap(g.s, r, va, len), 0);
		for (u32 i = start; i < start + n; i++)
			cell[i] = (struct cell){ 0 };
		break;
	case 1:
	case 2:
		CHECK_EQ(tdmi_mmap(g.s, r, va, len, RW), 0);
		for (u32 i = start; i < start + n; i++)
			cell[i] = (struct cell){ .mapped = true, .writable = true };
		break;
	case 3:
		if (!all)
			break;
		CHECK_EQ(tdmi_mprotect(g.s, r, va, len, what = below(2) ? RW : TDM_V_READ), 0);
		for (u32 i = start; i < start + n; i++)
			cell[i].writable = what == RW;
		break;
	case 4:
		CHECK_EQ(tdmi_madvise_dontneed(g.s, r, va, len), 0);
		for (u32 i = start; i < start + n; i++)
			cell[i].value = 0;
		break;
	case 5:
		CHECK_EQ(tdmi_madvise_free(g.s, r, va, len), 0);
		for (u32 i = start; i < start + n; i++)
			cell[i].lazy = true;
		break;
	default:
		CHECK_EQ(tdmi_clear_soft_dirty(g.s, r, va, len), 0);
	}
}

static void random_ops(const struct tdm_stage2_config *config, u32 ops)
{
	guest_init(&g, 512, PAGES, config);
	for (u32 i = 0; i < PAGES; i++)
		cell[i] = (struct cell){ .mapped = true, .writable = true };
	for (u32 k = 0; k < ops; k++) {
		u32 page = below(PAGES), n = 1 + below(8), start = below(PAGES - n);

		switch (below(16)) {
		case 0: do_change(start, n); break;
		case 1: do_fork(); break;
		case 2: (void)tdmi_migrate_page(g.s, g.t.reader, guest_at(page), below(2) ? g.t.coherent : g.t.w.ram); break;
		case 3: (void)tdmi_vmscan(&g.t.w, g.t.reader, 1 + below(16), 64); break;
		case 4: case 5: case 6: do_read(page, false); break;
		case 7: case 8: case 9: do_write(page, false); break;
		case 10: case 11: case 12: do_read(page, true); break;
		default: do_write(page, true);
		}
		if (k % 16 == 0)
			(void)guest_check(&g.st, g.t.reader);
	}
	CHECK(tdm_stage2_counted(&g.st, TDM_S2_FILLS) > ops / 32 && tdm_stage2_counted(&g.st, TDM_S2_CLEARED) > ops / 64);
	CHECK(tdm_stage2_counted(&g.st, TDM_S2_YOUNG) && tdm_stage2_counted(&g.st, TDM_S2_ASKED) > tdm_stage2_counted(&g.st, TDM_S2_YOUNG));
	CHECK(tdm_world_counted(&g.t.w, TDM_SC_SWAPPED_IN) && tdm_world_counted(&g.t.w, TDM_SC_COPIED));
	guest_end(&g);
}

TEST(a_guest_and_cpus_have_the_same_bytes, .seconds = 60)
{
	rng = t_seed();
	for (u32 i = 0; i < 6; i++) {
		struct tdm_stage2_config config = config_of(i);

		random_ops(&config, t_slow() ? 1500 : 6000);
	}
}

/* A read maps for writing what the space has for writing, and nothing else; and zeros do not become the guest's own by being read. */
TEST(no_more_rights_than_the_space_has)
{
	struct tdm_stage2_config config = config_of(0);
	u64 word = 0;

	guest_init(&g, 512, 8, &config);
	CHECK_EQ(guest_read(&g, 0), 0);
	CHECK(!(tdmi_stage2_entry(&g.st, 0).v & TDM_PTE_WRITE));
	CHECK_EQ(tdm_pte_pfn(tdmi_stage2_entry(&g.st, 0)).v, g.t.w.zero.v);
	world_write(&g.t, 0, g.s, guest_at(0), 5);
	CHECK_EQ(tdmi_stage2_entry(&g.st, 0).v, 0);
	CHECK_EQ(guest_read(&g, 0), 5);
	CHECK(tdmi_stage2_entry(&g.st, 0).v & TDM_PTE_WRITE);
	guest_write(&g, 0, 6);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_MISSES), 2);
	CHECK_EQ(world_read(&g.t, 1, g.s, guest_at(0)), 6);
	CHECK_EQ(tdmi_mprotect(g.s, g.t.reader, guest_at(0), PAGE, TDM_V_READ), 0);
	CHECK_EQ(tdmi_vcpu_access(&g.v, 0, &word, sizeof(word), true), -EFAULT);
	CHECK_EQ(guest_read(&g, 0), 6);
	guest_end(&g);
}

/* Across pages; of a guest whose memory is a part of the space: what happens outside is not its. */
TEST(where_the_guest_begins_and_ends)
{
	struct tdm_stage2_config config = config_of(0);
	struct tdm_stage2 other;
	u8 in[2 * PAGE], out[2 * PAGE];

	guest_init(&g, 512, 8, &config);
	for (u32 i = 0; i < sizeof(in); i++)
		in[i] = (u8)(i * 7 + i / 256);
	CHECK_EQ(tdmi_vcpu_access(&g.v, 3 * PAGE + 100, in, sizeof(in), true), 0);
	CHECK_EQ(tdmi_vcpu_access(&g.v, 3 * PAGE + 100, out, sizeof(out), false), 0);
	CHECK(!memcmp(in, out, sizeof(in)));
	CHECK_EQ(tdmi_vcpu_access(&g.v, 7 * PAGE, in, PAGE, true), 0);
	CHECK_EQ(tdmi_vcpu_access(&g.v, 7 * PAGE + 1, in, PAGE, true), -EFAULT);
	CHECK_EQ(tdmi_vcpu_access(&g.v, ~(u64)0, in, 1, false), -EFAULT);
	CHECK_EQ(tdmi_stage2_init(&other, g.s, guest_at(8), 0, &config), -EINVAL);
	CHECK_EQ(tdmi_stage2_init(&other, g.s, guest_at(8) + 1, PAGE, &config), -EINVAL);
	CHECK_EQ(tdmi_stage2_init(&other, g.s, 0, PAGE, &config), -EINVAL);
	CHECK_EQ(tdmi_stage2_init(&other, g.s, TDM_VA_END - PAGE, 2 * PAGE, &config), -EINVAL);
	CHECK_EQ(tdmi_stage2_init(&other, g.s, guest_at(2), PAGE, &config), 0);
	CHECK_EQ(tdmi_munmap(g.s, g.t.reader, guest_at(3), 3 * PAGE), 0);
	CHECK_EQ(tdm_stage2_counted(&other, TDM_S2_ROUNDS), 0);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_CLEARED), 3);
	CHECK_EQ(tdmi_munmap(g.s, g.t.reader, guest_at(2), PAGE), 0);
	CHECK_EQ(tdm_stage2_counted(&other, TDM_S2_ROUNDS), 1);
	tdmi_stage2_destroy(&other);
	guest_end(&g);
}

TEST(a_space_that_is_released_has_no_guest)
{
	struct tdm_stage2_config config = config_of(0);
	struct tdm_stage2 late;
	u64 x = 0;

	guest_init(&g, 512, 8, &config);
	guest_write(&g, 0, 1);
	tdmi_notifiers_release(&g.s->notifiers);
	CHECK_EQ(tdmi_stage2_entry(&g.st, 0).v, 0);
	CHECK_EQ(tdmi_vcpu_access(&g.v, 0, &x, sizeof(x), false), -ESRCH);
	CHECK_EQ(tdmi_stage2_init(&late, g.s, WORLD_BASE, PAGE, &config), -ESRCH);
	guest_end(&g);
}

/* ---- use */

/* The answer is what the model says, whichever way it is found, and one page's is no other's. */
TEST(three_ways_to_age_and_one_answer)
{
	for (u32 mode = 0; mode < 3; mode++) {
		struct tdm_stage2_config config = config_of(mode);
		bool used[PAGES] = { 0 };

		rng = 77;
		guest_init(&g, 512, PAGES, &config);
		for (u32 k = 0; k < 4000; k++) {
			u32 page = below(PAGES), n = 1 + below(4);
			u64 va = guest_at(page), end = guest_at(TDM_MIN(page + n, PAGES));
			bool want = false, got;

			if (below(2)) {
				guest_write(&g, page * PAGE, k);
				used[page] = true;
				continue;
			}
			for (u32 i = page; i < page + n && i < PAGES; i++)
				want |= used[i];
			switch (below(3)) {
			case 0: got = tdmi_notifiers_test_young(&g.s->notifiers, va, end); break;
			case 1: got = tdmi_notifiers_clear_young(&g.s->notifiers, va, end); n += PAGES; break;
			default: got = tdmi_notifiers_clear_flush_young(&g.s->notifiers, va, end); n += PAGES;
			}
			CHECK_EQ(got, want);
			for (u32 i = page; n > PAGES && i < page + n - PAGES && i < PAGES; i++)
				used[i] = false;
		}
		CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_LOCK_READ), mode == TDM_AGING_READ ? tdm_stage2_counted(&g.st, TDM_S2_ASKED) : 0);
		guest_end(&g);
	}
}

/* Pages that only the guest uses, again and again, while reclaim takes what it can get. How many of its accesses missed. */
static u64 misses_of_hot_pages(const struct tdm_stage2_config *config, bool deaf)
{
	static const struct tdm_notifier_ops none = { 0 };
	const struct tdm_notifier_ops *ops;
	u64 misses;

	guest_init(&g, 512, 64, config);
	ops = g.st.young.ops;
	if (deaf)
		g.st.young.ops = &none;
	for (u32 i = 0; i < 64; i++)
		world_write(&g.t, 0, g.s, guest_at(i), i);
	for (u32 i = 0; i < 4; i++)
		(void)guest_read(&g, i * PAGE);
	for (u32 k = 0; k < 200; k++) {
		for (u32 i = 0; i < 4; i++)
			CHECK_EQ(guest_read(&g, i * PAGE), i);
		(void)tdmi_vmscan(&g.t.w, g.t.reader, 4, 4);
	}
	CHECK(tdm_world_counted(&g.t.w, TDM_SC_SWAPPED_OUT) >= 60);
	misses = tdm_stage2_counted(&g.st, TDM_S2_MISSES);
	g.st.young.ops = ops;
	guest_end(&g);
	return misses;
}

TEST(what_a_guest_uses_stays)
{
	for (u32 mode = 0; mode < 3; mode++) {
		struct tdm_stage2_config config = config_of(mode);

		CHECK_EQ(misses_of_hot_pages(&config, false), 4);
		CHECK(misses_of_hot_pages(&config, true) > 4);
	}
}

struct seen {
	u32 calls;
	u64 va, used;
};

static void around(void *arg, u64 va, u64 used)
{
	*(struct seen *)arg = (struct seen){ ((struct seen *)arg)->calls + 1, va, used };
}

TEST(neighbours_are_looked_at_with_the_one)
{
	struct seen seen = { 0 };
	struct tdm_stage2_config config = { .around = around, .arg = &seen };

	guest_init(&g, 512, 100, &config);
	guest_write(&g, 63 * PAGE, 1);
	guest_write(&g, 64 * PAGE, 1);
	guest_write(&g, 70 * PAGE, 1);
	guest_write(&g, 99 * PAGE, 1);
	/* Looking changes nothing, and what is not used is not looked around. */
	CHECK(tdmi_notifiers_test_young(&g.s->notifiers, guest_at(70), guest_at(71)));
	CHECK(!tdmi_notifiers_clear_young(&g.s->notifiers, guest_at(71), guest_at(72)));
	CHECK_EQ(seen.calls, 0);
	CHECK(tdmi_notifiers_clear_young(&g.s->notifiers, guest_at(70), guest_at(71)));
	CHECK_EQ(seen.calls, 1);
	CHECK_EQ(seen.va, guest_at(64));
	CHECK_EQ(seen.used, (u64)1 | (u64)1 << 35);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_AROUND), 35);
	CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_AROUND_USED), 2);
	/* They have been told of. */
	CHECK(!tdmi_notifiers_clear_young(&g.s->notifiers, guest_at(64), guest_at(100)));
	/* Alone in its group: nothing to tell. */
	CHECK(tdmi_notifiers_clear_young(&g.s->notifiers, guest_at(63), guest_at(64)));
	CHECK_EQ(seen.calls, 1);
	guest_end(&g);
	config.aging = TDM_AGING_READ;
	CHECK_EQ(tdmi_stage2_init(&g.st, g.s, WORLD_BASE, PAGE, &config), -EINVAL);
}

/* ---- costs */

static const struct tdm_stage2_costs costs = { .exit = 1000, .lock_read = 20, .lock_write = 50, .walk = 7, .entry = 3, .flush = 400 };

static u64 mm_clock(void)
{
	return tdm_a64_ld_relaxed(&g.st.mm_clock);
}

TEST(what_filling_and_aging_cost)
{
	for (u32 mode = 0; mode < 3; mode++) {
		struct tdm_stage2_config config = { .aging = (enum tdm_stage2_aging)mode, .costs = costs };
		static const u64 ask[] = { 0, 20, 50 };
		u64 was;

		guest_init(&g, 512, 8, &config);
		guest_write(&g, 0, 1);
		/* The lock, three levels, the entry; out and in. */
		CHECK_EQ(g.v.clock, 1000 + 50 + 3 * 7 + 3);
		CHECK_EQ(g.v.waited, 0);
		guest_write(&g, 0, 2);
		CHECK_EQ(g.v.clock, 1074);
		CHECK_EQ(mm_clock(), 0);
		tdm_a64_st_relaxed(&g.st.mm_clock, 5000);
		CHECK(tdmi_notifiers_clear_young(&g.s->notifiers, guest_at(0), guest_at(1)));
		CHECK_EQ(mm_clock(), 5000 + ask[mode] + 24);
		CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_AGING), ask[mode] + 24);
		/* Two entries, one walk; nobody used them, so nothing is flushed. */
		was = mm_clock();
		CHECK(!tdmi_notifiers_clear_flush_young(&g.s->notifiers, guest_at(0), guest_at(2)));
		CHECK_EQ(mm_clock() - was, ask[mode] + 27);
		guest_write(&g, 0, 3);
		was = mm_clock();
		CHECK(tdmi_notifiers_clear_flush_young(&g.s->notifiers, guest_at(0), guest_at(1)));
		CHECK_EQ(mm_clock() - was, ask[mode] + 24 + 400);
		CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_FLUSHES), 1);
		/* A round: the lock for writing, one walk, two entries, the flush. */
		was = mm_clock();
		CHECK_EQ(tdmi_munmap(g.s, g.t.reader, guest_at(0), 2 * PAGE), 0);
		CHECK_EQ(mm_clock() - was, 50 + 21 + 6 + 400);
		CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_FLUSHES), 2);
		CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_MM_WAITED) + tdm_stage2_counted(&g.st, TDM_S2_VCPU_WAITED), 0);
		guest_end(&g);
	}
}

/*
 * Aging begins at 100000, and the vCPU comes to the lock at 100010. The word of the lock is aging's until 100020, or 100050 for writing; then aging holds the
 * lock for 24. Without the lock nobody waits. Two that read wait for the word alone. Who comes to write takes 50 for that, in which a reader is done; who
 * comes to read takes 20, in which a writer is not.
 */
TEST(who_waits_for_the_lock)
{
	static const u64 wait[2][3] = { { 0, 10, 40 }, { 0, 10, 44 } };

	for (u32 i = 0; i < 6; i++) {
		struct tdm_stage2_config config = config_of(i);

		config.costs = costs;
		guest_init(&g, 512, 8, &config);
		guest_write(&g, 0, 1);
		tdm_a64_st_relaxed(&g.st.mm_clock, 100000);
		CHECK(tdmi_notifiers_clear_young(&g.s->notifiers, guest_at(0), guest_at(1)));
		g.v.clock = 100010;
		guest_write(&g, PAGE, 1);
		CHECK_EQ(g.v.waited, wait[i / 3][i % 3]);
		CHECK_EQ(g.v.clock, 100010 + wait[i / 3][i % 3] + (config.fill_read ? 20 : 50) + 24 + 1000);
		CHECK_EQ(tdm_stage2_counted(&g.st, TDM_S2_VCPU_WAITED), g.v.waited);
		guest_end(&g);
	}
}

/* ---- the shape of what was measured of KVM: vCPUs that fill their memory while it is aged */

struct run {
	u64 slowest; /* vCPU */
	u64 passes;  /* over all pages */
	u64 aging;   /* cycles in hooks */
};

#define VCPUS_MAX 64u
#define EACH 24u

static struct run run_guest(u32 vcpus, const struct tdm_stage2_config *config, bool age)
{
	static struct tdm_vcpu v[VCPUS_MAX];
	u32 next[VCPUS_MAX] = { 0 }, left = vcpus * EACH, page = 0;
	struct run r = { 0 };

	guest_init(&g, 4096, VCPUS_MAX * EACH, config);
	/* The space has them all: what is measured is the table. */
	for (u32 i = 0; i < vcpus * EACH; i++)
		CHECK_EQ(tdmi_space_fault(g.s, g.t.reader, guest_at(i), TDM_ACCESS_WRITE), 0);
	for (u32 i = 0; i < vcpus; i++)
		v[i] = g.v;
	while (left) {
		u32 first = 0;
		u64 x = left;

		for (u32 i = 1; i < vcpus; i++)
			first = next[i] < EACH && (next[first] == EACH || v[i].clock < v[first].clock) ? i : first;
		if (age && mm_clock() < v[first].clock) {
			(void)tdmi_notifiers_clear_young(&g.s->notifiers, guest_at(page), guest_at(page + 1));
			page = (page + 1) % (vcpus * EACH);
			r.passes += page == 0;
			continue;
		}
		CHECK_EQ(tdmi_vcpu_access(&v[first], (first * EACH + next[first]++) * PAGE, &x, sizeof(x), true), 0);
		left--;
	}
	for (u32 i = 0; i < vcpus; i++)
		r.slowest = TDM_MAX(r.slowest, v[i].clock);
	r.aging = tdm_stage2_counted(&g.st, TDM_S2_AGING) / TDM_MAX(tdm_stage2_counted(&g.st, TDM_S2_ASKED), 1);
	guest_end(&g);
	return r;
}

TEST(aging_without_the_lock_delays_nobody, .seconds = 60)
{
	u64 pass[3][2], slow[3][2];

	for (u32 k = 0; k < 2; k++) {
		u32 vcpus = k ? VCPUS_MAX : 8;

		for (u32 mode = 0; mode < 3; mode++) {
			struct tdm_stage2_config config = { .aging = (enum tdm_stage2_aging)mode, .fill_read = true, .costs = costs };
			struct run without = run_guest(vcpus, &config, false), with = run_guest(vcpus, &config, true);

			slow[mode][k] = with.slowest * 1000 / without.slowest;
			pass[mode][k] = with.aging;
			printf("# %2u vCPUs, mode %u: %llu cycles, %llu with aging; %llu a page\n", vcpus, mode, (unsigned long long)without.slowest,
			       (unsigned long long)with.slowest, (unsigned long long)with.aging);
		}
		/* Nothing; something; more. */
		CHECK_EQ(slow[TDM_AGING_LOCKLESS][k], 1000);
		CHECK(slow[TDM_AGING_READ][k] > 1000);
		CHECK(slow[TDM_AGING_WRITE][k] > slow[TDM_AGING_READ][k]);
		CHECK(pass[TDM_AGING_LOCKLESS][k] < pass[TDM_AGING_READ][k] && pass[TDM_AGING_READ][k] < pass[TDM_AGING_WRITE][k]);
	}
	/* With more vCPUs aging with the lock takes longer, and without it does not. */
	CHECK_EQ(pass[TDM_AGING_LOCKLESS][0], pass[TDM_AGING_LOCKLESS][1]);
	CHECK(pass[TDM_AGING_WRITE][1] > pass[TDM_AGING_WRITE][0]);
}
