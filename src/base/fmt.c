// SPDX-License-Identifier: MIT
#include "base/fmt.h"

struct out {
	char *buf;
	size_t len;  /* of the buffer */
	size_t pos;  /* of the text, which may be longer */
};

/* One conversion of a format: %[-0][width][.precision][length]letter. */
struct conv {
	bool left, zero;
	size_t width, precision;
	u32 size;    /* bytes of the integer */
	char letter;
};

static void put(struct out *o, char c)
{
	if (o->pos + 1 < o->len)
		o->buf[o->pos] = c;
	o->pos++;
}

static void put_repeated(struct out *o, char c, size_t n)
{
	while (n--)
		put(o, c);
}

static void put_text(struct out *o, const struct conv *c, const char *s)
{
	size_t n = 0;

	if (!s)
		s = "(null)";
	while (n < c->precision && s[n])
		n++;
	if (!c->left && c->width > n)
		put_repeated(o, ' ', c->width - n);
	for (size_t i = 0; i < n; i++)
		put(o, s[i]);
	if (c->left && c->width > n)
		put_repeated(o, ' ', c->width - n);
}

static void put_number(struct out *o, const struct conv *c, const char *prefix, u64 x, u32 base)
{
	char digits[24];
	size_t n = 0, prefix_len = 0, pad;

	do {
		digits[n++] = "0123456789abcdef"[x % base];
		x /= base;
	} while (x);
	while (prefix[prefix_len])
		prefix_len++;
	pad = c->width > n + prefix_len ? c->width - n - prefix_len : 0;
	if (!c->left && !c->zero)
		put_repeated(o, ' ', pad);
	while (*prefix)
		put(o, *prefix++);
	if (!c->left && c->zero)
		put_repeated(o, '0', pad);
	while (n)
		put(o, digits[--n]);
	if (c->left)
		put_repeated(o, ' ', pad);
}

static size_t parse_count(const char **f)
{
	size_t n = 0;

	for (; **f >= '0' && **f <= '9'; ++*f)
		n = n * 10 + (size_t)(**f - '0');
	return n;
}

/* *f is behind the '%'; afterwards behind the conversion. */
static struct conv parse_conv(const char **f, va_list *ap)
{
	struct conv c = { .precision = ~(size_t)0, .size = sizeof(int) };

	for (; **f == '-' || **f == '0'; ++*f)
		*(**f == '-' ? &c.left : &c.zero) = true;
	if (**f == '*') {
		c.width = va_arg(*ap, unsigned);
		++*f;
	} else {
		c.width = parse_count(f);
	}
	if (**f == '.') {
		if (*++*f == '*') {
			c.precision = va_arg(*ap, unsigned);
			++*f;
		} else {
			c.precision = parse_count(f);
		}
	}
	for (; **f == 'l' || **f == 'z'; ++*f)
		c.size = sizeof(u64);
	c.letter = **f;
	if (c.letter)
		++*f;
	return c;
}

static void put_conv(struct out *o, const struct conv *c, va_list *ap)
{
	char one[2] = { 0, 0 };
	s64 d;

	switch (c->letter) {
	case 's':
		put_text(o, c, va_arg(*ap, const char *));
		break;
	case 'c':
		one[0] = (char)va_arg(*ap, int);
		put_text(o, c, one);
		break;
	case 'd':
		d = c->size == sizeof(int) ? va_arg(*ap, int) : va_arg(*ap, s64);
		put_number(o, c, d < 0 ? "-" : "", d < 0 ? 0 - (u64)d : (u64)d, 10);
		break;
	case 'u':
		put_number(o, c, "", c->size == sizeof(int) ? va_arg(*ap, unsigned) : va_arg(*ap, u64), 10);
		break;
	case 'x':
		put_number(o, c, "", c->size == sizeof(int) ? va_arg(*ap, unsigned) : va_arg(*ap, u64), 16);
		break;
	case 'p':
		put_number(o, c, "0x", (u64)(uintptr_t)va_arg(*ap, void *), 16);
		break;
	case '%':
		put(o, '%');
		break;
	default:
		put(o, '%');
		if (c->letter)
			put(o, c->letter);
	}
}

