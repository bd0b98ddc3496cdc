/* SPDX-License-Identifier: MIT */
/*
 * events_program.h - the model's address space, and the threads of a program that change it: see test_events.c.
 *
 * A thread's system call has changed the address space when it returns from here; what it announces goes step by step from then on (announce_step()). Threads are
 * stepped one at a time, at random or by a script: nothing here runs beside anything.
 *
 * What is known to remain (the top of port/host_event.c, docs/parts.md) the program does not do: where somebody has left of whom the engine did not know, or who says
 * something else first, nothing is moved or grown to before he has said so, nothing grows to where anybody has, and MREMAP_DONTUNMAP is as interpose_mremap.c has it.
 */
#ifndef TDM_TESTS_EVENTS_PROGRAM_H
#define TDM_TESTS_EVENTS_PROGRAM_H

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "mm/mm.h"
#include "port/host.h"
#include "run/live.h"
#include "runner/t.h"

#define PAGES 96u
/* The space straddles the border of two tables. */
#define BASE (((u64)1 << 40) + TDM_HUGE_SIZE - 48 * TDM_PAGE_SIZE)
#define THREADS 4u
#define AREAS 9u
#define AREA_MAX 14u
#define FRAMES (64u * TDM_BLOCK_PAGES)
#define ARENA ((size_t)64 << 20)

enum { REG_NONE, REG_MISSING, REG_EVENTS };

struct page {
	bool mapped, present;
	u8 reg;
	u32 token;     /* what it holds, if it is present */
	u32 expected;  /* what the program must find */
};

struct area {
	u32 first, n;
};

enum state { RUNNING, FAULTING, ANNOUNCING, SETTLING };

struct thread {
	enum state state;
	u32 fault;               /* page that it waits for */
	bool fault_read, fault_write;
	struct area area[AREAS];
	/* Events of the system call that it is in. */
	struct uffd_msg event[4];
	u32 nevents, at;
	enum { TO_QUEUE, QUEUED, READ } phase;
	u32 stalled;             /* so many of its turns pass before it queues the next one: somebody else has the CPU */
	struct area kept;        /* it has moved something here by mremap(MREMAP_DONTUNMAP), and waits for main to say that it is settled: preload.c */
	struct area drop;        /* after them: MADV_DONTNEED drops this */
	struct area then;        /* after them: mremap(MREMAP_FIXED) moves this to `then_to`, which it has taken: interpose_mremap.c */
	u32 then_to, then_len;
};

static struct page page[PAGES];
static u32 dropping[PAGES];      /* MADV_DONTNEED calls that are under way here: the bytes may be old or zero */
static bool unknown[PAGES];      /* who left here last was registered, and the engine did not know: grown, left by a DONTUNMAP, or being registered */
static u32 going[PAGES];         /* events on their way which say that somebody has left */
static struct thread thread[THREADS];
static u32 changing;             /* the kernel's mmap_changing */
static u64 rnd;
static u32 next_token;
static u64 run_seed;
static struct tdm_live live;
static u8 *arena;
static bool forks;               /* the program forks */
static bool resting;             /* nobody begins anything new */
static bool in_program;          /* a step of the program is not interrupted by another */
static bool still;               /* the engine stands still for a fork, and has the request lock: preload.c */
static bool scripted;            /* the program does what a test says, and nothing else */

static struct { u32 thread; u32 page; } fault_queue[4 * THREADS];
static u32 nfaults;
static u32 event_queue[THREADS + 2]; /* threads, oldest first; or THREADS: a fork; one more: a stranger */
static u32 nqueued;

static bool in_child;            /* this is the process of a child of it */

