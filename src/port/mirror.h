/* SPDX-License-Identifier: MIT */
/*
 * mirror.h - the mirror port: a device with a page table of its own.
 *
 * The table is filled by range_fault and emptied by an interval notifier over all addresses. An entry is what range_fault says of a page (mm/range_fault.h); a
 * leaf maps 4 KiB, 64 KiB or 2 MiB, where the device has such leaves and what lies below is one piece. It holds no reference to anything.
 *
 * Who may do what:
 *   lock      the driver's lock: entries are written, and the sequence number is set and compared, under it. Taken in invalidate, with at most the event
 *             lock held, and round fills; nothing is waited for with it held.
 *   section   a reader of the mirror's RCU domain. Entries are read, and memory that they name (the device's, or the home of an exclusive page) is
 *             used within one. invalidate returns when the sections are over that may have seen an entry which it has cleared. So nothing may be waited for in
 *             one, and memory of the program's must not be touched: its fault may need the round that waits for the section.
 *   A page of the process's is used at its address, outside of a section: the kernel keeps that coherent, and says so if it is gone.
 */
#ifndef TDM_PORT_MIRROR_H
#define TDM_PORT_MIRROR_H

#include "mm/mm.h"
#include "mm/range_fault.h"

#define TDM_MIRROR_4K ((u64)1 << 12)
#define TDM_MIRROR_64K ((u64)1 << 16)
#define TDM_MIRROR_2M ((u64)1 << 21)

struct tdm_mirror;
struct tdm_mirror_table;

struct tdm_mirror_ops {
	/* The address of a frame of the device's memory, for this process. NULL: it has no memory. */
	void *(*memory)(void *arg, u32 frame);
	/* A leaf that begins at va is about to be in the table (tdm_rf_order(entry)). The lock is held: it must not wait for anything. May be NULL. */
	void (*mapped)(void *arg, u64 va, u64 entry);
	/* Entries of [start, end) have been cleared; the device's own TLBs are to forget them before this returns. It must not sleep for long, nor call into the
	 * engine. May be NULL. */
	void (*invalidated)(void *arg, u64 start, u64 end);
};

struct tdm_mirror {
	struct tdm_mm *mm;                /* constant, as are the next five */
	const struct tdm_mirror_ops *ops;
	void *arg;
	const void *owner;                /* of its pool */
	u64 page_sizes;
	bool write_ahead;                 /* a read maps for writing too, where that is allowed: fewer faults, and fork takes more pages away */
	struct tdm_interval_notifier in;
	struct tdm_rcu rcu;               /* sections */
	struct plat_mutex lock;           /* rank TDM_RANK_MIRROR; guards the table */
	struct tdm_mirror_table *root;
	u32 leaving;                      /* rounds that have taken something out, and wait for who may be using it; the lock */
	/* Counted. */
	tdm_a64 faults;                   /* fills that were asked for */
	tdm_a64 filled;                   /* pages put into the table */
	tdm_a64 upgrades;                 /* of these: were there already, for reading */
	tdm_a64 invalidations, cleared;   /* rounds heard that found something, and pages */
	tdm_a64 retries;                  /* fills that had to begin again */
};

/* A thread that uses the mirror. */
struct tdm_mirror_reader {
	struct tdm_mirror *m;
	struct tdm_ctx *ctx;              /* the thread's */
	struct tdm_rcu_reader *rcu;
	u64 *entry;                       /* 512, for a fill */
	u8 *bounce;                       /* TDM_BLOCK_SIZE */
};

/* name: for whom to blame. page_sizes: a mask of the above, with 4 KiB. The engine makes no round meanwhile (frozen), unless it has made its rounds count (tdmi_notifiers_arm()).
 * 0, -EINVAL, -ENOMEM. */
int tdmi_mirror_init(struct tdm_mirror *m, struct tdm_mm *mm, const char *name, const struct tdm_mirror_ops *ops, void *arg, const void *owner,
		     u64 page_sizes);
/* No reader is left. Sleeps for rounds. */
void tdmi_mirror_destroy(struct tdm_mirror *m);
/* In the child of a fork: the device is not here, nor are its threads. Only the notifier is taken away. */
void tdmi_mirror_forget(struct tdm_mirror *m);

/* 0 or -ENOMEM. */
int tdmi_mirror_reader_init(struct tdm_mirror_reader *r, struct tdm_mirror *m, struct tdm_ctx *ctx);
void tdmi_mirror_reader_destroy(struct tdm_mirror_reader *r);

/*
 * The device has missed at [start, end), at most 2 MiB, of one 2 MiB: have it in the table, for writing if so said. What lies around within `around` bytes (a power of
 * two, at most 2 MiB, 0: nothing) is put there too if nothing need be brought for it. 0 or the errors of tdmi_range_fault_unlocked(); -ENOMEM: for the
 * table. The caller is in the mm; no section.
 */
int tdmi_mirror_fault(struct tdm_mirror_reader *r, u64 start, u64 end, bool write, u64 around, u64 timeout_ns);

/* What the table says of va; 0: nothing. In a section, or with the lock held. */
u64 tdmi_mirror_lookup(struct tdm_mirror *m, u64 va);
static inline void tdm_mirror_enter(struct tdm_mirror_reader *r)
{
	tdmi_rcu_read_lock(r->rcu);
}
static inline void tdm_mirror_exit(struct tdm_mirror_reader *r)
{
	tdmi_rcu_read_unlock(r->rcu);
}
/* The memory that an entry names, in the same section; NULL: it is the process's page, reached by its address. */
void *tdmi_mirror_memory(struct tdm_mirror *m, u64 entry);

/*
 * Copy len bytes as the device: through its table, which is filled as need be. *done: bytes. *faults, if not NULL, is increased by the fills that were asked
 * for. 0, or what the fault said; -EFAULT: an address that is gone. buf may be anywhere. The caller is not in the mm, nor in a section.
 */
int tdmi_mirror_copy(struct tdm_mirror_reader *r, u64 va, void *buf, size_t len, bool write, size_t *done, u64 *faults);
/* The same of what is in the table, up to what is not: -ENOENT. */
int tdmi_mirror_copy_mapped(struct tdm_mirror_reader *r, u64 va, void *buf, size_t len, bool write, size_t *done);
/* Put what the device has of [start, end) into its table: in its memory, coherent or not, or exclusively. Nothing is brought. 0 or -ENOMEM. The caller is in the mm;
 * no section. */
int tdmi_mirror_map_own(struct tdm_mirror_reader *r, u64 start, u64 end);
/*
 * fn(p, arg) with the address of len bytes within one page that nobody else can be changing except through this device: in its memory, or exclusively its. The page
 * is made so if it is neither. fn runs in a section. 0, the errors of tdmi_make_exclusive(); -EINVAL: not within a page; -EBUSY: it cannot be had (pinned).
 */
int tdmi_mirror_atomic(struct tdm_mirror_reader *r, u64 va, size_t len, void (*fn)(void *p, void *arg), void *arg);

#endif
