/* SPDX-License-Identifier: MIT */
/*
 * host_threads.c - have all who changed a mapping said so?
 *
 * A thread that has changed one lets go of the kernel's mmap_lock and queues its event some instructions later. In between it cannot sleep, but the
 * scheduler may take the CPU from it for as long as it likes. So who is seen to sleep has queued what he has to say, or has nothing to say; and who has
 * run for RAN_NS since, too. Whoever is about to be given the CPU, and is not given it in WAIT_NS, is given up.
 *
 * Costs a few microseconds a thread, more for one that runs.
 */
#include <fcntl.h>
#include <time.h>
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"
#include "base/fmt.h"
#include "port/host.h"

#define RAN_NS ((u64)1000000)
#define WAIT_NS ((u64)50000000)
#define NAP_NS ((u64)100000)

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

/* How long the thread has had a CPU. false: it has ended. */
static bool ran(u32 tid, u64 *ns)
{
	struct timespec ts;

	/* The clock of a thread of ours: what pthread_getcpuclockid() makes. */
	if (tdm_sys2(SYS_clock_gettime, (long)(int)(~tid << 3 | 6), &ts))
		return false;
	*ns = (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
	return true;
}

/* Does it run, or would it if it was given a CPU? */
static bool runs(u32 tid)
{
	char path[48], buf[96];
	long fd, n;
	const char *p;

	tdmi_fmt(path, sizeof(path), "/proc/self/task/%u/stat", tid);
	fd = tdm_sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return fd != -ENOENT && fd != -ESRCH;
	n = tdm_sys3(SYS_read, fd, buf, sizeof(buf));
	tdm_sys1(SYS_close, fd);
	/* "tid (name) state ": the name has at most 15 bytes, of any kind. */
	for (p = buf + TDM_MAX(n, 0); p > buf && p[-1] != ')';)
		p--;
	return n != -ESRCH && (p == buf || p + 1 >= buf + n || p[1] == 'R');
}

static void note(struct tdm_underway *u, u32 tid)
{
	u64 ns;

	if ((int)tid == tdmi_linux_gettid() || !ran(tid, &ns) || !runs(tid))
		return;
	if (u->n == TDM_UNDERWAY_MAX)
		u->all = false;
	else
		u->thread[u->n++] = (struct tdm_underway_thread){ tid, ns };
}

void tdmi_host_underway(struct tdm_host *h, struct tdm_underway *u)
{
	char buf[2048] __attribute__((aligned(8)));
	long fd = tdm_sys4(SYS_openat, AT_FDCWD, "/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n = -1;

	(void)h;
	u->n = 0;
	u->all = true;
	u->by = plat_now_ns() + WAIT_NS;
	while (fd >= 0 && (n = tdm_sys3(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64 *d = (const struct dirent64 *)(buf + at);
			u32 tid = 0;

			for (const char *c = d->name; *c >= '0' && *c <= '9'; c++)
				tid = tid * 10 + (u32)(*c - '0');
			if (tid)
				note(u, tid);
			at += d->reclen;
		}
	if (n)
		u->all = false;
	if (fd >= 0)
		tdm_sys1(SYS_close, fd);
}

bool tdmi_host_underway_done(struct tdm_host *h, struct tdm_underway *u)
{
	u32 left = 0;

	(void)h;
	for (u32 i = 0; i < u->n; i++) {
		struct tdm_underway_thread *t = &u->thread[i];
		u64 ns;

		if (ran(t->tid, &ns) && ns - t->ran < RAN_NS && runs(t->tid))
			u->thread[left++] = *t;
	}
	u->n = left;
	return (!left && u->all) || plat_now_ns() > u->by;
}

void tdmi_host_let_queue(struct tdm_host *h)
{
	struct tdm_underway u;
	tdm_a32 nobody = { 0 };

	tdmi_host_underway(h, &u);
	while (!tdmi_host_underway_done(h, &u))
		plat_wait(&nobody, 0, NAP_NS);
}
