/* SPDX-License-Identifier: MIT */
/*
 * syscalls - system calls on evicted memory. The kernel must find in it what the program left there, and the program what the kernel put
 * there. Every part takes buffers that need_out() has seen leave the page table.
 */
#include "common.h"
#include <dirent.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#define BUF   (64 * KiB)
#define NBUFS 160u

static char *bufs;
static uint32_t next_buf;

/* A buffer that is out, filled with pages of that name. Buffers lie apart, so that bringing one back does not bring its neighbour. */
static char *raw_buf(uint64_t name)
{
	char *b = bufs + (size_t)(next_buf++ % NBUFS) * 2 * BUF;

	fill(b, BUF, name << 20, 0);
	return b;
}

static char *out_buf(uint64_t name)
{
	char *b = raw_buf(name);

	need_out(b, BUF, "buffer");
	return b;
}

static void check_buf(const char *b, uint64_t name, const char *what)
{
	check(b, BUF, name << 20, 0, what);
}

static int scratch(void)
{
	int fd = open(opt.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	CHECK(fd >= 0, "O_TMPFILE in %s: %s", opt.dir, strerror(errno));
	return fd;
}

struct piped {
	int fd;
	const char *buf;
};

static void *pipe_writer(void *arg)
{
	struct piped *p = arg;

	for (size_t done = 0; done < BUF;) {
		ssize_t n = write(p->fd, p->buf + done, BUF - done);

		CHECK(n > 0, "write from evicted memory: %s", strerror(errno));
		done += (size_t)n;
	}
	return NULL;
}

static void part_pipe(void)
{
	char *a = raw_buf(1), *b = raw_buf(2);
	int p[2];
	pthread_t th;
	struct piped arg;

	CHECK_SYS(pipe(p));
	need_out(a, BUF, "pipe source");
	need_out(b, BUF, "pipe sink");
	arg = (struct piped){ p[1], a };
	CHECK(pthread_create(&th, NULL, pipe_writer, &arg) == 0, "pthread_create");
	for (size_t done = 0; done < BUF;) {
		ssize_t n = read(p[0], b + done, BUF - done);

		CHECK(n > 0, "read into evicted memory: %s", strerror(errno));
		done += (size_t)n;
	}
	pthread_join(th, NULL);
	check_buf(b, 1, "what went through a pipe");
	check_buf(a, 1, "what was written");
	close(p[0]);
	close(p[1]);
}

static void part_file(void)
{
	char *a = out_buf(3), *b;
	int fd = scratch();

	CHECK(pwrite(fd, a, BUF, 0) == (ssize_t)BUF, "pwrite: %s", strerror(errno));
	b = out_buf(4);
	CHECK(pread(fd, b, BUF, 0) == (ssize_t)BUF, "pread: %s", strerror(errno));
	check_buf(b, 3, "what went through a file");
	/* A part of a page: the rest of it must stay. */
	b = out_buf(5);
	CHECK(pread(fd, b + 100, 1000, 5000) == 1000, "pread: %s", strerror(errno));
	CHECK(memcmp(b + 100, a + 5000, 1000) == 0, "a partial read brought the wrong bytes");
	memcpy(b + 100, a + 100, 1000);
	{
		char *want = anon(BUF);

		fill(want, BUF, 5 << 20, 0);
		memcpy(want + 100, a + 100, 1000);
		CHECK(memcmp(b, want, BUF) == 0, "a partial read changed its surroundings");
		munmap(want, BUF);
	}
	close(fd);
}

static void part_vectors(void)
{
	char *src = raw_buf(6), *dst = raw_buf(7), *v = raw_buf(8);
	struct iovec *iov = (void *)v;
	int fd = scratch();

	for (int i = 0; i < 16; i++)
		iov[i] = (struct iovec){ src + (15 - i) * PAGE, PAGE };
	for (int i = 0; i < 16; i++)
		iov[16 + i] = (struct iovec){ dst + (15 - i) * PAGE, PAGE };
	need_out(src, BUF, "source of writev");
	need_out(dst, BUF, "sink of readv");
	need_out(v, PAGE, "iovec");
	CHECK(writev(fd, iov, 16) == (ssize_t)BUF, "writev: %s", strerror(errno));
	need_out(v, PAGE, "iovec");
	CHECK_SYS(lseek(fd, 0, SEEK_SET));
	CHECK(readv(fd, iov + 16, 16) == (ssize_t)BUF, "readv: %s", strerror(errno));
	check_buf(dst, 6, "what went through writev and readv");
	close(fd);
}

static void part_msg(void)
{
	char *src = raw_buf(9), *dst = raw_buf(10), *a = raw_buf(11);
	struct msghdr *mh = (void *)a;
	struct iovec *iov = (void *)(a + PAGE);
	char *ctl = a + 2 * PAGE;
	struct cmsghdr *cm;
	int s[2], fd;
	struct stat st1, st2;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
	CHECK_SYS(fstat(s[0], &st1));
	memset(mh, 0, sizeof(*mh));
	memset(ctl, 0, PAGE);
	*mh = (struct msghdr){ .msg_iov = iov, .msg_iovlen = 4, .msg_control = ctl, .msg_controllen = CMSG_SPACE(sizeof(int)) };
	for (int i = 0; i < 4; i++)
		iov[i] = (struct iovec){ src + i * 4 * PAGE, 4 * PAGE };
	cm = CMSG_FIRSTHDR(mh);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cm), &s[0], sizeof(int));
	need_out(src, BUF, "source of sendmsg");
	need_out(a, 3 * PAGE, "msghdr");
	CHECK(sendmsg(s[0], mh, 0) == (ssize_t)BUF, "sendmsg: %s", strerror(errno));
	for (int i = 0; i < 4; i++)
		iov[i].iov_base = dst + i * 4 * PAGE;
	memset(ctl, 0, PAGE);
	need_out(dst, BUF, "sink of recvmsg");
	need_out(a, 3 * PAGE, "msghdr");
	CHECK(recvmsg(s[1], mh, MSG_CMSG_CLOEXEC) == (ssize_t)BUF, "recvmsg: %s", strerror(errno));
	check_buf(dst, 9, "what went through sendmsg");
	cm = CMSG_FIRSTHDR(mh);
	CHECK(cm && cm->cmsg_type == SCM_RIGHTS, "the descriptor did not arrive");
	memcpy(&fd, CMSG_DATA(cm), sizeof(int));
	CHECK_SYS(fstat(fd, &st2));
	CHECK(st1.st_ino == st2.st_ino, "the wrong descriptor arrived");
	close(fd);
	close(s[0]);
	close(s[1]);
}

