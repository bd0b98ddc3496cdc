/* SPDX-License-Identifier: MIT */
/*
 * fault.c - a port has missed: bring the page, and those around it that will be wanted.
 *
 * A fault finds its PTE under the table's lock, and acts on what it says:
 *   none, removed   a first touch (or one after the program dropped the page): zeros
 *   home            a soft fault: the frame is lent again, by moving it, or by copying it where moving would disturb more than it saves
 *                   (a lone page, while other CPUs run the program), or must not be done (its bytes are being packed)
 *   out             a hard fault: unpack, and map
 *   private         copy it from the device's memory, and map
 *   exclusive       take it back from the device: then it is home
 *   lent            somebody else was faster
 * Pages are dealt with a block (64 KiB) at a time; the block that was asked for comes first, so that whoever waits for it can go on.
 *
 * What a device has leaves its page table before it comes back, and whoever must be told may sleep: so such a block is given up (-ESTALE), and tried again
 * within a round (notifier.h). Only a touch of such a page brings it, and those of its kind around it; never a guess. What went as one folio of 2 MiB comes as
 * one: home first, and from there like any other.
 *
 * The program changes its address space whenever it likes. What the port answers then (-EAGAIN) sends us back to the start with no lock held,
 * after the pending events have been taken in. An address that is gone (-ENOENT) needs nothing: its event will clear the entries.
 */
#include <string.h>
#include "base/check.h"
#include "base/fmt.h"
#include "mm/mm.h"

#define REFUSED_TRIES 64u
#define FAULT_TRIES 1000u
#define ASKED_TRIES 16u
#define FUTILE_NS ((u64)20000000)
#define STREAM_PAGES ((u64)256) /* at most; see stream_pages() */
#define LONE_MAX_NS 2500u /* what a copy of a lone page costs */
#define LONE_PROBE 64u
#define NO_GUESS TDM_BLOCK_PAGES
#define DEVICE_TRIES 4u
#define BATCH 32u /* blocks at once: see reclaim.c */

/* One block of a fault in progress. */
struct block {
	struct tdm_ctx *ctx;
	struct tdm_mm *mm;
	struct tdm_pt *pt;
	u32 first;   /* index of its first page in the PTE table */
	u64 va;
	bool write;  /* the access that missed is a write */
	u32 guess;   /* page of the block: it alone is mapped, and the rest is brought to see what is used; NO_GUESS: not now */
	bool device, exclusive; /* the page that was missed is in a device's memory; is one that a device has for itself */
	u32 missed;  /* which of the first block it is */
	bool asked;  /* nobody missed it: who asked is told what a tier cannot give, and the page stays there */
	u64 from, to; /* where there may be somebody to wake */
	u32 soft, hard, zero, refaults; /* pages brought */
};

/* ---- the port's fills, through the gate (mm.h) ---------------------------------------------------------------------- */

enum fill { FILL_MOVE, FILL_COPY, FILL_ZERO, FILL_POISON };

/* n pages at va from src: a slot to move, bytes to copy, or nothing. */
static int fill(struct tdm_ctx *ctx, enum fill how, u64 va, const void *src, u32 n, u32 *done)
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

/* Fills wake nobody: the program's thread would take the CPU from the one that serves it, which still holds the table, or has more to bring. Afterwards
 * whoever waits for a page of [from, to) is woken, also those who were only late. */
static void wake(struct tdm_mm *mm, u64 from, u64 to)
{
	mm->port->ops->wake(mm->port, (struct tdm_va){ from }, (u32)((to - from) >> TDM_PAGE_SHIFT));
}

/* ---- blocks ---------------------------------------------------------------------------------------------------------- */

static u32 run_length(u32 mask, u32 i)
{
	u32 n = 0;

	while (i + n < TDM_BLOCK_PAGES && (mask >> (i + n) & 1))
		n++;
	return n;
}

