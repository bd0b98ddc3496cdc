/* SPDX-License-Identifier: MIT */
/*
 * gen.h - makes scripts (src/sim/script.h) out of choices.
 *
 * A choice is a number below another one; where it comes from is the source's matter: random numbers of a seed, the bytes of a fuzzer, or a counter that
 * goes through all of them (an odometer: each choice is a wheel). So there is one generator for all three.
 */
#ifndef TDM_FUZZ_GEN_H
#define TDM_FUZZ_GEN_H

#include "sim/rng.h"
#include "sim/scenario.h"

#define WHEELS 256u

struct source {
	u32 (*below)(struct source *s, u32 n); /* n > 0 */
	bool dry;                  /* bytes: there are no more, and every choice is 0 */
	struct tdm_rng rng;
	const u8 *bytes;
	size_t len;
	u32 nwheels, at;           /* those that have been turned in this round; the next one */
	u32 wheel[WHEELS], size[WHEELS];
};

void source_seed(struct source *s, u64 seed);
void source_bytes(struct source *s, const u8 *bytes, size_t len);
void source_odometer(struct source *s);
/* The next combination of all choices. false: that was the last one. */
bool source_turn(struct source *s);

/* Of what a machine is made: for each knob one of its values; 0: what it is by default, and not written. */
#define KNOBS_MAX 40u
struct knobs {
	u8 at[KNOBS_MAX];
};

struct script {
	struct knobs knobs;
	u32 nops;
	struct tdm_op op[TDM_SCRIPT_OPS];
};

/* A small world, of which all is tried. */
struct domain {
	const char *name;
	const char *machine;       /* more lines for [machine], or "" */
	const u8 *what;            /* operations, and how many there are */
	u32 nwhat;
	u32 depth;                 /* operations in a row, for who does not say how many */
	u32 processes, devices, pins;
	u32 page, pages;           /* pages are from here, so many */
	u32 count;                 /* in ranges, at most */
	const char *prefix;        /* what comes before, in lines */
};

extern const struct domain domains[];
extern const u32 ndomains;

/* A machine, and n operations; of a source that runs dry, as many as it has. */
void gen_script(struct source *s, u32 n, struct script *out);
/* n operations of a domain, behind its prefix. */
void gen_small(struct source *s, const struct domain *d, u32 n, struct script *out);

/* The scenario as text. d: of a domain, or NULL. Returns its length; it is cut off at len. */
size_t gen_print(const struct script *sc, const struct domain *d, const char *question, char *out, size_t len);

#endif
