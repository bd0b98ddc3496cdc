/* SPDX-License-Identifier: MIT */
/*
 * cpus.h - the CPUs of a simulated machine: TLBs over the tables of address spaces (mm/space.h), and what it takes to flush them.
 *
 * Each CPU has a TLB, a walker, a clock in cycles, and at most one space loaded. One thread runs them all, in the order in which the machine calls; so nothing
 * here is locked. The engine runs on behalf of `current`: its flushes are that CPU's to carry out, its work is that CPU's time.
 *
 * Who must be told of a change. A space counts its flushes; each CPU knows up to which of them it has heard.
 *
 *   loaded   CPUs that run the space now. They are told at once: when the flush returns none of them uses what it covers.
 *   lazy     the space is still loaded, but nothing of it runs (tdmi_cpus_idle()). Not told; it has missed a flush, and finds out when it runs the space again.
 *   left     ran it earlier, and has kept the entries under their ASID. Likewise.
 *
 * A CPU that has missed flushes forgets all of the space before the first access. With broadcast nobody misses any: hardware reaches every CPU that may have
 * an entry of the space (`holds`), whatever it runs, so for lazy ones and for those that have left nothing is left to do. For that, a space must have the same
 * ASID everywhere.
 *
 * A flush takes one of three ways:
 *
 *   local       nobody else has to be told. The CPU that asks forgets pages one by one, or all of the space above `ceiling`.
 *   IPI         it sends to one target after the other, flushes itself, and waits until the last one has answered; a target is interrupted, flushes, answers.
 *               A target's time is lengthened by what that takes; what it was just doing does not keep it from answering.
 *   broadcast   operations, each for a run of pages or for an ASID, and one wait for all CPUs of the machine. Nobody is interrupted.
 *
 * The means that a machine has is used where local is not enough. TDM_FLUSH_LOCAL as a machine's means is an ideal: whoever has to be told knows at once, at
 * no cost.
 *
 * ASIDs are given in order, and never taken back one by one: when they are used up a new generation of them begins, with a flush of everything. A CPU has its
 * own; with broadcast they are the machine's, and a new generation leaves those that are loaded where they are. Without ASIDs a switch to another space flushes.
 *
 * A CPU can run a vCPU of a guest (sim/vcpus.h) in the place of a thread of the guest's process: addresses are the guest's then, walks are of its second-stage
 * table, and the TLB has what they find under the guest's VMID, a tag beyond all ASIDs that is never given again. Flushes of a guest find those who must be
 * told as those of a space do, and cost as much; a new generation of ASIDs takes its entries along. The process's space stays loaded meanwhile, as the thread
 * is one of its: its flushes interrupt a vCPU, too.
 */
#ifndef TDM_PORT_CPUS_H
#define TDM_PORT_CPUS_H

#include <string.h>
#include "mm/space.h"
#include "port/tlb.h"
#include "port/walk.h"

#define TDM_CPUS_MAX 256u
#define TDM_ASIDS_MAX 65535u
#define TDM_ASID_NONE (~0u)
#define TDM_CPUS_WORDS (TDM_CPUS_MAX / 64u)

enum tdm_flush_means { TDM_FLUSH_LOCAL, TDM_FLUSH_IPI, TDM_FLUSH_BROADCAST, TDM_FLUSH_NR };

/* In cycles. */
struct tdm_cpu_costs {
	u64 access;             /* a load or a store within 64 bytes, translated by the first level */
	u64 tlb_l2_hit;         /* more, where the second level translates */
	u64 walk_read;          /* an entry that a walk reads */
	u64 walk_set;           /* A, D or both set in one */
	u64 context_switch;     /* what flushes cost comes on top */
	u64 tlb_local_entry;    /* forget one page */
	u64 tlb_local_all;      /* forget a space, or everything */
	u64 ipi_send;           /* the initiator's, for each target */
	u64 ipi_wait;           /* on the way to the target, and the answer's back, together */
	u64 ipi_handle;         /* the target's, what it flushes apart */
	u64 broadcast_op;       /* one operation */
	u64 broadcast_sync;     /* the wait, once a flush */
	u64 broadcast_sync_cpu; /* it is longer by this for each CPU of the machine but one */
	u64 work[TDM_WORK_NR];  /* of the engine */
};

