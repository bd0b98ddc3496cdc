/* SPDX-License-Identifier: MIT */
/*
 * device.h - write a device that shares the program's address space.
 *
 * A device is given pointers, and follows them. It has a page table of its own, which the library fills when the device misses, and empties before what it says
 * stops being true; it may have memory of its own, to which pages of the program migrate, and from which they come back when the program touches them. What
 * the author of a device writes is how bytes get to its memory and back; the rest is here:
 *
 *     struct tdm_device_ops ops = { .size = sizeof(ops), .name = "mine", .copy_in = to, .copy_out = from, .address = where };
 *     struct tdm_device_options opt = { .size = sizeof(opt), .memory_bytes = 64 << 20 };
 *     tdm_device_attach(engine, &ops, &opt, &dev);
 *     tdm_device_migrate(dev, array, bytes, NULL);
 *     tdm_device_run(dev, work, array, NULL);           // void work(struct tdm_device_thread *t, void *array)
 *
 * Contexts. Functions that take a struct tdm_device are for the program's threads, and wait. Those that take a struct tdm_device_thread are for functions that
 * run on the device (tdm_device_run), on that thread alone. Migration and the like are also done by the device's threads: they wait while all of these run something. The ops are called by the library's threads, with locks held: they must not touch memory that the program
 * has mapped since tdm_start() (it may be away), allocate, take a lock that anybody holds while touching such memory, or call into this library.
 *
 * Addresses and lengths are bytes; pages are 4096; ranges are half-open. Errors are negative errno values.
 *
 * What is not told. A page that the kernel itself has pinned (io_uring, a driver) refuses to migrate, but a pin that begins while a page is on its way makes the
 * page stay. mprotect(2) says nothing to anybody: a device notices where it reaches memory of the process, but goes on using what is in its own until it is
 * told (tdm_mprotect()). The child of a fork has no devices: every handle is -ENODEV there, and pages come from what the child has inherited.
 */
#ifndef TANDEM_DEVICE_H
#define TANDEM_DEVICE_H

#include <tandem/tandem.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tdm_device;
struct tdm_device_thread;

#define TDM_LEAF_WRITE 1u  /* the device may write there */
#define TDM_LEAF_MEMORY 2u /* it is in the device's memory, from `frame` on; else it is the process's, at its address */

struct tdm_device_leaf {
	uint64_t addr, pages;
	uint64_t frame;
	unsigned flags; /* TDM_LEAF_* */
};

/* How the bytes go. Frames are pages of the device's memory, numbered from 0. */
struct tdm_device_ops {
	size_t size;      /* sizeof(struct tdm_device_ops) */
	const char *name; /* at most 11 bytes show in the names of its threads; must stay valid */
	/* Begin to copy `pages` pages from src to the device's memory, or from there to dst. 0 or -errno: then the pages stay where they are. May return before it is done if
	 * there is a copy_wait. NULL, both: a device without memory. */
	int (*copy_in)(void *arg, uint32_t frame, const void *src, uint32_t pages);
	int (*copy_out)(void *arg, void *dst, uint32_t frame, uint32_t pages);
	/* All that this thread has begun is done: 0; or -errno: none of it counts. */
	int (*copy_wait)(void *arg);
	/* The 2^order frames, which copy_in was asked to copy to, hold nothing any more. Exactly once for what was given to the device as one, also if a copy to it has
	 * failed. May be NULL. In the child of a fork: of the child's copy of the memory. */
	void (*page_free)(void *arg, uint32_t frame, uint32_t order);
	/* Where this process can reach a frame: for tdm_device_read() and the like. Constant. */
	void *(*address)(void *arg, uint32_t frame);
	/* A leaf is about to be in the device's page table: for hardware that has a table of its own. May be NULL. */
	void (*mapped)(void *arg, const struct tdm_device_leaf *leaf);
	/* [start, end) is no more in the device's page table. If the hardware caches what was there, it must have forgotten it when this returns. May be NULL. */
	void (*invalidated)(void *arg, uint64_t start, uint64_t end);
	/* The 512 pages from `frame` on of a memory that is shared are this process's from now on (here: 1), or are about to be another's: a mapping of them may
	 * go. No lock is held. May be NULL. */
	void (*chunk)(void *arg, uint32_t frame, int here);
	/* A fault of tdm_device_fault() has been dealt with: result is 0, and what was missed is in the table, if nothing has taken it out again; or the error of
	 * tdm_device_prefault(). No lock is held. Needed for tdm_device_fault() only. */
	void (*fault_done)(void *arg, void *cookie, int result);
	void *arg;
};

