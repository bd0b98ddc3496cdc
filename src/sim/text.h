/* SPDX-License-Identifier: MIT */
/*
 * text.h - what the readers of this directory share: lines of a small text file, amounts, and how a mistake is reported.
 *
 * A function that can fail for a reason that the user must hear fills err (TDM_SIM_ERR bytes, one line, "FILE:LINE: what is wrong; what was expected") and returns
 * -errno.
 */
#ifndef TDM_SIM_TEXT_H
#define TDM_SIM_TEXT_H

#include "base/types.h"

#define TDM_SIM_ERR 512u
/* Files that people write. Traces have no limit. */
#define TDM_TEXT_MAX ((size_t)1 << 20)

/* Put a line into err and return r. line 0: none is named; name NULL: neither. What is not printable becomes '?'. */
int tdmi_sim_fail(char *err, int r, const char *name, u64 line, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* A file that is read line by line. The bytes are owned, and changed while they are read. */
struct tdm_text {
	const char *name; /* for messages; the caller's */
	char *bytes;
	size_t len, pos;
	u32 line;         /* of what was read last */
	const char *comment; /* of it: what follows its '#', without blanks around it, or "" */
};

/* -errno of the file, or -EFBIG; err. */
int tdmi_text_open(struct tdm_text *t, const char *path, char *err);
/* The same of a copy of a string. -ENOMEM. */
int tdmi_text_of(struct tdm_text *t, const char *name, const char *s);
void tdmi_text_close(struct tdm_text *t);
/* The next line that holds more than a comment, without blanks around it. 1: *line; 0: the end. -EINVAL: a byte that text has not; err. */
int tdmi_text_next(struct tdm_text *t, char **line, char *err);
/* Split "KEY = VALUE" in place. *value is NULL if there is no '='. */
void tdmi_text_split(char *line, char **key, char **value);
/* The next word of *s, ended in place; NULL: none is left. */
char *tdmi_text_word(char **s);

/* An amount of time: so many cycles of the machine's clock, or picoseconds. */
struct tdm_duration {
	u64 n;
	u32 cycles; /* 1: n is in cycles, 0: in picoseconds */
};

/* "300 cycles", "1.5us", "20 ns", "10ms", "2 s", "0": with or without a blank. Cycles are whole. 0; -EINVAL: malformed; -ERANGE: beyond 2^62 of its unit, or
 * finer than 1 ps. */
int tdmi_parse_duration(const char *s, struct tdm_duration *out);
/* As it would be written: "300 cycles", "1500 ns". Reads back as the same. */
const char *tdmi_fmt_duration(struct tdm_duration d, char out[40]);
/* In cycles of a clock of hz, rounded to nearest; what is not 0 is 1 at least. Saturates. */
u64 tdmi_duration_cycles(struct tdm_duration d, u64 hz);

/* "10M", "3k", "2G", "1500": decimal, in powers of 1000. 0, -EINVAL, -ERANGE. */
int tdmi_parse_count(const char *s, u64 *out);
/* "0.99": so many thousandths, at most three digits behind the dot. 0, -EINVAL, -ERANGE (above 2^32). */
int tdmi_parse_thousandths(const char *s, u32 *out);

#endif
