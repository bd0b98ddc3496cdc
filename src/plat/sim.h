/* SPDX-License-Identifier: MIT */
/*
 * sim.h - a world without an operating system, for tests: what stands behind plat.h there, and how to make it fail.
 *
 * One thread. Locks only check that they are free; a wait that nobody can end is a bug; the clock moves when somebody waits, and a
 * microsecond with each look at it. Threads are -ENOSYS. Files are in memory; transfers are done when they are submitted.
 */
#ifndef TDM_PLAT_SIM_H
#define TDM_PLAT_SIM_H

#include "plat/plat.h"

/* Start over: plat_map() serves from [arena, arena + size), page-aligned. Everything that was mapped, every file, all settings are gone. */
void tdm_sim_init(void *arena, size_t size);

/* What can fail. A transfer that fails has written, or read, half of its bytes. A punch cannot say so: it frees nothing. */
#define TDM_SIM_MAP 1u      /* plat_map */
#define TDM_SIM_RANDOM 2u
#define TDM_SIM_CREATE 4u   /* plat_file_create */
#define TDM_SIM_QUEUE 8u    /* plat_ioq_create, plat_ioq_submit */
#define TDM_SIM_IO 16u      /* each transfer, by whatever call */
#define TDM_SIM_FREE 32u    /* plat_file_free */
#define TDM_SIM_PUNCH 64u
#define TDM_SIM_OWN 128u    /* what a test has to fail besides: see tdm_sim_fails() */
#define TDM_SIM_FILES (TDM_SIM_CREATE | TDM_SIM_QUEUE | TDM_SIM_IO | TDM_SIM_FREE | TDM_SIM_PUNCH)
#define TDM_SIM_ALL (TDM_SIM_MAP | TDM_SIM_RANDOM | TDM_SIM_FILES)

/* Of the calls of these kinds from now on, `count` fail, beginning with the first-th (1: the next; 0: none does), in the way that is usual for each.
 * err: what a transfer says; 0: -EIO. */
void tdm_sim_fail(u32 kinds, u64 first, u64 count, int err);
/* Count a call, as the platform's own do. true: it fails. */
bool tdm_sim_fails(u32 kind);
/* The n-th call of any kind, or, if `on`, every later one as well. */
void tdm_sim_fail_nth(u64 n, bool on);
/* Calls that could have failed, since tdm_sim_init() or tdm_sim_fail(). */
u64 tdm_sim_calls(void);
/* Did a failure that tdm_sim_fail() asked for happen? */
bool tdm_sim_failed(void);

/* Bytes mapped now. */
size_t tdm_sim_mapped(void);
/* Mutexes held now. */
u32 tdm_sim_locked(void);
/* Open files, and queues. */
u32 tdm_sim_files(void);
/* Bytes that files hold, all of them together; what they may hold (default: no limit). A transfer beyond it is -ENOSPC. */
u64 tdm_sim_file_bytes(void);
void tdm_sim_file_limit(u64 bytes);
/* Flip one bit of a byte of a file. false: there is nothing. */
bool tdm_sim_file_flip(int file, u64 off);
void tdm_sim_advance_ns(u64 ns);
/* The last line that was logged; "" if none. */
const char *tdm_sim_log(void);

#endif
