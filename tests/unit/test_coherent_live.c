// SPDX-License-Identifier: MIT
/*
 * test_coherent_live.c - coherent memory in a live process: pins that are for long end in ram, and what mremap() moves stays on its device.
 *
 * The public functions know no coherent devices (`tandem dmirror` has them), so the library is compiled into this program, and the device is attached below them.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <tandem/tandem.h>
#include <unistd.h>
#include "mm/gup.h"
#include "mm/range_fault.h"
#include "plat/linux/sys.h"
#include "run/device.h"
#include "run/live.h"
#include "runner/t.h"

#define PAGE ((size_t)4096)
#define BLOCK ((size_t)65536)
#define PAGES 64u
#define LEN (PAGES * PAGE)
#define STORM_NS ((u64)1000000000)

long tdmi_inject(long nr, long a, long b, long c, long d, long e, long f)
{
	return nr == SYS_clone ? 0 : tdm_sys6_raw(nr, a, b, c, d, e, f);
}

static struct tdm *engine;
static struct tdm_device *dev;
static char *mem; /* 64 pages, from a block on */

static const struct tdm_pool_ops pool_ops = { .name = "coherent" };
static const struct tdm_mirror_ops mirror_ops = { 0 };

/* So much, at a multiple of 64 KiB, plus so many pages. */
static char *map(size_t len, size_t off)
{
	char *p = mmap(NULL, len + 2 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)p + BLOCK - 1) & ~(BLOCK - 1)) + off * PAGE;

	CHECK(p != MAP_FAILED);
	CHECK(at == p || !munmap(p, (size_t)(at - p)));
	CHECK(!munmap(at + len, (size_t)(p + len + 2 * BLOCK - (at + len))));
	CHECK(!madvise(at, len, MADV_NOHUGEPAGE));
	return at;
}

static void fill(char *p, u64 add)
{
	for (u64 i = 0; i < PAGES; i++)
		((volatile u64 *)(void *)(p + i * PAGE))[i % 512] = i + add;
}

static void check(const char *p, u64 add)
{
	for (u64 i = 0; i < PAGES; i++)
		CHECK_EQ(((const volatile u64 *)(const void *)(p + i * PAGE))[i % 512], i + add);
}

static void begin(void)
{
	struct tdm_options o = { .size = sizeof(o) };
	struct tdm_device_config c = { .name = "coherent", .pool_ops = &pool_ops, .nframes = 512, .mirror_ops = &mirror_ops, .nworkers = 2,
				       .page_sizes = TDM_MIRROR_4K, .coherent = true, .stuck_ns = 10000000000 };
	static char line[240];
	int r = tdm_start(&o, &engine, line, sizeof(line));

	if (r == -EPERM || r == -EOPNOTSUPP)
		SKIP(line);
	CHECK_EQ(r, 0);
	CHECK_EQ(tdmi_device_attach(tdmi_live, &c, &dev), 0);
	mem = map(LEN, 0);
	fill(mem, 1);
	CHECK_EQ(tdmi_live_request(tdmi_live, TDM_OP_FIND, 0, 0, NULL), 0);
}

static void end(void)
{
	CHECK(!munmap(mem, LEN));
	CHECK_EQ(tdmi_device_detach(dev), 0);
	CHECK_EQ(tdm_stop(engine), 0);
}

static u64 va_of(const char *p)
{
	return (u64)(uintptr_t)p;
}

static u64 migrate(const char *p, size_t len)
{
	u64 n;

	CHECK_EQ(tdmi_device_do(dev, tdmi_device_job_migrate, NULL, va_of(p), va_of(p) + len, &n), 0);
	return n;
}

static int look(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	u64 entry[PAGES] = { 0 };
	struct tdm_range_fault rf = { .start = job->a, .end = job->b, .entry = entry, .owner = dev };
	int r;

	tdm_device_enter_mm(w);
	r = tdmi_range_fault(w->ctx, &rf);
	tdmi_mm_exit(w->ctx);
	job->out = 0;
	for (u64 i = 0; !r && i < (job->b - job->a) / PAGE; i++)
		job->out += (entry[i] & (TDM_RF_VALID | TDM_RF_COHERENT)) == (TDM_RF_VALID | TDM_RF_COHERENT);
	return r;
}

