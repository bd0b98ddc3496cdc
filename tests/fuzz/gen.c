/* SPDX-License-Identifier: MIT */
/* gen.c - see gen.h. */
#include "gen.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/check.h"

/* ---- sources */

static u32 below_random(struct source *s, u32 n)
{
	return (u32)tdm_rng_below(&s->rng, n);
}

void source_seed(struct source *s, u64 seed)
{
	*s = (struct source){ .below = below_random };
	tdm_rng_init(&s->rng, seed, 0);
}

/* As few bytes as it takes, so that a fuzzer's changes stay where they are. */
static u32 below_bytes(struct source *s, u32 n)
{
	u32 v = 0;

	for (u32 room = 1; room < n; room <<= 8) {
		s->dry |= !s->len;
		if (s->dry)
			return 0;
		v = v << 8 | *s->bytes++;
		s->len--;
		if (room > ~0u >> 8)
			break;
	}
	return v % n;
}

void source_bytes(struct source *s, const u8 *bytes, size_t len)
{
	*s = (struct source){ .below = below_bytes, .bytes = bytes, .len = len };
}

static u32 below_odometer(struct source *s, u32 n)
{
	TDM_BUG_ON(s->at == WHEELS);
	if (s->at == s->nwheels) {
		s->wheel[s->nwheels] = 0;
		s->size[s->nwheels++] = n;
	}
	return s->wheel[s->at++];
}

void source_odometer(struct source *s)
{
	*s = (struct source){ .below = below_odometer };
}

bool source_turn(struct source *s)
{
	s->nwheels = s->at;
	s->at = 0;
	while (s->nwheels && s->wheel[s->nwheels - 1] + 1 == s->size[s->nwheels - 1])
		s->nwheels--;
	if (!s->nwheels)
		return false;
	s->wheel[s->nwheels - 1]++;
	return true;
}

static u32 below(struct source *s, u32 n)
{
	return s->below(s, n);
}

/* ---- machines */

struct knob {
	const char *section, *key, *value[5]; /* value[0], the default, is not written. One that is there twice is tried twice as often */
};

static const struct knob knobs[] = {
	{ "machine", "cpus", { NULL, "2", "3", "2" } },
	{ "machine", "flush", { NULL, "broadcast", "local" } },
	{ "machine", "asids", { NULL, "0", "4" } },
	{ "machine", "ceiling", { NULL, "0", "2" } },
	{ "machine", "l2_4k", { NULL, "none", "8x16" } },
	{ "machine", "leaves", { NULL, "4K 2M", "4K" } },
	{ "machine", "access_flag", { NULL, "software" } },
	{ "machine", "dirty_flag", { NULL, "software" } },
	{ "machine", "tier", { NULL, "lz4", "lz4", "lz4" } },
	{ "machine", "batch", { NULL, "off" } },
	{ "machine", "batch_secondary", { NULL, "on" } },
	{ "machine", "aging", { NULL, "flush", "flush-secondary" } },
	{ "iommu", "access_flag", { NULL, "software" } },
	{ "iommu", "dirty_flag", { NULL, "software" } },
	{ "iommu", "sync_each", { NULL, "on" } },
	{ "iommu", "split", { NULL, "1", "2" } },
	{ "iommu", "whole_pages", { NULL, "1", "4", "0" } },
	{ "iommu", "queue", { NULL, "2", "4" } },
	{ "iommu", "stalls", { NULL, "1" } },
	{ "iommu", "pin_after", { NULL, "1", "3" } },
	{ "device d0", "map_read_only", { NULL, "on", "on" } },
	{ "device d0", "depth", { NULL, "4" } },
	{ "device d0", "group", { NULL, "4" } },
	{ "device d0", "stop_marker", { NULL, "on" } },
	{ "device d1", "map_read_only", { NULL, "on", "on" } },
	{ "device d1", "depth", { NULL, "3" } },
	{ "iommu", "snoop", { NULL, "on" } },
};

#define KNOB_FLUSH 1u
#define FLUSH_BROADCAST 1u
#define KNOB_SNOOP (TDM_ARRAY_SIZE(knobs) - 1)