#define TDM_DEVICE_SLOW 1u        /* copies take long: others serve faults meanwhile */
#define TDM_DEVICE_WRITE_AHEAD 2u /* a read maps for writing too: fewer faults of the device, but after a fork pages leave its memory that it only reads */
#define TDM_DEVICE_INHERITED 4u   /* its memory is private anonymous memory of this process, mapped before tdm_start(): a child has a copy. Else it is emptied before a fork */
#define TDM_DEVICE_COHERENT 8u    /* the CPU can map its memory, too: a page that migrates there stays mapped, and nothing is copied back when the CPU uses it. No copy_in, no copy_out */

struct tdm_device_options {
	size_t size;            /* sizeof(struct tdm_device_options) */
	uint64_t memory_bytes;  /* of its own; a multiple of 2 MiB; 0: none */
	uint64_t page_sizes;    /* leaves of its page table: 4096 | 65536 | 2097152; 0: all of these */
	uint64_t process_bytes; /* resident memory of this process that is the device's, and not counted against the budget */
	unsigned threads;       /* at most 16; 0: one */
	unsigned flags;         /* TDM_DEVICE_* */
	void *share;            /* its memory is that of several processes: see tdm_device_share_init(). NULL: it is this process's alone. Not with TDM_DEVICE_COHERENT */
	int numa_node;          /* TDM_DEVICE_COHERENT: its memory is pages of this node, as long as that has any; -1: of any node. Else not looked at */
	unsigned stuck_ms;      /* an op that takes longer than so many milliseconds, or a function of tdm_device_atomic(), is told of on stderr, by name; 0: 10000 */
};

struct tdm_device_stats {
	size_t size;             /* sizeof(struct tdm_device_stats) */
	uint64_t memory_pages;   /* pages of the program that are there now */
	uint64_t memory_held;    /* pages of its memory that this process may use now: all, or what it has of one that is shared */
	uint64_t pages_in;       /* have migrated to it, ever */
	uint64_t pages_out;      /* and left */
	uint64_t faults;         /* fills of the device's page table */
	uint64_t filled_pages;   /* put there by them */
	uint64_t upgrades;       /* of these: were there for reading, and were written */
	uint64_t invalidations;  /* times that something was taken out */
	uint64_t cleared_pages;
	uint64_t retries;        /* fills that had to begin again, because of these */
};

/* Attach a device to the engine's address space. *out is valid until it is detached. -EINVAL: an option, or a NUMA node that there cannot be; -ENOSPC: there are 8 already;
 * -ENOMEM; -EAGAIN: no thread could be started. Of numa_node: -ENXIO: the node has no memory; -EOPNOTSUPP: the kernel knows no nodes; -EPERM: mbind(2) is not allowed here. */
TDM_API int tdm_device_attach(struct tdm *t, const struct tdm_device_ops *ops, const struct tdm_device_options *options, struct tdm_device **out);

/* Bring home what it has, and end its threads. The handle is not valid any more. -EBUSY: it is being used; the error of a copy, or -ENOMEM: what is there stays,
 * and the device. In the child of a fork it forgets the device. tdm_stop() is -EBUSY until then. */
TDM_API int tdm_device_detach(struct tdm_device *dev);

/* Move what of [addr, addr + len) is in ram to the device's memory; *pages, if not NULL: how many went. What cannot go (pinned, mlocked, read-only, not anonymous, never
 * touched, being used) stays. addr and len are multiples of the page size. -EINVAL; -ENOSPC: its memory is full; -EOPNOTSUPP: it has none; the error of a copy: what went
 * is there, the rest is where it was. */
TDM_API int tdm_device_migrate(struct tdm_device *dev, void *addr, size_t len, size_t *pages);

/* Bring `pages` pages home from the device's memory, or all if there are fewer, those first that came first. *done, if not NULL: how many. (A range is brought by
 * tdm_pagein().) -ENOMEM, or the error of a copy. */
TDM_API int tdm_device_evict(struct tdm_device *dev, size_t pages, size_t *done);

/* Give the device the pages of the range for itself, until somebody else touches them. *pages, if not NULL: how many it has; the others are pinned, or in use.
 * -EINVAL, -EFAULT, -EPERM: not mapped, or not for writing; -EOPNOTSUPP: not managed by the engine; -ENOMEM. */
TDM_API int tdm_device_exclusive(struct tdm_device *dev, void *addr, size_t len, size_t *pages);

TDM_API int tdm_device_stats_get(struct tdm_device *dev, struct tdm_device_stats *stats);

/* mprotect(2), of which devices hear. As that, but for the result: 0 or -errno. */
TDM_API int tdm_mprotect(struct tdm *t, void *addr, size_t len, int prot);

