/* SPDX-License-Identifier: MIT */
/*
 * tandem.h - put the anonymous memory of this process under a budget.
 *
 * tdm_start() attaches an engine to the calling process: from then on anonymous memory that the process maps is watched; when more of it
 * is resident than the budget allows, the coldest pages are compressed, or written to a file, and come back when anyone touches them.
 * The program does not notice, except by the clock. There is at most one engine in a process. The child of a fork has one of its own, by the same handle.
 *
 * All functions may be called from any thread, but not from a signal handler. They return 0 or -errno; errno itself is never written. An engine that has
 * been stopped is -EINVAL to all of them.
 */
#ifndef TANDEM_TANDEM_H
#define TANDEM_TANDEM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TDM_API __attribute__((visibility("default")))

/* The version of the library as "major.minor.patch". A static string. */
TDM_API const char *tdm_version(void);

struct tdm;

/* Set size to sizeof(struct tdm_options) and everything that you do not want to 0. */
struct tdm_options {
	size_t size;
	uint64_t ram_bytes;       /* budget in bytes for this process, everything included; at least 8 MiB; 0: no budget, only explicit calls evict */
	const char *const *tiers; /* "lz4:256M", "zstd", "file:/var/tmp:8G"; warmest first. NULL: "lz4", then a file in $TMPDIR or /var/tmp */
	unsigned ntiers;
	unsigned flags;           /* TDM_F_* */
};

#define TDM_F_STRICT 1u /* when every tier is full, end the process instead of exceeding the budget */

/* How faults were served, and what it cost. Set size to sizeof(struct tdm_stats); counters are since the start. */
struct tdm_stats {
	size_t size;
	uint64_t budget_bytes;      /* allowed */
	uint64_t usage_bytes;       /* measured now, as the kernel measures it */
	uint64_t peak_bytes;        /* the most that was seen */
	uint64_t managed_bytes;     /* resident pages of managed memory (mapped, and at home) */
	uint64_t home_bytes;        /* of these: on probation, a touch costs one soft fault */
	uint64_t out_bytes;         /* pages that are in a tier now, before packing */
	uint64_t packed_bytes;      /* the same pages, packed */
	uint64_t pool_bytes;        /* memory used by memory tiers */
	uint64_t disk_bytes;        /* file space used by file tiers */
	uint64_t overhead_bytes;    /* the engine's own tables */
	uint64_t soft_faults;       /* served from home */
	uint64_t hard_faults;       /* served from a tier */
	uint64_t zero_faults;       /* first touches served */
	uint64_t other_faults;      /* found already served */
	uint64_t soft_pages, hard_pages, zero_pages; /* pages brought by them, fault-around included */
	uint64_t home_pages;        /* pages taken home */
	uint64_t evicted_pages;     /* pages packed */
	uint64_t refaults;          /* hard faults on pages evicted a short while ago */
	uint64_t direct_reclaims;   /* faults that had to evict first */
	uint64_t stalls;            /* faults that waited because the budget was exceeded */
	uint64_t stall_ns;          /* time spent waiting so, all threads */
	uint64_t fault_ns;          /* time spent serving faults */
	uint64_t over_budget;       /* times that every tier was full */
	uint64_t pinned_pages;      /* refusals: a page could not be taken (pinned by the kernel, mlocked); each time that it was tried */
	uint64_t forks;             /* forks survived */
	uint64_t latency[32];       /* faults by service time: bucket i counts those below 2^(i+8) ns */
};

/* Attach an engine to this process. On success *out is the engine. -EBUSY: there is one already; -EINVAL: bad options; -EPERM: no right to
 * open a userfaultfd; -EOPNOTSUPP: the kernel lacks UFFDIO_MOVE (before Linux 6.8); -ENOMEM and the errors of the tiers. err, if not NULL,
 * receives one line for the user (errlen bytes at most, always terminated). */
TDM_API int tdm_start(const struct tdm_options *options, struct tdm **out, char *err, size_t errlen);

/* Bring every page home and detach. The process then has all of its memory back in ram. -ENOMEM: not everything fits; or the error of a tier that could
 * not give a page back. Then the engine stays, with all that it had. */
TDM_API int tdm_stop(struct tdm *t);

/* What the engine has done. -EINVAL: stats->size is unknown. */
TDM_API int tdm_stats_get(struct tdm *t, struct tdm_stats *stats);

/* Change the budget, in bytes; 0: none. */
TDM_API int tdm_budget_set(struct tdm *t, uint64_t ram_bytes);

/* Evict the pages of [addr, addr + len) to the warmest tier with room; what cannot go (pinned, mlocked, not anonymous) stays. addr and len are
 * multiples of the page size. *pages, if not NULL: pages evicted. -EINVAL: unaligned or empty; -ENOSPC: every tier is full, some may be out. */
TDM_API int tdm_pageout(struct tdm *t, void *addr, size_t len, size_t *pages);

/* Take the pages of the range home only (a touch then costs a soft fault). Otherwise like tdm_pageout(). */
TDM_API int tdm_take_home(struct tdm *t, void *addr, size_t len, size_t *pages);

/* Bring the pages of the range back ahead of their use. -EINVAL, or the error of a tier that could not give a page back. */
TDM_API int tdm_pagein(struct tdm *t, void *addr, size_t len);

/* Never manage this range: bring it back, and leave it alone from now on, until it is unmapped. -EINVAL, or a tier's error. */
TDM_API int tdm_exclude(struct tdm *t, void *addr, size_t len);

#ifdef __cplusplus
}
#endif

#endif