static long futex(void *w, int op, unsigned v, const struct timespec *ts)
{
	return syscall(SYS_futex, w, op, v, ts, NULL, 0);
}

static void *futex_waiter(void *arg)
{
	_Atomic unsigned *w = arg;

	while (atomic_load(w) == 7) {
		/* No private flag every other time: then the kernel looks the page itself up. */
		long r = futex((void *)w, FUTEX_WAIT, 7, NULL);

		CHECK(r == 0 || errno == EAGAIN || errno == EINTR, "FUTEX_WAIT: %s", strerror(errno));
	}
	return NULL;
}

static void part_futex(void)
{
	for (int priv = 0; priv < 2; priv++) {
		char *a = raw_buf(12);
		_Atomic unsigned *w = (void *)(a + 128);
		struct timespec *ts = (void *)(a + PAGE);
		int flag = priv ? FUTEX_PRIVATE_FLAG : 0;
		pthread_t th[3];

		*w = 5;
		*ts = (struct timespec){ 0, 1000000 };
		need_out(a, BUF, "futex");
		CHECK(futex((void *)w, FUTEX_WAIT | flag, 4, ts) == -1 && errno == EAGAIN, "FUTEX_WAIT on another value: %s", strerror(errno));
		need_out(a, BUF, "futex");
		CHECK(futex((void *)w, FUTEX_WAIT | flag, 5, ts) == -1 && errno == ETIMEDOUT, "FUTEX_WAIT with a timeout: %s", strerror(errno));
		/* Threads wait on it; the page goes out under them; a wake must still find them. */
		*w = 7;
		need_out(a, BUF, "futex");
		for (int i = 0; i < 3; i++)
			CHECK(pthread_create(&th[i], NULL, futex_waiter, (void *)w) == 0, "pthread_create");
		sleep_ms(20);
		need_out(a, BUF, "futex with waiters");
		atomic_store(w, 8);
		may_be_in(a, PAGE, "futex before the wake");
		for (uint64_t end = now_ns() + slow_s(10) * 1000000000ull, woken = 0; woken < 3; sleep_ms(1)) {
			long n = futex((void *)w, FUTEX_WAKE, 10, NULL);

			CHECK(n >= 0, "FUTEX_WAKE: %s", strerror(errno));
			woken += (uint64_t)n;
			if (pthread_tryjoin_np(th[0], NULL) == 0 || now_ns() > end) {
				for (int i = 1; i < 3; i++) {
					struct timespec until;

					clock_gettime(CLOCK_REALTIME, &until);
					until.tv_sec += 10;
					CHECK(pthread_timedjoin_np(th[i], NULL, &until) == 0, "a FUTEX_WAKE was lost");
				}
				CHECK(now_ns() <= end, "a FUTEX_WAKE was lost");
				goto next;
			}
		}
		for (int i = 0; i < 3; i++)
			pthread_join(th[i], NULL);
next:;
	}
}

/* io_uring without a library. */
struct uring {
	int fd;
	unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
};

static bool uring_open(struct uring *u)
{
	struct io_uring_params p = { 0 };
	char *sq, *cq;

	u->fd = (int)syscall(SYS_io_uring_setup, 64, &p);
	if (u->fd < 0) {
		fprintf(stderr, "%s: note: no io_uring here: %s\n", prog_name, strerror(errno));
		return false;
	}
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*u->cqe), PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_CQ_RING);
	u->sqe = mmap(NULL, p.sq_entries * sizeof(*u->sqe), PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQES);
	CHECK(sq != MAP_FAILED && cq != MAP_FAILED && u->sqe != MAP_FAILED, "mmap of io_uring: %s", strerror(errno));
	u->sq_tail = (void *)(sq + p.sq_off.tail);
	u->sq_mask = (void *)(sq + p.sq_off.ring_mask);
	u->sq_array = (void *)(sq + p.sq_off.array);
	u->cq_head = (void *)(cq + p.cq_off.head);
	u->cq_tail = (void *)(cq + p.cq_off.tail);
	u->cq_mask = (void *)(cq + p.cq_off.ring_mask);
	u->cqe = (void *)(cq + p.cq_off.cqes);
	return true;
}

