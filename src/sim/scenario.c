/* SPDX-License-Identifier: MIT */
/*
 * scenario.c - reads a scenario: sections, sweeps, columns, and the points of a sweep.
 *
 * A sweep's values, and those of the command line, are set by the same function as those of the file, by a path: "machine.cpus", "agent.stream.pin".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sim/scenario.h"

struct reader {
	struct tdm_scenario *s;
	struct tdm_text *t;
	enum { IN_NOTHING, IN_SECTION, IN_SWEEP, IN_PRINT, IN_SCRIPT } in;
	enum tdm_sim_section_kind kind;
	struct tdm_sim_section *section;
	u32 sweep_line;
	char *err;
};

#define FAIL(rd, ...) tdmi_sim_fail((rd)->err, -EINVAL, (rd)->t->name, (rd)->t->line, __VA_ARGS__)

/* ---- [section name] ---------------------------------------------------------------------------------------------------------- */

static int begin_once(struct reader *rd, u32 *line, int in)
{
	if (*line)
		return FAIL(rd, "this section for the second time (first in line %u)", *line);
	*line = rd->t->line;
	rd->in = in;
	return 0;
}

static int parse_section(struct reader *rd, char *line)
{
	char *end = strchr(line, ']'), *rest = line + 1, *word, *name;
	bool named;
	int r;

	if (!end || end[1])
		return FAIL(rd, "expected '[SECTION]' or '[SECTION NAME]', and nothing behind it");
	*end = 0;
	word = tdmi_text_word(&rest);
	name = word ? tdmi_text_word(&rest) : NULL;
	if (!word || tdmi_text_word(&rest))
		return FAIL(rd, "expected '[SECTION]' or '[SECTION NAME]'");
	rd->kind = tdmi_section_kind(word, &named);
	if (!strcmp(word, "sweep") && !name)
		return begin_once(rd, &rd->sweep_line, IN_SWEEP);
	if (!strcmp(word, "print") && !name)
		return begin_once(rd, &rd->s->columns_line, IN_PRINT);
	if (!strcmp(word, "script") && !name)
		return begin_once(rd, &rd->s->script_line, IN_SCRIPT);
	if (rd->kind == TDM_SIM_S_NR && strcmp(word, "sweep") && strcmp(word, "print") && strcmp(word, "script"))
		return FAIL(rd, "there is no section [%s]; expected machine, iommu, costs, device, process, object, mapping, guest, agent, script, sweep, print or run", word);
	if (!named && name)
		return FAIL(rd, "[%s] has no name", word);
	if (named && !name)
		return FAIL(rd, "expected a name, as in [%s first]", word);
	rd->section = tdmi_section_begin(rd->s, rd->kind, name, rd->t->line, &r);
	rd->in = IN_SECTION;
	if (r == -EEXIST)
		return FAIL(rd, "[%s%s%s] for the second time (first in line %u)", word, name ? " " : "", name ? name : "",
			    tdmi_section_find(rd->s, rd->kind, name)->line);
	if (r == -ENOSPC)
		return FAIL(rd, "too many sections [%s ...]", word);
	if (r)
		return FAIL(rd, "'%s' is no name; expected at most 31 of a to z, 0 to 9, - and _, a letter first", name);
	return 0;
}

/* ---- paths: a key of any section ---------------------------------------------------------------------------------------------- */

struct place {
	enum tdm_sim_section_kind kind;
	struct tdm_sim_section *section;
	char key[TDM_SIM_TEXT];
};

/* "machine.cpus", "agent.stream.pin". False: there is no such section; whether there is the key is found out when it is set. */
static bool find_place(struct tdm_scenario *s, const char *path, struct place *p)
{
	char copy[TDM_SIM_TEXT], *name, *key;
	bool named;

	if (strlen(path) >= sizeof(copy))
		return false;
	strcpy(copy, path);
	name = strchr(copy, '.');
	if (!name)
		return false;
	*name++ = 0;
	p->kind = tdmi_section_kind(copy, &named);
	key = named ? strchr(name, '.') : name;
	if (p->kind == TDM_SIM_S_NR || !key)
		return false;
	if (named)
		*key++ = 0;
	strcpy(p->key, key);
	p->section = tdmi_section_find(s, p->kind, named ? name : NULL);
	return p->section != NULL;
}

