/* SPDX-License-Identifier: MIT */
/* trace.c - recorded accesses. */
#include <stdlib.h>
#include <string.h>
#include "base/bitops.h"
#include "sim/trace.h"
#include "sim/unpack.h"

#define BUFFER ((size_t)1 << 16)
/* No line that says anything is longer. */
#define LINE_MAX_BYTES 4096u
#define SIZE_MAX_BYTES ((u64)1 << 20)

enum form { UNKNOWN, LACKEY, PLAIN };

struct tdm_trace {
	const char *path;
	struct tdm_unpack *u;
	enum form form;
	u64 line, accesses;
	bool eof;
	int failed;            /* and why, for whoever asks again */
	size_t pos, len;
	char err[TDM_SIM_ERR];
	char buf[BUFFER];
};

int tdmi_trace_open(struct tdm_trace **out, const char *path, char *err)
{
	struct tdm_trace *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return tdmi_sim_fail(err, -ENOMEM, path, 0, "no memory");
	t->path = path;
	r = tdmi_unpack_open(&t->u, path, err);
	if (r)
		free(t);
	else
		*out = t;
	return r;
}

void tdmi_trace_close(struct tdm_trace *t)
{
	tdmi_unpack_close(t->u);
	free(t);
}

/* ---- one line ---------------------------------------------------------------------------------------------------------------- */

/* Hexadecimal digits from *s on, 1 to 16. */
static bool parse_hex(const char **s, const char *end, u64 *out)
{
	const char *from = *s;
	u64 x = 0;

	for (; *s < end; ++*s) {
		char c = **s;

		if (c >= '0' && c <= '9')
			x = x << 4 | (u64)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			x = x << 4 | (u64)((c | 0x20) - 'a' + 10);
		else
			break;
	}
	*out = x;
	return *s > from && *s - from <= 16;
}

static bool parse_size(const char **s, const char *end, u32 *out)
{
	const char *from = *s;
	u64 x = 0;

	for (; *s < end && **s >= '0' && **s <= '9' && x <= SIZE_MAX_BYTES; ++*s)
		x = x * 10 + (u64)(**s - '0');
	*out = (u32)x;
	return *s > from && x && x <= SIZE_MAX_BYTES;
}

static bool kind_of(char c, enum tdm_trace_kind *kind)
{
	static const char letter[] = "ILSM";
	const char *p = c ? strchr(letter, c) : NULL;

	if (p)
		*kind = (enum tdm_trace_kind)(p - letter);
	return p != NULL;
}

/* "I  04001090,3", " L 1ffefffe7c,4". */
static bool parse_lackey(const char *s, const char *end, struct tdm_access_record *r)
{
	if (end - s < 6 || !kind_of(s[0] == ' ' ? s[1] : s[0], &r->kind))
		return false;
	if (r->kind == TDM_TRACE_FETCH ? s[0] != 'I' || s[1] != ' ' || s[2] != ' ' : s[0] != ' ' || s[2] != ' ')
		return false;
	s += 3;
	return parse_hex(&s, end, &r->va) && s < end && *s++ == ',' && parse_size(&s, end, &r->size) && s == end;
}

/* "R 7f12", "W 0x7f12". */
static bool parse_plain(const char *s, const char *end, struct tdm_access_record *r)
{
	if (end - s < 3 || (*s != 'R' && *s != 'W') || (s[1] != ' ' && s[1] != '\t'))
		return false;
	r->kind = *s++ == 'R' ? TDM_TRACE_READ : TDM_TRACE_WRITE;
	r->size = 8;
	while (s < end && (*s == ' ' || *s == '\t'))
		s++;
	if (end - s > 2 && s[0] == '0' && s[1] == 'x')
		s += 2;
	return parse_hex(&s, end, &r->va) && s == end;
}

