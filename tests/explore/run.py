#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py --build BUILDDIR [--deep] [WORD...] - every scenario of the explorer; TAP.

Each must be searched completely within the bounds of CI (two interruptions, one old value) and be right, or show the mistake that it is there to show; what
failed once must fail again by its list of choices. Where the 32-bit explorer was built it runs those whose names begin with one of WIDE. --deep: three interruptions
and two old values, for at most ten minutes a scenario, then a million runs by random priorities. WORD: what names must have.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

# What torn 64-bit accesses could break.
WIDE = ("litmus_", "pae_", "walk_", "gup_", "rcu_")
LIMIT_S = 300
LINE = re.compile(r"^\S+ +(ok|FAILED|expected|NOT FOUND) +(\d+) runs +([0-9.]+) s +(.*)$", re.M)


def run(exe, *args, limit=3600):
    return subprocess.run([exe, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=False, errors="replace")


def names(exe):
    return [line.split()[0] for line in run(exe, "--list").stdout.splitlines()]


def again(exe, name, out):
    """A failing run's list of choices makes the same run, and its telling ends where it failed."""
    m = re.search(r"--replay '([^']*)'", out)
    if not m:
        return "no choices to replay"
    what = out.splitlines()[1].strip()
    r = run(exe, name, "--trace", "--replay", m[1])
    if what not in r.stdout:
        return f"replaying {m[1]} did not end in: {what}"
    return None if len(r.stdout.splitlines()) > 3 or not m[1] else "the trace is empty"


def normal(exe, name):
    r = run(exe, name, "--seconds", str(LIMIT_S))
    m = LINE.search(r.stdout)
    if not m or r.returncode:
        return r.stdout + r.stderr or f"ended with {r.returncode}", ""
    if m[1] == "ok" and "complete" not in m[4]:
        return f"not complete after {LIMIT_S} s: make the scenario smaller", m[0]
    return (again(exe, name, r.stdout) if m[1] == "expected" else None), " ".join(m[0].split()[1:])


def deep(exe, name):
    says = []
    for args in (("--preemptions", "3", "--stale", "2", "--seconds", "600"), ("--pct", "3", "--runs", "1000000", "--seconds", "600")):
        r = run(exe, name, *args)
        m = LINE.search(r.stdout)
        if not m or r.returncode:
            return r.stdout + r.stderr, ""
        says.append(" ".join(m[0].split()[1:]))
    return None, "; ".join(says)


def by_chance(exe, name):
    """What a random run has found, and nothing within the bounds: it says so."""
    out = run(exe, name, "--preemptions", "0", "--stale", "0").stdout
    return (again(exe, name, out) if "by chance and not within the bounds" in out else out), ""


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", type=pathlib.Path, required=True)
    args.add_argument("--deep", action="store_true")
    args.add_argument("words", nargs="*")
    args = args.parse_args()
    exe = args.build.resolve() / "tests/explore/tandem-explore"
    exe32 = exe.with_name("tandem-explore32")
    look = deep if args.deep else normal
    jobs = [(exe, n, n, look) for n in names(exe)] + [(exe, "litmus_lost_update", "litmus_lost_update, without interruptions", by_chance)]
    if exe32.exists():
        jobs += [(exe32, n, n + ", 32 bits", look) for n in names(exe32) if n.startswith(WIDE)]
    jobs = [j for j in jobs if all(w in j[2] for w in args.words)]
    print(f"1..{len(jobs)}", flush=True)
    failed = False
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, (job, (why, says)) in enumerate(zip(jobs, pool.map(lambda j: j[3](j[0], j[1]), jobs)), 1):
            print(f"{'not ' if why else ''}ok {i} - {job[2]}", flush=True)
            for line in (why or says).strip().splitlines():
                print("# " + line, flush=True)
            failed = failed or bool(why)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
