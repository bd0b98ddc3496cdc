/* SPDX-License-Identifier: MIT */
/*
 * The order of events (port/host_event.c), what is found (run/live_find.c), and the engine below them, over a model of the kernel.
 *
 * The model has an address space of a few dozen pages and a few threads of a program that map, unmap, move, drop, read and write it. A system call
 * changes the address space at once, and then announces what it did, one event after the other, as the kernel does: each is queued
 * some time later, is read some time after that, and only some time after that its thread goes on. Faults are read before events. As long as
 * anything is on its way the kernel refuses to fill and to move (-EAGAIN). Everything that the engine asks of the kernel gives the program's threads
 * a chance to go on first; who goes on, and how far, comes from the seed. So every order of things comes up, and each can be had again.
 *
 * What the program reads must be what it wrote. TDM_TRACE=1 shows the way there. TDM_SEED=n begins elsewhere, TDM_RUNS=n makes more of them or fewer.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "mm/mm.h"
#include "plat/sim.h"
#include "pool/codec.h"
#include "port/host.h"
#include "run/live.h"
#include "runner/t.h"

/*
 * Which runs are made by default (TDM_SEED=1). What is known to remain (the top of port/host_event.c, docs/parts.md) the model's program does not do: where somebody
 * has left of whom the engine did not know, or who says something else first, nothing is moved or grown to before he has said so, nothing grows to where anybody has, and MREMAP_DONTUNMAP is as
 * interpose_mremap.c has it.
 */
#define FIRST_RUN 499
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

	(void)tdmi_pt_walk(&live.mm, va_of(p), &i, &pte);
	return !tdm_pte_none(pte) || tdmi_vma_find(&live.mm, va_of(p), &v);
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

/* ---- the kernel's answers --------------------------------------------------------------------------------------------- */

int tdmi_host_registered(int uffd, u64 va)
{
	if (uffd == STRANGER && nstranger_events)
		return -EAGAIN;
	if (va == BEACON)
		return 0;
	if (uffd == STRANGER)
		return stranger[page_at(va)].reg ? 0 : -ENOENT;
	if (uffd == CHILD)
		return child.page[page_at(va)].reg ? 0 : -ENOENT;
	meanwhile();
	if (changing)
		return -EAGAIN;
	return page[page_at(va)].reg ? 0 : -ENOENT;
}

static void queue_all(void)
{
	for (u32 k = 0, from = below(THREADS); k < THREADS; k++) {
		struct thread *t = &thread[(from + k) % THREADS];

		if (t->state == ANNOUNCING && t->phase == READ)
			announce_step(t);
		if (t->state == ANNOUNCING && t->phase == TO_QUEUE) {
			t->stalled = 0;
			announce_step(t);
		}
	}
}

void tdmi_host_let_queue(struct tdm_host *h)
{
	(void)h;
	meanwhile();
	queue_all();
}

bool tdmi_host_changing(struct tdm_host *h)
{
	(void)h;
	meanwhile();
	return changing != 0;
}

/* Somebody in the child touches a page that it has not got. */
static int child_fault(struct uffd_msg *m)
{
	u32 p = below(PAGES);

	if (below(4) == 0 || !child.page[p].mapped || child.page[p].reg != REG_MISSING || child.page[p].present)
		return 0;
	memset(m, 0, sizeof(*m));
	m->event = UFFD_EVENT_PAGEFAULT;
	m->arg.pagefault.address = va_of(p);
	return 1;
}

