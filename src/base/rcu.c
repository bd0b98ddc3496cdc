// SPDX-License-Identifier: MIT
#include "base/rcu.h"
#include "base/check.h"
#include "base/lockrank.h"

/* Sections last microseconds: poll a few times before sleeping, and sleep no longer than a fault takes. */
#define SPINS 100u
#define YIELDS 100u
#define SLEEP_NS 100000u

static void batch_init(struct tdm_rcu_batch *b)
{
	b->first = NULL;
	b->last = &b->first;
}

static void batch_move(struct tdm_rcu_batch *to, struct tdm_rcu_batch *from)
{
	batch_init(to);
	if (from->first) {
		to->first = from->first;
		to->last = from->last;
		batch_init(from);
	}
}

void tdmi_rcu_init(struct tdm_rcu *rcu)
{
	for (u32 i = 0; i < TDM_RCU_READERS; i++) {
		struct tdm_rcu_reader *r = &rcu->reader[i];

		tdm_a64_st_relaxed(&r->epoch, 0);
		tdm_a32_st_relaxed(&r->used, 0);
		r->nesting = 0;
		r->rcu = rcu;
	}
	tdm_a64_st_relaxed(&rcu->gp, 1);
	tdm_a32_st_relaxed(&rcu->high, 0);
	tdm_a32_st_relaxed(&rcu->pending, 0);
	plat_mutex_init(&rcu->lock, TDM_RANK_RCU);
	batch_init(&rcu->next);
	batch_init(&rcu->wait);
	rcu->target = 0;
}

/* high has grown before the reader's first section: whoever does not see that, see all_passed(), precedes the section. */
struct tdm_rcu_reader *tdmi_rcu_register(struct tdm_rcu *rcu)
{
	for (u32 i = 0; i < TDM_RCU_READERS; i++) {
		u32 unused = 0, high;

		if (!tdm_a32_cas_acqrel(&rcu->reader[i].used, &unused, 1))
			continue;
		high = tdm_a32_ld_acquire(&rcu->high);
		while (high < i + 1 && !tdm_a32_cas_acqrel(&rcu->high, &high, i + 1))
			;
		return &rcu->reader[i];
	}
	return NULL;
}

void tdmi_rcu_unregister(struct tdm_rcu_reader *r)
{
	TDM_BUG_ON(r->nesting != 0);
	tdm_a32_st_release(&r->used, 0);
}

/* Draw a number: readers that see it, or a later one, have seen all that the caller did before. */
static u64 draw(struct tdm_rcu *rcu)
{
	return tdm_a64_add_acqrel(&rcu->gp, 1) + 1;
}

/* A slot is looked at by a read-modify-write, see the header; so is `high`, for the same reason. */
static bool reader_passed(struct tdm_rcu_reader *r, u64 target)
{
	u64 epoch = tdm_a64_add_acqrel(&r->epoch, 0);

	return epoch == 0 || epoch >= target;
}

static bool all_passed(struct tdm_rcu *rcu, u64 target)
{
	u32 high = tdm_a32_add_acqrel(&rcu->high, 0);

	for (u32 i = 0; i < high; i++)
		if (!reader_passed(&rcu->reader[i], target))
			return false;
	return true;
}

void tdmi_rcu_call(struct tdm_rcu *rcu, struct tdm_rcu_head *head, void (*fn)(struct tdm_rcu_head *head, void *ctx), void *ctx)
{
	head->next = NULL;
	head->fn = fn;
	head->ctx = ctx;
	tdm_a32_add_relaxed(&rcu->pending, 1);
	plat_mutex_lock(&rcu->lock);
	*rcu->next.last = head;
	rcu->next.last = &head->next;
	plat_mutex_unlock(&rcu->lock);
}

/* What was called before the number is drawn waits for it; what comes later waits for the next. */
static void close_batch(struct tdm_rcu *rcu)
{
	if (rcu->wait.first || !rcu->next.first)
		return;
	batch_move(&rcu->wait, &rcu->next);
	rcu->target = draw(rcu);
}

static u32 run_batch(struct tdm_rcu *rcu, struct tdm_rcu_batch *b)
{
	struct tdm_rcu_head *h = b->first;
	u32 n = 0;

	while (h) {
		struct tdm_rcu_head *next = h->next; /* h is the callback's now */

		h->fn(h, h->ctx);
		/* From the last one on, who has drained may destroy rcu. */
		tdm_a32_sub_acqrel(&rcu->pending, 1);
		h = next;
		n++;
	}
	return n;
}

u32 tdmi_rcu_poll(struct tdm_rcu *rcu)
{
	struct tdm_rcu_batch done;

	if (tdmi_rcu_pending(rcu) == 0)
		return 0;
	batch_init(&done);
	plat_mutex_lock(&rcu->lock);
	close_batch(rcu);
	if (rcu->wait.first && all_passed(rcu, rcu->target)) {
		batch_move(&done, &rcu->wait);
		close_batch(rcu);
	}
	plat_mutex_unlock(&rcu->lock);
	return run_batch(rcu, &done);
}

u32 tdmi_rcu_pending(const struct tdm_rcu *rcu)
{
	return tdm_a32_ld_acquire(&rcu->pending);
}

void tdmi_rcu_synchronize(struct tdm_rcu *rcu)
{
	u64 target = draw(rcu);
	u32 high = tdm_a32_add_acqrel(&rcu->high, 0);
	tdm_a32 nobody_wakes = { 0 };

	for (u32 i = 0; i < high; i++) {
		for (u32 tries = 0; !reader_passed(&rcu->reader[i], target); tries++) {
			if (tries < SPINS)
				plat_relax();
			else if (tries < SPINS + YIELDS)
				plat_yield();
			else
				plat_wait(&nobody_wakes, 0, SLEEP_NS);
		}
	}
}

void tdmi_rcu_drain(struct tdm_rcu *rcu)
{
	while (tdmi_rcu_pending(rcu)) {
		if (tdmi_rcu_poll(rcu))
			continue;
		/* They wait for readers, or another thread is in one. */
		tdmi_rcu_synchronize(rcu);
		plat_yield();
	}
}

static u32 batch_count(const struct tdm_rcu_batch *b)
{
	u32 n = 0;

	for (const struct tdm_rcu_head *h = b->first; h; h = h->next)
		n++;
	return n;
}

void tdmi_rcu_reset(struct tdm_rcu *rcu)
{
	plat_mutex_reset(&rcu->lock);
	tdm_a32_st_relaxed(&rcu->pending, batch_count(&rcu->next) + batch_count(&rcu->wait));
	for (u32 i = 0; i < TDM_RCU_READERS; i++) {
		tdm_a64_st_relaxed(&rcu->reader[i].epoch, 0);
		rcu->reader[i].nesting = 0;
	}
}
