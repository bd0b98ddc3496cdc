/* SPDX-License-Identifier: MIT */
/*
 * devices - pages of this process on devices: that they are really there, what refuses to go, memory that is full, copies that fail, handles that are
 * misused, a budget beside it. One thing at a time; devraces and devforks do many at once.
 */
#include "device.h"
#include <linux/io_uring.h>
#include <sys/resource.h>
#include <sys/uio.h>

#define NAME 0xde0000

static bool quick(void)
{
	return opt.seconds <= 5;
}

static char *region(size_t len)
{
	char *all = anon(len + 64 * KiB), *p = (char *)(((uintptr_t)all + 64 * KiB - 1) & ~(64 * KiB - 1));

	/* From a block on, so that so much goes into so much. */
	if (p < all + 64 * KiB)
		CHECK_SYS(munmap(p + len, (size_t)(all + 64 * KiB - p)));
	if (p > all)
		CHECK_SYS(munmap(all, (size_t)(p - all)));
	CHECK_SYS(madvise(p, len, MADV_NOHUGEPAGE));
	fill(p, len, NAME, 1);
	return p;
}

/* Resident pages of this process, in bytes. */
static size_t resident(void)
{
	char line[200] = "";
	int fd = CHECK_SYS(open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
	size_t total, rss = 0;

	(void)!read(fd, line, sizeof(line) - 1);
	close(fd);
	sscanf(line, "%zu %zu", &total, &rss);
	return rss * PAGE;
}

/* ---- that they move ------------------------------------------------------------------------------------------------------------------------- */

static void part_there_and_back(void)
{
	size_t len = opt.mb * MiB / 2;
	char *p, *huge;
	size_t before, n = 0;

	soft_start(len, 2);
	p = region(len);
	for (uint64_t round = 1; round <= 3; round++) {
		struct tdm_device_stats s;

		check(p, len, NAME, round, "before it goes");
		before = resident();
		migrate_all(dev, p, len, "there and back");
		/* They are nowhere else: not at their address, and this process has so much less. */
		CHECK(out_pages(p, len) == len / PAGE, "%zu pages of %zu are still in the page table", len / PAGE - out_pages(p, len), len / PAGE);
		/* What they leave is kept for a while, for those that come next; some of it for good. */
		for (unsigned i = 0; i < 200 && resident() + len / 2 >= before; i++)
			sleep_ms(100);
		CHECK(resident() + len / 2 < before, "resident before %zu, with the pages on the device %zu", before, resident());
		s = stats_of(dev);
		CHECK(s.memory_pages == len / PAGE, "the device says that it has %" PRIu64 " pages", s.memory_pages);
		device_check(dev, p, len, NAME, round, "as the device sees it");
		CHECK(out_pages(p, len) == len / PAGE, "the device's reads brought pages back");
		device_fill(dev, p, len / 2, NAME, round + 1);
		CHECK(stats_of(dev).memory_pages == len / PAGE, "the device's writes brought pages back");
		check(p, len / 2, NAME, round + 1, "written by the device");
		check(p + len / 2, len / 2, NAME + len / 2 / PAGE, round, "left alone by the device");
		CHECK(stats_of(dev).memory_pages == 0, "the CPU has touched all of it, and the device still has some");
		fill(p, len, NAME, round + 1);
		device_check(dev, p, len, NAME, round + 1, "in ram, as the device sees it");
	}
	/* By hand, in parts, and what nobody has touched. */
	migrate_all(dev, p, len, "again");
	CHECK(tdm_pagein(engine, p, len / 2) == 0, "tdm_pagein");
	CHECK(out_pages(p, len / 2) == 0 && stats_of(dev).memory_pages == len / 2 / PAGE, "tdm_pagein brought %zu pages too few", out_pages(p, len / 2));
	CHECK(tdm_device_evict(dev, 16, &n) == 0 && n >= 16, "tdm_device_evict: %zu", n);
	CHECK(tdm_device_evict(dev, ~(size_t)0, &n) == 0, "tdm_device_evict");
	CHECK(stats_of(dev).memory_pages == 0, "something is left after all was evicted");
	check(p, len, NAME, 4, "after it was evicted");
	munmap(p, len);
	p = anon(len);
	CHECK(migrate(dev, p, len) == 0, "memory that nobody has touched went to the device");
	device_check_zero(dev, p, 16 * PAGE, "memory that nobody has touched");
	munmap(p, len);
	/* Huge pages. */
	huge = anon(len + HUGE);
	p = (char *)(((uintptr_t)huge + HUGE - 1) & ~(HUGE - 1));
	madvise(p, len & ~(HUGE - 1), MADV_HUGEPAGE);
	len &= ~(HUGE - 1);
	fill(p, len, NAME, 9);
	for (int round = 0; round < 2; round++) {
		migrate_all(dev, p, len, "of huge pages");
		CHECK(out_pages(p, len) == len / PAGE, "huge pages: some are still there");
		device_check(dev, p, len, NAME, 9, "huge pages, as the device sees them");
		check(p, len, NAME, 9, "huge pages, back");
	}
	munmap(huge, opt.mb * MiB / 4 + HUGE);
	soft_end();
	engine_stop();
}

/*
 * What goes there and back again and again, with nothing moving for half a second in between, finds the pages that it left. Only when nobody hinders the
 * thread that looks, or this one, is anything known: so it is tried until half a second was one.
 */
static void part_kept(void)
{
	size_t len = opt.mb * MiB / 2, before = 0, after = 0;
	uint64_t took = ~(uint64_t)0;
	char *p;

	soft_start(len, 1);
	p = region(len);
	for (unsigned tries = 0; tries < 100 && took > 850000000; tries++) {
		uint64_t t0;

		migrate_all(dev, p, len, "kept");
		sleep_ms(250); /* until this has been noticed */
		t0 = now_ns();
		CHECK(tdm_pagein(engine, p, len) == 0, "tdm_pagein");
		sleep_ms(600);
		before = resident();
		migrate_all(dev, p, len, "kept");
		after = resident();
		took = now_ns() - t0;
		CHECK(tdm_pagein(engine, p, len) == 0, "tdm_pagein");
	}
	if (took > 850000000)
		fprintf(stderr, "%s: this machine is too busy to tell what is kept for half a second\n", prog_name);
	else
		CHECK(after + len / 8 >= before, "of %zu bytes %zu were given back when they had gone to the device", len, before - after);
	check(p, len, NAME, 1, "there and back");
	munmap(p, len);
	soft_end();
	engine_stop();
}

/* ---- memory that the CPU can map, on a NUMA node --------------------------------------------------------------------------------------------- */

/* The first node that has memory; -1: the kernel does not say. */
static int some_node(void)
{
	int fd = open("/sys/devices/system/node/has_memory", O_RDONLY | O_CLOEXEC), node = -1;
	char line[100] = "";

	if (fd < 0)
		return -1;
	if (read(fd, line, sizeof(line) - 1) > 0)
		node = atoi(line);
	close(fd);
	return node;
}

/* How long the mapping that begins at `start` is. */
static size_t mapping_len(unsigned long start)
{
	unsigned long from, to;
	size_t len = 0;
	char line[400];
	FILE *f = fopen("/proc/self/maps", "re");

	CHECK(f != NULL, "/proc/self/maps: %s", strerror(errno));
	while (!len && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from == start)
			len = to - from;
	fclose(f);
	return len;
}

/* Bytes of mappings whose pages are to come from that node. */
static size_t bytes_of_node(int node)
{
	char line[400], policy[40], want[40];
	FILE *f = fopen("/proc/self/numa_maps", "re");
	unsigned long start;
	size_t bytes = 0;

	CHECK(f != NULL, "/proc/self/numa_maps: %s", strerror(errno));
	snprintf(want, sizeof(want), "prefer:%d", node);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx %39s", &start, policy) == 2 && !strcmp(policy, want))
			bytes += mapping_len(start);
	fclose(f);
	return bytes;
}

static void lie_on(char *p, size_t len, int node)
{
	for (size_t o = 0; o < len; o += PAGE) {
		void *page = p + o;
		int where = -1;

		CHECK_SYS(syscall(SYS_move_pages, 0, 1ul, &page, NULL, &where, 0));
		CHECK(where == node, "page %zu is on node %d, not on %d", o / PAGE, where, node);
	}
}

static void part_coherent(void)
{
	size_t len = opt.mb * MiB / 4 & ~(HUGE - 1), n = 0;
	struct tdm_device_ops ops = { .size = sizeof(ops), .name = "coherent" };
	struct tdm_device_options o = { .size = sizeof(o), .memory_bytes = len, .flags = TDM_DEVICE_COHERENT, .numa_node = some_node() };
	char *p;
	int r;

	/* With a budget that is not enough: a device's memory does not count. */
	engine_start(len / 2);
	r = tdm_device_attach(engine, &ops, &o, &dev);
	CHECK(r == 0, "tdm_device_attach: %d", r);
	if (o.numa_node >= 0)
		CHECK(bytes_of_node(o.numa_node) == len, "%zu bytes are of the node, of %zu", bytes_of_node(o.numa_node), len);
	p = region(len);
	for (size_t at = 0; at < len; at += HUGE) {
		size_t there = 0;

		/* Some may be evicted again before they go. */
		for (unsigned tries = 0; there < HUGE / PAGE; tries++) {
			CHECK(tries < 100, "%zu pages of %zu went to the device", there, HUGE / PAGE);
			CHECK(tdm_pagein(engine, p + at, HUGE) == 0, "tdm_pagein");
			there += migrate(dev, p + at, HUGE);
		}
	}
	for (uint64_t round = 1; round <= 3; round++) {
		sleep_ms(300);
		CHECK(stats_of(dev).memory_pages == len / PAGE, "%" PRIu64 " pages are there", stats_of(dev).memory_pages);
		CHECK(out_pages(p, len) == 0, "%zu pages are not mapped", out_pages(p, len));
		if (o.numa_node >= 0)
			lie_on(p, len, o.numa_node);
		check(p, len, NAME, round, "where they are");
		device_check(dev, p, len, NAME, round, "as the device sees it");
		device_fill(dev, p, len / 2, NAME, round + 1);
		fill(p + len / 2, len / 2, NAME + len / 2 / PAGE, round + 1);
	}
	CHECK(tdm_device_evict(dev, ~(size_t)0, &n) == 0 && n == len / PAGE, "tdm_device_evict: %zu", n);
	check(p, len, NAME, 4, "in ram");
	r = tdm_device_detach(dev);
	CHECK(r == 0, "tdm_device_detach: %d", r);
	dev = NULL;
	if (o.numa_node >= 0)
		CHECK(bytes_of_node(o.numa_node) == 0, "%zu bytes are still of the node", bytes_of_node(o.numa_node));
	munmap(p, len);
	engine_stop();
}

/* ---- what refuses --------------------------------------------------------------------------------------------------------------------------- */

static int ring_make(void)
{
	struct io_uring_params par = { 0 };

	return (int)syscall(SYS_io_uring_setup, 4, &par);
}

/* Pinned by the kernel: registered as a buffer with io_uring. */
static void pinned_by_the_kernel(char *p, size_t len)
{
	struct iovec iov = { p + 5 * PAGE, 3 * PAGE };
	int ring = ring_make();

	if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1) < 0) {
		fprintf(stderr, "devices: note: no io_uring here: %s\n", strerror(errno));
		if (ring >= 0)
			close(ring);
		return;
	}
	CHECK(migrate(dev, p, len) == len / PAGE - 3, "of %zu pages, 3 of them pinned, another number went", len / PAGE);
	CHECK(out_pages(iov.iov_base, iov.iov_len) == 0, "a page that the kernel has pinned has gone");
	CHECK(migrate(dev, p, len) == 0, "pages that the kernel has pinned went at the second try");
	check(iov.iov_base, iov.iov_len, NAME + 5, 1, "pinned by the kernel");
	/* The pin is still one of what is at the address: what is read into it arrives. */
	device_check(dev, p, len, NAME, 1, "around a page that the kernel has pinned");
	close(ring);
	for (uint64_t by = now_ns() + 10000000000u; out_pages(iov.iov_base, iov.iov_len) < 3; sleep_ms(10)) {
		CHECK(now_ns() < by, "still pinned when the ring has been closed for long");
		(void)migrate(dev, p, len);
	}
	check(p, len, NAME, 1, "after a pin of the kernel's");
}

