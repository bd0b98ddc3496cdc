/* SPDX-License-Identifier: MIT */
/* text.c - lines of a small text file, amounts, and how a mistake is reported. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "sim/text.h"

int tdmi_sim_fail(char *err, int r, const char *name, u64 line, const char *fmt, ...)
{
	size_t n = 0;
	va_list ap;

	if (name && line)
		n = (size_t)snprintf(err, TDM_SIM_ERR, "%.300s:%llu: ", name, (unsigned long long)line);
	else if (name)
		n = (size_t)snprintf(err, TDM_SIM_ERR, "%.300s: ", name);
	va_start(ap, fmt);
	vsnprintf(err + n, TDM_SIM_ERR - n, fmt, ap);
	va_end(ap);
	for (; *err; err++)
		if ((unsigned char)*err < ' ' || *err == 0x7f)
			*err = '?';
	return r;
}

static int read_all(int fd, struct tdm_text *t)
{
	t->bytes = malloc(TDM_TEXT_MAX + 2);
	if (!t->bytes)
		return -ENOMEM;
	while (t->len <= TDM_TEXT_MAX) {
		ssize_t n = read(fd, t->bytes + t->len, TDM_TEXT_MAX + 1 - t->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		t->len += (size_t)n;
	}
	return t->len > TDM_TEXT_MAX ? -EFBIG : 0;
}

int tdmi_text_open(struct tdm_text *t, const char *path, char *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;

	*t = (struct tdm_text){ .name = path, .comment = "" };
	r = fd < 0 ? -errno : read_all(fd, t);
	if (fd >= 0)
		close(fd);
	if (!r)
		return 0;
	tdmi_text_close(t);
	if (r == -EFBIG)
		return tdmi_sim_fail(err, r, path, 0, "larger than 1 MiB: this is no text that somebody wrote");
	return tdmi_sim_fail(err, r, path, 0, "cannot be read: %s", strerror(-r));
}

int tdmi_text_of(struct tdm_text *t, const char *name, const char *s)
{
	*t = (struct tdm_text){ .name = name, .len = strlen(s), .comment = "" };
	t->bytes = malloc(t->len + 2);
	if (!t->bytes)
		return -ENOMEM;
	memcpy(t->bytes, s, t->len);
	return 0;
}

void tdmi_text_close(struct tdm_text *t)
{
	free(t->bytes);
	t->bytes = NULL;
}

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* In place; the end of what is left gets a NUL. */
static char *trim(char *s, char *end)
{
	while (s < end && blank(*s))
		s++;
	while (end > s && blank(end[-1]))
		end--;
	*end = 0;
	return s;
}

int tdmi_text_next(struct tdm_text *t, char **line, char *err)
{
	while (t->pos < t->len) {
		char *s = t->bytes + t->pos, *end = memchr(s, '\n', t->len - t->pos), *hash, *stop;

		stop = end ? end : t->bytes + t->len;
		t->pos = (size_t)(stop - t->bytes) + 1;
		t->line++;
		for (char *p = s; p < stop; p++)
			if ((unsigned char)*p < ' ' && !blank(*p))
				return tdmi_sim_fail(err, -EINVAL, t->name, t->line, "a byte %u, which text does not have", (unsigned char)*p);
		hash = memchr(s, '#', (size_t)(stop - s));
		t->comment = hash ? trim(hash + 1, stop) : "";
		*line = trim(s, hash ? hash : stop);
		if (**line)
			return 1;
	}
	return 0;
}

void tdmi_text_split(char *line, char **key, char **value)
{
	char *eq = strchr(line, '=');

	*key = trim(line, eq ? eq : line + strlen(line));
	*value = eq ? trim(eq + 1, eq + 1 + strlen(eq + 1)) : NULL;
}

char *tdmi_text_word(char **s)
{
	char *w = *s;

	while (blank(*w))
		w++;
	if (!*w)
		return NULL;
	for (*s = w; **s && !blank(**s); ++*s)
		;
	if (**s)
		*(*s)++ = 0;
	return w;
}

/* ---- amounts -------------------------------------------------------------------------------------------------------------- */

