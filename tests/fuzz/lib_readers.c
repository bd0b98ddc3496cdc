/* SPDX-License-Identifier: MIT */
/* lib_readers.c - libFuzzer's bytes for the readers: the first one says which. */
#include "readers.h"

int LLVMFuzzerTestOneInput(const u8 *bytes, size_t len);

int LLVMFuzzerTestOneInput(const u8 *bytes, size_t len)
{
	if (len)
		(void)read_bytes((enum reader)(bytes[0] % READER_NR), bytes + 1, len - 1);
	return 0;
}