static void uring_push(struct uring *u, int op, int fd, void *buf, unsigned len, uint64_t off, int index)
{
	unsigned t = *u->sq_tail, i = t & *u->sq_mask;

	u->sqe[i] = (struct io_uring_sqe){ .opcode = (unsigned char)op, .fd = fd, .addr = (uintptr_t)buf, .len = len, .off = off, .buf_index = (unsigned short)index };
	u->sq_array[i] = i;
	__atomic_store_n(u->sq_tail, t + 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, u->fd, 1, 0, 0, NULL, 0) == 1, "io_uring_enter: %s", strerror(errno));
}

static int uring_wait(struct uring *u)
{
	unsigned h = *u->cq_head;
	int res;

	while (__atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE) == h) {
		long r = syscall(SYS_io_uring_enter, u->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);

		CHECK(r >= 0 || errno == EINTR, "io_uring_enter: %s", strerror(errno));
	}
	res = u->cqe[h & *u->cq_mask].res;
	__atomic_store_n(u->cq_head, h + 1, __ATOMIC_RELEASE);
	return res;
}

static void part_uring(void)
{
	char *a = raw_buf(13), *b = raw_buf(14);
	int fd = scratch(), r;
	struct uring u;

	if (uring_open(&u)) {
		need_out(a, BUF, "source for io_uring");
		need_out(b, BUF, "sink for io_uring");
		uring_push(&u, IORING_OP_WRITE, fd, a, BUF, 0, 0);
		r = uring_wait(&u);
		CHECK(r == (int)BUF, "IORING_OP_WRITE: %d", r);
		uring_push(&u, IORING_OP_READ, fd, b, BUF, 0, 0);
		r = uring_wait(&u);
		CHECK(r == (int)BUF, "IORING_OP_READ: %d", r);
		check_buf(b, 13, "what went through io_uring");
		close(u.fd);
	}
	close(fd);
}

/* A read that the kernel has taken, and that ends only when somebody writes: the buffer may go out meanwhile, the data must arrive. */
static void part_uring_late(void)
{
	char *a = raw_buf(15);
	struct uring u;
	int p[2], r;

	if (!uring_open(&u))
		return;
	CHECK_SYS(pipe(p));
	uring_push(&u, IORING_OP_READ, p[0], a, PAGE, 0, 0);
	need_out(a, BUF, "sink of a pending read");
	CHECK(write(p[1], "late data", 9) == 9, "write");
	r = uring_wait(&u);
	CHECK(r == 9 && !memcmp(a, "late data", 9), "a pending io_uring read: %d, %.9s", r, a);
	close(p[0]);
	close(p[1]);
	close(u.fd);
}

