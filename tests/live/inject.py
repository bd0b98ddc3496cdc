# SPDX-License-Identifier: MIT
"""inject.py - the engine's system calls fail: the first, the second, ... until a run goes through untouched.

Over prog/inject.c and libtandem-run-inject.so (inject.c here). Whatever fails, the program's content is right, and it ends as it does without us; or
tandem says in one line why it does not run, with nothing started. A program that cannot be managed runs, and that is said. Nothing hangs.
"""
import errno as E
import os
import re
import time

import harness as h

# call: the errors that the kernel gives there, each once; "+" for good (from the Nth call on), "+3" three times.
CALLS = {
    "mmap": ["ENOMEM", "ENOMEM+"],
    "userfaultfd": ["EMFILE", "ENOMEM+", "EPERM+"],
    "api": ["EINVAL+"],
    "register": ["ENOMEM", "EBUSY", "EINVAL+3"],
    "unregister": ["ENOMEM"],
    "move": ["EAGAIN", "EBUSY", "ENOMEM", "EINVAL", "EAGAIN+50", "EBUSY+50", "ENOMEM+20"],
    "copy": ["EAGAIN", "ENOMEM", "EAGAIN+50", "ENOMEM+20"],
    "zeropage": ["EAGAIN", "ENOMEM"],
    "probe": ["EAGAIN", "EAGAIN+50"],
    "scan": ["ENOMEM"],
    "mapping": ["ENOMEM", "ENOTTY+"],
    "uring_setup": ["ENOMEM", "EPERM+"],
    "uring_enter": ["EINTR", "EAGAIN", "EBUSY", "EINTR+5"],
    "pread": ["EINTR", "short", "EIO", "EINTR+5"],
    "pwrite": ["EINTR", "short", "EIO", "ENOSPC", "ENOSPC+"],
    "open": ["EMFILE", "ENFILE", "EMFILE+"],
    "statfs": ["EIO+"],
    "fallocate": ["EOPNOTSUPP+"],
    "clone": ["EAGAIN", "EAGAIN+"],
    "eventfd": ["EMFILE"],
    "fcntl": ["EMFILE", "EMFILE+"],
    "random": ["EINTR"],
    "poll": ["EINTR", "ENOMEM+20"],
    # Never EAGAIN: the kernel says so only when there is nothing to read, and whoever is told so when there is something waits for what never comes.
    "read": ["EINTR", "ENOMEM", "EINTR+20", "ENOMEM+20"],
    "wait": ["EINTR", "EAGAIN+20"],
    "populate": ["ENOMEM", "EFAULT+20"],
    "socketpair": ["EMFILE"],
    "sendmsg": ["EINTR", "ENOMEM", "EPERM+"],
    "recvmsg": ["EINTR"],
    "recvfrom": ["EINTR"],
    "memfd": ["EMFILE", "ENOMEM+"],
    "pidfd_open": ["EMFILE"],
    "pidfd_getfd": ["EMFILE"],
    "prlimit": ["EPERM"],
    "getdents": ["ENOENT"],
    "affinity": ["EINVAL+"],
}
# Calls that are only made for a fork among threads that change their mappings. The others do without: such forks fail now and then by themselves, on a
# busy machine (docs/parts.md).
CHANGING = {"memfd", "sendmsg"}
# Calls of the file tier: it is the only one then.
FILES = {"uring_setup", "uring_enter", "pwrite", "statfs", "fallocate", "random"}
# What the quick set does: a few calls of each of these, the first ones and some later.
QUICK = {"mmap": "ENOMEM+", "register": "ENOMEM", "move": "EAGAIN", "copy": "ENOMEM", "open": "EMFILE", "pwrite": "ENOSPC+", "clone": "EAGAIN",
         "uring_enter": "EBUSY"}
SECONDS = int(os.environ.get("TANDEM_TEST_INJECT_SECONDS", "120"))  # for one error of one call
# The end of a process is an answer where it could only go on with memory that reads as zeros: a fork whose child cannot be handed its own.
LOUD = r"tandem: .*(child of a fork|no memory|started)"


