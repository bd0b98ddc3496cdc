// SPDX-License-Identifier: MIT
/*
 * race.c - plain accesses: two of them, by different threads, of which one writes, must be ordered; and what has been freed must not be touched.
 *
 * Of each 8 bytes some of the last accesses are kept: who, when by his own clock, which bytes, whether it was atomic. Two atomic ones do not race. Stacks are judged
 * like all memory: others may have been told of what lies there.
 */
#include <string.h>
#include <sys/mman.h>
#include "base/check.h"
#include "plat/explore/impl.h"

#define CELLS 8u
#define ALONE_MAX 4000000u /* accesses without anything atomic between them */

struct cell {
	const void *pc;
	u32 at;
	u8 by, bytes;
	bool write, atomic;
};

struct shadow {
	u32 gen;
	u8 n;             /* cells that are used */
	u8 last;          /* the newest */
	u8 next;          /* to be given up */
	bool has_atomics;
	struct cell cell[CELLS];
};

#define GRANULES (ARENA_SIZE / ARENA_GRANULE)

static struct shadow *shadow;
static struct {
	uintptr_t start, end;
} bytes[8];
static u32 nbytes;

void race_bytes(const void *p, size_t size)
{
	TDM_BUG_ON(nbytes == sizeof(bytes) / sizeof(bytes[0]));
	bytes[nbytes].start = (uintptr_t)p;
	bytes[nbytes++].end = (uintptr_t)p + size;
}

static struct shadow *shadow_of(uintptr_t addr)
{
	struct shadow *s;

	if (!shadow) {
		shadow = mmap(NULL, GRANULES * sizeof(*shadow), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		TDM_BUG_ON(shadow == MAP_FAILED);
	}
	s = &shadow[arena_granule(addr)];
	if (s->gen != X.gen) {
		s->n = 0;
		s->has_atomics = false;
		s->gen = X.gen;
	}
	return s;
}

static bool judged(uintptr_t addr)
{
	for (u32 i = 0; i < nbytes; i++)
		if (addr - bytes[i].start < bytes[i].end - bytes[i].start)
			return false;
	return true;
}

static const char *kind(bool write, bool atomic)
{
	return atomic ? (write ? "an atomic write" : "an atomic read") : write ? "a write" : "a read";
}

/* The thread has just done the like, and nobody has been there since. */
static bool again(const struct shadow *s, u8 mask, bool write, bool atomic)
{
	const struct cell *e = &s->cell[s->last];

	return s->n && e->by == X.cur && e->at == X.t[X.cur].clk.c[X.cur] && !(mask & ~e->bytes) && e->write >= write && e->atomic == atomic;
}

/* The part of an access that lies in one granule. */
static void judge(struct shadow *s, u8 mask, bool write, bool atomic, const void *pc)
{
	const struct clock *c = &X.t[X.cur].clk;
	struct cell *keep = NULL;

	if (again(s, mask, write, atomic))
		return;
	for (u32 i = 0; i < s->n; i++) {
		struct cell *e = &s->cell[i];

		if (!(e->bytes & mask))
			continue;
		if (e->by != X.cur && (write || e->write) && !(atomic && e->atomic) && e->at > c->c[e->by]) {
			search_fail_at(pc, e->pc, "data race: %s by %s against %s by %s", kind(write, atomic), X.t[X.cur].name, kind(e->write, e->atomic), X.t[e->by].name);
			return;
		}
		/* Whoever races with that one does with this one, too. */
		if (e->by == X.cur && e->atomic == atomic && e->write <= write && !(e->bytes & ~mask)) {
			if (keep)
				s->cell[i--] = s->cell[--s->n];
			else
				keep = e;
		}
	}
	if (!keep)
		keep = &s->cell[s->n < CELLS ? s->n++ : s->next++ % CELLS];
	*keep = (struct cell){ pc, c->c[X.cur], (u8)X.cur, mask, write, atomic };
	s->last = (u8)(keep - s->cell);
	s->has_atomics |= atomic;
}

/* A loop in which there is nothing that somebody else could end. */
static void judge_loop(const void *pc)
{
	static u32 n, since;

	n = X.steps == since ? n + 1 : 0;
	since = X.steps;
	if (n > ALONE_MAX)
		search_fail_at(pc, NULL, "%s does not come to an end", X.t[X.cur].name);
}

void race_in_arena(const volatile void *p, size_t size, bool write, bool atomic, const void *pc)
{
	uintptr_t at = (uintptr_t)p, end = at + size, first = at;
	bool had_atomics = false;

	if (write)
		arena_dirty(p, size);
	if (!in_thread())
		return;
	judge_loop(pc);
	if (arena_poisoned(at, size)) {
		search_fail_at(pc, NULL, "use after free: a %s by %s", write ? "write" : "read", X.t[X.cur].name);
		return;
	}
	if (!judged(at))
		return;
	while (at < end && !X.over) {
		struct shadow *s = shadow_of(at);
		u32 from = at % ARENA_GRANULE, n = TDM_MIN(ARENA_GRANULE - from, (u32)(end - at));

		had_atomics |= s->has_atomics;
		judge(s, (u8)(((1u << n) - 1) << from), write, atomic, pc);
		at += n;
	}
	if (write && !atomic && had_atomics && !X.over)
		memory_forget(first, size);
}
