/* SPDX-License-Identifier: MIT */
/*
 * linux.h - what the host port and the live process need of the Linux platform beyond plat.h.
 */
#ifndef TDM_PLAT_LINUX_H
#define TDM_PLAT_LINUX_H

#include "plat/plat.h"

/* Under ThreadSanitizer engine threads are pthreads: its runtime keeps state in libc's TLS. That of AddressSanitizer needs none until it reports. */
#if defined(__SANITIZE_THREAD__)
#define TDM_PTHREADS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TDM_PTHREADS 1
#endif
#endif
#ifndef TDM_PTHREADS
#define TDM_PTHREADS 0
#endif

/* The one reservation that all plat_map() memory comes from: nothing in it is ever the program's. Makes it on first use. 0 or -ENOMEM. */
int tdmi_linux_mem_init(void);
/* Give the reservation back if nothing of it is mapped: there must be no engine thread any more. */
void tdmi_linux_mem_release(void);
/* Does [start, end) touch engine memory? */
bool tdmi_linux_mem_own(u64 start, u64 end);
/* Physical pages are not asked for: the bytes handed out by plat_map() now. */
u64 tdmi_linux_mem_mapped(void);
/* Where the reservation lies. */
void tdmi_linux_mem_range(u64 *start, u64 *end);

/* The userfaultfd for plat_copy_new(); -1: none. It has no events. Before other engine threads run. */
void tdmi_linux_mem_fill_by(int uffd);

/* Like plat_thread_start(), but the thread gets a descriptor table of its own, empty but for keep_fd (-1: none; it is moved nowhere): the
 * program can neither see nor close what it opens. Threads that it starts share that table. */
int tdmi_linux_thread_start_private(struct plat_thread **t, void (*fn)(void *), void *arg, const char *name, int keep_fd);
/* In the child of fork(2): the thread does not exist here. Frees its memory. */
void tdmi_linux_thread_forget(struct plat_thread *t);
/* fd (or -errno, which is passed through) will be open for long: move it to a high number. The low ones stay free for what comes and goes: a program
 * may limit itself to a handful, and the limit is on numbers, in our table too. */
int tdmi_linux_fd_keep(long fd);
#define TDM_FD_HIGH 64 /* the first of the high ones */
/* The kernel's id of the calling thread. */
int tdmi_linux_gettid(void);

/* Can there be this NUMA node, by what the kernel says? 0, also if it does not say; -EINVAL. */
int tdmi_linux_node_check(int node);
/* Is it in a list as those of /sys: "0-3,8"? For tests. */
bool tdmi_linux_node_listed(const char *list, int node);

/* fn(arg, tid) for every thread of the process that /proc knows of now. false: not all could be seen. */
bool tdmi_linux_each_thread(void (*fn)(void *arg, u32 tid), void *arg);

/* Where plat_log() lines go: sink(line), or file descriptor 2 of the calling thread when NULL. */
void tdmi_linux_log_sink(void (*sink)(const char *line));

#endif
