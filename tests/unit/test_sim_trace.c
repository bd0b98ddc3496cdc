/* SPDX-License-Identifier: MIT */
/* Traces: both forms, plain and packed, whole, cut off at every byte, damaged in every byte, and malformed in every way. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include "runner/t.h"
#include "sim/trace.h"

static char path[40];
static int fd = -1;

static void begin(void)
{
	fd = memfd_create("trace", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK(fd >= 0);
}

static void end(void)
{
	close(fd);
	fd = -1;
}

static void put(const void *bytes, size_t len)
{
	CHECK_EQ(ftruncate(fd, 0), 0);
	CHECK_EQ(pwrite(fd, bytes, len, 0), len);
}

struct sum {
	u64 n[4], hash;
};

/* All of it. What the last call said; err. */
static int read_all(struct sum *s, char *err)
{
	struct tdm_access_record r;
	struct tdm_trace *t;
	int got = tdmi_trace_open(&t, path, err);

	memset(s, 0, sizeof(*s));
	if (got)
		return got;
	while ((got = tdmi_trace_next(t, &r, err)) > 0) {
		s->n[r.kind]++;
		s->hash = (s->hash ^ r.va ^ (u64)r.size << 50 ^ (u64)r.kind << 62) * 0x9e3779b97f4a7c15u;
	}
	if (got < 0) {
		/* It stays that way. */
		char again[TDM_SIM_ERR];

		CHECK_EQ(tdmi_trace_next(t, &r, again), got);
		CHECK_STR(again, err);
	}
	tdmi_trace_close(t);
	return got;
}

static size_t gzip(const char *text, size_t len, void *out, size_t max)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)text, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)max };

	CHECK_EQ(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	CHECK_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return max - z.avail_out;
}

static size_t zstd(const char *text, size_t len, void *out, size_t max)
{
	ZSTD_CCtx *c = ZSTD_createCCtx();
	size_t n;

	ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
	n = ZSTD_compress2(c, out, max, text, len);
	CHECK(!ZSTD_isError(n));
	ZSTD_freeCCtx(c);
	return n;
}

static size_t plain(const char *text, size_t len, void *out, size_t max)
{
	CHECK(len <= max);
	memcpy(out, text, len);
	return len;
}

static size_t (*const pack[])(const char *, size_t, void *, size_t) = { plain, gzip, zstd };

static size_t load(const char *name, char *out, size_t max)
{
	FILE *f = fopen(name, "re");
	size_t n;

	CHECK(f != NULL);
	n = fread(out, 1, max, f);
	fclose(f);
	return n;
}

/* What a real valgrind wrote. */
TEST(lackey)
{
	static char text[8192], packed[9000];
	size_t len = load(TDM_DATA "/lackey.txt", text, sizeof(text));
	struct sum first = { 0 };

	begin();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(pack); i++) {
		char err[TDM_SIM_ERR] = "";
		struct sum s;

		put(packed, pack[i](text, len, packed, sizeof(packed)));
		if (read_all(&s, err))
			t_fail(__FILE__, __LINE__, "%s", err);
		CHECK_EQ(s.n[TDM_TRACE_FETCH], 14);
		CHECK_EQ(s.n[TDM_TRACE_READ], 3);
		CHECK_EQ(s.n[TDM_TRACE_WRITE], 3);
		CHECK_EQ(s.n[TDM_TRACE_MODIFY], 3);
		if (!i)
			first = s;
		CHECK_EQ(s.hash, first.hash);
	}
	end();
}