/* What is said in any case. */
static const struct {
	const char *section, *lines;
} always[] = {
	{ "machine", "ram = 2M\ntlb = small\n" },
	{ "iommu", "iotlb_4k = 8x4\niotlb_2m = 2x2\n" },
	{ "device d0", "fault = pri\ngive_up = 20\natc_4k = 8x4\ncoherent = 2M\nvram = 20M\n" },
	{ "device d1", "fault = stall\ngive_up = 20\n" },
	{ "device d2", "fault = none\n" },
};

static u32 values_of(const struct knob *k)
{
	u32 n = 1;

	while (n < TDM_ARRAY_SIZE(k->value) && k->value[n])
		n++;
	return n;
}

static u32 cpus_of(const struct knobs *k)
{
	const char *v = knobs[0].value[k->at[0]];

	return v ? (u32)atoi(v) : 1;
}

/* ---- operations */

struct gen {
	struct source *s;
	const struct domain *d; /* NULL: the whole world */
	u32 cpus, value;
};

struct weight {
	u8 what;
	u16 n;
};

static const struct weight weights[] = {
	{ TDM_DO_READ, 90 }, { TDM_DO_WRITE, 120 }, { TDM_DO_MMAP, 20 }, { TDM_DO_MMAP_SHARED, 14 }, { TDM_DO_MMAP_DEVICE, 12 },
	{ TDM_DO_MUNMAP, 12 }, { TDM_DO_MPROTECT, 24 }, { TDM_DO_MREMAP, 16 }, { TDM_DO_DONTNEED, 8 }, { TDM_DO_FREE, 14 },
	{ TDM_DO_CLEAR_SOFT_DIRTY, 8 }, { TDM_DO_FORK, 16 }, { TDM_DO_EXIT, 9 }, { TDM_DO_SPAWN, 3 }, { TDM_DO_IDLE, 6 },
	{ TDM_DO_DMA_READ, 24 }, { TDM_DO_DMA_WRITE, 30 }, { TDM_DO_UNBIND, 4 }, { TDM_DO_GUEST, 6 }, { TDM_DO_GUEST_READ, 14 },
	{ TDM_DO_GUEST_WRITE, 16 }, { TDM_DO_GUEST_END, 2 }, { TDM_DO_PIN, 18 }, { TDM_DO_UNPIN, 8 }, { TDM_DO_PIN_READ, 8 },
	{ TDM_DO_PIN_WRITE, 12 }, { TDM_DO_MIGRATE, 20 }, { TDM_DO_EVICT, 40 }, { TDM_DO_AGE, 8 }, { TDM_DO_INSERT, 8 },
	{ TDM_DO_COLLAPSE, 6 }, { TDM_DO_MOVE, 6 }, { TDM_DO_DROP, 3 }, { TDM_DO_FAIL, 14 }, { TDM_DO_RAM, 8 },
};

static u8 pick_what(struct gen *g)
{
	u32 sum = 0, at, i = 0;

	if (g->d)
		return g->d->what[below(g->s, g->d->nwhat)];
	for (u32 k = 0; k < TDM_ARRAY_SIZE(weights); k++)
		sum += weights[k].n;
	for (at = below(g->s, sum); at >= weights[i].n; i++)
		at -= weights[i].n;
	return weights[i].what;
}

/* Where something may go wrong: around the ends of page tables. */
static u32 pick_page(struct gen *g)
{
	switch (below(g->s, 8)) {
	case 0:
		return below(g->s, TDM_SCRIPT_PAGES);
	case 1:
		return TDM_SCRIPT_LEAD + TDM_HUGE_PAGES - 8 + below(g->s, 16);
	case 2:
		return TDM_SCRIPT_LEAD + 2 * TDM_HUGE_PAGES - 8 + below(g->s, 24);
	default:
		return TDM_SCRIPT_LEAD - 8 + below(g->s, 16);
	}
}

static u32 pick_count(struct gen *g, u8 what)
{
	bool touches = what == TDM_DO_READ || what == TDM_DO_WRITE || what == TDM_DO_DMA_READ || what == TDM_DO_DMA_WRITE || what == TDM_DO_GUEST_READ ||
		what == TDM_DO_GUEST_WRITE;
	u32 kind = below(g->s, 16);

	if (touches)
		return 1 + below(g->s, kind ? 4 : 16);
	if (kind == 0)
		return TDM_HUGE_PAGES;
	if (kind <= 2 || what == TDM_DO_GUEST)
		return 8 + below(g->s, kind == 1 ? 600 : 40);
	return 1 + below(g->s, 8);
}

