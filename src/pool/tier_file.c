/* SPDX-License-Identifier: MIT */
/*
 * tier_file.c - a tier in a file that has no name: blobs, encrypted and checked. See tier_file.h.
 *
 * A blob is encrypted with XChaCha20 under a key that lives only in this process; its nonce is used once. What comes back is checked
 * against a hash of the plain bytes, the handle and the nonce, which stays in memory where the file's owner cannot reach it.
 */
#define XXH_INLINE_ALL
#include <sodium.h>
#include <string.h>
#include <xxhash.h>

#include "base/lockrank.h"
#include "pool/codec.h"
#include "pool/tier_file.h"

#define TIER_BYTES TDM_ALIGN_UP(sizeof(struct file_tier), TDM_PAGE_SIZE)

static struct file_tier *self(const struct tdm_tier *t)
{
	return tdm_container_of((uintptr_t)t, struct file_tier, base);
}

static void crypt_bytes(const struct file_tier *t, u64 nonce, const void *src, u32 len, void *dst)
{
	u8 n[crypto_stream_xchacha20_NONCEBYTES] = { 0 };

	memcpy(n, &nonce, sizeof(nonce));
	(void)crypto_stream_xchacha20_xor(dst, src, len, n, t->key);
}

static u64 hash(const void *plain, u32 len, u64 handle, u64 nonce)
{
	return XXH3_64bits_withSeed(plain, len, nonce ^ handle * 0x9e3779b97f4a7c15u);
}

/* ---- entries --------------------------------------------------------------------------------------------------------- */

static int entry_take(struct file_tier *t, u32 *out)
{
	u32 i = t->free_entry;

	if (i != NONE) {
		t->free_entry = entry_at(t, i)->seg;
		*out = i;
		return 0;
	}
	i = t->nentries;
	if (i == ENTRY_BLOCK * ENTRY_BLOCKS_MAX)
		return -ENOSPC;
	if (i % ENTRY_BLOCK == 0) {
		size_t size = TDM_ALIGN_UP(ENTRY_BLOCK * sizeof(struct entry), TDM_PAGE_SIZE);

		t->entries[i / ENTRY_BLOCK] = plat_map(size);
		if (!t->entries[i / ENTRY_BLOCK])
			return -ENOMEM;
		count(&t->mem, size);
	}
	t->nentries++;
	*out = i;
	return 0;
}

static void entry_free(struct file_tier *t, u32 i)
{
	struct entry *e = entry_at(t, i);

	e->len = 0;
	e->seg = t->free_entry;
	t->free_entry = i;
}

/* ---- operations ------------------------------------------------------------------------------------------------------ */

static int file_put(struct tdm_tier *tier, const void *blob, u32 len, u64 *handle)
{
	struct file_tier *t = self(tier);
	struct entry *e = NULL;
	u32 i, seg, off;
	u8 *dst;
	int r;

	TDM_BUG_ON(!len || len > TDM_BLOB_MAX);
	plat_mutex_lock(&t->lock);
	r = tdmi_seglog_retry_unlock_lock(t);
	if (!r)
		r = entry_take(t, &i);
	if (r)
		goto out_unlock;
	r = tdmi_seglog_reserve_unlock_lock(t, len, false, &seg, &off);
	if (r) {
		entry_free(t, i);
		goto out_unlock;
	}
	e = entry_at(t, i);
	*e = (struct entry){ .off = off, .len = len, .nonce = t->nonce++ };
	tdmi_seglog_link(t, i, seg);
	dst = t->buf[seg_at(t, seg)->buf].mem + off;
	plat_mutex_unlock(&t->lock);

	/* Nobody else knows the entry yet, and a segment with a writer stays where it is. */
	e->sum = hash(blob, len, i, e->nonce);
	crypt_bytes(t, e->nonce, blob, len, dst);

	plat_mutex_lock(&t->lock);
	tdmi_seglog_written_unlock_lock(t, seg);
	*handle = i;
	count(&t->blobs, 1);
	count(&t->bytes, len);
	count(&t->puts, 1);
	count(&t->put_bytes, len);
out_unlock:
	plat_mutex_unlock(&t->lock);
	return r;
}