/* Registered buffers are pinned: what the kernel writes must show, what the program writes must be seen, whatever is evicted meanwhile. */
static void part_uring_fixed(void)
{
	char *a = raw_buf(16), *b = raw_buf(17);
	struct iovec iov[2] = { { a, BUF }, { b, BUF } };
	int fd = scratch(), r;
	struct uring u;

	if (!uring_open(&u)) {
		close(fd);
		return;
	}
	need_out(a, BUF, "registered buffer");
	need_out(b, BUF, "registered buffer");
	if (syscall(SYS_io_uring_register, u.fd, IORING_REGISTER_BUFFERS, iov, 2) != 0) {
		fprintf(stderr, "%s: note: IORING_REGISTER_BUFFERS: %s\n", prog_name, strerror(errno));
		goto out;
	}
	for (uint64_t round = 1; round < 6; round++) {
		fill(a, BUF, 16 << 20, round);
		press();
		uring_push(&u, IORING_OP_WRITE_FIXED, fd, a, BUF, 0, 0);
		r = uring_wait(&u);
		CHECK(r == (int)BUF, "IORING_OP_WRITE_FIXED: %d", r);
		press_some(press_mem.pages / 2);
		uring_push(&u, IORING_OP_READ_FIXED, fd, b, BUF, 0, 1);
		r = uring_wait(&u);
		CHECK(r == (int)BUF, "IORING_OP_READ_FIXED: %d", r);
		check(b, BUF, 16 << 20, round, "what went through registered buffers");
	}
	syscall(SYS_io_uring_register, u.fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
	need_out(a, BUF, "buffer that is no longer registered");
	check(a, BUF, 16 << 20, 5, "buffer that is no longer registered");
out:
	close(u.fd);
	close(fd);
}

/* A pinned page is evicted, touched and forked around for a while: the kernel and the program must go on seeing the same page. */
static void part_pinned(void)
{
	char *a = raw_buf(18);
	struct iovec iov = { a, BUF };
	struct uring u;
	int p[2];

	if (!uring_open(&u))
		return;
	CHECK_SYS(pipe(p));
	if (syscall(SYS_io_uring_register, u.fd, IORING_REGISTER_BUFFERS, &iov, 1) == 0) {
		for (uint64_t i = 0; i < 64; i++) {
			uint64_t got;

			if (i == 20 || i == 40) {
				/* Pinned pages are copied for the child at once: ours stay ours. */
				pid_t pid = fork();

				if (pid == 0)
					_exit(0);
				reap(pid, 0, "fork with a pinned buffer");
			}
			press_some(press_mem.pages / 16);
			CHECK(write(p[1], &i, sizeof(i)) == sizeof(i), "write");
			uring_push(&u, IORING_OP_READ_FIXED, p[0], a + i * 512, sizeof(i), 0, 0);
			CHECK(uring_wait(&u) == sizeof(i), "IORING_OP_READ_FIXED from a pipe");
			memcpy(&got, a + i * 512, sizeof(got));
			CHECK(got == i, "round %" PRIu64 ": the kernel wrote it into a pinned page, the program reads %" PRIu64, i, got);
		}
	}
	close(p[0]);
	close(p[1]);
	close(u.fd);
}

static void part_aio(void)
{
	char *a = raw_buf(19), *b = raw_buf(20), *c = raw_buf(21);
	struct iocb *cb = (void *)c, **list = (void *)(c + PAGE);
	struct io_event *ev = (void *)(c + 2 * PAGE);
	aio_context_t ctx = 0;
	int fd = scratch();

	if (syscall(SYS_io_setup, 4, &ctx) == 0) {
		memset(c, 0, 3 * PAGE);
		cb[0] = (struct iocb){ .aio_fildes = (uint32_t)fd, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = (uintptr_t)a, .aio_nbytes = BUF };
		cb[1] = (struct iocb){ .aio_fildes = (uint32_t)fd, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_buf = (uintptr_t)b, .aio_nbytes = BUF };
		list[0] = &cb[0];
		list[1] = &cb[1];
		for (int i = 0; i < 2; i++) {
			need_out(a, BUF, "aio source");
			need_out(c, 3 * PAGE, "iocb");
			CHECK(syscall(SYS_io_submit, ctx, 1, list + i) == 1, "io_submit: %s", strerror(errno));
			CHECK(syscall(SYS_io_getevents, ctx, 1, 1, ev, NULL) == 1, "io_getevents: %s", strerror(errno));
			CHECK(ev->res == (int64_t)BUF, "aio: %" PRId64, (int64_t)ev->res);
		}
		check_buf(b, 19, "what went through aio");
		syscall(SYS_io_destroy, ctx);
	}
	close(fd);
}

static void part_getrandom(void)
{
	char *a = out_buf(22);
	unsigned zero = 0;

	CHECK(getrandom(a + 10, 60000, 0) == 60000, "getrandom: %s", strerror(errno));
	for (int i = 10; i < 60010; i++)
		zero += a[i] == 0;
	CHECK(zero < 1000, "getrandom: %u of 60000 bytes are zero", zero);
	CHECK(*(uint64_t *)(void *)a == PAGE_MAGIC, "getrandom changed its surroundings");
	page_check(a + BUF - PAGE, (22 << 20) + 15, 0, "after getrandom");
}

static void part_exec(void)
{
	char *a = raw_buf(23), *b = raw_buf(24), line[512] = "";
	char **argv = (void *)a, **envp = (void *)(a + PAGE);
	int p[2];
	pid_t pid;
	ssize_t n;

	memset(a, 0, 2 * PAGE);
	strcpy(b, "/bin/sh");
	strcpy(b + PAGE, "-c");
	strcpy(b + 2 * PAGE, "echo \"$TANDEM_A-$1\"");
	strcpy(b + 3 * PAGE, "zero");
	strcpy(b + 4 * PAGE, "argument");
	strcpy(b + 5 * PAGE, "TANDEM_A=environment");
	for (int i = 0; i < 5; i++)
		argv[i] = b + (size_t)i * PAGE;
	envp[0] = b + 5 * PAGE;
	CHECK_SYS(pipe(p));
	need_out(a, 2 * PAGE, "argv");
	need_out(b, 6 * PAGE, "arguments");
	pid = fork();
	if (pid == 0) {
		dup2(p[1], 1);
		execve(b, argv, envp);
		_exit(9);
	}
	close(p[1]);
	n = read(p[0], line, sizeof(line) - 1);
	reap(pid, 0, "exec with arguments in evicted memory");
	CHECK(n > 0 && !strcmp(line, "environment-argument\n"), "exec with arguments in evicted memory printed: %s", line);
	close(p[0]);
}

static void part_paths(void)
{
	char *a = raw_buf(25), cwd[4096];
	struct stat *st = (void *)(a + PAGE);
	struct statx *sx = (void *)(a + 2 * PAGE);
	long n;
	int fd;

	strcpy(a, "/proc/self/exe");
	need_out(a, 3 * PAGE, "path");
	CHECK_SYS(stat(a, st));
	CHECK(S_ISREG(st->st_mode) && st->st_size > 0, "stat into evicted memory gave mode %o", st->st_mode);
	need_out(a, 3 * PAGE, "path");
	CHECK_SYS(statx(AT_FDCWD, a, 0, STATX_ALL, sx));
	CHECK(sx->stx_ino == st->st_ino, "statx and stat disagree");
	need_out(a, 3 * PAGE, "path");
	CHECK_SYS(fd = open(a, O_RDONLY | O_CLOEXEC));
	close(fd);
	a = out_buf(26);
	CHECK(getcwd(cwd, sizeof(cwd)) != NULL, "getcwd");
	n = syscall(SYS_getcwd, a + 50, 2 * PAGE);
	CHECK(n > 0 && !strcmp(a + 50, cwd), "getcwd into evicted memory: %ld", n);
	a = out_buf(27);
	n = readlink("/proc/self/cwd", a + PAGE - 3, 300);
	CHECK(n > 0 && !memcmp(a + PAGE - 3, cwd, (size_t)n), "readlink across evicted pages: %ld", n);
	a = out_buf(28);
	CHECK_SYS(fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	n = syscall(SYS_getdents64, fd, a, 8 * PAGE);
	CHECK(n > 0 && ((struct dirent64 *)(void *)a)->d_name[0], "getdents64 into evicted memory: %ld", n);
	close(fd);
}

static void part_poll(void)
{
	char *a = raw_buf(29);
	struct pollfd *pf = (void *)a;
	struct epoll_event *ev = (void *)(a + PAGE);
	fd_set *fs = (void *)(a + 2 * PAGE);
	struct timeval *tv = (void *)(a + 3 * PAGE);
	int p[2], ep = epoll_create1(EPOLL_CLOEXEC);

	CHECK_SYS(pipe(p));
	CHECK(write(p[1], "x", 1) == 1, "write");
	memset(a, 0, BUF);
	for (int i = 0; i < 500; i++)
		pf[i] = (struct pollfd){ .fd = i == 499 ? p[0] : p[1], .events = POLLIN };
	need_out(a, PAGE, "pollfds");
	CHECK(poll(pf, 500, 1000) >= 1 && (pf[499].revents & POLLIN) && !(pf[0].revents & POLLIN), "poll on evicted pollfds: %s", strerror(errno));
	ev->events = EPOLLIN;
	ev->data.u64 = 0x1234567890;
	need_out(ev, PAGE, "epoll_event");
	CHECK_SYS(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], ev));
	memset(ev, 0, sizeof(*ev));
	need_out(ev, PAGE, "epoll_event");
	CHECK(epoll_wait(ep, ev, 10, 1000) == 1 && ev->data.u64 == 0x1234567890, "epoll_wait into evicted memory");
	FD_SET(p[0], fs);
	tv->tv_sec = 1;
	need_out(fs, 2 * PAGE, "fd_set");
	CHECK(select(p[0] + 1, fs, NULL, NULL, tv) == 1 && FD_ISSET(p[0], fs), "select on an evicted set: %s", strerror(errno));
	close(ep);
	close(p[0]);
	close(p[1]);
}

