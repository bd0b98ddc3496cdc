/* SPDX-License-Identifier: MIT */
/*
 * Everything that can be done to address spaces, at random from a seed, against a model that knows only bytes and rights. The CPUs forget nothing (space_world.h).
 *
 * TDM_SEED=n TDM_RUNS=m for others.
 */
#include "space_world.h"

#define SPACES 6u
#define PAGES 96u
#define PINS 8u
#define OPS 3000u
#define OBJECTS 4u
#define OBJECT_PAGES 40u

/* What a page of the model holds. */
struct cell {
	bool mapped;
	u8 rights;
	u64 value;   /* of private memory */
	bool lazy;   /* MADV_FREE: it may read as zeros from some time on */
	u64 id;      /* of what is there: changes when it is mapped anew, or dropped. Of shared memory: the object's page's */
	u32 object;  /* that it is shared through, plus 1; 0: private */
	u32 page;    /* of the object */
	u64 map;     /* which mapping of it, as mremap() moves no more than one; 0: private */
};

/* Shared memory: what all its mappings read. */
struct object {
	struct tdm_shm *shm; /* our reference, or NULL */
	bool there;
	u64 value[OBJECT_PAGES], id[OBJECT_PAGES];
};

struct model {
	struct tdm_space *s;
	struct cell cell[PAGES];
};

struct pin {
	struct model *m;
	u32 page;
	u64 id;      /* of what was pinned: writes by the pin are seen as long as that is there */
	bool write;
	struct tdm_pfn pfn;
};

static struct world t;
static struct model model[SPACES];
static struct pin pin[PINS];
static struct object object[OBJECTS];
static u64 rng, ids, maps;

static u32 below(u32 n)
{
	return (u32)(t_rand(&rng) % n);
}

static u64 at(u32 page)
{
	return WORLD_BASE + page * PAGE;
}

static u32 cpu(void)
{
	return below(WORLD_CPUS);
}

static u64 *value(struct cell *c)
{
	return c->object ? &object[c->object - 1].value[c->page] : &c->value;
}

/* ---- the program's accesses */

static void do_read(struct model *m, u32 page)
{
	struct cell *c = &m->cell[page];
	int err;
	u8 *p = world_access(&t, cpu(), m->s, at(page) + 8, false, &err);
	u64 x;

	if (!c->mapped || !(c->rights & TDM_V_READ)) {
		CHECK(!p);
		CHECK_EQ(err, -EFAULT);
		return;
	}
	if (err == -ENOMEM)
		return;
	CHECK_EQ(err, 0);
	memcpy(&x, p, sizeof(x));
	if (c->lazy && x == 0)
		c->value = 0;
	CHECK_EQ(x, *value(c));
}

static void do_write(struct model *m, u32 page)
{
	struct cell *c = &m->cell[page];
	int err;
	u8 *p = world_access(&t, cpu(), m->s, at(page) + 8, true, &err);
	u64 x = t_rand(&rng) | 1;

	if (!c->mapped || !(c->rights & TDM_V_WRITE)) {
		CHECK(!p);
		CHECK_EQ(err, -EFAULT);
		return;
	}
	if (err == -ENOMEM)
		return;
	CHECK_EQ(err, 0);
	memcpy(p, &x, sizeof(x));
	*value(c) = x;
	c->lazy = false;
}

/* ---- its kernel's doing */

static void range(u32 *start, u32 *n)
{
	*n = 1 + below(below(4) ? 6 : 40);
	*start = below(PAGES - *n + 1);
}

static void do_mmap(struct model *m, u32 start, u32 n)
{
	u8 rights = below(3) ? RW : TDM_V_READ;

	CHECK_EQ(tdmi_mmap(m->s, t.reader, at(start), n * PAGE, rights), 0);
	for (u32 i = start; i < start + n; i++)
		m->cell[i] = (struct cell){ .mapped = true, .rights = rights, .id = ++ids };
}

