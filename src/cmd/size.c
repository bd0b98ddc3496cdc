/* SPDX-License-Identifier: MIT */
/* size.c - amounts of memory: how they are written, and what percentages refer to. */
#include <stdlib.h>
#include <string.h>
#include "base/fmt.h"
#include "cmd/cmd.h"

static const char units[] = "KMGT";

void tdmi_size_exact(u64 bytes, char *out, size_t len)
{
	unsigned k = 0;

	while (k < 4 && bytes && !(bytes & 1023)) {
		bytes >>= 10;
		k++;
	}
	snprintf(out, len, "%llu%.*s", (unsigned long long)bytes, k ? 1 : 0, k ? &units[k - 1] : "");
}

const char *tdmi_size_human(u64 bytes, char out[16])
{
	tdmi_fmt_size(out, 16, bytes);
	return out;
}

/* ---- the machine, or the part of it that we may use --------------------------------------------------------------------- */

static FILE *open_in(const char *root, const char *path)
{
	char full[4096];

	if ((size_t)snprintf(full, sizeof(full), "%s%s", root, path) >= sizeof(full))
		return NULL;
	return fopen(full, "re");
}

static u64 physical(const char *root)
{
	unsigned long long kib = 0;
	char line[256];
	FILE *f = open_in(root, "/proc/meminfo");

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "MemTotal: %llu kB", &kib) != 1)
		;
	if (f)
		fclose(f);
	return (u64)kib << 10;
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; (p = strstr(p, word)); p += n)
		if ((p == list || p[-1] == ',') && (p[n] == ',' || p[n] == 0))
			return true;
	return false;
}

/* Our cgroup in the hierarchy that controls memory; v2 if there is one with a limit, else v1. False: none. */
static bool own_cgroup(const char *root, bool v2, char *path, size_t len)
{
	char line[4096];
	bool found = false;
	FILE *f = open_in(root, "/proc/self/cgroup");

	while (f && !found && fgets(line, sizeof(line), f)) {
		char *list = strchr(line, ':'), *p = list ? strchr(list + 1, ':') : NULL;

		if (!p)
			continue;
		*p++ = 0;
		p[strcspn(p, "\n")] = 0;
		if (v2 ? list[1] != 0 : !has_word(list + 1, "memory"))
			continue;
		found = (size_t)snprintf(path, len, "%s", p) < len;
	}
	if (f)
		fclose(f);
	return found;
}

/* Where that hierarchy is mounted, and which cgroup of it is the mount's root (not "/" in most containers). */
static bool cgroup_mount(const char *root, bool v2, char *mount, char *top, size_t len)
{
	char line[8192];
	bool found = false;
	FILE *f = open_in(root, "/proc/self/mountinfo");

	while (f && !found && fgets(line, sizeof(line), f)) {
		char *type = strstr(line, " - "), *save = NULL, *opts = NULL, *field[5] = { 0 };

		if (!type)
			continue;
		*type = 0;
		type += 3;
		type[strcspn(type, "\n")] = 0;
		for (unsigned i = 0; i < 5; i++)
			field[i] = strtok_r(i ? NULL : line, " ", &save);
		opts = strrchr(type, ' ');
		if (!field[4] || !opts || strncmp(type, v2 ? "cgroup2 " : "cgroup ", v2 ? 8 : 7))
			continue;
		if (!v2 && !has_word(opts + 1, "memory"))
			continue;
		found = (size_t)snprintf(top, len, "%s", field[3]) < len && (size_t)snprintf(mount, len, "%s", field[4]) < len;
	}
	if (f)
		fclose(f);
	return found;
}

static u64 limit_file(const char *root, const char *dir, bool v2)
{
	char path[4096];
	unsigned long long x = 0;
	FILE *f;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, v2 ? "memory.max" : "memory.limit_in_bytes") >= sizeof(path))
		return ~(u64)0;
	f = open_in(root, path);
	if (!f || fscanf(f, "%llu", &x) != 1)
		x = ~0ull; /* "max", or the root, which has none */
	if (f)
		fclose(f);
	return x;
}

/* The least limit from our cgroup up to the mount's root. */
static u64 cgroup_limit(const char *root, bool v2)
{
	char own[1024], mount[1024], top[1024], dir[2048];
	const char *rel = own;
	u64 least = ~(u64)0, x;
	size_t base;

	if (!own_cgroup(root, v2, own, sizeof(own)) || !cgroup_mount(root, v2, mount, top, sizeof(top)))
		return least;
	if (strcmp(top, "/")) {
		size_t n = strlen(top);

		rel = !strncmp(own, top, n) && (own[n] == '/' || !own[n]) ? own + n : "";
	}
	base = strlen(mount);
	snprintf(dir, sizeof(dir), "%s%s", mount, strcmp(rel, "/") ? rel : "");
	for (;;) {
		char *slash;

		x = limit_file(root, dir, v2);
		least = TDM_MIN(least, x);
		slash = strrchr(dir, '/');
		if (strlen(dir) <= base || !slash)
			return least;
		*slash = 0;
	}
}

u64 tdmi_ram_base(const char *root)
{
	u64 ram = physical(root), v2 = cgroup_limit(root, true), v1 = cgroup_limit(root, false);

	ram = TDM_MIN(ram, v2);
	return TDM_MIN(ram, v1);
}
