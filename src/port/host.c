/* SPDX-License-Identifier: MIT */
/* host.c - the operations of the host port: userfaultfd ioctls and what their results mean. See host.h. */
#include "port/host.h"
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include "base/check.h"
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"
#include "port/uapi.h"

#define FDS_NEEDED 64u /* with so many allowed the engine has enough */
#define DISCARD_TRIES 1000u
#define READ_TRIES 10000u
#define VECTOR_MAX 256u
#define MANY 4u /* one by one, fewer cost less */
#define TRASH_PAGES (2 * TDM_HUGE_PAGES) /* the first half for 2 MiB pages, the second for small ones */

#define FEATURES                                                                                                        \
	(TDM_UFFD_FEATURE_MOVE | UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |       \
	 UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP)

static struct tdm_host *host_of(struct tdm_port *p)
{
	return tdm_container_of(p, struct tdm_host, port);
}

static void say(char *err, size_t errlen, const char *line)
{
	if (err && errlen) {
		strncpy(err, line, errlen - 1);
		err[errlen - 1] = 0;
	}
}

static int uffd_new(void)
{
	long fd = tdm_sys1(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), dev;

	if (fd != -EPERM && fd != -ENOSYS)
		return (int)fd;
	dev = tdm_sys4(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC, 0);
	/* Anything else would be blamed on the user's rights. */
	if (dev == -EMFILE || dev == -ENFILE || dev == -ENOMEM || dev == -EINTR)
		return (int)dev;
	if (dev < 0)
		return -EPERM;
	fd = tdm_sys3(SYS_ioctl, dev, TDM_USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	tdm_sys1(SYS_close, dev);
	return (int)fd;
}

static int uffd_open(u64 features)
{
	int fd = uffd_new();
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	long r;

	if (fd < 0)
		return fd;
	r = tdm_sys3(SYS_ioctl, fd, UFFDIO_API, &api);
	if (r < 0) {
		tdm_sys1(SYS_close, fd);
		return (int)r;
	}
	return tdmi_linux_fd_keep(fd);
}

int tdmi_host_open_uffd(char *err, size_t errlen)
{
	int fd = uffd_open(FEATURES);

	if (fd == -EINVAL)
		say(err, errlen, "this kernel has no UFFDIO_MOVE: Linux 6.8 or later is needed");
	else if (fd == -EPERM)
		say(err, errlen,
		    "no right to open a userfaultfd: run as root, or with CAP_SYS_PTRACE and access to /dev/userfaultfd");
	else if (fd < 0)
		say(err, errlen, "a userfaultfd cannot be opened");
	return fd == -EINVAL ? -EOPNOTSUPP : fd;
}

static int reg(int uffd, u64 start, u64 end, u64 mode)
{
	struct uffdio_register r = { .range = { start, end - start }, .mode = mode };

	return (int)tdm_sys3(SYS_ioctl, uffd, UFFDIO_REGISTER, &r);
}

int tdmi_host_register(struct tdm_host *h, u64 start, u64 end)
{
	return reg(h->uffd, start, end, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
}

int tdmi_host_register_events(struct tdm_host *h, u64 start, u64 end)
{
	/* Nothing is ever write-protected. */
	return reg(h->uffd, start, end, UFFDIO_REGISTER_MODE_WP);
}

int tdmi_host_unregister(struct tdm_host *h, u64 start, u64 end)
{
	struct uffdio_range r = { start, end - start };

	return (int)tdm_sys3(SYS_ioctl, h->uffd, UFFDIO_UNREGISTER, &r);
}

static int open_files(struct tdm_host *h)
{
	h->pid = (int)tdm_sys0(SYS_getpid);
	h->pagemap = tdmi_linux_fd_keep(tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC, 0));
	h->maps = tdmi_linux_fd_keep(tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0));
	/* Without it, such pages stay. */
	h->mem = tdmi_linux_fd_keep(tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/mem", O_RDWR | O_CLOEXEC, 0));
	h->trash_uffd = uffd_open(0);
	h->kick_fd = tdmi_linux_fd_keep(tdm_sys2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (h->kick_fd < 0)
		return h->kick_fd;
	if (h->pagemap < 0)
		return h->pagemap;
	if (h->maps < 0)
		return h->maps;
	if (h->trash_uffd < 0)
		return h->trash_uffd;
	tdmi_linux_mem_fill_by(h->trash_uffd);
	/* Write-protection is never asked for: the mode is there because one is needed, and missing pages of the trash and of the arena are
	 * the kernel's business. */
	return reg(h->trash_uffd, (u64)(uintptr_t)h->trash, (u64)(uintptr_t)h->trash + TRASH_PAGES * TDM_PAGE_SIZE,
		   UFFDIO_REGISTER_MODE_WP);
}

/* ---- moving ------------------------------------------------------------------------------------------------------ */

static int do_move(int uffd, u64 dst, u64 src, u32 n, u64 mode, u32 *done)
{
	*done = 0;
	while (*done < n) {
		u64 off = (u64)*done << TDM_PAGE_SHIFT;
		struct tdm_uffdio_move m = { dst + off, src + off, ((u64)n << TDM_PAGE_SHIFT) - off, mode, 0 };
		long r;

		plat_window();
		r = tdm_sys3(SYS_ioctl, uffd, TDM_UFFDIO_MOVE, &m);
		plat_window();
		if (m.move > 0)
			*done += (u32)(m.move >> TDM_PAGE_SHIFT);
		else if (r < 0)
			return (int)r;
	}
	return 0;
}

static int host_present(struct tdm_port *p, struct tdm_va va, u32 n, u64 *present, bool *huge);

static int host_fill(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	/* A hole (the program had dropped the page while it was home): stays one, and its next touch is a first touch. */
	return do_move(host_of(p)->uffd, va.v, (u64)(uintptr_t)slot, n, TDM_UFFDIO_MOVE_ALLOW_SRC_HOLES | TDM_UFFDIO_MOVE_DONTWAKE,
		       done);
}

static bool is_present(struct tdm_host *h, u64 va)
{
	u64 present = 0;
	bool huge;

	return !host_present(&h->port, (struct tdm_va){ va }, 1, &present, &huge) && (present & 1);
}

/*
 * Linux (6.18) at times moves a page, tries again, finds that there is one at the destination, and says EEXIST, or that it did one page less than it did: once
 * in a million moves, while the process forks (tests/live/prog/moves.c). The table would have it mapped, its bytes would lie in a home that nobody
 * looks at, and its next touch would find zeros. A home is empty before a page is moved there, and the table is locked: so a page that is there, and
 * not at its address, has just been moved.
 */
static int host_invalidate(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	struct tdm_host *h = host_of(p);
	u64 home = (u64)(uintptr_t)slot;
	int r;

	*done = 0;
	for (;;) {
		u64 off = (u64)*done << TDM_PAGE_SHIFT;
		u32 k = 0;

		r = do_move(h->uffd, home + off, va.v + off, n - *done, TDM_UFFDIO_MOVE_ALLOW_SRC_HOLES | TDM_UFFDIO_MOVE_DONTWAKE, &k);
		*done += k;
		off = (u64)*done << TDM_PAGE_SHIFT;
		if (!r || !is_present(h, home + off) || is_present(h, va.v + off))
			break;
		if (++*done == n) {
			r = 0;
			break;
		}
	}
	return r == -EFAULT ? -EBUSY : r;
}

static bool host_holds(struct tdm_port *p, const void *slot)
{
	return is_present(host_of(p), (u64)(uintptr_t)slot);
}

static int do_copy(int uffd, u64 va, const void *src, u32 n, u64 mode, u32 *done)
{
	*done = 0;
	while (*done < n) {
		u64 off = (u64)*done << TDM_PAGE_SHIFT;
		struct uffdio_copy c = { va + off, (u64)(uintptr_t)src + off, ((u64)n << TDM_PAGE_SHIFT) - off, mode, 0 };
		long r;

		plat_window();
		r = tdm_sys3(SYS_ioctl, uffd, UFFDIO_COPY, &c);
		plat_window();
		if (c.copy > 0)
			*done += (u32)(c.copy >> TDM_PAGE_SHIFT);
		else if (r < 0)
			return (int)r;
	}
	return 0;
}

int tdmi_host_copy(int uffd, u64 va, const void *src, u32 n, u32 *done)
{
	return do_copy(uffd, va, src, n, 0, done);
}

static int host_fill_copy(struct tdm_port *p, struct tdm_va va, const void *src, u32 n, u32 *done)
{
	int r = do_copy(host_of(p)->uffd, va.v, src, n, UFFDIO_COPY_MODE_DONTWAKE, done);

	/* The address space is being torn down. */
	return r == -ESRCH ? -ENOENT : r;
}

static int host_fill_zero(struct tdm_port *p, struct tdm_va va, u32 n, u32 *done)
{
	struct uffdio_zeropage z = { .range = { va.v, (u64)n << TDM_PAGE_SHIFT }, .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE };
	long r = tdm_sys3(SYS_ioctl, host_of(p)->uffd, UFFDIO_ZEROPAGE, &z);

	*done = z.zeropage > 0 ? (u32)(z.zeropage >> TDM_PAGE_SHIFT) : 0;
	return r == -ESRCH ? -ENOENT : (int)r;
}

static int host_fill_poison(struct tdm_port *p, struct tdm_va va, u32 n)
{
	struct tdm_uffdio_poison a = { va.v, (u64)n << TDM_PAGE_SHIFT, 0, 0 };
	struct tdm_host *h = host_of(p);

	if (!h->has_poison)
		plat_abort("tandem: a page could not be read back from its tier, and this kernel cannot say so to the program\n");
	return (int)tdm_sys3(SYS_ioctl, h->uffd, TDM_UFFDIO_POISON, &a);
}

int tdmi_host_wake(int uffd, u64 va, u64 len)
{
	struct uffdio_range r = { va, len };

	return (int)tdm_sys3(SYS_ioctl, uffd, UFFDIO_WAKE, &r);
}

void tdmi_host_call(struct tdm_host *h)
{
	plat_discard((void *)(uintptr_t)h->beacon, TDM_PAGE_SIZE);
}

void tdmi_host_let_go(int uffd)
{
	tdm_sys1(SYS_close, uffd);
}

static void host_wake(struct tdm_port *p, struct tdm_va va, u32 n)
{
	tdmi_host_wake(host_of(p)->uffd, va.v, (u64)n << TDM_PAGE_SHIFT);
}

int tdmi_host_protect(int uffd, u64 va, u64 len, bool on)
{
	struct uffdio_writeprotect w = { .range = { va, len }, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

	return (int)tdm_sys3(SYS_ioctl, uffd, UFFDIO_WRITEPROTECT, &w);
}

static int host_protect(struct tdm_port *p, struct tdm_va va, u64 len, bool on)
{
	return tdmi_host_protect(host_of(p)->uffd, va.v, len, on);
}

static int host_unshare(struct tdm_port *p, struct tdm_va va, u32 n)
{
	int r;

	/* Or this would wait for a handler, who may wait for us. */
	(void)host_protect(p, va, (u64)n << TDM_PAGE_SHIFT, false);
	r = (int)tdm_sys3(SYS_madvise, va.v, (u64)n << TDM_PAGE_SHIFT, TDM_MADV_POPULATE_WRITE);

	return r == -EFAULT ? tdmi_host_unshare_readonly(p, va, n) : r;
}

static int host_populate(struct tdm_port *p, struct tdm_ctx *ctx, struct tdm_va va, u32 n, bool write)
{
	(void)p;
	(void)ctx;
	return (int)tdm_sys3(SYS_madvise, va.v, (u64)n << TDM_PAGE_SHIFT, write ? TDM_MADV_POPULATE_WRITE : TDM_MADV_POPULATE_READ);
}

static int host_mapping(struct tdm_port *p, u64 va, struct tdm_port_mapping *m)
{
	struct tdm_mapping h;
	int r = tdmi_host_mapping(host_of(p), va, &h);

	*m = (struct tdm_port_mapping){ h.start, h.end, h.readable, h.writable, h.shared, h.file };
	return r;
}

/* Its frame number, which only the privileged get to see. */
static u64 host_page_id(struct tdm_port *p, u64 va)
{
	u64 e = 0;

	if (tdm_sys4(SYS_pread64, host_of(p)->pagemap, &e, sizeof(e), va >> TDM_PAGE_SHIFT << 3) != sizeof(e) || !(e >> 63))
		return 0;
	return e & (((u64)1 << 55) - 1);
}

/* The kernel checks what the mapping allows, and no access of ours can be the end of the process. */
static int host_access(struct tdm_port *p, struct tdm_ctx *ctx, u64 va, void *buf, size_t len, bool write, size_t *done)
{
	struct iovec here = { buf, len }, there = { (void *)(uintptr_t)va, len };
	long r = tdm_sys6(write ? SYS_process_vm_writev : SYS_process_vm_readv, host_of(p)->pid, (long)&here, 1, (long)&there, 1, 0);

	(void)ctx;
	*done = r > 0 ? (size_t)r : 0;
	return r < 0 ? (int)r : *done < len ? -EFAULT : 0;
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

static int host_present(struct tdm_port *p, struct tdm_va va, u32 n, u64 *present, bool *huge)
{
	struct tdm_page_region vec[64];
	u64 pos = va.v, end = va.v + ((u64)n << TDM_PAGE_SHIFT), nhuge = 0;

	while (pos < end) {
		struct tdm_pm_scan s = { .size = sizeof(s), .start = pos, .end = end, .vec = (u64)(uintptr_t)vec,
					 .vec_len = TDM_ARRAY_SIZE(vec), .category_mask = TDM_PAGE_IS_PRESENT,
					 .return_mask = TDM_PAGE_IS_PRESENT | TDM_PAGE_IS_HUGE };
		long r = tdm_sys3(SYS_ioctl, host_of(p)->pagemap, TDM_PAGEMAP_SCAN, &s);

		if (r < 0)
			return (int)r;
		for (long k = 0; k < r; k++) {
			if (vec[k].categories & TDM_PAGE_IS_HUGE)
				nhuge += (vec[k].end - vec[k].start) >> TDM_PAGE_SHIFT;
			for (u64 a = vec[k].start; a < vec[k].end; a += TDM_PAGE_SIZE) {
				u64 bit = (a - va.v) >> TDM_PAGE_SHIFT;

				present[bit / 64] |= (u64)1 << (bit % 64);
			}
		}
		if (s.walk_end <= pos)
			break;
		pos = s.walk_end;
	}
	*huge = nhuge == n && n == TDM_HUGE_PAGES;
	return 0;
}

static u64 host_next_present(struct tdm_port *p, u64 va, u64 end)
{
	struct tdm_page_region r;
	struct tdm_pm_scan s = { .size = sizeof(s), .start = va, .end = end, .vec = (u64)(uintptr_t)&r, .vec_len = 1, .max_pages = 1,
				 .category_mask = TDM_PAGE_IS_PRESENT, .return_mask = TDM_PAGE_IS_PRESENT };

	return tdm_sys3(SYS_ioctl, host_of(p)->pagemap, TDM_PAGEMAP_SCAN, &s) == 1 ? r.start : end;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* No missing page of anonymous memory can be "continued": the kernel says EINVAL where it finds our registration, ENOENT where not, and EAGAIN, before
 * anything else, while an event waits to be read or whoever caused it has not run on yet. Nothing is changed. */
static int probe(int uffd, u64 va)
{
	struct uffdio_continue c = { .range = { va & TDM_PAGE_MASK, TDM_PAGE_SIZE } };

	return (int)tdm_sys3(SYS_ioctl, uffd, UFFDIO_CONTINUE, &c);
}

int tdmi_host_registered(int uffd, u64 va)
{
	int r = probe(uffd, va);

	return r == -ENOENT || r == -EAGAIN ? r : 0;
}

bool tdmi_host_alive(struct tdm_host *h, int uffd)
{
	/* An address that the kernel refuses would be refused of the dead, too. */
	return probe(uffd, h->beacon) != -ESRCH;
}

bool tdmi_host_changing(struct tdm_host *h)
{
	return probe(h->uffd, (u64)(uintptr_t)h->arena) == -EAGAIN;
}

void tdmi_host_fds_raise(struct rlimit *was)
{
	struct rlimit more;

	if (tdm_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, was) || was->rlim_cur >= FDS_NEEDED) {
		was->rlim_cur = FDS_NEEDED;
		return;
	}
	more = (struct rlimit){ FDS_NEEDED, TDM_MAX(was->rlim_max, FDS_NEEDED) };
	if (!tdm_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, &more, NULL))
		return;
	/* No right to raise the hard limit: as far as it goes. */
	more = (struct rlimit){ was->rlim_max, was->rlim_max };
	tdm_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, &more, NULL);
}

void tdmi_host_fds_restore(const struct rlimit *was)
{
	if (was->rlim_cur < FDS_NEEDED)
		tdm_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, was, NULL);
}

int tdmi_host_read_msg(int uffd, struct uffd_msg *msg)
{
	u32 tries = 0;
	long r;

	/* Whoever reads sleeps when there is nothing left, and is not woken again for what there was (run/live_handlers.c). A fork's message comes with
	 * a descriptor, for which the kernel may have no memory; it stays where it was, and the fork waits. */
	for (;;) {
		r = tdm_sys3(SYS_read, uffd, msg, sizeof(*msg));
		if (r != -EINTR && r != -ENOMEM && r != -ENFILE)
			break;
		if (r != -EINTR && ++tries == READ_TRIES)
			plat_abort("tandem: a process forks, and the kernel has neither memory nor a descriptor to tell us\n");
		plat_yield();
	}
	if (r == -EMFILE) {
		struct rlimit was;

		tdmi_host_fds_raise(&was);
		r = tdm_sys3(SYS_read, uffd, msg, sizeof(*msg));
		tdmi_host_fds_restore(&was);
		if (r == -EMFILE)
			plat_abort("tandem: a process forks that has no descriptor left, and no right to have more: raise its limit (ulimit -Hn)\n");
	}
	if (r == -EAGAIN)
		return 0;
	return r == (long)sizeof(*msg) ? 1 : r < 0 ? (int)r : 0;
}

void tdmi_host_kick(struct tdm_host *h)
{
	u64 one = 1;

	tdm_sys3(SYS_write, h->kick_fd, &one, sizeof(one));
}

/* The arena is in small pages: what is written to one home must not be memory in others. So a page of 2 MiB is made elsewhere, and moved there. Where the kernel has none it is
 * made of small ones in the arena, by whoever writes. */
static void host_fresh_huge(struct tdm_port *p, void *slot)
{
	struct tdm_host *h = host_of(p);
	u32 done;

	plat_mutex_lock(&h->trash_lock);
	*(volatile u8 *)h->stage = 0;
	(void)do_move(h->uffd, (u64)(uintptr_t)slot, (u64)(uintptr_t)h->stage, TDM_HUGE_PAGES, TDM_UFFDIO_MOVE_ALLOW_SRC_HOLES | TDM_UFFDIO_MOVE_DONTWAKE, &done);
	plat_mutex_unlock(&h->trash_lock);
}

/* ---- giving back --------------------------------------------------------------------------------------------------- */

static void trash_empty(struct tdm_host *h)
{
	plat_discard(h->trash + TDM_HUGE_SIZE, (size_t)h->trash_used << TDM_PAGE_SHIFT);
	h->trash_used = 0;
}

static void register_again(struct tdm_host *h, u64 start, u64 end)
{
	u32 tries = 0;

	while (tdmi_host_register_events(h, start, end)) {
		if (++tries > DISCARD_TRIES)
			plat_abort("tandem: no memory to give a page back\n");
		plat_yield();
	}
}

/* A page in the arena is shared with a fork's other side: a move refuses it. Drop it in place, with the arena's registration lifted there. That takes
 * mappings, and memory for them. */
static bool discard_in_place(struct tdm_host *h, u64 slot, u64 len)
{
	if (tdmi_host_unregister(h, slot, slot + len))
		return false;
	plat_window();
	plat_discard((void *)(uintptr_t)slot, len);
	plat_window();
	register_again(h, slot, slot + len);
	return true;
}

static int to_trash(struct tdm_host *h, u64 slot, u32 n, u32 *done)
{
	bool whole = n == TDM_HUGE_PAGES && slot % TDM_HUGE_SIZE == 0;
	int r;

	if (!whole && h->trash_used + n > TDM_HUGE_PAGES)
		trash_empty(h);
	r = do_move(h->trash_uffd, (u64)(uintptr_t)h->trash + (whole ? 0 : TDM_HUGE_SIZE + ((u64)h->trash_used << TDM_PAGE_SHIFT)), slot, n,
		    TDM_UFFDIO_MOVE_ALLOW_SRC_HOLES | TDM_UFFDIO_MOVE_DONTWAKE, done);
	if (whole)
		plat_discard(h->trash, TDM_HUGE_SIZE);
	else
		h->trash_used += *done + (r == -EEXIST); /* see host_invalidate() */
	if (h->trash_used >= TDM_HUGE_PAGES / 2)
		trash_empty(h);
	return r;
}

static void discard_run(struct tdm_host *h, u64 slot, u32 n)
{
	u32 done, tries = 0;

	plat_mutex_lock(&h->trash_lock);
	while (to_trash(h, slot, n, &done)) {
		slot += (u64)done << TDM_PAGE_SHIFT;
		n -= done;
		if (discard_in_place(h, slot, (u64)n << TDM_PAGE_SHIFT))
			break;
		if (++tries > DISCARD_TRIES)
			plat_abort("tandem: no memory to give a page back\n");
		/* A copy of our own can be moved. */
		(void)tdm_sys3(SYS_madvise, slot, (u64)n << TDM_PAGE_SHIFT, TDM_MADV_POPULATE_WRITE);
	}
	plat_mutex_unlock(&h->trash_lock);
}

static void host_discard(struct tdm_port *p, void *const *slot, const u32 *pages, u32 n)
{
	for (u32 i = 0; i < n; i++)
		discard_run(host_of(p), (u64)(uintptr_t)slot[i], pages[i]);
}

/* Drop ranges of our own memory by one system call, which flushes the TLBs once (Linux 6.16 or later). */
static void discard_vector(void *const *slot, const u32 *pages, u32 n)
{
	struct iovec vec[VECTOR_MAX];
	u64 bytes = 0;
	long fd = tdm_sys2(SYS_pidfd_open, tdm_sys0(SYS_getpid), 0), r = fd;

	for (u32 i = 0; i < n; i++) {
		vec[i] = (struct iovec){ slot[i], (size_t)pages[i] << TDM_PAGE_SHIFT };
		bytes += vec[i].iov_len;
	}
	if (fd >= 0) {
		r = tdm_sys5(SYS_process_madvise, fd, vec, n, MADV_DONTNEED, 0);
		tdm_sys1(SYS_close, fd);
	}
	/* Before Linux 6.13 this advice was not to be had. */
	for (u32 i = 0; r != (long)bytes && i < n; i++)
		plat_discard(slot[i], vec[i].iov_len);
}

static void host_discard_many(struct tdm_port *p, void *const *slot, const u32 *pages, u32 n)
{
	struct tdm_host *h = host_of(p);
	u64 start = TDM_ALIGN_DOWN((u64)(uintptr_t)slot[0], TDM_HUGE_SIZE), end = start + TDM_HUGE_SIZE;

	if (n < MANY) {
		host_discard(p, slot, pages, n);
		return;
	}
	/* Nobody registers it again meanwhile: dropping it would be an event, for which we would wait, and perhaps be those who read it. */
	plat_mutex_lock(&h->trash_lock);
	if (tdmi_host_unregister(h, start, end)) {
		plat_mutex_unlock(&h->trash_lock);
		host_discard(p, slot, pages, n);
		return;
	}
	for (u32 i = 0; i < n; i += VECTOR_MAX) {
		plat_window();
		discard_vector(slot + i, pages + i, TDM_MIN(n - i, VECTOR_MAX));
	}
	plat_window();
	register_again(h, start, end);
	plat_mutex_unlock(&h->trash_lock);
}

static const struct tdm_port_ops host_ops = {
	.name = "host",
	.caps = { .shared_table = false, .access = TDM_AF_SOFTWARE, .page_sizes = TDM_PAGE_SIZE | TDM_HUGE_SIZE },
	.fill = host_fill,
	.fill_copy = host_fill_copy,
	.fill_zero = host_fill_zero,
	.fill_poison = host_fill_poison,
	.invalidate = host_invalidate,
	.invalidate_readonly = tdmi_host_invalidate_readonly,
	.wake = host_wake,
	.present = host_present,
	.holds = host_holds,
	.next_present = host_next_present,
	.protect = host_protect,
	.unshare = host_unshare,
	.populate = host_populate,
	.mapping = host_mapping,
	.page_id = host_page_id,
	.access = host_access,
	.fresh_huge = host_fresh_huge,
	.discard = host_discard,
	.discard_many = host_discard_many,
	.drain = tdmi_host_drain,
	.refused = tdmi_host_refused,
};

static bool kernel_has_poison(void)
{
	int fd = uffd_open(TDM_UFFD_FEATURE_POISON);

	if (fd >= 0)
		tdm_sys1(SYS_close, fd);
	return fd >= 0;
}

static void close_files(struct tdm_host *h)
{
	const int fds[] = { h->trash_uffd, h->pagemap, h->maps, h->kick_fd, h->mem };

	tdmi_linux_mem_fill_by(-1);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			tdm_sys1(SYS_close, fds[i]);
	plat_unmap(h->trash, TRASH_PAGES * TDM_PAGE_SIZE);
	tdm_sys3(SYS_madvise, (u64)(uintptr_t)h->stage, TDM_HUGE_SIZE, MADV_NOHUGEPAGE);
	plat_unmap(h->stage, TDM_HUGE_SIZE);
}

int tdmi_host_init(struct tdm_host *h, int uffd, void *arena, u64 arena_len)
{
	int r;

	memset(h, 0, sizeof(*h));
	h->port.ops = &host_ops;
	h->uffd = uffd;
	h->arena = arena;
	h->arena_len = arena_len;
	plat_mutex_init(&h->trash_lock, TDM_RANK_TIER);
	h->has_poison = kernel_has_poison();
	h->trash = plat_map(TRASH_PAGES * TDM_PAGE_SIZE);
	h->beacon = (u64)(uintptr_t)arena + arena_len - TDM_PAGE_SIZE;
	h->stage = plat_map(TDM_HUGE_SIZE);
	if (!h->trash || !h->stage) {
		plat_unmap(h->trash, TRASH_PAGES * TDM_PAGE_SIZE);
		plat_unmap(h->stage, TDM_HUGE_SIZE);
		return -ENOMEM;
	}
	tdm_sys3(SYS_madvise, (u64)(uintptr_t)h->stage, TDM_HUGE_SIZE, MADV_HUGEPAGE);
	r = open_files(h);
	if (!r)
		r = tdmi_host_register_events(h, (u64)(uintptr_t)arena, (u64)(uintptr_t)arena + arena_len);
	if (r)
		close_files(h);
	return r;
}

int tdmi_host_after_fork(struct tdm_host *h, int uffd)
{
	h->uffd = tdmi_linux_fd_keep(uffd);
	plat_mutex_reset(&h->trash_lock);
	h->pending_head = h->pending_tail = 0;
	return open_files(h);
}

void tdmi_host_close(struct tdm_host *h)
{
	tdm_sys1(SYS_close, h->uffd);
	close_files(h);
}
