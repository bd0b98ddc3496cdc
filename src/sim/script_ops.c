/* SPDX-License-Identifier: MIT */
/* script_ops.c - operations of scripts that change address spaces, or where their pages are. */
#include <stddef.h>
#include "mm/collapse.h"
#include "mm/migrate_page.h"
#include "mm/vmscan.h"
#include "sim/script_impl.h"

static u64 bytes(u32 n)
{
	return (u64)n << TDM_PAGE_SHIFT;
}

/* Does anything of [page, page + n) exist in the space? */
static bool any_vma(struct tdm_script *x, u32 p, u32 page, u32 n)
{
	struct tdm_vma v;
	bool any;

	tdmi_rcu_read_lock(x->m->reader);
	any = tdmi_vma_next(&x->process[p].s->vmas, tdm_script_va(page), &v) && v.start < tdm_script_va(page + n);
	tdmi_rcu_read_unlock(x->m->reader);
	return any;
}

static u32 rights_now(struct tdm_script *x, u32 p, u32 page)
{
	struct tdm_vma v;
	bool found;

	tdmi_rcu_read_lock(x->m->reader);
	found = tdmi_vma_find(&x->process[p].s->vmas, tdm_script_va(page), &v);
	tdmi_rcu_read_unlock(x->m->reader);
	return !found || !(v.flags & TDM_V_READ) ? TDM_DO_NONE : v.flags & TDM_V_WRITE ? TDM_DO_RW : TDM_DO_R;
}

/* What was to be replaced has been unmapped, or has not: both are allowed where a mapping could not be made, but nothing between. */
static int not_mapped(struct tdm_script *x, int r, u32 p, u32 page, u32 n)
{
	if (!tdmi_script_excused(x, r))
		return tdmi_script_differs(x, "it says %d; expected 0", r);
	if (!any_vma(x, p, page, n))
		tdmi_model_munmap(&x->model, p, page, n);
	return 0;
}

static int do_mmap(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	int r = tdmi_mmap(s, x->m->reader, tdm_script_va(a[1]), bytes(a[2]), tdm_script_rights(a[3]));

	if (r)
		return not_mapped(x, r, a[0], a[1], a[2]);
	tdmi_model_mmap(&x->model, a[0], a[1], a[2], a[3], 0, 0);
	return 0;
}

static int do_mmap_shared(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	struct tdm_script_shared *sh = &x->shared[a[4]];
	int r = 0;

	if (!sh->shm) {
		if (x->model.nobjects == TDM_MODEL_OBJECTS)
			return 0;
		r = tdmi_shm_create(&x->m->w, x->m->reader, TDM_SCRIPT_SHARED_PAGES, &sh->shm);
		if (r) {
			sh->shm = NULL;
			return tdmi_script_excused(x, r) ? 0 : tdmi_script_differs(x, "no shared memory: %d", r);
		}
		sh->object = tdmi_model_object(&x->model, false);
	}
	r = tdmi_shm_mmap(s, x->m->reader, tdm_script_va(a[1]), bytes(a[2]), tdm_script_rights(a[3]), sh->shm, bytes(a[5]));
	if (r)
		return not_mapped(x, r, a[0], a[1], a[2]);
	tdmi_model_mmap(&x->model, a[0], a[1], a[2], a[3], sh->object, a[5]);
	return 0;
}

static int do_mmap_device(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	int r;

	if (!x->vram)
		return 0;
	r = tdmi_script_buffer_mmap(x, a[4], s, tdm_script_va(a[1]), bytes(a[2]), tdm_script_rights(a[3]), bytes(a[5]));
	if (r)
		return not_mapped(x, r, a[0], a[1], a[2]);
	tdmi_model_mmap(&x->model, a[0], a[1], a[2], a[3], x->buffer[a[4]].object, a[5]);
	r = tdmi_script_buffer_fill(x, a[4], tdm_script_rights(a[3]));
	if (r && !(r == -EFAULT && a[3] == TDM_DO_NONE) && !tdmi_script_excused(x, r))
		return tdmi_script_differs(x, "the driver's filling of it says %d; expected 0", r);
	return 0;
}

static int do_munmap(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	int r = tdmi_munmap(s, x->m->reader, tdm_script_va(a[1]), bytes(a[2]));

	if (r)
		return tdmi_script_excused(x, r) ? 0 : tdmi_script_differs(x, "it says %d; expected 0", r);
	tdmi_model_munmap(&x->model, a[0], a[1], a[2]);
	return 0;
}

