/* SPDX-License-Identifier: MIT */
/*
 * tier.h - the interface between the engine's swap (mm/swap.h) and a kind of memory that holds blobs, not frames.
 *
 * A blob is the packed form of 1 to 16 pages of one 64 KiB block (pool/codec.h); to a tier it is bytes. Every operation may be called
 * from any engine thread at any time; a tier has its own locks, and holds none of them while it waits for I/O.
 */
#ifndef TDM_POOL_TIER_H
#define TDM_POOL_TIER_H

#include "plat/plat.h"

struct tdm_tier;

struct tdm_tier_stats {
	u64 blobs;        /* blobs held */
	u64 bytes;        /* their bytes */
	u64 mem_bytes;    /* physical memory used for it all: slack, descriptors and buffers included */
	u64 disk_bytes;   /* bytes occupied outside of memory */
	u64 limit_bytes;  /* what the user allowed: of mem_bytes for memory tiers, of disk_bytes for others; 0: none */
	u64 puts, gets, drops, errors; /* since the start */
	u64 put_bytes, get_bytes;      /* of blobs, since the start */
};

struct tdm_tier_ops {
	const char *name; /* "lz4", "zstd", "file" */
	/* Take a copy of the blob. -ENOSPC: the tier is full, -EIO ...: it failed; then nothing is held. */
	int (*put)(struct tdm_tier *t, const void *blob, u32 len, u64 *handle);
	/* See the bytes of a blob: *ptr points into the tier's own memory, or at buf (len bytes, 4096-aligned, room for len rounded up to
	 * 4096), and stays valid until release(). -EIO; -EBADMSG: the bytes are not what was stored. On error there is nothing to release. */
	int (*get)(struct tdm_tier *t, u64 handle, u32 len, void *buf, const void **ptr);
	void (*release)(struct tdm_tier *t, u64 handle);
	/* Forget a blob. Not while somebody is between get and release. */
	void (*drop)(struct tdm_tier *t, u64 handle, u32 len);
	/* Write out what is buffered, give back free memory down to what is needed (compaction). bytes: how much memory is wanted back. */
	void (*shrink)(struct tdm_tier *t, u64 bytes);
	void (*stats)(const struct tdm_tier *t, struct tdm_tier_stats *out);
	/* Around fork(2), everything quiescent: in both parent and child, the other side now shares the inherited blobs. A file tier stops
	 * writing to the shared file and opens another when it next needs one. In either, nothing may be put or dropped since the fork
	 * before this is called; get may. */
	int (*forked)(struct tdm_tier *t, bool child);
	/* In the parent, before forked(): collect the descriptors that the child must be handed (its descriptor table has none of them), at
	 * most max; the number. */
	u32 (*files)(const struct tdm_tier *t, int *fds, u32 max);
	/* In the child, before forked(): the same files in the same order under their new numbers. */
	void (*set_files)(struct tdm_tier *t, const int *fds, u32 n);
	void (*destroy)(struct tdm_tier *t);
};

struct tdm_tier {
	const struct tdm_tier_ops *ops;
	bool in_memory;  /* its mem_bytes are the blobs: demotion frees memory */
	u8 codec;        /* enum tdm_codec (pool/codec.h) with which blobs that enter here are packed */
	char spec[120];  /* as the user wrote it, for messages */
};

/* Once in a process, on one of its own threads, before any tier is made: libraries choose their implementations. tmpdir: the value of $TMPDIR, or
 * NULL. */
void tdmi_tiers_init(const char *tmpdir);
/* Make a tier; limit 0: none. -ENOMEM; for a file also what creating one in dir said. */
int tdmi_tier_mem_create(u8 codec, u64 limit, struct tdm_tier **out);
int tdmi_tier_file_create(const char *dir, u64 limit, struct tdm_tier **out);

/* Make a tier from "lz4[:SIZE]", "zstd[:SIZE]", "file[:DIR[:SIZE]]"; SIZE as in --ram (K, M, G, T suffixes, powers of 1024). On error one
 * line that says what is wrong and what to do is in err. -EINVAL: malformed; others: the environment's. */
int tdmi_tier_create(const char *spec, struct tdm_tier **out, char *err, size_t errlen);

#endif