static u64 block_va(const struct block *b, u32 i)
{
	return b->va + ((u64)i << TDM_PAGE_SHIFT);
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

/* The pages of mask are mapped by the port now. zeroed: TDM_PTE_ZEROED, or 0; a page that comes from its home is what it was. */
static void set_lent_mask(struct block *b, struct tdm_frame *folio, u32 mask, u64 zeroed)
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

static bool dropping(const struct block *b, u32 i)
{
	return tdm_pte_is(tdm_pt_get(b->pt, b->first + i), TDM_PTE_T_REMOVED);
}

/*
 * Map copies of src (the block's pages at their offsets). *done_mask: pages that are mapped now. A page that the port has already is newer than
 * ours (it was restored while the table could not be written: see frozen.c), and counts as done. Unless its entry is REMOVED: then it is what the
 * program wants dropped, this fault is from before, and the page is not ours to take until it is gone (zap.c).
 */
static int copy_runs(struct block *b, const u8 *src, u32 mask, u32 *done_mask)
{
	struct run run = { 0 };
	bool refused = false;
	int r = 0;

	while (!r && run_next(&run, mask)) {
		u32 done = 0, i = run.i;

		r = fill(b->ctx, FILL_COPY, block_va(b, i), src + ((size_t)i << TDM_PAGE_SHIFT), run.n, &done);
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

/* Move the folio's homes of mask to the block. *done_mask as above; -EINVAL: some can only be copied. */
static int move_runs(struct block *b, struct tdm_frame *folio, u32 mask, u32 *done_mask)
{
	u8 *home = tdm_frame_home(&b->mm->frames, folio);
	struct run run = { 0 };
	bool refused = false;
	int r = 0;

	while (!r && run_next(&run, mask)) {
		u32 done = 0, i = run.i;

		r = fill(b->ctx, FILL_MOVE, block_va(b, i), home + ((size_t)i << TDM_PAGE_SHIFT), run.n, &done);
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

/*
 * A lone page is moved in half the time that a copy takes, unless another CPU runs a thread of the program, or of ours: its TLB must be flushed, which costs
 * several times as much. What the last such moves took tells. While that is too much one in LONE_PROBE is moved still, to see.
 */
static int move_lone(struct block *b, struct tdm_frame *folio, u32 mask, u32 *done_mask)
{
	struct tdm_ctx *ctx = b->ctx;
	u64 start, took;
	int r;

	if (ctx->lone_ns > LONE_MAX_NS && ++ctx->lone_copies % LONE_PROBE)
		return -EINVAL;
	start = plat_now_ns();
	r = move_runs(b, folio, mask, done_mask);
	took = TDM_MIN(plat_now_ns() - start, (u64)8 * LONE_MAX_NS);
	ctx->lone_ns += (u32)took / 32 - ctx->lone_ns / 32;
	return r;
}

static int bring_home(struct block *b, u32 mask)
{
	struct tdm_frame *folio = tdmi_block_folio(b->mm, b->pt, b->first);
	u32 moved = 0, copied = 0;
	int r = -EINVAL;

	if (!(folio->flags & TDM_FRAME_F_WRITEBACK))
		r = mask & (mask - 1) ? move_runs(b, folio, mask, &moved) : move_lone(b, folio, mask, &moved);
	if (r == -EINVAL)
		r = copy_runs(b, tdm_frame_home(&b->mm->frames, folio), mask & ~moved, &copied);
	set_lent_mask(b, folio, moved | copied, 0);
	tdmi_homes_stale(b->mm, folio, copied);
	b->soft += (u32)__builtin_popcount(moved | copied);
	if (moved | copied)
		tdmi_folio_touched(b->mm, b->pt, b->first, folio, TDM_LRU_TOUCHED);
	return r;
}

static void go_slow(struct tdm_ctx *ctx, bool begins)
{
	if (ctx->on_slow)
		ctx->on_slow(ctx, begins);
}

/* The bytes of a page cannot be had. The program must find out, and not by reading something else. */
static int lose_page(struct block *b, u32 i)
{
	u32 done;
	int r = fill(b->ctx, FILL_POISON, block_va(b, i), NULL, 1, &done);

	if (r == -EAGAIN || r == -ENOMEM)
		return r;
	tdm_count(b->ctx, TDM_C_POISONED, 1);
	plat_log("a page could not be read back from its tier, or a device: the program gets SIGBUS where it touches it");
	tdmi_page_set(b->mm, b->pt, b->first + i, tdm_pte_mk_typed(TDM_PTE_T_POISON, 0));
	return 0;
}

static int lose_pages(struct block *b, u32 mask, u32 *lost)
{
	int r = 0;

	for (u32 i = 0; i < TDM_BLOCK_PAGES && !r; i++)
		if (mask >> i & 1) {
			r = lose_page(b, i);
			*lost |= r ? 0 : 1u << i;
		}
	return r;
}

/* Map the pages of mask, whose bytes have come from somewhere to src: their homes, or anywhere else, at their offsets. *done: those that are mapped now. */
static int place(struct block *b, struct tdm_frame *folio, const u8 *src, bool at_home, u32 mask, u32 *done)
{
	int r = -EINVAL;

	if (at_home) {
		/* What is not moved stays there, and nobody wants it. */
		tdmi_homes_wanted(b->mm, folio, mask);
		r = move_runs(b, folio, mask, done);
		tdmi_homes_stale(b->mm, folio, mask & ~*done);
	}
	if (r == -EINVAL) {
		u32 copied = 0;

		r = copy_runs(b, src, mask & ~*done, &copied);
		*done |= copied;
	}
	set_lent_mask(b, folio, *done, 0);
	b->hard += (u32)__builtin_popcount(*done);
	return r;
}

/* The pages of mask, whose bytes are home now, stay there, to see whether they are used. */
static u32 set_guess(struct block *b, struct tdm_frame *folio, u32 mask)
{
	u64 pfn = tdm_frame_pfn(&b->mm->frames, folio).v;

	tdmi_homes_wanted(b->mm, folio, mask);
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (mask >> k & 1) {
			u64 distance = 31 - (u32)__builtin_clz(k ^ b->guess);

			tdmi_page_set(b->mm, b->pt, b->first + k, tdm_pte_mk((struct tdm_pfn){ pfn + k },
				      TDM_PTE_WRITE | TDM_PTE_GUESS | distance << TDM_PTE_DISTANCE_SHIFT));
		}
	if (mask)
		tdmi_lru_add_home(&b->mm->lru, folio);
	return mask;
}

/* The pages of one blob: mask in the block, blob_mask in the blob, dst by index in the blob. */
struct blob_part {
	u64 handle;
	u32 mask, blob_mask;
	u32 clock;
	void *dst[TDM_BLOCK_PAGES];
	u8 at[TDM_BLOCK_PAGES]; /* index in the block by index in the blob */
};

/* Has the whole block been restored from one blob, each page from its own place in it? Then it may be kept. */
static bool keep_blob(struct block *b, const struct blob_part *p, struct tdm_frame *folio, u32 done)
{
	bool all = done == 0xffff && p->blob_mask == 0xffff;

	for (u32 k = 0; all && k < TDM_BLOCK_PAGES; k++)
		all = p->at[k] == k;
	if (!all || !tdmi_swap_keep(b->mm->swap, p->handle))
		return false;
	tdmi_folio_keep(b->mm, folio, (u32)p->handle + 1);
	return true;
}

/* All swap entries of *mask that are in the same blob as the first one; they leave *mask. */
static void gather_blob(struct block *b, u32 *mask, struct blob_part *p)
{
	u32 first = (u32)__builtin_ctz(*mask);
	struct tdm_pte pte = tdm_pt_get(b->pt, b->first + first);

	*p = (struct blob_part){ .handle = tdm_pte_swap_handle(pte), .clock = tdm_pte_swap_clock(pte) };
	for (u32 i = first; i < TDM_BLOCK_PAGES; i++) {
		pte = tdm_pt_get(b->pt, b->first + i);
		if (!(*mask >> i & 1) || tdm_pte_swap_handle(pte) != p->handle)
			continue;
		p->mask |= 1u << i;
		p->blob_mask |= 1u << tdm_pte_swap_index(pte);
		p->at[tdm_pte_swap_index(pte)] = (u8)i;
		*mask &= ~(1u << i);
	}
}

static int bring_blob(struct block *b, struct blob_part *p)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_frame *folio;
	u32 done = 0, dropped = 0;
	bool warm, to_home, slow, guess;
	u8 *dst;
	int r;

	folio = tdmi_block_folio_get(mm, b->pt, b->first, p->mask == 0xffff, &warm);
	if (!folio)
		return -ENOMEM;
	/* A warm folio has its physical pages: unpack into them and move. Otherwise copying is cheaper than faulting pages in for it. */
	guess = b->guess != NO_GUESS && (p->mask >> b->guess & 1);
	to_home = guess || (warm && p->mask == 0xffff);
	dst = to_home ? tdm_frame_home(&mm->frames, folio) : b->ctx->bounce;
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (p->blob_mask >> k & 1)
			p->dst[k] = dst + ((size_t)p->at[k] << TDM_PAGE_SHIFT);
	slow = tdmi_swap_slow(mm->swap, p->handle);
	if (slow)
		go_slow(b->ctx, true);
	r = tdmi_swap_in(mm->swap, b->ctx->ws, p->handle, p->blob_mask, p->dst);
	if (slow)
		go_slow(b->ctx, false);
	if (r && guess)
		tdmi_homes_stale(mm, folio, p->mask);
	if (!b->asked && (r == -EIO || r == -EBADMSG)) {
		r = lose_pages(b, p->mask, &dropped);
	} else if (!r) {
		r = place(b, folio, dst, to_home, guess ? 1u << b->guess : p->mask, &done);
		dropped = done;
		if (guess && done)
			dropped |= set_guess(b, folio, p->mask & ~done);
		else if (guess)
			tdmi_homes_stale(mm, folio, p->mask & ~done);
		if (tdmi_lru_recent(&mm->lru, p->clock))
			b->refaults += (u32)__builtin_popcount(done);
	}
	if (dropped && !keep_blob(b, p, folio, done)) {
		u32 drop = 0;

		for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
			if ((p->blob_mask >> k & 1) && (dropped >> p->at[k] & 1))
				drop |= 1u << k;
		tdmi_swap_drop(mm->swap, p->handle, drop);
	}
	if (!folio->mapcount)
		tdmi_folio_release(mm, folio, 0);
	else if (done)
		tdmi_folio_touched(mm, b->pt, b->first, folio, b->refaults ? TDM_LRU_REFAULT : TDM_LRU_FAULTED);
	return r;
}

/*
 * Pages that a device has in its memory, to at[]. A copy that has failed may work the next time. Where nobody is there to be told, the page that was missed
 * must be had, and the others stay where they are if they cannot be had with it: *mask.
 */
static int read_device(struct block *b, const struct tdm_pte *pte, void **at, u32 *mask)
{
	int r = tdmi_dev_read(b->mm, pte, at, TDM_BLOCK_PAGES);

	for (u32 tries = 1; r && !b->asked && tries < DEVICE_TRIES; tries++) {
		*mask = tries > 1 ? 1u << b->missed : *mask;
		for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
			at[k] = *mask >> k & 1 ? at[k] : NULL;
		r = tdmi_dev_read(b->mm, pte, at, TDM_BLOCK_PAGES);
	}
	/* In here these mean: again, or there is nothing there. A device may mean what it likes. */
	return r == -EAGAIN || r == -ESTALE || r == -ENOENT ? -EIO : r;
}

static int bring_device(struct block *b, u32 mask)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_pte pte[TDM_BLOCK_PAGES];
	void *at[TDM_BLOCK_PAGES] = { NULL };
	struct tdm_frame *folio;
	u32 done = 0;
	bool warm, to_home, slow;
	u8 *dst;
	int r;

	folio = tdmi_block_folio_get(mm, b->pt, b->first, mask == 0xffff, &warm);
	if (!folio)
		return -ENOMEM;
	to_home = warm && mask == 0xffff;
	dst = to_home ? tdm_frame_home(&mm->frames, folio) : b->ctx->bounce;
	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		pte[k] = tdm_pt_get(b->pt, b->first + k);
		if (mask >> k & 1)
			at[k] = dst + ((size_t)k << TDM_PAGE_SHIFT);
	}
	slow = tdmi_pte_pool(mm, pte[__builtin_ctz(mask)])->ops->slow;
	if (slow)
		go_slow(b->ctx, true);
	r = read_device(b, pte, at, &mask);
	if (slow)
		go_slow(b->ctx, false);
	if (!r)
		r = place(b, folio, dst, to_home, mask, &done);
	else if (!b->asked)
		r = lose_pages(b, mask, &done);
	tdmi_dev_left_all(mm, pte, done);
	if (!folio->mapcount)
		tdmi_folio_release(mm, folio, 0);
	else if (done)
		tdmi_folio_touched(mm, b->pt, b->first, folio, TDM_LRU_FAULTED);
	return r;
}

/* Are all pages of the block a device's? */
static bool all_private(const struct block *b, u32 first)
{
	for (u32 k = first; k < first + TDM_BLOCK_PAGES; k++)
		if (!tdm_pte_is(tdm_pt_get(b->pt, k), TDM_PTE_T_PRIVATE))
			return false;
	return true;
}

/* The blocks have been read to their homes, which lie side by side: map them by one move. Those that are; what is not is where it was. */
static u32 place_many(struct block *b, struct tdm_frame *folio, u32 n, const struct tdm_pte *pte)
{
	struct tdm_mm *mm = b->mm;
	u32 done = 0;

	for (u32 i = 0; i < n; i++)
		tdmi_homes_wanted(mm, folio + i * TDM_BLOCK_PAGES, 0xffff);
	(void)fill(b->ctx, FILL_MOVE, b->va, tdm_frame_home(&mm->frames, folio), n * TDM_BLOCK_PAGES, &done);
	for (u32 i = 0; i < n; i++) {
		struct tdm_frame *f = folio + i * TDM_BLOCK_PAGES;
		u32 got = done > i * TDM_BLOCK_PAGES ? TDM_MIN(done - i * TDM_BLOCK_PAGES, TDM_BLOCK_PAGES) : 0, mask = (1u << got) - 1;
		struct block one = *b;

		one.first += i * TDM_BLOCK_PAGES;
		set_lent_mask(&one, f, mask, 0);
		tdmi_dev_left_all(mm, pte + i * TDM_BLOCK_PAGES, mask);
		tdmi_homes_stale(mm, f, 0xffff & ~mask);
		if (f->mapcount)
			tdmi_folio_touched(mm, b->pt, one.first, f, TDM_LRU_FAULTED);
		else
			tdmi_folio_release(mm, f, 0xffff);
	}
	b->hard += done;
	return done / TDM_BLOCK_PAGES;
}

/*
 * In a round: what a device has of several blocks in a row, for somebody who asks for all of it. If there are warm homes that lie side by side the bytes go there, and all is
 * mapped by one move. How many blocks; 0: each by itself.
 */
static u32 bring_device_many(struct block *b, u32 hi)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_pte pte[BATCH * TDM_BLOCK_PAGES];
	void *dst[BATCH * TDM_BLOCK_PAGES];
	const struct tdm_inv_range *round = b->ctx->round;
	struct tdm_frame *folio;
	u32 n = 0;

	while (round && n < BATCH && b->first + (n + 1) * TDM_BLOCK_PAGES <= hi && b->va >= round->start && b->va + (n + 1) * TDM_BLOCK_SIZE <= round->end && all_private(b, b->first + n * TDM_BLOCK_PAGES))
		n++;
	n = n > 1 ? tdmi_folios_take_warm_run(&mm->frames, n, &folio) : 0;
	for (u32 i = 0; i < n; i++) {
		folio[i * TDM_BLOCK_PAGES].va = b->va + i * TDM_BLOCK_SIZE;
		tdmi_homes_stale(mm, folio + i * TDM_BLOCK_PAGES, 0xffff);
	}
	for (u32 k = 0; k < n * TDM_BLOCK_PAGES; k++) {
		pte[k] = tdm_pt_get(b->pt, b->first + k);
		dst[k] = (u8 *)tdm_frame_home(&mm->frames, folio) + ((size_t)k << TDM_PAGE_SHIFT);
	}
	if (!n)
		return 0;
	if (!tdmi_dev_read(mm, pte, dst, n * TDM_BLOCK_PAGES))
		return place_many(b, folio, n, pte);
	for (u32 i = 0; i < n; i++)
		tdmi_folio_release(mm, folio + i * TDM_BLOCK_PAGES, 0xffff);
	return 0;
}

static int bring_zero(struct block *b, u32 mask)
{
	struct tdm_mm *mm = b->mm;
	struct tdm_frame *folio;
	u32 done = 0, n = 0;
	bool warm;
	int r;

	folio = tdmi_block_folio_get(mm, b->pt, b->first, false, &warm);
	if (!folio)
		return -ENOMEM;
	if (!b->write && __builtin_popcount(mask) == 1) {
		u32 i = (u32)__builtin_ctz(mask);

		r = fill(b->ctx, FILL_ZERO, block_va(b, i), NULL, 1, &n);
		if (r == -EEXIST) {
			n = !dropping(b, i);
			r = 0;
		}
		done = n ? mask : 0;
	} else {
		r = copy_runs(b, mm->zeros, mask, &done);
	}
	set_lent_mask(b, folio, done, TDM_PTE_ZEROED);
	b->zero += (u32)__builtin_popcount(done);
	if (!folio->mapcount)
		tdmi_folio_release(mm, folio, 0);
	else
		tdmi_folio_touched(mm, b->pt, b->first, folio, TDM_LRU_FAULTED);
	return r;
}

/* Does the round that we are in tell of this block? */
static bool told(struct block *b)
{
	const struct tdm_inv_range *round = b->ctx->round;

	b->ctx->needs_round = b->va;
	return round && round->start <= b->va && b->va + TDM_BLOCK_SIZE <= round->end;
}

/* The pages of mask, which a device has for itself, are home again. */
static void revoke(struct block *b, u32 mask)
{
	struct tdm_frame *folio = tdmi_block_folio(b->mm, b->pt, b->first);

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++)
		if (mask >> k & 1)
			tdmi_page_set(b->mm, b->pt, b->first + k,
				      tdm_pte_mk(tdm_pte_ram_pfn(tdm_pt_get(b->pt, b->first + k)), TDM_PTE_WRITE));
	tdmi_lru_add_home(&b->mm->lru, folio);
	tdm_count(b->ctx, TDM_C_REVOKED, (u64)__builtin_popcount(mask));
}

