// SPDX-License-Identifier: MIT
/*
 * plat.c - plat.h in a world where the search decides who goes on. Time is a counter, there are no files, and a wait with a limit ends by itself only when
 * nobody else can go on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/check.h"
#include "plat/explore/impl.h"

#define PC __builtin_return_address(0)

static u64 now;

/* ---- memory */

void *plat_map(size_t size)
{
	return arena_map(size);
}

void plat_unmap(void *p, size_t size)
{
	arena_unmap(p, size);
}

void plat_discard(void *p, size_t size)
{
	race_access(p, size, true, false, PC);
	memset(p, 0, size);
}

int plat_mem_node(void *p, size_t size, int node)
{
	(void)p;
	(void)size;
	return node > 0 ? -ENXIO : 0;
}

void plat_thread_node(int node)
{
	(void)node;
}

void plat_copy_new(void *dst, const void *src, size_t len)
{
	race_access(src, len, false, false, PC);
	race_access(dst, len, true, false, PC);
	memcpy(dst, src, len);
}

/* ---- locks: the word is 1 + the owner. What they order is kept by memory.c. */

static u32 word_of(const struct plat_mutex *m)
{
	return *(const volatile u32 *)(const volatile void *)&m->word;
}

static void set_word(struct plat_mutex *m, u32 v)
{
	*(volatile u32 *)(volatile void *)&m->word = v;
	arena_dirty(m, sizeof(*m));
}

static void take(struct plat_mutex *m)
{
	set_word(m, X.cur + 1);
	if (in_thread())
		memory_acquire(m);
}

void plat_mutex_init(struct plat_mutex *m, u32 rank)
{
	race_access(m, sizeof(*m), true, false, PC);
	set_word(m, 0);
	m->rank = rank;
}

void plat_mutex_reset(struct plat_mutex *m)
{
	set_word(m, 0);
}

static void touch(struct plat_mutex *m, const void *pc)
{
	if (arena_has((uintptr_t)m) && arena_poisoned((uintptr_t)m, sizeof(*m)))
		search_fail_at(pc, NULL, "use after free: a lock taken by %s", X.t[X.cur].name);
}

void plat_mutex_lock(struct plat_mutex *m)
{
	if (in_thread()) {
		search_point(m, true, "lock", PC);
		touch(m, PC);
		while (word_of(m)) {
			if (word_of(m) == X.cur + 1)
				search_fail_at(PC, NULL, "%s takes a lock that it holds", X.t[X.cur].name);
			X.t[X.cur].state = LOCKED;
			X.t[X.cur].on = m;
			trace_op("waits for the lock", m, word_of(m) - 1, PC);
			search_sleep();
		}
		trace_op("lock", m, 0, PC);
	} else if (word_of(m) && !X.over) {
		tdmx_fail("a lock is held that a thread has left");
	}
	take(m);
}

bool plat_mutex_trylock(struct plat_mutex *m)
{
	if (in_thread()) {
		search_point(m, true, "trylock", PC);
		touch(m, PC);
		trace_op(word_of(m) ? "trylock fails" : "trylock", m, 0, PC);
	}
	if (word_of(m))
		return false;
	take(m);
	return true;
}

void plat_mutex_unlock(struct plat_mutex *m)
{
	TDM_BUG_ON(!word_of(m));
	if (in_thread()) {
		touch(m, PC);
		trace_op("unlock", m, 0, PC);
		memory_release(m);
	}
	set_word(m, 0);
	for (u32 i = 1; i < X.n; i++)
		if (X.t[i].state == LOCKED && X.t[i].on == m)
			X.t[i].state = READY;
}

/* ---- waiting */

int plat_wait(tdm_a32 *addr, u32 expected, u64 timeout_ns)
{
	struct thread *t = &X.t[X.cur];

	if (!in_thread())
		return *(volatile u32 *)(volatile void *)addr == expected ? -ETIMEDOUT : 0;
	search_point(addr, false, "wait", PC);
	/* The kernel compares under its own lock: it sees the newest. */
	if (*(volatile u32 *)(volatile void *)addr != expected)
		return 0;
	t->state = WAITING;
	t->on = addr;
	t->timed = timeout_ns != ~(u64)0;
	t->timed_out = false;
	trace_op("sleeps", addr, expected, PC);
	search_sleep();
	return t->timed_out ? -ETIMEDOUT : 0;
}

void plat_wake(tdm_a32 *addr, u32 n)
{
	if (!in_thread())
		return;
	search_point(addr, true, "wake", PC);
	trace_op("wakes", addr, n, PC);
	for (u32 i = 1; i < X.n && n; i++)
		if (X.t[i].state == WAITING && X.t[i].on == addr) {
			X.t[i].state = READY;
			n--;
		}
}

/* ---- threads, clock, randomness */

int plat_thread_start(struct plat_thread **t, void (*fn)(void *), void *arg, const char *name)
{
	(void)fn;
	(void)arg;
	(void)name;
	*t = NULL;
	return -ENOSYS;
}

void plat_thread_join(struct plat_thread *t)
{
	(void)t;
	TDM_BUG("scenarios start their threads themselves");
}

void plat_yield(void)
{
	plat_relax();
}

void plat_relax(void)
{
	if (!in_thread())
		return;
	X.t[X.cur].state = SPINNING;
	search_sleep();
	X.t[X.cur].nread = 0;
}

u64 plat_now_ns(void)
{
	return X.running ? X.steps : now++;
}

int plat_random(void *buf, size_t len)
{
	memset(buf, 0x5a, len);
	arena_dirty(buf, len);
	return 0;
}

/* ---- files: there are none */

int plat_file_create(const char *dir, int *file, bool *direct)
{
	(void)dir;
	(void)file;
	(void)direct;
	return -EACCES;
}

void plat_file_close(int file)
{
	(void)file;
}

struct plat_ioq {
	int none;
};

int plat_ioq_create(struct plat_ioq **q, u32 depth)
{
	(void)depth;
	*q = NULL;
	return -ENOSYS;
}

void plat_ioq_destroy(struct plat_ioq *q)
{
	(void)q;
}

void plat_ioq_forget(struct plat_ioq *q)
{
	(void)q;
}

int plat_ioq_submit(struct plat_ioq *q, struct plat_io *const *ios, u32 n)
{
	(void)q;
	(void)ios;
	(void)n;
	return -ENOSYS;
}

int plat_ioq_reap(struct plat_ioq *q, struct plat_io **done, u32 max, u32 min)
{
	(void)q;
	(void)done;
	(void)max;
	(void)min;
	return 0;
}

int plat_file_io(struct plat_io *io)
{
	io->result = -ENOSYS;
	return -ENOSYS;
}

void plat_file_punch(int file, u64 off, u64 len)
{
	(void)file;
	(void)off;
	(void)len;
}

int plat_file_free(const char *dir, u64 *bytes)
{
	(void)dir;
	(void)bytes;
	return -ENOSYS;
}

/* ---- the end */

void plat_log(const char *line)
{
	tdmx_note("%s", line);
}

/* A TDM_BUG_ON() of the engine is a finding, in a check, too. */
void plat_abort(const char *msg)
{
	if (search_in_run()) {
		size_t n = strcspn(msg, "\n");

		search_fail_at(PC, NULL, "%.*s", (int)n, msg);
	}
	fputs(msg, stderr);
	abort();
}
