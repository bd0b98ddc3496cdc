/* SPDX-License-Identifier: MIT */
/* The host port's calls, with a userfaultfd of this very process. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "port/host.h"
#include "runner/t.h"

#define PAGES 4u

/* Linux moves a page, and says EEXIST: seen once in a million moves (tests/live/prog/moves.c). Here the page has been moved beforehand. */
TEST(a_move_that_was_not_told_of, .may_leak = true)
{
	static struct tdm_host h;
	char err[200] = "";
	int fd = tdmi_host_open_uffd(err, sizeof(err));
	u8 *arena = plat_map(TDM_HUGE_SIZE);
	u8 *mem = mmap(NULL, PAGES * TDM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct tdm_va va = { (u64)(uintptr_t)mem };
	const struct tdm_port_ops *ops;
	u32 done;

	if (fd < 0)
		SKIP(err);
	CHECK(arena && mem != MAP_FAILED);
	CHECK_EQ(tdmi_host_init(&h, fd, arena, TDM_HUGE_SIZE), 0);
	ops = h.port.ops;
	for (u32 i = 0; i < PAGES; i++)
		mem[i * TDM_PAGE_SIZE] = (u8)(i + 1);
	CHECK_EQ(tdmi_host_register(&h, va.v, va.v + PAGES * TDM_PAGE_SIZE), 0);
	CHECK_EQ(ops->invalidate(&h.port, va, arena, 1, &done), 0);
	CHECK_EQ(done, 1);
	CHECK_EQ(ops->invalidate(&h.port, va, arena, PAGES, &done), 0);
	CHECK_EQ(done, PAGES);
	for (u32 i = 0; i < PAGES; i++)
		CHECK_EQ(arena[i * TDM_PAGE_SIZE], i + 1);
	/* What is at its address, and something in its home: that is no move. */
	CHECK_EQ(ops->fill(&h.port, va, arena, PAGES, &done), 0);
	arena[TDM_PAGE_SIZE] = 9;
	CHECK_EQ(ops->invalidate(&h.port, va, arena, PAGES, &done), -EEXIST);
	CHECK_EQ(done, 1);
	CHECK_EQ(mem[TDM_PAGE_SIZE], 2);
	tdmi_host_close(&h);
}

static void *read_fork(void *arg)
{
	struct tdm_host *h = arg;
	struct uffd_msg m;

	while (tdmi_host_read_msg(h->uffd, &m) != 1)
		plat_yield();
	CHECK_EQ(m.event, UFFD_EVENT_FORK);
	return (void *)(uintptr_t)m.arg.fork.ufd;
}

/* The userfaultfd of a child tells whether there is still a child, and what the child does to the beacon. */
TEST(a_child_calls_and_ends, .may_leak = true)
{
	static struct tdm_host h;
	char err[200] = "";
	int fd = tdmi_host_open_uffd(err, sizeof(err)), status;
	u8 *arena = plat_map(TDM_HUGE_SIZE);
	struct uffd_msg m;
	pthread_t reader;
	void *child;
	pid_t pid;

	if (fd < 0)
		SKIP(err);
	CHECK_EQ(tdmi_host_init(&h, fd, arena, TDM_HUGE_SIZE), 0);
	CHECK_EQ(pthread_create(&reader, NULL, read_fork, &h), 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		tdmi_host_call(&h);
		for (;;)
			pause();
	}
	CHECK_EQ(pthread_join(reader, &child), 0);
	while (tdmi_host_read_msg((int)(uintptr_t)child, &m) != 1)
		plat_yield();
	CHECK_EQ(m.event, UFFD_EVENT_REMOVE);
	CHECK_EQ(m.arg.remove.start, h.beacon);
	CHECK(tdmi_host_alive(&h, (int)(uintptr_t)child));
	CHECK_EQ(kill(pid, SIGKILL), 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(!tdmi_host_alive(&h, (int)(uintptr_t)child));
	tdmi_host_let_go((int)(uintptr_t)child);
	tdmi_host_close(&h);
}

/* ---- pages of the arena are given back by two threads at once ------------------------------------------------------------------ */

#define HALF (TDM_HUGE_PAGES / 2)

static tdm_a32 giving;

/* These are shared with a child, so they are dropped in place. */
static void *give_one_by_one(void *arg)
{
	struct tdm_host *h = arg;
	u32 one = 1;

	for (u32 i = 0; i < HALF; i++) {
		void *slot = (u8 *)h->arena + (size_t)i * TDM_PAGE_SIZE;

		h->port.ops->discard(&h->port, &slot, &one, 1);
	}
	tdm_a32_sub_acqrel(&giving, 1);
	return NULL;
}

static void *give_many(void *arg)
{
	struct tdm_host *h = arg;
	void *slot[HALF - 1];
	u32 pages[HALF - 1];

	for (u32 i = 0; i < HALF - 1; i++) { /* the last page is the beacon */
		slot[i] = (u8 *)h->arena + (size_t)(HALF + i) * TDM_PAGE_SIZE;
		pages[i] = 1;
	}
	while (tdm_a32_ld_acquire(&giving) == 2)
		h->port.ops->discard_many(&h->port, slot, pages, HALF - 1);
	tdm_a32_sub_acqrel(&giving, 1);
	return NULL;
}

/* None of that is an event: who reads events may be waiting for the one who gives them back. */
TEST(two_give_pages_back, .may_leak = true, .seconds = 60)
{
	static struct tdm_host h;
	char err[200] = "";
	int fd = tdmi_host_open_uffd(err, sizeof(err)), status;
	u8 *arena = plat_map(TDM_HUGE_SIZE);
	struct uffd_msg m;
	u32 events = 0;

	if (fd < 0)
		SKIP(err);
	CHECK_EQ(madvise(arena, TDM_HUGE_SIZE, MADV_NOHUGEPAGE), 0);
	CHECK_EQ(tdmi_host_init(&h, fd, arena, TDM_HUGE_SIZE), 0);
	for (u32 run = 0; run < 60; run++) {
		pthread_t reader, one, many;
		void *child;
		pid_t pid;

		memset(arena, 1, HALF * TDM_PAGE_SIZE);
		CHECK_EQ(pthread_create(&reader, NULL, read_fork, &h), 0);
		pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			for (;;)
				pause();
		}
		CHECK_EQ(pthread_join(reader, &child), 0);
		tdm_a32_st_release(&giving, 2);
		CHECK_EQ(pthread_create(&one, NULL, give_one_by_one, &h), 0);
		CHECK_EQ(pthread_create(&many, NULL, give_many, &h), 0);
		while (tdm_a32_ld_acquire(&giving))
			events += tdmi_host_read_msg(fd, &m) == 1;
		CHECK_EQ(pthread_join(one, NULL), 0);
		CHECK_EQ(pthread_join(many, NULL), 0);
		CHECK_EQ(kill(pid, SIGKILL), 0);
		CHECK_EQ(waitpid(pid, &status, 0), pid);
		tdmi_host_let_go((int)(uintptr_t)child);
		for (u32 i = 0; i < HALF; i++)
			CHECK_EQ(arena[i * TDM_PAGE_SIZE], 0);
	}
	CHECK_EQ(events, 0);
	tdmi_host_close(&h);
}

static u8 pattern(size_t i)
{
	return (u8)(i % 251 + 1);
}

/* Whatever of the destination is there already, and wherever it begins: the bytes are there afterwards, and nothing before them has changed. */
TEST(pages_come_with_their_bytes, .may_leak = true)
{
	static struct tdm_host h;
	static u8 src[8 * TDM_PAGE_SIZE];
	char err[200] = "";
	int fd = tdmi_host_open_uffd(err, sizeof(err));
	u8 *arena = plat_map(TDM_HUGE_SIZE), *mem = plat_map(2 * TDM_HUGE_SIZE);

	if (fd < 0)
		SKIP(err);
	CHECK(arena && mem);
	CHECK_EQ(tdmi_host_init(&h, fd, arena, TDM_HUGE_SIZE), 0);
	for (size_t i = 0; i < sizeof(src); i++)
		src[i] = pattern(i);
	for (u32 run = 0; run < 96; run++) {
		/* Which pages are touched: all combinations of five. The third time the bytes lie on both sides of a 2 MiB border. */
		u8 *dst = mem + (run / 32 == 2 ? TDM_HUGE_SIZE - 3 * TDM_PAGE_SIZE + 1234 : run / 32 * 1234 % TDM_PAGE_SIZE);
		u8 *first = (u8 *)TDM_ALIGN_DOWN((uintptr_t)dst, TDM_PAGE_SIZE);
		size_t len = 4 * TDM_PAGE_SIZE + 100 * (run % 7);

		plat_discard(mem, 2 * TDM_HUGE_SIZE);
		for (u32 k = 0; k < 5; k++)
			if (run >> k & 1)
				memset(first + k * TDM_PAGE_SIZE, 0xee, TDM_PAGE_SIZE);
		plat_copy_new(dst, src, len);
		CHECK(memcmp(dst, src, len) == 0);
		for (u8 *p = first; p < dst; p++)
			CHECK_EQ(*p, run & 1 ? 0xee : 0);
	}
	tdmi_host_close(&h);
	plat_copy_new(mem, src, sizeof(src));
	CHECK(memcmp(mem, src, sizeof(src)) == 0);
}
