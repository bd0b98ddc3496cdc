/* SPDX-License-Identifier: MIT */
/*
 * seglog.c - segments of the file tier: staging, writing, reusing and cleaning them. See tier_file.h.
 */
#include <string.h>

#include "pool/tier_file.h"

#define PAGES_UP(x) TDM_ALIGN_UP(x, TDM_PAGE_SIZE)
#define RETRY_NS ((u64)1000000000)

static void raise_event(struct file_tier *t)
{
	tdm_a32_add_acqrel(&t->event, 1);
	plat_wake(&t->event, ~(u32)0 >> 1);
}

static void wait_event_unlock_lock(struct file_tier *t)
{
	u32 seen = tdm_a32_ld_relaxed(&t->event);

	plat_mutex_unlock(&t->lock);
	plat_wait(&t->event, seen, ~(u64)0);
	plat_mutex_lock(&t->lock);
}

static void mem_add(struct file_tier *t, u64 bytes)
{
	count(&t->mem, bytes);
}

static void mem_sub(struct file_tier *t, u64 bytes)
{
	tdm_a64_sub_relaxed(&t->mem, bytes);
}

/* ---- segments and files ---------------------------------------------------------------------------------------------- */

static int seg_take(struct file_tier *t, u32 *out)
{
	u32 i = t->free_seg;

	if (i != NONE) {
		t->free_seg = seg_at(t, i)->first;
	} else {
		i = t->nsegs;
		if (i == SEG_BLOCK * SEG_BLOCKS_MAX)
			return -ENOSPC;
		if (i % SEG_BLOCK == 0) {
			t->segs[i / SEG_BLOCK] = plat_map(PAGES_UP(SEG_BLOCK * sizeof(struct seg)));
			if (!t->segs[i / SEG_BLOCK])
				return -ENOMEM;
			mem_add(t, PAGES_UP(SEG_BLOCK * sizeof(struct seg)));
		}
		t->nsegs++;
	}
	*seg_at(t, i) = (struct seg){ .file = NONE, .slot = NONE, .first = NONE, .state = SEG_STAGED };
	*out = i;
	return 0;
}

static void seg_free(struct file_tier *t, u32 i)
{
	struct seg *s = seg_at(t, i);

	TDM_BUG_ON(s->live || s->first != NONE || s->readers);
	s->state = SEG_FREE;
	s->first = t->free_seg;
	t->free_seg = i;
}

static void file_put_unlock_lock(struct file_tier *t, u32 i)
{
	struct file *f = &t->files[i];
	int fd = f->fd;

	if (--f->nsegs || i == t->cur)
		return;
	f->open = false;
	/* Frees the file's blocks, which takes a while. */
	plat_mutex_unlock(&t->lock);
	plat_file_close(fd);
	plat_mutex_lock(&t->lock);
}

/* A segment on disk without live blobs and readers goes. */
static void seg_retire_unlock_lock(struct file_tier *t, u32 i)
{
	struct seg *s = seg_at(t, i);
	struct file *f = &t->files[s->file];

	if (s->state != SEG_DISK || s->live || s->readers)
		return;
	s->state = SEG_DYING;
	tdm_a64_sub_relaxed(&t->disk, PAGES_UP(s->fill));
	if (!f->shared) {
		plat_mutex_unlock(&t->lock);
		plat_file_punch(f->fd, (u64)s->slot * SEG_SIZE, PAGES_UP(s->fill));
		plat_mutex_lock(&t->lock);
		TDM_BUG_ON(s->file != t->cur);
		t->free_slots[t->nfree_slots++] = s->slot;
	}
	file_put_unlock_lock(t, s->file);
	seg_free(t, i);
}

void tdmi_seglog_seg_put_unlock_lock(struct file_tier *t, u32 seg)
{
	seg_at(t, seg)->readers--;
	seg_retire_unlock_lock(t, seg);
}

