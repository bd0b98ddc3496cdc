/* SPDX-License-Identifier: MIT */
/* live_stats.c - what the process uses, and telling others. */
#include <fcntl.h>
#include <string.h>
#include "plat/linux/sys.h"
#include "run/live.h"

#define LATE_NS ((u64)2000000)

/* Field n (from 0) of a line of numbers. */
static u64 number(const char *s, u32 n)
{
	u64 v = 0;

	while (n && *s)
		n -= *s++ == ' ';
	while (*s >= '0' && *s <= '9')
		v = v * 10 + (u64)(*s++ - '0');
	return v;
}

u64 tdmi_live_resident(struct tdm_live *l)
{
	char buf[128];
	long n = tdm_sys4(SYS_pread64, l->statm, buf, sizeof(buf) - 1, 0);

	if (n <= 0)
		return 0;
	buf[n] = 0;
	return number(buf, 1) << TDM_PAGE_SHIFT;
}

u64 tdmi_live_rss(struct tdm_live *l)
{
	u64 rss;

	if (l->statm < 0)
		l->statm = tdmi_linux_fd_keep(tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/statm", O_RDONLY | O_CLOEXEC, 0));
	rss = tdmi_live_resident(l);
	if (!rss)
		return l->usage;
	/* Far from the limit nobody needs to know. */
	l->share.gone = 0;
	return rss > l->limit / 2 ? rss - tdmi_live_shared(l, rss) : rss;
}

void tdmi_live_look_by(struct tdm_live *l, u64 ns)
{
	tdm_a64_st_release(&l->look_by_ns, plat_now_ns() + ns + LATE_NS);
}

/* Main may be kept off the CPU for many milliseconds on a busy machine. What the program maps meanwhile nobody knows of and nobody waits for: so whoever waits for
 * a page makes room for it (mm/fault.c). */
void tdmi_live_look_late(struct tdm_live *l, u64 now)
{
	u64 by = tdm_a64_ld_acquire(&l->look_by_ns), usage, tracked;

	if (!by || now < by || !tdm_a64_cas_acqrel(&l->look_by_ns, &by, now + LATE_NS))
		return;
	usage = tdmi_live_resident(l);
	usage -= TDM_MIN(tdm_a64_ld_relaxed(&l->shared) + tdmi_live_device_bytes(l), usage);
	tracked = tdmi_mm_tracked(&l->mm);
	if (usage)
		tdm_a64_st_relaxed(&l->mm.other_bytes, usage > tracked ? usage - tracked : 0);
}

/* The counters of the engine that have a place in the control segment. */
static const struct {
	u8 stat, count;
} shared_counts[] = {
	{ TDM_STAT_SOFT_FAULTS, TDM_C_SOFT_FAULTS },
	{ TDM_STAT_HARD_FAULTS, TDM_C_HARD_FAULTS },
	{ TDM_STAT_ZERO_FAULTS, TDM_C_ZERO_FAULTS },
	{ TDM_STAT_OTHER_FAULTS, TDM_C_OTHER_FAULTS },
	{ TDM_STAT_SOFT_PAGES, TDM_C_SOFT_PAGES },
	{ TDM_STAT_HARD_PAGES, TDM_C_HARD_PAGES },
	{ TDM_STAT_ZERO_PAGES, TDM_C_ZERO_PAGES },
	{ TDM_STAT_HOME_PAGES, TDM_C_HOME_PAGES },
	{ TDM_STAT_EVICTED_PAGES, TDM_C_EVICTED_PAGES },
	{ TDM_STAT_REFAULTS, TDM_C_REFAULTS },
	{ TDM_STAT_DIRECT_RECLAIMS, TDM_C_DIRECT_RECLAIMS },
	{ TDM_STAT_STALLS, TDM_C_STALLS },
	{ TDM_STAT_STALL_NS, TDM_C_STALL_NS },
	{ TDM_STAT_FAULT_NS, TDM_C_FAULT_NS },
	{ TDM_STAT_LOST, TDM_C_LOST },
	{ TDM_STAT_POISONED, TDM_C_POISONED },
	{ TDM_STAT_LATE_DROPS, TDM_C_LATE_DROPS },
};

static void publish_engine(struct tdm_live *l, struct tdm_control_slot *s)
{
	struct tdm_swap_stats sw;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(shared_counts); i++)
		tdm_a64_st_relaxed(&s->stat[shared_counts[i].stat], tdmi_mm_count(&l->mm, shared_counts[i].count));
	for (u32 i = 0; i < 32; i++)
		tdm_a64_st_relaxed(&s->stat[TDM_STAT_LATENCY0 + i], tdmi_mm_count(&l->mm, TDM_C_LATENCY0 + i));
	tdmi_swap_stats(l->swap, &sw);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_FORKS], tdm_a64_ld_relaxed(&l->forks));
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_OVER_BUDGET], sw.full);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_SAME_FILLED], sw.same_filled);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_INCOMPRESSIBLE], sw.incompressible);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_UNCHANGED], sw.reused_pages);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_DEMOTED_BLOBS], sw.demoted_blobs);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_OUT_BYTES_TOTAL], sw.out_pages << TDM_PAGE_SHIFT);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_PACKED_BYTES_TOTAL], sw.out_packed_bytes);
	tdm_a64_st_relaxed(&s->stat[TDM_STAT_IN_BYTES_TOTAL], sw.in_pages << TDM_PAGE_SHIFT);
	for (u32 i = 0; i < TDM_CONTROL_TIERS; i++) {
		struct tdm_tier *t = tdmi_swap_tier(l->swap, i);
		struct tdm_tier_stats ts;

		if (!t)
			break;
		t->ops->stats(t, &ts);
		tdm_a64_st_relaxed(&s->tier_out[i], ts.put_bytes);
		tdm_a64_st_relaxed(&s->tier_in[i], ts.get_bytes);
		tdm_a64_st_relaxed(&s->tier_now[i], ts.bytes);
	}
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_MANAGED],
			   (tdm_a64_ld_relaxed(&l->mm.lent) + tdm_a64_ld_relaxed(&l->mm.home)) << TDM_PAGE_SHIFT);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_HOME], tdm_a64_ld_relaxed(&l->mm.home) << TDM_PAGE_SHIFT);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_OUT], sw.raw_bytes);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_PACKED], sw.packed_bytes);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_POOL], sw.mem_bytes);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_DISK], sw.disk_bytes);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_OVERHEAD], tdmi_alloc_mapped(&l->mm.alloc));
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_PINNED], tdmi_mm_count(&l->mm, TDM_C_PINNED));
}

