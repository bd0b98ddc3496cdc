/* SPDX-License-Identifier: MIT */
/*
 * live_fork.c - fork(2) in a managed process.
 *
 * The child inherits the engine's memory by copy-on-write: its page table, homes and pool are the parent's at the moment of the fork. Two
 * things it does not inherit: threads, and a userfaultfd for its own copy of the address space. That one the kernel hands to whoever reads the
 * fork event, in the parent.
 *
 *   forking thread                    main of the parent                      child
 *   prepare: socket pair, ask         freeze the engine, fetch its end
 *   (glibc takes its locks,           serve faults, changing nothing;
 *    other threads may be waiting     note what was restored (journal) and
 *    for pages while they hold them)  which events were read
 *   fork()                            fork event: somebody is born; as soon     faults on anything that is out are
 *                                     as all is read that happened before,      served by the parent
 *                                     serve it, too
 *   parent: done                                                              child: start main, which calls
 *                                     "that is it": send the userfaultfd, the
 *                                     tiers' files, the events so far
 *                                     ...................................     receive the descriptors, act on the
 *                                     "taken over", "all yours"               events, start handlers, say so, and
 *                                                                             wait for the answer
 *                                     give the others what is theirs
 *   returns from fork                 settle journal and events, thaw
 *
 * So fork() returns in the parent only when the child stands on its own feet: the parent may exit at once. A child that dies before is
 * noticed by the end of its address space. While frozen nothing is evicted; what is restored is not much.
 *
 * A process that is not engaged yet has nothing to hand over: the state word keeps it from engaging during the fork, that is all.
 *
 * A fork that goes past libc (a bare clone system call) is noticed by its event alone. Its child runs no code of ours: so everything that is out is
 * copied into it at once, by whoever has read the event, before he lets go of the event lock: nobody fills a page or takes one home meanwhile, so that
 * the table is as it was when the address space was copied.
 *
 * If that happens while the engine stands still for fork() of another thread, several are born, and the kernel does not say who is who. All are served,
 * each as it was when it was born, until one calls: its main drops a page of which nobody uses the memory (tdmi_host_call()), and the event
 * comes on its own userfaultfd. Code of ours runs in none of the others. What else libc and the program's libraries do in a child until then is
 * noted for it.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include "base/check.h"
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "run/live.h"

#define FDS_MAX 64u
#define QUIET_NS ((u64)50000000)
#define EVENTS_OF_A_CALL 4u
#define FAILED_NS ((u64)200000000)
#define SEND_TRIES 1000u

/* What the child is told. Its descriptors: the userfaultfd, a file of events if there are any, the tiers' files. */
struct hand_over {
	u32 nevents;
	u32 birth; /* which of the children in that file it is */
};

/* ---- the forking thread -------------------------------------------------------------------------------------------- */

/* The stack below us must be there when the child runs on it, before anybody serves its faults. */
static __attribute__((noinline)) void touch_stack(void)
{
	volatile char below[32768];

	for (size_t i = 0; i < sizeof(below); i += 1024)
		below[i] = 0;
}

/* The largest resident set that there was: whether it is as large now is for main to see. */
static u64 peak(void)
{
	struct rusage u;

	return tdm_sys2(SYS_getrusage, RUSAGE_SELF, &u) ? 0 : (u64)u.ru_maxrss << 10;
}

