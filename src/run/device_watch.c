/* SPDX-License-Identifier: MIT */
/*
 * device_watch.c - who says that a device hangs.
 *
 * A device's callback that does not return is waited for with a table locked, or within a round: by faults, by the main thread, in the end by the program. Nobody of
 * these can say so. So there is a thread that does nothing else: while devices are attached it looks now and then at which callbacks are running (those
 * that the public API wraps: config.busy), and at which rounds wait for a subscriber (tdmi_notifiers_stuck(): a device that does not let go of pages, say
 * because an atomic's function does not return), and names each device once until it has gone on. It cannot end what hangs: that runs the
 * author's code.
 *
 * It takes no lock of the engine's but for moments, and its own (l->watch.lock) guards which devices there are against main, who attaches and detaches.
 */
#include <string.h>
#include "base/fmt.h"
#include "run/live.h"

#define NS_PER_MS ((u64)1000000)
#define LOOK_MAX (1000 * NS_PER_MS)
#define LOOK_MIN (20 * NS_PER_MS)

static bool is_here(const struct tdm_device *d)
{
	return d && d->live && !d->gone;
}

static void say(struct tdm_device *d, const char *what, u64 ns)
{
	char line[240];

	tdmi_fmt(line, sizeof(line), "device %s: %s for more than %lu ms: who needs what it has must wait for it", d->config.name, what,
		 (unsigned long)(ns / NS_PER_MS));
	plat_log(line);
}

/* The time until the next look. */
static u64 look(struct tdm_live *l)
{
	u64 least = ~(u64)0;
	char name[32];

	for (u32 i = 0; i < TDM_DEVICES_MAX; i++) {
		struct tdm_device *d = l->device[i];
		const char *what = NULL;
		u64 limit;

		if (!is_here(d))
			continue;
		limit = d->config.stuck_ns;
		least = TDM_MIN(least, limit);
		if (d->config.busy)
			what = d->config.busy(d->config.arg, limit);
		if (!what && tdmi_notifiers_stuck(&l->mm.notifiers, limit, name, sizeof(name)) && !strncmp(name, d->config.name, sizeof(name) - 1))
			what = "has been asked to let go of pages";
		if (what && !d->said_stuck)
			say(d, what, limit);
		d->said_stuck = what;
	}
	return TDM_MAX(TDM_MIN(least / 4, LOOK_MAX), LOOK_MIN);
}

static void watch_main(void *arg)
{
	struct tdm_live *l = arg;

	while (!tdm_a32_ld_acquire(&l->watch.stop)) {
		u64 ns;

		plat_mutex_lock(&l->watch.lock);
		ns = look(l);
		plat_mutex_unlock(&l->watch.lock);
		plat_wait(&l->watch.stop, 0, ns);
	}
}

void tdmi_live_watch_lock(struct tdm_live *l)
{
	plat_mutex_lock(&l->watch.lock);
}

void tdmi_live_watch_unlock(struct tdm_live *l)
{
	plat_mutex_unlock(&l->watch.lock);
}

int tdmi_live_watch_start(struct tdm_live *l)
{
	if (l->watch.thread)
		return 0;
	tdm_a32_st_relaxed(&l->watch.stop, 0);
	plat_mutex_init(&l->watch.lock, TDM_RANK_LIVE);
	return plat_thread_start(&l->watch.thread, watch_main, l, "tandem-watch");
}

void tdmi_live_watch_stop(struct tdm_live *l)
{
	if (!l->watch.thread || tdm_a32_ld_relaxed(&l->ndevices))
		return;
	tdm_a32_st_release(&l->watch.stop, 1);
	plat_wake(&l->watch.stop, 1);
	plat_thread_join(l->watch.thread);
	l->watch.thread = NULL;
}

void tdmi_live_watch_forget(struct tdm_live *l)
{
	if (l->watch.thread)
		tdmi_linux_thread_forget(l->watch.thread);
	l->watch.thread = NULL;
	plat_mutex_reset(&l->watch.lock);
}
