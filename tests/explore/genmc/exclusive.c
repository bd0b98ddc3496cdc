// SPDX-License-Identifier: MIT
/* exclusive.c - mm/page.h: a fork that shares a page, and a pin of it. Not both; and not neither, as one of them comes first. */
#include "harness.h"
#include "mm/page.h"

static struct tdm_page page;
static bool shared, pinned;

static void *forks(void *arg)
{
	(void)arg;
	shared = tdm_page_share(&page);
	return NULL;
}

static void *pins(void *arg)
{
	(void)arg;
	pinned = tdm_page_pin(&page);
	return NULL;
}

int main(void)
{
	tdm_a64_st_relaxed(&page.word, TDM_PG_EXCLUSIVE | TDM_PG_REF);
	both(forks, pins);
	assert(shared != pinned);
	return 0;
}
