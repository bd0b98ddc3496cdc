#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""demo.py [BUILD] [--tandem=COMMAND] - see demo.sh.

Each program runs unmanaged, then under `tandem run` with a budget of a quarter of the peak that it had. Peaks are Pss of the whole process
tree (tandem included), as the kernel reports it. Exits 1 if a program fails, an output differs, or a peak exceeds its budget by more
than SLACK.
"""
import json
import os
import shutil
import signal
import sys
import tempfile
import time

import workloads
from workloads import Failed

DIVISOR = 4
SLACK = 0.02, 4 << 10  # a share of the budget, and KiB
TIMEOUT = 600          # seconds for one run


def option(argv, name, default):
    for a in list(argv):
        if a.startswith(name + '='):
            argv.remove(a)
            return a[len(name) + 1:]
    return default


def number(name, default):
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.01 <= value <= 100:
        raise Failed(f"{name}={text}: not a number from 0.01 to 100")
    return value


def executable(path, hint):
    if not os.access(path, os.X_OK):
        raise Failed(f'{path} is missing: {hint}')
    return os.path.abspath(path)


def say(text, end='\n'):
    print(text, end=end, flush=True)


def choose(scale):
    text, index, part, functions = 300 * scale, 150 * scale, 200 * scale, max(2, round(45 * scale))
    chosen = workloads.programs(text, index, part, functions)
    only = os.environ.get('DEMO_ONLY', '').split()
    for name in only:
        if name not in [p.name for p in chosen]:
            raise Failed(f"DEMO_ONLY: there is no '{name}', only " + ' '.join(p.name for p in chosen))
    chosen = [p for p in chosen if p.name in only or (not only and not p.slow)]
    workloads.check_present(chosen)
    return chosen, (text, part, functions)


def prepare(directory, sizes):
    text, part, functions = sizes
    free = shutil.disk_usage(directory).free >> 20
    if free < 4 * text + 200:
        raise Failed(f'{os.path.dirname(directory)} has {free} MiB free, {4 * text + 200:.0f} MiB are needed (set TMPDIR)')
    say(f'Making a text of {text:.0f} MiB from the files of this machine ... ', end='')
    t0 = time.monotonic()
    workloads.make_text(directory, text)
    workloads.make_part(directory, part)
    workloads.make_sources(directory, functions)
    say(f'{time.monotonic() - t0:.1f} s')


def show(program, directory, sampler, tandem):
    """Both runs of one program. Returns a row of the table."""
    say(f'{program.name}: {program.what}')
    bare = workloads.run(program, directory, sampler, timeout=TIMEOUT)
    say(f'  unmanaged  {bare["wall_s"]:6.1f} s in {bare["peak_kib"] / 1024:6.0f} MiB')
    budget = bare['peak_kib'] // DIVISOR
    stats = os.path.join(directory, 'stats.json')
    if os.path.exists(stats):
        os.unlink(stats)
    say(f'  in {budget / 1024:4.0f} MiB  ', end='')
    row = {'program': program.name, 'bare': bare, 'budget': budget, 'problems': []}
    try:
        front = [*tandem, 'run', '--ram', f'{budget}K', '--stats', stats, '--quiet', '--']
        managed = row['managed'] = workloads.run(program, directory, sampler, front, TIMEOUT)
    except Failed as e:
        say('failed')
        row['problems'].append(str(e))
        return row
    row['stats'] = {}
    if os.path.exists(stats):
        with open(stats) as f:
            row['stats'] = json.load(f)
    row['same'] = managed['digest'] == bare['digest']
    if not row['same']:
        row['problems'].append(f'{program.name}: the output differs')
    if managed['peak_kib'] > budget * (1 + SLACK[0]) + SLACK[1]:
        row['problems'].append(f'{program.name}: peak {managed["peak_kib"] / 1024:.1f} MiB exceeds the budget of {budget / 1024:.1f} MiB')
    say(f'{managed["wall_s"]:6.1f} s in {managed["peak_kib"] / 1024:6.0f} MiB, output {"identical" if row["same"] else "DIFFERENT"}')
    for line in managed['said'][-3:]:
        say(f'  {line}')
    return row


def table(rows):
    say('')
    say(f'{"program":<9}{"unmanaged":>12}{"budget":>10}{"peak in it":>12}{"time":>18}{"ratio":>8}{"packed":>9}  output')
    for r in rows:
        line = f'{r["program"]:<9}{r["bare"]["peak_kib"] / 1024:>8.0f} MiB{r["budget"] / 1024:>6.0f} MiB'
        m = r.get('managed')
        if not m:
            say(line + '  failed')
            continue
        packed = r['stats'].get('ratio')
        times = f'{r["bare"]["wall_s"]:.1f} -> {m["wall_s"]:.1f} s'
        say(line + f'{m["peak_kib"] / 1024:>8.0f} MiB{times:>18}{m["wall_s"] / r["bare"]["wall_s"]:>7.1f}x'
            + (f'{packed:>7.1f}:1' if packed else f'{"-":>9}') + ('  identical' if r['same'] else '  DIFFERENT'))
    say('')


def stop(signum, _):
    raise SystemExit(128 + signum)


def main(argv):
    started, directory, rows = time.monotonic(), None, []
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, stop)
    try:
        tandem = option(argv, '--tandem', None)
        raw = option(argv, '--json', None)
        build = argv[0] if argv else 'build'
        sampler = executable(os.path.join(build, 'bench', 'sample'), 'run make first')
        tandem = tandem.split() if tandem else [executable(os.path.join(build, 'tandem') if os.path.exists(os.path.join(build, 'tandem'))
                                                           else os.path.join(build, 'src', 'tandem'), 'run make first')]
        chosen, sizes = choose(number('DEMO_SCALE', 1))
        base = os.environ.get('TMPDIR') or '/var/tmp'
        if not os.access(base, os.W_OK):
            raise Failed(f'{base} cannot be written (set TMPDIR)')
        directory = tempfile.mkdtemp(prefix='tandem-demo.', dir=base)
        prepare(directory, sizes)
        rows = [show(p, directory, sampler, tandem) for p in chosen]
    except (Failed, OSError) as e:
        print(f'demo: {e}', file=sys.stderr)
        return 2
    finally:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)
    table(rows)
    if raw:
        with open(raw, 'w') as f:
            json.dump(rows, f, indent=1)
    problems = [p for r in rows for p in r['problems']]
    for p in problems:
        print(f'demo: {p}', file=sys.stderr)
    say(f'{len(rows)} programs in {time.monotonic() - started:.0f} s, ' +
        ('all outputs identical, all within a quarter of their memory' if not problems else f'{len(problems)} problems'))
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