static bool object_is_mapped(u32 k)
{
	for (u32 i = 0; i < SPACES; i++)
		for (u32 p = 0; p < PAGES; p++)
			if (model[i].cell[p].object == k + 1)
				return true;
	return false;
}

static void let_go(u32 k)
{
	if (object[k].shm)
		tdmi_shm_put(object[k].shm, t.reader);
	object[k].shm = NULL;
}

/* An object that nobody has any more is gone, with its bytes: the next one of that number is another. One that is mapped, and that we have no reference to, can
 * have no more mappings of ours. */
static bool object_get(u32 k)
{
	struct object *o = &object[k];
	int r;

	if (o->there && !o->shm && !object_is_mapped(k))
		o->there = false;
	if (o->there)
		return o->shm;
	r = tdmi_shm_create(&t.w, t.reader, OBJECT_PAGES, &o->shm);
	if (r) {
		CHECK_EQ(r, -ENOMEM);
		o->shm = NULL;
		return false;
	}
	memset(o->value, 0, sizeof(o->value));
	for (u32 p = 0; p < OBJECT_PAGES; p++)
		o->id[p] = ++ids;
	o->there = true;
	return true;
}

static void do_mmap_shared(struct model *m, u32 start, u32 n)
{
	u8 rights = below(3) ? RW : TDM_V_READ;
	u32 k = below(OBJECTS), off;

	n = TDM_MIN(n, OBJECT_PAGES);
	off = below(OBJECT_PAGES - n + 1);
	if (!object_get(k))
		return;
	CHECK_EQ(tdmi_shm_mmap(m->s, t.reader, at(start), n * PAGE, rights, object[k].shm, off * PAGE), 0);
	maps++;
	for (u32 i = 0; i < n; i++)
		m->cell[start + i] = (struct cell){ .mapped = true, .rights = rights, .id = object[k].id[off + i], .object = k + 1, .page = off + i, .map = maps };
	if (below(4) == 0)
		let_go(k);
}

static void do_munmap(struct model *m, u32 start, u32 n)
{
	CHECK_EQ(tdmi_munmap(m->s, t.reader, at(start), n * PAGE), 0);
	memset(&m->cell[start], 0, n * sizeof(m->cell[0]));
}

static void do_mprotect(struct model *m, u32 start, u32 n)
{
	static const u8 kinds[] = { RW, TDM_V_READ, 0, RW };
	u8 rights = kinds[below(4)];
	bool whole = true;
	int r = tdmi_mprotect(m->s, t.reader, at(start), n * PAGE, rights);

	for (u32 i = start; i < start + n && whole; i++) {
		whole = m->cell[i].mapped;
		if (whole)
			m->cell[i].rights = rights;
	}
	CHECK_EQ(r, whole ? 0 : -ENOMEM);
}

static void do_dontneed(struct model *m, u32 start, u32 n)
{
	CHECK_EQ(tdmi_madvise_dontneed(m->s, t.reader, at(start), n * PAGE), 0);
	for (u32 i = start; i < start + n; i++) {
		/* What is shared loses its entries, and the object keeps the bytes. */
		if (m->cell[i].object)
			continue;
		m->cell[i].value = 0;
		m->cell[i].lazy = false;
		m->cell[i].id = ++ids;
	}
}

static void do_free(struct model *m, u32 start, u32 n)
{
	CHECK_EQ(tdmi_madvise_free(m->s, t.reader, at(start), n * PAGE), 0);
	for (u32 i = start; i < start + n; i++)
		m->cell[i].lazy = m->cell[i].mapped && !m->cell[i].object;
}

static void do_mremap(struct model *m, u32 start, u32 n)
{
	u32 to = below(PAGES - n + 1);
	bool one = true;
	int r;

	if (start < to + n && to < start + n)
		return;
	for (u32 i = start; i < start + n; i++)
		one = one && m->cell[i].mapped && m->cell[i].rights == m->cell[start].rights && m->cell[i].map == m->cell[start].map;
	r = tdmi_mremap(m->s, t.reader, at(start), at(to), n * PAGE);
	CHECK_EQ(r, one ? 0 : -EFAULT);
	if (!one)
		return;
	for (u32 k = 0; k < PINS; k++)
		if (pin[k].m == m && pin[k].page >= start && pin[k].page < start + n)
			pin[k].page += to - start;
	memcpy(&m->cell[to], &m->cell[start], n * sizeof(m->cell[0]));
	memset(&m->cell[start], 0, n * sizeof(m->cell[0]));
	maps++;
	for (u32 i = to; i < to + n; i++)
		m->cell[i].map = m->cell[i].object ? maps : 0;
}

