/* SPDX-License-Identifier: MIT */
/*
 * cpu.h - a port without an operating system: a simulated CPU over simulated memory, for tests.
 *
 * Its "TLB" is a flag a page of one range of addresses; the bytes of a page that is mapped are the port's, as those of a lent page are the
 * kernel's in the live process. Homes are plain memory with a bit a frame that tells which of them hold a page; a home that was written
 * without the port counts as holding one. What the operations answer is what the host port's would (port.h), and the knobs below make
 * them refuse. The second half of the file is the program and its kernel: accesses that fault, and changes of the address space with their
 * events. One thread.
 */
#ifndef TDM_PORT_CPU_H
#define TDM_PORT_CPU_H

#include "mm/mm.h"
#include "port/port.h"

/* Flags of a page. */
#define TDM_CPU_VALID 1u    /* there is a mapping here, and the port serves it */
#define TDM_CPU_RDONLY 2u   /* the mapping is read-only: nothing can be moved to it or from it */
#define TDM_CPU_PRESENT 4u  /* in the TLB */
#define TDM_CPU_HUGE 8u     /* by a leaf of 2 MiB */
#define TDM_CPU_PINNED 16u  /* cannot be taken, ever */
#define TDM_CPU_SHARED 32u  /* cannot be taken until unshare() */
#define TDM_CPU_POISON 64u
#define TDM_CPU_NOACCESS 128u /* the mapping may not be read */

struct tdm_cpu {
	struct tdm_port port;
	u64 base;        /* first address; a multiple of 2 MiB */
	u32 npages;
	u8 *bytes;       /* of the pages that are mapped, zeros where none is */
	u8 *flags;       /* a byte a page */
	u8 *arena;
	u32 nframes;
	u64 *populated;  /* a bit a frame */
	/* Knobs. */
	u32 again;       /* the next calls that answer -EAGAIN; drain() ends it */
	u32 waking;      /* the next calls that do, whatever is drained: who caused an event has not been woken yet */
	void (*on_drain)(void *arg, struct tdm_ctx *ctx);
	void *drain_arg;
	/* Calls that did something. */
	u64 fills, copies, zeros, invalidates, discards, wakes, drains, faults, misplaced;
};

/* -ENOMEM. The arena is made here; npages and nframes are multiples of 512. */
int tdmi_cpu_init(struct tdm_cpu *c, u64 base, u32 npages, u32 nframes);
void tdmi_cpu_destroy(struct tdm_cpu *c);
/* Homes that hold a page. */
u64 tdmi_cpu_populated(const struct tdm_cpu *c);
static inline u8 *tdm_cpu_flags(struct tdm_cpu *c, u64 va)
{
	return &c->flags[(va - c->base) >> TDM_PAGE_SHIFT];
}

/* ---- the program. Accesses stay within a page. 0, -ENOENT (no mapping), -EIO (poison), -EAGAIN (the gate is closed), -ETIMEDOUT (the engine
 * says that it served the fault, again and again, and did not). */
int tdmi_cpu_read(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 va, void *buf, size_t len);
int tdmi_cpu_write(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 va, const void *buf, size_t len);
/* Fill n pages of the TLB with this byte each, without the engine (memory that was there before it came). */
void tdmi_cpu_preset(struct tdm_cpu *c, u64 va, u32 n, u8 byte, bool huge);

/* ---- its kernel. The event lock is taken for the events. */
/* What a mapping allows, from now on: TDM_CPU_RDONLY, TDM_CPU_NOACCESS or 0; there is no event. */
void tdmi_cpu_mprotect(struct tdm_cpu *c, u64 start, u64 end, u8 flags);
int tdmi_cpu_mmap(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 start, u64 end, bool rdonly);
void tdmi_cpu_munmap(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 start, u64 end);
/* MADV_DONTNEED: announce, then drop. */
void tdmi_cpu_dontneed(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 start, u64 end);
/* The second half of it. */
void tdmi_cpu_drop(struct tdm_cpu *c, u64 start, u64 end);
/* The ranges do not overlap. */
void tdmi_cpu_mremap(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 from, u64 to, u64 len);

#endif
