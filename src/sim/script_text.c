/* SPDX-License-Identifier: MIT */
/* script_text.c - operations as text; see script.h. */
#include <stdio.h>
#include <string.h>
#include "base/err.h"
#include "sim/script.h"
#include "sim/text.h"

const struct tdm_op_desc tdm_op_table[TDM_DO_NR] = {
	[TDM_DO_MMAP] = { "mmap", "pgnR" },
	[TDM_DO_MMAP_SHARED] = { "mmap-shared", "pgnRso" },
	[TDM_DO_MMAP_DEVICE] = { "mmap-device", "pgnRbo" },
	[TDM_DO_MUNMAP] = { "munmap", "pgn" },
	[TDM_DO_MPROTECT] = { "mprotect", "pgnR" },
	[TDM_DO_MREMAP] = { "mremap", "pggn" },
	[TDM_DO_DONTNEED] = { "dontneed", "pgn" },
	[TDM_DO_FREE] = { "free", "pgn" },
	[TDM_DO_CLEAR_SOFT_DIRTY] = { "clear-soft-dirty", "pgn" },
	[TDM_DO_FORK] = { "fork", "pp" },
	[TDM_DO_EXIT] = { "exit", "p" },
	[TDM_DO_SPAWN] = { "spawn", "p" },
	[TDM_DO_READ] = { "read", "pcgn" },
	[TDM_DO_WRITE] = { "write", "pcgnv" },
	[TDM_DO_IDLE] = { "idle", "c" },
	[TDM_DO_DMA_READ] = { "dma-read", "pdgn" },
	[TDM_DO_DMA_WRITE] = { "dma-write", "pdgnv" },
	[TDM_DO_UNBIND] = { "unbind", "p" },
	[TDM_DO_GUEST] = { "guest", "pgn" },
	[TDM_DO_GUEST_READ] = { "guest-read", "pgn" },
	[TDM_DO_GUEST_WRITE] = { "guest-write", "pgnv" },
	[TDM_DO_GUEST_END] = { "guest-end", "p" },
	[TDM_DO_PIN] = { "pin", "pgik" },
	[TDM_DO_UNPIN] = { "unpin", "i" },
	[TDM_DO_PIN_READ] = { "pin-read", "i" },
	[TDM_DO_PIN_WRITE] = { "pin-write", "iv" },
	[TDM_DO_MIGRATE] = { "migrate", "pgnw" },
	[TDM_DO_EVICT] = { "evict", "##" },
	[TDM_DO_AGE] = { "age", "" },
	[TDM_DO_INSERT] = { "insert", "pgn" },
	[TDM_DO_COLLAPSE] = { "collapse", "pgn" },
	[TDM_DO_MOVE] = { "move", "b" },
	[TDM_DO_DROP] = { "drop", "s" },
	[TDM_DO_FAIL] = { "fail", "f#" },
	[TDM_DO_RAM] = { "ram", "#" },
};

/* What a letter stands for: so many of it, with a letter before the number; or words. */
struct kind {
	char letter, prefix;
	u64 n;
	const char *what;
	const char *const *words;
};

static const char *const rights_words[] = { "none", "r", "rw", NULL };
static const char *const pin_words[] = { "read", "write", "long-read", "long-write", NULL };
static const char *const where_words[] = { "ram", "coherent", NULL };
static const char *const fail_words[] = { "memory", "page", "put", "get", NULL };

static const struct kind kinds[] = {
	{ 'p', 'p', TDM_SCRIPT_PROCESSES, "a process", NULL },
	{ 'c', 'c', 256, "a CPU", NULL },
	{ 'd', 'd', 8, "a device", NULL },
	{ 's', 's', TDM_SCRIPT_SHARED, "shared memory", NULL },
	{ 'b', 'b', TDM_SCRIPT_BUFFERS, "a buffer", NULL },
	{ 'i', 'i', TDM_SCRIPT_PINS, "a pin", NULL },
	{ 'g', 0, TDM_SCRIPT_PAGES, "a page", NULL },
	{ 'o', 0, TDM_SCRIPT_BUFFER_PAGES, "a page of the memory", NULL },
	{ 'n', 0, TDM_SCRIPT_PAGES + 1, "a number of pages", NULL },
	{ 'v', 0, (u64)1 << 32, "a value", NULL },
	{ '#', 0, 1000001, "a number", NULL },
	{ 'R', 0, 0, "rights", rights_words },
	{ 'k', 0, 0, "a kind of pin", pin_words },
	{ 'w', 0, 0, "where to", where_words },
	{ 'f', 0, 0, "what fails", fail_words },
};

static const struct kind *kind_of(char letter)
{
	const struct kind *k = kinds;

	while (k->letter != letter)
		k++;
	return k;
}

