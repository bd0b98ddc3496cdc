/* SPDX-License-Identifier: MIT */
/*
 * iommu_impl.h - what iommu.c (PASIDs, translations), iommu_queue.c (invalidations), iommu_fault.c (page requests, stalls, who answers them) and iommu_dev.c
 * (devices and their transactions) share. Who may call what when is at the top of iommu.h.
 */
#ifndef TDM_PORT_IOMMU_IMPL_H
#define TDM_PORT_IOMMU_IMPL_H

#include "base/bitops.h"
#include "port/iommu.h"

enum tdm_inv_kind { TDM_INVQ_IOTLB, TDM_INVQ_ATC, TDM_INVQ_SYNC };

/* A command of the invalidation queue. */
struct tdm_inv_cmd {
	enum tdm_inv_kind kind;
	bool whole;          /* all of the PASID; else 2^order pages at va */
	u8 order;
	u32 dev, pasid;
	u64 va;
	u64 start, end;      /* what had changed: for counting */
	u64 at;              /* when it was written */
};

struct tdm_page_request {
	struct tdm_iommu_dev *dev;
	u32 pasid, group;
	u64 va;
	u64 at;              /* when it was posted */
	bool write, last;
	bool marker;         /* a stop marker */
};

/* An access that is held. Its tag: slot, and the lower half of seq. */
struct tdm_stall {
	struct tdm_dma *d;   /* NULL: free */
	u64 seq;             /* the order in which they came */
	u64 at;
};

static inline void tdm_iommu_add(struct tdm_iommu *it, enum tdm_iommu_count c, u64 n)
{
	it->count[c] += n;
}

static inline u64 *tdm_iommu_clock(struct tdm_iommu *it)
{
	return it->ops->clock ? it->ops->clock(it->arg) : &it->soft_clock;
}

/* The time is at least that. */
static inline void tdm_clock_reach(u64 *clock, u64 at)
{
	if (*clock < at)
		*clock = at;
}

static inline u64 tdm_dev_bit(const struct tdm_iommu_dev *dev)
{
	return (u64)1 << dev->id;
}

/* A translation is good for that access: a write needs D, too, as nobody would set it later. */
static inline bool tdm_pte_good_for(struct tdm_pte pte, bool write)
{
	u64 need = TDM_PTE_WRITE | TDM_PTE_DIRTY;

	return !write || (pte.v & need) == need;
}

/* ---- iommu.c */

/* NULL: it is not bound. */
struct tdm_pasid *tdmi_iommu_pasid(const struct tdm_iommu *it, u32 pasid);

struct tdm_xlat {
	struct tdm_pte pte;
	u32 shift;
	u8 *bytes;           /* of the leaf's first page */
};

/* For that device, which pays. 0; -EFAULT: the walk ended in a fault; -ESRCH: the PASID is not its own. */
int tdmi_iommu_translate(struct tdm_iommu_dev *dev, u32 pasid, u64 va, bool write, struct tdm_xlat *out);

/* ---- iommu_dev.c */

/* The transaction of that device, which it is working on, that has va; NULL: none. */
struct tdm_dma *tdmi_dma_find(const struct tdm_iommu_dev *dev, u32 pasid, u64 va);
/* What it wants of a translation. */
static inline bool tdm_dma_asks_write(const struct tdm_dma *d)
{
	return d->write || d->dev->config.asks_write;
}

/* The address of the page that a transaction is at. */
static inline u64 tdm_dma_page(const struct tdm_dma *d)
{
	return (d->va + d->bytes) & TDM_PAGE_MASK;
}
/* No transaction goes on with a translation of [start, end), end ~0: all, that it got before. How many did. */
u32 tdmi_dma_drop_held(struct tdm_iommu_dev *dev, u32 pasid, u64 start, u64 end);
/* The device stops using a PASID; what waits for responses or stalls goes on waiting, unless it leaves them behind. */
void tdmi_dma_stop(struct tdm_iommu_dev *dev, u32 pasid);
/* And now all of that PASID ends. */
void tdmi_dma_cancel(struct tdm_iommu_dev *dev, u32 pasid);

/* ---- iommu_fault.c */

/* -ENOMEM. */
int tdmi_iommu_faults_init(struct tdm_iommu *it);
void tdmi_iommu_faults_destroy(struct tdm_iommu *it);
/* Hold this access. false: no tag is free. */
bool tdmi_iommu_stall(struct tdm_dma *d);
/* Everything of a PASID is answered, or thrown away. */
void tdmi_iommu_drain(struct tdm_iommu *it, u32 pasid);
/* Requests of a device that goes: for PASIDs that were never its own. */
void tdmi_iommu_drain_dev(struct tdm_iommu_dev *dev);

/* ---- iommu_queue.c */

int tdmi_invq_init(struct tdm_iommu *it);
void tdmi_invq_destroy(struct tdm_iommu *it);

#endif