/* Bring the pages of mask of one block; those that were never touched only where zero_mask says so. */
static int bring_block(struct block *b, u32 mask, u32 zero_mask)
{
	u32 home = 0, out = 0, zero = 0, device = 0, exclusive = 0;
	int r = 0;

	for (u32 i = 0; i < TDM_BLOCK_PAGES; i++) {
		struct tdm_pte pte = tdm_pt_get(b->pt, b->first + i);

		if (!(mask >> i & 1))
			continue;
		if (tdm_pte_home(pte))
			home |= 1u << i;
		else if (tdm_pte_is(pte, TDM_PTE_T_SWAP))
			out |= 1u << i;
		else if (tdm_pte_is(pte, TDM_PTE_T_PRIVATE))
			device |= 1u << i;
		else if (tdm_pte_is(pte, TDM_PTE_T_EXCLUSIVE))
			exclusive |= 1u << i;
		else if (!tdm_pte_present(pte) && !tdm_pte_is(pte, TDM_PTE_T_POISON) && !tdm_pte_is(pte, TDM_PTE_T_COHERENT))
			zero |= 1u << i;
	}
	zero &= zero_mask;
	/* Who needs a page for himself is not to lose it because others use what lies next to it. */
	device = b->device || b->asked ? device : 0;
	exclusive = b->exclusive || b->asked ? exclusive : 0;
	b->ctx->needs_whole = device && !b->ctx->no_whole && tdmi_dev_whole(b->mm, tdm_pt_get(b->pt, b->first + (u32)__builtin_ctz(device)));
	if ((device | exclusive) && (!told(b) || b->ctx->needs_whole))
		return -ESTALE;
	if (exclusive)
		revoke(b, exclusive);
	home |= exclusive;
	if (home)
		r = bring_home(b, home);
	while (!r && out) {
		struct blob_part p;

		gather_blob(b, &out, &p);
		r = bring_blob(b, &p);
	}
	if (!r && device)
		r = bring_device(b, device);
	if (!r && zero)
		r = bring_zero(b, zero);
	return r;
}