static _Atomic int clone_state;

static int clone_main(void *arg)
{
	char local[3 * PAGE];

	fill(local + PAGE - (uintptr_t)local % PAGE, PAGE, 77, 0);
	page_check(local + PAGE - (uintptr_t)local % PAGE, 77, 0, "local variable on an evicted clone stack");
	atomic_store(&clone_state, *(int *)arg);
	return 3;
}

static void *stack_main(void *arg)
{
	char local[20 * KiB];

	memset(local, (int)(uintptr_t)arg, sizeof(local));
	sleep_ms(1);
	for (size_t i = 0; i < sizeof(local); i++)
		CHECK(local[i] == (char)(uintptr_t)arg, "local variable on an evicted thread stack");
	return arg;
}

static void part_stacks(void)
{
	char *a = raw_buf(30), *b = raw_buf(31);
	pthread_attr_t at;
	pthread_t th;
	void *ret;
	int arg = 42;
	pid_t pid;

	need_out(a, BUF, "clone stack");
	pid = clone(clone_main, a + BUF, CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, &arg);
	CHECK(pid > 0, "clone: %s", strerror(errno));
	reap(pid, 3, "clone on an evicted stack");
	CHECK(atomic_load(&clone_state) == 42, "clone on an evicted stack did not run");
	pthread_attr_init(&at);
	CHECK(pthread_attr_setstack(&at, b, BUF) == 0, "pthread_attr_setstack");
	need_out(b, BUF, "thread stack");
	CHECK(pthread_create(&th, &at, stack_main, (void *)5) == 0, "pthread_create on an evicted stack");
	CHECK(pthread_join(th, &ret) == 0 && ret == (void *)5, "thread on an evicted stack");
	pthread_attr_destroy(&at);
}

static char *alt;
static volatile sig_atomic_t hits, on_alt;

static void on_signal(int sig, siginfo_t *si, void *ctx)
{
	char local[2 * PAGE];

	memset(local, sig, sizeof(local));
	hits++;
	on_alt = &local[0] >= alt && &local[0] < alt + BUF && local[100] == sig;
}

