/* SPDX-License-Identifier: MIT */
/* report.c - the segment's numbers, in words: the live line, the summary, the processes. */
#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>
#include "cmd/cmd.h"

/* "980", "12.3k", "4.5M": counts for people. */
static const char *count(u64 n, char out[16])
{
	static const char suffix[] = "kMGT";
	double x = (double)n;
	unsigned k = 0;

	while (k < 4 && x >= 1000) {
		x /= 1000;
		k++;
	}
	snprintf(out, 16, k && x < 100 ? "%.1f%.*s" : "%.0f%.*s", x, k ? 1 : 0, k ? &suffix[k - 1] : "");
	return out;
}

/* "4.1 us", "12 ms" */
static const char *duration(u64 ns, char out[16])
{
	static const char *const unit[] = { "ns", "us", "ms", "s" };
	double x = (double)ns;
	unsigned k = 0;

	while (k < 3 && x >= 1000) {
		x /= 1000;
		k++;
	}
	snprintf(out, 16, k && x < 10 ? "%.1f %s" : "%.0f %s", x, unit[k]);
	return out;
}

/* ":1" of what was packed; "-" when nothing was. */
static const char *ratio(u64 plain, u64 packed, char out[16])
{
	if (packed)
		snprintf(out, 16, "%.1f:1", (double)plain / (double)packed);
	else
		strcpy(out, "-");
	return out;
}

static const char *latency(const struct tdm_control_totals *t, u64 num, u64 den, char out[16])
{
	return duration(tdmi_latency_ns(&t->stat[TDM_STAT_LATENCY0], num, den), out);
}

void tdmi_report_look(struct run *r)
{
	u32 used = TDM_MIN(tdm_a32_ld_acquire(&r->c->slots_used), TDM_CONTROL_SLOTS), n = 0;

	for (u32 i = 0; i < used && n < SEEN_MAX; i++) {
		const struct tdm_control_slot *s = &r->c->slot[i];
		struct seen *x = &r->seen[n];
		u32 pid = tdm_a32_ld_acquire(&s->pid);

		if (!pid)
			continue;
		x->pid = pid;
		x->managed = tdm_a32_ld_relaxed(&s->managed);
		memcpy(x->comm, s->comm, sizeof(x->comm));
		x->comm[sizeof(x->comm) - 1] = 0;
		for (u32 g = 0; g < TDM_GAUGE_NR; g++)
			x->gauge[g] = g == TDM_GAUGE_USAGE ? tdmi_control_measured(s) : tdm_a64_ld_relaxed(&s->gauge[g]);
		n++;
	}
	if (n)
		r->nseen = n;
}

int tdmi_report_exit(const struct run *r)
{
	return WIFSIGNALED(r->status) ? 128 + WTERMSIG(r->status) : WEXITSTATUS(r->status);
}

void tdmi_report_summary(const struct run *r, FILE *f)
{
	struct tdm_control_totals t;
	char a[16], b[16], d[16], e[16];
	u64 peak = tdm_a64_ld_relaxed(&r->c->peak), procs = tdm_a64_ld_relaxed(&r->c->procs);
	u64 unmanaged = tdm_a64_ld_relaxed(&r->c->unmanaged), over;

	tdmi_control_totals(r->c, &t);
	over = t.stat[TDM_STAT_OVER_BUDGET];
	fprintf(f, "tandem: budget %s, peak %s", tdmi_size_human(r->c->budget, a), tdmi_size_human(peak, b));
	if (over)
		fprintf(f, "; OVER BUDGET %s times: every tier was full", count(over, a));
	fprintf(f, "\ntandem: evicted %s to %s (%s)", tdmi_size_human(t.stat[TDM_STAT_OUT_BYTES_TOTAL], a),
		tdmi_size_human(t.stat[TDM_STAT_PACKED_BYTES_TOTAL], b),
		ratio(t.stat[TDM_STAT_OUT_BYTES_TOTAL], t.stat[TDM_STAT_PACKED_BYTES_TOTAL], d));
	fprintf(f, ", restored %s\n", tdmi_size_human(t.stat[TDM_STAT_IN_BYTES_TOTAL], e));
	fprintf(f, "tandem: faults %s soft, %s hard, p50 %s, p99 %s\n", count(t.stat[TDM_STAT_SOFT_FAULTS], a),
		count(t.stat[TDM_STAT_HARD_FAULTS], b), latency(&t, 1, 2, d), latency(&t, 99, 100, e));
	fprintf(f, "tandem: %s refaults, %s stalls, %s spent waiting\n", count(t.stat[TDM_STAT_REFAULTS], a),
		count(t.stat[TDM_STAT_STALLS], b), duration(t.stat[TDM_STAT_STALL_NS], d));
	fprintf(f, "tandem: %s process%s", count(procs, a), procs == 1 ? "" : "es");
	if (unmanaged)
		fprintf(f, ", %s more could not be managed", count(unmanaged, b));
	if (r->seconds > 0)
		fprintf(f, ", %.2f s\n", r->seconds);
	else
		fprintf(f, ", %u running\n", t.live);
}

void tdmi_report_losses(const struct run *r, FILE *f)
{
	struct tdm_control_totals t;
	u64 lost, poisoned;

	tdmi_control_totals(r->c, &t);
	lost = t.stat[TDM_STAT_LOST];
	poisoned = t.stat[TDM_STAT_POISONED];
	if (lost)
		fprintf(f, "tandem: %" PRIu64 " page%s vanished and read as zeros: what the program has computed since may be wrong; this is a bug of tandem's\n",
			lost, lost == 1 ? "" : "s");
	if (poisoned)
		fprintf(f, "tandem: %" PRIu64 " page%s could not be read back from a tier: lost to the program, which gets SIGBUS there\n", poisoned,
			poisoned == 1 ? "" : "s");
}

void tdmi_report_processes(const struct run *r, FILE *f)
{
	char a[16], b[16], d[16], e[16];

	fprintf(f, "%8s %-15s %9s %9s %9s %9s %9s\n", "pid", "program", "usage", "share", "out", "packed", "managed");
	for (u32 i = 0; i < r->nseen; i++) {
		const struct seen *s = &r->seen[i];

		fprintf(f, "%8u %-15s %9s %9s %9s %9s %9s\n", s->pid, s->comm, tdmi_size_human(s->gauge[TDM_GAUGE_USAGE], a),
			tdmi_size_human(s->gauge[TDM_GAUGE_LIMIT], b), tdmi_size_human(s->gauge[TDM_GAUGE_OUT], d),
			tdmi_size_human(s->gauge[TDM_GAUGE_PACKED], e), s->managed ? "yes" : "not yet");
	}
}

void tdmi_report_live(const struct tdm_control *c, double rate, char *out, size_t len)
{
	struct tdm_control_totals t;
	char a[16], b[16], d[16], e[16], g[16], h[16];

	tdmi_control_totals(c, &t);
	snprintf(out, len, "tandem: %s of %s resident, %s out in %s (%s), %s in the file, %s faults/s",
		 tdmi_size_human(t.gauge[TDM_GAUGE_USAGE], a), tdmi_size_human(c->budget, b), tdmi_size_human(t.gauge[TDM_GAUGE_OUT], d),
		 tdmi_size_human(t.gauge[TDM_GAUGE_PACKED], e), ratio(t.gauge[TDM_GAUGE_OUT], t.gauge[TDM_GAUGE_PACKED], g),
		 tdmi_size_human(t.gauge[TDM_GAUGE_DISK], h), count((u64)rate, (char[16]){ 0 }));
}