struct tdm_cpus_config {
	u32 n;                     /* 1 to TDM_CPUS_MAX */
	u32 asids;                 /* 0: none; at most TDM_ASIDS_MAX. With broadcast they are the machine's: more than n */
	u32 caps;                  /* TDM_WALK_HW_A, TDM_WALK_HW_D */
	u64 page_sizes;            /* of the TLBs: mask, bit = log2; 4 KiB is one */
	enum tdm_flush_means means;
	bool untracked;            /* nobody knows who has used a space: every flush of one that has run is everybody's */
	u64 ceiling;               /* pages (of the flush's size): more than that, and all of the space is flushed */
	u32 broadcast_pages;       /* that one operation can name; 1 or more */
	struct tdm_tlb_config tlb;
	struct tdm_cpu_costs cost;
	bool one_thread;           /* nobody else is in the world: walks need not keep tables from being freed. Faster */
	int (*fault)(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, enum tdm_access access); /* tdmi_space_fault() */
};

/* Where cycles went. Their sum is what the clock says. */
enum tdm_cpu_cycles {
	TDM_CYC_ACCESS, TDM_CYC_TLB_L2, TDM_CYC_WALK, TDM_CYC_WORK, TDM_CYC_SWITCH, TDM_CYC_FLUSH, TDM_CYC_IPI_SEND, TDM_CYC_IPI_WAIT, TDM_CYC_IPI_HANDLE,
	TDM_CYC_BROADCAST, TDM_CYC_IDLE,
	TDM_CYC_NR,
};

struct tdm_cpu_stats {
	u64 accesses;              /* pieces of at most 64 bytes */
	u64 tlb_hits[TDM_TLB_LEVELS], tlb_misses;
	u64 walks, walk_reads, walk_sets;
	u64 faults;                /* walks that the engine was called for */
	u64 switches, generations; /* of ASIDs; the machine's are the CPU's that began them */
	u64 flushes[TDM_FLUSH_NR]; /* that this CPU asked for, by what it took */
	u64 flushes_nobody;        /* likewise; no CPU had to be told */
	u64 flushes_all;           /* of these, of all of the space: asked for, or above the ceiling */
	u64 flushes_late;          /* that a CPU made up for when it ran the space again */
	u64 flushed;               /* entries that went, for whatever reason */
	u64 ipis_sent, ipis_received, broadcast_ops;
	u64 work[TDM_WORK_NR];
	u64 cycles[TDM_CYC_NR];
};

/* ASIDs 1 to n of the generation, of which those below `next` are given. */
struct tdm_asids {
	u64 generation;
	u32 next, n;
};

struct tdm_asid {
	u64 generation;  /* 0: never had one */
	u32 asid;
};

/* Whose vCPUs CPUs can run. */
struct tdm_cpus_guest {
	struct tdm_space *s;            /* of the process that the vCPUs' threads are of; constant, as are the next three */
	struct tdm_pgt *pgt;            /* by guest address; A and D are set by the walker, whatever the CPUs do in spaces */
	int (*fault)(void *arg, u32 cpu, u64 g, enum tdm_access access); /* as config.fault, of what is not in there */
	void *arg;
	struct tdm_cpus_space *has;     /* by tdmi_cpus_guest_add() */
};

struct tdm_core {
	struct tdm_tlb tlb;
	struct tdm_space *s;      /* loaded, or NULL */
	struct tdm_cpus_guest *guest; /* a vCPU of it runs in the place of s; or NULL */
	struct tdm_asids asids;   /* unless they are the machine's */
	u32 asid;                 /* of s; the VMID of the guest; TDM_ASID_NONE: lazy, or nothing is loaded */
	bool lazy;
	u64 access;               /* what an access costs */
	u64 clock, accesses;
	struct tdm_cpu_stats stats; /* but for what the TLB and `accesses` say */
};

