/* SPDX-License-Identifier: MIT */
/*
 * codec.c - see codec.h for the format.
 *
 * Why pairs. One page must come back for at most twice the price of a lone page, so it may depend on one other page. Candidates, lz4,
 * ratio / microseconds a page to pack / to restore (256 blocks each of text, of a C++ compiler's heap and of a Python heap; one run):
 *
 *                                    text               C++ heap           Python heap
 *     16 lone pages                  2.28  5.6  1.17    2.78  5.6  1.28    2.53  4.2  1.52
 *     page 0 is everyone's dictionary 2.48 7.8  1.58    2.97  6.1  1.38    2.58  5.5  1.56
 *     pairs                          2.47  5.7  1.14    2.90  5.4  1.31    2.58  4.1  1.46
 *     64 KiB as one (restoring one   2.95  6.1  1.37    3.15  5.2  1.31    2.67  4.0  1.39
 *       page costs up to 16)
 *
 * and zstd: lone 3.27 / 4.02 / 4.55, a dictionary 3.53 / 4.21 / 4.59, pairs 3.60 / 4.36 / 4.78, of which pairs are the fastest too. A
 * dictionary wins a little in ratio for lz4 and loses 10 to 40% of the speed. lz4 restores the first page of a pair for the price of a lone one.
 * bench/codec.c compares this file with bare lz4: `bench-codec FILE...`.
 *
 * zstd and the price of one page: literals_plain() below. Ratio, microseconds a page to pack / to restore all, one page of 16 in lone pages (one run; the
 * heaps below the table are of python3 with dictionaries, of python3 with arrays of numbers, of node):
 *
 *                               text                    programs                 records of numbers
 *     lone pages                3.31 13.2 5.0           1.91 18.0 6.5            5.03 10.7 2.7
 *     pairs, as zstd makes them 3.76 11.2 3.7 1.36      2.28 14.9 4.8 1.37       5.37  8.9 3.5 2.59
 *     literals_plain()          3.76 11.2 3.7 1.36      2.28 15.0 4.7 1.33       5.15 10.3 2.3 1.70
 *     two blocks, flushed       3.59 12.8 4.7           2.12 17.3 5.9            5.12 10.7 2.8
 *     first page as prefix      3.66 14.1 5.4           2.23 18.3 6.9            5.00 11.8 3.5
 *     no literals coded at all  2.99  9.2 2.6           2.08 11.7 3.1            5.17  6.7 2.5
 *
 * and heaps: 5.77 to 6.26, 1.19 lone pages; 1.78 to 1.80, 1.54; 5.27 to 5.63, 1.47. (The last three rows of the table are zstd by itself.)
 */
#define ZSTD_STATIC_LINKING_ONLY
#define XXH_INLINE_ALL
#include <lz4.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/check.h"
#include "plat/plat.h"
#include "pool/codec.h"

enum kind {
	KIND_ABSENT, /* no bytes */
	KIND_SAME,   /* the shortest pattern that fills the page: 0 (zeros), 1, 2, 4 or 8 bytes */
	KIND_RAW,    /* 4096 bytes */
	KIND_LONE,   /* packed alone */
	KIND_PAIR,   /* packed together with the next KIND_SECOND; the part is both */
	KIND_SECOND, /* no bytes */
};

#define PAGE ((u32)TDM_PAGE_SIZE)
/* Not worth unpacking if it does not save a sixteenth. */
#define GAIN(size) ((size) - (size) / 16u)

/* Pairs fit a window of 8 KiB; a larger hash table only costs the time to clear it. Level 1: level 3 packs 3% better at 1.2 times the time,
 * level -1 10 to 20% worse at 0.8 times. */
#define ZSTD_LEVEL 1
#define ZSTD_WINDOW_LOG 13
#define ZSTD_HASH_LOG 13

struct tdm_codec_ws {
	size_t size;
	LZ4_stream_t lz4;
	ZSTD_CCtx *cctx; /* NULL until zstd is used */
	ZSTD_DCtx *dctx;
	void *cmem, *dmem;
	size_t csize, dsize;
	u8 in[2 * TDM_PAGE_SIZE] __attribute__((aligned(64)));
	u8 out[2 * TDM_PAGE_SIZE] __attribute__((aligned(64)));
};

