/* SPDX-License-Identifier: MIT */
/* cpu.c - a simulated CPU; see cpu.h. */
#include "port/cpu.h"
#include <string.h>
#include "base/bitops.h"
#include "base/check.h"

#define MAX_RETRIES 64u
#define VMA_FLAGS (TDM_CPU_VALID | TDM_CPU_RDONLY | TDM_CPU_NOACCESS)

static struct tdm_cpu *cpu_of(struct tdm_port *p)
{
	return tdm_container_of(p, struct tdm_cpu, port);
}

static u32 page_of(const struct tdm_cpu *c, u64 va)
{
	TDM_BUG_ON(va < c->base || (va - c->base) >> TDM_PAGE_SHIFT >= c->npages);
	return (u32)((va - c->base) >> TDM_PAGE_SHIFT);
}

static u8 *page_bytes(const struct tdm_cpu *c, u32 page)
{
	return c->bytes + ((size_t)page << TDM_PAGE_SHIFT);
}

static u32 frame_of(const struct tdm_cpu *c, const void *slot)
{
	size_t off = (size_t)((const u8 *)slot - c->arena);

	TDM_BUG_ON((const u8 *)slot < c->arena || off % TDM_PAGE_SIZE || off >> TDM_PAGE_SHIFT >= c->nframes);
	return (u32)(off >> TDM_PAGE_SHIFT);
}

static u8 *home_bytes(const struct tdm_cpu *c, u32 frame)
{
	return c->arena + ((size_t)frame << TDM_PAGE_SHIFT);
}

static bool all_zero(const u8 *p)
{
	return p[0] == 0 && !memcmp(p, p + 1, TDM_PAGE_SIZE - 1);
}

static bool holds_page(const struct tdm_cpu *c, u32 frame)
{
	return tdm_bitmap_test(c->populated, frame) || !all_zero(home_bytes(c, frame));
}

static void home_empty(struct tdm_cpu *c, u32 frame)
{
	tdm_bitmap_clear(c->populated, frame);
	memset(home_bytes(c, frame), 0, TDM_PAGE_SIZE);
}

/* Only small leaves around here from now on. */
static void break_huge(struct tdm_cpu *c, u32 page)
{
	u32 first = page & ~(TDM_HUGE_PAGES - 1);

	if (c->flags[page] & TDM_CPU_HUGE)
		for (u32 i = first; i < first + TDM_HUGE_PAGES; i++)
			c->flags[i] &= (u8)~TDM_CPU_HUGE;
}

static void page_drop(struct tdm_cpu *c, u32 page)
{
	break_huge(c, page);
	c->flags[page] &= (u8)~(TDM_CPU_PRESENT | TDM_CPU_POISON | TDM_CPU_PINNED | TDM_CPU_SHARED);
	memset(page_bytes(c, page), 0, TDM_PAGE_SIZE);
}

/* What can be said of a range before looking at its pages. */
static int range_check(struct tdm_cpu *c, u32 page, u32 n, u32 *done, bool move)
{
	*done = 0;
	TDM_BUG_ON(!n || n > TDM_HUGE_PAGES || page / TDM_HUGE_PAGES != (page + n - 1) / TDM_HUGE_PAGES);
	if (c->waking) {
		c->waking--;
		return -EAGAIN;
	}
	if (c->again) {
		c->again--;
		return -EAGAIN;
	}
	for (u32 i = page; i < page + n; i++)
		if (!(c->flags[i] & TDM_CPU_VALID) || (c->flags[i] & VMA_FLAGS) != (c->flags[page] & VMA_FLAGS))
			return -ENOENT; /* none, or two mappings */
	return move && (c->flags[page] & (TDM_CPU_RDONLY | TDM_CPU_NOACCESS)) ? -EINVAL : 0;
}

/* ---- the operations -------------------------------------------------------------------------------------------------- */

