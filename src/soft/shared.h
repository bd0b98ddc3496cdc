/* SPDX-License-Identifier: MIT */
/* shared.h - the memory of soft devices of several processes: a file, whose first 2 MiB are for the share, and the rest for the bytes. */
#ifndef TDM_SOFT_SHARED_H
#define TDM_SOFT_SHARED_H

#include "base/types.h"

#define TDM_SOFT_SHARE_BYTES TDM_HUGE_SIZE

/* Map all of it at addr, which is 2 MiB-aligned and reserved: the share first. A child of a fork does not have it. -EINVAL: it is none, or of another size; -ENOMEM. */
int tdmi_soft_share_map(int fd, void *addr, size_t bytes);

#endif
