/* SPDX-License-Identifier: MIT */
/*
 * devraces - the CPU and the device at the same pages at the same time, while these move, and while the program changes its address space.
 *
 * adds    both increment the same words: none is lost. stores: each has words of its own, in pages that both use, and always finds what it has written last
 * maps    munmap, mmap, mremap, mprotect, madvise while the device reads, writes and takes pages: what it gets is an error, or something that has been at that
 *         address; and when the call has returned, nothing old
 * found   two threads have parts of new memory migrated: who comes while the engine is taking it in for the other one waits until its pages are known
 */
#include "device.h"

static _Atomic bool stop;

static bool quick(void)
{
	return opt.seconds <= 5;
}

/* ---- adds ------------------------------------------------------------------------------------------------------------------------------- */

#define PAGES 64u
#define STRIDE (PAGE / 8)
static uint64_t *words; /* PAGES pages; words 0 to 7 of each are added to */
static uint64_t cpu_adds;        /* by each thread, at least */
static _Atomic uint64_t cpu_added;
static _Atomic uint64_t device_adds, device_refused;
static _Atomic int adds_wrong;

/* So many, and for so long that the pages have moved often. */
static void *cpu_adder(void *arg)
{
	struct rng r = { (uintptr_t)arg };
	uint64_t i = 0;

	for (uint64_t by = now_ns() + (quick() ? 1500000000u : opt.seconds * 1000000000u); i < cpu_adds || now_ns() < by;) {
		uint64_t *page = words + below(&r, PAGES) * STRIDE, n = 1 + below(&r, 3000);

		for (uint64_t k = 0; k < n; k++)
			__atomic_fetch_add(&page[k & 7], 1, __ATOMIC_RELAXED);
		i += n;
	}
	atomic_fetch_add(&cpu_added, i);
	return NULL;
}

static void add_atomic(void *p, void *arg)
{
	__atomic_fetch_add((uint64_t *)p, *(uint64_t *)arg, __ATOMIC_RELAXED);
}

static void device_adder(struct tdm_device_thread *t, void *arg)
{
	struct rng r = { (uintptr_t)arg * 77 };

	while (!stop) {
		uint64_t one = 1;
		uint64_t *page = words + below(&r, PAGES) * STRIDE;

		for (unsigned k = 0; k < 64 && !stop; k++) {
			int e = tdm_device_atomic(t, &page[k & 7], 8, add_atomic, &one);

			if (!e)
				device_adds++;
			else if (e == -EBUSY)
				device_refused++;
			else
				adds_wrong = -e;
		}
	}
}

/* Pages go this way, and that. */
static void *mover(void *arg)
{
	struct rng r = { (uintptr_t)arg + 1000 };

	while (!stop) {
		size_t first = below(&r, PAGES), n = 1 + below(&r, PAGES - first), done;
		char *at = (char *)words + first * PAGE;

		switch (below(&r, 8)) {
		case 0:
			(void)tdm_device_evict(dev, n, &done);
			break;
		case 1:
			(void)tdm_pageout(engine, at, n * PAGE, &done);
			break;
		case 2:
			(void)tdm_device_exclusive(dev, at, n * PAGE, &done);
			break;
		case 3:
			(void)tdm_pagein(engine, at, n * PAGE);
			break;
		case 4:
			(void)tdm_take_home(engine, at, n * PAGE, &done);
			break;
		default:
			(void)tdm_device_migrate(dev, at, n * PAGE, &done);
		}
	}
	return NULL;
}

static void *forker(void *arg)
{
	(void)arg;
	while (!stop) {
		pid_t pid = fork();

		CHECK(pid >= 0, "fork: %s", strerror(errno));
		if (!pid) {
			for (unsigned i = 0; i < PAGES; i += 5)
				words[i * STRIDE]++;
			_exit(0);
		}
		reap(pid, 0, "child among adders");
	}
	return NULL;
}

