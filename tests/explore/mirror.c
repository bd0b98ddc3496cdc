// SPDX-License-Identifier: MIT
/*
 * mirror.c - a device with a page table of its own (port/mirror.c), over the engine of the live process: fills against rounds, pages that the device has for itself (mm/exclusive.c)
 * or in its memory (mm/migrate.c) against the program's touches.
 *
 * The process is port/cpu.c: its operations are as atomic as the kernel's, since nobody is interrupted within them, and so are the program's accesses. What the device does with
 * memory that it reaches by frame is not: it reads, somebody else may run, and it writes. So a page that both have at a time loses a write.
 */
#include <string.h>
#include "base/check.h"
#include "mm/mm.h"
#include "port/cpu.h"
#include "port/mirror.h"
#include "tests/explore/codec.h"
#include "plat/explore/explore.h"

#define BASE ((u64)1 << 30)
#define PAGE 16u          /* the first of a block */
#define VA (BASE + PAGE * TDM_PAGE_SIZE)
#define WORD (VA + 64)
#define FRAMES TDM_HUGE_PAGES

static struct world {
	struct tdm_cpu cpu;
	struct tdm_mm mm;
	struct tdm_ctx *ctx[3];   /* by thread */
	struct tdm_mirror mirror, other; /* the second device's */
	struct tdm_mirror_reader reader, other_reader;
	struct tdm_pool pool;
	u8 *memory;               /* the device's */
	u64 done[3];              /* additions of the devices: by thread */
	bool inside;              /* one of them is between reading and writing */
} *w;

static struct tdm_ctx *ctx(void)
{
	return w->ctx[tdmx_self()];
}

/* ---- the device's memory */

/* A thread of the engine that reads an empty home of a live process waits for somebody to serve its fault. */
static void check_homes(const void *home, u32 n)
{
	u64 first = (u64)((const u8 *)home - w->cpu.arena) / TDM_PAGE_SIZE;

	for (u64 i = first; i < first + n; i++)
		TDMX_CHECK(w->cpu.populated[i / 64] >> (i % 64) & 1, "a home is read that is empty");
}

static int copy_in(struct tdm_pool *p, u32 frame, const void *src, u32 n)
{
	(void)p;
	tdmx_point("copies to the device");
	check_homes(src, n);
	memcpy(w->memory + (size_t)frame * TDM_PAGE_SIZE, src, (size_t)n * TDM_PAGE_SIZE);
	return 0;
}

static int copy_out(struct tdm_pool *p, void *dst, u32 frame, u32 n)
{
	(void)p;
	tdmx_point("copies from the device");
	memcpy(dst, w->memory + (size_t)frame * TDM_PAGE_SIZE, (size_t)n * TDM_PAGE_SIZE);
	return 0;
}

static void page_free(struct tdm_pool *p, u32 frame, u32 order)
{
	(void)p;
	memset(w->memory + (size_t)frame * TDM_PAGE_SIZE, 0xdd, TDM_PAGE_SIZE << order);
}

static const struct tdm_pool_ops pool_ops = { .name = "device", .copy_in = copy_in, .copy_out = copy_out, .page_free = page_free };

static void *memory(void *arg, u32 frame)
{
	(void)arg;
	return w->memory + (size_t)frame * TDM_PAGE_SIZE;
}

static const struct tdm_mirror_ops mirror_ops = { .memory = memory };

/* ---- the program */

static u64 load(u64 va)
{
	u64 v = 0;
	int r;

	tdmx_point("a load of the program");
	r = tdmi_cpu_read(&w->cpu, ctx(), va, &v, sizeof(v));
	TDMX_CHECK(!r, "a load of the program said %d", r);
	return v;
}

static void store(u64 va, u64 v)
{
	int r;

	tdmx_point("a store of the program");
	r = tdmi_cpu_write(&w->cpu, ctx(), va, &v, sizeof(v));
	TDMX_CHECK(!r, "a store of the program said %d", r);
}

static bool mapped(u64 va)
{
	u8 flags;

	tdmx_peek(&flags, tdm_cpu_flags(&w->cpu, va), sizeof(flags));
	return flags & TDM_CPU_PRESENT;
}

/* ---- setup */

