/* SPDX-License-Identifier: MIT */
/*
 * oracle - does memory keep what was written to it, whatever the program does with it?
 *
 * Chunks of memory (each a mapping of its own) hold pages whose content is a function of who they are and how often they were written. What
 * each page must contain is kept in shared memory, which no engine manages. Threads pick chunks at random and check and write pages, in whole
 * and in part, by stores and by system calls; grow, shrink, punch, protect, move, discard and lock; fork children, which check all
 * of it against a copy of the truth and write their own; and exec. Everything is drawn from one seed (the interleaving is not).
 */
#include "common.h"
#include <pthread.h>
#include <setjmp.h>

#define CHUNK_PAGES 1024u /* at most */
#define STRIPES     8u
#define WORKERS     4u

/* What a page must hold. version 0: zeros. upd: single words changed since. MAYBE: discarded by MADV_FREE, so zeros will also do. */
typedef uint64_t truth_t;
#define T_UPD(t)     ((t) & 0xff)
#define T_MAYBE      0x100ull
#define T_VERSION(t) (((t) >> 16) & 0xffffff)
#define T_WORLD(t)   ((t) >> 40)
#define T_MAKE(world, version) ((uint64_t)(world) << 40 | ((uint64_t)(version) & 0xffffff) << 16)

enum access { RW, RO, NONE };

struct chunk {
	pthread_rwlock_t lock; /* shared: pages are accessed; exclusive: the mapping changes */
	pthread_mutex_t stripe[STRIPES];
	char *base;
	uint32_t pages; /* mapped; 0: no mapping */
	uint32_t life;  /* counts mappings: part of the name of each page */
	enum access access;
	bool locked; /* mlocked */
	bool whole;  /* one VMA, so that mremap takes it */
	truth_t truth[CHUNK_PAGES];
};

struct world {
	size_t nchunks;
	uint64_t id; /* of this process: tells its writes from those of its parent and children */
	struct chunk chunk[];
};

/* Shared by all descendants. */
struct common {
	_Atomic uint64_t worlds, forked, done, live;
	_Atomic bool failed;
	_Atomic uint64_t checks, writes, ops;
};

static struct world *world;
static struct common *com;
static pthread_rwlock_t stop_the_world; /* shared: an operation runs; exclusive: somebody forks a consistent picture */
static _Atomic bool stop;
static __thread sigjmp_buf *trap;
static __thread void *trap_addr;

static size_t world_size(size_t n)
{
	return sizeof(struct world) + n * sizeof(struct chunk);
}

static void locks_init(struct world *w)
{
	pthread_rwlockattr_t a;

	pthread_rwlockattr_init(&a);
	pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&stop_the_world, &a);
	for (size_t i = 0; i < w->nchunks; i++) {
		pthread_rwlock_init(&w->chunk[i].lock, &a);
		for (unsigned s = 0; s < STRIPES; s++)
			pthread_mutex_init(&w->chunk[i].stripe[s], NULL);
	}
}

static uint64_t name_of(const struct chunk *c, uint32_t i)
{
	return (uint64_t)(c - world->chunk) << 44 | (uint64_t)c->life << 16 | i;
}

/* The word that update number u changes, and its new value. */
static void update(uint64_t *w, uint64_t name, truth_t t, unsigned u)
{
	uint64_t h = mix(name ^ mix(t & ~0x1ffull) ^ ((uint64_t)u << 56));

	w[4 + h % 500] = h;
}

static void expected(uint64_t *want, const struct chunk *c, uint32_t i, truth_t t)
{
	if (T_VERSION(t) == 0)
		memset(want, 0, PAGE);
	else
		page_gen(want, name_of(c, i), t >> 16);
	for (unsigned u = 1; u <= T_UPD(t); u++)
		update(want, name_of(c, i), t, u);
}

