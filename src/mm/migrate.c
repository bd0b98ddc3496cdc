/* SPDX-License-Identifier: MIT */
/*
 * migrate.c - to the memory of a device.
 *
 * The way there is that of reclaim, with another end: collected and unmapped by being taken home, copied with no lock held, and finalized only where the
 * entry still is what it was (pack.c). A page that could not be taken, or that somebody has touched since, is where it was. The way back is a fault (fault.c), or
 * the eviction of the device's memory (devmem.c).
 */
#include "base/check.h"
#include "mm/mm.h"

int tdmi_migrate_to_device(struct tdm_ctx *ctx, struct tdm_pool *pool, u64 start, u64 end, u64 *pages)
{
	int r = tdmi_range_home(ctx, start, end, pages);

	*pages = 0;
	return r ? r : tdmi_range_pack(ctx, start, end, pool, pages);
}
