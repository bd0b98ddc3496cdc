/* SPDX-License-Identifier: MIT */
/* column.c - the numbers that a scenario can print, by name. */
#include <string.h>
#include "mm/space.h"
#include "sim/column.h"

_Static_assert((int)TDM_COL_CYCLES == TDM_SC_NR, "the engine's counters come first");
#define SAME(id) _Static_assert((int)TDM_COL_##id == TDM_SC_##id, "in its order")
SAME(FAULTS);
SAME(COPIED);
SAME(SWAPPED_OUT);
SAME(REFAULTS);
SAME(FLUSHES);
SAME(SECONDARY_DEFERRED);
SAME(COHERENT_COPIED);
SAME(TABLES);

struct name {
	const char *name, *what;
};

#define NAME(id, n, w) { n, w },
static const struct name counts[] = { TDM_SIM_COUNTS(NAME) };
static const struct name agent_counts[] = { TDM_SIM_AGENT_COUNTS(NAME) };

static u32 find(const struct name *names, u32 n, const char *name)
{
	u32 i = 0;

	while (i < n && strcmp(names[i].name, name))
		i++;
	return i;
}

enum tdm_sim_count tdmi_sim_count_find(const char *name)
{
	return (enum tdm_sim_count)find(counts, TDM_COL_NR, name);
}

enum tdm_sim_agent_count tdmi_sim_agent_count_find(const char *name)
{
	return (enum tdm_sim_agent_count)find(agent_counts, TDM_AGENT_NR, name);
}

const char *tdmi_sim_count_name(u32 n, const char **what)
{
	if (n >= TDM_COL_NR)
		return NULL;
	*what = counts[n].what;
	return counts[n].name;
}

const char *tdmi_sim_agent_count_name(u32 n, const char **what)
{
	if (n >= TDM_AGENT_NR)
		return NULL;
	*what = agent_counts[n].what;
	return agent_counts[n].name;
}
