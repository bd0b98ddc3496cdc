/* SPDX-License-Identifier: MIT */
/* api.c - the public functions of <tandem/tandem.h>: check the arguments, ask the main thread. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/fmt.h"
#include "run/api.h"
#include "run/live.h"

#define RAM_MIN ((u64)8 << 20)

struct tdm {
	struct tdm_live *live;
};

/* One call at a time: they would wait for each other in the engine, and none may be in there when it goes. The program's threads only. */
static struct plat_mutex lock;
static struct tdm the_one; /* live: NULL when there is no engine; the lock */
static bool atfork_done;   /* the lock */

static void fork_prepare(void)
{
	plat_mutex_lock(&lock);
	tdmi_live_fork_prepare();
}

static void fork_parent(void)
{
	tdmi_live_fork_parent();
	plat_mutex_unlock(&lock);
}

static void fork_child(void)
{
	tdmi_live_fork_child();
	plat_mutex_reset(&lock);
}

const char *tdm_version(void)
{
	return TDM_VERSION;
}

static int check_options(const struct tdm_options *o, char *err, size_t errlen)
{
	if (!o || o->size != sizeof(*o)) {
		tdmi_fmt(err, errlen, "options->size must be sizeof(struct tdm_options)");
		return -EINVAL;
	}
	if (o->ram_bytes && o->ram_bytes < RAM_MIN) {
		tdmi_fmt(err, errlen, "a budget must be at least 8M");
		return -EINVAL;
	}
	if (o->ntiers > TDM_CONTROL_TIERS || (o->ntiers && !o->tiers)) {
		tdmi_fmt(err, errlen, "at most %u tiers", TDM_CONTROL_TIERS);
		return -EINVAL;
	}
	for (u32 i = 0; i < o->ntiers; i++)
		if (!o->tiers[i] || strlen(o->tiers[i]) >= sizeof(((struct tdm_live *)0)->tier[0])) {
			tdmi_fmt(err, errlen, "tier %u has no name, or one that is too long", i + 1);
			return -EINVAL;
		}
	if (o->flags & ~TDM_F_STRICT) {
		tdmi_fmt(err, errlen, "unknown flags");
		return -EINVAL;
	}
	return 0;
}

static int start_locked(const struct tdm_options *o, char *line, size_t len)
{
	const char *dir = getenv("TMPDIR"), *default_tiers[2] = { "lz4", NULL };
	struct tdm_live_config c = { .eager = true };
	char file_tier[sizeof(((struct tdm_live *)0)->tier[0])];
	int r;

	if (the_one.live) {
		tdmi_fmt(line, len, "there is an engine in this process already");
		return -EBUSY;
	}
	if (tandem_run_manages && tandem_run_manages()) {
		tdmi_fmt(line, len, "this process runs under `tandem run`, which manages its memory");
		return -EBUSY;
	}
	dir = dir && *dir && strlen(dir) + sizeof("file:") <= sizeof(file_tier) ? dir : "/var/tmp";
	tdmi_fmt(file_tier, sizeof(file_tier), "file:%s", dir);
	default_tiers[1] = file_tier;
	c.budget = o->ram_bytes;
	c.strict = o->flags & TDM_F_STRICT;
	c.ntiers = o->ntiers ? o->ntiers : 2;
	c.tier = o->ntiers ? o->tiers : default_tiers;
	tdmi_tiers_init(getenv("TMPDIR"));
	r = tdmi_live_start(&c, line, len);
	the_one.live = r ? NULL : tdmi_live;
	return r;
}

int tdm_start(const struct tdm_options *o, struct tdm **out, char *err, size_t errlen)
{
	char line[240] = "";
	int r = check_options(o, line, sizeof(line));

	if (!r && !out) {
		tdmi_fmt(line, sizeof(line), "there is no place for the engine's handle");
		r = -EINVAL;
	}
	if (!r) {
		plat_mutex_lock(&lock);
		if (!atfork_done)
			pthread_atfork(fork_prepare, fork_parent, fork_child);
		atfork_done = true;
		r = start_locked(o, line, sizeof(line));
		plat_mutex_unlock(&lock);
	}
	if (!r)
		*out = &the_one;
	else if (err && errlen)
		tdmi_fmt(err, errlen, "%s", line);
	return r;
}

void tdmi_api_lock(void)
{
	plat_mutex_lock(&lock);
}

struct tdm_live *tdmi_api_begin(const struct tdm *t)
{
	struct tdm_live *l;

	if (t != &the_one)
		return NULL;
	plat_mutex_lock(&lock);
	l = the_one.live;
	if (!l)
		plat_mutex_unlock(&lock);
	return l;
}

int tdmi_api_end(int r)
{
	plat_mutex_unlock(&lock);
	return r;
}

int tdm_stop(struct tdm *t)
{
	struct tdm_live *l = tdmi_api_begin(t);
	int r;

	if (!l)
		return -EINVAL;
	r = tdmi_live_stop(l, NULL, 0);
	if (!r) {
		the_one.live = NULL;
		tdmi_api_devices_gone();
	}
	return tdmi_api_end(r);
}

int tdm_stats_get(struct tdm *t, struct tdm_stats *stats)
{
	struct tdm_live *l = stats && stats->size == sizeof(*stats) ? tdmi_api_begin(t) : NULL;
	struct tdm_stats s;

	if (!l)
		return -EINVAL;
	plat_mutex_lock(&l->req_lock);
	(void)tdmi_live_request_locked(l, TDM_OP_STATS, 0, 0, NULL);
	s = l->req.stats;
	plat_mutex_unlock(&l->req_lock);
	(void)tdmi_api_end(0);
	*stats = s;
	return 0;
}

int tdm_budget_set(struct tdm *t, uint64_t ram_bytes)
{
	struct tdm_live *l = !ram_bytes || ram_bytes >= RAM_MIN ? tdmi_api_begin(t) : NULL;

	return l ? tdmi_api_end(tdmi_live_request(l, TDM_OP_BUDGET, ram_bytes, 0, NULL)) : -EINVAL;
}

static int range_op(struct tdm *t, enum tdm_live_op op, const void *addr, size_t len, size_t *pages)
{
	u64 start = (u64)(uintptr_t)addr, n = 0;
	struct tdm_live *l = !len || (start | len) % TDM_PAGE_SIZE || start + len < start ? NULL : tdmi_api_begin(t);
	int r;

	if (!l)
		return -EINVAL;
	r = tdmi_live_request(l, op, start, start + len, &n);
	(void)tdmi_api_end(r);
	if (pages)
		*pages = n;
	return r;
}

int tdm_pageout(struct tdm *t, void *addr, size_t len, size_t *pages)
{
	return range_op(t, TDM_OP_OUT, addr, len, pages);
}

int tdm_take_home(struct tdm *t, void *addr, size_t len, size_t *pages)
{
	return range_op(t, TDM_OP_HOME, addr, len, pages);
}

int tdm_pagein(struct tdm *t, void *addr, size_t len)
{
	return range_op(t, TDM_OP_IN, addr, len, NULL);
}

int tdm_exclude(struct tdm *t, void *addr, size_t len)
{
	return range_op(t, TDM_OP_EXCLUDE, addr, len, NULL);
}