/* The child of a bare fork runs: it drops something, or moves it. */
static void stranger_acts(void)
{
	u32 first = below(PAGES), n = 1 + below(4), to = below(PAGES);
	bool moves = below(2);

	if (nstranger_events || below(6) || first + n > PAGES || to + n > PAGES)
		return;
	for (u32 k = 0; k < n; k++)
		if (stranger[first + k].reg != REG_MISSING || (moves && stranger[to + k].mapped))
			return;
	trace("the child of a bare fork %s %u+%u to %u", moves ? "moves" : "drops", first, n, to);
	memset(stranger_event, 0, sizeof(stranger_event));
	for (u32 k = 0; k < n; k++) {
		if (moves)
			stranger[to + k] = stranger[first + k];
		stranger[first + k] = (struct page){ .mapped = !moves, .reg = moves ? REG_NONE : REG_MISSING };
	}
	stranger_event[0].event = moves ? UFFD_EVENT_UNMAP : UFFD_EVENT_REMOVE;
	stranger_event[0].arg.remove.start = va_of(first);
	stranger_event[0].arg.remove.end = va_of(first + n);
	stranger_event[1].event = UFFD_EVENT_REMAP;
	stranger_event[1].arg.remap.from = va_of(first);
	stranger_event[1].arg.remap.to = va_of(to);
	stranger_event[1].arg.remap.len = (u64)n << TDM_PAGE_SHIFT;
	nstranger_events = 1 + moves;
}

static void gone(const struct uffd_msg *m)
{
	bool moved = m->event == UFFD_EVENT_REMAP;
	u64 start = moved ? m->arg.remap.from : m->arg.remove.start;
	u64 end = moved ? start + m->arg.remap.len : m->arg.remove.end;

	for (u64 va = start; m->event != UFFD_EVENT_REMOVE && va < end; va += TDM_PAGE_SIZE)
		going[page_at(va)]--;
}

int tdmi_host_read_msg(int uffd, struct uffd_msg *m)
{
	struct thread *t;
	u32 who;

	if (uffd == CHILD)
		return child_fault(m);
	if (uffd == STRANGER) {
		if (!nstranger_events)
			return 0;
		*m = stranger_event[--nstranger_events];
		return 1;
	}
	meanwhile();
	if (nfaults) {
		memset(m, 0, sizeof(*m));
		m->event = UFFD_EVENT_PAGEFAULT;
		m->arg.pagefault.address = va_of(fault_queue[0].page);
		t = &thread[fault_queue[0].thread];
		m->arg.pagefault.flags = t->fault_write ? UFFD_PAGEFAULT_FLAG_WRITE : 0;
		t->fault_read = true;
		memmove(fault_queue, fault_queue + 1, --nfaults * sizeof(fault_queue[0]));
		trace("read fault at %u", page_at(m->arg.pagefault.address));
		return 1;
	}
	if (!nqueued)
		return 0;
	who = event_queue[0];
	t = who >= THREADS ? NULL : &thread[who];
	memmove(event_queue, event_queue + 1, --nqueued * sizeof(event_queue[0]));
	if (!t) {
		memset(m, 0, sizeof(*m));
		m->event = UFFD_EVENT_FORK;
		m->arg.fork.ufd = who == THREADS ? CHILD : STRANGER;
		if (who == THREADS)
			fork_phase = FORK_READ;
		else
			stranger_phase = FORK_READ;
		trace("read %sfork", who == THREADS ? "" : "bare ");
		return 1;
	}
	*m = t->event[t->at];
	t->phase = READ;
	gone(m);
	if (m->event == UFFD_EVENT_REMAP)
		trace("read remap %u to %u, %u", page_at(m->arg.remap.from), page_at(m->arg.remap.to), (u32)(m->arg.remap.len >> TDM_PAGE_SHIFT));
	else
		trace("read %s %u+%u", m->event == UFFD_EVENT_UNMAP ? "unmap" : "remove", page_at(m->arg.remove.start),
		      (u32)((m->arg.remove.end - m->arg.remove.start) >> TDM_PAGE_SHIFT));
	return 1;
}

void tdmi_host_kick(struct tdm_host *h)
{
	(void)h;
}

static void set_reg(u64 start, u64 end, u8 reg)
{
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE)
		if (page[page_at(va)].mapped)
			page[page_at(va)].reg = reg;
	trace("register %u..%u as %u", page_at(start), page_at(end - 1), reg);
}

/* The range must begin and end in mappings, and may have holes. */
static int reg_call(u64 start, u64 end, u8 reg)
{
	bool any = false;

	meanwhile();
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE)
		any = any || page[page_at(va)].mapped;
	if (!any)
		return -EINVAL;
	set_reg(start, end, reg);
	return 0;
}

