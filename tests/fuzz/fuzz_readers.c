/* SPDX-License-Identifier: MIT */
/*
 * fuzz_readers.c - files that are nearly right, for the readers (readers.h): changed copies of right ones.
 *
 * fuzz-readers [--seed N] [--runs N | --seconds N] FILE...: *.sim are scenarios, *costs* costs, all others traces. Each run takes one and changes it a few
 * times: bits, bytes, parts left out, said twice, moved, and words of other files.
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include "readers.h"
#include "sim/rng.h"

#define FILES 128u
#define LEN_MAX ((size_t)64 << 10)

struct file {
	enum reader what;
	u8 *bytes;
	size_t len;
};

static volatile u64 current; /* the seed of this run */
static struct file file[FILES];
static u32 nfiles;
static struct tdm_rng rng;

static u32 below(u64 n)
{
	return (u32)tdm_rng_below(&rng, n);
}

static void add(enum reader what, const void *bytes, size_t len)
{
	if (nfiles == FILES || len > LEN_MAX || !len)
		return;
	file[nfiles] = (struct file){ what, malloc(len), len };
	memcpy(file[nfiles++].bytes, bytes, len);
}

/* A trace is there packed, too. */
static void add_packed(const u8 *bytes, size_t len)
{
	static u8 out[2 * LEN_MAX];
	z_stream z = { .next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)len, .next_out = out, .avail_out = sizeof(out) };

	if (deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY) == Z_OK && deflate(&z, Z_FINISH) == Z_STREAM_END)
		add(READ_TRACE, out, z.total_out);
	deflateEnd(&z);
	add(READ_TRACE, out, ZSTD_compress(out, sizeof(out), bytes, len, 3));
}

static bool add_file(const char *path)
{
	static char text[LEN_MAX + 1];
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(text, 1, LEN_MAX, f) : 0;
	enum reader what;

	if (!f)
		return false;
	fclose(f);
	text[n] = 0;
	what = strstr(path, ".sim") ? READ_SCENARIO : strstr(path, "costs") ? READ_COSTS : READ_TRACE;
	add(what, text, n);
	if (what == READ_TRACE)
		add_packed((u8 *)text, n);
	return true;
}

/* ---- changes */

static void put_in(u8 *to, size_t *len, size_t at, const u8 *from, size_t n)
{
	n = TDM_MIN(n, LEN_MAX - *len);
	memmove(to + at + n, to + at, *len - at);
	memmove(to + at, from, n);
	*len += n;
}

/* A piece of another file: mostly a line. */
static void splice(u8 *to, size_t *len, size_t at)
{
	const struct file *f = &file[below(nfiles)];
	size_t from = below(f->len), n = 1 + below(80);
	const u8 *end;

	n = TDM_MIN(n, f->len - from);
	if (below(2)) {
		while (from && f->bytes[from - 1] != '\n')
			from--;
		end = memchr(f->bytes + from, '\n', f->len - from);
		n = end ? (size_t)(end - f->bytes) - from + 1 : f->len - from;
		while (at && to[at - 1] != '\n')
			at--;
	}
	put_in(to, len, at, f->bytes + from, n);
}

static const char *const words[] = { "0", "-1", "18446744073709551616", "4294967296", "1e9", "99999999999999999999", "[", "]", "=", "#", "\n", " ", "K",
	"M", "%", "cycles", "p0", "1056", "\t", "\r\n", "" };

static void change(u8 *to, size_t *len)
{
	size_t at = *len ? below(*len) : 0, n;
	const char *w;
	u8 piece[40];

	switch (below(8)) {
	case 0:
		if (*len)
			to[at] ^= (u8)(1u << below(8));
		break;
	case 1:
		if (*len)
			to[at] = (u8)below(256);
		break;
	case 2: /* left out */
		n = 1 + below(below(4) ? 4 : 200);
		n = TDM_MIN(n, *len - at);
		memmove(to + at, to + at + n, *len - at - n);
		*len -= n;
		break;
	case 3: /* twice */
		n = 1 + below(40);
		n = TDM_MIN(n, *len - at);
		memcpy(piece, to + at, n);
		put_in(to, len, at, piece, n);
		break;
	case 4: /* cut off */
		if (!below(4))
			*len = at;
		break;
	case 5:
		w = words[below(TDM_ARRAY_SIZE(words))];
		put_in(to, len, at, (const u8 *)w, *w ? strlen(w) : 1);
		break;
	default:
		splice(to, len, at);
	}
}

static void died(int sig)
{
	char line[40];
	int n = snprintf(line, sizeof(line), "at seed %" PRIu64 "\n", current);

	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		_exit(2);
	raise(sig);
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = { { "seed", 1, NULL, 's' }, { "runs", 1, NULL, 'r' }, { "seconds", 1, NULL, 't' }, { 0 } };
	struct sigaction once = { .sa_handler = died, .sa_flags = (int)SA_RESETHAND };
	u64 seed = 1, runs = 0, taken = 0, i = 0;
	static u8 bytes[LEN_MAX];
	time_t end = 0;
	int opt;

	sigaction(SIGABRT, &once, NULL);
	sigaction(SIGSEGV, &once, NULL);
	while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1)
		switch (opt) {
		case 's': seed = strtoull(optarg, NULL, 10); break;
		case 'r': runs = strtoull(optarg, NULL, 10); break;
		case 't': end = time(NULL) + atol(optarg); break;
		default: return 2;
		}
	for (; optind < argc; optind++)
		if (!add_file(argv[optind])) {
			fprintf(stderr, "fuzz-readers: %s cannot be read\n", argv[optind]);
			return 2;
		}
	if (!nfiles || !(runs || end)) {
		fprintf(stderr, "usage: fuzz-readers [--seed N] --runs N|--seconds N FILE...\n");
		return 2;
	}
	for (u32 k = 0; k < nfiles; k++)
		if (!read_bytes(file[k].what, file[k].bytes, file[k].len)) {
			fprintf(stderr, "fuzz-readers: file %u, unchanged, is not taken\n", k);
			return 1;
		}
	for (; end ? time(NULL) < end : i < runs; i++) {
		const struct file *f;
		size_t len;

		/* Each by its own number, so that one that fails can be had again: --seed SEED+i --runs 1. */
		tdm_rng_init(&rng, seed + i, 0);
		f = &file[below(nfiles)];
		len = f->len;
		memcpy(bytes, f->bytes, len);
		for (u32 n = 1 + below(below(4) ? 3 : 20); n; n--)
			change(bytes, &len);
		current = seed + i;
		taken += read_bytes(f->what, bytes, len);
	}
	printf("%" PRIu64 " files, %" PRIu64 " of them taken\n", i, taken);
	return 0;
}
