/* SPDX-License-Identifier: MIT */
/*
 * host_readonly.c - taking pages of a mapping that may be read only.
 *
 * UFFDIO_MOVE takes from a writable mapping alone, and is the only way out that tells when a page is pinned, or not ours. So the mapping is made writable for that
 * moment, and nobody can notice: before, the pages are write-protected by userfaultfd, so that a store waits for us, and afterwards fails as it should; and no
 * call of the program's that changes mappings runs meanwhile (maps_gate.h). A handler that reads of such a store waits for the lock of the table, which is held
 * here. What a bare system call does to the mapping in that moment (some 20 us) is not seen: it could find its new mapping with the old one's protection.
 *
 * Where calls are not interposed, such pages stay. So do those of mappings that may be executed, or not even read: there is no state in between.
 */
#include <sys/mman.h>
#include "base/check.h"
#include "plat/linux/sys.h"
#include "port/host.h"
#include "port/uapi.h"

/* Is it one mapping of the kind that this is for? *m: it. */
static bool is_readonly(struct tdm_host *h, u64 va, u64 len, struct tdm_mapping *m)
{
	return !tdmi_host_mapping(h, va, m) && m->start <= va && va + len <= m->end && m->readable && !m->writable && !m->executable && !m->shared &&
	       !m->file;
}

/*
 * Pages that are shared with the other side of a fork become the process's own by being written. What a debugger writes to a private mapping is, whatever its
 * protection; so one byte of each page is written as it is. Nobody can be writing it: the mapping does not allow it, and no call that would is let in.
 */
int tdmi_host_unshare_readonly(struct tdm_port *p, struct tdm_va va, u32 n)
{
	struct tdm_host *h = tdm_container_of(p, struct tdm_host, port);
	u64 end = va.v + ((u64)n << TDM_PAGE_SHIFT);
	struct tdm_mapping m;
	int r = 0;

	if (!h->gate || h->mem < 0)
		return -EFAULT;
	if (!tdm_maps_take_begin(h->gate))
		return -EBUSY;
	if (!is_readonly(h, va.v, end - va.v, &m))
		r = -EFAULT;
	for (u64 at = va.v; !r && at < end; at += TDM_PAGE_SIZE) {
		char byte;

		if (tdm_sys4(SYS_pread64, h->mem, &byte, 1, at) != 1 || tdm_sys4(SYS_pwrite64, h->mem, &byte, 1, at) != 1)
			r = -EFAULT;
	}
	tdm_maps_take_end(h->gate);
	return r;
}

/* Write-protection is a mode of the whole VMA: one that had it in parts would be several. */
static int register_wp(struct tdm_host *h, u64 va, const struct tdm_mapping *m)
{
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP };
	struct tdm_vma v;

	if (!tdmi_vma_find(&h->mm->vmas, va, &v) || (v.flags & TDM_VMA_EXCLUDED))
		return -EINVAL;
	r.range.start = TDM_MAX(m->start, v.start);
	r.range.len = TDM_MIN(m->end, v.end) - r.range.start;
	return (int)tdm_sys3(SYS_ioctl, h->uffd, UFFDIO_REGISTER, &r);
}

static int protect(u64 va, u64 len, int prot)
{
	return (int)tdm_sys3(SYS_mprotect, va, len, prot);
}

/* The mapping is writable now, and the pages are write-protected. */
static int take(struct tdm_host *h, u64 va, void *slot, u32 n, u32 *done)
{
	u64 len = (u64)n << TDM_PAGE_SHIFT;
	int r = protect(va, len, PROT_READ | PROT_WRITE);
	u32 tries = 0;

	if (r)
		return -EINVAL;
	r = h->port.ops->invalidate(&h->port, (struct tdm_va){ va }, slot, n, done);
	while (protect(va, len, PROT_READ)) {
		if (++tries > 1000)
			plat_abort("tandem: no memory to protect a mapping again\n");
		plat_yield();
	}
	return r;
}

int tdmi_host_invalidate_readonly(struct tdm_port *p, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	struct tdm_host *h = tdm_container_of(p, struct tdm_host, port);
	u64 len = (u64)n << TDM_PAGE_SHIFT;
	struct tdm_mapping m;
	int r = -EINVAL;

	*done = 0;
	if (!h->gate)
		return -EINVAL;
	if (!tdm_maps_take_begin(h->gate))
		return -EBUSY;
	if (is_readonly(h, va.v, len, &m))
		r = register_wp(h, va.v, &m);
	r = r ? r : tdmi_host_protect(h->uffd, va.v, len, true);
	if (!r) {
		r = take(h, va.v, slot, n, done);
		/* It wakes whoever has tried to write. */
		(void)tdmi_host_protect(h->uffd, va.v, len, false);
	}
	tdm_maps_take_end(h->gate);
	return r;
}
