/* SPDX-License-Identifier: MIT */
/*
 * file.c - files without a name, and transfers to and from them.
 *
 * The queue is an io_uring whose rings lie in engine memory (IORING_SETUP_NO_MMAP): nothing of it shows in the program's address space, and a
 * fork child has a dead copy that it can throw away. Where the kernel has no io_uring, or does not let us have one, a transfer is done when it is
 * submitted. Queues are short: one page holds the rings, one the submission entries.
 */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/check.h"
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1u << 14) /* Linux 6.5; the address goes where older headers have resv2 */
#endif

#define DEPTH_MAX 32u
#define REFUSALS_MAX 60000u /* a minute */

/* ---- files ----------------------------------------------------------------------------------------------------------- */

static int create_unlinked(const char *dir, int flags)
{
	static const char digits[] = "0123456789abcdef";
	char path[4096];
	size_t n = strlen(dir);
	u8 name[16];
	long fd;
	int r;

	if (n + 2 + 8 + 2 * sizeof(name) > sizeof(path))
		return -ENAMETOOLONG;
	r = plat_random(name, sizeof(name));
	if (r)
		return r;
	memcpy(path, dir, n);
	memcpy(path + n, "/.tandem", 8);
	n += 8;
	for (u32 i = 0; i < sizeof(name); i++) {
		path[n++] = digits[name[i] >> 4];
		path[n++] = digits[name[i] & 15];
	}
	path[n] = 0;
	fd = tdm_sys4(SYS_openat, AT_FDCWD, path, flags | O_CREAT | O_EXCL, 0600);
	if (fd >= 0)
		tdm_sys3(SYS_unlinkat, AT_FDCWD, path, 0);
	return (int)fd;
}

static int create(const char *dir, int flags)
{
	/* O_EXCL: nobody can give it a name later. */
	long fd = tdm_sys4(SYS_openat, AT_FDCWD, dir, O_TMPFILE | O_EXCL | flags, 0600);

	if (fd == -EOPNOTSUPP || fd == -EISDIR)
		return create_unlinked(dir, flags);
	return (int)fd;
}