/* Read the pages that hold the blob into buf. */
static int read_disk_unlock_lock(struct file_tier *t, const struct entry *e, void *buf, u32 *at)
{
	struct seg *s = seg_at(t, e->seg);
	u32 first = (u32)TDM_ALIGN_DOWN(e->off, TDM_PAGE_SIZE), end = (u32)TDM_ALIGN_UP(e->off + e->len, TDM_PAGE_SIZE);
	struct plat_io io = { .file = t->files[s->file].fd, .buf = buf, .len = end - first, .off = (u64)s->slot * SEG_SIZE + first };
	int r;

	s->readers++;
	plat_mutex_unlock(&t->lock);
	r = plat_file_io(&io);
	if (r) {
		count(&t->errors, 1);
		r = plat_file_io(&io);
	}
	plat_mutex_lock(&t->lock);
	tdmi_seglog_seg_put_unlock_lock(t, e->seg);
	*at = e->off - first;
	return r ? -EIO : 0;
}

static int file_get(struct tdm_tier *tier, u64 handle, u32 len, void *buf, const void **ptr)
{
	struct file_tier *t = self(tier);
	struct entry e;
	struct seg *s;
	u32 at = 0;
	int r = 0;

	plat_mutex_lock(&t->lock);
	TDM_BUG_ON(handle >= t->nentries);
	e = *entry_at(t, (u32)handle);
	TDM_BUG_ON(e.len != len);
	s = seg_at(t, e.seg);
	count(&t->gets, 1);
	count(&t->get_bytes, len);
	if (s->state == SEG_STAGED) {
		struct buf *b = &t->buf[s->buf];

		b->readers++;
		plat_mutex_unlock(&t->lock);
		crypt_bytes(t, e.nonce, b->mem + e.off, len, buf);
		plat_mutex_lock(&t->lock);
		tdmi_seglog_buf_put(t, b);
		plat_mutex_unlock(&t->lock);
	} else {
		r = read_disk_unlock_lock(t, &e, buf, &at);
		plat_mutex_unlock(&t->lock);
		if (r)
			return r;
		crypt_bytes(t, e.nonce, (u8 *)buf + at, len, (u8 *)buf + at);
	}
	if (hash((u8 *)buf + at, len, handle, e.nonce) != e.sum) {
		count(&t->errors, 1);
		return -EBADMSG;
	}
	*ptr = (u8 *)buf + at;
	return 0;
}

static void file_release(struct tdm_tier *t, u64 handle)
{
	/* The bytes are in the caller's buffer. */
	(void)t;
	(void)handle;
}

static void file_drop(struct tdm_tier *tier, u64 handle, u32 len)
{
	struct file_tier *t = self(tier);

	plat_mutex_lock(&t->lock);
	TDM_BUG_ON(handle >= t->nentries || entry_at(t, (u32)handle)->len != len);
	tdmi_seglog_unlink_unlock_lock(t, (u32)handle);
	entry_free(t, (u32)handle);
	plat_mutex_unlock(&t->lock);
	tdm_a64_sub_relaxed(&t->blobs, 1);
	tdm_a64_sub_relaxed(&t->bytes, len);
	count(&t->drops, 1);
}

static void file_shrink(struct tdm_tier *tier, u64 bytes)
{
	struct file_tier *t = self(tier);

	(void)bytes;
	plat_mutex_lock(&t->lock);
	tdmi_seglog_tidy_unlock_lock(t);
	(void)tdmi_seglog_retry_unlock_lock(t);
	tdmi_seglog_flush_unlock_lock(t);
	plat_mutex_unlock(&t->lock);
}

static void file_stats(const struct tdm_tier *tier, struct tdm_tier_stats *out)
{
	const struct file_tier *t = self(tier);

	*out = (struct tdm_tier_stats){
		.blobs = tdm_a64_ld_relaxed(&t->blobs),
		.bytes = tdm_a64_ld_relaxed(&t->bytes),
		.mem_bytes = tdm_a64_ld_relaxed(&t->mem),
		.disk_bytes = tdm_a64_ld_relaxed(&t->disk),
		.limit_bytes = t->limit,
		.puts = tdm_a64_ld_relaxed(&t->puts),
		.gets = tdm_a64_ld_relaxed(&t->gets),
		.drops = tdm_a64_ld_relaxed(&t->drops),
		.errors = tdm_a64_ld_relaxed(&t->errors),
		.put_bytes = tdm_a64_ld_relaxed(&t->put_bytes),
		.get_bytes = tdm_a64_ld_relaxed(&t->get_bytes),
	};
}

