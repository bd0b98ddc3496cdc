/* SPDX-License-Identifier: MIT */
/* uffd.h - UFFDIO_MOVE (Linux 6.8) for the bare loops that the benchmarks compare with, where the headers lack it. */
#ifndef TDM_BENCH_UFFD_H
#define TDM_BENCH_UFFD_H

#include <linux/userfaultfd.h>
#include <stdint.h>

#ifndef UFFDIO_MOVE
struct uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFD_FEATURE_MOVE (1u << 16)
#endif

#endif