TEST(records)
{
	static const struct {
		const char *line;
		u64 va;
		u32 size;
		enum tdm_trace_kind kind;
	} good[] = {
		{ "I  04001090,3\n", 0x4001090, 3, TDM_TRACE_FETCH },
		{ " L 1ffefffe7c,4\n", 0x1ffefffe7c, 4, TDM_TRACE_READ },
		{ " S FFFFFFFFfffff000,1048576\r\n", 0, 0, 0 }, /* beyond the end: below */
		{ " M 0,1048576\r\n", 0, 1048576, TDM_TRACE_MODIFY },
		{ " S 12,8\n", 0x12, 8, TDM_TRACE_WRITE },
		{ "R 7f12\n", 0x7f12, 8, TDM_TRACE_READ },
		{ "W\t 0x7f12\r\n", 0x7f12, 8, TDM_TRACE_WRITE },
		{ "# mine\n\nW ffffffffffffff00\n", 0xffffffffffffff00, 8, TDM_TRACE_WRITE },
	};
	struct tdm_access_record r;
	char err[TDM_SIM_ERR];
	struct tdm_trace *t;

	begin();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(good); i++) {
		put(good[i].line, strlen(good[i].line));
		CHECK_EQ(tdmi_trace_open(&t, path, err), 0);
		if (!good[i].size) {
			CHECK_EQ(tdmi_trace_next(t, &r, err), -EINVAL);
			CHECK(strstr(err, ":1: the access goes beyond the end of the address space"));
		} else {
			CHECK_EQ(tdmi_trace_next(t, &r, err), 1);
			CHECK_EQ(r.va, good[i].va);
			CHECK_EQ(r.size, good[i].size);
			CHECK_EQ(r.kind, good[i].kind);
			CHECK_EQ(tdmi_trace_next(t, &r, err), 0);
			CHECK_EQ(tdmi_trace_next(t, &r, err), 0);
		}
		tdmi_trace_close(t);
	}
	end();
}

TEST(malformed_lines)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "", ": there is no access in it" },
		{ "\n# nothing\n", ": there is no access in it" },
		{ "==1== Lackey\n", ": there is no access in it" },
		{ "hello\n", ":1: no trace: expected 'R ADDR' or 'W ADDR', or what valgrind" },
		{ "R 10\nX 10\n", ":2: expected 'R ADDR' or 'W ADDR', hexadecimal, not 'X 10'" },
		{ "R 10\n\n\nR\n", ":4: expected 'R ADDR'" },
		{ "R 10\nR \n", ":2: expected 'R ADDR'" },
		{ "R 10\nR 0x\n", ":2: expected 'R ADDR'" },
		{ "R 10\nR 10 20\n", ":2: expected 'R ADDR'" },
		{ "R 10\nR 10g\n", ":2: expected 'R ADDR'" },
		{ "R 10\nR 12345678901234567\n", ":2: expected 'R ADDR'" },
		{ "R 10\n R 10\n", ":2: expected 'R ADDR'" },
		{ "R 10\n L 10,4\n", ":2: expected 'R ADDR'" },
		{ "R 10\n==1== x\n", ":2: expected 'R ADDR'" },
		{ "R fffffffffffffffc\n", ":1: the access goes beyond the end of the address space" },
		{ " L 10,4\nR 10\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\nhello\n", ":2: expected 'I  ADDR,SIZE', ' L ADDR,SIZE', ' S ADDR,SIZE', ' M ADDR,SIZE' or a line of valgrind's, not 'hello'; --log-file" },
		{ " L 10,4\n# c\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L 10,0\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L 10,1048577\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L 10,99999999999999999999999\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L 10,\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L ,4\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L 10 4\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L 10,4 \n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\nL  10,4\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n I 10,4\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\nIx 10,4\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L10,4\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n L\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n==x== L\n", ":2: expected 'I  ADDR,SIZE'" },
		{ " L 10,4\n\033[31m\n", ":2: expected 'I  ADDR,SIZE', ' L ADDR,SIZE', ' S ADDR,SIZE', ' M ADDR,SIZE' or a line of valgrind's, not '?[31m'" },
		{ "R 10\nR 10", ":2: ends in the middle of a line; expected a newline" },
		{ "R 10", ":1: ends in the middle of a line" },
		{ "R 10\n#", ":2: ends in the middle of a line" },
		{ "==1== half", ":1: ends in the middle of a line" },
	};
	char err[TDM_SIM_ERR];
	struct sum s;

	begin();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++) {
		put(bad[i].text, strlen(bad[i].text));
		if (read_all(&s, err) != -EINVAL || strncmp(err, path, strlen(path)) ||
		    strncmp(err + strlen(path), bad[i].says, strlen(bad[i].says)))
			t_fail(__FILE__, __LINE__, "%u: '%s' does not say '%s'", i, err, bad[i].says);
	}
	/* NULs, in front, within and behind. */
	put("\0R 10\n", 6);
	CHECK_EQ(read_all(&s, err), -EINVAL);
	CHECK(strstr(err, ":1: no trace: ") && strstr(err, "not '?R 10'"));
	put("R 10\nR\00010\n", 10);
	CHECK_EQ(read_all(&s, err), -EINVAL);
	put("R 10\0\n", 6);
	CHECK_EQ(read_all(&s, err), -EINVAL);
	put(" L 10,4\n L 10,4\0\n", 17);
	CHECK_EQ(read_all(&s, err), -EINVAL);
	end();
}

