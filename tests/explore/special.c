// SPDX-License-Identifier: MIT
/*
 * special.c - mm/special.c, insert_range.c and collapse.c: leaves of a driver's mapping that come, are cut into tables, become leaves again and go, under CPUs that walk and fault.
 *
 * The driver has one buffer of 2 MiB in its memory. It holds its lock while it knows where the buffer is: in its fault, and when it takes it away, which is what
 * tdmi_special_unmap() asks of it. Then it copies the bytes, and uses the memory for something else: so a store through an old translation is lost, and a load is wrong.
 */
#include <string.h>
#include "base/check.h"
#include "mm/collapse.h"
#include "mm/insert_range.h"
#include "mm/pin.h"
#include "mm/special.h"
#include "tests/explore/world.h"

#define AT ((u64)4 << 30)
#define PAGE 3u           /* that the CPU uses */
#define VA (AT + PAGE * TDM_PAGE_SIZE)
#define FOREIGN 9u

static struct driver {
	struct plat_mutex lock;
	struct plat_mutex maps;   /* guards the next two */
	struct tdm_map *map, *child;
	struct tdm_pfn pfn;       /* where the buffer is; the lock */
	bool gone;
	bool small;               /* it hands over a page at a time */
	u64 kept;                 /* the word that was in the page when it was taken away */
} *drv;

static u64 *bytes(void)
{
	return (u64 *)(void *)(tdm_pfn_bytes(&xw->w.phys, drv->pfn) + PAGE * TDM_PAGE_SIZE);
}

static enum tdm_fault_result fault_locked(struct tdm_map *m, u64 va, u64 size, bool write)
{
	struct tdm_insert how = { TDM_INSERT_YOUNG | (write ? TDM_INSERT_WRITE | TDM_INSERT_DIRTY : 0), va, 0 };
	u64 page = (va - AT) >> TDM_PAGE_SHIFT;
	struct tdm_inserted out;
	int r;

	if (drv->gone)
		return TDM_FAULT_SIGBUS;
	if (drv->small && size > TDM_PAGE_SIZE)
		return TDM_FAULT_FALLBACK;
	r = drv->small ? tdmi_insert_range(m, va, (struct tdm_pfn){ drv->pfn.v + page }, 1, &how, &out) : tdmi_insert_range(m, AT, drv->pfn, TDM_HUGE_PAGES, &how, &out);
	return !r ? TDM_FAULT_DONE : r == -ENOMEM ? TDM_FAULT_OOM : TDM_FAULT_SIGBUS;
}

static enum tdm_fault_result driver_fault(struct tdm_map *m, u64 va, u64 size, bool write)
{
	enum tdm_fault_result r;

	plat_mutex_lock(&drv->lock);
	r = fault_locked(m, va, size, write);
	plat_mutex_unlock(&drv->lock);
	return r;
}

static void driver_close(struct tdm_map *m)
{
	(void)m;
}

/* A fork's child has the mapping, too; and its leaves from here on. */
static void driver_open(struct tdm_map *m, struct tdm_map *child)
{
	(void)m;
	plat_mutex_lock(&drv->maps);
	drv->child = child;
	plat_mutex_unlock(&drv->maps);
}

static const struct tdm_map_ops driver_ops = { .name = "buffer", .fault = driver_fault, .close = driver_close, .open = driver_open };

static void setup(void)
{
	uintptr_t flags = TDM_V_READ | TDM_V_WRITE | TDM_V_SHARED | TDM_V_SPECIAL;
	u32 range;

	xw_init(1, false);
	drv = tdmx_alloc(sizeof(*drv));
	plat_mutex_init(&drv->lock, 0);
	plat_mutex_init(&drv->maps, 0);
	TDM_BUG_ON(tdmi_phys_add(&xw->w.phys, TDM_MEM_SPECIAL, TDM_HUGE_PAGES, &range));
	drv->pfn.v = xw->w.phys.range[range].first;
	tdmx_bytes(xw->w.phys.range[range].bytes, TDM_HUGE_SIZE);
	TDM_BUG_ON(tdmi_mmap_driver(xw->s, xw_reader(), AT, TDM_HUGE_SIZE, flags, &driver_ops, NULL, 0, &drv->map));
	TDM_BUG_ON(!(xw->w.huge & TDM_HUGE_SIZE));
	*bytes() = 5;
	tdmx_name(&drv->lock, sizeof(drv->lock), "driver's lock");
}

