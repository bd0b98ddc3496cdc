/* SPDX-License-Identifier: MIT */
/*
 * Each error that <tandem/device.h> and <tandem/soft.h> name, and what is a caller's mistake.
 *
 * The library is compiled into this program with its system calls behind tdmi_inject(), so that threads can be refused. What devices do is tested by
 * tests/live/prog/dev*.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tandem/soft.h>
#include <unistd.h>
#include "base/atomic.h"
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"
#include "run/share.h"
#include "runner/t.h"

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)

static tdm_a32 no_proc; /* 1: there is no /proc */
static tdm_a32 bind_error; /* of mbind(); 0: none */
static tdm_a32 copies, copies_on_node; /* pages made in mem by UFFDIO_COPY; with node 0 preferred by the thread */
static tdm_a32 refuse; /* the nth thread from now on, and those after it; 0: none */

static struct tdm *engine;
static struct tdm_soft *soft;
static struct tdm_device *dev;
static char *mem; /* 64 pages, with a page of nobody's on either side */

#define LEN (64 * PAGE)

static void copy_seen(const struct uffdio_copy *c)
{
	u64 node[16] = { 0 };
	int mode = -1;

	if (c->dst < (u64)(uintptr_t)mem || c->dst >= (u64)(uintptr_t)mem + LEN)
		return;
	tdm_sys6_raw(SYS_get_mempolicy, (long)&mode, (long)node, 64 * 16, 0, 0, 0);
	tdm_a32_add_acqrel(&copies, (u32)(c->len / PAGE));
	if (mode == MPOL_PREFERRED && node[0] == 1)
		tdm_a32_add_acqrel(&copies_on_node, (u32)(c->len / PAGE));
}

static long inject(long nr, long a, long b, long c, long d, long e, long f)
{
	u32 n = nr == SYS_clone ? tdm_a32_ld_acquire(&refuse) : 0;

	if (nr == SYS_newfstatat && tdm_a32_ld_acquire(&no_proc))
		return -ENOENT;
	if (n == 1)
		return -EAGAIN;
	if (n)
		tdm_a32_st_release(&refuse, n - 1);
	return nr == SYS_clone ? 0 : tdm_sys6_raw(nr, a, b, c, d, e, f);
}

long tdmi_inject(long nr, long a, long b, long c, long d, long e, long f)
{
	if (nr == SYS_mbind && tdm_a32_ld_acquire(&bind_error))
		return -(long)tdm_a32_ld_acquire(&bind_error);
	if (nr == SYS_ioctl && b == (long)UFFDIO_COPY)
		copy_seen((const struct uffdio_copy *)(uintptr_t)c);
	return inject(nr, a, b, c, d, e, f);
}

static char *map(size_t len)
{
	char *p = mmap(NULL, len + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK(!mprotect(p + PAGE, len, PROT_READ | PROT_WRITE));
	memset(p + PAGE, 1, len);
	return p + PAGE;
}

static void unmap(char *p, size_t len)
{
	CHECK(!munmap(p - PAGE, len + 2 * PAGE));
}

static void begin_engine(void)
{
	struct tdm_options o = { .size = sizeof(o) };
	static char line[240];
	int r = tdm_start(&o, &engine, line, sizeof(line));

	if (r == -EPERM || r == -EOPNOTSUPP)
		SKIP(line);
	CHECK_EQ(r, 0);
	mem = map(LEN);
}

static void begin(void)
{
	struct tdm_soft_options o = { .size = sizeof(o), .memory_bytes = 2 * MIB };

	begin_engine();
	CHECK_EQ(tdm_soft_create(engine, &o, &soft), 0);
	dev = tdm_soft_device(soft);
}

static void end_engine(void)
{
	unmap(mem, LEN);
	CHECK_EQ(tdm_stop(engine), 0);
}

static void end(void)
{
	CHECK_EQ(tdm_soft_destroy(soft), 0);
	end_engine();
}

/* ---- attaching ------------------------------------------------------------------------------------------------------------------------ */

static u8 *own_memory;
static int own_error;

static int copy_in(void *arg, uint32_t frame, const void *src, uint32_t pages)
{
	(void)arg;
	memcpy(own_memory + frame * PAGE, src, pages * PAGE);
	return own_error;
}

static int copy_out(void *arg, void *dst, uint32_t frame, uint32_t pages)
{
	(void)arg;
	memcpy(dst, own_memory + frame * PAGE, pages * PAGE);
	return own_error;
}

static void *address(void *arg, uint32_t frame)
{
	(void)arg;
	return own_memory + frame * PAGE;
}

static tdm_a32 fault_results, faults_done;

static void fault_done(void *arg, void *cookie, int result)
{
	(void)arg;
	CHECK(cookie == &own_error);
	tdm_a32_st_release(&fault_results, (u32)-result);
	tdm_a32_add_acqrel(&faults_done, 1);
}

static const struct tdm_device_ops good_ops = { .size = sizeof(good_ops), .name = "own", .copy_in = copy_in, .copy_out = copy_out, .address = address,
						.fault_done = fault_done };
static const struct tdm_device_options good_options = { .size = sizeof(good_options), .memory_bytes = 2 * MIB };

static void begin_own(void)
{
	own_memory = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(own_memory != MAP_FAILED);
	begin_engine();
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &good_options, &dev), 0);
}

