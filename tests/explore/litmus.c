// SPDX-License-Identifier: MIT
/*
 * litmus.c - the explorer itself: what its memory model allows and forbids, and that its detectors detect.
 *
 * The classic two-thread tests, by the names of the literature: message passing (MP), store buffering (SB), coherence of reads (CoRR), and a release sequence. Of each pair one shows
 * what weak memory does, the other what prevents it.
 */
#include "base/alloc.h"
#include "base/check.h"
#include "base/list.h"
#include "plat/explore/explore.h"

struct state {
	tdm_a32 x, y;
	u32 plain;
	u32 saw[2], then[2];
	struct plat_mutex a, b;
	struct tdm_alloc alloc;
	u32 *object;
	struct tdm_list ring;
};

static struct state *st;

static void begin(void (*one)(void *), void (*other)(void *))
{
	st = tdmx_alloc(sizeof(*st));
	plat_mutex_init(&st->a, 0);
	plat_mutex_init(&st->b, 0);
	tdmi_alloc_init(&st->alloc);
	st->object = tdmi_alloc(&st->alloc, 64);
	tdmx_name(&st->x, sizeof(st->x), "x");
	tdmx_name(&st->y, sizeof(st->y), "y");
	tdmx_spawn("one", one, NULL);
	tdmx_spawn("other", other, NULL);
}

#define PAIR(id, one, other)                                                                               \
	static void id##_setup(void)                                                                       \
	{                                                                                                  \
		begin(one, other);                                                                         \
	}

/* ---- MP: data, then a flag */

static void sends_relaxed(void *arg)
{
	(void)arg;
	tdm_a32_st_relaxed(&st->x, 1);
	tdm_a32_st_relaxed(&st->y, 1);
}

static void sends(void *arg)
{
	(void)arg;
	tdm_a32_st_relaxed(&st->x, 1);
	tdm_a32_st_release(&st->y, 1);
}

static void sends_by_fence(void *arg)
{
	(void)arg;
	tdm_a32_st_relaxed(&st->x, 1);
	tdm_fence_seqcst();
	tdm_a32_st_relaxed(&st->y, 1);
}

static void receives(void *arg)
{
	(void)arg;
	if (tdm_a32_ld_acquire(&st->y))
		TDMX_CHECK(tdm_a32_ld_relaxed(&st->x), "the flag came before the data");
}

static void receives_relaxed(void *arg)
{
	(void)arg;
	if (tdm_a32_ld_relaxed(&st->y))
		TDMX_CHECK(tdm_a32_ld_relaxed(&st->x), "the flag came before the data");
}

PAIR(mp_relaxed, sends_relaxed, receives)
TDMX_SCENARIO(litmus_mp_relaxed, .what = "MP without a release: the flag can be seen before the data", .setup = mp_relaxed_setup, .expected = true);
PAIR(mp_no_acquire, sends, receives_relaxed)
TDMX_SCENARIO(litmus_mp_no_acquire, .what = "MP without an acquire: likewise", .setup = mp_no_acquire_setup, .expected = true);
PAIR(mp, sends, receives)
TDMX_SCENARIO(litmus_mp, .what = "MP by release and acquire: whoever sees the flag sees the data", .setup = mp_setup);
PAIR(mp_fence, sends_by_fence, receives)
TDMX_SCENARIO(litmus_mp_fence, .what = "MP by a fence: likewise", .setup = mp_fence_setup);

/* ---- SB: each writes his own, and reads the other's */

static void sb(tdm_a32 *mine, tdm_a32 *his, u32 me)
{
	tdm_a32_st_release(mine, 1);
	st->saw[me] = tdm_a32_ld_acquire(his);
}

static void sb_one(void *arg)
{
	(void)arg;
	sb(&st->x, &st->y, 0);
}

static void sb_other(void *arg)
{
	(void)arg;
	sb(&st->y, &st->x, 1);
}

