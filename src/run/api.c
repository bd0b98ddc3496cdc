/* SPDX-License-Identifier: MIT */
/* api.c - the public functions of <tandem/tandem.h>: check the arguments, ask the main thread. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/fmt.h"
#include "run/live.h"

#define RAM_MIN ((u64)8 << 20)

struct tdm {
	struct tdm_live *live;
};

static struct tdm the_one;
static tdm_a32 taken;      /* 1: the_one is in use */
static bool atfork_done;   /* written by the first tdm_start() */

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
	if (o->flags & ~TDM_F_STRICT) {
		tdmi_fmt(err, errlen, "unknown flags");
		return -EINVAL;
	}
	return 0;
}

int tdm_start(const struct tdm_options *o, struct tdm **out, char *err, size_t errlen)
{
	const char *dir = getenv("TMPDIR");
	char file_tier[120];
	const char *default_tiers[2] = { "lz4", file_tier };
	struct tdm_live_config c = { .eager = true };
	char line[240] = "";
	u32 expected = 0;
	int r = check_options(o, line, sizeof(line));

	if (!r && (!out || !tdm_a32_cas_acqrel(&taken, &expected, 1))) {
		tdmi_fmt(line, sizeof(line), "there is an engine in this process already");
		r = out ? -EBUSY : -EINVAL;
	}
	if (!r && tdmi_live) {
		tdmi_fmt(line, sizeof(line), "this process runs under `tandem run`, which manages its memory");
		tdm_a32_st_release(&taken, 0);
		r = -EBUSY;
	}
	if (!r) {
		tdmi_fmt(file_tier, sizeof(file_tier), "file:%s", dir && *dir ? dir : "/var/tmp");
		c.budget = o->ram_bytes;
		c.strict = o->flags & TDM_F_STRICT;
		c.ntiers = o->ntiers ? o->ntiers : 2;
		c.tier = o->ntiers ? o->tiers : default_tiers;
		tdmi_tiers_init(getenv("TMPDIR"));
		if (!atfork_done)
			pthread_atfork(tdmi_live_fork_prepare, tdmi_live_fork_parent, tdmi_live_fork_child);
		atfork_done = true;
		r = tdmi_live_start(&c, line, sizeof(line));
		if (r)
			tdm_a32_st_release(&taken, 0);
		the_one.live = tdmi_live;
		*out = &the_one;
	}
	if (r && err && errlen)
		tdmi_fmt(err, errlen, "%s", line);
	return r;
}

static bool valid(const struct tdm *t)
{
	return t == &the_one && tdm_a32_ld_acquire(&taken) && the_one.live;
}

int tdm_stop(struct tdm *t)
{
	int r;

	if (!valid(t))
		return -EINVAL;
	r = tdmi_live_stop(t->live, NULL, 0);
	if (!r) {
		t->live = NULL;
		tdm_a32_st_release(&taken, 0);
	}
	return r;
}

int tdm_stats_get(struct tdm *t, struct tdm_stats *stats)
{
	struct tdm_live *l = t ? t->live : NULL;

	if (!valid(t) || !stats || stats->size != sizeof(*stats))
		return -EINVAL;
	plat_mutex_lock(&l->req_lock);
	(void)tdmi_live_request_locked(l, TDM_OP_STATS, 0, 0, NULL);
	*stats = l->req.stats;
	plat_mutex_unlock(&l->req_lock);
	return 0;
}

int tdm_budget_set(struct tdm *t, uint64_t ram_bytes)
{
	if (!valid(t) || (ram_bytes && ram_bytes < RAM_MIN))
		return -EINVAL;
	return tdmi_live_request(t->live, TDM_OP_BUDGET, ram_bytes, 0, NULL);
}

static int range_op(struct tdm *t, enum tdm_live_op op, const void *addr, size_t len, size_t *pages)
{
	u64 start = (u64)(uintptr_t)addr, n = 0;
	int r;

	if (!valid(t) || !len || (start | len) % TDM_PAGE_SIZE || start + len < start)
		return -EINVAL;
	r = tdmi_live_request(t->live, op, start, start + len, &n);
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
