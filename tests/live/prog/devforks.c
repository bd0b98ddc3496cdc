/* SPDX-License-Identifier: MIT */
/*
 * devforks - forks while pages are on a device. Parent and child each see what they should, whoever ends first; a child has no devices; every frame is freed once,
 * in every process; and a device that only reads loses nothing to a child that only executes something.
 */
#include "device.h"
#include <spawn.h>
#include <sys/prctl.h>

extern char **environ;

#define NAME 0xdf0000
struct common {
	_Atomic unsigned done;
	_Atomic bool failed, stop;
};
static struct common *com;
static char *mem;
static size_t npages;

static bool quick(void)
{
	return opt.seconds <= 5;
}

static void setup(void)
{
	com = shared(sizeof(*com));
	fail_flag = &com->failed;
	npages = opt.mb * MiB / 32 / PAGE;
	soft_start((npages * PAGE + HUGE - 1) & ~(HUGE - 1), 2);
	mem = anon(npages * PAGE);
	CHECK_SYS(madvise(mem, npages * PAGE, MADV_NOHUGEPAGE));
	fill(mem, npages * PAGE, NAME, 0);
}

static void end(void)
{
	munmap(mem, npages * PAGE);
	munmap(com, sizeof(*com));
	fail_flag = NULL;
	soft_end();
	engine_stop();
}

static pid_t do_fork(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	return pid;
}

/* A third stays, a third goes home or to a tier, the rest goes to the device. */
static void spread(void)
{
	size_t third = npages / 3, n;

	(void)migrate(dev, mem, npages * PAGE);
	(void)tdm_pageout(engine, mem + third * PAGE, third / 2 * PAGE, &n);
	(void)tdm_pagein(engine, mem, third / 2 * PAGE);
	(void)migrate(dev, mem + third * PAGE, third / 2 * PAGE);
}

static void inspect(uint64_t salt, unsigned step, uint64_t version, const char *what)
{
	for (size_t i = salt % step; i < npages; i += step) {
		page_check(mem + i * PAGE, NAME + i, version, what);
		if (i % 3 == 0)
			page_gen(mem + i * PAGE, NAME + i, 1000 + salt);
	}
	for (size_t i = salt % step; i < npages; i += step)
		page_check(mem + i * PAGE, NAME + i, i % 3 ? version : 1000 + salt, what);
}

static void unchanged(const char *what)
{
	device_check(dev, mem, npages * PAGE, NAME, 0, what);
	check(mem, npages * PAGE, NAME, 0, what);
}

/* ---- children that come and go ---------------------------------------------------------------------------------------------------------------- */

static void noop(struct tdm_device_thread *t, void *arg)
{
	(void)t;
	(void)arg;
}

static void nothing(struct tdm_device_thread *t, void *arg, size_t i)
{
	(void)t;
	(void)arg;
	(void)i;
}

/* Every handle is -ENODEV here. */
static void no_devices(void)
{
	struct tdm_device_stats s = { .size = sizeof(s) };
	struct tdm_device_run *run;
	size_t n;
	int r[] = { tdm_device_migrate(dev, mem, PAGE, &n), tdm_device_exclusive(dev, mem, PAGE, &n), tdm_device_evict(dev, 1, &n),
		    tdm_device_stats_get(dev, &s),	     tdm_device_run(dev, noop, NULL, &run),    tdm_device_run(dev, noop, NULL, NULL),
		    tdm_soft_launch(soft, nothing, NULL, 2) };

	for (unsigned i = 0; i < sizeof(r) / sizeof(*r); i++)
		CHECK(r[i] == -ENODEV, "call %u in a child: %d", i, r[i]);
}