def spec(call, error, first):
    """TANDEM_INJECT for the first-th call."""
    name, _, more = error.partition("+")
    count = 1 << 40 if "+" in error and not more else int(more or 1)
    return f"{call}:{first}:{count}:{getattr(E, name) if name != 'short' else 0}"


def one(hs, cmd, call, error, first, want):
    """One run. Was a call made to fail?"""
    log = os.path.join(hs.scratch, "injected")
    with open(log, "w", encoding="ascii"):
        pass
    what = spec(call, error, first)
    try:
        r = hs.run(cmd, ram="16M", tier="file" if call in FILES else "lz4+file", limit=120, env={
            "TANDEM_INJECT": what, "TANDEM_INJECT_LOG": log,
            "TANDEM_PRELOAD": os.path.join(hs.args.build, "tests", "live", "libtandem-run-inject.so")})
    except h.Failed as e:
        raise h.Failed(f"TANDEM_INJECT={what}: {e}") from None
    touched = os.path.getsize(log) > 0
    said = [l for l in r.err.splitlines() if l.startswith("tandem: ")]
    unmanaged = (r.stats or {}).get("unmanaged", 0)
    if r.rc == 0:
        if r.out != want:
            raise h.Failed("\n".join([f"TANDEM_INJECT={what}: its output differs"] + h.tail(r)))
        if unmanaged and not said:
            raise h.Failed("\n".join([f"TANDEM_INJECT={what}: {unmanaged} processes were not managed, and nobody said so"] + h.tail(r)))
        if not touched and (unmanaged or not r.stats or not r.stats["faults"]["hard"]):
            raise h.Failed("\n".join([f"TANDEM_INJECT={what}: nothing failed, and yet it was not managed"] + h.tail(r)))
    elif not touched:
        raise h.Failed("\n".join([f"TANDEM_INJECT={what}: nothing failed, but it ended with {r.rc}"] + h.tail(r)))
    elif r.rc == 2 and not r.out and len(said) == 1:
        pass
    elif not any(re.match(LOUD, l) for l in said):
        raise h.Failed("\n".join([f"TANDEM_INJECT={what}: it ended with {r.rc}, and nobody said why"] + h.tail(r, 20)))
    return touched, r.rc != 0, unmanaged != 0


def walk(call, errors, calls):
    """calls: the numbers to try, until a run is untouched."""
    def run(hs):
        hs.tandem()
        cmd = [os.path.join(hs.args.build, "live-progs", "inject"), "--mb", "32", "--dir", hs.args.scratch, "--seed", str(hs.args.seed),
               "--only", "changing" if call in CHANGING else "alone"]
        want = hs.plain(("inject", call in CHANGING), cmd, limit=30).out
        notes, failed = [], []
        for error in errors:
            runs = ended = unmanaged = n = 0
            start = time.monotonic()
            for n in calls():
                try:
                    touched, loud, alone = one(hs, cmd, call, error, n, want)
                except h.Failed as e:
                    failed.append(str(e))
                    touched, loud, alone = True, 0, 0
                runs += 1
                ended += loud
                unmanaged += alone
                if not touched or time.monotonic() - start > SECONDS:
                    break
            notes.append(f"{error}: {runs} runs to call {n}, {ended} ended, {unmanaged} unmanaged")
            if runs == 1 and not touched and call != "memfd":  # only with events at the right moment
                raise h.Failed(f"{call} is never called: nothing was tested")
        if failed:
            raise h.Failed("\n".join(failed[:6] + [f"{len(failed)} of the runs failed"] + notes))
        return "; ".join(notes)
    return run


def some():
    """For the quick set."""
    return [1, 2, 5, 30]


def all_of_them():
    """Every one of the first 24, then with growing steps."""
    n = 1
    while True:
        yield n
        n += max(1, n // 16) if n < 200 else n // 4


def add(tests):
    for call, error in QUICK.items():
        tests.add(f"inject-quick-{call}", walk(call, [error], some))
    for call, errors in CALLS.items():
        tests.add(f"inject-{call}", walk(call, errors, all_of_them), quick=False)