static u32 mask_within(u32 lo, u32 hi, u32 first)
{
	u32 a = lo > first ? lo - first : 0, e = hi > first ? TDM_MIN(hi - first, TDM_BLOCK_PAGES) : 0;

	return a >= e ? 0 : (((1u << e) - 1) & ~((1u << a) - 1));
}

/* A 2 MiB leaf: all of it comes back at once. The PMD table is locked. */
static int bring_huge(struct tdm_ctx *ctx, struct tdm_pt *pmd, u32 i, u32 *soft)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pte pte = tdm_pt_get(pmd, i);
	struct tdm_frame *folio = tdm_pfn_frame(&mm->frames, tdm_pte_pfn(pte));
	struct tdm_pt *spare;
	u32 done = 0;
	int r;

	if (tdm_pte_lent(pte))
		return 0;
	if (folio->flags & TDM_FRAME_F_WRITEBACK) {
		/* It goes back where it came from, or somewhere else; it must not go while it is being copied. */
		tdmi_huge_want(mm, pmd, i);
		return -EAGAIN;
	}
	/* A part that is mapped cannot be told from the rest without. */
	spare = tdmi_pt_spare(mm, tdm_pt_va(pmd, i));
	if (!spare)
		return -ENOMEM;
	r = fill(ctx, FILL_MOVE, tdm_pt_va(pmd, i), tdm_frame_home(&mm->frames, folio), TDM_HUGE_PAGES, &done);
	if (done == TDM_HUGE_PAGES) {
		tdmi_page_set(mm, pmd, i, (struct tdm_pte){ (pte.v & ~TDM_PTE_WANTED) | TDM_PTE_ACCESSED });
		tdmi_lru_add(&mm->lru, folio, TDM_LRU_TOUCHED);
		*soft += done;
		r = 0;
	} else if (done || r != -EAGAIN) {
		r = -EAGAIN;
		/* A part has gone, or it must be copied: from here on it is 512 pages. Whoever holds it isolated needs our lock to go on. */
		if (tdmi_lru_isolate(&mm->lru, folio)) {
			(void)tdmi_huge_split(mm, pmd, i, done, spare);
			return r;
		}
	}
	tdmi_pt_spare_free(mm, spare);
	return r;
}