/* "12.345" into whole and millionths of millionths; *s is behind it. */
static int parse_decimal(const char **s, u64 *whole, u64 *fraction)
{
	u64 scale = 100000000000ull;
	bool digits = **s >= '0' && **s <= '9', over = false;

	*whole = *fraction = 0;
	for (; **s >= '0' && **s <= '9'; ++*s)
		over |= __builtin_mul_overflow(*whole, (u64)10, whole) || __builtin_add_overflow(*whole, (u64)(**s - '0'), whole);
	if (!digits)
		return -EINVAL;
	if (**s == '.') {
		if (*++*s < '0' || **s > '9')
			return -EINVAL;
		for (; **s >= '0' && **s <= '9'; ++*s) {
			over |= !scale && **s != '0';
			*fraction += scale * (u64)(**s - '0');
			scale /= 10;
		}
	}
	return over ? -ERANGE : 0;
}

/* whole.fraction times unit, which divides 10^12. */
static int scaled(u64 whole, u64 fraction, u64 unit, u64 *out)
{
	unsigned __int128 x = (unsigned __int128)whole * unit + (unsigned __int128)fraction * unit / 1000000000000ull;

	if ((unsigned __int128)fraction * unit % 1000000000000ull || x >> 62)
		return -ERANGE;
	*out = (u64)x;
	return 0;
}

static const struct {
	const char *name;
	u64 ps;
} time_units[] = { { "ps", 1 }, { "ns", 1000 }, { "us", 1000000 }, { "ms", 1000000000 }, { "s", 1000000000000 } };

int tdmi_parse_duration(const char *s, struct tdm_duration *out)
{
	u64 whole, fraction;
	int r = parse_decimal(&s, &whole, &fraction);

	if (r == -EINVAL)
		return r;
	while (blank(*s))
		s++;
	if (!strcmp(s, "cycles") || !strcmp(s, "cycle") || (!*s && !whole && !fraction)) {
		*out = (struct tdm_duration){ whole, 1 };
		return fraction ? -EINVAL : r ? r : whole >> 62 ? -ERANGE : 0;
	}
	for (size_t i = 0; i < TDM_ARRAY_SIZE(time_units); i++) {
		if (strcmp(s, time_units[i].name))
			continue;
		out->cycles = 0;
		return r ? r : scaled(whole, fraction, time_units[i].ps, &out->n);
	}
	return -EINVAL;
}

const char *tdmi_fmt_duration(struct tdm_duration d, char out[40])
{
	size_t i = 0;

	if (d.cycles) {
		snprintf(out, 40, "%llu cycles", (unsigned long long)d.n);
		return out;
	}
	while (i + 1 < TDM_ARRAY_SIZE(time_units) && d.n % time_units[i + 1].ps == 0)
		i++;
	snprintf(out, 40, "%llu %s", (unsigned long long)(d.n / time_units[i].ps), time_units[i].name);
	return out;
}

u64 tdmi_duration_cycles(struct tdm_duration d, u64 hz)
{
	unsigned __int128 x;

	if (d.cycles || !d.n)
		return d.n;
	x = ((unsigned __int128)d.n * hz + 500000000000ull) / 1000000000000ull;
	return x >> 64 ? ~(u64)0 : x ? (u64)x : 1;
}

int tdmi_parse_count(const char *s, u64 *out)
{
	u64 whole, fraction, unit = 1;
	int r = parse_decimal(&s, &whole, &fraction);

	if (r == -EINVAL)
		return r;
	if (*s == 'k' || *s == 'K')
		unit = 1000;
	else if (*s == 'M')
		unit = 1000000;
	else if (*s == 'G')
		unit = 1000000000;
	if (*s && (unit == 1 || s[1]))
		return -EINVAL;
	return r ? r : scaled(whole, fraction, unit, out) ? (fraction ? -EINVAL : -ERANGE) : 0;
}

int tdmi_parse_thousandths(const char *s, u32 *out)
{
	u64 whole, fraction, x;
	int r = parse_decimal(&s, &whole, &fraction);

	if (r == -EINVAL || *s)
		return -EINVAL;
	if (r || scaled(whole, fraction, 1000, &x) || x >> 32)
		return -ERANGE;
	*out = (u32)x;
	return 0;
}