static void adds(unsigned cpus, bool forks)
{
	struct tdm_device_run *run[2];
	pthread_t th[4], m, f;
	struct tdm_device_stats s;
	uint64_t sum = 0, want;

	stop = false;
	device_adds = device_refused = cpu_added = 0;
	memset(words, 0, PAGES * PAGE);
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(tdm_device_run(dev, device_adder, (void *)(i + opt.seed), &run[i]) == 0, "tdm_device_run");
	for (uintptr_t i = 0; i < cpus; i++)
		CHECK(pthread_create(&th[i], NULL, cpu_adder, (void *)(i + opt.seed)) == 0, "pthread_create");
	CHECK(pthread_create(&m, NULL, mover, (void *)opt.seed) == 0, "pthread_create");
	if (forks)
		CHECK(pthread_create(&f, NULL, forker, NULL) == 0, "pthread_create");
	for (unsigned i = 0; i < cpus; i++)
		pthread_join(th[i], NULL);
	stop = true;
	pthread_join(m, NULL);
	if (forks)
		pthread_join(f, NULL);
	for (unsigned i = 0; i < 2; i++)
		CHECK(tdm_device_wait(dev, run[i]) == 0, "tdm_device_wait");
	for (unsigned i = 0; i < PAGES; i++)
		for (unsigned k = 0; k < 8; k++)
			sum += words[i * STRIDE + k];
	want = cpu_added + device_adds;
	s = stats_of(dev);
	fprintf(stderr, "devraces: %" PRIu64 " adds by the CPU, %" PRIu64 " by the device, %" PRIu64 " refused, %" PRIu64 " pages in, %" PRIu64 " out, %" PRIu64
		" invalidations\n", (uint64_t)cpu_added, (uint64_t)device_adds, (uint64_t)device_refused, s.pages_in, s.pages_out, s.invalidations);
	CHECK(!adds_wrong, "an atomic of the device's failed: %d", adds_wrong);
	CHECK(sum == want, "of %" PRIu64 " adds %" PRIu64 " are there: %" PRId64 " are lost", want, sum, (int64_t)(want - sum));
	CHECK(device_adds > 1000 && s.pages_in > 100 && s.pages_out > 100, "too little has happened for this to have tested anything");
}

static void adds_setup(void)
{
	soft_start(2 * MiB, 4);
	words = anon(PAGES * PAGE);
	CHECK_SYS(madvise(words, PAGES * PAGE, MADV_NOHUGEPAGE));
}

static void adds_end(void)
{
	munmap(words, PAGES * PAGE);
	soft_end();
	engine_stop();
}

static void part_adds(void)
{
	adds_setup();
	cpu_adds = quick() ? 2000000 : 60000000;
	adds(2, false);
	adds_end();
}

static void part_adds_forks(void)
{
	adds_setup();
	cpu_adds = quick() ? 1000000 : 20000000;
	adds(2, true);
	adds_end();
}

/* ---- stores ----------------------------------------------------------------------------------------------------------------------------- */

static _Atomic uint64_t stores_done, stores_bad, stores_found, stores_want;
static _Atomic int stores_error;

/* Word 16 + who of each page is who's. */
static void device_storer(struct tdm_device_thread *t, void *arg)
{
	uintptr_t who = (uintptr_t)arg;
	struct rng r = { who * 991 };
	uint64_t last[PAGES] = { 0 }, v = 0, got = 0;

	while (!stop) {
		unsigned p = (unsigned)below(&r, PAGES);
		uint64_t *w = words + p * STRIDE + 16 + who;

		int e = tdm_device_read(t, w, &got, 8);

		if (!e && got != last[p]) {
			stores_found = got;
			stores_want = last[p];
			stores_bad = 1 + p;
			return;
		}
		last[p] = ++v;
		e = e ? e : tdm_device_write(t, w, &v, 8);
		if (e) {
			stores_error = e;
			stores_bad = 1 + p;
			return;
		}
		stores_done++;
	}
}

static void *cpu_storer(void *arg)
{
	uintptr_t who = (uintptr_t)arg;
	struct rng r = { who * 991 };
	uint64_t last[PAGES] = { 0 }, v = 0;

	while (!stop) {
		unsigned p = (unsigned)below(&r, PAGES);
		volatile uint64_t *w = words + p * STRIDE + 16 + who;

		for (unsigned k = 0; k < 50; k++) {
			uint64_t got = *w;

			CHECK(got == last[p], "the CPU finds %" PRIu64 " where it has written %" PRIu64, got, last[p]);
			*w = last[p] = ++v;
		}
	}
	return NULL;
}

