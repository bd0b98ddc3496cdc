#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - the scenarios in examples/sim: each must answer its question as docs/sim.md says, and two runs with one seed must agree to the bit. TAP.

  run.py                     all of it
  run.py aging               what has the word in its name
"""
import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "live"))
import harness as h  # noqa: E402


@functools.cache
def sim(hs, name, *options, limit=180):
    """What `tandem sim --json` prints, as text. Run once."""
    return again(hs, name, *options, limit=limit)


def again(hs, name, *options, limit=180):
    cmd = [hs.args.tandem, "sim", "--json", *options, os.path.join(ROOT, "examples", "sim", name + ".sim")]
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit)
    if r.returncode or r.stderr:
        raise h.Failed(f"{' '.join(cmd)}: ended with {r.returncode}: {r.stderr}")
    return r.stdout


def rows(text):
    """Each point's values, by the values of the sweep."""
    return [([str(v) for v in r["point"].values()], r["values"]) for r in json.loads(text)["rows"]]


def expect(what, *values):
    if not what:
        raise h.Failed("not what the documentation says: " + ", ".join(str(v) for v in values))


def shootdown(hs):
    cost = {(p[0], int(p[1])): v["unmapper.cycles/unmapper.done"] for p, v in rows(sim(hs, "shootdown"))}
    for n in (2, 4, 8, 16, 32):
        expect(cost["ipi", n] < cost["ipi", 2 * n], "an interrupt for each CPU", n, cost)
    expect(cost["local", 2] == cost["local", 64], "nobody to be told", cost)
    expect(cost["ipi", 64] > 4 * cost["broadcast", 64] > 4 * cost["local", 64], "with 64 CPUs", cost)
    return f"64 CPUs: {cost['local', 64]:.0f}, ipi {cost['ipi', 64]:.0f}, broadcast {cost['broadcast', 64]:.0f} cycles"


def batch(hs):
    t = {tuple(p): v for p, v in rows(sim(hs, "reclaim-batch"))}
    each, all_of = t["on", "off"], t["on", "on"]
    expect(each["syncs"] > 4 * all_of["syncs"] and each["sync_cycles"] > 2 * all_of["sync_cycles"], each, all_of)
    expect(each["kswapd.cycles"] > 1.1 * all_of["kswapd.cycles"], "reclaim gets cheaper", each, all_of)
    expect(t["off", "off"]["ipis"] > 4 * all_of["ipis"], "so do the CPUs' flushes", t["off", "off"], all_of)
    return f"syncs {each['syncs']} to {all_of['syncs']}, reclaim {each['kswapd.cycles']} to {all_of['kswapd.cycles']} cycles"


def dma(hs):
    t = {tuple(p): v for p, v in rows(sim(hs, "dma-reclaim"))}
    for p, v in t.items():
        expect(v["stream.done"] == 2000, "every transfer ends", p, v)
    pinned = [v for p, v in t.items() if p[0] == "none"]
    pri = [v for p, v in t.items() if p[:2] == ("pri", "0")]
    expect(all(v["page_requests"] == v["stalls"] == 0 for v in pinned), "what is pinned does not fault", pinned)
    expect(min(v["stream.cycles"] for v in pri) > 4 * max(v["stream.cycles"] for v in pinned), "faults cost", pri, pinned)
    return None


def progress(hs):
    t = {tuple(p): v for p, v in rows(sim(hs, "pri-progress"))}
    group, size, transfers = "16", 64 << 10, 20
    for p, v in t.items():
        if p[2] != "0":
            expect(v["stream.done"] == transfers and v["stream.bytes"] == transfers * size, "pins: it ends", p, v)
            expect(v["dma_retries_most"] <= int(p[2]), "and no page is tried more often than that", p, v)
    for every in ("20us", "5us"):
        stuck, pinned = t["pri", group, "0", every], t["pri", group, "2", every]
        expect(stuck["stream.done"] == 0 and stuck["stream.bytes"] < size, "a group never finds all of its pages", every, stuck)
        expect(stuck["stream.retries"] > 200 and stuck["stream.retries"] + 1 >= stuck["groups"] - 1, "each answer is followed by a retry", every, stuck)
        expect(stuck["stream.cycles"] >= 3000000 * 50, "it comes to the limit", every, stuck)
        expect(pinned["pins"] > 0, "pins were needed", every, pinned)
    long = rows(sim(hs, "pri-progress", "--set", "run.time=250ms", "--set", "agent.kswapd.every=20us"))
    later = {tuple(p): v for p, v in long}["pri", group, "0", "20us"]
    stuck = t["pri", group, "0", "20us"]
    expect(later["stream.bytes"] == stuck["stream.bytes"] and later["stream.retries"] > 4 * stuck["stream.retries"], "more time, more retries", later, stuck)
    return f"groups of {group}: {stuck['stream.retries']} retries, {stuck['stream.bytes']} bytes; {later['stream.retries']} in five times the time"


