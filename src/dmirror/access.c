/* SPDX-License-Identifier: MIT */
/*
 * access.c - the device reads and writes memory of the program, through its page table.
 *
 * Where the table has nothing the device misses, and asks for all of the rest of its range at once: that is one fault, as the suite counts them.
 */
#include "dmirror/device.h"

#define TRIES_MAX 1000u

/* ---- the program's memory, for the caller's bytes -------------------------------------------------------------------------------------- */

static int access_all(struct tdm_dmirror *d, u64 va, void *buf, u64 len, bool write)
{
	struct tdm_port *port = &d->live->host.port;

	while (len) {
		size_t n = 0;
		int r = port->ops->access(port, d->w->ctx, va, buf, len, write, &n);

		if (!n)
			return r == -ENOMEM ? r : -EFAULT;
		va += n;
		buf = (u8 *)buf + n;
		len -= n;
	}
	return 0;
}

int tdmi_dmirror_store(struct tdm_dmirror *d, u64 dst, const void *src, u64 len)
{
	return access_all(d, dst, (void *)(uintptr_t)src, len, true);
}

/* Memory without a limit that the program chooses: its own, for each command. Allocated inside an operation on the mm, because no fork comes into one: the
 * child would find the allocator's lock taken. */
int tdmi_dmirror_bounce(struct tdm_dmirror *d, u64 len)
{
	tdm_device_enter_mm(d->w);
	d->bounce = plat_map(len);
	d->bounce_len = d->bounce ? len : 0;
	tdmi_mm_exit(d->w->ctx);
	return d->bounce ? 0 : -ENOMEM;
}

void tdmi_dmirror_bounce_free(struct tdm_dmirror *d)
{
	if (!d->bounce)
		return;
	tdm_device_enter_mm(d->w);
	plat_unmap(d->bounce, d->bounce_len);
	d->bounce = NULL;
	tdmi_mm_exit(d->w->ctx);
}

/* ---- commands ------------------------------------------------------------------------------------------------------------------------------ */

static int fault_rest(struct tdm_dmirror *d, u64 va, u64 end, bool write)
{
	int r = 0;

	for (u64 stop; !r && va < end; va = stop) {
		stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		tdm_device_enter_mm(d->w);
		r = tdmi_mirror_fault(&d->w->reader, va, stop, write, 0, 0);
		tdmi_mm_exit(d->w->ctx);
	}
	return r;
}

/* All of the range through the table, to the bounce buffer or from there. */
static int through_table(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c, bool write)
{
	u64 len = c->npages << TDM_PAGE_SHIFT, done = 0;
	int r;

	do {
		size_t n;

		r = tdmi_mirror_copy_mapped(&d->w->reader, c->addr + done, (u8 *)d->bounce + done, len - done, write, &n);
		done += n;
		if (r == -ENOENT) {
			r = c->faults++ > TRIES_MAX ? -EBUSY : fault_rest(d, c->addr + done, c->addr + len, write);
			if (!r)
				continue;
		}
	} while (!r && done < len);
	c->cpages = done >> TDM_PAGE_SHIFT;
	return r;
}

int tdmi_dmirror_read_mapped(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 len = c->npages << TDM_PAGE_SHIFT;
	size_t done = 0;
	int r = tdmi_dmirror_bounce(d, len);

	r = r ? r : tdmi_mirror_copy_mapped(&d->w->reader, c->addr, d->bounce, len, false, &done);
	r = r ? r : tdmi_dmirror_store(d, c->ptr, d->bounce, len);
	c->cpages = done >> TDM_PAGE_SHIFT;
	return r;
}

/* Is there anything there at all? Before memory is taken for as much as the caller says: what may be read, or written, the faults tell. */
static int mapped(struct tdm_dmirror *d, u64 start, u64 end)
{
	struct tdm_mapping m;

	if (tdmi_linux_mem_own(start, end))
		return -EFAULT;
	for (u64 at = start; at < end; at = m.end) {
		int r = tdmi_host_mapping(&d->live->host, at, &m);

		if (r || m.start > at)
			return r && r != -ENOENT ? r : -EFAULT;
	}
	return 0;
}

int tdmi_dmirror_read(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 len = c->npages << TDM_PAGE_SHIFT;
	int r = mapped(d, c->addr, c->addr + len);

	r = r ? r : tdmi_dmirror_bounce(d, len);
	r = r ? r : through_table(d, c, false);
	return r ? r : tdmi_dmirror_store(d, c->ptr, d->bounce, len);
}

int tdmi_dmirror_write(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 len = c->npages << TDM_PAGE_SHIFT;
	int r = mapped(d, c->addr, c->addr + len);

	r = r ? r : tdmi_dmirror_bounce(d, len);
	r = r ? r : access_all(d, c->ptr, d->bounce, len, false);
	return r ? r : through_table(d, c, true);
}
