/* SPDX-License-Identifier: MIT */
/* interpose.h - what the files that interpose libc's calls share; among them libraries that are preloaded with an engine in them, and have calls of their own. */
#ifndef TDM_RUN_INTERPOSE_H
#define TDM_RUN_INTERPOSE_H

#include <stddef.h>
#include <sys/types.h>
#include "port/maps_gate.h"

/* mmap(2) for the program, as libc's mmap(): the engine is not changing a mapping meanwhile. On the program's threads. */
void *tdmi_interpose_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);

/* What a call that changes mappings has to know, and to say. All on the program's threads. */

/* The gate to pass before the call and after it (port/maps_gate.h); NULL: there is none to pass. */
struct tdm_maps_gate *tdmi_interpose_gate(void);
/* The call said r; if that is no error, what was at [addr, addr + len) is not there any more. No request is under way on this thread. */
void tdmi_interpose_gone(long r, void *addr, size_t len);
/* So many bytes of anonymous memory have become so many. It may wait until they have been found (live_mapped.c). */
void tdmi_interpose_grown(u64 before, u64 after);

#endif
