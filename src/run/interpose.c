/* SPDX-License-Identifier: MIT */
/*
 * interpose.c - the few calls of libc that must be seen before the kernel sees them. Part of every library that is preloaded with an engine in it;
 * while there is none (tdmi_live is NULL) they do what libc does.
 *
 * Calls that change mappings are seen for two reasons: the engine may be changing a mapping itself for a moment (port/maps_gate.h), and devices must hear of a
 * change of protection, of which the kernel tells nobody (run/device.h). Bare system calls are not seen.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "plat/linux/sys.h"
#include "run/interpose.h"
#include "run/live.h"

#define EXPORT __attribute__((visibility("default")))

struct tdm_maps_gate *tdmi_interpose_gate(void)
{
	struct tdm_live *l = tdmi_live;

	return l && tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED ? &l->gate : NULL;
}

static long result(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* What was there is not: devices may know it still, if it was memory of which the kernel tells us nothing. */
void tdmi_interpose_gone(long r, void *addr, size_t len)
{
	struct tdm_live *l = tdmi_live;
	u64 start = (u64)(uintptr_t)addr;

	if ((r >= 0 || r <= -4096) && l && tdm_a32_ld_acquire(&l->ndevices))
		tdmi_device_unmapped(l, start, start + TDM_ALIGN_UP(len, TDM_PAGE_SIZE));
}

/* What is there now that was not, of memory that counts (live_mapped.c). */
void tdmi_interpose_grown(u64 before, u64 after)
{
	struct tdm_live *l = tdmi_live;

	before = TDM_ALIGN_UP(before, TDM_PAGE_SIZE);
	after = TDM_ALIGN_UP(after, TDM_PAGE_SIZE);
	if (l && after > before)
		tdmi_live_mapped(l, after - before);
	else if (l && before > after)
		tdmi_live_unmapped(l, before - after);
}

/* The program's own calls are not the engine's, of which tests have some fail: these are made directly. The caller says what is gone. */
EXPORT int munmap(void *addr, size_t len)
{
	struct tdm_maps_gate *g = tdmi_interpose_gate();
	long r;

	if (g)
		tdm_maps_change_begin(g);
	r = tdm_sys6_raw(SYS_munmap, (long)addr, (long)len, 0, 0, 0, 0);
	if (g)
		tdm_maps_change_end(g);
	tdmi_interpose_gone(r, addr, len);
	if (!r)
		tdmi_interpose_grown(len, 0);
	return (int)result(r);
}

/* Will it be used, most likely, as it is? */
static bool counts(int prot, int flags)
{
	return (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE && (prot & PROT_WRITE) && !(flags & MAP_NORESERVE);
}

/* Only what takes the place of something else matters to the gate. */
void *tdmi_interpose_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	struct tdm_maps_gate *g = flags & MAP_FIXED ? tdmi_interpose_gate() : NULL;
	long r;

	if (g)
		tdm_maps_change_begin(g);
	r = tdm_sys6_raw(SYS_mmap, (long)addr, (long)len, prot, flags, fd, off);
	if (g)
		tdm_maps_change_end(g);
	if (flags & MAP_FIXED)
		tdmi_interpose_gone(r, addr, len);
	if ((flags & MAP_FIXED) && (r >= 0 || r <= -4096))
		tdmi_interpose_grown(len, 0);
	if ((r >= 0 || r <= -4096) && counts(prot, flags))
		tdmi_interpose_grown(0, len);
	return (void *)result(r);
}

/* The program's own calls: malloc's are made within libc. Who calls either reads the break in between, as libc does, and is alone with it. */
EXPORT void *sbrk(intptr_t by)
{
	static void *(*real)(intptr_t);
	u64 before;
	void *r;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "sbrk");
	before = (u64)(uintptr_t)real(0);
	r = real(by);
	if (by && r != (void *)-1)
		tdmi_interpose_grown(before, before + (u64)by);
	return r;
}

EXPORT int brk(void *addr)
{
	static int (*real)(void *);
	u64 before = (u64)(uintptr_t)sbrk(0);
	int r;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "brk");
	r = real(addr);
	if (!r)
		tdmi_interpose_grown(before, (u64)(uintptr_t)addr);
	return r;
}

