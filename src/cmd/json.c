/* SPDX-License-Identifier: MIT */
/* json.c - a run as JSON: tandem run --stats FILE, tandem stat --json. */
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cmd/cmd.h"

static json_t *num(u64 x)
{
	return json_integer((json_int_t)x);
}

static json_t *pick(const u64 *stat, const char *const *names, const u8 *which, size_t n)
{
	json_t *o = json_object();

	for (size_t i = 0; i < n; i++)
		json_object_set_new(o, names[i], num(stat[which[i]]));
	return o;
}

static json_t *faults(const u64 *stat)
{
	static const char *const names[] = { "soft", "hard", "zero", "other" };
	static const u8 which[] = { TDM_STAT_SOFT_FAULTS, TDM_STAT_HARD_FAULTS, TDM_STAT_ZERO_FAULTS, TDM_STAT_OTHER_FAULTS };

	return pick(stat, names, which, TDM_ARRAY_SIZE(which));
}

static json_t *pages(const u64 *stat)
{
	static const char *const names[] = { "soft", "hard", "zero", "home", "evicted", "same_filled", "incompressible", "unchanged" };
	static const u8 which[] = { TDM_STAT_SOFT_PAGES,    TDM_STAT_HARD_PAGES,  TDM_STAT_ZERO_PAGES,    TDM_STAT_HOME_PAGES,
				    TDM_STAT_EVICTED_PAGES, TDM_STAT_SAME_FILLED, TDM_STAT_INCOMPRESSIBLE, TDM_STAT_UNCHANGED };

	return pick(stat, names, which, TDM_ARRAY_SIZE(which));
}

static json_t *now(const u64 *gauge)
{
	static const char *const names[] = { "usage", "limit", "managed", "home", "out", "packed", "pool", "disk", "overhead", "pinned" };
	static const u8 which[] = { TDM_GAUGE_USAGE,  TDM_GAUGE_LIMIT, TDM_GAUGE_MANAGED, TDM_GAUGE_HOME,     TDM_GAUGE_OUT,
				    TDM_GAUGE_PACKED, TDM_GAUGE_POOL,  TDM_GAUGE_DISK,    TDM_GAUGE_OVERHEAD, TDM_GAUGE_PINNED };

	return pick(gauge, names, which, TDM_ARRAY_SIZE(which));
}

/* Microseconds; the buckets are powers of two of nanoseconds, what lies between is interpolated. */
static json_t *latency(const u64 *bucket)
{
	static const struct {
		const char *name;
		u64 num, den;
	} p[] = { { "p50_us", 1, 2 }, { "p90_us", 9, 10 }, { "p99_us", 99, 100 }, { "p999_us", 999, 1000 }, { "max_us", 1, 1 } };
	json_t *o = json_object(), *list = json_array();

	for (size_t i = 0; i < TDM_ARRAY_SIZE(p); i++)
		json_object_set_new(o, p[i].name, json_real((double)tdmi_latency_ns(bucket, p[i].num, p[i].den) / 1000));
	for (u32 i = 0; i < 32; i++) {
		json_t *b;

		if (!bucket[i])
			continue;
		b = json_object();
		json_object_set_new(b, "below_ns", num((u64)1 << (i + 8)));
		json_object_set_new(b, "faults", num(bucket[i]));
		json_array_append_new(list, b);
	}
	json_object_set_new(o, "buckets", list);
	return o;
}

static json_t *tiers(const struct tdm_control *c, const struct tdm_control_totals *t)
{
	json_t *list = json_array();

	for (u32 i = 0; i < c->ntiers; i++) {
		json_t *o = json_object();

		json_object_set_new(o, "spec", json_stringn_nocheck(c->tier[i], strnlen(c->tier[i], sizeof(c->tier[i]))));
		json_object_set_new(o, "bytes_out", num(t->tier_out[i]));
		json_object_set_new(o, "bytes_in", num(t->tier_in[i]));
		json_object_set_new(o, "bytes_now", num(t->tier_now[i]));
		json_array_append_new(list, o);
	}
	return list;
}

