/* SPDX-License-Identifier: MIT */
/* misc.c - clock, randomness, messages, the end. */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"

static void (*log_sink)(const char *line); /* written once, before engine threads run */

u64 plat_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts); /* the vDSO: no libc state */
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

int tdmi_linux_fd_keep(long fd)
{
	long high = fd < 0 || fd >= TDM_FD_HIGH ? -1 : tdm_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, TDM_FD_HIGH);

	if (high < 0)
		return (int)fd;
	tdm_sys1(SYS_close, fd);
	return (int)high;
}

int plat_random(void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		long r = tdm_sys3(SYS_getrandom, p, len, 0);

		if (r == -EINTR)
			continue;
		if (r < 0)
			return (int)r;
		p += r;
		len -= (size_t)r;
	}
	return 0;
}

void tdmi_linux_log_sink(void (*sink)(const char *line))
{
	log_sink = sink;
}

/* The program's, and not what an engine thread has under that number in a table of its own. */
static void write_stderr(const char *s)
{
	long pid = tdm_sys2(SYS_pidfd_open, tdm_sys0(SYS_getpid), 0);
	long fd = pid < 0 ? pid : tdm_sys3(SYS_pidfd_getfd, pid, 2, 0);

	if (fd >= 0) {
		tdm_sys3(SYS_write, fd, s, strlen(s));
		tdm_sys1(SYS_close, fd);
	}
	if (pid >= 0)
		tdm_sys1(SYS_close, pid);
}

void plat_log(const char *line)
{
	if (log_sink) {
		log_sink(line);
		return;
	}
	write_stderr("tandem: ");
	write_stderr(line);
	write_stderr("\n");
}

void plat_abort(const char *msg)
{
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		u64 mask;
	} dfl = { 0 };
	u64 none = 0;
	long pid = tdm_sys0(SYS_getpid);

	if (log_sink)
		log_sink(msg);
	else
		write_stderr(msg);
	tdm_sys4(SYS_rt_sigaction, SIGABRT, &dfl, 0, 8);
	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
	tdm_sys3(SYS_tgkill, pid, tdmi_linux_gettid(), SIGABRT);
	for (;;)
		tdm_sys2(SYS_kill, pid, SIGKILL);
}

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

bool tdmi_linux_each_thread(void (*fn)(void *arg, u32 tid), void *arg)
{
	char buf[2048] __attribute__((aligned(8)));
	long fd = tdm_sys4(SYS_openat, AT_FDCWD, "/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n = -1;

	while (fd >= 0 && (n = tdm_sys3(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64 *d = (const struct dirent64 *)(buf + at);
			u32 tid = 0;

			for (const char *c = d->name; *c >= '0' && *c <= '9'; c++)
				tid = tid * 10 + (u32)(*c - '0');
			if (tid)
				fn(arg, tid);
			at += d->reclen;
		}
	if (fd >= 0)
		tdm_sys1(SYS_close, fd);
	return n == 0;
}
