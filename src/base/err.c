// SPDX-License-Identifier: MIT
#include "base/err.h"
#include "base/types.h"

static const struct {
	int err;
	const char *name, *text;
} errors[] = {
	{ 0, "0", "success" },
	{ EPERM, "EPERM", "operation not permitted" },
	{ ENOENT, "ENOENT", "no such file or directory" },
	{ ESRCH, "ESRCH", "no such process" },
	{ EINTR, "EINTR", "interrupted" },
	{ EIO, "EIO", "input/output error" },
	{ ENXIO, "ENXIO", "no such device" },
	{ E2BIG, "E2BIG", "argument list too long" },
	{ ENOEXEC, "ENOEXEC", "not a program" },
	{ EBADF, "EBADF", "bad file descriptor" },
	{ ECHILD, "ECHILD", "no child process" },
	{ EAGAIN, "EAGAIN", "temporarily not possible" },
	{ ENOMEM, "ENOMEM", "out of memory" },
	{ EACCES, "EACCES", "permission denied" },
	{ EFAULT, "EFAULT", "bad address" },
	{ EBUSY, "EBUSY", "busy" },
	{ EEXIST, "EEXIST", "exists already" },
	{ EXDEV, "EXDEV", "on another file system" },
	{ ENODEV, "ENODEV", "no such device" },
	{ ENOTDIR, "ENOTDIR", "not a directory" },
	{ EISDIR, "EISDIR", "is a directory" },
	{ EINVAL, "EINVAL", "invalid argument" },
	{ ENFILE, "ENFILE", "too many open files in the system" },
	{ EMFILE, "EMFILE", "too many open files" },
	{ ETXTBSY, "ETXTBSY", "program file is being written" },
	{ EFBIG, "EFBIG", "file too large" },
	{ ENOSPC, "ENOSPC", "no space left" },
	{ ESPIPE, "ESPIPE", "cannot seek" },
	{ EROFS, "EROFS", "read-only file system" },
	{ EPIPE, "EPIPE", "broken pipe" },
	{ ERANGE, "ERANGE", "out of range" },
	{ EDEADLK, "EDEADLK", "would deadlock" },
	{ ENAMETOOLONG, "ENAMETOOLONG", "name too long" },
	{ ENOSYS, "ENOSYS", "not implemented by this kernel" },
	{ ELOOP, "ELOOP", "too many symbolic links" },
	{ EPROTO, "EPROTO", "protocol error" },
	{ EBADMSG, "EBADMSG", "stored data is corrupt" },
	{ EOVERFLOW, "EOVERFLOW", "value too large" },
	{ EOPNOTSUPP, "EOPNOTSUPP", "not supported" },
	{ ETIMEDOUT, "ETIMEDOUT", "timed out" },
	{ ECANCELED, "ECANCELED", "canceled" },
	{ EDQUOT, "EDQUOT", "disk quota exceeded" },
};

static u32 find(int err)
{
	u32 i = 0;

	if (err < 0)
		err = -err;
	while (i < TDM_ARRAY_SIZE(errors) && errors[i].err != err)
		i++;
	return i;
}

const char *tdmi_err_name(int err)
{
	u32 i = find(err);

	return i < TDM_ARRAY_SIZE(errors) ? errors[i].name : "E?";
}

const char *tdmi_err_text(int err)
{
	u32 i = find(err);

	return i < TDM_ARRAY_SIZE(errors) ? errors[i].text : "unknown error";
}