static void end_own(void)
{
	CHECK_EQ(tdm_device_detach(dev), 0);
	end_engine();
	CHECK(!munmap(own_memory, 2 * MIB));
}

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
/* ---- coherent memory, and its node --------------------------------------------------------------------------------------------------- */

static const struct tdm_device_ops coherent_ops = { .size = sizeof(coherent_ops), .name = "coherent" };
static const struct tdm_device_options coherent_options = { .size = sizeof(coherent_options), .memory_bytes = 2 * MIB, .flags = TDM_DEVICE_COHERENT,
							    .numa_node = -1 };

TEST(attach_coherent_options)
{
	static u8 somewhere[PAGE];
	static const struct {
		u64 memory;
		int node;
		bool in, all, share;
	} bad[] = {
		{ .memory = 0, .node = -1 },         { .memory = 2 * MIB, .node = -2 },         { .memory = 2 * MIB, .node = 1024 },
		{ .memory = 2 * MIB, .node = 1 << 30 }, { .memory = 2 * MIB, .node = -1, .in = true }, { .memory = 2 * MIB, .node = -1, .all = true },
		{ .memory = 2 * MIB, .node = -1, .share = true },
	};

	begin_engine();
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct tdm_device_ops ops = bad[i].all ? good_ops : coherent_ops;
		struct tdm_device_options o = coherent_options;

		ops.copy_in = bad[i].in ? copy_in : ops.copy_in;
		o.memory_bytes = bad[i].memory;
		o.numa_node = bad[i].node;
		o.share = bad[i].share ? somewhere : NULL;
		if (tdm_device_attach(engine, &ops, &o, &dev) != -EINVAL)
			t_fail(__FILE__, __LINE__, "mistake %zu is not -EINVAL", i);
	}
	for (int node = -1; node < 1; node++) {
		struct tdm_device_options o = coherent_options;

		o.numa_node = node;
		CHECK_EQ(tdm_device_attach(engine, &coherent_ops, &o, &dev), 0);
		CHECK_EQ(tdm_device_detach(dev), 0);
	}
	end_engine();
}

TEST(nodes_that_cannot)
{
	static const struct {
		int kernel, ours;
	} error[] = { { EINVAL, -ENXIO }, { ENOSYS, -EOPNOTSUPP }, { EPERM, -EPERM }, { ENOMEM, -ENOMEM } };
	struct tdm_device_options o = coherent_options;

	o.numa_node = 0;
	begin_engine();
	for (size_t i = 0; i < sizeof(error) / sizeof(*error); i++) {
		tdm_a32_st_release(&bind_error, (u32)error[i].kernel);
		CHECK_EQ(tdm_device_attach(engine, &coherent_ops, &o, &dev), error[i].ours);
		/* Without one nobody asks for it. */
		CHECK_EQ(tdm_device_attach(engine, &coherent_ops, &coherent_options, &dev), 0);
		CHECK_EQ(tdm_device_detach(dev), 0);
		tdm_a32_st_release(&bind_error, 0);
	}
	CHECK_EQ(tdm_device_attach(engine, &coherent_ops, &o, &dev), 0);
	CHECK_EQ(tdm_device_detach(dev), 0);
	end_engine();
}

