/* SPDX-License-Identifier: MIT */
/* api.h - what the files of the public API share: one call at a time, and an engine that stays until it is over. */
#ifndef TDM_RUN_API_H
#define TDM_RUN_API_H

struct tdm;
struct tdm_live;

void tdmi_api_lock(void);
/* The engine of the handle, with the lock held; NULL, and no lock: it is no engine's, or that has been stopped. */
struct tdm_live *tdmi_api_begin(const struct tdm *t);
/* Let go of the lock. r. */
int tdmi_api_end(int r);
/* The engine has been stopped, and with it went what a child has inherited of devices. With the lock held. */
void tdmi_api_devices_gone(void);

#endif