void tdmi_seglog_buf_put(struct file_tier *t, struct buf *b)
{
	b->readers--;
	if (!b->readers && b->state == BUF_DRAINING) {
		b->state = BUF_IDLE;
		raise_event(t);
	}
}

void tdmi_seglog_link(struct file_tier *t, u32 entry, u32 seg)
{
	struct entry *e = entry_at(t, entry);
	struct seg *s = seg_at(t, seg);

	e->seg = seg;
	e->prev = NONE;
	e->next = s->first;
	if (s->first != NONE)
		entry_at(t, s->first)->prev = entry;
	s->first = entry;
	s->live += e->len;
}

void tdmi_seglog_unlink_unlock_lock(struct file_tier *t, u32 entry)
{
	struct entry *e = entry_at(t, entry);
	struct seg *s = seg_at(t, e->seg);
	struct buf *b;

	if (e->next != NONE)
		entry_at(t, e->next)->prev = e->prev;
	if (e->prev != NONE)
		entry_at(t, e->prev)->next = e->next;
	else
		s->first = e->next;
	s->live -= e->len;
	if (s->live)
		return;
	if (s->state == SEG_DISK) {
		seg_retire_unlock_lock(t, e->seg);
		return;
	}
	b = &t->buf[s->buf];
	if (b->state == BUF_FILLING && !b->writers && !b->readers) {
		tdm_a64_sub_relaxed(&t->disk, PAGES_UP(s->fill));
		s->fill = 0;
	} else if (b->state == BUF_STUCK && !b->readers) {
		tdm_a64_sub_relaxed(&t->disk, PAGES_UP(s->fill));
		seg_free(t, e->seg);
		b->state = BUF_IDLE;
		raise_event(t);
	}
}

static u32 file_number(const struct file_tier *t)
{
	for (u32 i = 0; i < FILES_MAX; i++)
		if (!t->files[i].open && !t->files[i].nsegs)
			return i;
	return NONE;
}

static bool clean_unlock_lock(struct file_tier *t, u32 victim);

/* Every fork may leave a file behind. When there are too many, what lies in the smallest moves to the newest. */
static void merge_files_unlock_lock(struct file_tier *t)
{
	u32 least = NONE;

	if (t->cleaning || file_number(t) != NONE)
		return;
	for (u32 i = 0; i < FILES_MAX; i++)
		if (i != t->cur && (least == NONE || t->files[i].nsegs < t->files[least].nsegs))
			least = i;
	for (u32 i = 0; i < t->nsegs && t->files[least].nsegs && !t->cleaning; i++)
		if (seg_at(t, i)->state == SEG_DISK && seg_at(t, i)->file == least && !seg_at(t, i)->bad)
			(void)clean_unlock_lock(t, i);
}

/* There is a file to write to, or -errno. */
static int ready_file_unlock_lock(struct file_tier *t)
{
	bool direct;
	u32 i;
	int fd, r;

	while (t->cur == NONE && t->creating)
		wait_event_unlock_lock(t);
	if (t->cur != NONE)
		return 0;
	i = file_number(t);
	if (i == NONE)
		return -EMFILE;
	t->creating = true;
	plat_mutex_unlock(&t->lock);
	r = plat_file_create(t->dir, &fd, &direct);
	plat_mutex_lock(&t->lock);
	t->creating = false;
	if (!r) {
		t->files[i] = (struct file){ .fd = fd, .open = true };
		t->cur = i;
		t->next_slot = 0;
		t->nfree_slots = 0;
	}
	raise_event(t);
	if (!r)
		merge_files_unlock_lock(t);
	return r;
}

/* ---- buffers --------------------------------------------------------------------------------------------------------- */