static void part_altstack(void)
{
	stack_t ss = { .ss_size = BUF }, off = { .ss_flags = SS_DISABLE };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	sigset_t *set;

	ss.ss_sp = alt = raw_buf(32);
	CHECK_SYS(sigaltstack(&ss, NULL));
	sigaction(SIGUSR1, &sa, NULL);
	for (int i = 0; i < 3; i++) {
		hits = on_alt = 0;
		need_out(alt, BUF, "alternate signal stack");
		raise(SIGUSR1);
		CHECK(hits == 1 && on_alt, "signal on an evicted alternate stack: %d deliveries, on it %d", (int)hits, (int)on_alt);
	}
	CHECK_SYS(sigaltstack(&off, NULL));
	/* The mask in evicted memory, the signal on arrival. */
	set = (void *)raw_buf(33);
	sigemptyset(set);
	sigaddset(set, SIGUSR1);
	need_out(set, PAGE, "sigset");
	CHECK_SYS(sigprocmask(SIG_BLOCK, set, NULL));
	kill(getpid(), SIGUSR1);
	need_out(set, PAGE, "sigset");
	CHECK(sigtimedwait(set, (void *)((char *)set + PAGE), &(struct timespec){ 2, 0 }) == SIGUSR1, "sigtimedwait: %s", strerror(errno));
	CHECK_SYS(sigprocmask(SIG_UNBLOCK, set, NULL));
}

static int deep_pipe[2];
static char *deep_stack;
static _Atomic bool deep_down;

__attribute__((noinline)) static int deep(unsigned n)
{
	char local[PAGE];
	char c;

	memset(local, (int)n, sizeof(local));
	if (n == 0) {
		ssize_t r;

		atomic_store(&deep_down, true);
		do
			r = read(deep_pipe[0], &c, 1);
		while (r < 0 && errno == EINTR);
		CHECK(r == 1, "read: %s", strerror(errno));
	} else {
		deep(n - 1);
	}
	for (size_t i = 0; i < sizeof(local); i++)
		CHECK(local[i] == (char)n, "a local variable %u frames up an evicted stack changed", n);
	return local[17];
}

static void *deep_main(void *arg)
{
	deep(100);
	return NULL;
}

static void part_signal_stack(void)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	pthread_attr_t at;
	pthread_t th;

	deep_stack = anon(MiB);
	CHECK_SYS(pipe(deep_pipe));
	sigaction(SIGUSR2, &sa, NULL);
	pthread_attr_init(&at);
	CHECK(pthread_attr_setstack(&at, deep_stack, MiB) == 0, "pthread_attr_setstack");
	CHECK(pthread_create(&th, &at, deep_main, NULL) == 0, "pthread_create");
	while (!atomic_load(&deep_down))
		sleep_ms(1);
	hits = 0;
	for (int i = 0; i < 3; i++) {
		sleep_ms(5);
		may_be_in(deep_stack + MiB - 256 * KiB, 128 * KiB, "the stack of a waiting thread");
		pthread_kill(th, SIGUSR2);
		for (uint64_t end = now_ns() + slow_s(10) * 1000000000ull; hits <= i;) {
			CHECK(now_ns() < end, "a signal to a thread with an evicted stack was not delivered");
			sleep_ms(1);
		}
	}
	may_be_in(deep_stack + MiB - 256 * KiB, 128 * KiB, "the stack of a waiting thread");
	CHECK(write(deep_pipe[1], "x", 1) == 1, "write");
	pthread_join(th, NULL);
	pthread_attr_destroy(&at);
	munmap(deep_stack, MiB);
	close(deep_pipe[0]);
	close(deep_pipe[1]);
}

static void part_misc(void)
{
	char *a = raw_buf(34);
	struct utsname *u = (void *)(a + PAGE);
	struct timespec *ts = (void *)(a + 2 * PAGE), *req = (void *)(a + 3 * PAGE);
	struct rusage *ru = (void *)(a + 4 * PAGE);
	uint64_t *eight = (void *)(a + 5 * PAGE);
	cpu_set_t *cpus = (void *)(a + 6 * PAGE);
	int *avail = (void *)(a + 7 * PAGE), *opt_val = (void *)(a + 8 * PAGE);
	socklen_t *opt_len = (void *)(a + 9 * PAGE);
	int p[2], s[2], ev = eventfd(0, EFD_CLOEXEC);

	strcpy(a, "evicted-name");
	memset(avail, 0, PAGE);
	*req = (struct timespec){ 0, 1000 };
	*eight = 5;
	*opt_len = sizeof(int);
	CHECK_SYS(pipe(p));
	CHECK(write(p[1], "12345", 5) == 5, "write");
	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	need_out(a, BUF, "arguments");
	CHECK_SYS(prctl(PR_SET_NAME, a));
	CHECK_SYS(uname(u));
	CHECK(!strcmp(u->sysname, "Linux"), "uname into evicted memory");
	need_out(a, BUF, "arguments");
	CHECK_SYS(clock_gettime(CLOCK_REALTIME, ts));
	CHECK(ts->tv_sec > 1000000000, "clock_gettime into evicted memory");
	need_out(a, BUF, "arguments");
	CHECK_SYS(nanosleep(req, NULL));
	CHECK_SYS(getrusage(RUSAGE_SELF, ru));
	need_out(a, BUF, "arguments");
	CHECK(write(ev, eight, 8) == 8, "eventfd write: %s", strerror(errno));
	*eight = 0;
	need_out(a, BUF, "arguments");
	CHECK(read(ev, eight, 8) == 8 && *eight == 5, "eventfd read");
	CHECK(sched_getaffinity(0, sizeof(*cpus), cpus) == 0 && CPU_COUNT(cpus) > 0, "sched_getaffinity");
	need_out(a, BUF, "arguments");
	CHECK(ioctl(p[0], FIONREAD, avail) == 0 && *avail == 5, "FIONREAD into evicted memory: %d", *avail);
	need_out(a, BUF, "arguments");
	CHECK(getsockopt(s[0], SOL_SOCKET, SO_TYPE, opt_val, opt_len) == 0 && *opt_val == SOCK_STREAM, "getsockopt into evicted memory");
	page_check(a + 15 * PAGE, (34 << 20) + 15, 0, "neighbours");
	close(ev);
	close(p[0]);
	close(p[1]);
	close(s[0]);
	close(s[1]);
}

