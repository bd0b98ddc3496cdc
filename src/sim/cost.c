/* SPDX-License-Identifier: MIT */
/* cost.c - what things take on a simulated machine. */
#include <string.h>
#include "sim/cost.h"

_Static_assert((int)TDM_COST_ACCESS == TDM_WORK_NR, "the engine's work comes first");
_Static_assert((int)TDM_COST_FAULT == TDM_WORK_FAULT && (int)TDM_COST_PTE == TDM_WORK_PTE && (int)TDM_COST_TABLE_LOCK == TDM_WORK_TABLE_LOCK &&
	       (int)TDM_COST_PAGE_ALLOC == TDM_WORK_PAGE_ALLOC && (int)TDM_COST_PAGE_FREE == TDM_WORK_PAGE_FREE && (int)TDM_COST_PAGE_ZERO == TDM_WORK_PAGE_ZERO &&
	       (int)TDM_COST_PAGE_COPY == TDM_WORK_PAGE_COPY && (int)TDM_COST_RMAP == TDM_WORK_RMAP && (int)TDM_COST_PACK == TDM_WORK_PACK &&
	       (int)TDM_COST_UNPACK == TDM_WORK_UNPACK && (int)TDM_COST_SECONDARY == TDM_WORK_SECONDARY, "in its order");

#define CLOCK TDM_COST_NR
#define BENCH "measured by 'make bench' on an AMD EPYC guest: "

/* Whoever changes a number changes its source. */
static const struct {
	const char *name, *value, *source;
} table[TDM_COST_NR + 1] = {
	[CLOCK] = { "clock", "3 GHz", "parameter" },
	[TDM_COST_FAULT] = { "fault", "400 ns", "parameter: a minor fault of a CPU is usually given as 0.5 to 1 us, with the page and its zeroing" },
	[TDM_COST_PTE] = { "pte", "10 ns", "parameter: two accesses to a line that another CPU may have" },
	[TDM_COST_TABLE_LOCK] = { "table_lock", "20 ns", "parameter: a lock and its release, not contended" },
	[TDM_COST_PAGE_ALLOC] = { "page_alloc", "50 ns", "parameter" },
	[TDM_COST_PAGE_FREE] = { "page_free", "50 ns", "parameter" },
	[TDM_COST_PAGE_ZERO] = { "page_zero", "100 ns", "parameter: 4 KiB at 40 GB/s" },
	[TDM_COST_PAGE_COPY] = { "page_copy", "400 ns", "parameter: 4 KiB at 10 GB/s" },
	[TDM_COST_RMAP] = { "rmap", "30 ns", "parameter" },
	[TDM_COST_PACK] = { "pack", "3100 ns", BENCH "lz4, a page alone (docs/performance.md)" },
	[TDM_COST_UNPACK] = { "unpack", "1200 ns", BENCH "lz4, a page alone (docs/performance.md)" },
	[TDM_COST_SECONDARY] = { "secondary", "50 ns", "parameter: the call; what the IOMMU does for it is counted there" },
	[TDM_COST_ACCESS] = { "access", "1 cycles", "parameter" },
	[TDM_COST_TLB_L2_HIT] = { "tlb_l2_hit", "9 cycles", "parameter: 7 to 12 on several cores" },
	[TDM_COST_WALK_READ] = { "walk_read", "15 cycles", "parameter: entries that a second-level cache has" },
	[TDM_COST_WALK_SET] = { "walk_set", "20 cycles", "parameter: a locked update" },
	[TDM_COST_CONTEXT_SWITCH] = { "context_switch", "1 us", "parameter" },
	[TDM_COST_TLB_LOCAL_ENTRY] = { "tlb_local_entry", "120 cycles", "parameter: INVLPG" },
	[TDM_COST_TLB_LOCAL_ALL] = { "tlb_local_all", "300 cycles", "parameter: CR3 is written; what is missed afterwards counts as walks" },
	[TDM_COST_IPI_SEND] = { "ipi_send", "300 ns", "parameter: for each target" },
	[TDM_COST_IPI_WAIT] = { "ipi_wait", "1000 ns", "parameter: there and back, 1 to 3 us with the handler; in a guest about 10" },
	[TDM_COST_IPI_HANDLE] = { "ipi_handle", "700 ns", "parameter" },
	[TDM_COST_BROADCAST_OP] = { "broadcast_op", "50 ns", "parameter" },
	[TDM_COST_BROADCAST_SYNC] = { "broadcast_sync", "300 ns",
				      "with one operation 350 ns, as an arm64 mprotect gains without its flush: 3.2 to 2.85 us (Linux c320dbb7c80d)" },
	[TDM_COST_BROADCAST_SYNC_CPU] = { "broadcast_sync_cpu", "10 ns", "parameter" },
	[TDM_COST_IOTLB_HIT] = { "iotlb_hit", "20 ns", "parameter" },
	[TDM_COST_IOMMU_WALK_READ] = { "iommu_walk_read", "50 ns", "parameter: an access to memory, mostly" },
	[TDM_COST_ATC_HIT] = { "atc_hit", "2 ns", "parameter" },
	[TDM_COST_ATS_ROUND_TRIP] = { "ats_round_trip", "1 us", "parameter: no published figure; 0.5 to 3 us" },
	[TDM_COST_DMA_64] = { "dma_64", "2.5 ns", "parameter: 64 bytes at 25.6 GB/s, PCIe 4.0 x16" },
	[TDM_COST_REQUEST_POST] = { "request_post", "500 ns", "parameter" },
	[TDM_COST_FAULT_EVENT] = { "fault_event", "5 us", "parameter: an interrupt, and a thread that wakes" },
	[TDM_COST_FAULT_HANDLER] = { "fault_handler", "10 us", "parameter: faults of devices are given as 20 to 300 us altogether; try 20, 100 and 300" },
	[TDM_COST_FAULT_RESPONSE] = { "fault_response", "1 us", "parameter" },
	[TDM_COST_QUEUE_SUBMIT] = { "queue_submit", "50 ns", "parameter" },
	[TDM_COST_QUEUE_COMMAND] = { "queue_command", "100 ns", "parameter" },
	[TDM_COST_ATC_INVALIDATE] = { "atc_invalidate", "1 us", "parameter: a round trip to the device, as ats_round_trip" },
	[TDM_COST_ATC_TIMEOUT] = { "atc_timeout", "100 ms", "parameter: PCIe lets a device take a minute" },
	[TDM_COST_QUEUE_SYNC] = { "queue_sync", "200 ns", "parameter" },
	[TDM_COST_GUEST_EXIT] = { "guest_exit", "500 ns", "parameter: out of the guest and back, 1000 to 2000 cycles" },
	[TDM_COST_GUEST_LOCK_READ] = { "guest_lock_read", "20 ns", "parameter: two changes of a line that all vCPUs use; nobody else can meanwhile" },
	[TDM_COST_GUEST_LOCK_WRITE] = { "guest_lock_write", "20 ns", "parameter: likewise" },
	[TDM_COST_SYSCALL] = { "syscall", "100 ns", "parameter" },
	[TDM_COST_DEVICE_COPY] = { "device_copy", "400 ns", "parameter: 4 KiB at 10 GB/s" },
	[TDM_COST_PIN] = { "pin", "100 ns", "parameter" },
	[TDM_COST_FORK] = { "fork", "50 us", "parameter: besides tables, entries and pages" },
	[TDM_COST_EXEC] = { "exec", "300 us", "parameter: likewise" },
};

