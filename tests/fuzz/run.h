/* SPDX-License-Identifier: MIT */
/*
 * run.h - runs scripts that were made (gen.h), in this process or in one of its own, and makes those that fail smaller.
 *
 * A failure is known by what was said: the line of tdmi_script_run(), or the first one of a process that has ended badly, without numbers. A smaller script
 * fails in the same way if that is the same.
 */
#ifndef TDM_FUZZ_RUN_H
#define TDM_FUZZ_RUN_H

#include "gen.h"

#define RUN_ERR TDM_SIM_ERR

/* What can be used again from one script to the next. */
struct runner {
	struct tdm_script *x;
	const struct domain *d;        /* of all scripts; or NULL: each has its machine */
	bool parsed;                   /* the domain's machine */
	struct tdm_scenario sc, point;
	struct tdm_costs costs;
	struct knobs knobs;
};

/* d: or NULL. NULL: no memory. */
struct runner *runner_new(const struct domain *d);
/* As tdmi_script_run(), with an exit in its place if the machine cannot be made: that is a mistake of the generator. */
int runner_run(struct runner *r, const struct script *sc, struct tdm_script_result *res, char *err);

/* In a process of its own. false: nothing is wrong; else key is what was said, without numbers, and said all of its first line. */
bool run_apart(const struct script *sc, const struct domain *d, char key[RUN_ERR], char said[RUN_ERR]);
/* Make it smaller, as long as it fails by `key`. How many were tried. */
u32 shrink(struct script *sc, const struct domain *d, const char *key);

#endif
