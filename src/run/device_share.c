/* SPDX-License-Identifier: MIT */
/*
 * device_share.c - a device's memory that several processes share: share.h says which chunk is whose, here they are taken into the pool and out of it.
 *
 *   taking in        a device's thread whose migration has found no frame, outside of the mm: nobody waits for it but who asked for the migration
 *   giving up        a thread of its own (tdm-share), which sleeps until somebody asks. It takes the chunk offline (mm/devmem.h) and then hands it over: in the
 *                    mm for that, as whoever evicts, holding no lock. It alone gives up chunks, so each is in one pair of hands
 *   a fork           the memory is emptied before, and the chunks stay the parent's. The child has no thread, and forgets them
 *
 * What is handed over still has the bytes of who had it. Nobody sees them: a frame is named by an entry only after a whole page has been copied to it.
 */
#include "run/device.h"
#include "base/fmt.h"
#include "plat/linux/linux.h"
#include "run/live.h"

#define NS_PER_MS ((u64)1000000)
#define ASK_NS (250 * NS_PER_MS)  /* for an answer; a chunk goes home in a few milliseconds */
#define WAIT_NS (600 * NS_PER_MS) /* in all */
#define GIVE_NS (100 * NS_PER_MS) /* for what is pinned, or in somebody's hands */

bool tdmi_device_share_more(struct tdm_device *d)
{
	u64 now, until = plat_now_ns() + WAIT_NS;
	u32 chunk;

	if (!d->sharer.s)
		return false;
	while (!tdmi_share_take(&d->sharer, &chunk)) {
		now = plat_now_ns();
		if (now >= until || tdm_a32_ld_acquire(&d->stop) || !tdmi_share_ask(&d->sharer, TDM_MIN(ASK_NS, until - now)))
			return false;
	}
	if (d->config.chunk)
		d->config.chunk(d->config.arg, chunk * TDM_HUGE_PAGES, true);
	tdmi_chunk_online(&d->pool.frames, chunk);
	return true;
}

static void give(struct tdm_device *d, u64 to)
{
	u32 chunk;
	int r;

	while (!tdmi_mm_enter(d->giver_ctx))
		plat_yield();
	chunk = tdmi_pool_chunk_to_give(&d->pool);
	r = chunk == TDM_FRAME_NIL ? -ENOENT : tdmi_pool_offline(d->giver_ctx, &d->pool, chunk, plat_now_ns() + GIVE_NS);
	tdmi_mm_exit(d->giver_ctx);
	if (r)
		return;
	if (d->config.chunk)
		d->config.chunk(d->config.arg, chunk * TDM_HUGE_PAGES, false);
	tdmi_share_give(&d->sharer, chunk, to);
}

static void giver_main(void *arg)
{
	struct tdm_device *d = arg;
	u64 to;

	while ((to = tdmi_share_wait(&d->sharer, &d->giver_stop))) {
		give(d, to);
		tdmi_share_answer(&d->sharer, to);
	}
}

int tdmi_device_share_start(struct tdm_live *l, struct tdm_device *d)
{
	char name[16];
	int r;

	if (!d->config.share)
		return 0;
	tdmi_chunks_isolate_all(&d->pool.frames);
	r = tdmi_share_join(&d->sharer, d->config.share, d->config.nframes / TDM_HUGE_PAGES);
	if (r)
		return r;
	tdmi_fmt(name, sizeof(name), "tds-%s", d->config.name);
	d->giver_ctx = tdmi_ctx_create(&l->mm);
	r = d->giver_ctx ? 0 : -ENOMEM;
	if (!r) {
		d->giver_ctx->may_wait = true;
		r = plat_thread_start(&d->giver, giver_main, d, name);
	}
	if (r)
		tdmi_device_share_end(d);
	return r;
}

void tdmi_device_share_end(struct tdm_device *d)
{
	if (!d->sharer.s)
		return;
	tdm_a32_st_release(&d->giver_stop, 1);
	tdmi_share_ring(&d->sharer);
	if (d->giver)
		plat_thread_join(d->giver);
	d->giver = NULL;
	if (d->giver_ctx)
		tdmi_ctx_destroy(d->giver_ctx);
	d->giver_ctx = NULL;
	tdmi_share_leave(&d->sharer);
}

void tdmi_device_share_in_child(struct tdm_device *d)
{
	if (!d->sharer.s)
		return;
	tdmi_linux_thread_forget(d->giver);
	tdmi_share_forget(&d->sharer);
}

u64 tdmi_device_frames_here(const struct tdm_device *d)
{
	return d->config.share ? (u64)tdm_a32_ld_relaxed(&d->sharer.held) * TDM_HUGE_PAGES : d->config.nframes;
}
