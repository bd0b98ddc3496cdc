#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py [BUILD] [--only ROW]... [--quick] [--json FILE] [--tandem=COMMAND] [--list] - see run.sh and docs/performance.md.

Each row runs both sides in turn, in changing order, and compares medians. Nothing is pinned, except where a row says so, then on both sides.
"""
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'scripts'))
import workloads  # noqa: E402
import zram       # noqa: E402
from workloads import Failed  # noqa: E402

MIB = 1 << 20
PHYSICAL = 512  # MiB in all, for both sides of the swap rows
DATA = 1024     # MiB
CHILDREN = 300


class Bench:
    """The command line, what was found, and the results so far."""

    def __init__(self):
        self.build, self.only, self.runs, self.json, self.tandem = 'build', [], int(os.environ.get('BENCH_RUNS', '5')), None, None
        self.rows, self.raw, self.dir = [], {}, None

    def path(self, name):
        p = os.path.abspath(os.path.join(self.build, 'bench', name))
        if not os.access(p, os.X_OK):
            raise Failed(f'{name} has not been built')
        return p

    def run(self, argv, front=(), **kw):
        """Run a benchmark program; it prints one line of JSON. Returns that, or None if it failed (and says so)."""
        return parse(call([*front, *argv], cwd=self.dir, stderr=subprocess.PIPE, **kw))

    def managed(self, ram, stats=None):
        return [*self.tandem, 'run', '--ram', ram, '--quiet', *(['--stats', stats] if stats else []), '--']

    def row(self, name, what, ours, theirs, ratio, target, met):
        """One line of the table; met: True, False, or None where there is nothing to meet."""
        self.rows.append((name, what, ours, theirs, ratio, target, met))
        note(f'    {what}: {ours} against {theirs}: {ratio}' + ('' if met is None else f' ({target}: {"met" if met else "NOT MET"})'))

    def skip(self, name, why):
        self.rows.append((name, f'skipped: {why}', '', '', '', '', None))
        note(f'    skipped: {why}')


def note(text):
    print(text, flush=True)


def call(argv, **kw):
    """subprocess.run(), but whatever ends us ends all that was started, not only the first process of it."""
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True, **kw)
    try:
        out, err = child.communicate(timeout=1800)
    except subprocess.TimeoutExpired:
        raise Failed(f'{argv[0]}: not finished after 1800 s') from None
    finally:
        if child.returncode is None:
            workloads.kill_group(child)
    return subprocess.CompletedProcess(argv, child.returncode, out, err)


def parse(p):
    lines = p.stdout.decode(errors='replace').strip().splitlines()
    if p.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = p.stderr.decode(errors='replace').strip().splitlines()
    how = f'signal {-p.returncode}' if p.returncode < 0 else f'exit status {p.returncode}'
    note(f'    failed: {how}' + (f': {said[-1]}' if said else ''))
    return None


def median(runs, key):
    values = [r[key] for r in runs if r]
    return statistics.median(values) if values else None


def spread(runs, key):
    values = [r[key] for r in runs if r]
    return f'{min(values):.2f}..{max(values):.2f}' if values else '-'


def in_turn(n, first, second):
    """n runs of each, the order changing from one to the next."""
    a, b = [], []
    for i in range(n):
        for side in ((a, first), (b, second))[::-1 if i % 2 else 1]:
            side[0].append(side[1]())
    return a, b


# --- a program that fits its budget ---

def bench_fits(b):
    text, index, part, functions = 150, 60, 60, 6
    chosen = workloads.programs(text, index, part, functions)
    workloads.check_present(chosen)
    workloads.make_text(b.dir, text)
    workloads.make_part(b.dir, part)
    workloads.make_sources(b.dir, functions)
    sampler = b.path('sample')
    for p in chosen:
        workloads.run(p, b.dir, sampler, (), 600)  # once for the page cache
        ours, theirs = in_turn(b.runs, lambda: workloads.run(p, b.dir, sampler, b.managed('1G'), 600),
                               lambda: workloads.run(p, b.dir, sampler, (), 600))
        b.raw[f'fits {p.name}'] = ours, theirs
        if any(r['digest'] != theirs[0]['digest'] for r in ours + theirs):
            raise Failed(f'{p.name}: the outputs differ')
        t, u = median(ours, 'wall_s'), median(theirs, 'wall_s')
        b.row('fits', f'{p.name} with room enough: time', f'{t:.2f} s', f'{u:.2f} s', f'{(t / u - 1) * 100:+.1f}%', 'at most +2%', t <= 1.02 * u)
        t, u = (statistics.median(r['user_s'] + r['sys_s'] for r in side) for side in (ours, theirs))
        b.row('fits', f'{p.name} with room enough: CPU time', f'{t:.2f} s', f'{u:.2f} s', f'{(t / u - 1) * 100:+.1f}%', '', None)
        t, u = median(ours, 'peak_kib') / 1024, median(theirs, 'peak_kib') / 1024
        b.row('fits', f'{p.name} with room enough: peak', f'{t:.0f} MiB', f'{u:.0f} MiB', f'{t - u:+.1f} MiB', 'at most +2% + 16 MiB', t <= 1.02 * u + 16)


# --- starting a small child ---

def bench_child(b):
    loop = f't=$(date +%s%N); i=0; while [ $i -lt {CHILDREN} ]; do sh -c true; i=$((i + 1)); done; echo $(($(date +%s%N) - t))'

    def children(front):
        p = call([*front, 'sh', '-c', loop])
        if p.returncode != 0 or not p.stdout.strip().isdigit():
            raise Failed(f'the shell loop failed with exit status {p.returncode}')
        return {'ms': int(p.stdout) / 1e6 / CHILDREN}

    ours, theirs = in_turn(b.runs, lambda: children(b.managed('1G')), lambda: children(()))
    b.raw['child'] = ours, theirs
    t, u = median(ours, 'ms'), median(theirs, 'ms')
    b.row('child', f'`sh -c true`, each of {CHILDREN} from a shell loop', f'{t:.2f} ms', f'{u:.2f} ms', f'{t - u:+.2f} ms', 'at most +1 ms', t - u <= 1)


# --- a soft fault ---

def bench_soft(b):
    soft = b.path('soft')
    # What the engine brings back at once decides what the bare loop has to move: the first run finds it out.
    first = b.run([soft, 'engine', 'MIB=64', 'ROUNDS=3'])
    if not first:
        raise Failed('soft engine does not run')
    pages = 1
    while pages < 512 and pages * 1.5 < first['pages_fault']:
        pages *= 2
    arrangements = ('same', 'each', 'free')
    tries = {a: b.run([soft, 'bare', f'PAGES={pages}', 'ROUNDS=3', a]) for a in arrangements}
    best = min((a for a in arrangements if tries[a]), key=lambda a: tries[a]['ns_fault'])
    note('    bare loop: ' + ', '.join(f'{a} {tries[a]["ns_fault"] / 1e3:.1f} us' for a in arrangements if tries[a]) + f'; the fastest is the baseline')
    ours, theirs = in_turn(b.runs, lambda: b.run([soft, 'engine', f'PAGES={pages}']), lambda: b.run([soft, 'bare', f'PAGES={pages}', best]))
    b.raw['soft'] = ours, theirs
    if not any(ours):
        raise Failed('soft engine does not run')
    t, u = median(ours, 'ns_fault') / 1e3, median(theirs, 'ns_fault') / 1e3
    b.row('soft', f'a soft fault ({pages} pages; bare loop: {best})', f'{t:.2f} us', f'{u:.2f} us', f'{t / u:.2f}', 'at most 1.25', t <= 1.25 * u)


# --- lz4 ---

def bench_tiers(b):
    runs = [b.run([b.path('tiers'), f'ROUNDS={max(b.runs, 1)}'])]
    if not runs[0]:
        raise Failed('tiers does not run')
    b.raw['tiers'] = runs, []
    r = runs[0]
    note(f'    data: {r["ratio64"]:.2f}:1 in pieces of 64 KiB, {r["ratio4"]:.2f}:1 in pages; lz4 alone GB/s: 64 KiB {r["comp64"]:.2f} in '
         f'{r["decomp64"]:.2f} out, 4 KiB {r["comp4"]:.2f} in {r["decomp4"]:.2f} out')
    for key, what, base, target in (('touch', 'restoring sequentially, by touching', 'decomp64', 0.6), ('in', 'restoring, by tdm_pagein()', 'decomp64', None),
                                    ('out', 'evicting', 'comp64', 0.8)):
        # By the clock and by CPU time; the worse of the two counts.
        ratio = min(r[key] / r[base], r[key + '_cpu'] / r[base + '_cpu'])
        b.row('tiers', what + ' (the worse of clock and CPU time)', f'{r[key]:.2f} ({r[key + "_cpu"]:.2f}) GB/s', f'{r[base]:.2f} ({r[base + "_cpu"]:.2f}) GB/s',
              f'{ratio * 100:.0f}%', f'at least {target * 100:.0f}%' if target else '', ratio >= target if target else None)


# --- twice the memory there is, against kernel swap ---

SWAP = [  # pattern, threads, writes, times faster
    ('seq', 1, False, 3), ('seq', 1, True, 3), ('seq', 2, False, 2), ('seq', 2, True, 2),
    ('uniform', 1, False, 1.2), ('uniform', 2, False, 1.2), ('zipf', 1, False, 1.2), ('zipf', 2, False, 1.2),
]


class Sides:
    """How one run of swapbench goes on either side, in the same physical memory."""

    def __init__(self, b):
        self.b, self.limit, self.killed = b, 0, 0

    def swapbench(self, cell):
        pattern, threads, write, _ = cell
        return [self.b.path('swapbench'), pattern, f'MIB={DATA}', f'THREADS={threads}', *(['rw'] if write else [])]

    def kernel(self, cell, limit=None):
        with zram.Zram(limit or self.limit) as z:
            p = z.run([self.b.path('sample'), '-o', self.b.dir + '/measured', '--', *self.swapbench(cell)], cwd=self.b.dir,
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            used, peak, kills = z.used_max(), z.peak(), z.oom_kills()
        if kills:
            self.killed += 1
            note(f'    the OOM killer ended swapbench ({" ".join(map(str, cell[:3]))}) in {((limit or self.limit) + used) / MIB:.0f} MiB, with swap space free')
            return None
        r = parse(p)
        if r:
            r['physical_mib'] = (peak + used) / MIB
        return r

    def ours(self, cell):
        measured, stats = self.b.dir + '/measured', self.b.dir + '/stats.json'
        r = self.b.run(self.swapbench(cell), [self.b.path('sample'), '-o', measured, '--', *self.b.managed(f'{PHYSICAL}M', stats)])
        if r:
            with open(measured) as f:
                r['physical_mib'] = json.load(f)['peak_kib'] / 1024
            if os.path.exists(stats):
                with open(stats) as f:
                    r['stats'] = json.load(f)
        return r

    def find_limit(self):
        """The limit of the group such that it and zram together come to PHYSICAL. Each MiB more for the group saves zram a third."""
        limit = 244 * MIB
        for _ in range(6):
            cell = ('seq', 1, True, 0)
            with zram.Zram(limit) as z:
                p = z.run([*self.swapbench(cell), 'OPS=1'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                total, kills = limit + z.used_max(), z.oom_kills()
            if kills or p.returncode:
                note('    a trial to find the limit was ended by the OOM killer' if kills else '    a trial to find the limit failed')
                continue
            if abs(total - PHYSICAL * MIB) < 2 * MIB:
                break
            limit += int((PHYSICAL * MIB - total) * 1.5) & -4096
        self.limit = limit
        note(f'    kernel: a limit of {limit / MIB:.0f} MiB and zram\'s {(total - limit) / MIB:.0f} MiB are {total / MIB:.0f} MiB')


def bench_swap(b, p99_only=False):
    name = 'p99' if p99_only else 'swap'
    s = Sides(b)
    try:
        s.find_limit()
    except zram.Missing as e:
        b.skip(name, f'no zram baseline: {e}')
        return
    for cell in SWAP:
        if p99_only and cell[0] != 'uniform':
            continue
        pattern, threads, write, target = cell
        what = f'{pattern}, {threads} thread{"s" * (threads > 1)}, {"reads and writes" if write else "reads"}'
        before = s.killed
        ours, theirs = in_turn(b.runs, lambda: s.ours(cell), lambda: s.kernel(cell))
        b.raw['swap ' + what] = ours, theirs
        compare_swap(b, cell, what, ours, theirs, s.killed - before, name)


def compare_swap(b, cell, what, ours, theirs, killed, name):
    target = cell[3]
    deaths = f', {killed} of {len(theirs)} killed' if killed else ''
    t, u = median(ours, 'us_op'), median(theirs, 'us_op')
    if t is None or u is None:
        b.row(name, what, '-' if t is None else f'{t:.2f} us', 'killed' if u is None and killed else '-' if u is None else f'{u:.2f} us', '-',
              f'{target} times faster', t is not None if killed else False)
        return
    note(f'    {what}: physical memory {median(ours, "physical_mib"):.0f} against {median(theirs, "physical_mib"):.0f} MiB; '
         f'us an access {spread(ours, "us_op")} against {spread(theirs, "us_op")}')
    if name == 'swap':
        b.row('swap', what, f'{t:.2f} us', f'{u:.2f} us{deaths}', f'{u / t:.2f}x', f'{target} times faster', u / t >= target)
    for q in ('p50', 'p99', 'max'):
        v, w = median(ours, f'fault_{q}_us'), median(theirs, f'fault_{q}_us')
        counts = cell[0] == 'uniform' and q == 'p99'
        b.row('p99' if counts else name, f'{what}: fault {q}', f'{v:.1f} us', f'{w:.1f} us', f'{w / v if v else 0:.2f}x', 'lower' if counts else '', v < w if counts else None)


# --- devices ---

def devices(b, *args):
    return b.run([b.path('devices'), *args])


def both_sides(b, name, ours, theirs):
    """Runs of devices with these arguments and those, in turn."""
    a, c = in_turn(b.runs, lambda: devices(b, *ours), lambda: devices(b, *theirs))
    b.raw[name + ' ' + ' '.join(ours)] = a, c
    if not any(a) or not any(c):
        raise Failed(f'devices {ours[0]} does not run')
    return a, c


def rounds(b, name, *args):
    """Runs of devices that have both sides in themselves: each figure's median."""
    runs = [devices(b, name, *args) for _ in range(b.runs)]
    b.raw[' '.join((name, *args))] = runs, []
    if not any(runs):
        raise Failed(f'devices {name} does not run')
    return {key: median(runs, key) for key in next(r for r in runs if r)}


