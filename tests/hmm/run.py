#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py --tandem TANDEM [--expect N] [--source hmm-tests.c] HMM-TESTS - the kernel's HMM test suite under `tandem dmirror`, in TAP.

The suite is the kernel's own, unmodified; what it prints is judged here, because its harness is kinder than we are to ourselves:
  - a skip is allowed only if it is one of ALLOWED, below; any other is a failure;
  - a skip in the set-up of a test is reported by older harnesses as a success: it is one of those;
  - "compound" of older suites returns without having looked, and without saying so, when there is no huge page: a skip. (Newer ones have the kernel make one
    for as long as they run, and say if it cannot);
  - fewer tests than the source has (or than --expect) are a failure, and so is each one that is announced and does not come.
Of a test that fails older harnesses print the same line without end, until its time is up: it is ended, it has failed.

The last line is "N passed, N failed, N skipped" unless --tap is given; the exit status is 0 if nothing failed.
"""
import argparse
import mmap
import os
import re
import signal
import subprocess
import sys
import threading

# What a machine may not have. (test, reason), as regular expressions.
ALLOWED = [
    (r"\.hmm_gup_test$", r"could not find gup_test"),  # a kernel module of its own
    (r"\.(anon_write_hugetlbfs|compound)$", r"Huge page could not be allocated|Not enough huge pages|no huge page"),
]
LEAST = 58  # of Linux 6.1; no later one has fewer
KEPT = 12  # lines of a test that are shown if it fails
ENOUGH = 2000  # lines of a test after which it is ended

RUN = re.compile(r"^#\s+RUN\s+(\S+)")
POINT = re.compile(r"^(not )?ok (\d+)(?:\s+(?!#)(\S+))?(?:\s*#\s*(?:SKIP)\s*(.*))?", re.I)
PLAN = re.compile(r"^1\.\.(\d+)")
SKIP = re.compile(r"^#\s+SKIP\s+(.*)")


def count_tests(path):
    """How many tests the source has: each of a fixture, for each variant."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    tests = re.findall(r"^TEST_F(?:_TIMEOUT|_SIGNAL)?\((\w+),", text, re.M)
    variants = re.findall(r"^FIXTURE_VARIANT_ADD\((\w+),", text, re.M)
    return sum(max(1, variants.count(f)) for f in tests) + len(re.findall(r"^TEST\(", text, re.M))


def huge_page_now():
    """Is there one that nobody has?"""
    with open("/proc/meminfo", encoding="ascii") as f:
        found = re.search(r"HugePages_Free:\s+(\d+)", f.read())
    return found is not None and int(found.group(1)) > 0


def huge_page():
    """Is there one to be had?"""
    size = 2 << 20
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            size = int(re.search(r"Hugepagesize:\s+(\d+) kB", f.read()).group(1)) << 10
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000).close()
    except (OSError, AttributeError, ValueError):
        return False
    return True


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as f:
                    if int(f.read().rpartition(")")[2].split()[1]) == pid:
                        found.append(int(name))
            except OSError:
                pass
    return found


def end(pids):
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)  # a test is the leader of a group
        except OSError:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass


class Report:
    def __init__(self):
        self.n = [0, 0, 0]
        self.plan = None
        self.seen = 0
        self.huge = huge_page()

    def point(self, kind, name, why=None, lines=()):
        self.n[kind] += 1
        print(f"{'not ok' if kind == 1 else 'ok'} {sum(self.n)} - {name}" + (f" # SKIP {why}" if kind == 2 else ""))
        if kind == 1:
            for line in ([why] if why else []) + list(lines):
                print("#   " + line)
        sys.stdout.flush()

    def judge(self, name, good, skip, lines):
        self.seen += 1
        if good and skip is None and name.endswith(".compound") and not self.huge and not huge_page_now():
            skip = "no huge page on this machine: the suite passes it without having looked"
        if not good:
            self.point(1, name, None, lines)
        elif skip is None:
            self.point(0, name)
        elif any(re.search(n, name) and re.search(why, skip) for n, why in ALLOWED):
            self.point(2, name, skip)
        else:
            self.point(1, name, f"it was skipped, which is not allowed here: {skip}")


def read(stream, proc, report):
    """Everything that the suite prints."""
    name, skip, lines, total = None, None, [], 0
    for raw in stream:
        if total > ENOUGH and not raw.startswith((b"ok", b"not ok", b"#  RUN")):
            continue
        line = raw.decode(errors="replace").rstrip()
        begins, point, plan, skipped = RUN.match(line), POINT.match(line), PLAN.match(line), SKIP.match(line)
        if begins:
            name, skip, lines, total = begins.group(1), None, [], 0
        elif plan:
            report.plan = int(plan.group(1))
        elif point:
            bad, number, named, why = point.groups()
            why = skip if why is None else why
            report.judge(named or name or f"test {number}", not bad, why, lines)
            name, skip, lines, total = None, None, [], 0
        elif skipped:
            skip = skipped.group(1)
        else:
            total += 1
            if len(lines) < KEPT and line not in lines:
                lines.append(line)
            if total == ENOUGH and name:
                lines.append("(and so on: ended)")
                end(children(proc.pid))


def run(args, report):
    with subprocess.Popen([args.tandem, "dmirror", "--", args.binary], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, cwd="/tmp") as proc:
        def late():
            report.point(1, "the suite as a whole", f"it did not end within {args.limit} s")
            left = children(proc.pid)
            proc.kill()
            end(left)
        timer = threading.Timer(args.limit, late)
        timer.start()
        read(proc.stdout, proc, report)
        timer.cancel()
        return proc.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="the suite, compiled")
    parser.add_argument("--tandem", required=True)
    parser.add_argument("--source", help="what it was compiled from: so many tests are expected as it has")
    parser.add_argument("--expect", type=int, default=LEAST, help=f"tests there must be at least ({LEAST})")
    parser.add_argument("--limit", type=int, default=900, help="seconds for all of it (900)")
    parser.add_argument("--tap", action="store_true", help="TAP alone, no sum")
    args = parser.parse_args()
    args.tandem, args.binary = os.path.abspath(args.tandem), os.path.abspath(args.binary)
    if args.source:
        args.expect = max(args.expect, count_tests(args.source))
    report = Report()
    status = run(args, report)
    if report.plan is None:
        report.point(1, "the suite as a whole", f"it announced no tests; its exit status was {status}")
    elif report.seen < report.plan:
        report.point(1, "the suite as a whole", f"it announced {report.plan} tests, {report.seen} came; its exit status was {status}")
    elif report.seen < args.expect:
        report.point(1, "the suite as a whole", f"it has {report.seen} tests, {args.expect} are expected")
    print(f"1..{sum(report.n)}" if args.tap else "{} passed, {} failed, {} skipped".format(*report.n))
    return 1 if report.n[1] or not report.n[0] else 0


if __name__ == "__main__":
    sys.exit(main())
