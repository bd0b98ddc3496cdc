/* SPDX-License-Identifier: MIT */
/*
 * threads - threads that come, go, are cancelled, are signalled and stopped while their memory is out; and the program's own signal
 * handlers and protection tricks, which must go on working.
 */
#include "common.h"
#include <pthread.h>
#include <setjmp.h>
#include <sys/resource.h>

static char *mem;
static size_t npages;
#define NAME 0xe00000

static void setup(void)
{
	if (mem)
		return;
	npages = opt.mb * MiB / 4 / PAGE;
	mem = anon(npages * PAGE);
	fill(mem, npages * PAGE, NAME, 0);
	press();
}

static __thread char tls[24 * KiB];
static pthread_key_t key;
static _Atomic unsigned ran, keys_dropped;

static void drop_key(void *p)
{
	free(p);
	atomic_fetch_add(&keys_dropped, 1);
}

static void *short_thread(void *arg)
{
	uintptr_t me = (uintptr_t)arg;
	char local[8 * KiB];

	memset(local, (int)me, sizeof(local));
	memset(tls, (int)me, sizeof(tls));
	pthread_setspecific(key, malloc(100));
	for (unsigned k = 0; k < 4; k++) {
		size_t p = mix(me * 4 + k) % npages;

		page_check(mem + p * PAGE, NAME + p, 0, "short thread");
	}
	for (size_t i = 0; i < sizeof(local); i += 64)
		CHECK(local[i] == (char)me && tls[i] == (char)me, "stack or TLS of a short thread");
	atomic_fetch_add(&ran, 1);
	return arg;
}

static void part_hundreds(void)
{
	unsigned n = 0;

	setup();
	pthread_key_create(&key, drop_key);
	for (unsigned round = 0; round < 12; round++) {
		pthread_t th[32];

		for (uintptr_t i = 0; i < 32; i++, n++)
			CHECK(pthread_create(&th[i], NULL, short_thread, (void *)(i + 1)) == 0, "pthread_create");
		if (round % 2 == 0)
			press_some(press_mem.pages / 4); /* those that have ended wait to be joined, out */
		for (uintptr_t i = 0; i < 32; i++) {
			void *ret;

			CHECK(pthread_join(th[i], &ret) == 0 && ret == (void *)(i + 1), "pthread_join");
		}
	}
	/* One at a time, memory pressed in between: the exit path writes to the thread's own control block. */
	for (unsigned i = 0; i < 200; i++, n++) {
		pthread_t th;

		CHECK(pthread_create(&th, NULL, short_thread, (void *)1) == 0, "pthread_create");
		press_some(64);
		pthread_join(th, NULL);
	}
	CHECK(atomic_load(&ran) == n && atomic_load(&keys_dropped) == n, "%u threads ran, %u keys were dropped, of %u", ran, keys_dropped, n);
}

static void part_detached(void)
{
	pthread_attr_t at;
	unsigned before = atomic_load(&ran);

	setup();
	if (!key)
		pthread_key_create(&key, drop_key);
	pthread_attr_init(&at);
	pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
	for (unsigned i = 0; i < 200; i++) {
		pthread_t th;
		int err;

		while ((err = pthread_create(&th, &at, short_thread, (void *)(uintptr_t)i)) == EAGAIN)
			sleep_ms(5);
		CHECK(err == 0, "pthread_create: %s", strerror(err));
		if (i % 40 == 0)
			press_some(press_mem.pages / 8);
	}
	for (uint64_t end = now_ns() + slow_s(30) * 1000000000ull; atomic_load(&ran) != before + 200; sleep_ms(2))
		CHECK(now_ns() < end, "only %u of 200 detached threads have run", ran - before);
}

static _Atomic unsigned cleaned;

static void clean(void *arg)
{
	page_check(mem, NAME, 0, "cancellation handler");
	atomic_fetch_add(&cleaned, 1);
}

static void *cancel_me(void *arg)
{
	struct rng r = { (uintptr_t)arg };
	bool async = (uintptr_t)arg % 2;

	pthread_cleanup_push(clean, NULL);
	if (async)
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;) {
		size_t p = below(&r, npages);

		/* Asynchronous cancellation may hit while a fault is being served. */
		if (*(volatile uint64_t *)(void *)(mem + p * PAGE + 8) != NAME + p)
			fail("a page has another name in a thread that is being cancelled");
		if (!async)
			pthread_testcancel();
	}
	pthread_cleanup_pop(1);
	return NULL;
}