/* ---- workspace ------------------------------------------------------------------------------------------------------ */

struct tdm_codec_ws *tdmi_codec_ws_create(void)
{
	ZSTD_compressionParameters cp = ZSTD_getCParams(ZSTD_LEVEL, 2 * PAGE, 0);
	struct tdm_codec_ws *ws;
	size_t base = TDM_ALIGN_UP(sizeof(*ws), PAGE), csize, dsize;

	cp.windowLog = ZSTD_WINDOW_LOG;
	cp.hashLog = ZSTD_HASH_LOG;
	csize = TDM_ALIGN_UP(ZSTD_estimateCCtxSize_usingCParams(cp) + PAGE, PAGE);
	dsize = TDM_ALIGN_UP(ZSTD_estimateDCtxSize(), PAGE);
	ws = plat_map(base + csize + dsize);
	if (!ws)
		return NULL;
	ws->size = base + csize + dsize;
	ws->csize = csize;
	ws->dsize = dsize;
	ws->cmem = (u8 *)ws + base;
	ws->dmem = (u8 *)ws + base + csize;
	return ws;
}

void tdmi_codec_ws_destroy(struct tdm_codec_ws *ws)
{
	if (ws)
		plat_unmap(ws, ws->size);
}

static void cctx_init(struct tdm_codec_ws *ws)
{
	ZSTD_CCtx *c = ZSTD_initStaticCCtx(ws->cmem, ws->csize);

	TDM_BUG_ON(!c);
	ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, ZSTD_LEVEL);
	ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, ZSTD_WINDOW_LOG);
	ZSTD_CCtx_setParameter(c, ZSTD_c_hashLog, ZSTD_HASH_LOG);
	ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
	ZSTD_CCtx_setParameter(c, ZSTD_c_format, ZSTD_f_zstd1_magicless);
	ws->cctx = c;
}

static void dctx_init(struct tdm_codec_ws *ws)
{
	ZSTD_DCtx *d = ZSTD_initStaticDCtx(ws->dmem, ws->dsize);

	TDM_BUG_ON(!d);
	ZSTD_DCtx_setParameter(d, ZSTD_d_format, ZSTD_f_zstd1_magicless);
	ws->dctx = d;
}

/* ---- one part ------------------------------------------------------------------------------------------------------- */

static u32 le24(const u8 *p)
{
	return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16;
}

static void put_le24(u8 *p, u32 v)
{
	p[0] = (u8)v;
	p[1] = (u8)(v >> 8);
	p[2] = (u8)(v >> 16);
}

/*
 * Literals that Huffman coding makes smaller by less than a twelfth go in as they are. Decoding them takes as long as the rest of the page, and a
 * lone page has too few of them for a table to pay: the pair would cost more than two of those. (Whatever gains more in a pair gains in a lone page.)
 * zstd itself codes them from a sixty-fourth on, and has no parameter for that; so the frame is changed here, by the format of RFC 8878:
 *
 *   2 bytes of frame header, 3 of block header (last, type, size), literals (section header, bytes), sequences
 *
 * The literals are unpacked as a block of their own, with no sequences. The new length; the old one if there is nothing to gain or no room.
 */
