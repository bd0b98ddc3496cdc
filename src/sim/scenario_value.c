/* SPDX-License-Identifier: MIT */
/* scenario_value.c - what the value of a key may be, and how it is written down. */
#include <stdio.h>
#include <string.h>
#include "base/bitops.h"
#include "base/fmt.h"
#include "sim/scenario_value.h"

#define GIB ((u64)1 << 30)

/*
 * TLBs of machines. skylake: Intel 64 and IA-32 Architectures Optimization Reference Manual (248966-045), table 2-15. n1: Arm Neoverse N1 Technical Reference
 * Manual: 48 entries for all sizes, then 1280. small: so that little memory is much.
 */
#define G TDM_TLB_OF
#define SHARED { 0, TDM_TLB_WITH_4K }
static const struct {
	const char *name;
	struct tdm_tlb_config tlb;
} presets[] = {
	{ "skylake", { { { G(16, 4), G(8, 4), G(1, 4) }, { G(128, 12), SHARED, G(4, 4) } } } },
	{ "n1", { { { G(1, 48), SHARED, SHARED }, { G(256, 5), SHARED, SHARED } } } },
	{ "small", { { { G(4, 4), G(1, 4), G(1, 2) }, { G(16, 4), G(4, 4), G(1, 4) } } } },
};

void tdmi_sim_preset(u32 n, struct tdm_tlb_config *out)
{
	*out = presets[n].tlb;
}

int tdmi_value_expected(const struct tdm_sim_origin *o, const char *key, const char *value, const char *what)
{
	return tdmi_sim_fail(o->err, -EINVAL, o->line == ~0u ? "--set" : o->name, o->line == ~0u ? 0 : o->line, "%s: expected %s, not '%s'", key, what, value);
}

static const char *size_text(u64 bytes, char out[24])
{
	static const char units[] = " KMGT";
	u32 u = 0;

	while (u < 4 && bytes && bytes % 1024 == 0) {
		bytes /= 1024;
		u++;
	}
	snprintf(out, 24, u ? "%llu%c" : "%llu", (unsigned long long)bytes, units[u]);
	return out;
}

static int set_number(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, void *at)
{
	char what[120], lo[24], hi[24];
	u64 x = 0;
	int r;

	if (k->type == T_SIZE) {
		snprintf(what, sizeof(what), "a size such as 64K or 1.5G, a multiple of %s up to %s", size_text(k->min, lo), size_text(k->max, hi));
		r = tdmi_parse_size(value, &x);
		if (r || x % k->min || x > k->max)
			return tdmi_value_expected(o, k->name, value, what);
	} else {
		snprintf(what, sizeof(what), "a number from %llu to %llu%s", (unsigned long long)k->min, (unsigned long long)k->max,
			 k->type == T_COUNT ? ", as 1500 or 10M" : "");
		r = k->type == T_COUNT ? tdmi_parse_count(value, &x) : tdmi_parse_u64(value, &x);
		if (k->max >> 62 && r) /* a seed: beyond what amounts may be */
			r = tdmi_parse_u64(value, &x);
		if (r || x < k->min || x > k->max)
			return tdmi_value_expected(o, k->name, value, what);
	}
	if (k->type == T_U32)
		*(u32 *)at = (u32)x;
	else
		*(u64 *)at = x;
	return 0;
}

static int set_word(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, void *at)
{
	char what[160] = "";
	size_t n = 0;

	for (u32 i = 0; k->words[i]; i++) {
		if (!strcmp(k->words[i], value)) {
			if (k->type == T_BIT)
				*(bool *)at = i;
			else
				*(u32 *)at = i;
			return 0;
		}
		n += (size_t)snprintf(what + n, sizeof(what) - n, "%s%s", !i ? "" : k->words[i + 1] ? ", " : " or ", k->words[i]);
	}
	return tdmi_value_expected(o, k->name, value, what);
}

bool tdmi_section_name_ok(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return n && !name[n] && n < TDM_SIM_NAME && name[0] >= 'a' && name[0] <= 'z';
}

/* "16x4": sets of ways. "none". Of larger leaves "shared": with those of 4 KiB. */
static int set_geometry(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, struct tdm_tlb_geometry *g)
{
	unsigned sets, ways, end = 0;

	if (!strcmp(value, "none")) {
		*g = (struct tdm_tlb_geometry){ 0, 0 };
		return 0;
	}
	if (!strcmp(value, "shared") && !strstr(k->name, "_4k")) {
		*g = (struct tdm_tlb_geometry)SHARED;
		return 0;
	}
	if (strspn(value, "0123456789x") != strlen(value) || strlen(value) > 10 || sscanf(value, "%ux%u%n", &sets, &ways, &end) != 2 || value[end] || !tdm_is_pow2(sets) ||
	    sets > 65536 || !ways || ways > TDM_TLB_WAYS_MAX)
		return tdmi_value_expected(o, k->name, value,
					   "SETSxWAYS such as 16x4, the sets a power of two up to 65536, 1 to 64 ways; none; or, for larger leaves than 4K, shared");
	*g = (struct tdm_tlb_geometry){ sets, ways };
	return 0;
}