static void count_fault(struct block *b)
{
	struct tdm_ctx *ctx = b->ctx;

	if (b->hard)
		tdm_count(ctx, TDM_C_HARD_FAULTS, 1);
	else if (b->soft)
		tdm_count(ctx, TDM_C_SOFT_FAULTS, 1);
	else if (b->zero)
		tdm_count(ctx, TDM_C_ZERO_FAULTS, 1);
	else
		tdm_count(ctx, TDM_C_OTHER_FAULTS, 1);
	tdm_count(ctx, TDM_C_HARD_PAGES, b->hard);
	tdm_count(ctx, TDM_C_SOFT_PAGES, b->soft);
	tdm_count(ctx, TDM_C_ZERO_PAGES, b->zero);
	tdm_count(ctx, TDM_C_REFAULTS, b->refaults);
}

/*
 * Zeros that were given while the program was dropping the page (the drop is announced before it happens) go with what is dropped, and nobody misses
 * them. Anything else that vanishes is a loss: by a mistake of ours, or the kernel's.
 */
static void count_lost(struct block *b, u32 i, struct tdm_pte pte)
{
	bool zeros = pte.v & TDM_PTE_ZEROED;

	tdm_count(b->ctx, zeros ? TDM_C_LATE_DROPS : TDM_C_LOST, 1);
#if defined(TDM_DEBUG) || defined(TDM_WINDOWS)
	if (!zeros) {
		struct tdm_frame *folio = tdm_pfn_block(&b->mm->frames, tdm_pte_pfn(pte));
		char line[200];
		u32 state;

		plat_mutex_lock(&b->mm->lru.lock);
		state = folio->state;
		plat_mutex_unlock(&b->mm->lru.lock);
		tdmi_fmt(line, sizeof(line), "page %lx was lost: entry %lx, folio in state %u, flags %u, %u pages, stale %x", (unsigned long)tdm_pt_va(b->pt, i),
			 (unsigned long)pte.v, state, folio->flags, folio->mapcount, folio->stale);
		plat_log(line);
	}
#endif
}