struct pin {
	char *at;
	size_t pages, done;
	unsigned flags;
	uint64_t page[64];
	int result;
};

static void pin_fn(struct tdm_device_thread *t, void *arg)
{
	struct pin *p = arg;

	p->result = tdm_device_pin(t, p->at, p->pages, p->flags, p->page, &p->done);
}

static void unpin_fn(struct tdm_device_thread *t, void *arg)
{
	struct pin *p = arg;

	tdm_device_unpin(t, p->page, p->done);
}

static void pinned_by_us(char *p, size_t len)
{
	static const unsigned flags[] = { 0, TDM_PIN_WRITE, TDM_PIN_LONGTERM | TDM_PIN_WRITE };

	for (unsigned i = 0; i < 3; i++) {
		struct pin pin = { .at = p + 20 * PAGE, .pages = 2, .flags = flags[i] };
		size_t n;

		/* It comes back to be pinned. */
		migrate_all(dev, p, len, "before pins");
		CHECK(tdm_device_run(dev, pin_fn, &pin, NULL) == 0 && pin.result == 0 && pin.done == 2, "tdm_device_pin: %d, %zu pages", pin.result, pin.done);
		CHECK(out_pages(pin.at, 2 * PAGE) == 0, "a pinned page is out");
		n = migrate(dev, p, len);
		/* A pin keeps the 64 KiB around it. */
		CHECK(n <= 16 && out_pages(p, len) == len / PAGE - 16, "around a pin %zu pages stayed", len / PAGE - out_pages(p, len));
		check(pin.at, 2 * PAGE, NAME + 20, 1, "pinned");
		CHECK(tdm_device_run(dev, unpin_fn, &pin, NULL) == 0, "run");
		(void)migrate(dev, p, len);
		CHECK(out_pages(p, len) == len / PAGE, "unpinned pages stay");
		check(p, len, NAME, 1, "after pins");
	}
}