static u32 literals_plain(struct tdm_codec_ws *ws, u8 *part, u32 len, u32 room)
{
	const u32 at = 5, lit_head = 3; /* the raw section's header */
	u32 block, size, packed, end, rest, more;
	u64 head = 0;
	size_t r;
	u8 next;

	if (len < at + 5)
		return len;
	block = le24(part + 2);
	memcpy(&head, part + at, 5);
	if ((block & 7) != 5 || (head & 3) != 2) /* one block, packed; Huffman with its own table */
		return len;
	switch (head >> 2 & 3) {
	case 2:
		size = head >> 4 & 0x3fff, packed = head >> 18 & 0x3fff, end = at + 4;
		break;
	case 3:
		size = head >> 4 & 0x3ffff, packed = head >> 22 & 0x3ffff, end = at + 5;
		break;
	default:
		size = head >> 4 & 0x3ff, packed = head >> 14 & 0x3ff, end = at + 3;
	}
	end += packed;
	if (end >= len || size > sizeof(ws->out) || packed < size - size / 12)
		return len;
	more = at + lit_head + size;
	if (more < end || more - end > room - len)
		return len;
	if (!ws->dctx)
		dctx_init(ws);
	next = part[end];
	put_le24(part + 2, (end + 1 - at) << 3 | 5);
	part[end] = 0;
	r = ZSTD_decompressDCtx(ws->dctx, ws->out, sizeof(ws->out), part, end + 1);
	part[end] = next;
	if (r != size) {
		put_le24(part + 2, block);
		return len;
	}
	rest = len - end;
	memmove(part + more, part + end, rest);
	put_le24(part + at, size << 4 | 0xc);
	memcpy(part + at + lit_head, ws->out, size);
	len = more + rest;
	put_le24(part + 2, (len - at) << 3 | 5);
	return len;
}

/* Pack size bytes into at most GAIN(size). 0: they do not get that small. */
static u32 part_pack(struct tdm_codec_ws *ws, enum tdm_codec codec, const void *src, u32 size, void *dst)
{
	size_t r;

	if (codec == TDM_CODEC_LZ4) {
		int k = LZ4_compress_fast_extState(&ws->lz4, src, dst, (int)size, (int)GAIN(size), 1);

		return k > 0 ? (u32)k : 0;
	}
	if (!ws->cctx)
		cctx_init(ws);
	r = ZSTD_compress2(ws->cctx, dst, GAIN(size), src, size);
	if (ZSTD_isError(r))
		return 0;
	return size > PAGE ? literals_plain(ws, dst, (u32)r, GAIN(size)) : (u32)r;
}

/* Unpack the first want of size bytes (lz4 can stop early; zstd needs room for all of them). */
static int part_unpack(struct tdm_codec_ws *ws, enum tdm_codec codec, const void *src, u32 len, void *dst, u32 want, u32 size)
{
	size_t r;

	if (codec == TDM_CODEC_LZ4) {
		int k = want < size ? LZ4_decompress_safe_partial(src, dst, (int)len, (int)want, (int)want)
				    : LZ4_decompress_safe(src, dst, (int)len, (int)size);

		return k == (int)want ? 0 : -EBADMSG;
	}
	if (!ws->dctx)
		dctx_init(ws);
	r = ZSTD_decompressDCtx(ws->dctx, dst, size, src, len);
	return r == size ? 0 : -EBADMSG;
}

bool tdmi_page_same(const void *page, u64 *word)
{
	u64 first, w[8];

	memcpy(&first, page, 8);
	for (u32 i = 0; i < PAGE; i += 64) {
		memcpy(w, (const u8 *)page + i, 64);
		if ((w[0] ^ first) | (w[1] ^ first) | (w[2] ^ first) | (w[3] ^ first) | (w[4] ^ first) | (w[5] ^ first) | (w[6] ^ first) |
		    (w[7] ^ first))
			return false;
	}
	*word = first;
	return true;
}

void tdmi_page_fill(void *page, u64 word)
{
	if (!word) {
		memset(page, 0, PAGE);
		return;
	}
	for (u32 i = 0; i < PAGE; i += 8)
		memcpy((u8 *)page + i, &word, 8);
}

static u32 same_put(u64 word, u8 *dst)
{
	u32 period = 8;

	if (!word)
		return 0;
	while (period > 1 && word >> (period * 4) == (word & (((u64)1 << (period * 4)) - 1))) {
		period /= 2;
		word &= ((u64)1 << (period * 8)) - 1;
	}
	for (u32 i = 0; i < period; i++)
		dst[i] = (u8)(word >> (8 * i));
	return period;
}

