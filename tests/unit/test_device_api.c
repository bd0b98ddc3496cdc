/* SPDX-License-Identifier: MIT */
/*
 * Each error that <tandem/device.h> and <tandem/soft.h> name, and what is a caller's mistake. Coherent memory is in test_device_api_node.c, what several processes
 * share in test_device_api_share.c.
 *
 * The library is compiled into this program with its system calls behind tdmi_inject(), so that threads can be refused. What devices do is tested by
 * tests/live/prog/dev*.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/wait.h>
#include <unistd.h>
#include "device_api_world.h"
#include "plat/linux/sys.h"

/* ---- attaching ------------------------------------------------------------------------------------------------------------------------ */

TEST(attach_options)
{
	static const struct {
		size_t offset, width;
		u64 value;
		bool ops;
	} bad[] = {
#define OPS(field, v) { offsetof(struct tdm_device_ops, field), sizeof(((struct tdm_device_ops *)0)->field), v, true }
#define OPT(field, v) { offsetof(struct tdm_device_options, field), sizeof(((struct tdm_device_options *)0)->field), v, false }
		OPS(size, sizeof(struct tdm_device_ops) - 8), OPS(size, 0), OPS(name, 0), OPS(copy_in, 0), OPS(copy_out, 0), OPS(address, 0),
		OPT(size, 0), OPT(size, sizeof(struct tdm_device_options) + 8), OPT(memory_bytes, 0), OPT(memory_bytes, 4096), OPT(memory_bytes, 3 * MIB),
		OPT(memory_bytes, (u64)1 << 45), OPT(page_sizes, 65536), OPT(page_sizes, 4096 | 8192), OPT(threads, 17), OPT(flags, 8), OPT(flags, 16), OPT(flags, 1u << 31),
	};

	begin_engine();
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct tdm_device_ops ops = good_ops;
		struct tdm_device_options o = good_options;

		memcpy((char *)(bad[i].ops ? (void *)&ops : (void *)&o) + bad[i].offset, &bad[i].value, bad[i].width);
		if (tdm_device_attach(engine, &ops, &o, &dev) != -EINVAL)
			t_fail(__FILE__, __LINE__, "mistake %zu is not -EINVAL", i);
	}
	CHECK_EQ(tdm_device_attach(NULL, &good_ops, &good_options, &dev), -EINVAL);
	CHECK_EQ(tdm_device_attach(engine, NULL, &good_options, &dev), -EINVAL);
	CHECK_EQ(tdm_device_attach(engine, &good_ops, NULL, &dev), -EINVAL);
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &good_options, NULL), -EINVAL);
	end_engine();
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &good_options, &dev), -EINVAL);
}

/* A thread is refused, each that attaching makes: nothing is left of it. */
TEST(attach_without_threads, .seconds = 60)
{
	struct tdm_device_ops ops = { .size = sizeof(ops), .name = "none" };
	struct tdm_device_options o = { .size = sizeof(o), .threads = 3 };
	u32 failed = 0;
	int r = -EAGAIN;

	begin_engine();
	for (u32 n = 1; r; n++) {
		tdm_a32_st_release(&refuse, n);
		r = tdm_device_attach(engine, &ops, &o, &dev);
		tdm_a32_st_release(&refuse, 0);
		CHECK(r == 0 || r == -EAGAIN);
		failed += r != 0;
		CHECK(n < 100);
	}
	CHECK_EQ(failed, 4);
	CHECK_EQ(tdm_device_detach(dev), 0);
	end_engine();
}

static void noop(struct tdm_device_thread *t, void *arg)
{
	(void)t;
	(void)arg;
}