static void do_fork(struct model *m)
{
	struct model *child = NULL;
	int r;

	for (u32 i = 0; i < SPACES && !child; i++)
		child = model[i].s ? NULL : &model[i];
	if (!child)
		return;
	memcpy(child->cell, m->cell, sizeof(m->cell));
	r = tdmi_space_fork(m->s, t.reader, &child->s);
	if (r) {
		CHECK_EQ(r, -ENOMEM);
		child->s = NULL;
		return;
	}
	CHECK(child->s->id < WORLD_SPACES);
	for (u32 c = 0; c < WORLD_CPUS; c++)
		memset(t.tlb[c][child->s->id], 0, sizeof(t.tlb[c][0]));
	for (u32 i = 0; i < PAGES; i++)
		child->cell[i].id = child->cell[i].object ? child->cell[i].id : ++ids;
}

static void do_exit(struct model *m)
{
	u32 alive = 0;

	for (u32 i = 0; i < SPACES; i++)
		alive += model[i].s != NULL;
	if (alive == 1)
		return;
	tdmi_space_destroy(m->s, t.reader);
	m->s = NULL;
	memset(m->cell, 0, sizeof(m->cell));
	(void)tdmi_rcu_poll(&t.w.rcu);
}

/* ---- devices */

static void unpin(struct pin *p)
{
	tdmi_unpin_pages(&t.w, &p->pfn, 1, p->write);
	*p = (struct pin){ 0 };
}

/* Somebody has it pinned where no pin for long may be: it stays there until he lets go. */
static bool pinned_on_device(struct model *m, u32 page)
{
	struct tdm_pfn pfn;
	bool is;

	tdmi_rcu_read_lock(t.reader);
	is = tdmi_space_get_page(m->s, at(page), &pfn);
	tdmi_rcu_read_unlock(t.reader);
	if (!is)
		return false;
	is = tdm_pfn_range(&t.w.phys, pfn)->kind == TDM_MEM_COHERENT && tdm_page_pins(tdm_pfn_page(&t.w.phys, pfn));
	tdmi_page_put(&t.w, pfn);
	return is;
}

static void do_pin(struct model *m, u32 page)
{
	struct cell *c = &m->cell[page];
	struct pin *p = &pin[below(PINS)];
	bool write = below(2);
	u32 flags = (write ? TDM_PIN_WRITE : 0) | (below(3) ? 0 : TDM_PIN_LONGTERM), done;
	int r;

	if (p->pfn.v)
		unpin(p);
	r = tdmi_pin_pages(m->s, t.reader, at(page), 1, flags, &p->pfn, &done);
	if (!c->mapped || !(c->rights & (write ? TDM_V_WRITE : TDM_V_READ))) {
		CHECK_EQ(r, -EFAULT);
		CHECK_EQ(done, 0);
	} else if (r && !(r == -EBUSY && (flags & TDM_PIN_LONGTERM) && pinned_on_device(m, page))) {
		CHECK_EQ(r, -ENOMEM);
	}
	if (r) {
		p->pfn.v = 0;
		return;
	}
	CHECK(!(flags & TDM_PIN_LONGTERM) || tdm_pfn_range(&t.w.phys, p->pfn)->kind == TDM_MEM_RAM);
	p->m = m;
	p->page = page;
	p->id = c->id;
	p->write = write;
}

