/* SPDX-License-Identifier: MIT */
/* report.c - what a scenario has come to, as a table and as JSON. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "sim/report.h"
#include "sim/rng.h"

void tdmi_sim_report_init(struct tdm_report *r, const struct tdm_scenario *s, u64 hz)
{
	*r = (struct tdm_report){ .s = s, .hz = hz };
}

void tdmi_sim_report_free(struct tdm_report *r)
{
	free(r->row);
	r->row = NULL;
	r->nrows = 0;
}

int tdmi_sim_report_add(struct tdm_report *r, const struct tdm_sim_result *result)
{
	struct tdm_sim_result *row = realloc(r->row, (r->nrows + 1) * sizeof(*row));

	if (!row)
		return -ENOMEM;
	r->row = row;
	r->row[r->nrows++] = *result;
	return 0;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------------------ */

static u64 number(const struct tdm_sim_result *row, struct tdm_sim_number n)
{
	u64 x = n.agent < 0 ? row->count[n.which] : row->agent[n.agent][n.which];

	TDM_BUG_ON(x >> 63); /* no count is, and JSON's integers end there */
	return x;
}

/* In hundredths, rounded to nearest. False: divided by zero, or beyond what can be said. */
static bool quotient(const struct tdm_sim_result *row, const struct tdm_sim_column *c, u64 *hundredths)
{
	u64 a = number(row, c->a), b = number(row, c->b);
	unsigned __int128 x;

	if (!b)
		return false;
	x = ((unsigned __int128)a * 100 + b / 2) / b;
	*hundredths = (u64)x;
	return x < 1000000000000000ull; /* as many digits as a double has */
}

static u64 generators(const struct tdm_report *r)
{
	u64 h = 0;

	for (u32 i = 0; i < r->nrows; i++) {
		h ^= r->row[i].generator;
		h = tdm_splitmix(&h);
	}
	return h;
}

/* ---- for people ----------------------------------------------------------------------------------------------------------------- */

#define CELL 80u

/* 1,234,567 */
static void group(u64 x, char out[CELL])
{
	char digits[24];
	int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)x);

	for (int i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			*out++ = ',';
		*out++ = digits[i];
	}
	*out = 0;
}

static void cell(const struct tdm_sim_result *row, const struct tdm_sim_column *c, char out[CELL])
{
	u64 x;

	if (!c->quotient) {
		group(number(row, c->a), out);
	} else if (quotient(row, c, &x)) {
		group(x / 100, out);
		snprintf(out + strlen(out), 4, ".%02u", (unsigned)(x % 100));
	} else {
		strcpy(out, "-");
	}
}

/* The heading of an axis: its first key, without what is the same for all. */
static const char *axis_heading(const struct tdm_sim_axis *x)
{
	const char *dot = strchr(x->key[0], '.');

	return dot ? dot + 1 : x->key[0];
}

/* What an axis says at a point: its values with commas between. */
static void axis_cell(const struct tdm_report *r, u32 point, u32 i, char out[TDM_SIM_AXIS_KEYS * TDM_SIM_TEXT])
{
	const char *first[TDM_SIM_AXES];
	const struct tdm_sim_axis *x = &r->s->axis[i];

	tdmi_scenario_values(r->s, point, first);
	*out = 0;
	for (u32 k = 0; k < x->nkeys; k++) {
		strcat(out, k ? "," : "");
		strcat(out, first[i] + k * TDM_SIM_TEXT);
	}
}

/* line: a row, or -1 for the headings. Writes the cell of column i of the table. */
static void table_cell(const struct tdm_report *r, s64 line, u32 i, char out[TDM_SIM_AXIS_KEYS * TDM_SIM_TEXT])
{
	if (i < r->s->naxes) {
		if (line < 0)
			strcpy(out, axis_heading(&r->s->axis[i]));
		else
			axis_cell(r, (u32)line, i, out);
	} else if (line < 0) {
		strcpy(out, r->s->column[i - r->s->naxes].text);
	} else {
		cell(&r->row[line], &r->s->column[i - r->s->naxes], out);
	}
}

