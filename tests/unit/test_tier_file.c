/* SPDX-License-Identifier: MIT */
/* The file tier over files in memory that fail when they are told to. */
#include <sys/mman.h>
#include "plat/sim.h"
#include "tier_model.h"

#define ARENA ((size_t)48 << 20)

static void *arena;
static struct model m;

static void world(void)
{
	arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(arena != MAP_FAILED);
	tdm_sim_init(arena, ARENA);
}

static void unworld(void)
{
	tdm_sim_init(arena, TDM_PAGE_SIZE); /* its own tables are as large as its memory */
	munmap(arena, ARENA);
}

static void setup(u64 limit)
{
	world();
	m = (struct model){ .rng = t_seed() };
	CHECK_EQ(tdmi_tier_file_create("/sim", limit, &m.t), 0);
	CHECK_EQ(tdm_sim_files(), 0); /* the first put makes it */
}

static void teardown(void)
{
	m.t->ops->destroy(m.t);
	CHECK_EQ(tdm_sim_files(), 0);
	CHECK_EQ(tdm_sim_mapped(), 0);
	CHECK_EQ(tdm_sim_locked(), 0);
	munmap(arena, ARENA);
}

TEST(churn_against_a_model, .seconds = 60)
{
	setup(0);
	for (u32 i = 0; i < 10; i++) {
		model_churn(&m, t_slow() ? 500 : 3000);
		model_stats(&m);
		if (i % 3 == 2)
			m.t->ops->shrink(m.t, ~(u64)0);
		CHECK(tdm_sim_file_bytes() <= model_stats(&m).disk_bytes);
	}
	model_check_all(&m);
	CHECK(model_stats(&m).disk_bytes < 3 * m.bytes + (16 << 20));
	model_drop_all(&m);
	m.t->ops->shrink(m.t, ~(u64)0);
	CHECK_EQ(model_stats(&m).disk_bytes, 0);
	CHECK_EQ(tdm_sim_file_bytes(), 0);
	/* Staging buffers have been given back. */
	CHECK(model_stats(&m).mem_bytes < 1 << 20);
	teardown();
}

TEST(nothing_in_the_file_is_plain)
{
	static u8 blob[8192], page[8192] __attribute__((aligned(4096)));
	struct plat_io io = { .buf = page, .len = 8192 };
	u64 h;

	setup(0);
	memset(blob, 'x', sizeof(blob));
	CHECK_EQ(m.t->ops->put(m.t, blob, sizeof(blob), &h), 0);
	m.t->ops->shrink(m.t, 0);
	CHECK_EQ(m.t->ops->files(m.t, &io.file, 1), 1);
	CHECK_EQ(plat_file_io(&io), 0);
	for (u32 i = 0; i + 4 <= sizeof(page); i++)
		CHECK(memcmp(page + i, "xxxx", 4));
	m.t->ops->drop(m.t, h, sizeof(blob));
	teardown();
}

TEST(a_flipped_bit_is_found)
{
	u32 found = 0;
	int fd;

	setup(0);
	for (u32 i = 0; i < 50; i++)
		CHECK_EQ(model_put(&m, i), 0);
	m.t->ops->shrink(m.t, 0);
	CHECK_EQ(m.t->ops->files(m.t, &fd, 1), 1);
	for (u64 off = 0; off < 1 << 20; off += 501) {
		u32 bad = 0;

		if (!tdm_sim_file_flip(fd, off))
			break;
		for (u32 i = 0; i < 50; i++) {
			int r = model_get(&m, i);

			CHECK(r == 0 || r == -EBADMSG);
			bad += r != 0;
		}
		CHECK(bad <= 1); /* 0: in a gap */
		found += bad;
		CHECK(tdm_sim_file_flip(fd, off));
	}
	CHECK(found > 100);
	model_check_all(&m);
	CHECK_EQ(model_stats(&m).errors, found);
	teardown();
}

TEST(the_limit_holds_and_cleaning_makes_room, .seconds = 60)
{
	u64 limit = 8 << 20;
	u32 full = 0;

	setup(limit);
	for (u32 round = 0; round < (t_slow() ? 3000 : 20000); round++) {
		u32 i = (u32)(t_rand(&m.rng) % MODEL_BLOBS);
		int r;

		if (m.len[i])
			model_drop(&m, i);
		if (m.bytes > limit / 2)
			continue;
		r = model_put(&m, i);
		CHECK(r == 0 || r == -ENOSPC);
		full += r != 0;
		CHECK(model_stats(&m).disk_bytes <= limit);
		CHECK(tdm_sim_file_bytes() <= limit);
	}
	/* Half alive there is always something to clean. */
	CHECK_EQ(full, 0);
	model_check_all(&m);
	for (u32 i = 0; i < MODEL_BLOBS; i++)
		if (!m.len[i])
			full += model_put(&m, i) == -ENOSPC;
	CHECK(full > 0);
	CHECK(m.bytes > limit * 7 / 10);
	model_check_all(&m);
	teardown();
}

