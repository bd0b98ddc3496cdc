// SPDX-License-Identifier: MIT
/*
 * test_tlb.c - a TLB may forget, but must never invent, nor keep what was flushed.
 *
 * The model is a list of all that was inserted and not flushed or replaced since. Whatever the TLB says must be in it, as it was inserted last; how much it
 * forgets is what its geometry forces it to.
 */
#include <string.h>
#include "base/bitops.h"
#include "port/tlb.h"
#include "t.h"

#define KB4 12u
#define MB2 21u
#define GB1 30u

static struct tdm_alloc alloc;
static struct tdm_tlb tlb;

static const struct tdm_tlb_config split = { .level = { { { 4, 2 }, { 2, 2 }, { 1, 2 } }, { { 16, 4 }, { 4, 4 }, { 1, 4 } } } };
static const struct tdm_tlb_config shared = { .level = { { { 4, 2 }, { 0, TDM_TLB_WITH_4K }, { 0, TDM_TLB_WITH_4K } },
							 { { 16, 4 }, { 0, TDM_TLB_WITH_4K }, { 1, 2 } } } };
static const struct tdm_tlb_config one_level = { .level = { { { 8, 4 }, { 4, 2 }, { 0, 0 } } } };

static void setup(const struct tdm_tlb_config *config)
{
	tdmi_alloc_init(&alloc);
	CHECK_EQ(tdmi_tlb_init(&tlb, config, &alloc), 0);
}

static void teardown(void)
{
	tdmi_tlb_destroy(&tlb, &alloc);
	CHECK_EQ(tdmi_alloc_used(&alloc), 0);
	tdmi_alloc_destroy(&alloc);
}

static struct tdm_pte pte(u64 pfn)
{
	return tdm_pte_mk((struct tdm_pfn){ pfn }, TDM_PTE_ACCESSED);
}

static bool hits(u32 asid, u64 va)
{
	u32 level;

	return tdmi_tlb_lookup(&tlb, asid, va, &level) != NULL;
}

TEST(what_is_no_geometry_is_refused)
{
	static const struct tdm_tlb_config bad[] = {
		{ .level = { { { 3, 2 } } } },
		{ .level = { { { 0, 2 } } } },
		{ .level = { { { 4, TDM_TLB_WAYS_MAX + 1 } } } },
		{ .level = { { { 4, TDM_TLB_WITH_4K } } } },
		{ .level = { { { 0, 0 }, { 0, TDM_TLB_WITH_4K } } } },
	};

	tdmi_alloc_init(&alloc);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++)
		CHECK_EQ(tdmi_tlb_init(&tlb, &bad[i], &alloc), -EINVAL);
	CHECK_EQ(tdmi_alloc_used(&alloc), 0);
	tdmi_alloc_destroy(&alloc);
}

TEST(each_size_hits_over_its_whole_leaf_and_no_further)
{
	static const u32 shift[] = { KB4, MB2, GB1 };
	u32 level;

	setup(&split);
	for (u32 i = 0; i < 3; i++) {
		u64 size = (u64)1 << shift[i], va = 40 * ((u64)1 << GB1);
		struct tdm_tlb_entry *e;

		tdmi_tlb_insert(&tlb, 7, va + size / 2, shift[i], pte(i + 1), NULL);
		e = tdmi_tlb_lookup(&tlb, 7, va + size - 1, &level);
		CHECK(e && e->shift == shift[i] && tdm_pte_pfn(e->pte).v == i + 1);
		CHECK_EQ(level, 0);
		CHECK(!hits(7, va | (u64)1 << 48) && !hits(7, va | (u64)1 << 61));
		CHECK(hits(7, va) && !hits(7, va - 1) && !hits(7, va + size) && !hits(8, va));
		tdmi_tlb_flush_all(&tlb);
		CHECK(!hits(7, va));
	}
	teardown();
}

/* An address that is too large would be the number of another size's leaf. */
TEST(beyond_the_last_address_nothing_hits)
{
	u32 level;

	setup(&shared);
	tdmi_tlb_insert(&tlb, 7, (u64)5 << MB2, MB2, pte(1), NULL);
	tdmi_tlb_insert(&tlb, 7, (u64)6 << KB4, KB4, pte(1), NULL);
	CHECK(tdm_tlb_hit(&tlb, 7, (u64)5 << MB2, TDM_PTE_PRESENT));
	CHECK(!tdm_tlb_hit(&tlb, 7, (u64)1 << 48 | (u64)5 << KB4, TDM_PTE_PRESENT));
	CHECK(!tdmi_tlb_lookup(&tlb, 7, (u64)1 << 48 | (u64)5 << KB4, &level));
	CHECK(!tdm_tlb_find(&tlb.array[0][0], 7, (u64)1 << 48 | (u64)5 << KB4, KB4));
	CHECK_EQ(tdmi_tlb_flush_range(&tlb, 7, (u64)1 << 48, ~(u64)0), 0);
	CHECK(hits(7, (u64)5 << MB2));
	teardown();
}

