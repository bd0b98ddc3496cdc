/* SPDX-License-Identifier: MIT */
/* tier.c - tiers from what the user wrote. */
#include <string.h>

#include "base/err.h"
#include "base/fmt.h"
#include "pool/codec.h"
#include "pool/tier.h"
#include <sodium.h>

/* $TMPDIR as it was when tiers were first thought of: written by tdmi_tiers_init() alone, on a thread of libc's. */
static char tmpdir[256];

void tdmi_tiers_init(const char *dir)
{
	size_t n = dir ? strlen(dir) : 0;

	if (n && n < sizeof(tmpdir))
		memcpy(tmpdir, dir, n + 1);
	/* A file tier asks again, and fails if it cannot be had. */
	if (sodium_init() < 0)
		tmpdir[0] = 0;
}

#define SIZE_MIN ((u64)1 << 20)

static int bad_size(const char *spec, const char *size, char *err, size_t errlen)
{
	tdmi_fmt(err, errlen, "tier '%s': '%s' is not a size; write a number with K, M, G or T, at least 1M", spec, size);
	return -EINVAL;
}

static int create_mem(const char *spec, u8 codec, const char *size, struct tdm_tier **out, char *err, size_t errlen)
{
	u64 limit = 0;
	int r;

	if (size && (tdmi_parse_size(size, &limit) || limit < SIZE_MIN))
		return bad_size(spec, size, err, errlen);
	r = tdmi_tier_mem_create(codec, limit, out);
	if (r)
		tdmi_fmt(err, errlen, "tier '%s': %s", spec, tdmi_err_text(r));
	return r;
}

/* The first directory that takes a file. */
static int create_somewhere(u64 limit, struct tdm_tier **out)
{
	const char *const dirs[] = { tmpdir, "/var/tmp", "/tmp" };
	int r = -ENOENT;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(dirs) && r; i++)
		if (dirs[i][0] == '/')
			r = tdmi_tier_file_create(dirs[i], limit, out);
	return r;
}

static int create_file(const char *spec, const char *rest, struct tdm_tier **out, char *err, size_t errlen)
{
	const char *colon = rest ? strrchr(rest, ':') : NULL;
	char dir[4096];
	u64 limit = 0;
	size_t n;
	int r;

	/* A directory may have colons; what follows its last one is a size if it looks like one. */
	if (colon && tdmi_parse_size(colon + 1, &limit) == 0) {
		if (limit < SIZE_MIN)
			return bad_size(spec, colon + 1, err, errlen);
	} else if (colon && !strchr(colon, '/')) {
		return bad_size(spec, colon + 1, err, errlen);
	} else {
		colon = NULL;
	}
	n = !rest ? 0 : colon ? (size_t)(colon - rest) : strlen(rest);
	if (n >= sizeof(dir)) {
		tdmi_fmt(err, errlen, "the name of the tier's directory is too long");
		return -EINVAL;
	}
	if (n)
		memcpy(dir, rest, n);
	dir[n] = 0;
	if (!n) {
		r = create_somewhere(limit, out);
		if (r)
			tdmi_fmt(err, errlen, "tier '%s': neither $TMPDIR nor /var/tmp can be written; name a directory: file:DIR", spec);
		return r;
	}
	r = tdmi_tier_file_create(dir, limit, out);
	if (r)
		tdmi_fmt(err, errlen, "tier '%s': no file can be made in %s: %s; name a directory that you may write%s", spec, dir,
			 tdmi_err_text(r), tdmi_parse_size(dir, &limit) ? "" : ", or for a size alone write file::SIZE");
	return r;
}

int tdmi_tier_create(const char *spec, struct tdm_tier **out, char *err, size_t errlen)
{
	const char *colon = strchr(spec, ':'), *rest = colon ? colon + 1 : NULL;
	size_t n = colon ? (size_t)(colon - spec) : strlen(spec);
	int r;

	if (n == 3 && !memcmp(spec, "lz4", n))
		r = create_mem(spec, TDM_CODEC_LZ4, rest, out, err, errlen);
	else if (n == 4 && !memcmp(spec, "zstd", n))
		r = create_mem(spec, TDM_CODEC_ZSTD, rest, out, err, errlen);
	else if (n == 4 && !memcmp(spec, "file", n))
		r = create_file(spec, rest, out, err, errlen);
	else {
		tdmi_fmt(err, errlen, "tier '%s' is not known; there are lz4[:SIZE], zstd[:SIZE] and file[:DIR[:SIZE]]", spec);
		return -EINVAL;
	}
	if (!r)
		tdmi_fmt((*out)->spec, sizeof((*out)->spec), "%s", spec);
	return r;
}
