/* SPDX-License-Identifier: MIT */
/*
 * scenario.h - what is simulated: a machine, processes, devices, who does what, and what is printed.
 *
 * A scenario is a small text file of sections of "key = value"; docs/sim.md describes it for those who write one. Read by scenario.c; the keys are tables in
 * scenario_keys.c, their values are read by scenario_value.c; whether it all makes sense is said in scenario_check.c. Nothing here owns memory: a scenario may
 * be copied.
 *
 * A sweep runs the scenario once for each of its points: tdmi_scenario_point() makes the scenario of one. All points are checked when the file is read.
 */
#ifndef TDM_SIM_SCENARIO_H
#define TDM_SIM_SCENARIO_H

#include "port/tlb.h"
#include "sim/column.h"
#include "sim/cost.h"
#include "sim/script.h"
#include "sim/text.h"

#define TDM_SIM_NAME 32u
#define TDM_SIM_PATH 256u
#define TDM_SIM_DEVICES 8u
#define TDM_SIM_PROCESSES 32u
#define TDM_SIM_OBJECTS 8u
#define TDM_SIM_MAPPINGS 32u
#define TDM_SIM_GUESTS 4u
#define TDM_SIM_AGENTS 32u
#define TDM_SIM_AXES 4u
#define TDM_SIM_AXIS_KEYS 4u
#define TDM_SIM_AXIS_VALUES 64u
#define TDM_SIM_POINTS 1024u
#define TDM_SIM_COLUMNS_MAX 32u
#define TDM_SIM_KEYS 32u       /* of a section */
#define TDM_SIM_TEXT 48u       /* a value of a sweep, a key's path */

/* What every section begins with. */
struct tdm_sim_section {
	char name[TDM_SIM_NAME];       /* "" where there is only one */
	u32 line;                      /* 0: the section is not there, all is default */
	u32 set[TDM_SIM_KEYS];         /* the line in which each key was set, by its place in the table; 0: it was not. ~0: by --set */
};

/* The name of another section, and once the file has been read, which it is; -1: none is named. */
struct tdm_sim_ref {
	char name[TDM_SIM_NAME];
	s32 index;
};

enum tdm_sim_flush { TDM_SIM_FLUSH_LOCAL, TDM_SIM_FLUSH_IPI, TDM_SIM_FLUSH_BROADCAST };
enum tdm_sim_tier { TDM_SIM_TIER_NONE, TDM_SIM_TIER_LZ4 };
enum tdm_sim_aging { TDM_SIM_AGING_CLEAR, TDM_SIM_AGING_FLUSH, TDM_SIM_AGING_FLUSH_SECONDARY }; /* enum tdm_scan_young */

struct tdm_sim_machine {
	struct tdm_sim_section s;
	u32 cpus, asids;
	u32 flush;                     /* enum tdm_sim_flush */
	u64 ceiling;                   /* pages: more are a flush of all */
	u32 broadcast_pages;           /* that one broadcast can name */
	u32 preset;                    /* of the tlb; what is set besides has been put into it */
	struct tdm_tlb_config tlb;
	u64 leaves;                    /* sizes that the CPUs have: mask, bit = log2 */
	bool access_hw, dirty_hw;      /* walkers set these bits */
	u64 ram;                       /* bytes */
	u32 tier;                      /* enum tdm_sim_tier */
	bool batch, batch_secondary;
	u32 aging;                     /* enum tdm_sim_aging */
};

struct tdm_sim_iommu {
	struct tdm_sim_section s;
	bool access_hw, dirty_hw, snoop, sync_each;
	struct tdm_tlb_config iotlb;   /* one level */
	u64 leaves;
	u32 queue, split, whole_pages, requests, stalls, pin_after;
};

enum tdm_sim_fault { TDM_SIM_FAULT_NONE, TDM_SIM_FAULT_STALL, TDM_SIM_FAULT_PRI };

