/* SPDX-License-Identifier: MIT */
/* Which process has which part of a device's memory: taken, asked for, handed over, left behind; by processes that are killed at any moment. */
#include "run/share.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "plat/linux/linux.h"
#include "runner/t.h"

/* The reservation for engine memory stays: it is no test's leak. */
__attribute__((constructor)) static void reserve(void)
{
	(void)tdmi_linux_mem_init();
}

#define N 6u
#define MS ((u64)1000000)
#define START_1 ((u64)1 << 22) /* one tick, in an id */

static struct tdm_share *share;
static struct tdm_sharer a, b;

static struct tdm_share *map_share(u32 nchunks)
{
	struct tdm_share *s = mmap(NULL, tdmi_share_bytes(nchunks), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(s != MAP_FAILED);
	CHECK_EQ(tdmi_share_init(s, nchunks), 0);
	return s;
}

static void begin(void)
{
	share = map_share(N);
	CHECK_EQ(tdmi_share_join(&a, share, N), 0);
	CHECK_EQ(tdmi_share_join(&b, share, N), 0);
	CHECK(a.id != b.id);
}

static void end(void)
{
	tdmi_share_leave(&a);
	tdmi_share_leave(&b);
	for (u32 c = 0; c < N; c++)
		CHECK_EQ(tdm_a64_ld_relaxed(&share->owner[c]), 0);
	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++)
		CHECK_EQ(tdm_a64_ld_relaxed(&share->process[i].id), 0);
	CHECK(!munmap(share, tdmi_share_bytes(N)));
}

static u32 take(struct tdm_sharer *s, u32 n)
{
	u32 got = 0, chunk;

	while (got < n && tdmi_share_take(s, &chunk)) {
		CHECK_EQ(tdm_a64_ld_relaxed(&share->owner[chunk]), s->id);
		got++;
	}
	CHECK(tdm_a32_ld_relaxed(&s->held) >= got);
	return got;
}

TEST(errors)
{
	struct tdm_share *s = map_share(N);

	CHECK_EQ(tdmi_share_init(s, 0), -EINVAL);
	CHECK_EQ(tdmi_share_init(s, TDM_SHARE_CHUNKS_MAX + 1), -EINVAL);
	CHECK_EQ(tdmi_share_join(&a, s, N + 1), -EINVAL);
	s->namespaces[0] ^= 1;
	CHECK_EQ(tdmi_share_join(&a, s, N), -EXDEV);
	s->namespaces[0] ^= 1;
	s->namespaces[1] ^= 1;
	CHECK_EQ(tdmi_share_join(&a, s, N), -EXDEV);
	s->namespaces[1] ^= 1;
	CHECK_EQ(tdmi_share_join(&a, s, N), 0);
	tdmi_share_leave(&a);
	tdm_a64_st_relaxed(&s->magic, 0);
	CHECK_EQ(tdmi_share_join(&a, s, N), -EINVAL);
	CHECK(!munmap(s, tdmi_share_bytes(N)));
}

TEST(every_chunk_once)
{
	begin();
	CHECK_EQ(take(&a, 2), 2);
	CHECK_EQ(take(&b, N), N - 2);
	CHECK_EQ(take(&a, 1), 0);
	tdmi_share_leave(&b);
	CHECK_EQ(take(&a, N), N - 2);
	CHECK_EQ(tdmi_share_join(&b, share, N), 0);
	CHECK_EQ(take(&b, 1), 0);
	end();
}

/* ---- asking ---------------------------------------------------------------------------------------------------------------------------- */

static tdm_a32 no;

static void *give_one(void *arg)
{
	u64 to = tdmi_share_wait(&a, &no);

	CHECK_EQ(to, b.id);
	if (arg)
		tdmi_share_give(&a, *(u32 *)arg, to);
	tdmi_share_answer(&a, to);
	return NULL;
}

