/* SPDX-License-Identifier: MIT */
/* notifier_subs.h - subscribers that write down what they hear, and one that does not come back until it is told to. */
#ifndef TDM_TESTS_NOTIFIER_SUBS_H
#define TDM_TESTS_NOTIFIER_SUBS_H

#include "notifier_world.h"

#define FAR ((u64)1 << 40)

struct device {
	struct tdm_interval_notifier in;
	struct plat_mutex lock; /* the driver's */
	u32 calls;
	u64 last;               /* cur_seq */
	bool would_sleep;
	const void *me;
};

static inline bool device_invalidate(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	struct device *d = tdm_container_of(in, struct device, in);

	if (d->me && tdm_inv_is_own(range, d->me))
		return true;
	if (d->would_sleep && !range->blockable)
		return false;
	plat_mutex_lock(&d->lock);
	tdm_interval_set_seq(in, cur_seq);
	d->calls++;
	d->last = cur_seq;
	plat_mutex_unlock(&d->lock);
	return true;
}

static const struct tdm_interval_notifier_ops device_ops = { .invalidate = device_invalidate };

#define DEVICE(who) { .in = { .name = (who), .ops = &device_ops } }

static inline u64 sub_seq(const struct device *d)
{
	return tdm_a64_ld_relaxed(&d->in.seq);
}

struct hearer {
	struct tdm_notifier n;
	u32 starts, ends, invalidates, youngs, releases;
	u64 from, to;
	bool would_sleep, young;
};

static inline struct hearer *hearer(struct tdm_notifier *n)
{
	return tdm_container_of(n, struct hearer, n);
}

static inline int hear_start(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	if (hearer(n)->would_sleep && !range->blockable)
		return -EAGAIN;
	hearer(n)->starts++;
	hearer(n)->from = range->start;
	hearer(n)->to = range->end;
	return 0;
}

static inline void hear_end(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	(void)range;
	hearer(n)->ends++;
}

static inline void hear_invalidate(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->invalidates++;
	hearer(n)->from = start;
	hearer(n)->to = end;
}

static inline bool hear_young(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->youngs++;
	hearer(n)->from = start;
	hearer(n)->to = end;
	return hearer(n)->young;
}

static inline bool hear_clear_young(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->youngs += 100;
	(void)start;
	(void)end;
	return hearer(n)->young;
}

static inline bool hear_test_young(struct tdm_notifier *n, u64 start, u64 end)
{
	hearer(n)->youngs += 10000;
	(void)start;
	(void)end;
	return hearer(n)->young;
}

static inline void hear_release(struct tdm_notifier *n)
{
	hearer(n)->releases++;
}

static const struct tdm_notifier_ops hear_ops = {
	.invalidate_start = hear_start,
	.invalidate_end = hear_end,
	.invalidate = hear_invalidate,
	.clear_flush_young = hear_young,
	.clear_young = hear_clear_young,
	.test_young = hear_test_young,
	.release = hear_release,
};

#define HEARER(who) { .n = { .name = (who), .ops = &hear_ops } }

/* ---- one that stays in its callback */

static tdm_a32 in_callback, let_go;

static inline int start_stays(struct tdm_notifier *n, const struct tdm_inv_range *range)
{
	(void)n;
	(void)range;
	tdm_a32_st_release(&in_callback, 1);
	until(&let_go, 1);
	return 0;
}

static const struct tdm_notifier_ops stays_ops = { .invalidate_start = start_stays, .release = hear_release };

static inline void one_round(void *arg)
{
	struct tdm_inv_range a = TDM_INV_RANGE(0, PAGE, TDM_INV_CLEAR);

	(void)arg;
	CHECK_EQ(tdmi_invalidate_start(&nots, &a), 0);
	tdmi_invalidate_end(&nots, &a);
}

#endif
