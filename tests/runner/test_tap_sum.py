#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""test_tap_sum.py - tap-sum.py counts what it is shown, and never takes a broken run for a good one."""
import json
import os
import subprocess
import sys
import tempfile

SUM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tap-sum.py")

CASES = [  # what, entries of meson's log (None: there is no log), last line, exit status
    ("points are counted", [("OK", "1..3\nok 1 - a\nok 2 - b # SKIP no\nok - c\n")], "2 passed, 0 failed, 1 skipped", 0),
    ("suites are summed", [("OK", "1..1\nok 1 - a\n"), ("FAIL", "1..2\nok 1 - a\nnot ok 2 - b\n")], "2 passed, 1 failed, 0 skipped", 1),
    ("a test without TAP is one point", [("OK", "hello\n"), ("SKIP", ""), ("FAIL", None)], "1 passed, 1 failed, 1 skipped", 1),
    ("a plan that is not met is a failure", [("ERROR", "1..3\nok 1 - a\n")], "1 passed, 1 failed, 0 skipped", 1),
    ("a missing plan is a failure", [("ERROR", "ok 1 - a\n")], "1 passed, 1 failed, 0 skipped", 1),
    ("a plan at the end is a plan", [("OK", "ok 1 - a\n1..1\n")], "1 passed, 0 failed, 0 skipped", 0),
    ("a bad end after good points is a failure", [("ERROR", "1..1\nok 1 - a\n")], "1 passed, 1 failed, 0 skipped", 1),
    ("a time limit is a failure", [("TIMEOUT", "")], "0 passed, 1 failed, 0 skipped", 1),
    ("nothing run is not success", [], "0 passed, 0 failed, 0 skipped", 1),
    ("no log is a failure", None, "0 passed, 1 failed, 0 skipped", 1),
]

print(f"1..{len(CASES)}")
bad = 0
for what, entries, line, status in CASES:
    with tempfile.TemporaryDirectory() as build:
        if entries is not None:
            os.mkdir(f"{build}/meson-logs")
            with open(f"{build}/meson-logs/testlog.json", "w", encoding="utf-8") as log:
                for result, out in entries:
                    log.write(json.dumps({"name": "t", "result": result, "stdout": out}) + "\n")
        r = subprocess.run([sys.executable, SUM, build], capture_output=True, text=True, check=False)
    good = r.returncode == status and r.stdout.splitlines()[-1:] == [line]
    bad += not good
    print(f"{'' if good else 'not '}ok - {what}")
    if not good:
        print(f"# exit status {r.returncode}, not {status}; {r.stdout!r}, not {line!r}")
sys.exit(bad != 0)
