/* SPDX-License-Identifier: MIT */
/* Scenarios: those that are shipped, every key, every mistake once, sweeps and what the command line changes. */
#include <stdlib.h>
#include <string.h>
#include "runner/t.h"
#include "sim/scenario.h"

#define GIB ((u64)1 << 30)

static struct tdm_scenario s, one;
static char err[TDM_SIM_ERR];

static void load(const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s.sim", TDM_EXAMPLES, name);
	if (tdmi_scenario_load(&s, path, NULL, 0, err))
		t_fail(__FILE__, __LINE__, "%s", err);
}

static void point(u32 n)
{
	if (tdmi_scenario_point(&s, n, &one, err))
		t_fail(__FILE__, __LINE__, "%s", err);
}

static void parse(const char *text)
{
	if (tdmi_scenario_parse(&s, "f", text, NULL, 0, err))
		t_fail(__FILE__, __LINE__, "%s", err);
}

static const struct tdm_sim_agent *agent(const char *name)
{
	for (u32 i = 0; i < one.nagents; i++)
		if (!strcmp(one.agent[i].s.name, name))
			return &one.agent[i];
	t_fail(__FILE__, __LINE__, "no agent %s", name);
}

/* ---- the scenarios that are shipped: what they are about; how long they run may change ----------------------------------------- */

TEST(shootdown)
{
	const char *v[TDM_SIM_AXES];

	load("shootdown");
	CHECK(!strncmp(s.question, "What does a TLB shootdown cost", 30));
	CHECK_EQ(tdmi_scenario_points(&s), 18);
	for (u32 i = 0; i < 18; i++) {
		point(i);
		CHECK_EQ(one.machine.flush, i / 6);
		CHECK_EQ(one.machine.cpus, 2u << i % 6);
		CHECK_EQ(agent("readers")->threads, one.machine.cpus - 1);
		CHECK_EQ(agent("readers")->pattern, TDM_SIM_UNIFORM);
		CHECK_EQ(agent("readers")->accesses, 0);
		CHECK_EQ(agent("unmapper")->cpu, 0);
		CHECK_EQ(agent("unmapper")->threads, 1);
		CHECK(agent("unmapper")->rounds > 0);
		CHECK_STR(one.mapping[agent("unmapper")->mapping.index].s.name, "scratch");
	}
	tdmi_scenario_values(&s, 9, v);
	CHECK_STR(v[0], "ipi");
	CHECK_STR(v[1], "16");
	CHECK(s.column[0].quotient);
	CHECK_EQ(s.column[0].a.which, TDM_AGENT_CYCLES);
	CHECK_EQ(s.column[0].b.which, TDM_AGENT_DONE);
	CHECK_EQ(s.column[0].a.agent, 0);
	CHECK_EQ(s.column[1].a.agent, -1);
	CHECK_EQ(s.column[1].a.which, TDM_COL_FLUSHES);
}

TEST(reclaim_batch)
{
	load("reclaim-batch");
	CHECK_EQ(tdmi_scenario_points(&s), 4);
	for (u32 i = 0; i < 4; i++) {
		point(i);
		CHECK_EQ(one.machine.batch, i / 2);
		CHECK_EQ(one.machine.batch_secondary, i % 2);
		CHECK_EQ(one.machine.tier, TDM_SIM_TIER_LZ4);
		CHECK(agent("kswapd")->target > 0);
		CHECK(agent("worker")->writes > 0);
		CHECK_EQ(agent("stream")->unit, 4096);
		CHECK(one.device[0].ats); /* as page requests need it */
	}
}

TEST(dma_reclaim)
{
	static const u32 fault[] = { TDM_SIM_FAULT_STALL, TDM_SIM_FAULT_PRI, TDM_SIM_FAULT_PRI, TDM_SIM_FAULT_NONE };
	static const u64 us[] = { 200, 20, 2 };

	load("dma-reclaim");
	CHECK_EQ(tdmi_scenario_points(&s), 12);
	for (u32 i = 0; i < 12; i++) {
		point(i);
		CHECK_EQ(one.device[0].fault, fault[i / 3]);
		CHECK_EQ(one.device[0].ats, fault[i / 3] == TDM_SIM_FAULT_PRI);
		CHECK_EQ(one.iommu.pin_after, i / 3 == 2 ? 4 : 0);
		CHECK_EQ(agent("stream")->pin, i / 3 == 3);
		CHECK_EQ(agent("kswapd")->every.n, us[i % 3] * 1000000);
		CHECK(one.run.time.n > 0);
	}
}

TEST(fork_exec)
{
	load("fork-exec");
	CHECK_EQ(tdmi_scenario_points(&s), 4);
	for (u32 i = 0; i < 4; i++) {
		point(i);
		CHECK_EQ(one.device[0].map_read_only, i / 2);
		CHECK_EQ(agent("reader")->writes, i % 2 * 10);
		CHECK(agent("shell")->exec);
		CHECK_EQ(one.mapping[0].kind, TDM_SIM_COHERENT);
		CHECK(one.mapping[0].populate);
		CHECK_EQ(one.mapping[0].device.index, 0);
	}
}

TEST(object_fill)
{
	load("object-fill");
	CHECK_EQ(tdmi_scenario_points(&s), 12);
	for (u32 i = 0; i < 12; i++) {
		point(i);
		CHECK_EQ(agent("fill")->by, i < 4 ? TDM_SIM_BY_RANGE : TDM_SIM_BY_FAULT);
		CHECK_EQ(one.object[0].fault_huge, i < 8);
		CHECK_EQ(one.mapping[0].misalign, i / 2 % 2 * 4096);
		CHECK_EQ(agent("collapse")->enabled, i % 2);
		CHECK_EQ(one.mapping[0].size, GIB); /* all of the object */
		CHECK_EQ(agent("fill")->rounds, 1);
		CHECK_EQ(one.agent[agent("read")->after.index].kind, TDM_SIM_COLLAPSE);
	}
}

TEST(aging)
{
	load("aging");
	CHECK_EQ(tdmi_scenario_points(&s), 6);
	for (u32 i = 0; i < 6; i++) {
		point(i);
		CHECK_EQ(one.machine.aging, i / 2);
		CHECK_EQ(one.device[0].atc.level[0][0].sets, i % 2 ? 64 : 4);
		CHECK(agent("ager")->every.n > 0);
	}
}