/* A page that the table says is mapped was missed. Mostly a race that is over; if the port does not have it, it vanished behind our back. */
static int fault_lent(struct block *b, u32 i)
{
	struct tdm_pte pte = tdm_pt_get(b->pt, i);
	struct tdm_frame *folio;
	struct tdm_port *port = b->mm->port;
	u32 done = 0, k = i & (TDM_BLOCK_PAGES - 1);
	u64 present = 0;
	bool huge;
	int r;

	if (port->ops->present(port, (struct tdm_va){ tdm_pt_va(b->pt, i) }, 1, &present, &huge) || (present & 1))
		return 0;
	if (tdm_pte_is(pte, TDM_PTE_T_COHERENT)) {
		/* It has gone with its mapping, or was dropped: then there is nothing of it any more. */
		tdmi_page_set(b->mm, b->pt, i, (struct tdm_pte){ 0 });
		tdmi_dev_left(b->mm, pte);
		tdm_count(b->ctx, TDM_C_LOST, 1);
		return -EAGAIN;
	}
	folio = tdm_pfn_block(&b->mm->frames, tdm_pte_pfn(pte));
	/* A move to there or from there was not what it was said to be (port/host.c): the bytes are at home. */
	if (port->ops->holds && !(folio->stale >> k & 1) && port->ops->holds(port, tdm_frame_home(&b->mm->frames, folio + k))) {
		tdmi_page_set(b->mm, b->pt, i, (struct tdm_pte){ pte.v & ~TDM_PTE_ACCESSED });
		tdmi_lru_add_home(&b->mm->lru, folio);
		return -EAGAIN;
	}
	r = fill(b->ctx, FILL_COPY, tdm_pt_va(b->pt, i), b->mm->zeros, 1, &done);
	if (done)
		count_lost(b, i, pte);
	return r == -EEXIST ? 0 : r;
}

/* Missed before the range was excluded: the page is the port's alone. */
static int fault_excluded(struct block *b, u64 va)
{
	u32 done;
	int r = fill(b->ctx, FILL_COPY, va, b->mm->zeros, 1, &done);

	return r == -EAGAIN || r == -ENOMEM ? r : 0;
}

/* Is there room for a page? A warm folio is: who takes it needs no other page. For pages that came from the kernel warm folios are given back, so
 * who owes some for those that it has brought must not count on any. */
static bool room(const struct tdm_ctx *ctx, u64 limit)
{
	return tdmi_mm_usage(ctx->mm) <= limit || (!ctx->fresh && tdmi_frames_warm(&ctx->mm->frames));
}

/* So many pages may a stream bring with one fault while memory is short: what is brought must stay until it is reached. */
static u64 stream_pages(const struct tdm_mm *mm)
{
	return TDM_MIN((tdm_a64_ld_relaxed(&mm->limit_bytes) >> TDM_PAGE_SHIFT) / 512, STREAM_PAGES);
}

