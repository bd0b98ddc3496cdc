#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - the examples, with small sizes: they must do what examples/README.md says. TAP.

  run.py                     all of it
  run.py --plain             without an engine
  run.py kvm two             what has both words in its name

An example that cannot run here (no /dev/kvm, no right to it) says so by exit status 77, and is skipped.
"""
import argparse
import os
import re
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "live"))
import harness as h  # noqa: E402

CANNOT = 77


def kvm_exe(hs):
    exe = os.path.join(hs.args.build, "examples", "kvm-guest")
    if not os.access(exe, os.X_OK):
        raise h.Skip("examples/kvm-guest is not built")
    return exe


def kvm_run(hs, args, **how):
    r = hs.run([kvm_exe(hs), *args], limit=240, sample=True, **how)
    if r.rc == CANNOT:
        raise h.Skip(r.err.strip())
    if r.rc != 0 or not r.out.endswith("identical: yes\n"):
        raise h.Failed("\n".join([f"ended with {r.rc}"] + h.tail(r)))
    return r


def kvm(args, act=None):
    """The guest's memory is what it must be, within the budget, as seen from outside, of which a good part went out and came back."""
    def run(hs):
        if hs.args.plain:
            return h.note(kvm_run(hs, [*args, "--unmanaged"], act=act))
        r = kvm_run(hs, args, act=act)
        figures = {name: float(n) for name, n in re.findall(r"^(guest RAM|budget|peak|faults|evicted)\s+([0-9.]+)", r.out, re.M)}
        pages = figures["guest RAM"] * h.MIB / 4096
        allowed = figures["budget"] * h.MIB * 1.02 + 4 * h.MIB
        if figures["budget"] * 4 != figures["guest RAM"]:
            raise h.Failed("\n".join(["the budget is not a quarter"] + h.tail(r)))
        if figures["evicted"] < pages / 2 or figures["faults"] < pages / 2:
            raise h.Failed("\n".join(["too little was evicted and brought back for this to have tested anything"] + h.tail(r)))
        if max(r.peak, figures["peak"] * h.MIB) > allowed:
            raise h.Failed("\n".join([f"the budget was exceeded: {r.peak / h.MIB:.1f}M seen from outside"] + list(r.what) + h.tail(r)))
        return h.note(r) + f", {figures['faults']:.0f} faults from a tier"
    return run


def interrupt(proc):
    """Stops and continues it again and again: KVM_RUN ends with EINTR, also while KVM waits for a page."""
    for _ in range(10):
        time.sleep(0.1)
        if proc.poll() is not None:
            return
        proc.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        proc.send_signal(signal.SIGCONT)


def kvm_bad_input(hs):
    exe = kvm_exe(hs)
    for args in (["--ram"], ["--ram", "x"], ["--ram", "1M"], ["--ram", "63M"], ["--ram", "9G"], ["--ram", "64MB"], ["--ram", "-64M"], ["--ram", ""],
                 ["--passes", "0"], ["--passes", "2K"], ["--vcpus", "5"], ["--vcpus", "99999999999999999999"], ["--unknown"], ["file"]):
        r = hs.run([exe, *args], limit=10)
        if r.rc != 2 or r.out or len(r.err.splitlines()) != 1 or not r.err.startswith("kvm-guest: "):
            raise h.Failed("\n".join([f"{args}: ended with {r.rc}"] + h.tail(r)))
    return None


def graph_exe(hs):
    exe = os.path.join(hs.args.build, "examples", "graph")
    if not os.access(exe, os.X_OK):
        raise h.Skip("examples/graph is not built")
    return exe


def graph(args, budget=False):
    """The ranks are the same to the last bit; the device's half went to it and some of it came back; with a budget a tier took part."""
    def run(hs):
        r = hs.run([graph_exe(hs), *args], limit=240)
        if r.rc == CANNOT:
            raise h.Skip(r.err.strip())
        if r.rc != 0 or not r.out.endswith("identical: yes\n"):
            raise h.Failed("\n".join([f"ended with {r.rc}"] + h.tail(r)))
        still, moving = [[int(n) for n in m] for m in re.findall(r"s   (\d+) pages to the device, (\d+) back; (\d+) faults", r.out)]
        if still[:2] != [0, 0] or moving[0] < 200 or moving[1] < 20 or min(still[2], moving[2]) < 100:
            raise h.Failed("\n".join(["too little has moved for this to have shown anything"] + h.tail(r)))
        if budget:
            allowed, peak, out, back = map(float, re.search(r"^budget +([0-9.]+) MiB +peak ([0-9.]+) MiB; (\d+) .* (\d+) came", r.out, re.M).groups())
            if peak > allowed * 1.02 + 4 or out < 1000 or back < 1000:
                raise h.Failed("\n".join(["the budget was exceeded, or no tier took part"] + h.tail(r)))
        return h.note(r)
    return run


def graph_bad_input(hs):
    for args in (["--nodes"], ["--nodes", "9"], ["--nodes", "x"], ["--rounds", "0"], ["--degree", "-1"], ["--bus", "1"], ["--ram", "1M"], ["--ram", "9X"], ["file"]):
        r = hs.run([graph_exe(hs), *args], limit=10)
        if r.rc != 2 or r.out or len(r.err.splitlines()) != 1 or not r.err.startswith("graph: "):
            raise h.Failed("\n".join([f"{args}: ended with {r.rc}"] + h.tail(r)))
    return None


def tests():
    t = h.Tests()
    t.add("graph", graph(["--nodes", "20000", "--degree", "8", "--rounds", "2"]))
    t.add("graph-budget", graph(["--nodes", "90000", "--degree", "4", "--rounds", "1", "--ram", "11M"], budget=True))
    t.add("graph-bad-input", graph_bad_input)
    t.add("kvm-guest-one-vcpu", kvm(["--ram", "48M", "--passes", "2"]))
    t.add("kvm-guest-two-vcpus", kvm(["--ram", "48M", "--passes", "2", "--vcpus", "2"]))
    t.add("kvm-guest-interrupted", kvm(["--ram", "64M", "--passes", "1", "--vcpus", "2"], act=interrupt))
    t.add("kvm-guest-bad-input", kvm_bad_input)
    return t


def main():
    parser = h.options(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    args = parser.parse_args()
    t = tests()
    return t.main(args, h.Harness(args))


if __name__ == "__main__":
    sys.exit(main())
