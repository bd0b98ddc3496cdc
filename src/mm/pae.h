/* SPDX-License-Identifier: MIT */
/*
 * pae.h - page tables whose entries are wider than what is read at once: two words of 32 bits.
 *
 * It is the layout of PAE, and stands for every entry that takes two loads: a device's of 128 bits, a GPU's that is written through a bus of 32. No address
 * space uses it; the explorer and the tests do.
 *
 * Writers hold the table's lock, and write so that who looks at the low word alone, which has the present bit, never takes an entry for present before its
 * high word is there:
 *
 *   present   high = h; barrier; low = l
 *   clear     low = 0; barrier; high = 0
 *   another   clear, then present
 *
 * A reader without the lock reads low, high, and low again, with barriers between, and starts over if low has changed. That is not enough, as low may have
 * changed and changed back:
 *
 *   reader                     who zaps                  who faults
 *   low -> L
 *                              low = 0; high = 0
 *   high -> 0
 *                                                        high = H; low = L: the same entry again
 *   low -> L: "unchanged", and (L, 0) was never in the table
 *
 * That the zapping thread waits for the reader's CPU to take an interrupt before it frees the page does not help: the one that faults waits for nobody, having
 * had nothing in its TLB. With two different entries that have the same low word the reader gets the low of one and the high of the other. What it then does
 * to the page of that pfn (take a reference) is done to somebody else's page, or to none; that it would look at the entry once more afterwards comes too late.
 *
 * So a table has a sequence number, odd while an entry is being written: what was read between two equal even numbers was in the table at one moment.
 * tdm_pae_get() returns nothing else, at every level, and what it returns may be used as an entry that was read at once may: it was true, and may have changed
 * since.
 */
#ifndef TDM_MM_PAE_H
#define TDM_MM_PAE_H

#include "mm/pgtable.h"

struct tdm_pae_entry {
	tdm_a32 low, high;
};

/* A table of such entries, of any level; its memory, and what its entries name, is freed after a grace period. */
struct tdm_pae {
	tdm_a32 seq;                /* even: no entry is being written. Written under the lock of whoever writes */
	u32 level;                  /* constant */
	struct tdm_pae_entry *e;    /* TDM_PT_ENTRIES of them; constant */
};

/* ---- words. Every store is a release and every load an acquire: none passes the one before it. */

static inline void tdm_pae_words_present(struct tdm_pae_entry *e, u64 v)
{
	tdm_a32_st_release(&e->high, (u32)(v >> 32));
	plat_window();
	tdm_a32_st_release(&e->low, (u32)v);
	plat_window();
}

static inline void tdm_pae_words_clear(struct tdm_pae_entry *e)
{
	tdm_a32_st_release(&e->low, 0);
	plat_window();
	tdm_a32_st_release(&e->high, 0);
	plat_window();
}

/* ---- writers: the table's lock is held */

static inline void tdm_pae_set(struct tdm_pae *t, u32 i, struct tdm_pte pte)
{
	struct tdm_pae_entry *e = &t->e[i];
	u32 seq = tdm_a32_ld_relaxed(&t->seq);

	tdm_a32_st_relaxed(&t->seq, seq + 1);
	if (tdm_a32_ld_relaxed(&e->low) || tdm_a32_ld_relaxed(&e->high))
		tdm_pae_words_clear(e);
	if (pte.v)
		tdm_pae_words_present(e, pte.v);
	tdm_a32_st_release(&t->seq, seq + 2);
}

/* With the lock held an entry is what its words say. */
static inline struct tdm_pte tdm_pae_get_locked(const struct tdm_pae *t, u32 i)
{
	return (struct tdm_pte){ (u64)tdm_a32_ld_relaxed(&t->e[i].high) << 32 | tdm_a32_ld_relaxed(&t->e[i].low) };
}

/* ---- readers without a lock */

/* One attempt: false if an entry of the table was being written, or has been since. */
static inline bool tdm_pae_try_get(const struct tdm_pae *t, u32 i, struct tdm_pte *out)
{
	u32 seq = tdm_a32_ld_acquire(&t->seq), low, high;

	plat_window();
	low = tdm_a32_ld_acquire(&t->e[i].low);
	plat_window();
	high = tdm_a32_ld_acquire(&t->e[i].high);
	plat_window();
	out->v = (u64)high << 32 | low;
	return !(seq & 1) && tdm_a32_ld_relaxed(&t->seq) == seq;
}

/* An entry that was in the table. Waits for a writer, so only where none can be interrupted for long. */
static inline struct tdm_pte tdm_pae_get(const struct tdm_pae *t, u32 i)
{
	struct tdm_pte e;

	while (!tdm_pae_try_get(t, i, &e))
		plat_relax();
	return e;
}

/* The lowest table on the way to va, and the entry in it, each read like that; entries that are tables name a struct tdm_pae. RCU reader. */
static inline const struct tdm_pae *tdm_pae_walk(const struct tdm_pae *t, u64 va, u32 *index, struct tdm_pte *pte)
{
	for (;;) {
		*index = (u32)(va >> tdm_pt_shift(t->level)) & (TDM_PT_ENTRIES - 1);
		*pte = tdm_pae_get(t, *index);
		if (!t->level || (pte->v & (TDM_PTE_PRESENT | TDM_PTE_LEAF)) != TDM_PTE_PRESENT)
			return t;
		t = (const struct tdm_pae *)(uintptr_t)(pte->v & ~(u64)63);
	}
}

/* ---- what not to do: to be broken by the explorer and by tests/unit/test_pae.c */

/* WRONG: two loads, and hope. */
static inline struct tdm_pte tdm_pae_get_wrong_torn(const struct tdm_pae *t, u32 i)
{
	u32 low = tdm_a32_ld_acquire(&t->e[i].low), high;

	plat_window();
	high = tdm_a32_ld_acquire(&t->e[i].high);
	plat_window();
	return (struct tdm_pte){ (u64)high << 32 | low };
}

/* WRONG, though it reads low twice: see above. Enough only for who takes the lock and reads again before it does anything with the entry. */
static inline struct tdm_pte tdm_pae_get_wrong_reread(const struct tdm_pae *t, u32 i)
{
	u32 low, high;

	do {
		low = tdm_a32_ld_acquire(&t->e[i].low);
		plat_window();
		high = tdm_a32_ld_acquire(&t->e[i].high);
		plat_window();
	} while (tdm_a32_ld_acquire(&t->e[i].low) != low);
	return (struct tdm_pte){ (u64)high << 32 | low };
}

#endif
