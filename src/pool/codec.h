/* SPDX-License-Identifier: MIT */
/*
 * codec.h - the packed form of 1 to 16 pages of one block: a blob.
 *
 *   byte 0      codec (enum tdm_codec)
 *   byte 1      n, the number of pages
 *   2 .. 2+2n   per page, little endian: kind << 13 | bytes of its part
 *   4 bytes     hash of all that
 *   ...         the parts, in the order of the pages: 4 bytes of hash and the bytes; nothing where there are none
 *
 * Compressible pages are packed in pairs, two neighbours as one input of 8 KiB; an odd one is packed alone. That is how a blob gets
 * most of what a larger window can give while a page costs at most two to restore. What else was tried, and the numbers, are in codec.c.
 *
 * Memory fails, too, and a stray write of the program's may reach the engine's: what is restored has been checked. Part by part, because the hash
 * of a whole blob would cost a page as much as unpacking it (with its own part alone: 0.2 us of 2.2; bench-codec).
 * Whatever bytes are unpacked, nothing is written outside of the destinations.
 */
#ifndef TDM_POOL_CODEC_H
#define TDM_POOL_CODEC_H

#include "base/types.h"

enum tdm_codec {
	TDM_CODEC_LZ4 = 1,
	TDM_CODEC_ZSTD = 2,
};

#define TDM_BLOB_PAGES TDM_BLOCK_PAGES
#define TDM_BLOB_SUM 4u
#define TDM_BLOB_HEADER(n) (2u + 2u * (n) + TDM_BLOB_SUM)
/* No blob is longer. */
#define TDM_BLOB_MAX (TDM_BLOB_HEADER(TDM_BLOB_PAGES) + TDM_BLOB_PAGES * (TDM_BLOB_SUM + (u32)TDM_PAGE_SIZE))

/* What a pack found. */
struct tdm_blob_info {
	u32 same;           /* mask: pages filled with one repeated 8-byte word */
	u32 incompressible; /* mask: pages stored as they are */
};

/* Scratch memory of one thread: about 1 MiB of addresses, of which lz4 touches 24 KiB (40 KiB when pages are not neighbours in memory)
 * and zstd another 250 KiB. */
struct tdm_codec_ws;
struct tdm_codec_ws *tdmi_codec_ws_create(void);
void tdmi_codec_ws_destroy(struct tdm_codec_ws *ws);

/* Is the page one repeated 8-byte word? Then *word is that. */
bool tdmi_page_same(const void *page, u64 *word);
void tdmi_page_fill(void *page, u64 word);

/* Pack n (1..16) pages; a NULL page is left out and cannot be unpacked. alone: they will be wanted one by one, so no two are packed together. dst has
 * room for TDM_BLOB_MAX. The length, never negative. A page whose bytes change meanwhile unpacks to garbage; nothing else breaks. */
u32 tdmi_blob_pack(struct tdm_codec_ws *ws, enum tdm_codec codec, const void *const *pages, u32 n, bool alone, void *dst,
		   struct tdm_blob_info *info);
/* The blob without the pages that are not in the mask, at dst (TDM_BLOB_MAX); the others keep their numbers. What can be copied is; half of a pair is
 * packed again, alone. The length, or -EBADMSG. */
int tdmi_blob_strip(struct tdm_codec_ws *ws, const void *blob, u32 len, u32 mask, void *dst) TDM_MUST_CHECK;
/* Unpack the pages of the mask (bit i: page i) to dst[i]. -EBADMSG: these are not the bytes that were packed, or the page is not in them; then
 * the destinations hold anything. */
int tdmi_blob_unpack(struct tdm_codec_ws *ws, const void *blob, u32 len, u32 mask, void *const *dst) TDM_MUST_CHECK;

#endif