static int set_path(struct tdm_scenario *s, const char *path, const char *value, const struct tdm_sim_origin *o)
{
	struct place p;

	if (!find_place(s, path, &p))
		return tdmi_sim_fail(o->err, -EINVAL, o->line == ~0u ? "--set" : o->name, o->line == ~0u ? 0 : o->line,
				     "'%s' is no key of this scenario; expected SECTION.KEY or SECTION.NAME.KEY, as machine.cpus or agent.%s.enabled", path,
				     s->nagents ? s->agent[0].s.name : "NAME");
	return tdmi_section_set(s, p.kind, p.section, p.key, value, false, o);
}

/* ---- sweeps -------------------------------------------------------------------------------------------------------------------- */

/* "a, b, c" into at most max texts. The number; 0: too many, too long, or an empty one. */
static u32 split_commas(char *s, char (*out)[TDM_SIM_TEXT], u32 max)
{
	u32 n = 0;

	for (;;) {
		char *comma = strchr(s, ','), *key, *none;

		if (comma)
			*comma = 0;
		tdmi_text_split(s, &key, &none);
		if (none || !*key || strlen(key) >= TDM_SIM_TEXT || n == max)
			return 0;
		strcpy(out[n++], key);
		if (!comma)
			return n;
		s = comma + 1;
	}
}

/* Values are words; of several keys each word is as many values with commas between. A '+' within a value stands for a blank: "4K+2M". */
static int parse_values(struct tdm_sim_axis *x, char *values, const struct tdm_sim_origin *o)
{
	const char *name = o->line == ~0u ? "--set" : o->name;
	u32 line = o->line == ~0u ? 0 : o->line;
	char *w;

	for (x->nvalues = 0; (w = tdmi_text_word(&values)); x->nvalues++) {
		if (x->nvalues == TDM_SIM_AXIS_VALUES)
			return tdmi_sim_fail(o->err, -EINVAL, name, line, "more than %u values", TDM_SIM_AXIS_VALUES);
		if (split_commas(w, x->value[x->nvalues], x->nkeys) != x->nkeys)
			return tdmi_sim_fail(o->err, -EINVAL, name, line,
					     "expected values of %u parts each with ',' between and no blanks, as 'stall,off pri,on'; parts below %u letters",
					     x->nkeys, TDM_SIM_TEXT);
		for (u32 k = 0; k < x->nkeys; k++)
			for (char *c = x->value[x->nvalues][k]; *c; c++)
				*c = *c == '+' ? ' ' : *c;
	}
	return x->nvalues ? 0 : tdmi_sim_fail(o->err, -EINVAL, name, line, "expected values behind the '='");
}

static struct tdm_sim_axis *axis_of(struct tdm_scenario *s, const char *key)
{
	for (u32 i = 0; i < s->naxes; i++)
		for (u32 k = 0; k < s->axis[i].nkeys; k++)
			if (!strcmp(s->axis[i].key[k], key))
				return &s->axis[i];
	return NULL;
}