TEST(guest_aging)
{
	static const u32 vcpus[] = { 5, 17, 65, 17, 17 };

	load("guest-aging");
	CHECK_EQ(tdmi_scenario_points(&s), 15);
	for (u32 i = 0; i < 15; i++) {
		point(i);
		CHECK_EQ(one.guest[0].aging, i % 3);
		CHECK_EQ(one.guest[0].vcpus, vcpus[i / 3]);
		CHECK_EQ(one.guest[0].process.index, 0);
		/* One has the set in use, the others fault. */
		CHECK_EQ(agent("hot")->cpu, 1);
		CHECK_EQ(agent("hot")->threads, 1);
		CHECK_EQ(agent("workers")->threads, vcpus[i / 3] - 1);
		CHECK_EQ(agent("workers")->guest.index, 0);
		CHECK_EQ(agent("kswapd")->cpu, 0);
		CHECK_EQ(one.machine.tier, i < 9 ? TDM_SIM_TIER_NONE : TDM_SIM_TIER_LZ4);
		CHECK_EQ(one.machine.aging, i < 12 ? TDM_SIM_AGING_CLEAR : TDM_SIM_AGING_FLUSH);
	}
}

/* ---- keys ------------------------------------------------------------------------------------------------------------------------ */

#define Q "# Why?\n"
#define BASE Q "[process p]\n[mapping m]\nprocess = p\nkind = anonymous\nsize = 1M\n[agent a]\nkind = cpu\nmapping = m\npattern = uniform\naccesses = 1k\n"
#define PRINT "[print]\ncolumns = cycles\n"

TEST(defaults)
{
	parse(BASE PRINT);
	point(0);
	CHECK_STR(s.question, "Why?");
	CHECK_EQ(tdmi_scenario_points(&s), 1);
	CHECK_EQ(one.machine.cpus, 1);
	CHECK_EQ(one.machine.flush, TDM_SIM_FLUSH_IPI);
	CHECK_EQ(one.machine.ram, 256 << 20);
	CHECK_EQ(one.machine.leaves, 4096 | TDM_HUGE_SIZE | GIB);
	CHECK(one.machine.access_hw && one.machine.dirty_hw && one.machine.batch && !one.machine.batch_secondary);
	CHECK_EQ(one.machine.tlb.level[1][0].sets, 128);
	CHECK_EQ(one.machine.tlb.level[1][0].ways, 12);
	CHECK_EQ(one.machine.tlb.level[1][1].ways, TDM_TLB_WITH_4K);
	CHECK_EQ(one.run.seed, 1);
	CHECK_EQ(one.run.from.index, -1);
	CHECK_EQ(agent("a")->accesses, 1000);
	CHECK_EQ(agent("a")->unit, 4096);
	CHECK_EQ(agent("a")->after.index, -1);
	CHECK(agent("a")->enabled && one.mapping[0].writable);
}