TEST(detach)
{
	static const int errors[] = { -EIO, -ENODEV, -ENOMEM };

	begin_own();
	CHECK_EQ(tdm_device_detach(NULL), -EINVAL);
	CHECK_EQ(tdm_stop(engine), -EBUSY);
	for (int i = 0; i < 3; i++) {
		size_t n;

		CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), 0);
		CHECK_EQ(n, LEN / PAGE);
		own_error = errors[i];
		CHECK_EQ(tdm_device_detach(dev), errors[i]);
		CHECK_EQ(tdm_device_evict(dev, 1, &n), errors[i]);
		CHECK_EQ(n, 0);
		CHECK_EQ(tdm_pagein(engine, mem, LEN), errors[i]);
		own_error = 0;
		CHECK_EQ(tdm_pagein(engine, mem, LEN), 0);
		own_error = errors[i];
		CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), errors[i]);
		CHECK_EQ(n, 0);
		own_error = 0;
	}
	CHECK_EQ(tdm_device_detach(dev), 0);
	CHECK_EQ(tdm_device_detach(dev), -EINVAL);
	CHECK_EQ(tdm_device_run(dev, noop, NULL, NULL), -ENODEV);
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &good_options, &dev), 0);
	end_own();
	/* Of an engine that is not there any more. */
	CHECK_EQ(tdm_device_detach(dev), -EINVAL);
	CHECK_EQ(tdm_device_run(dev, noop, NULL, NULL), -ENODEV);
	CHECK_EQ(tdm_device_evict(dev, 1, NULL), -ENODEV);
}

/* ---- the program's threads --------------------------------------------------------------------------------------------------------------- */

TEST(ranges)
{
	const struct {
		char *addr;
		size_t len;
	} bad[] = { { mem + 1, PAGE }, { (char *)PAGE, PAGE - 1 }, { (char *)PAGE, 0 }, { (char *)PAGE, 1 }, { (char *)-PAGE, 2 * PAGE }, { (char *)PAGE, -PAGE } };
	struct tdm_device_stats s = { .size = sizeof(s) - 1 };
	size_t n = 7;

	begin();
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CHECK_EQ(tdm_device_migrate(dev, bad[i].addr, bad[i].len, &n), -EINVAL);
		CHECK_EQ(tdm_device_exclusive(dev, bad[i].addr, bad[i].len, &n), -EINVAL);
	}
	CHECK_EQ(tdm_device_migrate(NULL, mem, LEN, &n), -EINVAL);
	CHECK_EQ(tdm_device_exclusive(NULL, mem, LEN, &n), -EINVAL);
	CHECK_EQ(tdm_device_evict(NULL, 1, &n), -EINVAL);
	CHECK_EQ(tdm_device_stats_get(dev, &s), -EINVAL);
	CHECK_EQ(tdm_device_stats_get(dev, NULL), -EINVAL);
	s.size = sizeof(s);
	CHECK_EQ(tdm_device_stats_get(NULL, &s), -EINVAL);
	CHECK_EQ(tdm_device_run(NULL, NULL, NULL, NULL), -EINVAL);
	CHECK_EQ(tdm_device_run(dev, NULL, NULL, NULL), -EINVAL);
	CHECK_EQ(tdm_device_wait(dev, NULL), -EINVAL);
	CHECK_EQ(tdm_device_fault(dev, mem, PAGE, 0, NULL), -EINVAL); /* it has no such op */
	CHECK_EQ(tdm_device_fault(NULL, mem, PAGE, 0, NULL), -EINVAL);
	/* No counter wanted. Beyond all addresses there is nothing. */
	CHECK_EQ(tdm_device_migrate(dev, mem, LEN, NULL), 0);
	CHECK_EQ(tdm_device_evict(dev, 1000, NULL), 0);
	CHECK_EQ(tdm_device_migrate(dev, (char *)((u64)1 << 50), LEN, &n), 0);
	CHECK_EQ(n, 0);
	end();
}