static int parse_axis(struct reader *rd, char *key, char *value)
{
	struct tdm_sim_origin o = { rd->t->name, rd->t->line, rd->err };
	struct tdm_sim_axis *x = &rd->s->axis[rd->s->naxes];
	u64 points = tdmi_scenario_points(rd->s);
	int r;

	if (rd->s->naxes == TDM_SIM_AXES)
		return FAIL(rd, "more than %u lines of a sweep", TDM_SIM_AXES);
	*x = (struct tdm_sim_axis){ .line = rd->t->line };
	x->nkeys = split_commas(key, x->key, TDM_SIM_AXIS_KEYS);
	if (!x->nkeys)
		return FAIL(rd, "expected 'KEY = VALUE VALUE ...' or 'KEY, KEY = VALUE,VALUE ...' with at most %u keys, as in 'machine.cpus = 2 4 8'", TDM_SIM_AXIS_KEYS);
	for (u32 k = 0; k < x->nkeys; k++)
		for (u32 j = 0; axis_of(rd->s, x->key[k]) || j < k; j++)
			if (axis_of(rd->s, x->key[k]) || !strcmp(x->key[j], x->key[k]))
				return FAIL(rd, "'%s' is swept already", x->key[k]);
	r = parse_values(x, value, &o);
	if (r)
		return r;
	if (points * x->nvalues > TDM_SIM_POINTS)
		return FAIL(rd, "a sweep of more than %u points", TDM_SIM_POINTS);
	rd->s->naxes++;
	return 0;
}

u32 tdmi_scenario_points(const struct tdm_scenario *s)
{
	u32 n = 1;

	for (u32 i = 0; i < s->naxes; i++)
		n *= s->axis[i].nvalues;
	return n;
}

/* Which value of axis i. */
static u32 value_index(const struct tdm_scenario *s, u32 point, u32 i)
{
	for (u32 k = s->naxes - 1; k > i; k--)
		point /= s->axis[k].nvalues;
	return point % s->axis[i].nvalues;
}

int tdmi_scenario_point(const struct tdm_scenario *s, u32 point, struct tdm_scenario *out, char *err)
{
	int r = 0;

	*out = *s;
	for (u32 i = 0; !r && i < s->naxes; i++) {
		const struct tdm_sim_axis *x = &s->axis[i];
		struct tdm_sim_origin o = { s->path, x->line, err };

		for (u32 k = 0; !r && k < x->nkeys; k++)
			r = set_path(out, x->key[k], x->value[value_index(s, point, i)][k], &o);
	}
	if (!r)
		r = tdmi_scenario_resolve(out, err);
	return r ? r : tdmi_scenario_check(out, err);
}

void tdmi_scenario_values(const struct tdm_scenario *s, u32 point, const char *value[TDM_SIM_AXES])
{
	for (u32 i = 0; i < s->naxes; i++)
		value[i] = s->axis[i].value[value_index(s, point, i)][0];
}

void tdmi_scenario_costs(const struct tdm_scenario *s, const struct tdm_costs *base, struct tdm_costs *out)
{
	*out = *base;
	for (u32 i = 0; i < TDM_COST_NR; i++)
		if (s->cost_set[i / 64] >> i % 64 & 1)
			tdmi_costs_set(out, (enum tdm_cost)i, s->cost[i]);
}

/* ---- columns -------------------------------------------------------------------------------------------------------------------- */

static int find_number(struct reader *rd, const char *text, struct tdm_sim_number *out)
{
	char name[TDM_SIM_NAME];
	const char *dot = strchr(text, '.');

	out->agent = -1;
	out->which = tdmi_sim_count_find(text);
	if (!dot && out->which < TDM_COL_NR)
		return 0;
	if (!dot)
		return FAIL(rd, "there is no number '%s' to print; docs/sim.md lists them", text);
	snprintf(name, sizeof(name), "%.*s", (int)TDM_MIN(dot - text, (ptrdiff_t)sizeof(name)), text);
	for (u32 i = 0; i < rd->s->nagents; i++)
		if (!strcmp(rd->s->agent[i].s.name, name))
			out->agent = (s32)i;
	if (out->agent < 0)
		return FAIL(rd, "'%s': there is no [agent %s] above", text, name);
	out->which = tdmi_sim_agent_count_find(dot + 1);
	if (out->which == TDM_AGENT_NR)
		return FAIL(rd, "'%s': expected one of an agent's numbers: cycles, slowest, done, bytes, faults, retries or failed", text);
	return 0;
}

