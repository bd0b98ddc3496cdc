/* SPDX-License-Identifier: MIT */
/*
 * soft.c - the device of <tandem/soft.h>.
 *
 * Its memory is plain memory of the process that the engine leaves alone, so that a child of a fork has a copy of it. Migration copies it, and takes as long
 * as the bus says: each copy begins when the bus is free, and is over, for who waits for it, when its bytes have gone over. Memory that several processes share
 * (shared.c) is mapped by all of them; each has its own bus.
 */
#include <emmintrin.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <tandem/soft.h>
#include "plat/plat.h"
#include "soft/shared.h"

struct tdm_soft {
	struct tdm *engine;
	struct tdm_device *dev;
	void *map;
	size_t maplen;
	uint8_t *memory; /* within it, 2 MiB-aligned */
	size_t len;
	void *share;     /* or NULL; within it, too */
	unsigned threads;
	uint64_t bus_bytes;
	tdm_a64 bus_free_ns; /* when it has carried what it has been given */
};

static uint8_t *frame_at(const struct tdm_soft *s, uint32_t frame)
{
	return s->memory + ((size_t)frame << TDM_PAGE_SHIFT);
}

/* The bus carries so many bytes; wait until it has. */
static void carry(struct tdm_soft *s, size_t bytes)
{
	uint64_t took, now, end, was;
	tdm_a32 never = { 0 };

	if (!s->bus_bytes)
		return;
	took = (uint64_t)((double)bytes * 1e9 / (double)s->bus_bytes);
	was = tdm_a64_ld_relaxed(&s->bus_free_ns);
	do {
		now = plat_now_ns();
		end = (was > now ? was : now) + took;
	} while (!tdm_a64_cas_acqrel(&s->bus_free_ns, &was, end));
	while ((now = plat_now_ns()) < end)
		if (end - now > 50000)
			(void)plat_wait(&never, 0, end - now);
		else
			plat_relax();
}

/* Past the caches, as a device's copies go: what is large would only drive out what is in there. */
static void copy(uint8_t *dst, const uint8_t *src, size_t pages, size_t large)
{
	if (pages < large) {
		memcpy(dst, src, pages << TDM_PAGE_SHIFT);
		return;
	}
	for (size_t i = 0; i < pages << TDM_PAGE_SHIFT; i += 64) {
		__m128i a = _mm_load_si128((const __m128i *)(const void *)(src + i)), b = _mm_load_si128((const __m128i *)(const void *)(src + i + 16));
		__m128i c = _mm_load_si128((const __m128i *)(const void *)(src + i + 32)), d = _mm_load_si128((const __m128i *)(const void *)(src + i + 48));

		_mm_prefetch((const char *)(src + i + 512), _MM_HINT_NTA);
		_mm_stream_si128((__m128i *)(void *)(dst + i), a);
		_mm_stream_si128((__m128i *)(void *)(dst + i + 16), b);
		_mm_stream_si128((__m128i *)(void *)(dst + i + 32), c);
		_mm_stream_si128((__m128i *)(void *)(dst + i + 48), d);
	}
	_mm_sfence();
}

static int copy_in(void *arg, uint32_t frame, const void *src, uint32_t pages)
{
	struct tdm_soft *s = arg;

	copy(frame_at(s, frame), src, pages, TDM_BLOCK_PAGES);
	carry(s, (size_t)pages << TDM_PAGE_SHIFT);
	return 0;
}

static int copy_out(void *arg, void *dst, uint32_t frame, uint32_t pages)
{
	struct tdm_soft *s = arg;

	/* A block that was touched is about to be used. */
	copy(dst, frame_at(s, frame), pages, 2 * TDM_BLOCK_PAGES);
	carry(s, (size_t)pages << TDM_PAGE_SHIFT);
	return 0;
}

static void *address(void *arg, uint32_t frame)
{
	return frame_at(arg, frame);
}

/* What another process uses now is not to count as resident here. */
static void chunk(void *arg, uint32_t frame, int here)
{
	if (!here)
		madvise(frame_at(arg, frame), TDM_HUGE_SIZE, MADV_DONTNEED);
}

/* Memory of its own, that reads as zeros. */
static int map_own(struct tdm_soft *s, struct tdm *t)
{
	int r;

	/* In large pages, if there are any, as an accelerator's is. */
	madvise(s->memory, s->len, MADV_HUGEPAGE);
	r = tdm_exclude(t, s->memory, s->len);
	if (!r)
		memset(s->memory, 0, s->len);
	return r;
}

