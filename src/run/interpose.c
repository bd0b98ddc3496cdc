/* SPDX-License-Identifier: MIT */
/*
 * interpose.c - libc's calls that change mappings, in a program with a preloaded engine.
 *
 * munmap() and mremap() are announced by the kernel, mprotect() is not. They are seen here for two reasons: the engine may be changing a mapping itself for a
 * moment (port/maps_gate.h); and devices must hear of a change of protection (run/device.h). Bare system calls are not seen.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include "plat/linux/sys.h"
#include "run/interpose.h"
#include "run/live.h"

#define EXPORT __attribute__((visibility("default")))

static struct tdm_maps_gate *gate(void)
{
	struct tdm_live *l = tdmi_live;

	return l && tdm_a32_ld_acquire(&l->state) == TDM_LIVE_ENGAGED ? &l->gate : NULL;
}

static long result(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

long tdmi_interpose_mremap(void *addr, size_t old_len, size_t new_len, int flags, void *to)
{
	struct tdm_maps_gate *g = gate();
	long r;

	if (g)
		tdm_maps_change_begin(g);
	r = tdm_sys5(SYS_mremap, addr, old_len, new_len, flags, to);
	if (g)
		tdm_maps_change_end(g);
	return r;
}

EXPORT int munmap(void *addr, size_t len)
{
	struct tdm_maps_gate *g = gate();
	long r;

	if (g)
		tdm_maps_change_begin(g);
	r = tdm_sys2(SYS_munmap, addr, len);
	if (g)
		tdm_maps_change_end(g);
	return (int)result(r);
}

/* Only what takes the place of something else matters. */
void *tdmi_interpose_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	struct tdm_maps_gate *g = flags & MAP_FIXED ? gate() : NULL;
	long r;

	if (g)
		tdm_maps_change_begin(g);
	r = tdm_sys6(SYS_mmap, (long)addr, (long)len, prot, flags, fd, off);
	if (g)
		tdm_maps_change_end(g);
	return (void *)result(r);
}

static long change_protection(void *addr, size_t len, int prot, int pkey)
{
	struct tdm_live *l = tdmi_live;
	struct tdm_maps_gate *g = gate();
	u64 start = (u64)(uintptr_t)addr;
	long r;

	if (g && tdm_a32_ld_acquire(&l->ndevices) && pkey < 0 && start % TDM_PAGE_SIZE == 0 && len)
		return tdmi_device_mprotect(l, start, TDM_ALIGN_UP(start + len, TDM_PAGE_SIZE), prot);
	if (g)
		tdm_maps_change_begin(g);
	r = pkey < 0 ? tdm_sys3(SYS_mprotect, addr, len, prot) : tdm_sys4(SYS_pkey_mprotect, addr, len, prot, pkey);
	if (g)
		tdm_maps_change_end(g);
	return r;
}

EXPORT int mprotect(void *addr, size_t len, int prot)
{
	return (int)result(change_protection(addr, len, prot, -1));
}

EXPORT int pkey_mprotect(void *addr, size_t len, int prot, int pkey)
{
	return (int)result(change_protection(addr, len, prot, pkey));
}