int tdmi_host_register(struct tdm_host *h, u64 start, u64 end)
{
	(void)h;
	return reg_call(start, end, REG_MISSING);
}

int tdmi_host_register_events(struct tdm_host *h, u64 start, u64 end)
{
	(void)h;
	return reg_call(start, end, REG_EVENTS);
}

int tdmi_host_unregister(struct tdm_host *h, u64 start, u64 end)
{
	(void)h;
	return reg_call(start, end, REG_NONE);
}

int tdmi_host_mapping(struct tdm_host *h, u64 addr, struct tdm_mapping *m)
{
	u32 p = addr <= BASE ? 0 : (u32)((addr - BASE) >> TDM_PAGE_SHIFT), e;

	(void)h;
	meanwhile();
	while (p < PAGES && !page[p].mapped)
		p++;
	if (p >= PAGES)
		return -ENOENT;
	for (e = p; e < PAGES && page[e].mapped && page[e].reg == page[p].reg; e++)
		;
	for (; p && page[p - 1].mapped && page[p - 1].reg == page[p].reg; p--)
		;
	*m = (struct tdm_mapping){ .start = va_of(p), .end = va_of(e), .readable = true, .writable = true };
	return 0;
}

bool tdmi_linux_mem_own(u64 start, u64 end)
{
	(void)start;
	(void)end;
	return false;
}

static void wake(u32 p);
static int put(u64 va, u32 *tokens, u32 n, u32 *done);

static int copy_page(int uffd, u64 va, const void *src)
{
	u32 p = page_at(va), token, done;

	memcpy(&token, src, sizeof(token));
	if (uffd == STRANGER) {
		stranger_acts();
		if (nstranger_events)
			return -EAGAIN;
	}
	if (uffd == STRANGER && (!stranger[p].reg || stranger[p].present))
		return stranger[p].present ? -EEXIST : -ENOENT;
	if (uffd == STRANGER) {
		if (token != stranger[p].expected)
			t_fail(__FILE__, __LINE__, "page %u of the child of a bare fork is given %u, must be %u (seed %llu)", p, token,
			       stranger[p].expected, (unsigned long long)run_seed);
		stranger[p].present = true;
		return 0;
	}
	if (uffd != CHILD)
		return put(va, &token, 1, &done);
	trace("fill %u of the child with %u", p, token);
	if (!child.dropping[p] && token != child.page[p].expected)
		t_fail(__FILE__, __LINE__, "the child's page %u is given %u, must be %u (seed %llu)", p, token, child.page[p].expected,
		       (unsigned long long)run_seed);
	child.page[p].present = true;
	child.page[p].token = token;
	return 0;
}

int tdmi_host_copy(int uffd, u64 va, const void *src, u32 n, u32 *done)
{
	int r = 0;

	for (*done = 0; *done < n && !r; *done += !r)
		r = copy_page(uffd, va + ((u64)*done << TDM_PAGE_SHIFT), (const u8 *)src + ((size_t)*done << TDM_PAGE_SHIFT));
	return r;
}

/* No store waits here. */
int tdmi_host_protect(int uffd, u64 va, u64 len, bool on)
{
	(void)uffd;
	(void)va;
	(void)len;
	(void)on;
	return -ENOENT;
}

int tdmi_host_wake(int uffd, u64 va, u64 len)
{
	if (uffd == live.host.uffd)
		for (u64 off = 0; off < len; off += TDM_PAGE_SIZE)
			wake(page_at(va + off));
	return 0;
}

/* ---- the port ---------------------------------------------------------------------------------------------------------- */

static void wake(u32 p)
{
	for (u32 i = 0; i < THREADS; i++)
		if (thread[i].state == FAULTING && thread[i].fault == p && thread[i].fault_read)
			thread[i].state = RUNNING;
}

