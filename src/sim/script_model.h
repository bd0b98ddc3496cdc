/* SPDX-License-Identifier: MIT */
/*
 * script_model.h - what address spaces are to those who use them: bytes and rights. Nothing of page tables, pages, tiers or TLBs.
 *
 * Of each page two words are modelled; all else in it is zeros. A private page's are its own: fork copies them. Shared memory, and a driver's buffer, is an
 * object: whoever maps it sees its words. Memory that MADV_FREE was told of (lazy) reads as it was or as zeros, until it is written; once it has read as
 * zeros it does for good.
 */
#ifndef TDM_SIM_SCRIPT_MODEL_H
#define TDM_SIM_SCRIPT_MODEL_H

#include "sim/script.h"

#define TDM_MODEL_WORDS 2u
#define TDM_MODEL_ALL ((1u << TDM_MODEL_WORDS) - 1)
#define TDM_MODEL_OBJECTS 64u

struct tdm_cell {
	u64 word[TDM_MODEL_WORDS]; /* of a private page */
	u64 id;                    /* of a private page: another one once it has been mapped anew, or dropped. What is pinned is known by it */
	u32 map;                   /* which mapping it is part of: mremap() moves what is one */
	u16 object, index;         /* object 0: private */
	u8 rights;                 /* enum tdm_op_rights */
	bool mapped;
	u8 lazy;                   /* a bit a word: MADV_FREE was told of it, and it has not been written since */
	bool soft;                 /* private, and written since soft-dirty was cleared */
	bool used;                 /* it has been read or written */
};

struct tdm_model_object {
	bool buffer;               /* a driver's; else shared memory */
	u64 word[TDM_SCRIPT_BUFFER_PAGES][TDM_MODEL_WORDS];
};

struct tdm_model {
	u64 ids;
	u32 maps, nobjects;        /* given so far; object 0 is none */
	bool alive[TDM_SCRIPT_PROCESSES];
	struct tdm_cell cell[TDM_SCRIPT_PROCESSES][TDM_SCRIPT_PAGES];
	struct tdm_model_object object[TDM_MODEL_OBJECTS];
};

void tdmi_model_init(struct tdm_model *m);
/* A new object, of zeros. 0: there are TDM_MODEL_OBJECTS. */
u32 tdmi_model_object(struct tdm_model *m, bool buffer);
void tdmi_model_spawn(struct tdm_model *m, u32 p);
void tdmi_model_fork(struct tdm_model *m, u32 p, u32 child);
void tdmi_model_exit(struct tdm_model *m, u32 p);
/* Pages [page, page + n). object: and its pages from index on; 0: private, and zeros. */
void tdmi_model_mmap(struct tdm_model *m, u32 p, u32 page, u32 n, u32 rights, u32 object, u32 index);
void tdmi_model_munmap(struct tdm_model *m, u32 p, u32 page, u32 n);
/* How many are mapped, from the first on. */
u32 tdmi_model_mapped(const struct tdm_model *m, u32 p, u32 page, u32 n);
/* Are they all of one mapping, with the same rights? */
bool tdmi_model_is_one(const struct tdm_model *m, u32 p, u32 page, u32 n);
void tdmi_model_mprotect(struct tdm_model *m, u32 p, u32 page, u32 n, u32 rights);
void tdmi_model_mremap(struct tdm_model *m, u32 p, u32 from, u32 to, u32 n);
void tdmi_model_dontneed(struct tdm_model *m, u32 p, u32 page, u32 n);
void tdmi_model_free(struct tdm_model *m, u32 p, u32 page, u32 n);
void tdmi_model_clear_soft(struct tdm_model *m, u32 p, u32 page, u32 n);

static inline bool tdm_model_may(const struct tdm_model *m, u32 p, u32 page, bool write)
{
	const struct tdm_cell *c = &m->cell[p][page];

	return c->mapped && c->rights >= (write ? TDM_DO_RW : TDM_DO_R);
}

static inline u64 *tdm_model_words(struct tdm_model *m, struct tdm_cell *c)
{
	return c->object ? m->object[c->object].word[c->index] : c->word;
}

/* May this be what the page says? Then it is so. */
bool tdmi_model_reads(struct tdm_model *m, u32 p, u32 page, const u64 *got);
/* One of its words has been written. by_walk: through the page's entry, and not by a pin. */
void tdmi_model_writes(struct tdm_model *m, u32 p, u32 page, u32 word, u64 value, bool by_walk);

#endif