const char *tdmi_cost_name(enum tdm_cost c)
{
	return table[c].name;
}

enum tdm_cost tdmi_cost_find(const char *name)
{
	u32 i = 0;

	while (i < TDM_COST_NR && strcmp(table[i].name, name))
		i++;
	return (enum tdm_cost)i;
}

int tdmi_cost_parse(const char *value, struct tdm_duration *out)
{
	struct tdm_duration d;
	int r = tdmi_parse_duration(value, &d);

	/* More than a second for one step: somebody has mistaken the unit. */
	if (!r && d.n > (d.cycles ? 100000000000ull : 1000000000000ull))
		r = -ERANGE;
	if (!r)
		*out = d;
	return r;
}

/* "3 GHz", "2450 MHz". */
static int parse_clock(const char *s, u64 *hz)
{
	static const struct {
		const char *name;
		u64 thousandth;
	} unit[] = { { "GHz", 1000000 }, { "MHz", 1000 } };
	char digits[24];
	size_t n = strspn(s, "0123456789.");
	u32 x;

	if (!n || n >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, s, n);
	digits[n] = 0;
	for (s += n; *s == ' '; s++)
		;
	for (u32 i = 0; i < TDM_ARRAY_SIZE(unit); i++) {
		if (strcmp(s, unit[i].name))
			continue;
		if (tdmi_parse_thousandths(digits, &x))
			return -EINVAL;
		*hz = x * unit[i].thousandth;
		return *hz >= 1000000 && *hz <= 100000000000ull ? 0 : -ERANGE;
	}
	return -EINVAL;
}

static void work_out(struct tdm_costs *c)
{
	for (u32 i = 0; i < TDM_COST_NR; i++)
		c->cycles[i] = tdmi_duration_cycles(c->value[i], c->hz);
}

