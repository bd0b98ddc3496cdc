/* SPDX-License-Identifier: MIT */
/*
 * shm.h - anonymous memory that several address spaces share.
 *
 * The memory is an object, and an object is an address space that nothing runs in: its page table says which page is where, or in which swap slot. A mapping
 * of it in a real space takes pages from there, each with a mapping of its own. So a page is found by all who map it, the object included; when it goes, the
 * object's entry comes to name a slot and the others become none; and whoever touches it next asks the object. Nobody ever copies such a page: the object has
 * it alone, and all others have it through the object.
 */
#ifndef TDM_MM_SHM_H
#define TDM_MM_SHM_H

#include "mm/anon.h"

struct tdm_shm;

/* An object of n pages, of zeros, and a reference for the caller. -ENOMEM, -ENOSPC. No lock, outside of a section. */
int tdmi_shm_create(struct tdm_world *w, struct tdm_rcu_reader *reader, u64 n, struct tdm_shm **out);
/* Map its bytes [off, off + len) at start; a fork's child has the mapping, too. As tdmi_mmap_driver(); -EINVAL: beyond its end. */
int tdmi_shm_mmap(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 len, uintptr_t flags, struct tdm_shm *shm, u64 off);
/* The reference goes. The object goes with the last one, and the last mapping. */
void tdmi_shm_put(struct tdm_shm *shm, struct tdm_rcu_reader *reader);
/* Free what nobody has any more. Whoever unmaps calls this when it has let go of all locks. */
void tdmi_shm_reap(struct tdm_world *w, struct tdm_rcu_reader *reader);

/* A fault in a VMA with TDM_V_SHARED (mm/anon.c). */
int tdmi_shm_fault(struct tdm_fault *f);

#endif
