// SPDX-License-Identifier: MIT
/* trace.c - a run, told: thread, operation, place in the source. Places come from addr2line, once for all of them. */
#include <dlfcn.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/check.h"
#include "plat/explore/impl.h"

#define EVENTS 30000u
#define NAMES 64u

struct event {
	u32 thread;
	const char *what;
	uintptr_t addr;
	u64 v;
	const void *pc;
	char *note;
};

static struct event event[EVENTS];
static u32 nevents;
static struct {
	uintptr_t start, size;
	const char *name;
} name[NAMES];
static u32 nnames;

void trace_name(const void *p, size_t size, const char *what)
{
	if (nnames == NAMES)
		return;
	name[nnames].start = (uintptr_t)p;
	name[nnames].size = size;
	name[nnames++].name = what;
}

void trace_reset(void)
{
	for (u32 i = 0; i < nevents; i++)
		free(event[i].note);
	nevents = 0;
}

void trace_op(const char *what, const volatile void *p, u64 v, const void *pc)
{
	if (!search_tracing || nevents == EVENTS)
		return;
	event[nevents++] = (struct event){ .thread = X.cur, .what = what, .addr = (uintptr_t)p, .v = v, .pc = pc };
}

void tdmx_note(const char *fmt, ...)
{
	char *line = NULL;
	va_list ap;

	if (!search_tracing || nevents == EVENTS)
		return;
	va_start(ap, fmt);
	if (vasprintf(&line, fmt, ap) < 0)
		line = NULL;
	va_end(ap);
	event[nevents++] = (struct event){ .thread = X.cur, .note = line };
}

/* ---- places */

/* Where the program's own code begins, if it can be anywhere. */
static int first_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	*(uintptr_t *)arg = info->dlpi_addr;
	return 1;
}

static uintptr_t load_address(void)
{
	uintptr_t at = 0;

	dl_iterate_phdr(first_object, &at);
	return at;
}

static const char *base_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Of the chain of inlined functions the first two that are not wrappers of an atomic. "FUNCTION at FILE:LINE", or " (inlined by) ..." */
static void add_frame(char *line, char *buf, size_t len, u32 *frames)
{
	char *where = strstr(line, " at "), *function = line, *inlined = strstr(line, "(inlined by) "), *end;

	if (!where)
		return;
	if (inlined && inlined < where)
		function = inlined + strlen("(inlined by) ");
	*where = 0;
	where = (char *)(uintptr_t)base_of(where + 4);
	end = strpbrk(where, " \n");
	if (end)
		*end = 0;
	if (!strncmp(where, "atomic.h:", 9) || *frames == 2)
		return;
	snprintf(buf + strlen(buf), len - strlen(buf), "%s%s %s", *frames ? " < " : "", function, where);
	(*frames)++;
}

/* places[i] of pcs[i], n of them. */
static void resolve(const void *const *pcs, u32 n, char (*places)[160])
{
	uintptr_t base = load_address();
	char exe[512], cmd[700], line[1024], list[] = "/tmp/tandem-explore-XXXXXX";
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	int fd = mkstemp(list);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
	u32 frames = 0, i = 0;
	bool begun = false;

	for (u32 k = 0; k < n; k++)
		snprintf(places[k], 160, "%p", (void *)((uintptr_t)pcs[k] - base));
	if (!f || len <= 0)
		return;
	exe[len] = 0;
	for (u32 k = 0; k < n; k++)
		fprintf(f, "%#zx\n", (size_t)((uintptr_t)pcs[k] - base - 1));
	fclose(f);
	snprintf(cmd, sizeof(cmd), "addr2line -a -f -i -p -e '%s' @%s 2>/dev/null", exe, list);
	f = popen(cmd, "r");
	while (f && fgets(line, sizeof(line), f)) {
		char *text = line;

		if (!strncmp(line, "0x", 2) && strstr(line, ": ")) {
			i += begun;
			begun = true;
			frames = 0;
			text = strstr(line, ": ") + 2;
			if (i < n)
				places[i][0] = 0;
		}
		if (begun && i < n)
			add_frame(text, places[i], 160, &frames);
	}
	if (f)
		pclose(f);
	unlink(list);
}

void trace_place(const void *pc, char *buf, size_t len)
{
	char place[1][160];

	resolve(&pc, 1, place);
	snprintf(buf, len, "%s", place[0]);
}

/* ---- the telling */

static void print_address(uintptr_t addr)
{
	for (u32 i = nnames; i > 0; i--)
		if (addr - name[i - 1].start < name[i - 1].size) {
			printf(" %s", name[i - 1].name);
			if (addr != name[i - 1].start)
				printf("+%#zx", (size_t)(addr - name[i - 1].start));
			return;
		}
	printf(" %#zx", (size_t)addr);
}

void trace_print(void)
{
	const void **pcs = calloc(nevents + 1, sizeof(*pcs));
	char (*places)[160] = calloc(nevents + 1, sizeof(*places));
	u32 n = 0;

	TDM_BUG_ON(!pcs || !places);
	for (u32 i = 0; i < nevents; i++)
		if (event[i].pc)
			pcs[n++] = event[i].pc;
	resolve(pcs, n, places);
	n = 0;
	for (u32 i = 0; i < nevents; i++) {
		const struct event *e = &event[i];

		printf("%4u  %-10s ", i, X.t[e->thread].name);
		if (e->note) {
			printf("-- %s\n", e->note);
			continue;
		}
		printf("%-18s", e->what);
		if (e->addr)
			print_address(e->addr);
		printf(" %#llx", (unsigned long long)e->v);
		if (e->pc)
			printf("   %s", places[n++]);
		putchar('\n');
	}
	free(pcs);
	free(places);
}