/* What CPUs have of a space, or of a guest. */
struct tdm_cpus_space {
	u32 vmid;                       /* of a guest: the tag of its entries. 0: it is a space's, and they have an ASID */
	u64 flushes;                    /* so far, but for broadcast ones */
	u64 loaded[TDM_CPUS_WORDS];     /* a bit a CPU; not lazy */
	u64 holds[TDM_CPUS_WORDS];      /* CPUs that may have an entry of it under an ASID that is still its own; kept for broadcast alone */
	struct tdm_asid asid;           /* the machine's */
	struct tdm_cpus_heard {
		struct tdm_asid asid;   /* the CPU's own */
		u64 heard;              /* of `flushes` */
	} on[];                         /* n */
};

struct tdm_cpus {
	struct tdm_cpus_config config;  /* constant */
	u32 current;                    /* on whose behalf the engine runs: whoever calls it sets it; accesses set it themselves */
	struct tdm_world *w;
	struct tdm_rcu_reader *reader;
	struct tdm_core *core;
	struct tdm_asids asids;         /* the machine's */
	u64 *taken;                     /* of these, a bit each: were loaded when the generation began */
	struct tdm_alloc alloc;
	u32 guests;                     /* VMIDs that have been given */
	struct tdm_cpus_space *space[TDM_SPACES_MAX]; /* by id; NULL: no CPU has run it */
};

static inline void tdm_core_pay(struct tdm_core *k, enum tdm_cpu_cycles what, u64 cycles)
{
	k->clock += cycles;
	k->stats.cycles[what] += cycles;
}

static inline bool tdm_cpus_broadcasts(const struct tdm_cpus *c)
{
	return c->config.means == TDM_FLUSH_BROADCAST;
}

static inline bool tdm_cpus_shares_asids(const struct tdm_cpus *c)
{
	return tdm_cpus_broadcasts(c) && c->config.asids;
}

/* Does a thread of s run here now? A vCPU of its guest is none. */
static inline bool tdm_core_runs(const struct tdm_core *k, const struct tdm_space *s)
{
	return k->s == s && !k->lazy && !k->guest;
}

/* The ASID, or VMID, under which entries of the space are in this CPU's TLB. */
static inline u32 tdm_cpus_asid(const struct tdm_cpus *c, const struct tdm_cpus_space *sp, u32 cpu)
{
	if (sp->vmid)
		return sp->vmid;
	return tdm_cpus_shares_asids(c) ? sp->asid.asid : sp->on[cpu].asid.asid;
}

/* ---- cpus_flush.c */
/* An ASID for the space on this CPU, which is about to load it and has let go of what it had. */
void tdmi_cpus_give_asid(struct tdm_cpus *c, u32 cpu, struct tdm_cpus_space *sp);
/* All that this CPU has of the space goes. */
void tdmi_cpus_flush_late(struct tdm_cpus *c, u32 cpu, struct tdm_cpus_space *sp);

/* ---- cpus.c. For tdmi_world_init(); its argument is the struct tdm_cpus. */
extern const struct tdm_tlb_ops tdmi_cpus_tlb_ops;

/* Clocks at 0, nothing loaded. -EINVAL: config is not as it says there; -ENOMEM. */
int tdmi_cpus_init(struct tdm_cpus *c, const struct tdm_cpus_config *config);
/* What the TLBs still hold may be gone already. Detached. */
void tdmi_cpus_destroy(struct tdm_cpus *c);
/* The world whose spaces they will run. -EBUSY: it has too many readers. */
int tdmi_cpus_attach(struct tdm_cpus *c, struct tdm_world *w);
void tdmi_cpus_detach(struct tdm_cpus *c);

/* CPU cpu runs a thread of s from now on: another one of the same space (which costs a switch, and flushes nothing), or of another. -ENOMEM: nothing has changed. */
int tdmi_cpus_switch(struct tdm_cpus *c, u32 cpu, struct tdm_space *s);
/* It runs nothing of its space for now (a kernel thread, the idle loop): no time, and no IPI; the next switch to that space finds the TLB as it was, unless a
 * flush was missed. Accesses need a switch first. */
