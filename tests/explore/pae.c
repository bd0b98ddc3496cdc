// SPDX-License-Identifier: MIT
/*
 * pae.c - entries of two words, read without a lock (mm/pae.h): what the getters return must have been in the table.
 *
 * An entry names page A, then nothing, then page B, whose entry differs in both words; or A, nothing, and A again. Naive getters return halves of two entries: that is shown, not
 * prevented. The entries are words of 32 bits in any build; wide_* below is what only a machine of 32 bits does to 64 bits.
 */
#include "base/check.h"
#include "mm/pae.h"
#include "plat/explore/explore.h"

#define ENTRIES 4u

struct state {
	struct tdm_pae t;
	struct tdm_pae_entry e[ENTRIES];
	struct plat_mutex lock;
	volatile u64 wide;
	u64 shadow[4];
};

static struct state *st;

static const u64 page_a = ((u64)0x11 << 32 | 0x1000) | TDM_PTE_PRESENT | TDM_PTE_LEAF, page_b = ((u64)0x22 << 32 | 0x2000) | TDM_PTE_PRESENT | TDM_PTE_LEAF;
/* The same low word as A. */
static const u64 page_c = ((u64)0x33 << 32 | 0x1000) | TDM_PTE_PRESENT | TDM_PTE_LEAF;

static void init(u64 first)
{
	st = tdmx_alloc(sizeof(*st));
	st->t.e = st->e;
	plat_mutex_init(&st->lock, 0);
	tdm_pae_set(&st->t, 1, (struct tdm_pte){ first });
	tdmx_name(&st->e[1].low, 4, "low");
	tdmx_name(&st->e[1].high, 4, "high");
	tdmx_name(&st->t.seq, 4, "seq");
}

static void write_entry(u64 v)
{
	plat_mutex_lock(&st->lock);
	tdm_pae_set(&st->t, 1, (struct tdm_pte){ v });
	plat_mutex_unlock(&st->lock);
}

static void zaps_and_maps_another(void *arg)
{
	(void)arg;
	write_entry(0);
	write_entry(page_b);
}

static void zaps_and_maps_twin(void *arg)
{
	(void)arg;
	write_entry(0);
	write_entry(page_c);
}

/* The zap, and a fault by somebody else who maps the same page again. */
static void zaps(void *arg)
{
	(void)arg;
	write_entry(0);
}

static void maps_again(void *arg)
{
	(void)arg;
	plat_mutex_lock(&st->lock);
	if (!tdm_pae_get_locked(&st->t, 1).v)
		tdm_pae_set(&st->t, 1, (struct tdm_pte){ page_a });
	plat_mutex_unlock(&st->lock);
}

/* What a walker does with the entry: nothing that is not there. */
static void judge(struct tdm_pte pte)
{
	TDMX_CHECK(!(pte.v & TDM_PTE_PRESENT) || pte.v == page_a || pte.v == page_b || pte.v == page_c, "an entry was read that was never in the table: %#llx",
		   (unsigned long long)pte.v);
}

/* Not torn, but possibly of two: an entry that is present has a low word that goes with its high word. */
static void reads_rightly(void *arg)
{
	(void)arg;
	judge(tdm_pae_get(&st->t, 1));
}

static void reads_torn(void *arg)
{
	(void)arg;
	judge(tdm_pae_get_wrong_torn(&st->t, 1));
}

static void reads_twice(void *arg)
{
	(void)arg;
	judge(tdm_pae_get_wrong_reread(&st->t, 1));
}

static void right_setup(void)
{
	init(page_a);
	tdmx_spawn("reader", reads_rightly, NULL);
	tdmx_spawn("writer", zaps_and_maps_another, NULL);
}

TDMX_SCENARIO(pae_getter, .what = "a lockless getter returns an entry of two words that was in the table", .setup = right_setup);

static void twin_setup(void)
{
	init(page_a);
	tdmx_spawn("reader", reads_rightly, NULL);
	tdmx_spawn("writer", zaps_and_maps_twin, NULL);
}

TDMX_SCENARIO(pae_getter_twin, .what = "likewise with two entries that have the same low word", .setup = twin_setup);

static void again_setup(void)
{
	init(page_a);
	tdmx_spawn("reader", reads_rightly, NULL);
	tdmx_spawn("zapper", zaps, NULL);
	tdmx_spawn("faulter", maps_again, NULL);
}

TDMX_SCENARIO(pae_getter_again, .what = "likewise with an entry that is zapped and comes back while it is read", .setup = again_setup);

static void torn_setup(void)
{
	init(page_a);
	tdmx_spawn("reader", reads_torn, NULL);
	tdmx_spawn("writer", zaps_and_maps_another, NULL);
}

TDMX_SCENARIO(pae_torn, .what = "the naive getter: two loads. It returns the low word of one entry with the high word of another", .setup = torn_setup, .expected = true);

static void reread_setup(void)
{
	init(page_a);
	tdmx_spawn("reader", reads_twice, NULL);
	tdmx_spawn("zapper", zaps, NULL);
	tdmx_spawn("faulter", maps_again, NULL);
}

TDMX_SCENARIO(pae_reread, .what = "a getter that reads the low word twice: an entry that was zapped and came back meanwhile passes", .setup = reread_setup, .expected = true);

/* ---- 64 bits at once */

static void writes_wide(void *arg)
{
	(void)arg;
	st->wide = page_b;
}

static void reads_wide(void *arg)
{
	(void)arg;
	judge((struct tdm_pte){ st->wide });
}

static void wide_setup(void)
{
	init(page_a);
	st->wide = page_a;
	tdmx_spawn("reader", reads_wide, NULL);
	tdmx_spawn("writer", writes_wide, NULL);
}

TDMX_SCENARIO(pae_wide, .what = "a volatile load of 64 bits: whole where the machine has 64, two loads where it has 32", .setup = wide_setup, .expected = sizeof(void *) == 4);