/* A range, and where else it is to be: all within what there is. */
static void pick_range(struct gen *g, struct tdm_op *op, const char *args)
{
	u32 n = g->d ? 1 + below(g->s, g->d->count) : pick_count(g, op->what), most = TDM_SCRIPT_PAGES;
	const char *o = strchr(args, 'o');

	if (o)
		most = op->what == TDM_DO_MMAP_SHARED ? TDM_SCRIPT_SHARED_PAGES : TDM_SCRIPT_BUFFER_PAGES;
	n = TDM_MIN(n, most);
	for (u32 i = 0; args[i]; i++)
		if (args[i] == 'n') {
			op->arg[i] = n;
		} else if (args[i] == 'g') {
			u32 page = g->d ? g->d->page + below(g->s, g->d->pages) : pick_page(g);

			op->arg[i] = TDM_MIN(page, TDM_SCRIPT_PAGES - n);
		}
	/* Less than a whole slot there is no leaf for. */
	if (op->what == TDM_DO_COLLAPSE && (g->d || below(g->s, 4))) {
		op->arg[1] = 0;
		op->arg[2] = TDM_SCRIPT_PAGES;
	}
	if (!o || g->d)
		return;
	/* As an address lies to a leaf, or anywhere. */
	if (op->what == TDM_DO_MMAP_DEVICE && below(g->s, 2)) {
		op->arg[1] = TDM_SCRIPT_LEAD + below(g->s, 2) * TDM_HUGE_PAGES;
		if (below(g->s, 2))
			op->arg[2] = n = TDM_HUGE_PAGES + (op->arg[1] == TDM_SCRIPT_LEAD ? below(g->s, 80) : 0);
		op->arg[1] = TDM_MIN(op->arg[1], TDM_SCRIPT_PAGES - n);
	} else {
		op->arg[o - args] = below(g->s, most - n + 1);
	}
}

static u32 pick_number(struct gen *g, u8 what, u32 i)
{
	switch (what) {
	case TDM_DO_EVICT:
		return g->d ? 200 : 1 + below(g->s, i ? 200 : 64);
	case TDM_DO_FAIL:
		return 1 + below(g->s, g->d ? 14 : below(g->s, 4) ? 5 : 40);
	default:
		return below(g->s, 4) ? below(g->s, 40) : 512;
	}
}

static u32 pick_arg(struct gen *g, u8 what, char letter, u32 i)
{
	u32 words = 0;

	switch (letter) {
	case 'p':
		return below(g->s, g->d ? g->d->processes : TDM_SCRIPT_PROCESSES);
	case 'c':
		return below(g->s, g->cpus);
	case 'd':
		return below(g->s, g->d ? g->d->devices : 3);
	case 's':
		return g->d ? 0 : below(g->s, TDM_SCRIPT_SHARED);
	case 'b':
		return g->d ? 0 : below(g->s, TDM_SCRIPT_BUFFERS);
	case 'i':
		return below(g->s, g->d ? g->d->pins : TDM_SCRIPT_PINS);
	case 'v':
		g->value += 16;
		return g->d ? g->value : g->value + below(g->s, 2);
	case '#':
		return pick_number(g, what, i);
	default:
		while (tdmi_op_words(letter) && tdmi_op_words(letter)[words])
			words++;
		return words ? below(g->s, words) : 0;
	}
}

static void gen_op(struct gen *g, struct tdm_op *op)
{
	const char *args;

	*op = (struct tdm_op){ .what = pick_what(g) };
	args = tdm_op_table[op->what].args;
	for (u32 i = 0; args[i]; i++)
		if (!strchr("gno", args[i]))
			op->arg[i] = pick_arg(g, op->what, args[i], i);
	if (strchr(args, 'n') || strchr(args, 'g'))
		pick_range(g, op, args);
}

