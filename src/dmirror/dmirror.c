/* SPDX-License-Identifier: MIT */
/* dmirror.c - the life of a device, its memory and its commands, which are jobs (run/device.h). */
#include "dmirror/device.h"
#include <stdlib.h>
#include <string.h>
#include "base/fmt.h"
#include "plat/linux/sys.h"
#include "pool/tier.h"

#define FRAMES ((u32)512 << (20 - TDM_PAGE_SHIFT)) /* 512 MiB of a device's memory; touched as it is used */

static struct tdm_dmirror devices[TDM_DMIRROR_MINORS];

/* ---- commands ------------------------------------------------------------------------------------------------------------ */

static int set_flags(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	tdm_a32_st_relaxed(&d->dev->pool.fail_alloc, c->npages & TDM_DMIRROR_FLAG_FAIL_ALLOC ? 1 : 0);
	return 0;
}

static tdm_dmirror_op *const ops[TDM_DMIRROR_NR] = {
	[TDM_DMIRROR_READ] = tdmi_dmirror_read,
	[TDM_DMIRROR_WRITE] = tdmi_dmirror_write,
	[TDM_DMIRROR_MIGRATE_TO_DEV] = tdmi_dmirror_migrate_to_dev,
	[TDM_DMIRROR_MIGRATE_TO_SYS] = tdmi_dmirror_migrate_to_sys,
	[TDM_DMIRROR_SNAPSHOT] = tdmi_dmirror_snapshot,
	[TDM_DMIRROR_EXCLUSIVE] = tdmi_dmirror_exclusive,
	[TDM_DMIRROR_CHECK_EXCLUSIVE] = tdmi_dmirror_check_exclusive,
	[TDM_DMIRROR_RELEASE] = tdmi_dmirror_release,
	[TDM_DMIRROR_FLAGS] = set_flags,
	[TDM_DMIRROR_READ_UNLOCKED] = tdmi_dmirror_read,
};

struct command {
	struct tdm_dmirror *d;
	u32 nr;
	struct tdm_dmirror_cmd cmd;
};

static int carry_out(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	struct command *there = job->arg, c = *there;
	int r;

	c.d->w = w;
	r = ops[c.nr](c.d, &c.cmd);
	tdmi_dmirror_bounce_free(c.d);
	there->cmd = c.cmd;
	return r;
}

int tdmi_dmirror_command(struct tdm_dmirror *d, u32 nr, struct tdm_dmirror_cmd *cmd)
{
	struct command c = { d, nr, *cmd };
	int r;

	if (nr >= TDM_DMIRROR_NR)
		return -EINVAL;
	r = tdmi_device_do(d->dev, carry_out, &c, 0, 0, NULL);
	*cmd = c.cmd;
	return r;
}

struct look {
	u64 va, bits[TDM_DMIRROR_LOOK / 64];
	u32 n;
};

