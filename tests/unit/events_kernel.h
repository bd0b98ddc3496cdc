/* SPDX-License-Identifier: MIT */
/*
 * events_kernel.h - the model's kernel, in place of port/host.c: what it answers to whatever the engine asks, and a port over it. See test_events.c.
 *
 * Before each answer the program's threads may go on (meanwhile()). Faults are read before events; as long as anything is on its way nothing is filled or moved.
 */
#ifndef TDM_TESTS_EVENTS_KERNEL_H
#define TDM_TESTS_EVENTS_KERNEL_H

#include "events_program.h"

/* ---- the kernel's answers --------------------------------------------------------------------------------------------- */

int tdmi_host_registered(int uffd, u64 va)
{
	if (uffd == STRANGER && nstranger_events)
		return -EAGAIN;
	if (va == BEACON)
		return 0;
	if (uffd == STRANGER)
		return stranger[page_at(va)].reg ? 0 : -ENOENT;
	if (uffd == CHILD)
		return child.page[page_at(va)].reg ? 0 : -ENOENT;
	meanwhile();
	if (changing)
		return -EAGAIN;
	return page[page_at(va)].reg ? 0 : -ENOENT;
}

static void queue_all(void)
{
	for (u32 k = 0, from = below(THREADS); k < THREADS; k++) {
		struct thread *t = &thread[(from + k) % THREADS];

		if (t->state == ANNOUNCING && t->phase == READ)
			announce_step(t);
		if (t->state == ANNOUNCING && t->phase == TO_QUEUE) {
			t->stalled = 0;
			announce_step(t);
		}
	}
}

void tdmi_host_let_queue(struct tdm_host *h)
{
	(void)h;
	meanwhile();
	queue_all();
}

bool tdmi_host_changing(struct tdm_host *h)
{
	(void)h;
	meanwhile();
	return changing != 0;
}

/* Somebody in the child touches a page that it has not got. */
static int child_fault(struct uffd_msg *m)
{
	u32 p = below(PAGES);

	if (below(4) == 0 || !child.page[p].mapped || child.page[p].reg != REG_MISSING || child.page[p].present)
		return 0;
	memset(m, 0, sizeof(*m));
	m->event = UFFD_EVENT_PAGEFAULT;
	m->arg.pagefault.address = va_of(p);
	return 1;
}

/* The child of a bare fork runs: it drops something, or moves it. */
static void stranger_acts(void)
{
	u32 first = below(PAGES), n = 1 + below(4), to = below(PAGES);
	bool moves = below(2);

	if (nstranger_events || below(6) || first + n > PAGES || to + n > PAGES)
		return;
	for (u32 k = 0; k < n; k++)
		if (stranger[first + k].reg != REG_MISSING || (moves && stranger[to + k].mapped))
			return;
	trace("the child of a bare fork %s %u+%u to %u", moves ? "moves" : "drops", first, n, to);
	memset(stranger_event, 0, sizeof(stranger_event));
	for (u32 k = 0; k < n; k++) {
		if (moves)
			stranger[to + k] = stranger[first + k];
		stranger[first + k] = (struct page){ .mapped = !moves, .reg = moves ? REG_NONE : REG_MISSING };
	}
	stranger_event[0].event = moves ? UFFD_EVENT_UNMAP : UFFD_EVENT_REMOVE;
	stranger_event[0].arg.remove.start = va_of(first);
	stranger_event[0].arg.remove.end = va_of(first + n);
	stranger_event[1].event = UFFD_EVENT_REMAP;
	stranger_event[1].arg.remap.from = va_of(first);
	stranger_event[1].arg.remap.to = va_of(to);
	stranger_event[1].arg.remap.len = (u64)n << TDM_PAGE_SHIFT;
	nstranger_events = 1 + moves;
}

