/* SPDX-License-Identifier: MIT */
/*
 * pin.c - see pin.h. The lockless walk:
 *
 *   read the entry            it names a page, which may be freed and used again from now on
 *   take a reference          fails if the page is free
 *   read the entry again      it is the same: the entry has a reference of its own, so the page that we hold is the entry's. If not, let go
 *   pin, if it is exclusive   from here on no fork shares it, and nobody unmaps it to evict it
 *   read the entry once more  who took it away before our pin is seen. Who does it later sees the pin
 *
 * A special leaf, of any size, ends the walk before anything that belongs to a page is looked at: there is none.
 */
#include "mm/pin.h"
#include "mm/anon.h"
#include "mm/migrate_page.h"

#define TRIES 32u

static bool same(struct tdm_space *s, u64 va, struct tdm_pte pte)
{
	struct tdm_pte now;
	u32 i;

	return !tdmi_pt_walk(&s->pgt, va, &i, &now)->level && !((now.v ^ pte.v) & ~(TDM_PTE_ACCESSED | TDM_PTE_DIRTY | TDM_PTE_SOFT_DIRTY));
}

static bool pin_one(struct tdm_space *s, u64 va, u32 flags, struct tdm_pfn *out)
{
	struct tdm_world *w = s->w;
	struct tdm_page *pg;
	struct tdm_pte pte;
	bool pinned;
	u32 i;

	if (tdmi_pt_walk(&s->pgt, va, &i, &pte)->level || !tdm_pte_present(pte) || (pte.v & TDM_PTE_SPECIAL))
		return false;
	if ((flags & TDM_PIN_WRITE) && !(pte.v & TDM_PTE_WRITE))
		return false;
	*out = tdm_pte_pfn(pte);
	if ((flags & TDM_PIN_LONGTERM) && tdm_pfn_range(&w->phys, *out)->kind != TDM_MEM_RAM)
		return false;
	pg = tdm_pfn_page(&w->phys, *out);
	if (!tdm_page_get_unless_zero(pg))
		return false;
	plat_window();
	pinned = same(s, va, pte) && tdm_page_pin(pg);
	plat_window();
	if (pinned && !same(s, va, pte)) {
		tdmi_unpin_pages(w, out, 1, false);
		pinned = false;
	}
	/* The pin has a reference of its own. */
	tdmi_page_put(w, *out);
	return pinned;
}

u32 tdmi_pin_fast(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 n, u32 flags, struct tdm_pfn *page)
{
	u32 done = 0;

	tdmi_rcu_read_lock(reader);
	while (done < n && pin_one(s, va + ((u64)done << TDM_PAGE_SHIFT), flags, &page[done]))
		done++;
	tdmi_rcu_read_unlock(reader);
	return done;
}

/* What is at va, so that it can be pinned: make it one's own, in ram. */
static int prepare(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 flags)
{
	bool write = flags & TDM_PIN_WRITE, special = false;
	struct tdm_pte pte;
	struct tdm_vma v;
	u32 i;
	int r;

	tdmi_rcu_read_lock(reader);
	if (tdmi_vma_find(&s->vmas, va, &v))
		special = v.flags & TDM_V_SPECIAL;
	(void)tdmi_pt_walk(&s->pgt, va, &i, &pte);
	tdmi_rcu_read_unlock(reader);
	if (special)
		return -EFAULT;
	if (!tdm_pte_present(pte) || (write && !(pte.v & TDM_PTE_WRITE)))
		return tdmi_space_fault(s, reader, va, write ? TDM_ACCESS_WRITE : TDM_ACCESS_READ);
	r = tdmi_space_unshare(s, reader, va);
	if (!r && (flags & TDM_PIN_LONGTERM) && !(pte.v & TDM_PTE_SPECIAL) && tdm_pfn_range(&s->w->phys, tdm_pte_pfn(pte))->kind != TDM_MEM_RAM)
		r = tdmi_migrate_page(s, reader, va, s->w->ram);
	return r == -EAGAIN || r == -EBUSY ? 0 : r;
}

int tdmi_pin_pages(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va, u32 n, u32 flags, struct tdm_pfn *page, u32 *done)
{
	int r = 0;

	*done = 0;
	for (u32 tries = 0; !r;) {
		u32 got = tdmi_pin_fast(s, reader, va + ((u64)*done << TDM_PAGE_SHIFT), n - *done, flags, page + *done);

		*done += got;
		if (*done == n)
			break;
		tries = got ? 0 : tries + 1;
		r = tries > TRIES ? -EBUSY : prepare(s, reader, va + ((u64)*done << TDM_PAGE_SHIFT), flags);
	}
	return r;
}

void tdmi_unpin_pages(struct tdm_world *w, const struct tdm_pfn *page, u32 n, bool dirty)
{
	for (u32 k = 0; k < n; k++) {
		struct tdm_page *pg = tdm_pfn_page(&w->phys, page[k]);

		if (dirty)
			tdm_page_set(pg, TDM_PG_DIRTY);
		TDM_BUG_ON(!(tdm_a64_sub_acqrel(&pg->word, TDM_PG_PIN) & TDM_PG_PINS));
		tdmi_page_put(w, page[k]);
	}
}