/* Values of every type end up where they belong. */
TEST(values)
{
	parse(Q "[machine]\ncpus = 8\nasids=0\nflush = broadcast\nceiling = 1k\nbroadcast_pages = 512\ntlb = small\nl1_4k = 32x2\nl1_2m = shared\nl2_1g = none\nleaves = 2M 4K\naccess_flag = software\n"
	      "dirty_flag = hardware\nram = 1.5G\ntier = lz4\nbatch = off\nbatch_secondary = on\naging = flush-secondary # why not\n"
	      "[iommu]\naccess_flag = software\ndirty_flag = software\nsnoop = on\niotlb_4k = 1x8\niotlb_2m = none\niotlb_1g = 2x2\nleaves = 4K\nqueue = 64\nsplit = 1\nwhole_pages = 0\n"
	      "sync_each = on\nrequests = 32\nstalls = 3\npin_after = 9\n"
	      "[costs]\nipi_send = 2us\npte = 0\n"
	      "[device d]\nfault = stall\nats = off\natc_4k = 4x4\natc_2m = none\natc_1g = none\nleaves = 4K 2M\nunit = 64\nburst = 128\ndepth = 3\ngroup = 4\ncredit = 5\ngive_up = 6\n"
	      "stop_marker = on\nmap_read_only = on\ncoherent = 2M\nvram = 4M\n"
	      "[process p]\n[object o]\ndevice = d\nsize = 4M\ncontiguous = 64K\nplacement = system\nmax_prefault = 1M\nfault_huge = off\n"
	      "[mapping m]\nprocess = p\nkind = object\nobject = o\nsize = 1M\noffset = 2M\nmisalign = 8K\nwritable = off\n"
	      "[mapping n]\nprocess = p\nkind = shared\nsize = 4G\npopulate = on\ncontent = noise\n"
	      "[mapping c]\nprocess = p\nkind = coherent\ndevice = d\nsize = 2M\n"
	      "[agent a]\nkind = cpu\nmapping = n\ncpu = 2\nthreads = 3\npattern = strided\nunit = 64\nstride = 128\nwrites = 12.5%\nevery = 3 cycles\n"
	      "[agent z]\nkind = cpu\nmapping = n\npattern = zipf\ntheta = 1.2\nthreads = rest\n"
	      "[agent b]\nkind = dma\ndevice = d\nmapping = c\npattern = chase\ntransfer = 64K\npin = on\naccesses = 2G\n"
	      "[agent r]\nkind = reclaim\npages = 7\ntarget = 1M\nafter = b\nenabled = off\n"
	      "[agent f]\nkind = fork\nprocess = p\nexec = off\nrounds = 3\n[agent u]\nkind = protect\nmapping = m\npages = 2\nrounds = 5\n[agent i]\nkind = fill\nmapping = m\nby = fault\n"
	      "[agent e]\nkind = evict\nobject = o\n"
	      "[guest g]\nprocess = p\nvcpus = 3\ncpu = 5\naging = write\nfill = write\nelide_flush = on\n"
	      "[agent v]\nkind = vcpu\nguest = g\nmapping = n\nvcpu = 1\nthreads = 2\npattern = uniform\n[agent w]\nkind = vcpu\nguest = g\nmapping = n\nthreads = rest\npattern = uniform\n"
	      "[run]\nseed = 9223372036854775807\naccesses = 5M\ntime = 1s\nfrom = b\n" PRINT);
	point(0);
	CHECK(one.machine.cpus == 8 && one.machine.asids == 0 && one.machine.flush == TDM_SIM_FLUSH_BROADCAST && one.machine.ceiling == 1000 && one.machine.broadcast_pages == 512);
	CHECK(one.machine.tlb.level[0][0].sets == 32 && one.machine.tlb.level[0][0].ways == 2 && one.machine.tlb.level[1][2].ways == 0 && one.machine.tlb.level[0][1].ways == TDM_TLB_WITH_4K && one.machine.tlb.level[1][0].sets == 16);
	CHECK(one.machine.leaves == (4096 | TDM_HUGE_SIZE) && !one.machine.access_hw && one.machine.dirty_hw && one.machine.ram == 3 * GIB / 2);
	CHECK(one.machine.tier == TDM_SIM_TIER_LZ4 && !one.machine.batch && one.machine.batch_secondary && one.machine.aging == TDM_SIM_AGING_FLUSH_SECONDARY);
	CHECK(!one.iommu.access_hw && !one.iommu.dirty_hw && one.iommu.snoop && one.iommu.iotlb.level[0][0].ways == 8 && one.iommu.iotlb.level[0][1].ways == 0);
	CHECK(one.iommu.iotlb.level[0][2].sets == 2 && one.iommu.leaves == 4096 && one.iommu.queue == 64 && one.iommu.split == 1 && one.iommu.whole_pages == 0);
	CHECK(one.iommu.sync_each && one.iommu.requests == 32 && one.iommu.stalls == 3 && one.iommu.pin_after == 9);
	CHECK(one.device[0].fault == TDM_SIM_FAULT_STALL && !one.device[0].ats && one.device[0].atc.level[0][0].sets == 4 && one.device[0].atc.level[0][1].ways == 0);
	CHECK(one.device[0].unit == 64 && one.device[0].burst == 128 && one.device[0].depth == 3 && one.device[0].group == 4 && one.device[0].credit == 5);
	CHECK(one.device[0].give_up == 6 && one.device[0].stop_marker && one.device[0].map_read_only && one.device[0].coherent == 2 << 20 && one.device[0].vram == 4 << 20);
	CHECK(one.object[0].device.index == 0 && one.object[0].size == 4 << 20 && one.object[0].contiguous == 65536 && one.object[0].placement == TDM_SIM_IN_SYSTEM);
	CHECK(one.object[0].max_prefault == 1 << 20 && !one.object[0].fault_huge);
	CHECK(one.mapping[0].object.index == 0 && one.mapping[0].offset == 2 << 20 && one.mapping[0].misalign == 8192 && !one.mapping[0].writable);
	CHECK(one.mapping[1].kind == TDM_SIM_SHARED && one.mapping[1].size == 4 * GIB && one.mapping[1].populate && one.mapping[1].content == TDM_SIM_NOISE);
	CHECK(agent("a")->cpu == 2 && agent("a")->threads == 3 && agent("a")->unit == 64 && agent("a")->stride == 128 && agent("a")->writes == 125);
	CHECK(agent("a")->every.cycles && agent("a")->every.n == 3 && agent("z")->theta == 1200);
	CHECK(agent("b")->transfer == 65536 && agent("b")->unit == 65536 && agent("b")->pin && agent("b")->accesses == 2000000000);
	CHECK(agent("r")->pages == 7 && agent("r")->target == 1 << 20 && !agent("r")->enabled && one.agent[agent("r")->after.index].kind == TDM_SIM_DMA);
	CHECK(!agent("f")->exec && agent("u")->pages == 2 && agent("i")->by == TDM_SIM_BY_FAULT);
	CHECK(one.run.seed == ((u64)1 << 63) - 1 && one.run.accesses == 5000000 && one.run.time.n == 1000000000000 && one.run.from.index == 2);
	CHECK(one.guest[0].process.index == 0 && one.guest[0].vcpus == 3 && one.guest[0].cpu == 5 && one.guest[0].aging == TDM_SIM_WRITE_LOCK);
	CHECK(one.guest[0].fill_write && one.guest[0].elide_flush);
	CHECK(agent("v")->guest.index == 0 && agent("v")->vcpu == 1 && agent("v")->cpu == 6 && agent("v")->threads == 2);
	/* CPUs 0 (f, u, i, e), 2 to 4 (a) and 6 and 7 (v) are taken: of the guest's 5 is left, of all then 1. */
	CHECK_EQ(agent("w")->threads, 1);
	CHECK_EQ(agent("z")->threads, 1);
}

TEST(costs_of_a_scenario)
{
	static struct tdm_costs base, with;

	parse(BASE "[costs]\nipi_send = 2us\npte = 5 cycles\n[sweep]\ncosts.pte = 7cycles 9cycles\n" PRINT);
	tdmi_costs_default(&base);
	point(1);
	tdmi_scenario_costs(&one, &base, &with);
	CHECK_EQ(with.cycles[TDM_COST_IPI_SEND], 6000);
	CHECK_EQ(with.cycles[TDM_COST_PTE], 9);
	CHECK_EQ(with.cycles[TDM_COST_FAULT], base.cycles[TDM_COST_FAULT]);
}

/* The user's page has every key and every number. */
TEST(everything_is_documented)
{
	static char text[1 << 17];
	FILE *f = fopen(TDM_DOCS "/sim.md", "re");
	const char *name, *what;
	char quoted[64];

	CHECK(f != NULL);
	text[fread(text, 1, sizeof(text) - 1, f)] = 0;
	fclose(f);
	for (u32 k = 0; k < TDM_SIM_S_NR; k++) {
		snprintf(quoted, sizeof(quoted), "[%s", tdmi_section_word(k));
		if (!strstr(text, quoted))
			t_fail(__FILE__, __LINE__, "%s is not there", quoted);
		for (u32 i = 0; (name = tdmi_section_key(k, i)); i++) {
			snprintf(quoted, sizeof(quoted), "`%s`", name);
			if (!strstr(text, quoted))
				t_fail(__FILE__, __LINE__, "[%s] %s is not there", tdmi_section_word(k), quoted);
		}
	}
	for (u32 i = 0; (name = tdmi_sim_count_name(i, &what)); i++) {
		snprintf(quoted, sizeof(quoted), "`%s`", name);
		if (!strstr(text, quoted) || !strstr(text, what))
			t_fail(__FILE__, __LINE__, "%s, or what it counts, is not there", quoted);
	}
	for (u32 i = 0; (name = tdmi_sim_agent_count_name(i, &what)); i++)
		if (!strstr(text, what))
			t_fail(__FILE__, __LINE__, "an agent's %s is not there", name);
}

/* ---- mistakes ---------------------------------------------------------------------------------------------------------------------- */

