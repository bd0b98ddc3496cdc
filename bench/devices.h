/* SPDX-License-Identifier: MIT */
/* devices.h - what the files of bench/devices share: devices.c (what is asked for, results, memory), devices_pages.c, devices_engine.c. */
#ifndef TDM_BENCH_DEVICES_H
#define TDM_BENCH_DEVICES_H

#include <stdbool.h>
#include <tandem/soft.h>
#include "bench.h"

#define HUGE (2ul << 20)
#define BLOCK (64ul << 10)
#define MAX_THREADS 8

/* What is asked for: see the top of devices.c. */
extern size_t mib, threads, rounds, every, batch, intervals, per_fault;
extern bool thp, home;

extern struct tdm *engine;
extern struct tdm_soft *soft;

/* A figure of this round. */
void note(const char *name, double value);
__attribute__((noreturn)) void fail(const char *what, long got);
/* By the clock that was asked for. */
uint64_t timer_ns(void);

uint8_t *map(size_t size, bool huge);
void pin(int cpu);
/* A word of each page (or each `step` bytes) says which it is. */
void stamp(uint8_t *p, size_t size, size_t step);
void check(const uint8_t *p, size_t size, size_t step);
/* The engine, and a soft device with so much memory; 0: none. */
void start(size_t memory);
/* fn(thread, i) on each thread of the device. */
void on_device(void (*fn)(struct tdm_device_thread *t, void *arg, size_t i), void *arg);
/* In each round both, in this order or the other one: their results. */
void both(size_t round, double (*ours)(void), double (*theirs)(void), double *x, double *y);

/* ---- devices_pages.c */
void run_migrate(void);
void run_migrate4k(void);
void run_fault(void);
void run_touch(void);

/* ---- devices_engine.c */
void run_gup(void);
void run_range(void);
void run_invalidate(void);

#endif