static void part_storm(void)
{
	setup();
	for (unsigned round = 0; round < (quick() ? 3 : 30); round++) {
		pid_t pid[8];

		spread();
		for (unsigned i = 0; i < 8; i++) {
			pid[i] = do_fork();
			if (!pid[i]) {
				if (i == 3)
					no_devices();
				inspect(i, i % 4 ? 16 : 2, 0, "child");
				/* It forks in its turn, with pages that it has inherited from the device. */
				if (i % 2) {
					pid_t below = do_fork();

					if (!below) {
						for (size_t k = (i + 1) % 16; k < npages; k += 16)
							page_check(mem + k * PAGE, NAME + k, k % (i % 4 ? 16 : 2) == i % (i % 4 ? 16 : 2) && k % 3 == 0 ? 1000 + i : 0, "grandchild");
						_exit(3);
					}
					page_gen(mem + (i + 1) % 16 * PAGE, 1, 1); /* not the grandchild's */
					reap(below, 3, "grandchild");
				}
				_exit((int)i);
			}
			if (i % 4 == 1)
				(void)migrate(dev, mem, npages * PAGE);
			else if (i % 4 == 2)
				check(mem, npages / 2 * PAGE, NAME, 0, "parent, between forks");
		}
		for (unsigned i = 0; i < 8; i++)
			reap(pid[i], (int)i, "fork storm");
	}
	unchanged("after a fork storm");
	end();
}

/* Both write; neither sees the other's. The device writes, too, and that is the parent's. */
static void part_side_by_side(void)
{
	setup();
	for (unsigned round = 0; round < (quick() ? 2 : 20); round++) {
		pid_t pid;

		fill(mem, npages * PAGE, NAME, 0);
		spread();
		pid = do_fork();
		if (!pid) {
			for (unsigned pass = 0; pass < 4; pass++)
				for (size_t i = pass; i < npages; i += 4) {
					page_check(mem + i * PAGE, NAME + i, 0, "child, side by side");
					page_gen(mem + i * PAGE, NAME + i, 400 + round);
				}
			check(mem, npages * PAGE, NAME, 400 + round, "child, beside its parent");
			_exit(0);
		}
		device_fill(dev, mem, npages / 2 * PAGE, NAME, 500 + round);
		fill(mem + npages / 2 * PAGE, npages / 2 * PAGE, NAME + npages / 2, 500 + round);
		(void)migrate(dev, mem + npages / 4 * PAGE, npages / 2 * PAGE);
		check(mem, npages * PAGE, NAME, 500 + round, "parent, beside its child");
		device_check(dev, mem, npages * PAGE, NAME, 500 + round, "device, beside a child");
		reap(pid, 0, "side by side");
	}
	fill(mem, npages * PAGE, NAME, 0);
	unchanged("side by side");
	end();
}