TEST(a_failed_write_loses_nothing)
{
	u32 i;
	int r = 0;

	setup(0);
	model_churn(&m, 300);
	tdm_sim_fail_nth(1, true);
	for (i = 0; i < MODEL_BLOBS && !r; i++)
		if (!m.len[i])
			r = model_put(&m, i);
	CHECK(r != 0);
	tdm_sim_fail_nth(0, false);
	m.t->ops->shrink(m.t, 0);
	model_check_all(&m);
	tdm_sim_advance_ns(2000000000);
	m.t->ops->shrink(m.t, 0);
	model_check_all(&m);
	model_churn(&m, 1000);
	model_check_all(&m);
	teardown();
}

TEST(a_full_file_system_is_not_the_end)
{
	struct tdm_tier_stats st;

	setup(0);
	model_churn(&m, 200);
	m.t->ops->shrink(m.t, 0);
	/* No block more: the write fails, although there seemed to be room when it began. */
	for (u32 i = 0; i < MODEL_BLOBS; i++)
		if (!m.len[i] && model_put(&m, i))
			break;
		else if (i == 20)
			tdm_sim_file_limit(tdm_sim_file_bytes() + 4096);
	m.t->ops->shrink(m.t, 0);
	st = model_stats(&m);
	CHECK(st.errors > 0);
	CHECK(st.mem_bytes > 64 << 10); /* it is still in memory */
	model_check_all(&m);
	tdm_sim_file_limit(~(u64)0 >> 1);
	tdm_sim_advance_ns(2000000000);
	m.t->ops->shrink(m.t, 0);
	model_check_all(&m);
	CHECK(model_stats(&m).mem_bytes < 1 << 20);
	teardown();
}

/* Fail each call in turn, once or from then on, until a run goes through untouched. */
TEST(every_call_fails_once, .seconds = 120)
{
	for (u32 on = 0; on < 2; on++)
		for (u64 n = 1;; n += t_slow() ? 7 : 1) {
			int r;

			world();
			m = (struct model){ .rng = t_seed() };
			tdm_sim_fail_nth(n, on);
			r = tdmi_tier_file_create("/sim", 6 << 20, &m.t);
			if (r) {
				CHECK_EQ(tdm_sim_mapped(), 0);
				unworld();
				continue;
			}
			for (u32 k = 0; k < 700; k++) {
				u32 i = (u32)(t_rand(&m.rng) % MODEL_BLOBS);

				if (!m.len[i]) {
					r = model_put(&m, i);
					CHECK(r <= 0);
				} else if (k % 3) {
					r = model_get(&m, i);
					CHECK(r == 0 || r == -EIO);
				} else {
					model_drop(&m, i);
				}
				if (k % 200 == 0)
					m.t->ops->shrink(m.t, 0);
				if (k == 350)
					CHECK_EQ(m.t->ops->forked(m.t, false), 0);
			}
			r = !tdm_sim_failed();
			tdm_sim_fail_nth(0, false);
			model_check_all(&m);
			model_drop_all(&m);
			teardown();
			if (r)
				break;
		}
}

TEST(after_a_fork_the_old_file_is_left_alone)
{
	u64 before;
	int fd[4];

	setup(0);
	model_churn(&m, 800);
	m.t->ops->shrink(m.t, 0);
	model_churn(&m, 20); /* something is staged */
	before = tdm_sim_file_bytes();
	CHECK_EQ(m.t->ops->files(m.t, fd, 4), 1);
	CHECK_EQ(m.t->ops->forked(m.t, false), 0);
	model_check_all(&m);
	model_drop_all(&m);
	/* The last of it closed the file: nothing was punched before. */
	CHECK(before > 0);
	CHECK_EQ(m.t->ops->files(m.t, fd, 4), 0);
	CHECK_EQ(tdm_sim_file_bytes(), 0);
	model_churn(&m, 100);
	CHECK_EQ(m.t->ops->files(m.t, fd, 4), 1);
	model_check_all(&m);
	teardown();
}

TEST(many_forks_do_not_use_up_descriptors)
{
	int fd[64];

	setup(0);
	for (u32 i = 0; i < 200; i++) {
		model_churn(&m, 30);
		m.t->ops->shrink(m.t, 0);
		CHECK_EQ(m.t->ops->forked(m.t, false), 0);
		CHECK(m.t->ops->files(m.t, fd, 64) <= 32);
	}
	model_check_all(&m);
	teardown();
}