int tdmi_sim_report_print(const struct tdm_report *r, FILE *f)
{
	u32 ncells = r->s->naxes + r->s->ncolumns, width[TDM_SIM_AXES + TDM_SIM_COLUMNS_MAX] = { 0 };
	char text[TDM_SIM_AXIS_KEYS * TDM_SIM_TEXT];

	for (s64 line = -1; line < r->nrows; line++)
		for (u32 i = 0; i < ncells; i++) {
			table_cell(r, line, i, text);
			width[i] = TDM_MAX(width[i], (u32)strlen(text));
		}
	fprintf(f, "%s\n\n", r->s->question);
	for (s64 line = -1; line < r->nrows; line++)
		for (u32 i = 0; i < ncells; i++) {
			table_cell(r, line, i, text);
			fprintf(f, "%s%*s%s", i ? "  " : "", (int)width[i], text, i + 1 < ncells ? "" : "\n");
		}
	fprintf(f, "\nseed %llu, clock %llu.%03u GHz, generators ended at %016llx\n", (unsigned long long)r->s->run.seed, (unsigned long long)(r->hz / 1000000000),
		(unsigned)(r->hz / 1000000 % 1000), (unsigned long long)generators(r));
	return fflush(f) || ferror(f) ? -EIO : 0;
}

/* ---- for machines ------------------------------------------------------------------------------------------------------------------ */

static json_t *num(u64 x)
{
	return json_integer((json_int_t)x);
}

/* Names are bytes, JSON is UTF-8: what is not becomes '?'. */
static json_t *text_of(const char *s)
{
	json_t *j = json_string(s);
	char copy[TDM_SIM_PATH];

	if (j)
		return j;
	snprintf(copy, sizeof(copy), "%s", s);
	for (char *p = copy; *p; p++)
		*p = *p & 0x80 ? '?' : *p;
	return json_string(copy);
}

/* A value of a sweep: a number if it is one. */
static json_t *value_of(const char *s)
{
	size_t n = strspn(s, "0123456789");

	return n && !s[n] && n < 19 ? num(strtoull(s, NULL, 10)) : text_of(s);
}

static json_t *point_of(const struct tdm_report *r, u32 point)
{
	const char *first[TDM_SIM_AXES];
	json_t *o = json_object();

	tdmi_scenario_values(r->s, point, first);
	for (u32 i = 0; i < r->s->naxes; i++)
		for (u32 k = 0; k < r->s->axis[i].nkeys; k++)
			json_object_set_new(o, r->s->axis[i].key[k], value_of(first[i] + k * TDM_SIM_TEXT));
	return o;
}

static json_t *values_of(const struct tdm_report *r, const struct tdm_sim_result *row)
{
	json_t *o = json_object();

	for (u32 i = 0; i < r->s->ncolumns; i++) {
		const struct tdm_sim_column *c = &r->s->column[i];
		u64 x;

		if (!c->quotient)
			json_object_set_new(o, c->text, num(number(row, c->a)));
		else
			json_object_set_new(o, c->text, quotient(row, c, &x) ? json_real((double)x / 100) : json_null());
	}
	return o;
}

int tdmi_sim_report_json(const struct tdm_report *r, FILE *f)
{
	json_t *o = json_object(), *rows = json_array();
	char hex[20];
	int e;

	json_object_set_new(o, "version", json_string(TDM_VERSION));
	json_object_set_new(o, "scenario", text_of(r->s->path));
	json_object_set_new(o, "question", text_of(r->s->question));
	json_object_set_new(o, "seed", num(r->s->run.seed));
	json_object_set_new(o, "clock_hz", num(r->hz));
	for (u32 i = 0; i < r->nrows; i++) {
		json_t *row = json_object();

		json_object_set_new(row, "point", point_of(r, i));
		json_object_set_new(row, "values", values_of(r, &r->row[i]));
		snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)r->row[i].generator);
		json_object_set_new(row, "generator", json_string(hex));
		json_array_append_new(rows, row);
	}
	json_object_set_new(o, "rows", rows);
	snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)generators(r));
	json_object_set_new(o, "generator", json_string(hex));
	e = json_dumpf(o, f, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) || fputc('\n', f) == EOF || fflush(f) ? -EIO : 0;
	json_decref(o);
	return e;
}
