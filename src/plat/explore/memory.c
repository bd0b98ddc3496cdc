// SPDX-License-Identifier: MIT
/*
 * memory.c - what a load may see: an operational model of C11's atomics, as RC11 has them.
 *
 * Of each atomic object the last stores are kept, in the order in which they were made (its modification order). A load may see any of them that is not older than
 *   - the newest one that happened before it, by vector clocks,
 *   - what anything that happened before it has seen of this object already (coherence),
 *   - what happened before, or was seen before, a sequentially consistent fence that comes before another one that happened before it,
 *   - sequentially consistent stores made before a sequentially consistent fence that happened before it,
 *   - for a sequentially consistent load: the newest sequentially consistent store, and what happened before any sequentially consistent fence.
 * A read-modify-write sees the newest; a compare-and-exchange may fail by any other that a load may see. A release fence is carried by the relaxed stores behind it, an acquire fence takes
 * what the relaxed loads before it have seen.
 *
 * These are exactly the executions of RC11 in which program order, reads-from, modification order and its psc have no cycle together: the run is an order that all of them
 * agree with. tests/explore/rc11.py holds that against the axioms. What C11 allows beyond that (2+2W; a load that sees what its thread stores later) is not seen.
 */
#include <string.h>
#include "base/check.h"
#include "plat/explore/impl.h"

enum order { RELAXED, CONSUME, ACQUIRE, RELEASE, ACQ_REL, SEQ_CST };

#define KEPT 12u
#define FREE_READS 1u /* of an old value by the thread that has seen it */
#define OBJECTS 16384u
#define LOCKS 1024u

struct store {
	u64 v;
	u32 by, at;            /* thread, and its time */
	u32 sc;                /* sequentially consistent: its number */
	u32 seen_at[NT];       /* when each thread saw it first; 0: it has not */
	u8 old_to[NT];         /* how often each thread has seen it when it was not the newest any more */
	struct clock carries;  /* what who acquires it comes to know */
};

struct object {
	uintptr_t addr;
	u32 gen;
	u32 n;
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

/* The running thread, or what it knows of, knows this store: nothing older can be seen. */
static bool must_see(const struct store *s, int order)
{
	const struct clock *k = &X.t[X.cur].clk;

	if (s->at <= k->c[s->by] || s->at <= k->fenced[s->by] || (s->sc && s->sc < k->fence))
		return true;
	if (order == SEQ_CST && (s->sc || s->at <= X.sc[s->by]))
		return true;
	for (u32 t = 0; t < NT; t++)
		if (s->seen_at[t] && (s->seen_at[t] <= k->c[t] || s->seen_at[t] <= k->fenced[t]))
			return true;
	return false;
}

static bool stays(const struct store *s)
{
	return s->old_to[X.cur] && s->old_to[X.cur] < 1 + FREE_READS;
}

/*
 * One of the stores that the running thread may see, by index; not_by: if it is not the newest, and has this value, it cannot be this one. The newest is choice 0. Those that the thread has
 * seen already when they were old come next, and are free: a thread that is behind may stay so for a while. Others take one of the old values that a run may see.
 */
static u32 choose_store(struct object *o, int order, const u64 *not_by)
{
	u32 newest = o->n - 1, which[2 * KEPT], n = 1, nfree, oldest = newest, c;

	while (oldest && !must_see(&o->s[oldest], order))
		oldest--;
	if (oldest == newest)
		return newest;
	which[0] = newest;
	for (u32 i = newest; i-- > oldest;)
		if (stays(&o->s[i]) && !(not_by && o->s[i].v == *not_by))
			which[n++] = i;
	nfree = n;
	for (u32 i = newest; i-- > oldest;)
		if (!stays(&o->s[i]) && !(not_by && o->s[i].v == *not_by))
			which[n++] = i;
	c = search_choose(search_stale() ? n : search_newest_only() ? 1 : nfree);
	if (c >= nfree)
		search_stale_taken();
	if (c)
		o->s[which[c]].old_to[X.cur]++;
	return which[c];
}

static void see(struct store *s, int order)
{
	struct thread *t = &X.t[X.cur];

	if (!s->seen_at[X.cur])
		s->seen_at[X.cur] = t->clk.c[X.cur];
	clock_join(acquires(order) ? &t->clk : &t->acquired, &s->carries);
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
	struct object *o;
	u32 i;

	if (!in_thread())
		return raw_load(p, size);
	search_point(p, false, "load", pc);
	race_access(p, size, false, true, pc);
	o = object_at(p, raw_load(p, size));
	i = choose_store(o, order, NULL);
	remember_read((const void *)(uintptr_t)p);
	see(&o->s[i], order);
	trace_op(i + 1 < o->n ? "load, old" : "load", p, o->s[i].v, pc);
	return o->s[i].v;
}

static void add(struct object *o, u64 v, int order, const struct clock *carried)
{
	struct thread *t = &X.t[X.cur];
	struct store *s;

	if (o->n == KEPT) {
		memmove(o->s, o->s + 1, sizeof(o->s) - sizeof(o->s[0]));
		o->n--;
	}
	s = &o->s[o->n++];
	memset(s->seen_at, 0, sizeof(s->seen_at));
	memset(s->old_to, 0, sizeof(s->old_to));
	s->v = v;
	s->by = X.cur;
	s->at = t->clk.c[X.cur];
	s->sc = order == SEQ_CST ? ++X.nsc : 0;
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
	u32 i;

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
	/* It fails by an old value, too. Only one that sees the newest succeeds. */
	i = choose_store(o, fail_order, expected);
	if (o->s[i].v == *expected) {
		modify(p, size, o, v, order, "cas", pc);
		return true;
	}
	remember_read((const void *)(uintptr_t)p);
	see(&o->s[i], fail_order);
	trace_op(i + 1 < o->n ? "cas fails, old" : "cas fails", p, o->s[i].v, pc);
	*expected = o->s[i].v;
	return false;
}

void memory_fence(int order, const void *pc)
{
	struct thread *t = &X.t[X.cur];

	if (!in_thread())
		return;
	search_point(X.sc, true, "fence", pc);
	trace_op("fence", NULL, 0, pc);
	if (acquires(order))
		clock_join(&t->clk, &t->acquired);
	if (order == SEQ_CST) {
		for (u32 i = 0; i < NT; i++) {
			t->clk.fenced[i] = TDM_MAX(t->clk.fenced[i], X.sc[i]);
			X.sc[i] = TDM_MAX(X.sc[i], t->clk.c[i]);
		}
		t->clk.fence = ++X.nsc;
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
