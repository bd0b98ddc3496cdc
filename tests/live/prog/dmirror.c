/* SPDX-License-Identifier: MIT */
/*
 * dmirror - the devices of `tandem dmirror`, where the kernel's test suite does not look: wrong arguments, kinds of memory, numbers that come to mean
 * something else, forks, several threads.
 */
#include "common.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>

struct cmd {
	uint64_t addr, ptr, npages, cpages, faults;
};
enum { READ, WRITE, TO_DEV, TO_SYS, SNAPSHOT, EXCLUSIVE, CHECK, RELEASE, FLAGS, READ_UNLOCKED };
#define REQUEST(nr) _IOWR('H', nr, struct cmd)
#define N 16ul

static int dev = -1;

static int open_dev(int minor)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/hmm_dmirror%d", minor);
	return open(path, O_RDWR);
}

static int run_on(int fd, unsigned nr, void *addr, void *ptr, uint64_t npages)
{
	struct cmd c = { (uintptr_t)addr, (uintptr_t)ptr, npages, 77, 78 };

	if (ioctl(fd, REQUEST(nr), &c)) {
		int e = errno;

		CHECK(c.cpages == 77 && c.faults == 78, "command %u failed and changed the struct", nr);
		return -e;
	}
	CHECK(c.cpages == npages || nr == FLAGS || nr == TO_SYS, "command %u: %" PRIu64 " pages of %" PRIu64, nr, c.cpages, npages);
	return 0;
}

static int run(unsigned nr, void *addr, void *ptr, uint64_t npages)
{
	return run_on(dev, nr, addr, ptr, npages);
}

static void expect(int got, int want, const char *what)
{
	CHECK(got == want, "%s: %d (%s), must be %d", what, got, strerror(-got), want);
}

static void *map(size_t len, int prot)
{
	void *p = mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	return p;
}

/* ---- arguments ------------------------------------------------------------------------------------------------------- */

static void arguments(void)
{
	char *a = map(N * PAGE, PROT_READ | PROT_WRITE), *b = map(N * PAGE, PROT_READ | PROT_WRITE);
	struct cmd c = { (uintptr_t)a, (uintptr_t)b, 1, 0, 0 };
	const char *volatile nowhere = NULL;

	for (unsigned nr = 0; nr <= READ_UNLOCKED; nr++) {
		expect(run(nr, a + 1, b, 1), -EINVAL, "an address in a page");
		expect(run(nr, a, b, 0), -EINVAL, "no pages");
		expect(run(nr, a, b, ~0ul / PAGE), -EINVAL, "a range that wraps");
		expect(run(nr, a, b, (1ul << 52) + 1), -EINVAL, "a length that wraps");
		expect(run(nr, (void *)-PAGE, b, 1), -EINVAL, "up to the end of all addresses");
	}
	expect(ioctl(dev, REQUEST(READ), NULL) ? -errno : 0, -EFAULT, "no struct");
	expect(ioctl(dev, REQUEST(READ), 1000) ? -errno : 0, -EFAULT, "no struct");
	expect(ioctl(dev, REQUEST(10), &c) ? -errno : 0, -EINVAL, "an unknown command");
	expect(ioctl(dev, _IOWR('H', 0, int), &c) ? -errno : 0, -EINVAL, "a struct of another size");
	expect(ioctl(dev, _IOWR('I', 0, struct cmd), &c) ? -errno : 0, -ENOTTY, "another driver's command");
	expect(run(READ, a, NULL, 1), -EFAULT, "nowhere to put it");
	expect(run(WRITE, a, NULL, 1), -EFAULT, "nowhere to get it from");
	expect(run(SNAPSHOT, a, NULL, 1), -EFAULT, "nowhere to put a snapshot");
	expect(run(READ, a, b, 1ul << 40), -EFAULT, "more than there is");
	expect(run(FLAGS, a, b, 1), 0, "a flag");
	expect(run(FLAGS, a, b, 2), 0, "no flag that there is");
	expect(open_dev(4) < 0 ? -errno : 0, -ENOENT, "a fifth device");
	expect(open("/dev/hmm_dmirror", O_RDWR) < 0 ? -errno : 0, -ENOENT, "a device without a number");
	expect(open(nowhere, O_RDWR) < 0 ? -errno : 0, -EFAULT, "a path that cannot be read");
	munmap(a, N * PAGE);
	munmap(b, N * PAGE);
}

