/* SPDX-License-Identifier: MIT */
/* Swap: pages through every tier, with threads. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "mm/swap.h"
#include "pool/codec.h"
#include "runner/t.h"

#define PAGES TDM_BLOB_PAGES

/* Page `seed`: zeros, one word, noise, or about 3:1. */
static void make(void *page, u64 seed)
{
	u64 *w = page, rng = seed * 77;

	memset(page, 0, TDM_PAGE_SIZE);
	switch (seed % 16) {
	case 0:
		break;
	case 1:
		tdmi_page_fill(page, seed);
		break;
	case 2:
		for (u32 i = 0; i < 512; i++)
			w[i] = t_rand(&rng);
		break;
	default:
		for (u32 i = 0; i < 512; i += 4) {
			w[i] = 0x7f0000000000 + (t_rand(&rng) & 0xfffff0);
			w[i + 1] = i;
			w[i + 2] = t_rand(&rng) & 0xff;
		}
	}
}

static bool right(const void *page, u64 seed)
{
	u64 want[512];

	make(want, seed);
	return !memcmp(page, want, TDM_PAGE_SIZE);
}

static struct tdm_swap *swap_of(const char *a, const char *b, const char *c)
{
	const char *spec[] = { a, b, c };
	struct tdm_tier *tier[3];
	struct tdm_swap *s;
	char err[200] = "";
	u32 n = 0;

	for (; n < 3 && spec[n]; n++) {
		int r = tdmi_tier_create(spec[n], &tier[n], err, sizeof(err));

		if (r)
			printf("# %s\n", err);
		CHECK_EQ(r, 0);
	}
	CHECK_EQ(tdmi_swap_create(tier, n, &s), 0);
	return s;
}

struct out {
	u64 handle;
	u64 seed;      /* page i is seed + i */
	u32 n, live;
};

static int put(struct tdm_swap *s, struct tdm_swap_ws *ws, struct out *o, u32 n, u64 seed)
{
	static _Thread_local u8 page[PAGES][TDM_PAGE_SIZE];
	const void *src[PAGES] = { NULL };
	int r;

	for (u32 i = 0; i < n; i++) {
		make(page[i], seed + i);
		src[i] = page[i];
	}
	r = tdmi_swap_out(s, ws, src, n, false, &o->handle);
	if (!r) {
		o->seed = seed;
		o->n = n;
		o->live = (1u << n) - 1;
	}
	return r;
}

static void get(struct tdm_swap *s, struct tdm_swap_ws *ws, const struct out *o, u32 mask)
{
	static _Thread_local u8 page[PAGES][TDM_PAGE_SIZE];
	void *dst[PAGES];

	for (u32 i = 0; i < PAGES; i++)
		dst[i] = page[i];
	CHECK_EQ(tdmi_swap_in(s, ws, o->handle, mask, dst), 0);
	for (u32 i = 0; i < PAGES; i++)
		if (mask >> i & 1)
			CHECK(right(page[i], o->seed + i));
}

static void drop(struct tdm_swap *s, struct out *o, u32 mask)
{
	tdmi_swap_drop(s, o->handle, mask);
	o->live &= ~mask;
}

static void check_empty(struct tdm_swap *s)
{
	struct tdm_swap_stats st;

	tdmi_swap_shrink(s, ~(u64)0);
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.pages, 0);
	CHECK_EQ(st.packed_bytes, 0);
	CHECK_EQ(st.disk_bytes, 0);
	CHECK_EQ(st.out_pages, st.dropped_pages);
	CHECK(st.mem_bytes < 3 << 20);
}

#define N 400u