def bench_migrate(b):
    for threads in (1, 2):
        for thp, what, target in ((), '64 KiB folios', 0.7), (('thp',), '2 MiB folios', 0.85):
            r = rounds(b, 'migrate', *thp, f'THREADS={threads}')
            what = f'{what}, {threads} thread{"s" * (threads > 1)}'
            for key, way in (('there_gbs', 'there'), ('back_gbs', 'back'), ('gbs', 'there and back')):
                t, u = r[key], r['memcpy_' + key]
                # tdm_pagein() is carried out by one thread, however many ask.
                counts = key == 'gbs' and threads == 1
                ratio = r['ratio'] if key == 'gbs' else t / u
                b.row('migrate', f'{what}: {way}', f'{t:.2f} GB/s', f'{u:.2f} GB/s', f'{ratio * 100:.0f}%', f'at least {target * 100:.0f}%' if counts else '',
                      ratio >= target if counts else None)


def bench_migrate4k(b):
    for every, what in ((16, 'one page of each 16'), (2, 'every other page')):
        r = rounds(b, 'migrate4k', f'EVERY={every}')
        b.row('migrate4k', f'{what}; MOVE + memcpy + DONTNEED', f'{r["ns_page"] / 1e3:.2f} us', f'{r["bare_ns_page"] / 1e3:.2f} us', f'{r["ratio"]:.2f}', 'at most 1.3',
              r['ratio'] <= 1.3)


