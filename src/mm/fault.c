/* SPDX-License-Identifier: MIT */
/*
 * fault.c - a port has missed: bring the page, and those around it that will be wanted.
 *
 * A fault finds its PTE under the table's lock, and acts on what it says:
 *   none, removed   a first touch (or one after the program dropped the page): zeros
 *   home            a soft fault: the frame is lent again, by moving it, or by copying it where moving would disturb more than it saves
 *                   (a lone page, while other CPUs run the program), or must not be done (its bytes are being packed)
 *   out             a hard fault: unpack, and map (swapin.c)
 *   private         copy it from the device's memory, and map, within a round (migrate_to_ram.c)
 *   exclusive       take it back from the device, within a round: then it is home
 *   lent            somebody else was faster
 * Pages are dealt with a block (64 KiB) at a time (fault_block.c); the block that was asked for comes first, so that whoever waits for it can go on.
 *
 * The program changes its address space whenever it likes. What the port answers then (-EAGAIN) sends us back to the start with no lock held,
 * after the pending events have been taken in. An address that is gone (-ENOENT) needs nothing: its event will clear the entries.
 */
#include "base/fmt.h"
#include "mm/fault_impl.h"

#define REFUSED_TRIES 64u
#define FAULT_TRIES 1000u
#define ASKED_TRIES 16u
#define FUTILE_NS ((u64)20000000)
#define STREAM_PAGES ((u64)256) /* at most; see stream_pages() */

/* ---- what has been done ---------------------------------------------------------------------------------------------- */

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

/* ---- what is there, or is not ours ----------------------------------------------------------------------------------- */

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
	r = tdmi_fault_fill(b->ctx, FILL_COPY, tdm_pt_va(b->pt, i), b->mm->zeros, 1, &done);
	if (done)
		count_lost(b, i, pte);
	return r == -EEXIST ? 0 : r;
}

/* Missed before the range was excluded: the page is the port's alone. */
static int fault_excluded(struct block *b, u64 va)
{
	u32 done;
	int r = tdmi_fault_fill(b->ctx, FILL_COPY, va, b->mm->zeros, 1, &done);

	return r == -EAGAIN || r == -ENOMEM ? r : 0;
}

/* ---- how much room there is ------------------------------------------------------------------------------------------ */

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

/* ---- the fault ------------------------------------------------------------------------------------------------------- */

/* The pages of the block that get zeros with the one at va, which was never touched: those after it in a stream, below end. */
static u32 zeros_with(const struct block *b, u64 va, u64 end, bool seq)
{
	u32 mask = 0;

	for (u32 k = 0; k < TDM_BLOCK_PAGES; k++) {
		u64 a = block_va(b, k);

		if (a == va || (seq && a > va && a < end && tdm_pte_none(tdm_pt_get(b->pt, b->first + k))))
			mask |= 1u << k;
	}
	return mask;
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
	if (!tdmi_vma_find(&b->mm->vmas, va, &vma))
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
		r = tdmi_fault_block(b, mask_within(lo, hi, b->first), zero ? zeros_with(b, va, zero_end, seq) : 0);
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
	r = tdmi_pt_lock(&mm->pgt, va, true, &pt);
	if (!r) {
		b->pt = pt;
		if (pt->level) {
			b->from = va & ~(u64)(TDM_HUGE_SIZE - 1);
			b->to = b->from + TDM_HUGE_SIZE;
			r = tdmi_fault_huge(ctx, pt, tdm_pt_index(pt, va), &b->soft);
		} else {
			r = fault_locked(b, va);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	if (!r || b->soft + b->hard + b->zero != before)
		tdmi_fault_wake(mm, b->from, b->to);
	return r;
}

static int fault_told(struct tdm_ctx *ctx, u64 va, bool write, struct block *b)
{
	struct tdm_inv_range round;
	int r = fault_once(ctx, va, write, b);

	if (r != -ESTALE)
		return r;
	tdmi_fault_round_begin(ctx, &round, ctx->needs_round, ctx->needs_round);
	r = fault_once(ctx, va, write, b);
	tdmi_fault_round_end(ctx, &round);
	return r == -ESTALE ? -EAGAIN : r;
}

void tdmi_fault_drain(struct tdm_ctx *ctx)
{
	struct tdm_mm *mm = ctx->mm;

	plat_mutex_lock(&mm->event_lock);
	mm->port->ops->drain(mm->port, ctx);
	plat_mutex_unlock(&mm->event_lock);
	plat_yield();
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
			tdmi_fault_drain(ctx);
			if (++again % REFUSED_TRIES == 0 && mm->port->ops->refused)
				mm->port->ops->refused(mm->port, ctx, va);
		}
	}
	count_fault(&b);
	if (r)
		tdmi_fault_wake(mm, va.v, va.v + TDM_PAGE_SIZE);
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
