/* SPDX-License-Identifier: MIT */
/*
 * Buffer objects (sim/object.c) on a machine that a scenario describes: who is evicted, what becomes of their bytes and mappings, and what happens where there
 * is no room. CPU 0 reads and writes by its TLB, so that a flush which is missing shows as an old byte.
 */
#include <stdlib.h>
#include <string.h>
#include "mm/collapse.h"
#include "sim_world.h"

#define K4 TDM_PAGE_SIZE
#define M2 TDM_HUGE_SIZE

/* ---- memory that runs out */

static u32 malloc_after = ~0u; /* the next so many succeed, the one after fails */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n)
{
	if (malloc_after != ~0u && !malloc_after--) {
		malloc_after = ~0u;
		return NULL;
	}
	return __real_malloc(n);
}

/* ---- a machine */

#define MACHINE "# Why?\n[machine]\nram = 16M\n[process p]\n[process q]\n"
#define END "[agent none]\nkind = age\nrounds = 1\n[print]\ncolumns = cycles\n"

static void put(u32 view, u64 page, u64 value)
{
	struct tdm_view *v = &m->view[view];

	CHECK_EQ(tdmi_cpus_switch(&m->cpus, 0, v->s), 0);
	CHECK_EQ(tdm_cpus_store(&m->cpus, 0, v->start + page * K4 + 8 * (page % 100), value), 0);
}

static u64 get(u32 view, u64 page)
{
	struct tdm_view *v = &m->view[view];
	u64 x;

	CHECK_EQ(tdmi_cpus_switch(&m->cpus, 0, v->s), 0);
	CHECK_EQ(tdm_cpus_load(&m->cpus, 0, v->start + page * K4 + 8 * (page % 100), &x), 0);
	return x;
}

static u64 leaves(enum tdm_space_count size)
{
	return tdm_world_counted(&m->w, size);
}

static u64 faults(void)
{
	return leaves(TDM_SC_SPECIAL_FAULTS);
}

/* Leaves that a view has now, by level of their table. */
static void mapped(u32 view, u64 n[3])
{
	struct tdm_view *v = &m->view[view];
	u64 end = v->start + v->spec->size, next;

	memset(n, 0, 3 * sizeof(*n));
	for (u64 va = v->start; va < end; va = next) {
		struct tdm_pte e;
		struct tdm_pt *pt;
		u32 i;

		tdmi_rcu_read_lock(m->reader);
		pt = tdmi_pt_walk(&v->s->pgt, va, &i, &e);
		n[TDM_MIN(pt->level, 2u)] += tdm_pte_present(e);
		next = TDM_ALIGN_DOWN(va, (u64)1 << tdm_pt_shift(pt->level)) + ((u64)1 << tdm_pt_shift(pt->level));
		tdmi_rcu_read_unlock(m->reader);
	}
}

/* What must be so whenever nobody is at work: no page is two objects', the map of taken pages says what they have, and leaves lead to where the object is. */
static void sound(void)
{
	for (u32 d = 0; d < one.ndevices; d++) {
		const struct tdm_mem_range *r = &m->w.phys.range[m->dev[d].vram];
		u64 taken = 0, has = 0;
		u8 *seen = calloc(1, r->n);

		for (u64 p = 0; p < r->n; p++)
			taken += m->dev[d].taken[p];
		for (u32 k = 0; k < one.nobjects; k++) {
			struct tdm_object *o = &m->object[k];
			u64 run = o->spec->contiguous ? o->spec->contiguous / K4 : o->pages;

			CHECK(run);
			for (u64 p = 0; p < o->pages && o->in_vram && o->spec->device.index == (s32)d; p++) {
				CHECK(o->pfn[p] - r->first < r->n && m->dev[d].taken[o->pfn[p] - r->first] && !seen[o->pfn[p] - r->first]);
				CHECK(p % run == 0 || o->pfn[p] == o->pfn[p - 1] + 1);
				seen[o->pfn[p] - r->first] = 1;
			}
			has += o->in_vram && o->spec->device.index == (s32)d ? (o->pages + run - 1) / run * run : 0;
		}
		CHECK_EQ(taken, has);
		free(seen);
	}
	for (u32 k = 0; k < one.nmappings; k++) {
		struct tdm_view *v = &m->view[k];

		for (u64 at = 0; at < v->spec->size; at += K4) {
			struct tdm_pte e;
			struct tdm_pt *pt;
			u32 i;

			tdmi_rcu_read_lock(m->reader);
			pt = tdmi_pt_walk(&v->s->pgt, v->start + at, &i, &e);
			if (tdm_pte_present(e))
				CHECK_EQ(tdm_pte_pfn(e).v + ((v->start + at - tdm_pt_va(pt, i)) >> TDM_PAGE_SHIFT), v->object->pfn[(v->spec->offset + at) / K4]);
			tdmi_rcu_read_unlock(m->reader);
		}
	}
}