void tdmi_live_fork_prepare(void)
{
	struct tdm_live *l = tdmi_live;
	int pair[2];

	if (!l)
		return;
	plat_mutex_lock(&l->req_lock);
	tdm_a32_st_release(&l->forking, 1);
	touch_stack();
	l->fork_announced = false;
	if (tdm_a32_ld_acquire(&l->state) == TDM_LIVE_WATCHING && peak() > tdm_a64_ld_relaxed(&l->fork_most))
		tdmi_live_request_locked(l, TDM_OP_FORK_AHEAD, 0, 0, NULL);
	for (;;) {
		u32 state = TDM_LIVE_WATCHING;

		if (tdm_a32_cas_acqrel(&l->state, &state, TDM_LIVE_FORKING) || state == TDM_LIVE_FAILED)
			return;
		if (state == TDM_LIVE_ENGAGED)
			break;
		plat_yield();
	}
	tdmi_host_fds_raise(&l->fork_fds);
	if (tdm_sys4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		goto out; /* then it is a fork that nobody announced */
	l->fork_sock = pair[0];
	l->fork_peer = pair[1];
	l->fork_announced = tdmi_live_request_locked(l, TDM_OP_FORK_PREPARE, 0, 0, NULL) == 0;
	l->fork_errno = errno;
	errno = 0;
	if (l->fork_announced)
		return;
	tdm_sys1(SYS_close, pair[0]);
	tdm_sys1(SYS_close, pair[1]);
out:
	tdmi_host_fds_restore(&l->fork_fds);
}

void tdmi_live_fork_parent(void)
{
	struct tdm_live *l = tdmi_live;
	u32 state = TDM_LIVE_FORKING;

	if (!l)
		return;
	if (l->fork_announced) {
		/* Nobody tells us whether there is a child. If errno is as we have left it, there is. */
		l->fork_failed = errno != 0;
		if (!errno)
			errno = l->fork_errno;
		tdm_sys1(SYS_close, l->fork_sock);
		tdm_sys1(SYS_close, l->fork_peer);
		tdmi_live_request_locked(l, TDM_OP_FORK_PARENT, 0, 0, NULL);
		tdmi_host_fds_restore(&l->fork_fds);
		l->fork_announced = false;
	} else {
		tdm_a32_cas_acqrel(&l->state, &state, TDM_LIVE_WATCHING);
	}
	tdm_a32_st_release(&l->forking, 0);
	plat_mutex_unlock(&l->req_lock);
}

/* Nothing of the parent's engine runs here, and nobody took our place yet. */
static void child_unmanaged(struct tdm_live *l, u32 was)
{
	if (was != TDM_LIVE_FAILED)
		plat_log("the child of a fork runs without a budget: there was no descriptor or no thread for it");
	tdm_a32_st_relaxed(&l->state, TDM_LIVE_FAILED);
	if (l->control)
		tdm_a64_add_relaxed(&l->control->unmanaged, 1);
}

void tdmi_live_fork_child(void)
{
	struct tdm_live *l = tdmi_live;
	u32 state;
	int keep = -1;
	char comm[16] = "";

	if (!l)
		return;
	state = tdm_a32_ld_relaxed(&l->state);
	tdm_a32_st_relaxed(&l->child_ready, 0);
	plat_mutex_reset(&l->req_lock);
	tdm_a32_st_relaxed(&l->forking, 0);
	tdm_a32_st_relaxed(&l->req.state, 0);
	tdmi_live_mapped_child(l);
	l->pid = (u32)tdm_sys0(SYS_getpid);
	l->published_ns = 0;
	tdmi_live_shared_child(l);
	tdm_a64_st_relaxed(&l->look_by_ns, 0);
	l->over_since_ns = 0;
	if (l->control) {
		tdm_sys5(SYS_prctl, 16 /* PR_GET_NAME */, comm, 0, 0, 0);
		l->slot = tdmi_control_claim(l->control, l->pid, 0, comm);
		tdm_a64_add_relaxed(&l->control->births, 1);
	}
	/* The parent's main thread does not exist here; its stack does. */
	tdmi_linux_thread_forget(l->main);
	if (state == TDM_LIVE_FORKING)
		tdm_a32_st_relaxed(&l->state, TDM_LIVE_WATCHING);
	else if (l->fork_announced)
		errno = l->fork_errno, keep = l->fork_peer;
	else
		child_unmanaged(l, state); /* the parent copies into us what is out */
	if (tdm_a32_ld_relaxed(&l->state) != TDM_LIVE_FAILED &&
	    tdmi_linux_thread_start_private(&l->main, tdmi_live_main, l, "tandem", keep)) {
		if (l->fork_announced)
			plat_abort("tandem: no thread could be started in the child of a fork: its memory cannot be brought back\n");
		child_unmanaged(l, state);
	}
	if (l->fork_announced) {
		tdm_sys1(SYS_close, l->fork_sock);
		tdm_sys1(SYS_close, l->fork_peer);
		l->fork_announced = false;
		/* The program might end or exec at once, and take the thread with it that is about to take over. */
		while (keep >= 0 && !tdm_a32_ld_acquire(&l->child_ready))
			plat_wait(&l->child_ready, 0, ~(u64)0);
		tdmi_host_fds_restore(&l->fork_fds);
	}
}

/* ---- main of the parent --------------------------------------------------------------------------------------------- */

/* Our copy of a descriptor of the program's: it lives in another table. */
static int fetch_fd(u32 pid, int fd)
{
	long pidfd = tdm_sys2(SYS_pidfd_open, pid, 0), r;

	if (pidfd < 0)
		return (int)pidfd;
	r = tdm_sys3(SYS_pidfd_getfd, pidfd, fd, 0);
	tdm_sys1(SYS_close, pidfd);
	return (int)r;
}

static int send_fds(int sock, const struct hand_over *h, const int *fds, u32 n)
{
	char buf[CMSG_SPACE(FDS_MAX * sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = { (void *)(uintptr_t)h, sizeof(*h) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	long r = 0;

	memset(buf, 0, sizeof(buf));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	for (u32 tries = 0; tries < SEND_TRIES; tries++) {
		r = tdm_sys3(SYS_sendmsg, sock, &m, MSG_NOSIGNAL);
		if (r != -EINTR && r != -ENOMEM && r != -ENOBUFS)
			break;
		plat_yield();
	}
	return r < 0 ? (int)r : 0;
}

/* A file of the events. Its descriptor or -errno. */
static int events_file(const struct tdm_frozen *f)
{
	size_t len = f->n * sizeof(f->event[0]);
	long fd = tdm_sys2(SYS_memfd_create, "tandem-events", MFD_CLOEXEC);

	if (fd >= 0 && tdm_sys4(SYS_pwrite64, fd, f->event, len, 0) != (long)len) {
		tdm_sys1(SYS_close, fd);
		return -ENOMEM;
	}
	return (int)fd;
}

static int send_child(struct tdm_live *l, int sock, const struct tdm_birth *child)
{
	struct hand_over h = { l->frozen.n, (u32)(child - l->frozen.birth) };
	int fds[FDS_MAX] = { child->uffd }, r = 0;
	u32 n = 1;

	if (h.nevents) {
		fds[n] = events_file(&l->frozen);
		r = TDM_MIN(fds[n], 0);
		n++;
	}
	n += tdmi_swap_files(l->swap, fds + n, FDS_MAX - n);
	if (!r)
		r = send_fds(sock, &h, fds, n);
	if (h.nevents && fds[1] >= 0)
		tdm_sys1(SYS_close, fds[1]);
	if (r)
		plat_log("the child of a fork could not be given its memory, and will be ended");
	return r;
}

static void answer(struct tdm_live *l, int result)
{
	l->req.result = result;
	tdm_a32_st_release(&l->req.state, 2);
	plat_wake(&l->req.state, 1);
}

/* Has the child said that it has taken over, or ended? It is answered: from then on we read no fault of its any more, and it lets its program run.
 * What we know of its pages is what they were at the fork. */
static bool child_done(struct tdm_live *l, int sock, const struct tdm_birth *child, bool *nobody)
{
	char c;
	long r = tdm_sys6(SYS_recvfrom, sock, (long)&c, 1, MSG_DONTWAIT, 0, 0);

	*nobody = r == 0 || (r < 0 && !tdmi_host_alive(&l->host, child->uffd));
	if (r <= 0)
		return *nobody;
	tdm_sys6(SYS_sendto, sock, (long)&c, 1, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0);
	return true;
}

/* Freeze, with nothing in limbo (port/host_event.c): a child would not know what becomes of it. */
static void freeze_settled(struct tdm_live *l)
{
	tdmi_mm_freeze(&l->mm);
	while (l->mm.unsettled) {
		tdmi_mm_thaw(&l->mm);
		if (tdmi_mm_enter(l->ctx)) {
			plat_mutex_lock(&l->mm.event_lock);
			(void)tdmi_events_settled(l->ctx);
			plat_mutex_unlock(&l->mm.event_lock);
			tdmi_mm_exit(l->ctx);
		}
		plat_yield();
		tdmi_mm_freeze(&l->mm);
	}
}

static bool parent_done(struct tdm_live *l)
{
	return tdm_a32_ld_acquire(&l->req.state) == 1 && l->req.op == TDM_OP_FORK_PARENT;
}

/*
 * What had happened before the fork may be announced after it. It has all been read when nothing is on its way; or when everybody who was under way at the
 * fork has queued one event after the other, as many as a call has (mremap: three that unmap, and the move).
 */
struct announcements {
	u32 of;    /* births[]: those before it have been judged, or are waited for now */
	u32 round; /* 0: has not begun */
	u64 by;
	struct tdm_underway underway;
};

static bool all_read(struct tdm_live *l, struct announcements *a)
{
	if (!a->round)
		a->by = plat_now_ns() + QUIET_NS;
	if (!a->round || tdmi_host_underway_done(&l->host, &a->underway)) {
		/* They are queued, now they are read: the caller has done so only before. */
		(void)tdmi_frozen_read(l);
		a->round++;
		tdmi_host_underway(&l->host, &a->underway);
	}
	return a->round > EVENTS_OF_A_CALL || !tdmi_host_changing(&l->host) || plat_now_ns() > a->by;
}

/* Look at all that have been born. The one that calls is the child that was announced: the others come of bare system calls by other threads, and run no code of
 * ours. */
static struct tdm_birth *look_at_births(struct tdm_live *l, struct announcements *a)
{
	struct tdm_frozen *f = &l->frozen;
	struct tdm_birth *called = NULL;

	if (a->of != f->nbirths)
		*a = (struct announcements){ .of = f->nbirths };
	if (a->of && !f->birth[a->of - 1].told && all_read(l, a))
		for (u32 i = 0; i < a->of; i++)
			if (!f->birth[i].told)
				tdmi_frozen_judge(l, &f->birth[i]);
	for (u32 i = 0; i < f->nbirths; i++) {
		/* Before, a page may have been moved, and we not know of it. */
		if (f->birth[i].told && f->birth[i].uffd >= 0)
			tdmi_frozen_read_child(l, &f->birth[i]);
		if (f->birth[i].called)
			called = &f->birth[i];
	}
	return called;
}

/* Nobody has called: may somebody still do so? Until when is it waited for, if it is not known that there is anybody? */
static bool expected(struct tdm_live *l, int sock, u64 *until)
{
	bool alive = false;
	char c;

	for (u32 i = 0; i < l->frozen.nbirths; i++)
		alive = alive || tdmi_host_alive(&l->host, l->frozen.birth[i].uffd);
	if (!alive || tdm_sys6(SYS_recvfrom, sock, (long)&c, 1, MSG_DONTWAIT, 0, 0) == 0)
		return false;
	if (!*until)
		*until = plat_now_ns() + FAILED_NS;
	return !l->fork_failed || plat_now_ns() < *until;
}

/* Sleep until something is to be read. */
static void await(struct tdm_live *l, int sock, bool urgent)
{
	struct pollfd fds[2 + TDM_LIVE_BIRTHS] = { { .fd = l->host.uffd, .events = POLLIN }, { .fd = sock, .events = POLLIN } };
	struct timespec nap = { 0, urgent ? 100000 : 1000000 };
	u32 n = 2;

	for (u32 i = 0; i < l->frozen.nbirths; i++)
		if (l->frozen.birth[i].told && l->frozen.birth[i].uffd >= 0)
			fds[n++] = (struct pollfd){ .fd = l->frozen.birth[i].uffd, .events = POLLIN };
	tdm_sys5(SYS_ppoll, fds, n, &nap, NULL, 0);
}

/* Those who are on their own. Who is born meanwhile waits until the engine goes on, unless its event has been read. */
static void give_others(struct tdm_live *l, struct announcements *a, const struct tdm_birth *child)
{
	for (u32 i = 0; i < l->frozen.nbirths; i++) {
		struct tdm_birth *b = &l->frozen.birth[i];

		if (b == child)
			continue;
		while (!b->told) {
			await(l, -1, true);
			(void)look_at_births(l, a);
		}
		tdmi_frozen_give(l, b);
	}
}

/* It serves itself. */
static void leave(struct tdm_birth *child)
{
	tdmi_host_let_go(child->uffd);
	child->uffd = -1;
}

void tdmi_live_fork_serve(struct tdm_live *l)
{
	struct announcements before = { 0 };
	struct tdm_birth *child = NULL;
	bool parent = false, done = false, nobody = false;
	u64 until = 0;
	int sock;

	sock = fetch_fd(l->pid, l->fork_sock);
	if (sock < 0) {
		answer(l, sock);
		return;
	}
	tdmi_live_devices_before_fork(l);
	freeze_settled(l);
	tdmi_coherent_before_fork(l->ctx);
	tdmi_live_devices_at_fork(l);
	tdmi_live_copies_watch(l);
	tdmi_frozen_begin(l);
	answer(l, 0);
	while (!parent || (child ? !done : expected(l, sock, &until))) {
		struct tdm_birth *called;

		await(l, child && !done ? sock : -1, before.of && !l->frozen.birth[before.of - 1].told);
		(void)tdmi_frozen_read(l);
		called = look_at_births(l, &before);
		if (called && !child) {
			/* If it cannot be sent, it sees the end of the socket when its parent has gone on. */
			child = called;
			nobody = done = send_child(l, sock, child) != 0;
			/* From here on it has its part of what was ours alone, and says so. */
			l->share.forked = true;
			tdmi_live_weigh(l);
		}
		if (child && !done && child_done(l, sock, child, &nobody)) {
			done = true;
			if (!nobody)
				leave(child);
		}
		/* Its message has been read by the next look. */
		parent = parent || parent_done(l);
	}
	give_others(l, &before, nobody ? NULL : child);
	if (child && !nobody) {
		tdm_a64_add_relaxed(&l->forks, 1);
		/* Before anything is dropped: the child still has it. */
		if (tdmi_swap_forked(l->swap, false))
			plat_abort("tandem: the tiers could not be shared with the child of a fork\n");
	}
	tdmi_frozen_end(l);
	tdm_sys1(SYS_close, sock);
	tdmi_mm_thaw(&l->mm);
	answer(l, 0);
}

/* ---- main of the child ---------------------------------------------------------------------------------------------- */

static int receive_fds(int sock, struct hand_over *h, int *fds, u32 *n)
{
	char buf[CMSG_SPACE(FDS_MAX * sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = { h, sizeof(*h) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof(buf) };
	struct cmsghdr *c;
	long r;

	do
		r = tdm_sys3(SYS_recvmsg, sock, &m, MSG_CMSG_CLOEXEC);
	while (r == -EINTR);
	c = r > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return -EPIPE;
	*n = (u32)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(fds, CMSG_DATA(c), *n * sizeof(int));
	return 0;
}

/* What the parent's other threads did meanwhile. 0 or -errno. */
static int take_events(struct tdm_live *l, int file, const struct hand_over *h)
{
	size_t len = h->nevents * sizeof(struct tdm_frozen_event);
	struct tdm_frozen_event *e = plat_map(TDM_ALIGN_UP(len, TDM_PAGE_SIZE));
	int r = -ENOMEM;

	if (e && tdm_sys4(SYS_pread64, file, e, len, 0) == (long)len) {
		tdmi_frozen_take(l, e, h->nevents, h->birth);
		r = 0;
	}
	if (e)
		plat_unmap(e, TDM_ALIGN_UP(len, TDM_PAGE_SIZE));
	tdm_sys1(SYS_close, file);
	return r;
}

static int take_over(struct tdm_live *l, int sock)
{
	struct hand_over h = { 0 };
	int fds[FDS_MAX];
	u32 n = 0, files;
	int r = receive_fds(sock, &h, fds, &n);

	if (r)
		return r;
	tdmi_rcu_reset(&l->mm.rcu);
	tdmi_mm_after_fork(&l->mm);
	tdm_a64_st_relaxed(&l->forks, 0);
	l->ctx = tdmi_ctx_create(&l->mm);
	if (!l->ctx)
		return -ENOMEM;
	l->ctx->may_wait = true;
	/* Other threads' calls are not being made here. */
	tdm_a32_st_relaxed(&l->gate.changers, 0);
	tdm_a32_st_relaxed(&l->gate.taking, 0);
	tdmi_live_devices_in_child(l);
	l->threads_next_ns = 0;
	tdmi_live_note_threads(l);
	r = tdmi_host_after_fork(&l->host, fds[0]);
	if (r)
		return r;
	files = 1 + (h.nevents != 0);
	for (u32 i = files; i < n; i++)
		fds[i] = tdmi_linux_fd_keep(fds[i]);
	tdmi_swap_set_files(l->swap, fds + files, n - files);
	r = tdmi_swap_forked(l->swap, true);
	if (!r && h.nevents)
		r = take_events(l, fds[1], &h);
	else if (!r)
		tdmi_frozen_take(l, NULL, 0, 0);
	if (r)
		return r;
	tdmi_mm_thaw(&l->mm);
	return tdmi_live_start_handlers(l);
}

void tdmi_live_child_takeover(struct tdm_live *l)
{
	int sock = l->fork_peer, r;
	char answered;

	tdm_a32_st_relaxed(&l->wake, 0);
	if (tdm_a32_ld_acquire(&l->state) != TDM_LIVE_ENGAGED)
		return;
	tdmi_host_call(&l->host);
	r = take_over(l, sock);
	/* Memory that is out would read as zeros from here on: nobody must run with that. */
	if (r) {
		char line[120];

		tdmi_fmt(line, sizeof(line), "the child of a fork could not take its memory over (error %d): it is ended", -r);
		plat_abort(line);
	}
	if (l->control && l->slot >= 0)
		tdm_a32_st_relaxed(&l->control->slot[l->slot].managed, 1);
	tdm_sys6(SYS_sendto, sock, (long)"k", 1, MSG_NOSIGNAL, 0, 0);
	/* The end of the parent is an answer, too. */
	while (tdm_sys6(SYS_recvfrom, sock, (long)&answered, 1, 0, 0, 0) == -EINTR)
		;
	tdm_sys1(SYS_close, sock);
	tdm_a32_st_release(&l->child_ready, 1);
	plat_wake(&l->child_ready, 1);
}
