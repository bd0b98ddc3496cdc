/* SPDX-License-Identifier: MIT */
/*
 * device.h - devices of a live process: memory of their own, a page table of their own, and threads that work with them.
 *
 * What the program wants of a device is a job. Jobs are queued by the program's threads and run by the device's, which are engine threads, each with a
 * context of the engine and a reader of the device's page table. A job's function decides itself when it is in the mm. It may run for as long as it likes:
 * nobody else waits for it, not even a fork, as long as it is in the mm for short times only.
 *
 *   attaching, detaching     the engine's main thread, asked by the program
 *   the queue                its own lock, taken by the program's threads (with their signals blocked) and the device's, and by nobody who serves faults
 *   the child of a fork      has the memory of a device that says so (`inherited`) as it was at the fork, and brings from it what it touches; the device itself
 *                            is not there. Memory of any other device is emptied before a fork
 */
#ifndef TDM_RUN_DEVICE_H
#define TDM_RUN_DEVICE_H

#include "port/mirror.h"
#include "run/share.h"

#define TDM_DEVICES_MAX 8u
#define TDM_DEVICE_WORKERS 16u
#define TDM_DEVICE_JOBS 64u

struct tdm_live;
struct tdm_device;
struct tdm_device_worker;

enum tdm_job_state { TDM_JOB_FREE, TDM_JOB_QUEUED, TDM_JOB_RUNNING, TDM_JOB_DONE };

struct tdm_device_job {
	int (*fn)(struct tdm_device_worker *w, struct tdm_device_job *job);
	void *arg;      /* the function's, as are the next three */
	u64 a, b;
	u64 out;
	bool forget;    /* nobody waits for it */
	int result;     /* what fn returned */
	u32 next;       /* in the queue; its lock */
	tdm_a32 state;  /* enum tdm_job_state; FREE to QUEUED under the lock */
};

struct tdm_device_worker {
	struct tdm_device *dev;
	struct plat_thread *thread;
	struct tdm_ctx *ctx;
	struct tdm_mirror_reader reader;
};

/* Constant while the device is attached. */
struct tdm_device_config {
	const char *name;
	const struct tdm_pool_ops *pool_ops;     /* or NULL: it has no memory */
	u32 nframes;                             /* a multiple of 512 */
	const struct tdm_mirror_ops *mirror_ops;
	void *arg;                               /* of both */
	u64 page_sizes;                          /* TDM_MIRROR_* */
	u32 nworkers;
	u64 resident_bytes;                      /* of this process's memory: the device's, and not counted against the budget */
	bool coherent;                           /* the CPU can map its memory: the pool's copies are not called */
	bool on_node;                            /* coherent: its pages are of this NUMA node: */
	int node;
	bool inherited;                          /* its memory is private memory of this process, all of which a child inherits */
	bool write_ahead;                        /* see mirror.h */
	struct tdm_share *share;                 /* or NULL: all of the memory is this process's. Mapped as long as the device is attached */
	void (*chunk)(void *arg, u32 frame, bool here); /* 512 frames from this one on are this process's now, or will be another's. May be NULL. No lock is held */
	u64 stuck_ns;                            /* a callback that takes longer is told of */
	/* Which of the device's callbacks has been running for longer; NULL: none, or it cannot be told. Any thread. */
	const char *(*busy)(void *arg, u64 longer_than_ns);
};

struct tdm_device {
	struct tdm_live *live;                   /* NULL: not attached */
	struct tdm_device_config config;
	struct tdm_pool pool;
	struct tdm_mirror mirror;
	struct tdm_device_worker worker[TDM_DEVICE_WORKERS];
	u32 nworkers;                            /* that have been started */
	tdm_a32 stop;                            /* workers end */
	bool gone;                               /* in the child of a fork */
	bool said_stuck;                         /* the watching thread's */
	struct plat_mutex lock;                  /* guards the queue */
	u32 head, tail;                          /* of the queue: indices of jobs; TDM_DEVICE_JOBS: empty */
	tdm_a32 posted;                          /* changes when something is queued: workers sleep on it */
	struct tdm_device_job job[TDM_DEVICE_JOBS];
	/* device_share.c */
	struct tdm_sharer sharer;
	struct plat_thread *giver;
	struct tdm_ctx *giver_ctx;
	tdm_a32 giver_stop;
};

/* Attach a device. Called on a thread of the program. *out is its until it is detached. 0; -EINVAL; -ENOSPC: too many devices; -ENOMEM;
 * of its node: those of plat_mem_node(). */
int tdmi_device_attach(struct tdm_live *l, const struct tdm_device_config *config, struct tdm_device **out);
/* Bring home what it has, and end it. -EBUSY: a job is queued or runs; or why a page could not be brought: then it stays. In the child of a fork it only
 * forgets it. Called on a thread of the program. */
int tdmi_device_detach(struct tdm_device *dev);

/* Queue a job: fn(worker, job) on one of the device's threads, after what the program has changed in its address space until now is known. Called on a thread
 * of the program. NULL: the device is not here (the child of a fork). Waits while all jobs are in use. */
