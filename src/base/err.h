/* SPDX-License-Identifier: MIT */
/* err.h - errors in words, without strerror(): it takes locks and looks messages up in the program's locale. */
#ifndef TDM_BASE_ERR_H
#define TDM_BASE_ERR_H

/* "ENOSPC" for ENOSPC and -ENOSPC; "E?" for what is not known. */
const char *tdmi_err_name(int err);
/* "no space left", for a message to a user; "unknown error". */
const char *tdmi_err_text(int err);

#endif
