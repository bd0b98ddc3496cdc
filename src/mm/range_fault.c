/* SPDX-License-Identifier: MIT */
/*
 * range_fault.c - see range_fault.h.
 *
 * By mappings, as the port knows them; within one, by tables. Entries are read without a lock: what is read may be old when it is used, which the caller finds out by
 * the sequence number. Of memory that the engine does not manage the table says nothing, and the port is asked what is there.
 */
#include "mm/range_fault.h"
#include "base/check.h"
#include "mm/gup.h"
#include "mm/mm.h"

#define TRIES_MAX 64u

struct walk {
	struct tdm_ctx *ctx;
	struct tdm_range_fault *rf;
	struct tdm_port_mapping map; /* the one that holds `at` */
	bool managed;
	bool found;                  /* memory that is not managed has been looked for */
	u64 at, stop;                /* the part of the range that is in map, and all managed or not at all */
	u64 brought;                 /* pages that were not as they were wanted, and then were */
};

static u64 *entry_of(const struct walk *w, u64 va)
{
	return &w->rf->entry[(va - w->rf->start) >> TDM_PAGE_SHIFT];
}

static u64 wanted(const struct walk *w, u64 va)
{
	return (*entry_of(w, va) & w->rf->flags_mask) | w->rf->default_flags;
}

static void put(const struct walk *w, u64 va, u64 out)
{
	u64 *e = entry_of(w, va);

	*e = out | (*e & TDM_RF_STICKY);
}

/* Pages [va, end) of one leaf, or of none. */
static void put_run(const struct walk *w, u64 va, u64 end, u64 out)
{
	u64 step = out & TDM_RF_VALID ? 1 : 0;

	if ((w->rf->flags & TDM_RF_HEADS) && (out & TDM_RF_ORDER_MASK))
		end = TDM_MIN(end, va + TDM_PAGE_SIZE);
	for (; va < end; va += TDM_PAGE_SIZE, out += step)
		put(w, va, out);
}

static u64 rights(const struct walk *w)
{
	return TDM_RF_VALID | (w->map.writable ? TDM_RF_WRITE : 0);
}

/* A leaf, of any level, with no frame behind it. What names a table has an address in these bits. */
static bool is_special(struct tdm_pte pte)
{
	return tdm_pte_present(pte) && (pte.v & TDM_PTE_LEAF) && (pte.v & TDM_PTE_SPECIAL);
}

/* What an entry of the table says. */
static u64 state_of(const struct walk *w, u64 va, struct tdm_pte pte)
{
	/* There is no page behind it that could be reached elsewhere. */
	if (is_special(pte))
		return TDM_RF_ERROR;
	if (tdm_pte_lent(pte))
		return rights(w) | va >> TDM_PAGE_SHIFT;
	if (tdm_pte_is(pte, TDM_PTE_T_COHERENT)) {
		bool own = tdmi_pte_pool(w->ctx->mm, pte)->owner == w->rf->owner;

		/* A write to what a fork has shared is a copy, and leaves it. */
		return (rights(w) & (tdm_pte_coherent_shared(pte) ? ~TDM_RF_WRITE : ~(u64)0)) | TDM_RF_COHERENT | (own ? 0 : TDM_RF_FOREIGN) |
		       va >> TDM_PAGE_SHIFT;
	}
	if (tdm_pte_is(pte, TDM_PTE_T_PRIVATE) && w->rf->owner && tdmi_pte_pool(w->ctx->mm, pte)->owner == w->rf->owner)
		return rights(w) | TDM_RF_DEVICE | tdm_pte_private_frame(pte);
	if (tdm_pte_is(pte, TDM_PTE_T_EXCLUSIVE) && w->rf->owner && tdmi_exclusive_owner(w->ctx->mm, pte) == w->rf->owner)
		return rights(w) | TDM_RF_EXCLUSIVE | tdm_pte_ram_pfn(pte).v;
	return tdm_pte_is(pte, TDM_PTE_T_POISON) ? TDM_RF_ERROR : 0;
}

/* What an upper level's entry says of the page at w->at, and of those behind it. */
static u64 leaf_state(const struct walk *w, const struct tdm_pt *pt, struct tdm_pte pte)
{
	if (is_special(pte))
		return TDM_RF_ERROR;
	if (pt->level > 1 || !tdm_pte_lent(pte))
		return 0;
	return rights(w) | (u64)TDM_HUGE_ORDER << TDM_RF_ORDER_SHIFT | w->at >> TDM_PAGE_SHIFT;
}

/* Is that enough for what is wanted? */
static bool enough(u64 want, u64 state)
{
	return !(want & TDM_RF_REQ_FAULT) || ((state & TDM_RF_VALID) && (!(want & TDM_RF_REQ_WRITE) || (state & TDM_RF_WRITE)));
}

