/* SPDX-License-Identifier: MIT */
/* program.c - finds the program as execvp would, and says beforehand why it could not be preloaded. */
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "cmd/cmd.h"

#define SCRIPT_DEPTH 5u

/* 0: it is a file that may be executed. */
static int executable(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	return eaccess(path, X_OK) ? -errno : 0;
}

/* 0, or why not: -ENOENT, or the reason why the first file of that name cannot be executed. */
static int look_up(const char *name, char *path, size_t len)
{
	const char *dirs = getenv("PATH"), *end;
	int worst = -ENOENT;

	if (strchr(name, '/'))
		return (size_t)snprintf(path, len, "%s", name) < len ? executable(path) : -ENAMETOOLONG;
	if (!*name)
		return -ENOENT;
	for (const char *d = dirs ? dirs : "/bin:/usr/bin";; d = end + 1) {
		size_t n;
		int r;

		end = strchrnul(d, ':');
		n = (size_t)(end - d);
		/* An empty entry is the current directory. */
		if ((size_t)snprintf(path, len, "%.*s/%s", n ? (int)n : 1, n ? d : ".", name) < len) {
			r = executable(path);
			if (!r)
				return 0;
			if (worst == -ENOENT && r != -ENOTDIR && r != -EISDIR)
				worst = r;
		}
		if (!*end)
			return worst;
	}
}

/* Would the kernel run it with more rights than we have? Then the dynamic linker ignores LD_PRELOAD. */
static const char *privileged(const char *path)
{
	struct statvfs fs;
	struct stat st;

	if (stat(path, &st) || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
		return NULL;
	if (!statvfs(path, &fs) && (fs.f_flag & ST_NOSUID))
		return NULL;
	if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
		return "set-uid";
	if ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && st.st_gid != getgid())
		return "set-gid";
	if (getuid() && getxattr(path, "security.capability", NULL, 0) > 0)
		return "given capabilities by its file";
	return NULL;
}

/* The dynamic linker that it names. 0; -ENOENT: none; -ENOEXEC: damaged. */
static int interpreter(int fd, const Elf64_Ehdr *eh, char *name, size_t len)
{
	if (eh->e_phentsize != sizeof(Elf64_Phdr))
		return -ENOEXEC;
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		ssize_t n;

		if (pread(fd, &ph, sizeof(ph), (off_t)(eh->e_phoff + i * sizeof(ph))) != sizeof(ph))
			return -ENOEXEC;
		if (ph.p_type != PT_INTERP)
			continue;
		n = pread(fd, name, TDM_MIN(len - 1, ph.p_filesz), (off_t)ph.p_offset);
		if (n <= 0)
			return -ENOEXEC;
		name[n] = 0;
		return 0;
	}
	return -ENOENT;
}

static int check_elf(int fd, const Elf64_Ehdr *eh, size_t n, const char *path, char *err)
{
	const char *why = privileged(path), *base;
	char interp[PATH_MAX];

	if (eh->e_ident[EI_CLASS] == ELFCLASS32) {
		return tdmi_fail(err, EXIT_USAGE, "%s is a 32-bit program; only 64-bit programs can be managed: run it without tandem",
				 path);
	}
	if (n < sizeof(*eh) || eh->e_machine != EM_X86_64) {
		return tdmi_fail(err, EXIT_CANNOT, "%s is not a program for this machine (x86-64)", path);
	}
	switch (interpreter(fd, eh, interp, sizeof(interp))) {
	case 0:
		break;
	case -ENOENT:
		return tdmi_fail(err, EXIT_USAGE,
				 "%s is statically linked: it cannot be preloaded, so it cannot be managed; use a dynamically linked build",
				 path);
	default:
		return tdmi_fail(err, EXIT_CANNOT, "%s: damaged program file", path);
	}
	base = strrchr(interp, '/');
	base = base ? base + 1 : interp;
	if (strcmp(base, "ld-linux-x86-64.so.2")) {
		return tdmi_fail(err, EXIT_USAGE, "%s is loaded by %s; only programs of the GNU C library can be managed", path, interp);
	}
	if (why) {
		return tdmi_fail(err, EXIT_USAGE,
				 "%s is %s: the dynamic linker ignores LD_PRELOAD for it; run tandem with those rights instead (sudo "
				 "tandem run ...)",
				 path, why);
	}
	return 0;
}

static int check_file(const char *path, unsigned depth, char *err);

static int check_script(char *line, size_t n, const char *path, unsigned depth, char *err)
{
	char *p = line + 2, *end = line + n;
	int r;

	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	for (end = p; end < line + n && !strchr(" \t\n", *end);) /* strchr finds the terminator too */
		end++;
	*end = 0;
	r = *p ? executable(p) : -ENOEXEC;
	if (r) {
		return tdmi_fail(err, EXIT_CANNOT, "%s wants the interpreter '%s': %s", path, p, strerror(-r));
	}
	if (depth >= SCRIPT_DEPTH) {
		return tdmi_fail(err, EXIT_CANNOT, "%s: too many interpreters that are scripts", path);
	}
	return check_file(p, depth + 1, err);
}

static int check_file(const char *path, unsigned depth, char *err)
{
	union {
		char text[512];
		Elf64_Ehdr elf;
	} head;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r;
	ssize_t n;

	if (fd < 0)
		return 0; /* it may be executed but not read: nothing can be said beforehand */
	n = read(fd, head.text, sizeof(head.text) - 1);
	n = n < 0 ? 0 : n;
	head.text[n] = 0;
	if (n >= EI_NIDENT && !memcmp(head.text, ELFMAG, SELFMAG))
		r = check_elf(fd, &head.elf, (size_t)n, path, err);
	else if (n >= 2 && !memcmp(head.text, "#!", 2))
		r = check_script(head.text, (size_t)n, path, depth, err);
	else if (strlen(head.text) == (size_t)n && depth == 0)
		r = check_file("/bin/sh", 1, err); /* as execvp does */
	else
		r = 0; /* perhaps the kernel knows (binfmt_misc) */
	close(fd);
	return r;
}

int tdmi_program_check(const char *name, char *path, size_t len, char *err)
{
	int r = look_up(name, path, len);

	if (r == -ENOENT || r == -ENOTDIR || r == -ENAMETOOLONG) {
		return tdmi_fail(err, EXIT_NOT_FOUND, "%s: %s", name, strchr(name, '/') ? strerror(-r) : "no such program in PATH");
	}
	if (r) {
		return tdmi_fail(err, EXIT_CANNOT, "%s: %s; it cannot be executed", name, strerror(-r));
	}
	return check_file(path, 0, err);
}
