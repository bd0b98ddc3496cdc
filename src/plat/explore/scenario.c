// SPDX-License-Identifier: MIT
/* scenario.c - what scenarios may ask for, see explore.h; tdmx_fail() is in search.c. */
#include <string.h>
#include "base/check.h"
#include "plat/explore/impl.h"

void *tdmx_alloc(size_t size)
{
	void *p = arena_map(TDM_ALIGN_UP(size, TDM_PAGE_SIZE));

	TDM_BUG_ON(!p);
	return p;
}

void tdmx_spawn(const char *name, void (*fn)(void *), void *arg)
{
	struct thread *t = &X.t[X.n];

	TDM_BUG_ON(X.n == NT);
	t->name = name;
	t->fn = fn;
	t->arg = arg;
	fiber_make(X.n++);
}

void tdmx_bytes(const void *p, size_t size)
{
	race_bytes(p, size);
}

void tdmx_quiet(const void *p, size_t size)
{
	places_quiet(p, size);
}

void tdmx_name(const void *p, size_t size, const char *name)
{
	trace_name(p, size, name);
}

u32 tdmx_self(void)
{
	return X.cur;
}

void tdmx_point(const char *what)
{
	static const char anything;

	if (!in_thread())
		return;
	for (u32 i = 1; i < X.n; i++) {
		/* It is shared by definition. */
		u32 self = X.cur;

		X.cur = i;
		(void)places_may_interrupt((uintptr_t)&anything, true);
		X.cur = self;
	}
	search_point(&anything, true, what, __builtin_return_address(0));
}

u32 tdmx_choose(u32 n)
{
	return search_choose(n);
}

void tdmx_wait_while(const bool *flag)
{
	while (in_thread() && *(const volatile bool *)flag) {
		X.t[X.cur].state = LOCKED;
		X.t[X.cur].on = flag;
		search_sleep();
	}
}

void tdmx_poke(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
	arena_dirty(to, size);
	for (u32 i = 1; i < X.n; i++)
		if (X.t[i].state == LOCKED && (uintptr_t)X.t[i].on - (uintptr_t)to < size)
			X.t[i].state = READY;
}

void tdmx_peek(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
	arena_dirty(to, size);
}

void tdmx_order(u32 id)
{
	static const char places[64];

	TDM_BUG_ON(id >= 64);
	if (!in_thread())
		return;
	memory_acquire(&places[id]);
	memory_release(&places[id]);
}
