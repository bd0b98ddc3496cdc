// SPDX-License-Identifier: MIT
/* test_range_fault_states.c - what is at a range: every state of an entry against every request. */
#include "range_fault_world.h"

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