void tdmi_cpus_idle(struct tdm_cpus *c, u32 cpu);
/* s is about to be destroyed: no CPU runs it (lazily: it is let go). Before tdmi_space_destroy(). */
void tdmi_cpus_forget(struct tdm_cpus *c, struct tdm_space *s);

/* g is a guest from now on, with a VMID; g->has is set. -ENOMEM; -ENOSPC: VMIDs are used up. */
int tdmi_cpus_guest_add(struct tdm_cpus *c, struct tdm_cpus_guest *g);
/* CPUs that run a vCPU of it are idle afterwards. */
void tdmi_cpus_guest_del(struct tdm_cpus *c, struct tdm_cpus_guest *g);
/* CPU cpu runs a vCPU of g from now on, which is a switch to its process: accesses are by guest address until the next switch. -ENOMEM: nothing has changed. */
int tdmi_cpus_guest_enter(struct tdm_cpus *c, u32 cpu, struct tdm_cpus_guest *g);
/* No CPU uses what it has of [start, end) of the guest from here on. The time of c->current, and of whom it has to tell. */
void tdmi_cpus_guest_flush(struct tdm_cpus *c, struct tdm_cpus_guest *g, u64 start, u64 end);

/* len bytes between buf and the space, or the guest, that cpu runs, page by page. What the engine said of the first page that cannot be had: -EFAULT and
 * others (tdmi_space_fault()); or -ETIMEDOUT: it serves the fault again and again, and there is still nothing. What came before has been moved. */
int tdmi_cpus_read(struct tdm_cpus *c, u32 cpu, u64 va, void *buf, size_t len);
int tdmi_cpus_write(struct tdm_cpus *c, u32 cpu, u64 va, const void *buf, size_t len);
/* An access to the one byte at va, without the byte: for traces that do not say what was written. */
int tdmi_cpus_touch(struct tdm_cpus *c, u32 cpu, u64 va, bool write);

/* The byte at va will be wanted in a few accesses: have this machine fetch it, if the simulated one has it. Nothing of the simulation changes, and it costs it
 * no time. With one_thread. */
void tdmi_cpus_ahead(struct tdm_cpus *c, u32 cpu, u64 va);

/* The clock of cpu is at least at `clock`: it had nothing to do until then. */
void tdmi_cpus_wait_until(struct tdm_cpus *c, u32 cpu, u64 clock);
/* Of one CPU, or, for ~0, the sums of all. */
void tdmi_cpus_stats(const struct tdm_cpus *c, u32 cpu, struct tdm_cpu_stats *out);

/* Where the byte at va is, if the first level has it with all that `need` says; the access is counted. NULL: take the long way. */
static inline u8 *tdm_core_hit(struct tdm_core *k, u64 va, u64 need)
{
	struct tdm_tlb_entry *e = tdm_tlb_hit(&k->tlb, k->asid, va, need);

	if (tdm_unlikely(!e))
		return NULL;
	k->clock += k->access;
	k->accesses++;
	return e->bytes + (va & (((u64)1 << e->shift) - 1));
}

#define TDM_PTE_STORABLE (TDM_PTE_PRESENT | TDM_PTE_WRITE | TDM_PTE_DIRTY)

/* Eight bytes, as tdmi_cpus_read() and _write(). */
static inline int tdm_cpus_load(struct tdm_cpus *c, u32 cpu, u64 va, u64 *value)
{
	u8 *p = tdm_likely((va & 63) <= 56) ? tdm_core_hit(&c->core[cpu], va, TDM_PTE_PRESENT) : NULL;

	if (tdm_unlikely(!p))
		return tdmi_cpus_read(c, cpu, va, value, sizeof(*value));
	memcpy(value, p, sizeof(*value));
	return 0;
}

static inline int tdm_cpus_store(struct tdm_cpus *c, u32 cpu, u64 va, u64 value)
{
	u8 *p = tdm_likely((va & 63) <= 56) ? tdm_core_hit(&c->core[cpu], va, TDM_PTE_STORABLE) : NULL;

	if (tdm_unlikely(!p))
		return tdmi_cpus_write(c, cpu, va, &value, sizeof(value));
	__builtin_prefetch(p, 1);
	memcpy(p, &value, sizeof(value));
	return 0;
}

#endif
