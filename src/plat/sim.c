// SPDX-License-Identifier: MIT
/*
 * sim.c - plat.h without a system call; see sim.h. State is global: a test has a process of its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/bitops.h"
#include "base/check.h"
#include "base/lockrank.h"
#include "plat/sim.h"

#define MAX_FILES 64

struct sim_file {
	bool open;
	u64 nblocks;  /* of table */
	u8 **block;   /* 4 KiB each; NULL: a hole */
};

struct plat_ioq {
	u32 depth, count;
	struct plat_io **done; /* in the order of submission */
};

static struct {
	u8 *arena;
	size_t pages;
	u64 *used;        /* a bit a page */
	u64 *size_of;     /* pages of the mapping that begins here */
	size_t mapped;
	u32 locked, ioqs;
	u64 now;
	u64 calls, fail_at, fail_count;
	u32 fail_kinds;
	int fail_err;     /* of a transfer */
	bool failed;
	u64 file_bytes, file_limit;
	u64 random;
	struct sim_file file[MAX_FILES];
	char log[256];
} sim;

/* ---- failures ---------------------------------------------------------------------------------------------------------- */

void tdm_sim_fail(u32 kinds, u64 first, u64 count, int err)
{
	sim.fail_kinds = kinds;
	sim.fail_at = first;
	sim.fail_count = count;
	sim.fail_err = err ? err : -EIO;
	sim.calls = 0;
	sim.failed = false;
}

void tdm_sim_fail_nth(u64 n, bool on)
{
	tdm_sim_fail(TDM_SIM_ALL, n, on ? ~(u64)0 : 1, 0);
}

u64 tdm_sim_calls(void)
{
	return sim.calls;
}

bool tdm_sim_failed(void)
{
	return sim.failed;
}

