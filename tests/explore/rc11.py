#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""rc11.py EXPLORE_MODEL [--seed N] [--programs N] - what the explorer lets atomics do, against the axioms; TAP.

Small random programs (model.c has their language) are run by the explorer without bounds, and judged here by the axioms of RC11 (Lahav et al., Repairing Sequential Consistency in C/C++11, PLDI 2017;
release sequences as in C++20: a release store and the read-modify-writes behind it). The outcomes must be the same, but for one thing: the explorer makes stores in an order
that all threads' programs, and all sequentially consistent operations, agree with. Of the axioms' executions those count in which sb, rf, mo and psc together have no cycle.
Programs with plain accesses: a race is found exactly where the axioms have one.
"""
import argparse
import itertools
import os
import random
import subprocess
import sys

ORDERS = {"R": "ras", "W": "rls", "X": "ralbs", "C": "ralbs", "F": "albs"}


class Event:
    def __init__(self, thread, text):
        self.thread, self.text, self.kind = thread, text, text[0]
        self.plain = self.kind == "P"
        self.loc = "p" if self.plain else None if self.kind == "F" else text[1]
        self.order = None if self.plain else text[-1]
        digits = [int(c) for c in text if c.isdigit()]
        self.expected = digits[0] if self.kind == "C" else None
        self.value = digits[-1] if digits else 0
        self.reads = self.kind in "RXC"
        self.writes = self.kind in "WXC"
        self.plain_write = text == "Pw"

    def sc(self):
        return self.order == "s"


def bits(mask):
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def compose(a, b):
    out = [0] * len(a)
    for i, row in enumerate(a):
        for j in bits(row):
            out[i] |= b[j]
    return out


def union(*relations):
    return [sum_or(rows) for rows in zip(*relations)]


def sum_or(rows):
    m = 0
    for r in rows:
        m |= r
    return m


def closure(a):
    a = list(a)
    for k in range(len(a)):
        row = a[k]
        for i in range(len(a)):
            if a[i] >> k & 1:
                a[i] |= row
    return a


def cyclic(a):
    return any(row >> i & 1 for i, row in enumerate(closure(a)))


def reflexive(a):
    return [row | 1 << i for i, row in enumerate(a)]


def only(events, test):
    return [1 << i if test(e) else 0 for i, e in enumerate(events)]


class Program:
    def __init__(self, text):
        self.text = text
        self.events = [Event(-1, "Wx0r"), Event(-1, "Wy0r")]
        for t, ops in enumerate(text.split("|")):
            self.events += [Event(t, op) for op in ops.split()]
        n = len(self.events)
        self.sb = [0] * n
        for i, a in enumerate(self.events):
            for j, b in enumerate(self.events):
                if i < j and (a.thread == -1 and b.thread != -1 or a.thread == b.thread != -1):
                    self.sb[i] |= 1 << j
        e = self.events
        self.same_loc = [sum(1 << j for j in range(n) if e[i].loc and e[i].loc == e[j].loc) for i in range(n)]
        self.reads = [i for i in range(n) if e[i].reads]

    def executions(self):
        """(rf as a list of reads' writes, what each event is: does it write?, mo by location)"""
        e = self.events
        for choice in itertools.product(*[[w for w, x in enumerate(e) if x.writes and x.loc == e[r].loc and w != r] for r in self.reads]):
            rf = dict(zip(self.reads, choice))
            writes = [x.writes and (x.kind != "C" or e[rf[i]].value == x.expected) for i, x in enumerate(e)]
            if not all(writes[w] for w in choice):
                continue
            per_loc = []
            for loc in "xy":
                ws = [i for i, x in enumerate(e) if writes[i] and x.loc == loc]
                per_loc.append([(ws[0], *p) for p in itertools.permutations(ws[1:])])
            for mo in itertools.product(*per_loc):
                if all(not writes[r] or any(w == a and r == b for o in mo for a, b in zip(o, o[1:])) for r, w in rf.items()):
                    yield rf, writes, mo

    def judge(self, rf, writes, mo_lists):
        """(consistent, the explorer has it, it races)"""
        e, n, sb = self.events, len(self.events), self.sb
        rf_rel, mo, rb = [0] * n, [0] * n, [0] * n
        for r, w in rf.items():
            rf_rel[w] |= 1 << r
        for order in mo_lists:
            for i, w in enumerate(order):
                for later in order[i + 1:]:
                    mo[w] |= 1 << later
        for r, w in rf.items():
            rb[r] = mo[w] & ~(1 << r)
        if cyclic(union(sb, rf_rel)):
            return False, False, False
        hb = self.happens_before(rf, writes)
        if any(row >> i & 1 for i, row in enumerate(hb)):
            return False, False, False
        eco = closure(union(rf_rel, mo, rb))
        if any(row >> i & 1 for i, row in enumerate(compose(hb, reflexive(eco)))):
            return False, False, False
        psc = self.psc(hb, eco, mo, rb)
        if cyclic(psc):
            return False, False, False
        racy = any(a.plain and b.plain and a.thread != b.thread and (a.plain_write or b.plain_write) and not hb[i] >> j & 1 and not hb[j] >> i & 1
                   for i, a in enumerate(e) for j, b in enumerate(e) if i < j)
        return True, not cyclic(union(sb, rf_rel, mo, psc)), racy

    def happens_before(self, rf, writes):
        e, n, sb = self.events, len(self.events), self.sb
        step = [0] * n  # rf; rmw
        for r, w in rf.items():
            if writes[r]:
                step[w] |= 1 << r
        sequence = reflexive(closure(step))
        seen = [0] * n
        for r, w in rf.items():
            seen[w] |= 1 << r
        reaches = compose(sequence, seen)  # rs; rf
        fence = only(e, lambda x: x.kind == "F")
        # A compare-and-exchange that fails has the order of an acquire, or none: it writes nothing that could carry a release.
        release = only(e, lambda x: x.order in ("l", "b", "s"))
        acquire = only(e, lambda x: x.order in ("a", "b", "s"))
        atomic_write = [1 << i if writes[i] else 0 for i in range(n)]
        identity = reflexive([0] * n)
        before = compose(release, union(identity, compose(fence, sb)))
        after = compose(union(identity, compose(sb, fence)), acquire)
        sw = compose(compose(compose(before, atomic_write), reaches), after)
        return closure(union(sb, sw))

    def psc(self, hb, eco, mo, rb):
        e, sb = self.events, self.sb
        elsewhere = [row & ~same for row, same in zip(sb, self.same_loc)]
        hb_loc = [row & same for row, same in zip(hb, self.same_loc)]
        scb = union(sb, compose(compose(elsewhere, hb), elsewhere), hb_loc, mo, rb)
        sc, fence = only(e, Event.sc), only(e, lambda x: x.kind == "F" and x.sc())
        hb_maybe = reflexive(hb)
        base = compose(compose(union(sc, compose(fence, hb_maybe)), scb), union(sc, compose(hb_maybe, fence)))
        fences = compose(compose(fence, union(hb, compose(compose(hb, eco), hb))), fence)
        return union(base, fences)

    def outcome(self, rf, mo):
        return "".join(str(self.events[rf[r]].value) for r in self.reads) + ":" + "".join(str(self.events[o[-1]].value) for o in mo)

    def outcomes(self):
        """(what the explorer should have, what RC11 has); {"race"} if there is one."""
        ours, all_of_them, race = set(), set(), False
        for rf, writes, mo in self.executions():
            consistent, has, racy = self.judge(rf, writes, mo)
            if consistent:
                all_of_them.add(self.outcome(rf, mo))
            if has:
                ours.add(self.outcome(rf, mo))
                race |= racy
        return ({"race"} if race else ours), all_of_them


def random_program(rng):
    plain = rng.random() < 0.3
    nthreads = rng.choice((2, 2, 2, 3))
    most = 7 if nthreads == 2 else 6
    lengths = [1] * nthreads
    for _ in range(rng.randint(nthreads, most) - nthreads):
        lengths[rng.randrange(nthreads)] += 1
    value = {"x": 0, "y": 0}
    # Some programs favour one order: what only sequentially consistent operations do would be rare otherwise.
    favour = rng.choice((None, None, "s", "r"))
    threads = []
    for length in lengths:
        ops = []
        for _ in range(length):
            kind = rng.choices("RWXCF", (8, 8, 2, 2, 4))[0]
            if plain and rng.random() < 0.35:
                ops.append(rng.choice(("Pr", "Pw", "Pw")))
                continue
            order = favour if favour and favour in ORDERS[kind] and rng.random() < 0.7 else rng.choice(ORDERS[kind])
            if kind == "F":
                ops.append("F" + order)
                continue
            loc = rng.choice("xy")
            old = str(rng.randint(0, value[loc] + 1)) if kind == "C" else ""
            if kind != "R":
                value[loc] += 1
            ops.append(kind + loc + old + (str(value[loc]) if kind != "R" else "") + order)
        threads.append(" ".join(ops))
    return "|".join(threads)


# Those that random programs seldom are.
CLASSIC = {
    "2+2W": "Wx1r Wy2r|Wy1r Wx2r",
    "2+2W, release": "Wx1l Wy2l|Wy1l Wx2l",
    "IRIW": "Wx1r|Wy1r|Rxa Rya|Rya Rxa",
    "IRIW, sequentially consistent": "Wx1s|Wy1s|Rxs Rys|Rys Rxs",
    "IRIW, fences": "Wx1r|Wy1r|Rxr Fs Ryr|Ryr Fs Rxr",
    "WRC": "Wx1r|Rxr Wy1l|Rya Rxr",
    "WRC, acquire": "Wx1l|Rxa Wy1l|Rya Rxr",
    "load buffering": "Rxr Wy1r|Ryr Wx1r",
    "a fence and sequentially consistent operations": "Wx1r Fs Ryr|Wy1s Rxs",
    "sequentially consistent stores, then a fence": "Wx1s Ryr|Wy1r Fs Rxr",
    "what others saw": "Wx1r Wx2r|Rxr Wy1l Rxr|Rya Rxr",
    "a release sequence": "Pw Wx1l|Xx2r|Rxa Pr",
    "a store into a release sequence": "Pw Wx1l Wx2r|Rxa Pr",
    "fences order nothing by themselves": "Pw Fs|Fs Pr",
    "Dekker": "Wx1r Fs Ryr Pw|Wy1r Fs Rxr",
    "coherence across happens-before": "Wx1r|Rxr Wy1l Rxr|Rya Rxr Rxr",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exe")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("TDM_SEED", "1")))
    parser.add_argument("--programs", type=int, default=400)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    named = list(CLASSIC.items()) + [("random", random_program(rng)) for _ in range(args.programs)]
    r = subprocess.run([args.exe], input="".join(p + "\n" for _, p in named), capture_output=True, text=True, check=False)
    found = r.stdout.splitlines()
    if r.returncode or len(found) != len(named):
        print(f"1..1\nnot ok 1 - explore-model\n# {r.stderr.strip()}")
        return 1
    wrong, weaker, races, outcomes = {"random": []}, 0, 0, 0
    for (name, text), line in zip(named, found):
        ours, everything = Program(text).outcomes()
        got = set(line.split())
        races += ours == {"race"}
        outcomes += len(ours)
        weaker += ours != {"race"} and bool(everything - ours)
        wrong.setdefault(name, [])
        if got != ours:
            wrong[name].append(f"{text}: the explorer alone: {' '.join(sorted(got - ours)) or '-'}; the axioms alone: {' '.join(sorted(ours - got)) or '-'}")
    print(f"1..{len(wrong)}")
    for i, (name, what) in enumerate(wrong.items(), 1):
        print(f"{'not ' if what else ''}ok {i} - {name + f' programs, seed {args.seed}' if name == 'random' else name + ': ' + CLASSIC[name]}")
        for w in what[:20]:
            print(f"# {w}")
        if len(what) > 20:
            print(f"# and {len(what) - 20} more")
    print(f"# {len(named)} programs, {outcomes} outcomes, {races} with races; RC11 has more outcomes for {weaker} of them (executions in which sb, rf, mo and psc have a cycle)")
    return any(wrong.values())


if __name__ == "__main__":
    sys.exit(main())