/* "==1234== ", "--1234-- ", "**1234** ". */
static bool valgrinds(const char *s, const char *end)
{
	return end - s >= 3 && (*s == '=' || *s == '-' || *s == '*') && s[1] == *s && s[2] >= '0' && s[2] <= '9';
}

/* Learns the form from it, if that is not known. */
static bool passed_over(struct tdm_trace *t, const char *s, const char *end)
{
	if (s == end)
		return true;
	if (t->form != LACKEY && *s == '#')
		return true;
	if (t->form == PLAIN || !valgrinds(s, end))
		return false;
	t->form = LACKEY;
	return true;
}

static int malformed(struct tdm_trace *t, const char *s, const char *end, char *err)
{
	int show = (int)TDM_MIN(end - s, (ptrdiff_t)40);
	char found[48];

	memcpy(found, s, (size_t)show);
	for (int i = 0; i < show; i++)
		found[i] = found[i] ? found[i] : '?';
	found[show] = 0;
	if (t->form == LACKEY)
		return tdmi_sim_fail(err, -EINVAL, t->path, t->line, "expected 'I  ADDR,SIZE', ' L ADDR,SIZE', ' S ADDR,SIZE', ' M ADDR,SIZE' or a line of valgrind's, "
				     "not '%s'; --log-file keeps a program's output out", found);
	if (t->form == PLAIN)
		return tdmi_sim_fail(err, -EINVAL, t->path, t->line, "expected 'R ADDR' or 'W ADDR', hexadecimal, not '%s'", found);
	return tdmi_sim_fail(err, -EINVAL, t->path, t->line,
				     "no trace: expected 'R ADDR' or 'W ADDR', or what valgrind --tool=lackey --trace-mem=yes writes, not '%s'", found);
}

/* 1: an access; 0: nothing in this line. */
static int parse_line(struct tdm_trace *t, const char *s, const char *end, struct tdm_access_record *r, char *err)
{
	bool ok;

	if (end > s && end[-1] == '\r')
		end--;
	if (passed_over(t, s, end))
		return 0;
	if (t->form == UNKNOWN)
		t->form = parse_plain(s, end, r) ? PLAIN : parse_lackey(s, end, r) ? LACKEY : UNKNOWN;
	ok = t->form == LACKEY ? parse_lackey(s, end, r) : t->form == PLAIN && parse_plain(s, end, r);
	if (!ok)
		return malformed(t, s, end, err);
	if (r->va + r->size < r->va)
		return tdmi_sim_fail(err, -EINVAL, t->path, t->line, "the access goes beyond the end of the address space");
	return 1;
}

/* ---- lines out of the stream -------------------------------------------------------------------------------------------------- */

/* More bytes behind those that are left. */
static int more(struct tdm_trace *t, char *err)
{
	size_t n;
	int r;

	memmove(t->buf, t->buf + t->pos, t->len - t->pos);
	t->len -= t->pos;
	t->pos = 0;
	r = tdmi_unpack_read(t->u, t->buf + t->len, sizeof(t->buf) - t->len, &n, err);
	t->len += r ? 0 : n;
	t->eof = !r && !n;
	return r;
}

static int cut_off(struct tdm_trace *t, char *err)
{
	return tdmi_sim_fail(err, -EINVAL, t->path, t->line, "ends in the middle of a line; expected a newline: is the trace whole?");
}

/* A line that is too long to say anything is passed over piece by piece, if it is one that may be. What is left begins at its end. */
static int skip_long(struct tdm_trace *t, char *err)
{
	char *s = t->buf + t->pos, *nl;

	if (!passed_over(t, s, t->buf + t->len))
		return malformed(t, s, t->buf + t->len, err);
	while (!(nl = memchr(t->buf + t->pos, '\n', t->len - t->pos)) && !t->eof) {
		int r;

		t->pos = t->len;
		r = more(t, err);
		if (r)
			return r;
	}
	if (!nl)
		return cut_off(t, err);
	t->pos = (size_t)(nl - t->buf);
	return 0;
}

