/* SPDX-License-Identifier: MIT */
/*
 * stage2.h - the second-stage page table of a guest whose memory is a range of an address space: a mirror in the shape of KVM's.
 *
 * Guest address g is address start + g of the space. An access that misses in the table takes what the space's entry says (after a fault of the space, if need
 * be) and puts it there; an entry goes when an interval notifier says that the space's does (mm/notifier.h). The table has access bits of its own, which the
 * space's notifiers are asked for. A leaf is 4 KiB.
 *
 * What is modelled of time is who waits for the lock of the table: filling takes it, and so does aging, in one of three ways. Nothing else is: a guest's
 * accesses that hit cost nothing here.
 *
 * By itself the table is used by tdmi_vcpu_access(), with no TLB between: whoever uses a page again is always noticed; flushes are counted, and cost what they
 * are said to cost. On a machine (struct tdm_stage2_machine; sim/vcpus.h) vCPUs have TLBs, and miss here: tdmi_vcpu_miss(). Then a use that a TLB serves is
 * not noticed, and whoever takes entries out, or looks for uses and flushes, has the TLBs forget.
 *
 * Times are in cycles, of several clocks: each vCPU's, and that of the engine (mm_clock), by which hooks and rounds take their time; or those of the machine.
 * Who waits for the lock is worked out from when it was held by these clocks (port/lock_time.h), whoever is simulated first.
 */
#ifndef TDM_PORT_STAGE2_H
#define TDM_PORT_STAGE2_H

#include "mm/space.h"
#include "port/lock_time.h"

#define TDM_STAGE2_AROUND 64u

/* How the access bits are got at. */
enum tdm_stage2_aging {
	TDM_AGING_LOCKLESS, /* by an atomic operation on the entry */
	TDM_AGING_READ,     /* with the lock held for reading */
	TDM_AGING_WRITE,    /* for writing */
};

struct tdm_stage2_costs {
	u32 exit;       /* a vCPU leaves its guest because of a miss, and comes back; all of it counted after the lock */
	u32 lock_read;  /* taking and leaving the lock; for so long nobody else can take it */
	u32 lock_write;
	u32 walk;       /* an entry of an upper level is read */
	u32 entry;      /* one of the lowest is read or changed */
	u32 flush;      /* of the vCPUs' TLBs; on a machine it says what that costs */
};

/* Where a guest runs. Tables of the space are locked: no sleep; and the lock of the table is not. One thread's. */
struct tdm_stage2_machine {
	u64 (*now)(void *arg);                    /* the clock of whoever acts: a vCPU that has missed, or the engine */
	void (*pay)(void *arg, u64 cycles);       /* of his time */
	void (*flush)(void *arg, u64 g, u64 end); /* no vCPU uses a translation of [g, end), by guest address, from here on */
};

struct tdm_stage2_config {
	enum tdm_stage2_aging aging;
	bool fill_read;    /* misses fill the table with the lock held for reading; else for writing */
	bool elide_flush;  /* clear_flush_young does not flush */
	/* Lockless only, or NULL: a page was found used, so the 64 pages around it (aligned; as far as the guest reaches) have been looked at as well. Those that
	 * were used, bit k: the page at va + k * 4096 of the space, are marked unused by that, and who is told has to remember it. A table of the space is locked: no
	 * sleep. */
	void (*around)(void *arg, u64 va, u64 used);
	void *arg;
	const struct tdm_stage2_machine *machine; /* or NULL: the clocks in here, and no TLBs */
	void *machine_arg;
	struct tdm_stage2_costs costs;
};

enum tdm_stage2_count {
	TDM_S2_MISSES,      /* accesses, by page, that the table did not allow */
	TDM_S2_FILLS,       /* entries made, or given more rights */
	TDM_S2_RETRIES,     /* fills dropped because a round came between */
	TDM_S2_ROUNDS,      /* of the space, that overlapped the guest's memory */
	TDM_S2_CLEARED,     /* entries that rounds took out */
	TDM_S2_FLUSHES,
	TDM_S2_ASKED,       /* calls of a young hook */
	TDM_S2_YOUNG,       /* those that said yes */
	TDM_S2_AROUND,      /* neighbours looked at */
	TDM_S2_AROUND_USED, /* those that were used */
	TDM_S2_LOCK_READ,   /* times that the lock was taken, by anybody */
	TDM_S2_LOCK_WRITE,
	TDM_S2_AGING,       /* cycles: in young hooks, */
	TDM_S2_MM_WAITED,   /* waiting for the lock in hooks and rounds, */
	TDM_S2_VCPU_WAITED, /* and in vCPUs */
	TDM_S2_NR,
};

