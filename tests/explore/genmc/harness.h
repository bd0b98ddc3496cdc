/* SPDX-License-Identifier: MIT */
/* harness.h - the engine's lock-free headers as GenMC reads them: plat.h by POSIX threads, and what a test is made of. */
#ifndef TDM_EXPLORE_GENMC_HARNESS_H
#define TDM_EXPLORE_GENMC_HARNESS_H

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include "plat/plat.h"

static pthread_mutex_t harness_lock;

void plat_mutex_init(struct plat_mutex *m, u32 rank)
{
	(void)m;
	(void)rank;
}

/* One lock for all: the tests have one. */
void plat_mutex_lock(struct plat_mutex *m)
{
	(void)m;
	pthread_mutex_lock(&harness_lock);
}

void plat_mutex_unlock(struct plat_mutex *m)
{
	(void)m;
	pthread_mutex_unlock(&harness_lock);
}

void plat_mutex_reset(struct plat_mutex *m)
{
	(void)m;
}

void plat_relax(void)
{
}

void plat_yield(void)
{
}

int plat_wait(tdm_a32 *addr, u32 expected, u64 timeout_ns)
{
	(void)addr;
	(void)expected;
	(void)timeout_ns;
	return 0;
}

void plat_abort(const char *msg)
{
	(void)msg;
	assert(0);
	abort();
}

/* Run two threads to their ends. */
static void both(void *(*one)(void *), void *(*other)(void *))
{
	pthread_t a, b;

	pthread_mutex_init(&harness_lock, NULL);
	pthread_create(&a, NULL, one, NULL);
	pthread_create(&b, NULL, other, NULL);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
}

#endif
