/* SPDX-License-Identifier: MIT */
/*
 * iommu.h - the iommu port: devices that walk the page tables of address spaces (shared virtual addressing).
 *
 * A PASID names an address space. A device gives one with each access; the IOMMU looks into its IOTLB, else walks the space's own table. A device with address
 * translation services (ATS) asks for translations and keeps them in a cache of its own, the ATC. Neither cache is seen by the memory management: what it
 * changes it must announce, and the iommu, a notifier of the space, puts commands into the invalidation queue and waits until the hardware has carried them
 * out.
 *
 * What becomes of an access whose walk ends in a fault (enum tdm_fault_model):
 *   none    it is aborted. Whoever wants to use such a device pins the memory first.
 *   stall   the IOMMU holds it, under a tag, and tells the software, which answers RETRY or ABORT. On RETRY the hardware walks again, by itself.
 *   PRI     the device is told that there is no translation. It posts page requests, several with one group index, of which the last is flagged. The group
 *           gets one response: SUCCESS, INVALID (do not try again) or FAILURE (nor ask for anything any more). After SUCCESS the device makes a new
 *           translation request.
 *
 * Nothing keeps the page between a response and the next walk: it may have gone again, and so for ever. What guarantees progress is a policy of the software
 * (pin_after): once a page was asked for too often by one transaction it is pinned until the transaction is over. A pin keeps the page, not its accessed bit:
 * without hardware access flags (TDM_WALK_HW_A) a page that is aged between each answer and the walk after it still faults, pinned or not. So it takes, besides,
 * that nobody ages pinned pages (mm/vmscan.c does not), or not as often as they are walked.
 *
 * The accessed bit is set by walks. As long as a translation is in an IOTLB or ATC nobody walks: whoever clears A and announces nothing does not see the page used
 * again before it drops out of those caches. Whoever invalidates it, too, does.
 *
 * Steps. It is a state machine. A device does one thing in tdmi_iommu_dev_step(), the software one in tdmi_iommu_handler_step(); anything may come between two
 * steps, reclaim for one. Devices have clocks of their own; the software's is that of the CPU that it runs on (tdm_iommu_ops.clock). All times are cycles of
 * one machine-wide clock. Whoever steps them lets those go first whose clocks are behind: tdmi_iommu_dev_next(), tdmi_iommu_handler_next().
 *
 * Who may call what when. One thread. The ops may call into the engine, which may call the iommu's notifier: so the notifier's functions run inside a handler
 * step, or inside the end of a transaction (unpin). They touch the IOTLB, the ATCs, the invalidation queue and translations that transactions hold, and nothing
 * else. Hence:
 *   - no pointer to, or into, any of these is kept across a call of ops;
 *   - while an op runs nothing of this file is called but the notifier's functions and tdmi_iommu_snoop(): not bind, unbind, attach, submit, nor a step. The
 *     release of a space by its notifiers is teardown, and does not come from there either. That is checked.
 *   - tables may be locked in the notifier's functions: they sleep for nothing, and take no lock.
 */
#ifndef TDM_PORT_IOMMU_H
#define TDM_PORT_IOMMU_H

#include "base/list.h"
#include "mm/space.h"
#include "port/tlb.h"
#include "port/walk.h"

#define TDM_PASID_BITS 20u
#define TDM_PASIDS ((u32)1 << TDM_PASID_BITS)
#define TDM_IOMMU_DEVS_MAX 64u
#define TDM_PRG_MAX 32u             /* requests of a group */
#define TDM_PRG_INDEXES 512u        /* group indexes of a device */
#define TDM_DMA_MAX ((u32)256 << 10) /* bytes of a transaction */
#define TDM_DMA_PAGES (TDM_DMA_MAX / 4096u + 1)
#define TDM_INV_SPLIT_MAX 32u
#define TDM_DMA_DEPTH_MAX 32u       /* transactions that a device works on at a time */

/* ---- what it costs: cycles ------------------------------------------------------------------------------------------------------ */

struct tdm_iommu_cost {
	u32 iotlb_hit;        /* a look into the IOTLB */
	u32 walk_read;        /* an entry that a walk reads */
	u32 atc_hit;          /* a look into the ATC */
	u32 ats_round_trip;   /* device to IOMMU and back, besides the look and the walk */
	u32 dma_unit;         /* moving one unit (tdm_iommu_dev_config.unit) */
	u32 request_post;     /* the device posts one page request */
	u32 event;            /* from a request, or a stall, in the queue to software that looks at it: interrupt, wake-up */
	u32 handler;          /* the software's own work for a request or stall, without the engine's */
	u32 response;         /* from the software's answer to its arrival at the device, or to the walk after a resume */
	u32 queue_submit;     /* software writes one command */
	u32 queue_command;    /* hardware fetches and executes one */
	u32 atc_invalidate;   /* a device's answer to an invalidation: commands behind it do not wait, a sync does */
	u32 atc_timeout;      /* the same of a device that does not answer */
	u32 sync;             /* a sync, when all before it is done */
};

