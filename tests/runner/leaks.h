/* SPDX-License-Identifier: MIT */
/* leaks.h - what a process holds that a test must give back. */
#ifndef TDM_T_LEAKS_H
#define TDM_T_LEAKS_H

#include <stdbool.h>
#include <stddef.h>

struct t_usage {
	unsigned fds;
	unsigned threads;
	size_t mapped; /* bytes; without the heap, the stack and loaded libraries */
};

void t_usage_get(struct t_usage *u);
/* Does the process hold more than before? What, in words, is in text. A thread that has just been joined, or a descriptor that the kernel
 * closes a little later, gets a second to go. */
bool t_usage_leaked(const struct t_usage *before, bool mappings, char *text, size_t len);

#endif
