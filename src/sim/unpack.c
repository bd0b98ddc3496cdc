/* SPDX-License-Identifier: MIT */
/* unpack.c - the bytes of a file, or what gzip or zstd packed into it. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include "sim/unpack.h"

#define INPUT ((size_t)1 << 16)

enum format { PLAIN, GZIP, ZSTD };

struct tdm_unpack {
	const char *path;
	int fd;
	enum format format;
	bool eof;      /* of the file */
	bool inside;   /* of a member or frame that has not ended */
	size_t pos, len;
	z_stream z;
	ZSTD_DStream *d;
	char in[INPUT];
};

/* More input, if there is none. */
static int fill(struct tdm_unpack *u, char *err)
{
	ssize_t n;

	if (u->pos < u->len || u->eof)
		return 0;
	do {
		n = read(u->fd, u->in, sizeof(u->in));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return tdmi_sim_fail(err, -errno, u->path, 0, "cannot be read: %s", strerror(errno));
	u->pos = 0;
	u->len = (size_t)n;
	u->eof = !n;
	return 0;
}

/* The first four bytes, which a pipe may give one by one. */
static int first_bytes(struct tdm_unpack *u, char *err)
{
	while (u->len < 4 && !u->eof) {
		ssize_t n = read(u->fd, u->in + u->len, sizeof(u->in) - u->len);

		if (n < 0 && errno != EINTR)
			return tdmi_sim_fail(err, -errno, u->path, 0, "cannot be read: %s", strerror(errno));
		u->eof = !n;
		u->len += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static bool is_zstd(const u8 *b)
{
	u32 magic = b[0] | (u32)b[1] << 8 | (u32)b[2] << 16 | (u32)b[3] << 24;

	return magic == 0xfd2fb528u || (magic & 0xfffffff0u) == 0x184d2a50u;
}

static int begin(struct tdm_unpack *u, char *err)
{
	const u8 *b = (const u8 *)u->in;
	int r = first_bytes(u, err);

	if (r)
		return r;
	if (u->len >= 2 && b[0] == 0x1f && b[1] == 0x8b)
		u->format = GZIP;
	else if (u->len >= 4 && is_zstd(b))
		u->format = ZSTD;
	if (u->format == GZIP && inflateInit2(&u->z, 15 + 16) != Z_OK) {
		u->format = PLAIN;
		return tdmi_sim_fail(err, -ENOMEM, u->path, 0, "no memory");
	}
	if (u->format == ZSTD && !(u->d = ZSTD_createDStream()))
		return tdmi_sim_fail(err, -ENOMEM, u->path, 0, "no memory");
	return 0;
}

int tdmi_unpack_open(struct tdm_unpack **out, const char *path, char *err)
{
	struct tdm_unpack *u = calloc(1, sizeof(*u));
	struct stat st;
	int r;

	if (!u)
		return tdmi_sim_fail(err, -ENOMEM, path, 0, "no memory");
	u->path = path;
	u->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (u->fd < 0 || fstat(u->fd, &st))
		r = tdmi_sim_fail(err, -errno, path, 0, "cannot be opened: %s", strerror(errno));
	else if (S_ISDIR(st.st_mode))
		r = tdmi_sim_fail(err, -EISDIR, path, 0, "is a directory; expected a trace");
	else
		r = begin(u, err);
	if (r) {
		tdmi_unpack_close(u);
		return r;
	}
	*out = u;
	return 0;
}

void tdmi_unpack_close(struct tdm_unpack *u)
{
	if (u->format == GZIP)
		inflateEnd(&u->z);
	ZSTD_freeDStream(u->d);
	if (u->fd >= 0)
		close(u->fd);
	free(u);
}

static int damaged(struct tdm_unpack *u, char *err, const char *what)
{
	return tdmi_sim_fail(err, -EINVAL, u->path, 0, "the %s stream is damaged: %s", u->format == GZIP ? "gzip" : "zstd", what ? what : "no reason given");
}

/* One step: takes from the input, gives to buf. */
static int step_gzip(struct tdm_unpack *u, char *buf, size_t len, size_t *n, char *err)
{
	int r;

	if (!u->inside && inflateReset(&u->z) != Z_OK)
		return damaged(u, err, u->z.msg);
	u->inside = true;
	u->z.next_in = (Bytef *)u->in + u->pos;
	u->z.avail_in = (uInt)(u->len - u->pos);
	u->z.next_out = (Bytef *)buf;
	u->z.avail_out = (uInt)TDM_MIN(len, (size_t)1 << 30);
	r = inflate(&u->z, Z_NO_FLUSH);
	u->pos = u->len - u->z.avail_in;
	*n = (size_t)((char *)u->z.next_out - buf);
	if (r == Z_STREAM_END)
		u->inside = false;
	else if (r != Z_OK && r != Z_BUF_ERROR)
		return damaged(u, err, u->z.msg);
	return 0;
}

static int step_zstd(struct tdm_unpack *u, char *buf, size_t len, size_t *n, char *err)
{
	ZSTD_inBuffer in = { u->in, u->len, u->pos };
	ZSTD_outBuffer out = { buf, len, 0 };
	size_t r = ZSTD_decompressStream(u->d, &out, &in);

	u->pos = in.pos;
	*n = out.pos;
	if (ZSTD_isError(r))
		return damaged(u, err, ZSTD_getErrorName(r));
	u->inside = r != 0;
	return 0;
}

static int read_plain(struct tdm_unpack *u, char *buf, size_t len, size_t *n)
{
	*n = TDM_MIN(len, u->len - u->pos);
	memcpy(buf, u->in + u->pos, *n);
	u->pos += *n;
	return 0;
}

int tdmi_unpack_read(struct tdm_unpack *u, char *buf, size_t len, size_t *n, char *err)
{
	int r;

	*n = 0;
	do {
		size_t before;

		r = fill(u, err);
		if (r)
			return r;
		if (u->eof && u->pos == u->len && !u->inside)
			return 0;
		before = u->len - u->pos;
		r = u->format == GZIP ? step_gzip(u, buf, len, n, err) : u->format == ZSTD ? step_zstd(u, buf, len, n, err) : read_plain(u, buf, len, n);
		if (r)
			return r;
		/* Nothing came, nothing is left to come, and it has not ended. */
		if (!*n && !before && u->eof && u->inside)
			return tdmi_sim_fail(err, -EINVAL, u->path, 0, "the %s stream is cut off", u->format == GZIP ? "gzip" : "zstd");
	} while (!*n);
	return 0;
}