static void part_process_vm(void)
{
	char *a = raw_buf(35), *b = raw_buf(36);
	struct iovec l = { b, BUF }, r = { a, BUF };

	need_out(a, BUF, "remote side");
	need_out(b, BUF, "local side");
	CHECK(process_vm_readv(getpid(), &l, 1, &r, 1, 0) == (ssize_t)BUF, "process_vm_readv: %s", strerror(errno));
	check_buf(b, 35, "process_vm_readv");
	a = raw_buf(37);
	need_out(a, BUF, "remote side");
	need_out(b, BUF, "local side");
	r.iov_base = a;
	CHECK(process_vm_writev(getpid(), &l, 1, &r, 1, 0) == (ssize_t)BUF, "process_vm_writev: %s", strerror(errno));
	check_buf(a, 35, "process_vm_writev");
}

static void part_mlock(void)
{
	char *a = out_buf(38);

	if (mlock(a, BUF) != 0) {
		fprintf(stderr, "%s: note: mlock: %s\n", prog_name, strerror(errno));
		return;
	}
	CHECK(out_pages(a, BUF) == 0, "%zu pages of an mlocked range are not resident", out_pages(a, BUF));
	for (int i = 0; i < 3; i++) {
		press();
		CHECK(out_pages(a, BUF) == 0, "%zu pages of an mlocked range were evicted", out_pages(a, BUF));
	}
	check_buf(a, 38, "mlocked");
	CHECK_SYS(munlock(a, BUF));
	need_out(a, BUF, "range after munlock");
	check_buf(a, 38, "after munlock");
	/* In the middle of a mapping: three VMAs from then on. */
	a = out_buf(39);
	CHECK_SYS(mlock(a + 4 * PAGE, 4 * PAGE));
	press();
	CHECK(out_pages(a + 4 * PAGE, 4 * PAGE) == 0, "pages of an mlocked part were evicted");
	check_buf(a, 39, "partly mlocked");
	CHECK_SYS(munlock(a + 4 * PAGE, 4 * PAGE));
	/* On fault: those that are out come to stay when touched. */
	a = out_buf(40);
	if (syscall(SYS_mlock2, a, BUF, 1) == 0) {
		check_buf(a, 40, "mlocked on fault");
		press();
		CHECK(out_pages(a, BUF) == 0, "pages of a range mlocked on fault were evicted");
		check_buf(a, 40, "mlocked on fault");
		CHECK_SYS(munlock(a, BUF));
	}
}

static void part_populate(void)
{
	char *a = out_buf(41);

	CHECK(madvise(a, BUF, MADV_POPULATE_READ) == 0 || errno == EINVAL, "MADV_POPULATE_READ: %s", strerror(errno));
	check_buf(a, 41, "MADV_POPULATE_READ");
	a = out_buf(42);
	CHECK(madvise(a, BUF, MADV_POPULATE_WRITE) == 0 || errno == EINVAL, "MADV_POPULATE_WRITE: %s", strerror(errno));
	check_buf(a, 42, "MADV_POPULATE_WRITE");
	a = out_buf(43);
	madvise(a, BUF, MADV_WILLNEED);
	check_buf(a, 43, "MADV_WILLNEED");
	a = out_buf(44);
	madvise(a, BUF, MADV_PAGEOUT);
	madvise(a, BUF, MADV_COLD);
	check_buf(a, 44, "MADV_PAGEOUT");
}

static void part_mincore(void)
{
	char *a = out_buf(45);
	unsigned char vec[16];

	CHECK_SYS(mincore(a, BUF, vec));
	check_buf(a, 45, "after mincore");
	for (int i = 0;; i++) {
		(void)*(volatile char *)a;
		CHECK_SYS(mincore(a, PAGE, vec));
		if (vec[0] & 1)
			break;
		CHECK(i < 100, "mincore denies a page that was just touched");
	}
}

static void part_direct(void)
{
	char path[600], *a, *b;
	int fd;

	snprintf(path, sizeof(path), "%s/tandem-test-direct-%d", opt.dir, (int)getpid());
	fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
	unlink(path);
	if (fd < 0) {
		fprintf(stderr, "%s: note: O_DIRECT: %s\n", prog_name, strerror(errno));
		return;
	}
	for (int i = 0; i < 4; i++) {
		a = out_buf(46);
		CHECK(pwrite(fd, a, BUF, 0) == (ssize_t)BUF, "O_DIRECT write from evicted memory: %s", strerror(errno));
		b = out_buf(47);
		CHECK(pread(fd, b, BUF, 0) == (ssize_t)BUF, "O_DIRECT read into evicted memory: %s", strerror(errno));
		check_buf(b, 46, "what went through O_DIRECT");
	}
	close(fd);
}