static void gone(const struct uffd_msg *m)
{
	bool moved = m->event == UFFD_EVENT_REMAP;
	u64 start = moved ? m->arg.remap.from : m->arg.remove.start;
	u64 end = moved ? start + m->arg.remap.len : m->arg.remove.end;

	for (u64 va = start; m->event != UFFD_EVENT_REMOVE && va < end; va += TDM_PAGE_SIZE)
		going[page_at(va)]--;
}

int tdmi_host_read_msg(int uffd, struct uffd_msg *m)
{
	struct thread *t;
	u32 who;

	if (uffd == CHILD)
		return child_fault(m);
	if (uffd == STRANGER) {
		if (!nstranger_events)
			return 0;
		*m = stranger_event[--nstranger_events];
		return 1;
	}
	meanwhile();
	if (nfaults) {
		memset(m, 0, sizeof(*m));
		m->event = UFFD_EVENT_PAGEFAULT;
		m->arg.pagefault.address = va_of(fault_queue[0].page);
		t = &thread[fault_queue[0].thread];
		m->arg.pagefault.flags = t->fault_write ? UFFD_PAGEFAULT_FLAG_WRITE : 0;
		t->fault_read = true;
		memmove(fault_queue, fault_queue + 1, --nfaults * sizeof(fault_queue[0]));
		trace("read fault at %u", page_at(m->arg.pagefault.address));
		return 1;
	}
	if (!nqueued)
		return 0;
	who = event_queue[0];
	t = who >= THREADS ? NULL : &thread[who];
	memmove(event_queue, event_queue + 1, --nqueued * sizeof(event_queue[0]));
	if (!t) {
		memset(m, 0, sizeof(*m));
		m->event = UFFD_EVENT_FORK;
		m->arg.fork.ufd = who == THREADS ? CHILD : STRANGER;
		if (who == THREADS)
			fork_phase = FORK_READ;
		else
			stranger_phase = FORK_READ;
		trace("read %sfork", who == THREADS ? "" : "bare ");
		return 1;
	}
	*m = t->event[t->at];
	t->phase = READ;
	gone(m);
	if (m->event == UFFD_EVENT_REMAP)
		trace("read remap %u to %u, %u", page_at(m->arg.remap.from), page_at(m->arg.remap.to), (u32)(m->arg.remap.len >> TDM_PAGE_SHIFT));
	else
		trace("read %s %u+%u", m->event == UFFD_EVENT_UNMAP ? "unmap" : "remove", page_at(m->arg.remove.start),
		      (u32)((m->arg.remove.end - m->arg.remove.start) >> TDM_PAGE_SHIFT));
	return 1;
}

void tdmi_host_kick(struct tdm_host *h)
{
	(void)h;
}

static void set_reg(u64 start, u64 end, u8 reg)
{
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE)
		if (page[page_at(va)].mapped)
			page[page_at(va)].reg = reg;
	trace("register %u..%u as %u", page_at(start), page_at(end - 1), reg);
}

/* The range must begin and end in mappings, and may have holes. */
static int reg_call(u64 start, u64 end, u8 reg)
{
	bool any = false;

	meanwhile();
	for (u64 va = start; va < end; va += TDM_PAGE_SIZE)
		any = any || page[page_at(va)].mapped;
	if (!any)
		return -EINVAL;
	set_reg(start, end, reg);
	return 0;
}

int tdmi_host_register(struct tdm_host *h, u64 start, u64 end)
{
	(void)h;
	return reg_call(start, end, REG_MISSING);
}

int tdmi_host_register_events(struct tdm_host *h, u64 start, u64 end)
{
	(void)h;
	return reg_call(start, end, REG_EVENTS);
}

int tdmi_host_unregister(struct tdm_host *h, u64 start, u64 end)
{
	(void)h;
	return reg_call(start, end, REG_NONE);
}