/* What comes before the first page that is not mapped has changed; where there was no memory, what comes before some page. */
static int do_mprotect(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	u32 n = tdmi_model_mapped(&x->model, a[0], a[1], a[2]);
	int r = tdmi_mprotect(s, x->m->reader, tdm_script_va(a[1]), bytes(a[2]), tdm_script_rights(a[3])), expected = n == a[2] ? 0 : -ENOMEM;

	if (r != expected && !tdmi_script_excused(x, r))
		return tdmi_script_differs(x, "it says %d; expected %d", r, expected);
	if (r && tdmi_script_failed(x, TDM_DO_FAIL_MEMORY)) {
		u32 done = 0;

		while (done < n && rights_now(x, a[0], a[1] + done) == a[3])
			done++;
		n = done;
	}
	tdmi_model_mprotect(&x->model, a[0], a[1], n, a[3]);
	return 0;
}

static int do_mremap(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	bool one = tdmi_model_is_one(&x->model, a[0], a[1], a[3]);
	int r;

	if (a[1] < a[2] + a[3] && a[2] < a[1] + a[3])
		return 0;
	/* A driver's list of mappings has an end here. */
	if (one && x->buffer[0].nmaps + x->buffer[1].nmaps > TDM_SCRIPT_MAPS / 2)
		return 0;
	r = tdmi_mremap(s, x->m->reader, tdm_script_va(a[1]), tdm_script_va(a[2]), bytes(a[3]));
	if (!one)
		return r == -EFAULT ? 0 : tdmi_script_differs(x, "it says %d; expected %d, as that is not one mapping", r, -EFAULT);
	if (r)
		return not_mapped(x, r, a[0], a[2], a[3]);
	tdmi_model_mremap(&x->model, a[0], a[1], a[2], a[3]);
	for (u32 i = 0; i < TDM_SCRIPT_PINS; i++)
		if (x->pin[i].held && x->pin[i].p == a[0] && x->pin[i].page - a[1] < a[3])
			x->pin[i].page += a[2] - a[1];
	return 0;
}

static int do_advise(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	u64 start = tdm_script_va(a[1]), len = bytes(a[2]);
	int r;

	switch (x->op->what) {
	case TDM_DO_DONTNEED:
		r = tdmi_madvise_dontneed(s, x->m->reader, start, len);
		tdmi_model_dontneed(&x->model, a[0], a[1], a[2]);
		break;
	case TDM_DO_FREE:
		r = tdmi_madvise_free(s, x->m->reader, start, len);
		tdmi_model_free(&x->model, a[0], a[1], a[2]);
		break;
	default:
		r = tdmi_clear_soft_dirty(s, x->m->reader, start, len);
		tdmi_model_clear_soft(&x->model, a[0], a[1], a[2]);
	}
	return r ? tdmi_script_differs(x, "it says %d; expected 0", r) : 0;
}

/* ---- processes */

static int do_fork(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	int r;

	if (x->process[a[1]].s || x->buffer[0].nmaps + x->buffer[1].nmaps > TDM_SCRIPT_MAPS / 2)
		return 0;
	r = tdmi_space_fork(s, x->m->reader, &x->process[a[1]].s);
	if (r) {
		x->process[a[1]].s = NULL;
		return tdmi_script_excused(x, r) ? 0 : tdmi_script_differs(x, "it says %d; expected 0", r);
	}
	tdmi_model_fork(&x->model, a[0], a[1]);
	return 0;
}

static int do_spawn(struct tdm_script *x, u32 p)
{
	int r = tdmi_space_create(&x->m->w, &x->process[p].s);

	if (r) {
		x->process[p].s = NULL;
		return tdmi_script_excused(x, r) ? 0 : tdmi_script_differs(x, "it says %d; expected 0", r);
	}
	tdmi_model_spawn(&x->model, p);
	return 0;
}

void tdmi_script_exit(struct tdm_script *x, u32 p)
{
	struct tdm_script_process *pr = &x->process[p];

	tdmi_script_guest_end(x, p);
	tdmi_script_unbind(x, p);
	for (u32 c = 0; c < x->sc->machine.cpus; c++)
		if (x->m->cpus.core[c].s == pr->s)
			tdmi_cpus_idle(&x->m->cpus, c);
	tdmi_cpus_forget(&x->m->cpus, pr->s);
	tdmi_space_destroy(pr->s, x->m->reader);
	pr->s = NULL;
	tdmi_model_exit(&x->model, p);
}

