/* SPDX-License-Identifier: MIT */
/* scenario_value.h - the types of a scenario's values: for scenario_keys.c, whose tables have them, and scenario_value.c, which reads them. */
#ifndef TDM_SIM_SCENARIO_VALUE_H
#define TDM_SIM_SCENARIO_VALUE_H

#include "sim/scenario.h"

enum tdm_sim_type {
	T_U32,       /* min to max */
	T_COUNT,     /* likewise, as "10M" */
	T_SIZE,      /* bytes; a multiple of min, up to max */
	T_BOOL,
	T_WORD,      /* one of `words`: which, a u32 */
	T_BIT,       /* likewise of two, a bool */
	T_PERCENT,   /* thousandths */
	T_THETA,     /* thousandths, 0.001 to 10 */
	T_DURATION,
	T_GEOMETRY,
	T_LEAVES,
	T_REF,       /* of the section kind min */
	T_PATH,
	T_THREADS,
	T_PRESET,
};

struct tdm_sim_key {
	const char *name;
	enum tdm_sim_type type;
	size_t at;
	u64 min, max;
	const char *const *words;
};

/* An initializer of a struct tdm_tlb_geometry. */
#define TDM_TLB_OF(sets, ways) { sets, ways }

/* Put the value into the key's field of a section. -EINVAL, with err. */
int tdmi_value_set(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, struct tdm_sim_section *to);
/* "KEY: expected WHAT, not 'VALUE'"; -EINVAL. */
int tdmi_value_expected(const struct tdm_sim_origin *o, const char *key, const char *value, const char *what);
/* May a section be called so? */
bool tdmi_section_name_ok(const char *name);
/* The n-th of the TLBs that have names; 0: the default. */
void tdmi_sim_preset(u32 n, struct tdm_tlb_config *out);

#endif
