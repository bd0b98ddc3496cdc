/* SPDX-License-Identifier: MIT */
/* What percentages refer to, in made-up machines: physical memory, cgroup v1, v2, and containers that see only a part of them. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/fmt.h"
#include "cmd/cmd.h"
#include "t.h"

#define GIB ((u64)1 << 30)

static char root[300];

/* Write root/path, making its directories. */
static void put(const char *path, const char *text)
{
	char full[512];
	FILE *f;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
		*p = 0;
		mkdir(full, 0700);
		*p = '/';
	}
	f = fopen(full, "w");
	CHECK(f);
	fputs(text, f);
	fclose(f);
}

static void machine(const char *cgroup, const char *mountinfo)
{
	static unsigned n;

	snprintf(root, sizeof(root), "%s/%u", t_dir(), n++);
	CHECK(!mkdir(root, 0700));
	put("proc/meminfo", "MemFree: 1 kB\nMemTotal:       16777216 kB\nMemAvailable: 5 kB\n");
	put("proc/self/cgroup", cgroup);
	put("proc/self/mountinfo", mountinfo);
}

static u64 base(void)
{
	return tdmi_ram_base(root);
}

#define V2 "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1 "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"

TEST(base_without_cgroups)
{
	machine("", "");
	CHECK_EQ(base(), 16 * GIB);
}

TEST(base_v2_least_of_the_ancestors)
{
	machine("0::/a/b/c\n", V2);
	put("sys/fs/cgroup/a/memory.max", "2147483648\n");
	put("sys/fs/cgroup/a/b/memory.max", "max\n");
	put("sys/fs/cgroup/a/b/c/memory.max", "4294967296\n");
	CHECK_EQ(base(), 2 * GIB);
}

TEST(base_v2_none_or_more_than_there_is)
{
	machine("0::/a\n", V2);
	put("sys/fs/cgroup/a/memory.max", "max\n");
	CHECK_EQ(base(), 16 * GIB);
	machine("0::/a\n", V2);
	put("sys/fs/cgroup/a/memory.max", "99999999999999\n");
	CHECK_EQ(base(), 16 * GIB);
	machine("0::/\n", V2);
	put("sys/fs/cgroup/memory.max", "1073741824\n");
	CHECK_EQ(base(), GIB);
}

TEST(base_v1_beside_an_empty_v2)
{
	machine("9:name=systemd:/\n4:cpu,memory:/x\n1:cpu:/\n0::/\n", V1 V2);
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "3221225472\n");
	CHECK_EQ(base(), 3 * GIB);
}

/* In a container the mount shows a part of the hierarchy: its root is our cgroup, or an ancestor of it. */
TEST(base_container)
{
	machine("4:memory:/docker/abc/in\n", "31 24 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "5368709120\n");
	put("sys/fs/cgroup/memory/in/memory.limit_in_bytes", "1073741824\n");
	CHECK_EQ(base(), GIB);
	machine("4:memory:/elsewhere\n", "31 24 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "5368709120\n");
	CHECK_EQ(base(), 5 * GIB);
}

TEST(size_exact_reads_back)
{
	static const u64 sizes[] = { 1, 1023, 1024, 1536, 256 << 20, 3 * GIB / 2, 8 * GIB, (u64)1 << 40, 4096, 12345678 };
	char text[24];
	u64 x;

	for (size_t i = 0; i < TDM_ARRAY_SIZE(sizes); i++) {
		tdmi_size_exact(sizes[i], text, sizeof(text));
		CHECK(!tdmi_parse_size(text, &x));
		CHECK_EQ(x, sizes[i]);
	}
	tdmi_size_exact(3 * GIB / 2, text, sizeof(text));
	CHECK_STR(text, "1536M");
}

TEST(size_human)
{
	char t[16];

	CHECK_STR(tdmi_size_human(0, t), "0 B");
	CHECK_STR(tdmi_size_human(1536, t), "1.5 KiB");
	CHECK_STR(tdmi_size_human((u64)100 << 20, t), "100 MiB");
	CHECK_STR(tdmi_size_human((u64)1023 << 20, t), "1.0 GiB");
	CHECK_STR(tdmi_size_human(~(u64)0 >> 1, t), "8.0 EiB");
}
