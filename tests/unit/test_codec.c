/* SPDX-License-Identifier: MIT */
/* Blobs: every kind of page, every mask, and what is not a blob. */
#define XXH_INLINE_ALL
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "plat/sim.h"
#include "pool/codec.h"
#include "runner/t.h"

static struct tdm_codec_ws *ws;
static u8 pages[TDM_BLOB_PAGES][TDM_PAGE_SIZE], back[TDM_BLOB_PAGES][TDM_PAGE_SIZE];
static u8 blob[TDM_BLOB_MAX];

static u8 arena[4 << 20] __attribute__((aligned(4096)));

static void setup(void)
{
	tdm_sim_init(arena, sizeof(arena));
	ws = tdmi_codec_ws_create();
	CHECK(ws);
}

enum { ZEROS, BYTES, WORDS, TEXT, HEAP, NOISE, SPARSE, NUMBERS, ALPHABET, ALMOST_NOISE, KINDS };

static void make(u8 *p, u32 kind, u64 *rng)
{
	static const char *const words[] = { "the ", "engine ", "page ", "fault ", "of ", "memory ", "is ", "\n" };
	u64 w = t_rand(rng);

	memset(p, 0, TDM_PAGE_SIZE);
	switch (kind) {
	case ZEROS:
		break;
	case BYTES:
		memset(p, (int)(w & 255), TDM_PAGE_SIZE);
		break;
	case WORDS:
		tdmi_page_fill(p, w & 1 ? w : (w & 0xffffffff) * 0x100000001u);
		break;
	case TEXT:
		for (u32 i = 0; i < TDM_PAGE_SIZE;) {
			const char *s = words[t_rand(rng) % 8];

			while (*s && i < TDM_PAGE_SIZE)
				p[i++] = (u8)*s++;
		}
		break;
	case HEAP:
		for (u32 i = 0; i < TDM_PAGE_SIZE; i += 8) {
			w = i % 32 == 0 ? 0x55d0c0000000 + (t_rand(rng) & 0xffff0) : i % 32 == 8 ? t_rand(rng) & 255 : 0;
			memcpy(p + i, &w, 8);
		}
		break;
	case SPARSE:
		for (u32 i = 0; i < 20; i++)
			p[t_rand(rng) % TDM_PAGE_SIZE] = (u8)t_rand(rng);
		break;
	case NUMBERS: /* between the parts that repeat, bytes that are nearly random */
		for (u32 i = 0; i < TDM_PAGE_SIZE; i += 8) {
			static const u64 mask[8] = { 0x3fffc0, ~(u64)0, 0xff, 0xfc0, 0, 3, 0, 0 };
			static const u64 base[8] = { 0x7f5ab1e00000, 0, 0, 0x7f5ab1e00000, 0, 0, 0x3ff0000000000000, 0 };

			w = i % 64 == 8 && i % 192 != 8 ? 0 : base[i / 8 % 8] + (t_rand(rng) & mask[i / 8 % 8]);
			memcpy(p + i, &w, 8);
		}
		break;
	case ALPHABET: /* no repetitions, and not all bytes: Huffman coding gains anything from nothing to half */
		w = 40 + t_rand(rng) % 216;
		for (u32 i = 0; i < TDM_PAGE_SIZE; i++)
			p[i] = (u8)(t_rand(rng) % w);
		memset(p + t_rand(rng) % 2048, 7, t_rand(rng) % 2048);
		break;
	default:
		for (u32 i = 0; i < TDM_PAGE_SIZE; i++)
			p[i] = (u8)t_rand(rng);
		if (kind == ALMOST_NOISE)
			memset(p + 1000, 0, 400);
	}
}

static bool alone;

static u32 pack(enum tdm_codec codec, u32 n, u32 absent, struct tdm_blob_info *info)
{
	const void *src[TDM_BLOB_PAGES];
	u32 len;

	for (u32 i = 0; i < n; i++)
		src[i] = absent >> i & 1 ? NULL : pages[i];
	len = tdmi_blob_pack(ws, codec, src, n, alone, blob, info);
	CHECK(len <= TDM_BLOB_HEADER(n) + n * (TDM_BLOB_SUM + TDM_PAGE_SIZE));
	return len;
}