static int map_shared(struct tdm_soft *s, struct tdm *t, int fd)
{
	int r = tdmi_soft_share_map(fd, s->memory, s->len);

	if (r)
		return r;
	s->share = s->memory;
	s->memory += TDM_SOFT_SHARE_BYTES;
	return tdm_exclude(t, s->share, TDM_SOFT_SHARE_BYTES + s->len);
}

static int make(struct tdm_soft *s, struct tdm *t, const struct tdm_soft_options *o)
{
	const struct tdm_device_ops ops = { .size = sizeof(ops), .name = "soft", .copy_in = copy_in, .copy_out = copy_out, .address = address, .chunk = chunk,
					    .arg = s };
	struct tdm_device_options options = { .size = sizeof(options), .memory_bytes = o->memory_bytes, .process_bytes = o->memory_bytes,
					      .threads = s->threads,
					      .flags = o->flags | (o->share_fd ? 0 : TDM_DEVICE_INHERITED) | (o->bus_bytes ? TDM_DEVICE_SLOW : 0) };
	int r;

	s->engine = t;
	s->len = o->memory_bytes;
	s->bus_bytes = o->bus_bytes;
	s->maplen = s->len + TDM_HUGE_SIZE + (o->share_fd ? TDM_SOFT_SHARE_BYTES : 0);
	s->map = mmap(NULL, s->maplen, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->map == MAP_FAILED)
		return -ENOMEM;
	s->memory = (uint8_t *)TDM_ALIGN_UP((uintptr_t)s->map, TDM_HUGE_SIZE);
	r = o->share_fd ? map_shared(s, t, o->share_fd) : map_own(s, t);
	options.share = s->share;
	r = r ? r : tdm_device_attach(t, &ops, &options, &s->dev);
	if (r)
		munmap(s->map, s->maplen);
	return r;
}

int tdm_soft_create(struct tdm *t, const struct tdm_soft_options *o, struct tdm_soft **out)
{
	struct tdm_soft *s;
	int r;

	if (!o || o->size != sizeof(*o) || !out || !o->memory_bytes || o->memory_bytes % TDM_HUGE_SIZE || o->flags & ~TDM_DEVICE_WRITE_AHEAD)
		return -EINVAL;
	/* A page that the engine leaves alone: the library's threads use it. */
	s = mmap(NULL, TDM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return -ENOMEM;
	r = tdm_exclude(t, s, TDM_PAGE_SIZE);
	s->threads = o->threads ? o->threads : 1;
	r = r ? r : make(s, t, o);
	if (r)
		munmap(s, TDM_PAGE_SIZE);
	else
		*out = s;
	return r;
}

int tdm_soft_destroy(struct tdm_soft *s)
{
	int r = s ? tdm_device_detach(s->dev) : -EINVAL;

	if (r)
		return r;
	munmap(s->map, s->maplen);
	munmap(s, TDM_PAGE_SIZE);
	return 0;
}

struct tdm_device *tdm_soft_device(struct tdm_soft *s)
{
	return s->dev;
}

/* ---- kernels ---------------------------------------------------------------------------------------------------------------------------- */

struct launch {
	void (*fn)(struct tdm_device_thread *t, void *arg, size_t i);
	void *arg;
	size_t n;
	tdm_a64 next;
};

static void run(struct tdm_device_thread *t, void *arg)
{
	struct launch *l = arg;
	size_t i;

	while ((i = tdm_a64_add_acqrel(&l->next, 1)) < l->n)
		l->fn(t, l->arg, i);
}

int tdm_soft_launch(struct tdm_soft *s, void (*fn)(struct tdm_device_thread *t, void *arg, size_t i), void *arg, size_t n)
{
	struct launch l = { .fn = fn, .arg = arg, .n = n };
	struct tdm_device_run *runs[16];
	unsigned started = 0;
	int r = s && fn ? 0 : -EINVAL;

	while (!r && started < s->threads) {
		r = tdm_device_run(s->dev, run, &l, &runs[started]);
		started += !r;
	}
	for (unsigned i = 0; i < started; i++)
		(void)tdm_device_wait(s->dev, runs[i]);
	return r;
}
