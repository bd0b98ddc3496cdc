#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""mutants.py BUILDDIR [LIST...] [-k PATTERN] [-j N] - does the explorer find mistakes that are put into the engine?

A list (mutants*.txt beside this file) has mutants in the format of tests/mutants (see run.py there): "== what is wrong", then "FILE: SCENARIO", then lines
"- " and "+ ". A header is given with the files to be compiled with it: "src/mm/page.h (src/mm/pin.c src/mm/fork.c): SCENARIO". Each mutant's
file alone is compiled, as BUILDDIR compiles it for the explorer, and linked before the rest. Found: the scenario fails, within the bounds of CI, or others that stand behind its
name ("SCENARIO --stale 2"). The output is TAP, with the number of runs that it took.
"""
import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIMIT_S = 120


def lists_module():
    spec = importlib.util.spec_from_file_location("mutants_run", ROOT / "tests/mutants/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LISTS = lists_module()


class Build:
    """How the explorer's files are compiled and linked there."""

    def __init__(self, builddir):
        self.dir = builddir
        self.commands = {}
        for c in json.loads((builddir / "compile_commands.json").read_text()):
            if re.search(r"explore-(engine|scenarios)\.a\.p/", c["output"]):
                self.commands[(builddir / c["file"]).resolve()] = shlex.split(c["command"])

    def compile(self, source, mutated, include, out):
        cmd, skip = [], False
        for word in self.commands[source]:
            if skip:
                skip = False
            elif word in ("-o", "-MF", "-MQ", "-c"):
                skip = True
            elif word not in ("-MD", "-Werror"):
                cmd.append(word)
        # The mutated header comes first, whoever includes it.
        cmd[1:1] = [f"-I{include}"]
        return subprocess.run([*cmd, "-w", "-c", str(mutated), "-o", str(out)], cwd=self.dir, capture_output=True, text=True, check=False)

    def link(self, objects, out):
        lib = self.dir / "tests/explore"
        main = lib / "tandem-explore.p/main.c.o"
        cmd = [self.commands[next(iter(self.commands))][0], "-o", out, *objects, main, "-Wl,--whole-archive", lib / "libexplore-scenarios.a", "-Wl,--no-whole-archive",
               "-Wl,--start-group", lib / "libexplore-engine.a", lib / "libexplore-runtime.a", "-Wl,--end-group", "-ldl"]
        return subprocess.run(cmd, cwd=self.dir, capture_output=True, text=True, check=False)


def files_of(mutant):
    """The file that is changed, and those that are compiled."""
    m = re.fullmatch(r"(\S+)(?: \((.*)\))?", mutant["file"])
    changed = ROOT / m[1]
    return changed, [ROOT / f for f in m[2].split()] if m[2] else [changed]


def make(build, mutant, tmp):
    """The explorer with the mutant; a message if there is none."""
    changed, sources = files_of(mutant)
    text = LISTS.apply(changed.read_text(), mutant["hunks"])
    if not mutant["hunks"] or text is None:
        return None, "the text is not there, or more than once"
    place = tmp / changed.relative_to(ROOT / "src") if changed.is_relative_to(ROOT / "src") else tmp / changed.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    objects = []
    for i, source in enumerate(sources):
        if source not in build.commands:
            return None, f"{source.relative_to(ROOT)} is not part of the explorer"
        out = tmp / f"{i}.o"
        r = build.compile(source, place if source == changed else source, tmp, out)
        if r.returncode:
            return None, "it does not compile: " + r.stderr.strip().splitlines()[0]
        objects.append(out)
    exe = tmp / "explore"
    r = build.link(objects, exe)
    return (exe, None) if r.returncode == 0 else (None, "it does not link: " + r.stderr.strip().splitlines()[-1])


def check(build, mutant):
    """None if the explorer finds it, else why not; and what it says."""
    with tempfile.TemporaryDirectory() as name:
        exe, why = make(build, mutant, pathlib.Path(name))
        if why:
            return why, ""
        try:
            r = subprocess.run([exe, mutant["test"], "--seconds", str(LIMIT_S)], capture_output=True, timeout=2 * LIMIT_S, check=False, text=True, errors="replace")
        except subprocess.TimeoutExpired:
            return "it does not end", ""
        if r.returncode == 2:
            return r.stderr.strip(), ""
        m = re.search(r" (FAILED|NOT FOUND) +(\d+) runs +([0-9.]+) s.*\n +(.*)", r.stdout)
        if r.returncode == 0 or not m:
            return "it survives" if r.returncode == 0 else r.stdout + r.stderr, ""
        if "by chance" in r.stdout:
            return "within the bounds it survives; a random run has found it: " + m[4], ""
        return None, f"{mutant['test']}: in {m[2]} runs, {m[3]} s: {m[4]}"


def main():
    args = argparse.ArgumentParser()
    args.add_argument("builddir", type=pathlib.Path)
    args.add_argument("lists", nargs="*", type=pathlib.Path)
    args.add_argument("-k", dest="pattern", default="")
    args.add_argument("-j", dest="jobs", type=int, default=os.cpu_count())
    args = args.parse_args()
    lists = args.lists or sorted(HERE.glob("mutants*.txt"))
    mutants = [m for path in lists for m in LISTS.read_list(path) if args.pattern in m["name"] or args.pattern in m["test"]]
    build = Build(args.builddir.resolve())
    print(f"1..{len(mutants)}", flush=True)
    failed = False
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for i, (m, (why, says)) in enumerate(zip(mutants, pool.map(lambda m: check(build, m), mutants)), 1):
            print(f"{'not ' if why else ''}ok {i} - {m['name']}\n# {(why or says).strip()}", flush=True)
            failed = failed or bool(why)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