void tdmi_live_publish(struct tdm_live *l)
{
	struct tdm_control_slot *s;

	l->published_ns = plat_now_ns();
	if (!l->control || l->slot < 0)
		return;
	s = &l->control->slot[l->slot];
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_USAGE], l->usage);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_LIMIT], l->limit);
	(void)tdmi_control_usage(l->control);
	if (tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED)
		publish_engine(l, s);
}

void tdmi_live_stats(struct tdm_live *l, struct tdm_stats *s)
{
	struct tdm_swap_stats sw;
	size_t size = sizeof(*s);

	memset(s, 0, sizeof(*s));
	s->size = size;
	s->budget_bytes = l->limit == ~(u64)0 ? 0 : l->limit;
	s->usage_bytes = l->usage;
	s->peak_bytes = l->peak;
	s->forks = tdm_a64_ld_relaxed(&l->forks);
	if (tdm_a32_ld_acquire(&l->state) != TDM_LIVE_ENGAGED)
		return;
	tdmi_swap_stats(l->swap, &sw);
	s->managed_bytes = (tdm_a64_ld_relaxed(&l->mm.lent) + tdm_a64_ld_relaxed(&l->mm.home)) << TDM_PAGE_SHIFT;
	s->home_bytes = tdm_a64_ld_relaxed(&l->mm.home) << TDM_PAGE_SHIFT;
	s->out_bytes = sw.raw_bytes;
	s->packed_bytes = sw.packed_bytes;
	s->pool_bytes = sw.mem_bytes;
	s->disk_bytes = sw.disk_bytes;
	s->overhead_bytes = tdmi_alloc_mapped(&l->mm.alloc);
	s->soft_faults = tdmi_mm_count(&l->mm, TDM_C_SOFT_FAULTS);
	s->hard_faults = tdmi_mm_count(&l->mm, TDM_C_HARD_FAULTS);
	s->zero_faults = tdmi_mm_count(&l->mm, TDM_C_ZERO_FAULTS);
	s->other_faults = tdmi_mm_count(&l->mm, TDM_C_OTHER_FAULTS);
	s->soft_pages = tdmi_mm_count(&l->mm, TDM_C_SOFT_PAGES);
	s->hard_pages = tdmi_mm_count(&l->mm, TDM_C_HARD_PAGES);
	s->zero_pages = tdmi_mm_count(&l->mm, TDM_C_ZERO_PAGES);
	s->home_pages = tdmi_mm_count(&l->mm, TDM_C_HOME_PAGES);
	s->evicted_pages = tdmi_mm_count(&l->mm, TDM_C_EVICTED_PAGES);
	s->refaults = tdmi_mm_count(&l->mm, TDM_C_REFAULTS);
	s->direct_reclaims = tdmi_mm_count(&l->mm, TDM_C_DIRECT_RECLAIMS);
	s->stalls = tdmi_mm_count(&l->mm, TDM_C_STALLS);
	s->stall_ns = tdmi_mm_count(&l->mm, TDM_C_STALL_NS);
	s->fault_ns = tdmi_mm_count(&l->mm, TDM_C_FAULT_NS);
	s->pinned_pages = tdmi_mm_count(&l->mm, TDM_C_PINNED);
	s->over_budget = sw.full;
	for (u32 i = 0; i < 32; i++)
		s->latency[i] = tdmi_mm_count(&l->mm, TDM_C_LATENCY0 + i);
}
