/* SPDX-License-Identifier: MIT */
/*
 * live_threads.c - which pages the kernel needs when a thread ends (mm/keep.h).
 *
 * The word that it clears (set_tid_address(2)) cannot be asked for, the thread's list of robust mutexes can, and glibc has the two side by side in
 * its struct pthread. A thread that libc starts says so itself (preload.c); the others are found by looking, once a second.
 */
#include <fcntl.h>
#include "base/check.h"
#include "plat/linux/sys.h"
#include "run/live.h"

#define LOOK_NS ((u64)1000000000)

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

static void note(struct tdm_live *l, u32 tid, u32 name)
{
	u64 head = 0, len = 0;

	if (tdm_sys3(SYS_get_robust_list, tid, &head, &len) < 0 || !head)
		return;
	(void)tdmi_keep_add(&l->keep, head, name);
	(void)tdmi_keep_add(&l->keep, head - 16, name);
}

void tdmi_live_note_thread(struct tdm_live *l)
{
	note(l, 0, (u32)tdm_sys0(SYS_gettid));
}

static bool gone(void *arg, u32 tid)
{
	struct tdm_live *l = arg;

	return tdm_sys3(SYS_tgkill, l->pid, tid, 0) == -ESRCH;
}

void tdmi_live_note_threads(struct tdm_live *l)
{
	char buf[2048] __attribute__((aligned(8)));
	long fd, n;

	if (plat_now_ns() < l->threads_next_ns)
		return;
	l->threads_next_ns = plat_now_ns() + LOOK_NS;
	fd = tdm_sys4(SYS_openat, AT_FDCWD, "/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	while (fd >= 0 && (n = tdm_sys3(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64 *d = (const struct dirent64 *)(buf + at);
			u32 tid = 0;

			for (const char *c = d->name; *c >= '0' && *c <= '9'; c++)
				tid = tid * 10 + (u32)(*c - '0');
			if (tid)
				note(l, tid, tid);
			at += d->reclen;
		}
	if (fd >= 0)
		tdm_sys1(SYS_close, fd);
	tdmi_keep_sweep(&l->keep, gone, l);
}