TEST(files_that_cannot_be_opened)
{
	char err[TDM_SIM_ERR];
	struct tdm_trace *t;

	CHECK_EQ(tdmi_trace_open(&t, "/nowhere/x", err), -ENOENT);
	CHECK_STR(err, "/nowhere/x: cannot be opened: No such file or directory");
	CHECK_EQ(tdmi_trace_open(&t, "/tmp", err), -EISDIR);
	CHECK_STR(err, "/tmp: is a directory; expected a trace");
}

/* Cut off anywhere it is an error, but for plain text between two lines: that cannot be seen. */
TEST(cut_off_at_every_byte, .seconds = 60)
{
	static char text[8192], packed[20000];
	size_t len = load(TDM_DATA "/lackey.txt", text, sizeof(text));

	begin();
	for (u32 i = 0; i < TDM_ARRAY_SIZE(pack); i++) {
		size_t n = pack[i](text, len, packed, sizeof(packed));
		u64 whole = 0;

		for (size_t cut = 0; cut < n; cut++) {
			char err[TDM_SIM_ERR] = "";
			struct sum s;
			int r;

			put(packed, cut);
			r = read_all(&s, err);
			whole += !r;
			if (!r ? i > 0 || packed[cut - 1] != '\n' : !*err || !strstr(err, path))
				t_fail(__FILE__, __LINE__, "form %u cut at %zu of %zu: %d, '%s'", i, cut, n, r, err);
		}
		CHECK(i ? !whole : whole > 10);
	}
	end();
}

/* Packed streams have checksums: no byte can change without that being an error, or without changing anything that is read. */
TEST(damaged_in_every_byte, .seconds = 60)
{
	static char text[8192], packed[20000];
	size_t len = load(TDM_DATA "/lackey.txt", text, sizeof(text));
	char err[TDM_SIM_ERR];

	begin();
	for (u32 i = 1; i < TDM_ARRAY_SIZE(pack); i++) {
		size_t n = pack[i](text, len, packed, sizeof(packed));
		u64 errors = 0;
		struct sum want, s;

		put(packed, n);
		CHECK_EQ(read_all(&want, err), 0);
		for (size_t at = 0; at < n; at++) {
			int r;

			packed[at] ^= 0x10;
			put(packed, n);
			r = read_all(&s, err);
			errors += r < 0;
			if (!r && memcmp(&s, &want, sizeof(s)))
				t_fail(__FILE__, __LINE__, "form %u, byte %zu: read as something else", i, at);
			packed[at] ^= 0x10;
		}
		CHECK(errors > n - 12);
	}
	end();
}

/* Several members, or frames, are one stream; what is no stream behind them is an error. */
TEST(streams_one_after_the_other)
{
	static char packed[4096];
	char err[TDM_SIM_ERR];
	struct sum s;

	begin();
	for (u32 i = 1; i < TDM_ARRAY_SIZE(pack); i++) {
		size_t n = pack[i]("R 10\nW ", 7, packed, sizeof(packed)), all;

		all = n + pack[i]("20\n", 3, packed + n, sizeof(packed) - n);
		put(packed, all);
		CHECK_EQ(read_all(&s, err), 0);
		CHECK_EQ(s.n[TDM_TRACE_READ] + s.n[TDM_TRACE_WRITE], 2);
		put(packed, n);
		CHECK_EQ(read_all(&s, err), -EINVAL);
		CHECK(strstr(err, ":2: ends in the middle of a line"));
		memcpy(packed + all, "garbage", 8);
		put(packed, all + 8);
		CHECK_EQ(read_all(&s, err), -EINVAL);
		CHECK(strstr(err, "stream is damaged") || strstr(err, "stream is cut off"));
	}
	end();
}

