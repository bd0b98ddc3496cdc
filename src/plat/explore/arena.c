// SPDX-License-Identifier: MIT
/*
 * arena.c - all memory of a scenario, at the same addresses in every run, and how it was after setup.
 *
 * Hooks tell of each write (arena_dirty()); what was written in a run is put back, line by line, before the next. Now and then all of it is compared: a
 * write that no hook has told of would make runs depend on each other.
 *
 * What is unmapped is never handed out again in the same run, so that whoever still uses it is found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/check.h"
#include "plat/explore/impl.h"

#define LINE 64u
#define LINES (ARENA_SIZE / LINE)

static u8 *arena, *then;           /* as it was after setup */
static u8 *poison, *poison_then;   /* a byte a granule */
static u32 *line_gen;              /* the run in which it was written */
static u32 *line;                  /* those that were */
static u32 nlines, epoch = 1;
static u32 *poisoned_line;         /* granules whose poison has changed, by line of 64 granules */
static u32 npoison;
static u32 *poison_gen;
static size_t used, used_then;
static u32 restores;
static bool taken;

static void *reserve(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED) {
		perror("tandem-explore: no address space");
		exit(2);
	}
	return p;
}

void arena_init(void)
{
	arena = mmap((void *)ARENA_AT, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (arena != (u8 *)ARENA_AT) {
		perror("tandem-explore: its place in the address space is taken");
		exit(2);
	}
	then = reserve(ARENA_SIZE);
	poison = reserve(ARENA_SIZE / ARENA_GRANULE);
	poison_then = reserve(ARENA_SIZE / ARENA_GRANULE);
	line_gen = reserve(LINES * sizeof(*line_gen));
	line = reserve(LINES * sizeof(*line));
	poison_gen = reserve(LINES / ARENA_GRANULE * sizeof(*poison_gen));
	poisoned_line = reserve(LINES / ARENA_GRANULE * sizeof(*poisoned_line));
}

void *arena_map(size_t size)
{
	size_t align = size >= TDM_HUGE_SIZE ? TDM_HUGE_SIZE : TDM_PAGE_SIZE, at = TDM_ALIGN_UP(used, align);

	if (at + size > ARENA_SIZE)
		return NULL;
	used = at + size;
	return arena + at;
}

void arena_unmap(void *p, size_t size)
{
	arena_poison(p, size, true);
}

void arena_dirty(const volatile void *p, size_t size)
{
	uintptr_t at = (uintptr_t)p - (uintptr_t)arena;

	if (at >= ARENA_SIZE || !size)
		return;
	for (size_t l = at / LINE; l <= (at + size - 1) / LINE; l++)
		if (line_gen[l] != epoch) {
			line_gen[l] = epoch;
			line[nlines++] = (u32)l;
		}
}

void arena_poison(const volatile void *p, size_t size, bool on)
{
	uintptr_t at = (uintptr_t)p - (uintptr_t)arena;
	size_t first = at / ARENA_GRANULE, last = (at + size - 1) / ARENA_GRANULE;

	if (at >= ARENA_SIZE || !size)
		return;
	memset(poison + first, on, last - first + 1);
	for (size_t l = first / LINE; l <= last / LINE; l++)
		if (poison_gen[l] != epoch) {
			poison_gen[l] = epoch;
			poisoned_line[npoison++] = (u32)l;
		}
}

bool arena_poisoned(uintptr_t addr, size_t size)
{
	uintptr_t at = addr - (uintptr_t)arena;
	size_t first = at / ARENA_GRANULE, last = (at + size - 1) / ARENA_GRANULE;

	return size <= ARENA_GRANULE ? poison[first] | poison[last] : memchr(poison + first, 1, last - first + 1) != NULL;
}

static void next_epoch(void)
{
	epoch++;
	nlines = npoison = 0;
}

void arena_snapshot(void)
{
	for (u32 i = 0; i < nlines; i++)
		memcpy(then + (size_t)line[i] * LINE, arena + (size_t)line[i] * LINE, LINE);
	for (u32 i = 0; i < npoison; i++)
		memcpy(poison_then + (size_t)poisoned_line[i] * LINE, poison + (size_t)poisoned_line[i] * LINE, LINE);
	used_then = used;
	taken = true;
	next_epoch();
}

void arena_restore(void)
{
	for (u32 i = 0; i < nlines; i++)
		memcpy(arena + (size_t)line[i] * LINE, then + (size_t)line[i] * LINE, LINE);
	for (u32 i = 0; i < npoison; i++)
		memcpy(poison + (size_t)poisoned_line[i] * LINE, poison_then + (size_t)poisoned_line[i] * LINE, LINE);
	/* Stacks are not compared: nobody reads what the last run has left there. */
	if (restores++ < 3 || restores == 1000)
		for (size_t at = 0; at < used; at += TDM_PAGE_SIZE)
			if (!fiber_owns((uintptr_t)arena + at) && memcmp(arena + at, then + at, TDM_PAGE_SIZE)) {
				for (size_t k = 0; k < TDM_PAGE_SIZE; k += 8)
					if (memcmp(arena + at + k, then + at + k, 8)) {
						fprintf(stderr, "tandem-explore: bug: a write to arena + %#zx that no hook has told of\n", at + k);
						abort();
					}
			}
	used = used_then;
	next_epoch();
}
