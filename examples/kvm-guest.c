/* SPDX-License-Identifier: MIT */
/*
 * kvm-guest - a virtual machine whose memory is ordinary memory of this process, of which a quarter may be resident.
 *
 *     kvm-guest [--ram SIZE=256M] [--passes N=3] [--vcpus N=1] [--unmanaged]
 *
 * The guest (kvm-payload.c) has its own MMU, or what KVM makes of one, and knows nothing of us: a page that it touches while it is out makes KVM
 * fault on our address of it, and so the engine is asked for it; a page that is taken from our address is taken out of the guest's tables by
 * the kernel. Nothing is done for that here: the memory is mapped after tdm_start(), and given to KVM. At the end this process, which has
 * not looked before, computes what every page must hold, and compares.
 *
 * Exit status: 0 identical, 1 not, or something went wrong; 2 bad arguments; 77 no KVM here, or no right to it or to manage memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "kvm-guest.h"
#include "tandem/tandem.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define MAX_VCPUS 4u
#define MAX_PASSES 1000u
#define BAD_USAGE 2
#define CANNOT 77

static struct {
	uint64_t ram, passes, vcpus;
	bool unmanaged;
} opt = { .ram = 256 * MIB, .passes = 3, .vcpus = 1 };

struct vcpu {
	pthread_t thread;
	uint64_t id;
	int fd;
	struct kvm_run *run;
	uint64_t sums[MAX_PASSES]; /* as the guest reported them; written by its thread */
	uint64_t halves;           /* how many halves of sums it has reported */
};

static uint8_t *ram;
static struct vcpu vcpus[MAX_VCPUS];

/* The payload; the linker names the ends of a section whose name is a C identifier. */
extern const uint8_t __start_guest[], __stop_guest[];
void guest_main(const struct guest_args *args, uint64_t id);

/* Ends the process, whichever thread finds out: the other vCPUs may be in the guest, and would have to be called back from there. */
static _Noreturn __attribute__((format(printf, 2, 3))) void die(int status, const char *format, ...)
{
	char line[300];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stderr, "kvm-guest: %s\n", line);
	_exit(status);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- the machine --- */

/* No right to something, or not having it, is no failure of ours. */
static int open_vm(int *kvm)
{
	int vm;

	*kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (*kvm < 0)
		die(CANNOT, "/dev/kvm: %s", strerror(errno));
	if (ioctl(*kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		die(CANNOT, "/dev/kvm speaks another version of the interface than %d", KVM_API_VERSION);
	do
		vm = ioctl(*kvm, KVM_CREATE_VM, 0);
	while (vm < 0 && errno == EINTR);
	if (vm < 0)
		die(1, "KVM_CREATE_VM: %s", strerror(errno));
	return vm;
}

/* All of the guest's memory, one to one, in pages of 2 MiB. The tables lie in the guest's memory, and are evicted like everything else. */
static void make_tables(void)
{
	const uint64_t present = 1, writable = 2, user = 4, large = 1 << 7, usable = user | writable | present;
	uint64_t *pml4 = (uint64_t *)(ram + TABLES_AT), *pdpt = pml4 + 512, *pd = pdpt + 512;

	pml4[0] = (TABLES_AT + PAGE) | usable;
	for (uint64_t at = 0; at < opt.ram; at += GIB)
		pdpt[at / GIB] = (TABLES_AT + (2 + at / GIB) * PAGE) | usable;
	for (uint64_t at = 0; at < opt.ram; at += 2 * MIB)
		pd[at / (2 * MIB)] = at | large | usable;
}

static void make_ram(int vm, struct tdm *t)
{
	struct kvm_userspace_memory_region region = { .memory_size = opt.ram };
	struct guest_args args = { .pages = (opt.ram - WORK_AT) / PAGE, .passes = opt.passes, .vcpus = opt.vcpus };
	size_t code = (size_t)(__stop_guest - __start_guest);
	int rc;

	if (code > CODE_MAX)
		die(1, "the payload is larger than its place");
	ram = mmap(NULL, opt.ram, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED)
		die(1, "mmap of the guest's memory: %s", strerror(errno));
	/* There is nothing to bring yet. But a request makes the engine look for new mappings now; left to itself it looks soon, and a guest that
	 * fills its memory at once may be faster, and exceed the budget for a moment. */
	rc = t ? tdm_pagein(t, ram, opt.ram) : 0;
	if (rc)
		die(1, "tdm_pagein: %s", strerror(-rc));
	make_tables();
	memcpy(ram + ARGS_AT, &args, sizeof(args));
	memcpy(ram + CODE_AT, __start_guest, code);
	region.userspace_addr = (uintptr_t)ram;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		die(1, "KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
}

/* The guest may have what the host has. */
static void set_cpuid(int kvm, int fd)
{
	enum { MAX = 256 };
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX * sizeof(c->entries[0]));

	if (!c)
		die(1, "%s", strerror(ENOMEM));
	c->nent = MAX;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c) || ioctl(fd, KVM_SET_CPUID2, c))
		die(1, "the CPUID of the guest: %s", strerror(errno));
	free(c);
}