/* ---- who is evicted */

#define THREE                                                                                                                    \
	MACHINE "[device gpu]\nvram = 8M\n"                                                                                      \
		"[object a]\ndevice = gpu\nsize = 4M\ncontiguous = 2M\n[object b]\ndevice = gpu\nsize = 4M\ncontiguous = 2M\n"   \
		"[object c]\ndevice = gpu\nsize = 4M\ncontiguous = 2M\nplacement = system\n"                                     \
		"[mapping a]\nprocess = p\nkind = object\nobject = a\n[mapping b]\nprocess = p\nkind = object\nobject = b\n"     \
		"[mapping c]\nprocess = p\nkind = object\nobject = c\n" END

static void where(bool a, bool b, bool c)
{
	CHECK_EQ(m->object[0].in_vram, a);
	CHECK_EQ(m->object[1].in_vram, b);
	CHECK_EQ(m->object[2].in_vram, c);
	sound();
}

TEST(who_was_used_longest_ago_leaves)
{
	start(THREE);
	where(true, true, false);
	/* A fault is a use: b is the older one then. */
	CHECK_EQ(get(1, 0), 0);
	CHECK_EQ(get(0, 0), 0);
	CHECK_EQ(tdmi_object_move(&m->object[2], true, 0), 0);
	where(true, false, true);
	/* So is a move. */
	CHECK_EQ(tdmi_object_move(&m->object[1], true, 0), 0);
	where(false, true, true);
	CHECK_EQ(tdmi_object_move(&m->object[0], true, 0), 0);
	where(true, true, false);
	/* Where it is already nobody has to leave. */
	CHECK_EQ(tdmi_object_move(&m->object[1], true, 0), 0);
	CHECK_EQ(tdmi_object_move(&m->object[2], false, 0), 0);
	where(true, true, false);
	finish();
}

TEST(as_few_leave_as_it_takes)
{
	start(MACHINE "[device gpu]\nvram = 8M\n[object a]\ndevice = gpu\nsize = 2M\n[object b]\ndevice = gpu\nsize = 2M\n[object c]\ndevice = gpu\nsize = 4M\n"
		      "[object d]\ndevice = gpu\nsize = 2M\nplacement = system\n[object e]\ndevice = gpu\nsize = 4M\nplacement = system\n" END);
	CHECK_EQ(tdmi_object_move(&m->object[3], true, 0), 0);
	CHECK(!m->object[0].in_vram && m->object[1].in_vram && m->object[2].in_vram && m->object[3].in_vram);
	/* b leaves first, as the oldest; there is no hole of 4 MiB then, so c does, too; and d stays, which is in the way of nobody. */
	CHECK_EQ(tdmi_object_move(&m->object[4], true, 0), 0);
	CHECK(!m->object[1].in_vram && !m->object[2].in_vram && m->object[3].in_vram && m->object[4].in_vram);
	sound();
	finish();
}

