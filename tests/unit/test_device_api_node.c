/* SPDX-License-Identifier: MIT */
/* test_device_api_node.c - devices with coherent memory, and the NUMA node that it is to be on: each error, and what is copied there. */
#include <errno.h>
#include "device_api_world.h"
#include "plat/linux/linux.h"

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

		ops.copy_in = bad[i].in ? good_ops.copy_in : ops.copy_in;
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
