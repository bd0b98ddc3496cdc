/* SPDX-License-Identifier: MIT */
/* What agents access: patterns of several threads, and traces that are put into a mapping. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "runner/t.h"
#include "sim/stream.h"

static struct tdm_scenario s, one;
static char err[TDM_SIM_ERR], path[40];
static int fd = -1;

#define HEAD "# Why?\n[machine]\ncpus = 2\n[process p]\n[mapping m]\nprocess = p\nkind = anonymous\nsize = "
#define TAIL "\n[print]\ncolumns = cycles\n"

static void scenario(const char *size, const char *agent)
{
	char text[1024];

	snprintf(text, sizeof(text), HEAD "%s\n[agent a]\nkind = cpu\nmapping = m\n%s" TAIL, size, agent);
	if (tdmi_scenario_parse(&s, "f", text, NULL, 0, err) || tdmi_scenario_point(&s, 0, &one, err))
		t_fail(__FILE__, __LINE__, "%s", err);
}

static void trace(const char *size, const char *more, const char *text)
{
	char agent[512];

	if (fd < 0) {
		fd = memfd_create("trace", MFD_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	CHECK_EQ(ftruncate(fd, 0), 0);
	CHECK_EQ(pwrite(fd, text, strlen(text), 0), strlen(text));
	snprintf(agent, sizeof(agent), "pattern = trace\ntrace = %s\n%s", path, more);
	scenario(size, agent);
}

static void end(void)
{
	close(fd);
	fd = -1;
}

TEST(threads_differ)
{
	struct tdm_stream a, b, c;
	u64 x[100], y[100], z[100];

	scenario("1M", "pattern = uniform\nwrites = 50%\nthreads = 2\naccesses = 1\n");
	CHECK_EQ(tdmi_stream_open(&a, &one, 0, 0, err), 0);
	CHECK_EQ(tdmi_stream_open(&b, &one, 0, 1, err), 0);
	CHECK_EQ(tdmi_stream_open(&c, &one, 0, 0, err), 0);
	CHECK_EQ(tdmi_stream_next(&a, x, 100, err), 100);
	CHECK_EQ(tdmi_stream_next(&b, y, 100, err), 100);
	CHECK_EQ(tdmi_stream_next(&c, z, 100, err), 100);
	CHECK(memcmp(x, y, sizeof(x)) && !memcmp(x, z, sizeof(x)));
	CHECK(tdmi_stream_state(&a) == tdmi_stream_state(&c) && tdmi_stream_state(&a) != tdmi_stream_state(&b));
	for (u32 i = 0; i < 100; i++)
		CHECK(TDM_OP_OFFSET(x[i]) < 1 << 20 && x[i] % 4096 <= 1);
	tdmi_stream_close(&a);
	tdmi_stream_close(&b);
	tdmi_stream_close(&c);
}

/* The pages that a record touches, in portions of every size. */
TEST(records_across_pages)
{
	static const u64 want[] = { 0x10, 0x20 | 1, 0xff8, 0x1000, 0x1ffff8 | 1, 0x200000 | 1, 0x201000 | 1, 0x401230 };
	const char *text = "I  7f00000000,4\n L 500000000010,4\n S 500000000020,8\n L 500000000fff,2\n M 5000001ffff9,4104\n L 400000001234,1\n";

	trace("6M", "", text);
	for (u32 portion = 1; portion < 10; portion++) {
		struct tdm_stream st;
		u64 ops[10];
		u32 n = 0;
		int r;

		CHECK_EQ(tdmi_stream_open(&st, &one, 0, 0, err), 0);
		while ((r = tdmi_stream_next(&st, ops, portion, err)) > 0)
			for (int i = 0; i < r; i++)
				CHECK_EQ(ops[i], want[n++]);
		CHECK_EQ(r, 0);
		CHECK_EQ(n, TDM_ARRAY_SIZE(want));
		CHECK_EQ(tdmi_stream_next(&st, ops, portion, err), 0);
		tdmi_stream_close(&st);
	}
	end();
}

TEST(fetches_on_demand)
{
	struct tdm_stream st;
	u64 ops[10];

	trace("2M", "fetches = on\n", "I  1008,4\n L 1010,4\n");
	CHECK_EQ(tdmi_stream_open(&st, &one, 0, 0, err), 0);
	CHECK_EQ(tdmi_stream_next(&st, ops, 10, err), 2);
	CHECK_EQ(ops[0], 0x1008);
	tdmi_stream_close(&st);
	end();
}

TEST(traces_that_do_not_fit)
{
	static const char *const text[] = { "R 0\nR 200000\nR 400000\n", "R 0\nR 300000\n" };
	struct tdm_stream st;
	u64 ops[10];

	for (u32 i = 0; i < 2; i++) {
		/* The second block is 1 MiB only. */
		trace(i ? "3M" : "4M", "", text[i]);
		CHECK_EQ(tdmi_stream_open(&st, &one, 0, 0, err), 0);
		CHECK_EQ(tdmi_stream_next(&st, ops, i ? 1 : 2, err), i ? 1 : 2);
		CHECK_EQ(tdmi_stream_next(&st, ops, 10, err), -ENOSPC);
		CHECK(strstr(err, path) && strstr(err, "touches more than [mapping m] has"));
		tdmi_stream_close(&st);
	}
	end();
}

TEST(damaged_traces)
{
	struct tdm_stream st;
	u64 ops[10];

	trace("4M", "", "R 0\nR");
	CHECK_EQ(tdmi_stream_open(&st, &one, 0, 0, err), 0);
	CHECK_EQ(tdmi_stream_next(&st, ops, 10, err), -EINVAL);
	CHECK(strstr(err, ":2: ends in the middle of a line"));
	tdmi_stream_close(&st);
	end();
	CHECK_EQ(tdmi_stream_open(&st, &one, 0, 0, err), -ENOENT);
}