/* ---- kinds of memory ------------------------------------------------------------------------------------------------- */

static char data[3 * PAGE] = { 1 };

static void both_ways(char *m, const char *what)
{
	char *a = (char *)(((uintptr_t)m + PAGE - 1) & ~(PAGE - 1)), *b = map(PAGE, PROT_READ | PROT_WRITE);

	memset(a, 'x', PAGE);
	expect(run(READ, a, b, 1), 0, what);
	CHECK(!memcmp(a, b, PAGE), "%s: the device read something else", what);
	memset(b, 'y', PAGE);
	expect(run(WRITE, a, b, 1), 0, what);
	CHECK(!memcmp(a, b, PAGE), "%s: the device wrote something else", what);
	munmap(b, PAGE);
}

static void kinds(void)
{
	char on_stack[3 * PAGE], *heap = malloc(3 * PAGE), *m, *b = map(4 * PAGE, PROT_READ | PROT_WRITE), path[] = "/tmp/dmirror-XXXXXX";
	int fd = mkstemp(path);

	CHECK(fd >= 0 && heap, "no file");
	unlink(path);
	both_ways(on_stack, "the stack");
	both_ways(data, "data");
	both_ways(heap, "the heap");
	CHECK_SYS(ftruncate(fd, 2 * PAGE));
	m = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE);
	both_ways(m, "a file");
	CHECK(pread(fd, b, 1, PAGE) == 1 && *b == 'y', "the file has not changed");
	munmap(m, PAGE);
	m = map(4 * PAGE, PROT_READ | PROT_WRITE);
	munmap(m + PAGE, PAGE);
	expect(run(READ, m, b, 3), -EFAULT, "a hole");
	expect(run(READ, m + 2 * PAGE, b, 2), 0, "behind the hole");
	mprotect(m + 2 * PAGE, PAGE, PROT_READ);
	expect(run(WRITE, m + 2 * PAGE, b, 1), -EPERM, "read-only");
	expect(run(WRITE, m + 2 * PAGE, b, 2), -EPERM, "some of it is read-only");
	mprotect(m + 2 * PAGE, PAGE, PROT_WRITE);
	expect(run(WRITE, m + 2 * PAGE, b, 1), -EFAULT, "write-only: not readable, so nothing is allowed");
	expect(run(READ, m + 2 * PAGE, b, 1), -EFAULT, "write-only");
	close(fd);
	free(heap);
}

/* ---- snapshots ------------------------------------------------------------------------------------------------------- */

static void snapshots(void)
{
	unsigned char want[8] = { 0xff, 0xff, 0x00, 0x11, 0x02, 0x01, 0x02, 0x11 }, got[1024];
	char *m = map(8 * PAGE, PROT_READ | PROT_WRITE), *big = map(1024 * PAGE, PROT_READ | PROT_WRITE);
	volatile char *v = m;

	mprotect(m, PAGE, PROT_NONE);
	munmap(m + PAGE, PAGE);
	(void)v[3 * PAGE];
	v[4 * PAGE] = v[5 * PAGE] = v[6 * PAGE] = 1;
	mprotect(m + 5 * PAGE, PAGE, PROT_READ);
	mprotect(m + 7 * PAGE, PAGE, PROT_READ);
	(void)v[7 * PAGE];
	expect(run(SNAPSHOT, m, got, 8), 0, "snapshot");
	for (int i = 0; i < 8; i++)
		CHECK(got[i] == want[i], "page %d of a snapshot is %#x, must be %#x", i, got[i], want[i]);
	/* Huge pages come as they please. */
	madvise(big, 1024 * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < 1024; i += 2)
		big[i * PAGE] = 1;
	expect(run(SNAPSHOT, big, got, 1024), 0, "a large snapshot");
	for (size_t i = 0; i < 1024; i++)
		CHECK(got[i] == (i % 2 ? 0 : 2), "page %zu of a large snapshot is %#x", i, got[i]);
	munmap(m, 8 * PAGE);
	munmap(big, 1024 * PAGE);
}

static void mapped(void)
{
	unsigned char got[2];
	char *m = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, dev, 0);
	char *s = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dev, PAGE);

	CHECK(m != MAP_FAILED && s != MAP_FAILED, "mmap of the device: %s", strerror(errno));
	expect(run(SNAPSHOT, m, got, 2), 0, "snapshot");
	CHECK(got[0] == 1 && got[1] == 1, "pages of the device are %#x, %#x", got[0], got[1]);
	CHECK(page_is_zero(m), "a page of the device is not zero");
	*m = *s = 1;
	expect(run(SNAPSHOT, m, got, 2), 0, "snapshot");
	CHECK(got[0] == 2 && got[1] == 1, "after a write they are %#x, %#x", got[0], got[1]);
	CHECK(m[PAGE] == 0, "two mappings have one page");
	munmap(m, 2 * PAGE);
	munmap(s, PAGE);
}

