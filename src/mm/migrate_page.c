/* SPDX-License-Identifier: MIT */
/*
 * migrate_page.c - see migrate_page.h.
 *
 * Who migrates a page has isolated it, and is alone with that. Its entries are blocked first; none can be added to it then: a fork waits for them. A pin
 * cannot come, since the page is not exclusive meanwhile. mremap() may carry a blocked entry elsewhere.
 */
#include "mm/migrate_page.h"
#include <string.h>
#include "mm/rmap.h"
#include "mm/tlb.h"
#include "mm/vmscan.h"

struct moving {
	struct tdm_world *w;
	struct tdm_pfn from, to;
	struct tdm_page *old, *new;
	u64 exclusive;   /* TDM_PG_EXCLUSIVE, if it was when its entry was blocked */
	bool again;
	struct tdm_tlb_batch batch;
};

/* Off its list, where there is one, and nobody else's. A reference for it. */
static bool isolate(struct tdm_world *w, struct tdm_pfn pfn, struct tdm_page *pg)
{
	if (tdm_pfn_range(&w->phys, pfn)->kind == TDM_MEM_RAM)
		return tdmi_vmscan_isolate(w, pfn);
	if (tdm_a64_or_acqrel(&pg->word, TDM_PG_ISOLATED) & TDM_PG_ISOLATED)
		return false;
	tdm_page_get(pg);
	return true;
}

static int block(void *arg, struct tdm_space *s, struct tdm_pt *pt, u32 i, u64 va)
{
	struct moving *m = arg;
	struct tdm_pte pte = pt ? tdm_pt_get(pt, i) : (struct tdm_pte){ 0 };
	u64 exclusive;

	/* It is gone, or mremap() has it in hand, and will put it elsewhere as it is. */
	if (!pt)
		return -EBUSY;
	if (!tdm_pte_present(pte) && !tdm_pte_is(pte, TDM_PTE_T_PROTNONE))
		return 0;
	/* A fork may have shared it since it was isolated. From here on one finds a migration entry, so what is given back at the end is right. */
	exclusive = tdm_page_word(m->old) & TDM_PG_EXCLUSIVE;
	if (!tdm_page_share(m->old))
		return -EBUSY;
	m->exclusive |= exclusive;
	if (tdm_pte_is(pte, TDM_PTE_T_PROTNONE)) {
		/* Nobody has a translation, or mprotect() is about to flush it. */
		tdmi_tlb_settle(s, va);
		tdm_pt_set(pt, i, tdm_pte_mk_typed(TDM_PTE_T_MIGRATION, tdm_pte_payload(pte) | TDM_BLOCKED_PROTNONE));
		return 0;
	}
	pte = tdm_pt_xchg(pt, i, (struct tdm_pte){ 0 });
	if (pte.v & TDM_PTE_DIRTY)
		tdm_page_set(m->old, TDM_PG_DIRTY);
	tdm_pt_set(pt, i, tdm_pte_mk_blocked(TDM_PTE_T_MIGRATION, pte));
	(void)tdmi_batch_add(&m->batch, s, va, pte.v & TDM_PTE_DIRTY);
	tdm_world_work(m->w, TDM_WORK_PTE, 1);
	return 0;
}

/* A blocked entry names the new page from now on; or, if nothing came of it, the old one. */
static int unblock(void *arg, struct tdm_space *s, struct tdm_pt *pt, u32 i, u64 va)
{
	struct moving *m = arg;
	struct tdm_pte pte = pt ? tdm_pt_get(pt, i) : (struct tdm_pte){ 0 }, said;

	m->again |= !pt;
	if (!tdm_pte_is(pte, TDM_PTE_T_MIGRATION))
		return 0;
	tdm_world_work(m->w, TDM_WORK_PTE, 1);
	if (m->new) {
		if (tdmi_rmap_add(m->w, m->to, s, va))
			return -ENOMEM;
		tdmi_rmap_del(m->w, m->from, s, va);
		tdm_page_get(m->new);
	}
	said = tdm_pte_unblocked(pte, m->new ? m->to : m->from);
	tdm_pt_set(pt, i, tdm_pte_payload(pte) & TDM_BLOCKED_PROTNONE ? tdm_pte_mk_blocked(TDM_PTE_T_PROTNONE, said) : said);
	if (m->new)
		tdmi_page_put(m->w, m->from);
	return 0;
}

