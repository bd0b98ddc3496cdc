/* SPDX-License-Identifier: MIT */
/* page.c - see page.h: ranges of physical memory, and their free pages. */
#include "mm/page.h"
#include <string.h>

#define ALIGN_PAGES ((u64)1 << 18) /* 1 GiB */

void tdmi_phys_init(struct tdm_phys *p)
{
	memset(p, 0, sizeof(*p));
	tdmi_alloc_init(&p->alloc);
}

static void range_free(struct tdm_mem_range *r)
{
	if (r->frames.desc)
		tdmi_frames_destroy(&r->frames);
	plat_unmap(r->page, TDM_ALIGN_UP(r->n * sizeof(*r->page), TDM_PAGE_SIZE));
	plat_unmap(r->bytes, r->n << TDM_PAGE_SHIFT);
}

void tdmi_phys_destroy(struct tdm_phys *p)
{
	for (u32 i = 0; i < p->nranges; i++)
		range_free(&p->range[i]);
	tdmi_alloc_destroy(&p->alloc);
}

int tdmi_phys_add(struct tdm_phys *p, enum tdm_mem_kind kind, u64 n, u32 *range)
{
	struct tdm_mem_range *r = &p->range[p->nranges], *last = p->nranges ? r - 1 : NULL;
	int err = 0;

	if (p->nranges == TDM_MEM_RANGES)
		return -ENOSPC;
	TDM_BUG_ON(!n || n % TDM_HUGE_PAGES);
	*r = (struct tdm_mem_range){ .first = last ? TDM_ALIGN_UP(last->first + last->n, ALIGN_PAGES) : ALIGN_PAGES, .n = n, .kind = kind };
	r->bytes = plat_map(n << TDM_PAGE_SHIFT);
	if (!r->bytes)
		return -ENOMEM;
	if (kind != TDM_MEM_SPECIAL) {
		r->page = plat_map(TDM_ALIGN_UP(n * sizeof(*r->page), TDM_PAGE_SIZE));
		err = r->page ? tdmi_frames_init(&r->frames, r->bytes, (u32)n) : -ENOMEM;
	}
	if (err) {
		range_free(r);
		return err;
	}
	*range = p->nranges++;
	return 0;
}

struct tdm_page *tdmi_page_alloc(struct tdm_phys *p, u32 range, struct tdm_pfn *pfn)
{
	struct tdm_mem_range *r = &p->range[range];
	bool warm;
	struct tdm_frame *f = tdm_alloc_fails(p->fail) ? NULL : tdmi_folio_alloc(&r->frames, 0, false, &warm);
	struct tdm_page *pg;
	u32 nr;

	if (!f)
		return NULL;
	nr = tdm_frame_nr(&r->frames, f);
	pg = &r->page[nr];
	TDM_ASSERT(!tdm_a64_ld_relaxed(&pg->rmap) && !pg->on_list && !pg->slot);
	pg->age = 0;
	*pfn = (struct tdm_pfn){ r->first + nr };
	tdm_a64_st_release(&pg->word, TDM_PG_REF);
	return pg;
}

bool tdmi_page_drop(struct tdm_page *pg)
{
	u64 w = tdm_a64_ld_relaxed(&pg->word), to;

	do {
		TDM_BUG_ON(!(w & TDM_PG_REFS));
		to = (w & TDM_PG_REFS) == TDM_PG_REF ? 0 : w - TDM_PG_REF;
		TDM_BUG_ON(!to && (w & TDM_PG_PINS));
	} while (!tdm_a64_cas_acqrel(&pg->word, &w, to));
	return !to;
}

void tdmi_page_free(struct tdm_phys *p, struct tdm_pfn pfn)
{
	struct tdm_mem_range *r = tdm_pfn_range(p, pfn);

	TDM_BUG_ON(tdm_a64_ld_relaxed(&r->page[pfn.v - r->first].rmap));
	if (p->freed)
		p->freed(p->freed_arg, pfn);
	tdmi_folio_free(&r->frames, &r->frames.desc[pfn.v - r->first]);
}

u64 tdmi_phys_used(const struct tdm_phys *p, u32 range)
{
	return tdm_a64_ld_relaxed(&p->range[range].frames.used);
}