struct tdm_sim_device {
	struct tdm_sim_section s;
	u32 fault;                     /* enum tdm_sim_fault */
	bool ats, stop_marker;
	bool map_read_only;            /* its read faults ask for no more than reading */
	struct tdm_tlb_config atc;     /* one level */
	u64 leaves;
	u32 unit, burst, depth, group, credit, give_up;
	u64 coherent, vram;            /* bytes of memory that it has: with pages, without */
};

struct tdm_sim_process {
	struct tdm_sim_section s;
};

enum tdm_sim_placement { TDM_SIM_IN_VRAM, TDM_SIM_IN_SYSTEM };

struct tdm_sim_object {
	struct tdm_sim_section s;
	struct tdm_sim_ref device;
	u64 size;
	u64 contiguous;                /* bytes: its memory in vram comes in runs of this size, aligned to it */
	u32 placement;                 /* enum tdm_sim_placement: where it is at first */
	u64 max_prefault;              /* bytes that a fault fills at most */
	bool fault_huge;               /* a fault may fill more than the page that missed */
};

enum tdm_sim_mapping_kind { TDM_SIM_ANONYMOUS, TDM_SIM_SHARED, TDM_SIM_COHERENT, TDM_SIM_OBJECT };
enum tdm_sim_place { TDM_SIM_FIXED, TDM_SIM_CHOSEN }; /* chosen: by the engine, from what the object's device reports */
enum tdm_sim_content { TDM_SIM_ZERO, TDM_SIM_TEXTUAL, TDM_SIM_NOISE };

struct tdm_sim_mapping {
	struct tdm_sim_section s;
	struct tdm_sim_ref process, device, object; /* device: whose coherent memory; object: of which */
	u32 kind;                      /* enum tdm_sim_mapping_kind */
	u64 size, offset;              /* bytes; offset: of the object */
	u32 place;                     /* enum tdm_sim_place */
	u64 misalign;                  /* bytes: its address is that far behind a multiple of 1 GiB */
	bool writable, populate;       /* populate: its pages are there before anything begins */
	u32 content;                   /* enum tdm_sim_content: what they hold then */
};

enum tdm_sim_guest_aging { TDM_SIM_LOCKLESS, TDM_SIM_READ_LOCK, TDM_SIM_WRITE_LOCK }; /* enum tdm_stage2_aging */

/* Its memory is that of a process, from the first mapping to the last. */
struct tdm_sim_guest {
	struct tdm_sim_section s;
	struct tdm_sim_ref process;
	u32 vcpus, cpu;                /* vCPU k runs on CPU cpu + k */
	u32 aging;                     /* enum tdm_sim_guest_aging */
	bool fill_write;               /* faults take the lock for writing */
	bool elide_flush;
};

enum tdm_sim_kind {
	TDM_SIM_CPU,       /* threads that load and store */
	TDM_SIM_DMA,       /* a device that does */
	TDM_SIM_RECLAIM,   /* takes pages away */
	TDM_SIM_AGE,       /* looks at access bits and clears them */
	TDM_SIM_FORK,      /* forks a process; the child executes another program, or stays until the next round */
	TDM_SIM_UNMAP,     /* munmap and mmap again */
	TDM_SIM_PROTECT,   /* mprotect to read-only and back */
	TDM_SIM_DISCARD,   /* MADV_DONTNEED */
	TDM_SIM_LAZYFREE,  /* MADV_FREE */
	TDM_SIM_FILL,      /* maps an object */
	TDM_SIM_EVICT,     /* an object to system memory */
	TDM_SIM_RESTORE,   /* and back to vram */
	TDM_SIM_COLLAPSE,  /* tables of a mapping become leaves */
	TDM_SIM_VCPU,      /* as TDM_SIM_CPU, by vCPUs of a guest */
	TDM_SIM_KIND_NR,
};
enum tdm_sim_pattern { TDM_SIM_SEQUENTIAL, TDM_SIM_STRIDED, TDM_SIM_UNIFORM, TDM_SIM_ZIPF, TDM_SIM_CHASE, TDM_SIM_TRACE }; /* enum tdm_pattern_kind, and a file */
enum tdm_sim_by { TDM_SIM_BY_RANGE, TDM_SIM_BY_FAULT, TDM_SIM_BY_REMAP };

