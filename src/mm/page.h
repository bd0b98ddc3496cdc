/* SPDX-License-Identifier: MIT */
/*
 * page.h - physical memory that hardware addresses itself, and what is known of each of its pages.
 *
 * In the live process the kernel owns what is mapped, and the engine only what it has taken. In a simulated machine all of it is the engine's: pages that are mapped
 * several times, by several address spaces (mm/space.h), are referred to by swap entries, and pinned. The memory is the machine's; its pfns are global, each range
 * owns some of them:
 *
 *   ram        ordinary
 *   coherent   a device's, with pages like any other: mapped by CPUs, never pinned for long, the first writer after a fork gets a page of ram instead
 *   special    a device's, without pages: a valid translation, and nothing behind it that could be counted. Only a driver's mapping leads there (insert_range)
 *
 * The word of a page is all that is decided about it without a lock:
 *
 *    63     56 55      48 47            24 23             0
 *   |         | flags    | pins           | references     |
 *
 *   references   one for each mapping, for the swap cache, for each pin and for whoever looks at it (isolated, being copied). At 0 it is free, and nobody gets a
 *                reference to a free page (tdm_page_get_unless_zero()): a lockless walker that has read an entry takes one, and then reads the entry again.
 *   EXCLUSIVE    an anonymous page that one address space alone maps, by one entry: it may be written in place, and only such a page may be pinned. Taken away
 *                by one compare-and-swap that fails if there is a pin, as a pin fails without it: so fork and pins need no order between them.
 *   DIRTY        its bytes are not those of its swap slot. LAZYFREE: they need not be kept, unless it gets dirty (MADV_FREE).
 *   ISOLATED     somebody has it off the list: reclaim, migration
 */
#ifndef TDM_MM_PAGE_H
#define TDM_MM_PAGE_H

#include "base/alloc.h"
#include "base/check.h"
#include "base/rcu.h"
#include "mm/frame.h"

#define TDM_PG_REF ((u64)1)
#define TDM_PG_REFS (((u64)1 << 24) - 1)
#define TDM_PG_PIN ((u64)1 << 24)
#define TDM_PG_PINS ((((u64)1 << 24) - 1) << 24)
#define TDM_PG_EXCLUSIVE ((u64)1 << 48)
#define TDM_PG_DIRTY ((u64)1 << 49)
#define TDM_PG_LAZYFREE ((u64)1 << 50)
#define TDM_PG_ISOLATED ((u64)1 << 51)

struct tdm_page {
	tdm_a64 word;
	tdm_a64 rmap;    /* who maps it: mm/rmap.h */
	u32 next, prev;  /* the list of its generation, by page number within the range; LRU lock */
	u32 slot;        /* of the swap cache, plus 1; 0: none. Lock of the slots: mm/swapcache.c */
	u8 gen;          /* LRU lock */
	u8 on_list;      /* likewise */
	u16 age;         /* see mm/vmscan.c */
};

_Static_assert(sizeof(struct tdm_page) == 32, "a page's descriptor is 32 bytes");

enum tdm_mem_kind { TDM_MEM_RAM, TDM_MEM_COHERENT, TDM_MEM_SPECIAL };

/* All constant, but what the frames say of themselves. */
struct tdm_mem_range {
	u64 first, n;             /* pfns [first, first + n) */
	enum tdm_mem_kind kind;
	u8 *bytes;                /* of all of them; taken when touched */
	struct tdm_frames frames; /* who is free; of a special range unused: its driver knows */
	struct tdm_page *page;    /* NULL: special */
};

#define TDM_MEM_RANGES 8u

struct tdm_phys {
	struct tdm_alloc alloc;
	struct tdm_mem_range range[TDM_MEM_RANGES];
	u32 nranges;
	tdm_a32 *fail;            /* or NULL: a count for tdm_alloc_fails(), of pages */
	/* Or NULL: who looks whether anybody still translates to a page that is about to be free. Tables may be locked. */
	void (*freed)(void *arg, struct tdm_pfn pfn);
	void *freed_arg;
};

void tdmi_phys_init(struct tdm_phys *p);
/* Nobody uses any page. */
void tdmi_phys_destroy(struct tdm_phys *p);
/* n pages more, a multiple of 512; their pfns follow those of the last range, from a multiple of 2^18 on (so that leaves of 1 GiB can map them). Before
 * anything is allocated. -ENOMEM; -ENOSPC: there are TDM_MEM_RANGES. */
