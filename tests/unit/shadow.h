/* SPDX-License-Identifier: MIT */
/*
 * shadow.h - a device's page table, and nothing else: it has a translation for every page that range_fault said is VALID, drops them when it is told to, and
 * at any time each of them must be true. What changes an entry without a round is found by that. It writes down what it is told.
 */
#ifndef TDM_TESTS_SHADOW_H
#define TDM_TESTS_SHADOW_H

#include "device_world.h"
#include "mm/range_fault.h"

#define HEARD_MAX 256u

static struct {
	struct tdm_interval_notifier in;
	u64 entry[PAGES];   /* what range_fault said, or 0 */
	u8 *alone[PAGES];   /* where the bytes are of a page that it has for itself, or NULL */
	u64 some[PAGES / 64];  /* pages with either, a bit each */
	u32 page_of[4096];  /* which page a frame of `dev` is, plus 1; 0: it has no translation for it */
	u32 nheard;
	struct tdm_inv_range heard[HEARD_MAX]; /* the first so many */
	void (*on_round)(const struct tdm_inv_range *range); /* may be NULL; called before anything is dropped */
} shadow;

static inline void shadow_drop(u32 page)
{
	u64 e = shadow.entry[page];

	if (e & TDM_RF_DEVICE)
		shadow.page_of[e & TDM_RF_PAYLOAD] = 0;
	shadow.entry[page] = 0;
	shadow.alone[page] = NULL;
	shadow.some[page / 64] &= ~((u64)1 << (page % 64));
}

static inline bool shadow_invalidate(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	bool own = tdm_inv_is_own(range, &dev);
	u64 end = BASE + P(cpu.npages);

	if (shadow.nheard < HEARD_MAX)
		shadow.heard[shadow.nheard] = *range;
	shadow.nheard++;
	if (shadow.on_round)
		shadow.on_round(range);
	if (!own)
		tdm_interval_set_seq(in, cur_seq);
	for (u64 va = TDM_MAX(range->start, BASE); va < TDM_MIN(range->end, end); va += TDM_PAGE_SIZE) {
		u32 page = (u32)((va - BASE) >> TDM_PAGE_SHIFT);

		if (!own || !shadow.alone[page])
			shadow_drop(page);
	}
	return true;
}

static const struct tdm_interval_notifier_ops shadow_ops = { .invalidate = shadow_invalidate };

/* Bytes are about to leave the device, or its memory to be free: it cannot be using them any more. */
static inline void shadow_unused(struct test_device *d, u32 frame, u32 n)
{
	for (u32 i = frame; i < frame + n; i++)
		CHECK_EQ(shadow.page_of[i], 0);
}

/* After device_start(). */
static inline void shadow_start(void)
{
	memset(&shadow, 0, sizeof(shadow));
	CHECK(dev.nframes <= TDM_ARRAY_SIZE(shadow.page_of));
	shadow.in = (struct tdm_interval_notifier){ .name = "shadow", .ops = &shadow_ops };
	dev.on_out = dev.on_free = shadow_unused;
	CHECK_EQ(tdmi_interval_notifier_insert(&mm.notifiers, &shadow.in, BASE, BASE + P(cpu.npages)), 0);
}

static inline void shadow_finish(void)
{
	tdmi_interval_notifier_remove(&shadow.in);
	dev.on_out = dev.on_free = NULL;
}

/* Is each translation true? */
static inline void shadow_check_page(u32 page)
{
	u64 e = shadow.entry[page], va = BASE + P(page);
	u32 level;
	struct tdm_pte pte = entry(va, &level);

	if (e & TDM_RF_DEVICE) {
		if (!tdm_pte_is(pte, TDM_PTE_T_PRIVATE) || tdmi_pte_pool(&mm, pte) != &dev.pool ||
		    tdm_pte_private_frame(pte) != (e & TDM_RF_PAYLOAD))
			t_fail(__FILE__, __LINE__, "the device has page %u in frame %llu, and the entry is %016llx", page,
			       (unsigned long long)(e & TDM_RF_PAYLOAD), (unsigned long long)pte.v);
	} else if (e) {
		CHECK_EQ(e & TDM_RF_PAYLOAD, va >> TDM_PAGE_SHIFT);
		if (!tdm_pte_lent(pte))
			t_fail(__FILE__, __LINE__, "the device can reach page %u at its address, and the entry is %016llx", page, (unsigned long long)pte.v);
	}
	if (shadow.alone[page] && (!tdm_pte_is(pte, TDM_PTE_T_EXCLUSIVE) || tdmi_exclusive_owner(&mm, pte) != &dev ||
				   shadow.alone[page] != tdm_frame_home(&mm.frames, tdm_pfn_frame(&mm.frames, tdm_pte_ram_pfn(pte)))))
		t_fail(__FILE__, __LINE__, "the device has page %u for itself, and the entry is %016llx", page, (unsigned long long)pte.v);
}