static void trace(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void trace(const char *fmt, ...)
{
	va_list ap;

	if (!getenv("TDM_TRACE"))
		return;
	va_start(ap, fmt);
	if (in_child)
		fprintf(stderr, "    child: ");
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static u32 below(u32 n)
{
	return (u32)(t_rand(&rnd) % n);
}

static u64 va_of(u32 p)
{
	return BASE + ((u64)p << TDM_PAGE_SHIFT);
}

static u32 page_at(u64 va)
{
	CHECK(va >= BASE && va - BASE < (u64)PAGES << TDM_PAGE_SHIFT);
	return (u32)((va - BASE) >> TDM_PAGE_SHIFT);
}

/* The child of a fork: what it has, from the moment of the fork on. */
#define CHILD 2
#define STRANGER 3 /* another one */
#define BEACON ((u64)TDM_PAGE_SIZE)
static struct {
	struct page page[PAGES];
	u32 dropping[PAGES];
	struct thread thread[THREADS];
} child;
static struct page stranger[PAGES];
static struct uffd_msg stranger_event[2]; /* what it does while it is given what is its; the last one is read first */
static u32 nstranger_events;
static enum { FORK_NONE, FORK_QUEUED, FORK_READ } fork_phase, stranger_phase;

static struct tdm_birth *birth_of(int uffd)
{
	for (u32 i = 0; i < live.frozen.nbirths; i++)
		if (live.frozen.birth[i].uffd == uffd)
			return &live.frozen.birth[i];
	return NULL;
}

/* ---- the program ------------------------------------------------------------------------------------------------------ */

static struct area *free_area(struct thread *t)
{
	for (u32 i = 0; i < AREAS; i++)
		if (!t->area[i].n)
			return &t->area[i];
	return NULL;
}

static u32 free_areas(const struct thread *t)
{
	u32 n = 0;

	for (u32 i = 0; i < AREAS; i++)
		n += !t->area[i].n;
	return n;
}

static struct area *some_area(struct thread *t)
{
	u32 i = below(AREAS);

	for (u32 k = 0; k < AREAS; k++)
		if (t->area[(i + k) % AREAS].n)
			return &t->area[(i + k) % AREAS];
	return NULL;
}

static struct area part_of(const struct area *a)
{
	u32 off = below(3) ? 0 : below(a->n), n = below(2) ? a->n - off : 1 + below(a->n - off);

	return (struct area){ a->first + off, n };
}

/* n free pages, the lowest or any; PAGES: there are none. */
static u32 room(u32 n)
{
	u32 from = below(2) ? 0 : below(PAGES), run = 0;

	for (u32 k = 0; k < 2 * PAGES; k++) {
		u32 p = (from + k) % PAGES;

		run = p && run ? run : 0;
		run = page[p].mapped || (going[p] && unknown[p]) ? 0 : run + 1;
		if (run == n)
			return p + 1 - n;
	}
	return PAGES;
}

/* Does the engine know that there is somebody? */
static bool known(u32 p)
{
	struct tdm_pte pte;
	struct tdm_vma v;
	u32 i;

	(void)tdmi_pt_walk(&live.mm.pgt, va_of(p), &i, &pte);
	return !tdm_pte_none(pte) || tdmi_vma_find(&live.mm.vmas, va_of(p), &v);
}

static void announce(struct thread *t, u32 event, u32 a, u32 b, u32 n)
{
	struct uffd_msg *m = &t->event[t->nevents++];

	CHECK(t->nevents <= 4);
	memset(m, 0, sizeof(*m));
	m->event = (u8)event;
	if (event == UFFD_EVENT_REMAP) {
		m->arg.remap.from = va_of(a);
		m->arg.remap.to = va_of(b);
		m->arg.remap.len = (u64)n << TDM_PAGE_SHIFT;
	} else {
		m->arg.remove.start = va_of(a);
		m->arg.remove.end = va_of(a) + ((u64)n << TDM_PAGE_SHIFT);
	}
	for (u32 p = a; event != UFFD_EVENT_REMOVE && p < a + n; p++) {
		unknown[p] = (going[p] && unknown[p]) || !known(p) || (event == UFFD_EVENT_REMAP && t->nevents > 1);
		going[p]++;
	}
	changing++;
	t->state = ANNOUNCING;
	t->phase = TO_QUEUE;
	t->at = 0;
	if (t->nevents == 1)
		t->stalled = below(4) ? 0 : below(64);
}

static bool any_registered(u32 first, u32 n)
{
	for (u32 p = first; p < first + n; p++)
		if (page[p].reg)
			return true;
	return false;
}

static void unmap_pages(struct thread *t, u32 first, u32 n)
{
	bool tell = any_registered(first, n);

	for (u32 p = first; p < first + n; p++)
		page[p] = (struct page){ 0 };
	if (tell)
		announce(t, UFFD_EVENT_UNMAP, first, 0, n);
}

/* The area loses `part`; what lies behind it becomes an area of its own. false: there is no room to write that down. */
static bool cut(struct thread *t, struct area *a, struct area part)
{
	struct area behind = { part.first + part.n, a->first + a->n - part.first - part.n };
	struct area *second = behind.n ? free_area(t) : NULL;

	if (behind.n && !second && part.first > a->first)
		return false;
	if (part.first > a->first) {
		a->n = part.first - a->first;
		if (behind.n)
			*second = behind;
	} else {
		*a = behind;
	}
	return true;
}

static void do_map(struct thread *t)
{
	struct area *a = free_area(t);
	u32 n = 1 + below(AREA_MAX), first = a ? room(n) : PAGES;

	if (first == PAGES)
		return;
	*a = (struct area){ first, n };
	for (u32 p = first; p < first + n; p++)
		page[p] = (struct page){ .mapped = true };
	trace("%ld: map %u+%u", (long)(t - thread), first, n);
}

static void do_unmap(struct thread *t)
{
	struct area *a = some_area(t), part;

	if (!a)
		return;
	part = part_of(a);
	if (!cut(t, a, part))
		return;
	trace("%ld: unmap %u+%u", (long)(t - thread), part.first, part.n);
	unmap_pages(t, part.first, part.n);
}

static void drop_now(struct thread *t)
{
	for (u32 p = t->drop.first; p < t->drop.first + t->drop.n; p++) {
		dropping[p]--;
		page[p].present = false;
		page[p].token = page[p].expected = 0;
	}
	trace("%ld: dropped %u+%u", (long)(t - thread), t->drop.first, t->drop.n);
	t->drop.n = 0;
}

static void do_drop(struct thread *t)
{
	struct area *a = some_area(t), part;
	u8 reg;

	if (!a)
		return;
	part = part_of(a);
	reg = page[part.first].reg;
	for (u32 p = part.first; p < part.first + part.n; p++)
		if (page[p].reg != reg)
			return;
	trace("%ld: drop %u+%u", (long)(t - thread), part.first, part.n);
	t->drop = part;
	for (u32 p = part.first; p < part.first + part.n; p++) {
		dropping[p]++;
	}
	/* With nobody to tell it is done before the lock is let go of. */
	if (reg)
		announce(t, UFFD_EVENT_REMOVE, part.first, 0, part.n);
	else
		drop_now(t);
}

/* mremap() wants all of the old place to be one mapping. */
static bool one_mapping(struct area a)
{
	for (u32 p = a.first; p < a.first + a.n; p++)
		if (page[p].reg != page[a.first].reg)
			return false;
	return true;
}

static bool grow_in_place(struct thread *t, struct area *a)
{
	u32 end = a->first + a->n, by = 1 + below(4);

	for (u32 p = end; p < end + by; p++)
		if (p >= PAGES || page[p].mapped || going[p])
			return false;
	for (u32 p = end; p < end + by; p++)
		page[p] = (struct page){ .mapped = true, .reg = page[a->first].reg };
	a->n += by;
	trace("%ld: grow in place by %u: %u+%u", (long)(t - thread), by, a->first, a->n);
	return true;
}

static void move_pages(struct thread *t, struct area from, u32 to, u32 len, bool keep_old);

/* Is there an event on its way which says that somebody has left? */
static bool any_going(u32 first, u32 n)
{
	for (u32 p = first; p < first + n; p++)
		if (going[p])
			return true;
	return false;
}

static void do_remap(struct thread *t)
{
	struct area *a = some_area(t), from, *dest = NULL;
	u32 to, len, kind = below(4);
	bool keep_old = kind == 0, fixed = kind == 1;

	/* Two areas may be cut in two, and there is a new one. */
	if (!a || free_areas(t) < 3 || (keep_old && still))
		return;
	if (below(8) == 0 && one_mapping(*a) && grow_in_place(t, a))
		return;
	from = part_of(a);
	if (!one_mapping(from))
		return;
	len = keep_old || below(2) ? from.n : 1 + below(AREA_MAX);
	/* Onto an area of our own, which goes, or to a free place. */
	if (fixed) {
		dest = some_area(t);
		if (!dest || dest == a || dest->n < len)
			return;
		to = dest->first + below(dest->n - len + 1);
	} else {
		to = room(len);
		if (to == PAGES || (len > from.n && any_going(to + from.n, len - from.n)))
			return;
	}
	if (!keep_old)
		cut(t, a, from);
	trace("%ld: remap %u+%u to %u+%u%s%s", (long)(t - thread), from.first, from.n, to, len, keep_old ? ", keep" : "", fixed ? ", fixed" : "");
	if (!dest) {
		move_pages(t, from, to, len, keep_old);
		return;
	}
	cut(t, dest, (struct area){ to, len });
	unmap_pages(t, to, len);
	for (u32 p = to; p < to + len; p++)
		page[p].mapped = true;
	*free_area(t) = from;
	t->then = from;
	t->then_to = to;
	t->then_len = len;
}

/* The place is taken, and it has been read that nothing is there any more. */
static void move_then(struct thread *t)
{
	struct area from = t->then;

	t->then.n = 0;
	for (u32 i = 0; i < AREAS; i++)
		if (t->area[i].n == from.n && t->area[i].first == from.first)
			t->area[i].n = 0;
	trace("%ld: goes on", (long)(t - thread));
	if (one_mapping(from)) {
		/* Found meanwhile, as anything else. */
		unmap_pages(t, t->then_to, t->then_len);
		move_pages(t, from, t->then_to, t->then_len, false);
		return;
	}
	/* Refused: found in parts meanwhile. */
	*free_area(t) = from;
	unmap_pages(t, t->then_to, t->then_len);
}

/* mremap(), of pages that are one mapping's, to a place where nothing is any more. */
static void move_pages(struct thread *t, struct area from, u32 to, u32 len, bool keep_old)
{
	/* What is cut off at the end goes first, but is announced afterwards. */
	u8 reg = page[from.first].reg;
	u32 tail = from.n > len ? from.n - len : 0, moved = from.n - tail;
	bool tell_tail = tail && any_registered(from.first + moved, tail);

	for (u32 p = from.first + moved; p < from.first + from.n; p++)
		page[p] = (struct page){ 0 };
	for (u32 k = 0; k < len; k++) {
		struct page *d = &page[to + k], *s;

		*d = (struct page){ .mapped = true, .reg = reg };
		if (k < moved) {
			s = &page[from.first + k];
			d->present = s->present;
			d->token = s->token;
			d->expected = s->expected;
			*s = (struct page){ .mapped = keep_old, .reg = keep_old ? reg : REG_NONE };
		}
	}
	*free_area(t) = (struct area){ to, len };
	if (!reg)
		return;
	if (keep_old)
		t->kept = (struct area){ to, len };
	announce(t, UFFD_EVENT_REMAP, from.first, to, moved);
	if (tell_tail)
		announce(t, UFFD_EVENT_UNMAP, from.first + moved, 0, tail);
	if (!keep_old)
		announce(t, UFFD_EVENT_UNMAP, from.first, 0, moved);
}

/* true: done, or there is nothing there any more. */
static bool touch(struct thread *t, u32 p, bool write)
{
	struct page *g = &page[p];

	if (!g->mapped)
		return true;
	if (!g->present && g->reg == REG_MISSING) {
		t->state = FAULTING;
		t->fault = p;
		t->fault_read = false;
		t->fault_write = write;
		fault_queue[nfaults].thread = (u32)(t - thread);
		fault_queue[nfaults++].page = p;
		trace("%ld: fault at %u", (long)(t - thread), p);
		return false;
	}
	if (!g->present) {
		g->present = true;
		g->token = 0;
	}
	if (!dropping[p] && g->token != g->expected)
		t_fail(__FILE__, __LINE__, "page %u holds %u, must be %u (seed %llu)", p, g->token, g->expected, (unsigned long long)run_seed);
	/* A write beside the dropping may be lost, or not. */
	if (write && !dropping[p]) {
		g->token = g->expected = ++next_token;
		trace("%ld: write %u at %u", (long)(t - thread), g->token, p);
	}
	return true;
}

static void do_touch(struct thread *t)
{
	struct area *a = below(8) ? some_area(t) : some_area(&thread[below(THREADS)]);
	bool write = below(3);

	if (a)
		for (u32 n = 1 + below(3), p = a->first + below(a->n); n && p < a->first + a->n && touch(t, p, write); n--, p++)
			;
}

static void announce_step(struct thread *t)
{
	if (t->phase == TO_QUEUE && t->stalled && !resting) {
		t->stalled--;
		return;
	}
	if (t->phase == TO_QUEUE) {
		event_queue[nqueued++] = (u32)(t - thread);
		t->phase = QUEUED;
		return;
	}
	if (t->phase != READ)
		return;
	changing--;
	t->phase = TO_QUEUE;
	if (++t->at < t->nevents) {
		t->stalled = below(4) ? 0 : below(64);
		return;
	}
	t->nevents = 0;
	t->state = t->kept.n ? SETTLING : RUNNING;
}

/* Nothing is done to pages that are just being dropped: what they hold is anybody's guess. */
static bool dropping_any(const struct thread *t)
{
	for (u32 i = 0; i < AREAS; i++)
		for (u32 p = t->area[i].first; p < t->area[i].first + t->area[i].n; p++)
			if (dropping[p])
				return true;
	return false;
}

/* The thread that forks: copies the address space, announces it, and goes on when that has been read. */
static void fork_step(void)
{
	if (fork_phase == FORK_READ) {
		changing--;
		fork_phase = FORK_NONE;
	}
}

static void fork_now(void)
{
	memcpy(child.page, page, sizeof(page));
	memcpy(child.dropping, dropping, sizeof(dropping));
	memcpy(child.thread, thread, sizeof(thread));
	changing++;
	/* Who gets in between the copying and this is a matter of microseconds, and the engine could not tell it. */
	event_queue[nqueued++] = THREADS;
	fork_phase = FORK_QUEUED;
	trace("fork");
}

/* A thread makes the bare system call, at a moment at which there is no doubt about what its child has. */
static void bare_fork(void)
{
	if (changing || stranger_phase || (still && birth_of(STRANGER)))
		return;
	memcpy(stranger, page, sizeof(page));
	for (u32 p = 0; p < PAGES; p++)
		stranger[p].present = stranger[p].present || dropping[p]; /* the one or the other */
	changing++;
	event_queue[nqueued++] = THREADS + 1;
	stranger_phase = FORK_QUEUED;
	trace("bare fork");
}

static void program_step(void)
{
	struct thread *t = &thread[below(THREADS)];

	in_program = true;
	if (fork_phase && below(THREADS) == 0)
		fork_step();
	if (stranger_phase == FORK_READ && below(THREADS) == 0) {
		changing--;
		stranger_phase = FORK_NONE;
	}
	if (forks && !resting && below(300) == 0)
		bare_fork();
	if (t->state == ANNOUNCING) {
		announce_step(t);
	} else if (t->state == RUNNING && t->drop.n) {
		drop_now(t);
	} else if (t->state == RUNNING && t->then.n) {
		move_then(t);
	} else if (t->state == RUNNING && !resting) {
		u32 what = below(20);

		if (what < 12 || dropping_any(t))
			do_touch(t);
		else if (what < 14)
			do_map(t);
		else if (what < 16)
			do_unmap(t);
		else if (what < 17)
			do_drop(t);
		else
			do_remap(t);
	}
	in_program = false;
}

/* Whatever is asked of the kernel, the program was faster. */
static void meanwhile(void)
{
	if (in_program || scripted || below(3))
		return;
	for (u32 n = 1 + below(6); n; n--)
		program_step();
}

#endif