TEST(a_device_s_memory_is_its_own)
{
	start(MACHINE "[device one]\nvram = 4M\n[device two]\nvram = 4M\n[object a]\ndevice = one\nsize = 4M\n[object b]\ndevice = two\nsize = 4M\n"
		      "[object c]\ndevice = two\nsize = 4M\nplacement = system\n" END);
	CHECK_EQ(tdmi_object_move(&m->object[2], true, 0), 0);
	where(true, false, true);
	finish();
}

/* Without `contiguous` an object lies in one run, whatever its size. */
TEST(in_one_run)
{
	start(MACHINE "[device gpu]\nvram = 10M\n[object a]\ndevice = gpu\nsize = 12K\n[object b]\ndevice = gpu\nsize = 5M\n[object c]\ndevice = gpu\nsize = 2M\n" END);
	where(true, true, true);
	for (u64 p = 1; p < m->object[1].pages; p++)
		CHECK_EQ(m->object[1].pfn[p], m->object[1].pfn[p - 1] + 1);
	/* Aligned to the largest leaf that could map it, and no more. */
	CHECK(m->object[1].pfn[0] % TDM_HUGE_PAGES == 0 && m->object[2].pfn[0] % TDM_HUGE_PAGES == 0);
	finish();
}

/* ---- bytes */

TEST(bytes_survive_eviction_and_return)
{
	start(THREE);
	for (u32 v = 0; v < 3; v++)
		for (u64 p = 0; p < 1024; p += v == 2 ? 1 : 37)
			put(v, p, (u64)(v + 1) << 32 | p);
	for (u32 round = 0; round < 9; round++) {
		CHECK_EQ(tdmi_object_move(&m->object[(round + 2) % 3], true, 0), 0);
		sound();
		for (u32 v = 0; v < 3; v++)
			for (u64 p = 0; p < 1024; p++)
				CHECK_EQ(get(v, p), v == 2 || p % 37 == 0 ? (u64)(v + 1) << 32 | p : 0);
	}
	finish();
}

/* Where nobody has written there are zeros, and not what another object has left behind. */
TEST(what_an_object_leaves_nobody_reads)
{
	start(THREE);
	for (u64 p = 0; p < 1024; p++) {
		put(0, p, ~p);
		put(1, p, ~p);
	}
	CHECK_EQ(tdmi_object_move(&m->object[2], true, 0), 0);
	where(false, true, true);
	for (u64 p = 0; p < 1024; p++)
		CHECK_EQ(get(2, p), 0);
	/* The same of the place in the system that one has been at. */
	CHECK_EQ(tdmi_object_move(&m->object[0], true, 0), 0);
	for (u64 p = 0; p < 1024; p++)
		CHECK_EQ(get(0, p), ~p);
	for (u64 p = 0; p < TDM_HUGE_PAGES; p++) {
		u64 first = m->w.phys.range[m->system].first;

		CHECK_EQ(*(u64 *)(void *)(tdm_pfn_bytes(&m->w.phys, (struct tdm_pfn){ first + p }) + 8 * (p % 100)), 0);
	}
	finish();
}

#define PART(n) "[object " n "]\ndevice = gpu\nsize = 1M\ncontiguous = 64K\n"

