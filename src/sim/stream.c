/* SPDX-License-Identifier: MIT */
/* stream.c - what one thread of an agent accesses. */
#include "sim/stream.h"

_Static_assert((int)TDM_SIM_SEQUENTIAL == TDM_PATTERN_SEQUENTIAL && (int)TDM_SIM_STRIDED == TDM_PATTERN_STRIDED && (int)TDM_SIM_UNIFORM == TDM_PATTERN_UNIFORM &&
	       (int)TDM_SIM_ZIPF == TDM_PATTERN_ZIPF && (int)TDM_SIM_CHASE == TDM_PATTERN_CHASE, "patterns of scenarios are those of pattern.h");

int tdmi_stream_open(struct tdm_stream *st, const struct tdm_scenario *s, u32 agent, u32 thread, char *err)
{
	const struct tdm_sim_agent *a = &s->agent[agent];
	struct tdm_pattern_spec spec = { .kind = (enum tdm_pattern_kind)a->pattern, .unit = a->unit, .stride = a->stride, .theta = a->theta, .writes = a->writes };
	int r;

	*st = (struct tdm_stream){ .a = a, .bytes = s->mapping[a->mapping.index].size };
	spec.bytes = st->bytes;
	if (a->pattern != TDM_SIM_TRACE) {
		/* What the check of the scenario let through has a pattern. */
		r = tdmi_pattern_init(&st->pattern, &spec, s->run.seed, (u64)agent << 32 | thread);
		TDM_BUG_ON(r);
		return 0;
	}
	r = tdmi_trace_open(&st->trace, a->trace, err);
	if (!r && tdmi_trace_map_init(&st->map, st->bytes)) {
		tdmi_trace_close(st->trace);
		r = tdmi_sim_fail(err, -ENOMEM, a->trace, 0, "no memory");
	}
	return r;
}

void tdmi_stream_close(struct tdm_stream *st)
{
	if (!st->trace)
		return;
	tdmi_trace_close(st->trace);
	tdmi_trace_map_destroy(&st->map);
	st->trace = NULL;
}

/* The first page of what is left of a record. */
static int next_piece(struct tdm_stream *st, u64 *op, char *err)
{
	u64 n = TDM_MIN(st->left, TDM_PAGE_SIZE - st->va % TDM_PAGE_SIZE), off;
	int r = tdmi_trace_map(&st->map, st->va, &off);

	if (r == -ENOMEM)
		return tdmi_sim_fail(err, r, st->a->trace, 0, "no memory");
	if (r || off >= st->bytes)
		return tdmi_sim_fail(err, -ENOSPC, st->a->trace, 0, "touches more than [mapping %s] has: it takes 2M of it for each 2M of addresses; make it larger",
				     st->a->mapping.name);
	*op = (off & ~(u64)7) | (st->write ? TDM_OP_WRITE : 0);
	st->va += n;
	st->left -= n;
	return 0;
}

static int next_of_trace(struct tdm_stream *st, u64 *ops, u32 n, char *err)
{
	struct tdm_access_record rec;
	u32 done = 0;
	int r;

	while (done < n) {
		if (st->left) {
			r = next_piece(st, &ops[done], err);
			if (r)
				return r;
			done++;
			continue;
		}
		r = tdmi_trace_next(st->trace, &rec, err);
		if (r < 0)
			return r;
		if (!r)
			break;
		if (rec.kind == TDM_TRACE_FETCH && !st->a->fetches)
			continue;
		st->va = rec.va;
		st->left = rec.size;
		st->write = rec.kind == TDM_TRACE_WRITE || rec.kind == TDM_TRACE_MODIFY;
	}
	return (int)done;
}

int tdmi_stream_next(struct tdm_stream *st, u64 *ops, u32 n, char *err)
{
	if (st->trace)
		return next_of_trace(st, ops, n, err);
	tdmi_pattern_next(&st->pattern, ops, n);
	return (int)n;
}

u64 tdmi_stream_state(const struct tdm_stream *st)
{
	u64 h = 0;

	for (u32 i = 0; i < 4; i++) {
		h ^= st->pattern.rng.s[i];
		h = tdm_splitmix(&h);
	}
	return h;
}