int tdmi_host_mapping(struct tdm_host *h, u64 addr, struct tdm_mapping *m)
{
	u32 p = addr <= BASE ? 0 : (u32)((addr - BASE) >> TDM_PAGE_SHIFT), e;

	(void)h;
	meanwhile();
	while (p < PAGES && !page[p].mapped)
		p++;
	if (p >= PAGES)
		return -ENOENT;
	for (e = p; e < PAGES && page[e].mapped && page[e].reg == page[p].reg; e++)
		;
	for (; p && page[p - 1].mapped && page[p - 1].reg == page[p].reg; p--)
		;
	*m = (struct tdm_mapping){ .start = va_of(p), .end = va_of(e), .readable = true, .writable = true };
	return 0;
}

bool tdmi_linux_mem_own(u64 start, u64 end)
{
	(void)start;
	(void)end;
	return false;
}

static void wake(u32 p);
static int put(u64 va, u32 *tokens, u32 n, u32 *done);

static int copy_page(int uffd, u64 va, const void *src)
{
	u32 p = page_at(va), token, done;

	memcpy(&token, src, sizeof(token));
	if (uffd == STRANGER) {
		stranger_acts();
		if (nstranger_events)
			return -EAGAIN;
	}
	if (uffd == STRANGER && (!stranger[p].reg || stranger[p].present))
		return stranger[p].present ? -EEXIST : -ENOENT;
	if (uffd == STRANGER) {
		if (token != stranger[p].expected)
			t_fail(__FILE__, __LINE__, "page %u of the child of a bare fork is given %u, must be %u (seed %llu)", p, token,
			       stranger[p].expected, (unsigned long long)run_seed);
		stranger[p].present = true;
		return 0;
	}
	if (uffd != CHILD)
		return put(va, &token, 1, &done);
	trace("fill %u of the child with %u", p, token);
	if (!child.dropping[p] && token != child.page[p].expected)
		t_fail(__FILE__, __LINE__, "the child's page %u is given %u, must be %u (seed %llu)", p, token, child.page[p].expected,
		       (unsigned long long)run_seed);
	child.page[p].present = true;
	child.page[p].token = token;
	return 0;
}

int tdmi_host_copy(int uffd, u64 va, const void *src, u32 n, u32 *done)
{
	int r = 0;

	for (*done = 0; *done < n && !r; *done += !r)
		r = copy_page(uffd, va + ((u64)*done << TDM_PAGE_SHIFT), (const u8 *)src + ((size_t)*done << TDM_PAGE_SHIFT));
	return r;
}

/* No store waits here. */
int tdmi_host_protect(int uffd, u64 va, u64 len, bool on)
{
	(void)uffd;
	(void)va;
	(void)len;
	(void)on;
	return -ENOENT;
}

int tdmi_host_wake(int uffd, u64 va, u64 len)
{
	if (uffd == live.host.uffd)
		for (u64 off = 0; off < len; off += TDM_PAGE_SIZE)
			wake(page_at(va + off));
	return 0;
}

/* ---- the port ---------------------------------------------------------------------------------------------------------- */

static void wake(u32 p)
{
	for (u32 i = 0; i < THREADS; i++)
		if (thread[i].state == FAULTING && thread[i].fault == p && thread[i].fault_read)
			thread[i].state = RUNNING;
}

static int put(u64 va, u32 *tokens, u32 n, u32 *done)
{
	*done = 0;
	meanwhile();
	while (*done < n) {
		u32 p = page_at(va) + *done;

		if (changing)
			return -EAGAIN;
		if (!page[p].mapped || !page[p].reg || page[p].reg != page[page_at(va)].reg)
			return -ENOENT;
		if (page[p].present)
			return -EEXIST;
		page[p].present = true;
		page[p].token = tokens[*done];
		trace("fill %u with %u", p, page[p].token);
		wake(p);
		(*done)++;
	}
	return 0;
}

static int k_fill_copy(struct tdm_port *port, struct tdm_va va, const void *src, u32 n, u32 *done)
{
	u32 tokens[TDM_HUGE_PAGES];

	(void)port;
	for (u32 k = 0; k < n; k++)
		memcpy(&tokens[k], (const u8 *)src + k * TDM_PAGE_SIZE, sizeof(u32));
	return put(va.v, tokens, n, done);
}

