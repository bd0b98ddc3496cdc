/* SPDX-License-Identifier: MIT */
/*
 * world.h - a machine for scenarios: a world with one address space, and a CPU for each thread.
 *
 * A CPU has a TLB of a few entries and the hardware walker of port/walk.h. An instruction is a look into the TLB, or a walk, and then the access: an interrupt waits for its end. So
 * a flush waits until no other CPU is in the middle of one, and clears their entries, as a shootdown by IPI does. Between the walk and the access others may run.
 */
#ifndef TDM_EXPLORE_WORLD_H
#define TDM_EXPLORE_WORLD_H

#include "mm/space.h"
#include "plat/explore/explore.h"
#include "port/walk.h"

#define XW_BASE ((u64)1 << 30)
#define XW_TLB 8u

struct xw_tlb_entry {
	const struct tdm_space *s;  /* NULL: none */
	u64 va;                     /* of the page */
	u32 shift;                  /* of the leaf that it was part of */
	struct tdm_pte pte;         /* the page's own */
};

struct xw_cpu {
	bool busy;                  /* within an instruction */
	bool device;                /* xw_device() */
	struct xw_tlb_entry tlb[XW_TLB];
	u32 next;                   /* which goes next */
	u32 flushes;                /* that it has heard */
};

struct xw {
	struct tdm_world w;
	struct xw_cpu cpu[TDMX_THREADS + 1];
	struct tdm_rcu_reader *reader[TDMX_THREADS + 1];
	struct tdm_space *s;
	struct tdm_tier *tier;      /* of the swap; NULL: there is none */
	bool no_hw_a;               /* walks do not set A: it is a fault */
	void *user;                 /* the scenario's */
};

extern struct xw *xw;

static inline u64 xw_va(u32 page)
{
	return XW_BASE + (u64)page * TDM_PAGE_SIZE;
}

static inline struct tdm_rcu_reader *xw_reader(void)
{
	return xw->reader[tdmx_self()];
}

/* In setup. One space with `pages` pages of anonymous memory at xw_va(0), of which none has been touched. swap: with somewhere to go. */
void xw_init(u32 pages, bool swap);
/* In setup: more memory without statistics that others would have to be interrupted before. */
void xw_quiet_space(struct tdm_space *s);
/* In setup: nobody is interrupted before the locks of the LRU lists and the allocator of pages: what is done under them is not the scenario's subject. */
void xw_quiet_lists(void);
/* In setup: the page has been written, by nobody's TLB. */
void xw_fill(struct tdm_space *s, u32 page, u64 v);

/* In setup. The thread's CPU has the page in its TLB, as the table says now. */
void xw_warm(struct tdm_space *s, u32 page, u32 thread);
/* In setup. Take bits of the page's entry away; TDM_PTE_ACCESSED: nobody has used it. */
void xw_idle(struct tdm_space *s, u32 page, u64 bits);
/* In setup. So many pages go to the swap. */
void xw_evict(u32 n);
/* In setup. The thread is no CPU, but a device that walks the first space's table: flushed by its notifier alone. Once a scenario. */
void xw_device(u32 thread);

/* In a thread, by its CPU: 0, or what the fault said. */
int xw_try_load(struct tdm_space *s, u64 va, u64 *v);
int xw_try_store(struct tdm_space *s, u64 va, u64 v);
/* One try, without a fault: was it done? */
bool xw_once(struct tdm_space *s, u64 va, bool write, u64 *v);
/* As the first two, where no fault may fail. */
u64 xw_load(struct tdm_space *s, u64 va);
void xw_store(struct tdm_space *s, u64 va, u64 v);

/* In check: what is at va, by faults if need be, without a TLB. */
u64 xw_final(struct tdm_space *s, u64 va);
/* In check: each page has as many references as entries, swap cache, and pins say; nobody's TLB says what the table does not. */
void xw_check(void);

#endif