static void part_cancel(void)
{
	setup();
	for (unsigned round = 0; round < 10; round++) {
		pthread_t th[8];
		unsigned before = atomic_load(&cleaned);

		for (uintptr_t i = 0; i < 8; i++)
			CHECK(pthread_create(&th[i], NULL, cancel_me, (void *)(round * 8 + i)) == 0, "pthread_create");
		press_some(press_mem.pages / 16);
		for (unsigned i = 0; i < 8; i++)
			pthread_cancel(th[i]);
		for (unsigned i = 0; i < 8; i++) {
			void *ret;

			CHECK(pthread_join(th[i], &ret) == 0 && ret == PTHREAD_CANCELED, "a cancelled thread returned %p", ret);
		}
		CHECK(atomic_load(&cleaned) == before + 8, "%u of 8 cancellation handlers ran", cleaned - before);
	}
	check(mem, npages * PAGE, NAME, 0, "after cancellations");
}

static pthread_barrier_t ready, go;

__attribute__((noinline)) static void recurse(unsigned n, unsigned tag)
{
	char local[2000];

	memset(local, (int)(tag + n), sizeof(local));
	if (n == 0) {
		pthread_barrier_wait(&ready);
		pthread_barrier_wait(&go);
	} else {
		recurse(n - 1, tag);
	}
	for (size_t i = 0; i < sizeof(local); i++)
		CHECK(local[i] == (char)(tag + n), "a stack that was out: frame %u of thread %u changed", n, tag);
}

static void *deep_thread(void *arg)
{
	unsigned tag = (unsigned)(uintptr_t)arg;

	memset(tls, (int)tag, sizeof(tls));
	for (unsigned i = 0; i < 3; i++)
		recurse(200, tag);
	for (size_t i = 0; i < sizeof(tls); i++)
		CHECK(tls[i] == (char)tag, "TLS that was out: byte %zu is %d", i, tls[i]);
	return NULL;
}

static void part_stacks(void)
{
	pthread_t th[16];

	setup();
	pthread_barrier_init(&ready, NULL, 17);
	pthread_barrier_init(&go, NULL, 17);
	for (uintptr_t i = 0; i < 16; i++)
		CHECK(pthread_create(&th[i], NULL, deep_thread, (void *)i) == 0, "pthread_create");
	for (unsigned round = 0; round < 3; round++) {
		pthread_barrier_wait(&ready);
		press();
		press();
		pthread_barrier_wait(&go);
	}
	for (unsigned i = 0; i < 16; i++)
		pthread_join(th[i], NULL);
}

static jmp_buf jb;
static size_t gc_pages;

__attribute__((noinline)) static void jump_from(unsigned n)
{
	volatile char local[3000];

	memset((char *)(uintptr_t)local, (int)n, sizeof(local));
	if (n == 0) {
		press_some(press_mem.pages / 8);
		if (gc_pages != 1)
			longjmp(jb, 7);
		return;
	}
	jump_from(n - 1);
	(void)local[1];
}

static void part_jumps(void)
{
	volatile unsigned count = 0;

	setup();
	for (volatile unsigned i = 0; i < 8; i++) {
		int r = setjmp(jb);

		if (r == 0)
			jump_from(100);
		CHECK(r == 7, "setjmp returned %d", r);
		count++;
	}
	CHECK(count == 8, "longjmp");
}

/* What garbage collectors do: protect pages, and catch the first write to each. */
static char *gc_mem;
static _Atomic unsigned char *gc_dirty;
static _Atomic unsigned gc_hits;
static sigjmp_buf gc_jump;
static volatile sig_atomic_t gc_expect;

