/* SPDX-License-Identifier: MIT */
/*
 * fault_fill.c - pages of a block are mapped by the port: moved there from their homes, copied, zeros, or poison.
 *
 * Every fill goes through the gate (event.c), and the entries are set to what the port says that it has mapped. The caller holds the PTE table's lock from the
 * look at the entries until then; nothing here waits or takes another lock. -EAGAIN ends a fill: nothing is lost, and the pages that are mapped are in the
 * caller's mask. What the port refuses for a page alone is not an error of the rest.
 */
#include "mm/fault_impl.h"

int tdmi_fault_fill(struct tdm_ctx *ctx, enum fill how, u64 va, const void *src, u32 n, u32 *done)
{
	struct tdm_port *port = ctx->mm->port;
	struct tdm_va at = { va };
	int r;

	*done = 0;
	if (!tdmi_fill_begin(ctx))
		return -EAGAIN;
	if (how == FILL_MOVE)
		r = port->ops->fill(port, at, (void *)(uintptr_t)src, n, done);
	else if (how == FILL_COPY)
		r = port->ops->fill_copy(port, at, src, n, done);
	else if (how == FILL_ZERO)
		r = port->ops->fill_zero(port, at, n, done);
	else
		r = port->ops->fill_poison(port, at, n);
	tdmi_fill_end(ctx);
	ctx->fresh += how != FILL_MOVE ? *done : 0;
	return r;
}

void tdmi_fault_wake(struct tdm_mm *mm, u64 from, u64 to)
{
	mm->port->ops->wake(mm->port, (struct tdm_va){ from }, (u32)((to - from) >> TDM_PAGE_SHIFT));
}

/* ---- entries --------------------------------------------------------------------------------------------------------- */

static u32 run_length(u32 mask, u32 i)
{
	u32 n = 0;

	while (i + n < TDM_BLOCK_PAGES && (mask >> (i + n) & 1))
		n++;
	return n;
}

/* Are all pages of the block home in one folio, or in one folio of a device? */
static bool alike(const struct block *b)
{
	struct tdm_pte pte = tdm_pt_get(b->pt, b->first);
	bool home = tdm_pte_home(pte);

	if (!home && (!tdm_pte_is(pte, TDM_PTE_T_PRIVATE) || tdm_pte_private_frame(pte) % TDM_BLOCK_PAGES ||
		      !tdmi_dev_folio(tdmi_pte_pool(b->mm, pte), tdm_pte_private_frame(pte))->order))
		return false;
	for (u32 k = 1; k < TDM_BLOCK_PAGES; k++) {
		struct tdm_pte e = tdm_pt_get(b->pt, b->first + k);

		if (home ? !tdm_pte_home(e) : e.v != tdm_pte_mk_private(tdmi_pte_pool(b->mm, pte)->id, tdm_pte_private_frame(pte) + k).v)
			return false;
	}
	return true;
}

void tdmi_fault_set_lent(struct block *b, struct tdm_frame *folio, u32 mask, u64 zeroed)
{
	u64 pfn = tdm_frame_pfn(&b->mm->frames, folio).v;

	if (mask == 0xffff && alike(b)) {
		struct tdm_pte pte[TDM_BLOCK_PAGES];

		for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
			struct tdm_pte was = tdm_pt_get(b->pt, b->first + k);

			pte[k] = tdm_pte_mk((struct tdm_pfn){ pfn + k }, TDM_PTE_WRITE | TDM_PTE_ACCESSED | (tdm_pte_home(was) ? was.v & TDM_PTE_ZEROED : zeroed));
		}
		tdmi_pages_set(b->mm, b->pt, b->first, TDM_BLOCK_PAGES, pte);
		return;
	}
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		struct tdm_pte was = tdm_pt_get(b->pt, b->first + k);
		u64 z = tdm_pte_home(was) ? was.v & TDM_PTE_ZEROED : zeroed;

		if (mask >> k & 1)
			tdmi_page_set(b->mm, b->pt, b->first + k, tdm_pte_mk((struct tdm_pfn){ pfn + k }, TDM_PTE_WRITE | TDM_PTE_ACCESSED | z));
	}
}

/* ---- runs of pages --------------------------------------------------------------------------------------------------- */

/*
 * A run of pages may lie in two mappings, and the port deals with one at a time: what it refuses as a run is tried page by page. A page that is
 * refused by itself is skipped (its mapping is gone, or wants another way): it stays out of *done_mask, and *refused says so.
 */