def bench_gup(b):
    r = rounds(b, 'gup')
    t, u = r['ns_page'], r['all_ns_page']
    b.row('gup', 'gup-fast, a page, one thread', f'{t:.2f} ns', '', '', 'under 15 ns', t < 15)
    # CPUs that are halves of one make 1.3 of a loop that shares nothing; more cannot be asked of this one.
    b.row('gup', 'two threads, to one; a loop that shares nothing', f'{r["ratio"]:.2f}x', f'{r["bare_ratio"]:.2f}x', f'{r["ratio"] / r["bare_ratio"]:.2f}',
          '1.9x, or as the loop', u < 15 and r['ratio'] >= min(1.9, 0.95 * r['bare_ratio']))


def bench_range(b):
    small, huge = both_sides(b, 'range', ['range'], ['range', 'thp'])
    for runs, what, target in ((small, '4 KiB leaves', 10), (huge, '2 MiB leaves', 0.2)):
        t = median(runs, 'ns_page')
        b.row('range', f'a snapshot of 1 GiB by range_fault, {what}, a page', f'{t:.3f} ns', '', '', f'under {target} ns', t < target)


def bench_invalidate(b):
    many, one = both_sides(b, 'invalidate', ['invalidate', 'INTERVALS=100000'], ['invalidate'])
    for key, what, counts in (('ns_near', '64 places that come again', True), ('ns_anywhere', 'anywhere', True), ('ns_beside', 'in the same 2 MiB as a subscriber', False)):
        t, u = median(many, key), median(one, key)
        b.row('invalidate', f'a round that concerns nobody, {what}, one subscriber', f'{u:.1f} ns', '', '', 'under 60 ns', u < 60 if counts else None)
        b.row('invalidate', f'the same, 100,000, to one', f'{t:.1f} ns', f'{u:.1f} ns', f'{t / u:.2f}', 'at most 3', t <= 3 * u if counts else None)


