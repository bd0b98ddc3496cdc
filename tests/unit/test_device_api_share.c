/* SPDX-License-Identifier: MIT */
/* test_device_api_share.c - a device of several processes: each error that <tandem/device.h> and <tandem/soft.h> name, and what one process has of it. */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>
#include "device_api_world.h"
#include "run/share.h"

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