/* The parent exits first; somebody is killed; the child of a fork executes something. */
static void part_ends(void)
{
	char *arg[] = { (char *)"sh", (char *)"-c", (char *)"exit 5", NULL };
	struct rng r = { opt.seed };

	setup();
	for (unsigned round = 0; round < (quick() ? 4 : 40); round++) {
		unsigned was = com->done;
		pid_t pid, low;

		spread();
		pid = do_fork();
		if (!pid) {
			page_gen(mem, NAME, 5);
			if (do_fork() == 0) {
				sleep_ms(5);
				page_check(mem, NAME, 5, "written by a parent that is dead");
				for (size_t p = 1; p < npages; p++)
					page_check(mem + p * PAGE, NAME + p, 0, "orphan");
				fill(mem, npages * PAGE, NAME, 7);
				check(mem, npages * PAGE, NAME, 7, "orphan, its own");
				com->done++;
			}
			_exit(0);
		}
		reap(pid, 0, "parent that ends first");
		for (uint64_t by = now_ns() + 30000000000u; com->done == was && !com->failed; sleep_ms(1))
			CHECK(now_ns() < by, "an orphan never finished");
		/* Killed, or its parent. */
		pid = do_fork();
		if (!pid) {
			pid_t self = getpid();

			low = do_fork();
			if (!low) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				if (getppid() != self)
					_exit(0); /* he has been killed before that */
			}
			for (;;)
				for (size_t p = 0; p < npages; p++) {
					page_check(mem + p * PAGE, NAME + p, 0, "of whom one is killed");
					if (low)
						page_gen(mem + p * PAGE, NAME + p, 0);
				}
		}
		usleep((useconds_t)below(&r, 30000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		CHECK(!com->failed, "a relative failed");
		spread();
		pid = do_fork();
		if (!pid) {
			execv("/bin/sh", arg);
			_exit(9);
		}
		reap(pid, 5, "fork and exec");
		pid = vfork();
		if (!pid) {
			execv("/bin/sh", arg);
			_exit(9);
		}
		reap(pid, 5, "vfork and exec");
		CHECK(posix_spawn(&pid, "/bin/sh", NULL, NULL, arg, environ) == 0, "posix_spawn");
		reap(pid, 5, "posix_spawn");
	}
	unchanged("after some have ended");
	end();
}

/* The bare system call, of which libc knows nothing. */
static void part_bare(void)
{
	setup();
	for (unsigned i = 0; i < (quick() ? 6u : 100u); i++) {
		pid_t pid;

		spread();
		pid = (pid_t)syscall(SYS_fork);
		CHECK(pid >= 0, "fork by syscall(): %s", strerror(errno));
		if (!pid) {
			inspect(i, 8, 0, "child of a bare fork");
			_exit(4);
		}
		(void)migrate(dev, mem, npages * PAGE);
		reap(pid, 4, "child of a bare fork");
	}
	unchanged("after bare forks");
	end();
}

/* ---- a child that executes something while the device reads ------------------------------------------------------------------------------------- */

static void reader(struct tdm_device_thread *t, void *arg)
{
	int *bad = arg, r;
	uint64_t got;

	while (!com->stop)
		for (size_t i = 0; i < npages; i++)
			if ((r = tdm_device_read(t, mem + i * PAGE, &got, 8)))
				*bad = r;
}

static void part_reads(void)
{
	char *arg[] = { (char *)"true", NULL };

	for (unsigned ahead = 0; ahead < 2; ahead++) {
		struct tdm_device_stats before, after;
		struct tdm_device_run *run;
		int bad = 0;

		setup();
		soft_end();
		soft_start_with((struct tdm_soft_options){ .memory_bytes = (npages * PAGE + HUGE - 1) & ~(HUGE - 1), .threads = 2,
							   .flags = ahead ? TDM_DEVICE_WRITE_AHEAD : 0 });
		migrate_all(dev, mem, npages * PAGE, "before it reads");
		CHECK(tdm_device_run(dev, reader, &bad, &run) == 0, "tdm_device_run");
		sleep_ms(20);
		before = stats_of(dev);
		for (unsigned i = 0; i < (quick() ? 20u : 200u); i++) {
			pid_t pid = do_fork();

			if (!pid) {
				execv("/bin/true", arg);
				_exit(9);
			}
			reap(pid, 0, "fork and exec");
		}
		after = stats_of(dev);
		com->stop = true;
		CHECK(tdm_device_wait(dev, run) == 0 && !bad, "the device could not read: %d", bad);
		CHECK(after.memory_pages == npages && after.pages_out == before.pages_out, "the device only reads, and %" PRIu64 " pages of %zu have left its memory",
		      after.pages_out - before.pages_out, npages);
		CHECK(out_pages(mem, npages * PAGE) == npages, "pages are back in the page table");
		unchanged("after it was read");
		end();
	}
}

/* ---- every frame once ------------------------------------------------------------------------------------------------------------------------- */

static struct own *own;

/* What a process does with pages that are on the device, or are not. */
static void *worker(void *arg)
{
	struct rng r = { (uintptr_t)arg + opt.seed };
	bool here = getpid() == first_pid;

	for (unsigned i = 0; i < (quick() ? 25u : 400u) && !com->failed; i++) {
		size_t pages = 1 + below(&r, 80), n;
		char *p = anon(pages * PAGE), *grown;
		pid_t pid;

		fill(p, pages * PAGE, NAME + i, i);
		if (here)
			(void)tdm_device_migrate(own->dev, p, pages * PAGE, &n);
		switch (below(&r, 6)) {
		case 0:
			check(p, pages * PAGE, NAME + i, i, "frames");
			break;
		case 1:
			CHECK_SYS(madvise(p, pages * PAGE, MADV_DONTNEED));
			check_zero(p, pages * PAGE, "dropped");
			break;
		case 2:
			grown = mremap(p, pages * PAGE, pages * PAGE * 2, MREMAP_MAYMOVE);
			/* The engine may have registered a part of it, meaning what was there before. */
			CHECK(grown != MAP_FAILED || errno == EFAULT, "mremap: %s", strerror(errno));
			if (grown == MAP_FAILED)
				break;
			p = grown;
			check(p, pages * PAGE, NAME + i, i, "grown");
			CHECK_SYS(munmap(p + pages * PAGE, pages * PAGE));
			break;
		case 3:
			if (here)
				(void)tdm_device_evict(own->dev, below(&r, 100), &n);
			break;
		case 4:
			pid = do_fork();
			if (!pid) {
				check(p, (pages + 1) / 2 * PAGE, NAME + i, i, "child of a frame storm");
				munmap(p + pages / 2 * PAGE, (pages - pages / 2) * PAGE);
				own_check(own, "child of a frame storm");
				_exit(own_used(own) <= own->frames ? 2 : 1);
			}
			if (i % 3 == 0)
				kill(pid, SIGKILL), waitpid(pid, NULL, 0);
			else
				reap(pid, 2, "frame storm");
			break;
		}
		munmap(p, pages * PAGE);
		own_check(own, "frame storm");
	}
	return NULL;
}

static void storm(unsigned flags)
{
	pthread_t th[3];

	com = shared(sizeof(*com));
	fail_flag = &com->failed;
	own = own_make(4 * MiB);
	own_attach_as(own, "counts", 2, flags, 0);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK(pthread_create(&th[i], NULL, worker, (void *)i) == 0, "pthread_create");
	for (unsigned i = 0; i < 3; i++)
		pthread_join(th[i], NULL);
	CHECK(!com->failed, "a relative failed");
	/* munmap() returns when the engine has been told; a call to the device, when it has acted upon it. */
	CHECK(tdm_device_evict(own->dev, 0, NULL) == 0, "tdm_device_evict of nothing");
	CHECK(stats_of(own->dev).memory_pages == 0, "%" PRIu64 " pages are left", stats_of(own->dev).memory_pages);
	fprintf(stderr, "devforks: %" PRIu64 " frames given and freed\n", (uint64_t)own->given);
	CHECK(own->given > 500, "only %" PRIu64 " frames were given", (uint64_t)own->given);
	own_detach(own, "after a storm");
	engine_stop();
	own_drop(own);
	munmap(com, sizeof(*com));
	fail_flag = NULL;
}

static void *slow_evict(void *arg)
{
	size_t n;

	/* If it was not the first one, the fork may have been. */
	CHECK(tdm_device_evict(own->dev, 1, &n) == 0 && (n || !arg), "tdm_device_evict");
	return NULL;
}

/* A fork while the device is copying a page back, slowly: that one is the child's, too, and so are those of the next fork. */
static void part_busy(void)
{
	enum { PAGES = 1 }; /* nobody waits for the lock of its table */

	own = own_make(4 * MiB);
	own_attach_as(own, "slow", 2, 0, 0);
	mem = anon(PAGES * PAGE);
	CHECK_SYS(madvise(mem, PAGES * PAGE, MADV_NOHUGEPAGE));
	for (unsigned i = 0; i < (quick() ? 3 : 20); i++) {
		pthread_t th;
		pid_t pid;

		fill(mem, PAGES * PAGE, NAME, i);
		migrate_all(own->dev, mem, PAGES * PAGE, "before a slow eviction");
		own->hang_copy_ms = i % 2 ? 0 : 200;
		CHECK(pthread_create(&th, NULL, slow_evict, i % 2 ? NULL : own) == 0, "pthread_create");
		while (own->hang_copy_ms)
			sleep_ms(1);
		pid = do_fork();
		if (!pid) {
			check(mem, PAGES * PAGE, NAME, i, "child of a fork while a device copies");
			_exit(6);
		}
		reap(pid, 6, "fork while a device copies");
		pthread_join(th, NULL);
		check(mem, PAGES * PAGE, NAME, i, "parent of a fork while a device copies");
	}
	munmap(mem, PAGES * PAGE);
	own_detach(own, "after slow evictions");
	engine_stop();
	own_drop(own);
}

static void part_frames(void)
{
	storm(TDM_DEVICE_INHERITED);
	storm(0);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "storm", part_storm }, { "side-by-side", part_side_by_side }, { "ends", part_ends }, { "bare", part_bare }, { "reads", part_reads }, { "frames", part_frames },
		{ "busy", part_busy },
	};

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