static void gc_handler(int sig, siginfo_t *si, void *ctx)
{
	char *a = si->si_addr;

	if (gc_expect && (a < gc_mem || a >= gc_mem + gc_pages * PAGE)) {
		gc_expect = 0;
		siglongjmp(gc_jump, 1);
	}
	if (a < gc_mem || a >= gc_mem + gc_pages * PAGE)
		fail("signal %d (code %d) at %p: not a page that this program protected", sig, si->si_code, (void *)a);
	CHECK(si->si_code == SEGV_ACCERR, "write barrier: si_code is %d", si->si_code);
	gc_dirty[(size_t)(a - gc_mem) / PAGE] = 1;
	atomic_fetch_add(&gc_hits, 1);
	CHECK_SYS(mprotect((char *)((uintptr_t)a & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE));
}

static void *gc_mutator(void *arg)
{
	size_t me = (uintptr_t)arg;

	for (size_t i = me; i < gc_pages; i += 2)
		if (i % 3 == 0)
			*(volatile uint64_t *)(void *)(gc_mem + i * PAGE + 2048) = i;
	return NULL;
}

static void part_segv(void)
{
	struct sigaction sa = { .sa_sigaction = gc_handler, .sa_flags = SA_SIGINFO }, old;
	char *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *want = shared(PAGE);

	setup();
	gc_pages = 4000;
	gc_mem = anon(gc_pages * PAGE);
	gc_dirty = shared(gc_pages);
	CHECK_SYS(sigaction(SIGSEGV, &sa, &old));
	CHECK(old.sa_handler == SIG_DFL, "somebody had a SIGSEGV handler: %p", (void *)(uintptr_t)old.sa_handler);
	for (uint64_t round = 0; round < 3; round++) {
		pthread_t th[2];

		fill(gc_mem, gc_pages * PAGE, 0xc0000000 + round * gc_pages, 0);
		press();
		memset((void *)gc_dirty, 0, gc_pages);
		atomic_store(&gc_hits, 0);
		CHECK_SYS(mprotect(gc_mem, gc_pages * PAGE, PROT_READ));
		press_some(press_mem.pages / 2);
		for (uintptr_t i = 0; i < 2; i++)
			CHECK(pthread_create(&th[i], NULL, gc_mutator, (void *)i) == 0, "pthread_create");
		for (unsigned i = 0; i < 2; i++)
			pthread_join(th[i], NULL);
		for (size_t i = 0; i < gc_pages; i++) {
			CHECK(gc_dirty[i] == (i % 3 == 0), "write barrier: page %zu is %s", i, gc_dirty[i] ? "dirty, nobody wrote it" : "clean, it was written");
			page_gen(want, 0xc0000000 + round * gc_pages + i, 0);
			if (i % 3 == 0)
				want[256] = i;
			if (memcmp(gc_mem + i * PAGE, want, PAGE) != 0)
				page_explain(gc_mem + i * PAGE, want, 0xc0000000 + round * gc_pages + i, 0, "write barrier");
		}
		CHECK_SYS(mprotect(gc_mem, gc_pages * PAGE, PROT_READ | PROT_WRITE));
	}
	/* A wild access is the program's own SIGSEGV, at the address where it was. */
	for (unsigned i = 0; i < 4; i++) {
		gc_expect = 1;
		if (sigsetjmp(gc_jump, 1) == 0) {
			*(volatile char *)nothing = 1;
			fail("a write to PROT_NONE went through");
		}
	}
	sigaction(SIGSEGV, &old, NULL);
	munmap(gc_mem, gc_pages * PAGE);
	/* Without a handler it kills with that signal. */
	{
		pid_t pid = fork();
		int st;

		if (pid == 0) {
			*(volatile char *)nothing = 1;
			_exit(0);
		}
		waitpid(pid, &st, 0);
		CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSEGV, "a wild access ended with status %#x", st);
	}
	/* Blocked, and with all signals blocked, faults on evicted memory are still served. */
	{
		sigset_t all, was;

		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &was);
		press();
		check(mem, npages * PAGE, NAME, 0, "with all signals blocked");
		pthread_sigmask(SIG_SETMASK, &was, NULL);
	}
}

static _Atomic unsigned ticks;

static void on_tick(int sig)
{
	atomic_fetch_add(&ticks, 1);
	(void)*(volatile char *)(mem + mix(ticks) % npages * PAGE);
}

static void part_alarms(void)
{
	struct sigaction sa = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	struct itimerspec its = { { 0, 200000 }, { 0, 200000 } };
	struct sigevent se = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	timer_t t;
	uint64_t v = 0;

	setup();
	sigaction(SIGALRM, &sa, NULL);
	CHECK_SYS(timer_create(CLOCK_MONOTONIC, &se, &t));
	CHECK_SYS(timer_settime(t, 0, &its, NULL));
	for (uint64_t end = now_ns() + opt.seconds * 500000000u; now_ns() < end; v++) {
		for (size_t i = 0; i < npages; i++) {
			page_check(mem + i * PAGE, NAME + i, v, "in a storm of alarms");
			page_gen(mem + i * PAGE, NAME + i, v + 1);
		}
	}
	timer_delete(t);
	check(mem, npages * PAGE, NAME, v, "after a storm of alarms");
	fill(mem, npages * PAGE, NAME, 0);
	CHECK(atomic_load(&ticks) > 10, "only %u alarms", ticks);
	signal(SIGALRM, SIG_DFL);
}

/* A helper stops and continues this whole process again and again. */
static void part_stopped(void)
{
	pid_t me = getpid(), pid;
	uint64_t v = 0;

	setup();
	pid = fork();
	if (pid == 0) {
		for (unsigned i = 0; i < 20; i++) {
			sleep_ms(10);
			kill(me, SIGSTOP);
			sleep_ms(10);
			kill(me, SIGCONT);
		}
		_exit(0);
	}
	for (bool over = false; !over; v++) {
		over = waitpid(pid, NULL, WNOHANG) == pid;
		for (size_t i = 0; i < npages; i++) {
			page_check(mem + i * PAGE, NAME + i, v, "stopped and continued");
			page_gen(mem + i * PAGE, NAME + i, v + 1);
		}
	}
	fill(mem, npages * PAGE, NAME, 0);
}

static _Atomic int end_result;

