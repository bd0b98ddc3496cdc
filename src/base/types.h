/* SPDX-License-Identifier: MIT */
/*
 * types.h - the numbers that the whole tree speaks in.
 *
 * Addresses and frame numbers are one-member structs so that the compiler refuses to mix them. All ranges are half-open:
 * [start, start + len). A page is 4 KiB everywhere; a PTE table maps 2 MiB.
 */
#ifndef TDM_BASE_TYPES_H
#define TDM_BASE_TYPES_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define TDM_PAGE_SHIFT 12u
#define TDM_PAGE_SIZE ((size_t)1 << TDM_PAGE_SHIFT)
#define TDM_PAGE_MASK (~(u64)(TDM_PAGE_SIZE - 1))

/* The unit of aging: a 64 KiB block of addresses, backed by one folio of order 4. */
#define TDM_BLOCK_ORDER 4u
#define TDM_BLOCK_PAGES (1u << TDM_BLOCK_ORDER)
#define TDM_BLOCK_SIZE ((u64)TDM_BLOCK_PAGES << TDM_PAGE_SHIFT)

/* A PTE table's reach, a transparent huge page, the largest folio: 2 MiB. */
#define TDM_HUGE_ORDER 9u
#define TDM_HUGE_PAGES (1u << TDM_HUGE_ORDER)
#define TDM_HUGE_SIZE ((u64)TDM_HUGE_PAGES << TDM_PAGE_SHIFT)

/* A user virtual address, in bytes. */
struct tdm_va {
	u64 v;
};

/* A frame number: global, each pool owns a range of them. */
struct tdm_pfn {
	u64 v;
};

#define TDM_PFN_NONE ((struct tdm_pfn){ ~(u64)0 })

#define TDM_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define TDM_MIN(a, b) ((a) < (b) ? (a) : (b))
#define TDM_MAX(a, b) ((a) > (b) ? (a) : (b))
#define TDM_ALIGN_DOWN(x, a) ((x) & ~((u64)(a) - 1))
#define TDM_ALIGN_UP(x, a) (((x) + ((u64)(a) - 1)) & ~((u64)(a) - 1))
#define tdm_container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

#define tdm_likely(x) __builtin_expect(!!(x), 1)
#define tdm_unlikely(x) __builtin_expect(!!(x), 0)
#define TDM_MUST_CHECK __attribute__((warn_unused_result))

#endif