/* ---- what it counts --------------------------------------------------------------------------------------------------------------- */

enum tdm_iommu_count {
	TDM_IC_ATS_REQUESTS,      /* translation requests of ATCs */
	TDM_IC_IOTLB_HITS,        /* of those, and of accesses without ATS */
	TDM_IC_WALKS, TDM_IC_WALK_READS, TDM_IC_SET_A, TDM_IC_SET_D,
	TDM_IC_FAULT_ABSENT, TDM_IC_FAULT_DENIED, TDM_IC_FAULT_ACCESS, TDM_IC_FAULT_DIRTY, /* walks that ended so */
	TDM_IC_REFUSED,           /* translations for a PASID that the device has not, or that is dead */
	TDM_IC_INVALIDATES,       /* calls by notifiers */
	TDM_IC_SNOOPED,           /* CPU broadcasts that reached the IOTLB */
	TDM_IC_CMD_IOTLB, TDM_IC_CMD_ATC, TDM_IC_CMD_SYNC,
	TDM_IC_CMD_WHOLE,         /* commands for all of a PASID */
	TDM_IC_QUEUE_FULL,        /* software waited for room */
	TDM_IC_SYNC_CYCLES,       /* software waited for syncs */
	TDM_IC_PAGES_ASKED, TDM_IC_PAGES_OVER, /* in commands that are not for a whole PASID: pages that had changed, and those besides */
	TDM_IC_ENTRIES, TDM_IC_ENTRIES_OVER,   /* IOTLB and ATC entries that were dropped; of these: for nothing */
	TDM_IC_ATC_TIMEOUTS,
	TDM_IC_PAGE_REQUESTS, TDM_IC_GROUPS, /* posted */
	TDM_IC_REQUESTS_REFUSED,  /* for a dead PASID: answered INVALID by hardware */
	TDM_IC_QUEUE_OVERFLOWS,   /* requests that found the queue full */
	TDM_IC_AUTO_RESPONSES,    /* groups whose last request was dropped: answered SUCCESS by hardware */
	TDM_IC_PARTIAL_DISCARDED, /* requests of groups of which something was lost */
	TDM_IC_STOP_MARKERS,
	TDM_IC_RESP_SUCCESS, TDM_IC_RESP_INVALID, TDM_IC_RESP_FAILURE,
	TDM_IC_RESP_REFUSED,      /* for a group that waits for none */
	TDM_IC_STALLS, TDM_IC_STALLS_FULL, /* the latter: accesses that waited for a tag */
	TDM_IC_RESUME_RETRY, TDM_IC_RESUME_ABORT, TDM_IC_RESUME_REFUSED,
	TDM_IC_RETRIES,           /* walks after an answer RETRY or SUCCESS that found no translation again */
	TDM_IC_RETRIES_MOST,      /* of one page of one transaction */
	TDM_IC_NO_MEMORY,         /* faults that were answered "ask again" because there was none */
	TDM_IC_PINS, TDM_IC_PINS_FAILED,
	TDM_IC_DRAINED,           /* requests and stalls that teardown found */
	TDM_IC_NR,
};

extern const char *const tdm_iommu_count_names[TDM_IC_NR];

/* ---- the iommu ---------------------------------------------------------------------------------------------------------------------- */

struct tdm_iommu;
struct tdm_iommu_dev;
struct tdm_dma;

/* What the software side is made of. Called outside of RCU sections, with no lock. */
struct tdm_iommu_ops {
	/* The clock of the CPU that runs the software now; the iommu moves it on. NULL: the iommu has one (soft_clock). */
	u64 *(*clock)(void *arg);
	/* tdmi_space_fault(), and its errors. */
	int (*fault)(void *arg, struct tdm_space *s, u64 va, bool write);
	/* Fault the page in and pin it for long. 0, or -errno: it is not pinned. Both NULL: there are no pins. */
	int (*pin)(void *arg, struct tdm_space *s, u64 va, bool write, struct tdm_pfn *pfn);
	/* The transaction is over. */
	void (*unpin)(void *arg, struct tdm_space *s, u64 va, struct tdm_pfn pfn, bool write);
};