/* The buffer is mapped by one leaf that nobody has used: no A, no D. */
static void map_huge(void)
{
	struct tdm_insert how = { TDM_INSERT_WRITE, AT, 0 };
	struct tdm_inserted out;

	TDM_BUG_ON(tdmi_insert_range(drv->map, AT, drv->pfn, TDM_HUGE_PAGES, &how, &out) || out.bytes[1] != TDM_HUGE_SIZE);
}

static void cut(void)
{
	plat_mutex_lock(&xw->s->change);
	TDM_BUG_ON(tdmi_special_cut(xw->s, xw_reader(), AT + TDM_HUGE_SIZE / 2));
	plat_mutex_unlock(&xw->s->change);
}

static void collapse(void)
{
	struct tdm_collapsed out;

	tdmi_collapse_range(xw->s, xw_reader(), AT, AT + TDM_HUGE_SIZE, &out);
	TDMX_CHECK(out.made[1] + out.holes, "a table that is whole was not collapsed");
}

/* What there is for the CPU's page. */
static struct tdm_pte entry_of(struct tdm_space *s, u32 *level)
{
	struct tdm_pte pte;
	u32 i;

	*level = tdmi_pt_walk(&s->pgt, VA, &i, &pte)->level;
	return pte;
}

static struct tdm_pte entry(u32 *level)
{
	return entry_of(xw->s, level);
}

static void check(void)
{
	u32 level;
	u64 v = entry(&level).v, mapped = 0;

	xw_check();
	for (u64 va = AT; va < AT + TDM_HUGE_SIZE; va += TDM_PAGE_SIZE) {
		struct tdm_pte pte;
		u32 i;

		(void)tdmi_pt_walk(&xw->s->pgt, va, &i, &pte);
		mapped += tdm_pte_present(pte) && tdm_pte_pfn(pte).v - drv->pfn.v < TDM_HUGE_PAGES;
	}
	TDMX_CHECK(tdm_a64_ld_relaxed(&xw->s->special) == mapped, "%llu pages are mapped, %llu are counted", (unsigned long long)mapped,
		   (unsigned long long)tdm_a64_ld_relaxed(&xw->s->special));
	TDMX_CHECK(!v || (v & TDM_PTE_SPECIAL), "the leaf is not special any more");
}

/* ---- a leaf is cut, and becomes one again, while a CPU sets A and D in it */

static void stores(void *arg)
{
	(void)arg;
	xw_store(xw->s, VA, 7);
}

static void stores_and_loads(void *arg)
{
	(void)arg;
	xw_store(xw->s, VA, 7);
	TDMX_CHECK(xw_load(xw->s, VA) == 7, "the CPU does not read what it has written");
}

static void check_dirty(void)
{
	u32 level;
	u64 v = entry(&level).v;

	check();
	TDMX_CHECK(v & TDM_PTE_ACCESSED && v & TDM_PTE_DIRTY, "the page was written, and its entry says %#llx", (unsigned long long)v);
	TDMX_CHECK(*bytes() == 7, "a store was lost");
}

static void splits(void *arg)
{
	(void)arg;
	cut();
}

static void special_split_setup(void)
{
	setup();
	map_huge();
	tdmx_spawn("CPU", stores_and_loads, NULL);
	tdmx_spawn("cutter", splits, NULL);
}

TDMX_SCENARIO(special_split, .what = "accessed and dirty bits that are set while a leaf is cut are those of the table", .setup = special_split_setup, .check = check_dirty);