struct run {
	u32 i, n;    /* pages of the block */
	bool single; /* this run goes page by page */
};

/* The next run of mask at or after *r; false: none. */
static bool run_next(struct run *r, u32 mask)
{
	u32 n;

	while (r->i < TDM_BLOCK_PAGES && !(mask >> r->i & 1)) {
		r->i++;
		r->single = false;
	}
	n = r->i < TDM_BLOCK_PAGES ? run_length(mask, r->i) : 0;
	r->n = r->single ? TDM_MIN(n, 1u) : n;
	return n != 0;
}

/* Go on behind the pages that are done; res is why the next one is not. The result for the caller: 0, or an error that ends it all. */
static int run_step(struct run *r, u32 done, int res, bool *refused)
{
	r->i += done;
	if (res == -ENOENT || res == -EINVAL || res == -EBUSY) {
		if (r->n > 1) {
			r->single = true;
		} else {
			*refused = *refused || res != -ENOENT;
			r->i++;
		}
		res = 0;
	}
	return res;
}

int tdmi_fault_copy(struct block *b, const u8 *src, u32 mask, u32 *done_mask)
{
	struct run run = { 0 };
	bool refused = false;
	int r = 0;

	while (!r && run_next(&run, mask)) {
		u32 done = 0, i = run.i;

		r = tdmi_fault_fill(b->ctx, FILL_COPY, block_va(b, i), src + ((size_t)i << TDM_PAGE_SHIFT), run.n, &done);
		*done_mask |= ((1u << done) - 1) << i;
		if (r == -EEXIST) {
			if (!dropping(b, i + done))
				*done_mask |= 1u << (i + done);
			done++;
			r = 0;
		}
		r = run_step(&run, done, r, &refused);
	}
	return r;
}

int tdmi_fault_move(struct block *b, struct tdm_frame *folio, u32 mask, u32 *done_mask)
{
	u8 *home = tdm_frame_home(&b->mm->frames, folio);
	struct run run = { 0 };
	bool refused = false;
	int r = 0;

	while (!r && run_next(&run, mask)) {
		u32 done = 0, i = run.i;

		r = tdmi_fault_fill(b->ctx, FILL_MOVE, block_va(b, i), home + ((size_t)i << TDM_PAGE_SHIFT), run.n, &done);
		if (r == -EEXIST) {
			tdmi_homes_stale(b->mm, folio, 1u << (i + done));
			done++;
			r = 0;
		}
		*done_mask |= ((1u << done) - 1) << i;
		r = run_step(&run, done, r, &refused);
	}
	return r ? r : refused ? -EINVAL : 0;
}

/* ---- bytes that have come from elsewhere ----------------------------------------------------------------------------- */

int tdmi_fault_place(struct block *b, struct tdm_frame *folio, const u8 *src, bool at_home, u32 mask, u32 *done)
{
	int r = -EINVAL;

	if (at_home) {
		/* What is not moved stays there, and nobody wants it. */
		tdmi_homes_wanted(b->mm, folio, mask);
		r = tdmi_fault_move(b, folio, mask, done);
		tdmi_homes_stale(b->mm, folio, mask & ~*done);
	}
	if (r == -EINVAL) {
		u32 copied = 0;

		r = tdmi_fault_copy(b, src, mask & ~*done, &copied);
		*done |= copied;
	}
	tdmi_fault_set_lent(b, folio, *done, 0);
	b->hard += (u32)__builtin_popcount(*done);
	return r;
}

/* The bytes of a page cannot be had. The program must find out, and not by reading something else. */
static int lose_page(struct block *b, u32 i)
{
	u32 done;
	int r = tdmi_fault_fill(b->ctx, FILL_POISON, block_va(b, i), NULL, 1, &done);

	if (r == -EAGAIN || r == -ENOMEM)
		return r;
	tdm_count(b->ctx, TDM_C_POISONED, 1);
	plat_log("a page could not be read back from its tier, or a device: the program gets SIGBUS where it touches it");
	tdmi_page_set(b->mm, b->pt, b->first + i, tdm_pte_mk_typed(TDM_PTE_T_POISON, 0));
	return 0;
}

int tdmi_fault_lose(struct block *b, u32 mask, u32 *lost)
{
	int r = 0;

	for (u32 i = 0; i < TDM_BLOCK_PAGES && !r; i++)
		if (mask >> i & 1) {
			r = lose_page(b, i);
			*lost |= r ? 0 : 1u << i;
		}
	return r;
}
