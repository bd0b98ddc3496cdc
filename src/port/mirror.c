/* SPDX-License-Identifier: MIT */
/* mirror.c - a device's page table, and accesses through it; see mirror.h. */
#include "port/mirror.h"
#include <string.h>
#include "base/check.h"

#define LEVELS 4u
#define ENTRIES 512u
#define TOP ((u64)1 << 47)
#define TRIES_MAX 1000u
#define ATOMIC_TRIES 64u
#define FAULT_AROUND TDM_BLOCK_SIZE
#define LEAF_KIND (TDM_RF_VALID | TDM_RF_WRITE | TDM_RF_DEVICE | TDM_RF_EXCLUSIVE)

/* An entry is VALID: a leaf; or the address of a table below; or 0. */
struct tdm_mirror_table {
	tdm_a64 *e;
	u32 level;
	struct tdm_rcu_head rcu;
};

static u32 shift(u32 level)
{
	return TDM_PAGE_SHIFT + 9 * level;
}

static u32 index_of(u64 va, u32 level)
{
	return (u32)(va >> shift(level)) & (ENTRIES - 1);
}

static struct tdm_mirror_table *table_of(u64 e)
{
	return e & TDM_RF_VALID ? NULL : (struct tdm_mirror_table *)(uintptr_t)e;
}

/* ---- tables. The lock is held. ------------------------------------------------------------------------------------------------ */

static struct tdm_mirror_table *table_make(struct tdm_mirror *m, u32 level)
{
	struct tdm_mirror_table *t = tdmi_alloc(&m->mm->alloc, sizeof(*t));
	tdm_a64 *e = t ? tdmi_alloc(&m->mm->alloc, ENTRIES * sizeof(*e)) : NULL;

	if (!e) {
		tdmi_free(&m->mm->alloc, t, sizeof(*t));
		return NULL;
	}
	memset(e, 0, ENTRIES * sizeof(*e));
	*t = (struct tdm_mirror_table){ .e = e, .level = level };
	return t;
}

static void table_free(struct tdm_rcu_head *head, void *arg)
{
	struct tdm_mirror_table *t = tdm_container_of(head, struct tdm_mirror_table, rcu);
	struct tdm_mirror *m = arg;

	tdmi_free(&m->mm->alloc, t->e, ENTRIES * sizeof(*t->e));
	tdmi_free(&m->mm->alloc, t, sizeof(*t));
}

static void tables_free(struct tdm_mirror *m, struct tdm_mirror_table *t)
{
	for (u32 i = 0; t->level && i < ENTRIES; i++) {
		struct tdm_mirror_table *below = table_of(tdm_a64_ld_relaxed(&t->e[i]));

		if (below)
			tables_free(m, below);
	}
	table_free(&t->rcu, m);
}

/* The table of this level for va. NULL: there is none, or no memory for it. */
static struct tdm_mirror_table *table_get(struct tdm_mirror *m, u64 va, u32 level, bool make)
{
	struct tdm_mirror_table *t = m->root;

	while (t && t->level > level) {
		tdm_a64 *e = &t->e[index_of(va, t->level)];
		u64 v = tdm_a64_ld_relaxed(e);
		struct tdm_mirror_table *below = table_of(v);

		if (!below && make) {
			below = table_make(m, t->level - 1);
			/* A leaf becomes the table of what it mapped. */
			for (u32 i = 0; below && v && i < ENTRIES; i++)
				tdm_a64_st_relaxed(&below->e[i], (v & ~TDM_RF_ORDER_MASK) + i);
			if (below)
				tdm_a64_st_release(e, (u64)(uintptr_t)below);
		}
		t = below;
	}
	return t;
}

u64 tdmi_mirror_lookup(struct tdm_mirror *m, u64 va)
{
	struct tdm_mirror_table *t = m->root;

	for (;;) {
		u64 e = tdm_a64_ld_acquire(&t->e[index_of(va, t->level)]);

		if (e & TDM_RF_VALID)
			return e + ((va & (((u64)1 << shift(t->level)) - 1)) >> TDM_PAGE_SHIFT);
		t = table_of(e);
		if (!t)
			return 0;
	}
}