/* With the PTE table locked: the block of the fault first, then the rest of what is worth bringing. */
static int fault_locked(struct block *b, u64 va)
{
	u32 i = tdm_pt_index(b->pt, va), lo, hi, zero;
	struct tdm_pte pte = tdm_pt_get(b->pt, i);
	struct tdm_vma vma;
	u64 zero_end;
	bool seq;
	int r;

	if (tdm_pte_lent(pte) || tdm_pte_is(pte, TDM_PTE_T_COHERENT))
		return fault_lent(b, i);
	seq = tdmi_predict(&b->mm->predict, b->pt, i, &lo, &hi);
	/* Never touched pages next to a never touched one: only what lies in the same mapping, only in a stream, and only if the page before it is there:
	 * who touches every other page leaves holes, and they stay holes. */
	if (!tdmi_vma_find(b->mm, va, &vma))
		vma = (struct tdm_vma){ va, va + TDM_PAGE_SIZE, 0 };
	b->device = tdm_pte_is(pte, TDM_PTE_T_PRIVATE);
	b->exclusive = tdm_pte_is(pte, TDM_PTE_T_EXCLUSIVE);
	zero = !tdm_pte_present(pte) && !tdm_pte_is(pte, TDM_PTE_T_SWAP) && !b->device && !b->exclusive;
	if (zero && (vma.flags & TDM_VMA_EXCLUDED))
		return fault_excluded(b, va);
	zero_end = i && !tdm_pte_none(tdm_pt_get(b->pt, i - 1)) ? vma.end : va + TDM_PAGE_SIZE;
	b->first = i & ~(TDM_BLOCK_PAGES - 1);
	b->missed = i - b->first;
	b->va = b->from = tdm_pt_va(b->pt, b->first);
	if (tdm_pte_home(pte) && (pte.v & TDM_PTE_GUESS))
		tdmi_predict_guessed(&b->mm->predict, pte, true);
	if (!seq && tdm_pte_is(pte, TDM_PTE_T_SWAP) && tdmi_predict_guess(&b->mm->predict)) {
		b->guess = i & (TDM_BLOCK_PAGES - 1);
		lo = b->first;
		hi = lo + TDM_BLOCK_PAGES;
	}
	for (;;) {
		u32 mask = mask_within(lo, hi, b->first), zero_mask = 0;

		for (u32 k = 0; zero && k < TDM_BLOCK_PAGES; k++) {
			u64 a = b->va + ((u64)k << TDM_PAGE_SHIFT);

			if (a == va || (seq && a > va && a < zero_end && tdm_pte_none(tdm_pt_get(b->pt, b->first + k))))
				zero_mask |= 1u << k;
		}
		r = bring_block(b, mask, zero_mask);
		b->device = b->exclusive = false;
		b->first += TDM_BLOCK_PAGES;
		b->va += TDM_BLOCK_SIZE;
		b->to = b->va;
		if (r || b->first >= hi)
			return r;
		/* What is only a guess must not push something else out. A stream that has gone on for a while is none, for a few blocks. */
		if (seq && b->first < i + stream_pages(b->mm) ? !room(b->ctx, tdm_a64_ld_relaxed(&b->mm->limit_bytes)) :
							 tdmi_mm_usage(b->mm) > tdm_a64_ld_relaxed(&b->mm->high_bytes))
			return 0;
	}
}