/* Does an agent of this kind access memory, by a pattern? Else it does something in rounds. On CPUs, or by a device? */
static inline bool tdm_sim_loads(u32 kind)
{
	return kind == TDM_SIM_CPU || kind == TDM_SIM_VCPU;
}

static inline bool tdm_sim_accesses(u32 kind)
{
	return tdm_sim_loads(kind) || kind == TDM_SIM_DMA;
}

#define TDM_SIM_ALL ((u32)-1)  /* threads: one on each CPU, or vCPU of the guest */
#define TDM_SIM_REST ((u32)-2) /* one on each CPU that no other agent names */

struct tdm_sim_agent {
	struct tdm_sim_section s;
	u32 kind;                      /* enum tdm_sim_kind */
	bool enabled;                  /* else it is as if it were not there; whoever comes after it does not wait */
	struct tdm_sim_ref process, mapping, device, object, guest, after;
	bool rest;                     /* of CPU: on all that no other agent names */
	/* CPUs [cpu, cpu + threads), once TDM_SIM_ALL and _REST have been worked out (of REST: any that are free, from 0 on; of a guest's: cpu, too). */
	u32 cpu, threads;
	u32 vcpu;                      /* of the guest: the first */
	u32 pattern;                   /* enum tdm_sim_pattern */
	u64 unit, stride;              /* bytes */
	u32 theta, writes;             /* thousandths; of 1000 accesses */
	char trace[TDM_SIM_PATH];      /* as it can be opened */
	bool fetches;                  /* of a trace: instructions, too */
	u64 accesses;                  /* each thread's, or the device's transfers; 0: until the others have ended */
	u64 rounds;                    /* likewise, of what is done in rounds */
	u64 pages;                     /* of a round */
	u64 target;                    /* bytes, of reclaim: until so many have gone */
	u64 transfer;                  /* bytes, of DMA */
	struct tdm_duration every;     /* from the beginning of one round, access or transfer to that of the next; 0: as fast as it goes */
	bool pin, exec;
	u32 by;                        /* enum tdm_sim_by */
};

struct tdm_sim_run {
	struct tdm_sim_section s;
	u64 seed, accesses;            /* accesses: of all CPUs together, 0: no limit */
	struct tdm_duration time;      /* likewise */
	struct tdm_sim_ref from;       /* measuring begins when this agent does; else at the start */
};

/* One or more keys that change together. */
struct tdm_sim_axis {
	u32 line, nkeys, nvalues;
	char key[TDM_SIM_AXIS_KEYS][TDM_SIM_TEXT];
	char value[TDM_SIM_AXIS_VALUES][TDM_SIM_AXIS_KEYS][TDM_SIM_TEXT];
};

struct tdm_scenario {
	char path[TDM_SIM_PATH];
	char question[200];
	struct tdm_sim_machine machine;
	struct tdm_sim_iommu iommu;    /* there is one if a device is there */
	struct tdm_sim_section costs;
	u64 cost_set[(TDM_COST_NR + 63) / 64];
	struct tdm_duration cost[TDM_COST_NR];
	u32 ndevices, nprocesses, nobjects, nmappings, nguests, nagents;
	struct tdm_sim_device device[TDM_SIM_DEVICES];
	struct tdm_sim_process process[TDM_SIM_PROCESSES];
	struct tdm_sim_object object[TDM_SIM_OBJECTS];
	struct tdm_sim_mapping mapping[TDM_SIM_MAPPINGS];
	struct tdm_sim_guest guest[TDM_SIM_GUESTS];
	struct tdm_sim_agent agent[TDM_SIM_AGENTS];
	struct tdm_sim_run run;
	u32 script_line, nops;         /* with a [script] there are no agents, and what they need */
	struct tdm_op op[TDM_SCRIPT_OPS];
	u32 naxes;
	struct tdm_sim_axis axis[TDM_SIM_AXES]; /* the first changes slowest */
	u32 ncolumns, columns_line;
	struct tdm_sim_column column[TDM_SIM_COLUMNS_MAX];
};