int tdmi_phys_add(struct tdm_phys *p, enum tdm_mem_kind kind, u64 n, u32 *range);

/* The range that a pfn is in. One that is in none is a bug. */
static inline struct tdm_mem_range *tdm_pfn_range(struct tdm_phys *p, struct tdm_pfn pfn)
{
	for (u32 i = 0; i < p->nranges; i++)
		if (pfn.v - p->range[i].first < p->range[i].n)
			return &p->range[i];
	TDM_BUG_ON("a pfn that no range has");
	return NULL;
}

/* Its page; a pfn of a special range has none, and whoever asks has not looked at the entry's special bit. */
static inline struct tdm_page *tdm_pfn_page(struct tdm_phys *p, struct tdm_pfn pfn)
{
	struct tdm_mem_range *r = tdm_pfn_range(p, pfn);

	TDM_BUG_ON(r->kind == TDM_MEM_SPECIAL);
	return &r->page[pfn.v - r->first];
}

static inline u8 *tdm_pfn_bytes(struct tdm_phys *p, struct tdm_pfn pfn)
{
	struct tdm_mem_range *r = tdm_pfn_range(p, pfn);

	return r->bytes + ((pfn.v - r->first) << TDM_PAGE_SHIFT);
}

/* A page of that range, of unknown bytes, with one reference and no flag; *pfn. NULL: none is free. */
struct tdm_page *tdmi_page_alloc(struct tdm_phys *p, u32 range, struct tdm_pfn *pfn);
/* One reference less; true: it was the last, the page is the caller's to free. Most call tdmi_page_put() (mm/space.h). */
bool tdmi_page_drop(struct tdm_page *pg);
void tdmi_page_free(struct tdm_phys *p, struct tdm_pfn pfn);
/* Pages of that range that are in use. */
u64 tdmi_phys_used(const struct tdm_phys *p, u32 range);

static inline u64 tdm_page_word(const struct tdm_page *pg)
{
	return tdm_a64_ld_acquire(&pg->word);
}

static inline u32 tdm_page_refs(const struct tdm_page *pg)
{
	return (u32)(tdm_page_word(pg) & TDM_PG_REFS);
}

static inline u32 tdm_page_pins(const struct tdm_page *pg)
{
	return (u32)((tdm_page_word(pg) & TDM_PG_PINS) >> 24);
}

/* By who has a reference, or the lock of a table whose entry names it. */
static inline void tdm_page_get(struct tdm_page *pg)
{
	u64 was = tdm_a64_add_relaxed(&pg->word, TDM_PG_REF);

	TDM_BUG_ON((was & TDM_PG_REFS) == 0 || (was & TDM_PG_REFS) == TDM_PG_REFS);
}

/* By anybody. */
static inline bool tdm_page_get_unless_zero(struct tdm_page *pg)
{
	u64 w = tdm_a64_ld_relaxed(&pg->word);

	do {
		if (!(w & TDM_PG_REFS))
			return false;
	} while (!tdm_a64_cas_acqrel(&pg->word, &w, w + TDM_PG_REF));
	return true;
}

/* Pin it, with a reference: only if it is exclusive. By who has a reference. */
static inline bool tdm_page_pin(struct tdm_page *pg)
{
	u64 w = tdm_a64_ld_relaxed(&pg->word);

	do {
		if (!(w & TDM_PG_EXCLUSIVE))
			return false;
		TDM_BUG_ON((w & TDM_PG_PINS) == TDM_PG_PINS);
	} while (!tdm_a64_cas_acqrel(&pg->word, &w, w + TDM_PG_PIN + TDM_PG_REF));
	return true;
}

/* It is not exclusive from now on; false: it is pinned, and stays so. The table of its entry is locked. */
static inline bool tdm_page_share(struct tdm_page *pg)
{
	u64 w = tdm_a64_ld_relaxed(&pg->word);

	do {
		if (w & TDM_PG_PINS)
			return false;
	} while (!tdm_a64_cas_acqrel(&pg->word, &w, w & ~TDM_PG_EXCLUSIVE));
	return true;
}

static inline void tdm_page_set(struct tdm_page *pg, u64 flags)
{
	tdm_a64_or_acqrel(&pg->word, flags);
}

/* What of these flags was set. */
static inline u64 tdm_page_clear(struct tdm_page *pg, u64 flags)
{
	return tdm_a64_and_acqrel(&pg->word, ~flags) & flags;
}

#endif
