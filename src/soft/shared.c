/* SPDX-License-Identifier: MIT */
/*
 * shared.c - the memory of soft devices of several processes.
 *
 * A memfd of a size that nobody can change: a page that is cut off would end who touches it.
 */
#include "soft/shared.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tandem/soft.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int make_share(int fd, uint64_t bytes)
{
	void *share;
	int r;

	if (ftruncate(fd, (off_t)(TDM_SOFT_SHARE_BYTES + bytes)))
		return errno == EINTR ? -EAGAIN : -ENOMEM;
	share = mmap(NULL, TDM_SOFT_SHARE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (share == MAP_FAILED)
		return -ENOMEM;
	r = tdm_device_share_init(share, bytes);
	munmap(share, TDM_SOFT_SHARE_BYTES);
	return r ? r : fcntl(fd, F_ADD_SEALS, SEALS) ? -errno : 0;
}

int tdm_soft_share_create(uint64_t bytes, int *fd)
{
	int r, file;

	if (!fd || !tdm_device_share_bytes(bytes) || tdm_device_share_bytes(bytes) > TDM_SOFT_SHARE_BYTES)
		return -EINVAL;
	file = memfd_create("tandem-device", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (file < 0)
		return -errno;
	/* 0 says that there is none. */
	if (!file) {
		file = fcntl(0, F_DUPFD_CLOEXEC, 1);
		r = file < 0 ? -errno : 0;
		close(0);
		if (r)
			return r;
	}
	r = make_share(file, bytes);
	if (r)
		close(file);
	else
		*fd = file;
	return r;
}

int tdmi_soft_share_map(int fd, void *addr, size_t bytes)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) || (uint64_t)st.st_size != TDM_SOFT_SHARE_BYTES + bytes)
		return -EINVAL;
	if (mmap(addr, TDM_SOFT_SHARE_BYTES + bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return errno == ENOMEM ? -ENOMEM : -EINVAL;
	return madvise(addr, TDM_SOFT_SHARE_BYTES + bytes, MADV_DONTFORK) ? -EINVAL : 0;
}