static void sb_seqcst(tdm_a32 *mine, tdm_a32 *his, u32 me)
{
	tdm_a32_st_seqcst(mine, 1);
	st->saw[me] = tdm_a32_ld_seqcst(his);
}

static void sb_seqcst_one(void *arg)
{
	(void)arg;
	sb_seqcst(&st->x, &st->y, 0);
}

static void sb_seqcst_other(void *arg)
{
	(void)arg;
	sb_seqcst(&st->y, &st->x, 1);
}

static void sb_fence(tdm_a32 *mine, tdm_a32 *his, u32 me)
{
	tdm_a32_st_relaxed(mine, 1);
	tdm_fence_seqcst();
	st->saw[me] = tdm_a32_ld_relaxed(his);
}

static void sb_fence_one(void *arg)
{
	(void)arg;
	sb_fence(&st->x, &st->y, 0);
}

static void sb_fence_other(void *arg)
{
	(void)arg;
	sb_fence(&st->y, &st->x, 1);
}

static void sb_check(void)
{
	TDMX_CHECK(st->saw[0] || st->saw[1], "neither has seen the other");
}

PAIR(sb, sb_one, sb_other)
TDMX_SCENARIO(litmus_sb, .what = "SB by release and acquire: neither need see the other", .setup = sb_setup, .check = sb_check, .expected = true);
PAIR(sb_seqcst, sb_seqcst_one, sb_seqcst_other)
TDMX_SCENARIO(litmus_sb_seqcst, .what = "SB sequentially consistent: one sees the other", .setup = sb_seqcst_setup, .check = sb_check);
PAIR(sb_fence, sb_fence_one, sb_fence_other)
TDMX_SCENARIO(litmus_sb_fence, .what = "SB with fences: likewise", .setup = sb_fence_setup, .check = sb_check);

/* ---- CoRR, and read-modify-writes */

static void counts_up(void *arg)
{
	(void)arg;
	tdm_a32_st_relaxed(&st->x, 1);
	tdm_a32_st_relaxed(&st->x, 2);
}

static void reads_twice(void *arg)
{
	u32 first = tdm_a32_ld_relaxed(&st->x), second = tdm_a32_ld_relaxed(&st->x);

	(void)arg;
	TDMX_CHECK(second >= first, "read %u, then %u", first, second);
}

static void adds(void *arg)
{
	(void)arg;
	tdm_a32_add_relaxed(&st->x, 1);
}

static void sum_check(void)
{
	TDMX_CHECK(tdm_a32_ld_relaxed(&st->x) == 2, "the sum is %u", tdm_a32_ld_relaxed(&st->x));
}

static void loads_and_stores(void *arg)
{
	(void)arg;
	tdm_a32_st_relaxed(&st->x, tdm_a32_ld_relaxed(&st->x) + 1);
}

PAIR(corr, counts_up, reads_twice)
TDMX_SCENARIO(litmus_corr, .what = "who has seen a store does not see an older one", .setup = corr_setup);
PAIR(rmw, adds, adds)
TDMX_SCENARIO(litmus_rmw, .what = "read-modify-writes lose nothing", .setup = rmw_setup, .check = sum_check);
PAIR(lost, loads_and_stores, loads_and_stores)
TDMX_SCENARIO(litmus_lost_update, .what = "a load and a store do", .setup = lost_setup, .check = sum_check, .expected = true);

/* ---- the detectors */

static void writes_plain(void *arg)
{
	(void)arg;
	st->plain++;
}

static void writes_plain_locked(void *arg)
{
	(void)arg;
	plat_mutex_lock(&st->a);
	st->plain++;
	plat_mutex_unlock(&st->a);
}

static void frees(void *arg)
{
	(void)arg;
	plat_mutex_lock(&st->a);
	tdmi_free(&st->alloc, st->object, 64);
	plat_mutex_unlock(&st->a);
}

