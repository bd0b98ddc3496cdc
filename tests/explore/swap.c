// SPDX-License-Identifier: MIT
/*
 * swap.c - mm/swap.c and its descriptors: pages of one blob are read and dropped while the blob moves to another tier.
 *
 * Who looks at a blob is counted in its descriptor (mm/swap_desc.c); a mover keeps readers out for the moment in which the place changes; the last who leaves a blob that nobody wants frees
 * it, once. A tier says if what is read, or dropped, is not there (codec.c).
 */
#include "base/check.h"
#include "mm/swap_impl.h"
#include "tests/explore/codec.h"
#include "tests/explore/world.h"

static struct tdm_swap *swap;
static struct tdm_tier *tier[2];
static struct tdm_swap_ws *ws[TDMX_THREADS + 1];
static u64 blob, *kept;

static u64 *page_of(u32 thread, u32 i)
{
	return (u64 *)(void *)ws[thread]->page[i];
}

/* What is in the page of a blob. */
static u64 read_in(u64 handle, u32 i)
{
	void *dst[TDM_BLOB_PAGES] = { NULL };

	dst[i] = page_of(tdmx_self(), i);
	TDMX_CHECK(!tdmi_swap_in(swap, ws[tdmx_self()], handle, 1u << i, dst), "a page could not be read");
	return *page_of(tdmx_self(), i);
}

/* n pages: first, first + 1, ... */
static u64 store(u64 first, u32 n)
{
	const void *src[TDM_BLOB_PAGES] = { NULL };
	u64 handle;

	for (u32 i = 0; i < n; i++) {
		src[i] = page_of(tdmx_self(), i);
		*page_of(tdmx_self(), i) = first + i;
	}
	TDMX_CHECK(!tdmi_swap_out(swap, ws[tdmx_self()], src, n, true, &handle), "a page could not be stored");
	return handle;
}

static void reads_first(void *arg)
{
	u64 v = read_in(blob, 0);

	(void)arg;
	TDMX_CHECK(v == 5, "%llu is read", (unsigned long long)v);
}

static void drops_first(void *arg)
{
	(void)arg;
	tdmi_swap_drop(swap, blob, 1);
}

static void drops_second(void *arg)
{
	(void)arg;
	tdmi_swap_drop(swap, blob, 2);
}

static void drops_second_and_stores(void *arg)
{
	drops_second(arg);
	*kept = store(7, 1);
}

static void demotes(void *arg)
{
	(void)arg;
	(void)tdmi_swap_demote_tier(swap, ws[tdmx_self()], 0, 1, false);
}

static void squeezes(void *arg)
{
	(void)arg;
	(void)tdmi_swap_squeeze(swap, ws[tdmx_self()], 0, 1);
}

static void setup(u32 pages)
{
	tier[0] = xt_tier(XT_SLOTS, true);
	tier[1] = xt_tier(XT_SLOTS, false);
	TDM_BUG_ON(tdmi_swap_create(tier, 2, &swap));
	for (u32 i = 0; i <= 3; i++)
		ws[i] = tdmi_swap_ws_create();
	kept = tdmx_alloc(sizeof(*kept));
	tdmx_quiet(&swap->pages, offsetof(struct tdm_swap, block) - offsetof(struct tdm_swap, pages));
	tdmx_name(swap, sizeof(*swap), "swap");
	blob = store(5, pages);
}

/* ---- one page stays */

static void swap_move_setup(void)
{
	setup(2);
	tdmx_spawn("reader", reads_first, NULL);
	tdmx_spawn("dropper", drops_second, NULL);
	tdmx_spawn("mover", demotes, NULL);
}

static void swap_move_check(void)
{
	TDMX_CHECK(read_in(blob, 0) == 5, "the page that is wanted is not what it was");
	TDMX_CHECK(xt_used(tier[0]) + xt_used(tier[1]) == 1, "a blob is in two tiers");
	tdmi_swap_drop(swap, blob, 1);
	TDMX_CHECK(!xt_used(tier[0]) && !xt_used(tier[1]), "bytes are left in a tier");
}

TDMX_SCENARIO(swap_move, .what = "a page of a blob is read, the other dropped, while the blob moves to another tier", .setup = swap_move_setup, .check = swap_move_check);

/* ---- both go, and the descriptor is used again, while the blob, which had a third page, is stored again without what is not wanted */

static void swap_gone_setup(void)
{
	setup(3);
	tdmi_swap_drop(swap, blob, 4);
	tdmx_spawn("first", drops_first, NULL);
	tdmx_spawn("second", drops_second_and_stores, NULL);
	tdmx_spawn("squeezer", squeezes, NULL);
}

static void swap_gone_check(void)
{
	TDMX_CHECK(read_in(*kept, 0) == 7, "what was stored last is not what it was");
	TDMX_CHECK(xt_used(tier[0]) + xt_used(tier[1]) == 1, "bytes are left in a tier");
	tdmi_swap_drop(swap, *kept, 1);
	TDMX_CHECK(!xt_used(tier[0]) && !xt_used(tier[1]), "bytes are left in a tier");
}

TDMX_SCENARIO(swap_gone, .what = "what is left of a blob is dropped while it is stored anew: it is freed once, and its descriptor can be used again", .setup = swap_gone_setup,
	      .check = swap_gone_check);
