/* SPDX-License-Identifier: MIT */
/*
 * devshare - one device's memory, and several processes that want more of it than there is. Each sees its own pages and nobody else's, whoever is evicted, killed,
 * stopped, forks, or becomes another program; and what a process had that has ended is there for the others.
 *
 * The processes are children of one that has no engine, which tells them what to do, one thing at a time.
 */
#include "device.h"
#include <sys/prctl.h>

#define CHUNKS 4u
#define MEMORY (CHUNKS * HUGE)
#define DEVICE_PAGES (MEMORY / PAGE)
#define ACTORS 4u

enum todo { NOTHING, MIGRATE, INSPECT, WRITE, STORM, FORK, EXEC, LEAVE, END };

static struct common {
	_Atomic bool failed;
	struct actor {
		_Atomic unsigned todo;   /* enum todo; by the parent to that, by the actor to NOTHING */
		_Atomic uint64_t pages, held; /* on the device, and that it may use, when it had done that */
		_Atomic uint64_t took_ns;
		_Atomic uint64_t in, out; /* pages, ever */
		_Atomic int result;      /* of MIGRATE */
	} actor[ACTORS];
} *com;
static int share;
static uint64_t storm_ns; /* how long one takes */
static pid_t pids[ACTORS];

/* ---- an actor ---------------------------------------------------------------------------------------------------------------------------- */

static unsigned me;
static char *mem;
static size_t npages;
static uint64_t version;

static uint64_t name_of(size_t page)
{
	return 0x5ae0000 + ((uint64_t)me << 32) + page;
}

static void tell(void)
{
	struct tdm_device_stats s = stats_of(dev);

	com->actor[me].pages = s.memory_pages;
	com->actor[me].held = s.memory_held;
	com->actor[me].in = s.pages_in;
	com->actor[me].out = s.pages_out;
	CHECK(s.memory_pages <= s.memory_held, "actor %u: %" PRIu64 " pages in %" PRIu64 " frames", me, s.memory_pages, s.memory_held);
}

static int go(size_t from, size_t to)
{
	size_t n;
	int r = tdm_device_migrate(dev, mem + from * PAGE, (to - from) * PAGE, &n);

	CHECK(r == 0 || r == -ENOSPC, "actor %u: tdm_device_migrate: %d after %zu pages", me, r, n);
	return r;
}

static void storm(void)
{
	struct rng r = { opt.seed * 16 + me };

	for (uint64_t by = now_ns() + storm_ns; now_ns() < by && !com->failed;) {
		size_t a = below(&r, npages), n = 1 + below(&r, npages - a);

		(void)go(a, a + n);
		tell();
		n = n > 200 ? 200 : n;
		switch (below(&r, 4)) {
		case 0:
			device_check(dev, mem + a * PAGE, n * PAGE, name_of(a), version, "storm, by the device");
			break;
		case 1:
			check(mem + a * PAGE, n * PAGE, name_of(a), version, "storm");
			break;
		case 2:
			for (size_t i = a; i < a + n; i++)
				page_gen(mem + i * PAGE, name_of(i), version);
			break;
		default:
			device_fill(dev, mem + a * PAGE, n * PAGE, name_of(a), version);
			break;
		}
	}
	check(mem, npages * PAGE, name_of(0), version, "after a storm");
}

/* By libc and, every second time, by a bare system call, in whose child the library does not know what it is. */
static void forks(void)
{
	static unsigned times;
	bool bare = times++ % 2;
	pid_t pid = bare ? (pid_t)syscall(SYS_fork) : fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (!pid && bare) {
		check(mem, npages * PAGE, name_of(0), version, "child of a bare fork");
		_exit(7);
	}
	if (!pid) {
		size_t n;

		CHECK(tdm_device_migrate(dev, mem, PAGE, &n) == -ENODEV, "a child has its parent's device");
		check(mem, npages * PAGE, name_of(0), version, "child");
		fill(mem, npages * PAGE, name_of(0), version + 1000);
		check(mem, npages * PAGE, name_of(0), version + 1000, "child, what it has written");
		CHECK(tdm_soft_destroy(soft) == 0, "tdm_soft_destroy in a child");
		_exit(7);
	}
	(void)go(0, npages);
	reap(pid, 7, "child of an actor");
	check(mem, npages * PAGE, name_of(0), version, "after a child");
	(void)go(0, npages);
}