void *tdmi_mirror_memory(struct tdm_mirror *m, u64 entry)
{
	u64 payload = entry & TDM_RF_PAYLOAD;

	if (entry & TDM_RF_DEVICE)
		return m->ops->memory(m->arg, (u32)payload);
	if (entry & TDM_RF_EXCLUSIVE)
		return tdm_frame_home(&m->mm->frames, tdm_pfn_frame(&m->mm->frames, (struct tdm_pfn){ payload }));
	return NULL;
}

/* ---- emptying it ------------------------------------------------------------------------------------------------------------------ */

/* A leaf goes as a whole. */
static void widen(struct tdm_mirror *m, u64 *start, u64 *end)
{
	u64 e = *start < TOP ? tdmi_mirror_lookup(m, *start) : 0;

	if (tdm_rf_order(e))
		*start = TDM_ALIGN_DOWN(*start, (u64)TDM_PAGE_SIZE << tdm_rf_order(e));
	e = *end <= TOP ? tdmi_mirror_lookup(m, *end - 1) : 0;
	if (tdm_rf_order(e))
		*end = TDM_ALIGN_UP(*end, (u64)TDM_PAGE_SIZE << tdm_rf_order(e));
}

/* How many pages. *used: there were entries whose memory a section may be using. */
static u64 clear_range(struct tdm_mirror *m, struct tdm_mirror_table *t, u64 base, u64 start, u64 end, bool *used)
{
	u64 size = (u64)1 << shift(t->level), n = 0;
	u32 first = start > base ? index_of(start, t->level) : 0;

	for (u32 i = first; i < ENTRIES && base + i * size < end; i++) {
		u64 e = tdm_a64_ld_relaxed(&t->e[i]);
		struct tdm_mirror_table *below = table_of(e);

		if (below) {
			n += clear_range(m, below, base + i * size, start, end, used);
			/* It is empty. */
			if (!below->level && start <= base + i * size && base + (i + 1) * size <= end) {
				tdm_a64_st_relaxed(&t->e[i], 0);
				tdmi_rcu_call(&m->rcu, &below->rcu, table_free, m);
			}
		} else if (e) {
			*used = *used || (e & (TDM_RF_DEVICE | TDM_RF_EXCLUSIVE));
			tdm_a64_st_relaxed(&t->e[i], 0);
			n += size >> TDM_PAGE_SHIFT;
		}
	}
	return n;
}

static bool invalidate(struct tdm_interval_notifier *in, const struct tdm_inv_range *range, u64 cur_seq)
{
	struct tdm_mirror *m = tdm_container_of(in, struct tdm_mirror, in);
	u64 start = range->start, end = TDM_MIN(range->end, TOP), n = 0;
	bool used = false, others;

	if (start >= end)
		return true;
	if (!range->blockable)
		return false;
	plat_mutex_lock(&m->lock);
	tdm_interval_set_seq(in, cur_seq);
	widen(m, &start, &end);
	n = clear_range(m, m->root, 0, start, end, &used);
	/* What is not there any more another round may have taken out a moment ago, and be waiting still for who uses it. */
	others = m->leaving != 0;
	m->leaving += n != 0;
	plat_mutex_unlock(&m->lock);
	if (!n && !others)
		return true;
	if (n) {
		tdm_a64_add_relaxed(&m->invalidations, 1);
		tdm_a64_add_relaxed(&m->cleared, n);
	}
	if (m->ops->invalidated)
		m->ops->invalidated(m->arg, start, end);
	if (used || others)
		tdmi_rcu_synchronize(&m->rcu);
	if (n) {
		plat_mutex_lock(&m->lock);
		m->leaving--;
		plat_mutex_unlock(&m->lock);
	}
	tdmi_rcu_poll(&m->rcu);
	return true;
}

