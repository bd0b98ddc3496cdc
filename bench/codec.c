/* SPDX-License-Identifier: MIT */
/*
 * codec - the blob format against bare lz4 and zstd on the same data, in the same run.
 *
 *   bench-codec [FILE]...
 *
 * Without files: text, machine code, and records as bench.h makes them. Samples 256 blocks of 64 KiB from each.
 * Columns: ratio of compression; microseconds a page to pack and to restore. "restore one": one page, all others left where they are, average
 * over both halves of a pair; "lone": the same page packed and restored by itself. Times are CPU time, the least of the rounds for each
 * block, so that a busy machine disturbs them little.
 */
#include <fcntl.h>
#include <lz4.h>
#include <sys/stat.h>
#include <unistd.h>
#include "bench.h"
#include "pool/codec.h"

#define BLOCK (16 * PAGE)
#define BLOCKS 256u
#define ROUNDS 7

static uint8_t *data;
static unsigned nblocks;
static uint8_t packed[2 * BLOCK] __attribute__((aligned(64))), back[BLOCK] __attribute__((aligned(4096)));
static char lz4_state[1 << 16] __attribute__((aligned(64)));

struct result {
	double ratio, pack, unpack;
};

/* The least time of each block so far. */
static uint64_t pack_ns[BLOCKS], unpack_ns[BLOCKS];

static void begin(void)
{
	memset(pack_ns, 255, sizeof(pack_ns));
	memset(unpack_ns, 255, sizeof(unpack_ns));
}

static void keep(uint64_t *least, uint64_t ns)
{
	if (ns < *least)
		*least = ns;
}

static double us_a_page(const uint64_t *least)
{
	uint64_t sum = 0;

	for (unsigned b = 0; b < nblocks; b++)
		sum += least[b];
	return (double)sum / nblocks / 16e3;
}

/* Bare lz4 in units of `unit` bytes. */
static struct result bare(unsigned unit)
{
	struct result r = { 0 };
	int len[16];

	begin();
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t bytes = 0;

		for (unsigned b = 0; b < nblocks; b++) {
			unsigned at = 0;
			uint64_t t0 = thread_cpu_ns(), t1, t2;

			for (unsigned i = 0; i < BLOCK / unit; i++) {
				len[i] = LZ4_compress_fast_extState(lz4_state, (char *)data + b * BLOCK + i * unit, (char *)packed + at, (int)unit,
								    LZ4_compressBound((int)unit), 1);
				at += (unsigned)len[i];
			}
			t1 = thread_cpu_ns();
			bytes += at;
			at = 0;
			t2 = thread_cpu_ns();
			for (unsigned i = 0; i < BLOCK / unit; i++) {
				if (LZ4_decompress_safe((char *)packed + at, (char *)back + i * unit, len[i], (int)unit) != (int)unit)
					die("lz4");
				at += (unsigned)len[i];
			}
			keep(&unpack_ns[b], thread_cpu_ns() - t2);
			keep(&pack_ns[b], t1 - t0);
		}
		r.ratio = (double)nblocks * BLOCK / (double)bytes;
	}
	r.pack = us_a_page(pack_ns);
	r.unpack = us_a_page(unpack_ns);
	return r;
}

/* Blobs of n pages. */
static struct result blobs(struct tdm_codec_ws *ws, enum tdm_codec codec, unsigned n)
{
	static uint8_t blob[16][TDM_BLOB_MAX];
	struct result r = { 0 };
	struct tdm_blob_info info;

	begin();
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t bytes = 0;

		for (unsigned b = 0; b < nblocks; b++) {
			const void *src[16];
			void *dst[16];
			uint64_t t0;
			uint32_t len[16];

			for (unsigned i = 0; i < 16; i++) {
				src[i] = data + b * BLOCK + i * PAGE;
				dst[i] = back + i * PAGE;
			}
			t0 = thread_cpu_ns();
			for (unsigned i = 0; i < 16 / n; i++) {
				len[i] = tdmi_blob_pack(ws, codec, src + i * n, n, false, blob[i], &info);
				bytes += len[i];
			}
			keep(&pack_ns[b], thread_cpu_ns() - t0);
			t0 = thread_cpu_ns();
			for (unsigned i = 0; i < 16 / n; i++)
				if (tdmi_blob_unpack(ws, blob[i], len[i], (1u << n) - 1, dst + i * n))
					die("unpack");
			keep(&unpack_ns[b], thread_cpu_ns() - t0);
			if (memcmp(back, data + b * BLOCK, BLOCK)) {
				fprintf(stderr, "codec: wrong bytes\n");
				exit(1);
			}
		}
		r.ratio = (double)nblocks * BLOCK / (double)bytes;
	}
	r.pack = us_a_page(pack_ns);
	r.unpack = us_a_page(unpack_ns);
	return r;
}

