// SPDX-License-Identifier: MIT
/*
 * places.c - where threads may be interrupted: before an access to something atomic, or a lock, that another thread accesses too, in any run so far, and one of them
 * writes. An access to what is one's own does not care when it happens.
 *
 * What is shared is learned from some random runs, in which all places count; a search that finds more of it later starts over.
 */
#include "base/check.h"
#include "plat/explore/impl.h"

#define PLACES 65536u
#define QUIET 16u

struct sharing sharing;

struct place {
	uintptr_t addr;
	u8 by, written_by; /* masks of threads */
	bool active;       /* somebody may be interrupted here */
};

static struct place place[PLACES];
static u32 nplaces;
static struct {
	uintptr_t start, end;
} quiet[QUIET];
static u32 nquiet;

static bool shared(const struct place *p)
{
	return p->written_by && (p->by & (p->by - 1));
}

static bool is_quiet(uintptr_t addr)
{
	for (u32 i = 0; i < nquiet; i++)
		if (addr - quiet[i].start < quiet[i].end - quiet[i].start)
			return true;
	return false;
}

void places_quiet(const void *p, size_t size)
{
	TDM_BUG_ON(nquiet == QUIET);
	quiet[nquiet].start = (uintptr_t)p;
	quiet[nquiet++].end = (uintptr_t)p + size;
}

bool places_may_interrupt(uintptr_t addr, bool write)
{
	u32 h = (u32)((addr >> 1) * 0x9e3779b97f4a7c15ull >> 40) % PLACES;
	struct place *p;

	while (place[h].addr && place[h].addr != addr)
		h = (h + 1) % PLACES;
	p = &place[h];
	if (!p->addr) {
		TDM_BUG_ON(++nplaces > PLACES / 2);
		p->addr = addr;
	}
	p->by |= (u8)(1u << X.cur);
	p->written_by |= (u8)(write ? 1u << X.cur : 0);
	if (!p->active && shared(p) && !is_quiet(addr))
		sharing.grown = true;
	return p->active || (sharing.everywhere && !is_quiet(addr));
}

u32 places_learn(void)
{
	u32 nactive = 0;

	for (u32 h = 0; h < PLACES; h++) {
		place[h].active = place[h].addr && shared(&place[h]) && !is_quiet(place[h].addr);
		nactive += place[h].active;
	}
	sharing.grown = false;
	return nactive;
}