static const struct tdm_interval_notifier_ops notifier_ops = { .invalidate = invalidate };

int tdmi_mirror_init(struct tdm_mirror *m, struct tdm_mm *mm, const char *name, const struct tdm_mirror_ops *ops, void *arg, const void *owner,
		     u64 page_sizes)
{
	int r;

	if (!(page_sizes & TDM_MIRROR_4K) || page_sizes & ~(TDM_MIRROR_4K | TDM_MIRROR_64K | TDM_MIRROR_2M))
		return -EINVAL;
	memset(m, 0, sizeof(*m));
	m->mm = mm;
	m->ops = ops;
	m->arg = arg;
	m->owner = owner;
	m->page_sizes = page_sizes;
	plat_mutex_init(&m->lock, TDM_RANK_MIRROR);
	tdmi_rcu_init(&m->rcu);
	m->root = table_make(m, LEVELS - 1);
	if (!m->root)
		return -ENOMEM;
	m->in.name = name;
	m->in.ops = &notifier_ops;
	r = tdmi_interval_notifier_insert(&mm->notifiers, &m->in, 0, TOP);
	if (r)
		tables_free(m, m->root);
	return r;
}

void tdmi_mirror_forget(struct tdm_mirror *m)
{
	tdmi_interval_notifier_remove(&m->in);
}

void tdmi_mirror_destroy(struct tdm_mirror *m)
{
	if (m->in.nots)
		tdmi_interval_notifier_remove(&m->in);
	tdmi_rcu_drain(&m->rcu);
	tables_free(m, m->root);
}

int tdmi_mirror_reader_init(struct tdm_mirror_reader *r, struct tdm_mirror *m, struct tdm_ctx *ctx)
{
	*r = (struct tdm_mirror_reader){ .m = m, .ctx = ctx, .rcu = tdmi_rcu_register(&m->rcu) };
	r->entry = tdmi_alloc(&m->mm->alloc, ENTRIES * sizeof(*r->entry));
	r->bounce = plat_map(TDM_BLOCK_SIZE);
	if (r->rcu && r->entry && r->bounce)
		return 0;
	tdmi_mirror_reader_destroy(r);
	return -ENOMEM;
}

void tdmi_mirror_reader_destroy(struct tdm_mirror_reader *r)
{
	if (r->rcu)
		tdmi_rcu_unregister(r->rcu);
	tdmi_free(&r->m->mm->alloc, r->entry, ENTRIES * sizeof(*r->entry));
	if (r->bounce)
		plat_unmap(r->bounce, TDM_BLOCK_SIZE);
	*r = (struct tdm_mirror_reader){ .m = r->m };
}

/* ---- filling it --------------------------------------------------------------------------------------------------------------------- */

/* Are these n pages one piece, and all known to be? A leaf of the process's is as large as the process's own. */
static bool one_piece(const u64 *entry, u32 n, u32 order)
{
	bool process = !(entry[0] & (TDM_RF_DEVICE | TDM_RF_EXCLUSIVE));

	if (!(entry[0] & TDM_RF_VALID) || (process && tdm_rf_order(entry[0]) < order) || (!process && (entry[0] & TDM_RF_PAYLOAD) % n))
		return false;
	for (u32 k = 1; k < n; k++)
		if ((entry[k] & (LEAF_KIND | TDM_RF_PAYLOAD)) != (entry[0] & (LEAF_KIND | TDM_RF_PAYLOAD)) + k)
			return false;
	return true;
}

static void count_filled(struct tdm_mirror *m, u64 was, u64 e, u64 n)
{
	tdm_a64_add_relaxed(&m->filled, n);
	if ((was & TDM_RF_VALID) && (e & ~was & TDM_RF_WRITE))
		tdm_a64_add_relaxed(&m->upgrades, n);
}

