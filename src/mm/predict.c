/* SPDX-License-Identifier: MIT */
/* predict.c - see predict.h. */
#include "mm/predict.h"
#include "mm/pgtable.h"

#define GUESS_EVERY 32u
#define GUESS_SELDOM 256u /* where it is known that nothing is used */
#define USED_MIN 32u /* of 256: those on probation are watched for a part of the time that they would be mapped for */
#define RECENT_MAX 4u /* of 32 blocks: faults at random meet one of them one time in eight */

void tdmi_predict_init(struct tdm_predict *p)
{
	plat_mutex_init(&p->lock, TDM_RANK_PREDICT);
	for (u32 i = 0; i < TDM_STREAMS; i++)
		p->stream[i] = (struct tdm_stream){ 0 };
	p->tick = 0;
	tdm_a32_st_relaxed(&p->base, TDM_BLOCK_ORDER * 16);
	for (u32 i = 0; i < TDM_PTE_DISTANCES; i++)
		tdm_a32_st_relaxed(&p->used[i], 256);
	tdm_a32_st_relaxed(&p->faults, 0);
}

u32 tdmi_predict_order(const struct tdm_predict *p)
{
	return (tdm_a32_ld_relaxed(&p->base) + 8) / 16;
}

/* The largest order at which enough of what is brought is used. */
static u32 worth(const struct tdm_predict *p)
{
	u32 order = 0;

	while (order < TDM_PTE_DISTANCES && tdm_a32_ld_relaxed(&p->used[order]) >= USED_MIN)
		order++;
	return order;
}

/* The stream that a fault at va goes on with: exactly its next page, or a little further (something else brought the page between). */
static struct tdm_stream *find(struct tdm_predict *p, u64 va)
{
	u64 slack = worth(p) == TDM_BLOCK_ORDER ? TDM_BLOCK_SIZE : 1;

	for (u32 k = 0; k < TDM_STREAMS; k++)
		if (p->stream[k].next && va - p->stream[k].next < slack)
			return &p->stream[k];
	return NULL;
}

static struct tdm_stream *replace(struct tdm_predict *p)
{
	struct tdm_stream *s = &p->stream[0];

	for (u32 k = 1; k < TDM_STREAMS; k++)
		if (p->stream[k].age < s->age)
			s = &p->stream[k];
	return s;
}

void tdmi_predict_guessed(struct tdm_predict *p, struct tdm_pte pte, bool used)
{
	tdm_a32 *a = &p->used[tdm_pte_distance(pte)];
	u32 was = tdm_a32_ld_relaxed(a);

	tdm_a32_st_relaxed(a, used ? was + (256 - was + 31) / 32 : was - (was + 31) / 32);
}

bool tdmi_predict_guess(struct tdm_predict *p)
{
	u32 n = tdm_a32_ld_relaxed(&p->faults);

	tdm_a32_st_relaxed(&p->faults, n + 1);
	return n % (worth(p) ? GUESS_EVERY : GUESS_SELDOM) == GUESS_EVERY - 1;
}

/* Order for a fault that continues nothing. */
static u32 unrelated(struct tdm_predict *p, struct tdm_pt *pt, u32 i)
{
	u32 bit = 1u << (i / TDM_BLOCK_PAGES), base = tdm_a32_ld_relaxed(&p->base);

	if (pt->recent & bit) {
		if (pt->order < TDM_BLOCK_ORDER)
			pt->order++;
	} else {
		if (pt->order)
			pt->order--;
		if (++pt->recent_count > RECENT_MAX) {
			pt->recent = 0;
			pt->recent_count = 0;
		}
		pt->recent |= bit;
	}
	tdm_a32_st_relaxed(&p->base, base - base / 16 + pt->order);
	return TDM_MIN(pt->order, worth(p));
}

bool tdmi_predict(struct tdm_predict *p, struct tdm_pt *pt, u32 i, u32 *lo, u32 *hi)
{
	u64 va = tdm_pt_va(pt, i);
	bool locked = plat_mutex_trylock(&p->lock);
	struct tdm_stream *s = locked ? find(p, va) : NULL;
	bool seq = s != NULL;
	u32 order;

	if (seq) {
		order = TDM_MIN(TDM_MAX(s->order + 2, TDM_BLOCK_ORDER), TDM_HUGE_ORDER);
		if (pt->order < TDM_BLOCK_ORDER)
			pt->order = TDM_BLOCK_ORDER;
		*lo = i;
		/* Up to the end of a block, so that the next step begins with one. */
		*hi = TDM_MIN((u32)TDM_ALIGN_UP(i + (1u << order), TDM_BLOCK_PAGES), TDM_PT_ENTRIES);
	} else {
		order = unrelated(p, pt, i);
		*lo = i & ~((1u << order) - 1);
		*hi = *lo + (1u << order);
	}
	if (locked) {
		if (!s)
			s = replace(p);
		*s = (struct tdm_stream){ tdm_pt_va(pt, 0) + ((u64)*hi << TDM_PAGE_SHIFT), order, ++p->tick };
		plat_mutex_unlock(&p->lock);
	}
	return seq;
}
