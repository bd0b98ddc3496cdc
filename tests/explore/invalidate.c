// SPDX-License-Identifier: MIT
/*
 * invalidate.c - faults against who takes the range, a right, or the bytes away.
 *
 * There is no lock for both (space.h, "Faults against changes"): munmap(), mprotect() and madvise() change the VMAs first, and then the entries, each under its table's lock. A fault
 * looks at the VMA again when it has the table. When the call has returned nobody has the right that it took: neither an entry nor a TLB says so, whoever was in a fault meanwhile.
 * And what a fault has installed before is found: no page stays behind.
 */
#include "base/check.h"
#include "tests/explore/world.h"

struct invalidate {
	int stored;   /* what became of the store */
	u64 seen;     /* by who took something away, after that */
	struct tdm_space *child;
};

static struct invalidate *in(void)
{
	return xw->user;
}

static void begin(void)
{
	struct tdm_frames *f;

	xw_init(4, false);
	/* Statistics, and an allocator that both use. */
	f = &xw->w.phys.range[xw->w.ram].frames;
	tdmx_quiet(&f->lock, sizeof(f->lock));
	tdmx_quiet(&f->used, sizeof(f->used));
	xw->user = tdmx_alloc(sizeof(struct invalidate));
	/* The table stays. */
	xw_fill(xw->s, 2, 6);
}

static struct tdm_pte entry(u32 page)
{
	struct tdm_pte pte;
	u32 i;

	(void)tdmi_pt_walk(&xw->s->pgt, xw_va(page), &i, &pte);
	return pte;
}

static void stores(void *arg)
{
	(void)arg;
	in()->stored = xw_try_store(xw->s, xw_va(0), 7);
	TDMX_CHECK(!in()->stored || in()->stored == -EFAULT, "a store fails: %d", in()->stored);
}

static void nothing_leaks(u64 pages)
{
	xw_check();
	TDMX_CHECK(tdmi_phys_used(&xw->w.phys, xw->w.ram) == pages, "%llu pages are in use", (unsigned long long)tdmi_phys_used(&xw->w.phys, xw->w.ram));
}

/* ---- munmap */

static void unmaps(void *arg)
{
	u64 v;
	int r;

	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	r = xw_try_load(xw->s, xw_va(0), &v);
	TDMX_CHECK(r == -EFAULT, "it can be read after munmap() (%d)", r);
}

static void reads_first(void *arg)
{
	u64 v = 7;
	int r = xw_try_load(xw->s, xw_va(0), &v);

	(void)arg;
	TDMX_CHECK(r == -EFAULT || (!r && !v), "read %llu (%d)", (unsigned long long)v, r);
}

static void fault_munmap_setup(void)
{
	begin();
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("unmapper", unmaps, NULL);
}

static void fault_munmap_check(void)
{
	TDMX_CHECK(tdm_pte_none(entry(0)), "munmap() has returned, and there is an entry");
	nothing_leaks(2);
}

TDMX_SCENARIO(fault_munmap, .what = "a first write against munmap: no entry and no page stays where there is no mapping", .setup = fault_munmap_setup, .check = fault_munmap_check);

static void fault_munmap_zeros_setup(void)
{
	begin();
	tdmx_spawn("reader", reads_first, NULL);
	tdmx_spawn("unmapper", unmaps, NULL);
}

TDMX_SCENARIO(fault_munmap_zeros, .what = "the same for a first read, which maps the page of zeros", .setup = fault_munmap_zeros_setup, .check = fault_munmap_check);

/* ---- mprotect */

static void protects(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, TDM_V_READ));
	in()->seen = xw_load(xw->s, xw_va(0));
}