/* What cannot be moved to its place, because it may not be written there, is copied: to a page of the same node. */
TEST(copies_to_a_node)
{
	struct tdm_device_options o = coherent_options;
	size_t n;

	begin_engine();
	for (int node = -1; node < 1; node++) {
		o.numa_node = node;
		CHECK_EQ(tdm_device_attach(engine, &coherent_ops, &o, &dev), 0);
		CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), 0);
		CHECK_EQ(n, 64);
		CHECK_EQ(tdm_device_evict(dev, ~(size_t)0, &n), 0);
		CHECK_EQ(n, 64);
		tdm_a32_st_release(&copies, 0);
		tdm_a32_st_release(&copies_on_node, 0);
		CHECK_EQ(tdm_mprotect(engine, mem, LEN, PROT_READ), 0);
		CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), 0);
		CHECK_EQ(n, 64);
		CHECK_EQ(tdm_a32_ld_acquire(&copies), 64);
		CHECK_EQ(tdm_a32_ld_acquire(&copies_on_node), node < 0 ? 0 : 64);
		CHECK_EQ(tdm_mprotect(engine, mem, LEN, PROT_READ | PROT_WRITE), 0);
		for (size_t i = 0; i < LEN; i++)
			CHECK_EQ(mem[i], 1);
		CHECK_EQ(tdm_device_detach(dev), 0);
	}
	end_engine();
}

TEST(node_lists)
{
	static const struct {
		const char *list;
		u64 nodes;
	} good[] = { { "0\n", 1 }, { "0-3\n", 0xf }, { "1,3", 0xa }, { "0,2-4,9\n", 0x21d }, { "10-11\n", 0xc00 }, { "\n", 0 }, { "", 0 }, { "-\n", 0 } };

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		for (int node = -2; node < 64; node++)
			if (tdmi_linux_node_listed(good[i].list, node) != (node >= 0 && (good[i].nodes >> node & 1)))
				t_fail(__FILE__, __LINE__, "node %d in list %zu", node, i);
}

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

/* ---- a device of several processes -------------------------------------------------------------------------------------------------- */

#define SHARED (4 * MIB)

static void *map_share(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

TEST(shares)
{
	struct tdm_device_options o = { .size = sizeof(o), .memory_bytes = SHARED };
	size_t len = tdm_device_share_bytes(SHARED);
	struct tdm_share *share;
	u64 ns;

	CHECK(len && len % PAGE == 0 && tdm_device_share_bytes((u64)256 << 30) > len);
	CHECK_EQ(tdm_device_share_bytes(0), 0);
	CHECK_EQ(tdm_device_share_bytes(MIB), 0);
	CHECK_EQ(tdm_device_share_bytes(((u64)256 << 30) + 2 * MIB), 0);
	own_memory = map_share(SHARED);
	share = o.share = map_share(len);
	CHECK_EQ(tdm_device_share_init(NULL, SHARED), -EINVAL);
	CHECK_EQ(tdm_device_share_init((char *)o.share + 8, SHARED), -EINVAL);
	CHECK_EQ(tdm_device_share_init(o.share, 0), -EINVAL);
	CHECK_EQ(tdm_device_share_init(o.share, MIB), -EINVAL);
	tdm_a32_st_release(&no_proc, 1);
	CHECK_EQ(tdm_device_share_init(o.share, SHARED), -EOPNOTSUPP);
	tdm_a32_st_release(&no_proc, 0);
	begin_engine();
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &dev), -EINVAL); /* it has not been made */
	CHECK_EQ(tdm_device_share_init(o.share, SHARED), 0);
	o.flags = TDM_DEVICE_INHERITED;
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &dev), -EINVAL);
	o.flags = 0;
	o.memory_bytes = 2 * MIB;
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &dev), -EINVAL);
	o.memory_bytes = SHARED;
	ns = share->namespaces[0]++;
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &dev), -EXDEV);
	share->namespaces[0] = ns;
	tdm_a32_st_release(&no_proc, 1);
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &dev), -EOPNOTSUPP);
	tdm_a32_st_release(&no_proc, 0);
	for (u32 n = 1; n < 5; n++) {
		int r;

		tdm_a32_st_release(&refuse, n);
		r = tdm_device_attach(engine, &good_ops, &o, &dev);
		tdm_a32_st_release(&refuse, 0);
		CHECK(r == -EAGAIN || (!r && n > 3));
		if (!r)
			CHECK_EQ(tdm_device_detach(dev), 0);
		CHECK_EQ(tdm_a64_ld_acquire(&share->process[0].id), 0);
	}
	/* As many as there may be: all of them this one. */
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &dev), 0);
	for (u32 i = 1; i < TDM_SHARE_PROCESSES; i++)
		tdm_a64_st_release(&share->process[i].id, tdm_a64_ld_acquire(&share->process[0].id));
	{
		struct tdm_device *other;

		CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &other), -ENOSPC);
	}
	CHECK_EQ(tdm_device_detach(dev), 0);
	end_engine();
	CHECK(!munmap(share, len) && !munmap(own_memory, SHARED));
}