/* The same of one that lies in several holes. */
TEST(what_an_object_leaves_here_and_there)
{
	start(MACHINE "[device gpu]\nvram = 4M\n" PART("a") PART("b") PART("c") PART("d")
		      "[object e]\ndevice = gpu\nsize = 2M\ncontiguous = 64K\nplacement = system\n"
		      "[mapping e]\nprocess = p\nkind = object\nobject = e\n[mapping a]\nprocess = p\nkind = object\nobject = a\n"
		      "[mapping c]\nprocess = p\nkind = object\nobject = c\n" END);
	CHECK(!tdmi_object_move(&m->object[0], false, 0) && !tdmi_object_move(&m->object[2], false, 0));
	CHECK_EQ(tdmi_object_move(&m->object[4], true, 0), 0);
	CHECK(m->object[1].in_vram && m->object[3].in_vram && m->object[4].pfn[256] != m->object[4].pfn[255] + 1);
	for (u64 p = 0; p < 512; p++)
		put(0, p, ~p);
	CHECK_EQ(tdmi_object_move(&m->object[4], false, 0), 0);
	CHECK(!tdmi_object_move(&m->object[2], true, 0) && !tdmi_object_move(&m->object[0], true, 0));
	for (u64 p = 0; p < 256; p++)
		CHECK(get(1, p) == 0 && get(2, p) == 0);
	for (u64 p = 0; p < 512; p++)
		CHECK_EQ(get(0, p), ~p);
	sound();
	finish();
}

/* Only the leaves know that somebody has written, and munmap takes them. */
TEST(what_was_written_before_munmap_is_moved)
{
	start(THREE);
	for (u64 p = 0; p < 1024; p += 3)
		put(0, p, p + 1);
	CHECK_EQ(tdmi_object_remap(&m->view[0]), 0);
	CHECK_EQ(tdmi_object_move(&m->object[0], false, 0), 0);
	sound();
	for (u64 p = 0; p < 1024; p++)
		CHECK_EQ(get(0, p), p % 3 ? 0 : p + 1);
	finish();
}

/* ---- mappings */

TEST(mappings_that_fault_huge_survive_eviction)
{
	u64 n[3];

	start(THREE);
	put(0, 5, 55);
	mapped(0, n);
	CHECK(n[0] == 0 && n[1] == 1); /* a run of 2 MiB */
	put(0, 700, 77);
	CHECK_EQ(faults(), 2);
	/* In the system its pages are not contiguous, and come one by one. */
	CHECK_EQ(tdmi_object_move(&m->object[0], false, 0), 0);
	mapped(0, n);
	CHECK(n[0] == 0 && n[1] == 0);
	CHECK(get(0, 5) == 55 && get(0, 6) == 0);
	mapped(0, n);
	CHECK(n[0] == 2 && n[1] == 0);
	/* Back: what was not touched meanwhile is a leaf of 2 MiB again; the rest has a table, until it is collapsed. */
	CHECK_EQ(tdmi_object_move(&m->object[0], true, 0), 0);
	CHECK(get(0, 5) == 55 && get(0, 700) == 77);
	mapped(0, n);
	CHECK(n[0] == TDM_HUGE_PAGES && n[1] == 1);
	{
		struct tdm_collapsed out;

		tdmi_collapse_range(m->view[0].s, m->reader, m->view[0].start, m->view[0].start + 2 * M2, &out);
		CHECK_EQ(out.made[1], 1);
	}
	mapped(0, n);
	CHECK(n[0] == 0 && n[1] == 2);
	sound();
	CHECK(get(0, 5) == 55 && get(0, 700) == 77);
	finish();
}

/* The engine finds an address that large leaves can map; or, where the device has none, the lowest. */
TEST(an_address_is_chosen)
{
	u64 n[3];

	start(MACHINE "[device gpu]\nvram = 16M\n[object a]\ndevice = gpu\nsize = 8M\ncontiguous = 2M\n[object b]\ndevice = gpu\nsize = 4M\ncontiguous = 16K\n"
		      "[mapping a]\nprocess = p\nkind = object\nobject = a\nplace = chosen\n"
		      "[mapping tail]\nprocess = p\nkind = object\nobject = a\noffset = 3M\nplace = chosen\n"
		      "[mapping b]\nprocess = p\nkind = object\nobject = b\nplace = chosen\n" END);
	CHECK(m->view[0].start % M2 == 0 && m->view[1].start % M2 == M2 / 2);
	CHECK(m->view[2].start % (4 * K4) == 0 && m->view[2].start % M2 != 0);
	for (u32 v = 0; v < 3; v++)
		CHECK_EQ(tdmi_object_fill(&m->view[v]), m->view[v].spec->size);
	mapped(0, n);
	CHECK(n[0] == 0 && n[1] == 4);
	mapped(1, n);
	CHECK(n[0] == TDM_HUGE_PAGES / 2 && n[1] == 2);
	mapped(2, n);
	CHECK(n[0] == 2 * TDM_HUGE_PAGES && n[1] == 0);
	sound();
	finish();
}