static int same_get(const u8 *src, u32 period, void *page)
{
	u64 word = 0;

	if (period > 8 || (period & (period - 1)))
		return -EBADMSG;
	for (u32 i = 0; period && i < 8; i++)
		word |= (u64)src[i & (period - 1)] << (8 * i);
	tdmi_page_fill(page, word);
	return 0;
}

/* ---- hashes --------------------------------------------------------------------------------------------------------- */

static void sum_put(u8 *at, const u8 *bytes, u32 len)
{
	u32 sum = (u32)XXH3_64bits(bytes, len);

	memcpy(at, &sum, sizeof(sum));
}

static bool sum_right(const u8 *at, const u8 *bytes, u32 len)
{
	u32 sum;

	memcpy(&sum, at, sizeof(sum));
	return sum == (u32)XXH3_64bits(bytes, len);
}

/* len bytes were written at blob + at + TDM_BLOB_SUM: the length of the part. (They are hashed as they are now, in case that the page changes.) */
static u32 part_end(u8 *blob, u32 at, u32 len)
{
	if (!len)
		return 0;
	sum_put(blob + at, blob + at + TDM_BLOB_SUM, len);
	return TDM_BLOB_SUM + len;
}

/* ---- packing -------------------------------------------------------------------------------------------------------- */

static void entry_put(u8 *blob, u32 i, enum kind kind, u32 size)
{
	u32 v = (u32)kind << 13 | size;

	blob[2 + 2 * i] = (u8)v;
	blob[3 + 2 * i] = (u8)(v >> 8);
}

static u32 raw_put(u8 *blob, u32 i, const void *page, u32 at, struct tdm_blob_info *info)
{
	entry_put(blob, i, KIND_RAW, PAGE);
	memcpy(blob + at + TDM_BLOB_SUM, page, PAGE);
	info->incompressible |= 1u << i;
	return part_end(blob, at, PAGE);
}

/* Pages a and b, or a alone when b is n; their parts begin at `at`. The bytes written. Between a and b lie only pages that have their
 * own parts elsewhere or none. */
static u32 pair_put(struct tdm_codec_ws *ws, u8 *blob, const void *const *pages, u32 a, u32 b, u32 n, u32 at, struct tdm_blob_info *info)
{
	enum tdm_codec codec = blob[0];
	const u8 *src = pages[a];
	u32 k;

	if (b == n) {
		k = part_pack(ws, codec, src, PAGE, blob + at + TDM_BLOB_SUM);
		if (!k)
			return raw_put(blob, a, src, at, info);
		entry_put(blob, a, KIND_LONE, k);
		return part_end(blob, at, k);
	}
	if ((const u8 *)pages[b] != src + PAGE) {
		memcpy(ws->in, src, PAGE);
		memcpy(ws->in + PAGE, pages[b], PAGE);
		src = ws->in;
	}
	k = part_pack(ws, codec, src, 2 * PAGE, blob + at + TDM_BLOB_SUM);
	if (k) {
		entry_put(blob, a, KIND_PAIR, k);
		entry_put(blob, b, KIND_SECOND, 0);
		return part_end(blob, at, k);
	}
	k = raw_put(blob, a, pages[a], at, info);
	return k + raw_put(blob, b, pages[b], at + k, info);
}

u32 tdmi_blob_pack(struct tdm_codec_ws *ws, enum tdm_codec codec, const void *const *pages, u32 n, bool alone, void *dst,
		   struct tdm_blob_info *info)
{
	u8 *blob = dst;
	u32 at = TDM_BLOB_HEADER(n), first = n;
	u64 words[TDM_BLOB_PAGES];

