/* SPDX-License-Identifier: MIT */
/*
 * vcpus.h - the vCPUs of a guest on the CPUs of a simulated machine: the second-stage table (port/stage2.h) behind the TLBs of the CPUs (port/cpus.h).
 *
 * A vCPU is a CPU that has entered the guest. Its accesses are those of cpus.h, tdmi_cpus_read() and the others, by guest address: address g is address start
 * + g of the process. The guest has no page tables of its own here: what it takes for virtual is physical, so a walk is one of the second stage, and so is an
 * entry of the TLB, under the guest's VMID.
 *
 * Time is the CPUs': an exit because of a miss is the CPU's that runs the vCPU, hooks and rounds are the time of the CPU on whose behalf the engine runs
 * (cpus->current). A flush is one of the CPUs (cpus.h): those that run a vCPU of the guest are told, by the means that the machine has; the others forget when
 * they enter.
 *
 * One thread, which is the one of the CPUs; it may reclaim and change the process as well.
 */
#ifndef TDM_SIM_VCPUS_H
#define TDM_SIM_VCPUS_H

#include "port/cpus.h"
#include "port/stage2.h"

struct tdm_guest {
	struct tdm_stage2 st;
	struct tdm_cpus *cpus;
	struct tdm_cpus_guest on;
	struct tdm_vcpu vcpu;   /* all of them: one thread's, and they have the CPUs' clocks */
};

/* As tdmi_stage2_init(); config's machine is set in here. The CPUs are attached to s's world. Also -ENOSPC: VMIDs are used up; -EBUSY does not happen. */
int tdmi_guest_init(struct tdm_guest *gu, struct tdm_cpus *cpus, struct tdm_space *s, u64 start, u64 size, const struct tdm_stage2_config *config);
/* Before s is destroyed. CPUs that run a vCPU of it are idle afterwards. No lock, outside of sections. */
void tdmi_guest_destroy(struct tdm_guest *gu);
/* CPU cpu runs a vCPU of it from now on, until the next switch. -ENOMEM: nothing has changed. */
int tdmi_guest_enter(struct tdm_guest *gu, u32 cpu);

/* Does a vCPU of it run there now? */
static inline bool tdm_guest_runs(const struct tdm_guest *gu, u32 cpu)
{
	return gu->cpus->core[cpu].guest == &gu->on;
}

#endif