int plat_file_create(const char *dir, int *file, bool *direct)
{
	int fd = create(dir, O_RDWR | O_CLOEXEC | O_DIRECT);

	*direct = fd >= 0;
	if (fd == -EINVAL)
		fd = create(dir, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fd;
	*file = tdmi_linux_fd_keep(fd);
	return 0;
}

void plat_file_close(int file)
{
	tdm_sys1(SYS_close, file);
}

void plat_file_punch(int file, u64 off, u64 len)
{
	tdm_sys4(SYS_fallocate, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}

int plat_file_free(const char *dir, u64 *bytes)
{
	struct statfs st;
	long r = tdm_sys2(SYS_statfs, dir, &st);

	if (r < 0)
		return (int)r;
	*bytes = (u64)st.f_bavail * (u64)st.f_bsize;
	return 0;
}

/* The rest of a transfer of which `done` bytes are done. */
static int io_rest(struct plat_io *io, u32 done)
{
	while (done < io->len) {
		long n = tdm_sys4(io->write ? SYS_pwrite64 : SYS_pread64, io->file, (u8 *)io->buf + done, io->len - done, io->off + done);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n ? (int)n : -EIO;
		done += (u32)n;
	}
	return 0;
}

int plat_file_io(struct plat_io *io)
{
	io->result = io_rest(io, 0);
	return io->result;
}

/* ---- the queue ------------------------------------------------------------------------------------------------------- */

struct plat_ioq {
	int ring;       /* -1: none, transfers are done at submit */
	u32 depth;
	u32 pending;    /* submitted, not reaped */
	u32 ndone;      /* of these, complete and in done[] (without a ring) */
	struct plat_io *done[DEPTH_MAX];
	/* In the ring page; the kernel writes sq_head and cq_tail. */
	tdm_a32 *sq_tail, *cq_head, *cq_tail;
	u32 sq_mask, cq_mask;
	struct io_uring_cqe *cqes;
	struct io_uring_sqe *sqes;
};

#define QUEUE_BYTES (3 * TDM_PAGE_SIZE)

static int ring_setup(struct plat_ioq *q, u32 depth)
{
	u8 *rings = (u8 *)q + TDM_PAGE_SIZE, *sqes = rings + TDM_PAGE_SIZE;
	struct io_uring_params p;
	u32 *array;
	long fd;

	memset(&p, 0, sizeof(p));
	p.flags = IORING_SETUP_NO_MMAP;
	p.cq_off.resv2 = (u64)(uintptr_t)rings;
	p.sq_off.resv2 = (u64)(uintptr_t)sqes;
	fd = tdm_sys2(SYS_io_uring_setup, depth, &p);
	if (fd < 0)
		return (int)fd;
	q->sq_tail = (tdm_a32 *)(void *)(rings + p.sq_off.tail);
	q->cq_head = (tdm_a32 *)(void *)(rings + p.cq_off.head);
	q->cq_tail = (tdm_a32 *)(void *)(rings + p.cq_off.tail);
	q->sq_mask = p.sq_entries - 1;
	q->cq_mask = p.cq_entries - 1;
	q->cqes = (struct io_uring_cqe *)(void *)(rings + p.cq_off.cqes);
	q->sqes = (struct io_uring_sqe *)(void *)sqes;
	array = (u32 *)(void *)(rings + p.sq_off.array);
	for (u32 i = 0; i < p.sq_entries; i++)
		array[i] = i;
	fd = tdmi_linux_fd_keep(fd);
	/* There is no high number: the limit is low, and a process that forks needs the few that there are. A plain call does as well. */
	if (fd < TDM_FD_HIGH) {
		plat_file_close((int)fd);
		return -EMFILE;
	}
	return (int)fd;
}

int plat_ioq_create(struct plat_ioq **out, u32 depth)
{
	struct plat_ioq *q;

	if (!depth || depth > DEPTH_MAX)
		return -EINVAL;
	q = plat_map(QUEUE_BYTES);
	if (!q)
		return -ENOMEM;
	q->depth = depth;
	q->ring = ring_setup(q, depth);
	*out = q;
	return 0;
}

void plat_ioq_destroy(struct plat_ioq *q)
{
	if (!q)
		return;
	if (q->ring >= 0)
		plat_file_close(q->ring);
	plat_unmap(q, QUEUE_BYTES);
}

void plat_ioq_forget(struct plat_ioq *q)
{
	plat_unmap(q, QUEUE_BYTES);
}

static int ring_enter(struct plat_ioq *q, u32 submit, u32 wait)
{
	long r;

	do
		r = tdm_sys6(SYS_io_uring_enter, q->ring, submit, wait, wait ? IORING_ENTER_GETEVENTS : 0, 0, 0);
	while (r == -EINTR || r == -EAGAIN);
	return (int)r;
}

/* What the ring refuses is done on the spot. */
static void do_now(struct plat_ioq *q, struct plat_io *io)
{
	plat_file_io(io);
	q->done[q->ndone++] = io;
}

int plat_ioq_submit(struct plat_ioq *q, struct plat_io *const *ios, u32 n)
{
	u32 tail;
	int r;

	if (q->pending + n > q->depth)
		return -EAGAIN;
	q->pending += n;
	if (q->ring < 0) {
		for (u32 i = 0; i < n; i++)
			do_now(q, ios[i]);
		return 0;
	}
	tail = tdm_a32_ld_relaxed(q->sq_tail);
	for (u32 i = 0; i < n; i++) {
		struct io_uring_sqe *e = &q->sqes[(tail + i) & q->sq_mask];

		memset(e, 0, sizeof(*e));
		e->opcode = ios[i]->write ? IORING_OP_WRITE : IORING_OP_READ;
		e->fd = ios[i]->file;
		e->addr = (u64)(uintptr_t)ios[i]->buf;
		e->len = ios[i]->len;
		e->off = ios[i]->off;
		e->user_data = (u64)(uintptr_t)ios[i];
	}
	tdm_a32_st_release(q->sq_tail, tail + n);
	r = ring_enter(q, n, 0);
	if (r < 0)
		r = 0;
	if ((u32)r < n) {
		/* Take back what the kernel did not take. */
		tdm_a32_st_release(q->sq_tail, tail + (u32)r);
		for (u32 i = (u32)r; i < n; i++)
			do_now(q, ios[i]);
	}
	return 0;
}

static struct plat_io *cqe_take(struct plat_ioq *q)
{
	u32 head = tdm_a32_ld_relaxed(q->cq_head);
	const struct io_uring_cqe *e;
	struct plat_io *io;

	if (head == tdm_a32_ld_acquire(q->cq_tail))
		return NULL;
	e = &q->cqes[head & q->cq_mask];
	io = (struct plat_io *)(uintptr_t)e->user_data;
	/* A part, or a refusal by the ring rather than the file: the plain call has the last word. */
	if (e->res == (int)io->len)
		io->result = 0;
	else if (e->res > 0 || e->res == -EAGAIN || e->res == -EINTR || e->res == -EINVAL || e->res == -ECANCELED || e->res == -EOPNOTSUPP)
		io->result = io_rest(io, e->res > 0 ? (u32)e->res : 0);
	else
		io->result = e->res ? e->res : -EIO;
	tdm_a32_st_release(q->cq_head, head + 1);
	return io;
}

int plat_ioq_reap(struct plat_ioq *q, struct plat_io **done, u32 max, u32 min)
{
	tdm_a32 nobody_wakes = { 0 };
	u32 n = 0, tries = 0;

	TDM_BUG_ON(min > max || min > q->pending);
	for (;;) {
		struct plat_io *io = NULL;

		while (n < max && q->ndone)
			done[n++] = q->done[--q->ndone];
		while (n < max && q->ring >= 0 && (io = cqe_take(q)))
			done[n++] = io;
		if (n >= min)
			break;
		if (ring_enter(q, 0, min - n) >= 0)
			continue;
		/* It will not wait for us, but the transfers are under way: look at the ring now and then. */
		TDM_BUG_ON(++tries > REFUSALS_MAX);
		plat_wait(&nobody_wakes, 0, 1000000);
	}
	q->pending -= n;
	return (int)n;
}