static void uses(void *arg)
{
	(void)arg;
	plat_mutex_lock(&st->a);
	st->object[4]++;
	plat_mutex_unlock(&st->a);
}

static void locks_ab(void *arg)
{
	(void)arg;
	plat_mutex_lock(&st->a);
	plat_mutex_lock(&st->b);
	plat_mutex_unlock(&st->b);
	plat_mutex_unlock(&st->a);
}

static void locks_ba(void *arg)
{
	(void)arg;
	plat_mutex_lock(&st->b);
	plat_mutex_lock(&st->a);
	plat_mutex_unlock(&st->a);
	plat_mutex_unlock(&st->b);
}

static void waits(void *arg)
{
	(void)arg;
	while (!tdm_a32_ld_acquire(&st->x))
		plat_wait(&st->x, 0, ~(u64)0);
}

/* The wake comes first: whoever has looked and not slept yet misses it. */
static void wakes_too_early(void *arg)
{
	(void)arg;
	plat_wake(&st->x, 1);
	tdm_a32_st_release(&st->x, 1);
}

static void wakes(void *arg)
{
	(void)arg;
	tdm_a32_st_release(&st->x, 1);
	plat_wake(&st->x, 1);
}

static void spins(void *arg)
{
	(void)arg;
	while (!tdm_a32_ld_acquire(&st->y))
		plat_relax();
}

PAIR(race, writes_plain, writes_plain_locked)
TDMX_SCENARIO(litmus_race, .what = "a lock that only one of two takes", .setup = race_setup, .expected = true);
PAIR(no_race, writes_plain_locked, writes_plain_locked)
TDMX_SCENARIO(litmus_no_race, .what = "a lock that both take", .setup = no_race_setup);
PAIR(freed, frees, uses)
TDMX_SCENARIO(litmus_use_after_free, .what = "an object is freed, and used", .setup = freed_setup, .expected = true);
PAIR(deadlock, locks_ab, locks_ba)
TDMX_SCENARIO(litmus_deadlock, .what = "two locks in two orders", .setup = deadlock_setup, .expected = true);
PAIR(lost_wake, waits, wakes_too_early)
TDMX_SCENARIO(litmus_lost_wakeup, .what = "a wake before what it is for", .setup = lost_wake_setup, .expected = true);
PAIR(wake, waits, wakes)
TDMX_SCENARIO(litmus_wakeup, .what = "a wake after what it is for", .setup = wake_setup);
PAIR(livelock, spins, adds)
TDMX_SCENARIO(litmus_livelock, .what = "a loop for what nobody will store", .setup = livelock_setup, .expected = true);

/* What lies on a stack, and others have been told of. */
static void tells_of_its_stack(void *arg)
{
	u32 here = 0;

	(void)arg;
	plat_mutex_lock(&st->a);
	st->object = &here;
	plat_mutex_unlock(&st->a);
	here++;
	plat_mutex_lock(&st->a);
	st->object = NULL;
	plat_mutex_unlock(&st->a);
}

static void writes_to_the_stack(void *arg)
{
	(void)arg;
	plat_mutex_lock(&st->a);
	if (st->object)
		++*st->object;
	plat_mutex_unlock(&st->a);
}

/* Along a list that is a ring. */
static void goes_round(void *arg)
{
	(void)arg;
	for (struct tdm_list *l = st->ring.next; l; l = l->next)
		st->plain++;
}

static void endless_setup(void)
{
	begin(goes_round, adds);
	tdm_list_init(&st->ring);
}

static void stack_setup(void)
{
	begin(tells_of_its_stack, writes_to_the_stack);
	st->object = NULL;
}
TDMX_SCENARIO(litmus_race_stack, .what = "a race for what lies on a stack is found", .setup = stack_setup, .expected = true);
TDMX_SCENARIO(litmus_endless, .what = "a loop in which nothing is atomic is found, too", .setup = endless_setup, .expected = true);
