/* SPDX-License-Identifier: MIT */
/* impl.h - what the files of the explorer share. One thread of the system: nothing here is locked. */
#ifndef TDM_PLAT_EXPLORE_IMPL_H
#define TDM_PLAT_EXPLORE_IMPL_H

#include "plat/explore/explore.h"

#define NT (TDMX_THREADS + 1) /* 0: setup and check */

/* ---- vector clocks */

/* What happened before something. Of fences more than that is known: a sequentially consistent one that happened before comes after others, and after stores. */
struct clock {
	u32 c[NT];      /* by thread: up to when */
	u32 fenced[NT]; /* what happened before the fences that came earlier than those it knows of; it must be seen, but it does not order plain accesses */
	u32 fence;      /* number of the newest one it knows of */
};

static inline void clock_join(struct clock *a, const struct clock *b)
{
	for (u32 i = 0; i < NT; i++) {
		a->c[i] = TDM_MAX(a->c[i], b->c[i]);
		a->fenced[i] = TDM_MAX(a->fenced[i], b->fenced[i]);
	}
	a->fence = TDM_MAX(a->fence, b->fence);
}

/* ---- threads: fiber.c switches, search.c decides */

enum state { UNUSED, READY, LOCKED, WAITING, SPINNING, DONE };

#define READS_KEPT 8u

struct thread {
	void *sp;
	void (*fn)(void *);
	void *arg;
	const char *name;
	enum state state;
	const void *on;       /* LOCKED, WAITING: the address */
	bool timed;           /* WAITING: it may end by itself */
	bool timed_out;
	struct clock clk;     /* what it knows of */
	struct clock released, acquired; /* for fences: what its relaxed stores carry, what its relaxed loads have seen */
	const void *read[READS_KEPT];    /* since it spun the last time */
	u32 nread;
	u32 prio;             /* PCT */
};

struct explorer {
	struct thread t[NT];
	u32 n;                /* threads, with 0 */
	u32 cur;
	bool running;         /* threads are: hooks count */
	bool over;            /* this run has been ended */
	u32 gen;              /* number of the run */
	u32 steps;
	u32 sc[NT];           /* what happened before sequentially consistent fences so far */
	u32 nsc;              /* those, and sequentially consistent stores, are numbered */
};

extern struct explorer X;

static inline bool in_thread(void)
{
	return X.running && !X.over;
}

/* fiber.c */
void fiber_make(u32 i);
/* From the thread `from` (or the explorer itself, NT) to another. */
void fiber_switch(u32 from, u32 to);
bool fiber_owns(uintptr_t addr);

/* arena.c */
#define ARENA_AT ((uintptr_t)(sizeof(void *) == 8 ? 0x100000000000ull : 0x30000000u))
#define ARENA_SIZE ((size_t)(sizeof(void *) == 8 ? 256 : 12) << 20)
#define ARENA_GRANULE 8u
static inline bool arena_has(uintptr_t addr)
{
	return addr - ARENA_AT < ARENA_SIZE;
}
static inline u32 arena_granule(uintptr_t addr)
{
	return (u32)((addr - ARENA_AT) / ARENA_GRANULE);
}
void arena_init(void);
void *arena_map(size_t size);
void arena_unmap(void *p, size_t size);
void arena_dirty(const volatile void *p, size_t size);
void arena_snapshot(void);
void arena_restore(void);
void arena_poison(const volatile void *p, size_t size, bool on);
bool arena_poisoned(uintptr_t addr, size_t size);

/* memory.c: atomics, and what they order */
u64 memory_load(const volatile void *p, u32 size, int order, const void *pc);
void memory_store(volatile void *p, u32 size, u64 v, int order, const void *pc);
enum rmw { RMW_XCHG, RMW_ADD, RMW_SUB, RMW_AND, RMW_OR, RMW_XOR };
u64 memory_rmw(volatile void *p, u32 size, enum rmw op, u64 v, int order, const void *pc);
bool memory_cas(volatile void *p, u32 size, u64 *expected, u64 v, int order, int fail_order, const void *pc);
void memory_fence(int order, const void *pc);
/* Plain bytes have taken the place of what was there. */
void memory_forget(uintptr_t addr, size_t size);
void memory_reset(void);
/* A lock, or anything else that orders those who hold it. */
void memory_acquire(const void *p);
void memory_release(const void *p);

/* race.c */
void race_in_arena(const volatile void *p, size_t size, bool write, bool atomic, const void *pc);
static inline void race_access(const volatile void *p, size_t size, bool write, bool atomic, const void *pc)
{
	if (arena_has((uintptr_t)p))
		race_in_arena(p, size, write, atomic, pc);
}
void race_bytes(const void *p, size_t size);

/* search.c */
u32 search_choose(u32 n);
/* A point before an access to p; write: it changes something. */
void search_point(const volatile void *p, bool write, const char *what, const void *pc);
/* The calling thread cannot go on: its state says why. */
void search_sleep(void);
/* A store has changed p. */
void search_changed(const volatile void *p);
/* May a load see something old? Not even what its thread has seen already when it was old? */
bool search_stale(void);
bool search_newest_only(void);
void search_stale_taken(void);
/* Not in setup. */
bool search_in_run(void);
void search_fail_at(const void *pc, const void *pc2, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
extern bool search_tracing;

/* places.c */
struct sharing {
	bool grown;      /* more is shared than was when places_learn() was last called */
	bool everywhere; /* all places count */
};
extern struct sharing sharing;
/* The running thread accesses something atomic: may it be interrupted before that? */
bool places_may_interrupt(uintptr_t addr, bool write);
/* What is shared now counts from now on. How many places. */
u32 places_learn(void);
void places_quiet(const void *p, size_t size);

/* trace.c */
void trace_op(const char *what, const volatile void *p, u64 v, const void *pc);
void trace_name(const void *p, size_t size, const char *name);
void trace_print(void);
void trace_reset(void);
/* "function file:line < function file:line" of a place in the code. */
void trace_place(const void *pc, char *buf, size_t len);

#endif