static void part_vmsplice(void)
{
	char *a = out_buf(48), *b = raw_buf(49);
	struct iovec iov = { a, BUF / 2 };
	int p[2];
	ssize_t n, done = 0;

	CHECK_SYS(pipe(p));
	n = vmsplice(p[1], &iov, 1, 0);
	CHECK(n > 0, "vmsplice from evicted memory: %s", strerror(errno));
	press();
	press();
	while (done < n) {
		ssize_t r = read(p[0], b + done, (size_t)(n - done));

		CHECK(r > 0, "read: %s", strerror(errno));
		done += r;
	}
	check(b, (size_t)n & ~(PAGE - 1), 48 << 20, 0, "what was vmspliced");
	check_buf(a, 48, "what was vmspliced, at home");
	close(p[0]);
	close(p[1]);
}

static void *robust_main(void *arg)
{
	CHECK(pthread_mutex_lock(arg) == 0, "pthread_mutex_lock");
	return NULL; /* dies with it */
}

/* What the kernel does when a thread ends, it does to user memory too: owner-died marks on robust mutexes. */
static void part_robust(void)
{
	char *a = raw_buf(50);
	pthread_mutex_t *m = (void *)a;
	pthread_mutexattr_t ma;
	pthread_t th;
	int r;

	pthread_mutexattr_init(&ma);
	pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(m, &ma);
	for (int i = 0; i < 5; i++) {
		need_out(a, PAGE, "mutex");
		CHECK(pthread_create(&th, NULL, robust_main, m) == 0, "pthread_create");
		pthread_join(th, NULL);
		need_out(a, PAGE, "mutex of a dead owner");
		r = pthread_mutex_trylock(m);
		CHECK(r == EOWNERDEAD, "robust mutex of a dead owner: %s", strerror(r));
		CHECK(pthread_mutex_consistent(m) == 0, "pthread_mutex_consistent");
		CHECK(pthread_mutex_unlock(m) == 0, "pthread_mutex_unlock");
	}
	pthread_mutex_destroy(m);
}

struct storm {
	uint64_t id, end;
};

static void *storm_main(void *arg)
{
	struct storm *s = arg;
	struct rng r = { s->id };
	size_t pages = opt.mb * MiB / 4 / PAGE;
	char *area = anon(pages * PAGE);
	uint64_t *ver = shared(pages * 8);
	int fd = scratch();

	for (size_t i = 0; i < pages; i++)
		page_gen(area + i * PAGE, s->id << 32 | i, 0);
	while (now_ns() < s->end) {
		size_t i = below(&r, pages), j = below(&r, pages), n = 1 + below(&r, 8);

		for (; n && i < pages && j < pages; n--, i++, j++) {
			CHECK(pwrite(fd, area + i * PAGE, PAGE, 0) == (ssize_t)PAGE, "pwrite");
			CHECK(pread(fd, area + j * PAGE, PAGE, 0) == (ssize_t)PAGE, "pread");
			page_check(area + j * PAGE, s->id << 32 | i, ver[i], "moved by write and read");
			page_gen(area + j * PAGE, s->id << 32 | j, ++ver[j]);
		}
	}
	for (size_t i = 0; i < pages; i++)
		page_check(area + i * PAGE, s->id << 32 | i, ver[i], "after the storm");
	munmap(area, pages * PAGE);
	close(fd);
	return NULL;
}

/* System calls meet evictions at every moment. */
static void part_storm(void)
{
	pthread_t th[2];
	struct storm s[2];

	for (uint64_t i = 0; i < 2; i++) {
		s[i] = (struct storm){ opt.seed * 8 + i, now_ns() + opt.seconds * 1000000000u };
		CHECK(pthread_create(&th[i], NULL, storm_main, &s[i]) == 0, "pthread_create");
	}
	for (int i = 0; i < 2; i++) {
		while (pthread_tryjoin_np(th[i], NULL) != 0)
			press_some(512);
	}
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "pipe", part_pipe }, { "file", part_file }, { "vectors", part_vectors }, { "msg", part_msg }, { "futex", part_futex },
		{ "uring", part_uring }, { "uring-late", part_uring_late }, { "uring-fixed", part_uring_fixed }, { "pinned", part_pinned }, { "aio", part_aio },
		{ "getrandom", part_getrandom }, { "exec", part_exec }, { "paths", part_paths }, { "poll", part_poll }, { "stacks", part_stacks },
		{ "altstack", part_altstack }, { "signal-stack", part_signal_stack }, { "misc", part_misc }, { "process-vm", part_process_vm },
		{ "mlock", part_mlock }, { "populate", part_populate }, { "mincore", part_mincore }, { "direct", part_direct },
		{ "vmsplice", part_vmsplice }, { "robust", part_robust }, { "storm", part_storm },
	};

	parse(argc, argv);
	bufs = anon(NBUFS * 2 * BUF);
	press_init();
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