static void fault_mprotect_check(void)
{
	u64 v = xw_final(xw->s, xw_va(0));

	TDMX_CHECK(!(entry(0).v & TDM_PTE_WRITE), "mprotect() has returned, and the entry is writable");
	TDMX_CHECK(v == (in()->stored ? 5 : 7), "it has %llu, and the store said %d", (unsigned long long)v, in()->stored);
	TDMX_CHECK(in()->seen == v, "a write came after mprotect() had returned");
	TDMX_CHECK(in()->stored || (entry(0).v & TDM_PTE_DIRTY) || (tdm_page_word(tdm_pfn_page(&xw->w.phys, tdm_pte_pfn(entry(0)))) & TDM_PG_DIRTY),
		   "the page was written, and nothing says so");
	nothing_leaks(3);
}

/* The writer has no TLB entry, and the entry in the table has not been used since its page was given up: hardware sets A and D, while W goes. */
static void fault_mprotect_setup(void)
{
	begin();
	xw_fill(xw->s, 0, 5);
	TDM_BUG_ON(tdmi_madvise_free(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("protector", protects, NULL);
}

TDMX_SCENARIO(fault_mprotect, .what = "a write against mprotect(PROT_READ): once that has returned nobody writes, neither by an entry nor by a TLB", .setup = fault_mprotect_setup,
	      .check = fault_mprotect_check);

/* The entry has no W already, so that the write is a fault, which finds the page its own. */
static void fault_upgrade_mprotect_setup(void)
{
	begin();
	xw_fill(xw->s, 0, 5);
	TDM_BUG_ON(tdmi_clear_soft_dirty(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("protector", protects, NULL);
}

TDMX_SCENARIO(fault_upgrade_mprotect, .what = "a write fault that makes an entry writable in place against mprotect(PROT_READ)", .setup = fault_upgrade_mprotect_setup,
	      .check = fault_mprotect_check);

static void takes_all(void *arg)
{
	u64 v;
	int r;

	(void)arg;
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, 0));
	r = xw_try_load(xw->s, xw_va(0), &v);
	TDMX_CHECK(r == -EFAULT, "it can be read after mprotect(PROT_NONE) (%d)", r);
}

/* It may be read, and the entry says that it may not: nobody has been here since. */
static void fault_none_mprotect_setup(void)
{
	begin();
	xw_fill(xw->s, 0, 5);
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, 0));
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("protector", takes_all, NULL);
}

static void fault_none_mprotect_check(void)
{
	TDMX_CHECK(!tdm_pte_present(entry(0)), "mprotect(PROT_NONE) has returned, and the entry is present");
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, TDM_V_READ));
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == (in()->stored ? 5 : 7), "a store was lost, or came after all");
	nothing_leaks(3);
}

TDMX_SCENARIO(fault_none_mprotect, .what = "a fault that finds a page which has its rights again against mprotect(PROT_NONE)", .setup = fault_none_mprotect_setup,
	      .check = fault_none_mprotect_check);

/* ---- MADV_DONTNEED */

static void drops(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_madvise_dontneed(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	/* What was freed is somebody else's. */
	xw_store(xw->s, xw_va(1), 9);
	in()->seen = xw_load(xw->s, xw_va(0) + 8);
	TDMX_CHECK(!in()->seen, "what was dropped is there: %llu", (unsigned long long)in()->seen);
}

static void stores_and_loads(void *arg)
{
	u64 v;

	stores(arg);
	v = xw_load(xw->s, xw_va(0));
	TDMX_CHECK(v == 7 || !v, "read %llu", (unsigned long long)v);
}

static void fault_dontneed_setup(void)
{
	begin();
	xw_store(xw->s, xw_va(0) + 8, 4);
	xw_fill(xw->s, 0, 5);
	tdmx_spawn("writer", stores_and_loads, NULL);
	tdmx_spawn("dropper", drops, NULL);
}

static void fault_dontneed_check(void)
{
	u64 v = xw_final(xw->s, xw_va(0));

	TDMX_CHECK(v == 7 || !v, "it has %llu", (unsigned long long)v);
	TDMX_CHECK(xw_final(xw->s, xw_va(1)) == 9, "a page has two owners");
	nothing_leaks(tdm_pte_pfn(entry(0)).v == xw->w.zero.v ? 3 : 4);
}

TDMX_SCENARIO(fault_dontneed, .what = "a write against MADV_DONTNEED: what was dropped is never seen again, and no store goes to a page that is another's",
	      .setup = fault_dontneed_setup, .check = fault_dontneed_check);

/* ---- a fault that copies */

static void begin_shared(void)
{
	begin();
	xw_fill(xw->s, 0, 5);
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &in()->child));
	xw_quiet_space(in()->child);
}

