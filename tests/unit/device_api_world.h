/* SPDX-License-Identifier: MIT */
/*
 * device_api_world.h - an engine in this process, with 64 pages of memory, whose system calls can be made to fail, and a device with memory of its own whose
 * copies can. For the files of test-device_api; a test begins with one of the functions that begin it, and ends with its counterpart.
 */
#ifndef TDM_TESTS_DEVICE_API_WORLD_H
#define TDM_TESTS_DEVICE_API_WORLD_H

#include <string.h>
#include <sys/mman.h>
#include <tandem/soft.h>
#include "base/atomic.h"
#include "runner/t.h"

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)
#define LEN (64 * PAGE)

extern tdm_a32 no_proc; /* 1: there is no /proc */
extern tdm_a32 bind_error; /* of mbind(); 0: none */
extern tdm_a32 copies, copies_on_node; /* pages made in mem by UFFDIO_COPY; with node 0 preferred by the thread */
extern tdm_a32 refuse; /* the nth thread from now on, and those after it; 0: none */

extern struct tdm *engine;
extern struct tdm_soft *soft;
extern struct tdm_device *dev;
extern char *mem; /* 64 pages, with a page of nobody's on either side */

/* Memory with a page of nobody's on either side. */
char *map(size_t len);
void unmap(char *p, size_t len);

/* An engine, and mem. */
void begin_engine(void);
void end_engine(void);

/* The same, and a soft device. */
void begin(void);
void end(void);

/* The same, and a device whose memory is own_memory. */
void begin_own(void);
void end_own(void);

extern u8 *own_memory;
extern int own_error; /* of its copies */
extern tdm_a32 fault_results, faults_done; /* the last result of a fault, negated; how many there were */
extern const struct tdm_device_ops good_ops;
extern const struct tdm_device_options good_options;

#endif
