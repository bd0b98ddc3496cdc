/* SPDX-License-Identifier: MIT */
/*
 * inject.c - system calls of the engine that fail: the part of libtandem-run-inject.so that decides which.
 *
 * TANDEM_INJECT=CALL:FIRST:COUNT:ERROR in the environment: of the calls of this name that a process's engine makes, COUNT fail from the FIRST-th on
 * (1: the first) with this number, without having been made; ERROR "short": pread and pwrite do half of what they were asked for. Every process that a
 * failure was seen in adds a byte to the file that TANDEM_INJECT_LOG names. "pwrite" besides has no io_uring. inject.py walks through the calls.
 *
 * Runs on engine threads: no libc but what touches nothing, and no thread-local storage.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include "base/atomic.h"
#include "plat/linux/sys.h"
#include "port/uapi.h"

static const struct {
	const char *name;
	long nr;
	unsigned long cmd; /* of ioctl, madvise, futex; 0: any */
} calls[] = {
	{ "mmap", SYS_mmap, 0 },
	{ "userfaultfd", SYS_userfaultfd, 0 },
	{ "api", SYS_ioctl, UFFDIO_API },
	{ "register", SYS_ioctl, UFFDIO_REGISTER },
	{ "unregister", SYS_ioctl, UFFDIO_UNREGISTER },
	{ "move", SYS_ioctl, TDM_UFFDIO_MOVE },
	{ "copy", SYS_ioctl, UFFDIO_COPY },
	{ "zeropage", SYS_ioctl, UFFDIO_ZEROPAGE },
	{ "probe", SYS_ioctl, UFFDIO_CONTINUE },
	{ "scan", SYS_ioctl, TDM_PAGEMAP_SCAN },
	{ "mapping", SYS_ioctl, TDM_PROCMAP_QUERY },
	{ "uring_setup", SYS_io_uring_setup, 0 },
	{ "uring_enter", SYS_io_uring_enter, 0 },
	{ "pread", SYS_pread64, 0 },
	{ "pwrite", SYS_pwrite64, 0 },
	{ "open", SYS_openat, 0 },
	{ "statfs", SYS_statfs, 0 },
	{ "fallocate", SYS_fallocate, 0 },
	{ "clone", SYS_clone, 0 },
	{ "eventfd", SYS_eventfd2, 0 },
	{ "fcntl", SYS_fcntl, 0 },
	{ "random", SYS_getrandom, 0 },
	{ "poll", SYS_ppoll, 0 },
	{ "read", SYS_read, 0 },
	{ "write", SYS_write, 0 },
	{ "wait", SYS_futex, FUTEX_WAIT_PRIVATE },
	{ "populate", SYS_madvise, 23 /* MADV_POPULATE_WRITE */ },
	{ "socketpair", SYS_socketpair, 0 },
	{ "sendmsg", SYS_sendmsg, 0 },
	{ "recvmsg", SYS_recvmsg, 0 },
	{ "recvfrom", SYS_recvfrom, 0 },
	{ "sendto", SYS_sendto, 0 },
	{ "memfd", SYS_memfd_create, 0 },
	{ "pidfd_open", SYS_pidfd_open, 0 },
	{ "pidfd_getfd", SYS_pidfd_getfd, 0 },
	{ "prlimit", SYS_prlimit64, 0 },
	{ "getdents", SYS_getdents64, 0 },
	{ "affinity", SYS_sched_setaffinity, 0 },
};

static const char *log_path;
static long which = -1;   /* in calls[] */
static u64 first, last;   /* [first, last) fail */
static long error;        /* 0: a short transfer */
static tdm_a64 seen;

static u64 number(const char **s)
{
	u64 v = 0;

	while (**s >= '0' && **s <= '9')
		v = v * 10 + (u64)(*(*s)++ - '0');
	*s += **s == ':';
	return v;
}

/* Before attach() of run/preload.c. */
static __attribute__((constructor(101))) void configure(void)
{
	const char *s = getenv("TANDEM_INJECT");
	size_t n = s ? strcspn(s, ":") : 0;

	log_path = getenv("TANDEM_INJECT_LOG");
	for (u32 i = 0; n && i < TDM_ARRAY_SIZE(calls); i++)
		if (strlen(calls[i].name) == n && !memcmp(s, calls[i].name, n))
			which = i;
	if (!s || which < 0)
		return;
	s += n + (s[n] == ':');
	first = number(&s);
	last = first + number(&s);
	error = -(long)number(&s);
}

static void note(void)
{
	long fd = log_path ? tdm_sys6_raw(SYS_openat, AT_FDCWD, (long)log_path, O_WRONLY | O_APPEND | O_CLOEXEC, 0, 0, 0) : -1;

	if (fd >= 0) {
		tdm_sys6_raw(SYS_write, fd, (long)"x", 1, 0, 0, 0);
		tdm_sys6_raw(SYS_close, fd, 0, 0, 0, 0, 0);
	}
}

static bool fails(long nr, long cmd)
{
	u64 n;

	if (which < 0 || calls[which].nr != nr || (calls[which].cmd && calls[which].cmd != (unsigned long)(u32)cmd))
		return false;
	n = tdm_a64_add_relaxed(&seen, 1) + 1;
	if (n < first || n >= last)
		return false;
	if (n == first)
		note();
	return true;
}

long tdmi_inject(long nr, long a, long b, long c, long d, long e, long f)
{
	if (nr == SYS_io_uring_setup && which >= 0 && calls[which].nr == SYS_pwrite64)
		return -ENOSYS;
	if (fails(nr, nr == SYS_madvise ? c : b)) {
		if (error)
			return error;
		c /= 2;
	}
	return nr == SYS_clone ? 0 : tdm_sys6_raw(nr, a, b, c, d, e, f);
}
