/* SPDX-License-Identifier: MIT */
/* unpack.h - the bytes of a file, or what gzip or zstd packed into it. */
#ifndef TDM_SIM_UNPACK_H
#define TDM_SIM_UNPACK_H

#include "sim/text.h"

struct tdm_unpack;

/* path is the caller's, and lives as long. -errno; err. */
int tdmi_unpack_open(struct tdm_unpack **out, const char *path, char *err);
/* At most len > 0 bytes, one at least; 0: the end, of a stream that is whole. -EINVAL: damaged, or cut off; -errno; err. *n: how many. */
int tdmi_unpack_read(struct tdm_unpack *u, char *buf, size_t len, size_t *n, char *err);
void tdmi_unpack_close(struct tdm_unpack *u);

#endif
