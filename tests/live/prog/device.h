/* SPDX-License-Identifier: MIT */
/*
 * device.h - what the programs that test devices share. Unlike the others they use the library: each starts an engine in itself. Exit status 77: it may not.
 *
 * Own devices: their memory is plain memory of the process, beside which they remember what each frame is used for, and complain if the library does not
 * stick to what <tandem/device.h> says. They are told which copies are to fail, or to hang.
 */
#ifndef TDM_TEST_DEVICE_H
#define TDM_TEST_DEVICE_H

#include "common.h"
#include <pthread.h>
#include <tandem/soft.h>

#define HUGE (2 * MiB)
#define CANNOT 77

static struct tdm *engine;
static struct tdm_soft *soft;
static struct tdm_device *dev; /* the soft one's */

/* Memory that the engine leaves alone, that a child of a fork has a copy of. */
static inline void *private_memory(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	CHECK(p != MAP_FAILED, "mmap of %zu bytes: %s", len, strerror(errno));
	if (engine)
		CHECK(tdm_exclude(engine, p, len) == 0, "tdm_exclude");
	return p;
}

static inline void engine_start(uint64_t ram)
{
	struct tdm_options o = { .size = sizeof(o), .ram_bytes = ram };
	char line[240] = "";
	int r;

	if (engine)
		return;
	r = tdm_start(&o, &engine, line, sizeof(line));
	if (r == -EPERM || r == -EOPNOTSUPP) {
		fprintf(stderr, "%s: %s\n", prog_name, line);
		exit(CANNOT);
	}
	CHECK(r == 0, "tdm_start: %d: %s", r, line);
}

static inline void engine_stop(void)
{
	int r = tdm_stop(engine);

	CHECK(r == 0, "tdm_stop: %d", r);
	engine = NULL;
}

static inline void soft_start_with(struct tdm_soft_options o)
{
	int r;

	o.size = sizeof(o);
	engine_start(0);
	r = tdm_soft_create(engine, &o, &soft);
	CHECK(r == 0, "tdm_soft_create: %d", r);
	dev = tdm_soft_device(soft);
}

static inline void soft_start(size_t bytes, unsigned threads)
{
	soft_start_with((struct tdm_soft_options){ .memory_bytes = bytes, .threads = threads });
}

static inline void soft_end(void)
{
	int r = tdm_soft_destroy(soft);

	CHECK(r == 0, "tdm_soft_destroy: %d", r);
	soft = NULL;
	dev = NULL;
}

static inline struct tdm_device_stats stats_of(struct tdm_device *d)
{
	struct tdm_device_stats s = { .size = sizeof(s) };
	int r = tdm_device_stats_get(d, &s);

	CHECK(r == 0, "tdm_device_stats_get: %d", r);
	return s;
}

/* How many went. An error is one. */
static inline size_t migrate(struct tdm_device *d, void *p, size_t len)
{
	size_t n = ~(size_t)0;
	int r = tdm_device_migrate(d, p, len, &n);

	CHECK(r == 0, "tdm_device_migrate: %d after %zu pages", r, n);
	return n;
}

static inline void migrate_all(struct tdm_device *d, void *p, size_t len, const char *what)
{
	size_t n = migrate(d, p, len), again = n < len / PAGE ? migrate(d, p, len) : 0; /* a page that somebody looked at just then */

	CHECK(n + again == len / PAGE, "%s: %zu pages of %zu went to the device, then %zu", what, n, len / PAGE, again);
}

static inline bool is_out(const void *p)
{
	return out_pages(p, PAGE) == 1;
}

/* ---- doing things as the device. Its threads are not libc's: what goes wrong is told by a number. ------------------------------------------- */

struct as_device {
	const void *at;
	void *buf;
	size_t len;
	bool write;
	int result;
};

