#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - the live tests: our own test programs, plain and under `tandem run`, in a quarter to a half of the memory that they use.

  run.py                     the quick set, in TAP
  run.py --long              all of it
  run.py oracle lz4          what has both words in its name
  run.py --seconds 3600 --seed 7 oracle-pages    the content oracle for an hour
"""
import argparse
import ctypes
import errno
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import devices  # noqa: E402
import harness as h  # noqa: E402
import inject  # noqa: E402

# program: (arguments, budget, seconds that a managed run may take). A part of its own where that helps to find what broke.
# Footprints (plain peaks): oracle 300M, syscalls 260M, forks 140M and its children, threads 140M, fds 90M, thp 250M, budget 200M.
PROGRAMS = {
    "oracle": (["--mb", "128", "--seconds", "4"], {"lz4": "144M", "zstd": "128M", "lz4+file": "96M", "file": "80M"}, 150),
    "syscalls": (["--mb", "160", "--seconds", "1"], {"lz4": "96M", "zstd": "88M", "lz4+file": "72M", "file": "64M"}, 120),
    "forks": (["--mb", "96"], {"lz4": "96M", "zstd": "88M", "lz4+file": "64M", "file": "64M"}, 180),
    "threads": (["--mb", "96"], {"lz4": "64M", "zstd": "64M", "lz4+file": "48M", "file": "48M"}, 120),
    "fds": (["--mb", "64"], {"lz4": "48M", "zstd": "48M", "lz4+file": "32M", "file": "32M"}, 120),
    "thp": (["--mb", "128"], {"lz4": "96M", "zstd": "96M", "lz4+file": "72M", "file": "72M"}, 120),
    "remaps": (["--mb", "96", "--seconds", "4"], {"lz4": "40M", "zstd": "40M", "lz4+file": "32M", "file": "32M"}, 120),
    "readonly": (["--mb", "96"], {"lz4": "56M", "zstd": "48M", "lz4+file": "40M", "file": "40M"}, 120),
    "drops": (["--mb", "96", "--seconds", "3"], {"lz4": "48M", "zstd": "48M", "lz4+file": "32M", "file": "32M"}, 120),
    "budget": (["--mb", "160", "--hard", "20", "--without", "processes"], {"lz4": "96M", "zstd": "80M", "lz4+file": "56M", "file": "56M"}, 180),
}
# What the quick set runs managed, and plainly to compare what they print. The others are run by --long: forks by the hundred and budgets of a few MiB a process take minutes; and threads
# has failed now and then (docs/parts.md).
QUICK = {
    "oracle": ["lz4"],
    "syscalls": ["lz4+file"],
    "forks": ["lz4"],
    "threads": [],
    "fds": [],
    "thp": ["lz4+file"],
    "remaps": ["lz4", "file"],
    "readonly": ["lz4"],
    "drops": ["lz4"],
    "budget": [],
}
FILES_HARD = {"oracle", "syscalls", "forks", "threads"}  # with a file below, more pages may be incompressible


def compile_all(args):
    out = os.path.join(args.build, "live-progs")
    src = os.path.join(h.HERE, "prog")
    headers = max(os.path.getmtime(os.path.join(src, name)) for name in ("common.h", "device.h"))
    os.makedirs(out, exist_ok=True)
    with_library = devices.PROGRAMS if os.path.exists(devices.library(args.build)) else []
    for name in [*PROGRAMS, "inject", "dmirror", *with_library]:
        exe, c = os.path.join(out, name), os.path.join(src, name + ".c")
        if os.path.exists(exe) and os.path.getmtime(exe) > max(headers, os.path.getmtime(c)):
            continue
        cc = os.environ.get("CC", "cc").split()
        more = devices.flags(args.build) if name in with_library else []
        new = f"{exe}.{os.getpid()}"  # another run may compile at the same time
        subprocess.run(cc + ["-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter", "-pthread", c, "-o", new, *more], check=True)
        os.rename(new, exe)
    return out


def command(args, name, part=None, tier=None):
    argv = [os.path.join(args.build, "live-progs", name)] + PROGRAMS[name][0] + ["--dir", args.scratch, "--seed", str(args.seed)]
    if args.seconds:
        argv += ["--seconds", str(args.seconds)]
    elif args.long and name == "oracle":
        argv += ["--seconds", "90"]
    if tier in ("file", "lz4+file") and name in FILES_HARD:
        argv += ["--hard", "35"]
    if part:
        argv += ["--only", part]
    return argv


def limit_of(args, name):
    return PROGRAMS[name][2] + (args.seconds or (90 if args.long else 0)) * 4


def plain(name, part=None):
    def run(hs):
        r = hs.plain((name, part), command(hs.args, name, part), limit=limit_of(hs.args, name))
        return h.note(r)
    return run


def managed(name, tier, part=None):
    def run(hs):
        hs.tandem()
        cmd = command(hs.args, name, part, tier)
        p = None if hs.args.no_reference else hs.plain((name, part), command(hs.args, name, part), limit=limit_of(hs.args, name))
        ram = PROGRAMS[name][1][tier]
        r = hs.run(cmd, ram=ram, tier=tier, limit=limit_of(hs.args, name), sample=name == "budget")
        # thp and fds are full of short-lived children; what they test is checked by need_out() where it matters.
        # A child that is allowed four descriptors, hard, cannot have an engine, unless that limit can be raised meanwhile.
        h.judge(r, unmanaged=int(name == "fds" and not part and not h.may_raise_limits()))
        if p and r.out != p.out:
            raise h.Failed("\n".join(["its output differs from that of the plain run"] + h.tail(r)))
        text = h.note(r, p)
        if name == "budget":
            over = h.size(ram) * 1.02 + 4 * h.MIB
            if r.samples < 10:
                raise h.Failed(f"only {r.samples} samples were taken")
            if r.peak > over:
                raise h.Failed("\n".join([f"the budget of {ram} was exceeded: {text}; at the peak:"] + list(r.what)))
        return text
    return run


def kill_tree(which):
    """SIGKILL while much is in the file: nothing may be left, neither a file nor a process."""
    def run(hs):
        hs.tandem()
        cmd = command(hs.args, "oracle", "pages", "file") + ["--seconds", "60"]
        seen = []

        def act(proc):
            time.sleep(3)
            if proc.poll() is not None:
                return
            below = h.descendants()
            program = sorted(p for p, up in below.items() if up == proc.pid)
            seen.append(len(below))
            if which == "all":
                for pid in below:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except OSError:
                        pass
            elif which == "program" and program:
                os.kill(program[0], signal.SIGKILL)
            elif which == "tandem":
                proc.kill()
                proc.wait()  # or end_all() takes its status
                time.sleep(1)
                # Whatever is left of the program must go on correctly or end by itself; it is not what this test is about.
                h.end_all()
            else:
                proc.send_signal(signal.SIGTERM)
        r = hs.run(cmd, ram="80M", tier="file", limit=60, act=act)
        if not seen:
            raise h.Failed("\n".join([f"it had ended by itself with {r.rc}"] + h.tail(r)))
        want = {"all": -signal.SIGKILL, "tandem": -signal.SIGKILL, "program": 128 + signal.SIGKILL, "term": None}[which]
        if want is not None and r.rc not in (want, 128 + signal.SIGKILL):
            raise h.Failed(f"tandem ended with {r.rc}, must be {want}")
        return h.note(r)
    return run


def stopped(hs):
    """Stop the whole tree from outside for a while, again and again; it goes on as if nothing had been."""
    hs.tandem()
    cmd = command(hs.args, "oracle", "pages", "lz4+file")

    def act(proc):
        for _ in range(6):
            time.sleep(0.4)
            for sig, pause in ((signal.SIGSTOP, 0.15), (signal.SIGCONT, 0)):
                for pid in h.descendants():
                    try:
                        os.kill(pid, sig)
                    except OSError:
                        pass
                time.sleep(pause)
    r = hs.run(cmd, ram="96M", tier="lz4+file", limit=120, act=act)
    h.judge(r)
    return h.note(r)


def small_budget(hs):
    """A program that fits its budget is left alone: nothing is evicted, the output is the same."""
    hs.tandem()
    cmd = [os.path.join(hs.args.build, "live-progs", "threads"), "--mb", "16", "--only", "hundreds"]
    r = hs.run(cmd, ram="400M", tier="lz4", limit=60)
    h.judge(r, evicted=False)
    if r.stats["pages"]["evicted"]:
        raise h.Failed(f"{r.stats['pages']['evicted']} pages were evicted although everything fits")
    return h.note(r)


def threads_named(pid, name):
    tasks = os.listdir(f"/proc/{pid}/task") if os.path.isdir(f"/proc/{pid}/task") else []
    return [int(t) for t in tasks if h.read(f"/proc/{pid}/task/{t}/comm").strip() == name]


def starved(hs):
    """The thread that watches the program's growth hardly gets a CPU: the budget holds all the same, for whoever waits for a page makes room."""
    hs.tandem()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise h.Skip("one CPU only")
    cmd = [os.path.join(hs.args.build, "live-progs", "budget"), "--mb", "192", "--only", "grow"]
    ram = "96M"

    def act(proc):
        with subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"], preexec_fn=lambda: os.sched_setaffinity(0, {cpus[0]})) as hog:
            found = []
            while proc.poll() is None and time.monotonic() < end:
                if not found:
                    found = [t for p, up in h.descendants().items() if up == proc.pid and threads_named(p, "tandem-fault") for t in threads_named(p, "tandem")]
                    time.sleep(0.15)  # what is there so far is found
                    for t in found:
                        os.sched_setaffinity(t, {cpus[0]})
                        os.sched_setscheduler(t, os.SCHED_IDLE, os.sched_param(0))
                        hs.sampler.peak = hs.sampler.over = 0  # what it had to find before is another matter
                time.sleep(0.005)
            hog.kill()
        if not found:
            raise h.Failed("the thread that watches was not found")
    end = time.monotonic() + 120 * h.slow()
    r = hs.run(cmd, ram=ram, tier="lz4", limit=60, sample=True, act=act)
    h.judge(r)
    if r.peak > h.size(ram) * 1.02 + 4 * h.MIB:
        raise h.Failed("\n".join([f"the budget of {ram} was exceeded: {h.note(r)}; at the peak:"] + list(r.what)))
    return h.note(r)