/*
 * As if a loader had been there: 64-bit long mode, about to execute the first instruction of guest_main(args, id). In ring 3: all that it needs of the
 * machine is its ports, and where KVM has no help from the processor (PVM, in clouds), it interprets such a ring 0, some hundred times slower.
 */
static void set_registers(struct vcpu *v)
{
	struct kvm_sregs s;
	struct kvm_segment code = { .limit = ~0u, .selector = 0x33, .type = 11, .present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = 0x2b, .type = 3, .present = 1, .dpl = 3, .s = 1, .db = 1, .g = 1 };
	struct kvm_regs r = {
		.rip = CODE_AT + (uint64_t)((const uint8_t *)(uintptr_t)guest_main - __start_guest),
		.rdi = ARGS_AT,
		.rsi = v->id,
		.rsp = OWN_AT + (v->id + 1) * OWN_SIZE - 8, /* as after a call */
		.rflags = 3 << 12 | 2,                      /* ring 3 may use ports */
	};

	if (ioctl(v->fd, KVM_GET_SREGS, &s))
		die(1, "KVM_GET_SREGS: %s", strerror(errno));
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr3 = TABLES_AT;
	s.cr4 = 1 << 5;                 /* PAE */
	s.cr0 = 1u << 31 | 1 << 16 | 1; /* PG, WP, PE */
	s.efer = 1 << 8 | 1 << 10;      /* LME, LMA */
	if (ioctl(v->fd, KVM_SET_SREGS, &s) || ioctl(v->fd, KVM_SET_REGS, &r))
		die(1, "the registers of the guest: %s", strerror(errno));
}

static void make_vcpu(int kvm, int vm, struct vcpu *v, uint64_t id)
{
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	v->id = id;
	v->fd = ioctl(vm, KVM_CREATE_VCPU, id);
	if (v->fd < 0)
		die(1, "KVM_CREATE_VCPU: %s", strerror(errno));
	v->run = size > 0 ? mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0) : MAP_FAILED;
	if (v->run == MAP_FAILED)
		die(1, "mmap of the vCPU: %s", strerror(errno));
	set_cpuid(kvm, v->fd);
	set_registers(v);
}

/* --- running it --- */

/* What the guest has written to a port. True: it is done. */
static bool serve_port(struct vcpu *v)
{
	const struct kvm_run *run = v->run;
	uint32_t value;

	if (run->io.direction != KVM_EXIT_IO_OUT || run->io.size != sizeof(value) || run->io.count != 1)
		die(1, "vCPU %u: %u accesses of %u bytes to port %#x, which the payload does not make",
			(unsigned)v->id, run->io.count, run->io.size, run->io.port);
	memcpy(&value, (const uint8_t *)run + run->io.data_offset, sizeof(value));
	switch (run->io.port) {
	case PORT_SUM:
		if (v->halves >= 2 * opt.passes)
			die(1, "vCPU %u: more passes than it was told to make", (unsigned)v->id);
		v->sums[v->halves / 2] |= (uint64_t)value << (v->halves % 2 * 32);
		v->halves++;
		if (v->halves % 2 == 0 && isatty(STDERR_FILENO))
			fprintf(stderr, "vCPU %u: pass %u of %u\n", (unsigned)v->id, (unsigned)v->halves / 2, (unsigned)opt.passes);
		return false;
	case PORT_BAD:
		die(1, "vCPU %u: page %u does not hold what the guest had written there (pass %u)",
			(unsigned)v->id, value, (unsigned)v->halves / 2 + 1);
	case PORT_DONE:
		return true;
	default:
		die(1, "vCPU %u: port %#x, which the payload does not use", (unsigned)v->id, run->io.port);
	}
}