static inline void as_device_fn(struct tdm_device_thread *t, void *arg)
{
	struct as_device *a = arg;

	a->result = a->write ? tdm_device_write(t, (void *)(uintptr_t)a->at, a->buf, a->len) : tdm_device_read(t, a->at, a->buf, a->len);
}

static inline int device_copy(struct tdm_device *d, const void *at, void *buf, size_t len, bool write)
{
	struct as_device a = { at, buf, len, write, 0 };
	int r = tdm_device_run(d, as_device_fn, &a, NULL);

	return r ? r : a.result;
}

/* The device sees that page, with this content. */
static inline void device_check(struct tdm_device *d, const void *p, size_t len, uint64_t name, uint64_t version, const char *what)
{
	static __thread char page[PAGE];

	for (size_t o = 0; o < len; o += PAGE) {
		int r = device_copy(d, (const char *)p + o, page, PAGE, false);

		CHECK(r == 0, "%s: the device cannot read %p: %d", what, (const void *)((const char *)p + o), r);
		page_check(page, name + o / PAGE, version, what);
	}
}

static inline void device_check_zero(struct tdm_device *d, const void *p, size_t len, const char *what)
{
	static __thread char page[PAGE];

	for (size_t o = 0; o < len; o += PAGE) {
		int r = device_copy(d, (const char *)p + o, page, PAGE, false);

		CHECK(r == 0, "%s: the device cannot read %p: %d", what, (const void *)((const char *)p + o), r);
		check_zero(page, PAGE, what);
	}
}

static inline void device_fill(struct tdm_device *d, void *p, size_t len, uint64_t name, uint64_t version)
{
	static __thread char page[PAGE];

	for (size_t o = 0; o < len; o += PAGE) {
		int r;

		page_gen(page, name + o / PAGE, version);
		r = device_copy(d, (char *)p + o, page, PAGE, true);
		CHECK(r == 0, "the device cannot write %p: %d", (void *)((char *)p + o), r);
	}
}

static inline void add_one(void *p, void *arg)
{
	(void)arg;
	++*(uint64_t *)p;
}

/* ---- a device of our own -------------------------------------------------------------------------------------------------------------------- */

struct own {
	struct tdm_device *dev;
	uint8_t *memory;
	uint32_t frames;
	bool loose;                    /* there may be frames that nothing was copied to */
	_Atomic uint8_t *used;         /* by frame: copied to, not freed */
	_Atomic uint64_t given, freed; /* frames, ever */
	_Atomic uint64_t copies;       /* there and back */
	_Atomic uint64_t fail_from, fail_to; /* copies that fail: [from, to) */
	_Atomic bool fail_in, fail_out, fail_wait;
	_Atomic uint32_t hang_ms;      /* how long the next invalidation takes */
	_Atomic uint32_t hang_copy_ms; /* and the next copy back */
	const char *_Atomic broken;    /* what the library has done wrong */
};

static inline bool own_fails(struct own *o, bool enabled)
{
	uint64_t n;

	if (!enabled)
		return false;
	n = atomic_fetch_add(&o->copies, 1);
	return n >= atomic_load(&o->fail_from) && n < atomic_load(&o->fail_to);
}

static inline int own_in(void *arg, uint32_t frame, const void *src, uint32_t pages)
{
	struct own *o = arg;

	if (frame + pages > o->frames)
		o->broken = "a frame that there is not";
	for (uint32_t i = 0; i < pages; i++)
		if (atomic_exchange(&o->used[frame + i], 1) && !o->loose)
			o->broken = "a frame that is used was given again";
	atomic_fetch_add(&o->given, pages);
	if (own_fails(o, o->fail_in)) {
		memset(o->memory + (size_t)frame * PAGE, 0xee, pages * PAGE);
		return -EIO;
	}
	memcpy(o->memory + (size_t)frame * PAGE, src, pages * PAGE);
	return 0;
}

static inline void hang(uint32_t ms)
{
	if (ms)
		sleep_ms(ms);
}