struct tdm_iommu_config {
	u32 walk;             /* TDM_WALK_HW_A | TDM_WALK_HW_D: hardware access flags; 0: each A=0, and each write to D=0, is a fault */
	/* Broadcast invalidations of the CPUs reach the IOTLB (tdmi_iommu_snoop()), so that only ATCs need commands for what was broadcast before they are told. */
	bool snoop;
	u64 page_sizes;       /* mask of leaves that the IOTLB caches */
	struct tdm_tlb_config iotlb;
	u32 queue;            /* commands that the invalidation queue holds, a power of two */
	/* 1 to TDM_INV_SPLIT_MAX: a range becomes at most so many commands of naturally aligned powers of two that cover just it; if that is not enough, one that covers
	 * more. */
	u32 split;
	u32 whole_pages;      /* a longer range: all of the PASID. 0: no limit */
	bool sync_each;       /* a sync behind each command, not one behind all of a range */
	u32 requests;         /* page requests that the queue holds, a power of two */
	u32 stalls;           /* accesses that may be held; 0: no device may stall */
	u32 pin_after;        /* pin a page that one transaction has asked for so often; 0: never */
	struct tdm_iommu_cost cost;
};

/* A PASID that is in use. */
struct tdm_pasid {
	struct tdm_iommu *it;
	struct tdm_space *s;      /* NULL: it has been released */
	u32 pasid;
	bool dead;                /* nothing is translated any more */
	u64 devs;                 /* attached: a bit each */
	u64 heard_start, heard_end; /* the last broadcast, as long as the IOTLB has learned nothing since */
	struct tdm_notifier n;
	struct tdm_list link;     /* in it->bound */
};

struct tdm_inv_cmd;
struct tdm_page_request;
struct tdm_stall;

/* The invalidation queue. Positions only grow; the slot is the position modulo the size. */
struct tdm_invq {
	struct tdm_inv_cmd *ring;
	u64 prod, cons;
	u64 hw;                   /* when the hardware is through with what it has consumed */
	u64 answered;             /* when the last ATC will have answered */
};

/* What the software is at. */
struct tdm_iommu_work {
	enum { TDM_IOW_NOTHING, TDM_IOW_GROUP, TDM_IOW_STALL } what;
	struct tdm_iommu_dev *dev;
	u32 pasid, group;         /* of a stall: its tag */
	u32 n, i;                 /* requests, and which is next */
	int err;                  /* the first */
	bool stranger;            /* the device has not got this PASID */
	struct { u64 va; bool write; } req[TDM_PRG_MAX];
};

struct tdm_iommu {
	struct tdm_iommu_config config;
	const struct tdm_iommu_ops *ops;
	void *arg;
	struct tdm_phys *phys;
	struct tdm_rcu_reader *reader;
	struct tdm_alloc *alloc;
	u64 soft_clock;
	bool in_op;               /* see above */
	struct tdm_tlb iotlb;
	struct tdm_pasid **dir[1024]; /* by the upper 10 bits of a PASID: 1024 of the lower */
	struct tdm_list bound;
	struct tdm_iommu_dev *dev[TDM_IOMMU_DEVS_MAX];
	u64 ats_devs;             /* those that have an ATC: a bit each */
	struct tdm_invq q;
	struct tdm_page_request *prq; /* config.requests; positions as above */
	u64 prq_prod, prq_cons;
	bool prq_overflow;
	struct tdm_page_request *parked; /* of groups whose last has not come; as many as prq */
	u32 nparked;
	struct tdm_stall *stall;  /* config.stalls */
	u32 nstalled;
	u64 stall_seq;
	struct tdm_iommu_work work;
	u64 count[TDM_IC_NR];
};

/* reader: of the RCU domain of every space that will be bound; the calling thread's. -EINVAL: config; -ENOMEM. What is passed must live as long as the iommu. */
int tdmi_iommu_init(struct tdm_iommu *it, const struct tdm_iommu_config *config, const struct tdm_iommu_ops *ops, void *arg, struct tdm_phys *phys,
		    struct tdm_rcu_reader *reader, struct tdm_alloc *alloc);
/* No PASID is bound, no device is there. */
void tdmi_iommu_destroy(struct tdm_iommu *it);

/* pasid means s from now on: [1, TDM_PASIDS), or -EINVAL. -EEXIST: it means something; -ESRCH: the space has been released; -ENOMEM. No lock is held. The
 * first notifier of a space in use needs tdmi_notifiers_arm() before (mm/notifier.h). */
