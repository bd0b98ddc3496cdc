/* SPDX-License-Identifier: MIT */
/* share.c - which process has which part of a device's memory; the rules are in share.h. */
#include "run/share.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include "base/check.h"
#include "base/fmt.h"
#include "base/lockrank.h"
#include "plat/linux/sys.h"

#define MAGIC 0x54444d5348415245ull
#define PID_BITS 22u
#define START_BITS 30u /* in clock ticks: 124 days until it begins again */
#define BUSY_NS ((u64)1000000)
#define SLOW_NS ((u64)2000000000)

/* ---- who, and is he alive ----------------------------------------------------------------------------------------------------- */

struct process {
	char state;
	u64 threads, start, stack;
};

static int read_stat(u32 pid, struct process *is)
{
	char path[32], buf[1024];
	const char *p;
	long fd, n;

	tdmi_fmt(path, sizeof(path), "/proc/%u/stat", pid);
	fd = tdm_sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	n = tdm_sys3(SYS_read, fd, buf, sizeof(buf) - 1);
	tdm_sys1(SYS_close, fd);
	if (n <= 0)
		return n ? (int)n : -EIO;
	buf[n] = 0;
	/* The name, which may contain anything, ends with the last parenthesis. State is the third field. */
	p = strrchr(buf, ')');
	if (!p || p[1] != ' ')
		return -EIO;
	p += 2;
	is->state = *p;
	for (u32 field = 3; field <= 28; field++) {
		u64 x = 0;

		for (const char *digit = p; *digit >= '0' && *digit <= '9'; digit++)
			x = x * 10 + (u64)(*digit - '0');
		if (field == 20)
			is->threads = x;
		if (field == 22)
			is->start = x;
		is->stack = x;
		p = strchr(p, ' ');
		if (!p)
			return -EIO;
		p++;
	}
	return 0;
}

static u64 id_of(u32 pid, u64 start, u32 instance)
{
	return (u64)instance << (PID_BITS + START_BITS) | (start & (((u64)1 << START_BITS) - 1)) << PID_BITS | pid;
}

static bool is_dead(const struct tdm_share_process *p, u64 id)
{
	u32 pid = (u32)(id & ((1u << PID_BITS) - 1));
	u64 stack = tdm_a64_ld_acquire(&p->stack);
	struct process is;

	/* Others' entries in /proc may be hidden. */
	if (read_stat(pid, &is))
		return tdm_sys2(SYS_kill, pid, 0) == -ESRCH;
	if ((id_of(pid, is.start, 0) ^ id) << (64 - PID_BITS - START_BITS))
		return true;
	/* A zombie may have threads: its first one has ended. Where its stack is may be hidden, too. */
	return is.state == 'X' || (is.state == 'Z' && is.threads <= 1) || (stack && is.stack && is.stack != stack);
}

static int namespace(const char *path, u64 *ino)
{
	struct stat st;
	long r = tdm_sys4(SYS_newfstatat, AT_FDCWD, path, &st, 0);

	*ino = r ? 0 : (u64)st.st_ino;
	return (int)r;
}

/* Those that an id says something in. */
static int namespaces(u64 ns[2])
{
	(void)namespace("/proc/self/ns/time", &ns[1]); /* older kernels have one only */
	return namespace("/proc/self/ns/pid", &ns[0]) ? -EOPNOTSUPP : 0;
}

/* ---- coming and going ----------------------------------------------------------------------------------------------------------- */

size_t tdmi_share_bytes(u32 nchunks)
{
	return TDM_ALIGN_UP(sizeof(struct tdm_share) + nchunks * sizeof(tdm_a64), TDM_PAGE_SIZE);
}

int tdmi_share_init(struct tdm_share *s, u32 nchunks)
{
	int r;

	if (!nchunks || nchunks > TDM_SHARE_CHUNKS_MAX)
		return -EINVAL;
	r = namespaces(s->namespaces);
	if (r)
		return r;
	s->nchunks = nchunks;
	tdm_a64_st_release(&s->magic, MAGIC);
	return 0;
}

static struct tdm_share_process *process_of(const struct tdm_sharer *me, u64 id)
{
	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++)
		if (tdm_a64_ld_acquire(&me->s->process[i].id) == id)
			return &me->s->process[i];
	return NULL;
}

/* Nobody has the id any more. His entry goes last: without it nobody would look for what he had. */
static void bury(struct tdm_sharer *me, u64 id)
{
	struct tdm_share_process *p = process_of(me, id);

	for (u32 c = 0; c < me->nchunks; c++) {
		u64 was = id;

		if (tdm_a64_ld_acquire(&me->s->owner[c]) == id)
			(void)tdm_a64_cas_acqrel(&me->s->owner[c], &was, 0);
	}
	if (!p)
		return;
	tdm_a64_st_release(&p->stack, 0);
	(void)tdm_a64_cas_acqrel(&p->id, &id, 0);
}

