/* SPDX-License-Identifier: MIT */
/* agent.h - what the files of agents share: agent.c (who goes on), round.c (what is done in rounds), dma.c (devices). */
#ifndef TDM_SIM_AGENT_H
#define TDM_SIM_AGENT_H

#include "sim/machine.h"

/* The unit has nothing more to do; whoever comes after its agent begins, if it was the last. -errno, m->err. */
int tdmi_unit_end(struct tdm_machine *m, struct tdm_unit *u);

/* ---- round.c */
/* Is it done once, if no number of rounds is given? */
bool tdmi_agent_once(const struct tdm_sim_agent *a);
/* The CPUs that an agent's threads are on. How many. */
u32 tdmi_agent_cpus(const struct tdm_machine *m, const struct tdm_sim_agent *a, u32 cpus[TDM_CPUS_MAX]);
/* One round, or a part of one. */
int tdmi_agent_round(struct tdm_machine *m, struct tdm_unit *u);

/* ---- dma.c */
int tdmi_agent_dma_begin(struct tdm_machine *m, struct tdm_sim_run_agent *a, struct tdm_unit *u);
/* Give the device what it can take. */
int tdmi_agent_dma_step(struct tdm_machine *m, struct tdm_unit *u);
/* What the transfers that are under way have moved, and how often they had to try again. */
void tdmi_agent_dma_under_way(const struct tdm_sim_run_agent *a, u64 *bytes, u64 *retries);
/* No transfer is under way any more, whatever has become of it. */
void tdmi_agent_dma_end(struct tdm_machine *m, struct tdm_sim_run_agent *a);

#endif