static int cpu_fill(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	struct tdm_cpu *c = cpu_of(p);
	u32 page = page_of(c, va.v), frame = frame_of(c, slot), moved = 0;
	int r = range_check(c, page, n, done, true);

	while (!r && *done < n) {
		u32 i = page + *done, f = frame + *done;

		if (c->flags[i] & (TDM_CPU_PRESENT | TDM_CPU_POISON))
			return -EEXIST;
		if (holds_page(c, f)) {
			memcpy(page_bytes(c, i), home_bytes(c, f), TDM_PAGE_SIZE);
			home_empty(c, f);
			c->flags[i] |= TDM_CPU_PRESENT;
			moved++;
			c->fills++;
		}
		(*done)++;
	}
	if (moved == TDM_HUGE_PAGES)
		for (u32 i = page; i < page + n; i++)
			c->flags[i] |= TDM_CPU_HUGE;
	return r;
}

/* src: NULL for zeros. count: of its kind. */
static int fill_from(struct tdm_cpu *c, struct tdm_va va, const u8 *src, u32 n, u32 *done, u64 *count)
{
	u32 page = page_of(c, va.v);
	int r = range_check(c, page, n, done, false);

	while (!r && *done < n) {
		u32 i = page + *done;

		if (c->flags[i] & (TDM_CPU_PRESENT | TDM_CPU_POISON))
			return -EEXIST;
		if (src)
			memcpy(page_bytes(c, i), src + ((size_t)*done << TDM_PAGE_SHIFT), TDM_PAGE_SIZE);
		c->flags[i] |= TDM_CPU_PRESENT;
		(*count)++;
		(*done)++;
	}
	return r;
}

static int cpu_fill_copy(struct tdm_port *p, struct tdm_va va, const void *src, u32 n, u32 *done)
{
	return fill_from(cpu_of(p), va, src, n, done, &cpu_of(p)->copies);
}

static int cpu_fill_zero(struct tdm_port *p, struct tdm_va va, u32 n, u32 *done)
{
	return fill_from(cpu_of(p), va, NULL, n, done, &cpu_of(p)->zeros);
}

static int cpu_fill_poison(struct tdm_port *p, struct tdm_va va, u32 n)
{
	struct tdm_cpu *c = cpu_of(p);
	u32 page = page_of(c, va.v), done;
	int r = range_check(c, page, n, &done, false);

	for (u32 i = page; !r && i < page + n; i++)
		c->flags[i] |= TDM_CPU_POISON;
	return r;
}

static int cpu_invalidate(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	struct tdm_cpu *c = cpu_of(p);
	u32 page = page_of(c, va.v), frame = frame_of(c, slot);
	int r = range_check(c, page, n, done, true);

	while (!r && *done < n) {
		u32 i = page + *done, f = frame + *done;

		if (holds_page(c, f)) {
			c->misplaced++;
			return -EEXIST;
		}
		if (c->flags[i] & TDM_CPU_PRESENT) {
			if (c->flags[i] & (TDM_CPU_PINNED | TDM_CPU_SHARED))
				return -EBUSY;
			memcpy(home_bytes(c, f), page_bytes(c, i), TDM_PAGE_SIZE);
			tdm_bitmap_set(c->populated, f);
			page_drop(c, i);
			c->invalidates++;
		}
		(*done)++;
	}
	return r;
}

static void cpu_wake(struct tdm_port *p, struct tdm_va va, u32 n)
{
	cpu_of(p)->wakes++;
}

static int cpu_present(struct tdm_port *p, struct tdm_va va, u32 n, u64 *present, bool *huge)
{
	struct tdm_cpu *c = cpu_of(p);
	u32 page = page_of(c, va.v), leaf = 0;

	for (u32 i = 0; i < n; i++) {
		if (c->flags[page + i] & TDM_CPU_PRESENT)
			present[i / 64] |= (u64)1 << (i % 64);
		leaf += (c->flags[page + i] & TDM_CPU_HUGE) != 0;
	}
	*huge = leaf == TDM_HUGE_PAGES;
	return 0;
}

static u64 cpu_next_present(struct tdm_port *p, u64 va, u64 end)
{
	struct tdm_cpu *c = cpu_of(p);

	while (va < end && !(c->flags[page_of(c, va)] & TDM_CPU_PRESENT))
		va += TDM_PAGE_SIZE;
	return va;
}

