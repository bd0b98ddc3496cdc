/* SPDX-License-Identifier: MIT */
/* anon.h - a fault of a space, while it is being served (mm/anon.c). */
#ifndef TDM_MM_ANON_H
#define TDM_MM_ANON_H

#include "mm/space.h"

struct tdm_fault {
	struct tdm_space *s;
	struct tdm_rcu_reader *reader;
	u64 va;                 /* of the page */
	enum tdm_access access;
	struct tdm_vma vma;     /* as it was first seen */
	struct tdm_pte pte;     /* likewise */
	struct tdm_pfn old;     /* the page that the entry named, held; or that of zeros */
	bool same_page;         /* tdmi_fault_peek(): but for A and D the entry is what it was */
};

/* Around a fork: no fault is served. Waits for those that are; with s->change held, and nothing that a fault may want. */
void tdmi_faults_stop(struct tdm_space *s);
void tdmi_faults_go_on(struct tdm_space *s);
/* The entry as it is now; see same_page. RCU reader. */
struct tdm_pte tdmi_fault_peek(struct tdm_fault *f);
/* What is at va is shared, or zeros: a copy that is the space's alone, without the right to write it. 0: it is, or something came between; -ENOMEM. RCU reader,
 * no lock. */
int tdmi_space_unshare(struct tdm_space *s, struct tdm_rcu_reader *reader, u64 va);

#endif
