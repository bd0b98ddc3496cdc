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

/* The n-th call from now that can fail (1: the next) does, in the way that is usual for it; 0: none. Only that one, or, if `on`, every later
 * one as well. What can fail: plat_map, plat_random, plat_file_create, plat_ioq_create, plat_ioq_submit, plat_file_free, and each
 * transfer. */
void tdm_sim_fail_nth(u64 n, bool on);
/* Calls that could have failed, since tdm_sim_init() or tdm_sim_fail_nth(). */
u64 tdm_sim_calls(void);
/* Did the failure that tdm_sim_fail_nth() asked for happen? */
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
