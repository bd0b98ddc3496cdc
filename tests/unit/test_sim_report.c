/* SPDX-License-Identifier: MIT */
/* Reports: the table, the same as JSON, and the progress bar. */
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "runner/t.h"
#include "sim/report.h"

static struct tdm_scenario s;
static struct tdm_report r;

#define TEXT                                                                                                                          \
	"# How many?\n[process p]\n[mapping m]\nprocess = p\nkind = anonymous\nsize = 1M\n[agent a]\nkind = cpu\nmapping = m\n"        \
	"pattern = uniform\naccesses = 1k\n[sweep]\nmachine.cpus = 1 2\nmachine.flush, machine.batch = ipi,on local,off\n"             \
	"[print]\ncolumns = flushes cycles/flushes a.done a.done/a.failed\n"

static void fill(void)
{
	static struct tdm_sim_result row;
	char err[TDM_SIM_ERR];

	CHECK_EQ(tdmi_scenario_parse(&s, "x\377.sim", TEXT, NULL, 0, err), 0);
	tdmi_sim_report_init(&r, &s, 2450000000);
	for (u32 i = 0; i < 4; i++) {
		row.count[TDM_COL_CYCLES] = 1000000 * i + 5;
		row.count[TDM_COL_FLUSHES] = 3 * i;
		row.agent[0][TDM_AGENT_DONE] = i == 3 ? ((u64)1 << 63) - 1 : 999 + i;
		row.agent[0][TDM_AGENT_FAILED] = i;
		row.generator = i;
		CHECK_EQ(tdmi_sim_report_add(&r, &row), 0);
	}
}

static char *printed(int (*print)(const struct tdm_report *, FILE *))
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	CHECK_EQ(print(&r, f), 0);
	fclose(f);
	return text;
}

TEST(table)
{
	char *text;

	fill();
	text = printed(tdmi_sim_report_print);
	if (strstr(text, "How many?\n\n"
			 "cpus      flush  flushes  cycles/flushes                     a.done  a.done/a.failed\n"
			 "   1     ipi,on        0               -                        999                -\n"
			 "   1  local,off        3      333,335.00                      1,000         1,000.00\n"
			 "   2     ipi,on        6      333,334.17                      1,001           500.50\n"
			 "   2  local,off        9      333,333.89  9,223,372,036,854,775,807                -\n"
			 "\nseed 1, clock 2.450 GHz, generators ended at ") != text)
		t_fail(__FILE__, __LINE__, "%s", text);
	free(text);
	tdmi_sim_report_free(&r);
}

TEST(json)
{
	json_t *o, *rows, *v;
	char *text;

	fill();
	text = printed(tdmi_sim_report_json);
	o = json_loads(text, 0, NULL);
	CHECK(o != NULL);
	CHECK_STR(json_string_value(json_object_get(o, "question")), "How many?");
	CHECK_STR(json_string_value(json_object_get(o, "scenario")), "x?.sim");
	CHECK_EQ(json_integer_value(json_object_get(o, "seed")), 1);
	CHECK_EQ(json_integer_value(json_object_get(o, "clock_hz")), 2450000000);
	rows = json_object_get(o, "rows");
	CHECK_EQ(json_array_size(rows), 4);
	for (u32 i = 0; i < 4; i++) {
		json_t *p = json_object_get(json_array_get(rows, i), "point");

		CHECK_EQ(json_integer_value(json_object_get(p, "machine.cpus")), 1 + i / 2);
		CHECK_STR(json_string_value(json_object_get(p, "machine.flush")), i % 2 ? "local" : "ipi");
		CHECK_STR(json_string_value(json_object_get(p, "machine.batch")), i % 2 ? "off" : "on");
		v = json_object_get(json_array_get(rows, i), "values");
		CHECK(json_is_integer(json_object_get(v, "flushes")));
		CHECK_EQ(json_integer_value(json_object_get(v, "flushes")), 3 * i);
		CHECK_EQ(json_integer_value(json_object_get(v, "a.done")), i == 3 ? INT64_MAX : 999 + i);
		CHECK_EQ(json_object_size(v), 4);
	}
	CHECK(json_is_null(json_object_get(json_object_get(json_array_get(rows, 0), "values"), "cycles/flushes")));
	CHECK(json_real_value(json_object_get(json_object_get(json_array_get(rows, 2), "values"), "cycles/flushes")) == 333334.17);
	CHECK(strstr(text, "333334.17,") != NULL);
	CHECK(json_is_null(json_object_get(json_object_get(json_array_get(rows, 3), "values"), "a.done/a.failed")));
	json_decref(o);
	free(text);
	tdmi_sim_report_free(&r);
}

TEST(a_full_disk)
{
	FILE *f = fopen("/dev/full", "we");

	fill();
	CHECK_EQ(tdmi_sim_report_print(&r, f), -EIO);
	clearerr(f);
	CHECK_EQ(tdmi_sim_report_json(&r, f), -EIO);
	fclose(f);
	tdmi_sim_report_free(&r);
}

/* ---- progress ------------------------------------------------------------------------------------------------------------------- */

static u64 clock_ns;

static u64 clock_now(void)
{
	return clock_ns;
}

static const char *said(int fd)
{
	static char text[4096];
	ssize_t n = read(fd, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = 0;
	return text;
}

TEST(progress)
{
	struct tdm_progress p;
	int fd[2];

	CHECK_EQ(pipe2(fd, O_CLOEXEC | O_NONBLOCK), 0);
	clock_ns = 1000;
	tdmi_progress_begin(&p, fd[1], true, clock_now);
	clock_ns += 1999999999;
	tdmi_progress_update(&p, 1, 100);
	CHECK_STR(said(fd[0]), "");
	clock_ns++;
	tdmi_progress_update(&p, 10, 100);
	CHECK_STR(said(fd[0]), "\r[###...........................]  10%, about 18 s left\033[K");
	/* Not too often. */
	clock_ns += 199999999;
	tdmi_progress_update(&p, 11, 100);
	CHECK_STR(said(fd[0]), "");
	clock_ns += 97ull * 1000000000 + 800000001;
	tdmi_progress_update(&p, 50, 100);
	CHECK_STR(said(fd[0]), "\r[###############...............]  50%, about 1 min 40 s left\033[K");
	clock_ns += 1000000000;
	tdmi_progress_update(&p, 1, 10000);
	CHECK(strstr(said(fd[0]), "about 280 h 31 min left"));
	clock_ns += 1000000000;
	tdmi_progress_update(&p, 5, 0);
	CHECK_STR(said(fd[0]), "\rrunning for 1 min 42 s\033[K");
	clock_ns += 1000000000;
	tdmi_progress_update(&p, 200, 100);
	CHECK(strstr(said(fd[0]), "] 100%, about 0 s left"));
	tdmi_progress_end(&p);
	CHECK_STR(said(fd[0]), "\r\033[K");
	tdmi_progress_end(&p);
	CHECK_STR(said(fd[0]), "");
	/* No terminal: not a word. A short run: not a word. */
	tdmi_progress_begin(&p, fd[1], false, clock_now);
	clock_ns += 5000000000;
	tdmi_progress_update(&p, 1, 2);
	tdmi_progress_end(&p);
	tdmi_progress_begin(&p, fd[1], true, clock_now);
	tdmi_progress_update(&p, 1, 2);
	tdmi_progress_end(&p);
	CHECK_STR(said(fd[0]), "");
	close(fd[0]);
	close(fd[1]);
}