/* As far as there is nothing to bring. What is managed, of one PTE table or one leaf. */
static bool look_managed(struct walk *w, u64 end)
{
	struct tdm_mm *mm = w->ctx->mm;
	u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(w->at, TDM_HUGE_SIZE) + TDM_HUGE_SIZE);
	struct tdm_pte pte;
	struct tdm_pt *pt;
	bool ok = true;
	u32 i;

	tdmi_rcu_read_lock(w->ctx->rcu);
	pt = tdmi_pt_walk(&mm->pgt, w->at, &i, &pte);
	if (pt->level) {
		u64 s = leaf_state(w, pt, pte), good = w->at;

		if (!w->rf->flags_mask) /* all pages are wanted alike */
			good = enough(w->rf->default_flags, s) ? stop : good;
		else
			while (good < stop && enough(wanted(w, good), s))
				good += TDM_PAGE_SIZE;
		put_run(w, w->at, good, s);
		ok = good == stop;
		w->at = good;
	}
	for (; !pt->level && w->at < stop; i++, w->at += TDM_PAGE_SIZE) {
		u64 s = state_of(w, w->at, tdm_pt_get(pt, i));

		ok = enough(wanted(w, w->at), s);
		if (!ok)
			break;
		put(w, w->at, s);
	}
	tdmi_rcu_read_unlock(w->ctx->rcu);
	return ok;
}

/* The same of what is not managed. *r: the port's error. */
static bool look_unmanaged(struct walk *w, u64 end, int *r)
{
	struct tdm_port *port = w->ctx->mm->port;
	u64 stop = TDM_MIN(end, TDM_ALIGN_DOWN(w->at, TDM_HUGE_SIZE) + TDM_HUGE_SIZE), present[TDM_HUGE_PAGES / 64] = { 0 };
	bool huge = false;

	*r = port->ops->present(port, (struct tdm_va){ w->at }, (u32)((stop - w->at) >> TDM_PAGE_SHIFT), present, &huge);
	for (u32 k = 0; !*r && w->at < stop; k++, w->at += TDM_PAGE_SIZE) {
		u64 s = present[k / 64] >> (k % 64) & 1 ? rights(w) | w->at >> TDM_PAGE_SHIFT : 0;

		s |= huge ? (u64)TDM_HUGE_ORDER << TDM_RF_ORDER_SHIFT : 0;
		if (!enough(wanted(w, w->at), s))
			return false;
		if (!huge || !k || !(w->rf->flags & TDM_RF_HEADS))
			put(w, w->at, s);
	}
	return !*r;
}

/* What there is at w->at, which is managed. */
static u64 state_now(const struct walk *w)
{
	struct tdm_ctx *ctx = w->ctx;
	struct tdm_pte pte;
	struct tdm_pt *pt;
	u64 state = 0;
	u32 i;

	tdmi_rcu_read_lock(ctx->rcu);
	pt = tdmi_pt_walk(&ctx->mm->pgt, w->at, &i, &pte);
	if (!pt->level || (pt->level == 1 && tdm_pte_lent(pte)))
		state = state_of(w, w->at, pte);
	tdmi_rcu_read_unlock(ctx->rcu);
	return state;
}

/* The port has said that there is none. It says the same of what is not mapped any more. */
static int no_memory(const struct walk *w)
{
	struct tdm_port_mapping m;
	int r = w->ctx->mm->port->ops->mapping(w->ctx->mm->port, w->at, &m);

	return r == -ENOENT || (!r && m.start > w->at) ? -EFAULT : -ENOMEM;
}

/* The page is shared by a fork, and is to be written: so it is copied. */
static int own_copy(struct walk *w)
{
	u64 own;
	int r = tdmi_make_own(w->ctx, w->at, w->at + TDM_PAGE_SIZE, &own);

	w->brought += !r && enough(wanted(w, w->at), state_now(w));
	return r == -ENOMEM ? no_memory(w) : r && r != -EAGAIN ? -EFAULT : 0;
}

/* The page at w->at is not as it is wanted. */
static int bring(struct walk *w)
{
	struct tdm_ctx *ctx = w->ctx;
	struct tdm_port *port = ctx->mm->port;
	u64 want = wanted(w, w->at);
	bool write = want & TDM_RF_REQ_WRITE;
	int r = 0;

	if (write && !w->map.writable)
		return -EPERM;
	if (w->managed) {
		u64 state = state_now(w);

		if (state & TDM_RF_ERROR)
			return -EFAULT;
		if (state & TDM_RF_COHERENT)
			return own_copy(w);
		r = tdmi_fault_try(ctx, (struct tdm_va){ w->at }, write);
		w->brought += !r && enough(want, state_now(w));
	} else {
		/* It may take as long as it likes: somebody else's userfaultfd may serve it. A fork must not wait for that. */
		tdmi_mm_exit(ctx);
		r = port->ops->populate(port, ctx, (struct tdm_va){ w->at }, 1, write);
		while (!tdmi_mm_enter(ctx))
			plat_yield();
		w->brought += !r;
		r = r == -ENOMEM ? no_memory(w) : r && r != -EAGAIN && r != -EINTR ? -EFAULT : 0;
	}
	return r;
}

