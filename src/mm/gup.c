/* SPDX-License-Identifier: MIT */
/*
 * gup.c - pins; how they and those who take pages away agree is in gup.h.
 *
 * A page that is pinned to be written must be the process's own at that moment. Making it so happens outside of the mm, where a fork may come and share it again; looking
 * at the entry and counting the pin happens inside, where none can (it freezes the mm). So who comes back in asks whether the mm has been frozen meanwhile, makes
 * the pages his own again if it has, and pins without leaving in between. A fork that goes past libc freezes nothing, and is heard of afterwards: to who pins
 * it is one that came after the pin.
 */
#include "mm/gup.h"
#include "base/check.h"
#include "mm/mm.h"

#define TRIES_MAX 64u

/* A page in coherent memory is remembered by its pool and frame. */
#define COHERENT ((u64)1 << 63)

static struct tdm_pool *pool_of(struct tdm_mm *mm, struct tdm_pfn page)
{
	return page.v & COHERENT ? mm->pool[page.v >> 32 & 0xff] : NULL;
}

/* Where its pins are counted: for the block, or in coherent memory for the folio. */
static struct tdm_frame *counted_in(struct tdm_mm *mm, struct tdm_pfn page)
{
	return pool_of(mm, page) ? tdmi_dev_folio(pool_of(mm, page), (u32)page.v) : tdm_pfn_block(&mm->frames, page);
}

/* Take n pins of the block away. pool: or NULL: ram. */
static void put(struct tdm_mm *mm, struct tdm_pool *pool, struct tdm_frame *block, u32 n)
{
	u16 was = tdm_a16_sub_acqrel(&block->pins, (u16)n);

	TDM_BUG_ON((was & TDM_PINS_MASK) < n);
	plat_window();
	if (tdm_likely(!tdmi_pins_claim(block, (u16)(was - n))))
		return;
	if (pool)
		tdmi_dev_free(pool, block);
	else
		tdmi_block_free(mm, block);
}

/* n pins for the block. false: it is being taken, was freed, or has too many. */
static bool get(struct tdm_mm *mm, struct tdm_pool *pool, struct tdm_frame *block, u32 n)
{
	u16 was = tdm_a16_add_acqrel(&block->pins, (u16)n);

	if (tdm_likely(was < TDM_PINS_MAX))
		return true;
	put(mm, pool, block, n);
	return false;
}

/* Page i of the 512 of the leaf, which is of 2 MiB. */
static u32 pin_huge(struct tdm_mm *mm, struct tdm_pt *pmd, u32 entry, u32 i, u32 n, struct tdm_pfn *page)
{
	struct tdm_pte pte = tdm_pt_get(pmd, entry);
	u32 done = 0;

	n = TDM_MIN(n, TDM_HUGE_PAGES - i);
	while (done < n) {
		u64 pfn = tdm_pte_pfn(pte).v + i + done;
		struct tdm_frame *block = tdm_pfn_block(&mm->frames, (struct tdm_pfn){ pfn });
		u32 k = TDM_MIN(n - done, TDM_BLOCK_PAGES - (u32)(pfn % TDM_BLOCK_PAGES));

		plat_window();
		if (!tdm_pte_lent(pte) || (pte.v & TDM_PTE_SPECIAL) || !get(mm, NULL, block, k))
			break;
		plat_window();
		if (tdm_pt_get(pmd, entry).v != pte.v) {
			put(mm, NULL, block, k);
			break;
		}
		for (u32 end = done + k; done < end; done++)
			page[done].v = pfn++;
	}
	return done;
}