/* In the order given by `scatter`, destinations are neighbours or are not. */
static int unpack(u32 len, u32 mask, bool scatter)
{
	void *dst[TDM_BLOB_PAGES];

	memset(back, 0xa5, sizeof(back));
	for (u32 i = 0; i < TDM_BLOB_PAGES; i++)
		dst[i] = back[scatter ? TDM_BLOB_PAGES - 1 - i : i];
	return tdmi_blob_unpack(ws, blob, len, mask, dst);
}

static void check_pages(u32 mask, bool scatter)
{
	for (u32 i = 0; i < TDM_BLOB_PAGES; i++) {
		const u8 *p = back[scatter ? TDM_BLOB_PAGES - 1 - i : i];

		if (mask >> i & 1)
			CHECK(!memcmp(p, pages[i], TDM_PAGE_SIZE));
		else
			CHECK(p[0] == 0xa5 && p[1000] == 0xa5 && p[4095] == 0xa5); /* not written */
	}
}

TEST(round_trips, .seconds = 60)
{
	u64 rng = t_seed();
	u32 rounds = t_slow() ? 300 : 3000;

	setup();
	for (u32 round = 0; round < rounds; round++) {
		enum tdm_codec codec = 1 + (u32)t_rand(&rng) % 2;
		u32 n = 1 + (u32)t_rand(&rng) % 16, all = (1u << n) - 1;
		u32 absent = t_rand(&rng) % 4 ? 0 : (u32)t_rand(&rng) & all, len;
		struct tdm_blob_info info;

		for (u32 i = 0; i < n; i++)
			make(pages[i], (u32)t_rand(&rng) % KINDS, &rng);
		len = pack(codec, n, absent, &info);
		CHECK(!(info.same & absent) && !(info.incompressible & absent));
		for (u32 k = 0; k < 20; k++) {
			u32 mask = k ? (u32)t_rand(&rng) & all & ~absent : all & ~absent;
			bool scatter = k % 3 == 2;

			CHECK_EQ(unpack(len, mask, scatter), 0);
			check_pages(mask, scatter);
		}
		for (u32 i = 0; i < n; i++)
			CHECK_EQ(unpack(len, 1u << i, false), absent >> i & 1 ? -EBADMSG : 0);
		CHECK_EQ(unpack(len, 1u << n, false), -EBADMSG);
	}
}

/* Pages leave a blob one after the other; those that stay are what they were, and what has gone bad is not made good. */
TEST(a_blob_is_stripped_page_by_page, .seconds = 60)
{
	static u8 less[TDM_BLOB_MAX];
	u64 rng = t_seed();
	u32 rounds = t_slow() ? 100 : 1000;

	setup();
	for (u32 round = 0; round < rounds; round++) {
		enum tdm_codec codec = 1 + (u32)t_rand(&rng) % 2;
		u32 n = 1 + (u32)t_rand(&rng) % 16, live = (1u << n) - 1, bad;
		struct tdm_blob_info info;
		u32 len;
		int r;

		alone = t_rand(&rng) % 2;
		for (u32 i = 0; i < n; i++)
			make(pages[i], (u32)t_rand(&rng) % KINDS, &rng);
		len = pack(codec, n, 0, &info);
		CHECK_EQ(tdmi_blob_strip(ws, blob, len, 0, less), -EBADMSG);
		CHECK_EQ(tdmi_blob_strip(ws, blob, len, 1u << n, less), -EBADMSG);
		while (live & (live - 1)) {
			live &= ~(1u << t_rand(&rng) % n);
			live = live ? live : 1;
			r = tdmi_blob_strip(ws, blob, len, live, less);
			CHECK(r > 0 && r <= (int)sizeof(less));
			len = (u32)r;
			memcpy(blob, less, len);
			CHECK_EQ(unpack(len, live, round % 2), 0);
			check_pages(live, round % 2);
			for (u32 i = 0; i < n; i++)
				if (!(live >> i & 1))
					CHECK_EQ(unpack(len, 1u << i, false), -EBADMSG);
		}
		bad = (u32)t_rand(&rng) % len;
		blob[bad] ^= 0x10;
		r = tdmi_blob_strip(ws, blob, len, live, less);
		if (r >= 0) {
			memcpy(blob, less, (u32)r);
			CHECK_EQ(unpack((u32)r, live, false), -EBADMSG);
		}
	}
	alone = false;
}