static void stores(bool forks)
{
	struct tdm_device_run *run[2];
	pthread_t th[2], m, f;

	adds_setup();
	stop = false;
	stores_done = stores_bad = stores_want = 0;
	memset(words, 0, PAGES * PAGE);
	for (uintptr_t i = 0; i < 2; i++) {
		CHECK(tdm_device_run(dev, device_storer, (void *)i, &run[i]) == 0, "tdm_device_run");
		CHECK(pthread_create(&th[i], NULL, cpu_storer, (void *)(i + 2)) == 0, "pthread_create");
	}
	CHECK(pthread_create(&m, NULL, mover, (void *)opt.seed) == 0, "pthread_create");
	if (forks)
		CHECK(pthread_create(&f, NULL, forker, NULL) == 0, "pthread_create");
	for (uint64_t by = now_ns() + (quick() ? 1500000000u : opt.seconds * 1000000000u); now_ns() < by && !stores_bad; sleep_ms(20))
		;
	stop = true;
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(th[i], NULL);
		CHECK(tdm_device_wait(dev, run[i]) == 0, "tdm_device_wait");
	}
	pthread_join(m, NULL);
	if (forks)
		pthread_join(f, NULL);
	CHECK(!stores_bad, "a device's store to page %" PRIu64 " was lost, or refused (%d): found %" PRIu64 ", must be %" PRIu64 "%s", (uint64_t)stores_bad - 1, stores_error,
	      (uint64_t)stores_found, (uint64_t)stores_want, forks ? ", with forks" : "");
	CHECK(stores_done > 500, "only %" PRIu64 " stores", (uint64_t)stores_done);
	adds_end();
}

static void part_stores(void)
{
	stores(false);
	stores(true);
}

/* ---- maps ------------------------------------------------------------------------------------------------------------------------------- */

/*
 * Places, each with a few pages. A word there is 0, or TAG | its page's number | a version. Each mutator owns some places, whose addresses stay reserved; the
 * device's threads go everywhere and accept whatever looks like a word of ours; the mutator, between its calls, accepts one thing only.
 */
#define PLACES 16u
#define PER 24u /* pages of a place */
#define TAG 0x5a5a000000000000u
static char *place_at[PLACES];
static _Atomic uint64_t wrong_word, reads_ok, reads_failed, wrong_error, mutations;

static uint64_t word_of(unsigned place, unsigned page, uint64_t version)
{
	return TAG | (uint64_t)place << 40 | (uint64_t)page << 32 | (uint32_t)version;
}

static bool fits(uint64_t w)
{
	return !w || (w & 0xffff000000000000u) == TAG;
}

/* Words 0 to 31 are the mutator's, 64 to 71 the device's to scribble at. */
static void device_wanderer(struct tdm_device_thread *t, void *arg)
{
	struct rng r = { (uintptr_t)arg * 31337 };
	uint64_t buf[32];

	while (!stop) {
		unsigned place = (unsigned)below(&r, PLACES), page = (unsigned)below(&r, PER);
		char *at = place_at[place] + page * PAGE;
		int e;

		switch (below(&r, 8)) {
		case 0: {
			uint64_t w = word_of(place, page, 0xddd);

			e = tdm_device_write(t, at + 64 * 8 + below(&r, 8) * 8, &w, 8);
			break;
		}
		case 1:
			e = tdm_device_prefault(t, at, (PER - page) * PAGE, 0);
			break;
		case 2: {
			uint64_t page_nr[PER];
			size_t done;

			e = tdm_device_pin(t, at, 1 + below(&r, PER - page), 0, page_nr, &done);
			tdm_device_unpin(t, page_nr, done);
			if (e == -EOPNOTSUPP)
				e = -EFAULT;
			break;
		}
		default:
			e = tdm_device_read(t, at, buf, sizeof(buf));
			for (unsigned i = 0; !e && i < 32; i++)
				if (!fits(buf[i]))
					wrong_word = buf[i];
		}
		if (!e)
			reads_ok++;
		else if (e == -EFAULT || e == -EPERM || e == -EBUSY)
			reads_failed++;
		else
			wrong_error = (uint64_t)-e;
	}
}

static void *map_mover(void *arg)
{
	struct rng r = { (uintptr_t)arg * 4241 };
	size_t n;

	while (!stop) {
		char *at = place_at[below(&r, PLACES)];
		size_t len = (1 + below(&r, PER)) * PAGE;

		if (below(&r, 8))
			(void)tdm_device_migrate(dev, at, len, &n);
		else if (below(&r, 2))
			(void)tdm_device_evict(dev, 32, &n);
		else
			(void)tdm_device_exclusive(dev, at, len, &n);
	}
	return NULL;
}

static void write_place(char *at, unsigned place, uint64_t version)
{
	for (unsigned page = 0; page < PER; page++)
		for (unsigned i = 0; i < 32; i++)
			((volatile uint64_t *)(at + page * PAGE))[i] = word_of(place, page, version);
}