/* The caller holds the stripe, or the chunk exclusively. */
static void check_page(struct chunk *c, uint32_t i, const char *what)
{
	uint64_t want[512];
	truth_t t = c->truth[i];
	const void *page = c->base + i * PAGE;

	expected(want, c, i, t);
	if (memcmp(page, want, PAGE) != 0) {
		if (!(t & T_MAYBE) || !page_is_zero(page))
			page_explain(page, want, name_of(c, i), t >> 16, what);
		c->truth[i] = 0;
	}
	atomic_fetch_add_explicit(&com->checks, 1, memory_order_relaxed);
}

/* Bring a page's bytes in by a system call. */
static void write_by_pipe(void *page, const void *from)
{
	int p[2];
	size_t done = 0;

	CHECK_SYS(pipe2(p, O_CLOEXEC));
	CHECK(write(p[1], from, PAGE) == (ssize_t)PAGE, "write of a page into a pipe: %s", strerror(errno));
	while (done < PAGE) {
		ssize_t n = read(p[0], (char *)page + done, PAGE - done);

		CHECK(n > 0, "read from a pipe into page %p: %s", page, strerror(errno));
		done += (size_t)n;
	}
	close(p[0]);
	close(p[1]);
}

static void write_page(struct chunk *c, uint32_t i, struct rng *r)
{
	char *page = c->base + i * PAGE;
	truth_t t = c->truth[i];
	uint64_t want[512], how = below(r, 100);

	atomic_fetch_add_explicit(&com->writes, 1, memory_order_relaxed);
	if (how < 60 && !(t & T_MAYBE) && T_UPD(t) < 15) {
		t++;
		update((uint64_t *)(void *)page, name_of(c, i), t, (unsigned)T_UPD(t));
	} else {
		uint64_t v = T_VERSION(t) + 1;

		t = T_MAKE(world->id, v & 0xffffff ? v : 1);
		page_gen(want, name_of(c, i), t >> 16);
		if (how < 95)
			memcpy(page, want, PAGE);
		else
			write_by_pipe(page, want);
	}
	c->truth[i] = t;
}

static struct chunk *pick(struct rng *r)
{
	uint64_t n = world->nchunks;

	/* A third of the accesses go to an eighth of the chunks: some memory is hotter. */
	return &world->chunk[below(r, below(r, 3) ? n : (n + 7) / 8)];
}

static void op_access(struct rng *r)
{
	struct chunk *c = pick(r);
	uint32_t run, i;
	bool all = below(r, 40) == 0;

	pthread_rwlock_rdlock(&c->lock);
	if (c->pages && c->access != NONE) {
		i = (uint32_t)below(r, c->pages);
		run = all ? c->pages : (uint32_t)(below(r, 4) ? 1 : 1 + below(r, 32));
		for (; run && i < c->pages && !atomic_load(&stop); run--, i++) {
			pthread_mutex_lock(&c->stripe[i % STRIPES]);
			check_page(c, i, "random access");
			if (c->access == RW && below(r, 2))
				write_page(c, i, r);
			pthread_mutex_unlock(&c->stripe[i % STRIPES]);
		}
	}
	pthread_rwlock_unlock(&c->lock);
}

static void on_segv(int sig, siginfo_t *si, void *ctx)
{
	if (trap && ((uintptr_t)si->si_addr & ~(PAGE - 1)) == (uintptr_t)trap_addr)
		siglongjmp(*trap, 1);
	fail("unexpected signal %d at %p", sig, si->si_addr);
}

/* True: the access was refused with a SIGSEGV at that page. */
static bool refused(void *page, bool write)
{
	sigjmp_buf env;
	bool hit = true;

	trap_addr = page;
	trap = &env;
	if (sigsetjmp(env, 1) == 0) {
		if (write)
			*(volatile char *)page = 1;
		else
			(void)*(volatile char *)page;
		hit = false;
	}
	trap = NULL;
	return hit;
}

