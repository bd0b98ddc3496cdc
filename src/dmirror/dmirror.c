/* SPDX-License-Identifier: MIT */
/*
 * dmirror.c - the life of a device, and its queue of one command.
 *
 * The program's thread writes the command down, wakes the device's thread and sleeps: it never holds a lock of the engine, and may be evicted to the last
 * page meanwhile (run/live.h).
 */
#include "dmirror/device.h"
#include <stdlib.h>
#include <string.h>
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "pool/tier.h"

/* ---- commands ------------------------------------------------------------------------------------------------------------ */

static int set_flags(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	d->flags = c->npages;
	return 0;
}

/* Those that are missing want memory of the device's own. */
static tdm_dmirror_op *const ops[TDM_DMIRROR_NR] = {
	[TDM_DMIRROR_READ] = tdmi_dmirror_read,
	[TDM_DMIRROR_WRITE] = tdmi_dmirror_write,
	[TDM_DMIRROR_SNAPSHOT] = tdmi_dmirror_snapshot,
	[TDM_DMIRROR_FLAGS] = set_flags,
	[TDM_DMIRROR_READ_UNLOCKED] = tdmi_dmirror_read,
};

void tdmi_dmirror_enter(struct tdm_dmirror *d)
{
	while (!tdmi_mm_enter(d->ctx))
		plat_wait(&d->ctx->mm->gate, 1, ~(u64)0);
}

/* ---- the thread ---------------------------------------------------------------------------------------------------------- */

static void device_main(void *arg)
{
	struct tdm_dmirror *d = arg;
	u32 state;

	while ((state = tdm_a32_ld_acquire(&d->state)) != TDM_DMIRROR_STOP) {
		if (state != TDM_DMIRROR_POSTED) {
			plat_wait(&d->state, state, ~(u64)0);
			continue;
		}
		d->result = ops[d->nr] ? ops[d->nr](d, &d->cmd) : -EOPNOTSUPP;
		tdmi_dmirror_bounce_free(d);
		tdm_a32_st_release(&d->state, TDM_DMIRROR_DONE);
		plat_wake(&d->state, 1);
	}
}

int tdmi_dmirror_command(struct tdm_dmirror *d, u32 nr, struct tdm_dmirror_cmd *cmd)
{
	int r;

	if (nr >= TDM_DMIRROR_NR)
		return -EINVAL;
	plat_mutex_lock(&d->lock);
	d->nr = nr;
	d->cmd = *cmd;
	tdm_a32_st_release(&d->state, TDM_DMIRROR_POSTED);
	plat_wake(&d->state, 1);
	while (tdm_a32_ld_acquire(&d->state) == TDM_DMIRROR_POSTED)
		plat_wait(&d->state, TDM_DMIRROR_POSTED, ~(u64)0);
	*cmd = d->cmd;
	r = d->result;
	tdm_a32_st_relaxed(&d->state, TDM_DMIRROR_IDLE);
	plat_mutex_unlock(&d->lock);
	return r;
}

/* ---- life ---------------------------------------------------------------------------------------------------------------- */

static void free_device(struct tdm_dmirror *d)
{
	if (d->ctx)
		tdmi_ctx_destroy(d->ctx);
	plat_unmap(d, sizeof(*d));
}

/* Main: the thread is to have its descriptors. */
static int create(struct tdm_live *l, void *arg)
{
	struct tdm_dmirror **out = arg, *d = plat_map(sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->live = l;
	d->ctx = tdmi_ctx_create(&l->mm);
	r = d->ctx ? plat_thread_start(&d->thread, device_main, d, "tandem-device") : -ENOMEM;
	if (r) {
		free_device(d);
		return r;
	}
	*out = d;
	return 0;
}

static int destroy(struct tdm_live *l, void *arg)
{
	struct tdm_dmirror *d = arg;

	tdm_a32_st_release(&d->state, TDM_DMIRROR_STOP);
	plat_wake(&d->state, 1);
	plat_thread_join(d->thread);
	free_device(d);
	return 0;
}

/* The engine of this process. */
static int engine(struct tdm_live **out, char *err, size_t errlen)
{
	static const char *const tier = "lz4"; /* nothing goes there: there is no budget */
	struct tdm_live_config c = { .ntiers = 1, .tier = &tier, .eager = true };
	int r = 0;

	if (!tdmi_live) {
		/* Ours says no: there is no engine yet. */
		if (tandem_run_manages()) {
			tdmi_fmt(err, errlen, "this process runs under `tandem run`, which manages its memory");
			return -EBUSY;
		}
		tdmi_tiers_init(getenv("TMPDIR"));
		r = tdmi_live_start(&c, err, errlen);
	}
	*out = tdmi_live;
	if (!r && ((*out)->pid != (u32)tdm_sys0(SYS_getpid) || tdm_a32_ld_acquire(&(*out)->state) != TDM_LIVE_ENGAGED)) {
		tdmi_fmt(err, errlen, "this process is the child of a fork that its engine could not follow");
		r = -ENODEV;
	}
	return r;
}

/* Before the engine, or without: plat_log() goes to the same place. */
static void say(u32 minor, int error, const char *why)
{
	const char *quiet = getenv(TDM_DMIRROR_QUIET_ENV);
	char line[320];

	if (quiet && *quiet)
		return;
	tdmi_fmt(line, sizeof(line), TDM_DMIRROR_PATH "%u: %s (error %d)", minor, why, -error);
	plat_log(line);
}

int tdmi_dmirror_open(u32 minor, struct tdm_dmirror **out)
{
	char err[240] = "there is no memory, or no thread, for the device";
	struct tdm_live *l;
	int r = engine(&l, err, sizeof(err));

	if (!r)
		r = tdmi_live_call(l, create, out);
	if (r) {
		say(minor, r, err);
		return r;
	}
	(*out)->minor = minor;
	(*out)->coherent = minor >= TDM_DMIRROR_COHERENT;
	return 0;
}

void tdmi_dmirror_close(struct tdm_dmirror *d)
{
	(void)tdmi_live_call(d->live, destroy, d);
}

void tdmi_dmirror_forget(struct tdm_dmirror *d)
{
	/* Its context went with those of all threads that are not here (tdmi_mm_after_fork()). */
	tdmi_linux_thread_forget(d->thread);
	if (d->bounce)
		plat_unmap(d->bounce, d->bounce_len);
	plat_unmap(d, sizeof(*d));
}

/* The public API asks before it starts another engine. */
__attribute__((visibility("default"))) int tandem_run_manages(void)
{
	return tdmi_live != NULL;
}