#define DEV "[device d]\ncoherent = 2M\nvram = 4M\n"
#define OBJ DEV "[object o]\ndevice = d\nsize = 4M\n"
#define MAP "[process p]\n[mapping m]\nprocess = p\nkind = anonymous\nsize = 1M\n"
#define AG "[agent a]\n"
#define GUEST MAP "[guest g]\nprocess = p\n"
#define VCPU AG "kind = vcpu\nguest = g\nmapping = m\npattern = uniform\n"
#define CPU MAP AG "kind = cpu\nmapping = m\n"
#define UNI CPU "pattern = uniform\naccesses = 1\n"

static const struct {
	const char *text, *says;
} bad[] = {
	/* scripts */
	{ Q "[script]\nmap p0\n", "f:3: there is no operation 'map'; expected one of those that docs/sim.md lists, as 'mmap p0 0 4 rw'" },
	{ Q "[script]\nmmap p0 0 4\n", "f:3: mmap: expected rights (none, r or rw) as word 5, not ''" },
	{ Q "[script]\nmmap p0 0 4 rx\n", "f:3: mmap: expected rights (none, r or rw) as word 5, not 'rx'" },
	{ Q "[script]\nmmap p4 0 4 rw\n", "f:3: mmap: expected a process (p0 to p3) as word 2, not 'p4'" },
	{ Q "[script]\nmmap 0 0 4 rw\n", "f:3: mmap: expected a process (p0 to p3) as word 2, not '0'" },
	{ Q "[script]\nmmap p0 1056 1 rw\n", "f:3: mmap: expected a page (0 to 1055) as word 3, not '1056'" },
	{ Q "[script]\nmmap p0 0 0 rw\n", "f:3: mmap: of no pages" },
	{ Q "[script]\nmunmap p0 1055 2\n", "f:3: munmap: 2 pages from page 1055 on: there are 1056" },
	{ Q "[script]\nmremap p0 0 1050 9\n", "f:3: mremap: 9 pages from page 1050 on: there are 1056" },
	{ Q "[script]\nmmap-shared p0 0 2 rw s0 31\n", "f:3: mmap-shared: 2 pages from its page 31 on: it has 32" },
	{ Q "[script]\nmmap-device p0 0 601 rw b0 0\n", "f:3: mmap-device: 601 pages from its page 0 on: it has 600" },
	{ Q "[script]\nage now\n", "f:3: age: expected nothing behind its 1 words, not 'now'" },
	{ Q "[script]\nwrite p0 c0 0 1 4294967296\n", "f:3: write: expected a value (0 to 4294967295) as word 6, not '4294967296'" },
	{ Q "[script]\nread p0 c1 0 1\n", "f:3: c1: there are 1 CPUs" },
	{ Q DEV "[script]\ndma-read p0 d1 0 1\n", "f:6: d1: there are 1 devices" },
	{ Q "[script]\nage\n[script]\n", "f:4: this section for the second time (first in line 2)" },
	{ Q "[process p]\n[script]\nage\n", "f:3: [script] goes with machine, iommu, device and costs alone" },
	{ Q "[script]\nage\n[print]\ncolumns = faults\n", "f:2: [script] goes with machine, iommu, device and costs alone" },
	/* the form of the file */
	{ "", "f:1: expected '# ' and the question" },
	{ "[machine]\n", "f:1: expected '# ' and the question" },
	{ "#\n", "f:1: expected '# ' and the question" },
	{ Q "cpus = 3\n", "f:2: expected a section, as [machine], before the first key" },
	{ Q "[machine\n", "f:2: expected '[SECTION]' or '[SECTION NAME]', and nothing behind it" },
	{ Q "[machine] x\n", "f:2: expected '[SECTION]' or '[SECTION NAME]', and nothing behind it" },
	{ Q "[]\n", "f:2: expected '[SECTION]' or '[SECTION NAME]'" },
	{ Q "[a b c]\n", "f:2: expected '[SECTION]' or '[SECTION NAME]'" },
	{ Q "[cpu]\n", "f:2: there is no section [cpu]; expected machine, iommu, costs, device" },
	{ Q "[machine big]\n", "f:2: [machine] has no name" },
	{ Q "[sweep x]\n", "f:2: [sweep] has no name" },
	{ Q "[agent]\n", "f:2: expected a name, as in [agent first]" },
	{ Q "[agent A]\n", "f:2: 'A' is no name; expected at most 31 of a to z" },
	{ Q "[agent abcdefghijklmnopqrstuvwxyzabcdef]\n", "is no name" },
	{ Q "[machine]\n[machine]\n", "f:3: [machine] for the second time (first in line 2)" },
	{ Q "[process p]\n[process q]\n[process p]\n", "f:4: [process p] for the second time (first in line 2)" },
	{ Q "[sweep]\n[sweep]\n", "f:3: this section for the second time (first in line 2)" },
	{ Q "[print]\n[print]\n", "f:3: this section for the second time (first in line 2)" },
	{ Q "[device a]\n[device b]\n[device c]\n[device d]\n[device e]\n[device f]\n[device g]\n[device h]\n[device i]\n", "f:10: too many sections [device ...]" },
	{ Q "[machine]\ncpus\n", "f:3: expected '[SECTION]' or 'KEY = VALUE'" },
	{ Q "[machine]\ncpus =\n", "f:3: expected '[SECTION]' or 'KEY = VALUE'" },
	{ Q "[machine]\n= 3\n", "f:3: expected '[SECTION]' or 'KEY = VALUE'" },
	{ Q "[machine]\ncpu = 3\n", "f:3: there is no key 'cpu' in [machine]; docs/sim.md lists them" },
	{ Q "[machine]\ncpus = 3\ncpus = 3\n", "f:4: 'cpus' for the second time in this section (first in line 3)" },
	{ Q "[machine]\ncpus = 3\001\n", "f:3: a byte 1, which text does not have" },
	/* values */
	{ Q "[machine]\ncpus = many\n", "f:3: cpus: expected a number from 1 to 256, not 'many'" },
	{ Q "[machine]\ncpus = 257\n", "f:3: cpus: expected a number from 1 to 256, not '257'" },
	{ Q "[machine]\nceiling = 1T\n", "f:3: ceiling: expected a number from 0 to 68719476736, as 1500 or 10M, not '1T'" },
	{ Q "[machine]\nram = 1M\n", "f:3: ram: expected a size such as 64K or 1.5G, a multiple of 2M up to 1T, not '1M'" },
	{ Q "[machine]\nram = much\n", "f:3: ram: expected a size" },
	{ Q "[machine]\nflush = loud\n", "f:3: flush: expected local, ipi or broadcast, not 'loud'" },
	{ Q "[machine]\nbatch = yes\n", "f:3: batch: expected on or off, not 'yes'" },
	{ Q "[machine]\ntlb = pdp11\n", "f:3: tlb: expected skylake, n1 or small, not 'pdp11'" },
	{ Q "[machine]\nl1_4k = 16x4\ntlb = n1\n", "f:4: tlb: expected the preset before l1_ and l2_ keys" },
	{ Q "[machine]\nl1_4k = 3x4\n", "f:3: l1_4k: expected SETSxWAYS such as 16x4" },
	{ Q "[machine]\nl1_4k = 16x65\n", "l1_4k: expected SETSxWAYS" },
	{ Q "[machine]\nl1_4k = 16x4x2\n", "l1_4k: expected SETSxWAYS" },
	{ Q "[machine]\nl1_4k = 16\n", "l1_4k: expected SETSxWAYS" },
	{ Q "[machine]\nl1_4k = shared\n", "l1_4k: expected SETSxWAYS" },
	{ Q "[machine]\nl2_4k = none\n" PRINT, "f:3: l2_4k: the second level has no entries of 4 KiB, and larger ones share them" },
	{ Q "[machine]\nleaves = 2M\n", "f:3: leaves: expected 4K, and 2M and 1G if there are such leaves" },
	{ Q "[machine]\nleaves = 4K 4K\n", "leaves: expected 4K" },
	{ Q "[machine]\nleaves = 4K 64K\n", "leaves: expected 4K" },
	{ Q "[agent a]\nwrites = 30\n", "f:3: writes: expected a part of 100%, as 30% or 0.5%, not '30'" },
	{ Q "[agent a]\nwrites = 101%\n", "writes: expected a part of 100%" },
	{ Q "[agent a]\nwrites = 0.01%\n", "writes: expected a part of 100%" },
	{ Q "[agent a]\ntheta = 0\n", "f:3: theta: expected a number from 0.001 to 10, as 0.99, not '0'" },
	{ Q "[agent a]\nevery = soon\n", "f:3: every: expected a time such as 10us or 300 cycles, not 'soon'" },
	{ Q "[agent a]\nthreads = 0\n", "f:3: threads: expected a number from 1 to 256, all (one a CPU) or rest" },
	{ Q "[agent a]\nmapping = M!\n", "f:3: mapping: expected the name of a section, not 'M!'" },
	{ Q "[run]\nseed = 9223372036854775808\n", "f:3: seed: expected a number from 0 to 9223372036854775807" },
	{ Q "[costs]\nipi = 1us\n", "f:3: there is no cost 'ipi'; 'tandem sim --print-costs' lists them" },
	{ Q "[costs]\npte = 1ns\npte = 1ns\n", "f:4: 'pte' for the second time" },
	{ Q "[costs]\npte = 2s\n", "f:3: pte: expected a time such as 600 ns or 300 cycles, a second at most, not '2s'" },
	/* sweeps */
	{ Q "[sweep]\nmachine.cpus, machine.cpus = 1,2\n", "f:3: 'machine.cpus' is swept already" },
	{ Q "[sweep]\nmachine.cpus = 1\nmachine.cpus = 2\n", "f:4: 'machine.cpus' is swept already" },
	{ Q "[sweep]\na.b,c.d,e.f,g.h,i.j = 1\n", "f:3: expected 'KEY = VALUE VALUE ...'" },
	{ Q "[sweep]\na.b,,c.d = 1\n", "f:3: expected 'KEY = VALUE VALUE ...'" },
	{ Q "[sweep]\na.b,c.d = 1,2 3\n", "f:3: expected values of 2 parts each" },
	{ Q "[sweep]\na.b = 1,2\n", "f:3: expected values of 1 parts each" },
	{ Q "[sweep]\na.a = 1\na.b = 1\na.c = 1\na.d = 1\na.e = 1\n", "f:7: more than 4 lines of a sweep" },
	{ Q "[sweep]\na.a = 1 2 3 4 5 6 7 8\na.b = 1 2 3 4 5 6 7 8\na.c = 1 2 3 4 5 6 7 8\na.d = 1 2 3\n", "f:6: a sweep of more than 1024 points" },
	{ Q "[sweep]\na.a = 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n",
	  "f:3: more than 64 values" },
	{ UNI PRINT "[sweep]\nmachine.cpu = 3\n", "f:15: there is no key 'cpu' in [machine]" },
	{ UNI PRINT "[sweep]\nagent.b.pin = on\n", "f:15: 'agent.b.pin' is no key of this scenario; expected SECTION.KEY or SECTION.NAME.KEY, as machine.cpus or agent.a.enabled" },
	{ UNI PRINT "[sweep]\ncpus = 3\n", "f:15: 'cpus' is no key of this scenario" },
	{ UNI PRINT "[sweep]\nagent.a = 3\n", "f:15: 'agent.a' is no key of this scenario" },
	{ UNI PRINT "[sweep]\nmachine.cpus = 1 2 0\n", "f:15: cpus: expected a number from 1 to 256, not '0'" },
	{ UNI PRINT "[sweep]\nagent.a.cpu = 0 1\n", "f:15: [agent a] needs CPUs 1 to 1, and there are 1" },
	{ UNI PRINT "[sweep]\nagent.a.mapping = m n\n", "f:15: there is no [mapping n]" },
	{ UNI PRINT "[sweep]\ncosts.x = 1us\n", "f:15: there is no cost 'x'" },
	/* columns */
	{ UNI, "f: nothing is printed; expected a section [print]" },
	{ UNI "[print]\n", "f:12: nothing is printed" },
	{ UNI "[print]\nrows = cycles\n", "f:13: there is no key 'rows' in [print]" },
	{ UNI "[print]\ncolumns = bananas\n", "f:13: there is no number 'bananas' to print" },
	{ UNI "[print]\ncolumns = cycles cycles\n", "f:13: 'cycles' for the second time" },
	{ UNI "[print]\ncolumns = b.cycles\n", "f:13: 'b.cycles': there is no [agent b] above" },
	{ UNI "[print]\ncolumns = a.flushes\n", "f:13: 'a.flushes': expected one of an agent's numbers" },
	{ UNI "[print]\ncolumns = cycles/bananas\n", "f:13: there is no number 'bananas'" },
	{ UNI "[print]\ncolumns = faults zeroed copied reused swapped_in swapped_out af_faults special_faults unshared lazy_freed lazy_saved refaults wrong rotated flushes "
	      "flushed_spaces deferred forced secondary secondary_deferred pending_flushes fork_copied coherent_copied leaf_4k leaf_2m leaf_1g collapsed split tables cycles "
	      "accesses tlb_hits tlb_misses\n", "f:13: more than 32 columns" },
	{ UNI "[print]\ncolumns = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", "f:13: 'aaaaaaaaaaaaaaaaaaaa...' is too long" },
	/* machine, iommu, device */
	{ Q "[machine]\nram = 0\n" PRINT, "f:3: ram: a machine needs some" },
	{ Q "[machine]\ncpus = 8\nflush = broadcast\nasids = 8\n" PRINT, "f:5: asids: with broadcasts more than there are cpus (8), or 0" },
	{ Q "[machine]\nl1_4k = none\n" PRINT, "f:3: l1_4k: the first level needs entries of 4 KiB" },
	{ Q "[iommu]\n" PRINT, "f:2: an [iommu] without a [device NAME]" },
	{ Q "[iommu]\niotlb_4k = none\n" DEV PRINT, "f:3: iotlb_4k: it needs entries of 4 KiB" },
	{ Q "[iommu]\nqueue = 3\n" DEV PRINT, "f:3: queue: a power of two, not 3" },
	{ Q "[iommu]\nrequests = 3\n" DEV PRINT, "f:3: requests: a power of two, not 3" },
	{ Q "[iommu]\nsnoop = on\n" DEV PRINT, "f:3: snoop: there are no broadcasts to hear" },
	{ Q DEV "fault = pri\nats = off\n" PRINT, "f:6: ats: page requests (fault = pri) come from devices with it" },
	{ Q DEV "fault = stall\nats = on\n" PRINT, "f:6: ats: a translation request cannot be stalled" },
	{ Q "[iommu]\nrequests = 4\n" DEV "fault = pri\ngroup = 8\n" PRINT, "f:8: group: the iommu's queue holds no more than 4 requests" },
	{ Q "[iommu]\nstalls = 0\n" DEV "fault = stall\n" PRINT, "f:7: fault = stall: the iommu has no stalls" },
	{ Q DEV "ats = on\natc_4k = none\n" PRINT, "f:6: atc_4k: it needs entries of 4 KiB" },
	{ Q DEV "unit = 96\n" PRINT, "f:5: unit: a power of two from 64 to 256, not 96" },
	{ Q DEV "unit = 128\nburst = 192\n" PRINT, "f:6: burst: a multiple of the unit (128), not 192" },
	/* objects, mappings */
	{ Q "[object o]\nsize = 4K\n" PRINT, "f:2: [object o] needs 'device = NAME'" },
	{ Q "[object o]\ndevice = d\nsize = 4K\n" PRINT, "f:3: there is no [device d]" },
	{ Q DEV "[object o]\ndevice = d\n" PRINT, "f:5: [object o] needs 'size = SIZE'" },
	{ Q DEV "[object o]\ndevice = d\nsize = 6M\n" PRINT, "f:7: size: larger than the vram of [device d]" },
	{ Q MAP "place = chosen\n" PRINT, "f:7: place: a mapping of this kind has no such thing" },
	{ Q OBJ "[process p]\n[mapping m]\nkind = object\nobject = o\nprocess = p\nplace = chosen\nmisalign = 4K\n" PRINT, "f:14: misalign: the engine chooses the address" },
	{ Q DEV "[object o]\ndevice = d\nsize = 3M\ncontiguous = 8M\n" PRINT, "f:8: contiguous: in runs of that size it takes more than the vram of [device d]" },
	{ Q OBJ "contiguous = 12K\n" PRINT, "f:8: contiguous: a power of two" },
	{ Q "[process p]\n[mapping m]\nprocess = p\n" PRINT, "f:3: [mapping m] needs 'kind = anonymous', shared, coherent or object" },
	{ Q MAP "offset = 4K\n" PRINT, "f:7: offset: a mapping of this kind has no such thing" },
	{ Q "[mapping m]\nkind = shared\nsize = 4K\n" PRINT, "f:2: [mapping m] needs 'process = NAME'" },
	{ Q "[process p]\n[mapping m]\nkind = coherent\nprocess = p\nsize = 4K\n" PRINT, "f:3: [mapping m] needs 'device = NAME', whose memory it is" },
	{ Q "[process p]\n[mapping m]\nkind = object\nprocess = p\nsize = 4K\n" PRINT, "f:3: [mapping m] needs 'object = NAME'" },
	{ Q OBJ "[process p]\n[mapping m]\nkind = object\nobject = o\nprocess = p\nsize = 4M\noffset = 4K\n" PRINT, "f:13: offset and size: beyond the end of [object o]" },
	{ Q "[process p]\n[mapping m]\nkind = shared\nprocess = p\n" PRINT, "f:3: [mapping m] needs 'size = SIZE'" },
	{ Q MAP "misalign = 1G\n" PRINT, "f:7: misalign: less than 1G" },
	{ Q DEV "[process p]\n[mapping m]\nkind = coherent\ndevice = d\nprocess = p\nsize = 4M\n" PRINT, "f:10: size: larger than the coherent memory of [device d]" },
	{ Q MAP "content = noise\n" PRINT, "f:7: content: only what is populated holds something" },
	/* guests */
	{ Q "[guest g]\n" PRINT, "f:2: [guest g] needs 'process = NAME', whose memory is the guest's" },
	{ Q "[guest g]\nprocess = q\n" PRINT, "f:3: there is no [process q]" },
	{ Q "[process p]\n[guest g]\nprocess = p\n" PRINT, "f:4: process: [process p] has no [mapping NAME]" },
	{ Q GUEST "vcpus = 2\n" PRINT, "f:9: vcpus: [guest g] needs CPUs 0 to 1, and there are 1" },
	{ Q GUEST "cpu = 1\n" PRINT, "f:7: vcpus: [guest g] needs CPUs 1 to 1, and there are 1" },
	{ Q GUEST "aging = fast\n" PRINT, "f:9: aging: expected lockless, read or write, not 'fast'" },
	{ Q GUEST AG "kind = vcpu\nmapping = m\npattern = uniform\n" PRINT, "f:9: [agent a] needs 'guest = ...'" },
	{ Q GUEST AG "kind = vcpu\nguest = h\nmapping = m\npattern = uniform\n" PRINT, "f:11: there is no [guest h]" },
	{ Q GUEST VCPU "cpu = 0\n" PRINT, "f:14: cpu: an agent of this kind has no such thing" },
	{ Q GUEST AG "kind = cpu\nguest = g\nmapping = m\npattern = uniform\n" PRINT, "f:11: guest: an agent of this kind has no such thing" },
	{ Q GUEST VCPU "vcpu = 1\n" PRINT, "f:14: [agent a] needs vCPUs 1 to 1, and [guest g] has 1" },
	{ Q GUEST VCPU "threads = 2\n" PRINT, "f:14: [agent a] needs vCPUs 0 to 1, and [guest g] has 1" },
	{ Q GUEST VCPU "vcpu = 0\nthreads = all\n" PRINT, "f:14: vcpu: threads = all are on all, rest on those that are left" },
	{ Q GUEST VCPU "[agent b]\nkind = vcpu\nguest = g\nmapping = m\npattern = uniform\nthreads = rest\n" PRINT, "f:19: threads = rest: no vCPU of 1 is left" },
	{ Q GUEST VCPU "[agent b]\nkind = cpu\nmapping = m\npattern = uniform\nthreads = rest\n" PRINT, "f:18: threads = rest: no CPU of 1 is left" },
	{ Q GUEST VCPU "[process q]\n[mapping n]\nprocess = q\nkind = anonymous\nsize = 1M\n[agent b]\nkind = vcpu\nguest = g\nmapping = n\npattern = uniform\n" PRINT,
	  "f:22: mapping: [mapping n] is not of [process p], whose memory [guest g] has" },
	/* agents */
	{ Q MAP AG PRINT, "f:7: [agent a] needs 'kind = cpu', dma" },
	{ Q CPU "accesses = 1\n" PRINT, "f:7: [agent a] needs 'pattern = ...'" },
	{ Q UNI "pages = 3\n" PRINT, "f:12: pages: an agent of this kind has no such thing" },
	{ Q UNI "stride = 64\n" PRINT, "f:12: stride: not with this pattern" },
	{ Q CPU "pattern = strided\naccesses = 1\n" PRINT, "f:7: pattern = strided needs 'stride = SIZE'" },
	{ Q CPU "pattern = trace\n" PRINT, "f:7: pattern = trace needs 'trace = FILE'" },
	{ Q CPU "pattern = trace\ntrace = /nowhere/t\n" PRINT, "f:11: trace: /nowhere/t cannot be read: No such file or directory" },
	{ Q CPU "pattern = trace\nwrites = 3%\ntrace = /nowhere/t\n" PRINT, "f:11: writes: not with this pattern" },
	{ Q DEV MAP AG "kind = dma\ndevice = d\nmapping = m\npattern = trace\ntrace = x\n" PRINT, "f:15: trace: an agent of this kind has no such thing" },
	{ Q DEV MAP AG "kind = dma\ndevice = d\nmapping = m\npattern = uniform\ntransfer = 64K\nunit = 4K\n" PRINT, "f:16: unit: at least the transfer (65536 bytes)" },
	{ Q UNI "unit = 2M\n" PRINT, "f:12: unit: larger than [mapping m]" },
	{ Q CPU "pattern = strided\nstride = 24\nunit = 16\n" PRINT, "f:11: stride: a multiple of the unit (16 bytes)" },
	{ Q MAP "writable = off\n" AG "kind = cpu\nmapping = m\npattern = uniform\nwrites = 3%\n" PRINT, "f:12: writes: [mapping m] is not writable" },
	{ Q MAP AG "kind = fill\nmapping = m\nby = range\n" PRINT, "f:9: mapping: [mapping m] is of no object" },
	{ Q MAP AG "kind = collapse\nmapping = m\n" PRINT, "f:9: mapping: [mapping m] is of no object; only such mappings collapse" },
	{ Q OBJ "[process p]\n[mapping m]\nkind = object\nobject = o\nprocess = p\n" AG "kind = discard\nmapping = m\n" PRINT, "f:15: mapping: madvise is for memory" },
	{ Q OBJ "[process p]\n[mapping m]\nkind = object\nobject = o\nprocess = p\n" AG "kind = unmap\nmapping = m\npages = 2\n" PRINT, "f:16: pages: of an object's mapping all are unmapped" },
	{ Q MAP AG "kind = unmap\nmapping = m\npages = 257\n" PRINT, "f:10: pages: more than [mapping m] has" },
	{ Q MAP AG "kind = reclaim\nrounds = 3\ntarget = 4K\n" PRINT, "f:10: target: either this or rounds" },
	{ Q UNI "threads = all\ncpu = 0\n[machine]\ncpus = 2\n[agent b]\nkind = age\nrounds = 1\ncpu = 2\n" PRINT, "f:19: [agent b] needs CPUs 2 to 2, and there are 2" },
	{ Q UNI "threads = 3\n[machine]\ncpus = 2\n" PRINT, "f:12: [agent a] needs CPUs 0 to 2, and there are 2" },
	{ Q UNI "threads = all\ncpu = 1\n[machine]\ncpus = 2\n" PRINT, "f:13: cpu: threads = all are on all" },
	{ Q UNI "threads = rest\ncpu = 0\n" PRINT, "f:13: cpu: threads = rest are on those that are left" },
	{ Q UNI "[agent b]\nkind = cpu\nmapping = m\npattern = uniform\nthreads = rest\n" PRINT, "f:16: threads = rest: no CPU of 1 is left" },
	{ Q UNI "after = b\n" PRINT, "f:12: there is no [agent b]" },
	{ Q UNI "after = b\n[agent b]\nkind = reclaim\n" PRINT, "f:12: after: [agent b] does not end by itself" },
	{ Q UNI "after = b\n[agent b]\nkind = reclaim\nrounds = 1\nafter = a\n" PRINT, "f:12: after: agents that wait for each other" },
	{ Q UNI "after = a\n" PRINT, "f:12: after: agents that wait for each other" },
	/* the whole */
	{ Q PRINT, "f: nobody does anything: expected an [agent NAME] that is enabled" },
	{ Q UNI "enabled = off\n" PRINT, "f: nobody does anything" },
	{ Q CPU "pattern = uniform\n" PRINT, "f: it would never end: give an agent accesses, rounds or a target" },
	{ Q UNI "[agent b]\nkind = age\nrounds = 1\nenabled = off\n[run]\nfrom = b\n" PRINT, "f:17: from: [agent b] is not enabled" },
	{ Q "[device a]\ncoherent = 2M\nvram = 2M\n[device b]\ncoherent = 2M\nvram = 2M\n[device c]\ncoherent = 2M\nvram = 2M\n[device d]\ncoherent = 2M\nvram = 2M\n" UNI PRINT,
	  "more than 8 kinds of memory" },
};