static void set_access(struct chunk *c, enum access a)
{
	int prot = a == RW ? PROT_READ | PROT_WRITE : a == RO ? PROT_READ : PROT_NONE;

	CHECK(mprotect(c->base, c->pages * PAGE, prot) == 0, "mprotect(%p, %u pages, %d): %s", (void *)c->base, c->pages, prot, strerror(errno));
	c->access = a;
}

/* The following are called with the chunk held exclusively, mapped and readable and writable, except where they say otherwise. */

static void op_create(struct chunk *c, struct rng *r)
{
	c->pages = 1 + (uint32_t)below(r, CHUNK_PAGES);
	c->base = anon(c->pages * PAGE);
	c->life++;
	c->access = RW;
	c->whole = true;
	memset(c->truth, 0, sizeof(c->truth));
	if (below(r, 4) == 0)
		madvise(c->base, c->pages * PAGE, MADV_HUGEPAGE);
	/* A quarter of them are left with holes: pages never touched. */
	for (uint32_t i = 0, sparse = below(r, 4) == 0; i < c->pages; i++)
		if (!sparse || below(r, 2))
			write_page(c, i, r);
}

static void op_destroy(struct chunk *c, struct rng *r)
{
	(void)r;
	CHECK_SYS(munmap(c->base, c->pages * PAGE));
	c->pages = 0;
}

/* Copy a chunk that consists of several VMAs to one that is whole again. */
static void op_copy(struct chunk *c)
{
	char *to = anon(c->pages * PAGE);

	memcpy(to, c->base, c->pages * PAGE);
	for (uint32_t i = 0; i < c->pages; i++)
		if (c->truth[i] & T_MAYBE) /* now it is the one or the other, for good */
			c->truth[i] = page_is_zero(to + i * PAGE) ? 0 : c->truth[i] & ~T_MAYBE;
	CHECK_SYS(munmap(c->base, c->pages * PAGE));
	c->base = to;
	c->whole = true;
}

static void op_grow(struct chunk *c, struct rng *r)
{
	uint32_t to = c->pages + 1 + (uint32_t)below(r, CHUNK_PAGES - c->pages + 1);
	void *p;

	if (to > CHUNK_PAGES)
		return;
	p = mremap(c->base, c->pages * PAGE, to * PAGE, MREMAP_MAYMOVE);
	CHECK(p != MAP_FAILED, "mremap(%p, %u to %u pages): %s", (void *)c->base, c->pages, to, strerror(errno));
	c->base = p;
	for (; c->pages < to; c->pages++)
		c->truth[c->pages] = 0;
	check_page(c, to - 1, "after mremap that grows");
}

static void op_shrink(struct chunk *c, struct rng *r)
{
	uint32_t to = 1 + (uint32_t)below(r, c->pages);

	if (below(r, 2)) {
		void *p = mremap(c->base, c->pages * PAGE, to * PAGE, 0);

		CHECK(p == c->base, "mremap that shrinks: %s", strerror(errno));
	} else if (to < c->pages) {
		CHECK_SYS(munmap(c->base + to * PAGE, (c->pages - to) * PAGE));
	}
	c->pages = to;
}

static void op_move(struct chunk *c, struct rng *r)
{
	size_t len = c->pages * PAGE;
	bool keep = below(r, 3) == 0;
	char *to, *from = c->base, what[100];

	if (below(r, 2)) {
		/* To a place that we chose: one that held something else until now. */
		to = anon(len);
		memset(to, 0x5a, len < 64 * KiB ? len : 64 * KiB);
		to = mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0), to);
	} else {
		to = mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		keep = true;
	}
	CHECK(to != MAP_FAILED, "mremap that moves %p (%zu bytes, keep %d): %s", (void *)from, len, keep, strerror(errno));
	c->base = to;
	snprintf(what, sizeof(what), "after mremap that moves %p to %p, %u pages", (void *)from, (void *)to, c->pages);
	for (uint32_t i = 0; i < c->pages; i += 1 + (uint32_t)below(r, 16))
		check_page(c, i, what);
	if (!keep)
		return;
	check_zero(from, len, "the old place after MREMAP_DONTUNMAP");
	memset(from, 0x33, len < 64 * KiB ? len : 64 * KiB);
	CHECK_SYS(munmap(from, len));
}

