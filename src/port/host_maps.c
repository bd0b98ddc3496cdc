/* SPDX-License-Identifier: MIT */
/* host_maps.c - what the process has mapped: PROCMAP_QUERY, or the text of /proc/self/maps where the kernel has no such call. */
#include <string.h>
#include <unistd.h>
#include "plat/linux/sys.h"
#include "port/host.h"
#include "port/uapi.h"

static int query(struct tdm_host *h, u64 addr, struct tdm_mapping *m)
{
	struct tdm_procmap_query q = { .size = sizeof(q), .query_flags = TDM_PROCMAP_COVERING_OR_NEXT, .query_addr = addr,
				       .vma_name_size = sizeof(m->name), .vma_name_addr = (u64)(uintptr_t)m->name };
	long r;

	memset(m, 0, sizeof(*m));
	r = tdm_sys3(SYS_ioctl, h->maps, TDM_PROCMAP_QUERY, &q);
	if (r == -ENAMETOOLONG) {
		/* A path: a file's. The name is not needed then. */
		q.vma_name_size = 0;
		q.vma_name_addr = 0;
		r = tdm_sys3(SYS_ioctl, h->maps, TDM_PROCMAP_QUERY, &q);
	}
	if (r < 0)
		return (int)r;
	m->start = q.vma_start;
	m->end = q.vma_end;
	m->page_size = q.vma_page_size;
	m->readable = q.vma_flags & TDM_PROCMAP_READABLE;
	m->writable = q.vma_flags & TDM_PROCMAP_WRITABLE;
	m->executable = q.vma_flags & TDM_PROCMAP_EXECUTABLE;
	m->shared = q.vma_flags & TDM_PROCMAP_SHARED;
	m->file = q.inode != 0;
	return 0;
}

static u64 hex(const char **s)
{
	u64 v = 0;

	for (;; (*s)++) {
		char c = **s;

		if (c >= '0' && c <= '9')
			v = v << 4 | (u64)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (u64)(c - 'a' + 10);
		else
			return v;
	}
}

/* "start-end perms offset dev inode   name" */
static void parse(const char *s, struct tdm_mapping *m)
{
	memset(m, 0, sizeof(*m));
	m->start = hex(&s);
	s++;
	m->end = hex(&s);
	s++;
	m->readable = s[0] == 'r';
	m->writable = s[1] == 'w';
	m->executable = s[2] == 'x';
	m->shared = s[3] == 's';
	for (u32 field = 0; field < 3 && *s; s++)
		field += *s == ' ';
	m->file = *s != '0';
	while (*s >= '0' && *s <= '9')
		s++;
	while (*s == ' ')
		s++;
	strncpy(m->name, s, sizeof(m->name) - 1);
}

static int read_text(struct tdm_host *h, u64 addr, struct tdm_mapping *m)
{
	char buf[4096], line[256] = { 0 };
	u32 len = 0;
	u64 off = 0;

	for (;;) {
		long n = tdm_sys4(SYS_pread64, h->maps, buf, sizeof(buf), off);

		if (n <= 0)
			return n < 0 ? (int)n : -ENOENT;
		off += (u64)n;
		for (long i = 0; i < n; i++) {
			if (buf[i] != '\n') {
				if (len < sizeof(line) - 1)
					line[len++] = buf[i];
				continue;
			}
			line[len] = 0;
			len = 0;
			parse(line, m);
			if (m->end > addr)
				return 0;
		}
	}
}

int tdmi_host_mapping(struct tdm_host *h, u64 addr, struct tdm_mapping *m)
{
	int r = query(h, addr, m);

	return r == -ENOTTY || r == -EINVAL ? read_text(h, addr, m) : r;
}
