// SPDX-License-Identifier: MIT
/* test_keep.c - pages that threads need to the end. */
#include "mm/frame.h"
#include "mm/keep.h"
#include "t.h"

static struct tdm_keep keep;

static bool is(void *arg, u32 tid)
{
	return tid == *(u32 *)arg;
}

TEST(kept_until_the_thread_is_gone)
{
	u64 block = (u64)0x7f0000120000;
	u32 tid = 7;

	CHECK_EQ(tdmi_keep_mask(&keep, block), 0);
	CHECK(tdmi_keep_add(&keep, block + 0x3123, 7));
	CHECK(tdmi_keep_add(&keep, block + 0x3000, 7)); /* the same page */
	CHECK(tdmi_keep_add(&keep, block + 0xf000, 8));
	CHECK(tdmi_keep_add(&keep, block + TDM_BLOCK_SIZE, 9));
	CHECK_EQ(tdmi_keep_mask(&keep, block), 0x8008);
	CHECK_EQ(tdmi_keep_mask(&keep, block + TDM_BLOCK_SIZE), 1);
	tdmi_keep_sweep(&keep, is, &tid);
	CHECK_EQ(tdmi_keep_mask(&keep, block), 0x8000);
	/* A page of two threads stays for the other one. */
	CHECK(tdmi_keep_add(&keep, block + 0xf000, 7));
	tdmi_keep_sweep(&keep, is, &tid);
	CHECK_EQ(tdmi_keep_mask(&keep, block), 0x8000);
}

TEST(many_threads)
{
	u32 kept = 0;

	for (u32 i = 0; i < 4000; i++)
		kept += tdmi_keep_add(&keep, (u64)0x7f0000000000 + i * (u64)0x801000, 100 + i);
	CHECK(kept > 3990);
	for (u32 i = 0; i < 4000; i++)
		CHECK(i >= kept || tdmi_keep_mask(&keep, ((u64)0x7f0000000000 + i * (u64)0x801000) & ~(TDM_BLOCK_SIZE - 1)));
}

/* There is an end to it, and it is said. */
TEST(one_block_too_often)
{
	u32 kept = 0;

	for (u32 i = 0; i < 32; i++)
		kept += tdmi_keep_add(&keep, (u64)0x7f0000000000, 100 + i);
	CHECK(kept >= 8 && kept <= 16);
}
