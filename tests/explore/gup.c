// SPDX-License-Identifier: MIT
/*
 * gup.c - pins without a lock (mm/pin.c), against who takes the page away and uses it for something else, and against fork.
 *
 * An entry is read, a reference taken unless the page is free, and the entry read again: then the page that is held is the entry's, whatever it may be used for later. It is pinned only
 * if it is exclusive, by the same compare-and-swap; fork takes exclusiveness away by one that fails if there is a pin. So either the pin comes first, and the child gets a copy at once; or the
 * fork, and there is no pin. What the device writes by its pin is the parent's in any case.
 */
#include "base/check.h"
#include "mm/pin.h"
#include "tests/explore/world.h"

struct gup {
	struct tdm_space *child;
	struct tdm_pfn page;
	u32 n; /* pins that are held */
};

static struct gup *gup(void)
{
	return xw->user;
}

/* Page 0 is written, and the table stays when it goes. */
static void begin(void)
{
	struct tdm_frames *f;

	xw_init(4, false);
	/* Who is given which page does not matter. */
	f = &xw->w.phys.range[xw->w.ram].frames;
	tdmx_quiet(&f->lock, sizeof(f->lock));
	tdmx_quiet(&f->used, sizeof(f->used));
	xw->user = tdmx_alloc(sizeof(struct gup));
	xw_fill(xw->s, 2, 6);
	xw_fill(xw->s, 0, 5);
}

/* A device's accesses, by what it has pinned. */
static u64 dma_read(struct tdm_pfn pfn, u64 off)
{
	u64 v;

	tdmx_peek(&v, tdm_pfn_bytes(&xw->w.phys, pfn) + off, sizeof(v));
	return v;
}

static void dma_write(struct tdm_pfn pfn, u64 off, u64 v)
{
	tdmx_poke(tdm_pfn_bytes(&xw->w.phys, pfn) + off, &v, sizeof(v));
}

static struct tdm_pfn mapped_at(struct tdm_space *s, u32 page)
{
	struct tdm_pte pte;
	u32 i;

	(void)tdmi_pt_walk(&s->pgt, xw_va(page), &i, &pte);
	return tdm_pte_pfn(pte);
}

/* ---- the page is taken away, and used again */

static void zaps_and_uses(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	xw_store(xw->s, xw_va(1), 9);
	TDMX_CHECK(xw_load(xw->s, xw_va(1)) == 9, "it has been overwritten");
}

static void pins(void *arg)
{
	struct tdm_pfn pfn;

	(void)arg;
	if (!tdmi_pin_fast(xw->s, xw_reader(), xw_va(0), 1, TDM_PIN_WRITE, &pfn))
		return;
	TDMX_CHECK(dma_read(pfn, 0) == 5, "what is pinned has %llu", (unsigned long long)dma_read(pfn, 0));
	tdmx_point("a device is about to write");
	TDMX_CHECK(dma_read(pfn, 0) == 5, "what is pinned has come to have %llu", (unsigned long long)dma_read(pfn, 0));
	dma_write(pfn, 0, 3);
	tdmi_unpin_pages(&xw->w, &pfn, 1, true);
}

static void gup_zap_setup(void)
{
	begin();
	tdmx_spawn("pinner", pins, NULL);
	tdmx_spawn("zapper", zaps_and_uses, NULL);
}

static void gup_zap_check(void)
{
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(1)) == 9, "a device has written to a page that is not its own");
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 3, "a page was not freed");
}

TDMX_SCENARIO(gup_zap, .what = "who pins without a lock has the page that was there, or none, though it is unmapped, freed and used again meanwhile", .setup = gup_zap_setup,
	      .check = gup_zap_check);

static void holds(void *arg)
{
	struct tdm_pfn pfn;

	(void)arg;
	tdmi_rcu_read_lock(xw_reader());
	if (tdmi_space_get_page(xw->s, xw_va(0), &pfn)) {
		TDMX_CHECK(dma_read(pfn, 0) == 5, "what it holds has %llu", (unsigned long long)dma_read(pfn, 0));
		tdmx_point("it is held");
		TDMX_CHECK(dma_read(pfn, 0) == 5, "what it holds has come to have %llu", (unsigned long long)dma_read(pfn, 0));
		tdmi_page_put(&xw->w, pfn);
	}
	tdmi_rcu_read_unlock(xw_reader());
}

