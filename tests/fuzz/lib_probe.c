/* SPDX-License-Identifier: MIT */
/* lib_probe.c - is there a libFuzzer? */
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	return bytes && len ? 0 : 0;
}
