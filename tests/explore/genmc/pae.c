// SPDX-License-Identifier: MIT
/* pae.c - mm/pae.h: GETTER 0 is the right one, 1 the naive one. */
#include "harness.h"
#include "mm/pae.h"

#ifndef GETTER
#define GETTER 0
#endif

static const u64 page_a = ((u64)0x11 << 32 | 0x1000) | TDM_PTE_PRESENT | TDM_PTE_LEAF, page_b = ((u64)0x22 << 32 | 0x2000) | TDM_PTE_PRESENT | TDM_PTE_LEAF;

static struct tdm_pae_entry entry[2];
static struct tdm_pae table = { .e = entry };

static void *writes(void *arg)
{
	(void)arg;
	tdm_pae_set(&table, 1, (struct tdm_pte){ 0 });
	tdm_pae_set(&table, 1, (struct tdm_pte){ page_b });
	return NULL;
}

static void *reads(void *arg)
{
	struct tdm_pte pte = { 0 };

	(void)arg;
#if GETTER == 0
	if (!tdm_pae_try_get(&table, 1, &pte))
		return NULL;
#else
	pte = tdm_pae_get_wrong_torn(&table, 1);
#endif
	assert(!(pte.v & TDM_PTE_PRESENT) || pte.v == page_a || pte.v == page_b);
	return NULL;
}

int main(void)
{
	tdm_pae_set(&table, 1, (struct tdm_pte){ page_a });
	both(writes, reads);
	return 0;
}