/* ---- pages */

static int do_insert(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	const struct tdm_cell *c = &x->model.cell[a[0]][a[1]];
	int r, expected = c->rights == TDM_DO_NONE ? -EFAULT : 0;
	u32 b = 0;

	while (b < TDM_SCRIPT_BUFFERS && (!x->vram || c->object != x->buffer[b].object))
		b++;
	if (!c->mapped || b == TDM_SCRIPT_BUFFERS)
		return 0;
	r = tdmi_script_buffer_insert(x, b, s, tdm_script_va(a[1]), c->index, TDM_MIN(a[2], TDM_SCRIPT_BUFFER_PAGES - c->index), c->rights == TDM_DO_RW);
	if (r != expected && !tdmi_script_excused(x, r))
		return tdmi_script_differs(x, "it says %d; expected %d", r, expected);
	return 0;
}

static void do_ram(struct tdm_script *x, u32 left)
{
	struct tdm_mem_range *r = &x->m->w.phys.range[x->m->w.ram];
	struct tdm_pfn *hog = x->hog;

	while (x->nhogs && r->n - tdmi_phys_used(&x->m->w.phys, x->m->w.ram) < left)
		tdmi_page_put(&x->m->w, hog[--x->nhogs]);
	while (r->n - tdmi_phys_used(&x->m->w.phys, x->m->w.ram) > left && tdmi_page_alloc(&x->m->w.phys, x->m->w.ram, &hog[x->nhogs]))
		x->nhogs++;
}

/* Those that need a space. */
static int in_space(struct tdm_script *x, struct tdm_space *s, const u32 *a)
{
	struct tdm_collapsed collapsed;

	switch (x->op->what) {
	case TDM_DO_MMAP:
		return do_mmap(x, s, a);
	case TDM_DO_MMAP_SHARED:
		return do_mmap_shared(x, s, a);
	case TDM_DO_MMAP_DEVICE:
		return do_mmap_device(x, s, a);
	case TDM_DO_MUNMAP:
		return do_munmap(x, s, a);
	case TDM_DO_MPROTECT:
		return do_mprotect(x, s, a);
	case TDM_DO_MREMAP:
		return do_mremap(x, s, a);
	case TDM_DO_FORK:
		return do_fork(x, s, a);
	case TDM_DO_EXIT:
		tdmi_script_exit(x, a[0]);
		return 0;
	case TDM_DO_INSERT:
		return do_insert(x, s, a);
	case TDM_DO_COLLAPSE:
		tdmi_collapse_range(s, x->m->reader, tdm_script_va(a[1]), tdm_script_va(a[1] + a[2]), &collapsed);
		return 0;
	case TDM_DO_MIGRATE:
		if (a[3] == TDM_DO_TO_RAM || x->coherent)
			(void)tdmi_migrate_range(s, x->m->reader, tdm_script_va(a[1]), tdm_script_va(a[1] + a[2]), a[3] == TDM_DO_TO_RAM ? x->m->w.ram :
				x->coherent);
		return 0;
	default:
		return do_advise(x, s, a);
	}
}

int tdmi_script_change(struct tdm_script *x)
{
	const u32 *a = x->op->arg;

	switch (x->op->what) {
	case TDM_DO_SPAWN:
		return x->process[a[0]].s ? 0 : do_spawn(x, a[0]);
	case TDM_DO_EVICT:
		(void)tdmi_vmscan(&x->m->w, x->m->reader, a[0], a[1]);
		return 0;
	case TDM_DO_AGE:
		tdmi_vmscan_age(&x->m->w);
		return 0;
	case TDM_DO_MOVE:
		if (x->vram)
			tdmi_script_buffer_move(x, a[0]);
		return 0;
	case TDM_DO_DROP:
		if (x->shared[a[0]].shm)
			tdmi_shm_put(x->shared[a[0]].shm, x->m->reader);
		x->shared[a[0]].shm = NULL;
		return 0;
	case TDM_DO_FAIL:
		tdm_a32_st_relaxed(&x->fail[a[0]], a[1]);
		return 0;
	case TDM_DO_RAM:
		do_ram(x, a[0]);
		return 0;
	default:
		return x->process[a[0]].s ? in_space(x, x->process[a[0]].s, a) : 0;
	}
}