static int fault_once(struct tdm_ctx *ctx, u64 va, bool write, struct block *b)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;
	int r;

	u32 before = b->soft + b->hard + b->zero;

	*b = (struct block){ .ctx = ctx, .mm = mm, .write = write, .guess = NO_GUESS, .from = va, .to = va + TDM_PAGE_SIZE,
			     .soft = b->soft, .hard = b->hard, .zero = b->zero, .refaults = b->refaults };
	tdmi_rcu_read_lock(ctx->rcu);
	r = tdmi_pt_lock(mm, va, true, &pt);
	if (!r) {
		b->pt = pt;
		if (pt->level) {
			b->from = va & ~(u64)(TDM_HUGE_SIZE - 1);
			b->to = b->from + TDM_HUGE_SIZE;
			r = bring_huge(ctx, pt, tdm_pt_index(pt, va), &b->soft);
		} else {
			r = fault_locked(b, va);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	if (!r || b->soft + b->hard + b->zero != before)
		wake(mm, b->from, b->to);
	return r;
}

/* In a round for [start, end), or the block that cannot be brought without; or for the 2 MiB that come back whole, and are home then, if that can be done. */
static void round_begin(struct tdm_ctx *ctx, struct tdm_inv_range *round, u64 start, u64 end)
{
	if (ctx->needs_whole) {
		start = TDM_ALIGN_DOWN(ctx->needs_round, TDM_HUGE_SIZE);
		end = start + TDM_HUGE_SIZE;
	}
	*round = TDM_INV_RANGE(TDM_MIN(start, ctx->needs_round), TDM_MAX(end, ctx->needs_round + TDM_BLOCK_SIZE), TDM_INV_CLEAR);
	(void)tdmi_invalidate_start(&ctx->mm->notifiers, round);
	ctx->round = round;
	ctx->no_whole = ctx->needs_whole;
	if (ctx->needs_whole)
		(void)tdmi_dev_whole_home(ctx, start, NULL);
}

static void round_end(struct tdm_ctx *ctx, struct tdm_inv_range *round)
{
	ctx->no_whole = false;
	ctx->round = NULL;
	tdmi_invalidate_end(&ctx->mm->notifiers, round);
}

static int fault_told(struct tdm_ctx *ctx, u64 va, bool write, struct block *b)
{
	struct tdm_inv_range round;
	int r = fault_once(ctx, va, write, b);

	if (r != -ESTALE)
		return r;
	round_begin(ctx, &round, ctx->needs_round, ctx->needs_round);
	r = fault_once(ctx, va, write, b);
	round_end(ctx, &round);
	return r == -ESTALE ? -EAGAIN : r;
}

static void drain_events(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;

	plat_mutex_lock(&mm->event_lock);
	mm->port->ops->drain(mm->port, ctx);
	plat_mutex_unlock(&mm->event_lock);
	plat_yield();
}

static void pay(struct tdm_ctx *ctx)
{
	while (ctx->fresh && tdmi_frames_warm(&ctx->mm->frames))
		ctx->fresh -= TDM_MIN(ctx->fresh, tdmi_trim(ctx));
}

/* The budget is exceeded: whoever wants a page makes room first. */
static void make_room(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;
	u64 limit = tdm_a64_ld_relaxed(&mm->limit_bytes), start;
	u32 empty = 0;

	if (tdm_likely(tdmi_mm_usage(mm) <= limit)) {
		ctx->fresh = 0;
		return;
	}
	pay(ctx);
	if (room(ctx, limit))
		return;
	start = plat_now_ns();
	if (start < tdm_a64_ld_relaxed(&mm->futile_until))
		return;
	tdm_count(ctx, TDM_C_STALLS, 1);
	go_slow(ctx, true);
	for (u32 tries = 0; tries < 64 && !room(ctx, limit); tries++, pay(ctx)) {
		if (tdmi_reclaim(ctx, limit, 2 * TDM_BLOCK_PAGES))
			tdm_count(ctx, TDM_C_DIRECT_RECLAIMS, 1);
		else if (tdm_a32_ld_relaxed(&mm->full) || ++empty == 4) {
			/* Nothing to be had: above the budget is better than not at all. */
			tdm_a64_st_relaxed(&mm->futile_until, plat_now_ns() + FUTILE_NS);
			break;
		} else {
			plat_yield();
		}
	}
	go_slow(ctx, false);
	tdm_count(ctx, TDM_C_STALL_NS, plat_now_ns() - start);
}

/* most: so often is it tried again where there is no memory, or no frame. -ENOMEM: not even then. */
static int serve(struct tdm_ctx *ctx, struct tdm_va va, bool write, u32 most)
{
	struct tdm_mm *mm = ctx->mm;
	struct block b = { 0 };
	u32 tries = 0, again = 0;
	int r;

	va.v &= TDM_PAGE_MASK;
	make_room(ctx);
	while ((r = fault_told(ctx, va.v, write, &b)) == -EAGAIN || r == -ENOMEM) {
		if (r == -ENOMEM) {
			if (++tries > most)
				break;
			tdmi_reclaim(ctx, 0, 4 * TDM_BLOCK_PAGES);
			plat_yield();
		} else {
			drain_events(ctx);
			if (++again % REFUSED_TRIES == 0 && mm->port->ops->refused)
				mm->port->ops->refused(mm->port, ctx, va);
		}
	}
	count_fault(&b);
	if (r)
		wake(mm, va.v, va.v + TDM_PAGE_SIZE);
	return r == -ENOMEM ? r : 0;
}

int tdmi_fault(struct tdm_ctx *ctx, struct tdm_va va, bool write)
{
	/* Whoever waits for it cannot be told. */
	if (serve(ctx, va, write, FAULT_TRIES))
		plat_abort("tandem: no memory to serve a fault\n");
	return 0;
}

int tdmi_fault_try(struct tdm_ctx *ctx, struct tdm_va va, bool write)
{
	return serve(ctx, va, write, ASKED_TRIES);
}

/* One PTE table's part of tdmi_bring(). */
static int bring_table(struct tdm_ctx *ctx, u64 va, u64 end)
{
	struct block b = { .ctx = ctx, .mm = ctx->mm, .guess = NO_GUESS, .asked = true };
	struct tdm_pt *pt;
	int r;

	tdmi_rcu_read_lock(ctx->rcu);
	r = tdmi_pt_lock(ctx->mm, va, false, &pt);
	if (!r && pt) {
		u32 lo = tdm_pt_index(pt, va), hi = end - pt->base >= TDM_HUGE_SIZE ? TDM_PT_ENTRIES : tdm_pt_index(pt, end);

		b.pt = pt;
		if (pt->level)
			r = bring_huge(ctx, pt, tdm_pt_index(pt, va), &b.soft);
		for (u32 f = lo & ~(TDM_BLOCK_PAGES - 1); !pt->level && !r && f < hi; f += TDM_BLOCK_PAGES) {
			u32 many;

			b.first = f;
			b.va = tdm_pt_va(pt, f);
			many = f >= lo ? bring_device_many(&b, hi) : 0;
			if (many)
				f += (many - 1) * TDM_BLOCK_PAGES;
			else
				r = bring_block(&b, mask_within(lo, hi, f), 0);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	if (b.soft + b.hard)
		wake(ctx->mm, va & ~(u64)(TDM_HUGE_SIZE - 1), end);
	tdm_count(ctx, TDM_C_HARD_PAGES, b.hard);
	tdm_count(ctx, TDM_C_SOFT_PAGES, b.soft);
	return r == -ENOENT ? 0 : r;
}

static int bring(struct tdm_ctx *ctx, u64 start, u64 end, bool locked)
{
	u64 va = start;

	while (va < end) {
		u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		int r = bring_table(ctx, va, stop);

		if (r == -ESTALE) {
			struct tdm_inv_range round;

			round_begin(ctx, &round, TDM_ALIGN_DOWN(va, TDM_BLOCK_SIZE), TDM_ALIGN_UP(stop, TDM_BLOCK_SIZE));
			r = bring_table(ctx, va, stop);
			round_end(ctx, &round);
			if (r == -ESTALE)
				continue;
		}
		if (r == -EAGAIN) {
			if (locked) {
				ctx->mm->port->ops->drain(ctx->mm->port, ctx);
				plat_yield();
			} else {
				drain_events(ctx);
			}
			continue;
		}
		if (r)
			return r;
		tdmi_rcu_read_lock(ctx->rcu);
		va = stop < end ? TDM_MAX(stop, tdmi_pt_next(ctx->mm, stop, end)) : end;
		tdmi_rcu_read_unlock(ctx->rcu);
	}
	return 0;
}

int tdmi_bring(struct tdm_ctx *ctx, u64 start, u64 end)
{
	return bring(ctx, start, end, false);
}

int tdmi_bring_locked(struct tdm_ctx *ctx, u64 start, u64 end)
{
	return bring(ctx, start, end, true);
}