static int put(u64 va, u32 *tokens, u32 n, u32 *done)
{
	*done = 0;
	meanwhile();
	while (*done < n) {
		u32 p = page_at(va) + *done;

		if (changing)
			return -EAGAIN;
		if (!page[p].mapped || !page[p].reg || page[p].reg != page[page_at(va)].reg)
			return -ENOENT;
		if (page[p].present)
			return -EEXIST;
		page[p].present = true;
		page[p].token = tokens[*done];
		trace("fill %u with %u", p, page[p].token);
		wake(p);
		(*done)++;
	}
	return 0;
}

static int k_fill_copy(struct tdm_port *port, struct tdm_va va, const void *src, u32 n, u32 *done)
{
	u32 tokens[TDM_HUGE_PAGES];

	(void)port;
	for (u32 k = 0; k < n; k++)
		memcpy(&tokens[k], (const u8 *)src + k * TDM_PAGE_SIZE, sizeof(u32));
	return put(va.v, tokens, n, done);
}

static int k_fill(struct tdm_port *port, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	int r = k_fill_copy(port, va, slot, n, done);

	memset(slot, 0, *done * TDM_PAGE_SIZE);
	return r;
}

static int k_fill_zero(struct tdm_port *port, struct tdm_va va, u32 n, u32 *done)
{
	u32 tokens[TDM_HUGE_PAGES] = { 0 };

	(void)port;
	return put(va.v, tokens, n, done);
}

static int k_poison(struct tdm_port *port, struct tdm_va va, u32 n)
{
	(void)port;
	(void)va;
	(void)n;
	t_fail(__FILE__, __LINE__, "a page was lost");
}

static int k_invalidate(struct tdm_port *port, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	(void)port;
	*done = 0;
	meanwhile();
	while (*done < n) {
		u32 p = page_at(va.v) + *done;
		u8 *at = (u8 *)slot + *done * TDM_PAGE_SIZE;

		if (changing)
			return -EAGAIN;
		if (!page[p].mapped || page[p].reg != page[page_at(va.v)].reg)
			return -ENOENT;
		memset(at, 0, TDM_PAGE_SIZE);
		if (page[p].present)
			memcpy(at, &page[p].token, sizeof(u32));
		trace("take %u (%u)", p, page[p].present ? page[p].token : 0);
		page[p].present = false;
		(*done)++;
	}
	return 0;
}

void tdmi_host_let_go(int uffd)
{
	for (u32 p = 0; uffd == STRANGER && p < PAGES; p++)
		if (!stranger[p].present && stranger[p].expected)
			t_fail(__FILE__, __LINE__, "page %u of the child of a bare fork was not given %u (seed %llu)", p, stranger[p].expected,
			       (unsigned long long)run_seed);
}

static void k_wake(struct tdm_port *port, struct tdm_va va, u32 n)
{
	(void)port;
	for (u32 k = 0; k < n; k++)
		wake(page_at(va.v) + k);
}

static int k_present(struct tdm_port *port, struct tdm_va va, u32 n, u64 *present, bool *huge)
{
	(void)port;
	*huge = false;
	meanwhile();
	for (u32 k = 0; k < n; k++) {
		u64 at = va.v + ((u64)k << TDM_PAGE_SHIFT);

		if (at >= BASE && at < va_of(PAGES) && page[page_at(at)].present)
			present[k / 64] |= (u64)1 << (k % 64);
	}
	return 0;
}

static u64 k_next_present(struct tdm_port *port, u64 va, u64 end)
{
	(void)port;
	for (; va < end; va += TDM_PAGE_SIZE)
		if (page[page_at(va)].present)
			return va;
	return end;
}

static int k_unshare(struct tdm_port *port, struct tdm_va va, u32 n)
{
	(void)port;
	(void)va;
	(void)n;
	return 0;
}

static void k_discard(struct tdm_port *port, void *const *slot, const u32 *pages, u32 n)
{
	(void)port;
	for (u32 i = 0; i < n; i++)
		memset(slot[i], 0, (size_t)pages[i] << TDM_PAGE_SHIFT);
}