static void unblock_all(struct moving *m)
{
	int r;

	/* Somebody waits for these entries, and they need a few bytes at most: until there are some. And until none is in the hands of mremap(). */
	do {
		m->again = false;
		r = tdmi_rmap_walk(m->w, m->from, unblock, m);
		if (r || m->again)
			plat_yield();
	} while (r || m->again);
}

static int move(struct moving *m, u32 range)
{
	int r;

	m->exclusive = 0;
	m->new = NULL;
	m->batch = (struct tdm_tlb_batch){ .w = m->w };
	/* Not one that lies in the swap cache as well: what names its slot would have to be told. */
	r = tdmi_rmap_walk_round(m->w, m->from, TDM_INV_MIGRATE, block, m);
	tdmi_batch_flush(&m->batch);
	/* References that are no entry's and not ours: somebody looks at it, or the swap cache. */
	if (!r && tdm_page_refs(m->old) != tdmi_rmap_count(m->w, m->from) + 2)
		r = -EBUSY;
	if (!r) {
		m->new = tdmi_page_alloc(&m->w->phys, range, &m->to);
		r = m->new ? 0 : -ENOMEM;
	}
	if (!r) {
		memcpy(tdm_pfn_bytes(&m->w->phys, m->to), tdm_pfn_bytes(&m->w->phys, m->from), TDM_PAGE_SIZE);
		tdm_world_work(m->w, TDM_WORK_PAGE_COPY, 1);
		tdm_page_set(m->new, (tdm_page_word(m->old) & (TDM_PG_DIRTY | TDM_PG_LAZYFREE)) | m->exclusive);
	} else {
		tdm_page_set(m->old, m->exclusive);
	}
	unblock_all(m);
	return r;
}

static bool names(struct tdm_space *s, u64 va, struct tdm_pfn *pfn)
{
	struct tdm_pte pte;
	u32 i;

	return !tdmi_pt_walk(&s->pgt, va, &i, &pte)->level && tdm_pte_names(pte, pfn);
}

/* As tdmi_space_get_page(), also of an entry without rights: that keeps no page on a device. */
static bool hold(struct tdm_space *s, u64 va, struct tdm_pfn *pfn)
{
	struct tdm_pfn now;

	if (!names(s, va, pfn) || !tdm_page_get_unless_zero(tdm_pfn_page(&s->w->phys, *pfn)))
		return false;
	if (names(s, va, &now) && now.v == pfn->v)
		return true;
	tdmi_page_put(s->w, *pfn);
	return false;
}

int tdmi_migrate_page(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 range)
{
	struct moving m = { .w = s->w };
	int r = -ENOENT;

	tdmi_rcu_read_lock(reader);
	if (hold(s, va, &m.from))
		m.old = tdm_pfn_page(&s->w->phys, m.from);
	if (m.old && tdm_pfn_range(&s->w->phys, m.from) == &s->w->phys.range[range]) {
		r = 0;
	} else if (m.old) {
		r = isolate(s->w, m.from, m.old) ? 0 : -EBUSY;
		if (!r) {
			r = move(&m, range);
			if (!r) {
				tdm_page_clear(m.old, TDM_PG_ISOLATED);
				tdmi_page_put(s->w, m.from);
				tdmi_vmscan_add(s->w, m.to);
				tdmi_page_put(s->w, m.to);
			} else {
				tdmi_vmscan_putback(s->w, m.from, true);
			}
		}
	}
	if (m.old)
		tdmi_page_put(s->w, m.from);
	tdmi_rcu_read_unlock(reader);
	return r;
}

u64 tdmi_migrate_range(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 start, u64 end, u32 range)
{
	u64 n = 0;

	for (u64 va = start; va < end; va += TDM_PAGE_SIZE) {
		struct tdm_pfn pfn;
		bool elsewhere;

		tdmi_rcu_read_lock(reader);
		elsewhere = names(s, va, &pfn) && tdm_pfn_range(&s->w->phys, pfn) != &s->w->phys.range[range];
		tdmi_rcu_read_unlock(reader);
		n += elsewhere && !tdmi_migrate_page(s, reader, va, range);
	}
	return n;
}
