/* SPDX-License-Identifier: MIT */
/* The size-class store: churn against a model, compaction, limits, threads. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "pool/store.h"
#include "runner/t.h"

struct object {
	u32 handle, len; /* len 0: none */
	u64 seed;
};

static u8 byte_of(u64 seed, u32 i)
{
	return (u8)((seed + i) * 0x9e3779b97f4a7c15u >> 56);
}

static void fill(u8 *p, u32 len, u64 seed)
{
	for (u32 i = 0; i < len; i++)
		p[i] = byte_of(seed, i);
}

static bool right(const u8 *p, u32 len, u64 seed)
{
	for (u32 i = 0; i < len; i++)
		if (p[i] != byte_of(seed, i))
			return false;
	return true;
}

/* Mostly what blobs are like: 1 to 2 KiB, around 20 KiB, a few tiny ones, a few of the largest. */
static u32 some_len(u64 *rng)
{
	u64 r = t_rand(rng);

	switch (r & 15) {
	case 0:
		return 1 + (u32)(r >> 8) % 200;
	case 1:
		return TDM_STORE_OBJECT_MAX - (u32)(r >> 8) % 5000;
	case 2:
	case 3:
	case 4:
		return 1 + (u32)(r >> 8) % 4096;
	default:
		return 12000 + (u32)(r >> 8) % 16000;
	}
}

static void check_object(struct tdm_store *s, const struct object *o)
{
	const u8 *p = tdmi_store_get(s, o->handle);

	CHECK(right(p, o->len, o->seed));
	tdmi_store_release(s, o->handle);
}

static u64 put(struct tdm_store *s, struct object *o, u64 *rng)
{
	static u8 buf[TDM_STORE_OBJECT_MAX];

	o->len = some_len(rng);
	o->seed = t_rand(rng);
	fill(buf, o->len, o->seed);
	CHECK_EQ(tdmi_store_put(s, buf, o->len, &o->handle), 0);
	return o->len;
}

#define N 4000u

TEST(churn_against_a_model, .seconds = 60)
{
	static struct object obj[N];
	u64 rng = t_seed(), bytes = 0;
	u32 rounds = t_slow() ? 6000 : 40000;
	struct tdm_store *s = tdmi_store_create(0);

	CHECK(s);
	for (u32 i = 0; i < rounds; i++) {
		struct object *o = &obj[t_rand(&rng) % N];

		if (o->len) {
			check_object(s, o);
			tdmi_store_drop(s, o->handle);
			bytes -= o->len;
			o->len = 0;
		} else {
			bytes += put(s, o, &rng);
		}
		if (i % 5000 == 0) {
			tdmi_store_shrink(s, 1 << 20);
			tdmi_store_check(s);
		}
	}
	/* Thin it out: what is left lies scattered over all chunks. */
	for (u32 i = 0; i < N; i++)
		if (obj[i].len && t_rand(&rng) % 10) {
			tdmi_store_drop(s, obj[i].handle);
			bytes -= obj[i].len;
			obj[i].len = 0;
		}
	printf("# %.1f MiB in %.1f MiB after churn\n", (double)bytes / (1 << 20), (double)tdmi_store_mem_bytes(s) / (1 << 20));
	tdmi_store_shrink(s, ~(u64)0);
	printf("# %.1f MiB in %.1f MiB after shrink\n", (double)bytes / (1 << 20), (double)tdmi_store_mem_bytes(s) / (1 << 20));
	tdmi_store_check(s);
	/* 15%, and the tables: two pages a class at most, and the fixed part. */
	CHECK(tdmi_store_mem_bytes(s) < bytes * 115 / 100 + (1 << 20));
	for (u32 i = 0; i < N; i++)
		if (obj[i].len) {
			check_object(s, &obj[i]);
			tdmi_store_drop(s, obj[i].handle);
		}
	tdmi_store_shrink(s, ~(u64)0);
	tdmi_store_check(s);
	CHECK_EQ(tdmi_store_object_bytes(s), 0);
	CHECK(tdmi_store_mem_bytes(s) < 1 << 20);
	tdmi_store_destroy(s);
}

TEST(every_length)
{
	struct tdm_store *s = tdmi_store_create(0);
	static u8 buf[TDM_STORE_OBJECT_MAX];

	for (u32 len = 1; len <= TDM_STORE_OBJECT_MAX; len += len < 300 ? 1 : 97) {
		struct object o = { .len = len, .seed = len };

		fill(buf, len, len);
		CHECK_EQ(tdmi_store_put(s, buf, len, &o.handle), 0);
		check_object(s, &o);
		if (len % 2)
			tdmi_store_drop(s, o.handle);
	}
	tdmi_store_check(s);
	tdmi_store_destroy(s);
}

TEST(a_pinned_object_stays)
{
	struct tdm_store *s = tdmi_store_create(0);
	static u8 buf[5000];
	u32 h[2000];
	const u8 *p[40];

	for (u32 i = 0; i < 2000; i++) {
		fill(buf, sizeof(buf), i);
		CHECK_EQ(tdmi_store_put(s, buf, sizeof(buf), &h[i]), 0);
	}
	for (u32 i = 0; i < 40; i++)
		p[i] = tdmi_store_get(s, h[i * 50]);
	for (u32 i = 0; i < 2000; i++)
		if (i % 50 && i % 7)
			tdmi_store_drop(s, h[i]);
	tdmi_store_shrink(s, ~(u64)0);
	tdmi_store_check(s);
	for (u32 i = 0; i < 40; i++) {
		CHECK(right(p[i], sizeof(buf), i * 50));
		tdmi_store_release(s, h[i * 50]);
	}
	CHECK(tdmi_store_shrink(s, ~(u64)0) > 0);
	for (u32 i = 0; i < 2000; i++)
		if (i % 50 == 0 || i % 7 == 0) {
			const u8 *q = tdmi_store_get(s, h[i]);

			CHECK(right(q, sizeof(buf), i));
			tdmi_store_release(s, h[i]);
		}
	tdmi_store_check(s);
	tdmi_store_destroy(s);
}

