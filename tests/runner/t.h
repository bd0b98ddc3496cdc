/* SPDX-License-Identifier: MIT */
/*
 * t.h - the test runner.
 *
 * A test is TEST(name) { ... }: it runs in a process of its own, under a time limit, and fails when a CHECK does, when it ends in any
 * other way than by returning, or when it leaves a descriptor, a thread, a child or a mapping behind. TEST_DIES(name, "text") must end
 * abnormally and say text on stderr. Output is TAP; what a test prints is shown when it fails.
 *
 * Options, after the name: .seconds (time limit, default 20; tripled under sanitizers), .may_leak (skip the leak check).
 *     TEST(fork_storm, .seconds = 60) { ... }
 *
 * A test program is one or more files of tests linked with runner.c. Its arguments: -l lists, NAME or PATTERN... selects.
 */
#ifndef TDM_T_H
#define TDM_T_H

#ifdef NDEBUG
#error "tests are built without NDEBUG: an assertion that is compiled out tests nothing"
#endif

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct t_test {
	const char *name;
	void (*fn)(void);
	const char *dies; /* what it must say while dying; NULL: it must live */
	unsigned seconds;
	bool may_leak;
};

#define T_REGISTER(test_name, ...)                                                                                       \
	static void test_name(void);                                                                                     \
	static const struct t_test t_test_##test_name = { .name = #test_name, .fn = test_name, __VA_ARGS__ };            \
	static const struct t_test *const t_ptr_##test_name                                                              \
		__attribute__((section("tdm_tests"), used)) = &t_test_##test_name;                                       \
	static void test_name(void)

#define TEST(name, ...) T_REGISTER(name, __VA_ARGS__)
#define TEST_DIES(name, text, ...) T_REGISTER(name, .dies = (text), __VA_ARGS__)

/* End the test as skipped. */
#define SKIP(reason) t_skip(reason)

#define CHECK(x)                                                                                                         \
	do {                                                                                                             \
		if (!(x))                                                                                                \
			t_fail(__FILE__, __LINE__, "%s", #x);                                                            \
	} while (0)

/* Integers of any type, compared as 64 bits. */
#define CHECK_EQ(a, b)                                                                                                   \
	do {                                                                                                             \
		long long t_a = (long long)(a), t_b = (long long)(b);                                                    \
		if (t_a != t_b)                                                                                          \
			t_fail(__FILE__, __LINE__, "%s == %s: %lld (0x%llx) is not %lld (0x%llx)", #a, #b, t_a,          \
			       (unsigned long long)t_a, t_b, (unsigned long long)t_b);                                   \
	} while (0)

#define CHECK_STR(a, b)                                                                                                  \
	do {                                                                                                             \
		const char *t_a = (a), *t_b = (b);                                                                       \
		if (!t_same(t_a, t_b))                                                                                   \
			t_fail(__FILE__, __LINE__, "%s: \"%s\" is not \"%s\"", #a, t_a ? t_a : "(null)",                 \
			       t_b ? t_b : "(null)");                                                                    \
	} while (0)

/* Fails the test from any thread, or from a process that the test forked. */
_Noreturn void t_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
_Noreturn void t_skip(const char *reason);
bool t_same(const char *a, const char *b);

/* The seed of this run: $TDM_SEED, or 1; printed when a test that asked for it fails. */
uint64_t t_seed(void);
/* The next of a sequence that *state (any value) determines. */
uint64_t t_rand(uint64_t *state);
/* Built with a sanitizer, or $TDM_QUICK is set: run fewer rounds. */
bool t_slow(void);
/* Built with a sanitizer. */
bool t_sanitized(void);
/* An empty directory for this test, the same one at every call, in $TMPDIR or /tmp. The runner removes it with all that is in it, however the test
 * ends; only a runner that is killed by SIGKILL leaves it behind. From one thread at a time. */
const char *t_dir(void);

#endif
