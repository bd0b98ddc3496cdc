/* SPDX-License-Identifier: MIT */
/* stream.h - what one thread of an agent accesses, one after the other: by a pattern, or as a trace says. */
#ifndef TDM_SIM_STREAM_H
#define TDM_SIM_STREAM_H

#include "sim/pattern.h"
#include "sim/scenario.h"
#include "sim/trace.h"

struct tdm_stream {
	const struct tdm_sim_agent *a;
	u64 bytes;                    /* of the mapping */
	struct tdm_pattern pattern;
	/* of a trace alone */
	struct tdm_trace *trace;
	struct tdm_trace_map map;
	u64 va, left;                 /* of the last record, what is still to come: its later pages */
	bool write;
};

/* Of thread `thread` of agent `agent` of s, which is of one point, and lives as long. -errno of a trace, -ENOMEM; err. */
int tdmi_stream_open(struct tdm_stream *st, const struct tdm_scenario *s, u32 agent, u32 thread, char *err);
void tdmi_stream_close(struct tdm_stream *st);
/* The next accesses, at most n > 0: bytes of the mapping, and TDM_OP_WRITE (sim/pattern.h). A record of a trace is one access for each page that it touches.
 * How many; 0: the trace has ended, patterns never do. -EINVAL, -errno of the trace; -ENOSPC: it touches more than the mapping has; err. */
int tdmi_stream_next(struct tdm_stream *st, u64 *ops, u32 n, char *err);
/* A hash of the generator's state. */
u64 tdmi_stream_state(const struct tdm_stream *st);

#endif