/* Arguments and names are bytes, JSON is UTF-8: what is not becomes '?'. */
static json_t *text(const char *s)
{
	json_t *j = json_string(s);
	char *copy, *p;

	if (j || !(copy = strdup(s)))
		return j;
	for (p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	j = json_string(copy);
	free(copy);
	return j;
}

static json_t *processes(const struct run *r)
{
	json_t *list = json_array();

	for (u32 i = 0; i < r->nseen; i++) {
		const struct seen *s = &r->seen[i];
		json_t *o = json_object();

		json_object_set_new(o, "pid", num(s->pid));
		json_object_set_new(o, "program", text(s->comm));
		json_object_set_new(o, "managed", json_boolean(s->managed));
		json_object_set_new(o, "now", now(s->gauge));
		json_array_append_new(list, o);
	}
	return list;
}

static void put_outcome(json_t *o, const struct run *r)
{
	json_t *argv = json_array();

	for (char **a = r->argv; a && *a; a++)
		json_array_append_new(argv, text(*a));
	json_object_set_new(o, "version", json_string(TDM_VERSION));
	json_object_set_new(o, "command", r->argv ? argv : json_null());
	if (!r->argv)
		json_decref(argv);
	json_object_set_new(o, "exit", r->ended ? num((u64)tdmi_report_exit(r)) : json_null());
	json_object_set_new(o, "signal", r->ended && WIFSIGNALED(r->status) ? num((u64)WTERMSIG(r->status)) : json_null());
	json_object_set_new(o, "wall_seconds", r->seconds > 0 ? json_real(r->seconds) : json_null());
}

static json_t *build(const struct run *r)
{
	const struct tdm_control *c = r->c;
	struct tdm_control_totals t;
	json_t *o = json_object();
	u64 packed;

	tdmi_control_totals(c, &t);
	packed = t.stat[TDM_STAT_PACKED_BYTES_TOTAL];
	put_outcome(o, r);
	json_object_set_new(o, "budget", num(c->budget));
	json_object_set_new(o, "peak", num(tdm_a64_ld_relaxed(&c->peak)));
	if (r->peak_pss)
		json_object_set_new(o, "peak_pss", num(r->peak_pss));
	json_object_set_new(o, "tiers", tiers(c, &t));
	json_object_set_new(o, "faults", faults(t.stat));
	json_object_set_new(o, "pages", pages(t.stat));
	json_object_set_new(o, "latency", latency(&t.stat[TDM_STAT_LATENCY0]));
	json_object_set_new(o, "bytes_out", num(t.stat[TDM_STAT_OUT_BYTES_TOTAL]));
	json_object_set_new(o, "bytes_packed", num(packed));
	json_object_set_new(o, "bytes_in", num(t.stat[TDM_STAT_IN_BYTES_TOTAL]));
	json_object_set_new(o, "ratio", packed ? json_real((double)t.stat[TDM_STAT_OUT_BYTES_TOTAL] / (double)packed) : json_null());
	json_object_set_new(o, "demoted_blobs", num(t.stat[TDM_STAT_DEMOTED_BLOBS]));
	json_object_set_new(o, "refaults", num(t.stat[TDM_STAT_REFAULTS]));
	json_object_set_new(o, "direct_reclaims", num(t.stat[TDM_STAT_DIRECT_RECLAIMS]));
	json_object_set_new(o, "stalls", num(t.stat[TDM_STAT_STALLS]));
	json_object_set_new(o, "seconds_waiting", json_real((double)t.stat[TDM_STAT_STALL_NS] / 1e9));
	json_object_set_new(o, "seconds_serving", json_real((double)t.stat[TDM_STAT_FAULT_NS] / 1e9));
	json_object_set_new(o, "over_budget", num(t.stat[TDM_STAT_OVER_BUDGET]));
	json_object_set_new(o, "lost", num(t.stat[TDM_STAT_LOST]));
	json_object_set_new(o, "poisoned", num(t.stat[TDM_STAT_POISONED]));
	json_object_set_new(o, "late_drops", num(t.stat[TDM_STAT_LATE_DROPS]));
	json_object_set_new(o, "forks", num(t.stat[TDM_STAT_FORKS]));
	json_object_set_new(o, "processes", num(tdm_a64_ld_relaxed(&c->procs)));
	json_object_set_new(o, "unmanaged", num(tdm_a64_ld_relaxed(&c->unmanaged)));
	json_object_set_new(o, "now", now(t.gauge));
	json_object_set_new(o, "seen", processes(r));
	return o;
}

int tdmi_json_print(const struct run *r, FILE *f)
{
	json_t *o = build(r);
	int e = json_dumpf(o, f, JSON_INDENT(2) | JSON_REAL_PRECISION(9));

	json_decref(o);
	if (e || putc('\n', f) == EOF || fflush(f))
		return -EIO;
	return 0;
}

/* ---- the file ------------------------------------------------------------------------------------------------------------ */

/* A pipe or a terminal is written as it is; only a regular file can be replaced in one step. */
static bool replaceable(const char *path)
{
	struct stat st;

	return stat(path, &st) || S_ISREG(st.st_mode);
}

/* A file beside the one that is to be replaced (beside its target, if it is a link). */
static FILE *open_beside(const char *path, char temp[PATH_MAX + 16], char real[PATH_MAX])
{
	mode_t mask = umask(0);
	FILE *f = NULL;
	int fd;

	umask(mask);
	if (!realpath(path, real))
		snprintf(real, PATH_MAX, "%s", path);
	snprintf(temp, PATH_MAX + 16, "%s.XXXXXX", real);
	fd = mkostemp(temp, O_CLOEXEC);
	if (fd >= 0 && (fchmod(fd, 0666 & ~mask) || !(f = fdopen(fd, "w")))) {
		unlink(temp);
		close(fd);
	}
	return f;
}

int tdmi_json_check(const char *path, char *err)
{
	char temp[PATH_MAX + 16], real[PATH_MAX];
	struct stat st;
	FILE *f;

	if (!*path || strlen(path) >= PATH_MAX)
		return tdmi_fail(err, -ENOENT, "--stats: '%s' is not the name of a file", path);
	if (!stat(path, &st) && S_ISDIR(st.st_mode))
		return tdmi_fail(err, -EISDIR, "--stats: %s is a directory", path);
	if (!replaceable(path)) {
		if (!access(path, W_OK))
			return 0;
	} else {
		f = open_beside(path, temp, real);
		if (f) {
			fclose(f);
			unlink(temp);
			return 0;
		}
	}
	return tdmi_fail(err, -errno, "--stats: %s cannot be written: %s", path, strerror(errno));
}

int tdmi_json_write(const struct run *r, const char *path, char *err)
{
	char temp[PATH_MAX + 16], real[PATH_MAX];
	bool replace = replaceable(path);
	FILE *f = replace ? open_beside(path, temp, real) : fopen(path, "we");
	int e = f ? tdmi_json_print(r, f) : -errno;

	if (f && fclose(f) && !e)
		e = -errno;
	if (f && replace) {
		if (!e && rename(temp, real))
			e = -errno;
		if (e)
			unlink(temp);
	}
	return e ? tdmi_fail(err, e, "--stats: %s was not written: %s", path, strerror(-e)) : 0;
}