static bool bury_dead(struct tdm_sharer *me)
{
	bool any = false;

	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++) {
		u64 id = tdm_a64_ld_acquire(&me->s->process[i].id);

		if (id && id != me->id && is_dead(&me->s->process[i], id)) {
			bury(me, id);
			any = true;
		}
	}
	/* What was handed to somebody who had left. */
	for (u32 c = 0; c < me->nchunks; c++) {
		u64 id = tdm_a64_ld_acquire(&me->s->owner[c]);

		if (id && !process_of(me, id) && tdm_a64_cas_acqrel(&me->s->owner[c], &id, 0))
			any = true;
	}
	return any;
}

static bool claim(struct tdm_sharer *me, u64 stack)
{
	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++) {
		struct tdm_share_process *p = &me->s->process[i];
		u64 none = 0;

		if (tdm_a64_ld_relaxed(&p->id) || !tdm_a64_cas_acqrel(&p->id, &none, me->id))
			continue;
		tdm_a64_st_release(&p->asked_by, 0);
		tdm_a64_st_release(&p->used_ns, plat_now_ns());
		tdm_a32_st_release(&p->running, 0);
		tdm_a64_st_release(&p->stack, stack);
		me->me = p;
		return true;
	}
	return false;
}

/* One that nobody has, nor has had: processes that execute something else keep pid and start. */
static int new_id(struct tdm_sharer *me, u32 pid, u64 start)
{
	u32 instance = 0;
	int r;

	do {
		r = plat_random(&instance, sizeof(instance));
		me->id = id_of(pid, start, instance % (1u << (64 - PID_BITS - START_BITS)));
	} while (!r && process_of(me, me->id));
	return r;
}

int tdmi_share_join(struct tdm_sharer *me, struct tdm_share *s, u32 nchunks)
{
	u32 pid = (u32)tdm_sys0(SYS_getpid);
	struct process self;
	u64 ns[2];
	int r;

	memset(me, 0, sizeof(*me));
	if (tdm_a64_ld_acquire(&s->magic) != MAGIC || s->nchunks != nchunks)
		return -EINVAL;
	r = namespaces(ns);
	if (!r && memcmp(ns, s->namespaces, sizeof(ns)))
		return -EXDEV;
	if (r || read_stat(pid, &self))
		return -EOPNOTSUPP;
	plat_mutex_init(&me->lock, TDM_RANK_LIVE);
	me->nchunks = nchunks;
	me->s = s;
	r = new_id(me, pid, self.start);
	me->has = r ? NULL : plat_map(TDM_ALIGN_UP(nchunks, TDM_PAGE_SIZE));
	if (!r)
		r = !me->has ? -ENOMEM : claim(me, self.stack) || (bury_dead(me) && claim(me, self.stack)) ? 0 : -ENOSPC;
	if (!r)
		return 0;
	if (me->has)
		plat_unmap(me->has, TDM_ALIGN_UP(nchunks, TDM_PAGE_SIZE));
	me->s = NULL;
	return r;
}

void tdmi_share_leave(struct tdm_sharer *me)
{
	bury(me, me->id);
	tdmi_share_forget(me);
}

void tdmi_share_forget(struct tdm_sharer *me)
{
	plat_unmap(me->has, TDM_ALIGN_UP(me->nchunks, TDM_PAGE_SIZE));
	me->s = NULL;
	tdm_a32_st_relaxed(&me->held, 0);
}

void tdmi_share_runs(struct tdm_sharer *me, bool begins)
{
	if (!me->s)
		return;
	tdm_a64_st_relaxed(&me->me->used_ns, plat_now_ns());
	if (begins)
		tdm_a32_add_acqrel(&me->me->running, 1);
	else
		tdm_a32_sub_acqrel(&me->me->running, 1);
}

/* ---- to take, and to ask --------------------------------------------------------------------------------------------------------- */

/* Those that have been handed to it first. The lock is held. */
static bool take_free(struct tdm_sharer *me, u32 *chunk)
{
	for (u32 free = 0; free < 2; free++)
		for (u32 c = 0; c < me->nchunks; c++) {
			u64 none = 0, id = tdm_a64_ld_acquire(&me->s->owner[c]);

			if (free ? id || !tdm_a64_cas_acqrel(&me->s->owner[c], &none, me->id) : id != me->id || me->has[c])
				continue;
			me->has[c] = true;
			tdm_a32_add_acqrel(&me->held, 1);
			*chunk = c;
			return true;
		}
	return false;
}

bool tdmi_share_take(struct tdm_sharer *me, u32 *chunk)
{
	bool found;

	plat_mutex_lock(&me->lock);
	found = take_free(me, chunk);
	plat_mutex_unlock(&me->lock);
	if (found || !bury_dead(me))
		return found;
	plat_mutex_lock(&me->lock);
	found = take_free(me, chunk);
	plat_mutex_unlock(&me->lock);
	return found;
}

static void sleep_on(tdm_a32 *word, u32 seen, u64 ns)
{
	struct timespec t = { (time_t)(ns / 1000000000), (long)(ns % 1000000000) };

	tdm_sys6(SYS_futex, (long)word, 0 /* FUTEX_WAIT, of several processes */, (long)seen, (long)(ns == ~(u64)0 ? NULL : &t), 0, 0);
}