static void quiet(void)
{
	/* Descriptors, lists of folios by age, numbers: they decide nothing here. The lock of the lists is held for moments, with the table locked or no folio in anybody's hands. */
	tdmx_quiet(&w->mm.alloc, sizeof(w->mm.alloc));
	tdmx_quiet(&w->mm.lru, sizeof(w->mm.lru));
	tdmx_quiet(&w->mm.frames, sizeof(w->mm.frames));
	tdmx_quiet(&w->mm.predict, sizeof(w->mm.predict));
	tdmx_quiet(&w->mm.lent, sizeof(tdm_a64) * 5);
	tdmx_quiet(&w->mm.notifiers.nodes_lock, sizeof(w->mm.notifiers.nodes_lock));
	tdmx_quiet(&w->mirror.faults, sizeof(tdm_a64) * 6);
	tdmx_quiet(&w->pool.lru, sizeof(w->pool.lru));
	tdmx_quiet(&w->pool.frames, sizeof(w->pool.frames));
	tdmx_quiet(&w->pool.pages, sizeof(tdm_a64) * 3);
	tdmx_name(&w->mirror, sizeof(w->mirror), "mirror");
	tdmx_name(&w->mm, sizeof(w->mm), "mm");
}

/* One page of the program's has been written: 5. The device's table exists, as far as to there, and is empty. */
static void setup(void)
{
	struct tdm_tier *tier = xt_tier(4, true);
	struct tdm_swap *swap;
	u64 none;
	int r;

	w = tdmx_alloc(sizeof(*w));
	TDM_BUG_ON(tdmi_cpu_init(&w->cpu, BASE, TDM_HUGE_PAGES, FRAMES));
	tdmx_bytes(&w->cpu, sizeof(w->cpu));
	tdmx_bytes(w->cpu.bytes, TDM_HUGE_SIZE);
	tdmx_bytes(w->cpu.flags, TDM_HUGE_PAGES);
	tdmx_bytes(w->cpu.arena, FRAMES * TDM_PAGE_SIZE);
	tdmx_bytes(w->cpu.populated, TDM_PAGE_SIZE);
	tdmx_bytes(&w->inside, sizeof(w->inside));
	TDM_BUG_ON(tdmi_swap_create(&tier, 1, &swap));
	TDM_BUG_ON(tdmi_mm_init(&w->mm, &w->cpu.port, w->cpu.arena, FRAMES, swap));
	for (u32 i = 0; i < 3; i++)
		w->ctx[i] = tdmi_ctx_create(&w->mm);
	TDM_BUG_ON(tdmi_mirror_init(&w->mirror, &w->mm, "device", &mirror_ops, NULL, &w->pool, TDM_MIRROR_4K));
	TDM_BUG_ON(tdmi_mirror_reader_init(&w->reader, &w->mirror, w->ctx[1]));
	TDM_BUG_ON(tdmi_cpu_mmap(&w->cpu, ctx(), VA, VA + TDM_BLOCK_SIZE, false));
	store(WORD, 5);
	/* Tables of the device, for a moment. */
	w->reader.ctx = ctx();
	r = tdmi_mirror_fault(&w->reader, VA, VA + TDM_PAGE_SIZE, false, 0, 0);
	TDM_BUG_ON(r);
	TDM_BUG_ON(tdmi_range_home(ctx(), VA, VA + TDM_PAGE_SIZE, &none));
	TDM_BUG_ON(load(WORD) != 5);
	w->reader.ctx = w->ctx[1];
	quiet();
}

static u64 has(u64 va)
{
	u64 e;

	tdm_mirror_enter(&w->reader);
	e = tdmi_mirror_lookup(&w->mirror, va);
	tdm_mirror_exit(&w->reader);
	return e;
}

/* ---- a fill against an unmap: of the device's table nothing is left that is not there */

static void fills(void *arg)
{
	int r;

	(void)arg;
	TDM_BUG_ON(!tdmi_mm_enter(ctx()));
	r = tdmi_mirror_fault(&w->reader, VA, VA + TDM_PAGE_SIZE, false, 0, 0);
	tdmi_mm_exit(ctx());
	TDMX_CHECK(!r || r == -EFAULT, "the fill said %d", r);
}

static void unmaps(void *arg)
{
	(void)arg;
	TDM_BUG_ON(!tdmi_mm_enter(ctx()));
	tdmi_cpu_munmap(&w->cpu, ctx(), VA, VA + TDM_BLOCK_SIZE);
	tdmi_mm_exit(ctx());
}

