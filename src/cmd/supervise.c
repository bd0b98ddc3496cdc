/* SPDX-License-Identifier: MIT */
/*
 * supervise.c - the process between the shell and the program: as if it were not there.
 *
 * The program stays in our process group and session, so that the terminal's signals (Ctrl-C, Ctrl-Z, a change of size, hang-up) reach it
 * without us; we let them pass. What somebody sends to us alone with kill(2), we send on. When the program stops, we stop likewise, so
 * that the shell's job control sees it; when it goes on, so do we. All signals are blocked and taken one at a time: there are no handlers.
 *
 * We are no subreaper, and do not wait for what outlives the program: a daemon's parent is init, as without us, and keeps its
 * mapping of the segment. Only what it executes later can no longer open the segment, and runs unmanaged.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "cmd/cmd.h"

#define MS              1000000ull
#define TICK_NS         (100 * MS) /* messages, the dead, the peak */
#define TICK_VERIFY_NS  (50 * MS)
#define SECOND_NS       (1000 * MS)
#define MSGS_PER_SECOND 10u

struct watch {
	struct supervise *s;
	pid_t child;
	sigset_t old, taken;
	struct sigaction old_chld;
	u64 start, tick, second; /* ns; when the next is due */
	u64 faults;              /* at the last second */
	u32 cursor;              /* in the message ring */
	u32 said, unsaid;        /* messages in this second */
	bool terminal, drawn;
};

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * SECOND_NS + (u64)t.tv_nsec;
}

/* ---- what the user sees -------------------------------------------------------------------------------------------------- */

static void erase(struct watch *w)
{
	if (w->drawn && write(STDERR_FILENO, "\r\033[K", 4) < 0)
		w->terminal = false;
	w->drawn = false;
}

/* May we write on the terminal? Not from the background, where it may stop the whole job, and not into the screen of an editor or
 * a line editor, which have taken it out of line mode. */
static bool terminal_is_free(void)
{
	struct termios t;

	return tcgetpgrp(STDERR_FILENO) == getpgrp() && !tcgetattr(STDERR_FILENO, &t) && (t.c_lflag & ICANON);
}

static void draw(struct watch *w, u64 elapsed)
{
	struct tdm_control_totals t;
	struct winsize size = { 0 };
	char line[256], out[300];
	u64 faults;
	int columns, n;

	tdmi_control_totals(w->s->c, &t);
	faults = t.stat[TDM_STAT_SOFT_FAULTS] + t.stat[TDM_STAT_HARD_FAULTS] + t.stat[TDM_STAT_ZERO_FAULTS];
	if (w->terminal && terminal_is_free()) {
		tdmi_report_live(w->s->c, (double)(faults - TDM_MIN(faults, w->faults)) * 1e9 / (double)elapsed, line, sizeof(line));
		columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || !size.ws_col ? 80 : size.ws_col;
		/* The cursor goes back to the start: what the program prints next overwrites the line instead of following it. */
		n = snprintf(out, sizeof(out), "\r%.*s\033[K\r", columns - 1, line);
		w->drawn = write(STDERR_FILENO, out, (size_t)n) == n;
	}
	w->faults = faults;
}

static void say(struct watch *w, u32 pid, const char *text)
{
	const char *name = w->s->run.argv[0];
	const struct tdm_control *c = w->s->c;
	u32 used = TDM_MIN(tdm_a32_ld_acquire(&c->slots_used), TDM_CONTROL_SLOTS);

	if (w->said >= MSGS_PER_SECOND) {
		w->unsaid++;
		return;
	}
	w->said++;
	for (u32 i = 0; i < used; i++)
		if (tdm_a32_ld_acquire(&c->slot[i].pid) == pid)
			name = c->slot[i].comm;
	erase(w);
	tdmi_complain("%.64s[%u]: %s", strrchr(name, '/') ? strrchr(name, '/') + 1 : name, pid, text);
}

