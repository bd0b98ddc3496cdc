// SPDX-License-Identifier: MIT
/* test_sim.c - the simulated world keeps what plat.h promises, and fails when told to. */
#include <stdlib.h>
#include <string.h>
#include "plat/sim.h"
#include "t.h"

#define ARENA ((size_t)8 << 20)

static u8 *arena;

static void start(void)
{
	arena = aligned_alloc(TDM_HUGE_SIZE, ARENA);
	CHECK(arena != NULL);
	memset(arena, 0x11, ARENA);
	tdm_sim_init(arena, ARENA);
}

static void finish(void)
{
	CHECK_EQ(tdm_sim_mapped(), 0);
	CHECK_EQ(tdm_sim_locked(), 0);
	CHECK_EQ(tdm_sim_files(), 0);
	tdm_sim_init(NULL, 0);
	free(arena);
}

static bool all(const u8 *p, size_t n, u8 byte)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != byte)
			return false;
	return true;
}

TEST(memory)
{
	u8 *a, *b, *c;

	start();
	a = plat_map(4096);
	b = plat_map(8192);
	CHECK(a && b && all(a, 4096, 0) && all(b, 8192, 0));
	CHECK_EQ(tdm_sim_mapped(), 12288);
	memset(b, 7, 8192);
	plat_discard(b + 4096, 4096);
	CHECK(all(b, 4096, 7) && all(b + 4096, 4096, 0));
	plat_unmap(a, 4096);
	CHECK(!all(a, 4096, 0));
	c = plat_map(TDM_HUGE_SIZE);
	CHECK(c && (uintptr_t)c % TDM_HUGE_SIZE == 0 && all(c, TDM_HUGE_SIZE, 0));
	CHECK(plat_map(ARENA) == NULL);
	/* What is free is used again: the hole at a, then everything else. */
	CHECK(plat_map(4096) == a);
	plat_unmap(a, 4096);
	plat_unmap(b, 8192);
	plat_unmap(c, TDM_HUGE_SIZE);
	a = plat_map(ARENA);
	CHECK(a != NULL);
	plat_unmap(a, ARENA);
	finish();
}

TEST_DIES(unmap_of_a_part, "bug")
{
	u8 *p;

	start();
	p = plat_map(8192);
	plat_unmap(p + 4096, 4096);
}

TEST_DIES(discard_of_free_memory, "bug")
{
	start();
	plat_discard(arena, 4096);
}

TEST(waiting_moves_the_clock)
{
	tdm_a32 word = { 3 };
	u64 t0;

	start();
	t0 = plat_now_ns();
	CHECK(plat_now_ns() > t0);
	CHECK_EQ(plat_wait(&word, 4, ~(u64)0), 0);
	CHECK_EQ(plat_wait(&word, 3, 5000000), -ETIMEDOUT);
	CHECK(plat_now_ns() >= t0 + 5000000);
	finish();
}

TEST_DIES(waiting_for_ever, "nobody can end this wait")
{
	tdm_a32 word = { 3 };

	start();
	plat_wait(&word, 3, ~(u64)0);
}

static u8 page[2][4096] __attribute__((aligned(4096)));

TEST(files)
{
	struct plat_io io = { .write = true, .buf = page[0], .len = 4096, .off = 8192 };
	u64 bytes;
	bool direct;

	start();
	CHECK_EQ(plat_file_create("/anywhere", &io.file, &direct), 0);
	memset(page[0], 9, 4096);
	CHECK_EQ(plat_file_io(&io), 0);
	CHECK_EQ(tdm_sim_file_bytes(), 4096);
	io.write = false;
	io.buf = page[1];
	CHECK_EQ(plat_file_io(&io), 0);
	CHECK(all(page[1], 4096, 9));
	CHECK(tdm_sim_file_flip(io.file, 8192 + 5));
	CHECK_EQ(plat_file_io(&io), 0);
	CHECK_EQ(page[1][5], 8);
	io.off = 0; /* a hole */
	CHECK_EQ(plat_file_io(&io), 0);
	CHECK(all(page[1], 4096, 0));
	io.off = 1 << 20; /* past the end */
	CHECK_EQ(plat_file_io(&io), -EIO);
	tdm_sim_file_limit(8192);
	CHECK_EQ(plat_file_free("/anywhere", &bytes), 0);
	CHECK_EQ(bytes, 4096);
	io.write = true;
	io.off = 0;
	CHECK_EQ(plat_file_io(&io), 0);
	io.off = 4096;
	CHECK_EQ(plat_file_io(&io), -ENOSPC);
	plat_file_punch(io.file, 0, 4096);
	CHECK_EQ(plat_file_io(&io), 0);
	plat_file_close(io.file);
	CHECK_EQ(tdm_sim_file_bytes(), 0);
	finish();
}

TEST(queue)
{
	struct plat_io io[3] = { { 0 } }, *list[3] = { &io[0], &io[1], &io[2] }, *done[3];
	struct plat_ioq *q;
	bool direct;
	int file;

	start();
	CHECK_EQ(plat_file_create("/anywhere", &file, &direct), 0);
	CHECK_EQ(plat_ioq_create(&q, 2), 0);
	for (u32 i = 0; i < 3; i++)
		io[i] = (struct plat_io){ .file = file, .write = i != 1, .buf = page[0], .len = 4096, .off = i * 4096, .result = 77 };
	CHECK_EQ(plat_ioq_submit(q, list, 3), -EAGAIN);
	CHECK_EQ(io[0].result, 77);
	CHECK_EQ(plat_ioq_submit(q, list, 2), 0);
	CHECK_EQ(plat_ioq_submit(q, list + 2, 1), -EAGAIN);
	CHECK_EQ(plat_ioq_reap(q, done, 1, 1), 1);
	CHECK(done[0] == &io[0] && io[0].result == 0);
	CHECK_EQ(plat_ioq_submit(q, list + 2, 1), 0);
	CHECK_EQ(plat_ioq_reap(q, done, 3, 0), 2);
	CHECK(done[0] == &io[1] && done[1] == &io[2]);
	CHECK_EQ(io[1].result, -EIO);
	CHECK_EQ(io[2].result, 0);
	plat_ioq_destroy(q);
	plat_file_close(file);
	finish();
}

/* Everything that can fail does, one call after the other. */
TEST(failures)
{
	struct plat_io io = { .write = true, .buf = page[0], .len = 4096 };
	u64 byte;
	void *p;

	start();
	tdm_sim_fail_nth(2, false);
	p = plat_map(4096);
	CHECK(p && !tdm_sim_failed());
	CHECK(plat_map(4096) == NULL && tdm_sim_failed());
	CHECK_EQ(plat_random(&byte, 1), 0);
	CHECK_EQ(tdm_sim_calls(), 3);
	plat_unmap(p, 4096);
	tdm_sim_fail_nth(2, true);
	CHECK_EQ(plat_file_create("/anywhere", &io.file, &(bool){ false }), 0);
	CHECK_EQ(plat_file_io(&io), -EIO);
	CHECK_EQ(plat_random(&byte, 1), -EIO);
	CHECK_EQ(plat_file_free("/anywhere", &byte), -EIO);
	CHECK(plat_map(4096) == NULL);
	tdm_sim_fail_nth(0, false);
	CHECK_EQ(plat_file_io(&io), 0);
	CHECK(!tdm_sim_failed());
	plat_file_close(io.file);
	finish();
}
