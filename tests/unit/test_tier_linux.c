/* SPDX-License-Identifier: MIT */
/* The file tier over real files: direct I/O, io_uring, and a real fork. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "plat/linux/linux.h"
#include "tier_model.h"

/* The reservation for engine memory stays: it is no test's leak. */
__attribute__((constructor)) static void reserve(void)
{
	(void)tdmi_linux_mem_init();
}

static const char *disk(void)
{
	const char *dir = getenv("TMPDIR");

	return dir && *dir ? dir : "/var/tmp";
}

static void churn_in(const char *dir)
{
	struct model m = { .rng = t_seed() };

	CHECK_EQ(tdmi_tier_file_create(dir, 0, &m.t), 0);
	for (u32 i = 0; i < 5; i++) {
		model_churn(&m, 2000);
		if (i % 2)
			m.t->ops->shrink(m.t, ~(u64)0);
	}
	model_check_all(&m);
	model_drop_all(&m);
	m.t->ops->shrink(m.t, ~(u64)0);
	CHECK_EQ(model_stats(&m).disk_bytes, 0);
	CHECK_EQ(model_stats(&m).errors, 0);
	m.t->ops->destroy(m.t);
}

TEST(on_a_disk, .seconds = 60)
{
	churn_in(disk());
}

TEST(in_memory, .seconds = 60)
{
	if (access("/dev/shm", W_OK))
		SKIP("no /dev/shm");
	churn_in("/dev/shm");
}

/* The few numbers that a low limit leaves are for what comes and goes: a child of fork() that had three rings could not fork itself. */
TEST(a_ring_takes_no_low_descriptor)
{
	struct rlimit was, low;
	struct plat_ioq *q;
	int before = dup(0), after;

	CHECK(before >= 0 && before < TDM_FD_HIGH);
	close(before);
	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
	low = (struct rlimit){ TDM_MIN(was.rlim_cur, TDM_FD_HIGH), was.rlim_max };
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
	CHECK_EQ(plat_ioq_create(&q, 2), 0);
	after = dup(0);
	CHECK_EQ(after, before);
	close(after);
	plat_ioq_destroy(q);
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
}

TEST(no_such_place)
{
	struct tdm_tier *t;
	char err[200] = "";

	CHECK_EQ(tdmi_tier_create("file:/nonexistent", &t, err, sizeof(err)), -ENOENT);
	CHECK(*err);
	CHECK_EQ(tdmi_tier_create("file:/var/tmp:12Q", &t, err, sizeof(err)), -EINVAL);
	CHECK_EQ(tdmi_tier_create("lz4:", &t, err, sizeof(err)), -EINVAL);
	CHECK_EQ(tdmi_tier_create("zip", &t, err, sizeof(err)), -EINVAL);
	CHECK_EQ(tdmi_tier_create("file:/proc", &t, err, sizeof(err)) < 0, 1);
}

/* What one side does after a fork; the other does the same with other random numbers. */
static void one_side(struct model *m, u64 seed)
{
	model_check_all(m);
	m->rng = seed;
	model_churn(m, 1500);
	m->t->ops->shrink(m->t, 0);
	model_churn(m, 500);
	model_check_all(m);
}

static void fork_model(struct model *m, u32 depth)
{
	int fds[32], dup[32];
	u32 n = m->t->ops->files(m->t, fds, 32);
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (!pid) {
		/* Other numbers, as when they are handed over. */
		for (u32 i = 0; i < n; i++) {
			dup[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 100);
			CHECK(dup[i] >= 0);
			close(fds[i]);
		}
		m->t->ops->set_files(m->t, dup, n);
		CHECK_EQ(m->t->ops->forked(m->t, true), 0);
		one_side(m, t_seed() + depth * 2 + 1);
		if (depth)
			fork_model(m, depth - 1);
		model_drop_all(m);
		m->t->ops->destroy(m->t);
		_exit(0);
	}
	CHECK_EQ(m->t->ops->forked(m->t, false), 0);
	one_side(m, t_seed() + depth * 2);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	model_check_all(m);
}

TEST(both_sides_of_a_fork, .seconds = 60)
{
	struct model m = { .rng = t_seed() };

	CHECK_EQ(tdmi_tier_file_create(disk(), 0, &m.t), 0);
	/* Some on disk, some on its way, some staged. */
	model_churn(&m, 900);
	fork_model(&m, 2);
	fork_model(&m, 0);
	model_drop_all(&m);
	m.t->ops->shrink(m.t, 0);
	CHECK_EQ(model_stats(&m).disk_bytes, 0);
	m.t->ops->destroy(m.t);
}
