/* SPDX-License-Identifier: MIT */
/* progress.c - a bar with an estimate, for whoever waits longer than two seconds. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "sim/report.h"

#define SECOND ((u64)1000000000)
#define WIDTH 30u

void tdmi_progress_begin(struct tdm_progress *p, int fd, bool always, u64 (*now)(void))
{
	*p = (struct tdm_progress){ .fd = always || isatty(fd) ? fd : -1, .now = now };
	p->start = p->last = now();
}

static void say(struct tdm_progress *p, const char *text)
{
	if (write(p->fd, text, strlen(text)) < 0)
		p->fd = -1; /* nobody looks any more */
}

/* "8 s", "1 min 05 s", "2 h 03 min" */
static void span(u64 s, char out[32])
{
	if (s < 60)
		snprintf(out, 32, "%u s", (unsigned)s);
	else if (s < 3600)
		snprintf(out, 32, "%u min %02u s", (unsigned)(s / 60), (unsigned)(s % 60));
	else
		snprintf(out, 32, "%llu h %02u min", (unsigned long long)(s / 3600), (unsigned)(s / 60 % 60));
}

void tdmi_progress_update(struct tdm_progress *p, u64 done, u64 total)
{
	char line[160], bar[WIDTH + 1], left[32];
	u64 now, gone;
	double part;

	if (p->fd < 0)
		return;
	now = p->now();
	gone = now - p->start;
	if (gone < 2 * SECOND || (p->shown && now - p->last < SECOND / 5))
		return;
	p->last = now;
	p->shown = true;
	if (!total || !done) {
		span(gone / SECOND, left);
		snprintf(line, sizeof(line), "\rrunning for %s\033[K", left);
	} else {
		part = TDM_MIN((double)done / (double)total, 1.0);
		for (u32 i = 0; i < WIDTH; i++)
			bar[i] = i < (u32)(part * WIDTH) ? '#' : '.';
		bar[WIDTH] = 0;
		span((u64)((double)gone / (double)SECOND * (1 - part) / part + 0.5), left);
		snprintf(line, sizeof(line), "\r[%s] %3u%%, about %s left\033[K", bar, (unsigned)(part * 100), left);
	}
	say(p, line);
}

void tdmi_progress_end(struct tdm_progress *p)
{
	if (p->shown && p->fd >= 0)
		say(p, "\r\033[K");
	p->shown = false;
	p->fd = -1;
}