/* 1: [*s, *end) is a line; 0: the end. */
static int next_line(struct tdm_trace *t, char **s, char **end, char *err)
{
	int r;

	for (;;) {
		char *nl = memchr(t->buf + t->pos, '\n', t->len - t->pos);

		if (nl) {
			*s = t->buf + t->pos;
			*end = nl;
			t->pos = (size_t)(nl - t->buf) + 1;
			t->line++;
			return 1;
		}
		if (t->eof)
			break;
		t->line++; /* of what a message may be about */
		r = t->len - t->pos > LINE_MAX_BYTES ? skip_long(t, err) : more(t, err);
		t->line--;
		if (r)
			return r;
	}
	if (t->pos < t->len)
		return t->line++, cut_off(t, err);
	if (!t->accesses)
		return tdmi_sim_fail(err, -EINVAL, t->path, 0, "there is no access in it");
	return 0;
}

int tdmi_trace_next(struct tdm_trace *t, struct tdm_access_record *r, char *err)
{
	char *s = t->buf, *end = s;
	int got = t->failed;

	if (got) {
		memcpy(err, t->err, TDM_SIM_ERR);
		return got;
	}
	do {
		got = next_line(t, &s, &end, err);
		if (got <= 0)
			break;
		got = parse_line(t, s, end, r, err);
	} while (!got);
	if (got < 0) {
		t->failed = got;
		memcpy(t->err, err, TDM_SIM_ERR);
	}
	t->accesses += got > 0;
	return got;
}

/* ---- where addresses come to lie ------------------------------------------------------------------------------------------------ */

int tdmi_trace_map_init(struct tdm_trace_map *m, u64 bytes)
{
	*m = (struct tdm_trace_map){ .size = 64, .blocks = (bytes + TDM_HUGE_SIZE - 1) / TDM_HUGE_SIZE };
	m->key = calloc(m->size, sizeof(*m->key));
	m->place = calloc(m->size, sizeof(*m->place));
	if (m->key && m->place)
		return 0;
	tdmi_trace_map_destroy(m);
	return -ENOMEM;
}

void tdmi_trace_map_destroy(struct tdm_trace_map *m)
{
	free(m->key);
	free(m->place);
	m->key = NULL;
	m->place = NULL;
}

/* Where the key is, or would be. */
static u32 slot_of(const u64 *keys, u32 size, u64 key)
{
	u32 i = (u32)((key * 0x9e3779b97f4a7c15u) >> 32) & (size - 1);

	while (keys[i] && keys[i] != key)
		i = (i + 1) & (size - 1);
	return i;
}

static int grow(struct tdm_trace_map *m)
{
	u32 size = m->size * 2;
	u64 *key = calloc(size, sizeof(*key));
	u32 *place = calloc(size, sizeof(*place));

	if (!key || !place) {
		free(key);
		free(place);
		return -ENOMEM;
	}
	for (u32 i = 0; i < m->size; i++) {
		u32 to = m->key[i] ? slot_of(key, size, m->key[i]) : 0;

		if (!m->key[i])
			continue;
		key[to] = m->key[i];
		place[to] = m->place[i];
	}
	tdmi_trace_map_destroy(m);
	m->key = key;
	m->place = place;
	m->size = size;
	return 0;
}

int tdmi_trace_map(struct tdm_trace_map *m, u64 va, u64 *offset)
{
	u64 key = va / TDM_HUGE_SIZE + 1;
	u32 i = slot_of(m->key, m->size, key);

	if (!m->key[i]) {
		if (m->used >= m->blocks)
			return -ENOSPC;
		if (m->used >= m->size / 2) {
			int r = grow(m);

			if (r)
				return r;
			i = slot_of(m->key, m->size, key);
		}
		m->key[i] = key;
		m->place[i] = m->used++;
	}
	*offset = m->place[i] * TDM_HUGE_SIZE + va % TDM_HUGE_SIZE;
	return 0;
}