struct tdm_device_job *tdmi_device_submit(struct tdm_device *dev, int (*fn)(struct tdm_device_worker *, struct tdm_device_job *), void *arg, u64 a, u64 b);
/* The same, of which nobody waits for the end. */
struct tdm_device_job *tdmi_device_submit_forget(struct tdm_device *dev, int (*fn)(struct tdm_device_worker *, struct tdm_device_job *), void *arg, u64 a, u64 b);
/* Wait for its end, and give it back. What fn has returned; *out: job->out, if not NULL. */
int tdmi_device_wait(struct tdm_device *dev, struct tdm_device_job *job, u64 *out);
/* Both. -ENODEV: the device is not here. */
int tdmi_device_do(struct tdm_device *dev, int (*fn)(struct tdm_device_worker *, struct tdm_device_job *), void *arg, u64 a, u64 b, u64 *out);

/* Jobs: fn's with a and b, the range; out: pages. arg: not NULL: -EAGAIN if the engine does not know all of it, which may have been mapped a moment ago (TDM_OP_FIND). */
int tdmi_device_job_migrate(struct tdm_device_worker *w, struct tdm_device_job *job);   /* to the device's memory. -ENOSPC: full */
int tdmi_device_job_evict(struct tdm_device_worker *w, struct tdm_device_job *job);     /* a: pages, oldest first, home */
int tdmi_device_job_exclusive(struct tdm_device_worker *w, struct tdm_device_job *job); /* and into the table; errors of tdmi_make_exclusive() */

/* For device.c: no job, and no thread yet; start the device's threads (-ENOMEM, -EAGAIN: those that have been started are to be ended); end them, after what they have
 * begun; is no job queued, running or waited for? */
void tdmi_device_queue_init(struct tdm_device *dev);
int tdmi_device_workers_start(struct tdm_live *l, struct tdm_device *dev);
void tdmi_device_workers_end(struct tdm_device *dev);
bool tdmi_device_idle(struct tdm_device *dev);

/* In the mm from here to its exit. On a worker. */
static inline void tdm_device_enter_mm(struct tdm_device_worker *w)
{
	while (!tdmi_mm_enter(w->ctx))
		plat_yield();
}

/* mprotect(2), as devices should hear of it: within a round. Called on a thread of the program. 0 or -errno. */
int tdmi_device_mprotect(struct tdm_live *l, u64 start, u64 end, int prot);

/* [start, end) has been unmapped, or has something else: devices are to forget it. Called on a thread of the program. */
void tdmi_device_unmapped(struct tdm_live *l, u64 start, u64 end);

/* The same on the engine's main thread (tdmi_live_call()). */
int tdmi_live_device_attach(struct tdm_live *l, const struct tdm_device_config *config, struct tdm_device **out);
int tdmi_live_device_detach(struct tdm_live *l, struct tdm_device *dev);

/* ---- between this and live.c: on the engine's main thread */
/* Around a fork: before the engine stands still; when it does; and in the child. */
void tdmi_live_devices_before_fork(struct tdm_live *l);
/* Nobody is in the mm, so what is taken from the devices' tables now stays out until the fork is over: pages in their memory can be copied for who touches them
 * meanwhile. (The kernel does the same at a fork, whose pages become read-only.) They stay in their memory, if the child has a copy of that. */
void tdmi_live_devices_at_fork(struct tdm_live *l);
void tdmi_live_devices_in_child(struct tdm_live *l);
/* The thread that tells of devices that hang, and the lock that it looks at devices with; it ends with the last device. device_watch.c. */
int tdmi_live_watch_start(struct tdm_live *l);
void tdmi_live_watch_stop(struct tdm_live *l);
void tdmi_live_watch_forget(struct tdm_live *l);
void tdmi_live_watch_lock(struct tdm_live *l);
void tdmi_live_watch_unlock(struct tdm_live *l);
/* Its share of memory that processes share, if it does: on coming and going, on main; once the pool is there, and as long as it is. 0; errors of tdmi_share_join();
 * -EAGAIN: no thread. */
int tdmi_device_share_start(struct tdm_live *l, struct tdm_device *dev);
void tdmi_device_share_end(struct tdm_device *dev);
void tdmi_device_share_in_child(struct tdm_device *dev);
/* More memory for it: what is free, or what another process gives up. It is waited for, for less than a second; no lock is held, and the caller is not in the mm. false:
 * there is none. */
bool tdmi_device_share_more(struct tdm_device *dev);
/* Frames that this process may use now. */
u64 tdmi_device_frames_here(const struct tdm_device *dev);
/* The engine ends: none is attached, but for those that a child has inherited. */
void tdmi_live_devices_end(struct tdm_live *l);
/* Pages of memory that devices have; *moved: that have gone there, or come back, ever. */
u64 tdmi_live_device_frames(const struct tdm_live *l, u64 *moved);
/* Bytes of this process that are devices' memory. */
u64 tdmi_live_device_bytes(const struct tdm_live *l);

#endif
