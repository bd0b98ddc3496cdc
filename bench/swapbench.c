/* SPDX-License-Identifier: MIT */
/*
 * swapbench - walk over more memory than there is room for, and check every page that is met.
 *
 *     swapbench PATTERN [MIB=1024] [THREADS=1] [rw] [OPS=N] [SEED=N]
 *
 * PATTERN: seq (OPS passes over all pages, default 3), uniform (OPS page accesses, default 1M), zipf (exponent 0.99, default 4M). The
 * threads divide the memory and the accesses between them. It knows nothing of what holds its memory: the same binary runs bare, in a
 * memory cgroup over swap, and under `tandem run`. A read checks the page's stamp and one more word; with rw every second access also writes
 * a new stamp. After the timed part the whole of every page is checked. Exits 1 if a byte is wrong.
 *
 * Time is taken once per access, so that an access lasts from the end of the one before. An access of FAULT_NS or more counts as a fault:
 * a page in memory takes a tenth of that, and no way to bring one back is faster.
 */
#include <pthread.h>
#include <math.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "bench.h"

#define FAULT_NS 2000u
#define MAX_THREADS 16

enum pattern { SEQ, UNIFORM, ZIPF };

struct worker {
	pthread_t thread;
	uint64_t *mem;      /* this thread's part */
	uint32_t *version;  /* of its pages */
	uint64_t first;     /* number of its first page */
	uint64_t pages;
	uint64_t ops;
	uint64_t seed;
	enum pattern pattern;
	bool write;
	uint64_t bad;
	struct hist all, faults;
};

/* Zipf by the method of Gray et al. (SIGMOD 1994): ranks 0.. with probability proportional to 1 / (rank + 1)^theta. */
struct zipf {
	double n, theta, alpha, zetan, eta, half;
};

static pthread_barrier_t barrier;

static void zipf_init(struct zipf *z, uint64_t n, double theta)
{
	double zeta2 = 1 + pow(0.5, theta);

	z->n = (double)n;
	z->theta = theta;
	z->alpha = 1 / (1 - theta);
	z->zetan = 0;
	for (uint64_t i = 1; i <= n; i++)
		z->zetan += pow(1 / (double)i, theta);
	z->eta = (1 - pow(2 / z->n, 1 - theta)) / (1 - zeta2 / z->zetan);
	z->half = zeta2;
}

static uint64_t zipf_next(const struct zipf *z, uint64_t *rng)
{
	double u = (double)(rand64(rng) >> 11) / 9007199254740992.0, uz = u * z->zetan;

	if (uz < 1)
		return 0;
	if (uz < z->half)
		return 1;
	return (uint64_t)(z->n * pow(z->eta * u - z->eta + 1, z->alpha));
}

static void access_page(struct worker *w, uint64_t page, uint64_t op)
{
	uint64_t *p = w->mem + page * WORDS;
	unsigned i = 1 + (unsigned)(mix64(op) % (WORDS - 1));

	if (p[0] != data_stamp(w->first + page, w->version[page]) || p[i] != data_word(w->first + page, i))
		w->bad++;
	if (w->write && (op & 1))
		p[0] = data_stamp(w->first + page, ++w->version[page]);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t rng = w->seed, before, now;
	struct zipf z = { 0 };

	for (uint64_t i = 0; i < w->pages; i++)
		data_fill(w->mem + i * WORDS, w->first + i);
	if (w->pattern == ZIPF)
		zipf_init(&z, w->pages, 0.99);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	before = now_ns();
	for (uint64_t op = 0; op < w->ops; op++) {
		uint64_t page;

		/* Ranks are scattered over the memory by a multiplication: neighbours of a hot page are not hot. */
		if (w->pattern == SEQ)
			page = op % w->pages;
		else if (w->pattern == UNIFORM)
			page = rand64(&rng) % w->pages;
		else
			page = zipf_next(&z, &rng) * 0x9e3779b1u % w->pages;
		access_page(w, page, op + op / w->pages);
		now = now_ns();
		hist_add(&w->all, now - before);
		if (now - before >= FAULT_NS)
			hist_add(&w->faults, now - before);
		before = now;
	}
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	for (uint64_t i = 0; i < w->pages; i++) {
		const uint64_t *p = w->mem + i * WORDS;

		w->bad += p[0] != data_stamp(w->first + i, w->version[i]);
		for (unsigned j = 1; j < WORDS; j++)
			w->bad += p[j] != data_word(w->first + i, j);
	}
	return NULL;
}