static inline void shadow_check(void)
{
	for (u32 i = 0; i < PAGES / 64; i++)
		for (u64 bits = shadow.some[i]; bits; bits &= bits - 1)
			shadow_check_page(64 * i + (u32)__builtin_ctzll(bits));
}

static inline void shadow_set(u32 page, u64 e, void *alone)
{
	shadow_drop(page);
	if (!e && !alone)
		return;
	shadow.entry[page] = e;
	shadow.alone[page] = alone;
	shadow.some[page / 64] |= (u64)1 << (page % 64);
	if (e & TDM_RF_DEVICE)
		shadow.page_of[e & TDM_RF_PAYLOAD] = page + 1;
}

/* Have translations for pages [a, b). want: TDM_RF_REQ_*. */
static inline int shadow_fill(u32 a, u32 b, u64 want)
{
	static u64 out[PAGES];
	struct tdm_range_fault rf = { .start = BASE + P(a), .end = BASE + P(b), .entry = out, .default_flags = want, .owner = &dev, .in = &shadow.in };
	int r;

	for (u32 tries = 0; tries < 1000; tries++) {
		memset(out, 0, (b - a) * sizeof(out[0]));
		rf.seq = tdm_interval_read_begin(&shadow.in);
		CHECK(tdmi_mm_enter(ctx));
		r = tdmi_range_fault(ctx, &rf);
		tdmi_mm_exit(ctx);
		if (r == -EBUSY || (!r && tdm_interval_read_retry(&shadow.in, rf.seq)))
			continue;
		for (u32 i = 0; !r && i < b - a; i++) {
			void *home = out[i] & TDM_RF_EXCLUSIVE ? mm.frames.arena + P(out[i] & TDM_RF_PAYLOAD) : NULL;

			shadow_set(a + i, home || !(out[i] & TDM_RF_VALID) ? 0 : out[i], home);
		}
		return r;
	}
	return -EBUSY;
}

/* Have pages [a, b) for itself, at most 64. */
static inline int shadow_alone(u32 a, u32 b)
{
	void *home[64];
	u64 n, got, seq;
	int r;

	CHECK(b - a <= 64);
	for (u32 tries = 0; tries < 4; tries++) {
		memset(home, 0, sizeof(home));
		got = 0;
		seq = tdm_interval_read_begin(&shadow.in);
		CHECK(tdmi_mm_enter(ctx));
		r = tdmi_make_exclusive(ctx, BASE + P(a), BASE + P(b), &dev, home, &n);
		tdmi_mm_exit(ctx);
		for (u32 i = a; i < b; i++)
			got += home[i - a] != NULL;
		CHECK_EQ(n, got);
		if (tdm_interval_read_retry(&shadow.in, seq))
			continue;
		for (u32 i = a; i < b; i++)
			if (home[i - a])
				shadow_set(i, 0, home[i - a]);
		return r;
	}
	/* Nobody else is there: the second time nothing has to be brought any more. */
	t_fail(__FILE__, __LINE__, "pages cannot be had alone");
}

/* The device's way to the bytes of a page, or NULL: it has none of its own. */
static inline u8 *shadow_bytes(u32 page)
{
	u64 e = shadow.entry[page];

	return shadow.alone[page] ? shadow.alone[page] : e & TDM_RF_DEVICE ? dev.memory + P(e & TDM_RF_PAYLOAD) : NULL;
}

/* What has been heard since the last time covers this range, by as many rounds as it took, all of that kind. */
static inline void heard_one(u64 from, u64 to, enum tdm_inv_event event, const void *owner)
{
	u64 at = from;

	CHECK(shadow.nheard >= 1);
	for (u32 i = 0; i < shadow.nheard; i++) {
		CHECK_EQ(shadow.heard[i].event, event);
		CHECK(shadow.heard[i].owner == owner);
		CHECK(shadow.heard[i].blockable);
		if (shadow.heard[i].start <= at)
			at = TDM_MAX(at, shadow.heard[i].end);
	}
	CHECK(at >= to);
	shadow.nheard = 0;
}

static inline void heard_none(void)
{
	CHECK_EQ(shadow.nheard, 0);
}

#endif