/* All of a table's range, by one leaf. The lock is held. */
static int install_huge(struct tdm_mirror *m, u64 va, u64 entry, u32 n)
{
	struct tdm_mirror_table *t = table_get(m, va, 1, true);
	u64 leaf = (entry & (LEAF_KIND | TDM_RF_PAYLOAD)) | (u64)TDM_HUGE_ORDER << TDM_RF_ORDER_SHIFT, was;

	if (!t)
		return -ENOMEM;
	if (m->ops->mapped)
		m->ops->mapped(m->arg, va, leaf);
	was = tdm_a64_xchg_acqrel(&t->e[index_of(va, 1)], leaf);
	if (was && table_of(was))
		tdmi_rcu_call(&m->rcu, &table_of(was)->rcu, table_free, m);
	count_filled(m, was, leaf, n);
	return 0;
}

/* Put what range_fault has said into the table, by the largest leaves. The lock is held. */
static int install(struct tdm_mirror *m, u64 va, const u64 *entry, u32 n)
{
	struct tdm_mirror_table *t;

	if (n == ENTRIES && (m->page_sizes & TDM_MIRROR_2M) && one_piece(entry, n, TDM_HUGE_ORDER))
		return install_huge(m, va, entry[0], n);
	t = table_get(m, va, 0, true);
	if (!t)
		return -ENOMEM;
	for (u32 k = 0, run; k < n; k += run) {
		u32 order = 0, i = index_of(va, 0) + k;

		run = 1;
		if (!(entry[k] & TDM_RF_VALID))
			continue;
		if ((m->page_sizes & TDM_MIRROR_64K) && i % TDM_BLOCK_PAGES == 0 && n - k >= TDM_BLOCK_PAGES &&
		    one_piece(entry + k, TDM_BLOCK_PAGES, TDM_BLOCK_ORDER)) {
			order = TDM_BLOCK_ORDER;
			run = TDM_BLOCK_PAGES;
		}
		for (u32 j = 0; j < run; j++) {
			u64 e = (entry[k + j] & (LEAF_KIND | TDM_RF_PAYLOAD)) | (u64)order << TDM_RF_ORDER_SHIFT;
			u64 was = tdm_a64_ld_relaxed(&t->e[i + j]);

			/* What is only there because it lies around takes no right away. */
			if (was == e || was == (e | TDM_RF_WRITE))
				continue;
			if (m->ops->mapped && !j)
				m->ops->mapped(m->arg, va + ((u64)k << TDM_PAGE_SHIFT), e);
			tdm_a64_st_release(&t->e[i + j], e);
			count_filled(m, was, e, 1);
		}
	}
	return 0;
}