static long change_protection(void *addr, size_t len, int prot, int pkey)
{
	struct tdm_live *l = tdmi_live;
	struct tdm_maps_gate *g = tdmi_interpose_gate();
	u64 start = (u64)(uintptr_t)addr;
	long r;

	if (g && tdm_a32_ld_acquire(&l->ndevices) && pkey < 0 && start % TDM_PAGE_SIZE == 0 && len)
		return tdmi_device_mprotect(l, start, TDM_ALIGN_UP(start + len, TDM_PAGE_SIZE), prot);
	if (g)
		tdm_maps_change_begin(g);
	r = tdm_sys6_raw(pkey < 0 ? SYS_mprotect : SYS_pkey_mprotect, (long)addr, (long)len, prot, pkey, 0, 0);
	if (g)
		tdm_maps_change_end(g);
	return r;
}

EXPORT int mprotect(void *addr, size_t len, int prot)
{
	return (int)result(change_protection(addr, len, prot, -1));
}

EXPORT int pkey_mprotect(void *addr, size_t len, int prot, int pkey)
{
	return (int)result(change_protection(addr, len, prot, pkey));
}

/*
 * MADV_FREE lets the kernel drop the pages when it is short of memory: which it is not, while we may be. Dropping them at once is one of the things that
 * it allows. WIPEONFORK memory reads as zeros in a child, whatever we hold of it: it is left alone.
 */
EXPORT int madvise(void *addr, size_t len, int advice)
{
	struct tdm_live *l = tdmi_live;
	u64 start = (u64)(uintptr_t)addr;
	long r;

	if (l && advice == MADV_FREE && tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED)
		advice = MADV_DONTNEED;
	if (l && advice == MADV_WIPEONFORK && start % TDM_PAGE_SIZE == 0 && len)
		(void)tdmi_live_request(l, TDM_OP_EXCLUDE, start, TDM_ALIGN_UP(start + len, TDM_PAGE_SIZE), NULL);
	r = tdm_sys3(SYS_madvise, addr, len, advice);
	if (r < 0) {
		errno = (int)-r;
		return -1;
	}
	return 0;
}

/* Locking "everything" would populate the engine's reservation as well, which is nearly all of it address space that nobody uses. */
EXPORT int mlockall(int flags)
{
	struct tdm_live *l = tdmi_live;
	long r = 0;

	if (l && (flags & MCL_CURRENT)) {
		r = tdmi_live_request(l, TDM_OP_LOCK_ALL, flags & MCL_ONFAULT ? MLOCK_ONFAULT : 0, 0, NULL);
		flags &= ~MCL_CURRENT;
		if (!(flags & MCL_FUTURE))
			flags = 0;
	}
	if (!r && flags)
		r = tdm_sys1(SYS_mlockall, flags);
	if (r < 0) {
		errno = (int)-r;
		return -1;
	}
	return 0;
}

struct beginning {
	void *(*fn)(void *);
	void *arg;
};

static void *begin(void *p)
{
	struct beginning b = *(struct beginning *)p;

	free(p);
	if (tdmi_live)
		tdmi_live_note_thread(tdmi_live);
	return b.fn(b.arg);
}

/* A thread says where the kernel will write when it ends: see live_threads.c. */
EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	struct beginning *b = malloc(sizeof(*b));
	int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	int r;

	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	if (!b || !real) {
		free(b);
		return EAGAIN;
	}
	*b = (struct beginning){ fn, arg };
	r = real(thread, attr, begin, b);
	if (r)
		free(b);
	return r;
}

/*
 * The physical page of an evicted page is used again for the next one. vmsplice(2) and MSG_ZEROCOPY let the kernel hold on to a page without a pin, which
 * nobody tells us of: from the first such call on pages are freed instead, and the kernel keeps what it holds.
 */
static void no_recycle(void)
{
	static tdm_a32 told;
	struct tdm_live *l = tdmi_live;

	if (l && !tdm_a32_xchg_acqrel(&told, 1))
		(void)tdmi_live_request(l, TDM_OP_NO_RECYCLE, 0, 0, NULL);
}

EXPORT ssize_t vmsplice(int fd, const struct iovec *iov, size_t n, unsigned flags)
{
	long r;

	no_recycle();
	r = tdm_sys4(SYS_vmsplice, fd, iov, n, flags);
	if (r < 0) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	long r;

	if (level == SOL_SOCKET && name == SO_ZEROCOPY)
		no_recycle();
	r = tdm_sys5(SYS_setsockopt, fd, level, name, value, len);
	if (r < 0) {
		errno = (int)-r;
		return -1;
	}
	return 0;
}