bool tdm_sim_fails(u32 kind)
{
	if (!(sim.fail_kinds & kind))
		return false;
	sim.calls++;
	if (sim.fail_at == 0 || sim.calls < sim.fail_at || sim.calls - sim.fail_at >= sim.fail_count)
		return false;
	sim.failed = true;
	return true;
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static void drop_file(struct sim_file *f)
{
	for (u64 i = 0; i < f->nblocks; i++)
		free(f->block[i]);
	free(f->block);
	*f = (struct sim_file){ 0 };
}

void tdm_sim_init(void *arena, size_t size)
{
	for (u32 i = 0; i < MAX_FILES; i++)
		drop_file(&sim.file[i]);
	free(sim.used);
	free(sim.size_of);
	memset(&sim, 0, sizeof(sim));
	sim.arena = arena;
	sim.pages = size / TDM_PAGE_SIZE;
	sim.used = calloc(TDM_BITMAP_WORDS(sim.pages) + 1, sizeof(u64));
	sim.size_of = calloc(sim.pages + 1, sizeof(u64));
	sim.file_limit = ~(u64)0;
	sim.fail_kinds = TDM_SIM_ALL;
	TDM_BUG_ON((uintptr_t)arena % TDM_PAGE_SIZE != 0 || !sim.used || !sim.size_of);
}

size_t tdm_sim_mapped(void)
{
	return sim.mapped;
}

void *plat_map(size_t size)
{
	size_t n = size / TDM_PAGE_SIZE, align = size >= TDM_HUGE_SIZE ? TDM_HUGE_PAGES : 1;
	u64 base = (uintptr_t)sim.arena / TDM_PAGE_SIZE, at, end;

	TDM_BUG_ON(size == 0 || size % TDM_PAGE_SIZE != 0);
	if (tdm_sim_fails(TDM_SIM_MAP))
		return NULL;
	for (at = TDM_ALIGN_UP(base, align) - base; at + n <= sim.pages; at = TDM_ALIGN_UP(base + end, align) - base) {
		end = tdm_bitmap_next(sim.used, at, at + n);
		if (end == at + n)
			break;
		end = tdm_bitmap_next_clear(sim.used, end, sim.pages);
	}
	if (at + n > sim.pages)
		return NULL;
	tdm_bitmap_set_range(sim.used, at, at + n);
	sim.size_of[at] = n;
	sim.mapped += size;
	return memset(sim.arena + at * TDM_PAGE_SIZE, 0, size);
}

/* What was unmapped is filled with a pattern, so that a later use shows. */
void plat_unmap(void *p, size_t size)
{
	size_t at = (size_t)((u8 *)p - sim.arena) / TDM_PAGE_SIZE;

	TDM_BUG_ON((u8 *)p < sim.arena || at >= sim.pages || sim.size_of[at] * TDM_PAGE_SIZE != size);
	tdm_bitmap_clear_range(sim.used, at, at + size / TDM_PAGE_SIZE);
	sim.size_of[at] = 0;
	sim.mapped -= size;
	memset(p, 0xdb, size);
}

void plat_discard(void *p, size_t size)
{
	size_t at = (size_t)((u8 *)p - sim.arena) / TDM_PAGE_SIZE, n = size / TDM_PAGE_SIZE;

	TDM_BUG_ON((uintptr_t)p % TDM_PAGE_SIZE != 0 || size % TDM_PAGE_SIZE != 0 || (u8 *)p < sim.arena || at + n > sim.pages);
	TDM_BUG_ON(tdm_bitmap_next_clear(sim.used, at, at + n) != at + n);
	memset(p, 0, size);
}

/* There is one node. */
int plat_mem_node(void *p, size_t size, int node)
{
	(void)p;
	(void)size;
	return node > 0 ? -ENXIO : 0;
}

void plat_thread_node(int node)
{
	(void)node;
}

void plat_copy_new(void *dst, const void *src, size_t len)
{
	memcpy(dst, src, len);
}

/* ---- locks, waiting, threads, clock ------------------------------------------------------------------------------------ */

void plat_mutex_init(struct plat_mutex *m, u32 rank)
{
	tdm_a32_st_relaxed(&m->word, 0);
	m->rank = rank;
}

void plat_mutex_reset(struct plat_mutex *m)
{
	if (tdm_a32_ld_relaxed(&m->word)) {
		sim.locked--;
		tdmi_lockrank_release(m, m->rank);
	}
	tdm_a32_st_relaxed(&m->word, 0);
}

void plat_mutex_lock(struct plat_mutex *m)
{
	if (tdm_a32_ld_relaxed(&m->word))
		TDM_BUG("deadlock: the only thread holds this lock");
	tdmi_lockrank_acquire(m, m->rank);
	tdm_a32_st_relaxed(&m->word, 1);
	sim.locked++;
}

bool plat_mutex_trylock(struct plat_mutex *m)
{
	if (tdm_a32_ld_relaxed(&m->word))
		return false;
	tdmi_lockrank_taken(m, m->rank);
	tdm_a32_st_relaxed(&m->word, 1);
	sim.locked++;
	return true;
}

void plat_mutex_unlock(struct plat_mutex *m)
{
	if (!tdm_a32_ld_relaxed(&m->word))
		TDM_BUG("unlock of a free lock");
	tdmi_lockrank_release(m, m->rank);
	tdm_a32_st_relaxed(&m->word, 0);
	sim.locked--;
}

u32 tdm_sim_locked(void)
{
	return sim.locked;
}

int plat_wait(tdm_a32 *addr, u32 expected, u64 timeout_ns)
{
	if (tdm_a32_ld_relaxed(addr) != expected)
		return 0;
	if (timeout_ns == ~(u64)0)
		TDM_BUG("deadlock: nobody can end this wait");
	sim.now += timeout_ns;
	return -ETIMEDOUT;
}

void plat_wake(tdm_a32 *addr, u32 n)
{
	(void)addr;
	(void)n;
}

int plat_thread_start(struct plat_thread **t, void (*fn)(void *), void *arg, const char *name)
{
	(void)fn;
	(void)arg;
	(void)name;
	*t = NULL;
	return -ENOSYS;
}

void plat_thread_join(struct plat_thread *t)
{
	(void)t;
	TDM_BUG("there are no threads here");
}

void plat_yield(void)
{
	sim.now += 1000;
}

void plat_relax(void)
{
	sim.now += 10;
}

u64 plat_now_ns(void)
{
	return sim.now += 1000;
}

void tdm_sim_advance_ns(u64 ns)
{
	sim.now += ns;
}

int plat_random(void *buf, size_t len)
{
	u8 *p = buf;

	if (tdm_sim_fails(TDM_SIM_RANDOM))
		return -EIO;
	while (len--) {
		sim.random = sim.random * 6364136223846793005ull + 1442695040888963407ull;
		*p++ = (u8)(sim.random >> 56);
	}
	return 0;
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

u32 tdm_sim_files(void)
{
	u32 n = sim.ioqs;

	for (u32 i = 0; i < MAX_FILES; i++)
		n += sim.file[i].open;
	return n;
}

u64 tdm_sim_file_bytes(void)
{
	return sim.file_bytes;
}

void tdm_sim_file_limit(u64 bytes)
{
	sim.file_limit = bytes;
}

/* Numbers start at 1000, so that a descriptor of the process is not taken for one. */
static struct sim_file *file_of(int file)
{
	TDM_BUG_ON(file < 1000 || file >= 1000 + MAX_FILES || !sim.file[file - 1000].open);
	return &sim.file[file - 1000];
}

int plat_file_create(const char *dir, int *file, bool *direct)
{
	(void)dir;
	if (tdm_sim_fails(TDM_SIM_CREATE))
		return -EACCES;
	for (int i = 0; i < MAX_FILES; i++) {
		if (!sim.file[i].open) {
			sim.file[i].open = true;
			*file = 1000 + i;
			*direct = true;
			return 0;
		}
	}
	return -EMFILE;
}

static void free_block(struct sim_file *f, u64 i)
{
	if (f->block[i])
		sim.file_bytes -= TDM_PAGE_SIZE;
	free(f->block[i]);
	f->block[i] = NULL;
}

void plat_file_close(int file)
{
	struct sim_file *f = file_of(file);

	for (u64 i = 0; i < f->nblocks; i++)
		free_block(f, i);
	drop_file(f);
}

static u8 *block_for_write(struct sim_file *f, u64 i)
{
	if (i >= f->nblocks) {
		u64 n = TDM_MAX(i + 1, 2 * f->nblocks);

		u8 **more = realloc(f->block, n * sizeof(*f->block));

		TDM_BUG_ON(!more);
		f->block = more;
		memset(f->block + f->nblocks, 0, (n - f->nblocks) * sizeof(*f->block));
		f->nblocks = n;
	}
	if (!f->block[i] && sim.file_bytes + TDM_PAGE_SIZE <= sim.file_limit) {
		f->block[i] = calloc(1, TDM_PAGE_SIZE);
		sim.file_bytes += TDM_PAGE_SIZE;
	}
	return f->block[i];
}

/* Past the end is -EIO, like a short read. */
static int transfer(struct plat_io *io)
{
	struct sim_file *f = file_of(io->file);
	u32 len = io->len;
	int r = 0;

	TDM_BUG_ON((uintptr_t)io->buf % TDM_PAGE_SIZE || io->len % TDM_PAGE_SIZE || io->off % TDM_PAGE_SIZE || io->len == 0);
	if (tdm_sim_fails(TDM_SIM_IO)) {
		len /= 2;
		r = sim.fail_err;
	}
	for (u32 done = 0; done < len; done += (u32)TDM_PAGE_SIZE) {
		u64 i = (io->off + done) / TDM_PAGE_SIZE;
		u8 *buf = (u8 *)io->buf + done;

		if (io->write) {
			u8 *block = block_for_write(f, i);

			if (!block)
				return -ENOSPC;
			memcpy(block, buf, TDM_PAGE_SIZE);
		} else if (i >= f->nblocks) {
			return -EIO;
		} else if (f->block[i]) {
			memcpy(buf, f->block[i], TDM_PAGE_SIZE);
		} else {
			memset(buf, 0, TDM_PAGE_SIZE);
		}
	}
	return r;
}

bool tdm_sim_file_flip(int file, u64 off)
{
	struct sim_file *f = file_of(file);
	u64 i = off / TDM_PAGE_SIZE;

	if (i >= f->nblocks || !f->block[i])
		return false;
	f->block[i][off % TDM_PAGE_SIZE] ^= 1;
	return true;
}

int plat_file_io(struct plat_io *io)
{
	io->result = transfer(io);
	return io->result;
}

int plat_ioq_create(struct plat_ioq **q, u32 depth)
{
	if (tdm_sim_fails(TDM_SIM_QUEUE))
		return -ENOMEM;
	*q = calloc(1, sizeof(**q));
	(*q)->depth = depth;
	(*q)->done = calloc(depth, sizeof(struct plat_io *));
	sim.ioqs++;
	return 0;
}

void plat_ioq_destroy(struct plat_ioq *q)
{
	TDM_BUG_ON(q->count != 0);
	free(q->done);
	free(q);
	sim.ioqs--;
}

void plat_ioq_forget(struct plat_ioq *q)
{
	q->count = 0;
	plat_ioq_destroy(q);
}

int plat_ioq_submit(struct plat_ioq *q, struct plat_io *const *ios, u32 n)
{
	if (q->count + n > q->depth)
		return -EAGAIN;
	if (tdm_sim_fails(TDM_SIM_QUEUE))
		return -EIO;
	for (u32 i = 0; i < n; i++) {
		ios[i]->result = transfer(ios[i]);
		q->done[q->count++] = ios[i];
	}
	return 0;
}

int plat_ioq_reap(struct plat_ioq *q, struct plat_io **done, u32 max, u32 min)
{
	u32 n = TDM_MIN(max, q->count);

	if (min > q->count)
		TDM_BUG("deadlock: waits for more transfers than were submitted");
	memcpy(done, q->done, n * sizeof(struct plat_io *));
	memmove(q->done, q->done + n, (q->count - n) * sizeof(struct plat_io *));
	q->count -= n;
	return (int)n;
}

void plat_file_punch(int file, u64 off, u64 len)
{
	struct sim_file *f = file_of(file);

	if (tdm_sim_fails(TDM_SIM_PUNCH))
		return;
	for (u64 i = off / TDM_PAGE_SIZE; i < (off + len) / TDM_PAGE_SIZE && i < f->nblocks; i++)
		free_block(f, i);
}

int plat_file_free(const char *dir, u64 *bytes)
{
	(void)dir;
	if (tdm_sim_fails(TDM_SIM_FREE))
		return -EIO;
	*bytes = sim.file_limit - sim.file_bytes;
	return 0;
}

/* ---- the end ----------------------------------------------------------------------------------------------------------- */

void plat_log(const char *line)
{
	snprintf(sim.log, sizeof(sim.log), "%s", line);
}

const char *tdm_sim_log(void)
{
	return sim.log;
}

void plat_abort(const char *msg)
{
	fputs(msg, stderr);
	fflush(stderr);
	abort();
}
