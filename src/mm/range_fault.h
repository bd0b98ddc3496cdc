/* SPDX-License-Identifier: MIT */
/*
 * range_fault.h - what is at a range of addresses, for a port that keeps a page table of its own.
 *
 * One u64 a page, in and out. In: what is wanted of the page. Out: what may be put into the port's table, if tdm_interval_read_retry() says under the driver's
 * lock that nothing has changed since. A page that is VALID is
 *
 *   the process's    the port reaches it at its address, as the process does. The payload is the address / 4096
 *   DEVICE           in the memory of the owner's pool: the payload is its frame
 *   EXCLUSIVE        the owner has it for itself (exclusive.c): the payload is its frame of ram, whose home has the bytes
 *
 * Without a request it is a snapshot: what is not there is 0, and nothing is brought. A page that has been taken home counts as not there: no port may have it
 * without bringing it back, so that it is known to be used.
 */
#ifndef TDM_MM_RANGE_FAULT_H
#define TDM_MM_RANGE_FAULT_H

#include "mm/notifier.h"

struct tdm_ctx;

#define TDM_RF_VALID ((u64)1 << 63)   /* out: may be read */
#define TDM_RF_WRITE ((u64)1 << 62)   /* out: and written */
#define TDM_RF_ERROR ((u64)1 << 61)   /* out: cannot be had: no mapping, one that may not be read, bytes that are lost, a special leaf */
#define TDM_RF_DEVICE ((u64)1 << 60)  /* out: see above */
#define TDM_RF_ORDER_SHIFT 55         /* out: 5 bits: 2^order pages are mapped by one leaf: 0, 9, 18 */
#define TDM_RF_ORDER_MASK ((u64)31 << TDM_RF_ORDER_SHIFT)
#define TDM_RF_REQ_FAULT ((u64)1 << 54) /* in: bring it */
#define TDM_RF_REQ_WRITE ((u64)1 << 53) /* in: so that it may be written; with REQ_FAULT */
#define TDM_RF_STICKY ((u64)127 << 48)  /* out as in: what is wanted, so that it can be tried again, and five bits that are the caller's */
#define TDM_RF_EXCLUSIVE ((u64)1 << 47) /* out: see above */
#define TDM_RF_COHERENT ((u64)1 << 46)  /* out: it is the process's, and lies in coherent memory: */
#define TDM_RF_FOREIGN ((u64)1 << 45)   /* out: but not of the owner's device */
#define TDM_RF_PAYLOAD (((u64)1 << 45) - 1)

#define TDM_RF_HEADS 1u /* flags: of what one leaf maps only the first entry in the range is written */

struct tdm_range_fault {
	u64 start, end;     /* whole pages; half-open */
	u64 *entry;         /* one a page of the range */
	u64 default_flags;  /* wanted of a page: (entry & flags_mask) | default_flags */
	u64 flags_mask;
	const void *owner;  /* whose device memory, and exclusive pages, are VALID as they are; NULL: nobody's */
	struct tdm_interval_notifier *in; /* or NULL: then -EBUSY does not tell, and the result may be old */
	u64 seq;            /* from tdm_interval_read_begin(in) */
	u32 flags;
};

static inline u32 tdm_rf_order(u64 entry)
{
	return (u32)(entry >> TDM_RF_ORDER_SHIFT) & 31;
}

/*
 * 0, or: -EINVAL  unaligned, empty, or beyond all addresses; REQ_WRITE without REQ_FAULT
 *        -EBUSY   something in the range has changed since seq: begin again. Also: what is brought is taken away again and again
 *        -EFAULT  wanted, and there is no mapping, or one that may not be read, or the bytes are lost, or there is a special leaf
 *        -EPERM   wanted for writing, and the mapping may not be written
 *        -ENOMEM  no memory to bring it, after some tries
 * Entries before the one that failed are out, the others are in. A device's page that its owner wants to write, and which its mapping allows it to, is VALID and
 * WRITE without a fault. No lock is held; the caller is in the mm, and is out of it for a while where something must be brought.
 */
int tdmi_range_fault(struct tdm_ctx *ctx, struct tdm_range_fault *rf);

/* The same, from read_begin on, until it has worked; rf->seq is for read_retry. -ETIME: nothing has been brought for so long. The time begins
 * anew whenever something was. 0: no limit. The caller is in the mm. */
int tdmi_range_fault_unlocked(struct tdm_ctx *ctx, struct tdm_range_fault *rf, u64 timeout_ns);

#endif
