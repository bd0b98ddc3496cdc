/* SPDX-License-Identifier: MIT */
/*
 * store.h - objects of 1 byte to a whole blob in engine memory, packed densely.
 *
 * A size-class store: a chunk of 256 KiB holds objects of one class, side by side. A handle names an object wherever it lies: compaction
 * moves objects out of thinly filled chunks into the holes of others. An object between get and release is pinned and stays. What the store
 * says it uses is what it has touched, to the page, tables included.
 *
 * Any thread may call anything at any time, but nobody may drop an object that somebody has pinned. One lock, held for about 50 ns a call
 * (never while bytes are copied in; compaction copies one object at a time under it).
 */
#ifndef TDM_POOL_STORE_H
#define TDM_POOL_STORE_H

#include "plat/plat.h"

#define TDM_STORE_OBJECT_MAX (68u * 1024 - 4)

struct tdm_store;

/* limit: physical bytes that it may use; 0: no limit. NULL: no memory. */
struct tdm_store *tdmi_store_create(u64 limit);
void tdmi_store_destroy(struct tdm_store *s);

/* Keep a copy of len bytes (1..TDM_STORE_OBJECT_MAX). -ENOSPC: the limit; -ENOMEM: the world has no more memory. */
int tdmi_store_put(struct tdm_store *s, const void *bytes, u32 len, u32 *handle);
/* Pin and see; several may at once. */
const void *tdmi_store_get(struct tdm_store *s, u32 handle);
void tdmi_store_release(struct tdm_store *s, u32 handle);
void tdmi_store_drop(struct tdm_store *s, u32 handle);

/* Give physical memory back to the platform until `bytes` came back or there is nothing more to gain: empty chunks first, then compaction. What
 * came back. */
u64 tdmi_store_shrink(struct tdm_store *s, u64 bytes);

/* Physical memory in use now, all of it; the part of it that objects occupy (rounded up to their classes). */
u64 tdmi_store_mem_bytes(const struct tdm_store *s);
u64 tdmi_store_object_bytes(const struct tdm_store *s);

/* In the child of a fork that was made while nobody was inside. */
void tdmi_store_forked(struct tdm_store *s);
/* Everything that must be true, is. For tests: nobody else may be inside. */
void tdmi_store_check(struct tdm_store *s);

#endif