static int set_leaves(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, u64 *mask)
{
	static const char what[] = "4K, and 2M and 1G if there are such leaves, as '4K 2M'";
	char copy[32], *rest = copy, *w;
	u64 m = 0, x;

	if (strlen(value) >= sizeof(copy))
		return tdmi_value_expected(o, k->name, value, what);
	strcpy(copy, value);
	while ((w = tdmi_text_word(&rest))) {
		if (tdmi_parse_size(w, &x) || (x != TDM_PAGE_SIZE && x != TDM_HUGE_SIZE && x != GIB) || (m & x))
			return tdmi_value_expected(o, k->name, value, what);
		m |= x;
	}
	if (!(m & TDM_PAGE_SIZE))
		return tdmi_value_expected(o, k->name, value, what);
	*mask = m;
	return 0;
}

static int set_percent(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, u32 *at)
{
	char digits[16];
	size_t n = strlen(value);
	u32 x;

	if (n < 2 || n > sizeof(digits) || value[n - 1] != '%')
		return tdmi_value_expected(o, k->name, value, "a part of 100%, as 30% or 0.5%");
	memcpy(digits, value, n - 1);
	digits[n - 1] = 0;
	if (tdmi_parse_thousandths(digits, &x) || x > 100000 || x % 100)
		return tdmi_value_expected(o, k->name, value, "a part of 100%, as 30% or 0.5%");
	*at = x / 100; /* tenths of a percent are thousandths */
	return 0;
}

static int set_threads(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, u32 *at)
{
	u64 x;

	if (!strcmp(value, "all"))
		*at = TDM_SIM_ALL;
	else if (!strcmp(value, "rest"))
		*at = TDM_SIM_REST;
	else if (!tdmi_parse_u64(value, &x) && x >= k->min && x <= k->max)
		*at = (u32)x;
	else
		return tdmi_value_expected(o, k->name, value, "a number from 1 to 256, all (one a CPU) or rest (one on each CPU that no other agent names)");
	return 0;
}

static int set_preset(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, struct tdm_sim_machine *m)
{
	static const char *const numbers[] = { "l1_4k", "l1_2m", "l1_1g", "l2_4k", "l2_2m", "l2_1g" };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(numbers); i++)
		if (tdmi_section_is_set(TDM_SIM_S_MACHINE, &m->s, numbers[i]))
			return tdmi_value_expected(o, k->name, value, "the preset before l1_ and l2_ keys, which change it, and no sweep over it with them");
	for (u32 i = 0; i < TDM_ARRAY_SIZE(presets); i++) {
		if (strcmp(presets[i].name, value))
			continue;
		m->preset = i;
		m->tlb = presets[i].tlb;
		return 0;
	}
	return tdmi_value_expected(o, k->name, value, "skylake, n1 or small");
}

static int set_text(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, void *at)
{
	struct tdm_sim_ref *ref = at;

	if (k->type == T_PATH) {
		const char *slash = *value == '/' ? NULL : strrchr(o->name, '/');
		int dir = slash ? (int)(slash - o->name) + 1 : 0;

		if ((size_t)snprintf(at, TDM_SIM_PATH, "%.*s%s", dir, o->name, value) >= TDM_SIM_PATH)
			return tdmi_value_expected(o, k->name, value, "a shorter path");
		return 0;
	}
	if (!tdmi_section_name_ok(value))
		return tdmi_value_expected(o, k->name, value, "the name of a section");
	strcpy(ref->name, value);
	return 0;
}

int tdmi_value_set(const struct tdm_sim_origin *o, const struct tdm_sim_key *k, const char *value, struct tdm_sim_section *to)
{
	void *at = (char *)to + k->at;

	switch (k->type) {
	case T_U32:
	case T_COUNT:
	case T_SIZE:
		return set_number(o, k, value, at);
	case T_BOOL:
		if (strcmp(value, "on") && strcmp(value, "off"))
			return tdmi_value_expected(o, k->name, value, "on or off");
		*(bool *)at = !strcmp(value, "on");
		return 0;
	case T_WORD:
	case T_BIT:
		return set_word(o, k, value, at);
	case T_PERCENT:
		return set_percent(o, k, value, at);
	case T_THETA:
		if (tdmi_parse_thousandths(value, at) || *(u32 *)at < 1 || *(u32 *)at > 10000)
			return tdmi_value_expected(o, k->name, value, "a number from 0.001 to 10, as 0.99");
		return 0;
	case T_DURATION:
		if (tdmi_parse_duration(value, at))
			return tdmi_value_expected(o, k->name, value, "a time such as 10us or 300 cycles");
		return 0;
	case T_GEOMETRY:
		return set_geometry(o, k, value, at);
	case T_LEAVES:
		return set_leaves(o, k, value, at);
	case T_REF:
	case T_PATH:
		return set_text(o, k, value, at);
	case T_THREADS:
		return set_threads(o, k, value, at);
	case T_PRESET:
		return set_preset(o, k, value, (struct tdm_sim_machine *)to);
	}
	TDM_BUG_ON("a type of key that is none");
	return -EINVAL;
}