static int cpu_unshare(struct tdm_port *p, struct tdm_va va, u32 n)
{
	struct tdm_cpu *c = cpu_of(p);
	u32 page = page_of(c, va.v);

	for (u32 i = page; i < page + n; i++)
		if (!(c->flags[i] & TDM_CPU_VALID))
			return -ENOENT;
	for (u32 i = page; i < page + n; i++)
		c->flags[i] &= (u8)~TDM_CPU_SHARED;
	return 0;
}

static int touch(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 va, bool write);

static int cpu_populate(struct tdm_port *p, struct tdm_ctx *ctx, struct tdm_va va, u32 n, bool write)
{
	int r = 0;

	for (u32 i = 0; i < n && !r; i++)
		r = touch(cpu_of(p), ctx, va.v + ((u64)i << TDM_PAGE_SHIFT), write);
	return r == -ENOENT || r == -EIO || r == -EACCES ? -EFAULT : r;
}

static int cpu_mapping(struct tdm_port *p, u64 va, struct tdm_port_mapping *m)
{
	struct tdm_cpu *c = cpu_of(p);
	u32 page = va < c->base ? 0 : (u32)TDM_MIN((va - c->base) >> TDM_PAGE_SHIFT, (u64)c->npages), end;

	while (page < c->npages && !(c->flags[page] & TDM_CPU_VALID))
		page++;
	if (page == c->npages)
		return -ENOENT;
	for (end = page; end < c->npages && (c->flags[end] & VMA_FLAGS) == (c->flags[page] & VMA_FLAGS);)
		end++;
	while (page && (c->flags[page - 1] & VMA_FLAGS) == (c->flags[page] & VMA_FLAGS))
		page--;
	*m = (struct tdm_port_mapping){ .start = c->base + ((u64)page << TDM_PAGE_SHIFT), .end = c->base + ((u64)end << TDM_PAGE_SHIFT),
					.readable = !(c->flags[page] & TDM_CPU_NOACCESS),
					.writable = !(c->flags[page] & (TDM_CPU_NOACCESS | TDM_CPU_RDONLY)) };
	return 0;
}

static int cpu_access(struct tdm_port *p, struct tdm_ctx *ctx, u64 va, void *buf, size_t len, bool write, size_t *done)
{
	struct tdm_cpu *c = cpu_of(p);

	for (*done = 0; *done < len;) {
		size_t n = TDM_MIN(len - *done, TDM_PAGE_SIZE - ((va + *done) & ~TDM_PAGE_MASK));
		u8 *mem = c->bytes + (va + *done - c->base), *b = (u8 *)buf + *done;

		if (cpu_populate(p, ctx, (struct tdm_va){ va + *done }, 1, write))
			return -EFAULT;
		memcpy(write ? mem : b, write ? b : mem, n);
		*done += n;
	}
	return 0;
}

static void cpu_discard(struct tdm_port *p, void *const *slot, const u32 *pages, u32 n)
{
	struct tdm_cpu *c = cpu_of(p);

	for (u32 k = 0; k < n; k++)
		for (u32 i = 0; i < pages[k]; i++) {
			home_empty(c, frame_of(c, slot[k]) + i);
			c->discards++;
		}
}

static void cpu_drain(struct tdm_port *p, struct tdm_ctx *ctx)
{
	struct tdm_cpu *c = cpu_of(p);

	c->again = 0;
	c->drains++;
	if (c->on_drain)
		c->on_drain(c->drain_arg, ctx);
}

/* A page, whatever is written there: zeros, too. */
static void cpu_fresh_huge(struct tdm_port *p, void *slot)
{
	struct tdm_cpu *c = cpu_of(p);

	for (u32 i = 0; i < TDM_HUGE_PAGES; i++)
		tdm_bitmap_set(c->populated, frame_of(c, slot) + i);
}