static bool parse_into(struct script *out, const char *lines)
{
	char copy[96], err[200];

	for (const char *end; *lines; lines = end + (*end == '\n')) {
		end = strchrnul(lines, '\n');
		snprintf(copy, sizeof(copy), "%.*s", (int)(end - lines), lines);
		if (tdmi_op_parse(&out->op[out->nops++], copy, err, sizeof(err)))
			return false;
	}
	return true;
}

void gen_script(struct source *s, u32 n, struct script *out)
{
	struct gen g = { .s = s };

	out->nops = 0;
	for (u32 i = 0; i < TDM_ARRAY_SIZE(knobs); i++)
		out->knobs.at[i] = (u8)below(s, values_of(&knobs[i]));
	g.cpus = cpus_of(&out->knobs);
	/* Nobody hears broadcasts that there are not. */
	if (out->knobs.at[KNOB_FLUSH] != FLUSH_BROADCAST)
		out->knobs.at[KNOB_SNOOP] = 0;
	/* Memory to begin with. */
	TDM_BUG_ON(!parse_into(out, "mmap p0 8 24 rw"));
	if (below(s, 2))
		TDM_BUG_ON(!parse_into(out, "mmap p0 520 24 rw"));
	while (out->nops < TDM_MIN(n, TDM_SCRIPT_OPS) && !s->dry)
		gen_op(&g, &out->op[out->nops++]);
}

void gen_small(struct source *s, const struct domain *d, u32 n, struct script *out)
{
	struct gen g = { .s = s, .d = d, .cpus = 1 };

	*out = (struct script){ .nops = 0 };
	TDM_BUG_ON(!parse_into(out, d->prefix));
	while (n--)
		gen_op(&g, &out->op[out->nops++]);
}

/* ---- small worlds */

#define WHAT(...) .what = (const u8[]){ __VA_ARGS__ }, .nwhat = sizeof((const u8[]){ __VA_ARGS__ })
#define PREFIX "mmap p0 14 4 rw\nwrite p0 c0 15 2 2"
#define RICH                                                                                                             \
	PREFIX "\nmmap p0 24 8 rw\nwrite p0 c0 24 8 4\nfork p0 p2\nwrite p0 c0 25 1 6\npin p0 17 i0 write\npin p0 25 i1 long-write\n"  \
	       "mmap-shared p0 30 2 rw s0 0\nwrite p0 c0 30 2 1\nmmap-device p0 100 8 rw b0 0\nmmap-device p0 528 520 rw b0 0\nwrite p0 c0 600 1 2"

