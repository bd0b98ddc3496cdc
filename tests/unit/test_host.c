/* SPDX-License-Identifier: MIT */
/* The host port's calls, with a userfaultfd of this very process. */
#include <string.h>
#include <sys/mman.h>
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
