/* SPDX-License-Identifier: MIT */
/*
 * readers.h - bytes for the readers of files: scenarios, costs, traces (plain, or packed by gzip or zstd).
 *
 * Whatever the bytes, a reader says yes or no, the same each time; no with one line that names the file and says something; and what it has taken reads
 * back as the same.
 */
#ifndef TDM_FUZZ_READERS_H
#define TDM_FUZZ_READERS_H

#include "base/types.h"

enum reader { READ_SCENARIO, READ_COSTS, READ_TRACE, READER_NR };

/* True: it was taken. What must not be ends the process. */
bool read_bytes(enum reader which, const u8 *bytes, size_t len);

#endif
