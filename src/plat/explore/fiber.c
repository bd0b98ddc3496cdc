// SPDX-License-Identifier: MIT
/*
 * fiber.c - threads of a scenario: a stack each, and a switch that saves what a call saves. swapcontext() asks the kernel for the signal mask, each time.
 */
#include <stdint.h>
#include <sys/mman.h>
#include "base/check.h"
#include "plat/explore/impl.h"

#define STACK ((size_t)128 << 10)

static void *explorer_sp;
static u8 *stacks;

#if defined(__x86_64__)
void tdmx_switch(void **save, void *to);
__asm__(".text\n.globl tdmx_switch\n.hidden tdmx_switch\n.type tdmx_switch,@function\ntdmx_switch:\n"
	"push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
	"mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
	"pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
	".size tdmx_switch,.-tdmx_switch\n");
#define SAVED 6
#elif defined(__i386__)
void tdmx_switch(void **save, void *to) __attribute__((regparm(2)));
__asm__(".text\n.globl tdmx_switch\n.hidden tdmx_switch\n.type tdmx_switch,@function\ntdmx_switch:\n"
	"push %ebp\npush %ebx\npush %esi\npush %edi\n"
	"mov %esp,(%eax)\nmov %edx,%esp\n"
	"pop %edi\npop %esi\npop %ebx\npop %ebp\nret\n"
	".size tdmx_switch,.-tdmx_switch\n");
#define SAVED 4
#else
#error "the explorer switches fibers on x86 only"
#endif

static void begin(void)
{
	struct thread *t = &X.t[X.cur];

	t->fn(t->arg);
	t->state = DONE;
	search_sleep();
	TDM_BUG("a thread that has ended goes on");
}

void fiber_make(u32 i)
{
	uintptr_t *sp;

	if (!stacks)
		stacks = arena_map(NT * STACK);
	sp = (uintptr_t *)(void *)(stacks + (i + 1) * STACK);
	*--sp = 0; /* what begin() would return to; the stack is aligned as after a call */
	*--sp = (uintptr_t)begin;
	sp -= SAVED;
	X.t[i].sp = sp;
}

void fiber_switch(u32 from, u32 to)
{
	tdmx_switch(from == NT ? &explorer_sp : &X.t[from].sp, to == NT ? explorer_sp : X.t[to].sp);
}

bool fiber_owns(uintptr_t addr)
{
	return stacks && addr - (uintptr_t)stacks < NT * STACK;
}