/*
 * ---- one device's memory, of several processes
 *
 * Each process attaches the device by itself, with the same memory_bytes, and says which bytes of it it can reach by ops->address; and with `share`: shared memory (a
 * memfd, say), mapped by all of them for as long as it is attached, that says which 2 MiB is whose. Such a chunk is taken when tdm_device_migrate() finds no room. If
 * none is free a process is asked that has two more, or has run nothing on the device for a second: it brings home what it has in one, and hands it over. Who does not answer
 * within 250 ms is not waited for; if nobody gives anything the memory is full, as it is for a device of one process. What a process had that is dead, or has
 * executed something else, is free at once; the author sees to it that hardware does not go on writing there for it. At most 64 processes.
 *
 * Who can map the share and the memory can read and change all that is there, and keep others from what is theirs: they trust each other. Otherwise no process sees another's
 * bytes: a page of a device's memory is mapped for a program only after all of it has been copied to. It is not cleared when it is handed over.
 *
 * The child of a fork has none of it: what its parent has there is brought home before, and stays the parent's to use. TDM_DEVICE_INHERITED cannot be said of it.
 */

/* How large a share is, for that much memory. 0: memory_bytes is 0, no multiple of 2 MiB, or more than 256 GiB. */
TDM_API size_t tdm_device_share_bytes(uint64_t memory_bytes);
/* Make one, of zeroed memory (a page-aligned address) that nobody uses yet. Attaching with it is -EINVAL if it has not been made so, or for another size; -EXDEV if it was made in
 * another namespace of pids or of time; -ENOSPC: 64 processes have it already; -EOPNOTSUPP: there is no /proc. -EINVAL: a size, or an address; -EOPNOTSUPP. */
TDM_API int tdm_device_share_init(void *share, uint64_t memory_bytes);

/* ---- running on the device */

struct tdm_device_run;

/* Run fn(thread, arg) on one of the device's threads. run: NULL: wait for its end; else *run is for tdm_device_wait(). fn runs with all signals blocked and must not
 * call libc functions that allocate or lock: it is no thread of libc's. It may follow pointers into the program's memory itself, as any thread, if nobody unmaps it
 * meanwhile; the functions below do that as the device. -ENODEV. */
TDM_API int tdm_device_run(struct tdm_device *dev, void (*fn)(struct tdm_device_thread *t, void *arg), void *arg, struct tdm_device_run **run);
/* Wait for its end. Once for each. */
TDM_API int tdm_device_wait(struct tdm_device *dev, struct tdm_device_run *run);

/* Copy through the device's page table; it is filled as need be. All of it, or: -EFAULT: there is no memory that can be read there, or it went; -EPERM: it cannot be written;
 * -ENOMEM. Part may have been copied then. */
TDM_API int tdm_device_read(struct tdm_device_thread *t, const void *addr, void *buf, size_t len);
TDM_API int tdm_device_write(struct tdm_device_thread *t, void *addr, const void *buf, size_t len);

/* fn(p, arg) with p the place of the len bytes at addr (within one page) while nobody can change them but through this device: in its memory, or in a page that it has
 * for itself, and is given if need be. fn must not wait for anything, nor touch the program's memory but for p. -EINVAL: not within a page; -EBUSY: the page is pinned; the errors of
 * tdm_device_exclusive(). */
TDM_API int tdm_device_atomic(struct tdm_device_thread *t, void *addr, size_t len, void (*fn)(void *p, void *arg), void *arg);

/* The device will use [addr, addr + len): fill its page table ahead. The errors of a read, or a write. */
TDM_API int tdm_device_prefault(struct tdm_device_thread *t, const void *addr, size_t len, int write);

/* For hardware that misses by itself, from any thread of the program's: queue a fault of [addr, addr + len). ops->fault_done is called with the cookie on one of the device's threads.
 * -EINVAL: there is no such op; -ENODEV. */
TDM_API int tdm_device_fault(struct tdm_device *dev, const void *addr, size_t len, int write, void *cookie);

#define TDM_PIN_WRITE 1u    /* it is to be written */
#define TDM_PIN_LONGTERM 2u /* for longer than one call */

/* Keep `pages` pages from addr on (page-aligned) where they are, in ram, until they are unpinned: page[i] is for that. *done: how many are pinned, also if there is an
 * error. A pin keeps the 64 KiB around it. -EINVAL, -EFAULT, -EOPNOTSUPP: memory that the engine does not manage, and never moves; -EBUSY: too many pins; -ENOMEM. */
TDM_API int tdm_device_pin(struct tdm_device_thread *t, const void *addr, size_t pages, unsigned flags, uint64_t *page, size_t *done);
/* Once for each pin. A page that is not pinned is a mistake that ends the process. */
TDM_API void tdm_device_unpin(struct tdm_device_thread *t, const uint64_t *page, size_t pages);

#ifdef __cplusplus
}
#endif

#endif
