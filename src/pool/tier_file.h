/* SPDX-License-Identifier: MIT */
/*
 * tier_file.h - what tier_file.c (blobs, encryption, the operations) and seglog.c (segments, staging, cleaning) share.
 *
 * The file is a log of *segments* of 1 MiB. Blobs are appended to the open segment, which lies in a staging *buffer*; a full one is written in
 * one go while the other buffer fills. A segment whose blobs are all dropped is punched out and its place reused; one that is mostly dead
 * is cleaned (its live blobs are appended again) when space is short. A blob never lies on more 4 KiB pages than its length needs, so
 * that reading it takes no more room than that.
 *
 * fork: both sides keep reading the file; neither writes, punches or reuses anything in it any more (`shared`). What a side writes next
 * goes to a new file of its own. What was staged at the fork is in both sides' memory, and each writes it to its own new file. A file without
 * segments is closed; when both sides have done so the kernel frees it.
 *
 * Locking: one lock per tier (TDM_RANK_TIER) guards everything but the bytes of buffers and of the file. It is let go around every system
 * call and around encryption; functions that do so are named _unlock_lock. What keeps things in place meanwhile:
 *     seg.readers, buf.readers, buf.writers   counts of threads that use the bytes
 *     buf.reaping                             the one thread that uses the buffer's queue
 *     cleaning, creating                      the one thread that does this
 * `event` is raised whenever one of these, or the state of a buffer, changes; who waits, sleeps on it.
 */
#ifndef TDM_POOL_TIER_FILE_H
#define TDM_POOL_TIER_FILE_H

#include "base/check.h"
#include "pool/tier.h"

#define SEG_SIZE (1u << 20)
#define SEG_BLOCK 512u
#define SEG_BLOCKS_MAX 2048u /* 1 TiB */
#define ENTRY_BLOCK 1024u
#define ENTRY_BLOCKS_MAX 65536u
#define FILES_MAX 32u
#define BUFS 2u
#define NONE (~(u32)0)
/* What stays free on the file system of the file. */
#define DISK_RESERVE ((u64)64 << 20)

enum seg_state {
	SEG_FREE,
	SEG_STAGED,  /* its bytes are in a buffer */
	SEG_DISK,
	SEG_DYING,   /* nothing alive, being punched */
};

struct seg {
	u32 file, slot;  /* where it is or will be written: files[file], slot * SEG_SIZE; NONE: not decided */
	u32 fill;        /* bytes given out, gaps included */
	u32 live;        /* bytes of blobs */
	u32 first;       /* list of entries; when free: the next free segment */
	u32 readers;     /* of the file */
	u8 state;        /* enum seg_state */
	u8 buf;          /* SEG_STAGED: index of its buffer */
	bool bad;        /* cannot be read: is not cleaned again */
};

/* A blob. */
struct entry {
	u32 seg, off, len; /* len 0: free, and seg the next free one */
	u32 next, prev;    /* of its segment */
	u32 pad;
	u64 nonce;
	u64 sum;           /* of the plain bytes, the handle and the nonce */
};

enum buf_state {
	BUF_IDLE,
	BUF_FILLING,
	BUF_SEALED,   /* full; is written when its last writer is done and there is a file */
	BUF_WRITING,
	BUF_DRAINING, /* written; somebody still reads from it */
	BUF_STUCK,    /* could not be written: this is the only copy */
};

struct buf {
	u8 *mem;      /* SEG_SIZE; NULL until first used */
	u32 touched;  /* bytes of mem that are physical memory */
	u32 seg;
	u32 readers, writers;
	u8 state;     /* enum buf_state */
	bool reaping;
	struct plat_ioq *ioq;
	struct plat_io io;
};

struct file {
	int fd;
	bool open, shared;
	u32 nsegs;    /* segments that lie, or are being written, there */
};

struct file_tier {
	struct tdm_tier base;
	char dir[4096];
	u8 key[32];             /* lives here only; a fork child has the same, and other nonces */
	u64 limit;
	struct plat_mutex lock;
	tdm_a32 event;
	u64 nonce;              /* the next */
	int failed;             /* 0, or what the last write said: puts fail with it until a write succeeds */
	u64 retry_at;           /* when failed: not before this time */
	struct buf buf[BUFS];
	u32 open;               /* the buffer that fills; NONE */
	struct file files[FILES_MAX];
	u32 cur;                /* the file that is written to; NONE */
	bool creating, cleaning;
	u32 next_slot;          /* in cur: never used from here on */
	u32 nfree_slots;
	u32 free_seg, nsegs;
	u32 free_entry, nentries;
	u8 *clean_mem;          /* SEG_SIZE; its memory is given back after each cleaning */
	tdm_a64 blobs, bytes, mem, disk, puts, gets, drops, errors, put_bytes, get_bytes;
	struct seg *segs[SEG_BLOCKS_MAX];
	struct entry *entries[ENTRY_BLOCKS_MAX];
	u32 free_slots[SEG_BLOCK * SEG_BLOCKS_MAX]; /* of cur, punched */
};

static inline struct seg *seg_at(struct file_tier *t, u32 i)
{
	return &t->segs[i / SEG_BLOCK][i % SEG_BLOCK];
}

static inline struct entry *entry_at(struct file_tier *t, u32 i)
{
	return &t->entries[i / ENTRY_BLOCK][i % ENTRY_BLOCK];
}

/* All with the lock held. */

/* Find room for len bytes in the open segment: *seg and *off; the segment's buffer has one more writer. asked: do not look at the limit (the
 * cleaner does not: it makes room). */
int tdmi_seglog_reserve_unlock_lock(struct file_tier *t, u32 len, bool asked, u32 *seg, u32 *off);
/* The bytes are there. */
void tdmi_seglog_written_unlock_lock(struct file_tier *t, u32 seg);
void tdmi_seglog_link(struct file_tier *t, u32 entry, u32 seg);
/* Take an entry out of its segment; frees the segment with its last one. */
void tdmi_seglog_unlink_unlock_lock(struct file_tier *t, u32 entry);
/* One reader of the segment's file, or of a buffer, less. */
void tdmi_seglog_seg_put_unlock_lock(struct file_tier *t, u32 seg);
void tdmi_seglog_buf_put(struct file_tier *t, struct buf *b);
/* Write everything that is staged, wait for it, give the buffers' memory back. */
void tdmi_seglog_flush_unlock_lock(struct file_tier *t);
/* When a write failed a while ago: try again. 0: puts may go on. */
int tdmi_seglog_retry_unlock_lock(struct file_tier *t);
/* Clean while more than half of the disk space is dead. */
void tdmi_seglog_tidy_unlock_lock(struct file_tier *t);
void tdmi_seglog_forked(struct file_tier *t, bool child);
void tdmi_seglog_destroy(struct file_tier *t);

static inline void count(tdm_a64 *a, u64 by)
{
	tdm_a64_add_relaxed(a, by);
}

#endif
