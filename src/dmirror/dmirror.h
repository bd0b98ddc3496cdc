/* SPDX-License-Identifier: MIT */
/*
 * dmirror.h - the devices that stand in for those of the kernel's HMM test driver, as the preloaded library's front end (front.c) sees them.
 *
 * All of this is called on threads of the program, with signals blocked: a handler might come back here, and wait for what it interrupts.
 */
#ifndef TDM_DMIRROR_H
#define TDM_DMIRROR_H

#include "dmirror/abi.h"

/* In the environment of the program: do not say why a device could not be opened. */
#define TDM_DMIRROR_QUIET_ENV "TANDEM_DMIRROR_QUIET"

struct tdm_dmirror;

/* Open /dev/hmm_dmirror<minor>. Starts the engine of this process if there is none. One thread at a time; no fork meanwhile. 0; -EBUSY: somebody else
 * manages this process; -ENODEV: a child that lost its engine; -ENOMEM; -errno of the kernel. */
int tdmi_dmirror_open(u32 minor, struct tdm_dmirror **out);
/* No command is under way, or will be. */
void tdmi_dmirror_close(struct tdm_dmirror *d);
/* Carry out a command that obeys the rules for all of them (abi.h), and wait; others wait for their turn. -EINVAL: there is no such command. */
int tdmi_dmirror_command(struct tdm_dmirror *d, u32 nr, struct tdm_dmirror_cmd *cmd);
/* Which of the n pages from va on, at most TDM_DMIRROR_LOOK, are in the private memory of any device, and so not at their addresses: a bit each. -ENODEV: no device is here. */
#define TDM_DMIRROR_LOOK 512u
int tdmi_dmirror_find_private(struct tdm_dmirror *d, u64 va, u32 n, u64 *bits);
/* In the child of a fork, once its engine runs: the device is the parent's. */
void tdmi_dmirror_forget(struct tdm_dmirror *d);

/* ---- within the front end: front.c, pagemap.c */
/* tdmi_dmirror_find_private() on any device that is open. */
int tdmi_dmirror_private(u64 va, u32 n, u64 *bits);
/* A file that is no device has been opened. */
void tdmi_dmirror_opened(int fd, const char *path);

#endif