TEST(the_limit_holds)
{
	u64 limit = 8u << 20, rng = t_seed(), bytes = 0;
	struct tdm_store *s = tdmi_store_create(limit);
	static struct object obj[N];
	static u8 buf[TDM_STORE_OBJECT_MAX];
	u32 full = 0;

	for (u32 i = 0; i < 20000; i++) {
		struct object *o = &obj[t_rand(&rng) % N];
		u32 len = some_len(&rng);
		int r;

		if (o->len && t_rand(&rng) % 2) {
			tdmi_store_drop(s, o->handle);
			bytes -= o->len;
			o->len = 0;
		}
		if (o->len)
			continue;
		r = tdmi_store_put(s, buf, len, &o->handle);
		CHECK(r == 0 || r == -ENOSPC);
		if (!r) {
			o->len = len;
			bytes += len;
		} else {
			full++;
		}
		CHECK(tdmi_store_mem_bytes(s) <= limit);
	}
	CHECK(full > 0);
	printf("# full at %.2f of the limit\n", (double)bytes / (double)limit);
	CHECK(bytes > limit * 3 / 4);
	tdmi_store_check(s);
	tdmi_store_destroy(s);
}

TEST(speed)
{
	struct tdm_store *s = tdmi_store_create(0);
	struct timespec a, b;
	static u8 buf[1300];
	static u32 h[1024];
	u32 n = t_slow() ? 20000 : 1000000;
	double ns;

	for (u32 i = 0; i < 1024; i++)
		CHECK_EQ(tdmi_store_put(s, buf, sizeof(buf), &h[i]), 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (u32 i = 0; i < n; i++) {
		tdmi_store_drop(s, h[i * 7 % 1024]);
		tdmi_store_put(s, buf, sizeof(buf), &h[i * 7 % 1024]);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / n;
	printf("# put + drop of 1300 bytes: %.0f ns\n", ns);
	tdmi_store_destroy(s);
}

/* ---- threads --------------------------------------------------------------------------------------------------------- */

#define ENOUGH_NS 10000000000ull /* where nothing gets a CPU, fewer rounds do */

static struct tdm_store *shared;
static tdm_a32 stop;
static u64 until;

static void *churn(void *arg)
{
	u64 rng = (u64)(uintptr_t)arg;
	static _Thread_local struct object obj[200];
	static _Thread_local u8 buf[TDM_STORE_OBJECT_MAX];

	for (u32 i = 0; i < (t_slow() ? 2000u : 20000u) && (i % 64 || plat_now_ns() < until); i++) {
		struct object *o = &obj[t_rand(&rng) % 200];

		if (!o->len) {
			o->len = some_len(&rng);
			o->seed = t_rand(&rng);
			fill(buf, o->len, o->seed);
			CHECK_EQ(tdmi_store_put(shared, buf, o->len, &o->handle), 0);
		} else {
			check_object(shared, o);
			if (t_rand(&rng) % 2) {
				tdmi_store_drop(shared, o->handle);
				o->len = 0;
			}
		}
	}
	for (u32 i = 0; i < 200; i++)
		if (obj[i].len) {
			check_object(shared, &obj[i]);
			tdmi_store_drop(shared, obj[i].handle);
		}
	return NULL;
}

static void *compact(void *arg)
{
	(void)arg;
	while (!tdm_a32_ld_relaxed(&stop))
		tdmi_store_shrink(shared, ~(u64)0);
	return NULL;
}

TEST(threads_and_compaction, .seconds = 60)
{
	pthread_t t[3], c;

	shared = tdmi_store_create(0);
	until = plat_now_ns() + ENOUGH_NS;
	CHECK(!pthread_create(&c, NULL, compact, NULL));
	for (u64 i = 0; i < 3; i++)
		CHECK(!pthread_create(&t[i], NULL, churn, (void *)(uintptr_t)(t_seed() + i)));
	for (u32 i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	tdm_a32_st_relaxed(&stop, 1);
	pthread_join(c, NULL);
	tdmi_store_check(shared);
	CHECK_EQ(tdmi_store_object_bytes(shared), 0);
	tdmi_store_destroy(shared);
}

/* The parent of a fork may be reading while it is copied. The child has nobody who would ever release that. */
TEST(the_child_of_a_fork_has_no_readers)
{
	struct tdm_store *s = tdmi_store_create(0);
	u8 bytes[100] = { 1, 2, 3 };
	u32 handle;

	CHECK(s != NULL);
	CHECK_EQ(tdmi_store_put(s, bytes, sizeof(bytes), &handle), 0);
	CHECK(!memcmp(tdmi_store_get(s, handle), bytes, sizeof(bytes)));
	tdmi_store_forked(s);
	CHECK(!memcmp(tdmi_store_get(s, handle), bytes, sizeof(bytes)));
	tdmi_store_release(s, handle);
	tdmi_store_drop(s, handle);
	tdmi_store_check(s);
	tdmi_store_destroy(s);
}