static void ring(tdm_a32 *word)
{
	tdm_a32_add_acqrel(word, 1);
	tdm_sys6(SYS_futex, (long)word, 1 /* FUTEX_WAKE */, 1u << 30, 0, 0, 0);
}

static void count_chunks(const struct tdm_sharer *me, const u64 *id, u32 *held)
{
	u32 i = 0;

	for (u32 c = 0; c < me->nchunks; c++) {
		u64 owner = tdm_a64_ld_relaxed(&me->s->owner[c]);

		/* Neighbours are often one's. */
		for (u32 k = 0; owner && k < TDM_SHARE_PROCESSES; k++, i = (i + 1) % TDM_SHARE_PROCESSES)
			if (id[i] == owner) {
				held[i]++;
				break;
			}
	}
}

/* Somebody else waits for it. One who is not there any more does not. */
static bool is_asked(struct tdm_sharer *me, struct tdm_share_process *p)
{
	u64 who = tdm_a64_ld_acquire(&p->asked_by);

	return who && (process_of(me, who) || !tdm_a64_cas_acqrel(&p->asked_by, &who, 0));
}

/* The one that has most, of those that have not used the device lately if there are any. *busy: somebody else has just asked one of them. */
static struct tdm_share_process *choose(struct tdm_sharer *me, u64 ids[TDM_SHARE_PROCESSES], bool *busy)
{
	u32 held[TDM_SHARE_PROCESSES] = { 0 }, mine = (u32)(me->me - me->s->process), best = mine, most = 0;
	u64 now = plat_now_ns();
	bool best_cold = false;

	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++)
		ids[i] = tdm_a64_ld_acquire(&me->s->process[i].id);
	count_chunks(me, ids, held);
	for (u32 i = 0; i < TDM_SHARE_PROCESSES; i++) {
		struct tdm_share_process *p = &me->s->process[i];
		u64 used = tdm_a64_ld_relaxed(&p->used_ns);
		bool cold = used + TDM_SHARE_COLD_NS < now && !tdm_a32_ld_relaxed(&p->running);

		if (i == mine || !ids[i] || !held[i] || now < tdm_a64_ld_relaxed(&me->slow_until[i]) || (!cold && held[i] < held[mine] + 2))
			continue;
		if (is_asked(me, p)) {
			*busy = true;
			continue;
		}
		if (best == mine || cold > best_cold || (cold == best_cold && held[i] > most)) {
			best = i;
			best_cold = cold;
			most = held[i];
		}
	}
	return best == mine ? NULL : &me->s->process[best];
}

bool tdmi_share_ask(struct tdm_sharer *me, u64 wait_ns)
{
	u64 ids[TDM_SHARE_PROCESSES], none = 0, now, until = plat_now_ns() + wait_ns, mine = me->id;
	u32 news = tdm_a32_ld_acquire(&me->me->news);
	bool busy = false;
	struct tdm_share_process *p = choose(me, ids, &busy);

	if (!p || !tdm_a64_cas_acqrel(&p->asked_by, &none, me->id)) {
		if (p || busy)
			sleep_on(&me->me->news, news, TDM_MIN(BUSY_NS, wait_ns));
		return p || busy;
	}
	ring(&p->bell);
	while (tdm_a64_ld_acquire(&p->asked_by) == me->id && (now = plat_now_ns()) < until) {
		sleep_on(&me->me->news, news, until - now);
		news = tdm_a32_ld_acquire(&me->me->news);
	}
	if (tdm_a64_cas_acqrel(&p->asked_by, &mine, 0))
		tdm_a64_st_relaxed(&me->slow_until[p - me->s->process], plat_now_ns() + SLOW_NS);
	return true;
}

/* ---- to be asked ------------------------------------------------------------------------------------------------------------------ */

u64 tdmi_share_wait(struct tdm_sharer *me, const tdm_a32 *stop)
{
	for (;;) {
		u32 seen = tdm_a32_ld_acquire(&me->me->bell);
		u64 who = tdm_a64_ld_acquire(&me->me->asked_by);

		if (tdm_a32_ld_acquire(stop))
			return 0;
		if (who)
			return who;
		sleep_on(&me->me->bell, seen, ~(u64)0);
	}
}

void tdmi_share_ring(struct tdm_sharer *me)
{
	ring(&me->me->bell);
}

void tdmi_share_give(struct tdm_sharer *me, u32 chunk, u64 to)
{
	plat_mutex_lock(&me->lock);
	TDM_BUG_ON(!me->has[chunk] || tdm_a64_ld_relaxed(&me->s->owner[chunk]) != me->id);
	me->has[chunk] = false;
	tdm_a32_sub_acqrel(&me->held, 1);
	tdm_a64_st_release(&me->s->owner[chunk], process_of(me, to) ? to : 0);
	plat_mutex_unlock(&me->lock);
}

void tdmi_share_answer(struct tdm_sharer *me, u64 to)
{
	struct tdm_share_process *p = process_of(me, to);
	u64 who = to;

	(void)tdm_a64_cas_acqrel(&me->me->asked_by, &who, 0);
	if (p)
		ring(&p->news);
}