/* From entry i of a PTE table. */
static u32 pin_table(struct tdm_mm *mm, struct tdm_pt *pt, u32 i, u32 n, struct tdm_pfn *page)
{
	u32 done = 0;

	n = TDM_MIN(n, TDM_PT_ENTRIES - i);
	while (done < n) {
		u32 k = 0, same = 0, most = TDM_MIN(n - done, TDM_BLOCK_PAGES - (i + done) % TDM_BLOCK_PAGES);
		struct tdm_frame *block;
		struct tdm_pte pte[TDM_BLOCK_PAGES];

		for (; k < most; k++) {
			pte[k] = tdm_pt_get(pt, i + done + k);
			if (!tdm_pte_lent(pte[k]) || (pte[k].v & TDM_PTE_SPECIAL) || (tdm_pte_pfn(pte[k]).v ^ tdm_pte_pfn(pte[0]).v) >= TDM_BLOCK_PAGES)
				break;
		}
		block = k ? tdm_pfn_block(&mm->frames, tdm_pte_pfn(pte[0])) : NULL;
		plat_window();
		if (!k || !get(mm, NULL, block, k))
			break;
		plat_window();
		while (same < k && tdm_pt_get(pt, i + done + same).v == pte[same].v) {
			page[done + same] = tdm_pte_pfn(pte[same]);
			same++;
		}
		done += same;
		if (same < k)
			put(mm, NULL, block, k - same);
		if (same < most)
			break;
	}
	return done;
}

u32 tdmi_gup_fast(struct tdm_ctx *ctx, u64 va, u32 n, struct tdm_pfn *page)
{
	struct tdm_mm *mm = ctx->mm;
	u32 done = 0;

	tdmi_rcu_read_lock(ctx->rcu);
	while (done < n) {
		u64 at = va + ((u64)done << TDM_PAGE_SHIFT);
		u32 k = (u32)(at >> TDM_PAGE_SHIFT) & (TDM_PT_ENTRIES - 1), i, got = 0, want;
		struct tdm_pte pte;
		struct tdm_pt *pt = tdmi_pt_walk(&mm->pgt, at, &i, &pte);

		want = TDM_MIN(n - done, TDM_PT_ENTRIES - k);
		if (pt->level == 0)
			got = pin_table(mm, pt, i, want, page + done);
		else if (pt->level == 1)
			got = pin_huge(mm, pt, i, k, want, page + done);
		done += got;
		if (got < want)
			break;
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return done;
}

void tdmi_unpin(struct tdm_ctx *ctx, const struct tdm_pfn *page, u32 n)
{
	struct tdm_mm *mm = ctx->mm;

	for (u32 i = 0, k; i < n; i += k) {
		struct tdm_frame *block = counted_in(mm, page[i]);

		for (k = 1; i + k < n && counted_in(mm, page[i + k]) == block;)
			k++;
		put(mm, pool_of(mm, page[i]), block, k);
	}
}

/* ---- with what it takes to have it there ---------------------------------------------------------------------------------------- */

/* The mapping of va: may it be pinned like that? *end: of what is like it. */
static int check_mapping(struct tdm_ctx *ctx, u64 va, u32 flags, u64 *end)
{
	struct tdm_port *port = ctx->mm->port;
	struct tdm_port_mapping m;
	struct tdm_vma vma;
	bool managed;
	int r = port->ops->mapping(port, va, &m);

	if (r || m.start > va)
		return r && r != -ENOENT ? r : -EFAULT;
	if (!m.readable || ((flags & TDM_GUP_WRITE) && !m.writable))
		return -EFAULT;
	tdmi_rcu_read_lock(ctx->rcu);
	managed = tdmi_vma_find(&ctx->mm->vmas, va, &vma) && !(vma.flags & TDM_VMA_EXCLUDED);
	tdmi_rcu_read_unlock(ctx->rcu);
	*end = managed ? TDM_MIN(m.end, vma.end) : va;
	return managed ? 0 : -EOPNOTSUPP;
}

/*
 * Pin pages of [va, end) in coherent memory, from the first on, until one is not, or there is another table. What the pins are counted in depends on the frame's order,
 * which changes with the folio that it belongs to, and the entry of the next one can look the same: only the lock of the table keeps the folio what it is from the look at
 * the entry until the pin is counted. From then on the pin does: what is pinned is not freed. write: not if a fork may have shared it.
 */
static u32 pin_coherent(struct tdm_ctx *ctx, u64 va, u64 end, bool write, struct tdm_pfn *page)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_pt *pt;
	u32 n = 0;

	if (!tdm_a64_ld_relaxed(&mm->coherent))
		return 0;
	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&mm->pgt, va, false, &pt) && pt) {
		u32 i = tdm_pt_index(pt, va), most = pt->level ? 0 : TDM_MIN(TDM_PT_ENTRIES - i, (u32)TDM_MIN((end - va) >> TDM_PAGE_SHIFT, (u64)TDM_PT_ENTRIES));

		for (; n < most; n++) {
			struct tdm_pte pte = tdm_pt_get(pt, i + n);
			struct tdm_pool *p;
			struct tdm_frame *folio;

			if (!tdm_pte_is(pte, TDM_PTE_T_COHERENT) || (write && tdm_pte_coherent_shared(pte)))
				break;
			p = tdmi_pte_pool(mm, pte);
			folio = tdmi_dev_folio(p, tdm_pte_private_frame(pte));
			plat_window();
			if (!get(mm, p, folio, 1))
				break;
			page[n].v = COHERENT | (u64)p->id << 32 | tdm_pte_private_frame(pte);
		}
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return n;
}