def halted(hs):
    """The thread that watches does not run at all as the program maps twice its budget and fills it: who maps more than there is room for waits until it does."""
    hs.tandem()
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long] * 4
    seize, interrupt, detach, wall = 0x4206, 0x4207, 17, 0x40000000
    ram = "96M"

    def act(proc):
        found = []
        while not found and proc.poll() is None:
            found = [t for p, up in h.descendants().items() if up == proc.pid and h.read(f"/proc/{p}/comm").strip() == "budget" for t in threads_named(p, "tandem")]
            time.sleep(0.005)
        if not found:
            raise h.Failed("the thread that watches was not found")
        if ptrace(seize, found[0], 0, 0):
            raise h.Skip(f"no right to stop a thread: {os.strerror(ctypes.get_errno())}")
        ptrace(interrupt, found[0], 0, 0)
        os.waitpid(found[0], wall)
        time.sleep(1)  # it maps after 0.4
        ptrace(detach, found[0], 0, 0)
    r = hs.run([os.path.join(hs.args.build, "live-progs", "budget"), "--mb", "192", "--only", "late"], ram=ram, tier="lz4", limit=60, sample=True, act=act)
    h.judge(r)
    if r.peak > h.size(ram) * 1.02 + 4 * h.MIB:
        raise h.Failed("\n".join([f"the budget of {ram} was exceeded: {h.note(r)}; at the peak:"] + list(r.what)))
    return h.note(r)