static void churn(struct tdm_swap *s, struct tdm_swap_ws *ws, u32 rounds)
{
	static struct out out[N];
	u64 rng = t_seed();
	struct tdm_swap_stats st;
	u64 pages = 0;

	for (u32 k = 0; k < rounds; k++) {
		struct out *o = &out[t_rand(&rng) % N];
		u32 mask = (u32)t_rand(&rng) & o->live;

		if (!o->live) {
			CHECK_EQ(put(s, ws, o, t_rand(&rng) % 3 ? 16 : 1 + (u32)t_rand(&rng) % 16, t_rand(&rng) >> 8), 0);
			pages += o->n;
			continue;
		}
		if (!mask)
			continue;
		get(s, ws, o, mask);
		if (t_rand(&rng) % 2) {
			pages -= (u32)__builtin_popcount(mask);
			drop(s, o, mask);
		}
		if (k % 97 == 0)
			tdmi_swap_demote(s, ws, t_rand(&rng) % 2000000);
		if (k % 501 == 0)
			tdmi_swap_shrink(s, 1 << 20);
	}
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.pages, pages);
	for (u32 i = 0; i < N; i++)
		if (out[i].live) {
			get(s, ws, &out[i], out[i].live);
			drop(s, &out[i], out[i].live);
		}
	check_empty(s);
}

TEST(through_every_tier, .seconds = 60)
{
	static const char *const specs[][3] = { { "lz4" }, { "zstd" }, { "file:/var/tmp" }, { "lz4", "zstd" }, { "lz4:1M", "zstd:1M", "file:/var/tmp" },
						{ "lz4", "file:/var/tmp:64M" } };
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();

	for (u32 i = 0; i < TDM_ARRAY_SIZE(specs); i++) {
		struct tdm_swap *s = swap_of(specs[i][0], specs[i][1], specs[i][2]);

		churn(s, ws, t_slow() ? 1500 : 10000);
		tdmi_swap_destroy(s);
	}
	tdmi_swap_ws_destroy(ws);
}

