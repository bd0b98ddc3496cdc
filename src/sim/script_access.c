/* SPDX-License-Identifier: MIT */
/* script_access.c - operations of scripts that read and write: CPUs, devices behind the iommu, guests, and devices by pins. */
#include <string.h>
#include "sim/script_impl.h"

#define STEPS 200000u

static const u64 *words_of(const u8 *page, u64 out[TDM_MODEL_WORDS])
{
	for (u32 w = 0; w < TDM_MODEL_WORDS; w++)
		memcpy(&out[w], page + tdm_script_word(w), sizeof(u64));
	return out;
}

/* The bytes of a page, as somebody has read them. */
static int check_page(struct tdm_script *x, u32 p, u32 page, const u8 *bytes, const char *who)
{
	struct tdm_cell *c = &x->model.cell[p][page];
	u64 got[TDM_MODEL_WORDS], was[TDM_MODEL_WORDS];

	memcpy(was, tdm_model_words(&x->model, c), sizeof(was));
	if (!tdmi_model_reads(&x->model, p, page, words_of(bytes, got)))
		return tdmi_script_differs(x, "%s reads %llu and %llu in page %u of p%u; expected %llu and %llu", who, (unsigned long long)got[0],
			(unsigned long long)got[1], page, p,
					   (unsigned long long)was[0], (unsigned long long)was[1]);
	for (u32 i = 0; i < TDM_PAGE_SIZE; i += 8) {
		u64 v;

		memcpy(&v, bytes + i, sizeof(v));
		if (v && i != tdm_script_word(0) && i != tdm_script_word(1))
			return tdmi_script_differs(x, "%s reads %llx at byte %u of page %u of p%u, where nobody has written", who, (unsigned long long)v, i,
				page, p);
	}
	return 0;
}

/* What an access has said, by what the model allows. -1: it has been carried out; else what the operation returns. */
static int judge(struct tdm_script *x, int r, bool may, u32 page, const char *who)
{
	if (!may)
		return r == -EFAULT ? 0 : tdmi_script_differs(x, "%s is told %d for page %u; expected %d, as there is no right", who, r, page, -EFAULT);
	if (!r)
		return -1;
	return tdmi_script_excused(x, r) ? 0 : tdmi_script_differs(x, "%s is told %d for page %u; expected 0", who, r, page);
}

/* ---- CPUs */

static int run_on(struct tdm_script *x, u32 p, u32 cpu)
{
	struct tdm_core *k = &x->m->cpus.core[cpu];

	return k->s == x->process[p].s && !k->lazy ? 0 : tdmi_cpus_switch(&x->m->cpus, cpu, x->process[p].s);
}

static int cpu_read(struct tdm_script *x, u32 p, u32 cpu, u32 page)
{
	u8 bytes[TDM_PAGE_SIZE];
	int r = run_on(x, p, cpu);

	if (!r)
		r = tdmi_cpus_read(&x->m->cpus, cpu, tdm_script_va(page), bytes, sizeof(bytes));
	r = judge(x, r, tdm_model_may(&x->model, p, page, false), page, "a CPU");
	return r < 0 ? check_page(x, p, page, bytes, "a CPU") : r;
}

static int cpu_write(struct tdm_script *x, u32 p, u32 cpu, u32 page, u32 word, u64 value)
{
	int r = run_on(x, p, cpu);

	if (!r)
		r = tdmi_cpus_write(&x->m->cpus, cpu, tdm_script_va(page) + tdm_script_word(word), &value, sizeof(value));
	r = judge(x, r, tdm_model_may(&x->model, p, page, true), page, "a CPU");
	if (r >= 0)
		return r;
	tdmi_model_writes(&x->model, p, page, word, value, true);
	return 0;
}

int tdmi_script_look(struct tdm_script *x, u32 p, u32 page)
{
	return cpu_read(x, p, 0, page);
}

/* ---- guests */

void tdmi_script_guest_end(struct tdm_script *x, u32 p)
{
	struct tdm_script_process *pr = &x->process[p];

	if (!pr->has_guest)
		return;
	tdmi_rcu_unregister(pr->vcpu.section);
	tdmi_stage2_destroy(&pr->guest);
	pr->has_guest = false;
}