static void mirror_unmap_setup(void)
{
	setup();
	tdmx_spawn("device", fills, NULL);
	tdmx_spawn("unmapper", unmaps, NULL);
}

static void mirror_unmap_check(void)
{
	TDMX_CHECK(!has(VA), "the device has %#llx of a page that is unmapped", (unsigned long long)has(VA));
}

TDMX_SCENARIO(mirror_unmap, .what = "when munmap() has returned no device's table has the page, whoever was filling it", .setup = mirror_unmap_setup, .check = mirror_unmap_check);

/* ---- a page of its own, against a touch */

/* Atomic towards everybody, as the device alone has the page: nobody writes it between the two. */
static void adds(void *p, void *arg)
{
	static const bool yes = true, no = false;
	u64 v, was;

	(void)arg;
	TDMX_CHECK(!w->inside, "two devices have the page at a time");
	tdmx_poke(&w->inside, &yes, sizeof(yes));
	tdmx_peek(&was, p, sizeof(was));
	TDMX_CHECK(!mapped(VA), "the device and the program have the page at a time");
	tdmx_point("the device is about to write");
	TDMX_CHECK(!mapped(VA), "the program has been given the page while the device uses it");
	v = was + 1;
	tdmx_peek(&was, p, sizeof(was));
	TDMX_CHECK(was + 1 == v, "somebody has written to what the device has for itself: %llu", (unsigned long long)was);
	tdmx_poke(p, &v, sizeof(v));
	tdmx_poke(&w->inside, &no, sizeof(no));
}

static void device_adds(void *arg)
{
	int r = tdmi_mirror_atomic(arg, WORD, sizeof(u64), adds, NULL);

	TDMX_CHECK(!r || r == -EBUSY, "the atomic said %d", r);
	if (!r)
		w->done[tdmx_self()]++;
}

static void program_stores(void *arg)
{
	(void)arg;
	store(WORD + 8, 7);
	(void)load(WORD);
}

static void exclusive_setup(void)
{
	setup();
	tdmx_spawn("device", device_adds, &w->reader);
	tdmx_spawn("program", program_stores, NULL);
}

static void check_sum(void)
{
	u64 done = w->done[0] + w->done[1] + w->done[2];

	TDMX_CHECK(load(WORD) == 5 + done, "%llu additions were made, and the word is %llu", (unsigned long long)done, (unsigned long long)load(WORD));
}

static void exclusive_check(void)
{
	check_sum();
	TDMX_CHECK(load(WORD + 8) == 7, "a store of the program was lost");
}

TDMX_SCENARIO(exclusive_revoke, .what = "a touch takes back what a device has for itself, and no write of either is lost", .setup = exclusive_setup, .check = exclusive_check);

/* ---- two devices want the page */

/* What is its own still, as it looks: nothing is brought. */
static void uses_its_own(void *arg)
{
	struct tdm_mirror_reader *r = arg;
	void *p;
	u64 e;

	TDM_BUG_ON(!tdmi_mm_enter(ctx()));
	TDM_BUG_ON(tdmi_mirror_map_own(r, VA, VA + TDM_PAGE_SIZE));
	tdmi_mm_exit(ctx());
	tdm_mirror_enter(r);
	e = tdmi_mirror_lookup(r->m, WORD);
	p = e & TDM_RF_WRITE ? tdmi_mirror_memory(r->m, e) : NULL;
	if (p) {
		adds((u8 *)p + (WORD & ~TDM_PAGE_MASK), NULL);
		w->done[tdmx_self()]++;
	}
	tdm_mirror_exit(r);
}

/* As it is somebody's alone already, it is not brought first. */
static void takes_over(void *arg)
{
	struct tdm_mirror_reader *r = arg;
	void *home;
	u64 n;

	TDM_BUG_ON(!tdmi_mm_enter(ctx()));
	TDMX_CHECK(!tdmi_make_exclusive(ctx(), VA, VA + TDM_PAGE_SIZE, r->m->owner, &home, &n) && n == 1, "it could not be had");
	tdmi_mm_exit(ctx());
	uses_its_own(r);
}

