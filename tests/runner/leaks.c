// SPDX-License-Identifier: MIT
#include "leaks.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned count_entries(const char *dir)
{
	unsigned n = 0;
	DIR *d = opendir(dir);

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

/* Libraries that glibc loads on demand (libgcc_s for pthread_cancel, nss) stay loaded; so does what malloc has grown. */
static bool is_ours(const char *path)
{
	return strncmp(path, "[heap]", 6) != 0 && strncmp(path, "[stack]", 7) != 0 && !strstr(path, ".so");
}

static size_t mapped_bytes(void)
{
	static char line[4400];
	size_t sum = 0;
	FILE *f = fopen("/proc/self/maps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		int path = 0;

		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &start, &end, &path) == 2 && is_ours(line + path))
			sum += end - start;
	}
	if (f)
		fclose(f);
	return sum;
}

void t_usage_get(struct t_usage *u)
{
	u->fds = count_entries("/proc/self/fd");
	u->threads = count_entries("/proc/self/task");
	u->mapped = mapped_bytes();
}

bool t_usage_leaked(const struct t_usage *before, bool mappings, char *text, size_t len)
{
	struct t_usage now;
	int status;
	pid_t child;

	for (int tries = 0;; tries++) {
		t_usage_get(&now);
		child = waitpid(-1, &status, WNOHANG | __WALL);
		text[0] = '\0';
		if (child >= 0)
			snprintf(text, len, child ? "a child was not waited for" : "a child is still running");
		else if (now.fds > before->fds)
			snprintf(text, len, "%u descriptors", now.fds - before->fds);
		else if (now.threads > before->threads)
			snprintf(text, len, "%u threads", now.threads - before->threads);
		else if (mappings && now.mapped > before->mapped)
			snprintf(text, len, "%zu bytes of mappings", now.mapped - before->mapped);
		if (!text[0])
			return false;
		if (child >= 0 || tries == 100)
			return true;
		usleep(10000);
	}
}