static const struct tdm_port_ops model_ops = {
	.name = "model",
	.caps = { .access = TDM_AF_SOFTWARE, .page_sizes = TDM_PAGE_SIZE },
	.fill = k_fill,
	.fill_copy = k_fill_copy,
	.fill_zero = k_fill_zero,
	.fill_poison = k_poison,
	.invalidate = k_invalidate,
	.wake = k_wake,
	.present = k_present,
	.next_present = k_next_present,
	.unshare = k_unshare,
	.discard = k_discard,
	.discard_many = k_discard,
	.drain = tdmi_host_drain,
};

/* ---- the engine's steps -------------------------------------------------------------------------------------------------- */

static bool serve(void)
{
	struct tdm_host_fault f;
	bool got;

	plat_mutex_lock(&live.mm.event_lock);
	got = tdmi_host_read(&live.host, live.ctx, &f);
	plat_mutex_unlock(&live.mm.event_lock);
	if (got)
		tdmi_fault(live.ctx, (struct tdm_va){ f.va }, f.write);
	return got;
}

/* Main carries out requests. */
static void serve_requests(void)
{
	for (u32 i = 0; i < THREADS; i++) {
		struct thread *t = &thread[i];

		if (t->state != SETTLING)
			continue;
		plat_mutex_lock(&live.mm.event_lock);
		tdmi_host_drain(&live.host.port, live.ctx);
		if (!tdmi_host_awaited(&live.host, va_of(t->kept.first), va_of(t->kept.first + t->kept.n))) {
			t->kept.n = 0;
			t->state = RUNNING;
		}
		plat_mutex_unlock(&live.mm.event_lock);
	}
}

static void come_to_rest(void);
static void look_at_everything(void);
static void run_steps(u32 steps);

static void take_over(void);

/* In a process of its own: what the engine knows is what it knew when it stopped, as in a real child. */
static void live_as_child(void)
{
	take_over();
	look_at_everything();
	run_steps(300);
	look_at_everything();
	_exit(0);
}

static void take_over(void)
{
	struct tdm_birth *b = birth_of(CHILD);
	u32 n = live.frozen.n;
	struct tdm_frozen_event *e = calloc(n + 1, sizeof(*e));

	CHECK(e != NULL);
	for (u32 i = 0; i < n; i++)
		e[i] = live.frozen.event[i];
	memcpy(page, child.page, sizeof(page));
	memcpy(thread, child.thread, sizeof(thread));
	memset(unknown, 0, sizeof(unknown));
	memset(going, 0, sizeof(going));
	changing = nfaults = nqueued = 0;
	fork_phase = stranger_phase = FORK_NONE;
	for (u32 i = 0; i < THREADS; i++) {
		thread[i].state = RUNNING;
		thread[i].nevents = thread[i].drop.n = thread[i].then.n = thread[i].kept.n = 0;
	}
	trace("the child begins");
	forks = still = false;
	in_child = true;
	/* Its program does not run before it has taken over. */
	in_program = true;
	tdmi_frozen_take(&live, e, n, (u32)(b - live.frozen.birth));
	/* What was being dropped is the one or the other, and stays it. */
	for (u32 p = 0; p < PAGES; p++)
		while (child.dropping[p] && page[p].mapped) {
			dropping[p] = 1;
			if (touch(&thread[0], p, false)) {
				page[p].expected = page[p].token;
				break;
			}
			come_to_rest();
		}
	memset(dropping, 0, sizeof(dropping));
	in_program = false;
}

/* false: the fork has not been read of. */
static bool read_frozen(void)
{
	CHECK_EQ(tdmi_frozen_read(&live), 0);
	return birth_of(CHILD) != NULL;
}

static void give_strangers(void)
{
	struct tdm_birth *b;

	while ((b = birth_of(STRANGER))) {
		tdmi_frozen_judge(&live, b);
		tdmi_frozen_give(&live, b);
	}
}