/* The write of a buffer is over. */
static void write_done_unlock_lock(struct file_tier *t, struct buf *b, int err)
{
	u32 seg = b->seg;
	struct seg *s = seg_at(t, seg);

	if (err) {
		plat_mutex_unlock(&t->lock);
		err = plat_file_io(&b->io);
		plat_mutex_lock(&t->lock);
	}
	b->reaping = false;
	if (err) {
		u32 file = s->file;

		b->state = BUF_STUCK;
		t->free_slots[t->nfree_slots++] = s->slot;
		s->file = NONE;
		t->failed = err == -ENOSPC || err == -EDQUOT || err == -EFBIG ? -ENOSPC : -EIO;
		t->retry_at = plat_now_ns() + RETRY_NS;
		count(&t->errors, 1);
		file_put_unlock_lock(t, file);
		if (!s->live && !b->readers) {
			tdm_a64_sub_relaxed(&t->disk, PAGES_UP(s->fill));
			seg_free(t, seg);
			b->state = BUF_IDLE;
		}
	} else {
		t->failed = 0;
		s->state = SEG_DISK;
		b->seg = NONE;
		b->state = b->readers ? BUF_DRAINING : BUF_IDLE;
		seg_retire_unlock_lock(t, seg);
	}
	raise_event(t);
}

/* A sealed (or stuck) buffer that nobody fills any more, and there is a file. */
static void write_unlock_lock(struct file_tier *t, struct buf *b)
{
	struct seg *s = seg_at(t, b->seg);
	struct plat_io *io = &b->io;
	int r = 0;

	b->state = BUF_WRITING;
	b->reaping = true;
	s->file = t->cur;
	s->slot = t->nfree_slots ? t->free_slots[--t->nfree_slots] : t->next_slot++;
	t->files[s->file].nsegs++;
	*io = (struct plat_io){ .file = t->files[s->file].fd, .write = true, .buf = b->mem, .len = (u32)PAGES_UP(s->fill),
				.off = (u64)s->slot * SEG_SIZE };
	plat_mutex_unlock(&t->lock);
	if (!b->ioq)
		r = plat_ioq_create(&b->ioq, 1);
	if (!r)
		r = plat_ioq_submit(b->ioq, &io, 1);
	plat_mutex_lock(&t->lock);
	if (r) {
		write_done_unlock_lock(t, b, r);
	} else {
		b->reaping = false;
		raise_event(t);
	}
}

static void reap_unlock_lock(struct file_tier *t, struct buf *b)
{
	struct plat_io *done;
	int n;

	b->reaping = true;
	plat_mutex_unlock(&t->lock);
	n = plat_ioq_reap(b->ioq, &done, 1, 1);
	TDM_BUG_ON(n != 1 || done != &b->io);
	plat_mutex_lock(&t->lock);
	write_done_unlock_lock(t, b, b->io.result);
}

static void seal(struct file_tier *t)
{
	t->buf[t->open].state = BUF_SEALED;
	t->open = NONE;
}

/* Start writing what is sealed and complete. */
static void write_sealed_unlock_lock(struct file_tier *t)
{
	for (u32 i = 0; i < BUFS; i++)
		if (t->buf[i].state == BUF_SEALED && !t->buf[i].writers)
			write_unlock_lock(t, &t->buf[i]);
}

static bool reap_any_unlock_lock(struct file_tier *t)
{
	for (u32 i = 0; i < BUFS; i++)
		if (t->buf[i].state == BUF_WRITING && !t->buf[i].reaping) {
			reap_unlock_lock(t, &t->buf[i]);
			return true;
		}
	return false;
}

/* Wait for a step towards an idle buffer. false: nothing is under way that could be one. */
static bool wait_buffer_unlock_lock(struct file_tier *t)
{
	bool under_way = false;

	if (reap_any_unlock_lock(t))
		return true;
	for (u32 i = 0; i < BUFS; i++) {
		const struct buf *b = &t->buf[i];

		under_way |= b->state == BUF_WRITING || b->state == BUF_DRAINING || (b->state == BUF_SEALED && b->writers);
	}
	if (under_way)
		wait_event_unlock_lock(t);
	return under_way;
}

