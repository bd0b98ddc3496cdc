# SPDX-License-Identifier: MIT
"""harness.py - run a program plainly or under `tandem run`, watch it from outside, and report in TAP.

Standard library only. Processes are followed by parentage with this process as their subreaper, so that nothing escapes: neither a
daemon nor the orphan of a killed parent.
"""
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MIB = 1 << 20
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Memory tiers alone need data that compresses; {dir} is a directory that must be empty afterwards.
TIERS = {
    "lz4": ["lz4"],
    "zstd": ["zstd"],
    "lz4+file": ["lz4:16M", "file:{dir}:8G"],
    "file": ["file:{dir}:8G"],
}

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


class Skip(Exception):
    """This test cannot run here; the reason."""


class Failed(Exception):
    """What was wrong, in one line or more."""


def size(text):
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def slow():
    """By how much limits are stretched."""
    return float(os.environ.get("TANDEM_TEST_SLOW", "1"))


def need(*names):
    """Paths of programs, or a skip."""
    found = []
    for n in names:
        path = shutil.which(n) or next((d + n for d in ("/usr/sbin/", "/sbin/") if os.access(d + n, os.X_OK)), None)
        if not path:
            raise Skip(f"{n} is not installed")
        found.append(path)
    return found[0] if len(found) == 1 else found


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def may_raise_limits():
    """Is there the right to raise a hard limit (CAP_SYS_RESOURCE)? A container's root may lack it."""
    caps = re.search(r"^CapEff:\s*(\w+)", read("/proc/self/status"), re.M)
    return bool(caps and int(caps[1], 16) >> 24 & 1)


def descendants(top=None):
    """{pid: parent} of everything below this process, zombies left out."""
    parent, found = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = read(f"/proc/{name}/stat")
            tail = stat[stat.rfind(")") + 2:].split()
            if len(tail) > 1 and tail[0] not in "ZX":
                parent[int(name)] = int(tail[1])
    top = top or os.getpid()
    grew = True
    while grew:
        grew = False
        for pid, up in parent.items():
            if pid not in found and (up == top or up in found):
                found[pid] = up
                grew = True
    return found


def describe(pids):
    """What hangs where: for a test that ran into its limit."""
    lines = []
    for pid in sorted(pids):
        lines.append(f"pid {pid} ({read(f'/proc/{pid}/comm').strip()})")
        try:
            tasks = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
        except OSError:
            continue
        for tid in tasks[:24]:
            base = f"/proc/{pid}/task/{tid}/"
            stat = read(base + "stat")
            state = stat[stat.rfind(")") + 2:][:1]
            stack = " < ".join(re.findall(r"\] (\w+)", read(base + "stack"))[:7])
            lines.append(f"  tid {tid} {read(base + 'comm').strip()} {state} syscall {read(base + 'syscall').strip()[:40]} {stack}")
    return lines[:80]


def end_all():
    for _ in range(200):
        left = descendants()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except OSError:
            pass
        if not left:
            return
        time.sleep(0.02)


def rss_kib(pid):
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * (os.sysconf("SC_PAGESIZE") >> 10) if len(fields) > 1 else 0


