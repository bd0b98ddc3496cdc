/* SPDX-License-Identifier: MIT */
/*
 * live_handlers.c - the threads that serve faults.
 *
 * There is one for each CPU, pinned to it, because waking a thread costs a few microseconds on the waker's own CPU and several tens on another one. Each
 * sleeps in an epoll instance of its own; it is active while the userfaultfd is registered there. Usually one is, the leader: that of the CPU on which
 * faults happen, so that a fault, its handler and the thread that goes on follow each other on one CPU, while another CPU packs. More of them would
 * only take faults from each other: the thread that was served often runs, and faults again, before the leader has come round to sleep, and to wake
 * somebody for that costs more than to wait for the leader.
 *
 * Others become active
 *   - while one that serves a fault waits for something slow: room, or a file (on_slow());
 *   - when the leader has a fault of another thread waiting whenever it is done with one, most of the time (note_backlog()); until they are woken for
 *     nothing most of the time (note_futile()).
 * They are registered with EPOLLEXCLUSIVE: a message wakes the first in the order of registration that sleeps.
 *
 * Where a thread runs that waits for its page, /proc tells, for about as much as a fault costs; it is asked once in LOOK_NS by whoever has just
 * served one. Two answers in a row that name another CPU make that one's handler the leader.
 *
 * Nothing is left unread: who is registered finds at once what there is to read, and whoever is taken out, and may have been woken for something, kicks
 * those who stay. Edge-triggered, since a handler reads until nothing is left, whatever it was woken for.
 *
 * Who is active, and who leads, is guarded by l->lead; no other lock is taken under it. The counters in struct tdm_handler are the handler's own.
 */
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include "base/check.h"
#include "base/fmt.h"
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"
#include "run/live.h"

#define LOOK_NS ((u64)2000000)
#define NO_CPU (~(u32)0)
#define SEEN 4096 /* "always", for the averages */

/* ---- who is woken ---------------------------------------------------------------------------------------------------- */

/* What there is to read already counts as coming now. -ENOMEM, -ENOSPC (fs.epoll.max_user_watches): it stays as it was. */
static int activate(struct tdm_live *l, u32 i)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLET | EPOLLEXCLUSIVE };
	int epoll = l->handler[i].epoll;
	long r;

	if (l->handler[i].active)
		return 0;
	r = tdm_sys4(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, l->host.uffd, &e);
	if (r)
		return (int)r;
	r = tdm_sys4(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, l->host.kick_fd, &e);
	if (r) {
		tdm_sys4(SYS_epoll_ctl, epoll, EPOLL_CTL_DEL, l->host.uffd, NULL);
		tdmi_host_kick(&l->host);
		return (int)r;
	}
	l->handler[i].active = true;
	l->nactive++;
	return 0;
}

static void deactivate(struct tdm_live *l, u32 i)
{
	tdm_sys4(SYS_epoll_ctl, l->handler[i].epoll, EPOLL_CTL_DEL, l->host.uffd, NULL);
	tdm_sys4(SYS_epoll_ctl, l->handler[i].epoll, EPOLL_CTL_DEL, l->host.kick_fd, NULL);
	l->handler[i].active = false;
	l->nactive--;
	/* It may have been woken for something that it has not read yet. */
	tdmi_host_kick(&l->host);
}

/* If the one before was alone, it stands back. */
static void lead(struct tdm_live *l, u32 leader)
{
	u32 before = l->leader;
	bool alone = l->nactive == 1;

	if (before == leader || activate(l, leader))
		return;
	l->leader = leader;
	if (alone)
		deactivate(l, before);
}

/* One more. Its index, or nhandlers. */
static u32 add_helper(struct tdm_live *l)
{
	for (u32 i = 0; i < l->nhandlers; i++)
		if (!l->handler[i].active)
			return activate(l, i) ? l->nhandlers : i;
	return l->nhandlers;
}

static void remove_helper(struct tdm_live *l, u32 i)
{
	if (i != l->leader && l->handler[i].active)
		deactivate(l, i);
}