def bench_devfault(b):
    for args, what in ((), 'mapped'), (('home',), 'at home'):
        r = rounds(b, 'fault', *args)
        b.row('devfault', f'a fault of the device, page {what}; soft fault', f'{r["ns_device"] / 1e3:.2f} us', f'{r["ns_soft"] / 1e3:.2f} us', f'{r["ratio"]:.2f}', 'at most 1',
              r['ratio'] <= 1)


def bench_devtouch(b):
    for pages, what in (1, 'a page'), (16, '64 KiB'):
        r = rounds(b, 'touch', f'PAGES={pages}')
        note(f'    {what}: {r["pages_device"]:.1f} pages a touch from the device, {r["pages_soft"]:.1f} from home; copy {r["ns_copy"] / 1e3:.2f} us')
        b.row('devtouch', f'the CPU touches {what} on a device; soft fault + copy', f'{r["ns_device"] / 1e3:.2f} us', f'{(r["ns_soft"] + r["ns_copy"]) / 1e3:.2f} us',
              f'{r["ratio"]:.2f}', 'at most 1.3', r['ratio'] <= 1.3)


SIM_ROWS = {'first level, 4 KiB': 20, 'ten times, looking ahead': 5}


def bench_sim(b):
    """Absolute: there is nothing to compare with but the targets."""
    runs = []
    for _ in range(b.runs):
        out = call([b.path('simbench')], cwd=b.dir, stderr=subprocess.PIPE).stdout.decode()
        runs.append({line[:28].strip(): float(line[28:].split()[0]) for line in out.splitlines() if 'M/s' in line})
    b.raw['sim'] = runs, []
    for what, target in SIM_ROWS.items():
        rate = median(runs, what)
        b.row('sim', f'simulated accesses a second on one core: {what}', f'{rate:.1f} M', '', '', f'at least {target} M', rate >= target)