static const struct tdm_port_ops cpu_ops = {
	.name = "cpu",
	.caps = { .shared_table = false, .access = TDM_AF_SOFTWARE, .page_sizes = TDM_PAGE_SIZE | TDM_HUGE_SIZE },
	.fill = cpu_fill,
	.fill_copy = cpu_fill_copy,
	.fill_zero = cpu_fill_zero,
	.fill_poison = cpu_fill_poison,
	.invalidate = cpu_invalidate,
	.wake = cpu_wake,
	.present = cpu_present,
	.next_present = cpu_next_present,
	.unshare = cpu_unshare,
	.populate = cpu_populate,
	.mapping = cpu_mapping,
	.access = cpu_access,
	.fresh_huge = cpu_fresh_huge,
	.discard = cpu_discard,
	.discard_many = cpu_discard,
	.drain = cpu_drain,
};

static size_t bitmap_bytes(u32 n)
{
	return (size_t)TDM_ALIGN_UP(TDM_BITMAP_WORDS((size_t)n) * sizeof(u64), TDM_PAGE_SIZE);
}

int tdmi_cpu_init(struct tdm_cpu *c, u64 base, u32 npages, u32 nframes)
{
	*c = (struct tdm_cpu){ .port = { &cpu_ops }, .base = base, .npages = npages, .nframes = nframes };
	c->bytes = plat_map((size_t)npages << TDM_PAGE_SHIFT);
	c->flags = plat_map((size_t)TDM_ALIGN_UP(npages, TDM_PAGE_SIZE));
	c->arena = plat_map((size_t)nframes << TDM_PAGE_SHIFT);
	c->populated = plat_map(bitmap_bytes(nframes));
	if (c->bytes && c->flags && c->arena && c->populated)
		return 0;
	tdmi_cpu_destroy(c);
	return -ENOMEM;
}

void tdmi_cpu_destroy(struct tdm_cpu *c)
{
	if (c->bytes)
		plat_unmap(c->bytes, (size_t)c->npages << TDM_PAGE_SHIFT);
	if (c->flags)
		plat_unmap(c->flags, (size_t)TDM_ALIGN_UP(c->npages, TDM_PAGE_SIZE));
	if (c->arena)
		plat_unmap(c->arena, (size_t)c->nframes << TDM_PAGE_SHIFT);
	if (c->populated)
		plat_unmap(c->populated, bitmap_bytes(c->nframes));
	*c = (struct tdm_cpu){ 0 };
}

u64 tdmi_cpu_populated(const struct tdm_cpu *c)
{
	u64 n = 0;

	for (u32 f = 0; f < c->nframes; f++)
		n += holds_page(c, f);
	return n;
}

/* ---- the program ------------------------------------------------------------------------------------------------------- */

/* Until the page is in the TLB. */
static int touch(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 va, bool write)
{
	u32 page = page_of(c, va);

	for (u32 tries = 0; tries < MAX_RETRIES; tries++) {
		int r;

		if (!(c->flags[page] & TDM_CPU_VALID))
			return -ENOENT;
		if (c->flags[page] & (write ? TDM_CPU_NOACCESS | TDM_CPU_RDONLY : TDM_CPU_NOACCESS))
			return -EACCES;
		if (c->flags[page] & TDM_CPU_POISON)
			return -EIO;
		if (c->flags[page] & TDM_CPU_PRESENT)
			return 0;
		if (!tdmi_mm_enter(ctx))
			return -EAGAIN;
		c->faults++;
		r = tdmi_fault(ctx, (struct tdm_va){ va }, write);
		tdmi_mm_exit(ctx);
		if (r)
			return r;
	}
	return -ETIMEDOUT;
}

int tdmi_cpu_read(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 va, void *buf, size_t len)
{
	int r = touch(c, ctx, va, false);

	TDM_BUG_ON((va & ~TDM_PAGE_MASK) + len > TDM_PAGE_SIZE);
	if (!r)
		memcpy(buf, c->bytes + (va - c->base), len);
	return r;
}

int tdmi_cpu_write(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 va, const void *buf, size_t len)
{
	int r = touch(c, ctx, va, true);

	TDM_BUG_ON((va & ~TDM_PAGE_MASK) + len > TDM_PAGE_SIZE);
	if (!r)
		memcpy(c->bytes + (va - c->base), buf, len);
	return r;
}

