/* SPDX-License-Identifier: MIT */
/* lib_script.c - libFuzzer's bytes are choices (gen.h): a machine and operations. What fails is printed as a scenario; make it smaller with fuzz-space. */
#include <stdio.h>
#include <stdlib.h>
#include "run.h"

int LLVMFuzzerTestOneInput(const u8 *bytes, size_t len);

int LLVMFuzzerTestOneInput(const u8 *bytes, size_t len)
{
	static char text[96 * TDM_SCRIPT_OPS], err[RUN_ERR];
	struct tdm_script_result res;
	static struct runner *r;
	static struct script sc;
	struct source s;

	r = r ? r : runner_new(NULL);
	source_bytes(&s, bytes, len);
	gen_script(&s, TDM_SCRIPT_OPS, &sc);
	if (!runner_run(r, &sc, &res, err))
		return 0;
	gen_print(&sc, NULL, err, text, sizeof(text));
	fputs(text, stderr);
	abort();
}