/* Pages that are in the device's memory. */
static u64 there(const char *p, size_t len)
{
	u64 n = 0, k;

	for (size_t o = 0; o < len; o += LEN, n += k)
		CHECK_EQ(tdmi_device_do(dev, look, NULL, va_of(p) + o, va_of(p) + TDM_MIN(o + LEN, len), &k), 0);
	return n;
}

struct pin {
	u32 n, flags, done;
	struct tdm_pfn page[PAGES];
};

static int pin_job(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	struct pin *p = job->arg;
	int r;

	tdm_device_enter_mm(w);
	r = tdmi_pin(w->ctx, job->a, p->n, p->flags, p->page, &p->done);
	tdmi_mm_exit(w->ctx);
	return r;
}

static int unpin_job(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	struct pin *p = job->arg;

	tdm_device_enter_mm(w);
	tdmi_unpin(w->ctx, p->page, p->done);
	tdmi_mm_exit(w->ctx);
	return 0;
}

static void pin(struct pin *p, const char *at, u32 n, u32 flags)
{
	*p = (struct pin){ .n = n, .flags = flags };
	CHECK_EQ(tdmi_device_do(dev, pin_job, p, va_of(at), 0, NULL), 0);
	CHECK_EQ(p->done, n);
}

static void unpin(struct pin *p)
{
	CHECK_EQ(tdmi_device_do(dev, unpin_job, p, 0, 0, NULL), 0);
}

static u64 evict(u64 pages)
{
	u64 n = 0;
	int r = tdmi_device_do(dev, tdmi_device_job_evict, NULL, pages, 0, &n);

	/* What is pinned stays. */
	CHECK(!r || r == -EBUSY);
	return n;
}

TEST(short_pins_in_place, .seconds = 60)
{
	struct pin p;

	begin();
	CHECK_EQ(migrate(mem, LEN), PAGES);
	CHECK_EQ(there(mem, LEN), PAGES);
	for (u32 flags = TDM_GUP_READ; flags <= TDM_GUP_WRITE; flags++) {
		pin(&p, mem + 20 * PAGE, 2, flags);
		CHECK_EQ(there(mem, LEN), PAGES);
		/* It cannot be evicted meanwhile, and can be written where it is. */
		(void)evict(PAGES);
		CHECK_EQ(there(mem + 16 * PAGE, 16 * PAGE), 16);
		fill(mem, 10 + flags);
		CHECK_EQ(there(mem + 16 * PAGE, 16 * PAGE), 16);
		unpin(&p);
		(void)evict(PAGES);
		CHECK_EQ(there(mem, LEN), 0);
		check(mem, 10 + flags);
		(void)migrate(mem, LEN);
		CHECK_EQ(there(mem, LEN), PAGES);
	}
	end();
}

TEST(long_pins_end_in_ram, .seconds = 60)
{
	static const u32 n[] = { 1, 2, 16, 40 };
	struct pin p;

	begin();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(n); i++)
		for (u32 write = 0; write < 2; write++) {
			const char *at = mem + 10 * PAGE;

			(void)migrate(mem, LEN);
			CHECK_EQ(there(mem, LEN), PAGES);
			pin(&p, at, n[i], TDM_GUP_LONGTERM | (write ? TDM_GUP_WRITE : 0));
			CHECK_EQ(there(at, n[i] * PAGE), 0);
			for (u32 k = 0; k < n[i]; k++)
				CHECK(!(p.page[k].v >> 63)); /* a frame of ram */
			/* It does not go there again, nor out, and its bytes are what they were. */
			check(mem, 1);
			(void)migrate(mem, LEN);
			(void)evict(~(u64)0);
			CHECK_EQ(there(at, n[i] * PAGE), 0);
			fill(mem, 5);
			check(mem, 5);
			fill(mem, 1);
			unpin(&p);
		}
	(void)migrate(mem, LEN);
	CHECK_EQ(there(mem, LEN), PAGES);
	end();
}