def endless(hs):
    """Without a limit in time a device that does not get on is an error, and not a hang."""
    path = os.path.join(ROOT, "examples", "sim", "pri-progress.sim")
    with tempfile.NamedTemporaryFile("w", suffix=".sim") as f, open(path, encoding="utf-8") as of:
        f.write("".join(line for line in of if not line.startswith("time =")))
        f.flush()
        r = subprocess.run([hs.args.tandem, "sim", "--set", "agent.kswapd.every=20us", f.name], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
    if r.returncode != 1 or r.stdout or "stream: nothing that has an end has got on for a second" not in r.stderr or r.stderr.count("\n") != 1:
        raise h.Failed(f"ended with {r.returncode}: {r.stdout}{r.stderr}")


def fork(hs):
    t = {tuple(p): v for p, v in rows(sim(hs, "fork-exec"))}
    expect(t["off", "0%"]["coherent_copied"] > 100, "a device that asks for writing drags pages home", t)
    expect(t["on", "0%"]["coherent_copied"] == 0 and t["on", "0%"]["iommu_faults"] == 0, "one that only reads does not", t)
    return f"dragged home: {t['off', '0%']['coherent_copied']} and {t['on', '0%']['coherent_copied']}"


def fill(hs):
    t = {tuple(p): v for p, v in rows(sim(hs, "object-fill"))}
    one, single = t["range", "on", "0", "off"], t["fault", "off", "0", "off"]
    expect(one["leaf_1g"] == 1 and one["fill.faults"] == 0, "one leaf of 1 GiB", one)
    expect(single["fill.faults"] == 1 << 18 and single["fill.cycles"] > 10000 * one["fill.cycles"], "2^18 faults", single, one)
    expect(t["range", "on", "4K", "off"]["leaf_4k"] >= 1 << 18, "misaligned: entries of 4 KiB", t["range", "on", "4K", "off"])
    after = [t["range", "on", "0", c]["read.cycles/read.done"] for c in ("off", "on")]
    expect(after[0] > 10 * after[1], "an eviction, with and without collapse", after)
    return f"fill {one['fill.cycles']} and {single['fill.cycles']} cycles, reads afterwards {after[0]} and with collapse {after[1]}"


def aging(hs):
    t = {tuple(p): v for p, v in rows(sim(hs, "aging"))}
    clear, flush, secondary = (t[how, "64x4"] for how in ("clear", "flush", "flush-secondary"))
    expect(clear["wrong"] > flush["wrong"], "wrong evictions without a flush", clear, flush)
    expect(clear["wrong"] > secondary["wrong"], "or with one of the secondary MMUs alone", clear, secondary)
    expect(flush["flushes"] > 10 * clear["flushes"] and secondary["flushes"] < 2 * clear["flushes"], "flushes", clear, flush, secondary)
    return f"wrong evictions {clear['wrong']}, {flush['wrong']}, {secondary['wrong']}; syncs {clear['syncs']}, {flush['syncs']}, {secondary['syncs']}"


def guest(hs):
    t = {tuple(p): v for p, v in rows(sim(hs, "guest-aging"))}
    modes = ("lockless", "read", "write")
    cost = {}
    for n in ("5", "17", "65"):
        free, read, write = (t[n, "none", "256M", "clear", mode] for mode in modes)
        cost[n] = [v["workers.slowest"] for v in (free, read, write)]
        expect(cost[n][0] < cost[n][1] < cost[n][2], "the lock delays vCPUs that fault, for writing more than for reading", n, cost[n])
        expect(free["guest_wait_cycles"] < read["guest_wait_cycles"] < write["guest_wait_cycles"], "because they wait", n, free, read, write)
        expect(free["guest_mm_wait_cycles"] == 0 < read["guest_mm_wait_cycles"], "and so does aging", n, free, read)
        expect(free["guest_asked"] > 1.2 * read["guest_asked"] >= 1.2 * write["guest_asked"], "which gets less far", n, free, read, write)
        expect(all(v["swapped_out"] == 0 for v in (free, read, write)), "without a tier it only looks", n, free, read, write)
    expect(cost["17"][2] < 1.05 * cost["17"][0] and cost["65"][1] > 1.1 * cost["65"][0], "a few parts of a hundred with 16 vCPUs, more than ten with 64", cost)
    for mode in modes:
        clear, flush = (t["17", "lz4", "44M", how, mode] for how in ("clear", "flush"))
        # The set in use has 256 pages, each of which is faulted in once.
        expect(clear["hot.faults"] > 350 and flush["hot.faults"] == 256, "what goes by mistake goes for want of a flush, not because of the lock", mode, clear, flush)
        expect(flush["workers.slowest"] > 3 * clear["workers.slowest"] and flush["ipis"] > 4 * clear["ipis"], "and flushes cost more than the lock", mode, clear, flush)
    return f"slowest of 64 vCPUs: {cost['65']}"


def twice(hs):
    """Bit for bit, and not with another seed."""
    for name, *options in (("reclaim-batch",), ("fork-exec",), ("aging",), ("guest-aging", "--set", "guest.vm.aging=write")):
        a, b, c = sim(hs, name, *options), again(hs, name, *options), sim(hs, name, *options, "--seed", "2")
        if a != b:
            raise h.Failed(f"{name}: two runs with one seed differ")
        if json.loads(a)["generator"] == json.loads(c)["generator"]:
            raise h.Failed(f"{name}: another seed ends in the same state of the generators")


def main():
    parser = h.options(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    t = h.Tests()
    for name, run in {"shootdown": shootdown, "reclaim-batch": batch, "dma-reclaim": dma, "pri-progress": progress, "endless": endless, "fork-exec": fork, "object-fill": fill,
                      "aging": aging, "guest-aging": guest, "twice": twice}.items():
        t.add(name, run)
    args = parser.parse_args()
    return t.main(args, h.Harness(args))


if __name__ == "__main__":
    sys.exit(main())