static int parse_columns(struct reader *rd, const char *key, char *value)
{
	char *w;

	if (strcmp(key, "columns"))
		return FAIL(rd, "there is no key '%s' in [print]; expected 'columns = NAME NAME ...'", key);
	while ((w = tdmi_text_word(&value))) {
		struct tdm_sim_column *c = &rd->s->column[rd->s->ncolumns];
		char *slash = strchr(w, '/');
		int r;

		if (rd->s->ncolumns == TDM_SIM_COLUMNS_MAX)
			return FAIL(rd, "more than %u columns", TDM_SIM_COLUMNS_MAX);
		if (strlen(w) >= sizeof(c->text))
			return FAIL(rd, "'%.20s...' is too long", w);
		strcpy(c->text, w);
		for (u32 i = 0; i < rd->s->ncolumns; i++)
			if (!strcmp(rd->s->column[i].text, w))
				return FAIL(rd, "'%s' for the second time", w);
		if (slash)
			*slash = 0;
		c->quotient = slash != NULL;
		r = find_number(rd, w, &c->a);
		if (!r && slash)
			r = find_number(rd, slash + 1, &c->b);
		if (r)
			return r;
		rd->s->ncolumns++;
	}
	return 0;
}

/* ---- a script ------------------------------------------------------------------------------------------------------------------- */

static int parse_op(struct reader *rd, char *line)
{
	struct tdm_op *op = &rd->s->op[rd->s->nops];
	char what[300];

	if (rd->s->nops == TDM_SCRIPT_OPS)
		return FAIL(rd, "more than %u operations", TDM_SCRIPT_OPS);
	if (tdmi_op_parse(op, line, what, sizeof(what)))
		return FAIL(rd, "%s", what);
	op->line = rd->t->line;
	rd->s->nops++;
	return 0;
}

/* ---- the file --------------------------------------------------------------------------------------------------------------------- */

static int parse_line(struct reader *rd, char *line)
{
	struct tdm_sim_origin o = { rd->t->name, rd->t->line, rd->err };
	char *key, *value;

	if (*line == '[')
		return parse_section(rd, line);
	if (rd->in == IN_SCRIPT)
		return parse_op(rd, line);
	tdmi_text_split(line, &key, &value);
	if (!value || !*key || !*value)
		return FAIL(rd, "expected '[SECTION]' or 'KEY = VALUE'");
	switch (rd->in) {
	case IN_SECTION:
		return tdmi_section_set(rd->s, rd->kind, rd->section, key, value, true, &o);
	case IN_SWEEP:
		return parse_axis(rd, key, value);
	case IN_PRINT:
		return parse_columns(rd, key, value);
	case IN_SCRIPT:
	case IN_NOTHING:
		break;
	}
	return FAIL(rd, "expected a section, as [machine], before the first key");
}

/* The first line: "# What ...?" */
static int parse_question(struct reader *rd)
{
	const char *from = rd->t->bytes, *end = memchr(from, '\n', rd->t->len);
	size_t n = end ? (size_t)(end - from) : rd->t->len, max = sizeof(rd->s->question) - 1;

	while (n && (*from == '#' || *from == ' ')) {
		from++;
		n--;
	}
	while (n && (from[n - 1] == ' ' || from[n - 1] == '\r'))
		n--;
	if (*rd->t->bytes != '#' || !n || n > max || memchr(from, 0, n))
		return tdmi_sim_fail(rd->err, -EINVAL, rd->t->name, 1, "expected '# ' and the question that the scenario answers, in at most %u letters", (u32)max);
	memcpy(rd->s->question, from, n);
	return 0;
}

static int replace_sweep(struct tdm_sim_axis *x, const char *key, char *values, const struct tdm_sim_origin *o)
{
	if (x->nkeys > 1)
		return tdmi_sim_fail(o->err, -EINVAL, "--set", 0, "%s is swept together with other keys; change the file", key);
	x->line = o->line;
	return parse_values(x, values, o);
}

