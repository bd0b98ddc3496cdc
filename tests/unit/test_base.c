// SPDX-License-Identifier: MIT
/* test_base.c - the small headers: lists, bits, text, error names, lock ranks. */
#include <string.h>
#include "base/bitops.h"
#include "base/check.h"
#include "base/err.h"
#include "base/fmt.h"
#include "base/list.h"
#include "base/lockrank.h"
#include "t.h"

/* ---- list.h ------------------------------------------------------------------------------------------------------------ */

struct item {
	int n;
	struct tdm_list link;
};

/* The numbers in the list as a decimal number, forwards; checked backwards. */
static int digits(const struct tdm_list *l)
{
	int forwards = 0, backwards = 0, power = 1;

	for (struct tdm_list *n = l->next; n != l; n = n->next)
		forwards = forwards * 10 + tdm_container_of(n, struct item, link)->n;
	for (struct tdm_list *n = l->prev; n != l; n = n->prev, power *= 10)
		backwards += power * tdm_container_of(n, struct item, link)->n;
	CHECK_EQ(forwards, backwards);
	return forwards;
}

TEST(list_order)
{
	struct item i[6];
	struct tdm_list a, b;

	tdm_list_init(&a);
	tdm_list_init(&b);
	CHECK(tdm_list_empty(&a) && !tdm_list_first(&a) && !tdm_list_last(&a));
	for (int k = 1; k < 6; k++) {
		i[k].n = k;
		tdm_list_add_tail(&a, &i[k].link);
	}
	CHECK_EQ(digits(&a), 12345);
	tdm_list_del(&i[3].link);
	tdm_list_del(&i[3].link); /* twice does no harm */
	CHECK_EQ(digits(&a), 1245);
	tdm_list_add_head(&a, &i[3].link);
	CHECK_EQ(digits(&a), 31245);
	tdm_list_move_tail(&a, &i[1].link);
	CHECK_EQ(digits(&a), 32451);
	CHECK(tdm_list_first(&a) == &i[3].link && tdm_list_last(&a) == &i[1].link);
	tdm_list_splice_tail(&b, &a);
	CHECK(tdm_list_empty(&a));
	tdm_list_splice_tail(&b, &a);
	CHECK_EQ(digits(&b), 32451);
	tdm_list_move_tail(&a, &i[5].link);
	tdm_list_splice_tail(&b, &a);
	CHECK_EQ(digits(&b), 32415);
	tdm_list_for_each_safe(n, &b)
		if (tdm_container_of(n, struct item, link)->n % 2)
			tdm_list_del(n);
	CHECK_EQ(digits(&b), 24);
}

/* ---- bitops.h ---------------------------------------------------------------------------------------------------------- */

TEST(bits_of_a_word)
{
	CHECK_EQ(TDM_BITS(0, 64), ~(u64)0);
	CHECK_EQ(TDM_BITS(0, 0), 0);
	CHECK_EQ(TDM_BITS(64, 64), 0);
	CHECK_EQ(TDM_BITS(4, 8), 0xf0);
	CHECK_EQ(TDM_BITS(63, 64), (u64)1 << 63);
	CHECK_EQ(tdm_lowest_bit(0x50), 4);
	CHECK_EQ(tdm_highest_bit(0x50), 6);
	CHECK_EQ(tdm_count_bits(~(u64)0), 64);
	CHECK(tdm_is_pow2(1) && tdm_is_pow2((u64)1 << 63) && !tdm_is_pow2(0) && !tdm_is_pow2(6));
	CHECK_EQ(tdm_log2_up(0), 0);
	CHECK_EQ(tdm_log2_up(1), 0);
	CHECK_EQ(tdm_log2_up(4), 2);
	CHECK_EQ(tdm_log2_up(5), 3);
	CHECK_EQ(tdm_log2_up(((u64)1 << 63) + 1), 64);
}

#define NBITS 300u

/* Against an array of bools, with every operation at random places. */
TEST(bitmap_is_an_array_of_bools)
{
	u64 map[TDM_BITMAP_WORDS(NBITS) + 1] = { 0 }, guard = 0x1234567890abcdefull, seed = t_seed();
	bool model[NBITS] = { 0 };

	map[TDM_BITMAP_WORDS(NBITS)] = guard;
	for (int round = 0; round < 20000; round++) {
		u64 a = t_rand(&seed) % (NBITS + 1), b = t_rand(&seed) % (NBITS + 1), from = TDM_MIN(a, b), to = TDM_MAX(a, b);
		u64 n = 0, first = to, first_clear = to, seen = 0;
		u32 op = (u32)(t_rand(&seed) % 4);

		if (op == 0)
			tdm_bitmap_set_range(map, from, to);
		else if (op == 1)
			tdm_bitmap_clear_range(map, from, to);
		else if (op == 2 && from < NBITS)
			tdm_bitmap_set(map, from);
		else if (op == 3 && from < NBITS)
			tdm_bitmap_clear(map, from);
		for (u64 i = from; i < (op < 2 ? to : TDM_MIN(from + 1, NBITS)); i++)
			model[i] = op % 2 == 0;
		for (u64 i = to; i-- > from;) {
			n += model[i];
			*(model[i] ? &first : &first_clear) = i;
		}
		CHECK_EQ(tdm_bitmap_count(map, from, to), n);
		CHECK_EQ(tdm_bitmap_next(map, from, to), first);
		CHECK_EQ(tdm_bitmap_next_clear(map, from, to), first_clear);
		tdm_bitmap_for_each(i, map, from, to) {
			CHECK(model[i] && tdm_bitmap_test(map, i));
			seen++;
		}
		CHECK_EQ(seen, n);
		CHECK_EQ(map[TDM_BITMAP_WORDS(NBITS)], guard);
	}
}

