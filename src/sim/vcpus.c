// SPDX-License-Identifier: MIT
/* vcpus.c - see vcpus.h: what a second-stage table and the CPUs know of each other. */
#include "sim/vcpus.h"

static struct tdm_core *current(const struct tdm_guest *gu)
{
	return &gu->cpus->core[gu->cpus->current];
}

static u64 now(void *arg)
{
	return current(arg)->clock;
}

static void pay(void *arg, u64 cycles)
{
	tdm_core_pay(current(arg), TDM_CYC_WORK, cycles);
}

static void flush(void *arg, u64 g, u64 end)
{
	struct tdm_guest *gu = arg;

	tdmi_cpus_guest_flush(gu->cpus, &gu->on, g, end);
}

static const struct tdm_stage2_machine machine = { .now = now, .pay = pay, .flush = flush };

/* The vCPU leaves its guest, and comes back. */
static int fault(void *arg, u32 cpu, u64 g, enum tdm_access access)
{
	struct tdm_guest *gu = arg;

	TDM_BUG_ON(gu->cpus->current != cpu);
	return tdmi_vcpu_miss(&gu->vcpu, g, access == TDM_ACCESS_WRITE);
}

int tdmi_guest_init(struct tdm_guest *gu, struct tdm_cpus *cpus, struct tdm_space *s, u64 start, u64 size, const struct tdm_stage2_config *config)
{
	struct tdm_stage2_config with = *config;
	int r;

	with.machine = &machine;
	with.machine_arg = gu;
	gu->cpus = cpus;
	gu->on = (struct tdm_cpus_guest){ .s = s, .pgt = &gu->st.pgt, .fault = fault, .arg = gu };
	/* First: the table's end has the TLBs forget. */
	r = tdmi_cpus_guest_add(cpus, &gu->on);
	if (r)
		return r;
	r = tdmi_stage2_init(&gu->st, s, start, size, &with);
	if (r) {
		tdmi_cpus_guest_del(cpus, &gu->on);
		return r;
	}
	gu->vcpu = (struct tdm_vcpu){ .st = &gu->st, .reader = cpus->reader, .section = tdmi_rcu_register(&gu->st.rcu) };
	TDM_BUG_ON(!gu->vcpu.section); /* the first one finds a place */
	return 0;
}

void tdmi_guest_destroy(struct tdm_guest *gu)
{
	tdmi_rcu_unregister(gu->vcpu.section);
	tdmi_stage2_destroy(&gu->st);
	tdmi_cpus_guest_del(gu->cpus, &gu->on);
}

int tdmi_guest_enter(struct tdm_guest *gu, u32 cpu)
{
	return tdmi_cpus_guest_enter(gu->cpus, cpu, &gu->on);
}