static void get_page_zap_setup(void)
{
	begin();
	tdmx_spawn("holder", holds, NULL);
	tdmx_spawn("zapper", zaps_and_uses, NULL);
}

TDMX_SCENARIO(get_page_zap, .what = "the same for a reference, without a pin", .setup = get_page_zap_setup, .check = gup_zap_check);

/* ---- fork */

static void pins_and_writes(void *arg)
{
	(void)arg;
	gup()->n = tdmi_pin_fast(xw->s, xw_reader(), xw_va(0), 1, TDM_PIN_WRITE, &gup()->page);
	if (gup()->n)
		dma_write(gup()->page, 8, 7);
}

static void forks(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &gup()->child));
	/* A copy, if the page has come to be shared: also of a page that is pinned. */
	xw_store(xw->s, xw_va(0) + 16, 3);
}

static void gup_fork_setup(void)
{
	begin();
	tdmx_spawn("device", pins_and_writes, NULL);
	tdmx_spawn("parent", forks, NULL);
}

static void gup_fork_check(void)
{
	struct gup *g = gup();
	struct tdm_space *child = g->child;

	xw_check();
	xw_store(child, xw_va(0) + 24, 4);
	if (g->n) {
		TDMX_CHECK(dma_read(g->page, 16) == 3, "the device does not see what the parent has written");
		TDMX_CHECK(!dma_read(g->page, 24), "the device sees what the child has written");
		dma_write(g->page, 8, 8);
		TDMX_CHECK(xw_final(xw->s, xw_va(0) + 8) == 8, "the parent does not see what the device has written");
		TDMX_CHECK(xw_final(child, xw_va(0) + 8) != 8, "the child sees what the device has written");
		tdmi_unpin_pages(&xw->w, &g->page, 1, true);
	}
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 5 && xw_final(child, xw_va(0)) == 5, "bytes were lost");
	TDMX_CHECK(!xw_final(child, xw_va(0) + 16), "the child sees what the parent has written");
	TDMX_CHECK(!xw_final(xw->s, xw_va(0) + 24), "the parent sees what the child has written");
	tdmi_space_destroy(child, xw_reader());
	xw_check();
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 3, "a page was not freed");
}

TDMX_SCENARIO(gup_fork, .what = "what is pinned while the process forks is the parent's: it and the device see each other's writes, and the child sees neither's",
	      .setup = gup_fork_setup, .check = gup_fork_check);

/* ---- a page that is shared already is made one's own, to be pinned */

static void pins_for_reading(void *arg)
{
	u32 n;

	(void)arg;
	TDM_BUG_ON(tdmi_pin_pages(xw->s, xw_reader(), xw_va(0), 1, TDM_PIN_READ, &gup()->page, &n));
	gup()->n = n;
	TDMX_CHECK(dma_read(gup()->page, 0) == 5, "what is pinned has %llu", (unsigned long long)dma_read(gup()->page, 0));
}

static void child_writes(void *arg)
{
	(void)arg;
	xw_store(gup()->child, xw_va(0), 2);
}

static void gup_unshare_setup(void)
{
	begin();
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &gup()->child));
	xw_quiet_space(gup()->child);
	tdmx_spawn("device", pins_for_reading, NULL);
	tdmx_spawn("child", child_writes, NULL);
}

static void gup_unshare_check(void)
{
	struct gup *g = gup();

	xw_check();
	xw_store(xw->s, xw_va(0) + 8, 8);
	TDMX_CHECK(g->n == 1 && mapped_at(xw->s, 0).v == g->page.v && dma_read(g->page, 8) == 8, "the device reads another page than the parent writes");
	TDMX_CHECK(dma_read(g->page, 0) == 5 && xw_final(g->child, xw_va(0)) == 2, "a store was lost, or is another's");
	tdmi_unpin_pages(&xw->w, &g->page, 1, false);
	tdmi_space_destroy(g->child, xw_reader());
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == 3, "a page was not freed");
}

TDMX_SCENARIO(gup_unshare, .what = "a pin for reading of a shared page is of one that is the space's alone, while the other side writes", .setup = gup_unshare_setup,
	      .check = gup_unshare_check);