/* A child shares them: who pins for writing gets a copy of his own, and the child sees nothing of what is written then. */
TEST(pins_of_what_a_child_shares, .seconds = 60)
{
	for (u32 flags = 0; flags < 4; flags++) {
		struct pin p;
		int go[2], st;
		char c = 0;
		pid_t pid;

		begin();
		CHECK_EQ(migrate(mem, LEN), PAGES);
		CHECK(!pipe(go));
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			bool same = read(go[0], &c, 1) == 1;

			for (u64 i = 0; i < PAGES; i++)
				same = same && ((volatile u64 *)(void *)(mem + i * PAGE))[i % 512] == i + 1;
			_exit(same ? 0 : 1);
		}
		CHECK_EQ(there(mem, LEN), PAGES);
		pin(&p, mem + 10 * PAGE, 8, flags);
		/* Only what stays shared stays there. */
		CHECK_EQ(there(mem + 10 * PAGE, 8 * PAGE), flags ? 0 : 8);
		check(mem, 1);
		fill(mem, 9);
		CHECK_EQ(write(go[1], &c, 1), 1);
		CHECK(waitpid(pid, &st, 0) == pid);
		CHECK_EQ(st, 0);
		check(mem, 9);
		unpin(&p);
		CHECK(!close(go[0]) && !close(go[1]));
		end();
	}
}

struct storm {
	u64 until;
	u64 pins, coherent;
};

/* While they are pinned for long, no page is ever seen in the device's memory. */
static int pin_storm(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	struct storm *s = job->arg;
	struct pin p = { .n = 8, .flags = TDM_GUP_LONGTERM };
	int r = 0;

	while ((!r || r == -EBUSY) && plat_now_ns() < s->until) {
		struct tdm_device_job at = { .a = job->a + s->pins % 7 * 8 * PAGE };

		at.b = at.a + 8 * PAGE;
		at.arg = &p;
		p.flags ^= TDM_GUP_WRITE;
		r = pin_job(w, &at);
		if (!r && !(r = look(w, &at))) {
			s->coherent += at.out;
			s->pins++;
		}
		(void)unpin_job(w, &at);
	}
	return r == -EBUSY ? 0 : r;
}

TEST(long_pins_against_migration, .seconds = 60)
{
	struct storm s = { 0 };
	struct tdm_device_job *job;
	u64 x = 1, moved = 0;

	begin();
	s.until = plat_now_ns() + STORM_NS;
	job = tdmi_device_submit(dev, pin_storm, &s, va_of(mem), 0);
	CHECK(job != NULL);
	while (plat_now_ns() < s.until) {
		moved += migrate(mem, LEN);
		check(mem, x);
		fill(mem, ++x);
	}
	CHECK_EQ(tdmi_device_wait(dev, job, NULL), 0);
	check(mem, x);
	CHECK(s.pins > 0 && moved > 0);
	CHECK_EQ(s.coherent, 0);
	end();
}

/* To where a block can go as one, to where it cannot, and back. */
TEST(what_is_moved_stays, .seconds = 60)
{
	for (size_t off = 0; off < 16; off += 5) {
		char *to;

		begin();
		CHECK_EQ(migrate(mem, LEN), PAGES);
		for (u32 i = 0; i < 4; i++) {
			to = map(LEN, i & 1 ? 0 : off);
			CHECK(mremap(mem, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
			mem = to;
			check(mem, 1 + i);
			CHECK_EQ(there(mem, LEN), PAGES);
			fill(mem, 2 + i);
			CHECK_EQ(tdm_a64_ld_relaxed(&dev->pool.pages), PAGES);
		}
		(void)evict(~(u64)0);
		CHECK_EQ(there(mem, LEN), 0);
		check(mem, 5);
		end();
	}
}
