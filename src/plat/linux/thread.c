/* SPDX-License-Identifier: MIT */
/*
 * thread.c - engine threads.
 *
 * Made by clone(2), unknown to libc: see sys.h. Each has a stack and a block of zeroes that stands for libc's TLS, with the stack
 * protector's canary copied in, so that library code which glances at fs:0x28 or writes errno hurts nobody. Every signal is blocked.
 *
 * The first thread of an engine is started with a descriptor table of its own (no CLONE_FILES); those that it starts share that one.
 * So the program's descriptors and the engine's are strangers: closing all descriptors does not close the userfaultfd, and a
 * pipe's end that the program has closed is closed.
 */
#include <asm/prctl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include "base/check.h"
#include "base/poison.h"
#include "plat/linux/linux.h"
#include "plat/linux/sys.h"

#if TDM_PTHREADS
#include <pthread.h>
#endif

#define STACK_SIZE ((size_t)256 << 10)
#define TLS_BELOW ((size_t)24 << 10) /* libc's static TLS lies below the thread pointer */
#define TLS_ABOVE ((size_t)8 << 10)
#define THREAD_SIZE (STACK_SIZE + TLS_BELOW + TLS_ABOVE + TDM_PAGE_SIZE)

struct plat_thread {
	void (*fn)(void *);
	void *arg;
	char name[16];
	bool private_files;
	int keep_fd;
	tdm_a32 tid;   /* cleared and woken by the kernel when the thread has ended */
	tdm_a32 ready; /* 1: it has its own descriptors */
#if TDM_PTHREADS
	pthread_t pthread;
#endif
};

int tdmi_linux_gettid(void)
{
	return (int)tdm_sys0(SYS_gettid);
}

/* Who ended in the middle of something, or does not exist in the child of a fork, leaves a stack that is poisoned between its variables. */
static void thread_free(struct plat_thread *t)
{
	tdm_unpoison(t, THREAD_SIZE);
	plat_unmap(t, THREAD_SIZE);
}

#if defined(TDM_POISONING) && !TDM_PTHREADS
/*
 * Before each call that does not return AddressSanitizer unpoisons the caller's stack, which it asks libc about, and libc knows nothing of our threads. Where that
 * is called from the engine nobody uses the stack again: it is plat_abort() that does not return.
 */
void __asan_handle_no_return(void);
void __asan_handle_no_return(void)
{
}
#endif

/* Nothing of the program's stays open in our table. */
static void close_all_but(int keep)
{
	if (keep > 0)
		tdm_sys3(SYS_close_range, 0, keep - 1, 0);
	tdm_sys3(SYS_close_range, keep + 1, ~0u, 0);
}

static void thread_main(struct plat_thread *t)
{
	tdm_sys5(SYS_prctl, PR_SET_NAME, t->name, 0, 0, 0);
	if (t->private_files && !TDM_PTHREADS)
		close_all_but(t->keep_fd);
	tdm_a32_st_release(&t->ready, 1);
	plat_wake(&t->ready, 1);
	t->fn(t->arg);
}

#if TDM_PTHREADS

static void *pthread_main(void *arg)
{
	thread_main(arg);
	return NULL;
}

static int thread_clone(struct plat_thread *t)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&t->pthread, NULL, pthread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

void plat_thread_join(struct plat_thread *t)
{
	pthread_join(t->pthread, NULL);
	thread_free(t);
}

#else

static _Noreturn __attribute__((used)) void raw_main(struct plat_thread *t)
{
	thread_main(t);
	/* The kernel clears and wakes t->tid (CLONE_CHILD_CLEARTID) once this stack is no longer used. */
	for (;;)
		tdm_sys1(SYS_exit, 0);
}

/*
 * clone(2) returns twice, the second time on another stack: no C compiler knows how to do that. t travels in a register that the system call
 * preserves; the child calls raw_main(t) and never returns.
 */
static long raw_clone(unsigned long flags, void *stack, tdm_a32 *tid, void *tls, struct plat_thread *t)
{
	register tdm_a32 *r10 __asm__("r10") = tid;
	register void *r8 __asm__("r8") = tls;
	register struct plat_thread *r9 __asm__("r9") = t;
	long ret;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r9, %%rdi\n\t"
			 "call *%[entry]\n\t"
			 "1:"
			 : "=a"(ret)
			 : "a"(SYS_clone), "D"(flags), "S"(stack), "d"(tid), "r"(r10), "r"(r8), "r"(r9), [entry] "b"(raw_main)
			 : "rcx", "r11", "memory");
	return ret;
}

static int thread_clone(struct plat_thread *t)
{
	char *stack_top = (char *)t + TDM_PAGE_SIZE + STACK_SIZE;
	char *tp = stack_top + TLS_BELOW;
	unsigned long flags = CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
			      CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | (t->private_files ? 0 : CLONE_FILES);
	u64 all = ~(u64)0, old;
	u64 canary;
	long r;

	__asm__("mov %%fs:0x28, %0" : "=r"(canary));
	*(void **)(void *)tp = tp;
	*(void **)(void *)(tp + 0x10) = tp;
	*(u64 *)(void *)(tp + 0x28) = canary;
	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
#ifdef TDM_INJECT
	r = tdmi_inject(SYS_clone, 0, 0, 0, 0, 0, 0); /* only asked */
	r = r < 0 ? r : raw_clone(flags, stack_top - 16, &t->tid, tp, t);
#else
	r = raw_clone(flags, stack_top - 16, &t->tid, tp, t);
#endif
	tdm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
	return r < 0 ? (int)r : 0;
}

void plat_thread_join(struct plat_thread *t)
{
	u32 tid;

	while ((tid = tdm_a32_ld_acquire(&t->tid)) != 0)
		tdm_sys6(SYS_futex, (long)&t->tid, 0 /* FUTEX_WAIT, shared: the kernel wakes so */, (long)tid, 0, 0, 0);
	thread_free(t);
}

#endif

static int thread_start(struct plat_thread **out, void (*fn)(void *), void *arg, const char *name, bool private_files, int keep_fd)
{
	struct plat_thread *t = plat_map(THREAD_SIZE);
	int r;

	if (!t)
		return -ENOMEM;
	t->fn = fn;
	t->arg = arg;
	t->private_files = private_files;
	t->keep_fd = keep_fd;
	strncpy(t->name, name, sizeof(t->name) - 1);
	r = thread_clone(t);
	if (r) {
		thread_free(t);
		return r;
	}
	/* Only once it has closed its copies are the program's descriptors the program's alone. */
	while (private_files && !tdm_a32_ld_acquire(&t->ready))
		plat_wait(&t->ready, 0, ~(u64)0);
	*out = t;
	return 0;
}

int plat_thread_start(struct plat_thread **t, void (*fn)(void *), void *arg, const char *name)
{
	return thread_start(t, fn, arg, name, false, -1);
}

int tdmi_linux_thread_start_private(struct plat_thread **t, void (*fn)(void *), void *arg, const char *name, int keep_fd)
{
	return thread_start(t, fn, arg, name, true, keep_fd);
}

void tdmi_linux_thread_forget(struct plat_thread *t)
{
	thread_free(t);
}