/* Read and check a file. set: "key=value" of the command line, which take the place of what the file says (several words: of a sweep over that key); or NULL.
 * -errno of the file, -EINVAL; err: one line. */
int tdmi_scenario_load(struct tdm_scenario *s, const char *path, const char *const *set, u32 nset, char *err);
/* The same of a string; `name` stands for the path, and traces are found from there. */
int tdmi_scenario_parse(struct tdm_scenario *s, const char *name, const char *text, const char *const *set, u32 nset, char *err);
/* How many points its sweep has; 1 without. */
u32 tdmi_scenario_points(const struct tdm_scenario *s);
/* The scenario of one point: all references are resolved, threads worked out. *out is of the same size as *s, and not it. -EINVAL does not happen for one that
 * has been read. */
int tdmi_scenario_point(const struct tdm_scenario *s, u32 point, struct tdm_scenario *out, char *err);
/* The values of a point, one an axis (of its first key). */
void tdmi_scenario_values(const struct tdm_scenario *s, u32 point, const char *value[TDM_SIM_AXES]);
/* The cost model of one point: the base, changed by what the scenario says. */
void tdmi_scenario_costs(const struct tdm_scenario *s, const struct tdm_costs *base, struct tdm_costs *out);

/* ---- for the files of the reader ---- */

/* Where a value comes from, for messages. */
struct tdm_sim_origin {
	const char *name;
	u32 line;              /* ~0: the command line */
	char *err;
};

enum tdm_sim_section_kind {
	TDM_SIM_S_MACHINE, TDM_SIM_S_IOMMU, TDM_SIM_S_COSTS, TDM_SIM_S_DEVICE, TDM_SIM_S_PROCESS, TDM_SIM_S_OBJECT, TDM_SIM_S_MAPPING, TDM_SIM_S_GUEST,
	TDM_SIM_S_AGENT, TDM_SIM_S_RUN, TDM_SIM_S_NR,
};

/* scenario_keys.c */
void tdmi_scenario_defaults(struct tdm_scenario *s);
/* The kind that a word in brackets names; TDM_SIM_S_NR: none. *named: it needs a name. */
enum tdm_sim_section_kind tdmi_section_kind(const char *word, bool *named);
const char *tdmi_section_word(enum tdm_sim_section_kind k);
/* Begin a section, or find one: NULL if there is none of that name; -EEXIST, -ENOSPC, -EINVAL (the name) through *r when it is to be begun. */
struct tdm_sim_section *tdmi_section_begin(struct tdm_scenario *s, enum tdm_sim_section_kind k, const char *name, u32 line, int *r);
struct tdm_sim_section *tdmi_section_find(struct tdm_scenario *s, enum tdm_sim_section_kind k, const char *name);
/* Set a key. once: not if it is set already. */
int tdmi_section_set(struct tdm_scenario *s, enum tdm_sim_section_kind k, struct tdm_sim_section *to, const char *key, const char *value, bool once,
		     const struct tdm_sim_origin *from);
/* The line in which the key was set, else that of the section; and that key alone: 0 if it was not. */
u32 tdmi_section_line(enum tdm_sim_section_kind k, const struct tdm_sim_section *s, const char *key);
u32 tdmi_section_is_set(enum tdm_sim_section_kind k, const struct tdm_sim_section *s, const char *key);
/* The n-th key of a section; NULL: there is none. */
const char *tdmi_section_key(enum tdm_sim_section_kind k, u32 n);
/* Names become indices. */
int tdmi_scenario_resolve(struct tdm_scenario *s, char *err);

/* scenario_check.c: does it make sense? Works out threads. */
int tdmi_scenario_check(struct tdm_scenario *s, char *err);

#endif
