// SPDX-License-Identifier: MIT
/*
 * hooks.c - what the compiler calls under -fsanitize=thread, and the functions of libc that move bytes: the engine's objects are compiled with those names replaced
 * (hooks.h), so that no copy goes unseen.
 */
#include <string.h>
#include "plat/explore/hooks.h"
#include "plat/explore/impl.h"

#define PC __builtin_return_address(0)
#define EXPORT __attribute__((visibility("default")))

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* ---- plain accesses */

#define PLAIN(n)                                                                                           \
	EXPORT void __tsan_read##n(void *p)                                                                \
	{                                                                                                  \
		race_access(p, n, false, false, PC);                                                       \
	}                                                                                                  \
	EXPORT void __tsan_write##n(void *p)                                                               \
	{                                                                                                  \
		race_access(p, n, true, false, PC);                                                        \
	}                                                                                                  \
	EXPORT void __tsan_unaligned_read##n(void *p)                                                      \
	{                                                                                                  \
		race_access(p, n, false, false, PC);                                                       \
	}                                                                                                  \
	EXPORT void __tsan_unaligned_write##n(void *p)                                                     \
	{                                                                                                  \
		race_access(p, n, true, false, PC);                                                        \
	}                                                                                                  \
	EXPORT void __tsan_volatile_read##n(void *p)                                                       \
	{                                                                                                  \
		volatile_access(p, n, false, PC);                                                          \
	}                                                                                                  \
	EXPORT void __tsan_volatile_write##n(void *p)                                                      \
	{                                                                                                  \
		volatile_access(p, n, true, PC);                                                           \
	}

/* A volatile access that the machine does at once is a relaxed atomic one, as kernels use it. One that takes two instructions can be torn: it is judged as a plain one. */
static void volatile_access(void *p, u32 n, bool write, const void *pc)
{
	bool whole = n <= sizeof(void *);

	if (whole && in_thread())
		search_point(p, write, write ? "volatile store" : "volatile load", pc);
	race_access(p, n, write, whole, pc);
}

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

EXPORT void __tsan_read_range(void *p, size_t n)
{
	race_access(p, n, false, false, PC);
}

EXPORT void __tsan_write_range(void *p, size_t n)
{
	race_access(p, n, true, false, PC);
}

EXPORT void __tsan_init(void)
{
}

EXPORT void __tsan_func_entry(void *pc)
{
	(void)pc;
}

EXPORT void __tsan_func_exit(void)
{
}

/* ---- atomics */

#define ATOMIC(bits, T)                                                                                    \
	EXPORT T __tsan_atomic##bits##_load(const volatile T *p, int order)                                \
	{                                                                                                  \
		return (T)memory_load(p, sizeof(T), order, PC);                                            \
	}                                                                                                  \
	EXPORT void __tsan_atomic##bits##_store(volatile T *p, T v, int order)                             \
	{                                                                                                  \
		memory_store(p, sizeof(T), v, order, PC);                                                  \
	}                                                                                                  \
	SWAP(bits, T, strong)                                                                              \
	SWAP(bits, T, weak)                                                                                \
	EXPORT T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T e, T v, int order, int fail)  \
	{                                                                                                  \
		u64 was = e;                                                                               \
                                                                                                           \
		(void)memory_cas(p, sizeof(T), &was, v, order, fail, PC);                                  \
		return (T)was;                                                                             \
	}                                                                                                  \
	MODIFY(bits, T, exchange, RMW_XCHG)                                                                \
	MODIFY(bits, T, fetch_add, RMW_ADD)                                                                \
	MODIFY(bits, T, fetch_sub, RMW_SUB)                                                                \
	MODIFY(bits, T, fetch_and, RMW_AND)                                                                \
	MODIFY(bits, T, fetch_or, RMW_OR)                                                                  \
	MODIFY(bits, T, fetch_xor, RMW_XOR)
/* A weak one does not fail without a reason here. */
#define SWAP(bits, T, kind)                                                                                \
	EXPORT int __tsan_atomic##bits##_compare_exchange_##kind(volatile T *p, T *e, T v, int order, int fail) \
	{                                                                                                  \
		u64 was = *e;                                                                              \
		bool done = memory_cas(p, sizeof(T), &was, v, order, fail, PC);                            \
                                                                                                           \
		if (!done) {                                                                               \
			arena_dirty(e, sizeof(*e));                                                        \
			*e = (T)was;                                                                       \
		}                                                                                          \
		return done;                                                                               \
	}
#define MODIFY(bits, T, name, op)                                                                          \
	EXPORT T __tsan_atomic##bits##_##name(volatile T *p, T v, int order)                               \
	{                                                                                                  \
		return (T)memory_rmw(p, sizeof(T), op, v, order, PC);                                      \
	}

ATOMIC(8, u8)
ATOMIC(16, u16)
ATOMIC(32, u32)
ATOMIC(64, u64)

EXPORT void __tsan_atomic_thread_fence(int order)
{
	memory_fence(order, PC);
}

EXPORT void __tsan_atomic_signal_fence(int order)
{
	(void)order;
}

/* ---- bytes */

EXPORT void *tdmx_memset(void *to, int c, size_t n)
{
	race_access(to, n, true, false, PC);
	return memset(to, c, n);
}

EXPORT void *tdmx_memcpy(void *to, const void *from, size_t n)
{
	race_access(from, n, false, false, PC);
	race_access(to, n, true, false, PC);
	return memcpy(to, from, n);
}

EXPORT void *tdmx_memmove(void *to, const void *from, size_t n)
{
	race_access(from, n, false, false, PC);
	race_access(to, n, true, false, PC);
	return memmove(to, from, n);
}

EXPORT int tdmx_memcmp(const void *a, const void *b, size_t n)
{
	race_access(a, n, false, false, PC);
	race_access(b, n, false, false, PC);
	return memcmp(a, b, n);
}

/* As clang calls them. */
EXPORT void *__tsan_memset(void *to, int c, size_t n) __attribute__((alias("tdmx_memset")));
EXPORT void *__tsan_memcpy(void *to, const void *from, size_t n) __attribute__((alias("tdmx_memcpy")));
EXPORT void *__tsan_memmove(void *to, const void *from, size_t n) __attribute__((alias("tdmx_memmove")));

EXPORT void tdmx_poison(const volatile void *p, size_t n)
{
	arena_poison(p, n, true);
}

EXPORT void tdmx_unpoison(const volatile void *p, size_t n)
{
	arena_poison(p, n, false);
}