static void child_has_its_own(u64 pages)
{
	TDMX_CHECK(xw_final(in()->child, xw_va(0)) == 5, "the child sees what the parent has written");
	tdmi_space_destroy(in()->child, xw_reader());
	nothing_leaks(pages);
}

static void cow_munmap_setup(void)
{
	begin_shared();
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("unmapper", unmaps, NULL);
}

static void cow_munmap_check(void)
{
	TDMX_CHECK(tdm_pte_none(entry(0)), "munmap() has returned, and there is an entry");
	child_has_its_own(2);
}

TDMX_SCENARIO(cow_munmap, .what = "a write that copies a shared page against munmap: no entry and no page stays", .setup = cow_munmap_setup, .check = cow_munmap_check);

static void cow_mprotect_setup(void)
{
	begin_shared();
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("protector", protects, NULL);
}

static void cow_mprotect_check(void)
{
	u64 v = xw_final(xw->s, xw_va(0));

	TDMX_CHECK(!(entry(0).v & TDM_PTE_WRITE), "mprotect() has returned, and the entry is writable");
	TDMX_CHECK(v == (in()->stored ? 5 : 7) && in()->seen == v, "it has %llu, and had %llu when mprotect() returned; the store said %d", (unsigned long long)v,
		   (unsigned long long)in()->seen, in()->stored);
	child_has_its_own(3);
}

TDMX_SCENARIO(cow_mprotect, .what = "a write that copies a shared page against mprotect(PROT_READ): nobody writes once that has returned", .setup = cow_mprotect_setup,
	      .check = cow_mprotect_check);

/* ---- mremap */

static void moves(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_mremap(xw->s, xw_reader(), xw_va(0), xw_va(3), TDM_PAGE_SIZE));
	in()->seen = xw_load(xw->s, xw_va(3));
}

static void fault_mremap_setup(void)
{
	begin();
	xw_fill(xw->s, 0, 5);
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("mover", moves, NULL);
}

static void fault_mremap_check(void)
{
	u64 v = xw_final(xw->s, xw_va(3));

	TDMX_CHECK(tdm_pte_none(entry(0)), "mremap() has returned, and there is an entry at the old place");
	TDMX_CHECK(v == (in()->stored ? 5 : 7), "it has %llu, and the store said %d", (unsigned long long)v, in()->stored);
	TDMX_CHECK(in()->seen == v, "a write to the old place came after mremap() had returned");
	nothing_leaks(3);
}

TDMX_SCENARIO(fault_mremap, .what = "a write against mremap: it is moved, or refused, and none comes by the old address afterwards", .setup = fault_mremap_setup,
	      .check = fault_mremap_check);

static void fault_mremap_cold_setup(void)
{
	begin();
	tdmx_spawn("writer", stores, NULL);
	tdmx_spawn("mover", moves, NULL);
}

static void fault_mremap_cold_check(void)
{
	u64 v = xw_final(xw->s, xw_va(3));

	TDMX_CHECK(tdm_pte_none(entry(0)), "mremap() has returned, and there is an entry at the old place");
	TDMX_CHECK(v == (in()->stored ? 0 : 7) && in()->seen == v, "it has %llu, and the store said %d", (unsigned long long)v, in()->stored);
	nothing_leaks(tdm_pte_pfn(entry(3)).v == xw->w.zero.v ? 2 : 3);
}

TDMX_SCENARIO(fault_mremap_cold, .what = "a first write against mremap: its page is moved, or it is refused", .setup = fault_mremap_cold_setup, .check = fault_mremap_cold_check);
