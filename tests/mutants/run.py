#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py BUILDDIR [LIST...] [-k PATTERN] - do the tests notice when a protection is taken out?

A list (*.txt beside this file) has mutants: "== what is taken out", then "FILE: TEST", then replacements: lines that begin with "- ", and those that
take their place, "+ ". What is replaced is text that occurs once, its lines joined; leading blanks of the first line do not count. Each mutant is applied to
a copy of the sources in BUILDDIR, which is configured and built there, once; the test must pass without any, and fail with each of them, in any way
but by not compiling. The output is TAP.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIMIT_S = 100


def read_list(path):
    """The mutants of a list: (name, file, test, [(old, new)])."""
    mutants, hunk = [], None
    for line in path.read_text().splitlines():
        if line.startswith("== "):
            mutants.append({"name": line[3:], "file": None, "hunks": []})
            hunk = None
        elif not mutants:
            continue
        elif line.startswith("- "):
            if hunk is None or hunk[1]:
                hunk = ([], [])
                mutants[-1]["hunks"].append(hunk)
            hunk[0].append(line[2:])
        elif line.startswith("+"):
            hunk[1].append(line[2:])
        elif line.strip():
            mutants[-1]["file"], mutants[-1]["test"] = line.split(": ")
    return mutants


def apply(text, hunks):
    """The text with each of them in its place, or None."""
    for old, new in hunks:
        old, new = "\n".join(old), "\n".join(new)
        if text.count(old) != 1:
            return None
        text = text.replace(old, new)
    return text


def sources():
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True)
    return [n for n in names.stdout.decode().split("\0") if n and (ROOT / n).is_file()]


def copy_sources(to):
    for name in sources():
        target = to / name
        if target.exists() and target.read_bytes() == (ROOT / name).read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)


def program(test):
    """Its target, and arguments. "scripts" is no unit test: scripts of operations, at random."""
    return ("tests/fuzz/fuzz-space", ["--seconds", "60", "--raw"]) if test == "scripts" else (f"tests/unit/test-{test}", [])


def build(builddir, test):
    return subprocess.run(["ninja", "-C", builddir, "--quiet", program(test)[0]], capture_output=True, check=False).returncode == 0


def passes(builddir, test):
    """Does the test pass? What it says when it does not."""
    target, args = program(test)
    try:
        r = subprocess.run([builddir / target, *args], capture_output=True, timeout=LIMIT_S, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        return False, "it does not end"
    if test == "scripts":
        return r.returncode == 0, " ".join(r.stdout.splitlines()[1:3])
    bad = [line for line in r.stdout.splitlines() if line.startswith("not ok")]
    return r.returncode == 0 and not bad, ", ".join(b.split(" - ")[1] for b in bad[:3]) + (" ..." if len(bad) > 3 else "")


def check(mutant, src, builddir):
    """None if the test notices it, else why not; and what it says."""
    path = src / mutant["file"]
    text = path.read_text()
    mutated = apply(text, mutant["hunks"])
    if not mutant["hunks"] or mutated is None:
        return "the text is not there, or more than once", ""
    path.write_text(mutated)
    try:
        if not build(builddir, mutant["test"]):
            return "it does not compile", ""
        ok, says = passes(builddir, mutant["test"])
        return ("the test passes", "") if ok else (None, says)
    finally:
        path.write_text(text)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("builddir", type=pathlib.Path)
    args.add_argument("lists", nargs="*", type=pathlib.Path)
    args.add_argument("-k", dest="pattern", default="")
    args = args.parse_args()
    lists = args.lists or sorted(HERE.glob("*.txt"))
    mutants = [m for path in lists for m in read_list(path) if args.pattern in m["name"]]
    src, builddir = args.builddir.resolve() / "src", args.builddir.resolve() / "build"
    copy_sources(src)
    if not (builddir / "build.ninja").exists():
        subprocess.run(["meson", "setup", builddir, src, "-Ddebug_checks=true"], stdout=subprocess.DEVNULL, check=True)
    print(f"1..{len(mutants) + 1}", flush=True)
    bad = [t for t in sorted({m["test"] for m in mutants}) if not build(builddir, t) or not passes(builddir, t)[0]]
    print(f"{'not ' if bad else ''}ok 1 - without a mutant", *bad, flush=True)
    failed = bool(bad)
    for i, m in enumerate(mutants, 2):
        why, says = check(m, src, builddir)
        print(f"{'not ' if why else ''}ok {i} - {m['name']}\n#   {m['test']}: {why or says}", flush=True)
        failed = failed or bool(why)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("TDM_SECONDS", "4")
    sys.exit(main())
