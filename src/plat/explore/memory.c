// SPDX-License-Identifier: MIT
/*
 * memory.c - what a load may see: an operational model of C11's atomics, without load buffering.
 *
 * Of each atomic object the last stores are kept, in the order in which they were made (its modification order). A load may see any of them that is not older than
 *   - the newest one that happened before it, by vector clocks,
 *   - what its thread, or anything that happened before it, has seen of this object already (coherence),
 *   - for a sequentially consistent load: the newest sequentially consistent store.
 * A read-modify-write sees the newest. Fences: a release fence is carried by the relaxed stores behind it, an acquire fence takes what the relaxed loads before it have
 * seen; sequentially consistent fences are in one order, and each knows what those before it knew.
 *
 * Stronger than C11 in places, so that it may miss something, but invents nothing: sequentially consistent fences are as strong as C11's strengthened ones, and
 * nothing is seen that a thread will store later.
 */
#include <string.h>
#include "base/check.h"
#include "plat/explore/impl.h"

enum order { RELAXED, CONSUME, ACQUIRE, RELEASE, ACQ_REL, SEQ_CST };

#define KEPT 12u
#define OBJECTS 16384u
#define LOCKS 1024u

struct store {
	u64 v;
	u32 by, at;            /* thread, and its time */
	bool seq_cst;
	struct clock carries;  /* what who acquires it comes to know */
};

struct object {
	uintptr_t addr;
	u32 gen;
	u32 n;
	u32 seen[NT], seen_at[NT]; /* index of the store that the thread saw last, and when; seen_at 0: none */
	struct store s[KEPT];      /* the newest is the last */
};

struct ordered {
	const void *p;
	u32 gen;
	struct clock clk;
};

static struct object object[OBJECTS];
static u32 place_of_object[OBJECTS]; /* those in use in this run */
static u32 nobjects;
static struct ordered locks[LOCKS];

static bool acquires(int order)
{
	return order == ACQUIRE || order == CONSUME || order == ACQ_REL || order == SEQ_CST;
}

static bool releases(int order)
{
	return order == RELEASE || order == ACQ_REL || order == SEQ_CST;
}

static u64 raw_load(const volatile void *p, u32 size)
{
	switch (size) {
	case 1:
		return *(const volatile u8 *)p;
	case 2:
		return *(const volatile u16 *)p;
	case 4:
		return *(const volatile u32 *)p;
	default:
		return *(const volatile u64 *)p;
	}
}

static void raw_store(volatile void *p, u32 size, u64 v)
{
	switch (size) {
	case 1:
		*(volatile u8 *)p = (u8)v;
		break;
	case 2:
		*(volatile u16 *)p = (u16)v;
		break;
	case 4:
		*(volatile u32 *)p = (u32)v;
		break;
	default:
		*(volatile u64 *)p = v;
	}
	arena_dirty(p, size);
}

static u32 hash(uintptr_t addr, u32 n)
{
	return (u32)((addr >> 1) * 0x9e3779b97f4a7c15ull >> 40) % n;
}

static struct object *find(uintptr_t addr)
{
	for (u32 h = hash(addr, OBJECTS);; h = (h + 1) % OBJECTS) {
		if (object[h].gen != X.gen)
			return NULL;
		if (object[h].addr == addr)
			return &object[h];
	}
}

/* The object at an address; the first store is what was there before. */
static struct object *object_at(const volatile void *p, u64 now)
{
	uintptr_t addr = (uintptr_t)p;
	u32 h = hash(addr, OBJECTS);

	while (object[h].gen == X.gen && object[h].addr != addr)
		h = (h + 1) % OBJECTS;
	if (object[h].gen != X.gen || !object[h].n) {
		if (object[h].gen != X.gen)
			place_of_object[nobjects++] = h;
		TDM_BUG_ON(nobjects > OBJECTS / 2);
		memset(&object[h], 0, offsetof(struct object, s) + sizeof(struct store));
		object[h].gen = X.gen;
		object[h].addr = addr;
		object[h].n = 1;
		object[h].s[0].v = now;
	}
	return &object[h];
}

void memory_forget(uintptr_t addr, size_t size)
{
	if (size <= 16) {
		for (uintptr_t a = addr & ~(uintptr_t)1; a < addr + size; a += 2) {
			struct object *o = find(a);

			if (o)
				o->n = 0;
		}
		return;
	}
	for (u32 i = 0; i < nobjects; i++)
		if (object[place_of_object[i]].addr - addr < size)
			object[place_of_object[i]].n = 0;
}

void memory_reset(void)
{
	nobjects = 0;
}

static void see(const struct store *s, int order)
{
	struct thread *t = &X.t[X.cur];

	clock_join(acquires(order) ? &t->clk : &t->acquired, &s->carries);
}

/* The oldest store that the running thread may see. */
static u32 oldest(const struct object *o, int order)
{
	const struct clock *c = &X.t[X.cur].clk;
	u32 lo = 0;

	for (u32 i = 0; i < o->n; i++)
		if (o->s[i].at <= c->c[o->s[i].by] || (order == SEQ_CST && o->s[i].seq_cst))
			lo = i;
	for (u32 t = 0; t < NT; t++)
		if (o->seen_at[t] && o->seen_at[t] <= c->c[t] && o->seen[t] > lo)
			lo = o->seen[t];
	return lo;
}

static void remember_read(const void *p)
{
	struct thread *t = &X.t[X.cur];

	for (u32 i = 0; i < t->nread && i < READS_KEPT; i++)
		if (t->read[i] == p)
			return;
	if (t->nread < READS_KEPT)
		t->read[t->nread] = p;
	t->nread++;
}

