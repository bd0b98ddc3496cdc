/* SPDX-License-Identifier: MIT */
/*
 * private_file.c - a private mapping of a file of which no page is the file's any more becomes anonymous memory, so that it can migrate.
 *
 * It is anonymous memory with a name already; but the kernel lets no userfaultfd serve it. Anonymous memory with the same bytes has to take its place, while the program
 * may be storing there. No store is lost, since nothing is copied before the place has changed hands:
 *
 *   1. every page is made writable as it is (MADV_POPULATE_WRITE), so that a store changes this page and makes no other
 *   2. a pipe gets hold of the pages (vmsplice): they live on when they are unmapped, with all that has been stored there until then
 *   3. empty anonymous memory of a userfaultfd of its own is moved there by mremap(), which is one step to everybody else: a store before it goes to the old page, and
 *      one after it waits for a page
 *   4. the pages are read out of the pipe, and given to whoever waits
 *
 * mremap() waits until it has been read of its event, so a thread of its own makes it. No fork of libc's comes between, because all of it is one operation on the mm:
 * the child would find the pages empty. libc's calls that change mappings are kept out (port/maps_gate.h). What a bare system call does to the mapping meanwhile is not
 * seen. These devices alone do it: a file's mapping that turns into something else is what a test can live with.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include "base/check.h"
#include "dmirror/device.h"
#include "plat/linux/sys.h"
#include "port/uapi.h"

#define PIPE_BYTES ((u64)1 << 20) /* what anybody may ask for: a page each */
#define PATIENCE 10000u

/* Has every page of the range been written, so that it is the process's and no page of the file? */
static bool all_copied(struct tdm_dmirror *d, u64 start, u64 end)
{
	struct tdm_page_region vec[2];
	struct tdm_pm_scan s = { .size = sizeof(s), .start = start, .end = end, .vec = (u64)(uintptr_t)vec, .vec_len = TDM_ARRAY_SIZE(vec),
				 .category_inverted = TDM_PAGE_IS_FILE, .category_mask = TDM_PAGE_IS_PRESENT | TDM_PAGE_IS_FILE,
				 .return_mask = TDM_PAGE_IS_PRESENT };

	return tdm_sys3(SYS_ioctl, d->live->host.pagemap, TDM_PAGEMAP_SCAN, &s) == 1 && vec[0].start == start && vec[0].end == end;
}

struct moving {
	u64 from, to, len;
	long result;
	tdm_a32 done;
};

static void mover(void *arg)
{
	struct moving *m = arg;

	m->result = tdm_sys5(SYS_mremap, m->from, m->len, m->len, MREMAP_MAYMOVE | MREMAP_FIXED, m->to);
	tdm_a32_st_release(&m->done, 1);
	plat_wake(&m->done, 1);
}

/* Empty memory that uffd serves takes the place of what is at `to`. Faults are read, too; those wait for their page, whoever has read of them. */
static int replace(int uffd, u64 to, u64 len)
{
	struct moving m = { .to = to, .len = len };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	long tmp = tdm_sys6(SYS_mmap, 0, (long)len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct plat_thread *t;
	struct uffd_msg msg;
	int r;

	if (tmp < 0 && tmp > -4096)
		return (int)tmp;
	m.from = (u64)tmp;
	reg.range = (struct uffdio_range){ m.from, len };
	r = (int)tdm_sys3(SYS_ioctl, uffd, UFFDIO_REGISTER, &reg);
	r = r ? r : plat_thread_start(&t, mover, &m, "tandem-move");
	if (!r) {
		while (!tdm_a32_ld_acquire(&m.done))
			if (tdm_sys3(SYS_read, uffd, &msg, sizeof(msg)) < 0)
				plat_wait(&m.done, 0, 100000);
		plat_thread_join(t);
		r = m.result == (long)to ? 0 : -ENOMEM;
	}
	if (r)
		tdm_sys2(SYS_munmap, tmp, len);
	return r;
}

/* The bytes that the pipe holds, to [to, to + len), which has no pages. There is no way back. */
static void refill(int uffd, int from, u64 to, void *bounce, u64 len)
{
	u64 n = 0;
	u32 tries = 0;

	while (n < len) {
		long r = tdm_sys3(SYS_read, from, (u8 *)bounce + n, len - n);

		TDM_BUG_ON(r <= 0 && r != -EINTR);
		n += (u64)TDM_MAX(r, 0);
	}
	for (n = 0; n < len;) {
		struct uffdio_copy c = { to + n, (u64)(uintptr_t)bounce + n, len - n, 0, 0 };
		long r = tdm_sys3(SYS_ioctl, uffd, UFFDIO_COPY, &c);

		n += c.copy > 0 ? (u64)c.copy : 0;
		if (!r || n == len)
			break;
		if (r == -ENOENT || r == -ESRCH)
			return; /* unmapped by a bare system call, or the end of the process */
		if (++tries > PATIENCE)
			plat_abort("tandem: no memory for pages of a file's private mapping\n");
		plat_yield();
	}
}

/* At most what a pipe holds. 0, or -errno: then it is what it was. */
static int convert(struct tdm_dmirror *d, int uffd, u64 start, u64 len)
{
	struct iovec v = { (void *)(uintptr_t)start, len };
	void *bounce = plat_map(len);
	int fd[2], r;
	long n;

	r = bounce ? (int)tdm_sys2(SYS_pipe2, fd, O_CLOEXEC) : -ENOMEM;
	if (!r) {
		n = tdm_sys3(SYS_fcntl, fd[1], F_SETPIPE_SZ, PIPE_BYTES);
		n = n < 0 ? n : tdm_sys3(SYS_madvise, start, len, TDM_MADV_POPULATE_WRITE);
		if (!n && !all_copied(d, start, start + len))
			n = -EAGAIN;
		n = n < 0 ? n : tdm_sys4(SYS_vmsplice, fd[1], &v, 1, SPLICE_F_NONBLOCK);
		r = n < 0 ? (int)n : (u64)n == len ? 0 : -EAGAIN;
		r = r ? r : replace(uffd, start, len);
		if (!r)
			refill(uffd, fd[0], start, bounce, len);
		tdm_sys1(SYS_close, fd[0]);
		tdm_sys1(SYS_close, fd[1]);
	}
	plat_unmap(bounce, len);
	return r;
}

static void make_anonymous(struct tdm_dmirror *d, u64 start, u64 end)
{
	struct tdm_live *l = d->live;
	char err[200];
	int uffd = tdmi_host_open_uffd(err, sizeof(err)), r = 0;

	if (uffd < 0)
		return;
	tdm_device_enter_mm(d->w);
	if (tdm_maps_take_begin(&l->gate)) {
		if (all_copied(d, start, end))
			for (u64 at = start; !r && at < end; at += PIPE_BYTES)
				r = convert(d, uffd, at, TDM_MIN(end - at, PIPE_BYTES));
		tdm_maps_take_end(&l->gate);
	}
	/* It serves nobody from here on: all of it has pages. */
	tdm_sys1(SYS_close, uffd);
	tdmi_mm_exit(d->w->ctx);
}

void tdmi_dmirror_make_anonymous(struct tdm_dmirror *d, u64 start, u64 end)
{
	struct tdm_mapping m;

	for (u64 at = start; at < end && !tdmi_host_mapping(&d->live->host, at, &m); at = m.end)
		if (m.file && !m.shared && m.writable && !m.executable && m.start < end)
			make_anonymous(d, TDM_MAX(m.start, start), TDM_MIN(m.end, end));
}