/* By the CPU or by the device: the place has that version, or zeros if it is 0. */
static void look(const char *at, unsigned place, uint64_t version, bool by_device, const char *after)
{
	for (unsigned page = 0; page < PER; page++) {
		uint64_t buf[32], want = version ? word_of(place, page, version) : 0;

		if (by_device) {
			int e = device_copy(dev, at + page * PAGE, buf, sizeof(buf), false);

			CHECK(e == 0, "after %s the device cannot read: %d", after, e);
		} else {
			memcpy(buf, at + page * PAGE, sizeof(buf));
		}
		for (unsigned i = 0; i < 32; i++)
			CHECK(buf[i] == want, "after %s %s finds %#" PRIx64 " in page %u, must be %#" PRIx64, after, by_device ? "the device" : "the CPU", buf[i], page, want);
	}
}

static void cannot(const char *at, int prot, const char *after)
{
	uint64_t w = 0;
	int e = device_copy(dev, at + 3 * PAGE, &w, 8, false);

	CHECK(e == (prot == PROT_NONE ? -EFAULT : 0), "after %s the device reads: %d", after, e);
	w = word_of(0, 0, 0xbad);
	e = device_copy(dev, at + 3 * PAGE + 72 * 8, &w, 8, true);
	CHECK(e == (prot == PROT_NONE ? -EFAULT : -EPERM), "after %s the device writes: %d", after, e);
}