static void *after_main(void *arg)
{
	sleep_ms(50);
	press();
	check(mem, npages * PAGE, NAME, 0, "after main has ended");
	exit(end_result ? 8 : 9);
}

static void *outlived(void *arg)
{
	/* Ends as an ordinary last thread: the process must then end with 0. */
	sleep_ms(30);
	check(mem, npages * PAGE, NAME, 0, "last thread");
	return NULL;
}

/*
 * The last that the kernel does for a thread is to clear the word that pthread_join waits for. If that page is out then, it cannot be brought
 * in: the kernel serves no userfault for a thread that is exiting. So thousands end here while evictions go on without a pause.
 */
static _Atomic bool race_over;

static void *race_press(void *arg)
{
	while (!atomic_load(&race_over))
		press_some(64);
	return NULL;
}

static void *race_end(void *arg)
{
	return (void *)(*(volatile uint64_t *)(void *)(mem + (uintptr_t)arg % npages * PAGE + 8) - NAME);
}

static void part_exit_race(void)
{
	pthread_t presser, th[8];
	struct timespec until;

	setup();
	atomic_store(&race_over, false);
	CHECK(pthread_create(&presser, NULL, race_press, NULL) == 0, "pthread_create");
	for (uint64_t end = now_ns() + opt.seconds * 1000000000u, n = 0; now_ns() < end; n++) {
		for (uintptr_t i = 0; i < 8; i++)
			CHECK(pthread_create(&th[i], NULL, race_end, (void *)(n * 8 + i)) == 0, "pthread_create");
		for (uintptr_t i = 0; i < 8; i++) {
			void *ret;
			int err;

			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += 20;
			err = pthread_timedjoin_np(th[i], &ret, &until);
			CHECK(err == 0, "thread number %" PRIu64 " has ended, pthread_join does not notice: %s", n * 8 + i, strerror(err));
			CHECK(ret == (void *)((n * 8 + i) % npages), "thread number %" PRIu64 " read another page", n * 8 + i);
		}
	}
	atomic_store(&race_over, true);
	pthread_join(presser, NULL);
}

/* main ends by pthread_exit: the process lives until the last thread of its own ends, and then it does end. */
static void part_main_exits(void)
{
	setup();
	for (int how = 0; how < 2; how++) {
		pid_t pid = fork();

		if (pid == 0) {
			pthread_t th;

			alarm(slow_s(40));
			if (how == 0)
				end_result = 1;
			CHECK(pthread_create(&th, NULL, how == 0 ? after_main : outlived, NULL) == 0, "pthread_create");
			pthread_exit(NULL);
		}
		reap(pid, how == 0 ? 8 : 0, how == 0 ? "exit by a thread after main has ended" : "last thread ended after main");
	}
	/* The same in a process that has faulted much of its own and has an engine of its own by then. */
	{
		pid_t pid = fork();

		if (pid == 0) {
			pthread_t th;

			alarm(slow_s(60));
			press();
			fill(mem, npages * PAGE, NAME, 9);
			press();
			fill(mem, npages * PAGE, NAME, 0);
			CHECK(pthread_create(&th, NULL, outlived, NULL) == 0, "pthread_create");
			pthread_exit(NULL);
		}
		reap(pid, 0, "last thread ended after main, in a busy child");
	}
}

/* exit_group while other threads are in faults; exec while other threads are in faults. */
static void *toucher(void *arg)
{
	for (size_t i = (uintptr_t)arg;; i += 7)
		(void)*(volatile char *)(mem + i % npages * PAGE);
	return NULL;
}

static void part_sudden_end(void)
{
	setup();
	for (int how = 0; how < 6; how++) {
		pid_t pid = fork();

		if (pid == 0) {
			pthread_t th;

			alarm(slow_s(40));
			press_some(press_mem.pages / 4);
			for (uintptr_t i = 0; i < 6; i++)
				CHECK(pthread_create(&th, NULL, toucher, (void *)(i * 1000)) == 0, "pthread_create");
			sleep_ms(5u + (unsigned)how * 7);
			if (how % 3 == 0)
				_exit(3);
			if (how % 3 == 1)
				execl("/bin/sh", "sh", "-c", "exit 3", (char *)NULL);
			exit(3);
		}
		reap(pid, 3, how % 3 == 1 ? "exec among faulting threads" : "exit among faulting threads");
	}
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{ "hundreds", part_hundreds }, { "detached", part_detached }, { "cancel", part_cancel }, { "stacks", part_stacks }, { "jumps", part_jumps },
		{ "segv", part_segv }, { "alarms", part_alarms }, { "stopped", part_stopped }, { "exit-race", part_exit_race },
		{ "main-exits", part_main_exits },
		{ "sudden-end", part_sudden_end },
	};

	parse(argc, argv);
	return run_parts(parts, sizeof(parts) / sizeof(*parts));
}
