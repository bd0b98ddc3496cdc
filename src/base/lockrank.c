// SPDX-License-Identifier: MIT
#include "base/lockrank.h"
#include "base/check.h"

static _Thread_local struct {
	const void *lock[TDM_LOCKRANK_DEPTH];
	u32 rank[TDM_LOCKRANK_DEPTH];
	u32 depth;
} held;

void tdmi_lockrank_taken(const void *lock, u32 rank)
{
	if (rank == TDM_RANK_NONE)
		return;
	if (held.depth == TDM_LOCKRANK_DEPTH)
		TDM_BUG("more locks held than anybody should");
	held.lock[held.depth] = lock;
	held.rank[held.depth++] = rank;
}

/* Every lock that is held counts, not the last alone: a trylock may have left the stack unsorted. */
void tdmi_lockrank_acquire(const void *lock, u32 rank)
{
	for (u32 i = 0; rank != TDM_RANK_NONE && i < held.depth; i++) {
		if (held.lock[i] == lock)
			TDM_BUG("lock taken twice");
		if (held.rank[i] > rank || (held.rank[i] == rank && (uintptr_t)held.lock[i] > (uintptr_t)lock))
			TDM_BUG("lock taken out of order");
	}
	tdmi_lockrank_taken(lock, rank);
}

void tdmi_lockrank_release(const void *lock, u32 rank)
{
	u32 i = held.depth;

	if (rank == TDM_RANK_NONE)
		return;
	while (i > 0 && held.lock[i - 1] != lock)
		i--;
	if (i == 0)
		TDM_BUG("lock released that is not held");
	for (; i < held.depth; i++) {
		held.lock[i - 1] = held.lock[i];
		held.rank[i - 1] = held.rank[i];
	}
	held.depth--;
}

bool tdmi_lockrank_none_held(void)
{
	return held.depth == 0;
}
