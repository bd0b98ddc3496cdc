/* SPDX-License-Identifier: MIT */
/* Cost models: amounts of time, the defaults, what a file changes, and every mistake in one. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "runner/t.h"
#include "sim/cost.h"

static struct tdm_duration duration(const char *s)
{
	struct tdm_duration d = { 12345, 7 };

	CHECK_EQ(tdmi_parse_duration(s, &d), 0);
	return d;
}

TEST(durations)
{
	static const struct {
		const char *s;
		u64 n;
		u32 cycles;
	} good[] = {
		{ "0", 0, 1 }, { "3 cycles", 3, 1 }, { "1 cycle", 1, 1 }, { "4.0 cycles", 4, 1 }, { "7ps", 7, 0 }, { "1.5 ns", 1500, 0 }, { "0.001ns", 1, 0 },
		{ "20us", 20000000, 0 }, { "2 ms", 2000000000, 0 }, { "3s", 3000000000000, 0 }, { "4611686 s", 4611686000000000000, 0 },
	};
	static const char *const malformed[] = { "", "x", "3", "3 bananas", "1.5 cycles", ".5 us", "1. us", "-1 us", "1 us ", "1e3 us", "0x3 us", "1 u s" };
	static const char *const range[] = { "0.0001 ns", "4611687 s", "99999999999999999999 cycles", "1.0000000000001 s", "18446744073709551615 s", "4611686018427387904 cycles" };
	struct tdm_duration d;
	char text[40];

	for (u32 i = 0; i < TDM_ARRAY_SIZE(good); i++) {
		d = duration(good[i].s);
		CHECK_EQ(d.n, good[i].n);
		CHECK_EQ(d.cycles, good[i].cycles);
		d = duration(tdmi_fmt_duration(d, text));
		CHECK_EQ(d.n, good[i].n);
		CHECK_EQ(d.cycles, good[i].cycles);
	}
	for (u32 i = 0; i < TDM_ARRAY_SIZE(malformed); i++)
		CHECK_EQ(tdmi_parse_duration(malformed[i], &d), -EINVAL);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(range); i++)
		CHECK_EQ(tdmi_parse_duration(range[i], &d), -ERANGE);
	CHECK_STR(tdmi_fmt_duration(duration("1500 ns"), text), "1500 ns");
	CHECK_STR(tdmi_fmt_duration(duration("0.5 us"), text), "500 ns");
}

TEST(cycles_of_durations)
{
	CHECK_EQ(tdmi_duration_cycles(duration("7 cycles"), 3000000000), 7);
	CHECK_EQ(tdmi_duration_cycles(duration("1 us"), 3000000000), 3000);
	CHECK_EQ(tdmi_duration_cycles(duration("500 ps"), 3000000000), 2); /* 1.5, to nearest */
	CHECK_EQ(tdmi_duration_cycles(duration("400 ps"), 3000000000), 1); /* 1.2 */
	CHECK_EQ(tdmi_duration_cycles(duration("1 ps"), 3000000000), 1);   /* not nothing */
	CHECK_EQ(tdmi_duration_cycles(duration("0 us"), 3000000000), 0);
	CHECK_EQ(tdmi_duration_cycles((struct tdm_duration){ (u64)1 << 62, 0 }, 100000000000), 461168601842738790);
	CHECK_EQ(tdmi_duration_cycles((struct tdm_duration){ ~(u64)0, 0 }, ~(u64)0), ~(u64)0);
}

TEST(counts)
{
	static const char *const bad[] = { "", "k", "1kk", "1.0001k", "1.5", "-1", "1 k", "0x10", "1T" };
	u64 x;
	u32 y;

	CHECK(!tdmi_parse_count("0", &x) && x == 0);
	CHECK(!tdmi_parse_count("12", &x) && x == 12);
	CHECK(!tdmi_parse_count("3k", &x) && x == 3000);
	CHECK(!tdmi_parse_count("1.5M", &x) && x == 1500000);
	CHECK(!tdmi_parse_count("2G", &x) && x == 2000000000);
	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++)
		CHECK_EQ(tdmi_parse_count(bad[i], &x), -EINVAL);
	CHECK_EQ(tdmi_parse_count("99999999999999999999", &x), -ERANGE);
	CHECK_EQ(tdmi_parse_count("18446744073709551615G", &x), -ERANGE);
	CHECK(!tdmi_parse_thousandths("0.99", &y) && y == 990);
	CHECK(!tdmi_parse_thousandths("2", &y) && y == 2000);
	CHECK_EQ(tdmi_parse_thousandths("0.9999", &y), -ERANGE);
	CHECK_EQ(tdmi_parse_thousandths("4294968", &y), -ERANGE);
	CHECK_EQ(tdmi_parse_thousandths("1x", &y), -EINVAL);
}

static bool same(const struct tdm_costs *a, const struct tdm_costs *b)
{
	for (u32 i = 0; i < TDM_COST_NR; i++)
		if (a->value[i].n != b->value[i].n || a->value[i].cycles != b->value[i].cycles)
			return false;
	return a->hz == b->hz && !memcmp(a->cycles, b->cycles, sizeof(a->cycles)) && !memcmp(a->source, b->source, sizeof(a->source));
}