/* The caller's memory may have to be brought: not within the mm. */
static int look(struct tdm_device_worker *w, struct tdm_device_job *job)
{
	struct look *there = job->arg, l = { .va = there->va, .n = there->n };
	struct tdm_ctx *ctx = w->ctx;

	tdm_device_enter_mm(w);
	tdmi_rcu_read_lock(ctx->rcu);
	for (u32 k = 0; k < l.n; k++) {
		struct tdm_pte pte;
		u32 i;

		if (!tdmi_pt_walk(&ctx->mm->pgt, l.va + ((u64)k << TDM_PAGE_SHIFT), &i, &pte)->level && tdm_pte_is(pte, TDM_PTE_T_PRIVATE))
			l.bits[k / 64] |= (u64)1 << (k % 64);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	tdmi_mm_exit(ctx);
	memcpy(there->bits, l.bits, sizeof(l.bits));
	return 0;
}

int tdmi_dmirror_find_private(struct tdm_dmirror *d, u64 va, u32 n, u64 *bits)
{
	struct look l = { .va = va, .n = n };
	int r;

	if (n > TDM_DMIRROR_LOOK || va + ((u64)n << TDM_PAGE_SHIFT) > (u64)1 << 47)
		return -EINVAL;
	r = tdmi_device_do(d->dev, look, &l, 0, 0, NULL);
	memcpy(bits, l.bits, sizeof(l.bits));
	return r;
}

/* ---- its memory ---------------------------------------------------------------------------------------------------------- */

static void *memory(void *arg, u32 frame)
{
	return (u8 *)arg + ((size_t)frame << TDM_PAGE_SHIFT);
}

static int copy_in(struct tdm_pool *p, u32 frame, const void *src, u32 n)
{
	memcpy(memory(p->arg, frame), src, (size_t)n << TDM_PAGE_SHIFT);
	return 0;
}

static int copy_out(struct tdm_pool *p, void *dst, u32 frame, u32 n)
{
	memcpy(dst, memory(p->arg, frame), (size_t)n << TDM_PAGE_SHIFT);
	return 0;
}

static const struct tdm_pool_ops pool_ops = { .name = "dmirror", .copy_in = copy_in, .copy_out = copy_out };
static const struct tdm_mirror_ops mirror_ops = { .memory = memory };

/* ---- life ---------------------------------------------------------------------------------------------------------------- */

/* The device of a minor, whether or not it is open. */
static struct tdm_dmirror *device_of(u32 minor)
{
	struct tdm_dmirror *d = &devices[minor];

	d->minor = minor;
	d->coherent = minor >= TDM_DMIRROR_COHERENT;
	return d;
}

struct opening {
	u32 minor;
	struct tdm_dmirror *d;
};

/* On main, as destroy(). */
static int create(struct tdm_live *l, void *arg)
{
	struct opening *o = arg;
	struct tdm_dmirror *d = device_of(o->minor);
	struct tdm_device_config c = { .name = "dmirror", .pool_ops = &pool_ops, .nframes = FRAMES, .mirror_ops = &mirror_ops, .nworkers = 1,
				       .page_sizes = TDM_MIRROR_4K | TDM_MIRROR_64K | TDM_MIRROR_2M, .coherent = d->coherent, .inherited = true,
				       .stuck_ns = 10000000000 };
	int r = 0;

	if (!d->users && !d->coherent && !d->memory)
		d->memory = plat_map((size_t)FRAMES << TDM_PAGE_SHIFT);
	if (!d->users && !d->coherent && !d->memory)
		return -ENOMEM;
	c.arg = d->memory;
	if (!d->users)
		r = tdmi_live_device_attach(l, &c, &d->dev);
	if (r)
		return r;
	d->live = l;
	d->users++;
	o->d = d;
	return 0;
}

static int destroy(struct tdm_live *l, void *arg)
{
	struct tdm_dmirror *d = arg;

	if (--d->users)
		return 0;
	/* What cannot be brought home stays there, and the device with it. */
	if (tdmi_live_device_detach(l, d->dev))
		d->users++;
	return 0;
}

/* The engine of this process. */
static int engine(struct tdm_live **out, char *err, size_t errlen)
{
	static const char *const tier = "lz4"; /* nothing goes there: there is no budget */
	struct tdm_live_config c = { .ntiers = 1, .tier = &tier, .eager = true, .interposed = true };
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
	struct opening o = { .minor = minor };
	struct tdm_live *l;
	int r = engine(&l, err, sizeof(err));

	if (!r)
		r = tdmi_live_call(l, create, &o);
	if (r) {
		say(minor, r, err);
		return r;
	}
	*out = o.d;
	return 0;
}

void tdmi_dmirror_close(struct tdm_dmirror *d)
{
	(void)tdmi_live_call(d->live, destroy, d);
}

void tdmi_dmirror_forget(struct tdm_dmirror *d)
{
	/* What it had the child brings from its copy of the device's memory (run/device.c): a new device has another. */
	d->users = 0;
	d->dev = NULL;
	d->bounce = NULL;
	d->memory = NULL;
}

/* The public API asks before it starts another engine. */
__attribute__((visibility("default"))) int tandem_run_manages(void)
{
	return tdmi_live != NULL;
}
