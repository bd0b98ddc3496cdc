// SPDX-License-Identifier: MIT
/*
 * migrate.c - a page moves to a device's memory (mm/migrate_page.c), while others use it.
 *
 * Who migrates isolates the page and blocks its entries; flushes; and copies only when nobody else has a reference. A CPU that touches it meanwhile finds a migration entry, and looks again
 * until it is gone. A pin that came before keeps the page where it is; after the first entry is blocked none can come, since the page is not exclusive. A write fault that has the page in hand,
 * to copy it, has a reference. Nobody's store goes to the page that was left.
 */
#include "base/check.h"
#include "mm/migrate_page.h"
#include "mm/pin.h"
#include "mm/rmap.h"
#include "mm/vmscan.h"
#include "tests/explore/codec.h"
#include "tests/explore/world.h"

struct migrate {
	struct tdm_space *child;
	u32 coherent;            /* range */
	int r;                   /* what became of it */
	struct tdm_pfn page;
	u32 n;                   /* pins that are held */
	struct tdm_notifier lead;
	bool not_yet[4];
};

static struct migrate *mig(void)
{
	return xw->user;
}

static void quiet(struct tdm_mem_range *r)
{
	tdmx_quiet(&r->frames.lock, sizeof(r->frames.lock));
	tdmx_quiet(&r->frames.used, sizeof(r->frames.used));
}

/* Page 0 has 5; no other is there. */
static void begin_with(bool swap)
{
	struct tdm_mem_range *dev;
	struct migrate *m;

	xw_init(4, swap);
	m = xw->user = tdmx_alloc(sizeof(struct migrate));
	TDM_BUG_ON(tdmi_phys_add(&xw->w.phys, TDM_MEM_COHERENT, TDM_HUGE_PAGES, &m->coherent));
	dev = &xw->w.phys.range[m->coherent];
	tdmx_bytes(dev->bytes, dev->n << TDM_PAGE_SHIFT);
	tdmx_name(dev->page, dev->n * sizeof(struct tdm_page), "device page");
	quiet(&xw->w.phys.range[xw->w.ram]);
	quiet(dev);
	xw_fill(xw->s, 0, 5);
}

static void begin(void)
{
	begin_with(false);
}

static void begin_shared(void)
{
	begin();
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &mig()->child));
	xw_quiet_space(mig()->child);
}

static void migrates(void *arg)
{
	(void)arg;
	mig()->r = tdmi_migrate_page(xw->s, xw_reader(), xw_va(0), mig()->coherent);
}

/* It was not in use by somebody else, or was, or had gone. */
static void moved_or_not(int r)
{
	TDMX_CHECK(!r || r == -EBUSY || r == -ENOENT, "it fails: %d", r);
}

static u64 used(u32 range)
{
	return tdmi_phys_used(&xw->w.phys, range);
}

/* Each page of the device has the references of its mappings and pins; in all there are so many pages. */
static void account(u64 pages)
{
	struct tdm_mem_range *dev = &xw->w.phys.range[mig()->coherent];

	xw_check();
	for (u32 i = 0; i < dev->n; i++) {
		u64 word = tdm_page_word(&dev->page[i]);
		u32 maps = word & TDM_PG_REFS ? tdmi_rmap_count(&xw->w, (struct tdm_pfn){ dev->first + i }) : 0;

		TDMX_CHECK((word & TDM_PG_REFS) == maps + tdm_page_pins(&dev->page[i]), "device page %u: %llu references, %u mappings", i,
			   (unsigned long long)(word & TDM_PG_REFS), maps);
	}
	TDMX_CHECK(used(xw->w.ram) + used(mig()->coherent) == pages, "%llu pages are in use", (unsigned long long)(used(xw->w.ram) + used(mig()->coherent)));
}

static struct tdm_pte entry_at(struct tdm_space *s, u32 page)
{
	struct tdm_pte pte;
	u32 i;

	(void)tdmi_pt_walk(&s->pgt, xw_va(page), &i, &pte);
	return pte;
}

static bool is_of_device(struct tdm_pfn pfn)
{
	struct tdm_mem_range *dev = &xw->w.phys.range[mig()->coherent];

	return pfn.v - dev->first < dev->n;
}

/* Its entry says so, or it does. */
static bool is_dirty(void)
{
	struct tdm_pte pte = entry_at(xw->s, 0);

	return (pte.v & TDM_PTE_DIRTY) || (tdm_page_word(tdm_pfn_page(&xw->w.phys, tdm_pte_pfn(pte))) & TDM_PG_DIRTY);
}