static int k_fill(struct tdm_port *port, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	int r = k_fill_copy(port, va, slot, n, done);

	memset(slot, 0, *done * TDM_PAGE_SIZE);
	return r;
}

static int k_fill_zero(struct tdm_port *port, struct tdm_va va, u32 n, u32 *done)
{
	u32 tokens[TDM_HUGE_PAGES] = { 0 };

	(void)port;
	return put(va.v, tokens, n, done);
}

static int k_poison(struct tdm_port *port, struct tdm_va va, u32 n)
{
	(void)port;
	(void)va;
	(void)n;
	t_fail(__FILE__, __LINE__, "a page was lost");
}

static int k_invalidate(struct tdm_port *port, struct tdm_va va, void *slot, u32 n, u32 *done)
{
	(void)port;
	*done = 0;
	meanwhile();
	while (*done < n) {
		u32 p = page_at(va.v) + *done;
		u8 *at = (u8 *)slot + *done * TDM_PAGE_SIZE;

		if (changing)
			return -EAGAIN;
		if (!page[p].mapped || page[p].reg != page[page_at(va.v)].reg)
			return -ENOENT;
		memset(at, 0, TDM_PAGE_SIZE);
		if (page[p].present)
			memcpy(at, &page[p].token, sizeof(u32));
		trace("take %u (%u)", p, page[p].present ? page[p].token : 0);
		page[p].present = false;
		(*done)++;
	}
	return 0;
}

void tdmi_host_let_go(int uffd)
{
	for (u32 p = 0; uffd == STRANGER && p < PAGES; p++)
		if (!stranger[p].present && stranger[p].expected)
			t_fail(__FILE__, __LINE__, "page %u of the child of a bare fork was not given %u (seed %llu)", p, stranger[p].expected,
			       (unsigned long long)run_seed);
}

static void k_wake(struct tdm_port *port, struct tdm_va va, u32 n)
{
	(void)port;
	for (u32 k = 0; k < n; k++)
		wake(page_at(va.v) + k);
}

static int k_present(struct tdm_port *port, struct tdm_va va, u32 n, u64 *present, bool *huge)
{
	(void)port;
	*huge = false;
	meanwhile();
	for (u32 k = 0; k < n; k++) {
		u64 at = va.v + ((u64)k << TDM_PAGE_SHIFT);

		if (at >= BASE && at < va_of(PAGES) && page[page_at(at)].present)
			present[k / 64] |= (u64)1 << (k % 64);
	}
	return 0;
}

static u64 k_next_present(struct tdm_port *port, u64 va, u64 end)
{
	(void)port;
	for (; va < end; va += TDM_PAGE_SIZE)
		if (page[page_at(va)].present)
			return va;
	return end;
}

static int k_unshare(struct tdm_port *port, struct tdm_va va, u32 n)
{
	(void)port;
	(void)va;
	(void)n;
	return 0;
}

static void k_discard(struct tdm_port *port, void *const *slot, const u32 *pages, u32 n)
{
	(void)port;
	for (u32 i = 0; i < n; i++)
		memset(slot[i], 0, (size_t)pages[i] << TDM_PAGE_SHIFT);
}

static const struct tdm_port_ops model_ops = {
	.name = "model",
	.caps = { .access = TDM_AF_SOFTWARE, .page_sizes = TDM_PAGE_SIZE },
	.fill = k_fill,
	.fill_copy = k_fill_copy,
	.fill_zero = k_fill_zero,
	.fill_poison = k_poison,
	.invalidate = k_invalidate,
	.wake = k_wake,
	.present = k_present,
	.next_present = k_next_present,
	.unshare = k_unshare,
	.discard = k_discard,
	.discard_many = k_discard,
	.drain = tdmi_host_drain,
};

#endif