def rollup(pid):
    """What smaps_rollup says, in KiB. It walks the page tables: a page that is moved meanwhile is met twice, or not at all. So no Pss is taken to be
    more than the resident set was before and after, of which it is a part (as bench/sample.c does)."""
    before = rss_kib(pid)
    kib = {k: int(v) for k, v in re.findall(r"^(Pss\w*):\s+(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.M)}
    if "Pss" in kib:
        kib["Pss"] = min(kib["Pss"], max(before, rss_kib(pid)))
    return kib


class Sampler(threading.Thread):
    """Sums the Pss of everything below this process, every 20 ms; remembers the largest sum and of what it consisted."""

    def __init__(self, period=0.02):
        super().__init__(daemon=True)
        self.period, self.peak, self.what, self.samples, self.over = period, 0, [], 0, 0
        self.limit = None
        self.stop = threading.Event()

    def run(self):
        while not self.stop.wait(self.period):
            total, parts = 0, []
            for pid in descendants():
                kib = rollup(pid)
                if "Pss" in kib:
                    total += kib["Pss"] << 10
                    parts.append((pid, kib))
            self.samples += 1
            if self.limit and total > self.limit:
                self.over += 1
            if total > self.peak:
                self.peak = total
                self.what = [f"{read(f'/proc/{p}/comm').strip()}[{p}] Pss {k['Pss'] >> 10}M anon {k.get('Pss_Anon', 0) >> 10}M "
                             f"file {k.get('Pss_File', 0) >> 10}M shmem {k.get('Pss_Shmem', 0) >> 10}M" for p, k in parts]


class Result:
    rc = None
    out = err = ""
    seconds = 0.0
    stats = None
    peak = 0
    what = ()
    over = samples = 0


class Harness:
    """One invocation of a test driver."""

    def __init__(self, args):
        if args.tandem:
            args.tandem = os.path.abspath(args.tandem)  # programs run in folders of their own
        if args.build:
            args.build = os.path.abspath(args.build)
        self.args = args
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that close() runs
        self.scratch = tempfile.mkdtemp(prefix="tandem-test-", dir=args.scratch)
        self.plain_results = {}
        self.sampler = None  # of the run that is under way

    def close(self):
        end_all()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def tandem(self):
        if not self.args.tandem or not os.access(self.args.tandem, os.X_OK):
            raise Skip("there is no tandem command (build it, or name it by --tandem)")
        return self.args.tandem

    def run(self, cmd, ram=None, tier=None, limit=60, env=None, cwd=None, sample=False, stdin=None, act=None, keep_err=False):
        """Run a command; under tandem if ram is given. act(proc) is called once it runs. Fails on a time-out and on what is left behind."""
        r = Result()
        work = tempfile.mkdtemp(prefix="run-", dir=self.scratch)
        tierdir = os.path.join(work, "tier")
        os.mkdir(tierdir)
        full_env = dict(os.environ, **(env or {}))
        full_env.pop("TANDEM_TEST_MANAGED", None)
        if ram:
            full_env["TANDEM_TEST_MANAGED"] = "1"
            front = [self.tandem(), "run", "--ram", ram]
            for t in TIERS[tier]:
                front += ["--tier", t.format(dir=tierdir)]
            cmd = front + ["--quiet", "--stats", os.path.join(work, "stats.json"), "--"] + list(cmd)
        sampler = self.sampler = Sampler()
        if ram:
            sampler.limit = size(ram) * 1.02 + 4 * MIB
        start = time.monotonic()
        with open(work + "/out", "wb") as out, open(work + "/err", "wb") as err:
            proc = subprocess.Popen(cmd, stdin=stdin or subprocess.DEVNULL, stdout=out, stderr=err, env=full_env, cwd=cwd, start_new_session=True)
        if sample:
            sampler.start()
        trouble = None
        try:
            if act:
                act(proc)
            proc.wait(timeout=limit * slow())
        except subprocess.TimeoutExpired:
            trouble = [f"timed out after {limit * slow():.0f} s"] + describe(descendants())
        r.seconds = time.monotonic() - start
        r.rc = proc.returncode
        deadline = time.monotonic() + 5 * slow()
        while not trouble and descendants():
            if time.monotonic() > deadline:
                trouble = ["processes were left behind:"] + describe(descendants())
            time.sleep(0.005)
        if sample:
            sampler.stop.set()
            sampler.join()
            r.peak, r.what, r.over, r.samples = sampler.peak, sampler.what, sampler.over, sampler.samples
        end_all()
        r.out, r.err = read(work + "/out"), read(work + "/err")
        try:
            with open(work + "/stats.json", encoding="utf-8") as f:
                r.stats = json.load(f)
        except (OSError, ValueError):
            pass
        left = os.listdir(tierdir)
        if not keep_err:
            shutil.rmtree(work, ignore_errors=True)
        if trouble:
            raise Failed("\n".join(trouble + tail(r)))
        if left:
            raise Failed(f"files were left in the tier's directory: {left}")
        return r

    def plain(self, key, cmd, **how):
        """The same without tandem, once for each key."""
        if key not in self.plain_results:
            try:
                r = self.run(cmd, **how)
            except Failed as e:
                r = e
            self.plain_results[key] = r
        r = self.plain_results[key]
        if isinstance(r, Failed):
            raise Failed(f"plain run: {r}")
        if r.rc != 0:
            raise Failed("\n".join([f"plain run ended with {r.rc}"] + tail(r)))
        return r


def tail(r, n=12):
    return [f"out: {l}" for l in r.out.splitlines()[-n:]] + [f"err: {l}" for l in r.err.splitlines()[-n:]]


def judge(r, evicted=True, expect_rc=0, unmanaged=0):
    """What must hold of every managed run. evicted: memory must have gone out and come back, or the test has tested nothing. unmanaged: so many
    processes cannot be managed, and that is said."""
    if r.rc != expect_rc:
        raise Failed("\n".join([f"ended with {r.rc}, must be {expect_rc}"] + tail(r)))
    if re.search(r"tandem:.*(lost|over (its )?budget|above (its|the) budget|corrupt|cannot be managed|not managed)", r.err):
        raise Failed("\n".join(["tandem warned:"] + tail(r)))
    if not r.stats:
        raise Failed("\n".join(["--stats wrote no JSON"] + tail(r)))
    s = r.stats
    if s.get("over_budget"):
        raise Failed(f"every tier was full {s['over_budget']} times")
    if s.get("lost") or s.get("poisoned"):
        raise Failed("\n".join([f"{s['lost']} pages were lost, {s['poisoned']} could not be read back"] + tail(r)))
    said = len(re.findall(r"^tandem: .*runs without a budget", r.err, re.M))
    if s.get("unmanaged", 0) != unmanaged or said != unmanaged:
        raise Failed("\n".join([f"{s.get('unmanaged', 0)} processes could not be managed, {said} were said to be, must be {unmanaged}"] + tail(r)))
    if evicted:
        f, p = s["faults"], s["pages"]
        if f["soft"] + f["hard"] == 0 or p["home"] + p["evicted"] == 0:
            raise Failed(f"nothing was evicted and touched again, so nothing was tested: faults {f}, pages {p}")
        if f["hard"] == 0:
            raise Failed(f"nothing came back from a tier, so no tier was tested: faults {f}, pages {p}")


def note(r, plain=None):
    parts = [f"{r.seconds:.1f} s"]
    if plain:
        parts.append(f"{r.seconds / max(plain.seconds, 0.001):.1f} times plain")
    if r.stats:
        f = r.stats["faults"]
        parts.append(f"faults soft {f['soft']} hard {f['hard']} zero {f['zero']}")
        parts.append(f"evicted {r.stats['pages']['evicted']}, forks {r.stats['forks']}")
        if r.stats.get("peak"):
            parts.append(f"peak by its own count {r.stats['peak'] / MIB:.0f}M")
    if r.peak:
        parts.append(f"Pss peak {r.peak / MIB:.1f}M in {r.samples} samples, {r.over} above the limit")
    return ", ".join(parts)


class Tests:
    """A list of named tests; each is a function that returns a note, or raises Skip or Failed."""

    def __init__(self):
        self.list = []

    def add(self, name, run, quick=True):
        self.list.append((name, run, quick))

    def main(self, args, harness):
        chosen = [t for t in self.list if (args.long or t[2]) and all(f in t[0] for f in args.filter) and
                  (not args.among or any(w in t[0] for w in args.among)) and not any(w in t[0] for w in args.without)]
        if args.list:
            for name, _, quick in self.list:
                print(name + ("" if quick else "  (long)"))
            return 0
        count = [0, 0, 0]
        print(f"1..{len(chosen)}", flush=True)
        try:
            for i, (name, run, _) in enumerate(chosen, 1):
                start = time.monotonic()
                try:
                    text = run(harness)
                    count[0] += 1
                    print(f"ok {i} - {name}")
                    print(f"# {text or ''} [{time.monotonic() - start:.1f} s]")
                except Skip as e:
                    count[2] += 1
                    print(f"ok {i} - {name} # SKIP {e}")
                except Failed as e:
                    count[1] += 1
                    print(f"not ok {i} - {name}")
                    print("\n".join("# " + l for l in str(e).splitlines()))
                sys.stdout.flush()
        finally:
            harness.close()
        print("# {} passed, {} failed, {} skipped".format(*count))
        return 1 if count[1] else 0


def options(parser):
    default = next((p for p in (os.path.join(ROOT, "build", d, "tandem") for d in ("", "src", "src/cmd")) if os.access(p, os.X_OK)), None)
    parser.add_argument("filter", nargs="*", help="run only tests whose names contain all of these")
    parser.add_argument("--among", action="append", default=[], metavar="WORD", help="run only tests whose names contain one of these")
    parser.add_argument("--without", action="append", default=[], metavar="WORD", help="leave out tests whose names contain this")
    parser.add_argument("--list", action="store_true", help="name the tests and end")
    parser.add_argument("--long", action="store_true", default=os.environ.get("TANDEM_TEST_LONG", "") not in ("", "0"),
                        help="the long set too (also by TANDEM_TEST_LONG=1)")
    parser.add_argument("--plain", action="store_true", help="only without tandem")
    parser.add_argument("--tandem", default=default, help="the command to test")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"), help="where to put what is compiled")
    parser.add_argument("--scratch", default="/var/tmp", help="a directory for scratch files and tiers, on a real disk")
    return parser
