/* SPDX-License-Identifier: MIT */
/* script_impl.h - for the files that carry scripts out: script_run.c, script_ops.c, script_access.c, script_driver.c, script_check.c. */
#ifndef TDM_SIM_SCRIPT_IMPL_H
#define TDM_SIM_SCRIPT_IMPL_H

#include "mm/pin.h"
#include "port/stage2.h"
#include "sim/machine.h"
#include "sim/script_model.h"

#define TDM_SCRIPT_MAPS 256u
#define TDM_SCRIPT_DMAS 16u

struct tdm_script_process {
	struct tdm_space *s;         /* NULL: it is not there */
	bool bound;                  /* process k has PASID k + 1 */
	bool has_guest;
	u32 guest_page, guest_pages; /* that are its memory */
	struct tdm_stage2 guest;
	struct tdm_vcpu vcpu;
};

struct tdm_script_shared {
	struct tdm_shm *shm;         /* or NULL */
	u32 object;                  /* of the model */
};

/* A driver's memory without pages. It has two places, and lies in one; they are not aligned alike. */
struct tdm_script_buffer {
	struct tdm_script *x;
	u32 object;
	u64 place[2];                /* pfns */
	u32 at;
	u64 prefault;                /* pages that a fault maps at most; 0: as many as it can */
	bool filled;                 /* when it is mapped; and faults of odd pages ask for one leaf, by its size */
	u32 nmaps;
	struct tdm_map *map[TDM_SCRIPT_MAPS];
};

struct tdm_script_pin {
	bool held;
	bool write;
	u32 p, page;                 /* where it was pinned, or mremap() has carried it */
	u32 object, index;           /* of shared memory; else: */
	u64 id;                      /* of the private page */
	struct tdm_pfn pfn;
};

/* What has been found of a page: script_check.c. */
struct tdm_script_count {
	u64 names;                   /* a sum of hashes of the entries that name it */
	u32 maps, refs, pins;
	bool object;                 /* one of them is an object's: mm/shm.h */
};

struct tdm_script {
	struct tdm_machine *m;
	const struct tdm_scenario *sc;
	struct tdm_model model;
	struct tdm_script_process process[TDM_SCRIPT_PROCESSES];
	struct tdm_script_shared shared[TDM_SCRIPT_SHARED];
	struct tdm_script_buffer buffer[TDM_SCRIPT_BUFFERS];
	struct tdm_script_pin pin[TDM_SCRIPT_PINS];
	u32 coherent;                /* ranges of memory; 0: there is none */
	u32 vram;
	struct tdm_pfn *hog;         /* pages of ram that nobody else can have; as many as there are */
	u32 nhogs;
	tdm_a32 fail[TDM_DO_FAIL_NR]; /* the n-th from now on fails; 0: none does */
	bool armed[TDM_DO_FAIL_NR];  /* when the operation began */
	struct tdm_dma dma[TDM_SCRIPT_DMAS];
	u8 dma_buf[TDM_SCRIPT_DMAS * TDM_PAGE_SIZE];
	struct tdm_script_count *count; /* one for each page of ram, and of coherent memory */
	const char *used_free;       /* who had a translation of a page when it was freed; NULL: nobody */
	u64 alloc_used;              /* by the world, before anything was done */
	const struct tdm_op *op;
	char *err;
};

/* Where the words of a page are. */
static inline u32 tdm_script_word(u32 w)
{
	return w ? 4072 : 16;
}

static inline u64 tdm_script_va(u32 page)
{
	return TDM_SCRIPT_BASE + ((u64)page << TDM_PAGE_SHIFT);
}

static inline uintptr_t tdm_script_rights(u32 rights)
{
	return (rights >= TDM_DO_R ? TDM_V_READ : 0) | (rights == TDM_DO_RW ? TDM_V_WRITE : 0);
}

/* ---- script_run.c */
/* Say where the two disagree. 1. */
int tdmi_script_differs(struct tdm_script *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Has a failure of this kind happened in this operation? */
bool tdmi_script_failed(const struct tdm_script *x, enum tdm_op_fail kind);
/* May an operation that is allowed say this: was it told to fail, or is there no memory? */
bool tdmi_script_excused(const struct tdm_script *x, int r);

/* ---- script_ops.c, script_access.c: each carries out x->op, on the machine and on the model. 0; 1: they differ. */
int tdmi_script_change(struct tdm_script *x);
int tdmi_script_access(struct tdm_script *x);
/* Process p is no more. */
void tdmi_script_exit(struct tdm_script *x, u32 p);
void tdmi_script_unbind(struct tdm_script *x, u32 p);
void tdmi_script_guest_end(struct tdm_script *x, u32 p);
void tdmi_script_unpin(struct tdm_script *x, u32 i);
/* Read that page by CPU 0, and compare. */
int tdmi_script_look(struct tdm_script *x, u32 p, u32 page);

/* ---- script_driver.c */
void tdmi_script_buffer_init(struct tdm_script *x, u32 b);
int tdmi_script_buffer_mmap(struct tdm_script *x, u32 b, struct tdm_space *s, u64 start, u64 len, uintptr_t rights, u64 off);
/* What has just been mapped is filled, if the buffer is of that kind. 0, or what tdmi_remap_range() says. */
int tdmi_script_buffer_fill(struct tdm_script *x, u32 b, uintptr_t rights);
/* Map n pages of it at va, whose page in the buffer is `index`, by one call. */
int tdmi_script_buffer_insert(struct tdm_script *x, u32 b, struct tdm_space *s, u64 va, u32 index, u32 n, bool write);
/* It goes to its other place. */
void tdmi_script_buffer_move(struct tdm_script *x, u32 b);
/* A tier that fails when it is told to; the other one is its own from here on. -ENOMEM. */
int tdmi_script_tier(void *script, struct tdm_tier **tier);

/* ---- script_check.c: all that must hold when nothing is under way. 0, or 1. */
int tdmi_script_check(struct tdm_script *x);
/* For struct tdm_phys, freed. */
void tdmi_script_freed(void *script, struct tdm_pfn pfn);

#endif
