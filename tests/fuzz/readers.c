/* SPDX-License-Identifier: MIT */
/* readers.c - see readers.h. */
#include "readers.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "sim/scenario.h"
#include "sim/trace.h"

#define NAME "fuzzed"

#define MUST(x)                                                                                                          \
	do {                                                                                                             \
		if (!(x)) {                                                                                              \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                          \
			abort();                                                                                         \
		}                                                                                                        \
	} while (0)

/* What is said of a file that is not taken. */
static void check_line(const char *err, const char *name)
{
	size_t n = strnlen(err, TDM_SIM_ERR);

	MUST(n && n < TDM_SIM_ERR);
	/* "--set" is not given here, so each names the file. */
	MUST(!strncmp(err, name, strlen(name)));
	for (size_t i = 0; i < n; i++)
		MUST((u8)err[i] >= ' ' && err[i] != 127);
}

static char *string_of(const u8 *bytes, size_t len)
{
	char *s = malloc(len + 1);

	MUST(s);
	memcpy(s, bytes, len);
	s[len] = 0;
	return s;
}

/* ---- scenarios */

static void check_ops(const struct tdm_scenario *s)
{
	for (u32 i = 0; i < s->nops; i++) {
		char text[96], copy[96], err[200];
		struct tdm_op again;

		strcpy(copy, tdmi_op_print(&s->op[i], text));
		MUST(!tdmi_op_parse(&again, copy, err, sizeof(err)));
		MUST(again.what == s->op[i].what && !memcmp(again.arg, s->op[i].arg, sizeof(again.arg)));
	}
}

static bool read_scenario(const u8 *bytes, size_t len)
{
	static struct tdm_scenario s, again;
	char err[TDM_SIM_ERR] = "", twice[TDM_SIM_ERR] = "", *text = string_of(bytes, len);
	int r = tdmi_scenario_parse(&s, NAME, text, NULL, 0, err);

	MUST(tdmi_scenario_parse(&again, NAME, text, NULL, 0, twice) == r && !strcmp(err, twice));
	free(text);
	if (r) {
		check_line(err, NAME);
		return false;
	}
	MUST(tdmi_scenario_points(&s) && tdmi_scenario_points(&s) <= TDM_SIM_POINTS);
	MUST(!tdmi_scenario_point(&s, tdmi_scenario_points(&s) - 1, &again, err));
	check_ops(&s);
	return true;
}

/* ---- costs */

static char *print_costs(const struct tdm_costs *c)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	MUST(f);
	tdmi_costs_print(c, f);
	fclose(f);
	return text;
}

static bool read_costs(const u8 *bytes, size_t len)
{
	static struct tdm_costs c, again;
	char err[TDM_SIM_ERR] = "", *text = string_of(bytes, len), *first, *second;
	int r;

	tdmi_costs_default(&c);
	r = tdmi_costs_parse(&c, NAME, text, err);
	free(text);
	if (r) {
		check_line(err, NAME);
		return false;
	}
	first = print_costs(&c);
	tdmi_costs_default(&again);
	MUST(!tdmi_costs_parse(&again, NAME, first, err));
	second = print_costs(&again);
	MUST(!strcmp(first, second));
	MUST(c.hz == again.hz && !memcmp(c.cycles, again.cycles, sizeof(c.cycles)));
	free(first);
	free(second);
	return true;
}

/* ---- traces */

/* 0 or -errno; *hash of all accesses. */
static int read_trace_once(const char *path, u64 *hash, char *err)
{
	struct tdm_access_record a;
	struct tdm_trace *t;
	int r = tdmi_trace_open(&t, path, err);

	*hash = 0;
	if (r)
		return r;
	while ((r = tdmi_trace_next(t, &a, err)) > 0) {
		MUST(a.size && a.size <= 1 << 20 && a.va + a.size >= a.va && (u32)a.kind <= TDM_TRACE_MODIFY);
		*hash = (*hash ^ a.va ^ (u64)a.size << 50 ^ (u64)a.kind << 62) * 0x9e3779b97f4a7c15u;
	}
	tdmi_trace_close(t);
	return r;
}

static bool read_trace(const u8 *bytes, size_t len)
{
	char err[TDM_SIM_ERR] = "", twice[TDM_SIM_ERR] = "", path[40];
	u64 hash, again;
	int fd = memfd_create("trace", MFD_CLOEXEC), r;

	MUST(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = read_trace_once(path, &hash, err);
	MUST(read_trace_once(path, &again, twice) == r && again == hash && !strcmp(err, twice));
	close(fd);
	if (r)
		check_line(err, path);
	return !r;
}

bool read_bytes(enum reader which, const u8 *bytes, size_t len)
{
	switch (which) {
	case READ_SCENARIO:
		return read_scenario(bytes, len);
	case READ_COSTS:
		return read_costs(bytes, len);
	default:
		return read_trace(bytes, len);
	}
}
