/* SPDX-License-Identifier: MIT */
/*
 * snapshot.c - what the CPU has mapped, page by page, without a fault.
 *
 * Whether an entry may be written through cannot be seen from user space. Taken for writable is what would become so without a copy: a page of a writable
 * mapping that is shared, or that nobody else has mapped. That is wrong for a page that has been shared with the child of a fork until the child ended: the
 * kernel's entry stays read-only until the next write.
 */
#include <string.h>
#include "dmirror/device.h"
#include "plat/linux/sys.h"
#include "port/uapi.h"

#define BATCH 512u

static u8 describe(const struct tdm_mapping *m, u64 categories, u64 entry)
{
	u8 huge = m->page_size > TDM_HUGE_SIZE ? TDM_DMIRROR_PROT_PUD : TDM_DMIRROR_PROT_PMD, b;
	bool own = !(categories & TDM_PAGE_IS_FILE) && (entry & TDM_PAGEMAP_EXCLUSIVE);

	if (categories & TDM_PAGE_IS_PFNZERO)
		b = TDM_DMIRROR_PROT_ZERO | TDM_DMIRROR_PROT_READ;
	else
		b = m->writable && (m->shared || own) ? TDM_DMIRROR_PROT_WRITE : TDM_DMIRROR_PROT_READ;
	return categories & TDM_PAGE_IS_HUGE ? b | huge : b;
}

/* [start, end), of one mapping, to out. */
static int look(struct tdm_dmirror *d, const struct tdm_mapping *m, u64 start, u64 end, u8 *out)
{
	int fd = d->live->host.pagemap;
	struct tdm_page_region vec[64];
	u64 entry[BATCH], n = (end - start) >> TDM_PAGE_SHIFT;
	long r = tdm_sys4(SYS_pread64, fd, entry, n * sizeof(entry[0]), (start >> TDM_PAGE_SHIFT) * sizeof(entry[0]));

	if (r != (long)(n * sizeof(entry[0])))
		return r < 0 ? (int)r : -EFAULT;
	for (u64 at = start; at < end;) {
		struct tdm_pm_scan s = { .size = sizeof(s), .start = at, .end = end, .vec = (u64)(uintptr_t)vec,
					 .vec_len = TDM_ARRAY_SIZE(vec), .category_mask = TDM_PAGE_IS_PRESENT,
					 .return_mask = TDM_PAGE_IS_FILE | TDM_PAGE_IS_PFNZERO | TDM_PAGE_IS_HUGE };

		r = tdm_sys3(SYS_ioctl, fd, TDM_PAGEMAP_SCAN, &s);
		if (r < 0)
			return (int)r;
		for (long k = 0; k < r; k++)
			for (u64 va = vec[k].start; va < vec[k].end; va += TDM_PAGE_SIZE) {
				u64 i = (va - start) >> TDM_PAGE_SHIFT;

				out[i] = describe(m, vec[k].categories, entry[i]);
			}
		if (s.walk_end <= at)
			break;
		at = s.walk_end;
	}
	return 0;
}

/* At most a batch. */
static int snapshot(struct tdm_dmirror *d, u64 start, u64 end, u8 *out)
{
	struct tdm_mapping m;
	int r = 0;

	memset(out, TDM_DMIRROR_PROT_ERROR, (end - start) >> TDM_PAGE_SHIFT);
	for (u64 at = start; !r && at < end; at = m.end) {
		u64 s, e;

		r = tdmi_host_mapping(&d->live->host, at, &m);
		if (r)
			return r == -ENOENT ? 0 : r; /* nothing behind this */
		s = TDM_MAX(at, m.start);
		e = TDM_MIN(end, m.end);
		if (!m.readable || s >= e)
			continue;
		memset(out + ((s - start) >> TDM_PAGE_SHIFT), TDM_DMIRROR_PROT_NONE, (e - s) >> TDM_PAGE_SHIFT);
		r = look(d, &m, s, e, out + ((s - start) >> TDM_PAGE_SHIFT));
	}
	return r;
}

/* Is the table for va one folio of a device's, of 2 MiB, as a whole? */
static bool is_whole(struct tdm_ctx *ctx, u64 va)
{
	struct tdm_pt *pt;
	bool whole = false;

	tdmi_rcu_read_lock(ctx->rcu);
	if (!tdmi_pt_lock(&ctx->mm->pgt, va, false, &pt) && pt) {
		whole = !pt->level && tdmi_dev_whole(ctx->mm, tdm_pt_get(pt, 0));
		tdm_pt_unlock(pt);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	return whole;
}

/* What devices have of the batch, which the kernel does not know. A folio of 2 MiB that has migrated as one is what a driver's would be: mapped by one entry. */
static int overlay(struct tdm_dmirror *d, u64 start, u64 n, u8 *out)
{
	u64 entry[BATCH] = { 0 };
	struct tdm_range_fault rf = { .start = start, .end = start + (n << TDM_PAGE_SHIFT), .entry = entry, .owner = d->dev };
	bool whole[BATCH / TDM_HUGE_PAGES + 1];
	int r;

	tdm_device_enter_mm(d->w);
	r = tdmi_range_fault(d->w->ctx, &rf);
	for (u32 k = 0; k < TDM_ARRAY_SIZE(whole); k++)
		whole[k] = is_whole(d->w->ctx, start + k * TDM_HUGE_SIZE);
	tdmi_mm_exit(d->w->ctx);
	for (u64 i = 0; i < n && !r; i++) {
		u8 rights = entry[i] & TDM_RF_WRITE ? TDM_DMIRROR_PROT_WRITE : TDM_DMIRROR_PROT_READ;

		if (entry[i] & TDM_RF_DEVICE)
			out[i] = TDM_DMIRROR_PROT_PRIVATE_LOCAL | rights | (whole[(start % TDM_HUGE_SIZE + (i << TDM_PAGE_SHIFT)) / TDM_HUGE_SIZE] ? TDM_DMIRROR_PROT_PMD : 0);
		else if (entry[i] & TDM_RF_COHERENT)
			out[i] |= entry[i] & TDM_RF_FOREIGN ? TDM_DMIRROR_PROT_COHERENT_REMOTE : TDM_DMIRROR_PROT_COHERENT_LOCAL;
	}
	return r;
}

int tdmi_dmirror_snapshot(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u8 bytes[BATCH];
	int r = 0;

	while (!r && c->cpages < c->npages) {
		u64 n = TDM_MIN(c->npages - c->cpages, (u64)BATCH), start = c->addr + (c->cpages << TDM_PAGE_SHIFT);

		r = snapshot(d, start, start + (n << TDM_PAGE_SHIFT), bytes);
		r = r ? r : overlay(d, start, n, bytes);
		if (!r)
			r = tdmi_dmirror_store(d, c->ptr + c->cpages, bytes, n);
		c->cpages += n;
	}
	return r;
}
