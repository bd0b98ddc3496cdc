/* SPDX-License-Identifier: MIT */
/* interpose.h - for libraries that are preloaded with an engine in them, and have calls of their own to interpose. */
#ifndef TDM_RUN_INTERPOSE_H
#define TDM_RUN_INTERPOSE_H

#include <stddef.h>
#include <sys/types.h>

/* mmap(2) for the program, as libc's mmap(): the engine is not changing a mapping meanwhile. On the program's threads. */
void *tdmi_interpose_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);

#endif