TEST(who_has_more_is_asked)
{
	pthread_t th;
	u32 chunk = 3, other = 2, got;
	u64 t0;

	begin();
	CHECK_EQ(take(&a, N), N);
	CHECK(!pthread_create(&th, NULL, give_one, &chunk));
	CHECK(tdmi_share_ask(&b, 10000 * MS));
	CHECK(tdmi_share_take(&b, &got));
	CHECK_EQ(got, chunk);
	CHECK_EQ(tdm_a32_ld_relaxed(&a.held), N - 1);
	CHECK(!pthread_join(th, NULL));
	/* It has nothing that it can give: the answer comes at once. */
	t0 = plat_now_ns();
	CHECK(!pthread_create(&th, NULL, give_one, NULL));
	CHECK(tdmi_share_ask(&b, 10000 * MS));
	CHECK(plat_now_ns() - t0 < 5000 * MS);
	CHECK(!tdmi_share_take(&b, &got));
	CHECK(!pthread_join(th, NULL));
	/* Who has as many, or one more, is not asked; unless it does not use the device. */
	tdmi_share_give(&a, 0, b.id);
	CHECK_EQ(take(&b, N), 1);
	tdmi_share_give(&a, 1, 0);
	CHECK_EQ(tdm_a32_ld_relaxed(&a.held), 3);
	CHECK(!tdmi_share_ask(&b, 1000 * MS));
	tdmi_share_runs(&a, true);
	tdm_a64_st_relaxed(&a.me->used_ns, plat_now_ns() - TDM_SHARE_COLD_NS - 1);
	CHECK(!tdmi_share_ask(&b, 1000 * MS));
	tdmi_share_runs(&a, false);
	CHECK(!tdmi_share_ask(&b, 1000 * MS));
	tdm_a64_st_relaxed(&a.me->used_ns, plat_now_ns() - TDM_SHARE_COLD_NS - 1);
	CHECK(!pthread_create(&th, NULL, give_one, &other));
	CHECK(tdmi_share_ask(&b, 10000 * MS));
	CHECK(!pthread_join(th, NULL));
	CHECK_EQ(take(&b, N), 2);
	end();
}

TEST(who_does_not_answer)
{
	u64 t0;

	begin();
	CHECK_EQ(take(&a, N), N);
	t0 = plat_now_ns();
	CHECK(tdmi_share_ask(&b, 20 * MS));
	CHECK(plat_now_ns() - t0 >= 20 * MS);
	/* Not a second time, so soon. The request has been taken back. */
	CHECK(!tdmi_share_ask(&b, 1000 * MS));
	CHECK_EQ(tdm_a64_ld_relaxed(&a.me->asked_by), 0);
	/* What it hands over late is found; what comes after who asked has left is nobody's. */
	tdmi_share_give(&a, 4, b.id);
	CHECK_EQ(take(&b, N), 1);
	tdmi_share_give(&a, 5, b.id);
	tdmi_share_leave(&b);
	CHECK_EQ(take(&a, N), 2);
	CHECK_EQ(tdmi_share_join(&b, share, N), 0);
	tdmi_share_give(&a, 5, b.id ^ START_1);
	CHECK_EQ(tdm_a64_ld_relaxed(&share->owner[5]), 0);
	/* Handed to who is not there: as if it had left just then. */
	tdm_a64_st_relaxed(&share->owner[5], b.id ^ START_1);
	CHECK_EQ(take(&b, N), 1);
	/* Somebody who is not there any more has asked before. */
	tdm_a64_st_relaxed(&a.me->asked_by, b.id ^ START_1);
	t0 = plat_now_ns();
	CHECK(tdmi_share_ask(&b, 20 * MS));
	CHECK(plat_now_ns() - t0 >= 20 * MS);
	end();
}

TEST(too_many)
{
	static struct tdm_sharer many[TDM_SHARE_PROCESSES];

	share = map_share(N);
	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++)
		CHECK_EQ(tdmi_share_join(&many[i], share, N), 0);
	CHECK_EQ(tdmi_share_join(&a, share, N), -ENOSPC);
	CHECK(!a.s);
	tdmi_share_leave(&many[7]);
	CHECK_EQ(tdmi_share_join(&a, share, N), 0);
	CHECK_EQ(tdmi_share_join(&b, share, N), -ENOSPC);
	/* One is dead. */
	tdm_a64_st_relaxed(&share->process[9].id, many[9].id + START_1);
	CHECK_EQ(tdmi_share_join(&b, share, N), 0);
	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++)
		if (i != 7)
			tdmi_share_leave(&many[i]);
	end();
}

