#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py --build DIR [--minutes N] [--seeds N,N...] [--libfuzzer] - fuzz for as long as you like, on all CPUs.

Scripts against the model first: of --minutes three quarters go to random ones, shared by the seeds, each a range of scripts of its own; before that all small worlds, one step deeper than in CI,
as far as half of a quarter lasts; then changed files for the readers. A failure is printed as a scenario, made as small as it gets, and written to DIR/fuzz. The last line says how many
operations there were.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COUNT = re.compile(r"(\d+) scripts, (\d+) operations, .*?; ([\d.]+) CPU seconds")
READ = re.compile(r"^(\d+) files, \d+ of them taken", re.M)
SCRIPTS_A_SEED = 10**9


def run(command, seconds):
    """(exit status, output); a command that does not end by itself is ended."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False)
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as e:
        return 0, (e.stdout or b"").decode(errors="replace")


def jobs(args, build, save):
    """(what, command, seconds)"""
    total = args.minutes * 60 * os.cpu_count()
    space, readers = str(build / "fuzz-space"), str(build / "fuzz-readers")
    worlds = subprocess.run([space, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    seeds = [int(s) for s in args.seeds.split(",")]
    for world in worlds:
        depth = 2 if world == "failures" else 3
        each = max(10, total // 8 // len(worlds))
        yield f"world {world}", [space, "--domain", world, "--depth", str(depth), "--seconds", str(each), "--save", save], each + 600
    each = max(1, total * (6 if args.libfuzzer else 12) // 16 // len(seeds))
    for seed in seeds:
        yield f"seed {seed}", [space, "--seed", str(seed * SCRIPTS_A_SEED), "--seconds", str(each), "--ops", str(200 if seed % 2 else 800), "--save", save], each + 600
    files = [str(f) for f in sorted((ROOT / "examples/sim").glob("*.sim")) + sorted((HERE / "found").glob("*.sim"))]
    files += [str(ROOT / "examples/sim/costs.txt"), str(ROOT / "tests/unit/data/lackey.txt"), str(HERE / "seeds/costs.txt"), str(HERE / "seeds/plain.txt"), str(HERE / "seeds/script.sim")]
    yield "readers", [readers, "--seed", str(seeds[0] * SCRIPTS_A_SEED), "--seconds", str(max(1, total // 8)), *files], total // 8 + 60
    for name in ("lib-script", "lib-readers") if args.libfuzzer else ():
        corpus = f"{save}/{name}"
        os.makedirs(corpus, exist_ok=True)
        lib = max(1, total * 3 // 16)
        yield name, [str(build / name), f"-max_total_time={lib}", "-max_len=6000", "-timeout=60", f"-artifact_prefix={save}/", corpus], lib + 120


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--seeds", default=",".join(str(s) for s in range(1, 11)))
    parser.add_argument("--libfuzzer", action="store_true", help="as well; it needs clang, and has all of the engine compiled once more")
    args = parser.parse_args()
    build = pathlib.Path(args.build).resolve() / "tests/fuzz"
    save = str(pathlib.Path(args.build).resolve() / "fuzz")
    os.makedirs(save, exist_ok=True)
    targets = ["tests/fuzz/fuzz-space", "tests/fuzz/fuzz-readers"] + (["tests/fuzz/lib-script", "tests/fuzz/lib-readers"] if args.libfuzzer else [])
    subprocess.run(["ninja", "-C", args.build, "--quiet", *targets], check=True)
    operations, scripts, files, cpu, failed, begin = 0, 0, 0, 0.0, 0, time.time()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(run, command, seconds): what for what, command, seconds in jobs(args, build, save)}
        for done in concurrent.futures.as_completed(running):
            status, output = done.result()
            for m in COUNT.finditer(output):
                scripts, operations, cpu = scripts + int(m[1]), operations + int(m[2]), cpu + float(m[3])
            files += sum(int(m[1]) for m in READ.finditer(output))
            failed += status != 0
            print(f"--- {running[done]}: {'FAILED' if status else 'ok'}\n{output if status else output[-300:]}", flush=True)
    print(f"{scripts} scripts, {operations} operations, {cpu / 60:.1f} CPU minutes; {files} changed files; {(time.time() - begin) / 60:.1f} minutes: "
          f"{'nothing differs' if not failed else f'{failed} FAILED, see {save}'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
