/* SPDX-License-Identifier: MIT */
/*
 * uapi.h - what Linux offers and Debian 12's headers (Linux 6.1) do not tell of yet. Numbers and layouts of the kernel's ABI.
 */
#ifndef TDM_PORT_UAPI_H
#define TDM_PORT_UAPI_H

#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include "base/types.h"

#define TDM_UFFD_FEATURE_MOVE ((u64)1 << 16)   /* Linux 6.8 */
#define TDM_UFFD_FEATURE_POISON ((u64)1 << 14) /* Linux 6.6 */

struct tdm_uffdio_move {
	u64 dst, src, len, mode;
	s64 move;
};
#define TDM_UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct tdm_uffdio_move)
#define TDM_UFFDIO_MOVE_DONTWAKE ((u64)1 << 0)
#define TDM_UFFDIO_MOVE_ALLOW_SRC_HOLES ((u64)1 << 1)

struct tdm_uffdio_poison {
	u64 start, len, mode;
	s64 updated;
};
#define TDM_UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct tdm_uffdio_poison)

/* /dev/userfaultfd: a userfaultfd for whoever may open the device. Linux 6.1. */
#define TDM_USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)

/* ioctl on /proc/self/pagemap. Linux 6.7. */
struct tdm_page_region {
	u64 start, end, categories;
};
struct tdm_pm_scan {
	u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define TDM_PAGEMAP_SCAN _IOWR('f', 16, struct tdm_pm_scan)
#define TDM_PAGE_IS_FILE    ((u64)1 << 2)
#define TDM_PAGE_IS_PRESENT ((u64)1 << 3)
#define TDM_PAGE_IS_PFNZERO ((u64)1 << 5)
#define TDM_PAGE_IS_HUGE    ((u64)1 << 6)

/* An entry of /proc/self/pagemap: nobody else has the page mapped. */
#define TDM_PAGEMAP_EXCLUSIVE ((u64)1 << 56)

/* ioctl on /proc/self/maps. Linux 6.11; before that the text is read. */
struct tdm_procmap_query {
	u64 size, query_flags, query_addr;
	u64 vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	u32 dev_major, dev_minor, vma_name_size, build_id_size;
	u64 vma_name_addr, build_id_addr;
};
#define TDM_PROCMAP_QUERY _IOWR('f', 17, struct tdm_procmap_query)
#define TDM_PROCMAP_READABLE ((u64)0x01)
#define TDM_PROCMAP_WRITABLE ((u64)0x02)
#define TDM_PROCMAP_EXECUTABLE ((u64)0x04)
#define TDM_PROCMAP_SHARED ((u64)0x08)
#define TDM_PROCMAP_COVERING_OR_NEXT ((u64)0x10)

#define TDM_MADV_POPULATE_READ 22
#define TDM_MADV_POPULATE_WRITE 23

#endif