/* It has no memory before it needs some, then all, and none when it has gone; the second one in a process is another. */
TEST(a_share_of_it)
{
	struct tdm_device_options o = { .size = sizeof(o), .memory_bytes = SHARED };
	struct tdm_device_stats s = { .size = sizeof(s) };
	struct tdm_device *other;
	struct tdm_share *share;
	size_t n;

	own_memory = map_share(SHARED);
	share = o.share = map_share(tdm_device_share_bytes(SHARED));
	CHECK_EQ(tdm_device_share_init(o.share, SHARED), 0);
	begin_engine();
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &dev), 0);
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &o, &other), 0);
	CHECK_EQ(tdm_device_stats_get(dev, &s), 0);
	CHECK_EQ(s.memory_held, 0);
	CHECK_EQ(tdm_device_migrate(dev, mem, LEN, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	CHECK_EQ(tdm_device_stats_get(dev, &s), 0);
	CHECK_EQ(s.memory_held, 512);
	CHECK_EQ(s.memory_pages, LEN / PAGE);
	CHECK_EQ(tdm_device_migrate(other, mem, LEN, &n), 0);
	CHECK_EQ(tdm_a64_ld_acquire(&share->owner[0]), tdm_a64_ld_acquire(&share->process[0].id));
	for (size_t i = 0; i < LEN; i += PAGE)
		CHECK_EQ(mem[i], 1);
	CHECK_EQ(tdm_device_migrate(other, mem, LEN, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	CHECK_EQ(tdm_a64_ld_acquire(&share->owner[1]), tdm_a64_ld_acquire(&share->process[1].id));
	CHECK_EQ(tdm_device_detach(dev), 0);
	CHECK_EQ(tdm_a64_ld_acquire(&share->owner[0]), 0);
	CHECK_EQ(tdm_device_detach(other), 0);
	CHECK_EQ(tdm_a64_ld_acquire(&share->owner[1]), 0);
	for (size_t i = 0; i < LEN; i += PAGE)
		CHECK_EQ(mem[i], 1);
	end_engine();
	CHECK(!munmap(share, tdm_device_share_bytes(SHARED)) && !munmap(own_memory, SHARED));
}

TEST(soft_shares)
{
	struct tdm_soft_options o = { .size = sizeof(o), .memory_bytes = SHARED };
	struct rlimit files, few = { 0, 0 };
	int fd, other, in;
	size_t n;

	CHECK_EQ(tdm_soft_share_create(0, &fd), -EINVAL);
	CHECK_EQ(tdm_soft_share_create(MIB, &fd), -EINVAL);
	CHECK_EQ(tdm_soft_share_create((u64)1 << 45, &fd), -EINVAL);
	CHECK_EQ(tdm_soft_share_create(SHARED, NULL), -EINVAL);
	tdm_a32_st_release(&no_proc, 1);
	CHECK_EQ(tdm_soft_share_create(SHARED, &fd), -EOPNOTSUPP);
	tdm_a32_st_release(&no_proc, 0);
	CHECK(!getrlimit(RLIMIT_NOFILE, &files));
	few.rlim_max = files.rlim_max;
	CHECK(!setrlimit(RLIMIT_NOFILE, &few));
	CHECK_EQ(tdm_soft_share_create(SHARED, &fd), -EMFILE);
	CHECK(!setrlimit(RLIMIT_NOFILE, &files));
	CHECK_EQ(tdm_soft_share_create(2 * MIB, &other), 0);
	/* 0 says that there is none. */
	in = dup(0);
	close(0);
	CHECK_EQ(tdm_soft_share_create(SHARED, &fd), 0);
	CHECK(fd > 0 && fcntl(0, F_GETFD) == -1 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	if (in >= 0) {
		CHECK_EQ(dup2(in, 0), 0);
		close(in);
	}
	begin_engine();
	for (u32 i = 0; i < 3; i++) {
		int plain = memfd_create("plain", 0);

		CHECK(plain >= 0 && !ftruncate(plain, (off_t)(SHARED + 2 * MIB)));
		o.share_fd = i == 0 ? -1 : i == 1 ? plain : other;
		CHECK_EQ(tdm_soft_create(engine, &o, &soft), -EINVAL);
		close(plain);
	}
	o.share_fd = fd;
	CHECK_EQ(tdm_soft_create(engine, &o, &soft), 0);
	close(fd);
	close(other);
	CHECK_EQ(tdm_device_migrate(tdm_soft_device(soft), mem, LEN, &n), 0);
	CHECK_EQ(n, LEN / PAGE);
	for (size_t i = 0; i < LEN; i += PAGE)
		CHECK_EQ(mem[i], 1);
	CHECK_EQ(tdm_soft_destroy(soft), 0);
	end_engine();
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