static void say_all(struct watch *w)
{
	char text[248];
	u32 pid;

	while (tdmi_control_hear(w->s->c, &w->cursor, &pid, text))
		say(w, pid, text);
}

static void new_second(struct watch *w)
{
	if (w->unsaid) {
		erase(w);
		tdmi_complain("%u more messages like these were left out", w->unsaid);
	}
	w->said = w->unsaid = 0;
}

/* ---- what is due from time to time --------------------------------------------------------------------------------------- */

/* What the kernel says that all of us use. */
static void sample_pss(struct watch *w)
{
	const struct tdm_control *c = w->s->c;
	u32 used = TDM_MIN(tdm_a32_ld_acquire(&c->slots_used), TDM_CONTROL_SLOTS);
	u64 sum = tdmi_proc_pss(getpid());
	bool child = false;

	for (u32 i = 0; i < used; i++) {
		pid_t pid = (pid_t)tdm_a32_ld_acquire(&c->slot[i].pid);

		child |= pid == w->child;
		sum += pid ? tdmi_proc_pss(pid) : 0;
	}
	if (!child)
		sum += tdmi_proc_pss(w->child);
	w->s->run.peak_pss = TDM_MAX(w->s->run.peak_pss, sum);
}

static void tick(struct watch *w)
{
	u64 now = now_ns();

	if (now < w->tick)
		return;
	w->tick = now + (w->s->verify ? TICK_VERIFY_NS : TICK_NS);
	say_all(w);
	/* Often, and before the peak is taken: what has ended by _exit() or a signal still stands in its slot, and holds a share. */
	tdmi_control_reap(w->s->c, (u32)getpid(), tdmi_proc_alive, NULL);
	tdmi_control_usage(w->s->c);
	if (w->s->verify)
		sample_pss(w);
	if (now < w->second)
		return;
	tdmi_report_look(&w->s->run);
	new_second(w);
	draw(w, now - w->second + SECOND_NS);
	w->second = now + SECOND_NS;
}

/* ---- signals ------------------------------------------------------------------------------------------------------------- */

/* Everything but what cannot be blocked and what our own mistakes would raise. */
static void take_signals(struct watch *w)
{
	static const int ours[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	sigfillset(&w->taken);
	for (size_t i = 0; i < TDM_ARRAY_SIZE(ours); i++)
		sigdelset(&w->taken, ours[i]);
	sigprocmask(SIG_BLOCK, &w->taken, &w->old);
	/* If it came to us ignored, the kernel would reap the program behind our back. */
	sigaction(SIGCHLD, &dfl, &w->old_chld);
}

static void pass_on(struct watch *w, const siginfo_t *si)
{
	/* A timer that was set before we were executed: meant for what we stand for. */
	bool timer = si->si_signo == SIGALRM || si->si_signo == SIGVTALRM || si->si_signo == SIGPROF;

	if (si->si_signo == SIGCHLD)
		return;
	/* The kernel speaks to the whole process group: the program has heard it. */
	if (si->si_code > 0 && !timer)
		return;
	/* The program, or a child of it, to its process group: likewise. And our own (SIGPIPE). */
	if (si->si_code <= 0 && (si->si_pid == getpid() || tdmi_proc_descends(si->si_pid, w->child)))
		return;
	if (si->si_code == SI_QUEUE)
		sigqueue(w->child, si->si_signo, si->si_value);
	else
		kill(w->child, si->si_signo);
}

static bool stopped(pid_t pid)
{
	char state;

	return tdmi_proc_stat(pid, &state, NULL, NULL) && state == 'T';
}

/* While we are stopped, somebody may let the program alone go on; then we must too, or its end would go unseen. He may have done so before we are
 * stopped: what we are sent then is lost on us. */
static pid_t start_waker(pid_t child)
{
	pid_t self = getpid(), pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == self && (stopped(child) || !stopped(self)))
		nanosleep(&(struct timespec){ .tv_nsec = 50 * (long)MS }, NULL);
	if (getppid() == self)
		kill(self, SIGCONT);
	_exit(0);
}