BENCHES = {
    'fits': ('a program that fits its budget, against the same unmanaged', bench_fits),
    'child': ('starting a small child, against the same unmanaged', bench_child),
    'soft': ('a soft fault, against a bare userfaultfd loop', bench_soft),
    'tiers': ('in and out of lz4, against lz4 itself', bench_tiers),
    'swap': (f'{DATA} MiB in {PHYSICAL} MiB, against kernel swap on zram; and the p99 of a fault', bench_swap),
    'migrate': ('to a soft device and back, against memcpy', bench_migrate),
    'migrate4k': ('single pages to a device, against the bare calls', bench_migrate4k),
    'gup': ('gup-fast', bench_gup),
    'range': ('range_fault, as a snapshot', bench_range),
    'invalidate': ('rounds that concern nobody', bench_invalidate),
    'devfault': ('a fault of the device, against a soft fault', bench_devfault),
    'devtouch': ('a touch of what is on a device, against a soft fault and a copy', bench_devtouch),
    'sim': ('accesses of a simulated CPU', bench_sim),
    'p99': ('only the p99 of a fault under steady pressure (part of swap)', lambda b: bench_swap(b, True)),
}


def table(b):
    head = ('row', 'what', 'tandem', 'baseline', 'ratio', 'target', '')
    rows = [head] + [(*r[:6], {True: 'met', False: 'NOT MET', None: ''}[r[6]]) for r in b.rows]
    widths = [max(len(r[i]) for r in rows if not r[1].startswith('skipped')) for i in range(7)]
    note('')
    for r in rows:
        if r[1].startswith('skipped') or r[1].startswith('failed'):
            note(f'{r[0]:<{widths[0]}}  {r[1]}')
        else:
            note('  '.join(f'{c:>{w}}' if i in (2, 3, 4) else f'{c:<{w}}' for i, (c, w) in enumerate(zip(r, widths))).rstrip())
    counted = [r[6] for r in b.rows if r[6] is not None]
    note(f'\n{sum(counted)} of {len(counted)} targets met; medians of {b.runs} run{"s" * (b.runs != 1)} of each side'
         f' on {os.cpu_count()} CPUs, Linux {os.uname().release}')


