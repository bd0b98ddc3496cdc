/* SPDX-License-Identifier: MIT */
/*
 * script.h - operations on address spaces, one after the other, on a simulated machine and on a model of it that knows only bytes and rights.
 *
 * A scenario with a section [script] is not measured but carried out: each operation on the engine, then on the model (script_model.h), and what the one
 * has said must be what the other has. After each the machine is at rest, and all that must hold then is looked at (script_check.c). So a script either
 * agrees, or ends with one line that says where it does not. tests/fuzz makes scripts by the million, and writes those that do not agree down as scenarios.
 *
 * An operation that makes no sense where it stands (a process that is not there, a pin that holds nothing) does nothing: so any part of a script is a script.
 *
 * Addresses are pages, 0 to TDM_SCRIPT_PAGES - 1, of a range that begins TDM_SCRIPT_LEAD pages before a multiple of 2 MiB: so ranges cross the ends of page
 * tables, and there are two slots for leaves of 2 MiB.
 */
#ifndef TDM_SIM_SCRIPT_H
#define TDM_SIM_SCRIPT_H

#include "base/types.h"

#define TDM_SCRIPT_OPS 1024u
#define TDM_SCRIPT_ARGS 6u

#define TDM_SCRIPT_LEAD 16u
#define TDM_SCRIPT_PAGES 1056u
#define TDM_SCRIPT_BASE (((u64)1 << 33) - TDM_SCRIPT_LEAD * 4096u)
#define TDM_SCRIPT_PROCESSES 4u
#define TDM_SCRIPT_SHARED 3u        /* shared memory: names, and pages of each */
#define TDM_SCRIPT_SHARED_PAGES 32u
#define TDM_SCRIPT_BUFFERS 2u       /* a driver's */
#define TDM_SCRIPT_BUFFER_PAGES 600u
#define TDM_SCRIPT_PINS 8u

/* docs/sim.md says what each does. */
enum tdm_op_what {
	TDM_DO_MMAP, TDM_DO_MMAP_SHARED, TDM_DO_MMAP_DEVICE, TDM_DO_MUNMAP, TDM_DO_MPROTECT, TDM_DO_MREMAP, TDM_DO_DONTNEED, TDM_DO_FREE,
		TDM_DO_CLEAR_SOFT_DIRTY,
	TDM_DO_FORK, TDM_DO_EXIT, TDM_DO_SPAWN, TDM_DO_READ, TDM_DO_WRITE, TDM_DO_IDLE, TDM_DO_DMA_READ, TDM_DO_DMA_WRITE, TDM_DO_UNBIND,
	TDM_DO_GUEST, TDM_DO_GUEST_READ, TDM_DO_GUEST_WRITE, TDM_DO_GUEST_END, TDM_DO_PIN, TDM_DO_UNPIN, TDM_DO_PIN_READ, TDM_DO_PIN_WRITE,
	TDM_DO_MIGRATE, TDM_DO_EVICT, TDM_DO_AGE, TDM_DO_INSERT, TDM_DO_COLLAPSE, TDM_DO_MOVE, TDM_DO_DROP, TDM_DO_FAIL, TDM_DO_RAM,
	TDM_DO_NR,
};

enum tdm_op_rights { TDM_DO_NONE, TDM_DO_R, TDM_DO_RW };
enum tdm_op_pin { TDM_DO_PIN_FOR_READ, TDM_DO_PIN_FOR_WRITE, TDM_DO_PIN_LONG_READ, TDM_DO_PIN_LONG_WRITE };
enum tdm_op_where { TDM_DO_TO_RAM, TDM_DO_TO_COHERENT };
/* What fails: an allocation of the engine's own (a page table, a VMA), of a page, a blob on its way to the tier, or back. */
enum tdm_op_fail { TDM_DO_FAIL_MEMORY, TDM_DO_FAIL_PAGE, TDM_DO_FAIL_PUT, TDM_DO_FAIL_GET, TDM_DO_FAIL_NR };

struct tdm_op {
	u8 what;                   /* enum tdm_op_what */
	u32 line;                  /* of the file; 0: of none */
	u32 arg[TDM_SCRIPT_ARGS];  /* by the letters of tdm_op_table[what].args */
};

/*
 * args: a letter each. p process, c CPU, g page, n pages from there, R rights, s shared memory, b buffer, o page of either, d device, i pin, k kind of pin,
 * w where to, f what fails, v value, # number.
 */
struct tdm_op_desc {
	const char *name, *args;
};

extern const struct tdm_op_desc tdm_op_table[TDM_DO_NR];

/* script_text.c. Words of a letter: NULL if it is a number, or a name and a number. */
const char *const *tdmi_op_words(char letter);
/* Read "NAME ARG ...", which is taken apart. -EINVAL: err says what was expected, without a place. */
int tdmi_op_parse(struct tdm_op *op, char *line, char *err, size_t len);
/* As it is read. */
const char *tdmi_op_print(const struct tdm_op *op, char out[96]);
/* Do its numbers fit each other? -EINVAL likewise. */
int tdmi_op_check(const struct tdm_op *op, char *err, size_t len);

struct tdm_scenario;
struct tdm_costs;
struct tdm_script;

/* Where scripts are carried out, one after the other. NULL: no memory. */
struct tdm_script *tdmi_script_open(void);
void tdmi_script_close(struct tdm_script *x);
/* What became of one. */
struct tdm_script_result {
	u32 done;         /* operations */
	u64 faults;       /* that the engine served */
	u64 failures;     /* that were asked for, and happened */
};
/* Carry out s->op on the machine that s describes, which is a point (tdmi_scenario_point()). 0: nothing differs; 1: something does, err says what,
 * "FILE:LINE: OPERATION: ...", and the machine is as it is left: x is only
 * good for closing. -errno: there is no machine; err. */
int tdmi_script_run(struct tdm_script *x, const struct tdm_scenario *s, const struct tdm_costs *costs, struct tdm_script_result *out, char *err);

#endif