def one_part(part, tier, ram):
    """Of the program for budgets. A fifth above the budget is allowed here, for a moment: on a busy machine what makes room may not get the CPU for half a second.
    brk: who grows the heap waits for room; it was two fifths above, for the whole time.
    processes: four children write to all that they inherited: more than twice the budget, copied by the kernel alone; nobody waiting for
    room, it was twice the budget. What is shared is free only when the last one has evicted it. In memory alone all of it, packed, hardly fits (zstd: not in 80M)."""
    def run(hs):
        hs.tandem()
        r = hs.run([os.path.join(hs.args.build, "live-progs", "budget"), "--mb", "160", "--hard", "20", "--only", part], ram=ram, tier=tier, limit=60, sample=True)
        h.judge(r)
        if r.peak > h.size(ram) * 1.2:
            raise h.Failed("\n".join([f"the budget of {ram} was exceeded: {h.note(r)}; at the peak:"] + list(r.what)))
        return h.note(r)
    return run


def exec_chain(hs):
    """A shell that runs programs under the same budget: each is managed in its turn."""
    hs.tandem()
    exe = os.path.join(hs.args.build, "live-progs", "budget")
    script = f'set -e; {exe} --mb 96 --only soft; exec env A=1 {exe} --mb 96 --only threads'
    r = hs.run(["/bin/sh", "-c", script], ram="64M", tier="lz4+file", limit=90)
    h.judge(r)
    if r.out != "budget: soft ok\nbudget: threads ok\n":
        raise h.Failed(f"printed {r.out!r}")
    return h.note(r)


