/* SPDX-License-Identifier: MIT */
/* device_api_world.c - see device_api_world.h. The library is compiled into this program with its system calls behind tdmi_inject(). */
#include <errno.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include "device_api_world.h"
#include "plat/linux/sys.h"

tdm_a32 no_proc;
tdm_a32 bind_error;
tdm_a32 copies, copies_on_node;
tdm_a32 refuse;

struct tdm *engine;
struct tdm_soft *soft;
struct tdm_device *dev;
char *mem;

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

char *map(size_t len)
{
	char *p = mmap(NULL, len + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK(!mprotect(p + PAGE, len, PROT_READ | PROT_WRITE));
	memset(p + PAGE, 1, len);
	return p + PAGE;
}

void unmap(char *p, size_t len)
{
	CHECK(!munmap(p - PAGE, len + 2 * PAGE));
}

void begin_engine(void)
{
	struct tdm_options o = { .size = sizeof(o) };
	static char line[240];
	int r = tdm_start(&o, &engine, line, sizeof(line));

	if (r == -EPERM || r == -EOPNOTSUPP)
		SKIP(line);
	CHECK_EQ(r, 0);
	mem = map(LEN);
}

void begin(void)
{
	struct tdm_soft_options o = { .size = sizeof(o), .memory_bytes = 2 * MIB };

	begin_engine();
	CHECK_EQ(tdm_soft_create(engine, &o, &soft), 0);
	dev = tdm_soft_device(soft);
}

void end_engine(void)
{
	unmap(mem, LEN);
	CHECK_EQ(tdm_stop(engine), 0);
}

void end(void)
{
	CHECK_EQ(tdm_soft_destroy(soft), 0);
	end_engine();
}

/* ---- a device with memory of its own */

u8 *own_memory;
int own_error;

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

tdm_a32 fault_results, faults_done;

static void fault_done(void *arg, void *cookie, int result)
{
	(void)arg;
	CHECK(cookie == &own_error);
	tdm_a32_st_release(&fault_results, (u32)-result);
	tdm_a32_add_acqrel(&faults_done, 1);
}

const struct tdm_device_ops good_ops = { .size = sizeof(good_ops), .name = "own", .copy_in = copy_in, .copy_out = copy_out, .address = address,
						.fault_done = fault_done };
const struct tdm_device_options good_options = { .size = sizeof(good_options), .memory_bytes = 2 * MIB };

void begin_own(void)
{
	own_memory = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(own_memory != MAP_FAILED);
	begin_engine();
	CHECK_EQ(tdm_device_attach(engine, &good_ops, &good_options, &dev), 0);
}

void end_own(void)
{
	CHECK_EQ(tdm_device_detach(dev), 0);
	end_engine();
	CHECK(!munmap(own_memory, 2 * MIB));
}
