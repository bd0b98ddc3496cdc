/* SPDX-License-Identifier: MIT */
/*
 * The engine in a world that fails: the first call, the second, ... until a run goes through untouched.
 *
 * A run is a program's life over the simulated CPU and platform: memory of every kind is adopted, touched, taken home, packed, sent down the tiers,
 * read back, dropped, moved and unmapped. Whatever fails, every byte is as the program wrote it, or the program is told (-EIO: SIGBUS), and that
 * only where the same read was refused twice; what was made is given back; and nobody waits for ever. Where the engine cannot go on it says so
 * and ends: that is allowed where memory fails for good, and nowhere else.
 *
 * Each run has a process of its own, so that such an end can be looked at, and CPU time instead of a clock to be late by.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "life.h"

#define MEMORY (TDM_SIM_MAP | ALLOC)

/* The platform gives 64 KiB at a time, and is asked a few times in a life: so what the engine is given from that fails as well. */
void *__real_tdmi_alloc(struct tdm_alloc *a, size_t size);
void *__wrap_tdmi_alloc(struct tdm_alloc *a, size_t size);

void *__wrap_tdmi_alloc(struct tdm_alloc *a, size_t size)
{
	return tdm_sim_fails(ALLOC) ? NULL : __real_tdmi_alloc(a, size);
}

/* ---- every call ------------------------------------------------------------------------------------------------------------------ */

/* Run it in a process of its own. What it exited with; TOUCHED if it ended, as it may, with a message. */
static int one_run(const struct world *w, u64 n)
{
	struct itimerval limit = { .it_value.tv_sec = t_slow() ? 60 : 20 };
	char said[400];
	size_t len = 0;
	ssize_t k;
	int fd[2], status;
	pid_t pid;

	CHECK(!pipe(fd));
	fflush(stdout);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		/* A hang uses CPU time: there is nobody to wait for. */
		setitimer(ITIMER_PROF, &limit, NULL);
		dup2(fd[1], 2);
		close(fd[0]);
		close(fd[1]);
		_exit(life(w, n));
	}
	close(fd[1]);
	while ((k = read(fd[0], said + len, sizeof(said) - 1 - len)) > 0)
		len += (size_t)k;
	close(fd[0]);
	said[len] = 0;
	CHECK(waitpid(pid, &status, 0) == pid);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && how->may_end && !strncmp(said, "tandem: no memory", 17))
		return TOUCHED;
	if (!WIFEXITED(status) || (WEXITSTATUS(status) != TOUCHED && WEXITSTATUS(status) != UNTOUCHED && WEXITSTATUS(status) != LOST)) {
		printf("# %s, call %llu, tiers %s %s: %s%s\n", how->name, (unsigned long long)n, w->tier[0], w->tier[1] ? w->tier[1] : "",
		       WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF ? "a hang " : "", said);
		t_fail(__FILE__, __LINE__, "%s, call %llu", how->name, (unsigned long long)n);
	}
	return WEXITSTATUS(status);
}

/* Every step-th call; each of them with TDM_LONG=1. The runs in which a page was lost. */
static u32 every_call(const struct world *w, const struct failure *f, u64 step)
{
	u64 n = 1, runs = 0;
	u32 losses = 0;
	int r;

	how = f;
	step = getenv("TDM_LONG") ? 1 : t_slow() ? 13 * step : step;
	/* Backwards there would be no end to begin at: the calls of a run depend on what failed. */
	for (; (r = one_run(w, n)) != UNTOUCHED; n += step) {
		runs++;
		losses += r == LOST;
	}
	printf("%s over %s %s: %llu runs to call %llu, %u with losses\n", f->name, w->tier[0], w->tier[1] ? w->tier[1] : "",
	       (unsigned long long)runs, (unsigned long long)n, losses);
	/* Otherwise nothing was tried. */
	CHECK(n > ((f->kinds & MEMORY) && !(f->kinds & PORT_ANY) ? 40 : f->kinds & (PORT_LOOK | PORT_HUGE) ? 2 : 20));
	CHECK(losses == 0 || f->may_lose);
	return losses;
}

static const struct world worlds[] = {
	{ { "lz4:1M", "file:/sim:6M" } },
	{ { "file:/sim" } },
	{ { "lz4:1M", "zstd:1M" } },
	{ { "zstd" } },
};

TEST(memory_once, .seconds = 200)
{
	static const struct failure f = { "memory once", MEMORY, 1, 0, false, false };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(worlds); i++)
		every_call(&worlds[i], &f, i ? 3 : 1);
}

TEST(memory_for_a_while, .seconds = 200)
{
	static const struct failure f = { "memory, five calls", MEMORY, 5, 0, false, false };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(worlds); i++)
		every_call(&worlds[i], &f, 7);
}

TEST(memory_for_good, .seconds = 200)
{
	static const struct failure f = { "memory for good", MEMORY, ~(u64)0, 0, false, true };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(worlds); i++)
		every_call(&worlds[i], &f, i ? 7 : 2);
}

