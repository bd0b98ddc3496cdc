/* SPDX-License-Identifier: MIT */
/* hooks.h - given to the compiler (-include) with each object that is explored: names of libc under which the runtime sees what they do. */
#ifndef TDM_PLAT_EXPLORE_HOOKS_H
#define TDM_PLAT_EXPLORE_HOOKS_H

#include <stddef.h>

void *tdmx_memset(void *to, int c, size_t n);
void *tdmx_memcpy(void *to, const void *from, size_t n);
void *tdmx_memmove(void *to, const void *from, size_t n);
int tdmx_memcmp(const void *a, const void *b, size_t n);
void tdmx_poison(const volatile void *p, size_t n);
void tdmx_unpoison(const volatile void *p, size_t n);

#ifdef TDM_EXPLORE
#include <string.h>
#define memset tdmx_memset
#define memcpy tdmx_memcpy
#define memmove tdmx_memmove
#define memcmp tdmx_memcmp
#define __builtin_memset tdmx_memset
#define __builtin_memcpy tdmx_memcpy
#endif

#endif
