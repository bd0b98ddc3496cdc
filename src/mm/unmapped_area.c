/* SPDX-License-Identifier: MIT */
/* unmapped_area.c - see unmapped_area.h. */
#include "mm/unmapped_area.h"

#define PMD_BYTES ((u64)1 << 21)

/* Does a naturally aligned block of this size lie in [off, off + len)? */
static bool holds(const struct tdm_area *a, u64 size)
{
	u64 first = TDM_ALIGN_UP(a->off, size);

	return first >= a->off && first - a->off <= a->len && a->len - (first - a->off) >= size;
}

/* The largest leaf of the CPUs that is not above `limit` and that the mapping has room for. */
static u64 largest_leaf(const struct tdm_area *a, u64 limit)
{
	u64 sizes = a->huge | TDM_PAGE_SIZE;

	for (u32 shift = 47; shift > TDM_PAGE_SHIFT; shift--) {
		u64 size = (u64)1 << shift;

		if ((sizes & size) && size <= limit && holds(a, size))
			return size;
	}
	return TDM_PAGE_SIZE;
}

/*
 * The device says its page size D. Larger leaves than D cannot be counted on, so more alignment than D only costs addresses; nor is more than the largest leaf
 * of the CPUs of use. Between the CPUs' sizes D itself is taken: any alignment is legal there, and this one keeps a page of the device within one table.
 * It says nothing: by the size of the mapping, the largest leaf that it has room for; and what is smaller than a table's reach does not straddle two.
 */
u64 tdmi_area_align(const struct tdm_area *a, bool *absolute)
{
	u64 top = (u64)1 << (63 - (u32)__builtin_clzll(a->huge | TDM_PAGE_SIZE)), size;

	*absolute = false;
	if (a->order) {
		size = TDM_PAGE_SIZE << TDM_MIN(a->order, 35u);
		size = TDM_MIN(size, TDM_MAX(top, TDM_PAGE_SIZE));
		while (size > TDM_PAGE_SIZE && !holds(a, size))
			size >>= 1;
		return size;
	}
	size = largest_leaf(a, top);
	if (size > TDM_PAGE_SIZE || a->len > PMD_BYTES)
		return size;
	*absolute = true;
	for (size = TDM_PAGE_SIZE; size < a->len; size <<= 1)
		;
	return size;
}

/* The lowest va in a hole of [lo, hi) with va % size == want % size. */
static bool find(struct tdm_vmas *vmas, u64 lo, u64 hi, u64 len, u64 size, u64 want, u64 *va)
{
	for (;;) {
		u64 at = TDM_ALIGN_DOWN(lo, size) + (want & (size - 1));
		struct tdm_vma next;

		if (at < lo)
			at += size;
		if (at < lo || at > hi || hi - at < len)
			return false;
		if (!tdmi_vma_next(vmas, at, &next) || next.start >= at + len) {
			*va = at;
			return true;
		}
		lo = next.end;
	}
}

int tdmi_unmapped_area(struct tdm_vmas *vmas, const struct tdm_area *a, u64 *va)
{
	u64 lo = TDM_MAX(a->lo, TDM_VA_START), hi = a->hi ? TDM_MIN(a->hi, TDM_VA_END) : TDM_VA_END, size;
	bool absolute;

	if (!a->len || ((a->len | a->off) & ~TDM_PAGE_MASK) || a->off + a->len < a->off || lo >= hi)
		return -EINVAL;
	lo = TDM_ALIGN_UP(lo, TDM_PAGE_SIZE);
	for (size = tdmi_area_align(a, &absolute); size >= TDM_PAGE_SIZE; size = size > TDM_PAGE_SIZE ? largest_leaf(a, size - 1) : 0)
		if (find(vmas, lo, hi, a->len, size, absolute ? 0 : a->off, va))
			return 0;
	return -ENOMEM;
}
