# SPDX-License-Identifier: MIT
"""devices.py - the programs that test devices: each starts an engine in itself, by the library.

They are not run under `tandem run`, of which a process can only have one or the other.
"""
import os
import re

import harness as h

# program: its parts: (quick, seconds that a quick run may take)
PROGRAMS = {
    "devices": ({"coherent": 1, "lost": 1, "unpin": 1, "there-and-back": 1, "kept": 1, "refused": 1, "full": 1, "copies-fail": 1, "detach": 1, "many": 1, "budget": 0, "hangs": 1}, 120),
    "devraces": ({"adds": 1, "adds-forks": 1, "stores": 1, "maps": 1, "found": 1}, 120),
    "devshare": ({"storm": 1, "asks": 1, "killed": 1, "stopped": 1, "forks": 1, "leaves": 1}, 120),
    "devforks": ({"storm": 1, "side-by-side": 1, "ends": 1, "bare": 1, "reads": 1, "frames": 1, "busy": 1}, 120),
}
CANNOT = 77


def flags(build):
    src = os.path.join(os.path.abspath(build), "src")
    return ["-I" + os.path.join(h.ROOT, "include"), "-L" + src, "-ltandem", "-Wl,-rpath," + src]


def library(build):
    return os.path.join(build, "src", "libtandem.so")


def run_part(name, part, args):
    def run(hs):
        exe = os.path.join(hs.args.build, "live-progs", name)
        if not os.access(exe, os.X_OK):
            raise h.Skip("there is no library (build it)")
        limit = PROGRAMS[name][1] + 20 * int(args[args.index("--seconds") + 1])
        r = hs.run([exe, *args, "--seed", str(hs.args.seed), "--dir", hs.args.scratch, "--only", part], limit=limit)
        if r.rc == CANNOT:
            raise h.Skip(r.err.strip())
        if r.rc != 0 or r.out != f"{name}: {part} ok\n":
            raise h.Failed("\n".join([f"ended with {r.rc}"] + h.tail(r)))
        if part != "lost" and re.search(r"tandem:.*(lost|could not)", r.err):
            raise h.Failed("\n".join(["tandem warned:"] + h.tail(r)))
        return f"{r.seconds:.1f} s"
    return run


def add(t):
    for name, (parts, _) in PROGRAMS.items():
        for part, quick in parts.items():
            t.add(f"{name}-{part}", run_part(name, part, ["--seconds", "2"]), quick=bool(quick))
        for part in parts:
            t.add(f"{name}-{part}-long", run_part(name, part, ["--seconds", "30"]), quick=False)