/* Every default has a name that is unique, a value and a source; of the file of examples the same. */
TEST(defaults_name_their_source)
{
	static struct tdm_costs c, file;
	char err[TDM_SIM_ERR] = "", *text = NULL;
	size_t len;
	FILE *f;

	tdmi_costs_default(&c);
	for (u32 i = 0; i < TDM_COST_NR; i++) {
		CHECK(c.source[i][0] != 0);
		CHECK(strlen(c.source[i]) + 1 < sizeof(c.source[i]));
		CHECK(c.cycles[i] > 0);
		for (u32 k = 0; k < i; k++)
			CHECK(strcmp(tdmi_cost_name((enum tdm_cost)i), tdmi_cost_name((enum tdm_cost)k)));
	}
	CHECK_EQ(c.hz, 3000000000);
	memset(&file, 0, sizeof(file));
	CHECK_EQ(tdmi_costs_load(&file, TDM_EXAMPLES "/costs.txt", err), 0);
	CHECK(same(&file, &c));
	/* What is printed is that file, and reads back as the same. */
	f = open_memstream(&text, &len);
	tdmi_costs_print(&c, f);
	fclose(f);
	memset(&file, 0, sizeof(file));
	CHECK_EQ(tdmi_costs_parse(&file, "printed", text, err), 0);
	CHECK(same(&file, &c));
	free(text);
}

TEST(a_file_changes_what_it_names)
{
	static struct tdm_costs c, was, back;
	char err[TDM_SIM_ERR] = "", *text = NULL;
	size_t len;
	FILE *f;

	tdmi_costs_default(&was);
	c = was;
	CHECK_EQ(tdmi_costs_parse(&c, "f", "# mine\r\n\nipi_send = 2us # measured # twice \r\n clock=2450.5 MHz\npte = 0\nwalk_read=17 cycles", err), 0);
	CHECK_EQ(c.hz, 2450500000);
	CHECK_EQ(c.cycles[TDM_COST_IPI_SEND], 4901);
	CHECK_STR(c.source[TDM_COST_IPI_SEND], "measured # twice");
	CHECK_EQ(c.cycles[TDM_COST_PTE], 0);
	CHECK_STR(c.source[TDM_COST_PTE], "f");
	CHECK_EQ(c.cycles[TDM_COST_WALK_READ], 17);
	/* The clock came after some; all are worked out with it. */
	CHECK_EQ(c.cycles[TDM_COST_FAULT], 980);
	CHECK_EQ(c.cycles[TDM_COST_ACCESS], was.cycles[TDM_COST_ACCESS]);
	f = open_memstream(&text, &len);
	tdmi_costs_print(&c, f);
	fclose(f);
	tdmi_costs_default(&back);
	CHECK_EQ(tdmi_costs_parse(&back, "printed", text, err), 0);
	CHECK(!memcmp(back.cycles, c.cycles, sizeof(c.cycles)));
	CHECK_EQ(back.hz, c.hz);
	free(text);
}

TEST(mistakes_in_a_cost_file)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "ipi_send\n", "f:1: expected 'NAME = TIME  # source'" },
		{ "\n= 3\n", "f:2: expected 'NAME = TIME  # source'" },
		{ "pte =\n", "f:1: expected 'NAME = TIME  # source'" },
		{ "pte = # 3\n", "f:1: expected 'NAME = TIME  # source'" },
		{ "# c\nipi = 3 ns\n", "f:2: there is no cost 'ipi'; 'tandem sim --print-costs'" },
		{ "pte = 1 ns\npte = 1 ns\n", "f:2: 'pte' for the second time" },
		{ "pte = fast\n", "f:1: 'fast' is no time; expected a number and cycles, ps, ns, us or ms" },
		{ "pte = 2 s\n", "f:1: '2 s' is out of range" },
		{ "pte = 100000000001 cycles\n", "is out of range" },
		{ "clock = 3\n", "f:1: '3' is no clock rate; expected 1 MHz to 100 GHz" },
		{ "clock = 0.5 MHz\n", "is no clock rate" },
		{ "clock = 101 GHz\n", "is no clock rate" },
		{ "clock = 3000000000000000000000000000000000000 GHz\n", "is no clock rate" },
		{ "clock = 1.2.3 GHz\n", "is no clock rate" },
		{ "pte = 1\001 ns\n", "f:1: a byte 1, which text does not have" },
	};
	static struct tdm_costs c;

	for (u32 i = 0; i < TDM_ARRAY_SIZE(bad); i++) {
		char err[TDM_SIM_ERR] = "";

		tdmi_costs_default(&c);
		CHECK_EQ(tdmi_costs_parse(&c, "f", bad[i].text, err), -EINVAL);
		if (!strstr(err, bad[i].says))
			t_fail(__FILE__, __LINE__, "'%s' is not in '%s'", bad[i].says, err);
	}
}

TEST(files_that_cannot_be_read)
{
	int fd = memfd_create("cost", MFD_CLOEXEC);
	char err[TDM_SIM_ERR] = "", path[40];
	static struct tdm_costs c;

	CHECK(fd >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK_EQ(tdmi_costs_load(&c, "/nowhere/costs", err), -ENOENT);
	CHECK_STR(err, "/nowhere/costs: cannot be read: No such file or directory");
	CHECK_EQ(tdmi_costs_load(&c, "/tmp", err), -EISDIR);
	CHECK_EQ(ftruncate(fd, TDM_TEXT_MAX + 1), 0);
	CHECK_EQ(tdmi_costs_load(&c, path, err), -EFBIG);
	CHECK(strstr(err, "larger than 1 MiB"));
	/* As much as there may be, of bytes that are no text. */
	CHECK_EQ(ftruncate(fd, TDM_TEXT_MAX), 0);
	CHECK_EQ(tdmi_costs_load(&c, path, err), -EINVAL);
	CHECK(strstr(err, ":1: a byte 0"));
	close(fd);
}