int tdmi_mirror_map_own(struct tdm_mirror_reader *r, u64 start, u64 end)
{
	struct tdm_mirror *m = r->m;
	int ret = 0;

	for (u64 va = start, stop; va < end && !ret; va = stop) {
		struct tdm_range_fault rf = { .start = va, .entry = r->entry, .flags_mask = TDM_RF_STICKY, .owner = m->owner, .in = &m->in };
		bool again = true;
		u32 n;

		stop = TDM_MIN(end, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
		rf.end = stop;
		n = (u32)((stop - va) >> TDM_PAGE_SHIFT);
		while (again && !ret) {
			memset(r->entry, 0, n * sizeof(*r->entry));
			ret = tdmi_range_fault_unlocked(r->ctx, &rf, 0);
			for (u32 k = 0; k < n; k++) {
				u64 e = r->entry[k];

				if (!(e & (TDM_RF_DEVICE | TDM_RF_EXCLUSIVE)) && (e & (TDM_RF_COHERENT | TDM_RF_FOREIGN)) != TDM_RF_COHERENT)
					r->entry[k] = 0;
			}
			plat_mutex_lock(&m->lock);
			again = tdm_interval_read_retry(&m->in, rf.seq);
			if (!again && !ret)
				ret = install(m, va, r->entry, n);
			plat_mutex_unlock(&m->lock);
		}
	}
	return ret;
}

int tdmi_mirror_fault(struct tdm_mirror_reader *r, u64 start, u64 end, bool write, u64 around, u64 timeout_ns)
{
	struct tdm_mirror *m = r->m;
	u64 lo = start & TDM_PAGE_MASK, hi = TDM_ALIGN_UP(end, TDM_PAGE_SIZE), from = lo, to = hi;
	struct tdm_range_fault rf = { .entry = r->entry, .flags_mask = TDM_RF_STICKY, .owner = m->owner, .in = &m->in };
	int ret;

	if (start >= end || lo / TDM_HUGE_SIZE != (hi - 1) / TDM_HUGE_SIZE)
		return -EINVAL;
	if (around) {
		from = TDM_ALIGN_DOWN(lo, around);
		to = TDM_ALIGN_UP(hi, around);
	}
	rf.start = from;
	rf.end = TDM_MIN(to, TOP);
	tdm_a64_add_relaxed(&m->faults, 1);
	for (;;) {
		u32 n = (u32)((rf.end - from) >> TDM_PAGE_SHIFT);
		bool again;

		for (u32 k = 0; k < n; k++) {
			u64 va = from + ((u64)k << TDM_PAGE_SHIFT);

			r->entry[k] = va < lo || va >= hi ? 0 : TDM_RF_REQ_FAULT | (write ? TDM_RF_REQ_WRITE : 0);
		}
		ret = tdmi_range_fault_unlocked(r->ctx, &rf, timeout_ns);
		if (ret)
			return ret;
		for (u32 k = 0; k < n; k++)
			if (!m->write_ahead && !(write && r->entry[k] & TDM_RF_REQ_WRITE) && !(r->entry[k] & TDM_RF_EXCLUSIVE))
				r->entry[k] &= ~TDM_RF_WRITE;
		plat_mutex_lock(&m->lock);
		again = tdm_interval_read_retry(&m->in, rf.seq);
		if (!again)
			ret = install(m, from, r->entry, n);
		plat_mutex_unlock(&m->lock);
		if (!again)
			return ret;
		tdm_a64_add_relaxed(&m->retries, 1);
	}
}

/* ---- using it ------------------------------------------------------------------------------------------------------------------------ */

static bool allows(u64 e, bool write)
{
	return (e & TDM_RF_VALID) && (!write || (e & TDM_RF_WRITE));
}

enum found { FOUND_NOTHING, FOUND_PROCESS, FOUND_MEMORY };

/* How the device finds va, and how far it is like this: *n at most. The bytes are copied if it has the memory. */
static enum found copy_part(struct tdm_mirror_reader *r, u64 va, size_t *n, bool write)
{
	enum found found = FOUND_NOTHING;
	size_t done = 0;

	tdm_mirror_enter(r);
	while (done < *n) {
		size_t part = TDM_MIN(*n - done, TDM_PAGE_SIZE - (size_t)((va + done) & ~TDM_PAGE_MASK));
		u64 e = tdmi_mirror_lookup(r->m, va + done);
		u8 *mem = allows(e, write) ? tdmi_mirror_memory(r->m, e) : NULL, *b = r->bounce + done;
		enum found f = mem ? FOUND_MEMORY : allows(e, write) ? FOUND_PROCESS : FOUND_NOTHING;

		if (done && f != found)
			break;
		found = f;
		if (mem) {
			mem += (va + done) & ~TDM_PAGE_MASK;
			memcpy(write ? mem : b, write ? b : mem, part);
		}
		done += part;
	}
	tdm_mirror_exit(r);
	*n = done;
	return found;
}

static int fault(struct tdm_mirror_reader *r, u64 va, size_t len, bool write, u64 *faults)
{
	u64 end = TDM_MIN(va + len, TDM_ALIGN_DOWN(va, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
	int ret;

	while (!tdmi_mm_enter(r->ctx))
		plat_yield();
	ret = tdmi_mirror_fault(r, va, end, write, FAULT_AROUND, 0);
	/* What can be had of it. */
	if (ret == -EFAULT || ret == -EPERM)
		ret = tdmi_mirror_fault(r, va, TDM_MIN(end, (va & TDM_PAGE_MASK) + TDM_PAGE_SIZE), write, 0, 0);
	tdmi_mm_exit(r->ctx);
	*faults += 1;
	return ret;
}

int tdmi_mirror_copy_mapped(struct tdm_mirror_reader *r, u64 va, void *buf, size_t len, bool write, size_t *done)
{
	struct tdm_port *port = r->m->mm->port;
	int ret = 0;

	for (*done = 0; *done < len && !ret;) {
		u64 at = va + *done;
		size_t n = TDM_MIN(len - *done, TDM_BLOCK_SIZE), got;
		u8 *b = (u8 *)buf + *done;
		enum found found;

		if (at >= TOP - TDM_BLOCK_SIZE)
			return -EFAULT;
		if (write)
			memcpy(r->bounce, b, n);
		found = copy_part(r, at, &n, write);
		if (found == FOUND_NOTHING)
			return -ENOENT;
		got = n;
		if (found == FOUND_PROCESS)
			ret = port->ops->access(port, r->ctx, at, r->bounce, n, write, &got);
		if (!write)
			memcpy(b, r->bounce, got);
		*done += got;
	}
	return ret;
}

int tdmi_mirror_copy(struct tdm_mirror_reader *r, u64 va, void *buf, size_t len, bool write, size_t *done, u64 *faults)
{
	u64 count = 0;
	u32 tries = 0;
	int ret;

	*done = 0;
	for (;;) {
		size_t got;

		ret = tdmi_mirror_copy_mapped(r, va + *done, (u8 *)buf + *done, len - *done, write, &got);
		*done += got;
		if (ret != -ENOENT)
			break;
		tries = got ? 1 : tries + 1;
		ret = tries > TRIES_MAX ? -EBUSY : fault(r, va + *done, len - *done, write, &count);
		if (ret)
			break;
	}
	if (faults)
		*faults += count;
	return ret;
}

int tdmi_mirror_atomic(struct tdm_mirror_reader *r, u64 va, size_t len, void (*fn)(void *p, void *arg), void *arg)
{
	struct tdm_mirror *m = r->m;
	u64 page = va & TDM_PAGE_MASK, n;
	void *home;
	int ret = 0;

	if (!len || (va & ~TDM_PAGE_MASK) + len > TDM_PAGE_SIZE || va >= TOP)
		return -EINVAL;
	for (u32 tries = 0; tries < ATOMIC_TRIES; tries++) {
		u8 *mem = NULL;
		u64 e;

		tdm_mirror_enter(r);
		e = tdmi_mirror_lookup(m, va);
		if (allows(e, true))
			mem = tdmi_mirror_memory(m, e);
		if (mem)
			fn(mem + (va & ~TDM_PAGE_MASK), arg);
		tdm_mirror_exit(r);
		if (mem)
			return 0;
		while (!tdmi_mm_enter(r->ctx))
			plat_yield();
		/* It may be in the device's memory already, and only not in its table. */
		ret = tdmi_mirror_fault(r, page, page + TDM_PAGE_SIZE, true, 0, 0);
		tdm_mirror_enter(r);
		e = tdmi_mirror_lookup(m, va);
		tdm_mirror_exit(r);
		if (!ret && !(e & (TDM_RF_DEVICE | TDM_RF_EXCLUSIVE))) {
			ret = tdmi_make_exclusive(r->ctx, page, page + TDM_PAGE_SIZE, m->owner, &home, &n);
			if (!ret && n)
				ret = tdmi_mirror_fault(r, page, page + TDM_PAGE_SIZE, true, 0, 0);
		}
		tdmi_mm_exit(r->ctx);
		if (ret)
			return ret;
		/* It is being packed, say. */
		if (tries > ATOMIC_TRIES / 2)
			plat_yield();
	}
	return -EBUSY;
}
