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

static void note(void *arg, u32 tid)
{
	struct tdm_underway *u = arg;
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
	(void)h;
	u->n = 0;
	u->all = true;
	u->by = plat_now_ns() + WAIT_NS;
	if (!tdmi_linux_each_thread(note, u))
		u->all = false;
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

/*
 * mremap() of locked memory populates what it has grown by before it announces that it has moved; and before that is announced and read nothing can
 * be filled. So that part is not ours to fill: it is let go of, and found again later. It begins at va, since it is populated in order, and all of it is
 * new. No further than that: what is behind it may be managed.
 */
void tdmi_host_refused(struct tdm_port *p, struct tdm_ctx *ctx, struct tdm_va va)
{
	struct tdm_host *h = tdm_container_of(p, struct tdm_host, port);
	u64 arg[3] = { 0 }, end;
	char path[48], buf[160];
	struct tdm_mapping m;
	struct tdm_vma v;
	const char *s = buf;
	long fd, n;

	tdmi_fmt(path, sizeof(path), "/proc/self/task/%u/syscall", ctx->tid);
	fd = ctx->tid ? tdm_sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
	if (fd < 0)
		return;
	n = tdm_sys3(SYS_read, fd, buf, sizeof(buf) - 1);
	tdm_sys1(SYS_close, fd);
	buf[TDM_MAX(n, 0)] = 0;
	/* "25 0xaddr 0xold_len 0xnew_len ..." */
	if (s[0] != '2' || s[1] != '5' || s[2] != ' ')
		return;
	for (u32 i = 0; i < 3; i++) {
		while (*s && *s != ' ')
			s++;
		for (s += *s ? 3 : 0; (*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'f'); s++)
			arg[i] = arg[i] << 4 | (u64)(*s <= '9' ? *s - '0' : *s - 'a' + 10);
	}
	if (arg[2] <= arg[1] || tdmi_host_mapping(h, va.v, &m) || va.v < m.start)
		return;
	end = TDM_MIN(m.end, va.v + TDM_ALIGN_UP(arg[2], TDM_PAGE_SIZE) - TDM_ALIGN_UP(arg[1], TDM_PAGE_SIZE));
	tdmi_rcu_read_lock(ctx->rcu);
	/* Somebody who was here before is not known to have gone yet: page by page, then. */
	if (tdmi_vma_next(&h->mm->vmas, va.v, &v) && v.start < end)
		end = TDM_MAX(v.start, va.v + TDM_PAGE_SIZE);
	tdmi_rcu_read_unlock(ctx->rcu);
	if (end > va.v)
		tdmi_host_unregister(h, va.v, end);
}
