/* SPDX-License-Identifier: MIT */
/*
 * test_pae.c - entries of two words (mm/pae.h): what comes between the loads of a reader, step by step. Each test is an interleaving: what other threads do at
 * the n-th window of the reader is done there by the test.
 */
#include <stdlib.h>
#include "mm/pae.h"
#include "runner/t.h"

#define SLOT 7u

static struct tdm_pae_entry entries[2][TDM_PT_ENTRIES];
static struct tdm_pae table __attribute__((aligned(64))), lower __attribute__((aligned(64)));
static void (*others)(u32 window); /* at the reader's windows, counted from 1 */
static u32 windows;
static bool inside;

void plat_window(void);
void plat_window(void)
{
	if (inside || !others)
		return;
	inside = true;
	others(++windows);
	inside = false;
}

static struct tdm_pte leaf(u64 pfn)
{
	return tdm_pte_mk((struct tdm_pfn){ pfn }, TDM_PTE_WRITE | TDM_PTE_SPECIAL);
}

/* Both have the same low word. */
#define V1 leaf(0x12345)
#define V2 leaf(0x77700000 | 0x12345)

static void start_with(struct tdm_pte pte, void (*fn)(u32))
{
	table = (struct tdm_pae){ .level = 1, .e = entries[0] };
	lower = (struct tdm_pae){ .level = 0, .e = entries[1] };
	others = NULL;
	windows = 0;
	tdm_pae_set(&table, SLOT, pte);
	others = fn;
}

static struct tdm_pte refaulted;

/* After the reader's first load the entry is zapped; after its second the same one is there again. */
static void zap_and_refault(u32 window)
{
	if (window == 1)
		tdm_pae_set(&table, SLOT, (struct tdm_pte){ 0 });
	else if (window == 2)
		tdm_pae_set(&table, SLOT, refaulted);
}

TEST(r16_torn_read_without_a_second_look)
{
	start_with(V2, zap_and_refault);
	refaulted = V2;
	CHECK_EQ(tdm_pae_get_wrong_torn(&table, SLOT).v, (u32)V2.v); /* half of it: present, and another pfn */
}

TEST(r16_a_second_look_at_low_accepts_what_never_was)
{
	struct tdm_pte got;

	start_with(V2, zap_and_refault);
	refaulted = V2;
	got = tdm_pae_get_wrong_reread(&table, SLOT);
	CHECK_EQ(got.v, (u32)V2.v);
	CHECK(tdm_pte_present(got) && tdm_pte_pfn(got).v != tdm_pte_pfn(V2).v);
	CHECK_EQ(windows, 2); /* it did not even try again */
}

/* Three entries after each other, the first and the last with one low word. */
static void three_after_each_other(u32 window)
{
	if (window == 1)
		tdm_pae_set(&table, SLOT, leaf((u64)3 << 20 | 0x999));
	else if (window == 2)
		tdm_pae_set(&table, SLOT, V2);
}

TEST(r16_low_of_one_and_high_of_another)
{
	struct tdm_pte got;

	start_with(V1, three_after_each_other);
	got = tdm_pae_get_wrong_reread(&table, SLOT);
	CHECK_EQ((u32)V1.v, (u32)V2.v);
	CHECK_EQ(tdm_pte_pfn(got).v, (u64)3 << 20 | 0x12345); /* a page that nobody has ever mapped */
	CHECK_EQ(tdm_pae_get_locked(&table, SLOT).v, V2.v);
}

/* The getter sees that the sequence has moved on, whatever low says. Its first window comes before its first load. */
static void zap_and_refault_late(u32 window)
{
	zap_and_refault(window - 1);
}

TEST(r16_the_getter_returns_what_was_there)
{
	struct tdm_pte got;

	start_with(V2, zap_and_refault_late);
	refaulted = V2;
	CHECK(!tdm_pae_try_get(&table, SLOT, &got));
	start_with(V2, zap_and_refault_late);
	CHECK_EQ(tdm_pae_get(&table, SLOT).v, V2.v);
	CHECK_EQ(windows, 6); /* at the second attempt */
}

/* Every write at every pair of windows: what is returned has been in the table, with no write in the middle of it. */
static u32 first_at, second_at;

static void at_pair(u32 window)
{
	if (window == first_at)
		tdm_pae_set(&table, SLOT, (struct tdm_pte){ 0 });
	if (window == second_at)
		tdm_pae_set(&table, SLOT, V1);
}

TEST(r16_writes_at_every_pair_of_windows)
{
	for (first_at = 1; first_at <= 8; first_at++) {
		for (second_at = first_at; second_at <= 8; second_at++) {
			struct tdm_pte got;

			start_with(V2, at_pair);
			got = tdm_pae_get(&table, SLOT);
			CHECK(got.v == V1.v || got.v == V2.v || !got.v);
		}
	}
}

/* What the words say between the stores of a writer: never present with a high word that is not its own. */
static struct tdm_pte to_be;

static void look(u32 window)
{
	struct tdm_pte now = tdm_pae_get_locked(&table, SLOT);
	struct tdm_pte got;

	(void)window;
	CHECK(!tdm_pte_present(now) || now.v == to_be.v || now.v == V2.v);
	CHECK(tdm_a32_ld_relaxed(&table.seq) & 1);
	CHECK(!tdm_pae_try_get(&table, SLOT, &got));
}

TEST(r16_a_writer_never_shows_present_with_half_an_entry)
{
	struct tdm_pte seq[] = { { 0 }, V1, { 0 }, V2, V1, leaf(1), leaf((u64)1 << 30) };

	start_with(V2, NULL);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(seq); i++) {
		to_be = seq[i];
		others = look;
		windows = 0;
		/* From one present entry to another by none. */
		if (i)
			CHECK(tdm_pae_get_locked(&table, SLOT).v == seq[i - 1].v);
		if (seq[i].v && i && seq[i - 1].v) {
			tdm_pae_set(&table, SLOT, (struct tdm_pte){ 0 });
			CHECK_EQ(windows, 2);
		}
		tdm_pae_set(&table, SLOT, seq[i]);
		CHECK(windows >= 2);
		others = NULL;
		CHECK_EQ(tdm_pae_get(&table, SLOT).v, seq[i].v);
	}
}

/* At every level: an upper entry whose halves belong to two tables would be followed to neither. */
static void moves_the_table(u32 window)
{
	if (window == 2)
		tdm_pae_set(&table, SLOT, (struct tdm_pte){ 0 });
	else if (window == 3)
		tdm_pae_set(&table, SLOT, refaulted);
}

TEST(r16_upper_levels_are_read_whole_before_they_are_followed)
{
	u64 va = (u64)SLOT << 21 | (u64)33 << 12;
	const struct tdm_pae *at;
	struct tdm_pte got;
	u32 i;

	start_with((struct tdm_pte){ 0 }, NULL);
	tdm_pae_set(&lower, 33, V2);
	refaulted = (struct tdm_pte){ (u64)(uintptr_t)&lower | TDM_PTE_PRESENT };
	tdm_pae_set(&table, SLOT, refaulted);
	others = moves_the_table;
	at = tdm_pae_walk(&table, va, &i, &got);
	CHECK(at == &lower && i == 33 && got.v == V2.v);
	CHECK(windows > 6);
	/* A leaf of the upper level, special, ends the walk. */
	others = NULL;
	tdm_pae_set(&table, SLOT, V1);
	at = tdm_pae_walk(&table, va, &i, &got);
	CHECK(at == &table && i == SLOT && got.v == V1.v && (got.v & TDM_PTE_SPECIAL));
}