def dmirror(hs):
    """The devices of `tandem dmirror`, where the kernel's own test suite does not look."""
    cmd = [hs.tandem(), "dmirror", os.path.join(hs.args.build, "live-progs", "dmirror")]
    r = hs.run(cmd, limit=60)
    if r.rc or "tandem:" in r.err:
        raise h.Failed("\n".join([f"ended with {r.rc}"] + h.tail(r)))
    return h.note(r)


START = """import ctypes, sys
class Options(ctypes.Structure):
    _fields_ = [('size', ctypes.c_size_t), ('ram', ctypes.c_uint64), ('tiers', ctypes.c_void_p), ('ntiers', ctypes.c_uint), ('flags', ctypes.c_uint)]
line = ctypes.create_string_buffer(200)
tdm = ctypes.CDLL(sys.argv[1])
print(tdm.tdm_start(ctypes.byref(Options(ctypes.sizeof(Options), 64 << 20)), ctypes.byref(ctypes.c_void_p()), line, 200), line.value.decode())
"""


def start_twice(hs):
    """The library in a program that is managed from outside: it has one engine, and is told so."""
    hs.tandem()
    library = os.path.join(hs.args.build, "src", "libtandem.so.0")
    r = hs.run([sys.executable, "-c", START, library], ram="64M", tier="lz4", limit=30)
    h.judge(r, evicted=False)
    if r.out != f"-{errno.EBUSY} this process runs under `tandem run`, which manages its memory\n":
        raise h.Failed(f"printed {r.out!r}")
    return h.note(r)


def tests():
    t = h.Tests()
    for name in PROGRAMS:
        t.add(f"{name}-plain", plain(name), quick=bool(QUICK[name]))
    for name, (_, budgets, _) in PROGRAMS.items():
        for tier in budgets:
            t.add(f"{name}-{tier}", managed(name, tier), quick=tier in QUICK[name])
    t.add("oracle-pages-lz4+file", managed("oracle", "lz4+file", "pages"), quick=False)
    for which in ("all", "program", "tandem", "term"):
        t.add(f"kill-{which}-file", kill_tree(which), quick=False)
    t.add("stopped-from-outside", stopped, quick=False)
    t.add("fits-its-budget", small_budget)
    t.add("exec-chain", exec_chain)
    t.add("starved", starved, quick=False)
    t.add("halted", halted, quick=False)
    for tier, ram in {"lz4": "96M", "zstd": "96M", "lz4+file": "56M", "file": "56M"}.items():
        t.add(f"copies-{tier}", one_part("processes", tier, ram), quick=False)
    t.add("brk-file", one_part("brk", "file", "56M"))
    t.add("start-twice", start_twice)
    t.add("dmirror", dmirror)
    inject.add(t)
    devices.add(t)
    return t


def main():
    parser = h.options(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--no-reference", action="store_true", help="do not run programs plainly first, nor compare what they print (what they check themselves stays)")
    parser.add_argument("--seconds", type=int, default=0, help="how long each part with a clock runs")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("TANDEM_TEST_SEED", "1")))
    args = parser.parse_args()
    t = tests()
    if args.plain:
        t.list = [x for x in t.list if x[0].endswith("-plain")]
    if not args.list:
        compile_all(args)
    return t.main(args, h.Harness(args))


if __name__ == "__main__":
    sys.exit(main())