static char *map_at(char *at, int prot)
{
	char *p = mmap(at, PER * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	CHECK(p == at, "mmap: %s", strerror(errno));
	return p;
}

/* To it goes. false: what the engine has registered in parts, while it was in parts, the kernel does not put together again, nor move as one. */
static bool move(char *from, char *to)
{
	char *p = mremap(from, PER * PAGE, PER * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);

	CHECK(p == to || errno == EFAULT, "mremap: %s", strerror(errno));
	if (p == to)
		return true;
	map_at(to, PROT_READ | PROT_WRITE);
	map_at(from, PROT_READ | PROT_WRITE);
	return false;
}

static void *mutator(void *arg)
{
	unsigned place = (unsigned)(uintptr_t)arg;
	struct rng r = { opt.seed * 100 + place };
	char *at = place_at[place], *spare = anon((PER + 2) * PAGE);
	uint64_t version = 0;
	size_t n;

	spare += PAGE;
	while (!stop) {
		bool by_device = below(&r, 2), first = below(&r, 2);

		write_place(at, place, ++version);
		if (below(&r, 2))
			(void)tdm_device_migrate(dev, at, PER * PAGE, &n);
		if (first)
			look(at, place, version, by_device, "writing");
		switch (below(&r, 8)) {
		case 0:
			CHECK_SYS(munmap(at, PER * PAGE));
			map_at(at, PROT_READ | PROT_WRITE);
			look(at, place, 0, by_device, "munmap and mmap");
			break;
		case 1: /* over what was there */
			map_at(at, PROT_READ | PROT_WRITE);
			look(at, place, 0, by_device, "mmap over it");
			break;
		case 2:
			CHECK_SYS(madvise(at, PER * PAGE, MADV_DONTNEED));
			look(at, place, 0, by_device, "MADV_DONTNEED");
			break;
		case 3:
			if (!move(at, spare))
				break;
			look(spare, place, version, by_device, "mremap, the new place");
			map_at(at, PROT_READ | PROT_WRITE);
			look(at, place, 0, !by_device, "mremap, the old place");
			if (move(spare, at)) {
				look(at, place, version, by_device, "mremap, and back");
				map_at(spare, PROT_NONE);
			}
			break;
		case 4:
			CHECK(tdm_mprotect(engine, at, PER * PAGE, PROT_READ) == 0, "tdm_mprotect");
			cannot(at, PROT_READ, "tdm_mprotect(PROT_READ)");
			look(at, place, version, by_device, "tdm_mprotect(PROT_READ)");
			CHECK(tdm_mprotect(engine, at, PER * PAGE, PROT_READ | PROT_WRITE) == 0, "tdm_mprotect");
			break;
		case 5:
			CHECK(tdm_mprotect(engine, at, PER * PAGE, PROT_NONE) == 0, "tdm_mprotect");
			cannot(at, PROT_NONE, "tdm_mprotect(PROT_NONE)");
			CHECK(tdm_mprotect(engine, at, PER * PAGE, PROT_READ | PROT_WRITE) == 0, "tdm_mprotect");
			look(at, place, version, by_device, "tdm_mprotect, there and back");
			break;
		case 6: /* of which nobody hears */
			CHECK_SYS(mprotect(at, PER * PAGE, PROT_READ));
			look(at, place, version, by_device, "mprotect(PROT_READ)");
			CHECK_SYS(mprotect(at, PER * PAGE, PROT_NONE));
			CHECK_SYS(mprotect(at, PER * PAGE, PROT_READ | PROT_WRITE));
			look(at, place, version, by_device, "mprotect, there and back");
			break;
		case 7: /* in the middle */
			CHECK_SYS(munmap(at + 8 * PAGE, 8 * PAGE));
			CHECK(mmap(at + 8 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 8 * PAGE, "mmap");
			for (unsigned page = 8; page < 16; page++) {
				uint64_t w = 1;

				CHECK(device_copy(dev, at + page * PAGE, &w, 8, false) == 0 && w == 0, "after munmap and mmap of a part the device finds %#" PRIx64, w);
			}
			CHECK(*(uint64_t *)(at + 16 * PAGE) == word_of(place, 16, version), "behind a part that was unmapped");
			/* For mremap(2) it would be three mappings from now on (move()). */
			map_at(at, PROT_READ | PROT_WRITE);
			break;
		}
		mutations++;
	}
	munmap(spare - PAGE, (PER + 2) * PAGE);
	return NULL;
}

static void part_maps(void)
{
	struct tdm_device_run *run[2];
	pthread_t th[3], m;
	char *all;
	uint64_t by;

	soft_start(4 * MiB, 4);
	stop = false;
	reads_ok = reads_failed = mutations = wrong_word = wrong_error = 0;
	all = anon(PLACES * (PER + 8) * PAGE);
	for (unsigned i = 0; i < PLACES; i++)
		place_at[i] = all + i * (PER + 8) * PAGE;
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(tdm_device_run(dev, device_wanderer, (void *)(i + opt.seed), &run[i]) == 0, "tdm_device_run");
	for (uintptr_t i = 0; i < 3; i++)
		CHECK(pthread_create(&th[i], NULL, mutator, (void *)(i * 5)) == 0, "pthread_create");
	CHECK(pthread_create(&m, NULL, map_mover, (void *)opt.seed) == 0, "pthread_create");
	for (by = now_ns() + (quick() ? 3000000000u : opt.seconds * 1000000000u); now_ns() < by && !wrong_word && !wrong_error; sleep_ms(20))
		;
	stop = true;
	for (unsigned i = 0; i < 3; i++)
		pthread_join(th[i], NULL);
	pthread_join(m, NULL);
	for (unsigned i = 0; i < 2; i++)
		CHECK(tdm_device_wait(dev, run[i]) == 0, "tdm_device_wait");
	fprintf(stderr, "devraces: %" PRIu64 " changes, the device did %" PRIu64 " things, and could not do %" PRIu64 "\n", (uint64_t)mutations, (uint64_t)reads_ok,
		(uint64_t)reads_failed);
	CHECK(!wrong_word, "the device has read a word that was never there: %#" PRIx64, (uint64_t)wrong_word);
	CHECK(!wrong_error, "the device got error %" PRIu64, (uint64_t)wrong_error);
	CHECK(mutations > 50 && reads_ok > 50, "too little has happened");
	munmap(all, PLACES * (PER + 8) * PAGE);
	soft_end();
	engine_stop();
}

/* ---- found ------------------------------------------------------------------------------------------------------------------------------ */

#define NEW (64 * MiB)
static char *new_memory;
static _Atomic bool begun;

static void *second_half(void *arg)
{
	uint64_t by, t0;
	size_t n;

	while (!begun)
		;
	for (by = now_ns() + *(uint64_t *)arg; now_ns() < by;)
		;
	t0 = now_ns();
	n = migrate(dev, new_memory + NEW / 2, NEW / 2);
	/* An event keeps pages where they are, but not before it has been waited for. */
	CHECK(n || now_ns() - t0 > 100000000, "nothing of what another thread had found went to the device (after %" PRIu64 " ns)", *(uint64_t *)arg);
	return NULL;
}

static void part_found(void)
{
	struct rng r = { opt.seed };

	soft_start(NEW, 2);
	for (unsigned round = 0; round < (quick() ? 60 : 25 * opt.seconds); round++) {
		uint64_t delay = below(&r, below(&r, 2000000) + 1);
		pthread_t th;

		new_memory = anon(NEW);
		CHECK_SYS(madvise(new_memory, NEW, MADV_NOHUGEPAGE));
		for (size_t o = 0; o < NEW; o += PAGE)
			new_memory[o] = 1;
		begun = false;
		CHECK(pthread_create(&th, NULL, second_half, &delay) == 0, "pthread_create");
		begun = true;
		migrate(dev, new_memory, NEW / 2);
		pthread_join(th, NULL);
		munmap(new_memory, NEW);
	}
	soft_end();
	engine_stop();
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "adds", part_adds }, { "adds-forks", part_adds_forks }, { "stores", part_stores }, { "maps", part_maps }, { "found", part_found },
	};

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
