/* SPDX-License-Identifier: MIT */
/*
 * machine.h - one point of a scenario while it runs: the world and its CPUs, the iommu and devices, processes, mappings, objects, and who does what.
 *
 * Time. Each CPU and each device has a clock in cycles. What can go on are units: a thread of an agent on its CPU, a device, the software that serves the
 * iommu. The unit whose time comes first goes on, by a small step; of several, the first one. So everything happens in an order that the scenario and its seed
 * determine, and what one unit does lies between two steps of any other. A unit that loads and stores may run ahead of the others by a slice (agent.c), so
 * that steps need not be single accesses.
 */
#ifndef TDM_SIM_MACHINE_H
#define TDM_SIM_MACHINE_H

#include "mm/shm.h"
#include "port/cpus.h"
#include "port/iommu.h"
#include "sim/report.h"
#include "sim/stream.h"
#include "sim/vcpus.h"

#define TDM_SIM_UNITS 512u
#define TDM_SIM_BATCH 256u
#define TDM_SIM_NEVER (~(u64)0)

struct tdm_machine;
struct tdm_view;

/* A buffer object: memory of a device, or of the system in its place, without pages; mapped through its driver, which is object.c. */
struct tdm_object {
	struct tdm_machine *m;
	const struct tdm_sim_object *spec;
	u64 pages;
	u64 *pfn;                   /* of each page, where it lies now; NULL: nowhere yet */
	bool in_vram;
	u64 used;                   /* when it was last mapped or moved: the least is evicted first */
	u8 *content;                /* a byte for each 2 MiB: it is not all zeros */
	u32 nviews;
	struct tdm_view *view[TDM_SIM_MAPPINGS];
};

/* A mapping of a process. */
struct tdm_view {
	struct tdm_machine *m;
	const struct tdm_sim_mapping *spec;
	struct tdm_space *s;
	u64 start;
	u64 end;                    /* of the addresses that are kept for it: where it is chosen, somewhere in them */
	struct tdm_object *object;  /* or NULL */
	struct tdm_map *map;        /* of an object */
};

struct tdm_sim_dev {
	const struct tdm_sim_device *spec;
	struct tdm_iommu_dev *dev;
	u32 coherent, vram;         /* ranges of physical memory; 0: it has none */
	u8 *taken;                  /* of vram: a byte a page */
};

struct tdm_sim_run_agent;

/* One thing that can go on. */
struct tdm_unit {
	enum { TDM_UNIT_AGENT, TDM_UNIT_DEVICE, TDM_UNIT_HANDLER } what;
	struct tdm_sim_run_agent *a;
	u32 cpu, device;
	u64 next;                   /* it has nothing to do before; NEVER: it waits for another */
	u64 done;                   /* accesses or rounds */
	u32 no_memory;              /* accesses in a row that found none; rounds of reclaim that has a target, and made none */
	u64 began, end;             /* its CPU's clock when it did, and, if it has ended, then */
	bool ended;
	/* Threads that load and store. */
	struct tdm_stream stream;
	bool has_stream;
	u64 ops[TDM_SIM_BATCH];
	u32 op, nops;
	bool missing;               /* more than a quarter of the last accesses missed the TLB */
	u64 at;                     /* of what it goes through: a page. Of a device's: when it may have the next transfer */
	struct tdm_space *child;    /* of who forks: until it has executed */
};

struct tdm_sim_dma {
	struct tdm_dma dma;
	struct tdm_unit *unit;
	bool busy;
};

struct tdm_sim_run_agent {
	struct tdm_machine *m;
	const struct tdm_sim_agent *spec;
	u32 nunits, running;        /* of it; of these, not ended */
	bool begun, ended;
	u64 began, end;             /* machine time */
	u64 busy;                   /* cycles of CPUs that it took */
	u64 count[TDM_AGENT_NR];    /* CYCLES is worked out at the end */
	struct tdm_view *view;      /* or NULL */
	struct tdm_space *s;        /* whose */
	struct tdm_guest *guest;    /* whose vCPUs run it; or NULL */
	u64 base;                   /* the address of the view, for who accesses it: the process, or the guest */
	struct tdm_sim_dma *dma;    /* as many as the device's depth */
	u8 *dma_buf;
	u32 ndma, outstanding;
	struct tdm_pfn *pin;        /* of all pages of the mapping */
	u64 npinned;
};