static void op_remap(struct chunk *c, struct rng *r)
{
	if (!c->whole)
		op_copy(c);
	if (below(r, 2))
		op_move(c, r);
	else
		op_grow(c, r);
}

/* Take the middle out, and put new memory there if nobody was faster. */
static void op_punch(struct chunk *c, struct rng *r)
{
	uint32_t a = (uint32_t)below(r, c->pages), n = 1 + (uint32_t)below(r, c->pages - a);
	char *at = c->base + a * PAGE;
	void *p;

	CHECK_SYS(munmap(at, n * PAGE));
	p = mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p == MAP_FAILED) {
		if (a + n < c->pages)
			CHECK_SYS(munmap(at + n * PAGE, (c->pages - a - n) * PAGE));
		c->pages = a;
		return;
	}
	c->whole = false;
	CHECK(p == at, "MAP_FIXED_NOREPLACE at %p gave %p", (void *)at, p);
	check_zero(at, n * PAGE, "new memory where old was unmapped");
	memset(&c->truth[a], 0, n * sizeof(truth_t));
}

/* Map new memory straight over old. */
static void op_overmap(struct chunk *c, struct rng *r)
{
	uint32_t a = (uint32_t)below(r, c->pages), n = 1 + (uint32_t)below(r, c->pages - a);
	char *at = c->base + a * PAGE;

	CHECK(mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at, "MAP_FIXED over %p: %s", (void *)at,
	      strerror(errno));
	c->whole = false;
	check_zero(at, n * PAGE, "MAP_FIXED over old memory");
	memset(&c->truth[a], 0, n * sizeof(truth_t));
}

static void op_protect(struct chunk *c, struct rng *r)
{
	uint32_t a = (uint32_t)below(r, c->pages), n = 1 + (uint32_t)below(r, c->pages - a);
	uint32_t i = a + (uint32_t)below(r, n);
	char *at = c->base + a * PAGE, *page = c->base + i * PAGE;

	if (n < c->pages)
		c->whole = false; /* what was split need not merge again, in a fork child least of all */
	CHECK_SYS(mprotect(at, n * PAGE, PROT_READ));
	check_page(c, i, "read-only");
	CHECK(refused(page, true), "a write to the read-only page %p went through", (void *)page);
	check_page(c, i, "read-only, after a refused write");
	CHECK_SYS(mprotect(at, n * PAGE, PROT_NONE));
	CHECK(refused(page, false), "a read of the PROT_NONE page %p went through", (void *)page);
	CHECK(refused(page, true), "a write to the PROT_NONE page %p went through", (void *)page);
	if (below(r, 2)) {
		CHECK_SYS(mprotect(at, n * PAGE, PROT_READ));
		check_page(c, i, "read-only after PROT_NONE");
	}
	CHECK_SYS(mprotect(at, n * PAGE, PROT_READ | PROT_WRITE));
	check_page(c, i, "writable again");
	/* Or leave the whole of it so for others to find. */
	if (below(r, 2))
		set_access(c, below(r, 4) ? RO : NONE);
}

static void op_discard(struct chunk *c, struct rng *r)
{
	uint32_t a = (uint32_t)below(r, c->pages), n = 1 + (uint32_t)below(r, below(r, 2) ? c->pages - a : 1);
	char *at = c->base + a * PAGE;
	uint32_t i;

	if (below(r, 2)) {
		CHECK_SYS(madvise(at, n * PAGE, MADV_DONTNEED));
		memset(&c->truth[a], 0, n * sizeof(truth_t));
		if (below(r, 2))
			check_zero(at, n * PAGE, "after MADV_DONTNEED");
		else
			for (i = a; i < a + n; i++)
				if (below(r, 2))
					write_page(c, i, r);
	} else {
		CHECK_SYS(madvise(at, n * PAGE, MADV_FREE));
		for (i = a; i < a + n; i++)
			c->truth[i] |= T_MAYBE;
		for (i = a; i < a + n; i++)
			if (below(r, 2))
				write_page(c, i, r);
	}
}