def arguments(b, argv):
    while argv:
        a = argv.pop(0)
        if a == '--only' and argv:
            b.only.append(argv.pop(0))
        elif a == '--json' and argv:
            b.json = os.path.abspath(argv.pop(0))
        elif a.startswith('--tandem='):
            b.tandem = a.split('=', 1)[1].split()
        elif a == '--quick':
            b.runs = 1
        elif a == '--list':
            for name, (what, _) in BENCHES.items():
                note(f'{name:<11}{what}')
            raise SystemExit(0)
        elif a.startswith('-'):
            raise Failed(f'unknown option {a}; there are --only ROW, --quick, --json FILE, --list')
        else:
            b.build = a
    for name in b.only:
        if name not in BENCHES:
            raise Failed(f"--only: there is no row '{name}', only " + ' '.join(BENCHES))
    if b.runs < 1:
        raise Failed('BENCH_RUNS must be at least 1')
    if not b.tandem:
        at = [p for p in (os.path.join(b.build, 'tandem'), os.path.join(b.build, 'src', 'tandem')) if os.access(p, os.X_OK)]
        if not at:
            raise Failed(f'there is no tandem in {b.build}: run make first')
        b.tandem = [os.path.abspath(at[0])]


def stop(signum, _):
    raise SystemExit(128 + signum)


def main(argv):
    b, rc = Bench(), 0
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, stop)
    try:
        arguments(b, argv)
        b.dir = tempfile.mkdtemp(prefix='tandem-bench.', dir=os.environ.get('TMPDIR') or '/var/tmp')
        for name, (what, fn) in BENCHES.items():
            if name in b.only or (not b.only and name != 'p99'):
                note(f'{name}: {what}')
                try:
                    fn(b)
                except (Failed, OSError, subprocess.CalledProcessError) as e:
                    rc = 1
                    b.rows.append((name, f'failed: {e}', '', '', '', '', None))
                    note(f'    failed: {e}')
        table(b)
        if b.json:
            with open(b.json, 'w') as f:
                json.dump({'rows': b.rows, 'raw': b.raw}, f, indent=1)
    except (Failed, ValueError) as e:
        print(f'bench: {e}', file=sys.stderr)
        return 2
    finally:
        if b.dir:
            shutil.rmtree(b.dir, ignore_errors=True)
    return rc


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
