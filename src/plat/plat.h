/* SPDX-License-Identifier: MIT */
/*
 * plat.h - everything that the engine asks of the world below it.
 *
 * src/mm, src/base and src/pool call nothing else: no libc allocator, no pthread, no clock, no system call. linux/ is the live
 * implementation (raw system calls, no libc state: see linux/sys.h for why), sim.c a world without an operating system for unit
 * tests. All functions may be called from any engine thread; none of them allocates from malloc or takes a lock that the
 * program could hold. Errors are -errno.
 */
#ifndef TDM_PLAT_H
#define TDM_PLAT_H

#include "base/atomic.h"
#include "base/types.h"

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* Zeroed, private, page-aligned memory (2 MiB-aligned when size >= 2 MiB) that takes no physical page before it is touched. size in
 * bytes, a multiple of the page size. NULL when the world has no more. */
void *plat_map(size_t size);
/* Undo plat_map(): same pointer, same size. */
void plat_unmap(void *p, size_t size);
/* Give the physical pages of a page-aligned part of a plat_map() back; it reads as zeros afterwards. */
void plat_discard(void *p, size_t size);
/* The physical pages of a page-aligned part of a plat_map(), those that are there and those to come, are of this NUMA node, as long as it has any; -1: wherever
 * they come from. -ENXIO: the node has no memory; -EOPNOTSUPP: there are no nodes; -EPERM, -ENOMEM. Undone by -1 alone. */
int plat_mem_node(void *p, size_t size, int node);
/* The same of pages that the kernel makes for this thread anywhere else, from now on; for one that plat_mem_node() has accepted, or -1. */
void plat_thread_node(int node);
/* memcpy() to a plat_map() of 2 MiB or more, to pages that are mostly untouched: where the world can give a page together with its bytes it need
 * not be zeroed, nor faulted in. The rest of the last page, if that was untouched, gets what lies behind the bytes at src: it must be readable so far. */
void plat_copy_new(void *dst, const void *src, size_t len);

/* ---- locks and waiting --------------------------------------------------------------------------------------------- */

/* A mutex. Zero-initialised is unlocked with rank 0; plat_mutex_init() names it for the rank check (base/lockrank.h). Not recursive. */
struct plat_mutex {
	tdm_a32 word;
	u32 rank;
};

void plat_mutex_init(struct plat_mutex *m, u32 rank);
void plat_mutex_lock(struct plat_mutex *m);
bool plat_mutex_trylock(struct plat_mutex *m);
void plat_mutex_unlock(struct plat_mutex *m);
/* In the child of a fork: the owner does not exist any more. */
void plat_mutex_reset(struct plat_mutex *m);

/* Sleep while *addr == expected, at most timeout_ns (~0: for ever). 0 woken or value differs, -ETIMEDOUT. May wake spuriously. */
int plat_wait(tdm_a32 *addr, u32 expected, u64 timeout_ns);
/* Wake at most n sleepers of addr. */
void plat_wake(tdm_a32 *addr, u32 n);

/* A moment in which another thread may come between. With -Dwindows=true some dawdle here, at random; else it is nothing. */
#ifdef TDM_WINDOWS
void plat_window(void);
#else
static inline void plat_window(void)
{
}
#endif

/* ---- threads ------------------------------------------------------------------------------------------------------- */

struct plat_thread;
/* Start a thread running fn(arg). name (at most 15 bytes) shows in ps. The thread blocks every signal. */
int plat_thread_start(struct plat_thread **t, void (*fn)(void *), void *arg, const char *name);
/* Wait for the end of fn and free t. */
void plat_thread_join(struct plat_thread *t);
void plat_yield(void);
/* Tell the CPU that this is a spin loop. */
void plat_relax(void);

/* ---- clock, randomness ---------------------------------------------------------------------------------------------- */

/* Monotonic, in nanoseconds. */
u64 plat_now_ns(void);
/* Fill with bytes fit for a key. */
int plat_random(void *buf, size_t len);

/* ---- files (for the file tier) --------------------------------------------------------------------------------------- */

/* A file without a name: gone when the process is, whatever way it ends. *direct tells whether it takes only 4096-aligned
 * offsets, lengths and buffers (O_DIRECT); either way those always work. */
int plat_file_create(const char *dir, int *file, bool *direct);
void plat_file_close(int file);

/* One transfer; done in full or an error. buf, len, off multiples of 4096. */
struct plat_io {
	int file;
	bool write;
	void *buf;
	u32 len;
	u64 off;
	int result; /* out: 0 or -errno (-EIO for a short read) */
};

/* A queue of asynchronous transfers (io_uring where there is one, else done at submit). One thread at a time uses a queue. */
struct plat_ioq;
int plat_ioq_create(struct plat_ioq **q, u32 depth);
void plat_ioq_destroy(struct plat_ioq *q);
/* In the child of a fork: the queue, and what is under way in it, is the parent's. Only frees this process's memory of it. */
void plat_ioq_forget(struct plat_ioq *q);
/* Start n transfers; they and their buffers must live until reaped. -EAGAIN: depth exceeded, nothing started. */
int plat_ioq_submit(struct plat_ioq *q, struct plat_io *const *ios, u32 n);
/* Wait until at least min are complete, store them in done[] (at most max). The number: what can fail is a transfer. */
int plat_ioq_reap(struct plat_ioq *q, struct plat_io **done, u32 max, u32 min);
/* One transfer, synchronously, from any thread. 0 or -errno. */
int plat_file_io(struct plat_io *io);
/* Free the blocks of [off, off + len). Best effort. */
void plat_file_punch(int file, u64 off, u64 len);
/* Bytes that the file system holding dir can still take. */
int plat_file_free(const char *dir, u64 *bytes);

/* ---- the end --------------------------------------------------------------------------------------------------------- */

/* One line for the user, without a newline at the end. Never blocks on the program. */
void plat_log(const char *line);
/* Say msg and end the process loudly. */
_Noreturn void plat_abort(const char *msg);

#endif
