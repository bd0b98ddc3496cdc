/* SPDX-License-Identifier: MIT */
/*
 * soft.h - an accelerator in software: a device of <tandem/device.h> with threads, memory and a page table of its own, behind a bus of a given speed.
 *
 * For programs that want to be written before the hardware is there, for tests, and as an example: soft.c uses what any device can use. A kernel is a C function
 * that runs on the device's threads and reaches the program's memory by tdm_device_read(), _write() and _atomic() at the program's own addresses.
 */
#ifndef TANDEM_SOFT_H
#define TANDEM_SOFT_H

#include <tandem/device.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tdm_soft;

struct tdm_soft_options {
	size_t size;           /* sizeof(struct tdm_soft_options) */
	uint64_t memory_bytes; /* of its own; a multiple of 2 MiB; it takes as much of this process's memory, beside the budget */
	uint64_t bus_bytes;    /* bytes a second that migration moves, both ways together; 0: as fast as it can be copied */
	unsigned threads;      /* at most 16; 0: one */
	unsigned flags;        /* TDM_DEVICE_WRITE_AHEAD */
	int share_fd;          /* its memory is that of several processes: a descriptor of tdm_soft_share_create(). 0: its own */
};

/* Make one. Memory for it is mapped here. The errors of tdm_device_attach(), and of a share: see tdm_device_share_init(); -EINVAL: share_fd is not one, or of
 * another size than memory_bytes. The descriptor is not used any more when this returns. */
TDM_API int tdm_soft_create(struct tdm *t, const struct tdm_soft_options *options, struct tdm_soft **out);
/* The errors of tdm_device_detach(). */
TDM_API int tdm_soft_destroy(struct tdm_soft *soft);
/* For tdm_device_migrate() and the like. */
TDM_API struct tdm_device *tdm_soft_device(struct tdm_soft *soft);

/* Memory for soft devices of several processes, which share what there is of it: each makes one with *fd as share_fd, and `bytes`, a multiple of 2 MiB. *fd is
 * close-on-exec, and never 0; the caller closes it. Processes come by it as by any descriptor: inherited, sent through a socket, or from /proc/PID/fd. The memory is
 * there as long as one of them has it, and counts as what each one of them holds. Who has the descriptor can see, change and hold up all that is there. -EINVAL: bytes; -ENOMEM,
 * -EMFILE, -ENFILE: no descriptor; -EOPNOTSUPP: there is no /proc. */
TDM_API int tdm_soft_share_create(uint64_t bytes, int *fd);

/* Run fn(thread, arg, i) for i = 0 .. n - 1 on the device's threads, and wait. -EINVAL, -ENODEV. */
TDM_API int tdm_soft_launch(struct tdm_soft *soft, void (*fn)(struct tdm_device_thread *t, void *arg, size_t i), void *arg, size_t n);

#ifdef __cplusplus
}
#endif

#endif