static int file_forked(struct tdm_tier *tier, bool child)
{
	struct file_tier *t = self(tier);

	if (child) {
		plat_mutex_reset(&t->lock);
		tdm_a64_st_relaxed(&t->put_bytes, 0);
		tdm_a64_st_relaxed(&t->get_bytes, 0);
	}
	plat_mutex_lock(&t->lock);
	tdmi_seglog_forked(t, child);
	plat_mutex_unlock(&t->lock);
	/* The key is the same on both sides, so no nonce may be: 64 random bits keep the ranges that each side counts through apart. */
	return child ? plat_random(&t->nonce, sizeof(t->nonce)) : 0;
}

static u32 file_files(const struct tdm_tier *tier, int *fds, u32 max)
{
	const struct file_tier *t = self(tier);
	u32 n = 0;

	for (u32 i = 0; i < FILES_MAX; i++) {
		if (!t->files[i].open)
			continue;
		if (n < max)
			fds[n] = t->files[i].fd;
		n++;
	}
	return TDM_MIN(n, max);
}

static void file_set_files(struct tdm_tier *tier, const int *fds, u32 n)
{
	struct file_tier *t = self(tier);
	u32 k = 0;

	for (u32 i = 0; i < FILES_MAX; i++)
		if (t->files[i].open) {
			TDM_BUG_ON(k == n);
			t->files[i].fd = fds[k++];
		}
	TDM_BUG_ON(k != n);
}

static void file_destroy(struct tdm_tier *tier)
{
	struct file_tier *t = self(tier);

	plat_mutex_lock(&t->lock);
	tdmi_seglog_destroy(t);
	plat_mutex_unlock(&t->lock);
	for (u32 i = 0; i < ENTRY_BLOCKS_MAX && t->entries[i]; i++)
		plat_unmap(t->entries[i], TDM_ALIGN_UP(ENTRY_BLOCK * sizeof(struct entry), TDM_PAGE_SIZE));
	sodium_memzero(t->key, sizeof(t->key));
	plat_unmap(t, TIER_BYTES);
}

static const struct tdm_tier_ops file_ops = {
	.name = "file",
	.put = file_put,
	.get = file_get,
	.release = file_release,
	.drop = file_drop,
	.shrink = file_shrink,
	.stats = file_stats,
	.forked = file_forked,
	.files = file_files,
	.set_files = file_set_files,
	.destroy = file_destroy,
};

int tdmi_tier_file_create(const char *dir, u64 limit, struct tdm_tier **out)
{
	size_t n = strlen(dir) + 1;
	struct file_tier *t;
	bool direct;
	int fd, r;

	if (n > sizeof(t->dir))
		return -ENAMETOOLONG;
	if (sodium_init() < 0)
		return -EIO;
	/* The file itself is made by the first put, on the thread, and in the descriptor table, that will use it. This one tells whether it can. */
	r = plat_file_create(dir, &fd, &direct);
	if (r)
		return r;
	plat_file_close(fd);
	t = plat_map(TIER_BYTES);
	if (!t)
		return -ENOMEM;
	r = plat_random(t->key, sizeof(t->key));
	if (r) {
		plat_unmap(t, TIER_BYTES);
		return r;
	}
	memcpy(t->dir, dir, n);
	plat_mutex_init(&t->lock, TDM_RANK_TIER);
	t->limit = limit;
	t->open = NONE;
	t->cur = NONE;
	t->free_seg = NONE;
	t->free_entry = NONE;
	for (u32 i = 0; i < BUFS; i++)
		t->buf[i].seg = NONE;
	/* The fixed part, and the first page of each of the three tables. */
	count(&t->mem, TDM_ALIGN_UP(offsetof(struct file_tier, segs), TDM_PAGE_SIZE) + 3 * TDM_PAGE_SIZE);
	t->base.ops = &file_ops;
	t->base.codec = TDM_CODEC_ZSTD;
	*out = &t->base;
	return 0;
}
