/* SPDX-License-Identifier: MIT */
/*
 * mem.c - engine memory: one big reservation, carved up.
 *
 * A single mapping, so that the program's own limit on mappings is not used up, "is this ours?" is one comparison, and nothing of the
 * engine can be adopted by the engine. Free extents are kept in a sorted array; the engine maps few, large pieces (chunks of the
 * store, slabs of descriptors), so the array is short.
 *
 * Locking: map_lock guards the extents. Lock rank: a leaf.
 */
#include <linux/ioctl.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/mman.h>
#include "base/types.h"
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"

#define EXTENTS_MAX 8192u

struct extent {
	u64 start, end;
};

static struct {
	struct plat_mutex lock;
	u64 start, end;       /* written once */
	struct extent *free;  /* sorted, never adjacent; guarded by lock */
	u32 nfree;
	tdm_a64 mapped;
} mem;

int tdmi_linux_mem_init(void)
{
	/* Addresses cost nothing, but RLIMIT_AS may say otherwise: take what there is. */
	static const u64 sizes[] = { 1ull << 40, 1ull << 38, 1ull << 36, 1ull << 34, 1ull << 32 };
	u64 table = TDM_ALIGN_UP(EXTENTS_MAX * sizeof(struct extent), TDM_PAGE_SIZE);

	if (mem.start)
		return 0;
	for (u32 i = 0; i < TDM_ARRAY_SIZE(sizes); i++) {
		long p = tdm_sys6(SYS_mmap, 0, (long)sizes[i], PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p < 0 && p > -4096)
			continue;
		tdm_sys3(SYS_madvise, p, sizes[i], MADV_NOHUGEPAGE);
		tdm_sys3(SYS_madvise, p, sizes[i], MADV_DONTDUMP);
		mem.free = (struct extent *)p;
		mem.free[0] = (struct extent){ TDM_ALIGN_UP((u64)p + table, TDM_HUGE_SIZE), (u64)p + sizes[i] };
		mem.nfree = 1;
		mem.end = (u64)p + sizes[i];
		mem.start = (u64)p;
		return 0;
	}
	return -ENOMEM;
}

bool tdmi_linux_mem_own(u64 start, u64 end)
{
	return start < mem.end && end > mem.start;
}

void tdmi_linux_mem_range(u64 *start, u64 *end)
{
	*start = mem.start;
	*end = mem.end;
}

u64 tdmi_linux_mem_mapped(void)
{
	return tdm_a64_ld_relaxed(&mem.mapped);
}

static void extent_delete(u32 i)
{
	mem.nfree--;
	for (u32 j = i; j < mem.nfree; j++)
		mem.free[j] = mem.free[j + 1];
}

static bool extent_insert(u32 i, struct extent e)
{
	if (mem.nfree == EXTENTS_MAX)
		return false;
	for (u32 j = mem.nfree; j > i; j--)
		mem.free[j] = mem.free[j - 1];
	mem.free[i] = e;
	mem.nfree++;
	return true;
}

void *plat_map(size_t size)
{
	u64 align = size >= TDM_HUGE_SIZE ? TDM_HUGE_SIZE : TDM_PAGE_SIZE;
	u64 found = 0;

	size = TDM_ALIGN_UP(size, TDM_PAGE_SIZE);
	if (!size || tdmi_linux_mem_init())
		return NULL;
	plat_mutex_lock(&mem.lock);
	for (u32 i = 0; i < mem.nfree && !found; i++) {
		struct extent *e = &mem.free[i];
		u64 s = TDM_ALIGN_UP(e->start, align), end = e->end;

		if (s + size > end)
			continue;
		if (s == e->start && s + size == end) {
			extent_delete(i);
		} else if (s == e->start) {
			e->start = s + size;
		} else if (s + size == end) {
			e->end = s;
		} else {
			if (!extent_insert(i + 1, (struct extent){ s + size, end }))
				continue;
			mem.free[i].end = s;
		}
		found = s;
	}
	plat_mutex_unlock(&mem.lock);
	if (found)
		tdm_a64_add_relaxed(&mem.mapped, size);
	return (void *)(uintptr_t)found;
}

void plat_unmap(void *p, size_t size)
{
	u64 s = (u64)(uintptr_t)p, e;
	u32 i = 0;

	if (!p)
		return;
	size = TDM_ALIGN_UP(size, TDM_PAGE_SIZE);
	e = s + size;
	plat_discard(p, size);
	tdm_a64_sub_relaxed(&mem.mapped, size);
	plat_mutex_lock(&mem.lock);
	while (i < mem.nfree && mem.free[i].start < s)
		i++;
	if (i > 0 && mem.free[i - 1].end == s) {
		mem.free[i - 1].end = e;
		if (i < mem.nfree && mem.free[i].start == e) {
			mem.free[i - 1].end = mem.free[i].end;
			extent_delete(i);
		}
	} else if (i < mem.nfree && mem.free[i].start == e) {
		mem.free[i].start = s;
	} else {
		/* Out of extents: the addresses are lost, the memory is not. */
		(void)extent_insert(i, (struct extent){ s, e });
	}
	plat_mutex_unlock(&mem.lock);
}

void plat_discard(void *p, size_t size)
{
	tdm_sys3(SYS_madvise, p, size, MADV_DONTNEED);
}

/* ---- pages together with their bytes ------------------------------------------------------------------------------- */

static int fill_uffd = -1;

void tdmi_linux_mem_fill_by(int uffd)
{
	fill_uffd = uffd;
}

/* The pages from dst on, as far as they are new. Bytes done: none if there is a page already, or the kernel will not. */
static size_t copy_new(u64 dst, u64 src, size_t len)
{
	struct uffdio_copy c = { dst, src, len, UFFDIO_COPY_MODE_DONTWAKE, 0 };
	struct uffdio_register r = { .range = { TDM_ALIGN_DOWN(dst, TDM_HUGE_SIZE), TDM_HUGE_SIZE }, .mode = UFFDIO_REGISTER_MODE_WP };
	long e = tdm_sys3(SYS_ioctl, fill_uffd, UFFDIO_COPY, &c);

	/* Write-protection is never asked for: the mode is there because one is needed. */
	if (e == -ENOENT && !tdm_sys3(SYS_ioctl, fill_uffd, UFFDIO_REGISTER, &r)) {
		c.copy = 0;
		(void)tdm_sys3(SYS_ioctl, fill_uffd, UFFDIO_COPY, &c);
	}
	return c.copy > 0 ? (size_t)c.copy : 0;
}

void plat_copy_new(void *dst, const void *src, size_t len)
{
	u64 d = (u64)(uintptr_t)dst, s = (u64)(uintptr_t)src, end = d + len;

	while (d < end) {
		u64 stop = TDM_MIN(TDM_ALIGN_DOWN(d, TDM_PAGE_SIZE) + TDM_PAGE_SIZE, end), n = 0;

		if (d % TDM_PAGE_SIZE == 0 && fill_uffd >= 0)
			n = copy_new(d, s, TDM_MIN(TDM_ALIGN_UP(end, TDM_PAGE_SIZE), TDM_ALIGN_DOWN(d, TDM_HUGE_SIZE) + TDM_HUGE_SIZE) - d);
		if (!n) {
			n = stop - d;
			memcpy((void *)(uintptr_t)d, (const void *)(uintptr_t)s, n);
		}
		d += n;
		s += n;
	}
}