static void part_refused(void)
{
	size_t len = 64 * PAGE;
	char *p, *file;
	int fd;

	soft_start(4 * MiB, 2);
	p = region(len);
	pinned_by_the_kernel(p, len);
	pinned_by_us(p, len);
	/* Locked; and what is locked while it is there comes back. */
	migrate_all(dev, p, len, "before mlock");
	CHECK_SYS(mlock(p, len));
	CHECK(out_pages(p, len) == 0, "mlock() has returned, and %zu pages are out", out_pages(p, len));
	CHECK(migrate(dev, p, len) == 0, "locked pages went");
	check(p, len, NAME, 1, "locked");
	CHECK_SYS(munlock(p, len));
	/* Read-only, by the kernel's call alone: what is there stays there, and can be read. */
	CHECK_SYS(mprotect(p, len, PROT_READ));
	CHECK(migrate(dev, p, len) == 0, "read-only pages went");
	CHECK_SYS(mprotect(p, len, PROT_READ | PROT_WRITE));
	migrate_all(dev, p, len, "writable again");
	CHECK_SYS(mprotect(p, len, PROT_READ));
	check(p, len / 2, NAME, 1, "read-only since it is on the device");
	CHECK(tdm_device_evict(dev, 1000, NULL) == 0, "tdm_device_evict");
	check(p, len, NAME, 1, "read-only, evicted");
	CHECK_SYS(mprotect(p, len, PROT_READ | PROT_WRITE));
	fill(p, len, NAME, 1);
	/* Not anonymous. */
	fd = CHECK_SYS(memfd_create("file", MFD_CLOEXEC));
	CHECK_SYS(ftruncate(fd, 8 * PAGE));
	file = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fill(file, 8 * PAGE, NAME, 3);
	CHECK(migrate(dev, file, 8 * PAGE) == 0, "pages of a file went");
	device_check(dev, file, 8 * PAGE, NAME, 3, "a file, as the device sees it");
	device_fill(dev, file, 8 * PAGE, NAME, 4);
	check(file, 8 * PAGE, NAME, 4, "a file, written by the device");
	munmap(file, 8 * PAGE);
	close(fd);
	/* A range with holes in it, and nothing at all. */
	CHECK_SYS(munmap(p + 8 * PAGE, 8 * PAGE));
	migrate(dev, p, len);
	CHECK(out_pages(p, 8 * PAGE) == 8 && out_pages(p + 16 * PAGE, len - 16 * PAGE) == len / PAGE - 16, "around a hole");
	check(p, 8 * PAGE, NAME, 1, "before a hole");
	check(p + 16 * PAGE, len - 16 * PAGE, NAME + 16, 1, "behind a hole");
	munmap(p, len);
	CHECK(migrate(dev, p, len) == 0, "pages of nobody's went");
	soft_end();
	engine_stop();
}