/* ---- what has migrated, as others see it ----------------------------------------------------------------------------------- */

#define HUGE (512 * PAGE)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Pages [from, to) of m: the byte of each in a snapshot; and whether pagemap shows each as swapped, or else as present. */
static void expect_seen(int fd, char *m, size_t from, size_t to, unsigned char want, bool swapped, const char *what)
{
	unsigned char got[512];
	uint64_t entry[512];
	int pagemap = CHECK_SYS(open("/proc/self/pagemap", O_RDONLY));

	expect(run_on(fd, SNAPSHOT, m, got, 512), 0, what);
	CHECK(pread(pagemap, entry, sizeof(entry), (off_t)((uintptr_t)m / PAGE * 8)) == sizeof(entry), "pagemap: %s", strerror(errno));
	CHECK_SYS(close(pagemap));
	for (size_t i = from; i < to; i++) {
		CHECK(got[i] == want, "%s: page %zu of a snapshot is %#x, must be %#x", what, i, got[i], want);
		CHECK(entry[i] >> 62 == (swapped ? 1 : 2), "%s: the entry of page %zu in pagemap is %#" PRIx64, what, i, entry[i]);
	}
}

static void migrated(void)
{
	char *all = map(2 * HUGE, PROT_READ | PROT_WRITE), *m = (char *)(((uintptr_t)all + HUGE - 1) & ~(HUGE - 1)), *b = map(HUGE, PROT_READ | PROT_WRITE);
	int other = CHECK_SYS(open_dev(1)), coherent = CHECK_SYS(open_dev(2));
	unsigned char huge;

	memset(m, 'h', HUGE);
	/* Without huge pages there are none to be seen. */
	huge = madvise(m, HUGE, MADV_COLLAPSE) ? 0 : 0x04;
	expect_seen(dev, m, 0, 512, 0x02 | huge, false, "in ram");
	expect(run(TO_DEV, m, b, 512), 0, "migrate");
	expect_seen(dev, m, 0, 512, 0x22 | huge, true, "on a device");
	expect_seen(other, m, 0, 512, 0x00, true, "on another device");
	/* What is left of a folio is mapped by small pages. */
	CHECK_SYS(munmap(m + 100 * PAGE, PAGE));
	expect_seen(dev, m, 0, 100, 0x22, true, "before a hole");
	expect_seen(dev, m, 101, 512, 0x22, true, "behind a hole");
	CHECK(m[PAGE] == 'h', "something else came back");
	expect_seen(dev, m, 1, 2, 0x02, false, "a page that came back");
	expect(run(TO_SYS, m, NULL, 100), 0, "bring it back");
	expect_seen(dev, m, 0, 100, 0x02, false, "what came back");
	expect(run_on(coherent, TO_DEV, m, b, 100), 0, "migrate to coherent memory");
	expect_seen(coherent, m, 0, 100, 0x42, false, "in coherent memory");
	CHECK_SYS(close(other));
	CHECK_SYS(close(coherent));
	munmap(all, 2 * HUGE);
	munmap(b, HUGE);
}

/* ---- private mappings of files ------------------------------------------------------------------------------------------------------ */

static _Atomic bool enough;
static unsigned long added[2];

static void *adder(void *arg)
{
	static _Atomic unsigned next;
	unsigned k = next++ % 2;

	for (added[k] = 0; !enough; added[k]++)
		for (size_t i = 0; i < 512; i++)
			++((volatile unsigned long *)((char *)arg + i * PAGE))[k];
	return NULL;
}