/* Advice that must change nothing. */
static void op_advise(struct chunk *c, struct rng *r)
{
	static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
		                      MADV_COLLAPSE, MADV_SEQUENTIAL, MADV_RANDOM, MADV_NORMAL };
	uint32_t a = (uint32_t)below(r, c->pages), n = 1 + (uint32_t)below(r, c->pages - a);
	int adv = advice[below(r, sizeof(advice) / sizeof(*advice))];
	int err;

	if (n < c->pages)
		c->whole = false;
	for (uint32_t i = a; adv == MADV_POPULATE_WRITE && i < a + n; i++)
		check_page(c, i, "before MADV_POPULATE_WRITE"); /* a page that may be zero becomes the one or the other, for good */
	err = madvise(c->base + a * PAGE, n * PAGE, adv) ? errno : 0;
	CHECK(!err || adv == MADV_COLLAPSE || adv == MADV_PAGEOUT || (err == EAGAIN && adv >= MADV_POPULATE_READ), "madvise(%p, %u pages, %d): %s",
	      (void *)(c->base + a * PAGE), n, adv, strerror(err));
	check_page(c, a, "after advice");
}

static void op_lock(struct chunk *c, struct rng *r)
{
	uint32_t a = (uint32_t)below(r, c->pages), left = c->pages - a, n = 1 + (uint32_t)below(r, left < 64 ? left : 64);

	if (mlock(c->base + a * PAGE, n * PAGE) != 0)
		return; /* RLIMIT_MEMLOCK */
	c->whole = false;
	for (uint32_t i = a; i < a + n; i++)
		check_page(c, i, "mlocked");
	if (below(r, 2))
		c->locked = true;
	else
		CHECK_SYS(munlock(c->base + a * PAGE, n * PAGE));
}

static void op_change(struct rng *r)
{
	struct chunk *c = pick(r);

	pthread_rwlock_wrlock(&c->lock);
	if (c->pages && c->access != RW)
		set_access(c, RW);
	if (c->pages && c->locked) {
		CHECK_SYS(munlock(c->base, c->pages * PAGE));
		c->locked = false;
	}
	if (!c->pages) {
		op_create(c, r);
	} else {
		static const struct {
			const char *name;
			void (*op)(struct chunk *, struct rng *);
		} ops[16] = {
			{ "destroy", op_destroy }, { "remap", op_remap }, { "remap", op_remap }, { "remap", op_remap },
			{ "remap", op_remap }, { "shrink", op_shrink }, { "punch", op_punch }, { "overmap", op_overmap },
			{ "protect", op_protect }, { "protect", op_protect }, { "protect", op_protect }, { "discard", op_discard },
			{ "discard", op_discard }, { "lock", op_lock }, { "advise", op_advise }, { "advise", op_advise },
		};
		uint64_t k = below(r, 16);

		if (!without(ops[k].name))
			ops[k].op(c, r);
	}
	pthread_rwlock_unlock(&c->lock);
}

/* malloc: blocks of any size, each filled with bytes that say which it is. */
#define BLOCKS 48
struct block {
	unsigned char *p;
	size_t len;
	unsigned char tag;
};

static void block_check(const struct block *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (b->p[i] != (unsigned char)(b->tag + (i >> 7)))
			fail("malloc block %p of %zu bytes: byte %zu is %#x, must be %#x", (void *)b->p, b->len, i, b->p[i], (unsigned char)(b->tag + (i >> 7)));
}

static void block_fill(struct block *b, size_t from)
{
	for (size_t i = from; i < b->len; i++)
		b->p[i] = (unsigned char)(b->tag + (i >> 7));
}