/* A static mapping: no faults, and no table that was there before is in the way. */
TEST(filled_when_it_is_mapped)
{
	u64 n[3], before;

	start(THREE);
	CHECK_EQ(tdmi_object_move(&m->object[0], false, 0), 0);
	for (u64 p = 0; p < 1024; p++)
		put(0, p, p);
	CHECK_EQ(tdmi_object_move(&m->object[0], true, 0), 0);
	CHECK_EQ(tdmi_object_map_filled(&m->view[0]), 4 << 20);
	mapped(0, n);
	CHECK(n[0] == 0 && n[1] == 2);
	sound();
	before = faults();
	for (u64 p = 0; p < 1024; p++)
		CHECK_EQ(get(0, p), p);
	CHECK_EQ(faults(), before);
	finish();
}

/* Two processes, of which one has the second half, and may only read. */
#define SHARED                                                                                                                   \
	MACHINE "[device gpu]\nvram = 8M\n[object a]\ndevice = gpu\nsize = 4M\ncontiguous = 1M\nmax_prefault = 64K\n"            \
		"[object b]\ndevice = gpu\nsize = 8M\ncontiguous = 64K\nplacement = system\n"                                    \
		"[mapping a]\nprocess = p\nkind = object\nobject = a\n"                                                          \
		"[mapping half]\nprocess = q\nkind = object\nobject = a\noffset = 2M\nmisalign = 4K\nwritable = off\n" END

TEST(all_views_of_an_object_move)
{
	start(SHARED);
	put(0, 600, 6);
	CHECK_EQ(get(1, 600 - 512), 0); /* another word of the page: where its own page number says */
	put(0, 512 + 88, 7);
	CHECK_EQ(tdmi_object_move(&m->object[1], true, 0), 0);
	where(false, true, false);
	for (u32 v = 0; v < 2; v++) {
		u64 n[3];

		mapped(v, n);
		CHECK(n[0] == 0 && n[1] == 0);
	}
	CHECK_EQ(get(0, 600), 7);
	sound();
	finish();
}

/* A fault brings no more than it is allowed to, and an object that is mapped in parts moves as a whole. */
TEST(what_is_populated_in_part)
{
	u64 n[3];

	start(SHARED);
	put(0, 0, 1);
	put(0, 1023, 2);
	mapped(0, n);
	CHECK(n[0] == 2 * 16 && n[1] == 0);
	CHECK_EQ(get(1, 100), 0);
	mapped(1, n);
	CHECK(n[0] == 16 && n[1] == 0);
	CHECK_EQ(faults(), 3);
	sound();
	CHECK_EQ(tdmi_object_move(&m->object[0], false, 0), 0);
	CHECK_EQ(tdmi_object_move(&m->object[0], true, 0), 0);
	CHECK(get(0, 0) == 1 && get(0, 1023) == 2 && get(0, 500) == 0);
	sound();
	finish();
}

/* ---- no room */

struct state {
	u64 pfn[3][2048];
	bool in_vram[3];
	u64 used[3];
	u8 taken[2048];
	u64 leaves[3][3];
};

static void look(struct state *st)
{
	memset(st, 0, sizeof(*st));
	for (u32 k = 0; k < 3; k++) {
		memcpy(st->pfn[k], m->object[k].pfn, m->object[k].pages * sizeof(u64));
		st->in_vram[k] = m->object[k].in_vram;
		st->used[k] = m->object[k].used;
		mapped(k, st->leaves[k]);
	}
	memcpy(st->taken, m->dev[0].taken, m->w.phys.range[m->dev[0].vram].n);
}