static void exclusive_two_setup(void)
{
	setup();
	TDM_BUG_ON(tdmi_mirror_init(&w->other, &w->mm, "other", &mirror_ops, NULL, &w->other, TDM_MIRROR_4K));
	TDM_BUG_ON(tdmi_mirror_reader_init(&w->other_reader, &w->other, ctx()));
	device_adds(&w->other_reader);
	w->reader.ctx = ctx();
	device_adds(&w->reader);
	w->reader.ctx = w->ctx[1];
	tdmx_quiet(&w->other.faults, sizeof(tdm_a64) * 6);
	tdmx_name(&w->other, sizeof(w->other), "other mirror");
	w->other_reader.ctx = w->ctx[2];
	tdmx_spawn("device", uses_its_own, &w->reader);
	tdmx_spawn("other", takes_over, &w->other_reader);
}

TDMX_SCENARIO(exclusive_two, .what = "of two devices that want a page for themselves one has it at a time", .setup = exclusive_two_setup, .check = check_sum);

/* ---- a page in the device's memory, against a touch */

static void device_migrates(void *arg)
{
	u64 n;
	int r;

	TDM_BUG_ON(!tdmi_mm_enter(ctx()));
	r = tdmi_migrate_to_device(ctx(), &w->pool, VA, VA + TDM_PAGE_SIZE, &n);
	TDMX_CHECK(!r, "the migration said %d", r);
	/* Somebody may have touched it again: then the device finds nothing. */
	if (n && tdmi_mirror_fault(&w->reader, VA, VA + TDM_PAGE_SIZE, true, 0, 0))
		tdmx_note("the device has no entry");
	tdmi_mm_exit(ctx());
	device_adds(arg);
}

static void setup_pool(void)
{
	setup();
	w->memory = tdmx_alloc(TDM_HUGE_SIZE);
	tdmx_bytes(w->memory, TDM_HUGE_SIZE);
	TDM_BUG_ON(tdmi_pool_init(&w->pool, &pool_ops, NULL, &w->pool, TDM_HUGE_PAGES));
	TDM_BUG_ON(tdmi_pool_attach(&w->mm, &w->pool));
}

static void private_setup(void)
{
	setup_pool();
	tdmx_spawn("device", device_migrates, &w->reader);
	tdmx_spawn("program", program_stores, NULL);
}

TDMX_SCENARIO(private_touch, .what = "a touch brings back what lies in a device's memory, and no write of either is lost", .setup = private_setup, .check = exclusive_check);

/* It is touched, written, and taken home again, so that its entry looks as it did when the copy began. */
static void stores_and_takes_home(void *arg)
{
	u64 n;

	(void)arg;
	store(WORD + 8, 7);
	TDM_BUG_ON(!tdmi_mm_enter(ctx()));
	TDM_BUG_ON(tdmi_range_home(ctx(), VA, VA + TDM_PAGE_SIZE, &n));
	tdmi_mm_exit(ctx());
}

static void only_migrates(void *arg)
{
	u64 n;
	int r;

	(void)arg;
	TDM_BUG_ON(!tdmi_mm_enter(ctx()));
	r = tdmi_migrate_to_device(ctx(), &w->pool, VA, VA + TDM_PAGE_SIZE, &n);
	tdmi_mm_exit(ctx());
	TDMX_CHECK(!r, "the migration said %d", r);
}

static void private_again_setup(void)
{
	setup_pool();
	tdmx_spawn("device", only_migrates, NULL);
	tdmx_spawn("program", stores_and_takes_home, NULL);
}

TDMX_SCENARIO(private_again, .what = "a page that is used and taken home again while it is copied to a device is not replaced by the copy", .setup = private_again_setup,
	      .check = exclusive_check);

/* It is there already: the touch, and the device that uses it. */
static void private_there_setup(void)
{
	u64 n;

	setup_pool();
	TDM_BUG_ON(tdmi_migrate_to_device(ctx(), &w->pool, VA, VA + TDM_PAGE_SIZE, &n) || n != 1);
	w->reader.ctx = ctx();
	TDM_BUG_ON(tdmi_mirror_fault(&w->reader, VA, VA + TDM_PAGE_SIZE, true, 0, 0));
	w->reader.ctx = w->ctx[1];
	tdmx_spawn("device", device_adds, &w->reader);
	tdmx_spawn("program", program_stores, NULL);
}

TDMX_SCENARIO(private_use, .what = "nor is one of the device's that it makes while the page is being brought back", .setup = private_there_setup, .check = exclusive_check);