static void usage(void)
{
	fprintf(stderr, "usage: swapbench seq|uniform|zipf [MIB=N] [THREADS=N] [OPS=N] [SEED=N] [rw]\n");
	exit(2);
}

static void report(const struct hist *all, const struct hist *faults, double fill_s, double work_s, uint64_t bad)
{
	printf("{\"fill_s\": %.6f, \"work_s\": %.6f, \"ops\": %llu, \"us_op\": %.4f, \"faults\": %llu, \"fault_p50_us\": %.2f, "
	       "\"fault_p99_us\": %.2f, \"fault_max_us\": %.1f, \"op_p99_us\": %.2f, \"op_p999_us\": %.2f, \"bad\": %llu}\n",
	       fill_s, work_s, (unsigned long long)all->n, work_s * 1e6 / (double)all->n, (unsigned long long)faults->n,
	       (double)hist_quantile(faults, 0.5) / 1e3, (double)hist_quantile(faults, 0.99) / 1e3, (double)faults->max / 1e3,
	       (double)hist_quantile(all, 0.99) / 1e3, (double)hist_quantile(all, 0.999) / 1e3, (unsigned long long)bad);
}

int main(int argc, char **argv)
{
	static struct worker worker[MAX_THREADS];
	static struct hist all, faults;
	uint64_t mib = 1024, threads = 1, ops = 0, seed = 1, pages, bad = 0, t0, t1, t2;
	enum pattern pattern = SEQ;
	bool write = false;
	uint64_t *mem;
	uint32_t *version;

	if (argc < 2)
		usage();
	if (!strcmp(argv[1], "uniform"))
		pattern = UNIFORM;
	else if (!strcmp(argv[1], "zipf"))
		pattern = ZIPF;
	else if (strcmp(argv[1], "seq") != 0)
		usage();
	for (int i = 2; i < argc; i++) {
		unsigned long long v;

		if (sscanf(argv[i], "MIB=%llu", &v) == 1)
			mib = v;
		else if (sscanf(argv[i], "THREADS=%llu", &v) == 1)
			threads = v;
		else if (sscanf(argv[i], "OPS=%llu", &v) == 1)
			ops = v;
		else if (sscanf(argv[i], "SEED=%llu", &v) == 1)
			seed = v;
		else if (!strcmp(argv[i], "rw"))
			write = true;
		else
			usage();
	}
	if (mib == 0 || threads == 0 || threads > MAX_THREADS)
		usage();
	pages = mib * (1u << 20) / PAGE / threads;
	if (ops == 0)
		ops = pattern == SEQ ? 3 : pattern == UNIFORM ? 1000000 : 4000000;
	if (pattern == SEQ)
		ops *= pages * threads;
	mem = mmap(NULL, pages * threads * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	version = calloc(pages * threads, sizeof(*version));
	if (mem == MAP_FAILED || !version)
		die("swapbench");
	pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
	t0 = now_ns();
	for (uint64_t i = 0; i < threads; i++) {
		worker[i] = (struct worker){
			.mem = mem + i * pages * WORDS, .version = version + i * pages, .first = i * pages, .pages = pages,
			.ops = ops / threads, .seed = mix64(seed * MAX_THREADS + i), .pattern = pattern, .write = write,
		};
		if (pthread_create(&worker[i].thread, NULL, work, &worker[i]))
			die("swapbench");
	}
	pthread_barrier_wait(&barrier);
	t1 = now_ns();
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	t2 = now_ns();
	pthread_barrier_wait(&barrier);
	for (uint64_t i = 0; i < threads; i++) {
		pthread_join(worker[i].thread, NULL);
		bad += worker[i].bad;
		hist_merge(&all, &worker[i].all);
		hist_merge(&faults, &worker[i].faults);
	}
	report(&all, &faults, (double)(t1 - t0) / 1e9, (double)(t2 - t1) / 1e9, bad);
	if (bad)
		fprintf(stderr, "swapbench: %llu words of memory have wrong content\n", (unsigned long long)bad);
	return bad ? 1 : 0;
}