static void stop_likewise(struct watch *w, int sig)
{
	struct sigaction act;
	sigset_t one;
	pid_t waker;

	erase(w);
	if (sigaction(sig, NULL, &act) || act.sa_handler != SIG_DFL)
		sig = SIGSTOP;
	waker = start_waker(w->child);
	sigemptyset(&one);
	sigaddset(&one, sig);
	kill(getpid(), sig); /* first: one that the terminal has sent already, and this, are one stop and not two */
	sigprocmask(SIG_UNBLOCK, &one, NULL);
	/* Here we are stopped, until SIGCONT. */
	sigprocmask(SIG_BLOCK, &w->taken, NULL);
	if (waker > 0) {
		kill(waker, SIGKILL);
		waitpid(waker, NULL, 0);
	}
}

/* True: the program has ended, its status is in the run. */
static bool look_at_child(struct watch *w)
{
	int status;

	while (waitpid(w->child, &status, WNOHANG | WUNTRACED | WCONTINUED) == w->child) {
		if (WIFSTOPPED(status)) {
			stop_likewise(w, WSTOPSIG(status));
		} else if (!WIFCONTINUED(status)) {
			w->s->run.status = status;
			w->s->run.ended = true;
			return true;
		}
	}
	return false;
}

static void watch(struct watch *w)
{
	struct timespec timeout;
	siginfo_t si;
	u64 now;

	for (;;) {
		now = now_ns();
		now = w->tick > now ? w->tick - now : 0;
		timeout = (struct timespec){ .tv_sec = (time_t)(now / SECOND_NS), .tv_nsec = (long)(now % SECOND_NS) };
		if (sigtimedwait(&w->taken, &si, &timeout) > 0)
			pass_on(w, &si);
		if (look_at_child(w))
			return;
		tick(w);
	}
}

/* ---- start and end ------------------------------------------------------------------------------------------------------- */

static _Noreturn void become_program(const struct watch *w, int report)
{
	const struct supervise *s = w->s;
	int e;

	if (setenv(TDM_CONTROL_ENV, s->name, 1) || tdmi_library_preload(s->c->preload)) {
		e = ENOMEM;
	} else {
		sigaction(SIGCHLD, &w->old_chld, NULL);
		sigprocmask(SIG_SETMASK, &w->old, NULL);
		execvp(s->path, s->run.argv);
		e = errno;
	}
	while (write(report, &e, sizeof(e)) < 0 && errno == EINTR)
		;
	_exit(EXIT_CANNOT);
}

/* 0 once the program runs; else its errno. */
static int start(struct watch *w)
{
	int p[2], e = 0;
	ssize_t n;

	if (pipe2(p, O_CLOEXEC))
		return errno;
	w->child = fork();
	if (w->child == 0)
		become_program(w, p[1]);
	if (w->child < 0)
		e = errno;
	close(p[1]);
	do
		n = w->child > 0 ? read(p[0], &e, sizeof(e)) : 0;
	while (n < 0 && errno == EINTR);
	close(p[0]);
	if (n == sizeof(e))
		waitpid(w->child, NULL, 0);
	return e;
}

int tdmi_supervise(struct supervise *s, char *err)
{
	struct watch w = { .s = s, .terminal = !s->quiet && isatty(STDERR_FILENO) };
	int e;

	take_signals(&w);
	w.start = now_ns();
	e = start(&w);
	if (e) {
		sigaction(SIGCHLD, &w.old_chld, NULL);
		sigprocmask(SIG_SETMASK, &w.old, NULL);
		return tdmi_fail(err, e == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT, "%s: %s", s->path, strerror(e));
	}
	w.tick = w.start;
	w.second = w.start + SECOND_NS;
	watch(&w);
	s->run.seconds = (double)(now_ns() - w.start) / 1e9;
	tdmi_control_reap(s->c, (u32)getpid(), tdmi_proc_alive, NULL);
	say_all(&w);
	new_second(&w);
	erase(&w);
	return 0;
}
