/* SPDX-License-Identifier: MIT */
/*
 * poison.h - engine memory that nobody may use, told to AddressSanitizer, which does not know that memory comes and goes here, or to the
 * explorer. Nothing in other builds.
 */
#ifndef TDM_BASE_POISON_H
#define TDM_BASE_POISON_H

#include "base/types.h"

#if defined(__SANITIZE_ADDRESS__)
#define TDM_POISONING 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TDM_POISONING 1
#endif
#endif

#if defined(TDM_EXPLORE)
#define tdm_poison(p, n) tdmx_poison(p, n)
#define tdm_unpoison(p, n) tdmx_unpoison(p, n)
#elif defined(TDM_POISONING)
void __asan_poison_memory_region(void const volatile *addr, size_t size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#define tdm_poison(p, n) __asan_poison_memory_region(p, n)
#define tdm_unpoison(p, n) __asan_unpoison_memory_region(p, n)
#else
#define tdm_poison(p, n) ((void)(p), (void)(n))
#define tdm_unpoison(p, n) ((void)(p), (void)(n))
#endif

#endif