TEST(same_filled_pages_take_no_room)
{
	static const struct {
		u64 word;
		u32 bytes;
	} t[] = { { 0, 0 }, { 0x0101010101010101, 1 }, { 0xabcdabcdabcdabcd, 2 }, { 0x1234567812345678, 4 }, { 0x0123456789abcdef, 8 },
		  { 0x00000000ffffffff, 8 }, { ~(u64)0, 1 } };
	struct tdm_blob_info info;
	u32 len;

	setup();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(t); i++) {
		u64 word;

		tdmi_page_fill(pages[0], t[i].word);
		CHECK(tdmi_page_same(pages[0], &word) && word == t[i].word);
		len = TDM_BLOB_HEADER(1) + (t[i].bytes ? TDM_BLOB_SUM + t[i].bytes : 0);
		CHECK_EQ(pack(TDM_CODEC_LZ4, 1, 0, &info), len);
		CHECK_EQ(info.same, 1);
		CHECK_EQ(unpack(len, 1, false), 0);
		check_pages(1, false);
		pages[0][4095] ^= 1;
		CHECK(!tdmi_page_same(pages[0], &word));
	}
}

TEST(noise_is_stored_raw)
{
	u64 rng = t_seed();
	struct tdm_blob_info info;

	setup();
	for (u32 i = 0; i < 16; i++)
		make(pages[i], NOISE, &rng);
	for (u32 codec = 1; codec <= 2; codec++)
		for (u32 n = 1; n <= 16; n++) {
			CHECK_EQ(pack(codec, n, 0, &info), TDM_BLOB_HEADER(n) + n * (TDM_BLOB_SUM + TDM_PAGE_SIZE));
			CHECK_EQ(info.incompressible, (1u << n) - 1);
		}
}

TEST(sixteen_pages_pack_better_than_one_by_one)
{
	struct tdm_blob_info info;
	u64 rng = t_seed();

	setup();
	for (u32 codec = 1; codec <= 2; codec++)
		for (u32 kind = TEXT; kind <= HEAP; kind++) {
			u32 lone = 0, together;

			for (u32 i = 0; i < 16; i++) {
				make(pages[0], kind, &rng);
				memcpy(pages[i], pages[0], TDM_PAGE_SIZE);
				lone += pack(codec, 1, 0, &info);
				make(pages[i], kind, &rng);
			}
			together = pack(codec, 16, 0, &info);
			CHECK(together < lone);
		}
}

/* A pair of such pages would take longer to unpack than two lone ones if its few and nearly random literals were Huffman-coded for the little that gains. */
TEST(literals_that_gain_little_are_plain)
{
	struct tdm_blob_info info;
	u64 rng = t_seed();
	u32 plain = 0;

	setup();
	for (u32 round = 0; round < 100; round++) {
		u32 len;

		make(pages[0], NUMBERS, &rng);
		make(pages[1], NUMBERS, &rng);
		len = pack(TDM_CODEC_ZSTD, 2, 0, &info);
		CHECK(len < 2200);
		plain += !(blob[TDM_BLOB_HEADER(2) + TDM_BLOB_SUM + 5] & 3); /* frame header, block header, then this */
		CHECK_EQ(unpack(len, 3, round & 1), 0);
		check_pages(3, round & 1);
	}
	CHECK(plain > 90);
	for (u32 round = 0; round < 2000; round++) {
		u32 len;

		for (u32 i = 0; i < 4; i++)
			make(pages[i], t_rand(&rng) % 4 ? ALPHABET : NUMBERS, &rng);
		len = pack(TDM_CODEC_ZSTD, 4, 0, &info);
		CHECK_EQ(unpack(len, 15, round & 1), 0);
		check_pages(15, round & 1);
	}
}

static void resum_bytes(u8 *at, const u8 *bytes, u32 len)
{
	u32 sum = (u32)XXH3_64bits(bytes, len);

	memcpy(at, &sum, sizeof(sum));
}