static inline int own_out(void *arg, void *dst, uint32_t frame, uint32_t pages)
{
	struct own *o = arg;

	for (uint32_t i = 0; i < pages; i++)
		if (!o->used[frame + i])
			o->broken = "a frame that is free was read";
	hang(atomic_exchange(&o->hang_copy_ms, 0));
	if (own_fails(o, o->fail_out)) {
		memset(dst, 0xee, pages * PAGE);
		return -EIO;
	}
	memcpy(dst, o->memory + (size_t)frame * PAGE, pages * PAGE);
	return 0;
}

static inline int own_wait(void *arg)
{
	struct own *o = arg;

	return own_fails(o, o->fail_wait) ? -EREMOTEIO : 0;
}

static inline void own_free(void *arg, uint32_t frame, uint32_t order)
{
	struct own *o = arg;

	for (uint32_t i = 0; i < 1u << order; i++)
		if (!atomic_exchange(&o->used[frame + i], 0)) {
			if (!o->loose)
				o->broken = "a frame was freed twice, or was never used";
		} else {
			atomic_fetch_add(&o->freed, 1);
		}
	memset(o->memory + (size_t)frame * PAGE, 0xdd, PAGE << order);
}

static inline void *own_address(void *arg, uint32_t frame)
{
	return ((struct own *)arg)->memory + (size_t)frame * PAGE;
}

static inline void own_invalidated(void *arg, uint64_t start, uint64_t end)
{
	struct own *o = arg;

	(void)start;
	(void)end;
	hang(atomic_exchange(&o->hang_ms, 0));
}

/* Before engine_start(), if a child is to have a copy of its memory. */
static inline struct own *own_make(size_t bytes)
{
	struct own *o = private_memory(PAGE);

	o->frames = (uint32_t)(bytes / PAGE);
	o->memory = private_memory(bytes);
	o->used = private_memory((o->frames + PAGE - 1) & ~(PAGE - 1));
	return o;
}

static inline void own_attach_as(struct own *o, const char *name, unsigned threads, unsigned flags, unsigned stuck_ms)
{
	struct tdm_device_ops ops = { .size = sizeof(ops), .name = name, .copy_in = own_in, .copy_out = own_out, .copy_wait = own_wait, .page_free = own_free,
				      .address = own_address, .invalidated = own_invalidated, .arg = o };
	struct tdm_device_options opts = { .size = sizeof(opts), .memory_bytes = o->frames * PAGE, .process_bytes = o->frames * PAGE, .threads = threads,
					   .flags = flags, .stuck_ms = stuck_ms };
	int r;

	engine_start(0);
	r = tdm_device_attach(engine, &ops, &opts, &o->dev);
	CHECK(r == 0, "tdm_device_attach: %d", r);
}

static inline void own_attach(struct own *o, unsigned threads)
{
	own_attach_as(o, "own", threads, TDM_DEVICE_INHERITED, 0);
}

/* Frames that hold something. */
static inline uint64_t own_used(const struct own *o)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < o->frames; i++)
		n += o->used[i];
	return n;
}

static inline void own_check(const struct own *o, const char *what)
{
	CHECK(!o->broken, "%s: %s", what, (const char *)o->broken);
}

static inline void own_detach(struct own *o, const char *what)
{
	int r = tdm_device_detach(o->dev);

	CHECK(r == 0, "%s: tdm_device_detach: %d", what, r);
	own_check(o, what);
	CHECK(own_used(o) == 0, "%s: %" PRIu64 " frames were never freed", what, own_used(o));
	CHECK(o->loose || o->given == o->freed, "%s: %" PRIu64 " frames were given, %" PRIu64 " freed", what, (uint64_t)o->given, (uint64_t)o->freed);
}

static inline void own_drop(struct own *o)
{
	munmap(o->memory, o->frames * PAGE);
	munmap((void *)(uintptr_t)o->used, (o->frames + PAGE - 1) & ~(PAGE - 1));
	munmap(o, PAGE);
}

#endif