const char *const *tdmi_op_words(char letter)
{
	return kind_of(letter)->words;
}

static bool parse_number(const char *w, u64 n, u32 *out)
{
	u64 v = 0;

	if (!*w || strlen(w) > 10)
		return false;
	for (; *w; w++) {
		if (*w < '0' || *w > '9')
			return false;
		v = v * 10 + (u64)(*w - '0');
	}
	*out = (u32)v;
	return v < n;
}

static bool parse_arg(const struct kind *k, const char *w, u32 *out)
{
	for (u32 i = 0; k->words && k->words[i]; i++)
		if (!strcmp(w, k->words[i])) {
			*out = i;
			return true;
		}
	if (k->words || (k->prefix && *w != k->prefix))
		return false;
	return parse_number(k->prefix ? w + 1 : w, k->n, out);
}

/* What parse_arg() takes. */
static const char *expected(const struct kind *k, char *out, size_t len)
{
	size_t n = 0;

	*out = 0;
	for (u32 i = 0; k->words && k->words[i] && n < len; i++)
		n += (size_t)snprintf(out + n, len - n, "%s%s", i ? k->words[i + 1] ? ", " : " or " : "", k->words[i]);
	if (!k->words && k->prefix)
		snprintf(out, len, "%c0 to %c%u", k->prefix, k->prefix, (u32)k->n - 1);
	else if (!k->words)
		snprintf(out, len, "%u to %u", k->letter == 'n', (u32)(k->n - 1));
	return out;
}

int tdmi_op_parse(struct tdm_op *op, char *line, char *err, size_t len)
{
	char *name = tdmi_text_word(&line), *w, list[80];
	const char *args;

	*op = (struct tdm_op){ 0 };
	while (op->what < TDM_DO_NR && (!name || strcmp(name, tdm_op_table[op->what].name)))
		op->what++;
	if (op->what == TDM_DO_NR) {
		snprintf(err, len, "there is no operation '%s'; expected one of those that docs/sim.md lists, as 'mmap p0 0 4 rw'", name ? name : "");
		return -EINVAL;
	}
	args = tdm_op_table[op->what].args;
	for (u32 i = 0; args[i]; i++) {
		const struct kind *k = kind_of(args[i]);

		w = tdmi_text_word(&line);
		if (!w || !parse_arg(k, w, &op->arg[i])) {
			snprintf(err, len, "%s: expected %s (%s) as word %u, not '%s'", name, k->what, expected(k, list, sizeof(list)), i + 2, w ? w : "");
			return -EINVAL;
		}
	}
	if ((w = tdmi_text_word(&line))) {
		snprintf(err, len, "%s: expected nothing behind its %zu words, not '%s'", name, strlen(args) + 1, w);
		return -EINVAL;
	}
	return tdmi_op_check(op, err, len);
}

const char *tdmi_op_print(const struct tdm_op *op, char out[96])
{
	const struct tdm_op_desc *d = &tdm_op_table[op->what];
	int n = snprintf(out, 96, "%s", d->name);

	for (u32 i = 0; d->args[i] && n < 96; i++) {
		const struct kind *k = kind_of(d->args[i]);

		if (k->words)
			n += snprintf(out + n, 96 - (size_t)n, " %s", k->words[op->arg[i]]);
		else if (k->prefix)
			n += snprintf(out + n, 96 - (size_t)n, " %c%u", k->prefix, op->arg[i]);
		else
			n += snprintf(out + n, 96 - (size_t)n, " %u", op->arg[i]);
	}
	return out;
}

int tdmi_op_check(const struct tdm_op *op, char *err, size_t len)
{
	const struct tdm_op_desc *d = &tdm_op_table[op->what];
	const char *n = strchr(d->args, 'n'), *o = strchr(d->args, 'o');
	u32 pages = n ? op->arg[n - d->args] : 1, most = strchr(d->args, 's') ? TDM_SCRIPT_SHARED_PAGES : TDM_SCRIPT_BUFFER_PAGES;

	if (!pages) {
		snprintf(err, len, "%s: of no pages", d->name);
		return -EINVAL;
	}
	for (u32 i = 0; d->args[i]; i++)
		if (d->args[i] == 'g' && op->arg[i] + pages > TDM_SCRIPT_PAGES) {
			snprintf(err, len, "%s: %u pages from page %u on: there are %u", d->name, pages, op->arg[i], TDM_SCRIPT_PAGES);
			return -EINVAL;
		}
	if (o && op->arg[o - d->args] + pages > most) {
		snprintf(err, len, "%s: %u pages from its page %u on: it has %u", d->name, pages, op->arg[o - d->args], most);
		return -EINVAL;
	}
	return 0;
}