/* Make the hashes of what may be a blob right again, as far as there are any. */
static void resum(u8 *b, u32 len)
{
	u32 n = len > 1 ? b[1] : 0, at = TDM_BLOB_HEADER(n);

	if (!n || n > TDM_BLOB_PAGES || at > len)
		return;
	resum_bytes(b + at - TDM_BLOB_SUM, b, at - TDM_BLOB_SUM);
	for (u32 pass = 0; pass < 2; pass++)
		for (u32 i = 0; i < n; i++) {
			u32 v = (u32)b[2 + 2 * i] | (u32)b[3 + 2 * i] << 8, size = v & 0x1fff;

			/* Same-filled pages (kind 1) come first. */
			if (!size || (v >> 13 == 1) != (pass == 0))
				continue;
			if (at + TDM_BLOB_SUM + size > len)
				return;
			resum_bytes(b + at, b + at + TDM_BLOB_SUM, size);
			at += TDM_BLOB_SUM + size;
		}
}

/* Memory fails: what comes back is right, or an error. */
TEST(a_flipped_bit_is_found, .seconds = 60)
{
	u32 found = 0, unseen = 0;
	u64 rng = t_seed();

	setup();
	for (u32 round = 0; round < (t_slow() ? 8u : 40u); round++) {
		u32 n = 1 + (u32)t_rand(&rng) % 16, len, step = 1 + (u32)t_rand(&rng) % 60;
		struct tdm_blob_info info;

		for (u32 i = 0; i < n; i++)
			make(pages[i], (u32)t_rand(&rng) % KINDS, &rng);
		len = pack(1 + round % 2, n, 0, &info);
		for (u32 at = 0; at < len; at += at < 200 ? 1 : step) {
			u32 bad = 0;

			blob[at] ^= (u8)(1u << t_rand(&rng) % 8);
			for (u32 i = 0; i < n; i++) {
				int r = unpack(len, 1u << i, i & 1);

				CHECK(r == 0 || r == -EBADMSG);
				if (!r)
					check_pages(1u << i, i & 1);
				bad += r != 0;
			}
			CHECK_EQ(unpack(len, (1u << n) - 1, false), bad ? -EBADMSG : 0);
			found += bad != 0;
			unseen += bad == 0;
			len = pack(1 + round % 2, n, 0, &info);
		}
	}
	CHECK(found > 1000);
	CHECK_EQ(unseen, 0);
}

/* Flip, cut, lengthen, and invent: an error or garbage, but nothing is written that was not asked for. ASan watches the rest. */
TEST(what_is_not_a_blob_does_no_harm, .seconds = 60)
{
	u64 rng = t_seed();
	u32 rounds = t_slow() ? 20000 : 200000, bad = 0;

	setup();
	for (u32 round = 0; round < rounds; round++) {
		u32 n = 1 + (u32)t_rand(&rng) % 16, mask = (u32)t_rand(&rng) & ((1u << n) - 1), len;
		struct tdm_blob_info info;
		void *dst[TDM_BLOB_PAGES];
		u8 *copy;
		static u32 last_len;

		if (round % 50 == 0) {
			for (u32 i = 0; i < 16; i++)
				make(pages[i], (u32)t_rand(&rng) % KINDS, &rng);
			last_len = pack(1 + (u32)t_rand(&rng) % 2, n, 0, &info);
		}
		len = last_len;
		if (t_rand(&rng) % 4 == 0)
			len = (u32)t_rand(&rng) % (len + 40);
		/* Exactly as long as it says, for ASan. */
		copy = malloc(len ? len : 1);
		memcpy(copy, blob, TDM_MIN(len, last_len));
		for (u32 i = last_len; i < len; i++)
			copy[i] = (u8)t_rand(&rng);
		for (u32 k = (u32)t_rand(&rng) % 4; k-- && len;)
			copy[t_rand(&rng) % (t_rand(&rng) % 2 ? len : TDM_MIN(len, 40u))] = (u8)t_rand(&rng);
		/* As if the hashes were no obstacle. */
		if (t_rand(&rng) % 4)
			resum(copy, len);
		memset(back, 0xa5, sizeof(back));
		for (u32 i = 0; i < TDM_BLOB_PAGES; i++)
			dst[i] = mask >> i & 1 ? back[i] : NULL;
		bad += tdmi_blob_unpack(ws, copy, len, mask, dst) != 0;
		free(copy);
		for (u32 i = 0; i < TDM_BLOB_PAGES; i++)
			if (!(mask >> i & 1))
				CHECK(back[i][0] == 0xa5 && back[i][2048] == 0xa5 && back[i][4095] == 0xa5);
	}
	CHECK(bad > rounds / 10);
}