static void collapses(void *arg)
{
	(void)arg;
	collapse();
	tdmi_rcu_poll(&xw->w.rcu);
}

static void special_collapse_setup(void)
{
	setup();
	drv->small = true;
	map_huge();
	cut();
	tdmx_spawn("CPU", stores, NULL);
	tdmx_spawn("collapser", collapses, NULL);
}

static void special_collapse_check(void)
{
	u32 level;

	check_dirty();
	(void)entry(&level);
	TDMX_CHECK(level == 1, "it is no leaf");
}

TDMX_SCENARIO(special_collapse, .what = "nor are they lost when a table becomes a leaf; who faults meanwhile, or walks the old table, finds the leaf", .setup = special_collapse_setup,
	      .check = special_collapse_check);

/* The last hole of the table is filled, and it is collapsed, while another CPU has faulted on the hole and is on its way to the table. */
static void fills_and_collapses(void *arg)
{
	xw_store(xw->s, VA + 8, 1);
	collapses(arg);
}

static void special_collapse_hole_setup(void)
{
	setup();
	drv->small = true;
	map_huge();
	cut();
	tdmi_special_unmap(drv->map, xw_reader(), VA, VA + TDM_PAGE_SIZE, false);
	tdmx_spawn("CPU", stores, NULL);
	tdmx_spawn("collapser", fills_and_collapses, NULL);
}

TDMX_SCENARIO(special_collapse_hole, .what = "a fault that has found the table finds out that it is dead", .setup = special_collapse_hole_setup,
	      .check = special_collapse_check);

/* ---- what a lockless walk returns of it: nothing, at any level */

static void pins(void *arg)
{
	struct tdm_pfn page;

	(void)arg;
	for (u32 i = 0; i < 2; i++) {
		TDMX_CHECK(!tdmi_pin_fast(xw->s, xw_reader(), VA, 1, TDM_PIN_READ, &page), "a driver's memory was pinned");
		tdmi_rcu_read_lock(xw_reader());
		TDMX_CHECK(!tdmi_space_get_page(xw->s, VA, &page), "a page was got of a driver's memory");
		tdmi_rcu_read_unlock(xw_reader());
	}
}

static void splits_and_collapses(void *arg)
{
	splits(arg);
	collapses(arg);
}

static void special_gup_setup(void)
{
	setup();
	map_huge();
	tdmx_spawn("pinner", pins, NULL);
	tdmx_spawn("changer", splits_and_collapses, NULL);
}

TDMX_SCENARIO(special_gup, .what = "gup-fast finds nothing in a leaf that is cut and collapsed, and reads no table that is free", .setup = special_gup_setup, .check = check);

/* ---- the driver takes the buffer away */

static void evicts(void *arg)
{
	u64 foreign = FOREIGN;

	(void)arg;
	plat_mutex_lock(&drv->lock);
	drv->gone = true;
	tdmi_special_unmap(drv->map, xw_reader(), AT, AT + TDM_HUGE_SIZE, true);
	drv->kept = *bytes();
	tdmx_poke(bytes(), &foreign, sizeof(foreign));
	plat_mutex_unlock(&drv->lock);
	tdmi_rcu_poll(&xw->w.rcu);
}

/* Two stores: the second may have the first one's translation. */
static void tries_to_store(void *arg)
{
	u64 *last = arg;

	for (u64 v = 7; v <= 8; v++) {
		int r = xw_try_store(xw->s, VA, v);

		TDMX_CHECK(!r || r == -ENXIO, "a store said %d", r);
		if (!r)
			tdmx_poke(last, &v, sizeof(v));
	}
}

static void check_evicted(void)
{
	u64 *last = xw->user;
	u32 level;

	check();
	TDMX_CHECK(!entry(&level).v, "there is an entry left");
	TDMX_CHECK(*bytes() == FOREIGN, "a store came when the memory was another's");
	TDMX_CHECK(drv->kept == *last, "the last store was %llu, and %llu was kept", (unsigned long long)*last, (unsigned long long)drv->kept);
}

