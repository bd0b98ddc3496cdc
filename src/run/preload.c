/* SPDX-License-Identifier: MIT */
/* preload.c - what happens in a program that `tandem run` starts: attach to the segment, start watching. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "run/interpose.h"
#include "run/live.h"

#define EXPORT __attribute__((visibility("default")))

static struct tdm_control *control;

/* tandem puts its name before the line, and ends it. plat_abort() is given both. */
static void say(const char *line)
{
	size_t n;
	char text[248];

	line += strncmp(line, "tandem: ", 8) ? 0 : 8;
	n = strnlen(line, sizeof(text) - 1);
	memcpy(text, line, n);
	text[n && line[n - 1] == '\n' ? n - 1 : n] = 0;
	(void)tdmi_control_say(control, (u32)tdm_sys0(SYS_getpid), text);
}

static struct tdm_control *map_control(const char *path)
{
	long fd = tdm_sys4(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0), p;

	if (fd < 0)
		return NULL;
	p = tdm_sys6(SYS_mmap, 0, sizeof(struct tdm_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	tdm_sys1(SYS_close, fd);
	if (p < 0 && p > -4096)
		return NULL;
	if (!tdmi_control_check((struct tdm_control *)p, sizeof(struct tdm_control)))
		return (struct tdm_control *)p;
	tdm_sys2(SYS_munmap, p, sizeof(struct tdm_control));
	return NULL;
}

static __attribute__((constructor)) void attach(void)
{
	const char *path = getenv(TDM_CONTROL_ENV);
	const char *tier[TDM_CONTROL_TIERS];
	struct tdm_live_config c = { 0 };
	char err[240] = "", line[300];
	int r;

	if (!path || !(control = map_control(path)))
		return;
	c.budget = control->budget;
	c.strict = control->strict;
	c.control = control;
	c.interposed = true;
	c.ntiers = control->ntiers;
	for (u32 i = 0; i < c.ntiers; i++)
		tier[i] = control->tier[i];
	c.tier = tier;
	tdmi_linux_log_sink(say);
	tdmi_tiers_init(getenv("TMPDIR"));
	pthread_atfork(tdmi_live_fork_prepare, tdmi_live_fork_parent, tdmi_live_fork_child);
	r = tdmi_live_start(&c, err, sizeof(err));
	if (r) {
		tdmi_fmt(line, sizeof(line), "runs without a budget: %s", err);
		say(line);
		tdm_a64_add_relaxed(&control->unmanaged, 1);
	}
}

EXPORT int tandem_run_manages(void)
{
	return tdmi_live != NULL;
}

/* The end of a program that ends in good order: its totals are complete, its slot is free. */
static __attribute__((destructor)) void detach(void)
{
	struct tdm_live *l = tdmi_live;

	if (l && l->control && l->slot >= 0 && l->pid == (u32)tdm_sys0(SYS_getpid))
		tdmi_live_request(l, TDM_OP_PUBLISH, 0, 0, NULL);
}
/* Calls of <sys/mman.h>'s with large files go to mmap64. */
EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return tdmi_interpose_mmap(addr, len, prot, flags, fd, off);
}

EXPORT void *mmap_as_well(void *addr, size_t len, int prot, int flags, int fd, off_t off) __asm__("mmap")
	__attribute__((alias("mmap64"), nothrow, leaf));