void tdmi_costs_set(struct tdm_costs *c, enum tdm_cost which, struct tdm_duration d)
{
	c->value[which] = d;
	c->cycles[which] = tdmi_duration_cycles(d, c->hz);
}

static int set(struct tdm_costs *c, u32 i, const char *value, const char *source)
{
	int r = i == CLOCK ? parse_clock(value, &c->hz) : tdmi_cost_parse(value, &c->value[i]);

	if (r)
		return r;
	strncpy(c->source[i], source, sizeof(c->source[i]) - 1);
	c->source[i][sizeof(c->source[i]) - 1] = 0;
	/* Cut off behind a blank it would not read back as the same. */
	for (size_t n = strlen(c->source[i]); n && (c->source[i][n - 1] == ' ' || c->source[i][n - 1] == '\t'); n--)
		c->source[i][n - 1] = 0;
	return 0;
}

void tdmi_costs_default(struct tdm_costs *c)
{
	memset(c, 0, sizeof(*c));
	for (u32 i = 0; i <= TDM_COST_NR; i++)
		TDM_BUG_ON(!table[i].name || set(c, i, table[i].value, table[i].source));
	work_out(c);
}

static int parse_line(struct tdm_costs *c, const struct tdm_text *t, char *line, bool *seen, char *err)
{
	char *key, *value;
	u32 i = 0;
	int r;

	tdmi_text_split(line, &key, &value);
	if (!value || !*key || !*value)
		return tdmi_sim_fail(err, -EINVAL, t->name, t->line, "expected 'NAME = TIME  # source', as in 'ipi_send = 600 ns  # measured on ...'");
	while (i <= TDM_COST_NR && strcmp(table[i].name, key))
		i++;
	if (i > TDM_COST_NR)
		return tdmi_sim_fail(err, -EINVAL, t->name, t->line, "there is no cost '%s'; 'tandem sim --print-costs' lists them", key);
	if (seen[i])
		return tdmi_sim_fail(err, -EINVAL, t->name, t->line, "'%s' for the second time", key);
	seen[i] = true;
	r = set(c, i, value, *t->comment ? t->comment : t->name);
	if (i == CLOCK && r)
		return tdmi_sim_fail(err, -EINVAL, t->name, t->line, "'%s' is no clock rate; expected 1 MHz to 100 GHz, as in '3 GHz' or '2450 MHz'", value);
	if (r == -ERANGE)
		return tdmi_sim_fail(err, -EINVAL, t->name, t->line, "'%s' is out of range; a step takes a second at most, and whole picoseconds", value);
	if (r)
		return tdmi_sim_fail(err, -EINVAL, t->name, t->line, "'%s' is no time; expected a number and cycles, ps, ns, us or ms, as in '1.5 us'", value);
	return 0;
}

static int parse(struct tdm_costs *c, struct tdm_text *t, char *err)
{
	bool seen[TDM_COST_NR + 1] = { 0 };
	char *line;
	int r;

	while ((r = tdmi_text_next(t, &line, err)) > 0)
		if ((r = parse_line(c, t, line, seen, err)))
			break;
	tdmi_text_close(t);
	work_out(c);
	return r;
}

int tdmi_costs_load(struct tdm_costs *c, const char *path, char *err)
{
	struct tdm_text t;
	int r = tdmi_text_open(&t, path, err);

	return r ? r : parse(c, &t, err);
}

int tdmi_costs_parse(struct tdm_costs *c, const char *name, const char *s, char *err)
{
	struct tdm_text t;

	if (tdmi_text_of(&t, name, s))
		return tdmi_sim_fail(err, -ENOMEM, name, 0, "no memory");
	return parse(c, &t, err);
}

void tdmi_costs_print(const struct tdm_costs *c, FILE *f)
{
	char value[40];

	fputs("# What things take on a simulated machine, and where each number comes from; 'parameter': nobody has published one.\n"
	      "# SPDX-License-Identifier: MIT\n", f);
	if (c->hz % 1000000000)
		snprintf(value, sizeof(value), "%llu.%03u MHz", (unsigned long long)(c->hz / 1000000), (unsigned)(c->hz / 1000 % 1000));
	else
		snprintf(value, sizeof(value), "%llu GHz", (unsigned long long)(c->hz / 1000000000));
	fprintf(f, "%-18s = %-10s  # %s\n", table[CLOCK].name, value, c->source[CLOCK]);
	for (u32 i = 0; i < TDM_COST_NR; i++)
		fprintf(f, "%-18s = %-10s  # %s\n", table[i].name, tdmi_fmt_duration(c->value[i], value), c->source[i]);
}