/* The engine stands still, and the program forks. */
static void fork_it(void)
{
	int status;
	pid_t pid;
	bool settled;

	plat_mutex_lock(&live.mm.event_lock);
	settled = tdmi_events_settled(live.ctx);
	plat_mutex_unlock(&live.mm.event_lock);
	for (u32 i = 0; i < THREADS; i++)
		settled = settled && !thread[i].kept.n;
	if (!settled || fork_phase)
		return;
	trace("still");
	still = true;
	tdmi_frozen_begin(&live);
	for (u32 n = below(6); n; n--)
		read_frozen();
	fork_now();
	while (!read_frozen())
		meanwhile();
	/* Until all who were under way when it forked have been heard: as run/live_fork.c has it. */
	for (u32 round = 0; round < 4 && changing; round++) {
		meanwhile();
		queue_all();
		read_frozen();
	}
	tdmi_frozen_judge(&live, birth_of(CHILD));
	for (u32 n = below(8); n; n--) {
		meanwhile();
		read_frozen();
		tdmi_frozen_read_child(&live, birth_of(CHILD));
	}
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		live_as_child();
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	give_strangers();
	trace("goes on");
	still = false;
	tdmi_frozen_end(&live);
}

static void engine_step(void)
{
	u64 pages;

	meanwhile();
	serve_requests();
	if (below(forks ? 200 : ~0u) == 0) {
		fork_it();
		return;
	}
	switch (below(8)) {
	case 0:
		tdmi_live_find(&live);
		break;
	case 1:
		tdmi_age(live.ctx, 1 + below(64));
		break;
	case 2:
		tdmi_reclaim(live.ctx, 0, 1 + below(32));
		break;
	case 3:
		(void)tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages);
		break;
	default:
		serve();
	}
}

static void start(u64 seed)
{
	struct tdm_tier *tier;
	struct tdm_swap *swap;

	tdm_sim_init(arena, ARENA);
	memset(page, 0, sizeof(page));
	memset(dropping, 0, sizeof(dropping));
	memset(going, 0, sizeof(going));
	memset(unknown, 0, sizeof(unknown));
	memset(thread, 0, sizeof(thread));
	memset(&live, 0, sizeof(live));
	changing = nfaults = nqueued = next_token = 0;
	fork_phase = stranger_phase = FORK_NONE;
	live.host.uffd = 1;
	live.host.beacon = BEACON;
	nstranger_events = 0;
	live.host.forked = tdmi_live_raw_fork;
	live.host.forked_arg = &live;
	rnd = run_seed = seed;
	tdmi_tiers_init(NULL);
	CHECK_EQ(tdmi_tier_mem_create(TDM_CODEC_LZ4, 0, &tier), 0);
	CHECK_EQ(tdmi_swap_create(&tier, 1, &swap), 0);
	tdmi_swap_keep_limit(swap, (u64)1 << 20);
	live.host.port.ops = &model_ops;
	live.host.mm = &live.mm;
	live.arena = plat_map(FRAMES * TDM_PAGE_SIZE);
	CHECK(live.arena != NULL);
	CHECK_EQ(tdmi_mm_init(&live.mm, &live.host.port, live.arena, FRAMES, swap), 0);
	tdm_a64_st_relaxed(&live.mm.limit_bytes, ~(u64)0);
	tdm_a64_st_relaxed(&live.mm.high_bytes, ~(u64)0);
	live.ctx = tdmi_ctx_create(&live.mm);
	CHECK(live.ctx != NULL);
	live.ctx->may_wait = true;
}

/* Every thread out of its system call, with the engine serving. */
static void come_to_rest(void)
{
	resting = true;
	for (u32 tries = 0; tries < 100000; tries++) {
		bool busy;

		if (stranger_phase == FORK_READ) {
			changing--;
			stranger_phase = FORK_NONE;
		}
		busy = changing != 0;
		for (u32 i = 0; i < THREADS; i++) {
			struct thread *t = &thread[i];

			busy = busy || t->state != RUNNING || t->drop.n || t->then.n;
			if (t->state == ANNOUNCING)
				announce_step(t);
			else if (t->state == RUNNING && t->drop.n)
				drop_now(t);
			else if (t->state == RUNNING && t->then.n)
				move_then(t);
		}
		if (!busy) {
			resting = false;
			return;
		}
		serve();
		serve_requests();
	}
	t_fail(__FILE__, __LINE__, "the program hangs (seed %llu)", (unsigned long long)run_seed);
}