static int do_guest(struct tdm_script *x, u32 p, u32 page, u32 n)
{
	struct tdm_script_process *pr = &x->process[p];
	struct tdm_stage2_config config = { .aging = (enum tdm_stage2_aging)(page % 3), .fill_read = page & 1, .elide_flush = page & 2 };
	int r;

	tdmi_script_guest_end(x, p);
	r = tdmi_stage2_init(&pr->guest, pr->s, tdm_script_va(page), (u64)n << TDM_PAGE_SHIFT, &config);
	if (r)
		return tdmi_script_excused(x, r) ? 0 : tdmi_script_differs(x, "it says %d; expected 0", r);
	pr->vcpu = (struct tdm_vcpu){ .st = &pr->guest, .reader = x->m->reader, .section = tdmi_rcu_register(&pr->guest.rcu) };
	TDM_BUG_ON(!pr->vcpu.section);
	pr->has_guest = true;
	pr->guest_page = page;
	pr->guest_pages = n;
	return 0;
}

static int guest_read(struct tdm_script *x, u32 p, u32 page)
{
	struct tdm_script_process *pr = &x->process[p];
	u8 bytes[TDM_PAGE_SIZE];
	int r = tdmi_vcpu_access(&pr->vcpu, (u64)(page - pr->guest_page) << TDM_PAGE_SHIFT, bytes, sizeof(bytes), false);

	r = judge(x, r, tdm_model_may(&x->model, p, page, false), page, "a guest");
	return r < 0 ? check_page(x, p, page, bytes, "a guest") : r;
}

static int guest_write(struct tdm_script *x, u32 p, u32 page, u32 word, u64 value)
{
	struct tdm_script_process *pr = &x->process[p];
	int r = tdmi_vcpu_access(&pr->vcpu, ((u64)(page - pr->guest_page) << TDM_PAGE_SHIFT) + tdm_script_word(word), &value, sizeof(value), true);

	r = judge(x, r, tdm_model_may(&x->model, p, page, true), page, "a guest");
	if (r >= 0)
		return r;
	tdmi_model_writes(&x->model, p, page, word, value, true);
	return 0;
}

/* ---- devices */

void tdmi_script_unbind(struct tdm_script *x, u32 p)
{
	if (x->process[p].bound)
		TDM_BUG_ON(tdmi_iommu_unbind(&x->m->iommu, p + 1));
	x->process[p].bound = false;
}

/* -ENOMEM: it could not be bound. */
static int bind(struct tdm_script *x, u32 p)
{
	int r = tdmi_iommu_bind(&x->m->iommu, p + 1, x->process[p].s);

	if (r)
		return r;
	x->process[p].bound = true;
	for (u32 d = 0; d < x->sc->ndevices; d++)
		TDM_BUG_ON(tdmi_iommu_attach(x->m->dev[d].dev, p + 1));
	return 0;
}

/* Devices and software go on, whoever is behind first, until all is done. false: it does not end. */
static bool run_devices(struct tdm_script *x)
{
	struct tdm_machine *m = x->m;

	for (u32 step = 0; step < STEPS; step++) {
		u64 first = tdmi_iommu_handler_next(&m->iommu);
		struct tdm_iommu_dev *dev = NULL;

		for (u32 d = 0; d < x->sc->ndevices; d++)
			if (tdmi_iommu_dev_next(m->dev[d].dev) < first) {
				dev = m->dev[d].dev;
				first = tdmi_iommu_dev_next(dev);
			}
		if (first == TDM_SIM_NEVER)
			return true;
		if (dev)
			tdmi_iommu_dev_step(dev);
		else
			tdmi_iommu_handler_step(&m->iommu);
	}
	return false;
}

/* What a device was told of a page of a transfer; as judge(). */
static int judge_dma(struct tdm_script *x, const struct tdm_dma *d, u32 device, u32 p, u32 page)
{
	const struct tdm_sim_device *spec = &x->sc->device[device];
	bool may = tdm_model_may(&x->model, p, page, d->write), asks_write = !spec->map_read_only && !tdm_model_may(&x->model, p, page, true);

	if (!d->result)
		return may ? -1 : judge(x, 0, false, page, "a device");
	/* Who cannot fault fails whenever the page is not there; who asks for more than it needs where there is no right to that. */
	if (d->result == -EFAULT && (spec->fault == TDM_SIM_FAULT_NONE || asks_write || !may || tdmi_script_failed(x, TDM_DO_FAIL_GET)))
		return 0;
	/* Without memory it is told to ask again, until it gives up. */
	if (d->result == -ETIMEDOUT && tdmi_script_excused(x, -ENOMEM))
		return 0;
	return judge(x, d->result, true, page, "a device");
}

