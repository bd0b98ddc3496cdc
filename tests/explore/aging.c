// SPDX-License-Identifier: MIT
/*
 * aging.c - who clears accessed bits while entries change under him.
 *
 * Reclaim clears them under the table's lock, in entries that name the page it asks for (mm/vmscan.c). A guest's second-stage table is aged without any lock (port/stage2.c): there an
 * entry may be taken out, and filled with another page, between two instructions of who clears the bit. He may get the wrong page's bit, as is said there; he must not
 * bring an entry back.
 */
#include "base/check.h"
#include "mm/vmscan.h"
#include "port/stage2.h"
#include "tests/explore/world.h"

static void looks(void *arg)
{
	(void)arg;
	TDMX_CHECK(!tdmi_vmscan(&xw->w, xw_reader(), 1, 1), "a page that is used was evicted");
}

static void writes(void *arg)
{
	(void)arg;
	xw_store(xw->s, xw_va(0), 9);
}

/* One page, of an old generation. */
static void setup(void)
{
	xw_init(2, true);
	xw_quiet_lists();
	tdmx_quiet(&xw->s->faults, sizeof(xw->s->faults) + sizeof(xw->s->forking));
	xw_fill(xw->s, 0, 5);
	tdmi_vmscan_age(&xw->w);
}

static struct tdm_pte entry_now(void)
{
	struct tdm_pte pte;
	u32 i;

	(void)tdmi_pt_walk(&xw->s->pgt, xw_va(0), &i, &pte);
	return pte;
}

/* ---- the entry comes to name another page */

static void aging_replace_setup(void)
{
	struct tdm_space *child;

	setup();
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &child));
	xw_quiet_space(child);
	tdmx_spawn("reclaim", looks, NULL);
	tdmx_spawn("writer", writes, NULL);
}

static void aging_replace_check(void)
{
	TDMX_CHECK(entry_now().v & TDM_PTE_ACCESSED, "the accessed bit was taken from another page");
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 9, "a store was lost");
}

TDMX_SCENARIO(aging_replace, .what = "reclaim looks at a page while an entry comes to name its copy: the copy's accessed bit stays", .setup = aging_replace_setup,
	      .check = aging_replace_check);

/* ---- hardware sets bits in it */

static void aging_walk_setup(void)
{
	setup();
	xw_idle(xw->s, 0, TDM_PTE_DIRTY);
	tdmx_spawn("reclaim", looks, NULL);
	tdmx_spawn("writer", writes, NULL);
}

static void aging_walk_check(void)
{
	TDMX_CHECK(entry_now().v & TDM_PTE_DIRTY, "the dirty bit was lost");
	xw_check();
	TDMX_CHECK(xw_final(xw->s, xw_va(0)) == 9, "a store was lost");
}

TDMX_SCENARIO(aging_walk, .what = "reclaim clears the accessed bit while a walker sets it, and the dirty bit: that stays", .setup = aging_walk_setup, .check = aging_walk_check);

/* ---- a guest's table, without a lock */

static struct tdm_stage2 *st;
static struct tdm_vcpu *vcpu;
static u64 *old; /* the page that the guest begins with */

static void guest_reads(void *arg)
{
	u64 v = 0;
	int r = tdmi_vcpu_access(vcpu, 0, &v, sizeof(v), false);

	(void)arg;
	TDMX_CHECK(!r && (v == 5 || v == 0), "a guest reads %llu (%d)", (unsigned long long)v, r);
}

static void ages(void *arg)
{
	(void)arg;
	(void)tdmi_notifiers_clear_young(&xw->s->notifiers, xw_va(0), xw_va(1));
}

/* The page goes, and is somebody else's who writes to it at once. */
static void zaps(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_madvise_dontneed(xw->s, xw_reader(), xw_va(0), TDM_PAGE_SIZE));
	tdmx_poke(old, &(u64){ 7 }, sizeof(u64));
}

static void guest_setup(void)
{
	static const struct tdm_stage2_config config = { .aging = TDM_AGING_LOCKLESS, .fill_read = true };

	xw_init(2, false);
	/* So that its table stays. */
	xw_fill(xw->s, 1, 6);
	xw_quiet_lists();
	tdmx_quiet(&xw->s->faults, sizeof(xw->s->faults) + sizeof(xw->s->forking));
	st = tdmx_alloc(sizeof(*st));
	vcpu = tdmx_alloc(sizeof(*vcpu));
	TDM_BUG_ON(tdmi_stage2_init(st, xw->s, xw_va(0), TDM_PAGE_SIZE, &config));
	/* Its time and its counts. */
	tdmx_quiet(&st->time, sizeof(*st) - offsetof(struct tdm_stage2, time));
	tdmx_name(st, sizeof(*st), "stage-2");
	*vcpu = (struct tdm_vcpu){ .st = st, .reader = xw->reader[1], .section = tdmi_rcu_register(&st->rcu) };
}

static void aging_stage2_setup(void)
{
	u64 v = 5;

	guest_setup();
	TDM_BUG_ON(tdmi_vcpu_access(vcpu, 0, &v, sizeof(v), true));
	old = (u64 *)(void *)tdm_pfn_bytes(&xw->w.phys, tdm_pte_pfn(entry_now()));
	tdmx_spawn("vcpu", guest_reads, NULL);
	tdmx_spawn("ager", ages, NULL);
	tdmx_spawn("zapper", zaps, NULL);
}

static void stage2_check(void)
{
	struct tdm_pte guest = tdmi_stage2_entry(st, 0), host = entry_now();

	xw_check();
	TDMX_CHECK(!guest.v || tdm_pte_present(guest), "an entry is back in part");
	TDMX_CHECK(!guest.v || (tdm_pte_present(host) && tdm_pte_pfn(guest).v == tdm_pte_pfn(host).v), "a guest's entry has come back");
	TDMX_CHECK(*old == 7, "somebody has written to a page that was free");
}

TDMX_SCENARIO(aging_stage2, .what = "a guest's table is aged without a lock while an entry goes: it does not come back, and nobody reads the page that it had", .setup = aging_stage2_setup,
	      .check = stage2_check);

static void stage2_fill_setup(void)
{
	guest_setup();
	xw_fill(xw->s, 0, 5);
	old = (u64 *)(void *)tdm_pfn_bytes(&xw->w.phys, tdm_pte_pfn(entry_now()));
	tdmx_spawn("vcpu", guest_reads, NULL);
	tdmx_spawn("zapper", zaps, NULL);
}

TDMX_SCENARIO(stage2_fill, .what = "a guest's table is filled while the page goes: the entry is not made, or goes as well", .setup = stage2_fill_setup, .check = stage2_check);
