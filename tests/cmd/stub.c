/* SPDX-License-Identifier: MIT */
/*
 * A stand-in for libtandem-run.so: takes a slot, publishes numbers, and says what $STUB_SAY says. It lets the command be tested
 * without an engine.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "run/control.h"

static struct tdm_control *control;
static int slot = -1;

static u64 start_ticks(char comm[16])
{
	unsigned long long t = 0;
	char buf[1024] = "", *p;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		abort();
	close(fd);
	p = strrchr(buf, ')');
	*p = 0;
	snprintf(comm, 16, "%s", strchr(buf, '(') + 1);
	sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &t);
	return t;
}

static void set(enum tdm_stat which, u64 x)
{
	tdm_a64_st_relaxed(&control->slot[slot].stat[which], x);
}

static void publish(void)
{
	struct tdm_control_slot *s = &control->slot[slot];

	tdm_a32_st_relaxed(&s->managed, 1);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_USAGE], 3 << 20);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_LIMIT], tdmi_control_share(control, (u32)slot));
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_OUT], 2 << 20);
	tdm_a64_st_relaxed(&s->gauge[TDM_GAUGE_PACKED], 1 << 20);
	set(TDM_STAT_SOFT_FAULTS, 100);
	set(TDM_STAT_HARD_FAULTS, 50);
	set(TDM_STAT_HARD_PAGES, 500);
	set(TDM_STAT_OUT_BYTES_TOTAL, 3 << 20);
	set(TDM_STAT_PACKED_BYTES_TOTAL, 1 << 20);
	set(TDM_STAT_IN_BYTES_TOTAL, 2 << 20);
	set(TDM_STAT_STALLS, 2);
	set(TDM_STAT_STALL_NS, 1500000000);
	if (getenv("STUB_LOSES")) {
		set(TDM_STAT_LOST, 1);
		set(TDM_STAT_POISONED, 2);
		set(TDM_STAT_LATE_DROPS, 3);
	}
	set(TDM_STAT_LATENCY0 + 4, 149);
	set(TDM_STAT_LATENCY0 + 12, 1);
	tdm_a64_st_relaxed(&s->tier_out[0], 1 << 20);
	tdm_a64_st_relaxed(&s->tier_now[0], 1 << 20);
	tdmi_control_usage(control);
}

__attribute__((constructor)) static void begin(void)
{
	const char *name = getenv(TDM_CONTROL_ENV), *text = getenv("STUB_SAY"), *times = getenv("STUB_SAY_TIMES");
	char comm[16];
	int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
	u64 ticks;

	if (fd < 0)
		return;
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED || tdmi_control_check(control, sizeof(*control)))
		abort();
	ticks = start_ticks(comm);
	slot = tdmi_control_claim(control, (u32)getpid(), ticks, comm);
	if (slot < 0)
		return;
	publish();
	for (int i = text ? (times ? atoi(times) : 1) : 0; i > 0; i--)
		tdmi_control_say(control, (u32)getpid(), text);
}

__attribute__((destructor)) static void end(void)
{
	if (slot >= 0)
		tdmi_control_release(control, (u32)slot);
}