/* Leaves of one set of level 0, which has 2 ways: the one that was not used lately goes, and level 1 has it still. */
TEST(the_first_that_was_not_used_lately_goes)
{
	u64 va[5] = { 0x100000, 0x104000, 0x108000, 0x10c000, 0x110000 };
	u32 level;

	setup(&split);
	tdmi_tlb_insert(&tlb, 1, va[0], KB4, pte(1), NULL);
	tdmi_tlb_insert(&tlb, 1, va[1], KB4, pte(2), NULL);
	tdmi_tlb_insert(&tlb, 1, va[2], KB4, pte(3), NULL); /* both were used: the first goes, and the second has not been since */
	CHECK_EQ(tlb.evicted, 1);
	CHECK(tdmi_tlb_lookup(&tlb, 1, va[1], &level) && level == 0);
	CHECK(tdmi_tlb_lookup(&tlb, 1, va[0], &level) && level == 1); /* likewise: va[2] goes; then va[1] */
	CHECK(tdmi_tlb_lookup(&tlb, 1, va[0], &level) && level == 0);
	CHECK(tdmi_tlb_lookup(&tlb, 1, va[2], &level) && level == 1);
	CHECK(tdmi_tlb_lookup(&tlb, 1, va[0], &level) && level == 0);
	CHECK(tdmi_tlb_lookup(&tlb, 1, va[1], &level) && level == 1); /* all were used: va[0] goes */
	tdmi_tlb_insert(&tlb, 1, va[3], KB4, pte(4), NULL);           /* va[1] is new, va[2] has not been used since */
	CHECK(tdmi_tlb_lookup(&tlb, 1, va[1], &level) && level == 0);
	CHECK_EQ(tlb.hits[0], 4);
	CHECK_EQ(tlb.hits[1], 3);
	CHECK_EQ(tlb.misses, 0);
	CHECK(!hits(1, va[4]));
	CHECK_EQ(tlb.misses, 1);
	teardown();
}

TEST(a_flush_counts_the_entries_of_both_levels)
{
	setup(&split);
	for (u64 i = 0; i < 4; i++)
		tdmi_tlb_insert(&tlb, 1, i << KB4, KB4, pte(i), NULL);
	tdmi_tlb_insert(&tlb, 2, 0, KB4, pte(9), NULL);
	CHECK_EQ(tdmi_tlb_flush_range(&tlb, 1, 1 << KB4, 3 << KB4), 4);
	CHECK(hits(1, 0) && !hits(1, 1 << KB4) && !hits(1, 2 << KB4) && hits(1, 3 << KB4));
	CHECK_EQ(tdmi_tlb_flush_asid(&tlb, 1), 4);
	CHECK(!hits(1, 0) && hits(2, 0));
	CHECK_EQ(tdmi_tlb_flush_range(&tlb, 2, 5, 5), 0);
	CHECK_EQ(tdmi_tlb_flush_all(&tlb), 2);
	CHECK_EQ(tlb.flushed, 10);
	teardown();
}

TEST(a_size_without_an_array_is_forgotten)
{
	setup(&one_level);
	tdmi_tlb_insert(&tlb, 1, 0, GB1, pte(1), NULL);
	CHECK(!hits(1, 0));
	tdmi_tlb_insert(&tlb, 1, 0, MB2, pte(1), NULL);
	CHECK(hits(1, 0));
	teardown();
}

/* ---- against a list ------------------------------------------------------------------------------------------------------ */

#define LIST 4096u

static struct known {
	u32 asid, shift;
	u64 va, pfn;
} list[LIST];
static u32 nlist;

static void forget(u32 i)
{
	list[i] = list[--nlist];
}

static void list_insert(u32 asid, u64 va, u32 shift, u64 pfn)
{
	for (u32 i = 0; i < nlist; i++)
		if (list[i].asid == asid && list[i].shift == shift && list[i].va == va)
			forget(i--);
	CHECK(nlist < LIST);
	list[nlist++] = (struct known){ asid, shift, va, pfn };
}

static void list_flush(u32 asid, u64 start, u64 end)
{
	for (u32 i = 0; i < nlist; i++)
		if (list[i].asid == asid && list[i].va < end && list[i].va + ((u64)1 << list[i].shift) > start)
			forget(i--);
}

static void list_check(u32 asid, u64 va)
{
	u32 level;
	struct tdm_tlb_entry *e = tdmi_tlb_lookup(&tlb, asid, va, &level);

	if (!e)
		return;
	for (u32 i = 0; i < nlist; i++)
		if (list[i].asid == asid && list[i].shift == e->shift && list[i].va == va >> e->shift << e->shift) {
			CHECK_EQ(tdm_pte_pfn(e->pte).v, list[i].pfn);
			CHECK(e->bytes == (u8 *)(uintptr_t)list[i].pfn);
			return;
		}
	t_fail(__FILE__, __LINE__, "the TLB has an entry for 0x%llx that nobody gave it", (unsigned long long)va);
}