/* ---- ends ------------------------------------------------------------------------------------------------------------------------------- */

static int told[2];

static pid_t start(void (*fn)(void))
{
	pid_t pid;
	char c;

	CHECK(!pipe(told));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		fn();
		_exit(0);
	}
	CHECK_EQ(read(told[0], &c, 1), 1);
	close(told[0]);
	close(told[1]);
	return pid;
}

static void ready(void)
{
	CHECK_EQ(write(told[1], "", 1), 1);
}

static void takes_all(void)
{
	struct tdm_sharer me;

	CHECK_EQ(tdmi_share_join(&me, share, N), 0);
	CHECK_EQ(take(&me, N), N);
	ready();
	for (;;)
		pause();
}

static void kill_unreaped(pid_t pid)
{
	siginfo_t si;

	CHECK(!kill(pid, SIGKILL));
	CHECK(!waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT));
}

TEST(a_process_is_killed)
{
	for (u32 reaped = 0; reaped < 2; reaped++) {
		pid_t pid;

		begin();
		pid = start(takes_all);
		CHECK_EQ(take(&a, N), 0);
		CHECK(!kill(pid, SIGSTOP));
		CHECK_EQ(take(&a, N), 0);
		kill_unreaped(pid);
		if (reaped)
			CHECK_EQ(waitpid(pid, NULL, 0), pid);
		CHECK_EQ(take(&a, N), N);
		if (!reaped)
			CHECK_EQ(waitpid(pid, NULL, 0), pid);
		end();
	}
}

/* The entry of a process that is there, under its pid, but is another one; or has executed something. */
TEST(a_pid_is_used_again)
{
	for (u32 way = 0; way < 2; way++) {
		struct tdm_share_process *p = NULL;
		u64 id = 0;
		pid_t pid;

		begin();
		pid = start(takes_all);
		for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++) {
			u64 was = tdm_a64_ld_relaxed(&share->process[i].id);

			if (was && was != a.id && was != b.id) {
				p = &share->process[i];
				id = was;
			}
		}
		CHECK_EQ(id & (START_1 - 1), pid);
		CHECK_EQ(take(&a, N), 0);
		if (!way) {
			tdm_a64_st_relaxed(&p->id, id + START_1);
			for (u32 c = 0; c < N; c++)
				tdm_a64_st_relaxed(&share->owner[c], id + START_1);
		} else {
			CHECK(tdm_a64_ld_relaxed(&p->stack) != 0);
			tdm_a64_st_relaxed(&p->stack, tdm_a64_ld_relaxed(&p->stack) + 4096);
		}
		CHECK_EQ(take(&a, N), N);
		kill_unreaped(pid);
		CHECK_EQ(waitpid(pid, NULL, 0), pid);
		end();
	}
}

static void *lives_on(void *arg)
{
	struct tdm_sharer *me = arg;

	while (kill(getpid(), 0) || me->s) /* until the parent ends it */
		usleep(1000);
	return NULL;
}

static void ends_its_first_thread(void)
{
	static struct tdm_sharer me;
	pthread_t th;

	CHECK_EQ(tdmi_share_join(&me, share, N), 0);
	CHECK_EQ(take(&me, N), N);
	CHECK(!pthread_create(&th, NULL, lives_on, &me));
	ready();
	pthread_exit(NULL);
}

/* A process whose first thread has ended looks like a zombie, and lives. */
TEST(a_first_thread_ends)
{
	pid_t pid;

	begin();
	pid = start(ends_its_first_thread);
	usleep(20000);
	CHECK_EQ(take(&a, N), 0);
	CHECK(!kill(pid, SIGKILL));
	CHECK_EQ(waitpid(pid, NULL, 0), pid);
	CHECK_EQ(take(&a, N), N);
	end();
}