/* ---- fmt.h ------------------------------------------------------------------------------------------------------------- */

/* Ours says what printf says. */
#define SAME(...)                                                                                                        \
	do {                                                                                                             \
		char ours[100], theirs[100];                                                                             \
		size_t n = tdmi_fmt(ours, sizeof(ours), __VA_ARGS__);                                                    \
		CHECK_EQ(n, snprintf(theirs, sizeof(theirs), __VA_ARGS__));                                              \
		CHECK_STR(ours, theirs);                                                                                 \
	} while (0)

TEST(fmt_is_printf)
{
	int x;

	SAME("nothing");
	SAME("%s and %s, 100%%", "one", "two");
	SAME("%c%c", 'a', 'b');
	SAME("%d %d %d", 0, -1, INT32_MIN);
	SAME("%ld %lld", INT64_MIN, (long long)INT64_MAX);
	SAME("%u %lu %zu", UINT32_MAX, UINT64_MAX, (size_t)7);
	SAME("%x %lx %llx", 0xdeadbeefu, 0x123456789abcdefful, ~0ull);
	SAME("%p", (void *)&x);
	SAME("[%5d|%-5d|%05d|%2d]", 42, 42, -42, 12345);
	SAME("[%8s|%-8s|%.2s|%*s|%.*s]", "abc", "abc", "abc", 6, "abc", 1, "abc");
	SAME("[%08lx]", 0xfful);
}

TEST(fmt_keeps_to_its_buffer)
{
	char buf[8] = "zzzzzzz";

	CHECK_EQ(tdmi_fmt(buf, 4, "%s", "abcdef"), 6);
	CHECK_STR(buf, "abc");
	CHECK_EQ(buf[4], 'z');
	CHECK_EQ(tdmi_fmt(buf, 0, "%d", 123), 3);
	CHECK_STR(buf, "abc");
	CHECK_EQ(tdmi_fmt(buf, 1, "x"), 1);
	CHECK_STR(buf, "");
	CHECK_EQ(tdmi_fmt(buf, 7, "%s", "abcdef"), 6);
	CHECK_STR(buf, "abcdef");
}