static void bytes_are(void)
{
	for (u32 v = 0; v < 3; v++)
		for (u64 p = 0; p < 1024; p += 9)
			CHECK_EQ(get(v, p), p % 2 ? 0 : (u64)(v + 1) << 32 | p);
}

/* Such a scenario is refused: so the runs get larger after it was read. */
TEST(an_object_that_fits_nowhere_leaves_everything_as_it_is)
{
	static struct state before, after;

	parse(THREE);
	one.object[2].contiguous = 8 * M2; /* there are 8 MiB of vram */
	make();
	for (u32 v = 0; v < 3; v++)
		for (u64 p = 0; p < 1024; p += 18)
			put(v, p, (u64)(v + 1) << 32 | p);
	look(&before);
	CHECK_EQ(tdmi_object_move(&m->object[2], true, 0), -ENOMEM);
	look(&after);
	CHECK(!memcmp(before.pfn, after.pfn, sizeof(before.pfn)) && !memcmp(before.in_vram, after.in_vram, sizeof(before.in_vram)));
	CHECK(!memcmp(before.used, after.used, sizeof(before.used)) && !memcmp(before.taken, after.taken, sizeof(before.taken)));
	CHECK(!memcmp(before.leaves, after.leaves, sizeof(before.leaves)));
	bytes_are();
	/* And the others move as before. */
	CHECK_EQ(tdmi_object_move(&m->object[0], false, 0), 0);
	CHECK_EQ(tdmi_object_move(&m->object[0], true, 0), 0);
	sound();
	bytes_are();
	finish();
}

/* Each allocation of a move fails once: nobody has half moved, and no byte is lost; those that have left for it have left as a whole. */
TEST(a_move_that_gets_no_memory)
{
	u32 n;

	start(THREE);
	for (u32 v = 0; v < 3; v++)
		for (u64 p = 0; p < 1024; p += 18)
			put(v, p, (u64)(v + 1) << 32 | p);
	for (n = 0;; n++) {
		int r;

		malloc_after = n;
		r = tdmi_object_move(&m->object[2], true, 0);
		malloc_after = ~0u;
		sound();
		bytes_are();
		if (!r)
			break;
		CHECK_EQ(r, -ENOMEM);
		CHECK(!m->object[2].in_vram);
	}
	CHECK_EQ(n, 3); /* its own table, the plan, the table of the one that leaves */
	where(false, true, true);
	finish();
}

/* ---- at random */

#define OBJECTS 6u
#define VIEWS 8u
#define PAGES_MOST 1024u

#define MANY                                                                                                                     \
	MACHINE "[device gpu]\nvram = 10M\n[device npu]\nvram = 2M\n"                                                            \
		"[object a]\ndevice = gpu\nsize = 4M\n[object b]\ndevice = gpu\nsize = 3M\ncontiguous = 64K\nmax_prefault = 32K\n" \
		"[object c]\ndevice = gpu\nsize = 4M\ncontiguous = 2M\n[object d]\ndevice = gpu\nsize = 1028K\ncontiguous = 4K\n" \
		"[object e]\ndevice = npu\nsize = 20K\nfault_huge = off\n[object f]\ndevice = npu\nsize = 2M\nplacement = system\n" \
		"[mapping a]\nprocess = p\nkind = object\nobject = a\n[mapping b]\nprocess = p\nkind = object\nobject = b\n"     \
		"[mapping c]\nprocess = p\nkind = object\nobject = c\nmisalign = 12K\n[mapping d]\nprocess = q\nkind = object\nobject = d\n" \
		"[mapping e]\nprocess = p\nkind = object\nobject = e\n[mapping f]\nprocess = q\nkind = object\nobject = f\n"     \
		"[mapping a2]\nprocess = q\nkind = object\nobject = a\noffset = 1M\nsize = 2M\nwritable = off\n"                 \
		"[mapping b2]\nprocess = q\nkind = object\nobject = b\n" END