/* ---- memory that is full, copies that fail ---------------------------------------------------------------------------------------------------- */

static void part_full(void)
{
	size_t len = 6 * MiB, n = 0;
	char *p;
	int r;

	soft_start(4 * MiB, 1);
	p = region(len);
	for (int round = 0; round < 3; round++) {
		r = tdm_device_migrate(dev, p, len, &n);
		CHECK(r == -ENOSPC && n == 4 * MiB / PAGE, "6 MiB to a device of 4: %d, %zu pages", r, n);
		CHECK(out_pages(p, len) >= n && stats_of(dev).memory_pages == n, "%zu pages are out", out_pages(p, len));
		r = tdm_device_migrate(dev, p, len, &n);
		CHECK(r == -ENOSPC && n == 0, "to a device that is full: %d, %zu pages", r, n);
		/* Room for what is asked for. */
		CHECK(tdm_device_evict(dev, 64, &n) == 0 && n == 64, "evict");
		r = tdm_device_migrate(dev, p, len, &n);
		CHECK(r == -ENOSPC && n == 64, "with room for 64 pages: %d, %zu pages", r, n);
		device_check(dev, p, len, NAME, 1, "on a device that is full");
		check(p, len, NAME, 1, "back from a device that is full");
	}
	munmap(p, len);
	soft_end();
	engine_stop();
}

