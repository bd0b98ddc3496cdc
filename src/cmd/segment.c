/* SPDX-License-Identifier: MIT */
/* segment.c - makes the segment that the processes share, and finds that of a running one. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd/cmd.h"

#define MEMFD_NAME "tandem-control"
#define LINK_NAME  "/memfd:" MEMFD_NAME

int tdmi_segment_create(struct tdm_control **out, char *name, size_t len, char *err)
{
	int low = memfd_create(MEMFD_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING), fd = -1;
	struct tdm_control *c = MAP_FAILED;

	/* Away from 0 to 2: if the caller closed one of these, what is written there must not land in the segment. */
	if (low >= 0) {
		fd = fcntl(low, F_DUPFD_CLOEXEC, 10);
		close(low);
	}
	/* No process can pull the memory from under the others by truncating it. */
	if (fd >= 0 && !ftruncate(fd, sizeof(*c)) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (c == MAP_FAILED) {
		return tdmi_fail(err, -errno, "cannot make the shared segment: %s", strerror(errno));
	}
	c->magic = TDM_CONTROL_MAGIC;
	c->version = TDM_CONTROL_VERSION;
	c->size = sizeof(*c);
	c->supervisor = (u32)getpid();
	snprintf(name, len, "/proc/%d/fd/%d", (int)getpid(), fd);
	*out = c;
	return 0;
}

static int map_file(const char *path, const struct tdm_control **out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r;
	struct stat st;
	void *p;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (size_t)st.st_size < sizeof(struct tdm_control)) {
		close(fd);
		return -EPROTO;
	}
	p = mmap(NULL, sizeof(struct tdm_control), PROT_READ, MAP_SHARED, fd, 0);
	r = p == MAP_FAILED ? -errno : tdmi_control_check(p, (size_t)st.st_size);
	close(fd);
	if (r && p != MAP_FAILED)
		munmap(p, sizeof(struct tdm_control));
	*out = r ? NULL : p;
	return r;
}

/* The supervisor holds it as a descriptor. */
static int from_descriptors(pid_t pid, const struct tdm_control **out)
{
	char dir[64], path[400], target[64];
	struct dirent *e;
	int r = -ENOENT;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
	d = opendir(dir);
	if (!d)
		return -errno;
	while (r && (e = readdir(d))) {
		ssize_t n;

		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		if (n > 0 && !strncmp(target, LINK_NAME, sizeof(LINK_NAME) - 1))
			r = map_file(path, out);
	}
	closedir(d);
	return r;
}

/* A managed process has its name in the environment. The process wrote that: take nothing but the form that we write. */
static int from_environment(pid_t pid, const struct tdm_control **out)
{
	char path[64], *var = NULL;
	int r = -ENOENT, sup, fd, end;
	size_t size = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	errno = 0;
	while (getdelim(&var, &size, 0, f) > 0) {
		const char *v = var + sizeof(TDM_CONTROL_ENV);

		end = 0;
		if (strncmp(var, TDM_CONTROL_ENV "=", sizeof(TDM_CONTROL_ENV)) || sscanf(v, "/proc/%9d/fd/%9d%n", &sup, &fd, &end) != 2 ||
		    v[end])
			continue;
		r = map_file(v, out);
		break;
	}
	if (ferror(f) && errno)
		r = -errno;
	free(var);
	fclose(f);
	return r;
}

/* When the supervisor has gone: the mapping itself, which only root may open. */
static int from_mappings(pid_t pid, const struct tdm_control **out)
{
	char path[80], *line = NULL;
	size_t size = 0;
	int r = -ENOENT;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (r == -ENOENT && getline(&line, &size, f) > 0) {
		if (!strstr(line, LINK_NAME))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%.40s", (int)pid, line);
		path[strcspn(path, " ")] = 0;
		r = map_file(path, out);
	}
	free(line);
	fclose(f);
	return r;
}

int tdmi_segment_of(pid_t pid, const struct tdm_control **out, char *err)
{
	int (*const ways[])(pid_t, const struct tdm_control **) = { from_descriptors, from_environment, from_mappings };
	int denied = 0, r = -ENOENT;

	if (!tdmi_proc_stat(pid, NULL, NULL, NULL)) {
		return tdmi_fail(err, -ESRCH, "there is no process %d", (int)pid);
	}
	for (size_t i = 0; i < TDM_ARRAY_SIZE(ways); i++) {
		r = ways[i](pid, out);
		if (!r)
			return 0;
		if (r == -EPROTO) {
			return tdmi_fail(err, r, "process %d runs under another version of tandem", (int)pid);
		}
		denied |= r == -EACCES || r == -EPERM;
	}
	if (denied)
		return tdmi_fail(err, -EACCES, "no permission to look into process %d; run as root or as its user", (int)pid);
	return tdmi_fail(err, -ENOENT, "process %d does not run under tandem", (int)pid);
}
