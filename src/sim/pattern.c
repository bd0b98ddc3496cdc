/* SPDX-License-Identifier: MIT */
/* pattern.c - synthetic accesses to a range of bytes. */
#include <math.h>
#include "base/bitops.h"
#include "sim/pattern.h"

void tdmi_shuffle_init(struct tdm_shuffle *s, u64 n, struct tdm_rng *rng)
{
	u32 bits = tdm_log2_up(n);

	s->n = n;
	s->mask = tdm_bits_below(bits);
	s->shift = TDM_MAX(bits / 2, 1u);
	for (u32 r = 0; r < 3; r++) {
		s->mul[r] = tdm_rng_next(rng) | 1;
		s->add[r] = tdm_rng_next(rng);
	}
}

/* ---- zipf. H is the integral of x^-theta, without a constant; written with expm1 and log1p so that theta may be 1, or nearly. */

static double expm1_over(double x)
{
	return fabs(x) > 1e-8 ? expm1(x) / x : 1 + x / 2;
}

static double log1p_over(double x)
{
	return fabs(x) > 1e-8 ? log1p(x) / x : 1 - x / 2;
}

static double h_integral(const struct tdm_zipf *z, double x)
{
	double log_x = log(x);

	return expm1_over((1 - z->theta) * log_x) * log_x;
}

static double h_inverse(const struct tdm_zipf *z, double y)
{
	double t = TDM_MAX(y * (1 - z->theta), -1.0);

	return exp(log1p_over(t) * y);
}

static double h(const struct tdm_zipf *z, double x)
{
	return exp(-z->theta * log(x));
}

void tdmi_zipf_init(struct tdm_zipf *z, u64 n, u32 theta)
{
	z->n = n;
	z->theta = theta / 1000.0;
	z->h_first = h_integral(z, 1.5) - 1;
	z->h_last = h_integral(z, (double)n + 0.5);
	z->sure = 2 - h_inverse(z, h_integral(z, 2.5) - h(z, 2));
}

u64 tdmi_zipf_next(const struct tdm_zipf *z, struct tdm_rng *rng)
{
	for (;;) {
		double u = z->h_last + tdm_rng_unit(rng) * (z->h_first - z->h_last), x = h_inverse(z, u), k = floor(x + 0.5);

		k = TDM_MIN(TDM_MAX(k, 1.0), (double)z->n);
		if (k - x <= z->sure || u >= h_integral(z, k + 0.5) - h(z, k))
			return (u64)k - 1;
	}
}

/* ---- patterns -------------------------------------------------------------------------------------------------------------- */

int tdmi_pattern_init(struct tdm_pattern *p, const struct tdm_pattern_spec *spec, u64 seed, u64 stream)
{
	if (!spec->unit || spec->unit % 8 || spec->bytes < spec->unit || spec->writes > 1000)
		return -EINVAL;
	if (spec->kind == TDM_PATTERN_STRIDED && (!spec->stride || spec->stride % spec->unit || spec->stride > spec->bytes))
		return -EINVAL;
	*p = (struct tdm_pattern){ .spec = *spec, .units = spec->bytes / spec->unit };
	if (spec->kind == TDM_PATTERN_ZIPF && (!spec->theta || p->units >> 52))
		return -EINVAL;
	p->writes = spec->writes == 1000 ? ~(u64)0 : (u64)(((unsigned __int128)spec->writes << 64) / 1000);
	tdm_rng_init(&p->rng, seed, stream);
	tdmi_shuffle_init(&p->shuffle, p->units, &p->rng);
	if (spec->kind == TDM_PATTERN_ZIPF)
		tdmi_zipf_init(&p->zipf, p->units, spec->theta);
	return 0;
}

/* The unit behind this one, in steps; each lap begins one unit further on, until all have been there. */
static u64 strided(struct tdm_pattern *p)
{
	u64 step = p->spec.stride / p->spec.unit, at = p->at;

	p->at += step;
	if (p->at >= p->units) {
		p->lap = (p->lap + 1) % step;
		p->at = p->lap < p->units ? p->lap : 0;
	}
	return at;
}

static u64 next_unit(struct tdm_pattern *p)
{
	u64 at = p->at;

	switch (p->spec.kind) {
	case TDM_PATTERN_STRIDED:
		return strided(p);
	case TDM_PATTERN_UNIFORM:
		return tdm_rng_below(&p->rng, p->units);
	case TDM_PATTERN_ZIPF:
		return tdm_shuffle(&p->shuffle, tdmi_zipf_next(&p->zipf, &p->rng));
	case TDM_PATTERN_CHASE:
		p->at = at + 1 < p->units ? at + 1 : 0;
		return tdm_shuffle(&p->shuffle, at);
	case TDM_PATTERN_SEQUENTIAL:
		break;
	}
	p->at = at + 1 < p->units ? at + 1 : 0;
	return at;
}

void tdmi_pattern_next(struct tdm_pattern *p, u64 *ops, u32 n)
{
	u32 writes = p->spec.writes;

	for (u32 i = 0; i < n; i++)
		ops[i] = next_unit(p) * p->spec.unit;
	if (!writes)
		return;
	for (u32 i = 0; i < n; i++)
		if (writes == 1000 || tdm_rng_next(&p->rng) < p->writes)
			ops[i] |= TDM_OP_WRITE;
}