static bool is_there(struct tdm_space *s)
{
	struct tdm_pte pte = entry_at(s, 0);

	return tdm_pte_present(pte) && is_of_device(tdm_pte_pfn(pte));
}

/* ---- a CPU writes */

static void stores_twice(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 1);
	xw_store(xw->s, xw_va(0) + 8, 2);
	TDMX_CHECK(xw_load(xw->s, xw_va(0)) == 1, "it does not see its own store");
}

/* Nothing says yet that it has been written. */
static void migrate_write_setup(void)
{
	begin();
	TDM_BUG_ON(tdmi_madvise_free(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	tdmx_spawn("writer", stores_twice, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_write_check(void)
{
	TDMX_CHECK(!mig()->r || mig()->r == -EBUSY, "it fails: %d", mig()->r);
	TDMX_CHECK(is_there(xw->s) == !mig()->r, "it said %d, and the page is elsewhere", mig()->r);
	TDMX_CHECK(is_dirty(), "the page was written, and nothing says so");
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 1 && xw_final(xw->s, xw_va(0) + 8) == 2, "a store was lost");
	account(2);
}

TDMX_SCENARIO(migrate_write, .what = "a page moves while a CPU writes to it, by its TLB or a walk: no store is lost, and the page is known to be dirty",
	      .setup = migrate_write_setup, .check = migrate_write_check);

/* The same for one that cannot set A and D: each is a fault. */
static void migrate_fault_setup(void)
{
	migrate_write_setup();
	xw->no_hw_a = true;
}

TDMX_SCENARIO(migrate_fault, .what = "a page moves while a CPU faults on it, to have A and D set, or as it finds a migration entry: no store is lost",
	      .setup = migrate_fault_setup, .check = migrate_write_check);

/* ---- a write fault has the page in hand */

static void child_writes(void *arg)
{
	(void)arg;
	xw_store(mig()->child, xw_va(0), 2);
}

static void migrate_cow_setup(void)
{
	begin_shared();
	tdmx_spawn("child", child_writes, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_cow_check(void)
{
	TDMX_CHECK(!mig()->r || mig()->r == -EBUSY, "it fails: %d", mig()->r);
	TDMX_CHECK(is_there(xw->s) == !mig()->r, "it said %d, and the page is elsewhere", mig()->r);
	account(3);
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 5 && xw_final(mig()->child, xw_va(0)) == 2, "a store was lost, or is another's");
	xw_store(xw->s, xw_va(0) + 8, 3);
	TDMX_CHECK(!xw_final(mig()->child, xw_va(0) + 8), "the child sees what the parent has written");
	tdmi_space_destroy(mig()->child, xw_reader());
	account(2);
}

TDMX_SCENARIO(migrate_cow, .what = "a shared page moves while one side writes to it for the first time: each side has its own bytes", .setup = migrate_cow_setup,
	      .check = migrate_cow_check);

/* ---- it is unmapped */

static void unmaps(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	xw_store(xw->s, xw_va(1), 9);
}

static void migrate_munmap_check(void)
{
	moved_or_not(mig()->r);
	TDMX_CHECK(xw_final(xw->s, xw_va(1)) == 9, "a page has two owners");
	account(3);
}

static void migrate_munmap_setup(void)
{
	begin();
	xw_fill(xw->s, 2, 6); /* the table stays */
	tdmx_spawn("unmapper", unmaps, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

TDMX_SCENARIO(migrate_munmap, .what = "a page moves while it is unmapped: both of its places are free afterwards", .setup = migrate_munmap_setup, .check = migrate_munmap_check);

/* And while a third reads it: by what is there, by a migration entry that it waits for, or not at all. */
static void reads(void *arg)
{
	u64 v = 7;
	int r = xw_try_load(xw->s, xw_va(0), &v);

	(void)arg;
	TDMX_CHECK(r == -EFAULT || (!r && v == 5), "read %llu (%d)", (unsigned long long)v, r);
}

static void only_unmaps(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
}

static void migrate_munmap_read_check(void)
{
	moved_or_not(mig()->r);
	account(2);
}

static void migrate_munmap_read_setup(void)
{
	begin();
	xw_fill(xw->s, 2, 6);
	tdmx_spawn("reader", reads, NULL);
	tdmx_spawn("unmapper", only_unmaps, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

TDMX_SCENARIO(migrate_munmap_read, .what = "a page moves, is unmapped, and is read: its bytes or a fault, and nothing is left of it", .setup = migrate_munmap_read_setup,
	      .check = migrate_munmap_read_check);

/* ---- mremap() has the entry in hand, which is in no table for a moment */

static void moves_mapping(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_mremap(xw->s, xw_reader(), xw_va(0), xw_va(3), TDM_PAGE_SIZE));
}

static void migrate_mremap_setup(void)
{
	begin();
	xw_fill(xw->s, 2, 6); /* the table stays */
	tdmx_spawn("mremap", moves_mapping, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_mremap_check(void)
{
	struct tdm_pte pte = entry_at(xw->s, 3);
	struct tdm_pfn pfn = tdm_pte_pfn(pte);

	moved_or_not(mig()->r);
	TDMX_CHECK(tdm_pte_present(pte) && is_of_device(pfn) == !mig()->r, "it said %d, and the page is elsewhere", mig()->r);
	TDMX_CHECK(is_of_device(pfn) || tdm_pfn_page(&xw->w.phys, pfn)->on_list, "reclaim cannot find the page any more");
	TDMX_CHECK(xw_final(xw->s, xw_va(3)) == 5, "bytes were lost");
	account(3);
}

TDMX_SCENARIO(migrate_mremap, .what = "a page moves while mremap() moves its entry: the entry ends up at its new place, with the page where it was said to be",
	      .setup = migrate_mremap_setup, .check = migrate_mremap_check);

/* ---- the other side ends */

static void exits(void *arg)
{
	(void)arg;
	tdmi_space_destroy(mig()->child, xw_reader());
}

/* A device has used the child's memory: there are rounds. Of what else both do migrate_munmap is the scenario. */
static void migrate_exit_setup(void)
{
	begin_shared();
	tdmx_quiet(xw->w.rmap_lock, sizeof(xw->w.rmap_lock));
	tdmx_quiet(xw->w.vmscan, sizeof(struct plat_mutex));
	tdmx_quiet(xw->w.phys.range[xw->w.ram].page, TDM_HUGE_PAGES * sizeof(struct tdm_page));
	tdmi_notifiers_arm(&mig()->child->notifiers);
	tdmx_spawn("child", exits, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_exit_check(void)
{
	TDMX_CHECK(!mig()->r || mig()->r == -EBUSY, "it fails: %d", mig()->r);
	TDMX_CHECK(is_there(xw->s) == !mig()->r, "it said %d, and the page is elsewhere", mig()->r);
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 5, "bytes were lost");
	account(2);
}

TDMX_SCENARIO(migrate_exit, .what = "a shared page moves while an address space that maps it ends, and is freed", .setup = migrate_exit_setup, .check = migrate_exit_check);

/* ---- it is pinned */

static void pins(void *arg)
{
	(void)arg;
	mig()->n = tdmi_pin_fast(xw->s, xw_reader(), xw_va(0), 1, TDM_PIN_WRITE, &mig()->page);
}

static void migrate_pin_setup(void)
{
	begin();
	tdmx_spawn("device", pins, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_pin_check(void)
{
	struct migrate *m = mig();
	u64 v = 8;

	TDMX_CHECK(is_there(xw->s) == !m->r, "it said %d, and the page is elsewhere", m->r);
	if (m->n) {
		account(2);
		tdmx_poke(tdm_pfn_bytes(&xw->w.phys, m->page) + 8, &v, sizeof(v));
		TDMX_CHECK(xw_final(xw->s, xw_va(0) + 8) == 8, "what is pinned has moved");
		tdmi_unpin_pages(&xw->w, &m->page, 1, true);
	}
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 5, "bytes were lost");
	m->n = tdmi_pin_fast(xw->s, xw_reader(), xw_va(0), 1, TDM_PIN_WRITE, &m->page);
	TDMX_CHECK(m->n == 1, "it cannot be pinned any more");
	tdmi_unpin_pages(&xw->w, &m->page, 1, true);
	account(2);
}

TDMX_SCENARIO(migrate_pin, .what = "a page is to move while it is pinned: one of the two", .setup = migrate_pin_setup, .check = migrate_pin_check);

/* ---- fork */

static void forks(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &mig()->child));
}

static void migrate_fork_setup(void)
{
	begin();
	/* Held for moments by who has the table, or the page. */
	tdmx_quiet(xw->w.rmap_lock, sizeof(xw->w.rmap_lock));
	tdmx_quiet(xw->w.vmscan, sizeof(struct plat_mutex));
	tdmx_spawn("parent", forks, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_fork_check(void)
{
	xw_store(mig()->child, xw_va(0), 2);
	migrate_cow_check();
}

TDMX_SCENARIO(migrate_fork, .what = "a page moves while the process forks: both sides have it, and each writes to its own", .setup = migrate_fork_setup, .check = migrate_fork_check);

/*
 * A page that loses all rights while it is being moved, and then is shared by a fork. That takes more steps than are searched: so a subscriber leads the migrator to where it has
 * isolated the page and blocked nothing yet.
 */
enum step { ISOLATED, PROTECTED, STEPS };

static void reach(enum step s)
{
	bool not_yet = false;

	tdmx_poke(&mig()->not_yet[s], &not_yet, sizeof(not_yet));
}

static int leads_start(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	(void)n;
	if (range->event == TDM_INV_MIGRATE) {
		reach(ISOLATED);
		tdmx_wait_while(&mig()->not_yet[PROTECTED]);
	}
	return 0;
}

static const struct tdm_notifier_ops leads = { .invalidate_start = leads_start };

static void protects_and_forks(void *arg)
{
	tdmx_wait_while(&mig()->not_yet[ISOLATED]);
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, 0));
	reach(PROTECTED);
	forks(arg);
}

static void migrate_fork_none_setup(void)
{
	begin();
	for (u32 i = 0; i < STEPS; i++)
		mig()->not_yet[i] = true;
	mig()->lead = (struct tdm_notifier){ .name = "lead", .ops = &leads };
	TDM_BUG_ON(tdmi_notifier_register(&xw->s->notifiers, &mig()->lead));
	tdmx_bytes(mig()->not_yet, sizeof(mig()->not_yet));
	tdmx_spawn("parent", protects_and_forks, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_fork_none_check(void)
{
	tdmi_notifier_unregister(&xw->s->notifiers, &mig()->lead);
	TDM_BUG_ON(tdmi_mprotect(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	TDM_BUG_ON(tdmi_mprotect(mig()->child, xw_reader(), xw_va(0), TDM_PAGE_SIZE, TDM_V_READ | TDM_V_WRITE));
	(void)xw_final(xw->s, xw_va(0)); /* the entry is present again */
	migrate_fork_check();
}

TDMX_SCENARIO(migrate_fork_none, .what = "a page that is to move loses all rights, and is shared by a fork: each side writes to its own",
	      .setup = migrate_fork_none_setup, .check = migrate_fork_none_check);

/* ---- reclaim wants it, too */

static void reclaims(void *arg)
{
	(void)arg;
	(void)tdmi_vmscan(&xw->w, xw_reader(), 1, 1);
}

static void migrate_reclaim_setup(void)
{
	begin_with(true);
	tdmi_vmscan_age(&xw->w);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED);
	tdmx_spawn("reclaim", reclaims, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_reclaim_check(void)
{
	moved_or_not(mig()->r);
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 5, "bytes were lost");
	TDMX_CHECK(!xt_used(xw->tier), "bytes are left in the tier");
	account(2);
}

TDMX_SCENARIO(migrate_reclaim, .what = "a page is to move to a device, and to a tier: one of the two, or one after the other", .setup = migrate_reclaim_setup,
	      .check = migrate_reclaim_check);

static void migrate_reclaim_write_setup(void)
{
	begin_with(true);
	tdmi_vmscan_age(&xw->w);
	xw_idle(xw->s, 0, TDM_PTE_ACCESSED | TDM_PTE_DIRTY);
	tdmx_spawn("writer", stores_twice, NULL);
	tdmx_spawn("reclaim", reclaims, NULL);
	tdmx_spawn("migrator", migrates, NULL);
}

static void migrate_reclaim_write_check(void)
{
	moved_or_not(mig()->r);
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 1 && xw_final(xw->s, xw_va(0) + 8) == 2, "a store was lost");
	TDMX_CHECK(!xt_used(xw->tier), "bytes are left in the tier");
	account(2);
}

TDMX_SCENARIO(migrate_reclaim_write, .what = "the same while a CPU writes to it: no store is lost", .setup = migrate_reclaim_write_setup, .check = migrate_reclaim_write_check);

/* ---- it moves there, and back */

static void migrates_back(void *arg)
{
	int r = tdmi_migrate_page(xw->s, xw_reader(), xw_va(0), xw->w.ram);

	(void)arg;
	moved_or_not(r);
}

static void migrate_back_setup(void)
{
	begin();
	tdmx_spawn("writer", stores_twice, NULL);
	tdmx_spawn("migrator", migrates, NULL);
	tdmx_spawn("back", migrates_back, NULL);
}

static void migrate_back_check(void)
{
	moved_or_not(mig()->r);
	account(2);
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 1 && xw_final(xw->s, xw_va(0) + 8) == 2, "a store was lost");
}

TDMX_SCENARIO(migrate_back, .what = "a page moves to a device and back while a CPU writes to it: no store is lost", .setup = migrate_back_setup, .check = migrate_back_check);