static void set_failing(struct own *o, bool in, bool out, bool wait, uint64_t from, uint64_t to)
{
	o->fail_in = in;
	o->fail_out = out;
	o->fail_wait = wait;
	o->copies = 0;
	o->fail_from = from;
	o->fail_to = to;
}

static void part_copies_fail(void)
{
	struct own *o = own_make(4 * MiB);
	size_t len = 40 * PAGE;
	unsigned failed = 0;
	char *p;

	own_attach(o, 2);
	p = region(len);
	for (unsigned how = 0; how < 2; how++) /* the copy says so, or the wait for it */
		for (uint64_t nth = 0; nth < (quick() ? 8 : 50); nth++) {
			size_t n = 0;
			int r;

			/* The nth from now on, for good. */
			set_failing(o, !how, false, how, nth, ~0ull);
			r = tdm_device_migrate(o->dev, p + PAGE, len - PAGE, &n);
			CHECK(r == 0 || r == (how ? -EREMOTEIO : -EIO), "the error of a copy is %d", r);
			CHECK(r || n == len / PAGE - 1, "no error, and %zu pages went", n);
			failed += r != 0;
			set_failing(o, false, false, false, 0, 0);
			CHECK(stats_of(o->dev).memory_pages == n && own_used(o) == n, "%zu pages went, %" PRIu64 " frames are used", n, own_used(o));
			device_check(o->dev, p, len, NAME, 1, "a copy there failed: as the device sees it");
			check(p, len, NAME, 1, "a copy there failed");
		}
	for (unsigned how = 0; how < 2; how++)
		for (uint64_t nth = 0; nth < (quick() ? 5 : 20); nth++) {
			size_t n = 0, left;
			int r;

			migrate_all(o->dev, p, len, "before a copy back fails");
			set_failing(o, false, !how, how, nth, ~0ull);
			r = nth % 2 ? tdm_device_evict(o->dev, ~(size_t)0, &n) : tdm_pagein(engine, p, len);
			CHECK(r == 0 || r == (how ? -EREMOTEIO : -EIO), "the error of a copy back is %d", r);
			left = stats_of(o->dev).memory_pages;
			failed += r != 0;
			/* Detach is refused: what is there stays there. */
			if (left)
				CHECK((r = tdm_device_detach(o->dev)) < 0, "detached with pages that cannot come back: %d", r);
			CHECK(stats_of(o->dev).memory_pages == left, "a detach that was refused has lost pages");
			set_failing(o, false, false, false, 0, 0);
			CHECK(own_used(o) == left, "%zu pages are there, %" PRIu64 " frames are used", left, own_used(o));
			device_check(o->dev, p, len, NAME, 1, "a copy back failed: as the device sees it");
			check(p, len, NAME, 1, "a copy back failed");
		}
	/* Once: a touch tries again. */
	for (uint64_t nth = 0; nth < 3; nth++) {
		migrate_all(o->dev, p, len, "before a touch");
		set_failing(o, false, true, false, nth, nth + 2);
		check(p, len, NAME, 1, "a copy failed under a touch");
		set_failing(o, false, false, false, 0, 0);
	}
	CHECK(failed > 10, "only %u calls failed", failed);
	munmap(p, len);
	own_detach(o, "copies that fail");
	engine_stop();
	own_drop(o);
}