/* What the TLB believes that it has of each size. */
static void check_live(void)
{
	u32 live[TDM_TLB_LEVELS][TDM_TLB_SIZES] = { 0 };

	for (u32 k = 0; k < TDM_TLB_LEVELS * TDM_TLB_SIZES; k++) {
		u32 level = k / TDM_TLB_SIZES;
		struct tdm_tlb_array *a = &tlb.array[level][k % TDM_TLB_SIZES];

		for (u32 i = 0; a->key && !a->shared && i < (a->mask + 1) * a->ways; i++) {
			u64 key = a->key[i / a->ways * (a->ways + 1) + i % a->ways];

			if (key != TDM_TLB_EMPTY)
				live[level][(tdm_tlb_key_shift(key) - KB4) / 9]++;
		}
	}
	for (u32 k = 0; k < TDM_TLB_LEVELS * TDM_TLB_SIZES; k++)
		CHECK_EQ(live[k / TDM_TLB_SIZES][k % TDM_TLB_SIZES], tlb.array[k / TDM_TLB_SIZES][k % TDM_TLB_SIZES].live);
}

/* Addresses that collide, and leaves that lie in each other. */
static u64 somewhere(u64 *rng)
{
	u64 r = t_rand(rng);

	return ((r & 1) << GB1) + ((r >> 8 & 3) << MB2) + ((r >> 16 & 31) << KB4) + (r >> 32 & 4095);
}

static void model(const struct tdm_tlb_config *config, u64 seed)
{
	u32 rounds = t_slow() ? 20000 : 100000;
	u64 rng = seed, hit = 0;

	nlist = 0;
	setup(config);
	for (u32 k = 0; k < rounds; k++) {
		u64 r = t_rand(&rng), va = somewhere(&rng);
		u32 asid = (u32)(r >> 40) % 3, shift = r >> 32 & 7 ? KB4 : r >> 36 & 1 ? MB2 : GB1;

		switch (r % 32) {
		case 0: {
			u64 end = va + (t_rand(&rng) >> (t_rand(&rng) & 1 ? 50 : 40));

			tdmi_tlb_flush_range(&tlb, asid, va, end);
			list_flush(asid, va, end);
			break;
		}
		case 1:
			if (r >> 20 & 7)
				break;
			tdmi_tlb_flush_asid(&tlb, asid);
			list_flush(asid, 0, ~(u64)0);
			break;
		case 2:
			if (r >> 20 & 31)
				break;
			tdmi_tlb_flush_all(&tlb);
			nlist = 0;
			break;
		default:
			if (r % 32 < 16) {
				tdmi_tlb_insert(&tlb, asid, va, shift, pte(k + 1), (u8 *)(uintptr_t)(k + 1));
				list_insert(asid, va >> shift << shift, shift, k + 1);
			}
		}
		list_check(asid, somewhere(&rng));
		list_check(asid, va);
		if (k % 64 == 0)
			check_live();
	}
	hit = tlb.hits[0] + tlb.hits[1];
	CHECK(hit > rounds / 2 && tlb.misses > rounds / 16 && tlb.evicted && tlb.flushed);
	teardown();
}

TEST(against_a_list_with_an_array_for_each_size, .seconds = 60)
{
	model(&split, t_seed());
}

TEST(against_a_list_with_one_array_for_all_sizes, .seconds = 60)
{
	model(&shared, t_seed() + 1);
}

TEST(against_a_list_with_one_level, .seconds = 60)
{
	model(&one_level, t_seed() + 2);
}

/* What fits is kept: a TLB that forgets everything would pass the model. */
TEST(what_fits_is_kept)
{
	setup(&split);
	for (u64 i = 0; i < 64; i++)
		tdmi_tlb_insert(&tlb, 1, i << KB4, KB4, pte(i), NULL);
	for (u64 i = 0; i < 64; i++)
		CHECK(hits(1, i << KB4));
	CHECK_EQ(tlb.misses, 0);
	teardown();
}

static u64 trace(void)
{
	u64 rng = 5, sum = 0;

	setup(&split);
	for (u32 k = 0; k < 5000; k++) {
		u64 va = somewhere(&rng);
		u32 level = 9;

		if (!tdmi_tlb_lookup(&tlb, 1, va, &level))
			tdmi_tlb_insert(&tlb, 1, va, KB4, pte(k), NULL);
		sum = sum * 31 + level;
	}
	teardown();
	return sum;
}

TEST(the_same_again_is_the_same)
{
	CHECK_EQ(trace(), trace());
}