/* A device reads, or writes, by a pin. */
static void do_dma(void)
{
	struct pin *p = &pin[below(PINS)];
	struct cell *c;
	u64 x;

	if (!p->pfn.v)
		return;
	c = &p->m->cell[p->page];
	memcpy(&x, tdm_pfn_bytes(&t.w.phys, p->pfn) + 8, sizeof(x));
	if (c->id != p->id || !p->m->s)
		return;
	if (c->lazy && x == 0)
		c->value = 0;
	CHECK_EQ(x, *value(c));
	if (!p->write)
		return;
	x = t_rand(&rng) | 1;
	memcpy(tdm_pfn_bytes(&t.w.phys, p->pfn) + 8, &x, sizeof(x));
	tdm_page_set(tdm_pfn_page(&t.w.phys, p->pfn), TDM_PG_DIRTY);
	*value(c) = x;
	c->lazy = false;
}

static void do_migrate(struct model *m, u32 start, u32 n)
{
	(void)tdmi_migrate_range(m->s, t.reader, at(start), at(start + n), below(2) ? t.coherent : t.w.ram);
}

static void one_op(void)
{
	struct model *m = &model[below(SPACES)];
	u32 start, n, what = below(1000);

	if (!m->s)
		return;
	range(&start, &n);
	if (what < 300)
		for (u32 i = start; i < start + n; i++)
			do_read(m, i);
	else if (what < 600)
		for (u32 i = start; i < start + n; i++)
			do_write(m, i);
	else if (what < 625)
		do_mmap(m, start, n);
	else if (what < 640)
		do_mmap_shared(m, start, n);
	else if (what < 660)
		do_munmap(m, start, n);
	else if (what < 700)
		do_mprotect(m, start, n);
	else if (what < 720)
		do_dontneed(m, start, n);
	else if (what < 750)
		do_free(m, start, n);
	else if (what < 780)
		do_mremap(m, start, n);
	else if (what < 800)
		do_fork(m);
	else if (what < 812)
		do_exit(m);
	else if (what < 860)
		do_pin(m, start);
	else if (what < 900)
		do_dma();
	else if (what < 930)
		do_migrate(m, start, n);
	else if (what < 940)
		CHECK_EQ(tdmi_clear_soft_dirty(m->s, t.reader, at(start), n * PAGE), 0);
	else if (what < 990)
		(void)tdmi_vmscan(&t.w, t.reader, 1 + below(64), 1 + below(200));
	else
		tdmi_vmscan_age(&t.w);
}

static void one_run(u64 seed)
{
	rng = seed;
	ids = 0;
	memset(model, 0, sizeof(model));
	memset(pin, 0, sizeof(pin));
	memset(object, 0, sizeof(object));
	world_init(&t, 512, 512, below(8) ? "lz4" : NULL);
	t.hw = below(4) ? TDM_WALK_HW_A | TDM_WALK_HW_D : below(2) ? TDM_WALK_HW_A : 0;
	t.w.policy = (struct tdm_tlb_policy){ .batch = below(4), .batch_secondary = below(2) };
	tdmi_vmscan_policy(&t.w, below(3));
	model[0].s = world_space(&t);
	do_mmap(&model[0], 0, PAGES);
	for (u32 k = 0; k < OPS; k++)
		one_op();
	for (u32 i = 0; i < SPACES; i++)
		for (u32 p = 0; model[i].s && p < PAGES; p++)
			do_read(&model[i], p);
	for (u32 k = 0; k < PINS; k++)
		if (pin[k].pfn.v)
			unpin(&pin[k]);
	for (u32 i = 0; i < SPACES; i++)
		if (model[i].s)
			tdmi_space_destroy(model[i].s, t.reader);
	for (u32 k = 0; k < OBJECTS; k++)
		let_go(k);
	world_end(&t);
}

TEST(what_is_read_was_written, .seconds = 120)
{
	const char *runs = getenv("TDM_RUNS");
	u64 seed = t_seed(), n = runs ? strtoull(runs, NULL, 0) : 60;

	for (u64 end = seed + n; seed != end; seed++) {
		printf("# seed %llu\n", (unsigned long long)seed);
		one_run(seed);
	}
}