u64 memory_load(const volatile void *p, u32 size, int order, const void *pc)
{
	struct thread *t = &X.t[X.cur];
	struct object *o;
	u32 i, back = 0;

	if (!in_thread())
		return raw_load(p, size);
	search_point(p, false, "load", pc);
	race_access(p, size, false, true, pc);
	o = object_at(p, raw_load(p, size));
	i = oldest(o, order);
	if (o->n - 1 > i)
		back = search_choose(search_stale() ? o->n - i : 1);
	if (back)
		search_stale_taken();
	i = o->n - 1 - back;
	o->seen[X.cur] = i;
	o->seen_at[X.cur] = t->clk.c[X.cur];
	remember_read((const void *)(uintptr_t)p);
	see(&o->s[i], order);
	trace_op(back ? "load, old" : "load", p, o->s[i].v, pc);
	return o->s[i].v;
}

static void add(struct object *o, u64 v, int order, const struct clock *carried)
{
	struct thread *t = &X.t[X.cur];
	struct store *s;

	if (o->n == KEPT) {
		memmove(o->s, o->s + 1, sizeof(o->s) - sizeof(o->s[0]));
		o->n--;
		for (u32 i = 0; i < NT; i++)
			o->seen[i] -= o->seen[i] > 0;
	}
	s = &o->s[o->n++];
	s->v = v;
	s->by = X.cur;
	s->at = t->clk.c[X.cur];
	s->seq_cst = order == SEQ_CST;
	s->carries = releases(order) ? t->clk : t->released;
	if (carried)
		clock_join(&s->carries, carried);
	t->clk.c[X.cur]++;
}

void memory_store(volatile void *p, u32 size, u64 v, int order, const void *pc)
{
	u64 was;

	if (!in_thread()) {
		raw_store(p, size, v);
		return;
	}
	search_point(p, true, "store", pc);
	race_access(p, size, true, true, pc);
	was = raw_load(p, size);
	add(object_at(p, was), v, order, NULL);
	raw_store(p, size, v);
	trace_op("store", p, v, pc);
	if (was != v)
		search_changed(p);
}

static u64 computed(enum rmw op, u64 was, u64 v)
{
	switch (op) {
	case RMW_XCHG:
		return v;
	case RMW_ADD:
		return was + v;
	case RMW_SUB:
		return was - v;
	case RMW_AND:
		return was & v;
	case RMW_OR:
		return was | v;
	default:
		return was ^ v;
	}
}

static u64 cut_to(u64 v, u32 size)
{
	return size == 8 ? v : v & (((u64)1 << 8 * size) - 1);
}

static void modify(volatile void *p, u32 size, struct object *o, u64 v, int order, const char *what, const void *pc)
{
	struct clock carried = o->s[o->n - 1].carries;
	u64 was = o->s[o->n - 1].v;

	see(&o->s[o->n - 1], order);
	add(o, v, order, &carried);
	raw_store(p, size, v);
	trace_op(what, p, v, pc);
	if (was != v)
		search_changed(p);
	else
		remember_read((const void *)(uintptr_t)p);
}

u64 memory_rmw(volatile void *p, u32 size, enum rmw op, u64 v, int order, const void *pc)
{
	static const char *const name[] = { "exchange", "add", "sub", "and", "or", "xor" };
	u64 was;

	if (!in_thread()) {
		was = raw_load(p, size);
		raw_store(p, size, computed(op, was, v));
		return was;
	}
	search_point(p, true, name[op], pc);
	race_access(p, size, true, true, pc);
	was = raw_load(p, size);
	modify(p, size, object_at(p, was), cut_to(computed(op, was, v), size), order, name[op], pc);
	return was;
}

bool memory_cas(volatile void *p, u32 size, u64 *expected, u64 v, int order, int fail_order, const void *pc)
{
	struct object *o;
	u64 was;

	if (!in_thread()) {
		was = raw_load(p, size);
		if (was == *expected) {
			raw_store(p, size, v);
			return true;
		}
		*expected = was;
		return false;
	}
	search_point(p, true, "cas", pc);
	race_access(p, size, true, true, pc);
	was = raw_load(p, size);
	o = object_at(p, was);
	if (was == *expected) {
		modify(p, size, o, v, order, "cas", pc);
		return true;
	}
	o->seen[X.cur] = o->n - 1;
	o->seen_at[X.cur] = X.t[X.cur].clk.c[X.cur];
	remember_read((const void *)(uintptr_t)p);
	see(&o->s[o->n - 1], fail_order);
	trace_op("cas fails", p, was, pc);
	*expected = was;
	return false;
}

void memory_fence(int order, const void *pc)
{
	struct thread *t = &X.t[X.cur];

	if (!in_thread())
		return;
	search_point(&X.sc, true, "fence", pc);
	trace_op("fence", NULL, 0, pc);
	if (acquires(order))
		clock_join(&t->clk, &t->acquired);
	if (order == SEQ_CST) {
		clock_join(&t->clk, &X.sc);
		X.sc = t->clk;
	}
	if (releases(order))
		t->released = t->clk;
	t->clk.c[X.cur]++;
}

/* ---- locks */

static struct ordered *ordered(const void *p)
{
	for (u32 h = hash((uintptr_t)p, LOCKS);; h = (h + 1) % LOCKS) {
		if (locks[h].gen != X.gen) {
			memset(&locks[h], 0, sizeof(locks[h]));
			locks[h].gen = X.gen;
			locks[h].p = p;
		}
		if (locks[h].p == p)
			return &locks[h];
	}
}

void memory_acquire(const void *p)
{
	clock_join(&X.t[X.cur].clk, &ordered(p)->clk);
}

void memory_release(const void *p)
{
	struct thread *t = &X.t[X.cur];

	clock_join(&ordered(p)->clk, &t->clk);
	t->clk.c[X.cur]++;
}
