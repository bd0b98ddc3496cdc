/* SPDX-License-Identifier: MIT */
/*
 * lock.c - mutexes and sleeping, on futexes.
 *
 * The mutex word: 0 free, 1 held, 2 held and somebody may sleep. Critical sections of the engine are a few microseconds, waking a thread on
 * another CPU costs tens: so a waiter spins for about as long as a section before it sleeps.
 */
#include <linux/futex.h>
#include <time.h>
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"

#define SPINS 1500u

void plat_mutex_init(struct plat_mutex *m, u32 rank)
{
	tdm_a32_st_relaxed(&m->word, 0);
	m->rank = rank;
}

void plat_mutex_reset(struct plat_mutex *m)
{
	tdm_a32_st_relaxed(&m->word, 0);
}

bool plat_mutex_trylock(struct plat_mutex *m)
{
	u32 old = 0;

	return tdm_a32_cas_acqrel(&m->word, &old, 1);
}

void plat_mutex_lock(struct plat_mutex *m)
{
	plat_window();
	for (u32 i = 0; i < SPINS; i++) {
		u32 old = 0;

		if (tdm_a32_ld_relaxed(&m->word) == 0 && tdm_a32_cas_acqrel(&m->word, &old, 1))
			return;
		plat_relax();
	}
	while (tdm_a32_xchg_acqrel(&m->word, 2) != 0)
		plat_wait(&m->word, 2, ~(u64)0);
}

void plat_mutex_unlock(struct plat_mutex *m)
{
	if (tdm_a32_xchg_acqrel(&m->word, 0) == 2)
		plat_wake(&m->word, 1);
	plat_window();
}

int plat_wait(tdm_a32 *addr, u32 expected, u64 timeout_ns)
{
	struct timespec ts = { (time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u) };
	long r = tdm_sys6(SYS_futex, (long)addr, FUTEX_WAIT_PRIVATE, (long)expected,
			  timeout_ns == ~(u64)0 ? 0 : (long)&ts, 0, 0);

	return r == -ETIMEDOUT ? -ETIMEDOUT : 0;
}

void plat_wake(tdm_a32 *addr, u32 n)
{
	tdm_sys3(SYS_futex, addr, FUTEX_WAKE_PRIVATE, n);
}

void plat_relax(void)
{
	__builtin_ia32_pause();
}

void plat_yield(void)
{
	tdm_sys0(SYS_sched_yield);
}
