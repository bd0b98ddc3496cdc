/* SPDX-License-Identifier: MIT */
/*
 * inject - a bit of everything in half a second: for runs in which the engine's system calls fail (../inject.py). Memory that is filled, checked and
 * written again by two threads, dropped, moved and unmapped; a fork whose child does the same.
 */
#include "common.h"
#include <pthread.h>

struct region {
	char *p;
	size_t len;
	uint64_t name, version;
};

static void walk(struct region *r)
{
	for (size_t o = 0; o < r->len; o += PAGE) {
		page_check(r->p + o, r->name + o / PAGE, r->version, "walk");
		page_gen(r->p + o, r->name + o / PAGE, r->version + 1);
	}
	r->version++;
}

static void *worker(void *arg)
{
	struct region *r = arg;

	for (unsigned i = 0; i < 2; i++)
		walk(r);
	/* Here and there. */
	for (size_t o = 0; o < r->len; o += 7 * PAGE)
		page_check(r->p + o, r->name + o / PAGE, r->version, "here and there");
	return NULL;
}

static struct region make(uint64_t name, size_t len)
{
	struct region r = { anon(len), len, name, 1 };

	fill(r.p, len, name, 1);
	return r;
}

static void change(struct region *r)
{
	size_t half = r->len / 2 & ~(PAGE - 1);
	char *to = mmap(NULL, r->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(to != MAP_FAILED, "mmap: %s", strerror(errno));
	/* One that was grown may be refused, as two mappings are: then nothing has happened. */
	if (mremap(r->p, r->len, r->len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to)
		r->p = to;
	else
		CHECK(errno == EFAULT || errno == ENOMEM, "mremap: %s", strerror(errno));
	check(r->p, r->len, r->name, r->version, "moved");
	CHECK_SYS(madvise(r->p + half, half, MADV_DONTNEED));
	check_zero(r->p + half, half, "dropped");
	fill(r->p + half, half, r->name + half / PAGE, r->version);
	CHECK_SYS(munmap(r->p, half));
	r->p += half;
	r->len -= half;
	r->name += half / PAGE;
	check(r->p, r->len, r->name, r->version, "cut");
}

/* While the others fork: its changes are events that the child must be told of, or not. */
static _Atomic bool stop;

static void *changer(void *arg)
{
	char *p = arg;

	for (uint64_t i = 0; !atomic_load(&stop); i++) {
		fill(p, 64 * PAGE, 99, i);
		CHECK_SYS(madvise(p, 32 * PAGE, MADV_DONTNEED));
		check_zero(p, 32 * PAGE, "changer");
		check(p + 32 * PAGE, 32 * PAGE, 99 + 32, i, "changer");
	}
	return NULL;
}

static void child_of(struct region *r, unsigned k)
{
	pid_t pid = fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (k != 1)
		walk(&r[k]);
	if (!pid) {
		check(r[1].p, r[1].len, r[1].name, r[1].version, "child");
		_exit(3);
	}
	reap(pid, 3, "child");
}

static void run(bool changing)
{
	size_t len = opt.mb * MiB / 4;
	struct region r[4] = { make(1u << 20, len), make(2u << 20, len), make(3u << 20, len),
			       make(4u << 20, len / 4) };
	pthread_t th[2], ch[3];

	for (unsigned i = 0; i < 2; i++)
		CHECK(pthread_create(&th[i], NULL, worker, &r[i]) == 0, "pthread_create");
	change(&r[2]);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
	for (unsigned i = 0; changing && i < 3; i++)
		CHECK(pthread_create(&ch[i], NULL, changer, r[3].p + i * 64 * PAGE) == 0, "pthread_create");
	for (unsigned k = changing ? 0 : 2; k < 3; k++) {
		sleep_ms(2);
		child_of(r, k);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; changing && i < 3; i++)
		pthread_join(ch[i], NULL);
	for (unsigned i = 0; i < 3; i++)
		check(r[i].p, r[i].len, r[i].name, r[i].version, "end");
}

static void part_alone(void)
{
	run(false);
}

static void part_changing(void)
{
	run(true);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = { { "alone", part_alone }, { "changing", part_changing } };

	parse(argc, argv);
	return run_parts(parts, 2);
}
