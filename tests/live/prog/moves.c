/* SPDX-License-Identifier: MIT */
/*
 * moves - does UFFDIO_MOVE say what it did? Not a program to be managed: `moves SECONDS [forks]` is run by itself, to see what a kernel does.
 *
 * A thread writes to 64 pages; main moves them to slots and back, as the engine does, while the process forks and another thread has other slots
 * unregistered and emptied. Linux 6.18.44: once in some million moves, with forks only, a call says EEXIST, or that it moved one page less than it
 * did, and the page has been moved (port/host.c, host_invalidate()). Ends with 1 if that was seen, or if anything else was not as it must be.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N 64
#define PAGE 4096ul

struct move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define MOVE _IOWR(UFFDIO, 0x05, struct move)
#define DONTWAKE 1
#define HOLES 2

static int fd, pagemap;
static char *mem, *slots;
static atomic_bool over;
static _Atomic uint64_t word[N];
static unsigned long moves, busy, copies, forks, unsaid;
static atomic_ulong wrong;

static void die(const char *what)
{
	perror(what);
	_exit(2);
}

static void reg(char *p, size_t n, uint64_t mode)
{
	struct uffdio_register r = { .range = { (uintptr_t)p, n * PAGE }, .mode = mode };

	if (ioctl(fd, UFFDIO_REGISTER, &r))
		die("UFFDIO_REGISTER");
}

static bool present(const char *p)
{
	uint64_t e;

	return pread(pagemap, &e, 8, (off_t)((uintptr_t)p / PAGE * 8)) == 8 && e >> 63;
}

static void *writer(void *arg)
{
	uint64_t x = 88172645463325252u;

	(void)arg;
	while (!atomic_load(&over)) {
		unsigned k = (unsigned)((x = x * 6364136223846793005u + 1442695040888963407u) >> 40) % N;
		volatile uint64_t *p = (void *)(mem + k * PAGE);

		for (int i = 0; i < 50 && !atomic_load(&over); i++) {
			if (*p != word[k])
				wrong++;
			*p = ++word[k];
		}
	}
	return NULL;
}

static void *forker(void *arg)
{
	(void)arg;
	while (!atomic_load(&over)) {
		pid_t pid;

		nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
		pid = fork();
		if (pid == 0) {
			nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		forks++;
	}
	return NULL;
}

/* The pages moved from src to dst; 0: this one is shared. */
static unsigned try_move(char *dst, char *src, unsigned n, uint64_t mode)
{
	for (;;) {
		struct move m = { (uintptr_t)dst, (uintptr_t)src, n * PAGE, mode, 0 };
		int r = ioctl(fd, MOVE, &m), e = errno;
		unsigned done = m.move > 0 ? (unsigned)(m.move / (int64_t)PAGE) : 0;

		if (r && done < n && (mode & DONTWAKE) && present(dst + done * PAGE) && !present(src + done * PAGE)) {
			unsaid++;
			printf("a page was moved; the call said %ld pages of %u, errno %d\n", (long)done, n, e);
			done++;
		}
		if (done)
			return done;
		if (r == 0 || e == EBUSY)
			return 0;
		if (e != EAGAIN) {
			errno = e;
			die("UFFDIO_MOVE");
		}
	}
}

static void empty(char *slot)
{
	struct uffdio_range r = { (uintptr_t)slot, PAGE };

	if (ioctl(fd, UFFDIO_UNREGISTER, &r) || madvise(slot, PAGE, MADV_DONTNEED))
		die("emptying a slot");
	reg(slot, 1, UFFDIO_REGISTER_MODE_WP);
}

/* What the engine does with homes that a fork shares: the mapping of the slots is split and merged all the time. */
static void *emptier(void *arg)
{
	char *side = slots + (N + 4) * PAGE;

	(void)arg;
	while (!atomic_load(&over))
		for (unsigned i = 0; i < 32; i += 2) {
			side[i * PAGE] = 1;
			empty(side + i * PAGE);
		}
	return NULL;
}

static void there_and_back(unsigned i, unsigned n)
{
	unsigned k;

	for (unsigned at = 0; at < n; at += k) {
		k = try_move(slots + (i + at) * PAGE, mem + (i + at) * PAGE, n - at, DONTWAKE | HOLES);
		moves += k;
		if (!k) {
			busy++;
			madvise(mem + (i + at) * PAGE, (n - at) * PAGE, 23 /* MADV_POPULATE_WRITE */);
		}
	}
	for (unsigned at = 0; at < n; at += k) {
		char *slot = slots + (i + at) * PAGE;
		struct uffdio_copy c = { .dst = (uintptr_t)(mem + (i + at) * PAGE), .src = (uintptr_t)slot, .len = PAGE };

		k = try_move(mem + (i + at) * PAGE, slot, n - at, HOLES);
		if (!k && !ioctl(fd, UFFDIO_COPY, &c)) {
			empty(slot);
			copies++;
			k = 1;
		}
	}
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API, .features = 1 << 16 /* UFFD_FEATURE_MOVE */ };
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 20);
	bool forking = argc < 3 || argv[2][0] != '0';
	pthread_t th[3];

	setvbuf(stdout, NULL, _IONBF, 0);
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0 || pagemap < 0 || ioctl(fd, UFFDIO_API, &api))
		die("userfaultfd");
	mem = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	slots = mmap(NULL, 2 * N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned i = 0; i < N; i++)
		*(volatile uint64_t *)(void *)(mem + i * PAGE) = word[i] = i + 1000;
	reg(mem, N, UFFDIO_REGISTER_MODE_MISSING);
	reg(slots, 2 * N, UFFDIO_REGISTER_MODE_WP);
	pthread_create(&th[0], NULL, writer, NULL);
	pthread_create(&th[1], NULL, emptier, NULL);
	if (forking)
		pthread_create(&th[2], NULL, forker, NULL);
	while (time(NULL) < end) {
		unsigned i = (unsigned)rand() % N, n = 1 + (unsigned)rand() % (N - i < 16 ? N - i : 16);

		there_and_back(i, n);
	}
	atomic_store(&over, true);
	pthread_join(th[0], NULL);
	pthread_join(th[1], NULL);
	if (forking)
		pthread_join(th[2], NULL);
	printf("%lu moves, %lu busy, %lu copies, %lu forks: %lu moves were not told of, %lu words are wrong\n", moves, busy, copies, forks, unsaid, wrong);
	return unsaid || wrong;
}