/* For good: what touches the page gets SIGBUS, as if a disk had failed. The other pages are not harmed. */
static void part_lost(void)
{
	pid_t pid = fork();
	int st;

	if (!pid) {
		struct own *o = own_make(4 * MiB);
		char *p;

		own_attach(o, 1);
		p = region(64 * PAGE);
		migrate_all(o->dev, p, 64 * PAGE, "before the device dies");
		check(p, 16 * PAGE, NAME, 1, "before the device dies");
		set_failing(o, false, true, false, 0, ~0ull);
		check(p, 16 * PAGE, NAME, 1, "after the device died");
		*(volatile char *)(p + 50 * PAGE) = 1;
		_exit(0);
	}
	waitpid(pid, &st, 0);
	if (WIFEXITED(st) && WEXITSTATUS(st) == CANNOT)
		exit(CANNOT);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGBUS, "a page of a device that has died was touched: status %#x", st);
}

/* ---- coming and going ------------------------------------------------------------------------------------------------------------------------- */

static void sleep_fn(struct tdm_device_thread *t, void *arg)
{
	_Atomic int *go = arg;

	(void)t;
	*go = 1;
	while (*go != 2)
		;
}

static void part_detach(void)
{
	struct tdm_soft *second;
	struct tdm_soft_options so = { .size = sizeof(so), .memory_bytes = 4 * MiB };
	size_t len = 256 * PAGE, n;
	struct tdm_device_run *run;
	struct tdm_device *old;
	_Atomic int go = 0;
	char *p;
	int r;

	soft_start(4 * MiB, 2);
	p = region(len);
	for (unsigned i = 0; i < 20; i++) {
		/* With pages there, of both. */
		CHECK((r = tdm_soft_create(engine, &so, &second)) == 0, "tdm_soft_create: %d", r);
		migrate_all(dev, p, len / 2, "first");
		migrate_all(tdm_soft_device(second), p + len / 2, len / 2, "second");
		/* One reads what the other has: it comes home for it. */
		device_check(dev, p + len / 2, PAGE, NAME + len / 2 / PAGE, 1, "another device's");
		device_check(tdm_soft_device(second), p, PAGE, NAME, 1, "another device's");
		CHECK((r = tdm_stop(engine)) == -EBUSY, "tdm_stop with devices: %d", r);
		old = tdm_soft_device(second);
		CHECK((r = tdm_soft_destroy(second)) == 0, "tdm_soft_destroy: %d", r);
		CHECK((r = tdm_device_detach(old)) == -EINVAL, "detached twice: %d", r);
		CHECK((r = tdm_device_run(old, sleep_fn, &go, NULL)) == -ENODEV, "run after detach: %d", r);
		CHECK((r = tdm_device_migrate(old, p, PAGE, &n)) == -ENODEV, "migrate after detach: %d", r);
		check(p, len, NAME, 1, "detached with pages there");
	}
	CHECK(tdm_device_run(dev, sleep_fn, (void *)&go, &run) == 0, "tdm_device_run");
	while (!go)
		sleep_ms(1);
	CHECK((r = tdm_soft_destroy(soft)) == -EBUSY, "detached while it runs: %d", r);
	go = 2;
	CHECK((r = tdm_device_wait(dev, run)) == 0, "tdm_device_wait: %d", r);
	munmap(p, len);
	soft_end();
	engine_stop();
}

