/* SPDX-License-Identifier: MIT */
/*
 * fmt.h - text into buffers, without stdio: it takes locks, allocates and asks for the locale.
 */
#ifndef TDM_BASE_FMT_H
#define TDM_BASE_FMT_H

#include <stdarg.h>
#include "base/types.h"

/* A part of printf: %s %c %d %u %x %p %% with l, ll, z; with a width, 0 and - before it, and a precision for %s; width and precision may be *.
 * Always terminated if len > 0; the length that it would have had, like snprintf. Anything else is copied as it stands. */
size_t tdmi_fmt(char *buf, size_t len, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
size_t tdmi_vfmt(char *buf, size_t len, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));

/* "4096", "64K", "256M", "1.5G", "8g", "2TiB": bytes, in powers of 1024. The whole string, nothing before or after. 0; -EINVAL: malformed;
 * -ERANGE: does not fit 64 bits. */
int tdmi_parse_size(const char *s, u64 *bytes);
/* "1.5 GiB", "312 KiB", "17 B": at most three digits and a dot, rounded to nearest. */
size_t tdmi_fmt_size(char *buf, size_t len, u64 bytes);
/* Decimal, the whole string. 0, -EINVAL, -ERANGE. */
int tdmi_parse_u64(const char *s, u64 *out);

#endif
