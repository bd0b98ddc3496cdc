/* SPDX-License-Identifier: MIT */
/*
 * node.c - where physical pages come from: NUMA nodes.
 *
 * Preferred, not bound: of a node that is full the kernel would rather kill the program (MPOL_BIND) than give it a page of another one.
 */
#include <fcntl.h>
#include <linux/mempolicy.h>
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"

#define NODES 1024u /* as many as a kernel can be built for */

struct nodes {
	u64 bit[NODES / 64];
};

static struct nodes only(int node)
{
	struct nodes n = { { 0 } };

	if (node >= 0)
		n.bit[(u32)node / 64] = (u64)1 << ((u32)node % 64);
	return n;
}

/* The kernel takes one off what it is told of the length. */
int plat_mem_node(void *p, size_t size, int node)
{
	struct nodes n = only(node);
	int mode = node < 0 ? MPOL_DEFAULT : MPOL_PREFERRED;
	long r = node >= (int)NODES ? -EINVAL : tdm_sys6(SYS_mbind, (long)p, (long)size, mode, (long)n.bit, NODES + 1, node < 0 ? 0 : MPOL_MF_MOVE);

	return r == -EINVAL ? -ENXIO : r == -ENOSYS ? -EOPNOTSUPP : (int)r;
}

void plat_thread_node(int node)
{
	struct nodes n = only(node);

	if (node < (int)NODES)
		(void)tdm_sys3(SYS_set_mempolicy, node < 0 ? MPOL_DEFAULT : MPOL_PREFERRED, n.bit, NODES + 1);
}

bool tdmi_linux_node_listed(const char *list, int node)
{
	u32 first = 0, n = 0;
	bool range = false, digits = false;

	for (;; list++) {
		if (*list >= '0' && *list <= '9') {
			n = n * 10 + (u32)(*list - '0');
			digits = true;
			continue;
		}
		if (digits && node >= 0 && (u32)node <= n && (u32)node >= (range ? first : n) && *list != '-')
			return true;
		if (*list != '-' && *list != ',')
			return false;
		first = n;
		range = *list == '-';
		digits = false;
		n = 0;
	}
}

int tdmi_linux_node_check(int node)
{
	char list[512];
	long fd = tdm_sys4(SYS_openat, AT_FDCWD, "/sys/devices/system/node/possible", O_RDONLY | O_CLOEXEC, 0), n;

	/* Not there, or not to be seen: the kernel will say, when it is asked for pages. */
	if (fd < 0)
		return 0;
	n = tdm_sys3(SYS_read, fd, list, sizeof(list) - 1);
	tdm_sys1(SYS_close, fd);
	if (n < 0)
		return 0;
	list[n] = '\0';
	return tdmi_linux_node_listed(list, node) ? 0 : -EINVAL;
}
