/* SPDX-License-Identifier: MIT */
/*
 * cmd.h - what the files of the command share.
 *
 * A function that can fail for a reason that the user must hear fills err (one line, without "tandem: " and newline) and returns
 * non-zero; only the subcommands print it.
 */
#ifndef TDM_CMD_H
#define TDM_CMD_H

#include <stdio.h>
#include <sys/types.h>
#include "run/control.h"

#define CMD_ERR 512

/* Exit statuses of the command's own; a program's status passes through. */
#define EXIT_USAGE     2   /* nothing was started */
#define EXIT_CANNOT    126 /* the program was found but cannot be executed */
#define EXIT_NOT_FOUND 127

/* main.c: the table of subcommands has one entry a file. */
struct cmd {
	const char *name;
	const char *summary; /* one line, for tandem --help */
	const char *help;    /* for tandem help NAME and --help */
	int (*main)(int argc, char **argv);
};
extern const struct cmd tdmi_cmd_run, tdmi_cmd_stat, tdmi_cmd_dmirror, tdmi_cmd_sim, tdmi_cmd_explore;
/* "tandem: " + line on stderr, in one write. */
void tdmi_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Put a line into err (CMD_ERR bytes) and return r. */
int tdmi_fail(char *err, int r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* size.c */
/* The shortest spelling that tdmi_parse_size() (base/fmt.h) reads back as the same number. */
void tdmi_size_exact(u64 bytes, char *out, size_t len);
/* "512 MiB", "1.5 GiB": for people. */
const char *tdmi_size_human(u64 bytes, char out[16]);
/* What percentages refer to: physical memory, or the memory cgroup's limit when that is smaller. root: "" (tests: another world). */
u64 tdmi_ram_base(const char *root);

/* tiers.c */
/* Validate a tier spec; out: as the processes read it, the directory absolute. *warn, if set: a line worth saying. */
int tdmi_tier_check(const char *spec, char out[120], char *warn, char *err);
/* lz4, then a file in the first directory of $TMPDIR, /var/tmp, /tmp that is a disk and takes one. The number. */
u32 tdmi_tier_defaults(char out[TDM_CONTROL_TIERS][120], char *warn);

/* program.c */
/* Find the program as a shell would, and see that it can be preloaded. 0 and its path, or the exit status. */
int tdmi_program_check(const char *name, char *path, size_t len, char *err);

/* library.c */
/* The path of a library that is to be preloaded: what the environment variable env names, or where it is installed. */
int tdmi_library_find(const char *name, const char *env, char *out, size_t len, char *err);
/* Programs that are executed from now on load it first. 0 or -ENOMEM. */
int tdmi_library_preload(const char *path);

/* uffd.c */
/* May the processes that we start open a userfaultfd that does what the engine needs? */
int tdmi_uffd_check(char *err);

/* segment.c */
int tdmi_segment_create(struct tdm_control **out, char *name, size_t len, char *err);
/* The segment that pid belongs to, read-only. */
int tdmi_segment_of(pid_t pid, const struct tdm_control **out, char *err);

/* proc.c */
/* State letter, parent and start time (any may be NULL) of a process. False: there is none. */
bool tdmi_proc_stat(pid_t pid, char *state, pid_t *parent, u64 *start_ticks);
/* The kind of tdm_control_alive_fn: asks /proc. */
bool tdmi_proc_alive(void *arg, u32 pid, u64 start_ticks);
bool tdmi_proc_descends(pid_t pid, pid_t ancestor);
/* Pss in bytes, 0 when it cannot be read. */
u64 tdmi_proc_pss(pid_t pid);

/* report.c */
struct seen {
	u32 pid;
	bool managed;
	char comm[16];
	u64 gauge[TDM_GAUGE_NR];
};
#define SEEN_MAX 64u

/* One run, as the report and the JSON tell it. */
struct run {
	const struct tdm_control *c;
	char **argv;    /* the program and its arguments, NULL when not known */
	bool ended;     /* status is valid */
	int status;     /* as waitpid() tells it */
	double seconds; /* 0: not known */
	u64 peak_pss;   /* 0: not sampled */
	u32 nseen;
	struct seen seen[SEEN_MAX];
};
/* The processes with a slot now; leaves the list as it was when there are none. */
void tdmi_report_look(struct run *r);
int tdmi_report_exit(const struct run *r);
/* Five lines. */
void tdmi_report_summary(const struct run *r, FILE *f);
/* A line, even if nothing else is wanted, if pages were lost. */
void tdmi_report_losses(const struct run *r, FILE *f);
void tdmi_report_processes(const struct run *r, FILE *f);
/* The live line, without a newline. rate: faults a second. */
void tdmi_report_live(const struct tdm_control *c, double rate, char *out, size_t len);

/* json.c */
/* See that the file can be written at the end. */
int tdmi_json_check(const char *path, char *err);
int tdmi_json_write(const struct run *r, const char *path, char *err);
int tdmi_json_print(const struct run *r, FILE *f);

/* supervise.c */
struct supervise {
	struct run run;
	struct tdm_control *c;
	const char *path; /* of the program */
	const char *name; /* of the segment */
	bool quiet, verify;
};
/* Start the program and stay until it ends. 0, or an exit status when it could not be executed, with err. */
int tdmi_supervise(struct supervise *s, char *err);

#endif