static bool all_stuck(const struct file_tier *t)
{
	for (u32 i = 0; i < BUFS; i++)
		if (t->buf[i].state != BUF_STUCK)
			return false;
	return true;
}

/* Make an idle buffer the open one. -EAGAIN: there is none. */
static int open_buffer(struct file_tier *t)
{
	for (u32 i = 0; i < BUFS; i++) {
		struct buf *b = &t->buf[i];
		int r;

		if (b->state != BUF_IDLE)
			continue;
		if (!b->mem) {
			b->mem = plat_map(SEG_SIZE);
			if (!b->mem)
				return -ENOMEM;
		}
		r = seg_take(t, &b->seg);
		if (r)
			return r;
		seg_at(t, b->seg)->buf = (u8)i;
		b->state = BUF_FILLING;
		t->open = i;
		return 0;
	}
	return -EAGAIN;
}

static void discard_idle(struct file_tier *t)
{
	for (u32 i = 0; i < BUFS; i++) {
		struct buf *b = &t->buf[i];

		if (b->state != BUF_IDLE || !b->touched)
			continue;
		plat_discard(b->mem, SEG_SIZE);
		mem_sub(t, b->touched);
		b->touched = 0;
	}
}

/* ---- space ----------------------------------------------------------------------------------------------------------- */

/* The segment that is the least alive, at most seven eighths; NONE. */
static u32 victim_find(struct file_tier *t)
{
	const struct seg *best = NULL;
	u32 found = NONE;

	for (u32 i = 0; i < t->nsegs; i++) {
		const struct seg *s = seg_at(t, i);

		if (s->state != SEG_DISK || s->bad || t->files[s->file].shared || (u64)s->live * 8 > (u64)s->fill * 7)
			continue;
		if (!best || (u64)s->live * best->fill < (u64)best->live * s->fill) {
			best = s;
			found = i;
		}
	}
	return found;
}

/* Move one blob from the copy of its segment in clean_mem. */
static int blob_move_unlock_lock(struct file_tier *t, u32 victim, u32 entry)
{
	struct entry *e = entry_at(t, entry);
	u32 len = e->len, seg = NONE, off = 0;
	int r = tdmi_seglog_reserve_unlock_lock(t, len, true, &seg, &off);

	if (r)
		return r;
	/* Meanwhile it may have been dropped. No other blob can have come to lie in the victim. */
	if (e->seg == victim && e->len == len) {
		memcpy(t->buf[seg_at(t, seg)->buf].mem + off, t->clean_mem + e->off, len);
		tdmi_seglog_unlink_unlock_lock(t, entry);
		e->off = off;
		tdmi_seglog_link(t, entry, seg);
	}
	tdmi_seglog_written_unlock_lock(t, seg);
	return 0;
}

/* false: something is still alive in it. */
static bool clean_unlock_lock(struct file_tier *t, u32 victim)
{
	struct seg *s = seg_at(t, victim);
	struct plat_io io = { .file = t->files[s->file].fd, .len = (u32)PAGES_UP(s->fill), .off = (u64)s->slot * SEG_SIZE };
	bool empty;
	int r = 0;

	t->cleaning = true;
	s->readers++;
	plat_mutex_unlock(&t->lock);
	if (!t->clean_mem)
		t->clean_mem = plat_map(SEG_SIZE);
	io.buf = t->clean_mem;
	if (!io.buf)
		r = -ENOMEM;
	if (!r)
		r = plat_file_io(&io);
	if (r == -EIO)
		r = plat_file_io(&io);
	plat_mutex_lock(&t->lock);
	mem_add(t, io.len);
	if (r == -EIO) {
		s->bad = true;
		count(&t->errors, 1);
	}
	while (!r && s->first != NONE)
		r = blob_move_unlock_lock(t, victim, s->first);
	plat_mutex_unlock(&t->lock);
	if (t->clean_mem)
		plat_discard(t->clean_mem, SEG_SIZE);
	plat_mutex_lock(&t->lock);
	mem_sub(t, io.len);
	t->cleaning = false;
	empty = s->first == NONE;
	tdmi_seglog_seg_put_unlock_lock(t, victim);
	raise_event(t);
	return empty;
}

