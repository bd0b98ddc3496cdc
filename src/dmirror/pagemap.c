/* SPDX-License-Identifier: MIT */
/*
 * pagemap.c - /proc/self/pagemap, as the program reads it with pread().
 *
 * To the kernel a page that has migrated to a device is an entry of a kind of its own, which pagemap shows as one of swap. Ours is an empty entry to the kernel
 * that we run on, so what it says is completed here, for who looks at single pages: pread() of a descriptor that open() gave. What read() and the ioctl of that file
 * say, and what other processes see, is the kernel's.
 *
 * A descriptor is known by its inode, as the devices are (front.c). The table of them is a cache without a lock: an entry is written by open() alone, and a
 * program that opens more than there is room for sees the kernel's answer in those that were opened first.
 */
#undef _FILE_OFFSET_BITS /* with it, pread() is pread64() by another name */
#include <dlfcn.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/atomic.h"
#include "base/fmt.h"
#include "dmirror/dmirror.h"
#include "plat/linux/sys.h"

#define EXPORT __attribute__((visibility("default")))
#define KNOWN 8u
#define PRESENT ((u64)1 << 63)
#define SWAPPED ((u64)1 << 62)

struct known {
	tdm_a32 fd;     /* its number + 1; 0: none */
	tdm_a64 inode;
	tdm_a32 pid;    /* whose pages it shows; a child's copy shows its parent's */
};

static struct known known[KNOWN];
static tdm_a32 next;
static ssize_t (*real)(int fd, void *buf, size_t len, off_t off);

static __attribute__((constructor)) void attach(void)
{
	*(void **)&real = dlsym(RTLD_NEXT, "pread");
}

static u32 self(void)
{
	return (u32)tdm_sys0(SYS_getpid);
}

void tdmi_dmirror_opened(int fd, const char *path)
{
	char own[40];
	struct stat st;
	struct known *k;

	if (strncmp(path, "/proc/", 6))
		return;
	tdmi_fmt(own, sizeof(own), "/proc/%u/pagemap", self());
	if ((strcmp(path, "/proc/self/pagemap") && strcmp(path, own)) || tdm_sys2(SYS_fstat, fd, &st))
		return;
	k = &known[tdm_a32_add_relaxed(&next, 1) % KNOWN];
	tdm_a32_st_relaxed(&k->fd, 0);
	tdm_a64_st_relaxed(&k->inode, st.st_ino);
	tdm_a32_st_relaxed(&k->pid, self());
	tdm_a32_st_release(&k->fd, (u32)fd + 1);
}

static bool is_pagemap(int fd)
{
	struct stat st;

	for (u32 i = 0; i < KNOWN && fd >= 0; i++)
		if (tdm_a32_ld_acquire(&known[i].fd) == (u32)fd + 1 && tdm_a32_ld_relaxed(&known[i].pid) == self() &&
		    !tdm_sys2(SYS_fstat, fd, &st) && tdm_a64_ld_relaxed(&known[i].inode) == st.st_ino)
			return true;
	return false;
}

/* n entries of pagemap, of the pages from number `first` on. */
static void complete(u64 first, u64 *entry, u64 n)
{
	for (u64 at = 0, some; at < n; at += some) {
		u64 bits[TDM_DMIRROR_LOOK / 64];

		some = TDM_MIN(n - at, (u64)TDM_DMIRROR_LOOK);
		if (tdmi_dmirror_private((first + at) << TDM_PAGE_SHIFT, (u32)some, bits))
			return;
		for (u64 i = 0; i < some; i++)
			if ((bits[i / 64] >> (i % 64) & 1) && !(entry[at + i] & PRESENT))
				entry[at + i] |= SWAPPED;
	}
}

EXPORT ssize_t pread(int fd, void *buf, size_t len, off_t off)
{
	ssize_t r = real ? real(fd, buf, len, off) : -1;
	int saved = errno;

	if (r > 0 && off % (off_t)sizeof(u64) == 0 && (uintptr_t)buf % sizeof(u64) == 0 && is_pagemap(fd))
		complete((u64)off / sizeof(u64), buf, (u64)r / sizeof(u64));
	errno = saved;
	return r;
}

EXPORT ssize_t pread64(int fd, void *buf, size_t len, off64_t off) __attribute__((alias("pread")));