static bool stale(const struct tdm_range_fault *rf)
{
	return rf->in && tdm_interval_check_retry(rf->in, rf->seq);
}

/* The mapping at w->at, and how far it is like this. Calls itself once. */
static int next_mapping(struct walk *w)
{
	struct tdm_ctx *ctx = w->ctx;
	struct tdm_port *port = ctx->mm->port;
	struct tdm_vma vma;
	int r = port->ops->mapping(port, w->at, &w->map);

	if (r == -ENOENT)
		w->map = (struct tdm_port_mapping){ .start = ~(u64)0, .end = ~(u64)0 };
	else if (r)
		return r;
	w->stop = TDM_MIN(w->rf->end, w->map.start > w->at ? w->map.start : w->map.end);
	if (w->map.start > w->at)
		w->map.readable = false;
	tdmi_rcu_read_lock(ctx->rcu);
	w->managed = tdmi_vma_find(&ctx->mm->vmas, w->at, &vma);
	if (w->managed) {
		w->managed = !(vma.flags & TDM_VMA_EXCLUDED);
		w->stop = TDM_MIN(w->stop, vma.end);
	} else if (tdmi_vma_next(&ctx->mm->vmas, w->at, &vma)) {
		w->stop = TDM_MIN(w->stop, vma.start);
	}
	tdmi_rcu_read_unlock(ctx->rcu);
	/* Nobody would tell us when it goes. */
	if (!w->managed && !w->found && ctx->find && w->map.readable && !w->map.shared && !w->map.file) {
		w->found = true;
		tdmi_mm_exit(ctx);
		ctx->find(ctx);
		while (!tdmi_mm_enter(ctx))
			plat_yield();
		return next_mapping(w);
	}
	return 0;
}

/* One mapping: look, bring what is missing, look on. */
static int walk_mapping(struct walk *w)
{
	u32 tries = 0;
	u64 at = w->at;
	int r = 0;

	for (; !w->map.readable && w->at < w->stop; w->at += TDM_PAGE_SIZE) {
		if (wanted(w, w->at) & TDM_RF_REQ_FAULT)
			return -EFAULT;
		put(w, w->at, TDM_RF_ERROR);
	}
	if (w->managed)
		tdmi_coherent_settle(w->ctx, w->at, w->stop, false);
	while (w->at < w->stop) {
		r = 0;
		if (w->managed ? look_managed(w, w->stop) : look_unmanaged(w, w->stop, &r))
			continue;
		r = r ? r : bring(w);
		/* Others may give memory back meanwhile. */
		if (r && r != -ENOMEM)
			return r;
		if (stale(w->rf))
			return -EBUSY;
		tries = w->at == at ? tries + 1 : 0;
		at = w->at;
		if (tries == TRIES_MAX)
			return r ? r : -EBUSY;
		if (r)
			plat_yield();
	}
	return 0;
}

static int range_fault(struct tdm_ctx *ctx, struct tdm_range_fault *rf, u64 *brought)
{
	struct walk w = { .ctx = ctx, .rf = rf, .at = rf->start };
	int r = 0;

	if (rf->start >= rf->end || (rf->start | rf->end) & ~TDM_PAGE_MASK || rf->end > (u64)1 << 47 ||
	    (rf->default_flags & (TDM_RF_REQ_FAULT | TDM_RF_REQ_WRITE)) == TDM_RF_REQ_WRITE)
		return -EINVAL;
	while (!r && w.at < rf->end) {
		r = stale(rf) ? -EBUSY : next_mapping(&w);
		r = r ? r : walk_mapping(&w);
	}
	*brought = w.brought;
	return !r && stale(rf) ? -EBUSY : r;
}

int tdmi_range_fault(struct tdm_ctx *ctx, struct tdm_range_fault *rf)
{
	u64 brought;

	return range_fault(ctx, rf, &brought);
}

int tdmi_range_fault_unlocked(struct tdm_ctx *ctx, struct tdm_range_fault *rf, u64 timeout_ns)
{
	u64 since = plat_now_ns(), brought = 0;
	int r;

	for (;;) {
		if (rf->in) {
			/* It may sleep for a round, and a round may wait for a fork to be over. */
			tdmi_mm_exit(ctx);
			rf->seq = tdm_interval_read_begin(rf->in);
			while (!tdmi_mm_enter(ctx))
				plat_yield();
		}
		r = range_fault(ctx, rf, &brought);
		if (r != -EBUSY)
			return r;
		if (brought)
			since = plat_now_ns();
		else if (timeout_ns && plat_now_ns() - since > timeout_ns)
			return -ETIME;
		plat_yield();
	}
}
