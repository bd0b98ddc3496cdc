/* SPDX-License-Identifier: MIT */
/* sim_world.h - the machine of a scenario (sim/machine.h) in which nothing happens but what the test does. */
#ifndef TDM_TESTS_SIM_WORLD_H
#define TDM_TESTS_SIM_WORLD_H

#include <stdlib.h>
#include <string.h>
#include "runner/t.h"
#include "sim/machine.h"

static struct tdm_scenario all, one;
static struct tdm_machine *m;
static char err[TDM_SIM_ERR];

/* `one` is the first point. */
static inline void parse(const char *text)
{
	if (tdmi_scenario_parse(&all, "f", text, NULL, 0, err) || tdmi_scenario_point(&all, 0, &one, err))
		t_fail(__FILE__, __LINE__, "%s", err);
}

static inline void make(void)
{
	struct tdm_costs costs;

	tdmi_costs_default(&costs);
	m = aligned_alloc(_Alignof(struct tdm_machine), sizeof(*m));
	CHECK(m != NULL);
	memset(m, 0, sizeof(*m));
	*m = (struct tdm_machine){ .sc = &one, .costs = costs, .start = TDM_SIM_NEVER, .err = err };
	if (tdmi_machine_make(m))
		t_fail(__FILE__, __LINE__, "%s", err);
}

static inline void start(const char *text)
{
	parse(text);
	make();
}

static inline void finish(void)
{
	tdmi_machine_destroy(m);
	free(m);
}

#endif