	TDM_BUG_ON(!n || n > TDM_BLOB_PAGES || (codec != TDM_CODEC_LZ4 && codec != TDM_CODEC_ZSTD));
	*info = (struct tdm_blob_info){ 0 };
	blob[0] = (u8)codec;
	blob[1] = (u8)n;
	/* The parts of same-filled pages come first: then a pair has no part between its two pages. */
	for (u32 i = 0; i < n; i++) {
		u32 k;

		entry_put(blob, i, KIND_ABSENT, 0);
		if (!pages[i] || !tdmi_page_same(pages[i], &words[i]))
			continue;
		info->same |= 1u << i;
		k = same_put(words[i], blob + at + TDM_BLOB_SUM);
		entry_put(blob, i, KIND_SAME, k);
		at += part_end(blob, at, k);
	}
	for (u32 i = 0; i < n; i++) {
		if (!pages[i] || (info->same >> i & 1))
			continue;
		if (alone) {
			at += pair_put(ws, blob, pages, i, n, n, at, info);
			continue;
		}
		if (first == n) {
			first = i;
			continue;
		}
		at += pair_put(ws, blob, pages, first, i, n, at, info);
		first = n;
	}
	if (first != n)
		at += pair_put(ws, blob, pages, first, n, n, at, info);
	sum_put(blob + TDM_BLOB_HEADER(n) - TDM_BLOB_SUM, blob, TDM_BLOB_HEADER(n) - TDM_BLOB_SUM);
	return at;
}

/* ---- unpacking ------------------------------------------------------------------------------------------------------ */

struct part {
	enum kind kind;
	u32 size, at;
};

/* Read the header; the parts must fill the blob exactly. */
static int header_get(const u8 *blob, u32 len, struct part *part, u32 *n_out)
{
	u32 n, at;

	if (len < 2 || (blob[0] != TDM_CODEC_LZ4 && blob[0] != TDM_CODEC_ZSTD))
		return -EBADMSG;
	n = blob[1];
	if (!n || n > TDM_BLOB_PAGES || len < TDM_BLOB_HEADER(n) || len > TDM_BLOB_MAX)
		return -EBADMSG;
	at = TDM_BLOB_HEADER(n);
	if (!sum_right(blob + at - TDM_BLOB_SUM, blob, at - TDM_BLOB_SUM))
		return -EBADMSG;
	for (u32 pass = 0; pass < 2; pass++) {
		for (u32 i = 0; i < n; i++) {
			u32 v = (u32)blob[2 + 2 * i] | (u32)blob[3 + 2 * i] << 8;

			part[i].kind = v >> 13;
			part[i].size = v & 0x1fff;
			if ((part[i].kind == KIND_SAME) != (pass == 0))
				continue;
			at += part[i].size ? TDM_BLOB_SUM : 0;
			part[i].at = at;
			at += part[i].size;
		}
	}
	*n_out = n;
	return at == len ? 0 : -EBADMSG;
}

/* The pair of pages a and b (b may be n: none): restore those that are wanted. */
static int pair_get(struct tdm_codec_ws *ws, const u8 *blob, const struct part *p, u32 a, u32 b, u32 mask, void *const *dst)
{
	enum tdm_codec codec = blob[0];
	bool want_a = mask >> a & 1, want_b = mask >> b & 1;
	const u8 *src = blob + p->at;
	int r;

	if (want_a && !want_b && codec == TDM_CODEC_LZ4)
		return part_unpack(ws, codec, src, p->size, dst[a], PAGE, 2 * PAGE);
	if (want_a && want_b && (u8 *)dst[b] == (u8 *)dst[a] + PAGE)
		return part_unpack(ws, codec, src, p->size, dst[a], 2 * PAGE, 2 * PAGE);
	r = part_unpack(ws, codec, src, p->size, ws->out, 2 * PAGE, 2 * PAGE);
	if (r)
		return r;
	if (want_a)
		memcpy(dst[a], ws->out, PAGE);
	if (want_b)
		memcpy(dst[b], ws->out + PAGE, PAGE);
	return 0;
}

static bool part_right(const u8 *blob, const struct part *p)
{
	return !p->size || sum_right(blob + p->at - TDM_BLOB_SUM, blob + p->at, p->size);
}

static u32 second_of(const struct part *part, u32 i, u32 n)
{
	for (i++; i < n && part[i].kind != KIND_SECOND; i++)
		if (part[i].kind == KIND_PAIR)
			return n;
	return i;
}

