/* SPDX-License-Identifier: MIT */
/*
 * uffd.c - tries, before anything starts, what every managed process will do: open a userfaultfd that also serves faults inside
 * system calls, with MOVE (the page goes out and comes back without a copy) and fork events (without them a child reads zeros).
 */
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "cmd/cmd.h"
#include "port/uapi.h"

/* What the host port asks for and an older kernel, or too few rights, may refuse. */
#define FEATURES (TDM_UFFD_FEATURE_MOVE | UFFD_FEATURE_EVENT_FORK)

static int open_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), dev, e;

	if (fd >= 0 || errno != EPERM)
		return fd < 0 ? -errno : fd;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -EPERM;
	fd = ioctl(dev, TDM_USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	e = errno;
	close(dev);
	return fd < 0 ? -e : fd;
}

static int ask(int fd, u64 features, u64 *known)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (ioctl(fd, UFFDIO_API, &api))
		return -errno;
	*known = api.features;
	return 0;
}

static void explain(int error, bool has_move, char *err)
{
	struct utsname u = { 0 };

	switch (error) {
	case -ENOSYS:
		tdmi_fail(err, 0,
			  "this kernel has no userfaultfd, or a container hides it; use a kernel with CONFIG_USERFAULTFD, or allow the "
			  "system call (seccomp)");
		return;
	case -EPERM:
		tdmi_fail(err, 0,
			  "no right to open a userfaultfd; run as root or with CAP_SYS_PTRACE (the permissions of /dev/userfaultfd, or "
			  "sysctl vm.unprivileged_userfaultfd=1, "
			  "give the descriptor, but not the fork events that are needed too)");
		return;
	case -EINVAL:
		uname(&u);
		if (!has_move) {
			tdmi_fail(err, 0, "kernel %s has no UFFDIO_MOVE; Linux 6.8 or later is needed", u.release);
			return;
		}
		break;
	case -EACCES: /* from ask(): the descriptor is there, the fork events are not */
		tdmi_fail(err, 0,
			  "a userfaultfd may be opened, but not follow fork, which takes CAP_SYS_PTRACE; run as root or with that "
			  "capability");
		return;
	}
	tdmi_fail(err, 0, "userfaultfd does not work here: %s", strerror(-error));
}

int tdmi_uffd_check(char *err)
{
	u64 known = 0;
	int fd = open_uffd(), r = fd, again;

	if (fd >= 0) {
		r = ask(fd, FEATURES, &known);
		if (r == -EPERM)
			r = -EACCES;
		close(fd);
		again = r == -EINVAL ? open_uffd() : -1; /* a descriptor is asked once */
		if (again >= 0) {
			ask(again, 0, &known);
			close(again);
		}
	}
	if (r < 0)
		explain(r, known & TDM_UFFD_FEATURE_MOVE, err);
	return r < 0 ? r : 0;
}
