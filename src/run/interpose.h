/* SPDX-License-Identifier: MIT */
/* interpose.h - system calls of the program's, so that the engine is not changing a mapping meanwhile. On the program's threads. */
#ifndef TDM_RUN_INTERPOSE_H
#define TDM_RUN_INTERPOSE_H

#include <stddef.h>
#include <sys/types.h>

/* mremap(2). The address, or -errno. */
long tdmi_interpose_mremap(void *addr, size_t old_len, size_t new_len, int flags, void *to);
/* mmap(2), as libc's mmap(). */
void *tdmi_interpose_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);

#endif
