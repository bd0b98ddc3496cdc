/* SPDX-License-Identifier: MIT */
/*
 * trace.h - recorded accesses.
 *
 * Two forms of text, told apart by the first line that says something:
 *
 *   lackey   what "valgrind --tool=lackey --trace-mem=yes" writes: "I  04001090,3", " L 1ffefffe7c,4", " S ...", " M ..."; lines of valgrind's own ("==1== ...",
 *            "--1-- ...") are passed over
 *   plain    "R 7f12" or "W 0x7f12": a read or a write of 8 bytes at that address; lines that begin with '#' are passed over
 *
 * plain or packed by gzip or zstd, told apart by their first bytes. Read as a stream, in constant memory, whatever the length of lines. Anything else is an
 * error, and so is an end in the middle of a line or of a packed stream: what has been read so far is no trace then.
 */
#ifndef TDM_SIM_TRACE_H
#define TDM_SIM_TRACE_H

#include "sim/text.h"

enum tdm_trace_kind { TDM_TRACE_FETCH, TDM_TRACE_READ, TDM_TRACE_WRITE, TDM_TRACE_MODIFY };

struct tdm_access_record {
	u64 va;
	u32 size;                 /* bytes, 1 to 2^20; va + size does not wrap */
	enum tdm_trace_kind kind;
};

struct tdm_trace;

/* path is the caller's, and lives as long. -errno; -EINVAL: no trace; err. */
int tdmi_trace_open(struct tdm_trace **out, const char *path, char *err);
/* The next access. 1; 0: the end, and all of it was right; -EINVAL, -errno: err. After either the same again. */
int tdmi_trace_next(struct tdm_trace *t, struct tdm_access_record *r, char *err);
void tdmi_trace_close(struct tdm_trace *t);

/* Where the addresses of a trace come to lie in a mapping: each 2 MiB of them that is touched gets the next 2 MiB of the mapping. Memory by what is touched. */
struct tdm_trace_map {
	u64 *key;        /* va >> 21, plus 1; 0: empty */
	u32 *place;
	u32 size, used;  /* size: a power of two */
	u64 blocks;      /* of the mapping */
};

/* bytes: of the mapping; what is less than 2 MiB at its end is one block more. -ENOMEM. */
int tdmi_trace_map_init(struct tdm_trace_map *m, u64 bytes);
void tdmi_trace_map_destroy(struct tdm_trace_map *m);
/* The byte of the mapping. -ENOSPC: the trace touches more than the mapping has; -ENOMEM. */
int tdmi_trace_map(struct tdm_trace_map *m, u64 va, u64 *offset);

#endif