/* They become anonymous memory while two threads store there. */
static void file_private(void)
{
	char path[] = "/tmp/dmirror-XXXXXX", *b = map(512 * PAGE, PROT_READ | PROT_WRITE);
	int fd = CHECK_SYS(mkstemp(path));

	unlink(path);
	CHECK_SYS(ftruncate(fd, 512 * PAGE));
	for (int round = 0; round < 20; round++) {
		char *m = mmap(NULL, 512 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
		struct cmd c = { (uintptr_t)m, (uintptr_t)b, 512, 0, 0 };
		pthread_t t[2];

		CHECK(m != MAP_FAILED, "mmap: %s", strerror(errno));
		for (size_t i = 0; i < 512; i++)
			*(volatile char *)(m + i * PAGE) = 0;
		enough = false;
		for (int i = 0; i < 2; i++)
			pthread_create(&t[i], NULL, adder, m);
		sleep_ms(2);
		/* They take pages back as soon as these have gone. */
		CHECK(!ioctl(dev, REQUEST(TO_DEV), &c) || errno == ENOENT, "migrate: %s", strerror(errno));
		sleep_ms(2);
		enough = true;
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		for (size_t i = 0; i < 512; i++)
			for (int k = 0; k < 2; k++)
				CHECK(((unsigned long *)(m + i * PAGE))[k] == added[k], "page %zu: thread %d has added %lu, %lu are there", i, k, added[k],
				      ((unsigned long *)(m + i * PAGE))[k]);
		/* With nobody there all of it goes. */
		memset(m, round + 1, 512 * PAGE);
		expect(run(TO_DEV, m, b, 512), 0, "a private mapping of a file");
		CHECK(!memcmp(b, m, 512 * PAGE) && *m == round + 1, "something else is there");
		CHECK_SYS(munmap(m, 512 * PAGE));
	}
	CHECK(pread(fd, b, PAGE, 0) == PAGE && page_is_zero(b), "the file has changed");
	close(fd);
	munmap(b, 512 * PAGE);
}

/* ---- moves ----------------------------------------------------------------------------------------------------------- */

static void expect_all(const char *p, char want, const char *what)
{
	for (size_t i = 0; i < N * PAGE; i++)
		CHECK(p[i] == want, "%s: byte %zu is %d, must be %d", what, i, p[i], want);
}

/* The old place stays mapped, or not; the device is told that its pages have left either way. */
static void moves(void)
{
	char *b = map(N * PAGE, PROT_READ | PROT_WRITE);

	for (int i = 0; i < 8; i++) {
		int keep = i & 1 ? MREMAP_DONTUNMAP : 0, fd = CHECK_SYS(open_dev(i & 2));
		char *m = map(N * PAGE, PROT_READ | PROT_WRITE), *to = map(N * PAGE, PROT_NONE);

		memset(m, 'm', N * PAGE);
		if (i & 4)
			expect(run_on(fd, READ, m, b, N), 0, "read what will move");
		else
			expect(run_on(fd, TO_DEV, m, b, N), 0, "migrate what will move");
		CHECK(mremap(m, N * PAGE, N * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | keep, to) == to, "mremap: %s", strerror(errno));
		memset(b, 0, N * PAGE);
		expect(run_on(fd, READ, to, b, N), 0, "at the new place");
		expect_all(b, 'm', "the device at the new place");
		expect(run_on(fd, READ, m, b, N), keep ? 0 : -EFAULT, "at the old place");
		expect_all(b, keep ? 0 : 'm', "the device at the old place");
		expect_all(to, 'm', "the new place");
		if (keep)
			expect_all(m, 0, "the old place");
		CHECK_SYS(munmap(m, N * PAGE));
		CHECK_SYS(munmap(to, N * PAGE));
		CHECK_SYS(close(fd));
	}
	munmap(b, N * PAGE);
}

/* ---- numbers --------------------------------------------------------------------------------------------------------- */

static void numbers(void)
{
	char *a = map(PAGE, PROT_READ | PROT_WRITE), *b = map(PAGE, PROT_READ | PROT_WRITE);
	int null = CHECK_SYS(open("/dev/null", O_RDWR)), fds[64], n = 0;

	/* Devices that are closed behind our back do not add up. */
	for (int i = 0; i < 60; i++) {
		int fd = CHECK_SYS(open_dev(i % 4));

		expect(run_on(fd, READ, a, b, 1), 0, "read");
		CHECK_SYS(dup2(null, fd));
		expect(run_on(fd, READ, a, b, 1), -ENOTTY, "a number that is another file's");
		CHECK_SYS(close(fd));
		expect(run_on(fd, READ, a, b, 1), -EBADF, "a closed number");
		fd = CHECK_SYS(open_dev(i % 4));
		CHECK_SYS(syscall(SYS_close, fd));
	}
	while (n < 64 && (fds[n] = open_dev(0)) >= 0)
		n++;
	CHECK(n >= 8 && n < 64 && errno == EMFILE, "%d devices could be opened: %s", n, strerror(errno));
	while (n--) {
		expect(run_on(fds[n], READ, a, b, 1), 0, "one of many");
		CHECK_SYS(close(fds[n]));
	}
	CHECK_SYS(close(null));
	expect(run(READ, a, b, 1), 0, "the first one");
}

/* ---- forks ----------------------------------------------------------------------------------------------------------- */

static _Atomic bool done;

static void *reader(void *arg)
{
	char *a = arg, *b = map(N * PAGE, PROT_READ | PROT_WRITE);
	int fd = CHECK_SYS(open_dev(1));
	unsigned long n = 0;

	while (!done) {
		expect(run_on(n % 2 ? fd : dev, READ, a, b, N), 0, "read beside forks");
		CHECK(b[0] == 'a' && b[N * PAGE - 1] == 'a', "something else was read");
		if (++n % 16 == 0) {
			CHECK_SYS(close(fd));
			fd = CHECK_SYS(open_dev(1));
		}
	}
	close(fd);
	return NULL;
}

static void child(char *a, char *b)
{
	int fd;

	expect(run(READ, a, b, 1), -ENOTTY, "a device of the parent's");
	fd = CHECK_SYS(open_dev(0));
	memset(b, 'b', N * PAGE);
	expect(run_on(fd, WRITE, a, b, N), 0, "write in a child");
	CHECK(a[5 * PAGE] == 'b', "the child does not see it");
	CHECK_SYS(close(dev));
	CHECK_SYS(close(fd));
	_exit(0);
}

static void forks(void)
{
	char *a = map(N * PAGE, PROT_READ | PROT_WRITE), *b = map(N * PAGE, PROT_READ | PROT_WRITE);
	pthread_t t[2];
	pid_t pid;

	memset(a, 'a', N * PAGE);
	done = false;
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, reader, a);
	for (int i = 0; i < 40; i++) {
		pid = CHECK_SYS(fork());
		if (!pid)
			child(a, b);
		reap(pid, 0, "a child");
		CHECK(a[5 * PAGE] == 'a', "the child's device wrote to the parent");
		expect(run(READ, a, b, N), 0, "after a fork");
	}
	done = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	pid = vfork();
	if (!pid) {
		close(dev);
		_exit(0);
	}
	reap(pid, 0, "a child of vfork");
	expect(run(READ, a, b, N), 0, "after a child of vfork has closed its copy");
}

