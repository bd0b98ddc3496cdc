/* SPDX-License-Identifier: MIT */
/* proc.c - what /proc says about a process. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd/cmd.h"

/* The file's first bytes, terminated. False: there is no such file. */
static bool slurp(pid_t pid, const char *file, char *buf, size_t len)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, buf, len - 1);
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	return n > 0;
}

bool tdmi_proc_stat(pid_t pid, char *state, pid_t *parent, u64 *start_ticks)
{
	char buf[1024], *p, s;
	unsigned long long start;
	int ppid;

	if (pid <= 0 || !slurp(pid, "stat", buf, sizeof(buf)))
		return false;
	p = strrchr(buf, ')'); /* the name may hold anything, parentheses too */
	if (!p || sscanf(p + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &s, &ppid, &start) != 3)
		return false;
	if (state)
		*state = s;
	if (parent)
		*parent = ppid;
	if (start_ticks)
		*start_ticks = start;
	return true;
}

bool tdmi_proc_alive(void *arg, u32 pid, u64 start_ticks)
{
	char state;
	u64 start;

	/* A zombie has no memory any more. */
	return tdmi_proc_stat((pid_t)pid, &state, NULL, &start) && state != 'Z' && state != 'X' && (!start_ticks || start == start_ticks);
}

bool tdmi_proc_descends(pid_t pid, pid_t ancestor)
{
	for (unsigned i = 0; i < 100 && pid > 1; i++) {
		if (pid == ancestor)
			return true;
		if (!tdmi_proc_stat(pid, NULL, &pid, NULL))
			return false;
	}
	return false;
}

u64 tdmi_proc_pss(pid_t pid)
{
	char buf[1024], *p;

	if (!slurp(pid, "smaps_rollup", buf, sizeof(buf)))
		return 0;
	p = strstr(buf, "\nPss:");
	return p ? strtoull(p + 5, NULL, 10) << 10 : 0;
}