static void look_at_everything(void)
{
	for (u32 p = 0; p < PAGES; p++)
		while (page[p].mapped && !touch(&thread[0], p, false))
			come_to_rest();
}

static void run_steps(u32 steps)
{
	for (u32 i = 0; i < steps; i++) {
		if (below(2))
			program_step();
		else
			engine_step();
		if (i % 512 == 511) {
			come_to_rest();
			look_at_everything();
		}
	}
	come_to_rest();
}

static void run(u64 seed, u32 steps)
{
	start(seed);
	run_steps(steps);
	look_at_everything();
	tdmi_ctx_destroy(live.ctx);
	tdmi_mm_destroy(&live.mm);
}

/* ---- some orders by hand (may_leak: the simulated platform keeps its lists) -------------------------------------------------- */

static void begin_script(void)
{
	arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	CHECK(arena != NULL);
	scripted = true;
	start(1);
}

static void end_script(void)
{
	come_to_rest();
	look_at_everything();
	tdmi_ctx_destroy(live.ctx);
	tdmi_mm_destroy(&live.mm);
	free(arena);
}

/* A mapping of a thread's, registered or not. */
static void has(u32 t, u32 first, u32 n, u8 reg)
{
	*free_area(&thread[t]) = (struct area){ first, n };
	for (u32 p = first; p < first + n; p++)
		page[p] = (struct page){ .mapped = true, .reg = reg };
}

static void write_at(u32 t, u32 p)
{
	while (!touch(&thread[t], p, true))
		CHECK(serve());
}

/* Who has something to say, and has not yet, says it. */
static void queue_event(u32 t)
{
	CHECK(thread[t].state == ANNOUNCING && thread[t].phase == TO_QUEUE);
	announce_step(&thread[t]);
}

/* The child of a fork in which nothing else is read than what is queued: in a process of its own. */
static void fork_script(void (*child_does)(void))
{
	int status;
	pid_t pid;

	while (!read_frozen() || nqueued)
		;
	tdmi_frozen_judge(&live, birth_of(CHILD));
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		take_over();
		child_does();
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	give_strangers();
	tdmi_frozen_end(&live);
	changing--;
	fork_phase = FORK_NONE;
}

static void child_maps_again(void)
{
	u64 pages;

	CHECK(!page[12].mapped);
	has(0, 10, 4, REG_NONE);
	write_at(0, 12);
	(void)tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages);
	CHECK(touch(&thread[0], 12, false));
}

/* A page that was served where nobody had found a mapping yet, and that was unmapped as the program forked, is not the child's. */
TEST(a_child_does_not_know_what_was_served_unfound, .may_leak = true)
{
	begin_script();
	has(0, 10, 4, REG_MISSING);
	write_at(0, 12);
	tdmi_frozen_begin(&live);
	unmap_pages(&thread[0], 10, 4);
	fork_now();
	queue_event(0);
	fork_script(child_maps_again);
	end_script();
}

/* All that a thread has to say is said, and taken in. */
static void finish_call(u32 t)
{
	while (thread[t].state == ANNOUNCING) {
		announce_step(&thread[t]);
		while (serve())
			;
	}
	serve_requests();
	CHECK_EQ(thread[t].state, RUNNING);
}

static void moves(u32 t, u32 from, u32 to, u32 n, bool keep)
{
	struct area old = { from, n };

	for (u32 i = 0; i < AREAS && !keep; i++)
		if (thread[t].area[i].n && thread[t].area[i].first == from)
			thread[t].area[i].n = 0;
	*free_area(&thread[t]) = (struct area){ to, n };
	move_pages(&thread[t], old, to, n, keep);
	thread[t].stalled = 0;
}

static void goes(u32 t, u32 first, u32 n)
{
	for (u32 i = 0; i < AREAS; i++)
		if (thread[t].area[i].n && thread[t].area[i].first == first)
			thread[t].area[i].n = 0;
	unmap_pages(&thread[t], first, n);
	thread[t].stalled = 0;
}

