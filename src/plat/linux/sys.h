/* SPDX-License-Identifier: MIT */
/*
 * sys.h - system calls without libc.
 *
 * The engine's threads are made by clone(2) alone: libc knows nothing of them, so they do not keep a program alive whose own threads have
 * all ended, do not turn its malloc and stdio into their locking variants, and own no errno. Each of these returns what the kernel
 * returned: a result, or -errno.
 */
#ifndef TDM_PLAT_LINUX_SYS_H
#define TDM_PLAT_LINUX_SYS_H

#include <sys/syscall.h>
#include "base/types.h"

#ifndef __x86_64__
#error "tandem knows the system call convention of x86-64 only"
#endif

#ifdef __clang_analyzer__
/* So that it knows that the kernel may write wherever an argument points. */
long tdm_sys6_raw(long nr, long a, long b, long c, long d, long e, long f);
#else
static inline long tdm_sys6_raw(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#endif

#ifdef TDM_INJECT
/* A library for tests only, in which calls can be made to fail: tests/live/inject.c. */
long tdmi_inject(long nr, long a, long b, long c, long d, long e, long f);
#define tdm_sys6(nr, a, b, c, d, e, f) tdmi_inject(nr, a, b, c, d, e, f)
#else
#define tdm_sys6(nr, a, b, c, d, e, f) tdm_sys6_raw(nr, a, b, c, d, e, f)
#endif

#define tdm_sys0(nr) tdm_sys6((nr), 0, 0, 0, 0, 0, 0)
#define tdm_sys1(nr, a) tdm_sys6((nr), (long)(a), 0, 0, 0, 0, 0)
#define tdm_sys2(nr, a, b) tdm_sys6((nr), (long)(a), (long)(b), 0, 0, 0, 0)
#define tdm_sys3(nr, a, b, c) tdm_sys6((nr), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define tdm_sys4(nr, a, b, c, d) tdm_sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define tdm_sys5(nr, a, b, c, d, e) tdm_sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

#endif
