/* SPDX-License-Identifier: MIT */
/*
 * window.c - time for others to come between, in builds for stress tests (-Dwindows=true).
 *
 * Races that need a thread to be stopped at one of a few instructions are met once in thousands of runs. Here a thread yields, or sleeps for up to a
 * millisecond, or now and then for twenty, before and after each lock and each call of the kernel that moves a page: at any of these another one may
 * find the world half done.
 */
#include "plat/plat.h"

#ifdef TDM_WINDOWS
void plat_window(void)
{
	static tdm_a64 calls;
	tdm_a32 nobody_wakes = { 0 };
	u64 x = tdm_a64_add_relaxed(&calls, 1) * 0x9e3779b97f4a7c15u ^ plat_now_ns();

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x ^= x >> 27;
	if (x % 16384 == 0)
		plat_wait(&nobody_wakes, 0, 20000000);
	else if (x % 512 == 0)
		plat_wait(&nobody_wakes, 0, x >> 32 & 0xfffff);
	else if (x % 16 == 0)
		plat_yield();
}
#endif