/* As many as there may be, and one. */
static void part_many(void)
{
	struct tdm_soft *s[9] = { NULL };
	struct tdm_soft_options so = { .size = sizeof(so), .memory_bytes = 2 * MiB, .threads = 2 };
	size_t len = 128 * PAGE;
	char *p;
	int r;

	engine_start(0);
	p = region(8 * len);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++) {
			CHECK((r = tdm_soft_create(engine, &so, &s[i])) == 0, "device %d: %d", i, r);
			migrate_all(tdm_soft_device(s[i]), p + (size_t)i * len, len, "of eight devices");
		}
		CHECK((r = tdm_soft_create(engine, &so, &s[8])) == -ENOSPC, "a ninth device: %d", r);
		for (int i = 0; i < 8; i++)
			device_check(tdm_soft_device(s[(i + 1) % 8]), p + (size_t)i * len, len / 4, NAME + (size_t)i * len / PAGE, 1, "another device's");
		for (int i = 0; i < 8; i++)
			CHECK((r = tdm_soft_destroy(s[i])) == 0, "tdm_soft_destroy: %d", r);
		check(p, 8 * len, NAME, 1, "eight devices");
	}
	munmap(p, 8 * len);
	engine_stop();
}

/* A page that is not pinned is a mistake that ends the process. */
static void part_unpin(void)
{
	pid_t pid = fork();
	int st;

	if (!pid) {
		struct rlimit none = { 0, 0 };
		struct pin pin = { .pages = 1 };
		int null = open("/dev/null", O_WRONLY);

		setrlimit(RLIMIT_CORE, &none);
		soft_start(2 * MiB, 1);
		pin.at = region(16 * PAGE);
		tdm_device_run(dev, pin_fn, &pin, NULL);
		CHECK(pin.result == 0, "tdm_device_pin: %d", pin.result);
		tdm_device_run(dev, unpin_fn, &pin, NULL);
		dup2(null, 2);
		tdm_device_run(dev, unpin_fn, &pin, NULL);
		_exit(0);
	}
	waitpid(pid, &st, 0);
	if (WIFEXITED(st) && WEXITSTATUS(st) == CANNOT)
		exit(CANNOT);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGABRT, "unpinned twice: status %#x", st);
}

/* ---- beside a budget -------------------------------------------------------------------------------------------------------------------------- */

