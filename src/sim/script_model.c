/* SPDX-License-Identifier: MIT */
/* script_model.c - see script_model.h. */
#include "sim/script_model.h"
#include <string.h>

void tdmi_model_init(struct tdm_model *m)
{
	m->ids = 0;
	m->maps = 0;
	m->nobjects = 1;
	for (u32 p = 0; p < TDM_SCRIPT_PROCESSES; p++)
		m->alive[p] = false;
}

u32 tdmi_model_object(struct tdm_model *m, bool buffer)
{
	if (m->nobjects == TDM_MODEL_OBJECTS)
		return 0;
	memset(&m->object[m->nobjects], 0, sizeof(m->object[0]));
	m->object[m->nobjects].buffer = buffer;
	return m->nobjects++;
}

void tdmi_model_spawn(struct tdm_model *m, u32 p)
{
	memset(m->cell[p], 0, sizeof(m->cell[p]));
	m->alive[p] = true;
}

void tdmi_model_fork(struct tdm_model *m, u32 p, u32 child)
{
	memcpy(m->cell[child], m->cell[p], sizeof(m->cell[p]));
	m->alive[child] = true;
	for (u32 i = 0; i < TDM_SCRIPT_PAGES; i++)
		m->cell[child][i].id = ++m->ids;
}

void tdmi_model_exit(struct tdm_model *m, u32 p)
{
	m->alive[p] = false;
}

void tdmi_model_mmap(struct tdm_model *m, u32 p, u32 page, u32 n, u32 rights, u32 object, u32 index)
{
	/* All private memory with the same rights is one mapping where it touches. */
	u32 map = object ? ++m->maps : 0;

	for (u32 i = 0; i < n; i++)
		m->cell[p][page + i] = (struct tdm_cell){ .id = ++m->ids, .map = map, .object = (u16)object, .index = (u16)(index + i),
			.rights = (u8)rights, .mapped = true };
}

void tdmi_model_munmap(struct tdm_model *m, u32 p, u32 page, u32 n)
{
	memset(&m->cell[p][page], 0, n * sizeof(struct tdm_cell));
}

u32 tdmi_model_mapped(const struct tdm_model *m, u32 p, u32 page, u32 n)
{
	u32 k = 0;

	while (k < n && m->cell[p][page + k].mapped)
		k++;
	return k;
}

bool tdmi_model_is_one(const struct tdm_model *m, u32 p, u32 page, u32 n)
{
	const struct tdm_cell *c = &m->cell[p][page];

	for (u32 k = 0; k < n; k++)
		if (!c[k].mapped || c[k].map != c->map || c[k].rights != c->rights)
			return false;
	return true;
}

void tdmi_model_mprotect(struct tdm_model *m, u32 p, u32 page, u32 n, u32 rights)
{
	for (u32 k = 0; k < n; k++)
		m->cell[p][page + k].rights = (u8)rights;
}

void tdmi_model_mremap(struct tdm_model *m, u32 p, u32 from, u32 to, u32 n)
{
	u32 map = m->cell[p][from].map ? ++m->maps : 0;

	memcpy(&m->cell[p][to], &m->cell[p][from], n * sizeof(struct tdm_cell));
	memset(&m->cell[p][from], 0, n * sizeof(struct tdm_cell));
	for (u32 k = 0; k < n; k++)
		m->cell[p][to + k].map = map;
}

void tdmi_model_dontneed(struct tdm_model *m, u32 p, u32 page, u32 n)
{
	for (struct tdm_cell *c = &m->cell[p][page]; n--; c++)
		if (c->mapped && !c->object) {
			memset(c->word, 0, sizeof(c->word));
			c->lazy = 0;
			c->soft = false;
			c->id = ++m->ids;
		}
}

void tdmi_model_free(struct tdm_model *m, u32 p, u32 page, u32 n)
{
	for (struct tdm_cell *c = &m->cell[p][page]; n--; c++)
		c->lazy = c->mapped && !c->object ? TDM_MODEL_ALL : 0;
}

void tdmi_model_clear_soft(struct tdm_model *m, u32 p, u32 page, u32 n)
{
	for (struct tdm_cell *c = &m->cell[p][page]; n--; c++)
		c->soft = false;
}

bool tdmi_model_reads(struct tdm_model *m, u32 p, u32 page, const u64 *got)
{
	struct tdm_cell *c = &m->cell[p][page];
	u64 *word = tdm_model_words(m, c);

	c->used = true;
	for (u32 w = 0; w < TDM_MODEL_WORDS; w++) {
		if ((c->lazy >> w & 1) && !got[w])
			word[w] = 0;
		if (got[w] != word[w])
			return false;
	}
	/* Once one of them has been written the page is kept, as it is. */
	if (c->lazy != TDM_MODEL_ALL)
		c->lazy = 0;
	return true;
}

void tdmi_model_writes(struct tdm_model *m, u32 p, u32 page, u32 word, u64 value, bool by_walk)
{
	struct tdm_cell *c = &m->cell[p][page];

	c->used = true;
	c->lazy &= (u8)~(1u << word);
	c->soft = c->soft || (by_walk && !c->object);
	tdm_model_words(m, c)[word] = value;
}
