/* SPDX-License-Identifier: MIT */
/* report.h - what a scenario has come to: a row a point of its sweep, as a table for people and as JSON for machines, with the same numbers in both. */
#ifndef TDM_SIM_REPORT_H
#define TDM_SIM_REPORT_H

#include <stdio.h>
#include "sim/scenario.h"

/* All that was counted at one point. */
struct tdm_sim_result {
	u64 count[TDM_COL_NR];
	u64 agent[TDM_SIM_AGENTS][TDM_AGENT_NR];
	u64 generator;    /* a hash of the state in which all random numbers' generators ended */
};

struct tdm_report {
	const struct tdm_scenario *s;
	u64 hz;
	u32 nrows;
	struct tdm_sim_result *row; /* of points 0 to nrows - 1 */
};

/* s: as it was read, not of a point; it lives as long. hz: of the machine's clock. */
void tdmi_sim_report_init(struct tdm_report *r, const struct tdm_scenario *s, u64 hz);
void tdmi_sim_report_free(struct tdm_report *r);
/* What came of the next point, copied. -ENOMEM. */
int tdmi_sim_report_add(struct tdm_report *r, const struct tdm_sim_result *result);
/* -EIO: it could not be written. */
int tdmi_sim_report_print(const struct tdm_report *r, FILE *f);
/* One object; integers are exact, quotients have two decimals as in the table, and null stands for a division by zero. -EIO, -ENOMEM. */
int tdmi_sim_report_json(const struct tdm_report *r, FILE *f);

/* A bar with an estimate, for whoever waits longer than two seconds. */
struct tdm_progress {
	int fd;                     /* -1: nobody looks */
	u64 (*now)(void);           /* in nanoseconds */
	u64 start, last;
	bool shown;
};

/* fd is written to if it is a terminal, or `always`. */
void tdmi_progress_begin(struct tdm_progress *p, int fd, bool always, u64 (*now)(void));
/* done of total; total 0: nobody knows. Cheap. */
void tdmi_progress_update(struct tdm_progress *p, u64 done, u64 total);
/* Nothing of it remains to be seen. */
void tdmi_progress_end(struct tdm_progress *p);

/* machine.c: run all points of s, and add what came of each to the report. done, total: what the progress bar shows. 0, or -errno with a line in err. */
typedef void tdm_sim_progress_fn(void *arg, u64 done, u64 total);
int tdmi_sim_run(const struct tdm_scenario *s, const struct tdm_costs *costs, struct tdm_report *report, tdm_sim_progress_fn *progress, void *arg, char *err);

#endif