int tdmi_blob_unpack(struct tdm_codec_ws *ws, const void *blob, u32 len, u32 mask, void *const *dst)
{
	struct part part[TDM_BLOB_PAGES];
	const u8 *b = blob;
	u32 n, left = mask;
	int r = header_get(b, len, part, &n);

	if (r)
		return r;
	if (mask >> n)
		return -EBADMSG;
	for (u32 i = 0; i < n && left; i++) {
		const struct part *p = &part[i];
		u32 done = 1u << i, second;

		r = 0;
		if (p->kind == KIND_PAIR) {
			second = second_of(part, i, n);
			if (second == n)
				return -EBADMSG;
			done |= 1u << second;
			if (left & done)
				r = part_right(b, p) ? pair_get(ws, b, p, i, second, left, dst) : -EBADMSG;
		} else if (left & done) {
			if (!part_right(b, p))
				return -EBADMSG;
			if (p->kind == KIND_SAME)
				r = same_get(b + p->at, p->size, dst[i]);
			else if (p->kind == KIND_RAW && p->size == PAGE)
				memcpy(dst[i], b + p->at, PAGE);
			else if (p->kind == KIND_LONE)
				r = part_unpack(ws, b[0], b + p->at, p->size, dst[i], PAGE, PAGE);
			else
				return -EBADMSG;
		}
		if (r)
			return r;
		left &= ~done;
	}
	return left ? -EBADMSG : 0;
}

/* ---- fewer pages ---------------------------------------------------------------------------------------------------- */

static u32 part_copy(u8 *out, u32 i, const u8 *blob, const struct part *p, u32 at)
{
	entry_put(out, i, p->kind, p->size);
	if (!p->size)
		return 0;
	/* Its hash, too: bytes that have gone bad stay so. */
	memcpy(out + at, blob + p->at - TDM_BLOB_SUM, TDM_BLOB_SUM + p->size);
	return TDM_BLOB_SUM + p->size;
}

int tdmi_blob_strip(struct tdm_codec_ws *ws, const void *blob, u32 len, u32 mask, void *dst)
{
	struct part part[TDM_BLOB_PAGES];
	struct tdm_blob_info info = { 0 };
	const u8 *b = blob;
	u8 *out = dst;
	u32 n, keep, at;
	int r = header_get(b, len, part, &n);

	if (r || !mask || mask >> n)
		return -EBADMSG;
	keep = 32u - (u32)__builtin_clz(mask);
	out[0] = b[0];
	out[1] = (u8)keep;
	at = TDM_BLOB_HEADER(keep);
	for (u32 i = 0; i < keep; i++) {
		entry_put(out, i, KIND_ABSENT, 0);
		if ((mask >> i & 1) && part[i].kind == KIND_SAME)
			at += part_copy(out, i, b, &part[i], at);
	}
	for (u32 i = 0; i < keep; i++) {
		u32 second, half;
		const void *page[TDM_BLOB_PAGES] = { NULL };
		void *to[TDM_BLOB_PAGES] = { NULL };

		if (part[i].kind != KIND_PAIR) {
			if ((mask >> i & 1) && (part[i].kind == KIND_RAW || part[i].kind == KIND_LONE))
				at += part_copy(out, i, b, &part[i], at);
			continue;
		}
		second = second_of(part, i, n);
		if (second == n)
			return -EBADMSG;
		if ((mask >> i & 1) && (mask >> second & 1)) {
			at += part_copy(out, i, b, &part[i], at);
			entry_put(out, second, KIND_SECOND, 0);
		} else if (((mask >> i) | (mask >> second)) & 1) {
			half = mask >> i & 1 ? i : second;
			page[half] = to[half] = ws->in;
			r = !part_right(b, &part[i]) ? -EBADMSG : pair_get(ws, b, &part[i], i, second, 1u << half, to);
			if (r)
				return r;
			at += pair_put(ws, out, page, half, keep, keep, at, &info);
		}
	}
	sum_put(out + TDM_BLOB_HEADER(keep) - TDM_BLOB_SUM, out, TDM_BLOB_HEADER(keep) - TDM_BLOB_SUM);
	return (int)at;
}