/* Do two of the pages from `page` on, of which the last is the i-th, have the same bytes? Transfers under way together come in any order. */
static bool aliased(const struct tdm_script *x, u32 p, u32 page, u32 i)
{
	const struct tdm_cell *last = &x->model.cell[p][page + i];

	for (u32 k = 0; k < i; k++) {
		const struct tdm_cell *c = &x->model.cell[p][page + k];

		if (last->object && c->object == last->object && c->index == last->index)
			return true;
	}
	return false;
}

static int do_dma(struct tdm_script *x, u32 p, u32 device, u32 page, u32 n, bool write, u32 value)
{
	int r = x->process[p].bound ? 0 : bind(x, p);

	if (r)
		return tdmi_script_excused(x, r) ? 0 : tdmi_script_differs(x, "it cannot be bound: %d", r);
	n = TDM_MIN(n, TDM_SCRIPT_DMAS);
	for (u32 i = 1; write && i < n; i++)
		n = aliased(x, p, page, i) ? i : n;
	for (u32 i = 0; i < n; i++) {
		u8 *buf = &x->dma_buf[i * TDM_PAGE_SIZE];
		u64 v = value + i;
		u32 at = write ? tdm_script_word(value & 1) : 0;

		x->dma[i] = (struct tdm_dma){ .pasid = p + 1, .write = write, .va = tdm_script_va(page + i) + at, .len = write ? sizeof(v) : TDM_PAGE_SIZE,
			.buf = buf };
		memcpy(buf, &v, sizeof(v));
		TDM_BUG_ON(tdmi_iommu_dma_submit(x->m->dev[device].dev, &x->dma[i]));
	}
	if (!run_devices(x))
		return tdmi_script_differs(x, "a transfer does not end");
	for (u32 i = 0; i < n && r <= 0; i++) {
		r = judge_dma(x, &x->dma[i], device, p, page + i);
		if (r < 0 && write)
			tdmi_model_writes(&x->model, p, page + i, value & 1, value + i, true);
		else if (r < 0)
			r = check_page(x, p, page + i, x->dma[i].buf, "a device");
	}
	return r > 0;
}

/* ---- pins */

void tdmi_script_unpin(struct tdm_script *x, u32 i)
{
	struct tdm_script_pin *pin = &x->pin[i];

	if (pin->held)
		tdmi_unpin_pages(&x->m->w, &pin->pfn, 1, pin->write);
	pin->held = false;
}

/* Is what it has pinned still what the process has there, or what the object is? */
static bool pin_stands(struct tdm_script *x, const struct tdm_script_pin *pin)
{
	return pin->held && (pin->object || (x->process[pin->p].s && x->model.cell[pin->p][pin->page].mapped &&
		x->model.cell[pin->p][pin->page].id == pin->id));
}

static int pin_read(struct tdm_script *x, u32 i)
{
	struct tdm_script_pin *pin = &x->pin[i];
	u64 got[TDM_MODEL_WORDS];
	const u8 *bytes;

	if (!pin_stands(x, pin))
		return 0;
	bytes = tdm_pfn_bytes(&x->m->w.phys, pin->pfn);
	if (!pin->object)
		return check_page(x, pin->p, pin->page, bytes, "who has pinned it");
	words_of(bytes, got);
	if (memcmp(got, x->model.object[pin->object].word[pin->index], sizeof(got)))
		return tdmi_script_differs(x, "who has pinned page %u of shared memory reads %llu and %llu", pin->index, (unsigned long long)got[0],
			(unsigned long long)got[1]);
	return 0;
}

static int pin_write(struct tdm_script *x, u32 i, u32 value)
{
	struct tdm_script_pin *pin = &x->pin[i];
	u64 v = value;

	if (!pin_stands(x, pin) || !pin->write)
		return 0;
	memcpy(tdm_pfn_bytes(&x->m->w.phys, pin->pfn) + tdm_script_word(value & 1), &v, sizeof(v));
	tdm_page_set(tdm_pfn_page(&x->m->w.phys, pin->pfn), TDM_PG_DIRTY);
	if (pin->object)
		x->model.object[pin->object].word[pin->index][value & 1] = v;
	else
		tdmi_model_writes(&x->model, pin->p, pin->page, value & 1, v, false);
	return 0;
}

