/* SPDX-License-Identifier: MIT */
/*
 * access.c - the device reads and writes memory of the program.
 *
 * Memory that is the program's is reached through its address (process_vm_readv(2)): the kernel checks the protection, brings in what is not there, be it
 * by asking a userfaultfd, and a mapping that goes away meanwhile is an error and not a crash.
 */
#include <sys/uio.h>
#include "dmirror/device.h"
#include "plat/linux/sys.h"

/* ---- the program's memory ------------------------------------------------------------------------------------------------ */

static int copy(struct tdm_dmirror *d, void *here, u64 there, u64 len, long call)
{
	while (len) {
		struct iovec l = { here, len }, r = { (void *)(uintptr_t)there, len };
		long n = tdm_sys6(call, d->live->pid, (long)&l, 1, (long)&r, 1, 0);

		if (n <= 0)
			return n == -ENOMEM ? -ENOMEM : -EFAULT;
		here = (char *)here + n;
		there += (u64)n;
		len -= (u64)n;
	}
	return 0;
}

int tdmi_dmirror_fetch(struct tdm_dmirror *d, void *dst, u64 src, u64 len)
{
	return copy(d, dst, src, len, SYS_process_vm_readv);
}

int tdmi_dmirror_store(struct tdm_dmirror *d, u64 dst, const void *src, u64 len)
{
	return copy(d, (void *)(uintptr_t)src, dst, len, SYS_process_vm_writev);
}

/* Memory without a limit that the program chooses: its own, for each command. Allocated inside an operation on the mm, because no fork comes into one: the
 * child would find the allocator's lock taken. */
int tdmi_dmirror_bounce(struct tdm_dmirror *d, u64 len)
{
	tdmi_dmirror_enter(d);
	d->bounce = plat_map(len);
	d->bounce_len = d->bounce ? len : 0;
	tdmi_mm_exit(d->ctx);
	return d->bounce ? 0 : -ENOMEM;
}

void tdmi_dmirror_bounce_free(struct tdm_dmirror *d)
{
	if (!d->bounce)
		return;
	tdmi_dmirror_enter(d);
	plat_unmap(d->bounce, d->bounce_len);
	d->bounce = NULL;
	tdmi_mm_exit(d->ctx);
}

/* ---- commands ------------------------------------------------------------------------------------------------------------ */

/* May the device read, or write, all of [start, end)? 0; -EFAULT: there is a hole, or what may not even be read; -EPERM: it may not be written. As the
 * kernel does it, by whole mappings: what may be written alone may not be. */
static int allowed(struct tdm_dmirror *d, u64 start, u64 end, bool write)
{
	struct tdm_mapping m;

	if (tdmi_linux_mem_own(start, end))
		return -EFAULT;
	for (u64 at = start; at < end; at = m.end) {
		int r = tdmi_host_mapping(&d->live->host, at, &m);

		if (r)
			return r == -ENOENT ? -EFAULT : r;
		if (m.start > at || !m.readable)
			return -EFAULT;
		if (write && !m.writable)
			return -EPERM;
	}
	return 0;
}

/* Nothing is kept between two commands yet, so all of it is missing at first, and one fault brings all of it. */
int tdmi_dmirror_read(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 len = c->npages << TDM_PAGE_SHIFT;
	int r = allowed(d, c->addr, c->addr + len, false);

	if (!r)
		r = tdmi_dmirror_bounce(d, len);
	if (!r)
		r = tdmi_dmirror_fetch(d, d->bounce, c->addr, len);
	if (!r)
		r = tdmi_dmirror_store(d, c->ptr, d->bounce, len);
	c->cpages = c->npages;
	c->faults = 1;
	return r;
}

int tdmi_dmirror_write(struct tdm_dmirror *d, struct tdm_dmirror_cmd *c)
{
	u64 len = c->npages << TDM_PAGE_SHIFT;
	int r = allowed(d, c->addr, c->addr + len, true);

	if (!r)
		r = tdmi_dmirror_bounce(d, len);
	if (!r)
		r = tdmi_dmirror_fetch(d, d->bounce, c->ptr, len);
	if (!r)
		r = tdmi_dmirror_store(d, c->addr, d->bounce, len);
	c->cpages = c->npages;
	c->faults = 1;
	return r;
}
