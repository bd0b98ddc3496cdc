#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tap-sum.py [--add PASSED FAILED SKIPPED] BUILDDIR... - sum the last "meson test" of each build directory into one line:
N passed, N failed, N skipped.

Every point of a TAP test counts as one; so does a test that speaks no TAP. A TAP test that ends before its plan, or fails although all
of its points are good, counts as one more failure. The exit status is 0 if nothing failed and something ran.
"""
import json
import re
import sys

POINT = re.compile(r"^(not )?ok\b[^#]*(?:#\s*(skip|todo)\b)?", re.I)
PLAN = re.compile(r"^1\.\.(\d+)")


def points(test):
    """(passed, failed, skipped) of one entry of meson's log."""
    result = test["result"]
    tap = [l for l in (test.get("stdout") or "").splitlines() if POINT.match(l) or PLAN.match(l)]
    if not tap:
        return (result == "OK", result not in ("OK", "SKIP"), result == "SKIP")
    count = [0, 0, 0]
    plan = None
    for line in tap:
        if PLAN.match(line):
            plan = int(PLAN.match(line).group(1))
            continue
        bad, directive = POINT.match(line).groups()
        count[2 if (directive or "").lower() == "skip" else 1 if bad and not directive else 0] += 1
    if plan is None or plan > sum(count) or (count[1] == 0 and result not in ("OK", "SKIP")):
        count[1] += 1
    return tuple(count)


def failures(test):
    """The bad points of a TAP test with what they say. (meson itself shows everything but the TAP.)"""
    shown, bad = [], False
    for line in (test.get("stdout") or "").splitlines():
        if POINT.match(line):
            bad = line.startswith("not")
        if bad:
            shown.append("    " + line)
    return shown


def main(dirs):
    total = [0, 0, 0]
    if dirs[:1] == ["--add"]:
        total = [int(n) for n in dirs[1:4]]
        dirs = dirs[4:]
    for build in dirs:
        try:
            with open(f"{build}/meson-logs/testlog.json", encoding="utf-8") as log:
                tests = [json.loads(line) for line in log]
        except FileNotFoundError:
            print(f"{build}: no test log", file=sys.stderr)
            total[1] += 1
            continue
        for test in tests:
            count = points(test)
            total = [a + b for a, b in zip(total, count)]
            if count[1]:
                print(f"failed: {test['name']} in {build} ({test['result']})")
                print("\n".join(failures(test)))
    print("{} passed, {} failed, {} skipped".format(*total))
    return 0 if total[1] == 0 and sum(total) > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