TEST(sizes_parse)
{
	static const struct {
		const char *s;
		int err;
		u64 bytes;
	} cases[] = {
		{ "0", 0, 0 },
		{ "4096", 0, 4096 },
		{ "17b", 0, 17 },
		{ "64K", 0, 65536 },
		{ "64k", 0, 65536 },
		{ "256M", 0, (u64)256 << 20 },
		{ "1.5G", 0, (u64)3 << 29 },
		{ "0.25kb", 0, 256 },
		{ "2TiB", 0, (u64)2 << 40 },
		{ "15.5E", 0, (u64)31 << 59 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "1.000000000000000000001K", 0, 1024 },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "16E", -ERANGE, 0 },
		{ "99999999999T", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "K", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 K", -EINVAL, 0 },
		{ "1.", -EINVAL, 0 },
		{ "1.5", -EINVAL, 0 },
		{ ".5K", -EINVAL, 0 },
		{ "1X", -EINVAL, 0 },
		{ "1Ki", -EINVAL, 0 },
		{ "1KK", -EINVAL, 0 },
		{ "1BB", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
		{ "99999999999999999999X", -EINVAL, 0 },
	};

	for (u32 i = 0; i < TDM_ARRAY_SIZE(cases); i++) {
		u64 bytes = 0;

		if (tdmi_parse_size(cases[i].s, &bytes) != cases[i].err || bytes != cases[i].bytes)
			t_fail(__FILE__, __LINE__, "\"%s\": %d, %llu", cases[i].s, tdmi_parse_size(cases[i].s, &bytes),
			       (unsigned long long)bytes);
	}
}

TEST(numbers_parse)
{
	u64 x = 5;

	CHECK_EQ(tdmi_parse_u64("18446744073709551615", &x), 0);
	CHECK_EQ(x, UINT64_MAX);
	CHECK_EQ(tdmi_parse_u64("18446744073709551616", &x), -ERANGE);
	CHECK_EQ(tdmi_parse_u64("", &x), -EINVAL);
	CHECK_EQ(tdmi_parse_u64("12a", &x), -EINVAL);
	CHECK_EQ(tdmi_parse_u64("-1", &x), -EINVAL);
	CHECK_EQ(x, UINT64_MAX);
}

TEST(sizes_are_said)
{
	static const struct {
		u64 bytes;
		const char *s;
	} cases[] = {
		{ 0, "0 B" },
		{ 1023, "1023 B" },
		{ 1024, "1.0 KiB" },
		{ 1536, "1.5 KiB" },
		{ 312 * 1024, "312 KiB" },
		{ 999 * 1024, "999 KiB" },
		{ 1000 * 1024, "1.0 MiB" },
		{ (u64)3 << 29, "1.5 GiB" },
		{ (u64)10 << 30, "10 GiB" },
		{ UINT64_MAX, "16 EiB" },
	};

	for (u32 i = 0; i < TDM_ARRAY_SIZE(cases); i++) {
		char buf[32];

		tdmi_fmt_size(buf, sizeof(buf), cases[i].bytes);
		CHECK_STR(buf, cases[i].s);
	}
}

/* ---- err.h ------------------------------------------------------------------------------------------------------------- */

TEST(errors_have_names)
{
	CHECK_STR(tdmi_err_name(-ENOSPC), "ENOSPC");
	CHECK_STR(tdmi_err_name(ENOSPC), "ENOSPC");
	CHECK_STR(tdmi_err_text(-EIO), "input/output error");
	CHECK_STR(tdmi_err_name(12345), "E?");
	CHECK_STR(tdmi_err_text(12345), "unknown error");
	/* glibc knows the names too: none of ours is wrong. */
	for (int e = 1; e < 200; e++)
		if (strcmp(tdmi_err_name(e), "E?") != 0)
			CHECK_STR(tdmi_err_name(e), strerrorname_np(e));
}

/* ---- lockrank.h, check.h ----------------------------------------------------------------------------------------------- */

TEST(locks_in_order)
{
	struct plat_mutex m[3];

	plat_mutex_init(&m[0], TDM_RANK_PT1);
	plat_mutex_init(&m[1], TDM_RANK_PT0);
	plat_mutex_init(&m[2], TDM_RANK_PT0);
	for (int i = 0; i < 3; i++)
		plat_mutex_lock(&m[i]);
	CHECK(!plat_mutex_trylock(&m[1]));
	CHECK(!tdmi_lockrank_none_held());
	for (int i = 0; i < 3; i++) /* the order of release is free */
		plat_mutex_unlock(&m[i]);
	CHECK(tdmi_lockrank_none_held());
	/* A trylock may come in any order. */
	plat_mutex_lock(&m[2]);
	CHECK(plat_mutex_trylock(&m[0]));
	plat_mutex_unlock(&m[2]);
	plat_mutex_lock(&m[1]);
	plat_mutex_unlock(&m[1]);
	plat_mutex_unlock(&m[0]);
	CHECK(tdmi_lockrank_none_held());
}

TEST_DIES(lock_below, "lock taken out of order")
{
	struct plat_mutex m[2];

	plat_mutex_init(&m[0], TDM_RANK_LRU);
	plat_mutex_init(&m[1], TDM_RANK_PT0);
	plat_mutex_lock(&m[0]);
	plat_mutex_lock(&m[1]);
}

TEST_DIES(lock_beside_downwards, "lock taken out of order")
{
	struct plat_mutex m[2];

	plat_mutex_init(&m[0], TDM_RANK_PT0);
	plat_mutex_init(&m[1], TDM_RANK_PT0);
	plat_mutex_lock(&m[1]);
	plat_mutex_lock(&m[0]);
}

TEST_DIES(lock_below_a_trylock, "lock taken out of order")
{
	struct plat_mutex m[3];

	plat_mutex_init(&m[0], TDM_RANK_LRU);
	plat_mutex_init(&m[1], TDM_RANK_EVENT);
	plat_mutex_init(&m[2], TDM_RANK_PT0);
	plat_mutex_lock(&m[0]);
	CHECK(plat_mutex_trylock(&m[1]));
	plat_mutex_lock(&m[2]); /* above the last, below the first */
}

TEST_DIES(lock_twice, "deadlock")
{
	struct plat_mutex m;

	plat_mutex_init(&m, TDM_RANK_LRU);
	plat_mutex_lock(&m);
	plat_mutex_lock(&m);
}

TEST_DIES(bug_says_where, "tandem: bug: 1 + 1 == 2 at ")
{
	TDM_BUG_ON(1 + 1 == 2);
}