static void op_malloc(struct block *blocks, struct rng *r)
{
	struct block *b = &blocks[below(r, BLOCKS)];
	size_t len = 1 + below(r, below(r, 16) ? 8 * KiB : MiB), old = b->len;

	if (b->p && below(r, 3)) {
		block_check(b, b->len);
		free(b->p);
		b->p = NULL;
		return;
	}
	if (b->p) {
		b->p = realloc(b->p, len);
		CHECK(b->p, "realloc");
		b->len = len;
		block_check(b, old < len ? old : len);
		block_fill(b, old < len ? old : len);
		return;
	}
	b->p = malloc(len);
	CHECK(b->p, "malloc");
	b->len = len;
	b->tag = (unsigned char)rnd(r);
	block_fill(b, 0);
}

static void check_all(const char *what, struct rng *r, unsigned one_in)
{
	for (size_t k = 0; k < world->nchunks; k++) {
		struct chunk *c = &world->chunk[k];

		if (!c->pages)
			continue;
		if (c->access == NONE)
			set_access(c, RO);
		for (uint32_t i = 0; i < c->pages; i++)
			if (one_in == 1 || below(r, one_in) == 0)
				check_page(c, i, what);
	}
}

static void child_exec(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (pid == 0) {
		char seed[32];

		snprintf(seed, sizeof(seed), "%" PRIu64, opt.seed + world->id);
		dup2(2, 1);
		execl("/proc/self/exe", prog_argv[0], "--mb", "12", "--seconds", "1", "--only", "pages", "--seed", seed, (char *)NULL);
		fail("execl: %s", strerror(errno));
	}
	reap(pid, 0, "exec of itself");
}

static void do_fork(struct rng *r, int depth);

/* The life of a child: everything must be as it was; what it writes is its own. */
__attribute__((noreturn)) static void child(struct rng *r, int depth)
{
	unsigned one_in = below(r, 3) ? 1 : 8;

	r->s ^= mix(world->id);
	check_all("in a fork child", r, one_in);
	for (unsigned n = 0; n < 400; n++) {
		if (below(r, 4))
			op_access(r);
		else
			op_change(r);
		if (n % 100 == 50 && depth < 3 && below(r, 3) == 0)
			do_fork(r, depth + 1);
	}
	check_all("in a fork child, after its own writes", r, one_in);
	if (depth == 0 && below(r, 6) == 0)
		child_exec();
	atomic_fetch_add(&com->done, 1);
	atomic_fetch_sub(&com->live, 1);
	_exit(0);
}

/* Called with the world stopped, or single-threaded. */
static void do_fork(struct rng *r, int depth)
{
	size_t size = world_size(world->nchunks);
	struct world *copy;
	bool orphan = below(r, 3) == 0;
	pid_t pid;

	if (atomic_load(&com->live) >= 3)
		return;
	atomic_fetch_add(&com->live, 1);
	atomic_fetch_add(&com->forked, 1);
	copy = shared(size);
	memcpy(copy, world, size);
	copy->id = atomic_fetch_add(&com->worlds, 1);
	pid = fork();
	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (pid == 0) {
		/* The truth of the parent stays mapped, but is not looked at again. */
		world = copy;
		locks_init(world);
		if (orphan && fork() != 0)
			_exit(0); /* the grandchild outlives its parent */
		child(r, depth);
	}
	munmap(copy, size);
	if (orphan || depth > 0)
		reap(pid, 0, "forked child");
}

/* Worker 0 forks; the others are stopped meanwhile, between two operations. */
static void stop_and_fork(struct rng *r)
{
	pthread_rwlock_unlock(&stop_the_world);
	pthread_rwlock_wrlock(&stop_the_world);
	do_fork(r, 0);
	pthread_rwlock_unlock(&stop_the_world);
	pthread_rwlock_rdlock(&stop_the_world);
}

