// SPDX-License-Identifier: MIT
/* rcu.c - base/rcu.c: what a reader has reached is not changed until it has left its section. PLAIN_LOOK: the writer looks at readers by a load, which is wrong. */
#include "harness.h"
#ifdef PLAIN_LOOK
#define reader_passed reader_passed_rightly
#endif
#include "../../../src/base/rcu.c"
#ifdef PLAIN_LOOK
#undef reader_passed
static bool reader_passed(struct tdm_rcu_reader *r, u64 target)
{
	u64 epoch = tdm_a64_ld_acquire(&r->epoch);

	return epoch == 0 || epoch >= target;
}
#endif

static struct tdm_rcu rcu;
static struct tdm_rcu_reader *reader;
static int first = 1, second = 2;
static tdm_aptr current;

static void *reads(void *arg)
{
	int *p;

	(void)arg;
	tdmi_rcu_read_lock(reader);
	p = tdm_aptr_ld_acquire(&current);
	assert(*p != 0);
	tdmi_rcu_read_unlock(reader);
	return NULL;
}

/* synchronize() without its sleeps: whoever has not passed ends this execution. */
static void *replaces(void *arg)
{
	u64 target;

	(void)arg;
	tdm_aptr_st_release(&current, &second);
	target = draw(&rcu);
	if (reader_passed(&rcu.reader[0], target))
		first = 0;
	return NULL;
}

int main(void)
{
	tdmi_rcu_init(&rcu);
	reader = tdmi_rcu_register(&rcu);
	tdm_aptr_st_relaxed(&current, &first);
	both(reads, replaces);
	return 0;
}