static u64 model[OBJECTS][PAGES_MOST];

static void random_access(u64 *r)
{
	u32 view = (u32)(t_rand(r) % VIEWS);
	struct tdm_view *v = &m->view[view];
	u32 k = (u32)(v->object - m->object);
	u64 page = t_rand(r) % (v->spec->size / K4), at = page + v->spec->offset / K4;
	u64 va = v->start + page * K4 + 8 * (at % 100), x;

	CHECK_EQ(tdmi_cpus_switch(&m->cpus, 0, v->s), 0);
	if (v->spec->writable && t_rand(r) % 2) {
		model[k][at] = t_rand(r);
		CHECK_EQ(tdm_cpus_store(&m->cpus, 0, va, model[k][at]), 0);
	} else {
		CHECK_EQ(tdm_cpus_load(&m->cpus, 0, va, &x), 0);
		CHECK_EQ(x, model[k][at]);
	}
}

static void random_step(u64 *r)
{
	struct tdm_view *v = &m->view[t_rand(r) % VIEWS];
	struct tdm_object *o = &m->object[t_rand(r) % OBJECTS];
	uintptr_t rights = TDM_V_READ | (v->spec->writable ? TDM_V_WRITE : 0);
	struct tdm_collapsed out;
	int e;

	switch (t_rand(r) % 16) {
	case 0:
	case 1:
		e = tdmi_object_move(o, true, 0);
		CHECK(!e && o->in_vram);
		break;
	case 2:
		CHECK_EQ(tdmi_object_move(o, false, 0), 0);
		break;
	case 3:
		CHECK_EQ(tdmi_object_fill(v), v->spec->size);
		break;
	case 4:
		tdmi_collapse_range(v->s, m->reader, v->start, v->start + v->spec->size, &out);
		break;
	case 5:
		CHECK_EQ(tdmi_object_remap(v), 0);
		break;
	case 6:
		CHECK_EQ(tdmi_mprotect(v->s, m->reader, v->start, v->spec->size, TDM_V_READ), 0);
		CHECK_EQ(tdmi_mprotect(v->s, m->reader, v->start, v->spec->size, rights), 0);
		break;
	case 7:
		/* No memory, at some point. */
		malloc_after = (u32)(t_rand(r) % 6);
		e = tdmi_object_move(o, t_rand(r) % 2, 0);
		CHECK(!e || e == -ENOMEM);
		malloc_after = ~0u;
		break;
	default:
		for (u32 i = 0; i < 12; i++)
			random_access(r);
	}
}

/* Everything, by every view. */
static void check_all(void)
{
	for (u32 k = 0; k < VIEWS; k++)
		for (u64 page = 0; page < m->view[k].spec->size / K4; page++) {
			struct tdm_view *v = &m->view[k];
			u64 at = page + v->spec->offset / K4, x;

			CHECK_EQ(tdmi_cpus_switch(&m->cpus, 0, v->s), 0);
			CHECK_EQ(tdm_cpus_load(&m->cpus, 0, v->start + page * K4 + 8 * (at % 100), &x), 0);
			CHECK_EQ(x, model[v->object - m->object][at]);
		}
}

/* Many short lives: in a long one all has been written in the end, and nothing that is lost, or left behind, would show. */
TEST(many_objects_at_random, .seconds = 100)
{
	u64 r = t_seed();

	for (u32 life = t_slow() ? 30 : 0; life < 40; life++) {
		start(MANY);
		CHECK(one.nobjects == OBJECTS && one.nmappings == VIEWS);
		memset(model, 0, sizeof(model));
		for (u32 i = 0; i < 10 + life * 10; i++) {
			random_step(&r);
			if (i % 16 == 0)
				sound();
		}
		check_all();
		finish();
	}
}
