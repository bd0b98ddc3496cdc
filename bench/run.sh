#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh [BUILD] [--only ROW]... [--quick] - the table of `make bench`; see docs/performance.md. BENCH_RUNS=N: runs of each side (5).
set -eu
command -v python3 >/dev/null 2>&1 || { echo "bench: python3 is missing: apt-get install python3" >&2; exit 2; }
exec python3 -B "$(dirname "$0")/run.py" "$@"