TEST(mistakes)
{
	int wrong = 0;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++) {
		/* A few are of Q UNI; those that begin without a question have it put before them. */
		char text[8192];

		snprintf(text, sizeof(text), "%s%s", !strncmp(bad[i].text, "[process p]", 11) ? Q : "", bad[i].text);
		memset(err, 0, sizeof(err));
		if (tdmi_scenario_parse(&s, "f", text, NULL, 0, err) != -EINVAL || !strstr(err, bad[i].says))
			wrong += printf("%u: '%s' is not in '%s'\n", i, bad[i].says, err);
	}
	CHECK_EQ(wrong, 0);
}

/* Cut off anywhere, or with any byte changed, it is read or refused, and a message names the file. */
TEST(damaged)
{
	static char text[8192], copy[8192];
	u64 rng = t_seed();
	FILE *f = fopen(TDM_EXAMPLES "/object-fill.sim", "re");
	size_t n;

	CHECK(f != NULL);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	CHECK(n > 0);
	for (size_t cut = 0; cut <= n; cut++) {
		memcpy(copy, text, cut);
		copy[cut] = 0;
		*err = 0;
		if (tdmi_scenario_parse(&s, "f", copy, NULL, 0, err))
			CHECK(!strncmp(err, "f:", 2));
	}
	for (u32 i = 0; i < (t_slow() ? 2000 : 20000); i++) {
		memcpy(copy, text, n + 1);
		for (u32 k = 0; k < 3; k++)
			copy[t_rand(&rng) % n] = (char)(t_rand(&rng) % 255 + 1);
		*err = 0;
		if (tdmi_scenario_parse(&s, "f", copy, NULL, 0, err))
			CHECK(!strncmp(err, "f:", 2) && !strchr(err, '\n'));
	}
}