size_t tdmi_vfmt(char *buf, size_t len, const char *fmt, va_list ap)
{
	struct out o = { buf, len, 0 };
	va_list args;

	va_copy(args, ap);
	while (*fmt) {
		char ch = *fmt++;

		if (ch == '%') {
			struct conv c = parse_conv(&fmt, &args);

			put_conv(&o, &c, &args);
		} else {
			put(&o, ch);
		}
	}
	va_end(args);
	if (len)
		buf[TDM_MIN(o.pos, len - 1)] = '\0';
	return o.pos;
}

size_t tdmi_fmt(char *buf, size_t len, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	va_start(ap, fmt);
	n = tdmi_vfmt(buf, len, fmt, ap);
	va_end(ap);
	return n;
}

static int parse_digits(const char **s, u64 *out)
{
	bool overflow = false;
	u64 x = 0;

	if (**s < '0' || **s > '9')
		return -EINVAL;
	for (; **s >= '0' && **s <= '9'; ++*s) {
		overflow |= __builtin_mul_overflow(x, (u64)10, &x);
		overflow |= __builtin_add_overflow(x, (u64)(**s - '0'), &x);
	}
	*out = x;
	return overflow ? -ERANGE : 0;
}

int tdmi_parse_u64(const char *s, u64 *out)
{
	u64 x;
	int err = parse_digits(&s, &x);

	if (err == -EINVAL || *s)
		return -EINVAL;
	if (!err)
		*out = x;
	return err;
}

/* The fraction of a size: ".25" is 25 / 100. More than nine digits say nothing about a number of bytes that matters. */
static int parse_fraction(const char **s, u64 *num, u64 *den)
{
	*num = 0;
	*den = 1;
	if (**s != '.')
		return 0;
	++*s;
	if (**s < '0' || **s > '9')
		return -EINVAL;
	for (; **s >= '0' && **s <= '9'; ++*s) {
		if (*den < 1000000000u) {
			*num = *num * 10 + (u64)(**s - '0');
			*den *= 10;
		}
	}
	return 0;
}

/* "", "K", "KB", "KiB" ... in either case; the exponent of 2. */
static int parse_unit(const char *s, u32 *shift)
{
	static const char units[] = "bkmgtpe";
	char u = (char)(*s | 0x20);
	u32 i = 0;

	*shift = 0;
	if (!*s)
		return 0;
	while (units[i] && units[i] != u)
		i++;
	if (!units[i])
		return -EINVAL;
	*shift = i * 10;
	s++;
	if (i && *s == 'i' && (s[1] | 0x20) == 'b')
		s++;
	if (i && (*s | 0x20) == 'b')
		s++;
	return *s ? -EINVAL : 0;
}

int tdmi_parse_size(const char *s, u64 *bytes)
{
	u64 whole, num, den, part;
	u32 shift;
	int range = parse_digits(&s, &whole);

	if (range == -EINVAL || parse_fraction(&s, &num, &den) || parse_unit(s, &shift) || (den > 1 && shift == 0))
		return -EINVAL;
	if (range || whole > ~(u64)0 >> shift)
		return -ERANGE;
	/* num < 10^9 < 2^30, so num << 30 fits. */
	part = shift <= 30 ? (num << shift) / den : ((num << 30) / den) << (shift - 30);
	return __builtin_add_overflow(whole << shift, part, bytes) ? -ERANGE : 0;
}

size_t tdmi_fmt_size(char *buf, size_t len, u64 bytes)
{
	static const char units[] = "KMGTPE";
	u64 tenths;
	u32 u = 0;

	if (bytes < 1024)
		return tdmi_fmt(buf, len, "%lu B", (unsigned long)bytes);
	while (u < 5 && bytes >= (u64)1000 << 10 * (u + 1))
		u++;
	/* In tenths of the unit below first, so that 10 * bytes cannot overflow. */
	tenths = ((bytes >> 10 * u) * 10 + 512) / 1024;
	if (tenths < 100)
		return tdmi_fmt(buf, len, "%lu.%lu %ciB", (unsigned long)(tenths / 10), (unsigned long)(tenths % 10), units[u]);
	return tdmi_fmt(buf, len, "%lu %ciB", (unsigned long)((tenths + 5) / 10), units[u]);
}
