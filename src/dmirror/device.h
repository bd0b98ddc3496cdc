/* SPDX-License-Identifier: MIT */
/*
 * device.h - a device, between the files that make it up.
 *
 * All descriptors of one minor are one device of the engine (run/device.h), with one page table. Its commands are jobs of its one thread: a command may wait for as
 * long as the program likes (a page under a userfaultfd of the program's own). Operations on the mm are between tdm_device_enter_mm() and tdmi_mm_exit();
 * what may wait for the program, which is every access to its memory, is outside of them.
 */
#ifndef TDM_DMIRROR_DEVICE_H
#define TDM_DMIRROR_DEVICE_H

#include "dmirror/dmirror.h"
#include "run/live.h"

/* One minor. Main's, but for what a command uses. */
struct tdm_dmirror {
	u32 minor;
	bool coherent;              /* the CPU reaches its memory */
	struct tdm_live *live;      /* NULL: nobody has opened it */
	u32 users;                  /* descriptors */
	struct tdm_device *dev;
	u8 *memory;                 /* private: the device's. What the pool knows it by stays as it is in the child of a fork */
	/* the device's thread's, for a command: */
	struct tdm_device_worker *w;
	void *bounce;               /* of the command that is being carried out, or NULL; changed inside an operation on the mm alone */
	size_t bounce_len;
};

/* One command each; on the device's thread. 0 or the -errno that the program gets. */
typedef int tdm_dmirror_op(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c);

/* access.c */
tdm_dmirror_op tdmi_dmirror_read, tdmi_dmirror_write;
/* What the device's table has of the range, to the command's own memory, and from there to ptr. -ENOENT: it has not all of it. */
int tdmi_dmirror_read_mapped(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c);
/* The command's own memory on the way between the program and the device. -ENOMEM. */
int tdmi_dmirror_bounce(struct tdm_dmirror *d, u64 len);
void tdmi_dmirror_bounce_free(struct tdm_dmirror *d);
/* Copy to memory of the program, as it may access it itself; faults and waits as it would. -EFAULT: not all of it could be accessed. */
int tdmi_dmirror_store(struct tdm_dmirror *d, u64 dst, const void *src, u64 len);
/* migrate.c */
tdm_dmirror_op tdmi_dmirror_migrate_to_dev, tdmi_dmirror_migrate_to_sys, tdmi_dmirror_exclusive, tdmi_dmirror_check_exclusive, tdmi_dmirror_release;
/* private_file.c: private mappings of files in the range, if every page of them there has been written, become anonymous memory. What cannot stays. Not within the mm. */
void tdmi_dmirror_make_anonymous(struct tdm_dmirror *d, u64 start, u64 end);
/* snapshot.c */
tdm_dmirror_op tdmi_dmirror_snapshot;

#endif