/* Fork while everybody else goes on: the child can only judge what belongs to this thread. */
static void fork_in_motion(struct block *blocks)
{
	pid_t pid = fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (pid == 0) {
		for (unsigned i = 0; i < BLOCKS; i++)
			if (blocks[i].p) {
				block_check(&blocks[i], blocks[i].len);
				blocks[i].tag = (unsigned char)(blocks[i].tag + 17);
				block_fill(&blocks[i], 0);
			}
		for (unsigned i = 0; i < BLOCKS; i++)
			if (blocks[i].p)
				block_check(&blocks[i], blocks[i].len);
		_exit(0);
	}
	reap(pid, 0, "child forked in motion");
	for (unsigned i = 0; i < BLOCKS; i++)
		if (blocks[i].p)
			block_check(&blocks[i], blocks[i].len);
}

static void *worker(void *arg)
{
	uintptr_t me = (uintptr_t)arg;
	struct rng r = { opt.seed * 1000 + me };
	struct block *blocks = calloc(BLOCKS, sizeof(*blocks));
	uint64_t next_fork = now_ns() + 300000000u * (me + 1);

	pthread_rwlock_rdlock(&stop_the_world);
	while (!atomic_load(&stop)) {
		uint64_t what = below(&r, 1000);

		/* Let somebody in who waits to stop the world. */
		pthread_rwlock_unlock(&stop_the_world);
		if (atomic_load(&com->failed))
			_exit(1);
		while (waitpid(-1, NULL, WNOHANG | __WNOTHREAD) > 0)
			;
		pthread_rwlock_rdlock(&stop_the_world);
		atomic_fetch_add_explicit(&com->ops, 1, memory_order_relaxed);
		if (what < 700)
			op_access(&r);
		else if (what < 900 && !without("malloc"))
			op_malloc(blocks, &r);
		else
			op_change(&r);
		if (now_ns() > next_fork && !without("fork")) {
			if (me == 0)
				stop_and_fork(&r);
			else
				fork_in_motion(blocks);
			next_fork = now_ns() + 200000000u + below(&r, 1000000000u);
		}
	}
	pthread_rwlock_unlock(&stop_the_world);
	for (unsigned i = 0; i < BLOCKS; i++)
		if (blocks[i].p) {
			block_check(&blocks[i], blocks[i].len);
			free(blocks[i].p);
		}
	free(blocks);
	return NULL;
}

static void part_pages(void)
{
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };
	size_t n = opt.mb / 2 + 1;
	pthread_t th[WORKERS];
	struct rng r = { opt.seed };

	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	com = shared(sizeof(*com));
	fail_flag = &com->failed;
	com->worlds = 2;
	world = shared(world_size(n));
	world->nchunks = n;
	world->id = 1;
	locks_init(world);
	for (size_t i = 0; i < n; i++)
		op_create(&world->chunk[i], &r);
	for (uintptr_t i = 0; i < WORKERS; i++)
		CHECK(pthread_create(&th[i], NULL, worker, (void *)i) == 0, "pthread_create");
	for (uint64_t end = now_ns() + opt.seconds * 1000000000u; now_ns() < end && !atomic_load(&com->failed);)
		sleep_ms(20);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(th[i], NULL);
	check_all("at the end", &r, 1);
	for (uint64_t end = now_ns() + slow_s(60) * 1000000000ull; atomic_load(&com->done) != atomic_load(&com->forked);) {
		if (atomic_load(&com->failed))
			_exit(1);
		CHECK(now_ns() < end, "%" PRIu64 " of %" PRIu64 " descendants never finished", com->forked - com->done, com->forked);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		sleep_ms(5);
	}
	check_all("after all children have ended", &r, 1);
	fprintf(stderr, "oracle: %" PRIu64 " operations, %" PRIu64 " pages checked, %" PRIu64 " written, %" PRIu64 " forks\n", com->ops, com->checks,
		com->writes, com->forked);
}

