/* SPDX-License-Identifier: MIT */
/*
 * front.c - the preloaded library's front end: calls of libc that concern the devices are ours, all others go on to the kernel.
 *
 * A device that is open is a descriptor like any other to the program: that of an empty memfd, so that close(), poll() and what passes descriptors on
 * find one. A number that has come to mean something else (dup2(), close_range(), libc's own close()) is noticed when it is next used: the memfd's inode
 * is not there any more, and the device is closed then.
 *
 * To the kernel a device that a child inherits works on the memory of the parent. Here it is the empty file alone (ENOTTY); a child opens its own. Neither
 * do copies of a descriptor made by dup() work.
 */
#undef _FILE_OFFSET_BITS /* with it, open() is open64() by another name */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "dmirror/dmirror.h"
#include "plat/linux/sys.h"
#include "port/uapi.h"
#include "run/interpose.h"
#include "run/live.h"

#define EXPORT __attribute__((visibility("default")))
#define OPEN_MAX 16u

struct entry {
	tdm_a32 fd;              /* its number + 1, 0: closed; may be read without the lock */
	u32 users;               /* commands under way */
	struct tdm_dmirror *dev; /* NULL: the entry is free */
	u64 fs, inode;           /* of the memfd */
};

static struct {
	struct plat_mutex lock; /* guards the rest. The program's threads only, with signals blocked: a handler may close a descriptor */
	struct entry entry[OPEN_MAX];
	u32 pid;                /* whose devices these are: vfork() and a bare clone() have others run with our memory */
	u64 fork_signals;
} table;

static void begin(u64 *signals)
{
	u64 all = ~(u64)0;

	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, signals, 8);
}

static void end(const u64 *signals)
{
	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, signals, NULL, 8);
}

