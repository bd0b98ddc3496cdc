/* SPDX-License-Identifier: MIT */
/*
 * atomic.h - the only file that names <stdatomic.h> and memory orders.
 *
 * The order is part of the operation's name, so that an audit is a grep. Plain fields shared between threads do not exist
 * outside of locks: whatever is read without a lock is one of these two types.
 */
#ifndef TDM_BASE_ATOMIC_H
#define TDM_BASE_ATOMIC_H

#include <stdatomic.h>
#include "base/types.h"

typedef struct {
	_Atomic u16 v;
} tdm_a16;

typedef struct {
	_Atomic u32 v;
} tdm_a32;

typedef struct {
	_Atomic u64 v;
} tdm_a64;

typedef struct {
	void *_Atomic v;
} tdm_aptr;

#define TDM_ATOMIC_OPS(sfx, T, A)                                                                                       \
	static inline T tdm_##sfx##_ld_relaxed(const A *a)                                                              \
	{                                                                                                               \
		return atomic_load_explicit(&((A *)(uintptr_t)a)->v, memory_order_relaxed);                             \
	}                                                                                                               \
	static inline T tdm_##sfx##_ld_acquire(const A *a)                                                              \
	{                                                                                                               \
		return atomic_load_explicit(&((A *)(uintptr_t)a)->v, memory_order_acquire);                             \
	}                                                                                                               \
	static inline T tdm_##sfx##_ld_seqcst(const A *a)                                                               \
	{                                                                                                               \
		return atomic_load_explicit(&((A *)(uintptr_t)a)->v, memory_order_seq_cst);                             \
	}                                                                                                               \
	static inline void tdm_##sfx##_st_relaxed(A *a, T x)                                                            \
	{                                                                                                               \
		atomic_store_explicit(&a->v, x, memory_order_relaxed);                                                  \
	}                                                                                                               \
	static inline void tdm_##sfx##_st_release(A *a, T x)                                                            \
	{                                                                                                               \
		atomic_store_explicit(&a->v, x, memory_order_release);                                                  \
	}                                                                                                               \
	static inline void tdm_##sfx##_st_seqcst(A *a, T x)                                                             \
	{                                                                                                               \
		atomic_store_explicit(&a->v, x, memory_order_seq_cst);                                                  \
	}                                                                                                               \
	static inline T tdm_##sfx##_xchg_acqrel(A *a, T x)                                                              \
	{                                                                                                               \
		return atomic_exchange_explicit(&a->v, x, memory_order_acq_rel);                                        \
	}                                                                                                               \
	/* On failure *old holds what was found. Acquire on failure, acquire and release on success. */                 \
	static inline bool tdm_##sfx##_cas_acqrel(A *a, T *old, T x)                                                    \
	{                                                                                                               \
		return atomic_compare_exchange_strong_explicit(&a->v, old, x, memory_order_acq_rel,                     \
							       memory_order_acquire);                                   \
	}

#define TDM_ATOMIC_ARITH(sfx, T, A)                                                                                     \
	static inline T tdm_##sfx##_add_relaxed(A *a, T x)                                                              \
	{                                                                                                               \
		return atomic_fetch_add_explicit(&a->v, x, memory_order_relaxed);                                       \
	}                                                                                                               \
	static inline T tdm_##sfx##_add_seqcst(A *a, T x)                                                               \
	{                                                                                                               \
		return atomic_fetch_add_explicit(&a->v, x, memory_order_seq_cst);                                       \
	}                                                                                                               \
	static inline T tdm_##sfx##_sub_relaxed(A *a, T x)                                                              \
	{                                                                                                               \
		return atomic_fetch_sub_explicit(&a->v, x, memory_order_relaxed);                                       \
	}                                                                                                               \
	static inline T tdm_##sfx##_add_acqrel(A *a, T x)                                                               \
	{                                                                                                               \
		return atomic_fetch_add_explicit(&a->v, x, memory_order_acq_rel);                                       \
	}                                                                                                               \
	static inline T tdm_##sfx##_sub_acqrel(A *a, T x)                                                               \
	{                                                                                                               \
		return atomic_fetch_sub_explicit(&a->v, x, memory_order_acq_rel);                                       \
	}                                                                                                               \
	static inline T tdm_##sfx##_or_acqrel(A *a, T x)                                                                \
	{                                                                                                               \
		return atomic_fetch_or_explicit(&a->v, x, memory_order_acq_rel);                                        \
	}                                                                                                               \
	static inline T tdm_##sfx##_and_acqrel(A *a, T x)                                                               \
	{                                                                                                               \
		return atomic_fetch_and_explicit(&a->v, x, memory_order_acq_rel);                                       \
	}

/* tdm_a32_ld_relaxed(), tdm_a32_cas_acqrel(), tdm_a32_add_relaxed(), ...; likewise a16, a64; aptr without the arithmetic. */
TDM_ATOMIC_OPS(a16, u16, tdm_a16)
TDM_ATOMIC_ARITH(a16, u16, tdm_a16)
TDM_ATOMIC_OPS(a32, u32, tdm_a32)
TDM_ATOMIC_ARITH(a32, u32, tdm_a32)
TDM_ATOMIC_OPS(a64, u64, tdm_a64)
TDM_ATOMIC_ARITH(a64, u64, tdm_a64)
TDM_ATOMIC_OPS(aptr, void *, tdm_aptr)

/* A full fence. ThreadSanitizer has no model of fences: prefer an operation with an order. */
static inline void tdm_fence_seqcst(void)
{
	atomic_thread_fence(memory_order_seq_cst);
}

#endif
