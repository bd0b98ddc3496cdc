/* SPDX-License-Identifier: MIT */
/*
 * live_shared.c - how much of what is resident is other processes'.
 *
 * Pages that are shared (libraries, what a fork has not copied yet) count in full in the resident set, and by halves and thirds in what the budget is
 * about. The kernel's own sum over the page tables is dear, some 50 ns a page, so it is asked for seldom. In between what is anonymous and shared becomes the process's own as
 * it is written, by copies of which nobody hears; and when a relative has made its copy, what was half ours is ours alone. So between two measurements
 *   - every minor fault that did not add to the resident set is taken for a copy;
 *   - all processes under one budget add what they have copied to one number, all of which is taken to have been shared with us;
 * and if that comes to more than a few hundredths of what is allowed it is measured again, for at most a tenth of the time, else for a hundredth. Too much
 * is never counted for longer than that, and never more than is resident. When one more is born with whom it may be shared, all who share look again, likewise: until then they
 * count for theirs what is its, and everybody waits for room that is there.
 *
 * All of it main's, but for what is said to be others' (l->shared), which whoever looks in its place reads.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include "plat/linux/sys.h"
#include "run/live.h"

#define SELDOM_NS ((u64)300000000)
#define SELDOM_COST 100
#define OFTEN_COST 10
#define OFTEN_SHARE 32 /* of the limit */
#define WORTH ((u64)1 << 20)

/* The number behind a name at the beginning of a line, in bytes; 0: there is none. */
static u64 field(const char *text, const char *name)
{
	const char *p = strstr(text, name);
	u64 v = 0;

	for (p = p ? p + strlen(name) : ""; *p == ' ';)
		p++;
	while (*p >= '0' && *p <= '9')
		v = v * 10 + (u64)(*p++ - '0');
	return v << 10;
}

/* The process's proportional share; of its anonymous memory what is shared, and of that what is others'. 0: unknown. */
static u64 read_pss(u64 *shared, u64 *anon)
{
	long fd = tdm_sys4(SYS_openat, AT_FDCWD, "/proc/thread-self/smaps_rollup", O_RDONLY | O_CLOEXEC, 0), n;
	char buf[1024];
	u64 all, own, alone;

	*anon = *shared = 0;
	if (fd < 0)
		return 0;
	n = tdm_sys3(SYS_read, fd, buf, sizeof(buf) - 1);
	tdm_sys1(SYS_close, fd);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	all = field(buf, "\nAnonymous:");
	own = field(buf, "\nPss_Anon:");
	alone = TDM_MIN(field(buf, "\nPrivate_Dirty:"), own);
	*anon = all - TDM_MIN(all, own);
	*shared = TDM_MAX(all - TDM_MIN(all, alone), *anon);
	return field(buf, "\nPss:");
}

static u64 minor_faults(void)
{
	struct rusage u;

	return tdm_sys2(SYS_getrusage, RUSAGE_SELF, &u) ? 0 : (u64)u.ru_minflt;
}

static u64 family_copied(const struct tdm_live *l)
{
	return l->control ? tdm_a64_ld_relaxed(&l->control->copied) : 0;
}

static void measure(struct tdm_live *l, u64 rss)
{
	u64 start = plat_now_ns(), pss, took;

	l->share.faults = minor_faults();
	l->share.family = family_copied(l);
	l->share.told = 0;
	l->share.births = l->control ? tdm_a64_ld_relaxed(&l->control->births) : 0;
	l->share.forked = false;
	pss = read_pss(&l->share.shared, &l->share.anon);
	l->share.all = pss && rss > pss ? rss - pss : 0;
	l->share.rss = rss;
	took = plat_now_ns() - start;
	l->share.next_ns = start + took + TDM_MAX(took * SELDOM_COST, SELDOM_NS);
	l->share.soon_ns = start + took + took * OFTEN_COST;
}

/*
 * Of a page that n share we had 1/n. With a copy of our own we have all of another one: (n - 1)/n more. When somebody else has made a copy we share with one less:
 * 1/(n - 1) - 1/n more. n is what it was on average when it was measured: shared / mine.
 */
static u64 gained(const struct tdm_live *l, u64 own, u64 others)
{
	u64 shared = l->share.shared >> TDM_PAGE_SHIFT, anon = l->share.anon >> TDM_PAGE_SHIFT, mine = shared - anon;
	u64 by_own = (own >> TDM_PAGE_SHIFT) * anon / shared, by_others = (others >> TDM_PAGE_SHIFT) * mine / shared * mine / anon;

	return (by_own + by_others) << TDM_PAGE_SHIFT;
}

/* What has become ours since, at most. */
static u64 copied(struct tdm_live *l, u64 rss)
{
	u64 own, others, new = rss - TDM_MIN(rss, l->share.rss);

	if (l->share.anon < WORTH)
		return 0;
	own = (minor_faults() - l->share.faults) << TDM_PAGE_SHIFT;
	own = TDM_MIN(own - TDM_MIN(own, new), l->share.anon);
	if (l->control && own > l->share.told) {
		tdm_a64_add_relaxed(&l->control->copied, own - l->share.told);
		l->share.told = own;
	}
	others = family_copied(l) - l->share.family;
	others -= TDM_MIN(others, l->share.told);
	return TDM_MIN(gained(l, own, others), l->share.anon);
}

/* Somebody has been born since, who may share what was ours, or what we shared with fewer. A first child shares what nobody has shared: that is for its parent to know. */
static bool more_share(const struct tdm_live *l)
{
	return l->control && tdm_a64_ld_relaxed(&l->control->births) != l->share.births && (l->share.anon >= WORTH || l->share.forked);
}

u64 tdmi_live_shared(struct tdm_live *l, u64 rss)
{
	u64 now = plat_now_ns(), gone = 0;

	if (now < l->share.next_ns)
		gone = copied(l, rss);
	if (now >= l->share.next_ns || (now >= l->share.soon_ns && (gone > l->limit / OFTEN_SHARE || more_share(l)))) {
		measure(l, rss);
		gone = 0;
	}
	l->share.gone = TDM_MIN(gone, l->share.all);
	tdm_a64_st_relaxed(&l->shared, l->share.all - l->share.gone);
	return TDM_MIN(tdm_a64_ld_relaxed(&l->shared), rss);
}

bool tdmi_live_shared_mostly(const struct tdm_live *l)
{
	return l->share.shared >= l->share.rss / 2 && l->share.anon >= l->share.shared / 2;
}

void tdmi_live_shared_child(struct tdm_live *l)
{
	l->share.next_ns = 0;
	l->share.gone = 0;
}