TEST(one_word_takes_no_bytes)
{
	struct tdm_swap *s = swap_of("lz4", NULL, NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_swap_stats st;
	u8 page[TDM_PAGE_SIZE], back[TDM_PAGE_SIZE];
	const void *src[PAGES];
	void *dst[PAGES] = { back };
	u64 h;

	tdmi_page_fill(page, 0x123456789abcdef);
	for (u32 i = 0; i < PAGES; i++)
		src[i] = page;
	CHECK_EQ(tdmi_swap_out(s, ws, src, PAGES, false, &h), 0);
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.packed_bytes, 0);
	CHECK_EQ(st.same_filled, PAGES);
	CHECK_EQ(tdmi_swap_in(s, ws, h, 1, dst), 0);
	CHECK(!memcmp(back, page, sizeof(page)));
	tdmi_swap_drop(s, h, 0xff00);
	tdmi_swap_drop(s, h, 0x00ff);
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

/* What a process reports is added up over its family: a child that began with its parent's figures would count them again. */
TEST(the_child_of_a_fork_has_done_nothing_yet)
{
	struct tdm_swap *s = swap_of("lz4", NULL, NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	u8 buf[PAGES][TDM_PAGE_SIZE];
	const void *page[PAGES];
	void *back[PAGES];
	struct tdm_swap_stats st;
	u64 handle;

	for (u32 i = 0; i < PAGES; i++) {
		make(buf[i], i + 3);
		page[i] = back[i] = buf[i];
	}
	CHECK_EQ(tdmi_swap_out(s, ws, page, PAGES, false, &handle), 0);
	CHECK_EQ(tdmi_swap_in(s, ws, handle, 1, back), 0);
	CHECK_EQ(tdmi_swap_forked(s, true), 0);
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.pages, PAGES);
	CHECK_EQ(st.out_pages, 0);
	CHECK_EQ(st.out_packed_bytes, 0);
	CHECK_EQ(st.in_pages, 0);
	CHECK_EQ(tdmi_swap_in(s, ws, handle, (1u << PAGES) - 1, back), 0);
	for (u32 i = 0; i < PAGES; i++)
		CHECK(right(buf[i], i + 3));
	tdmi_swap_drop(s, handle, (1u << PAGES) - 1);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

TEST(full_is_an_error_and_loses_nothing)
{
	struct tdm_swap *s = swap_of("lz4:1M", NULL, NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_swap_stats st;
	struct out out[200] = { 0 };
	u32 n = 0;

	while (n < 200 && !put(s, ws, &out[n], 16, n * 100 + 3))
		n++;
	CHECK(n > 20 && n < 200);
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.full, 1);
	CHECK_EQ(st.pages, n * 16);
	for (u32 i = 0; i < n; i++) {
		get(s, ws, &out[i], 0xffff);
		drop(s, &out[i], 0xffff);
	}
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

TEST(the_oldest_go_down_first)
{
	struct tdm_swap *s = swap_of("lz4:4M", "file:/var/tmp", NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_tier_stats mem, file;
	struct tdm_swap_stats st;
	static struct out out[600];

	for (u32 i = 0; i < 600; i++)
		CHECK_EQ(put(s, ws, &out[i], 16, i * 64 + 3), 0);
	tdmi_swap_stats(s, &st);
	tdmi_swap_tier(s, 0)->ops->stats(tdmi_swap_tier(s, 0), &mem);
	tdmi_swap_tier(s, 1)->ops->stats(tdmi_swap_tier(s, 1), &file);
	CHECK_EQ(st.full, 0);
	CHECK(mem.mem_bytes <= 4 << 20);
	CHECK(mem.bytes > 3 << 20);
	CHECK(file.blobs > 300);
	CHECK_EQ(mem.blobs + file.blobs, 600);
	/* The last one is still in memory: getting it reads nothing from the file. */
	get(s, ws, &out[599], 0xffff);
	tdmi_swap_tier(s, 1)->ops->stats(tdmi_swap_tier(s, 1), &file);
	CHECK_EQ(file.gets, 0);
	get(s, ws, &out[0], 1);
	tdmi_swap_tier(s, 1)->ops->stats(tdmi_swap_tier(s, 1), &file);
	CHECK_EQ(file.gets, 1);
	/* All that is left in memory, on request. */
	CHECK(tdmi_swap_demote(s, ws, ~(u64)0) > 3 << 20);
	tdmi_swap_tier(s, 0)->ops->stats(tdmi_swap_tier(s, 0), &mem);
	CHECK_EQ(mem.blobs, 0);
	CHECK(mem.mem_bytes < 1 << 20);
	for (u32 i = 0; i < 600; i++) {
		get(s, ws, &out[i], 0xffff);
		drop(s, &out[i], 0xffff);
	}
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

TEST(what_others_have_too_takes_no_memory)
{
	struct tdm_swap *s = swap_of("lz4:4M", "file:/var/tmp:16M", NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_tier_stats mem, file;
	static struct out out[2000];
	u32 n = 1;

	CHECK_EQ(put(s, ws, &out[0], 16, 3), 0);
	tdmi_swap_bypass(s, true);
	for (; n < 100; n++)
		CHECK_EQ(put(s, ws, &out[n], 16, n * 64 + 3), 0);
	tdmi_swap_tier(s, 0)->ops->stats(tdmi_swap_tier(s, 0), &mem);
	tdmi_swap_tier(s, 1)->ops->stats(tdmi_swap_tier(s, 1), &file);
	CHECK_EQ(mem.blobs, 1);
	CHECK_EQ(file.blobs, 99);
	/* Memory is better than nowhere. */
	while (n < 2000 && !put(s, ws, &out[n], 16, n * 64 + 3))
		n++;
	tdmi_swap_tier(s, 0)->ops->stats(tdmi_swap_tier(s, 0), &mem);
	CHECK(n < 2000);
	CHECK(mem.bytes > 3 << 20);
	for (u32 i = 0; i < n; i++) {
		get(s, ws, &out[i], 0xffff);
		drop(s, &out[i], 0xffff);
	}
	tdmi_swap_bypass(s, false);
	CHECK_EQ(put(s, ws, &out[0], 16, 3), 0);
	tdmi_swap_tier(s, 0)->ops->stats(tdmi_swap_tier(s, 0), &mem);
	CHECK_EQ(mem.blobs, 1);
	drop(s, &out[0], 0xffff);
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

TEST(mostly_dropped_blobs_are_packed_again)
{
	struct tdm_swap *s = swap_of("lz4", NULL, NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_swap_stats before, after;
	static struct out out[300];

	for (u32 i = 0; i < 300; i++)
		CHECK_EQ(put(s, ws, &out[i], 16, i * 64 + 3), 0);
	tdmi_swap_stats(s, &before);
	for (u32 i = 0; i < 300; i++)
		drop(s, &out[i], 0xffff & ~(1u << i % 10));
	tdmi_swap_demote(s, ws, ~(u64)0);
	tdmi_swap_shrink(s, ~(u64)0);
	tdmi_swap_stats(s, &after);
	CHECK(after.packed_bytes < before.packed_bytes / 8);
	CHECK(after.mem_bytes < before.mem_bytes / 4);
	for (u32 i = 0; i < 300; i++) {
		get(s, ws, &out[i], 1u << i % 10);
		drop(s, &out[i], 1u << i % 10);
	}
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

/* ---- kept blobs ------------------------------------------------------------------------------------------------------ */

/* Pages as they were put, but for those of wrong. */
static bool reuse(struct tdm_swap *s, struct tdm_swap_ws *ws, const struct out *o, u32 mask, u32 wrong)
{
	static _Thread_local u8 page[PAGES][TDM_PAGE_SIZE];
	const void *src[PAGES];

	for (u32 i = 0; i < PAGES; i++) {
		make(page[i], o->seed + i);
		if (wrong >> i & 1)
			page[i][4095] ^= 1;
		src[i] = page[i];
	}
	return tdmi_swap_reuse(s, ws, o->handle, mask, src);
}

TEST(unchanged_pages_are_not_packed_again)
{
	struct tdm_swap *s = swap_of("lz4", NULL, NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_swap_stats st;
	struct out o;

	CHECK_EQ(put(s, ws, &o, 16, 3), 0);
	/* Nothing may be kept at first. */
	CHECK(!tdmi_swap_keep(s, o.handle));
	tdmi_swap_keep_limit(s, 1 << 20);
	CHECK(tdmi_swap_keep(s, o.handle));
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.pages, 0);
	CHECK_EQ(st.kept_bytes, st.packed_bytes);
	CHECK(st.kept_bytes > 0);
	/* One byte is different, in the first page and in the last. */
	CHECK(!reuse(s, ws, &o, 0xffff, 1));
	CHECK(!reuse(s, ws, &o, 0xffff, 0x8000));
	CHECK(reuse(s, ws, &o, 0xffff, 0));
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.pages, 16);
	CHECK_EQ(st.reused_pages, 16);
	CHECK_EQ(st.kept_bytes, 0);
	get(s, ws, &o, 0xffff);
	tdmi_swap_forget(s, o.handle);
	get(s, ws, &o, 0xffff);
	/* Kept once more, and a part is wanted again. */
	CHECK(tdmi_swap_keep(s, o.handle));
	CHECK(reuse(s, ws, &o, 0x0ff0, 0xf00f));
	tdmi_swap_forget(s, o.handle);
	get(s, ws, &o, 0x0ff0);
	drop(s, &o, 0x0ff0);
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

TEST(kept_blobs_give_way)
{
	struct tdm_swap *s = swap_of("lz4", NULL, NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_swap_stats st;
	static struct out out[200];
	u32 kept = 0;

	tdmi_swap_keep_limit(s, 1 << 20);
	for (u32 i = 0; i < 200; i++) {
		CHECK_EQ(put(s, ws, &out[i], 16, i * 64 + 3), 0);
		out[i].live = tdmi_swap_keep(s, out[i].handle);
		kept += out[i].live;
		if (!out[i].live)
			tdmi_swap_drop(s, out[i].handle, 0xffff);
	}
	tdmi_swap_stats(s, &st);
	CHECK(kept > 20 && kept < 200);
	CHECK(st.kept_bytes <= 1 << 20);
	/* A part of one is wanted: the rest of it may be stored away from it, but what is wanted may not. */
	CHECK(reuse(s, ws, &out[0], 0x000f, 0));
	CHECK(tdmi_swap_forsake(s, ~(u64)0) > 0);
	tdmi_swap_demote(s, ws, ~(u64)0);
	tdmi_swap_stats(s, &st);
	CHECK_EQ(st.pages, 4);
	CHECK_EQ(st.kept_bytes, 0);
	CHECK(st.packed_bytes < 16 << 10);
	CHECK(!reuse(s, ws, &out[0], 0xff00, 0));
	get(s, ws, &out[0], 0x000f);
	for (u32 i = 0; i < 200; i++) {
		if (i && out[i].live)
			CHECK(!reuse(s, ws, &out[i], 0xffff, 0));
		if (out[i].live)
			tdmi_swap_forget(s, out[i].handle);
	}
	tdmi_swap_drop(s, out[0].handle, 0x000f);
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

TEST(what_changes_is_not_kept)
{
	struct tdm_swap *s = swap_of("lz4", NULL, NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	u32 kept = 0;

	tdmi_swap_keep_limit(s, 1 << 20);
	for (u32 i = 0; i < 600; i++) {
		struct out o;

		CHECK_EQ(put(s, ws, &o, 16, 3), 0);
		if (!tdmi_swap_keep(s, o.handle)) {
			tdmi_swap_drop(s, o.handle, 0xffff);
			continue;
		}
		kept += i >= 300;
		CHECK(!reuse(s, ws, &o, 0xffff, 2));
		tdmi_swap_forget(s, o.handle);
	}
	/* Now and then one is, to see whether that has changed. */
	CHECK(kept > 5 && kept < 50);
	check_empty(s);
	tdmi_swap_ws_destroy(ws);
	tdmi_swap_destroy(s);
}

/* ---- a tier that fails ------------------------------------------------------------------------------------------------ */

static int broken_put(struct tdm_tier *t, const void *blob, u32 len, u64 *handle)
{
	(void)t;
	(void)blob;
	(void)len;
	(void)handle;
	return -EIO;
}

TEST(a_broken_tier_is_passed_over)
{
	struct tdm_swap *s = swap_of("lz4", "zstd", NULL);
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	struct tdm_tier_ops ops = *tdmi_swap_tier(s, 0)->ops;
	struct tdm_tier_stats st;
	struct out o;

	ops.put = broken_put;
	tdmi_swap_tier(s, 0)->ops = &ops;
	CHECK_EQ(put(s, ws, &o, 16, 3), 0);
	tdmi_swap_tier(s, 1)->ops->stats(tdmi_swap_tier(s, 1), &st);
	CHECK_EQ(st.blobs, 1);
	get(s, ws, &o, 0xffff);
	tdmi_swap_tier(s, 1)->ops = &ops;
	{
		struct out p;

		CHECK_EQ(put(s, ws, &p, 16, 3), -EIO);
	}
	tdmi_swap_destroy(s);
	tdmi_swap_ws_destroy(ws);
}

/* ---- threads --------------------------------------------------------------------------------------------------------- */

#define SHARED 64u

static struct tdm_swap *shared;
static tdm_a32 stop;
/* A page of a shared blob belongs to whoever has taken its bit here, as the page-table lock arranges it in the engine. */
static struct {
	struct out o;
	tdm_a32 busy, live;
	pthread_mutex_t lock; /* making a new one */
} blobs[SHARED];

static void *user(void *arg)
{
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	u64 rng = (u64)(uintptr_t)arg;

	for (u32 k = 0; k < (t_slow() ? 3000u : 30000u); k++) {
		u32 b = (u32)(t_rand(&rng) % SHARED), want = (u32)(t_rand(&rng) & (t_rand(&rng) >> 16)) & 0xffff, mine = 0;

		if (t_rand(&rng) % 4 == 0)
			want = 0xffff;
		for (u32 i = 0; i < PAGES; i++)
			if ((want >> i & 1) && !(tdm_a32_or_acqrel(&blobs[b].busy, 1u << i) >> i & 1))
				mine |= 1u << i;
		want = mine & tdm_a32_ld_acquire(&blobs[b].live);
		if (want) {
			get(shared, ws, &blobs[b].o, want);
			if (want == 0xffff && t_rand(&rng) % 2 && tdmi_swap_keep(shared, blobs[b].o.handle)) {
				/* Of all, or some, of its pages it turns out that they are wanted. */
				u32 again = t_rand(&rng) % 2 ? 0xffff : 1 + (u32)(t_rand(&rng) % 0xffff);
				bool same;

				if (t_rand(&rng) % 4 == 0)
					tdmi_swap_forsake(shared, 20000);
				if (t_rand(&rng) % 2)
					plat_yield();
				same = reuse(shared, ws, &blobs[b].o, again, t_rand(&rng) % 8 ? 0 : again);
				tdm_a32_and_acqrel(&blobs[b].live, same ? again : 0);
				tdmi_swap_forget(shared, blobs[b].o.handle);
				if (same)
					get(shared, ws, &blobs[b].o, again);
			} else if (t_rand(&rng) % 2) {
				tdm_a32_and_acqrel(&blobs[b].live, ~want);
				tdmi_swap_drop(shared, blobs[b].o.handle, want);
			}
		}
		tdm_a32_and_acqrel(&blobs[b].busy, ~mine);
		if (tdm_a32_ld_acquire(&blobs[b].live) == 0 && !pthread_mutex_trylock(&blobs[b].lock)) {
			u32 none = 0;

			/* All pages dropped, and nobody looks. */
			if (tdm_a32_ld_acquire(&blobs[b].live) == 0 && tdm_a32_cas_acqrel(&blobs[b].busy, &none, 0xffff)) {
				CHECK_EQ(put(shared, ws, &blobs[b].o, 16, t_rand(&rng) >> 8), 0);
				tdm_a32_st_release(&blobs[b].live, 0xffff);
				tdm_a32_and_acqrel(&blobs[b].busy, 0);
			}
			pthread_mutex_unlock(&blobs[b].lock);
		}
	}
	tdmi_swap_ws_destroy(ws);
	return NULL;
}

static void *demoter(void *arg)
{
	struct tdm_swap_ws *ws = tdmi_swap_ws_create();
	u64 rng = (u64)(uintptr_t)arg;

	while (!tdm_a32_ld_relaxed(&stop)) {
		tdmi_swap_demote(shared, ws, t_rand(&rng) % 500000);
		if (t_rand(&rng) % 8 == 0)
			tdmi_swap_shrink(shared, 1 << 20);
	}
	tdmi_swap_ws_destroy(ws);
	return NULL;
}

static void threads(const char *a, const char *b, const char *c)
{
	pthread_t u[3], d[2];

	shared = swap_of(a, b, c);
	tdmi_swap_keep_limit(shared, 1 << 20);
	tdm_a32_st_relaxed(&stop, 0);
	for (u32 i = 0; i < SHARED; i++) {
		pthread_mutex_init(&blobs[i].lock, NULL);
		tdm_a32_st_relaxed(&blobs[i].live, 0);
	}
	for (u64 i = 0; i < 3; i++)
		CHECK(!pthread_create(&u[i], NULL, user, (void *)(uintptr_t)(t_seed() + i)));
	for (u64 i = 0; i < 2; i++)
		CHECK(!pthread_create(&d[i], NULL, demoter, (void *)(uintptr_t)(t_seed() + i)));
	for (u32 i = 0; i < 3; i++)
		pthread_join(u[i], NULL);
	tdm_a32_st_relaxed(&stop, 1);
	for (u32 i = 0; i < 2; i++)
		pthread_join(d[i], NULL);
	for (u32 i = 0; i < SHARED; i++) {
		u32 live = tdm_a32_ld_relaxed(&blobs[i].live);

		if (live)
			tdmi_swap_drop(shared, blobs[i].o.handle, live);
	}
	check_empty(shared);
	tdmi_swap_destroy(shared);
}

TEST(threads_in_memory, .seconds = 90)
{
	threads("lz4", "zstd", NULL);
}

TEST(threads_and_a_file, .seconds = 90)
{
	threads("lz4:1M", "file:/var/tmp:16M", NULL);
}
