/* SPDX-License-Identifier: MIT */
/*
 * check.h - what the engine believes, said so that it can be tested.
 *
 * TDM_BUG_ON(x) is always on: a state from which going on would lose somebody's bytes. TDM_ASSERT(x) is for debug builds
 * (-Ddebug_checks=true) and the explorer: every invariant that is cheap enough to ask at the place where it must hold. Both abort with the
 * condition and the place; neither is for a caller's mistakes (-EINVAL) nor for the environment's failures (-errno).
 */
#ifndef TDM_BASE_CHECK_H
#define TDM_BASE_CHECK_H

#include "plat/plat.h"

#define TDM_STR2(x) #x
#define TDM_STR(x) TDM_STR2(x)
#define TDM_BUG(msg) plat_abort("tandem: bug: " msg " at " __FILE__ ":" TDM_STR(__LINE__) "\n")
#define TDM_BUG_ON(x)                                                                                                   \
	do {                                                                                                            \
		if (__builtin_expect(!!(x), 0))                                                                         \
			TDM_BUG(#x);                                                                                    \
	} while (0)

#if defined(TDM_DEBUG) || defined(TDM_EXPLORE)
#define TDM_ASSERT(x) TDM_BUG_ON(!(x))
#else
#define TDM_ASSERT(x) ((void)sizeof(!(x)))
#endif

#endif