static void act(unsigned todo)
{
	char *sleeps[] = { (char *)"sleep", (char *)"1000", NULL };
	uint64_t t0 = now_ns();

	if (todo == MIGRATE)
		com->actor[me].result = go(0, npages);
	else if (todo == INSPECT)
		check(mem, npages * PAGE, name_of(0), version, "inspection");
	else if (todo == WRITE)
		fill(mem, npages * PAGE, name_of(0), ++version);
	else if (todo == STORM)
		storm();
	else if (todo == FORK)
		forks();
	else if (todo == EXEC)
		execvp("sleep", sleeps);
	tell();
	com->actor[me].took_ns = now_ns() - t0;
}

static void actor(size_t pages)
{
	unsigned todo;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	npages = pages;
	soft_start_with((struct tdm_soft_options){ .memory_bytes = MEMORY, .threads = 2, .share_fd = share });
	mem = anon(npages * PAGE);
	CHECK_SYS(madvise(mem, npages * PAGE, me % 2 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	fill(mem, npages * PAGE, name_of(0), version);
	for (; (todo = com->actor[me].todo) != END; com->actor[me].todo = NOTHING) {
		while (com->actor[me].todo == NOTHING)
			sleep_ms(1);
		todo = com->actor[me].todo;
		if (todo == END || todo == LEAVE)
			break;
		act(todo);
	}
	if (todo == LEAVE)
		_exit(0); /* as it is */
	check(mem, npages * PAGE, name_of(0), version, "at the end");
	soft_end();
	check(mem, npages * PAGE, name_of(0), version, "without a device");
	engine_stop();
	_exit(0);
}

/* ---- who tells them -------------------------------------------------------------------------------------------------------------------------- */

static void begin(void)
{
	int r;

	/* Whether it may at all. */
	engine_start(0);
	engine_stop();
	com = shared(sizeof(*com));
	fail_flag = &com->failed;
	storm_ns = 1000000000;
	r = tdm_soft_share_create(MEMORY, &share);
	CHECK(r == 0 && share > 0, "tdm_soft_share_create: %d", r);
}

static void end(void)
{
	close(share);
	munmap(com, sizeof(*com));
	fail_flag = NULL;
}

static void start(unsigned i, size_t pages)
{
	memset(&com->actor[i], 0, sizeof(com->actor[i]));
	com->actor[i].todo = INSPECT;
	pids[i] = fork();
	CHECK(pids[i] >= 0, "fork: %s", strerror(errno));
	if (!pids[i]) {
		me = i;
		actor(pages);
	}
}

static void tell_to(unsigned i, enum todo todo)
{
	com->actor[i].todo = todo;
}

static void wait_for(unsigned i, const char *what)
{
	for (uint64_t by = now_ns() + slow_s(60) * 1000000000ull; com->actor[i].todo != NOTHING && !com->failed; sleep_ms(1))
		CHECK(now_ns() < by, "%s: actor %u does not come back", what, i);
	CHECK(!com->failed, "%s: an actor failed", what);
}

static void have(unsigned i, enum todo todo, const char *what)
{
	tell_to(i, todo);
	wait_for(i, what);
}

static void finish(unsigned i, const char *what)
{
	tell_to(i, END);
	reap(pids[i], 0, what);
}

/* Actor i gets `frames`, and uses them: not always at once, since who is asked may not get the CPU in time. */
static void gets(unsigned i, uint64_t frames, const char *what)
{
	/* Where no block of 64 KiB is left, single pages may be. */
	uint64_t pages = frames - 16 * CHUNKS, by = now_ns() + slow_s(20) * 1000000000ull;

	for (;; sleep_ms(100)) {
		have(i, MIGRATE, what);
		if (com->actor[i].held >= frames && com->actor[i].pages >= pages)
			return;
		CHECK(now_ns() < by, "%s: actor %u has %" PRIu64 " frames of %" PRIu64 ", and %" PRIu64 " pages there", what, i, com->actor[i].held, frames,
		      com->actor[i].pages);
	}
}

/* All that there is: also of who has used it, in a second. */
static void has_all(unsigned i, const char *what)
{
	gets(i, DEVICE_PAGES, what);
}

/* All at once, with less than half of what they want. */
static void part_storm(void)
{
	uint64_t out = 0;

	begin();
	storm_ns = opt.seconds * 1000000000u;
	for (unsigned i = 0; i < ACTORS; i++)
		start(i, 1300 + 100 * i);
	for (unsigned i = 0; i < ACTORS; i++)
		wait_for(i, "start");
	for (unsigned i = 0; i < ACTORS; i++)
		tell_to(i, STORM);
	for (unsigned i = 0; i < ACTORS; i++)
		for (uint64_t by = now_ns() + (slow_s(60) + opt.seconds) * 1000000000u; com->actor[i].todo != NOTHING && !com->failed; sleep_ms(5))
			CHECK(now_ns() < by, "actor %u hangs", i);
	CHECK(!com->failed, "an actor failed");
	for (unsigned i = 0; i < ACTORS; i++) {
		out += com->actor[i].out;
		CHECK(com->actor[i].in > 100, "actor %u: only %" PRIu64 " pages went to the device", i, com->actor[i].in);
	}
	fprintf(stderr, "devshare: %" PRIu64 " pages came back\n", out);
	for (unsigned i = 0; i < ACTORS; i++)
		finish(i, "storm");
	start(0, DEVICE_PAGES + 100);
	wait_for(0, "start");
	has_all(0, "after a storm");
	finish(0, "after a storm");
	end();
}

/* Actor 0 has all, and has just used it. What does 1 get? */
static bool gets_half(void)
{
	uint64_t t0;

	has_all(0, "who is asked");
	t0 = now_ns();
	have(1, MIGRATE, "beside one that has all");
	fprintf(stderr, "devshare: %" PRIu64 " frames of %lu after %" PRIu64 " ms\n", com->actor[1].held, DEVICE_PAGES, (now_ns() - t0) / 1000000);
	return com->actor[1].held == DEVICE_PAGES / 2 && com->actor[1].result == -ENOSPC;
}

/* Who has not used the device for a while gives up all; who does gives up half. Nothing of what was evicted is lost. */
static void part_asks(void)
{
	begin();
	start(0, DEVICE_PAGES + 300);
	start(1, DEVICE_PAGES + 300);
	wait_for(0, "start");
	wait_for(1, "start");
	/* On a busy machine it may be long since the other has used it, or take too long to answer. */
	for (unsigned tries = 0; !gets_half(); tries++)
		CHECK(tries < 10, "half would be fair: %" PRIu64 " of %lu frames", com->actor[1].held, DEVICE_PAGES);
	have(0, INSPECT, "evicted by another");
	CHECK(com->actor[0].held == DEVICE_PAGES / 2, "it has %" PRIu64 " frames of %lu left", com->actor[0].held, DEVICE_PAGES);
	has_all(1, "beside one that sleeps");
	have(0, INSPECT, "evicted while it sleeps");
	have(0, WRITE, "evicted while it sleeps");
	has_all(0, "in turn");
	finish(0, "asks");
	has_all(1, "who is left");
	finish(1, "asks");
	end();
}

/* With pages there; it is not even reaped. */
static void part_killed(void)
{
	struct rng r = { opt.seed };

	begin();
	start(1, DEVICE_PAGES + 100);
	wait_for(1, "start");
	for (unsigned round = 0; round < (opt.seconds > 5 ? 20 : 4); round++) {
		siginfo_t si;

		start(0, DEVICE_PAGES + 100);
		wait_for(0, "start");
		if (round % 2) {
			/* In the middle of it: while it takes, or gives. */
			tell_to(0, STORM);
			tell_to(1, STORM);
			sleep_ms((unsigned)below(&r, 200));
		} else {
			has_all(0, "who is to be killed");
		}
		kill(pids[0], SIGKILL);
		CHECK_SYS(waitid(P_PID, (id_t)pids[0], &si, WEXITED | WNOWAIT));
		wait_for(1, "beside one that is killed");
		has_all(1, "after another was killed");
		have(1, INSPECT, "after another was killed");
		waitpid(pids[0], NULL, 0);
	}
	finish(1, "killed");
	end();
}

/* Who is stopped gives up nothing, and holds up nobody for long. */
static void part_stopped(void)
{
	begin();
	for (unsigned i = 0; i < 3; i++) {
		start(i, DEVICE_PAGES);
		wait_for(i, "start");
	}
	has_all(0, "who is to be stopped");
	gets(1, DEVICE_PAGES / 2, "before");
	have(0, MIGRATE, "before");
	kill(pids[0], SIGSTOP);
	gets(2, DEVICE_PAGES / CHUNKS, "beside one that is stopped");
	CHECK(com->actor[2].result == -ENOSPC, "room was made by one that is stopped: %d", com->actor[2].result);
	CHECK(com->actor[2].took_ns < slow_s(5) * 1000000000ull, "%" PRIu64 " ms for one that is stopped", com->actor[2].took_ns / 1000000);
	for (unsigned i = 1; i < 3; i++)
		tell_to(i, STORM);
	for (unsigned i = 1; i < 3; i++)
		wait_for(i, "storm beside one that is stopped");
	for (unsigned i = 1; i < 3; i++)
		have(i, INSPECT, "beside one that is stopped");
	kill(pids[0], SIGCONT);
	have(0, INSPECT, "stopped, and continued");
	finish(2, "stopped");
	has_all(1, "beside one that goes on");
	have(0, INSPECT, "evicted after it has been stopped");
	finish(0, "stopped");
	finish(1, "stopped");
	end();
}

/* The child has nothing of it, and frees nothing of it. */
static void part_forks(void)
{
	begin();
	start(0, DEVICE_PAGES + 50);
	start(1, DEVICE_PAGES + 50);
	wait_for(0, "start");
	wait_for(1, "start");
	for (unsigned round = 0; round < (opt.seconds > 5 ? 20 : 4); round++) {
		have(0, MIGRATE, "before a fork");
		tell_to(1, STORM);
		have(0, FORK, "fork");
		wait_for(1, "beside one that forks");
		CHECK(com->actor[0].held, "a fork has taken its memory away");
		have(0, INSPECT, "after a fork");
	}
	finish(0, "forks");
	finish(1, "forks");
	end();
}

/* It ends without a word, or becomes another program. */
static void part_leaves(void)
{
	begin();
	start(1, DEVICE_PAGES + 50);
	wait_for(1, "start");
	for (unsigned exec = 0; exec < 2; exec++) {
		start(0, DEVICE_PAGES + 50);
		wait_for(0, "start");
		has_all(0, "who leaves");
		tell_to(0, exec ? EXEC : LEAVE);
		for (char path[40], comm[32] = ""; exec && strcmp(comm, "sleep\n"); sleep_ms(1)) {
			FILE *f;

			snprintf(path, sizeof(path), "/proc/%d/comm", pids[0]);
			f = fopen(path, "r");
			CHECK(f && fgets(comm, sizeof(comm), f), "%s", path);
			fclose(f);
		}
		if (!exec)
			reap(pids[0], 0, "leaves");
		has_all(1, exec ? "after an exec" : "after an exit");
		have(1, INSPECT, "after another has left");
		if (exec) {
			kill(pids[0], SIGKILL);
			waitpid(pids[0], NULL, 0);
		}
	}
	finish(1, "leaves");
	end();
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "storm", part_storm }, { "asks", part_asks }, { "killed", part_killed }, { "stopped", part_stopped }, { "forks", part_forks }, { "leaves", part_leaves },
	};

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