void tdmi_cpu_preset(struct tdm_cpu *c, u64 va, u32 n, u8 byte, bool huge)
{
	u32 page = page_of(c, va);

	TDM_BUG_ON(huge && (n != TDM_HUGE_PAGES || page % TDM_HUGE_PAGES));
	for (u32 i = page; i < page + n; i++) {
		c->flags[i] |= TDM_CPU_PRESENT | (huge ? TDM_CPU_HUGE : 0);
		memset(page_bytes(c, i), byte, TDM_PAGE_SIZE);
	}
}

/* ---- its kernel --------------------------------------------------------------------------------------------------------- */

int tdmi_cpu_mmap(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 start, u64 end, bool rdonly)
{
	int r;

	plat_mutex_lock(&ctx->mm->event_lock);
	r = tdmi_vma_insert(&ctx->mm->vmas, start, end, 0);
	plat_mutex_unlock(&ctx->mm->event_lock);
	for (u64 va = start; !r && va < end; va += TDM_PAGE_SIZE) {
		u8 *f = tdm_cpu_flags(c, va);

		*f = (u8)((*f & ~(TDM_CPU_RDONLY | TDM_CPU_NOACCESS)) | TDM_CPU_VALID | (rdonly ? TDM_CPU_RDONLY : 0));
	}
	return r;
}

void tdmi_cpu_mprotect(struct tdm_cpu *c, u64 start, u64 end, u8 flags)
{
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE) {
		u8 *f = tdm_cpu_flags(c, va);

		*f = (u8)((*f & ~(TDM_CPU_RDONLY | TDM_CPU_NOACCESS)) | flags);
	}
}

void tdmi_cpu_drop(struct tdm_cpu *c, u64 start, u64 end)
{
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE)
		page_drop(c, page_of(c, va));
}

void tdmi_cpu_munmap(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 start, u64 end)
{
	tdmi_cpu_drop(c, start, end);
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE)
		*tdm_cpu_flags(c, va) = 0;
	plat_mutex_lock(&ctx->mm->event_lock);
	tdmi_zap(ctx, start, end, TDM_ZAP_UNMAP);
	plat_mutex_unlock(&ctx->mm->event_lock);
}

void tdmi_cpu_dontneed(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 start, u64 end)
{
	plat_mutex_lock(&ctx->mm->event_lock);
	tdmi_zap(ctx, start, end, TDM_ZAP_REMOVE);
	plat_mutex_unlock(&ctx->mm->event_lock);
	tdmi_cpu_drop(c, start, end);
}

void tdmi_cpu_mremap(struct tdm_cpu *c, struct tdm_ctx *ctx, u64 from, u64 to, u64 len)
{
	bool leaf = from % TDM_HUGE_SIZE == to % TDM_HUGE_SIZE;

	/* What was at the new place is unmapped first. */
	tdmi_cpu_munmap(c, ctx, to, to + len);
	for (u64 off = 0; off < len; off += TDM_PAGE_SIZE) {
		u32 s = page_of(c, from + off), d = page_of(c, to + off);
		bool whole = leaf && len - off >= TDM_HUGE_SIZE && (from + off) % TDM_HUGE_SIZE == 0;

		if ((c->flags[s] & TDM_CPU_HUGE) && whole) {
			for (u32 i = 0; i < TDM_HUGE_PAGES; i++) {
				c->flags[d + i] = c->flags[s + i];
				c->flags[s + i] = 0;
			}
			memcpy(page_bytes(c, d), page_bytes(c, s), TDM_HUGE_SIZE);
			memset(page_bytes(c, s), 0, TDM_HUGE_SIZE);
			off += TDM_HUGE_SIZE - TDM_PAGE_SIZE;
			continue;
		}
		break_huge(c, s);
		c->flags[d] = c->flags[s];
		memcpy(page_bytes(c, d), page_bytes(c, s), TDM_PAGE_SIZE);
		page_drop(c, s);
		c->flags[s] = 0;
	}
	plat_mutex_lock(&ctx->mm->event_lock);
	tdmi_remap(ctx, from, to, len);
	tdmi_zap(ctx, from, from + len, TDM_ZAP_UNMAP);
	plat_mutex_unlock(&ctx->mm->event_lock);
}
