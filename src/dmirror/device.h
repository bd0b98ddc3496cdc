/* SPDX-License-Identifier: MIT */
/*
 * device.h - a device, between the files that make it up.
 *
 * Its commands are carried out by a thread of its own, of the engine's kind and with main's descriptors: one may wait for as long as the program likes (a
 * page under a userfaultfd of the program's own), and main has the engine to look after. Operations on the mm are between tdmi_mm_enter() and
 * tdmi_mm_exit(); what may wait for the program, which is every access to its memory, is outside of them.
 */
#ifndef TDM_DMIRROR_DEVICE_H
#define TDM_DMIRROR_DEVICE_H

#include "dmirror/dmirror.h"
#include "run/live.h"

enum tdm_dmirror_state {
	TDM_DMIRROR_IDLE,
	TDM_DMIRROR_POSTED,
	TDM_DMIRROR_DONE,
	TDM_DMIRROR_STOP,
};

struct tdm_dmirror {
	/* constant */
	u32 minor;
	bool coherent;              /* the CPU reaches its memory */
	struct tdm_live *live;
	struct tdm_ctx *ctx;        /* the thread's */
	struct plat_thread *thread;

	struct plat_mutex lock;     /* the program's threads only: one command at a time */
	tdm_a32 state;              /* enum tdm_dmirror_state; what follows is the thread's while it is POSTED, else that of who has the lock */
	u32 nr;
	struct tdm_dmirror_cmd cmd;
	int result;

	/* the thread's */
	u64 flags;                  /* TDM_DMIRROR_FLAG_... */
	void *bounce;               /* of the command that is being carried out, or NULL; changed inside an operation on the mm alone */
	size_t bounce_len;
};

/* dmirror.c: inside an operation on the mm, whatever it takes. */
void tdmi_dmirror_enter(struct tdm_dmirror *d);

/* One command each; on the device's thread. 0 or the -errno that the program gets. */
typedef int tdm_dmirror_op(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c);

/* access.c */
tdm_dmirror_op tdmi_dmirror_read, tdmi_dmirror_write;
/* The command's own memory on the way between the program and the device. -ENOMEM. */
int tdmi_dmirror_bounce(struct tdm_dmirror *d, u64 len);
void tdmi_dmirror_bounce_free(struct tdm_dmirror *d);
/* Copy from, or to, memory of the program, as it may access it itself; faults and waits as it would. -EFAULT: not all of it could be accessed. */
int tdmi_dmirror_fetch(struct tdm_dmirror *d, void *dst, u64 src, u64 len);
int tdmi_dmirror_store(struct tdm_dmirror *d, u64 dst, const void *src, u64 len);
/* snapshot.c */
tdm_dmirror_op tdmi_dmirror_snapshot;

#endif
