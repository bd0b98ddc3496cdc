#!/bin/sh
# SPDX-License-Identifier: MIT
# demo.sh [BUILD] - what `make run` shows: real programs, first unmanaged, then in a quarter of their memory.
# DEMO_SCALE=0.2 makes everything smaller (1: several hundred MiB each). DEMO_ONLY="sort g++" runs some of them only (g++ and words, which use all of their memory at random, run only so).
set -eu
command -v python3 >/dev/null 2>&1 || { echo "demo: python3 is missing: apt-get install python3" >&2; exit 2; }
exec python3 -B "$(dirname "$0")/demo.py" "$@"