/* Many readers or one writer. A writer that waits lets no reader in. */
struct tdm_stage2_lock {
	struct plat_mutex turn; /* rank TDM_RANK_CTX: nothing is taken within, and tables of the space may be locked */
	tdm_a32 readers;
};

struct tdm_stage2 {
	struct tdm_space *s;            /* constant, as are the next three */
	u64 start, size;                /* bytes */
	struct tdm_stage2_config config;
	struct tdm_alloc alloc;
	struct tdm_pgt pgt;             /* by guest address. Tables are made by fills, and stay until the end */
	struct tdm_rcu rcu;             /* sections: a vCPU uses an entry, and the page that it names, within one */
	struct tdm_stage2_lock lock;    /* entries are made and taken out under it, and the sequence number is set and compared */
	u32 leaving;                    /* rounds that have taken something out, and wait for who may be using it; the lock, for writing */
	bool gone;                      /* the space has been released; likewise */
	struct tdm_notifier young;
	struct tdm_interval_notifier in;
	struct plat_mutex time;         /* rank TDM_RANK_CTX, taken with nothing else held of that rank; guards the next */
	struct tdm_lock_time held;      /* when the lock was, by the clocks */
	tdm_a64 mm_clock;               /* added to by hooks and rounds; who runs a simulation may set it when none is under way */
	tdm_a64 count[TDM_S2_NR];
};

/* A vCPU. One thread's at a time. */
struct tdm_vcpu {
	struct tdm_stage2 *st;
	struct tdm_rcu_reader *reader;  /* that thread's, of the world's domain */
	struct tdm_rcu_reader *section; /* and of st->rcu; vCPUs of one thread may share both */
	u64 clock;                      /* cycles; what the guest does by itself is for the caller to add. Without a machine, which has its own */
	u64 waited;                     /* of these for the lock */
};

/* [start, start + size) of s is the guest's memory from address 0 on, mapped or not. Sleeps; no lock, outside of sections. -EINVAL: not whole pages, beyond
 * the space, or more can be looked around at than lockless; -ENOMEM; -ESRCH: the space has been released. The first notifier of a space in use needs
 * tdmi_notifiers_arm() before (mm/notifier.h). */
int tdmi_stage2_init(struct tdm_stage2 *st, struct tdm_space *s, u64 start, u64 size, const struct tdm_stage2_config *config);
/* Before the space is destroyed. No vCPU is in an access, readers of st->rcu have been unregistered. Sleeps; no lock, outside of sections. */
void tdmi_stage2_destroy(struct tdm_stage2 *st);

/* The guest reads or writes len bytes at guest address g. A word of 8 bytes that is aligned is one access; else bytes may be seen in any order. 0; -EFAULT:
 * beyond the guest's memory, or the space allows it not; -ESRCH: the space has been released; -EBUSY: the page went again and again before it could be used;
 * what tdmi_space_fault() says. Pages before the one that failed have been read or written. No lock, outside of sections. */
int tdmi_vcpu_access(struct tdm_vcpu *v, u64 g, void *buf, size_t len, bool write);

/* A walk of st->pgt has found no leaf for guest address g, or one that cannot be written, though the access is a write. 0: walk again; else as
 * tdmi_vcpu_access(). Likewise. */
int tdmi_vcpu_miss(struct tdm_vcpu *v, u64 g, bool write);

/* The entry for a guest address, as it is at this moment; none if there is no table. */
struct tdm_pte tdmi_stage2_entry(struct tdm_stage2 *st, u64 g);

static inline u64 tdm_stage2_counted(const struct tdm_stage2 *st, enum tdm_stage2_count c)
{
	return tdm_a64_ld_relaxed(&st->count[c]);
}

#endif