const struct domain domains[] = {
	{ .name = "all", .machine = "tier = lz4\n", .prefix = PREFIX, .depth = 2, .processes = 2, .devices = 1, .pins = 1, .page = 15, .pages = 2, .count = 1,
	  WHAT(TDM_DO_READ, TDM_DO_WRITE, TDM_DO_MUNMAP, TDM_DO_MPROTECT, TDM_DO_MREMAP, TDM_DO_DONTNEED, TDM_DO_FREE, TDM_DO_CLEAR_SOFT_DIRTY, TDM_DO_FORK,
	       TDM_DO_EXIT, TDM_DO_DMA_READ, TDM_DO_DMA_WRITE, TDM_DO_GUEST, TDM_DO_GUEST_WRITE, TDM_DO_PIN, TDM_DO_PIN_WRITE, TDM_DO_MIGRATE, TDM_DO_EVICT) },
	{ .name = "fork", .machine = "tier = lz4\n", .prefix = PREFIX, .depth = 3, .processes = 2, .devices = 1, .pins = 1, .page = 15, .pages = 1, .count = 1,
	  WHAT(TDM_DO_WRITE, TDM_DO_FORK, TDM_DO_EXIT, TDM_DO_EVICT, TDM_DO_PIN, TDM_DO_PIN_WRITE) },
	{ .name = "rights", .machine = "tier = lz4\n", .prefix = PREFIX, .depth = 2, .processes = 2, .devices = 1, .pins = 1, .page = 15, .pages = 2,
	  .count = 2,
	  WHAT(TDM_DO_WRITE, TDM_DO_FORK, TDM_DO_EVICT, TDM_DO_MPROTECT, TDM_DO_MREMAP) },
	{ .name = "devices", .machine = "tier = lz4\nbatch_secondary = on\n", .prefix = PREFIX, .depth = 3, .processes = 2, .devices = 1, .pins = 1, .page = 15,
	  .pages = 1, .count = 1,
	  WHAT(TDM_DO_DMA_READ, TDM_DO_DMA_WRITE, TDM_DO_FORK, TDM_DO_EVICT, TDM_DO_FREE, TDM_DO_WRITE, TDM_DO_MIGRATE) },
	{ .name = "driver", .machine = "", .prefix = "mmap-device p0 16 600 rw b0 0", .depth = 2, .processes = 2, .devices = 1, .pins = 1, .page = 15,
	  .pages = 2, .count = 1,
	  WHAT(TDM_DO_MMAP_DEVICE, TDM_DO_WRITE, TDM_DO_INSERT, TDM_DO_MOVE, TDM_DO_COLLAPSE, TDM_DO_FORK, TDM_DO_MREMAP, TDM_DO_MPROTECT) },
	{ .name = "shared", .machine = "tier = lz4\n", .prefix = PREFIX, .depth = 2, .processes = 2, .devices = 1, .pins = 1, .page = 15, .pages = 2,
	  .count = 1,
	  WHAT(TDM_DO_MMAP_SHARED, TDM_DO_WRITE, TDM_DO_FORK, TDM_DO_EVICT, TDM_DO_MUNMAP, TDM_DO_EXIT, TDM_DO_DROP, TDM_DO_PIN) },
	{ .name = "lazy", .machine = "tier = lz4\n", .prefix = PREFIX, .depth = 4, .processes = 1, .devices = 1, .pins = 1, .page = 15, .pages = 1, .count = 1,
	  WHAT(TDM_DO_WRITE, TDM_DO_FREE, TDM_DO_MPROTECT, TDM_DO_EVICT) },
	{ .name = "leaves", .machine = "", .prefix = "mmap-device p0 16 600 rw b0 0\nread p0 c0 16 1", .depth = 4, .processes = 1, .devices = 1, .pins = 1,
	  .page = 20, .pages = 1, .count = 1,
	  WHAT(TDM_DO_READ, TDM_DO_WRITE, TDM_DO_MPROTECT, TDM_DO_COLLAPSE, TDM_DO_MOVE, TDM_DO_INSERT) },
	/* Each kind of failure, at each place, in each of these. */
	{ .name = "failures", .machine = "tier = lz4\n", .prefix = RICH, .depth = 2, .processes = 2, .devices = 1, .pins = 1, .page = 17, .pages = 1,
	  .count = 1,
	  WHAT(TDM_DO_FAIL, TDM_DO_FORK, TDM_DO_EVICT, TDM_DO_MMAP, TDM_DO_MREMAP, TDM_DO_MIGRATE, TDM_DO_WRITE, TDM_DO_INSERT) },
};
const u32 ndomains = TDM_ARRAY_SIZE(domains);

/* ---- as a scenario */

static size_t say(char *out, size_t len, size_t n, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static size_t say(char *out, size_t len, size_t n, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = vsnprintf(out + n, n < len ? len - n : 0, fmt, ap);
	va_end(ap);
	return TDM_MIN(n + (size_t)r, len);
}

size_t gen_print(const struct script *sc, const struct domain *d, const char *question, char *out, size_t len)
{
	size_t n = say(out, len, 0, "# %s\n", question);
	char text[96];

	for (u32 i = 0; i < TDM_ARRAY_SIZE(always); i++) {
		n = say(out, len, n, "[%s]\n%s", always[i].section, always[i].lines);
		if (d && !i)
			n = say(out, len, n, "%s", d->machine);
		for (u32 k = 0; k < TDM_ARRAY_SIZE(knobs); k++)
			if (!strcmp(knobs[k].section, always[i].section) && sc->knobs.at[k])
				n = say(out, len, n, "%s = %s\n", knobs[k].key, knobs[k].value[sc->knobs.at[k]]);
	}
	n = say(out, len, n, "[script]\n");
	for (u32 i = 0; i < sc->nops; i++)
		n = say(out, len, n, "%s\n", tdmi_op_print(&sc->op[i], text));
	return n;
}