/* A pin that is not for long holds the page where it is, and that is not ram. */
static bool pinned_on_device(struct tdm_script *x, const struct tdm_cell *c, u32 p, u32 page)
{
	for (u32 k = 0; k < TDM_ARRAY_SIZE(x->pin); k++) {
		const struct tdm_script_pin *pin = &x->pin[k];

		if (pin->held && (c->object ? pin->object == c->object && pin->index == c->index : !pin->object && pin->p == p && pin->page == page && pin->id == c->id) &&
		    tdm_pfn_range(&x->m->w.phys, pin->pfn)->kind != TDM_MEM_RAM)
			return true;
	}
	return false;
}

static int do_pin(struct tdm_script *x, u32 p, u32 page, u32 i, u32 kind)
{
	bool write = kind & 1, longterm = kind >= TDM_DO_PIN_LONG_READ;
	const struct tdm_cell *c = &x->model.cell[p][page];
	struct tdm_script_pin *pin = &x->pin[i];
	u32 done;
	int r;

	tdmi_script_unpin(x, i);
	r = tdmi_pin_pages(x->process[p].s, x->m->reader, tdm_script_va(page), 1, (write ? TDM_PIN_WRITE : 0) | (longterm ? TDM_PIN_LONGTERM : 0),
		&pin->pfn, &done);
	if (longterm && r == -EBUSY && pinned_on_device(x, c, p, page))
		return 0;
	r = judge(x, r, tdm_model_may(&x->model, p, page, write) && !(c->object && x->model.object[c->object].buffer), page, "who pins");
	if (r >= 0)
		return r;
	*pin = (struct tdm_script_pin){ .held = true, .write = write, .p = p, .page = page, .object = c->object, .index = c->index, .id = c->id, .pfn = pin->pfn };
	if (longterm && tdm_pfn_range(&x->m->w.phys, pin->pfn)->kind != TDM_MEM_RAM)
		return tdmi_script_differs(x, "a long pin on memory that is not ram");
	return pin_read(x, i);
}

/* ---- all of them */

static int pages(struct tdm_script *x, const u32 *a)
{
	const struct tdm_script_process *pr = &x->process[a[0]];
	int r = 0;

	for (u32 i = 0; !r && x->op->what <= TDM_DO_WRITE && i < a[3]; i++)
		r = x->op->what == TDM_DO_READ ? cpu_read(x, a[0], a[1], a[2] + i) : cpu_write(x, a[0], a[1], a[2] + i, a[4] & 1, a[4] + i);
	for (u32 i = 0; !r && x->op->what > TDM_DO_WRITE && i < a[2]; i++)
		if (pr->has_guest && a[1] + i - pr->guest_page < pr->guest_pages)
			r = x->op->what == TDM_DO_GUEST_READ ? guest_read(x, a[0], a[1] + i) : guest_write(x, a[0], a[1] + i, a[3] & 1, a[3] + i);
	return r;
}

int tdmi_script_access(struct tdm_script *x)
{
	const u32 *a = x->op->arg;

	switch (x->op->what) {
	case TDM_DO_IDLE:
		tdmi_cpus_idle(&x->m->cpus, a[0]);
		return 0;
	case TDM_DO_UNPIN:
		tdmi_script_unpin(x, a[0]);
		return 0;
	case TDM_DO_PIN_READ:
		return pin_read(x, a[0]);
	case TDM_DO_PIN_WRITE:
		return pin_write(x, a[0], a[1]);
	default:
		break;
	}
	if (!x->process[a[0]].s)
		return 0;
	switch (x->op->what) {
	case TDM_DO_DMA_READ:
	case TDM_DO_DMA_WRITE:
		return x->sc->ndevices ? do_dma(x, a[0], a[1], a[2], a[3], x->op->what == TDM_DO_DMA_WRITE, a[4]) : 0;
	case TDM_DO_UNBIND:
		tdmi_script_unbind(x, a[0]);
		return 0;
	case TDM_DO_GUEST:
		return do_guest(x, a[0], a[1], a[2]);
	case TDM_DO_GUEST_END:
		tdmi_script_guest_end(x, a[0]);
		return 0;
	case TDM_DO_PIN:
		return do_pin(x, a[0], a[1], a[2], a[3]);
	default:
		return pages(x, a);
	}
}