struct tdm_machine {
	const struct tdm_scenario *sc; /* of this point */
	struct tdm_costs costs;
	struct tdm_world w;
	struct tdm_rcu_reader *reader;
	struct tdm_cpus cpus;
	struct tdm_iommu iommu;
	bool has_world, has_cpus, has_iommu;
	struct tdm_alloc alloc;     /* the iommu's */
	int (*tier)(void *arg, struct tdm_tier **tier); /* or NULL: puts something before the tier that was made. -errno: it is as it was */
	void *tier_arg;
	u32 system;                 /* range of memory that objects lie in when they are not in vram */
	struct tdm_sim_dev dev[TDM_SIM_DEVICES];
	struct tdm_space *space[TDM_SIM_PROCESSES];
	struct tdm_object object[TDM_SIM_OBJECTS];
	struct tdm_view view[TDM_SIM_MAPPINGS];
	struct tdm_guest *guest[TDM_SIM_GUESTS];
	u32 nguests;                /* that have been made */
	struct tdm_sim_run_agent agent[TDM_SIM_AGENTS];
	struct tdm_unit unit[TDM_SIM_UNITS];
	u32 nunits;
	u64 accesses;               /* of CPUs, since measuring began */
	u64 start;                  /* when measuring began; NEVER: it has not */
	struct tdm_sim_result from; /* what the counters said then */
	u64 tick;                   /* of object.c */
	tdm_sim_progress_fn *progress;
	void *progress_arg;
	u64 progress_done, progress_total;
	char *err;
};

static inline u64 tdm_machine_cost(const struct tdm_machine *m, enum tdm_cost c)
{
	return m->costs.cycles[c];
}

/* So much of a CPU's time. */
static inline void tdm_machine_pay(struct tdm_machine *m, u32 cpu, u64 cycles)
{
	tdm_core_pay(&m->cpus.core[cpu], TDM_CYC_WORK, cycles);
}

/* Everything that the scenario says is there, and agents are about to begin. sc, costs, err and start (NEVER) are set, all else is zero. -errno, err; either
 * way it is to be destroyed. */
int tdmi_machine_make(struct tdm_machine *m);
void tdmi_machine_destroy(struct tdm_machine *m);
/* The latest clock of any CPU or device. */
u64 tdmi_machine_now(const struct tdm_machine *m);
/* What the counters say, from the beginning on. */
void tdmi_machine_counts(struct tdm_machine *m, struct tdm_sim_result *out);
/* Begin to measure. */
void tdmi_machine_measure(struct tdm_machine *m);
/* What m->sc says of CPUs, memory, the iommu and devices, and nothing else of it; all of m besides sc, costs and tier is zeros. -errno: what there is of it
 * has to be ended all the same. */
int tdmi_machine_hardware(struct tdm_machine *m);
/* No space is left, and no PASID. */
void tdmi_machine_hardware_end(struct tdm_machine *m);
/* err: the scenario's line of that agent. */
int tdmi_machine_fail(struct tdm_machine *m, int r, const struct tdm_sim_section *section, const char *what);

/* ---- agent.c */
/* Whatever the agents need, and the units of those that begin at once. -errno, m->err. */
int tdmi_agents_init(struct tdm_machine *m);
void tdmi_agents_destroy(struct tdm_machine *m);
/* Until all that have an end have ended, or a limit is reached. */
int tdmi_agents_run(struct tdm_machine *m);

/* ---- object.c */
/* Its memory is found at once. -ENOMEM. */
int tdmi_object_init(struct tdm_machine *m, struct tdm_object *o, const struct tdm_sim_object *spec);
void tdmi_object_destroy(struct tdm_object *o);
/* Map it at v->start. */
int tdmi_object_mmap(struct tdm_object *o, struct tdm_view *v);
/* Unmap it, and map it again. If that fails it is not mapped, and the machine is of no use any more. */
int tdmi_object_remap(struct tdm_view *v);
/* Its memory goes there, and its mappings are zapped. To vram: the objects that were used longest ago leave, as few as it takes. -ENOMEM: there is no room,
 * whoever leaves, and then nobody has; or this machine is out of memory, and then some may have. cpu: whose time it is. */
int tdmi_object_move(struct tdm_object *o, bool vram, u32 cpu);
/* Map all of a view at once. Bytes, or -errno. */
s64 tdmi_object_fill(struct tdm_view *v);
/* Unmap it, and map it again so that nothing of it is left to faults (tdmi_remap_range()). Likewise. */
s64 tdmi_object_map_filled(struct tdm_view *v);

#endif