/* Lines of 100 MB: one that is passed over, and one that is a mistake. In constant memory, packed or not. */
TEST(endless_lines, .seconds = 60)
{
	enum { CHUNK = 1 << 20 };
	u32 chunks = t_slow() ? 10 : 100;
	static char chunk[CHUNK];
	char err[TDM_SIM_ERR];
	struct rusage before, after;
	struct sum s;

	begin();
	getrusage(RUSAGE_SELF, &before);
	for (u32 i = 0; i < 3; i++) {
		static const char *const head[] = { "R 10\n#", "==1== ", " L 10,4\n L 10,4" };
		off_t at = (off_t)strlen(head[i]);

		put(head[i], strlen(head[i]));
		memset(chunk, i == 2 ? '0' : 'x', CHUNK);
		for (u32 k = 0; k < chunks; k++, at += CHUNK)
			CHECK_EQ(pwrite(fd, chunk, CHUNK, at), CHUNK);
		if (i < 2) {
			/* Without an end, and then with one. */
			CHECK_EQ(read_all(&s, err), -EINVAL);
			CHECK(strstr(err, i ? ":1: ends in the middle of a line" : ":2: ends in the middle of a line"));
		}
		CHECK_EQ(pwrite(fd, i ? "\n L 20,4\n" : "\nR 20\n", i ? 9 : 6, at), i ? 9 : 6);
		CHECK_EQ(read_all(&s, err), i < 2 ? 0 : -EINVAL);
		CHECK_EQ(s.n[TDM_TRACE_READ], i == 0 ? 2 : 1);
		CHECK(i < 2 || strstr(err, ":2: expected 'I  ADDR,SIZE'"));
	}
	getrusage(RUSAGE_SELF, &after);
	CHECK(t_slow() || after.ru_maxrss - before.ru_maxrss < 4096); /* KiB */
	end();
}

/* 200 MB of packed zeros in a few hundred kB. */
TEST(a_bomb, .seconds = 60)
{
	static u8 packed[1 << 20];
	size_t size = (size_t)200 << 20, n;
	char err[TDM_SIM_ERR], *zeros = calloc(1, size);
	struct sum s;

	begin();
	n = gzip(zeros, size, packed, sizeof(packed));
	free(zeros);
	put(packed, n);
	CHECK_EQ(read_all(&s, err), -EINVAL);
	CHECK(strstr(err, ":1: no trace"));
	end();
}

/* Lines that lie across the borders of all buffers, of lengths around them. */
TEST(lines_across_buffers)
{
	static char text[300000];
	char err[TDM_SIM_ERR];
	struct sum s;

	begin();
	for (u32 pad = 65530; pad < 65545; pad++) {
		size_t n = 0;

		memcpy(text, "==1==", 6);
		memset(text + 5, 'x', pad);
		n = 5 + pad;
		text[n++] = '\n';
		for (u32 i = 0; i < 10000; i++)
			n += (size_t)sprintf(text + n, " L %x,4\n", i);
		put(text, n);
		CHECK_EQ(read_all(&s, err), 0);
		CHECK_EQ(s.n[TDM_TRACE_READ], 10000);
	}
	end();
}

TEST(addresses_get_places)
{
	struct tdm_trace_map m;
	u64 off;

	CHECK_EQ(tdmi_trace_map_init(&m, TDM_HUGE_SIZE * 1000 + 1), 0);
	for (u32 lap = 0; lap < 2; lap++)
		for (u64 i = 0; i <= 1000; i++) {
			CHECK_EQ(tdmi_trace_map(&m, ((i * 7919) << 30) + i, &off), 0);
			CHECK_EQ(off, i * TDM_HUGE_SIZE + i);
		}
	CHECK_EQ(tdmi_trace_map(&m, 1000ull * 7919 << 31, &off), -ENOSPC);
	CHECK_EQ(tdmi_trace_map(&m, 7919ull << 30, &off), 0);
	CHECK_EQ(off, TDM_HUGE_SIZE);
	CHECK_EQ(tdmi_trace_map(&m, ~(u64)0, &off), -ENOSPC);
	tdmi_trace_map_destroy(&m);
}