static void part_budget(void)
{
	size_t len = opt.mb * MiB, on = len / 4, n = 0;
	uint64_t budget = len / 4;
	struct tdm_stats s = { .size = sizeof(s) };
	size_t most;
	char *p;

	engine_start(budget);
	most = 0;
	/* Of it a quarter fits into ram; as much onto the device, whose memory does not count; the rest goes to a tier. */
	soft_start(on, 2);
	p = anon(len);
	CHECK_SYS(madvise(p, len, MADV_NOHUGEPAGE));
	for (size_t o = 0; o < len; o += MiB) {
		fill(p + o, MiB, NAME + o / PAGE, 1);
		CHECK(tdm_pagein(engine, p + o, PAGE) == 0, "tdm_pagein"); /* so that it looks */
		if (o < on) {
			(void)tdm_device_migrate(dev, p + o, MiB, &n);
		}
		n = resident();
		most = n > most ? n : most;
	}
	CHECK(tdm_stats_get(engine, &s) == 0, "tdm_stats_get");
	CHECK(stats_of(dev).memory_pages >= on / PAGE * 9 / 10, "only %" PRIu64 " pages went to the device", stats_of(dev).memory_pages);
	CHECK(s.out_bytes > len / 4, "only %" PRIu64 " bytes are in a tier", s.out_bytes);
	/* The device's memory is all there all the time, in the kernel's eyes. */
	CHECK(most < budget + on + budget / 8 + 8 * MiB, "%zu MiB were resident, of them %zu the device's, with a budget of %" PRIu64, most / MiB, on / MiB, budget / MiB);
	CHECK(s.usage_bytes < budget + budget / 16 + 4 * MiB, "%" PRIu64 " bytes are used of %" PRIu64, s.usage_bytes, budget);
	for (unsigned round = 0; round < (quick() ? 1 : 4); round++) {
		check(p, len, NAME, round + 1, "device and budget");
		for (size_t o = 0; o < len; o += 2 * MiB)
			(void)tdm_device_migrate(dev, p + o, MiB, &n);
		device_check(dev, p, len, NAME, round + 1, "device and budget, as the device sees it");
		for (size_t o = 0; o < len; o += PAGE)
			page_gen(p + o, NAME + o / PAGE, round + 2);
		n = resident();
		most = n > most ? n : most;
	}
	CHECK(most < budget + on + budget / 8 + 8 * MiB, "%zu MiB were resident, of them %zu the device's, with a budget of %" PRIu64, most / MiB, on / MiB, budget / MiB);
	munmap(p, len);
	soft_end();
	engine_stop();
}

/* ---- a callback that hangs -------------------------------------------------------------------------------------------------------------------- */

static void slow_add(void *p, void *arg)
{
	(void)p;
	hang(*(uint32_t *)arg);
}

static void atomic_fn(struct tdm_device_thread *t, void *arg)
{
	static uint32_t ms = 2500;

	(void)tdm_device_atomic(t, arg, 8, slow_add, &ms);
}

/* What is said on stderr meanwhile. */
static void touch_and_hear(char *p, const char *want)
{
	char text[400] = "";
	int fds[2], was = dup(2);
	ssize_t n;

	CHECK_SYS(pipe(fds));
	fflush(stderr);
	dup2(fds[1], 2);
	check(p, 32 * PAGE, NAME, 1, "touched while a callback hangs");
	dup2(was, 2);
	close(fds[1]);
	n = read(fds[0], text, sizeof(text) - 1);
	CHECK(n > 0 && strstr(text, "molasses") && strstr(text, want), "nobody said who hangs in %s: %s", want, text);
	CHECK(strchr(text, '\n') == text + n - 1, "it was said more than once: %s", text);
	close(fds[0]);
	close(was);
}

static void part_hangs(void)
{
	struct own *o = own_make(2 * MiB);
	struct tdm_device_run *run;
	char *p;

	own_attach_as(o, "molasses", 2, 0, 200);
	p = region(32 * PAGE);
	for (unsigned how = 0; how < 3; how++) {
		migrate_all(o->dev, p, 32 * PAGE, "before it hangs");
		device_check(o->dev, p, 32 * PAGE, NAME, 1, "before it hangs");
		if (how == 0)
			o->hang_ms = 2500;
		else if (how == 1)
			o->hang_copy_ms = 2500;
		else
			CHECK(tdm_device_run(o->dev, atomic_fn, p + 8, &run) == 0, "tdm_device_run");
		sleep_ms(how == 2 ? 50 : 0);
		touch_and_hear(p, how == 0 ? "invalidated" : how == 1 ? "copy_out" : "let go");
	}
	CHECK(tdm_device_wait(o->dev, run) == 0, "tdm_device_wait");
	munmap(p, 32 * PAGE);
	own_detach(o, "a callback that hangs");
	engine_stop();
	own_drop(o);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "coherent", part_coherent }, { "lost", part_lost }, { "unpin", part_unpin }, { "there-and-back", part_there_and_back }, { "kept", part_kept }, { "refused", part_refused }, { "full", part_full },
		{ "copies-fail", part_copies_fail }, { "detach", part_detach }, { "many", part_many }, { "budget", part_budget }, { "hangs", part_hangs },
	};

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