/* Is there room for more bytes within the limit? Cleans while that helps. Puts leave one segment for cleaning to work with. */
static int room_unlock_lock(struct file_tier *t, u64 more)
{
	u64 limit = t->limit > 4 * SEG_SIZE ? t->limit - SEG_SIZE : t->limit;

	while (limit && tdm_a64_ld_relaxed(&t->disk) + more > limit) {
		u32 victim;

		if (t->cleaning) {
			wait_event_unlock_lock(t);
			continue;
		}
		/* A segment being written may be dead by now. */
		if (reap_any_unlock_lock(t))
			continue;
		victim = victim_find(t);
		if (victim == NONE || !clean_unlock_lock(t, victim))
			return -ENOSPC;
	}
	return 0;
}

/* Does the file system have room for a segment more? */
static int disk_room_unlock_lock(struct file_tier *t)
{
	u64 left;
	int r;

	plat_mutex_unlock(&t->lock);
	r = plat_file_free(t->dir, &left);
	plat_mutex_lock(&t->lock);
	return !r && left < DISK_RESERVE ? -ENOSPC : 0;
}

/* A place for len bytes in the open segment. false: they do not fit, and it is sealed. */
static bool reserve_open(struct file_tier *t, u32 len, u32 *seg, u32 *off)
{
	struct buf *b = &t->buf[t->open];
	struct seg *s = seg_at(t, b->seg);
	u32 at = s->fill, end;

	/* Not on more pages than it needs. */
	if ((at & (TDM_PAGE_SIZE - 1)) + len > PAGES_UP(len))
		at = (u32)PAGES_UP(at);
	end = at + len;
	if (end > SEG_SIZE) {
		seal(t);
		return false;
	}
	count(&t->disk, PAGES_UP(end) - PAGES_UP(s->fill));
	s->fill = end;
	if (PAGES_UP(end) > b->touched) {
		mem_add(t, PAGES_UP(end) - b->touched);
		b->touched = (u32)PAGES_UP(end);
	}
	b->writers++;
	*seg = b->seg;
	*off = at;
	return true;
}

int tdmi_seglog_reserve_unlock_lock(struct file_tier *t, u32 len, bool asked, u32 *seg, u32 *off)
{
	int r;

	for (;;) {
		r = ready_file_unlock_lock(t);
		if (r)
			return r;
		write_sealed_unlock_lock(t);
		if (!asked) {
			asked = true;
			r = room_unlock_lock(t, PAGES_UP(len));
			if (!r && t->open == NONE)
				r = disk_room_unlock_lock(t);
			if (r)
				return r;
			continue;
		}
		if (t->open == NONE) {
			r = open_buffer(t);
			if (r && r != -EAGAIN)
				return r;
			if (r && all_stuck(t))
				return t->failed;
			if (r)
				(void)wait_buffer_unlock_lock(t);
			continue;
		}
		if (reserve_open(t, len, seg, off))
			return 0;
	}
}

void tdmi_seglog_written_unlock_lock(struct file_tier *t, u32 seg)
{
	struct buf *b = &t->buf[seg_at(t, seg)->buf];

	b->writers--;
	if (b->state == BUF_SEALED && !b->writers) {
		if (t->cur != NONE)
			write_unlock_lock(t, b);
		raise_event(t);
	}
}

/* ---- upkeep ---------------------------------------------------------------------------------------------------------- */