/* The CPU on which a thread runs, or did last: field 39 of its stat. */
static u32 cpu_of(u32 tid)
{
	char buf[1024], *p, *end;
	u32 cpu = 0;
	long fd, n;

	tdmi_fmt(buf, sizeof(buf), "/proc/self/task/%u/stat", tid);
	fd = tdm_sys4(SYS_openat, AT_FDCWD, buf, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return NO_CPU;
	n = tdm_sys3(SYS_read, fd, buf, sizeof(buf));
	tdm_sys1(SYS_close, fd);
	end = buf + TDM_MAX(n, 0);
	/* The name may have anything in it, and ends with the last parenthesis. */
	for (p = end; p > buf && p[-1] != ')';)
		p--;
	for (u32 field = 2; p < end && field < 39; p++)
		field += *p == ' ';
	if (p >= end)
		return NO_CPU;
	for (; p < end && *p >= '0' && *p <= '9'; p++)
		cpu = cpu * 10 + (u32)(*p - '0');
	return cpu;
}

/* The thread tid has just been served: is the leader on its CPU? */
static void follow(struct tdm_live *l, u32 tid)
{
	u64 now = plat_now_ns();
	u32 cpu;

	if (now < tdm_a64_ld_relaxed(&l->lead_next_ns) || !plat_mutex_trylock(&l->lead))
		return;
	tdm_a64_st_relaxed(&l->lead_next_ns, now + LOOK_NS);
	cpu = cpu_of(tid);
	if (cpu != NO_CPU && cpu != l->handler[l->leader].cpu && cpu == l->lead_last) {
		for (u32 i = 0; i < l->nhandlers; i++)
			if (l->handler[i].cpu == cpu)
				lead(l, i);
	}
	l->lead_last = cpu;
	plat_mutex_unlock(&l->lead);
}

/* A fault of another thread was waiting when the last one had been served. Kept of the last SEEN or so faults: half of them, and there is work for two. */
static void note_backlog(struct tdm_live *l, struct tdm_handler *h, bool waiting)
{
	h->backlog += waiting ? (SEEN - h->backlog) / 16 : -(h->backlog / 16);
	if (h->backlog < SEEN / 2 || l->nhandlers == 1 || !plat_mutex_trylock(&l->lead))
		return;
	(void)add_helper(l);
	plat_mutex_unlock(&l->lead);
	h->backlog = 0;
}

/* A helper was woken; for nothing? */
static void note_futile(struct tdm_live *l, struct tdm_handler *h, bool futile)
{
	h->futile += futile ? (SEEN - h->futile) / 16 : -(h->futile / 16);
	if (h->futile < SEEN / 2 || !plat_mutex_trylock(&l->lead))
		return;
	remove_helper(l, (u32)(h - l->handler));
	plat_mutex_unlock(&l->lead);
	h->futile = 0;
}

/* Who serves a fault has to wait, or has waited. */
static void on_slow(struct tdm_ctx *ctx, bool begins)
{
	struct tdm_handler *h = ctx->slow_arg;
	struct tdm_live *l = h->live;

	if (l->nhandlers == 1)
		return;
	plat_mutex_lock(&l->lead);
	if (begins) {
		h->stand_in = l->nactive == 1 ? add_helper(l) : l->nhandlers;
	} else if (h->stand_in < l->nhandlers) {
		remove_helper(l, h->stand_in);
	}
	plat_mutex_unlock(&l->lead);
}

/* ---- serving ------------------------------------------------------------------------------------------------------- */

static void count_latency(struct tdm_ctx *ctx, u64 ns)
{
	u32 i = ns < 256 ? 0 : 64u - (u32)__builtin_clzll(ns >> 8);

	tdm_count(ctx, TDM_C_FAULT_NS, ns);
	tdm_count(ctx, TDM_C_LATENCY0 + TDM_MIN(i, 31u), 1);
}

/* Serve one fault, if there is one. Of which thread: *tid, where the one before is. */
static bool serve_one(struct tdm_live *l, struct tdm_handler *h, struct tdm_ctx *ctx, u32 *tid)
{
	struct tdm_host_fault f;
	bool got;
	u64 start;

	plat_mutex_lock(&l->mm.event_lock);
	got = tdmi_host_read(&l->host, ctx, &f);
	plat_mutex_unlock(&l->mm.event_lock);
	if (!got) {
		if (*tid)
			note_backlog(l, h, false);
		return false;
	}
	start = plat_now_ns();
	if (*tid)
		note_backlog(l, h, *tid != f.tid);
	*tid = f.tid;
	ctx->tid = f.tid;
	tdmi_live_look_late(l, start);
	if (f.copy)
		tdmi_live_copy(l, ctx, f.va);
	else
		tdmi_fault(ctx, (struct tdm_va){ f.va }, f.write);
	count_latency(ctx, plat_now_ns() - start);
	if (l->nhandlers > 1)
		follow(l, f.tid);
	return true;
}

static void handler_main(void *arg)
{
	struct tdm_handler *h = arg;
	struct tdm_live *l = h->live;
	struct tdm_ctx *ctx = h->ctx;
	struct epoll_event e;
	u64 mask[16] = { 0 };
	bool woken = false;

	mask[h->cpu / 64] = (u64)1 << (h->cpu % 64);
	tdm_sys3(SYS_sched_setaffinity, 0, sizeof(mask), mask);
	tdm_a32_add_acqrel(&l->nready, 1);
	plat_wake(&l->nready, 1);
	while (!tdm_a32_ld_acquire(&l->stop)) {
		u32 tid = 0;

		if (!tdmi_mm_enter(ctx)) {
			plat_wait(&l->mm.gate, 1, ~(u64)0);
			continue;
		}
		while (serve_one(l, h, ctx, &tid))
			if (tdm_a32_ld_relaxed(&l->mm.gate))
				break;
		tdmi_mm_exit(ctx);
		/* Once more, after the gate: what is left unread now wakes nobody again. */
		if (tdm_a32_ld_relaxed(&l->mm.gate))
			continue;
		if (woken)
			note_futile(l, h, !tid);
		if (tdmi_mm_usage(&l->mm) > tdm_a64_ld_relaxed(&l->mm.high_bytes))
			tdmi_live_nudge(l);
		woken = tdm_sys4(SYS_epoll_wait, h->epoll, &e, 1, -1) > 0;
	}
	tdmi_ctx_destroy(ctx);
}

/* ---- beginning and end ---------------------------------------------------------------------------------------------- */

/* A handler for cpu: all but its thread. */
static int prepare(struct tdm_live *l, u32 cpu)
{
	struct tdm_handler *h = &l->handler[l->nhandlers];
	struct epoll_event e = { .events = EPOLLIN };
	int r;

	*h = (struct tdm_handler){ .live = l, .cpu = cpu, .stand_in = ~(u32)0 };
	h->epoll = tdmi_linux_fd_keep(tdm_sys1(SYS_epoll_create1, EPOLL_CLOEXEC));
	if (h->epoll < 0)
		return h->epoll;
	h->ctx = tdmi_ctx_create(&l->mm);
	r = h->ctx ? (int)tdm_sys4(SYS_epoll_ctl, h->epoll, EPOLL_CTL_ADD, l->stop_fd, &e) : -ENOMEM;
	if (!r && !l->nhandlers)
		r = activate(l, 0);
	if (r) {
		if (h->ctx)
			tdmi_ctx_destroy(h->ctx);
		tdm_sys1(SYS_close, h->epoll);
		return r;
	}
	h->ctx->on_slow = on_slow;
	h->ctx->slow_arg = h;
	l->nhandlers++;
	return 0;
}

int tdmi_live_start_handlers(struct tdm_live *l)
{
	u64 mask[16] = { 0 };
	u32 n = 0;
	int r = 0;

	tdm_a32_st_relaxed(&l->stop, 0);
	tdm_a32_st_relaxed(&l->nready, 0);
	plat_mutex_init(&l->lead, TDM_RANK_PLAT);
	l->nhandlers = 0;
	l->nactive = 0;
	l->leader = 0;
	l->lead_last = NO_CPU;
	l->stop_fd = tdmi_linux_fd_keep(tdm_sys2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (l->stop_fd < 0)
		return l->stop_fd;
	/* A kernel made for more CPUs than that refuses to say: then there is one, wherever it runs. */
	if (tdm_sys3(SYS_sched_getaffinity, 0, sizeof(mask), mask) <= 0)
		mask[0] = 1;
	for (u32 cpu = 0; !r && cpu < 1024 && l->nhandlers < TDM_LIVE_HANDLERS; cpu++)
		if (mask[cpu / 64] >> (cpu % 64) & 1)
			r = prepare(l, cpu);
	while (!r && n < l->nhandlers) {
		r = plat_thread_start(&l->handler[n].thread, handler_main, &l->handler[n], "tandem-fault");
		n += !r;
	}
	/* One that has yet to enter the mm is not seen by a freeze, and may hold a lock that a fork's child would inherit. */
	for (u32 seen; (seen = tdm_a32_ld_acquire(&l->nready)) < n;)
		plat_wait(&l->nready, seen, ~(u64)0);
	return r;
}

void tdmi_live_stop_handlers(struct tdm_live *l)
{
	u64 one = 1;

	tdm_a32_st_release(&l->stop, 1);
	if (l->stop_fd < 0)
		return;
	tdm_sys3(SYS_write, l->stop_fd, &one, sizeof(one));
	for (u32 i = 0; i < l->nhandlers; i++) {
		if (l->handler[i].thread)
			plat_thread_join(l->handler[i].thread);
		else
			tdmi_ctx_destroy(l->handler[i].ctx);
		tdm_sys1(SYS_close, l->handler[i].epoll);
	}
	l->nhandlers = 0;
	tdm_sys1(SYS_close, l->stop_fd);
}