int tdmi_make_own(struct tdm_ctx *ctx, u64 va, u64 end, u64 *own)
{
	struct tdm_mm *mm = ctx->mm;
	struct tdm_port *port = mm->port;
	u64 frozen = tdm_a64_ld_relaxed(&mm->frozen);
	int r;

	*own = va;
	tdmi_mm_exit(ctx);
	r = port->ops->unshare(port, (struct tdm_va){ va }, (u32)((end - va) >> TDM_PAGE_SHIFT));
	if (r && end - va > TDM_PAGE_SIZE) {
		/* One page must not keep the others. */
		end = va + TDM_PAGE_SIZE;
		r = port->ops->unshare(port, (struct tdm_va){ va }, 1);
	}
	while (!tdmi_mm_enter(ctx))
		plat_yield();
	if (r)
		return r;
	if (tdm_a64_ld_relaxed(&mm->frozen) != frozen)
		return -EAGAIN;
	tdmi_coherent_settle(ctx, va, end, true);
	*own = end;
	return 0;
}

static bool is_lost(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_pte pte;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	(void)tdmi_pt_walk(&ctx->mm->pgt, va, &i, &pte);
	tdmi_rcu_read_unlock(ctx->rcu);
	return tdm_pte_is(pte, TDM_PTE_T_POISON);
}

/* Pages [va, end) of one mapping; if they are to be written, of one 2 MiB of it. */
static int pin_mapping(struct tdm_ctx *ctx, u64 va, u64 end, u32 flags, struct tdm_pfn *page, u32 *done)
{
	bool write = flags & TDM_GUP_WRITE;
	u64 stop = write ? va : end, moved; /* up to there they may be pinned as they are */
	u32 tries = 0;
	int r = 0;

	while (va < end) {
		u32 k = va < stop ? tdmi_gup_fast(ctx, va, (u32)((stop - va) >> TDM_PAGE_SHIFT), page) : 0;

		if (!k && va < stop && !(flags & TDM_GUP_LONGTERM))
			k = pin_coherent(ctx, va, stop, write, page);
		else if (!k && tries && (flags & TDM_GUP_LONGTERM))
			r = tdmi_coherent_home(ctx, va, end, &moved);
		page += k;
		*done += k;
		va += (u64)k << TDM_PAGE_SHIFT;
		if (va == end)
			break;
		tries = k ? 0 : tries + 1;
		if (tries == TRIES_MAX)
			return r == -ENOMEM ? r : -EBUSY;
		if (is_lost(ctx, va))
			return -EFAULT;
		/* What is missing; and a copy of its own, of what it shares with a child, or of the page of zeros. */
		r = tdmi_fault_try(ctx, (struct tdm_va){ va }, write);
		if (write && !r)
			r = tdmi_make_own(ctx, va, end, &stop);
	}
	return 0;
}

int tdmi_pin(struct tdm_ctx *ctx, u64 va, u32 n, u32 flags, struct tdm_pfn *page, u32 *done)
{
	u64 end = va + ((u64)n << TDM_PAGE_SHIFT);

	*done = 0;
	if (!n || va & ~TDM_PAGE_MASK || va > end || end > (u64)1 << 47)
		return -EINVAL;
	while (va < end) {
		u64 stop;
		int r = check_mapping(ctx, va, flags, &stop);

		if (r)
			return r;
		stop = TDM_MIN(stop, flags & TDM_GUP_WRITE ? TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE) : end);
		r = pin_mapping(ctx, va, stop, flags, page + *done, done);
		if (r)
			return r;
		va = stop;
	}
	return 0;
}
