/* SPDX-License-Identifier: MIT */
/*
 * port.h - a port: something that caches translations from the engine's page table.
 *
 * The engine calls these with the lock of the page table concerned held, except where said. va is page-aligned, n counts pages, a range
 * never crosses a 2 MiB boundary. `slot` is the home of the first frame (pool/ram.h); the frames are contiguous. Where a call does a
 * part only, *done is the number of pages dealt with from the start of the range, and the result says why the next one was not:
 *   -EAGAIN  the program is changing its address space at this moment: let go of all table locks, take in the events, look again
 *   -ENOENT  the address is not mapped any more (or not in a way that this port serves)
 *   -EEXIST  the port has a page there already
 *   -EBUSY   the page cannot be taken: pinned, or shared with another process by fork
 *   -EINVAL  the mapping does not allow this way of moving (read-only, mlocked): try another
 *   -ENOMEM  no memory
 */
#ifndef TDM_PORT_PORT_H
#define TDM_PORT_PORT_H

#include "base/types.h"

struct tdm_port;
struct tdm_ctx;

/* A mapping of the program, whoever manages it. */
struct tdm_port_mapping {
	u64 start, end;
	bool readable, writable;
	bool shared, file;
};

/* What differs between ports (design, section 1). */
enum tdm_port_af { TDM_AF_HARDWARE, TDM_AF_SOFTWARE, TDM_AF_NONE };

struct tdm_port_caps {
	bool shared_table;       /* walks the engine's table, else keeps a mirror */
	enum tdm_port_af access; /* who sets A */
	u64 page_sizes;          /* mask of leaf sizes that it can map */
};

struct tdm_port_ops {
	const char *name;
	struct tdm_port_caps caps;
	/* Map: the bytes at slot become visible at va; the slots are empty afterwards. */
	int (*fill)(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done);
	/* Map a copy of engine memory; a new page is made at va. src stays. */
	int (*fill_copy)(struct tdm_port *p, struct tdm_va va, const void *src, u32 n, u32 *done);
	/* Map zeros that take no memory until they are written. */
	int (*fill_zero)(struct tdm_port *p, struct tdm_va va, u32 n, u32 *done);
	/* Any access to va fails from now on. */
	int (*fill_poison)(struct tdm_port *p, struct tdm_va va, u32 n);
	/* Unmap: no access through the port after this; the bytes are at slot. Holes in the range stay holes and count as done. The caller
	 * holds the event lock (mm/mm.h): no event may be taken in meanwhile. */
	int (*invalidate)(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done);
	/* The same of a mapping that may be read, and not written: -EINVAL: it is not of that kind; -EBUSY: not now, either. May be NULL. */
	int (*invalidate_readonly)(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done);
	/* Let accesses that wait for the range try again. */
	void (*wake)(struct tdm_port *p, struct tdm_va va, u32 n);
	/* Which pages are mapped: bit i of present[] for page i; *huge: all by one leaf. */
	int (*present)(struct tdm_port *p, struct tdm_va va, u32 n, u64 *present, bool *huge);
	/* Is there a page in this slot? May be NULL: then nobody needs to ask. */
	bool (*holds)(struct tdm_port *p, const void *slot);
	/* The first mapped page at or after va and before end; end when there is none. No table lock is needed. */
	u64 (*next_present)(struct tdm_port *p, u64 va, u64 end);
	/* From now on, stores to pages that are mapped in [va, va + len) wait until somebody is told (on), or do not any more, and who waits goes on. -EAGAIN: an event is
	 * to be read; -ENOENT: not all of it is ours. May be NULL: they never wait. */
	int (*protect)(struct tdm_port *p, struct tdm_va va, u64 len, bool on);
	/* Make n mapped pages the process's own where they are copies shared by fork. No lock is held. */
	int (*unshare)(struct tdm_port *p, struct tdm_va va, u32 n);
	/* Have n pages there that can be read, or written, as an access by the program would; it may wait for as long as that. -EFAULT: an access would fail;
	 * -EAGAIN, -ENOMEM. No lock is held, and the caller is not in the mm. */
	int (*populate)(struct tdm_port *p, struct tdm_ctx *ctx, struct tdm_va va, u32 n, bool write);
	/* The mapping that holds va, or the next one. -ENOENT: there is none. */
	int (*mapping)(struct tdm_port *p, u64 va, struct tdm_port_mapping *m);
	/* What tells the page that is mapped at va from any other; 0: it cannot be told, or there is none. May be NULL. */
	u64 (*page_id)(struct tdm_port *p, u64 va);
	/* Copy at most len bytes to the program's memory at va (write), or from there, as an access by the program would. *done: bytes. -EFAULT: the next one
	 * cannot be had. As populate. */
	int (*access)(struct tdm_port *p, struct tdm_ctx *ctx, u64 va, void *buf, size_t len, bool write, size_t *done);
	/* 2 MiB of empty slots are about to be written by the engine: have a page of that size there, if that is easily done. No table lock is needed. May be NULL. */
	void (*fresh_huge)(struct tdm_port *p, void *slot);
	/* Empty slots: give their physical pages back. n ranges of {slot, pages}. */
	void (*discard)(struct tdm_port *p, void *const *slot, const u32 *pages, u32 n);
	/* The same for many ranges of one 2 MiB of slots, at a cost that hardly depends on how many. The event lock is held, no table lock is. */
	void (*discard_many)(struct tdm_port *p, void *const *slot, const u32 *pages, u32 n);
	/* Take in events of the address space (unmap, remap, remove) that are pending. The event lock is held, no table lock is. */
	void (*drain)(struct tdm_port *p, struct tdm_ctx *ctx);
	/* The fault at va that ctx serves (ctx->tid: whose) has been refused for a while. No lock is held. May be NULL. */
	void (*refused)(struct tdm_port *p, struct tdm_ctx *ctx, struct tdm_va va);
};

struct tdm_port {
	const struct tdm_port_ops *ops;
};

#endif