TEST(without_memory)
{
	struct tdm_device_ops ops = { .size = sizeof(ops), .name = "a name that is longer than a thread's" };
	struct tdm_device_options o = { .size = sizeof(o) };
	size_t n;

	begin_engine();
	CHECK_EQ(tdm_device_attach(engine, &ops, &o, &dev), 0);
	CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), -EOPNOTSUPP);
	CHECK_EQ(tdm_device_evict(dev, 1, &n), -EOPNOTSUPP);
	CHECK_EQ(tdm_device_exclusive(dev, mem, LEN, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	CHECK_EQ(mem[5 * PAGE], 1);
	CHECK_EQ(tdm_device_detach(dev), 0);
	end_engine();
}

TEST(memory_that_is_full)
{
	char *big = NULL;
	size_t n;

	begin();
	big = map(3 * MIB);
	CHECK_EQ(tdm_device_migrate(dev, big, 3 * MIB, &n), -ENOSPC);
	CHECK(n > 2 * MIB / PAGE - 16); /* what is left is less than a block */
	unmap(big, 3 * MIB);
	end();
}

TEST(exclusive)
{
	struct tdm_device_stats s = { .size = sizeof(s) };
	char *page;
	size_t n;

	begin();
	CHECK_EQ(tdm_device_exclusive(dev, mem - PAGE, PAGE, &n), -EFAULT);
	CHECK(!mprotect(mem, PAGE, PROT_READ));
	CHECK_EQ(tdm_device_exclusive(dev, mem, PAGE, &n), -EPERM);
	CHECK(!mprotect(mem, PAGE, PROT_READ | PROT_WRITE));
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK_EQ(tdm_device_exclusive(dev, page, PAGE, &n), -EOPNOTSUPP);
	CHECK(!munmap(page, PAGE));
	CHECK_EQ(tdm_device_exclusive(dev, page, PAGE, &n), -EFAULT);
	page = map(PAGE);
	CHECK_EQ(tdm_exclude(engine, page, PAGE), 0);
	CHECK_EQ(tdm_device_exclusive(dev, page, PAGE, &n), -EOPNOTSUPP);
	unmap(page, PAGE);
	CHECK_EQ(tdm_device_exclusive(dev, mem, LEN, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	CHECK_EQ(tdm_device_stats_get(dev, &s), 0);
	CHECK_EQ(s.memory_pages, 0);
	end();
}

TEST(protect)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	char *file;

	begin();
	CHECK_EQ(tdm_mprotect(engine, mem + 1, PAGE, PROT_READ), -EINVAL);
	CHECK_EQ(tdm_mprotect(NULL, mem, PAGE, PROT_READ), -EINVAL);
	CHECK_EQ(tdm_mprotect(engine, mem, -PAGE, PROT_READ), -EINVAL);
	CHECK_EQ(tdm_mprotect(engine, mem, PAGE, 1 << 20), -EINVAL);
	CHECK_EQ(tdm_mprotect(engine, mem, 0, PROT_READ), 0);
	file = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK_EQ(tdm_mprotect(engine, file, PAGE, PROT_READ | PROT_WRITE), -EACCES);
	CHECK(!munmap(file, PAGE));
	CHECK_EQ(tdm_mprotect(engine, file, PAGE, PROT_READ), -ENOMEM);
	close(fd);
	CHECK_EQ(tdm_mprotect(engine, mem, 1, PROT_READ), 0);
	CHECK_EQ(tdm_mprotect(engine, mem, PAGE, PROT_READ | PROT_WRITE), 0);
	mem[0] = 2;
	end();
}

/* ---- the device's threads ------------------------------------------------------------------------------------------------------------------- */

enum call { READ, WRITE, ATOMIC, PREFAULT, PREFAULT_WRITE, PIN, PIN_WRITE, PIN_ODD };

struct call_of {
	enum call call;
	char *at;
	size_t len;
	int result;
};

static void nothing(void *p, void *arg)
{
	(void)p;
	(void)arg;
}

static char buf[8 * 4096];

static void do_call(struct tdm_device_thread *t, void *arg)
{
	struct call_of *c = arg;
	uint64_t page[8];
	size_t done = 0;

	switch (c->call) {
	case READ:
		c->result = tdm_device_read(t, c->at, buf, c->len);
		break;
	case WRITE:
		memset(buf, 1, sizeof(buf));
		c->result = tdm_device_write(t, c->at, buf, c->len);
		break;
	case ATOMIC:
		c->result = tdm_device_atomic(t, c->at, c->len, nothing, NULL);
		break;
	case PREFAULT:
	case PREFAULT_WRITE:
		c->result = tdm_device_prefault(t, c->at, c->len, c->call == PREFAULT_WRITE);
		break;
	default:
		c->result = tdm_device_pin(t, c->at, c->len / 4096, c->call == PIN ? 0 : c->call == PIN_WRITE ? TDM_PIN_WRITE | TDM_PIN_LONGTERM : 16, page, &done);
		if (done)
			tdm_device_unpin(t, page, done);
	}
}

static int call(enum call which, char *at, size_t len)
{
	struct call_of c = { which, at, len, 4711 };

	CHECK_EQ(tdm_device_run(dev, do_call, &c, NULL), 0);
	return c.result;
}

TEST(calls)
{
	enum { READABLE = 1, READONLY, NO_RIGHTS, HOLE, KERNEL, EDGE, SHARED, WRAPS, NULLP };
	/* What each gives, by call; 1: not tried. */
	static const struct {
		int where;
		int want[8];
	} table[] = {
		/*             read     write    atomic        prefault  for writing  pin           pin to write  with odd flags */
		{ READABLE,  { 0,       0,       0,            0,        0,           0,            0,            -EINVAL } },
		{ READONLY,  { 0,       -EPERM,  -EPERM,       0,        -EPERM,      0,            -EFAULT,      -EINVAL } },
		{ NO_RIGHTS, { -EFAULT, -EFAULT, -EFAULT,      -EFAULT,  -EFAULT,     -EFAULT,      -EFAULT,      -EINVAL } },
		{ HOLE,      { -EFAULT, -EFAULT, -EFAULT,      -EFAULT,  -EFAULT,     -EFAULT,      -EFAULT,      -EINVAL } },
		{ KERNEL,    { -EFAULT, -EFAULT, -EINVAL,      1,        1,           -EINVAL,      -EINVAL,      -EINVAL } },
		{ EDGE,      { -EFAULT, -EFAULT, 1,            -EFAULT,  -EFAULT,     -EFAULT,      -EFAULT,      -EINVAL } },
		{ SHARED,    { 0,       0,       -EOPNOTSUPP,  0,        0,           -EOPNOTSUPP,  -EOPNOTSUPP,  -EINVAL } },
		{ NULLP,     { -EFAULT, -EFAULT, -EFAULT,      -EFAULT,  -EFAULT,     -EFAULT,      -EFAULT,      -EINVAL } },
	};
	char *shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	begin();
	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		for (int c = 0; c < 8; c++) {
			int w = table[i].where, r;
			char *at = w == HOLE ? mem + 8 * PAGE : w == KERNEL ? (char *)0xffff800000000000 : w == SHARED ? shared : w == NULLP ? NULL : mem;
			size_t len = w == EDGE ? 2 * PAGE : c == ATOMIC ? 8 : PAGE;

			if (table[i].want[c] > 0)
				continue;
			CHECK(!mprotect(mem, LEN, PROT_READ | PROT_WRITE));
			if (w == READONLY || w == NO_RIGHTS)
				CHECK_EQ(tdm_mprotect(engine, mem, LEN, w == READONLY ? PROT_READ : PROT_NONE), 0);
			if (w == HOLE || w == EDGE)
				CHECK(!munmap(mem + (w == HOLE ? 8 : 1) * PAGE, PAGE));
			r = call((enum call)c, at, len);
			if (r != table[i].want[c])
				t_fail(__FILE__, __LINE__, "row %zu, call %d: %d is not %d", i, c, r, table[i].want[c]);
			if (w == HOLE || w == EDGE)
				CHECK(mmap(mem + (w == HOLE ? 8 : 1) * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
		}
	CHECK(!mprotect(mem, LEN, PROT_READ | PROT_WRITE));
	/* Of an atomic, a prefault and a pin alone. */
	CHECK_EQ(call(ATOMIC, mem + PAGE - 4, 8), -EINVAL);
	CHECK_EQ(call(ATOMIC, mem, 0), -EINVAL);
	CHECK_EQ(call(ATOMIC, mem, PAGE + 1), -EINVAL);
	CHECK_EQ(call(ATOMIC, mem, PAGE), 0);
	CHECK_EQ(call(PREFAULT, mem, 0), -EINVAL);
	CHECK_EQ(call(PREFAULT, (char *)-PAGE, 2 * PAGE), -EINVAL);
	CHECK_EQ(call(PREFAULT, mem + 5, LEN - 10), 0);
	CHECK_EQ(call(PIN, mem + 1, PAGE), -EINVAL);
	CHECK_EQ(call(PIN, mem, 0), -EINVAL);
	CHECK_EQ(call(READ, mem, 0), 0);
	CHECK_EQ(call(WRITE, mem, 0), 0);
	CHECK(!munmap(shared, 4 * PAGE));
	end();
}

/* ---- pins ------------------------------------------------------------------------------------------------------------------------------------- */

struct pins {
	uint64_t page[1];
	u32 n;
	int result;
	size_t pages; /* that have become exclusive meanwhile */
	int atomic;
};

static void pin_many(struct tdm_device_thread *t, void *arg)
{
	struct pins *p = arg;
	size_t done;

	for (p->n = 0; p->n < 1 << 20; p->n++) {
		p->result = tdm_device_pin(t, mem, 1, 0, p->page, &done);
		if (p->result)
			break;
	}
	p->atomic = tdm_device_atomic(t, mem, 8, nothing, NULL);
	for (u32 i = 0; i < p->n; i++)
		tdm_device_unpin(t, p->page, 1);
}

TEST(too_many_pins)
{
	struct pins p = { .n = 0 };

	begin();
	CHECK_EQ(tdm_device_run(dev, pin_many, &p, NULL), 0);
	CHECK_EQ(p.result, -EBUSY);
	CHECK(p.n >= 1000);
	CHECK_EQ(p.atomic, -EBUSY); /* nobody can be shut out of a page that is pinned */
	CHECK_EQ(call(ATOMIC, mem, 8), 0);
	end();
}

static void unpin_it(struct tdm_device_thread *t, void *arg)
{
	uint64_t page[1];
	size_t done;

	(void)arg;
	(void)tdm_device_pin(t, mem, 1, 0, page, &done);
	tdm_device_unpin(t, page, 1);
	tdm_device_unpin(t, page, 1);
}

TEST_DIES(a_page_that_is_not_pinned, "bug")
{
	begin();
	(void)tdm_device_run(dev, unpin_it, NULL, NULL);
}

/* ---- faults by hardware ------------------------------------------------------------------------------------------------------------------------- */

TEST(faults)
{
	u32 seen = 0;

	begin_own();
	const struct {
		char *at;
		size_t len;
		int write, want;
	} f[] = { { mem, PAGE, 0, 0 }, { mem, LEN, 1, 0 }, { mem - PAGE, PAGE, 0, EFAULT }, { mem, LEN + PAGE, 1, EFAULT } };

	CHECK_EQ(tdm_device_fault(dev, mem, 0, 0, &own_error), -EINVAL);
	for (size_t i = 0; i < sizeof(f) / sizeof(*f); i++) {
		CHECK_EQ(tdm_device_fault(dev, f[i].at, f[i].len, f[i].write, &own_error), 0);
		while (tdm_a32_ld_acquire(&faults_done) == seen)
			usleep(100);
		seen++;
		CHECK_EQ(tdm_a32_ld_acquire(&fault_results), f[i].want);
	}
	CHECK(!mprotect(mem, LEN, PROT_READ));
	CHECK_EQ(tdm_device_fault(dev, mem, PAGE, 1, &own_error), 0);
	while (tdm_a32_ld_acquire(&faults_done) == seen)
		usleep(100);
	CHECK(!mprotect(mem, LEN, PROT_READ | PROT_WRITE));
	/* It was mapped for writing before, and mprotect(2) says nothing. */
	CHECK(tdm_a32_ld_acquire(&fault_results) == 0 || tdm_a32_ld_acquire(&fault_results) == EPERM);
	/* Its last job is not over when it has called: then it is busy. */
	while (tdm_device_detach(dev) == -EBUSY)
		usleep(100);
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &good_options, &dev), 0);
	end_own();
}

/* ---- the soft device ------------------------------------------------------------------------------------------------------------------------------ */

static void count(struct tdm_device_thread *t, void *arg, size_t i)
{
	(void)t;
	tdm_a32_add_acqrel((tdm_a32 *)arg, (u32)i);
}

TEST(soft_options)
{
	static const struct tdm_soft_options bad[] = {
		{ .size = 0, .memory_bytes = 2 * MIB }, { .size = sizeof(bad[0]), .memory_bytes = 0 }, { .size = sizeof(bad[0]), .memory_bytes = MIB },
		{ .size = sizeof(bad[0]), .memory_bytes = 2 * MIB + 1 }, { .size = sizeof(bad[0]), .memory_bytes = 2 * MIB, .threads = 17 },
		{ .size = sizeof(bad[0]), .memory_bytes = 2 * MIB, .flags = TDM_DEVICE_SLOW }, { .size = sizeof(bad[0]), .memory_bytes = 2 * MIB, .flags = 64 },
	};
	struct tdm_soft_options o = { .size = sizeof(o), .memory_bytes = 2 * MIB, .threads = 16 };
	struct tdm_soft *s[8];
	tdm_a32 sum = { 0 };

	begin_engine();
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		if (tdm_soft_create(engine, &bad[i], &soft) != -EINVAL)
			t_fail(__FILE__, __LINE__, "mistake %zu is not -EINVAL", i);
	CHECK_EQ(tdm_soft_create(NULL, &o, &soft), -EINVAL);
	CHECK_EQ(tdm_soft_create(engine, NULL, &soft), -EINVAL);
	CHECK_EQ(tdm_soft_create(engine, &o, NULL), -EINVAL);
	CHECK_EQ(tdm_soft_destroy(NULL), -EINVAL);
	CHECK_EQ(tdm_soft_create(engine, &o, &s[0]), 0);
	CHECK_EQ(tdm_soft_launch(NULL, count, &sum, 10), -EINVAL);
	CHECK_EQ(tdm_soft_launch(s[0], NULL, &sum, 10), -EINVAL);
	CHECK_EQ(tdm_soft_launch(s[0], count, &sum, 0), 0);
	CHECK_EQ(tdm_soft_launch(s[0], count, &sum, 101), 0);
	CHECK_EQ(tdm_a32_ld_acquire(&sum), 5050);
	CHECK_EQ(tdm_soft_destroy(s[0]), 0);
	o.threads = 1;
	for (int i = 0; i < 8; i++)
		CHECK_EQ(tdm_soft_create(engine, &o, &s[i]), 0);
	CHECK_EQ(tdm_soft_create(engine, &o, &soft), -ENOSPC);
	for (int i = 0; i < 8; i++)
		CHECK_EQ(tdm_soft_destroy(s[i]), 0);
	o.memory_bytes = (u64)1 << 46;
	CHECK_EQ(tdm_soft_create(engine, &o, &soft), -ENOMEM);
	end_engine();
	CHECK_EQ(tdm_soft_create(engine, &o, &soft), -EINVAL);
}

/* ---- a child ------------------------------------------------------------------------------------------------------------------------------------- */

static void in_child(void)
{
	struct tdm_device_stats s = { .size = sizeof(s) };
	struct tdm_soft_options o = { .size = sizeof(o), .memory_bytes = 2 * MIB };
	struct tdm_soft *mine;
	tdm_a32 sum;
	size_t n;

	CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), -ENODEV);
	CHECK_EQ(tdm_device_exclusive(dev, mem, LEN, &n), -ENODEV);
	CHECK_EQ(tdm_device_evict(dev, 1, &n), -ENODEV);
	CHECK_EQ(tdm_device_stats_get(dev, &s), -ENODEV);
	CHECK_EQ(tdm_device_run(dev, noop, NULL, NULL), -ENODEV);
	CHECK_EQ(tdm_device_fault(dev, mem, PAGE, 0, NULL), -ENODEV);
	CHECK_EQ(tdm_soft_launch(soft, count, &sum, 1), -ENODEV);
	CHECK_EQ(tdm_mprotect(engine, mem, PAGE, PROT_READ | PROT_WRITE), 0);
	for (size_t i = 0; i < LEN; i += PAGE)
		CHECK_EQ(mem[i], 1);
	/* It may have devices of its own, and forget its parent's. */
	CHECK_EQ(tdm_soft_create(engine, &o, &mine), 0);
	CHECK_EQ(tdm_device_migrate(tdm_soft_device(mine), mem, LEN, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	CHECK_EQ(mem[3 * PAGE], 1);
	CHECK_EQ(tdm_soft_destroy(mine), 0);
	CHECK_EQ(tdm_soft_destroy(soft), 0);
	CHECK_EQ(tdm_stop(engine), 0);
	for (size_t i = 0; i < LEN; i += PAGE)
		CHECK_EQ(mem[i], 1);
	_exit(0);
}

TEST(children)
{
	size_t n;
	pid_t pid;
	int st;

	begin();
	CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	pid = fork();
	if (!pid)
		in_child();
	CHECK_EQ(waitpid(pid, &st, 0), pid);
	CHECK_EQ(st, 0);
	CHECK_EQ(tdm_device_evict(dev, LEN / PAGE, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	end();
}