int tdmi_iommu_bind(struct tdm_iommu *it, u32 pasid, struct tdm_space *s);
/*
 * Teardown: when it returns nothing anywhere refers to the PASID. Transactions of it end with -ECANCELED; devices stop, with a stop marker or by waiting for
 * their responses; page requests and stalls are drained, IOTLB and ATCs invalidated. Releasing the space's notifiers does all that, too, but the PASID remains,
 * dead, until it is unbound; they must remain as long, so it comes before tdmi_space_destroy(). -ENOENT: it is not bound. No lock is held.
 */
int tdmi_iommu_unbind(struct tdm_iommu *it, u32 pasid);

/* A broadcast of the CPUs: of what they flush of s. Without config.snoop the iommu does not hear it. end ~0: all. Tables may be locked. */
void tdmi_iommu_snoop(struct tdm_iommu *it, struct tdm_space *s, u64 start, u64 end);
/* Does the IOTLB, an ATC or a transaction have a translation of va? For tests and for judging policies: no hardware says so. */
bool tdmi_iommu_caches(struct tdm_iommu *it, const struct tdm_space *s, u64 va);

static inline u64 tdm_iommu_counted(const struct tdm_iommu *it, enum tdm_iommu_count c)
{
	return it->count[c];
}

/* ---- the invalidation queue (iommu_queue.c) ------------------------------------------------------------------------------------------- */

/* Commands for [start, end) of a PASID, end ~0: all of it, to the IOTLB and then to the ATCs of `devs` (a bit each). Nothing is certain before a sync. */
void tdmi_iommu_invalidate(struct tdm_iommu *it, u32 pasid, u64 start, u64 end, bool iotlb, u64 devs);
/* Wait until the hardware has carried out everything in the queue. */
void tdmi_iommu_sync(struct tdm_iommu *it);
/* The hardware carries out at most n commands. How many. It need not be called: a sync, or a full queue, makes it go on. */
u32 tdmi_iommu_queue_run(struct tdm_iommu *it, u32 n);

/* ---- devices (iommu_dev.c) ------------------------------------------------------------------------------------------------------------ */

enum tdm_fault_model { TDM_FAULTS_ABORT, TDM_FAULTS_STALL, TDM_FAULTS_PRI };

struct tdm_iommu_dev_config {
	const char *name;
	enum tdm_fault_model fault; /* STALL: without ATS, as a translation request cannot be held; PRI: with it */
	bool ats;
	struct tdm_tlb_config atc;  /* with ats */
	u64 page_sizes;             /* that the ATC caches: a mask with 4 KiB; with ats */
	/* Whatever it wants to do, it asks for a translation that can be written: fewer requests, and pages that a fork has made read-only are copied. */
	bool asks_write;
	u32 unit;                   /* bytes that an access moves: 64 to 256, a power of two */
	u32 burst;                  /* bytes that a step moves at most: a multiple of unit, up to 4096 */
	u32 depth;                  /* transactions that it works on at a time, 1 to TDM_DMA_DEPTH_MAX */
	/* Page requests in a group at most, 1 to TDM_PRG_MAX: it asks for what the transaction needs next, too. A group that is larger than the queue never gets
	 * through. */
	u32 group;
	u32 credit;                 /* page requests that may be without a response; >= 1, with PRI */
	u32 give_up;                /* retries of one page after which it aborts; 0: never */
	bool stop_marker;           /* how it stops using a PASID: it leaves its requests behind, and a marker; or it waits for the responses */
};

enum tdm_dma_state { TDM_DMA_IDLE, TDM_DMA_QUEUED, TDM_DMA_READY, TDM_DMA_BLOCKED, TDM_DMA_ASKED, TDM_DMA_STALLED, TDM_DMA_DONE };

/*
 * A transaction. The submitter's memory, the device's from submit to done; the first part is the submitter's to fill in, state is TDM_DMA_IDLE or _DONE before.
 * A read takes len bytes at va to buf, which is the device's memory; a write brings them from there.
 */
struct tdm_dma {
	u32 pasid;
	bool write;
	u64 va;
	u32 len;            /* 1 to TDM_DMA_MAX */
	u8 *buf;
	void (*done)(struct tdm_dma *d); /* or NULL. It may submit, also d again. From the device's step, or teardown */
	void *arg;
	/* What has become of it; the device's. 0: all of it; -EFAULT: a page that there is not, or not this way; -ECANCELED: teardown; -ETIMEDOUT: it gave up;
	 * -ESRCH: the PASID is not the device's, or dead; -EIO: the device may not ask any more, or has been cut off. */
	int result;
	u32 bytes;          /* moved, from the start on */
	u64 retries;        /* of all its pages */
	u64 started, ended; /* by the device's clock */
	/* The rest is the device's, but for asked and pinned: the software's. */
	enum tdm_dma_state state;
	struct tdm_list link;
	struct tdm_iommu_dev *dev;
	u32 page_retries;   /* of the page that it is at */
	bool waited;        /* an answer told it to try that page again */
	u8 code;            /* the answer that has come: enum tdm_response, plus 1 */
	u64 at;             /* when it came; or when it can go on */
	u32 group, ngroup;  /* that waits for a response: index and number of requests. Of a stall: tag */
	u8 *held;           /* ATS: where the page is of which a part has been moved; NULL: none. An invalidation takes it away */
	u64 pinned[2];      /* by page of the transaction */
	u32 asked[TDM_DMA_PAGES];
	struct tdm_pfn pfn[TDM_DMA_PAGES];
};