void tdmi_seglog_flush_unlock_lock(struct file_tier *t)
{
	bool busy = true;

	if (t->open != NONE) {
		if (seg_at(t, t->buf[t->open].seg)->fill) {
			seal(t);
		} else {
			seg_free(t, t->buf[t->open].seg);
			t->buf[t->open].state = BUF_IDLE;
			t->open = NONE;
		}
	}
	while (busy) {
		busy = false;
		for (u32 i = 0; i < BUFS; i++) {
			struct buf *b = &t->buf[i];

			if (b->state == BUF_SEALED && ready_file_unlock_lock(t))
				return;
			busy |= b->state == BUF_SEALED || b->state == BUF_WRITING;
		}
		write_sealed_unlock_lock(t);
		if (busy)
			(void)wait_buffer_unlock_lock(t);
	}
	discard_idle(t);
}

int tdmi_seglog_retry_unlock_lock(struct file_tier *t)
{
	if (!t->failed)
		return 0;
	if (plat_now_ns() < t->retry_at)
		return t->failed;
	t->retry_at = plat_now_ns() + RETRY_NS;
	if (ready_file_unlock_lock(t))
		return t->failed;
	for (u32 i = 0; i < BUFS; i++) {
		if (t->buf[i].state != BUF_STUCK)
			continue;
		write_unlock_lock(t, &t->buf[i]);
		while (t->buf[i].state == BUF_WRITING && wait_buffer_unlock_lock(t))
			;
		if (t->failed)
			return t->failed;
	}
	t->failed = 0;
	return 0;
}

void tdmi_seglog_tidy_unlock_lock(struct file_tier *t)
{
	for (u32 i = 0; i < 4 && !t->cleaning; i++) {
		u64 disk = tdm_a64_ld_relaxed(&t->disk), live = tdm_a64_ld_relaxed(&t->bytes);
		u32 victim;

		if (disk < live * 2 + 16 * SEG_SIZE)
			return;
		victim = victim_find(t);
		if (victim == NONE || !clean_unlock_lock(t, victim))
			return;
	}
}

void tdmi_seglog_forked(struct file_tier *t, bool child)
{
	for (u32 i = 0; i < BUFS; i++) {
		struct buf *b = &t->buf[i];

		/* Nobody writes during a fork; but the parent may be reading while it is copied. */
		if (child)
			b->readers = 0;
		TDM_BUG_ON(b->writers || b->readers);
		if (!child) {
			if (b->state == BUF_WRITING)
				reap_unlock_lock(t, b);
			continue;
		}
		if (b->ioq)
			plat_ioq_forget(b->ioq);
		b->ioq = NULL;
		if (b->state == BUF_WRITING) {
			/* Our copy goes to a file of our own. */
			b->state = BUF_SEALED;
			b->reaping = false;
			t->files[seg_at(t, b->seg)->file].nsegs--;
			seg_at(t, b->seg)->file = NONE;
		}
	}
	for (u32 i = 0; child && i < t->nsegs; i++)
		if (seg_at(t, i)->readers)
			seg_at(t, i)->readers = 0;
	t->cur = NONE;
	t->nfree_slots = 0;
	for (u32 i = 0; i < FILES_MAX; i++) {
		struct file *f = &t->files[i];

		f->shared = f->open;
		if (!f->open || f->nsegs)
			continue;
		f->open = false;
		plat_file_close(f->fd);
	}
}

void tdmi_seglog_destroy(struct file_tier *t)
{
	for (u32 i = 0; i < BUFS; i++) {
		struct buf *b = &t->buf[i];

		if (b->state == BUF_WRITING)
			reap_unlock_lock(t, b);
		if (b->ioq)
			plat_ioq_destroy(b->ioq);
		if (b->mem)
			plat_unmap(b->mem, SEG_SIZE);
	}
	if (t->clean_mem)
		plat_unmap(t->clean_mem, SEG_SIZE);
	for (u32 i = 0; i < FILES_MAX; i++)
		if (t->files[i].open)
			plat_file_close(t->files[i].fd);
	for (u32 i = 0; i < SEG_BLOCKS_MAX && t->segs[i]; i++)
		plat_unmap(t->segs[i], PAGES_UP(SEG_BLOCK * sizeof(struct seg)));
}
