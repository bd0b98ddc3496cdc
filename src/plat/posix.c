// SPDX-License-Identifier: MIT
/*
 * posix.c - plat.h over libc and POSIX threads: for tests with threads, under whatever sanitizer. Never in a live process: its functions may
 * take locks of the program (see plat.h). Mutexes check lock ranks.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "base/check.h"
#include "base/lockrank.h"
#include "plat/plat.h"

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

void *plat_map(size_t size)
{
	size_t align = size >= TDM_HUGE_SIZE ? (size_t)TDM_HUGE_SIZE : 0, head;
	u8 *p = mmap(NULL, size + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	if (align) {
		head = TDM_ALIGN_UP((uintptr_t)p, align) - (uintptr_t)p;
		if (head)
			munmap(p, head);
		p += head;
		if (align > head)
			munmap(p + size, align - head);
	}
	return p;
}

void plat_unmap(void *p, size_t size)
{
	TDM_BUG_ON(munmap(p, size) != 0);
}

void plat_discard(void *p, size_t size)
{
	TDM_BUG_ON(madvise(p, size, MADV_DONTNEED) != 0);
}

/* There is one node. */
int plat_mem_node(void *p, size_t size, int node)
{
	(void)p;
	(void)size;
	return node > 0 ? -ENXIO : 0;
}

void plat_thread_node(int node)
{
	(void)node;
}

void plat_copy_new(void *dst, const void *src, size_t len)
{
	memcpy(dst, src, len);
}

/* ---- locks and waiting ------------------------------------------------------------------------------------------------- */

/* The word: 0 free, 1 held, 2 held and somebody may sleep. */

void plat_mutex_init(struct plat_mutex *m, u32 rank)
{
	tdm_a32_st_relaxed(&m->word, 0);
	m->rank = rank;
}

void plat_mutex_reset(struct plat_mutex *m)
{
	tdm_a32_st_relaxed(&m->word, 0);
}

bool plat_mutex_trylock(struct plat_mutex *m)
{
	u32 old = 0;

	if (!tdm_a32_cas_acqrel(&m->word, &old, 1))
		return false;
	tdmi_lockrank_taken(m, m->rank);
	return true;
}

void plat_mutex_lock(struct plat_mutex *m)
{
	u32 old = 0;

	plat_window();
	tdmi_lockrank_acquire(m, m->rank);
	if (tdm_a32_cas_acqrel(&m->word, &old, 1))
		return;
	while (tdm_a32_xchg_acqrel(&m->word, 2) != 0)
		plat_wait(&m->word, 2, ~(u64)0);
}

void plat_mutex_unlock(struct plat_mutex *m)
{
	tdmi_lockrank_release(m, m->rank);
	if (tdm_a32_xchg_acqrel(&m->word, 0) == 2)
		plat_wake(&m->word, 1);
	plat_window();
}

int plat_wait(tdm_a32 *addr, u32 expected, u64 timeout_ns)
{
	struct timespec ts = { (time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u) };
	long r = syscall(SYS_futex, addr, FUTEX_WAIT_PRIVATE, expected, timeout_ns == ~(u64)0 ? NULL : &ts, NULL, 0);

	return r < 0 && errno == ETIMEDOUT ? -ETIMEDOUT : 0;
}

void plat_wake(tdm_a32 *addr, u32 n)
{
	syscall(SYS_futex, addr, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* ---- threads, clock ---------------------------------------------------------------------------------------------------- */

struct plat_thread {
	pthread_t id;
	void (*fn)(void *);
	void *arg;
};

static void *run_thread(void *arg)
{
	struct plat_thread *t = arg;

	t->fn(t->arg);
	return NULL;
}

int plat_thread_start(struct plat_thread **out, void (*fn)(void *), void *arg, const char *name)
{
	struct plat_thread *t = malloc(sizeof(*t));
	int err;

	(void)name;
	if (!t)
		return -ENOMEM;
	t->fn = fn;
	t->arg = arg;
	err = pthread_create(&t->id, NULL, run_thread, t);
	if (err)
		free(t);
	else
		*out = t;
	return -err;
}

void plat_thread_join(struct plat_thread *t)
{
	pthread_join(t->id, NULL);
	free(t);
}

void plat_yield(void)
{
	sched_yield();
}

void plat_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

u64 plat_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

int plat_random(void *buf, size_t len)
{
	return getentropy(buf, len) ? -errno : 0;
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

int plat_file_create(const char *dir, int *file, bool *direct)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	*file = fd;
	*direct = false;
	return 0;
}

void plat_file_close(int file)
{
	close(file);
}

int plat_file_io(struct plat_io *io)
{
	ssize_t n = io->write ? pwrite(io->file, io->buf, io->len, (off_t)io->off) :
				pread(io->file, io->buf, io->len, (off_t)io->off);

	io->result = n < 0 ? -errno : n != (ssize_t)io->len ? -EIO : 0;
	return io->result;
}

struct plat_ioq {
	u32 depth, count;
	struct plat_io *done[];
};

int plat_ioq_create(struct plat_ioq **q, u32 depth)
{
	*q = calloc(1, sizeof(**q) + depth * sizeof(struct plat_io *));
	if (!*q)
		return -ENOMEM;
	(*q)->depth = depth;
	return 0;
}

void plat_ioq_destroy(struct plat_ioq *q)
{
	free(q);
}

void plat_ioq_forget(struct plat_ioq *q)
{
	free(q);
}

int plat_ioq_submit(struct plat_ioq *q, struct plat_io *const *ios, u32 n)
{
	if (q->count + n > q->depth)
		return -EAGAIN;
	for (u32 i = 0; i < n; i++) {
		plat_file_io(ios[i]);
		q->done[q->count++] = ios[i];
	}
	return 0;
}

int plat_ioq_reap(struct plat_ioq *q, struct plat_io **done, u32 max, u32 min)
{
	u32 n = TDM_MIN(max, q->count);

	TDM_BUG_ON(min > q->count);
	memcpy(done, q->done, n * sizeof(struct plat_io *));
	memmove(q->done, q->done + n, (q->count - n) * sizeof(struct plat_io *));
	q->count -= n;
	return (int)n;
}

void plat_file_punch(int file, u64 off, u64 len)
{
	(void)!fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
}

int plat_file_free(const char *dir, u64 *bytes)
{
	struct statvfs st;

	if (statvfs(dir, &st))
		return -errno;
	*bytes = (u64)st.f_bavail * st.f_frsize;
	return 0;
}

/* ---- the end ----------------------------------------------------------------------------------------------------------- */

void plat_log(const char *line)
{
	fprintf(stderr, "tandem: %s\n", line);
}

void plat_abort(const char *msg)
{
	fputs(msg, stderr);
	fflush(stderr);
	abort();
}