static void spawn_storer(void)
{
	u64 *last = tdmx_alloc(sizeof(*last));

	*last = 5;
	xw->user = last;
	tdmx_spawn("CPU", tries_to_store, last);
}

static void special_evict_setup(void)
{
	setup();
	spawn_storer();
	tdmx_spawn("driver", evicts, NULL);
}

TDMX_SCENARIO(special_evict, .what = "nobody uses a driver's memory any more when its zapping has returned", .setup = special_evict_setup, .check = check_evicted);

static void collapses_and_evicts(void *arg)
{
	collapse();
	evicts(arg);
}

static void special_collapse_evict_setup(void)
{
	setup();
	drv->small = true;
	map_huge();
	cut();
	spawn_storer();
	tdmx_spawn("driver", collapses_and_evicts, NULL);
}

TDMX_SCENARIO(special_collapse_evict, .what = "nor when it was mapped in small pieces, and the leaf that took their place is zapped", .setup = special_collapse_evict_setup,
	      .check = check_evicted);

/* ---- it is unmapped, and something else is mapped there */

static void replaces(void *arg)
{
	(void)arg;
	TDM_BUG_ON(tdmi_munmap(xw->s, xw_reader(), AT, TDM_HUGE_SIZE));
	TDM_BUG_ON(tdmi_mmap(xw->s, xw_reader(), AT, TDM_HUGE_SIZE, TDM_V_READ));
}

static void check_replaced(void)
{
	u32 level;
	u64 v = entry(&level).v;

	check();
	TDMX_CHECK(!v || tdm_pte_pfn((struct tdm_pte){ v }).v == xw->w.zero.v, "the driver's leaf is in somebody else's mapping: %#llx", (unsigned long long)v);
}

static void tries_to_load(void *arg)
{
	u64 v = 5;
	int r = xw_try_load(xw->s, VA, &v);

	(void)arg;
	/* Between the two there is nothing: SIGSEGV. But at no time a mapping whose driver has nothing behind it: SIGBUS. */
	TDMX_CHECK(r == -EFAULT || (!r && (v == 5 || v == 0)), "read %llu (%d)", (unsigned long long)v, r);
}

static void special_munmap_setup(void)
{
	setup();
	tdmx_spawn("CPU", tries_to_load, NULL);
	tdmx_spawn("unmapper", replaces, NULL);
}

TDMX_SCENARIO(special_munmap, .what = "a fault brings no leaf back where munmap() has been, and what is mapped there instead is what is read", .setup = special_munmap_setup,
	      .check = check_replaced);

/* ---- the process forks while the driver takes the buffer away */

static void forks(void *arg)
{
	struct tdm_space *child;

	(void)arg;
	TDM_BUG_ON(tdmi_space_fork(xw->s, xw_reader(), &child));
	xw->user = child;
}

static void evicts_from_all(void *arg)
{
	(void)arg;
	plat_mutex_lock(&drv->maps);
	tdmi_special_unmap(drv->map, xw_reader(), AT, AT + TDM_HUGE_SIZE, false);
	if (drv->child)
		tdmi_special_unmap(drv->child, xw_reader(), AT, AT + TDM_HUGE_SIZE, false);
	plat_mutex_unlock(&drv->maps);
}

static void special_fork_setup(void)
{
	setup();
	map_huge();
	tdmx_spawn("parent", forks, NULL);
	tdmx_spawn("driver", evicts_from_all, NULL);
}

static void special_fork_check(void)
{
	u32 level;

	check();
	TDMX_CHECK(!entry(&level).v, "the parent has the leaf");
	TDMX_CHECK(!entry_of(xw->user, &level).v, "the child has the leaf");
}

TDMX_SCENARIO(special_fork, .what = "a fork copies no leaf that its driver has taken from the parent, and not from the child", .setup = special_fork_setup, .check = special_fork_check);