TEST(files_once, .seconds = 200)
{
	static const struct failure f = { "files once", TDM_SIM_FILES, 1, 0, false, false };

	every_call(&worlds[0], &f, 1);
	every_call(&worlds[1], &f, 3);
}

TEST(files_for_good, .seconds = 200)
{
	static const struct failure f = { "files for good", TDM_SIM_FILES, ~(u64)0, 0, true, false };

	CHECK(every_call(&worlds[0], &f, 3) + every_call(&worlds[1], &f, 3));
}

TEST(the_disk_is_full_for_good, .seconds = 200)
{
	static const struct failure f = { "no space for good", TDM_SIM_IO, ~(u64)0, -ENOSPC, true, false };

	every_call(&worlds[0], &f, 5);
	every_call(&worlds[1], &f, 5);
}

TEST(anything_for_a_while, .seconds = 200)
{
	static const struct failure f = { "anything, three calls", ALLOC | TDM_SIM_ALL, 3, 0, true, false };

	every_call(&worlds[0], &f, 5);
}

TEST(anything_for_good, .seconds = 200)
{
	static const struct failure f = { "anything for good", ALLOC | TDM_SIM_ALL, ~(u64)0, 0, true, true };

	every_call(&worlds[0], &f, 5);
}

/* ---- tiers ------------------------------------------------------------------------------------------------------------------------- */

TEST(a_tier_refuses, .seconds = 200)
{
	static const struct failure full = { "put: no space, for good", TIER_PUT, ~(u64)0, -ENOSPC, false, false };
	static const struct failure once = { "put: an error, once", TIER_PUT, 1, -EIO, false, false };

	every_call(&worlds[0], &full, 17);
	every_call(&worlds[0], &once, 11);
	every_call(&worlds[2], &once, 23);
}

TEST(a_tier_cannot_read, .seconds = 200)
{
	static const struct failure once = { "get: an error, once", TIER_GET, 1, 0, true, false };
	static const struct failure good = { "get: an error, for good", TIER_GET, ~(u64)0, 0, true, false };

	CHECK(every_call(&worlds[0], &once, 11));
	CHECK(every_call(&worlds[3], &good, 23));
}

/* Memory or a disk gives back something else: nobody gets to see it. */
TEST(a_tier_lies, .seconds = 200)
{
	static const struct failure f = { "get: other bytes, once", TIER_FLIP, 1, 0, true, false };
	static const struct failure good = { "get: other bytes, three times", TIER_FLIP, 3, 0, true, false };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(worlds); i++)
		CHECK(every_call(&worlds[i], &f, i ? 23 : 11));
	CHECK(every_call(&worlds[0], &good, 29));
}

/* ---- the port ---------------------------------------------------------------------------------------------------------------------- */

/* Half of what was asked for is done, then: the mapping is changing, there is no memory, it cannot be done so. */
TEST(the_port_fills_half, .seconds = 200)
{
	static const struct failure again = { "fill: again", PORT_FILL, 1, -EAGAIN, false, false };
	static const struct failure memory = { "fill: no memory, three times", PORT_FILL, 3, -ENOMEM, false, false };
	static const struct failure other = { "fill: not so, twice", PORT_FILL, 2, -EINVAL, false, false };
	static const struct failure mem_too = { "fill and allocator", PORT_FILL | ALLOC, 4, -ENOMEM, false, false };

	every_call(&worlds[0], &again, 131);
	every_call(&worlds[0], &memory, 137);
	every_call(&worlds[0], &other, 139);
	every_call(&worlds[0], &mem_too, 149);
}

TEST(the_port_gives_up_half, .seconds = 200)
{
	static const struct failure again = { "take: again", PORT_TAKE, 1, -EAGAIN, false, false };
	static const struct failure busy = { "take: pinned, twice", PORT_TAKE, 2, -EBUSY, false, false };
	static const struct failure memory = { "take: no memory, three times", PORT_TAKE, 3, -ENOMEM, false, false };
	static const struct failure all = { "take and allocator, for a while", PORT_TAKE | ALLOC, 6, -EBUSY, false, false };

	every_call(&worlds[0], &again, 17);
	every_call(&worlds[0], &busy, 19);
	every_call(&worlds[0], &memory, 23);
	every_call(&worlds[0], &all, 13);
}

/* A leaf, half of which has moved, in all ways in which it can be split then, or cannot. */
TEST(the_port_moves_half_of_a_leaf, .seconds = 200)
{
	static const int errors[] = { -EAGAIN, -EBUSY, -ENOMEM, -EINVAL, -ENOENT };
	static struct failure f = { "half a leaf", PORT_HUGE, 1, 0, false, false };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(errors); i++) {
		f.err = errors[i];
		f.kinds = PORT_HUGE;
		f.count = 1;
		every_call(&worlds[3], &f, 1);
		f.kinds = PORT_HUGE | ALLOC;
		f.count = 4;
		every_call(&worlds[3], &f, 3);
	}
}

TEST(the_port_cannot_look, .seconds = 200)
{
	static const struct failure f = { "present: no memory", PORT_LOOK, 1, -ENOMEM, false, false };

	every_call(&worlds[3], &f, 1);
}
