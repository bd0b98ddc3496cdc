/* SPDX-License-Identifier: MIT */
/* library.c - the libraries that are preloaded: where they lie, and how a program comes to load one. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd/cmd.h"

/* The directory of the command; false: it cannot be told. */
static bool own_dir(char dir[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
	char *slash;

	dir[n > 0 ? n : 0] = 0;
	slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
	return slash != NULL;
}

/* In the build tree (libraries lie beside the command there, the explorer with its scenarios), then where it is installed relative to it or as configured. real: "" if it is in none of these places. */
static void look_for(const char *name, const char *dir, char real[PATH_MAX])
{
	static const char *const places[] = { "", "/../tests/explore", "/../lib/tandem", "/../lib/x86_64-linux-gnu/tandem" };
	char path[PATH_MAX + 128];

	for (size_t i = 0; dir && i < TDM_ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof(path), "%s%s/%s", dir, places[i], name);
		if (realpath(path, real))
			return;
	}
#ifdef TDM_LIBDIR
	snprintf(path, sizeof(path), "%s/%s", TDM_LIBDIR, name);
	if (realpath(path, real))
		return;
#endif
	*real = 0;
}

int tdmi_library_find(const char *name, const char *env, char *out, size_t len, char *err)
{
	const char *given = getenv(env);
	char dir[PATH_MAX], real[PATH_MAX] = "";

	if (given && *given) {
		if (!realpath(given, real) || access(real, R_OK))
			return tdmi_fail(err, -ENOENT, "%s: %s: %s", env, given, strerror(errno));
	} else {
		look_for(name, own_dir(dir) ? dir : NULL, real);
		if (!*real)
			return tdmi_fail(err, -ENOENT, "%s is neither beside %s/tandem nor installed; install tandem again", name, dir);
	}
	if (strpbrk(real, ": \t") || strlen(real) >= len)
		return tdmi_fail(err, -EINVAL, "%s: LD_PRELOAD takes no path with a colon or a space, or longer than %zu bytes; move it",
				 real, len - 1);
	memcpy(out, real, strlen(real) + 1);
	return 0;
}

int tdmi_library_preload(const char *path)
{
	const char *old = getenv("LD_PRELOAD");
	char *list = NULL;
	int r;

	if (asprintf(&list, "%s%s%s", path, old && *old ? ":" : "", old ? old : "") < 0)
		return -ENOMEM;
	r = setenv("LD_PRELOAD", list, 1) ? -ENOMEM : 0;
	free(list);
	return r;
}