/* One page of a blob of 16, each in turn. */
static double one(struct tdm_codec_ws *ws, enum tdm_codec codec)
{
	struct tdm_blob_info info;

	begin();
	for (int round = 0; round < ROUNDS; round++) {
		for (unsigned b = 0; b < nblocks; b++) {
			const void *src[16];
			void *dst[16];
			uint64_t t0;
			uint32_t len;

			for (unsigned i = 0; i < 16; i++) {
				src[i] = data + b * BLOCK + i * PAGE;
				dst[i] = back + i * PAGE;
			}
			len = tdmi_blob_pack(ws, codec, src, 16, false, packed, &info);
			t0 = thread_cpu_ns();
			for (unsigned i = 0; i < 16; i++)
				if (tdmi_blob_unpack(ws, packed, len, 1u << i, dst))
					die("unpack");
			keep(&unpack_ns[b], thread_cpu_ns() - t0);
		}
	}
	return us_a_page(unpack_ns);
}

static void show(const char *what, struct result r, struct result base)
{
	printf("  %-22s ratio %6.2f   pack %5.2f us/page (%3.0f%% of lz4's rate)   restore %5.2f us/page (%3.0f%%)\n", what, r.ratio, r.pack,
	       100 * base.pack / r.pack, r.unpack, 100 * base.unpack / r.unpack);
}

static void measure(const char *name, struct tdm_codec_ws *ws)
{
	struct result page = bare(PAGE), block = bare(BLOCK);
	static const struct {
		enum tdm_codec codec;
		const char *name;
	} c[] = { { TDM_CODEC_LZ4, "lz4" }, { TDM_CODEC_ZSTD, "zstd" } };

	printf("%s (%u blocks)\n", name, nblocks);
	show("bare lz4, 4 KiB", page, page);
	show("bare lz4, 64 KiB", block, page);
	for (unsigned i = 0; i < 2; i++) {
		struct result lone = blobs(ws, c[i].codec, 1), full = blobs(ws, c[i].codec, 16);
		double single = one(ws, c[i].codec);
		char what[64];

		snprintf(what, sizeof(what), "%s blobs of 1 page", c[i].name);
		show(what, lone, page);
		snprintf(what, sizeof(what), "%s blobs of 16 pages", c[i].name);
		show(what, full, page);
		printf("  %-22s restore one %.2f us, %.2f times a lone page\n", "", single, single / lone.unpack);
	}
}

static void load_file(const char *name)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint64_t total;

	if (fd < 0 || fstat(fd, &st))
		die(name);
	total = (uint64_t)st.st_size / BLOCK;
	nblocks = total < BLOCKS ? (unsigned)total : BLOCKS;
	for (unsigned i = 0; i < nblocks; i++)
		if (pread(fd, data + i * BLOCK, BLOCK, (off_t)(i * total / nblocks * BLOCK)) != (ssize_t)BLOCK)
			die(name);
	close(fd);
}

static void load_command(const char *cmd)
{
	FILE *f = popen(cmd, "r");

	nblocks = f ? (unsigned)(fread(data, 1, BLOCKS * BLOCK, f) / BLOCK) : 0;
	if (f)
		pclose(f);
}

int main(int argc, char **argv)
{
	struct tdm_codec_ws *ws = tdmi_codec_ws_create();

	data = aligned_alloc(PAGE, BLOCKS * BLOCK);
	if (!data || !ws)
		die("memory");
	for (int i = 1; i < argc; i++) {
		load_file(argv[i]);
		measure(argv[i], ws);
	}
	if (argc > 1)
		return 0;
	load_command("cat /usr/share/doc/*/copyright /usr/include/*.h 2>/dev/null");
	measure("text", ws);
	load_command("cat /usr/bin/[a-m]* 2>/dev/null");
	measure("programs", ws);
	nblocks = BLOCKS;
	for (uint64_t p = 0; p < BLOCKS * 16; p++)
		for (unsigned i = 0; i < WORDS; i++) {
			uint64_t w = data_word(p, i);

			memcpy(data + p * PAGE + i * 8, &w, 8);
		}
	measure("records", ws);
	return 0;
}