/* ---- the command line ---------------------------------------------------------------------------------------------------------------- */

static int with(const char *text, const char *set)
{
	*err = 0;
	return tdmi_scenario_parse(&s, "f", text, &set, set ? 1 : 0, err);
}

TEST(set_by_hand)
{
	static const struct {
		const char *set, *says;
	} wrong[] = {
		{ "machine.cpus", "--set: expected KEY=VALUE, as machine.cpus=4, not 'machine.cpus'" },
		{ "=3", "--set: expected KEY=VALUE" },
		{ "machine.cpus=", "--set: expected KEY=VALUE" },
		{ "machine.cpus=0", "--set: cpus: expected a number from 1 to 256, not '0'" },
		{ "machine.cpu=3", "--set: there is no key 'cpu' in [machine]" },
		{ "agent.b.cpu=3", "--set: 'agent.b.cpu' is no key of this scenario" },
		{ "costs.x=3ns", "--set: there is no cost 'x'" },
		{ "agent.a.mapping=n", "--set: there is no [mapping n]" },
		{ "agent.a.unit=2M", "--set: unit: larger than [mapping m]" },
	};
	for (u32 i = 0; i < TDM_ARRAY_SIZE(wrong); i++) {
		CHECK_EQ(with(BASE PRINT, wrong[i].set), -EINVAL);
		if (!strstr(err, wrong[i].says))
			t_fail(__FILE__, __LINE__, "'%s' is not in '%s'", wrong[i].says, err);
	}
	CHECK_EQ(with(BASE PRINT, "machine.cpus=7"), 0);
	CHECK_EQ(s.machine.cpus, 7);
	CHECK_EQ(with(BASE PRINT, "run.seed = 99"), 0);
	CHECK_EQ(s.run.seed, 99);
	CHECK_EQ(with(BASE PRINT, "agent.a.accesses=5k"), 0);
	point(0);
	CHECK_EQ(agent("a")->accesses, 5000);
	/* What is swept has the values that are given. */
#define SWEPT BASE "[sweep]\nmachine.cpus = 2 4\nmachine.flush, machine.batch = ipi,on local,off\n" PRINT
	CHECK_EQ(with(SWEPT, "machine.cpus=3"), 0);
	CHECK_EQ(tdmi_scenario_points(&s), 2);
	point(1);
	CHECK_EQ(one.machine.cpus, 3);
	CHECK_EQ(one.machine.flush, TDM_SIM_FLUSH_LOCAL);
	CHECK(!one.machine.batch);
	CHECK_EQ(with(SWEPT, "machine.cpus=3 5 7"), 0);
	CHECK_EQ(tdmi_scenario_points(&s), 6);
	CHECK_EQ(with(SWEPT, "machine.flush=ipi"), -EINVAL);
	CHECK(strstr(err, "--set: machine.flush is swept together with other keys"));
	/* Not the line that had the sweep's own values. */
	CHECK_EQ(with(SWEPT, "machine.cpus=3 0"), -EINVAL);
	CHECK(!strncmp(err, "--set: cpus: expected a number from 1 to 256, not '0'", 50));
	/* What is wrong with the file because of it says so. */
	CHECK_EQ(with(BASE PRINT, "agent.a.enabled=off"), -EINVAL);
	CHECK_STR(err, "f: nobody does anything: expected an [agent NAME] that is enabled; with --set agent.a.enabled=off");
	CHECK_EQ(with(BASE PRINT, "agent.a.kind=fill"), -EINVAL);
	if (strncmp(err, "f:", 2) || !strstr(err, "; with --set agent.a.kind=fill"))
		t_fail(__FILE__, __LINE__, "%s", err);
	CHECK_EQ(with("# Why?\n" PRINT, NULL), -EINVAL);
	CHECK(!strstr(err, "--set"));
}

/* A '+' in a swept value is a blank. */
TEST(values_with_blanks)
{
	parse(BASE "[sweep]\nmachine.leaves = 4K 4K+2M\n" PRINT);
	point(0);
	CHECK_EQ(one.machine.leaves, 4096);
	point(1);
	CHECK_EQ(one.machine.leaves, 4096 | TDM_HUGE_SIZE);
}

/* A trace is found from where the scenario is. */
TEST(traces_lie_beside)
{
	const char *text = BASE "[agent t]\nkind = cpu\nmapping = m\npattern = trace\nfetches = on\ntrace = lackey.txt\n" PRINT;

	CHECK_EQ(tdmi_scenario_parse(&s, TDM_DATA "/x.sim", text, NULL, 0, err), 0);
	CHECK_STR(s.agent[1].trace, TDM_DATA "/lackey.txt");
	CHECK_EQ(tdmi_scenario_parse(&s, "x.sim", text, NULL, 0, err), -EINVAL);
	CHECK_STR(err, "x.sim:17: trace: lackey.txt cannot be read: No such file or directory");
}