/* "key=value": of a swept key all its values. */
static int set_by_hand(struct tdm_scenario *s, const char *text, char *err)
{
	struct tdm_sim_origin o = { s->path, ~0u, err };
	char *copy = strdup(text), *key, *value;
	struct tdm_sim_axis *x;
	int r;

	if (!copy)
		return tdmi_sim_fail(err, -ENOMEM, NULL, 0, "no memory");
	tdmi_text_split(copy, &key, &value);
	if (!value || !*key || !*value) {
		r = tdmi_sim_fail(err, -EINVAL, "--set", 0, "expected KEY=VALUE, as machine.cpus=4, not '%s'", text);
	} else {
		x = axis_of(s, key);
		r = x ? replace_sweep(x, key, value, &o) : set_path(s, key, value, &o);
	}
	free(copy);
	return r;
}

/* The file makes no sense with what was set, which need not be what the message is about. */
static void blame_set(char *err, const char *const *set, u32 nset)
{
	size_t n = strlen(err);

	for (u32 i = 0; i < nset && n < TDM_SIM_ERR - 1; i++)
		n += (size_t)snprintf(err + n, TDM_SIM_ERR - n, "%s--set %s", i ? ", " : "; with ", set[i]);
	for (; *err; err++)
		*err = (unsigned char)*err < ' ' || *err == 0x7f ? '?' : *err;
}

static int check_points(struct tdm_scenario *s, char *err)
{
	u32 n = tdmi_scenario_points(s);
	struct tdm_scenario *one;
	int r = 0;

	if (n > TDM_SIM_POINTS)
		return tdmi_sim_fail(err, -EINVAL, "--set", 0, "a sweep of more than %u points", TDM_SIM_POINTS);
	one = malloc(sizeof(*one));
	if (!one)
		return tdmi_sim_fail(err, -ENOMEM, NULL, 0, "no memory");
	for (u32 i = 0; !r && i < n; i++)
		r = tdmi_scenario_point(s, i, one, err);
	free(one);
	return r;
}

static int read_text(struct tdm_scenario *s, struct tdm_text *t, const char *const *set, u32 nset, char *err)
{
	struct reader rd = { .s = s, .t = t, .err = err };
	char *line;
	int r;

	tdmi_scenario_defaults(s);
	if (strlen(t->name) >= sizeof(s->path))
		return tdmi_sim_fail(err, -ENAMETOOLONG, t->name, 0, "the path is too long");
	strcpy(s->path, t->name);
	r = parse_question(&rd);
	while (!r && (r = tdmi_text_next(t, &line, err)) > 0)
		r = parse_line(&rd, line);
	for (u32 i = 0; !r && i < nset; i++)
		r = set_by_hand(s, set[i], err);
	if (!r && !s->ncolumns && !s->script_line)
		r = tdmi_sim_fail(err, -EINVAL, t->name, s->columns_line, "nothing is printed; expected a section [print] with 'columns = NAME ...'");
	if (r)
		return r;
	r = check_points(s, err);
	if (r && strncmp(err, "--set", 5))
		blame_set(err, set, nset);
	return r;
}

int tdmi_scenario_load(struct tdm_scenario *s, const char *path, const char *const *set, u32 nset, char *err)
{
	struct tdm_text t;
	int r = tdmi_text_open(&t, path, err);

	if (r)
		return r;
	r = read_text(s, &t, set, nset, err);
	tdmi_text_close(&t);
	return r;
}

int tdmi_scenario_parse(struct tdm_scenario *s, const char *name, const char *text, const char *const *set, u32 nset, char *err)
{
	struct tdm_text t;
	int r;

	if (tdmi_text_of(&t, name, text))
		return tdmi_sim_fail(err, -ENOMEM, name, 0, "no memory");
	r = read_text(s, &t, set, nset, err);
	tdmi_text_close(&t);
	return r;
}