/* The guest has no exception handlers: if a page of it were lost, this is how that would often end. */
static _Noreturn void unexpected(struct vcpu *v)
{
	struct kvm_regs r = { 0 };
	const struct kvm_run *run = v->run;
	char what[80];

	ioctl(v->fd, KVM_GET_REGS, &r);
	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		snprintf(what, sizeof(what), "a triple fault");
		break;
	case KVM_EXIT_MMIO:
		snprintf(what, sizeof(what), "an access to %#llx, where there is no memory", (unsigned long long)run->mmio.phys_addr);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(what, sizeof(what), "the processor refused to enter it, %#llx",
			(unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		snprintf(what, sizeof(what), "KVM gave up, suberror %u", run->internal.suberror);
		break;
	default:
		snprintf(what, sizeof(what), "exit reason %u, which the payload gives no reason for", run->exit_reason);
	}
	die(1, "vCPU %u: %s, at rip %#llx", (unsigned)v->id, what, (unsigned long long)r.rip);
}

static void *run_vcpu(void *arg)
{
	struct vcpu *v = arg;

	for (;;) {
		if (ioctl(v->fd, KVM_RUN, 0)) {
			if (errno == EINTR || errno == EAGAIN)
				continue; /* a signal, or a stop; possibly while KVM waited for a page. It has lost nothing. */
			die(1, "vCPU %u: KVM_RUN: %s", (unsigned)v->id, strerror(errno));
		}
		if (v->run->exit_reason == KVM_EXIT_INTR)
			continue;
		if (v->run->exit_reason != KVM_EXIT_IO)
			unexpected(v);
		if (serve_port(v))
			return NULL;
	}
}

/* --- the check --- */

/* What every page, every sum and every counter must be, computed here, compared with what the guest left and said. Number of differences. */
static uint64_t compare(void)
{
	uint64_t pages = (opt.ram - WORK_AT) / PAGE, bad = 0;
	static uint64_t want[WORDS], sums[MAX_PASSES], counters[WORDS];

	for (uint64_t page = 0; page < pages; page++) {
		page_fill(want, page);
		for (uint64_t pass = 0; pass < opt.passes; pass++) {
			sums[pass] += page_sum(want, page);
			page_change(want, page, pass);
		}
		counters[counter_of(page, opt.vcpus)] += opt.passes;
		if (memcmp(ram + WORK_AT + page * PAGE, want, PAGE) && bad++ < 10)
			fprintf(stderr, "kvm-guest: page %llu differs\n", (unsigned long long)page);
	}
	for (uint64_t pass = 0; pass < opt.passes; pass++) {
		for (uint64_t id = 0; id < opt.vcpus; id++)
			sums[pass] -= vcpus[id].sums[pass];
		if (sums[pass] && bad++ < 10)
			fprintf(stderr, "kvm-guest: the checksum of pass %llu differs\n", (unsigned long long)pass + 1);
	}
	if (memcmp(ram + SHARED_AT, counters, PAGE) && bad++ < 10)
		fprintf(stderr, "kvm-guest: the counters that all vCPUs increment differ\n");
	return bad;
}

static void report(struct tdm *t, double ran, double compared, uint64_t bad)
{
	struct tdm_stats s = { .size = sizeof(s) };
	struct rusage usage;

	printf("guest RAM  %8.1f MiB, vCPUs: %u, passes: %u\n", (double)opt.ram / MIB, (unsigned)opt.vcpus, (unsigned)opt.passes);
	if (t) {
		if (tdm_stats_get(t, &s))
			die(1, "tdm_stats_get failed");
		printf("budget     %8.1f MiB\n", (double)s.budget_bytes / MIB);
		printf("peak       %8.1f MiB\n", (double)s.peak_bytes / MIB);
		printf("faults     %llu from a tier, %llu from home, %llu first touches\n", (unsigned long long)s.hard_faults,
			(unsigned long long)s.soft_faults, (unsigned long long)s.zero_faults);
		printf("evicted    %llu pages; now out: %.1f MiB, packed to %.1f\n", (unsigned long long)s.evicted_pages,
			(double)s.out_bytes / MIB, (double)s.packed_bytes / MIB);
	} else {
		getrusage(RUSAGE_SELF, &usage);
		printf("budget         none\npeak       %8.1f MiB\n", (double)usage.ru_maxrss / 1024);
	}
	printf("time       %8.2f s in the guest, %.2f s to compare\n", ran, compared);
	printf("identical: %s\n", bad ? "no" : "yes");
}

/* --- arguments --- */

static uint64_t number(const char *name, const char *text, uint64_t least, uint64_t most, const char *what)
{
	static const char units[] = "KMG";
	unsigned long long n;
	const char *unit;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	if (unit && !strcmp(name, "--ram")) {
		n = n > most ? most + 1 : n << (10 * (unit - units + 1));
		end++;
	}
	if (text[0] < '0' || text[0] > '9' || *end || errno || n < least || n > most)
		die(BAD_USAGE, "%s %s: must be %s", name, text, what);
	return n;
}

static void parse(char **argv)
{
	while (*++argv) {
		const char *name = *argv;
		bool takes = !strcmp(name, "--ram") || !strcmp(name, "--passes") || !strcmp(name, "--vcpus");

		if (takes && !argv[1])
			die(BAD_USAGE, "%s takes a value", name);
		if (!strcmp(name, "--unmanaged"))
			opt.unmanaged = true;
		else if (!takes)
			die(BAD_USAGE, "%s: use is kvm-guest [--ram SIZE] [--passes N] [--vcpus N] [--unmanaged]", name);
		else if (!strcmp(name, "--ram"))
			/* A quarter of the least is the least budget there is; above the most a PC has devices. */
			opt.ram = number(name, *++argv, 32 * MIB, 3 * GIB, "a size from 32M to 3G");
		else if (!strcmp(name, "--passes"))
			opt.passes = number(name, *++argv, 1, MAX_PASSES, "a number from 1 to 1000");
		else
			opt.vcpus = number(name, *++argv, 1, MAX_VCPUS, "a number from 1 to 4");
	}
	if (opt.ram % (2 * MIB))
		die(BAD_USAGE, "--ram: must be a multiple of 2 MiB");
}

int main(int argc, char **argv)
{
	struct tdm_options options = { .size = sizeof(options) };
	struct tdm *t = NULL;
	double start, ran;
	uint64_t bad;
	char err[256];
	int kvm, vm, rc;

	(void)argc;
	parse(argv);
	vm = open_vm(&kvm);
	options.ram_bytes = opt.ram / 4; /* the guest touches all but some of the first 2 MiB */
	rc = opt.unmanaged ? 0 : tdm_start(&options, &t, err, sizeof(err));
	if (rc)
		die(rc == -EPERM || rc == -EOPNOTSUPP ? CANNOT : 1, "%s", err);
	make_ram(vm, t);
	for (uint64_t id = 0; id < opt.vcpus; id++)
		make_vcpu(kvm, vm, &vcpus[id], id);

	start = seconds();
	for (uint64_t id = 0; id < opt.vcpus; id++)
		if ((rc = pthread_create(&vcpus[id].thread, NULL, run_vcpu, &vcpus[id])))
			die(1, "pthread_create: %s", strerror(rc));
	for (uint64_t id = 0; id < opt.vcpus; id++)
		pthread_join(vcpus[id].thread, NULL);
	ran = seconds() - start;
	bad = compare();
	report(t, ran, seconds() - start - ran, bad);

	/* Not needed at the end of a process. The guest's memory goes first: tdm_stop() would bring all of it back. */
	for (uint64_t id = 0; id < opt.vcpus; id++)
		close(vcpus[id].fd);
	close(vm);
	close(kvm);
	munmap(ram, opt.ram);
	if (t && (rc = tdm_stop(t)))
		die(1, "tdm_stop: %s", strerror(-rc));
	return bad ? 1 : 0;
}
