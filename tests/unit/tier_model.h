/* SPDX-License-Identifier: MIT */
/* tier_model.h - a tier and what must be in it. */
#ifndef TDM_TESTS_TIER_MODEL_H
#define TDM_TESTS_TIER_MODEL_H

#include <string.h>
#include "pool/codec.h"
#include "pool/tier.h"
#include "runner/t.h"

#define MODEL_BLOBS 600u

struct model {
	struct tdm_tier *t;
	u64 rng;
	u64 handle[MODEL_BLOBS], seed[MODEL_BLOBS];
	u32 len[MODEL_BLOBS]; /* 0: none */
	u64 bytes;
};

static u8 model_buf[TDM_ALIGN_UP(TDM_BLOB_MAX, 4096)] __attribute__((aligned(4096)));

static inline void model_fill(u8 *p, u32 len, u64 seed)
{
	for (u32 i = 0; i + 8 <= len; i += 8) {
		u64 w = (seed + i) * 0x9e3779b97f4a7c15u;

		memcpy(p + i, &w, 8);
	}
	for (u32 i = len & ~7u; i < len; i++)
		p[i] = (u8)(seed + i);
}

static inline bool model_right(const u8 *p, u32 len, u64 seed)
{
	for (u32 i = 0; i + 8 <= len; i += 8) {
		u64 w;

		memcpy(&w, p + i, 8);
		if (w != (seed + i) * 0x9e3779b97f4a7c15u)
			return false;
	}
	for (u32 i = len & ~7u; i < len; i++)
		if (p[i] != (u8)(seed + i))
			return false;
	return true;
}

static inline int model_put(struct model *m, u32 i)
{
	static u8 blob[TDM_BLOB_MAX];
	u64 r = t_rand(&m->rng);
	u32 len = r % 8 == 0 ? TDM_BLOB_MAX - (u32)(r >> 8) % 100 : r % 8 < 4 ? 1 + (u32)(r >> 8) % 4097 : 1000 + (u32)(r >> 8) % 30000;
	int e;

	m->seed[i] = t_rand(&m->rng);
	model_fill(blob, len, m->seed[i]);
	e = m->t->ops->put(m->t, blob, len, &m->handle[i]);
	if (!e) {
		m->len[i] = len;
		m->bytes += len;
	}
	return e;
}

/* 0: it came, and is right. */
static inline int model_get(struct model *m, u32 i)
{
	const void *p;
	int e = m->t->ops->get(m->t, m->handle[i], m->len[i], model_buf, &p);

	if (e)
		return e;
	CHECK(model_right(p, m->len[i], m->seed[i]));
	m->t->ops->release(m->t, m->handle[i]);
	return 0;
}

static inline void model_drop(struct model *m, u32 i)
{
	m->t->ops->drop(m->t, m->handle[i], m->len[i]);
	m->bytes -= m->len[i];
	m->len[i] = 0;
}

static inline struct tdm_tier_stats model_stats(const struct model *m)
{
	struct tdm_tier_stats st;

	m->t->ops->stats(m->t, &st);
	CHECK_EQ(st.bytes, m->bytes);
	return st;
}

static inline void model_check_all(struct model *m)
{
	for (u32 i = 0; i < MODEL_BLOBS; i++)
		if (m->len[i])
			CHECK_EQ(model_get(m, i), 0);
}

static inline void model_drop_all(struct model *m)
{
	for (u32 i = 0; i < MODEL_BLOBS; i++)
		if (m->len[i])
			model_drop(m, i);
}

static inline void model_churn(struct model *m, u32 rounds)
{
	for (u32 k = 0; k < rounds; k++) {
		u32 i = (u32)(t_rand(&m->rng) % MODEL_BLOBS);

		if (!m->len[i]) {
			CHECK_EQ(model_put(m, i), 0);
		} else {
			CHECK_EQ(model_get(m, i), 0);
			if (t_rand(&m->rng) % 2)
				model_drop(m, i);
		}
	}
}

#endif