/* brk: before any thread runs and with no malloc in between. */
static void part_brk(void)
{
	char *start = sbrk(0), *base = (char *)(((uintptr_t)start + PAGE - 1) & ~(PAGE - 1));
	size_t len = opt.mb * MiB / 4;

	press_init();
	CHECK_SYS(brk(base));
	for (unsigned round = 0; round < 3; round++) {
		size_t at = 0, step = 3 * PAGE;

		for (; at < len; at += step) {
			CHECK(sbrk((intptr_t)step) == base + at, "sbrk");
			check_zero(base + at, step, "new break memory");
			fill(base + at, step, 0xb000000 + at / PAGE, round);
		}
		press();
		check(base, at, 0xb000000, round, "break memory");
		/* Shrink to the half, grow again: that half is zeros. */
		CHECK_SYS(brk(base + at / 2 / PAGE * PAGE));
		CHECK_SYS(brk(base + at));
		check(base, at / 2 / PAGE * PAGE, 0xb000000, round, "kept half of the break");
		check_zero(base + at / 2 / PAGE * PAGE, at - at / 2 / PAGE * PAGE, "break memory after shrinking and growing");
		CHECK_SYS(brk(base));
	}
	CHECK_SYS(brk(start));
}

/*
 * No lost update. One word a page is added to by everybody atomically; one word for each thread is stored to by it alone, so that
 * stores by several threads to one page meet its eviction.
 */
struct counting {
	char *base;
	size_t pages;
	uint32_t *mine[WORKERS]; /* what each thread has stored, in shared memory */
	uint64_t added[WORKERS];
};
static struct counting cnt;

static uint64_t *word(size_t page, unsigned lane)
{
	return (uint64_t *)(void *)(cnt.base + page * PAGE + (mix(page) % 500) * 8) + lane;
}

static void *count(void *arg)
{
	uintptr_t me = (uintptr_t)arg;
	struct rng r = { opt.seed * 77 + me };

	while (!atomic_load(&stop)) {
		size_t p = below(&r, cnt.pages), n = below(&r, 8) ? 1 : 64;

		for (; n && p < cnt.pages; n--, p++) {
			uint64_t *lane = word(p, 1 + (unsigned)me);

			__atomic_fetch_add(word(p, 0), 1, __ATOMIC_RELAXED);
			cnt.added[me]++;
			if (*(volatile uint64_t *)lane != cnt.mine[me][p])
				fail("lost store: page %p lane %u holds %" PRIu64 ", %u were stored", (void *)lane, (unsigned)me, *lane, cnt.mine[me][p]);
			*(volatile uint64_t *)lane = ++cnt.mine[me][p];
		}
	}
	return NULL;
}

static void part_counters(void)
{
	pthread_t th[WORKERS];
	uint64_t sum = 0, want = 0;

	press_init();
	cnt.pages = opt.mb * MiB / PAGE / 2;
	cnt.base = anon(cnt.pages * PAGE);
	for (unsigned i = 0; i < WORKERS; i++)
		cnt.mine[i] = shared(cnt.pages * sizeof(uint32_t));
	atomic_store(&stop, false);
	for (uintptr_t i = 0; i < WORKERS; i++)
		CHECK(pthread_create(&th[i], NULL, count, (void *)i) == 0, "pthread_create");
	for (uint64_t end = now_ns() + (opt.seconds + 1) * 500000000u; now_ns() < end;)
		press_some(256);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < WORKERS; i++) {
		pthread_join(th[i], NULL);
		want += cnt.added[i];
	}
	for (size_t p = 0; p < cnt.pages; p++) {
		sum += *word(p, 0);
		for (unsigned i = 0; i < WORKERS; i++)
			CHECK(*word(p, 1 + i) == cnt.mine[i][p], "lost store: page %zu lane %u holds %" PRIu64 ", %u were stored", p, i, *word(p, 1 + i),
			      cnt.mine[i][p]);
	}
	CHECK(sum == want, "lost updates: %" PRIu64 " additions, the counters hold %" PRIu64, want, sum);
	munmap(cnt.base, cnt.pages * PAGE);
	atomic_store(&stop, false);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = { { "brk", part_brk }, { "counters", part_counters }, { "pages", part_pages } };

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
