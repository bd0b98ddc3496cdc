/* SPDX-License-Identifier: MIT */
/*
 * abi.h - what the kernel's HMM test driver (lib/test_hmm.c) and its test suite say to each other: an ABI of theirs, in no installed header, which
 * has only grown since Linux 6.1.
 *
 * Rules for every command: addr is page-aligned, npages > 0, and the range does not wrap, else -EINVAL; cpages and faults are zero at first; the struct is
 * copied back on success alone.
 */
#ifndef TDM_DMIRROR_ABI_H
#define TDM_DMIRROR_ABI_H

#include <linux/ioctl.h>
#include "base/types.h"

/* hmm_dmirror0 to 3; the second half is coherent. */
#define TDM_DMIRROR_MINORS 4u
#define TDM_DMIRROR_COHERENT 2u
#define TDM_DMIRROR_PATH "/dev/hmm_dmirror"

struct tdm_dmirror_cmd {
	u64 addr;   /* in: of the process, for the device */
	u64 ptr;    /* in: of the process, for the caller's bytes */
	u64 npages; /* in */
	u64 cpages; /* out: pages copied, read, or moved */
	u64 faults; /* out: times that the device found something missing, and asked for all the rest */
};
_Static_assert(sizeof(struct tdm_dmirror_cmd) == 40, "five numbers");

enum tdm_dmirror_nr {
	TDM_DMIRROR_READ,            /* the device reads; the bytes go to ptr */
	TDM_DMIRROR_WRITE,           /* the device writes the bytes at ptr */
	TDM_DMIRROR_MIGRATE_TO_DEV,  /* move what can be moved, then read all of it as above; -ENOENT if any of it is not in the device's table */
	TDM_DMIRROR_MIGRATE_TO_SYS,  /* the way back; ptr is not used */
	TDM_DMIRROR_SNAPSHOT,        /* a byte a page to ptr: what the CPU has mapped, without a fault */
	TDM_DMIRROR_EXCLUSIVE,       /* the device alone has the pages; the bytes go to ptr */
	TDM_DMIRROR_CHECK_EXCLUSIVE, /* -EPERM if it still has any */
	TDM_DMIRROR_RELEASE,         /* all that is in the device's memory, of every process, goes back */
	TDM_DMIRROR_FLAGS,           /* npages is the flag word */
	TDM_DMIRROR_READ_UNLOCKED,   /* as READ; faults may wait for the process, however long */
	TDM_DMIRROR_NR
};
#define TDM_DMIRROR_TYPE 'H'
#define TDM_DMIRROR_REQUEST(nr) _IOWR(TDM_DMIRROR_TYPE, (nr), struct tdm_dmirror_cmd)
_Static_assert(TDM_DMIRROR_REQUEST(TDM_DMIRROR_SNAPSHOT) == 0xc0284804, "as the kernel numbers them");

#define TDM_DMIRROR_FLAG_FAIL_ALLOC ((u64)1 << 0) /* the next allocation fails, once: of the device's memory, or, on the way back, of a large page */

/* The bytes of a snapshot. */
#define TDM_DMIRROR_PROT_NONE   0x00u /* nothing is mapped, or not for us */
#define TDM_DMIRROR_PROT_READ   0x01u
#define TDM_DMIRROR_PROT_WRITE  0x02u
#define TDM_DMIRROR_PROT_PMD    0x04u /* by an entry that maps 2 MiB */
#define TDM_DMIRROR_PROT_PUD    0x08u /* 1 GiB */
#define TDM_DMIRROR_PROT_ZERO   0x10u /* the page of zeros that everybody shares */
#define TDM_DMIRROR_PROT_PRIVATE_LOCAL   0x20u /* in the memory of the device that was asked; its CPU entry is not present */
#define TDM_DMIRROR_PROT_PRIVATE_REMOTE  0x30u /* never seen: another device's page is like one that is not there */
#define TDM_DMIRROR_PROT_COHERENT_LOCAL  0x40u
#define TDM_DMIRROR_PROT_COHERENT_REMOTE 0x50u
#define TDM_DMIRROR_PROT_ERROR  0xffu /* no mapping, or none that may be read */

#endif