/* As libc returns it. */
static long result(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* ---- the table ----------------------------------------------------------------------------------------------------------- */

/* Without the lock: is it worth a closer look? */
static bool maybe(int fd)
{
	for (u32 i = 0; i < OPEN_MAX; i++)
		if (tdm_a32_ld_relaxed(&table.entry[i].fd) == (u32)fd + 1)
			return fd >= 0;
	return false;
}

/* Nobody finds it from now on. The device to close, unless somebody uses it: then he does. */
static struct tdm_dmirror *retire(struct entry *e)
{
	struct tdm_dmirror *dev = e->users ? NULL : e->dev;

	tdm_a32_st_relaxed(&e->fd, 0);
	if (dev)
		e->dev = NULL;
	return dev;
}

/* The device's entry, or NULL. *gone: one that has to be closed without the lock, or NULL. */
static struct entry *find(int fd, struct tdm_dmirror **gone)
{
	struct stat st;

	*gone = NULL;
	for (u32 i = 0; i < OPEN_MAX && table.pid == (u32)tdm_sys0(SYS_getpid); i++) {
		struct entry *e = &table.entry[i];

		if (tdm_a32_ld_relaxed(&e->fd) != (u32)fd + 1)
			continue;
		if (!tdm_sys2(SYS_fstat, fd, &st) && st.st_dev == e->fs && st.st_ino == e->inode)
			return e;
		*gone = retire(e);
		return NULL;
	}
	return NULL;
}

/* A command begins: its device stays. NULL: it is none. */
static struct entry *get(int fd)
{
	struct tdm_dmirror *gone;
	struct entry *e;

	plat_mutex_lock(&table.lock);
	e = find(fd, &gone);
	if (e)
		e->users++;
	plat_mutex_unlock(&table.lock);
	if (gone)
		tdmi_dmirror_close(gone);
	return e;
}

static void put(struct entry *e)
{
	struct tdm_dmirror *gone = NULL;

	plat_mutex_lock(&table.lock);
	if (!--e->users && !tdm_a32_ld_relaxed(&e->fd))
		gone = retire(e);
	plat_mutex_unlock(&table.lock);
	if (gone)
		tdmi_dmirror_close(gone);
}

/* ---- fork ---------------------------------------------------------------------------------------------------------------- */

static void fork_prepare(void)
{
	u64 signals;

	begin(&signals);
	plat_mutex_lock(&table.lock);
	table.fork_signals = signals;
	tdmi_live_fork_prepare();
}

static void fork_done(void)
{
	u64 signals = table.fork_signals;

	plat_mutex_unlock(&table.lock);
	end(&signals);
}

static void fork_parent(void)
{
	tdmi_live_fork_parent();
	fork_done();
}

static void fork_child(void)
{
	tdmi_live_fork_child();
	for (u32 i = 0; i < OPEN_MAX; i++) {
		if (table.entry[i].dev)
			tdmi_dmirror_forget(table.entry[i].dev);
		table.entry[i] = (struct entry){ 0 };
	}
	fork_done();
}

static __attribute__((constructor)) void attach(void)
{
	pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/* ---- open ---------------------------------------------------------------------------------------------------------------- */

/* A free entry, if need be one whose number the new descriptor has got. NULL: too many. */
static struct entry *free_entry(int fd, struct tdm_dmirror **gone)
{
	if (find(fd, gone))
		return NULL; /* it cannot be: the inode is a new one */
	for (u32 i = 0; i < OPEN_MAX; i++)
		if (!table.entry[i].dev)
			return &table.entry[i];
	return NULL;
}

static int open_locked(u32 minor, int flags, struct tdm_dmirror **gone)
{
	long fd = tdm_sys2(SYS_memfd_create, "hmm_dmirror", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	struct tdm_dmirror *dev = NULL;
	struct entry *e = NULL;
	struct stat st;
	int r = (int)TDM_MIN(fd, 0);

	if (!r)
		r = (int)tdm_sys2(SYS_fstat, fd, &st);
	if (!r)
		e = free_entry((int)fd, gone);
	if (!r)
		r = e ? tdmi_dmirror_open(minor, &dev) : -EMFILE;
	if (r) {
		if (fd >= 0)
			tdm_sys1(SYS_close, fd);
		return r;
	}
	*e = (struct entry){ .dev = dev, .fs = st.st_dev, .inode = st.st_ino };
	tdm_a32_st_relaxed(&e->fd, (u32)fd + 1);
	table.pid = (u32)tdm_sys0(SYS_getpid);
	return (int)fd;
}

static int open_device(u32 minor, int flags)
{
	struct tdm_dmirror *gone = NULL;
	u64 signals;
	int r;

	begin(&signals);
	plat_mutex_lock(&table.lock);
	r = open_locked(minor, flags, &gone);
	plat_mutex_unlock(&table.lock);
	if (gone)
		tdmi_dmirror_close(gone);
	end(&signals);
	return r;
}

/* A minor number, or TDM_DMIRROR_MINORS. */
static u32 minor_of(const char *path)
{
	size_t n = sizeof(TDM_DMIRROR_PATH) - 1;
	u32 minor;

	if (strncmp(path, TDM_DMIRROR_PATH, n) || path[n] < '0' || path[n] > '9' || path[n + 1])
		return TDM_DMIRROR_MINORS;
	minor = (u32)(path[n] - '0');
	return TDM_MIN(minor, TDM_DMIRROR_MINORS);
}

/* The kernel first: it says whether path can be read, and what it has under that name itself is not meant. */
static long do_open(int dir, const char *path, int flags, va_list ap)
{
	mode_t mode = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
	long fd = tdm_sys4(SYS_openat, dir, path, flags, mode);
	u32 minor;

	if (fd < 0 && fd != -ENOENT && fd != -ENXIO && fd != -ENODEV && fd != -EACCES)
		return result(fd);
	minor = minor_of(path);
	if (minor == TDM_DMIRROR_MINORS) {
		if (fd >= 0)
			tdmi_dmirror_opened((int)fd, path);
		return result(fd);
	}
	if (fd >= 0)
		tdm_sys1(SYS_close, fd);
	return result(open_device(minor, flags));
}

EXPORT int open(const char *path, int flags, ...)
{
	va_list ap;
	long r;

	va_start(ap, flags);
	r = do_open(AT_FDCWD, path, flags, ap);
	va_end(ap);
	return (int)r;
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	long r;

	va_start(ap, flags);
	r = do_open(dir, path, flags, ap);
	va_end(ap);
	return (int)r;
}

EXPORT int open64(const char *path, int flags, ...) __attribute__((alias("open")));
EXPORT int openat64(int dir, const char *path, int flags, ...) __attribute__((alias("openat")));

/* ---- close --------------------------------------------------------------------------------------------------------------- */

static long close_device(int fd)
{
	struct tdm_dmirror *gone;
	struct entry *e;
	u64 signals;
	long r;

	begin(&signals);
	plat_mutex_lock(&table.lock);
	e = find(fd, &gone);
	if (e)
		gone = retire(e);
	plat_mutex_unlock(&table.lock);
	r = tdm_sys1(SYS_close, fd);
	if (gone)
		tdmi_dmirror_close(gone);
	end(&signals);
	return r;
}

EXPORT int close(int fd)
{
	return (int)result(maybe(fd) ? close_device(fd) : tdm_sys1(SYS_close, fd));
}

/* ---- ioctl --------------------------------------------------------------------------------------------------------------- */

/* The struct may be anywhere, or nowhere. */
static int copy(void *here, void *there, long call)
{
	struct iovec l = { here, sizeof(struct tdm_dmirror_cmd) }, r = { there, sizeof(struct tdm_dmirror_cmd) };

	return tdm_sys6(call, table.pid, (long)&l, 1, (long)&r, 1, 0) == (long)l.iov_len ? 0 : -EFAULT;
}

static int command(struct tdm_dmirror *dev, unsigned long request, void *arg)
{
	struct tdm_dmirror_cmd c;
	u32 nr = _IOC_NR(request);
	int r = copy(&c, arg, SYS_process_vm_readv);

	if (r)
		return r;
	/* That the length in bytes does not wrap either is a rule of ours. */
	if (c.addr % TDM_PAGE_SIZE || c.npages > ~(u64)0 >> TDM_PAGE_SHIFT || c.addr + (c.npages << TDM_PAGE_SHIFT) <= c.addr)
		return -EINVAL;
	c.cpages = c.faults = 0;
	if (request != TDM_DMIRROR_REQUEST(nr))
		return -EINVAL;
	r = tdmi_dmirror_command(dev, nr, &c);
	return r ? r : copy(&c, arg, SYS_process_vm_writev);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	struct entry *e;
	va_list ap;
	void *arg;
	u64 signals;
	long r;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) != TDM_DMIRROR_TYPE || !maybe(fd))
		return (int)result(tdm_sys3(SYS_ioctl, fd, request, arg));
	begin(&signals);
	e = get(fd);
	if (e) {
		r = command(e->dev, request, arg);
		put(e);
	} else {
		r = tdm_sys3(SYS_ioctl, fd, request, arg);
	}
	end(&signals);
	return (int)result(r);
}

/* ---- where pages are --------------------------------------------------------------------------------------------------------- */

int tdmi_dmirror_private(u64 va, u32 n, u64 *bits)
{
	struct entry *e = NULL;
	u64 signals;
	int r = -ENODEV;

	begin(&signals);
	plat_mutex_lock(&table.lock);
	for (u32 i = 0; i < OPEN_MAX && !e && table.pid == (u32)tdm_sys0(SYS_getpid); i++)
		e = tdm_a32_ld_relaxed(&table.entry[i].fd) ? &table.entry[i] : NULL;
	if (e)
		e->users++;
	plat_mutex_unlock(&table.lock);
	if (e) {
		r = tdmi_dmirror_find_private(e->dev, va, n, bits);
		put(e);
	}
	end(&signals);
	return r;
}

/* ---- mmap ---------------------------------------------------------------------------------------------------------------- */

/* Pages of zeros that are there already, and every mapping's own: as the driver makes them. */
static long map_device(void *addr, size_t len, int prot, int flags)
{
	long fd = tdm_sys2(SYS_memfd_create, "hmm_dmirror-pages", MFD_CLOEXEC), r;

	if (fd < 0)
		return fd;
	r = tdm_sys2(SYS_ftruncate, fd, TDM_ALIGN_UP(len, TDM_PAGE_SIZE));
	if (!r)
		r = tdm_sys6(SYS_mmap, (long)addr, (long)len, prot, flags, fd, 0);
	tdm_sys1(SYS_close, fd);
	if (r >= 0 || r <= -4096)
		tdm_sys3(SYS_madvise, r, len, TDM_MADV_POPULATE_READ);
	return r;
}

static bool is_device(int fd)
{
	struct entry *e;
	u64 signals;

	begin(&signals);
	e = get(fd);
	if (e)
		put(e);
	end(&signals);
	return e != NULL;
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	if (!(flags & MAP_ANONYMOUS) && maybe(fd) && is_device(fd))
		return (void *)result(map_device(addr, len, prot, flags));
	return tdmi_interpose_mmap(addr, len, prot, flags, fd, off);
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off) __attribute__((alias("mmap")));