struct tdm_iommu_dev {
	struct tdm_iommu *it;
	u32 id;                  /* in it->dev */
	struct tdm_iommu_dev_config config;
	u64 clock;
	struct tdm_tlb atc;
	struct tdm_list queue;   /* submitted */
	struct tdm_dma *active[TDM_DMA_DEPTH_MAX];
	u32 nactive, turn;
	u32 next_group, outstanding; /* requests without a response */
	u32 npasids;
	bool no_pri;             /* FAILURE was answered */
	bool mute;               /* it does not answer invalidations: for tests and scenarios */
	bool cut_off;            /* so it has been cut off: nothing that it does reaches memory */
	u64 done, aborted, bytes_read, bytes_written, late_responses;
};

/* -EINVAL: config does not make sense; -ENOSPC: TDM_IOMMU_DEVS_MAX; -ENOMEM. */
int tdmi_iommu_dev_add(struct tdm_iommu *it, const struct tdm_iommu_dev_config *config, struct tdm_iommu_dev **out);
/* It has no transaction, and no PASID. */
void tdmi_iommu_dev_remove(struct tdm_iommu_dev *dev);
/* It may use this PASID, until that is unbound. -ENOENT: it is not bound, or dead; -EALREADY. */
int tdmi_iommu_attach(struct tdm_iommu_dev *dev, u32 pasid);
/* It answers again, is let to memory again, with an empty ATC, and may ask for pages. */
void tdmi_iommu_dev_reset(struct tdm_iommu_dev *dev);

/* -EINVAL: len, or a range that is not within TDM_VA_END. A PASID that the device has not is found out by hardware. */
int tdmi_iommu_dma_submit(struct tdm_iommu_dev *dev, struct tdm_dma *d);

enum tdm_dev_did {
	TDM_DEV_IDLE,     /* it has no transaction */
	TDM_DEV_WAITS,    /* all that it has wait for the software */
	TDM_DEV_WORKED,
	TDM_DEV_ENDED,    /* a transaction has ended */
};
enum tdm_dev_did tdmi_iommu_dev_step(struct tdm_iommu_dev *dev);
/* When it can do something: its clock, or a later time at which an answer arrives; ~0: not before the software does. */
u64 tdmi_iommu_dev_next(const struct tdm_iommu_dev *dev);

/* ---- faults (iommu_fault.c) ---------------------------------------------------------------------------------------------------------------- */

enum tdm_response { TDM_RESP_SUCCESS, TDM_RESP_INVALID, TDM_RESP_FAILURE };

enum tdm_handler_did {
	TDM_HANDLER_IDLE,
	TDM_HANDLER_TOOK,      /* a request or stall from its queue */
	TDM_HANDLER_RESOLVED,  /* one fault, as far as it could be */
	TDM_HANDLER_ANSWERED,  /* a group, or a stall */
	TDM_HANDLER_DISCARDED, /* partial groups, after an overflow */
};
/* The software does one thing. */
enum tdm_handler_did tdmi_iommu_handler_step(struct tdm_iommu *it);
/* When it has something to do: the time at which that arrived, 0 if it is in the middle of something; ~0: nothing. */
u64 tdmi_iommu_handler_next(const struct tdm_iommu *it);

/* What the hardware does when the device posts a page request; group < TDM_PRG_INDEXES. For devices (and tests that play one). */
void tdmi_iommu_post(struct tdm_iommu_dev *dev, u32 pasid, u64 va, bool write, u32 group, bool last);
/* A stop marker: no request of that PASID by that device comes after it. */
void tdmi_iommu_post_stop(struct tdm_iommu_dev *dev, u32 pasid);
/* Answer a group. -ESRCH: none such waits; it is counted, and nothing happens. */
int tdmi_iommu_respond(struct tdm_iommu_dev *dev, u32 pasid, u32 group, enum tdm_response code);
/* Answer a stall: walk again, or abort it. -ESRCH likewise. */
int tdmi_iommu_resume(struct tdm_iommu *it, u32 tag, bool retry);

#endif