/* ---- the program's own userfaultfd ------------------------------------------------------------------------------------- */

static int uffd;

static void *serve(void *arg)
{
	struct uffd_msg m;
	char *page = arg;

	while (read(uffd, &m, sizeof(m)) == sizeof(m)) {
		struct uffdio_copy c = { .dst = m.arg.pagefault.address & ~(PAGE - 1), .src = (uintptr_t)page, .len = PAGE };

		sleep_ms(2);
		CHECK_SYS(ioctl(uffd, UFFDIO_COPY, &c));
		if (c.dst == (uintptr_t)page + (N + 1) * PAGE - PAGE)
			break;
	}
	return NULL;
}

static void own_uffd(void)
{
	char *m = map((N + 1) * PAGE, PROT_READ | PROT_WRITE), *b = map(N * PAGE, PROT_READ | PROT_WRITE);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .range = { (uintptr_t)m + PAGE, N * PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	pthread_t t;

	memset(m, 'u', PAGE);
	uffd = (int)CHECK_SYS(syscall(SYS_userfaultfd, O_CLOEXEC));
	CHECK_SYS(ioctl(uffd, UFFDIO_API, &api));
	CHECK_SYS(ioctl(uffd, UFFDIO_REGISTER, &r));
	pthread_create(&t, NULL, serve, m);
	expect(run(READ_UNLOCKED, m + PAGE, b, N), 0, "a page that the program serves itself");
	CHECK(b[0] == 'u' && b[N * PAGE - 1] == 'u', "it read something else");
	pthread_join(t, NULL);
	close(uffd);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "arguments", arguments }, { "kinds", kinds }, { "snapshots", snapshots }, { "mapped", mapped },
		{ "migrated", migrated },   { "moves", moves }, { "file_private", file_private }, { "numbers", numbers }, { "forks", forks },
		{ "own_uffd", own_uffd },
	};

	parse(argc, argv);
	dev = CHECK_SYS(open_dev(0));
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