/* A place is left, but that is not announced yet; it is given to another thread, which moves on at once. */
static void two_goings(bool moved, bool keep)
{
	u64 pages;

	begin_script();
	has(0, 10, 2, REG_NONE);
	has(1, 20, 2, REG_NONE);
	tdmi_live_find(&live);
	write_at(0, 10);
	write_at(1, 20);
	CHECK_EQ(tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages), 0);
	if (moved)
		moves(0, 10, 40, 2, false);
	else
		goes(0, 10, 2);
	moves(1, 20, 10, 2, keep);
	finish_call(1);
	moves(1, 10, 30, 2, false);
	finish_call(1);
	finish_call(0);
	CHECK(page[30].expected && page[30].mapped);
	end_script();
}

TEST(who_leaves_last_is_not_taken_for_who_left_first, .may_leak = true)
{
	two_goings(false, false);
}

TEST(nor_if_both_move_on, .may_leak = true)
{
	two_goings(true, false);
}

TEST(nor_if_it_kept_its_old_place, .may_leak = true)
{
	two_goings(false, true);
}

/* Half of a move has been read: the place has nobody, but one who has left it has not said so yet. He is not taken for whoever comes after two others. */
TEST(who_has_half_left_is_not_taken_for_who_comes, .may_leak = true)
{
	u64 pages;

	begin_script();
	has(0, 10, 2, REG_NONE);
	has(1, 20, 2, REG_NONE);
	has(2, 50, 2, REG_NONE);
	tdmi_live_find(&live);
	for (u32 t = 0; t < 3; t++)
		write_at(t, t == 0 ? 10 : t == 1 ? 20 : 50);
	CHECK_EQ(tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages), 0);
	moves(0, 10, 40, 2, false);
	announce_step(&thread[0]);
	while (serve())
		;
	moves(1, 20, 10, 2, false);
	finish_call(1);
	moves(1, 10, 30, 2, false);
	finish_call(1);
	moves(2, 50, 10, 2, false);
	finish_call(2);
	finish_call(0);
	CHECK(page[10].expected && page[30].expected && page[40].expected);
	end_script();
}

/* While everybody waits for the child of an announced fork, another thread makes the bare system call. Its child is given what it had then, and is not taken for
 * the one that is waited for. */
TEST(another_thread_forks_meanwhile, .may_leak = true)
{
	u64 pages;

	begin_script();
	has(0, 10, 6, REG_NONE);
	has(1, 20, 4, REG_NONE);
	tdmi_live_find(&live);
	for (u32 p = 10; p < 16; p++)
		write_at(0, p);
	write_at(1, 20);
	CHECK_EQ(tdmi_range_out(live.ctx, va_of(0), va_of(PAGES), &pages), 0);
	tdmi_frozen_begin(&live);
	/* Before: one page is restored and written. After: another one, and there is a move. */
	CHECK(!touch(&thread[0], 12, true));
	read_frozen();
	CHECK(touch(&thread[0], 12, true));
	bare_fork();
	read_frozen();
	changing--;
	stranger_phase = FORK_NONE;
	CHECK(!birth_of(CHILD));
	CHECK(!touch(&thread[0], 13, true));
	read_frozen();
	CHECK(touch(&thread[0], 13, true));
	moves(1, 20, 30, 4, false);
	while (thread[1].state == ANNOUNCING) {
		announce_step(&thread[1]);
		read_frozen();
	}
	fork_now();
	fork_script(look_at_everything);
	CHECK(stranger[13].present && stranger[20].present);
	end_script();
}

/* ---- all orders ------------------------------------------------------------------------------------------------------------ */

static void runs(u32 n)
{
	const char *want = getenv("TDM_RUNS");
	u64 seed = (FIRST_RUN + t_seed());

	if (want)
		n = (u32)atoi(want);

	arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	CHECK(arena != NULL);
	for (u32 i = 0; i < (getenv("TDM_TRACE") ? 1 : n); i++)
		run(seed + i, 4000);
	free(arena);
}

TEST(what_is_read_was_written, .seconds = 120)
{
	runs(t_slow() ? 20 : 500);
}

TEST(what_a_child_reads_was_written, .seconds = 120)
{
	forks = true;
	runs(t_slow() ? 4 : 100);
}
