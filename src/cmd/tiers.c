/* SPDX-License-Identifier: MIT */
/* tiers.c - tier specifications are understood, and tried, before anything starts. */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "base/fmt.h"
#include "cmd/cmd.h"

#define TMPFS_MAGIC 0x01021994
#define RAMFS_MAGIC 0x858458f6

static bool in_memory(const char *dir)
{
	struct statfs s;

	return !statfs(dir, &s) && ((unsigned)s.f_type == TMPFS_MAGIC || (unsigned)s.f_type == RAMFS_MAGIC);
}

/* Make a file there that nobody sees, as the tier will. 0 or -errno. */
static int try_file(const char *dir)
{
	char path[PATH_MAX];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		snprintf(path, sizeof(path), "%s/tandem.XXXXXX", dir);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			unlink(path);
	}
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static const char *default_dir(void)
{
	static const char *const dirs[] = { NULL, "/var/tmp", "/tmp" };

	for (size_t i = 0; i < TDM_ARRAY_SIZE(dirs); i++) {
		const char *d = i ? dirs[i] : getenv("TMPDIR");

		if (d && *d && !in_memory(d) && !try_file(d))
			return d;
	}
	return NULL;
}

static int put_spec(const char *kind, const char *dir, u64 size, char out[120], char *err)
{
	char amount[24] = "";

	if (size)
		tdmi_size_exact(size, amount, sizeof(amount));
	if (snprintf(out, 120, "%s%s%s%s%s", kind, dir ? ":" : "", dir ? dir : "", size ? ":" : "", amount) >= 120) {
		return tdmi_fail(err, -EINVAL, "the name of the tier's directory is too long: %s", dir);
	}
	return 0;
}

static int bad_size(const char *spec, const char *size, char *err)
{
	return tdmi_fail(err, -EINVAL, "tier '%s': '%s' is not a size; write a number with K, M, G or T, at least 1M", spec, size);
}

static int check_file(const char *spec, const char *rest, char out[120], char *warn, char *err)
{
	char dir[PATH_MAX], real[PATH_MAX];
	const char *colon = rest ? strrchr(rest, ':') : NULL;
	struct stat st;
	u64 size = 0;
	int r;

	if ((size_t)snprintf(dir, sizeof(dir), "%s", rest ? rest : "") >= sizeof(dir)) {
		return tdmi_fail(err, -EINVAL, "the name of the tier's directory is too long");
	}
	/* What follows the last colon is a size, unless a slash or an existing directory of the whole name tells that it is not. */
	if (colon && tdmi_parse_size(colon + 1, &size) && (strchr(colon, '/') || !access(dir, F_OK)))
		colon = NULL;
	if (colon && size < (u64)1 << 20)
		return bad_size(spec, colon + 1, err);
	if (colon)
		dir[colon - rest] = 0;
	if (!dir[0]) {
		const char *d = default_dir();

		if (!d) {
			return tdmi_fail(err, -EACCES, "tier '%s': neither $TMPDIR nor /var/tmp can be written; name a directory: file:DIR",
					 spec);
		}
		snprintf(dir, sizeof(dir), "%s", d);
	}
	if (!realpath(dir, real) || stat(real, &st)) {
		bool number = !tdmi_parse_size(dir, &size);

		return tdmi_fail(err, -EINVAL, "tier '%s': directory %s: %s%s", spec, dir, strerror(errno),
				 number ? "; for a size alone write file::SIZE" : "");
	}
	if (!S_ISDIR(st.st_mode)) {
		return tdmi_fail(err, -ENOTDIR, "tier '%s': %s is not a directory", spec, dir);
	}
	r = try_file(real);
	if (r) {
		return tdmi_fail(err, r, "tier '%s': no file can be made in %s: %s; name a directory that you may write", spec, dir,
				 strerror(-r));
	}
	if (in_memory(real))
		tdmi_fail(warn, 0, "tier '%s': %s is a file system in memory; what goes there saves nothing", spec, dir);
	/* A slash at the end, so that the part after a colon in a name is not taken for a size by the next reader. */
	if (strchr(real, ':') && strlen(real) < sizeof(real) - 1)
		strcat(real, "/");
	return put_spec("file", real, size, out, err);
}

int tdmi_tier_check(const char *spec, char out[120], char *warn, char *err)
{
	const char *colon = strchr(spec, ':'), *rest = colon ? colon + 1 : NULL;
	size_t n = colon ? (size_t)(colon - spec) : strlen(spec);
	u64 size = 0;

	if (n == 4 && !strncmp(spec, "file", 4))
		return check_file(spec, rest, out, warn, err);
	if (!(n == 3 && !strncmp(spec, "lz4", 3)) && !(n == 4 && !strncmp(spec, "zstd", 4))) {
		return tdmi_fail(err, -EINVAL, "there is no tier '%.*s'; write lz4[:SIZE], zstd[:SIZE] or file[:DIR[:SIZE]]",
				 (int)TDM_MIN(n, 40), spec);
	}
	if (rest && (tdmi_parse_size(rest, &size) || size < (u64)1 << 20))
		return bad_size(spec, rest, err);
	return put_spec(n == 3 ? "lz4" : "zstd", NULL, size, out, err);
}

u32 tdmi_tier_defaults(char out[TDM_CONTROL_TIERS][120], char *warn)
{
	const char *d = default_dir();
	char real[PATH_MAX], err[CMD_ERR];

	strcpy(out[0], "lz4");
	if (d && realpath(d, real) && !put_spec("file", real, 0, out[1], err))
		return 2;
	tdmi_fail(warn, 0,
		  "neither $TMPDIR nor /var/tmp takes a file on a disk; going on with compression alone (--tier file:DIR adds one)");
	return 1;
}
