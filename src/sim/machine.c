/* SPDX-License-Identifier: MIT */
/* machine.c - runs a scenario. */
#include "sim/report.h"

int tdmi_sim_run(const struct tdm_scenario *s, const struct tdm_costs *costs, struct tdm_report *report, tdm_sim_progress_fn *progress, void *arg, char *err)
{
	return tdmi_sim_fail(err, -ENOSYS, s->path, 0, "this version reads and checks scenarios, and cannot run them yet; use --check");
}