/* ---- all at once -------------------------------------------------------------------------------------------------------------------------- */

#define CROWD 5u

static struct crowd {
	tdm_a64 user[N]; /* whoever uses it says so, and nobody else does meanwhile */
	tdm_a64 given;
	tdm_a32 failed;
	tdm_a32 killed[400]; /* pids, before they are */
} *crowd;

struct one {
	struct tdm_sharer me;
	tdm_a32 has[N]; /* 1: it does */
};

static void expect(bool ok)
{
	if (!ok)
		tdm_a32_st_release(&crowd->failed, 1);
}

static bool was_killed(u64 id)
{
	for (u32 i = 0; i < TDM_ARRAY_SIZE(crowd->killed); i++)
		if (tdm_a32_ld_acquire(&crowd->killed[i]) == (id & (START_1 - 1)))
			return true;
	return false;
}

static void *gives(void *arg)
{
	struct one *o = arg;
	u64 to;

	while ((to = tdmi_share_wait(&o->me, &no))) {
		for (u32 c = 0; c < N; c++) {
			u32 one = 1;

			if (!tdm_a32_cas_acqrel(&o->has[c], &one, 0))
				continue;
			expect(tdm_a64_xchg_acqrel(&crowd->user[c], 0) == o->me.id);
			tdmi_share_give(&o->me, c, to);
			tdm_a64_add_relaxed(&crowd->given, 1);
			break;
		}
		tdmi_share_answer(&o->me, to);
	}
	return NULL;
}

static void member(void)
{
	static struct one o;
	pthread_t th;
	u32 c;

	expect(!tdmi_share_join(&o.me, share, N));
	expect(!pthread_create(&th, NULL, gives, &o));
	for (;;) {
		tdmi_share_runs(&o.me, true);
		tdmi_share_runs(&o.me, false);
		if (tdmi_share_take(&o.me, &c)) {
			u64 was = tdm_a64_xchg_acqrel(&crowd->user[c], o.me.id);

			/* Nobody, or somebody who was killed. */
			expect(!was || was_killed(was));
			tdm_a32_st_release(&o.has[c], 1);
		} else {
			(void)tdmi_share_ask(&o.me, 20 * MS);
		}
	}
}

TEST(a_crowd_of_whom_some_are_killed, .seconds = 120)
{
	u32 rounds = getenv("TDM_LONG") ? 300 : 30;
	pid_t pid[CROWD];

	crowd = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(crowd != MAP_FAILED);
	share = map_share(N);
	for (u32 i = 0; i < CROWD; i++)
		pid[i] = 0;
	srand(4711);
	for (u32 k = 0; k < rounds; k++) {
		u32 i = k % CROWD;

		if (pid[i]) {
			tdm_a32_st_release(&crowd->killed[k], (u32)pid[i]);
			CHECK(!kill(pid[i], SIGKILL));
			CHECK_EQ(waitpid(pid[i], NULL, 0), pid[i]);
		}
		pid[i] = fork();
		CHECK(pid[i] >= 0);
		if (!pid[i])
			member();
		usleep((useconds_t)(rand() % 30000));
		CHECK(!tdm_a32_ld_acquire(&crowd->failed));
	}
	for (u32 i = 0; i < CROWD; i++) {
		tdm_a32_st_release(&crowd->killed[rounds + i], (u32)pid[i]);
		CHECK(!kill(pid[i], SIGKILL));
		CHECK_EQ(waitpid(pid[i], NULL, 0), pid[i]);
	}
	CHECK(!tdm_a32_ld_acquire(&crowd->failed));
	CHECK(tdm_a64_ld_relaxed(&crowd->given) > rounds / 2);
	CHECK_EQ(tdmi_share_join(&a, share, N), 0);
	CHECK_EQ(take(&a, N + 1), N);
	CHECK_EQ(tdmi_share_join(&b, share, N), 0);
	CHECK(!munmap(crowd, 4096));
	end();
}
