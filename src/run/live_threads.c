/* SPDX-License-Identifier: MIT */
/*
 * live_threads.c - which pages the kernel needs when a thread ends (mm/keep.h).
 *
 * The word that it clears (set_tid_address(2)) cannot be asked for, the thread's list of robust mutexes can, and glibc has the two side by side in
 * its struct pthread. A thread that libc starts says so itself (interpose.c); the others are found by looking, once a second.
 */
#include "base/check.h"
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"
#include "run/live.h"

#define LOOK_NS ((u64)1000000000)

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

static void note_seen(void *arg, u32 tid)
{
	note(arg, tid, tid);
}

void tdmi_live_note_threads(struct tdm_live *l)
{
	if (plat_now_ns() < l->threads_next_ns)
		return;
	l->threads_next_ns = plat_now_ns() + LOOK_NS;
	(void)tdmi_linux_each_thread(note_seen, l);
	tdmi_keep_sweep(&l->keep, gone, l);
}
